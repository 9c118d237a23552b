//! A member's end: fetching, acknowledging, as a thread or as a future.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use matchtape_consumer::{Acked, Advisory, ConsumerName, Delivered, MemberId};
use matchtape_schemas::{Epoch, EventRef, Sequence};
use matchtape_storage::EventHandle;

use super::error::ConsumerError;
use super::one::{One, Pause, Tried, Until, Verb};
pub use super::recorder::Recorded;
use super::service::Shared;
use super::waiters::Ticket;
use crate::stages::{StageReached, ThreadWaker};

/// An event that was delivered. It holds the memory the event lies in.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub(super) delivered: Delivered,
    pub(super) event: EventHandle,
}

impl Delivery {
    /// The event's position: what is acknowledged.
    pub fn sequence(&self) -> Sequence {
        self.delivered.sequence
    }

    /// The delivery's own number: dense from 1 within a consumer.
    pub fn consumer_sequence(&self) -> u64 {
        self.delivered.consumer_sequence
    }

    /// How often the event has been delivered, this time included, as far as is recorded.
    pub fn delivery_count(&self) -> u32 {
        self.delivered.delivery_count
    }

    /// It may have been delivered before. Never false for an event that was.
    pub fn redelivered(&self) -> bool {
        self.delivered.redelivered
    }

    /// The term the event was sequenced in.
    pub fn epoch(&self) -> Epoch {
        self.event.event().epoch()
    }

    /// The event.
    pub fn event(&self) -> EventRef<'_> {
        self.event.event()
    }
}

/// What a member gets.
#[derive(Clone, Debug)]
pub enum Item {
    /// An event.
    Delivery(Delivery),
    /// Something about its events that it has to know before those that follow.
    Advisory(Advisory),
}

impl Item {
    /// The event, if it is one.
    pub fn delivery(&self) -> Option<&Delivery> {
        match self {
            Self::Delivery(delivery) => Some(delivery),
            Self::Advisory(_) => None,
        }
    }
}

/// One member of one consumer. Dropping it takes the member off, and what it has not acknowledged goes to others: at once,
/// or after a panic when its backoff is over.
pub struct ConsumerHandle {
    shared: Arc<Shared>,
    one: Arc<One>,
    member: MemberId,
    /// The answer it is given: zero for a member that gets what it fetches for sure.
    answer: u64,
    /// A member elsewhere stays attached between its requests.
    stays: bool,
}

impl ConsumerHandle {
    pub(super) fn new(shared: Arc<Shared>, one: Arc<One>, member: MemberId, stays: bool) -> Self {
        Self { shared, one, member, answer: 0, stays }
    }

    /// The consumer.
    pub fn consumer(&self) -> &ConsumerName {
        &self.one.name
    }

    /// This attachment.
    pub fn member(&self) -> MemberId {
        self.member
    }

    /// How soon the consumer gives up a member elsewhere that it does not hear of.
    pub fn member_timeout(&self) -> Result<Duration, ConsumerError> {
        Ok(self.one.lock()?.machine.definition().member_timeout)
    }

    /// Begins the answer to a request of a member elsewhere, whose way there may lose it. `received` is the number of the
    /// last answer that arrived, zero for none: what was in later ones comes again, and requests that are still under way
    /// get nothing more. Returns the number of this answer, which is what is fetched from here on.
    pub fn ask(&mut self, received: u64) -> Result<u64, ConsumerError> {
        self.answer = self.one.ask(self.member, received, self.shared.now())?;
        Ok(self.answer)
    }

    /// What there is now, at most `max`, or what to wait for before trying again. Reads the tape, from memory near its end
    /// and from disk otherwise: for executors that must not, the other half of [`fetch_async`](Self::fetch_async).
    pub fn attempt(&self, max: usize) -> Result<Attempt, ConsumerError> {
        Ok(match self.one.fetch(self.member, self.answer, max.max(1), self.shared.now())? {
            Tried::Items(items) => Attempt::Items(items),
            Tried::Nothing(pause) => Attempt::Wait(Ready::new(&self.shared, &self.one, pause)),
        })
    }

    /// Up to `max` events as soon as there is one; empty after `timeout`.
    pub fn fetch(&self, max: usize, timeout: Duration) -> Result<Vec<Item>, ConsumerError> {
        let deadline = Instant::now().checked_add(timeout);
        block_on(self.fetch_async(max), deadline).unwrap_or_else(|| Ok(Vec::new()))
    }

    /// The next event or advisory; `None` after `timeout`.
    pub fn next(&self, timeout: Duration) -> Result<Option<Item>, ConsumerError> {
        self.fetch(1, timeout).map(|items| items.into_iter().next())
    }

    /// Up to `max` events as soon as there is one. Under any executor; it reads the tape where it is polled. Dropping it
    /// before it resolves loses nothing.
    pub async fn fetch_async(&self, max: usize) -> Result<Vec<Item>, ConsumerError> {
        loop {
            match self.attempt(max)? {
                Attempt::Items(items) => return Ok(items),
                Attempt::Wait(ready) => ready.await?,
            }
        }
    }

    /// The event was dealt with; under the ack policy `all`, everything up to it was. Recorded within
    /// `record_interval`; a crash before repeats it.
    pub fn ack(&self, sequence: Sequence) -> Result<Acked, ConsumerError> {
        self.ack_each(&[sequence])
    }

