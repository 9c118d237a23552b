//! The log threads: each takes a commit, places it, writes it and settles it in order.
//!
//! Every log thread does all of a commit's steps itself, so that no commit is handed from one to another. A second one begins
//! beside the first when a buffer is full: then it is volume that counts, and one commit's sums are made while the next is
//! written. What does not fill a buffer waits for the commit under way and becomes the next one. Written beside it, as was
//! tried (up to four, each begun as soon as there was an event), batches become smaller and nothing is gained on two cores: 32
//! producers of single events reached 74 000/s on threads and 122 000/s as tasks, against 82 000 to 103 000 and 117 000 to
//! 147 000 one at a time. Nor by a thread that is woken before there is work for it, or that waits some microseconds for more
//! (benches/README.md). Where a sync makes durable whatever was written before it, one thread does as well, and there is
//! only one ([`Writer::takes_several`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use matchtape_schemas::Sequence;
use parking_lot::{Mutex, MutexGuard};

use super::batches::{Batches, Shared};
use super::{CommitObserver, WhenFull};
use crate::guard::caught;
use crate::wal::config::SyncPolicy;
use crate::wal::error::WalError;
use crate::wal::space::Lacking;
use crate::wal::writer::{Placed, Writer};

/// The threads' name.
const THREAD: &str = "wal-commit";

/// Commits that are written at once, where that is of use.
const UNDER_WAY_MAX: usize = 2;

/// How long a full disk is left alone before the next segment is tried again.
const FULL_DISK_RETRY: Duration = Duration::from_millis(200);

/// Starts the threads.
pub(super) fn start(
    writer: Writer,
    observer: impl CommitObserver,
    shared: &Arc<Shared>,
) -> Vec<JoinHandle<Result<(), WalError>>> {
    let threads = if writer.takes_several() { UNDER_WAY_MAX } else { 1 };
    let told = writer.durable_group_end();
    let core = Core {
        writer,
        observer,
        under_way: VecDeque::with_capacity(threads),
        first_under_way: 0,
        commits_under_way: 0,
        running: threads,
        last_settled: Instant::now(),
        last_sync: Instant::now(),
        told,
        lacks_space: false,
    };
    let log = Arc::new(Log { core: Mutex::new(core), threads, shared: Arc::clone(shared) });
    let thread = |_| {
        let log = Arc::clone(&log);
        std::thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || log.run())
            .expect("the system can start a thread")
    };
    (0..threads).map(thread).collect()
}

/// What the log threads share among them.
struct Log<O> {
    core: Mutex<Core<O>>,
    threads: usize,
    shared: Arc<Shared>,
}

struct Core<O> {
    writer: Writer,
    observer: O,
    /// Blocks that were placed and not settled, in order; there once they are written.
    under_way: VecDeque<Option<Placed>>,
    /// The number of the first of them, counted from the start.
    first_under_way: u64,
    /// How many of them are commits, not idle blocks.
    commits_under_way: usize,
    /// Threads that are not through.
    running: usize,
    last_settled: Instant,
    last_sync: Instant,
    /// The last group end that the observer knows to be durable.
    told: Sequence,
    /// The disk was full at the last try.
    lacks_space: bool,
}

enum Next {
    Commit,
    Sync,
    /// Only if the observer still wants it.
    AskForSync,
    Idle,
    Close,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Deadline {
    Sync,
    Idle,
}

impl<O: CommitObserver> Log<O> {
    fn run(&self) -> Result<(), WalError> {
        // A panic, the observer's included, ends the log like a failed write: whoever waits for it has to be told.
        let result = caught(|| {
            self.core.lock().observer.started();
            self.serve()?;
            self.finish()
        });
        match result.unwrap_or_else(|message| Err(WalError::Panicked { thread: THREAD, message })) {
            Ok(()) => Ok(()),
            Err(error) => self.fail(error),
        }
    }

    /// Ends the log for everybody; the first failure is told.
    fn fail(&self, error: WalError) -> Result<(), WalError> {
        let mut core = self.core.lock();
        let mut batches = self.shared.batches.lock();
        if let Some(cause) = &batches.ended {
            return Err(WalError::Poisoned(Arc::clone(cause)));
        }
        let cause = match error {
            WalError::Poisoned(cause) => cause,
            other => Arc::new(other),
        };
        batches.ended = Some(Arc::clone(&cause));
        drop(batches);
        self.shared.closing.notify_all();
        self.shared.has_work.store(true, Ordering::Release);
        self.shared.work.notify_all();
        self.shared.room.notify_all();
        self.shared.sealed.notify_all();
        // An observer that panics here too has said what there is to say.
        let _ = caught(|| core.observer.failed(&cause));
        Err(WalError::Poisoned(cause))
    }

