//! Reads an event table: blocks of frames by sequence.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use matchtape_schemas::{AcceptedTime, EventTime, Head, InstrumentId, KindMask, Sequence};

use super::block::{self, BLOCK_HEADER_BYTES, BlockAt, BlockKind, FileId, Stored};
use super::cache::{BlockCache, Cached};
use super::leaf::{BlockEntry, EventLeaf};
use super::open_files::{Handle, OpenFiles};
use super::table_file::{TableFile, check_header, open_file};
use super::{Caller, TableError};
use crate::archive::ColdStore;
use crate::archive::cold::{self, ColdObject};
use crate::chunk::Chunk;
use crate::codec::{Fields, HEAD_BYTES, Short, put_head};
use crate::disk::{Access, Caching, DiskFile};
use crate::file_header::{FILE_HEADER_BYTES, FileKind};
use crate::obsolete::FileLife;
use crate::wal::Damage;

/// What an event table is; its last block, and repeated in the manifest.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 48 | where the tape stood before it: tape, epoch, last sequence, checksum, accepted time, greatest event time |
/// | 48 | 48 | where the tape stands after it |
/// | 96 | 8 | accepted time of its first frame |
/// | 104 | 8 | least event time |
/// | 112 | 8 | greatest event time |
/// | 120 | 8 | mask of its kinds |
/// | 128 | 4 | least instrument |
/// | 132 | 4 | greatest instrument |
/// | 136 | 8 | frames |
/// | 144 | 8 | blocks of frames |
/// | 152 | 8 | bytes of its frames, uncompressed |
/// | 160 | 8 | offset of the top of the index |
/// | 168 | 4 | bytes of the top of the index |
/// | 172 | 4 | zero |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventFooter {
    pub before: Head,
    pub after: Head,
    pub first_accepted: AcceptedTime,
    pub min_time: EventTime,
    pub max_time: EventTime,
    pub kinds: KindMask,
    pub min_instrument: InstrumentId,
    pub max_instrument: InstrumentId,
    pub frames: u64,
    pub blocks: u64,
    pub raw_bytes: u64,
    pub top: BlockAt,
}

impl EventFooter {
    pub(crate) const BYTES: usize = 2 * HEAD_BYTES + 80;

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_head(out, &self.before);
        put_head(out, &self.after);
        out.extend_from_slice(&self.first_accepted.0.to_le_bytes());
        out.extend_from_slice(&self.min_time.0.to_le_bytes());
        out.extend_from_slice(&self.max_time.0.to_le_bytes());
        out.extend_from_slice(&self.kinds.0.to_le_bytes());
        out.extend_from_slice(&self.min_instrument.0.to_le_bytes());
        out.extend_from_slice(&self.max_instrument.0.to_le_bytes());
        out.extend_from_slice(&self.frames.to_le_bytes());
        out.extend_from_slice(&self.blocks.to_le_bytes());
        out.extend_from_slice(&self.raw_bytes.to_le_bytes());
        out.extend_from_slice(&self.top.offset.to_le_bytes());
        out.extend_from_slice(&self.top.bytes.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
    }

    pub(crate) fn read(fields: &mut Fields<'_>) -> Result<Self, Short> {
        let footer = Self {
            before: fields.head()?,
            after: fields.head()?,
            first_accepted: AcceptedTime(fields.i64()?),
            min_time: EventTime(fields.i64()?),
            max_time: EventTime(fields.i64()?),
            kinds: KindMask(fields.u64()?),
            min_instrument: InstrumentId(fields.u32()?),
            max_instrument: InstrumentId(fields.u32()?),
            frames: fields.u64()?,
            blocks: fields.u64()?,
            raw_bytes: fields.u64()?,
            top: BlockAt { offset: fields.u64()?, bytes: fields.u32()? },
        };
        let at = fields.at();
        // Positions that later code computes with must be possible.
        let possible = fields.u32()? == 0
            && footer.before.tape == footer.after.tape
            && footer.before.last_sequence < footer.after.last_sequence
            && footer.after.last_sequence < Sequence::MAX;
        if possible { Ok(footer) } else { Err(Short { at }) }
    }
}

/// An event table as the manifest knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventTableMeta {
    pub number: u64,
    /// The file's length.
    pub bytes: u64,
    pub footer: EventFooter,
}

impl EventTableMeta {
    pub(crate) fn first(&self) -> Sequence {
        self.footer.before.last_sequence.next()
    }

    pub(crate) fn last(&self) -> Sequence {
        self.footer.after.last_sequence
    }

    pub(crate) fn file(&self) -> TableFile {
        TableFile { kind: FileKind::Events, number: self.number }
    }
}

