//! A subscription that is judged as it goes, and the log that it is held against.

use std::time::Duration;

use matchtape_schemas::{Sequence, Stage};

use super::checker::Checker;
use super::promise::Expected;
use crate::history::{FrameHandle, History, HistoryError};
use crate::subscription::{Subscription, SubscriptionError};
use crate::update::Update;

/// So many bytes of events wait for the log to prove them. With more, nothing is taken in until it has proven some: a reader
/// that stands still lags, and is served from the log. What the log contradicts is an exception: what comes may take it back.
const HELD_BYTES_MAX: usize = 64 << 20;
/// How often the log is looked at while events come.
const COMPARE_EVERY: Duration = Duration::from_millis(20);
/// Between two looks at a log that has to prove something.
const PAUSE: Duration = Duration::from_millis(2);

/// See the module.
#[derive(Debug)]
pub struct Watch<S, H, E = ()> {
    subscription: S,
    log: H,
    checker: Checker<E>,
    compared_at: Duration,
}

impl<S: Subscription, H: History, E: Expected> Watch<S, H, E> {
    /// `log` is read for the comparison alone: not the one that `subscription` reads.
    pub fn new(subscription: S, log: H, checker: Checker<E>) -> Self {
        let compared_at = subscription.now();
        Self { subscription, log, checker: checker.held_against_a_log(), compared_at }
    }

    /// What was found so far.
    pub fn checker(&self) -> &Checker<E> {
        &self.checker
    }

    /// All that was found.
    pub fn into_checker(self) -> Checker<E> {
        self.checker
    }

    /// Takes the next update in, if one comes within `timeout`, tells of it, and compares what the log has come to prove.
    pub fn step(
        &mut self,
        timeout: Duration,
        tell: &mut dyn FnMut(&Update<'_>),
    ) -> Result<(), SubscriptionError> {
        if self.checker.held_bytes() >= HELD_BYTES_MAX {
            self.compare()?;
            if self.checker.held_bytes() >= HELD_BYTES_MAX && !self.checker.is_contradicted() {
                std::thread::park_timeout(PAUSE);
                return Ok(());
            }
        }
        let update = self.subscription.next(timeout)?;
        let idle = update.is_none();
        if let Some(update) = update {
            self.checker.update(&update);
            tell(&update);
        }
        if idle || self.subscription.now().saturating_sub(self.compared_at) >= COMPARE_EVERY {
            self.compare()?;
        }
        Ok(())
    }

    /// Where what was shown ends, or what the log proves to be visible, whichever is further.
    pub fn end_by_now(&self) -> Sequence {
        self.checker.next().max(self.log.visible().next())
    }

    /// Takes in and compares all before `until`, for as long as `patience` at most: the log proves an event by what it has behind
    /// it, which comes a moment later. `false` where some of it is left; of what was merely accepted, something that is not on the log
    /// and was not taken back is a violation.
    pub fn settle(
        &mut self,
        until: Sequence,
        patience: Duration,
        tell: &mut dyn FnMut(&Update<'_>),
    ) -> Result<bool, SubscriptionError> {
        let end = self.subscription.now().saturating_add(patience);
        loop {
            self.compare()?;
            let shown = self.checker.next() >= until;
            if shown && self.checker.uncompared().is_none_or(|first| first >= until) {
                return Ok(true);
            }
            if self.subscription.now() >= end {
                self.checker.unsettled();
                return Ok(false);
            }
            // What was merely accepted may be taken back.
            match self.checker.promise().stage {
                Stage::Accepted => self.step(PAUSE, tell)?,
                _ if !shown => self.step(PAUSE, tell)?,
                _ => std::thread::park_timeout(PAUSE),
            }
        }
    }

    fn compare(&mut self) -> Result<(), HistoryError> {
        self.compared_at = self.subscription.now();
        while let Some(from) = self.checker.uncompared() {
            let handle = match self.log.frame_at(from) {
                Ok(Some(handle)) => handle,
                Ok(None) => break,
                Err(HistoryError::BelowRetention { first_kept, .. }) if first_kept > from => {
                    self.checker.below_retention(first_kept);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let frame = handle.frame();
            for event in frame.events().filter(|event| event.sequence() >= from) {
                if self.checker.uncompared() != Some(event.sequence()) {
                    break;
                }
                if !self.checker.logged(&event) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
