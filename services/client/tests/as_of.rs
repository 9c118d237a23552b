//! State as of any position of a real store: the nearest snapshot and what follows it is what folding from the first event
//! gives, through flushes, restarts and retention.

use std::collections::BTreeSet;

use matchtape_client::as_of::{self, AsOfError};
use matchtape_client::{orders, settle, state};
use matchtape_market::{
    Accounts, Books, Bust, Instruments, KeyedState, OrderState, OrderStates, OrderStatus, Ticker, Tickers,
    Trade, TradeSummary, book_checksum, projections,
};
use matchtape_node::{Node, NodeOptions, Publisher};
use matchtape_schemas::event::*;
use matchtape_schemas::text::Text;
use matchtape_schemas::*;
use matchtape_storage::{FrameHandle, Query, Reader, RetentionPolicy};
use tempfile::TempDir;

const INSTRUMENTS: u32 = 5;

/// A node and its whole tape, also what is not kept any more.
struct Tape {
    folder: TempDir,
    node: Node,
    publisher: Publisher,
    frames: Vec<FrameHandle>,
    random: u64,
    number: u64,
    orders: u64,
    options: NodeOptions,
}

fn options() -> NodeOptions {
    let mut options = NodeOptions::default();
    // Retention cuts between tables: merged meanwhile, small as they are, they would leave it nowhere to cut.
    options.store.compaction.small_event_table_bytes = 0;
    options.store.compaction.level0_tables = 1000;
    options
}

fn open(folder: &TempDir, options: &NodeOptions, kept: bool) -> Node {
    let views = if kept { projections() } else { Vec::new() };
    Node::open(folder.path(), options.clone(), views).unwrap()
}

impl Tape {
    fn new(seed: u64, kept: bool) -> Self {
        Self::with(options(), seed, kept)
    }

    fn with(options: NodeOptions, seed: u64, kept: bool) -> Self {
        let folder = TempDir::new().unwrap();
        let node = open(&folder, &options, kept);
        let publisher = node.publisher(ProducerId(1)).unwrap();
        Self { folder, node, publisher, frames: Vec::new(), random: seed | 1, number: 0, orders: 0, options }
    }

