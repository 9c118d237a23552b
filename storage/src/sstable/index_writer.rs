//! Writes an index table: sorted postings in, blocks of postings and their filters out.

use std::path::PathBuf;

use matchtape_schemas::{Sequence, TapeId};

use super::block::{BlockAt, BlockKind, Compress, FileId};
use super::filter;
use super::index_table::{IndexFooter, IndexTableMeta, LeafEntry};
use super::key::Key;
use super::posting_block::{BlockWriter, Encoded, PostingBlock};
use super::posting_list::{PostingList, Postings};
use super::table_file::{FileWriter, TableFile};
use crate::disk::{Disk, DiskError};
use crate::entity::Entity;
use crate::file_header::FileKind;

/// A block is closed when it has reached this.
const BLOCK_BYTES_TARGET: usize = 8 << 10;
/// A block that goes on to the end of another one may reach this.
const BLOCK_BYTES_LONG: usize = 2 * BLOCK_BYTES_TARGET;
/// A block with fewer bytes is not closed early, so that blocks do not become ever smaller.
const BLOCK_BYTES_SHORT: usize = BLOCK_BYTES_TARGET / 2;
/// A leaf is closed when it has reached this.
const LEAF_BYTES_TARGET: usize = 4 << 10;
/// Longer lists go on in a further entry, so that a block stays below twice its target.
pub(crate) const ENTRY_POSTINGS_MAX: u64 = 512;

/// See the module.
#[derive(Debug)]
pub(crate) struct IndexTableWriter {
    out: FileWriter,
    number: u64,
    tape: TapeId,
    /// No position is below it.
    base: Sequence,
    /// The least position, and the greatest.
    first: u64,
    last: u64,
    block: BlockWriter,
    /// The open block may become longer than others.
    joining: bool,
    /// Of the keys in the block.
    hashes: Vec<u64>,
    filter: Vec<u8>,
    leaf: Vec<LeafEntry>,
    leaf_bytes: usize,
    top: Vec<LeafEntry>,
    /// The last key.
    key: Key,
    next_key: Vec<u8>,
    list: PostingList,
    entities: u64,
    posting_count: u64,
    blocks: u64,
}

/// What can be done with a block of another table that belongs behind what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It can be taken as it is.
    AsItIs,
    /// The open block is short and should go on with its entries to their end; then the next one fits again.
    Joined,
    /// Neither.
    No,
}

/// A block of another table with its filter and its entities.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WholeBlock<'a> {
    pub block: &'a PostingBlock,
    pub filter: &'a [u8],
    pub first_key: &'a Key,
    /// The first position of the first entity.
    pub first: u64,
    pub last_key: &'a Key,
}

impl IndexTableWriter {
    /// A table of the postings of events from `base` on.
    pub(crate) fn create(
        disk: &dyn Disk,
        number: u64,
        tape: TapeId,
        base: Sequence,
    ) -> Result<Self, DiskError> {
        let out =
            FileWriter::create(disk, TableFile { kind: FileKind::Index, number }, FileId { tape, number })?;
        Ok(Self {
            out,
            number,
            tape,
            base,
            first: u64::MAX,
            last: 0,
            block: BlockWriter::default(),
            joining: false,
            hashes: Vec::new(),
            filter: Vec::new(),
            leaf: Vec::new(),
            leaf_bytes: 0,
            top: Vec::new(),
            key: Key::default(),
            next_key: Vec::new(),
            list: PostingList::default(),
            entities: 0,
            posting_count: 0,
            blocks: 0,
        })
    }

    /// Takes in the next entity with its positions, at least one, ascending.
    ///
    /// # Panics
    /// If the entity is not behind the one before.
    pub(crate) fn add(
        &mut self,
        entity: Entity<'_>,
        positions: impl Iterator<Item = Sequence>,
    ) -> Result<(), DiskError> {
        entity.write_key(&mut self.next_key);
        let mut key = Key::default();
        key.set(&self.next_key);
        self.add_positions(&key, positions.map(|position| position.0))
    }

    /// The same by the entity's key.
    pub(crate) fn add_positions(
        &mut self,
        key: &Key,
        positions: impl Iterator<Item = u64>,
    ) -> Result<(), DiskError> {
        let mut list = std::mem::take(&mut self.list);
        list.clear();
        for position in positions {
            if list.count() == ENTRY_POSTINGS_MAX {
                self.entry(key, list.get())?;
                list.clear();
            }
            list.push(position);
        }
        let added = if list.is_empty() { Ok(()) } else { self.entry(key, list.get()) };
        self.list = list;
        added
    }

    /// Takes in the next entity's positions, or more of the same entity's, all behind those before: as one entry, so they should not be
    /// more than [`ENTRY_POSTINGS_MAX`].
    ///
    /// # Panics
    /// If the key is before the last one.
    #[inline]
    pub(crate) fn entry(&mut self, key: &Key, postings: Postings<'_>) -> Result<(), DiskError> {
        self.place_for(key, postings)?;
        self.block.add(&self.key, key, postings);
        self.taken(key);
        Ok(())
    }

    /// The same, for an entry that can be copied if its block has the same entry before it as this table. Its key is behind the last
    /// one.
    #[inline]
    pub(crate) fn copy_entry(
        &mut self,
        key: &Key,
        postings: Postings<'_>,
        entry: Encoded<'_>,
    ) -> Result<(), DiskError> {
        self.place_for(key, postings)?;
        if !self.block.copy(entry, postings) {
            self.block.add(&self.key, key, postings);
        }
        self.taken(key);
        Ok(())
    }

