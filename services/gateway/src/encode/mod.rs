//! Events and books as JSON text. Pure: the same event gives the same text, live, replayed or queried.
//!
//! Prices and quantities are decimal strings, times are nanoseconds since 1970 UTC as strings, sequences are numbers,
//! every other 64-bit id is a string. Nothing private is ever written here: no account, no client order id.

mod book;
mod event;
mod json;
mod latest;

pub(crate) use book::{
    SnapshotHead, book_delta, book_snapshot_parts, mbo_snapshot_parts, push_level, push_levels,
};
pub(crate) use event::{mbo_item, tape_item, trade_item};
pub(crate) use json::{Json, push_text};
pub(crate) use latest::{
    Cause, bbo_item, candle_item, push_conflated, recount_item, status_item, status_snapshot, ticker_item,
};

use matchtape_market::{Instrument, Instruments};
use matchtape_schemas::{InstrumentId, KindMask};
use rustc_hash::FxHashMap;

/// Kinds that the `mbo` channel shows.
pub(crate) const MBO_KINDS: KindMask = {
    use matchtape_schemas::Kind;
    KindMask::of(&[
        Kind::OrderAccepted,
        Kind::OrderReplaced,
        Kind::OrderCancelled,
        Kind::OrderExecuted,
        Kind::TradeMatched,
        Kind::BookCleared,
        Kind::TradingStatusChanged,
    ])
};

/// Every instrument's symbol, and the same as JSON.
#[derive(Clone, Debug, Default)]
pub(crate) struct Symbols {
    by_id: FxHashMap<InstrumentId, (String, String)>,
}

impl Symbols {
    pub(crate) fn of(instruments: &Instruments) -> Self {
        let mut symbols = Self::default();
        instruments.iter().for_each(|instrument| symbols.define(instrument));
        symbols
    }

    pub(crate) fn define(&mut self, instrument: &Instrument) {
        let symbol = instrument.definition.symbol.as_str().into_owned();
        let mut quoted = String::new();
        push_text(&mut quoted, &symbol);
        self.by_id.insert(instrument.id, (symbol, quoted));
    }

    /// The symbol, if the instrument was ever defined.
    pub(crate) fn get(&self, instrument: InstrumentId) -> Option<&str> {
        self.by_id.get(&instrument).map(|(symbol, _)| symbol.as_str())
    }

    /// Appends the symbol as JSON; the id, also as a string, where the instrument was never defined.
    pub(crate) fn push(&self, out: &mut String, instrument: InstrumentId) {
        match self.by_id.get(&instrument) {
            Some((_, quoted)) => out.push_str(quoted),
            None => push_text(out, &instrument.to_string()),
        }
    }
}
