//! Keeping the number of tables small: leveled compaction of index tables, and small event tables made larger.
//!
//! `choose` decides (pure), `merge` and `partition` write new tables under temporary names, and the manifest installs them with one
//! edit, durable before readers see it. Readers go on with the tables they hold; files are removed when nobody does
//! (`obsolete.rs`). A crash at any moment leaves the old tables, or the new ones.
//!
//! Work is done in slices. Between two slices the caller decides whether to go on: the compacting thread rests there, so
//! that merging takes its share of the disk and of a core and not more, and gives up a merge when the store closes. A merge
//! holds no lock that appending, indexing, flushing or reading wants; only its last step, the edit, waits for a flush
//! under way.
//!
//! A merge does not push what readers use out of the page cache: of each table it has read, the kernel is told to forget the pages,
//! for the file goes as soon as nobody holds it. The pages of the new tables stay: who has read the old ones reads these next, and
//! pages that were written once and never read are the first that the kernel gives up. Blocks that are read here do not go
//! through the block cache.
//!
//! Never decides what to keep: postings of events that retention has dropped are left out when a merge comes by. Not before: a
//! deletion hides no older value from an index, for every event that is kept can be asked for, the value that was set before a
//! deletion too, as of a position between the two. So a deletion goes with its event, once retention has dropped that.

pub(crate) mod choose;
mod events;
mod merge;
mod partition;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use matchtape_schemas::Sequence;
use parking_lot::Mutex;
use serde::Serialize;

use self::choose::{Choice, Levels, Merge, Shape, choose};
use self::events::EventMerge;
use self::merge::IndexMerge;
use crate::disk::DiskError;
use crate::file_header::FileKind;
use crate::flush::{FlushError, Flusher};
use crate::guard::caught;
use crate::manifest::Edit;
use crate::options::{CompactionOptions, Compression};
use crate::read::view::Shared;
use crate::sstable::block::Stored;
use crate::sstable::{
    EventTable, EventTableMeta, IndexTable, IndexTableMeta, TABLES, TableError, TableFile, install, new_path,
};

/// A posting takes about so many bytes of a table.
const POSTING_BYTES: u64 = 4;

/// Why tables could not be compacted. The tables there are stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// A table could not be read or written.
    #[error("cannot compact: {0}")]
    Table(#[from] TableError),
    /// What was made could not be made part of the store.
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// It panicked: a bug. Nothing was changed.
    #[error("compaction panicked: {message}")]
    Panicked {
        /// What it said.
        message: String,
    },
    /// It failed, and is tried again after the next flush.
    #[error(transparent)]
    Failed(Arc<CompactError>),
    /// It failed before, in a way that trying again does not mend; the store has to be opened again.
    #[error("compaction ended with an earlier failure: {0}")]
    Ended(Arc<CompactError>),
}

impl From<DiskError> for CompactError {
    fn from(error: DiskError) -> Self {
        Self::Table(error.into())
    }
}

impl CompactError {
    /// Whether it would only fail again: damaged bytes, or a device that lost what it was to make durable.
    fn is_final(&self) -> bool {
        match self {
            // A failed sync has become a failure of flushing by now.
            Self::Table(TableError::Disk(_)) => false,
            Self::Table(TableError::Damage(_) | TableError::Version(_) | TableError::Feature(_)) => true,
            // The manifest found no room, and is as it was.
            Self::Flush(error) => !error.may_pass(),
            Self::Panicked { .. } | Self::Ended(_) => true,
            Self::Failed(failure) => failure.is_final(),
        }
    }
}

/// What compaction has done since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CompactionTotals {
    /// Merges of index tables.
    pub merges: u64,
    /// Index tables that went down a level as they were.
    pub moves: u64,
    /// Merges of small event tables, and event tables that were compressed anew.
    pub event_merges: u64,
    /// Bytes of the tables that were read.
    pub bytes_read: u64,
    /// Bytes of the tables that were written.
    pub bytes_written: u64,
    /// Postings that went through merges.
    pub postings: u64,
    /// Of these, in blocks that were handed on as they were.
    pub postings_in_whole_blocks: u64,
}

impl std::ops::Sub for CompactionTotals {
    type Output = Self;

