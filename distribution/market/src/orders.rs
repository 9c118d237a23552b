//! What became of each order: its state at a position, also after it has left the book.
//!
//! Some venues report an execution and let another event change the book (`reports_only`). What such a report announces
//! is remembered, so that the cancel or replacement that carries it out counts as executed and not as cancelled.

use matchtape_schemas::event::{EventFlags, Side};
use matchtape_schemas::{
    AccountId, BodyRef, EventRef, EventTime, InstrumentId, OrderId, Price, Quantity, Sequence,
};
use rustc_hash::FxHashMap;

use crate::book::BookOrder;
use crate::volume::Volume;

/// How far an order has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderStatus {
    /// Something is left of it.
    Open,
    /// All of it was executed.
    Filled,
    /// It left the book with something unexecuted.
    Cancelled,
    /// It left when the book was cleared.
    Cleared,
    /// It was never accepted.
    Rejected,
}

impl OrderStatus {
    /// Every status.
    pub const ALL: &'static [Self] =
        &[Self::Open, Self::Filled, Self::Cancelled, Self::Cleared, Self::Rejected];

    /// The word used in queries and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Filled => "filled",
            Self::Cancelled => "cancelled",
            Self::Cleared => "cleared",
            Self::Rejected => "rejected",
        }
    }
}

/// One order as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderState {
    /// Its instrument.
    pub instrument: InstrumentId,
    /// Its number: the last, where replacements changed it.
    pub order_id: OrderId,
    /// Its owner, zero where the tape does not say; private.
    pub account: AccountId,
    /// Its side.
    pub side: Side,
    /// Its limit: the last.
    pub price: Price,
    /// With how much it entered.
    pub accepted: Quantity,
    /// What is left of it.
    pub left: Quantity,
    /// What was executed of it after it entered.
    pub executed: Volume,
    /// What left the book unexecuted.
    pub cancelled: Volume,
    /// How often it was replaced.
    pub replaced: u64,
    /// How far it has come.
    pub status: OrderStatus,
    /// The position of its first event.
    pub first_sequence: Sequence,
    /// The position of its last event.
    pub last_sequence: Sequence,
    /// When it entered.
    pub entered_at: EventTime,
    /// When its last event was.
    pub changed_at: EventTime,
    /// It entered before the events that are known, and rested in the book then. With how much and when is not known, nor
    /// what had been executed: `accepted` is zero, `entered_at` the smallest time, and the counts are of what is known.
    /// `first_sequence` only tells such orders apart, and `last_sequence` is the same until an event comes.
    pub entered_before: bool,
    /// Reported as executed, and not yet taken off the book.
    announced: Quantity,
}

/// Every order of the events applied, in order of entry. An id used again is another order.
#[derive(Clone, Debug, Default)]
pub struct OrderStates {
    orders: Vec<OrderState>,
    newest: FxHashMap<(InstrumentId, OrderId), usize>,
}

/// What an event says of an order that enters or changes.
struct Stated {
    order_id: OrderId,
    account: AccountId,
    side: Side,
    price: Price,
    quantity: Quantity,
}

/// The same of any kind of event that carries it.
macro_rules! stated {
    ($order:ident) => {
        Stated {
            order_id: $order.order_id.get(),
            account: $order.account.get(),
            side: $order.side.get(),
            price: $order.price.get(),
            quantity: $order.quantity.get(),
        }
    };
}

impl OrderStates {
    /// No orders yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts in an order that was in a book before the first event to come. `number` ascends with every one, and ends before
    /// that event.
    pub fn put_resting(&mut self, instrument: InstrumentId, order: &BookOrder, number: Sequence) {
        let &BookOrder { order_id, side, price, quantity, .. } = order;
        self.newest.insert((instrument, order_id), self.orders.len());
        self.orders.push(OrderState {
            instrument,
            order_id,
            account: AccountId(0),
            side,
            price,
            accepted: Quantity::ZERO,
            left: quantity,
            executed: Volume::ZERO,
            cancelled: Volume::ZERO,
            replaced: 0,
            status: OrderStatus::Open,
            first_sequence: number,
            last_sequence: number,
            entered_at: EventTime::MIN,
            changed_at: EventTime::MIN,
            entered_before: true,
            announced: Quantity::ZERO,
        });
    }

    /// Takes in the next event of the tape (or of a part of it: orders that entered before and are not
    /// [put in](Self::put_resting) are not known).
    pub fn apply(&mut self, event: &EventRef<'_>) {
        let reports_only = event.flags().contains(EventFlags::REPORTS_ONLY);
        match event.body() {
            BodyRef::OrderAccepted(order) => self.enter(event, stated!(order), OrderStatus::Open),
            BodyRef::OrderRejected(order) if !self.is_of_known_order(event, order.order_id.get()) => {
                self.enter(event, stated!(order), OrderStatus::Rejected);
            }
            BodyRef::OrderReplaced(order) => {
                let (old, new) = (order.order_id.get(), order.new_order_id.get());
                let new = if new == OrderId(0) { old } else { new };
                self.replace(event, old, Stated { order_id: new, ..stated!(order) });
            }
            BodyRef::OrderCancelled(order) => {
                if let Some(state) = self.open(event, order.order_id.get()) {
                    state.take_unexecuted(order.quantity.get());
                    state.settle(OrderStatus::Cancelled);
                }
            }
            BodyRef::OrderExecuted(order) => {
                let quantity = order.quantity.get();
                self.execute(event, order.order_id.get(), quantity, reports_only);
            }
            // Where the trade only reports, each order's execution is an event of its own.
            BodyRef::TradeMatched(trade) if !reports_only => {
                self.execute(event, trade.buy_order_id.get(), trade.quantity.get(), false);
                self.execute(event, trade.sell_order_id.get(), trade.quantity.get(), false);
            }
            BodyRef::BookCleared(_) => {
                for state in &mut self.orders {
                    if state.instrument == event.instrument() && state.status == OrderStatus::Open {
                        state.seen(event);
                        state.take_unexecuted(state.left);
                        state.status = OrderStatus::Cleared;
                    }
                }
            }
            _ => {}
        }
    }

