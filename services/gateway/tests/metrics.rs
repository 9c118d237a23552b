//! The numbers of `/metrics` follow what happens to the node.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use matchtape_gateway::{Gateway, GatewayHandle, TapeHandle};
use matchtape_node::consumers::Definition;
use matchtape_node::{Node, NodeOptions, PublishError, Publisher, WaitError};
use matchtape_schemas::event::OrderCancelled;
use matchtape_schemas::*;
use matchtape_storage::sim::{Fault, SimDisk};
use matchtape_storage::{PinKind, ScrubOptions};
use support::http::get;
use support::{config, generous};
use tokio::sync::watch;

struct Served {
    disk: SimDisk,
    node: Node,
    publisher: Publisher,
    gateway: GatewayHandle,
    _tail: watch::Sender<Watermarks>,
}

impl Served {
    async fn start() -> Self {
        Self::start_with(NodeOptions { ring_slots: 1024, ..NodeOptions::default() }).await
    }

    async fn start_with(mut options: NodeOptions) -> Self {
        let disk = SimDisk::new(1);
        options.store.wal.segment_bytes = matchtape_storage::limits::SEGMENT_BYTES_MIN;
        options.store.wal.commit_bytes = matchtape_storage::limits::COMMIT_BYTES_MIN;
        let node = Node::open_on(Arc::new(disk.clone()), options, Vec::new()).unwrap();
        let publisher = node.publisher(ProducerId(1)).unwrap();
        let (sender, tail) = watch::channel(node.watermarks());
        let (consumers, gauge) = (Some(node.consumers()), Some(node.gauge()));
        let tape = TapeHandle { consumers, gauge, ..TapeHandle::shown(node.reader(), tail) };
        let gateway = Gateway::start(config(generous()), tape).await.unwrap();
        Self { disk, node, publisher, gateway, _tail: sender }
    }

    fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// The sample that is written so, its labels included.
    async fn number(&self, sample: &str) -> f64 {
        let text = get(self.address(), "/metrics").await.body;
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {sample} in {text}")).parse().unwrap()
    }

    /// Looks again until the sample is as it has to become.
    async fn until(&self, sample: &str, reached: impl Fn(f64) -> bool) {
        let begun = std::time::Instant::now();
        loop {
            let found = self.number(sample).await;
            if reached(found) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{sample} stays {found}");
        }
    }

    fn next(&self) -> u64 {
        self.publisher.last().map_or(0, |last| last.get()) + 1
    }

    fn publish_at(&mut self, time: EventTime) -> Result<Sequence, PublishError> {
        let number = self.next();
        let body = OrderCancelled { order_id: OrderId(number), ..Default::default() };
        let event = Event::new(InstrumentId(1), ProducerSequence(number), time, body);
        self.publisher.publish(&event).map(|published| published.sequence())
    }

