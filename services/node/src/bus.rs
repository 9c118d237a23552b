//! The node's two bus publishers: `live`, used by the log's thread and one of its own, and `speculative`, of the pipeline.
//!
//! The live publisher has no queue of its own: what is sent is what `visible` allows, from the commit that made it visible
//! or through the same reader as everybody's, and a subscriber can never slow the pipeline or the log.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use matchtape_bus::{
    BusConfig, BusError, BusName, BusPublisher, BusService, Liveness, PortThread, WakeUp, on_own_thread,
};
use matchtape_schemas::limits::FRAME_BYTES_MAX;
use matchtape_schemas::{FrameHeader, Head, Sequence, Watermarks};
use matchtape_storage::wal::CommitBuffer;
use matchtape_storage::{FrameCursor, ReadError, Reader};
use parking_lot::Mutex;

use crate::publisher::Intake;

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
    /// The log's thread, while it sent; what the bus is like since then nobody knows.
    #[error("sending panicked")]
    Panicked,
}

/// The live publisher and who uses it: the log's thread for small commits, the bus's own for everything else.
///
/// A hop from the log's thread to another costs more than all the rest of an event's way to a subscriber that polls
/// (measured: 62 us where they share a core, 27 where they do not, against 1.5). So the log's thread sends what it has
/// just made visible itself; but only if that is little, in turn, and nobody else is sending: it never waits, never copies
/// more than [`DIRECT_BYTES_MAX`], leaves waking subscribers that sleep to the bus's thread, and a bus that fails or panics
/// is left to itself.
pub(crate) struct LiveLane {
    publisher: Mutex<BusPublisher>,
    /// Whether there may be subscribers that sleep.
    wakes: bool,
    /// The bus's thread has something to do: to send what the log's thread did not, or to wake who sleeps.
    due: AtomicBool,
    /// Sending has panicked, or failed on the bus's thread: nobody sends any more.
    broken: AtomicBool,
    /// The bus's thread, once it runs.
    thread: OnceLock<Thread>,
}

/// What the log's thread copies at most per commit: a commit that small is about latency, a larger one about throughput.
const DIRECT_BYTES_MAX: usize = FRAME_BYTES_MAX;

/// What it copies before it writes a commit: some microseconds, beside a hundred of a sync.
const PREPARED_BYTES_MAX: usize = 16 << 10;

impl LiveLane {
    pub(crate) fn open(name: &BusName, options: &BusOptions, head: &Head) -> Result<Self, BusError> {
        let publisher = BusPublisher::open(name, BusService::Live, &options.config, head)?;
        Ok(Self {
            publisher: Mutex::new(publisher),
            wakes: options.config.wake_up == WakeUp::Event,
            due: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            thread: OnceLock::new(),
        })
    }

    /// Everything through `watermarks.visible` has become visible, `commit` (if one was written) included. Called on the
    /// log's thread, after the readers' gate was raised; [`call_thread`](Self::call_thread) has to follow.
    pub(crate) fn visible(&self, commit: Option<&CommitBuffer>, watermarks: &Watermarks) {
        let sent = match commit {
            Some(commit) => {
                let last = commit.head().expect("a commit has frames").last_sequence;
                self.send_directly(last, || commit.frames(), watermarks)
            }
            // Synced later than written.
            None => self.guarded(|publisher| {
                publisher.publish_prepared(watermarks.visible, watermarks);
                false
            }),
        };
        if !sent || self.wakes {
            // Release: pairs with the Acquire in `Follower::run`; whoever sees it sees the gate raised.
            self.due.store(true, Ordering::Release);
        }
    }

    /// Wakes the bus's thread if there is something for it to do. Apart from `visible`, because it is a system call.
    pub(crate) fn call_thread(&self) {
        if self.due.load(Ordering::Relaxed)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// `commit` is about to be written: while there is time, its frames are put where subscribers will find them once it is durable.
    /// Called on the log's thread.
    pub(crate) fn prepare(&self, commit: &CommitBuffer) {
        if commit.frame_bytes().len() <= PREPARED_BYTES_MAX {
            self.prepare_frames(commit.frames().map(|(_, frame)| frame));
        }
    }

    fn prepare_frames<'f>(&self, mut frames: impl Iterator<Item = &'f [u8]>) {
        // Only what comes right after what was sent or prepared; the rest is sent once it is visible, from the start.
        self.guarded(|publisher| {
            publisher.receivers() > 0 && frames.all(|frame| publisher.prepare(frame).unwrap_or(false))
        });
    }

