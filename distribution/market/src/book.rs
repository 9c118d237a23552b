//! One instrument's order book: every order in price-time order, and its levels.
//!
//! The rules (each also stated at the event it belongs to, in schemas):
//!
//! * `OrderAccepted` puts an order at the end of its price's queue. An order without a price or a side is known but
//!   rests at no level. An id that is still in the book starts a new order: the old one leaves (counted).
//! * `OrderReplaced` keeps the place in the queue only if neither price, side nor number changed and the quantity did
//!   not grow. Of an unknown order it inserts the new one (counted). A quantity of zero takes the order out.
//! * `OrderCancelled` takes its quantity off; of an unknown order it changes nothing (counted).
//! * `TradeMatched` and `OrderExecuted` that are not `reports_only` take their quantity off the orders they name which
//!   are in the book. A trade may name orders that never were: a venue that posts only what is left of an aggressor.
//! * `BookCleared` takes every order out.
//!
//! An event that asks for more than an order has left takes all of it, and is counted. Nothing on a tape makes it panic.

use std::collections::hash_map::Entry;

use matchtape_schemas::event::{EventFlags, Side};
use matchtape_schemas::{BodyRef, EventRef, OrderId, Price, Quantity, Sequence};
use rustc_hash::FxHashMap;

use crate::ladder::Ladder;
use crate::queue::{LevelNode, NONE, Node, Slab};
use crate::volume::Volume;

/// The order book of one instrument.
#[derive(Clone, Debug)]
pub struct Book {
    pub(crate) index: FxHashMap<OrderId, u32>,
    pub(crate) orders: Slab<Node>,
    levels: Slab<LevelNode>,
    bids: Ladder,
    asks: Ladder,
    pub(crate) bid_totals: SideTotals,
    pub(crate) ask_totals: SideTotals,
    pub(crate) counters: BookCounters,
    pub(crate) changed_at: Sequence,
    touched: Vec<Touched>,
    watched: bool,
}

/// One price of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// The price.
    pub price: Price,
    /// What all its orders have left.
    pub quantity: Volume,
    /// How many orders.
    pub orders: u32,
}

/// One order in the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BookOrder {
    /// The order.
    pub order_id: OrderId,
    /// Its side; none only for an order that does not rest.
    pub side: Side,
    /// Its limit; none only for an order that does not rest.
    pub price: Price,
    /// What is left of it.
    pub quantity: Quantity,
    /// Whether it rests at a level.
    pub resting: bool,
}

/// What one side of a book has in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SideTotals {
    /// Orders at its levels.
    pub orders: u64,
    /// What they have left.
    pub quantity: Volume,
}

/// What a book has in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BookTotals {
    /// Prices that have bids.
    pub bid_levels: usize,
    /// Prices that have offers.
    pub ask_levels: usize,
    /// The bids.
    pub bids: SideTotals,
    /// The offers.
    pub asks: SideTotals,
}

/// Events a book could not take at their word. On a tape that begins with its source, all stay zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BookCounters {
    /// Cancels of orders that were not in the book: ignored.
    pub cancels_of_unknown: u64,
    /// Replacements of orders that were not in the book: inserted.
    pub replaces_of_unknown: u64,
    /// Executions (not trades) of orders that were not in the book: ignored.
    pub executions_of_unknown: u64,
    /// Cancels of more than the order had left: it left the book.
    pub cancels_beyond_left: u64,
    /// Trades and executions of more than the order had left: it left the book.
    pub executions_beyond_left: u64,
    /// Orders that came under the number of one still in the book: the old one left.
    pub numbers_in_use: u64,
}

/// A level that a group changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelChange {
    /// Its side.
    pub side: Side,
    /// Its price.
    pub price: Price,
    /// What it has now; zero: the level is gone.
    pub quantity: Volume,
    /// How many orders it has now.
    pub orders: u32,
}

/// What a level was before the first change of it that has not been taken out yet.
#[derive(Clone, Copy, Debug)]
struct Touched {
    side: Side,
    price: Price,
    quantity: Volume,
    orders: u32,
}

impl Default for Book {
    fn default() -> Self {
        Self::new()
    }
}

impl Book {
    /// An empty book.
    pub fn new() -> Self {
        Self {
            index: FxHashMap::default(),
            orders: Slab::new(),
            levels: Slab::new(),
            bids: Ladder::new(Side::Buy),
            asks: Ladder::new(Side::Sell),
            bid_totals: SideTotals::default(),
            ask_totals: SideTotals::default(),
            counters: BookCounters::default(),
            changed_at: Sequence::ZERO,
            touched: Vec::new(),
            watched: false,
        }
    }

