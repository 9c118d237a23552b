//! What of a consumer survives: a cursor and what is pending, and the list of what is parked. Each is one record.
//!
//! `state`, all little-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 2 | version: 2 |
//! | 8 | epoch of the tape when it was written |
//! | 8 | when it was written: ns since 1970 UTC |
//! | 8 | first: the position the consumer began with |
//! | 8 | initial_through: up to here only the last event of each instrument is delivered; 0 for none |
//! | 8 | next: the first position it has not come to |
//! | 8 | delivered: deliveries made, repeated ones counted |
//! | 8 | reserved_through: positions up to here may have been delivered without being recorded |
//! | 4 + 24 n | pending, by sequence: sequence (8), instrument (4), deliveries (4), deliveries before its present allowance (4), not to be delivered again for so many ms (4) |
//! | 4 + 16 n | lost positions that no member was told of: first (8), last (8) |
//!
//! Version 1 had no times, and is still read: what was pending in it is due at once.
//!
//! `parked`: version 1 (2), count (4), then by sequence: sequence (8), instrument (4), deliveries (4), parked at, ns since
//! 1970 UTC (8), reason (1).

use matchtape_schemas::event::{STATE_BYTES_MAX, STATE_KEY_BYTES_MAX};
use matchtape_schemas::{AcceptedTime, Epoch, InstrumentId, Sequence};

use crate::advisory::ParkReason;
use crate::codec::{DecodeError, Fields};
use crate::definition::MAX_ACK_PENDING_MAX;

/// Most events that can be pending: `max_ack_pending`, and a few that were taken back from the parked ones.
pub const PENDING_MAX: usize = 2016;
/// Most events that can be parked; one more waits, and delivery with it.
pub const PARKED_MAX: usize = 1500;

const VERSION: u16 = 2;
const PARKED_VERSION: u16 = 1;
const HEAD_BYTES: usize = 2 + 7 * 8;
const PENDING_BYTES: usize = 24;
/// In version 1.
const UNTIMED_PENDING_BYTES: usize = 20;
const LOST_BYTES: usize = 16;
/// Lost positions that are kept apart; beyond, they are told together with those between them.
pub(crate) const LOST_MAX: usize = 32;
const PARKED_BYTES: usize = 25;

const _: () = assert!(PENDING_MAX > MAX_ACK_PENDING_MAX as usize);
const _: () = assert!(
    HEAD_BYTES + 4 + PENDING_MAX * PENDING_BYTES + 4 + LOST_MAX * LOST_BYTES + STATE_KEY_BYTES_MAX
        <= STATE_BYTES_MAX
);
const _: () = assert!(6 + PARKED_MAX * PARKED_BYTES + STATE_KEY_BYTES_MAX <= STATE_BYTES_MAX);

/// One event that was handed out, or is held for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingState {
    /// Its position.
    pub sequence: Sequence,
    /// Its instrument.
    pub instrument: InstrumentId,
    /// How often it was delivered.
    pub deliveries: u32,
    /// Deliveries that do not count against `max_deliver`: those before it was taken back from the parked ones.
    pub forgiven: u32,
    /// It is not to be delivered again for so long after the state was written (49 days, if it is longer).
    pub due_in_ms: u32,
}

/// A consumer's cursor and what is pending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The tape's epoch when it was written.
    pub epoch: Epoch,
    /// When it was written.
    pub recorded_at: AcceptedTime,
    /// The position the consumer began with.
    pub first: Sequence,
    /// Up to here only the last event of each instrument is delivered; zero for none.
    pub initial_through: Sequence,
    /// The first position it has not come to.
    pub next: Sequence,
    /// Deliveries made.
    pub delivered: u64,
    /// Positions up to here may have been delivered without being recorded.
    pub reserved_through: Sequence,
    /// By sequence.
    pub pending: Vec<PendingState>,
    /// Lost positions no member was told of, in order.
    pub lost: Vec<(Sequence, Sequence)>,
}

impl State {
    /// A consumer that begins at `first`.
    pub fn beginning(epoch: Epoch, first: Sequence, initial_through: Sequence) -> Self {
        let reserved_through = first.previous();
        Self { epoch, first, initial_through, next: first, reserved_through, ..Self::default() }
    }

    /// Every position before this one was dealt with, except what is parked.
    pub fn floor(&self) -> Sequence {
        self.pending.first().map_or(self.next, |pending| pending.sequence.min(self.next)).previous()
    }

