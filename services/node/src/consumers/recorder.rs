//! The thread that records what consumers have come to, and does what time alone does to them.
//!
//! One round at a time: everything that has changed goes to the store in one write, which is durable when it returns. Rounds
//! come at most every `record_interval`, or at once when somebody waits for one: whoever does so after each event has a round
//! for each, as fast as the disk makes them durable. A full disk does not end the recording: the round is written again until
//! there is room, and no other begins meanwhile. A panic ends it as a failed write does.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use matchtape_consumer::{Change, ConsumerStore, StoreFailure};
use matchtape_schemas::publish::PublishError;
use parking_lot::{Condvar, Mutex};

use super::error::ConsumerError;
use super::waiters::{Ticket, Waiters};

/// So often at most a round that found the disk full is written again.
const FULL_DISK_INTERVAL: Duration = Duration::from_millis(100);

/// What the recorder's thread is asked.
#[derive(Default)]
struct Asked {
    /// Rounds begun and ended; one that begins after a change has it.
    begun: u64,
    ended: u64,
    /// The last round somebody waits for.
    urgent: u64,
    /// Changes beside those of the machines: definitions, and what was deleted.
    extra: Vec<Vec<Change>>,
    waiting: Waiters,
    failed: Option<Arc<StoreFailure>>,
    stop: Option<Stop>,
    stopped: bool,
}

/// How the thread is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// With a last record.
    InOrder,
    /// As a crash would.
    AtOnce,
}

/// What the recorder's thread is asked, by everybody.
pub(super) struct Recorder {
    asked: Mutex<Asked>,
    bell: Condvar,
    /// Some machine has changed since the last round began.
    dirty: AtomicBool,
    /// When the thread looks at the machines next, for the sake of time: ns since the service's origin.
    alarm: AtomicU64,
}

/// What the thread does at each round.
pub(super) trait Round {
    /// The time since the service's origin.
    fn now(&self) -> Duration;
    /// Lets time pass for every machine; returns when it should again.
    fn tick(&mut self) -> Option<Duration>;
    /// What is to be recorded.
    fn collect(&mut self, last: bool) -> Vec<Vec<Change>>;
    /// It is durable.
    fn recorded(&mut self);
    /// Nothing more can be recorded, or the service has ended: everybody who waits has to look.
    fn ended(&mut self);
}

impl Recorder {
    pub(super) fn new() -> Self {
        Self {
            asked: Mutex::default(),
            bell: Condvar::new(),
            dirty: AtomicBool::new(false),
            alarm: AtomicU64::new(u64::MAX),
        }
    }

    /// A machine has changed, and next acts by itself at `quiet_until`.
    #[inline]
    pub(super) fn touched(&self, changed: bool, quiet_until: Option<Duration>) {
        // SeqCst with the thread's swap: either it sees the mark, or whoever marked sees that it has to ring.
        let first =
            changed && !self.dirty.load(Ordering::Relaxed) && !self.dirty.swap(true, Ordering::SeqCst);
        let sooner = quiet_until.is_some_and(|quiet| {
            let quiet = u64::try_from(quiet.as_nanos()).unwrap_or(u64::MAX);
            quiet < self.alarm.load(Ordering::Relaxed)
                && quiet < self.alarm.fetch_min(quiet, Ordering::SeqCst)
        });
        if first || sooner {
            // Under the lock, so that the ring does not fall between the thread's last look and its sleep.
            let _asked = self.asked.lock();
            self.bell.notify_one();
        }
    }

    /// Asks for a round that begins after now; it ends with what was changed before now being durable.
    fn ask(&self, extra: Option<Vec<Change>>) -> Result<u64, ConsumerError> {
        let mut asked = self.asked.lock();
        asked.check()?;
        asked.extra.extend(extra);
        let round = asked.begun + 1;
        asked.urgent = asked.urgent.max(round);
        self.bell.notify_one();
        Ok(round)
    }

