//! The system tape: what consumers have come to, as keyed state on a tape of its own beside the data.
//!
//! It is a node like any other (the same store, recovery and framing), small and without a bus, in the directory
//! `system/`. Only the last value of a key counts, so what its log has beyond a snapshot of all values is of no more use.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use matchtape_consumer::{Change, ConsumerStore, Kept, StoreFailure};
use matchtape_schemas::event::{
    Event, STATE_BYTES_MAX, STATE_KEY_BYTES_MAX, StateDeleted, StateError, StateSet,
};
use matchtape_schemas::publish::{PublishError, WaitError};
use matchtape_schemas::{
    BodyRef, EventRef, EventTime, InstrumentId, ProducerId, ProducerSequence, Projection, ProjectionError,
    Sequence, Stage,
};
use matchtape_storage::{Disk, DiskBelow, RetentionPolicy, SYSTEM, ScrubOptions, StoreGauge};

use super::ConsumersOptions;
use super::error::ConsumerError;
use crate::node::{Node, NodeError, NodeOptions};
use crate::publisher::{Publisher, wall_clock};

/// The one producer of it.
const PRODUCER: ProducerId = ProducerId(1);
/// How long what has to be recorded before the node opens may take.
const OPEN_WAIT: Duration = Duration::from_secs(10);
/// How soon it is looked whether there is room for it at all.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// The section's name in its snapshots.
const SECTION: &str = "system-state";

/// The values there are, folded from the tape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SystemState {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Projection for SystemState {
    fn name(&self) -> &'static str {
        SECTION
    }

    fn version(&self) -> u32 {
        1
    }

    fn apply(&mut self, event: &EventRef<'_>) {
        match event.body() {
            BodyRef::StateSet(set) => {
                self.values.insert(set.key.to_vec(), set.value.to_vec());
            }
            BodyRef::StateDeleted(deleted) => {
                self.values.remove(deleted.key());
            }
            _ => {}
        }
    }

    /// A count (u32), then by key: key bytes (u32), value bytes (u32), key, value; little-endian.
    fn save(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.values.len() as u32).to_le_bytes());
        for (key, value) in &self.values {
            out.extend_from_slice(&(key.len() as u32).to_le_bytes());
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(value);
        }
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), ProjectionError> {
        let mut at = 0;
        let wrong = |at, what: &str| ProjectionError { section: SECTION, at, what: what.to_owned() };
        let mut take = |length: usize| {
            let taken = section.get(at..).and_then(|rest| rest.get(..length));
            let taken = taken.ok_or_else(|| wrong(at, "it ends too early"))?;
            at += length;
            Ok::<_, ProjectionError>((taken, at))
        };
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("4 bytes")) as usize;
        let count = word(take(4)?.0);
        let mut values: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for _ in 0..count {
            let (key_bytes, value_bytes) = (word(take(4)?.0), word(take(4)?.0));
            if key_bytes == 0 || key_bytes > STATE_KEY_BYTES_MAX || value_bytes > STATE_BYTES_MAX {
                return Err(wrong(take(0)?.1, "a key or value of a length that none has"));
            }
            let (key, here) = take(key_bytes)?;
            if values.last_key_value().is_some_and(|(last, _)| last.as_slice() >= key) {
                return Err(wrong(here, "keys out of order"));
            }
            let value = take(value_bytes)?.0;
            values.insert(key.to_vec(), value.to_vec());
        }
        if take(0)?.1 != section.len() {
            return Err(wrong(take(0)?.1, "bytes after the last value"));
        }
        self.values = values;
        Ok(())
    }
}

/// The open system tape.
pub(super) struct SystemTape {
    /// Before the node: it has to be given back first.
    publisher: Option<Publisher>,
    node: Option<Node>,
    recovered: SystemState,
    /// The log is cleared when it has grown by so much.
    log_bytes: u64,
    written: u64,
    /// Whoever records is to end: no longer does it wait until there is room.
    stopping: Arc<AtomicBool>,
}

/// A store small enough to go unnoticed beside the data's.
fn options(name: &str, options: &ConsumersOptions, scrub: ScrubOptions) -> NodeOptions {
    let mut system = NodeOptions { name: name.to_owned(), ring_slots: 1024, ..NodeOptions::default() };
    system.store.memtable_bytes =
        usize::try_from(options.system_log_bytes).unwrap_or(usize::MAX).max(4 << 20);
    system.store.immutable_memtables_max = 2;
    system.store.block_cache_bytes = 256 << 10;
    system.store.wal.segment_bytes =
        (options.system_log_bytes / 4).next_multiple_of(4096).clamp(1 << 20, 64 << 20);
    system.store.log_kept_bytes = system.store.wal.segment_bytes;
    system.store.wal.commit_bytes = 256 << 10;
    system.store.scrub = scrub;
    system
}

