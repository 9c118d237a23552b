//! A book to a depth, and what a group changed in it: a pure function of the tape.

use std::collections::BTreeMap;

use matchtape_market::{Book, BookChange, CHECKSUM_LEVELS, Level, LevelChange, Volume, book_checksum};
use matchtape_schemas::event::Side;
use matchtape_schemas::{EventTime, InstrumentId, Price, Sequence};

/// How many levels of each side; zero: all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Depth(u16);

impl Depth {
    /// All levels.
    pub(crate) const ALL: Self = Self(0);
    /// What may be asked for. Few, because every depth in use is folded for itself.
    pub(crate) const OFFERED: [u16; 7] = [0, 1, 5, 10, 20, 50, 100];

    pub(crate) fn new(levels: u64) -> Option<Self> {
        Self::OFFERED.into_iter().find(|offered| u64::from(*offered) == levels).map(Self)
    }

    /// Any number of levels, for a single look: no view is kept for it.
    pub(crate) const fn of_question(levels: u16) -> Self {
        Self(levels)
    }

    pub(crate) const fn get(self) -> u16 {
        self.0
    }

    /// The best levels of a side.
    pub(crate) fn levels(self, book: &Book, side: Side) -> Vec<Level> {
        let count = if self == Self::ALL { usize::MAX } else { self.0.into() };
        book.levels(side).take(count).collect()
    }

    /// The checksum a client of this depth can compute itself.
    pub(crate) fn checksum(self, book: Option<&Book>) -> Option<u32> {
        let sees_all_of_it = self == Self::ALL || usize::from(self.0) >= CHECKSUM_LEVELS;
        sees_all_of_it.then(|| book.map_or(0, book_checksum))
    }
}

/// What a group (or several, merged) changed in a view. Levels carry what they have now; zero: not in the view any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ViewDelta {
    pub(crate) instrument: InstrumentId,
    pub(crate) depth: Depth,
    /// The first event of the group.
    pub(crate) first_sequence: Sequence,
    /// The last event of the change before this one in the same view.
    pub(crate) previous_sequence: Sequence,
    /// The last event of the group.
    pub(crate) sequence: Sequence,
    pub(crate) event_time: EventTime,
    /// Bids then offers, best first.
    pub(crate) levels: Vec<LevelChange>,
    pub(crate) checksum: Option<u32>,
}

/// A group's place on the tape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupSpan {
    pub(crate) first: Sequence,
    pub(crate) last: Sequence,
    pub(crate) event_time: EventTime,
}

/// One instrument's book to a depth, as it was after the last group.
#[derive(Debug)]
pub(crate) struct View {
    instrument: InstrumentId,
    depth: Depth,
    previous: Sequence,
    /// The best levels, kept only where the depth is limited: otherwise the book's own changes are the view's.
    bids: Vec<Level>,
    asks: Vec<Level>,
}

impl View {
    /// The view of a book as it is at `position`, which is at or after its last change.
    pub(crate) fn open(
        instrument: InstrumentId,
        depth: Depth,
        book: Option<&Book>,
        position: Sequence,
    ) -> Self {
        let levels = |side| match book {
            Some(book) if depth != Depth::ALL => depth.levels(book, side),
            _ => Vec::new(),
        };
        Self { instrument, depth, previous: position, bids: levels(Side::Buy), asks: levels(Side::Sell) }
    }

    /// What a group changed; `None` when nothing this deep.
    pub(crate) fn advance(
        &mut self,
        book: &Book,
        change: &BookChange,
        group: GroupSpan,
    ) -> Option<ViewDelta> {
        let mut levels = Vec::new();
        if self.depth == Depth::ALL {
            levels.clone_from(&change.levels);
        } else {
            for side in [Side::Buy, Side::Sell] {
                let after = self.depth.levels(book, side);
                let before = if side == Side::Buy { &mut self.bids } else { &mut self.asks };
                difference(side, before, &after, &mut levels);
                *before = after;
            }
        }
        if levels.is_empty() {
            return None;
        }
        let previous_sequence = std::mem::replace(&mut self.previous, group.last);
        Some(ViewDelta {
            instrument: self.instrument,
            depth: self.depth,
            first_sequence: group.first,
            previous_sequence,
            sequence: group.last,
            event_time: group.event_time,
            levels,
            checksum: self.depth.checksum(Some(book)),
        })
    }
}

fn is_better(side: Side, price: Price, than: Price) -> bool {
    if side == Side::Buy { price > than } else { price < than }
}

