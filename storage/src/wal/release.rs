//! Letting go of the oldest segments: their files are kept for new segments, or removed.
//!
//! ```text
//! 000000000003.wal --rename--> 000000000003.wal.free --rename--> 000000000009.wal.new --mark, sync, rename--> 000000000009.wal
//!                  sync of the directory: from here on the bytes may be written over
//! ```
//!
//! A file that is used again is written once where a new one is written twice, first with zeros. Its old blocks may stay,
//! because each names the segment it was written for.

use std::path::PathBuf;
use std::sync::Arc;

use matchtape_schemas::Sequence;
use parking_lot::Mutex;

use super::config::{Mistakes, WalConfig};
use super::error::WalError;
use super::segment::SegmentNumber;
use super::segments::{SegmentInfo, Segments};
use crate::disk::{Access, Caching, Disk, DiskError};

/// Files of released segments, for the next ones.
#[derive(Debug)]
pub(super) struct Pool {
    free: Mutex<Vec<SegmentNumber>>,
    files_max: usize,
}

impl Pool {
    pub(super) fn new(free: Vec<SegmentNumber>, files_max: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::new(free), files_max })
    }

    fn has_room(&self) -> bool {
        self.free.lock().len() < self.files_max
    }

    pub(super) fn take(&self) -> Option<SegmentNumber> {
        self.free.lock().pop()
    }
}

/// Lets go of the oldest segments of a log that is open for writing. Clones share the log.
#[derive(Clone, Debug)]
pub struct Releaser {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    segments: Segments,
    pool: Arc<Pool>,
    mistakes: Mistakes,
    /// One at a time.
    turn: Arc<Mutex<()>>,
}

impl Releaser {
    pub(super) fn new(disk: Arc<dyn Disk>, config: &WalConfig, segments: Segments, pool: Arc<Pool>) -> Self {
        let (directory, mistakes) = (config.directory.clone(), config.mistakes());
        Self { disk, directory, segments, pool, mistakes, turn: Arc::default() }
    }

    /// The segments that [`Releaser::release`] would let go of, oldest first.
    pub fn releasable(&self, through: Sequence, keep: usize) -> Vec<SegmentInfo> {
        self.segments.releasable(through, keep)
    }

    /// Lets go of the oldest segments whose every event is at or below `through`; never of the open one, nor of the last
    /// `keep` sealed ones. Returns the first sequence the log still holds. The caller has made sure that nothing needs them
    /// (crash rule 5). Readers that have such a file open notice, by the id in its blocks, that it became another.
    pub fn release(&self, through: Sequence, keep: usize) -> Result<Sequence, WalError> {
        let _turn = self.turn.lock();
        for segment in self.segments.releasable(through, keep) {
            let Some(oldest) = self.segments.drop_oldest(through) else { break };
            assert_eq!(oldest.number, segment.number, "nobody else lets go of segments");
            self.let_go(oldest)?;
        }
        if self.mistakes.release_the_open_segment {
            self.remove_the_open_segment()?;
        }
        Ok(self.segments.first_sequence().unwrap_or(Sequence::FIRST))
    }

    /// The mistake: the writer goes on in a file without a name.
    fn remove_the_open_segment(&self) -> Result<(), DiskError> {
        let Some(open) = self.segments.list().pop() else { return Ok(()) };
        match self.disk.remove(&open.number.path(&self.directory)) {
            Err(error) if error.is_missing() => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.disk.sync_directory(&self.directory),
        }
    }

    /// One at a time, oldest first, each durably: a power loss never leaves a hole in the chain, and nothing of a segment
    /// that could come back under its own name is written over.
    fn let_go(&self, segment: SegmentInfo) -> Result<(), DiskError> {
        let number = segment.number;
        let (path, free) = (number.path(&self.directory), number.free_path(&self.directory));
        let keeps_file = self.pool.has_room();
        let gone = if keeps_file { self.disk.rename(&path, &free) } else { self.disk.remove(&path) };
        if let Err(error) = gone {
            // Nothing behind it may go before it.
            self.segments.put_back(segment);
            return Err(error);
        }
        if !self.mistakes.recycle_before_sync {
            self.disk.sync_directory(&self.directory)?;
        }
        if !keeps_file {
            return Ok(());
        }
        // Behind the rename: nobody finds it any more who could still link it.
        if is_linked_elsewhere(&*self.disk, &free)? && !self.mistakes.recycle_linked {
            return self.disk.remove(&free);
        }
        self.pool.free.lock().push(number);
        Ok(())
    }
}

/// Whether the file has a further name: a backup's, whose bytes must stay.
pub(super) fn is_linked_elsewhere(disk: &dyn Disk, path: &std::path::Path) -> Result<bool, DiskError> {
    Ok(disk.open(path, Access::Read, Caching::Buffered)?.link_count()? > 1)
}
