//! Conflated windows: what is left out is what nobody can miss, exactly that, and the same however the tape is framed,
//! joined or replayed.

mod support;

use std::collections::BTreeMap;

use matchtape_market::Books;
use matchtape_schemas::event::{
    AccountChanged, BookCleared, OrderAccepted, OrderCancelled, OrderExecuted, OrderRejected, OrderReplaced,
    Side, StateDeleted, StateSet, TradeMatched, TradingStatus, TradingStatusChanged,
};
use matchtape_schemas::event::{AccountStatus, PositionChanged};
use matchtape_schemas::{
    AccountId, Body, BodyRef, Epoch, Event, EventRef, Head, InstrumentId, OrderId, Price, Quantity, TradeId,
};
use matchtape_subscription::{
    Batch, BatchBuf, BatchError, Conflation, Filter, PART_BYTES, TapePoint, Windows,
};
use support::{OwnedFrame, Random, TAPE, event, frames, group, schedules};

const WIDTH: i64 = 100;

fn accepted(order: u64, price: i64, quantity: u64) -> Body {
    OrderAccepted {
        order_id: OrderId(order),
        price: Price::from_units(price),
        quantity: Quantity::from_units(quantity),
        side: if price % 2 == 0 { Side::Buy } else { Side::Sell },
        ..OrderAccepted::default()
    }
    .into()
}

fn replaced(order: u64, new: u64, price: i64, quantity: u64) -> Body {
    OrderReplaced {
        order_id: OrderId(order),
        new_order_id: OrderId(new),
        price: Price::from_units(price),
        quantity: Quantity::from_units(quantity),
        side: if price % 2 == 0 { Side::Buy } else { Side::Sell },
        ..OrderReplaced::default()
    }
    .into()
}

fn cancelled(order: u64, quantity: u64) -> Body {
    let (order_id, quantity) = (OrderId(order), Quantity::from_units(quantity));
    OrderCancelled { order_id, quantity, ..OrderCancelled::default() }.into()
}

fn traded(buy: u64, sell: u64, quantity: u64) -> Body {
    TradeMatched {
        trade_id: TradeId(1),
        buy_order_id: OrderId(buy),
        sell_order_id: OrderId(sell),
        quantity: Quantity::from_units(quantity),
        ..TradeMatched::default()
    }
    .into()
}

fn status(status: TradingStatus) -> Body {
    TradingStatusChanged { status, ..TradingStatusChanged::default() }.into()
}

fn account(account: u64, status: AccountStatus) -> Body {
    AccountChanged { account: AccountId(account), status, ..AccountChanged::default() }.into()
}

fn position(account: u64, position: i64) -> Body {
    PositionChanged { account: AccountId(account), change: 1, position, ..PositionChanged::default() }.into()
}

