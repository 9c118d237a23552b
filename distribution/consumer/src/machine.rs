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

use std::collections::BTreeMap;
use std::time::Duration;

use matchtape_schemas::{AcceptedTime, Epoch, InstrumentId, Sequence};
use rustc_hash::FxHashSet;

use crate::advisory::{Advisory, ParkReason};
use crate::definition::{AckPolicy, Definition, DefinitionError, DeliverPolicy, MemberName};
use crate::members::{AttachError, Member, MemberId, Members};
use crate::notices::Notices;
use crate::pending::{Pending, PendingSet, Place};
use crate::state::{PARKED_MAX, PENDING_MAX, Parked, PendingState, State};

/// Positions that may be delivered beyond what is recorded, at least. The model's tapes are short: they come to the end of
/// it often.
const RESERVE_MIN: u64 = if cfg!(test) { 16 } else { 4096 };
/// And at most.
const RESERVE_MAX: u64 = 1 << 20;

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

    // --- acknowledging ---

    /// The event was dealt with; under [`AckPolicy::All`] everything up to it was, except what was unparked and has not
    /// been delivered since: nobody can mean that. Whoever says so: a member that was given up may still have done it, also
    /// what is parked by now.
    pub fn ack(&mut self, sequence: Sequence) -> Result<Acked, AckError> {
        let delivered = self.was_delivered(sequence)?;
        let mut settled = u32::from(self.settle_parked(sequence).is_some());
        if self.definition.ack == AckPolicy::All {
            // Under this policy nothing is held before its first delivery, so everything here was delivered, if only
            // before it was unparked.
            let meant = |other: Sequence, pending: &Pending| other == sequence || !pending.is_unparked();
            let through = self.pending.select_through(sequence, meant);
            settled += through.len() as u32;
            for one in through {
                self.settle(one);
            }
        } else if delivered {
            self.settle(sequence);
            settled = 1;
        }
        Ok(Acked { settled })
    }

    /// The event could not be dealt with: it is delivered again after `delay`.
    pub fn nak(&mut self, sequence: Sequence, delay: Duration, now: Duration) -> Result<Acked, AckError> {
        if !self.was_delivered(sequence)? {
            return Ok(Acked { settled: 0 });
        }
        match self.pending.get(sequence).map(|pending| pending.place) {
            Some(Place::Out { .. }) => {
                self.fail(sequence, ParkReason::Refused, now.saturating_add(delay), now);
                Ok(Acked { settled: 1 })
            }
            Some(Place::Waiting { .. } | Place::Stuck { .. }) | None => Err(AckError::Waiting { sequence }),
        }
    }

    /// It is being worked on: its time begins anew.
    pub fn in_progress(&mut self, sequence: Sequence, now: Duration) -> Result<Acked, AckError> {
        if !self.was_delivered(sequence)? {
            return Ok(Acked { settled: 0 });
        }
        let attempts = self.pending.get(sequence).map_or(1, Pending::attempts);
        let until = now.saturating_add(self.definition.wait_after(attempts));
        if !self.pending.extend(sequence, until) {
            return Err(AckError::Waiting { sequence });
        }
        // An earlier time may stay in `quiet_until`: it is looked at for nothing, once.
        self.quiet_until = self.quiet_until.min(until);
        Ok(Acked { settled: 1 })
    }

    /// It is given up: never delivered again.
    pub fn term(&mut self, sequence: Sequence, now: Duration) -> Result<Acked, AckError> {
        let deliveries = if self.was_delivered(sequence)? {
            self.settle(sequence).deliveries
        } else if let Some(parked) = self.settle_parked(sequence) {
            parked.deliveries
        } else {
            return Ok(Acked { settled: 0 });
        };
        self.advise(now, Advisory::Terminated { sequence, deliveries });
        Ok(Acked { settled: 1 })
    }

    /// `true`: it was delivered and is pending. `false`: it is behind the cursor and not pending.
    fn was_delivered(&self, sequence: Sequence) -> Result<bool, AckError> {
        if self.definition.ack == AckPolicy::None {
            return Err(AckError::Policy);
        }
        if sequence >= self.next {
            return Err(AckError::Beyond { sequence, next: self.next });
        }
        match self.pending.get(sequence) {
            Some(pending) if pending.deliveries > 0 => Ok(true),
            Some(_) => Err(AckError::NeverDelivered { sequence }),
            None if sequence < self.first => Err(AckError::NeverDelivered { sequence }),
            None => Ok(false),
        }
    }

    /// Takes it out of what is pending.
    fn settle(&mut self, sequence: Sequence) -> Pending {
        self.changed = true;
        self.pending.remove(sequence)
    }

    /// Takes it out of what is parked.
    fn settle_parked(&mut self, sequence: Sequence) -> Option<Parked> {
        let parked = self.parked.remove(&sequence)?;
        (self.changed, self.parked_changed) = (true, true);
        // There is room for what is stuck.
        self.quiet_until = Duration::ZERO;
        Some(parked)
    }

    /// A delivery came to nothing: it is repeated, or parked when it was the last one allowed.
    fn fail(&mut self, sequence: Sequence, reason: ParkReason, due: Duration, now: Duration) {
        self.pending.wait(sequence, due);
        if self.pending.get(sequence).is_some_and(|pending| self.is_exhausted(pending)) {
            self.park(sequence, reason, now);
        } else {
            self.quiet_until = self.quiet_until.min(due);
        }
    }

    /// It was delivered as often as allowed.
    fn is_exhausted(&self, pending: &Pending) -> bool {
        self.definition.max_deliver.is_some_and(|limit| pending.attempts() >= limit)
    }

    // --- parked ---

    /// Sets aside what waits.
    fn park(&mut self, sequence: Sequence, reason: ParkReason, now: Duration) {
        if self.parked.len() >= PARKED_MAX {
            self.pending.stick(sequence, reason);
            self.advise(now, Advisory::ParkedFull { sequence });
            return;
        }
        let pending = self.settle(sequence);
        let one = Parked {
            sequence,
            instrument: pending.instrument,
            deliveries: pending.deliveries,
            at: self.wall(now),
            reason,
        };
        self.parked.insert(sequence, one);
        self.parked_changed = true;
        self.advise(now, Advisory::Parked { sequence, deliveries: pending.deliveries, reason });
    }

    /// Takes events back from those set aside, all or the one given, to be delivered again with a new allowance. Returns
    /// how many were; fewer than there are when no more can be pending.
    pub fn unpark(&mut self, only: Option<Sequence>, now: Duration) -> u32 {
        let mut count = 0;
        for one in self.listed(only) {
            if self.pending.len() >= PENDING_MAX {
                break;
            }
            self.parked.remove(&one.sequence);
            let pending = Pending {
                instrument: one.instrument,
                deliveries: one.deliveries,
                forgiven: one.deliveries,
                repeated: true,
                place: Place::Waiting { due: now },
            };
            self.pending.insert(one.sequence, pending);
            count += 1;
        }
        self.unparked(count, now);
        count
    }

    /// Gives events up that were set aside, all or the one given. Returns how many.
    pub fn discard(&mut self, only: Option<Sequence>, now: Duration) -> u32 {
        let listed = self.listed(only);
        for one in &listed {
            self.parked.remove(&one.sequence);
            self.advise(now, Advisory::Terminated { sequence: one.sequence, deliveries: one.deliveries });
        }
        self.unparked(listed.len() as u32, now);
        listed.len() as u32
    }

    fn listed(&self, only: Option<Sequence>) -> Vec<Parked> {
        self.parked.values().filter(|one| only.is_none_or(|only| only == one.sequence)).copied().collect()
    }

    fn unparked(&mut self, count: u32, now: Duration) {
        if count == 0 {
            return;
        }
        self.changed = true;
        self.parked_changed = true;
        self.unstick(now);
    }

    /// Parks what is stuck, as far as there is room.
    fn unstick(&mut self, now: Duration) {
        let stuck = self.pending.waiting().filter_map(|(sequence, pending)| match pending.place {
            Place::Stuck { reason } => Some((sequence, reason)),
            Place::Out { .. } | Place::Waiting { .. } => None,
        });
        let stuck: Vec<_> = stuck.take(PARKED_MAX.saturating_sub(self.parked.len())).collect();
        for (sequence, reason) in stuck {
            self.park(sequence, reason, now);
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

    // --- recording ---

    /// Whether there is something to record.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// The state to record, and how far positions may be delivered once it is durable, to be told to
    /// [`recorded`](Self::recorded). The parked events are to be recorded with it when the second is `true`.
    ///
    /// Until then no position beyond the smaller of the old and the new limit is delivered.
    pub fn record(&mut self, epoch: Epoch, now: Duration) -> (State, bool) {
        let moved = self.next.get() - self.recorded_next.get().min(self.next.get());
        let ahead = moved.saturating_mul(4).clamp(RESERVE_MIN, RESERVE_MAX);
        self.record_reserving(epoch, Sequence(self.next.get() - 1 + ahead), now)
    }

    /// The last state to record: nothing is delivered after it.
    pub fn record_last(&mut self, epoch: Epoch, now: Duration) -> (State, bool) {
        self.record_reserving(epoch, self.next.previous(), now)
    }

    fn record_reserving(&mut self, epoch: Epoch, reserved_through: Sequence, now: Duration) -> (State, bool) {
        // What an earlier machine may have delivered stays possible until it has been passed.
        let reserved_through = reserved_through.max(self.uncertain_through);
        self.reserved_through = self.reserved_through.min(reserved_through);
        self.recorded_next = self.next;
        self.changed = false;
        let pending = self.pending.iter().map(|(sequence, pending)| PendingState {
            sequence,
            instrument: pending.instrument,
            deliveries: pending.deliveries,
            forgiven: pending.forgiven,
            // Rounded up: never early.
            due_in_ms: {
                let left = self.due_without_member(pending, now).saturating_sub(now);
                u32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
            },
        });
        let state = State {
            epoch,
            recorded_at: self.wall(now),
            first: self.first,
            initial_through: self.initial_through,
            next: self.next,
            delivered: self.delivered,
            reserved_through,
            pending: pending.collect(),
            lost: self.lost(),
        };
        (state, std::mem::take(&mut self.parked_changed))
    }

    /// Lost positions that no member is known to have been told of.
    fn lost(&self) -> Vec<(Sequence, Sequence)> {
        let told = self.members.iter().flat_map(|member| &member.told).map(|(_, advisory)| advisory.clone());
        let told: Vec<Advisory> = told.filter(|one| matches!(one, Advisory::Lost { .. })).collect();
        if told.is_empty() {
            return self.notices.lost().to_vec();
        }
        let mut notices = self.notices.clone();
        notices.tell_again(told);
        notices.lost().to_vec()
    }

    /// A record is durable: deliveries may go as far as it says.
    pub fn recorded(&mut self, reserved_through: Sequence) {
        self.reserved_through = self.reserved_through.max(reserved_through);
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
