//! The books of every instrument of a tape, as one snapshot section.
//!
//! Section `books`, version 1, little-endian:
//!
//! ```text
//! u32 books, then each book by ascending instrument:
//!   u32 instrument   u64 position of the last change   6 x u64 counters (as in BookCounters)
//!   u32 bid levels, then each level, best first:
//!     i64 price   u32 orders, then each order, first come first: u64 order id   u64 quantity
//!   u32 offer levels, likewise
//!   u32 orders at no level, then each by ascending id: u64 order id   u8 side   i64 price   u64 quantity
//! ```

use matchtape_schemas::event::{EventFlags, Side};
use matchtape_schemas::{
    EventRef, InstrumentId, Kind, KindMask, OrderId, Price, Projection, ProjectionError, Quantity, Sequence,
};
use rustc_hash::FxHashMap;

use crate::book::{Book, BookCounters, LevelChange};
use crate::section::{SectionReader, put_count, put_i64, put_u32, put_u64};

const NAME: &str = "books";
const VERSION: u32 = 1;

/// The kinds that can change a book.
const BOOK_KINDS: KindMask = KindMask::of(&[
    Kind::OrderAccepted,
    Kind::OrderReplaced,
    Kind::OrderCancelled,
    Kind::OrderExecuted,
    Kind::TradeMatched,
    Kind::BookCleared,
]);

/// Every instrument's book.
#[derive(Clone, Debug, Default)]
pub struct Books {
    places: FxHashMap<InstrumentId, usize>,
    books: Vec<Numbered>,
    /// Places of the books that changed since the changes were last taken out, in order of their first change.
    changed: Vec<usize>,
    watched: bool,
    /// Only these, sorted; `None`: all.
    only: Option<Box<[InstrumentId]>>,
}

#[derive(Clone, Debug)]
struct Numbered {
    instrument: InstrumentId,
    book: Book,
    /// `changed_at` when the changes were last taken out.
    taken_at: Sequence,
    first_change: Sequence,
}

/// What a group (or several) did to one book.
///
/// Of levels alone. Of single orders the change is the event itself: it names the order, what became of it, and its place on
/// the tape, where every gap shows; a copy of it with numbers of its own would say nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookChange {
    /// The instrument.
    pub instrument: InstrumentId,
    /// The last change before these: `last_sequence` of the change before this one, zero for none. A copy of the book
    /// that stands elsewhere has a gap.
    pub previous_sequence: Sequence,
    /// The first event of these that changed a level.
    pub first_sequence: Sequence,
    /// The last event of these that changed a level.
    pub last_sequence: Sequence,
    /// Levels that are not what they were: bids then offers, best first. Empty when the changes undid each other.
    pub levels: Vec<LevelChange>,
}

impl Books {
    /// The kinds that can change a book.
    pub const KINDS: KindMask = BOOK_KINDS;

    /// No books yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The books of some instruments alone: others are neither folded nor restored. What is saved is theirs, too.
    pub fn only(instruments: &[InstrumentId]) -> Self {
        let mut sorted = instruments.to_vec();
        sorted.sort_unstable();
        Self { only: Some(sorted.into()), ..Self::default() }
    }

    fn wants(&self, instrument: InstrumentId) -> bool {
        self.only.as_ref().is_none_or(|only| only.binary_search(&instrument).is_ok())
    }

    /// Remembers from now on which levels change; then [`take_changes`](Self::take_changes) has to be called at group
    /// ends.
    pub fn watch(&mut self) {
        self.watched = true;
        for numbered in &mut self.books {
            numbered.book.watch();
            numbered.taken_at = numbered.book.changed_at();
        }
    }

    /// What changed since the last call, one entry per book in order of its first change. Call it at group ends.
    pub fn take_changes(&mut self) -> Vec<BookChange> {
        let mut changes = Vec::with_capacity(self.changed.len());
        for place in self.changed.drain(..) {
            let numbered = &mut self.books[place];
            let mut levels = Vec::new();
            numbered.book.take_changes(&mut levels);
            changes.push(BookChange {
                instrument: numbered.instrument,
                previous_sequence: numbered.taken_at,
                first_sequence: numbered.first_change,
                last_sequence: numbered.book.changed_at(),
                levels,
            });
            numbered.taken_at = numbered.book.changed_at();
        }
        changes
    }

