//! The way in for producers in other processes: one thread that takes what they send to the ring, and tells them how far
//! it has come.
//!
//! A full ring or a full disk stops it from receiving, so that the producers' queues fill and their windows refuse: the same
//! back-pressure as inside the process. It never writes to the log or the bus.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use matchtape_bus::{
    BusError, BusName, Door, Doorbell, IngressConfig, IngressCounters, IngressEnd, IngressTerms, Intake,
    PortThread, SafeAt, Unpublished, WakeUp, on_own_thread,
};
use matchtape_schemas::publish::{ProducerMark, PublishError, WaitError};
use matchtape_schemas::{Epoch, ProducerId, Sequence, Stage};
use matchtape_storage::wal::SyncPolicy;
use parking_lot::Mutex;

use crate::publisher::{GROUP_BYTES_MAX, Intake as NodeIntake, Publisher};
use crate::stages::StageReached;

/// How often producers whose processes are gone are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(1);

/// How producers in other processes come in.
#[derive(Clone, Debug)]
pub struct IngressOptions {
    /// Slots, queues, heartbeats, wake-ups.
    pub config: IngressConfig,
    /// How long the thread looks for samples before it sleeps, where it sleeps at all.
    pub spin: Duration,
    /// The core the thread is bound to.
    pub core: Option<usize>,
}

impl Default for IngressOptions {
    fn default() -> Self {
        Self { config: IngressConfig::default(), spin: Duration::from_micros(50), core: None }
    }
}

/// The ingress thread.
pub(crate) struct Ingress {
    thread: Option<PortThread<()>>,
    stop: Arc<AtomicBool>,
    bell: Arc<Doorbell>,
    counters: Arc<Mutex<IngressCounters>>,
}

impl Ingress {
    pub(crate) fn start(
        name: &BusName,
        options: &IngressOptions,
        epoch: Epoch,
        sync: SyncPolicy,
        intake: Arc<NodeIntake>,
    ) -> Result<Self, BusError> {
        let stop = Arc::new(AtomicBool::new(false));
        let counters = Arc::new(Mutex::new(IngressCounters::default()));
        let bell = Doorbell::new().map_err(|error| BusError::Internal {
            doing: "making the ingress thread's doorbell",
            cause: error.to_string(),
        })?;
        let terms = IngressTerms {
            epoch,
            skew_ns_max: intake.skew_ns_max,
            group_events_max: intake.ring.capacity(),
            group_bytes_max: GROUP_BYTES_MAX,
            safe_at: match sync {
                SyncPolicy::EveryBatch | SyncPolicy::Interval(_) => SafeAt::Durable,
                SyncPolicy::None => SafeAt::Written,
            },
        };
        let (name, config) = (name.clone(), options.config.clone());
        let desk = Counter {
            intake,
            options: options.clone(),
            stopping: Arc::clone(&stop),
            bell: Arc::clone(&bell),
            counters: Arc::clone(&counters),
        };
        let thread = on_own_thread(
            "ingress",
            options.core,
            move || Intake::open(&name, &config, &terms),
            move |ports| {
                let intake = Arc::clone(&desk.intake);
                let _watch = intake.ended_parts.watch("ingress");
                if let Err(error) = desk.run(ports) {
                    intake.ended_parts.note("ingress", &error);
                }
            },
        )?;
        Ok(Self { thread: Some(thread), stop, bell, counters })
    }

    pub(crate) fn counters(&self) -> IngressCounters {
        *self.counters.lock()
    }

    /// The same, for whoever looks again later.
    pub(crate) fn shared_counters(&self) -> Arc<Mutex<IngressCounters>> {
        Arc::clone(&self.counters)
    }

