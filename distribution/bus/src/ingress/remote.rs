//! A producer in a process of its own: the node's `Publisher`, through shared memory.
//!
//! ```text
//!   publish --> window --> ingress --> (node) ring --> log
//!                  ^                                    |
//!                  +------- ingress-replies <-----------+   accepted through, durable through, refused
//! ```
//!
//! Publishing never waits: a window that is full is `WouldBlock`. No thread works here: replies are taken in, and what had to
//! wait is sent, whenever a method is called or a future is polled; an engine that is idle calls [`RemotePublisher::poll`].
//! The one thread there may be only wakes tasks.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use iceoryx2::node::Node;
use iceoryx2::port::listener::{Listener, ListenerCreateError};
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::{Publisher, PublisherCreateError};
use iceoryx2::port::subscriber::{Subscriber, SubscriberCreateError};
use iceoryx2::port::{DegradationAction, DegradationCause, DegradationInfo};
use iceoryx2::prelude::{AllocationStrategy, BackpressureStrategy, PortFactory as _, PortName, ipc};
use matchtape_schemas::event::{EVENT_HEADER_BYTES, EventFlags, EventHeader, Payload, encode_event};
use matchtape_schemas::limits::EVENT_BYTES_MAX;
use matchtape_schemas::publish::{ProducerMark, Publish, PublishError, Published, WaitError};
use matchtape_schemas::{
    AcceptedTime, Event, EventTime, ProducerId, ProducerSequence, Sequence, Stage, Watermarks,
};

use super::config::{REPLIES_BUFFER, SAMPLE_BYTES_MAX, enough, producer_memory};
use super::message::{NodeState, ReplyHeader, RequestHeader, SessionState};
use super::outbox::{Ended, Outbox, Reached, WindowLimits};
use super::ports::{self, Opened, REQUESTS};
use super::remote_error::{ConnectError, RemoteEnded, RemotePublishError, RemoteWaitError};
use super::waking::Waking;
use crate::block::{BLOCK_BYTES, Block, blocks_for, bytes_of_mut};
use crate::config::{HISTORY_SAMPLES, LOANED_SAMPLES, shared_memory_available};
use crate::error::BusError;
use crate::name::BusName;
use crate::presence::Presence;
use crate::publisher::reserve_segment;
use crate::service;

/// How soon one who waits looks at everything again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// The same of a thread and a task, where the node wakes nobody.
const WITHOUT_WAKE_UPS: Duration = Duration::from_micros(20);
const TASKS_WITHOUT_WAKE_UPS: Duration = Duration::from_micros(100);

/// How a remote publisher behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteOptions {
    /// Events that may be under way: taken and not yet safe.
    pub window_events: usize,
    /// Bytes of events that may be under way.
    pub window_bytes: usize,
    /// When an event counts as safe and leaves the window: durable, replicated or visible. Until then it is sent again to
    /// a node that was restarted without it. None: when the node takes it for safe, which is durable, but for a node that does
    /// not sync its log: there it is written, and what the machine's end takes it takes from this process too.
    pub keep_until: Option<Stage>,
    /// How long a node may be silent before waiting for it ends. It says something every heartbeat.
    pub silence_max: Duration,
    /// How long [`RemotePublisher::connect`] waits for a node.
    pub connect_wait: Duration,
    /// How long waiting looks before it sleeps.
    pub spin: Duration,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            window_events: 1 << 16,
            window_bytes: 16 << 20,
            keep_until: None,
            silence_max: Duration::from_secs(3),
            connect_wait: Duration::from_secs(5),
            spin: Duration::from_micros(50),
        }
    }
}

/// What a remote publisher has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoteCounters {
    /// Samples handed to the node's queue.
    pub samples: u64,
    /// Samples that found the queue full, or nobody there.
    pub queue_full: u64,
    /// Replies taken in.
    pub replies: u64,
}

