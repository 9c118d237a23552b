//! What became of orders: of one by its number, of all in pages.
//!
//! Where retention has dropped the tape's beginning, the orders that were in the books right before what is kept come from
//! there: how they stood then is known, when and with how much they entered is not. What was done before is not known at all,
//! and an answer says from where it is complete.

use std::collections::{BTreeMap, BTreeSet};

use matchtape_market::{BookOrder, Books, OrderState, OrderStates, OrderStatus};
use matchtape_schemas::event::Side;
use matchtape_schemas::{
    AccountId, BodyRef, EventRef, EventTime, InstrumentId, Kind, KindMask, OrderId, Sequence,
};
use matchtape_storage::{EventHandle, Query, ReadError, Reader};

use crate::as_of::{self, AsOfError};

/// The kinds that an order's state follows from.
pub const ORDER_KINDS: KindMask = KindMask::of(&[
    Kind::OrderAccepted,
    Kind::OrderRejected,
    Kind::OrderReplaced,
    Kind::OrderCancelled,
    Kind::OrderExecuted,
    Kind::TradeMatched,
    Kind::BookCleared,
]);

/// Which orders.
#[derive(Clone, Debug)]
pub struct OrdersQuestion {
    /// As of this position.
    pub through: Sequence,
    /// Only of this instrument.
    pub instrument: Option<InstrumentId>,
    /// Only in this state.
    pub status: Option<OrderStatus>,
    /// Only of this owner.
    pub account: Option<AccountId>,
    /// Only those that entered at or after this position.
    pub from: Sequence,
    /// Only those that entered at or before this position.
    pub to: Sequence,
    /// Only those that entered at or after this time.
    pub time_from: EventTime,
    /// Only those that entered at or before this time.
    pub time_to: EventTime,
    /// Also those that were refused: private.
    pub refused: bool,
    /// The last that entered first.
    pub newest_first: bool,
    /// Only those behind the order of this `first_sequence` in the answer.
    pub after: Option<Sequence>,
    /// At most so many.
    pub limit: usize,
}

impl OrdersQuestion {
    /// Every accepted order as of a position.
    pub fn new(through: Sequence) -> Self {
        Self {
            through,
            instrument: None,
            status: None,
            account: None,
            from: Sequence::ZERO,
            to: Sequence::MAX,
            time_from: EventTime::MIN,
            time_to: EventTime::MAX,
            refused: false,
            newest_first: false,
            after: None,
            limit: usize::MAX,
        }
    }

    /// Those of some orders (in order of entry) that are asked for, and whether there are more than the limit.
    pub fn select(&self, states: Vec<OrderState>) -> (Vec<OrderState>, bool) {
        let limit = self.limit.saturating_add(1);
        let wanted = states.into_iter().filter(|state| self.wants(state));
        let mut answer: Vec<OrderState> =
            if self.newest_first { wanted.rev().take(limit).collect() } else { wanted.take(limit).collect() };
        let more = answer.len() > self.limit;
        answer.truncate(self.limit);
        (answer, more)
    }

    fn wants(&self, state: &OrderState) -> bool {
        self.status.is_none_or(|status| state.status == status)
            && (self.refused || state.status != OrderStatus::Rejected)
            && self.account.is_none_or(|account| state.account == account)
            && (self.from..=self.to).contains(&state.first_sequence)
            && self.after.is_none_or(|after| match self.newest_first {
                true => state.first_sequence < after,
                false => state.first_sequence > after,
            })
            && (self.time_from..=self.time_to).contains(&state.entered_at)
    }
}

/// Orders that were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orders {
    /// In order of entry; those that entered below retention, in order of their numbers, before all others.
    pub found: Vec<OrderState>,
    /// Whether there are more than the limit.
    pub more: bool,
    /// The first event kept: of what was done before only what was left in the books is known.
    pub first_kept: Sequence,
    /// The least `first_sequence` that an order can have: other than that of an answer of before, when more was dropped since.
    pub first: Sequence,
}

impl Orders {
    /// From where on the answer has all orders, unless that is the tape's beginning.
    pub fn complete_from(&self) -> Option<Sequence> {
        (self.first_kept > Sequence::FIRST).then_some(self.first_kept)
    }
}

/// Orders between two looks at what can be dropped.
const DROP_EVERY: usize = 16 * 1024;

