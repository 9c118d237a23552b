//! What stays known of a segment after the log has let go of it: enough to check any copy of its frames.

use matchtape_schemas::{AcceptedTime, EventTime, Sequence};

use crate::codec::{Fields, Short};
use crate::wal::{SegmentInfo, SegmentNumber, SegmentRoot};

/// The facts of a sealed segment, from its header and footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFacts {
    /// Its place in the chain.
    pub number: SegmentNumber,
    /// Its random identity on this machine; replicas have others.
    pub id: [u8; 16],
    /// Its first event.
    pub first: Sequence,
    /// Its last event.
    pub last: Sequence,
    /// Frames.
    pub frames: u64,
    /// Bytes of all frames.
    pub frame_bytes: u64,
    /// The least event time.
    pub min_event_time: EventTime,
    /// The greatest event time.
    pub max_event_time: EventTime,
    /// Accepted time of its first frame.
    pub first_accepted_time: AcceptedTime,
    /// Accepted time of its last frame.
    pub last_accepted_time: AcceptedTime,
    /// BLAKE3 over the bytes of its frames, equal on every replica.
    pub root: SegmentRoot,
}

impl SegmentFacts {
    /// `None` while the segment is not sealed.
    pub fn of(segment: &SegmentInfo) -> Option<Self> {
        let sealed = segment.sealed?;
        Some(Self {
            number: segment.number,
            id: segment.id.0,
            first: segment.first_sequence(),
            last: sealed.ends.last_sequence,
            frames: sealed.totals.frames,
            frame_bytes: sealed.totals.frame_bytes,
            min_event_time: sealed.totals.min_event_time,
            max_event_time: sealed.totals.max_event_time,
            first_accepted_time: sealed.totals.first_accepted_time,
            last_accepted_time: sealed.ends.accepted_time,
            root: sealed.root,
        })
    }

    /// Appends 120 bytes.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.number.0.to_le_bytes());
        out.extend_from_slice(&self.id);
        for number in [self.first.0, self.last.0, self.frames, self.frame_bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let (events, accepted) =
            ([self.min_event_time, self.max_event_time], [self.first_accepted_time, self.last_accepted_time]);
        events.iter().for_each(|time| out.extend_from_slice(&time.0.to_le_bytes()));
        accepted.iter().for_each(|time| out.extend_from_slice(&time.0.to_le_bytes()));
        out.extend_from_slice(&self.root.0);
    }

    pub(crate) fn read(fields: &mut Fields<'_>) -> Result<Self, Short> {
        let at = fields.at();
        let facts = Self {
            number: SegmentNumber(fields.u64()?),
            id: fields.array()?,
            first: fields.sequence()?,
            last: fields.sequence()?,
            frames: fields.u64()?,
            frame_bytes: fields.u64()?,
            min_event_time: EventTime(fields.i64()?),
            max_event_time: EventTime(fields.i64()?),
            first_accepted_time: AcceptedTime(fields.i64()?),
            last_accepted_time: AcceptedTime(fields.i64()?),
            root: SegmentRoot(fields.array()?),
        };
        let possible = facts.number.0 > 0 && facts.first >= Sequence::FIRST && facts.first <= facts.last;
        if possible { Ok(facts) } else { Err(Short { at }) }
    }
}
