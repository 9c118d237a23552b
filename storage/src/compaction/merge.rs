//! Index tables into others: a merge of sorted streams, a slice at a time.
//!
//! Each table is read once from front to back, past the cache and through a handle of its own, so a table that no reader
//! asks stays closed and what readers use stays cached. Memory is flat: 256 KiB and a block per run, the table being
//! written, and the positions of one entity up to the number that gives it its own table.
//!
//! A block whose entities no other run has is handed on as it is, with its filter: orders of a market come in ascending
//! numbers, so most of what one table says of them no other table adds to. What is taken apart is taken apart by entries; positions
//! stay encoded.

use std::path::PathBuf;
use std::sync::Arc;

use matchtape_schemas::Sequence;

use super::choose::{Merge, Shape};
use super::partition::Partition;
use crate::disk::{Disk, DiskError};
use crate::limits::OPEN_TABLES_DEFAULT;
use crate::sstable::{
    BlockCache, Fit, IndexScan, IndexTable, IndexTableMeta, Key, OpenFiles, PostingList, TableError,
    WholeBlock,
};

/// The tables of a run, one after the other.
#[derive(Debug)]
struct Run {
    /// Not begun yet, the next one last.
    waiting: Vec<Arc<IndexTable>>,
    scan: IndexScan,
    more: bool,
}

impl Run {
    fn new(mut tables: Vec<Arc<IndexTable>>) -> Result<Option<Self>, TableError> {
        tables.reverse();
        let Some(first) = tables.pop() else { return Ok(None) };
        let mut run = Self { waiting: tables, scan: IndexScan::new(first), more: true };
        run.advance()?;
        Ok(Some(run))
    }

    #[inline]
    fn advance(&mut self) -> Result<(), TableError> {
        self.more = self.scan.advance()?;
        if self.more { Ok(()) } else { self.next_table() }
    }

    fn advance_block(&mut self) -> Result<(), TableError> {
        self.more = self.scan.advance_block()?;
        if self.more { Ok(()) } else { self.next_table() }
    }

    fn next_table(&mut self) -> Result<(), TableError> {
        while !self.more {
            self.scan.drop_cache();
            let Some(next) = self.waiting.pop() else { return Ok(()) };
            self.scan = IndexScan::new(next);
            self.more = self.scan.advance()?;
        }
        Ok(())
    }

    /// Whether the entities of the block, up to `last_key`, have nothing more behind it in this run.
    fn ends_with_block(&self, last_key: &Key) -> Result<bool, TableError> {
        if let Some(next) = self.scan.next_block_key()? {
            return Ok(*next > *last_key);
        }
        let next = self.waiting.last().map(|table| Key::of(&table.meta.footer.min_key));
        Ok(next.is_none_or(|next| next > *last_key))
    }
}

/// Whether run `left` is to be taken before run `right`: by key, and of one key the earlier run, for it is older. A run that has
/// ended comes last.
#[inline]
fn before(runs: &[Run], left: usize, right: usize) -> bool {
    let (of_left, of_right) = (&runs[left], &runs[right]);
    match (of_left.more, of_right.more) {
        (true, true) => (of_left.scan.key(), left) < (of_right.scan.key(), right),
        (true, false) => true,
        (false, true) => false,
        (false, false) => left < right,
    }
}

/// A merge under way.
#[derive(Debug)]
pub(crate) struct IndexMerge<'a> {
    runs: Vec<Run>,
    /// The run to take from, and the next one after it, while the first stays before the second.
    least: Option<(usize, Option<usize>)>,
    /// The key of the second, while entries of the first are taken.
    bound: Key,
    out: Partition<'a>,
    /// Postings below are dropped: their events are gone.
    first_kept: Sequence,
    /// The last position taken of the entity.
    last: u64,
    /// Postings seen.
    pub postings: u64,
    /// Of these, in blocks that were handed on as they were.
    pub in_whole_blocks: u64,
}

impl<'a> IndexMerge<'a> {
    /// Merges `tables`, which are those of `merge`, into files of `numbers`.
    pub(crate) fn new(
        disk: &'a Arc<dyn Disk>,
        merge: Merge,
        tables: &[IndexTableMeta],
        first_kept: Sequence,
        shape: Shape,
        numbers: std::ops::Range<u64>,
    ) -> Result<Self, TableError> {
        // Nothing is cached: this one has room for nothing.
        let cache = Arc::new(BlockCache::new(0));
        let files = OpenFiles::new(Arc::clone(disk), OPEN_TABLES_DEFAULT);
        let open = |number: &u64| {
            let meta = tables.iter().find(|meta| meta.number == *number).expect("the tables of the merge");
            Arc::new(IndexTable::new(meta.clone(), Arc::clone(&files), Arc::clone(&cache)))
        };
        let mut runs = Vec::with_capacity(merge.runs.len());
        for run in &merge.runs {
            runs.extend(Run::new(run.iter().map(open).collect())?);
        }
        let tape = tables[0].footer.tape;
        let base = tables.iter().map(|table| table.footer.first).min().expect("a merge has inputs");
        let out = Partition::new(&**disk, tape, base, shape, &merge, numbers);
        Ok(Self {
            runs,
            least: None,
            bound: Key::default(),
            out,
            first_kept,
            last: 0,
            postings: 0,
            in_whole_blocks: 0,
        })
    }

