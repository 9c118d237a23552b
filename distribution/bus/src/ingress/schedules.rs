//! Producers and nodes under random schedules: samples and replies lost, rings full, either side killed at every step.
//!
//! What must hold whatever happens: the tape has each producer's events in order, once, groups whole; what was reported
//! durable stays, and so does what a process was told its producer ended with; of what a producer has taken, the tape has
//! a beginning without holes, and in the end all of it.
//!
//! `MATCHTAPE_SCHEDULES` is the number of schedules; a failing one names its seed, and `MATCHTAPE_SEED` runs that alone.

use std::collections::{BTreeMap, VecDeque};
use std::mem::MaybeUninit;
use std::time::Duration;

use matchtape_schemas::event::{EventFlags, OrderCancelled, encode_event};
use matchtape_schemas::publish::ProducerMark;
use matchtape_schemas::{
    Epoch, Event, EventTime, InstrumentId, OrderId, ProducerId, ProducerSequence, Sequence, Stage, TapeId,
    Watermarks,
};

use super::desk::{Desk, Door, GroupMax, Ports, Unpublished};
use super::intake::{IngressTerms, SafeAt};
use super::message::{NodeState, NodeView, PortId, ReplyHeader, RequestHeader, SessionState};
use super::outbox::{Ended, Outbox, Reached, WindowLimits};
use crate::block::{BLOCK_BYTES, Block, bytes_of_mut};

const TAPE: TapeId = TapeId(5);
const QUEUE: usize = 4;
const REPLIES: usize = 3;
const PRODUCERS: u32 = 3;
const GROUP_MAX: GroupMax = GroupMax { events: 8, bytes: 4096 };

fn terms(epoch: u64) -> IngressTerms {
    IngressTerms {
        epoch: Epoch(epoch),
        skew_ns_max: 0,
        group_events_max: 8,
        group_bytes_max: 4096,
        safe_at: SafeAt::Durable,
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn one_in(&mut self, limit: u64) -> bool {
        self.below(limit) == 0
    }
}

/// An event on the tape: whose, its number, which process made it, and whether it ends its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Recorded {
    producer: ProducerId,
    number: u64,
    life: u64,
    ends: bool,
}

#[derive(Default)]
struct Tape {
    events: Vec<Recorded>,
    /// A group end.
    durable: usize,
}

impl Tape {
    fn mark(&self, producer: ProducerId) -> Option<ProducerMark> {
        let at = self.events.iter().rposition(|event| event.producer == producer)?;
        Some(ProducerMark {
            producer_sequence: ProducerSequence(self.events[at].number),
            sequence: Sequence(at as u64 + 1),
        })
    }

    fn watermarks(&self) -> Watermarks {
        let (accepted, durable) = (Sequence(self.events.len() as u64), Sequence(self.durable as u64));
        Watermarks { accepted, written: durable, durable, replicated: durable, visible: durable }
    }
}

/// The node around the desk.
struct ModelDoor<'a> {
    tape: &'a mut Tape,
    room: &'a mut usize,
    inside: Option<ProducerId>,
}

impl Door for ModelDoor<'_> {
    type Writer = ProducerId;

    fn open(&mut self, producer: ProducerId) -> Result<(ProducerId, Option<ProducerMark>), u32> {
        if self.inside == Some(producer) { Err(1) } else { Ok((producer, self.tape.mark(producer))) }
    }

    fn publish(
        &mut self,
        writer: &mut ProducerId,
        group: &[u8],
        events: usize,
    ) -> Result<ProducerMark, Unpublished> {
        let word = |at: usize| u64::from_le_bytes(group[at..at + 8].try_into().expect("eight bytes"));
        let size = group.len() / events;
        let numbers: Vec<u64> = (0..events).map(|event| word(event * size + 16)).collect();
        let mark = self.tape.mark(*writer);
        if let Some(mark) = mark
            && *numbers.last().expect("events") <= mark.producer_sequence.get()
        {
            return Ok(mark);
        }
        assert!(
            mark.is_none_or(|mark| numbers[0] > mark.producer_sequence.get()),
            "a group is new as a whole"
        );
        if *self.room < events {
            return Err(Unpublished::WouldBlock);
        }
        *self.room -= events;
        for (event, number) in numbers.iter().enumerate() {
            let flags = group[event * size + 6];
            let recorded = Recorded {
                producer: *writer,
                number: *number,
                life: word(event * size + 24),
                ends: flags & EventFlags::LAST_OF_GROUP.bits() != 0,
            };
            self.tape.events.push(recorded);
        }
        Ok(self.tape.mark(*writer).expect("just put there"))
    }
}

