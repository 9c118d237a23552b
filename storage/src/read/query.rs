//! A question about events, and its answer one event at a time.
//!
//! The most selective index gives positions, oldest (or newest) part first; each event is then fetched and asked the rest
//! of the query. The disk is told of the blocks of the next few at once, so that it reads them beside each other. Events that no
//! index covers yet are filtered one by one. Memory stays flat: one block of postings and a few of frames at a time, and the
//! view that pins what is being read.

use std::sync::Arc;

use matchtape_schemas::{AccountId, EventTime, InstrumentId, KindMask, OrderId, Sequence, TradeId};

use super::ReadError;
use super::filter::Filter;
use super::scan::Scan;
use super::view::View;
use crate::chunk::{Chunk, EventHandle};
use crate::entity::Selector;
use crate::memtable::{Run, RunPostings};
use crate::sstable::{BlockEntry, Caller, EventLeaf, IndexTable, Postings, TableError};

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
    Lookup(Box<Lookup>),
}

impl QueryCursor {
    pub(super) fn new(view: Arc<View>, query: &Query, visible: Sequence) -> Result<Self, ReadError> {
        query.check()?;
        let mut cursor = Self::scanning(view, query, visible);
        if let Some(selector) = cursor.filter.most_selective() {
            let (selector, range) = (selector.clone(), (cursor.from, cursor.through));
            let lookup = Lookup::new(&cursor.view, selector, range, cursor.forward, cursor.left);
            cursor.plan = Plan::Lookup(Box::new(lookup));
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
    Positions(Positions),
    Tail(Scan),
}

/// Where an index says that events are.
#[derive(Debug)]
enum Positions {
    Table(Postings),
    Run { run: Arc<Run>, postings: RunPostings, forward: bool, given: usize },
}

impl Positions {
    /// The next position.
    fn next(&mut self) -> Result<Option<Sequence>, TableError> {
        match self {
            Self::Table(postings) => postings.next(),
            Self::Run { .. } => Ok(self.next_at_hand()),
        }
    }

    /// The next position, if nothing has to be read for it.
    fn next_at_hand(&mut self) -> Option<Sequence> {
        match self {
            Self::Table(postings) => postings.next_at_hand(),
            Self::Run { run, postings, forward, given } => {
                let left = postings.len().checked_sub(*given + 1)?;
                let at = if *forward { *given } else { left };
                *given += 1;
                Some(run.position(postings, at))
            }
        }
    }
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
    ahead: Ahead,
    buffer: Vec<u8>,
}

impl Lookup {
    fn new(
        view: &View,
        selector: Selector,
        (from, through): (Sequence, Sequence),
        forward: bool,
        limit: u64,
    ) -> Self {
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
            ahead: Ahead::new(limit),
            buffer: Vec::new(),
        }
    }

    fn next(&mut self, view: &View, filter: &Filter) -> Result<Option<EventHandle>, TableError> {
        loop {
            while let Some((position, number)) = self.ahead.positions.pop() {
                let chunk = self.ahead.blocks[number].load(view, self.caller, &mut self.buffer)?;
                let event = EventHandle::of(chunk, position);
                if filter.matches(&event.event()) {
                    return Ok(Some(event));
                }
            }
            match &mut self.active {
                None => {
                    let Some(part) = self.parts.pop() else { return Ok(None) };
                    self.active = Some(self.activate(view, part));
                }
                Some(Active::Tail(scan)) => match scan.next(view, filter)? {
                    Some(event) => return Ok(Some(event)),
                    None => self.active = None,
                },
                Some(Active::Positions(positions)) => {
                    if !self.ahead.fill(view, filter, positions)? {
                        self.active = None;
                    }
                }
            }
        }
    }

    fn activate(&self, view: &View, part: Part) -> Active {
        match part {
            Part::Tables(tables) => {
                let (from, through) = (self.from, self.through);
                let forward = self.forward;
                let postings = Postings::new(tables, &self.selector, from, through, forward, self.caller);
                Active::Positions(Positions::Table(postings))
            }
            Part::Run(run) => {
                let from = self.from.max(view.flushed_through().next());
                let postings = run.postings(&self.selector, from, self.through);
                Active::Positions(Positions::Run { run, postings, forward: self.forward, given: 0 })
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
}

/// So many blocks are looked ahead; each stays in memory until the last of them was given.
const AHEAD_BLOCKS: usize = 16;
/// So many events are looked ahead.
const AHEAD_EVENTS: usize = 64;

/// The next positions that an index named, and the blocks they are in.
#[derive(Debug)]
struct Ahead {
    /// Each with the number of its block; the next one last.
    positions: Vec<(Sequence, usize)>,
    blocks: Vec<Block>,
    /// No more events are wanted at a time.
    events_max: usize,
    /// The last leaf, and the number of its table: the next block is often there too.
    leaf: Option<(usize, Arc<EventLeaf>)>,
}

#[derive(Debug)]
struct Block {
    first: Sequence,
    last: Sequence,
    from: Source,
}

#[derive(Debug)]
enum Source {
    /// It is at hand.
    Chunk(Arc<Chunk>),
    /// To be read from the event table of this number.
    Table(usize, BlockEntry),
    /// Nothing in it can satisfy the query.
    Nothing,
}

impl Block {
    fn load(&mut self, view: &View, caller: Caller, buffer: &mut Vec<u8>) -> Result<&Arc<Chunk>, TableError> {
        if let Source::Table(number, entry) = &self.from {
            self.from = Source::Chunk(view.event_tables[*number].chunk(entry, caller, buffer)?);
        }
        match &self.from {
            Source::Chunk(chunk) => Ok(chunk),
            Source::Table(..) | Source::Nothing => unreachable!("positions are of blocks that can be read"),
        }
    }
}

impl Ahead {
    fn new(limit: u64) -> Self {
        let events_max = usize::try_from(limit).unwrap_or(AHEAD_EVENTS).min(AHEAD_EVENTS);
        Self { positions: Vec::new(), blocks: Vec::new(), events_max, leaf: None }
    }

    /// Takes over the next positions, as far as they are known without reading more postings; `false` if there are no more. All
    /// before were given.
    fn fill(&mut self, view: &View, filter: &Filter, positions: &mut Positions) -> Result<bool, TableError> {
        // The last block may go on.
        self.blocks.drain(..self.blocks.len().saturating_sub(1));
        let Some(mut position) = positions.next()? else { return Ok(false) };
        loop {
            let holds = |block: &Block| block.first <= position && position <= block.last;
            if !self.blocks.last().is_some_and(holds) {
                let block = self.locate(view, filter, position)?;
                self.blocks.push(block);
            }
            let number = self.blocks.len() - 1;
            if !matches!(self.blocks[number].from, Source::Nothing) {
                self.positions.push((position, number));
            }
            if number + 1 == AHEAD_BLOCKS || self.positions.len() >= self.events_max {
                break;
            }
            match positions.next_at_hand() {
                Some(next) => position = next,
                None => break,
            }
        }
        self.positions.reverse();
        self.touch();
        // One alone is read at once.
        let missing = || self.blocks.iter().filter(|block| matches!(block.from, Source::Table(..)));
        if missing().nth(1).is_some() {
            for block in missing() {
                if let Source::Table(number, entry) = &block.from {
                    view.event_tables[*number].will_need(entry)?;
                }
            }
        }
        Ok(true)
    }

    /// Reads a byte of every event at hand. They are far from each other and seldom in the processor's caches: asked one after the
    /// other, each is waited for alone; here nothing depends on what comes, so they come together.
    fn touch(&self) {
        let at_hand =
            self.positions.iter().filter_map(|(position, number)| match &self.blocks[*number].from {
                Source::Chunk(chunk) => Some(chunk.first_byte(*position)),
                Source::Table(..) | Source::Nothing => None,
            });
        std::hint::black_box(at_hand.fold(0, u8::wrapping_add));
    }

    fn locate(&mut self, view: &View, filter: &Filter, position: Sequence) -> Result<Block, TableError> {
        if position > view.flushed_through() {
            let chunk = view.chunk_holding(position, Caller::Point, &mut Vec::new())?;
            let (first, last) = (chunk.first_sequence(), chunk.last_sequence());
            return Ok(Block { first, last, from: Source::Chunk(chunk) });
        }
        let number = view.table_holding(position);
        let table = &view.event_tables[number];
        let known = self.leaf.take().filter(|(of, leaf)| *of == number && leaf.holding(position).is_some());
        let (_, leaf) = self.leaf.insert(match known {
            Some(leaf) => leaf,
            None => (number, table.leaf_holding(position)?),
        });
        let entry = leaf.entries()[leaf.holding(position).expect("a leaf covers its range")];
        let from = match filter.may_match(&entry) {
            false => Source::Nothing,
            true => table.cached(&entry).map_or(Source::Table(number, entry), Source::Chunk),
        };
        Ok(Block { first: entry.first, last: entry.last(), from })
    }
}
