//! The index entries of a stretch of recent events, sorted: immutable, so that readers search it without a lock.
//!
//! An entry is an integer: key, instrument and the event's place in the memtable, most significant first. Sorting plain
//! integers in bulk costs a fraction of inserting keys one by one into any ordered map, and merging sorted runs is
//! sorting them together (the standard sort finds the runs).

use std::ops::Range;

use matchtape_schemas::{AccountId, InstrumentId, OrderId, Sequence, TradeId};

use crate::chunk::Chunk;
use crate::entity::{Entity, Selector, for_each_entity};

/// Sorted postings of the events `first..=last`. Places count from `base`, the memtable's first event.
#[derive(Debug)]
pub(crate) struct Run {
    base: Sequence,
    first: Sequence,
    last: Sequence,
    /// instrument 32, place 32
    instruments: Vec<u64>,
    /// number 64, instrument 32, place 32
    orders: Vec<u128>,
    /// account 64, zero 32, place 32
    accounts: Vec<u128>,
    /// number 64, instrument 32, place 32
    trades: Vec<u128>,
    states: Vec<(Box<[u8]>, u32)>,
}

fn wide(number: u64, instrument: InstrumentId, place: u32) -> u128 {
    u128::from(number) << 64 | u128::from(instrument.0) << 32 | u128::from(place)
}

/// The largest number of events whose places fit an entry.
pub(crate) const PLACES_MAX: u64 = u32::MAX as u64;

