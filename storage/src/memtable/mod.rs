//! Ordered recent events and their index entries. Never touches disk; see `flush.rs`.
//!
//! The memory of a commit is the memtable: appending is pushing its `Arc` to a list, and the position of an event needs
//! no map, because sequences are dense. The indexes lag behind by the little that was appended since they were last
//! brought up; a reader filters that tail event by event, so its answer is always complete.
//!
//! ```text
//! chunks   | commit | commit | commit | commit | commit | commit |
//! indexed  |========= run =========|== run ==|  not yet: filtered |
//! ```

mod append_list;
mod run;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use matchtape_schemas::{Head, Sequence};
use parking_lot::{Mutex, RwLock};

use self::append_list::AppendList;
pub(crate) use self::run::{PLACES_MAX, Run, RunPostings};
use crate::chunk::Chunk;

/// So many runs of about the same size become one: a lookup searches few runs, and an entry is merged
/// log4(memtable / first run) times.
const MERGE_FAN_IN: usize = 4;

/// Runs below this size count as equally small.
const SMALL_RUN_EVENTS: u64 = 512;

/// At most so many events become one first run, so that a long backlog is searchable piece by piece.
const FIRST_RUN_EVENTS_MAX: usize = 1 << 18;

/// What is indexed at one moment; readers hold it while they search.
#[derive(Clone, Debug)]
pub(crate) struct MemIndex {
    /// Oldest first; they follow each other without a gap.
    pub runs: Vec<Arc<Run>>,
    /// Every event up to here is in a run.
    pub through: Sequence,
}

/// See the module. One thread appends, one thread indexes, any number read.
#[derive(Debug)]
pub(crate) struct MemTable {
    before: Head,
    chunks: AppendList<Arc<Chunk>>,
    bytes: AtomicUsize,
    /// Bytes of the frames that no index covers yet. Here, so that it goes with the memtable, whoever indexed it.
    unindexed_bytes: AtomicUsize,
    last: AtomicU64,
    index: RwLock<Arc<MemIndex>>,
    /// How many chunks the indexing thread has taken.
    indexed_chunks: Mutex<usize>,
}

impl MemTable {
    /// An empty one, for the events after `before`.
    pub(crate) fn new(before: Head) -> Self {
        let through = before.last_sequence;
        Self {
            before,
            chunks: AppendList::new(),
            bytes: AtomicUsize::new(0),
            unindexed_bytes: AtomicUsize::new(0),
            last: AtomicU64::new(through.0),
            index: RwLock::new(Arc::new(MemIndex { runs: Vec::new(), through })),
            indexed_chunks: Mutex::new(0),
        }
    }

    /// Where the tape stood before the first event.
    pub(crate) fn before(&self) -> &Head {
        &self.before
    }

    /// Takes in the next frames of the tape.
    pub(crate) fn push(&self, chunk: Arc<Chunk>) {
        debug_assert_eq!(chunk.first_sequence().0, self.last.load(Ordering::Relaxed) + 1);
        let (bytes, last) = (chunk.memory_bytes(), chunk.last_sequence());
        // Counted before it is there to be indexed, so that the count never falls below zero.
        self.unindexed_bytes.fetch_add(chunk.bytes().len(), Ordering::Relaxed);
        self.chunks.push(chunk);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // Release: pairs with Acquire in `last_sequence`; whoever sees the position finds the chunk.
        self.last.store(last.0, Ordering::Release);
    }

    /// Whether it can take this chunk and still number every event.
    pub(crate) fn has_places_for(&self, chunk: &Chunk) -> bool {
        chunk.last_sequence().0 - self.before.last_sequence.0 < PLACES_MAX
    }

    /// The position its first event has, or would have.
    pub(crate) fn first_sequence(&self) -> Sequence {
        self.before.last_sequence.next()
    }

    pub(crate) fn last_sequence(&self) -> Sequence {
        // Acquire: pairs with Release in `push`.
        Sequence(self.last.load(Ordering::Acquire))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.len() == 0
    }

    /// Real memory: commits and index entries.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the frames that no index covers yet.
    pub(crate) fn unindexed_bytes(&self) -> usize {
        self.unindexed_bytes.load(Ordering::Relaxed)
    }

    /// Where the tape stands after its last event.
    pub(crate) fn head(&self) -> Head {
        match self.chunks.len().checked_sub(1).and_then(|last| self.chunks.get(last)) {
            Some(chunk) => chunk.head(),
            None => self.before,
        }
    }

    pub(crate) fn chunk(&self, number: usize) -> Option<&Arc<Chunk>> {
        self.chunks.get(number)
    }

    /// All chunks there are now, in order.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &Arc<Chunk>> {
        (0..self.chunks.len()).map_while(|number| self.chunks.get(number))
    }

    /// The number of the chunk that holds `sequence`, if one does.
    #[inline]
    pub(crate) fn chunk_holding(&self, sequence: Sequence) -> Option<usize> {
        let number =
            self.chunks.partition_point(|chunk| chunk.first_sequence() <= sequence).checked_sub(1)?;
        (sequence <= self.chunks.get(number)?.last_sequence()).then_some(number)
    }

    /// The indexes as they are now.
    pub(crate) fn index(&self) -> Arc<MemIndex> {
        Arc::clone(&self.index.read())
    }

    /// Indexes what was appended since the last call, at most one run; `false` when nothing was left.
    pub(crate) fn index_more(&self) -> bool {
        let mut taken = self.indexed_chunks.lock();
        let (start, mut end, mut events) = (*taken, *taken, 0);
        while let Some(chunk) = self.chunks.get(end)
            && events < FIRST_RUN_EVENTS_MAX
        {
            events += chunk.event_count();
            end += 1;
        }
        let chunks = || (start..end).filter_map(|number| self.chunks.get(number));
        let Some(run) = Run::build(self.first_sequence(), chunks().map(|chunk| &**chunk)) else {
            return false;
        };
        let before = self.index();
        let mut index = MemIndex { runs: before.runs.clone(), through: run.last() };
        index.runs.push(Arc::new(run));
        merge_small_runs(&mut index.runs);
        let bytes_of = |runs: &[Arc<Run>]| -> usize { runs.iter().map(|run| run.memory_bytes()).sum() };
        let (old_bytes, new_bytes) = (bytes_of(&before.runs), bytes_of(&index.runs));
        *self.index.write() = Arc::new(index);
        *taken = end;
        self.bytes.fetch_add(new_bytes, Ordering::Relaxed);
        self.bytes.fetch_sub(old_bytes, Ordering::Relaxed);
        let taken: usize = chunks().map(|chunk| chunk.bytes().len()).sum();
        self.unindexed_bytes.fetch_sub(taken, Ordering::Relaxed);
        true
    }
}

/// Which size class a run is in: classes differ by the merge fan-in.
fn class(run: &Run) -> u32 {
    (run.event_count() / SMALL_RUN_EVENTS).max(1).ilog2() / MERGE_FAN_IN.ilog2()
}

/// Merges the newest runs while enough of them are of about the same size.
fn merge_small_runs(runs: &mut Vec<Arc<Run>>) {
    loop {
        let Some(newest) = runs.last() else { return };
        let same = runs.iter().rev().take_while(|run| class(run) <= class(newest)).count();
        if same < MERGE_FAN_IN {
            return;
        }
        let merged = Run::merge(&runs[runs.len() - same..]);
        runs.truncate(runs.len() - same);
        runs.push(Arc::new(merged));
    }
}
