//! Index tables into others: a merge of sorted streams, a slice at a time.
//!
//! Each table is read once from front to back, past the cache and through a handle of its own, so a table that no reader
//! asks stays closed and what readers use stays cached. Memory is flat: 256 KiB and a block per run, the table being
//! written, and the positions of one entity up to the number that gives it its own table.

use std::path::PathBuf;
use std::sync::Arc;

use matchtape_schemas::Sequence;

use super::choose::{Merge, Shape};
use super::partition::Partition;
use crate::disk::{Disk, DiskError};
use crate::sstable::{BlockCache, IndexScan, IndexTable, IndexTableMeta, TableError};

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

    fn advance(&mut self) -> Result<(), TableError> {
        loop {
            self.more = self.scan.advance()?;
            if self.more {
                return Ok(());
            }
            self.scan.drop_cache();
            let Some(next) = self.waiting.pop() else { return Ok(()) };
            self.scan = IndexScan::new(next);
        }
    }
}

/// A merge under way.
#[derive(Debug)]
pub(crate) struct IndexMerge<'a> {
    runs: Vec<Run>,
    out: Partition<'a>,
    /// Postings below are dropped: their events are gone.
    first_kept: Sequence,
    /// The last position taken of the entity.
    last: u64,
    /// Postings seen.
    pub postings: u64,
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
        let open = |number: &u64| {
            let meta = tables.iter().find(|meta| meta.number == *number).expect("the tables of the merge");
            Arc::new(IndexTable::new(meta.clone(), Arc::clone(disk), Arc::clone(&cache)))
        };
        let mut runs = Vec::with_capacity(merge.runs.len());
        for run in &merge.runs {
            runs.extend(Run::new(run.iter().map(open).collect())?);
        }
        let tape = tables[0].footer.tape;
        let base = tables.iter().map(|table| table.footer.first).min().expect("a merge has inputs");
        let out = Partition::new(&**disk, tape, base, shape, merge.into, numbers, merge.alone);
        Ok(Self { runs, out, first_kept, last: 0, postings: 0 })
    }

    /// Works on about so many postings; `false` when there are no more.
    pub(crate) fn step(&mut self, postings: u64) -> Result<bool, TableError> {
        let end = self.postings + postings;
        while self.postings < end {
            // Of one entity, the earlier run is older: so the first of the least keys.
            let least = self.runs.iter_mut().filter(|run| run.more);
            let Some(run) = least.min_by(|left, right| left.scan.key().cmp(right.scan.key())) else {
                return Ok(false);
            };
            if run.scan.key() < self.out.key() {
                return Err(run.scan.refuse("key behind the last"));
            }
            if run.scan.key() != self.out.key() {
                self.out.begin(run.scan.key())?;
                self.last = 0;
            }
            let positions = run.scan.postings();
            self.postings += positions.len() as u64;
            if positions.first().is_some_and(|first| *first <= self.last) {
                return Err(run.scan.refuse("position behind the last"));
            }
            self.last = positions.last().copied().unwrap_or(self.last);
            let kept = positions.partition_point(|position| *position < self.first_kept.0);
            self.out.add(&positions[kept..])?;
            run.advance()?;
        }
        Ok(true)
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
