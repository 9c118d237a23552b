//! Reading: one event by its sequence, one order's events, and everything in order; fresh from memory and from tables.
//!
//!     cargo run --release -p matchtape-benches --bin read -- --events 4000000 --data /some/disk

use std::time::Instant;

use clap::Parser;
use matchtape_benches::{Options, Report, device, nanoseconds, tape};
use matchtape_node::{Node, NodeOptions, PublishError};
use matchtape_schemas::{InstrumentId, OrderId, ProducerId, Sequence, Stage};
use matchtape_storage::{Query, Reader};

#[derive(clap::Parser)]
struct ReadOptions {
    #[command(flatten)]
    common: Options,
    /// Events on the tape.
    #[arg(long, default_value_t = 2_000_000)]
    events: u64,
    /// Point reads per measurement.
    #[arg(long, default_value_t = 200_000)]
    reads: u64,
}

const INSTRUMENTS: u32 = 64;

/// A permutation-like walk over 1..=count: the next place is far from the last.
fn places(count: u64) -> impl FnMut() -> u64 {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 17) % count + 1
    }
}

fn measure(report: &mut Report, what: &str, reader: &Reader, options: &ReadOptions) {
    let (mut place, mut by_sequence) = (places(options.events), nanoseconds());
    for _ in 0..options.reads {
        // The first event is the epoch's start.
        let sequence = Sequence(place() + 1);
        let begun = Instant::now();
        let found = reader.event(sequence).expect("an undamaged tape").expect("it is there");
        let order = found.event().header().producer_sequence;
        by_sequence.saturating_record(begun.elapsed().as_nanos() as u64);
        assert_eq!(order.get() + 1, sequence.get());
    }
    report.latency(&format!("{what}: event by sequence"), &by_sequence);

    let mut by_order = nanoseconds();
    for _ in 0..options.reads / 10 {
        let number = place();
        let instrument = InstrumentId((number % u64::from(INSTRUMENTS)) as u32 + 1);
        let begun = Instant::now();
        let query = Query { instrument: Some(instrument), order: Some(OrderId(number)), ..Query::default() };
        let found: Vec<_> = reader
            .query(&query)
            .expect("an undamaged tape")
            .map(|event| event.expect("an undamaged tape"))
            .collect();
        by_order.saturating_record(begun.elapsed().as_nanos() as u64);
        assert_eq!((found.len(), found[0].sequence().get()), (1, number + 1));
    }
    report.latency(&format!("{what}: events of one order"), &by_order);

    let start = Instant::now();
    let (mut events, mut bytes, mut frames) =
        (0u64, 0u64, reader.frames(Sequence::FIRST).expect("an undamaged tape"));
    let mut sum = 0u64;
    while let Some(frame) = frames.next_frame().expect("an undamaged tape") {
        for event in frame.frame().events() {
            events += 1;
            sum = sum.wrapping_add(event.header().producer_sequence.get());
        }
        bytes += frame.bytes().len() as u64;
    }
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!((events, sum), (options.events + 1, options.events * (options.events + 1) / 2));
    let copy = device::memory_copy(std::time::Duration::from_millis(500));
    report
        .row(format!("{what}: scan, every event looked at"), events as f64 / seconds, "events/s")
        .beside("memory copy of one core, in events", copy / (bytes as f64 / events as f64))
        .goal(">= 20 000 000");
}

fn main() {
    let options = ReadOptions::parse();
    let folder = options.common.folder();
    let mut report = Report::new("read", folder.path());
    report.guarantee(format!(
        "{} events of 128 bytes of {INSTRUMENTS} instruments; places chosen at random over the whole tape; never beyond visible",
        options.events
    ));
    let mut settings = NodeOptions::default();
    // All of it stays in memory until it is flushed below.
    settings.store.memtable_bytes = 4 << 30;
    settings.store.block_cache_bytes = 1 << 30;
    let data = folder.path().join("tape");
    let node = Node::open(&data, settings.clone(), Vec::new()).expect("a fresh node");
    let mut publisher = node.publisher(ProducerId(1)).expect("the only handle");
    let mut last = Sequence::ZERO;
    for first in (1..=options.events).step_by(256) {
        let group: Vec<_> = (first..(first + 256).min(options.events + 1))
            .map(|number| tape::order(number, INSTRUMENTS))
            .collect();
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
    node.wait(last, Stage::Visible).expect("a disk that syncs");
    measure(&mut report, "memory", &node.reader(), &options);
    drop(publisher);
    node.close().expect("a node that closes");

    let begun = Instant::now();
    let node = Node::open(&data, settings, Vec::new()).expect("the tape just written");
    report.row("open after a clean close", begun.elapsed().as_secs_f64() * 1e3, "ms");
    // The first pass finds nothing decompressed, the second what the first left in the block cache.
    measure(&mut report, "tables, block cache cold", &node.reader(), &options);
    measure(&mut report, "tables, block cache warm", &node.reader(), &options);
    node.close().expect("a node that closes");
    report.print(options.common.format);
}
