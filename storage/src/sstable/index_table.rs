//! Reads an index table: the positions of an entity's events.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use matchtape_schemas::{Sequence, TapeId};

use super::block::{self, BLOCK_HEADER_BYTES, BlockAt, BlockKind, FileId, read_ahead};
use super::cache::{BlockCache, Cached};
use super::event_table::load_payload;
use super::filter;
use super::index_scan::IndexScan;
use super::key::{Key, bounded};
use super::open_files::{Handle, OpenFiles};
use super::posting_block::{Impossible, PostingBlock};
use super::table_file::{TableFile, open_file};
use super::{Caller, TableError};
use crate::codec::{Fields, Short, put_varint};
use crate::disk::DiskFile;
use crate::entity::ENTITY_KEY_BYTES_MAX;
use crate::file_header::FileKind;
use crate::obsolete::FileLife;
use crate::wal::Damage;

/// What an index table is; its last block, and repeated in the manifest.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | tape |
/// | 8 | 8 | first event covered |
/// | 16 | 8 | last event covered |
/// | 24 | 8 | entities |
/// | 32 | 8 | postings |
/// | 40 | 8 | blocks of postings |
/// | 48 | 8 | offset of the top of the index |
/// | 56 | 4 | bytes of the top of the index |
/// | 60 | 2 | bytes of the least key |
/// | 62 | 2 | bytes of the greatest key |
/// | 64 | 129 | least key, then zeros |
/// | 193 | 129 | greatest key, then zeros |
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexFooter {
    pub tape: TapeId,
    pub first: Sequence,
    pub last: Sequence,
    pub entities: u64,
    pub postings: u64,
    pub blocks: u64,
    pub top: BlockAt,
    pub min_key: Box<[u8]>,
    pub max_key: Box<[u8]>,
}

impl IndexFooter {
    pub(crate) const BYTES: usize = 64 + 2 * ENTITY_KEY_BYTES_MAX;

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let numbers = [
            self.tape.0,
            self.first.0,
            self.last.0,
            self.entities,
            self.postings,
            self.blocks,
            self.top.offset,
        ];
        for number in numbers {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.top.bytes.to_le_bytes());
        out.extend_from_slice(&(self.min_key.len() as u16).to_le_bytes());
        out.extend_from_slice(&(self.max_key.len() as u16).to_le_bytes());
        for key in [&self.min_key, &self.max_key] {
            out.extend_from_slice(key);
            out.extend(std::iter::repeat_n(0, ENTITY_KEY_BYTES_MAX - key.len()));
        }
    }

    pub(crate) fn read(fields: &mut Fields<'_>) -> Result<Self, Short> {
        let start = fields.at();
        let (tape, first, last) = (TapeId(fields.u64()?), fields.sequence()?, fields.sequence()?);
        let (entities, postings, blocks) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let top = BlockAt { offset: fields.u64()?, bytes: fields.u32()? };
        let (min_bytes, max_bytes) = (usize::from(fields.u16()?), usize::from(fields.u16()?));
        let mut key = |bytes: usize| -> Result<Box<[u8]>, Short> {
            let at = fields.at();
            let padded = fields.bytes(ENTITY_KEY_BYTES_MAX)?;
            let (key, zeros) = padded.split_at_checked(bytes).ok_or(Short { at })?;
            if zeros.iter().any(|byte| *byte != 0) {
                return Err(Short { at });
            }
            Ok(key.into())
        };
        let (min_key, max_key) = (key(min_bytes)?, key(max_bytes)?);
        if first == Sequence::ZERO || last < first || last == Sequence::MAX || min_key > max_key {
            return Err(Short { at: start });
        }
        Ok(Self { tape, first, last, entities, postings, blocks, top, min_key, max_key })
    }
}

/// An index table as the manifest knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexTableMeta {
    pub number: u64,
    /// The file's length.
    pub bytes: u64,
    /// Zero as flushed. Of one entity, the postings in a higher level are older.
    pub level: u8,
    pub footer: IndexFooter,
}

impl IndexTableMeta {
    pub(crate) fn file(&self) -> TableFile {
        TableFile { kind: FileKind::Index, number: self.number }
    }
}

/// One entry of a leaf or of the top: where a block begins.
///
/// Encoded as varints: bytes of the key, the key, first sequence, offset, bytes of the block, bytes of the filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeafEntry {
    /// Here and not in memory of its own: a search in a leaf that is not in the processor's caches would wait twice in each step.
    pub key: Key,
    /// The first posting of its first entry.
    pub first: Sequence,
    pub at: BlockAt,
    /// Bytes of the block's filter, which lies right behind the block. Zero in the top: a leaf has none.
    pub filter_bytes: u32,
}

