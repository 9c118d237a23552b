//! The channels of current state: best prices, tickers, candles and trading status, live, replayed and conflated, against
//! the tape folded group by group.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use matchtape_client::{TickerRow, settle};
use matchtape_gateway::{GatewayHandle, Limits};
use matchtape_market::{Books, Level, RECENT, Tickers};
use matchtape_schemas::event::*;
use matchtape_schemas::*;
use serde_json::{Value, json};
use support::client::{Client, sequences};
use support::http::get;
use support::{INSTRUMENTS, Tape, generous};

fn symbol(id: InstrumentId) -> &'static str {
    INSTRUMENTS.iter().find(|(known, _)| *known == id).unwrap().1
}

/// Every item that a channel has to send, in order, without what says why it is sent.
struct Expected {
    bbo: Vec<Value>,
    ticker: Vec<Value>,
    status: Vec<Value>,
}

fn bbo(instrument: InstrumentId, best: [Option<Level>; 2], sequence: Sequence, time: EventTime) -> Value {
    let mut item = json!({
        "type": "bbo", "instrument": symbol(instrument), "sequence": sequence.get(), "event_time": time.to_string(),
    });
    for (name, level) in ["bid", "ask"].into_iter().zip(best) {
        let Some(Level { price, quantity, orders }) = level else { continue };
        item[name] = json!(price.to_string());
        item[format!("{name}_quantity")] = json!(quantity.to_string());
        item[format!("{name}_orders")] = json!(orders);
    }
    item
}

impl Expected {
    fn of(tape: &Tape) -> Self {
        let mut expected = Self { bbo: Vec::new(), ticker: Vec::new(), status: Vec::new() };
        let (mut books, mut tickers) = (Books::new(), Tickers::new());
        let mut last: BTreeMap<InstrumentId, [Option<Level>; 2]> = BTreeMap::new();
        let mut group_begin = Sequence::FIRST;
        let mut frames = tape.node.reader().frames(Sequence::ZERO).unwrap();
        while let Some(frame) = frames.next_frame().unwrap() {
            for event in frame.frame().events() {
                books.apply(&event);
                tickers.apply(&event);
                settle(&tape.node.reader(), &mut tickers, event.sequence()).unwrap();
                if let BodyRef::TradingStatusChanged(change) = event.body() {
                    expected.status.push(json!({
                        "type": "status", "instrument": symbol(event.instrument()), "sequence": event.sequence().get(),
                        "event_time": event.event_time().to_string(), "trading_status": change.status.get().name(),
                    }));
                }
                if !event.ends_group() {
                    continue;
                }
                let (sequence, time) = (event.sequence(), event.event_time());
                for (instrument, _) in INSTRUMENTS {
                    let best = [Side::Buy, Side::Sell]
                        .map(|side| books.get(instrument).and_then(|book| book.best(side)));
                    if last.insert(instrument, best).unwrap_or_default() != best {
                        expected.bbo.push(bbo(instrument, best, sequence, time));
                    }
                    if let Some(ticker) = tickers.get(instrument)
                        && ticker.changed_at >= group_begin
                    {
                        let row = TickerRow { sequence, ..TickerRow::new(ticker, symbol(instrument)) };
                        let mut item = serde_json::to_value(row).unwrap();
                        item["type"] = json!("ticker");
                        expected.ticker.push(item);
                    }
                }
                group_begin = sequence.next();
            }
        }
        expected
    }

    fn channel(&self, name: &str) -> &[Value] {
        match name {
            "bbo" => &self.bbo,
            "ticker" => &self.ticker,
            _ => &self.status,
        }
    }
}

/// Orders, trades, halts, a new session and trades taken back.
fn eventful(tape: &mut Tape, groups: usize) -> Sequence {
    for part in 0..4 {
        tape.flow(groups / 4);
        let status = TradingStatus::ALL[1 + part % 2];
        tape.say(INSTRUMENTS[part % 2].0, TradingStatusChanged { status, ..Default::default() });
        if part == 1 {
            tape.say(InstrumentId(0), SessionOpened { trading_day: 20_231_115, ..Default::default() });
        }
        let traded = tape.events().into_iter().rfind(|event| event.kind == Kind::TradeMatched).unwrap();
        let bust = TradeBusted { trade_sequence: traded.sequence, ..Default::default() };
        tape.say(traded.instrument, bust);
    }
    let end = tape.flow(20);
    tape.visible(end);
    end
}

/// Takes back the first trade of each instrument in the session: too long ago to be remembered, and the bust does not say what
/// its price and quantity were.
fn old_trades_taken_back(tape: &mut Tape) {
    let end = tape.flow(300);
    tape.visible(end);
    let events = tape.events();
    let opened = events.iter().rfind(|event| event.kind == Kind::SessionOpened).unwrap().sequence;
    let mut last = Sequence::ZERO;
    for (instrument, _) in INSTRUMENTS {
        let mut trades = events.iter().filter(|event| {
            event.kind == Kind::TradeMatched && event.instrument == instrument && event.sequence > opened
        });
        let trade = trades.next().unwrap().sequence;
        assert!(trades.count() > RECENT);
        last = tape.say(instrument, TradeBusted { trade_sequence: trade, ..Default::default() });
    }
    tape.visible(last);
}

