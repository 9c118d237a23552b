//! Writes an index table: sorted postings in, compressed blocks out.

use std::path::PathBuf;

use matchtape_schemas::{Sequence, TapeId};

use super::block::{BlockAt, BlockKind, Compress, FileId};
use super::filter;
use super::index_table::{IndexFooter, IndexTableMeta, LeafEntry};
use super::posting_block::BlockWriter;
use super::posting_list::{PostingList, Postings};
use super::table_file::{FileWriter, TableFile};
use crate::disk::{Disk, DiskError};
use crate::entity::Entity;
use crate::file_header::FileKind;

/// A block is closed when it has reached this.
const BLOCK_BYTES_TARGET: usize = 8 << 10;
/// A leaf is closed when it has reached this.
const LEAF_BYTES_TARGET: usize = 4 << 10;
/// Longer lists go on in a further entry, so that a block stays below twice its target.
const ENTRY_POSTINGS_MAX: u64 = 512;

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
    leaf: Vec<LeafEntry>,
    leaf_bytes: usize,
    top: Vec<LeafEntry>,
    key: Vec<u8>,
    next_key: Vec<u8>,
    postings: PostingList,
    hashes: Vec<u64>,
    posting_count: u64,
    blocks: u64,
    min_key: Vec<u8>,
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
            leaf: Vec::new(),
            leaf_bytes: 0,
            top: Vec::new(),
            key: Vec::new(),
            next_key: Vec::new(),
            postings: PostingList::default(),
            hashes: Vec::new(),
            posting_count: 0,
            blocks: 0,
            min_key: Vec::new(),
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
        let mut key = std::mem::take(&mut self.next_key);
        entity.write_key(&mut key);
        let begun = self.begin_key(&key);
        self.next_key = key;
        begun?;
        self.add_positions(positions.map(|position| position.0))
    }

    /// Begins the next entity, by its key; at least one position follows.
    ///
    /// # Panics
    /// If the key is not behind the one before.
    pub(crate) fn begin_key(&mut self, key: &[u8]) -> Result<(), DiskError> {
        self.close_entry()?;
        assert!(key > &*self.key, "keys come in order");
        self.key.clear();
        self.key.extend_from_slice(key);
        self.hashes.push(filter::hash(&self.key));
        if self.min_key.is_empty() {
            self.min_key.clone_from(&self.key);
        }
        Ok(())
    }

    /// Takes in the next positions of the entity, ascending, none below the first that the table was created for.
    pub(crate) fn add_positions(&mut self, positions: impl Iterator<Item = u64>) -> Result<(), DiskError> {
        for position in positions {
            self.add_list(Postings { count: 1, first: position, last: position, steps: &[] })?;
        }
        Ok(())
    }

    /// The same for positions that are encoded: they stay so. Short lists become one entry.
    pub(crate) fn add_list(&mut self, list: Postings<'_>) -> Result<(), DiskError> {
        if list.count > ENTRY_POSTINGS_MAX {
            return self.add_positions(list.positions());
        }
        if self.postings.count() + list.count > ENTRY_POSTINGS_MAX {
            self.close_entry()?;
        }
        self.first = self.first.min(list.first);
        self.last = self.last.max(list.last);
        self.postings.append(list);
        self.posting_count += list.count;
        Ok(())
    }

    /// Bytes so far, without what is added at the end.
    pub(crate) fn bytes(&self) -> u64 {
        self.out.offset() + self.block.bytes() as u64
    }

    fn close_entry(&mut self) -> Result<(), DiskError> {
        if self.postings.is_empty() {
            return Ok(());
        }
        if self.block.is_empty() {
            let first = Sequence(self.postings.get().first);
            let entry =
                LeafEntry { key: self.key.clone().into(), first, at: BlockAt { offset: 0, bytes: 0 } };
            self.leaf_bytes += entry.key.len() + 16;
            self.leaf.push(entry);
            self.block.begin(self.base);
        }
        self.block.add(&self.key, self.postings.get());
        self.postings.clear();
        if self.block.bytes() >= BLOCK_BYTES_TARGET {
            self.close_block()?;
        }
        Ok(())
    }

    fn close_block(&mut self) -> Result<(), DiskError> {
        if self.block.is_empty() {
            return Ok(());
        }
        let raw = self.block.finish();
        let at = self.out.block(BlockKind::Postings, raw, Compress::Lz4)?;
        self.block.clear();
        self.blocks += 1;
        self.leaf.last_mut().expect("a block begins with its leaf entry").at = at;
        if self.leaf_bytes >= LEAF_BYTES_TARGET {
            self.close_leaf()?;
        }
        Ok(())
    }

    fn close_leaf(&mut self) -> Result<(), DiskError> {
        let Some(first) = self.leaf.first() else { return Ok(()) };
        let (key, first) = (first.key.clone(), first.first);
        let at = self.out.block(BlockKind::Leaf, &LeafEntry::encode_all(&self.leaf), Compress::Lz4)?;
        self.leaf.clear();
        self.leaf_bytes = 0;
        self.top.push(LeafEntry { key, first, at });
        Ok(())
    }

    /// Writes filter and index and syncs the file, which still has its temporary name; returns what it is to be called.
    ///
    /// # Panics
    /// If no posting was added.
    pub(crate) fn finish(mut self) -> Result<(IndexTableMeta, PathBuf), DiskError> {
        self.close_entry()?;
        self.close_block()?;
        assert!(self.posting_count > 0, "every event has at least one posting");
        let filter_at = self.out.offset();
        let pages = self.write_filter()?;
        self.close_leaf()?;
        let top = self.out.block(BlockKind::Top, &LeafEntry::encode_all(&self.top), Compress::Never)?;
        let footer = IndexFooter {
            tape: self.tape,
            first: Sequence(self.first),
            last: Sequence(self.last),
            entities: self.hashes.len() as u64,
            postings: self.posting_count,
            blocks: self.blocks,
            filter_at,
            filter_pages: pages,
            top,
            min_key: self.min_key.into(),
            max_key: self.key.into(),
        };
        let mut raw = Vec::new();
        footer.put(&mut raw);
        let (bytes, path) = self.out.finish(&raw)?;
        Ok((IndexTableMeta { number: self.number, bytes, level: 0, footer }, path))
    }

    fn write_filter(&mut self) -> Result<u32, DiskError> {
        // The footer alone says which one it is.
        if self.hashes.len() == 1 {
            return Ok(0);
        }
        let pages = filter::page_count(self.hashes.len() as u64);
        // By page: the page is chosen by the highest bits of the hash.
        self.hashes.sort_unstable();
        let mut page = [0; filter::PAGE_BYTES];
        let mut hashes = self.hashes.iter().peekable();
        for number in 0..pages {
            page.fill(0);
            while let Some(hash) = hashes.next_if(|hash| filter::page_of(**hash, pages) == number) {
                filter::insert(&mut page, *hash);
            }
            self.out.block(BlockKind::Filter, &page, Compress::Never)?;
        }
        Ok(pages)
    }
}
