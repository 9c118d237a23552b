//! One instrument's resting orders: by price, and at one price by arrival.
//!
//! Orders lie in a slab and are linked into the queue of their price, so that taking one out of the middle costs the
//! same as taking the first. Knows nothing of matching; see `matching`.

use std::collections::BTreeMap;

use matchtape_schemas::event::{Side, TimeInForce};
use matchtape_schemas::{AccountId, OrderId, Price, Quantity};
use rustc_hash::FxHashMap;

/// An order in the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestingOrder {
    /// Its number.
    pub id: OrderId,
    /// Its owner.
    pub account: AccountId,
    /// Its side.
    pub side: Side,
    /// How long it stays.
    pub time_in_force: TimeInForce,
    /// Its limit.
    pub price: Price,
    /// What is left of it, never zero.
    pub quantity: Quantity,
}

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Node {
    order: RestingOrder,
    previous: u32,
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Queue {
    first: u32,
    last: u32,
}

/// The resting orders of one instrument.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    nodes: Vec<Node>,
    free: Vec<u32>,
    by_id: FxHashMap<OrderId, u32>,
    bids: BTreeMap<i64, Queue>,
    offers: BTreeMap<i64, Queue>,
}

/// Sorts the best price of a side first: the complement reverses the order of every `i64`.
fn key(side: Side, price: Price) -> i64 {
    if side == Side::Buy { !price.units() } else { price.units() }
}

impl Book {
    fn side_mut(&mut self, side: Side) -> &mut BTreeMap<i64, Queue> {
        if side == Side::Buy { &mut self.bids } else { &mut self.offers }
    }

    fn side(&self, side: Side) -> &BTreeMap<i64, Queue> {
        if side == Side::Buy { &self.bids } else { &self.offers }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn get(&self, id: OrderId) -> Option<&RestingOrder> {
        self.by_id.get(&id).map(|at| &self.nodes[*at as usize].order)
    }

    /// The order that trades next on a side.
    pub(super) fn best(&self, side: Side) -> Option<&RestingOrder> {
        self.side(side).first_key_value().map(|(_, queue)| &self.nodes[queue.first as usize].order)
    }

    /// A side's orders in the order in which they would trade.
    pub(super) fn orders(&self, side: Side) -> impl Iterator<Item = &RestingOrder> {
        self.side(side).values().flat_map(move |queue| {
            let mut at = queue.first;
            std::iter::from_fn(move || {
                let node = self.nodes.get(at as usize)?;
                at = node.next;
                Some(&node.order)
            })
        })
    }

    /// Puts an order at the end of the queue of its price.
    pub(super) fn insert(&mut self, order: RestingOrder) {
        debug_assert!(!order.quantity.is_zero() && !order.price.is_none());
        let node = Node { order, previous: NONE, next: NONE };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        let queue = self
            .side_mut(order.side)
            .entry(key(order.side, order.price))
            .or_insert(Queue { first: at, last: NONE });
        let behind = std::mem::replace(&mut queue.last, at);
        if behind != NONE {
            self.nodes[behind as usize].next = at;
            self.nodes[at as usize].previous = behind;
        }
        let taken = self.by_id.insert(order.id, at);
        debug_assert!(taken.is_none(), "the engine numbers orders and never twice the same");
    }

    /// Takes an order out.
    pub(super) fn remove(&mut self, id: OrderId) -> Option<RestingOrder> {
        let at = self.by_id.remove(&id)?;
        let Node { order, previous, next } = self.nodes[at as usize];
        self.free.push(at);
        if previous != NONE {
            self.nodes[previous as usize].next = next;
        }
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        if previous != NONE && next != NONE {
            return Some(order);
        }
        let (side, key) = (self.side_mut(order.side), key(order.side, order.price));
        if previous == NONE && next == NONE {
            side.remove(&key);
        } else {
            let queue = side.get_mut(&key).expect("an order's price has a queue");
            if previous == NONE {
                queue.first = next;
            } else {
                queue.last = previous;
            }
        }
        Some(order)
    }

    /// Leaves an order with this much, where it stands; with nothing, takes it out. `false`: there is no such order.
    pub(super) fn set_quantity(&mut self, id: OrderId, quantity: Quantity) -> bool {
        if quantity.is_zero() {
            return self.remove(id).is_some();
        }
        let Some(at) = self.by_id.get(&id) else { return false };
        self.nodes[*at as usize].order.quantity = quantity;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(id: u64, side: Side, price: i64) -> RestingOrder {
        RestingOrder {
            id: OrderId(id),
            account: AccountId(1),
            side,
            time_in_force: TimeInForce::Day,
            price: Price::from_units(price),
            quantity: Quantity::from_units(id),
        }
    }

    fn ids(book: &Book, side: Side) -> Vec<u64> {
        book.orders(side).map(|order| order.id.get()).collect()
    }

    #[test]
    fn the_best_price_trades_first_and_at_one_price_the_first_come() {
        let mut book = Book::default();
        for (id, price) in [(1, 10), (2, 11), (3, 10), (4, 12), (5, 10)] {
            book.insert(order(id, Side::Buy, price));
            book.insert(order(id + 10, Side::Sell, price));
        }
        assert_eq!(ids(&book, Side::Buy), [4, 2, 1, 3, 5]);
        assert_eq!(ids(&book, Side::Sell), [11, 13, 15, 12, 14]);
    }

    #[test]
    fn orders_leave_the_front_the_middle_and_the_end_of_a_queue() {
        let mut book = Book::default();
        (1..=5).for_each(|id| book.insert(order(id, Side::Buy, 10)));
        assert_eq!(book.remove(OrderId(3)), Some(order(3, Side::Buy, 10)));
        assert_eq!(ids(&book, Side::Buy), [1, 2, 4, 5]);
        assert!(book.set_quantity(OrderId(1), Quantity::ZERO));
        assert!(book.remove(OrderId(5)).is_some());
        assert_eq!(ids(&book, Side::Buy), [2, 4]);
        book.insert(order(6, Side::Buy, 10));
        assert!(book.set_quantity(OrderId(4), Quantity::from_units(1)), "in its place");
        assert_eq!(ids(&book, Side::Buy), [2, 4, 6]);
        [2, 4, 6].into_iter().for_each(|id| assert!(book.remove(OrderId(id)).is_some()));
        assert!(book.best(Side::Buy).is_none() && book.len() == 0);
        assert_eq!(book.remove(OrderId(2)), None);
        assert!(!book.set_quantity(OrderId(2), Quantity::from_units(1)));
    }
}
