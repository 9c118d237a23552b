//! A producer in a process of its own: the node's `Publisher`, through shared memory.
//!
//! ```text
//!   publish --> window --> ingress --> (node) ring --> log
//!                  ^                                    |
//!                  +------- ingress-replies <-----------+   accepted through, durable through, refused
//! ```
//!
//! Publishing never waits: a window that is full is `WouldBlock`. Nothing here has a thread: replies are taken in, and
//! what had to wait is sent, whenever a method is called; an engine that is idle calls [`RemotePublisher::poll`].

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use iceoryx2::node::Node;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::{Publisher, PublisherCreateError};
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::{AllocationStrategy, BackpressureStrategy, PortFactory as _, PortName, ipc};
use matchtape_schemas::event::{EventFlags, encode_event};
use matchtape_schemas::limits::EVENT_BYTES_MAX;
use matchtape_schemas::{
    AcceptedTime, Event, EventTime, ProducerId, ProducerSequence, Sequence, Stage, Watermarks,
};

use super::config::{REPLIES_BUFFER, SAMPLE_BYTES_MAX, enough, producer_memory};
use super::message::{Mark, NodeState, ReplyHeader, RequestHeader, SessionState};
use super::outbox::{Ended, Outbox, Reached, WindowLimits};
use super::ports::{self, Opened, REQUESTS};
use crate::block::{BLOCK_BYTES, Block, blocks_for, bytes_of_mut};
use crate::config::{LOANED_SAMPLES, shared_memory_available};
use crate::error::BusError;
use crate::name::BusName;
use crate::publisher::reserve_segment;
use crate::service;

/// How a remote publisher behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteOptions {
    /// Events that may be under way: taken and not yet safe.
    pub window_events: usize,
    /// Bytes of events that may be under way.
    pub window_bytes: usize,
    /// When an event counts as safe and leaves the window: durable, replicated or visible. Until then it is sent again to
    /// a node that was restarted without it.
    pub keep_until: Stage,
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
            keep_until: Stage::Durable,
            silence_max: Duration::from_secs(3),
            connect_wait: Duration::from_secs(5),
            spin: Duration::from_micros(50),
        }
    }
}

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemotePublished {
    /// Taken: it is sent, and sent again if need be, until it is on the tape for good or this process ends.
    Taken {
        /// The last event's number: what to wait for.
        last: ProducerSequence,
    },
    /// Taken before: by this process, or by an earlier one and safe since. Nothing was added.
    Already {
        /// The number of the producer's last event.
        last: ProducerSequence,
    },
}

impl RemotePublished {
    /// What to wait for: once this event has reached a stage, what was published has.
    #[must_use]
    pub fn last(self) -> ProducerSequence {
        match self {
            Self::Taken { last } | Self::Already { last } => last,
        }
    }
}

/// Why nothing was published. Nothing was taken in any of these cases.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum RemotePublishError {
    /// The window is full: the node is behind, or gone. Try again, or wait with [`RemotePublisher::wait_for_room`].
    #[error("the window is full; try again later")]
    WouldBlock,
    /// An empty group, or one with more events than the node's ring or the window has room for.
    #[error("a group has 1 to {limit} events, this one {events}")]
    GroupSize {
        /// As given.
        events: usize,
        /// What fits.
        limit: usize,
    },
    /// A group of more bytes than the node takes, or the window has room for.
    #[error("a group has at most {limit} bytes, this one {bytes}")]
    GroupBytes {
        /// As given.
        bytes: usize,
        /// What fits.
        limit: usize,
    },
    /// Producer sequences inside a group do not rise, or the group begins with events published before and goes on
    /// with new ones.
    #[error(
        "producer sequence {found} in a group after {after}: a group is new as a whole and its numbers rise"
    )]
    GroupOrder {
        /// The last one before it, in the group or taken.
        after: ProducerSequence,
        /// The one refused.
        found: ProducerSequence,
    },
    /// The event time is further in the future than the node allows.
    #[error(
        "event time {event_time} ns is more than {skew_ns_max} ns ahead of this machine's clock ({now} ns)"
    )]
    EventTimeAhead {
        /// As given.
        event_time: EventTime,
        /// The clock.
        now: AcceptedTime,
        /// The allowance.
        skew_ns_max: i64,
    },
    /// Another node leads the tape.
    #[error("fenced by a later epoch")]
    Fenced,
    /// The log could not be written or synced.
    #[error("the log failed; the node takes no more events")]
    Poisoned,
    /// The node is closed. When another is started, publishing goes on.
    #[error("the node is closed")]
    Closed,
    /// This handle has ended for good.
    #[error(transparent)]
    Ended(#[from] RemoteEnded),
}