    /// Takes in the next event of the tape.
    #[inline]
    pub fn apply(&mut self, event: &EventRef<'_>) {
        if !BOOK_KINDS.contains(event.kind()) || reports_only(event) || !self.wants(event.instrument()) {
            return;
        }
        let place = self.place(event.instrument());
        let numbered = &mut self.books[place];
        if !self.watched {
            return numbered.book.apply(event);
        }
        let before = numbered.book.changed_at();
        numbered.book.apply(event);
        let after = numbered.book.changed_at();
        if after != before && before == numbered.taken_at {
            numbered.first_change = after;
            self.changed.push(place);
        }
    }

    #[inline]
    fn place(&mut self, instrument: InstrumentId) -> usize {
        let (books, watched) = (&mut self.books, self.watched);
        *self.places.entry(instrument).or_insert_with(|| {
            let mut book = Book::new();
            if watched {
                book.watch();
            }
            books.push(Numbered { instrument, book, taken_at: Sequence::ZERO, first_change: Sequence::ZERO });
            books.len() - 1
        })
    }

    /// The book of an instrument; `None` if no event has touched it.
    pub fn get(&self, instrument: InstrumentId) -> Option<&Book> {
        self.places.get(&instrument).map(|place| &self.books[*place].book)
    }

    /// Every book, by ascending instrument.
    pub fn iter(&self) -> impl Iterator<Item = (InstrumentId, &Book)> + '_ {
        let mut sorted: Vec<&Numbered> = self.books.iter().collect();
        sorted.sort_unstable_by_key(|numbered| numbered.instrument);
        sorted.into_iter().map(|numbered| (numbered.instrument, &numbered.book))
    }
}

/// Executions that another event carries out never touch a book, and on some venues they are most of the feed.
#[inline]
fn reports_only(event: &EventRef<'_>) -> bool {
    event.flags().contains(EventFlags::REPORTS_ONLY)
        && matches!(event.kind(), Kind::TradeMatched | Kind::OrderExecuted)
}

impl Projection for Books {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        VERSION
    }

    fn apply(&mut self, event: &EventRef<'_>) {
        Self::apply(self, event);
    }

    fn save(&self, out: &mut Vec<u8>) {
        put_count(out, self.books.len());
        for (instrument, book) in self.iter() {
            put_u32(out, instrument.get());
            save_book(book, out);
        }
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), ProjectionError> {
        let mut reader = SectionReader::new(NAME, section);
        let mut restored = Self { watched: self.watched, only: self.only.clone(), ..Self::default() };
        let mut last = None;
        for _ in 0..reader.count(BOOK_BYTES_MIN)? {
            let instrument = InstrumentId(reader.u32()?);
            if last.is_some_and(|last| last >= instrument) {
                return Err(reader.error(format!("instrument {instrument} is out of order")));
            }
            last = Some(instrument);
            if !self.wants(instrument) {
                skip_book(&mut reader)?;
                continue;
            }
            let mut book = restore_book(&mut reader)?;
            if self.watched {
                book.watch();
            }
            restored.places.insert(instrument, restored.books.len());
            let taken_at = book.changed_at();
            restored.books.push(Numbered { instrument, book, taken_at, first_change: Sequence::ZERO });
        }
        reader.end()?;
        *self = restored;
        Ok(())
    }
}

const ORDER_BYTES: usize = 16;
const LEVEL_BYTES_MIN: usize = 12 + ORDER_BYTES;
const LOOSE_ORDER_BYTES: usize = 25;
const BOOK_BYTES_MIN: usize = 4 + 8 + 6 * 8 + 3 * 4;