    /// What was done since `earlier`.
    fn sub(self, earlier: Self) -> Self {
        Self {
            merges: self.merges - earlier.merges,
            moves: self.moves - earlier.moves,
            event_merges: self.event_merges - earlier.event_merges,
            bytes_read: self.bytes_read - earlier.bytes_read,
            bytes_written: self.bytes_written - earlier.bytes_written,
            postings: self.postings - earlier.postings,
            postings_in_whole_blocks: self.postings_in_whole_blocks - earlier.postings_in_whole_blocks,
        }
    }
}

/// How far [`EventStore::compact`](crate::EventStore::compact) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CompactProgress {
    /// Bytes of new tables so far.
    pub bytes_written: u64,
    /// Index tables as they were flushed, still to be merged.
    pub level0_tables: u64,
    /// Index tables there are now.
    pub index_tables: u64,
    /// Event tables there are now.
    pub event_tables: u64,
}

/// What came of looking for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There was nothing to do.
    Nothing,
    /// Something was done; there may be more.
    Done,
    /// The caller did not want it to go on; nothing was changed.
    Stopped,
}

/// See the module. One merge at a time.
#[derive(Debug)]
pub(crate) struct Compactor {
    pub options: CompactionOptions,
    compression: Compression,
    busy: Mutex<()>,
    /// Of the last try: for good, if it is [`CompactError::is_final`].
    failure: Mutex<Option<Arc<CompactError>>>,
    totals: [AtomicU64; 7],
}

impl Compactor {
    pub(crate) fn new(options: CompactionOptions, compression: Compression) -> Self {
        Self {
            options,
            compression,
            busy: Mutex::new(()),
            failure: Mutex::default(),
            totals: Default::default(),
        }
    }

    /// The failure of the last try, or the one that ended compaction, if there was one.
    pub(crate) fn failure(&self) -> Option<Arc<CompactError>> {
        self.failure.lock().clone()
    }

    pub(crate) fn totals(&self) -> CompactionTotals {
        let [merges, moves, event_merges, bytes_read, bytes_written, postings, postings_in_whole_blocks] =
            self.totals.each_ref().map(|total| total.load(Ordering::Relaxed));
        CompactionTotals {
            merges,
            moves,
            event_merges,
            bytes_read,
            bytes_written,
            postings,
            postings_in_whole_blocks,
        }
    }

    fn count(&self, done: CompactionTotals) {
        let CompactionTotals {
            merges,
            moves,
            event_merges,
            bytes_read,
            bytes_written,
            postings,
            postings_in_whole_blocks,
        } = done;
        let done =
            [merges, moves, event_merges, bytes_read, bytes_written, postings, postings_in_whole_blocks];
        for (total, done) in self.totals.iter().zip(done) {
            total.fetch_add(done, Ordering::Relaxed);
        }
    }