impl LeafEntry {
    pub(super) fn encode_all(entries: &[Self]) -> Vec<u8> {
        let mut raw = Vec::new();
        for entry in entries {
            let key = entry.key.to_bytes();
            put_varint(&mut raw, key.len() as u64);
            raw.extend_from_slice(&key);
            put_varint(&mut raw, entry.first.0);
            put_varint(&mut raw, entry.at.offset);
            put_varint(&mut raw, u64::from(entry.at.bytes));
            put_varint(&mut raw, u64::from(entry.filter_bytes));
        }
        raw
    }

    /// Where its block's filter is.
    pub(super) fn filter_at(&self) -> Option<BlockAt> {
        let offset = self.at.offset.saturating_add(u64::from(self.at.bytes));
        (self.filter_bytes > 0).then_some(BlockAt { offset, bytes: self.filter_bytes })
    }

    /// Where in the order of key and position its block begins.
    pub(super) fn begins(&self) -> (&Key, Sequence) {
        (&self.key, self.first)
    }
}

/// A decoded leaf or top: at least one entry, ascending by key and position.
#[derive(Debug)]
pub(crate) struct IndexLeaf {
    pub(super) entries: Box<[LeafEntry]>,
}

impl IndexLeaf {
    pub(super) fn decode(path: &Path, offset: u64, raw: &[u8]) -> Result<Self, Damage> {
        let damage = |found: String| Damage {
            file: path.to_path_buf(),
            offset,
            part: "index of an index table",
            expected: "entries in order".to_owned(),
            found,
        };
        let mut fields = Fields::new(raw);
        let mut entries: Vec<LeafEntry> = Vec::new();
        while !fields.is_empty() {
            let mut read = || -> Result<LeafEntry, Short> {
                let length = bounded(&mut fields, ENTITY_KEY_BYTES_MAX)?;
                let key = Key::of(fields.bytes(length)?);
                let first = Sequence(fields.varint()?);
                let at = BlockAt {
                    offset: fields.varint()?,
                    bytes: bounded(&mut fields, u32::MAX as usize)? as u32,
                };
                let filter_bytes = bounded(&mut fields, u32::MAX as usize)? as u32;
                Ok(LeafEntry { key, first, at, filter_bytes })
            };
            let entry =
                read().map_err(|short| damage(format!("an impossible field at byte {}", short.at)))?;
            if entries.last().is_some_and(|before| before.begins() >= entry.begins()) {
                return Err(damage(format!("entry {} is not behind the one before", entries.len())));
            }
            entries.push(entry);
        }
        if entries.is_empty() {
            return Err(damage("none".to_owned()));
        }
        Ok(Self { entries: entries.into_boxed_slice() })
    }

    /// The last entry that begins at or before this place; the first one, if none does.
    fn seek(&self, key: &Key, position: Sequence) -> usize {
        self.entries.partition_point(|entry| entry.begins() <= (key, position)).saturating_sub(1)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.entries.iter().map(|entry| size_of::<LeafEntry>() + entry.key.tail_bytes()).sum()
    }
}

/// An index table, asked for the top of its index when first read.
#[derive(Debug)]
pub(crate) struct IndexTable {
    pub meta: IndexTableMeta,
    /// Its file stays while anybody holds this.
    pub life: Arc<FileLife>,
    files: Arc<OpenFiles>,
    handle: Arc<Handle>,
    cache: Arc<BlockCache>,
    top: Arc<OnceLock<IndexLeaf>>,
}

/// The place of a block: its entry in a leaf.
#[derive(Clone, Debug)]
pub(super) struct Place {
    leaf: Arc<IndexLeaf>,
    /// The leaf's number.
    number: usize,
    entry: usize,
}

impl Place {
    /// What the index says of the block.
    pub(super) fn entry(&self) -> &LeafEntry {
        &self.leaf.entries[self.entry]
    }
}

impl IndexTable {
    pub(crate) fn new(meta: IndexTableMeta, files: Arc<OpenFiles>, cache: Arc<BlockCache>) -> Self {
        let life = FileLife::new(meta.file());
        Self { life, meta, files, handle: Arc::default(), cache, top: Arc::default() }
    }

    /// The same file as the manifest knows it now: on another level.
    pub(crate) fn moved(&self, meta: IndexTableMeta) -> Self {
        assert_eq!(
            (meta.number, &meta.footer),
            (self.meta.number, &self.meta.footer),
            "a file never changes"
        );
        Self {
            meta,
            life: Arc::clone(&self.life),
            files: Arc::clone(&self.files),
            handle: Arc::clone(&self.handle),
            cache: Arc::clone(&self.cache),
            top: Arc::clone(&self.top),
        }
    }