    /// Works on about so many postings; `false` when there are no more.
    pub(crate) fn step(&mut self, postings: u64) -> Result<bool, TableError> {
        let end = self.postings + postings;
        while self.postings < end {
            let (least, second) = match self.least {
                Some((least, second)) if second.is_none_or(|second| before(&self.runs, least, second)) => {
                    (least, second)
                }
                _ => self.two_least(),
            };
            self.least = Some((least, second));
            let run = &mut self.runs[least];
            if !run.more {
                return Ok(false);
            }
            if run.scan.begun_block().is_some() && self.take_block(least, second)? {
                continue;
            }
            if !self.take_entries(least, second, end)? {
                self.take_entry(least)?;
            }
        }
        Ok(true)
    }

    /// Takes entries of run `least` as long as no other run has anything of their entities; `false` if that is so of none.
    fn take_entries(&mut self, least: usize, second: Option<usize>, end: u64) -> Result<bool, TableError> {
        let bound = second.map(|second| &self.runs[second]).filter(|second| second.more);
        let bounded = bound.is_some();
        if let Some(bound) = bound {
            self.bound.clone_from(bound.scan.key());
        }
        let run = &mut self.runs[least];
        let mut in_step = false;
        loop {
            let (key, positions) = (run.scan.key(), run.scan.postings());
            let simple = run.scan.is_last_of_entity()
                && (!bounded || *key < self.bound)
                && *key > *self.out.key()
                && positions.first >= self.first_kept.0;
            if !simple || !self.out.take_entry(key, positions, run.scan.encoded(), in_step)? {
                return Ok(in_step);
            }
            self.last = positions.last;
            self.postings += positions.count;
            in_step = run.scan.advance_in_block()?;
            debug_assert!(in_step, "there is an entry behind it");
            if self.postings >= end {
                return Ok(true);
            }
        }
    }

    #[inline]
    fn take_entry(&mut self, run: usize) -> Result<(), TableError> {
        let run = &mut self.runs[run];
        if *run.scan.key() < *self.out.key() {
            return Err(run.scan.refuse("key behind the last"));
        }
        if *run.scan.key() != *self.out.key() {
            self.out.begin(run.scan.key())?;
            self.last = 0;
        }
        let positions = run.scan.postings();
        self.postings += positions.count;
        if positions.first <= self.last {
            return Err(run.scan.refuse("position behind the last"));
        }
        self.last = positions.last;
        let first_kept = self.first_kept.0;
        if positions.first >= first_kept {
            self.out.add(positions)?;
        } else if positions.last >= first_kept {
            let mut kept = PostingList::default();
            let decoded = positions.decode(|position| {
                if position >= first_kept {
                    kept.push(position);
                }
            });
            decoded.map_err(|_| run.scan.refuse("posting"))?;
            self.out.add(kept.get())?;
        }
        run.advance()
    }

    /// Hands on the block that run `least` is at the beginning of, if no other run has anything of its entities, and they
    /// have nothing more in this one.
    fn take_block(&mut self, least: usize, second: Option<usize>) -> Result<bool, TableError> {
        let first_kept = self.first_kept.0;
        let run = &self.runs[least];
        let Some(block) = run.scan.begun_block() else { return Ok(false) };
        if block.least() < first_kept || *run.scan.key() <= *self.out.key() {
            return Ok(false);
        }
        let last_key = run.scan.last_key()?;
        let next = second.map(|second| &self.runs[second]).filter(|next| next.more);
        if next.is_some_and(|next| *next.scan.key() <= last_key) || !run.ends_with_block(&last_key)? {
            return Ok(false);
        }
        let fit = self.out.fit(block, run.scan.key(), &last_key)?;
        let run = &mut self.runs[least];
        match fit {
            Fit::No => return Ok(false),
            Fit::AsItIs => {
                let filter = run.scan.filter()?;
                let block = run.scan.begun_block().expect("looked at");
                let (first_key, first) = (run.scan.key(), run.scan.postings().first);
                let whole = WholeBlock { block, filter: &filter, first_key, first, last_key: &last_key };
                self.out.take_block(whole)?;
                self.postings += block.postings();
                self.in_whole_blocks += block.postings();
                run.advance_block()?;
            }
            Fit::Joined => {
                self.out.join();
                while self.runs[least].more && *self.runs[least].scan.key() <= last_key {
                    self.take_entry(least)?;
                }
                return self.out.joined().map(|()| true).map_err(TableError::from);
            }
        }
        // Nothing more of its last entity may come.
        self.last = u64::MAX;
        Ok(true)
    }

    fn two_least(&self) -> (usize, Option<usize>) {
        let (mut least, mut second) = (0, None);
        for run in 1..self.runs.len() {
            if before(&self.runs, run, least) {
                (least, second) = (run, Some(least));
            } else if second.is_none_or(|second| before(&self.runs, run, second)) {
                second = Some(run);
            }
        }
        (least, second)
    }

    /// Bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.out.bytes()
    }

    /// The new tables, synced under their temporary names.
    pub(crate) fn finish(self) -> Result<Vec<(IndexTableMeta, PathBuf)>, DiskError> {
        self.out.finish()
    }
}
