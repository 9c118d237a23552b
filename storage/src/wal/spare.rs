//! Segments prepared ahead of time: allocated, zeroed, synced, and named, so that beginning one is a single write.
//!
//! A spare is the log's disk-space reserve. While there is none, the writer does not end its segment, and says that new
//! events should be refused: [`SpaceProblem`].

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::config::{Preparation, WalConfig};
use super::segment::SegmentNumber;
use crate::disk::{Access, Caching, Disk, DiskError};

/// How long the background thread waits before it tries a full disk again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Why there is no prepared segment, if there should be one.
#[derive(Clone, Debug, Default)]
pub struct SpaceProblem {
    reason: Arc<Mutex<Option<String>>>,
}

impl SpaceProblem {
    /// The reason in words; `None` while all is well. While there is one, new events should be refused.
    pub fn reason(&self) -> Option<String> {
        self.reason.lock().clone()
    }

    fn set(&self, reason: Option<String>) {
        *self.reason.lock() = reason;
    }
}

/// Makes one spare.
#[derive(Clone, Debug)]
struct Maker {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    bytes: u64,
    caching: Caching,
    sync_directory: bool,
}

impl Maker {
    fn make(&self, number: SegmentNumber) -> Result<(), DiskError> {
        let preparing = number.preparing_path(&self.directory);
        match self.disk.remove(&preparing) {
            Ok(()) => {}
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
        let file = self.disk.open(&preparing, Access::CreateNew, self.caching)?;
        let made = file.allocate_zeroed(self.bytes).and_then(|()| file.sync_all());
        if let Err(error) = made {
            // The space it took may be what others need; a failure to give it back changes nothing.
            let _ = self.disk.remove(&preparing);
            return Err(error);
        }
        file.drop_cache(0, self.bytes)?;
        self.disk.rename(&preparing, &number.path(&self.directory))?;
        if self.sync_directory || number == SegmentNumber::FIRST {
            // Before any commit in it: an acknowledged event must not lie in a file that can lose its name.
            self.disk.sync_directory(&self.directory)?;
        }
        Ok(())
    }
}

/// The source of prepared segments.
#[derive(Debug)]
pub(super) struct Spares {
    maker: Maker,
    problem: SpaceProblem,
    progress: Arc<Progress>,
    background: Option<Background>,
}

/// What the background thread has got done, for those who wait for it.
#[derive(Debug)]
struct Progress {
    done: Mutex<Done>,
    changed: Condvar,
}

#[derive(Debug)]
struct Done {
    /// The greatest number prepared; segments are prepared in order.
    ready: SegmentNumber,
    /// Counts failed attempts, so that a waiter notices one that ended after it began to wait.
    failures: u64,
    /// The last failure, for the one who waits for it.
    failure: Option<DiskError>,
}

#[derive(Debug)]
struct Background {
    wanted: Option<SyncSender<SegmentNumber>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Background {
    fn drop(&mut self) {
        // Closing the channel is the signal to end.
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Spares {
    /// `ready`: the greatest segment number whose file exists already.
    pub(super) fn new(disk: Arc<dyn Disk>, config: &WalConfig, ready: SegmentNumber) -> Self {
        let maker = Maker {
            disk,
            directory: config.directory.clone(),
            bytes: config.segment_bytes,
            caching: match config.caching() {
                Caching::Buffered => Caching::Buffered,
                Caching::Direct | Caching::DirectSync => Caching::Direct,
            },
            sync_directory: !config.mistakes().rotate_without_sync,
        };
        let problem = SpaceProblem::default();
        let done = Done { ready, failures: 0, failure: None };
        let progress = Arc::new(Progress { done: Mutex::new(done), changed: Condvar::new() });
        let background = match config.preparation {
            Preparation::Inline => None,
            Preparation::Background => {
                Some(Background::start(maker.clone(), problem.clone(), Arc::clone(&progress)))
            }
        };
        Self { maker, problem, progress, background }
    }

    pub(super) fn problem(&self) -> SpaceProblem {
        self.problem.clone()
    }

    /// Whether the file of this segment is prepared.
    pub(super) fn is_ready(&self, number: SegmentNumber) -> bool {
        self.progress.done.lock().ready >= number
    }

    /// Asks for a segment ahead of its use; made at once where there is no background thread.
    pub(super) fn prepare(&self, number: SegmentNumber) {
        if self.is_ready(number) {
            return;
        }
        match &self.background {
            None => attempt(&self.maker, number, &self.problem, &self.progress),
            Some(background) => {
                if let Some(wanted) = &background.wanted {
                    // Full: the same wish is already waiting, for the writer asks for one segment at a time.
                    let _ = wanted.try_send(number);
                }
            }
        }
    }

    /// Returns when the file is there, or with the reason of the attempt that failed meanwhile.
    pub(super) fn wait(&self, number: SegmentNumber) -> Result<(), DiskError> {
        let failures_before = self.progress.done.lock().failures;
        self.prepare(number);
        let mut done = self.progress.done.lock();
        while done.ready < number {
            if done.failures != failures_before
                && let Some(failure) = done.failure.take()
            {
                return Err(failure);
            }
            self.progress.changed.wait(&mut done);
        }
        Ok(())
    }
}

fn attempt(maker: &Maker, number: SegmentNumber, problem: &SpaceProblem, progress: &Progress) {
    let made = maker.make(number);
    let mut done = progress.done.lock();
    match made {
        Ok(()) => {
            problem.set(None);
            done.ready = number;
        }
        Err(error) => {
            problem.set(Some(format!("no next segment: {error}")));
            done.failures += 1;
            done.failure = Some(error);
        }
    }
    progress.changed.notify_all();
}

impl Background {
    fn start(maker: Maker, problem: SpaceProblem, progress: Arc<Progress>) -> Self {
        let (wanted, wishes) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("wal-segments".to_owned())
            .spawn(move || serve(&maker, &wishes, &problem, &progress))
            .expect("the system can start a thread");
        Self { wanted: Some(wanted), thread: Some(thread) }
    }
}

fn serve(maker: &Maker, wishes: &Receiver<SegmentNumber>, problem: &SpaceProblem, progress: &Progress) {
    let mut wish = wishes.recv().ok();
    while let Some(number) = wish {
        if progress.done.lock().ready < number {
            attempt(maker, number, problem, progress);
        }
        wish = if progress.done.lock().ready >= number {
            wishes.recv().ok()
        } else {
            match wishes.recv_timeout(RETRY_AFTER) {
                Ok(next) => Some(next),
                Err(RecvTimeoutError::Timeout) => Some(number),
                Err(RecvTimeoutError::Disconnected) => None,
            }
        };
    }
}
