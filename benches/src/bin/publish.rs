//! The publish call of the in-process publisher: its latency in a closed and an open loop, and its rate.
//!
//!     cargo run --release -p matchtape-benches --bin publish -- --seconds 5
//!
//! The node behind it is the real one: its pipeline frames, its log writes and syncs every batch.

use std::time::Instant;

use clap::Parser;
use matchtape_benches::{Options, Report, nanoseconds, open_loop, tape};
use matchtape_node::{Node, NodeOptions, PublishError, Publisher};
use matchtape_schemas::{ProducerId, Stage};

/// Lets this thread, and those it starts from now on, run on these cores only.
fn bind_to(cores: std::ops::Range<usize>) {
    let mut set = rustix::thread::CpuSet::new();
    cores.for_each(|core| set.set(core));
    rustix::thread::sched_setaffinity(None, &set).expect("the cores are there");
}

#[derive(clap::Parser)]
struct PublishOptions {
    #[command(flatten)]
    common: Options,
    /// How long the pipeline thread looks for events before it sleeps, in microseconds.
    #[arg(long, default_value_t = 50)]
    spin_us: u64,
    /// How long it sleeps at a time, and nobody wakes it; 0: until whoever publishes wakes it.
    #[arg(long, default_value_t = 0)]
    nap_us: u64,
}

fn main() {
    let PublishOptions { common: options, spin_us, nap_us } = PublishOptions::parse();
    let folder = options.folder();
    let mut report = Report::new("publish", folder.path());
    report.guarantee("events of 128 bytes; accepted = sequenced in memory; behind it every batch is synced");
    // As a matching engine is deployed: its thread has a core, the node's threads (which inherit what is set here) the rest.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores > 1 {
        bind_to(1..cores);
        report.guarantee("the publishing thread has core 0 to itself, the node's threads have the others");
    }
    let wait = matchtape_benches::node::pipeline_wait(spin_us, nap_us);
    report.guarantee(format!("the pipeline: {wait:?}"));
    let settings = NodeOptions { wait, ..NodeOptions::default() };
    let node = Node::open(&folder.path().join("tape"), settings, Vec::new()).expect("a fresh node");
    bind_to(0..1);
    let mut publisher = node.publisher(ProducerId(1)).expect("the only handle");
    let mut number = 0;

    // Events are made beforehand, so that only the call is measured.
    let mut events: Vec<_> = (1..=4096).map(|number| tape::order(number, 16)).collect();
    let mut next = |publisher: &mut Publisher| -> Result<(), PublishError> {
        let event = &mut events[number as usize % 4096];
        event.producer_sequence.0 = number + 1;
        let result = publisher.publish(event).map(|_| ());
        number += u64::from(result.is_ok());
        result
    };

    // Closed loop at a pace the log keeps up with: one call after the other, each timed by itself.
    let (mut histogram, mut refused) = (nanoseconds(), 0u64);
    let start = Instant::now();
    while start.elapsed() < options.duration() {
        let begun = Instant::now();
        match next(&mut publisher) {
            Ok(()) => histogram.saturating_record(begun.elapsed().as_nanos() as u64),
            Err(PublishError::WouldBlock) => {
                refused += 1;
                publisher.wait_for_room(1024).expect("the node is open");
            }
            Err(error) => panic!("{error}"),
        }
    }
    let rate = histogram.len() as f64 / start.elapsed().as_secs_f64();
    report.row("closed loop, calls that were accepted", rate, "events/s");
    report.latency("closed loop", &histogram);
    report.rows.iter_mut().filter(|row| row.what == "closed loop P99").for_each(|row| {
        row.goal("< 1 us");
    });
    report.row("closed loop, calls refused because the ring was full", refused as f64, "calls");

    for rate in [10_000.0, 200_000.0] {
        let idle = open_loop(rate, options.duration(), |_| {
            std::hint::black_box(0);
        });
        let mut refused = 0u64;
        let loaded = open_loop(rate, options.duration(), |_| match next(&mut publisher) {
            Ok(()) => {}
            Err(PublishError::WouldBlock) => refused += 1,
            Err(error) => panic!("{error}"),
        });
        let what = format!("open loop {rate:.0}/s");
        report.latency(&what, &loaded);
        let nothing = matchtape_benches::microseconds(&idle, 0.999);
        for row in report.rows.iter_mut().filter(|row| row.what == format!("{what} P99.9")) {
            row.beside("the same loop doing nothing", nothing).goal("<= that + 5 us");
        }
        report.row(format!("{what}, calls refused because the ring was full"), refused as f64, "calls");
    }
    let watermarks = node.watermarks();
    node.wait(watermarks.accepted, Stage::Durable).expect("a disk that syncs");
    drop(publisher);
    node.close().expect("a node that closes");
    report.print(options.format);
}
