//! The judge of the process tests is itself judged: a tape as it is passes, and whatever can be wrong with what a reader
//! was shown is said.

#[path = "support/checker.rs"]
mod checker;
#[path = "support/script.rs"]
mod script;

use std::rc::Rc;
use std::time::Duration;

use checker::{Checker, Corruption, Damage, Promise, Shown};
use matchtape_schemas::event::{EpochStarted, Event, encode_event};
use matchtape_schemas::{
    AcceptedTime, Epoch, EventTime, Frame, FrameFlags, FrameWriter, Head, InstrumentId, KindMask, ProducerId,
    ProducerSequence, Sequence, Stage, TapeId, Watermarks,
};
use matchtape_subscription::{
    BatchBuf, Delayed, DelayedOptions, End, FrameHandle, Historical, HistoricalOptions, History,
    HistoryError, LeaveReason, Pace, Start, Subscription, Update, WindowStart,
};
use rkyv::util::AlignedVec;
use script::{PRODUCERS, Random};

#[derive(Clone)]
struct OneFrame(Rc<AlignedVec<16>>);

impl FrameHandle for OneFrame {
    fn frame(&self) -> Frame<'_> {
        Frame::decode(&self.0).expect("written here")
    }
}

/// A tape in memory: two terms of what both producers publish.
#[derive(Clone)]
struct Tape(Vec<OneFrame>);

impl Tape {
    fn new(groups: u64) -> Self {
        let (mut random, mut head, mut frames) = (Random(5), Head::empty(TapeId(7)), Vec::new());
        let mut numbers = [1, 1];
        for term in 1..=2 {
            let started = EpochStarted {
                epoch: Epoch(term),
                previous_epoch: head.epoch,
                previous_last_sequence: head.last_sequence,
                ..EpochStarted::default()
            };
            let start = Event::new(InstrumentId(0), ProducerSequence(0), head.max_event_time, started);
            head.epoch = Epoch(term);
            frames.push(write(&mut head, &[(ProducerId::SEQUENCER, start)]));
            for _ in 0..groups {
                let index = random.below(2) as usize;
                let group = script::group(PRODUCERS[index], numbers[index]);
                numbers[index] += group.len() as u64;
                for part in group.chunks(100) {
                    let events: Vec<_> = part.iter().map(|event| (PRODUCERS[index], event.clone())).collect();
                    frames.push(write(&mut head, &events));
                }
            }
        }
        Self(frames)
    }

    fn last(&self) -> Sequence {
        self.0.last().expect("frames").frame().last_sequence()
    }

    fn all(&self, first: u64, kinds: KindMask) -> Historical<Self> {
        let filter = matchtape_subscription::Filter::kinds(kinds);
        let options =
            HistoricalOptions { start: Start::At(Sequence(first)), filter, ..HistoricalOptions::default() };
        Historical::open(self.clone(), options).expect("open")
    }

    fn windows(&self) -> Vec<BatchBuf> {
        let options =
            DelayedOptions { start: WindowStart::From(Start::Beginning), ..DelayedOptions::default() };
        let mut reader =
            Delayed::replay(self.clone(), &options, End::Visible, Pace::AsFastAsPossible).expect("open");
        let mut batches = Vec::new();
        while let Some(Update::Window(batch)) = reader.poll().expect("read") {
            batches.push(BatchBuf::copy(&batch));
        }
        batches
    }
}

fn write(head: &mut Head, events: &[(ProducerId, Event)]) -> OneFrame {
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
    OneFrame(Rc::new(exact))
}

impl History for Tape {
    type Frame = OneFrame;

    fn visible(&self) -> Sequence {
        self.last()
    }

    fn progress(&self) -> (Epoch, Watermarks) {
        (Epoch(1), Watermarks::all(self.last()))
    }

    fn first_kept(&self) -> Sequence {
        Sequence::FIRST
    }

    fn frame_at(&mut self, from: Sequence) -> Result<Option<OneFrame>, HistoryError> {
        let index = self.0.partition_point(|frame| frame.frame().last_sequence() < from);
        Ok(self.0.get(index).cloned())
    }

    fn first_at_time(&mut self, _: EventTime) -> Result<Option<Sequence>, HistoryError> {
        Ok(None)
    }
}

fn judge(mut reader: impl Subscription, mut checker: Checker, mut corruption: Corruption) -> Checker {
    while let Some(update) = reader.next(Duration::ZERO).expect("read") {
        checker.update(&update, &mut corruption);
    }
    checker
}

fn said(checker: &Checker, word: &str) -> bool {
    !checker.is_clean() && checker.verdict().contains(word)
}

