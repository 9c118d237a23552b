//! How far the tape has come, stage by stage, and waiting for it, as a thread or as a future.
//!
//! Raising a watermark costs one atomic store and one load when nobody waits for it. Waking whoever waits costs a system
//! call each, so it is a step of its own ([`Stages::wake`]): there may be something to do first.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use matchtape_schemas::publish::WaitError;
use matchtape_schemas::{Sequence, Stage, Watermarks};
use parking_lot::Mutex;

const OPEN: u8 = 0;
const CLOSED: u8 = 1;
const POISONED: u8 = 2;
const FENCED: u8 = 3;

#[derive(Default)]
struct Waiters {
    by_sequence: BTreeMap<(Sequence, u64), Waker>,
    next_id: u64,
}

struct StageCell {
    reached: AtomicU64,
    /// The lowest sequence somebody waits for, `u64::MAX` for none.
    lowest_awaited: AtomicU64,
    waiters: Mutex<Waiters>,
}

/// The watermarks of one tape. `accepted` is the ring's tail and lives there; the others are raised here.
pub(crate) struct Stages {
    cells: [StageCell; 5],
    state: AtomicU8,
}

fn index(stage: Stage) -> usize {
    match stage {
        Stage::Accepted => 0,
        Stage::Written => 1,
        Stage::Durable => 2,
        Stage::Replicated => 3,
        Stage::Visible => 4,
    }
}

impl Stages {
    /// Every stage at `head`: what recovery found is durable.
    pub(crate) fn new(head: Sequence) -> Self {
        Self {
            cells: std::array::from_fn(|_| StageCell {
                reached: AtomicU64::new(head.get()),
                lowest_awaited: AtomicU64::new(u64::MAX),
                waiters: Mutex::new(Waiters::default()),
            }),
            state: AtomicU8::new(OPEN),
        }
    }

    pub(crate) fn get(&self, stage: Stage) -> Sequence {
        // Acquire: pairs with the exchange in `raise`; who sees the watermark sees the events below it.
        Sequence(self.cells[index(stage)].reached.load(Ordering::Acquire))
    }

    /// All watermarks, read from the last stage to the first so that the chain holds in what is returned.
    pub(crate) fn watermarks(&self) -> Watermarks {
        let visible = self.get(Stage::Visible);
        let replicated = self.get(Stage::Replicated);
        let durable = self.get(Stage::Durable);
        let written = self.get(Stage::Written);
        Watermarks { accepted: self.get(Stage::Accepted).max(written), written, durable, replicated, visible }
    }

    /// The stage has been reached up to `sequence`, and who waits for that is woken; a lower value changes nothing.
    pub(crate) fn raise(&self, stage: Stage, sequence: Sequence) {
        self.reach(stage, sequence);
        self.wake(stage);
    }

    /// The first half of [`raise`](Self::raise): from now on whoever asks is told, but who sleeps still does.
    pub(crate) fn reach(&self, stage: Stage, sequence: Sequence) {
        // SeqCst, here, in `wake` and in `register`: either the waker sees the waiter or the waiter sees the watermark.
        self.cells[index(stage)].reached.fetch_max(sequence.get(), Ordering::SeqCst);
    }

    /// The second half: wakes whoever waits for what has been reached.
    pub(crate) fn wake(&self, stage: Stage) {
        let cell = &self.cells[index(stage)];
        let reached = cell.reached.load(Ordering::SeqCst);
        if cell.lowest_awaited.load(Ordering::SeqCst) > reached {
            return;
        }
        let woken = {
            let mut waiters = cell.waiters.lock();
            let later = waiters.by_sequence.split_off(&(Sequence(reached).next(), 0));
            let woken = std::mem::replace(&mut waiters.by_sequence, later);
            cell.lowest_awaited.store(lowest(&waiters), Ordering::SeqCst);
            woken
        };
        for waker in woken.into_values() {
            waker.wake();
        }
    }

