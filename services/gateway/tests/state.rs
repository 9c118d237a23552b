//! Writing keyed state: whose numbers the events have, and how many requests may wait for the ring.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use matchtape_gateway::{
    Gateway, GatewayHandle, Ingress, IngressError, Limits, ProducerPosition, Receipt, TapeHandle,
};
use matchtape_node::{Node, NodeOptions, Published, Publishers};
use matchtape_schemas::*;
use parking_lot::{Condvar, Mutex};
use support::http::Answer;
use support::judge::Judge;
use support::{config, generous};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

async fn send(address: SocketAddr, request: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let head = format!(
        "{request} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (headers, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, headers: headers.to_owned(), body: body.to_owned() }
}

async fn start(
    node: &Node,
    ingress: Arc<dyn Ingress>,
    limits: Limits,
) -> (GatewayHandle, watch::Sender<Watermarks>) {
    let (sender, tail) = watch::channel(node.watermarks());
    let tape = TapeHandle { ingress: Some(ingress), ..TapeHandle::shown(node.reader(), tail) };
    (Gateway::start(config(limits), tape).await.unwrap(), sender)
}

/// Every producer, each for the time of a call.
struct Everyone(Publishers);

impl Ingress for Everyone {
    fn group_events_max(&self) -> usize {
        4
    }

    fn publish(&self, producer: ProducerId, groups: &[Vec<Event>]) -> Result<Receipt, IngressError> {
        let mut publisher = self.0.publisher(producer).unwrap();
        let [group] = groups else { panic!("one change at a time") };
        Ok(match publisher.publish_group(group).unwrap() {
            Published::New { first, last } => Receipt { first: Some(first), last, published: 1, already: 0 },
            Published::Already { last: sequence } => {
                Receipt { first: None, last: sequence, published: 0, already: 1 }
            }
        })
    }

    fn last(&self, producer: ProducerId) -> Result<Option<ProducerPosition>, IngressError> {
        let mark = self.0.publisher(producer).unwrap().accepted();
        Ok(mark.map(|mark| ProducerPosition {
            producer_sequence: mark.producer_sequence,
            sequence: mark.sequence,
        }))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_takes_the_numbers_of_those_that_choose_none() {
    let folder = tempfile::tempdir().unwrap();
    let (mut judge, node) = Judge::node(folder.path(), NodeOptions::default());
    let (gateway, _sender) = start(&node, Arc::new(Everyone(node.publishers())), generous()).await;
    let address = gateway.address();
    let last = u64::MAX;
    for refused in [
        format!("PUT /v1/state/a?wait=accepted&producer_sequence={last}"),
        format!("DELETE /v1/state/a?wait=accepted&producer_sequence={last}"),
        "PUT /v1/state/a?wait=accepted&producer_sequence=5".into(),
        "PUT /v1/state/a?wait=accepted&producer=4294967295&producer_sequence=5".into(),
        format!("PUT /v1/state/a?wait=accepted&producer=9&producer_sequence={last}"),
        "PUT /v1/state/a?wait=accepted&producer=9&producer_sequence=0".into(),
    ] {
        let answer = send(address, &refused, "1").await;
        assert_eq!((answer.status, &answer.json()["error"]), (400, &"bad_request".into()), "{refused}");
        assert_eq!(answer.json()["where"], "producer_sequence", "{refused}");
    }
    for request in [
        "PUT /v1/state/a?wait=accepted",
        "DELETE /v1/state/a?wait=accepted",
        "PUT /v1/state/a?wait=accepted&producer=4294967295",
        "PUT /v1/state/a?wait=accepted&producer=9&producer_sequence=5",
        "PUT /v1/state/a?wait=accepted&producer=9",
    ] {
        let answer = send(address, request, "1").await;
        assert_eq!(
            (answer.status, &answer.json()["already"]),
            (200, &0.into()),
            "{request}: {}",
            answer.body
        );
    }
    gateway.shutdown().await;
    judge.joins();
    node.close().unwrap();
}

/// A full ring: whoever publishes waits until it is let go.
#[derive(Default)]
struct Full {
    /// How many wait, and whether they may go.
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Full {
    /// Whether so many come to wait within `limit`.
    fn comes_to(&self, waiting: usize, limit: Duration) -> bool {
        let mut state = self.state.lock();
        !self.changed.wait_while_for(&mut state, |state| state.0 < waiting, limit).timed_out()
    }
}

impl Ingress for Full {
    fn group_events_max(&self) -> usize {
        4
    }

    fn publish(&self, _: ProducerId, _: &[Vec<Event>]) -> Result<Receipt, IngressError> {
        let mut state = self.state.lock();
        state.0 += 1;
        self.changed.notify_all();
        self.changed.wait_while(&mut state, |state| !state.1);
        Ok(Receipt { first: Some(Sequence(1)), published: 1, ..Receipt::default() })
    }

    fn last(&self, _: ProducerId) -> Result<Option<ProducerPosition>, IngressError> {
        Ok(None)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_ring_is_full_only_so_many_writes_and_deletions_hold_a_thread() {
    const LONG: Duration = Duration::from_secs(60);
    let folder = tempfile::tempdir().unwrap();
    let (mut judge, node) = Judge::node(folder.path(), NodeOptions::default());
    let full = Arc::new(Full::default());
    let limits = Limits { publishes_max: 2, ..generous() };
    let (gateway, _sender) = start(&node, full.clone(), limits).await;
    let address = gateway.address();

    // Clients that give up do not make room: their threads wait all the same.
    let given_up = tokio::spawn(async move { send(address, "PUT /v1/state/a?wait=accepted", "1").await });
    let waits = full.clone();
    assert!(tokio::task::spawn_blocking(move || waits.comes_to(1, LONG)).await.unwrap());
    given_up.abort();
    let _ = given_up.await;

    let deletions: Vec<_> = (0..5)
        .map(|_| tokio::spawn(async move { send(address, "DELETE /v1/state/a?wait=accepted", "").await }))
        .collect();
    let waits = full.clone();
    let (two, more) = tokio::task::spawn_blocking(move || {
        (waits.comes_to(2, LONG), waits.comes_to(3, Duration::from_millis(300)))
    })
    .await
    .unwrap();
    full.state.lock().1 = true;
    full.changed.notify_all();
    assert!(two && !more, "one deletion beside the write that was given up, no more");
    for deletion in deletions {
        assert_eq!(deletion.await.unwrap().status, 200);
    }
    assert_eq!(full.state.lock().0, 6);
    gateway.shutdown().await;
    judge.joins();
    node.close().unwrap();
}
