//! The machine against a plain list of events, under random schedules: members come, go and die, acknowledge, refuse and
//! forget; the process is killed with whatever was recorded last; the tape loses its beginning or its end.

use std::time::Duration;

use matchtape_schemas::{AcceptedTime, Epoch, InstrumentId, Sequence};

use crate::machine::{AckError, Delivered, Machine, Want};
use crate::members::MemberId;
use crate::state::{Parked, State, decode_parked, encode_parked};
use crate::{AckPolicy, Advisory, Definition, DeliverPolicy};

/// Instruments of the tape; of the last one nothing passes the filter.
const INSTRUMENTS: u64 = 5;
/// Events of a frame.
const FRAME: u64 = 11;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 33) % limit
    }
}

/// Where an event is, as the plain list has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    NotYet,
    Out { member: MemberId, until: Duration, answer: u64 },
    Waiting { due: Duration },
    Settled,
    Parked,
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    instrument: InstrumentId,
    at: At,
    /// As recorded, and since.
    deliveries: u32,
    forgiven: u32,
}

/// What was recorded last.
struct Record {
    state: Vec<u8>,
    parked: Vec<u8>,
    rows: Vec<Row>,
    delivered: u64,
    /// By the wall clock.
    at: Duration,
}

struct Run {
    random: Random,
    machine: Machine,
    rows: Vec<Row>,
    /// Deliveries ever made, also those a crash forgot.
    ever: Vec<u32>,
    record: Record,
    members: Vec<MemberId>,
    /// The answer each member is given now.
    answers: std::collections::BTreeMap<MemberId, u64>,
    /// The wall clock at the time zero of `now`.
    origin: Duration,
    now: Duration,
    lives: u64,
    delivered: u64,
    uncertain_through: Sequence,
    first_kept: u64,
    lost_told: Vec<(Sequence, Sequence)>,
    lost_expected: Vec<u64>,
    max_out: usize,
}