    /// Takes in the next event of this book's instrument.
    pub fn apply(&mut self, event: &EventRef<'_>) {
        let sequence = event.sequence();
        match event.body() {
            BodyRef::OrderAccepted(order) => self.accept(
                sequence,
                order.order_id.get(),
                order.side.get(),
                order.price.get(),
                order.quantity.get(),
            ),
            BodyRef::OrderReplaced(order) => {
                let (old, new) = (order.order_id.get(), order.new_order_id.get());
                let new = if new == OrderId(0) { old } else { new };
                self.replace(sequence, old, new, order.side.get(), order.price.get(), order.quantity.get());
            }
            BodyRef::OrderCancelled(order) => {
                match self.reduce(sequence, order.order_id.get(), order.quantity.get()) {
                    Reduced::Unknown => self.counters.cancels_of_unknown += 1,
                    Reduced::Beyond => self.counters.cancels_beyond_left += 1,
                    Reduced::Exactly => {}
                }
            }
            BodyRef::OrderExecuted(order) => {
                if !event.flags().contains(EventFlags::REPORTS_ONLY)
                    && self.execute(sequence, order.order_id.get(), order.quantity.get()) == Reduced::Unknown
                {
                    self.counters.executions_of_unknown += 1;
                }
            }
            BodyRef::TradeMatched(trade) => {
                if !event.flags().contains(EventFlags::REPORTS_ONLY) {
                    self.execute(sequence, trade.buy_order_id.get(), trade.quantity.get());
                    self.execute(sequence, trade.sell_order_id.get(), trade.quantity.get());
                }
            }
            BodyRef::BookCleared(_) => self.clear(sequence),
            BodyRef::OrderRejected(_)
            | BodyRef::TradeBusted(_)
            | BodyRef::InstrumentDefined(_)
            | BodyRef::TradingStatusChanged(_)
            | BodyRef::SessionOpened(_)
            | BodyRef::SessionClosed(_)
            | BodyRef::AccountOpened(_)
            | BodyRef::AccountChanged(_)
            | BodyRef::PositionChanged(_)
            | BodyRef::StateSet(_)
            | BodyRef::StateDeleted(_)
            | BodyRef::EpochStarted(_)
            | BodyRef::EpochEnded(_)
            | BodyRef::TimeAdvanced(_) => {}
        }
    }

    fn accept(&mut self, at: Sequence, id: OrderId, side: Side, price: Price, quantity: Quantity) {
        if quantity.is_zero() {
            return;
        }
        let node =
            self.orders.insert(Node { id, price, quantity, previous: NONE, next: NONE, level: NONE, side });
        if let Some(old) = self.index.insert(id, node) {
            self.counters.numbers_in_use += 1;
            self.unlink(at, old);
            self.orders.free(old);
        }
        self.link(at, node);
    }

    fn replace(
        &mut self,
        at: Sequence,
        old: OrderId,
        new: OrderId,
        side: Side,
        price: Price,
        quantity: Quantity,
    ) {
        let Some(&node) = self.index.get(&old) else {
            self.counters.replaces_of_unknown += 1;
            return self.accept(at, new, side, price, quantity);
        };
        let before = self.orders[node];
        let side = if side == Side::None { before.side } else { side };
        let keeps_place =
            new == old && price == before.price && side == before.side && quantity <= before.quantity;
        if keeps_place && !quantity.is_zero() {
            self.take(at, node, Quantity::from_units(before.quantity.units() - quantity.units()));
            return;
        }
        self.index.remove(&old);
        self.unlink(at, node);
        self.orders.free(node);
        self.accept(at, new, side, price, quantity);
    }

    fn execute(&mut self, at: Sequence, id: OrderId, quantity: Quantity) -> Reduced {
        let reduced = self.reduce(at, id, quantity);
        if reduced == Reduced::Beyond {
            self.counters.executions_beyond_left += 1;
        }
        reduced
    }

    /// Takes `quantity` off an order; it is gone when nothing is left.
    #[inline]
    fn reduce(&mut self, at: Sequence, id: OrderId, quantity: Quantity) -> Reduced {
        let Entry::Occupied(entry) = self.index.entry(id) else {
            return Reduced::Unknown;
        };
        let node = *entry.get();
        let left = self.orders[node].quantity;
        if quantity < left {
            self.take(at, node, quantity);
            return Reduced::Exactly;
        }
        entry.remove();
        self.unlink(at, node);
        self.orders.free(node);
        if quantity > left { Reduced::Beyond } else { Reduced::Exactly }
    }

