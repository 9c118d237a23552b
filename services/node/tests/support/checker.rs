//! The judge of one reader (`matchtape_subscription::check`), with what is known here of the events that have to come: every
//! producer's are dense, and byte for byte the script's.
#![allow(dead_code, reason = "each program uses its own part")]

use std::fmt::Write;

use matchtape_schemas::{Epoch, EventFlags, EventRef, ProducerSequence, Sequence, Stage};
pub use matchtape_subscription::check::{Counts, Promise, Shown};
use matchtape_subscription::{Update, check};

use super::script::{self, PRODUCERS};

/// The script that the producers follow.
pub struct Script;

impl check::Expected for Script {
    fn wrong(
        &mut self,
        event: &EventRef<'_>,
        before: Option<ProducerSequence>,
        everything: bool,
    ) -> Option<String> {
        let (sequence, producer) = (event.sequence(), event.header().producer);
        let number = event.header().producer_sequence.get();
        if !PRODUCERS.contains(&producer) {
            return Some(format!("event {sequence} is of producer {producer}"));
        }
        if let Some(last) = before.filter(|last| everything && number != last.get() + 1) {
            return Some(format!("event {sequence}: producer {producer}'s {number} after {last}"));
        }
        if number == 0 {
            return Some(format!("event {sequence}: number zero"));
        }
        let mut written = script::bytes(producer, number);
        written[6] |= event.flags().bits() & EventFlags::LATE.bits();
        (written.as_slice() != event.bytes())
            .then(|| format!("altered: event {sequence} is not producer {producer}'s {number}"))
    }
}

/// The judge, and what may damage an event on its way to it.
pub struct Checker(check::Checker<Script>);

impl std::ops::Deref for Checker {
    type Target = check::Checker<Script>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Checker {
    /// Of a reader that was to begin at `first`.
    pub fn new(promise: Promise, first: Sequence) -> Self {
        Self(check::Checker::new(promise, first, Script))
    }

    /// What the subscription says next. `corrupt` may change the events on the way, as a broken bus would.
    pub fn update(&mut self, update: &Update<'_>, corrupt: &mut Corruption) {
        if corrupt.is_none() {
            self.0.update(update);
        } else {
            self.0.update_through(update, |event, stage, show| corrupt.pass(event, stage, show));
        }
    }

    /// One event, as it was shown.
    pub fn event(&mut self, shown: Shown<'_>) {
        self.0.event(shown);
    }

    /// Everything in one line of JSON.
    pub fn verdict(&self) -> String {
        let Counts {
            joined,
            left,
            lagging,
            caught_up,
            heartbeats,
            alarms,
            retractions,
            retracted,
            restarts,
            batches,
            empty_windows,
            late,
            accepted,
            compared: _,
            below_retention: _,
        } = self.counts();
        let mut line = String::new();
        let verdict = if self.is_clean() { "ok" } else { "violated" };
        let (first, next, events, digest) = (self.first(), self.next(), self.events(), self.digest().0);
        write!(
            line,
            "{{\"verdict\":\"{verdict}\",\"first\":{first},\"next\":{next},\"events\":{events},\"digest\":{digest},\
             \"batches\":{batches},\"batch_digest\":{},\"empty_windows\":{empty_windows},\"late\":{late},\
             \"joined\":{joined},\"left\":{left},\"lagging\":{lagging},\"caught_up\":{caught_up},\
             \"heartbeats\":{heartbeats},\"alarms\":{alarms},\"restarts\":{restarts},\"accepted\":{accepted},\
             \"retractions\":{retractions},\"retracted\":{retracted},\"violated\":{},\"violations\":{:?}}}",
            self.batch_digest().0,
            self.violated(),
            self.violations()
        )
        .expect("strings take what is written to them");
        line
    }
}

/// What a broken bus would do to one event: the checker has to notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    Drop,
    Duplicate,
    Alter,
    /// It and the next change places.
    Reorder,
    /// As if it were of the term before.
    OldTerm,
}

/// One event is damaged on its way into the checker, or none.
#[derive(Clone, Debug, Default)]
pub struct Corruption {
    what: Option<(Damage, Sequence)>,
    kept_back: Option<Vec<u8>>,
}

impl Corruption {
    pub const NONE: Self = Self { what: None, kept_back: None };

    pub fn of(damage: Damage, at: Sequence) -> Self {
        Self { what: Some((damage, at)), kept_back: None }
    }

    fn is_none(&self) -> bool {
        self.what.is_none()
    }

    fn pass(&mut self, event: &EventRef<'_>, stage: Stage, show: &mut dyn FnMut(Shown<'_>)) {
        let (sequence, epoch, bytes) = (event.sequence(), event.epoch(), event.bytes());
        let shown = Shown { sequence, epoch, stage, bytes };
        let damage = self.what.filter(|(_, at)| *at == sequence).map(|(damage, _)| damage);
        match damage {
            None => show(shown),
            Some(Damage::Drop) => {}
            Some(Damage::Duplicate) => {
                show(shown);
                show(shown);
            }
            Some(Damage::Alter) => {
                let mut bytes = bytes.to_vec();
                // The lowest bit of the first payload byte: still an event, but another one.
                bytes[32] ^= 1;
                show(Shown { bytes: &bytes, ..shown });
            }
            Some(Damage::Reorder) => self.kept_back = Some(bytes.to_vec()),
            Some(Damage::OldTerm) => show(Shown { epoch: Epoch(epoch.get() - 1), ..shown }),
        }
        if damage.is_none()
            && let Some(bytes) = self.kept_back.take()
        {
            show(Shown { sequence: sequence.previous(), bytes: &bytes, ..shown });
        }
    }
}