/// Ports as a list: (port, producer, process).
struct ModelPorts(Vec<(PortId, ProducerId, u32)>);

impl Ports for ModelPorts {
    fn process(&self, port: PortId) -> Option<u32> {
        self.0.iter().find(|found| found.0 == port).map(|found| found.2)
    }

    fn others(&self, producer: ProducerId, port: PortId) -> Vec<(PortId, u32)> {
        let others = self.0.iter().filter(|found| found.0 != port && found.1 == producer);
        others.map(|found| (found.0, found.2)).collect()
    }
}

struct ModelNode {
    desk: Desk<ProducerId>,
    view: NodeView,
}

/// A producer's process.
struct Process {
    outbox: Outbox,
    port: PortId,
    producer: ProducerId,
    life: u64,
    /// Where the producer had ended when this process became it, once known; 0: nowhere.
    base: Option<u64>,
    /// Everything taken here.
    taken: Vec<u64>,
    /// The greatest number that was reported durable here.
    safe: u64,
    replies: VecDeque<(ReplyHeader, Vec<SessionState>)>,
    requests: VecDeque<(RequestHeader, Vec<Block>)>,
}

struct World {
    random: Random,
    now: Duration,
    tape: Tape,
    node: Option<ModelNode>,
    incarnations: u64,
    epoch: u64,
    room: usize,
    processes: Vec<Process>,
    lives: u64,
    /// By producer: the greatest number reported durable to any of its processes.
    safe: BTreeMap<ProducerId, u64>,
    /// Chance of losing a sample that was said to be sent, one in so many; 0: none.
    loss: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let loss = [0, 20, 5][random.below(3) as usize];
        Self {
            random,
            now: Duration::ZERO,
            tape: Tape::default(),
            node: None,
            incarnations: 0,
            epoch: 0,
            room: 0,
            processes: Vec::new(),
            lives: 0,
            safe: BTreeMap::new(),
            loss,
        }
    }

    fn start_node(&mut self) {
        self.incarnations += 1;
        // A term in which nothing was appended is not counted.
        self.epoch += self.random.below(2) + u64::from(self.epoch == 0);
        let view = NodeView {
            incarnation: self.incarnations,
            state: NodeState::Open,
            watermarks: Watermarks::default(),
            terms: terms(self.epoch),
        };
        let desk = Desk::new(TAPE, self.incarnations, view.terms.epoch, PRODUCERS as usize, GROUP_MAX);
        self.room = 16;
        self.node = Some(ModelNode { desk, view });
    }

    fn kill_node(&mut self) {
        self.node = None;
        let durable = self.tape.durable;
        self.tape.events.truncate(durable);
        for process in &mut self.processes {
            process.requests.clear();
        }
    }

    fn start_process(&mut self, producer: ProducerId) {
        self.lives += 1;
        let port = PortId::from(self.lives) << 70 | 9;
        let limits = WindowLimits { events_max: 12, blocks_max: 200, sample_blocks_max: 16 };
        self.processes.push(Process {
            outbox: Outbox::new(TAPE, producer, port, limits, None),
            port,
            producer,
            life: self.lives,
            base: None,
            taken: Vec::new(),
            safe: 0,
            replies: VecDeque::new(),
            requests: VecDeque::new(),
        });
    }

    fn publish(&mut self, who: usize) {
        let events = 1 + self.random.below(4) as usize;
        let gap = 1 + self.random.below(3);
        let process = &mut self.processes[who];
        let Some(taken) = process.outbox.taken() else { return };
        if process.outbox.ended().is_some() {
            return;
        }
        let mut blocks = vec![Block::ZERO; 16];
        let template = |number: u64, life: u64| {
            let body = OrderCancelled { order_id: OrderId(number), ..OrderCancelled::default() };
            Event::new(InstrumentId(1), ProducerSequence(number), EventTime(life as i64), body)
        };
        let size = template(0, 0).encoded_len() / BLOCK_BYTES;
        if !process.outbox.has_room(events, events * size) {
            return;
        }
        let mut number = taken.map_or(0, ProducerSequence::get);
        for event in 0..events {
            number += gap;
            let encoded = template(number, process.life);
            let out = bytes_of_mut(&mut blocks[..size]);
            encode_event(&encoded, process.producer, out);
            if event + 1 < events {
                out[6] = EventFlags::NONE.bits();
            }
            process.outbox.take(ProducerSequence(number), &blocks[..size]);
            process.taken.push(number);
        }
    }

    /// What a producer's process does when any method of its publisher is called.
    fn turn(&mut self, who: usize) {
        let process = &mut self.processes[who];
        while let Some((header, states)) = process.replies.pop_front() {
            process.outbox.reply(&header, &states, self.now);
            if process.base.is_none() {
                process.base = process.outbox.taken().map(|taken| taken.map_or(0, ProducerSequence::get));
            }
        }
        for number in &process.taken {
            if let Reached::Yes(sequence) = process.outbox.reached(ProducerSequence(*number), Stage::Durable)
            {
                process.safe = process.safe.max(*number);
                let at = self
                    .tape
                    .events
                    .iter()
                    .position(|event| event.producer == process.producer && event.number == *number);
                let at = at.expect("what is reported durable is on the tape") as u64 + 1;
                assert!(at <= sequence.get(), "at {at}, reported at or before {sequence}");
            }
        }
        let safe = self.safe.entry(process.producer).or_default();
        *safe = process.safe.max(*safe);
        while let Some(request) = process.outbox.next(self.now) {
            if process.requests.len() >= QUEUE {
                process.outbox.not_sent(self.now);
                break;
            }
            let mut out = vec![MaybeUninit::new(Block::ZERO); request.blocks];
            process.outbox.copy(&request, &mut out);
            // SAFETY: `copy` wrote every block.
            let blocks = out.iter().map(|block| unsafe { block.assume_init() }).collect();
            // Into the queue of a node that is gone, as good as lost.
            if self.node.is_some() && (self.loss == 0 || !self.random.one_in(self.loss)) {
                process.requests.push_back((request.header, blocks));
            }
            process.outbox.sent(&request, self.now);
        }
    }

    fn node_turn(&mut self, heartbeat: bool) {
        let Some(node) = &mut self.node else { return };
        // One that has ended has closed its port.
        let living = self.processes.iter().filter(|process| process.outbox.ended().is_none());
        let ports = ModelPorts(living.map(|process| (process.port, process.producer, 77)).collect());
        let mut door = ModelDoor { tape: &mut self.tape, room: &mut self.room, inside: None };
        node.desk.go_on(&mut door);
        for _ in 0..6 {
            if node.desk.blocked().is_some() {
                break;
            }
            let some: Vec<usize> =
                (0..self.processes.len()).filter(|at| !self.processes[*at].requests.is_empty()).collect();
            if some.is_empty() {
                break;
            }
            let process = &mut self.processes[some[self.random.below(some.len() as u64) as usize]];
            let (header, blocks) = process.requests.pop_front().expect("not empty");
            node.desk.receive(process.port, &header, &blocks, &mut door, &ports);
        }
        if heartbeat {
            node.desk.forget_gone(&ports);
        }
        node.view.watermarks = self.tape.watermarks();
        let mut states = Vec::new();
        node.desk.states(heartbeat, &mut states);
        let header = node.view.header(TAPE, heartbeat);
        for process in &mut self.processes {
            process.replies.push_back((header, states.clone()));
            if process.replies.len() > REPLIES {
                process.replies.pop_front();
            }
        }
    }

    fn make_durable(&mut self) {
        let ends = self.tape.events.iter().enumerate().filter(|(_, event)| event.ends);
        let ends: Vec<usize> = ends.map(|(at, _)| at + 1).filter(|end| *end > self.tape.durable).collect();
        if self.node.is_some() && !ends.is_empty() {
            self.tape.durable = ends[self.random.below(ends.len() as u64) as usize];
        }
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(self.random.below(30));
        let who = self.random.below(self.processes.len().max(1) as u64) as usize;
        let there = who < self.processes.len();
        match self.random.below(24) {
            0 if self.node.is_some() && self.random.one_in(4) => self.kill_node(),
            0 | 1 if self.node.is_none() => self.start_node(),
            2 if there && self.random.one_in(6) => drop(self.processes.remove(who)),
            3 | 4 if self.processes.len() < 6 => {
                let producer = ProducerId(1 + self.random.below(u64::from(PRODUCERS)) as u32);
                self.start_process(producer);
            }
            5..=9 if there => self.publish(who),
            10..=14 if there => self.turn(who),
            15..=17 => self.node_turn(false),
            18 => self.node_turn(true),
            19 | 20 => self.make_durable(),
            21..=23 => self.room += self.random.below(6) as usize,
            _ => {}
        }
        self.check();
    }

    fn check(&self) {
        let mut last = BTreeMap::<ProducerId, u64>::new();
        let mut open: Option<(ProducerId, u64)> = None;
        for event in &self.tape.events {
            let before = last.insert(event.producer, event.number);
            assert!(before.is_none_or(|before| before < event.number), "in order, once: {event:?}");
            assert!(
                open.is_none_or(|group| group == (event.producer, event.life)),
                "groups are not interleaved: {event:?}"
            );
            open = (!event.ends).then_some((event.producer, event.life));
        }
        for (producer, safe) in &self.safe {
            let found = last.get(producer).copied().unwrap_or(0);
            assert!(found >= *safe, "producer {producer}: {safe} was durable, the tape ends at {found}");
        }
        for process in &self.processes {
            let found = last.get(&process.producer).copied().unwrap_or(0);
            assert!(
                process.base.is_none_or(|base| found >= base),
                "process {} goes on after {:?}, the tape ends at {found}",
                process.life,
                process.base
            );
            let on_tape: Vec<u64> = self.of(process.life);
            assert_eq!(
                on_tape,
                process.taken[..on_tape.len()],
                "the tape has a beginning of what process {} took",
                process.life
            );
        }
    }

    fn of(&self, life: u64) -> Vec<u64> {
        self.tape.events.iter().filter(|event| event.life == life).map(|event| event.number).collect()
    }

    /// Everything works from now on: what was taken comes through.
    fn settle(&mut self) {
        self.loss = 0;
        if self.node.is_none() {
            self.start_node();
        }
        for _ in 0..60 {
            self.room = 64;
            self.now += Duration::from_millis(60);
            for who in 0..self.processes.len() {
                self.turn(who);
            }
            self.node_turn(true);
            self.make_durable();
            self.check();
        }
        let durable = self.tape.events.len();
        assert_eq!(self.tape.durable, durable);
        let mut holders = BTreeMap::<ProducerId, u32>::new();
        for process in &self.processes {
            match process.outbox.ended() {
                None => {
                    *holders.entry(process.producer).or_default() += 1;
                    assert_eq!(self.of(process.life), process.taken, "process {}", process.life);
                    assert_eq!(process.outbox.len(), 0, "nothing is under way");
                }
                Some(Ended::InUse { process }) => assert_eq!(*process, 77),
                // Its place was taken while there was no node.
                Some(Ended::Superseded { .. }) => {}
                Some(other) => panic!("{other:?}"),
            }
        }
        for producer in (1..=PRODUCERS).map(ProducerId) {
            assert!(holders.get(&producer).is_none_or(|holders| *holders == 1), "one holder of {producer}");
        }
    }
}

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    for _ in 0..400 {
        world.step();
    }
    world.settle();
    world
}

