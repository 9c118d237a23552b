//! One event as one JSON object, per channel.

use matchtape_client::EventRow;
use matchtape_schemas::event::{EventFlags, Side};
use matchtape_schemas::{BodyRef, EventRef, Price, Quantity};

use super::json::Json;
use super::{MBO_KINDS, Symbols};

/// The fields every item begins with.
fn begin<'a>(out: &'a mut String, event: &EventRef<'_>, symbols: &Symbols) -> Json<'a> {
    let mut item = Json::object(out);
    item.number("sequence", event.sequence().get());
    if event.instrument().get() != 0 {
        symbols.push(item.key("instrument"), event.instrument());
    }
    item.id("event_time", event.event_time().get()).word("kind", event.kind().name());
    item
}

fn flags(item: &mut Json<'_>, event: &EventRef<'_>) {
    for (flag, name) in [
        (EventFlags::LATE, "late"),
        (EventFlags::REPORTS_ONLY, "reports_only"),
        (EventFlags::SNAPSHOT, "snapshot"),
    ] {
        if event.flags().contains(flag) {
            item.flag(name, true);
        }
    }
}

fn some_id(item: &mut Json<'_>, name: &str, id: u64) {
    if id != 0 {
        item.id(name, id);
    }
}

/// Appends the item of the `trades` channel, if the event is a trade or takes one back.
pub(crate) fn trade_item(out: &mut String, event: &EventRef<'_>, symbols: &Symbols) -> bool {
    match event.body() {
        BodyRef::TradeMatched(trade) => {
            let mut item = begin(out, event, symbols);
            item.price("price", trade.price.get()).units("quantity", trade.quantity.get().units());
            item.word("aggressor", trade.aggressor.get().name());
            some_id(&mut item, "trade_id", trade.trade_id.get().get());
            some_id(&mut item, "buy_order_id", trade.buy_order_id.get().get());
            some_id(&mut item, "sell_order_id", trade.sell_order_id.get().get());
            some_id(&mut item, "venue_sequence", trade.venue_sequence.get().get());
            flags(&mut item, event);
            item.close();
            true
        }
        BodyRef::TradeBusted(bust) => {
            let mut item = begin(out, event, symbols);
            item.price("price", bust.price.get()).units("quantity", bust.quantity.get().units());
            item.number("trade_sequence", bust.trade_sequence.get().get());
            some_id(&mut item, "trade_id", bust.trade_id.get().get());
            flags(&mut item, event);
            item.close();
            true
        }
        _ => false,
    }
}

/// Appends the item of the `mbo` channel, if the event can change a book. `last`: no other event of this instrument
/// follows in the group, so the book may be looked at.
pub(crate) fn mbo_item(out: &mut String, event: &EventRef<'_>, symbols: &Symbols, last: bool) -> bool {
    if !MBO_KINDS.contains(event.kind()) {
        return false;
    }
    let mut item = begin(out, event, symbols);
    book_fields(&mut item, event);
    flags(&mut item, event);
    item.flag("last", last).close();
    true
}

/// Appends the item of the `tape` channel: the same row as `/v1/events` has, every event without what is private.
pub(crate) fn tape_item(out: &mut String, event: &EventRef<'_>, symbols: &Symbols) {
    let row = EventRow::public(event, symbols.get(event.instrument()));
    out.push_str(&serde_json::to_string(&row).expect("a flat row of texts and numbers is JSON"));
}

/// Appends what an event of the `mbo` channel says about the book.
fn book_fields(item: &mut Json<'_>, event: &EventRef<'_>) {
    match event.body() {
        BodyRef::OrderAccepted(order) => {
            item.id("order_id", order.order_id.get().get());
            level_fields(item, order.side.get(), order.price.get(), order.quantity.get());
            item.word("order_type", order.order_type.get().name());
        }
        BodyRef::OrderReplaced(order) => {
            item.id("order_id", order.order_id.get().get());
            level_fields(item, order.side.get(), order.price.get(), order.quantity.get());
            if order.new_order_id.get() != order.order_id.get() {
                some_id(item, "new_order_id", order.new_order_id.get().get());
            }
        }
        BodyRef::OrderCancelled(order) => {
            item.id("order_id", order.order_id.get().get());
            level_fields(item, order.side.get(), order.price.get(), order.quantity.get());
            item.word("cancel_reason", order.reason.get().name());
        }
        BodyRef::OrderExecuted(order) => {
            item.id("order_id", order.order_id.get().get());
            level_fields(item, order.side.get(), order.price.get(), order.quantity.get());
            some_id(item, "trade_id", order.trade_id.get().get());
        }
        BodyRef::TradeMatched(trade) => {
            item.price("price", trade.price.get()).units("quantity", trade.quantity.get().units());
            item.word("aggressor", trade.aggressor.get().name());
            some_id(item, "trade_id", trade.trade_id.get().get());
            some_id(item, "buy_order_id", trade.buy_order_id.get().get());
            some_id(item, "sell_order_id", trade.sell_order_id.get().get());
        }
        BodyRef::TradingStatusChanged(change) => {
            item.word("trading_status", change.status.get().name());
        }
        BodyRef::BookCleared(_) => {}
        BodyRef::OrderRejected(_)
        | BodyRef::TradeBusted(_)
        | BodyRef::InstrumentDefined(_)
        | BodyRef::SessionOpened(_)
        | BodyRef::SessionClosed(_)
        | BodyRef::AccountOpened(_)
        | BodyRef::AccountChanged(_)
        | BodyRef::PositionChanged(_)
        | BodyRef::StateSet(_)
        | BodyRef::StateDeleted(_)
        | BodyRef::EpochStarted(_)
        | BodyRef::EpochEnded(_)
        | BodyRef::TimeAdvanced(_) => unreachable!("not among MBO_KINDS"),
    }
}

fn level_fields(item: &mut Json<'_>, side: Side, price: Price, quantity: Quantity) {
    item.word("side", side.name()).price("price", price).units("quantity", quantity.units());
}