    /// Whether all of a commit's frames were sent, here and now.
    fn send_directly<'f, I>(&self, last: Sequence, frames: impl Fn() -> I, watermarks: &Watermarks) -> bool
    where
        I: Iterator<Item = (FrameHeader, &'f [u8])>,
    {
        self.guarded(|publisher| {
            publisher.publish_prepared(watermarks.visible, watermarks);
            if publisher.next() > last {
                return true;
            }
            let sent = publisher.next();
            let left = || frames().filter(|(header, _)| header.first_sequence >= sent);
            let (mut next, mut bytes) = (sent, 0);
            for (header, frame) in left() {
                bytes += frame.len();
                let in_turn = header.first_sequence == next && header.last_sequence() <= watermarks.visible;
                if !in_turn || bytes > DIRECT_BYTES_MAX {
                    return false;
                }
                next = header.last_sequence().next();
            }
            left().all(|(_, frame)| {
                // What is wrong with it the bus's thread meets again, and says.
                publisher.publish_quietly(frame, watermarks).is_ok()
            })
        })
    }

    /// What the log's thread does with the publisher, if that is free and fit for use. A panic there must not become the log's.
    fn guarded(&self, act: impl FnOnce(&mut BusPublisher) -> bool) -> bool {
        if self.broken.load(Ordering::Relaxed) {
            return false;
        }
        let acted = catch_unwind(AssertUnwindSafe(|| {
            let Some(mut publisher) = self.publisher.try_lock() else { return false };
            act(&mut publisher)
        }));
        acted.unwrap_or_else(|_| {
            self.broken.store(true, Ordering::Relaxed);
            false
        })
    }
}

/// The bus's thread and the cleaning up behind killed subscribers.
pub(crate) struct LiveBus {
    lane: Arc<LiveLane>,
    thread: Option<PortThread<()>>,
    stop: Arc<AtomicBool>,
    _liveness: Liveness,
}

impl LiveBus {
    pub(crate) fn start(
        name: &BusName,
        options: &BusOptions,
        lane: Arc<LiveLane>,
        reader: Reader,
        intake: Arc<Intake>,
    ) -> Result<Self, BusError> {
        let liveness = Liveness::start(name, LIVENESS_INTERVAL)?;
        let stop = Arc::new(AtomicBool::new(false));
        let follower = Follower {
            lane: Arc::clone(&lane),
            reader,
            intake,
            heartbeat_interval: options.config.heartbeat_interval,
            stopping: Arc::clone(&stop),
        };
        let opening = Arc::clone(&lane);
        let open = move || {
            // Before anything can be visible: the log's thread is not told of this one otherwise.
            opening.thread.get_or_init(std::thread::current);
            Ok(())
        };
        let thread = on_own_thread("bus-live", options.core, open, move |()| {
            let (lane, intake) = (Arc::clone(&follower.lane), Arc::clone(&follower.intake));
            let _watch = intake.ended_parts.watch("live_bus");
            // Subscribers raise their alarm and read the log.
            if let Err(error) = follower.run() {
                lane.broken.store(true, Ordering::Relaxed);
                intake.ended_parts.note("live_bus", &error);
            }
        })?;
        Ok(Self { lane, thread: Some(thread), stop, _liveness: liveness })
    }