#[test]
fn nothing_is_lost_doubled_or_reordered_whatever_is_lost_or_killed() {
    if let Ok(seed) = std::env::var("MATCHTAPE_SEED") {
        run(seed.parse().expect("a number"));
        return;
    }
    let schedules = std::env::var("MATCHTAPE_SCHEDULES").map_or(400, |text| text.parse().expect("a number"));
    let (mut events, mut kills, mut resends) = (0, 0, 0);
    for seed in 0..schedules {
        let outcome = std::panic::catch_unwind(|| {
            let world = run(seed);
            let counters = world.node.as_ref().map(|node| node.desk.counters()).unwrap_or_default();
            (world.tape.events.len(), world.incarnations, counters.resends)
        });
        match outcome {
            Ok((on_tape, incarnations, again)) => {
                events += on_tape;
                kills += incarnations - 1;
                resends += again;
            }
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(
        events > 10 * schedules as usize && kills > schedules / 10 && resends > 0,
        "{events} {kills} {resends}"
    );
}

fn reply(epoch: u64, incarnation: u64) -> ReplyHeader {
    let (watermarks, terms) = (Watermarks::default(), terms(epoch));
    let view = NodeView { incarnation, state: NodeState::Open, watermarks, terms };
    view.header(TAPE, true)
}

#[test]
fn a_node_of_an_earlier_epoch_is_neither_heard_nor_served() {
    let limits = WindowLimits { events_max: 12, blocks_max: 200, sample_blocks_max: 16 };
    let mut outbox = Outbox::new(TAPE, ProducerId(1), 9, limits, None);
    outbox.reply(&reply(5, 20), &[], Duration::ZERO);
    assert_eq!(outbox.node().map(|node| node.terms.epoch), Some(Epoch(5)));
    // A node that was stopped while another took over wakes again; and one that opened an old copy of the tape.
    for late in [reply(4, 10), reply(4, 30)] {
        outbox.reply(&late, &[], Duration::ZERO);
        assert_eq!(outbox.node().map(|node| (node.terms.epoch, node.incarnation)), Some((Epoch(5), 20)));
    }
    outbox.reply(&reply(6, 30), &[], Duration::ZERO);
    let request = outbox.next(Duration::ZERO).expect("a greeting");
    assert_eq!((request.header.epoch, request.header.incarnation), (6, 30));

    // And the fenced one does nothing with what is meant for its successor.
    let (mut tape, mut room) = (Tape::default(), 16);
    let mut door = ModelDoor { tape: &mut tape, room: &mut room, inside: None };
    let mut fenced = Desk::new(TAPE, 20, Epoch(5), 2, GROUP_MAX);
    fenced.receive(9, &request.header, &[], &mut door, &ModelPorts(vec![(9, ProducerId(1), 1)]));
    assert!(!fenced.has_sessions());
    assert_eq!(fenced.counters().ignored, 1);
}

/// An outbox whose node takes events.
fn linked(keep_until: Option<Stage>, header: &ReplyHeader) -> Outbox {
    let limits = WindowLimits { events_max: 12, blocks_max: 200, sample_blocks_max: 16 };
    let mut outbox = Outbox::new(TAPE, ProducerId(1), 9, limits, keep_until);
    outbox.reply(header, &[], Duration::ZERO);
    let greeting = outbox.next(Duration::ZERO).expect("a greeting");
    outbox.sent(&greeting, Duration::ZERO);
    outbox.reply(header, &[standing(greeting.header.attempt, None)], Duration::ZERO);
    assert_eq!(outbox.taken(), Some(None));
    outbox
}

/// What the node says of [`linked`].
fn standing(attempt: u32, mark: Option<ProducerMark>) -> SessionState {
    let status = super::message::Status::Open;
    let session =
        super::message::Session { port: 9, producer: ProducerId(1), attempt, received: 0, status, mark };
    session.state()
}

#[test]
fn a_full_queue_is_left_alone_until_the_node_says_something_or_for_a_while() {
    let mut outbox = linked(None, &reply(5, 20));
    outbox.take(ProducerSequence(1), &[Block::ZERO; 4]);
    let now = Duration::from_millis(7);
    assert!(outbox.next(now).is_some());
    outbox.not_sent(now);
    assert_eq!(outbox.next(now), None, "copying it again would find the queue as full");
    outbox.reply(&reply(5, 20), &[standing(1, None)], now);
    assert!(outbox.next(now).is_some(), "it took something out, or something else has happened");
    outbox.not_sent(now);
    assert_eq!(outbox.next(now + Duration::from_micros(999)), None);
    assert!(outbox.next(now + Duration::from_millis(1)).is_some(), "its word may have been lost");
}

#[test]
fn what_the_node_takes_for_safe_leaves_the_window_unless_more_is_asked_for() {
    let mark = ProducerMark { producer_sequence: ProducerSequence(1), sequence: Sequence(2) };
    let said = |safe_at, durable| {
        let watermarks =
            Watermarks { accepted: Sequence(2), written: Sequence(2), durable, ..Watermarks::default() };
        let terms = IngressTerms { safe_at, ..terms(5) };
        NodeView { incarnation: 20, state: NodeState::Open, watermarks, terms }.header(TAPE, false)
    };
    let left = |safe_at, durable, keep_until| {
        let mut outbox = linked(keep_until, &reply(5, 20));
        outbox.take(ProducerSequence(1), &[Block::ZERO; 4]);
        outbox.reply(&said(safe_at, durable), &[standing(1, Some(mark))], Duration::ZERO);
        outbox.len()
    };
    assert_eq!(left(SafeAt::Written, Sequence::ZERO, None), 0);
    assert_eq!(left(SafeAt::Durable, Sequence::ZERO, None), 1);
    assert_eq!(left(SafeAt::Durable, Sequence(2), None), 0);
    assert_eq!(left(SafeAt::Written, Sequence::ZERO, Some(Stage::Durable)), 1);
}

#[test]
fn one_producer_has_one_process_and_a_dead_one_gives_way() {
    let (mut tape, mut room) = (Tape::default(), 16);
    let mut door = ModelDoor { tape: &mut tape, room: &mut room, inside: Some(ProducerId(3)) };
    let mut desk = Desk::new(TAPE, 20, Epoch(5), 2, GROUP_MAX);
    let hello = |producer, attempt| RequestHeader {
        format_version: super::message::INGRESS_FORMAT,
        kind: super::message::RequestKind::Hello.number(),
        tape: TAPE.get(),
        incarnation: 20,
        epoch: 5,
        producer,
        attempt,
        ..RequestHeader::default()
    };
    let status = |desk: &mut Desk<ProducerId>, port: PortId| {
        let mut states = Vec::new();
        desk.states(true, &mut states);
        let found = states.iter().filter_map(super::message::Session::read).find(|found| found.port == port);
        found.expect("listed").status
    };
    use super::message::Status;
    let port = |port: PortId, producer| (port, ProducerId(producer), port as u32 + 1000);
    let mut alive = ModelPorts(vec![port(1, 1)]);
    desk.receive(1, &hello(1, 1), &[], &mut door, &alive);
    alive.0.push(port(2, 1));
    desk.receive(2, &hello(1, 1), &[], &mut door, &alive);
    assert_eq!(status(&mut desk, 1), Status::Open);
    assert_eq!(status(&mut desk, 2), Status::InUse { process: 1001 });
    // A program inside the node's process counts too.
    desk.receive(3, &hello(3, 1), &[], &mut door, &alive);
    assert_eq!(status(&mut desk, 3), Status::InUse { process: 1 });
    alive.0 = vec![port(2, 1), port(4, 1)];
    desk.receive(4, &hello(1, 1), &[], &mut door, &alive);
    assert_eq!(status(&mut desk, 4), Status::Open);
    // A node that was just started knows nobody; one that was the producer comes before one that wants to be.
    let mut restarted = Desk::new(TAPE, 20, Epoch(5), 2, GROUP_MAX);
    alive.0.push(port(7, 1));
    restarted.receive(7, &hello(1, 1), &[], &mut door, &alive);
    assert_eq!(status(&mut restarted, 7), Status::InUse { process: 1002 });
    let resume = RequestHeader { kind: super::message::RequestKind::Resume.number(), ..hello(1, 9) };
    restarted.receive(4, &resume, &[], &mut door, &alive);
    assert_eq!(status(&mut restarted, 4), Status::Open);
    alive.0.extend([port(5, 2), port(6, 4)]);
    // As many as may publish do; another is told why not.
    desk.receive(5, &hello(2, 1), &[], &mut door, &alive);
    desk.receive(6, &hello(4, 1), &[], &mut door, &alive);
    assert!(matches!(status(&mut desk, 6), Status::Refused(why) if why.as_str().contains("producers_max")));
}

#[test]
fn a_bad_sample_ends_its_sender_s_session_and_nobody_else_s() {
    let mut world = World::new(1);
    world.loss = 0;
    world.start_node();
    world.start_process(ProducerId(1));
    world.start_process(ProducerId(2));
    for _ in 0..3 {
        world.now += Duration::from_millis(60);
        world.node_turn(true);
        (0..2).for_each(|who| world.turn(who));
    }
    (0..2).for_each(|who| world.publish(who));
    (0..2).for_each(|who| world.turn(who));
    // One bit of the first event's tag on its way.
    let (_, blocks) = world.processes[0].requests.front_mut().expect("a sample");
    bytes_of_mut(blocks)[5] ^= 0x80;
    world.room = 100;
    for _ in 0..5 {
        world.now += Duration::from_millis(60);
        world.node_turn(true);
        world.make_durable();
        (0..2).for_each(|who| world.turn(who));
    }
    match world.processes[0].outbox.ended() {
        Some(Ended::Refused { reason }) => assert!(reason.contains("unknown event tag"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.of(1), [] as [u64; 0]);
    assert_eq!(world.of(2), world.processes[1].taken);
    // Its producer is free again.
    world.start_process(ProducerId(1));
    for _ in 0..3 {
        world.now += Duration::from_millis(60);
        world.node_turn(true);
        world.turn(2);
    }
    assert_eq!(world.processes[2].outbox.taken(), Some(None));
}

#[test]
fn a_tape_that_lacks_what_was_durable_ends_the_handle() {
    let mut world = World::new(1);
    world.loss = 0;
    world.start_node();
    world.start_process(ProducerId(1));
    for _ in 0..8 {
        world.room = 100;
        world.now += Duration::from_millis(60);
        world.node_turn(true);
        world.turn(0);
        world.publish(0);
        world.make_durable();
    }
    assert!(world.processes[0].safe > 0);
    world.kill_node();
    world.tape = Tape::default();
    world.start_node();
    for _ in 0..3 {
        world.now += Duration::from_millis(60);
        world.node_turn(true);
        let process = &mut world.processes[0];
        while let Some((header, states)) = process.replies.pop_front() {
            process.outbox.reply(&header, &states, world.now);
        }
        if let Some(request) = process.outbox.next(world.now) {
            process.requests.push_back((request.header, Vec::new()));
            process.outbox.sent(&request, world.now);
        }
    }
    assert!(matches!(world.processes[0].outbox.ended(), Some(Ended::TapeWentBack { .. })));
}