    fn ended(&self) -> Result<(), WalError> {
        match &self.shared.batches.lock().ended {
            None => Ok(()),
            Some(cause) => Err(WalError::Poisoned(Arc::clone(cause))),
        }
    }

    /// The last thread to come here ends the log in order.
    fn finish(&self) -> Result<(), WalError> {
        let mut core = self.core.lock();
        core.running -= 1;
        if core.running > 0 {
            return Ok(());
        }
        self.ended()?;
        // The last sync is announced like every other, before the log is gone.
        if core.writer.has_unsynced() {
            core.sync()?;
        }
        loop {
            match core.writer.finish() {
                Err(error) if error.may_pass() => self.wait_for_space(&mut core, error)?,
                done => break done?,
            }
        }
        self.shared.batches.lock().ended = Some(Arc::new(WalError::Closed));
        self.shared.sealed.notify_all();
        Ok(())
    }

    fn serve(&self) -> Result<(), WalError> {
        // What recovery has found at the end of the log is not proven yet, and nothing may ever follow it.
        let mut deadline = self.deadline(&self.core.lock());
        loop {
            match self.next(deadline) {
                Next::Commit => {
                    let mut core = self.core.lock();
                    match self.begin(&mut core)? {
                        Some(begun) => {
                            core = self.write(core, begun)?;
                            deadline = self.deadline(&core);
                        }
                        None => deadline = None,
                    }
                }
                Next::Sync => {
                    let mut core = self.core.lock();
                    core.sync()?;
                    deadline = self.deadline(&core);
                }
                Next::AskForSync => {
                    let mut core = self.core.lock();
                    // Whoever settles what is under way asks anyway.
                    if core.under_way.is_empty() && core.writer.has_unsynced() && core.observer.wants_sync() {
                        core.sync()?;
                    }
                    deadline = self.deadline(&core);
                }
                Next::Idle => {
                    let core = self.idle(self.core.lock())?;
                    deadline = self.deadline(&core);
                }
                Next::Close => return self.ended(),
            }
        }
    }

    /// Takes the next commit and places it; `None` where nothing can be begun now: whoever settles what is under way looks
    /// again.
    fn begin(&self, core: &mut Core<O>) -> Result<Option<(u64, Placed)>, WalError> {
        let shared = &*self.shared;
        let mut batches = shared.batches.lock();
        batches.looking -= 1;
        if let Some(cause) = &batches.ended {
            return Err(WalError::Poisoned(Arc::clone(cause)));
        }
        if !batches.has_work() {
            return Ok(None);
        }
        let buffer = batches.take().expect("there is work");
        shared.has_work.store(!batches.is_empty() || batches.closing, Ordering::Relaxed);
        if shared.options.when_full == WhenFull::Wait {
            shared.room.notify_one();
        }
        drop(batches);
        // The segment may have to end first, which may have to wait for space.
        if core.writer.is_at_segment_end() {
            self.maintain(core)?;
        }
        caught(|| core.observer.writing(&buffer))
            .map_err(|message| core.writer.fail(WalError::Panicked { thread: THREAD, message }))?;
        let placed = core.writer.place(buffer)?;
        core.commits_under_way += 1;
        let number = core.begun();
        let mut batches = shared.batches.lock();
        core.tell(&mut batches, self.threads);
        let wakes = batches.wakes_one();
        drop(batches);
        if wakes {
            shared.work.notify_one();
        }
        Ok(Some((number, placed)))
    }

