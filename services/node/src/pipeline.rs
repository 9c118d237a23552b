//! The pipeline: frames what has accumulated in the ring and hands it to the log, and to the speculative bus. It has a thread; while
//! that sleeps, whoever publishes does its work.
//!
//! ```text
//!   ring --frame--> log (its own thread writes and syncs) --committed--> stages, readers, live bus
//!              \--> speculative bus
//! ```
//!
//! It never waits for a disk, a network or a subscriber. When the log is behind by all its buffers, or the memtable by
//! all its memory, events stay in the ring, and a full ring is the publishers' `WouldBlock`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use matchtape_bus::bind_to_core;
use matchtape_schemas::limits::FRAME_BYTES_MAX;
use matchtape_schemas::publish::WaitError;
use matchtape_schemas::{Sequence, Stage, Watermarks};
use matchtape_storage::wal::{AppendError, CommitBuffer, CommitObserver, Committed, WalError};
use matchtape_storage::{EventStore, VisibleGate};
use parking_lot::MutexGuard;

use crate::bus::{LiveLane, SpeculativeBus};
use crate::framer::Framer;
use crate::latency::StageLatency;
use crate::publisher::{Intake, wall_clock};
use crate::ring::RingReader;
use crate::stages::Stages;

/// How the pipeline thread waits for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipelineWait {
    /// Looks for events this long, then sleeps. While it sleeps a publisher frames its own event, and wakes the log where that
    /// sleeps; an event that comes within that time of the one before it wakes the pipeline instead, and pays for that call. With
    /// zero events are framed by who publishes them wherever nothing speaks against it (another publisher at it, the log
    /// taking what it has, speculative subscribers that sleep): the shortest way to a speculative subscriber that polls, at a frame
    /// for each event.
    Adaptive {
        /// How long it looks.
        spin: Duration,
    },
    /// Looks for events this long, then again after every nap: nobody wakes it, so `publish` never is a system call. For an
    /// engine whose own time is dear; an event on an idle tape waits for the end of a nap, and of what the system adds to it.
    Nap {
        /// How long it looks.
        spin: Duration,
        /// How long it sleeps. At 50 us an idle pipeline takes some hundredths of a core.
        nap: Duration,
    },
    /// Never sleeps: a core is its own.
    Spin,
}

impl Default for PipelineWait {
    fn default() -> Self {
        Self::Adaptive { spin: Duration::from_micros(50) }
    }
}

impl PipelineWait {
    /// How long it looks for events before it sleeps so that it has to be woken.
    pub(crate) fn looks_for(self) -> Duration {
        match self {
            Self::Adaptive { spin } => spin,
            Self::Nap { .. } | Self::Spin => Duration::MAX,
        }
    }
}

/// From which stage on readers are given events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VisibleAt {
    /// Once they are synced: nothing a reader saw can vanish.
    #[default]
    Durable,
    /// Once they are handed to the kernel: what readers saw in the last moments vanishes when the power goes.
    Written,
}

/// How often the pipeline looks for an event before it looks at the clock: some microseconds.
const LOOKS: u32 = 64;
/// How long the pipeline leaves a full memtable alone before it looks again.
const PRESSURE_PAUSE: Duration = Duration::from_micros(500);
/// No pause is longer: what was behind may have caught up.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// What the log thread tells: raises the stages, opens the gate of the readers.
pub(crate) struct Progress {
    pub(crate) stages: Arc<Stages>,
    pub(crate) gate: Arc<VisibleGate>,
    pub(crate) visible_at: VisibleAt,
    pub(crate) intake: Arc<Intake>,
    pub(crate) commits: Arc<AtomicU64>,
    pub(crate) latency: Arc<StageLatency>,
    pub(crate) live: Option<Arc<LiveLane>>,
    /// The last group end that was written.
    pub(crate) written_group_end: Sequence,
    /// The core the log's thread is bound to.
    pub(crate) core: Option<usize>,
}

