//! An engine that stops at any group's end and is rebuilt from its own tape goes on as if it had never stopped.

mod support;

use matchtape_examples::engine::{
    Engine, EngineOptions, EngineProjection, Flow, FlowOptions, SelfTrade, Session,
};
use matchtape_schemas::event::{OrderCancelled, Side, TradeMatched};
use matchtape_schemas::{
    Event, EventTime, InstrumentId, OrderId, ProducerId, ProducerSequence, Projection, Quantity, TradeId,
};
use proptest::prelude::*;
use support::{ACME, Action, NOW, Tape, any_action, cents, exchange, limit, shares};

fn at(step: usize) -> EventTime {
    // Some clocks stand still and some go back.
    EventTime(NOW.get() + (step as i64 / 2) * 3 - (step as i64 % 5))
}

fn run(engine: &mut Engine, actions: &[Action], first_step: usize) -> Vec<Vec<Event>> {
    let groups = actions.iter().enumerate().map(|(index, action)| {
        let mut group = Vec::new();
        action.perform(engine, at(first_step + index), &mut group);
        group
    });
    groups.collect()
}

fn rebuilt(options: EngineOptions, groups: &[Vec<Event>]) -> Engine {
    let mut tape = Tape::new(options.producer);
    tape.append(&groups.concat());
    Engine::rebuild(options, tape.events()).unwrap()
}

/// Everything that can be asked of an engine.
fn all_of(engine: &Engine) -> impl PartialEq + std::fmt::Debug {
    let instruments: Vec<_> =
        engine.instruments().map(|(id, definition, status)| (id, definition.clone(), status)).collect();
    let orders: Vec<_> = instruments
        .iter()
        .flat_map(|(id, ..)| {
            [Side::Buy, Side::Sell].map(|side| engine.orders(*id, side).copied().collect::<Vec<_>>())
        })
        .collect();
    let accounts: Vec<_> = (0..10).map(|id| engine.account(matchtape_schemas::AccountId(id))).collect();
    let numbers = (engine.last_producer_sequence(), engine.last_event_time(), engine.resting_orders());
    (instruments, orders, accounts, engine.session(), numbers)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn an_engine_rebuilt_at_any_group_end_says_what_one_that_never_stopped_says(
        self_trade in prop::sample::select(vec![SelfTrade::Allow, SelfTrade::CancelResting, SelfTrade::CancelArriving]),
        actions in prop::collection::vec(any_action(2), 1..200),
        stop in any::<prop::sample::Index>(),
    ) {
        let (mut straight, setup) = exchange(self_trade, 2);
        let groups = run(&mut straight, &actions, 0);

        let stop = stop.index(actions.len() + 1);
        let before = [&[setup][..], &groups[..stop]].concat();
        let mut stopped = rebuilt(straight.options(), &before);
        let after = run(&mut stopped, &actions[stop..], stop);
        prop_assert_eq!(&after[..], &groups[stop..]);
        prop_assert_eq!(all_of(&stopped), all_of(&straight));
    }

    #[test]
    fn an_engine_restored_from_a_snapshot_says_what_one_that_never_stopped_says(
        self_trade in prop::sample::select(vec![SelfTrade::Allow, SelfTrade::CancelResting, SelfTrade::CancelArriving]),
        actions in prop::collection::vec(any_action(2), 1..200),
        stop in any::<prop::sample::Index>(),
    ) {
        let (mut straight, setup) = exchange(self_trade, 2);
        let groups = run(&mut straight, &actions, 0);

        let stop = stop.index(actions.len() + 1);
        let mut tape = Tape::new(straight.options().producer);
        tape.append(&[&[setup][..], &groups[..stop]].concat().concat());
        let mut folded = EngineProjection::new(straight.options());
        tape.events().for_each(|event| folded.apply(&event));
        let (mut section, mut again) = (Vec::new(), Vec::new());
        folded.save(&mut section);
        let mut restored = EngineProjection::new(straight.options());
        restored.restore(&section).unwrap();
        restored.save(&mut again);
        prop_assert_eq!(&again, &section);

        let mut restored = restored.into_engine().unwrap();
        let after = run(&mut restored, &actions[stop..], stop);
        prop_assert_eq!(&after[..], &groups[stop..]);
        prop_assert_eq!(all_of(&restored), all_of(&straight));
    }
}

#[test]
fn a_tape_of_order_flow_is_taken_up_anywhere_and_the_flow_goes_on_with_the_books_it_finds() {
    let options = EngineOptions { producer: ProducerId(9), ..EngineOptions::default() };
    let mut engine = Engine::new(options);
    let mut groups = vec![Vec::new()];
    let day = Session { trading_day: 20_231_114, number: 0 };
    Flow::set_up(&mut engine, day, NOW, &mut groups[0]).unwrap();
    let mut flow = Flow::new(FlowOptions::default(), &engine);
    for step in 0..5_000 {
        let mut group = Vec::new();
        flow.step(&mut engine, EventTime(NOW.get() + step), &mut group);
        groups.push(group);
    }
    for stop in [1, 2, 777, 5_001] {
        let mut again = rebuilt(options, &groups[..stop]);
        let mut setup = Vec::new();
        Flow::set_up(&mut again, day, NOW, &mut setup).unwrap();
        assert_eq!(setup, [], "all was set up before");
        let (mut flow, mut out) = (Flow::new(FlowOptions::default(), &again), Vec::new());
        let resting = again.resting_orders();
        (0..2_000).for_each(|step| flow.step(&mut again, EventTime(NOW.get() + 5_000 + step), &mut out));
        let first = groups[..stop].concat().len() as u64 + 1;
        let numbers: Vec<u64> = out.iter().map(|event| event.producer_sequence.get()).collect();
        assert_eq!(numbers, (first..first + out.len() as u64).collect::<Vec<_>>());
        assert!(
            again.resting_orders() < 1_000 && again.resting_orders() * 2 > resting,
            "from {resting} orders"
        );
    }
}

