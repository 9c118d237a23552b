//! Thousands of instruments at once: copies kept by changes alone stay the books, proven by sequence chain and checksum.

mod common;

use std::collections::BTreeMap;

use common::*;
use matchtape_market::*;
use matchtape_schemas::event::Side::{Buy, Sell};
use matchtape_schemas::event::*;
use matchtape_schemas::*;

const INSTRUMENTS: u64 = 5_000;
const EVENTS: u64 = 60_000;

/// What a client keeps: levels by price, and where it stands.
#[derive(Default)]
struct Copy {
    held: Sequence,
    bids: BTreeMap<Price, (Volume, u32)>,
    asks: BTreeMap<Price, (Volume, u32)>,
}

impl Copy {
    /// The checksum as its documentation says it.
    fn checksum(&self) -> u32 {
        let mut text = String::new();
        for (price, (quantity, orders)) in self.bids.iter().rev().take(CHECKSUM_LEVELS) {
            text.push_str(&format!("buy,{price},{quantity},{orders}\n"));
        }
        for (price, (quantity, orders)) in self.asks.iter().take(CHECKSUM_LEVELS) {
            text.push_str(&format!("sell,{price},{quantity},{orders}\n"));
        }
        crc32fast::hash(text.as_bytes())
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % end
    }
}

/// Orders, cancels and trades over all instruments.
fn flow() -> Vec<Event> {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut open: Vec<(u64, u32)> = Vec::new();
    let mut events = Vec::new();
    for number in 1..=EVENTS {
        let instrument = 1 + random.below(INSTRUMENTS) as u32;
        let event = match random.below(10) {
            0..=5 => {
                let side = if random.below(2) == 0 { Buy } else { Sell };
                let away = random.below(40) as i64;
                let cents = if side == Buy { 1_000 - away } else { 1_001 + away };
                open.push((number, instrument));
                accepted(
                    number,
                    side,
                    &Price::from_units(cents * 10_000_000).to_string(),
                    1 + random.below(9),
                )
            }
            6..=8 if !open.is_empty() => {
                let (id, of_instrument) = open[random.below(open.len() as u64) as usize];
                events.push(of(cancelled(id, 1 + random.below(9)), of_instrument));
                continue;
            }
            _ => traded(1 + random.below(number), 1 + random.below(number), "10", 1 + random.below(4)),
        };
        events.push(of(event, instrument));
    }
    events
}

#[test]
fn copies_of_five_thousand_books_are_kept_by_changes_alone_and_a_lost_change_is_noticed() {
    let mut books = Books::new();
    books.watch();
    let mut copies: BTreeMap<InstrumentId, Copy> = BTreeMap::new();
    let (mut changes, mut noticed, mut lost) = (0u64, 0u64, 0u64);
    Tape::of(&flow()).each(|event| {
        books.apply(event);
        for change in books.take_changes() {
            changes += 1;
            let copy = copies.entry(change.instrument).or_default();
            // Every 1000th is lost on the way; the next one of that book does not continue what is held.
            if changes.is_multiple_of(1_000) {
                lost += 1;
                continue;
            }
            if change.previous_sequence != copy.held {
                noticed += 1;
                let book = books.get(change.instrument).unwrap();
                let side = |side| {
                    book.levels(side).map(|level| (level.price, (level.quantity, level.orders))).collect()
                };
                (copy.bids, copy.asks) = (side(Buy), side(Sell));
            } else {
                for level in &change.levels {
                    let side = if level.side == Buy { &mut copy.bids } else { &mut copy.asks };
                    if level.orders == 0 {
                        side.remove(&level.price);
                    } else {
                        side.insert(level.price, (level.quantity, level.orders));
                    }
                }
            }
            copy.held = change.last_sequence;
            let book = books.get(change.instrument).unwrap();
            assert_eq!(copy.checksum(), book_checksum(book), "{} at {}", change.instrument, copy.held);
        }
    });
    assert!(copies.len() > 4_900, "{} instruments", copies.len());
    assert!(lost > 20 && noticed > lost / 2 && noticed <= lost, "{lost} lost, {noticed} noticed");
    // What is not noticed yet is a book without a change since; its checksum tells.
    let stale = copies.iter().filter(|(id, copy)| copy.checksum() != book_checksum(books.get(**id).unwrap()));
    assert!(stale.count() as u64 <= lost - noticed);

    // As one section: all of them, or some of them, come back.
    let mut section = Vec::new();
    books.save(&mut section);
    let mut restored = Books::new();
    restored.restore(&section).unwrap();
    let some = [InstrumentId(17), InstrumentId(4_711)];
    let mut few = Books::only(&some);
    few.restore(&section).unwrap();
    assert_eq!(few.iter().map(|(id, _)| id).collect::<Vec<_>>(), some);
    for (id, book) in books.iter() {
        assert_eq!(restored.get(id).map(book_checksum), Some(book_checksum(book)));
    }
    for id in some {
        assert_eq!(few.get(id).map(book_checksum), books.get(id).map(book_checksum));
    }
}
