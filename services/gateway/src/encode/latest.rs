//! What the channels of current state send: the best prices, tickers, trading status and candles as they are now. Each item
//! is the whole state, so that a later one stands for all before it.

use matchtape_client::{CandleRow, TickerRow};
use matchtape_market::{Candle, Level, Ticker};
use matchtape_schemas::event::TradingStatus;
use matchtape_schemas::{BodyRef, EventRef, EventTime, InstrumentId, Sequence};

use super::Symbols;
use super::json::{Json, push_text};

/// Why an item is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Something changed.
    Change,
    /// A subscription begins.
    Snapshot,
    /// A subscription goes on after changes that were passed over.
    Conflated,
}

impl Cause {
    fn push(self, item: &mut Json<'_>) {
        match self {
            Self::Change => {}
            Self::Snapshot => drop(item.flag("snapshot", true)),
            Self::Conflated => drop(item.flag("conflated", true)),
        }
    }
}

/// Appends to an item, which is one JSON object, how many changes it stands for.
pub(crate) fn push_conflated(out: &mut String, item: &str, changes: usize) {
    out.push_str(item.strip_suffix('}').expect("an item is an object"));
    out.push_str(&format!(",\"conflated\":{changes}}}"));
}

fn begin<'a>(
    out: &'a mut String,
    kind: &str,
    instrument: InstrumentId,
    sequence: Sequence,
    symbols: &Symbols,
) -> Json<'a> {
    let mut item = Json::object(out);
    item.word("type", kind);
    symbols.push(item.key("instrument"), instrument);
    item.number("sequence", sequence.get());
    item
}

/// The best bid and offer of an instrument; a side without orders is left out.
pub(crate) fn bbo_item(
    out: &mut String,
    (instrument, [bid, ask]): (InstrumentId, [Option<Level>; 2]),
    sequence: Sequence,
    event_time: Option<EventTime>,
    symbols: &Symbols,
    cause: Cause,
) {
    let mut item = begin(out, "bbo", instrument, sequence, symbols);
    if let Some(time) = event_time {
        item.id("event_time", time.get());
    }
    let mut side = |best, names: [&str; 3]| {
        if let Some(Level { price, quantity, orders }) = best {
            item.price(names[0], price).units(names[1], quantity.units()).number(names[2], orders.into());
        }
    };
    side(bid, ["bid", "bid_quantity", "bid_orders"]);
    side(ask, ["ask", "ask_quantity", "ask_orders"]);
    cause.push(&mut item);
    item.close();
}

/// Appends the fields of a row, but for those the item has already.
fn push_row(item: &mut Json<'_>, row: &impl serde::Serialize) {
    let serde_json::Value::Object(fields) = serde_json::to_value(row).expect("a flat row is JSON") else {
        unreachable!("a row is an object")
    };
    for (name, value) in fields {
        if name != "instrument" && name != "sequence" {
            item.key(&name).push_str(&value.to_string());
        }
    }
}

/// A ticker as of a position.
pub(crate) fn ticker_item(
    out: &mut String,
    ticker: &Ticker,
    sequence: Sequence,
    symbols: &Symbols,
    cause: Cause,
) {
    let mut item = begin(out, "ticker", ticker.instrument, sequence, symbols);
    push_row(&mut item, &TickerRow::new(ticker, ""));
    cause.push(&mut item);
    item.close();
}

/// A change of what may be done in an instrument.
pub(crate) fn status_item(out: &mut String, event: &EventRef<'_>, symbols: &Symbols) -> bool {
    let BodyRef::TradingStatusChanged(change) = event.body() else { return false };
    let mut item = begin(out, "status", event.instrument(), event.sequence(), symbols);
    item.id("event_time", event.event_time().get());
    item.word("trading_status", change.status.get().name());
    item.close();
    true
}

/// What may be done in an instrument as of a position.
pub(crate) fn status_snapshot(
    out: &mut String,
    (instrument, status): (InstrumentId, TradingStatus),
    sequence: Sequence,
    symbols: &Symbols,
) {
    let mut item = begin(out, "status", instrument, sequence, symbols);
    item.word("trading_status", status.name());
    Cause::Snapshot.push(&mut item);
    item.close();
}

/// A candle as it is now.
pub(crate) fn candle_item(
    out: &mut String,
    instrument: InstrumentId,
    interval_ns: i64,
    (candle, complete_from): (&Candle, Option<EventTime>),
    sequence: Sequence,
    symbols: &Symbols,
    cause: Cause,
) {
    let mut item = begin(out, "candle", instrument, sequence, symbols);
    item.id("interval_ns", interval_ns);
    if let Some(time) = complete_from {
        item.id("complete_from_time", time.get());
    }
    push_row(&mut item, &CandleRow::new(candle));
    cause.push(&mut item);
    item.close();
}

/// Candles before the current one are not what they were: a late trade came for one, or a trade was taken back.
pub(crate) fn recount_item(
    out: &mut String,
    instrument: InstrumentId,
    interval_ns: i64,
    start: Option<EventTime>,
    sequence: Sequence,
    symbols: &Symbols,
) {
    let mut item = begin(out, "recount", instrument, sequence, symbols);
    item.id("interval_ns", interval_ns);
    if let Some(start) = start {
        item.id("start", start.get());
    }
    let mut what = String::new();
    push_text(&mut what, "ask /v1/candles for what is before the current candle");
    item.key("what_to_do").push_str(&what);
    item.close();
}
