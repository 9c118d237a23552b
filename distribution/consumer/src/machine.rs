//! One consumer, as a pure state machine.
//!
//! ```text
//!                    take                      ack, term
//!   the tape ──────────────────▶ delivered ──────────────────▶ settled
//!      │                          ▲    │ nak, ack_wait over, member gone (its backoff stays)
//!      │ take (held for another   │    ▼
//!      └─ member, or for order) ▶ waiting ──── max_deliver ───▶ parked ── unpark ──▶ waiting
//! ```
//!
//! What always holds:
//!
//! * `first <= every pending sequence < next`; everything else below `next` was settled, parked, lost (and told so), or
//!   does not pass the filter.
//! * Among what is to be kept in order (everything under [`AckPolicy::All`], an instrument's events otherwise) nothing is
//!   delivered while something before it waits.
//! * All deliveries of an instrument that are out are with one member.
//! * A position above `reserved_through` is never delivered, so that after a crash every delivery that was not recorded is
//!   known to be possible, and marked as repeated.

mod recording;
mod settling;

use std::collections::BTreeMap;
use std::time::Duration;

use matchtape_schemas::{AcceptedTime, InstrumentId, Sequence};
use rustc_hash::FxHashSet;

use crate::advisory::{Advisory, ParkReason};
use crate::definition::{AckPolicy, Definition, DefinitionError, DeliverPolicy, MemberName};
use crate::members::{AttachError, Member, MemberId, Members};
use crate::notices::Notices;
use crate::pending::{Pending, PendingSet, Place};
use crate::state::{Parked, State};

/// A delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The event's position.
    pub sequence: Sequence,
    /// The delivery's own number: dense from 1 within a consumer.
    pub consumer_sequence: u64,
    /// How often the event has been delivered, this time included, as far as is recorded.
    pub delivery_count: u32,
    /// It may have been delivered before. Never false for an event that was.
    pub redelivered: bool,
}

/// What the tape should be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The events from here on.
    Events(Sequence),
    /// Nothing: `max_ack_pending` events are out.
    Full,
    /// Nothing: an earlier event waits to be delivered again, and order is to be kept.
    Order,
    /// Nothing until the state has been recorded: see [`Machine::record`].
    Record,
}

/// Why an acknowledgement says nothing.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckError {
    /// Nothing is to be acknowledged.
    #[error("this consumer acknowledges nothing (ack policy none)")]
    Policy,
    /// It was not delivered.
    #[error("event {sequence} was never delivered by this consumer")]
    NeverDelivered {
        /// As given.
        sequence: Sequence,
    },
    /// The consumer has not come so far. After a crash that may be so for something delivered before it: it comes again.
    #[error("event {sequence} was not delivered: {next} is the next one this consumer comes to")]
    Beyond {
        /// As given.
        sequence: Sequence,
        /// The consumer's next position.
        next: Sequence,
    },
    /// Its time ran out, or it was refused: it waits to be delivered again.
    #[error("event {sequence} waits to be delivered again")]
    Waiting {
        /// As given.
        sequence: Sequence,
    },
}

/// A member says to have an answer that it was never given.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
#[error("answer {received} was never given to this member: the last one is {last}")]
pub struct AnswerError {
    /// As it says.
    pub received: u64,
    /// The last one begun.
    pub last: u64,
}

/// What an acknowledgement did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acked {
    /// Events it settled; 0: they were settled before.
    pub settled: u32,
}

/// One member, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its name.
    pub name: String,
    /// Its attachment.
    pub id: MemberId,
    /// Events it was given and has not acknowledged.
    pub pending: u32,
}

/// How a consumer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineInfo {
    /// The position it began with.
    pub first: Sequence,
    /// The first position it has not come to.
    pub next: Sequence,
    /// Everything up to here was dealt with, except what is parked.
    pub floor: Sequence,
    /// Deliveries made, repeated ones counted.
    pub delivered: u64,
    /// Events delivered and neither settled nor waiting.
    pub out: u32,
    /// Events that wait to be delivered (again).
    pub waiting: u32,
    /// Events set aside.
    pub parked: u32,
    /// Who is attached.
    pub members: Vec<MemberInfo>,
}

