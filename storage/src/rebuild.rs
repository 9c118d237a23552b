//! Tables made from frames outside of a flush: for the end of a backup, and where tables were damaged.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use matchtape_schemas::{Frame, Head, Sequence};

use crate::chunk::ChunkBuilder;
use crate::disk::{Disk, DiskError};
use crate::manifest::Edit;
use crate::memtable::{PLACES_MAX, Run};
use crate::options::Compression;
use crate::sstable::{
    BlockCache, ColdTable, EventTable, EventTableMeta, EventTableWriter, IndexTableMeta, IndexTableWriter,
    OpenFiles, TABLES, TableError, install,
};

/// A table made here is closed at the first group end behind so many bytes of frames, as a memtable is by default.
const TABLE_BYTES: u64 = 128 << 20;

/// Takes frames in order and writes event tables with their index tables.
#[derive(Debug)]
pub(crate) struct TableBuilder<'a> {
    disk: &'a dyn Disk,
    compression: Compression,
    head: Head,
    next_file: u64,
    /// Whether index tables are made along.
    indexed: bool,
    open: Option<(EventTableWriter, IndexBuilder, u64)>,
    edits: Vec<Edit>,
}

impl<'a> TableBuilder<'a> {
    /// Tables of the events after `head`, in files from number `next_file` on.
    pub(crate) fn new(disk: &'a dyn Disk, head: Head, next_file: u64) -> Self {
        Self {
            disk,
            compression: Compression::default(),
            head,
            next_file,
            indexed: true,
            open: None,
            edits: Vec::new(),
        }
    }

    /// The same without index tables.
    pub(crate) fn of_events(disk: &'a dyn Disk, head: Head, next_file: u64) -> Self {
        Self { indexed: false, ..Self::new(disk, head, next_file) }
    }

    /// Where the tape stands after what was added.
    pub(crate) fn head(&self) -> Head {
        self.head
    }

    /// Takes in the next frame, which was checked.
    pub(crate) fn add(&mut self, frame: &Frame<'_>) -> Result<(), DiskError> {
        if self.open.is_none() {
            let events = EventTableWriter::create(self.disk, self.next_file, self.head, self.compression)?;
            self.open = Some((events, IndexBuilder::new(self.head.last_sequence.next()), 0));
        }
        let (events, index, bytes) = self.open.as_mut().expect("just opened");
        events.add(frame)?;
        if self.indexed {
            index.add(frame);
        }
        *bytes += frame.bytes().len() as u64;
        self.head = frame.header().head();
        let full = *bytes >= TABLE_BYTES || index.events() >= PLACES_MAX / 2;
        if full && frame.header().ends_group() { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> Result<(), DiskError> {
        let Some((events, index, _)) = self.open.take() else { return Ok(()) };
        let (events, events_path) = events.finish()?;
        if !self.indexed {
            install(self.disk, Path::new(TABLES), &[events_path])?;
            self.next_file += 1;
            self.edits.push(Edit::AddEvents(events));
            return Ok(());
        }
        let (index, index_path) = index.finish(self.disk, self.next_file + 1, events.footer.after.tape)?;
        install(self.disk, Path::new(TABLES), &[events_path, index_path])?;
        self.next_file += 2;
        self.edits.extend([Edit::AddEvents(events), Edit::AddIndex(index)]);
        Ok(())
    }

    /// Closes the last table; what was made, as edits of a manifest, and the next file number.
    pub(crate) fn finish(mut self) -> Result<(Vec<Edit>, u64), DiskError> {
        self.close()?;
        Ok((self.edits, self.next_file))
    }
}

/// Gathers the index entries of frames; keeps no frame.
#[derive(Debug)]
pub(crate) struct IndexBuilder {
    base: Sequence,
    chunks: ChunkBuilder,
    runs: Vec<Run>,
    last: Sequence,
}

impl IndexBuilder {
    pub(crate) fn new(first: Sequence) -> Self {
        Self { base: first, chunks: ChunkBuilder::new(), runs: Vec::new(), last: first.previous() }
    }

    fn events(&self) -> u64 {
        self.last.next().0 - self.base.0
    }

    pub(crate) fn add(&mut self, frame: &Frame<'_>) {
        if !self.chunks.has_room_for(frame) {
            self.take_chunk();
        }
        self.chunks.add(frame);
        self.last = frame.last_sequence();
    }

    fn take_chunk(&mut self) {
        if let Some(chunk) = self.chunks.take() {
            self.runs.extend(Run::build(self.base, std::iter::once(&chunk)));
        }
    }

    /// Writes the table under its temporary name; at least one frame was added.
    pub(crate) fn finish(
        mut self,
        disk: &dyn Disk,
        number: u64,
        tape: matchtape_schemas::TapeId,
    ) -> Result<(IndexTableMeta, PathBuf), DiskError> {
        self.take_chunk();
        let runs: Vec<Arc<Run>> = self.runs.into_iter().map(Arc::new).collect();
        let postings = Run::merge(&runs);
        let mut index = IndexTableWriter::create(disk, number, tape, self.base)?;
        postings.for_each_entity(|entity, positions| index.add(entity, positions))?;
        index.finish()
    }
}

/// Gives every frame of an event table, in order, checked. `cold`: where it is, if it has left the disk.
pub(crate) fn for_each_frame<E: From<TableError>>(
    disk: &Arc<dyn Disk>,
    meta: &EventTableMeta,
    cold: Option<ColdTable>,
    mut visit: impl FnMut(&Frame<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let table =
        EventTable::new(*meta, cold, OpenFiles::new(Arc::clone(disk), 1), Arc::new(BlockCache::new(0)));
    let mut buffer = Vec::new();
    for leaf in table.top()? {
        for entry in table.leaf(leaf)?.entries() {
            let chunk = table.load_uncached(entry, &mut buffer)?;
            for number in 0..chunk.frames().len() {
                visit(&chunk.frame(number))?;
            }
        }
    }
    Ok(())
}

/// Writes an index table for an event table.
pub(crate) fn index_table(
    disk: &Arc<dyn Disk>,
    meta: &EventTableMeta,
    cold: Option<ColdTable>,
    number: u64,
) -> Result<IndexTableMeta, TableError> {
    let mut index = IndexBuilder::new(meta.first());
    for_each_frame::<TableError>(disk, meta, cold, |frame| {
        index.add(frame);
        Ok(())
    })?;
    let (made, path) = index.finish(&**disk, number, meta.footer.after.tape)?;
    install(&**disk, Path::new(TABLES), &[path])?;
    Ok(made)
}