    /// The same for several, in order, up to the first that fails.
    pub fn ack_each(&self, sequences: &[Sequence]) -> Result<Acked, ConsumerError> {
        self.one.settle(Verb::Ack, sequences, self.member, self.shared.now())
    }

    /// As [`ack`](Self::ack); returns when it is recorded, so that no crash repeats the event.
    pub fn ack_durable(&self, sequence: Sequence) -> Result<Acked, ConsumerError> {
        let acked = self.ack(sequence)?;
        block_on(self.recorded(), None).expect("there is no deadline")?;
        Ok(acked)
    }

    /// Resolves when all that was acknowledged before is recorded.
    pub fn recorded(&self) -> Recorded {
        Recorded::new(&self.shared.recorder)
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.one.waiting()
    }

    /// It could not be dealt with: it is delivered again after `delay`.
    pub fn nak(&self, sequence: Sequence, delay: Duration) -> Result<Acked, ConsumerError> {
        self.one.settle(Verb::Nak(delay), &[sequence], self.member, self.shared.now())
    }

    /// It is being worked on: its time begins anew.
    pub fn in_progress(&self, sequence: Sequence) -> Result<Acked, ConsumerError> {
        self.one.settle(Verb::InProgress, &[sequence], self.member, self.shared.now())
    }

    /// It is given up: never delivered again.
    pub fn term(&self, sequence: Sequence) -> Result<Acked, ConsumerError> {
        self.one.settle(Verb::Term, &[sequence], self.member, self.shared.now())
    }

    /// Takes the member off, also one that stays otherwise.
    pub fn detach(mut self) {
        self.stays = false;
    }
}

impl Drop for ConsumerHandle {
    fn drop(&mut self) {
        if !self.stays {
            let (member, now) = (self.member, self.shared.now());
            // A consumer that has ended has no members.
            let _ = self.one.change(true, |machine| match std::thread::panicking() {
                // What it was at may be what killed it.
                true => machine.lose(member, now),
                false => machine.detach(member, now),
            });
        }
    }
}

/// What came of trying.
pub enum Attempt {
    /// What there is, at least one.
    Items(Vec<Item>),
    /// Nothing now; it is of use to try again when this resolves.
    Wait(Ready),
}

/// Resolves when a member may have something.
#[must_use = "a future does nothing unless awaited"]
pub struct Ready {
    one: Arc<One>,
    pause: Pause,
    visible: Option<StageReached>,
    recorded: Option<Recorded>,
    ticket: Option<Ticket>,
    yielded: bool,
}

impl Ready {
    /// There may be something already: only others have their turn first.
    pub fn is_turn(&self) -> bool {
        self.pause.until == Until::Turn
    }

    fn new(shared: &Shared, one: &Arc<One>, pause: Pause) -> Self {
        let (mut visible, mut recorded) = (None, None);
        match pause.until {
            Until::Visible(sequence) => visible = Some(shared.visible(sequence)),
            Until::Recorded => recorded = Some(Recorded::new(&shared.recorder)),
            Until::Woken | Until::Turn => {}
        }
        let one = Arc::clone(one);
        Self { one, pause, visible, recorded, ticket: None, yielded: false }
    }
}

impl Future for Ready {
    type Output = Result<(), ConsumerError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.pause.until == Until::Turn {
            // Others of the executor get their turn, too.
            if std::mem::replace(&mut this.yielded, true) {
                return Poll::Ready(Ok(()));
            }
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(visible) = &mut this.visible
            && let Poll::Ready(reached) = Pin::new(visible).poll(context)
        {
            return Poll::Ready(reached.map(|_| ()).map_err(|_| ConsumerError::Closed));
        }
        if let Some(recorded) = &mut this.recorded
            && let Poll::Ready(ended) = Pin::new(recorded).poll(context)
        {
            return Poll::Ready(ended);
        }
        let woken = this.one.woken(this.pause, &mut this.ticket, context.waker());
        if woken { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.one.leave(ticket);
        }
    }
}

/// Waits on this thread; `None` after the deadline.
pub(super) fn block_on<F: Future>(future: F, deadline: Option<Instant>) -> Option<F::Output> {
    let waker = Waker::from(Arc::new(ThreadWaker(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        match deadline {
            None => std::thread::park(),
            Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                Some(left) if left > Duration::ZERO => std::thread::park_timeout(left),
                _ => return None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use matchtape_consumer::Definition;

    use crate::{Node, NodeOptions};

    #[test]
    fn whoever_gives_up_waiting_is_forgotten_though_nothing_ever_happens() {
        const SHORT: std::time::Duration = std::time::Duration::from_millis(1);
        let folder = tempfile::tempdir().unwrap();
        let node = Node::open(folder.path(), NodeOptions::default(), Vec::new()).unwrap();
        let (name, member) = ("c".parse().unwrap(), "m".parse().unwrap());
        node.consumers().add(&name, Definition::default()).unwrap();
        let handle = node.consumers().attach(&name, &member).unwrap();
        for _ in 0..20 {
            assert!(handle.fetch(1, SHORT).unwrap().is_empty());
            assert_eq!(handle.waiting(), 0);
        }
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| handle.fetch(1, 30_000 * SHORT));
            while handle.waiting() == 0 {
                std::thread::yield_now();
            }
            node.consumers().delete(&name).unwrap();
            assert!(waiting.join().unwrap().is_err(), "it is woken");
        });
    }
}