/// Why a remote publisher has ended for good.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum RemoteEnded {
    /// There is one handle of a producer at a time.
    #[error("producer {producer} is in use by process {process}")]
    InUse {
        /// The producer.
        producer: ProducerId,
        /// Who has it; 0 where that cannot be found out.
        process: u32,
    },
    /// The node refused what was sent. Events after the last accepted one were not accepted.
    #[error("the node refused what producer {producer} sent: {reason}")]
    Refused {
        /// The producer.
        producer: ProducerId,
        /// In the node's words.
        reason: String,
    },
    /// A restarted node lacks events that were durable: its data were lost or exchanged.
    #[error(
        "event {acknowledged} of producer {producer} was durable, but the restarted node's tape has them only through \
         {found:?}: its data were lost or exchanged"
    )]
    TapeWentBack {
        /// The producer.
        producer: ProducerId,
        /// The last one that was safe.
        acknowledged: ProducerSequence,
        /// What the tape has.
        found: Option<ProducerSequence>,
    },
    /// Somebody else published as this producer while there was no node to tell.
    #[error(
        "the tape has event {found} of producer {producer}, which was not published here: another process publishes \
         as this producer"
    )]
    Superseded {
        /// The producer.
        producer: ProducerId,
        /// The tape's last.
        found: ProducerSequence,
    },
    /// The shared memory of the way in failed.
    #[error("the way to the node failed: {0}")]
    Port(String),
}

