//! Events from outside: what goes onto the tape, what does not, and what a producer is told.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use matchtape_gateway::{
    Gateway, GatewayHandle, Ingress, IngressError, Limits, ProducerPosition, Receipt, TapeHandle,
};
use matchtape_node::{Node, NodeOptions, Published, Publisher};
use matchtape_schemas::event::{EventFlags, InstrumentDefined, OrderAccepted, Side, encode_event};
use matchtape_schemas::text::Text;
use matchtape_schemas::*;
use parking_lot::Mutex;
use support::http::{Answer, get};
use support::judge::Judge;
use support::{config, generous};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

const PRODUCER: ProducerId = ProducerId(77);

/// The way onto a node for one producer.
struct OneProducer(Mutex<Publisher>);

impl Ingress for OneProducer {
    fn group_events_max(&self) -> usize {
        4
    }

    fn publish(&self, _: ProducerId, groups: &[Vec<Event>]) -> Result<Receipt, IngressError> {
        let mut publisher = self.0.lock();
        let mut receipt = Receipt::default();
        for group in groups {
            let published = publisher.publish_group(group).map_err(|error| IngressError::Refused {
                first: group[0].producer_sequence,
                reason: error.to_string(),
            })?;
            receipt.last = published.sequence();
            match published {
                Published::New { first, .. } => {
                    receipt.first.get_or_insert(first);
                    receipt.published += group.len() as u64;
                }
                Published::Already { .. } => receipt.already += group.len() as u64,
            }
        }
        Ok(receipt)
    }

    fn last(&self, producer: ProducerId) -> Result<Option<ProducerPosition>, IngressError> {
        let last = self.0.lock().accepted().filter(|_| producer == PRODUCER);
        Ok(last.map(|mark| ProducerPosition {
            producer_sequence: mark.producer_sequence,
            sequence: mark.sequence,
        }))
    }
}

/// A node that takes events from outside.
struct Served {
    _judge: Judge,
    node: Node,
    gateway: GatewayHandle,
    _folder: tempfile::TempDir,
    /// Dropped, the tape counts as closed.
    sender: Arc<watch::Sender<Watermarks>>,
}

impl Served {
    /// `follow`: whether the gateway hears of the watermarks.
    async fn start(limits: Limits, follow: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (judge, node) = Judge::node(folder.path(), NodeOptions::default());
        let (sender, tail) = watch::channel(node.watermarks());
        let sender = Arc::new(sender);
        if follow {
            let (progress, sender) = (node.progress(), sender.clone());
            tokio::spawn(async move {
                loop {
                    let seen = sender.borrow().visible;
                    if progress.wait_async(seen.next(), Stage::Visible).await.is_err() {
                        return;
                    }
                    sender.send_replace(progress.watermarks());
                }
            });
        }
        let ingress: Arc<dyn Ingress> = Arc::new(OneProducer(Mutex::new(node.publisher(PRODUCER).unwrap())));
        let tape = TapeHandle { ingress: Some(ingress), ..TapeHandle::shown(node.reader(), tail) };
        let gateway = Gateway::start(config(limits), tape).await.unwrap();
        Self { _judge: judge, node, gateway, _folder: folder, sender }
    }

    fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    async fn publish(&self, events: &[Event]) -> Answer {
        post(self.address(), "producer=77", "", &encode(events, PRODUCER)).await
    }
}

async fn post(address: SocketAddr, query: &str, headers: &str, body: &[u8]) -> Answer {
    let headers =
        format!("Content-Type: application/octet-stream\r\nContent-Length: {}\r\n{headers}", body.len());
    post_raw(address, query, &headers, body).await
}

async fn post_raw(address: SocketAddr, query: &str, headers: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let host = if headers.contains("Host:") { String::new() } else { format!("Host: {address}\r\n") };
    let head = format!("POST /v1/publish?{query} HTTP/1.1\r\n{host}{headers}Connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // Refused by its head, a body need not be taken.
    let _ = stream.write_all(body).await;
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut piece).await {
        bytes.extend_from_slice(&piece[..length]);
    }
    let text = String::from_utf8(bytes).unwrap();
    let (headers, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, headers: headers.to_owned(), body: body.to_owned() }
}

fn order(number: u64, last: bool) -> Event {
    let body = OrderAccepted {
        order_id: OrderId(number),
        side: Side::Buy,
        price: Price::from_units(5_000_000_000),
        quantity: Quantity::from_whole(3).unwrap(),
        ..Default::default()
    };
    let mut event = Event::new(InstrumentId(1), ProducerSequence(number), EventTime(5), body);
    if !last {
        event.flags = EventFlags::NONE;
    }
    event
}

