//! How a tape is presented to people and machines: rows as JSON lines, CSV or an aligned table.
//!
//! One rule for all of them and for every other JSON that the project writes (answers of the gateway, reports of commands), so
//! that no reader loses digits; `services/matchtape/tests/json.rs` walks the answers and holds them to it:
//!
//! * what this project counts (sequence, epoch, numbers of orders, bytes, milliseconds) is a JSON number; it stays far below 2^53;
//! * every id (of an order, trade, account, instrument, producer, publisher) and what others number (venue and producer
//!   sequences) is a JSON string of decimal digits, because it may be any 64-bit number and browsers round above 2^53;
//! * prices and quantities are decimal strings without trailing zeros;
//! * times are nanoseconds since 1970 UTC as strings of decimal digits (in tables: RFC 3339, UTC), lengths of time in
//!   nanoseconds too;
//! * everything else is a JSON string, true or false; what is absent is left out in JSON and empty in CSV and tables: no
//!   null, no empty text;
//! * a name that ends in `_at` or `_time` is a time, one that ends in `sequence` a position, or a number of a venue or producer.
//!
//! Reading a row back accepts numbers and strings alike.
//!
//! Read in this order: `cell` (one value), `row` (declaring rows), `event_row`, `views`, `output`, `time`, `position`; then what a
//! tape is asked in the same way from everywhere: `as_of` (state at a position), `busts`, `orders`, `state`.

pub mod as_of;
mod busts;
pub mod cell;
pub mod consumers;
mod event_row;
mod kept;
pub mod orders;
mod output;
pub mod position;
mod row;
pub mod state;
pub mod time;
mod views;

pub use busts::{busted_trade, busts_between, settle};
pub use event_row::EventRow;
pub use kept::KeptRange;
pub use output::{Format, Output, push_csv_heading, push_csv_row};
pub use row::Row;
pub use views::{AccountRow, CandleRow, LevelRow, OrderRow, StateRow, StatusRow, TickerRow, TradeRow};