    /// Tells producers why it ends, and ends the thread. Call after the stages have ended.
    pub(crate) fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring();
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// What runs on the thread.
struct Counter {
    intake: Arc<NodeIntake>,
    options: IngressOptions,
    stopping: Arc<AtomicBool>,
    bell: Arc<Doorbell>,
    counters: Arc<Mutex<IngressCounters>>,
}

impl Counter {
    fn run(self, mut ports: Intake<Publisher>) -> Result<(), BusError> {
        let mut door = NodeDoor { intake: Arc::clone(&self.intake) };
        let interval = self.options.config.heartbeat_interval;
        let (mut beat, mut forget) = (Instant::now(), Instant::now() + FORGET_INTERVAL);
        let mut wakers = StageWakers::new(&self.intake, &self.bell);
        loop {
            // Before the last look: what is durable when stopping is still told.
            let stopping = self.stopping.load(Ordering::Acquire);
            let some = ports.receive(&mut door)?;
            let ended = self.intake.stages.ended().map(|why| match why {
                WaitError::Closed | WaitError::TimedOut => IngressEnd::Closed,
                WaitError::Poisoned => IngressEnd::Poisoned,
                WaitError::Fenced => IngressEnd::Fenced,
            });
            let now = Instant::now();
            let due = now >= beat || stopping;
            ports.reply(&self.intake.watermarks(), ended, due)?;
            if stopping {
                return Ok(());
            }
            if due {
                beat = now + interval;
                *self.counters.lock() = ports.counters();
            }
            if now >= forget {
                ports.forget_gone();
                forget = now + FORGET_INTERVAL;
            }
            if ports.blocked().is_some() && self.intake.lacks_space() {
                // Tried again at the beat, or when the node ends: no watermark gets that far.
                let _ = self.intake.stages.wait(Sequence::MAX, Stage::Accepted, Some(beat));
            } else if let Some((publisher, events)) = ports.blocked() {
                // Whatever ends it (room, the beat, the node's end, after which nothing is blocked), everything is looked at
                // again.
                let _ = publisher.wait_for_room_until(events, Some(beat));
            } else if !some {
                if self.options.config.wake_up == WakeUp::Event && ports.has_sessions() {
                    wakers.arm();
                }
                ports.wait(&self.bell, self.options.spin, beat)?;
            }
        }
    }
}

/// Rings the bell when a stage moves on.
struct StageWakers {
    intake: Arc<NodeIntake>,
    waker: Waker,
    armed: [Option<(Sequence, StageReached)>; TOLD.len()],
}

/// What producers wait for beyond `accepted`, of which they are told as it happens.
const TOLD: [Stage; 4] = [Stage::Written, Stage::Durable, Stage::Replicated, Stage::Visible];

impl StageWakers {
    fn new(intake: &Arc<NodeIntake>, bell: &Arc<Doorbell>) -> Self {
        Self { intake: Arc::clone(intake), waker: Waker::from(Arc::clone(bell)), armed: Default::default() }
    }

    /// The bell rings at the next progress from here on, or has rung.
    fn arm(&mut self) {
        let mut context = Context::from_waker(&self.waker);
        for (stage, armed) in TOLD.into_iter().zip(&mut self.armed) {
            let next = self.intake.stages.get(stage).next();
            if armed.as_ref().is_some_and(|(awaited, _)| *awaited == next) {
                continue;
            }
            let mut reached = StageReached::new(Arc::clone(&self.intake.stages), next, stage);
            if Pin::new(&mut reached).poll(&mut context).is_ready() {
                self.waker.wake_by_ref();
            }
            *armed = Some((next, reached));
        }
    }
}

/// The node's own publishers, as the desk uses them.
struct NodeDoor {
    intake: Arc<NodeIntake>,
}

impl Door for NodeDoor {
    type Writer = Publisher;

    fn open(&mut self, producer: ProducerId) -> Result<(Publisher, Option<ProducerMark>), u32> {
        let publisher = Publisher::attach(&self.intake, producer).ok_or_else(std::process::id)?;
        let mark = publisher.accepted();
        Ok((publisher, mark))
    }

