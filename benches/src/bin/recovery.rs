//! After a crash: how long until the node serves again, with so much of the log not yet in tables.
//!
//!     cargo run --release -p matchtape-benches --bin recovery -- --events 4000000 --data /some/disk

use std::time::Instant;

use clap::Parser;
use matchtape_benches::{Options, Report, device, tape};
use matchtape_node::{Node, NodeOptions, PublishError};
use matchtape_schemas::{ProducerId, Sequence, Stage};

#[derive(clap::Parser)]
struct RecoveryOptions {
    #[command(flatten)]
    common: Options,
    /// Events that are only in the log when the crash comes.
    #[arg(long, default_value_t = 2_000_000)]
    events: u64,
}

fn main() {
    let options = RecoveryOptions::parse();
    let folder = options.common.folder();
    let mut report = Report::new("recovery", folder.path());
    report.guarantee("events of 128 bytes, all durable, none in tables; recovery checks every byte, rebuilds the memtable and its indexes, and serves");
    let mut settings = NodeOptions::default();
    settings.store.memtable_bytes = 8 << 30;
    let data = folder.path().join("tape");
    let node = Node::open(&data, settings.clone(), Vec::new()).expect("a fresh node");
    let mut publisher = node.publisher(ProducerId(1)).expect("the only handle");
    let mut last = Sequence::ZERO;
    for first in (1..=options.events).step_by(256) {
        let group: Vec<_> =
            (first..(first + 256).min(options.events + 1)).map(|number| tape::order(number, 64)).collect();
        last = loop {
            match publisher.publish_group(&group) {
                Ok(published) => break published.sequence(),
                Err(PublishError::WouldBlock) => {
                    publisher.wait_for_room(group.len()).expect("the node is open")
                }
                Err(error) => panic!("{error}"),
            }
        };
    }
    node.wait(last, Stage::Durable).expect("a disk that syncs");
    drop(publisher);
    // As a crash: nothing is flushed.
    drop(node);

    let log: u64 = std::fs::read_dir(data.join("wal"))
        .expect("the log's folder")
        .map(|entry| entry.and_then(|entry| entry.metadata()).map_or(0, |file| file.len()))
        .sum();
    let begun = Instant::now();
    let node = Node::open(&data, settings, Vec::new()).expect("a tape that recovers");
    let serving = begun.elapsed();
    assert!(node.reader().event(last).expect("an undamaged tape").is_some());
    let frames = options.events as f64 * tape::EVENT_BYTES as f64;
    report.row("log on disk", log as f64 / 1e9, "GB");
    report.row("from opening to serving", serving.as_secs_f64() * 1e3, "ms");
    let copy = device::memory_copy(std::time::Duration::from_millis(500));
    report
        .row("events recovered per second, in bytes", frames / serving.as_secs_f64() / 1e9, "GB/s")
        .beside("memory copy of one core", copy / 1e9)
        .goal(">= 2 GB/s");
    println!("{}", node.recovery());
    node.close().expect("a node that closes");
    report.print(options.common.format);
}
