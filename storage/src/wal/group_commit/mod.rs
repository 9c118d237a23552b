//! Threads around the [`Writer`]: what is appended while all of them write is the next commit. No timer.
//!
//! ```text
//! whoever frames    append -> | open buffer | --full--> | full buffers (bounded) |
//! log threads                     \\__ taken when there is no full one __/  place | write + sync | settle -> observer -> sums, rotation
//!                                                                          one at a time | side by side | in order, one at a time
//! ```
//!
//! One mutex guards the open buffer; whoever frames (one at a time) holds it while it writes one frame, a log thread while it
//! takes the buffer away. Neither holds it across a system call. Another guards the writer and the observer; it is taken first
//! where both are.
//!
//! This file is the appender's side; `batches` is what both sides share, `log` is the threads' side, `seal` ends segments early.

mod batches;
mod log;
mod seal;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use matchtape_schemas::frame::ChainError;
use matchtape_schemas::limits::FRAME_BYTES_MAX;
use matchtape_schemas::{FrameFlags, FrameHeader, Sequence};
use parking_lot::MutexGuard;

use self::batches::{Batches, Shared};
pub use self::seal::{SealError, SegmentSealer};
use super::buffer::{CommitBuffer, Refusal};
use super::error::WalError;
use super::segments::Segments;
use super::space::SpaceProblem;
use super::writer::{Committed, Writer};
use crate::guard::caught;

/// What an append does when the log is behind by all its buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It returns [`AppendError::Full`]; the observer's next `committed` says that there is room again.
    #[default]
    Refuse,
    /// It waits until there is room.
    Wait,
}

/// How the threads behave.
#[derive(Clone, Copy, Debug)]
pub struct GroupCommitOptions {
    /// How many full buffers may wait besides the open one and those being written.
    pub full_buffers_max: usize,
    /// What happens beyond that.
    pub when_full: WhenFull,
    /// How long a thread looks for work before it sleeps. Waking a sleeper costs tens of microseconds.
    pub spin: Duration,
    /// How long nothing must arrive before the idle block is written: it costs a sync that a commit might have to wait for.
    pub idle_after: Duration,
}

impl Default for GroupCommitOptions {
    fn default() -> Self {
        Self {
            full_buffers_max: 4,
            when_full: WhenFull::default(),
            spin: Duration::from_micros(20),
            idle_after: Duration::from_millis(2),
        }
    }
}

/// Told by the log's threads, one at a time, what has become of the commits, in order.
pub trait CommitObserver: Send + 'static {
    /// A thread begins; called on it, before anything else.
    fn started(&mut self) {}
    /// A commit is about to be written; whether it will be nobody knows. What can be done in advance is done here. Commits are told
    /// in order, but this one may be before the one in front of it is [`committed`](Self::committed).
    fn writing(&mut self, _commit: &CommitBuffer) {}
    /// One commit was written. Its `durable` is the last group end that is durable: what is behind it, inside a group
    /// that goes on, recovery would drop.
    fn committed(&mut self, committed: &Committed);
    /// Asked after commits were told: whether what was written is to be made durable now, whatever the policy. By it the observer
    /// bounds how much waits for the log to be durable.
    fn wants_sync(&mut self) -> bool {
        false
    }
    /// A sync outside a commit (an interval's, a rotation's, the last one) has made everything up to this group end
    /// durable.
    fn durable(&mut self, durable: Sequence);
    /// The log has ended after a failure. What was appended and not reported has an unknown outcome.
    fn failed(&mut self, error: &Arc<WalError>);
}

/// Why a frame was not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// All buffers are full; nothing was written, the tape's head did not move.
    #[error("the log is behind by all its buffers")]
    Full,
    /// The frame does not continue the one before.
    #[error(transparent)]
    Chain(ChainError),
    /// The log has ended.
    #[error(transparent)]
    Ended(Arc<WalError>),
}

/// The log with its threads. Dropping it writes and syncs what was appended.
#[derive(Debug)]
pub struct GroupCommit {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<(), WalError>>>,
    sealer: SegmentSealer,
    space: SpaceProblem,
}

impl GroupCommit {
    /// Starts the threads.
    pub fn start(writer: Writer, observer: impl CommitObserver, options: GroupCommitOptions) -> Self {
        assert!(options.full_buffers_max > 0, "at least one full buffer may wait");
        let (segments, next, space) = (writer.segments(), writer.next_segment(), writer.space_problem());
        let shared = Arc::new(Shared::new(Arc::clone(writer.buffers()), writer.wants_segment_end(), options));
        let threads = log::start(writer, observer, &shared);
        let sealer = SegmentSealer { shared: Arc::clone(&shared), segments, next };
        Self { shared, threads, sealer, space }
    }

