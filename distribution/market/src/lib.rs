//! Market views as pure functions of the tape: order book, best bid and offer, trades, candles, order states.
//!
//! Never reads a clock, a file or a network: give the same events in the same order, live or replayed, and every view is
//! the same to the last byte. Events come as [`EventRef`](matchtape_schemas::EventRef), one at a time, in tape order.
//!
//! Read in this order: `volume` (sums of quantities), `ladder` and `queue` (what a book is made of), `book` (the rules),
//! `books` (every instrument's book as a snapshot section), `instruments`, `trades`, `candles`, `orders`.

mod book;
mod books;
mod candles;
mod checksum;
mod instruments;
mod ladder;
mod orders;
mod queue;
mod section;
mod trades;
mod volume;

pub use book::{Book, BookCounters, BookOrder, BookTotals, Level, LevelChange, SideTotals};
pub use books::{BookChange, Books};
pub use candles::{Candle, Candles};
pub use checksum::{CHECKSUM_LEVELS, book_checksum};
pub use instruments::{Instrument, Instruments};
pub use orders::{OrderState, OrderStates, OrderStatus};
pub use trades::{Busts, Trade, TradeSummary};
pub use volume::Volume;
