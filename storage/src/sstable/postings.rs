//! The positions of an entity's events in an index table, in either direction, a block at a time.

use std::sync::Arc;

use matchtape_schemas::Sequence;

use super::index_table::Place;
use super::key::Key;
use super::{Caller, IndexTable, TableError};
use crate::entity::Selector;

/// The postings of one entity in a table, in either direction, a block at a time; or those of several entities in any
/// number of tables, all at once.
#[derive(Debug)]
pub(crate) struct Postings {
    tables: Vec<Arc<IndexTable>>,
    key: Key,
    /// The same as bytes.
    key_bytes: Vec<u8>,
    exact: bool,
    from: Sequence,
    through: Sequence,
    forward: bool,
    caller: Caller,
    /// Where the block is that `ready` came from.
    place: Option<Place>,
    ready: Vec<u64>,
    /// How many of `ready` were given.
    given: usize,
    done: bool,
}

impl Postings {
    /// Those of `selector` in `from..=through`. If it means one entity, of the first table.
    pub(crate) fn new(
        tables: Vec<Arc<IndexTable>>,
        selector: &Selector,
        from: Sequence,
        through: Sequence,
        forward: bool,
        caller: Caller,
    ) -> Self {
        let mut key_bytes = Vec::new();
        selector.write_prefix(&mut key_bytes);
        let exact = selector.entity().is_some();
        Self {
            tables,
            key: Key::of(&key_bytes),
            key_bytes,
            exact,
            from,
            through,
            forward,
            caller,
            place: None,
            ready: Vec::new(),
            given: 0,
            done: false,
        }
    }

    /// The next position, if no block has to be read for it.
    pub(crate) fn next_at_hand(&mut self) -> Option<Sequence> {
        let left = self.ready.len().checked_sub(self.given + 1)?;
        let at = if self.forward { self.given } else { left };
        self.given += 1;
        Some(Sequence(self.ready[at]))
    }

    /// The next position.
    pub(crate) fn next(&mut self) -> Result<Option<Sequence>, TableError> {
        loop {
            if let Some(position) = self.next_at_hand() {
                return Ok(Some(position));
            }
            if self.done {
                return Ok(None);
            }
            self.ready.clear();
            self.given = 0;
            if self.exact {
                self.load_next()?
            } else {
                self.load_all()?
            }
            let (from, through) = (self.from.0, self.through.0);
            self.ready.retain(|position| (from..=through).contains(position));
        }
    }

    /// Loads the next block that may hold the key.
    fn load_next(&mut self) -> Result<(), TableError> {
        let table = &self.tables[0];
        let place = match self.place.take() {
            None if table.in_range(&self.key_bytes) => {
                let position = if self.forward { self.from } else { self.through };
                Some(table.seek(&self.key, position)?)
            }
            None => None,
            Some(place) => table.neighbour(place, self.forward)?,
        };
        let Some(place) = place else {
            self.done = true;
            return Ok(());
        };
        let entry = place.entry();
        if self.forward && entry.begins() > (&self.key, self.through) {
            self.done = true;
            return Ok(());
        }
        // Backwards, a block that begins at or before the first wanted posting is the last one to look at.
        self.done = !self.forward && entry.begins() <= (&self.key, self.from);
        if table.may_hold(entry, &self.key, self.caller)? {
            table.collect(entry, &self.key, true, self.caller, &mut self.ready)?;
        }
        self.place = Some(place);
        Ok(())
    }

    /// The postings of all keys that begin with the prefix, sorted together. A number's few events in each instrument.
    fn load_all(&mut self) -> Result<(), TableError> {
        self.done = true;
        for table in &self.tables {
            let mut place = Some(table.seek(&self.key, Sequence::ZERO)?);
            while let Some(at) = place {
                let entry = at.entry();
                if entry.key > self.key && !entry.key.starts_with(&self.key) {
                    break;
                }
                table.collect(entry, &self.key, false, self.caller, &mut self.ready)?;
                place = table.neighbour(at, true)?;
            }
        }
        self.ready.sort_unstable();
        self.ready.dedup();
        Ok(())
    }
}