#[test]
fn a_tape_as_it_is_passes_wherever_it_is_joined() {
    let tape = Tape::new(3_000);
    for first in [1, 2, 3, 700, 1_234, tape.last().get()] {
        let checker = judge(
            tape.all(first, KindMask::ALL),
            Checker::new(Promise::VISIBLE, Sequence(first)),
            Corruption::NONE,
        );
        assert!(checker.is_clean(), "from {first}: {}", checker.verdict());
        assert_eq!(checker.next(), tape.last().next());
    }
    let promise = Promise { kinds: KindMask::TRADES, ..Promise::VISIBLE };
    let checker = judge(tape.all(1, KindMask::TRADES), Checker::new(promise, Sequence(1)), Corruption::NONE);
    assert!(checker.is_clean(), "{}", checker.verdict());
    assert!(checker.verdict().contains("\"verdict\":\"ok\""));
}

#[test]
fn one_event_that_is_dropped_doubled_altered_moved_or_of_another_term_is_noticed_wherever_it_is() {
    let tape = Tape::new(1_000);
    let mut random = Random(9);
    for round in 0..20 {
        let at = Sequence(3 + random.below(tape.last().get() - 3));
        for (damage, word) in [
            (Damage::Drop, "gap"),
            (Damage::Duplicate, "duplicate"),
            (Damage::Alter, "altered"),
            (Damage::Reorder, "gap"),
            (Damage::OldTerm, "epoch"),
        ] {
            let reader = tape.all(1, KindMask::ALL);
            let checker = Checker::new(Promise::VISIBLE, Sequence::FIRST);
            let checker = judge(reader, checker, Corruption::of(damage, at));
            // The start of a term is the sequencer's, not the script's: damaged, it contradicts itself.
            let word =
                if damage == Damage::Alter && !checker.verdict().contains(word) { "epoch" } else { word };
            assert!(said(&checker, word), "{damage:?} at {at}, round {round}: {}", checker.verdict());
        }
    }
}

#[test]
fn what_was_dropped_between_filtered_events_shows_in_the_digest() {
    let tape = Tape::new(1_000);
    let promise = Promise { kinds: KindMask::TRADES, ..Promise::VISIBLE };
    let digest = |corruption| {
        let verdict =
            judge(tape.all(1, KindMask::TRADES), Checker::new(promise, Sequence(1)), corruption).verdict();
        let verdict: serde_json::Value = serde_json::from_str(&verdict).expect("JSON");
        verdict["digest"].as_u64().expect("a number")
    };
    let mut reader = tape.all(1, KindMask::TRADES);
    let Some(Update::Events(events)) = reader.poll().expect("read") else { panic!("trades") };
    let at = events.iter().next().expect("a trade").sequence();
    assert_ne!(digest(Corruption::NONE), digest(Corruption::of(Damage::Drop, at)));
    // And one that was not asked for.
    let checker = judge(tape.all(1, KindMask::ALL), Checker::new(promise, Sequence(1)), Corruption::NONE);
    assert!(said(&checker, "nobody asked for"), "{}", checker.verdict());
}

#[test]
fn windows_that_are_missing_doubled_or_changed_are_noticed() {
    let tape = Tape::new(20_000);
    let batches = tape.windows();
    assert!(batches.len() > 10);
    let judge = |order: &[usize], mut corruption: Corruption| {
        let promise = Promise { window_ns: 100_000_000, ..Promise::VISIBLE };
        let mut checker = Checker::new(promise, Sequence::FIRST);
        for index in order {
            checker.update(&Update::Window(batches[*index].batch()), &mut corruption);
        }
        checker
    };
    let all: Vec<usize> = (0..batches.len()).collect();
    let good = judge(&all, Corruption::NONE);
    assert!(
        good.is_clean() && good.counts().empty_windows > 0 && good.counts().late > 0,
        "{}",
        good.verdict()
    );
    assert!(said(&judge(&[0, 1, 3], Corruption::NONE), "window from"));
    assert!(said(&judge(&[0, 1, 2, 2], Corruption::NONE), "window from"));
    assert!(said(&judge(&[1, 0], Corruption::NONE), "window"));
    for damage in [Damage::Drop, Damage::Duplicate, Damage::Alter, Damage::Reorder] {
        let checker = judge(&all, Corruption::of(damage, Sequence(100)));
        assert!(!checker.is_clean(), "{damage:?}");
    }
}

/// A judge that has been shown the first events of a tape, each at this stage.
fn shown(promise: Promise, tape: &Tape, through: u64, stage: Stage) -> Checker {
    let mut checker = Checker::new(promise, Sequence::FIRST);
    for frame in &tape.0 {
        let frame = frame.frame();
        for event in frame.events().filter(|event| event.sequence().get() <= through) {
            let (sequence, epoch, bytes) = (event.sequence(), event.epoch(), event.bytes());
            checker.event(Shown { sequence, epoch, stage, bytes });
        }
    }
    checker
}

fn retract(first: u64, last: u64) -> Update<'static> {
    Update::Retract { epoch: Epoch(1), first: Sequence(first), last: Sequence(last) }
}

