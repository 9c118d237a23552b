//! What a bus may use: every iceoryx2 setting with its reason, and the shared memory that follows from them.
//!
//! iceoryx2's own defaults (a buffer of 2 samples, slices of one element, retry until delivered) are wrong for
//! a tape, so nothing here is left to them.

use std::time::Duration;

use matchtape_schemas::limits::FRAME_BYTES_MAX;

use crate::block::BLOCK_BYTES;
use crate::error::BusError;
use crate::header::SampleHeader;

/// Where Linux keeps POSIX shared memory.
pub(crate) const SHARED_MEMORY_DIR: &str = "/dev/shm";

/// One sample is loaned at a time, and sent at once.
pub(crate) const LOANED_SAMPLES: usize = 1;

/// What a bus publisher may have [prepared](crate::BusPublisher::prepare) beside that: the frames of a commit that is about
/// latency. A larger one is about throughput.
pub(crate) const PREPARED_SAMPLES: usize = 4;

/// No history: it would die with the publisher. Whatever a subscriber missed is read from the log.
pub(crate) const HISTORY_SAMPLES: usize = 0;

const PAGE_BYTES: usize = 4096;

/// How an idle subscriber learns that there is something to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeUp {
    /// It looks again and again: the lowest latency, one core per subscriber. The publisher does nothing.
    BusyPoll,
    /// It sleeps on a socket and the publisher wakes it, after the sample has gone out. Per publish that is two atomic
    /// operations for a listener that is awake or already woken, and one non-blocking `sendto` for one that sleeps (some
    /// microseconds on a virtual machine, once per [`crate::SubscriberOptions::spin`] at most). It never waits: a full
    /// socket, a stopped or a killed listener are skipped.
    Event,
}

/// Sizes and manners of one bus. The publisher's values create the service; subscribers adopt what they find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusConfig {
    /// Readers at the same time. Each costs `buffer_samples + borrowed_samples` chunks of memory, used or not.
    pub subscribers_max: usize,
    /// Further subscriber slots. A killed subscriber keeps its slot until [`crate::Liveness`] has seen it, and
    /// its replacement must not be turned away in between.
    pub subscribers_spare: usize,
    /// Further publisher slots, for the same reason. A second LIVING publisher is refused all the same.
    pub publishers_spare: usize,
    /// Frames a subscriber may be behind before the oldest is dropped for it. 64 frames are up to 4 MiB of events,
    /// some milliseconds at full rate: longer pauses are served better from the log than from memory.
    pub buffer_samples: usize,
    /// Frames a subscriber may hold at the same time. Holding one more ends in [`BusError::TooManyHeld`].
    pub borrowed_samples: usize,
    /// The largest frame, a multiple of 16. Smaller frames save memory in proportion.
    pub frame_bytes_max: usize,
    /// How often the owner of the publisher should call [`crate::BusPublisher::heartbeat`] when it has nothing to
    /// send. Late subscribers are connected, and lost tails noticed, within one interval.
    pub heartbeat_interval: Duration,
    /// Whether subscribers may sleep.
    pub wake_up: WakeUp,
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            // A gateway, market data, risk, surveillance, and as many again; each costs 4.6 MiB per service.
            subscribers_max: 8,
            subscribers_spare: 2,
            publishers_spare: 1,
            buffer_samples: 64,
            // What a reader works on, and a few that it has given to threads of its own; whoever needs more copies.
            borrowed_samples: 8,
            frame_bytes_max: FRAME_BYTES_MAX,
            heartbeat_interval: Duration::from_millis(100),
            wake_up: WakeUp::Event,
        }
    }
}

/// Shared memory of one service (`live` and `speculative` are two).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRequired {
    /// Bytes of one sample: both headers and the largest frame.
    pub chunk_bytes: usize,
    /// Samples that can be in use at once: `subscribers x (buffer + borrowed) + history + loaned`.
    pub chunks: usize,
    /// The publisher's data segment.
    pub data_segment_bytes: usize,
    /// Queues to every subscriber, port lists, wake-up counters.
    pub management_bytes: usize,
}

