//! When events are taken more slowly than they come, everybody is told why, and told when it is over.

mod support;

use std::time::Duration;

use matchtape_gateway::{Gateway, GatewayHandle, Limits, TapeHandle};
use matchtape_node::{Node, NodeOptions, Publisher};
use matchtape_schemas::event::OrderCancelled;
use matchtape_schemas::*;
use matchtape_storage::Workers;
use serde_json::Value;
use support::client::Client;
use support::http::get;
use support::judge::Judge;
use support::{config, generous};
use tokio::sync::watch;

/// So many events are published at once.
const GROUP: u64 = 100;

fn publish(node: &Node, publisher: &mut Publisher) {
    let from = publisher.last().map_or(0, |last| last.get()) + 1;
    let events: Vec<_> = (from..from + GROUP)
        .map(|number| {
            let body = OrderCancelled { order_id: OrderId(number), ..Default::default() };
            Event::new(InstrumentId(1), ProducerSequence(number), EventTime(number as i64), body)
        })
        .collect();
    let last = publisher.publish_group(&events).unwrap().sequence();
    node.wait(last, Stage::Visible).unwrap();
}

async fn intake(gateway: &GatewayHandle) -> Value {
    let health = get(gateway.address(), "/v1/health").await;
    assert_eq!(health.status, 200, "slow is not ill");
    health.json()["intake"].clone()
}

/// The first heartbeat that says so.
async fn heartbeat(client: &mut Client, says: impl Fn(&Value) -> bool) -> Value {
    loop {
        let message = client.receive().await.unwrap();
        assert_eq!(message["type"], "heartbeat");
        if says(&message["intake"]) {
            return message["intake"].clone();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_heartbeats_and_metrics_say_why_events_are_slowed_and_when_they_are_not_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = NodeOptions::default();
    // Nothing is indexed, flushed or merged until this test says so.
    options.store.workers = Workers::Caller;
    options.store.memtable_bytes = 1 << 20;
    let (mut judge, node) = Judge::node(folder.path(), options);
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    let (_sender, tail) = watch::channel(node.watermarks());
    let gauge = Some(node.gauge());
    let tape = TapeHandle { gauge, ..TapeHandle::shown(node.reader(), tail) };
    let limits = Limits { heartbeat_interval: Duration::from_millis(20), ..generous() };
    let gateway = Gateway::start(config(limits), tape).await.unwrap();
    let mut client = Client::connect(gateway.address()).await;

    publish(&node, &mut publisher);
    let at_ease = intake(&gateway).await;
    assert_eq!((&at_ease["slowed_permille"], &at_ease["reason"]), (&0.into(), &"none".into()), "{at_ease}");
    assert!(at_ease["what"].is_null() && at_ease["unflushed_bytes"].as_u64() > Some(0), "{at_ease}");
    heartbeat(&mut client, Value::is_null).await;

    while node.store().pressure().slow_down().0 == 0 {
        publish(&node, &mut publisher);
    }
    let behind = intake(&gateway).await;
    assert_eq!((&behind["reason"], &behind["what"]), (&"indexing".into(), &"indexing is behind".into()));
    assert!((1..1000).contains(&behind["slowed_permille"].as_u64().unwrap()), "{behind}");
    let said = heartbeat(&mut client, Value::is_object).await;
    assert_eq!((&said["reason"], &said["what"]), (&behind["reason"], &behind["what"]));
    let metrics = get(gateway.address(), "/metrics").await.body;
    let share = |text: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix("matchtape_intake_slowed_ratio "));
        line.expect("the gauge").parse().unwrap()
    };
    assert!(share(&metrics) > 0.0 && share(&metrics) < 1.0);

    node.store().flush().unwrap();
    assert_eq!(intake(&gateway).await["reason"], "none");
    heartbeat(&mut client, Value::is_null).await;

    // Table after table, and nobody merges them.
    while node.store().pressure().slow_down().0 == 0 {
        publish(&node, &mut publisher);
        node.store().flush().unwrap();
    }
    let behind = intake(&gateway).await;
    assert_eq!((&behind["reason"], &behind["what"]), (&"compaction".into(), &"compaction is behind".into()));
    assert!(behind["level0_tables"].as_u64() > behind["level0_tables_max"].as_u64(), "{behind}");
    node.store().compact(&mut |_| true).unwrap();
    assert_eq!(intake(&gateway).await["slowed_permille"], 0);
    gateway.shutdown().await;
    drop(publisher);
    judge.joins();
    node.close().unwrap();
}