/// Bytes as in a frame.
fn encode(events: &[Event], producer: ProducerId) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in events {
        let mut encoded = rkyv::util::AlignedVec::<16>::new();
        encoded.resize(event.encoded_len(), 0);
        encode_event(event, producer, &mut encoded);
        bytes.extend_from_slice(&encoded);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_visible_when_the_answer_comes_and_repeats_are_told_as_such() {
    let served = Served::start(generous(), true).await;
    let nobody = get(served.address(), "/v1/producers/77").await;
    assert_eq!((nobody.status, &nobody.json()["error"]), (404, &"unknown_producer".into()));

    let mut ignored = order(1, true);
    ignored.flags = ignored.flags.with(EventFlags::LATE);
    let answer = served.publish(&[ignored, order(2, false), order(5, true)]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let said = answer.json();
    // The epoch starts at 1.
    assert_eq!((&said["first"], &said["last"]), (&2.into(), &4.into()));
    assert_eq!((&said["published"], &said["already"]), (&3.into(), &0.into()));
    assert!(
        said["watermarks"]["visible"].as_u64() >= Some(4)
            && said["watermarks"]["accepted"].as_u64() >= Some(4)
    );
    assert_eq!(served.node.reader().visible(), Sequence(4));
    let events: Vec<Event> = (2..=4)
        .map(|sequence| served.node.reader().event(Sequence(sequence)).unwrap().unwrap().event().to_event())
        .collect();
    assert_eq!(events, [order(1, true), order(2, false), order(5, true)], "`late` is the sequencer's to say");

    let again = served.publish(&[order(2, false), order(5, true), order(6, true)]).await.json();
    assert_eq!((&again["first"], &again["last"]), (&5.into(), &5.into()));
    assert_eq!((&again["published"], &again["already"]), (&1.into(), &2.into()));
    let nothing_new = served.publish(&[order(6, true)]).await.json();
    assert_eq!((nothing_new.get("first"), &nothing_new["last"]), (None, &5.into()));

    let resume = get(served.address(), "/v1/producers/77").await.json();
    assert_eq!(resume, serde_json::json!({"producer": "77", "producer_sequence": "6", "sequence": 5}));
    let metrics = get(served.address(), "/metrics").await.body;
    assert!(metrics.contains("matchtape_gateway_events_published_total 4\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_instrument_is_listed_when_the_answer_has_come() {
    let served = Served::start(generous(), true).await;
    for number in 1..=20_u64 {
        let definition = InstrumentDefined {
            symbol: Text::new(&format!("S{number}")).unwrap(),
            venue: Text::new("XTST").unwrap(),
            venue_instrument_id: 1000 + number,
            publisher: 3,
            ..Default::default()
        };
        let id = InstrumentId(number as u32);
        let event = Event::new(id, ProducerSequence(number), EventTime(5), definition);
        assert_eq!(served.publish(&[event]).await.status, 200);
        let listed = get(served.address(), "/v1/instruments").await.json();
        let row = listed["instruments"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(row["instrument"], format!("S{number}"));
        assert_eq!((&row["publisher"], &row["instrument_id"]), (&"3".into(), &number.to_string().into()));
        assert_eq!(row["venue_instrument_id"], (1000 + number).to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_body_that_is_refused_nothing_is_on_the_tape() {
    let served = Served::start(Limits { publish_bytes_max: 64 * 1024, ..generous() }, true).await;
    let address = served.address();
    let good = encode(&[order(1, true), order(2, false), order(3, true)], PRODUCER);
    let mut unknown_kind = good.clone();
    unknown_kind[128 + 4] = 0xFF;
    let mut impossible_length = good.clone();
    impossible_length[256..260].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut no_such_side = good.clone();
    no_such_side[256 + 32..].fill(0xEE);
    let open = encode(&[order(1, true), order(2, false)], PRODUCER);
    let falling = encode(&[order(2, true), order(1, true)], PRODUCER);
    let control = {
        let event =
            Event::new(InstrumentId(0), ProducerSequence(2), EventTime(5), event::TimeAdvanced::default());
        encode(&[order(1, true), event], PRODUCER)
    };
    let group: Vec<Event> = (1..=5).map(|number| order(number, number == 5)).collect();
    let large_group = encode(&group, PRODUCER);
    let large = encode(&(1..=600).map(|number| order(number, true)).collect::<Vec<_>>(), PRODUCER);
    let query = "producer=77";
    for (query, body, status, word) in [
        (query, &good[..0], 400, "bad_events"),
        (query, &good[..good.len() - 16], 400, "bad_events"),
        (query, &good[..300], 400, "bad_events"),
        (query, &unknown_kind, 400, "bad_events"),
        (query, &impossible_length, 400, "bad_events"),
        (query, &no_such_side, 400, "bad_events"),
        (query, &open, 400, "bad_events"),
        (query, &falling, 400, "bad_events"),
        (query, &control, 400, "bad_events"),
        (query, &large_group, 400, "bad_events"),
        (query, &large, 413, "body_too_large"),
        ("producer=78", &good, 400, "bad_events"),
        ("producer=0", &good, 400, "bad_request"),
        ("producer=4294967295", &good, 400, "bad_request"),
        ("producer=4294967296", &good, 400, "bad_request"),
        ("", &good, 400, "bad_request"),
        ("producer=77&wait=forever", &good, 400, "bad_request"),
        ("producer=77&limit=1", &good, 400, "bad_request"),
    ] {
        let answer = post(address, query, "", body).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]),
            (status, &word.into()),
            "{query}: {}",
            answer.body
        );
    }
    // A page of another site, another name for loopback, another kind of body, a body that does not say its length.
    let foreign = post(address, query, "Origin: http://evil.example\r\n", &good).await;
    assert_eq!((foreign.status, &foreign.json()["error"]), (403, &"origin_refused".into()));
    let rebound = post(address, query, "Host: evil.example\r\n", &good).await;
    assert_eq!((rebound.status, &rebound.json()["error"]), (403, &"host_refused".into()));
    let form = format!("Content-Type: text/plain\r\nContent-Length: {}\r\n", good.len());
    assert_eq!(post_raw(address, query, &form, &good).await.status, 415);
    let mut chunked = format!("{:x}\r\n", large.len()).into_bytes();
    chunked.extend_from_slice(&large);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let head = "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(post_raw(address, query, head, &chunked).await.status, 413);
    assert_eq!(get(address, "/v1/publish?producer=77").await.status, 405);

    assert_eq!(served.node.watermarks().accepted, Sequence::ZERO, "nothing at all");
    let taken = post(address, query, "", &good).await;
    assert_eq!((taken.status, &taken.json()["published"]), (200, &3.into()), "the same, whole, is taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_cannot_be_on_the_tape_does_not_hide_those_before_it() {
    let served = Served::start(generous(), true).await;
    let mut ahead = order(2, true);
    ahead.event_time = EventTime::MAX;
    let answer = served.publish(&[order(1, true), ahead, order(3, true)]).await;
    assert_eq!((answer.status, &answer.json()["error"]), (422, &"group_refused".into()), "{}", answer.body);
    assert!(answer.body.contains("producer sequence 2"), "{}", answer.body);
    let resume = get(served.address(), "/v1/producers/77").await.json();
    assert_eq!(resume["producer_sequence"], "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_is_not_known_in_time_is_called_unknown() {
    let limits = Limits { publish_wait_max: Duration::from_millis(20), ..generous() };
    // The gateway hears nothing of what becomes visible.
    let served = Served::start(limits, false).await;
    let answer = served.publish(&[order(1, true)]).await;
    assert_eq!((answer.status, &answer.json()["error"]), (503, &"outcome_unknown".into()), "{}", answer.body);
    let body = encode(&[order(1, true)], PRODUCER);
    let accepted = post(served.address(), "producer=77&wait=accepted", "", &body).await;
    let said = accepted.json();
    assert_eq!((accepted.status, &said["already"], &said["last"]), (200, &1.into(), &2.into()));
    assert_eq!(said["watermarks"]["accepted"], 2);
    served.sender.send_replace(served.node.watermarks());
    assert_eq!(served.node.wait(Sequence(2), Stage::Visible), Ok(()));
    served.sender.send_replace(served.node.watermarks());
    for stage in ["durable", "visible"] {
        let answer = post(served.address(), &format!("producer=77&wait={stage}"), "", &body).await;
        assert_eq!((answer.status, &answer.json()["already"]), (200, &1.into()), "{}", answer.body);
    }
}

/// A node whose disk is full.
struct NoRoom;

impl Ingress for NoRoom {
    fn group_events_max(&self) -> usize {
        4
    }

    fn publish(&self, _: ProducerId, _: &[Vec<Event>]) -> Result<Receipt, IngressError> {
        Err(IngressError::NoSpace)
    }

    fn last(&self, _: ProducerId) -> Result<Option<ProducerPosition>, IngressError> {
        Ok(None)
    }
}

#[tokio::test]
async fn a_full_disk_is_said_with_when_to_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut judge, node) = Judge::node(folder.path(), NodeOptions::default());
    let (_sender, tail) = watch::channel(node.watermarks());
    let tape = TapeHandle { ingress: Some(Arc::new(NoRoom)), ..TapeHandle::shown(node.reader(), tail) };
    let gateway = Gateway::start(config(generous()), tape).await.unwrap();
    let answer = post(gateway.address(), "producer=77", "", &encode(&[order(1, true)], PRODUCER)).await;
    assert_eq!((answer.status, &answer.json()["error"]), (503, &"disk_full".into()), "{}", answer.body);
    assert!(answer.headers.to_lowercase().contains("\r\nretry-after: 1"), "{}", answer.headers);
    let answer = support::http::post(gateway.address(), "/v1/seal").await;
    assert_eq!((answer.status, &answer.json()["error"]), (501, &"sealing_not_offered".into()));
    gateway.shutdown().await;
    judge.joins();
    node.close().unwrap();
}

#[tokio::test]
async fn a_gateway_that_only_shows_a_tape_says_so() {
    let tape = support::Tape::open();
    let gateway = tape.gateway(generous()).await;
    let answer = post(gateway.address(), "producer=77", "", &encode(&[order(1, true)], PRODUCER)).await;
    assert_eq!((answer.status, &answer.json()["error"]), (501, &"publishing_not_offered".into()));
    let answer = get(gateway.address(), "/v1/producers/77").await;
    assert_eq!((answer.status, &answer.json()["error"]), (501, &"publishing_not_offered".into()));
}