/// A lawful order flow on two instruments, with everything that can happen to an order, and states that change.
fn flow(random: &mut Random, count: usize) -> Vec<Vec<Event>> {
    let mut open: Vec<(u32, u64, u64)> = Vec::new();
    let (mut time, mut number, mut groups) = (0, 0, Vec::new());
    for _ in 0..count {
        time += random.below(12) as i64;
        let instrument = 1 + random.below(2) as u32;
        let pick = (!open.is_empty()).then(|| random.below(open.len() as u64) as usize);
        let late = if random.one_in(10) { random.below(200) as i64 } else { 0 };
        let mut say = |instrument, body: Body| groups.push(vec![event(instrument, time - late, body)]);
        match (random.below(24), pick) {
            (0..8, _) | (_, None) => {
                number += 1;
                let quantity = 1 + random.below(9);
                say(instrument, accepted(number, 100 + random.below(8) as i64, quantity));
                open.push((instrument, number, quantity));
            }
            (8..13, Some(pick)) => {
                let (instrument, order, left) = open.swap_remove(pick);
                say(instrument, cancelled(order, left));
            }
            (13, Some(pick)) if open[pick].2 > 1 => {
                open[pick].2 -= 1;
                say(open[pick].0, cancelled(open[pick].1, 1));
            }
            (13..16, Some(pick)) => {
                let same = if random.one_in(3) { 0 } else { open[pick].1 };
                open[pick].2 = 1 + random.below(9);
                say(open[pick].0, replaced(open[pick].1, same, 100 + random.below(8) as i64, open[pick].2));
            }
            (16, Some(pick)) => {
                number += 1;
                say(open[pick].0, replaced(open[pick].1, number, 104, open[pick].2));
                open[pick].1 = number;
            }
            (17, Some(pick)) => {
                let (instrument, order, left) = open.swap_remove(pick);
                let parts = vec![
                    event(instrument, time, traded(order, 0, left)),
                    event(
                        instrument,
                        time,
                        OrderExecuted { order_id: OrderId(order), ..OrderExecuted::default() },
                    ),
                ];
                groups.push(group(parts));
            }
            (18, Some(pick)) => {
                let order_id = OrderId(open[pick].1);
                say(open[pick].0, OrderRejected { order_id, ..OrderRejected::default() }.into());
            }
            (19, _) if random.one_in(3) => {
                open.retain(|(of, ..)| *of != instrument);
                say(instrument, BookCleared::default().into());
            }
            (20, _) => say(
                instrument,
                status([TradingStatus::Halted, TradingStatus::Continuous][random.below(2) as usize]),
            ),
            (21, _) => say(
                0,
                account(
                    random.below(3),
                    [AccountStatus::Active, AccountStatus::Suspended][random.below(2) as usize],
                ),
            ),
            (22, _) => say(instrument, position(random.below(2), random.next() as i64)),
            (_, _) => {
                let key = [random.below(3) as u8];
                let body = if random.one_in(3) {
                    StateDeleted::new(&key).expect("a key").into()
                } else {
                    StateSet::new(&key, &random.next().to_le_bytes()).expect("a value").into()
                };
                say(instrument, body);
            }
        }
    }
    groups
}

fn framed(random: &mut Random, groups: &[Vec<Event>]) -> Vec<OwnedFrame> {
    let mut head = Head { epoch: Epoch::FIRST, ..Head::empty(TAPE) };
    let greatest = 1 + random.below(40);
    frames(&mut head, groups, || 1 + random.below(greatest) as usize)
}

fn cut(frames: &[OwnedFrame], conflation: Conflation) -> Vec<BatchBuf> {
    let mut windows =
        Windows::new(WIDTH, Filter::default(), TapePoint::BEGINNING).with_conflation(conflation);
    for frame in frames {
        let frame = frame.frame();
        windows.push(&frame, windows.next(), frame.last_sequence());
    }
    std::iter::from_fn(|| windows.pop()).collect()
}

fn cut_groups(groups: &[Vec<Event>]) -> Vec<BatchBuf> {
    let mut head = Head { epoch: Epoch::FIRST, ..Head::empty(TAPE) };
    cut(&frames(&mut head, groups, || 5), Conflation::LastState)
}

/// All that a reader knows after events.
#[derive(Default)]
struct Known {
    books: Books,
    states: BTreeMap<String, Vec<u8>>,
    kept: Vec<u64>,
}

impl Known {
    fn apply(&mut self, event: &EventRef<'_>) {
        self.books.apply(event);
        let instrument = event.instrument();
        let payload = event.bytes()[32..].to_vec();
        match event.body() {
            BodyRef::TradingStatusChanged(_) => self.states.insert(format!("status {instrument}"), payload),
            BodyRef::StateSet(state) => {
                self.states.insert(format!("state {instrument} {:?}", state.key), payload)
            }
            BodyRef::StateDeleted(state) => {
                self.states.remove(&format!("state {instrument} {:?}", state.key()))
            }
            BodyRef::AccountChanged(changed) => {
                self.states.insert(format!("account {}", changed.account.get()), payload)
            }
            BodyRef::PositionChanged(changed) => {
                let position = changed.position.to_native().to_le_bytes().to_vec();
                self.states.insert(format!("position {instrument} {}", changed.account.get()), position)
            }
            BodyRef::TradeMatched(_) | BodyRef::OrderExecuted(_) | BodyRef::OrderRejected(_) => {
                self.kept.push(event.sequence().get());
                None
            }
            _ => None,
        };
    }