    /// Writes a block beside others, then settles what can be settled.
    fn write<'a>(
        &'a self,
        core: MutexGuard<'a, Core<O>>,
        (number, mut placed): (u64, Placed),
    ) -> Result<MutexGuard<'a, Core<O>>, WalError> {
        drop(core);
        loop {
            let written = placed.write();
            let mut core = self.core.lock();
            match written {
                Ok(()) => {
                    self.settle(&mut core, number, placed)?;
                    return Ok(core);
                }
                Err(error) if error.may_pass() => self.note_full(&mut core, error)?,
                Err(error) => return Err(core.writer.fail(error)),
            }
            // Others may settle what they have written meanwhile.
            drop(core);
            self.pause();
        }
    }

    /// Tells of every block that was written and has only settled ones before it.
    fn settle(&self, core: &mut Core<O>, number: u64, placed: Placed) -> Result<(), WalError> {
        let place = usize::try_from(number - core.first_under_way).expect("few are under way");
        core.under_way[place] = Some(placed);
        let mut settled = false;
        while let Some(Some(_)) = core.under_way.front() {
            let placed = core.under_way.pop_front().flatten().expect("just seen");
            core.first_under_way += 1;
            settled = true;
            if let Some(mut committed) = core.writer.settle(placed)? {
                core.commits_under_way -= 1;
                committed.durable = core.writer.durable_group_end();
                core.told = committed.durable;
                // Here and not in `run`: nobody may be told of the next one after this.
                caught(|| core.observer.committed(&committed))
                    .map_err(|message| core.writer.fail(WalError::Panicked { thread: THREAD, message }))?;
            }
        }
        if !settled {
            return Ok(());
        }
        core.last_settled = Instant::now();
        let due = match core.writer.config().sync {
            SyncPolicy::Interval(every) => core.last_sync.elapsed() >= every,
            SyncPolicy::EveryBatch | SyncPolicy::None => false,
        };
        if due || core.writer.has_unsynced() && core.observer.wants_sync() {
            core.sync()?;
        }
        let ends_segment = core.writer.is_at_segment_end() && !core.writer.has_under_way();
        self.maintain(core)?;
        core.tell_durable();
        let wants_segment_end = core.writer.wants_segment_end();
        let mut batches = self.shared.batches.lock();
        if ends_segment {
            batches.ending = false;
        }
        if wants_segment_end {
            // Under the lock, so that a frame which has just ended the segment is not followed by another that does.
            self.shared.wants_segment_end.store(!batches.ending, Ordering::Relaxed);
        }
        core.tell(&mut batches, self.threads);
        Ok(())
    }

    /// Nothing has come for a while: the idle block, beside which a commit may be written.
    fn idle<'a>(&'a self, mut core: MutexGuard<'a, Core<O>>) -> Result<MutexGuard<'a, Core<O>>, WalError> {
        // Another thread may have written something since this one began to wait.
        if !core.under_way.is_empty() || core.last_settled.elapsed() < self.shared.options.idle_after {
            return Ok(core);
        }
        if self.threads > 1 {
            let Some(placed) = core.writer.place_idle() else { return Ok(core) };
            let number = core.begun();
            return self.write(core, (number, placed));
        }
        match core.writer.idle() {
            Err(error) if error.may_pass() => self.wait_for_space(&mut core, error)?,
            done => {
                done?;
                // Nothing else may ever be written that would say so: whoever has events is refused until then.
                core.has_space();
            }
        }
        Ok(core)
    }

    /// Sums and rotation.
    fn maintain(&self, core: &mut Core<O>) -> Result<(), WalError> {
        let was_at_end = core.writer.is_at_segment_end();
        loop {
            match core.writer.maintain() {
                Err(error) if error.may_pass() => self.wait_for_space(core, error)?,
                done => break done?,
            }
        }
        core.has_space();
        if was_at_end && !core.writer.is_at_segment_end() {
            // Under the lock, so that whoever has just found it unsealed is waiting by now.
            let _batches = self.shared.batches.lock();
            self.shared.sealed.notify_all();
        }
        Ok(())
    }

    /// While the disk is too full, everything appended stays in memory: new events are refused by then, and a later try may
    /// succeed.
    fn wait_for_space(&self, core: &mut Core<O>, error: WalError) -> Result<(), WalError> {
        self.note_full(core, error)?;
        self.pause();
        Ok(())
    }

    fn note_full(&self, core: &mut Core<O>, error: WalError) -> Result<(), WalError> {
        core.writer.space_problem().set(Lacking::Log, Some(error.to_string()));
        let tried_before = std::mem::replace(&mut core.lacks_space, true);
        // Whoever closes does not wait for space, but one more try costs nothing.
        if tried_before && !self.shared.batches.lock().waits_for_space() { Err(error) } else { Ok(()) }
    }

    fn pause(&self) {
        let mut batches = self.shared.batches.lock();
        if batches.waits_for_space() {
            self.shared.closing.wait_for(&mut batches, FULL_DISK_RETRY);
        }
    }

    /// What to do next; sleeps if there is nothing. A thread that is told to commit counts as looking until it has begun.
    fn next(&self, mut deadline: Option<(Instant, Deadline)>) -> Next {
        let shared = &*self.shared;
        let mut batches = shared.batches.lock();
        // One thread that looks is enough.
        if batches.looking == 0 && batches.is_empty() && !batches.is_over() {
            batches.looking += 1;
            shared.has_work.store(false, Ordering::Relaxed);
            drop(batches);
            spin(&shared.has_work, shared.options.spin);
            batches = shared.batches.lock();
            batches.looking -= 1;
        }
        loop {
            if batches.has_work() && batches.ended.is_none() {
                batches.looking += 1;
                return Next::Commit;
            }
            if batches.is_over() && batches.is_empty() || batches.ended.is_some() {
                // Others may have gone to sleep beside work that they could not begin.
                shared.work.notify_all();
                return Next::Close;
            }
            if std::mem::take(&mut batches.asked_to_sync) {
                return Next::AskForSync;
            }
            batches.asleep += 1;
            let timed_out = match deadline {
                None => {
                    shared.work.wait(&mut batches);
                    false
                }
                Some((at, _)) => shared.work.wait_until(&mut batches, at).timed_out(),
            };
            batches.asleep -= 1;
            batches.waking = false;
            // Once: whatever is under way by then has a thread that will see to it.
            if timed_out
                && let Some((_, due)) = deadline.take()
                && batches.is_empty()
                && !batches.is_over()
            {
                return if due == Deadline::Sync { Next::Sync } else { Next::Idle };
            }
        }
    }

    /// What is due when nothing comes: for the thread that has settled the last block.
    fn deadline(&self, core: &Core<O>) -> Option<(Instant, Deadline)> {
        if !core.under_way.is_empty() {
            return None;
        }
        if let SyncPolicy::Interval(every) = core.writer.config().sync
            && core.writer.has_unsynced()
        {
            return Some((core.last_sync + every, Deadline::Sync));
        }
        let due = core.last_settled + self.shared.options.idle_after;
        core.writer.has_unproven().then_some((due, Deadline::Idle))
    }
}

