//! One consumer, as a pure state machine.
//!
//! ```text
//!                    take                      ack, term
//!   the tape ──────────────────▶ delivered ──────────────────▶ settled
//!      │                          ▲    │ nak, ack_wait over, member gone
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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use matchtape_schemas::{AcceptedTime, Epoch, InstrumentId, Sequence};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::advisory::{Advisory, ParkReason};
use crate::definition::{AckPolicy, Definition, DefinitionError, DeliverPolicy, MemberName};
use crate::state::{LOST_MAX, PARKED_MAX, PENDING_MAX, Parked, PendingState, State};

/// Advisories kept for whoever asks later.
const ADVISORIES_KEPT: usize = 64;
/// Positions that may be delivered beyond what is recorded, at least. The model's tapes are short: they come to the end of
/// it often.
const RESERVE_MIN: u64 = if cfg!(test) { 16 } else { 4096 };
/// And at most.
const RESERVE_MAX: u64 = 1 << 20;

/// One attachment of a member: attaching again, under the same name too, gives another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

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

/// Why a member was not attached.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// As many as may are.
    #[error("{attached} of {members_max} members are attached ({})", names.join(", "))]
    Full {
        /// Attached now.
        attached: usize,
        /// As defined.
        members_max: u16,
        /// Who they are.
        names: Vec<String>,
    },
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// With a member until then.
    Out { until: Duration, member: MemberId },
    /// To be delivered, not before then.
    Waiting { due: Duration },
    /// To be parked as soon as there is room.
    Stuck { reason: ParkReason },
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    instrument: InstrumentId,
    deliveries: u32,
    forgiven: u32,
    /// It was, or may have been, delivered before it was taken up by this machine.
    repeated: bool,
    place: Place,
}

impl Pending {
    fn is_with(&self, id: MemberId) -> bool {
        matches!(self.place, Place::Out { member, .. } if member == id)
    }

    /// It was taken back from what is parked, and not delivered since.
    fn is_unparked(&self) -> bool {
        self.deliveries > 0 && self.deliveries == self.forgiven
    }
}

/// What is pending of one instrument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bound {
    pending: u32,
    waiting: u32,
    /// Who has what is out; nobody when nothing is.
    member: Option<MemberId>,
}

impl Bound {
    /// To be called when something came back: an instrument of which nothing is out is anybody's.
    fn release(&mut self) {
        if self.pending == self.waiting {
            self.member = None;
        }
    }
}

#[derive(Clone, Debug)]
struct Member {
    id: MemberId,
    name: MemberName,
    heard: Duration,
    /// Given up when it is not heard of; a member in the same process is not.
    expires: bool,
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
    pending: BTreeMap<Sequence, Pending>,
    /// Those of `pending` that are not out.
    waiting: BTreeSet<Sequence>,
    instruments: FxHashMap<InstrumentId, Bound>,
    parked: BTreeMap<Sequence, Parked>,
    lost: Vec<(Sequence, Sequence)>,
    members: Vec<Member>,
    members_ever: u64,
    /// Nothing happens by time alone before this.
    quiet_until: Duration,
    wall_origin: AcceptedTime,
    told: VecDeque<Advisory>,
    kept: VecDeque<(AcceptedTime, Advisory)>,
    changed: bool,
    parked_changed: bool,
}

