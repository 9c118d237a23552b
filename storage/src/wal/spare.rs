//! Segments prepared ahead of time: the file of a released segment, or a new one full of zeros; marked as not begun, synced,
//! and only then named, so that beginning one is a single write and a commit in it changes no metadata.
//!
//! Zeros are written only as commits pay for them, so that they take a share of the device and never all of it. Measured on
//! a virtual disk (ext4): a 4 KiB commit takes 80 us into zeros and 165 us into extents that were only allocated.
//! `fallocate` before the zeros does not help: turning its unwritten extents into written ones costs more than growing the file
//! does (ext4 mounted with `discard`: 0.5 GB/s against 2.0).
//!
//! A spare is the log's disk-space reserve. While there is none, the writer does not end its segment; and if that is for
//! want of space, it says that new events should be refused: [`SpaceProblem`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::config::{Mistakes, Preparation, WalConfig};
use super::error::WalError;
use super::release::{Pool, is_linked_elsewhere};
use super::segment::{SegmentNumber, SpareMark};
use super::space::{Lacking, SpaceProblem};
use crate::disk::{Access, AlignedBytes, BLOCK_BYTES, Caching, Disk, DiskError, DiskFile};
use crate::guard::caught;

/// How long the background thread waits before it tries a full disk again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Bytes of zeros that each byte of a commit pays for: the next segment is ready when this one is half full.
const ZERO_BYTES_PER_BYTE: u64 = 2;

/// The least that is written at once in the background. A commit may have to wait behind it: under a light load such a write
/// comes with one commit in many, and has to be short.
const ZERO_PIECE_BYTES: usize = 128 << 10;

/// The most. Under a heavy load commits are as large themselves.
const ZERO_PIECE_BYTES_MAX: usize = 1 << 20;

/// Makes one spare.
#[derive(Debug)]
struct Maker {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    bytes: u64,
    pool: Arc<Pool>,
    mistakes: Mistakes,
    /// The negative control of a lost name.
    sync_directory: bool,
    /// The segment that an empty log begins with.
    first: SegmentNumber,
}

/// Why no spare was made.
#[derive(Debug)]
enum NotMade {
    Failed(DiskError),
    Closing,
}

impl Maker {
    /// `next_piece` is asked before every piece of zeros how much to write, and may block; `None`: no more.
    fn make(&self, number: SegmentNumber, next_piece: impl FnMut() -> Option<usize>) -> Result<(), NotMade> {
        let preparing = number.preparing_path(&self.directory);
        let filled = self.fill(number, next_piece);
        if matches!(filled, Err(NotMade::Failed(_))) {
            // The space it took may be what others need; a failure to give it back changes nothing.
            let _ = self.disk.remove(&preparing);
        }
        filled?;
        let named = self.disk.rename(&preparing, &number.path(&self.directory));
        named.and_then(|()| self.sync_name(number)).map_err(NotMade::Failed)
    }

    /// Before any commit in it: an acknowledged event must not lie in a file that can lose its name.
    fn sync_name(&self, number: SegmentNumber) -> Result<(), DiskError> {
        if self.sync_directory || number == self.first {
            return self.disk.sync_directory(&self.directory);
        }
        Ok(())
    }

    fn fill(
        &self,
        number: SegmentNumber,
        mut next_piece: impl FnMut() -> Option<usize>,
    ) -> Result<(), NotMade> {
        let path = number.preparing_path(&self.directory);
        let recycled = self.recycle(&path).map_err(NotMade::Failed)?;
        let file = if recycled { self.open(&path) } else { self.create(&path) };
        let file = file.map_err(NotMade::Failed)?;
        let bytes_max = usize::try_from(self.bytes).unwrap_or(ZERO_PIECE_BYTES_MAX).min(ZERO_PIECE_BYTES_MAX);
        let mut zeros = AlignedBytes::zeroed(bytes_max);
        // A sealed segment was cut behind its footer: zeros from there on.
        let mut at = if recycled { file.len_bytes().map_err(NotMade::Failed)? } else { 0 };
        at = at / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        while at < self.bytes {
            let wanted = next_piece().ok_or(NotMade::Closing)?.min(bytes_max);
            let piece = usize::try_from(self.bytes - at).unwrap_or(wanted).min(wanted);
            file.write_at(&zeros[..piece], at).map_err(NotMade::Failed)?;
            at += piece as u64;
        }
        if !(recycled && self.mistakes.recycle_without_mark) {
            SpareMark { number, recycled }.encode(&mut zeros);
            file.write_at(&zeros[..BLOCK_BYTES], 0).map_err(NotMade::Failed)?;
        }
        file.sync_all().map_err(NotMade::Failed)
    }