/// An event table, asked for the top of its index when first read.
#[derive(Debug)]
pub(crate) struct EventTable {
    pub meta: EventTableMeta,
    /// Its file stays while anybody holds this.
    pub life: Arc<FileLife>,
    /// Where it is, if it has left the local disk.
    pub cold: Option<ColdTable>,
    files: Arc<OpenFiles>,
    handle: Arc<Handle>,
    cache: Arc<BlockCache>,
    top: OnceLock<EventLeaf>,
}

/// The object that an event table has become.
#[derive(Clone, Debug)]
pub(crate) struct ColdTable {
    pub store: Arc<dyn ColdStore>,
    pub object: ColdObject,
}

impl EventTable {
    pub(crate) fn new(
        meta: EventTableMeta,
        cold: Option<ColdTable>,
        files: Arc<OpenFiles>,
        cache: Arc<BlockCache>,
    ) -> Self {
        let life = FileLife::new(meta.file());
        Self { life, meta, cold, files, handle: Arc::default(), cache, top: OnceLock::new() }
    }

    fn id(&self) -> FileId {
        FileId { tape: self.meta.footer.after.tape, number: self.meta.number }
    }

    fn file(&self) -> Result<Arc<dyn DiskFile>, TableError> {
        match &self.cold {
            None => self.files.get(&self.handle, |disk| {
                let file = open_file(disk, self.meta.file(), self.id(), self.meta.bytes)?;
                file.expect_lookups();
                Ok(file)
            }),
            // Nothing of the system is held for an object.
            Some(cold) => Ok(cold::open_object(&cold.store, &cold.object)),
        }
    }

    /// Lets the kernel forget the pages of what was read: they go when the table goes, and until then hotter ones need the room.
    pub(crate) fn drop_cache(&self) {
        if let Ok(file) = self.file() {
            // Only a hint: if it fails, some pages stay longer.
            let _ = file.drop_cache(0, self.meta.bytes);
        }
    }

    fn top_leaf(&self) -> Result<&EventLeaf, TableError> {
        if let Some(top) = self.top.get() {
            return Ok(top);
        }
        let top = self.load_top()?;
        // Two threads may have loaded it at once; one result is kept.
        Ok(self.top.get_or_init(|| top))
    }