/// See the module. `now` is the time since any fixed moment, the same for all calls, and never goes back.
#[derive(Clone, Debug)]
pub struct Machine {
    definition: Definition,
    first: Sequence,
    initial_through: Sequence,
    next: Sequence,
    delivered: u64,
    /// Positions that may be delivered before the next record.
    reserved_through: Sequence,
    /// As recorded last, by this machine.
    recorded_next: Sequence,
    /// Positions that an earlier machine may have delivered without recording it.
    uncertain_through: Sequence,
    pending: PendingSet,
    parked: BTreeMap<Sequence, Parked>,
    members: Members,
    notices: Notices,
    /// Nothing happens by time alone before this.
    quiet_until: Duration,
    wall_origin: AcceptedTime,
    changed: bool,
    parked_changed: bool,
}

impl Machine {
    /// A consumer as it was recorded, taken up at the time zero of `now`, when the wall clock is `wall_origin`. Whoever was
    /// attached is gone, so what was pending is delivered again, once what is left of its delay or backoff is over; what was
    /// delivered as often as allowed is parked by the first [`tick`](Self::tick). Members are numbered after
    /// `members_after`: to be drawn at random, so that what was attached to an earlier life of the node is nobody now.
    pub fn new(
        definition: Definition,
        state: &State,
        parked: Vec<Parked>,
        wall_origin: AcceptedTime,
        members_after: MemberId,
    ) -> Self {
        let mut machine = Self {
            definition,
            first: state.first,
            initial_through: state.initial_through,
            next: state.next,
            delivered: state.delivered,
            reserved_through: state.reserved_through,
            recorded_next: state.next,
            uncertain_through: state.reserved_through,
            pending: PendingSet::default(),
            parked: parked.into_iter().map(|one| (one.sequence, one)).collect(),
            members: Members::new(members_after),
            notices: Notices::new(state.lost.clone()),
            quiet_until: Duration::MAX,
            wall_origin,
            changed: false,
            parked_changed: false,
        };
        // A clock that was set back since makes nothing wait longer than it had to.
        let passed = wall_origin.get().saturating_sub(state.recorded_at.get());
        let passed = Duration::from_nanos(u64::try_from(passed).unwrap_or(0));
        for one in &state.pending {
            let left = Duration::from_millis(one.due_in_ms.into()).saturating_sub(passed);
            let pending = Pending {
                instrument: one.instrument,
                deliveries: one.deliveries,
                forgiven: one.forgiven,
                repeated: one.deliveries > 0 || one.sequence <= machine.uncertain_through,
                place: Place::Waiting { due: left },
            };
            machine.pending.insert(one.sequence, pending);
            if machine.is_exhausted(&pending) {
                machine.quiet_until = Duration::ZERO;
            } else if left > Duration::ZERO {
                machine.quiet_until = machine.quiet_until.min(left);
            }
        }
        machine
    }

    /// What was asked for.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Becomes what is asked for now, if an existing consumer may. Deliveries that are out keep their time; what waits and
    /// was delivered as often as is now allowed is parked by the next [`tick`](Self::tick).
    pub fn update(&mut self, definition: Definition) -> Result<(), DefinitionError> {
        self.definition.check_update(&definition)?;
        if usize::from(definition.members_max) < self.members.len() {
            let attached = self.members.len();
            return Err(DefinitionError {
                field: "members_max",
                problem: format!("{attached} members are attached; detach some before"),
            });
        }
        self.definition = definition;
        // Members may be given up earlier now, and fewer deliveries be allowed: to be looked at anew.
        self.quiet_until = Duration::ZERO;
        Ok(())
    }

    /// The first position it has not come to.
    pub fn next(&self) -> Sequence {
        self.next
    }