/// The orders asked for, in order of entry, and whether there are more than the limit. All events of the instrument up
/// to there are read once; the memory is that of its open orders and of the answer.
///
/// A question about what is below retention is refused: one from a position or a time of which events were dropped, and one
/// that ends there.
pub fn orders(reader: &Reader, question: &OrdersQuestion) -> Result<Orders, AsOfError> {
    steady(reader, |first_kept| orders_kept_from(reader, question, first_kept))
}

/// Does it again where retention dropped events meanwhile.
fn steady<T>(reader: &Reader, answer: impl Fn(Sequence) -> Result<T, AsOfError>) -> Result<T, AsOfError> {
    loop {
        let first_kept = reader.first_kept();
        let answer = answer(first_kept);
        if reader.first_kept() == first_kept {
            return answer;
        }
    }
}

fn orders_kept_from(
    reader: &Reader,
    question: &OrdersQuestion,
    first_kept: Sequence,
) -> Result<Orders, AsOfError> {
    check_kept(reader, question, first_kept)?;
    let query = Query {
        instrument: question.instrument,
        through: question.through,
        kinds: ORDER_KINDS,
        ..Query::default()
    };
    let limit = question.limit.saturating_add(1);
    let mut states = OrderStates::new();
    let resting = resting_before(reader, question.instrument, first_kept)?;
    let first = resting.first().map_or(first_kept, |(number, _)| *number);
    for (number, (instrument, order)) in resting {
        states.put_resting(instrument, &order, number);
    }
    let mut drop_at = DROP_EVERY.max(2 * states.len());
    for event in reader.query(&query)? {
        let event = event?;
        if !question.refused && event.event().kind() == Kind::OrderRejected {
            continue;
        }
        states.apply(&event.event());
        if states.len() >= drop_at {
            keep_what_counts(&mut states, question, limit);
            drop_at = 2 * states.len().max(DROP_EVERY);
        }
    }
    let (found, more) = question.select(states.iter().copied().collect());
    Ok(Orders { found, more, first_kept, first })
}

/// Refuses what cannot be answered from what is kept.
fn check_kept(reader: &Reader, question: &OrdersQuestion, first_kept: Sequence) -> Result<(), ReadError> {
    if question.through.next() < first_kept {
        return Err(ReadError::BelowRetention { asked: question.through, first_kept });
    }
    if question.to < first_kept {
        return Err(ReadError::BelowRetention { asked: question.to, first_kept });
    }
    let Some(dropped_through) = reader.dropped_through() else { return Ok(()) };
    if question.time_to <= dropped_through {
        return Err(ReadError::TimeBelowRetention { asked: question.time_to, dropped_through, first_kept });
    }
    // The reader refuses what begins there.
    let begin = Query {
        from: question.from,
        event_time_from: question.time_from,
        limit: Some(0),
        ..Query::default()
    };
    reader.query(&begin).map(drop)
}

/// An order that was in a book, with a number that tells it apart.
type RestingBefore = (Sequence, (InstrumentId, BookOrder));

/// What was in the books right before the first event kept, each with a number before that event that tells it apart.
fn resting_before(
    reader: &Reader,
    instrument: Option<InstrumentId>,
    first_kept: Sequence,
) -> Result<Vec<RestingBefore>, AsOfError> {
    if first_kept <= Sequence::FIRST {
        return Ok(Vec::new());
    }
    let before = first_kept.previous();
    let mut books = Books::new();
    match instrument {
        Some(instrument) => books = as_of::books(reader, &[instrument], before)?,
        None => as_of::fold(reader, &mut books, before, &Query { kinds: Books::KINDS, ..Query::default() })?,
    }
    let mut resting: Vec<(InstrumentId, BookOrder)> = Vec::new();
    for (instrument, book) in books.iter() {
        let orders = book.resting(Side::Buy).chain(book.resting(Side::Sell)).chain(book.not_resting());
        resting.extend(orders.map(|order| (instrument, order)));
    }
    resting.sort_unstable_by_key(|(instrument, order)| (*instrument, order.order_id));
    // Each of them has had an event of its own, so there are as many positions.
    let first = first_kept.get() - (resting.len() as u64).min(before.get());
    Ok(resting.into_iter().zip(first..).map(|(order, number)| (Sequence(number), order)).collect())
}

