//! The Shanghai data set.

use std::collections::{BTreeMap, HashMap, HashSet};

use matchtape_market::{Books, Candles, Instruments, OrderStates, OrderStatus, TradeSummary};
use matchtape_schemas::event::Side;
use matchtape_schemas::*;
use serde_json::{Value, json};

use super::{LineHash, Units, letter};

const UNITS: Units = Units { price: 100_000 };
const MINUTE_NS: i64 = 60_000_000_000;
const SHANGHAI_NS: i64 = 8 * 3_600_000_000_000;

/// `HH:MM:SS.mmm` in Shanghai.
fn clock(time: EventTime) -> String {
    let ms = (time.get() + SHANGHAI_NS).rem_euclid(86_400_000_000_000) / 1_000_000;
    format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

#[derive(Default)]
struct PerInstrument {
    symbol: String,
    name: String,
    events: u64,
    counts: BTreeMap<String, u64>,
    first: Option<(String, u64)>,
    last: (String, u64),
    trades: TradeSummary,
    volume_by_flag: BTreeMap<&'static str, u64>,
    traded: HashSet<u64>,
    posted: HashSet<u64>,
    traded_before_insert: HashMap<u64, u64>,
    per_order: HashMap<u64, u64>,
    trades_hash: LineHash,
    events_hash: LineHash,
    checkpoints: Vec<Value>,
    candles: Option<Candles>,
}

/// Everything `expected.json` states, from a tape.
pub struct Oracle {
    /// Times of the checkpoints, by symbol.
    checkpoint_times: HashMap<String, Vec<String>>,
    instruments: Instruments,
    books: Books,
    orders: OrderStates,
    per: BTreeMap<InstrumentId, PerInstrument>,
    records: u64,
    totals: BTreeMap<&'static str, u64>,
    interleaved: LineHash,
}

impl Oracle {
    pub fn new(expected: &Value) -> Self {
        let times = |instrument: &Value| {
            let checkpoints = instrument["book_checkpoints"].as_array().unwrap();
            checkpoints.iter().map(|point| point["before_time"].as_str().unwrap().to_owned()).collect()
        };
        let instruments = expected["instruments"].as_object().unwrap();
        Self {
            checkpoint_times: instruments.iter().map(|(symbol, of)| (symbol.clone(), times(of))).collect(),
            instruments: Instruments::new(),
            books: Books::new(),
            orders: OrderStates::new(),
            per: BTreeMap::new(),
            records: 0,
            totals: BTreeMap::new(),
            interleaved: LineHash::default(),
        }
    }

    pub fn apply(&mut self, event: &EventRef<'_>) {
        self.instruments.apply(event);
        let id = event.instrument();
        if event.kind() == Kind::InstrumentDefined {
            let definition = &self.instruments.get(id).unwrap().definition;
            assert_eq!(
                (definition.currency.as_str().as_ref(), definition.venue.as_str().as_ref()),
                ("CNY", "XSHG")
            );
            let (symbol, name) = (definition.symbol.to_string(), definition.name.to_string());
            let candles = Some(Candles::live(id, MINUTE_NS));
            self.per.insert(id, PerInstrument { symbol, name, candles, ..Default::default() });
            return;
        }
        if KindMask::CONTROL.contains(event.kind()) {
            return;
        }
        let per = self.per.get_mut(&id).expect("defined before its first record");
        let time = clock(event.event_time());
        let passed = |point: &String| *point <= time;
        while let Some(before) =
            self.checkpoint_times[&per.symbol].get(per.checkpoints.len()).filter(|p| passed(p))
        {
            per.checkpoints.push(checkpoint(&self.books, id, per, before));
        }
        self.records += 1;
        assert_eq!(event.header().producer_sequence, ProducerSequence(self.records));
        assert!(event.ends_group());
        per.record(event, &time, &mut self.totals, &mut self.interleaved);
        self.books.apply(event);
        self.orders.apply(event);
        per.candles.as_mut().unwrap().apply(event);
    }

    pub fn finish(mut self) -> Value {
        let mut instruments = serde_json::Map::new();
        for (id, per) in &mut self.per {
            while let Some(before) = self.checkpoint_times[&per.symbol].get(per.checkpoints.len()) {
                per.checkpoints.push(checkpoint(&self.books, *id, per, before));
            }
            instruments.insert(per.symbol.clone(), per.out(*id, &self.books, &self.orders));
        }
        let of = |key| self.totals.get(key).copied().unwrap_or(0);
        json!({
            "records": self.records,
            "totals": {
                "ADD": of("ADD"), "CANCEL": of("CANCEL"), "TRADE": of("TRADE"),
                "traded_volume": self.per.values().map(|per| UNITS.whole(per.trades.volume.units())).sum::<u64>(),
                "traded_notional_e4":
                    self.per.values().map(|per| UNITS.notional(per.trades.notional.units())).sum::<i64>(),
            },
            "interleaved_feed_hash": self.interleaved.out(),
            "instruments": instruments,
        })
    }
}

fn checkpoint(books: &Books, id: InstrumentId, per: &PerInstrument, before: &str) -> Value {
    let book = books.get(id).expect("a book has begun before its first checkpoint");
    json!({
        "before_time": before,
        "events_applied": per.events,
        "traded_volume": UNITS.whole(per.trades.volume.units()),
        "top10": UNITS.top10(book),
        "totals": UNITS.totals(book),
    })
}

impl PerInstrument {
    fn count(&mut self, what: &str, by: u64) {
        *self.counts.entry(what.to_owned()).or_default() += by;
    }

    fn record(
        &mut self,
        event: &EventRef<'_>,
        time: &str,
        totals: &mut BTreeMap<&'static str, u64>,
        interleaved: &mut LineHash,
    ) {
        self.events += 1;
        let whole = |quantity: Quantity| UNITS.whole(u128::from(quantity.units()));
        let symbol = self.symbol.clone();
        let (what, letter_of_record, sequence) = match event.body() {
            BodyRef::OrderAccepted(order) => {
                let (number, side, sequence) =
                    (order.order_id.get().get(), order.side.get(), order.venue_sequence.get());
                let (price, quantity) = (UNITS.price(order.price.get().units()), whole(order.quantity.get()));
                self.count(&format!("ADD_{}", letter(side)), 1);
                self.count(&format!("ADD_QTY_{}", letter(side)), quantity);
                self.posted.insert(number);
                *self.per_order.entry(number).or_default() += 1;
                self.events_hash.add(format_args!(
                    "{symbol},{sequence},{time},A,{number},{},{price},{quantity}",
                    letter(side)
                ));
                ("ADD", "A", sequence)
            }
            BodyRef::OrderCancelled(order) => {
                let (number, side, sequence) =
                    (order.order_id.get().get(), order.side.get(), order.venue_sequence.get());
                let (price, quantity) = (UNITS.price(order.price.get().units()), whole(order.quantity.get()));
                self.count(&format!("CANCEL_{}", letter(side)), 1);
                self.count(&format!("CANCEL_QTY_{}", letter(side)), quantity);
                *self.per_order.entry(number).or_default() += 1;
                self.events_hash.add(format_args!(
                    "{symbol},{sequence},{time},D,{number},{},{price},{quantity}",
                    letter(side)
                ));
                ("CANCEL", "D", sequence)
            }
            BodyRef::TradeMatched(trade) => {
                assert!(!event.flags().contains(EventFlags::REPORTS_ONLY));
                let (buy, sell) = (trade.buy_order_id.get().get(), trade.sell_order_id.get().get());
                let (price, quantity) = (trade.price.get(), whole(trade.quantity.get()));
                let sequence = trade.venue_sequence.get();
                let (name, flag) = match trade.aggressor.get() {
                    Side::None => ("auction", 0),
                    Side::Buy => ("buy_initiated", 1),
                    Side::Sell => ("sell_initiated", 2),
                };
                self.count(&format!("TRADE_{name}"), 1);
                *self.volume_by_flag.entry(name).or_default() += quantity;
                for number in [buy, sell] {
                    self.traded.insert(number);
                    *self.per_order.entry(number).or_default() += 1;
                    if !self.posted.contains(&number) {
                        *self.traded_before_insert.entry(number).or_default() += quantity;
                    }
                }
                self.trades.add(price, trade.quantity.get(), trade.aggressor.get());
                let price = UNITS.price(price.units());
                self.trades_hash
                    .add(format_args!("{symbol},{sequence},{time},{buy},{sell},{price},{quantity},{flag}"));
                self.events_hash
                    .add(format_args!("{symbol},{sequence},{time},T,{buy},{sell},{price},{quantity},{flag}"));
                ("TRADE", "T", sequence)
            }
            other => panic!("an event the importer does not make: {other:?}"),
        };
        self.count(what, 1);
        *totals.entry(what).or_default() += 1;
        interleaved.add(format_args!("{sequence},{symbol},{letter_of_record}"));
        self.first.get_or_insert_with(|| (time.to_owned(), sequence.get()));
        self.last = (time.to_owned(), sequence.get());
    }

    fn out(&self, id: InstrumentId, books: &Books, orders: &OrderStates) -> Value {
        let book = books.get(id).unwrap();
        let mut states: Vec<_> = orders.iter().filter(|state| state.instrument == id).collect();
        states.sort_by_key(|state| state.order_id);
        let mut orders_hash = LineHash::default();
        let mut status: BTreeMap<&str, u64> = [("cancelled", 0), ("filled", 0), ("resting", 0)].into();
        for state in &states {
            let number = state.order_id.get();
            let whole = |units| UNITS.whole(units);
            let (left, accepted) = (u128::from(state.left.units()), u128::from(state.accepted.units()));
            orders_hash.add(format_args!(
                "{},{number},{},{},{},{},{},{},{}",
                self.symbol,
                letter(state.side),
                UNITS.price(state.price.units()),
                self.traded_before_insert.get(&number).copied().unwrap_or(0),
                whole(accepted),
                whole(state.executed.units()),
                whole(state.cancelled.units()),
                whole(left),
            ));
            *status
                .get_mut(match state.status {
                    OrderStatus::Open => "resting",
                    OrderStatus::Filled => "filled",
                    OrderStatus::Cancelled => "cancelled",
                    OrderStatus::Cleared | OrderStatus::Rejected => panic!("not in this feed"),
                })
                .unwrap() += 1;
            // The book and the order's own story agree.
            let resting = book.order(state.order_id).map(|order| order.quantity);
            assert_eq!(resting, (state.status == OrderStatus::Open).then_some(state.left));
        }
        let mut bars = Vec::new();
        let mut bars_hash = LineHash::default();
        for candle in self.candles.as_ref().unwrap().iter() {
            let minute = &clock(candle.start)[..5];
            let summary = &candle.summary;
            let [open, high, low, close] = [summary.open, summary.high, summary.low, summary.close]
                .map(|price| UNITS.price(price.units()));
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
            self.per_order.iter().map(|(number, events)| (*events, *number)).collect();
        busiest.sort_by_key(|(events, number)| (std::cmp::Reverse(*events), *number));
        let price = |price: Price| UNITS.price(price.units());
        json!({
            "name": self.name,
            "events": self.events,
            "counts": self.counts,
            "first_time": self.first.as_ref().unwrap().0,
            "last_time": self.last.0,
            "first_seq": self.first.as_ref().unwrap().1,
            "last_seq": self.last.1,
            "traded_volume": UNITS.whole(self.trades.volume.units()),
            "traded_notional_e4": UNITS.notional(self.trades.notional.units()),
            "volume_by_flag": self.volume_by_flag,
            "open": price(self.trades.open),
            "high": price(self.trades.high),
            "low": price(self.trades.low),
            "last": price(self.trades.close),
            "order_numbers_posted": self.posted.len(),
            "order_numbers_traded_without_being_posted": self.traded.difference(&self.posted).count(),
            "order_status_at_end": status,
            "orders_hash": orders_hash.out(),
            "trades_hash": self.trades_hash.out(),
            "events_hash": self.events_hash.out(),
            "bars_1min_count": bars.len(),
            "bars_1min_hash": bars_hash.out(),
            "bars_1min": bars,
            "final_book_totals": UNITS.totals(book),
            "final_book_top10": UNITS.top10(book),
            "final_book_full_hash": UNITS.full_hash(book),
            "book_checkpoints": self.checkpoints,
            "busiest_orders":
                busiest.iter().take(3).map(|(events, number)| json!({"order_no": number, "events": events})).collect::<Vec<_>>(),
        })
    }
}