/// One producer's handle in a process of its own; there is at most one per producer at a time. What it does is [`Publish`].
///
/// It belongs to one thread (`!Send`): connect where it is used, or with [`crate::on_own_thread`]. Futures of
/// [`Publish::wait_async`] belong there too, and hold on to the producer until they are done or dropped.
pub struct RemotePublisher {
    handle: Rc<RefCell<Handle>>,
}

/// What a handle and its futures share.
struct Handle {
    /// None once the handle has ended: a port that lives is the producer.
    ports: Option<Ports>,
    outbox: Outbox,
    producer: ProducerId,
    options: RemoteOptions,
    start: Instant,
    /// Where an event is encoded.
    scratch: Box<[Block]>,
    /// Event times up to here need no look at the clock.
    horizon: EventTime,
    /// What the last publish that found no room needed.
    lacked_blocks: usize,
    /// Since the first task waited.
    waking: Option<Waking>,
    failed: Option<RemoteEnded>,
    counters: RemoteCounters,
}

/// Longer than anybody waits, and a time that the clock still has.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

// Dropped first to last: ports before the node whose tags let others clean up after a crash.
struct Ports {
    requests: Publisher<ipc::Service, [Block], RequestHeader>,
    notifier: Option<Notifier<ipc::Service>>,
    replies: Subscriber<ipc::Service, [SessionState], ReplyHeader>,
    listener: Option<Listener<ipc::Service>>,
    _node: Node<ipc::Service>,
    _presence: Presence,
}

impl RemotePublisher {
    /// Finds the node of `name`'s tape and becomes the producer, whose last event on the tape has to be safe: what an
    /// earlier process had published may vanish with the node until then. Waits for all of that at most
    /// [`RemoteOptions::connect_wait`].
    pub fn connect(
        name: &BusName,
        producer: ProducerId,
        options: RemoteOptions,
    ) -> Result<Self, ConnectError> {
        check(&options)?;
        let start = Instant::now();
        let deadline = start + options.connect_wait.min(FOR_EVER);
        let opened = loop {
            match ports::open(name) {
                Ok(opened) => break opened,
                Err(BusError::NotFound { .. } | BusError::Busy { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => return Err(error.into()),
            }
        };
        let mut handle = Handle::open(name, producer, options, opened, start)?;
        while handle.outbox.taken().is_none() {
            handle.turn();
            handle.check_ended()?;
            if Instant::now() >= deadline {
                let waited_ms = handle.options.connect_wait.as_millis() as u64;
                return Err(match (handle.outbox.mark(), handle.outbox.safe_at()) {
                    (Some(last), Some(stage)) => {
                        ConnectError::NotSafe { producer, last: last.producer_sequence, stage, waited_ms }
                    }
                    _ => ConnectError::NoAnswer { service: name.text(REQUESTS), waited_ms },
                });
            }
            handle.rest(deadline);
        }
        Ok(Self { handle: Rc::new(RefCell::new(handle)) })
    }

    /// Takes in replies and sends what had to wait. An engine with nothing to publish calls it now and then: a queue that
    /// was full, or a node that was restarted, needs it. Returns how many events are not yet safe.
    pub fn poll(&mut self) -> Result<usize, RemoteEnded> {
        let mut handle = self.handle.borrow_mut();
        handle.turn();
        handle.check_ended()?;
        Ok(handle.outbox.len())
    }

    /// Events that were taken and are not yet safe.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.handle.borrow().outbox.len()
    }

    /// What has been done so far.
    #[must_use]
    pub fn counters(&self) -> RemoteCounters {
        self.handle.borrow().counters
    }
}

impl Publish for RemotePublisher {
    type At = ProducerSequence;
    type PublishError = RemotePublishError;
    type WaitError = RemoteWaitError;
    type Reached = RemoteReached;

    fn producer(&self) -> ProducerId {
        self.handle.borrow().producer
    }

