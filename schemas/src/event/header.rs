//! The header every event carries, and an event as native values or where it lies.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | length: header and payload, a multiple of 16 |
//! | 4 | 2 | tag: the [`Kind`]'s number |
//! | 6 | 1 | flags: [`EventFlags`] |
//! | 7 | 1 | the venue's own flags for the record, as they were |
//! | 8 | 4 | instrument |
//! | 12 | 4 | producer |
//! | 16 | 8 | producer sequence |
//! | 24 | 8 | event time, ns |
//!
//! The sequence is not stored: it is the frame's first sequence plus the event's place in the frame.

use super::{ALIGNMENT, EVENT_HEADER_BYTES, PayloadError};
use crate::ids::{AcceptedTime, Epoch, EventTime, InstrumentId, ProducerId, ProducerSequence, Sequence};
use crate::limits::EVENT_BYTES_MAX;
use crate::tags::{self, Body, BodyRef, Kind};

/// What holds for one event beyond its payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventFlags(u8);

impl EventFlags {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// The last event of its group; an event alone is a group of one.
    pub const LAST_OF_GROUP: Self = Self(1);
    /// Its event time lies before the greatest one already on the tape. Set by the sequencer.
    pub const LATE: Self = Self(2);
    /// The execution it reports does not change the book; another event does.
    pub const REPORTS_ONLY: Self = Self(4);
    /// It restates what was before the tape began (a source's opening snapshot).
    pub const SNAPSHOT: Self = Self(8);
    const KNOWN: u8 = 15;

    /// The persisted bits; `None` when one is not known.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits & !Self::KNOWN == 0 { Some(Self(bits)) } else { None }
    }

    /// The persisted bits.
    #[inline]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all of `other` are set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both together.
    #[inline]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These without `other`.
    #[inline]
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// The fixed part of an event, as native values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventHeader {
    /// Header and payload, in bytes.
    pub length: u32,
    /// What the payload is.
    pub kind: Kind,
    /// What else holds.
    pub flags: EventFlags,
    /// The venue's own flags.
    pub venue_flags: u8,
    /// The instrument concerned, zero for none.
    pub instrument: InstrumentId,
    /// Who produced it.
    pub producer: ProducerId,
    /// Its number there.
    pub producer_sequence: ProducerSequence,
    /// When it happened.
    pub event_time: EventTime,
}

/// An event as its producer states it: everything but the position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The instrument concerned, zero for none.
    pub instrument: InstrumentId,
    /// Its number at its producer.
    pub producer_sequence: ProducerSequence,
    /// When it happened.
    pub event_time: EventTime,
    /// What else holds. `LATE` is the sequencer's to set.
    pub flags: EventFlags,
    /// The venue's own flags.
    pub venue_flags: u8,
    /// What happened.
    pub body: Body,
}

impl Event {
    /// An event that is a group of its own.
    pub fn new(
        instrument: InstrumentId,
        producer_sequence: ProducerSequence,
        event_time: EventTime,
        body: impl Into<Body>,
    ) -> Self {
        Self {
            instrument,
            producer_sequence,
            event_time,
            flags: EventFlags::LAST_OF_GROUP,
            venue_flags: 0,
            body: body.into(),
        }
    }

    /// Header and payload, in bytes: a multiple of 16, at most [`EVENT_BYTES_MAX`].
    #[inline]
    pub fn encoded_len(&self) -> usize {
        EVENT_HEADER_BYTES + self.body.encoded_len()
    }
}

/// Bytes that are not an event.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
pub enum EventError {
    /// The length field is out of bounds, not a multiple of 16, or beyond the bytes there are.
    #[error("event length {length} is impossible with {available} bytes left")]
    Length {
        /// As stated.
        length: u32,
        /// As there are.
        available: usize,
    },
    /// A kind this release does not know.
    #[error("unknown event tag {0}")]
    Tag(u16),
    /// A flag this release does not know.
    #[error("unknown event flags {0:#04x}")]
    Flags(u8),
    /// The payload is not one of its kind.
    #[error("{kind}: {source}")]
    Payload {
        /// The kind stated.
        kind: Kind,
        /// What is wrong with it.
        source: PayloadError,
    },
}

