//! What the log says when it cannot go on: always which file, where in it, what was expected and what is there.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use matchtape_schemas::Sequence;
use matchtape_schemas::frame::ChainError;

use crate::disk::DiskError;

/// A place in a file whose bytes are not what a writer of this format leaves there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file, relative to the data directory.
    pub file: PathBuf,
    /// Where the refused bytes start.
    pub offset: u64,
    /// Which part of the format they belong to.
    pub part: &'static str,
    /// What should be there.
    pub expected: String,
    /// What is.
    pub found: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, offset, part, expected, found } = self;
        write!(f, "{} at byte {offset}: {part}: expected {expected}, found {found}", file.display())
    }
}

/// Why an operation on the log failed.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Bytes that were durable once are not what was written. Nothing was changed; `salvage` is a separate decision.
    #[error("corrupt log: {damage}; it is not a torn tail, because {because}")]
    Corrupt {
        /// Where and what.
        damage: Damage,
        /// What proves that the damaged bytes had been durable.
        because: String,
    },
    /// The file is intact but belongs to something else.
    #[error("{} belongs to {what} {found}, this log is {what} {expected}", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// Cluster or tape.
        what: &'static str,
        /// This log's.
        expected: u64,
        /// The file's.
        found: u64,
    },
    /// The file is intact but newer than this release.
    #[error("{} at byte {offset} has format version {found}, this release reads {expected}", file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// Where the version is stated.
        offset: u64,
        /// The version this release reads.
        expected: u16,
        /// The version stated.
        found: u16,
    },
    /// A segment in the middle of the chain is not there.
    #[error("{} is missing: the log goes on with segment {next}", file.display())]
    MissingSegment {
        /// The file that should be there.
        file: PathBuf,
        /// The number of the next segment that is.
        next: u64,
    },
    /// Events that something else knows to have been durable are not in the log.
    #[error("the log ends at sequence {last}, but sequence {known} was durable")]
    Short {
        /// The last recovered event.
        last: Sequence,
        /// The event that must be there.
        known: Sequence,
    },
    /// Retention has dropped the events asked for.
    #[error("sequence {asked} is below retention, the first kept is {first_kept}")]
    BelowRetention {
        /// The position asked for.
        asked: Sequence,
        /// The first position the log still holds.
        first_kept: Sequence,
    },
    /// The caller's frame does not continue the tape. Nothing was written.
    #[error("refused a commit: {0}")]
    Chain(#[from] ChainError),
    /// The caller's frames break a rule of the log. Nothing was written.
    #[error("refused a commit: {0}")]
    Rule(&'static str),
    /// A configuration that cannot work.
    #[error("configuration: {0}")]
    Configuration(String),
    /// An earlier failure has ended all writing by this process: what a failed sync left on the disk is unknown.
    #[error("the log accepts nothing since an earlier failure: {0}")]
    Poisoned(Arc<WalError>),
    /// A thread of the log panicked: a bug, and what it was about to do is unknown.
    #[error("the thread {thread} panicked: {message}")]
    Panicked {
        /// The thread.
        thread: &'static str,
        /// What it said.
        message: String,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

impl WalError {
    /// Whether the same may be tried again when the disk has room, see [`DiskError::may_pass`].
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Disk(error) if error.may_pass())
    }

    /// Whether the reason, possibly an earlier one, is a full disk.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Disk(error) => error.is_full(),
            Self::Poisoned(cause) => cause.is_full(),
            Self::Corrupt { .. }
            | Self::Foreign { .. }
            | Self::Version { .. }
            | Self::MissingSegment { .. }
            | Self::Short { .. }
            | Self::BelowRetention { .. }
            | Self::Chain(_)
            | Self::Rule(_)
            | Self::Configuration(_)
            | Self::Panicked { .. }
            | Self::Closed => false,
        }
    }
}
