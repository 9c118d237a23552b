//! The way of a commit from the log into memory: on the log's thread, so it must cost next to nothing.
//!
//! Pushing the commit's `Arc` makes it readable (behind the gate). Everything else is somebody else's work: the indexing
//! thread follows the memtable's list, the flushing thread takes sealed memtables. Nothing here waits for them; how
//! far they are behind is in [`Pressure`], which the pipeline looks at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use matchtape_schemas::{AcceptedTime, Sequence};
use parking_lot::Mutex;

use crate::chunk::Chunk;
use crate::compaction::choose::Shape;
use crate::compaction::{CompactError, Compactor, Outcome};
use crate::flush::{FlushError, Flusher};
use crate::inspect::Written;
use crate::manifest::Edit;
use crate::memtable::MemTable;
use crate::options::{StoreMistakes, StoreOptions};
use crate::pressure::Pressure;
use crate::read::view::Shared;
use crate::scrub::Scrubber;
use crate::segment_facts::SegmentFacts;
use crate::visible::{Bell, VisibleGate};
use crate::wal::{
    CommitBuffer, CommitObserver, Committed, Lacking, Releaser, SegmentInfo, SpaceProblem, WalError, Writer,
};

/// How many of the last sealed segments have at most so many bytes together.
fn newest_that_fit(sealed: &[SegmentInfo], kept_bytes: u64) -> usize {
    let bytes = |segment: &SegmentInfo| segment.sealed.map_or(0, |sealed| sealed.file_bytes);
    let sums = sealed.iter().rev().scan(0_u64, |sum, segment| {
        *sum = sum.saturating_add(bytes(segment));
        Some(*sum)
    });
    sums.take_while(|sum| *sum <= kept_bytes).count()
}

/// The indexing thread sleeps until so many events wait for it: a reader filters that many in a few microseconds, and at
/// low rates nobody pays for waking it.
const INDEX_AFTER_EVENTS: usize = 512;

/// So many times the tables of level 0 that are merged at once may be there before events are slowed down.
const LEVEL0_MAX: u64 = 4;

/// How long a full disk is left alone before a flush is tried again.
const FULL_DISK_RETRY: Duration = Duration::from_millis(200);

/// See the module.
#[derive(Debug)]
pub(crate) struct Ingest {
    pub shared: Arc<Shared>,
    pub flusher: Flusher,
    releaser: Releaser,
    pub space: SpaceProblem,
    /// How far the log is durable: tables must not overtake it.
    durable: VisibleGate,
    /// The last event that is in no growing memtable: to be flushed once the log is durable so far.
    sealed: AtomicU64,
    log_kept_bytes: u64,
    pub compactor: Compactor,
    pub scrubber: Scrubber,
    active: Mutex<Active>,
    memtable_bytes: usize,
    limit_bytes: usize,
    index_bell: Bell,
    stopping: AtomicBool,
    /// Known mistakes, for negative controls.
    mistakes: StoreMistakes,
}

#[derive(Debug)]
struct Active {
    memtable: Arc<MemTable>,
    /// Whether the last frame ends its group.
    ends_group: bool,
    unannounced_events: usize,
}

impl Ingest {
    /// Takes over a store whose newest memtable is the view's last.
    pub(crate) fn new(
        shared: Arc<Shared>,
        flusher: Flusher,
        writer: &Writer,
        scrubber: Scrubber,
        options: &StoreOptions,
    ) -> Self {
        let view = shared.view();
        let memtable = Arc::clone(&view.memtables[view.memtables.len() - 1]);
        let compactor = Compactor::new(options.compaction, options.compression);
        Self {
            flusher,
            releaser: writer.releaser(),
            space: writer.space_problem(),
            durable: VisibleGate::new(writer.durable_group_end()),
            sealed: AtomicU64::new(0),
            log_kept_bytes: options.log_kept_bytes,
            compactor,
            scrubber,
            active: Mutex::new(Active { memtable, ends_group: true, unannounced_events: 0 }),
            memtable_bytes: options.memtable_bytes,
            limit_bytes: options.limit_bytes(),
            index_bell: Bell::default(),
            stopping: AtomicBool::new(false),
            mistakes: options.mistakes(),
            shared,
        }
    }

    /// Takes in the next frames of the tape.
    pub(crate) fn take(&self, chunk: Chunk) {
        let events = chunk.event_count();
        let mut active = self.active.lock();
        let full = active.ends_group
            && !active.memtable.is_empty()
            && (active.memtable.memory_bytes() >= self.memtable_bytes
                || !active.memtable.has_places_for(&chunk));
        if full {
            self.seal(&mut active);
        }
        active.ends_group = chunk.last_header().ends_group();
        active.unannounced_events += events;
        active.memtable.push(Arc::new(chunk));
        // By bytes too: a few large events may fill what the pipeline waits for. And what was sealed may be waited for by the
        // flush, which would have to index the rest itself.
        let announce = full
            || active.unannounced_events >= INDEX_AFTER_EVENTS
            || active.memtable.unindexed_bytes() >= self.limit_bytes / 16;
        if announce {
            active.unannounced_events = 0;
        }
        drop(active);
        if announce {
            self.index_bell.ring();
        }
    }