impl Progress {
    /// The stages have come this far; `durable` and `visible` are ends of groups. `commit` is what made it so, if it was one.
    ///
    /// Wakes nobody: that is [`wake`](Self::wake), a system call for each who sleeps, and a subscriber that polls would
    /// have to wait for all of them.
    fn reached(
        &self,
        written: Sequence,
        durable: Sequence,
        visible: Sequence,
        commit: Option<&CommitBuffer>,
    ) {
        self.stages.reach(Stage::Written, written);
        self.stages.reach(Stage::Durable, durable);
        // A node alone is its own quorum.
        self.stages.reach(Stage::Replicated, durable);
        if visible > self.stages.get(Stage::Visible) {
            // The gate first: who is told that an event is visible must be able to read it.
            self.gate.raise(visible);
            self.stages.reach(Stage::Visible, visible);
            if let Some(live) = &self.live {
                // As much as was written was accepted. How much more, stands where publishers claim: the bus's signs of life
                // tell, and the way of an event does not wait for that.
                let accepted = written.max(visible);
                let watermarks =
                    Watermarks { accepted, written: accepted, durable, replicated: durable, visible };
                live.visible(commit, &watermarks);
            }
        }
    }

    fn wake(&self) {
        for stage in [Stage::Written, Stage::Durable, Stage::Replicated, Stage::Visible] {
            self.stages.wake(stage);
        }
        if let Some(live) = &self.live {
            live.call_thread();
        }
    }
}

/// Binds the calling thread, as was found possible when the node was opened.
pub(crate) fn bind(thread: &str, core: Option<usize>) {
    if let Some(core) = core
        && let Err(error) = bind_to_core(core)
    {
        tracing::warn!(%error, thread, "not bound to its core");
    }
}

impl CommitObserver for Progress {
    fn started(&mut self) {
        bind("log", self.core);
    }

    fn writing(&mut self, commit: &CommitBuffer) {
        if let Some(live) = &self.live {
            live.prepare(commit);
        }
    }

    fn committed(&mut self, committed: &Committed) {
        let synced_at = wall_clock();
        let commit = &committed.commit;
        self.written_group_end = commit.last_group_end().unwrap_or(self.written_group_end);
        let visible = match self.visible_at {
            VisibleAt::Written => self.written_group_end,
            VisibleAt::Durable => committed.durable,
        };
        let oldest = commit.frames().next().map(|(frame, _)| frame);
        let of_oldest = |reached: Sequence| oldest.filter(|oldest| oldest.last_sequence() <= reached);
        // Before anybody can have seen the events.
        if of_oldest(committed.durable).is_some() {
            self.latency.set_durable_at(synced_at);
        }
        self.reached(committed.written, committed.durable, visible, Some(commit));
        // Before anybody is woken, so that who is finds it recorded.
        if let Some(oldest) = of_oldest(committed.durable) {
            self.latency.record(Stage::Durable, oldest.accepted_time, synced_at);
        }
        if let Some(oldest) = of_oldest(self.stages.get(Stage::Visible)) {
            self.latency.record(Stage::Visible, oldest.accepted_time, wall_clock());
        }
        self.wake();
        // Release: pairs with the Acquire in `PipelineThread::wait_for_log`.
        self.commits.fetch_add(1, Ordering::Release);
        self.intake.room.ring();
    }

    fn durable(&mut self, durable: Sequence) {
        let written = self.stages.get(Stage::Written);
        self.reached(written, durable, durable, None);
        self.wake();
    }

    fn failed(&mut self, error: &Arc<WalError>) {
        if !matches!(**error, WalError::Closed) {
            tracing::error!(%error, "the log failed: no more events are taken, and the outcome of those under way is unknown");
            self.stages.end(WaitError::Poisoned);
            self.intake.close();
        }
    }
}

