//! The write-ahead log: the event log itself; everything else in storage can be rebuilt from it.
//!
//! ```text
//! segment file   header | commit | commit | ... | idle block | commit | ... | footer      (blocks of 4096 bytes)
//! commit         header | frame | frame | ... | zeros
//! ```
//!
//! Read in this order: `segment` and `block` (the bytes), `buffer` (a commit in memory), `writer` (appending),
//! `group_commit` (the thread around it), `scan` (reading and checking one segment), `recovery` (what the end of the log
//! is), `reader` (frames by sequence; following a live log). `ON_DISK.md` has the offsets.
//!
//! Never reads a clock, never looks inside an event further than its frame's checks do.

mod block;
mod buffer;
mod bytes;
pub(crate) mod collect;
mod config;
pub(crate) mod dump;
mod error;
mod follower;
mod frames;
mod group_commit;
mod reader;
mod recovery;
mod release;
mod report;
mod scan;
mod segment;
mod segments;
mod space;
mod spare;
mod tally;
mod writer;

pub use block::COMMIT_HEADER_BYTES;
pub use buffer::{BufferPool, CommitBuffer, Refusal};
pub use config::{Mistakes, Preparation, SyncPolicy, WalConfig, WriteBackend};
pub use error::{Damage, WalError};
pub use follower::{WalFollower, WalIdentity, identify};
pub(crate) use follower::{is_held, sealed};
pub use frames::WalFrames;
pub use group_commit::{
    AppendError, CommitObserver, GroupCommit, GroupCommitOptions, SealError, SegmentSealer, WhenFull,
};
pub use reader::WalReader;
pub(crate) use recovery::check;
pub use recovery::{OpenedWal, open};
pub use release::Releaser;
pub use report::{Cut, CutReason, WalReport};
pub use segment::{ClusterId, SegmentNumber, SegmentRoot, SegmentTotals};
pub use segments::{Sealed, SegmentInfo, Segments};
pub(crate) use space::Lacking;
pub use space::SpaceProblem;
pub use writer::{Committed, Placed, Writer};