    /// The log is durable up to here.
    pub(crate) fn made_durable(&self, durable: Sequence) {
        self.durable.raise(durable);
    }

    /// Whether a flush waits for the log to be durable: then memory fills until it is.
    fn wants_sync(&self) -> bool {
        self.sealed.load(Ordering::Relaxed) > self.durable.get().0
    }

    /// Closes the growing memtable and begins another.
    fn seal(&self, active: &mut Active) {
        // Relaxed: read by the log's thread that has just brought the commit, or soon after.
        self.sealed.store(active.memtable.last_sequence().0, Ordering::Relaxed);
        let next = Arc::new(MemTable::new(active.memtable.head()));
        active.memtable = Arc::clone(&next);
        self.shared.change(|view| view.memtables.push(next));
        self.shared.visible.interrupt();
    }

    /// Seals what there is, if all of it is visible and ends with a group.
    pub(crate) fn seal_visible(&self) {
        let mut active = self.active.lock();
        let wanted = !active.memtable.is_empty()
            && active.ends_group
            && active.memtable.last_sequence() <= self.shared.visible.get();
        if wanted {
            self.seal(&mut active);
        }
    }

    /// What flushing and compaction have written.
    pub(crate) fn written(&self) -> Written {
        let (flushed_raw, flushed) = self.flusher.written();
        Written { flushed_raw, flushed, compacted: self.compactor.totals().bytes_written }
    }

    /// Whether memory holds all that it may without a flush: the growing memtable would be one too many.
    pub(crate) fn is_full(&self) -> bool {
        let view = self.shared.view();
        let sealed = &view.memtables[..view.memtables.len() - 1];
        let unflushed: usize = sealed.iter().map(|memtable| memtable.memory_bytes()).sum();
        !sealed.is_empty() && unflushed + self.memtable_bytes > self.limit_bytes
    }

    pub(crate) fn pressure(&self) -> Pressure {
        let view = self.shared.view();
        let unflushed: usize = view.memtables.iter().map(|memtable| memtable.memory_bytes()).sum();
        let unindexed: usize = view.memtables.iter().map(|memtable| memtable.unindexed_bytes()).sum();
        Pressure {
            unindexed_bytes: unindexed as u64,
            unflushed_bytes: unflushed as u64,
            limit_bytes: self.limit_bytes as u64,
            level0_tables: view.level0_tables() as u64,
            level0_tables_max: self.level0_tables_max(),
        }
    }

    /// When the oldest visible event that is in no table was accepted.
    pub(crate) fn unflushed_since(&self) -> Option<AcceptedTime> {
        let view = self.shared.view();
        let visible = self.shared.visible.get();
        let oldest = view.memtables.iter().find_map(|memtable| memtable.chunks().next())?;
        let header = &oldest.frames()[0].header;
        (header.first_sequence <= visible).then_some(header.accepted_time)
    }

    /// Brings every index up to what was appended.
    pub(crate) fn index_all(&self) {
        for memtable in &self.shared.view().memtables {
            while memtable.index_more() {}
        }
    }

    /// Flushes what is sealed, visible and durable, its indexes first.
    pub(crate) fn flush(&self) -> Result<Sequence, FlushError> {
        self.flusher.check()?;
        self.flusher.guarded(|| {
            self.index_all();
            Ok(())
        })?;
        let overtakes = self.mistakes.flush_overtakes_the_log;
        let durable = if overtakes { Sequence::MAX } else { self.durable.get() };
        self.flusher.flush_sealed(&self.shared, durable)?;
        // There may be enough tables to merge by now.
        self.shared.obsolete_bell().ring();
        Ok(crate::flush::flushed_through(&self.shared))
    }

    /// Flushes, and lets go of the part of the log that tables cover by now.
    pub(crate) fn flush_and_release(&self) -> Result<Sequence, FlushError> {
        let done = self.flush().and_then(|flushed| {
            self.release_log(flushed, self.log_kept_bytes)?;
            Ok(flushed)
        });
        let lacking = done.as_ref().err().filter(|error| error.may_pass());
        self.space.set(Lacking::Tables, lacking.map(ToString::to_string));
        done
    }

    /// Lets go of the sealed segments that are wholly at or below `through` and in tables, but for the newest, as many as
    /// fit in `kept_bytes`. First their facts are durable. Returns the first event that the log still holds.
    pub(crate) fn release_log(&self, through: Sequence, kept_bytes: u64) -> Result<Sequence, FlushError> {
        let keep = newest_that_fit(&self.releaser.releasable(Sequence::MAX, 0), kept_bytes);
        let through = through.min(crate::flush::flushed_through(&self.shared));
        let facts: Vec<SegmentFacts> =
            self.releaser.releasable(through, keep).iter().filter_map(SegmentFacts::of).collect();
        // Exactly these, whatever is sealed meanwhile.
        let through = facts.last().map_or(Sequence::ZERO, |facts| facts.last);
        if self.mistakes.log_goes_before_the_manifest {
            self.flusher.guarded(|| Ok(self.releaser.release(through, 0)?))?;
        }
        self.flusher.change_files(&self.shared, |contents| {
            // A crash may have come between the facts and the release.
            let known = contents.released.last().map_or(Sequence::ZERO, |facts| facts.last);
            facts.into_iter().filter(|facts| facts.last > known).map(Edit::ReleaseSegment).collect()
        })?;
        self.flusher.guarded(|| Ok(self.releaser.release(through, 0)?))
    }