    fn below(&mut self, end: u64) -> u64 {
        // xorshift64*
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) % end
    }

    fn event(&mut self) -> Event {
        self.number += 1;
        let quantity = Quantity::from_whole(1 + self.below(9)).unwrap();
        let price = Price::from_units((90 + self.below(20) as i64) * 1_000_000_000);
        let side = if self.below(2) == 0 { Side::Buy } else { Side::Sell };
        let order_id = OrderId(1 + self.below(self.orders.max(1)));
        let account = AccountId(1 + self.below(4));
        let key = format!("key/{}", self.below(12)).into_bytes();
        let mut instrument = InstrumentId(1 + self.below(INSTRUMENTS.into()) as u32);
        let body: Body = match self.below(24) {
            0..=8 => {
                self.orders += 1;
                let order_id = OrderId(self.orders);
                OrderAccepted { order_id, side, price, quantity, account, ..Default::default() }.into()
            }
            9 | 10 => OrderCancelled { order_id, quantity, ..Default::default() }.into(),
            11 => {
                let new_order_id = if self.below(2) == 0 {
                    order_id
                } else {
                    self.orders += 1;
                    OrderId(self.orders)
                };
                OrderReplaced { order_id, new_order_id, side, price, quantity, ..Default::default() }.into()
            }
            12..=15 => {
                let (trade_id, sell) = (TradeId(self.number), OrderId(1 + self.below(self.orders.max(1))));
                TradeMatched {
                    trade_id,
                    buy_order_id: order_id,
                    sell_order_id: sell,
                    price,
                    quantity,
                    aggressor: side,
                    ..Default::default()
                }
                .into()
            }
            16 => {
                TradeBusted { trade_id: TradeId(self.number - self.below(self.number)), ..Default::default() }
                    .into()
            }
            17 if self.below(3) == 0 => BookCleared::default().into(),
            17 => OrderRejected { order_id, ..Default::default() }.into(),
            18 => InstrumentDefined {
                symbol: Text::new(&format!("I{}", instrument.get())).unwrap(),
                ..Default::default()
            }
            .into(),
            19 => TradingStatusChanged {
                status: TradingStatus::ALL[self.below(3) as usize],
                ..Default::default()
            }
            .into(),
            20 => {
                instrument = InstrumentId(0);
                let value = vec![b'v'; self.below(40) as usize];
                StateSet::new(&key, &value).unwrap().into()
            }
            21 => {
                instrument = InstrumentId(0);
                if self.below(3) == 0 {
                    StateDeleted::new(&key).unwrap().into()
                } else {
                    SessionOpened { trading_day: 20_260_000 + self.number as u32, ..Default::default() }
                        .into()
                }
            }
            22 => AccountOpened { account, name: Text::new("name").unwrap(), ..Default::default() }.into(),
            _ => PositionChanged { account, change: 1, position: self.number as i64, ..Default::default() }
                .into(),
        };
        // Mostly forwards, now and then a way back.
        let back = if self.below(5) == 0 { self.below(30) } else { 0 };
        let time = EventTime(1_000_000 + (self.number - back.min(self.number)) as i64);
        Event::new(instrument, ProducerSequence(self.number), time, body)
    }

    fn publish(&mut self, events: usize) -> Sequence {
        let mut last = Sequence::ZERO;
        for _ in 0..events {
            let event = self.event();
            last = self.publisher.publish_group(&[event]).unwrap().sequence();
        }
        self.node.wait(last, Stage::Visible).unwrap();
        let from = self.frames.last().map_or(Sequence::FIRST, |last| last.frame().last_sequence().next());
        let mut frames = self.node.reader().frames(from).unwrap();
        while let Some(frame) = frames.next_frame().unwrap() {
            self.frames.push(frame);
        }
        last
    }

    fn reopen(self) -> Self {
        self.reopen_after(|node| node.close().unwrap())
    }

    fn reopen_after(self, end: impl FnOnce(Node)) -> Self {
        let Self { folder, node, publisher, frames, random, number, orders, options } = self;
        drop(publisher);
        end(node);
        let node = open(&folder, &options, true);
        let publisher = node.publisher(ProducerId(1)).unwrap();
        Self { folder, node, publisher, frames, random, number, orders, options }
    }

    /// The most bytes of events that are replayed for a view at any of many positions.
    fn most_replayed(&mut self) -> u64 {
        let reader = self.node.reader();
        let (first, last) = (reader.first_kept().previous().get(), reader.visible().get());
        let mut positions = vec![first, first + 1, last - 1, last];
        positions.extend((0..40).map(|part| first + (last - first) * part / 40));
        let mut most = 0;
        for through in positions.into_iter().filter(|at| *at > 0).map(Sequence) {
            for view in projections() {
                let mut counted = Counted { view, bytes: 0 };
                as_of::fold(&reader, &mut counted, through, &Query::default()).unwrap();
                most = most.max(counted.bytes);
            }
        }
        most
    }

    /// Drops all that may be dropped; says whether anything was.
    fn retain(&self) -> Sequence {
        let policy = RetentionPolicy { bytes: Some(1), snapshot_gap_bytes: 1, ..RetentionPolicy::default() };
        self.node.store().retain(&policy, AcceptedTime(i64::MAX)).unwrap();
        self.node.reader().first_kept()
    }

    fn each(&self, through: Sequence, mut visit: impl FnMut(&EventRef<'_>)) {
        for frame in &self.frames {
            frame
                .frame()
                .events()
                .filter(|event| event.sequence() <= through)
                .for_each(|event| visit(&event));
        }
    }

    /// Every projection's section as of a position, folded from the first event.
    fn folded(&self, through: Sequence) -> Vec<Vec<u8>> {
        let mut folds = projections();
        self.each(through, |event| folds.iter_mut().for_each(|fold| fold.apply(event)));
        folds.iter().map(|fold| saved(&**fold)).collect()
    }

    /// Of every session whose busts can all be looked up, the sums are those of its trades but those that any bust through
    /// this position took back, however long after.
    fn check_sums(&self, tickers: &Tickers, through: Sequence) {
        let mut trades: Vec<Trade> = Vec::new();
        let mut busted: BTreeSet<Sequence> = BTreeSet::new();
        self.each(through, |event| {
            trades.extend(Trade::of(event));
            let Some(bust) = Bust::of(event) else { return };
            let of_instrument = trades.iter().filter(|trade| trade.instrument == bust.instrument);
            let meant = of_instrument.rev().find(|trade| bust.may_mean(trade.sequence, trade.trade_id));
            busted.extend(meant.map(|trade| trade.sequence));
        });
        for ticker in tickers.iter().filter(|ticker| !ticker.misses_busts) {
            let Some(session) = ticker.session else { continue };
            let mut expected = TradeSummary::default();
            let of_session = trades
                .iter()
                .filter(|trade| trade.instrument == ticker.instrument && trade.sequence >= session.begun_at);
            for trade in of_session.filter(|trade| !busted.contains(&trade.sequence)) {
                expected.add(trade.price, trade.quantity, trade.aggressor);
            }
            let sums = |of: &TradeSummary| (of.trades, of.volume, of.buy_volume, of.sell_volume, of.notional);
            assert_eq!(sums(&ticker.summary), sums(&expected), "{} at {through}", ticker.instrument);
        }
    }

    fn check(&self, through: Sequence) {
        let reader = self.node.reader();
        for (place, expected) in self.folded(through).iter().enumerate() {
            let mut fold = projections().remove(place);
            as_of::fold(&reader, &mut *fold, through, &Query::default()).unwrap();
            assert_eq!(&saved(&*fold), expected, "{} at {through}", fold.name());
        }
        // Each by its own narrower question.
        let wanted = [InstrumentId(4), InstrumentId(2), InstrumentId(99)];
        let found = as_of::books(&reader, &wanted, through).unwrap();
        let (mut books, mut instruments, mut tickers) = (Books::new(), Instruments::new(), Tickers::new());
        let (mut accounts, mut keyed) = (Accounts::new(), KeyedState::new());
        self.each(through, |event| {
            books.apply(event);
            instruments.apply(event);
            tickers.apply(event);
            accounts.apply(event);
            keyed.apply(event);
        });
        for id in wanted {
            assert_eq!(
                found.get(id).map(book_checksum),
                books.get(id).map(book_checksum),
                "{id} at {through}"
            );
        }
        assert!(found.get(InstrumentId(1)).is_none(), "nobody asked for it");
        settle(&reader, &mut tickers, through).unwrap();
        let found = as_of::tickers(&reader, through).unwrap();
        assert_eq!(saved(&found), saved(&tickers));
        self.check_sums(&found, through);
        assert_eq!(saved(&as_of::instruments(&reader, through).unwrap()), saved(&instruments));
        assert_eq!(as_of::accounts(&reader, through).unwrap(), accounts);
        assert_eq!(state::all(&reader, through).unwrap(), keyed);
        for number in 0..12 {
            let key = format!("key/{number}").into_bytes();
            let found = state::get(&reader, &key, through).unwrap();
            assert_eq!(found.as_ref(), keyed.get(&key), "{number} at {through}");
        }
    }
}

