//! What became of orders: of one by its number, of all in pages.

use std::collections::{BTreeMap, BTreeSet};

use matchtape_market::{OrderState, OrderStates, OrderStatus};
use matchtape_schemas::{
    AccountId, BodyRef, EventRef, EventTime, InstrumentId, Kind, KindMask, OrderId, Sequence,
};
use matchtape_storage::{EventHandle, Query, ReadError, Reader};

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
            && (self.time_from..=self.time_to).contains(&state.entered_at)
    }
}

/// Orders between two looks at what can be dropped.
const DROP_EVERY: usize = 16 * 1024;

/// The orders asked for, in order of entry, and whether there are more than the limit. All events of the instrument up
/// to there are read once; the memory is that of its open orders and of the answer.
pub fn orders(reader: &Reader, question: &OrdersQuestion) -> Result<(Vec<OrderState>, bool), ReadError> {
    let query = Query {
        instrument: question.instrument,
        through: question.through,
        kinds: ORDER_KINDS,
        ..Query::default()
    };
    let limit = question.limit.saturating_add(1);
    let (mut states, mut drop_at) = (OrderStates::new(), DROP_EVERY);
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
    Ok(question.select(states.iter().copied().collect()))
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
) -> Result<Vec<OrderState>, ReadError> {
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
    let Some(first) = events.keys().next().copied() else { return Ok(Vec::new()) };
    let instruments: BTreeSet<InstrumentId> =
        events.values().map(|event| event.event().instrument()).collect();
    // Seldom, and about all orders of an instrument: blocks without one are passed over unread.
    let kinds = KindMask::of(&[Kind::BookCleared]);
    for event in reader.query(&Query { from: first, through, kinds, ..Query::default() })? {
        let event = event?;
        if instruments.contains(&event.event().instrument()) {
            events.insert(event.sequence(), event);
        }
    }
    let (mut states, mut entered) = (OrderStates::new(), BTreeSet::new());
    for event in events.values() {
        let event = event.event();
        states.apply(&event);
        let number = number_after(&event, order);
        if let Some(state) = number.and_then(|number| states.get(event.instrument(), number)) {
            entered.insert(state.first_sequence);
        }
    }
    Ok(states.iter().filter(|state| entered.contains(&state.first_sequence)).copied().collect())
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
        // Every other event is about an order that has entered by one of these; where its entry is not kept, it is not
        // known.
        _ => None,
    }
}