    fn publish(&mut self) -> Sequence {
        let sequence = self.publish_at(EventTime(5)).unwrap();
        self.node.wait(sequence, Stage::Visible).unwrap();
        sequence
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_number_is_described_once_and_follows_what_the_node_does() {
    let mut served = Served::start().await;
    for _ in 0..20 {
        served.publish();
    }
    for stage in ["durable", "visible"] {
        // Counted just after the watermark moves: who finds it there without waiting may be the first to know.
        let count = format!("matchtape_stage_latency_seconds_count{{stage=\"{stage}\"}}");
        served.until(&count, |count| count == 20.0).await;
        let all = format!("matchtape_stage_latency_seconds_bucket{{stage=\"{stage}\",le=\"+Inf\"}}");
        assert_eq!(served.number(&all).await, 20.0);
    }
    assert!(served.number("matchtape_unflushed_bytes").await > 0.0);
    assert_eq!(served.number("matchtape_flushes_total").await, 0.0);
    served.node.store().flush().unwrap();
    assert_eq!(served.number("matchtape_flushes_total").await, 1.0);
    assert_eq!(served.number("matchtape_event_tables").await, 1.0);
    for bytes in
        ["matchtape_table_bytes", "matchtape_flush_frame_bytes_total", "matchtape_flush_written_bytes_total"]
    {
        assert!(served.number(bytes).await > 0.0, "{bytes}");
    }
    // What is kept and written for each byte, as the store itself has it, and as the numbers give it.
    let inspection = served.node.store().inspect();
    let (told, health) = (inspection.amplification, get(served.address(), "/v1/health").await.json());
    let near = |ratio: f64, told: Option<f64>| (ratio - told.unwrap()).abs() < 0.006;
    let said = &health["amplification"];
    assert!(near(said["space"].as_f64().unwrap(), told.space), "{said} {told:?}");
    assert!(near(said["write"].as_f64().unwrap(), told.write), "{said} {told:?}");
    assert_eq!(said["tables_per_lookup"], told.tables_per_lookup);
    let frames = served.number("matchtape_event_frame_bytes").await;
    let kept = served.number("matchtape_table_bytes").await
        + served.number("matchtape_cold_bytes").await
        + served.number("matchtape_log_sealed_bytes").await;
    assert!(near(kept / frames, told.space), "{kept} {frames} {told:?}");
    assert!(frames == served.number("matchtape_flush_frame_bytes_total").await, "one flush made all tables");
    assert_eq!(served.number("matchtape_lookup_index_tables").await, 1.0);
    // The epoch's start and the twenty.
    assert_eq!(served.number("matchtape_flushed_sequence").await, 21.0);

    let refused = served.publish_at(EventTime(i64::MAX));
    assert!(matches!(refused, Err(PublishError::EventTimeAhead { .. })), "{refused:?}");
    assert_eq!(served.number("matchtape_event_times_refused_total").await, 1.0);
    assert_eq!(served.number("matchtape_clock_behind_seconds").await, 0.0);

    served.node.consumers().add(&"risk".parse().unwrap(), Definition::default()).unwrap();
    let reader = served.node.consumers().attach(&"risk".parse().unwrap(), &"a".parse().unwrap()).unwrap();
    assert_eq!(served.number("matchtape_consumer_behind_events{consumer=\"risk\"}").await, 21.0);
    assert_eq!(served.number("matchtape_consumer_members{consumer=\"risk\"}").await, 1.0);
    let items = reader.fetch(4, Duration::from_secs(10)).unwrap();
    let sequence = items.last().unwrap().delivery().unwrap().sequence();
    assert_eq!(served.number("matchtape_consumer_out_events{consumer=\"risk\"}").await, items.len() as f64);
    reader.ack(sequence).unwrap();
    assert_eq!(served.number("matchtape_consumer_out_events{consumer=\"risk\"}").await, 0.0);
    let behind = 21.0 - sequence.get() as f64;
    assert_eq!(served.number("matchtape_consumer_behind_events{consumer=\"risk\"}").await, behind);
    reader.term(sequence.next()).unwrap_err();

    let pin = served.node.store().pin(PinKind::Backup, "tonight", Sequence(7)).unwrap();
    assert_eq!(served.number("matchtape_pin_sequence{kind=\"backup\",name=\"tonight\"}").await, 7.0);
    drop(pin);

    // Every sample belongs to a family that is described before it, once.
    let text = get(served.address(), "/metrics").await.body;
    let mut families: Vec<&str> = Vec::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let name = help.split(' ').next().unwrap();
            assert!(!families.contains(&name), "{name} twice");
            families.push(name);
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let family = families.last().unwrap();
            let part = name.strip_prefix(family);
            assert!(matches!(part, Some("" | "_bucket" | "_sum" | "_count")), "{name} under {family}");
        }
    }
    drop(reader);
    served.gateway.shutdown().await;
    drop(served.publisher);
    served.node.close().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_a_number_until_there_is_room() {
    let mut served = Served::start().await;
    let free = served.number("matchtape_disk_free_bytes").await;
    assert!(free > 0.0);
    assert_eq!(served.number("matchtape_space_lacking").await, 0.0);
    served.disk.set_capacity(1 << 10);
    loop {
        match served.publish_at(EventTime(5)) {
            Err(PublishError::NoSpace) => break,
            Err(PublishError::WouldBlock) => std::thread::yield_now(),
            other => _ = other.unwrap(),
        }
    }
    assert_eq!(served.number("matchtape_space_lacking").await, 1.0);
    assert_eq!(served.number("matchtape_intake_slowed_ratio").await, 1.0);
    assert_eq!(served.number("matchtape_node_poisoned").await, 0.0);
    assert!(served.number("matchtape_disk_free_bytes").await < free);
    let health = get(served.address(), "/v1/health").await;
    assert_eq!((health.status, &health.json()["status"]), (200, &"degraded".into()), "{}", health.body);
    let what = health.json()["what"].as_str().unwrap().to_owned();
    assert!(what.starts_with("the disk is full, no events are taken"), "{what}");
    served.disk.set_capacity(1 << 40);
    served.until("matchtape_space_lacking", |lacking| lacking == 0.0).await;
    let health = get(served.address(), "/v1/health").await;
    assert_eq!((&health.json()["status"], health.json().get("what")), (&"ok".into(), None));
    served.publish();
    served.gateway.shutdown().await;
    drop(served.publisher);
    served.node.close().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_a_number_and_named_in_health_while_everything_goes_on() {
    let mut options = NodeOptions { ring_slots: 1024, ..NodeOptions::default() };
    options.store.scrub = ScrubOptions { bytes_per_second: u64::MAX, every: Duration::ZERO };
    let mut served = Served::start_with(options).await;
    served.publish();
    served.node.store().flush().unwrap();
    served.until("matchtape_scrub_rounds_total", |rounds| rounds >= 3.0).await;
    assert!(served.number("matchtape_scrub_read_bytes_total").await > 0.0);
    assert_eq!(served.number("matchtape_scrub_unread_files_total").await, 0.0);
    assert_eq!(served.number("matchtape_damaged_files").await, 0.0);
    let health = get(served.address(), "/v1/health").await;
    assert_eq!((health.status, &health.json()["status"]), (200, &"ok".into()), "{}", health.body);
    assert!(health.json()["scrub"]["rounds"].as_u64() >= Some(3), "{}", health.body);

    let table = served.node.store().inspect().event_tables[0].file.clone();
    served.disk.flip_bit(Path::new(&table), 100, 3);
    served.until("matchtape_damaged_files", |files| files > 0.0).await;
    let health = get(served.address(), "/v1/health").await;
    assert_eq!((health.status, &health.json()["status"]), (200, &"degraded".into()), "{}", health.body);
    let scrub = &health.json()["scrub"];
    assert_eq!((&scrub["damaged_files"], scrub["damaged"].as_array().unwrap().len()), (&1.into(), 1));
    let named = &scrub["damaged"][0];
    assert_eq!((&named["file"], &named["offset"]), (&table.into(), &64.into()), "{named}");
    let what = named["what"].as_str().unwrap();
    assert!(what.starts_with("block of frames: expected checksum ") && what.contains(", found "), "{what}");
    served.publish();
    assert_eq!(served.number("matchtape_node_poisoned").await, 0.0);
    served.gateway.shutdown().await;
    drop(served.publisher);
    served.node.close().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_ended_is_a_number_and_has_its_reason_in_health_while_the_tape_goes_on() {
    let mut served = Served::start().await;
    let last = served.publish();
    served.node.consumers().add(&"risk".parse().unwrap(), Definition::default()).unwrap();
    let reader = served.node.consumers().attach(&"risk".parse().unwrap(), &"a".parse().unwrap()).unwrap();
    reader.fetch(2, Duration::from_secs(10)).unwrap();
    let health = get(served.address(), "/v1/health").await;
    assert_eq!((health.status, served.number("matchtape_ended_parts").await), (200, 0.0), "{}", health.body);
    // Where the consumer is; what the tape's log has still to write for itself must not meet it.
    served.disk.fail_next_below(Path::new("system"), Fault::Eio);
    // An error where it had to record already what it has given.
    let _ = reader.ack(last);
    served.until("matchtape_ended_parts", |parts| parts > 0.0).await;
    let health = get(served.address(), "/v1/health").await;
    assert_eq!((health.status, &health.json()["status"]), (503, &"degraded".into()), "{}", health.body);
    assert!(health.json()["ended"]["consumers"].as_str().unwrap().contains("record"), "{}", health.body);
    served.publish();
    served.gateway.shutdown().await;
    drop((served.publisher, reader));
    served.node.close().unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_failed_is_a_number_and_a_reason_and_no_health() {
    let mut served = Served::start().await;
    served.publish();
    assert_eq!(served.number("matchtape_node_poisoned").await, 0.0);
    served.disk.fail_all(Fault::Eio);
    match served.publish_at(EventTime(5)) {
        Ok(sequence) => assert_eq!(served.node.wait(sequence, Stage::Durable), Err(WaitError::Poisoned)),
        // What the log writes behind the first event, when it is idle, has met it.
        Err(error) => assert_eq!(error, PublishError::Poisoned),
    }
    served.until("matchtape_node_poisoned", |poisoned| poisoned == 1.0).await;
    let health = get(served.address(), "/v1/health").await;
    assert_eq!((health.status, &health.json()["status"]), (503, &"poisoned".into()), "{}", health.body);
    assert!(health.json()["what"].as_str().unwrap().contains("the log failed"), "{}", health.body);
    served.gateway.shutdown().await;
    drop(served.publisher);
    served.node.close().unwrap_err();
}
