//! How connections are bounded and how they end: limits, errors, close codes, drain.

mod support;

use std::time::Duration;

use futures_util::SinkExt;
use matchtape_gateway::{Gateway, Limits, StartError, TapeHandle};
use matchtape_schemas::AcceptedTime;
use matchtape_storage::{Query, RetentionPolicy};
use serde_json::{Value, json};
use support::client::{Client, Closed, sequences};
use support::http::{get, get_cut, get_with};
use support::{Tape, config, generous};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};

fn closed(code: u16, reason: &str) -> Closed {
    Closed { code, reason: reason.to_owned() }
}

/// The next error message.
async fn error(client: &mut Client) -> Value {
    loop {
        let message = client.next().await;
        if message["type"] == "error" {
            return message;
        }
    }
}

#[tokio::test]
async fn an_address_that_others_can_reach_is_refused() {
    let tape = Tape::open();
    let (_sender, tail) = watch::channel(tape.node.watermarks());
    let mut open_to_all = config(generous());
    open_to_all.listen = "0.0.0.0:0".parse().unwrap();
    let started = Gateway::start(open_to_all, TapeHandle::shown(tape.node.reader(), tail)).await;
    assert!(matches!(started, Err(StartError::Config(_))));
}

#[tokio::test]
async fn refused_requests_say_what_where_and_what_to_do_and_the_connection_stays() {
    let mut tape = Tape::open();
    let defined = tape.define();
    tape.visible(defined);
    let gateway = tape.gateway(Limits { symbols_max: 2, subscriptions_max: 2, ..generous() }).await;
    let mut client = Client::connect(gateway.address()).await;
    for (request, word, place) in [
        (json!({"channel": "gossip"}), "bad_request", "channel"),
        (json!({"channel": "book"}), "bad_request", "symbols"),
        (json!({"channel": "mbo"}), "bad_request", "symbols"),
        (json!({"channel": "trades", "symbols": []}), "bad_request", "symbols"),
        (json!({"channel": "trades", "symbols": ["ALFA", "BETA", "GAMA"]}), "bad_request", "symbols"),
        (json!({"channel": "trades", "symbols": ["ALFA", "GAMA"]}), "unknown_symbol", "symbols[1]"),
        (json!({"channel": "trades", "symbols": ["ALFA", "7"]}), "bad_request", "symbols[1]"),
        (json!({"channel": "book", "symbols": ["ALFA"], "depth": 7}), "bad_request", "depth"),
        (json!({"channel": "trades", "depth": 10}), "bad_request", "depth"),
        (json!({"channel": "trades", "snapshot": true}), "bad_request", "snapshot"),
        (json!({"channel": "trades", "from_sequence": -1}), "bad_request", "from_sequence"),
        (json!({"channel": "trades", "from_time": "soon"}), "bad_request", "from_time"),
        (json!({"channel": "trades", "symbol": "ALFA"}), "bad_request", "symbol"),
        (json!({"channel": 7}), "bad_request", "channel"),
        (json!({"channel": "trades", "from_sequence": 1, "from_time": "1"}), "bad_request", "from_sequence"),
        (json!({"channel": "trades", "resume": "nonsense"}), "bad_request", "resume"),
        (json!({"channel": "trades", "resume": "00000000000000ab-5"}), "other_tape", "resume"),
        (
            json!({"channel": "book", "symbols": ["ALFA"], "from_sequence": 1_000_000}),
            "beyond_head",
            "from_sequence",
        ),
        (
            json!({"channel": "candles", "symbols": ["ALFA"], "from_sequence": 1_000_000, "snapshot": false}),
            "beyond_head",
            "from_sequence",
        ),
    ] {
        let mut request = request;
        request["op"] = json!("subscribe");
        request["id"] = json!(5);
        client.send(request.clone()).await;
        let error = error(&mut client).await;
        assert_eq!(
            (&error["error"], &error["where"], &error["id"]),
            (&json!(word), &json!(place), &json!(5)),
            "{request}"
        );
        assert!(
            !error["what"].as_str().unwrap().is_empty() && !error["what_to_do"].as_str().unwrap().is_empty()
        );
    }
    client.subscribe(json!({"id": 1, "channel": "trades"})).await;
    client.send(json!({"op": "subscribe", "id": 1, "channel": "tape"})).await;
    assert_eq!(error(&mut client).await["what"], "id 1 is in use");
    client.subscribe(json!({"id": 2, "channel": "tape"})).await;
    client.send(json!({"op": "subscribe", "id": 3, "channel": "tape"})).await;
    assert_eq!(error(&mut client).await["what"], "2 subscriptions are open");
    // Of what is still to come nothing is completed.
    client.send(json!({"op": "unsubscribe", "id": 2})).await;
    client.until("unsubscribed").await;
    let waits = client.subscribe(json!({"id": 2, "channel": "trades", "from_sequence": 1_000_000})).await;
    assert_eq!((&waits["waiting"], &waits["start"]), (&json!(true), &json!(1_000_000)));
    client.send(json!({"op": "ping", "id": 8})).await;
    let until_pong = client.until("pong").await;
    assert!(until_pong.iter().all(|message| message["type"] != "replay_completed"), "{until_pong:?}");
    client.send(json!({"op": "unsubscribe", "id": 9})).await;
    assert_eq!(error(&mut client).await["id"], 9);
    client.send(json!({"op": "ping", "id": 4})).await;
    assert_eq!(client.until("pong").await.pop().unwrap()["id"], 4);
    gateway.shutdown().await;
}

