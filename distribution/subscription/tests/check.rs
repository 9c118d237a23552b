//! The judge of a reader is itself judged: a tape as it is passes, and whatever a mistaken bus does to it is said. What single
//! events and notices can have wrong, `services/node/tests/checker.rs` tries one by one, with a script to know them by.

#[path = "support/sim.rs"]
mod sim;
mod support;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use matchtape_schemas::event::{EpochStarted, encode_event};
use matchtape_schemas::{
    AcceptedTime, Epoch, Event, EventFlags, EventTime, FrameFlags, FrameWriter, Head, InstrumentId,
    ProducerId, ProducerSequence, Sequence, Stage, Watermarks,
};
use matchtape_subscription::check::{Checker, Promise, Shown, Watch};
use matchtape_subscription::{RealTime, RealTimeOptions, Start, Subscription};
use rkyv::util::AlignedVec;
use sim::{Buffer, Sample, SimLive, What};
use support::{Log, ManualClock, OwnedFrame, TAPE, all_at, trade};

/// Events of a frame that is no start of a term.
const FRAME: u64 = 10;
/// Where the bus begins in these tests: what is before it comes from the log.
const BUS_BEGINS: usize = 3;

fn write(head: &mut Head, events: &[(ProducerId, Event)]) -> OwnedFrame {
    let mut memory: AlignedVec<16> = AlignedVec::new();
    memory.resize(64 * 1024, 0);
    let mut writer = FrameWriter::new(&mut memory, head);
    for (producer, event) in events {
        let mut one: AlignedVec<16> = AlignedVec::new();
        one.resize(event.encoded_len(), 0);
        encode_event(event, *producer, &mut one);
        assert!(writer.push(&one));
    }
    let length = writer.finish(head, AcceptedTime(1), FrameFlags::NONE).length as usize;
    let mut exact = AlignedVec::new();
    exact.extend_from_slice(&memory[..length]);
    OwnedFrame::new(exact)
}

/// The start of a term.
fn start(head: &mut Head, epoch: u64) -> OwnedFrame {
    let started = EpochStarted {
        epoch: Epoch(epoch),
        previous_epoch: head.epoch,
        previous_last_sequence: head.last_sequence,
        ..EpochStarted::default()
    };
    head.epoch = Epoch(epoch);
    let time = head.max_event_time.max(EventTime(0));
    let start = Event::new(InstrumentId(0), ProducerSequence(0), time, started);
    write(head, &[(ProducerId::SEQUENCER, start)])
}

/// A frame of groups of two, of two producers in turn; one event comes late. `salt` is in what the events say.
fn trades(head: &mut Head, salt: u64) -> OwnedFrame {
    let first = head.last_sequence.get() + 1;
    let events = (first..first + FRAME).map(|n| {
        let time = n as i64 * 1_000_000 - if n % 10 == 7 { 50_000_000 } else { 0 };
        let mut event = Event::new(InstrumentId(1), ProducerSequence(n), EventTime(time), trade(salt + n));
        if (n - first).is_multiple_of(2) {
            event.flags = event.flags.without(EventFlags::LAST_OF_GROUP);
        }
        (ProducerId(1 + ((n - first) / 2 % 2) as u32), event)
    });
    write(head, &events.collect::<Vec<_>>())
}

fn tape(frames: usize) -> Vec<OwnedFrame> {
    let mut head = Head::empty(TAPE);
    let first = start(&mut head, 1);
    std::iter::once(first).chain((1..frames).map(|_| trades(&mut head, 0))).collect()
}

/// The head after these frames.
fn head(frames: &[OwnedFrame]) -> Head {
    frames.last().map_or(Head::empty(TAPE), |last| last.frame().header().head())
}

fn last(frames: &[OwnedFrame]) -> Sequence {
    head(frames).last_sequence
}

/// A log that proves so many frames, and a bus that says what it is told to.
struct Place {
    log: Log,
    buffer: Rc<RefCell<Buffer>>,
    incarnation: u64,
    epoch: Epoch,
    watch: Watch<RealTime<Log, SimLive, ManualClock>, Log>,
}

