//! What the way in may use, and the shared memory that follows from it.

use std::time::Duration;

use matchtape_schemas::limits::{EVENT_BYTES_MAX, FRAME_BYTES_MAX};

use super::message::{ReplyHeader, RequestHeader, SessionState};
use crate::config::{LOANED_SAMPLES, MemoryRequired, Queues, WakeUp, memory_required};
use crate::error::BusError;

/// The largest sample of events: a frame's worth, so that every event fits and many share one.
pub(crate) const SAMPLE_BYTES_MAX: usize = FRAME_BYTES_MAX;
const _: () = assert!(EVENT_BYTES_MAX <= SAMPLE_BYTES_MAX);

/// The node looks at one request at a time; one more for the one being received.
pub(crate) const REQUESTS_BORROWED: usize = 2;
/// A producer that does not look loses the oldest reply; a later one says the same and more.
pub(crate) const REPLIES_BUFFER: usize = 16;
pub(crate) const REPLIES_BORROWED: usize = 2;
/// The node and its successor: a killed node keeps its place until it has been cleaned up behind.
pub(crate) const NODE_SLOTS: usize = 2;

/// The sizes of the way in, stated by the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressConfig {
    /// Producers in other processes at the same time.
    pub producers_max: usize,
    /// Further slots: a killed producer keeps its place until it has been cleaned up behind, and those that are turned
    /// away need one to be told so.
    pub producers_spare: usize,
    /// Samples (a group each, or as many as had to wait) a producer may be ahead of the node.
    pub queue_samples: usize,
    /// How often the node says how far it is when nothing else makes it.
    pub heartbeat_interval: Duration,
    /// Whether the node sleeps when nobody publishes, and producers when they wait.
    pub wake_up: WakeUp,
}

impl Default for IngressConfig {
    fn default() -> Self {
        Self {
            // Engines and their stand-ins; each costs 8 MiB.
            producers_max: 8,
            // So many may be killed, or turned away, between two looks at who is alive.
            producers_spare: 4,
            // As on the bus: some milliseconds at full rate. A node that stands still longer is `WouldBlock`.
            queue_samples: 64,
            heartbeat_interval: Duration::from_millis(100),
            wake_up: WakeUp::Event,
        }
    }
}

impl IngressConfig {
    pub(crate) fn producer_slots(&self) -> usize {
        self.producers_max + self.producers_spare
    }

    pub(crate) fn participant_slots(&self) -> usize {
        self.producer_slots() + NODE_SLOTS
    }

    /// The most sessions one reply lists.
    pub(crate) fn sessions_max(&self) -> usize {
        2 * self.producers_max + 1
    }

    /// Refuses values that could not work, naming the field.
    pub fn check(&self) -> Result<(), BusError> {
        let range = |field, value: usize, max: usize| {
            if (1..=max).contains(&value) {
                return Ok(());
            }
            Err(BusError::BadConfig { field, reason: format!("must be from 1 to {max}, is {value}") })
        };
        range("producers_max", self.producers_max, 256)?;
        range("producers_spare", self.producers_spare, 256)?;
        range("queue_samples", self.queue_samples, 4096)?;
        if self.heartbeat_interval.is_zero() {
            let reason = "must not be zero".into();
            return Err(BusError::BadConfig { field: "heartbeat_interval", reason });
        }
        Ok(())
    }

    /// The shared memory the node takes.
    #[must_use]
    pub fn node_memory(&self) -> MemoryRequired {
        memory_required(&Queues {
            subscriber_slots: self.producer_slots(),
            buffer_samples: REPLIES_BUFFER,
            borrowed_samples: REPLIES_BORROWED,
            loaned_samples: LOANED_SAMPLES,
            sample_bytes: size_of::<ReplyHeader>() + self.sessions_max() * size_of::<SessionState>(),
            node_slots: 2 * self.participant_slots(),
        })
    }

    /// The shared memory each producer takes.
    #[must_use]
    pub fn producer_memory(&self) -> MemoryRequired {
        producer_memory(self.queue_samples)
    }

    /// Whether `available_bytes` of shared memory are enough for the node's part.
    pub fn check_memory(&self, available_bytes: u64) -> Result<(), BusError> {
        enough("the ingress service", self.node_memory(), available_bytes)
    }
}

pub(crate) fn producer_memory(queue_samples: usize) -> MemoryRequired {
    memory_required(&Queues {
        subscriber_slots: NODE_SLOTS,
        buffer_samples: queue_samples,
        borrowed_samples: REQUESTS_BORROWED,
        loaned_samples: LOANED_SAMPLES,
        sample_bytes: size_of::<RequestHeader>() + SAMPLE_BYTES_MAX,
        node_slots: 2,
    })
}

/// More than there is would not fail at start but kill the process with SIGBUS at some later write.
pub(crate) fn enough(
    whose: &'static str,
    required: MemoryRequired,
    available_bytes: u64,
) -> Result<(), BusError> {
    let required_bytes = required.total_bytes() as u64;
    if required_bytes <= available_bytes {
        return Ok(());
    }
    Err(BusError::NoMemoryForIngress { whose, required_bytes, available_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        IngressConfig::default().check().expect("the defaults work");
        let bad = [
            (IngressConfig { producers_max: 0, ..IngressConfig::default() }, "producers_max"),
            (IngressConfig { producers_spare: 0, ..IngressConfig::default() }, "producers_spare"),
            (IngressConfig { queue_samples: 1 << 20, ..IngressConfig::default() }, "queue_samples"),
            (
                IngressConfig { heartbeat_interval: Duration::ZERO, ..IngressConfig::default() },
                "heartbeat_interval",
            ),
        ];
        for (config, name) in bad {
            match config.check() {
                Err(BusError::BadConfig { field, .. }) => assert_eq!(field, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_budget_is_told_before_memory_is_taken() {
        let config = IngressConfig::default();
        let required = config.node_memory().total_bytes() as u64;
        assert!(required < 2 << 20, "{required}");
        config.check_memory(required).expect("exactly enough");
        let error = config.check_memory(required - 1).expect_err("one byte too few").to_string();
        assert!(error.contains("/dev/shm") && error.contains("--shm-size"), "{error}");
        let producer = config.producer_memory().total_bytes();
        assert!((8_500_000..9_500_000).contains(&producer), "{producer}");
    }
}