/// Counts what is replayed to a view.
struct Counted {
    view: Box<dyn Projection>,
    bytes: u64,
}

impl Projection for Counted {
    fn name(&self) -> &'static str {
        self.view.name()
    }

    fn version(&self) -> u32 {
        self.view.version()
    }

    fn apply(&mut self, event: &EventRef<'_>) {
        self.bytes += u64::from(event.header().length);
        self.view.apply(event);
    }

    fn save(&self, out: &mut Vec<u8>) {
        self.view.save(out);
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), ProjectionError> {
        self.view.restore(section)
    }
}

fn saved(projection: &dyn Projection) -> Vec<u8> {
    let mut bytes = Vec::new();
    projection.save(&mut bytes);
    bytes
}

#[test]
fn state_as_of_any_position_is_the_folded_one_through_flushes_restarts_and_retention() {
    for seed in 1..4 {
        let mut tape = Tape::new(seed, true);
        let mut dropped = 0;
        for round in 0..12 {
            let events = 20 + tape.below(120) as usize;
            let last = tape.publish(events);
            match tape.below(4) {
                0 => {}
                1 if round > 4 => tape = tape.reopen(),
                _ => drop(tape.node.store().flush().unwrap()),
            }
            if round % 5 == 4 {
                let first_kept = tape.retain();
                dropped += u64::from(first_kept > Sequence::FIRST);
            }
            // From the state right before what is kept.
            let first = tape.node.reader().first_kept().previous();
            for _ in 0..6 {
                let at = first.get() + tape.below(last.get() - first.get() + 1);
                tape.check(Sequence(at.max(1)));
            }
            tape.check(last);
            if first >= Sequence::FIRST {
                tape.check(first);
            }
        }
        assert!(dropped > 0, "seed {seed}: retention has dropped something");
    }
}

