//! The best prices of every book as they were last told, so that only changes of them are.

use matchtape_market::{Book, Books, Level};
use matchtape_schemas::InstrumentId;
use matchtape_schemas::event::Side;
use rustc_hash::FxHashMap;

/// Best bid and best offer of each instrument.
#[derive(Clone, Debug, Default)]
pub(crate) struct BestPrices {
    last: FxHashMap<InstrumentId, [Option<Level>; 2]>,
}

/// The best bid and the best offer of a book.
pub(crate) fn best(book: &Book) -> [Option<Level>; 2] {
    [book.best(Side::Buy), book.best(Side::Sell)]
}

impl BestPrices {
    /// As they are in some books.
    pub(crate) fn of(books: &Books) -> Self {
        Self { last: books.iter().map(|(instrument, book)| (instrument, best(book))).collect() }
    }

    /// Whether the best prices of a book, or what is there, are not what they were.
    pub(crate) fn advance(&mut self, instrument: InstrumentId, book: &Book) -> bool {
        let now = best(book);
        self.last.insert(instrument, now).unwrap_or_default() != now
    }
}