fn passes(row: &Row) -> bool {
    u64::from(row.instrument.get()) < INSTRUMENTS
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let ack = AckPolicy::EVERY[random.below(3) as usize];
        let definition = Definition {
            ack,
            deliver: DeliverPolicy::All,
            ack_wait: Duration::from_millis(1 + random.below(40)),
            backoff: (0..random.below(3)).map(|_| Duration::from_millis(1 + random.below(60))).collect(),
            max_deliver: [None, Some(3), Some(5)][random.below(3) as usize],
            max_ack_pending: 1 + random.below(30) as u32,
            members_max: if ack == AckPolicy::All { 1 } else { 1 + random.below(3) as u16 },
            member_timeout: Duration::from_millis(20 + random.below(100)),
            ..Definition::default()
        };
        let definition = definition.checked().expect("sound");
        let state = State::beginning(Epoch(1), Sequence(1), Sequence::ZERO);
        let machine = Machine::new(definition, &state, Vec::new(), AcceptedTime(0), MemberId::NOBODY);
        let record = Record {
            state: state.encode(),
            parked: encode_parked([].iter()),
            rows: Vec::new(),
            delivered: 0,
            at: Duration::ZERO,
        };
        Self {
            random,
            machine,
            rows: Vec::new(),
            ever: Vec::new(),
            record,
            members: Vec::new(),
            answers: Default::default(),
            origin: Duration::ZERO,
            now: Duration::ZERO,
            lives: 0,
            delivered: 0,
            uncertain_through: Sequence::ZERO,
            first_kept: 1,
            lost_told: Vec::new(),
            lost_expected: Vec::new(),
            max_out: 0,
        }
    }

    fn ack_policy(&self) -> AckPolicy {
        self.machine.definition().ack
    }

    fn row(&mut self, sequence: Sequence) -> &mut Row {
        &mut self.rows[sequence.get() as usize - 1]
    }

    fn append(&mut self) {
        for _ in 0..self.random.below(20) {
            let instrument = InstrumentId(1 + self.random.below(INSTRUMENTS) as u32);
            self.rows.push(Row { instrument, at: At::NotYet, deliveries: 0, forgiven: 0 });
            self.ever.push(0);
        }
    }

    fn attach(&mut self) {
        let name = ["a", "b", "c"][self.random.below(3) as usize].parse().unwrap();
        let expires = self.random.below(2) == 0;
        let before: Vec<_> = self.machine.info().members;
        match self.machine.attach(&name, expires, self.now) {
            Ok(id) => {
                if let Some(replaced) = before.iter().find(|member| member.name == name.as_str()) {
                    self.gone(replaced.id, true);
                }
                self.members.push(id);
            }
            Err(_) => {
                assert!(before.len() >= usize::from(self.machine.definition().members_max));
                assert!(
                    before.iter().all(|member| member.name != name.as_str()),
                    "a restarted member gets in"
                );
            }
        }
    }

    /// The plain list's account of a member's end.
    fn gone(&mut self, id: MemberId, dead: bool) {
        self.members.retain(|member| *member != id);
        for index in 0..self.rows.len() {
            if let At::Out { member, until, .. } = self.rows[index].at
                && member == id
            {
                self.fail(index, if dead { self.due_without_member(until) } else { self.now });
            }
        }
    }

    fn due_without_member(&self, until: Duration) -> Duration {
        if self.machine.definition().backoff.is_empty() { self.now } else { until }
    }

    fn tick(&mut self) {
        self.now += Duration::from_millis(self.random.below(15));
        for index in 0..self.members.len() {
            if self.random.below(3) > 0 {
                assert!(self.machine.heard(self.members[index], self.now));
            }
        }
        let quiet = self.machine.quiet_until();
        let acted = self.machine.tick(self.now);
        assert_eq!(acted, quiet.is_some_and(|quiet| quiet <= self.now));
        let left: Vec<MemberId> = self.machine.info().members.iter().map(|member| member.id).collect();
        for member in self.members.clone() {
            if !left.contains(&member) {
                self.gone(member, true);
            }
        }
        for index in 0..self.rows.len() {
            if matches!(self.rows[index].at, At::Out { until, .. } if until <= self.now) {
                self.fail(index, self.now);
            }
        }
    }

    fn fail(&mut self, index: usize, due: Duration) {
        let limit = self.machine.definition().max_deliver;
        let row = &mut self.rows[index];
        let over = limit.is_some_and(|limit| row.deliveries - row.forgiven >= limit);
        row.at = if over { At::Parked } else { At::Waiting { due } };
    }

    /// Half of the members say which answers arrived: most often the last one, at times an earlier one.
    fn ask(&mut self, member: MemberId) {
        if member.0.is_multiple_of(2) {
            return;
        }
        let last = self.answers.get(&member).copied().unwrap_or(0);
        let received = if self.random.below(4) == 0 { self.random.below(last + 1) } else { last };
        assert_eq!(self.machine.ask(member, received, self.now), Ok(Some(last + 1)));
        self.answers.insert(member, last + 1);
        for row in &mut self.rows {
            if matches!(row.at, At::Out { member: with, answer, .. } if with == member && answer > received) {
                row.at = At::Waiting { due: self.now };
                row.forgiven += 1;
            }
        }
    }

    fn fetch(&mut self) {
        let Some(place) = (!self.members.is_empty()).then(|| self.random.below(self.members.len() as u64))
        else {
            return;
        };
        let member = self.members[place as usize];
        self.ask(member);
        while let Some(advisory) = self.machine.tell(member) {
            if let Advisory::Lost { first, last } = advisory {
                self.lost_told.push((first, last));
            }
        }
        let wanted = 1 + self.random.below(25) as usize;
        let mut count = 0;
        for sequence in self.machine.due(member, self.now, wanted) {
            if sequence.get() < self.first_kept {
                self.machine.lose_pending(sequence, self.now);
                self.row(sequence).at = At::Lost;
                self.lost_expected.push(sequence.get());
                continue;
            }
            if self.random.below(20) == 0 {
                // It cannot be read just now: nothing of it was delivered.
                return;
            }
            let delivered = self.machine.redeliver(member, sequence, self.now);
            self.judge(delivered, member);
            count += 1;
        }
        while count < wanted {
            match self.machine.want() {
                Want::Full => {
                    let pending =
                        self.rows.iter().filter(|row| matches!(row.at, At::Out { .. } | At::Waiting { .. }));
                    let max = self.machine.definition().max_ack_pending as usize;
                    assert!(pending.count() >= max, "full, but there is room");
                    return;
                }
                Want::Order => {
                    assert!(self.rows.iter().any(|row| matches!(row.at, At::Waiting { .. })));
                    return;
                }
                Want::Record => {
                    if !self.save() {
                        return;
                    }
                }
                Want::Events(next) => {
                    if next.get() < self.first_kept {
                        let first_kept = Sequence(self.first_kept);
                        self.machine.keep_from(first_kept, self.now);
                        for sequence in next.get()..self.first_kept {
                            self.row(Sequence(sequence)).at = At::Lost;
                            self.lost_expected.push(sequence);
                        }
                        continue;
                    }
                    if next.get() as usize > self.rows.len() {
                        return;
                    }
                    count += self.frame(next, member, wanted - count);
                }
            }
        }
    }

    /// What a node does with a whole frame: only what passes the filter, or an end, moves the machine. Returns how many
    /// events were delivered.
    fn frame(&mut self, next: Sequence, member: MemberId, wanted: usize) -> usize {
        let last = (next.get().next_multiple_of(FRAME)).min(self.rows.len() as u64);
        let mut count = 0;
        for sequence in (next.get()..=last).map(Sequence) {
            if count >= wanted || !self.machine.may_take(sequence) {
                self.machine.pass(sequence.previous());
                return count;
            }
            let row = self.rows[sequence.get() as usize - 1];
            if !passes(&row) {
                continue;
            }
            match self.machine.take(member, sequence, row.instrument, self.now) {
                Some(delivered) => {
                    self.judge(delivered, member);
                    count += 1;
                }
                None => self.row(sequence).at = At::Waiting { due: Duration::ZERO },
            }
        }
        self.machine.pass(Sequence(last));
        count
    }

    /// Whether this delivery may be, and is described as it is.
    fn judge(&mut self, delivered: Delivered, member: MemberId) {
        let index = delivered.sequence.get() as usize - 1;
        let row = self.rows[index];
        self.delivered += 1;
        assert_eq!(delivered.consumer_sequence, self.delivered);
        assert!(passes(&row), "{delivered:?} does not pass the filter");
        match row.at {
            At::NotYet => {}
            At::Waiting { due } => assert!(due <= self.now, "{delivered:?} before it is due"),
            other => panic!("{delivered:?}, but it is {other:?}"),
        }
        assert_eq!(delivered.delivery_count, row.deliveries + 1);
        if self.ever[index] > 0 {
            assert!(delivered.redelivered, "{delivered:?} is not marked");
        } else {
            let excused = delivered.sequence <= self.uncertain_through;
            assert!(!delivered.redelivered || excused, "{delivered:?} is marked for nothing");
        }
        for (other, earlier) in self.rows[..index].iter().enumerate() {
            let in_order = match self.ack_policy() {
                AckPolicy::None | AckPolicy::Explicit => earlier.instrument == row.instrument,
                AckPolicy::All => passes(earlier),
            };
            if in_order && matches!(earlier.at, At::NotYet | At::Waiting { .. }) {
                panic!("{delivered:?} before {}, which is {:?}", other + 1, earlier.at);
            }
            if let At::Out { member: with, .. } = earlier.at
                && earlier.instrument == row.instrument
            {
                assert_eq!(with, member, "an instrument is with one member");
            }
        }
        self.ever[index] += 1;
        let attempts = row.deliveries + 1 - row.forgiven;
        let until = self.now + self.machine.definition().wait_after(attempts);
        let answer = self.answers.get(&member).copied().unwrap_or(0);
        let settled = self.ack_policy() == AckPolicy::None;
        let row = self.row(delivered.sequence);
        row.deliveries += 1;
        row.at = if settled { At::Settled } else { At::Out { member, until, answer } };
        let out = self.rows.iter().filter(|row| matches!(row.at, At::Out { .. })).count();
        self.max_out = self.max_out.max(out);
    }

    fn acknowledge(&mut self) {
        let sequence = Sequence(self.random.below(self.rows.len() as u64 + 3));
        let row = (sequence != Sequence::ZERO)
            .then(|| self.rows.get(sequence.get() as usize - 1))
            .flatten()
            .copied();
        let next = self.machine.next();
        let expected: Result<bool, AckError> = match (self.ack_policy(), row.map(|row| row.at)) {
            (AckPolicy::None, _) => Err(AckError::Policy),
            _ if sequence >= next => Err(AckError::Beyond { sequence, next }),
            (_, None) => Err(AckError::NeverDelivered { sequence }),
            (_, Some(At::Waiting { .. })) if row.is_some_and(|row| row.deliveries == 0) => {
                Err(AckError::NeverDelivered { sequence })
            }
            (_, Some(At::Out { .. } | At::Waiting { .. })) => Ok(true),
            (_, Some(At::Parked | At::Settled | At::Lost | At::NotYet)) => Ok(false),
        };
        let now = self.now;
        match self.random.below(8) {
            0 => {
                let delay = Duration::from_millis(self.random.below(30));
                let found = self.machine.nak(sequence, delay, now);
                match (expected, row.map(|row| row.at)) {
                    (Ok(true), Some(At::Waiting { .. })) => {
                        assert_eq!(found, Err(AckError::Waiting { sequence }))
                    }
                    (Ok(true), _) => {
                        assert_eq!(found.unwrap().settled, 1);
                        self.fail(sequence.get() as usize - 1, now + delay);
                    }
                    (Ok(false), _) => assert_eq!(found.unwrap().settled, 0),
                    (Err(error), _) => assert_eq!(found, Err(error)),
                }
            }
            1 => {
                let found = self.machine.in_progress(sequence, now);
                match (expected, row.map(|row| row.at)) {
                    (Ok(true), Some(At::Out { member, answer, .. })) => {
                        assert_eq!(found.unwrap().settled, 1);
                        let attempts = row.map_or(0, |row| row.deliveries - row.forgiven);
                        let until = now + self.machine.definition().wait_after(attempts);
                        self.row(sequence).at = At::Out { member, until, answer };
                    }
                    (Ok(true), _) => assert_eq!(found, Err(AckError::Waiting { sequence })),
                    (Ok(false), _) => assert_eq!(found.unwrap().settled, 0),
                    (Err(error), _) => assert_eq!(found, Err(error)),
                }
            }
            2 => {
                let found = self.machine.term(sequence, now);
                match expected {
                    Ok(known) => {
                        let known = known || row.is_some_and(|row| row.at == At::Parked);
                        assert_eq!(found.unwrap().settled, u32::from(known));
                        if known {
                            self.row(sequence).at = At::Settled;
                        }
                    }
                    Err(error) => assert_eq!(found, Err(error)),
                }
            }
            _ => {
                let found = self.machine.ack(sequence);
                match expected {
                    Ok(known) => {
                        let settled = found.unwrap().settled;
                        let all = self.ack_policy() == AckPolicy::All;
                        let was_parked = row.is_some_and(|row| row.at == At::Parked);
                        let mut count = if known || all { self.settled(sequence.get()) } else { 0 };
                        if was_parked {
                            self.row(sequence).at = At::Settled;
                            count += 1;
                        }
                        assert_eq!(settled, count);
                    }
                    Err(error) => assert_eq!(found, Err(error)),
                }
            }
        }
    }

    /// The plain list's account of an acknowledgement.
    fn settled(&mut self, sequence: u64) -> u32 {
        let all = self.ack_policy() == AckPolicy::All;
        let from = if all { 0 } else { sequence as usize - 1 };
        let mut count = 0;
        for (row, number) in self.rows[from..sequence as usize].iter_mut().zip(from as u64 + 1..) {
            // What was unparked and not delivered since is meant by nobody who does not name it.
            let unparked = row.deliveries > 0 && row.deliveries == row.forgiven && number != sequence;
            if matches!(row.at, At::Out { .. } | At::Waiting { .. }) && !unparked {
                row.at = At::Settled;
                count += 1;
            }
        }
        count
    }

    fn parked(&mut self) {
        let only =
            (self.random.below(2) == 0).then(|| Sequence(1 + self.random.below(self.rows.len() as u64 + 1)));
        let chosen = |index: usize, row: &Row| {
            row.at == At::Parked && only.is_none_or(|only| only.get() as usize == index + 1)
        };
        let chosen: Vec<usize> =
            (0..self.rows.len()).filter(|index| chosen(*index, &self.rows[*index])).collect();
        if self.random.below(3) == 0 {
            assert_eq!(self.machine.discard(only, self.now) as usize, chosen.len());
            chosen.iter().for_each(|index| self.rows[*index].at = At::Settled);
        } else {
            assert_eq!(self.machine.unpark(only, self.now) as usize, chosen.len());
            for index in chosen {
                let row = &mut self.rows[index];
                (row.at, row.forgiven) = (At::Waiting { due: self.now }, row.deliveries);
            }
        }
    }

    /// `false`: it was killed.
    fn save(&mut self) -> bool {
        let (state, parked_too) = self.machine.record(Epoch(1), self.now);
        self.record.state = state.encode();
        if parked_too {
            self.record.parked = encode_parked(self.machine.parked());
        }
        self.record.rows = self.rows.clone();
        for index in 0..self.rows.len() {
            let due = match self.rows[index].at {
                At::Out { until, .. } => self.due_without_member(until),
                At::Waiting { due } => due,
                At::NotYet | At::Settled | At::Parked | At::Lost => continue,
            };
            // How long it still has to wait.
            self.record.rows[index].at = At::Waiting { due: due.saturating_sub(self.now) };
        }
        self.record.at = self.origin + self.now;
        self.record.delivered = self.delivered;
        let lives = self.random.below(4) > 0;
        if lives {
            self.machine.recorded(state.reserved_through);
        } else {
            // Killed right after it was written: it is what is found.
            self.kill();
        }
        lives
    }

    /// The process is killed: what was recorded last is found.
    fn kill(&mut self) {
        let state = State::decode(&self.record.state).expect("what was recorded is read back");
        let parked: Vec<Parked> = decode_parked(&self.record.parked).expect("so is the list");
        let definition = self.machine.definition().clone();
        let bytes = definition.encode();
        assert_eq!(Definition::decode(&bytes).as_ref(), Ok(&definition));
        self.uncertain_through = state.reserved_through;
        // The clock may have been set back while the process was down.
        let down = Duration::from_millis(self.random.below(40));
        let stopped = self.origin + self.now;
        self.origin = if self.random.below(4) == 0 { stopped.saturating_sub(down) } else { stopped + down };
        self.now = Duration::ZERO;
        let passed = self.origin.saturating_sub(self.record.at);
        let limit = definition.max_deliver;
        for (index, row) in self.rows.iter_mut().enumerate() {
            let known = self.record.rows.get(index);
            (row.at, row.deliveries, row.forgiven) =
                known.map_or((At::NotYet, 0, 0), |known| (known.at, known.deliveries, known.forgiven));
            if let At::Waiting { due } = row.at {
                let exhausted = limit.is_some_and(|limit| row.deliveries - row.forgiven >= limit);
                let due = due.saturating_sub(passed);
                row.at = if exhausted { At::Parked } else { At::Waiting { due } };
            }
        }
        // What was lost in memory only is found lost again.
        self.lost_expected.clear();
        self.lost_told.clear();
        for (first, last) in &state.lost {
            self.lost_expected.extend(first.get()..=last.get());
        }
        self.delivered = self.record.delivered;
        self.members.clear();
        self.lives += 1;
        let members_after = MemberId(self.lives << 16);
        let origin = AcceptedTime(self.origin.as_nanos() as i64);
        self.machine = Machine::new(definition, &state, parked, origin, members_after);
        self.machine.tick(self.now);
    }

    fn cut_beginning(&mut self) {
        let visible = self.rows.len() as u64;
        self.first_kept = (self.first_kept + self.random.below(30)).min(visible + 1);
    }

    fn check(&mut self) {
        self.machine.check().unwrap();
        let (floor, next) = (self.machine.floor(), self.machine.next());
        assert!(floor < next);
        for (index, row) in self.rows.iter().enumerate() {
            let sequence = Sequence(index as u64 + 1);
            let pending = matches!(row.at, At::Out { .. } | At::Waiting { .. });
            assert!(sequence > floor || !pending, "{sequence} is {:?} below the floor {floor}", row.at);
            let seen = row.at != At::NotYet;
            assert!(!passes(row) || seen == (sequence < next), "{sequence} is {:?}, next is {next}", row.at);
        }
        let parked: Vec<u64> = self.machine.parked().map(|one| one.sequence.get()).collect();
        let expected =
            (1..).zip(&self.rows).filter(|(_, row)| row.at == At::Parked).map(|(sequence, _)| sequence);
        assert!(expected.eq(parked), "the list of parked events");
        assert!(self.max_out <= self.machine.definition().max_ack_pending as usize + 40);
        // Told at most, and what is still to be told is what is missing.
        let told = |sequence: &u64| {
            self.lost_told.iter().any(|(first, last)| (first.get()..=last.get()).contains(sequence))
        };
        let untold = self.lost_expected.iter().filter(|sequence| !told(sequence)).count();
        let mut copy = self.machine.clone();
        let mut left = 0;
        while let Some(advisory) = copy.tell(MemberId::NOBODY) {
            if let Advisory::Lost { first, last } = advisory {
                left += (last.get() - first.get() + 1) as usize;
            }
        }
        assert!(left >= untold, "{untold} lost positions would never be told, {left} are kept");
    }

    /// Everybody behaves from now on: in the end there is nothing that was not delivered, parked or told.
    fn finish(&mut self) {
        for _ in 0..10_000 {
            self.now += Duration::from_millis(5);
            self.tick();
            if self.members.is_empty() {
                self.attach();
            }
            self.fetch();
            for sequence in 1..=self.rows.len() as u64 {
                if matches!(self.rows[sequence as usize - 1].at, At::Out { .. }) {
                    self.machine.ack(Sequence(sequence)).unwrap();
                    self.settled(sequence);
                }
            }
            self.check();
            let open =
                |row: &Row| passes(row) && matches!(row.at, At::NotYet | At::Out { .. } | At::Waiting { .. });
            if !self.rows.iter().any(open) {
                for (index, row) in self.rows.iter().enumerate() {
                    let fair = !passes(row) || self.ever[index] > 0 || row.at == At::Lost;
                    assert!(fair, "{} was never delivered and is {:?}", index + 1, row.at);
                }
                return;
            }
        }
        panic!("it never comes to an end: {:?}", self.machine.info());
    }
}

