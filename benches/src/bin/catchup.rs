//! Catching up: how fast a reader from the beginning of a long tape comes to its live end, while the tape goes on.
//!
//!     cargo run --release -p matchtape-benches --bin catchup -- --events 20000000
//!
//! Real-time subscriptions in the node's process and from its files alone (as another process has them); every event is
//! looked at, its position and kind checked. The producer goes on at 50 000 events/s meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use matchtape_benches::{Options, Report, node, tape};
use matchtape_bus::{BusConfig, WakeUp};
use matchtape_node::{FollowedHistory, Node, Publisher};
use matchtape_schemas::{Kind, ProducerId, Sequence, Stage};
use matchtape_storage::{ReadOnlyOptions, ReadOnlyStore, RealDisk};
use matchtape_subscription::{History, RealTime, RealTimeOptions, Start, Subscription, Update};

#[derive(Parser)]
struct CatchUpOptions {
    #[command(flatten)]
    common: Options,
    /// How long the tape is.
    #[arg(long, default_value_t = 20_000_000)]
    events: u64,
}

/// Events a second while readers catch up.
const RATE: u32 = 50_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let CatchUpOptions { common: options, events } = CatchUpOptions::parse();
    let folder = options.folder();
    let mut report = Report::new("catchup", folder.path());
    report.guarantee(
        "events of 128 bytes, in tables and memory; readers check every position; the tape goes on meanwhile",
    );
    let settings = node::options(folder.path(), BusConfig::default());
    let directory = folder.path().join("tape");
    let node = Node::open(&directory, settings, Vec::new())?;
    let mut publisher = node.publisher(ProducerId(1))?;
    let mut last = Sequence::ZERO;
    for first in (1..=events).step_by(256) {
        let group: Vec<_> = (first..first + 256).map(|number| tape::order(number, 16)).collect();
        last = put_group(&mut publisher, &group);
    }
    node.wait(last, Stage::Visible)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (node, stop) = (&node, &stop);
        let producing = scope.spawn(move || {
            let (begun, mut published) = (Instant::now(), 0);
            while !stop.load(Ordering::Relaxed) {
                let due = (begun.elapsed().as_secs_f64() * f64::from(RATE)) as u64;
                while published < due {
                    published += 1;
                    node::publish(&mut publisher, &tape::order(events + 255 + published, 16));
                }
                std::thread::park_timeout(Duration::from_micros(500));
            }
        });
        let result = read_all(node, &directory, &mut report);
        stop.store(true, Ordering::Relaxed);
        producing.join().map_err(|_| "the producer panicked")?;
        result
    })?;
    report.print(options.format);
    Ok(node.close()?)
}

fn put_group(publisher: &mut Publisher, group: &[matchtape_schemas::Event]) -> Sequence {
    loop {
        match publisher.publish_group(group) {
            Ok(published) => return published.sequence(),
            Err(matchtape_node::PublishError::WouldBlock) => {
                publisher.wait_for_room(group.len()).expect("the node is open");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn read_all(
    node: &Node,
    directory: &std::path::Path,
    report: &mut Report,
) -> Result<(), Box<dyn std::error::Error>> {
    let store = ReadOnlyStore::open(Arc::new(RealDisk::open(directory)?), ReadOnlyOptions::default())?;
    for round in ["first", "second"] {
        let (rate, seconds) = catch_up(node, node.history())?;
        report.row(format!("in the node's process, {round} time"), rate, "events/s").goal(">= 10 M/s");
        report.row(format!("in the node's process, {round} time, until live"), seconds, "s");
    }
    let (rate, seconds) = catch_up(node, FollowedHistory::new(store))?;
    report.row("from the files alone", rate, "events/s").goal(">= 10 M/s");
    report.row("from the files alone, until live", seconds, "s");
    Ok(())
}

/// Events a second until live, and how long that took.
fn catch_up(node: &Node, history: impl History) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    let options = RealTimeOptions { start: Start::Beginning, ..RealTimeOptions::default() };
    let begun = Instant::now();
    let mut reader = RealTime::open(history, node::live(node, WakeUp::Event), options)?;
    let (mut next, mut orders) = (Sequence::FIRST, 0_u64);
    loop {
        match reader.next(Duration::from_secs(60))?.ok_or("nothing for a minute")? {
            Update::Events(events) => {
                assert_eq!(events.first(), next, "no gap and no duplicate");
                for event in events.iter() {
                    assert_eq!(event.sequence(), next);
                    orders += u64::from(event.kind() == Kind::OrderAccepted);
                    next = next.next();
                }
            }
            Update::LiveJoined { .. } => break,
            _ => {}
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(orders, next.get() - 2, "all but the start of the term are orders");
    Ok((orders as f64 / seconds, seconds))
}
