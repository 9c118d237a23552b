//! Until an event is durable: latency of single events, and rates, beside the device's own sync in the same run.
//!
//!     cargo run --release -p matchtape-benches --bin durable -- --seconds 10 --data /some/disk

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use hdrhistogram::Histogram;
use matchtape_benches::{Options, Report, device, microseconds, nanoseconds, open_loop, tape};
use matchtape_node::{Node, NodeOptions, PublishError, Publisher};
use matchtape_schemas::event::Event;
use matchtape_schemas::{ProducerId, Stage};
use matchtape_storage::wal::WriteBackend;

fn open(folder: &Path, backend: WriteBackend) -> Node {
    let mut options = NodeOptions::default();
    options.store.wal.backend = backend;
    Node::open(folder, options, Vec::new()).expect("a fresh node")
}

fn publish(publisher: &mut Publisher, events: &[Event]) -> matchtape_schemas::Sequence {
    loop {
        match publisher.publish_group(events) {
            Ok(published) => return published.sequence(),
            Err(PublishError::WouldBlock) => publisher.wait_for_room(events.len()).expect("the node is open"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Single events come at this rate, the device's own writes likewise: each measured from when it was due.
const SINGLE_PER_SECOND: f64 = 1000.0;
/// In turn, so that what else the machine does meets both alike.
const ROUNDS: u32 = 20;

/// What all rounds gave together, and the P99 of the middle one: a core that the hypervisor takes away for ten milliseconds
/// makes a hundredth of a second's events late, whoever writes them, and a node is on more cores than a loop.
struct Rounds {
    all: Histogram<u64>,
    p99: Vec<u64>,
}

impl Rounds {
    fn new() -> Self {
        Self { all: nanoseconds(), p99: Vec::new() }
    }

    fn add(&mut self, round: Histogram<u64>) {
        self.p99.push(round.value_at_quantile(0.99));
        self.all += round;
    }

    /// In microseconds.
    fn middle_p99(&mut self) -> f64 {
        self.p99.sort_unstable();
        self.p99[self.p99.len() / 2] as f64 / 1000.0
    }
}

/// One producer, one event at a time, each awaited; the device alone, and the node.
fn single(folder: &Path, node: &Node, options: &Options) -> [Rounds; 2] {
    let mut publisher = node.publisher(ProducerId(1)).expect("the only handle");
    let mut writes = device::SyncedWrites::create(folder, 4096);
    let (mut device, mut ours, mut number) = (Rounds::new(), Rounds::new(), 0);
    let share = options.duration() / ROUNDS;
    for _ in 0..ROUNDS {
        device.add(open_loop(SINGLE_PER_SECOND, share, |_| writes.write()));
        ours.add(open_loop(SINGLE_PER_SECOND, share, |_| {
            number += 1;
            let sequence = publish(&mut publisher, &[tape::order(number, 16)]);
            node.wait(sequence, Stage::Durable).expect("a disk that syncs");
        }));
    }
    [device, ours]
}

/// Many producers on threads of their own, each one event at a time, each awaited.
fn threads(node: &Node, producers: u32, options: &Options) -> f64 {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for producer in 0..producers {
            let (stop, done) = (&stop, &done);
            scope.spawn(move || {
                let mut publisher = node.publisher(ProducerId(100 + producer)).expect("the only handle");
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let sequence = publish(&mut publisher, &[tape::order(number, 16)]);
                    node.wait(sequence, Stage::Durable).expect("a disk that syncs");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(options.duration());
        stop.store(true, Ordering::Relaxed);
    });
    done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

/// Many producers as tasks of one thread, each one event at a time, each awaited.
fn tasks(node: &Node, producers: u32, options: &Options) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let start = Instant::now();
    let done: u64 = runtime.block_on(async {
        let producer = |producer: u32| async move {
            let mut publisher = node.publisher(ProducerId(200 + producer)).expect("the only handle");
            let mut number = 0;
            while start.elapsed() < options.duration() {
                number += 1;
                let sequence = publish(&mut publisher, &[tape::order(number, 16)]);
                node.wait_async(sequence, Stage::Durable).await.expect("a disk that syncs");
            }
            number
        };
        futures_util::future::join_all((0..producers).map(producer)).await.into_iter().sum()
    });
    done as f64 / start.elapsed().as_secs_f64()
}

/// Groups of `size`, as fast as the node takes them; the clock stops when the last is durable.
fn groups(node: &Node, size: u64, options: &Options) -> f64 {
    let mut publisher = node.publisher(ProducerId(7)).expect("the only handle");
    let mut events: Vec<Event> = (1..=size).map(|number| tape::order(number, 16)).collect();
    let start = Instant::now();
    let (mut count, mut last) = (0, matchtape_schemas::Sequence::ZERO);
    while start.elapsed() < options.duration() {
        for event in &mut events {
            count += 1;
            event.producer_sequence.0 = count;
        }
        last = publish(&mut publisher, &events);
    }
    node.wait(last, Stage::Durable).expect("a disk that syncs");
    count as f64 / start.elapsed().as_secs_f64()
}

fn main() {
    let options = Options::parse();
    let folder = options.folder();
    let mut report = Report::new("durable", folder.path());
    report.guarantee(
        "events of 128 bytes; durable = synced to the device before it is reported; every batch is synced",
    );
    for (backend, name) in
        [(WriteBackend::Buffered, "buffered + fdatasync"), (WriteBackend::Direct, "O_DIRECT | O_DSYNC")]
    {
        let node = open(&folder.path().join(format!("single-{name}").replace([' ', '|'], "")), backend);
        let [mut device, mut ours] = single(folder.path(), &node, &options);
        let what = format!("{name}: one event, 1 000/s, due to durable");
        let beside = "pwrite 4 KiB + fdatasync, 1 000/s";
        let [p50, p99] =
            [0.5, 0.99].map(|quantile| [&ours, &device].map(|rounds| microseconds(&rounds.all, quantile)));
        let middle = [ours.middle_p99(), device.middle_p99()];
        report.row(format!("{what}, P50"), p50[0], "us").beside(beside, p50[1]);
        report.row(format!("{what}, P99"), p99[0], "us").beside(beside, p99[1]).goal("<= 1.5 x");
        report
            .row(format!("{what}, P99 of the middle of {ROUNDS} rounds"), middle[0], "us")
            .beside(beside, middle[1])
            .goal("<= 1.5 x");
        let syncs =
            device::sync_latency(folder.path(), 4096, options.duration()).len() as f64 / options.seconds;
        let rate = threads(&node, 32, &options);
        report
            .row(format!("{name}: 32 producers on threads, one event each at a time"), rate, "events/s")
            .beside("syncs/s of the device alone", syncs)
            .goal(">= 100 000 events/s");
        let rate = tasks(&node, 32, &options);
        report
            .row(format!("{name}: 32 producers as tasks, one event each at a time"), rate, "events/s")
            .beside("32 for each sync of the device alone", 32.0 * syncs)
            .goal(">= 0.70 x");
        node.close().expect("a node that closes");

        let node = open(&folder.path().join(format!("groups-{name}").replace([' ', '|'], "")), backend);
        let rate = groups(&node, 256, &options);
        let bytes = device::sync_throughput(folder.path(), 1 << 20, options.duration());
        report
            .row(
                format!("{name}: groups of 256, publisher to durable, indexed and readable"),
                rate,
                "events/s",
            )
            .beside("bytes/s of 1 MiB writes, each synced, in events", bytes / tape::EVENT_BYTES as f64)
            .goal(">= 3 000 000");
        node.close().expect("a node that closes");
    }
    report.print(options.format);
}
