//! [`Disk`] on a real directory, through `rustix`: one system call per operation, nothing retried but `EINTR`.

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FileType, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::rand::GetRandomFlags;

use super::{
    Access, Caching, Disk, DiskError, DiskFile, DiskLock, Entry, EntryKind, LockError, LockHolder, Operation,
    check_direct, check_relative,
};

/// A data directory on the machine's file system.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// The directory `root`, which must exist.
    pub fn open(root: &Path) -> Result<Self, DiskError> {
        let of = |source: std::io::Error| DiskError::new(Operation::Open, root, source);
        let meta = std::fs::metadata(root).map_err(of)?;
        if !meta.is_dir() {
            return Err(of(std::io::ErrorKind::NotADirectory.into()));
        }
        Ok(Self { root: root.to_path_buf() })
    }

    /// The directory `root`, created with its parents if need be; the new names are synced, and its own in any case.
    pub fn create(root: &Path) -> Result<Self, DiskError> {
        let of = |source: std::io::Error| DiskError::new(Operation::CreateDirectory, root, source);
        let changing = directories_to_change(root);
        std::fs::create_dir_all(root).map_err(of)?;
        for directory in changing {
            std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(of)?;
        }
        Self::open(root)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Gives a file a second name, the same, in another directory; `false` where that cannot be: on another file system, or
    /// where links are not supported or allowed.
    pub fn link_into(&self, other: &Self, path: &Path) -> Result<bool, DiskError> {
        let (from, to) = (self.full(Operation::HardLink, path)?, other.full(Operation::HardLink, path)?);
        match rustix::fs::link(&from, &to) {
            Ok(()) => Ok(true),
            Err(Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(errno) => Err(DiskError::new(Operation::HardLink, path, errno)),
        }
    }

    fn full(&self, operation: Operation, path: &Path) -> Result<PathBuf, DiskError> {
        check_relative(operation, path)?;
        Ok(self.root.join(path))
    }

    fn open_raw(&self, operation: Operation, path: &Path, flags: OFlags) -> Result<OwnedFd, DiskError> {
        let full = self.full(operation, path)?;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        retry_on_intr(|| rustix::fs::open(&full, flags | OFlags::CLOEXEC, mode))
            .map_err(|errno| DiskError::new(operation, path, errno))
    }
}

/// The directories that hold the name of `root` and those of its parents that are not there yet, `root`'s first.
fn directories_to_change(root: &Path) -> Vec<PathBuf> {
    let mut holding = Vec::new();
    for path in root.ancestors() {
        let Some(parent) = path.parent() else { break };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        holding.push(parent.to_path_buf());
        if parent.exists() {
            break;
        }
    }
    holding
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, access: Access, caching: Caching) -> Result<Arc<dyn DiskFile>, DiskError> {
        let (operation, access_flags) = match access {
            Access::Read => (Operation::Open, OFlags::RDONLY),
            Access::ReadWrite => (Operation::Open, OFlags::RDWR),
            Access::CreateNew => (Operation::Create, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL),
        };
        let caching_flags = match caching {
            Caching::Buffered => OFlags::empty(),
            Caching::Direct => OFlags::DIRECT,
            Caching::DirectSync => OFlags::DIRECT | OFlags::DSYNC,
        };
        let fd = self.open_raw(operation, path, access_flags | caching_flags)?;
        Ok(Arc::new(RealFile { fd, path: path.to_path_buf(), direct: caching != Caching::Buffered }))
    }

    fn list(&self, directory: &Path) -> Result<Vec<Entry>, DiskError> {
        let of = |source: std::io::Error| DiskError::new(Operation::List, directory, source);
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(self.full(Operation::List, directory)?).map_err(of)? {
            let entry = entry.map_err(of)?;
            let kind =
                if entry.file_type().map_err(of)?.is_dir() { EntryKind::Directory } else { EntryKind::File };
            // A name that is not UTF-8 is none of ours; lossily it still shows up in messages.
            entries.push(Entry { name: entry.file_name().to_string_lossy().into_owned(), kind });
        }
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    }

    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        std::fs::create_dir(self.full(Operation::CreateDirectory, path)?)
            .map_err(|source| DiskError::new(Operation::CreateDirectory, path, source))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        std::fs::rename(self.full(Operation::Rename, from)?, self.full(Operation::Rename, to)?)
            .map_err(|source| DiskError::new(Operation::Rename, from, source))
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        std::fs::remove_file(self.full(Operation::Remove, path)?)
            .map_err(|source| DiskError::new(Operation::Remove, path, source))
    }

    fn hard_link(&self, existing: &Path, new: &Path) -> Result<(), DiskError> {
        std::fs::hard_link(self.full(Operation::HardLink, existing)?, self.full(Operation::HardLink, new)?)
            .map_err(|source| DiskError::new(Operation::HardLink, existing, source))
    }

    fn sync_directory(&self, directory: &Path) -> Result<(), DiskError> {
        let fd = self.open_raw(Operation::SyncDirectory, directory, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::fsync(&fd).map_err(|errno| DiskError::new(Operation::SyncDirectory, directory, errno))
    }

    fn lock(&self, path: &Path, holder: &LockHolder) -> Result<Box<dyn DiskLock>, LockError> {
        let of = |errno: Errno| DiskError::new(Operation::Lock, path, errno);
        let fd = self.open_raw(Operation::Lock, path, OFlags::RDWR | OFlags::CREATE)?;
        // Not retried on EINTR: a non-blocking lock does not sleep.
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = [0_u8; 128];
                let bytes = rustix::io::pread(&fd, &mut text, 0).map_err(of)?;
                let holder = std::str::from_utf8(&text[..bytes]).ok().and_then(LockHolder::decode);
                return Err(LockError::Held { path: path.to_path_buf(), holder });
            }
            Err(errno) => return Err(of(errno).into()),
        }
        rustix::fs::ftruncate(&fd, 0).map_err(of)?;
        let text = holder.encode();
        let written = rustix::io::pwrite(&fd, text.as_bytes(), 0).map_err(of)?;
        if written != text.len() {
            return Err(of(Errno::NOSPC).into());
        }
        Ok(Box::new(RealLock { fd }))
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        let stat = rustix::fs::statvfs(&self.root)
            .map_err(|errno| DiskError::new(Operation::FreeSpace, Path::new("."), errno))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn random(&self, bytes: &mut [u8]) -> Result<(), DiskError> {
        let mut filled = 0;
        while filled < bytes.len() {
            let tail = &mut bytes[filled..];
            filled += retry_on_intr(|| rustix::rand::getrandom(&mut *tail, GetRandomFlags::empty()))
                .map_err(|errno| DiskError::new(Operation::Random, Path::new("."), errno))?;
        }
        Ok(())
    }
}

