//! A checksum by which a client proves that its copy of a book is the book.

use std::fmt::Write;

use matchtape_schemas::event::Side;

use crate::book::Book;

/// How many levels of each side the checksum covers.
pub const CHECKSUM_LEVELS: usize = 10;

/// CRC-32 (ISO-HDLC, as in zlib) over ASCII lines, one per level: `buy,PRICE,QUANTITY,ORDERS\n` for the best ten bids,
/// best first, then `sell,...` for the best ten offers, best first.
///
/// Prices and quantities are the decimal strings of the feeds, without trailing zeros, so a client computes it from the
/// text it received. An empty book has the checksum of no bytes: 0.
pub fn book_checksum(book: &Book) -> u32 {
    let mut text = String::with_capacity(2 * CHECKSUM_LEVELS * 40);
    for side in [Side::Buy, Side::Sell] {
        for level in book.levels(side).take(CHECKSUM_LEVELS) {
            writeln!(text, "{side},{},{},{}", level.price, level.quantity, level.orders)
                .expect("strings take all text");
        }
    }
    crc32fast::hash(text.as_bytes())
}
