//! Sealing the open segment before it is full.
//!
//! Where a segment ends is said by the frame that ends it, so that every replica cuts alike. Sealing therefore only asks: the
//! next frame that ends a group is to end the segment too. On an idle tape there is no next frame; whoever asks has to see to one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use matchtape_schemas::Sequence;

use super::batches::Shared;
use crate::wal::error::WalError;
use crate::wal::segments::{SegmentInfo, Segments};
use crate::wal::spare::NextSegment;

/// Asks for the end of segments, from any thread, and waits for it.
#[derive(Clone, Debug)]
pub struct SegmentSealer {
    pub(super) shared: Arc<Shared>,
    pub(super) segments: Segments,
    pub(super) next: NextSegment,
}

/// Why a segment was not sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The next segment cannot be prepared, so this one cannot end.
    #[error("no next segment: {0}")]
    NoNext(#[source] WalError),
    /// The log has ended.
    #[error(transparent)]
    Ended(Arc<WalError>),
    /// Not in time. It may still be.
    #[error("the segment is not sealed yet; it may still be")]
    TimedOut,
}

impl SegmentSealer {
    /// Every event up to here is in a sealed segment.
    pub fn sealed_through(&self) -> Sequence {
        self.segments.sealed_through()
    }

    /// The last sealed segment, if the log still has it.
    pub fn last_sealed(&self) -> Option<SegmentInfo> {
        self.segments.last_sealed()
    }

    /// Asks that the next frame that ends a group end its segment too. Returns when that was asked: first the next segment is
    /// prepared, so that no commit has to wait for it.
    pub fn ask(&self, deadline: Instant) -> Result<(), SealError> {
        if !self.next.wait(deadline).map_err(SealError::NoNext)? {
            return Err(SealError::TimedOut);
        }
        // Under the lock: a frame that ends the segment clears the wish, and one appended after this is to see it.
        let batches = self.shared.batches.lock();
        if let Some(cause) = &batches.ended {
            return Err(SealError::Ended(Arc::clone(cause)));
        }
        self.shared.wants_segment_end.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Returns when every event up to `through` is in a sealed segment.
    pub fn wait(&self, through: Sequence, deadline: Instant) -> Result<(), SealError> {
        let mut batches = self.shared.batches.lock();
        while self.segments.sealed_through() < through {
            if let Some(cause) = &batches.ended {
                return Err(SealError::Ended(Arc::clone(cause)));
            }
            let waited = self.shared.sealed.wait_until(&mut batches, deadline);
            if waited.timed_out() && self.segments.sealed_through() < through {
                return Err(SealError::TimedOut);
            }
        }
        Ok(())
    }
}
