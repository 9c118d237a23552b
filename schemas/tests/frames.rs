//! The codec against itself and against bytes it must refuse.

mod common;
mod fuzzed;

use common::*;
use matchtape_schemas::event::{EventError, check_event};
use matchtape_schemas::frame::{ChainError, FRAME_HEADER_BYTES, FrameError};
use matchtape_schemas::*;
use proptest::prelude::*;

/// Groups of at most 4 events, each closed, as a sequencer frames them.
fn any_frame() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(any_event(), 1..12).prop_map(|mut events| {
        let last = events.len() - 1;
        for event in &mut events {
            event.flags = event.flags.without(EventFlags::LATE);
        }
        events[last].flags = events[last].flags.with(EventFlags::LAST_OF_GROUP);
        events
    })
}

#[test]
fn what_is_framed_is_read_back_with_sequences_and_late_marks() {
    let mut head = Head { last_sequence: Sequence(99), epoch: Epoch(3), ..Head::empty(TapeId(7)) };
    let mut events = one_of_each();
    events[4].event_time = EventTime(5);
    let frame = framed(&events, &mut head, FrameFlags::ENDS_SEGMENT);
    let frame = Frame::decode(frame.bytes()).unwrap();
    assert_eq!((frame.first_sequence(), frame.last_sequence()), (Sequence(100), Sequence(119)));
    assert_eq!(frame.header().head(), head);
    assert!(frame.header().flags.contains(FrameFlags::ENDS_SEGMENT));
    for (read, (written, sequence)) in frame.events().zip(events.iter().zip(100..)) {
        let mut expected = written.clone();
        if sequence == 104 {
            expected.flags = expected.flags.with(EventFlags::LATE);
        }
        assert_eq!(read.to_event(), expected);
        assert_eq!((read.sequence(), read.epoch()), (Sequence(sequence), Epoch(3)));
        assert_eq!(read.header().producer, ProducerId(3));
        assert_eq!(frame.event(Sequence(sequence)).unwrap().bytes(), read.bytes());
        let rest = &frame.bytes()[frame.offset_of(&read)..];
        let alone =
            EventRef::decode_first(read.sequence(), read.epoch(), read.accepted_time(), rest).unwrap();
        assert_eq!(alone.bytes(), read.bytes());
    }
    assert!(frame.event(Sequence(99)).is_none() && frame.event(Sequence(120)).is_none());
}