    /// Sends what is visible and ends the thread. Call after the stages have ended.
    pub(crate) fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.lane.thread.get() {
            thread.unpark();
        }
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Sends what the log's thread has not, through the same reader as everybody: it has no queue of its own.
struct Follower {
    lane: Arc<LiveLane>,
    reader: Reader,
    intake: Arc<Intake>,
    heartbeat_interval: Duration,
    stopping: Arc<AtomicBool>,
}

impl Follower {
    fn run(self) -> Result<(), LiveBusError> {
        let mut cursor = self.reader.frames(self.lane.publisher.lock().next())?;
        let mut beat = Instant::now();
        loop {
            // Before the last look at the tape: what is visible when stopping is still sent.
            let stopping = self.stopping.load(Ordering::Acquire);
            // Acquire: pairs with the Release in `LiveLane::visible`. Also before the look at the tape, so that what
            // becomes visible after it is looked for again.
            let due = self.lane.due.swap(false, Ordering::Acquire);
            if self.lane.broken.load(Ordering::Relaxed) {
                return Err(LiveBusError::Panicked);
            }
            let mut sent = false;
            while self.send_next(&mut cursor)? {
                sent = true;
            }
            if due && !sent {
                // What the log's thread sent wakes nobody.
                self.lane.publisher.lock().wake_subscribers();
            }
            let now = Instant::now();
            if stopping || now >= beat {
                self.lane.publisher.lock().heartbeat(&self.intake.watermarks());
                beat = now + self.heartbeat_interval;
            }
            if stopping {
                return Ok(());
            }
            if !self.lane.due.load(Ordering::Relaxed) {
                // Whoever sets `due` or `stopping` unparks after that, so that none is slept over.
                std::thread::park_timeout(beat.saturating_duration_since(Instant::now()));
            }
        }
    }