fn save_book(book: &Book, out: &mut Vec<u8>) {
    put_u64(out, book.changed_at().get());
    let counters = book.counters();
    for counter in [
        counters.cancels_of_unknown,
        counters.replaces_of_unknown,
        counters.executions_of_unknown,
        counters.cancels_beyond_left,
        counters.executions_beyond_left,
        counters.numbers_in_use,
    ] {
        put_u64(out, counter);
    }
    for side in [Side::Buy, Side::Sell] {
        put_count(out, book.levels(side).count());
        for level in book.levels(side) {
            put_i64(out, level.price.units());
            put_u32(out, level.orders);
            for order in book.queue(side, level.price) {
                put_u64(out, order.order_id.get());
                put_u64(out, order.quantity.units());
            }
        }
    }
    let loose = book.not_resting();
    put_count(out, loose.len());
    for order in loose {
        put_u64(out, order.order_id.get());
        out.push(order.side as u8);
        put_i64(out, order.price.units());
        put_u64(out, order.quantity.units());
    }
}

/// Passes over a book that is not wanted. Its lengths are checked, what is in it is not.
fn skip_book(reader: &mut SectionReader<'_>) -> Result<(), ProjectionError> {
    reader.take(8 + 6 * 8)?;
    for _ in [Side::Buy, Side::Sell] {
        for _ in 0..reader.count(LEVEL_BYTES_MIN)? {
            reader.take(8)?;
            let orders = reader.count(ORDER_BYTES)?;
            reader.take(orders * ORDER_BYTES)?;
        }
    }
    let loose = reader.count(LOOSE_ORDER_BYTES)?;
    reader.take(loose * LOOSE_ORDER_BYTES)?;
    Ok(())
}

fn restore_book(reader: &mut SectionReader<'_>) -> Result<Book, ProjectionError> {
    let mut book = Book::new();
    book.changed_at = Sequence(reader.u64()?);
    book.counters = BookCounters {
        cancels_of_unknown: reader.u64()?,
        replaces_of_unknown: reader.u64()?,
        executions_of_unknown: reader.u64()?,
        cancels_beyond_left: reader.u64()?,
        executions_beyond_left: reader.u64()?,
        numbers_in_use: reader.u64()?,
    };
    for side in [Side::Buy, Side::Sell] {
        let mut better: Option<Price> = None;
        for _ in 0..reader.count(LEVEL_BYTES_MIN)? {
            let price = Price::from_units(reader.i64()?);
            let in_order =
                better.is_none_or(|better| if side == Side::Buy { price < better } else { price > better });
            if price.is_none() || !in_order {
                return Err(reader.error(format!("{side} level {} is out of order", price.units())));
            }
            better = Some(price);
            let orders = reader.count(ORDER_BYTES)?;
            if orders == 0 {
                return Err(reader.error(format!("{side} level {price} has no orders")));
            }
            for _ in 0..orders {
                let (id, quantity) = (OrderId(reader.u64()?), Quantity::from_units(reader.u64()?));
                put_back(&mut book, reader, id, side, price, quantity)?;
            }
        }
    }
    let mut last = None;
    for _ in 0..reader.count(LOOSE_ORDER_BYTES)? {
        let id = OrderId(reader.u64()?);
        let side = match reader.u8()? {
            0 => Side::None,
            1 => Side::Buy,
            2 => Side::Sell,
            other => return Err(reader.error(format!("side {other}"))),
        };
        let (price, quantity) = (Price::from_units(reader.i64()?), Quantity::from_units(reader.u64()?));
        if last.is_some_and(|last| last >= id) || (side != Side::None && !price.is_none()) {
            return Err(reader.error(format!("order {id} does not belong among those at no level")));
        }
        last = Some(id);
        put_back(&mut book, reader, id, side, price, quantity)?;
    }
    Ok(book)
}

fn put_back(
    book: &mut Book,
    reader: &SectionReader<'_>,
    id: OrderId,
    side: Side,
    price: Price,
    quantity: Quantity,
) -> Result<(), ProjectionError> {
    if quantity.is_zero() {
        return Err(reader.error(format!("order {id} has nothing left")));
    }
    if !book.put_back(id, side, price, quantity) {
        return Err(reader.error(format!("order {id} is there twice")));
    }
    Ok(())
}