#[tokio::test]
async fn every_reason_to_close_has_its_code() {
    let tape = Tape::open();
    let limits = Limits {
        inbound_bytes_max: 1024,
        malformed_max: 2,
        inbound_burst: 50,
        inbound_per_second: 1,
        ..Limits::default()
    };
    let gateway = tape.gateway(limits).await;
    let address = gateway.address();

    let mut client = Client::connect(address).await;
    client.socket.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    let (closing, end) = client.until_closed().await;
    assert_eq!(end, closed(1003, "binary_not_supported"));
    assert_eq!(closing.unwrap()["code"], 1003);

    // A little too large is read and refused; far too large is not even read.
    for bytes in [1500, 1_000_000] {
        let mut client = Client::connect(address).await;
        // The gateway may close before it has taken all.
        let _ = client.socket.send(Message::text("x".repeat(bytes))).await;
        assert_eq!(client.until_closed().await.1, closed(1009, "message_too_big"), "{bytes}");
    }

    let mut client = Client::connect(address).await;
    let no_text = Frame::message(&b"\xff\xfe"[..], OpCode::Data(Data::Text), true);
    client.socket.send(Message::Frame(no_text)).await.unwrap();
    let (closing, end) = client.until_closed().await;
    assert_eq!(end, closed(1007, "not_utf8"));
    assert_eq!(closing.unwrap()["reason"], "not_utf8");

    let mut client = Client::connect(address).await;
    for _ in 0..3 {
        client.socket.send(Message::text("not a request")).await.unwrap();
    }
    assert_eq!(client.until_closed().await.1, closed(4002, "malformed"));

    let mut client = Client::connect(address).await;
    for _ in 0..60 {
        let _ = client.socket.send(Message::text(r#"{"op":"ping"}"#)).await;
    }
    assert_eq!(client.until_closed().await.1, closed(4003, "rate_limited"));

    let metrics = get(address, "/metrics").await.body;
    for reason in ["binary_not_supported", "malformed", "rate_limited"] {
        assert!(metrics.contains(&format!("closes_total{{reason=\"{reason}\"}} 1\n")), "{reason}: {metrics}");
    }
    assert!(metrics.contains("closes_total{reason=\"message_too_big\"} 2\n"), "{metrics}");
    gateway.shutdown().await;
}

/// The code of the close frame at the end of what a server sent: unmasked frames, short payload.
fn close_code(bytes: &[u8]) -> Option<u16> {
    let at = bytes.windows(2).rposition(|frame| frame[0] == 0x88 && frame[1] >= 2 && frame[1] < 126)?;
    Some(u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?]))
}