impl Run {
    /// The entries of the events in `chunks`, which follow each other.
    pub(crate) fn build<'a>(base: Sequence, chunks: impl Iterator<Item = &'a Chunk>) -> Option<Self> {
        let mut run = Self {
            base,
            first: Sequence::MAX,
            last: Sequence::ZERO,
            instruments: Vec::new(),
            orders: Vec::new(),
            accounts: Vec::new(),
            trades: Vec::new(),
            states: Vec::new(),
        };
        for chunk in chunks {
            run.add(chunk);
        }
        if run.last < run.first {
            return None;
        }
        run.instruments.sort_unstable();
        for list in [&mut run.orders, &mut run.accounts, &mut run.trades] {
            list.sort_unstable();
            // Both sides of a trade may be the same order's or account's.
            list.dedup();
            list.shrink_to_fit();
        }
        run.instruments.shrink_to_fit();
        run.states.sort_unstable();
        Some(run)
    }

    fn add(&mut self, chunk: &Chunk) {
        self.first = self.first.min(chunk.first_sequence());
        self.last = self.last.max(chunk.last_sequence());
        self.instruments.reserve(chunk.event_count());
        self.orders.reserve(chunk.event_count());
        for number in 0..chunk.frames().len() {
            for event in chunk.frame(number).events() {
                let place = u32::try_from(event.sequence().0 - self.base.0).expect("the memtable is bounded");
                for_each_entity(&event, |entity| match entity {
                    Entity::Instrument(InstrumentId(id)) => {
                        self.instruments.push(u64::from(id) << 32 | u64::from(place));
                    }
                    Entity::Order(OrderId(id), instrument) => self.orders.push(wide(id, instrument, place)),
                    Entity::Account(AccountId(id)) => self.accounts.push(wide(id, InstrumentId(0), place)),
                    Entity::Trade(TradeId(id), instrument) => self.trades.push(wide(id, instrument, place)),
                    Entity::State(key) => self.states.push((key.into(), place)),
                });
            }
        }
    }

    /// Runs of one memtable that follow each other, as one.
    pub(crate) fn merge<R: AsRef<Run>>(runs: &[R]) -> Self {
        fn together<T: Ord + Clone>(lists: impl Iterator<Item = impl AsRef<[T]>> + Clone) -> Vec<T> {
            let mut all = Vec::with_capacity(lists.clone().map(|list| list.as_ref().len()).sum());
            for list in lists {
                all.extend_from_slice(list.as_ref());
            }
            // The stable sort merges sorted stretches instead of sorting anew.
            all.sort();
            all
        }
        let all = || runs.iter().map(AsRef::as_ref);
        Self {
            base: runs[0].as_ref().base,
            first: runs[0].as_ref().first,
            last: runs[runs.len() - 1].as_ref().last,
            instruments: together(all().map(|run: &Run| &run.instruments)),
            orders: together(all().map(|run| &run.orders)),
            accounts: together(all().map(|run| &run.accounts)),
            trades: together(all().map(|run| &run.trades)),
            states: together(all().map(|run| &run.states)),
        }
    }

    pub(crate) fn first(&self) -> Sequence {
        self.first
    }

    pub(crate) fn last(&self) -> Sequence {
        self.last
    }

    /// How many events it covers.
    pub(super) fn event_count(&self) -> u64 {
        self.last.0 - self.first.0 + 1
    }

    /// Memory it holds, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let wide = self.orders.capacity() + self.accounts.capacity() + self.trades.capacity();
        let keys: usize = self.states.iter().map(|(key, _)| key.len() + size_of::<(Box<[u8]>, u32)>()).sum();
        self.instruments.capacity() * 8 + wide * 16 + keys
    }

    /// The positions between `from` and `through` that belong to `selector`.
    pub(crate) fn postings(&self, selector: &Selector, from: Sequence, through: Sequence) -> RunPostings {
        let low = from.max(self.first).0.saturating_sub(self.base.0);
        let high = through.min(self.last).0.checked_sub(self.base.0);
        let (low, Some(high)) = (low, high) else { return RunPostings::Collected(Vec::new()) };
        let (Ok(low), Ok(high)) = (u32::try_from(low), u32::try_from(high)) else {
            return RunPostings::Collected(Vec::new());
        };
        if low > high {
            return RunPostings::Collected(Vec::new());
        }
        match selector {
            Selector::Instrument(InstrumentId(id)) => {
                let key = u64::from(*id) << 32;
                RunPostings::Instrument(range(&self.instruments, key | u64::from(low), key | u64::from(high)))
            }
            Selector::Order(OrderId(id), Some(instrument)) => RunPostings::Order(range(
                &self.orders,
                wide(*id, *instrument, low),
                wide(*id, *instrument, high),
            )),
            Selector::Order(OrderId(id), None) => collect(&self.orders, *id, low, high),
            Selector::Account(AccountId(id)) => {
                let none = InstrumentId(0);
                RunPostings::Account(range(&self.accounts, wide(*id, none, low), wide(*id, none, high)))
            }
            Selector::Trade(TradeId(id), Some(instrument)) => RunPostings::Trade(range(
                &self.trades,
                wide(*id, *instrument, low),
                wide(*id, *instrument, high),
            )),
            Selector::Trade(TradeId(id), None) => collect(&self.trades, *id, low, high),
            Selector::State(key) => {
                let start = self.states.partition_point(|(k, place)| (&**k, *place) < (&**key, low));
                let end = self.states.partition_point(|(k, place)| (&**k, *place) <= (&**key, high));
                RunPostings::State(start..end)
            }
        }
    }

    /// The position of a posting.
    pub(crate) fn position(&self, postings: &RunPostings, at: usize) -> Sequence {
        let place = match postings {
            RunPostings::Instrument(range) => self.instruments[range.start + at] as u32,
            RunPostings::Order(range) => self.orders[range.start + at] as u32,
            RunPostings::Account(range) => self.accounts[range.start + at] as u32,
            RunPostings::Trade(range) => self.trades[range.start + at] as u32,
            RunPostings::State(range) => self.states[range.start + at].1,
            RunPostings::Collected(places) => places[at],
        };
        Sequence(self.base.0 + u64::from(place))
    }

    /// Every entity with its positions, in the order of the index tables: by index, key, position.
    pub(crate) fn for_each_entity<E>(
        &self,
        mut visit: impl FnMut(Entity<'_>, &mut dyn Iterator<Item = Sequence>) -> Result<(), E>,
    ) -> Result<(), E> {
        let at = |place: u32| Sequence(self.base.0 + u64::from(place));
        let of_wide = |group: &'_ [u128]| ((group[0] >> 64) as u64, InstrumentId((group[0] >> 32) as u32));
        for group in self.instruments.chunk_by(|left, right| left >> 32 == right >> 32) {
            let entity = Entity::Instrument(InstrumentId((group[0] >> 32) as u32));
            visit(entity, &mut group.iter().map(|entry| at(*entry as u32)))?;
        }
        for group in self.orders.chunk_by(|left, right| left >> 32 == right >> 32) {
            let (number, instrument) = of_wide(group);
            visit(
                Entity::Order(OrderId(number), instrument),
                &mut group.iter().map(|entry| at(*entry as u32)),
            )?;
        }
        for group in self.accounts.chunk_by(|left, right| left >> 32 == right >> 32) {
            let (number, _) = of_wide(group);
            visit(Entity::Account(AccountId(number)), &mut group.iter().map(|entry| at(*entry as u32)))?;
        }
        for group in self.trades.chunk_by(|left, right| left >> 32 == right >> 32) {
            let (number, instrument) = of_wide(group);
            visit(
                Entity::Trade(TradeId(number), instrument),
                &mut group.iter().map(|entry| at(*entry as u32)),
            )?;
        }
        for group in self.states.chunk_by(|left, right| left.0 == right.0) {
            visit(Entity::State(&group[0].0), &mut group.iter().map(|(_, place)| at(*place)))?;
        }
        Ok(())
    }
}

/// Which entries of a run answer a question, ascending by position.
#[derive(Clone, Debug)]
pub(crate) enum RunPostings {
    Instrument(Range<usize>),
    Order(Range<usize>),
    Account(Range<usize>),
    Trade(Range<usize>),
    State(Range<usize>),
    /// Of several instruments, so they had to be sorted.
    Collected(Vec<u32>),
}

impl RunPostings {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Instrument(range)
            | Self::Order(range)
            | Self::Account(range)
            | Self::Trade(range)
            | Self::State(range) => range.len(),
            Self::Collected(places) => places.len(),
        }
    }
}

/// The entries between two of the same key, both included.
fn range<T: Ord>(list: &[T], low: T, high: T) -> Range<usize> {
    let start = list.partition_point(|entry| *entry < low);
    let end = start + list[start..].partition_point(|entry| *entry <= high);
    start..end
}

fn collect(list: &[u128], number: u64, low: u32, high: u32) -> RunPostings {
    let all = range(list, u128::from(number) << 64, u128::from(number) << 64 | u128::from(u64::MAX));
    let mut places: Vec<u32> =
        list[all].iter().map(|entry| *entry as u32).filter(|place| (low..=high).contains(place)).collect();
    places.sort_unstable();
    places.dedup();
    RunPostings::Collected(places)
}