    /// Up to here only the last event of each instrument is wanted; zero for none.
    pub fn initial_through(&self) -> Sequence {
        self.initial_through
    }

    /// Everything up to here was dealt with, except what is parked.
    pub fn floor(&self) -> Sequence {
        self.pending.first().unwrap_or(self.next).previous()
    }

    /// The first position it may still have to read.
    pub fn needed_from(&self) -> Sequence {
        let parked = self.parked.first_key_value().map_or(Sequence::MAX, |(sequence, _)| *sequence);
        self.floor().next().min(parked)
    }

    /// How it stands.
    pub fn info(&self) -> MachineInfo {
        let members = self.members.iter().map(|member| MemberInfo {
            name: member.name.to_string(),
            id: member.id,
            pending: self.pending.iter().filter(|(_, pending)| pending.is_with(member.id)).count() as u32,
        });
        MachineInfo {
            first: self.first,
            next: self.next,
            floor: self.floor(),
            delivered: self.delivered,
            out: (self.pending.len() - self.pending.waiting_len()) as u32,
            waiting: self.pending.waiting_len() as u32,
            parked: self.parked.len() as u32,
            members: members.collect(),
        }
    }

    /// The events set aside, by sequence.
    pub fn parked(&self) -> impl ExactSizeIterator<Item = &Parked> {
        self.parked.values()
    }

    /// The latest advisories, with the time of each in ns since 1970 UTC.
    pub fn advisories(&self) -> impl Iterator<Item = &(AcceptedTime, Advisory)> {
        self.notices.kept()
    }

    // --- members ---

    /// Attaches a member. Another one of the same name is replaced, and what it had is delivered again: a process that was
    /// restarted does not wait for its own past.
    pub fn attach(
        &mut self,
        name: &MemberName,
        expires: bool,
        now: Duration,
    ) -> Result<MemberId, AttachError> {
        if let Some(earlier) = self.members.named(name) {
            self.lose(earlier, now);
        }
        let id = self.members.attach(name, expires, self.definition.members_max, now)?;
        if expires {
            self.quiet_until = self.quiet_until.min(now.saturating_add(self.definition.member_timeout));
        }
        Ok(id)
    }

    /// Takes a member off that says so. What it had goes to others, at once, as if it had refused it.
    pub fn detach(&mut self, member: MemberId, now: Duration) {
        self.take_off(member, now, |_, _| now);
    }

    /// Takes a member off that is dead, or as good as that. The time of what it had is over early: it goes to others, at
    /// once, or where there is a backoff when its step is over. So an event that kills its members does not kill them as
    /// fast as they can be started, and is parked in the end.
    pub fn lose(&mut self, member: MemberId, now: Duration) {
        if let Some(gone) =
            self.take_off(member, now, |machine, pending| machine.due_without_member(pending, now))
        {
            // Whether it has these nobody knows.
            self.notices.tell_again(gone.told.into_iter().map(|(_, advisory)| advisory).collect());
        }
    }

    fn take_off(
        &mut self,
        member: MemberId,
        now: Duration,
        due: impl Fn(&Self, &Pending) -> Duration,
    ) -> Option<Member> {
        let gone = self.members.remove(member)?;
        let held = self.pending.select(|_, pending| pending.is_with(member));
        if !held.is_empty() {
            let (member, pending) = (gone.name.to_string(), held.len() as u32);
            self.advise(now, Advisory::MemberLost { member, pending });
        }
        for sequence in held {
            let due = self.pending.get(sequence).map_or(now, |pending| due(self, pending));
            self.fail(sequence, ParkReason::Expired, due, now);
        }
        Some(gone)
    }

    /// When a pending event is to be delivered again if whoever has it is dead.
    fn due_without_member(&self, pending: &Pending, now: Duration) -> Duration {
        match pending.place {
            Place::Out { until, .. } if !self.definition.backoff.is_empty() => until,
            Place::Out { .. } | Place::Stuck { .. } => now,
            Place::Waiting { due } => due,
        }
    }

