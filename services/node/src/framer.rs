//! Cuts what has accumulated in the ring into frames. Decides; touches neither log nor clock.
//!
//! ```text
//!   ring   a a | b | c c c | d ...         groups, each ended by a flag
//!   frame  [ a a | b | c c c ]             whole groups, as many as are there and fit
//!   frame  [ e e e e ][ e e e ][ e e | f ] a group larger than a frame: frames wholly inside it, then its end
//! ```
//!
//! A group of which an event is still being written is left for the next time.

use matchtape_schemas::event::EventFlags;
use matchtape_schemas::limits::{EVENT_BYTES_MAX, FRAME_BYTES_MAX};
use matchtape_schemas::{
    AcceptedTime, FrameFlags, FrameHeader, FrameWriter, Head, frame::FRAME_HEADER_BYTES,
};

use crate::ring::RingReader;

/// The chain of one tape's frames.
pub(crate) struct Framer {
    head: Head,
}

/// The next group in the ring.
enum Group {
    /// All of it is there.
    Whole { events: usize, bytes: usize },
    /// More than a frame holds; its end may or may not be there.
    Large,
    /// Its end is not there yet.
    Incomplete,
}

const EVENTS_BYTES_MAX: usize = FRAME_BYTES_MAX - FRAME_HEADER_BYTES;
const _: () = assert!(EVENT_BYTES_MAX <= EVENTS_BYTES_MAX);

impl Framer {
    pub(crate) fn new(head: Head) -> Self {
        Self { head }
    }

    /// Whether there is something to frame.
    pub(crate) fn ready(ring: &RingReader) -> bool {
        !matches!(next_group(ring, 0), Group::Incomplete)
    }

