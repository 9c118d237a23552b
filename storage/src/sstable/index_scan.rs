//! Goes through an index table from the first posting to the last, past the cache: for compaction and `verify`.

use std::sync::Arc;

use super::block::{self, BlockKind, Window};
use super::event_table::load_payload;
use super::index_table::{IndexLeaf, LeafEntry};
use super::posting_block::PostingBlock;
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
    block_offset: u64,
    /// The place of the next entry in the block.
    place: usize,
    key: Vec<u8>,
    entry: Entry,
}

/// The postings of the entry: their steps end where the next entry begins.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    count: u64,
    first: u64,
    last: u64,
    steps_bytes: usize,
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
            block_offset: 0,
            place: 0,
            key: Vec::new(),
            entry: Entry::default(),
        }
    }

    /// Goes to the next entry; `false` if there is none.
    pub(crate) fn advance(&mut self) -> Result<bool, TableError> {
        loop {
            if let Some(block) = &self.block {
                let read = block.read_entry(self.place, &mut self.key);
                match read.map_err(|impossible| self.table.refuse(self.block_offset, impossible))? {
                    Some((postings, next)) => {
                        let Postings { count, first, last, steps } = postings;
                        self.entry = Entry { count, first, last, steps_bytes: steps.len() };
                        self.place = next;
                        self.check()?;
                        return Ok(true);
                    }
                    None => self.block = None,
                }
            }
            if self.blocks.is_empty() && !self.load_leaf()? {
                return Ok(false);
            }
            self.load_block()?;
        }
    }

    /// What a merge relies on: the entry is inside what the footer states.
    fn check(&self) -> Result<(), TableError> {
        let footer = &self.table.meta.footer;
        let key_fits = *self.key >= *footer.min_key && *self.key <= *footer.max_key;
        if !key_fits || self.entry.first < footer.first.0 || self.entry.last > footer.last.0 {
            return Err(self.refuse("entry of this table"));
        }
        Ok(())
    }

    fn load_leaf(&mut self) -> Result<bool, TableError> {
        let opened = self.table.opened()?;
        let Some(entry) = opened.top.entries.get(self.next_leaf) else { return Ok(false) };
        let (file, path) = (&opened.file, opened.file.path());
        let raw = load_payload(path, &**file, self.table.id(), entry.at, BlockKind::Leaf, &mut Vec::new())?;
        self.blocks = IndexLeaf::decode(path, entry.at.offset, &raw)?.entries.into_vec();
        self.blocks.reverse();
        self.next_leaf += 1;
        Ok(true)
    }

    fn load_block(&mut self) -> Result<(), TableError> {
        let Some(LeafEntry { at, .. }) = self.blocks.pop() else { return Ok(()) };
        let file = &self.table.opened()?.file;
        let bytes = self.window.block(&**file, self.table.meta.bytes, at)?;
        let raw = block::read_payload(file.path(), self.table.id(), at.offset, BlockKind::Postings, bytes)?;
        let block =
            PostingBlock::decode(raw).map_err(|impossible| self.table.refuse(at.offset, impossible))?;
        self.place = block.first_place();
        self.key.clear();
        self.block_offset = at.offset;
        self.block = Some(block);
        Ok(())
    }

    /// The entry's key. A long list goes on in further entries of the same key.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// The entry's positions. There has to be an entry.
    pub(crate) fn postings(&self) -> Postings<'_> {
        let Entry { count, first, last, steps_bytes } = self.entry;
        let block = self.block.as_ref().expect("an entry lies in a block");
        Postings { count, first, last, steps: block.bytes(self.place - steps_bytes..self.place) }
    }

    /// The entry is not a possible one.
    pub(crate) fn refuse(&self, what: &'static str) -> TableError {
        self.table.refuse(self.block_offset, (self.place, what))
    }

    /// Lets the kernel forget the pages of what was read: they go when the table goes, and until then hotter ones need the room.
    pub(crate) fn drop_cache(&self) {
        if let Ok(opened) = self.table.opened() {
            // Only a hint: if it fails, some pages stay longer.
            let _ = opened.file.drop_cache(0, self.table.meta.bytes);
        }
    }
}
