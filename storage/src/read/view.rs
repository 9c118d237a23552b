//! What there is to read at one moment.

use std::sync::Arc;

use matchtape_schemas::{EventTime, Head, Sequence, TapeId};
use parking_lot::RwLock;

use crate::chunk::Chunk;
use crate::disk::Disk;
use crate::manifest::Contents;
use crate::memtable::MemTable;
use crate::snapshot::SnapshotMeta;
use crate::sstable::{BlockCache, Caller, EventTable, IndexTable, TableError};
use crate::visible::VisibleGate;

/// What readers and the store have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub tape: TapeId,
    pub disk: Arc<dyn Disk>,
    pub cache: Arc<BlockCache>,
    pub visible: Arc<VisibleGate>,
    view: RwLock<Arc<View>>,
}

impl Shared {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        cache: Arc<BlockCache>,
        visible: Arc<VisibleGate>,
        contents: &Contents,
        memtable: Arc<MemTable>,
    ) -> Self {
        let view = View {
            event_tables: Vec::new(),
            index_tables: Vec::new(),
            snapshots: Vec::new(),
            memtables: vec![memtable],
        };
        let shared = Self { tape: contents.tape, disk, cache, visible, view: RwLock::new(Arc::new(view)) };
        shared.change(|view| shared.install_files(view, contents));
        shared
    }

    /// What there is now.
    #[inline]
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read())
    }

    /// Installs a changed view, for all readers at once. The lock is held for the copy of a few lists.
    pub(crate) fn change(&self, change: impl FnOnce(&mut View)) {
        let mut current = self.view.write();
        let mut view = View::clone(&current);
        change(&mut view);
        *current = Arc::new(view);
    }

    /// Makes the view's files those of `contents`; tables that stay keep their open files.
    pub(crate) fn install_files(&self, view: &mut View, contents: &Contents) {
        let new_event_table =
            |meta| Arc::new(EventTable::new(meta, Arc::clone(&self.disk), Arc::clone(&self.cache)));
        let events = contents.event_tables.iter().map(|meta| {
            let known = view.event_tables.iter().rev().find(|table| table.meta == *meta);
            known.map_or_else(|| new_event_table(*meta), Arc::clone)
        });
        let events = events.collect();
        let new_index_table =
            |meta| Arc::new(IndexTable::new(meta, Arc::clone(&self.disk), Arc::clone(&self.cache)));
        let indexes = contents.index_tables.iter().map(|meta| {
            let known = view.index_tables.iter().rev().find(|table| table.meta == *meta);
            known.map_or_else(|| new_index_table(meta.clone()), Arc::clone)
        });
        let mut indexes: Vec<Arc<IndexTable>> = indexes.collect();
        // Of one entity, a higher level holds the older postings, and tables of one level do not overlap in time.
        indexes.sort_by_key(|table| (std::cmp::Reverse(table.meta.level), table.meta.footer.first));
        view.event_tables = events;
        view.index_tables = indexes;
        view.snapshots.clone_from(&contents.snapshots);
    }
}

/// Which tables, snapshots and memtables there are.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Oldest first, each continuing the one before.
    pub event_tables: Vec<Arc<EventTable>>,
    /// Of one entity, oldest postings first.
    pub index_tables: Vec<Arc<IndexTable>>,
    /// Oldest first.
    pub snapshots: Vec<SnapshotMeta>,
    /// Oldest first; the last one grows. The first may still hold events that are in tables by now.
    pub memtables: Vec<Arc<MemTable>>,
}

impl View {
    /// Every event up to here is in a table.
    pub(crate) fn flushed_through(&self) -> Sequence {
        self.event_tables.last().map_or(Sequence::ZERO, |table| table.meta.last())
    }

    pub(crate) fn first_kept(&self) -> Sequence {
        match self.event_tables.first() {
            Some(table) => table.meta.first(),
            None => self.memtables[0].first_sequence(),
        }
    }

    /// Where the tape stands after everything in this view.
    pub(crate) fn head(&self) -> Head {
        self.memtables[self.memtables.len() - 1].head()
    }

    /// The number of the event table that holds `sequence`, which is at or below `flushed_through`.
    pub(crate) fn table_holding(&self, sequence: Sequence) -> usize {
        self.event_tables.partition_point(|table| table.meta.last() < sequence)
    }

    /// The memtable and the number of its chunk that hold `sequence`.
    #[inline]
    pub(crate) fn mem_holding(&self, sequence: Sequence) -> Option<(&Arc<MemTable>, usize)> {
        let memtables = self.memtables.iter().rev();
        let memtable = memtables.into_iter().find(|memtable| memtable.first_sequence() <= sequence)?;
        Some((memtable, memtable.chunk_holding(sequence)?))
    }

    /// The frames around `sequence`, which is kept and visible.
    pub(crate) fn chunk_holding(
        &self,
        sequence: Sequence,
        caller: Caller,
        buffer: &mut Vec<u8>,
    ) -> Result<Arc<Chunk>, TableError> {
        if sequence > self.flushed_through() {
            let (memtable, number) = self.mem_holding(sequence).expect("what is visible is in the view");
            return Ok(Arc::clone(memtable.chunk(number).expect("just found")));
        }
        let table = &self.event_tables[self.table_holding(sequence)];
        let entry = table.entry_holding(sequence)?.expect("a table's index covers its range");
        table.chunk(&entry, caller, buffer)
    }

    /// A position before which every event time is at or below `time`, as late as is cheap to find: the running greatest
    /// event time never decreases, so this is a search.
    pub(crate) fn first_above(&self, time: EventTime) -> Result<Sequence, TableError> {
        let table = self.event_tables.partition_point(|table| table.meta.footer.after.max_event_time <= time);
        if let Some(table) = self.event_tables.get(table) {
            return Ok(table.meta.first());
        }
        for memtable in &self.memtables {
            if memtable.head().max_event_time <= time {
                continue;
            }
            let from = memtable.chunks().find(|chunk| chunk.head().max_event_time > time);
            if let Some(chunk) = from {
                return Ok(chunk.first_sequence().max(self.flushed_through().next()));
            }
        }
        Ok(self.head().last_sequence.next())
    }
}