    /// Its bytes: see the module.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + 8 + self.pending.len() * PENDING_BYTES);
        out.extend_from_slice(&VERSION.to_le_bytes());
        for word in [
            self.epoch.get(),
            self.recorded_at.get().cast_unsigned(),
            self.first.get(),
            self.initial_through.get(),
            self.next.get(),
            self.delivered,
            self.reserved_through.get(),
        ] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&(self.pending.len() as u32).to_le_bytes());
        for pending in &self.pending {
            out.extend_from_slice(&pending.sequence.get().to_le_bytes());
            out.extend_from_slice(&pending.instrument.get().to_le_bytes());
            out.extend_from_slice(&pending.deliveries.to_le_bytes());
            out.extend_from_slice(&pending.forgiven.to_le_bytes());
            out.extend_from_slice(&pending.due_in_ms.to_le_bytes());
        }
        out.extend_from_slice(&(self.lost.len() as u32).to_le_bytes());
        for (first, last) in &self.lost {
            out.extend_from_slice(&first.get().to_le_bytes());
            out.extend_from_slice(&last.get().to_le_bytes());
        }
        out
    }

    /// The state in `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new("state", bytes, 1..=VERSION)?;
        let timed = fields.version() > 1;
        let mut state = Self {
            epoch: Epoch(fields.u64()?),
            recorded_at: AcceptedTime(if timed { fields.i64()? } else { 0 }),
            first: fields.sequence()?,
            initial_through: fields.sequence()?,
            next: fields.sequence()?,
            delivered: fields.u64()?,
            reserved_through: fields.sequence()?,
            ..Self::default()
        };
        // Positions are counted on from these, so none may be the last number there is.
        let sane = |sequence: Sequence| sequence.get() < u64::MAX / 2;
        if state.first == Sequence::ZERO || state.next < state.first {
            return Err(
                fields.wrong(format!("next position {} of a consumer from {}", state.next, state.first))
            );
        }
        if ![state.next, state.reserved_through, state.initial_through].into_iter().all(sane) {
            return Err(fields.wrong("a position no tape reaches"));
        }
        let each = if timed { PENDING_BYTES } else { UNTIMED_PENDING_BYTES };
        let count = fields.count(PENDING_MAX, each)?;
        for _ in 0..count {
            let pending = PendingState {
                sequence: fields.sequence()?,
                instrument: InstrumentId(fields.u32()?),
                deliveries: fields.u32()?,
                forgiven: fields.u32()?,
                due_in_ms: if timed { fields.u32()? } else { 0 },
            };
            let after = state.pending.last().map_or(state.first.previous(), |last| last.sequence);
            if pending.sequence <= after || pending.sequence >= state.next {
                return Err(fields.wrong(format!("pending event {} out of order", pending.sequence)));
            }
            if pending.forgiven > pending.deliveries {
                return Err(fields.wrong("more deliveries forgiven than made"));
            }
            state.pending.push(pending);
        }
        let count = fields.count(LOST_MAX, LOST_BYTES)?;
        for _ in 0..count {
            let (first, last) = (fields.sequence()?, fields.sequence()?);
            let after = state.lost.last().map_or(Sequence::ZERO, |(_, last)| *last);
            if first <= after || last < first || last >= state.next {
                return Err(fields.wrong(format!("lost positions {first} to {last} out of order")));
            }
            state.lost.push((first, last));
        }
        fields.finish()?;
        Ok(state)
    }
}

/// An event that was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Its position.
    pub sequence: Sequence,
    /// Its instrument.
    pub instrument: InstrumentId,
    /// How often it was delivered.
    pub deliveries: u32,
    /// When it was parked: ns since 1970 UTC.
    pub at: AcceptedTime,
    /// What became of its last delivery.
    pub reason: ParkReason,
}

/// The bytes of the list of parked events: see the module.
pub fn encode_parked<'a>(parked: impl ExactSizeIterator<Item = &'a Parked>) -> Vec<u8> {
    let mut out = PARKED_VERSION.to_le_bytes().to_vec();
    out.extend_from_slice(&(parked.len() as u32).to_le_bytes());
    for one in parked {
        out.extend_from_slice(&one.sequence.get().to_le_bytes());
        out.extend_from_slice(&one.instrument.get().to_le_bytes());
        out.extend_from_slice(&one.deliveries.to_le_bytes());
        out.extend_from_slice(&one.at.get().to_le_bytes());
        out.push(match one.reason {
            ParkReason::Expired => 0,
            ParkReason::Refused => 1,
        });
    }
    out
}

/// The parked events in `bytes`, by sequence.
pub fn decode_parked(bytes: &[u8]) -> Result<Vec<Parked>, DecodeError> {
    let mut fields = Fields::new("parked", bytes, PARKED_VERSION..=PARKED_VERSION)?;
    let count = fields.count(PARKED_MAX, PARKED_BYTES)?;
    let mut parked: Vec<Parked> = Vec::with_capacity(count);
    for _ in 0..count {
        let one = Parked {
            sequence: fields.sequence()?,
            instrument: InstrumentId(fields.u32()?),
            deliveries: fields.u32()?,
            at: AcceptedTime(fields.i64()?),
            reason: match fields.u8()? {
                0 => ParkReason::Expired,
                1 => ParkReason::Refused,
                other => return Err(fields.wrong(format!("reason {other}"))),
            },
        };
        if one.sequence <= parked.last().map_or(Sequence::ZERO, |last| last.sequence) {
            return Err(fields.wrong(format!("parked event {} out of order", one.sequence)));
        }
        parked.push(one);
    }
    fields.finish()?;
    Ok(parked)
}
