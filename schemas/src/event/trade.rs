//! Trades: matched, and taken back.

use super::order::{ArchivedSide, Side};
use super::{EVENT_HEADER_BYTES, Reserved, payload};
use crate::decimal::{Price, Quantity};
use crate::ids::{AccountId, OrderId, ReceiveTime, TradeId, VenueSequence};

payload! {
    /// Two orders traded.
    ///
    /// Takes `quantity` off each of the two that rests in the book, unless the event is flagged `reports_only`.
    TradeMatched / ArchivedTradeMatched, 96 bytes {
        /// The trade, zero where the venue does not number it.
        trade_id: TradeId,
        /// The buying order, zero where the venue does not say.
        buy_order_id: OrderId,
        /// The selling order, zero where the venue does not say.
        sell_order_id: OrderId,
        /// At which price.
        price: Price,
        /// How much.
        quantity: Quantity,
        /// The buyer; private.
        buy_account: AccountId,
        /// The seller; private.
        sell_account: AccountId,
        /// The venue's number for the record.
        venue_sequence: VenueSequence,
        /// When it was received.
        receive_time: ReceiveTime,
        /// Receive time minus the venue's sending time, ns.
        send_delay_ns: i32,
        /// The side that arrived; none in an auction.
        aggressor: Side,
        /// Zero.
        reserved: Reserved<19>,
    }
}

payload! {
    /// A trade was taken back. Books do not change; volumes and candles of its time do not count it from here on.
    TradeBusted / ArchivedTradeBusted, 64 bytes {
        /// The trade.
        trade_id: TradeId,
        /// Its price.
        price: Price,
        /// Its quantity.
        quantity: Quantity,
        /// The position of its `TradeMatched`, zero where not known.
        trade_sequence: crate::ids::Sequence,
        /// The venue's number for the record.
        venue_sequence: VenueSequence,
        /// When it was received.
        receive_time: ReceiveTime,
        /// Receive time minus the venue's sending time, ns.
        send_delay_ns: i32,
        /// Zero.
        reserved: Reserved<12>,
    }
}

const _: () =
    assert!(size_of::<ArchivedSide>() == 1 && EVENT_HEADER_BYTES + size_of::<ArchivedTradeMatched>() <= 128);
