//! Any event as one flat row: the fields of all kinds under one name each; what a kind does not have is absent.

use matchtape_schemas::event::{
    AccountStatus, CancelReason, EventFlags, InstrumentClass, Liquidity, OrderType, Payload, RejectReason,
    Side, StateDeleted, TimeInForce, TradingStatus,
};
use matchtape_schemas::text::Text;
use matchtape_schemas::{
    AcceptedTime, AccountId, BodyRef, Epoch, EventRef, EventTime, InstrumentId, Kind, OrderId, ParticipantId,
    Price, ProducerId, ProducerSequence, Quantity, ReceiveTime, Sequence, TradeId, VenueSequence,
};

use crate::row::row;
use crate::state::readable;
use crate::views::{some_account, some_order, some_price, some_trade};

row! {
    /// One event. Ids that are zero ("none"), prices that are not there and texts that are empty are absent.
    EventRow, table: [sequence event_time kind instrument order_id side price quantity trade_id buy_order_id sell_order_id aggressor venue_sequence] {
        /// Its position on the tape.
        sequence: number Sequence,
        /// The leadership term it was sequenced in.
        epoch: number Epoch,
        /// When it happened by its producer's clock, ns since 1970 UTC.
        event_time: text EventTime,
        /// What it is.
        kind: text Kind,
        /// The instrument's symbol, or its id on this tape where no definition came before.
        instrument: maybe String,
        /// The order concerned.
        order_id: maybe OrderId,
        /// The order's side.
        side: maybe Side,
        /// The price.
        price: maybe Price,
        /// The quantity.
        quantity: maybe Quantity,
        /// The trade's number at the venue.
        trade_id: maybe TradeId,
        /// The buying order of a trade.
        buy_order_id: maybe OrderId,
        /// The selling order of a trade.
        sell_order_id: maybe OrderId,
        /// The side of a trade that arrived; `none` in an auction.
        aggressor: maybe Side,
        /// The venue's number for the record.
        venue_sequence: maybe VenueSequence,
        /// When the sequencer accepted its frame, ns since 1970 UTC.
        accepted_time: text AcceptedTime,
        /// When it was received at the edge, ns since 1970 UTC.
        receive_time: maybe ReceiveTime,
        /// Receive time minus the venue's sending time, ns.
        send_delay_ns: maybe i32,
        /// Who produced it; 0 is the sequencer.
        producer: text ProducerId,
        /// Its number there.
        producer_sequence: text ProducerSequence,
        /// `last_of_group`, `late`, `reports_only`, `snapshot`, joined by `|`.
        flags: maybe EventFlags,
        /// The venue's own flags.
        venue_flags: maybe u8,
        /// The instrument's id on this tape.
        instrument_id: maybe InstrumentId,
        /// What a replacement calls the order from then on, if otherwise.
        new_order_id: maybe OrderId,
        /// How the order is priced.
        order_type: maybe OrderType,
        /// How long the order stays.
        time_in_force: maybe TimeInForce,
        /// Whether the executed order rested or arrived.
        liquidity: maybe Liquidity,
        /// What is left of the executed order, where the venue says so.
        leaves_quantity: maybe Quantity,
        /// Why an order was cancelled.
        cancel_reason: maybe CancelReason,
        /// Why an order was refused.
        reject_reason: maybe RejectReason,
        /// The position of the trade that was taken back.
        trade_sequence: some_number Sequence,
        /// The trading status from then on.
        trading_status: maybe TradingStatus,
        /// The owner; private.
        account: maybe AccountId,
        /// The buyer; private.
        buy_account: maybe AccountId,
        /// The seller; private.
        sell_account: maybe AccountId,
        /// The owner's text for the order; private.
        client_order_id: maybe String,
        /// A name: the instrument's, or the account's (which is private).
        name: maybe String,
        /// The venue's own number for the instrument.
        venue_instrument_id: maybe u64,
        /// The step of prices.
        price_increment: maybe Price,
        /// The step of quantities.
        quantity_increment: maybe Quantity,
        /// When the instrument expires, ns since 1970 UTC.
        expires: maybe EventTime,
        /// The currency of prices.
        currency: maybe String,
        /// The venue.
        venue: maybe String,
        /// The source's number for the venue's feed.
        publisher: maybe u16,
        /// The source's channel.
        channel: maybe u16,
        /// What the instrument is.
        instrument_class: maybe InstrumentClass,
        /// The trading day as YYYYMMDD.
        trading_day: maybe u32,
        /// Which session of the day, from 0.
        session: some_number u32,
        /// What the account may do; private.
        account_status: maybe AccountStatus,
        /// The member firm; private.
        participant: maybe ParticipantId,
        /// The member firm's name; private.
        participant_name: maybe String,
        /// The change of a position; private.
        change: maybe String,
        /// The position; private.
        position: maybe String,
        /// A key of reference data as text, or in hexadecimal after `0x`; private.
        key: maybe String,
        /// Its value, likewise; private.
        value: maybe String,
        /// The term that began or ended.
        term: some_number Epoch,
        /// The term before it.
        previous_epoch: some_number Epoch,
        /// The last event before the term.
        previous_last_sequence: some_number Sequence,
        /// The node that writes the term.
        node: maybe String,
    }
}

