//! The rules of the book, one by one.

mod common;

use common::*;
use matchtape_market::*;
use matchtape_schemas::event::Side::{Buy, Sell};
use matchtape_schemas::event::*;
use matchtape_schemas::*;

fn book_of(events: &[Event]) -> Book {
    let mut book = Book::new();
    Tape::of(events).each(|event| book.apply(event));
    book
}

fn queue(book: &Book, side: Side, at: &str) -> Vec<(u64, u64)> {
    book.queue(side, price(at))
        .map(|order| (order.order_id.get(), order.quantity.units() / 1_000_000_000))
        .collect()
}

fn levels(book: &Book, side: Side) -> Vec<(String, String, u32)> {
    book.levels(side)
        .map(|level| (level.price.to_string(), level.quantity.to_string(), level.orders))
        .collect()
}

fn level(price: &str, quantity: &str, orders: u32) -> (String, String, u32) {
    (price.to_owned(), quantity.to_owned(), orders)
}

#[test]
fn orders_queue_by_price_then_time() {
    let book = book_of(&[
        accepted(1, Buy, "10", 5),
        accepted(2, Buy, "10.5", 3),
        accepted(3, Buy, "10", 7),
        accepted(4, Sell, "11", 1),
        accepted(5, Sell, "10.9", 2),
        accepted(6, Buy, "-1", 2),
    ]);
    assert_eq!(levels(&book, Buy), [level("10.5", "3", 1), level("10", "12", 2), level("-1", "2", 1)]);
    assert_eq!(levels(&book, Sell), [level("10.9", "2", 1), level("11", "1", 1)]);
    assert_eq!(queue(&book, Buy, "10"), [(1, 5), (3, 7)]);
    assert_eq!(book.best(Buy).unwrap().price, price("10.5"));
    assert!(!book.is_crossed());
    let totals = book.totals();
    assert_eq!((totals.bid_levels, totals.ask_levels), (3, 2));
    assert_eq!((totals.bids.orders, totals.bids.quantity.to_string()), (4, "17".to_owned()));
    assert_eq!((totals.asks.orders, totals.asks.quantity.to_string()), (2, "3".to_owned()));
}

#[test]
fn a_replacement_keeps_its_place_only_if_price_and_id_stay_and_quantity_does_not_grow() {
    let three = [accepted(1, Buy, "10", 5), accepted(2, Buy, "10", 5), accepted(3, Buy, "10", 5)];
    let after = |change: Event| book_of(&[&three[..], &[change]].concat());
    assert_eq!(queue(&after(replaced(1, 1, Buy, "10", 4)), Buy, "10"), [(1, 4), (2, 5), (3, 5)]);
    assert_eq!(queue(&after(replaced(1, 1, Buy, "10", 5)), Buy, "10"), [(1, 5), (2, 5), (3, 5)]);
    assert_eq!(queue(&after(replaced(1, 1, Buy, "10", 6)), Buy, "10"), [(2, 5), (3, 5), (1, 6)]);
    assert_eq!(queue(&after(replaced(1, 9, Buy, "10", 4)), Buy, "10"), [(2, 5), (3, 5), (9, 4)]);
    assert_eq!(queue(&after(replaced(2, 2, Side::None, "10", 1)), Buy, "10"), [(1, 5), (2, 1), (3, 5)]);
    let moved = after(replaced(2, 2, Buy, "10.1", 5));
    assert_eq!(queue(&moved, Buy, "10"), [(1, 5), (3, 5)]);
    assert_eq!(queue(&moved, Buy, "10.1"), [(2, 5)]);
    let gone = after(replaced(2, 2, Buy, "10", 0));
    assert_eq!(queue(&gone, Buy, "10"), [(1, 5), (3, 5)]);
    assert_eq!(gone.counters(), BookCounters::default());
}

#[test]
fn a_replacement_of_an_unknown_order_inserts_and_is_counted() {
    let book = book_of(&[replaced(4, 5, Sell, "3", 2)]);
    assert_eq!(queue(&book, Sell, "3"), [(5, 2)]);
    assert_eq!(book.counters(), BookCounters { replaces_of_unknown: 1, ..Default::default() });
}

#[test]
fn cancels_take_part_or_all_and_those_of_unknown_orders_are_counted() {
    let book = book_of(&[
        accepted(1, Sell, "3", 9),
        accepted(2, Sell, "3", 9),
        cancelled(1, 4),
        cancelled(2, 9),
        cancelled(2, 9),
        cancelled(77, 1),
    ]);
    assert_eq!(queue(&book, Sell, "3"), [(1, 5)]);
    assert_eq!(book.order(OrderId(2)), None);
    assert_eq!(book.counters(), BookCounters { cancels_of_unknown: 2, ..Default::default() });
}

