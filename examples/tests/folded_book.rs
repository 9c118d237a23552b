//! A book folded from the tape is the engine's own after every group, order by order.

mod support;

use matchtape_examples::engine::{Engine, Flow, FlowOptions, SelfTrade, Session};
use matchtape_market::{BookCounters, Books};
use matchtape_schemas::event::Side;
use matchtape_schemas::{AccountId, Event, EventTime, InstrumentId, OrderId, Price, Quantity};
use proptest::prelude::*;
use support::{NOW, Tape, any_action, exchange};

type Order = (OrderId, Price, Quantity);

fn engines_own(engine: &Engine, instrument: InstrumentId, side: Side) -> Vec<Order> {
    engine.orders(instrument, side).map(|order| (order.id, order.price, order.quantity)).collect()
}

fn folded(books: &Books, instrument: InstrumentId, side: Side) -> Vec<Order> {
    let Some(book) = books.get(instrument) else { return Vec::new() };
    book.resting(side).map(|order| (order.order_id, order.price, order.quantity)).collect()
}

/// Checks that the folded books are the engine's and that no event left them guessing.
fn check(engine: &Engine, books: &Books) {
    let mut resting = 0;
    for (instrument, ..) in engine.instruments() {
        for side in [Side::Buy, Side::Sell] {
            let own = engines_own(engine, instrument, side);
            assert_eq!(folded(books, instrument, side), own, "{side} side of {instrument}");
            resting += own.len();
        }
    }
    for (instrument, book) in books.iter() {
        assert!(!book.is_crossed(), "book of {instrument}");
        assert_eq!(book.counters(), BookCounters::default(), "book of {instrument}");
        let known = book.totals().bids.orders + book.totals().asks.orders;
        resting -= known as usize;
    }
    assert_eq!(resting, 0);
}

fn fold(tape: &mut Tape, books: &mut Books, group: &[Event]) {
    let first_new = tape.append(group);
    tape.events_from(first_new).for_each(|event| books.apply(&event));
}

fn self_trades() -> impl Strategy<Value = SelfTrade> {
    prop::sample::select(vec![SelfTrade::Allow, SelfTrade::CancelResting, SelfTrade::CancelArriving])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_book_folded_from_the_tape_is_the_engines_book_after_every_group(
        self_trade in self_trades(),
        actions in prop::collection::vec(any_action(2), 1..150),
    ) {
        let (mut engine, setup) = exchange(self_trade, 2);
        let (mut tape, mut books) = (Tape::new(engine.options().producer), Books::new());
        fold(&mut tape, &mut books, &setup);
        let mut group = Vec::new();
        for action in &actions {
            group.clear();
            action.perform(&mut engine, NOW, &mut group);
            fold(&mut tape, &mut books, &group);
            check(&engine, &books);
        }
        let resting: usize = engine.instruments().map(|(id, ..)| {
            engines_own(&engine, id, Side::Buy).len() + engines_own(&engine, id, Side::Sell).len()
        }).sum();
        prop_assert_eq!(engine.resting_orders(), resting);
    }
}

#[test]
fn the_order_flow_keeps_folded_books_and_engine_in_step() {
    let mut engine = Engine::default();
    let (mut tape, mut books, mut group) = (Tape::new(engine.options().producer), Books::new(), Vec::new());
    Flow::set_up(&mut engine, Session { trading_day: 20_231_114, number: 0 }, NOW, &mut group).unwrap();
    fold(&mut tape, &mut books, &group);
    let mut flow = Flow::new(FlowOptions::default(), &engine);
    for step in 0..20_000 {
        group.clear();
        flow.step(&mut engine, EventTime(NOW.get() + step), &mut group);
        fold(&mut tape, &mut books, &group);
        if step % 100 == 0 {
            check(&engine, &books);
        }
    }
    check(&engine, &books);
    assert!(engine.account(AccountId(1)).is_some());
}
