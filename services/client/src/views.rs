//! Rows of the views: trades, orders, levels of a book, candles, tickers, trading status, keyed state, accounts.

use matchtape_market::{
    Account, Candle, Instrument, Level, OrderState, OrderStatus, StateValue, Ticker, Trade, Volume,
};
use matchtape_schemas::event::{AccountStatus, Side, TradingStatus};
use matchtape_schemas::{
    AccountId, EventTime, InstrumentId, Notional, OrderId, ParticipantId, Price, Quantity, Sequence, TradeId,
    VenueSequence,
};

use crate::event_row::signed;
use crate::state::readable;

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
        venue_sequence: maybe VenueSequence,
        /// Whether the trade was taken back later on.
        busted: flag bool,
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
        /// With how much it entered; absent where that is not kept any more.
        accepted: maybe Quantity,
        /// What was executed of it after it entered, as far as that is kept.
        executed: text Volume,
        /// What left the book unexecuted.
        cancelled: text Volume,
        /// How often it was replaced.
        replaced: number u64,
        /// The position of its first event; absent where that is not kept any more.
        first_sequence: some_number Sequence,
        /// The position of its last event; likewise.
        last_sequence: some_number Sequence,
        /// When it entered, ns since 1970 UTC; likewise.
        entered_at: maybe EventTime,
        /// When its last event was, ns since 1970 UTC; likewise.
        changed_at: maybe EventTime,
        /// Its owner; private.
        account: maybe AccountId,
        /// True where it entered below retention: then `executed`, `cancelled` and `replaced` count what is kept.
        entered_below_retention: some_flag bool,
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

row! {
    /// An instrument's ticker: its last trade, and the trades of its session.
    TickerRow, table: [instrument last last_quantity last_time open high low previous_close volume notional trades trading_day] {
        /// The instrument's symbol.
        instrument: text String,
        /// The last event that changed it.
        sequence: number Sequence,
        /// The last trade's price.
        last: maybe Price,
        /// The last trade's quantity.
        last_quantity: maybe Quantity,
        /// When the last trade was, ns since 1970 UTC.
        last_time: maybe EventTime,
        /// The last trade's position.
        last_sequence: some_number Sequence,
        /// The side of the last trade that arrived; `none` in an auction.
        aggressor: maybe Side,
        /// The session's first price.
        open: maybe Price,
        /// The session's highest price.
        high: maybe Price,
        /// The session's lowest price.
        low: maybe Price,
        /// The session's last price.
        close: maybe Price,
        /// The last price of the session before.
        previous_close: maybe Price,
        /// The session's sum of quantities.
        volume: text Volume,
        /// The part of the volume that buyers initiated.
        buy_volume: text Volume,
        /// The part of the volume that sellers initiated.
        sell_volume: text Volume,
        /// The session's sum of price times quantity: its turnover.
        notional: text Notional,
        /// How many trades the session has had.
        trades: number u64,
        /// How many more were taken back, if any.
        busted: some_number u64,
        /// True where more may have been taken back that nobody can look up: the trade is not kept any more, or cannot be read.
        misses_busts: some_flag bool,
        /// The trading day as YYYYMMDD; absent where the tape has no sessions, and the session is the UTC day.
        trading_day: maybe u32,
        /// Which session of the day, from 0.
        session: some_number u32,
        /// When the session began, ns since 1970 UTC.
        session_begun: maybe EventTime,
    }
}

row! {
    /// What may be done in an instrument.
    StatusRow, table: [instrument trading_status sequence] {
        /// The instrument's symbol.
        instrument: text String,
        /// Its trading status.
        trading_status: text TradingStatus,
        /// The position of the event that made it so.
        sequence: some_number Sequence,
    }
}

row! {
    /// A key of the keyed state.
    StateRow, table: [key value bytes set_sequence event_time] {
        /// The key as text, or in hexadecimal after `0x`.
        key: text String,
        /// Its value, likewise.
        value: text String,
        /// How many bytes the value has.
        bytes: number u64,
        /// The position of the event that set it.
        set_sequence: number Sequence,
        /// When that was, ns since 1970 UTC.
        event_time: text EventTime,
    }
}

