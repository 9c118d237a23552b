//! A thread around the [`Writer`]: everything that is appended while one sync is in flight is the next commit. No timer.
//!
//! ```text
//! framing thread   append -> | open buffer | --full--> | full buffers (bounded) |
//! log thread                      \\__ taken when there is no full one __/  write + sync -> observer -> sums, rotation
//! ```
//!
//! One mutex guards the open buffer; the framing thread holds it while it writes one frame, the log thread while it
//! takes the buffer away. Neither holds it across a system call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use std::collections::VecDeque;

use matchtape_schemas::frame::ChainError;
use matchtape_schemas::limits::FRAME_BYTES_MAX;
use matchtape_schemas::{FrameFlags, FrameHeader, Sequence};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::buffer::{BufferPool, CommitBuffer, Refusal};
use super::config::SyncPolicy;
use super::error::WalError;
use super::segments::Segments;
use super::space::{Lacking, SpaceProblem};
use super::writer::{Committed, Writer};
use crate::guard::caught;

/// The thread's name.
const THREAD: &str = "wal-commit";

/// How long a full disk is left alone before the next segment is tried again.
const FULL_DISK_RETRY: Duration = Duration::from_millis(200);

/// What an append does when the log is behind by all its buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It returns [`AppendError::Full`]; the observer's next `committed` says that there is room again.
    #[default]
    Refuse,
    /// It waits until there is room.
    Wait,
}

/// How the thread behaves.
#[derive(Clone, Copy, Debug)]
pub struct GroupCommitOptions {
    /// How many full buffers may wait besides the open one and the one being written.
    pub full_buffers_max: usize,
    /// What happens beyond that.
    pub when_full: WhenFull,
    /// How long the thread looks for work before it sleeps. Waking a sleeper costs tens of microseconds.
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

/// Told by the log thread what has become of the commits, in order.
pub trait CommitObserver: Send + 'static {
    /// The thread begins; called on it, before anything else.
    fn started(&mut self) {}
    /// One commit was written. Its `durable` is the last group end that is durable: what is behind it, inside a group
    /// that goes on, recovery would drop.
    fn committed(&mut self, committed: &Committed);
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

/// The log with its thread. Dropping it writes and syncs what was appended.
#[derive(Debug)]
pub struct GroupCommit {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<(), WalError>>>,
    segments: Segments,
    space: SpaceProblem,
}

#[derive(Debug)]
struct Shared {
    batches: Mutex<Batches>,
    /// For the log thread: there is something to do.
    work: Condvar,
    /// For a waiting appender: there is room.
    room: Condvar,
    /// Lets the log thread look for work without the lock.
    has_work: AtomicBool,
    wants_segment_end: AtomicBool,
    options: GroupCommitOptions,
}

#[derive(Debug)]
struct Batches {
    open: CommitBuffer,
    full: VecDeque<CommitBuffer>,
    pool: Arc<BufferPool>,
    /// A frame that ends the segment was appended and its segment is not sealed yet.
    ending: bool,
    /// The log thread sleeps, or is about to.
    sleeping: bool,
    closing: bool,
    ended: Option<Arc<WalError>>,
}

impl GroupCommit {
    /// Starts the thread.
    pub fn start(writer: Writer, observer: impl CommitObserver, options: GroupCommitOptions) -> Self {
        assert!(options.full_buffers_max > 0, "at least one full buffer may wait");
        let pool = Arc::clone(writer.buffers());
        let batches = Batches {
            open: pool.take(),
            full: VecDeque::with_capacity(options.full_buffers_max + 1),
            pool,
            ending: false,
            sleeping: false,
            closing: false,
            ended: None,
        };
        let shared = Arc::new(Shared {
            batches: Mutex::new(batches),
            work: Condvar::new(),
            room: Condvar::new(),
            has_work: AtomicBool::new(false),
            wants_segment_end: AtomicBool::new(writer.wants_segment_end()),
            options,
        });
        let segments = writer.segments();
        let space = writer.space_problem();
        let told = writer.durable_group_end();
        let log = LogThread {
            writer,
            observer,
            shared: Arc::clone(&shared),
            last_sync: Instant::now(),
            told,
            lacks_space: false,
        };
        let thread = std::thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || log.run())
            .expect("the system can start a thread");
        Self { shared, thread: Some(thread), segments, space }
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
        assert!(bytes <= FRAME_BYTES_MAX, "a frame has at most {FRAME_BYTES_MAX} bytes");
        let mut batches = self.shared.batches.lock();
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
        // Release: pairs with the Acquire of the log thread's look without the lock.
        self.shared.has_work.store(true, Ordering::Release);
        let wake = batches.sleeping;
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
        // Relaxed: only advice; nothing is read on the strength of it.
        self.shared.wants_segment_end.load(Ordering::Relaxed)
    }