    /// Ends every wait, now and later, that is not satisfied.
    pub(crate) fn end(&self, why: WaitError) {
        let state = match why {
            WaitError::Fenced => FENCED,
            WaitError::Poisoned => POISONED,
            WaitError::Closed | WaitError::TimedOut => CLOSED,
        };
        // The first reason stays.
        let _ = self.state.compare_exchange(OPEN, state, Ordering::SeqCst, Ordering::SeqCst);
        for cell in &self.cells {
            let woken = std::mem::take(&mut cell.waiters.lock().by_sequence);
            for waker in woken.into_values() {
                waker.wake();
            }
        }
    }

    /// Why waiting is over, if it is.
    pub(crate) fn ended(&self) -> Option<WaitError> {
        match self.state.load(Ordering::SeqCst) {
            OPEN => None,
            POISONED => Some(WaitError::Poisoned),
            FENCED => Some(WaitError::Fenced),
            _ => Some(WaitError::Closed),
        }
    }

    fn poll(&self, sequence: Sequence, stage: Stage) -> Option<Result<(), WaitError>> {
        if self.cells[index(stage)].reached.load(Ordering::SeqCst) >= sequence.get() {
            return Some(Ok(()));
        }
        self.ended().map(Err)
    }

    fn register(&self, sequence: Sequence, stage: Stage, waker: &Waker) -> u64 {
        let cell = &self.cells[index(stage)];
        let mut waiters = cell.waiters.lock();
        let id = waiters.next_id;
        waiters.next_id += 1;
        waiters.by_sequence.insert((sequence, id), waker.clone());
        cell.lowest_awaited.store(lowest(&waiters), Ordering::SeqCst);
        id
    }

    fn unregister(&self, sequence: Sequence, stage: Stage, id: u64) {
        let cell = &self.cells[index(stage)];
        let mut waiters = cell.waiters.lock();
        waiters.by_sequence.remove(&(sequence, id));
        cell.lowest_awaited.store(lowest(&waiters), Ordering::SeqCst);
    }

    /// Blocks until the stage is reached, waiting has ended, or `deadline` has passed.
    pub(crate) fn wait(
        &self,
        sequence: Sequence,
        stage: Stage,
        deadline: Option<Instant>,
    ) -> Result<(), WaitError> {
        if let Some(outcome) = self.poll(sequence, stage) {
            return outcome;
        }
        let waker = Waker::from(Arc::new(ThreadWaker(std::thread::current())));
        let id = self.register(sequence, stage, &waker);
        let outcome = loop {
            if let Some(outcome) = self.poll(sequence, stage) {
                break outcome;
            }
            match deadline {
                None => std::thread::park(),
                Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                    Some(left) if left > Duration::ZERO => std::thread::park_timeout(left),
                    _ => break Err(WaitError::TimedOut),
                },
            }
        };
        self.unregister(sequence, stage, id);
        outcome
    }
}

fn lowest(waiters: &Waiters) -> u64 {
    waiters.by_sequence.first_key_value().map_or(u64::MAX, |((sequence, _), _)| sequence.get())
}

/// Wakes a thread that is parked.
pub(crate) struct ThreadWaker(pub(crate) std::thread::Thread);

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Resolves, with the sequence, when it has reached a stage; see [`Node::wait_async`](crate::Node::wait_async).
#[must_use = "a future does nothing unless awaited"]
pub struct StageReached {
    stages: Arc<Stages>,
    sequence: Sequence,
    stage: Stage,
    registered: Option<u64>,
}

impl StageReached {
    pub(crate) fn new(stages: Arc<Stages>, sequence: Sequence, stage: Stage) -> Self {
        Self { stages, sequence, stage, registered: None }
    }

    fn forget(&mut self) {
        if let Some(id) = self.registered.take() {
            self.stages.unregister(self.sequence, self.stage, id);
        }
    }
}