async fn filled(limits: Limits) -> (Tape, GatewayHandle) {
    let mut tape = Tape::open();
    tape.define();
    eventful(&mut tape, 200);
    tape.node.store().flush().unwrap();
    let gateway = tape.gateway(limits).await;
    (tape, gateway)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn best_prices_tickers_and_status_are_the_folded_ones_live_and_replayed() {
    let (mut tape, gateway) = filled(generous()).await;
    for channel in ["bbo", "ticker", "status"] {
        let mut live = Client::connect(gateway.address()).await;
        let head = live.subscribe(json!({"id": 1, "channel": channel})).await["start"].as_u64().unwrap() - 1;
        let mut of_one = Client::connect(gateway.address()).await;
        of_one.subscribe(json!({"id": 1, "channel": channel, "symbols": ["BETA"]})).await;
        let before = Expected::of(&tape);
        eventful(&mut tape, 200);
        old_trades_taken_back(&mut tape);
        let expected = Expected::of(&tape);
        let all = expected.channel(channel);
        let last = all.last().unwrap()["sequence"].as_u64().unwrap();

        // First the state of every instrument, then each change.
        let items = live.items_through(1, last).await;
        let (snapshot, changes): (Vec<Value>, Vec<Value>) =
            items.into_iter().partition(|item| item.get("snapshot").is_some());
        for (at, (_, symbol)) in INSTRUMENTS.iter().enumerate() {
            let known = before.channel(channel).iter().rfind(|item| item["instrument"] == *symbol).unwrap();
            let mut known = known.clone();
            known["sequence"] = json!(head);
            known["snapshot"] = json!(true);
            let mut found = snapshot[at].clone();
            found.as_object_mut().unwrap().remove("event_time");
            known.as_object_mut().unwrap().remove("event_time");
            assert_eq!(found, known, "{channel}");
        }
        let after = |item: &&Value| item["sequence"].as_u64().unwrap() > head;
        assert_eq!(changes, all.iter().filter(after).cloned().collect::<Vec<_>>(), "{channel}");
        let of_beta: Vec<Value> =
            all.iter().filter(after).filter(|item| item["instrument"] == "BETA").cloned().collect();
        let last_of_beta = of_beta.last().unwrap()["sequence"].as_u64().unwrap();
        let items = of_one.items_through(1, last_of_beta).await;
        assert_eq!(items[1..], of_beta, "{channel}");

        // From the first event, and from the middle, which begins with the state as of there.
        for from in [1, all[all.len() / 2]["sequence"].as_u64().unwrap()] {
            let mut replayed = Client::connect(gateway.address()).await;
            let start = replayed.subscribe(json!({"id": 1, "channel": channel, "from_sequence": from})).await;
            let start = start["start"].as_u64().unwrap();
            let items = replayed.items_through(1, last).await;
            let changes: Vec<Value> =
                items.iter().filter(|item| item.get("snapshot").is_none()).cloned().collect();
            let expected: Vec<Value> =
                all.iter().filter(|item| item["sequence"].as_u64().unwrap() >= start).cloned().collect();
            assert_eq!(changes, expected, "{channel} from {from}");
        }
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_gets_the_last_state_and_is_told_how_much_it_stands_for() {
    for recent_bytes_max in [1, 16 << 20] {
        let (mut tape, gateway) = filled(Limits { conflate_above: 1, recent_bytes_max, ..generous() }).await;
        for channel in ["bbo", "ticker"] {
            let mut client = Client::connect(gateway.address()).await;
            client.subscribe(json!({"id": 1, "channel": channel})).await;
            // A whole step's worth of groups at once, again and again, until something was passed over.
            let (mut state, mut conflated) = (BTreeMap::<String, Value>::new(), 0);
            let begun = Instant::now();
            loop {
                assert!(begun.elapsed() < Duration::from_secs(60), "{channel}: nothing is ever passed over");
                let end = tape.flow(3_000);
                tape.visible(end);
                let expected = Expected::of(&tape);
                let last = expected.channel(channel).last().unwrap()["sequence"].as_u64().unwrap();
                for mut item in client.items_through(1, last).await {
                    let fields = item.as_object_mut().unwrap();
                    conflated += u64::from(fields.remove("conflated").is_some());
                    let (_, _) = (fields.remove("snapshot"), fields.remove("event_time"));
                    fields.remove("sequence");
                    state.insert(item["instrument"].as_str().unwrap().to_owned(), item);
                }
                for (_, symbol) in INSTRUMENTS {
                    let mut all = expected.channel(channel).iter();
                    let mut known = all.rfind(|item| item["instrument"] == symbol).unwrap().clone();
                    known.as_object_mut().unwrap().remove("event_time");
                    known.as_object_mut().unwrap().remove("sequence");
                    assert_eq!(state[symbol], known);
                }
                if conflated > 0 {
                    break;
                }
            }
        }
        gateway.shutdown().await;
    }
}

/// The candles that HTTP gives, by start.
async fn candles(gateway: &GatewayHandle, symbol: &str) -> BTreeMap<String, Value> {
    let path = format!("/v1/candles?instrument={symbol}&interval=1s");
    let answer = get(gateway.address(), &path).await.json();
    let rows = answer["candles"].as_array().unwrap().iter();
    rows.map(|row| (row["start"].as_str().unwrap().to_owned(), row.clone())).collect()
}

/// What a client of the channel knows: the last word about each candle; those to be asked for again are not known.
fn known(items: &[Value]) -> (BTreeMap<(String, String), Value>, usize) {
    let (mut known, mut recounts) = (BTreeMap::new(), 0);
    for item in items {
        let symbol = item["instrument"].as_str().unwrap().to_owned();
        if item["type"] == "recount" {
            recounts += 1;
            known.retain(|(other, start): &(String, String), _| {
                *other != symbol || item.get("start").is_some_and(|of| of != start.as_str())
            });
            continue;
        }
        assert_eq!((&item["type"], &item["interval_ns"]), (&json!("candle"), &json!("1000000000")));
        let start = item["start"].as_str().unwrap().to_owned();
        let mut candle = item.clone();
        for name in ["type", "instrument", "sequence", "interval_ns", "snapshot", "conflated"] {
            candle.as_object_mut().unwrap().remove(name);
        }
        known.insert((symbol, start), candle);
    }
    (known, recounts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn candles_are_those_of_http_live_and_replayed_through_busts_and_late_trades() {
    for recent_bytes_max in [1, 16 << 20] {
        let (mut tape, gateway) = filled(Limits { recent_bytes_max, ..generous() }).await;
        let request = json!({"id": 1, "channel": "candles", "symbols": ["ALFA", "BETA"], "interval": "1s"});
        let mut live = Client::connect(gateway.address()).await;
        let subscribed = live.subscribe(request.clone()).await;
        assert_eq!(subscribed["interval_ns"], "1000000000");
        for _ in 0..3 {
            eventful(&mut tape, 600);
            // A trade of two seconds ago.
            let late = tape.late_trade(INSTRUMENTS[0].0, 2_000_000_000);
            tape.visible(late);
        }
        tape.flow(400);
        let mut last = Sequence::ZERO;
        for (instrument, _) in INSTRUMENTS {
            let price = Price::from_units(10_000_000_000);
            let quantity = Quantity::from_whole(1).unwrap();
            last = tape.say(instrument, TradeMatched { price, quantity, ..Default::default() });
        }
        let mut from_the_first = request.clone();
        from_the_first["from_sequence"] = json!(1);
        let mut replayed = Client::connect(gateway.address()).await;
        replayed.subscribe(from_the_first).await;
        for (client, of_all) in [(&mut live, false), (&mut replayed, true)] {
            let items = client.items_through(1, last.get()).await;
            assert!(sequences(&items).is_sorted());
            let (known, recounts) = known(&items);
            // 12 trades were taken back while the live one looked on (and 4 before), and 3 came late.
            assert_eq!(recounts, if of_all { 19 } else { 15 });
            for (_, symbol) in INSTRUMENTS {
                let expected = candles(&gateway, symbol).await;
                let current = expected.keys().next_back().unwrap().clone();
                assert!(known.contains_key(&(symbol.to_owned(), current)), "the current candle is known");
                assert!(expected.len() > 3);
                for ((_, start), candle) in known.iter().filter(|((of, _), _)| of == symbol) {
                    assert_eq!(Some(candle), expected.get(start), "{symbol} {start}");
                }
            }
        }
        gateway.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_are_refused_with_words() {
    let (_tape, gateway) = filled(generous()).await;
    let mut client = Client::connect(gateway.address()).await;
    for (request, place) in [
        (json!({"channel": "candles"}), "symbols"),
        (json!({"channel": "candles", "symbols": ["ALFA"], "interval": "1w"}), "interval"),
        (json!({"channel": "ticker", "interval": "1m"}), "interval"),
        (json!({"channel": "bbo", "depth": 5}), "depth"),
        (json!({"channel": "trades", "snapshot": true}), "snapshot"),
    ] {
        let mut request = request;
        (request["op"], request["id"]) = (json!("subscribe"), json!(1));
        client.send(request).await;
        let error = client.next().await;
        assert_eq!((&error["error"], &error["where"]), (&json!("bad_request"), &json!(place)), "{error}");
    }
    gateway.shutdown().await;
}