    /// Every order of every book, in its queue.
    fn orders(&self) -> Vec<(InstrumentId, Side, Price, OrderId, Quantity)> {
        let mut orders = Vec::new();
        for (instrument, book) in self.books.iter() {
            for side in [Side::Buy, Side::Sell] {
                for level in book.levels(side) {
                    let queue = book.queue(side, level.price);
                    orders.extend(
                        queue.map(|order| (instrument, side, level.price, order.order_id, order.quantity)),
                    );
                }
            }
        }
        orders
    }
}

#[test]
fn after_every_conflated_window_its_reader_knows_what_a_reader_of_all_events_knows() {
    let (mut left_out, mut all) = (0, 0);
    for seed in 0..schedules(300) {
        let mut random = Random(seed);
        let groups = flow(&mut random, 300);
        let frames = framed(&mut random, &groups);
        let (whole, conflated) = (cut(&frames, Conflation::None), cut(&frames, Conflation::LastState));
        assert_eq!(whole.len(), conflated.len(), "seed {seed}");
        let (mut full, mut spared) = (Known::default(), Known::default());
        for (whole, conflated) in whole.iter().zip(&conflated) {
            let (whole, conflated) = (whole.batch(), conflated.batch());
            assert!(Batch::decode(conflated.bytes()).is_ok());
            assert!(conflated.is_conflated() && !whole.is_conflated());
            assert_eq!(conflated.count() + conflated.left_out(), whole.count(), "seed {seed}");
            assert_eq!((conflated.cursor(), conflated.first()), (whole.cursor(), whole.first()));
            let mut originals = whole.events();
            for event in conflated.events() {
                let original = originals.find(|original| original.sequence() == event.sequence());
                let original = original.expect("an event of the window, in order");
                assert_eq!((original.bytes(), original.epoch()), (event.bytes(), event.epoch()));
                spared.apply(&event);
            }
            whole.events().for_each(|event| full.apply(&event));
            assert_eq!(full.orders(), spared.orders(), "seed {seed}, {whole:?}");
            assert_eq!(full.states, spared.states, "seed {seed}, {whole:?}");
            assert_eq!(
                full.kept, spared.kept,
                "seed {seed}: trades, executions and refusals are never left out"
            );
            left_out += conflated.left_out();
            all += whole.count();
        }
        // Framing does not show, and conflating once more changes nothing.
        let other = framed(&mut random, &groups);
        assert!(cut(&other, Conflation::LastState) == conflated, "seed {seed}: framing shows");
        for (conflated, whole) in conflated.iter().zip(&whole) {
            assert!(whole.batch().conflated() == *conflated);
            assert!(conflated.batch().conflated() == *conflated, "seed {seed}");
        }
    }
    assert!(left_out * 10 > all, "{left_out} of {all} left out");
}

/// What stays of one window.
fn stays(bodies: Vec<(u32, Body)>) -> Vec<u64> {
    let mut groups: Vec<Vec<Event>> =
        bodies.into_iter().map(|(instrument, body)| vec![event(instrument, 10, body)]).collect();
    groups.push(vec![event(9, WIDTH, traded(0, 0, 1))]);
    let batches = cut_groups(&groups);
    assert_eq!(batches.len(), 1);
    batches[0].batch().events().map(|event| event.sequence().get()).collect()
}