    /// One visible frame that has not been sent; `false` when there is none.
    fn send_next(&self, cursor: &mut FrameCursor) -> Result<bool, LiveBusError> {
        // Held for one frame at a time. The log's thread finds it taken and leaves its commit to this one.
        let mut publisher = self.lane.publisher.lock();
        if cursor.position() != publisher.next() {
            *cursor = self.reader.frames(publisher.next())?;
        }
        let Some(frame) = cursor.next_frame()? else { return Ok(false) };
        publisher.publish(frame.bytes(), &self.intake.watermarks())?;
        Ok(true)
    }
}

/// The speculative publisher, part of the pipeline: told of every frame as soon as it is cut.
pub(crate) struct SpeculativeBus {
    publisher: BusPublisher,
    wakes: bool,
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
            wakes: config.wake_up == WakeUp::Event,
            intake,
            interval: config.heartbeat_interval,
            next_beat: Instant::now(),
            broken: false,
        })
    }

    /// Whether there may be subscribers that sleep, as of the last sample.
    pub(crate) fn wakes(&self) -> bool {
        self.wakes && self.publisher.receivers() > 0 && !self.broken
    }

    /// The next frame of the tape and its last event, accepted but not yet written. The log's memory is locked meanwhile: no
    /// place for a system call.
    pub(crate) fn accepted(&mut self, frame: &[u8], last: Sequence) {
        if !self.broken {
            // Not the ring's own `accepted`, which may be further: to look it up takes its line away from who claims there.
            let watermarks = Watermarks { accepted: last, ..self.intake.stages.watermarks() };
            if let Err(error) = self.publisher.publish_quietly(frame, &watermarks) {
                self.broken = true;
                self.intake.ended_parts.note("speculative_bus", &error);
            }
        }
    }

    /// The log has the frame, and its memory is free again.
    pub(crate) fn appended(&mut self) {
        if self.wakes() {
            self.publisher.wake_subscribers();
        }
    }

    /// When it wants to [`beat`](Self::beat).
    pub(crate) fn next_beat(&self) -> Option<Instant> {
        (!self.broken).then_some(self.next_beat)
    }

    /// It is that time.
    pub(crate) fn beat(&mut self) {
        self.publisher.heartbeat(&self.intake.watermarks());
        self.next_beat = Instant::now() + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use matchtape_bus::{BusSubscriber, Delivery, SubscriberOptions};
    use matchtape_schemas::event::{TimeAdvanced, encode_event};
    use matchtape_schemas::{
        AcceptedTime, Epoch, Event, EventTime, FrameFlags, FrameWriter, InstrumentId, ProducerId,
        ProducerSequence, Stage, TapeId,
    };
    use rkyv::util::AlignedVec;

    use super::*;
    use crate::{EndedPart, Node, NodeOptions};

    /// A frame of `events` events of 48 bytes.
    fn frame(head: &mut Head, events: u64) -> (FrameHeader, AlignedVec<16>) {
        let mut memory: AlignedVec<16> = AlignedVec::new();
        memory.resize(FRAME_BYTES_MAX, 0);
        let mut writer = FrameWriter::new(&mut memory, head);
        for _ in 0..events {
            let event =
                Event::new(InstrumentId(0), ProducerSequence(0), EventTime(1), TimeAdvanced::default());
            let mut bytes: AlignedVec<16> = AlignedVec::new();
            bytes.resize(event.encoded_len(), 0);
            encode_event(&event, ProducerId(0), &mut bytes);
            assert!(writer.push(&bytes));
        }
        let header = writer.finish(head, AcceptedTime(1), FrameFlags::NONE);
        memory.resize(header.length as usize, 0);
        (header, memory)
    }

    fn visible(sequence: Sequence) -> Watermarks {
        Watermarks {
            accepted: sequence,
            written: sequence,
            durable: sequence,
            replicated: sequence,
            visible: sequence,
        }
    }

    /// A bus namespace of its own.
    struct Place {
        root: tempfile::TempDir,
        namespace: String,
        head: Head,
    }

    impl Drop for Place {
        fn drop(&mut self) {
            // The 16 bytes per namespace that iceoryx2 keeps for good, and the lock.
            let own = format!("mt_{}_", self.namespace);
            for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
                let file = entry.file_name().to_string_lossy().into_owned();
                if file.starts_with(&own) && file.ends_with(".global_mgmt") {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
    }

    impl Place {
        fn new() -> Self {
            static MADE: AtomicU64 = AtomicU64::new(0);
            let namespace = format!("place{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
            let head = Head { epoch: Epoch::FIRST, ..Head::empty(TapeId(3)) };
            Self { root: tempfile::tempdir().unwrap(), namespace, head }
        }

        fn options(&self, wake_up: WakeUp) -> BusOptions {
            BusOptions {
                namespace: self.namespace.clone(),
                root: Some(self.root.path().to_owned()),
                config: BusConfig { wake_up, subscribers_max: 1, ..BusConfig::default() },
                ..BusOptions::default()
            }
        }

        fn lane(&self, wake_up: WakeUp) -> (LiveLane, BusName) {
            let options = self.options(wake_up);
            let name = options.name(self.head.tape).unwrap();
            (LiveLane::open(&name, &options, &self.head).unwrap(), name)
        }
    }

    fn sent(lane: &LiveLane, frames: &[(FrameHeader, AlignedVec<16>)], through: Sequence) -> bool {
        let last = frames.last().expect("a commit has frames").0.last_sequence();
        let frames = || frames.iter().map(|(header, bytes)| (*header, &bytes[..]));
        lane.send_directly(last, frames, &visible(through))
    }

    fn prepare(lane: &LiveLane, frames: &[(FrameHeader, AlignedVec<16>)]) {
        lane.prepare_frames(frames.iter().map(|(_, bytes)| &bytes[..]));
    }

    #[test]
    fn what_was_prepared_is_given_to_nobody_before_it_is_visible_and_then_once() {
        let mut place = Place::new();
        let (lane, name) = place.lane(WakeUp::BusyPoll);
        let options = SubscriberOptions {
            next: Some(Sequence::FIRST),
            wake_up: WakeUp::BusyPoll,
            ..SubscriberOptions::default()
        };
        let mut subscriber = BusSubscriber::open(&name, BusService::Live, &options).unwrap();
        let mut given = || {
            let mut given = Vec::new();
            while let Some(delivery) = subscriber.poll().unwrap() {
                let frame = match delivery {
                    Delivery::Frame(frame) => frame,
                    Delivery::Heartbeat { .. } => continue,
                    other => panic!("{other:?}"),
                };
                assert_eq!(frame.watermarks().visible, frame.frame().last_sequence());
                given.push(frame.frame().header().first_sequence.get());
            }
            given
        };
        let mut commits: Vec<_> = (0..10).map(|_| [frame(&mut place.head, 1)]).collect();
        // Nobody has been sent anything: it may be for nobody.
        prepare(&lane, &commits[0]);
        assert_eq!(lane.publisher.lock().heartbeat(&visible(Sequence::ZERO)), 1);
        // Two under way, one after the other.
        prepare(&lane, &commits[0]);
        prepare(&lane, &commits[1]);
        assert_eq!(given(), Vec::<u64>::new());
        assert!(sent(&lane, &commits[0], Sequence(1)));
        assert_eq!(given(), [1]);
        assert!(sent(&lane, &commits[1], Sequence(2)));
        assert_eq!(given(), [2]);
        // Not the next one: nothing is prepared, and what is in turn is sent all the same.
        prepare(&lane, &commits[3]);
        assert!(sent(&lane, &commits[2], Sequence(3)));
        assert!(sent(&lane, &commits[3], Sequence(4)));
        assert_eq!(given(), [3, 4]);
        // Somebody else has sent it meanwhile: the bus's own thread, from the log.
        prepare(&lane, &commits[4]);
        lane.publisher.lock().publish(&commits[4][0].1, &visible(Sequence(5))).unwrap();
        assert!(sent(&lane, &commits[4], Sequence(5)));
        assert_eq!(given(), [5]);
        // More than are prepared: the rest is copied now.
        let rest: Vec<_> = commits.drain(5..).flatten().collect();
        prepare(&lane, &rest);
        let before = lane.publisher.lock().counters();
        assert!(!sent(&lane, &rest, Sequence(9)), "what is not visible yet is not sent");
        assert_eq!(lane.publisher.lock().next(), Sequence(10));
        lane.publisher.lock().publish(&rest[4].1, &visible(Sequence(10))).unwrap();
        assert_eq!(lane.publisher.lock().counters().frames - before.frames, 5);
    }

    #[test]
    fn where_subscribers_poll_a_small_commit_is_sent_by_whoever_made_it_visible() {
        let mut place = Place::new();
        let (lane, name) = place.lane(WakeUp::BusyPoll);
        let options = SubscriberOptions {
            wake_up: WakeUp::BusyPoll,
            next: Some(Sequence::FIRST),
            ..SubscriberOptions::default()
        };
        let mut subscriber = BusSubscriber::open(&name, BusService::Live, &options).unwrap();
        let commit = [frame(&mut place.head, 3), frame(&mut place.head, 2)];
        assert!(sent(&lane, &commit, Sequence(5)));
        for (first, last) in [(1, 3), (4, 5)] {
            match subscriber.poll().unwrap() {
                Some(Delivery::Frame(frame)) => {
                    let frame = frame.frame();
                    assert_eq!((frame.first_sequence().get(), frame.last_sequence().get()), (first, last));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_large_out_of_turn_not_yet_visible_or_in_use_is_left_to_the_buss_own_thread() {
        let mut place = Place::new();
        let (lane, _) = place.lane(WakeUp::BusyPoll);
        let first = [frame(&mut place.head, 3)];
        // A group that goes on: its frame is durable, its end is not.
        assert!(!sent(&lane, &first, Sequence(2)));
        {
            let _sending = lane.publisher.lock();
            assert!(!sent(&lane, &first, Sequence(3)), "it does not wait");
        }
        let second = [frame(&mut place.head, 1)];
        assert!(!sent(&lane, &second, Sequence(4)), "the one before has not been sent");
        assert_eq!(lane.publisher.lock().next(), Sequence(1));
        assert!(sent(&lane, &first, Sequence(4)) && sent(&lane, &second, Sequence(4)));
        let frames = lane.publisher.lock().counters().frames;
        assert!(sent(&lane, &second, Sequence(4)), "it has been");
        assert_eq!(lane.publisher.lock().counters().frames, frames, "nothing is sent twice");
        let large = [frame(&mut place.head, 1000), frame(&mut place.head, 1000)];
        assert!(!sent(&lane, &large, Sequence(2004)));
        assert_eq!(lane.publisher.lock().next(), Sequence(5), "nothing of it was sent");
        // The bus's thread is told.
        lane.visible(None, &visible(Sequence(2004)));
        assert!(lane.due.load(Ordering::Relaxed));
    }

    #[test]
    fn where_subscribers_sleep_the_log_sends_and_leaves_waking_them_to_the_buss_own_thread() {
        let mut place = Place::new();
        let (lane, name) = place.lane(WakeUp::Event);
        let options = SubscriberOptions {
            next: Some(Sequence::FIRST),
            spin: Duration::ZERO,
            ..SubscriberOptions::default()
        };
        let mut subscriber = BusSubscriber::open(&name, BusService::Live, &options).unwrap();
        let commit = [frame(&mut place.head, 1)];
        assert!(sent(&lane, &commit, Sequence(1)));
        assert!(matches!(subscriber.poll().unwrap(), Some(Delivery::Frame(_))), "who polls has it at once");
        let nap = Duration::from_millis(20);
        assert!(!subscriber.wait(nap).unwrap());
        let slept = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let commit = [frame(&mut place.head, 1)];
                assert!(sent(&lane, &commit, Sequence(2)));
                lane.visible(None, &visible(Sequence(2)));
                assert!(lane.due.load(Ordering::Relaxed), "the bus's thread is told");
                lane.publisher.lock().wake_subscribers();
            });
            assert!(subscriber.wait(Duration::from_secs(30)).unwrap());
        });
        assert!(slept.elapsed() < Duration::from_secs(10), "it was woken, not only timed out");
    }

    #[test]
    fn a_bus_that_panics_is_left_alone_from_then_on() {
        let mut place = Place::new();
        let (lane, _) = place.lane(WakeUp::BusyPoll);
        let commit = [frame(&mut place.head, 1)];
        let panics = || -> std::vec::IntoIter<(FrameHeader, &[u8])> { panic!("as a broken bus would") };
        assert!(!lane.send_directly(Sequence(1), panics, &visible(Sequence(1))));
        assert!(!sent(&lane, &commit, Sequence(1)));
    }

    #[test]
    fn a_bus_that_panicked_on_the_log_s_thread_ends_on_its_own_and_the_node_names_it() {
        let place = Place::new();
        let node = Node::open(&place.root.path().join("data"), NodeOptions::default(), Vec::new()).unwrap();
        let (lane, name) = place.lane(WakeUp::BusyPoll);
        let (lane, options) = (Arc::new(lane), BusOptions::default());
        let intake = Arc::clone(&node.intake);
        let bus = LiveBus::start(&name, &options, Arc::clone(&lane), node.reader(), intake).unwrap();
        assert_eq!(node.ended_parts(), []);
        let panics = || -> std::vec::IntoIter<(FrameHeader, &[u8])> { panic!("as a broken bus would") };
        let begun = Instant::now();
        // Once it finds the publisher free: the bus's thread is at work too.
        while !lane.broken.load(Ordering::Relaxed) {
            assert!(begun.elapsed() < Duration::from_secs(30), "it never sends");
            lane.send_directly(Sequence(1), panics, &visible(Sequence(1)));
        }
        // At the next beat. Nothing but this ends the thread.
        let begun = Instant::now();
        while !bus.thread.as_ref().is_some_and(PortThread::is_finished) {
            assert!(begun.elapsed() < Duration::from_secs(30), "it goes on");
            std::thread::yield_now();
        }
        let ended = EndedPart { part: "live_bus", why: "sending panicked".into() };
        assert_eq!(node.ended_parts(), [ended]);
        bus.stop();
    }

    #[test]
    fn a_nodes_commits_are_prepared_before_they_are_durable() {
        let place = Place::new();
        // The bus's own thread is at work only now and then.
        let bus = place.options(WakeUp::BusyPoll);
        let options = NodeOptions { bus: Some(bus), ..NodeOptions::default() };
        let node = Node::open(&place.root.path().join("data"), options, Vec::new()).unwrap();
        let mut publisher = node.publisher(ProducerId(1)).unwrap();
        let settings = SubscriberOptions { wake_up: WakeUp::BusyPoll, ..SubscriberOptions::default() };
        let mut subscriber =
            BusSubscriber::open(node.bus_name().unwrap(), BusService::Live, &settings).unwrap();
        while subscriber.poll().unwrap().is_none() {
            std::thread::yield_now();
        }
        for number in 1..=50 {
            let body = TimeAdvanced::default();
            let event = Event::new(InstrumentId(0), ProducerSequence(number), EventTime(1), body);
            let sequence = publisher.publish(&event).unwrap().sequence();
            node.wait(sequence, Stage::Visible).unwrap();
        }
        let live = node.live.as_ref().expect("a node with a bus");
        let counters = live.lane.publisher.lock().counters();
        assert!(counters.prepared >= 25, "{counters:?}");
        drop(publisher);
        node.close().unwrap();
    }
}