    /// Says when new events should be refused for want of disk space.
    pub fn space_problem(&self) -> SpaceProblem {
        self.space.clone()
    }

    /// The segments of the log.
    pub fn segments(&self) -> Segments {
        self.segments.clone()
    }

    /// Writes, syncs and proves everything that was appended, and ends the thread.
    pub fn close(mut self) -> Result<(), WalError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), WalError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.shared.batches.lock().closing = true;
        self.shared.has_work.store(true, Ordering::Release);
        self.shared.work.notify_one();
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for GroupCommit {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // Whoever cares about the result calls `close`; the observer was told of a failure anyway.
            let _ = self.end();
        }
    }
}

impl Batches {
    fn close_open(&mut self) {
        let next = self.pool.take();
        self.full.push_back(std::mem::replace(&mut self.open, next));
    }

    /// The frame behind the open buffer's last one has to open a commit of its own.
    fn move_to_new_commit(&mut self, frame: FrameHeader) {
        let mut next = self.pool.take();
        self.open.carry_over(frame, &mut next);
        self.full.push_back(std::mem::replace(&mut self.open, next));
    }

    fn take(&mut self) -> Option<CommitBuffer> {
        if let Some(full) = self.full.pop_front() {
            return Some(full);
        }
        if self.open.is_empty() {
            return None;
        }
        let next = self.pool.take();
        Some(std::mem::replace(&mut self.open, next))
    }
}

struct LogThread<O> {
    writer: Writer,
    observer: O,
    shared: Arc<Shared>,
    last_sync: Instant,
    /// The last group end that the observer knows to be durable.
    told: Sequence,
    /// The disk was full at the last try.
    lacks_space: bool,
}

#[expect(
    clippy::large_enum_variant,
    reason = "made once per commit, and a box would be an allocation per commit"
)]
enum Next {
    Commit(CommitBuffer),
    Sync,
    Idle,
    Close,
}

impl<O: CommitObserver> LogThread<O> {
    fn run(mut self) -> Result<(), WalError> {
        // A panic, the observer's included, ends the log like a failed write: whoever waits for it has to be told.
        let result = caught(|| {
            self.observer.started();
            self.serve_and_finish()
        })
        .unwrap_or_else(|message| Err(WalError::Panicked { thread: THREAD, message }));
        let cause = match result {
            Ok(()) => {
                self.shared.batches.lock().ended = Some(Arc::new(WalError::Closed));
                return Ok(());
            }
            Err(WalError::Poisoned(cause)) => cause,
            Err(other) => Arc::new(other),
        };
        self.shared.batches.lock().ended = Some(Arc::clone(&cause));
        self.shared.room.notify_all();
        // An observer that panics here too has said what there is to say.
        let _ = caught(|| self.observer.failed(&cause));
        Err(WalError::Poisoned(cause))
    }

    fn serve_and_finish(&mut self) -> Result<(), WalError> {
        self.serve()?;
        // The last sync is announced like every other, before the log is gone.
        if self.writer.has_unsynced() {
            self.sync()?;
        }
        loop {
            match self.writer.finish() {
                Err(error) if error.may_pass() => self.wait_for_space(error)?,
                done => return done,
            }
        }
    }

    fn serve(&mut self) -> Result<(), WalError> {
        loop {
            match self.next() {
                Next::Commit(buffer) => self.commit(buffer)?,
                Next::Sync => self.sync()?,
                Next::Idle => match self.writer.idle() {
                    Err(error) if error.may_pass() => self.wait_for_space(error)?,
                    done => done?,
                },
                Next::Close => return Ok(()),
            }
        }
    }

