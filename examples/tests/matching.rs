//! What the engine does with orders, one rule at a time.

mod support;

use matchtape_examples::engine::{
    Command, Engine, EngineOptions, NewOrder, OperatorError, SelfTrade, Session,
};
use matchtape_schemas::event::{
    AccountOpened, CancelReason, EventFlags, InstrumentDefined, Liquidity, OrderType, RejectReason, Side,
    TimeInForce, TradingStatus,
};
use matchtape_schemas::{AccountId, Body, Event, EventTime, InstrumentId, OrderId, Price, Quantity};
use support::{ACME, NOW, cents, exchange, limit, shares};

struct Desk {
    engine: Engine,
    said: Vec<Event>,
}

impl Desk {
    fn new() -> Self {
        Self::with(SelfTrade::default())
    }

    fn with(self_trade: SelfTrade) -> Self {
        Self { engine: exchange(self_trade, 1).0, said: Vec::new() }
    }

    /// What the engine says to a command, in short.
    fn ask(&mut self, command: Command) -> Vec<String> {
        self.said.clear();
        self.engine.execute(&command, NOW, &mut self.said);
        let ends: Vec<bool> =
            self.said.iter().map(|event| event.flags.contains(EventFlags::LAST_OF_GROUP)).collect();
        assert_eq!(ends.iter().position(|end| *end), Some(ends.len() - 1), "one group");
        self.said.iter().map(short).collect()
    }

    fn enter(&mut self, order: NewOrder) -> Vec<String> {
        self.ask(Command::New(order))
    }

    fn cancel(&mut self, account: u64, order_id: u64) -> Vec<String> {
        self.ask(Command::Cancel {
            instrument: ACME,
            account: AccountId(account),
            order_id: OrderId(order_id),
        })
    }

    fn replace(&mut self, account: u64, order_id: u64, price: i64, quantity: u64) -> Vec<String> {
        self.ask(Command::Replace {
            instrument: ACME,
            account: AccountId(account),
            order_id: OrderId(order_id),
            price: cents(price),
            quantity: shares(quantity),
        })
    }

    /// A side of the book in trading order, as (order, shares).
    fn book(&self, side: Side) -> Vec<(u64, u64)> {
        let one = shares(1).units();
        self.engine.orders(ACME, side).map(|order| (order.id.get(), order.quantity.units() / one)).collect()
    }
}

fn short(event: &Event) -> String {
    match &event.body {
        Body::OrderAccepted(order) => {
            format!("accepted {} {}@{}", order.order_id, order.quantity, order.price)
        }
        Body::OrderReplaced(order) => {
            format!("replaced {} {}@{}", order.order_id, order.quantity, order.price)
        }
        Body::OrderRejected(order) => format!("rejected {} {}", order.order_id, order.reason),
        Body::OrderCancelled(order) => {
            format!("cancelled {} {} {}", order.order_id, order.quantity, order.reason)
        }
        Body::TradeMatched(trade) => {
            let (buy, sell) = (trade.buy_order_id, trade.sell_order_id);
            format!("trade {} {buy}x{sell} {}@{}", trade.trade_id, trade.quantity, trade.price)
        }
        Body::OrderExecuted(order) => {
            assert!(event.flags.contains(EventFlags::REPORTS_ONLY), "the trade changes the book");
            let made = if order.liquidity == Liquidity::Maker { "made" } else { "took" };
            format!("{made} {} leaves {}", order.order_id, order.leaves_quantity)
        }
        other => other.kind().to_string(),
    }
}

fn sell(account: u64, price: i64, quantity: u64) -> NewOrder {
    limit(account, Side::Sell, price, quantity)
}

fn buy(account: u64, price: i64, quantity: u64) -> NewOrder {
    limit(account, Side::Buy, price, quantity)
}

fn with(order: NewOrder, time_in_force: TimeInForce) -> NewOrder {
    NewOrder { time_in_force, ..order }
}

#[test]
fn the_best_price_trades_first_then_the_first_come_at_the_resting_price() {
    let mut desk = Desk::new();
    for (price, quantity) in [(102, 5), (101, 3), (101, 4), (103, 9)] {
        desk.enter(sell(1, price, quantity));
    }
    let said = desk.enter(buy(2, 102, 10));
    assert_eq!(
        said,
        [
            "accepted 5 10@1.02",
            "trade 1 5x2 3@1.01",
            "made 2 leaves 0",
            "took 5 leaves 7",
            "trade 2 5x3 4@1.01",
            "made 3 leaves 0",
            "took 5 leaves 3",
            "trade 3 5x1 3@1.02",
            "made 1 leaves 2",
            "took 5 leaves 0",
        ]
    );
    assert_eq!((desk.book(Side::Sell), desk.book(Side::Buy)), (vec![(1, 2), (4, 9)], vec![]));
    let Body::TradeMatched(trade) = &desk.said[1].body else { unreachable!("a trade") };
    assert_eq!(
        (trade.aggressor, trade.buy_account, trade.sell_account),
        (Side::Buy, AccountId(2), AccountId(1))
    );
}