    /// Does one thing, if there is one to do. After each slice `go_on` is told the bytes it wrote.
    pub(crate) fn run_one(
        &self,
        shared: &Shared,
        flusher: &Flusher,
        shape: &Shape,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Outcome, CompactError> {
        self.guarded(flusher, || Work { compactor: self, shared, flusher, shape, go_on }.run_one())
    }

    /// Writes the local event table of this number anew, if it is not compressed in this way.
    pub(crate) fn rewrite(
        &self,
        shared: &Shared,
        flusher: &Flusher,
        number: u64,
        compression: Compression,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Outcome, CompactError> {
        let shape = &self.options.shape();
        self.guarded(flusher, || {
            // Held to the end: what is written anew stays readable. Not the view, which would hold memory too.
            let table = shared.view().event_tables.iter().find(|table| table.meta.number == number).cloned();
            let Some(table) = table.filter(|table| table.cold.is_none()) else { return Ok(Outcome::Nothing) };
            if table.stored_as()? == Some(Stored::of(compression)) {
                return Ok(Outcome::Nothing);
            }
            let mut work = Work { compactor: self, shared, flusher, shape, go_on };
            work.merge_events(&[table], compression)
        })
    }

    fn guarded(
        &self,
        flusher: &Flusher,
        work: impl FnOnce() -> Result<Outcome, CompactError>,
    ) -> Result<Outcome, CompactError> {
        let _busy = self.busy.lock();
        if let Some(failure) = self.failure().filter(|failure| failure.is_final()) {
            return Err(CompactError::Ended(failure));
        }
        let done = caught(work).unwrap_or_else(|message| Err(CompactError::Panicked { message }));
        let done = done.map_err(|error| match error {
            // What else that device lost nobody knows: nothing is written any more, by a flush or by a merge (crash rule 1).
            CompactError::Table(TableError::Disk(error)) if error.is_sync() => {
                CompactError::Flush(flusher.fail(error.into()))
            }
            error => error,
        });
        let done = done.map_err(Arc::new);
        *self.failure.lock() = done.as_ref().err().cloned();
        done.map_err(|failure| {
            if failure.is_final() { CompactError::Ended(failure) } else { CompactError::Failed(failure) }
        })
    }
}

struct Work<'a> {
    compactor: &'a Compactor,
    shared: &'a Shared,
    flusher: &'a Flusher,
    shape: &'a Shape,
    go_on: &'a mut dyn FnMut(u64) -> bool,
}

impl Work<'_> {
    fn run_one(mut self) -> Result<Outcome, CompactError> {
        // What is merged is held to the end, so that it stays readable. The view is not: it would hold the memtables of this
        // moment, and at full load as many again are filled and flushed while a merge goes on.
        let view = self.shared.view();
        // First what is small and rare.
        if let Some(range) =
            events::choose(&view.event_tables, self.compactor.options.small_event_table_bytes)
        {
            let tables = view.event_tables[range].to_vec();
            drop(view);
            return self.merge_events(&tables, self.compactor.compression);
        }
        let choice = choose(&Levels::new(view.index_tables.iter().map(|table| &table.meta)), self.shape);
        match choice {
            Choice::Nothing => Ok(Outcome::Nothing),
            Choice::Move { number, into } => self.move_table(number, into),
            Choice::Merge(merge) => {
                let inputs: Vec<u64> = merge.inputs().collect();
                let taken = |table: &&Arc<IndexTable>| inputs.contains(&table.meta.number);
                let tables: Vec<Arc<IndexTable>> = view.index_tables.iter().filter(taken).cloned().collect();
                let first_kept = view.first_kept();
                drop(view);
                self.merge_indexes(&tables, first_kept, merge)
            }
        }
    }

    fn move_table(&self, number: u64, into: u8) -> Result<Outcome, CompactError> {
        self.flusher.change_files(self.shared, |contents| {
            let table = contents.index_tables.iter().find(|table| table.number == number);
            let moved =
                |table: &IndexTableMeta| Edit::AddIndex(IndexTableMeta { level: into, ..table.clone() });
            table.map_or(Vec::new(), |table| vec![Edit::Remove(number), moved(table)])
        })?;
        self.compactor.count(CompactionTotals { moves: 1, ..Default::default() });
        Ok(Outcome::Done)
    }

    fn merge_indexes(
        &mut self,
        tables: &[Arc<IndexTable>],
        first_kept: Sequence,
        merge: Merge,
    ) -> Result<Outcome, CompactError> {
        let inputs: Vec<u64> = tables.iter().map(|table| table.meta.number).collect();
        let metas: Vec<IndexTableMeta> = tables.iter().map(|table| table.meta.clone()).collect();
        let bytes_read: u64 = metas.iter().map(|meta| meta.bytes).sum();
        let postings: u64 = metas.iter().map(|meta| meta.footer.postings).sum();
        // A table ends because it is full, at either end of an entity that has its own, or where it is told to; numbers that are not
        // used are lost.
        let own = merge.alone.len() as u64 + postings / self.shape.own_table_postings.max(1) as u64;
        let ends = merge.ends.len() as u64;
        let count = 4 * (bytes_read / self.shape.table_bytes.max(1) + own) + ends + 16;
        let numbers = self.flusher.take_files(count);
        let files = numbers.clone().map(|number| TableFile { kind: FileKind::Index, number });
        let mut leftovers = Leftovers { shared: self.shared, files: files.collect() };

        let disk = &self.shared.disk;
        let mut running = IndexMerge::new(disk, merge, &metas, first_kept, *self.shape, numbers)?;
        let mut reported = 0;
        let slice = self.compactor.options.slice_bytes.max(1);
        while running.step(slice.div_ceil(POSTING_BYTES))? {
            let written = running.bytes();
            // An estimate while a block is open, so it may go back a little.
            if !(self.go_on)(written.saturating_sub(reported)) {
                return Ok(Outcome::Stopped);
            }
            reported = reported.max(written);
        }
        let done = CompactionTotals {
            merges: 1,
            bytes_read,
            postings: running.postings,
            postings_in_whole_blocks: running.in_whole_blocks,
            ..Default::default()
        };
        let outputs = running.finish()?;
        let bytes_written = outputs.iter().map(|(meta, _)| meta.bytes).sum();
        let (added, paths): (Vec<_>, Vec<PathBuf>) =
            outputs.into_iter().map(|(meta, path)| (Edit::AddIndex(meta), path)).unzip();
        self.replace(&inputs, added, &paths, &mut leftovers)?;
        self.compactor.count(CompactionTotals { bytes_written, ..done });
        Ok(Outcome::Done)
    }

