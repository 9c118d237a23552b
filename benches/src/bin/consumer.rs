//! Durable consumers inside the node's process: events delivered and acknowledged per second, and how soon a member that
//! waits has what became visible.
//!
//!     cargo run --release -p matchtape-benches --bin consumer -- --seconds 5

use std::time::{Duration, Instant};

use clap::Parser;
use matchtape_benches::{Options, Report, nanoseconds, tape};
use matchtape_node::consumers::{AckPolicy, ConsumerHandle, Definition, Item};
use matchtape_node::{Node, NodeOptions, PublishError, Publisher};
use matchtape_schemas::{ProducerId, Sequence, Stage};

const INSTRUMENTS: u32 = 100;
/// Events of one call.
const BATCH: usize = 500;
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
    let (mut delay, mut number, begun) = (nanoseconds(), events, Instant::now());
    while begun.elapsed() < options.duration() {
        number += 1;
        let started = Instant::now();
        publisher.publish(&tape::order(number, INSTRUMENTS)).expect("an idle ring has room");
        let items = handle.fetch(BATCH, WAIT).expect("an undamaged tape");
        delay.saturating_record(started.elapsed().as_nanos() as u64);
        acknowledge(&handle, AckPolicy::All, &items);
    }
    report.latency("one at a time: publish to delivery, a sync included", &delay);
    drop((handle, publisher));
    node.close().expect("closed");
    report.print(options.format);
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