/// Holds the descriptor: `flock` belongs to the open file, so the end of the process releases it.
#[derive(Debug)]
struct RealLock {
    fd: OwnedFd,
}

impl Drop for RealLock {
    fn drop(&mut self) {
        // Closing is not enough: a child that another thread has just forked has the same open file until it executes its program.
        // What cannot be unlocked is closed all the same.
        let _ = rustix::fs::flock(&self.fd, FlockOperation::Unlock);
    }
}

impl DiskLock for RealLock {}

#[derive(Debug)]
struct RealFile {
    fd: OwnedFd,
    path: PathBuf,
    direct: bool,
}

impl RealFile {
    fn error(&self, operation: Operation, errno: Errno) -> DiskError {
        DiskError::new(operation, &self.path, errno)
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        if self.direct {
            check_direct(Operation::Read, &self.path, buffer, offset)?;
        }
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + filled as u64;
            let tail = &mut buffer[filled..];
            let read = retry_on_intr(|| rustix::io::pread(&self.fd, &mut *tail, at))
                .map_err(|errno| self.error(Operation::Read, errno).at(at))?;
            if read == 0 {
                break;
            }
            filled += read;
            // Past the cache only the last read of a file is short, and it cannot be continued at an odd offset.
            if self.direct && !filled.is_multiple_of(super::BLOCK_BYTES) {
                break;
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        if self.direct {
            check_direct(Operation::Write, &self.path, bytes, offset)?;
        }
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let written = retry_on_intr(|| rustix::io::pwrite(&self.fd, &bytes[done..], at))
                .map_err(|errno| self.error(Operation::Write, errno).at(at))?;
            if written == 0 {
                return Err(self.error(Operation::Write, Errno::NOSPC).at(at));
            }
            done += written;
        }
        Ok(())
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        rustix::fs::fdatasync(&self.fd).map_err(|errno| self.error(Operation::SyncData, errno))
    }

    fn sync_all(&self) -> Result<(), DiskError> {
        rustix::fs::fsync(&self.fd).map_err(|errno| self.error(Operation::SyncAll, errno))
    }

    fn set_len(&self, bytes: u64) -> Result<(), DiskError> {
        retry_on_intr(|| rustix::fs::ftruncate(&self.fd, bytes))
            .map_err(|errno| self.error(Operation::SetLength, errno).at(bytes))
    }

    fn drop_cache(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        let Some(bytes) = NonZeroU64::new(bytes) else { return Ok(()) };
        rustix::fs::fadvise(&self.fd, offset, Some(bytes), Advice::DontNeed)
            .map_err(|errno| self.error(Operation::DropCache, errno).at(offset))
    }

    // Hints: where they are not taken, reads are only slower.
    fn expect_lookups(&self) {
        let _ = rustix::fs::fadvise(&self.fd, 0, None, Advice::Random);
    }

    fn will_need(&self, offset: u64, bytes: u64) {
        if let Some(bytes) = NonZeroU64::new(bytes) {
            let _ = rustix::fs::fadvise(&self.fd, offset, Some(bytes), Advice::WillNeed);
        }
    }

    fn len_bytes(&self) -> Result<u64, DiskError> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|errno| self.error(Operation::Length, errno))?;
        debug_assert_eq!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile);
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    fn link_count(&self) -> Result<u64, DiskError> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|errno| self.error(Operation::Length, errno))?;
        Ok(stat.st_nlink as u64)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_that_gets_a_new_name_is_made_durable() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        assert_eq!(directories_to_change(&at("a/b/c")), [at("a/b"), at("a"), directory.path().to_path_buf()]);
        RealDisk::create(&at("a/b/c")).unwrap();
        assert_eq!(directories_to_change(&at("a/b/c")), [at("a/b")], "its own name in any case");
        assert_eq!(directories_to_change(Path::new("surely-not-there")), [Path::new(".")]);
        assert!(directories_to_change(Path::new("/")).is_empty());
    }

    #[test]
    fn a_lock_that_was_given_back_is_free_though_a_forked_child_still_has_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(directory.path()).unwrap();
        let path = Path::new("LOCK");
        let fd = disk.open_raw(Operation::Lock, path, OFlags::RDWR | OFlags::CREATE).unwrap();
        rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).unwrap();
        // The same open file, as a child has it before it executes its program.
        let of_the_child = rustix::io::dup(&fd).unwrap();
        let holder = LockHolder { pid: 1, started_ns: 1 };
        assert!(matches!(disk.lock(path, &holder), Err(LockError::Held { .. })));
        drop(RealLock { fd });
        disk.lock(path, &holder).unwrap();
        drop(of_the_child);
    }
}