    /// Taken here, or by an earlier process and safe (see [`RemoteOptions::keep_until`]).
    fn last(&self) -> Option<ProducerSequence> {
        self.handle.borrow().last()
    }

    fn accepted(&self) -> Option<ProducerMark> {
        self.handle.borrow().outbox.mark()
    }

    /// As the node last said.
    fn watermarks(&self) -> Watermarks {
        self.handle.borrow().outbox.node().map(|node| node.watermarks).unwrap_or_default()
    }

    fn publish(&mut self, event: &Event) -> Result<Published<ProducerSequence>, RemotePublishError> {
        self.publish_group(std::slice::from_ref(event))
    }

    fn publish_group(&mut self, events: &[Event]) -> Result<Published<ProducerSequence>, RemotePublishError> {
        let mut handle = self.handle.borrow_mut();
        let bytes = events.iter().map(Event::encoded_len).sum();
        let numbers = events.iter().map(|event| (event.producer_sequence, event.event_time));
        handle.take(numbers, bytes, |handle| {
            for (index, event) in events.iter().enumerate() {
                let last = index + 1 == events.len();
                handle.encode(
                    event.encoded_len(),
                    event.producer_sequence,
                    event.flags,
                    last,
                    |out, producer| {
                        encode_event(event, producer, out);
                    },
                );
            }
        })
    }

    fn publish_payload<P: Payload>(
        &mut self,
        header: EventHeader,
        payload: &P,
    ) -> Result<Published<ProducerSequence>, RemotePublishError> {
        let mut handle = self.handle.borrow_mut();
        let length = EVENT_HEADER_BYTES + payload.encoded_len();
        let number = header.producer_sequence;
        handle.take(std::iter::once((number, header.event_time)), length, |handle| {
            handle.encode(length, number, header.flags, true, |out, producer| {
                EventHeader { kind: P::KIND, producer, length: length as u32, ..header }.encode(out);
                payload.encode(&mut out[EVENT_HEADER_BYTES..]);
            });
        })
    }

    fn wait(&mut self, at: ProducerSequence, stage: Stage) -> Result<Sequence, RemoteWaitError> {
        self.handle.borrow_mut().wait(at, stage, None)
    }

    fn wait_for(
        &mut self,
        at: ProducerSequence,
        stage: Stage,
        limit: Duration,
    ) -> Result<Sequence, RemoteWaitError> {
        self.handle.borrow_mut().wait(at, stage, Instant::now().checked_add(limit))
    }

    fn wait_async(&mut self, at: ProducerSequence, stage: Stage) -> RemoteReached {
        RemoteReached { handle: Rc::clone(&self.handle), at, stage, since: Instant::now() }
    }