impl MemoryRequired {
    /// What one publisher needs. While subscribers outlive a killed publisher, its segment stays mapped beside the
    /// new one: a restart under live subscribers needs this much again until they have let go.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.data_segment_bytes + self.management_bytes
    }
}

impl BusConfig {
    pub(crate) fn subscriber_slots(&self) -> usize {
        self.subscribers_max + self.subscribers_spare
    }

    pub(crate) fn publisher_slots(&self) -> usize {
        1 + self.publishers_spare
    }

    /// Every publisher and subscriber brings a node of its own.
    pub(crate) fn node_slots(&self) -> usize {
        self.subscriber_slots() + self.publisher_slots()
    }

    /// Refuses values that could not work, naming the field.
    pub fn check(&self) -> Result<(), BusError> {
        let at_least_one = [
            ("subscribers_max", self.subscribers_max),
            ("buffer_samples", self.buffer_samples),
            ("borrowed_samples", self.borrowed_samples),
        ];
        for (field, value) in at_least_one {
            if value == 0 {
                return Err(BusError::BadConfig { field, reason: "must be at least 1".into() });
            }
        }
        let bytes = self.frame_bytes_max;
        if bytes == 0 || bytes > FRAME_BYTES_MAX || !bytes.is_multiple_of(BLOCK_BYTES) {
            return Err(BusError::BadConfig {
                field: "frame_bytes_max",
                reason: format!(
                    "must be a multiple of {BLOCK_BYTES} from {BLOCK_BYTES} to {FRAME_BYTES_MAX}, is {bytes}"
                ),
            });
        }
        if self.heartbeat_interval.is_zero() {
            return Err(BusError::BadConfig {
                field: "heartbeat_interval",
                reason: "must not be zero".into(),
            });
        }
        Ok(())
    }

    /// The shared memory one service of this bus takes.
    #[must_use]
    pub fn memory_required(&self) -> MemoryRequired {
        memory_required(&Queues {
            subscriber_slots: self.subscriber_slots(),
            buffer_samples: self.buffer_samples,
            borrowed_samples: self.borrowed_samples,
            loaned_samples: LOANED_SAMPLES + PREPARED_SAMPLES,
            sample_bytes: size_of::<SampleHeader>() + self.frame_bytes_max,
            node_slots: self.node_slots(),
        })
    }

    /// Whether `available_bytes` of shared memory are enough. More than there is would not fail at start but kill
    /// the process with SIGBUS at some later write.
    pub fn check_memory(&self, available_bytes: u64) -> Result<(), BusError> {
        let required = self.memory_required();
        if required.total_bytes() as u64 <= available_bytes {
            return Ok(());
        }
        Err(BusError::NotEnoughSharedMemory {
            required,
            available_bytes,
            subscriber_slots: self.subscriber_slots(),
        })
    }
}

/// What decides the memory of one publisher.
pub(crate) struct Queues {
    pub subscriber_slots: usize,
    pub buffer_samples: usize,
    pub borrowed_samples: usize,
    pub loaned_samples: usize,
    /// Our header and the largest payload.
    pub sample_bytes: usize,
    pub node_slots: usize,
}