#[inline]
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

impl EventHeader {
    /// Writes the header over the first [`EVENT_HEADER_BYTES`] of `out`.
    #[inline]
    pub fn encode(&self, out: &mut [u8]) {
        let out = &mut out[..EVENT_HEADER_BYTES];
        out[0..4].copy_from_slice(&self.length.to_le_bytes());
        out[4..6].copy_from_slice(&self.kind.tag().to_le_bytes());
        out[6] = self.flags.bits();
        out[7] = self.venue_flags;
        out[8..12].copy_from_slice(&self.instrument.get().to_le_bytes());
        out[12..16].copy_from_slice(&self.producer.get().to_le_bytes());
        out[16..24].copy_from_slice(&self.producer_sequence.get().to_le_bytes());
        out[24..32].copy_from_slice(&self.event_time.get().to_le_bytes());
    }
}

/// Writes an event of `producer` over `out`, which has exactly [`Event::encoded_len`] bytes at a multiple of 16.
#[inline]
pub fn encode_event(event: &Event, producer: ProducerId, out: &mut [u8]) {
    let header = EventHeader {
        length: out.len() as u32,
        kind: event.body.kind(),
        flags: event.flags,
        venue_flags: event.venue_flags,
        instrument: event.instrument,
        producer,
        producer_sequence: event.producer_sequence,
        event_time: event.event_time,
    };
    header.encode(out);
    event.body.encode(&mut out[EVENT_HEADER_BYTES..]);
}

/// The length field of the event that starts `bytes`, if it is possible there.
#[inline]
pub(crate) fn event_length(bytes: &[u8]) -> Result<usize, EventError> {
    let available = bytes.len();
    if available < EVENT_HEADER_BYTES {
        return Err(EventError::Length { length: 0, available });
    }
    let length = u32::from_le_bytes(array(bytes, 0));
    let size = length as usize;
    if !(EVENT_HEADER_BYTES + ALIGNMENT..=EVENT_BYTES_MAX).contains(&size)
        || !size.is_multiple_of(ALIGNMENT)
        || size > available
    {
        return Err(EventError::Length { length, available });
    }
    Ok(size)
}

/// Checks that `bytes` begin with a whole valid event, at a multiple of 16; returns its header.
#[inline]
pub fn check_event(bytes: &[u8]) -> Result<EventHeader, EventError> {
    match tags::plainly(bytes) {
        Some(kind) if EventFlags::from_bits(bytes[6]).is_some() => Ok(read_header(bytes, kind)),
        Some(_) | None => check_in_full(bytes),
    }
}

/// The same field by field: for what is not of a fixed size, and to say what is wrong.
#[inline(never)]
pub(super) fn check_in_full(bytes: &[u8]) -> Result<EventHeader, EventError> {
    let size = event_length(bytes)?;
    let tag = u16::from_le_bytes(array(bytes, 4));
    let kind = Kind::from_tag(tag).ok_or(EventError::Tag(tag))?;
    if EventFlags::from_bits(bytes[6]).is_none() {
        return Err(EventError::Flags(bytes[6]));
    }
    tags::check(kind, &bytes[EVENT_HEADER_BYTES..size])
        .map_err(|source| EventError::Payload { kind, source })?;
    Ok(read_header(bytes, kind))
}

#[inline]
fn read_header(bytes: &[u8], kind: Kind) -> EventHeader {
    EventHeader {
        length: u32::from_le_bytes(array(bytes, 0)),
        kind,
        flags: EventFlags(bytes[6]),
        venue_flags: bytes[7],
        instrument: InstrumentId(u32::from_le_bytes(array(bytes, 8))),
        producer: ProducerId(u32::from_le_bytes(array(bytes, 12))),
        producer_sequence: ProducerSequence(u64::from_le_bytes(array(bytes, 16))),
        event_time: EventTime(i64::from_le_bytes(array(bytes, 24))),
    }
}