    /// Whether a round has ended.
    #[cfg(test)]
    fn ended(&self, round: u64) -> Poll<Result<(), ConsumerError>> {
        self.asked.lock().ended(round)
    }

    /// The same; if not, `waker` is woken when it may have, until its ticket is given back.
    fn poll(
        &self,
        round: u64,
        ticket: &mut Option<Ticket>,
        waker: &Waker,
    ) -> Poll<Result<(), ConsumerError>> {
        let mut asked = self.asked.lock();
        let ended = asked.ended(round);
        if ended.is_pending() {
            asked.waiting.wait(ticket, waker);
        }
        ended
    }

    /// Why nothing can be asked any more.
    pub(super) fn check(&self) -> Result<(), ConsumerError> {
        self.asked.lock().check()
    }

    pub(super) fn stop(&self, how: Stop) {
        self.asked.lock().stop = Some(how);
        self.bell.notify_one();
    }

    /// The thread. Returns the store when it was stopped. A panic ends recording as a failed write does: nobody goes on
    /// waiting for a thread that is gone.
    pub(super) fn run<S: ConsumerStore>(&self, store: S, round: &mut dyn Round, interval: Duration) -> S {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.rounds(store, round, interval)));
        outcome.unwrap_or_else(|panic| {
            let mut asked = self.asked.lock();
            asked.failed = Some(Arc::new(StoreFailure("the thread that records them panicked".into())));
            asked.wake();
            drop(asked);
            round.ended();
            resume_unwind(panic)
        })
    }

    fn rounds<S: ConsumerStore>(&self, mut store: S, round: &mut dyn Round, interval: Duration) -> S {
        let mut next_round = Duration::ZERO;
        // What the last round found no room for.
        let mut unwritten: Vec<Vec<Change>> = Vec::new();
        loop {
            // First none: what a machine says while others are looked at lowers it again, and is not overwritten.
            self.alarm.store(u64::MAX, Ordering::SeqCst);
            let alarm = round.tick();
            let alarm = alarm.map_or(u64::MAX, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
            self.alarm.fetch_min(alarm, Ordering::SeqCst);
            let (extra, stop) = {
                let mut asked = self.asked.lock();
                if asked.stop == Some(Stop::AtOnce) || asked.failed.is_some() && asked.stop.is_some() {
                    asked.stopped = true;
                    asked.wake();
                    drop(asked);
                    round.ended();
                    return store;
                }
                let stop = asked.stop.is_some();
                let due = self.dirty.load(Ordering::SeqCst) && round.now() >= next_round;
                let wanted = unwritten.is_empty() && asked.urgent > asked.begun;
                if asked.failed.is_some() || !(stop || due || wanted) {
                    self.sleep(&mut asked, round.now(), next_round);
                    continue;
                }
                // The same round again, as it was: what came since is the next one's.
                let again = !unwritten.is_empty() && !stop;
                if !again {
                    asked.begun += 1;
                }
                ((!again).then(|| std::mem::take(&mut asked.extra)), stop)
            };
            // After the same round again there is another one, for what has changed since.
            self.dirty.store(extra.is_none(), Ordering::SeqCst);
            next_round = round.now() + interval;
            let mut groups = std::mem::take(&mut unwritten);
            if let Some(extra) = extra {
                groups.extend(extra);
                groups.extend(round.collect(stop));
            }
            let written = if groups.is_empty() { Ok(()) } else { store.write(&groups) };
            if written.is_ok() {
                round.recorded();
            }
            // Who stops does not wait for room.
            if !stop && written.as_ref().is_err_and(is_full_disk) {
                tracing::warn!(
                    "the disk is full: what consumers have come to is recorded when there is room"
                );
                unwritten = groups;
                next_round = round.now() + interval.max(FULL_DISK_INTERVAL);
                self.dirty.store(true, Ordering::SeqCst);
                continue;
            }
            let mut asked = self.asked.lock();
            match written {
                Ok(()) => asked.ended = asked.begun,
                Err(failure) => {
                    tracing::error!(error = %failure, "consumers are stopped: open the node again");
                    asked.failed = Some(Arc::new(failure));
                }
            }
            asked.stopped = stop;
            asked.wake();
            let failed = asked.failed.is_some();
            drop(asked);
            if failed || stop {
                round.ended();
            }
            if stop {
                return store;
            }
        }
    }

    fn sleep(&self, asked: &mut parking_lot::MutexGuard<'_, Asked>, now: Duration, next_round: Duration) {
        let alarm = Duration::from_nanos(self.alarm.load(Ordering::SeqCst));
        let dirty = self.dirty.load(Ordering::SeqCst) && asked.failed.is_none();
        let until = if dirty { alarm.min(next_round) } else { alarm };
        // An alarm that is overdue has been looked at just now; a moment later is soon enough.
        let left = until.saturating_sub(now).max(Duration::from_micros(100));
        self.bell.wait_for(asked, left.min(Duration::from_secs(3600)));
    }
}