#[test]
fn a_trade_taken_back_leaves_the_ticker_however_long_ago_it_was() {
    let mut tape = Tape::new(13, true);
    let matched = |id: u64, quantity: u64, aggressor: Side| -> Body {
        let (price, quantity) = (Price::from_units(5_000_000_000), Quantity::from_whole(quantity).unwrap());
        TradeMatched { trade_id: TradeId(id), price, quantity, aggressor, ..Default::default() }.into()
    };
    let bust = |trade_id: u64, at: u64| -> Body {
        let (trade_id, trade_sequence) = (TradeId(trade_id), Sequence(at));
        TradeBusted { trade_id, trade_sequence, ..Default::default() }.into()
    };
    let say = |tape: &mut Tape, body: Body| {
        tape.number += 1;
        let event = Event::new(InstrumentId(1), ProducerSequence(tape.number), EventTime(1), body);
        tape.publisher.publish_group(&[event]).unwrap().sequence()
    };
    let mut trades = vec![Sequence::ZERO];
    for id in 1..=40 {
        let side = if id % 2 == 0 { Side::Buy } else { Side::Sell };
        trades.push(say(&mut tape, matched(id, id, side)));
    }
    let order = say(&mut tape, OrderAccepted { order_id: OrderId(1), ..Default::default() }.into());
    let first_bust = order.next();
    // By number, by position, each again; then what is no trade, and what never was.
    let mut last = Sequence::ZERO;
    let (seventh, eighth) = (trades[7].get(), trades[8].get());
    for body in [
        bust(7, 0),
        bust(0, eighth),
        bust(0, seventh),
        bust(8, 0),
        bust(0, order.get()),
        bust(0, first_bust.get()),
        bust(99, 0),
    ] {
        last = say(&mut tape, body);
    }
    tape.node.wait(last, Stage::Visible).unwrap();
    for flushed in [false, true] {
        let reader = tape.node.reader();
        let tickers = as_of::tickers(&reader, last).unwrap();
        let ticker = tickers.get(InstrumentId(1)).unwrap();
        let Ticker { summary, busted, misses_busts, changed_at, .. } = ticker;
        let volume = (1..=40).sum::<u64>() - 7 - 8;
        assert_eq!((summary.trades, *busted, *misses_busts), (38, 2, false));
        assert_eq!(summary.volume.to_string(), volume.to_string());
        assert_eq!(summary.notional.to_string(), (5 * volume).to_string());
        let buyers = (1..=20).map(|half| 2 * half).sum::<u64>() - 8;
        assert_eq!(summary.buy_volume.to_string(), buyers.to_string());
        assert_eq!(summary.sell_volume.to_string(), (volume - buyers).to_string());
        assert_eq!(*changed_at, first_bust.next(), "the second bust is the last that changed anything");
        // And before the second of them.
        let before = as_of::tickers(&reader, first_bust).unwrap();
        let before = before.get(InstrumentId(1)).unwrap().summary.volume;
        assert_eq!(before.to_string(), (volume + 8).to_string());
        if !flushed {
            tape.node.store().flush().unwrap();
            assert!(tape.node.reader().snapshot_before(last).unwrap().is_some(), "from a snapshot now");
        }
    }
}