    fn wait_for_room(&mut self, events: usize) -> Result<(), RemoteWaitError> {
        let mut handle = self.handle.borrow_mut();
        let since = Instant::now();
        // As in a node: more than the window has are there when it is empty.
        let events = events.min(handle.options.window_events);
        loop {
            handle.turn();
            if handle.outbox.has_room(events, handle.lacked_blocks) {
                return Ok(());
            }
            let until = handle.patience(since, None)?;
            handle.rest(until);
        }
    }
}

/// Resolves when a producer's event has reached a stage; see [`Publish::wait_async`].
///
/// `!Send`, unlike that of a publisher inside the node: no thread works for a producer outside, so it is the future that takes
/// in replies and sends what had to wait, through the ports that publishing uses. For another thread to do so, each publish
/// would have to take a lock (with `ipc_threadsafe::Service` one in each of its half a dozen calls of a port), and to wait for
/// whoever has it: a publish never waits. An engine on an executor of many threads has its producer on a `LocalSet`, or on a
/// thread of its own.
#[must_use = "a future does nothing unless awaited"]
pub struct RemoteReached {
    handle: Rc<RefCell<Handle>>,
    at: ProducerSequence,
    stage: Stage,
    since: Instant,
}

impl Future for RemoteReached {
    type Output = Result<Sequence, RemoteWaitError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut handle = self.handle.borrow_mut();
        // First: what comes after it rings again.
        handle.hush();
        handle.turn();
        if let Some(outcome) = handle.outcome(self.at, self.stage) {
            return Poll::Ready(outcome);
        }
        match handle.patience(self.since, None).and_then(|_| handle.arm(context.waker())) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl Handle {
    fn open(
        name: &BusName,
        producer: ProducerId,
        options: RemoteOptions,
        opened: Opened,
        start: Instant,
    ) -> Result<Self, BusError> {
        let Opened { presence, requests, replies, wake_node, wake_producers, node } = opened;
        let internal = |doing, cause: String| BusError::Internal { doing, cause };
        let slots = requests.static_config().max_publishers();
        let no_slot = |what| BusError::NoFreeSlot {
            service: name.text(REQUESTS),
            what,
            setting: ports::PRODUCER_SLOTS,
            slots,
        };
        let required = producer_memory(ports::queue_samples(&requests));
        enough("a producer", required, shared_memory_available()?)?;
        let listener = match wake_producers {
            None => None,
            Some(wake) => Some(wake.listener_builder().create().map_err(|error| match error {
                ListenerCreateError::ExceedsMaxSupportedListeners => no_slot("producer"),
                other => internal("creating a producer's listener", format!("{other:?}")),
            })?),
        };
        let subscriber = replies
            .subscriber_builder()
            .buffer_size(replies.static_config().subscriber_max_buffer_size())
            .history_request(HISTORY_SAMPLES)
            // A node that cannot be reached is silent, and waiting for it ends.
            .set_degradation_handler(|_: DegradationCause, _: &DegradationInfo| DegradationAction::Warn)
            .create()
            .map_err(|error| match error {
                SubscriberCreateError::ExceedsMaxSupportedSubscribers => no_slot("producer"),
                other => internal("creating a producer's subscriber", format!("{other:?}")),
            })?;
        let port_name = PortName::new(&ports::producer_port_name(producer))
            .map_err(|error| internal("naming a producer's port", format!("{error:?}")))?;
        let publisher = requests
            .publisher_builder()
            .name(&port_name)
            // A full queue refuses: that is the back-pressure.
            .backpressure_strategy(BackpressureStrategy::DiscardData)
            // One segment of the computed size, made at start: nothing is allocated later.
            .allocation_strategy(AllocationStrategy::Static)
            .initial_max_slice_len(blocks_for(SAMPLE_BYTES_MAX))
            .max_loaned_samples(LOANED_SAMPLES)
            // As with a full queue nobody has it then, and the window keeps it.
            .set_degradation_handler(|_: DegradationCause, _: &DegradationInfo| DegradationAction::Warn)
            .create()
            .map_err(|error| match error {
                PublisherCreateError::ExceedsMaxSupportedPublishers => no_slot("producer"),
                other => internal("creating a producer's publisher", format!("{other:?}")),
            })?;
        match reserve_segment(name, &node, publisher.id()) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                enough("a producer", required, 0)?;
            }
            Err(error) => return Err(internal("reserving shared memory", error.to_string())),
        }
        let notifier = match wake_node {
            None => None,
            Some(wake) => Some(wake.notifier_builder().create().map_err(|error| {
                BusError::notifier(error, name.text(REQUESTS), ports::PRODUCER_SLOTS, slots)
            })?),
        };
        let limits = WindowLimits {
            events_max: options.window_events,
            blocks_max: options.window_bytes / BLOCK_BYTES,
            sample_blocks_max: blocks_for(SAMPLE_BYTES_MAX),
        };
        let port = publisher.id().value();
        Ok(Self {
            ports: Some(Ports {
                requests: publisher,
                notifier,
                replies: subscriber,
                listener,
                _node: node,
                _presence: presence,
            }),
            outbox: Outbox::new(name.tape(), producer, port, limits, options.keep_until),
            producer,
            options,
            start,
            scratch: vec![Block::ZERO; blocks_for(EVENT_BYTES_MAX)].into_boxed_slice(),
            horizon: EventTime::MIN,
            lacked_blocks: 0,
            waking: None,
            failed: None,
            counters: RemoteCounters::default(),
        })
    }

