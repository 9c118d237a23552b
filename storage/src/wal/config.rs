//! What an operator chooses about the log, and what each choice risks.

use std::path::PathBuf;
use std::time::Duration;

use matchtape_schemas::{Head, Sequence, TapeId};

use super::error::WalError;
use super::segment::{ClusterId, SegmentNumber};
use crate::disk::{BLOCK_BYTES, Caching};
use crate::limits;

/// How commits reach the disk. Which is faster depends on the machine; measure.
///
/// There is no io_uring among them, because it won nothing where it was measured. Durable writes per second (`O_DIRECT |
/// O_DSYNC`; 2 virtual cores, virtio disk, ext4, Linux 6.18; otherwise quiet), by `pwrite` on as many threads as writes are under
/// way / by the best of io_uring plain, with deferred task work, with registered buffers and file:
///
/// ```text
/// under way        4 KiB           16 KiB          64 KiB        256 KiB        1 MiB
///         1    9 600 /  9 100   9 900 /  9 400   8 900 /  9 600   5 200 / 5 200   2 500 / 2 600
///         2   16 700 / 16 100  13 900 / 12 300  12 000 / 11 300   6 500 / 6 000   2 600 / 2 400
///         4   27 600 / 26 100  24 900 / 24 800  18 900 / 19 800   8 700 / 8 200   2 300 / 2 200
/// ```
///
/// The median of one 4 KiB write is 97 us by `pwrite` and 101 to 106 us by io_uring. What pays is to have several under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteBackend {
    /// Written through the page cache, then `fdatasync`: two calls per commit; works on every file system.
    #[default]
    Buffered,
    /// `O_DIRECT`, with `O_DSYNC` where every batch is synced: one call per commit, and no copy into the page cache. Several
    /// commits are written at once then, see [`GroupCommit`](super::GroupCommit).
    Direct,
}

impl WriteBackend {
    /// How it opens the segment that it writes. Where that is not [`Caching::DirectSync`], `sync_data` makes a commit
    /// durable.
    pub fn caching(self, sync: SyncPolicy) -> Caching {
        match (self, sync) {
            (Self::Buffered, _) => Caching::Buffered,
            (Self::Direct, SyncPolicy::EveryBatch) => Caching::DirectSync,
            (Self::Direct, SyncPolicy::Interval(_) | SyncPolicy::None) => Caching::Direct,
        }
    }
}

/// When commits are made durable, named for what is lost when the power goes. A crash of the process alone loses
/// nothing that was written, under any of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Every commit is durable before it is reported: nothing that was reported durable is ever lost.
    #[default]
    EveryBatch,
    /// Commits are made durable at least this often: events of the last interval may be lost.
    Interval(Duration),
    /// Made durable only where a segment ends, when the log is closed, and (of a store) whenever a memtable is to be flushed, because it is
    /// full or because somebody asks for it: any event of the open segment may be lost.
    None,
}

/// Who prepares the next segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preparation {
    /// A thread of its own, ahead of time, so that no commit waits for it.
    #[default]
    Background,
    /// The writer itself, when it begins a segment: one thread, the same trace every time; for simulation.
    Inline,
    /// The writer itself, when it cannot do without: for a command that writes little or nothing and is gone again. Opening
    /// a log that was begun writes no zeros then.
    WhenNeeded,
}

/// The log's configuration.
#[derive(Clone, Debug)]
pub struct WalConfig {
    /// The log's directory below the data directory.
    pub directory: PathBuf,
    /// The deployment; a segment of another one is refused.
    pub cluster: ClusterId,
    /// Where an empty log starts. Its `tape` is the log's tape; a segment of another one is refused.
    pub start: Head,
    /// The segment that an empty log begins with: its number is above that of every segment whose facts are kept.
    pub first_segment: SegmentNumber,
    /// Bytes of a segment file; the last commits of a segment may make it somewhat longer.
    pub segment_bytes: u64,
    /// Bytes of one commit buffer: header, frames and padding. The most that one write carries.
    pub commit_bytes: usize,
    /// Files of released segments that are kept for new ones. Each takes the room of a segment; beyond them a new segment is
    /// filled with zeros first.
    pub recycled_files_max: usize,
    /// How commits reach the disk.
    pub backend: WriteBackend,
    /// When they are durable.
    pub sync: SyncPolicy,
    /// Who prepares segments.
    pub preparation: Preparation,
    /// An event that something else (a table, a snapshot, a peer) knows to have been durable: a log that ends earlier is
    /// damaged. Zero where nothing is known.
    pub known_durable: Sequence,
    /// Known mistakes, for negative controls.
    #[cfg(any(test, feature = "mistakes"))]
    pub mistakes: Mistakes,
}