#[test]
fn a_view_at_any_position_costs_at_most_a_segment_of_replay_while_its_snapshots_are_there() {
    const SEGMENT: u64 = 4 << 20;
    let mut options = options();
    options.store.wal.segment_bytes = SEGMENT;
    // All that may wait in memory for its snapshot, three of these (each goes beyond by a commit), is less than a segment,
    // however slow the flushing: on a machine that is busy with other tests it may be. By default two of them are a segment, and
    // the third is only there while flushing is behind; the options say so, and the compiler checks it.
    options.store.memtable_bytes = 5 << 18;
    options.store.wal.commit_bytes = matchtape_storage::limits::COMMIT_BYTES_MIN;
    let mut tape = Tape::with(options, 3, true);
    let mut bytes = 0;
    for _ in 0..16 {
        tape.publish(20_000);
        // Only the tape is wanted here; the last tells where to go on.
        let old = tape.frames.len() - 1;
        bytes += tape.frames.drain(..old).map(|frame| frame.frame().bytes().len() as u64).sum::<u64>();
    }
    assert!(bytes > 6 * SEGMENT, "a tape of {bytes} bytes");
    let most = tape.most_replayed();
    assert!((1..=SEGMENT).contains(&most), "{most} bytes of a tape in use");
    tape = tape.reopen_after(drop);
    let most = tape.most_replayed();
    assert!(most <= SEGMENT, "{most} bytes right after a crash");
    tape = tape.reopen();
    let most = tape.most_replayed();
    assert!(most <= SEGMENT, "{most} bytes right after a restart");
    // A policy that thins snapshots to one per segment and drops the older part.
    let policy =
        RetentionPolicy { bytes: Some(bytes / 8), snapshot_gap_bytes: SEGMENT, ..RetentionPolicy::default() };
    tape.node.store().retain(&policy, AcceptedTime(i64::MAX)).unwrap();
    assert!(tape.node.reader().first_kept() > Sequence::FIRST);
    let most = tape.most_replayed();
    assert!((SEGMENT / 4..=SEGMENT).contains(&most), "{most} bytes after retention");

    // Without some that lie side by side it would cost more.
    let mut snapshots: Vec<_> = std::fs::read_dir(tape.folder.path().join("tables"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "snapshot"))
        .collect();
    snapshots.sort();
    for path in snapshots.iter().skip(1).take(3) {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    let most = tape.most_replayed();
    assert!(most > SEGMENT, "{most} bytes with three of {} snapshots damaged", snapshots.len());
}

fn found(reader: &Reader, question: &orders::OrdersQuestion) -> (Vec<OrderState>, bool) {
    let found = orders::orders(reader, question).unwrap();
    (found.found, found.more)
}

#[test]
fn orders_that_entered_below_retention_are_listed_as_they_stand_and_marked() {
    let mut tape = Tape::new(17, true);
    for _ in 0..3 {
        tape.publish(200);
        tape.node.store().flush().unwrap();
    }
    let last = tape.publish(100);
    let mut all = OrderStates::new();
    // Whether a refusal is of an order that had entered, only who knows that can tell: they are left out.
    tape.each(last, |event| {
        if event.kind() != Kind::OrderRejected {
            all.apply(event);
        }
    });
    let first_kept = tape.retain();
    assert!(first_kept > Sequence::FIRST);
    let reader = tape.node.reader();
    let question = orders::OrdersQuestion::new(last);
    let answer = orders::orders(&reader, &question).unwrap();
    assert_eq!((answer.complete_from(), answer.more), (Some(first_kept), false));
    // All that was open at the border or entered later is there, once, as it is; nothing else.
    let mut left = answer.found.clone();
    let mut entered_before = 0;
    for state in all.iter() {
        let before = state.first_sequence < first_kept;
        let known = |found: &OrderState| {
            let one = |of: &OrderState| (of.instrument, of.order_id, of.side, of.price, of.left, of.status);
            one(found) == one(state) && found.entered_before == before && (before || found == state)
        };
        let place = left.iter().position(known);
        assert!(place.is_some() || (before && state.status != OrderStatus::Open), "{state:?} in {left:?}");
        if let Some(place) = place {
            let found = left.remove(place);
            entered_before += u64::from(before);
            // Under whatever number it is asked for.
            let by_number = orders::order(&reader, state.order_id, None, last, false).unwrap();
            assert!(by_number.found.contains(&found), "{found:?} in {by_number:?}");
            assert_eq!(by_number.complete_from(), Some(first_kept));
        }
    }
    assert_eq!(left, [], "orders that never were");
    assert!(entered_before > 20, "{entered_before} of {}", answer.found.len());

    // In pages, both ways, of all and of one instrument.
    for instrument in [None, Some(InstrumentId(2))] {
        for newest_first in [false, true] {
            let whole = orders::OrdersQuestion { instrument, newest_first, ..question.clone() };
            let expected = found(&reader, &whole).0;
            let (mut pages, mut after) = (Vec::new(), None);
            loop {
                let page = orders::OrdersQuestion { after, limit: 7, ..whole.clone() };
                let (page, more) = found(&reader, &page);
                pages.extend(page);
                after = pages.last().map(|state: &OrderState| state.first_sequence);
                if !more {
                    break;
                }
            }
            assert_eq!(pages, expected, "{instrument:?} {newest_first}");
        }
    }

    // What is below is refused, not answered with nothing; what is not, is.
    let dropped_through = reader.dropped_through().unwrap();
    let below = first_kept.previous();
    for refused in [
        orders::OrdersQuestion { to: below, ..question.clone() },
        orders::OrdersQuestion { from: below, ..question.clone() },
        orders::OrdersQuestion { through: below.previous(), ..question.clone() },
        orders::OrdersQuestion { time_to: dropped_through, ..question.clone() },
        orders::OrdersQuestion { time_from: dropped_through, ..question.clone() },
    ] {
        assert!(orders::orders(&reader, &refused).is_err(), "{refused:?}");
    }
    let from = orders::OrdersQuestion { from: first_kept, ..question.clone() };
    assert!(found(&reader, &from).0.iter().all(|state| !state.entered_before));
    let at_border = orders::OrdersQuestion { through: below, ..question };
    let resting = found(&reader, &at_border).0;
    assert!(resting.len() > 20 && resting.iter().all(|state| state.entered_before));
    assert!(orders::order(&reader, OrderId(1), None, below.previous(), true).is_err());
}

#[test]
fn orders_by_their_number_and_in_lists_are_the_folded_ones() {
    let mut tape = Tape::new(7, true);
    tape.publish(300);
    tape.node.store().flush().unwrap();
    let last = tape.publish(200);
    let reader = tape.node.reader();
    for through in [Sequence(last.get() / 3), last] {
        let mut folded = OrderStates::new();
        tape.each(through, |event| folded.apply(event));
        let all: Vec<_> = folded.iter().copied().collect();
        let question = orders::OrdersQuestion { refused: true, ..orders::OrdersQuestion::new(through) };
        assert_eq!(found(&reader, &question), (all.clone(), false));
        let few = orders::OrdersQuestion { limit: 3, newest_first: true, ..question };
        let expected: Vec<_> = all.iter().rev().take(3).copied().collect();
        assert_eq!(found(&reader, &few), (expected, true));
        for number in 1..=tape.orders {
            let found = orders::order(&reader, OrderId(number), None, through, true).unwrap().found;
            // All that are called so now; and those that were, under the number they got.
            for state in all.iter().filter(|state| state.order_id == OrderId(number)) {
                assert!(found.contains(state), "{number} at {through}: {state:?} not in {found:?}");
            }
            for state in &found {
                assert!(all.contains(state), "{number} at {through}: {state:?} is none of the folded");
            }
        }
    }
}

#[test]
fn a_time_means_the_longest_run_of_events_that_are_not_later() {
    let mut tape = Tape::new(11, true);
    tape.publish(150);
    tape.node.store().flush().unwrap();
    let last = tape.publish(150);
    let reader = tape.node.reader();
    for kinds in [KindMask::ALL, KindMask::STATE, KindMask::ACCOUNTS] {
        let scope = Query { kinds, ..Query::default() };
        for step in 0..60 {
            let time = EventTime(1_000_000 + step * 6 - 10);
            let mut later = None;
            tape.each(last, |event| {
                if kinds.contains(event.kind()) && event.event_time() > time && later.is_none() {
                    later = Some(event.sequence().previous());
                }
            });
            assert_eq!(as_of::prefix(&reader, &scope, time).unwrap(), later.unwrap_or(last), "{time}");
        }
        assert_eq!(as_of::prefix(&reader, &scope, EventTime::MAX).unwrap(), last);
    }
}

/// An account, or a key, as of a time is what its own events make of it up to the first later one, whatever the events of others say.
#[test]
fn an_account_and_a_key_as_of_a_time_are_what_was_said_of_them_until_then() {
    let mut tape = Tape::new(19, true);
    tape.publish(400);
    tape.node.store().flush().unwrap();
    let last = tape.publish(300);
    let reader = tape.node.reader();
    // Of those events alone, in the order of the tape.
    let prefix = |of_scope: &dyn Fn(&EventRef<'_>) -> bool, time: EventTime| {
        let (mut accounts, mut keyed) = (Accounts::new(), KeyedState::new());
        let mut is_later = false;
        tape.each(last, |event| {
            is_later |= of_scope(event) && event.event_time() > time;
            if of_scope(event) && !is_later {
                accounts.apply(event);
                keyed.apply(event);
            }
        });
        (accounts, keyed)
    };
    let (mut accounts_found, mut values_found) = (BTreeSet::new(), BTreeSet::new());
    for step in 0..40 {
        let time = EventTime(1_000_000 + step * 18 - 10);
        for id in (1..=5).map(AccountId) {
            let of_account = |event: &EventRef<'_>| match event.body() {
                BodyRef::AccountOpened(opened) => opened.account.get() == id,
                BodyRef::PositionChanged(changed) => changed.account.get() == id,
                _ => false,
            };
            let expected = prefix(&of_account, time).0.get(id).cloned();
            let scope = Query { account: Some(id), kinds: Accounts::KINDS, ..Query::default() };
            let through = as_of::prefix(&reader, &scope, time).unwrap();
            let found = as_of::accounts(&reader, through).unwrap();
            assert_eq!(found.get(id), expected.as_ref(), "{id} at {time}");
            accounts_found.extend(expected.map(|account| (id, account.changed_at)));
        }
        for number in 0..13 {
            let key = format!("key/{number}").into_bytes();
            let of_key = |event: &EventRef<'_>| match event.body() {
                BodyRef::StateSet(set) => set.key == key,
                BodyRef::StateDeleted(deleted) => *deleted.key() == *key,
                _ => false,
            };
            let expected = prefix(&of_key, time).1.get(&key).cloned();
            let scope = Query { state_key: Some(key.clone()), kinds: KeyedState::KINDS, ..Query::default() };
            let through = as_of::prefix(&reader, &scope, time).unwrap();
            assert_eq!(state::get(&reader, &key, through).unwrap(), expected, "{number} at {time}");
            values_found.extend(expected.map(|value| value.set_at));
        }
    }
    assert!(accounts_found.len() > 20 && values_found.len() > 10, "{accounts_found:?} {values_found:?}");
}