impl Place {
    fn new(stage: Stage, frames: &[OwnedFrame], proven: usize) -> Self {
        let (log, clock, buffer) = (Log::new(frames.to_vec()), ManualClock::default(), Rc::default());
        log.change(|kept| kept.visible = last(&frames[..proven]));
        let live = SimLive::new(Rc::clone(&buffer), clock.clone(), stage);
        buffer.borrow_mut().exists = true;
        let options = RealTimeOptions { start: Start::Beginning, ..RealTimeOptions::default() };
        let reader = RealTime::open_with_clock(log.clone(), live, options, clock).expect("open");
        let promise = Promise { stage, ..Promise::VISIBLE };
        let checker = Checker::new(promise, reader.position(), ());
        let watch = Watch::new(reader, log.clone(), checker);
        Self { log, buffer, incarnation: 1, epoch: Epoch(1), watch }
    }

    fn send(&mut self, what: What, first: Sequence, watermarks: Watermarks) {
        let (incarnation, epoch) = (self.incarnation, self.epoch);
        self.buffer.borrow_mut().samples.push_back(Sample { what, incarnation, epoch, first, watermarks });
    }

    fn publish(&mut self, frame: &OwnedFrame, visible: Sequence) {
        let last = frame.frame().last_sequence();
        let accepted = visible.max(last);
        let watermarks = Watermarks { accepted, written: accepted, ..all_at(visible) };
        self.send(What::Frame(frame.clone()), frame.frame().first_sequence(), watermarks);
    }

    fn beat(&mut self, next: Sequence, watermarks: Watermarks) {
        self.send(What::Heartbeat, next, watermarks);
    }

    /// Takes in what there is.
    fn drain(&mut self) {
        let said = std::cell::Cell::new(true);
        while said.replace(false) {
            self.watch.step(Duration::ZERO, &mut |_| said.set(true)).expect("step");
        }
    }

    /// The log proves all it has, and nothing more comes. What the judge says.
    fn end(mut self) -> (Vec<String>, bool, Checker) {
        let visible = self.log.change(|kept| {
            kept.visible = last(&kept.frames);
            kept.visible
        });
        self.drain();
        let settled =
            self.watch.settle(self.watch.end_by_now(), Duration::ZERO, &mut |_| ()).expect("settle");
        let checker = self.watch.into_checker();
        assert!(checker.next() <= visible.next() || !checker.is_clean());
        (checker.violations().to_vec(), settled, checker)
    }
}

/// A bus that publishes these frames once the log is at its end, of a tape whose log has `logged`.
fn live(stage: Stage, logged: &[OwnedFrame], published: &[OwnedFrame]) -> (Vec<String>, bool, Checker) {
    let mut place = Place::new(stage, logged, BUS_BEGINS);
    place.drain();
    place.beat(last(&logged[..BUS_BEGINS]).next(), all_at(last(&logged[..BUS_BEGINS])));
    place.drain();
    for frame in published {
        let visible =
            if stage == Stage::Visible { frame.frame().last_sequence() } else { last(&logged[..BUS_BEGINS]) };
        place.epoch = frame.frame().header().epoch;
        place.publish(frame, visible);
        place.drain();
    }
    place.end()
}

#[track_caller]
fn says(violations: &[String], word: &str) {
    assert!(violations.iter().any(|said| said.contains(word)), "{word:?} is not in {violations:?}");
}

#[test]
fn a_tape_that_comes_by_log_and_bus_as_it_is_passes_and_all_of_it_is_compared() {
    let frames = tape(8);
    for stage in [Stage::Visible, Stage::Accepted] {
        let (violations, settled, checker) = live(stage, &frames, &frames[BUS_BEGINS..]);
        assert!(violations.is_empty() && settled, "{stage}: {violations:?}");
        assert_eq!((checker.events(), checker.counts().compared), (71, 71), "{stage}");
        assert_eq!((checker.uncompared(), checker.held_bytes()), (None, 0));
        assert_eq!(checker.counts().joined, 1);
        assert!(checker.counts().late > 0);
    }
}

#[test]
fn an_event_with_another_byte_than_the_logs_is_said() {
    let frames = tape(6);
    for stage in [Stage::Visible, Stage::Accepted] {
        let mut mistaken = frames[BUS_BEGINS..].to_vec();
        mistaken[1] = trades(&mut head(&frames[..BUS_BEGINS + 1]), 1);
        let (violations, _, _) = live(stage, &frames, &mistaken);
        says(&violations, "not the log's: event 32 was shown with");
    }
}

