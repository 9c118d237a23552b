//! Waiting while the disk is full, for commands that write a tape themselves: who waits is told why, and can end it.
//!
//! A node waits for room for as long as it takes, which is right for one that serves. At a terminal somebody sits in front of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use matchtape_storage::wal::SpaceProblem;

/// How often somebody who waits looks at the disk and at the wish to stop.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

/// Somebody who waits for a node in this process.
pub(crate) struct Waiting<'a> {
    stop: &'a AtomicBool,
    notice: Box<dyn FnMut(&str) + 'a>,
    /// How long the disk may be full before anybody is told.
    pub(crate) patience: Duration,
    full_since: Option<Instant>,
    told: bool,
}

impl<'a> Waiting<'a> {
    /// Tells `notice`, until `stop` is set.
    pub(crate) fn new(stop: &'a AtomicBool, notice: impl FnMut(&str) + 'a) -> Self {
        let patience = Duration::from_secs(1);
        Self { stop, notice: Box::new(notice), patience, full_since: None, told: false }
    }

    /// Asked each [`LOOK`] without progress: whether to give up, for the disk is full and an end is wanted.
    pub(crate) fn gives_up(&mut self, problem: &SpaceProblem) -> bool {
        let Some(reason) = problem.reason() else {
            if std::mem::take(&mut self.told) {
                (self.notice)("there is room again");
            }
            self.full_since = None;
            return false;
        };
        let since = *self.full_since.get_or_insert_with(Instant::now);
        if !self.told && since.elapsed() >= self.patience {
            self.told = true;
            (self.notice)(&format!(
                "the disk is full: waiting for room; Ctrl-C ends with what is durable ({reason})"
            ));
        }
        // Relaxed: a flag that nothing else depends on.
        self.stop.load(Ordering::Relaxed)
    }
}
