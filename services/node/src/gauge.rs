//! How a node is while it works, for whoever has to tell it.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use matchtape_bus::IngressCounters;
use matchtape_schemas::publish::WaitError;
use matchtape_storage::{Finding, SYSTEM, ScrubMarks, StoreGauge};
use parking_lot::Mutex;

use crate::latency::StageLatency;
use crate::parts::EndedPart;
use crate::publisher::{Intake, wall_clock};

/// Asks a node how it is. Clones ask the same one; it may outlive the node, and tells its last state then.
#[derive(Clone)]
pub struct NodeGauge {
    pub(crate) intake: Arc<Intake>,
    pub(crate) latency: Arc<StageLatency>,
    pub(crate) store: StoreGauge,
    /// The store of the durable consumers, once there is one.
    pub(crate) system: Arc<OnceLock<StoreGauge>>,
    pub(crate) ingress: Option<Arc<Mutex<IngressCounters>>>,
}

impl NodeGauge {
    /// Why the node takes no events any more, if it does not; `Poisoned`: the log, indexing, flushing or a thread failed.
    pub fn ended(&self) -> Option<WaitError> {
        self.intake.stages.ended()
    }

    /// The parts beside the tape that have ended early, for good: buses, the way in and the recording of consumers.
    pub fn ended_parts(&self) -> Vec<EndedPart> {
        self.intake.ended_parts.list()
    }

    /// The store below.
    pub fn store(&self) -> &StoreGauge {
        &self.store
    }

    /// What the scrub has done and found in the store and, below `system/`, in that of the durable consumers. Rounds are the
    /// store's.
    pub fn scrub(&self) -> ScrubMarks {
        let mut marks = self.store.scrub();
        if let Some(system) = self.system.get() {
            let of_system = system.scrub();
            marks.files += of_system.files;
            marks.bytes += of_system.bytes;
            marks.unread_files += of_system.unread_files;
            marks.damaged.extend(of_system.damaged.into_iter().map(|finding| {
                let file = Path::new(SYSTEM).join(&finding.file).display().to_string();
                Finding { file, ..finding }
            }));
        }
        marks
    }

    /// How long events take to become durable and visible.
    pub fn latency(&self) -> &StageLatency {
        &self.latency
    }

    /// Groups that were refused because an event's time was too far ahead of this machine's clock.
    pub fn event_times_refused(&self) -> u64 {
        self.intake.event_times_refused.load(Ordering::Relaxed)
    }

    /// How far this machine's clock is behind the tape's last accepted time: more than nothing after it was set back.
    /// Events are accepted at that last time until the clock has passed it again.
    pub fn clock_behind(&self) -> Duration {
        let accepted = self.intake.accepted_time.load(Ordering::Relaxed);
        Duration::from_nanos(accepted.saturating_sub(wall_clock().get()).max(0).unsigned_abs())
    }

    /// What has come in from producers in other processes, as of the last heartbeat; `None`: they cannot.
    pub fn ingress(&self) -> Option<IngressCounters> {
        self.ingress.as_ref().map(|counters| *counters.lock())
    }
}
