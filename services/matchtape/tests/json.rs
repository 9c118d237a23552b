//! One rule for all JSON (the client's documentation states it): every answer of a gateway and every report of a command is
//! walked and held to it.

#[path = "../../../schemas/tests/common/mod.rs"]
mod common;
mod shared_memory;
mod watched;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use futures_util::{SinkExt, StreamExt};
use matchtape::server::Server;
use matchtape_schemas::event::{
    EventFlags, InstrumentDefined, OrderAccepted, Side, TradeMatched, TradingStatus, TradingStatusChanged,
    encode_event,
};
use matchtape_schemas::text::Text;
use matchtape_schemas::{
    Body, Event, EventTime, InstrumentId, Kind, OrderId, Price, ProducerId, ProducerSequence, Quantity,
    TradeId,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use watched::Bus;

/// What is wrong by the rule, with its path.
fn faults(path: &str, name: &str, value: &Value, found: &mut Vec<String>) {
    const EXACT_MAX: u64 = 1 << 53;
    let others_number = ["producer_sequence", "venue_sequence"].contains(&name);
    let is_count = (name.ends_with("sequence") && !others_number)
        || ["epoch", "term", "previous_epoch", "epoch_started"].contains(&name);
    let is_time = name.ends_with("_at") || name.ends_with("_time") || name.ends_with("_ns") || name == "time";
    let is_id = name.ends_with("_id") || name == "publisher" || name == "producer" || others_number;
    let is_decimal = name.ends_with("price") || name.ends_with("quantity") || name.ends_with("volume");
    let mut fault = |what: &str| found.push(format!("{path}: {value} {what}"));
    match value {
        Value::Null => fault("is null: what is absent is left out"),
        Value::Bool(_) => {}
        Value::Number(number) => {
            if is_time || is_id || is_decimal {
                fault("is a number: times, ids and decimals are strings");
            }
            let exact = number.as_i64().map(i64::unsigned_abs).or(number.as_u64());
            if exact.is_some_and(|number| number >= EXACT_MAX) {
                fault("is a number that many readers round");
            }
        }
        Value::String(text) => {
            if text.is_empty() {
                fault("is empty: what is absent is left out");
            }
            if is_count {
                fault("is a string: what is counted here is a number");
            }
            if is_time && text.parse::<i64>().is_err() {
                fault("is no time in nanoseconds");
            }
        }
        Value::Array(items) => items.iter().for_each(|item| faults(path, "", item, found)),
        // What `dump` says of a structure's bytes is text.
        Value::Object(_) if name == "fields" => {}
        Value::Object(fields) => {
            for (name, value) in fields {
                faults(&format!("{path} {name}"), name, value, found);
            }
        }
    }
}

/// Gathered, so that one run shows them all.
static FOUND: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn check(path: &str, value: &Value) {
    faults(path, "", value, &mut FOUND.lock().unwrap());
}

/// The JSON that a command writes: one value, or one a line.
fn written(args: &[&str]) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_matchtape")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let values =
        serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect::<Result<Vec<_>, _>>();
    values.unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

fn check_command(args: &[&str]) {
    let values = written(args);
    assert!(!values.is_empty(), "{args:?} writes nothing");
    values.iter().for_each(|value| check(&args.join(" "), value));
}

struct Served {
    child: Child,
    url: String,
    bus: Bus,
}

impl Served {
    fn start(tape: &Path) -> Self {
        let mut bus = Bus::new("json");
        let mut child = Command::new(env!("CARGO_BIN_EXE_matchtape"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .envs(bus.settings())
            .arg(tape)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let address =
            said.lines().map_while(Result::ok).find_map(|line| Some(line.strip_prefix("page ")?.to_owned()));
        let url = address.expect("it says where its page is").trim_end_matches('/').to_owned();
        bus.watch(tape);
        Self { child, url, bus }
    }

    fn stop(mut self) {
        check("watch", &self.bus.ends_clean().expect("it was started"));
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }

    fn check(&self, method: &str, path: &str, accept: &str) {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("Accept", accept)
            .header("Content-Type", "application/json")
            .body(Vec::new())
            .unwrap();
        let mut answer = agent.run(request).unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(&text).into_iter().collect();
        let values = values.unwrap_or_else(|error| panic!("{method} {path}: {error}: {text}"));
        assert!(!values.is_empty(), "{method} {path} answers nothing");
        values.iter().for_each(|value| check(&format!("{method} {path}"), value));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every kind a producer may publish with every field filled, then a market with as little as there can be.
fn publish(url: &str) {
    const PRODUCER: ProducerId = ProducerId(4_294_967_000);
    let instrument = InstrumentId(0xA0B0_C0D0);
    let mut events: Vec<Event> = common::one_of_each();
    events.retain(|event| {
        !matches!(event.body.kind(), Kind::EpochStarted | Kind::EpochEnded | Kind::TimeAdvanced)
    });
    // What defines the instrument comes before what needs it.
    events.sort_by_key(|event| event.body.kind() != Kind::InstrumentDefined);
    for event in &mut events {
        event.flags = EventFlags::LAST_OF_GROUP;
    }
    let order = |id, side, price| OrderAccepted {
        order_id: OrderId(id),
        side,
        price: Price::from_units(price),
        quantity: Quantity::from_units(5_000_000_000),
        ..OrderAccepted::default()
    };
    let trade = TradeMatched {
        trade_id: TradeId(u64::MAX - 1),
        price: Price::from_units(15_000_000_000),
        quantity: Quantity::from_units(1_000_000_000),
        ..TradeMatched::default()
    };
    let bare = InstrumentDefined { symbol: Text::new("BARE").unwrap(), ..InstrumentDefined::default() };
    let open = TradingStatusChanged { status: TradingStatus::Continuous, ..TradingStatusChanged::default() };
    let bodies: [(InstrumentId, Body); 6] = [
        (instrument, order(u64::MAX - 3, Side::Buy, 14_000_000_000).into()),
        (instrument, order(u64::MAX - 4, Side::Sell, 16_000_000_000).into()),
        (instrument, trade.into()),
        (InstrumentId(5), bare.into()),
        (InstrumentId(5), open.into()),
        (InstrumentId(5), order(7, Side::Buy, 14_000_000_000).into()),
    ];
    for (instrument, body) in bodies {
        events.push(Event::new(instrument, ProducerSequence(0), EventTime(1_689_038_200_000_000_000), body));
    }
    let mut bytes = Vec::new();
    for (event, number) in events.iter_mut().zip(u64::MAX / 2..) {
        event.producer_sequence = ProducerSequence(number);
        let at = bytes.len();
        bytes.resize(at + event.encoded_len(), 0);
        encode_event(event, PRODUCER, &mut bytes[at..]);
    }
    Server::new(url).unwrap().publish(PRODUCER, &bytes).unwrap();
}

/// Everything a connection says until each subscription has had its past.
async fn check_stream(url: &str, symbol: &str) {
    let address = url.replace("http://", "ws://") + "/v1/stream";
    let (mut socket, _) = tokio_tungstenite::connect_async(address).await.unwrap();
    let mut open = 0;
    for channel in ["trades", "tape", "bbo", "ticker", "status", "book", "mbo", "candles"] {
        for from in [None, Some(0)] {
            open += 1;
            let mut request = json!({"op": "subscribe", "id": open, "channel": channel});
            if ["book", "mbo", "candles"].contains(&channel) {
                request["symbols"] = json!([symbol]);
            }
            if let Some(from) = from {
                request["from_sequence"] = json!(from);
            }
            socket.send(Message::text(request.to_string())).await.unwrap();
        }
    }
    socket.send(Message::text(r#"{"op":"dance","id":3}"#)).await.unwrap();
    let (mut completed, mut said) = (0, std::collections::BTreeSet::new());
    while completed < open / 2 || !said.contains("heartbeat") {
        let Some(Ok(message)) = socket.next().await else { panic!("the connection ended: {said:?}") };
        let Message::Text(text) = message else { continue };
        let value: Value = serde_json::from_str(&text).unwrap();
        let kind = value["type"].as_str().unwrap().to_owned();
        completed += usize::from(kind == "replay_completed");
        check(&format!("stream: {kind}"), &value);
        said.insert(kind);
    }
    for kind in ["hello", "subscribed", "data", "error"] {
        assert!(said.contains(kind), "{said:?}");
    }
}

#[test]
fn every_answer_and_every_report_keeps_to_the_rule() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let tape = place("tape");
    let symbol = "605580.SH";
    let node = Served::start(Path::new(&tape));
    publish(&node.url);
    let server = ["--server", &node.url];
    let ask =
        |args: &[&str]| [args, &server].concat().iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
    let check_asked = |args: &[&str]| {
        check_command(&ask(args).iter().map(String::as_str).collect::<Vec<_>>());
    };
    // Keyed state, and a consumer with something pending, parked and told.
    let run = |args: &[&str]| {
        let args = ask(args);
        let output = Command::new(env!("CARGO_BIN_EXE_matchtape")).args(&args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["state", "put", "limits/ESH4", "5000"]);
    check_asked(&["consumer", "add", "risk", "--ack", "explicit", "--max-deliver", "1", "--deliver", "2"]);
    check_asked(&["consumer", "next", "risk", "--batch", "3"]);
    check_asked(&["consumer", "next", "risk", "--batch", "1"]);
    check_asked(&["consumer", "parked", "risk"]);
    check_asked(&["consumer", "info", "risk"]);
    check_asked(&["consumer", "list"]);
    check_asked(&["subscribe", "--from", "beginning", "--limit", "20"]);
    check_asked(&["state", "list"]);

    for path in [
        "/v1/events?limit=1000",
        "/v1/trades",
        "/v1/book?instrument=605580.SH",
        "/v1/orders",
        "/v1/orders/7",
        "/v1/ticker",
        "/v1/ticker?at=10",
        "/v1/status",
        "/v1/candles?instrument=605580.SH",
        "/v1/instruments",
        "/v1/instruments/BARE",
        "/v1/instruments/605580.SH",
        "/v1/watermarks",
        "/v1/health",
        "/v1/state/limits%2FESH4",
        "/v1/state",
        "/v1/producers/4294967000",
        "/v1/consumers",
        "/v1/consumers/risk",
        "/v1/consumers/risk/parked",
        "/v1/nothing",
        "/v1/events?at=7",
        "/v1/seal",
        "/v1/stream",
        "/v1/book",
    ] {
        node.check("GET", path, "application/json");
    }
    for path in ["/v1/events", "/v1/trades", "/v1/orders", "/v1/ticker", "/v1/status", "/v1/instruments"] {
        node.check("GET", path, "application/x-ndjson");
    }
    node.check("POST", "/v1/consumers/risk/members/m", "application/json");
    node.check("POST", "/v1/seal", "application/json");
    node.check("PUT", "/v1/holds/case-0?from=3", "application/json");
    node.check("GET", "/v1/holds", "application/json");
    node.check("DELETE", "/v1/holds/case-0", "application/json");
    node.check("DELETE", "/v1/holds/case-0", "application/json");
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(check_stream(&node.url, symbol));
    for args in [
        &["query", "events"][..],
        &["query", "trades"],
        &["query", "orders"],
        &["query", "book", "--instrument", symbol],
        &["query", "candles", "--instrument", symbol],
        &["query", "ticker"],
        &["query", "status"],
    ] {
        check_asked(args);
    }
    node.stop();

    let data = ["--data", &tape];
    let check_tape = |args: &[&str]| check_command(&[args, &data].concat());
    check_tape(&["hold", "add", "--name", "case-1", "--from", "3", "--format", "json"]);
    check_tape(&["hold", "list", "--format", "json"]);
    for args in [
        &["query", "events"][..],
        &["query", "trades"],
        &["query", "orders"],
        &["query", "book", "--instrument", symbol],
        &["query", "candles", "--instrument", symbol],
        &["query", "ticker"],
        &["query", "status"],
        &["query", "account"],
        &["state", "list"],
        &["replay", "--tier", "delayed", "--speed", "0", "--format", "json"],
        &["replay", "--tier", "realtime", "--speed", "0", "--format", "json"],
        &["inspect"],
        &["verify"],
        &["seal"],
        &["proof", "roots"],
        &["retain", "--trading-days", "1"],
        &["salvage"],
        &["compact"],
    ] {
        check_tape(args);
    }
    let (proof, backup) = (place("case.proof"), place("backup"));
    check_tape(&["proof", "make", "--from", "2", "--to", "5", "--out", &proof]);
    check_tape(&["proof", "check", &proof]);
    check_tape(&["backup", "--to", &backup]);
    check_command(&["restore", "--from", &backup, "--data", &place("again"), "--to-sequence", "5"]);
    for entry in std::fs::read_dir(Path::new(&backup).join("tables")).unwrap() {
        check_command(&["dump", entry.unwrap().path().to_str().unwrap(), "--format", "json"]);
    }
    check_tape(&["hold", "rm", "--name", "case-1", "--format", "json"]);
    let found = FOUND.lock().unwrap();
    assert!(found.is_empty(), "{}", found.join("\n"));
}
