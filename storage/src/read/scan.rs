//! Event after event over a range of positions, in either direction, passing over blocks and frames that cannot match.

use std::sync::Arc;

use matchtape_schemas::Sequence;

use super::filter::Filter;
use super::view::View;
use crate::chunk::{Chunk, EventHandle};
use crate::sstable::{Caller, TableError};

/// What is left of a range.
#[derive(Debug)]
pub(super) struct Scan {
    from: Sequence,
    through: Sequence,
    forward: bool,
    /// The chunk being read and the number of the next frame of it.
    current: Option<(Arc<Chunk>, usize)>,
    /// Events of one frame that match, in the order they are to be given, last first.
    ready: Vec<EventHandle>,
    buffer: Vec<u8>,
}

impl Scan {
    /// The events `from..=through`, which are all in the view.
    pub(super) fn new(from: Sequence, through: Sequence, forward: bool) -> Self {
        Self { from, through, forward, current: None, ready: Vec::new(), buffer: Vec::new() }
    }

    /// The next event that matches.
    pub(super) fn next(&mut self, view: &View, filter: &Filter) -> Result<Option<EventHandle>, TableError> {
        loop {
            if let Some(event) = self.ready.pop() {
                return Ok(Some(event));
            }
            if self.from > self.through {
                return Ok(None);
            }
            if !self.load_frame(filter) && !self.load_chunk(view, filter)? {
                return Ok(None);
            }
        }
    }

    /// Filters the next frame of the current chunk; `false` if there is none.
    fn load_frame(&mut self, filter: &Filter) -> bool {
        let Some((chunk, number)) = &mut self.current else { return false };
        let Some(at) = chunk.frames().get(*number) else {
            self.current = None;
            return false;
        };
        if filter.wants_kinds(at.header.kinds) {
            let frame = chunk.frame(*number);
            for event in frame.events() {
                let sequence = event.sequence();
                if sequence >= self.from && sequence <= self.through && filter.matches(&event) {
                    self.ready.push(EventHandle::new(chunk, *number, frame.offset_of(&event), sequence));
                }
            }
            if self.forward {
                self.ready.reverse();
            }
        }
        if self.forward {
            self.from = at.header.last_sequence().next();
            *number += 1;
        } else {
            self.through = at.header.first_sequence.previous();
            // Past the first frame: no chunk has that many.
            *number = number.checked_sub(1).unwrap_or(usize::MAX);
        }
        true
    }

    /// Loads the chunk at the end of the range where the scan goes on; blocks that cannot match are cut off the range.
    fn load_chunk(&mut self, view: &View, filter: &Filter) -> Result<bool, TableError> {
        while self.from <= self.through {
            let position = if self.forward { self.from } else { self.through };
            if position > view.flushed_through() {
                let chunk = view.chunk_holding(position, Caller::Scan, &mut self.buffer)?;
                let number = chunk.frame_holding(position);
                self.current = Some((chunk, number));
                return Ok(true);
            }
            let table = &view.event_tables[view.table_holding(position)];
            let footer = &table.meta.footer;
            // The footer is in the manifest: a table that cannot match is not even opened.
            let whole_table = crate::sstable::BlockEntry {
                first: table.meta.first(),
                at: footer.top,
                count: 0,
                min_time: footer.min_time,
                max_time: footer.max_time,
                kinds: footer.kinds,
            };
            if !filter.may_match(&whole_table) {
                self.cut(table.meta.first(), table.meta.last());
                continue;
            }
            let top = table.top()?;
            let leaf_entry = top[top.partition_point(|leaf| leaf.last() < position)];
            if !filter.may_match(&leaf_entry) {
                self.cut(leaf_entry.first, leaf_entry.last());
                continue;
            }
            let leaf = table.leaf(&leaf_entry)?;
            let number = leaf.holding(position).expect("the leaf covers its range");
            let entry = leaf.entries()[number];
            if !filter.may_match(&entry) {
                self.cut(entry.first, entry.last());
                continue;
            }
            let chunk = table.chunk(&entry, Caller::Scan, &mut self.buffer)?;
            let number = chunk.frame_holding(position);
            self.current = Some((chunk, number));
            return Ok(true);
        }
        Ok(false)
    }

    fn cut(&mut self, first: Sequence, last: Sequence) {
        if self.forward { self.from = last.next() } else { self.through = first.previous() }
    }
}
