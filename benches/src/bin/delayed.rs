//! The delayed tier's jitter: from the edge of a window of event time to the handler that is given the window.
//!
//!     cargo run --release -p matchtape-benches --bin delayed -- --seconds 20
//!
//! A window closes with the first event beyond its edge, so with events every 50 us that is the floor; behind it come the
//! sync, the bus and the reader's wake-up. On an idle tape the node says that time has passed 120 ms after the last event
//! (a window, and 20 ms for events under way), wherever in its window that lies: 20 to 120 ms after the edge. The second
//! part measures both, from the edge and from when that rule lets the window close, over all places in a window.

use std::time::{Duration, Instant};

use clap::Parser;
use matchtape_benches::{Options, Report, nanoseconds, node, tape};
use matchtape_bus::{BusConfig, WakeUp};
use matchtape_node::{Node, NodeOptions};
use matchtape_schemas::ProducerId;
use matchtape_subscription::{Delayed, DelayedOptions, Start, Subscription, Update, WindowStart};

/// Events a second while windows are closed by them.
const RATE: u32 = 20_000;
/// How long after the last event an idle node says that time has passed.
const IDLE_RULE: Duration = Duration::from_millis(120);
/// Between the events of an idle tape: each lies 7 ms later in its window than the one before.
const IDLE_PAUSE: Duration = Duration::from_millis(407);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let folder = options.folder();
    let mut report = Report::new("delayed", folder.path());
    report
        .guarantee("windows of 100 ms of event time; only visible (synced) events; a reader woken by events");
    for (name, busy) in [("busy", true), ("idle", false)] {
        let settings = NodeOptions {
            time_advanced_after: Some(Duration::from_millis(10)),
            ..node::options(folder.path(), BusConfig::default())
        };
        let node = Node::open(&folder.path().join(name), settings, Vec::new())?;
        let [jitter, late] = measure(&node, options.duration(), busy)?;
        let what = if busy {
            format!("window edge to handler, {RATE} events/s")
        } else {
            "window edge to handler, an event every 407 ms, closed by the node's clock".into()
        };
        report.row(format!("{what}: windows"), jitter.len() as f64, "windows");
        report.latency(&what, &jitter);
        if !busy {
            report.latency("of that, after the clock's rule lets it close", &late);
        }
        node.close()?;
    }
    report.print(options.format);
    Ok(())
}

fn measure(
    node: &Node,
    duration: Duration,
    busy: bool,
) -> Result<[hdrhistogram::Histogram<u64>; 2], Box<dyn std::error::Error>> {
    let start = WindowStart::From(Start::Beginning);
    let options = DelayedOptions { start, ..DelayedOptions::default() };
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let history = node.history();
            let live = node::live(node, WakeUp::Event);
            let mut reader = Delayed::live(history, live, &options).map_err(|error| error.to_string())?;
            let (mut jitter, mut late, begun) = (nanoseconds(), nanoseconds(), Instant::now());
            while begun.elapsed() < duration {
                let update = reader.next(Duration::from_millis(100)).map_err(|error| error.to_string())?;
                if let Some(Update::Window(batch)) = update
                    // What was closed only because an idle tape went on long after is not jitter.
                    && (busy || !batch.is_empty())
                    && batch.start().get() > 0
                {
                    let now = node::now().get();
                    jitter.saturating_record((now - batch.end().get()).max(1) as u64);
                    if let Some(last) = batch.events().last() {
                        let due = last.event_time().get() + IDLE_RULE.as_nanos() as i64;
                        late.saturating_record((now - due).max(1) as u64);
                    }
                }
            }
            Ok::<_, String>([jitter, late])
        });
        let mut publisher = node.publisher(ProducerId(1))?;
        let (begun, mut number) = (Instant::now(), 0);
        let pause = if busy { Duration::from_secs(1) / RATE } else { IDLE_PAUSE };
        while begun.elapsed() < duration {
            let due = begun + pause * number;
            match due.checked_duration_since(Instant::now()) {
                // Coarse sleeps: with many events a second they come a few at a time, as from a network.
                Some(early) if early > Duration::from_micros(20) => {
                    std::thread::park_timeout(early.min(Duration::from_millis(50)));
                }
                _ => {
                    number += 1;
                    let mut event = tape::order(u64::from(number), 16);
                    event.event_time = node::now();
                    node::publish(&mut publisher, &event);
                }
            }
        }
        Ok(reading.join().map_err(|_| "the reader panicked")??)
    })
}