impl WalConfig {
    /// The defaults for a tape.
    pub fn new(tape: TapeId) -> Self {
        Self {
            directory: PathBuf::from("wal"),
            cluster: ClusterId::default(),
            start: Head::empty(tape),
            first_segment: SegmentNumber::FIRST,
            segment_bytes: limits::SEGMENT_BYTES_DEFAULT,
            commit_bytes: limits::COMMIT_BYTES_DEFAULT,
            recycled_files_max: 4,
            backend: WriteBackend::default(),
            sync: SyncPolicy::default(),
            preparation: Preparation::default(),
            known_durable: Sequence::ZERO,
            #[cfg(any(test, feature = "mistakes"))]
            mistakes: Mistakes::default(),
        }
    }

    pub(super) fn check(&self) -> Result<(), WalError> {
        let wrong = |text: String| Err(WalError::Configuration(text));
        let block = BLOCK_BYTES as u64;
        if !(limits::SEGMENT_BYTES_MIN..=limits::SEGMENT_BYTES_MAX).contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(block)
        {
            let (min, max) = (limits::SEGMENT_BYTES_MIN, limits::SEGMENT_BYTES_MAX);
            return wrong(format!(
                "segment_bytes {} is not a multiple of {block} in {min}..={max}",
                self.segment_bytes
            ));
        }
        if !(limits::COMMIT_BYTES_MIN..=limits::COMMIT_BYTES_MAX).contains(&self.commit_bytes)
            || !self.commit_bytes.is_multiple_of(BLOCK_BYTES)
        {
            let (min, max) = (limits::COMMIT_BYTES_MIN, limits::COMMIT_BYTES_MAX);
            return wrong(format!(
                "commit_bytes {} is not a multiple of {block} in {min}..={max}",
                self.commit_bytes
            ));
        }
        Ok(())
    }

    /// How the open segment is opened for writing.
    pub(super) fn caching(&self) -> Caching {
        self.backend.caching(self.sync)
    }

    /// From this offset on, the segment should end.
    pub(super) fn segment_limit(&self) -> u64 {
        // Room for what may already be under way when the limit is noticed; beyond it the file just grows.
        let reserve = (4 * self.commit_bytes as u64).min(self.segment_bytes / 4);
        self.segment_bytes - reserve
    }

    pub(super) fn mistakes(&self) -> Mistakes {
        #[cfg(any(test, feature = "mistakes"))]
        return self.mistakes;
        #[cfg(not(any(test, feature = "mistakes")))]
        Mistakes::default()
    }
}

/// Mistakes that engines like this one have been shipped with. A test switches one on and expects the suite to notice.
/// Without the `mistakes` feature nothing can switch them on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mistakes {
    /// Recovery takes every torn tail for corruption.
    pub torn_tail_is_fatal: bool,
    /// Recovery steps over a commit that does not check and goes on behind it.
    pub skip_bad_commits: bool,
    /// Recovery leaves the stale tail in place, and writes over only part of it.
    pub append_after_garbage: bool,
    /// Rotation syncs neither the sealed segment nor the new one's name.
    pub rotate_without_sync: bool,
    /// Recovery believes the page cache and syncs nothing.
    pub trust_page_cache: bool,
    /// A block vouches for commits that were still being written when it was placed.
    pub vouch_for_what_is_under_way: bool,
    /// A commit is reported durable before it is synced.
    pub report_before_sync: bool,
    /// A failed sync is tried again instead of ending all writing.
    pub retry_failed_sync: bool,
    /// Recovery keeps a group whose end was lost.
    pub keep_unfinished_group: bool,
    /// A released segment's file is used again under its old header, without a mark.
    pub recycle_without_mark: bool,
    /// A released segment's file may be written over before its old name is durably gone.
    pub recycle_before_sync: bool,
    /// A released segment's file is used again although it has another name.
    pub recycle_linked: bool,
    /// With the segments that tables cover, the one that is still written goes too.
    pub release_the_open_segment: bool,
}
