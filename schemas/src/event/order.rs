//! The life of an order: accepted or rejected, replaced, cancelled, executed.

use super::{Reserved, choices, payload};
use crate::decimal::{Price, Quantity};
use crate::ids::{AccountId, OrderId, ReceiveTime, TradeId, VenueSequence};
use crate::text::Text;

/// The client's own text for an order, as FIX `ClOrdID`; carried once, where the order is introduced.
pub type ClientOrderId = Text<40>;

choices! {
    /// Which side of the book.
    Side / ArchivedSide {
        /// The venue names no side.
        #[default] None "none",
        /// Bid.
        Buy "buy",
        /// Offer.
        Sell "sell",
    }
}

choices! {
    /// How an order is priced.
    OrderType / ArchivedOrderType {
        /// At its price or better.
        #[default] Limit "limit",
        /// At any price; never rests.
        Market "market",
    }
}

choices! {
    /// How long an order stays.
    TimeInForce / ArchivedTimeInForce {
        /// Until the end of the trading day.
        #[default] Day "day",
        /// Until cancelled.
        GoodTillCancel "good_till_cancel",
        /// What cannot be executed at once is cancelled.
        ImmediateOrCancel "immediate_or_cancel",
        /// All at once or nothing.
        FillOrKill "fill_or_kill",
    }
}

choices! {
    /// Why (part of) an order left the book without being executed.
    CancelReason / ArchivedCancelReason {
        /// Its owner asked, or the venue does not say.
        #[default] Requested "requested",
        /// Its time in force ended.
        Expired "expired",
        /// The remainder of an immediate order.
        Unfilled "unfilled",
        /// The exchange removed it.
        ByExchange "by_exchange",
        /// It would have traded with its own account.
        SelfTrade "self_trade",
    }
}

choices! {
    /// Why an order was not accepted.
    RejectReason / ArchivedRejectReason {
        /// Not stated.
        #[default] Other "other",
        /// No such instrument.
        UnknownInstrument "unknown_instrument",
        /// No such order.
        UnknownOrder "unknown_order",
        /// The instrument is not trading.
        NotTrading "not_trading",
        /// Off the price grid or outside the band.
        Price "price",
        /// Off the lot size or above the limit.
        Quantity "quantity",
        /// The account may not.
        Account "account",
        /// The order id is in use.
        Duplicate "duplicate",
    }
}

choices! {
    /// What an execution did to the book.
    Liquidity / ArchivedLiquidity {
        /// The venue does not say.
        #[default] None "none",
        /// The order rested.
        Maker "maker",
        /// The order arrived.
        Taker "taker",
    }
}

payload! {
    /// An order entered the book (or, for an immediate one, the matching).
    ///
    /// `price` is [`Price::NONE`] for a market order, which never rests at a level.
    OrderAccepted / ArchivedOrderAccepted, 96 bytes {
        /// The order.
        order_id: OrderId,
        /// Its limit.
        price: Price,
        /// What enters the book.
        quantity: Quantity,
        /// Its owner; private.
        account: AccountId,
        /// The venue's number for the record.
        venue_sequence: VenueSequence,
        /// When it was received.
        receive_time: ReceiveTime,
        /// The owner's text for it; private.
        client_order_id: ClientOrderId,
        /// Receive time minus the venue's sending time, ns.
        send_delay_ns: i32,
        /// Its side.
        side: Side,
        /// How it is priced.
        order_type: OrderType,
        /// How long it stays.
        time_in_force: TimeInForce,
        /// Zero.
        reserved: Reserved<1>,
    }
}

payload! {
    /// An order (or a change of one) was refused; the book does not change.
    OrderRejected / ArchivedOrderRejected, 96 bytes {
        /// The order concerned, zero if it never had a number.
        order_id: OrderId,
        /// The price asked for.
        price: Price,
        /// The quantity asked for.
        quantity: Quantity,
        /// Its owner; private.
        account: AccountId,
        /// The venue's number for the record.
        venue_sequence: VenueSequence,
        /// When it was received.
        receive_time: ReceiveTime,
        /// The owner's text for it; private.
        client_order_id: ClientOrderId,
        /// Receive time minus the venue's sending time, ns.
        send_delay_ns: i32,
        /// Its side.
        side: Side,
        /// Why.
        reason: RejectReason,
        /// Zero.
        reserved: Reserved<2>,
    }
}

payload! {
    /// An order's price and quantity became these.
    ///
    /// It keeps its place in the queue only if neither its price nor its number changed and its quantity did not grow.
    OrderReplaced / ArchivedOrderReplaced, 112 bytes {
        /// The order as it was known.
        order_id: OrderId,
        /// The order as it is known from now on; equal to `order_id` where the venue keeps the number.
        new_order_id: OrderId,
        /// The new limit.
        price: Price,
        /// The new open quantity.
        quantity: Quantity,
        /// Its owner; private.
        account: AccountId,
        /// The venue's number for the record.
        venue_sequence: VenueSequence,
        /// When it was received.
        receive_time: ReceiveTime,
        /// The owner's new text for it; private.
        client_order_id: ClientOrderId,
        /// Receive time minus the venue's sending time, ns.
        send_delay_ns: i32,
        /// Its side.
        side: Side,
        /// Zero.
        reserved: Reserved<11>,
    }
}

payload! {
    /// `quantity` of an order left the book unexecuted; the order is gone when nothing is left.
    OrderCancelled / ArchivedOrderCancelled, 64 bytes {
        /// The order.
        order_id: OrderId,
        /// Its limit.
        price: Price,
        /// How much was taken off.
        quantity: Quantity,
        /// Its owner; private.
        account: AccountId,
        /// The venue's number for the record.
        venue_sequence: VenueSequence,
        /// When it was received.
        receive_time: ReceiveTime,
        /// Receive time minus the venue's sending time, ns.
        send_delay_ns: i32,
        /// Its side.
        side: Side,
        /// Why.
        reason: CancelReason,
        /// Zero.
        reserved: Reserved<10>,
    }
}

payload! {
    /// One order's part in a trade. Takes `quantity` off the order, unless the event is flagged `reports_only`.
    OrderExecuted / ArchivedOrderExecuted, 80 bytes {
        /// The order.
        order_id: OrderId,
        /// The trade, zero where the venue does not number it.
        trade_id: TradeId,
        /// At which price.
        price: Price,
        /// How much.
        quantity: Quantity,
        /// What is left of the order afterwards, where the venue says so.
        leaves_quantity: Quantity,
        /// Its owner; private.
        account: AccountId,
        /// The venue's number for the record.
        venue_sequence: VenueSequence,
        /// When it was received.
        receive_time: ReceiveTime,
        /// Receive time minus the venue's sending time, ns.
        send_delay_ns: i32,
        /// Its side.
        side: Side,
        /// Whether it rested or arrived.
        liquidity: Liquidity,
        /// Zero.
        reserved: Reserved<10>,
    }
}

const _: () = {
    use super::EVENT_HEADER_BYTES;
    // The events an exchange has most of fit two cache lines, header included.
    assert!(EVENT_HEADER_BYTES + size_of::<ArchivedOrderAccepted>() <= 128);
    assert!(EVENT_HEADER_BYTES + size_of::<ArchivedOrderCancelled>() <= 128);
    assert!(EVENT_HEADER_BYTES + size_of::<ArchivedOrderExecuted>() <= 128);
};