/// Why a wait ended without the stage being reached. The outcome of the event is then unknown, never "failed".
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum RemoteWaitError {
    /// Another node leads the tape now.
    #[error("fenced by a later epoch: whether the event is on the tape is unknown")]
    Fenced,
    /// The log could not be written or synced.
    #[error("the log failed: whether the event is on disk is unknown until the node is opened again")]
    Poisoned,
    /// The node was closed first. What is not on the tape is sent to the next one.
    #[error("the node closed before the event reached the stage")]
    Closed,
    /// Nothing was heard of the node for long. What is not on the tape is sent to the next one.
    #[error("nothing was heard of the node for {silent_ms} ms: whether the event is on the tape is unknown")]
    Disconnected {
        /// Milliseconds of silence.
        silent_ms: u64,
    },
    /// The time given ran out.
    #[error("timed out: the event may still reach the stage")]
    TimedOut,
    /// Nothing of this number was published: there is nothing to wait for.
    #[error("no event of number {0} was published")]
    NeverPublished(ProducerSequence),
    /// This handle has ended for good.
    #[error(transparent)]
    Ended(#[from] RemoteEnded),
}

/// Why a remote publisher did not connect.
#[derive(thiserror::Error, Debug)]
pub enum ConnectError {
    /// The shared memory of the way in.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The services are there, but nobody answered.
    #[error(
        "no node answered on {service} within {waited_ms} ms: is it running, with the same namespace and root, and \
         `[ingress] enabled`?"
    )]
    NoAnswer {
        /// The service.
        service: String,
        /// How long it was asked, in milliseconds.
        waited_ms: u64,
    },
    /// The producer's last event, published by an earlier process, may still vanish with the node. A node whose log is
    /// synced neither per batch nor at intervals makes nothing safe before a segment ends.
    #[error(
        "event {last} of producer {producer} is on the tape but did not become {stage} within {waited_ms} ms"
    )]
    NotSafe {
        /// The producer.
        producer: ProducerId,
        /// Its last event.
        last: ProducerSequence,
        /// [`RemoteOptions::keep_until`].
        stage: Stage,
        /// How long it was waited for, in milliseconds.
        waited_ms: u64,
    },
    /// The node turned this producer away.
    #[error(transparent)]
    Ended(#[from] RemoteEnded),
    /// An option out of bounds.
    #[error("{option}: {reason}")]
    Option {
        /// Which.
        option: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
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

/// One producer's handle in a process of its own; there is at most one per producer at a time.
///
/// It belongs to one thread (`!Send`): connect where it is used, or with [`crate::on_own_thread`].
pub struct RemotePublisher {
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
    failed: Option<RemoteEnded>,
    counters: RemoteCounters,
}

// Dropped first to last: ports before the node whose tags let others clean up after a crash.
struct Ports {
    requests: Publisher<ipc::Service, [Block], RequestHeader>,
    notifier: Option<Notifier<ipc::Service>>,
    replies: Subscriber<ipc::Service, [SessionState], ReplyHeader>,
    listener: Option<Listener<ipc::Service>>,
    _node: Node<ipc::Service>,
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
        let deadline = start + options.connect_wait;
        let opened = loop {
            match ports::open(name) {
                Ok(opened) => break opened,
                Err(BusError::NotFound { .. } | BusError::Busy { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => return Err(error.into()),
            }
        };
        let mut publisher = Self::open(name, producer, options, opened, start)?;
        while publisher.outbox.taken().is_none() {
            publisher.turn();
            publisher.check_ended()?;
            if Instant::now() >= deadline {
                let waited_ms = publisher.options.connect_wait.as_millis() as u64;
                return Err(match publisher.outbox.mark() {
                    None => ConnectError::NoAnswer { service: name.text(REQUESTS), waited_ms },
                    Some(last) => ConnectError::NotSafe {
                        producer,
                        last: last.producer_sequence,
                        stage: publisher.options.keep_until,
                        waited_ms,
                    },
                });
            }
            publisher.rest(deadline);
        }
        Ok(publisher)
    }

    fn open(
        name: &BusName,
        producer: ProducerId,
        options: RemoteOptions,
        opened: Opened,
        start: Instant,
    ) -> Result<Self, BusError> {
        let Opened { requests, replies, wake_node, wake_producers, node } = opened;
        let internal = |doing, cause: String| BusError::Internal { doing, cause };
        let no_slot = |what| BusError::NoFreeSlot {
            service: name.text(REQUESTS),
            what,
            slots: requests.static_config().max_publishers(),
        };
        let required = producer_memory(ports::queue_samples(&requests));
        enough("a producer", required, shared_memory_available()?)?;
        let listener = match wake_producers {
            None => None,
            // One for every slot of a subscriber, which is created next and reports their lack.
            Some(wake) => Some(
                wake.listener_builder()
                    .create()
                    .map_err(|error| internal("creating a producer's listener", format!("{error:?}")))?,
            ),
        };
        let subscriber = replies.subscriber_builder().create().map_err(|_| no_slot("producer"))?;
        let port_name = PortName::new(&ports::producer_port_name(producer))
            .map_err(|error| internal("naming a producer's port", format!("{error:?}")))?;
        let publisher = requests
            .publisher_builder()
            .name(&port_name)
            // A full queue refuses: that is the back-pressure.
            .backpressure_strategy(BackpressureStrategy::DiscardData)
            .allocation_strategy(AllocationStrategy::Static)
            .initial_max_slice_len(blocks_for(SAMPLE_BYTES_MAX))
            .max_loaned_samples(LOANED_SAMPLES)
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
            Some(wake) => Some(wake.notifier_builder().create().map_err(|_| no_slot("notifier"))?),
        };
        let limits = WindowLimits {
            events_max: options.window_events,
            blocks_max: options.window_bytes / BLOCK_BYTES,
            sample_blocks_max: blocks_for(SAMPLE_BYTES_MAX),
        };
        let port = publisher.id().value();
        Ok(Self {
            ports: Some(Ports { requests: publisher, notifier, replies: subscriber, listener, _node: node }),
            outbox: Outbox::new(name.tape(), producer, port, limits, options.keep_until),
            producer,
            options,
            start,
            scratch: vec![Block::ZERO; blocks_for(EVENT_BYTES_MAX)].into_boxed_slice(),
            horizon: EventTime::MIN,
            failed: None,
            counters: RemoteCounters::default(),
        })
    }

    /// Which producer this is.
    #[must_use]
    pub fn producer(&self) -> ProducerId {
        self.producer
    }

    /// The number of the producer's last event: taken here, or by an earlier process and safe (see
    /// [`RemoteOptions::keep_until`]). Go on after it.
    #[must_use]
    pub fn last(&self) -> Option<ProducerSequence> {
        self.outbox.taken().flatten()
    }

    /// The producer's last event known to be on the tape, with its position.
    #[must_use]
    pub fn accepted(&self) -> Option<Mark> {
        self.outbox.mark()
    }

    /// How far the tape was when the node last said so.
    #[must_use]
    pub fn watermarks(&self) -> Watermarks {
        self.outbox.node().map(|node| node.watermarks).unwrap_or_default()
    }

    /// Events that were taken and are not yet safe.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.outbox.len()
    }

    /// What has been done so far.
    #[must_use]
    pub fn counters(&self) -> RemoteCounters {
        self.counters
    }

    /// Puts one event on the tape, as a group of its own.
    pub fn publish(&mut self, event: &Event) -> Result<RemotePublished, RemotePublishError> {
        self.publish_group(std::slice::from_ref(event))
    }

    /// Puts events that belong together on consecutive positions, all or none; the last is flagged as such.
    pub fn publish_group(&mut self, events: &[Event]) -> Result<RemotePublished, RemotePublishError> {
        self.check_open()?;
        let limits = self.outbox.limits();
        let group_events_max = self.outbox.node().map_or(usize::MAX, |node| node.terms.group_events_max);
        let limit = group_events_max.min(limits.events_max);
        let Some(last) = events.last().filter(|_| events.len() <= limit) else {
            return Err(RemotePublishError::GroupSize { events: events.len(), limit });
        };
        let mut after = self.last();
        if let Some(taken) = after
            && last.producer_sequence <= taken
        {
            self.turn();
            return Ok(RemotePublished::Already { last: taken });
        }
        let mut blocks = 0;
        for event in events {
            if let Some(after) = after
                && event.producer_sequence <= after
            {
                return Err(RemotePublishError::GroupOrder { after, found: event.producer_sequence });
            }
            after = Some(event.producer_sequence);
            self.check_time(event.event_time)?;
            blocks += event.encoded_len() / BLOCK_BYTES;
        }
        let group_bytes_max = self.outbox.node().map_or(usize::MAX, |node| node.terms.group_bytes_max);
        let limit = group_bytes_max.min(limits.blocks_max * BLOCK_BYTES);
        if blocks * BLOCK_BYTES > limit {
            return Err(RemotePublishError::GroupBytes { bytes: blocks * BLOCK_BYTES, limit });
        }
        if !self.outbox.has_room(events.len(), blocks) {
            self.turn();
            if !self.outbox.has_room(events.len(), blocks) {
                return Err(RemotePublishError::WouldBlock);
            }
        }
        for (index, event) in events.iter().enumerate() {
            let blocks = &mut self.scratch[..event.encoded_len() / BLOCK_BYTES];
            let out = bytes_of_mut(blocks);
            encode_event(event, self.producer, out);
            let flags = event.flags.without(EventFlags::LATE).without(EventFlags::LAST_OF_GROUP);
            let ends = if index + 1 == events.len() { EventFlags::LAST_OF_GROUP } else { EventFlags::NONE };
            out[6] = flags.with(ends).bits();
            self.outbox.take(event.producer_sequence, blocks);
        }
        self.turn();
        Ok(RemotePublished::Taken { last: last.producer_sequence })
    }

    /// Takes in replies and sends what had to wait. An engine with nothing to publish calls it now and then: a queue that
    /// was full, or a node that was restarted, needs it. Returns how many events are not yet safe.
    pub fn poll(&mut self) -> Result<usize, RemoteEnded> {
        self.turn();
        self.check_ended()?;
        Ok(self.outbox.len())
    }

    /// Blocks until the producer's event of this number has reached `stage`. Returns a position: the event is there or
    /// before it, with everything the producer published before it.
    pub fn wait(
        &mut self,
        producer_sequence: ProducerSequence,
        stage: Stage,
    ) -> Result<Sequence, RemoteWaitError> {
        self.wait_until(producer_sequence, stage, None)
    }

    /// The same, at most for `limit`.
    pub fn wait_for(
        &mut self,
        producer_sequence: ProducerSequence,
        stage: Stage,
        limit: Duration,
    ) -> Result<Sequence, RemoteWaitError> {
        self.wait_until(producer_sequence, stage, Some(Instant::now() + limit))
    }

    fn wait_until(
        &mut self,
        producer_sequence: ProducerSequence,
        stage: Stage,
        deadline: Option<Instant>,
    ) -> Result<Sequence, RemoteWaitError> {
        let since = Instant::now();
        loop {
            self.turn();
            match self.outbox.reached(producer_sequence, stage) {
                Reached::Yes(sequence) => return Ok(sequence),
                Reached::Never => return Err(RemoteWaitError::NeverPublished(producer_sequence)),
                Reached::NotYet => {}
            }
            self.keep_waiting(since, deadline)?;
        }
    }

    /// Blocks until `events` events of `bytes` bytes in all could be taken.
    pub fn wait_for_room(&mut self, events: usize, bytes: usize) -> Result<(), RemoteWaitError> {
        let since = Instant::now();
        loop {
            self.turn();
            if self.outbox.has_room(events, blocks_for(bytes)) {
                return Ok(());
            }
            self.keep_waiting(since, None)?;
        }
    }

    /// Rests for a while, unless there is a reason not to wait any longer than it was since `since`.
    fn keep_waiting(&mut self, since: Instant, deadline: Option<Instant>) -> Result<(), RemoteWaitError> {
        self.check_ended()?;
        match self.outbox.node().map(|node| node.state) {
            Some(NodeState::Open) | None => {}
            Some(NodeState::Closed) => return Err(RemoteWaitError::Closed),
            Some(NodeState::Poisoned) => return Err(RemoteWaitError::Poisoned),
            Some(NodeState::Fenced) => return Err(RemoteWaitError::Fenced),
        }
        // A successor is given its time from when it is waited for.
        let silent = self.outbox.silent_for(self.start.elapsed()).min(since.elapsed());
        if silent >= self.options.silence_max {
            return Err(RemoteWaitError::Disconnected { silent_ms: silent.as_millis() as u64 });
        }
        let now = Instant::now();
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Err(RemoteWaitError::TimedOut);
        }
        let silence_ends = now + (self.options.silence_max - silent);
        self.rest(deadline.map_or(silence_ends, |deadline| deadline.min(silence_ends)));
        Ok(())
    }

    /// Returns when a reply may have come, at `until`, or when it is time to look at things again.
    fn rest(&mut self, until: Instant) {
        const LOOK_AGAIN: Duration = Duration::from_millis(10);
        const WITHOUT_WAKE_UPS: Duration = Duration::from_micros(20);
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
            NodeState::Closed => Err(RemotePublishError::Closed),
            NodeState::Poisoned => Err(RemotePublishError::Poisoned),
            NodeState::Fenced => Err(RemotePublishError::Fenced),
        }
    }

    fn check_time(&mut self, event_time: EventTime) -> Result<(), RemotePublishError> {
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
        Err(RemotePublishError::EventTimeAhead { event_time, now, skew_ns_max })
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
    if matches!(options.keep_until, Stage::Accepted | Stage::Written) {
        return wrong(
            "keep_until",
            "durable, replicated or visible: what is not durable may have to be sent again",
        );
    }
    Ok(())
}