impl<O: CommitObserver> Core<O> {
    /// Says what may be begun beside what is under way.
    fn tell(&self, batches: &mut Batches, threads: usize) {
        batches.busy = self.commits_under_way > 0;
        batches.blocked = !self.under_way.is_empty()
            && (self.under_way.len() >= threads || self.writer.is_at_segment_end());
    }

    /// Takes note of a block that was placed; returns its number.
    fn begun(&mut self) -> u64 {
        self.under_way.push_back(None);
        self.first_under_way + self.under_way.len() as u64 - 1
    }

    fn has_space(&mut self) {
        if self.lacks_space {
            self.lacks_space = false;
            self.writer.space_problem().set(Lacking::Log, None);
        }
    }

    fn sync(&mut self) -> Result<(), WalError> {
        self.writer.sync()?;
        self.last_sync = Instant::now();
        self.tell_durable();
        Ok(())
    }

    /// Whoever waits for what a sync has made durable is told, whichever sync it was.
    fn tell_durable(&mut self) {
        let durable = self.writer.durable_group_end();
        if durable > self.told {
            self.told = durable;
            self.observer.durable(durable);
        }
    }
}

fn spin(has_work: &AtomicBool, limit: Duration) {
    let start = Instant::now();
    // Acquire: pairs with the Release in `append`.
    while !has_work.load(Ordering::Acquire) && start.elapsed() < limit {
        // Not a bare spin: on a busy machine the appender may be waiting for this very core.
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use matchtape_schemas::event::{Event, OrderCancelled, encode_event};
    use matchtape_schemas::{
        AcceptedTime, EventTime, FrameFlags, FrameWriter, Head, InstrumentId, ProducerId, ProducerSequence,
        TapeId,
    };

    use super::*;
    use crate::disk::AlignedBytes;
    use crate::disk::sim::{Fault, SimDisk};
    use crate::limits;
    use crate::wal::config::{Preparation, WalConfig, WriteBackend};
    use crate::wal::group_commit::{GroupCommit, GroupCommitOptions};
    use crate::wal::writer::Committed;

    struct Nobody;

    impl CommitObserver for Nobody {
        fn committed(&mut self, _: &Committed) {}
        fn durable(&mut self, _: Sequence) {}
        fn failed(&mut self, error: &Arc<WalError>) {
            panic!("{error}");
        }
    }

    fn append(log: &GroupCommit, head: &mut Head, flags: FrameFlags) {
        let number = head.last_sequence.0 + 1;
        let (instrument, sequence) = (InstrumentId(1), ProducerSequence(number));
        let event = Event::new(instrument, sequence, EventTime(number as i64), OrderCancelled::default());
        let mut encoded = AlignedBytes::zeroed(1 << 10);
        let bytes = event.encoded_len();
        encode_event(&event, ProducerId(1), &mut encoded[..bytes]);
        log.append(4096, |space| {
            let mut writer = FrameWriter::new(space, head);
            assert!(writer.push(&encoded[..bytes]));
            writer.finish(head, AcceptedTime(1), flags)
        })
        .expect("appended");
    }

    /// Fills the disk for what is written behind a commit.
    struct Filling(SimDisk);

    impl CommitObserver for Filling {
        fn committed(&mut self, _: &Committed) {
            self.0.fail_all(Fault::Enospc);
        }
        fn durable(&mut self, _: Sequence) {}
        fn failed(&mut self, error: &Arc<WalError>) {
            panic!("{error}");
        }
    }

    #[test]
    fn a_full_disk_that_only_the_idle_block_met_is_over_when_that_is_written() {
        for backend in [WriteBackend::Buffered, WriteBackend::Direct] {
            let disk = SimDisk::new(1);
            let config = WalConfig {
                segment_bytes: limits::SEGMENT_BYTES_MIN,
                commit_bytes: limits::COMMIT_BYTES_MIN,
                preparation: Preparation::Inline,
                backend,
                ..WalConfig::new(TapeId(1))
            };
            let opened = crate::wal::open(Arc::new(disk.clone()), config).expect("opened");
            let mut head = opened.head;
            let log = GroupCommit::start(opened.writer, Filling(disk.clone()), GroupCommitOptions::default());
            let space = log.space_problem();
            // What is written next is the idle block.
            append(&log, &mut head, FrameFlags::NONE);
            for full in [true, false] {
                let patience = Instant::now() + Duration::from_secs(20);
                while space.is_set() != full {
                    assert!(Instant::now() < patience, "{backend:?}: full is not {full}");
                    std::thread::yield_now();
                }
                disk.mend();
            }
            log.close().expect("closed");
        }
    }

    /// The place of every write; the first one stands until it is let go of.
    fn hold_first_write(disk: &SimDisk, gate: Receiver<()>) -> Receiver<u64> {
        let (begun, begins) = channel();
        let (begun, gate) = (Mutex::new(begun), Mutex::new(Some(gate)));
        disk.before_write(move |offset| {
            let _ = begun.lock().send(offset);
            let gate = gate.lock().take();
            if let Some(gate) = gate {
                gate.recv().expect("let go");
            }
        });
        begins
    }

    #[test]
    fn threads_that_sleep_beside_work_they_could_not_begin_end_with_the_log() {
        let disk = SimDisk::new(1);
        let config = WalConfig {
            segment_bytes: limits::SEGMENT_BYTES_MIN,
            commit_bytes: limits::COMMIT_BYTES_MIN,
            preparation: Preparation::Inline,
            backend: WriteBackend::Direct,
            ..WalConfig::new(TapeId(1))
        };
        let opened = crate::wal::open(Arc::new(disk.clone()), config).expect("opened");
        let mut head = opened.head;
        let (let_go, gate) = channel();
        let begins = hold_first_write(&disk, gate);
        let log = GroupCommit::start(opened.writer, Nobody, GroupCommitOptions::default());
        let shared = Arc::clone(&log.shared);
        // Nothing can be begun behind a commit that ends its segment.
        append(&log, &mut head, FrameFlags::ENDS_SEGMENT);
        assert_eq!(begins.recv(), Ok(4096));
        append(&log, &mut head, FrameFlags::NONE);
        while shared.batches.lock().asleep < UNDER_WAY_MAX - 1 {
            std::thread::yield_now();
        }
        // As if everybody had been woken for it, and had gone to sleep again.
        shared.batches.lock().closing = true;
        let_go.send(()).expect("it waits");
        let patience = Instant::now() + Duration::from_secs(20);
        while shared.batches.lock().ended.is_none() {
            assert!(Instant::now() < patience, "a thread sleeps for ever");
            std::thread::yield_now();
        }
        log.close().expect("closed");
        assert!(disk.describe_trace().iter().any(|line| line.contains("rename wal/000000000002.wal.new")));
    }
}
