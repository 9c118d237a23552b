//! The CME data set.

use std::collections::BTreeMap;

use matchtape_market::{BookCounters, Books, Candles, Instruments, TradeSummary};
use matchtape_schemas::event::Side;
use matchtape_schemas::*;
use serde_json::{Value, json};

use super::{LineHash, Units, letter};

const UNITS: Units = Units { price: 1 };
const MINUTE_NS: i64 = 60_000_000_000;

fn whole(quantity: Quantity) -> u64 {
    UNITS.whole(u128::from(quantity.units()))
}

#[derive(Default)]
struct OrderStory {
    side: &'static str,
    first_price: i64,
    first_size: u64,
    modified: u64,
    cancelled: u64,
    filled: u64,
}

/// Everything `expected.json` states, from a tape.
pub struct Oracle {
    checkpoint_records: Vec<u64>,
    instruments: Instruments,
    books: Books,
    id: InstrumentId,
    number: u64,
    records: u64,
    snapshot_records: u64,
    flags: BTreeMap<String, u64>,
    counts: BTreeMap<String, u64>,
    book_events: BTreeMap<&'static str, u64>,
    first: Option<(i64, i64)>,
    last: (i64, i64, u64),
    first_fresh: Option<i64>,
    monotone: [bool; 3],
    stories: BTreeMap<u64, OrderStory>,
    per_order: BTreeMap<u64, u64>,
    trades: TradeSummary,
    volume_by_aggressor: BTreeMap<&'static str, u64>,
    fill_volume: u64,
    all: LineHash,
    trades_hash: LineHash,
    fills_hash: LineHash,
    best_hash: LineHash,
    groups: u64,
    crossed: u64,
    candles: Option<Candles>,
    checkpoints: Vec<Value>,
}

