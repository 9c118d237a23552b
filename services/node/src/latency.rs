//! How long events take from being framed to each stage, and when the last one reached it.
//!
//! Recorded once per commit by the log's thread, for the commit's oldest event, which waited longest.

use std::sync::atomic::{AtomicI64, Ordering};

use hdrhistogram::Histogram;
use matchtape_schemas::{AcceptedTime, Stage};
use parking_lot::Mutex;

/// Longest latency told apart: a minute.
const NS_MAX: u64 = 60_000_000_000;

/// Latencies of one node since it was opened.
pub struct StageLatency {
    durable: Mutex<Histogram<u64>>,
    visible: Mutex<Histogram<u64>>,
    durable_at_ns: AtomicI64,
}

impl StageLatency {
    pub(crate) fn new() -> Self {
        let histogram = || {
            let histogram = Histogram::new_with_bounds(1, NS_MAX, 2).expect("constant bounds");
            Mutex::new(histogram)
        };
        Self { durable: histogram(), visible: histogram(), durable_at_ns: AtomicI64::new(0) }
    }

    pub(crate) fn record(&self, stage: Stage, accepted: AcceptedTime, now: AcceptedTime) {
        let histogram = match stage {
            Stage::Durable => &self.durable,
            Stage::Visible => &self.visible,
            Stage::Accepted | Stage::Written | Stage::Replicated => return,
        };
        histogram.lock().saturating_record(now.get().saturating_sub(accepted.get()).max(1) as u64);
    }

    pub(crate) fn set_durable_at(&self, now: AcceptedTime) {
        // Release: pairs with the Acquire in `durable_at`.
        self.durable_at_ns.store(now.get(), Ordering::Release);
    }

    /// From being framed to the stage, in nanoseconds; `durable` and `visible` are recorded.
    pub fn histogram(&self, stage: Stage) -> Option<Histogram<u64>> {
        match stage {
            Stage::Durable => Some(self.durable.lock().clone()),
            Stage::Visible => Some(self.visible.lock().clone()),
            Stage::Accepted | Stage::Written | Stage::Replicated => None,
        }
    }

    /// When the last commit became durable, by the sequencer's clock; zero before the first.
    pub fn durable_at(&self) -> AcceptedTime {
        AcceptedTime(self.durable_at_ns.load(Ordering::Acquire))
    }
}
