//! What a segment's frames add up to: the numbers and the BLAKE3 root of its footer.
//!
//! One code for the writer, for recovery and for verification, so that they cannot differ.

use matchtape_schemas::event::EVENT_HEADER_BYTES;
use matchtape_schemas::frame::FRAME_HEADER_BYTES;
use matchtape_schemas::{AcceptedTime, EventTime, FrameHeader, KindMask};

use super::bytes::{i64_at, u32_at};
use super::segment::{SegmentRoot, SegmentTotals};

#[derive(Clone, Debug)]
pub(super) struct Tally {
    totals: SegmentTotals,
    hasher: blake3::Hasher,
}

impl Tally {
    pub(super) fn new() -> Self {
        let totals = SegmentTotals {
            commits: 0,
            frames: 0,
            events: 0,
            frame_bytes: 0,
            min_event_time: EventTime(i64::MAX),
            max_event_time: EventTime(i64::MIN),
            first_accepted_time: AcceptedTime(0),
            kinds: KindMask(0),
        };
        Self { totals, hasher: blake3::Hasher::new() }
    }

    /// Adds one commit's frames, which were checked or written by this process.
    pub(super) fn add_commit(&mut self, frames: &[u8]) {
        self.totals.commits += 1;
        self.hasher.update(frames);
        let mut rest = frames;
        while !rest.is_empty() {
            let header = FrameHeader::peek(rest).expect("the frames of a commit were checked");
            let (frame, others) = rest.split_at(header.length as usize);
            self.add_frame(&header, frame);
            rest = others;
        }
    }

    fn add_frame(&mut self, header: &FrameHeader, frame: &[u8]) {
        let totals = &mut self.totals;
        if totals.frames == 0 {
            totals.first_accepted_time = header.accepted_time;
        }
        totals.frames += 1;
        totals.events += u64::from(header.count);
        totals.frame_bytes += u64::from(header.length);
        totals.kinds = KindMask(totals.kinds.0 | header.kinds.0);
        let mut at = FRAME_HEADER_BYTES;
        for _ in 0..header.count {
            debug_assert!(at + EVENT_HEADER_BYTES <= frame.len(), "events tile their frame");
            // The event header's length and time, see `schemas::event`.
            let time = EventTime(i64_at(frame, at + 24));
            totals.min_event_time = totals.min_event_time.min(time);
            totals.max_event_time = totals.max_event_time.max(time);
            at += u32_at(frame, at) as usize;
        }
    }

    pub(super) fn finish(&self) -> (SegmentTotals, SegmentRoot) {
        (self.totals, SegmentRoot(*self.hasher.finalize().as_bytes()))
    }
}
