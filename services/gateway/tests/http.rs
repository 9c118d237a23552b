//! What HTTP answers: the same facts as the tape, in pages or lines, at any position; and errors that help.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use matchtape_client::{StatusRow, TickerRow};
use matchtape_gateway::Limits;
use matchtape_market::{Busts, Candles, Instruments, Tickers};
use matchtape_schemas::event::{SessionOpened, Side, TradingStatus, TradingStatusChanged};
use matchtape_schemas::{BodyRef, InstrumentId, Kind, KindMask, OrderId, Sequence};
use serde_json::{Value, json};
use support::client::sequences;
use support::http::{get, get_lines, get_with, post};
use support::{INSTRUMENTS, Levels, Oracle, Tape, generous, levels};

fn levels_of(value: &Value) -> Levels {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let row = |level: &Value| (text(&level[0]), text(&level[1]), level[2].as_u64().unwrap());
    value.as_array().unwrap().iter().map(row).collect()
}

async fn filled() -> (Tape, Sequence, matchtape_gateway::GatewayHandle) {
    let mut tape = Tape::open();
    tape.define();
    let end = tape.flow(400);
    tape.visible(end);
    let gateway = tape.gateway(Limits { page_rows_max: 100, ..generous() }).await;
    (tape, end, gateway)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_put_together_are_the_whole_answer_in_both_orders() {
    let (tape, end, gateway) = filled().await;
    let address = gateway.address();
    let events = tape.events();
    let all: Vec<u64> = (1..=end.get()).collect();
    let trades: Vec<u64> = events
        .iter()
        .filter(|event| event.kind == Kind::TradeMatched)
        .map(|event| event.sequence.get())
        .collect();
    let alfa: Vec<u64> = events
        .iter()
        .filter(|event| event.instrument == INSTRUMENTS[0].0 && KindMask::ORDERS.contains(event.kind))
        .map(|event| event.sequence.get())
        .collect();
    for (path, list, expected) in [
        ("/v1/events?limit=7", "events", &all),
        ("/v1/events?limit=100&instrument=ALFA&kind=orders", "events", &alfa),
        ("/v1/trades?limit=3&order=asc", "trades", &trades),
    ] {
        for reversed in [false, true] {
            let path = if reversed {
                format!("{}&order=desc", path.replace("&order=asc", ""))
            } else {
                path.to_owned()
            };
            let mut rows = Vec::new();
            let mut cursor = String::new();
            loop {
                let answer = get(address, &format!("{path}{cursor}")).await;
                assert_eq!(answer.status, 200, "{}", answer.body);
                let page = answer.json();
                assert_eq!(page["visible"], end.get());
                rows.extend(page[list].as_array().unwrap().iter().cloned());
                match page["next"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            let mut expected = expected.clone();
            if reversed {
                expected.reverse();
            }
            assert_eq!(sequences(&rows), expected, "{path}");
        }
    }
    let newest = get(address, "/v1/trades?limit=2").await.json();
    assert_eq!(
        sequences(newest["trades"].as_array().unwrap()),
        [trades[trades.len() - 1], trades[trades.len() - 2]]
    );
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_are_the_same_rows_without_pages() {
    let (_tape, end, gateway) = filled().await;
    let address = gateway.address();
    let lines = get_lines(address, "/v1/events").await;
    assert!(lines.headers.contains("application/x-ndjson"));
    let lines = lines.lines();
    assert_eq!(sequences(&lines), (1..=end.get()).collect::<Vec<_>>());
    let page = get(address, "/v1/events?from=50&to=60").await.json();
    assert_eq!(page["events"].as_array().unwrap()[..], lines[49..60]);
    let limited = get_lines(address, "/v1/events?limit=3&order=desc").await.lines();
    assert_eq!(sequences(&limited), [end.get(), end.get() - 1, end.get() - 2]);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_are_by_sequence_or_by_time_and_inclusive() {
    let (tape, _, gateway) = filled().await;
    let address = gateway.address();
    let events = tape.events();
    let (first, last) = (&events[100], &events[140]);
    let by_time = format!("/v1/events?from={}&to={}", first.time.get(), last.time.get());
    let by_sequence = format!("/v1/events?from={}&to={}", first.sequence, last.sequence);
    let (by_time, by_sequence) =
        (get(address, &by_time).await.json(), get(address, &by_sequence).await.json());
    assert_eq!(by_time["events"], by_sequence["events"]);
    assert_eq!(by_time["events"].as_array().unwrap().len(), 41);
    let whole = get(address, "/v1/events?from=2023-11-14T22:13:20Z&to=end&limit=100").await.json();
    assert_eq!(whole["events"].as_array().unwrap().len(), 100);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_book_as_of_any_sequence_or_time_is_the_folded_one() {
    let (tape, end, gateway) = filled().await;
    let address = gateway.address();
    let oracle = Oracle::of(&tape);
    let events = tape.events();
    for event in events.iter().step_by(3) {
        for (instrument, symbol) in INSTRUMENTS {
            let at = event.sequence;
            let answer = get(address, &format!("/v1/book?instrument={symbol}&at={at}&depth=0")).await.json();
            let sequence = Sequence(answer["sequence"].as_u64().unwrap());
            assert!(sequence <= at && (sequence == at) == event.ends_group);
            let Some((bids, asks, checksum)) = oracle.books.get(&(sequence, instrument)) else {
                panic!("{sequence} does not end a group");
            };
            assert_eq!(
                (&levels_of(&answer["bids"]), &levels_of(&answer["asks"])),
                (bids, asks),
                "{symbol} at {at}"
            );
            assert_eq!(answer["checksum"], json!(checksum));
        }
    }
    let of_time = &events[events.len() / 2];
    let answer =
        get(address, &format!("/v1/book?instrument=ALFA&at={}&depth=3", of_time.time.get())).await.json();
    let book = tape.book_at(INSTRUMENTS[0].0, Sequence(answer["sequence"].as_u64().unwrap()));
    assert_eq!(levels_of(&answer["bids"]), levels(&book, Side::Buy, 3));
    let now = get(address, "/v1/book?instrument=BETA").await.json();
    assert_eq!(now["sequence"], end.get());
    assert_eq!(levels_of(&now["asks"]), levels(&tape.book_at(INSTRUMENTS[1].0, end), Side::Sell, 10));
    let lines = get_lines(address, "/v1/book?instrument=BETA&depth=2").await.lines();
    assert_eq!(
        lines.iter().map(|row| row["side"].as_str().unwrap()).collect::<Vec<_>>(),
        ["buy", "buy", "sell", "sell"]
    );
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn candles_are_the_folded_trades() {
    let (tape, end, gateway) = filled().await;
    let address = gateway.address();
    for (instrument, symbol) in INSTRUMENTS {
        let mut candles = Candles::without(instrument, 1_000_000_000, Busts::new());
        let mut frames = tape.node.reader().frames(Sequence::ZERO).unwrap();
        while let Some(frame) = frames.next_frame().unwrap() {
            for event in frame.frame().events() {
                candles.apply(&event);
            }
        }
        let expected: Vec<Value> = candles
            .iter()
            .map(|candle| {
                let summary = &candle.summary;
                json!({
                    "start": candle.start.to_string(), "open": summary.open.to_string(), "high": summary.high.to_string(),
                    "low": summary.low.to_string(), "close": summary.close.to_string(), "volume": summary.volume.to_string(),
                    "notional": summary.notional.to_string(), "trades": summary.trades,
                    "buy_volume": summary.buy_volume.to_string(), "sell_volume": summary.sell_volume.to_string(),
                })
            })
            .collect();
        assert!(!expected.is_empty());
        let path = format!("/v1/candles?instrument={symbol}&interval=1s");
        let answer = get(address, &path).await.json();
        assert_eq!(answer["candles"], json!(expected));
        assert_eq!(answer["sequence"], end.get());
        assert_eq!(get_lines(address, &path).await.lines(), expected);
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickers_and_trading_status_are_the_folded_ones_now_and_as_of_any_position() {
    let (mut tape, _, gateway) = filled().await;
    let address = gateway.address();
    tape.node.store().flush().unwrap();
    let status = TradingStatusChanged { status: TradingStatus::Halted, ..Default::default() };
    let halted = tape.say(INSTRUMENTS[1].0, status);
    let session = SessionOpened { trading_day: 20_231_115, session: 2, ..Default::default() };
    let opened = tape.say(InstrumentId(0), session);
    let end = tape.flow(100);
    tape.visible(end);
    let events = tape.events();
    for at in [halted.previous(), halted, opened.previous(), opened, end] {
        let mut tickers = Tickers::new();
        let mut instruments = Instruments::new();
        let mut frames = tape.node.reader().frames(Sequence::ZERO).unwrap();
        while let Some(frame) = frames.next_frame().unwrap() {
            for event in frame.frame().events().filter(|event| event.sequence() <= at) {
                tickers.apply(&event);
                instruments.apply(&event);
            }
        }
        let symbol = |id| INSTRUMENTS.iter().find(|(known, _)| *known == id).unwrap().1;
        let expected: Vec<Value> = tickers
            .iter()
            .map(|ticker| serde_json::to_value(TickerRow::new(ticker, symbol(ticker.instrument))).unwrap())
            .collect();
        let statuses: Vec<Value> = instruments
            .iter()
            .map(|instrument| serde_json::to_value(StatusRow::new(instrument)).unwrap())
            .collect();
        assert_eq!((expected.len(), statuses.len()), (2, 2));
        let time = events[at.get() as usize - 1].time;
        for at in [at.to_string(), time.to_string()] {
            let answer = get(address, &format!("/v1/ticker?at={at}")).await.json();
            assert_eq!(answer["tickers"], json!(expected), "at {at}");
            let one = get(address, &format!("/v1/ticker?instrument=BETA&at={at}")).await.json();
            assert_eq!(one["tickers"], json!([expected[1]]), "at {at}");
            let answer = get(address, &format!("/v1/status?at={at}")).await.json();
            assert_eq!(answer["status"], json!(statuses), "at {at}");
        }
    }
    // Once the feeds have come to the end, so have the answers without a position.
    get(address, "/v1/instruments").await;
    let now = get(address, "/v1/ticker?instrument=ALFA").await.json();
    let then = get(address, &format!("/v1/ticker?instrument=ALFA&at={end}")).await.json();
    assert_eq!((&now["tickers"], &now["sequence"]), (&then["tickers"], &json!(end.get())));
    assert_eq!(now["tickers"][0]["trading_day"], "20231115");
    let lines = get_lines(address, "/v1/status?instrument=BETA").await.lines();
    assert_eq!(lines, [json!({"instrument": "BETA", "trading_status": "halted", "sequence": halted.get()})]);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instruments_watermarks_and_health_say_how_things_are() {
    let (tape, end, gateway) = filled().await;
    let address = gateway.address();
    let answer = get(address, "/v1/instruments").await.json();
    let listed = answer["instruments"].as_array().unwrap();
    assert_eq!(
        listed.iter().map(|row| row["instrument"].as_str().unwrap()).collect::<Vec<_>>(),
        ["ALFA", "BETA"]
    );
    let best = tape.book_at(INSTRUMENTS[0].0, end).best(Side::Buy).unwrap().price.to_string();
    assert_eq!((&listed[0]["bid"], &listed[0]["name"]), (&json!(best), &json!("An instrument \"quoted\"")));
    let one = get(address, "/v1/instruments/BETA").await.json();
    let of_beta = |event: &&support::Recorded| {
        event.instrument == INSTRUMENTS[1].0 && KindMask::ORDERS.with(KindMask::TRADES).contains(event.kind)
    };
    let events = tape.events();
    assert_eq!(one["first_sequence"], events.iter().find(of_beta).unwrap().sequence.get());
    assert_eq!(one["last_event_time"], events.iter().rfind(of_beta).unwrap().time.to_string());
    let marks = get(address, "/v1/watermarks").await.json();
    assert_eq!((&marks["visible"], &marks["first_kept"]), (&json!(end.get()), &json!(1)));
    let health = get(address, "/v1/health").await;
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("ok")));
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_question_is_answered_with_what_is_wrong() {
    let (_tape, _, gateway) = filled().await;
    let address = gateway.address();
    for (path, status, error, place) in [
        ("/v1/nothing", 404, "unknown_path", "path"),
        ("/v1", 404, "unknown_path", "path"),
        ("/nothing", 404, "unknown_path", "path"),
        ("/v1/seal", 405, "method_not_allowed", "method"),
        ("/v1/stream", 426, "upgrade_required", "Upgrade"),
        ("/v1/state/%ff", 400, "bad_request", "request"),
        ("/v1/book", 400, "bad_request", "instrument"),
        ("/v1/book?instrument=GAMA", 404, "unknown_symbol", "instrument"),
        ("/v1/book?instrument=ALFA&at=soon", 400, "bad_request", "at"),
        ("/v1/book?instrument=ALFA&at=999999999", 404, "beyond_head", "at"),
        ("/v1/book?instrument=ALFA&depth=-1", 400, "bad_request", "depth"),
        ("/v1/events?order_id=0", 400, "bad_request", "order_id"),
        ("/v1/events?trade_id=0", 400, "bad_request", "trade_id"),
        ("/v1/events?limit=101", 400, "bad_request", "limit"),
        ("/v1/events?limit=5&limit=6", 400, "bad_request", "limit"),
        ("/v1/events?form=5", 400, "bad_request", "form"),
        ("/v1/events?kind=orders,gossip", 400, "bad_request", "kind"),
        ("/v1/events?order=up", 400, "bad_request", "order"),
        ("/v1/events?from=9&to=8", 400, "bad_request", "to"),
        ("/v1/events?cursor=d5", 400, "bad_cursor", "cursor"),
        ("/v1/events?cursor=axyz", 400, "bad_cursor", "cursor"),
        ("/v1/trades?cursor=d0", 400, "bad_cursor", "cursor"),
        ("/v1/candles?instrument=ALFA&interval=1w", 400, "bad_request", "interval"),
        ("/v1/candles?instrument=ALFA&interval=99999999d", 400, "bad_request", "interval"),
        ("/v1/candles?instrument=ALFA&from=17", 400, "bad_request", "from"),
        ("/v1/instruments/GAMA", 404, "unknown_symbol", "instrument"),
    ] {
        let answer = get(address, path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        let body = answer.json();
        assert_eq!((&body["error"], &body["where"]), (&json!(error), &json!(place)), "{path}: {body}");
        assert!(
            !body["what"].as_str().unwrap().is_empty() && !body["what_to_do"].as_str().unwrap().is_empty()
        );
        if error == "unknown_path" {
            assert_eq!(body["what"], format!("there is nothing at {path}"));
        }
    }
    let answer = get(address, "/v1/seal").await;
    assert_eq!(
        (&answer.json()["what"], &answer.json()["what_to_do"]),
        (&json!("/v1/seal has no GET"), &json!("use one that `Allow` names"))
    );
    assert!(answer.headers.to_ascii_lowercase().contains("allow: post"), "{}", answer.headers);
    let answer = get_with(address, "/v1/events", &format!("Host: {address}\r\nAccept: image/png\r\n")).await;
    assert_eq!((answer.status, &answer.json()["error"]), (406, &json!("not_acceptable")));
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_served_with_a_policy_and_not_sent_twice() {
    let (_tape, _, gateway) = filled().await;
    let address = gateway.address();
    let page = get(address, "/").await;
    assert_eq!(page.status, 200);
    let head = page.headers.to_ascii_lowercase();
    assert!(head.contains("content-security-policy: default-src 'none'; script-src 'self'"), "{head}");
    let linked: Vec<&str> =
        page.body.split('"').filter(|text| text.starts_with('/') && !text.contains('>')).collect();
    assert!(linked.len() >= 3);
    for path in linked {
        let file = get(address, path).await;
        assert_eq!(file.status, 200, "{path}");
        for module in file.body.split("from \"./").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            assert_eq!(get(address, &format!("/js/{module}")).await.status, 200, "{module}");
        }
    }
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let again = get_with(address, "/", &format!("Host: {address}\r\nIf-None-Match: {tag}\r\n")).await;
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_found_by_its_number_without_the_refusals_it_got() {
    let (tape, _, gateway) = filled().await;
    let mut about: std::collections::BTreeMap<OrderId, (Vec<u64>, bool)> = Default::default();
    let mut frames = tape.node.reader().frames(Sequence::ZERO).unwrap();
    while let Some(frame) = frames.next_frame().unwrap() {
        for event in frame.frame().events() {
            let (orders, refused) = match event.body() {
                BodyRef::OrderAccepted(order) => (vec![order.order_id.get()], false),
                BodyRef::OrderCancelled(order) => (vec![order.order_id.get()], false),
                BodyRef::OrderExecuted(order) => (vec![order.order_id.get()], false),
                BodyRef::TradeMatched(trade) => {
                    (vec![trade.buy_order_id.get(), trade.sell_order_id.get()], false)
                }
                BodyRef::OrderRejected(order) => (vec![order.order_id.get()], true),
                _ => continue,
            };
            for order in orders {
                let known = about.entry(order).or_default();
                known.1 |= refused;
                if !refused {
                    known.0.push(event.sequence().get());
                }
            }
        }
    }
    let refused = about.iter().filter(|(_, (_, refused))| *refused).take(20);
    let others = about.iter().filter(|(_, (events, refused))| !refused && events.len() > 2).take(20);
    let asked: Vec<_> = refused.chain(others).collect();
    assert_eq!(asked.len(), 40);
    for (order, (expected, _)) in asked {
        for kinds in ["", "&kind=order_rejected,orders,trades"] {
            let answer = get_lines(gateway.address(), &format!("/v1/events?order_id={order}{kinds}")).await;
            assert_eq!(&sequences(&answer.lines()), expected, "order {order}: {}", answer.body);
        }
        let none =
            get_lines(gateway.address(), &format!("/v1/events?order_id={order}&kind=order_rejected")).await;
        assert_eq!((none.status, none.body.as_str()), (200, ""));
    }
    let wrong = get(gateway.address(), "/v1/events?order_id=-1").await;
    assert_eq!((wrong.status, &wrong.json()["where"]), (400, &"order_id".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_sealed_on_demand_where_that_is_offered() {
    let (tape, end, gateway) = filled().await;
    let address = gateway.address();
    let answer = post(address, "/v1/seal").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let sealed = answer.json();
    let facts = tape.node.store().segment_facts();
    let [facts] = facts.as_slice() else { panic!("{facts:?}") };
    assert!(facts.last > end);
    let segment = json!({
        "segment": 1, "first_sequence": 1, "last_sequence": facts.last.get(), "frame_bytes": facts.frame_bytes,
        "root": facts.root.to_string(),
    });
    assert_eq!(sealed, json!({"sealed": true, "through": facts.last.get(), "segment": segment}));
    let again = post(address, "/v1/seal").await.json();
    assert_eq!(again, json!({"sealed": false, "through": facts.last.get(), "segment": segment}));
    assert_eq!(get(address, "/v1/seal").await.status, 405);
    assert_eq!(post(address, "/v1/seal?now=1").await.status, 400);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_copied_of_the_market_while_it_moves_is_the_market_as_of_the_position_it_names() {
    let mut tape = Tape::open();
    let defined = tape.define();
    tape.visible(defined);
    let gateway = tape.gateway(generous()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let moving = tokio::task::spawn_blocking({
        let stop = stop.clone();
        move || {
            while !stop.load(Ordering::Relaxed) {
                let end = tape.flow(50);
                tape.visible(end);
            }
            tape
        }
    });
    let (mut last, mut moved) = (0, 0);
    while moved < 10 {
        for path in ["/v1/ticker?", "/v1/status?", "/v1/book?instrument=ALFA&"] {
            let now = get(gateway.address(), &format!("{path}at=end")).await.json();
            let sequence = now["sequence"].as_u64().unwrap();
            let then = get(gateway.address(), &format!("{path}at={sequence}")).await.json();
            assert_eq!(now, then, "{path}");
            moved += u32::from(sequence > last);
            last = sequence;
        }
    }
    stop.store(true, Ordering::Relaxed);
    drop(moving.await.unwrap());
    gateway.shutdown().await;
}