fn some_text<const N: usize>(text: &Text<N>) -> Option<String> {
    (!text.is_empty()).then(|| text.as_str().into_owned())
}

fn some<T: PartialEq + Default>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

/// A signed amount in units of 1e-9 as a decimal.
pub(crate) fn signed(units: i64) -> Option<String> {
    let sign = if units < 0 { "-" } else { "" };
    Some(format!("{sign}{}", Quantity::from_units(units.unsigned_abs())))
}

fn some_readable(bytes: &[u8]) -> Option<String> {
    Some(readable(bytes))
}

impl EventRow {
    /// The row of an event; `symbol` is what its instrument is called, if it has one and that is known.
    pub fn new(event: &EventRef<'_>, symbol: Option<&str>) -> Self {
        let mut row = Self::of_header(event, symbol);
        row.fill(&event.body());
        row
    }

    /// The row as anybody may see it: accounts, client order ids, refused orders, positions and reference data are left
    /// out. The event itself, its position, times and kind stay, so that a public tape shows no gap.
    pub fn public(event: &EventRef<'_>, symbol: Option<&str>) -> Self {
        let mut row = Self::of_header(event, symbol);
        if is_public(event.kind()) {
            row.fill(&event.body());
            row.account = None;
            row.buy_account = None;
            row.sell_account = None;
            row.client_order_id = None;
            row.node = None;
        }
        row
    }

    fn of_header(event: &EventRef<'_>, symbol: Option<&str>) -> Self {
        let header = event.header();
        let instrument_id = some(header.instrument);
        let flags = header.flags;
        Self {
            sequence: event.sequence(),
            epoch: event.epoch(),
            event_time: header.event_time,
            kind: header.kind,
            instrument: instrument_id.map(|id| symbol.map_or_else(|| id.to_string(), str::to_owned)),
            accepted_time: event.accepted_time(),
            producer: header.producer,
            producer_sequence: header.producer_sequence,
            flags: some(flags),
            venue_flags: some(header.venue_flags),
            instrument_id,
            order_id: None,
            side: None,
            price: None,
            quantity: None,
            trade_id: None,
            buy_order_id: None,
            sell_order_id: None,
            aggressor: None,
            venue_sequence: None,
            receive_time: None,
            send_delay_ns: None,
            new_order_id: None,
            order_type: None,
            time_in_force: None,
            liquidity: None,
            leaves_quantity: None,
            cancel_reason: None,
            reject_reason: None,
            trade_sequence: None,
            trading_status: None,
            account: None,
            buy_account: None,
            sell_account: None,
            client_order_id: None,
            name: None,
            venue_instrument_id: None,
            price_increment: None,
            quantity_increment: None,
            expires: None,
            currency: None,
            venue: None,
            publisher: None,
            channel: None,
            instrument_class: None,
            trading_day: None,
            session: None,
            account_status: None,
            participant: None,
            participant_name: None,
            change: None,
            position: None,
            key: None,
            value: None,
            term: None,
            previous_epoch: None,
            previous_last_sequence: None,
            node: None,
        }
    }