    fn last(&self) -> Option<ProducerSequence> {
        self.outbox.taken().flatten()
    }

    /// Takes events of these numbers and times, of so many bytes in all, if they may be taken now: then `encode` does.
    fn take(
        &mut self,
        events: impl ExactSizeIterator<Item = (ProducerSequence, EventTime)> + Clone,
        bytes: usize,
        encode: impl FnOnce(&mut Self),
    ) -> Result<Published<ProducerSequence>, RemotePublishError> {
        self.check_open()?;
        let limits = self.outbox.limits();
        let terms = self.outbox.node().map(|node| node.terms);
        let limit = terms.map_or(usize::MAX, |terms| terms.group_events_max).min(limits.events_max);
        let count = events.len();
        let Some(last) = events.clone().last().map(|(number, _)| number) else {
            return Err(PublishError::GroupSize { events: 0, limit }.into());
        };
        let mut after = self.last();
        if let Some(taken) = after
            && last <= taken
        {
            self.turn();
            return Ok(Published::Already { last: taken });
        }
        let bytes_max = terms.map_or(usize::MAX, |terms| terms.group_bytes_max);
        let bytes_max = bytes_max.min(limits.blocks_max * BLOCK_BYTES);
        if bytes > bytes_max {
            return Err(PublishError::GroupBytes { bytes, limit: bytes_max }.into());
        }
        let mut first = last;
        for (index, (found, event_time)) in events.enumerate() {
            if let Some(after) = after
                && found <= after
            {
                return Err(PublishError::GroupOrder { after, found }.into());
            }
            if index == 0 {
                first = found;
            }
            after = Some(found);
            self.check_time(event_time)?;
        }
        if count > limit {
            return Err(PublishError::GroupSize { events: count, limit }.into());
        }
        let blocks = blocks_for(bytes);
        if !self.outbox.has_room(count, blocks) {
            self.turn();
            if !self.outbox.has_room(count, blocks) {
                self.lacked_blocks = blocks;
                return Err(PublishError::WouldBlock.into());
            }
        }
        self.lacked_blocks = 0;
        encode(self);
        self.turn();
        Ok(Published::New { first, last })
    }

    /// Adds one event to the window, as `encode` writes it but for the end of its group.
    fn encode(
        &mut self,
        length: usize,
        number: ProducerSequence,
        flags: EventFlags,
        last: bool,
        encode: impl FnOnce(&mut [u8], ProducerId),
    ) {
        let blocks = &mut self.scratch[..length / BLOCK_BYTES];
        let out = bytes_of_mut(blocks);
        encode(out, self.producer);
        let flags = flags.without(EventFlags::LATE).without(EventFlags::LAST_OF_GROUP);
        let ends = if last { EventFlags::LAST_OF_GROUP } else { EventFlags::NONE };
        out[6] = flags.with(ends).bits();
        self.outbox.take(number, blocks);
    }

    fn wait(
        &mut self,
        at: ProducerSequence,
        stage: Stage,
        deadline: Option<Instant>,
    ) -> Result<Sequence, RemoteWaitError> {
        let since = Instant::now();
        loop {
            self.turn();
            if let Some(outcome) = self.outcome(at, stage) {
                return outcome;
            }
            let until = self.patience(since, deadline)?;
            self.rest(until);
        }
    }

    /// What became of an event, as far as waiting for it goes.
    fn outcome(&self, at: ProducerSequence, stage: Stage) -> Option<Result<Sequence, RemoteWaitError>> {
        match self.outbox.reached(at, stage) {
            Reached::Yes(sequence) => Some(Ok(sequence)),
            Reached::Never => Some(Err(RemoteWaitError::NeverPublished(at))),
            Reached::NotYet => None,
        }
    }