    fn merge_events(
        &mut self,
        tables: &[Arc<EventTable>],
        compression: Compression,
    ) -> Result<Outcome, CompactError> {
        let metas: Vec<EventTableMeta> = tables.iter().map(|table| table.meta).collect();
        let number = self.flusher.take_files(1).start;
        let files = vec![TableFile { kind: FileKind::Events, number }];
        let mut leftovers = Leftovers { shared: self.shared, files };
        let mut running = EventMerge::new(&self.shared.disk, &metas, number, compression)?;
        let mut reported = 0;
        while running.step(self.compactor.options.slice_bytes.max(1))? {
            let written = running.bytes();
            // An estimate while a block is open, so it may go back a little.
            if !(self.go_on)(written.saturating_sub(reported)) {
                return Ok(Outcome::Stopped);
            }
            reported = reported.max(written);
        }
        let (meta, path) = running.finish()?;
        let inputs: Vec<u64> = metas.iter().map(|meta| meta.number).collect();
        self.replace(&inputs, vec![Edit::AddEvents(meta)], &[path], &mut leftovers)?;
        self.compactor.count(CompactionTotals {
            event_merges: 1,
            bytes_read: metas.iter().map(|meta| meta.bytes).sum(),
            bytes_written: meta.bytes,
            ..Default::default()
        });
        Ok(Outcome::Done)
    }

    /// Puts new files, whole and synced under their temporary names, in the place of `inputs`; if one of those has gone
    /// meanwhile (retention), nothing is changed.
    fn replace(
        &self,
        inputs: &[u64],
        added: Vec<Edit>,
        paths: &[PathBuf],
        leftovers: &mut Leftovers<'_>,
    ) -> Result<(), CompactError> {
        if !paths.is_empty() {
            install(&*self.shared.disk, Path::new(TABLES), paths)?;
        }
        // From the edit on they may be the store's, whatever happens: they are leftovers again only if it is known not to be made.
        let files = std::mem::take(&mut leftovers.files);
        let mut replaced = false;
        let changed = self.flusher.change_files(self.shared, |contents| {
            replaced = inputs.iter().all(|number| contents.names_locally(*number));
            if !replaced {
                return Vec::new();
            }
            let gone = inputs.iter().map(|number| Edit::Remove(*number));
            gone.chain(added).collect()
        });
        // After a failed edit nobody knows what the manifest names: the next opening removes what it does not. But one that
        // found no room was not made.
        let named = changed.as_ref().map_or_else(|error| !error.may_pass(), |()| replaced);
        if !named {
            leftovers.files = files;
        }
        Ok(changed?)
    }
}

/// Files of a merge that did not become part of the store: removed, as far as they are there.
struct Leftovers<'a> {
    shared: &'a Shared,
    files: Vec<TableFile>,
}

impl Drop for Leftovers<'_> {
    fn drop(&mut self) {
        for file in &self.files {
            // What cannot be removed is an orphan, and goes when the store is opened.
            let _ = self.shared.disk.remove(&new_path(&file.path()));
            let _ = self.shared.disk.remove(&file.path());
        }
    }
}
