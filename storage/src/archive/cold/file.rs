//! An object of the cold tier as a file to read: tables do not know where their blocks come from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{ColdError, ColdObject, ColdStore, patiently};
use crate::disk::{DiskError, DiskFile, Operation};

#[derive(Debug)]
struct ColdFile {
    store: Arc<dyn ColdStore>,
    object: ColdObject,
    /// Place and key, for messages.
    path: PathBuf,
}

/// The object, to be read as a file. Nothing is asked of the store yet.
pub(crate) fn open(store: &Arc<dyn ColdStore>, object: &ColdObject) -> Arc<dyn DiskFile> {
    let path = Path::new(store.place()).join(&object.key);
    Arc::new(ColdFile { store: Arc::clone(store), object: object.clone(), path })
}

impl ColdFile {
    fn refuse<T>(&self, operation: Operation) -> Result<T, DiskError> {
        let source = std::io::Error::new(std::io::ErrorKind::Unsupported, "objects are only read");
        Err(DiskError::new(operation, &self.path, source))
    }
}

impl DiskFile for ColdFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        match patiently(&*self.store, || self.store.get_range(&self.object.key, offset, buffer)) {
            Ok(read) => Ok(read),
            // As a local file that is gone: whoever reads another process's store asks again, by a newer manifest.
            Err(error @ ColdError::Missing { .. }) => {
                let source = std::io::Error::new(std::io::ErrorKind::NotFound, error);
                Err(DiskError::new(Operation::Read, &self.path, source).at(offset))
            }
            Err(error) => {
                Err(DiskError::new(Operation::Read, &self.path, std::io::Error::other(error)).at(offset))
            }
        }
    }

    fn len_bytes(&self) -> Result<u64, DiskError> {
        Ok(self.object.bytes)
    }

    fn link_count(&self) -> Result<u64, DiskError> {
        Ok(1)
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<(), DiskError> {
        self.refuse(Operation::Write)
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        self.refuse(Operation::SyncData)
    }

    fn sync_all(&self) -> Result<(), DiskError> {
        self.refuse(Operation::SyncAll)
    }

    fn set_len(&self, _: u64) -> Result<(), DiskError> {
        self.refuse(Operation::SetLength)
    }

    fn drop_cache(&self, _: u64, _: u64) -> Result<(), DiskError> {
        Ok(())
    }
}