fn at(accepted: u64, visible: u64) -> Watermarks {
    let (accepted, visible) = (Sequence(accepted), Sequence(visible));
    Watermarks { accepted, written: accepted, durable: visible, replicated: visible, visible }
}

fn heartbeat(watermarks: Watermarks) -> Update<'static> {
    Update::Heartbeat { epoch: Epoch(1), watermarks }
}

const JOINED: Update<'static> = Update::LiveJoined { next: Sequence(21) };

#[test]
fn only_what_was_merely_accepted_may_be_retracted() {
    let tape = Tape::new(100);
    let told = |stage, promise, updates: &[Update<'_>]| {
        let mut checker = shown(promise, &tape, 20, stage);
        updates.iter().for_each(|update| checker.update(update, &mut Corruption::default()));
        checker
    };
    let (accepted, visible) = (Stage::Accepted, Stage::Visible);
    let good = told(accepted, Promise::ACCEPTED, &[JOINED, heartbeat(at(20, 10)), retract(11, 20)]);
    assert!(good.is_clean(), "{}", good.verdict());
    assert_eq!((good.next(), good.counts().retracted), (Sequence(11), 10));
    assert!(said(&told(visible, Promise::VISIBLE, &[retract(11, 20)]), "were visible and are retracted"));
    assert!(said(&told(visible, Promise::ACCEPTED, &[retract(11, 20)]), "was known to be visible"));
    let after = told(accepted, Promise::ACCEPTED, &[JOINED, heartbeat(at(20, 10)), retract(10, 20)]);
    assert!(said(&after, "10 was known to be visible"));
    assert!(said(&told(accepted, Promise::ACCEPTED, &[retract(11, 19)]), "but 20 came last"));
    assert!(said(&told(accepted, Promise::ACCEPTED, &[retract(21, 22)]), "but 20 came last"));
    assert!(shown(Promise::VISIBLE, &tape, 20, Stage::Visible).is_clean());
}

#[test]
fn after_a_retraction_the_same_positions_are_judged_anew() {
    let tape = Tape::new(100);
    let mut checker = shown(Promise::ACCEPTED, &tape, 20, Stage::Accepted);
    checker.update(&retract(11, 20), &mut Corruption::default());
    let digest = |checker: &Checker| {
        let verdict: serde_json::Value = serde_json::from_str(&checker.verdict()).expect("JSON");
        verdict["digest"].as_u64()
    };
    for frame in &tape.0 {
        for event in frame.frame().events().filter(|event| (11..=20).contains(&event.sequence().get())) {
            let (sequence, epoch, bytes) = (event.sequence(), event.epoch(), event.bytes());
            checker.event(Shown { sequence, epoch, stage: Stage::Accepted, bytes });
        }
    }
    assert!(checker.is_clean(), "{}", checker.verdict());
    assert_eq!(digest(&checker), digest(&shown(Promise::VISIBLE, &tape, 20, Stage::Visible)));
}

#[test]
fn a_subscription_that_breaks_its_protocol_is_noticed() {
    let tape = Tape::new(100);
    let next = Sequence(21);
    let missed = LeaveReason::Missed { first: next, last: Sequence(30) };
    let left = |reason| Update::LiveLeft { next, reason };
    let lagging = Update::Lagging { behind: 10 };
    let ahead_of_itself = Watermarks { durable: Sequence(30), ..at(20, 20) };
    let cases: [(&[Update<'_>], &str); 10] = [
        (&[JOINED, JOINED], "joined at 21, live true"),
        (&[Update::LiveJoined { next: Sequence(22) }], "joined at 22"),
        (&[left(LeaveReason::Silent)], "left at 21, live false"),
        (&[JOINED, left(missed)], "lagging false"),
        (&[lagging], "lagging by 10, live false"),
        (&[JOINED, Update::CaughtUp { next }], "caught up at 21, live true, lagging false"),
        (&[Update::Alarm { missed: 3 }, heartbeat(at(20, 20))], "while the bus is silent"),
        (&[JOINED, heartbeat(ahead_of_itself)], "contradict"),
        (&[JOINED, heartbeat(at(20, 20)), heartbeat(at(20, 19))], "after"),
        (&[Update::Alarm { missed: 2 }], "alarm after 2"),
    ];
    for (updates, word) in cases {
        let mut checker = shown(Promise::VISIBLE, &tape, 20, Stage::Visible);
        updates.iter().for_each(|update| checker.update(update, &mut Corruption::default()));
        assert!(said(&checker, word), "{updates:?}: {}", checker.verdict());
    }
    let lawful = [JOINED, heartbeat(at(20, 20)), lagging, left(missed), JOINED, Update::CaughtUp { next }];
    let mut checker = shown(Promise::VISIBLE, &tape, 20, Stage::Visible);
    lawful.iter().for_each(|update| checker.update(update, &mut Corruption::default()));
    assert!(checker.is_clean(), "{}", checker.verdict());
}