/// What frames events: whoever has it locked, the pipeline's thread or a publisher that finds that asleep. While the thread is
/// awake it keeps it.
pub(crate) struct Pipeline {
    pub(crate) ring: RingReader,
    pub(crate) framer: Framer,
    pub(crate) store: Arc<EventStore>,
    pub(crate) speculative: Option<SpeculativeBus>,
    /// The last frame handed to the log lies inside a group that goes on.
    pub(crate) inside_group: bool,
    /// By how much taking events is to be slowed down, in thousandths, as when it was last asked for.
    pub(crate) slow: u32,
    /// What publishers have framed since then.
    pub(crate) unasked_bytes: usize,
}

/// Publishers frame so much before they ask how full memory is: that takes a view of all of it, which may turn out to be the last
/// one of what was flushed meanwhile, to be freed on the engine's thread.
const UNASKED_BYTES_MAX: usize = 256 << 10;

/// What became of the next frame.
enum Appended {
    /// The log has it.
    Frame,
    /// The log has no room, or (where it was not to be waited for) is about to take what it has.
    NoRoom,
    /// The log takes no more.
    Ended,
}

impl Pipeline {
    /// One frame. `waits`: for the log's lock, which its threads never hold for long, unless one loses its core meanwhile.
    fn append(&mut self, intake: &Intake, waits: bool) -> Appended {
        let (store, ring, framer) = (&self.store, &self.ring, &mut self.framer);
        let (wal, speculative) = (store.wal(), &mut self.speculative);
        let mut taken = 0;
        let write = |out: &mut [u8]| {
            let (frame, events) = framer.frame(ring, out, wall_clock(), || wal.wants_segment_end());
            taken = events;
            if let Some(bus) = speculative {
                bus.accepted(&out[..frame.length as usize], frame.last_sequence());
            }
            frame
        };
        let appended =
            if waits { wal.append(FRAME_BYTES_MAX, write) } else { wal.try_append(FRAME_BYTES_MAX, write) };
        match appended {
            Ok(frame) => {
                self.inside_group = !frame.ends_group();
                self.ring.release(taken);
                // Relaxed: only the idle clock looks, and only whether the tape is of today; and whoever asks a gauge.
                intake.max_event_time.store(frame.max_event_time.get(), Ordering::Relaxed);
                intake.accepted_time.store(frame.accepted_time.get(), Ordering::Relaxed);
                intake.stages.raise(Stage::Accepted, frame.last_sequence());
                if let Some(bus) = &mut self.speculative {
                    bus.appended();
                }
                self.unasked_bytes += frame.length as usize;
                if waits || self.unasked_bytes >= UNASKED_BYTES_MAX {
                    // After a frame and not before the next: only what is appended here makes it more, and an event that
                    // comes alone need not wait for the answer.
                    self.slow = self.slow_down(intake);
                    self.unasked_bytes = 0;
                }
                Appended::Frame
            }
            Err(AppendError::Full) => Appended::NoRoom,
            Err(AppendError::Ended(error)) => {
                tracing::error!(%error, "the log takes no more frames");
                Appended::Ended
            }
            Err(AppendError::Chain(error)) => panic!("nobody else continues the chain: {error}"),
        }
    }

    /// In thousandths, as `Pressure` has it. A group that was begun is always ended: before its end nothing of it can be
    /// flushed. What a closed ring still holds is taken at once: it is bounded, and on a full disk the pressure never ends.
    fn slow_down(&self, intake: &Intake) -> u32 {
        let slow = if self.inside_group { 0 } else { self.store.pressure().slow_down().0 };
        if slow > 0 && intake.ring.is_closed() { 0 } else { slow }
    }