    /// Appends one frame, which `write` writes at the start of the memory it is given (at a multiple of 16), with
    /// `FrameWriter`. At least `bytes` (header included, at most `FRAME_BYTES_MAX`) are there. Not written when it
    /// returns; the observer tells.
    ///
    /// On [`AppendError::Full`] and [`AppendError::Ended`] `write` was not called.
    pub fn append(
        &self,
        bytes: usize,
        write: impl FnOnce(&mut [u8]) -> FrameHeader,
    ) -> Result<FrameHeader, AppendError> {
        self.append_to(self.shared.batches.lock(), bytes, write)
    }

    /// The same, but [`AppendError::Full`] also while a log thread takes what there is.
    pub fn try_append(
        &self,
        bytes: usize,
        write: impl FnOnce(&mut [u8]) -> FrameHeader,
    ) -> Result<FrameHeader, AppendError> {
        let batches = self.shared.batches.try_lock().ok_or(AppendError::Full)?;
        self.append_to(batches, bytes, write)
    }

    fn append_to(
        &self,
        mut batches: MutexGuard<'_, Batches>,
        bytes: usize,
        write: impl FnOnce(&mut [u8]) -> FrameHeader,
    ) -> Result<FrameHeader, AppendError> {
        assert!(bytes <= FRAME_BYTES_MAX, "a frame has at most {FRAME_BYTES_MAX} bytes");
        self.make_room(&mut batches, bytes)?;
        let frame = write(batches.open.space());
        match batches.open.add(frame) {
            Ok(()) => {}
            Err(Refusal::Chain(error)) => return Err(AppendError::Chain(error)),
            Err(Refusal::NewCommit(frame)) => batches.move_to_new_commit(frame),
        }
        if frame.flags.contains(FrameFlags::ENDS_SEGMENT) {
            batches.ending = true;
            self.shared.wants_segment_end.store(false, Ordering::Relaxed);
            batches.close_open();
        }
        // Release: pairs with the Acquire of a log thread's look without the lock.
        self.shared.has_work.store(true, Ordering::Release);
        let wake = batches.wakes_one();
        drop(batches);
        if wake {
            self.shared.work.notify_one();
        }
        Ok(frame)
    }

    fn make_room(&self, batches: &mut MutexGuard<'_, Batches>, bytes: usize) -> Result<(), AppendError> {
        loop {
            if let Some(cause) = &batches.ended {
                return Err(AppendError::Ended(Arc::clone(cause)));
            }
            if batches.open.room() >= bytes {
                return Ok(());
            }
            if batches.full.len() < self.shared.options.full_buffers_max {
                batches.close_open();
                return Ok(());
            }
            match self.shared.options.when_full {
                WhenFull::Refuse => return Err(AppendError::Full),
                WhenFull::Wait => self.shared.room.wait(batches),
            }
        }
    }

    /// Whether the next frame should end the segment. The frame must then carry [`FrameFlags::ENDS_SEGMENT`] and end a
    /// group; it becomes the last of its commit.
    #[inline]
    pub fn wants_segment_end(&self) -> bool {
        // Relaxed: only advice; nothing is read on the strength of it. Whoever has to find a wish that was made before an
        // event (`SegmentSealer::ask`) has read the event by then.
        self.shared.wants_segment_end.load(Ordering::Relaxed)
    }

    /// Has a log thread ask its observer whether it [`wants_sync`](CommitObserver::wants_sync), as after a commit, though
    /// none may come.
    pub fn ask_for_sync(&self) {
        self.shared.batches.lock().asked_to_sync = true;
        self.shared.work.notify_one();
    }

    /// Says when new events should be refused for want of disk space.
    pub fn space_problem(&self) -> SpaceProblem {
        self.space.clone()
    }

    /// The segments of the log.
    pub fn segments(&self) -> Segments {
        self.sealer.segments.clone()
    }

    /// Ends segments before they are full.
    pub fn sealer(&self) -> SegmentSealer {
        self.sealer.clone()
    }

    /// Says that the log is soon to be closed. From now on it does not wait for room on a full disk: it tries once more, and
    /// then ends with the reason. Whoever still has frames for it would otherwise never be rid of them.
    pub fn hurry(&self) {
        self.shared.batches.lock().hurried = true;
        self.shared.closing.notify_all();
    }

    /// Writes, syncs and proves everything that was appended, and ends the threads.
    pub fn close(mut self) -> Result<(), WalError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), WalError> {
        self.shared.batches.lock().closing = true;
        self.shared.has_work.store(true, Ordering::Release);
        self.shared.work.notify_all();
        self.shared.closing.notify_all();
        let mut result = Ok(());
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(error) => result = error,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        result
    }
}

impl Drop for GroupCommit {
    fn drop(&mut self) {
        // Whoever cares about the result calls `close`; the observer was told of a failure anyway. Also when the owner
        // panics: it lets go of the directory next, and then no thread may write there.
        let _ = caught(|| self.end());
    }
}
