//! Goes through an index table from the first posting to the last, past the cache: for compaction and `verify`.

use std::sync::Arc;

use super::block::{self, BlockAt, BlockKind, Window};
use super::event_table::load_payload;
use super::index_table::{IndexLeaf, LeafEntry};
use super::key::Key;
use super::posting_block::{Cursor, Encoded, PostingBlock};
use super::posting_list::Postings;
use super::{IndexTable, TableError};

/// See the module. Memory: one leaf, one block, 256 KiB read ahead.
#[derive(Debug)]
pub(crate) struct IndexScan {
    table: Arc<IndexTable>,
    /// The number of the next leaf.
    next_leaf: usize,
    /// The leaf's blocks that were not read yet, the next one last.
    blocks: Vec<LeafEntry>,
    window: Window,
    block: Option<PostingBlock>,
    block_at: BlockAt,
    filter_at: Option<BlockAt>,
    cursor: Cursor,
    /// The cursor has the first entry of its block.
    begun: bool,
}

impl IndexScan {
    /// Before the first entry of `table`.
    pub(crate) fn new(table: Arc<IndexTable>) -> Self {
        Self {
            table,
            next_leaf: 0,
            blocks: Vec::new(),
            window: Window::default(),
            block: None,
            block_at: BlockAt { offset: 0, bytes: 0 },
            filter_at: None,
            cursor: Cursor::default(),
            begun: false,
        }
    }

    /// Goes to the next entry; `false` if there is none.
    #[inline]
    pub(crate) fn advance(&mut self) -> Result<bool, TableError> {
        if self.advance_in_block()? { Ok(true) } else { self.advance_block() }
    }

    /// Goes to the next entry of the block; `false` if there is none.
    #[inline]
    pub(crate) fn advance_in_block(&mut self) -> Result<bool, TableError> {
        let Some(block) = &self.block else { return Ok(false) };
        self.begun = false;
        block
            .advance(&mut self.cursor)
            .map_err(|impossible| self.table.refuse(self.block_at.offset, impossible))
    }

    /// Leaves out what comes of the block, and goes to the first entry of the next one; `false` if there is none.
    pub(crate) fn advance_block(&mut self) -> Result<bool, TableError> {
        self.block = None;
        if self.blocks.is_empty() && !self.load_leaf()? {
            return Ok(false);
        }
        self.load_block()?;
        Ok(true)
    }

    fn load_leaf(&mut self) -> Result<bool, TableError> {
        let Some(entry) = self.table.top()?.entries.get(self.next_leaf) else { return Ok(false) };
        let file = self.table.file()?;
        let path = file.path();
        let raw = load_payload(path, &*file, self.table.id(), entry.at, BlockKind::Leaf, &mut Vec::new())?;
        self.blocks = IndexLeaf::decode(path, entry.at.offset, &raw)?.entries.into_vec();
        self.blocks.reverse();
        self.next_leaf += 1;
        Ok(true)
    }

    fn load_block(&mut self) -> Result<(), TableError> {
        let Some(entry) = self.blocks.pop() else { return Ok(()) };
        (self.block_at, self.filter_at) = (entry.at, entry.filter_at());
        let raw = self.read(entry.at, BlockKind::Postings)?;
        let block = PostingBlock::decode(raw)
            .map_err(|impossible| self.table.refuse(self.block_at.offset, impossible))?;
        // What a merge relies on: all of it is inside what the footer states.
        let footer = &self.table.meta.footer;
        if block.least() < footer.first.0 || block.greatest() > footer.last.0 {
            return Err(self.table.refuse(self.block_at.offset, (8, "range of positions in this table")));
        }
        let last_key =
            block.last_key().map_err(|impossible| self.table.refuse(self.block_at.offset, impossible))?;
        if entry.key < Key::of(&footer.min_key) || last_key > Key::of(&footer.max_key) {
            return Err(self.table.refuse(self.block_at.offset, (32, "range of keys in this table")));
        }
        block.rewind(&mut self.cursor);
        let begun = block.advance(&mut self.cursor);
        if !begun.map_err(|impossible| self.table.refuse(self.block_at.offset, impossible))?
            || self.cursor.key != entry.key
        {
            return Err(self.refuse("first entry, which the index states"));
        }
        self.block = Some(block);
        self.begun = true;
        Ok(())
    }

    fn read(&mut self, at: BlockAt, kind: BlockKind) -> Result<Vec<u8>, TableError> {
        let file = self.table.file()?;
        let bytes = self.window.block(&*file, self.table.meta.bytes, at)?;
        block::read_payload(file.path(), self.table.id(), at.offset, kind, bytes)
    }

    /// The entry's key. A long list goes on in further entries of the same key.
    #[inline]
    pub(crate) fn key(&self) -> &Key {
        &self.cursor.key
    }

    /// The entry's positions. There has to be an entry.
    #[inline]
    pub(crate) fn postings(&self) -> Postings<'_> {
        self.block.as_ref().expect("an entry lies in a block").postings_of(&self.cursor)
    }

    /// The entry as it is in its block.
    #[inline]
    pub(crate) fn encoded(&self) -> Encoded<'_> {
        self.block.as_ref().expect("an entry lies in a block").encoded(&self.cursor)
    }

    /// Whether the block has an entry of another entity behind this one: then this one has all there is of its entity in this table, from here
    /// on.
    #[inline]
    pub(crate) fn is_last_of_entity(&self) -> bool {
        self.block.as_ref().is_some_and(|block| block.next_is_of_another(&self.cursor))
    }

    /// The block of the entry, if the entry is its first one.
    #[inline]
    pub(crate) fn begun_block(&self) -> Option<&PostingBlock> {
        self.block.as_ref().filter(|_| self.begun)
    }

    /// The block's last key.
    pub(crate) fn last_key(&self) -> Result<Key, TableError> {
        let block = self.block.as_ref().expect("an entry lies in a block");
        block.last_key().map_err(|impossible| self.table.refuse(self.block_at.offset, impossible))
    }

    /// The first key of the block behind this one in the table, if there is one.
    pub(crate) fn next_block_key(&self) -> Result<Option<&Key>, TableError> {
        if let Some(next) = self.blocks.last() {
            return Ok(Some(&next.key));
        }
        Ok(self.table.top()?.entries.get(self.next_leaf).map(|leaf| &leaf.key))
    }

    /// The block's filter.
    pub(crate) fn filter(&mut self) -> Result<Vec<u8>, TableError> {
        match self.filter_at {
            Some(at) => self.read(at, BlockKind::Filter),
            None => Err(self.table.refuse(self.block_at.offset, (0, "place of its filter"))),
        }
    }

    /// The entry is not a possible one.
    pub(crate) fn refuse(&self, what: &'static str) -> TableError {
        self.table.refuse(self.block_at.offset, PostingBlock::impossible(&self.cursor, what))
    }

    /// Lets the kernel forget the pages of what was read: they go when the table goes, and until then hotter ones need the room.
    pub(crate) fn drop_cache(&self) {
        if let Ok(file) = self.table.file() {
            // Only a hint: if it fails, some pages stay longer.
            let _ = file.drop_cache(0, self.table.meta.bytes);
        }
    }
}