    /// A member elsewhere asks for more, and says which of its answers was the last to arrive; zero: none. What it was
    /// given and told with later ones never arrived, and comes again: the events first, in their order, without that
    /// delivery counting against `max_deliver`. Returns the number of the answer that begins; the earlier ones are over.
    /// `None`: it is not attached (any more).
    pub fn ask(
        &mut self,
        member: MemberId,
        received: u64,
        now: Duration,
    ) -> Result<Option<u64>, AnswerError> {
        let Some(asking) = self.members.get_mut(member) else { return Ok(None) };
        let last = asking.answer;
        let (answer, untold) = asking.ask(received).ok_or(AnswerError { received, last })?;
        self.heard(member, now);
        self.changed |= !untold.is_empty();
        self.notices.tell_again(untold);
        let missed = |pending: &Pending| matches!(pending.place, Place::Out { member: with, answer, .. } if with == member && answer > received);
        for sequence in self.pending.select(|_, pending| missed(pending)) {
            self.pending.take_back(sequence, now);
            self.changed = true;
        }
        Ok(Some(answer))
    }

    /// Whether this is the answer the member is given now.
    pub fn is_answer(&self, member: MemberId, answer: u64) -> bool {
        self.members.answer(member) == answer
    }

    /// A sign of life; `false`: it is not attached (any more).
    pub fn heard(&mut self, member: MemberId, now: Duration) -> bool {
        self.members.heard(member, now)
    }

    // --- time ---

    /// What time alone does: deliveries run out, members are given up. `true`: something may be deliverable now that was
    /// not before.
    pub fn tick(&mut self, now: Duration) -> bool {
        if now < self.quiet_until {
            return false;
        }
        let timeout = self.definition.member_timeout;
        let gone = self.members.iter().filter(|member| member.silent_at(timeout) <= now);
        for member in gone.map(|member| member.id).collect::<Vec<_>>() {
            self.lose(member, now);
        }
        let over = |pending: &Pending| matches!(pending.place, Place::Out { until, .. } if until <= now);
        for sequence in self.pending.select(|_, pending| over(pending)) {
            self.fail(sequence, ParkReason::Expired, now, now);
        }
        // As it was found, or since fewer deliveries are allowed.
        let waits = |pending: &Pending| matches!(pending.place, Place::Waiting { .. });
        for sequence in self.pending.select(|_, pending| waits(pending) && self.is_exhausted(pending)) {
            self.park(sequence, ParkReason::Expired, now);
        }
        self.unstick(now);
        let later = |pending: &Pending| match pending.place {
            Place::Out { until, .. } => until,
            Place::Waiting { due } if due > now => due,
            Place::Waiting { .. } | Place::Stuck { .. } => Duration::MAX,
        };
        let members = self.members.iter().map(|member| member.silent_at(timeout));
        let times = members.chain(self.pending.iter().map(|(_, pending)| later(pending)));
        self.quiet_until = times.min().unwrap_or(Duration::MAX);
        true
    }

    /// When [`tick`](Self::tick) should be called next, if nothing else happens.
    pub fn quiet_until(&self) -> Option<Duration> {
        Some(self.quiet_until).filter(|time| *time != Duration::MAX)
    }

    // --- delivering ---

    /// What waits for `member` and is due, in order, at most `max`: to be asked for before the tape is asked for more, and
    /// each to be delivered with [`redeliver`](Self::redeliver) once its event was read. What cannot be read is not
    /// delivered, and then nothing behind it may be.
    pub fn due(&self, member: MemberId, now: Duration, max: usize) -> Vec<Sequence> {
        let mut chosen = Vec::new();
        let mut blocked: FxHashSet<InstrumentId> = FxHashSet::default();
        for (sequence, pending) in self.pending.waiting() {
            if chosen.len() == max {
                break;
            }
            let mine = !self.pending.is_with_another(pending.instrument, member);
            let due = matches!(pending.place, Place::Waiting { due } if due <= now);
            if mine && due && !blocked.contains(&pending.instrument) {
                chosen.push(sequence);
            } else if self.definition.ack == AckPolicy::All {
                break;
            } else {
                blocked.insert(pending.instrument);
            }
        }
        chosen
    }