#[test]
fn more_than_is_left_takes_all_and_is_counted() {
    let book = book_of(&[
        accepted(1, Sell, "3", 9),
        accepted(2, Sell, "3", 9),
        accepted(3, Buy, "2", 9),
        cancelled(1, 10),
        executed(2, 10),
        executed(2, 1),
        traded(3, 4, "2", 10),
    ]);
    assert_eq!(book.totals(), BookTotals::default());
    let counters = BookCounters {
        cancels_beyond_left: 1,
        executions_beyond_left: 2,
        executions_of_unknown: 1,
        ..Default::default()
    };
    assert_eq!(book.counters(), counters);
}

#[test]
fn a_trade_takes_its_quantity_off_each_order_that_rests() {
    let resting = [accepted(1, Buy, "10", 5), accepted(2, Sell, "10", 7)];
    let auction = book_of(&[&resting[..], &[traded(1, 2, "10", 5)]].concat());
    assert_eq!((levels(&auction, Buy), queue(&auction, Sell, "10")), (vec![], vec![(2, 2)]));
    // An aggressor that the venue posts only afterwards, or never.
    let aggressive = book_of(&[&resting[..], &[traded(99, 2, "10", 3)]].concat());
    assert_eq!(queue(&aggressive, Sell, "10"), [(2, 4)]);
    assert_eq!(aggressive.counters(), BookCounters::default());
}

#[test]
fn what_only_reports_never_changes_the_book() {
    let book = book_of(&[
        accepted(1, Buy, "10", 5),
        reports_only(traded(1, 2, "10", 5)),
        reports_only(executed(1, 5)),
        reports_only(executed(9, 5)),
    ]);
    assert_eq!(queue(&book, Buy, "10"), [(1, 5)]);
    assert_eq!((book.counters(), book.changed_at()), (BookCounters::default(), Sequence(1)));
}

#[test]
fn a_market_order_never_rests_but_is_known() {
    let book = book_of(&[market_order(1, Buy, 5), accepted(2, Sell, "10", 9), traded(1, 2, "10", 3)]);
    assert_eq!(levels(&book, Buy), []);
    let order = book.order(OrderId(1)).unwrap();
    assert_eq!((order.quantity, order.resting), (whole(2), false));
    let book = book_of(&[market_order(1, Buy, 5), cancelled(1, 5)]);
    assert_eq!((book.order(OrderId(1)), book.counters()), (None, BookCounters::default()));
}

#[test]
fn an_id_may_be_used_again_once_its_order_is_gone() {
    let book = book_of(&[accepted(1, Buy, "10", 5), cancelled(1, 5), accepted(1, Sell, "12", 1)]);
    assert_eq!((queue(&book, Sell, "12"), book.counters()), (vec![(1, 1)], BookCounters::default()));
    let book = book_of(&[accepted(1, Buy, "10", 5), accepted(1, Sell, "12", 1)]);
    assert_eq!(book.totals().bids, SideTotals::default());
    assert_eq!((queue(&book, Sell, "12"), book.counters().numbers_in_use), (vec![(1, 1)], 1));
}

#[test]
fn a_cleared_book_is_empty_and_goes_on() {
    let book =
        book_of(&[accepted(1, Buy, "10", 5), market_order(2, Buy, 5), cleared(), accepted(3, Buy, "9", 1)]);
    assert_eq!(levels(&book, Buy), [level("9", "1", 1)]);
    assert_eq!((book.order(OrderId(1)), book.order(OrderId(2))), (None, None));
    assert_eq!(book.resting(Buy).map(|order| order.order_id).collect::<Vec<_>>(), [OrderId(3)]);
}

#[test]
fn level_sums_beyond_64_bits_are_exact() {
    let huge = |id| {
        let mut event = accepted(id, Buy, "1", 1);
        let Body::OrderAccepted(order) = &mut event.body else { unreachable!() };
        order.quantity = Quantity::from_units(u64::MAX);
        event
    };
    let book = book_of(&[huge(1), huge(2), huge(3), cancelled(2, 1)]);
    let left = 3 * u128::from(u64::MAX) - 1_000_000_000;
    assert_eq!(book.best(Buy).unwrap().quantity.units(), left);
}

#[test]
fn the_checksum_is_crc32_of_the_top_ten_as_text() {
    assert_eq!(book_checksum(&Book::new()), 0);
    let mut events =
        vec![accepted(1, Sell, "10.25", 3), accepted(2, Buy, "10", 1), accepted(3, Buy, "10", 2)];
    let book = book_of(&events);
    assert_eq!(book_checksum(&book), crc32fast::hash(b"buy,10,3,2\nsell,10.25,3,1\n"));
    events.extend((0..20).map(|id| accepted(100 + id, Buy, &(9 - id as i64).to_string(), 1)));
    let deep = book_of(&events);
    events.push(cancelled(119, 1));
    assert_eq!(book_checksum(&book_of(&events)), book_checksum(&deep), "the eleventh bid is not covered");
    events.push(cancelled(100, 1));
    assert_ne!(book_checksum(&book_of(&events)), book_checksum(&deep));
}
