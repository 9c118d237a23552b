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
use std::fs::{File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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

/// Making a file and giving it its size are two calls, one right after the other: who takes longer has ended, or was stopped.
const HALF_MADE_AFTER: Duration = Duration::from_secs(1);

/// This process's part in a namespace.
#[derive(Debug)]
struct Part {
    /// Held shared.
    _lock: File,
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
        let prefix = name.prefix();
        let mut parts = parts();
        if let Some(part) = parts.get_mut(&prefix) {
            part.participants += 1;
            return Ok(Self(prefix));
        }
        if let Some(alone) = lock(name, FlockOperation::NonBlockingLockExclusive)? {
            remove_all(name);
            drop(alone);
        }
        // Waits for one who removes, which takes milliseconds.
        let lock = lock(name, FlockOperation::LockShared)?.expect("it was waited for");
        parts.insert(prefix.clone(), Part { _lock: lock, participants: 1 });
        Ok(Self(prefix))
    }

    /// Of one who stays until the process ends.
    pub(crate) fn stay(self) {
        std::mem::forget(self);
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
    // Last: who comes now waits for it, and makes one anew.
    let _ = std::fs::remove_file(lock_path(name));
    drop((alone, parts));
    Ok(removed)
}

fn lock_path(name: &BusName) -> PathBuf {
    Path::new(SHARED_MEMORY_DIR).join(name.prefix() + LOCK)
}

/// Opens the lock, making it where it is not there, and takes it; `None` where others have it and it was not to be waited for.
fn lock(name: &BusName, operation: FlockOperation) -> Result<Option<File>, BusError> {
    let path = lock_path(name);
    let attempt = || -> std::io::Result<Option<File>> {
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
        // Who removes all takes the lock along: what was waited for then says nothing any more.
        let same = path.metadata()?.ino() == file.metadata()?.ino();
        Ok(same.then_some(file))
    };
    loop {
        match attempt() {
            Ok(Some(file)) => return Ok(Some(file)),
            // Somebody made it, or took it along, meanwhile.
            Ok(None) => {}
            Err(error) if [ErrorKind::AlreadyExists, ErrorKind::NotFound].contains(&error.kind()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => {
                let cause = format!("{}: {error}", path.display());
                return Err(BusError::Internal { doing: "taking part in the namespace", cause });
            }
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
    let shared = entries(Path::new(SHARED_MEMORY_DIR), &prefix).into_iter().filter(|path| *path != lock);
    let mut removed = shared.filter(|path| std::fs::remove_file(path).is_ok()).count() as u64;
    // Below the root: sockets in it, services one further down, nodes two.
    let mut level = vec![name.root().to_owned()];
    for _ in 0..3 {
        for folder in &level {
            let ours = entries(folder, &prefix);
            removed += ours.iter().filter(|path| std::fs::remove_file(path).is_ok()).count() as u64;
            if !ours.is_empty() && folder != name.root() {
                // Not where other namespaces have something in it.
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
///   processes it is of. (One that lives where it cannot be seen, in another container, has a second for two system calls.)
/// * The description of a service that is of no node: who makes one, or opens it, has finished its node's tag first and removes
///   it last. It was begun and not finished, or its last participant died over removing it; either way nobody can open or
///   make it. (Who is removing one in order has a second for it, too.)
///
/// What is too young is waited for: whatever comes after this would wait for it longer.
pub(crate) fn remove_half_made(name: &BusName, config: &Config) {
    let prefix = name.prefix();
    let lock = lock_path(name);
    for path in entries(Path::new(SHARED_MEMORY_DIR), &prefix) {
        let begun = |path: &Path| {
            let metadata = path.metadata().ok().filter(|metadata| metadata.len() == 0)?;
            // A clock that was set back makes it old.
            Some(metadata.modified().ok()?.elapsed().unwrap_or(HALF_MADE_AFTER))
        };
        let Some(age) = begun(&path).filter(|_| path != lock && maker_is_dead(&path, &prefix)) else {
            continue;
        };
        std::thread::sleep(HALF_MADE_AFTER.saturating_sub(age));
        if begun(&path).is_some() {
            let _ = std::fs::remove_file(&path);
        }
    }
    let global = &config.global;
    let (services, nodes) = (global.service.directory.to_string(), global.node.directory.to_string());
    let (suffix, tag) =
        (global.service.static_config_storage_suffix.to_string(), global.node.service_tag_suffix.to_string());
    for path in entries(&name.root().join(services), &prefix) {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(service) = file.strip_suffix(&suffix) else { continue };
        let tag = format!("{service}{tag}");
        // One that was begun, which nobody may write to any more when it is finished, is no tag.
        let finished = |path: &Path| path.metadata().is_ok_and(|metadata| metadata.mode() & 0o200 == 0);
        let of_nobody =
            || !entries(&name.root().join(&nodes), "").iter().any(|node| finished(&node.join(&tag)));
        let Ok(found) = path.metadata() else { continue };
        if !of_nobody() {
            continue;
        }
        let age = found.modified().ok().and_then(|begun| begun.elapsed().ok()).unwrap_or(HALF_MADE_AFTER);
        std::thread::sleep(HALF_MADE_AFTER.saturating_sub(age));
        if of_nobody() && path.metadata().is_ok_and(|now| now.ino() == found.ino()) {
            let _ = std::fs::remove_file(&path);
        }
    }
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

/// What the names of entries of `folder` begin with `prefix`.
fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect()
}
