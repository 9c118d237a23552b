//! The demonstration on a real node: stopped, crashed and started again, it is one exchange.

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use matchtape_examples::demo::{Demo, DemoError, DemoOptions, DemoReport, recover};
use matchtape_examples::engine::{Engine, EngineOptions, EngineProjection, FlowOptions, Session};
use matchtape_market::{BookCounters, Books};
use matchtape_node::{Node, NodeOptions};
use matchtape_schemas::event::{InstrumentDefined, OrderCancelled, Side};
use matchtape_schemas::text::Text;
use matchtape_schemas::{
    Event, InstrumentId, OrderId, ProducerId, ProducerSequence, Projection, Quantity, Sequence, Stage,
};
use matchtape_storage::Reader;
use support::{ACME, NOW};

const PRODUCER: ProducerId = ProducerId(3);

fn options(events_per_second: u64) -> DemoOptions {
    DemoOptions { flow: FlowOptions { seed: 11, events_per_second }, ..DemoOptions::default() }
}

fn node(directory: &Path, projections: Vec<Box<dyn Projection>>) -> Node {
    Node::open(directory, NodeOptions::default(), projections).unwrap()
}

fn engine_options() -> EngineOptions {
    EngineOptions { producer: PRODUCER, ..EngineOptions::default() }
}

/// Runs the demonstration until so many events of it are on the tape.
fn trade(node: &Node, options: DemoOptions, events: u64) -> (Engine, DemoReport) {
    let reader = node.reader();
    let mut demo = Demo::open(node.publisher(PRODUCER).unwrap(), &reader, options).unwrap();
    let (stop, goal) = (AtomicBool::new(false), Sequence(reader.visible().get() + events));
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            node.wait(goal, Stage::Durable).unwrap();
            stop.store(true, Ordering::Relaxed);
        });
        demo.run(&stop).unwrap()
    });
    node.wait(report.last, Stage::Visible).unwrap();
    (demo.engine().clone(), report)
}

type Order = (InstrumentId, OrderId, Quantity);

fn resting(engine: &Engine) -> Vec<Order> {
    let orders = |(id, ..): (InstrumentId, _, _)| {
        [Side::Buy, Side::Sell]
            .map(|side| engine.orders(id, side).map(move |order| (id, order.id, order.quantity)))
    };
    engine.instruments().flat_map(orders).flatten().collect()
}

/// The books of the tape, and a check that the exchange's numbers on it have no hole.
fn folded(reader: &Reader) -> Vec<Order> {
    let (mut books, mut last) = (Books::new(), 0);
    let mut frames = reader.frames(Sequence::FIRST).unwrap();
    while let Some(frame) = frames.next_frame().unwrap() {
        for event in frame.frame().events() {
            books.apply(&event);
            if event.header().producer == PRODUCER {
                assert_eq!(event.header().producer_sequence.get(), last + 1);
                last += 1;
            }
        }
    }
    assert!(books.iter().all(|(_, book)| book.counters() == BookCounters::default() && !book.is_crossed()));
    let sides = books.iter().flat_map(|(id, book)| [Side::Buy, Side::Sell].map(|side| (id, book, side)));
    let order = |id| move |order: matchtape_market::BookOrder| (id, order.order_id, order.quantity);
    sides.flat_map(|(id, book, side)| book.resting(side).map(order(id))).collect()
}

#[test]
fn the_exchange_carries_on_after_a_stop_and_after_a_crash_with_the_books_of_its_tape() {
    let folder = tempfile::tempdir().unwrap();
    let mut events = 0;
    for crash in [false, true, false] {
        let node = node(folder.path(), Vec::new());
        let recovered = recover(&node.reader(), engine_options()).unwrap();
        assert_eq!(resting(&recovered), folded(&node.reader()));
        assert_eq!(recovered.last_producer_sequence().get(), events);
        let (engine, report) = trade(&node, options(u64::MAX), 10_000);
        events += report.events;
        assert!(report.events >= 9_000 && report.groups < report.events, "{report:?}");
        assert_eq!(resting(&engine), folded(&node.reader()));
        assert!(engine.resting_orders() > 100);
        if crash { drop(node) } else { node.close().unwrap() }
    }
}

