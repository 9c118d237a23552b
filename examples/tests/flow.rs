//! The order flow makes lively books, at the pace asked for, and always the same ones.

mod support;

use matchtape_examples::engine::{Engine, Flow, FlowOptions, Session};
use matchtape_schemas::event::{OrderType, Side, TimeInForce};
use matchtape_schemas::{Body, Event, EventTime, InstrumentId, Kind};
use support::NOW;

const DAY: Session = Session { trading_day: 20_231_114, number: 0 };

/// What happens in so many seconds of an exchange's life, and how long each second was busy.
fn live(options: FlowOptions, seconds: u64) -> (Engine, Vec<Event>) {
    let (mut engine, mut events) = (Engine::default(), Vec::new());
    Flow::set_up(&mut engine, DAY, NOW, &mut events).unwrap();
    let mut flow = Flow::new(options, &engine);
    let mut after_ns = 0;
    while after_ns < seconds * 1_000_000_000 {
        let before = events.len();
        flow.step(&mut engine, EventTime(NOW.get() + after_ns as i64), &mut events);
        after_ns += flow.pause_ns(events.len() - before);
    }
    (engine, events)
}

fn count(events: &[Event], wanted: impl Fn(&Event) -> bool) -> usize {
    events.iter().filter(|event| wanted(event)).count()
}

#[test]
fn the_same_seed_gives_the_same_events_and_another_seed_others() {
    let options = FlowOptions { seed: 42, events_per_second: 1_000 };
    let first = live(options, 20).1;
    assert_eq!(first, live(options, 20).1);
    assert_ne!(first, live(FlowOptions { seed: 43, ..options }, 20).1);
}

#[test]
fn events_come_at_the_rate_asked_for_and_in_bursts() {
    for events_per_second in [200, 2_000] {
        let seconds = 600;
        let (_, events) = live(FlowOptions { seed: 5, events_per_second }, seconds);
        let wanted = (events_per_second * seconds) as usize;
        assert!(events.len().abs_diff(wanted) * 100 < wanted * 8, "{} events for {wanted}", events.len());
        let mut by_second = vec![0; seconds as usize + 1];
        events.iter().for_each(|event| {
            by_second[((event.event_time.get() - NOW.get()) / 1_000_000_000) as usize] += 1
        });
        if events_per_second == 2_000 {
            let busy = by_second.iter().filter(|count| **count > 3_000).count();
            assert!((10..200).contains(&busy), "{busy} busy seconds");
        }
    }
}

#[test]
fn every_instrument_has_a_deep_two_sided_book_and_trades_around_where_it_began() {
    let (engine, events) = live(FlowOptions { seed: 3, events_per_second: 2_000 }, 120);
    let mut instruments = 0;
    for (instrument, definition, _) in engine.instruments() {
        let [bid, offer] = [Side::Buy, Side::Sell].map(|side| engine.best(instrument, side).unwrap().units());
        assert!(bid < offer && (offer - bid) * 1_000 < bid, "{}: {bid} against {offer}", definition.symbol);
        for side in [Side::Buy, Side::Sell] {
            let mut prices: Vec<_> = engine.orders(instrument, side).map(|order| order.price).collect();
            prices.dedup();
            assert!(prices.len() >= 5, "{}: {} levels of {side}", definition.symbol, prices.len());
        }
        let prices: Vec<i64> = events
            .iter()
            .filter_map(|event| match &event.body {
                Body::TradeMatched(trade) if event.instrument == instrument => Some(trade.price.units()),
                _ => None,
            })
            .collect();
        let (low, high) = (*prices.iter().min().unwrap(), *prices.iter().max().unwrap());
        assert!(prices.len() > 500 && (high - low) * 10 < low, "{} trades, {low} to {high}", prices.len());
        assert!(high > low, "prices move");
        instruments += 1;
    }
    assert_eq!(instruments, 4);
}

#[test]
fn all_that_an_engine_can_say_is_said() {
    let (_, events) = live(FlowOptions::default(), 120);
    for kind in [
        Kind::InstrumentDefined,
        Kind::AccountOpened,
        Kind::SessionOpened,
        Kind::TradingStatusChanged,
        Kind::OrderAccepted,
        Kind::OrderRejected,
        Kind::OrderReplaced,
        Kind::OrderCancelled,
        Kind::OrderExecuted,
        Kind::TradeMatched,
    ] {
        assert!(count(&events, |event| event.body.kind() == kind) > 0, "{kind}");
    }
    for time_in_force in TimeInForce::ALL {
        let of =
            |body: &Body| matches!(body, Body::OrderAccepted(order) if order.time_in_force == *time_in_force);
        assert!(count(&events, |event| of(&event.body)) > 0, "{time_in_force}");
    }
    let market =
        |body: &Body| matches!(body, Body::OrderAccepted(order) if order.order_type == OrderType::Market);
    assert!(count(&events, |event| market(&event.body)) > 0);
    let rejected = count(&events, |event| event.body.kind() == Kind::OrderRejected);
    assert!(rejected * 100 < events.len(), "{rejected} refusals");
}

#[test]
fn setting_up_again_on_another_day_only_changes_the_day() {
    let (mut engine, mut events) = (Engine::default(), Vec::new());
    Flow::set_up(&mut engine, DAY, NOW, &mut events).unwrap();
    let (accounts, instruments) = (engine.accounts(), engine.instruments().count());
    events.clear();
    Flow::set_up(&mut engine, Session { trading_day: 20_231_115, number: 0 }, NOW, &mut events).unwrap();
    let kinds: Vec<Kind> = events.iter().map(|event| event.body.kind()).collect();
    assert_eq!(kinds, [Kind::SessionClosed, Kind::SessionOpened]);
    assert_eq!((engine.accounts(), engine.instruments().count()), (accounts, instruments));
    assert!(engine.best(InstrumentId(1), Side::Buy).is_none());
}
