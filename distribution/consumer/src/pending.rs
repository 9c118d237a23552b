//! What a consumer has come to and not settled: by position, by instrument, and which of it waits.
//!
//! What always holds: all deliveries of an instrument that are out are with one member; an instrument of which nothing is
//! out is anybody's; one of which nothing is pending takes no room.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use matchtape_schemas::{InstrumentId, Sequence};
use rustc_hash::FxHashMap;

use crate::advisory::ParkReason;
use crate::members::MemberId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// With a member until then, which was given it with this answer.
    Out { until: Duration, member: MemberId, answer: u64 },
    /// To be delivered, not before then.
    Waiting { due: Duration },
    /// To be parked as soon as there is room.
    Stuck { reason: ParkReason },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) instrument: InstrumentId,
    pub(crate) deliveries: u32,
    /// Deliveries that do not count against `max_deliver`: those before it was taken back from what is parked, and those
    /// that never arrived.
    pub(crate) forgiven: u32,
    /// It was, or may have been, delivered before it was taken up by this machine.
    pub(crate) repeated: bool,
    pub(crate) place: Place,
}

impl Pending {
    pub(crate) fn is_with(&self, id: MemberId) -> bool {
        matches!(self.place, Place::Out { member, .. } if member == id)
    }

    /// Deliveries that count against `max_deliver`.
    pub(crate) fn attempts(&self) -> u32 {
        self.deliveries - self.forgiven
    }

    /// It was taken back from what is parked, or never arrived, and was not delivered since.
    pub(crate) fn is_unparked(&self) -> bool {
        self.deliveries > 0 && self.attempts() == 0
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

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct PendingSet {
    by_sequence: BTreeMap<Sequence, Pending>,
    /// Those that are not out.
    waiting: BTreeSet<Sequence>,
    instruments: FxHashMap<InstrumentId, Bound>,
}

impl PendingSet {
    pub(crate) fn len(&self) -> usize {
        self.by_sequence.len()
    }

    pub(crate) fn get(&self, sequence: Sequence) -> Option<&Pending> {
        self.by_sequence.get(&sequence)
    }

    pub(crate) fn first(&self) -> Option<Sequence> {
        self.by_sequence.first_key_value().map(|(sequence, _)| *sequence)
    }

    /// All of it, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Sequence, &Pending)> {
        self.by_sequence.iter().map(|(sequence, pending)| (*sequence, pending))
    }

    /// What `wanted` selects, in order.
    pub(crate) fn select(&self, wanted: impl Fn(Sequence, &Pending) -> bool) -> Vec<Sequence> {
        self.iter().filter(|(sequence, one)| wanted(*sequence, one)).map(|(sequence, _)| sequence).collect()
    }

    /// The part through a position that `wanted` selects, in order.
    pub(crate) fn select_through(
        &self,
        through: Sequence,
        wanted: impl Fn(Sequence, &Pending) -> bool,
    ) -> Vec<Sequence> {
        let part = self.by_sequence.range(..=through);
        part.filter(|(sequence, one)| wanted(**sequence, one)).map(|(sequence, _)| *sequence).collect()
    }

    pub(crate) fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    /// What is not out, in order.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (Sequence, &Pending)> {
        self.waiting.iter().map(|sequence| (*sequence, &self.by_sequence[sequence]))
    }

    /// Whether something of the instrument is out with another member.
    pub(crate) fn is_with_another(&self, instrument: InstrumentId, member: MemberId) -> bool {
        let bound = self.instruments.get(&instrument).and_then(|bound| bound.member);
        bound.is_some_and(|bound| bound != member)
    }

    /// Whether the next event of the instrument may go to the member: nothing of it waits, or is with another.
    pub(crate) fn is_free_for(&self, instrument: InstrumentId, member: MemberId) -> bool {
        let Some(bound) = self.instruments.get(&instrument) else { return true };
        bound.waiting == 0 && bound.member.is_none_or(|bound| bound == member)
    }

