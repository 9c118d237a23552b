//! Orders and levels of one book: slabs of nodes, and the order of arrival at a level as a linked list through them.

use matchtape_schemas::event::Side;
use matchtape_schemas::{OrderId, Price, Quantity};

use crate::volume::Volume;

/// No node, no level.
pub(crate) const NONE: u32 = u32::MAX;

/// One order. `level` is [`NONE`] for an order that does not rest: a market order, one without a side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(crate) id: OrderId,
    pub(crate) price: Price,
    pub(crate) quantity: Quantity,
    pub(crate) previous: u32,
    pub(crate) next: u32,
    pub(crate) level: u32,
    pub(crate) side: Side,
}

/// The orders at one price, first come first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LevelNode {
    pub(crate) quantity: Volume,
    pub(crate) price: Price,
    pub(crate) orders: u32,
    pub(crate) first: u32,
    pub(crate) last: u32,
    pub(crate) side: Side,
}

/// Values that keep their place; freed places are used again, last freed first.
#[derive(Clone, Debug)]
pub(crate) struct Slab<T> {
    items: Vec<T>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self { items: Vec::new(), free: Vec::new() }
    }

    #[inline]
    pub(crate) fn insert(&mut self, item: T) -> u32 {
        match self.free.pop() {
            Some(at) => {
                self.items[at as usize] = item;
                at
            }
            None => {
                let at = u32::try_from(self.items.len()).expect("fewer than 2^32 orders in a book");
                assert_ne!(at, NONE, "fewer than 2^32 - 1 orders in a book");
                self.items.push(item);
                at
            }
        }
    }

    #[inline]
    pub(crate) fn free(&mut self, at: u32) {
        self.free.push(at);
    }

    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.free.clear();
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, at: u32) -> &T {
        &self.items[at as usize]
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, at: u32) -> &mut T {
        &mut self.items[at as usize]
    }
}