/// Drops orders that are done and cannot be in the answer: not asked for, or too many that are before them in it.
fn keep_what_counts(states: &mut OrderStates, question: &OrdersQuestion, limit: usize) {
    let done = |state: &OrderState| state.status != OrderStatus::Open && question.wants(state);
    let candidates = states.iter().filter(|state| done(state)).count();
    // Those that are done stay as they are, so of them only the first (or last) of the answer's length can be in it.
    let surplus = candidates.saturating_sub(limit);
    let mut place = 0;
    states.retain(|state| {
        if !done(state) {
            return state.status == OrderStatus::Open;
        }
        place += 1;
        if question.newest_first { place > surplus } else { place <= candidates - surplus }
    });
}

/// Every order that had this number at some time, as of `through`, in order of entry: found by the index, also under
/// the numbers that replacements gave it. `refused`: also those that were refused, and what was refused of the others,
/// which is private.
pub fn order(
    reader: &Reader,
    order: OrderId,
    instrument: Option<InstrumentId>,
    through: Sequence,
    refused: bool,
) -> Result<Orders, AsOfError> {
    steady(reader, |first_kept| order_kept_from(reader, order, instrument, through, refused, first_kept))
}

fn order_kept_from(
    reader: &Reader,
    order: OrderId,
    instrument: Option<InstrumentId>,
    through: Sequence,
    refused: bool,
    first_kept: Sequence,
) -> Result<Orders, AsOfError> {
    if through.next() < first_kept {
        return Err(ReadError::BelowRetention { asked: through, first_kept }.into());
    }
    let mut events: BTreeMap<Sequence, EventHandle> = BTreeMap::new();
    let (mut asked, mut to_ask) = (BTreeSet::new(), vec![(instrument, order)]);
    while let Some((instrument, number)) = to_ask.pop() {
        if !asked.insert((instrument, number)) {
            continue;
        }
        let query =
            Query { order: Some(number), instrument, through, kinds: ORDER_KINDS, ..Query::default() };
        for event in reader.query(&query)? {
            let event = event?;
            if !refused && event.event().kind() == Kind::OrderRejected {
                continue;
            }
            if let BodyRef::OrderReplaced(replaced) = event.event().body() {
                let scope = Some(event.event().instrument());
                for other in [replaced.order_id.get(), replaced.new_order_id.get()] {
                    if other != OrderId(0) && other != number {
                        to_ask.push((scope, other));
                    }
                }
            }
            events.insert(event.sequence(), event);
        }
    }
    let mut states = OrderStates::new();
    let mut entered = BTreeSet::new();
    let mut instruments: BTreeSet<InstrumentId> =
        events.values().map(|event| event.event().instrument()).collect();
    let all_resting = resting_before(reader, instrument, first_kept)?;
    let least = all_resting.first().map_or(first_kept, |(number, _)| *number);
    for (number, (instrument, resting)) in all_resting {
        let id = resting.order_id;
        if asked.contains(&(Some(instrument), id)) || asked.contains(&(None, id)) {
            states.put_resting(instrument, &resting, number);
            instruments.insert(instrument);
            if id == order {
                entered.insert(number);
            }
        }
    }
    let first = if states.is_empty() { events.keys().next().copied() } else { Some(first_kept) };
    let Some(first) = first else {
        return Ok(Orders { found: Vec::new(), more: false, first_kept, first: least });
    };
    // Seldom, and about all orders of an instrument: blocks without one are passed over unread.
    let kinds = KindMask::of(&[Kind::BookCleared]);
    for event in reader.query(&Query { from: first, through, kinds, ..Query::default() })? {
        let event = event?;
        if instruments.contains(&event.event().instrument()) {
            events.insert(event.sequence(), event);
        }
    }
    for event in events.values() {
        let event = event.event();
        states.apply(&event);
        let number = number_after(&event, order);
        if let Some(state) = number.and_then(|number| states.get(event.instrument(), number)) {
            entered.insert(state.first_sequence);
        }
    }
    let found = states.iter().filter(|state| entered.contains(&state.first_sequence)).copied().collect();
    Ok(Orders { found, more: false, first_kept, first: least })
}

/// What an order that an event names by `number` is called after it.
fn number_after(event: &EventRef<'_>, number: OrderId) -> Option<OrderId> {
    match event.body() {
        BodyRef::OrderReplaced(replaced) => {
            let (old, new) = (replaced.order_id.get(), replaced.new_order_id.get());
            let new = if new == OrderId(0) { old } else { new };
            (old == number || new == number).then_some(new)
        }
        BodyRef::OrderAccepted(order) => (order.order_id.get() == number).then_some(number),
        BodyRef::OrderRejected(order) => (order.order_id.get() == number).then_some(number),
        // Every other event is about an order that has entered by one of these, or below retention.
        _ => None,
    }
}
