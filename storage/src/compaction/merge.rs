//! Index tables into others: a merge of sorted streams, a slice at a time.
//!
//! Each table is read once from front to back, past the cache and through a handle of its own, so a table that no reader
//! asks stays closed and what readers use stays cached. Memory is flat: 256 KiB and a block per run, the table being
//! written, and the positions of one entity up to the number that gives it its own table.

use std::cmp::Ordering;
use std::path::PathBuf;
use std::sync::Arc;

use matchtape_schemas::Sequence;

use super::choose::{Merge, Shape};
use super::partition::Partition;
use crate::disk::{Disk, DiskError};
use crate::sstable::{BlockCache, IndexScan, IndexTable, IndexTableMeta, PostingList, TableError};

/// The tables of a run, one after the other.
#[derive(Debug)]
struct Run {
    /// Not begun yet, the next one last.
    waiting: Vec<Arc<IndexTable>>,
    scan: IndexScan,
    more: bool,
    /// The first bytes of the key, as a number: most comparisons end here. Zeros behind a shorter key.
    prefix: u128,
}

impl Run {
    fn new(mut tables: Vec<Arc<IndexTable>>) -> Result<Option<Self>, TableError> {
        tables.reverse();
        let Some(first) = tables.pop() else { return Ok(None) };
        let mut run = Self { waiting: tables, scan: IndexScan::new(first), more: true, prefix: 0 };
        run.advance()?;
        Ok(Some(run))
    }

    fn advance(&mut self) -> Result<(), TableError> {
        loop {
            self.more = self.scan.advance()?;
            if self.more {
                self.prefix = prefix(self.scan.key());
                return Ok(());
            }
            self.scan.drop_cache();
            let Some(next) = self.waiting.pop() else { return Ok(()) };
            self.scan = IndexScan::new(next);
        }
    }
}

fn prefix(key: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let length = key.len().min(bytes.len());
    bytes[..length].copy_from_slice(&key[..length]);
    u128::from_be_bytes(bytes)
}

/// Whether run `left` is to be taken before run `right`: by key, and of one key the earlier run, for it is older. A run that has
/// ended comes last.
fn before(runs: &[Run], left: usize, right: usize) -> bool {
    let (of_left, of_right) = (&runs[left], &runs[right]);
    match of_right.more.cmp(&of_left.more).then(of_left.prefix.cmp(&of_right.prefix)) {
        Ordering::Less => true,
        Ordering::Greater => false,
        Ordering::Equal => (of_left.scan.key(), left) < (of_right.scan.key(), right),
    }
}

/// A merge under way.
#[derive(Debug)]
pub(crate) struct IndexMerge<'a> {
    runs: Vec<Run>,
    /// The run to take from, and the next one after it, while the first stays before the second.
    least: Option<(usize, Option<usize>)>,
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
        Ok(Self { runs, least: None, out, first_kept, last: 0, postings: 0 })
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
            if run.scan.key() < self.out.key() {
                return Err(run.scan.refuse("key behind the last"));
            }
            if run.scan.key() != self.out.key() {
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
                positions
                    .positions()
                    .filter(|position| *position >= first_kept)
                    .for_each(|position| kept.push(position));
                self.out.add(kept.get())?;
            }
            run.advance()?;
        }
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