    /// Whoever has put an event into the ring while the pipeline's thread sleeps frames it here and now: waking that
    /// thread is a system call, and takes it tens of microseconds. `false`: there is something for the thread to do, be it
    /// that events come so fast that it had better be awake.
    ///
    /// It takes one frame at most, and no lock that a log thread keeps while it works: what is not as usual is left to the
    /// thread. What may come with a frame comes here too: waking the log, or who waits for room, and a new commit buffer.
    pub(crate) fn frame_here(&mut self, intake: &Intake, looks_ns: i64) -> bool {
        // Waking subscribers that sleep is a system call for each, and no publisher's.
        let wakes = self.speculative.as_ref().is_some_and(SpeculativeBus::wakes);
        if wakes || self.slow > 0 || self.store.health().is_err() || !Framer::ready(&self.ring) {
            return false;
        }
        // Relaxed: written under this lock.
        let before = intake.accepted_time.load(Ordering::Relaxed);
        if !matches!(self.append(intake, false), Appended::Frame) {
            return false;
        }
        let since = intake.accepted_time.load(Ordering::Relaxed).saturating_sub(before);
        // Had the thread been awake, it would still have been looking when this event came.
        since >= looks_ns && !Framer::ready(&self.ring)
    }

    fn next_beat(&self) -> Option<Instant> {
        self.speculative.as_ref().and_then(SpeculativeBus::next_beat)
    }

    /// Whatever is waited for: readers would take silence for the bus's end.
    fn beat_if_due(&mut self) {
        if let Some(bus) = &mut self.speculative
            && bus.next_beat().is_some_and(|beat| Instant::now() >= beat)
        {
            bus.beat();
        }
    }
}

/// The pipeline, while its thread has it; `None` once that has ended, or a publisher has panicked with it.
struct Held<'a>(MutexGuard<'a, Option<Box<Pipeline>>>);

impl<'a> Held<'a> {
    fn take(intake: &'a Intake) -> Self {
        Self(intake.pipeline.lock())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // What it is like after a panic nobody knows, and a publisher could have it next.
        if std::thread::panicking() {
            *self.0 = None;
        }
    }
}

/// The thread that has the pipeline whenever it is awake.
pub(crate) struct PipelineThread {
    pub(crate) intake: Arc<Intake>,
    pub(crate) wait: PipelineWait,
    pub(crate) commits: Arc<AtomicU64>,
}

/// However the thread ends, it takes the pipeline along, and if it panics nobody with it into waiting for ever.
struct TakeAlong(Arc<Intake>);

impl Drop for TakeAlong {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison();
        }
        *self.0.pipeline.lock() = None;
    }
}

/// The time that the pipeline owes to what is behind it. It only takes events more slowly: publishers see their ring drain
/// more slowly, and `WouldBlock` when it is full.
#[derive(Default)]
struct Pause {
    owed: Duration,
}

impl Pause {
    /// After `worked`, when events are to be slowed down by `slow` thousandths: the share of the time that is a pause.
    fn owe(&mut self, worked: Duration, slow: u32) {
        self.owed += worked * slow / (1000 - slow).max(1);
        // A shorter sleep takes longer than it says.
        if self.owed >= PRESSURE_PAUSE {
            std::thread::park_timeout(self.owed.min(PAUSE_MAX));
            self.owed = Duration::ZERO;
        }
    }
}

impl PipelineThread {
    /// Runs until the ring is closed and empty, or the log has ended.
    pub(crate) fn run(self, mut pipeline: Pipeline) {
        let intake = Arc::clone(&self.intake);
        let _along = TakeAlong(Arc::clone(&intake));
        pipeline.slow = pipeline.slow_down(&intake);
        let mut held = Held::take(&intake);
        *held.0 = Some(Box::new(pipeline));
        let mut pause = Pause::default();
        loop {
            // Taken away where a publisher panicked with it.
            let Some(pipeline) = held.0.as_mut() else { return };
            if !Framer::ready(&pipeline.ring) {
                // Once the ring is closed nothing more is claimed: what has been read is then all there is.
                if intake.ring.is_closed() && pipeline.ring.released() == intake.ring.claimed() {
                    return;
                }
                held = self.wait_for_events(held, &intake);
                continue;
            }
            // Nothing would ever make room again; better said now than when memory is full.
            if let Err(error) = pipeline.store.health() {
                tracing::error!(%error, "indexing or flushing failed: no more events are taken");
                intake.poison();
                return;
            }
            if pipeline.slow >= 1000 {
                std::thread::park_timeout(PRESSURE_PAUSE);
                pipeline.beat_if_due();
                pipeline.slow = pipeline.slow_down(&intake);
                continue;
            }
            let begun = Instant::now();
            let commits = self.commits.load(Ordering::Acquire);
            match pipeline.append(&intake, true) {
                Appended::Frame => {}
                Appended::NoRoom => self.wait_for_log(pipeline, commits),
                Appended::Ended => {
                    intake.poison();
                    return;
                }
            }
            if pipeline.slow > 0 {
                pause.owe(begun.elapsed(), pipeline.slow);
            }
        }
    }