    /// Delivers what is [`due`](Self::due) to `member`.
    ///
    /// # Panics
    /// When it does not wait.
    pub fn redeliver(&mut self, member: MemberId, sequence: Sequence, now: Duration) -> Delivered {
        let (definition, answer) = (&self.definition, self.members.answer(member));
        let until = |pending: &Pending| now.saturating_add(definition.wait_after(pending.attempts()));
        let pending = self.pending.send(sequence, member, answer, until);
        self.quiet_until = self.quiet_until.min(until(&pending));
        self.delivered += 1;
        self.changed = true;
        Delivered {
            sequence,
            consumer_sequence: self.delivered,
            delivery_count: pending.deliveries,
            redelivered: pending.repeated || pending.deliveries > 1,
        }
    }

    /// What the tape should be asked for, once everything [`due`](Self::due) was delivered.
    pub fn want(&self) -> Want {
        if self.pending.len() >= self.definition.max_ack_pending as usize {
            Want::Full
        } else if self.definition.ack == AckPolicy::All && self.pending.waiting_len() > 0 {
            Want::Order
        } else if self.next > self.reserved_through {
            Want::Record
        } else {
            Want::Events(self.next)
        }
    }

    /// The next event that passes the filter. `None`: it is held, for the member its instrument is with or until those
    /// before it are delivered.
    ///
    /// # Panics
    /// Unless this position [`may be taken`](Self::may_take) and was not come to before.
    #[inline]
    pub fn take(
        &mut self,
        member: MemberId,
        sequence: Sequence,
        instrument: InstrumentId,
        now: Duration,
    ) -> Option<Delivered> {
        assert!(
            self.next <= sequence && sequence <= self.reserved_through,
            "event {sequence} was not asked for: {} to {} are",
            self.next,
            self.reserved_through
        );
        self.next = sequence.next();
        self.changed = true;
        let repeated = sequence <= self.uncertain_through;
        if self.definition.ack == AckPolicy::None {
            self.delivered += 1;
            return Some(Delivered {
                sequence,
                consumer_sequence: self.delivered,
                delivery_count: 1,
                redelivered: repeated,
            });
        }
        let mut pending = Pending {
            instrument,
            deliveries: 0,
            forgiven: 0,
            repeated,
            place: Place::Waiting { due: Duration::ZERO },
        };
        if !self.pending.is_free_for(instrument, member) {
            self.pending.insert(sequence, pending);
            return None;
        }
        let until = now.saturating_add(self.definition.wait_after(1));
        self.quiet_until = self.quiet_until.min(until);
        self.delivered += 1;
        let answer = self.members.answer(member);
        (pending.deliveries, pending.place) = (1, Place::Out { until, member, answer });
        self.pending.insert(sequence, pending);
        Some(Delivered {
            sequence,
            consumer_sequence: self.delivered,
            delivery_count: 1,
            redelivered: repeated,
        })
    }

    /// How many more events may be taken before [`want`](Self::want) has to be asked again, and the last position that
    /// may.
    pub fn room(&self) -> (usize, Sequence) {
        let room = match self.definition.ack {
            AckPolicy::None => usize::MAX,
            AckPolicy::All | AckPolicy::Explicit => {
                (self.definition.max_ack_pending as usize).saturating_sub(self.pending.len())
            }
        };
        (room, self.reserved_through)
    }

    /// Whether the event at this position may be taken, once those before it are passed: [`want`](Self::want) asks for
    /// events, and it lies within what is reserved. To be asked for every position: `want` knows only where the machine
    /// is, and events that do not pass the filter do not move it.
    #[inline]
    pub fn may_take(&self, sequence: Sequence) -> bool {
        sequence <= self.reserved_through && matches!(self.want(), Want::Events(_))
    }

