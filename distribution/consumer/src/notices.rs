//! What happened to a consumer's events beside their delivery: what its members are still to be told, and what can be
//! looked up.
//!
//! Lost positions are kept, and recorded, until a member was told of them; of the rest the latest are.

use std::collections::VecDeque;

use matchtape_schemas::{AcceptedTime, Sequence};

use crate::advisory::Advisory;
use crate::state::LOST_MAX;

/// Advisories kept for whoever asks later.
const ADVISORIES_KEPT: usize = 64;

#[derive(Clone, Debug, Default)]
pub(crate) struct Notices {
    /// Positions no member was told of, in order.
    lost: Vec<(Sequence, Sequence)>,
    told: VecDeque<Advisory>,
    kept: VecDeque<(AcceptedTime, Advisory)>,
}

impl Notices {
    pub(crate) fn new(lost: Vec<(Sequence, Sequence)>) -> Self {
        Self { lost, ..Self::default() }
    }

    pub(crate) fn lost(&self) -> &[(Sequence, Sequence)] {
        &self.lost
    }

    /// The latest, with the time of each.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &(AcceptedTime, Advisory)> {
        self.kept.iter()
    }

    /// The next thing a member has to hear of. One of lost positions is then no longer to be recorded.
    pub(crate) fn tell(&mut self) -> Option<Advisory> {
        if self.lost.is_empty() {
            return self.told.pop_front();
        }
        let (first, last) = self.lost.remove(0);
        Some(Advisory::Lost { first, last })
    }

    /// What was told with an answer that never arrived is told again, before everything else.
    pub(crate) fn tell_again(&mut self, untold: Vec<Advisory>) {
        for advisory in untold.into_iter().rev() {
            match advisory {
                Advisory::Lost { first, last } => self.keep_lost(first, last),
                other => self.told.push_front(other),
            }
        }
    }

    pub(crate) fn advise(&mut self, at: AcceptedTime, advisory: Advisory) {
        if advisory.is_told_to_members() {
            // What is parked can be listed, and what is not told is still in `kept`; a consumer nobody reads does not grow.
            if self.told.len() == ADVISORIES_KEPT {
                self.told.pop_front();
            }
            self.told.push_back(advisory.clone());
        }
        self.keep(at, advisory);
    }

    pub(crate) fn lose(&mut self, at: AcceptedTime, first: Sequence, last: Sequence) {
        self.keep_lost(first, last);
        self.keep(at, Advisory::Lost { first, last });
    }

    fn keep_lost(&mut self, first: Sequence, last: Sequence) {
        let place = self.lost.partition_point(|(other, _)| *other < first);
        self.lost.insert(place, (first, last));
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
    }

    /// There is nothing from a position on: nothing of that was lost.
    pub(crate) fn forget_from(&mut self, from: Sequence) {
        self.lost.retain_mut(|(first, last)| {
            *last = (*last).min(from.previous());
            first <= last
        });
    }

    fn join_lost(&mut self, place: usize) {
        let (_, last) = self.lost.remove(place + 1);
        self.lost[place].1 = self.lost[place].1.max(last);
    }

    fn keep(&mut self, at: AcceptedTime, advisory: Advisory) {
        if self.kept.len() == ADVISORIES_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((at, advisory));
    }
}
