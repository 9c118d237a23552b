//! Files that the manifest no longer names: removed when nobody can read them any more.
//!
//! ```text
//! manifest edit, synced -> new view installed, file marked -> last reader lets go -> queue -> removed by a worker
//! ```
//!
//! A table is opened when it is first asked, by its name, so the name has to stay as long as a view that lists the table
//! is held. Whoever lets go last only queues the number: a reader in a hurry does not wait for a directory. What a crash
//! leaves behind is an orphan, removed when the store is opened. A store that is open for reading only never marks a file:
//! its readers refresh and ask again when the writer has removed one.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::disk::Disk;
use crate::sstable::{BlockCache, TableFile};
use crate::visible::Bell;

/// The files waiting to be removed.
#[derive(Debug)]
pub(crate) struct Obsolete {
    disk: Arc<dyn Disk>,
    cache: Arc<BlockCache>,
    waiting: Mutex<Vec<TableFile>>,
    /// Rung when a file may be removed; the worker that sweeps waits at it.
    pub bell: Bell,
    removal: Removal,
}

/// When a file goes that the manifest does not name any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// With its last reader.
    WhenUnread,
    /// Never by this store: the files are another process's.
    Never,
    /// At once, whoever reads it: a known mistake, for negative controls.
    AtOnce,
}

impl Obsolete {
    pub(crate) fn new(disk: Arc<dyn Disk>, cache: Arc<BlockCache>, removal: Removal) -> Self {
        Self { disk, cache, waiting: Mutex::default(), bell: Bell::default(), removal }
    }

    /// Removes what nobody reads; returns how many files. One that cannot be removed stays queued: it does no harm, and
    /// the next opening tries again.
    pub(crate) fn sweep(&self) -> usize {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        let mut removed = 0;
        for file in waiting {
            match self.disk.remove(&file.path()) {
                Ok(()) => removed += 1,
                Err(error) if error.is_missing() => {}
                Err(_) => {
                    self.waiting.lock().push(file);
                    continue;
                }
            }
            self.cache.forget(file.number);
        }
        removed
    }

    /// How many files could be removed now.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.lock().len()
    }
}

/// One file of the store, as long as anybody may still ask for it by name.
#[derive(Debug)]
pub(crate) struct FileLife {
    file: TableFile,
    /// Set once the manifest, durably, does not name the file any more.
    obsolete: OnceLock<Arc<Obsolete>>,
}

impl FileLife {
    pub(crate) fn new(file: TableFile) -> Arc<Self> {
        Arc::new(Self { file, obsolete: OnceLock::new() })
    }

    /// From now on the file goes with its last reader.
    pub(crate) fn end(&self, obsolete: &Arc<Obsolete>) {
        match obsolete.removal {
            Removal::WhenUnread => {
                let _ = self.obsolete.set(Arc::clone(obsolete));
            }
            Removal::Never => {}
            Removal::AtOnce => {
                obsolete.waiting.lock().push(self.file);
                obsolete.sweep();
            }
        }
    }
}

impl Drop for FileLife {
    fn drop(&mut self) {
        if let Some(obsolete) = self.obsolete.take() {
            obsolete.waiting.lock().push(self.file);
            obsolete.bell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disk::sim::{Fault, SimDisk};
    use crate::disk::{Access, Caching};
    use crate::file_header::FileKind;
    use crate::sstable::TABLES;

    fn disk_with(file: TableFile) -> SimDisk {
        let disk = SimDisk::new(1);
        disk.create_directory(Path::new(TABLES)).unwrap();
        disk.open(&file.path(), Access::CreateNew, Caching::Buffered).unwrap();
        disk
    }

    fn is_there(disk: &SimDisk, file: TableFile) -> bool {
        disk.content(&file.path()).is_some()
    }

    #[test]
    fn a_file_goes_when_it_is_obsolete_and_its_last_reader_has_gone() {
        let file = TableFile { kind: FileKind::Index, number: 7 };
        let disk = disk_with(file);
        let cache = Arc::new(BlockCache::new(1 << 20));
        let obsolete = Arc::new(Obsolete::new(Arc::new(disk.clone()), cache, Removal::WhenUnread));
        let life = FileLife::new(file);
        let reader = Arc::clone(&life);
        drop(life);
        assert_eq!((obsolete.sweep(), is_there(&disk, file)), (0, true), "a reader has it");
        reader.end(&obsolete);
        assert_eq!((obsolete.sweep(), is_there(&disk, file)), (0, true), "obsolete, but a reader has it");
        drop(reader);
        assert_eq!(obsolete.waiting(), 1);
        disk.fail_next(Fault::Eio);
        assert_eq!((obsolete.sweep(), is_there(&disk, file)), (0, true), "the disk refused");
        assert_eq!((obsolete.sweep(), is_there(&disk, file)), (1, false));
        assert_eq!(obsolete.sweep(), 0);
    }

    #[test]
    fn a_file_that_is_still_named_stays_when_its_readers_go() {
        let file = TableFile { kind: FileKind::Events, number: 7 };
        let disk = disk_with(file);
        let cache = Arc::new(BlockCache::new(1 << 20));
        let obsolete = Arc::new(Obsolete::new(Arc::new(disk.clone()), cache, Removal::WhenUnread));
        drop(FileLife::new(file));
        assert_eq!((obsolete.sweep(), is_there(&disk, file)), (0, true));
    }
}