    /// Takes less than all off an order where it stands.
    fn take(&mut self, at: Sequence, node: u32, quantity: Quantity) {
        let order = &mut self.orders[node];
        order.quantity = order.quantity.saturating_sub(quantity);
        let (level, side) = (order.level, order.side);
        if level != NONE {
            self.touch(at, level);
            self.levels[level].quantity = self.levels[level].quantity.minus(quantity);
            let totals = self.totals_mut(side);
            totals.quantity = totals.quantity.minus(quantity);
        }
    }

    /// Puts an order at the end of the queue at its price, if it can rest.
    fn link(&mut self, at: Sequence, node: u32) {
        let Node { price, quantity, side, .. } = self.orders[node];
        if price.is_none() || side == Side::None {
            return;
        }
        let levels = &mut self.levels;
        let ladder = if side == Side::Buy { &mut self.bids } else { &mut self.asks };
        let level = ladder.get_or_insert(price, || {
            levels.insert(LevelNode {
                quantity: Volume::ZERO,
                price,
                orders: 0,
                first: NONE,
                last: NONE,
                side,
            })
        });
        self.touch(at, level);
        let queue = &mut self.levels[level];
        let last = queue.last;
        queue.last = node;
        queue.orders += 1;
        queue.quantity = queue.quantity.plus(quantity);
        if last == NONE {
            queue.first = node;
        } else {
            self.orders[last].next = node;
        }
        self.orders[node].previous = last;
        self.orders[node].level = level;
        let totals = self.totals_mut(side);
        totals.orders += 1;
        totals.quantity = totals.quantity.plus(quantity);
    }

    /// Takes an order out of its queue; the level goes with its last order.
    fn unlink(&mut self, at: Sequence, node: u32) {
        let Node { price, quantity, previous, next, level, side, .. } = self.orders[node];
        if level == NONE {
            return;
        }
        self.touch(at, level);
        let queue = &mut self.levels[level];
        queue.orders -= 1;
        queue.quantity = queue.quantity.minus(quantity);
        if previous == NONE {
            queue.first = next;
        } else {
            self.orders[previous].next = next;
        }
        if next == NONE {
            queue.last = previous;
        } else {
            self.orders[next].previous = previous;
        }
        if queue.orders == 0 {
            self.levels.free(level);
            if side == Side::Buy { &mut self.bids } else { &mut self.asks }.remove(price);
        }
        let totals = self.totals_mut(side);
        totals.orders -= 1;
        totals.quantity = totals.quantity.minus(quantity);
    }

    fn clear(&mut self, at: Sequence) {
        if self.watched {
            let levels: Vec<u32> = self.bids.best_first().chain(self.asks.best_first()).collect();
            levels.into_iter().for_each(|level| self.touch(at, level));
        }
        self.changed_at = at;
        self.index.clear();
        self.orders.clear();
        self.levels.clear();
        self.bids.clear();
        self.asks.clear();
        self.bid_totals = SideTotals::default();
        self.ask_totals = SideTotals::default();
    }

    #[inline]
    fn touch(&mut self, at: Sequence, level: u32) {
        self.changed_at = at;
        if self.watched {
            let LevelNode { quantity, price, orders, side, .. } = self.levels[level];
            self.touched.push(Touched { side, price, quantity, orders });
        }
    }

    fn totals_mut(&mut self, side: Side) -> &mut SideTotals {
        if side == Side::Buy { &mut self.bid_totals } else { &mut self.ask_totals }
    }

    /// From now on remembers which levels change.
    pub(crate) fn watch(&mut self) {
        self.watched = true;
    }

    /// The levels that differ from what they were when this was last called: bids then offers, best first.
    pub(crate) fn take_changes(&mut self, out: &mut Vec<LevelChange>) {
        let mut touched = std::mem::take(&mut self.touched);
        // The stable sort leaves the earliest touch of a level first, which says what it was at the beginning.
        touched.sort_by_key(|touch| {
            let price = touch.price.units();
            (touch.side, if touch.side == Side::Buy { !price } else { price })
        });
        touched.dedup_by_key(|touch| (touch.side, touch.price));
        for before in &touched {
            let now = self.level(before.side, before.price);
            let (quantity, orders) = now.map_or((Volume::ZERO, 0), |level| (level.quantity, level.orders));
            if (quantity, orders) != (before.quantity, before.orders) {
                out.push(LevelChange { side: before.side, price: before.price, quantity, orders });
            }
        }
        touched.clear();
        self.touched = touched;
    }

