//! Books as JSON: snapshots in parts and changes.

use matchtape_market::{BookOrder, Level, LevelChange};
use matchtape_schemas::event::Side;
use matchtape_schemas::{InstrumentId, Sequence};

use super::Symbols;
use super::json::{Json, push_price, push_units};
use crate::feed::{Depth, ViewDelta};

/// Levels or orders in one part of a snapshot: about 32 KiB of text.
const BOOK_PART_LEVELS: usize = 800;

/// Appends a level as `[price, quantity, orders]`.
pub(crate) fn push_level(out: &mut String, price: matchtape_schemas::Price, quantity: u128, orders: u32) {
    out.push('[');
    push_price(out, price);
    out.push(',');
    push_units(out, quantity);
    out.push(',');
    out.push_str(&orders.to_string());
    out.push(']');
}

/// Appends a list whose items `push` writes.
pub(crate) fn push_levels<T>(
    out: &mut String,
    levels: impl Iterator<Item = T>,
    push: impl Fn(&mut String, T),
) {
    out.push('[');
    for (place, level) in levels.enumerate() {
        if place > 0 {
            out.push(',');
        }
        push(out, level);
    }
    out.push(']');
}

/// Appends one change of a book. `merged`: how many changes it stands for, when more than one.
pub(crate) fn book_delta(out: &mut String, delta: &ViewDelta, symbols: &Symbols, merged: usize) {
    let mut item = Json::object(out);
    item.word("type", "delta");
    symbols.push(item.key("instrument"), delta.instrument);
    item.number("depth", delta.depth.get().into());
    item.number("first_sequence", delta.first_sequence.get());
    item.number("previous_sequence", delta.previous_sequence.get());
    item.number("sequence", delta.sequence.get());
    item.id("event_time", delta.event_time.get());
    for (side, key) in [(Side::Buy, "bids"), (Side::Sell, "asks")] {
        let levels = delta.levels.iter().filter(|level| level.side == side);
        push_levels(item.key(key), levels, |out, level: &LevelChange| {
            push_level(out, level.price, level.quantity.units(), level.orders);
        });
    }
    if let Some(checksum) = delta.checksum {
        item.number("checksum", checksum.into());
    }
    if merged > 1 {
        item.number("conflated", merged as u64);
    }
    item.close();
}

/// What a snapshot's parts share.
pub(crate) struct SnapshotHead<'a> {
    pub(crate) instrument: InstrumentId,
    pub(crate) symbols: &'a Symbols,
    pub(crate) sequence: Sequence,
    /// Whether it replaces changes that this client was too slow for.
    pub(crate) conflated: bool,
}

impl SnapshotHead<'_> {
    fn begin<'o>(&self, out: &'o mut String, part: usize, parts: usize) -> Json<'o> {
        let mut item = Json::object(out);
        item.word("type", "snapshot");
        self.symbols.push(item.key("instrument"), self.instrument);
        item.number("sequence", self.sequence.get());
        item.number("part", part as u64 + 1).flag("last", part + 1 == parts);
        if self.conflated {
            item.flag("conflated", true);
        }
        item
    }
}

/// A book by level, in parts; the last is flagged. An empty book is one empty part.
pub(crate) fn book_snapshot_parts(
    head: &SnapshotHead<'_>,
    depth: Depth,
    bids: &[Level],
    asks: &[Level],
    checksum: Option<u32>,
) -> Vec<String> {
    let rows: Vec<(Side, &Level)> = bids
        .iter()
        .map(|level| (Side::Buy, level))
        .chain(asks.iter().map(|level| (Side::Sell, level)))
        .collect();
    let parts = rows.len().div_ceil(BOOK_PART_LEVELS).max(1);
    (0..parts)
        .map(|part| {
            let from = part * BOOK_PART_LEVELS;
            let rows = &rows[from..rows.len().min(from + BOOK_PART_LEVELS)];
            let mut out = String::with_capacity(128 + 40 * rows.len());
            let mut item = head.begin(&mut out, part, parts);
            item.number("depth", depth.get().into());
            for (side, key) in [(Side::Buy, "bids"), (Side::Sell, "asks")] {
                let levels = rows.iter().filter(|(of, _)| *of == side);
                push_levels(item.key(key), levels, |out, (_, level)| {
                    push_level(out, level.price, level.quantity.units(), level.orders);
                });
            }
            if let (Some(checksum), true) = (checksum, part + 1 == parts) {
                item.number("checksum", checksum.into());
            }
            item.close();
            out
        })
        .collect()
}

/// A book by order, best level first and in each first come first, in parts; the last is flagged.
pub(crate) fn mbo_snapshot_parts(head: &SnapshotHead<'_>, orders: &[BookOrder]) -> Vec<String> {
    let parts = orders.len().div_ceil(BOOK_PART_LEVELS).max(1);
    (0..parts)
        .map(|part| {
            let from = part * BOOK_PART_LEVELS;
            let orders = &orders[from..orders.len().min(from + BOOK_PART_LEVELS)];
            let mut out = String::with_capacity(128 + 96 * orders.len());
            let mut item = head.begin(&mut out, part, parts);
            push_levels(item.key("orders"), orders.iter(), |out, order| {
                let mut row = Json::object(out);
                row.id("order_id", order.order_id.get()).word("side", order.side.name());
                row.price("price", order.price).units("quantity", order.quantity.units()).close();
            });
            item.close();
            out
        })
        .collect()
}
