//! Who is in a namespace, and what nobody has any more.
//!
//! iceoryx2 finds what a dead participant had by tags that it writes beside each thing. What one was killed over while making
//! it, or while cleaning up, it may not find: that lies there for ever, and two kinds of it keep others out (see
//! [`remove_half_made`]). That a file is nobody's is certain where nobody is there, and that is what a lock tells: every
//! participant holds it, shared, until it leaves or its process ends, however it ends. Who gets it alone removes all that
//! the namespace has left. So the first who comes to a namespace finds it empty; behind those who are killed while others are
//! there some files of a page or less may stay until all have left.
//!
//! The lock lies in `/dev/shm`, beside the files it speaks of: their names say the namespace, but not through which folder
//! processes meet. It holds across containers, where numbers of processes say nothing.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use iceoryx2::config::Config;
use iceoryx2::node::{Node, NodeState};
use iceoryx2::prelude::{CallbackProgression, ipc};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, test_kill_process};

use crate::config::SHARED_MEMORY_DIR;
use crate::error::BusError;
use crate::name::BusName;

/// What the lock is called, behind the namespace's prefix: as iceoryx2's own file that stays, its counter.
const LOCK: &str = "present.global_mgmt";

/// Between the two looks at what seems to be half made: the calls that make or remove it follow right upon each other, and who
/// takes longer has ended, or was stopped.
const HALF_MADE_AFTER: Duration = Duration::from_secs(1);
/// A file that has had no size for so long gets none any more, whatever number its maker had.
const NEVER_MADE_AFTER: Duration = Duration::from_secs(10);

/// Who has the lock alone gives it back after milliseconds, unless it was stopped.
const ALONE_MAX: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The lock, held.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child that another thread has just forked has the same open file until it executes its program.
        // What cannot be unlocked is closed all the same.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// This process's part in a namespace.
#[derive(Debug)]
struct Part {
    /// Held shared.
    _lock: Lock,
    participants: usize,
}

/// By prefix. Locked while something is removed, so that no thread of this process comes in meanwhile.
static PARTS: LazyLock<Mutex<HashMap<String, Part>>> = LazyLock::new(Mutex::default);

fn parts() -> MutexGuard<'static, HashMap<String, Part>> {
    // Whole at every moment.
    PARTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One participant; to be dropped after all that it has there.
#[derive(Debug)]
pub(crate) struct Presence(String);

