//! Which columns an event of each kind has in an analytical file: one list, walked both for the schema and for the values, so
//! that the two cannot disagree.
//!
//! What is not there is null where a reader keeps nulls exactly (times, prices, texts). Whole numbers are never null, zero
//! means "none" as on the tape: a nullable 64-bit number would become a float in pandas, and an order id lose its last digits.

use matchtape_schemas::event::{EventFlags, TradeMatched};
use matchtape_schemas::text::Text;
use matchtape_schemas::{
    AccountId, Body, EventRef, InstrumentId, Kind, OrderId, Price, Quantity, ReceiveTime, VenueSequence,
};

/// One value of a column; its variant is the column's type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    U64(u64),
    U32(u32),
    U16(u16),
    U8(u8),
    I32(i32),
    /// Nanoseconds since 1970 UTC.
    Time(Option<i64>),
    /// Signed units of 1e-9.
    Signed(Option<i64>),
    /// Units of 1e-9.
    Unsigned(u64),
    /// One of a few names.
    Choice(&'static str),
    Text(Option<&'a str>),
    Bytes(&'a [u8]),
    Flag(bool),
}

/// Takes the columns of one event, in order.
pub(super) trait Columns {
    fn put(&mut self, name: &'static str, value: Value<'_>);

    fn text<const N: usize>(&mut self, name: &'static str, text: &Text<N>) {
        let text = text.as_str();
        self.put(name, Value::Text((!text.is_empty()).then_some(&*text)));
    }

    fn price(&mut self, name: &'static str, price: Price) {
        self.put(name, Value::Signed((!price.is_none()).then(|| price.units())));
    }

    fn quantity(&mut self, name: &'static str, quantity: Quantity) {
        self.put(name, Value::Unsigned(quantity.units()));
    }

    /// The record's own number and times, which most kinds carry.
    fn record(&mut self, venue_sequence: VenueSequence, receive_time: ReceiveTime, send_delay_ns: i32) {
        self.put("venue_sequence", Value::U64(venue_sequence.0));
        self.put("receive_time", Value::Time(some_time(receive_time.0)));
        self.put("send_delay_ns", Value::I32(send_delay_ns));
    }

    /// The order concerned.
    fn order(
        &mut self,
        order: OrderId,
        side: &'static str,
        price: Price,
        quantity: Quantity,
        owner: AccountId,
    ) {
        self.put("order_id", Value::U64(order.0));
        self.put("side", Value::Choice(side));
        self.price("price", price);
        self.quantity("quantity", quantity);
        self.put("account", Value::U64(owner.0));
    }
}

/// Zero and the least time of all stand for none.
fn some_time(ns: i64) -> Option<i64> {
    (ns != 0 && ns != i64::MIN).then_some(ns)
}

/// The columns that every kind has, then the kind's own. `symbol` is what the instrument is called.
pub(super) fn of_event(event: &EventRef<'_>, symbol: Option<&str>, out: &mut impl Columns) {
    let header = event.header();
    out.put("sequence", Value::U64(event.sequence().0));
    out.put("epoch", Value::U64(event.epoch().0));
    out.put("accepted_time", Value::Time(some_time(event.accepted_time().0)));
    out.put("event_time", Value::Time(some_time(header.event_time.0)));
    of_header(header.instrument, symbol, header.producer.0, header.producer_sequence.0, out);
    of_flags(header.flags, header.venue_flags, out);
    of_body(&event.to_event().body, out);
}

/// The names and types of a kind's columns, as some event of it.
pub(super) fn of_kind(kind: Kind, out: &mut impl Columns) {
    out.put("sequence", Value::U64(0));
    out.put("epoch", Value::U64(0));
    out.put("accepted_time", Value::Time(None));
    out.put("event_time", Value::Time(None));
    of_header(InstrumentId(0), None, 0, 0, out);
    of_flags(EventFlags::NONE, 0, out);
    of_body(&empty(kind), out);
}

fn of_header(
    instrument: InstrumentId,
    symbol: Option<&str>,
    producer: u32,
    producer_sequence: u64,
    out: &mut impl Columns,
) {
    out.put("instrument", Value::Text(symbol));
    out.put("instrument_id", Value::U32(instrument.0));
    out.put("producer", Value::U32(producer));
    out.put("producer_sequence", Value::U64(producer_sequence));
}

fn of_flags(flags: EventFlags, venue_flags: u8, out: &mut impl Columns) {
    out.put("last_of_group", Value::Flag(flags.contains(EventFlags::LAST_OF_GROUP)));
    out.put("late", Value::Flag(flags.contains(EventFlags::LATE)));
    out.put("reports_only", Value::Flag(flags.contains(EventFlags::REPORTS_ONLY)));
    out.put("snapshot", Value::Flag(flags.contains(EventFlags::SNAPSHOT)));
    out.put("venue_flags", Value::U8(venue_flags));
}

/// A payload of the kind with nothing in it.
fn empty(kind: Kind) -> Body {
    macro_rules! defaults {
        ($($kind:ident)*) => {
            match kind {
                $(Kind::$kind => Body::$kind(Default::default()),)*
            }
        };
    }
    defaults! {
        OrderAccepted OrderRejected OrderReplaced OrderCancelled OrderExecuted TradeMatched TradeBusted
        InstrumentDefined TradingStatusChanged BookCleared SessionOpened SessionClosed AccountOpened AccountChanged
        PositionChanged StateSet StateDeleted EpochStarted EpochEnded TimeAdvanced
    }
}

fn of_body(body: &Body, out: &mut impl Columns) {
    match body {
        Body::OrderAccepted(order) => {
            out.order(order.order_id, order.side.name(), order.price, order.quantity, order.account);
            out.text("client_order_id", &order.client_order_id);
            out.put("order_type", Value::Choice(order.order_type.name()));
            out.put("time_in_force", Value::Choice(order.time_in_force.name()));
            out.record(order.venue_sequence, order.receive_time, order.send_delay_ns);
        }
        Body::OrderRejected(order) => {
            out.order(order.order_id, order.side.name(), order.price, order.quantity, order.account);
            out.text("client_order_id", &order.client_order_id);
            out.put("reject_reason", Value::Choice(order.reason.name()));
            out.record(order.venue_sequence, order.receive_time, order.send_delay_ns);
        }
        Body::OrderReplaced(order) => {
            out.order(order.order_id, order.side.name(), order.price, order.quantity, order.account);
            out.put("new_order_id", Value::U64(order.new_order_id.0));
            out.text("client_order_id", &order.client_order_id);
            out.record(order.venue_sequence, order.receive_time, order.send_delay_ns);
        }
        Body::OrderCancelled(order) => {
            out.order(order.order_id, order.side.name(), order.price, order.quantity, order.account);
            out.put("cancel_reason", Value::Choice(order.reason.name()));
            out.record(order.venue_sequence, order.receive_time, order.send_delay_ns);
        }
        Body::OrderExecuted(order) => {
            out.order(order.order_id, order.side.name(), order.price, order.quantity, order.account);
            out.put("trade_id", Value::U64(order.trade_id.0));
            out.quantity("leaves_quantity", order.leaves_quantity);
            out.put("liquidity", Value::Choice(order.liquidity.name()));
            out.record(order.venue_sequence, order.receive_time, order.send_delay_ns);
        }
        Body::TradeMatched(trade) => of_trade(trade, out),
        Body::TradeBusted(trade) => {
            out.put("trade_id", Value::U64(trade.trade_id.0));
            out.price("price", trade.price);
            out.quantity("quantity", trade.quantity);
            out.put("trade_sequence", Value::U64(trade.trade_sequence.0));
            out.record(trade.venue_sequence, trade.receive_time, trade.send_delay_ns);
        }
        Body::InstrumentDefined(instrument) => {
            out.text("symbol", &instrument.symbol);
            out.text("name", &instrument.name);
            out.put("venue_instrument_id", Value::U64(instrument.venue_instrument_id));
            out.price("price_increment", instrument.price_increment);
            out.quantity("quantity_increment", instrument.quantity_increment);
            out.put("expires", Value::Time(some_time(instrument.expires.0)));
            out.text("currency", &instrument.currency);
            out.text("venue", &instrument.venue);
            out.put("publisher", Value::U16(instrument.publisher));
            out.put("channel", Value::U16(instrument.channel));
            out.put("instrument_class", Value::Choice(instrument.class.name()));
        }
        Body::TradingStatusChanged(change) => {
            out.put("trading_status", Value::Choice(change.status.name()));
            out.record(change.venue_sequence, change.receive_time, change.send_delay_ns);
        }
        Body::BookCleared(cleared) => {
            out.record(cleared.venue_sequence, cleared.receive_time, cleared.send_delay_ns);
        }
        Body::SessionOpened(session) => {
            out.put("trading_day", Value::U32(session.trading_day));
            out.put("session", Value::U32(session.session));
        }
        Body::SessionClosed(session) => {
            out.put("trading_day", Value::U32(session.trading_day));
            out.put("session", Value::U32(session.session));
        }
        Body::AccountOpened(opened) => {
            out.put("account", Value::U64(opened.account.0));
            out.text("name", &opened.name);
            out.put("participant", Value::U32(opened.participant.0));
            out.text("participant_name", &opened.participant_name);
            out.put("account_status", Value::Choice(opened.status.name()));
        }
        Body::AccountChanged(changed) => {
            out.put("account", Value::U64(changed.account.0));
            out.put("account_status", Value::Choice(changed.status.name()));
        }
        Body::PositionChanged(changed) => {
            out.put("account", Value::U64(changed.account.0));
            out.put("change", Value::Signed(Some(changed.change)));
            out.put("position", Value::Signed(Some(changed.position)));
        }
        Body::StateSet(set) => {
            out.put("key", Value::Bytes(set.key()));
            out.put("value", Value::Bytes(set.value()));
        }
        Body::StateDeleted(deleted) => out.put("key", Value::Bytes(deleted.key())),
        Body::EpochStarted(started) => {
            out.put("term", Value::U64(started.epoch.0));
            out.put("previous_epoch", Value::U64(started.previous_epoch.0));
            out.put("previous_last_sequence", Value::U64(started.previous_last_sequence.0));
            out.put("previous_checksum", Value::U64(started.previous_checksum));
            out.put("writer_incarnation", Value::U64(started.writer_incarnation));
            out.text("node", &started.node);
            out.put("previous_segment_root", Value::Bytes(&started.previous_segment_root));
        }
        Body::EpochEnded(ended) => out.put("term", Value::U64(ended.epoch.0)),
        Body::TimeAdvanced(advanced) => {
            out.put("clock", Value::Time(some_time(advanced.accepted_time.0)));
        }
    }
}

fn of_trade(trade: &TradeMatched, out: &mut impl Columns) {
    out.put("trade_id", Value::U64(trade.trade_id.0));
    out.put("buy_order_id", Value::U64(trade.buy_order_id.0));
    out.put("sell_order_id", Value::U64(trade.sell_order_id.0));
    out.price("price", trade.price);
    out.quantity("quantity", trade.quantity);
    out.put("aggressor", Value::Choice(trade.aggressor.name()));
    out.put("buy_account", Value::U64(trade.buy_account.0));
    out.put("sell_account", Value::U64(trade.sell_account.0));
    out.record(trade.venue_sequence, trade.receive_time, trade.send_delay_ns);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    struct Names(Vec<&'static str>);

    impl Columns for Names {
        fn put(&mut self, name: &'static str, _: Value<'_>) {
            self.0.push(name);
        }
    }

    #[test]
    fn no_kind_has_two_columns_of_one_name() {
        for kind in Kind::ALL.iter().copied() {
            let mut names = Names(Vec::new());
            of_kind(kind, &mut names);
            let distinct: HashSet<&str> = names.0.iter().copied().collect();
            assert_eq!(distinct.len(), names.0.len(), "{kind}: {:?}", names.0);
            assert_eq!(names.0[0], "sequence");
        }
    }
}