    /// Gives a released segment's file, if there is one that nobody else has linked, the name `path`.
    fn recycle(&self, path: &Path) -> Result<bool, DiskError> {
        while let Some(number) = self.pool.take() {
            let free = number.free_path(&self.directory);
            if is_linked_elsewhere(&*self.disk, &free)? && !self.mistakes.recycle_linked {
                self.disk.remove(&free)?;
                continue;
            }
            self.disk.rename(&free, path)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// An empty file.
    fn create(&self, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError> {
        match self.disk.remove(path) {
            Ok(()) => {}
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
        self.disk.open(path, Access::CreateNew, Caching::Buffered)?;
        self.open(path)
    }

    /// Written past the page cache where that exists: zeros would push out what readers need.
    fn open(&self, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError> {
        match self.disk.open(path, Access::ReadWrite, Caching::Direct) {
            Err(error) if error.is_direct_unsupported() => {
                self.disk.open(path, Access::ReadWrite, Caching::Buffered)
            }
            direct => direct,
        }
    }
}

/// The source of prepared segments.
#[derive(Debug)]
pub(super) struct Spares {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Segments are prepared before they are needed.
    ahead: bool,
}

#[derive(Debug)]
struct Shared {
    maker: Maker,
    problem: SpaceProblem,
    state: Mutex<State>,
    /// For the background thread: a wish, a payment, the end. For the writer: an attempt has ended.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// The greatest number prepared; segments are prepared in order.
    ready: SegmentNumber,
    wanted: SegmentNumber,
    /// So many wait: no pacing.
    waiting: usize,
    /// The last attempt failed: no pacing either, for while events are refused there are no commits to pay.
    retrying: bool,
    /// Bytes of zeros that commits have paid for and that are not written yet.
    paid_bytes: u64,
    /// Counts failed attempts, so that a waiter notices one that ended after it began to wait.
    failures: u64,
    /// The last failure, for the one who waits for it.
    failure: Option<DiskError>,
    closing: bool,
    /// No further segment will ever be prepared: a sync failed, or the background thread panicked.
    ended: Option<Arc<WalError>>,
}

/// The background thread's name.
const THREAD: &str = "wal-segments";

impl Drop for Spares {
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Spares {
    /// `ready`: the greatest segment number whose file exists already; `free`: released segments whose files do.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        config: &WalConfig,
        ready: SegmentNumber,
        free: Vec<SegmentNumber>,
    ) -> Self {
        let maker = Maker {
            disk,
            directory: config.directory.clone(),
            bytes: config.segment_bytes,
            pool: Pool::new(free, config.recycled_files_max),
            mistakes: config.mistakes(),
            sync_directory: !config.mistakes().rotate_without_sync,
            first: config.first_segment,
        };
        let state = State {
            ready,
            wanted: ready,
            waiting: 0,
            retrying: false,
            paid_bytes: 0,
            failures: 0,
            failure: None,
            closing: false,
            ended: None,
        };
        let shared = Arc::new(Shared {
            maker,
            problem: SpaceProblem::default(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let thread = match config.preparation {
            Preparation::Inline | Preparation::WhenNeeded => None,
            Preparation::Background => {
                let serving = Arc::clone(&shared);
                let thread = std::thread::Builder::new().name(THREAD.to_owned());
                Some(thread.spawn(move || serving.run()).expect("the system can start a thread"))
            }
        };
        Self { shared, thread, ahead: config.preparation != Preparation::WhenNeeded }
    }

    /// Where released segments go.
    pub(super) fn pool(&self) -> Arc<Pool> {
        Arc::clone(&self.shared.maker.pool)
    }

    pub(super) fn problem(&self) -> SpaceProblem {
        self.shared.problem.clone()
    }

    /// Whether this segment can be begun: its file is prepared, or is not wanted before.
    pub(super) fn is_ready(&self, number: SegmentNumber) -> bool {
        !self.ahead || self.shared.state.lock().ready >= number
    }

    /// Asks for a segment ahead of its use; made at once where there is no background thread.
    pub(super) fn prepare(&self, number: SegmentNumber) {
        if self.ahead {
            self.demand(number);
        }
    }

    fn demand(&self, number: SegmentNumber) {
        let mut state = self.shared.state.lock();
        if state.ready >= number {
            return;
        }
        state.wanted = number;
        drop(state);
        if self.thread.is_some() {
            self.shared.changed.notify_all();
        } else {
            self.shared.attempt(number, || Some(ZERO_PIECE_BYTES_MAX));
        }
    }

    /// A commit of so many bytes was written: it pays for some zeros in the next segment.
    pub(super) fn pay(&self, commit_bytes: usize) {
        let mut state = self.shared.state.lock();
        if state.ready >= state.wanted {
            return;
        }
        if self.thread.is_none() {
            // The one made ahead found no room: there may be some by now.
            if state.ended.is_none() {
                let number = state.ready.next();
                drop(state);
                self.shared.attempt(number, || Some(ZERO_PIECE_BYTES_MAX));
            }
            return;
        }
        let was_short = state.paid_bytes < ZERO_PIECE_BYTES as u64;
        state.paid_bytes += ZERO_BYTES_PER_BYTE * commit_bytes.next_multiple_of(BLOCK_BYTES) as u64;
        // One wake per piece: each costs microseconds.
        if was_short && state.paid_bytes >= ZERO_PIECE_BYTES as u64 {
            self.shared.changed.notify_all();
        }
    }

    /// Says when no further segment will ever be prepared.
    pub(super) fn check(&self) -> Result<(), WalError> {
        self.shared.state.lock().check()
    }

    /// Returns when the file is there, or with the reason of the attempt that failed meanwhile.
    pub(super) fn wait(&self, number: SegmentNumber) -> Result<(), WalError> {
        let failures_before = self.shared.state.lock().failures;
        self.demand(number);
        self.shared.wait(number, failures_before, None).map(|_| ())
    }

    /// For whoever wants the next segment ready before the writer does.
    pub(super) fn next_segment(&self) -> NextSegment {
        NextSegment { shared: Arc::clone(&self.shared), in_background: self.thread.is_some() }
    }
}

/// See [`Spares::next_segment`].
#[derive(Clone, Debug)]
pub(super) struct NextSegment {
    shared: Arc<Shared>,
    in_background: bool,
}

impl NextSegment {
    /// Returns when the segment that the writer asked for last is prepared: `false` if it is not by the deadline.
    ///
    /// Where the writer's own thread prepares segments there is nothing to wait for: it has done so, or will when it must.
    pub(super) fn wait(&self, deadline: Instant) -> Result<bool, WalError> {
        if !self.in_background {
            return Ok(true);
        }
        let (wanted, failures) = {
            let state = self.shared.state.lock();
            (state.wanted, state.failures)
        };
        self.shared.wait(wanted, failures, Some(deadline))
    }
}

impl State {
    fn check(&self) -> Result<(), WalError> {
        self.ended.as_ref().map_or(Ok(()), |cause| Err(WalError::Poisoned(Arc::clone(cause))))
    }
}

impl Shared {
    /// `false`: not by the deadline.
    fn wait(
        &self,
        number: SegmentNumber,
        failures_before: u64,
        deadline: Option<Instant>,
    ) -> Result<bool, WalError> {
        let mut state = self.state.lock();
        state.waiting += 1;
        self.changed.notify_all();
        let outcome = loop {
            if state.ready >= number {
                break Ok(true);
            }
            if let Err(error) = state.check() {
                break Err(error);
            }
            if state.closing {
                break Err(WalError::Closed);
            }
            if state.failures != failures_before
                && let Some(failure) = state.failure.take()
            {
                break Err(failure.into());
            }
            match deadline {
                None => self.changed.wait(&mut state),
                Some(deadline) if self.changed.wait_until(&mut state, deadline).timed_out() => {
                    break Ok(state.ready >= number);
                }
                Some(_) => {}
            }
        };
        state.waiting -= 1;
        outcome
    }

    fn run(&self) {
        if let Err(message) = caught(|| self.serve()) {
            self.problem.set(
                Lacking::NextSegment,
                Some(format!("no next segment: the thread {THREAD} panicked: {message}")),
            );
            self.state.lock().ended = Some(Arc::new(WalError::Panicked { thread: THREAD, message }));
            self.changed.notify_all();
        }
    }

    fn attempt(&self, number: SegmentNumber, next_piece: impl FnMut() -> Option<usize>) {
        let made = self.maker.make(number, next_piece);
        let mut state = self.state.lock();
        match made {
            Ok(()) => {
                self.problem.set(Lacking::NextSegment, None);
                state.ready = number;
                state.retrying = false;
                state.paid_bytes = 0;
            }
            Err(NotMade::Closing) => {}
            // Never again (crash rule 1): what else that device lost nobody knows. The writer ends with its next commit, which has to
            // be let through for that.
            Err(NotMade::Failed(error)) if error.is_sync() => {
                self.problem.set(Lacking::NextSegment, None);
                state.ended = Some(Arc::new(error.into()));
            }
            Err(NotMade::Failed(error)) => {
                self.problem.set(Lacking::NextSegment, Some(format!("no next segment: {error}")));
                state.retrying = true;
                state.failures += 1;
                state.failure = Some(error);
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    fn serve(&self) {
        let mut state = self.state.lock();
        while !state.closing && state.ended.is_none() {
            if state.ready >= state.wanted {
                self.changed.wait(&mut state);
                continue;
            }
            let number = state.ready.next();
            drop(state);
            self.attempt(number, || self.wait_for_payment());
            state = self.state.lock();
            if state.ready < number && !state.closing {
                self.changed.wait_for(&mut state, RETRY_AFTER);
            }
        }
    }

    /// Returns when the next piece of zeros is paid for, with its size; `None` when there is to be no further one.
    fn wait_for_payment(&self) -> Option<usize> {
        let mut state = self.state.lock();
        while state.paid_bytes < ZERO_PIECE_BYTES as u64
            && state.waiting == 0
            && !state.retrying
            && !state.closing
        {
            self.changed.wait(&mut state);
        }
        if state.closing {
            return None;
        }
        if state.waiting > 0 || state.retrying {
            state.paid_bytes = 0;
            return Some(ZERO_PIECE_BYTES_MAX);
        }
        let paid =
            usize::try_from(state.paid_bytes).unwrap_or(ZERO_PIECE_BYTES_MAX).min(ZERO_PIECE_BYTES_MAX);
        let piece = paid / BLOCK_BYTES * BLOCK_BYTES;
        state.paid_bytes -= piece as u64;
        Some(piece)
    }
}