impl Presence {
    /// To be called before anything is made in the namespace of `name`. The first who comes removes what is left there.
    pub(crate) fn enter(name: &BusName) -> Result<Self, BusError> {
        let begun = Instant::now();
        loop {
            if let Some(presence) = Self::try_enter(name)? {
                return Ok(presence);
            }
            if begun.elapsed() >= ALONE_MAX {
                let cause = format!("it has had {} alone for {ALONE_MAX:?}", lock_path(name).display());
                return Err(BusError::Busy { service: name.namespace().to_owned(), cause });
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// `None` while another has it alone.
    fn try_enter(name: &BusName) -> Result<Option<Self>, BusError> {
        let prefix = name.prefix();
        let mut parts = parts();
        if let Some(part) = parts.get_mut(&prefix) {
            part.participants += 1;
            return Ok(Some(Self(prefix)));
        }
        if let Some(alone) = lock(name, FlockOperation::NonBlockingLockExclusive)? {
            remove_all(name);
            drop(alone);
        }
        let Some(lock) = lock(name, FlockOperation::NonBlockingLockShared)? else { return Ok(None) };
        parts.insert(prefix.clone(), Part { _lock: lock, participants: 1 });
        Ok(Some(Self(prefix)))
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut parts = parts();
        if let Some(part) = parts.get_mut(&self.0) {
            part.participants -= 1;
            if part.participants == 0 {
                parts.remove(&self.0);
            }
        }
    }
}

/// Removes what is left of the namespace of `name` if nobody is in it; how many files that were.
pub(crate) fn remove_abandoned(name: &BusName) -> Result<u64, BusError> {
    let parts = parts();
    if parts.contains_key(&name.prefix()) {
        return Ok(0);
    }
    let Some(alone) = lock(name, FlockOperation::NonBlockingLockExclusive)? else { return Ok(0) };
    let removed = remove_all(name);
    // Last: who has opened it and gets it now finds that it is gone, and makes one anew.
    let _ = std::fs::remove_file(lock_path(name));
    drop((alone, parts));
    Ok(removed)
}

fn lock_path(name: &BusName) -> PathBuf {
    Path::new(SHARED_MEMORY_DIR).join(name.prefix() + LOCK)
}

/// Opens the lock, making it where it is not there, and takes it; `None` where others have it. `operation` does not wait.
fn lock(name: &BusName, operation: FlockOperation) -> Result<Option<Lock>, BusError> {
    let path = lock_path(name);
    let attempt = || -> std::io::Result<Option<Lock>> {
        let file = match OpenOptions::new().read(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Other users' processes may have a namespace of this name under a folder of theirs; they only read.
                let file =
                    OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(&path)?;
                file.set_permissions(Permissions::from_mode(0o644))?;
                file
            }
            Err(error) => return Err(error),
        };
        flock(&file, operation)?;
        let lock = Lock(file);
        // Who removes all takes the lock along: what was opened before says nothing any more.
        let same = path.metadata()?.ino() == lock.0.metadata()?.ino();
        Ok(same.then_some(lock))
    };
    loop {
        match attempt() {
            Ok(Some(lock)) => return Ok(Some(lock)),
            // Somebody made it, or took it along, meanwhile.
            Ok(None) => {}
            Err(error) => match error.kind() {
                ErrorKind::AlreadyExists | ErrorKind::NotFound | ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock => return Ok(None),
                _ => {
                    let cause = format!("{}: {error}", path.display());
                    return Err(BusError::Internal { doing: "taking part in the namespace", cause });
                }
            },
        }
    }
}

/// To be called by who has the lock alone. Returns how many files were removed; that of the lock stays.
fn remove_all(name: &BusName) -> u64 {
    let (prefix, lock) = (name.prefix(), lock_path(name));
    // Of a release that knew no lock, perhaps.
    if anybody_lives(name) {
        return 0;
    }
    // What cannot be listed is left alone.
    let entries = |folder: &Path, prefix: &str| entries(folder, prefix).unwrap_or_default();
    let shared = entries(Path::new(SHARED_MEMORY_DIR), &prefix).into_iter().filter(|path| *path != lock);
    let mut removed = shared.filter(|path| std::fs::remove_file(path).is_ok()).count() as u64;
    // Below the root: sockets in it, services one further down, nodes two.
    let mut level = vec![name.root().to_owned()];
    for depth in 0..3 {
        for folder in &level {
            let ours = entries(folder, &prefix);
            removed += ours.iter().filter(|path| std::fs::remove_file(path).is_ok()).count() as u64;
            // A node's own; those above it are everybody's. Not where other namespaces have something in it.
            if !ours.is_empty() && depth == 2 {
                let _ = std::fs::remove_dir(folder);
            }
        }
        level = level.iter().flat_map(|folder| entries(folder, "")).filter(|path| path.is_dir()).collect();
    }
    removed
}

/// Whether a node of iceoryx2 lives there, or one whose state cannot be told.
fn anybody_lives(name: &BusName) -> bool {
    let Ok(config) = name.iceoryx_config() else { return true };
    let mut living = false;
    let listed = Node::<ipc::Service>::list(&config, |node| {
        living |= !matches!(node, NodeState::Dead(_));
        CallbackProgression::Continue
    });
    living || listed.is_err()
}

/// Removes what keeps others out, or holds them up, while it is there, and whose maker is dead:
///
/// * A file in `/dev/shm` without a size. Whoever opens one waits for ever for it to get one (iceoryx2 0.10,
///   `dynamic_storage::posix_shared_memory`): those who attach, who send, who clean up. Its name has the numbers of the
///   processes it is of. (One that lives where it cannot be seen, in another container, has a second for two system calls.) After
///   [`NEVER_MADE_AFTER`] it is removed whatever they say: the number may be another's by now.
/// * The description of a service that is of no node: who makes one, or opens it, has finished its node's tag first and removes
///   it last. It was begun and not finished, or its last participant died over removing it; either way nobody can open or
///   make it. (Who is removing one in order has a second for it, however long it was there.)
///
/// It has to be so at two looks, [`HALF_MADE_AFTER`] apart: whatever comes after this would wait for it longer. What cannot be
/// looked at is left alone.
pub(crate) fn remove_half_made(name: &BusName, config: &Config) {
    let lock = lock_path(name);
    let sizeless = sizeless(name, &lock).unwrap_or_default();
    let of_nobody = of_nobody(name, config).unwrap_or_default();
    if sizeless.is_empty() && of_nobody.is_empty() {
        return;
    }
    std::thread::sleep(HALF_MADE_AFTER);
    for path in sizeless {
        if path.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            let _ = std::fs::remove_file(&path);
        }
    }
    let still = self::of_nobody(name, config).unwrap_or_default();
    for path in of_nobody.into_iter().filter(|found| still.contains(found)) {
        let _ = std::fs::remove_file(path.0);
    }
}

/// The files in `/dev/shm` without a size whose maker is dead.
fn sizeless(name: &BusName, lock: &Path) -> std::io::Result<Vec<PathBuf>> {
    let prefix = name.prefix();
    let mut found = entries(Path::new(SHARED_MEMORY_DIR), &prefix)?;
    found.retain(|path| {
        let Some(metadata) = path.metadata().ok().filter(|metadata| metadata.len() == 0 && path != lock)
        else {
            return false;
        };
        let age = metadata.modified().ok().and_then(|begun| begun.elapsed().ok());
        age.is_some_and(|age| age >= NEVER_MADE_AFTER) || maker_is_dead(path, &prefix)
    });
    Ok(found)
}

/// The descriptions of services that no node has a tag of, with the number of the file.
fn of_nobody(name: &BusName, config: &Config) -> std::io::Result<Vec<(PathBuf, u64)>> {
    let global = &config.global;
    let (services, nodes) = (global.service.directory.to_string(), global.node.directory.to_string());
    let (suffix, tag) =
        (global.service.static_config_storage_suffix.to_string(), global.node.service_tag_suffix.to_string());
    let mut found = Vec::new();
    for path in entries(&name.root().join(services), &name.prefix())? {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(service) = file.strip_suffix(&suffix) else { continue };
        let Some(metadata) = metadata(&path)? else { continue };
        let tag = format!("{service}{tag}");
        let mut tagged = false;
        for node in entries(&name.root().join(&nodes), "")? {
            // One that was begun, which nobody may write to any more when it is finished, is no tag.
            tagged |= self::metadata(&node.join(&tag))?.is_some_and(|metadata| metadata.mode() & 0o200 == 0);
        }
        if !tagged {
            found.push((path, metadata.ino()));
        }
    }
    Ok(found)
}

/// Whether one of the processes that are in the name of a file is gone: `<prefix><hash>_<id>.<suffix>`, and a connection has
/// the ids of both its ends. An id is from the lowest bit on: seconds, nanoseconds, the process and a counter, of 32 bits each.
fn maker_is_dead(path: &Path, prefix: &str) -> bool {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let ids = file.strip_prefix(prefix).and_then(|rest| rest.split_once('.')).map_or("", |(ids, _)| ids);
    ids.split('_').skip(1).filter_map(|id| id.parse::<u128>().ok()).any(|id| {
        let process = (id >> 64) as u32 as i32;
        Pid::from_raw(process)
            .is_some_and(|process| test_kill_process(process) == Err(rustix::io::Errno::SRCH))
    })
}

/// `None` of what is not there.
fn metadata(path: &Path) -> std::io::Result<Option<Metadata>> {
    match path.metadata() {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The entries of `folder` whose names begin with `prefix`, all of them; none where there is no such folder.
fn entries(folder: &Path, prefix: &str) -> std::io::Result<Vec<PathBuf>> {
    let listed = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut entries = Vec::new();
    for entry in listed {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            entries.push(entry.path());
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use matchtape_schemas::TapeId;

    use super::*;

    fn name(folder: &Path, test: &str) -> BusName {
        BusName::with_root(&format!("{test}-{}", std::process::id()), TapeId(1), folder).unwrap()
    }

    #[test]
    fn a_description_stays_while_it_cannot_be_told_or_comes_to_be_somebodys_and_goes_when_it_is_nobodys() {
        let folder = tempfile::tempdir().unwrap();
        let name = name(folder.path(), "described");
        let config = name.iceoryx_config().unwrap();
        let (service, node) = (&config.global.service, &config.global.node);
        let services = folder.path().join(service.directory.to_string());
        let nodes = folder.path().join(node.directory.to_string());
        std::fs::create_dir_all(&services).unwrap();
        let description =
            services.join(format!("{}1{}", name.prefix(), service.static_config_storage_suffix));
        // It has been there for long.
        let file = File::create(&description).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(3600)).unwrap();
        // As where no more files can be opened.
        File::create(&nodes).unwrap();
        remove_half_made(&name, &config);
        assert!(description.exists(), "the nodes could not be listed");
        std::fs::remove_file(&nodes).unwrap();
        let its_node = nodes.join("1");
        std::fs::create_dir_all(&its_node).unwrap();
        let tag = its_node.join(format!("{}1{}", name.prefix(), node.service_tag_suffix));
        std::thread::scope(|scope| {
            let removing = scope.spawn(|| remove_half_made(&name, &config));
            std::thread::sleep(HALF_MADE_AFTER / 3);
            File::create(&tag).unwrap().set_permissions(Permissions::from_mode(0o444)).unwrap();
            removing.join().unwrap();
        });
        assert!(description.exists(), "it had a tag at the second look");
        std::fs::remove_file(&tag).unwrap();
        remove_half_made(&name, &config);
        assert!(!description.exists(), "it is of no node");
    }

    #[test]
    fn a_file_that_gets_no_size_goes_though_its_maker_seems_to_live() {
        let folder = tempfile::tempdir().unwrap();
        let name = name(folder.path(), "sizeless");
        let config = name.iceoryx_config().unwrap();
        let path = Path::new(SHARED_MEMORY_DIR).join(format!(
            "{}1_{}.data",
            name.prefix(),
            u128::from(std::process::id()) << 64
        ));
        let file = File::create(&path).unwrap();
        remove_half_made(&name, &config);
        assert!(path.exists(), "it was begun just now");
        file.set_modified(std::time::SystemTime::now() - NEVER_MADE_AFTER).unwrap();
        remove_half_made(&name, &config);
        assert!(!path.exists(), "it is there for long");
    }

    #[test]
    fn a_lock_that_was_given_back_is_free_though_a_forked_child_has_it_and_one_held_alone_is_not_waited_for()
    {
        let folder = tempfile::tempdir().unwrap();
        let name = name(folder.path(), "locked");
        let presence = Presence::enter(&name).unwrap();
        // The same open file, as a child has it before it executes its program.
        let of_the_child = parts()[&name.prefix()]._lock.0.try_clone().unwrap();
        drop(presence);
        let alone = lock(&name, FlockOperation::NonBlockingLockExclusive).unwrap().expect("nobody has it");
        drop(of_the_child);
        // Others wait for a moment, not for as long as that.
        let (sender, refused) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| sender.send(Presence::enter(&name).map(drop)).unwrap());
            let refused = refused.recv_timeout(Duration::from_secs(30));
            drop(alone);
            assert!(matches!(refused, Ok(Err(BusError::Busy { .. }))), "{refused:?}");
        });
        assert_eq!(remove_abandoned(&name).unwrap(), 0);
        assert!(!lock_path(&name).exists());
    }
}