impl Oracle {
    pub fn new(expected: &Value) -> Self {
        let instrument = expected["instruments"].as_object().unwrap().values().next().unwrap();
        let checkpoints = instrument["book_checkpoints"].as_array().unwrap();
        let zero = |keys: &[&'static str]| keys.iter().map(|key| (*key, 0)).collect();
        Self {
            checkpoint_records: checkpoints
                .iter()
                .map(|point| point["records_applied"].as_u64().unwrap())
                .collect(),
            instruments: Instruments::new(),
            books: Books::new(),
            id: InstrumentId(0),
            number: 0,
            records: 0,
            snapshot_records: 0,
            flags: BTreeMap::new(),
            counts: BTreeMap::new(),
            book_events: zero(&[
                "cancel_larger_than_left",
                "cancel_partial",
                "fill_of_order_never_seen",
                "modify_nothing",
                "modify_price",
                "modify_size_down",
                "modify_size_up",
            ]),
            first: None,
            last: (i64::MIN, i64::MIN, 0),
            first_fresh: None,
            monotone: [true; 3],
            stories: BTreeMap::new(),
            per_order: BTreeMap::new(),
            trades: TradeSummary::default(),
            volume_by_aggressor: zero(&["N", "B", "A"]),
            fill_volume: 0,
            all: LineHash::default(),
            trades_hash: LineHash::default(),
            fills_hash: LineHash::default(),
            best_hash: LineHash::default(),
            groups: 0,
            crossed: 0,
            candles: None,
            checkpoints: Vec::new(),
        }
    }

    pub fn apply(&mut self, event: &EventRef<'_>) {
        self.instruments.apply(event);
        if event.kind() == Kind::InstrumentDefined {
            self.id = event.instrument();
            let definition = &self.instruments.get(self.id).unwrap().definition;
            assert_eq!(
                (definition.symbol.as_str().as_ref(), definition.venue.as_str().as_ref()),
                ("ESH4", "GLBX.MDP3")
            );
            self.number = definition.venue_instrument_id;
            self.candles = Some(Candles::live(self.id, MINUTE_NS));
            return;
        }
        if KindMask::CONTROL.contains(event.kind()) {
            return;
        }
        assert_eq!(event.instrument(), self.id);
        if self.checkpoint_records.get(self.checkpoints.len()) == Some(&self.records) {
            self.checkpoint();
        }
        let index = self.records;
        self.records += 1;
        assert_eq!(event.header().producer_sequence, ProducerSequence(self.records));
        self.record(event);
        self.books.apply(event);
        self.candles.as_mut().unwrap().apply(event);

        let ends = event.header().venue_flags & 128 != 0;
        assert_eq!(event.ends_group(), ends, "groups are the venue's");
        if ends {
            self.groups += 1;
            let book = self.books.get(self.id).unwrap();
            let best = |side| {
                book.best(side).map_or((",".to_owned(), None), |level| {
                    let (price, quantity) = (level.price.units(), UNITS.whole(level.quantity.units()));
                    (format!("{price},{quantity}"), Some(price))
                })
            };
            let ((bid, bid_price), (ask, ask_price)) = (best(Side::Buy), best(Side::Sell));
            self.best_hash.add(format_args!("{index},{bid},{ask}"));
            let crossed = bid_price.zip(ask_price).is_some_and(|(bid, ask)| bid >= ask);
            assert_eq!(crossed, book.is_crossed());
            self.crossed += u64::from(crossed);
        }
    }

    fn checkpoint(&mut self) {
        let book = self.books.get(self.id).unwrap();
        self.checkpoints.push(json!({
            "records_applied": self.records,
            "next_record_index": self.records,
            "top10": UNITS.top10(book),
            "totals": UNITS.totals(book),
        }));
    }

    fn count(&mut self, action: &str, side: &str) {
        *self.counts.entry(action.to_owned()).or_default() += 1;
        *self.counts.entry(format!("{action}_{side}")).or_default() += 1;
    }

    fn book_event(&mut self, what: &'static str) {
        *self.book_events.get_mut(what).unwrap() += 1;
    }

    /// One record, from nothing but what the tape holds.
    fn record(&mut self, event: &EventRef<'_>) {
        let header = event.header();
        let book_order = |books: &Books, id: InstrumentId, order| {
            books.get(id).and_then(|book| book.order(OrderId(order)))
        };
        macro_rules! common {
            ($r:ident) => {
                (
                    $r.price.get(),
                    whole($r.quantity.get()),
                    $r.receive_time.get().get(),
                    $r.send_delay_ns.to_native(),
                    $r.venue_sequence.get().get(),
                )
            };
        }
        let (action, side, order, (price, size, ts_recv, delta, sequence)) = match event.body() {
            BodyRef::OrderAccepted(record) => {
                let (order, side) = (record.order_id.get().get(), letter(record.side.get()));
                let fields = common!(record);
                let story = OrderStory {
                    side,
                    first_price: fields.0.units(),
                    first_size: fields.1,
                    ..Default::default()
                };
                assert!(self.stories.insert(order, story).is_none(), "no number is used twice in this file");
                ("A", side, order, fields)
            }
            BodyRef::OrderCancelled(record) => {
                let (order, side) = (record.order_id.get().get(), letter(record.side.get()));
                let fields = common!(record);
                let left = whole(book_order(&self.books, self.id, order).unwrap().quantity);
                if fields.1 > left {
                    self.book_event("cancel_larger_than_left");
                }
                if fields.1 < left {
                    self.book_event("cancel_partial");
                }
                self.stories.get_mut(&order).unwrap().cancelled += fields.1.min(left);
                ("C", side, order, fields)
            }
            BodyRef::OrderReplaced(record) => {
                assert_eq!(record.order_id.get(), record.new_order_id.get());
                let (order, side) = (record.order_id.get().get(), letter(record.side.get()));
                let fields = common!(record);
                let before = book_order(&self.books, self.id, order).unwrap();
                self.book_event(if fields.0 != before.price {
                    "modify_price"
                } else {
                    match fields.1.cmp(&whole(before.quantity)) {
                        std::cmp::Ordering::Less => "modify_size_down",
                        std::cmp::Ordering::Equal => "modify_nothing",
                        std::cmp::Ordering::Greater => "modify_size_up",
                    }
                });
                self.stories.get_mut(&order).unwrap().modified += 1;
                ("M", side, order, fields)
            }
            BodyRef::TradeMatched(record) => {
                assert!(header.flags.contains(EventFlags::REPORTS_ONLY));
                let side = letter(record.aggressor.get());
                let (buy, sell) = (record.buy_order_id.get().get(), record.sell_order_id.get().get());
                let fields = common!(record);
                self.trades.add(fields.0, record.quantity.get(), record.aggressor.get());
                *self.volume_by_aggressor.get_mut(side).unwrap() += fields.1;
                self.trades_hash.add(format_args!(
                    "{},{},{},{side},{},{}",
                    self.number,
                    header.event_time,
                    fields.4,
                    fields.0.units(),
                    fields.1
                ));
                ("T", side, buy.max(sell), fields)
            }
            BodyRef::OrderExecuted(record) => {
                assert!(header.flags.contains(EventFlags::REPORTS_ONLY));
                let (order, side) = (record.order_id.get().get(), letter(record.side.get()));
                let fields = common!(record);
                match self.stories.get_mut(&order) {
                    Some(story) => story.filled += fields.1,
                    None => self.book_event("fill_of_order_never_seen"),
                }
                self.fill_volume += fields.1;
                self.fills_hash.add(format_args!(
                    "{},{},{},{side},{order},{},{}",
                    self.number,
                    header.event_time,
                    fields.4,
                    fields.0.units(),
                    fields.1
                ));
                ("F", side, order, fields)
            }
            BodyRef::BookCleared(record) => {
                let times = (record.receive_time.get().get(), record.send_delay_ns.to_native());
                ("R", "N", 0, (Price::NONE, 0, times.0, times.1, record.venue_sequence.get().get()))
            }
            other => panic!("an event the importer does not make: {other:?}"),
        };
        self.count(action, side);
        *self.flags.entry(header.venue_flags.to_string()).or_default() += 1;
        let snapshot = header.venue_flags & 32 != 0;
        assert_eq!(header.flags.contains(EventFlags::SNAPSHOT), snapshot);
        self.snapshot_records += u64::from(snapshot);
        if order != 0 {
            *self.per_order.entry(order).or_default() += 1;
        }
        let ts_event = header.event_time.get();
        if !snapshot {
            self.first_fresh.get_or_insert(ts_event);
        }
        self.monotone[0] &= ts_recv >= self.last.1;
        self.monotone[1] &= ts_event >= self.last.0;
        self.monotone[2] &= sequence >= self.last.2;
        self.first.get_or_insert((ts_event, ts_recv));
        self.last = (ts_event, ts_recv, sequence);
        let definition = &self.instruments.get(self.id).unwrap().definition;
        let price = if price.is_none() { i64::MAX } else { price.units() };
        self.all.add(format_args!(
            "{},{},{ts_event},{order},{price},{size},{},{},{action},{side},{ts_recv},{delta},{sequence}",
            definition.publisher, self.number, header.venue_flags, definition.channel
        ));
    }

    pub fn finish(self) -> Value {
        let book = self.books.get(self.id).unwrap();
        assert_eq!(book.counters(), BookCounters::default());
        let mut orders_hash = LineHash::default();
        for (order, story) in &self.stories {
            let last = book.order(OrderId(*order));
            let price = last.map(|order| order.price.units().to_string()).unwrap_or_default();
            let size = last.map_or(0, |order| whole(order.quantity));
            let OrderStory { side, first_price, first_size, modified, cancelled, filled } = story;
            orders_hash.add(format_args!(
                "{order},{side},{first_price},{first_size},{modified},{cancelled},{filled},{price},{size}"
            ));
        }
        let mut bars = Vec::new();
        let mut bars_hash = LineHash::default();
        for candle in self.candles.as_ref().unwrap().iter() {
            let minute = format!("{}Z", &matchtape_client::time::rfc3339(candle.start.get())[..16]);
            let summary = &candle.summary;
            let [open, high, low, close] =
                [summary.open, summary.high, summary.low, summary.close].map(|price| price.units());
            let (volume, notional, trades) = (
                UNITS.whole(summary.volume.units()),
                UNITS.notional(summary.notional.units()),
                summary.trades,
            );
            bars_hash.add(format_args!("{minute},{open},{high},{low},{close},{volume},{notional},{trades}"));
            bars.push(json!({
                "minute": minute, "open": open, "high": high, "low": low, "close": close,
                "volume": volume, "notional": notional, "trades": trades,
            }));
        }
        let mut busiest: Vec<(u64, u64)> =
            self.per_order.iter().map(|(order, events)| (*events, *order)).collect();
        busiest.sort_by_key(|(events, order)| (std::cmp::Reverse(*events), *order));
        let instrument = json!({
            "records": self.records,
            "snapshot_records": self.snapshot_records,
            "counts": self.counts,
            "book_events": self.book_events,
            "first_ts_event": self.first.unwrap().0,
            "last_ts_event": self.last.0,
            "first_ts_recv": self.first.unwrap().1,
            "last_ts_recv": self.last.1,
            "first_non_snapshot_ts_event": self.first_fresh,
            "last_sequence": self.last.2,
            "orders_seen": self.stories.len(),
            "trades": self.trades.trades,
            "traded_volume": UNITS.whole(self.trades.volume.units()),
            "traded_notional_e9": UNITS.notional(self.trades.notional.units()),
            "volume_by_aggressor": self.volume_by_aggressor,
            "fill_records_volume": self.fill_volume,
            "open": self.trades.open.units(),
            "high": self.trades.high.units(),
            "low": self.trades.low.units(),
            "last": self.trades.close.units(),
            "trades_hash": self.trades_hash.out(),
            "fills_hash": self.fills_hash.out(),
            "orders_hash": orders_hash.out(),
            "bars_1min_count": bars.len(),
            "bars_1min_hash": bars_hash.out(),
            "bars_1min": bars,
            "best_bid_ask_after_each_event_hash": self.best_hash.out(),
            "events": self.groups,
            "events_leaving_book_crossed_or_locked": self.crossed,
            "final_book_totals": UNITS.totals(book),
            "final_book_top10": UNITS.top10(book),
            "final_book_full_hash": UNITS.full_hash(book),
            "book_checkpoints": self.checkpoints,
            "busiest_orders":
                busiest.iter().take(5).map(|(events, order)| json!({"order_id": order, "events": events})).collect::<Vec<_>>(),
        });
        let number = self.number.to_string();
        json!({
            "records": self.records,
            "flags": self.flags,
            "ts_recv_never_decreases": self.monotone[0],
            "ts_event_never_decreases": self.monotone[1],
            "sequence_never_decreases": self.monotone[2],
            "all_records_hash": self.all.out(),
            "instruments": { number: instrument },
        })
    }
}
