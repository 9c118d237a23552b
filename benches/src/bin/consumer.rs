//! Durable consumers inside the node's process: events delivered and acknowledged per second, and how soon a member that
//! waits has what was published: beside the same without a consumer, and beside the device's own sync.
//!
//!     cargo run --release -p matchtape-benches --bin consumer -- --seconds 5

use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use matchtape_benches::{Options, Report, device, microseconds, nanoseconds, tape};
use matchtape_node::consumers::{AckPolicy, ConsumerHandle, Definition, Item};
use matchtape_node::{Node, NodeOptions, PublishError, Publisher};
use matchtape_schemas::{ProducerId, Sequence, Stage};

const INSTRUMENTS: u32 = 100;
/// Events of one call.
const BATCH: usize = 500;
/// In turn, so that what else the machine does meets all alike.
const ROUNDS: u32 = 5;
const WAIT: Duration = Duration::from_secs(10);

#[derive(clap::Parser)]
struct ConsumerOptions {
    #[command(flatten)]
    common: Options,
    /// Events on the tape that consumers go through.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
}

fn main() {
    let ConsumerOptions { common: options, events } = ConsumerOptions::parse();
    let folder = options.folder();
    let mut report = Report::new("consumer", folder.path());
    report.guarantee(
        "events of 128 bytes, durable before they are delivered; at least once; positions recorded every 100 ms",
    );
    report.guarantee(format!("at most {BATCH} events per call, 2000 unacknowledged"));
    let node =
        Node::open(&folder.path().join("tape"), NodeOptions::default(), Vec::new()).expect("a fresh node");
    let mut publisher = node.publisher(ProducerId(1)).expect("the only handle");
    let last = fill(&node, &mut publisher, events);

    let consumers = node.consumers();
    for (ack, members, what) in [
        (AckPolicy::None, 1, "delivered, ack policy none"),
        (AckPolicy::All, 1, "delivered and acknowledged, ack policy all"),
        (AckPolicy::Explicit, 1, "delivered and acknowledged, ack policy explicit"),
        (AckPolicy::Explicit, 2, "the same, two members in turn"),
    ] {
        let (mut count, mut spent, mut round) = (0u64, Duration::ZERO, 0);
        while spent < options.duration() {
            round += 1;
            let name = format!("{}-{members}-{round}", ack.name()).parse().expect("a name");
            let definition =
                Definition { ack, members_max: members, max_ack_pending: 2000, ..Definition::default() };
            consumers.add(&name, definition).expect("made");
            let attach = |member: u16| {
                consumers.attach(&name, &format!("m{member}").parse().expect("a name")).expect("attached")
            };
            let handles: Vec<ConsumerHandle> = (0..members).map(attach).collect();
            let begun = Instant::now();
            count += go_through(&handles, ack, last);
            spent += begun.elapsed();
            drop(handles);
            consumers.delete(&name).expect("deleted");
        }
        let row = report.row(what, count as f64 / spent.as_secs_f64(), "events/s");
        row.goal(">= 1 M/s");
    }

    let name = "live".parse().expect("a name");
    let deliver = matchtape_node::consumers::DeliverPolicy::New;
    consumers.add(&name, Definition { deliver, ..Definition::default() }).expect("made");
    let handle = consumers.attach(&name, &"m".parse().expect("a name")).expect("attached");
    let mut writes = device::SyncedWrites::create(folder.path(), 4096);
    let (mut device, mut visible, mut delivered) = (nanoseconds(), nanoseconds(), nanoseconds());
    let mut stage = NodeStage::new(&node);
    let (mut number, share) = (events, options.duration() / ROUNDS);
    for _ in 0..ROUNDS {
        closed_loop(share, &mut device, || writes.write());
        let mut publish = || {
            number += 1;
            publisher.publish(&tape::order(number, INSTRUMENTS)).expect("an idle ring has room").sequence()
        };
        closed_loop(share, &mut visible, || {
            node.wait(publish(), Stage::Visible).expect("the node is open");
        });
        // What came meanwhile is not to be delivered to this one.
        while handle.next(Duration::ZERO).expect("an undamaged tape").is_some_and(|item| {
            acknowledge(&handle, AckPolicy::All, &[item]);
            true
        }) {}
        stage.begin();
        closed_loop(share, &mut delivered, || {
            publish();
            let items = handle.fetch(BATCH, WAIT).expect("an undamaged tape");
            acknowledge(&handle, AckPolicy::All, &items);
        });
        stage.end();
    }
    for (quantile_name, quantile) in [("P50", 0.5), ("P99", 0.99), ("P99.9", 0.999)] {
        let at = |histogram| microseconds(histogram, quantile);
        report
            .row(format!("one after the other: publish to delivery {quantile_name}"), at(&delivered), "us")
            .beside("publish to visible, nobody consumes", at(&visible));
        report
            .row(format!("of that, framed to visible {quantile_name}"), at(&stage.total), "us")
            .beside("pwrite 4 KiB + fdatasync", at(&device));
    }
    drop((handle, publisher));
    node.close().expect("closed");
    report.print(options.format);
}

/// Calls `operation` again and again for a while, and records how long each took.
fn closed_loop(duration: Duration, histogram: &mut Histogram<u64>, mut operation: impl FnMut()) {
    let begun = Instant::now();
    while begun.elapsed() < duration {
        let started = Instant::now();
        operation();
        histogram.saturating_record(started.elapsed().as_nanos() as u64);
    }
}

/// What a node itself says of how long its events take to be visible, in parts of its life.
struct NodeStage<'a> {
    node: &'a Node,
    before: Histogram<u64>,
    total: Histogram<u64>,
}

impl<'a> NodeStage<'a> {
    fn new(node: &'a Node) -> Self {
        Self { node, before: nanoseconds(), total: nanoseconds() }
    }

    fn now(&self) -> Histogram<u64> {
        self.node.latency().histogram(Stage::Visible).expect("it is recorded")
    }

    fn begin(&mut self) {
        self.before = self.now();
    }

    fn end(&mut self) {
        let mut part = self.now();
        part -= &self.before;
        self.total += part;
    }
}

fn fill(node: &Node, publisher: &mut Publisher, events: u64) -> Sequence {
    let mut last = Sequence::ZERO;
    for number in 1..=events {
        loop {
            match publisher.publish(&tape::order(number, INSTRUMENTS)) {
                Ok(published) => break last = published.sequence(),
                Err(PublishError::WouldBlock) => publisher.wait_for_room(1024).expect("the node is open"),
                Err(error) => panic!("{error}"),
            }
        }
    }
    node.wait(last, Stage::Visible).expect("the node is open");
    last
}

fn go_through(handles: &[ConsumerHandle], ack: AckPolicy, last: Sequence) -> u64 {
    let mut count = 0;
    for handle in handles.iter().cycle() {
        let items = handle.fetch(BATCH, WAIT).expect("an undamaged tape");
        count += items.len() as u64;
        acknowledge(handle, ack, &items);
        if count == last.get() {
            return count;
        }
    }
    unreachable!("there is a handle")
}

fn acknowledge(handle: &ConsumerHandle, ack: AckPolicy, items: &[Item]) {
    let delivered = |item: &Item| item.delivery().map(|delivery| delivery.sequence());
    match ack {
        AckPolicy::None => {}
        AckPolicy::All => {
            let last = items.last().and_then(delivered).expect("only events come");
            handle.ack(last).expect("it was delivered");
        }
        AckPolicy::Explicit => {
            let all: Vec<Sequence> = items.iter().filter_map(delivered).collect();
            handle.ack_each(&all).expect("they were delivered");
        }
    }
}