    /// Memory of the top of the index, in bytes; nothing while the table was not asked.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.top.get().map_or(0, EventLeaf::memory_bytes)
    }

    fn load_top(&self) -> Result<EventLeaf, TableError> {
        let file = self.file()?;
        if self.cold.is_some() {
            check_header(&*file, self.meta.file(), self.id())?;
        }
        let path = file.path().to_path_buf();
        let mut buffer = Vec::new();
        let bytes = (BLOCK_HEADER_BYTES + EventFooter::BYTES) as u32;
        let footer_at = BlockAt { offset: self.meta.bytes.saturating_sub(u64::from(bytes)), bytes };
        let raw = load_payload(&path, &*file, self.id(), footer_at, BlockKind::Footer, &mut buffer)?;
        if EventFooter::read(&mut Fields::new(&raw)) != Ok(self.meta.footer) {
            return Err(TableError::Damage(Damage {
                file: path,
                offset: footer_at.offset,
                part: "footer",
                expected: "the one the manifest states".to_owned(),
                found: "another".to_owned(),
            }));
        }
        let top_at = self.meta.footer.top;
        let raw = load_payload(&path, &*file, self.id(), top_at, BlockKind::Top, &mut buffer)?;
        let top = EventLeaf::decode(&path, top_at.offset, &raw)?;
        self.check_range(
            &path,
            top_at.offset,
            (self.meta.first(), self.meta.last()),
            (top.first(), top.last()),
        )?;
        Ok(top)
    }

    fn check_range(
        &self,
        path: &Path,
        offset: u64,
        expected: (Sequence, Sequence),
        found: (Sequence, Sequence),
    ) -> Result<(), TableError> {
        if expected == found {
            return Ok(());
        }
        Err(TableError::Damage(Damage {
            file: path.to_path_buf(),
            offset,
            part: "range of sequences",
            expected: format!("{}..={}", expected.0, expected.1),
            found: format!("{}..={}", found.0, found.1),
        }))
    }

    /// How the first block of a local table lies in its file: how the table was to be compressed, unless that saved nothing. The
    /// table stays closed if it is.
    pub(crate) fn stored_as(&self) -> Result<Option<Stored>, TableError> {
        let mut header = [0; BLOCK_HEADER_BYTES];
        let file = self.files.disk().open(&self.meta.file().path(), Access::Read, Caching::Buffered)?;
        file.read_exact_at(&mut header, FILE_HEADER_BYTES as u64)?;
        Ok(Stored::from_byte(header[9]))
    }

    /// One entry per leaf.
    pub(crate) fn top(&self) -> Result<&[BlockEntry], TableError> {
        Ok(self.top_leaf()?.entries())
    }

    /// The leaf that an entry of the top names.
    pub(crate) fn leaf(&self, entry: &BlockEntry) -> Result<Arc<EventLeaf>, TableError> {
        if let Some(Cached::EventLeaf(leaf)) = self.cache.get(self.meta.number, entry.at.offset) {
            return Ok(leaf);
        }
        let file = self.file()?;
        let raw = load_payload(file.path(), &*file, self.id(), entry.at, BlockKind::Leaf, &mut Vec::new())?;
        let leaf = EventLeaf::decode(file.path(), entry.at.offset, &raw)?;
        self.check_range(
            file.path(),
            entry.at.offset,
            (entry.first, entry.last()),
            (leaf.first(), leaf.last()),
        )?;
        let leaf = Arc::new(leaf);
        self.cache.insert(self.meta.number, entry.at.offset, Cached::EventLeaf(Arc::clone(&leaf)));
        Ok(leaf)
    }

    /// The leaf that knows the block that holds `sequence`, which the table covers.
    pub(crate) fn leaf_holding(&self, sequence: Sequence) -> Result<Arc<EventLeaf>, TableError> {
        let top = self.top_leaf()?;
        let number = top.holding(sequence).expect("a table's index covers its range");
        self.leaf(&top.entries()[number])
    }

    /// The entry of the block that holds `sequence`, which the table covers.
    pub(crate) fn entry_holding(&self, sequence: Sequence) -> Result<BlockEntry, TableError> {
        let leaf = self.leaf_holding(sequence)?;
        let number = leaf.holding(sequence).expect("a leaf covers its range");
        Ok(leaf.entries()[number])
    }

    /// The frames of a block, if they are at hand.
    pub(crate) fn cached(&self, entry: &BlockEntry) -> Option<Arc<Chunk>> {
        match self.cache.get(self.meta.number, entry.at.offset) {
            Some(Cached::Frames(chunk)) => Some(chunk),
            Some(_) | None => None,
        }
    }

    /// Asks for a block that will be read.
    pub(crate) fn will_need(&self, entry: &BlockEntry) -> Result<(), TableError> {
        self.file()?.will_need(entry.at.offset, u64::from(entry.at.bytes));
        Ok(())
    }

    /// The frames of a block.
    pub(crate) fn chunk(
        &self,
        entry: &BlockEntry,
        caller: Caller,
        buffer: &mut Vec<u8>,
    ) -> Result<Arc<Chunk>, TableError> {
        if let Some(chunk) = self.cached(entry) {
            return Ok(chunk);
        }
        let chunk = Arc::new(self.load_chunk(entry, caller, buffer)?);
        if caller == Caller::Point {
            self.cache.insert(self.meta.number, entry.at.offset, Cached::Frames(Arc::clone(&chunk)));
        }
        Ok(chunk)
    }

    fn load_chunk(
        &self,
        entry: &BlockEntry,
        caller: Caller,
        buffer: &mut Vec<u8>,
    ) -> Result<Chunk, TableError> {
        let file = self.file()?;
        if caller == Caller::Scan {
            block::read_ahead(&*file, entry.at);
        }
        block::load(&*file, entry.at, buffer)?;
        let (path, offset) = (file.path(), entry.at.offset);
        let (raw, length) = block::read_payload_aligned(path, self.id(), offset, BlockKind::Frames, buffer)?;
        let chunk = Chunk::decode(raw, length).map_err(|(at, error)| Damage {
            file: path.to_path_buf(),
            offset,
            part: "frames of a block",
            expected: format!("a frame at byte {at} of the payload"),
            found: error.to_string(),
        })?;
        let found = (chunk.first_sequence(), chunk.last_sequence());
        self.check_range(path, offset, (entry.first, entry.last()), found)?;
        Ok(chunk)
    }

    /// Reads every block past the cache, as `verify` wants it.
    pub(crate) fn load_uncached(
        &self,
        entry: &BlockEntry,
        buffer: &mut Vec<u8>,
    ) -> Result<Arc<Chunk>, TableError> {
        self.load_chunk(entry, Caller::Scan, buffer).map(Arc::new)
    }
}

pub(super) fn load_payload(
    path: &Path,
    file: &dyn DiskFile,
    id: FileId,
    at: BlockAt,
    kind: BlockKind,
    buffer: &mut Vec<u8>,
) -> Result<Vec<u8>, TableError> {
    block::load(file, at, buffer)?;
    block::read_payload(path, id, at.offset, kind, buffer)
}
