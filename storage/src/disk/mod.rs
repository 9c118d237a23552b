//! The only operating-system calls of storage, behind two small traits.
//!
//! Everything above this module is a function of a [`Disk`]: [`RealDisk`] on a data directory, or
//! [`sim::SimDisk`], which can lose power at any moment. Paths are relative to the data directory, and
//! may not leave it. Nothing here retries, and nothing here knows what the bytes mean.

mod aligned;
mod below;
mod error;
mod lock;
mod real;
pub mod sim;

use std::fmt::Debug;
use std::path::{Component, Path};
use std::sync::Arc;

pub use aligned::AlignedBytes;
pub use below::{DiskBelow, SYSTEM};
pub use error::{DiskError, Operation};
pub use lock::{DiskLock, LockError, LockHolder};
pub use real::RealDisk;

/// Alignment, in bytes, of offsets, lengths and memory on the direct path; also the logical block that a
/// commit is padded to. 4096 satisfies every device in use, whatever its own block.
pub const BLOCK_BYTES: usize = 4096;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It must exist; writing to it is an error.
    Read,
    /// It must exist.
    ReadWrite,
    /// It must not exist; opened for reading and writing.
    CreateNew,
}

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Through the page cache; durable after a sync.
    Buffered,
    /// Past the page cache (`O_DIRECT`); durable after a sync. Offsets, lengths and memory must be multiples of
    /// [`BLOCK_BYTES`]. What other handles had dirty in the range is written first, so a read returns what the
    /// device holds.
    Direct,
    /// Like `Direct`, and every write is durable when it returns (`O_DSYNC`).
    DirectSync,
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, without the directory.
    pub name: String,
    /// File or directory.
    pub kind: EntryKind,
}

/// A data directory.
pub trait Disk: Send + Sync + Debug {
    /// Opens or creates one file.
    fn open(&self, path: &Path, access: Access, caching: Caching) -> Result<Arc<dyn DiskFile>, DiskError>;
    /// The entries of a directory, sorted by name.
    fn list(&self, directory: &Path) -> Result<Vec<Entry>, DiskError>;
    /// Creates one directory; its parent must exist. It is an error if it exists.
    fn create_directory(&self, path: &Path) -> Result<(), DiskError>;
    /// Atomically gives `from` the name `to`, replacing what `to` named.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError>;
    /// Removes a file's name.
    fn remove(&self, path: &Path) -> Result<(), DiskError>;
    /// Gives the file `existing` a second name; `new` must not exist.
    fn hard_link(&self, existing: &Path, new: &Path) -> Result<(), DiskError>;
    /// Makes the creations, renames and removals inside `directory` durable.
    fn sync_directory(&self, directory: &Path) -> Result<(), DiskError>;
    /// Takes the exclusive lock file `path`, creating it if need be, and writes `holder` into it. The lock ends
    /// with the returned value or with the process, whichever is first.
    fn lock(&self, path: &Path, holder: &LockHolder) -> Result<Box<dyn DiskLock>, LockError>;
    /// Bytes that an unprivileged writer can still allocate.
    fn free_bytes(&self) -> Result<u64, DiskError>;
    /// Fills `bytes` with random bytes, for identifiers that must never repeat.
    fn random(&self, bytes: &mut [u8]) -> Result<(), DiskError>;
}

/// An open file.
pub trait DiskFile: Send + Sync + Debug {
    /// Reads until `buffer` is full or the file ends; returns the bytes read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError>;
    /// Writes all of `bytes`. After an error any part of them may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError>;
    /// Makes the written bytes, and the length needed to read them, durable. An error is final: the kernel may have
    /// dropped the bytes and marked them clean, so a later success would say nothing about them.
    fn sync_data(&self) -> Result<(), DiskError>;
    /// Like `sync_data`, with all metadata.
    fn sync_all(&self) -> Result<(), DiskError>;
    /// Cuts or extends (with zeros that may be a hole) to `bytes`.
    fn set_len(&self, bytes: u64) -> Result<(), DiskError>;
    /// Lets go of the clean cached pages of a range, so that the next read asks the device. Pages not yet synced stay.
    fn drop_cache(&self, offset: u64, bytes: u64) -> Result<(), DiskError>;
    /// A hint: reads will be here and there, so what lies behind one is not worth reading with it.
    fn expect_lookups(&self) {}
    /// A hint: this range will be read next, in order.
    fn will_need(&self, _offset: u64, _bytes: u64) {}
    /// The file's length in bytes.
    fn len_bytes(&self) -> Result<u64, DiskError>;
    /// How many names the file has: more than one, and writing to it changes what somebody else has linked.
    fn link_count(&self) -> Result<u64, DiskError>;
    /// The path it was opened by, for messages.
    fn path(&self) -> &Path;

    /// Reads exactly `buffer`; a file that ends earlier is an error.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        let wanted = buffer.len();
        let read = self.read_at(buffer, offset)?;
        if read == wanted {
            return Ok(());
        }
        let source = std::io::Error::new(
            std::io::ErrorKind::UnexpectedEof,
            format!("the file ends after {read} of {wanted} bytes"),
        );
        Err(DiskError::new(Operation::Read, self.path(), source).at(offset))
    }
}

/// Refuses a path that could leave the data directory.
fn check_relative(operation: Operation, path: &Path) -> Result<(), DiskError> {
    let stays = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if stays {
        return Ok(());
    }
    let source =
        std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path must stay inside the data directory");
    Err(DiskError::new(operation, path, source))
}

/// Refuses what `O_DIRECT` would refuse, with words instead of `EINVAL`.
fn check_direct(operation: Operation, path: &Path, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
    let aligned = bytes.as_ptr().addr().is_multiple_of(BLOCK_BYTES)
        && bytes.len().is_multiple_of(BLOCK_BYTES)
        && offset.is_multiple_of(BLOCK_BYTES as u64);
    if aligned {
        return Ok(());
    }
    let source = std::io::Error::new(
        std::io::ErrorKind::InvalidInput,
        format!(
            "direct I/O of {} bytes needs memory, length and offset in multiples of {BLOCK_BYTES}",
            bytes.len()
        ),
    );
    Err(DiskError::new(operation, path, source).at(offset))
}