#[test]
fn an_order_that_came_and_went_is_left_out_and_one_that_anything_else_happened_to_stays() {
    let (came, went) = ((1, accepted(5, 100, 9)), (1, cancelled(5, 9)));
    let with = |between: Vec<(u32, Body)>, went: (u32, Body)| {
        stays([vec![came.clone()], between, vec![went]].concat()).len()
    };
    assert_eq!(with(vec![], went.clone()), 0);
    assert_eq!(with(vec![(1, replaced(5, 5, 101, 4)), (1, cancelled(5, 1))], (1, cancelled(5, 3))), 0);
    assert_eq!(with(vec![(1, replaced(5, 0, 101, 4))], (1, cancelled(5, 4))), 0);
    // On another instrument, of another number, or more or less than there is.
    assert_eq!(with(vec![], (2, cancelled(5, 9))), 2);
    assert_eq!(with(vec![], (1, cancelled(6, 9))), 2);
    assert_eq!(with(vec![], (1, cancelled(5, 8))), 2);
    assert_eq!(with(vec![], (1, cancelled(5, 10))), 2);
    // Something happened to it.
    for between in [
        traded(5, 7, 1),
        traded(7, 5, 1),
        OrderExecuted { order_id: OrderId(5), ..OrderExecuted::default() }.into(),
        OrderRejected { order_id: OrderId(5), ..OrderRejected::default() }.into(),
        replaced(5, 6, 101, 9),
        replaced(6, 5, 101, 9),
        replaced(5, 5, 101, 0),
        BookCleared::default().into(),
        accepted(5, 102, 3),
    ] {
        assert_eq!(with(vec![(1, between.clone())], went.clone()), 3, "{between:?}");
    }
    // The number again, after it is gone, is another order.
    assert_eq!(stays(vec![came.clone(), went.clone(), came.clone()]), [3]);
    assert!(stays(vec![came.clone(), went.clone(), came, went]).is_empty());
    // Accepted in another window: the cancellation is news.
    assert_eq!(stays(vec![(1, cancelled(5, 9))]), [1]);
}

#[test]
fn of_states_the_last_one_of_each_key_stays() {
    let set = |key: u8, value: u8| -> Body { StateSet::new(&[key], &[value]).expect("a value").into() };
    let deleted = |key: u8| -> Body { StateDeleted::new(&[key]).expect("a key").into() };
    let halted = status(TradingStatus::Halted);
    let kept = stays(vec![
        (1, halted.clone()),
        (2, halted.clone()),
        (1, status(TradingStatus::Continuous)),
        (0, set(1, 1)),
        (0, set(2, 1)),
        (0, deleted(1)),
        (3, set(2, 2)),
        (0, account(1, AccountStatus::Suspended)),
        (0, account(2, AccountStatus::Active)),
        (0, account(1, AccountStatus::Active)),
        (1, position(1, 10)),
        (2, position(1, 20)),
        (1, position(1, 30)),
    ]);
    assert_eq!(kept, [2, 3, 5, 6, 7, 9, 10, 12, 13]);
}

#[test]
fn a_window_in_parts_is_conflated_part_by_part_and_cut_where_it_would_be_without() {
    let state = |n: u64| StateSet::new(b"key", &[n as u8; 40_000]).expect("within limits");
    let mut groups: Vec<Vec<Event>> = (0..300).map(|n| vec![event(1, 10, state(n))]).collect();
    groups.push(vec![event(1, 100, traded(0, 0, 1))]);
    let mut head = Head { epoch: Epoch::FIRST, ..Head::empty(TAPE) };
    let frames = frames(&mut head, &groups, || 1);
    let (whole, conflated) = (cut(&frames, Conflation::None), cut(&frames, Conflation::LastState));
    assert!(whole.len() > 2 && whole[0].batch().bytes().len() > PART_BYTES);
    for (whole, conflated) in whole.iter().zip(&conflated) {
        let (whole, conflated) = (whole.batch(), conflated.batch());
        assert_eq!(conflated.cursor(), whole.cursor());
        assert_eq!((conflated.count(), conflated.left_out()), (1, whole.count() - 1));
    }
}

#[test]
fn a_batch_that_left_something_out_without_saying_so_is_refused() {
    let batches = cut_groups(&[
        vec![event(1, 10, status(TradingStatus::Halted))],
        vec![event(1, 11, status(TradingStatus::Continuous))],
        vec![event(1, 100, traded(0, 0, 1))],
    ]);
    let mut memory: rkyv::util::AlignedVec<16> = rkyv::util::AlignedVec::new();
    memory.extend_from_slice(batches[0].batch().bytes());
    let batch = Batch::decode(&memory).expect("sound");
    assert_eq!((batch.count(), batch.left_out(), batch.is_conflated()), (1, 1, true));
    memory[6] ^= 4;
    let why = Batch::decode(&memory).err();
    assert_eq!(why, Some(BatchError::Header("the count of events left out")));
}