    /// Makes sure of a block that the entry can go to.
    #[inline]
    fn place_for(&mut self, key: &Key, postings: Postings<'_>) -> Result<(), DiskError> {
        let bytes_max = if self.joining { BLOCK_BYTES_LONG } else { BLOCK_BYTES_TARGET };
        if self.block.bytes() >= bytes_max {
            self.close_block()?;
        }
        if self.block.is_empty() {
            self.begin_block(key, postings.first, BlockAt { offset: 0, bytes: 0 }, 0);
            self.block.begin(self.base);
        }
        Ok(())
    }

    #[inline]
    fn taken(&mut self, key: &Key) {
        let new = self.entities == 0 || *key != self.key;
        if new {
            assert!(self.entities == 0 || *key > self.key, "keys come in order");
            self.key.clone_from(key);
            self.entities += 1;
        }
        if new || self.hashes.is_empty() {
            self.hashes.push(key.hash());
        }
    }

    fn begin_block(&mut self, key: &Key, first: u64, at: BlockAt, filter_bytes: u32) {
        let entry = LeafEntry { key: key.clone(), first: Sequence(first), at, filter_bytes };
        self.leaf_bytes += entry.key.length() + 16;
        self.leaf.push(entry);
    }

    /// What can be done with a block whose entities are all behind those there are.
    pub(crate) fn fit(&self, block: &PostingBlock) -> Fit {
        let open = self.block.bytes();
        if self.block.is_empty() || open >= BLOCK_BYTES_SHORT {
            Fit::AsItIs
        } else if open + block.raw().len() <= BLOCK_BYTES_LONG {
            Fit::Joined
        } else {
            Fit::No
        }
    }

    /// Takes in a whole block of another table; its entities are all behind those there are.
    ///
    /// # Panics
    /// If they are not.
    pub(crate) fn take_block(&mut self, whole: WholeBlock<'_>) -> Result<(), DiskError> {
        let WholeBlock { block, filter, first_key, first, last_key } = whole;
        self.close_block()?;
        assert!(self.entities == 0 || *first_key > self.key, "keys come in order");
        assert!(first_key <= last_key && block.least() >= self.base.0, "a block of an input");
        let at = self.out.block(BlockKind::Postings, block.raw(), Compress::Never)?;
        let filter_at = self.out.block(BlockKind::Filter, filter, Compress::Never)?;
        self.begin_block(first_key, first, at, filter_at.bytes);
        self.key.clone_from(last_key);
        self.entities += block.entities();
        self.count(block.least(), block.greatest(), block.postings());
        self.block_done()
    }

    /// The entries that follow are those of a block that is to be [`Fit::Joined`]: until `close_block`, the open one goes on.
    pub(crate) fn join(&mut self) {
        self.joining = true;
    }

    /// Bytes so far, without what is added at the end.
    pub(crate) fn bytes(&self) -> u64 {
        self.out.offset() + self.block.bytes() as u64
    }

    /// Ends the open block, if there is one.
    pub(crate) fn close_block(&mut self) -> Result<(), DiskError> {
        self.joining = false;
        if self.block.is_empty() {
            return Ok(());
        }
        // Not compressed: entries are written against each other, which leaves little, and LZ4 took most of a merge's time
        // for a sixth of the bytes.
        let (least, greatest, postings) = self.block.covers();
        self.count(least, greatest, postings);
        let raw = self.block.finish(self.hashes.len());
        let at = self.out.block(BlockKind::Postings, raw, Compress::Never)?;
        self.block.clear();
        filter::build(&self.hashes, &mut self.filter);
        self.hashes.clear();
        let filter_at = self.out.block(BlockKind::Filter, &self.filter, Compress::Never)?;
        let entry = self.leaf.last_mut().expect("a block begins with its leaf entry");
        (entry.at, entry.filter_bytes) = (at, filter_at.bytes);
        self.block_done()
    }

    fn count(&mut self, least: u64, greatest: u64, postings: u64) {
        self.first = self.first.min(least);
        self.last = self.last.max(greatest);
        self.posting_count += postings;
    }

    fn block_done(&mut self) -> Result<(), DiskError> {
        self.blocks += 1;
        if self.leaf_bytes >= LEAF_BYTES_TARGET { self.close_leaf() } else { Ok(()) }
    }

    fn close_leaf(&mut self) -> Result<(), DiskError> {
        let Some(first) = self.leaf.first() else { return Ok(()) };
        let (key, first) = (first.key.clone(), first.first);
        let at = self.out.block(BlockKind::Leaf, &LeafEntry::encode_all(&self.leaf), Compress::Lz4)?;
        self.leaf.clear();
        self.leaf_bytes = 0;
        self.top.push(LeafEntry { key, first, at, filter_bytes: 0 });
        Ok(())
    }

    /// Writes the index and syncs the file, which still has its temporary name; returns what it is to be called.
    ///
    /// # Panics
    /// If no posting was added.
    pub(crate) fn finish(mut self) -> Result<(IndexTableMeta, PathBuf), DiskError> {
        self.close_block()?;
        assert!(self.posting_count > 0, "every event has at least one posting");
        self.close_leaf()?;
        let top = self.out.block(BlockKind::Top, &LeafEntry::encode_all(&self.top), Compress::Never)?;
        let footer = IndexFooter {
            tape: self.tape,
            first: Sequence(self.first),
            last: Sequence(self.last),
            entities: self.entities,
            postings: self.posting_count,
            blocks: self.blocks,
            top,
            min_key: self.top[0].key.to_bytes().into(),
            max_key: self.key.to_bytes().into(),
        };
        let mut raw = Vec::new();
        footer.put(&mut raw);
        let (bytes, path) = self.out.finish(&raw)?;
        Ok((IndexTableMeta { number: self.number, bytes, level: 0, footer }, path))
    }
}
