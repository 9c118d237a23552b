//! The node's two bus publishers: `live` on a thread of its own, `speculative` on the pipeline's.
//!
//! The live publisher has no queue of its own: it follows the tape through the same reader as everybody, so what it
//! sends is what `visible` allows, and a subscriber can never slow the pipeline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use matchtape_bus::{
    BusConfig, BusError, BusName, BusPublisher, BusService, Liveness, PortThread, WakeUp, on_own_thread,
};
use matchtape_schemas::{Head, Sequence, Stage};
use matchtape_storage::{ReadError, Reader};

use crate::pipeline::Speculative;
use crate::publisher::Intake;
use crate::stages::Stages;

/// How often the traces of killed processes are looked for.
const LIVENESS_INTERVAL: Duration = Duration::from_secs(1);

/// What the node puts on shared memory.
#[derive(Clone, Debug)]
pub struct BusOptions {
    /// Separates instances on one machine.
    pub namespace: String,
    /// The folder through which processes meet; `None`: the default one.
    pub root: Option<std::path::PathBuf>,
    /// Slots, buffers, heartbeats.
    pub config: BusConfig,
    /// Whether accepted events are sent before they are durable, on a service of their own.
    pub speculative: bool,
    /// The core the live publisher is bound to.
    pub core: Option<usize>,
}

impl Default for BusOptions {
    fn default() -> Self {
        Self {
            namespace: "matchtape".into(),
            root: None,
            config: BusConfig::default(),
            speculative: false,
            core: None,
        }
    }
}

impl BusOptions {
    /// The address of a tape's bus.
    pub fn name(&self, tape: matchtape_schemas::TapeId) -> Result<BusName, BusError> {
        match &self.root {
            None => BusName::new(&self.namespace, tape),
            Some(root) => BusName::with_root(&self.namespace, tape, root),
        }
    }
}

/// Why the live bus ended early.
#[derive(thiserror::Error, Debug)]
pub enum LiveBusError {
    /// The bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The tape behind it.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The live publisher and the cleaning up behind killed subscribers.
pub(crate) struct LiveBus {
    thread: Option<PortThread<()>>,
    stop: Arc<AtomicBool>,
    _liveness: Liveness,
}

impl LiveBus {
    pub(crate) fn start(
        name: &BusName,
        options: &BusOptions,
        head: Head,
        reader: Reader,
        intake: Arc<Intake>,
    ) -> Result<Self, BusError> {
        let liveness = Liveness::start(name, LIVENESS_INTERVAL)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (opened_name, config, stopping) = (name.clone(), options.config.clone(), Arc::clone(&stop));
        let body_config = options.config.clone();
        let thread = on_own_thread(
            "bus-live",
            options.core,
            move || BusPublisher::open(&opened_name, BusService::Live, &config, &head),
            move |publisher| {
                let follower = Follower { publisher, reader, intake, config: body_config, stopping };
                if let Err(error) = follower.run() {
                    tracing::error!(%error, "the live bus ended; subscribers raise their alarm and read the log");
                }
            },
        )?;
        Ok(Self { thread: Some(thread), stop, _liveness: liveness })
    }

    /// Sends what is visible and ends the thread. Call after the stages have ended.
    pub(crate) fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

struct Follower {
    publisher: BusPublisher,
    reader: Reader,
    intake: Arc<Intake>,
    config: BusConfig,
    stopping: Arc<AtomicBool>,
}

impl Follower {
    fn run(mut self) -> Result<(), LiveBusError> {
        let mut cursor = self.reader.frames(self.publisher.next())?;
        let mut beat = Instant::now();
        loop {
            // Before the last look at the tape: what is visible when stopping is still sent.
            let stopping = self.stopping.load(Ordering::Acquire);
            while let Some(frame) = cursor.next_frame()? {
                let watermarks = self.intake.watermarks();
                match self.publisher.publish(frame.bytes(), &watermarks) {
                    // Some subscriber did not get it and will find the gap.
                    Ok(_) | Err(BusError::Send(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if stopping {
                self.publisher.heartbeat(&self.intake.watermarks())?;
                return Ok(());
            }
            if Instant::now() >= beat {
                self.publisher.heartbeat(&self.intake.watermarks())?;
                beat = Instant::now() + self.config.heartbeat_interval;
            }
            wait(&self.intake.stages, self.publisher.next(), beat, self.config.wake_up, &self.stopping);
        }
    }
}

fn wait(stages: &Stages, next: Sequence, beat: Instant, wake_up: WakeUp, stopping: &AtomicBool) {
    match wake_up {
        WakeUp::Event => {
            // Whatever ends the wait (the event, the beat, the node's end), the loop looks at everything again. Once
            // the stages have ended, waiting returns at once: a pause keeps that from burning a core until the stop.
            if stages.wait(next, Stage::Visible, Some(beat)).is_err() && stages.ended().is_some() {
                std::thread::park_timeout(
                    beat.saturating_duration_since(Instant::now()).min(Duration::from_millis(5)),
                );
            }
        }
        WakeUp::BusyPoll => {
            while stages.get(Stage::Visible) < next
                && Instant::now() < beat
                && !stopping.load(Ordering::Relaxed)
            {
                std::hint::spin_loop();
            }
        }
    }
}

/// The speculative publisher, used by the pipeline thread alone.
pub(crate) struct SpeculativeBus {
    publisher: BusPublisher,
    intake: Arc<Intake>,
    interval: Duration,
    next_beat: Instant,
    broken: bool,
}

impl SpeculativeBus {
    pub(crate) fn open(
        name: &BusName,
        config: &BusConfig,
        head: &Head,
        intake: Arc<Intake>,
    ) -> Result<Self, BusError> {
        let publisher = BusPublisher::open(name, BusService::Speculative, config, head)?;
        Ok(Self {
            publisher,
            intake,
            interval: config.heartbeat_interval,
            next_beat: Instant::now(),
            broken: false,
        })
    }

    fn note(&mut self, sent: Result<usize, BusError>) {
        match sent {
            Ok(_) | Err(BusError::Send(_)) => {}
            Err(error) if !self.broken => {
                self.broken = true;
                tracing::error!(%error, "the speculative bus ended; the tape goes on");
            }
            Err(_) => {}
        }
    }
}

impl Speculative for SpeculativeBus {
    fn accepted(&mut self, frame: &[u8]) {
        if !self.broken {
            let sent = self.publisher.publish(frame, &self.intake.watermarks());
            self.note(sent);
        }
    }

    fn next_beat(&self) -> Option<Instant> {
        (!self.broken).then_some(self.next_beat)
    }

    fn beat(&mut self) {
        let sent = self.publisher.heartbeat(&self.intake.watermarks());
        self.note(sent);
        self.next_beat = Instant::now() + self.interval;
    }
}
