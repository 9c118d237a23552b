//! A question about events, and its answer one event at a time.
//!
//! The most selective index gives positions, oldest (or newest) part first; each event is then fetched and asked the rest
//! of the query. Events that no index covers yet are filtered one by one. Memory stays flat: one block of postings
//! and one of frames at a time, and the view that pins what is being read.

use std::sync::Arc;

use matchtape_schemas::{AccountId, EventTime, InstrumentId, KindMask, OrderId, Sequence, TradeId};

use super::ReadError;
use super::filter::Filter;
use super::scan::Scan;
use super::view::View;
use crate::chunk::{Chunk, EventHandle};
use crate::entity::Selector;
use crate::memtable::{Run, RunPostings};
use crate::sstable::{Caller, IndexTable, Postings, TableError};

/// Which way the answer goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Ascending sequences.
    #[default]
    Forward,
    /// Descending sequences.
    Backward,
}

/// Which events. Every condition must hold; the default is all of them, forwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// From this position; zero: from the first kept.
    pub from: Sequence,
    /// Through this position, or what is visible.
    pub through: Sequence,
    /// With an event time at or after this.
    pub event_time_from: EventTime,
    /// With an event time at or before this.
    pub event_time_through: EventTime,
    /// Of this instrument; zero: of no single one.
    pub instrument: Option<InstrumentId>,
    /// About this order; of any instrument, unless one is named.
    pub order: Option<OrderId>,
    /// About this account.
    pub account: Option<AccountId>,
    /// About this trade; of any instrument, unless one is named.
    pub trade: Option<TradeId>,
    /// Setting or deleting this key.
    pub state_key: Option<Vec<u8>>,
    /// Of one of these kinds.
    pub kinds: KindMask,
    /// Which way.
    pub direction: Direction,
    /// At most so many.
    pub limit: Option<u64>,
}

impl Default for Query {
    fn default() -> Self {
        Self {
            from: Sequence::ZERO,
            through: Sequence::MAX,
            event_time_from: EventTime::MIN,
            event_time_through: EventTime::MAX,
            instrument: None,
            order: None,
            account: None,
            trade: None,
            state_key: None,
            kinds: KindMask::ALL,
            direction: Direction::Forward,
            limit: None,
        }
    }
}

impl Query {
    fn check(&self) -> Result<(), ReadError> {
        if self.order == Some(OrderId(0)) {
            return Err(ReadError::Query("order 0 is no order"));
        }
        if self.account == Some(AccountId(0)) {
            return Err(ReadError::Query("account 0 is no account"));
        }
        if self.trade == Some(TradeId(0)) {
            return Err(ReadError::Query("trade 0 is no trade"));
        }
        Ok(())
    }
}

/// The answer to a [`Query`], one event at a time. After an error it ends.
#[derive(Debug)]
pub struct QueryCursor {
    view: Arc<View>,
    filter: Filter,
    from: Sequence,
    through: Sequence,
    forward: bool,
    left: u64,
    plan: Plan,
}

#[derive(Debug)]
enum Plan {
    /// Look at every event of the range.
    Scan(Scan),
    /// Ask the indexes first.
    Lookup(Lookup),
}

impl QueryCursor {
    pub(super) fn new(view: Arc<View>, query: &Query, visible: Sequence) -> Result<Self, ReadError> {
        query.check()?;
        let mut cursor = Self::scanning(view, query, visible);
        if let Some(selector) = cursor.filter.most_selective() {
            let lookup =
                Lookup::new(&cursor.view, selector.clone(), cursor.from, cursor.through, cursor.forward);
            cursor.plan = Plan::Lookup(lookup);
        }
        Ok(cursor)
    }

    /// An answer that looks at every event of the range.
    pub(super) fn scanning(view: Arc<View>, query: &Query, visible: Sequence) -> Self {
        let from = query.from.max(view.first_kept());
        let through = query.through.min(visible);
        let forward = query.direction == Direction::Forward;
        Self {
            filter: Filter::of(query),
            from,
            through,
            forward,
            left: query.limit.unwrap_or(u64::MAX),
            plan: Plan::Scan(Scan::new(from, through, forward)),
            view,
        }
    }

    fn find(&mut self) -> Result<Option<EventHandle>, TableError> {
        match &mut self.plan {
            Plan::Scan(scan) => scan.next(&self.view, &self.filter),
            Plan::Lookup(lookup) => lookup.next(&self.view, &self.filter),
        }
    }
}

impl Iterator for QueryCursor {
    type Item = Result<EventHandle, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        match self.find() {
            Ok(Some(event)) => {
                self.left -= 1;
                Some(Ok(event))
            }
            Ok(None) => {
                self.left = 0;
                None
            }
            Err(error) => {
                self.left = 0;
                Some(Err(error.into()))
            }
        }
    }
}

/// A part of the tape whose postings are found in one way. Parts of one query do not overlap.
#[derive(Debug)]
enum Part {
    /// One table, or several whose postings have to be sorted together.
    Tables(Vec<Arc<IndexTable>>),
    Run(Arc<Run>),
    /// Recent events that no index covers yet.
    Tail(Sequence),
}

#[derive(Debug)]
enum Active {
    Table(Postings),
    Run { run: Arc<Run>, postings: RunPostings, given: usize },
    Tail(Scan),
}

