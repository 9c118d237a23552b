//! Random schedules of a node and one reader: loss, overflow, failover, restarts, silence. Whatever happens, the reader
//! ends up with the truth, each event once and in order. `MATCHTAPE_SCHEDULES=100000` runs more of them.

#[path = "support/sim.rs"]
mod sim;
mod support;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use matchtape_schemas::{Epoch, Event, Head, Kind, KindMask, Sequence, Stage, Watermarks};
use matchtape_subscription::{
    BatchBuf, Conflation, Delayed, DelayedOptions, End, Filter, LeaveReason, Pace, RealTime, RealTimeOptions,
    Start, Subscription, Update, WindowStart,
};
use sim::{Buffer, Sample, SimLive, What};
use support::{
    Log, ManualClock, OwnedFrame, Random, TAPE, cancellation, event, frames, group, schedules, trade,
};

const HEARTBEAT: Duration = Duration::from_millis(100);

/// A node as its readers see it.
struct Node {
    /// Everything accepted; the log shows it up to visible.
    log: Log,
    head: Head,
    visible: Sequence,
    incarnation: u64,
    /// What the bus shows next.
    publish_next: Sequence,
    /// The term its heartbeats name: that of the last frame it has shown.
    publish_epoch: Epoch,
    stage: Stage,
    buffer: Rc<RefCell<Buffer>>,
    buffer_samples: usize,
    number: u64,
    time: i64,
}

impl Node {
    fn new(stage: Stage, buffer_samples: usize) -> Self {
        Self {
            log: Log::new(Vec::new()),
            head: Head { epoch: Epoch::FIRST, ..Head::empty(TAPE) },
            visible: Sequence::ZERO,
            incarnation: 1,
            publish_next: Sequence::FIRST,
            publish_epoch: Epoch::FIRST,
            stage,
            buffer: Rc::default(),
            buffer_samples,
            number: 0,
            time: 0,
        }
    }

    fn watermarks(&self) -> Watermarks {
        Watermarks { accepted: self.head.last_sequence, ..support::all_at(self.visible) }
    }

    fn send(&self, what: What, first: Sequence, epoch: Epoch) {
        let mut buffer = self.buffer.borrow_mut();
        buffer.exists = true;
        if !buffer.attached {
            return;
        }
        if buffer.samples.len() == self.buffer_samples {
            buffer.samples.pop_front();
        }
        let (incarnation, watermarks) = (self.incarnation, self.watermarks());
        buffer.samples.push_back(Sample { what, incarnation, epoch, first, watermarks });
    }

    fn accept(&mut self, random: &mut Random) {
        let groups: Vec<Vec<Event>> = (0..1 + random.below(6))
            .map(|_| {
                let events = 1 + if random.one_in(20) { random.below(30) } else { random.below(3) };
                self.time += random.below(40) as i64 * 1_000_000;
                let trades = random.one_in(2);
                let events = (0..events).map(|_| {
                    self.number += 1;
                    let body = if trades { trade(self.number) } else { cancellation(self.number) };
                    event(1, self.time, body)
                });
                group(events.collect())
            })
            .collect();
        let new = frames(&mut self.head, &groups, || 1 + random.below(12) as usize);
        self.log.change(|kept| kept.frames.extend(new));
        if self.stage == Stage::Accepted {
            self.publish(self.head.last_sequence);
        }
    }

    fn publish(&mut self, through: Sequence) {
        let all = self.log.change(|kept| kept.frames.clone());
        for frame in all {
            let (first, last) = (frame.frame().first_sequence(), frame.frame().last_sequence());
            if first < self.publish_next || last > through {
                continue;
            }
            assert_eq!(first, self.publish_next);
            self.publish_next = last.next();
            let epoch = frame.frame().header().epoch;
            self.publish_epoch = epoch;
            self.send(What::Frame(frame), first, epoch);
        }
    }

    /// Positions at which readers may stop, from visible on.
    fn stops(&self) -> Vec<Sequence> {
        self.log.change(|kept| {
            let ends = kept.frames.iter().filter(|frame| frame.frame().header().ends_group());
            ends.map(|frame| frame.frame().last_sequence()).filter(|last| *last >= self.visible).collect()
        })
    }

    fn make_visible(&mut self, through: Sequence) {
        self.visible = self.visible.max(through);
        self.log.change(|kept| kept.visible = self.visible);
    }

    fn heartbeat(&self) {
        self.send(What::Heartbeat, self.publish_next, self.publish_epoch);
    }

    /// Another term keeps the tape through `kept`.
    fn new_term(&mut self, kept: Sequence) {
        self.log.change(|log| {
            log.frames.retain(|frame| frame.frame().last_sequence() <= kept);
            if let Some(last) = log.frames.last() {
                self.head = last.frame().header().head();
            } else {
                self.head = Head { epoch: self.head.epoch, ..Head::empty(TAPE) };
            }
        });
        assert_eq!(self.head.last_sequence, kept);
    }