    fn fill(&mut self, body: &BodyRef<'_>) {
        /// The record's own number and times, which most kinds carry.
        macro_rules! record {
            ($record:ident) => {
                self.venue_sequence = Some($record.venue_sequence.get());
                self.receive_time = some($record.receive_time.get());
                self.send_delay_ns = some($record.send_delay_ns.to_native());
            };
        }
        /// The order concerned.
        macro_rules! order {
            ($order:ident) => {
                record!($order);
                self.order_id = some_order($order.order_id.get());
                self.side = Some($order.side.get());
                self.price = some_price($order.price.get());
                self.quantity = Some($order.quantity.get());
                self.account = some_account($order.account.get());
            };
        }
        match body {
            BodyRef::OrderAccepted(order) => {
                order!(order);
                self.client_order_id = some_text(&order.client_order_id.get());
                self.order_type = Some(order.order_type.get());
                self.time_in_force = Some(order.time_in_force.get());
            }
            BodyRef::OrderRejected(order) => {
                order!(order);
                self.client_order_id = some_text(&order.client_order_id.get());
                self.reject_reason = Some(order.reason.get());
            }
            BodyRef::OrderReplaced(order) => {
                order!(order);
                self.client_order_id = some_text(&order.client_order_id.get());
                self.new_order_id =
                    some_order(order.new_order_id.get()).filter(|new| *new != order.order_id.get());
            }
            BodyRef::OrderCancelled(order) => {
                order!(order);
                self.cancel_reason = Some(order.reason.get());
            }
            BodyRef::OrderExecuted(order) => {
                order!(order);
                self.trade_id = some_trade(order.trade_id.get());
                self.leaves_quantity = some(order.leaves_quantity.get());
                self.liquidity = Some(order.liquidity.get());
            }
            BodyRef::TradeMatched(trade) => {
                record!(trade);
                self.trade_id = some_trade(trade.trade_id.get());
                self.buy_order_id = some_order(trade.buy_order_id.get());
                self.sell_order_id = some_order(trade.sell_order_id.get());
                self.price = some_price(trade.price.get());
                self.quantity = Some(trade.quantity.get());
                self.buy_account = some_account(trade.buy_account.get());
                self.sell_account = some_account(trade.sell_account.get());
                self.aggressor = Some(trade.aggressor.get());
            }
            BodyRef::TradeBusted(trade) => {
                record!(trade);
                self.trade_id = some_trade(trade.trade_id.get());
                self.price = some_price(trade.price.get());
                self.quantity = Some(trade.quantity.get());
                self.trade_sequence = some(trade.trade_sequence.get());
            }
            BodyRef::InstrumentDefined(instrument) => {
                self.instrument = some_text(&instrument.symbol.get()).or(self.instrument.take());
                self.name = some_text(&instrument.name.get());
                self.venue_instrument_id = some(instrument.venue_instrument_id.to_native());
                self.price_increment = some_price(instrument.price_increment.get());
                self.quantity_increment = some(instrument.quantity_increment.get());
                self.expires = some(instrument.expires.get());
                self.currency = some_text(&instrument.currency.get());
                self.venue = some_text(&instrument.venue.get());
                self.publisher = some(instrument.publisher.to_native());
                self.channel = some(instrument.channel.to_native());
                self.instrument_class = Some(instrument.class.get());
            }
            BodyRef::TradingStatusChanged(change) => {
                record!(change);
                self.trading_status = Some(change.status.get());
            }
            BodyRef::BookCleared(cleared) => {
                record!(cleared);
            }
            BodyRef::SessionOpened(session) => {
                self.trading_day = Some(session.trading_day.to_native());
                self.session = Some(session.session.to_native());
            }
            BodyRef::SessionClosed(session) => {
                self.trading_day = Some(session.trading_day.to_native());
                self.session = Some(session.session.to_native());
            }
            BodyRef::AccountOpened(opened) => {
                self.account = some_account(opened.account.get());
                self.name = some_text(&opened.name.get());
                self.participant = some(opened.participant.get());
                self.participant_name = some_text(&opened.participant_name.get());
                self.account_status = Some(opened.status.get());
            }
            BodyRef::AccountChanged(changed) => {
                self.account = some_account(changed.account.get());
                self.account_status = Some(changed.status.get());
            }
            BodyRef::PositionChanged(changed) => {
                self.account = some_account(changed.account.get());
                self.change = signed(changed.change.to_native());
                self.position = signed(changed.position.to_native());
            }
            BodyRef::StateSet(set) => {
                self.key = some_readable(set.key);
                self.value = some_readable(set.value);
            }
            BodyRef::StateDeleted(deleted) => {
                self.key = some_readable(StateDeleted::native(*deleted).key());
            }
            BodyRef::EpochStarted(started) => {
                self.term = Some(started.epoch.get());
                self.previous_epoch = some(started.previous_epoch.get());
                self.previous_last_sequence = some(started.previous_last_sequence.get());
                self.node = some_text(&started.node.get());
            }
            BodyRef::EpochEnded(ended) => self.term = Some(ended.epoch.get()),
            BodyRef::TimeAdvanced(_) => {}
        }
    }
}

/// Whether a kind's payload, without accounts and client order ids, is for everybody.
const fn is_public(kind: Kind) -> bool {
    match kind {
        Kind::OrderAccepted
        | Kind::OrderReplaced
        | Kind::OrderCancelled
        | Kind::OrderExecuted
        | Kind::TradeMatched
        | Kind::TradeBusted
        | Kind::InstrumentDefined
        | Kind::TradingStatusChanged
        | Kind::BookCleared
        | Kind::SessionOpened
        | Kind::SessionClosed
        | Kind::EpochStarted
        | Kind::EpochEnded
        | Kind::TimeAdvanced => true,
        Kind::OrderRejected
        | Kind::AccountOpened
        | Kind::AccountChanged
        | Kind::PositionChanged
        | Kind::StateSet
        | Kind::StateDeleted => false,
    }
}