/// Groups written before the failure are written again with the others: the last value of a key counts.
fn is_full_disk(failure: &StoreFailure) -> bool {
    matches!(failure.0.downcast_ref(), Some(PublishError::NoSpace))
}

impl Asked {
    fn check(&self) -> Result<(), ConsumerError> {
        match &self.failed {
            Some(failure) => Err(ConsumerError::Recording(Arc::clone(failure))),
            None if self.stopped || self.stop.is_some() => Err(ConsumerError::Closed),
            None => Ok(()),
        }
    }

    fn ended(&self, round: u64) -> Poll<Result<(), ConsumerError>> {
        if self.ended >= round {
            return Poll::Ready(Ok(()));
        }
        self.check().map_or_else(|error| Poll::Ready(Err(error)), |()| Poll::Pending)
    }

    fn wake(&mut self) {
        self.waiting.wake();
    }
}

/// Resolves when what was changed before is durable.
#[must_use = "a future does nothing unless awaited"]
pub struct Recorded {
    recorder: Arc<Recorder>,
    round: Result<u64, ConsumerError>,
    ticket: Option<Ticket>,
}

impl Recorded {
    pub(super) fn new(recorder: &Arc<Recorder>) -> Self {
        Self::with(recorder, None)
    }

    /// And these changes with it.
    pub(super) fn with(recorder: &Arc<Recorder>, extra: Option<Vec<Change>>) -> Self {
        Self { recorder: Arc::clone(recorder), round: recorder.ask(extra), ticket: None }
    }
}