    /// Writes one frame at the start of `out`, which has [`FRAME_BYTES_MAX`] bytes; returns it with the number of events
    /// that may now leave the ring. `ends_segment` is asked where the frame ends a group, once it is full: whoever has asked for
    /// the segment's end and then put an event into the ring finds them in one frame at the latest.
    ///
    /// # Panics
    /// If nothing is [`ready`](Self::ready).
    pub(crate) fn frame(
        &mut self,
        ring: &RingReader,
        out: &mut [u8],
        accepted_time: AcceptedTime,
        ends_segment: impl FnOnce() -> bool,
    ) -> (FrameHeader, usize) {
        let mut writer = FrameWriter::new(out, &self.head);
        let mut taken = 0;
        loop {
            match next_group(ring, taken) {
                Group::Whole { events, bytes } if bytes <= writer.room() => {
                    for ahead in taken..taken + events {
                        let event = ring
                            .filled(ahead)
                            .expect("seen as filled, and whoever has the pipeline frees slots");
                        assert!(writer.push(event), "the group was measured");
                    }
                    taken += events;
                }
                Group::Large if taken == 0 => {
                    while let Some(event) = ring.filled(taken)
                        && writer.push(event)
                    {
                        taken += 1;
                    }
                    break;
                }
                // What comes next does not fit beside what is in the frame, or is not there yet.
                Group::Whole { .. } | Group::Large | Group::Incomplete => break,
            }
        }
        let flags =
            if writer.ends_group() && ends_segment() { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
        (writer.finish(&mut self.head, accepted_time, flags), taken)
    }
}

fn next_group(ring: &RingReader, from: usize) -> Group {
    let (mut events, mut bytes) = (0, 0);
    while let Some(event) = ring.filled(from + events) {
        events += 1;
        bytes += event.len();
        if bytes > EVENTS_BYTES_MAX {
            return Group::Large;
        }
        if event[6] & EventFlags::LAST_OF_GROUP.bits() != 0 {
            return Group::Whole { events, bytes };
        }
    }
    Group::Incomplete
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use matchtape_schemas::event::{Event, OrderCancelled, encode_event};
    use matchtape_schemas::{
        Epoch, EventTime, Frame, InstrumentId, ProducerId, ProducerSequence, Sequence, TapeId,
    };
    use matchtape_storage::AlignedBytes;

    use super::*;
    use crate::ring::Ring;

    fn event(number: u64, last: bool) -> Event {
        let mut event = Event::new(
            InstrumentId(1),
            ProducerSequence(number),
            EventTime(number as i64),
            OrderCancelled::default(),
        );
        if !last {
            event.flags = EventFlags::NONE;
        }
        event
    }

    fn put(ring: &Ring, events: &[Event]) {
        let mut claim = ring.claim(events.len(), 0).unwrap();
        for event in events {
            claim.fill(event.encoded_len(), |out| encode_event(event, ProducerId(1), out));
        }
    }

    fn group(ring: &Ring, first: u64, size: u64) {
        let events: Vec<Event> = (first..first + size).map(|n| event(n, n + 1 == first + size)).collect();
        put(ring, &events);
    }

    fn setup() -> (Arc<Ring>, RingReader, Framer, AlignedBytes) {
        let ring = Arc::new(Ring::new(4096, Sequence::ZERO));
        let reader = RingReader::new(Arc::clone(&ring));
        let framer = Framer::new(Head { epoch: Epoch(1), ..Head::empty(TapeId(1)) });
        (ring, reader, framer, AlignedBytes::zeroed(1 << 20))
    }

    fn next(framer: &mut Framer, reader: &mut RingReader, out: &mut [u8]) -> Option<(u64, u64, bool)> {
        if !Framer::ready(reader) {
            return None;
        }
        let (header, taken) = framer.frame(reader, out, AcceptedTime(1), || true);
        let frame = Frame::decode(out).unwrap();
        assert_eq!(frame.events().count(), taken);
        assert_eq!(header.flags.contains(FrameFlags::ENDS_SEGMENT), header.ends_group());
        reader.release(taken);
        Some((header.first_sequence.get(), header.last_sequence().get(), header.ends_group()))
    }

    #[test]
    fn whole_groups_share_a_frame_and_an_unfinished_one_waits() {
        let (ring, mut reader, mut framer, mut out) = setup();
        group(&ring, 1, 3);
        group(&ring, 4, 1);
        put(&ring, &[event(5, false), event(6, false)]);
        assert_eq!(next(&mut framer, &mut reader, &mut out), Some((1, 4, true)));
        assert_eq!(next(&mut framer, &mut reader, &mut out), None);
        put(&ring, &[event(7, true)]);
        assert_eq!(next(&mut framer, &mut reader, &mut out), Some((5, 7, true)));
        assert_eq!(next(&mut framer, &mut reader, &mut out), None);
        assert_eq!(framer.head.last_sequence, Sequence(7));
    }

    #[test]
    fn whether_the_segment_ends_is_asked_when_the_frame_is_full() {
        let (ring, mut reader, mut framer, mut out) = setup();
        group(&ring, 1, 3);
        let (header, taken) = framer.frame(&reader, &mut out, AcceptedTime(1), || {
            // Whoever asked before this event was there would find it in a frame that was asked for.
            group(&ring, 4, 1);
            true
        });
        assert_eq!((header.last_sequence(), header.flags), (Sequence(3), FrameFlags::ENDS_SEGMENT));
        reader.release(taken);
        assert_eq!(next(&mut framer, &mut reader, &mut out), Some((4, 4, true)));
    }

    #[test]
    fn a_group_that_does_not_fit_the_rest_of_a_frame_begins_the_next() {
        let (ring, mut reader, mut framer, mut out) = setup();
        group(&ring, 1, 400);
        group(&ring, 401, 400);
        group(&ring, 801, 1);
        assert_eq!(next(&mut framer, &mut reader, &mut out), Some((1, 400, true)));
        assert_eq!(next(&mut framer, &mut reader, &mut out), Some((401, 801, true)));
    }

    #[test]
    fn a_group_larger_than_a_frame_has_frames_of_its_own_until_its_end() {
        let (ring, mut reader, mut framer, mut out) = setup();
        group(&ring, 1, 1);
        group(&ring, 2, 1200);
        group(&ring, 1202, 1);
        assert_eq!(next(&mut framer, &mut reader, &mut out), Some((1, 1, true)));
        let (_, second_last, ends) = next(&mut framer, &mut reader, &mut out).unwrap();
        assert!(!ends);
        let (third_first, third_last, ends) = next(&mut framer, &mut reader, &mut out).unwrap();
        assert_eq!((third_first, ends), (second_last + 1, true));
        assert_eq!(third_last, 1202, "the end of the group and the group after it share a frame");
    }
}