#[test]
fn an_engine_in_the_snapshot_is_the_engine_of_the_whole_tape() {
    let folder = tempfile::tempdir().unwrap();
    let projections =
        || -> Vec<Box<dyn Projection>> { vec![Box::new(EngineProjection::new(engine_options()))] };
    let first = node(folder.path(), projections());
    trade(&first, options(u64::MAX), 5_000);
    first.store().flush().unwrap();
    let (engine, _) = trade(&first, options(u64::MAX), 3_000);
    drop(first);

    let again = node(folder.path(), projections());
    let snapshot = again.reader().snapshot_before(Sequence::MAX).unwrap().unwrap();
    assert!(
        snapshot.section(EngineProjection::NAME).is_some() && snapshot.sequence() < again.reader().visible()
    );
    let recovered = recover(&again.reader(), engine_options()).unwrap();
    assert_eq!((resting(&recovered), recovered.session()), (resting(&engine), engine.session()));
    assert_eq!(recovered.last_producer_sequence(), engine.last_producer_sequence());
    // The section at the head is the same engine again.
    let mut restored = EngineProjection::new(engine_options());
    restored.restore(again.store().projection_section(EngineProjection::NAME).unwrap()).unwrap();
    assert_eq!(resting(&restored.into_engine().unwrap()), resting(&engine));
    trade(&again, options(u64::MAX), 1_000);
}

#[test]
fn the_exchange_keeps_its_rate_and_ends_after_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path(), Vec::new());
    let options = DemoOptions { duration: Some(Duration::from_secs(2)), ..options(2_000) };
    let mut demo = Demo::open(node.publisher(PRODUCER).unwrap(), &node.reader(), options).unwrap();
    let mut before = 0;
    // A machine that stands still for long is made up for in part only: then it is tried again.
    let in_time = (0..10).any(|_| {
        let report = demo.run(&AtomicBool::new(false)).unwrap();
        let events = report.events - std::mem::replace(&mut before, report.events);
        assert!(events < 14_000, "{events}: bursts come at five times the rate");
        events >= 1_500
    });
    assert!(in_time, "it stays behind its rate");
    let today = demo.engine().session().unwrap();
    assert!(matches!(today, Session { trading_day: 20_240_101.., number: 0 }), "{today:?}");
}

#[test]
fn a_full_ring_makes_the_exchange_wait_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let options_of_node = NodeOptions { ring_slots: 256, ..NodeOptions::default() };
    let node = Node::open(folder.path(), options_of_node, Vec::new()).unwrap();
    // Whoever is slower than the node never waits: on, until it has.
    let waited =
        (0..100).map(|_| trade(&node, options(u64::MAX), 20_000)).find(|(_, report)| report.waits > 0);
    let (engine, _) = waited.expect("the ring is never full");
    assert_eq!(resting(&engine), folded(&node.reader()));
}

#[test]
fn a_tape_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path(), Vec::new());
    let mut publisher = node.publisher(PRODUCER).unwrap();
    let cancel = OrderCancelled { order_id: OrderId(5), ..Default::default() };
    let published = publisher.publish(&Event::new(ACME, ProducerSequence(1), NOW, cancel)).unwrap();
    node.wait(published.sequence(), Stage::Visible).unwrap();
    let refused = Demo::open(publisher, &node.reader(), options(1)).err().unwrap();
    assert!(matches!(refused, DemoError::Rebuild(_)), "{refused}");
}

#[test]
fn a_tape_with_instruments_of_somebody_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path(), Vec::new());
    let mut other = node.publisher(ProducerId(77)).unwrap();
    let symbol = Text::new("ESH4").unwrap();
    let definition = InstrumentDefined { symbol, ..InstrumentDefined::default() };
    let published = other.publish(&Event::new(ACME, ProducerSequence(1), NOW, definition)).unwrap();
    node.wait(published.sequence(), Stage::Visible).unwrap();
    // Its own first definition would call that instrument otherwise, on all of the tape.
    let refused = Demo::open(node.publisher(PRODUCER).unwrap(), &node.reader(), options(1)).err().unwrap();
    assert!(matches!(refused, DemoError::OtherTape), "{refused}");
}
