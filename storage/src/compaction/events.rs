//! Small event tables into larger ones. Event tables never overlap, so nothing about them has to be rewritten for lookups; but
//! every restart and every early flush leaves a small one, and files should not grow in number with restarts.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::chunk::Chunk;
use crate::disk::{Disk, DiskError};
use crate::options::Compression;
use crate::sstable::{
    BlockCache, BlockEntry, EventTable, EventTableMeta, EventTableWriter, OpenFiles, TableError,
};

/// So many neighbours are worth one merge: an event is rewritten about log4(small / first table) times.
const FAN_IN: usize = 4;
/// At most so many at once.
const INPUTS_MAX: usize = 16;
/// Sizes differ by the fan-in; below the last one all are alike.
const SIZES: u32 = 12;

/// Which neighbours to make one table of: the smallest ones first; none that has `small` bytes or more.
pub(super) fn choose(tables: &[Arc<EventTable>], small: u64) -> Option<Range<usize>> {
    // One that has left the local disk stays as it is, however small.
    let size = |table: &Arc<EventTable>| if table.cold.is_some() { u64::MAX } else { table.meta.bytes };
    let sizes: Vec<u64> = tables.iter().map(size).collect();
    of_sizes(&sizes, small)
}

fn of_sizes(tables: &[u64], small: u64) -> Option<Range<usize>> {
    (0..SIZES).rev().find_map(|size| {
        let limit = small >> (FAN_IN.ilog2() * size);
        let mut start = 0;
        for run in tables.chunk_by(|left, right| (*left < limit) == (*right < limit)) {
            if run[0] < limit && run.len() >= FAN_IN {
                return Some(start..start + run.len().min(INPUTS_MAX));
            }
            start += run.len();
        }
        None
    })
}

/// A merge of neighbours under way.
#[derive(Debug)]
pub(super) struct EventMerge {
    /// Not read yet, the next one last.
    tables: Vec<EventTable>,
    /// Blocks of the table before them, the next one last.
    blocks: Vec<BlockEntry>,
    reading: Option<EventTable>,
    out: EventTableWriter,
    buffer: Vec<u8>,
}

impl EventMerge {
    pub(super) fn new(
        disk: &Arc<dyn Disk>,
        tables: &[EventTableMeta],
        number: u64,
        compression: Compression,
    ) -> Result<Self, DiskError> {
        let (files, cache) = (OpenFiles::new(Arc::clone(disk), 1), Arc::new(BlockCache::new(0)));
        let out = EventTableWriter::create(&**disk, number, tables[0].footer.before, compression)?;
        let tables = tables.iter().rev();
        let tables =
            tables.map(|meta| EventTable::new(*meta, None, Arc::clone(&files), Arc::clone(&cache))).collect();
        Ok(Self { tables, blocks: Vec::new(), reading: None, out, buffer: Vec::new() })
    }

    /// Works on about so many bytes of frames; `false` when there are no more.
    pub(super) fn step(&mut self, bytes: u64) -> Result<bool, TableError> {
        let mut taken = 0;
        while taken < bytes {
            let Some(chunk) = self.next_chunk()? else { return Ok(false) };
            for number in 0..chunk.frames().len() {
                self.out.add(&chunk.frame(number))?;
            }
            taken += chunk.bytes().len() as u64;
        }
        Ok(true)
    }

    fn next_chunk(&mut self) -> Result<Option<Arc<Chunk>>, TableError> {
        loop {
            if let (Some(table), Some(entry)) = (&self.reading, self.blocks.pop()) {
                return table.load_uncached(&entry, &mut self.buffer).map(Some);
            }
            if let Some(read) = self.reading.take() {
                read.drop_cache();
            }
            let Some(table) = self.tables.pop() else { return Ok(None) };
            for leaf in table.top()? {
                self.blocks.extend_from_slice(table.leaf(leaf)?.entries());
            }
            self.blocks.reverse();
            self.reading = Some(table);
        }
    }

    /// Bytes written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.out.bytes()
    }

    /// The new table, synced under its temporary name.
    pub(super) fn finish(self) -> Result<(EventTableMeta, PathBuf), DiskError> {
        self.out.finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: u64 = 8 << 20;

    proptest! {
        #[test]
        fn however_often_small_tables_come_few_are_kept_and_little_is_rewritten(
            sizes in prop::collection::vec(prop_oneof![8 => 1000u64..50_000, 1 => 1000u64..3 * SMALL], 1..400),
        ) {
            let mut tables: Vec<u64> = Vec::new();
            let (mut written, mut total) = (0, 0);
            for bytes in sizes {
                tables.push(bytes);
                total += bytes;
                while let Some(range) = of_sizes(&tables, SMALL) {
                    prop_assert!(range.len() >= FAN_IN && range.len() <= INPUTS_MAX);
                    prop_assert!(tables[range.clone()].iter().all(|bytes| *bytes < SMALL), "a large one is left alone");
                    let bytes = tables[range.clone()].iter().sum();
                    written += bytes;
                    tables.splice(range, [bytes]);
                }
                let large = tables.iter().filter(|bytes| **bytes >= SMALL).count();
                prop_assert!(tables.len() <= (large + 1) * FAN_IN, "{} tables, {large} large", tables.len());
            }
            // Each size is left behind by a merge of four: so an event is rewritten at most once per size, or nearly so.
            prop_assert!(written <= total * u64::from(SIZES), "{written} for {total}");
        }
    }
}
