//! Trading days.

use super::{Reserved, payload};

payload! {
    /// A trading day began.
    SessionOpened / ArchivedSessionOpened, 16 bytes {
        /// The trading day as the decimal number YYYYMMDD.
        trading_day: u32,
        /// Which session of the day, from 0.
        session: u32,
        /// Zero.
        reserved: Reserved<8>,
    }
}

payload! {
    /// A trading day ended.
    SessionClosed / ArchivedSessionClosed, 16 bytes {
        /// The trading day as the decimal number YYYYMMDD.
        trading_day: u32,
        /// Which session of the day, from 0.
        session: u32,
        /// Zero.
        reserved: Reserved<8>,
    }
}
