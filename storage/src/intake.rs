//! How fast new events are taken in, and why not faster: for whoever has to tell it while the store works.

use std::fmt;
use std::sync::Arc;

use crate::ingest::Ingest;
use crate::pressure::{Pressure, PressureReason};

/// Asks a store how its intake is. Clones ask the same one; it may outlive the store, and tells its last state then.
#[derive(Clone)]
pub struct IntakeGauge {
    ingest: Arc<Ingest>,
}

/// How intake is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intake {
    /// How much of the time no events are taken, in thousandths. 1000: none are, for now or (`failed`) until the store is
    /// opened again.
    pub slowed_permille: u32,
    /// Why, as one word: `none`, `memtables`, `indexing`, `compaction`, `no_space` or `failed`.
    pub reason: &'static str,
    /// Why, for people; empty at full speed.
    pub what: String,
    /// The numbers it follows from.
    pub pressure: Pressure,
}

impl IntakeGauge {
    pub(crate) fn new(ingest: Arc<Ingest>) -> Self {
        Self { ingest }
    }

    /// How it is now. Costs what a look at the list of memtables does.
    pub fn look(&self) -> Intake {
        let pressure = self.ingest.pressure();
        let refused = |reason, what| Intake { slowed_permille: 1000, reason, what, pressure };
        if let Some(failure) = self.ingest.flusher.failure() {
            return refused("failed", failure.to_string());
        }
        if let Some(what) = self.ingest.space.reason() {
            return refused("no_space", what);
        }
        let (slowed_permille, reason) = pressure.slow_down();
        let what = if reason == PressureReason::None { String::new() } else { reason.to_string() };
        Intake { slowed_permille, reason: reason.word(), what, pressure }
    }
}

impl fmt::Debug for IntakeGauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IntakeGauge").field(&self.look()).finish()
    }
}