    fn ladder(&self, side: Side) -> Option<&Ladder> {
        match side {
            Side::Buy => Some(&self.bids),
            Side::Sell => Some(&self.asks),
            Side::None => None,
        }
    }

    fn level_at(&self, level: u32) -> Level {
        let LevelNode { price, quantity, orders, .. } = self.levels[level];
        Level { price, quantity, orders }
    }

    fn order_at(&self, node: u32) -> BookOrder {
        let Node { id, price, quantity, level, side, .. } = self.orders[node];
        BookOrder { order_id: id, side, price, quantity, resting: level != NONE }
    }

    /// The levels of a side, best first; of no side, none.
    pub fn levels(&self, side: Side) -> impl Iterator<Item = Level> + '_ {
        self.ladder(side).into_iter().flat_map(Ladder::best_first).map(|level| self.level_at(level))
    }

    /// The best level of a side.
    pub fn best(&self, side: Side) -> Option<Level> {
        self.levels(side).next()
    }

    /// The level at a price.
    pub fn level(&self, side: Side, price: Price) -> Option<Level> {
        self.ladder(side)?.get(price).map(|level| self.level_at(level))
    }

    /// The orders at a price, first come first.
    pub fn queue(&self, side: Side, price: Price) -> impl Iterator<Item = BookOrder> + '_ {
        let level = self.ladder(side).and_then(|ladder| ladder.get(price));
        self.queue_of(level)
    }

    /// Every resting order of a side: best level first, in each first come first.
    pub fn resting(&self, side: Side) -> impl Iterator<Item = BookOrder> + '_ {
        self.ladder(side)
            .into_iter()
            .flat_map(Ladder::best_first)
            .flat_map(|level| self.queue_of(Some(level)))
    }

    fn queue_of(&self, level: Option<u32>) -> impl Iterator<Item = BookOrder> + '_ {
        let mut next = level.map_or(NONE, |level| self.levels[level].first);
        std::iter::from_fn(move || {
            if next == NONE {
                return None;
            }
            let node = next;
            next = self.orders[node].next;
            Some(self.order_at(node))
        })
    }

    /// An order that is in the book.
    pub fn order(&self, order_id: OrderId) -> Option<BookOrder> {
        self.index.get(&order_id).map(|node| self.order_at(*node))
    }

    /// What both sides have in all.
    pub fn totals(&self) -> BookTotals {
        BookTotals {
            bid_levels: self.bids.len(),
            ask_levels: self.asks.len(),
            bids: self.bid_totals,
            asks: self.ask_totals,
        }
    }

    /// Whether the best bid is not below the best offer: usual before an auction uncrosses, wrong in continuous trading.
    pub fn is_crossed(&self) -> bool {
        match (self.best(Side::Buy), self.best(Side::Sell)) {
            (Some(bid), Some(ask)) => bid.price >= ask.price,
            _ => false,
        }
    }

    /// Events the book could not take at their word.
    pub fn counters(&self) -> BookCounters {
        self.counters
    }

    /// The position of the last event that changed a level, zero for none.
    pub fn changed_at(&self) -> Sequence {
        self.changed_at
    }

    /// Puts back an order of a snapshot, behind those put back before it. `false`: its number is there already.
    pub(crate) fn put_back(&mut self, id: OrderId, side: Side, price: Price, quantity: Quantity) -> bool {
        let changed_at = self.changed_at;
        if self.index.contains_key(&id) {
            return false;
        }
        self.accept(changed_at, id, side, price, quantity);
        true
    }

    /// Orders that are known but rest at no level, by number.
    pub fn not_resting(&self) -> Vec<BookOrder> {
        let mut orders: Vec<BookOrder> = self
            .index
            .values()
            .filter(|node| self.orders[**node].level == NONE)
            .map(|node| self.order_at(*node))
            .collect();
        orders.sort_unstable_by_key(|order| order.order_id);
        orders
    }
}

/// What taking a quantity off an order found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reduced {
    /// No such order in the book.
    Unknown,
    /// It had that much.
    Exactly,
    /// It had less and is gone.
    Beyond,
}