#[test]
fn an_event_of_another_term_than_the_logs_is_said() {
    let frames = tape(6);
    let mut mistaken = frames[BUS_BEGINS..].to_vec();
    mistaken[2] = trades(&mut Head { epoch: Epoch(2), ..head(&frames[..BUS_BEGINS + 2]) }, 0);
    let (violations, _, _) = live(Stage::Visible, &frames, &mistaken);
    says(&violations, "event 42 is of epoch 2 after Some(Epoch(1)) without a start");
    says(&violations, "not the log's: event 42 was shown of epoch 2, the log has one of epoch 1 there");
}

#[test]
fn what_is_shown_before_it_is_visible_and_a_watermark_ahead_of_its_stage_are_said() {
    let frames = tape(5);
    let begun = || {
        let mut place = Place::new(Stage::Visible, &frames, BUS_BEGINS);
        place.drain();
        place.beat(Sequence(22), all_at(Sequence(21)));
        place.drain();
        place
    };
    let mut place = begun();
    place.publish(&frames[3], Sequence(21));
    says(&place.end().0, "events through 31 are labelled visible, which is at 21");

    let mut place = begun();
    let ahead = Watermarks { durable: Sequence(25), ..all_at(Sequence(31)) };
    place.send(What::Frame(frames[3].clone()), Sequence(22), ahead);
    says(&place.end().0, "contradict each other");

    // A sign of life that does not reach what came before it, and one that goes back.
    let mut place = begun();
    place.publish(&frames[3], Sequence(31));
    place.beat(Sequence(32), all_at(Sequence(21)));
    says(&place.end().0, "31 came by the bus, which");
    let mut place = begun();
    place.beat(
        Sequence(22),
        Watermarks { accepted: Sequence(40), written: Sequence(30), ..all_at(Sequence(21)) },
    );
    place.beat(
        Sequence(22),
        Watermarks { accepted: Sequence(40), written: Sequence(25), ..all_at(Sequence(21)) },
    );
    says(&place.end().0, "within a term");

    // The same where the node shows what is written: lawful there, and only there.
    let written = Watermarks {
        visible: Sequence(31),
        ..Watermarks { written: Sequence(31), accepted: Sequence(31), ..all_at(Sequence(21)) }
    };
    let mut place = begun();
    place.send(What::Frame(frames[3].clone()), Sequence(22), written);
    says(&place.end().0, "contradict each other");
    let mut checker =
        Checker::new(Promise { visible_at: Stage::Written, ..Promise::VISIBLE }, Sequence(1), ());
    let heartbeat = matchtape_subscription::Update::Heartbeat { epoch: Epoch(1), watermarks: written };
    checker.update(&heartbeat);
    assert!(checker.is_clean(), "{:?}", checker.violations());
}

#[test]
fn gaps_and_duplicates_are_said_and_what_came_twice_is_compared_twice() {
    let frames = tape(4);
    let events: Vec<_> = frames.iter().flat_map(|frame| frame.frame().events()).collect();
    let judge = |order: &[usize]| {
        let mut checker = Checker::new(Promise::VISIBLE, Sequence::FIRST, ()).held_against_a_log();
        for at in order {
            let (sequence, epoch) = (events[*at].sequence(), events[*at].epoch());
            let bytes = events[*at].bytes();
            checker.event(Shown { sequence, epoch, stage: Stage::Visible, bytes });
        }
        while let Some(first) = checker.uncompared() {
            assert!(checker.logged(&events[first.get() as usize - 1]));
        }
        checker
    };
    assert!(judge(&[0, 1, 2, 3, 4]).is_clean());
    says(judge(&[0, 1, 2, 4]).violations(), "gap: event 5 came after 3");
    let doubled = judge(&[0, 1, 2, 2, 3]);
    says(doubled.violations(), "duplicate: event 3 came after 3");
    assert_eq!(doubled.counts().compared, 5);
    says(judge(&[0, 1, 3, 2]).violations(), "interrupts a group");
}