impl Future for Recorded {
    type Output = Result<(), ConsumerError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match &this.round {
            Ok(round) => this.recorder.poll(*round, &mut this.ticket, context.waker()),
            Err(error) => Poll::Ready(Err(error.clone())),
        }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.recorder.asked.lock().waiting.leave(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use matchtape_consumer::Kept;

    use super::*;

    /// Finds the disk full so many times, then writes.
    struct Disk {
        full: usize,
        tried: Vec<Vec<Vec<Change>>>,
        failure: PublishError,
    }

    impl ConsumerStore for Disk {
        fn load(&mut self) -> Result<Vec<Kept>, StoreFailure> {
            Ok(Vec::new())
        }

        fn write(&mut self, groups: &[Vec<Change>]) -> Result<(), StoreFailure> {
            self.tried.push(groups.to_vec());
            if self.tried.len() <= self.full {
                return Err(StoreFailure(Box::new(self.failure)));
            }
            Ok(())
        }
    }

    /// Nothing of its own to record; an hour passes whenever somebody looks.
    #[derive(Default)]
    struct Hours {
        now: std::cell::Cell<u64>,
        recorded: usize,
        ended: bool,
    }

    impl Round for Hours {
        fn now(&self) -> Duration {
            self.now.set(self.now.get() + 1);
            Duration::from_secs(3600 * self.now.get())
        }

        fn tick(&mut self) -> Option<Duration> {
            None
        }

        fn collect(&mut self, _: bool) -> Vec<Vec<Change>> {
            Vec::new()
        }

        fn recorded(&mut self) {
            self.recorded += 1;
        }

        fn ended(&mut self) {
            self.ended = true;
        }
    }

    fn change(key: &[u8]) -> Vec<Change> {
        vec![Change::Delete { key: key.to_vec() }]
    }

    /// Runs until the first round is decided, then stops.
    fn run(full: usize, failure: PublishError) -> (Disk, Hours, Poll<Result<(), ConsumerError>>) {
        let recorder = Arc::new(Recorder::new());
        let round = recorder.ask(Some(change(b"one"))).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let mut hours = Hours::default();
                let disk = Disk { full, tried: Vec::new(), failure };
                (recorder.run(disk, &mut hours, Duration::from_secs(1)), hours)
            });
            let waited = loop {
                match recorder.ended(round) {
                    Poll::Pending => std::thread::yield_now(),
                    decided => break decided,
                }
            };
            recorder.stop(Stop::InOrder);
            let (disk, hours) = thread.join().unwrap();
            (disk, hours, waited)
        })
    }

    #[test]
    fn a_round_that_finds_the_disk_full_is_written_again_until_there_is_room() {
        let (disk, hours, waited) = run(3, PublishError::NoSpace);
        assert!(matches!(waited, Poll::Ready(Ok(()))), "{waited:?}");
        assert!(hours.recorded >= 1 && hours.ended);
        assert_eq!(disk.tried, vec![vec![change(b"one")]; 4], "the same each time");
    }

    #[test]
    fn any_other_failure_ends_the_recording() {
        let (disk, hours, waited) = run(3, PublishError::Poisoned);
        assert!(matches!(waited, Poll::Ready(Err(ConsumerError::Recording(_)))), "{waited:?}");
        assert_eq!((disk.tried.len(), hours.recorded, hours.ended), (1, 0, true));
    }

    #[test]
    fn whoever_waits_for_a_recorder_that_panics_is_told() {
        struct Breaks(bool);
        impl Round for Breaks {
            fn now(&self) -> Duration {
                Duration::ZERO
            }
            fn tick(&mut self) -> Option<Duration> {
                None
            }
            fn collect(&mut self, _last: bool) -> Vec<Vec<Change>> {
                panic!("as a mistake would")
            }
            fn recorded(&mut self) {}
            fn ended(&mut self) {
                self.0 = true;
            }
        }
        let recorder = Arc::new(Recorder::new());
        let waited = Recorded::new(&recorder);
        let mut breaks = Breaks(false);
        let thread = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let disk = Disk { full: 0, tried: Vec::new(), failure: PublishError::NoSpace };
            recorder.run(disk, &mut breaks, Duration::ZERO);
        }));
        assert!(thread.is_err() && breaks.0);
        let patience = std::time::Instant::now() + Duration::from_secs(60);
        let told = super::super::handle::block_on(waited, Some(patience)).expect("told at all");
        assert!(matches!(told, Err(ConsumerError::Recording(_))), "{told:?}");
        assert!(recorder.ask(None).is_err(), "nor is anything asked of it any more");
    }

    #[test]
    fn who_stops_while_the_disk_is_full_does_not_wait_for_room() {
        let recorder = Recorder::new();
        let round = recorder.ask(Some(change(b"one"))).unwrap();
        recorder.stop(Stop::InOrder);
        let mut hours = Hours::default();
        let disk = Disk { full: usize::MAX, tried: Vec::new(), failure: PublishError::NoSpace };
        recorder.run(disk, &mut hours, Duration::ZERO);
        assert!(matches!(recorder.ended(round), Poll::Ready(Err(_))), "it was not recorded, and says so");
        assert!(hours.ended);
    }
}
