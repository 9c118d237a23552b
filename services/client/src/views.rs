//! Rows of the market views: trades, orders, levels of a book, candles.

use matchtape_market::{Candle, Level, OrderState, OrderStatus, Trade, Volume};
use matchtape_schemas::event::Side;
use matchtape_schemas::{
    AccountId, EventTime, Notional, OrderId, Price, Quantity, Sequence, TradeId, VenueSequence,
};

use crate::row::row;

row! {
    /// A trade.
    TradeRow, table: [sequence event_time instrument price quantity aggressor trade_id buy_order_id sell_order_id venue_sequence] {
        /// Its position.
        sequence: number Sequence,
        /// When it happened, ns since 1970 UTC.
        event_time: text EventTime,
        /// The instrument's symbol.
        instrument: text String,
        /// At which price.
        price: maybe Price,
        /// How much.
        quantity: text Quantity,
        /// The side that arrived; `none` in an auction.
        aggressor: text Side,
        /// Its number at the venue.
        trade_id: maybe TradeId,
        /// The buying order.
        buy_order_id: maybe OrderId,
        /// The selling order.
        sell_order_id: maybe OrderId,
        /// The venue's number for the record.
        venue_sequence: text VenueSequence,
        /// `true` if the trade was taken back later on.
        busted: maybe bool,
    }
}

row! {
    /// An order as it stands at a position.
    OrderRow, table: [instrument order_id side price quantity status accepted executed cancelled first_sequence last_sequence] {
        /// The instrument's symbol.
        instrument: text String,
        /// Its number.
        order_id: text OrderId,
        /// Its side.
        side: text Side,
        /// Its limit.
        price: maybe Price,
        /// What is left of it.
        quantity: text Quantity,
        /// `open`, `filled`, `cancelled`, `cleared` or `rejected`.
        status: text OrderStatus,
        /// With how much it entered.
        accepted: text Quantity,
        /// What was executed of it after it entered.
        executed: text Volume,
        /// What left the book unexecuted.
        cancelled: text Volume,
        /// How often it was replaced.
        replaced: number u64,
        /// The position of its first event.
        first_sequence: number Sequence,
        /// The position of its last event.
        last_sequence: number Sequence,
        /// When it entered, ns since 1970 UTC.
        entered_at: text EventTime,
        /// When its last event was, ns since 1970 UTC.
        changed_at: text EventTime,
        /// Its owner; private.
        account: maybe AccountId,
    }
}

row! {
    /// A level of a book.
    LevelRow, table: [side price quantity orders] {
        /// Its side.
        side: text Side,
        /// Its price.
        price: text Price,
        /// What its orders have left.
        quantity: text Volume,
        /// How many orders.
        orders: number u32,
    }
}

row! {
    /// A candle.
    CandleRow, table: [start open high low close volume notional trades] {
        /// Where its interval starts, ns since 1970 UTC.
        start: text EventTime,
        /// The first trade's price.
        open: maybe Price,
        /// The highest price.
        high: maybe Price,
        /// The lowest price.
        low: maybe Price,
        /// The last trade's price.
        close: maybe Price,
        /// Sum of quantities.
        volume: text Volume,
        /// Sum of price times quantity.
        notional: text Notional,
        /// How many trades.
        trades: number u64,
        /// The part of the volume that buyers initiated.
        buy_volume: text Volume,
        /// The part of the volume that sellers initiated.
        sell_volume: text Volume,
    }
}

pub(crate) fn some_price(price: Price) -> Option<Price> {
    (!price.is_none()).then_some(price)
}

pub(crate) fn some_account(account: AccountId) -> Option<AccountId> {
    (account != AccountId(0)).then_some(account)
}

pub(crate) fn some_order(order_id: OrderId) -> Option<OrderId> {
    (order_id != OrderId(0)).then_some(order_id)
}

pub(crate) fn some_trade(trade_id: TradeId) -> Option<TradeId> {
    (trade_id != TradeId(0)).then_some(trade_id)
}

impl TradeRow {
    /// The row of a trade; `busted`: it was taken back.
    pub fn new(trade: &Trade, symbol: &str, busted: bool) -> Self {
        Self {
            sequence: trade.sequence,
            event_time: trade.event_time,
            instrument: symbol.to_owned(),
            price: some_price(trade.price),
            quantity: trade.quantity,
            aggressor: trade.aggressor,
            trade_id: some_trade(trade.trade_id),
            buy_order_id: some_order(trade.buy_order_id),
            sell_order_id: some_order(trade.sell_order_id),
            venue_sequence: trade.venue_sequence,
            busted: busted.then_some(true),
        }
    }
}

impl OrderRow {
    /// The row of an order.
    pub fn new(state: &OrderState, symbol: &str) -> Self {
        Self {
            instrument: symbol.to_owned(),
            order_id: state.order_id,
            side: state.side,
            price: some_price(state.price),
            quantity: state.left,
            status: state.status,
            accepted: state.accepted,
            executed: state.executed,
            cancelled: state.cancelled,
            replaced: state.replaced,
            first_sequence: state.first_sequence,
            last_sequence: state.last_sequence,
            entered_at: state.entered_at,
            changed_at: state.changed_at,
            account: some_account(state.account),
        }
    }
}

impl OrderRow {
    /// The row as anybody may see it: without its owner.
    pub fn public(state: &OrderState, symbol: &str) -> Self {
        Self { account: None, ..Self::new(state, symbol) }
    }
}

impl LevelRow {
    /// The row of a level.
    pub fn new(side: Side, level: &Level) -> Self {
        Self { side, price: level.price, quantity: level.quantity, orders: level.orders }
    }
}

impl CandleRow {
    /// The row of a candle.
    pub fn new(candle: &Candle) -> Self {
        let summary = &candle.summary;
        Self {
            start: candle.start,
            open: some_price(summary.open),
            high: some_price(summary.high),
            low: some_price(summary.low),
            close: some_price(summary.close),
            volume: summary.volume,
            notional: summary.notional,
            trades: summary.trades,
            buy_volume: summary.buy_volume,
            sell_volume: summary.sell_volume,
        }
    }
}