fn schedules() -> u64 {
    std::env::var("MATCHTAPE_SCHEDULES").ok().and_then(|text| text.parse().ok()).unwrap_or(400)
}

#[test]
fn random_schedules_agree_with_a_plain_list() {
    let (mut most_out, mut parked, mut told) = (0, 0, 0);
    for seed in 1..=schedules() {
        let outcome = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            for _ in 0..120 {
                match run.random.below(24) {
                    0..=3 => run.append(),
                    4..=5 => run.attach(),
                    6..=8 => run.tick(),
                    9..=14 => run.fetch(),
                    15..=18 => run.acknowledge(),
                    19 => run.parked(),
                    20..=21 => drop(run.save()),
                    22 => match run.random.below(4) {
                        0 => run.kill(),
                        1 => run.cut_beginning(),
                        _ if !run.members.is_empty() => {
                            let member = run.members[0];
                            let dead = run.random.below(2) == 0;
                            match dead {
                                true => run.machine.lose(member, run.now),
                                false => run.machine.detach(member, run.now),
                            }
                            run.gone(member, dead);
                        }
                        _ => {}
                    },
                    _ => {
                        let parked = run.rows.iter().filter(|row| row.at == At::Parked).count();
                        assert_eq!(run.machine.info().parked as usize, parked);
                    }
                }
                run.check();
            }
            let parked = run.rows.iter().filter(|row| row.at == At::Parked).count();
            let told = run.lost_told.len();
            run.finish();
            (run.max_out, parked, told)
        });
        match outcome {
            Ok((out, was_parked, was_told)) => {
                most_out = most_out.max(out);
                parked += was_parked;
                told += was_told;
            }
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(
        most_out > 10 && parked > 0 && told > 0,
        "the schedules reach nothing: {most_out} {parked} {told}"
    );
}
