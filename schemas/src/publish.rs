//! How a producer puts its events on a tape: the same words, results and guarantees inside the node's process and outside of
//! it, so that a matching engine is written once and moved by how it connects.
//!
//! What differs is by what a producer waits ([`Publish::At`]). Inside, publishing *is* sequencing, and an event's position is
//! known when the call returns. Outside, the event is on its way then, and the producer waits by its own number for it.

use std::fmt::Debug;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use crate::event::{Event, EventFlags, EventHeader, Payload};
use crate::ids::{AcceptedTime, EventTime, InstrumentId, ProducerId, ProducerSequence, Sequence};
use crate::watermark::{Stage, Watermarks};

/// The last event of one producer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducerMark {
    /// Its number at the producer.
    pub producer_sequence: ProducerSequence,
    /// Its position on the tape.
    pub sequence: Sequence,
}

/// What became of a publish, said in what the producer waits by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published<At = Sequence> {
    /// Taken. Inside the node it is on the tape at these positions; outside, it is sent, and sent again if need be, until it is
    /// on the tape for good or the producer's process ends.
    New {
        /// The first event.
        first: At,
        /// The last event.
        last: At,
    },
    /// The producer had published it before. Nothing was added.
    Already {
        /// The producer's last event: the repeated one is that or before it.
        last: At,
    },
}

impl<At: Copy> Published<At> {
    /// What to wait for: once this event has reached a stage, what was published has.
    pub fn last(self) -> At {
        match self {
            Self::New { last, .. } | Self::Already { last } => last,
        }
    }

    /// Whether anything was added.
    pub fn is_new(self) -> bool {
        matches!(self, Self::New { .. })
    }
}

impl Published<Sequence> {
    /// Where to wait for a stage: [`Self::last`].
    pub fn sequence(self) -> Sequence {
        self.last()
    }
}

/// Why nothing was published. Nothing has been taken in any of these cases.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// There is no room: the ring (or, outside, the window) is full of events or of the bytes of large ones. Try again, or wait
    /// with [`Publish::wait_for_room`].
    #[error("there is no room at the moment; try again later")]
    WouldBlock,
    /// An empty group, or one with more events than could ever be taken at once.
    #[error("a group has 1 to {limit} events, this one {events}")]
    GroupSize {
        /// As given.
        events: usize,
        /// What fits.
        limit: usize,
    },
    /// A group of too many bytes: nothing of it can be flushed or let go of before its end.
    #[error("a group has at most {limit} bytes, this one {bytes}")]
    GroupBytes {
        /// Of its events, headers included.
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
        /// The last one before it, in the group or published.
        after: ProducerSequence,
        /// The one refused.
        found: ProducerSequence,
    },
    /// The event time is further in the future than the node allows; one bad clock must not close every window.
    #[error(
        "event time {event_time} ns is more than {skew_ns_max} ns ahead of the clock that sequences ({now} ns)"
    )]
    EventTimeAhead {
        /// As given.
        event_time: EventTime,
        /// The clock.
        now: AcceptedTime,
        /// The allowance.
        skew_ns_max: i64,
    },
    /// The disk is full. What was accepted is kept; events are taken again when there is room. Outside of the node this is a
    /// window that fills. The node's operator finds the reason in its log and in its health.
    #[error("the disk is full; no events are taken until there is room")]
    NoSpace,
    /// Another node leads the tape.
    #[error("fenced by a later epoch")]
    Fenced,
    /// The log could not be written or synced.
    #[error("the log failed; the node takes no more events")]
    Poisoned,
    /// The node is closed. A producer outside goes on when another is started.
    #[error("the node is closed")]
    Closed,
}

/// Why a wait ended without the stage being reached. The outcome of the event is then unknown, never "failed".
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitError {
    /// Another node leads the tape now; whether it holds the event is for the client to ask there.
    #[error("fenced by a later epoch: whether the event is on the tape is unknown")]
    Fenced,
    /// The log could not be written or synced; restart the node to learn what is on disk.
    #[error("the log failed: whether the event is on disk is unknown until the node is opened again")]
    Poisoned,
    /// The node was closed first.
    #[error("the node closed before the event reached the stage")]
    Closed,
    /// The time given ran out.
    #[error("timed out: the event may still reach the stage")]
    TimedOut,
}