    pub(crate) fn insert(&mut self, sequence: Sequence, pending: Pending) {
        let bound = self.instruments.entry(pending.instrument).or_default();
        bound.pending += 1;
        match pending.place {
            Place::Out { member, .. } => bound.member = Some(member),
            Place::Waiting { .. } | Place::Stuck { .. } => {
                bound.waiting += 1;
                self.waiting.insert(sequence);
            }
        }
        let before = self.by_sequence.insert(sequence, pending);
        debug_assert!(before.is_none(), "event {sequence} is pending twice");
    }

    /// Takes out what is pending.
    pub(crate) fn remove(&mut self, sequence: Sequence) -> Pending {
        let pending = self.by_sequence.remove(&sequence).expect("only what is pending is settled");
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
        pending
    }

    /// What is out waits from now on.
    pub(crate) fn wait(&mut self, sequence: Sequence, due: Duration) {
        let pending = self.by_sequence.get_mut(&sequence).expect("only what is pending waits");
        debug_assert!(matches!(pending.place, Place::Out { .. }));
        pending.place = Place::Waiting { due };
        self.waiting.insert(sequence);
        let bound = self.instruments.get_mut(&pending.instrument).expect("it has one pending");
        bound.waiting += 1;
        bound.release();
    }

    /// What waits is out from now on, once more delivered.
    pub(crate) fn send(
        &mut self,
        sequence: Sequence,
        member: MemberId,
        answer: u64,
        until: impl Fn(&Pending) -> Duration,
    ) -> Pending {
        let pending = self.by_sequence.get_mut(&sequence).expect("it waits");
        let waited = self.waiting.remove(&sequence);
        debug_assert!(waited);
        pending.deliveries += 1;
        pending.place = Place::Out { until: until(pending), member, answer };
        let bound = self.instruments.get_mut(&pending.instrument).expect("it has one pending");
        bound.waiting -= 1;
        bound.member = Some(member);
        *pending
    }

    /// What is out never arrived: it waits, and that delivery does not count.
    pub(crate) fn take_back(&mut self, sequence: Sequence, due: Duration) {
        self.wait(sequence, due);
        let pending = self.by_sequence.get_mut(&sequence).expect("it waits");
        pending.forgiven += 1;
    }

    /// What waits is to be parked as soon as there is room.
    pub(crate) fn stick(&mut self, sequence: Sequence, reason: ParkReason) {
        let pending = self.by_sequence.get_mut(&sequence).expect("it waits");
        pending.place = Place::Stuck { reason };
    }

    /// Gives what is out another time; `false`: it is not out.
    pub(crate) fn extend(&mut self, sequence: Sequence, until: Duration) -> bool {
        match self.by_sequence.get_mut(&sequence).map(|pending| &mut pending.place) {
            Some(Place::Out { until: old, .. }) => {
                *old = until;
                true
            }
            Some(Place::Waiting { .. } | Place::Stuck { .. }) | None => false,
        }
    }

    /// Says what is wrong inside, for tests.
    #[cfg(test)]
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut instruments: FxHashMap<InstrumentId, Bound> = FxHashMap::default();
        for (sequence, pending) in &self.by_sequence {
            let waits = !matches!(pending.place, Place::Out { .. });
            if waits != self.waiting.contains(sequence) {
                return Err(format!("{sequence}: waiting is {waits}"));
            }
            let bound = instruments.entry(pending.instrument).or_default();
            bound.pending += 1;
            bound.waiting += u32::from(waits);
            if let Place::Out { member, .. } = pending.place {
                if bound.member.is_some_and(|other| other != member) {
                    return Err(format!("instrument {} is with two members", pending.instrument));
                }
                bound.member = Some(member);
            }
        }
        if self.waiting.len() > self.by_sequence.len() || instruments != self.instruments {
            return Err(format!("what is bound is {:?}, counted {instruments:?}", self.instruments));
        }
        Ok(())
    }
}
