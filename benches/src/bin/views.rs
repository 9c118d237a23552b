//! Books of thousands of instruments: folding, changes with checksums, what a snapshot of all state costs, and the book as
//! of any moment.
//!
//!     cargo run --release -p matchtape-benches --bin views -- --seconds 5

use std::time::Instant;

use clap::Parser;
use matchtape_benches::{Options, Report, nanoseconds, tape};
use matchtape_client::as_of;
use matchtape_market::{Books, book_checksum, projections};
use matchtape_node::{Node, NodeOptions, PublishError};
use matchtape_schemas::event::{Event, OrderCancelled, TradeMatched};
use matchtape_schemas::{InstrumentId, OrderId, ProducerId, ProducerSequence, Quantity, Sequence, Stage};
use matchtape_storage::Reader;

const INSTRUMENTS: u32 = 5_000;
/// Open orders that the flow levels out at.
const OPEN: u64 = 100_000;

/// Orders; from the `OPEN`-th on, each is followed by the end of the oldest: a cancel or, every eighth, a trade.
fn event(number: u64) -> Event {
    let turn = number / 2 + 1;
    if number <= OPEN || !number.is_multiple_of(2) {
        let entered = if number <= OPEN { number } else { OPEN + (number - OPEN) / 2 + 1 };
        let mut event = tape::order(entered, INSTRUMENTS);
        event.producer_sequence = ProducerSequence(number);
        return event;
    }
    let oldest = OrderId(turn - OPEN / 2);
    let instrument = InstrumentId((oldest.get() % u64::from(INSTRUMENTS)) as u32 + 1);
    let like = tape::order(number, INSTRUMENTS);
    let quantity = Quantity::from_units(9_000_000_000);
    if number.is_multiple_of(8) {
        let price = matchtape_schemas::Price::from_units(4_800_000_000_000);
        let trade = TradeMatched { buy_order_id: oldest, price, quantity, ..TradeMatched::default() };
        return Event::new(instrument, ProducerSequence(number), like.event_time, trade);
    }
    let cancel = OrderCancelled { order_id: oldest, quantity, ..OrderCancelled::default() };
    Event::new(instrument, ProducerSequence(number), like.event_time, cancel)
}

fn main() {
    let options = Options::parse();
    let folder = options.folder();
    let mut report = Report::new("views", folder.path());
    report.guarantee(format!("{INSTRUMENTS} instruments, {OPEN} open orders, every group of one event"));
    // About as many as are read in the time asked for.
    let events = (options.duration().as_millis() as u64 * 1_000).max(2 * OPEN);
    let node =
        Node::open(&folder.path().join("data"), NodeOptions::default(), projections()).expect("a new node");
    let mut publisher = node.publisher(ProducerId(1)).expect("the only one");
    let mut last = Sequence::ZERO;
    for number in 1..=events {
        let event = event(number);
        last = loop {
            match publisher.publish(&event) {
                Ok(published) => break published.sequence(),
                Err(PublishError::WouldBlock) => publisher.wait_for_room(1024).expect("the node is open"),
                Err(error) => panic!("{error}"),
            }
        };
    }
    node.wait(last, Stage::Visible).expect("visible");
    let begun = Instant::now();
    node.store().flush().expect("flushed");
    report.row("flush of what was in memory, with every section", begun.elapsed().as_secs_f64() * 1e3, "ms");

    let reader = node.reader();
    let books = fold(&reader, &mut report);
    sections(&reader, &mut report);
    as_of_any_moment(&reader, last, &mut report);
    let totals: u64 =
        books.iter().map(|(_, book)| book.totals().bids.orders + book.totals().asks.orders).sum();
    report.row("open orders in the end", totals as f64, "orders");
    report.print(options.format);
    drop(publisher);
    node.close().expect("closed");
}

/// Every event, and with each the changed levels and the checksum of its book.
fn fold(reader: &Reader, report: &mut Report) -> Books {
    let (mut plain, mut watched) = (Books::new(), Books::new());
    watched.watch();
    for (what, books) in
        [("fold", &mut plain), ("fold, changed levels and checksum of each group", &mut watched)]
    {
        let (mut events, mut sum) = (0u64, 0u32);
        let begun = Instant::now();
        let mut frames = reader.frames(Sequence::ZERO).expect("from the first");
        while let Some(frame) = frames.next_frame().expect("sound") {
            for event in frame.frame().events() {
                books.apply(&event);
                events += 1;
                for change in books.take_changes() {
                    sum ^= books.get(change.instrument).map_or(0, book_checksum);
                }
            }
        }
        std::hint::black_box(sum);
        report.row(what, events as f64 / begun.elapsed().as_secs_f64() / 1e6, "M events/s");
    }
    plain
}

/// What each view costs a snapshot.
fn sections(reader: &Reader, report: &mut Report) {
    let snapshot = reader.snapshot_before(Sequence::MAX).expect("readable").expect("the flush left one");
    for mut projection in projections() {
        let section = snapshot.section(projection.name()).expect("the node keeps it");
        let begun = Instant::now();
        projection.restore(&section.bytes).expect("as it was saved");
        let restored = begun.elapsed();
        let mut saved = Vec::new();
        let begun = Instant::now();
        projection.save(&mut saved);
        let name = projection.name();
        report.row(format!("section {name}"), section.bytes.len() as f64 / 1024.0, "KiB");
        report.row(format!("section {name}, save"), begun.elapsed().as_secs_f64() * 1e3, "ms");
        report.row(format!("section {name}, restore"), restored.as_secs_f64() * 1e3, "ms");
        assert_eq!(saved, section.bytes, "a section is saved as it was restored");
    }
}

/// One instrument's book from the nearest snapshot.
fn as_of_any_moment(reader: &Reader, last: Sequence, report: &mut Report) {
    let mut histogram = nanoseconds();
    for step in 0..50u64 {
        let through = Sequence(1 + step * (last.get() - 1) / 50);
        let instrument = InstrumentId((step * 97) as u32 % INSTRUMENTS + 1);
        let begun = Instant::now();
        let books = as_of::books(reader, &[instrument], through).expect("kept");
        histogram.record(begun.elapsed().as_nanos() as u64).expect("within bounds");
        std::hint::black_box(books);
    }
    report.latency("book of one instrument as of any moment", &histogram);
}