    fn fail_over(&mut self, kept: Sequence) {
        let (epoch, last) = (self.head.epoch, self.head.last_sequence);
        self.new_term(kept);
        if self.stage == Stage::Accepted && last > kept {
            self.publish_next = kept.next();
            self.send(What::Retract(last), kept.next(), self.publish_epoch);
        }
        self.head.epoch = Epoch(epoch.get() + 1);
    }

    fn restart(&mut self, kept: Sequence) {
        let epoch = self.head.epoch;
        self.new_term(kept);
        // A node counts from the term that it finds on its disk: one of which nothing is there is counted again.
        let left_something = self
            .log
            .change(|log| log.frames.last().is_some_and(|frame| frame.frame().header().epoch == epoch));
        self.head.epoch = Epoch(epoch.get() + u64::from(left_something));
        self.publish_epoch = self.head.epoch;
        self.incarnation += 1;
        self.make_visible(kept);
        self.publish_next = kept.next();
    }
}

/// What a reader has been told, checked as it comes.
struct Told {
    events: Vec<(Sequence, Epoch, Stage, Vec<u8>)>,
    next: Sequence,
    live: bool,
    lagging: bool,
    alarms: u64,
    lagged: u64,
    restarts: u64,
    retractions: u64,
}

impl Told {
    fn new(next: Sequence) -> Self {
        Self {
            events: Vec::new(),
            next,
            live: false,
            lagging: false,
            alarms: 0,
            lagged: 0,
            restarts: 0,
            retractions: 0,
        }
    }

    fn take(&mut self, update: &Update<'_>, filtered: bool) {
        match *update {
            Update::Events(events) => {
                if filtered {
                    assert!(events.first() >= self.next, "{events:?} after {}", self.next);
                } else {
                    assert_eq!(events.first(), self.next);
                }
                self.next = events.last().next();
                let (before, stage) = (self.events.len(), events.stage());
                for event in events.iter() {
                    self.events.push((event.sequence(), event.epoch(), stage, event.bytes().to_vec()));
                }
                assert!(self.events.len() > before);
            }
            Update::LiveJoined { next } => {
                assert!(!self.live, "joined twice");
                self.live = true;
                assert!(next == self.next || filtered);
            }
            Update::LiveLeft { next, reason } => {
                assert!(self.live, "left twice");
                self.live = false;
                assert!(next == self.next || filtered);
                if let LeaveReason::Missed { first, last } = reason {
                    assert!(self.lagging && first == next && last >= first);
                }
            }
            Update::Lagging { behind } => {
                assert!(self.live && behind > 0);
                self.lagging = true;
                self.lagged += 1;
            }
            Update::CaughtUp { .. } => {
                assert!(self.live && self.lagging);
                self.lagging = false;
            }
            // While the log is read, too, where nothing of it is to be shown.
            Update::Heartbeat { .. } => assert!(self.live || filtered),
            Update::Alarm { missed } => {
                assert!(missed >= 3);
                self.alarms += 1;
            }
            Update::Retract { first, last, .. } => {
                assert!(first <= last && (last < self.next || filtered));
                let from = self.events.partition_point(|event| event.0 < first);
                for (sequence, _, stage, _) in self.events.drain(from..) {
                    assert_eq!(stage, Stage::Accepted, "{sequence} was visible when it was shown");
                }
                self.next = self.next.min(first);
                self.retractions += 1;
            }
            Update::PublisherRestarted { .. } => self.restarts += 1,
            Update::Ahead { .. } | Update::Window(_) | Update::Ended { .. } => panic!("{update:?}"),
        }
    }
}

struct Plan {
    stage: Stage,
    filter: Filter,
    resumes: bool,
}

