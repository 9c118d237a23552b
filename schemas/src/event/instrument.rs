//! Instruments, their trading status, and the clearing of their books.

use super::{Reserved, choices, payload};
use crate::decimal::{Price, Quantity};
use crate::ids::{EventTime, ReceiveTime, VenueSequence};
use crate::text::Text;

choices! {
    /// What kind of thing is traded.
    InstrumentClass / ArchivedInstrumentClass {
        /// Not stated.
        #[default] Other "other",
        /// A share.
        Equity "equity",
        /// A future.
        Future "future",
        /// An option.
        Option "option",
        /// Currency against currency, crypto included.
        Spot "spot",
        /// A perpetual swap.
        Perpetual "perpetual",
        /// A bond.
        Bond "bond",
    }
}

choices! {
    /// What may be done in an instrument.
    TradingStatus / ArchivedTradingStatus {
        /// Not known.
        #[default] Unknown "unknown",
        /// Orders are collected, nothing trades.
        PreOpen "pre_open",
        /// A call auction: the book may be crossed until it uncrosses.
        Auction "auction",
        /// Orders match as they arrive.
        Continuous "continuous",
        /// Suspended.
        Halted "halted",
        /// After the close.
        Closed "closed",
    }
}

payload! {
    /// Introduces an instrument: from here on its id in event headers means this.
    InstrumentDefined / ArchivedInstrumentDefined, 176 bytes {
        /// Its symbol on this tape, unique.
        symbol: Text<40>,
        /// Its name as people write it.
        name: Text<64>,
        /// The venue's own number for it, zero where it has none.
        venue_instrument_id: u64,
        /// The step of its prices.
        price_increment: Price,
        /// The step of its quantities.
        quantity_increment: Quantity,
        /// When it expires; zero: never.
        expires: EventTime,
        /// The currency of its prices, ISO 4217 or as the venue writes it.
        currency: Text<8>,
        /// The venue (market identifier code or as the source writes it).
        venue: Text<16>,
        /// The source's number for the venue's feed.
        publisher: u16,
        /// The source's channel.
        channel: u16,
        /// What it is.
        class: InstrumentClass,
        /// Zero.
        reserved: Reserved<11>,
    }
}

payload! {
    /// An instrument's trading status became this.
    TradingStatusChanged / ArchivedTradingStatusChanged, 32 bytes {
        /// The venue's number for the record.
        venue_sequence: VenueSequence,
        /// When it was received.
        receive_time: ReceiveTime,
        /// Receive time minus the venue's sending time, ns.
        send_delay_ns: i32,
        /// What may be done now.
        status: TradingStatus,
        /// Zero.
        reserved: Reserved<11>,
    }
}

payload! {
    /// Every order of the instrument left the book.
    BookCleared / ArchivedBookCleared, 32 bytes {
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