impl SystemTape {
    /// The system tape of a data directory, if it has one.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        name: &str,
        chosen: &ConsumersOptions,
        scrub: ScrubOptions,
    ) -> Result<Option<Self>, NodeError> {
        let below = DiskBelow::open(disk, SYSTEM)?;
        below.map(|below| Self::open_in(below, name, chosen, scrub)).transpose()
    }

    /// The same, made if need be.
    pub(super) fn create(
        disk: &Arc<dyn Disk>,
        name: &str,
        chosen: &ConsumersOptions,
        scrub: ScrubOptions,
    ) -> Result<Self, NodeError> {
        Self::open_in(DiskBelow::create(disk, SYSTEM)?, name, chosen, scrub)
    }

    fn open_in(
        below: DiskBelow,
        name: &str,
        chosen: &ConsumersOptions,
        scrub: ScrubOptions,
    ) -> Result<Self, NodeError> {
        let node = Node::open_on(
            Arc::new(below),
            options(name, chosen, scrub),
            vec![Box::new(SystemState::default())],
        )?;
        let mut recovered = SystemState::default();
        if let Some(section) = node.store().projection_section(SECTION) {
            recovered.restore(section).map_err(NodeError::System)?;
        }
        let publisher = node.publisher(PRODUCER)?;
        let log_bytes = chosen.system_log_bytes;
        let stopping = Arc::default();
        Ok(Self { publisher: Some(publisher), node: Some(node), recovered, log_bytes, written: 0, stopping })
    }

    /// Once `stopping` is set nobody waits for room on a full disk here.
    pub(super) fn until(&mut self, stopping: &Arc<AtomicBool>) {
        self.stopping = Arc::clone(stopping);
    }

    /// Goes on waiting after a look that came to nothing, unless the disk is full and nobody is to wait for that.
    fn look_again(&self, waited: Result<(), WaitError>) -> Result<bool, StoreFailure> {
        match waited {
            Ok(()) => Ok(true),
            // Relaxed: a flag that nothing else depends on, looked at again.
            Err(WaitError::TimedOut)
                if self.stopping.load(Ordering::Relaxed) && self.node().store().space_problem().is_set() =>
            {
                Err(StoreFailure(Box::new(PublishError::NoSpace)))
            }
            Err(WaitError::TimedOut) => Ok(false),
            Err(error) => Err(StoreFailure(Box::new(error))),
        }
    }

    pub(super) fn gauge(&self) -> StoreGauge {
        self.node().store().gauge()
    }

    fn publisher(&mut self) -> &mut Publisher {
        self.publisher.as_mut().expect("there until closed")
    }

    fn node(&self) -> &Node {
        self.node.as_ref().expect("there until closed")
    }

    fn publish(&mut self, changes: &[Change], number: &mut u64) -> Result<Sequence, StoreFailure> {
        let now = EventTime(wall_clock().get());
        let mut events = Vec::with_capacity(changes.len());
        for change in changes {
            *number += 1;
            let sequence = ProducerSequence(*number);
            let event = match change {
                Change::Set { key, value } => {
                    StateSet::new(key, value).map(|set| Event::new(InstrumentId(0), sequence, now, set))
                }
                Change::Delete { key } => {
                    StateDeleted::new(key).map(|deleted| Event::new(InstrumentId(0), sequence, now, deleted))
                }
            };
            events.push(event.map_err(|error: StateError| StoreFailure(Box::new(error)))?);
        }
        loop {
            match self.publisher().publish_group(&events) {
                Ok(published) => return Ok(published.sequence()),
                Err(PublishError::WouldBlock) => {
                    let soon = Some(Instant::now() + LOOK_AGAIN);
                    let waited = self.publisher().wait_for_room_until(events.len(), soon);
                    self.look_again(waited)?;
                }
                Err(error) => return Err(StoreFailure(Box::new(error))),
            }
        }
    }

    /// Closes the tape in order.
    pub(super) fn close(mut self) -> Result<(), NodeError> {
        drop(self.publisher.take());
        self.node.take().expect("there until closed").close()
    }

    /// Lets go of what later records have replaced, once that is worth it. The records are durable by now, and stay so if
    /// this fails, for want of room or otherwise: it is tried again when an eighth more has come.
    fn clear(&mut self) {
        if self.written < self.log_bytes {
            return;
        }
        let store = self.node().store();
        let cleared = store.flush().map_err(|error| error.to_string()).and_then(|_| {
            // The snapshot has every value; the newest tables stay as a second way to them.
            let policy =
                RetentionPolicy { bytes: Some(0), snapshot_gap_bytes: 0, ..RetentionPolicy::default() };
            store.retain(&policy, wall_clock()).map_err(|error| error.to_string())
        });
        self.written = match cleared {
            Ok(_) => 0,
            Err(error) => {
                tracing::warn!(error, "what later records of consumers have replaced stays for now");
                self.log_bytes - self.log_bytes / 8
            }
        };
    }

    /// Writes before the recorder runs: it waits while the disk is full, this gives up.
    pub(super) fn write_at_open(&mut self, groups: &[Vec<Change>]) -> Result<(), ConsumerError> {
        let failed = |failure: StoreFailure| match failure.0.downcast_ref() {
            Some(PublishError::NoSpace) => ConsumerError::NoSpace,
            _ => ConsumerError::Recording(Arc::new(failure)),
        };
        let last = self.publish_all(groups).map_err(failed)?;
        let deadline = Instant::now() + OPEN_WAIT;
        loop {
            match self.node().wait_for(last, Stage::Durable, LOOK_AGAIN) {
                Ok(()) => return Ok(()),
                Err(_) if self.node().store().space_problem().reason().is_some() => {
                    return Err(ConsumerError::NoSpace);
                }
                Err(WaitError::TimedOut) if Instant::now() < deadline => {}
                Err(error) => return Err(failed(StoreFailure(Box::new(error)))),
            }
        }
    }

    /// Returns the position of the last change.
    fn publish_all(&mut self, groups: &[Vec<Change>]) -> Result<Sequence, StoreFailure> {
        let mut number = self.publisher().last().map_or(0, |last| last.get());
        let mut last = Sequence::ZERO;
        for group in groups.iter().filter(|group| !group.is_empty()) {
            last = self.publish(group, &mut number)?;
            self.written += group
                .iter()
                .map(|change| match change {
                    Change::Set { key, value } => (key.len() + value.len()) as u64,
                    Change::Delete { key } => key.len() as u64,
                })
                .sum::<u64>();
        }
        Ok(last)
    }
}