#[test]
fn every_single_flipped_bit_of_a_frame_is_noticed() {
    let mut head = Head::empty(TapeId(7));
    let mut frame = framed(&one_of_each(), &mut head, FrameFlags::NONE);
    for bit in 0..frame.bytes().len() * 8 {
        frame.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
        assert!(Frame::decode(frame.bytes()).is_err(), "bit {bit}");
        frame.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(Frame::decode(frame.bytes()).is_ok());
}

#[test]
fn a_frame_says_what_is_wrong_with_it() {
    let mut head = Head::empty(TapeId(7));
    let good = framed(&one_of_each()[..2], &mut head, FrameFlags::NONE);
    let broken = |change: &dyn Fn(&mut [u8])| {
        let mut copy = Aligned::copy_of(good.bytes());
        change(copy.bytes_mut());
        Frame::decode(copy.bytes()).unwrap_err()
    };
    assert!(matches!(broken(&|b| b[0] = 0), FrameError::Magic { .. }));
    assert_eq!(broken(&|b| b[4] = 9), FrameError::Version { found: 9 });
    assert_eq!(broken(&|b| b[6] = 0x80), FrameError::Flags(0x80));
    assert_eq!(broken(&|b| b[80] = 2), FrameError::Algorithm { found: 2 });
    assert_eq!(broken(&|b| b[72] = 1), FrameError::Reserved);
    assert_eq!(
        broken(&|b| b[36..40].copy_from_slice(&u32::MAX.to_le_bytes())),
        FrameError::Length { length: u32::MAX }
    );
    assert!(matches!(broken(&|b| b[32..36].fill(0)), FrameError::Count { count: 0, .. }));
    assert_eq!(broken(&|b| b[24..32].fill(0)), FrameError::FirstSequence(Sequence(0)));
    assert!(matches!(broken(&|b| b[100] ^= 1), FrameError::Checksum { .. }));
    assert!(matches!(Frame::decode(&good.bytes()[..90]), Err(FrameError::Truncated { needed: 96, .. })));
    assert!(matches!(Frame::decode(&good.bytes()[..200]), Err(FrameError::Truncated { .. })));
    let mut shifted = Aligned::zeroed(good.bytes().len() + 8);
    shifted.bytes_mut()[8..].copy_from_slice(good.bytes());
    assert_eq!(Frame::decode(&shifted.bytes()[8..]).unwrap_err(), FrameError::Misaligned);
}

/// Rewrites the checksum, as a broken writer (not a broken disk) would.
fn resealed(frame: &mut Aligned) {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame.bytes()[..88]);
    hasher.update(&frame.bytes()[FRAME_HEADER_BYTES..]);
    let checksum = u64::from(hasher.finalize());
    frame.bytes_mut()[88..96].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
fn a_frame_whose_header_contradicts_its_events_is_refused_although_its_checksum_holds() {
    let mut head = Head::empty(TapeId(7));
    let good = framed(&one_of_each()[..3], &mut head, FrameFlags::NONE);
    let broken = |change: &dyn Fn(&mut [u8])| {
        let mut copy = Aligned::copy_of(good.bytes());
        change(copy.bytes_mut());
        resealed(&mut copy);
        Frame::decode(copy.bytes()).unwrap_err()
    };
    let contradiction = |what| FrameError::Contradiction { first_sequence: Sequence(1), what };
    assert_eq!(broken(&|b| b[32] = 2), contradiction("count"));
    assert_eq!(broken(&|b| b[56] = 0), contradiction("mask of kinds"));
    assert_eq!(broken(&|b| b[6] = 2), contradiction("end of group"));
    assert_eq!(broken(&|b| b[48..56].fill(0)), contradiction("greatest event time"));
    let event = |source| FrameError::Event { sequence: Sequence(1), source };
    assert_eq!(broken(&|b| b[100] = 63), event(EventError::Tag(63)));
    assert_eq!(broken(&|b| b[102] = 0x40), event(EventError::Flags(0x40)));
    assert!(matches!(broken(&|b| b[96] = 8), FrameError::Event { source: EventError::Length { .. }, .. }));
    assert!(matches!(
        broken(&|b| b[FRAME_HEADER_BYTES + 32 + 92] = 9),
        FrameError::Event { source: EventError::Payload { kind: Kind::OrderAccepted, .. }, .. }
    ));
}

#[test]
fn a_frame_follows_only_the_head_it_was_written_after() {
    let mut head = Head { epoch: Epoch(2), ..Head::empty(TapeId(7)) };
    let first_head = head;
    let first = *Frame::decode(framed(&one_of_each(), &mut head, FrameFlags::NONE).bytes()).unwrap().header();
    let second =
        *Frame::decode(framed(&one_of_each(), &mut head, FrameFlags::NONE).bytes()).unwrap().header();
    assert_eq!(first.check_follows(&first_head), Ok(()));
    assert_eq!(second.check_follows(&first.head()), Ok(()));
    let after = first.head();
    let refused = |head: Head| second.check_follows(&head).unwrap_err();
    assert!(matches!(refused(Head { tape: TapeId(8), ..after }), ChainError::Tape { .. }));
    assert!(matches!(refused(Head { epoch: Epoch(3), ..after }), ChainError::Epoch { .. }));
    assert!(matches!(refused(first_head), ChainError::Sequence { .. }));
    assert!(matches!(refused(Head { checksum: 1, ..after }), ChainError::Checksum { .. }));
    assert!(matches!(refused(Head { max_event_time: EventTime::MAX, ..after }), ChainError::Time { .. }));
    assert!(matches!(
        refused(Head { accepted_time: AcceptedTime(i64::MAX), ..after }),
        ChainError::Time { .. }
    ));
}

#[test]
fn a_clock_that_goes_back_does_not_move_accepted_time_back() {
    let mut head = Head { accepted_time: AcceptedTime(i64::MAX - 1), ..Head::empty(TapeId(7)) };
    let frame = framed(&one_of_each()[..1], &mut head, FrameFlags::NONE);
    assert_eq!(Frame::decode(frame.bytes()).unwrap().header().accepted_time, AcceptedTime(i64::MAX - 1));
}

#[test]
fn a_group_that_goes_on_in_the_next_frame_is_marked_on_the_frame() {
    let mut head = Head::empty(TapeId(7));
    let mut events = one_of_each();
    for event in &mut events {
        event.flags = EventFlags::NONE;
    }
    let open = framed(&events, &mut head, FrameFlags::NONE);
    assert!(!Frame::decode(open.bytes()).unwrap().header().ends_group());
}

proptest! {
    #[test]
    fn every_event_survives_its_bytes(event in any_event(), producer: u32) {
        let bytes = encoded(&event, ProducerId(producer));
        let header = check_event(bytes.bytes()).unwrap();
        prop_assert_eq!(header.producer, ProducerId(producer));
        prop_assert_eq!(header.length as usize, event.encoded_len());
        prop_assert_eq!(event.encoded_len() % 16, 0);
    }

    #[test]
    fn every_frame_survives_its_bytes(events in any_frame()) {
        let mut head = Head::empty(TapeId(1));
        let bytes = framed(&events, &mut head, FrameFlags::NONE);
        let frame = Frame::decode(bytes.bytes()).unwrap();
        let read: Vec<Event> = frame
            .events()
            .map(|event| event.to_event())
            .map(|event| Event { flags: event.flags.without(EventFlags::LATE), ..event })
            .collect();
        prop_assert_eq!(read, events);
    }

    #[test]
    fn no_bytes_make_decoding_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..600), reseal: bool) {
        if bytes.len() >= 96 && reseal {
            // Get past the first checks, so that the later ones are reached too.
            bytes[0..4].copy_from_slice(b"MTFR");
            bytes[4..8].copy_from_slice(&[1, 0, 0, 0]);
            let length = bytes.len() / 16 * 16;
            bytes[36..40].copy_from_slice(&(length as u32).to_le_bytes());
            bytes[72..88].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
            let mut frame = Aligned::copy_of(&bytes[..length]);
            resealed(&mut frame);
            let _ = Frame::decode(frame.bytes());
        }
        let _ = Frame::decode(Aligned::copy_of(&bytes).bytes());
        let _ = check_event(Aligned::copy_of(&bytes).bytes());
    }

    #[test]
    fn damaged_frames_never_decode_to_something_else(
        events in any_frame(), at: prop::sample::Index, flip in 1u8..
    ) {
        let mut head = Head::empty(TapeId(1));
        let mut bytes = framed(&events, &mut head, FrameFlags::NONE);
        let at = at.index(bytes.bytes().len());
        bytes.bytes_mut()[at] ^= flip;
        prop_assert!(Frame::decode(bytes.bytes()).is_err());
    }

    #[test]
    fn damaged_events_with_a_true_checksum_never_panic(
        events in any_frame(), at: prop::sample::Index, value: u8
    ) {
        let mut head = Head::empty(TapeId(1));
        let mut bytes = framed(&events, &mut head, FrameFlags::NONE);
        let at = at.index(bytes.bytes().len());
        bytes.bytes_mut()[at] = value;
        resealed(&mut bytes);
        if let Ok(frame) = Frame::decode(bytes.bytes()) {
            for event in frame.events() {
                let _ = format!("{event:?}");
            }
        }
    }
}

#[test]
fn what_the_fuzzer_has_kept_of_frames_is_survived() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/frame");
    let files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty());
    files.iter().for_each(|file| fuzzed::survive(&std::fs::read(file).unwrap()));
}
