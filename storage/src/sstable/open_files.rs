//! Which tables' files are open: not more than so many, however long the history is.
//!
//! A table keeps the top of its index for good once it was asked, but its file only until others need the place: by second
//! chance, as in the block cache. A read holds its file until it is done, so beside those counted here there are at most as
//! many as threads that read. Who needs a file again opens it again, by its name; that costs some microseconds.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::TableError;
use crate::disk::{Disk, DiskFile};

/// See the module.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    disk: Arc<dyn Disk>,
    files_max: usize,
    /// Those that are open, the one to be asked first for its place first. A table that is gone took its file with it.
    open: Mutex<VecDeque<Weak<Handle>>>,
}

/// The file of one table, if it is open.
#[derive(Debug, Default)]
pub(super) struct Handle {
    file: Mutex<Option<Arc<dyn DiskFile>>>,
    /// Only a hint, so nothing is ordered by it: it was read since it was last asked for its place.
    used: AtomicBool,
}

impl OpenFiles {
    /// At most `files_max` files, and never less than one.
    pub(crate) fn new(disk: Arc<dyn Disk>, files_max: usize) -> Arc<Self> {
        Arc::new(Self { disk, files_max: files_max.max(1), open: Mutex::default() })
    }

    /// Where the files are.
    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The most files that are kept open.
    pub(crate) fn files_max(&self) -> usize {
        self.files_max
    }

    /// Files that are open now.
    pub(crate) fn count(&self) -> usize {
        self.open.lock().iter().filter(|handle| handle.strong_count() > 0).count()
    }

    /// The file of a table, opened by `open` if it is not.
    pub(super) fn get(
        &self,
        handle: &Arc<Handle>,
        open: impl FnOnce(&dyn Disk) -> Result<Arc<dyn DiskFile>, TableError>,
    ) -> Result<Arc<dyn DiskFile>, TableError> {
        if let Some(file) = &*handle.file.lock() {
            handle.used.store(true, Ordering::Relaxed);
            return Ok(Arc::clone(file));
        }
        let file = open(&*self.disk)?;
        {
            let mut kept = handle.file.lock();
            if let Some(kept) = &*kept {
                // Another thread has opened it meanwhile.
                return Ok(Arc::clone(kept));
            }
            *kept = Some(Arc::clone(&file));
        }
        let mut open = self.open.lock();
        open.push_back(Arc::downgrade(handle));
        if open.len() > self.files_max {
            open.retain(|handle| handle.strong_count() > 0);
        }
        while open.len() > self.files_max {
            let Some(handle) = open.pop_front().and_then(|handle| handle.upgrade()) else { continue };
            if handle.used.swap(false, Ordering::Relaxed) {
                open.push_back(Arc::downgrade(&handle));
            } else {
                *handle.file.lock() = None;
            }
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::disk::{Access, Caching};

    fn file(disk: &SimDisk) -> Result<Arc<dyn DiskFile>, TableError> {
        Ok(disk.open(Path::new("table"), Access::Read, Caching::Buffered)?)
    }

    #[test]
    fn the_file_that_was_not_read_lately_gives_its_place_and_a_table_that_is_gone_takes_its_file_with_it() {
        let disk = SimDisk::new(1);
        drop(disk.open(Path::new("table"), Access::CreateNew, Caching::Buffered).unwrap());
        let files = OpenFiles::new(Arc::new(disk.clone()), 3);
        let tables: Vec<Arc<Handle>> = (0..4).map(|_| Arc::default()).collect();
        let is_open = |number: usize| tables[number].file.lock().is_some();
        let read = |number: usize| files.get(&tables[number], |_| file(&disk)).map(drop).unwrap();
        (0..3).for_each(read);
        read(0);
        read(3);
        assert_eq!([0, 1, 2, 3].map(is_open), [true, false, true, true], "0 was read again, 1 was not");
        assert_eq!((files.count(), disk.open_files()), (3, 3));
        read(1);
        assert_eq!((files.count(), disk.open_files()), (3, 3));
        drop(tables);
        assert_eq!((files.count(), disk.open_files()), (0, 0));
    }

    #[test]
    fn a_file_that_cannot_be_opened_takes_no_place() {
        let disk = SimDisk::new(1);
        let files = OpenFiles::new(Arc::new(disk.clone()), 3);
        let table = Arc::default();
        assert!(files.get(&table, |_| file(&disk)).is_err());
        assert_eq!(files.count(), 0);
    }
}