    /// Until when to rest, unless there is a reason not to wait any longer than it was since `since`.
    fn patience(&self, since: Instant, deadline: Option<Instant>) -> Result<Instant, RemoteWaitError> {
        self.check_ended()?;
        match self.outbox.node().map(|node| node.state) {
            Some(NodeState::Open) | None => {}
            Some(NodeState::Closed) => return Err(WaitError::Closed.into()),
            Some(NodeState::Poisoned) => return Err(WaitError::Poisoned.into()),
            Some(NodeState::Fenced) => return Err(WaitError::Fenced.into()),
        }
        // Before the silence: this thread may have been held up for longer than both, and nobody was waited for then.
        let now = Instant::now();
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Err(WaitError::TimedOut.into());
        }
        // A successor is given its time from when it is waited for.
        let silent = self.outbox.silent_for(self.start.elapsed()).min(since.elapsed());
        if silent >= self.options.silence_max {
            return Err(RemoteWaitError::Disconnected { silent_ms: silent.as_millis() as u64 });
        }
        let silence_ends = now + (self.options.silence_max - silent).min(FOR_EVER);
        Ok(deadline.map_or(silence_ends, |deadline| deadline.min(silence_ends)))
    }

    /// The task is woken when a reply may have come, or when it is time to look at things again.
    fn arm(&mut self, waker: &Waker) -> Result<(), RemoteWaitError> {
        let listener = self.ports.as_ref().and_then(|ports| ports.listener.as_ref());
        let waking = match &mut self.waking {
            Some(waking) => waking,
            none => {
                let look_again = if listener.is_some() { LOOK_AGAIN } else { TASKS_WITHOUT_WAKE_UPS };
                let started = listener
                    .map(|listener| service::socket(listener).try_clone_to_owned())
                    .transpose()
                    .and_then(|socket| Waking::start(socket, look_again))
                    .map_err(|error| RemoteWaitError::Thread(error.to_string()))?;
                none.insert(started)
            }
        };
        waking.arm(waker);
        Ok(())
    }

    /// Forgets earlier wake-ups.
    fn hush(&self) {
        if let Some(listener) = self.ports.as_ref().and_then(|ports| ports.listener.as_ref()) {
            // A socket that fails wakes nobody: then it is looked again in time.
            let _ = listener.try_wait(|_| ());
        }
    }

    /// Returns when a reply may have come, at `until`, or when it is time to look at things again.
    fn rest(&mut self, until: Instant) {
        let Some(ports) = &self.ports else { return };
        let begun = Instant::now();
        while begun.elapsed() < self.options.spin {
            match ports.replies.has_samples() {
                Ok(false) => std::hint::spin_loop(),
                Ok(true) | Err(_) => return,
            }
        }
        let limit = until.saturating_duration_since(Instant::now()).min(LOOK_AGAIN);
        match &ports.listener {
            // Whatever ended it, the caller looks at everything again.
            Some(listener) => drop(service::sleep(listener, limit)),
            None => std::thread::sleep(limit.min(WITHOUT_WAKE_UPS)),
        }
    }

    /// Takes in what has come and sends what can be sent.
    fn turn(&mut self) {
        let Some(ports) = &self.ports else { return };
        let done = receive(ports, &mut self.outbox, &mut self.counters, self.start)
            .and_then(|()| send(ports, &mut self.outbox, &mut self.counters, self.start));
        if let Err(why) = done {
            self.failed = Some(RemoteEnded::Port(why));
        }
        if self.failed.is_some() || self.outbox.ended().is_some() {
            self.ports = None;
        }
    }

    fn check_ended(&self) -> Result<(), RemoteEnded> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let producer = self.producer;
        match self.outbox.ended() {
            None => Ok(()),
            Some(Ended::InUse { process }) => Err(RemoteEnded::InUse { producer, process: *process }),
            Some(Ended::Refused { reason }) => Err(RemoteEnded::Refused { producer, reason: reason.clone() }),
            Some(Ended::TapeWentBack { acknowledged, found }) => Err(RemoteEnded::TapeWentBack {
                producer,
                acknowledged: acknowledged.producer_sequence,
                found: found.map(|mark| mark.producer_sequence),
            }),
            Some(Ended::Superseded { found }) => {
                Err(RemoteEnded::Superseded { producer, found: found.producer_sequence })
            }
        }
    }

    fn check_open(&mut self) -> Result<(), RemotePublishError> {
        self.check_ended()?;
        let state = |outbox: &Outbox| outbox.node().map_or(NodeState::Open, |node| node.state);
        if state(&self.outbox) != NodeState::Open {
            // Another may have taken over.
            self.turn();
        }
        match state(&self.outbox) {
            NodeState::Open => Ok(()),
            NodeState::Closed => Err(PublishError::Closed.into()),
            NodeState::Poisoned => Err(PublishError::Poisoned.into()),
            NodeState::Fenced => Err(PublishError::Fenced.into()),
        }
    }

    fn check_time(&mut self, event_time: EventTime) -> Result<(), PublishError> {
        if event_time <= self.horizon {
            return Ok(());
        }
        let skew_ns_max = self.outbox.node().map_or(0, |node| node.terms.skew_ns_max);
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = AcceptedTime(i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX));
        self.horizon = EventTime(now.get().saturating_add(skew_ns_max));
        if event_time <= self.horizon {
            return Ok(());
        }
        Err(PublishError::EventTimeAhead { event_time, now, skew_ns_max })
    }
}