    /// Everything through this position was looked at; nothing more of it passes the filter.
    pub fn pass(&mut self, through: Sequence) {
        if through >= self.next {
            self.next = through.next();
            self.changed = true;
        }
    }

    // --- what the tape no longer has ---

    /// The tape begins at `first_kept`: positions before it that were not come to are lost, and told so.
    pub fn keep_from(&mut self, first_kept: Sequence, now: Duration) {
        if self.next < first_kept {
            let (first, last) = (self.next, first_kept.previous());
            self.next = first_kept;
            self.changed = true;
            self.notices.lose(self.wall(now), first, last);
        }
    }

    /// An event that was to be delivered is no longer kept.
    pub fn lose_pending(&mut self, sequence: Sequence, now: Duration) {
        if self.pending.get(sequence).is_some() {
            self.settle(sequence);
            self.notices.lose(self.wall(now), sequence, sequence);
        }
    }

    /// The tape ends at `head`, or what it has from there on are other events than those of the record: a record beyond it
    /// was made on a tape whose end was lost. Returns whether it was changed, and has to be recorded before there is more.
    pub fn pull_back(&mut self, head: Sequence, now: Duration) -> bool {
        let earliest = match self.definition.deliver {
            DeliverPolicy::ByStartSequence(sequence) => sequence.max(Sequence::FIRST),
            DeliverPolicy::All
            | DeliverPolicy::Last
            | DeliverPolicy::LastPerInstrument
            | DeliverPolicy::New
            | DeliverPolicy::ByStartTime(_) => Sequence::FIRST,
        };
        // What comes behind the end is new, also where the last of each instrument was wanted.
        let shortened = self.initial_through > head;
        self.initial_through = self.initial_through.min(head);
        self.changed |= shortened;
        let to = head.next().max(earliest);
        if self.next <= to {
            return shortened;
        }
        let from = self.next;
        self.next = to;
        self.first = self.first.min(to);
        for sequence in self.pending.select(|sequence, _| sequence >= to) {
            self.settle(sequence);
        }
        self.parked_changed |= !self.parked.split_off(&to).is_empty();
        self.notices.forget_from(to);
        // Other events come at those positions now, and are new; but which were delivered of the old ones is not known,
        // so all of them stay marked.
        self.uncertain_through = self.uncertain_through.max(from.previous());
        self.reserved_through = self.reserved_through.max(self.uncertain_through);
        self.recorded_next = to;
        self.changed = true;
        self.advise(now, Advisory::PulledBack { from, to });
        true
    }

    // --- telling ---

    /// The next thing a member has to hear of before further events.
    pub fn tell(&mut self, member: MemberId) -> Option<Advisory> {
        let told = self.notices.tell()?;
        self.changed |= matches!(told, Advisory::Lost { .. });
        if let Some(member) = self.members.get_mut(member) {
            member.tell(&told);
        }
        Some(told)
    }

    fn advise(&mut self, now: Duration, advisory: Advisory) {
        self.notices.advise(self.wall(now), advisory);
    }

    fn wall(&self, now: Duration) -> AcceptedTime {
        AcceptedTime(self.wall_origin.get().saturating_add(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// Says what is wrong inside, for tests.
    #[cfg(test)]
    pub(crate) fn check(&self) -> Result<(), String> {
        for (sequence, pending) in self.pending.iter() {
            if sequence >= self.next || sequence < self.first {
                return Err(format!("{sequence} is pending outside {}..{}", self.first, self.next));
            }
            if let Place::Out { until, .. } = pending.place
                && until < self.quiet_until
            {
                return Err(format!("{sequence} runs out at {until:?}, before {:?}", self.quiet_until));
            }
            if self.parked.contains_key(&sequence) {
                return Err(format!("{sequence} is pending and parked"));
            }
        }
        self.pending.check()
    }
}