#[test]
fn a_producer_whose_number_does_not_rise_is_said_and_one_that_was_taken_back_may_come_again() {
    let frames = tape(4);
    let events: Vec<_> = frames.iter().flat_map(|frame| frame.frame().events()).collect();
    let shown = |checker: &mut Checker, at: usize, position: u64| {
        let (epoch, bytes) = (Epoch(1), events[at].bytes());
        checker.event(Shown { sequence: Sequence(position), epoch, stage: Stage::Accepted, bytes });
    };
    let begun = || {
        let mut checker = Checker::new(Promise::ACCEPTED, Sequence::FIRST, ());
        (0..5).for_each(|at| shown(&mut checker, at, at as u64 + 1));
        assert!(checker.is_clean(), "{:?}", checker.violations());
        checker
    };
    // The group of the first producer again, at the next positions.
    let mut again = begun();
    (1..3).for_each(|at| shown(&mut again, at, at as u64 + 5));
    says(again.violations(), "event 6: producer 1's 2 after 3");
    let mut retracted = begun();
    let (first, last) = (Sequence(2), Sequence(5));
    retracted.update(&matchtape_subscription::Update::Retract { epoch: Epoch(1), first, last });
    (1..5).for_each(|at| shown(&mut retracted, at, at as u64 + 1));
    assert!(retracted.is_clean(), "{:?}", retracted.violations());
    assert_eq!(retracted.counts().retracted, 4);
}

/// A speculative reader that was shown ten events which the log never came to have: another term is there.
fn phantom() -> (Place, Vec<OwnedFrame>) {
    let mut frames = tape(4);
    let lost = trades(&mut head(&frames), 9);
    let mut after = head(&frames);
    frames.push(start(&mut after, 2));
    frames.push(trades(&mut after, 0));
    let mut place = Place::new(Stage::Accepted, &frames, BUS_BEGINS);
    place.drain();
    place.beat(Sequence(22), all_at(Sequence(21)));
    place.publish(&frames[3], Sequence(21));
    place.publish(&lost, Sequence(31));
    place.drain();
    assert!(place.watch.checker().is_clean(), "{:?}", place.watch.checker().violations());
    (place, frames)
}

#[test]
fn what_was_merely_accepted_is_retracted_or_on_the_log_as_it_was_shown() {
    // The node that comes next says what it has lost, and the reader goes on.
    let (mut place, frames) = phantom();
    (place.incarnation, place.epoch) = (2, Epoch(2));
    place.beat(Sequence(32), all_at(Sequence(31)));
    place.drain();
    for frame in &frames[4..] {
        place.publish(frame, Sequence(31));
        place.drain();
    }
    let (violations, settled, checker) = place.end();
    assert!(violations.is_empty() && settled, "{violations:?}");
    assert_eq!((checker.counts().retracted, checker.counts().restarts), (10, 1));
    assert_eq!((checker.events(), checker.uncompared()), (42, None));

    // Nobody says so: the log alone tells.
    let (place, _) = phantom();
    let (violations, settled, _) = place.end();
    assert!(!settled);
    says(
        &violations,
        "never retracted: not the log's: event 32 was shown of epoch 1, the log has one of epoch 2",
    );

    // Worse, it is said to be visible.
    let (mut place, _) = phantom();
    place.beat(Sequence(42), all_at(Sequence(41)));
    let violations = place.end().0;
    says(&violations, "not the log's: event 32 was shown of epoch 1");
    assert!(!violations.iter().any(|said| said.contains("never retracted")), "{violations:?}");
}

#[test]
fn what_the_log_does_not_prove_is_no_verdict_and_what_it_let_go_of_is_counted() {
    let frames = tape(6);
    let mut place = Place::new(Stage::Visible, &frames[..4], BUS_BEGINS);
    place.drain();
    place.beat(Sequence(22), all_at(Sequence(21)));
    for frame in &frames[3..] {
        place.publish(frame, frame.frame().last_sequence());
    }
    place.drain();
    let settled = place.watch.settle(place.watch.end_by_now(), Duration::ZERO, &mut |_| ()).expect("settle");
    assert!(!settled && place.watch.checker().is_clean());
    assert_eq!(place.watch.checker().uncompared(), Some(Sequence(22)));
    place.log.change(|kept| {
        kept.frames = frames.clone();
        (kept.visible, kept.first_kept) = (Sequence(51), Sequence(32));
    });
    assert!(place.watch.settle(place.watch.end_by_now(), Duration::ZERO, &mut |_| ()).expect("settle"));
    let counts = place.watch.checker().counts();
    assert_eq!((counts.compared, counts.below_retention), (41, 10));
}