/// Takes in the replies that have come.
fn receive(
    ports: &Ports,
    outbox: &mut Outbox,
    counters: &mut RemoteCounters,
    start: Instant,
) -> Result<(), String> {
    // As many as can have come at a time; more are a matter of the next turn.
    for _ in 0..REPLIES_BUFFER {
        let Some(reply) = ports.replies.receive().map_err(|error| format!("{error:?}"))? else { break };
        counters.replies += 1;
        // A copy, so that what was checked is what is used.
        let header = *reply.user_header();
        outbox.reply(&header, reply.payload(), start.elapsed());
    }
    Ok(())
}

/// Sends what can be sent.
fn send(
    ports: &Ports,
    outbox: &mut Outbox,
    counters: &mut RemoteCounters,
    start: Instant,
) -> Result<(), String> {
    let now = start.elapsed();
    while let Some(request) = outbox.next(now) {
        let mut sample =
            ports.requests.loan_slice_uninit(request.blocks).map_err(|error| format!("{error:?}"))?;
        *sample.user_header_mut() = request.header;
        outbox.copy(&request, sample.payload_mut());
        // SAFETY: `copy` wrote every block of the request, which is as long as the loan.
        let receivers = unsafe { sample.assume_init() }.send().map_err(|error| format!("{error:?}"))?;
        if receivers == 0 {
            counters.queue_full += 1;
            outbox.not_sent(now);
            return Ok(());
        }
        counters.samples += 1;
        outbox.sent(&request, now);
        if let Some(notifier) = &ports.notifier {
            // The only errors left are about deadlines and event ids, and this service has neither.
            let _ = notifier.notify();
        }
    }
    Ok(())
}