#[test]
fn what_is_left_of_a_limit_order_rests_behind_those_at_its_price() {
    let mut desk = Desk::new();
    desk.enter(buy(1, 100, 1));
    desk.enter(buy(3, 101, 2));
    assert_eq!(desk.enter(sell(2, 101, 5)).len(), 4);
    assert_eq!((desk.book(Side::Sell), desk.book(Side::Buy)), (vec![(3, 3)], vec![(1, 1)]));
    assert_eq!(desk.engine.resting_orders(), 2);
}

#[test]
fn a_market_order_takes_any_price_and_never_rests() {
    let mut desk = Desk::new();
    desk.enter(sell(1, 101, 1));
    desk.enter(sell(1, 900, 1));
    let market = NewOrder { order_type: OrderType::Market, ..buy(2, 1, 5) };
    let said = desk.enter(market.clone());
    assert_eq!(said[0], "accepted 3 5@", "without a price");
    assert_eq!(said[1], "trade 1 3x1 1@1.01");
    assert_eq!(said[4], "trade 2 3x2 1@9");
    assert_eq!(said[7..], ["cancelled 3 3 unfilled"]);
    assert_eq!(desk.enter(market), ["accepted 4 5@", "cancelled 4 5 unfilled"]);
    assert_eq!(desk.engine.resting_orders(), 0);
}

#[test]
fn an_immediate_order_trades_what_it_can_and_a_fill_or_kill_order_all_or_nothing() {
    let mut desk = Desk::new();
    desk.enter(sell(1, 101, 2));
    desk.enter(sell(1, 102, 2));
    let said = desk.enter(with(buy(2, 101, 3), TimeInForce::ImmediateOrCancel));
    assert_eq!((said.len(), said[4].as_str()), (5, "cancelled 3 1 unfilled"));
    desk.enter(sell(1, 103, 2));
    let said = desk.enter(with(buy(2, 102, 3), TimeInForce::FillOrKill));
    assert_eq!(said, ["accepted 5 3@1.02", "cancelled 5 3 unfilled"]);
    assert_eq!(desk.book(Side::Sell), [(2, 2), (4, 2)], "nothing happened to the others");
    let said = desk.enter(with(buy(2, 103, 3), TimeInForce::FillOrKill));
    assert_eq!((said.len(), said[6].as_str()), (7, "took 6 leaves 0"));
}

#[test]
fn a_smaller_quantity_keeps_the_place_in_the_queue_and_anything_else_loses_it() {
    let mut desk = Desk::new();
    (0..3).for_each(|_| drop(desk.enter(buy(1, 100, 5))));
    assert_eq!(desk.replace(1, 1, 100, 4), ["replaced 1 4@1"]);
    assert_eq!(desk.book(Side::Buy), [(1, 4), (2, 5), (3, 5)]);
    desk.replace(1, 1, 100, 5);
    assert_eq!(desk.book(Side::Buy), [(2, 5), (3, 5), (1, 5)], "it grew");
    desk.replace(1, 2, 99, 5);
    desk.replace(1, 2, 100, 5);
    assert_eq!(desk.book(Side::Buy), [(3, 5), (1, 5), (2, 5)], "it went and came back");
}

#[test]
fn a_replacement_that_reaches_the_other_side_trades() {
    let mut desk = Desk::new();
    desk.enter(sell(1, 105, 3));
    desk.enter(buy(2, 100, 5));
    let said = desk.replace(2, 2, 105, 7);
    assert_eq!(said, ["replaced 2 7@1.05", "trade 1 2x1 3@1.05", "made 1 leaves 0", "took 2 leaves 4"]);
    assert_eq!((desk.book(Side::Buy), desk.book(Side::Sell)), (vec![(2, 4)], vec![]));
}

