//! What there is to read at one moment.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use matchtape_schemas::{EventTime, Head, Sequence, TapeId};
use parking_lot::{Mutex, RwLock};

use crate::archive::ColdStore;
use crate::chunk::Chunk;
use crate::compaction::choose;
use crate::disk::Disk;
use crate::manifest::{Contents, LegalHold};
use crate::memtable::MemTable;
use crate::obsolete::{FileLife, Obsolete};
use crate::snapshot::SnapshotMeta;
use crate::sstable::{
    BlockCache, Caller, ColdTable, EventTable, EventTableMeta, IndexTable, IndexTableMeta, OpenFiles,
    TableError,
};
use crate::visible::{Bell, VisibleGate};

/// What readers and the store have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub tape: TapeId,
    pub disk: Arc<dyn Disk>,
    pub cache: Arc<BlockCache>,
    /// Which tables' files are open.
    pub files: Arc<OpenFiles>,
    pub visible: Arc<VisibleGate>,
    /// Where files go that are no longer named.
    obsolete: Arc<Obsolete>,
    /// Where event tables are that have left the local disk.
    pub cold: Arc<dyn ColdStore>,
    /// Who may still read an object, by file number.
    cold_readers: Mutex<HashMap<u64, Weak<FileLife>>>,
    view: RwLock<Arc<View>>,
}

impl Shared {
    pub(crate) fn new(
        files: Arc<OpenFiles>,
        cold: Arc<dyn ColdStore>,
        cache: Arc<BlockCache>,
        visible: Arc<VisibleGate>,
        obsolete: Arc<Obsolete>,
        contents: &Contents,
        memtable: Arc<MemTable>,
    ) -> Self {
        let view = View {
            event_tables: Vec::new(),
            index_tables: Vec::new(),
            snapshots: Vec::new(),
            holds: Vec::new(),
            memtables: vec![memtable],
        };
        let view = RwLock::new(Arc::new(view));
        let (tape, cold_readers) = (contents.tape, Mutex::default());
        let disk = Arc::clone(files.disk());
        let shared = Self { tape, disk, cache, files, visible, obsolete, cold, cold_readers, view };
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

    /// Makes the view's files those of `contents`; tables that stay keep their open files. A file that goes is removed, if
    /// it is this store's, when its last reader lets go of it: so `contents` has to be durable.
    pub(crate) fn install_files(&self, view: &mut View, contents: &Contents) {
        let mut events: HashMap<u64, Arc<EventTable>> =
            view.event_tables.drain(..).map(|table| (table.meta.number, table)).collect();
        let mut indexes: HashMap<u64, Arc<IndexTable>> =
            view.index_tables.drain(..).map(|table| (table.meta.number, table)).collect();
        let mut snapshots: HashMap<u64, Arc<SnapshotFile>> =
            view.snapshots.drain(..).map(|file| (file.meta.number, file)).collect();
        let of_events = |meta: &EventTableMeta| {
            let object = contents.cold.get(&meta.number);
            // One that has moved to the cold tier is another table: the local one goes with its last reader.
            let stays =
                |table: &Arc<EventTable>| table.meta == *meta && table.cold.is_some() == object.is_some();
            if events.get(&meta.number).is_some_and(stays) {
                return events.remove(&meta.number).expect("just found");
            }
            let (files, cache) = (&self.files, &self.cache);
            let cold =
                object.map(|object| ColdTable { store: Arc::clone(&self.cold), object: object.clone() });
            let table = Arc::new(EventTable::new(*meta, cold, Arc::clone(files), Arc::clone(cache)));
            if object.is_some() {
                self.cold_readers.lock().insert(meta.number, Arc::downgrade(&table.life));
            }
            table
        };
        view.event_tables = contents.event_tables.iter().map(of_events).collect();
        let of_index = |meta: &IndexTableMeta| {
            let (files, cache) = (&self.files, &self.cache);
            match indexes.remove(&meta.number) {
                Some(table) if table.meta == *meta => table,
                Some(table) => Arc::new(table.moved(meta.clone())),
                None => Arc::new(IndexTable::new(meta.clone(), Arc::clone(files), Arc::clone(cache))),
            }
        };
        view.index_tables = contents.index_tables.iter().map(of_index).collect();
        view.index_tables.sort_by(|left, right| {
            let levels = right.meta.level.cmp(&left.meta.level);
            levels.then_with(|| choose::order(&left.meta).cmp(&choose::order(&right.meta)))
        });
        let of_snapshot = |meta: &SnapshotMeta| {
            let known = snapshots.remove(&meta.number).filter(|file| file.meta == *meta);
            known.unwrap_or_else(|| Arc::new(SnapshotFile::new(*meta)))
        };
        view.snapshots = contents.snapshots.iter().map(of_snapshot).collect();
        view.holds.clone_from(&contents.holds);
        let lives = events.values().map(|table| &table.life);
        let lives = lives.chain(indexes.values().map(|table| &table.life));
        for life in lives.chain(snapshots.values().map(|file| &file.life)) {
            life.end(&self.obsolete);
        }
    }

    /// Whether anybody in this process may still read the object of a table.
    pub(crate) fn is_cold_read(&self, number: u64) -> bool {
        self.cold_readers.lock().get(&number).is_some_and(|life| life.strong_count() > 0)
    }

    /// The object is gone.
    pub(crate) fn forget_cold(&self, number: u64) {
        self.cold_readers.lock().remove(&number);
    }

    /// Files that are no longer named nor read, and not removed yet.
    pub(crate) fn obsolete_files(&self) -> usize {
        self.obsolete.waiting()
    }

    /// Removes the files that are no longer named and that nobody reads any more.
    pub(crate) fn sweep(&self) {
        self.obsolete.sweep();
    }

    /// Rung when a file may be removed.
    pub(crate) fn obsolete_bell(&self) -> &Bell {
        &self.obsolete.bell
    }
}

/// A snapshot that the manifest names; its file stays while anybody holds this.
#[derive(Debug)]
pub(crate) struct SnapshotFile {
    pub meta: SnapshotMeta,
    pub life: Arc<FileLife>,
}

impl SnapshotFile {
    fn new(meta: SnapshotMeta) -> Self {
        Self { life: FileLife::new(meta.file()), meta }
    }
}

/// Which tables, snapshots and memtables there are.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Oldest first, each continuing the one before.
    pub event_tables: Vec<Arc<EventTable>>,
    /// By level, the highest first, and inside a level in its order: so of one entity, oldest postings first.
    pub index_tables: Vec<Arc<IndexTable>>,
    /// Oldest first.
    pub snapshots: Vec<Arc<SnapshotFile>>,
    /// By name.
    pub holds: Vec<LegalHold>,
    /// Oldest first; the last one grows. The first may still hold events that are in tables by now.
    pub memtables: Vec<Arc<MemTable>>,
}

