//! A directory of another disk as a disk of its own: for a second store beside the first.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    Access, Caching, Disk, DiskError, DiskFile, DiskLock, Entry, EntryKind, LockError, LockHolder, Operation,
    check_relative,
};

/// The directory of a store's second store, if it has one: a small tape about the first. A copy of the first has it too.
pub const SYSTEM: &str = "system";

/// What is below one directory of a disk. Files report the path they have there.
#[derive(Clone, Debug)]
pub struct DiskBelow {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
}

impl DiskBelow {
    /// The directory `name` of `disk`, if there is one.
    pub fn open(disk: &Arc<dyn Disk>, name: &str) -> Result<Option<Self>, DiskError> {
        check_relative(Operation::Open, Path::new(name))?;
        let entries = disk.list(Path::new(""))?;
        let there = entries.iter().any(|entry| entry.name == name && entry.kind == EntryKind::Directory);
        Ok(there.then(|| Self { disk: Arc::clone(disk), directory: PathBuf::from(name) }))
    }

    /// The directory `name` of `disk`, made if need be; its name is durable.
    pub fn create(disk: &Arc<dyn Disk>, name: &str) -> Result<Self, DiskError> {
        if let Some(found) = Self::open(disk, name)? {
            return Ok(found);
        }
        disk.create_directory(Path::new(name))?;
        disk.sync_directory(Path::new(""))?;
        Ok(Self { disk: Arc::clone(disk), directory: PathBuf::from(name) })
    }

    fn below(&self, operation: Operation, path: &Path) -> Result<PathBuf, DiskError> {
        check_relative(operation, path)?;
        Ok(self.directory.join(path))
    }
}

impl Disk for DiskBelow {
    fn open(&self, path: &Path, access: Access, caching: Caching) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.disk.open(&self.below(Operation::Open, path)?, access, caching)
    }

    fn list(&self, directory: &Path) -> Result<Vec<Entry>, DiskError> {
        self.disk.list(&self.below(Operation::List, directory)?)
    }

    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.create_directory(&self.below(Operation::CreateDirectory, path)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.disk.rename(&self.below(Operation::Rename, from)?, &self.below(Operation::Rename, to)?)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.remove(&self.below(Operation::Remove, path)?)
    }

    fn hard_link(&self, existing: &Path, new: &Path) -> Result<(), DiskError> {
        self.disk
            .hard_link(&self.below(Operation::HardLink, existing)?, &self.below(Operation::HardLink, new)?)
    }

    fn sync_directory(&self, directory: &Path) -> Result<(), DiskError> {
        self.disk.sync_directory(&self.below(Operation::SyncDirectory, directory)?)
    }

    fn lock(&self, path: &Path, holder: &LockHolder) -> Result<Box<dyn DiskLock>, LockError> {
        self.disk.lock(&self.below(Operation::Lock, path)?, holder)
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        self.disk.free_bytes()
    }

    fn random(&self, bytes: &mut [u8]) -> Result<(), DiskError> {
        self.disk.random(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sim::SimDisk;
    use super::*;

    #[test]
    fn nothing_below_reaches_what_is_beside_it() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        assert!(DiskBelow::open(&disk, "system").unwrap().is_none());
        let below = DiskBelow::create(&disk, "system").unwrap();
        below.open(Path::new("file"), Access::CreateNew, Caching::Buffered).unwrap();
        let names = |disk: &dyn Disk| disk.list(Path::new("")).unwrap().into_iter().map(|entry| entry.name);
        assert_eq!(names(&*disk).collect::<Vec<_>>(), ["system"]);
        assert_eq!(names(&below).collect::<Vec<_>>(), ["file"]);
        assert!(below.open(Path::new("../file"), Access::Read, Caching::Buffered).is_err());
        assert!(DiskBelow::open(&disk, "../x").is_err());
        below.rename(Path::new("file"), Path::new("other")).unwrap();
        below.remove(Path::new("other")).unwrap();
        assert!(DiskBelow::open(&disk, "system").unwrap().unwrap().list(Path::new("")).unwrap().is_empty());
    }
}