/// Runs one schedule; returns what the reader was told.
fn run(seed: u64, plan: &Plan) -> Told {
    let mut random = Random(seed);
    let buffer_samples = 1 + random.below(8) as usize;
    let mut node = Node::new(plan.stage, buffer_samples);
    let clock = ManualClock::default();
    let open = |node: &Node, next: Sequence| {
        let exists = node.buffer.borrow().exists;
        *node.buffer.borrow_mut() = Buffer { exists, ..Buffer::default() };
        let live = SimLive::new(Rc::clone(&node.buffer), clock.clone(), plan.stage);
        let options = RealTimeOptions {
            start: Start::At(next),
            filter: plan.filter.clone(),
            heartbeat_interval: HEARTBEAT,
        };
        RealTime::open_with_clock(node.log.clone(), live, options, clock.clone()).expect("open")
    };
    let filtered = plan.filter.kinds != KindMask::ALL;
    let mut told = Told::new(Sequence::FIRST);
    let mut reader = open(&node, Sequence::FIRST);
    let read = |reader: &mut RealTime<Log, SimLive, ManualClock>, told: &mut Told, count: u64| {
        let mut idle = 0;
        for _ in 0..count {
            match reader.poll() {
                Ok(Some(update)) => told.take(&update, filtered),
                Ok(None) => {
                    idle += 1;
                    if idle == 20 {
                        return;
                    }
                    reader.wait(Duration::from_millis(1)).expect("wait");
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
    };
    for _ in 0..120 {
        match random.below(16) {
            0..4 => node.accept(&mut random),
            4..7 => {
                let stops = node.stops();
                if !stops.is_empty() {
                    node.make_visible(stops[random.below(stops.len() as u64) as usize]);
                }
            }
            // The bus may be behind the log, never ahead of it.
            7..9 if plan.stage == Stage::Visible => node.publish(node.visible),
            7..9 => {}
            9 => node.heartbeat(),
            10 => {
                let mut buffer = node.buffer.borrow_mut();
                if !buffer.samples.is_empty() {
                    let lost = random.below(buffer.samples.len() as u64) as usize;
                    buffer.samples.remove(lost);
                }
            }
            11 if random.one_in(3) => {
                let stops = node.stops();
                let kept = stops.get(random.below(3) as usize).copied().unwrap_or(node.visible);
                if random.one_in(2) {
                    node.fail_over(kept.max(node.visible));
                } else {
                    node.restart(kept.max(node.visible));
                }
            }
            12 if random.one_in(4) => clock.pass(HEARTBEAT * random.below(6) as u32),
            13 if plan.resumes && random.one_in(3) => {
                // The reader dies and another one takes over from the position it had kept.
                told.live = false;
                told.lagging = false;
                reader = open(&node, told.next);
            }
            _ => {
                let count = random.below(12);
                read(&mut reader, &mut told, count);
            }
        }
    }
    // Calm: everything becomes visible and is published, heartbeats come.
    node.make_visible(node.head.last_sequence);
    for _ in 0..6 {
        node.publish(node.visible);
        node.heartbeat();
        read(&mut reader, &mut told, 400);
        clock.pass(HEARTBEAT);
    }
    assert!(told.live && !told.lagging, "seed {seed}");
    let truth = all_events(&node.log, &plan.filter);
    let got: Vec<_> = told.events.iter().map(|(n, epoch, _, bytes)| (*n, *epoch, bytes.clone())).collect();
    assert!(got == truth, "seed {seed}: {} events told, {} true", got.len(), truth.len());
    told
}

fn all_events(log: &Log, filter: &Filter) -> Vec<(Sequence, Epoch, Vec<u8>)> {
    let frames: Vec<OwnedFrame> = log.change(|kept| kept.frames.clone());
    let mut all = Vec::new();
    for frame in &frames {
        for event in frame.frame().events().filter(|event| filter.matches(event)) {
            all.push((event.sequence(), event.epoch(), event.bytes().to_vec()));
        }
    }
    all
}

fn run_all(plan: &Plan) {
    let mut sum = Told::new(Sequence::FIRST);
    for seed in 0..schedules(1000) {
        let told = run(seed, plan);
        sum.alarms += told.alarms;
        sum.lagged += told.lagged;
        sum.restarts += told.restarts;
        sum.retractions += told.retractions;
    }
    // The schedules do reach what they are meant to try.
    assert!(sum.alarms > 0 && sum.lagged > 0 && sum.restarts > 0);
    assert_eq!(sum.retractions > 0, plan.stage == Stage::Accepted);
}

#[test]
fn a_live_reader_gets_every_event_once_in_order_whatever_the_bus_loses() {
    run_all(&Plan { stage: Stage::Visible, filter: Filter::default(), resumes: true });
}

#[test]
fn a_filtered_live_reader_gets_every_event_of_its_kinds_once_in_order() {
    let filter = Filter::kinds(KindMask::of(&[Kind::TradeMatched]));
    run_all(&Plan { stage: Stage::Visible, filter, resumes: true });
}

#[test]
fn a_speculative_reader_is_told_what_to_forget_and_ends_up_with_the_truth() {
    run_all(&Plan { stage: Stage::Accepted, filter: Filter::default(), resumes: false });
}

#[test]
fn a_filtered_speculative_reader_is_told_what_to_forget_and_ends_up_with_the_truth() {
    run_all(&Plan { stage: Stage::Accepted, filter: Filter::kinds(KindMask::TRADES), resumes: false });
}

#[test]
fn a_delayed_reader_gets_live_what_a_replay_gives_byte_for_byte() {
    for seed in 0..schedules(300) {
        let mut random = Random(seed);
        let mut node = Node::new(Stage::Visible, 2);
        let clock = ManualClock::default();
        let conflation = if random.one_in(2) { Conflation::LastState } else { Conflation::None };
        let start = WindowStart::From(Start::Beginning);
        let options = DelayedOptions { start, conflation, ..DelayedOptions::default() };
        let live = SimLive::new(Rc::clone(&node.buffer), clock.clone(), Stage::Visible);
        let mut reader =
            Delayed::live_with_clock(node.log.clone(), live, &options, clock.clone()).expect("open");
        let mut got = Vec::new();
        for round in 0..60 {
            node.accept(&mut random);
            if random.one_in(2) || round == 59 {
                node.make_visible(node.head.last_sequence);
                node.publish(node.visible);
            }
            if random.one_in(20) {
                node.restart(node.head.last_sequence);
            }
            node.heartbeat();
            let polls = if round == 59 { 1000 } else { random.below(20) };
            for _ in 0..polls {
                if let Some(Update::Window(batch)) = reader.poll().expect("poll") {
                    got.push(BatchBuf::copy(&batch));
                }
            }
        }
        let mut replay =
            Delayed::replay(node.log.clone(), &options, End::Visible, Pace::AsFastAsPossible).expect("open");
        let mut expected = Vec::new();
        while let Some(Update::Window(batch)) = replay.poll().expect("poll") {
            expected.push(BatchBuf::copy(&batch));
        }
        assert!(expected.len() > 10, "seed {seed}");
        assert!(got == expected, "seed {seed}: {} live, {} replayed", got.len(), expected.len());
    }
}

#[test]
fn a_delayed_reader_that_resumes_beyond_the_log_waits_for_it_and_goes_on_with_the_very_next_batch() {
    let (mut resumed, mut ahead) = (0, 0);
    for seed in 0..schedules(100) {
        let mut random = Random(seed);
        let mut node = Node::new(Stage::Visible, 4);
        (0..60).for_each(|_| node.accept(&mut random));
        let last = node.head.last_sequence;
        node.make_visible(last);
        let options =
            DelayedOptions { start: WindowStart::From(Start::Beginning), ..DelayedOptions::default() };
        let mut replay =
            Delayed::replay(node.log.clone(), &options, End::Visible, Pace::AsFastAsPossible).expect("open");
        let mut all = Vec::new();
        while let Some(Update::Window(batch)) = replay.poll().expect("poll") {
            all.push(BatchBuf::copy(&batch));
        }
        let at = random.below(all.len() as u64 - 1) as usize;
        let cursor = all[at].batch().cursor();
        // To whoever resumes, the log shows less than was delivered before: at the end of some frame, or nothing.
        let ends: Vec<Sequence> = node.log.change(|kept| {
            let ends = kept.frames.iter().map(|frame| frame.frame().last_sequence());
            ends.filter(|end| *end < cursor.last).collect()
        });
        let behind =
            if ends.is_empty() { Sequence::ZERO } else { ends[random.below(ends.len() as u64) as usize] };
        node.log.change(|kept| kept.visible = behind);
        let clock = ManualClock::default();
        let live = SimLive::new(Rc::clone(&node.buffer), clock.clone(), Stage::Visible);
        let start = WindowStart::After(cursor);
        let options = DelayedOptions { start, ..DelayedOptions::default() };
        let mut reader =
            Delayed::live_with_clock(node.log.clone(), live, &options, clock.clone()).expect("open");
        let (mut got, mut told) = (Vec::new(), 0);
        let mut read = |node: &mut Node, reader: &mut Delayed<RealTime<Log, SimLive, ManualClock>>| {
            for _ in 0..200 {
                match reader.poll().expect("poll") {
                    Some(Update::Window(batch)) => got.push(BatchBuf::copy(&batch)),
                    Some(Update::Ahead { next, visible }) => {
                        assert_eq!((next, visible), (cursor.last.next(), behind));
                        told += 1;
                    }
                    Some(_) => {}
                    None => reader.wait(Duration::from_millis(1)).expect("wait"),
                }
            }
            node.heartbeat();
        };
        read(&mut node, &mut reader);
        // It may learn the events from the bus before the log has what lies before them.
        let after = node.log.change(|kept| {
            let firsts = kept.frames.iter().map(|frame| frame.frame().first_sequence());
            firsts.into_iter().find(|first| *first > cursor.last)
        });
        node.publish_next = after.unwrap_or(last.next());
        let from_bus = random.one_in(2);
        if from_bus {
            node.publish(last);
        }
        read(&mut node, &mut reader);
        node.log.change(|kept| kept.visible = last);
        node.publish(last);
        (0..5).for_each(|_| read(&mut node, &mut reader));
        assert!(got == all[at + 1..], "seed {seed}: {} batches for {}", got.len(), all.len() - at - 1);
        resumed += 1;
        ahead += told;
    }
    assert_eq!(resumed, ahead, "each was told once that it is ahead");
}