    pub(super) fn id(&self) -> FileId {
        FileId { tape: self.meta.footer.tape, number: self.meta.number }
    }

    pub(super) fn file(&self) -> Result<Arc<dyn DiskFile>, TableError> {
        self.files.get(&self.handle, |disk| {
            let file = open_file(disk, self.meta.file(), self.id(), self.meta.bytes)?;
            file.expect_lookups();
            Ok(file)
        })
    }

    /// One entry per leaf.
    pub(crate) fn top(&self) -> Result<&IndexLeaf, TableError> {
        if let Some(top) = self.top.get() {
            return Ok(top);
        }
        let top = self.load_top()?;
        Ok(self.top.get_or_init(|| top))
    }

    /// Memory of the top of the index, in bytes; nothing while the table was not asked.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.top.get().map_or(0, IndexLeaf::memory_bytes)
    }

    fn load_top(&self) -> Result<IndexLeaf, TableError> {
        let file = self.file()?;
        let path = file.path().to_path_buf();
        let mut buffer = Vec::new();
        let bytes = (BLOCK_HEADER_BYTES + IndexFooter::BYTES) as u32;
        let footer_at = BlockAt { offset: self.meta.bytes.saturating_sub(u64::from(bytes)), bytes };
        let raw = load_payload(&path, &*file, self.id(), footer_at, BlockKind::Footer, &mut buffer)?;
        if IndexFooter::read(&mut Fields::new(&raw)).as_ref() != Ok(&self.meta.footer) {
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
        Ok(IndexLeaf::decode(&path, top_at.offset, &raw)?)
    }

    fn leaf(&self, at: BlockAt) -> Result<Arc<IndexLeaf>, TableError> {
        if let Some(Cached::IndexLeaf(leaf)) = self.cache.get(self.meta.number, at.offset) {
            return Ok(leaf);
        }
        let file = self.file()?;
        let raw = load_payload(file.path(), &*file, self.id(), at, BlockKind::Leaf, &mut Vec::new())?;
        let leaf = Arc::new(IndexLeaf::decode(file.path(), at.offset, &raw)?);
        self.cache.insert(self.meta.number, at.offset, Cached::IndexLeaf(Arc::clone(&leaf)));
        Ok(leaf)
    }

    /// The block in which the first posting of `key` at or behind `position` is, if there is one, or before which.
    pub(super) fn seek(&self, key: &Key, position: Sequence) -> Result<Place, TableError> {
        let top = self.top()?;
        let number = top.seek(key, position);
        let leaf = self.leaf(top.entries[number].at)?;
        let entry = leaf.seek(key, position);
        Ok(Place { leaf, number, entry })
    }

    /// The block before or behind one.
    pub(super) fn neighbour(&self, place: Place, forward: bool) -> Result<Option<Place>, TableError> {
        let Place { leaf, number, entry } = place;
        let inside = if forward { Some(entry + 1) } else { entry.checked_sub(1) };
        if let Some(entry) = inside.filter(|entry| *entry < leaf.entries.len()) {
            return Ok(Some(Place { leaf, number, entry }));
        }
        let top = self.top()?;
        let next = if forward { Some(number + 1) } else { number.checked_sub(1) };
        let Some(number) = next.filter(|number| *number < top.entries.len()) else { return Ok(None) };
        let leaf = self.leaf(top.entries[number].at)?;
        let entry = if forward { 0 } else { leaf.entries.len() - 1 };
        Ok(Some(Place { leaf, number, entry }))
    }

    /// Appends the postings in one block of all keys that are (`exact`) or begin with `key`.
    pub(super) fn collect(
        &self,
        entry: &LeafEntry,
        key: &Key,
        exact: bool,
        caller: Caller,
        out: &mut Vec<u64>,
    ) -> Result<(), TableError> {
        let collected = self.block(entry.at, caller)?.collect(key, exact, out);
        collected.map_err(|impossible| self.refuse(entry.at.offset, impossible))
    }

    fn block(&self, at: BlockAt, caller: Caller) -> Result<Arc<PostingBlock>, TableError> {
        if let Some(Cached::Postings(block)) = self.cache.get(self.meta.number, at.offset) {
            return Ok(block);
        }
        if caller == Caller::Scan {
            read_ahead(&*self.file()?, at);
        }
        let block = Arc::new(self.load_block(at)?);
        if caller == Caller::Point {
            self.cache.insert(self.meta.number, at.offset, Cached::Postings(Arc::clone(&block)));
        }
        Ok(block)
    }

    fn load_block(&self, at: BlockAt) -> Result<PostingBlock, TableError> {
        let file = self.file()?;
        let raw = load_payload(file.path(), &*file, self.id(), at, BlockKind::Postings, &mut Vec::new())?;
        PostingBlock::decode(raw).map_err(|impossible| self.refuse(at.offset, impossible))
    }

    pub(super) fn refuse(&self, offset: u64, (at, what): Impossible) -> TableError {
        TableError::Damage(Damage {
            file: self.meta.file().path(),
            offset,
            part: "block of postings",
            expected: format!("a possible {what} at byte {at} of the payload"),
            found: "an impossible one".to_owned(),
        })
    }

    /// `false`: the entity with this key is not among those of this table.
    pub(super) fn in_range(&self, key: &[u8]) -> bool {
        let footer = &self.meta.footer;
        (&*footer.min_key..=&*footer.max_key).contains(&key)
    }

    /// `false`: the entity with this key has no posting in the block.
    pub(super) fn may_hold(&self, entry: &LeafEntry, key: &Key, caller: Caller) -> Result<bool, TableError> {
        // The index itself says so of the block's first key.
        let Some(at) = entry.filter_at().filter(|_| entry.key != *key) else { return Ok(true) };
        let hash = key.hash();
        if let Some(Cached::Filter(filter)) = self.cache.get(self.meta.number, at.offset) {
            return Ok(filter::may_contain(&filter, hash));
        }
        let (file, mut buffer) = (self.file()?, Vec::new());
        // Whoever asks the filter will most often want the block before it too: both are one read, which costs a disk no more.
        let both =
            entry.at.bytes.checked_add(at.bytes).filter(|_| {
                caller == Caller::Point && !self.cache.contains(self.meta.number, entry.at.offset)
            });
        let block_bytes = match both {
            Some(bytes) => {
                block::load(&*file, BlockAt { offset: entry.at.offset, bytes }, &mut buffer)?;
                entry.at.bytes as usize
            }
            None => {
                block::load(&*file, at, &mut buffer)?;
                0
            }
        };
        let (block, filter) = buffer.split_at(block_bytes);
        let filter = block::read_payload(file.path(), self.id(), at.offset, BlockKind::Filter, filter)?;
        let found = filter::may_contain(&filter, hash);
        self.cache.insert(self.meta.number, at.offset, Cached::Filter(filter.into()));
        if found && !block.is_empty() {
            let offset = entry.at.offset;
            let raw = block::read_payload(file.path(), self.id(), offset, BlockKind::Postings, block)?;
            let block = PostingBlock::decode(raw).map_err(|impossible| self.refuse(offset, impossible))?;
            self.cache.insert(self.meta.number, offset, Cached::Postings(Arc::new(block)));
        }
        Ok(found)
    }

    /// Every posting, in order, read past the cache; and every block's filter must know every entity of it. For `verify`.
    pub(crate) fn for_each_posting(
        self: &Arc<Self>,
        mut visit: impl FnMut(&[u8], u64),
    ) -> Result<(), TableError> {
        let mut scan = IndexScan::new(Arc::clone(self));
        let (mut filter, mut last) = (Vec::new(), None);
        while scan.advance()? {
            if scan.begun_block().is_some() {
                filter = scan.filter()?;
            }
            let (key, postings) = (scan.key().to_bytes(), scan.postings());
            if !filter::may_contain(&filter, scan.key().hash()) {
                return Err(scan.refuse("entity: one is not in the filter"));
            }
            if last.as_ref().is_some_and(|last| *last >= (key.clone(), postings.first)) {
                return Err(scan.refuse("place in the order of keys and positions"));
            }
            if postings.decode(|position| visit(&key, position)).is_err() {
                return Err(scan.refuse("posting"));
            }
            last = Some((key, postings.last));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_at_all_make_a_leaf_or_an_error_but_no_panic(raw: Vec<u8>) {
            let _ = IndexLeaf::decode(Path::new("x"), 0, &raw);
        }

        #[test]
        fn a_footer_survives_and_any_bytes_at_all_do_not_panic(raw in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = IndexFooter::read(&mut Fields::new(&raw));
            let footer = IndexFooter {
                tape: TapeId(1),
                first: Sequence(2),
                last: Sequence(3),
                entities: 4,
                postings: 5,
                blocks: 6,
                top: BlockAt { offset: 9, bytes: 10 },
                min_key: b"\x01".as_slice().into(),
                max_key: vec![5; ENTITY_KEY_BYTES_MAX].into(),
            };
            let mut bytes = Vec::new();
            footer.put(&mut bytes);
            prop_assert_eq!(bytes.len(), IndexFooter::BYTES);
            prop_assert_eq!(IndexFooter::read(&mut Fields::new(&bytes)), Ok(footer));
        }
    }
}