fn check(options: &RemoteOptions) -> Result<(), ConnectError> {
    let wrong = |option, reason| Err(ConnectError::Option { option, reason });
    if !(1..=1 << 24).contains(&options.window_events) {
        return wrong("window_events", "from 1 to 16777216");
    }
    if !(EVENT_BYTES_MAX..=1 << 32).contains(&options.window_bytes) {
        return wrong(
            "window_bytes",
            "room for the largest event (48 KiB and a header) at least, 4 GiB at most",
        );
    }
    if matches!(options.keep_until, Some(Stage::Accepted | Stage::Written)) {
        return wrong(
            "keep_until",
            "durable, replicated or visible: what is not durable may have to be sent again",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use matchtape_schemas::{Epoch, TapeId};

    use super::super::config::IngressConfig;
    use super::super::intake::{IngressTerms, Intake, SafeAt};
    use super::*;
    use crate::config::{SHARED_MEMORY_DIR, WakeUp};
    use crate::name::TestName;

    fn open_node(test: &TestName, config: &IngressConfig) -> Result<Intake<()>, BusError> {
        let terms = IngressTerms {
            epoch: Epoch(1),
            skew_ns_max: 0,
            group_events_max: 8,
            group_bytes_max: 4096,
            safe_at: SafeAt::Durable,
        };
        Intake::open(&test.name, config, &terms)
    }

    fn open_producer(test: &TestName, number: u32) -> Result<Handle, BusError> {
        let opened = ports::open(&test.name)?;
        Handle::open(&test.name, ProducerId(number), RemoteOptions::default(), opened, Instant::now())
    }

    /// Bytes of shared memory.
    fn used(test: &TestName) -> u64 {
        let entries = std::fs::read_dir(SHARED_MEMORY_DIR).expect("shared memory");
        let own = entries
            .map(|entry| entry.expect("entry"))
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&test.name.prefix()));
        own.map(|entry| entry.metadata().expect("metadata").len()).sum()
    }

    fn agree(used: u64, required: u64) {
        assert!(used <= required, "{used} used, {required} computed");
        assert!(required - used < required / 10 + 256 * 1024, "{used} used, {required} computed");
    }

    #[test]
    fn the_memory_computed_is_the_memory_used_and_one_producer_too_many_is_told_so() {
        for wake_up in [WakeUp::Event, WakeUp::BusyPoll] {
            let test = TestName::new("inmemory", TapeId(1));
            let config = IngressConfig { producers_max: 2, producers_spare: 1, wake_up, ..small() };
            let mut node = open_node(&test, &config).expect("node");
            let alone = used(&test);
            assert!(alone <= config.node_memory().total_bytes() as u64, "{alone}");
            let mut producers: Vec<Handle> =
                (1..=3).map(|number| open_producer(&test, number).expect("producer")).collect();
            // What is heard is answered with a greeting: everybody is connected with everybody.
            node.reply(&Watermarks::default(), None, true).expect("reply");
            for producer in &mut producers {
                producer.turn();
                assert_eq!((producer.counters.replies, producer.counters.samples), (1, 1));
            }
            let node_bytes = config.node_memory().total_bytes() as u64;
            agree(used(&test), node_bytes + 3 * config.producer_memory().total_bytes() as u64);
            match open_producer(&test, 4).err() {
                Some(error @ BusError::NoFreeSlot { slots: 3, .. }) => {
                    assert!(error.to_string().contains("producers_max"), "{error}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn small() -> IngressConfig {
        IngressConfig { producers_max: 1, producers_spare: 1, queue_samples: 4, ..IngressConfig::default() }
    }

    #[test]
    fn sizes_are_fixed_while_a_producer_lives() {
        let test = TestName::new("insizes", TapeId(1));
        let node = open_node(&test, &small()).expect("node");
        let producer = open_producer(&test, 1).expect("producer");
        drop(node);
        let larger = [
            ("queue_samples", IngressConfig { queue_samples: 5, ..small() }),
            ("producers_max", IngressConfig { producers_max: 2, ..small() }),
        ];
        for (setting, config) in &larger {
            match open_node(&test, config).err() {
                Some(error @ BusError::ConfigChanged { .. }) => {
                    assert!(error.to_string().contains(setting), "{error}");
                }
                other => panic!("{other:?}"),
            }
        }
        drop(open_node(&test, &small()).expect("the same node again"));
        drop(producer);
        for (_, config) in &larger {
            drop(open_node(&test, config).expect("nobody has the old sizes"));
        }
    }
}
