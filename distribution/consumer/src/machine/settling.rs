//! What becomes of deliveries: acknowledged, refused, given up, parked, unparked.

use std::time::Duration;

use matchtape_schemas::Sequence;

use super::{AckError, Acked, Machine};
use crate::advisory::{Advisory, ParkReason};
use crate::definition::AckPolicy;
use crate::pending::{Pending, Place};
use crate::state::{PARKED_MAX, PENDING_MAX, Parked};

impl Machine {
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
    pub(super) fn was_delivered(&self, sequence: Sequence) -> Result<bool, AckError> {
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
    pub(super) fn settle(&mut self, sequence: Sequence) -> Pending {
        self.changed = true;
        self.pending.remove(sequence)
    }

    /// Takes it out of what is parked.
    pub(super) fn settle_parked(&mut self, sequence: Sequence) -> Option<Parked> {
        let parked = self.parked.remove(&sequence)?;
        (self.changed, self.parked_changed) = (true, true);
        // There is room for what is stuck.
        self.quiet_until = Duration::ZERO;
        Some(parked)
    }

    /// A delivery came to nothing: it is repeated, or parked when it was the last one allowed.
    pub(super) fn fail(&mut self, sequence: Sequence, reason: ParkReason, due: Duration, now: Duration) {
        self.pending.wait(sequence, due);
        if self.pending.get(sequence).is_some_and(|pending| self.is_exhausted(pending)) {
            self.park(sequence, reason, now);
        } else {
            self.quiet_until = self.quiet_until.min(due);
        }
    }

    /// It was delivered as often as allowed.
    pub(super) fn is_exhausted(&self, pending: &Pending) -> bool {
        self.definition.max_deliver.is_some_and(|limit| pending.attempts() >= limit)
    }

    // --- parked ---

    /// Sets aside what waits.
    pub(super) fn park(&mut self, sequence: Sequence, reason: ParkReason, now: Duration) {
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

    pub(super) fn listed(&self, only: Option<Sequence>) -> Vec<Parked> {
        self.parked.values().filter(|one| only.is_none_or(|only| only == one.sequence)).copied().collect()
    }

    pub(super) fn unparked(&mut self, count: u32, now: Duration) {
        if count == 0 {
            return;
        }
        self.changed = true;
        self.parked_changed = true;
        self.unstick(now);
    }

    /// Parks what is stuck, as far as there is room.
    pub(super) fn unstick(&mut self, now: Duration) {
        let stuck = self.pending.waiting().filter_map(|(sequence, pending)| match pending.place {
            Place::Stuck { reason } => Some((sequence, reason)),
            Place::Out { .. } | Place::Waiting { .. } => None,
        });
        let stuck: Vec<_> = stuck.take(PARKED_MAX.saturating_sub(self.parked.len())).collect();
        for (sequence, reason) in stuck {
            self.park(sequence, reason, now);
        }
    }
}
