//! The node: one tape's store, sequencer and buses in one process.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use matchtape_bus::{BusError, BusName, IngressCounters, check_core};
use matchtape_schemas::event::{EpochStarted, Event};
use matchtape_schemas::limits::FRAME_BYTES_MAX;
use matchtape_schemas::publish::WaitError;
use matchtape_schemas::text::Text;
use matchtape_schemas::{
    Epoch, InstrumentId, ProducerId, ProducerSequence, Projection, Sequence, Stage, TapeId, Watermarks,
};
use matchtape_storage::wal::GroupCommitOptions;
use matchtape_storage::{
    Disk, DiskError, EventStore, FlushError, OpenError, Reader, RealDisk, RecoveryReport, StoreOptions,
};

use crate::bus::{BusOptions, LiveBus, LiveLane, SpeculativeBus};
use crate::consumers::{self, ConsumerError, Consumers, ConsumersOptions};
use crate::framer::Framer;
use crate::gauge::NodeGauge;
use crate::history::StoreHistory;
use crate::hold::Holds;
use crate::idle::IdleClock;
use crate::ingress::{Ingress, IngressOptions};
use crate::latency::StageLatency;
use crate::parts::EndedPart;
use crate::pipeline::{Pipeline, PipelineThread, PipelineWait, Progress, VisibleAt, bind};
use crate::producers::{self, ProducerMarks};
use crate::publisher::{Intake, Publisher, Publishers};
use crate::ring::{Ring, RingReader};
use crate::seal::Sealer;
use crate::stages::{StageReached, Stages};

/// How a node runs. The default is right for a node alone on its disk.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The node's name, written where it leads the tape. At most 40 bytes.
    pub name: String,
    /// The store below it.
    pub store: StoreOptions,
    /// Slots of the ring between publishers and pipeline: a power of two, and the most events a group may have.
    pub ring_slots: usize,
    /// How far an event time may lie ahead of this machine's clock.
    pub event_time_skew_max: Duration,
    /// How the pipeline thread waits.
    pub wait: PipelineWait,
    /// From which stage on readers are given events.
    pub visible_at: VisibleAt,
    /// The core the pipeline's thread is bound to.
    pub pipeline_core: Option<usize>,
    /// The core the log's thread is bound to.
    pub log_core: Option<usize>,
    /// Shared memory distribution; none by default.
    pub bus: Option<BusOptions>,
    /// Producers in other processes, through shared memory; none by default. They meet the node where its bus is.
    pub ingress: Option<IngressOptions>,
    /// On a live tape: after this long without an event, say with `TimeAdvanced` that time has passed, so that windows
    /// by event time close. A tape whose last event time is a minute or more ago is left alone.
    pub time_advanced_after: Option<Duration>,
    /// How durable consumers are kept.
    pub consumers: ConsumersOptions,
    /// Known mistakes, for negative controls.
    #[cfg(any(test, feature = "mistakes"))]
    pub mistakes: NodeMistakes,
}

/// Mistakes that sequencers like this one have been shipped with. A test switches one on and expects the suite to notice.
#[cfg(any(test, feature = "mistakes"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeMistakes {
    /// The sequence is taken from a counter before the slot is claimed, not by claiming it.
    pub sequence_outside_the_claim: bool,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            name: "node".into(),
            store: StoreOptions::default(),
            ring_slots: 1 << 16,
            event_time_skew_max: Duration::from_secs(1),
            wait: PipelineWait::default(),
            visible_at: VisibleAt::default(),
            pipeline_core: None,
            log_core: None,
            bus: None,
            ingress: None,
            time_advanced_after: None,
            consumers: ConsumersOptions::default(),
            #[cfg(any(test, feature = "mistakes"))]
            mistakes: NodeMistakes::default(),
        }
    }
}