    /// Sleeps until the log has written another commit than the first `seen`, or a sign of life is due.
    fn wait_for_log(&self, pipeline: &mut Pipeline, seen: u64) {
        // Acquire: pairs with the Release in `Progress::committed`.
        let committed = || self.commits.load(Ordering::Acquire) != seen;
        let moved = || committed() || self.intake.ring.is_closed();
        if !moved() {
            self.intake.room.sleep_unless(moved, pipeline.next_beat());
        } else if !committed() {
            // The log may have ended instead, which only the next frame for it is told.
            std::thread::park_timeout(PRESSURE_PAUSE);
        }
        pipeline.beat_if_due();
    }

    /// Looks at the slot that is to be filled, and only now and then at anything else: whether the ring is closed stands
    /// where publishers claim, and every look takes that line away from them. Asleep it lets go of the pipeline.
    fn wait_for_events<'a>(&self, mut held: Held<'a>, intake: &'a Intake) -> Held<'a> {
        let start = Instant::now();
        let Some(pipeline) = held.0.as_mut() else { return held };
        loop {
            for _ in 0..LOOKS {
                if Framer::ready(&pipeline.ring) {
                    return held;
                }
                std::hint::spin_loop();
            }
            if intake.ring.is_closed() {
                // Claimed before the closing, still being filled in by its producer.
                std::thread::yield_now();
                return held;
            }
            pipeline.beat_if_due();
            match self.wait {
                PipelineWait::Adaptive { spin } if start.elapsed() >= spin => break,
                PipelineWait::Nap { spin, nap } if start.elapsed() >= spin => std::thread::sleep(nap),
                PipelineWait::Adaptive { .. } | PipelineWait::Nap { .. } | PipelineWait::Spin => {}
            }
        }
        let beat = pipeline.next_beat();
        // Said to be asleep, and only then let go of: whoever fills a slot after this look either gets the pipeline, or
        // finds that somebody has it and rings.
        let available = || {
            let ready = held.0.as_ref().is_none_or(|pipeline| Framer::ready(&pipeline.ring));
            drop(held);
            ready || intake.ring.is_closed()
        };
        intake.bell.sleep_unless(available, beat);
        let mut held = Held::take(intake);
        if let Some(pipeline) = held.0.as_mut() {
            pipeline.beat_if_due();
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use matchtape_schemas::event::{Event, TimeAdvanced};
    use matchtape_schemas::publish::PublishError;
    use matchtape_schemas::{EventTime, InstrumentId, ProducerId, ProducerSequence};
    use matchtape_storage::sim::SimDisk;

    use super::*;
    use crate::publisher::Publisher;
    use crate::{Node, NodeOptions};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn open(spin: Duration) -> (Node, Publisher) {
        let wait = PipelineWait::Adaptive { spin };
        let mut options = NodeOptions { wait, ring_slots: 64, ..NodeOptions::default() };
        options.store.wal.segment_bytes = matchtape_storage::limits::SEGMENT_BYTES_MIN;
        options.store.wal.commit_bytes = matchtape_storage::limits::COMMIT_BYTES_MIN;
        let node = Node::open_on(Arc::new(SimDisk::new(1)), options, Vec::new()).unwrap();
        let publisher = node.publisher(ProducerId(1)).unwrap();
        (node, publisher)
    }

    fn event(number: u64) -> Event {
        Event::new(InstrumentId(0), ProducerSequence(number), EventTime(1), TimeAdvanced::default())
    }

    fn until(what: &str, condition: impl Fn() -> bool) {
        let begun = Instant::now();
        while !condition() {
            assert!(begun.elapsed() < PATIENCE, "{what}");
            std::thread::yield_now();
        }
    }

    fn asleep(node: &Node) {
        let ended = || node.intake.stages.ended().is_some();
        until("the pipeline's thread sleeps", || node.intake.bell.is_slept_at() || ended());
    }

    #[test]
    fn an_event_that_finds_the_pipeline_asleep_is_framed_by_who_publishes_it() {
        let (node, mut publisher) = open(Duration::ZERO);
        // The start of the term wakes it.
        let first = publisher.publish(&event(1)).unwrap().sequence();
        node.wait_for(first, Stage::Visible, PATIENCE).unwrap();
        let (mut framed, woken) = (0, node.intake.bell.woken());
        for number in 2..=200 {
            asleep(&node);
            let sequence = publisher.publish(&event(number)).unwrap().sequence();
            framed += u64::from(node.intake.stages.get(Stage::Accepted) >= sequence);
            node.wait_for(sequence, Stage::Visible, PATIENCE).unwrap();
        }
        let woken = node.intake.bell.woken() - woken;
        // Where the log's thread has the log at that moment, it is woken after all.
        assert!(framed >= 150 && woken <= 49, "{framed} framed at once, woken {woken} times");
        drop(publisher);
        node.close().unwrap();
    }

    #[test]
    fn an_event_that_comes_soon_after_another_wakes_the_pipeline() {
        let spin = Duration::from_millis(100);
        let (node, mut publisher) = open(spin);
        let mut number = 0;
        let mut publish = |publisher: &mut Publisher| {
            number += 1;
            let sequence = publisher.publish(&event(number)).unwrap().sequence();
            node.wait_for(sequence, Stage::Visible, PATIENCE).unwrap();
        };
        publish(&mut publisher);
        // It has looked for events that long since then.
        asleep(&node);
        let woken = node.intake.bell.woken();
        let since = Instant::now();
        publish(&mut publisher);
        publish(&mut publisher);
        if since.elapsed() < spin {
            assert_eq!(node.intake.bell.woken(), woken + 1);
        }
        drop(publisher);
        node.close().unwrap();
    }

    /// Panics on the thread that made it, and does nothing elsewhere.
    struct Panics(std::thread::ThreadId);

    impl std::task::Wake for Panics {
        fn wake(self: Arc<Self>) {
            assert_ne!(std::thread::current().id(), self.0, "as a broken bus or log would");
        }
    }

    #[test]
    fn a_publisher_that_panics_while_it_frames_lives_and_the_node_takes_no_more() {
        let (node, mut publisher) = open(Duration::ZERO);
        let waker = std::task::Waker::from(Arc::new(Panics(std::thread::current().id())));
        let begun = Instant::now();
        // Whoever frames it wakes who waits for that; sooner or later it is this thread.
        let refused = (1..).find_map(|number| {
            assert!(begun.elapsed() < PATIENCE, "somebody else frames them all");
            asleep(&node);
            let mut framed = node.wait_async(Sequence(number + 1), Stage::Accepted);
            let _ = std::pin::Pin::new(&mut framed).poll(&mut std::task::Context::from_waker(&waker));
            publisher.publish(&event(number)).err()
        });
        assert_eq!(refused, Some(PublishError::Poisoned));
        let last = node.watermarks().accepted;
        assert_eq!(node.wait_for(last.next(), Stage::Visible, PATIENCE), Err(WaitError::Poisoned));
        until("its thread ends", || node.pipeline.as_ref().is_some_and(|thread| thread.is_finished()));
        drop(publisher);
        // The log is as well as ever, and keeps what it was given.
        node.close().unwrap();
    }
}
