//! Where the tables of a merge end: takes in entities with their positions in order, and writes tables of bounded size.
//!
//! A table ends when it has the bytes it may have, where the level below ends (see `choose.rs`), and around every entity that has, or is
//! to have, tables of its own. An entity of few postings is never cut. How many it has is known only at its end, so its positions are held until they
//! are too many to share a table: memory is bounded by that number. They stay encoded all the way.

use std::path::PathBuf;

use matchtape_schemas::{Sequence, TapeId};

use super::choose::{Merge, Shape};
use crate::disk::{Disk, DiskError};
use crate::sstable::{
    ENTRY_POSTINGS_MAX, Encoded, EncodedPostings, Fit, IndexTableMeta, IndexTableWriter, Key, PostingBlock,
    PostingList, WholeBlock,
};

/// Positions of an entity that has its own tables are handed on in pieces of about so many.
const PIECE_POSTINGS: u64 = 4096;

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
    alone: Vec<Key>,
    /// Keys behind which a table ends, the least one last.
    ends: Vec<Key>,
    open: Option<IndexTableWriter>,
    /// The entity being taken in.
    key: Key,
    /// The entity gets tables of its own.
    own: bool,
    /// The entity's positions that no table has yet, so many; lists behind the last one with any are empty.
    held: u64,
    lists: Vec<PostingList>,
    /// The list being filled.
    filling: usize,
    done: Vec<(IndexTableMeta, PathBuf)>,
}

impl<'a> Partition<'a> {
    /// The tables that come of `merge`.
    pub(crate) fn new(
        disk: &'a dyn Disk,
        tape: TapeId,
        base: Sequence,
        shape: Shape,
        merge: &Merge,
        numbers: std::ops::Range<u64>,
    ) -> Self {
        let falling = |keys: &[Box<[u8]>]| -> Vec<Key> {
            let mut keys: Vec<Key> = keys.iter().map(|key| Key::of(key)).collect();
            keys.sort_unstable_by(|left, right| right.cmp(left));
            keys
        };
        let (alone, ends) = (falling(&merge.alone), falling(&merge.ends));
        Self {
            disk,
            tape,
            base,
            shape,
            level: merge.into,
            numbers,
            alone,
            ends,
            open: None,
            key: Key::default(),
            own: false,
            held: 0,
            lists: vec![PostingList::default()],
            filling: 0,
            done: Vec::new(),
        }
    }

    /// The entity whose positions come.
    #[inline]
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// Ends the entity before and begins the next.
    #[inline]
    pub(crate) fn begin(&mut self, key: &Key) -> Result<(), DiskError> {
        self.end_before(key)?;
        let mut passed = false;
        while let Some(alone) = self.alone.pop_if(|alone| *alone <= *key) {
            passed = true;
            self.own |= alone == *key;
        }
        if passed {
            self.close_table()?;
        }
        self.key.clone_from(key);
        Ok(())
    }

    /// Ends the entity before; what can be done with a block of the entities `first_key` to `last_key`, which are all behind it.
    pub(crate) fn fit(
        &mut self,
        block: &PostingBlock,
        first_key: &Key,
        last_key: &Key,
    ) -> Result<Fit, DiskError> {
        self.end_before(first_key)?;
        if self.alone.last().is_some_and(|alone| *alone <= *last_key) {
            return Ok(Fit::No);
        }
        Ok(self.open.as_ref().map_or(Fit::AsItIs, |open| open.fit(block)))
    }

    /// Takes in a block that fits as it is.
    pub(crate) fn take_block(&mut self, whole: WholeBlock<'_>) -> Result<(), DiskError> {
        self.writer()?.take_block(whole)?;
        self.key.clone_from(whole.last_key);
        self.end()
    }

    /// The entries that follow, until [`Partition::joined`], stay in one block.
    pub(crate) fn join(&mut self) {
        if let Some(open) = &mut self.open {
            open.join();
        }
    }

    /// See [`Partition::join`].
    pub(crate) fn joined(&mut self) -> Result<(), DiskError> {
        self.end()?;
        self.open.as_mut().map_or(Ok(()), IndexTableWriter::close_block)
    }

    fn writer(&mut self) -> Result<&mut IndexTableWriter, DiskError> {
        if self.open.is_none() {
            let number = self.numbers.next().expect("a merge makes fewer tables than it may");
            self.open = Some(IndexTableWriter::create(self.disk, number, self.tape, self.base)?);
        }
        Ok(self.open.as_mut().expect("just opened"))
    }

    /// Takes in all there is of an entity behind the one before, which is one entry; as it is in its block, if `in_step`: the entry
    /// before it there was the last one here. `false`: it did not, the entity has tables of its own.
    #[inline]
    pub(crate) fn take_entry(
        &mut self,
        key: &Key,
        positions: EncodedPostings<'_>,
        encoded: Encoded<'_>,
        in_step: bool,
    ) -> Result<bool, DiskError> {
        if self.alone.last().is_some_and(|alone| *alone <= *key) {
            return Ok(false);
        }
        self.end_before(key)?;
        let writer = self.writer()?;
        match in_step {
            true => writer.copy_entry(key, positions, encoded)?,
            false => writer.entry(key, positions)?,
        }
        self.key.clone_from(key);
        Ok(true)
    }

    /// Takes in the entity's next positions, all behind those before.
    pub(crate) fn add(&mut self, positions: EncodedPostings<'_>) -> Result<(), DiskError> {
        let filled = self.lists[self.filling].count();
        if filled > 0 && filled + positions.count > ENTRY_POSTINGS_MAX {
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

    #[inline]
    fn hand_on(&mut self) -> Result<(), DiskError> {
        if self.held == 0 { Ok(()) } else { self.hand_on_held() }
    }

    fn hand_on_held(&mut self) -> Result<(), DiskError> {
        self.writer()?;
        let Self { open: Some(open), lists, filling, key, .. } = self else { unreachable!("just opened") };
        for list in &mut lists[..=*filling] {
            open.entry(key, list.get())?;
            list.clear();
        }
        self.filling = 0;
        self.held = 0;
        // Only an entity with tables of its own goes on in another one.
        if self.own && open.bytes() >= self.shape.table_bytes { self.close_table() } else { Ok(()) }
    }

    #[inline]
    fn end(&mut self) -> Result<(), DiskError> {
        self.hand_on()?;
        if self.own || self.open.as_ref().is_some_and(|open| open.bytes() >= self.shape.table_bytes) {
            self.close_table()?;
        }
        self.own = false;
        Ok(())
    }

    /// Ends the entity before `key`, and the table, if it is to end there.
    #[inline]
    fn end_before(&mut self, key: &Key) -> Result<(), DiskError> {
        self.end()?;
        if self.ends.last().is_some_and(|end| *end < *key) { self.end_table_before(key) } else { Ok(()) }
    }

    fn end_table_before(&mut self, key: &Key) -> Result<(), DiskError> {
        while self.ends.pop_if(|end| *end < *key).is_some() {}
        self.close_table()
    }

    fn close_table(&mut self) -> Result<(), DiskError> {
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