row! {
    /// An account, with one of its positions if it has any. Private.
    AccountRow, table: [account name account_status participant_name instrument position last_sequence] {
        /// Its id.
        account: text AccountId,
        /// Its name.
        name: maybe String,
        /// What it may do.
        account_status: text AccountStatus,
        /// The member firm.
        participant: maybe ParticipantId,
        /// The member firm's name.
        participant_name: maybe String,
        /// The position's instrument; absent for cash.
        instrument: maybe String,
        /// How much it has of that.
        position: maybe String,
        /// The last event that changed the position, or the account if it has none.
        last_sequence: number Sequence,
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
            venue_sequence: (trade.venue_sequence != VenueSequence(0)).then_some(trade.venue_sequence),
            busted,
        }
    }
}

impl OrderRow {
    /// The row of an order.
    pub fn new(state: &OrderState, symbol: &str) -> Self {
        let entered = !state.entered_before;
        let changed = state.last_sequence > state.first_sequence || entered;
        Self {
            instrument: symbol.to_owned(),
            order_id: state.order_id,
            side: state.side,
            price: some_price(state.price),
            quantity: state.left,
            status: state.status,
            accepted: entered.then_some(state.accepted),
            executed: state.executed,
            cancelled: state.cancelled,
            replaced: state.replaced,
            first_sequence: entered.then_some(state.first_sequence),
            last_sequence: changed.then_some(state.last_sequence),
            entered_at: entered.then_some(state.entered_at),
            changed_at: changed.then_some(state.changed_at),
            account: some_account(state.account),
            entered_below_retention: (!entered).then_some(true),
        }
    }
}

impl OrderRow {
    /// The row as anybody may see it: without its owner.
    pub fn public(state: &OrderState, symbol: &str) -> Self {
        Self { account: None, ..Self::new(state, symbol) }
    }
}

impl TickerRow {
    /// The row of a ticker.
    pub fn new(ticker: &Ticker, symbol: &str) -> Self {
        let (summary, last) = (&ticker.summary, ticker.last());
        let session = ticker.session;
        let scheduled = session.filter(|session| session.trading_day != 0);
        Self {
            instrument: symbol.to_owned(),
            sequence: ticker.changed_at,
            last: last.and_then(|last| some_price(last.price)),
            last_quantity: last.map(|last| last.quantity),
            last_time: last.map(|last| last.event_time),
            last_sequence: last.map(|last| last.sequence),
            aggressor: last.map(|last| last.aggressor),
            open: some_price(summary.open),
            high: some_price(summary.high),
            low: some_price(summary.low),
            close: some_price(summary.close),
            previous_close: some_price(ticker.previous_close),
            volume: summary.volume,
            buy_volume: summary.buy_volume,
            sell_volume: summary.sell_volume,
            notional: summary.notional,
            trades: summary.trades,
            busted: (ticker.busted > 0).then_some(ticker.busted),
            misses_busts: ticker.misses_busts.then_some(true),
            trading_day: scheduled.map(|session| session.trading_day),
            session: scheduled.map(|session| session.number),
            session_begun: session.map(|session| session.begun),
        }
    }
}

impl StatusRow {
    /// The row of an instrument.
    pub fn new(instrument: &Instrument) -> Self {
        Self {
            instrument: instrument.definition.symbol.to_string(),
            trading_status: instrument.status,
            sequence: (instrument.status_at != Sequence::ZERO).then_some(instrument.status_at),
        }
    }
}

impl StateRow {
    /// The row of a key.
    pub fn new(key: &[u8], value: &StateValue) -> Self {
        Self {
            key: readable(key),
            value: readable(&value.value),
            bytes: value.value.len() as u64,
            set_sequence: value.set_at,
            event_time: value.event_time,
        }
    }
}

impl AccountRow {
    /// The rows of an account: one for each position, or one. `symbol` says what an instrument is called.
    pub fn of(account: &Account, mut symbol: impl FnMut(InstrumentId) -> String) -> Vec<Self> {
        let text = |text: String| (!text.is_empty()).then_some(text);
        let one = Self {
            account: account.id,
            name: text(account.name.to_string()),
            account_status: account.status,
            participant: (account.participant != ParticipantId::default()).then_some(account.participant),
            participant_name: text(account.participant_name.to_string()),
            instrument: None,
            position: None,
            last_sequence: account.changed_at,
        };
        if account.positions.is_empty() {
            return vec![one];
        }
        let row = |(id, position): (&InstrumentId, &matchtape_market::Position)| Self {
            instrument: (*id != InstrumentId(0)).then(|| symbol(*id)),
            position: signed(position.units),
            last_sequence: position.changed_at,
            ..one.clone()
        };
        account.positions.iter().map(row).collect()
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