    fn commit(&mut self, mut buffer: CommitBuffer) -> Result<(), WalError> {
        let ends_segment =
            buffer.last_frame().is_some_and(|frame| frame.flags.contains(FrameFlags::ENDS_SEGMENT));
        loop {
            match self.writer.write(&mut buffer) {
                Err(error) if error.may_pass() => self.wait_for_space(error)?,
                done => break done?,
            }
        }
        self.has_space();
        let mut committed = self.writer.share(buffer);
        committed.durable = self.writer.durable_group_end();
        self.told = committed.durable;
        self.observer.committed(&committed);
        drop(committed);
        if let SyncPolicy::Interval(every) = self.writer.config().sync
            && self.last_sync.elapsed() >= every
        {
            self.sync()?;
        }
        self.maintain()?;
        self.tell_durable();
        if ends_segment {
            self.shared.batches.lock().ending = false;
        }
        if self.writer.wants_segment_end() {
            let batches = self.shared.batches.lock();
            // Under the lock, so that a frame which has just ended the segment is not followed by another that does.
            self.shared.wants_segment_end.store(!batches.ending, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Sums and rotation.
    fn maintain(&mut self) -> Result<(), WalError> {
        loop {
            match self.writer.maintain() {
                Err(error) if error.may_pass() => self.wait_for_space(error)?,
                done => break done?,
            }
        }
        self.has_space();
        Ok(())
    }

    /// While the disk is too full, everything appended stays in memory: new events are refused by then, and a later try may
    /// succeed.
    fn wait_for_space(&mut self, error: WalError) -> Result<(), WalError> {
        self.writer.space_problem().set(Lacking::Log, Some(error.to_string()));
        let tried_before = std::mem::replace(&mut self.lacks_space, true);
        let mut batches = self.shared.batches.lock();
        if batches.closing {
            // Whoever closes does not wait for space, but one more try costs nothing.
            return if tried_before { Err(error) } else { Ok(()) };
        }
        batches.sleeping = true;
        self.shared.work.wait_for(&mut batches, FULL_DISK_RETRY);
        batches.sleeping = false;
        Ok(())
    }

    fn has_space(&mut self) {
        if self.lacks_space {
            self.lacks_space = false;
            self.writer.space_problem().set(Lacking::Log, None);
        }
    }

    fn sync(&mut self) -> Result<(), WalError> {
        self.writer.sync()?;
        self.last_sync = Instant::now();
        self.tell_durable();
        Ok(())
    }

    /// Whoever waits for what a sync has made durable is told, whichever sync it was.
    fn tell_durable(&mut self) {
        let durable = self.writer.durable_group_end();
        if durable > self.told {
            self.told = durable;
            self.observer.durable(durable);
        }
    }

    /// What to do next; sleeps if there is nothing.
    fn next(&mut self) -> Next {
        let shared = Arc::clone(&self.shared);
        let mut batches = shared.batches.lock();
        if let Some(next) = take_next(&shared, &mut batches) {
            return next;
        }
        drop(batches);
        spin(&shared.has_work, shared.options.spin);
        let deadline = self.deadline();
        batches = shared.batches.lock();
        loop {
            if let Some(next) = take_next(&shared, &mut batches) {
                return next;
            }
            batches.sleeping = true;
            let timed_out = match deadline {
                None => {
                    shared.work.wait(&mut batches);
                    false
                }
                Some((at, _)) => shared.work.wait_until(&mut batches, at).timed_out(),
            };
            batches.sleeping = false;
            if timed_out
                && batches.open.is_empty()
                && !batches.closing
                && let Some((_, next)) = deadline
            {
                return if next == Deadline::Sync { Next::Sync } else { Next::Idle };
            }
        }
    }

    fn deadline(&self) -> Option<(Instant, Deadline)> {
        if let SyncPolicy::Interval(every) = self.writer.config().sync
            && self.writer.has_unsynced()
        {
            return Some((self.last_sync + every, Deadline::Sync));
        }
        self.writer.has_unproven().then(|| (Instant::now() + self.shared.options.idle_after, Deadline::Idle))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Deadline {
    Sync,
    Idle,
}

fn take_next(shared: &Shared, batches: &mut Batches) -> Option<Next> {
    if let Some(buffer) = batches.take() {
        let more = !batches.full.is_empty() || batches.closing;
        shared.has_work.store(more, Ordering::Relaxed);
        if shared.options.when_full == WhenFull::Wait {
            shared.room.notify_one();
        }
        return Some(Next::Commit(buffer));
    }
    if batches.closing {
        return Some(Next::Close);
    }
    shared.has_work.store(false, Ordering::Relaxed);
    None
}

fn spin(has_work: &AtomicBool, limit: Duration) {
    let start = Instant::now();
    // Acquire: pairs with the Release in `append`.
    while !has_work.load(Ordering::Acquire) && start.elapsed() < limit {
        // Not a bare spin: on a busy machine the appender may be waiting for this very core.
        std::thread::yield_now();
    }
}