#[test]
fn a_rebuilt_engine_carries_on_its_numbers_behind_events_of_other_producers() {
    let (mut engine, setup) = exchange(SelfTrade::Allow, 1);
    let mut groups = vec![setup];
    for side in [Side::Buy, Side::Sell] {
        let mut group = Vec::new();
        engine.execute(&matchtape_examples::engine::Command::New(limit(1, side, 100, 5)), NOW, &mut group);
        groups.push(group);
    }
    let mut tape = Tape::new(engine.options().producer);
    tape.append(&groups.concat());
    tape.producer = ProducerId(77);
    let foreign = OrderCancelled { order_id: OrderId(5), quantity: shares(1), ..Default::default() };
    tape.append(&[Event::new(ACME, ProducerSequence(1_000_000), NOW, foreign)]);
    let mut again = Engine::rebuild(engine.options(), tape.events()).unwrap();
    let next = |engine: &mut Engine| {
        let mut group = Vec::new();
        engine.execute(
            &matchtape_examples::engine::Command::New(limit(2, Side::Buy, 99, 5)),
            NOW,
            &mut group,
        );
        engine.execute(
            &matchtape_examples::engine::Command::New(limit(3, Side::Sell, 99, 1)),
            NOW,
            &mut group,
        );
        group
    };
    let said = next(&mut again);
    assert_eq!(said, next(&mut engine));
    let trades: Vec<TradeId> = said
        .iter()
        .filter_map(|event| match &event.body {
            matchtape_schemas::Body::TradeMatched(trade) => Some(trade.trade_id),
            _ => None,
        })
        .collect();
    assert_eq!(trades, [TradeId(2)]);
}

#[test]
fn a_tape_that_the_engine_cannot_have_written_is_refused_with_the_position() {
    let (engine, setup) = exchange(SelfTrade::Allow, 1);
    let refusal = |body: matchtape_schemas::Body, instrument: InstrumentId| {
        let mut tape = Tape::new(engine.options().producer);
        tape.append(&setup);
        tape.append(&[Event::new(instrument, ProducerSequence(1_000), NOW, body)]);
        let error = Engine::rebuild(engine.options(), tape.events()).unwrap_err();
        assert_eq!(error.sequence.get(), setup.len() as u64 + 1);
        error.what
    };
    let cancel = OrderCancelled { order_id: OrderId(5), quantity: shares(1), ..Default::default() };
    assert_eq!(refusal(cancel.clone().into(), ACME), "order 5 is not in the book");
    assert_eq!(refusal(cancel.into(), InstrumentId(9)), "no instrument 9");
    let trade = TradeMatched { buy_order_id: OrderId(1), quantity: Quantity::ZERO, ..Default::default() };
    assert_eq!(refusal(trade.into(), ACME), "order 1 is not in the book");
    let market_order = matchtape_schemas::event::OrderAccepted {
        order_id: OrderId(1),
        quantity: shares(1),
        side: Side::Buy,
        price: cents(1),
        time_in_force: matchtape_schemas::event::TimeInForce::ImmediateOrCancel,
        ..Default::default()
    };
    assert_eq!(refusal(market_order.into(), ACME), "1 left of order 1, which may not rest");
}

#[test]
fn a_section_that_was_not_saved_by_this_engine_is_refused() {
    let (engine, setup) = exchange(SelfTrade::Allow, 1);
    let mut tape = Tape::new(engine.options().producer);
    tape.append(&setup);
    let mut folded = EngineProjection::new(engine.options());
    tape.events().for_each(|event| folded.apply(&event));
    let mut section = Vec::new();
    folded.save(&mut section);
    let refusal = |options: EngineOptions, section: &[u8]| {
        EngineProjection::new(options).restore(section).unwrap_err().to_string()
    };
    let other = EngineOptions { producer: ProducerId(2), ..engine.options() };
    assert_eq!(refusal(other, &section), "section engine: the engine of producer 1, not 2 at byte 0");
    assert!(refusal(engine.options(), &section[..40]).contains("40 bytes"));
    assert!(refusal(engine.options(), &section[..section.len() - 16]).contains("at byte 48"));
    for at in (48..section.len()).step_by(97) {
        let mut damaged = section.clone();
        damaged[at] ^= 1;
        assert!(refusal(engine.options(), &damaged).contains("at byte 48"), "byte {at}");
    }
}

#[test]
fn a_projection_of_a_foreign_tape_says_so_also_from_its_snapshot() {
    let (engine, _) = exchange(SelfTrade::Allow, 1);
    let mut tape = Tape::new(engine.options().producer);
    let cancel = OrderCancelled { order_id: OrderId(5), quantity: shares(1), ..Default::default() };
    tape.append(&[Event::new(ACME, ProducerSequence(1), NOW, cancel)]);
    let mut folded = EngineProjection::new(engine.options());
    tape.events().for_each(|event| folded.apply(&event));
    let (mut section, mut restored) = (Vec::new(), EngineProjection::new(engine.options()));
    folded.save(&mut section);
    restored.restore(&section).unwrap();
    assert_eq!(folded.into_engine().unwrap_err().to_string(), "event 1: no instrument 1");
    assert_eq!(restored.into_engine().unwrap_err().sequence.get(), 1);
}
