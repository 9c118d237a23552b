//! Views as pure functions of the tape: order book, best bid and offer, trades, tickers, candles, trading status, order
//! states, keyed state, accounts.
//!
//! Never reads a clock, a file or a network: give the same events in the same order, live or replayed, and every view is
//! the same to the last byte. Events come as [`EventRef`](matchtape_schemas::EventRef), one at a time, in tape order.
//!
//! Read in this order: `volume` (sums of quantities), `ladder` and `queue` (what a book is made of), `book` (the rules),
//! `books` (every instrument's book as a snapshot section), `instruments`, `trades`, `tickers`, `candles`, `orders`,
//! `state`, `accounts`.

mod accounts;
mod book;
mod books;
mod candles;
mod checksum;
mod instruments;
mod ladder;
mod orders;
mod queue;
mod section;
mod state;
mod tickers;
mod trades;
mod volume;

pub use accounts::{Account, Accounts, Position};
pub use book::{Book, BookCounters, BookOrder, BookTotals, Level, LevelChange, SideTotals};
pub use books::{BookChange, Books};
pub use candles::{Candle, Candles};
pub use checksum::{CHECKSUM_LEVELS, book_checksum};
pub use instruments::{Instrument, Instruments};
pub use orders::{OrderState, OrderStates, OrderStatus};
pub use state::{KeyedState, StateValue};
pub use tickers::{LastTrade, RECENT, Session, Ticker, Tickers};
pub use trades::{Bust, Busts, Found, Trade, TradeSummary};
pub use volume::Volume;

/// What a node keeps in its snapshots, so that the state as of any position is near: every view whose size is that of what
/// is open now. States of orders are not among them: there is one for each order that ever was. Nor are candles, of which there are as
/// many intervals as somebody asks for: one is the fold of its own interval's trades, which the index of its instrument finds,
/// and what it costs does not depend on where on the tape it lies.
pub fn projections() -> Vec<Box<dyn matchtape_schemas::Projection>> {
    vec![
        Box::new(Books::new()),
        Box::new(Instruments::new()),
        Box::new(Tickers::new()),
        Box::new(KeyedState::new()),
        Box::new(Accounts::new()),
    ]
}