/// One producer's handle, inside the node's process or outside of it.
pub trait Publish {
    /// What an event is waited by: its position inside the node, its producer's number outside.
    type At: Copy + Debug + Eq;
    /// Why nothing was published; compares with the refusals that both ways in have.
    type PublishError: std::error::Error + PartialEq<PublishError>;
    /// Why a wait ended; compares with the ends that both ways in have.
    type WaitError: std::error::Error + PartialEq<WaitError>;
    /// Resolves when an event has reached a stage, with a position: the event is there or before it, with everything the
    /// producer published before. It borrows nothing: publishing goes on meanwhile.
    type Reached: Future<Output = Result<Sequence, Self::WaitError>> + Unpin + 'static;

    /// Which producer this is.
    fn producer(&self) -> ProducerId;

    /// The number of the producer's last event, in this run or before: go on after it.
    fn last(&self) -> Option<ProducerSequence>;

    /// The producer's last event that is known to be on the tape.
    fn accepted(&self) -> Option<ProducerMark>;

    /// How far the tape has come, as far as it is known here.
    fn watermarks(&self) -> Watermarks;

    /// Puts one event on the tape, as a group of its own. Never waits.
    fn publish(&mut self, event: &Event) -> Result<Published<Self::At>, Self::PublishError>;

    /// Puts events that belong together on consecutive positions, all or none; the last is flagged as such. Never waits.
    fn publish_group(&mut self, events: &[Event]) -> Result<Published<Self::At>, Self::PublishError>;

    /// As [`publish`](Self::publish), of a payload and the header it is to have; length, kind and producer are set here.
    fn publish_payload<P: Payload>(
        &mut self,
        header: EventHeader,
        payload: &P,
    ) -> Result<Published<Self::At>, Self::PublishError>;

    /// An event to be filled in field by field and then published. Nothing is taken before [`Loan::publish`].
    fn loan<P: Payload + Default>(
        &mut self,
        instrument: InstrumentId,
        producer_sequence: ProducerSequence,
        event_time: EventTime,
    ) -> Loan<'_, Self, P> {
        let producer = self.producer();
        let header = EventHeader {
            length: 0,
            kind: P::KIND,
            flags: EventFlags::NONE,
            venue_flags: 0,
            instrument,
            producer,
            producer_sequence,
            event_time,
        };
        Loan { publisher: self, header, payload: P::default() }
    }

    /// Blocks until `at` has reached `stage`. Returns a position: the event is there or before it, with everything the producer
    /// published before.
    fn wait(&mut self, at: Self::At, stage: Stage) -> Result<Sequence, Self::WaitError>;

    /// The same, at most for `limit`.
    fn wait_for(&mut self, at: Self::At, stage: Stage, limit: Duration) -> Result<Sequence, Self::WaitError>;

    /// The same as a future, for any executor.
    fn wait_async(&mut self, at: Self::At, stage: Stage) -> Self::Reached;

    /// Blocks until so many events could be taken (or waiting has ended), and the bytes that events were last refused for.
    fn wait_for_room(&mut self, events: usize) -> Result<(), Self::WaitError>;
}

/// An event being filled in: dereferences to its payload.
pub struct Loan<'p, W: Publish + ?Sized, P> {
    publisher: &'p mut W,
    header: EventHeader,
    payload: P,
}

impl<W: Publish + ?Sized, P: Payload> Loan<'_, W, P> {
    /// Sets flags beyond those of groups.
    #[must_use]
    pub fn flags(mut self, flags: EventFlags) -> Self {
        self.header.flags = flags;
        self
    }

    /// Replaces the payload as a whole.
    #[must_use]
    pub fn fill(mut self, payload: P) -> Self {
        self.payload = payload;
        self
    }

    /// Puts it on the tape, as a group of its own.
    pub fn publish(self) -> Result<Published<W::At>, W::PublishError> {
        self.publisher.publish_payload(self.header, &self.payload)
    }
}

impl<W: Publish + ?Sized, P> Deref for Loan<'_, W, P> {
    type Target = P;

    fn deref(&self) -> &P {
        &self.payload
    }
}

impl<W: Publish + ?Sized, P> DerefMut for Loan<'_, W, P> {
    fn deref_mut(&mut self) -> &mut P {
        &mut self.payload
    }
}
