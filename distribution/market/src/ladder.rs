//! The prices of one side that have orders, best last.
//!
//! A sorted vector: nearly every change happens a few rungs from the best, so the search starts there and an insertion
//! moves little. A rung is 16 bytes; even in a book of a hundred thousand levels the worst insertion moves 1.6 MB.

use matchtape_schemas::Price;
use matchtape_schemas::event::Side;

/// Rungs looked at one by one from the best before the binary search.
const NEAR_BEST: usize = 8;

/// One price and where its level lies.
#[derive(Clone, Copy, Debug)]
struct Rung {
    key: i64,
    level: u32,
}

/// One side's prices in order, best last.
#[derive(Clone, Debug)]
pub(crate) struct Ladder {
    /// For sells the key is the price's bitwise complement, which reverses the order of every `i64`.
    complement: bool,
    rungs: Vec<Rung>,
}

impl Ladder {
    pub(crate) fn new(side: Side) -> Self {
        Self { complement: side == Side::Sell, rungs: Vec::new() }
    }

    #[inline]
    fn key(&self, price: Price) -> i64 {
        if self.complement { !price.units() } else { price.units() }
    }

    /// Where a key is, or where it belongs.
    #[inline]
    fn find(&self, key: i64) -> Result<usize, usize> {
        let far = self.rungs.len().saturating_sub(NEAR_BEST);
        for at in (far..self.rungs.len()).rev() {
            let found = self.rungs[at].key;
            if found == key {
                return Ok(at);
            }
            if found < key {
                return Err(at + 1);
            }
        }
        self.rungs[..far].binary_search_by_key(&key, |rung| rung.key)
    }

    /// The level at a price.
    #[inline]
    pub(crate) fn get(&self, price: Price) -> Option<u32> {
        self.find(self.key(price)).ok().map(|at| self.rungs[at].level)
    }

    /// The level at a price; `create` makes one where there is none.
    #[inline]
    pub(crate) fn get_or_insert(&mut self, price: Price, create: impl FnOnce() -> u32) -> u32 {
        let key = self.key(price);
        match self.find(key) {
            Ok(at) => self.rungs[at].level,
            Err(at) => {
                let level = create();
                self.rungs.insert(at, Rung { key, level });
                level
            }
        }
    }

    /// Takes a price out that is there.
    #[inline]
    pub(crate) fn remove(&mut self, price: Price) {
        let at = self.find(self.key(price)).expect("a level's price is on its ladder");
        self.rungs.remove(at);
    }

    pub(crate) fn clear(&mut self) {
        self.rungs.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.rungs.len()
    }

    /// The levels, best first.
    #[inline]
    pub(crate) fn best_first(&self) -> impl Iterator<Item = u32> + '_ {
        self.rungs.iter().rev().map(|rung| rung.level)
    }
}