    fn publish(
        &mut self,
        publisher: &mut Publisher,
        group: &[u8],
        events: usize,
    ) -> Result<ProducerMark, Unpublished> {
        match publisher.publish_checked(group, events) {
            Ok(_) => Ok(publisher.accepted().expect("it has just published, or had before")),
            // A full disk, like a full ring, ends: what was taken in stays queued, and windows fill meanwhile.
            Err(PublishError::WouldBlock | PublishError::NoSpace) => Err(Unpublished::WouldBlock),
            Err(
                error @ (PublishError::GroupSize { .. }
                | PublishError::GroupBytes { .. }
                | PublishError::GroupOrder { .. }
                | PublishError::EventTimeAhead { .. }),
            ) => {
                tracing::warn!(producer = %publisher.producer(), %error, "a producer in another process is turned away");
                Err(Unpublished::Refused(error.to_string()))
            }
            Err(PublishError::Fenced | PublishError::Poisoned | PublishError::Closed) => {
                Err(Unpublished::Ended)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use matchtape_bus::{RemoteOptions, RemotePublisher};
    use matchtape_schemas::event::{Event, OrderCancelled};
    use std::task::Poll;

    use matchtape_schemas::publish::Publish as _;
    use matchtape_schemas::{EventTime, InstrumentId, ProducerSequence};

    use crate::{BusOptions, IngressOptions, Node, NodeOptions};

    use super::*;

    fn event(number: u64) -> Event {
        let body = OrderCancelled::default();
        Event::new(InstrumentId(1), ProducerSequence(number), EventTime(5), body)
    }

    #[test]
    fn who_waits_outside_is_told_that_the_log_failed_or_the_term_ended() {
        for (end, published) in
            [(WaitError::Poisoned, PublishError::Poisoned), (WaitError::Fenced, PublishError::Fenced)]
        {
            let folder = tempfile::tempdir().unwrap();
            let bus = BusOptions {
                namespace: format!("end-{}", std::process::id()),
                root: Some(folder.path().join("bus")),
                ..BusOptions::default()
            };
            let options = NodeOptions {
                bus: Some(bus.clone()),
                ingress: Some(IngressOptions::default()),
                ring_slots: 1024,
                ..NodeOptions::default()
            };
            let node = Node::open(&folder.path().join("data"), options, Vec::new()).unwrap();
            let name = bus.name(node.tape()).unwrap();
            let long = Duration::from_secs(60);
            let patient = RemoteOptions { connect_wait: long, silence_max: long, ..RemoteOptions::default() };
            let mut publisher = RemotePublisher::connect(&name, ProducerId(1), patient).unwrap();
            publisher.publish(&event(1)).unwrap();
            publisher.wait(ProducerSequence(1), Stage::Durable).unwrap();
            // As a later epoch or a failed sync would.
            node.intake.ring.close();
            node.intake.stages.end(end);
            let taken = publisher.publish(&event(2));
            assert!(taken.is_ok() || taken == Err(published.into()), "{taken:?}");
            if taken.is_ok() {
                let mut awaited = publisher.wait_async(ProducerSequence(2), Stage::Durable);
                assert_eq!(publisher.wait(ProducerSequence(2), Stage::Durable), Err(end.into()));
                let polled = Pin::new(&mut awaited).poll(&mut Context::from_waker(Waker::noop()));
                assert_eq!(polled, Poll::Ready(Err(end.into())));
            }
            assert_eq!(publisher.publish(&event(3)), Err(published.into()));
            // What had reached the stage has.
            assert!(publisher.wait(ProducerSequence(1), Stage::Durable).is_ok());
            drop(publisher);
            drop(node);
            for entry in std::fs::read_dir("/dev/shm").unwrap() {
                let entry = entry.unwrap();
                if entry.file_name().to_string_lossy().starts_with(&name.prefix()) {
                    // iceoryx2's 16-byte counter of the namespace.
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
    }
}