/// Appends the levels that differ, best first. Both lists are sorted best first.
fn difference(side: Side, before: &[Level], after: &[Level], out: &mut Vec<LevelChange>) {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let gone = match (before.peek(), after.peek()) {
            (None, None) => return,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(old), Some(new)) if old.price == new.price => {
                if old != new {
                    out.push(changed(side, new));
                }
                before.next();
                after.next();
                continue;
            }
            (Some(old), Some(new)) => is_better(side, old.price, new.price),
        };
        if gone {
            let old = before.next().expect("it was peeked at");
            out.push(LevelChange { side, price: old.price, quantity: Volume::ZERO, orders: 0 });
        } else {
            out.push(changed(side, after.next().expect("it was peeked at")));
        }
    }
}

fn changed(side: Side, level: &Level) -> LevelChange {
    LevelChange { side, price: level.price, quantity: level.quantity, orders: level.orders }
}

/// Several changes of one view as one: each level as the last change that names it left it.
///
/// # Panics
/// Without any change.
pub(crate) fn merge(deltas: &[&ViewDelta]) -> ViewDelta {
    let (first, last) = (deltas[0], deltas[deltas.len() - 1]);
    let mut levels = BTreeMap::new();
    for level in deltas.iter().flat_map(|delta| &delta.levels) {
        let price = level.price.units();
        let best_first = if level.side == Side::Buy { !price } else { price };
        levels.insert((level.side, best_first), *level);
    }
    ViewDelta {
        first_sequence: first.first_sequence,
        previous_sequence: first.previous_sequence,
        levels: levels.into_values().collect(),
        ..last.clone()
    }
}

#[cfg(test)]
mod tests {
    use matchtape_schemas::Quantity;

    use super::*;

    fn levels(prices: &[(i64, u64)]) -> Vec<Level> {
        let level = |&(price, quantity)| Level {
            price: Price::from_units(price),
            quantity: Quantity::from_units(quantity).into(),
            orders: 1,
        };
        prices.iter().map(level).collect()
    }

    fn rows(side: Side, before: &[(i64, u64)], after: &[(i64, u64)]) -> Vec<(i64, u128)> {
        let mut out = Vec::new();
        difference(side, &levels(before), &levels(after), &mut out);
        out.iter().map(|level| (level.price.units(), level.quantity.units())).collect()
    }

    #[test]
    fn a_difference_names_exactly_the_levels_that_differ_best_first() {
        assert_eq!(rows(Side::Sell, &[(1, 5), (2, 5)], &[(1, 5), (2, 5)]), []);
        assert_eq!(rows(Side::Sell, &[(1, 5), (3, 5)], &[(2, 1), (3, 6)]), [(1, 0), (2, 1), (3, 6)]);
        assert_eq!(rows(Side::Buy, &[(3, 5), (1, 5)], &[(4, 1), (3, 6)]), [(4, 1), (3, 6), (1, 0)]);
        assert_eq!(rows(Side::Buy, &[], &[(-1, 1)]), [(-1, 1)]);
        assert_eq!(rows(Side::Buy, &[(-1, 1)], &[]), [(-1, 0)]);
    }

    #[test]
    fn merged_changes_leave_each_level_as_the_last_one_did_and_keep_the_chain() {
        let delta = |first: u64, previous: u64, sequence: u64, rows: &[(i64, u64)]| ViewDelta {
            instrument: InstrumentId(1),
            depth: Depth::ALL,
            first_sequence: Sequence(first),
            previous_sequence: Sequence(previous),
            sequence: Sequence(sequence),
            event_time: EventTime(sequence as i64),
            levels: levels(rows).iter().map(|level| changed(Side::Buy, level)).collect(),
            checksum: Some(sequence as u32),
        };
        let merged = merge(&[
            &delta(4, 2, 5, &[(10, 1), (9, 2)]),
            &delta(6, 5, 8, &[(11, 3)]),
            &delta(9, 8, 9, &[(10, 7)]),
        ]);
        assert_eq!(merged, delta(4, 2, 9, &[(11, 3), (10, 7), (9, 2)]));
    }

    #[test]
    fn only_depths_on_offer_exist() {
        assert_eq!(Depth::new(10).map(Depth::get), Some(10));
        assert_eq!(Depth::new(0), Some(Depth::ALL));
        assert_eq!((Depth::new(7), Depth::new(65_536)), (None, None));
    }
}