#[test]
fn where_the_beginning_is_gone_and_no_snapshot_has_the_state_that_is_said() {
    let mut tape = Tape::new(5, false);
    for _ in 0..4 {
        tape.publish(100);
        tape.node.store().flush().unwrap();
    }
    let last = tape.publish(10);
    let first_kept = tape.retain();
    assert!(first_kept > Sequence::FIRST);
    let reader = tape.node.reader();
    for (gone, section) in [
        (as_of::books(&reader, &[InstrumentId(1)], last).map(drop), "books"),
        (as_of::tickers(&reader, last).map(drop), "tickers"),
        (as_of::instruments(&reader, last).map(drop), "instruments"),
        (state::all(&reader, last).map(drop), "state"),
        (state::get(&reader, b"never", last).map(drop), "state"),
    ] {
        let error = gone.unwrap_err();
        let expected = format!("no snapshot at or before {last} has the section \"{section}\"");
        assert!(matches!(error, AsOfError::HistoryGone { .. }), "{error}");
        assert!(error.to_string().contains(&expected), "{error}");
        assert!(error.to_string().contains(&format!("kept from sequence {first_kept} on")), "{error}");
    }
    // Names are known of what was defined since; events can be shown without.
    let named = as_of::named_instruments(&reader, last).unwrap();
    assert!(named.iter().all(|instrument| instrument.defined_at >= first_kept));
}
