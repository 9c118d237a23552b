//! What of a consumer survives, and what it may deliver before that is recorded.

use std::time::Duration;

use matchtape_schemas::{Epoch, Sequence};

use super::Machine;
use crate::advisory::Advisory;
use crate::state::{PendingState, State};

/// Positions that may be delivered beyond what is recorded, at least. The model's tapes are short: they come to the end of
/// it often.
const RESERVE_MIN: u64 = if cfg!(test) { 16 } else { 4096 };
/// And at most.
const RESERVE_MAX: u64 = 1 << 20;

impl Machine {
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

    pub(super) fn record_reserving(
        &mut self,
        epoch: Epoch,
        reserved_through: Sequence,
        now: Duration,
    ) -> (State, bool) {
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
    pub(super) fn lost(&self) -> Vec<(Sequence, Sequence)> {
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
}
