//! Durable consumers over HTTP where it goes slowly: a full disk, a long tape with little on it for this one.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use matchtape_gateway::{Gateway, GatewayHandle, Limits, TapeHandle};
use matchtape_node::{Node, NodeOptions};
use matchtape_schemas::event::OrderAccepted;
use matchtape_schemas::*;
use matchtape_storage::sim::SimDisk;
use serde_json::json;
use support::http::{Answer, get};
use support::{config, generous};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

async fn send(address: SocketAddr, request: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{request} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (headers, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, headers: headers.to_owned(), body: body.to_owned() }
}

struct Served {
    disk: SimDisk,
    node: Node,
    gateway: GatewayHandle,
    _tail: watch::Sender<Watermarks>,
}

impl Served {
    /// A tape of so many orders, every one a frame of its own; the last is of instrument 2, the others of 1.
    async fn start(orders: u64, limits: Limits) -> Self {
        let disk = SimDisk::new(1);
        let mut options = NodeOptions { ring_slots: 1024, ..NodeOptions::default() };
        options.store.wal.segment_bytes = matchtape_storage::limits::SEGMENT_BYTES_MIN;
        options.store.wal.commit_bytes = matchtape_storage::limits::COMMIT_BYTES_MIN;
        options.consumers.system_log_bytes = 1 << 20;
        let node = Node::open_on(Arc::new(disk.clone()), options, Vec::new()).unwrap();
        let mut publisher = node.publisher(ProducerId(1)).unwrap();
        for number in 1..=orders {
            let instrument = InstrumentId(if number == orders { 2 } else { 1 });
            let order = OrderAccepted { order_id: OrderId(number), ..Default::default() };
            let event = Event::new(instrument, ProducerSequence(number), EventTime(5), order);
            let last = publisher.publish(&event).unwrap().sequence();
            node.wait(last, Stage::Visible).unwrap();
        }
        drop(publisher);
        let (sender, tail) = watch::channel(node.watermarks());
        let consumers = Some(node.consumers());
        let tape = TapeHandle { consumers, ..TapeHandle::shown(node.reader(), tail) };
        let gateway = Gateway::start(config(limits), tape).await.unwrap();
        Self { disk, node, gateway, _tail: sender }
    }

    async fn send(&self, request: &str, body: serde_json::Value) -> Answer {
        send(self.gateway.address(), request, &body.to_string()).await
    }

    /// As often as it takes: a request that waits too long for a slow machine has done what it asked for, or will have.
    async fn until_done(&self, request: &str, body: serde_json::Value) -> Answer {
        let begun = Instant::now();
        loop {
            let answer = self.send(request, body.clone()).await;
            if answer.status == 200 {
                return answer;
            }
            assert!(answer.status == 503 && begun.elapsed() < Duration::from_secs(60), "{}", answer.body);
        }
    }

    async fn stop(self) {
        self.gateway.shutdown().await;
        self.node.close().unwrap();
    }
}

