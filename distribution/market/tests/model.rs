//! The book against a plain list of orders, on random tapes; and saved, restored and continued against folded at once.

mod common;

use std::collections::{BTreeMap, HashMap};

use common::*;
use matchtape_market::*;
use matchtape_schemas::event::Side::{Buy, Sell};
use matchtape_schemas::event::*;
use matchtape_schemas::*;
use proptest::prelude::*;

/// A copy of one side, kept by changes alone.
type Levels = BTreeMap<Price, (Volume, u32)>;

/// The rules once more, in the slowest and plainest way: one list of orders in order of arrival.
#[derive(Default)]
struct Model {
    orders: Vec<(OrderId, Side, Price, u64)>,
}

impl Model {
    fn accept(&mut self, id: OrderId, side: Side, price: Price, quantity: u64) {
        if quantity > 0 {
            self.orders.retain(|order| order.0 != id);
            self.orders.push((id, side, price, quantity));
        }
    }

    fn reduce(&mut self, id: OrderId, quantity: u64) {
        if let Some(order) = self.orders.iter_mut().find(|order| order.0 == id) {
            order.3 = order.3.saturating_sub(quantity);
        }
        self.orders.retain(|order| order.3 > 0);
    }

    fn apply(&mut self, event: &Event) {
        let reports = event.flags.contains(EventFlags::REPORTS_ONLY);
        match &event.body {
            Body::OrderAccepted(order) => {
                self.accept(order.order_id, order.side, order.price, order.quantity.units());
            }
            Body::OrderReplaced(order) => {
                let quantity = order.quantity.units();
                let old = self.orders.iter_mut().find(|known| known.0 == order.order_id);
                let side = match &old {
                    Some(old) if order.side == Side::None => old.1,
                    _ => order.side,
                };
                match old {
                    Some(old)
                        if old.0 == order.new_order_id
                            && (old.1, old.2) == (side, order.price)
                            && (1..=old.3).contains(&quantity) =>
                    {
                        old.3 = quantity;
                    }
                    _ => {
                        self.orders.retain(|known| known.0 != order.order_id);
                        self.accept(order.new_order_id, side, order.price, quantity);
                    }
                }
            }
            Body::OrderCancelled(order) => self.reduce(order.order_id, order.quantity.units()),
            Body::OrderExecuted(order) if !reports => self.reduce(order.order_id, order.quantity.units()),
            Body::TradeMatched(trade) if !reports => {
                self.reduce(trade.buy_order_id, trade.quantity.units());
                self.reduce(trade.sell_order_id, trade.quantity.units());
            }
            Body::BookCleared(_) => self.orders.clear(),
            _ => {}
        }
    }