impl Future for StageReached {
    type Output = Result<Sequence, WaitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(outcome) = self.stages.poll(self.sequence, self.stage) {
            self.forget();
            return Poll::Ready(outcome.map(|()| self.sequence));
        }
        self.forget();
        let id = self.stages.register(self.sequence, self.stage, context.waker());
        self.registered = Some(id);
        // It may have been reached between the first look and the registration.
        match self.stages.poll(self.sequence, self.stage) {
            Some(outcome) => {
                self.forget();
                Poll::Ready(outcome.map(|()| self.sequence))
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for StageReached {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watermarks_only_rise_and_wake_exactly_who_is_satisfied() {
        let stages = Arc::new(Stages::new(Sequence(5)));
        stages.raise(Stage::Durable, Sequence(3));
        assert_eq!(stages.get(Stage::Durable), Sequence(5));
        let (near, far) = (Arc::clone(&stages), Arc::clone(&stages));
        let near = std::thread::spawn(move || near.wait(Sequence(7), Stage::Durable, None));
        let far = std::thread::spawn(move || far.wait(Sequence(9), Stage::Durable, None));
        stages.raise(Stage::Durable, Sequence(8));
        assert_eq!(near.join().unwrap(), Ok(()));
        assert!(!far.is_finished());
        stages.raise(Stage::Durable, Sequence(9));
        assert_eq!(far.join().unwrap(), Ok(()));
    }

    #[test]
    fn every_wait_ends_when_the_log_is_poisoned_and_the_first_reason_stays() {
        let stages = Arc::new(Stages::new(Sequence::ZERO));
        let waiting = Arc::clone(&stages);
        let waiting = std::thread::spawn(move || waiting.wait(Sequence(1), Stage::Visible, None));
        stages.end(WaitError::Poisoned);
        stages.end(WaitError::Closed);
        assert_eq!(waiting.join().unwrap(), Err(WaitError::Poisoned));
        assert_eq!(stages.wait(Sequence(1), Stage::Durable, None), Err(WaitError::Poisoned));
        assert_eq!(stages.wait(Sequence(0), Stage::Durable, None), Ok(()), "what was reached stays reached");
    }

    #[test]
    fn a_wait_with_a_deadline_times_out_without_leaving_a_waiter() {
        let stages = Stages::new(Sequence::ZERO);
        let deadline = Some(Instant::now() + Duration::from_millis(5));
        assert_eq!(stages.wait(Sequence(1), Stage::Durable, deadline), Err(WaitError::TimedOut));
        assert!(stages.cells[index(Stage::Durable)].waiters.lock().by_sequence.is_empty());
    }

    #[test]
    fn no_wake_up_is_lost_between_raising_and_waiting() {
        let stages = Arc::new(Stages::new(Sequence::ZERO));
        let raiser = Arc::clone(&stages);
        let raiser = std::thread::spawn(move || {
            (1..=20_000).for_each(|at| raiser.raise(Stage::Durable, Sequence(at)))
        });
        for at in 1..=20_000 {
            stages.wait(Sequence(at), Stage::Durable, None).unwrap();
        }
        raiser.join().unwrap();
    }

    #[test]
    fn futures_resolve_and_dropped_ones_leave_no_waiter() {
        let stages = Arc::new(Stages::new(Sequence::ZERO));
        let mut context = Context::from_waker(Waker::noop());
        let mut dropped = StageReached::new(Arc::clone(&stages), Sequence(1), Stage::Visible);
        assert!(Pin::new(&mut dropped).poll(&mut context).is_pending());
        drop(dropped);
        assert!(stages.cells[index(Stage::Visible)].waiters.lock().by_sequence.is_empty());
        let mut reached = StageReached::new(Arc::clone(&stages), Sequence(1), Stage::Visible);
        assert!(Pin::new(&mut reached).poll(&mut context).is_pending());
        stages.raise(Stage::Visible, Sequence(1));
        assert_eq!(Pin::new(&mut reached).poll(&mut context), Poll::Ready(Ok(Sequence(1))));
    }
}
