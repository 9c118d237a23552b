//! Identifiers and times: one newtype per idea, so that numbers which must not mix cannot.
//!
//! Zero means "none" for every identifier; a [`Sequence`] of zero is the position before the first event.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

macro_rules! newtype {
    ($(#[$meta:meta])* $name:ident / $archived:ident ($inner:ty)) => {
        $(#[$meta])*
        #[derive(
            Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
        )]
        #[rkyv(derive(Clone, Copy, Debug))]
        pub struct $name(pub $inner);

        impl $name {
            /// The bare number, for encoding and display.
            #[inline]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl $archived {
            /// The native value of this archived field.
            #[inline]
            pub fn get(&self) -> $name {
                $name(self.0.to_native())
            }
        }

        impl crate::event::Field for $name {}

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

newtype! {
    /// The position of an event on its tape: dense, from 1. The only position in the public API.
    Sequence / ArchivedSequence (u64)
}
newtype! {
    /// One leadership term of a tape; strictly increases.
    Epoch / ArchivedEpoch (u64)
}
newtype! {
    /// The identity of a tape, chosen at random when it is created.
    TapeId / ArchivedTapeId (u64)
}
newtype! {
    /// An instrument of this tape. Zero: the event concerns no single instrument.
    InstrumentId / ArchivedInstrumentId (u32)
}
newtype! {
    /// An order's number at the venue. Scoped by instrument; may be reused once the order is gone.
    OrderId / ArchivedOrderId (u64)
}
newtype! {
    /// A trade's number at the venue, zero where the venue gives none.
    TradeId / ArchivedTradeId (u64)
}
newtype! {
    /// An account. Its name is carried once, in `AccountOpened`.
    AccountId / ArchivedAccountId (u64)
}
newtype! {
    /// A member firm of the exchange.
    ParticipantId / ArchivedParticipantId (u32)
}
newtype! {
    /// A source of events: a matching engine, an importer. Zero is the sequencer itself.
    ProducerId / ArchivedProducerId (u32)
}
newtype! {
    /// A producer's own running number; gaps are legal, a value not above the last is a duplicate.
    ProducerSequence / ArchivedProducerSequence (u64)
}
newtype! {
    /// The venue's own sequence number for a record. Neither unique nor dense nor ordered.
    VenueSequence / ArchivedVenueSequence (u64)
}
newtype! {
    /// When the producer says the event happened: nanoseconds since 1970 UTC. May go backwards on a tape.
    EventTime / ArchivedEventTime (i64)
}
newtype! {
    /// When the sequencer accepted a frame: nanoseconds since 1970 UTC. Never decreases on a tape.
    AcceptedTime / ArchivedAcceptedTime (i64)
}
newtype! {
    /// When a record was received or captured at the edge: nanoseconds since 1970 UTC; zero: not known.
    ReceiveTime / ArchivedReceiveTime (i64)
}

impl Sequence {
    /// The position before the first event.
    pub const ZERO: Self = Self(0);
    /// The first event of every tape.
    pub const FIRST: Self = Self(1);
    /// Above every event.
    pub const MAX: Self = Self(u64::MAX);

    /// The position after this one.
    ///
    /// # Panics
    /// At 2^64 - 1, which no tape reaches.
    #[inline]
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The position before this one; zero stays zero.
    #[inline]
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl Epoch {
    /// The term of a tape that was just created.
    pub const FIRST: Self = Self(1);
}

impl ProducerId {
    /// The sequencer itself: control events.
    pub const SEQUENCER: Self = Self(0);
}

impl EventTime {
    /// Before every event time: the running greatest of an empty tape.
    pub const MIN: Self = Self(i64::MIN);
    /// After every event time.
    pub const MAX: Self = Self(i64::MAX);
}