#[tokio::test]
async fn a_client_from_which_nothing_comes_is_closed_as_idle() {
    let tape = Tape::open();
    let limits = Limits {
        ping_interval: Duration::from_millis(20),
        idle_timeout: Duration::from_millis(60),
        ..Limits::default()
    };
    let gateway = tape.gateway(limits).await;
    let address = gateway.address();
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Only asked for: nobody here answers a ping, and nobody reads a part of what is looked for below.
    let request = format!(
        "GET /v1/stream HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    assert!(bytes.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&bytes));
    assert_eq!(close_code(&bytes), Some(4001));
    assert!(String::from_utf8_lossy(&bytes).contains("idle_timeout"));
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_is_closed_and_nobody_else_notices() {
    let mut tape = Tape::open();
    let defined = tape.define();
    tape.visible(defined);
    let limits =
        Limits { write_stall_max: Duration::from_millis(200), recent_bytes_max: 256 * 1024, ..generous() };
    let gateway = tape.gateway(limits).await;
    let mut stalled = Client::connect(gateway.address()).await;
    stalled.subscribe(json!({"id": 1, "channel": "tape"})).await;
    // What comes before it reads again has room: whatever stands still meanwhile, it stalls nothing.
    let mut other = Client::connect_with_room(gateway.address(), 1 << 20).await;
    other.subscribe(json!({"id": 1, "channel": "tape"})).await;
    let mut last = defined.get();
    // Until the gateway says itself that it has closed the one, the other must get everything.
    loop {
        let end = tape.flow(200).get();
        let items = other.items_through(1, end).await;
        assert_eq!(sequences(&items), (last + 1..=end).collect::<Vec<_>>());
        last = end;
        if get(gateway.address(), "/metrics").await.body.contains("closes_total{reason=\"stalled\"} 1\n") {
            break;
        }
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_stays_behind_is_closed_with_a_token_that_resumes_it_exactly() {
    let mut tape = Tape::open();
    let defined = tape.define();
    tape.visible(defined);
    let limits = Limits { behind_max: Duration::from_millis(1), recent_bytes_max: 1, ..generous() };
    let gateway = tape.gateway(limits).await;
    let mut slow = Client::connect(gateway.address()).await;
    slow.subscribe(json!({"id": 1, "channel": "tape"})).await;
    let end = tape.flow(20_000);
    let mut items = Vec::new();
    let closing = loop {
        let message = slow.next().await;
        match message["type"].as_str().unwrap() {
            "data" => items.extend(message["data"].as_array().unwrap().iter().cloned()),
            "closing" => break message,
            _ => {}
        }
    };
    assert_eq!(slow.receive().await, Err(closed(4004, "too_slow")));
    let token = closing["resume"][0]["resume"].clone();
    let from = closing["resume"][0]["from_sequence"].as_u64().unwrap();
    assert_eq!(sequences(&items), (defined.next().get()..from).collect::<Vec<_>>());
    let mut again = Client::connect(gateway.address()).await;
    again.subscribe(json!({"id": 1, "channel": "tape", "resume": token})).await;
    let rest = again.items_through(1, end.get()).await;
    assert_eq!(sequences(&rest), (from..=end.get()).collect::<Vec<_>>());
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_are_refused_and_a_free_place_is_given_again() {
    let tape = Tape::open();
    let gateway = tape.gateway(Limits { connections_max: 1, ..Limits::default() }).await;
    let address = gateway.address();
    let mut first = Client::connect(address).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let refused = client_async(format!("ws://{address}/v1/stream"), stream).await.unwrap_err();
    let Error::Http(answer) = refused else { panic!("{refused}") };
    assert_eq!(answer.status(), 503);
    first.socket.close(None).await.unwrap();
    // The place is free when the gateway has ended the first connection, which it counts.
    while !get(address, "/metrics").await.body.contains("connections_closed_total 1\n") {}
    let mut second = Client::connect(address).await;
    second.subscribe(json!({"id": 1, "channel": "tape"})).await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_is_announced_and_everything_published_before_is_delivered() {
    let mut tape = Tape::open();
    let defined = tape.define();
    tape.visible(defined);
    let gateway = tape.gateway(generous()).await;
    let address = gateway.address();
    let mut client = Client::connect(address).await;
    client.subscribe(json!({"id": 1, "channel": "tape"})).await;
    let end = tape.flow(3_000);
    tape.visible(end);
    // What is visible is published once the feed has it.
    while get(address, "/v1/watermarks").await.json()["feed"] != end.get() {}
    let shutdown = tokio::spawn(gateway.shutdown());
    let (mut items, mut announced, mut closing) = (Vec::new(), false, None);
    let end_of_it = loop {
        match client.receive().await {
            Ok(message) => match message["type"].as_str().unwrap() {
                "data" => items.extend(message["data"].as_array().unwrap().iter().cloned()),
                "server_shutdown" => announced = true,
                "closing" => closing = Some(message),
                _ => {}
            },
            Err(closed) => break closed,
        }
    };
    assert_eq!(end_of_it, closed(1001, "server_shutdown"));
    assert!(announced);
    assert_eq!(sequences(&items), (defined.next().get()..=end.get()).collect::<Vec<_>>());
    assert_eq!(closing.unwrap()["resume"][0]["from_sequence"], end.next().get());
    shutdown.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "it does not listen any more");
    // Another gateway on the same node goes on where the first one ended.
    let gateway = tape.gateway(generous()).await;
    let mut client = Client::connect(gateway.address()).await;
    client.subscribe(json!({"id": 1, "channel": "tape", "from_sequence": end.next().get()})).await;
    let last = tape.flow(10);
    let items = client.items_through(1, last.get()).await;
    assert_eq!(sequences(&items), (end.next().get()..=last.get()).collect::<Vec<_>>());
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_tape_is_closed_clients_get_its_end_and_are_told() {
    let mut tape = Tape::open();
    let defined = tape.define();
    tape.visible(defined);
    let gateway = tape.gateway(generous()).await;
    let mut client = Client::connect(gateway.address()).await;
    client.subscribe(json!({"id": 1, "channel": "tape"})).await;
    let end = tape.flow(500);
    tape.visible(end);
    tape.judge.joins();
    let Tape { node, publisher, .. } = tape;
    drop(publisher);
    node.close().unwrap();
    let mut items = Vec::new();
    let ended = loop {
        match client.receive().await {
            Ok(message) if message["type"] == "data" => {
                items.extend(message["data"].as_array().unwrap().iter().cloned())
            }
            Ok(_) => {}
            Err(closed) => break closed,
        }
    };
    assert_eq!(ended, closed(4006, "tape_closed"));
    assert_eq!(sequences(&items), (defined.next().get()..=end.get()).collect::<Vec<_>>());
    assert_eq!(get(gateway.address(), "/v1/health").await.status, 503);
    gateway.shutdown().await;
}

/// Flips a bit in the middle of every event table.
fn damage_tables(data: &std::path::Path) {
    let mut damaged = 0;
    for entry in std::fs::read_dir(data.join("tables")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "events") {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "there is a table in {}", data.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_fails_in_the_middle_has_every_row_that_was_read_and_then_the_error() {
    let mut tape = Tape::open();
    tape.define();
    let end = tape.flow(3_000);
    tape.visible(end);
    let tape = tape.reopen_after(damage_tables);
    let events = tape.node.reader().query(&Query::default()).unwrap();
    let readable = events.take_while(Result::is_ok).count();
    assert!(readable > 100 && readable < end.get() as usize, "{readable} of {end}");
    let gateway = tape.gateway(generous()).await;
    let address = gateway.address();
    for accept in ["application/x-ndjson", "text/csv"] {
        let headers = format!("Host: {address}\r\nAccept: {accept}\r\n");
        let answer = get_cut(address, "/v1/events", &headers).await;
        let mut lines: Vec<&str> = answer.body.lines().collect();
        let last: Value = serde_json::from_str(lines.pop().unwrap()).unwrap();
        assert_eq!((answer.status, &last["error"]), (200, &json!("read_failed")), "{last}");
        assert!(last["what"].as_str().unwrap().contains(".events"), "it names the file: {last}");
        assert_eq!(last["where"], "tape", "no parameter is the reason: {last}");
        let headings = usize::from(accept == "text/csv");
        assert_eq!(lines.len() - headings, readable, "{accept}");
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tape_that_cannot_be_read_on_closes_every_connection_with_the_reason() {
    // Nothing of the market is kept, so the feeds fold the tape from its first event, and meet the damage.
    let mut tape = Tape::bare();
    tape.define();
    let end = tape.flow(3_000);
    tape.visible(end);
    let tape = tape.reopen_after(damage_tables);
    let gateway = tape.gateway(generous()).await;
    let mut client = Client::connect(gateway.address()).await;
    let (closing, ended) = client.until_closed().await;
    assert_eq!(ended, closed(1011, "tape_failed"));
    let closing = closing.expect("it says why");
    assert_eq!((&closing["code"], &closing["reason"]), (&json!(1011), &json!("tape_failed")));
    assert!(closing["what"].as_str().unwrap().contains(".events"), "it names the file: {closing}");
    let health = get(gateway.address(), "/v1/health").await;
    assert_eq!((health.status, &health.json()["status"]), (503, &json!("failed")));
    assert_eq!(health.json()["what"], closing["what"]);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_kept_any_more_is_said_with_the_first_that_is_and_never_jumped_over() {
    let mut tape = Tape::open();
    tape.define();
    for _ in 0..4 {
        let end = tape.flow(300);
        tape.visible(end);
        tape.node.store().flush().unwrap();
    }
    let gateway = tape.gateway(generous()).await;
    let address = gateway.address();
    let page = get(address, "/v1/events?limit=5").await.json();
    let backward = get(address, "/v1/events?limit=5&order=desc").await.json();
    let policy = RetentionPolicy { bytes: Some(1), snapshot_gap_bytes: 1, ..Default::default() };
    // Who judges needs all of it.
    tape.judge.end();
    tape.node.store().retain(&policy, AcceptedTime(i64::MAX)).unwrap();
    let first_kept = tape.node.reader().first_kept().get();
    assert!(first_kept > 100);

    let mut client = Client::connect(address).await;
    for (id, request) in [
        (1, json!({"channel": "tape", "from_sequence": first_kept - 1})),
        (2, json!({"channel": "trades", "from_sequence": 1})),
        (3, json!({"channel": "book", "symbols": ["ALFA"], "from_sequence": 7})),
    ] {
        let mut request = request;
        (request["op"], request["id"]) = (json!("subscribe"), json!(id));
        client.send(request).await;
        let error = error(&mut client).await;
        assert_eq!((&error["error"], &error["id"]), (&json!("below_retention"), &json!(id)), "{error}");
        assert_eq!(error["first_kept"], first_kept);
    }
    // From the first kept on, and from zero, there is no hole; and a book has what came before.
    client.subscribe(json!({"id": 4, "channel": "tape", "from_sequence": 0})).await;
    let end = tape.node.reader().visible().get();
    let items = client.items_through(4, end).await;
    assert_eq!(sequences(&items), (first_kept..=end).collect::<Vec<_>>());
    let path = format!("/v1/book?instrument=ALFA&at={first_kept}");
    assert_eq!(get(address, &path).await.status, 200);

    let next = |page: &Value| page["next"].as_str().unwrap().to_owned();
    for path in [
        "/v1/events?from=1".to_owned(),
        format!("/v1/events?limit=5&cursor={}", next(&page)),
        format!("/v1/book?instrument=ALFA&at={}", first_kept - 2),
    ] {
        let answer = get(address, &path).await;
        assert_eq!((answer.status, &answer.json()["error"]), (410, &json!("below_retention")), "{path}");
        assert_eq!(answer.json()["first_kept"], first_kept, "{path}");
    }
    // Orders that entered before are there as they stand; an answer says from where on it is complete.
    let orders = get(address, "/v1/orders?limit=5").await.json();
    assert_eq!(orders["complete_from_sequence"], first_kept);
    for row in orders["orders"].as_array().unwrap() {
        assert_eq!(row["entered_below_retention"], true, "{row}");
        assert!(
            row["accepted"].is_null() && row["entered_at"].is_null() && row["first_sequence"].is_null(),
            "{row}"
        );
        let one = get(address, &format!("/v1/orders/{}", row["order_id"].as_str().unwrap())).await.json();
        assert!(one["orders"].as_array().unwrap().contains(row), "{one}");
    }
    let more = get(address, &format!("/v1/orders?limit=200&cursor={}", next(&orders))).await;
    assert_eq!(more.status, 200, "{}", more.body);
    let lines = support::http::get_lines(address, "/v1/orders?limit=5").await;
    assert!(lines.headers.contains(&format!("matchtape-complete-from: {first_kept}")), "{}", lines.headers);

    // Candles have what is kept and say so, by every way, and what is wholly below is refused.
    let dropped_through = tape.node.reader().dropped_through().unwrap().get();
    let complete_from = json!((dropped_through + 1).to_string());
    for path in ["", "&from=2001-01-01T00:00:00Z", "&interval=1d"] {
        let path = format!("/v1/candles?instrument=ALFA{path}");
        let answer = get(address, &path).await;
        assert_eq!((answer.status, &answer.json()["complete_from_time"]), (200, &complete_from), "{path}");
        assert!(!answer.json()["candles"].as_array().unwrap().is_empty(), "{path}");
    }
    let later =
        get(address, &format!("/v1/candles?instrument=ALFA&from={}", dropped_through + 1)).await.json();
    assert!(
        later["complete_from_time"].is_null() && !later["candles"].as_array().unwrap().is_empty(),
        "{later}"
    );
    client.subscribe(json!({"id": 5, "channel": "candles", "symbols": ["ALFA"], "interval": "1d"})).await;
    let candles = client.items_through(5, end).await;
    assert_eq!(candles[0]["type"], "candle");
    assert_eq!(candles[0]["complete_from_time"], complete_from, "{}", candles[0]);

    for path in [
        "/v1/orders?from=1".to_owned(),
        format!("/v1/orders?to={}", first_kept - 1),
        format!("/v1/orders?at={}", first_kept - 2),
        "/v1/candles?instrument=ALFA&to=2001-01-01T00:00:00Z".to_owned(),
    ] {
        let answer = get(address, &path).await;
        assert_eq!((answer.status, &answer.json()["error"]), (410, &json!("below_retention")), "{path}");
    }

    // Backwards the pages go on as far as there is something, and then say that there was more.
    let (mut found, mut cursor) = (5, next(&backward));
    let refused = loop {
        let answer = get(address, &format!("/v1/events?limit=200&order=desc&cursor={cursor}")).await;
        if answer.status != 200 {
            break answer;
        }
        found += answer.json()["events"].as_array().unwrap().len() as u64;
        cursor = next(&answer.json());
    };
    assert_eq!(refused.json()["error"], "below_retention", "{}", refused.body);
    assert_eq!(found, end - first_kept + 1);
    gateway.shutdown().await;
}

#[tokio::test]
async fn pages_of_other_origins_and_other_names_for_this_machine_are_refused() {
    let tape = Tape::open();
    let gateway = tape.gateway(Limits::default()).await;
    let address = gateway.address();
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (headers, word) in [
        ("Host: evil.example\r\n".to_owned(), "host_refused"),
        (format!("Host: {address}\r\nOrigin: http://evil.example\r\n"), "origin_refused"),
    ] {
        for path in ["/", "/v1/events", "/v1/stream"] {
            let answer = get_with(address, path, &format!("{headers}{upgrade}")).await;
            assert_eq!(answer.status, 403, "{path} {headers}");
            assert_eq!(answer.json()["error"], word);
        }
    }
    assert_eq!(
        get_with(address, "/", &format!("Host: {address}\r\nOrigin: http://{address}\r\n")).await.status,
        200
    );
    gateway.shutdown().await;
}
