//! One error for every disk operation: what was tried, on which file, where in it, and the system's answer.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What was asked of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the operation of that name in `Disk` or `DiskFile`")]
pub enum Operation {
    Open,
    Create,
    Read,
    Write,
    SyncData,
    SyncAll,
    SetLength,
    DropCache,
    Length,
    List,
    CreateDirectory,
    Rename,
    Remove,
    HardLink,
    SyncDirectory,
    Lock,
    FreeSpace,
    Random,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Self::Open => "open",
            Self::Create => "create",
            Self::Read => "read",
            Self::Write => "write",
            Self::SyncData => "sync the data of",
            Self::SyncAll => "sync",
            Self::SetLength => "set the length of",
            Self::DropCache => "drop the cache of",
            Self::Length => "ask the length of",
            Self::List => "list",
            Self::CreateDirectory => "create directory",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::HardLink => "link",
            Self::SyncDirectory => "sync directory",
            Self::Lock => "lock",
            Self::FreeSpace => "ask the free space of",
            Self::Random => "draw random bytes for",
        };
        f.write_str(words)
    }
}

/// A disk operation that failed.
#[derive(Debug)]
pub struct DiskError {
    /// What was tried.
    pub operation: Operation,
    /// On which file or directory, relative to the data directory.
    pub path: PathBuf,
    /// Where in the file, in bytes, if the operation has a place.
    pub offset: Option<u64>,
    /// The system's answer.
    pub source: io::Error,
}

impl DiskError {
    /// An error without a place in the file.
    pub fn new(operation: Operation, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { operation, path: path.to_path_buf(), offset: None, source: source.into() }
    }

    /// The same error at a byte of the file.
    pub fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// Whether the file or directory does not exist.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether it is the file that is at fault: it does not exist, or the device does not give back what is in it. Other
    /// failures (no permission, too many open files) say nothing about its bytes.
    pub fn is_unreadable(&self) -> bool {
        self.is_missing() || self.operation == Operation::Read
    }

    /// Whether it exists already.
    pub fn is_existing(&self) -> bool {
        self.source.kind() == io::ErrorKind::AlreadyExists
    }

    /// Whether it is what a file system without `O_DIRECT` answers when a file is opened past the page cache.
    pub fn is_direct_unsupported(&self) -> bool {
        // EINVAL
        self.source.raw_os_error() == Some(22)
    }

    /// Whether it was to make something durable: trying again would say nothing about the bytes that were lost.
    pub fn is_sync(&self) -> bool {
        matches!(self.operation, Operation::SyncData | Operation::SyncAll | Operation::SyncDirectory)
    }

    /// Whether the disk, or the quota on it, is full.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether it was for want of space and puts nothing in doubt that was written before: the same may be tried again when
    /// there is room. A sync that fails is final whatever its reason.
    pub fn may_pass(&self) -> bool {
        self.is_full() && !self.is_sync()
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}", self.operation, self.path.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {}", self.source)
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