impl View {
    /// The files alone, for whoever keeps them for long: memtables that are held stay in memory although they were flushed, and
    /// others are filled beside them.
    pub(crate) fn files(&self) -> Self {
        Self { memtables: Vec::new(), ..self.clone() }
    }

    /// Every event up to here is in a table.
    pub(crate) fn flushed_through(&self) -> Sequence {
        self.event_tables.last().map_or(Sequence::ZERO, |table| table.meta.last())
    }

    /// The tables of each level, the highest level first, that may have a key that is, or begins with, `key`.
    pub(crate) fn index_levels<'a>(
        &'a self,
        key: &'a [u8],
    ) -> impl Iterator<Item = (u8, &'a [Arc<IndexTable>])> {
        self.index_tables.chunk_by(|left, right| left.meta.level == right.meta.level).map(move |tables| {
            let level = tables[0].meta.level;
            if level == 0 {
                return (level, tables);
            }
            // By key, and without overlap, so this is a search.
            let start = tables.partition_point(|table| *table.meta.footer.max_key < *key);
            let reaches = |table: &Arc<IndexTable>| {
                *table.meta.footer.min_key <= *key || table.meta.footer.min_key.starts_with(key)
            };
            (level, &tables[start..start + tables[start..].partition_point(reaches)])
        })
    }

    pub(crate) fn first_kept(&self) -> Sequence {
        match self.event_tables.first() {
            Some(table) => table.meta.first(),
            None => self.memtables[0].first_sequence(),
        }
    }

    /// Where the tape stood before the first event kept.
    pub(crate) fn before(&self) -> Head {
        match self.event_tables.first() {
            Some(table) => table.meta.footer.before,
            None => *self.memtables[0].before(),
        }
    }

    /// Where the tape stands after everything in this view.
    pub(crate) fn head(&self) -> Head {
        self.memtables[self.memtables.len() - 1].head()
    }

    /// Index tables as they were flushed.
    pub(crate) fn level0_tables(&self) -> usize {
        self.index_tables.iter().rev().take_while(|table| table.meta.level == 0).count()
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
        let entry = table.entry_holding(sequence)?;
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