#[test]
fn an_account_does_not_trade_with_itself_unless_it_may() {
    let meeting = |self_trade, time_in_force| {
        let mut desk = Desk::with(self_trade);
        desk.enter(sell(1, 101, 1));
        desk.enter(sell(2, 101, 2));
        desk.enter(sell(1, 102, 4));
        let said = desk.enter(with(buy(2, 102, 5), time_in_force));
        (said, desk.book(Side::Sell), desk.book(Side::Buy))
    };
    let (said, offers, bids) = meeting(SelfTrade::Allow, TimeInForce::Day);
    assert_eq!((said.len(), offers, bids), (10, vec![(3, 2)], vec![]));
    let (said, offers, bids) = meeting(SelfTrade::CancelResting, TimeInForce::Day);
    assert_eq!((said[4].as_str(), offers, bids), ("cancelled 2 2 self_trade", vec![], vec![]));
    let (said, offers, bids) = meeting(SelfTrade::CancelArriving, TimeInForce::Day);
    assert_eq!((said[4].as_str(), said.len()), ("cancelled 4 4 self_trade", 5));
    assert_eq!((offers, bids), (vec![(2, 2), (3, 4)], vec![]));

    // All or nothing counts on nobody's own orders.
    assert_eq!(meeting(SelfTrade::CancelResting, TimeInForce::FillOrKill).0.len(), 8);
    let (said, offers, _) = meeting(SelfTrade::CancelArriving, TimeInForce::FillOrKill);
    assert_eq!(said, ["accepted 4 5@1.02", "cancelled 4 5 unfilled"]);
    assert_eq!(offers, [(1, 1), (2, 2), (3, 4)]);
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason_and_changes_nothing() {
    let mut desk = Desk::new();
    desk.enter(buy(1, 100, 5));
    let order = buy(1, 100, 5);
    for (order, reason) in [
        (NewOrder { instrument: InstrumentId(0), ..order.clone() }, RejectReason::UnknownInstrument),
        (NewOrder { instrument: InstrumentId(2), ..order.clone() }, RejectReason::UnknownInstrument),
        (NewOrder { account: AccountId(4), ..order.clone() }, RejectReason::Account),
        (NewOrder { account: AccountId(99), ..order.clone() }, RejectReason::Account),
        (NewOrder { side: Side::None, ..order.clone() }, RejectReason::Other),
        (NewOrder { price: Price::from_units(1), ..order.clone() }, RejectReason::Price),
        (NewOrder { price: Price::NONE, ..order.clone() }, RejectReason::Price),
        (NewOrder { quantity: Quantity::ZERO, ..order.clone() }, RejectReason::Quantity),
        (NewOrder { quantity: Quantity::from_units(1), ..order.clone() }, RejectReason::Quantity),
    ] {
        assert_eq!(desk.enter(order), [format!("rejected 0 {reason}")]);
    }
    assert_eq!(desk.cancel(2, 1), ["rejected 1 account"], "somebody else's order");
    assert_eq!(desk.cancel(1, 7), ["rejected 7 unknown_order"]);
    assert_eq!(desk.replace(1, 7, 100, 1), ["rejected 7 unknown_order"]);
    assert_eq!(desk.replace(1, 1, 100, 0), ["rejected 1 quantity"]);
    assert_eq!(desk.replace(2, 1, 100, 1), ["rejected 1 account"]);
    assert_eq!(desk.book(Side::Buy), [(1, 5)]);
    assert_eq!(desk.cancel(1, 1), ["cancelled 1 5 requested"]);
    assert_eq!(desk.cancel(1, 1), ["rejected 1 unknown_order"]);
    assert_eq!(desk.enter(buy(1, 100, 5)), ["accepted 2 5@1"], "refusals take no order number");
}

#[test]
fn a_halted_instrument_takes_cancels_only() {
    let mut desk = Desk::new();
    desk.enter(buy(1, 100, 5));
    desk.engine.set_status(ACME, TradingStatus::Halted, NOW, &mut desk.said).unwrap();
    assert_eq!(desk.enter(sell(2, 100, 5)), ["rejected 0 not_trading"]);
    assert_eq!(desk.replace(1, 1, 100, 1), ["rejected 1 not_trading"]);
    assert_eq!(desk.cancel(1, 1), ["cancelled 1 5 requested"]);
    let again = desk.engine.set_status(ACME, TradingStatus::Halted, NOW, &mut desk.said);
    assert_eq!(
        again,
        Err(OperatorError::StatusUnchanged { instrument: ACME, status: TradingStatus::Halted })
    );
}

#[test]
fn day_orders_expire_with_the_session_and_others_stay() {
    let mut desk = Desk::new();
    desk.enter(buy(1, 100, 5));
    desk.enter(with(buy(1, 99, 4), TimeInForce::Day));
    desk.enter(with(sell(1, 109, 3), TimeInForce::Day));
    desk.said.clear();
    desk.engine.close_session(NOW, &mut desk.said).unwrap();
    let said: Vec<String> = desk.said.iter().map(short).collect();
    assert_eq!(said, ["cancelled 2 4 expired", "cancelled 3 3 expired", "session_closed"]);
    assert_eq!((desk.book(Side::Buy), desk.engine.resting_orders()), (vec![(1, 5)], 1));
    assert_eq!(desk.engine.close_session(NOW, &mut desk.said), Err(OperatorError::NoSession));
    let Body::OrderCancelled(cancelled) = &desk.said[0].body else { unreachable!("a cancel") };
    assert_eq!(
        (cancelled.reason, cancelled.side, cancelled.price),
        (CancelReason::Expired, Side::Buy, cents(99))
    );
}

#[test]
fn a_full_exchange_refuses_resting_orders_but_still_trades_and_no_group_is_larger_than_stated() {
    let options = EngineOptions { resting_orders_max: 50, ..EngineOptions::default() };
    let (mut desk, mut engine) = (Desk::new(), Engine::new(options));
    let mut said = Vec::new();
    let account = |id| AccountOpened { account: AccountId(id), ..Default::default() };
    engine.open_account(account(1), NOW, &mut said).unwrap();
    engine.open_account(account(2), NOW, &mut said).unwrap();
    let steps = (cents(1), shares(1));
    let definition =
        InstrumentDefined { price_increment: steps.0, quantity_increment: steps.1, ..Default::default() };
    engine.define_instrument(definition, NOW, &mut said).unwrap();
    engine.set_status(ACME, TradingStatus::Continuous, NOW, &mut said).unwrap();
    desk.engine = engine;
    (0..50).for_each(|price| drop(desk.enter(sell(1, 100 + price, 1))));
    assert_eq!(desk.enter(sell(1, 100, 1)), ["rejected 0 other"]);
    let said = desk.enter(with(buy(2, 200, 51), TimeInForce::ImmediateOrCancel));
    assert_eq!(said.len(), options.group_events_max());
    assert_eq!(desk.enter(sell(1, 100, 1)).len(), 1);
}

#[test]
fn operators_cannot_contradict_themselves() {
    let (mut engine, _) = exchange(SelfTrade::Allow, 1);
    let (mut said, numbers) = (Vec::new(), engine.last_producer_sequence());
    let definition = engine.instruments().next().unwrap().1.clone();
    let taken = engine.define_instrument(definition.clone(), NOW, &mut said);
    assert_eq!(taken, Err(OperatorError::SymbolTaken("ACME1".into())));
    let symbol = matchtape_schemas::text::Text::new("NEW").unwrap();
    let unpriced = InstrumentDefined { symbol, price_increment: Price::ZERO, ..definition };
    assert_eq!(
        engine.define_instrument(unpriced, NOW, &mut said),
        Err(OperatorError::Increment("NEW".into()))
    );
    let account = AccountOpened { account: AccountId(1), ..Default::default() };
    assert_eq!(engine.open_account(account, NOW, &mut said), Err(OperatorError::AccountTaken(AccountId(1))));
    let nobody = AccountOpened::default();
    assert_eq!(engine.open_account(nobody, NOW, &mut said), Err(OperatorError::AccountTaken(AccountId(0))));
    let unknown = engine.set_status(InstrumentId(9), TradingStatus::Halted, NOW, &mut said);
    assert_eq!(unknown, Err(OperatorError::UnknownInstrument(InstrumentId(9))));
    let session = engine.open_session(Session { trading_day: 1, number: 0 }, NOW, &mut said);
    assert_eq!(session, Err(OperatorError::SessionOpen { trading_day: 20_231_114, session: 0 }));
    assert_eq!((said.len(), engine.last_producer_sequence()), (0, numbers));
}

#[test]
fn event_times_never_go_back() {
    let mut desk = Desk::new();
    desk.enter(buy(1, 100, 5));
    let mut said = Vec::new();
    for time in [NOW.get() - 5, NOW.get() + 7, NOW.get()] {
        desk.engine.execute(&Command::New(buy(1, 100, 1)), EventTime(time), &mut said);
    }
    let times: Vec<i64> = said.iter().map(|event| event.event_time.get() - NOW.get()).collect();
    assert_eq!(times, [0, 7, 7]);
}