impl ConsumerStore for SystemTape {
    fn load(&mut self) -> Result<Vec<Kept>, StoreFailure> {
        let values = std::mem::take(&mut self.recovered).values;
        Ok(values.into_iter().map(|(key, value)| Kept { key, value }).collect())
    }

    fn write(&mut self, groups: &[Vec<Change>]) -> Result<(), StoreFailure> {
        let last = self.publish_all(groups)?;
        while !self.look_again(self.node().wait_for(last, Stage::Durable, LOOK_AGAIN))? {}
        self.clear();
        Ok(())
    }
}

impl Drop for SystemTape {
    fn drop(&mut self) {
        // The publisher's claim on its producer ends before the node does.
        drop(self.publisher.take());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use matchtape_consumer::Definition;
    use matchtape_storage::RealDisk;

    use super::*;

    #[test]
    fn files_below_system_are_scrubbed_as_the_node_is_told_and_their_damage_is_the_nodes() {
        let folder = tempfile::tempdir().unwrap();
        let mut node_options = NodeOptions { ring_slots: 1024, ..NodeOptions::default() };
        node_options.store.scrub.bytes_per_second = 0;
        let open =
            |node_options: &NodeOptions| Node::open(folder.path(), node_options.clone(), Vec::new()).unwrap();
        let node = open(&node_options);
        node.consumers().add(&"risk".parse().unwrap(), Definition::default()).unwrap();
        let system = node.gauge().system;
        let idle = system.get().expect("made with the first consumer").scrub();
        node.close().unwrap();

        // What its log has becomes a table.
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::create(folder.path()).unwrap());
        let (chosen, never) = (&node_options.consumers, node_options.store.scrub);
        assert_eq!(options("matchtape", chosen, never).store.scrub, never);
        let system = SystemTape::open(&disk, "matchtape", chosen, never).unwrap().expect("it is there");
        system.node().store().flush().unwrap();
        let table = system.node().store().inspect().event_tables[0].file.clone();
        system.close().unwrap();
        drop(disk);

        node_options.store.scrub = ScrubOptions { bytes_per_second: u64::MAX, every: Duration::ZERO };
        let node = open(&node_options);
        let (gauge, begun) = (node.gauge(), Instant::now());
        assert_eq!(gauge.scrub().damaged, []);
        let file = format!("{SYSTEM}/{table}");
        let mut bytes = std::fs::read(folder.path().join(&file)).unwrap();
        bytes[100] ^= 8;
        std::fs::write(folder.path().join(&file), bytes).unwrap();
        let damaged = loop {
            let marks = gauge.scrub();
            if !marks.damaged.is_empty() {
                break marks.damaged;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{marks:?}");
            std::thread::yield_now();
        };
        assert_eq!((damaged.len(), &damaged[0].file), (1, &file), "{damaged:?}");
        assert_eq!((idle.rounds, idle.bytes), (0, 0), "a node that is not to scrub does not");
        drop(gauge);
        node.close().unwrap();
    }
}