/// Positions from the indexes, and the events there.
#[derive(Debug)]
struct Lookup {
    selector: Selector,
    from: Sequence,
    through: Sequence,
    forward: bool,
    /// In the order of the answer, next last.
    parts: Vec<Part>,
    active: Option<Active>,
    caller: Caller,
    /// The chunk of the last event: the next one is often there too.
    chunk: Option<Arc<Chunk>>,
    buffer: Vec<u8>,
}

impl Lookup {
    fn new(view: &View, selector: Selector, from: Sequence, through: Sequence, forward: bool) -> Self {
        let mut parts = Vec::new();
        let overlaps = |first: Sequence, last: Sequence| first <= through && last >= from;
        let mut key = Vec::new();
        selector.write_prefix(&mut key);
        // Of one entity, levels follow each other in time; of several they do not.
        let one_by_one = selector.entity().is_some();
        let mut together = Vec::new();
        for (level, tables) in view.index_levels(&key) {
            for table in tables {
                let footer = &table.meta.footer;
                if !overlaps(footer.first, footer.last) {
                    continue;
                }
                if level > 0 && !one_by_one {
                    together.push(Arc::clone(table));
                } else {
                    parts.push(Part::Tables(vec![Arc::clone(table)]));
                }
            }
        }
        if !together.is_empty() {
            parts.insert(0, Part::Tables(together));
        }
        let flushed = view.flushed_through();
        for memtable in &view.memtables {
            let index = memtable.index();
            for run in &index.runs {
                if run.last() > flushed && overlaps(run.first(), run.last()) {
                    parts.push(Part::Run(Arc::clone(run)));
                }
            }
            let tail = index.through.max(flushed).next();
            let last = memtable.last_sequence();
            if tail <= last && overlaps(tail, last) {
                // Of the last memtable, what is appended after this moment is not visible to this query.
                parts.push(Part::Tail(tail));
            }
        }
        if forward {
            parts.reverse();
        }
        // An instrument's events are a pass over the tape, not a lookup.
        let caller = if matches!(selector, Selector::Instrument(_)) { Caller::Scan } else { Caller::Point };
        Self {
            selector,
            from,
            through,
            forward,
            parts,
            active: None,
            caller,
            chunk: None,
            buffer: Vec::new(),
        }
    }

    fn next(&mut self, view: &View, filter: &Filter) -> Result<Option<EventHandle>, TableError> {
        loop {
            let position = match &mut self.active {
                None => {
                    let Some(part) = self.parts.pop() else { return Ok(None) };
                    self.active = Some(self.activate(view, part));
                    continue;
                }
                Some(Active::Tail(scan)) => match scan.next(view, filter)? {
                    Some(event) => return Ok(Some(event)),
                    None => None,
                },
                Some(Active::Table(postings)) => postings.next()?,
                Some(Active::Run { run, postings, given }) => {
                    let left = postings.len() - *given;
                    let at =
                        if self.forward { Some(*given).filter(|_| left > 0) } else { left.checked_sub(1) };
                    *given += 1;
                    at.map(|at| run.position(postings, at))
                }
            };
            match position {
                None => self.active = None,
                Some(position) => {
                    if let Some(event) = self.fetch(view, filter, position)? {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }

    fn activate(&self, view: &View, part: Part) -> Active {
        match part {
            Part::Tables(tables) => {
                let (from, through) = (self.from, self.through);
                Active::Table(Postings::new(tables, &self.selector, from, through, self.forward, self.caller))
            }
            Part::Run(run) => {
                let from = self.from.max(view.flushed_through().next());
                let postings = run.postings(&self.selector, from, self.through);
                Active::Run { run, postings, given: 0 }
            }
            Part::Tail(first) => {
                // Up to the end of its memtable: what follows has parts of its own.
                let memtables = view.memtables.iter().rev();
                let memtable = memtables.into_iter().find(|memtable| memtable.first_sequence() <= first);
                let last = memtable.map_or(Sequence::ZERO, |memtable| memtable.last_sequence());
                Active::Tail(Scan::new(self.from.max(first), self.through.min(last), self.forward))
            }
        }
    }

    /// The event at a position, if it satisfies the whole query.
    fn fetch(
        &mut self,
        view: &View,
        filter: &Filter,
        position: Sequence,
    ) -> Result<Option<EventHandle>, TableError> {
        let holds =
            |chunk: &Arc<Chunk>| chunk.first_sequence() <= position && position <= chunk.last_sequence();
        if !self.chunk.as_ref().is_some_and(holds) {
            if position <= view.flushed_through() {
                let table = &view.event_tables[view.table_holding(position)];
                let entry = table.entry_holding(position)?.expect("a table's index covers its range");
                if !filter.may_match(&entry) {
                    return Ok(None);
                }
                self.chunk = Some(table.chunk(&entry, self.caller, &mut self.buffer)?);
            } else {
                self.chunk = Some(view.chunk_holding(position, self.caller, &mut self.buffer)?);
            }
        }
        let chunk = self.chunk.as_ref().expect("just loaded");
        let event = EventHandle::of(chunk, position);
        let wanted = filter.matches(&event.event());
        Ok(wanted.then_some(event))
    }
}
