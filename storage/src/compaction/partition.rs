//! Where the tables of a merge end: takes in entities with their positions in order, and writes tables of bounded size.
//!
//! A table ends when it has the bytes it may have, and it ends around every entity that has, or is to have, tables of
//! its own. An entity of few postings is never cut. How many it has is known only at its end, so its positions are held until they
//! are too many to share a table: memory is bounded by that number. They stay encoded all the way.

use std::path::PathBuf;

use matchtape_schemas::{Sequence, TapeId};

use super::choose::Shape;
use crate::disk::{Disk, DiskError};
use crate::sstable::{EncodedPostings, IndexTableMeta, IndexTableWriter, PostingList};

/// Positions of an entity that has its own tables are handed on in pieces of about so many.
const PIECE_POSTINGS: u64 = 4096;
/// Positions are held in lists of at most so many, unless they came as a longer one.
const LIST_POSTINGS: u64 = 512;

/// See the module.
#[derive(Debug)]
pub(crate) struct Partition<'a> {
    disk: &'a dyn Disk,
    tape: TapeId,
    /// No position is below it.
    base: Sequence,
    shape: Shape,
    level: u8,
    /// Numbers of files that may be made, the next one first.
    numbers: std::ops::Range<u64>,
    /// Entities that have tables of their own already, the least one last.
    alone: Vec<Box<[u8]>>,
    open: Option<IndexTableWriter>,
    /// The entity being taken in.
    key: Vec<u8>,
    /// The entity gets tables of its own.
    own: bool,
    /// The open table has the entity's key.
    key_begun: bool,
    /// The entity's positions that no table has yet, so many; lists behind the last one with any are empty.
    held: u64,
    lists: Vec<PostingList>,
    /// The list being filled.
    filling: usize,
    done: Vec<(IndexTableMeta, PathBuf)>,
}

impl<'a> Partition<'a> {
    /// Tables of `level`, of the entities whose own tables stay in `alone`.
    pub(crate) fn new(
        disk: &'a dyn Disk,
        tape: TapeId,
        base: Sequence,
        shape: Shape,
        level: u8,
        numbers: std::ops::Range<u64>,
        mut alone: Vec<Box<[u8]>>,
    ) -> Self {
        alone.sort_unstable_by(|left, right| right.cmp(left));
        Self {
            disk,
            tape,
            base,
            shape,
            level,
            numbers,
            alone,
            open: None,
            key: Vec::new(),
            own: false,
            key_begun: false,
            held: 0,
            lists: vec![PostingList::default()],
            filling: 0,
            done: Vec::new(),
        }
    }

    /// The entity whose positions come.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Ends the entity before and begins the next.
    pub(crate) fn begin(&mut self, key: &[u8]) -> Result<(), DiskError> {
        self.end()?;
        let mut passed = false;
        while let Some(alone) = self.alone.pop_if(|alone| **alone <= *key) {
            passed = true;
            self.own |= *alone == *key;
        }
        if passed {
            self.close_table()?;
        }
        self.key.clear();
        self.key.extend_from_slice(key);
        Ok(())
    }

    /// Takes in the entity's next positions, all behind those before.
    pub(crate) fn add(&mut self, positions: EncodedPostings<'_>) -> Result<(), DiskError> {
        let filled = self.lists[self.filling].count();
        if filled > 0 && filled + positions.count > LIST_POSTINGS {
            self.filling += 1;
            if self.filling == self.lists.len() {
                self.lists.push(PostingList::default());
            }
        }
        self.lists[self.filling].append(positions);
        self.held += positions.count;
        if !self.own && self.held > self.shape.own_table_postings as u64 {
            self.own = true;
            self.close_table()?;
        }
        if self.own && self.held >= PIECE_POSTINGS { self.hand_on() } else { Ok(()) }
    }

    fn hand_on(&mut self) -> Result<(), DiskError> {
        if self.held == 0 {
            return Ok(());
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                let number = self.numbers.next().expect("a merge makes fewer tables than it may");
                IndexTableWriter::create(self.disk, number, self.tape, self.base)?
            }
        };
        if !self.key_begun {
            open.begin_key(&self.key)?;
            self.key_begun = true;
        }
        for list in &mut self.lists[..=self.filling] {
            open.add_list(list.get())?;
            list.clear();
        }
        self.filling = 0;
        self.held = 0;
        let full = open.bytes() >= self.shape.table_bytes;
        self.open = Some(open);
        // Only an entity with tables of its own goes on in another one.
        if full && self.own { self.close_table() } else { Ok(()) }
    }

    fn end(&mut self) -> Result<(), DiskError> {
        self.hand_on()?;
        if self.own || self.open.as_ref().is_some_and(|open| open.bytes() >= self.shape.table_bytes) {
            self.close_table()?;
        }
        self.own = false;
        self.key_begun = false;
        Ok(())
    }

    fn close_table(&mut self) -> Result<(), DiskError> {
        self.key_begun = false;
        let Some(open) = self.open.take() else { return Ok(()) };
        let (mut meta, path) = open.finish()?;
        meta.level = self.level;
        self.done.push((meta, path));
        Ok(())
    }

    /// Bytes of the tables that are whole.
    pub(crate) fn bytes(&self) -> u64 {
        self.done.iter().map(|(meta, _)| meta.bytes).sum::<u64>()
            + self.open.as_ref().map_or(0, IndexTableWriter::bytes)
    }

    /// Ends the last table; returns all of them, synced under their temporary names.
    pub(crate) fn finish(mut self) -> Result<Vec<(IndexTableMeta, PathBuf)>, DiskError> {
        self.end()?;
        self.close_table()?;
        Ok(self.done)
    }
}