    fn resting(&self, side: Side) -> Vec<(OrderId, Price, u64)> {
        let mut resting: Vec<_> = self
            .orders
            .iter()
            .filter(|order| order.1 == side && !order.2.is_none())
            .map(|order| (order.0, order.2, order.3))
            .collect();
        resting.sort_by_key(|order| if side == Buy { !order.1.units() } else { order.1.units() });
        resting
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let side = prop_oneof![8 => Just(Buy), 8 => Just(Sell), 1 => Just(Side::None)];
    let price = prop_oneof![
        12 => (-3i64..30).prop_map(|step| Price::from_units(step * 250_000_000)),
        1 => Just(Price::NONE),
        1 => any::<i64>().prop_map(Price::from_units),
    ];
    let (id, quantity) = (1u64..25, 0u64..6);
    (0u8..20, id.clone(), id, side, price, quantity, any::<bool>(), 1u32..4).prop_map(
        |(what, id, other, side, price, quantity, flag, instrument)| {
            let quantity = whole(quantity);
            let (order_id, new_order_id) = (OrderId(id), if flag { OrderId(id) } else { OrderId(other) });
            let body: Body = match what {
                0..=7 => OrderAccepted { order_id, side, price, quantity, ..Default::default() }.into(),
                8..=11 => {
                    OrderReplaced { order_id, new_order_id, side, price, quantity, ..Default::default() }
                        .into()
                }
                12..=14 => OrderCancelled { order_id, quantity, ..Default::default() }.into(),
                15 | 16 => OrderExecuted { order_id, quantity, ..Default::default() }.into(),
                17 | 18 => TradeMatched {
                    buy_order_id: order_id,
                    sell_order_id: OrderId(other),
                    price,
                    quantity,
                    ..Default::default()
                }
                .into(),
                _ if flag && id == 1 => BookCleared::default().into(),
                _ => TradingStatusChanged { status: TradingStatus::Halted, ..Default::default() }.into(),
            };
            let event = Event::new(InstrumentId(instrument), ProducerSequence(1), EventTime(1), body);
            if what == 16 || what == 18 { reports_only(event) } else { event }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_book_equals_a_plain_list_of_orders(events in prop::collection::vec(any_event(), 0..300)) {
        let (mut model, mut book) = (Model::default(), Book::new());
        let mut next = events.iter();
        Tape::of(&events).each(|event| {
            model.apply(next.next().unwrap());
            book.apply(event);
        });
        for side in [Buy, Sell] {
            let expected = model.resting(side);
            let found: Vec<_> = book.resting(side).map(|order| (order.order_id, order.price, order.quantity.units())).collect();
            prop_assert_eq!(&found, &expected);
            // Levels and totals are sums of the orders.
            let mut levels: Vec<(Price, u128, u32)> = Vec::new();
            for (_, price, quantity) in &expected {
                match levels.last_mut() {
                    Some(last) if last.0 == *price => { last.1 += u128::from(*quantity); last.2 += 1; }
                    _ => levels.push((*price, u128::from(*quantity), 1)),
                }
            }
            let found: Vec<_> = book.levels(side).map(|level| (level.price, level.quantity.units(), level.orders)).collect();
            prop_assert_eq!(&found, &levels);
            let totals = if side == Buy { book.totals().bids } else { book.totals().asks };
            prop_assert_eq!(totals.orders, expected.len() as u64);
            prop_assert_eq!(totals.quantity.units(), levels.iter().map(|level| level.1).sum::<u128>());
        }
    }

    #[test]
    fn saved_restored_and_continued_equals_folded_from_the_start(
        events in prop::collection::vec(any_event(), 0..300),
        cut in 0usize..300,
    ) {
        let tape = Tape::of(&events);
        let (mut whole, mut first, mut second) = (Books::new(), Books::new(), Books::new());
        tape.each(|event| {
            whole.apply(event);
            if (event.sequence().get() as usize) <= cut {
                first.apply(event);
            }
        });
        let mut section = Vec::new();
        first.save(&mut section);
        second.restore(&section).unwrap();
        tape.each(|event| {
            if (event.sequence().get() as usize) > cut {
                second.apply(event);
            }
        });
        let (mut expected, mut found) = (Vec::new(), Vec::new());
        whole.save(&mut expected);
        second.save(&mut found);
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn changes_carry_a_copy_of_the_levels_along(
        events in prop::collection::vec(any_event(), 0..300),
        group in 1usize..9,
    ) {
        let mut books = Books::new();
        books.watch();
        let mut copies: HashMap<InstrumentId, (Sequence, [Levels; 2])> = HashMap::new();
        let mut failure = None;
        Tape::of(&events).each(|event| {
            books.apply(event);
            if !(event.sequence().get() as usize).is_multiple_of(group) {
                return;
            }
            for change in books.take_changes() {
                let copy = copies.entry(change.instrument).or_default();
                if copy.0 != change.previous_sequence
                    || change.first_sequence > change.last_sequence
                    || change.first_sequence <= change.previous_sequence
                    || change.last_sequence > event.sequence()
                {
                    failure = Some(format!("{change:?} after {}", copy.0));
                }
                copy.0 = change.last_sequence;
                for level in change.levels {
                    let side = &mut copy.1[usize::from(level.side == Sell)];
                    let before = if level.orders == 0 {
                        side.remove(&level.price)
                    } else {
                        side.insert(level.price, (level.quantity, level.orders))
                    };
                    if before == (level.orders > 0).then_some((level.quantity, level.orders)) {
                        failure = Some(format!("{level:?} changed nothing"));
                    }
                }
            }
            for (instrument, book) in books.iter() {
                for (at, side) in [Buy, Sell].into_iter().enumerate() {
                    let mut levels: Vec<_> = book.levels(side).map(|level| (level.price, (level.quantity, level.orders))).collect();
                    levels.sort_by_key(|level| level.0);
                    let copy: Vec<_> = copies.get(&instrument).map(|copy| copy.1[at].iter().map(|(price, level)| (*price, *level)).collect()).unwrap_or_default();
                    if copy != levels {
                        failure = Some(format!("{side} of {instrument}: {copy:?}, book {levels:?}"));
                    }
                }
            }
        });
        prop_assert_eq!(failure, None);
    }

    #[test]
    fn no_bytes_make_a_restore_panic(section in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Books::new().restore(&section);
        let _ = Instruments::new().restore(&section);
    }

    #[test]
    fn a_damaged_section_is_refused_or_saves_as_it_reads(
        events in prop::collection::vec(any_event(), 1..60),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut books = Books::new();
        Tape::of(&events).each(|event| books.apply(event));
        let mut section = Vec::new();
        books.save(&mut section);
        let short = &section[..cut.index(section.len())];
        prop_assert!(Books::new().restore(short).is_err());
        let place = at.index(section.len());
        section[place] = byte;
        let mut restored = Books::new();
        if restored.restore(&section).is_ok() {
            let mut again = Vec::new();
            restored.save(&mut again);
            prop_assert_eq!(again, section);
        }
    }
}