/// An event of a decoded frame, where it lies.
#[derive(Clone, Copy)]
pub struct EventRef<'a> {
    sequence: Sequence,
    epoch: Epoch,
    accepted_time: AcceptedTime,
    kind: Kind,
    bytes: &'a [u8],
}

impl<'a> EventRef<'a> {
    /// The event that `bytes`, at a multiple of 16, exactly are, outside of the frame that it came in; checked here.
    pub fn decode(
        sequence: Sequence,
        epoch: Epoch,
        accepted_time: AcceptedTime,
        bytes: &'a [u8],
    ) -> Result<Self, EventError> {
        let header = check_event(bytes)?;
        if header.length as usize != bytes.len() {
            return Err(EventError::Length { length: header.length, available: bytes.len() });
        }
        Ok(Self { sequence, epoch, accepted_time, kind: header.kind, bytes })
    }

    /// The event that `bytes`, at a multiple of 16, begin with, checked here.
    #[inline]
    pub fn decode_first(
        sequence: Sequence,
        epoch: Epoch,
        accepted_time: AcceptedTime,
        bytes: &'a [u8],
    ) -> Result<Self, EventError> {
        let header = check_event(bytes)?;
        Ok(Self {
            sequence,
            epoch,
            accepted_time,
            kind: header.kind,
            bytes: &bytes[..header.length as usize],
        })
    }

    /// # Safety
    /// [`check_event`] has accepted `bytes`, which are exactly one event, at this address, and they have not changed.
    #[inline]
    pub(crate) unsafe fn new_unchecked(
        sequence: Sequence,
        epoch: Epoch,
        accepted_time: AcceptedTime,
        bytes: &'a [u8],
    ) -> Self {
        let kind =
            Kind::from_tag(u16::from_le_bytes(array(bytes, 4))).expect("checked when the frame was decoded");
        Self { sequence, epoch, accepted_time, kind, bytes }
    }

    /// Its position on the tape.
    #[inline]
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// The term it was sequenced in.
    #[inline]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// When its frame was accepted.
    #[inline]
    pub fn accepted_time(&self) -> AcceptedTime {
        self.accepted_time
    }

    /// What it is.
    #[inline]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What else holds.
    #[inline]
    pub fn flags(&self) -> EventFlags {
        EventFlags(self.bytes[6])
    }

    /// Whether it ends its group.
    #[inline]
    pub fn ends_group(&self) -> bool {
        self.flags().contains(EventFlags::LAST_OF_GROUP)
    }

    /// The instrument concerned, zero for none.
    #[inline]
    pub fn instrument(&self) -> InstrumentId {
        InstrumentId(u32::from_le_bytes(array(self.bytes, 8)))
    }

    /// When it happened, by its producer's clock.
    #[inline]
    pub fn event_time(&self) -> EventTime {
        EventTime(i64::from_le_bytes(array(self.bytes, 24)))
    }

    /// The fixed part.
    #[inline]
    pub fn header(&self) -> EventHeader {
        read_header(self.bytes, self.kind)
    }

    /// What happened, where it lies.
    #[inline]
    pub fn body(&self) -> BodyRef<'a> {
        // SAFETY: `new_unchecked`'s caller promised that `check_event` accepted these bytes, so `tags::check` did too.
        unsafe { tags::view(self.kind, &self.bytes[EVENT_HEADER_BYTES..]) }
    }

    /// Header and payload as they are in WAL, bus and wire.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The event as its producer stated it.
    pub fn to_event(&self) -> Event {
        let header = self.header();
        Event {
            instrument: header.instrument,
            producer_sequence: header.producer_sequence,
            event_time: header.event_time,
            flags: header.flags,
            venue_flags: header.venue_flags,
            body: self.body().to_body(),
        }
    }
}

impl std::fmt::Debug for EventRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventRef").field("sequence", &self.sequence).field("event", &self.to_event()).finish()
    }
}