    /// Whether a refusal is one of a change of an order that was accepted: it leaves the order as it is, also one that
    /// is gone (a cancel that came too late). The tape does not say what was asked for, so a refused new order under the
    /// number of an earlier one is taken for that, too.
    fn is_of_known_order(&mut self, event: &EventRef<'_>, order_id: OrderId) -> bool {
        if order_id == OrderId(0) {
            return false;
        }
        self.open(event, order_id).is_some()
            || self
                .get(event.instrument(), order_id)
                .is_some_and(|known| known.status != OrderStatus::Rejected)
    }

    fn enter(&mut self, event: &EventRef<'_>, stated: Stated, status: OrderStatus) {
        let Stated { order_id, account, side, price, quantity } = stated;
        if let Some(replaced) = self.open(event, order_id) {
            replaced.take_unexecuted(replaced.left);
            replaced.status = OrderStatus::Cancelled;
        }
        let (sequence, time) = (event.sequence(), event.event_time());
        self.newest.insert((event.instrument(), order_id), self.orders.len());
        self.orders.push(OrderState {
            instrument: event.instrument(),
            order_id,
            account,
            side,
            price,
            accepted: quantity,
            left: if status == OrderStatus::Rejected { Quantity::ZERO } else { quantity },
            executed: Volume::ZERO,
            cancelled: Volume::ZERO,
            replaced: 0,
            status,
            first_sequence: sequence,
            last_sequence: sequence,
            entered_at: time,
            changed_at: time,
            entered_before: false,
            announced: Quantity::ZERO,
        });
    }

    /// The open order of that number, whose last event this now is.
    fn open(&mut self, event: &EventRef<'_>, order_id: OrderId) -> Option<&mut OrderState> {
        let place = *self.newest.get(&(event.instrument(), order_id))?;
        let state = &mut self.orders[place];
        if state.status != OrderStatus::Open {
            return None;
        }
        state.seen(event);
        Some(state)
    }

    fn replace(&mut self, event: &EventRef<'_>, old: OrderId, stated: Stated) {
        let Some(state) = self.open(event, old) else {
            return self.enter(event, stated, OrderStatus::Open);
        };
        let Stated { order_id: new, account: _, side, price, quantity } = stated;
        state.replaced += 1;
        state.price = price;
        if side != Side::None {
            state.side = side;
        }
        if quantity < state.left {
            // What a report announced was executed; the rest of the difference is a change of mind, not a cancel.
            let less = state.left.saturating_sub(quantity);
            state.announced = state.announced.saturating_sub(less);
        }
        state.left = quantity;
        state.order_id = new;
        state.settle(OrderStatus::Cancelled);
        if new != old
            && let Some(place) = self.newest.remove(&(event.instrument(), old))
        {
            self.newest.insert((event.instrument(), new), place);
        }
    }

    fn execute(&mut self, event: &EventRef<'_>, order_id: OrderId, quantity: Quantity, reports_only: bool) {
        let Some(state) = self.open(event, order_id) else {
            return;
        };
        state.executed = state.executed.plus(quantity);
        if reports_only {
            let announced = state.announced.units().saturating_add(quantity.units());
            state.announced = Quantity::from_units(announced);
        } else {
            state.left = state.left.saturating_sub(quantity);
            state.settle(OrderStatus::Filled);
        }
    }

    /// Every order, in order of entry.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &OrderState> + '_ {
        self.orders.iter()
    }

    /// How many orders there are.
    pub fn len(&self) -> usize {
        self.orders.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }

    /// Drops the orders that are not to be kept. One that is not open never changes again, so dropping it changes nothing
    /// about the others; an open one that is dropped would be taken for a new one later on.
    pub fn retain(&mut self, mut keep: impl FnMut(&OrderState) -> bool) {
        self.orders.retain(&mut keep);
        // In order of entry, so the newest of a number is put in last. An order that a replacement gave another number
        // has left its old one.
        self.newest.clear();
        for (place, state) in self.orders.iter().enumerate() {
            self.newest.insert((state.instrument, state.order_id), place);
        }
    }

    /// The newest order of a number.
    pub fn get(&self, instrument: InstrumentId, order_id: OrderId) -> Option<&OrderState> {
        self.newest.get(&(instrument, order_id)).map(|place| &self.orders[*place])
    }
}

impl OrderState {
    fn seen(&mut self, event: &EventRef<'_>) {
        self.last_sequence = event.sequence();
        self.changed_at = event.event_time();
    }

    /// Takes a quantity off the book: first what was announced as executed, the rest is cancelled.
    fn take_unexecuted(&mut self, quantity: Quantity) {
        let quantity = quantity.min(self.left);
        let executed = quantity.min(self.announced);
        self.announced = self.announced.saturating_sub(executed);
        self.cancelled = self.cancelled.plus(quantity.saturating_sub(executed));
        self.left = self.left.saturating_sub(quantity);
    }

    fn settle(&mut self, otherwise: OrderStatus) {
        if self.left.is_zero() {
            self.status = if self.cancelled.is_zero() && !self.executed.is_zero() {
                OrderStatus::Filled
            } else {
                otherwise
            };
        }
    }
}