fn asks_to_come_again(answer: &Answer) -> bool {
    answer.headers.to_lowercase().contains("\r\nretry-after: 1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_consumer_of_a_full_disk_is_made_when_there_is_room() {
    let served = Served::start(3, generous()).await;
    served.disk.set_capacity(1 << 10);
    let refused = served.send("PUT /v1/consumers/risk", json!({})).await;
    assert_eq!((refused.status, &refused.json()["error"]), (503, &json!("disk_full")), "{}", refused.body);
    assert!(asks_to_come_again(&refused), "{}", refused.headers);
    served.disk.set_capacity(1 << 40);
    let made = served.send("PUT /v1/consumers/risk", json!({})).await;
    assert_eq!(made.status, 200, "{}", made.body);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_becomes_full_holds_no_request_for_long_and_nobody_else_for_any_time() {
    let limits = Limits { publish_wait_max: Duration::from_millis(100), ..generous() };
    let served = Served::start(3, limits).await;
    served.until_done("PUT /v1/consumers/risk", json!({})).await;
    served.disk.set_capacity(1 << 10);
    let text = "x".repeat(1000);
    let mut number = 1;
    let mut unanswered = None;
    let refused = loop {
        let changed = json!({ "description": format!("{number} {text}") });
        let answer = served.send("PATCH /v1/consumers/risk", changed).await;
        if answer.status == 200 {
            (number, unanswered) = (number + 1, None);
            assert!(number < 20_000, "what fits a segment is less");
            continue;
        }
        // Whoever only stood still has gone on by then.
        let (since, refused) = unanswered.take().unwrap_or_else(|| (Instant::now(), answer));
        if since.elapsed() > Duration::from_secs(2) {
            break refused;
        }
        unanswered = Some((since, refused));
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(
        (refused.status, &refused.json()["error"]),
        (503, &json!("outcome_unknown")),
        "{}",
        refused.body
    );
    assert!(asks_to_come_again(&refused), "{}", refused.headers);
    // The one that waits for room has the one place there is for that, and only that.
    let busy = served.send("PUT /v1/consumers/other", json!({})).await;
    assert_eq!((busy.status, &busy.json()["error"]), (503, &json!("consumers_busy")), "{}", busy.body);
    let begun = Instant::now();
    let session = served.send("POST /v1/consumers/risk/members/m", json!(null)).await.json();
    let session = session["session"].as_str().expect("attached").to_owned();
    let next = served.send(&format!("POST /v1/consumers/risk/next?session={session}"), json!(null)).await;
    assert_eq!(next.json()["items"].as_array().unwrap().len(), 4, "{}", next.body);
    let acked = served.send("POST /v1/consumers/risk/ack", json!({ "ack": [2] })).await;
    assert_eq!((acked.status, &acked.json()["settled"]), (200, &json!(2)), "{}", acked.body);
    let durable = served.send("POST /v1/consumers/risk/ack", json!({ "ack": [3], "durable": true })).await;
    assert_eq!(
        (durable.status, &durable.json()["error"]),
        (503, &json!("not_recorded_yet")),
        "{}",
        durable.body
    );
    assert_eq!(get(served.gateway.address(), "/v1/consumers").await.status, 200);
    // Whoever waited for the disk would wait until it has room.
    assert!(begun.elapsed() < Duration::from_secs(60));

    served.disk.set_capacity(1 << 40);
    loop {
        let again = served.send("POST /v1/consumers/risk/ack", json!({ "ack": [3], "durable": true })).await;
        if again.status == 200 {
            assert_eq!(again.json()["settled"], 0, "it was settled, and is recorded now");
            break;
        }
        assert_eq!(again.status, 503, "{}", again.body);
    }
    served.until_done("PUT /v1/consumers/other", json!({})).await;
    let info = get(served.gateway.address(), "/v1/consumers/risk").await.json();
    assert_eq!(info["ack_floor"], 3);
    assert!(info["definition"]["description"].as_str().unwrap().starts_with(&format!("{number} ")));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_wait_is_given_what_there_is_however_far_it_lies_behind_what_is_not_wanted() {
    let served = Served::start(200, generous()).await;
    // Of the first, one event of the tape's end; of the second, what a search of all of it finds.
    let cases =
        [("wanted", json!({ "instruments": ["2"] })), ("last", json!({ "deliver": "last_per_instrument" }))];
    for (name, asked) in cases {
        let made = served.send(&format!("PUT /v1/consumers/{name}"), asked).await;
        assert_eq!(made.status, 200, "{}", made.body);
        let session = served.send(&format!("POST /v1/consumers/{name}/members/m"), json!(null)).await.json();
        let session = session["session"].as_str().unwrap().to_owned();
        let next = format!("POST /v1/consumers/{name}/next?session={session}&batch=1000&wait_ms=0");
        let answer = served.send(&next, json!(null)).await.json();
        assert!(!answer["items"].as_array().unwrap().is_empty(), "{name}: {answer}");
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_says_which_answer_arrived_and_takes_the_place_of_the_one_before() {
    let served = Served::start(10, generous()).await;
    assert_eq!(served.send("PUT /v1/consumers/risk", json!({})).await.status, 200);
    let session = served.send("POST /v1/consumers/risk/members/m", json!(null)).await.json();
    let session = session["session"].as_str().unwrap().to_owned();
    let next = |rest: &str| format!("POST /v1/consumers/risk/next?session={session}&batch=3{rest}");
    let sequences = |answer: &serde_json::Value| -> Vec<u64> {
        let items = answer["items"].as_array().unwrap();
        items.iter().map(|item| item["event"]["sequence"].as_u64().unwrap()).collect()
    };
    let first = served.send(&next(""), json!(null)).await.json();
    assert_eq!((first["answer"].as_u64(), sequences(&first)), (Some(1), vec![1, 2, 3]));
    // As if that had not arrived.
    let again = served.send(&next("&received=0"), json!(null)).await.json();
    assert_eq!((again["answer"].as_u64(), sequences(&again)), (Some(2), vec![1, 2, 3]));
    assert!(again["items"][0]["redelivered"].as_bool().unwrap());
    let more = served.send(&next("&received=2"), json!(null)).await.json();
    assert_eq!((more["answer"].as_u64(), sequences(&more)), (Some(3), vec![4, 5, 6]));
    let wrong = served.send(&next("&received=9"), json!(null)).await;
    assert_eq!((wrong.status, &wrong.json()["error"]), (409, &json!("unknown_answer")), "{}", wrong.body);
    // One that waits for what is not there is over when the next one comes.
    let rest = served.send(&next("&received=3&batch=100"), json!(null)).await;
    assert_eq!(rest.status, 400, "one batch is enough: {}", rest.body);
    let mut received = 3;
    loop {
        let answer = served.send(&next(&format!("&received={received}")), json!(null)).await.json();
        received = answer["answer"].as_u64().unwrap();
        if answer["items"].as_array().unwrap().is_empty() {
            break;
        }
    }
    let waiting = next(&format!("&received={received}&wait_ms=20000"));
    let (superseded, later) = tokio::join!(served.send(&waiting, json!(null)), async {
        loop {
            tokio::task::yield_now().await;
            let later = served.send(&next(&format!("&received={received}")), json!(null)).await.json();
            // The first of these may have come before the one that waits, and be over because of it.
            if later["answer"].as_u64().is_some_and(|answer| answer > received + 1) {
                break later;
            }
        }
    });
    assert_eq!(
        (superseded.status, &superseded.json()["error"]),
        (409, &json!("superseded")),
        "{}",
        superseded.body
    );
    assert!(later["items"].as_array().unwrap().is_empty());
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_says_how_far_the_tape_is_also_one_without_events() {
    let served = Served::start(10, generous()).await;
    assert_eq!(served.send("PUT /v1/consumers/none", json!({ "kinds": ["trades"] })).await.status, 200);
    assert_eq!(served.send("PUT /v1/consumers/all", json!({})).await.status, 200);
    for (name, items) in [("none", 0), ("all", 11)] {
        let session = served.send(&format!("POST /v1/consumers/{name}/members/m"), json!(null)).await.json();
        let session = session["session"].as_str().unwrap().to_owned();
        let next = format!("POST /v1/consumers/{name}/next?session={session}&batch=100");
        let answer = served.send(&next, json!(null)).await.json();
        assert_eq!(answer["items"].as_array().unwrap().len(), items, "{answer}");
        // The epoch's start and ten orders, and a node alone is its own quorum.
        let all = json!({ "accepted": 11, "written": 11, "durable": 11, "replicated": 11, "visible": 11 });
        assert_eq!(answer["watermarks"], all, "{answer}");
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_in_progress_has_its_whole_time_again_and_one_that_is_not_comes_again() {
    const WAIT: Duration = Duration::from_millis(300);
    let served = Served::start(10, generous()).await;
    let asked = json!({ "ack": "explicit", "ack_wait_ms": WAIT.as_millis() as u64 });
    assert_eq!(served.send("PUT /v1/consumers/risk", asked).await.status, 200);
    let session = served.send("POST /v1/consumers/risk/members/m", json!(null)).await.json();
    let session = session["session"].as_str().unwrap().to_owned();
    let next = |received| {
        format!("POST /v1/consumers/risk/next?session={session}&batch=2&wait_ms=20&received={received}")
    };
    let mut received = 0;
    // Before it is delivered: its time begins later than this.
    let begun = Instant::now();
    let mut working_since = begun;
    let mut given = served.send(&next(received), json!(null)).await.json();
    assert_eq!(given["items"].as_array().unwrap().len(), 2, "{given}");
    // What was never delivered is not in progress.
    let never = served.send("POST /v1/consumers/risk/ack", json!({ "in_progress": [9] })).await;
    assert_eq!((never.status, &never.json()["error"]), (409, &json!("ack_refused")), "{}", never.body);

    loop {
        let asked_at = Instant::now();
        let said = json!({ "in_progress": [1], "session": session });
        let working = served.send("POST /v1/consumers/risk/ack", said).await;
        if working.status == 200 {
            assert_eq!(working.json()["settled"], 1, "{}", working.body);
            working_since = asked_at;
        }
        received = given["answer"].as_u64().unwrap();
        given = served.send(&next(received), json!(null)).await.json();
        let items = given["items"].as_array().unwrap();
        let again = |sequence: u64| {
            let of = |item: &&serde_json::Value| {
                item["event"]["sequence"] == sequence && item["delivery_count"] == 2
            };
            items.iter().any(|item| of(&item))
        };
        // A machine that stands still for so long gives it again, too.
        assert!(!again(1) || working_since.elapsed() >= WAIT, "{given}");
        if again(2) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "the second comes again");
    }
    served.stop().await;
}