impl Machine {
    /// A consumer as it was recorded. What was pending is delivered again. `wall_origin` is the wall clock at the time
    /// zero of `now`.
    pub fn new(
        definition: Definition,
        state: &State,
        parked: Vec<Parked>,
        wall_origin: AcceptedTime,
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
            pending: BTreeMap::new(),
            waiting: BTreeSet::new(),
            instruments: FxHashMap::default(),
            parked: parked.into_iter().map(|one| (one.sequence, one)).collect(),
            lost: state.lost.clone(),
            members: Vec::new(),
            members_ever: 0,
            quiet_until: Duration::MAX,
            wall_origin,
            told: VecDeque::new(),
            kept: VecDeque::new(),
            changed: false,
            parked_changed: false,
        };
        for one in &state.pending {
            let pending = Pending {
                instrument: one.instrument,
                deliveries: one.deliveries,
                forgiven: one.forgiven,
                repeated: one.deliveries > 0 || one.sequence <= machine.uncertain_through,
                place: Place::Waiting { due: Duration::ZERO },
            };
            machine.insert(one.sequence, pending);
        }
        machine
    }

    /// What was asked for.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Becomes what is asked for now, if an existing consumer may. Deliveries that are out keep their time.
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
        self.pending.first_key_value().map_or(self.next, |(sequence, _)| *sequence).previous()
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
            pending: self.pending.values().filter(|pending| pending.is_with(member.id)).count() as u32,
        });
        MachineInfo {
            first: self.first,
            next: self.next,
            floor: self.floor(),
            delivered: self.delivered,
            out: (self.pending.len() - self.waiting.len()) as u32,
            waiting: self.waiting.len() as u32,
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
        self.kept.iter()
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
        if let Some(earlier) = self.members.iter().find(|member| member.name == *name).map(|member| member.id)
        {
            self.detach(earlier, now);
        }
        if self.members.len() >= usize::from(self.definition.members_max) {
            return Err(AttachError::Full {
                attached: self.members.len(),
                members_max: self.definition.members_max,
                names: self.members.iter().map(|member| member.name.to_string()).collect(),
            });
        }
        self.members_ever += 1;
        let id = MemberId(self.members_ever);
        self.members.push(Member { id, name: name.clone(), heard: now, expires });
        if expires {
            self.quiet_until = self.quiet_until.min(now.saturating_add(self.definition.member_timeout));
        }
        Ok(id)
    }

    /// Takes a member off; what it had goes to others, at once.
    pub fn detach(&mut self, member: MemberId, now: Duration) {
        let Some(place) = self.members.iter().position(|other| other.id == member) else { return };
        let name = self.members.swap_remove(place).name.to_string();
        let held: Vec<Sequence> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.is_with(member))
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in &held {
            self.wait(*sequence, now);
        }
        if !held.is_empty() {
            self.advise(now, Advisory::MemberLost { member: name, pending: held.len() as u32 });
        }
    }

    /// A sign of life; `false`: it is not attached (any more).
    pub fn heard(&mut self, member: MemberId, now: Duration) -> bool {
        let found = self.members.iter_mut().find(|other| other.id == member);
        found.map(|member| member.heard = now).is_some()
    }

    // --- time ---

    /// What time alone does: deliveries run out, members are given up. `true`: something may be deliverable now that was
    /// not before.
    pub fn tick(&mut self, now: Duration) -> bool {
        if now < self.quiet_until {
            return false;
        }
        let timeout = self.definition.member_timeout;
        let gone = |member: &Member| member.expires && member.heard.saturating_add(timeout) <= now;
        let gone: Vec<MemberId> =
            self.members.iter().filter(|member| gone(member)).map(|member| member.id).collect();
        for member in gone {
            self.detach(member, now);
        }
        let over = |place: Place| matches!(place, Place::Out { until, .. } if until <= now);
        let over: Vec<Sequence> = self
            .pending
            .iter()
            .filter(|(_, pending)| over(pending.place))
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in over {
            self.fail(sequence, ParkReason::Expired, now, now);
        }
        let silent = |member: &Member| {
            if member.expires { member.heard.saturating_add(timeout) } else { Duration::MAX }
        };
        let later = |pending: &Pending| match pending.place {
            Place::Out { until, .. } => until,
            Place::Waiting { due } if due > now => due,
            Place::Waiting { .. } | Place::Stuck { .. } => Duration::MAX,
        };
        let times = self.members.iter().map(silent).chain(self.pending.values().map(later));
        self.quiet_until = times.min().unwrap_or(Duration::MAX);
        true
    }

    /// When [`tick`](Self::tick) should be called next, if nothing else happens.
    pub fn quiet_until(&self) -> Option<Duration> {
        Some(self.quiet_until).filter(|time| *time != Duration::MAX)
    }

    // --- delivering ---

    /// Delivers to `member` what waits for it, in order, at most `max`. Call before asking the tape for more.
    pub fn redeliver(&mut self, member: MemberId, now: Duration, max: usize, out: &mut Vec<Delivered>) {
        if self.waiting.is_empty() || max == 0 {
            return;
        }
        let mut chosen = Vec::new();
        let mut blocked: FxHashSet<InstrumentId> = FxHashSet::default();
        for sequence in &self.waiting {
            let pending = &self.pending[sequence];
            let bound = self.instruments[&pending.instrument].member;
            let mine = bound.is_none_or(|bound| bound == member);
            let due = matches!(pending.place, Place::Waiting { due } if due <= now);
            if mine && due && !blocked.contains(&pending.instrument) {
                chosen.push(*sequence);
                if chosen.len() == max {
                    break;
                }
            } else if self.definition.ack == AckPolicy::All {
                break;
            } else {
                blocked.insert(pending.instrument);
            }
        }
        for sequence in chosen {
            out.push(self.deliver(sequence, member, now));
        }
    }

    /// What the tape should be asked for, once [`redeliver`](Self::redeliver) has given what there was.
    pub fn want(&self) -> Want {
        if self.pending.len() >= self.definition.max_ack_pending as usize {
            Want::Full
        } else if self.definition.ack == AckPolicy::All && !self.waiting.is_empty() {
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
        let bound = self.instruments.get(&instrument).copied().unwrap_or_default();
        let pending = Pending {
            instrument,
            deliveries: 0,
            forgiven: 0,
            repeated,
            place: Place::Waiting { due: Duration::ZERO },
        };
        if bound.waiting > 0 || bound.member.is_some_and(|bound| bound != member) {
            self.insert(sequence, pending);
            return None;
        }
        let until = now.saturating_add(self.definition.wait_after(1));
        self.quiet_until = self.quiet_until.min(until);
        self.delivered += 1;
        let placed = Pending { deliveries: 1, place: Place::Out { until, member }, ..pending };
        self.insert(sequence, placed);
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

    fn deliver(&mut self, sequence: Sequence, member: MemberId, now: Duration) -> Delivered {
        let pending = self.pending.get_mut(&sequence).expect("it waits");
        self.waiting.remove(&sequence);
        pending.deliveries += 1;
        let until = now.saturating_add(self.definition.wait_after(pending.deliveries - pending.forgiven));
        pending.place = Place::Out { until, member };
        let (count, redelivered) = (pending.deliveries, pending.repeated || pending.deliveries > 1);
        let bound = self.instruments.get_mut(&pending.instrument).expect("it has one pending");
        bound.waiting -= 1;
        bound.member = Some(member);
        self.quiet_until = self.quiet_until.min(until);
        self.delivered += 1;
        self.changed = true;
        Delivered { sequence, consumer_sequence: self.delivered, delivery_count: count, redelivered }
    }

    // --- acknowledging ---

    /// The event was dealt with; under [`AckPolicy::All`] everything up to it was, except what was unparked and has not
    /// been delivered since: nobody can mean that. Whoever says so: a member that was given up may still have done it.
    pub fn ack(&mut self, sequence: Sequence) -> Result<Acked, AckError> {
        let delivered = self.was_delivered(sequence)?;
        let mut settled = 0;
        if self.definition.ack == AckPolicy::All {
            // Under this policy nothing is held before its first delivery, so everything here was delivered, if only
            // before it was unparked.
            let meant =
                |(other, pending): &(&Sequence, &Pending)| **other == sequence || !pending.is_unparked();
            let through = self.pending.range(..=sequence).filter(meant);
            let through: Vec<Sequence> = through.map(|(sequence, _)| *sequence).collect();
            settled = through.len() as u32;
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
        match self.pending[&sequence].place {
            Place::Out { .. } => self.fail(sequence, ParkReason::Refused, now.saturating_add(delay), now),
            Place::Waiting { .. } | Place::Stuck { .. } => return Err(AckError::Waiting { sequence }),
        }
        Ok(Acked { settled: 1 })
    }

    /// It is being worked on: its time begins anew.
    pub fn in_progress(&mut self, sequence: Sequence, now: Duration) -> Result<Acked, AckError> {
        if !self.was_delivered(sequence)? {
            return Ok(Acked { settled: 0 });
        }
        let pending = self.pending.get_mut(&sequence).expect("it was delivered and is pending");
        let Place::Out { until, .. } = &mut pending.place else { return Err(AckError::Waiting { sequence }) };
        *until = now.saturating_add(self.definition.wait_after(pending.deliveries - pending.forgiven));
        // An earlier time may stay in `quiet_until`: it is looked at for nothing, once.
        self.quiet_until = self.quiet_until.min(*until);
        Ok(Acked { settled: 1 })
    }

    /// It is given up: never delivered again.
    pub fn term(&mut self, sequence: Sequence, now: Duration) -> Result<Acked, AckError> {
        if !self.was_delivered(sequence)? {
            return Ok(Acked { settled: 0 });
        }
        let deliveries = self.pending[&sequence].deliveries;
        self.settle(sequence);
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
        match self.pending.get(&sequence) {
            Some(pending) if pending.deliveries > 0 => Ok(true),
            Some(_) => Err(AckError::NeverDelivered { sequence }),
            None if sequence < self.first => Err(AckError::NeverDelivered { sequence }),
            None => Ok(false),
        }
    }

    fn insert(&mut self, sequence: Sequence, pending: Pending) {
        let bound = self.instruments.entry(pending.instrument).or_default();
        bound.pending += 1;
        match pending.place {
            Place::Out { member, .. } => bound.member = Some(member),
            Place::Waiting { .. } | Place::Stuck { .. } => {
                bound.waiting += 1;
                self.waiting.insert(sequence);
            }
        }
        let before = self.pending.insert(sequence, pending);
        debug_assert!(before.is_none(), "event {sequence} is pending twice");
    }

    /// Takes it out of what is pending.
    fn settle(&mut self, sequence: Sequence) -> Pending {
        let pending = self.pending.remove(&sequence).expect("only what is pending is settled");
        let waited = !matches!(pending.place, Place::Out { .. });
        if waited {
            self.waiting.remove(&sequence);
        }
        let bound = self.instruments.get_mut(&pending.instrument).expect("it has one pending");
        bound.pending -= 1;
        bound.waiting -= u32::from(waited);
        bound.release();
        if bound.pending == 0 {
            self.instruments.remove(&pending.instrument);
        }
        self.changed = true;
        pending
    }

    /// A delivery that is out waits from now on.
    fn wait(&mut self, sequence: Sequence, due: Duration) {
        let pending = self.pending.get_mut(&sequence).expect("only what is pending waits");
        debug_assert!(matches!(pending.place, Place::Out { .. }));
        pending.place = Place::Waiting { due };
        self.waiting.insert(sequence);
        let bound = self.instruments.get_mut(&pending.instrument).expect("it has one pending");
        bound.waiting += 1;
        bound.release();
        self.quiet_until = self.quiet_until.min(due);
    }

    /// A delivery came to nothing: it is repeated, or parked when it was the last one allowed.
    fn fail(&mut self, sequence: Sequence, reason: ParkReason, due: Duration, now: Duration) {
        self.wait(sequence, due);
        let pending = &self.pending[&sequence];
        let attempts = pending.deliveries - pending.forgiven;
        if self.definition.max_deliver.is_some_and(|limit| attempts >= limit) {
            self.park(sequence, reason, now);
        }
    }

    // --- parked ---

    /// Sets aside what waits.
    fn park(&mut self, sequence: Sequence, reason: ParkReason, now: Duration) {
        if self.parked.len() >= PARKED_MAX {
            let pending = self.pending.get_mut(&sequence).expect("it waits");
            pending.place = Place::Stuck { reason };
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
            self.insert(one.sequence, pending);
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

    /// There may be room for what is stuck.
    fn unparked(&mut self, count: u32, now: Duration) {
        if count == 0 {
            return;
        }
        self.changed = true;
        self.parked_changed = true;
        let stuck = self.waiting.iter().filter_map(|sequence| match self.pending[sequence].place {
            Place::Stuck { reason } => Some((*sequence, reason)),
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
            self.lose(first, last, now);
        }
    }

    /// An event that was to be delivered is no longer kept.
    pub fn lose_pending(&mut self, sequence: Sequence, now: Duration) {
        if self.pending.contains_key(&sequence) {
            self.settle(sequence);
            self.lose(sequence, sequence, now);
        }
    }

    fn lose(&mut self, first: Sequence, last: Sequence, now: Duration) {
        let at = self.lost.partition_point(|(other, _)| *other < first);
        self.lost.insert(at, (first, last));
        // Neighbours are one range; beyond the limit, the two with the smallest hole between them are.
        let mut place = 0;
        while place + 1 < self.lost.len() {
            if self.lost[place].1.next() >= self.lost[place + 1].0 {
                self.join_lost(place);
            } else {
                place += 1;
            }
        }
        while self.lost.len() > LOST_MAX {
            let hole = |place: &usize| self.lost[place + 1].0.get() - self.lost[*place].1.get();
            let smallest = (0..self.lost.len() - 1).min_by_key(hole).expect("there are at least two");
            self.join_lost(smallest);
        }
        self.keep(now, Advisory::Lost { first, last });
    }

    fn join_lost(&mut self, place: usize) {
        let (_, last) = self.lost.remove(place + 1);
        self.lost[place].1 = self.lost[place].1.max(last);
    }

    /// The tape ends at `head`: a record beyond it was made on a tape whose end was lost. Returns whether it was pulled
    /// back.
    pub fn pull_back(&mut self, head: Sequence, now: Duration) -> bool {
        let earliest = match self.definition.deliver {
            DeliverPolicy::ByStartSequence(sequence) => sequence.max(Sequence::FIRST),
            DeliverPolicy::All
            | DeliverPolicy::Last
            | DeliverPolicy::LastPerInstrument
            | DeliverPolicy::New
            | DeliverPolicy::ByStartTime(_) => Sequence::FIRST,
        };
        let to = head.next().max(earliest);
        if self.next <= to {
            return false;
        }
        let from = self.next;
        self.next = to;
        self.first = self.first.min(to);
        let beyond: Vec<Sequence> = self.pending.range(to..).map(|(sequence, _)| *sequence).collect();
        for sequence in beyond {
            self.settle(sequence);
        }
        self.parked_changed |= !self.parked.split_off(&to).is_empty();
        self.lost.retain_mut(|(first, last)| {
            *last = (*last).min(to.previous());
            first <= last
        });
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
    pub fn tell(&mut self) -> Option<Advisory> {
        if let Some((first, last)) = (!self.lost.is_empty()).then(|| self.lost.remove(0)) {
            self.changed = true;
            return Some(Advisory::Lost { first, last });
        }
        self.told.pop_front()
    }

    fn advise(&mut self, now: Duration, advisory: Advisory) {
        if advisory.is_told_to_members() {
            // What is parked can be listed, and what is not told is still in `kept`; a consumer nobody reads does not grow.
            if self.told.len() == ADVISORIES_KEPT {
                self.told.pop_front();
            }
            self.told.push_back(advisory.clone());
        }
        self.keep(now, advisory);
    }

    fn keep(&mut self, now: Duration, advisory: Advisory) {
        if self.kept.len() == ADVISORIES_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((self.wall(now), advisory));
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
    pub fn record(&mut self, epoch: Epoch) -> (State, bool) {
        let moved = self.next.get() - self.recorded_next.get().min(self.next.get());
        let ahead = moved.saturating_mul(4).clamp(RESERVE_MIN, RESERVE_MAX);
        self.record_reserving(epoch, Sequence(self.next.get() - 1 + ahead))
    }

    /// The last state to record: nothing is delivered after it.
    pub fn record_last(&mut self, epoch: Epoch) -> (State, bool) {
        self.record_reserving(epoch, self.next.previous())
    }

    fn record_reserving(&mut self, epoch: Epoch, reserved_through: Sequence) -> (State, bool) {
        // What an earlier machine may have delivered stays possible until it has been passed.
        let reserved_through = reserved_through.max(self.uncertain_through);
        self.reserved_through = self.reserved_through.min(reserved_through);
        self.recorded_next = self.next;
        self.changed = false;
        let pending = self.pending.iter().map(|(sequence, pending)| PendingState {
            sequence: *sequence,
            instrument: pending.instrument,
            deliveries: pending.deliveries,
            forgiven: pending.forgiven,
        });
        let state = State {
            epoch,
            first: self.first,
            initial_through: self.initial_through,
            next: self.next,
            delivered: self.delivered,
            reserved_through,
            pending: pending.collect(),
            lost: self.lost.clone(),
        };
        (state, std::mem::take(&mut self.parked_changed))
    }

    /// A record is durable: deliveries may go as far as it says.
    pub fn recorded(&mut self, reserved_through: Sequence) {
        self.reserved_through = self.reserved_through.max(reserved_through);
    }

    /// Says what is wrong inside, for tests.
    #[cfg(test)]
    pub(crate) fn check(&self) -> Result<(), String> {
        let wrong = |what: String| Err(what);
        let mut instruments: FxHashMap<InstrumentId, Bound> = FxHashMap::default();
        for (sequence, pending) in &self.pending {
            if *sequence >= self.next || *sequence < self.first {
                return wrong(format!("{sequence} is pending outside {}..{}", self.first, self.next));
            }
            let waits = !matches!(pending.place, Place::Out { .. });
            if waits != self.waiting.contains(sequence) {
                return wrong(format!("{sequence}: waiting is {waits}"));
            }
            let bound = instruments.entry(pending.instrument).or_default();
            bound.pending += 1;
            bound.waiting += u32::from(waits);
            if let Place::Out { until, member } = pending.place {
                if until < self.quiet_until {
                    return wrong(format!("{sequence} runs out at {until:?}, before {:?}", self.quiet_until));
                }
                if bound.member.is_some_and(|other| other != member) {
                    return wrong(format!("instrument {} is with two members", pending.instrument));
                }
                bound.member = Some(member);
            }
            if self.parked.contains_key(sequence) {
                return wrong(format!("{sequence} is pending and parked"));
            }
        }
        if self.waiting.len() > self.pending.len() || instruments.len() != self.instruments.len() {
            return wrong("more is waiting, or bound, than is pending".into());
        }
        for (instrument, expected) in instruments {
            let found = self.instruments.get(&instrument).copied().unwrap_or_default();
            if found != expected {
                return wrong(format!("instrument {instrument}: {found:?}, counted {expected:?}"));
            }
        }
        Ok(())
    }
}