    /// More tables of level 0 than this mean that compaction is behind.
    fn level0_tables_max(&self) -> u64 {
        LEVEL0_MAX * self.compactor.options.level0_tables.max(1) as u64
    }

    /// Does one thing that makes tables fewer, if there is one; see [`Compactor::run_one`].
    pub(crate) fn compact_one(
        &self,
        shape: &Shape,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Outcome, CompactError> {
        self.compactor.run_one(&self.shared, &self.flusher, shape, go_on)
    }

    /// The compacting thread: merges what is to be merged, at its pace, and removes what is no longer read.
    pub(crate) fn run_compactor(&self) {
        let shape = self.compactor.options.shape();
        while !self.stopping.load(Ordering::Acquire) {
            self.shared.sweep();
            let mut begun = Instant::now();
            let mut pace = |written: u64| {
                let wanted = Duration::from_secs_f64(
                    written as f64 / self.compactor.options.bytes_per_second.max(1) as f64,
                );
                // When it is behind, merging soon costs less than merging late.
                if self.pressure().level0_tables * 2 < self.level0_tables_max() {
                    self.rest_until(begun + wanted);
                }
                begun = Instant::now();
                !self.stopping.load(Ordering::Acquire)
            };
            match self.compact_one(&shape, &mut pace) {
                Ok(Outcome::Done) => continue,
                // A failure that may pass is tried again after the next flush.
                Ok(Outcome::Nothing | Outcome::Stopped) | Err(_) => {}
            }
            // The ring that says stop may have ended a rest: so first a look, then the wait.
            if !self.stopping.load(Ordering::Acquire) {
                self.shared.obsolete_bell().wait();
            }
        }
    }

    /// Sleeps until then, or until the store stops.
    fn rest_until(&self, then: Instant) {
        while !self.stopping.load(Ordering::Acquire) {
            let left = then.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.shared.obsolete_bell().wait_for(left) {
                return;
            }
        }
    }

    /// The scrubbing thread.
    pub(crate) fn run_scrubber(&self) {
        self.scrubber.run(&self.shared);
    }

    /// The indexing thread.
    pub(crate) fn run_indexer(&self) {
        while !self.stopping.load(Ordering::Acquire) {
            assert!(!self.mistakes.indexing_panics, "indexing panics, as a test wants it");
            self.index_all();
            self.index_bell.wait();
        }
    }

    /// The flushing thread.
    pub(crate) fn run_flusher(&self) {
        let mut lacking_space = false;
        loop {
            let oldest = self.shared.view().memtables[0].clone();
            let sealed = self.shared.view().memtables.len() > 1;
            // An unsealed one is not waited for; sealing interrupts.
            let awaited = if sealed { oldest.last_sequence() } else { Sequence::MAX };
            match lacking_space {
                // Sealed or not, it is tried again: the space may be back.
                true => self.shared.visible.interrupted_within(FULL_DISK_RETRY),
                // What is visible is usually durable; with `visible at written` it may take a while.
                false => drop(self.shared.visible.wait(awaited) && sealed && self.durable.wait(awaited)),
            }
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            lacking_space = match self.flush_and_release() {
                Ok(_) => false,
                Err(error) if error.may_pass() => true,
                // Kept in the flusher: the pipeline sees it by `health`.
                Err(_) => return,
            };
        }
    }

    /// Ends the threads.
    pub(crate) fn stop(&self) {
        // Release: pairs with Acquire in the loops; the bells come after.
        self.stopping.store(true, Ordering::Release);
        self.scrubber.stop();
        self.index_bell.ring();
        self.shared.obsolete_bell().ring();
        self.shared.visible.interrupt();
        self.durable.interrupt();
    }
}

/// Puts the store before another observer of the log: what that one hears of is readable.
pub(crate) struct StoreFirst<O> {
    pub ingest: Arc<Ingest>,
    pub next: O,
}

impl<O: CommitObserver> CommitObserver for StoreFirst<O> {
    fn started(&mut self) {
        self.next.started();
    }

    fn writing(&mut self, commit: &CommitBuffer) {
        self.next.writing(commit);
    }

    fn committed(&mut self, committed: &Committed) {
        self.ingest.take(Chunk::of_commit(Arc::clone(&committed.commit)));
        self.ingest.made_durable(committed.durable);
        self.next.committed(committed);
    }

    fn wants_sync(&mut self) -> bool {
        self.ingest.wants_sync() || self.next.wants_sync()
    }

    fn durable(&mut self, durable: Sequence) {
        self.ingest.made_durable(durable);
        self.next.durable(durable);
    }

    fn failed(&mut self, error: &Arc<WalError>) {
        self.next.failed(error);
    }
}