/// The memory of one publisher and of its service.
pub(crate) fn memory_required(queues: &Queues) -> MemoryRequired {
    let (slots, buffer, borrowed) = (queues.subscriber_slots, queues.buffer_samples, queues.borrowed_samples);
    let chunks = slots * (buffer + borrowed) + HISTORY_SAMPLES + queues.loaned_samples;
    let chunk_bytes = (ICEORYX_HEADER_BYTES + queues.sample_bytes).next_multiple_of(BLOCK_BYTES);
    // The segment is preceded by the allocator's free list: a few bytes per chunk.
    let data_segment_bytes = (chunks * (chunk_bytes + 16) + PAGE_BYTES).next_multiple_of(PAGE_BYTES);
    // A connection: one queue each way (8 bytes an entry) and one byte per chunk that says who has it.
    let connection_bytes =
        (8 * (2 * buffer + borrowed + 2) + chunks + PAGE_BYTES).next_multiple_of(PAGE_BYTES);
    let per_node_bytes = 2 * PAGE_BYTES;
    let management_bytes = slots * connection_bytes + queues.node_slots * per_node_bytes;
    MemoryRequired { chunk_bytes, chunks, data_segment_bytes, management_bytes }
}

/// Room for iceoryx2's own sample header (80 bytes in 0.10) with some to spare.
const ICEORYX_HEADER_BYTES: usize = 96;

/// What attaching may take at most: a node, its ports, a connection. iceoryx2 does not reserve these pages, so where they
/// are missing the first write to one kills the process that makes it, which may be the one at the other end. So each port
/// that is opened, of a publisher too, wants so much free.
pub const ATTACH_BYTES: u64 = 1 << 20;

/// Free bytes of shared memory on this machine; an error where this process may make none.
pub fn shared_memory_available() -> Result<u64, BusError> {
    // iceoryx2 calls a folder that it may not write to an internal error.
    rustix::fs::access(SHARED_MEMORY_DIR, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .map_err(|errno| BusError::SharedMemoryUnusable { cause: errno.into() })?;
    let stat = shared_memory()?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Bytes of shared memory on this machine, in use or not.
pub fn shared_memory_total() -> Result<u64, BusError> {
    let stat = shared_memory()?;
    Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
}

fn shared_memory() -> Result<rustix::fs::StatVfs, BusError> {
    rustix::fs::statvfs(SHARED_MEMORY_DIR)
        .map_err(|errno| BusError::SharedMemoryUnusable { cause: errno.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn the_budget_is_the_documented_formula() {
        let config = BusConfig { subscribers_max: 8, subscribers_spare: 0, ..BusConfig::default() };
        let required = config.memory_required();
        assert_eq!(required.chunks, 8 * (64 + 8) + 1 + 4);
        let total = required.total_bytes() as u64;
        assert!((37_700_000..40_000_000).contains(&total), "{total}");
    }

    #[test]
    fn one_default_service_fits_the_64_mb_of_a_container_and_two_do_not() {
        let config = BusConfig::default();
        config.check_memory(64 * MIB).expect("the live service alone fits");
        let left = 64 * MIB - config.memory_required().total_bytes() as u64;
        let error = config.check_memory(left).expect_err("the speculative service beside it does not");
        let text = error.to_string();
        assert!(
            matches!(error, BusError::NotEnoughSharedMemory { available_bytes, .. } if available_bytes == left)
        );
        for word in ["/dev/shm", "buffer_samples", "--shm-size"] {
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        let bad = [
            (BusConfig { subscribers_max: 0, ..BusConfig::default() }, "subscribers_max"),
            (BusConfig { buffer_samples: 0, ..BusConfig::default() }, "buffer_samples"),
            (BusConfig { borrowed_samples: 0, ..BusConfig::default() }, "borrowed_samples"),
            (BusConfig { frame_bytes_max: 100, ..BusConfig::default() }, "frame_bytes_max"),
            (BusConfig { frame_bytes_max: 1 << 20, ..BusConfig::default() }, "frame_bytes_max"),
            (BusConfig { heartbeat_interval: Duration::ZERO, ..BusConfig::default() }, "heartbeat_interval"),
        ];
        for (config, name) in bad {
            match config.check() {
                Err(BusError::BadConfig { field, .. }) => assert_eq!(field, name),
                other => panic!("{name}: {other:?}"),
            }
        }
        BusConfig::default().check().expect("the defaults work");
    }
}