/// Why a node did not open.
#[derive(thiserror::Error, Debug)]
pub enum NodeError {
    /// The data directory.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The store in it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// An option out of bounds.
    #[error("{option}: {reason}")]
    Option {
        /// Which.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A snapshot's section of the producers that this release cannot read.
    #[error("the recovered state of the producers: {0}")]
    Producers(#[from] matchtape_schemas::ProjectionError),
    /// A snapshot's section of the system tape that this release cannot read.
    #[error("the recovered system tape: {0}")]
    System(#[source] matchtape_schemas::ProjectionError),
    /// What is recorded of the consumers.
    #[error("the consumers, recorded in `system/` of the data directory: {0}")]
    Consumers(#[from] ConsumerError),
    /// The system refused a thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// Two handles of one producer could not both deduplicate.
    #[error("producer {0} is in use by another handle, or is the sequencer's own id")]
    ProducerInUse(ProducerId),
    /// The store did not close in order; what was acknowledged is safe.
    #[error(transparent)]
    Close(#[from] FlushError),
}

/// A running node. Close it with [`Node::close`]; dropping it stops it as a crash would, safely.
pub struct Node {
    pub(crate) intake: Arc<Intake>,
    /// Taken when closing.
    store: Option<Arc<EventStore>>,
    reader: Reader,
    pub(crate) pipeline: Option<JoinHandle<()>>,
    pub(crate) live: Option<LiveBus>,
    ingress: Option<Ingress>,
    idle_clock: Option<IdleClock>,
    consumers: Consumers,
    holds: Holds,
    bus_name: Option<BusName>,
    latency: Arc<StageLatency>,
    recovery: RecoveryReport,
    tape: TapeId,
    epoch: Epoch,
}

impl Node {
    /// Opens the data directory (made if missing), recovers it and starts.
    ///
    /// `projections` are folded along and kept in snapshots, beside the node's own.
    ///
    /// A process whose allocator is glibc's should call `matchtape_storage::return_large_memory()` when it begins; that is the
    /// process' choice and not the node's.
    pub fn open(
        directory: &Path,
        options: NodeOptions,
        projections: Vec<Box<dyn Projection>>,
    ) -> Result<Self, NodeError> {
        Self::open_on(Arc::new(RealDisk::create(directory)?), options, projections)
    }

    /// The same on any disk.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        options: NodeOptions,
        mut projections: Vec<Box<dyn Projection>>,
    ) -> Result<Self, NodeError> {
        check(&options)?;
        let mut incarnation = [0; 8];
        disk.random(&mut incarnation)?;
        projections.push(Box::new(ProducerMarks::default()));
        let (store, recovery) = EventStore::open(Arc::clone(&disk), options.store.clone(), projections)?;
        store.space_problem().tell(|why| match why {
            Some(why) => tracing::error!(%why, "the disk is full: no events are taken until there is room"),
            None => tracing::info!("there is room on the disk again: events are taken"),
        });
        let found = store.head();
        let mut marks = ProducerMarks::default();
        if let Some(section) = store.projection_section(producers::SECTION) {
            marks.restore(section)?;
        }

        // Every opening is a term of its own; it costs nothing until something is appended.
        let head = matchtape_schemas::Head { epoch: Epoch(found.epoch.get() + 1), ..found };
        let epoch_start = Event::new(
            InstrumentId(0),
            ProducerSequence(0),
            found.max_event_time,
            EpochStarted {
                epoch: head.epoch,
                previous_epoch: found.epoch,
                previous_last_sequence: found.last_sequence,
                previous_checksum: found.checksum,
                writer_incarnation: u64::from_le_bytes(incarnation),
                node: Text::new(&options.name)
                    .map_err(|error| NodeError::Option { option: "name", reason: error.to_string() })?,
                previous_segment_root: [0; 32],
            },
        );

        let stages = Arc::new(Stages::new(store.visible().get()));
        let ring = Arc::new(Ring::new(options.ring_slots, found.last_sequence));
        let ring_reader = RingReader::new(Arc::clone(&ring));
        let skew_ns_max = i64::try_from(options.event_time_skew_max.as_nanos()).unwrap_or(i64::MAX);
        let mut intake = Intake::new(
            ring,
            Arc::clone(&stages),
            skew_ns_max,
            options.wait.looks_for(),
            store.space_problem(),
            epoch_start,
            marks,
        );
        *intake.accepted_time.get_mut() = found.accepted_time.get();
        #[cfg(any(test, feature = "mistakes"))]
        {
            intake.mistakes = options.mistakes;
        }
        let intake = Arc::new(intake);
        let commits = Arc::new(AtomicU64::new(0));
        let latency = Arc::new(StageLatency::new());
        let tape = found.tape;
        let bus_name = options.bus.as_ref().map(|bus| bus.name(tape)).transpose()?;
        let bus = options.bus.as_ref().zip(bus_name.as_ref());
        let lane = bus.map(|(bus, name)| LiveLane::open(name, bus, &head)).transpose()?.map(Arc::new);
        let speculative = bus
            .filter(|(bus, _)| bus.speculative)
            .map(|(bus, name)| SpeculativeBus::open(name, &bus.config, &head, Arc::clone(&intake)))
            .transpose()?;
        let progress = Progress {
            stages: Arc::clone(&stages),
            gate: Arc::clone(store.visible()),
            visible_at: options.visible_at,
            intake: Arc::clone(&intake),
            commits: Arc::clone(&commits),
            latency: Arc::clone(&latency),
            live: lane.clone(),
            written_group_end: found.last_sequence,
            core: options.log_core,
        };
        store.start_log(progress, GroupCommitOptions::default());

        let store = Arc::new(store);
        let reader = store.reader();
        let consumers = Consumers::open(consumers::Parts {
            disk,
            name: options.name.clone(),
            options: options.consumers.clone(),
            scrub: options.store.scrub,
            reader: reader.clone(),
            intake: Arc::clone(&intake),
            epoch: head.epoch,
            head: found.last_sequence,
            store: Arc::downgrade(&store),
            incarnation: u64::from_le_bytes(incarnation),
        })?;
        let pipeline = Pipeline {
            ring: ring_reader,
            framer: Framer::new(head),
            store: Arc::clone(&store),
            speculative,
            inside_group: false,
            slow: 0,
            unasked_bytes: 0,
        };
        // From here on it is a node, though not a whole one: if something does not start, dropping it ends what has.
        let mut node = Self {
            intake: Arc::clone(&intake),
            holds: Holds::new(&store),
            store: Some(store),
            reader: reader.clone(),
            pipeline: None,
            live: None,
            ingress: None,
            idle_clock: None,
            consumers,
            bus_name: bus_name.clone(),
            latency,
            recovery,
            tape,
            epoch: head.epoch,
        };
        if let (Some((bus, name)), Some(lane)) = (bus, lane) {
            node.live = Some(LiveBus::start(name, bus, lane, reader, Arc::clone(&intake))?);
        }
        let (core, thread) = (
            options.pipeline_core,
            PipelineThread { intake: Arc::clone(&intake), wait: options.wait, commits },
        );
        let run = move || {
            bind("pipeline", core);
            thread.run(pipeline);
        };
        node.pipeline = Some(std::thread::Builder::new().name("pipeline".into()).spawn(run)?);
        // Last: from here on others publish.
        if let (Some(ingress), Some(name)) = (&options.ingress, &bus_name) {
            node.ingress =
                Some(Ingress::start(name, ingress, head.epoch, options.store.wal.sync, Arc::clone(&intake))?);
        }
        node.idle_clock =
            options.time_advanced_after.map(|after| IdleClock::start(Arc::clone(&intake), after));
        Ok(node)
    }

    /// What recovery found, replayed and cut.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.recovery
    }

    /// The tape.
    pub fn tape(&self) -> TapeId {
        self.tape
    }

    /// The term this node writes in.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Where subscribers in other processes find the tape's bus.
    pub fn bus_name(&self) -> Option<&BusName> {
        self.bus_name.as_ref()
    }

    /// The handle of one producer; there is at most one at a time.
    pub fn publisher(&self, producer: ProducerId) -> Result<Publisher, NodeError> {
        Publisher::attach(&self.intake, producer).ok_or(NodeError::ProducerInUse(producer))
    }

    /// Hands out publishers elsewhere in this process, also while the node is being closed.
    pub fn publishers(&self) -> Publishers {
        Publishers::new(&self.intake)
    }

    /// What has come in from producers in other processes, as of the last heartbeat.
    pub fn ingress_counters(&self) -> Option<IngressCounters> {
        self.ingress.as_ref().map(Ingress::counters)
    }

    /// The parts beside the tape that have ended early, for good: buses and the way in.
    pub fn ended_parts(&self) -> Vec<EndedPart> {
        self.intake.ended_parts.list()
    }

    /// Reads what is visible.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// The same for subscriptions.
    pub fn history(&self) -> StoreHistory {
        StoreHistory::of_node(self.reader(), self.progress())
    }

    /// The durable consumers of this tape.
    pub fn consumers(&self) -> Consumers {
        self.consumers.clone()
    }

    /// The store below, for its tools.
    ///
    /// # Panics
    /// Never: it is there until the node is closed.
    pub fn store(&self) -> &EventStore {
        self.store.as_ref().expect("there until closed")
    }

    /// How far the tape has come.
    pub fn watermarks(&self) -> Watermarks {
        self.intake.watermarks()
    }

    /// How long events take to become durable and visible.
    pub fn latency(&self) -> Arc<StageLatency> {
        Arc::clone(&self.latency)
    }

    /// Tells beside the node's owner how it is.
    pub fn gauge(&self) -> NodeGauge {
        NodeGauge {
            intake: Arc::clone(&self.intake),
            latency: Arc::clone(&self.latency),
            store: self.store().gauge(),
            system: self.consumers.system_gauge(),
            ingress: self.ingress.as_ref().map(Ingress::shared_counters),
        }
    }

    /// Follows the watermarks and waits for stages, also after the node is gone.
    pub fn progress(&self) -> TapeProgress {
        TapeProgress { intake: Arc::clone(&self.intake), epoch: self.epoch }
    }

    /// Seals the log's open segment on demand, also after the node is gone (then it says so).
    pub fn sealer(&self) -> Sealer {
        Sealer { intake: Arc::clone(&self.intake), log: self.store().wal().sealer() }
    }

    /// Places and lifts legal holds, also after the node is gone (then it says so).
    pub fn holds(&self) -> Holds {
        self.holds.clone()
    }

    /// Blocks until the event at `sequence` has reached `stage`.
    pub fn wait(&self, sequence: Sequence, stage: Stage) -> Result<(), WaitError> {
        self.intake.wait(sequence, stage, None)
    }

    /// Blocks until the event at `sequence` has reached `stage`, at most for `limit`.
    pub fn wait_for(&self, sequence: Sequence, stage: Stage, limit: Duration) -> Result<(), WaitError> {
        self.intake.wait(sequence, stage, Instant::now().checked_add(limit))
    }

    /// Resolves when the event at `sequence` has reached `stage`.
    pub fn wait_async(&self, sequence: Sequence, stage: Stage) -> StageReached {
        StageReached::new(Arc::clone(&self.intake.stages), sequence, stage)
    }

    /// Takes no more events, makes durable and visible what was accepted, and closes the store.
    pub fn close(mut self) -> Result<(), NodeError> {
        drop(self.idle_clock.take());
        // While everything they were given can still be read: what they have come to is recorded.
        let recorded = self.consumers.close();
        self.stop_pipeline();
        self.holds.end();
        let store = self.store.take().expect("there until closed");
        let closed = match Arc::try_unwrap(store) {
            Ok(store) => store.close().map(|_| ()).map_err(NodeError::from),
            Err(_) => unreachable!("the pipeline thread and the holds had the only other handles"),
        };
        self.stop_distribution();
        closed.and(recorded)
    }

    fn stop_pipeline(&mut self) {
        self.intake.close();
        // What is in the ring still goes to the log. If the disk is full the log would keep it waiting for ever.
        if let Some(store) = &self.store {
            store.wal().hurry();
        }
        if let Some(pipeline) = self.pipeline.take()
            && let Err(panic) = pipeline.join()
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }

    fn stop_distribution(&mut self) {
        self.intake.stages.end(WaitError::Closed);
        if let Some(ingress) = self.ingress.take() {
            ingress.stop();
        }
        if let Some(live) = self.live.take() {
            live.stop();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.store.is_none() {
            return;
        }
        drop(self.idle_clock.take());
        self.consumers.abandon();
        self.stop_pipeline();
        self.holds.end();
        // The log's own end writes and syncs what was appended; nothing is flushed or snapshotted.
        drop(self.store.take());
        self.stop_distribution();
    }
}

/// The watermarks of a node, to be followed from elsewhere in its process.
#[derive(Clone)]
pub struct TapeProgress {
    intake: Arc<Intake>,
    epoch: Epoch,
}

impl TapeProgress {
    /// The node's term.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How far the tape has come.
    pub fn watermarks(&self) -> Watermarks {
        self.intake.watermarks()
    }

    /// Blocks until the event at `sequence` has reached `stage`, at most for `limit`.
    pub fn wait_for(&self, sequence: Sequence, stage: Stage, limit: Duration) -> Result<(), WaitError> {
        self.intake.wait(sequence, stage, Instant::now().checked_add(limit))
    }

    /// Resolves when the event at `sequence` has reached `stage`.
    pub fn wait_async(&self, sequence: Sequence, stage: Stage) -> StageReached {
        StageReached::new(Arc::clone(&self.intake.stages), sequence, stage)
    }
}

/// An event on an idle tape waits so long at most, and so may signs of life.
const NAP_MAX: Duration = Duration::from_millis(10);

fn check(options: &NodeOptions) -> Result<(), NodeError> {
    let wrong = |option, reason: String| Err(NodeError::Option { option, reason });
    if !options.ring_slots.is_power_of_two() || !(2..=1 << 24).contains(&options.ring_slots) {
        return wrong("ring_slots", format!("{} is not a power of two in 2..=16777216", options.ring_slots));
    }
    if let PipelineWait::Nap { nap, .. } = options.wait
        && (nap.is_zero() || nap > NAP_MAX)
    {
        return wrong("wait", format!("a nap of {nap:?} is none, or longer than {} ms", NAP_MAX.as_millis()));
    }
    let cores = [
        ("pipeline_core", options.pipeline_core),
        ("log_core", options.log_core),
        ("bus.core", options.bus.as_ref().and_then(|bus| bus.core)),
        ("ingress.core", options.ingress.as_ref().and_then(|ingress| ingress.core)),
    ];
    for (option, core) in cores {
        if let Some(core) = core
            && let Err(error) = check_core(core)
        {
            return wrong(option, error.to_string());
        }
    }
    if let Some(bus) = &options.bus
        && bus.config.frame_bytes_max < FRAME_BYTES_MAX
    {
        let reason = format!(
            "frames of the log are on the bus as they are, up to {FRAME_BYTES_MAX} bytes, of which this allows {}: the first \
             larger one would end the bus",
            bus.config.frame_bytes_max
        );
        return wrong("bus.config.frame_bytes_max", reason);
    }
    if options.ingress.is_some() && options.bus.is_none() {
        return wrong(
            "ingress",
            "producers in other processes meet the node where its bus is: it needs one".into(),
        );
    }
    Ok(())
}
