//! From the matching engine to a subscriber's handler, through the whole node: speculative (publish to handler) and live
//! (durable to handler); one event at a time, and as many as come.
//!
//!     cargo run --release -p matchtape-benches --bin live -- --seconds 5
//!
//! Latency is taken by one thread that publishes and then polls for its event, so that on a machine with two cores it and
//! the one node thread on the event's way that polls have one each; the rate with a subscriber on a thread of its own.
//! `bus` measures the bus alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use matchtape_benches::{Options, Report, nanoseconds, tape};
use matchtape_bus::{
    BusConfig, BusService, BusSubscriber, Delivery, SubscriberOptions, WakeUp, on_own_thread,
};
use matchtape_node::{BusOptions, Node, NodeOptions, PipelineWait, PublishError, Publisher};
use matchtape_schemas::{ProducerId, Sequence, Stage};

fn wall_clock_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as i64
}

/// What the handler tells the publisher.
struct Handled {
    through: AtomicU64,
    events: AtomicU64,
    gaps: AtomicU64,
    stop: AtomicBool,
}

impl Handled {
    fn wait_for(&self, sequence: Sequence) {
        // Acquire: pairs with the Release in the handler.
        while self.through.load(Ordering::Acquire) < sequence.get() {
            std::hint::spin_loop();
        }
    }
}

fn publish(publisher: &mut Publisher, number: u64) -> Sequence {
    loop {
        match publisher.publish(&tape::order(number, 16)) {
            Ok(published) => return published.sequence(),
            Err(PublishError::WouldBlock) => publisher.wait_for_room(64).expect("the node is open"),
            Err(error) => panic!("{error}"),
        }
    }
}

fn main() {
    let options = Options::parse();
    let folder = options.folder();
    let mut report = Report::new("live", folder.path());
    report.guarantee("events of 128 bytes; live: only what is synced to the device; speculative: accepted, may be retracted");
    report.guarantee("the subscriber checks every frame: checksum, every event, continuity");
    for service in [BusService::Speculative, BusService::Live] {
        latency(service, &options, &mut report, folder.path());
        rate(service, &options, &mut report, folder.path());
    }
    report.print(options.format);
}

fn node(
    folder: &std::path::Path,
    name: &str,
    wake_up: WakeUp,
    speculative: bool,
    wait: PipelineWait,
) -> Node {
    let bus = BusOptions {
        namespace: "bench".into(),
        root: Some(folder.join("bus")),
        config: BusConfig { wake_up, ..BusConfig::default() },
        speculative,
        core: None,
    };
    let options = NodeOptions { bus: Some(bus), wait, ..NodeOptions::default() };
    Node::open(&folder.join(name), options, Vec::new()).expect("a fresh node")
}

/// Lets this thread, and those it starts from now on, run on these cores only.
fn bind_to(cores: std::ops::Range<usize>) {
    let mut set = rustix::thread::CpuSet::new();
    cores.for_each(|core| set.set(core));
    rustix::thread::sched_setaffinity(None, &set).expect("the cores are there");
}

/// One event at a time, busy polling where the event passes.
fn latency(service: BusService, options: &Options, report: &mut Report, folder: &std::path::Path) {
    let name = format!("latency-{}", service.as_str());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // The log's thread sends, and goes on with what comes after a commit: on the handler's core that would hold it up.
    let apart = service == BusService::Live && cores > 1;
    if apart {
        bind_to(1..cores);
        report.guarantee("live: the handler has core 0 to itself, the node's threads have the others");
    }
    let node = match service {
        // The pipeline sends accepted events itself.
        BusService::Speculative => node(folder, &name, WakeUp::Event, true, PipelineWait::Spin),
        // The live publisher follows what is visible.
        BusService::Live => node(folder, &name, WakeUp::BusyPoll, false, PipelineWait::default()),
    };
    if apart {
        bind_to(0..1);
    }
    let settings = SubscriberOptions {
        wake_up: WakeUp::BusyPoll,
        next: Some(Sequence::FIRST),
        ..SubscriberOptions::default()
    };
    let bus = node.bus_name().expect("a node with a bus");
    let mut subscriber = BusSubscriber::open(bus, service, &settings).expect("a bus to subscribe to");
    let mut publisher = node.publisher(ProducerId(1)).expect("the only handle");
    let (mut number, stages, mut one_way) = (0, node.latency(), nanoseconds());
    let start = Instant::now();
    while start.elapsed() < options.duration() {
        number += 1;
        let begun = wall_clock_ns();
        let sequence = publish(&mut publisher, number);
        let at_ns = loop {
            if let Some(Delivery::Frame(frame)) = subscriber.poll().expect("a bus that works")
                && frame.frame().last_sequence() >= sequence
            {
                for event in frame.frame().events() {
                    std::hint::black_box(event.header());
                }
                break wall_clock_ns();
            }
            std::hint::spin_loop();
        };
        let since = match service {
            BusService::Speculative => begun,
            BusService::Live => stages.durable_at().get(),
        };
        one_way.saturating_record((at_ns - since).max(1) as u64);
    }
    let what = match service {
        BusService::Speculative => "speculative: publish to handler",
        BusService::Live => "live: durable to handler",
    };
    report.latency(what, &one_way);
    for row in report.rows.iter_mut().filter(|row| row.what == format!("{what} P99")) {
        row.goal("< 1 us");
    }
    drop((publisher, subscriber));
    node.close().expect("a node that closes");
    bind_to(0..cores);
}

/// As many events as one producer publishes, with a subscriber that is woken.
fn rate(service: BusService, options: &Options, report: &mut Report, folder: &std::path::Path) {
    let label = service.as_str();
    let node = node(folder, &format!("rate-{label}"), WakeUp::Event, true, PipelineWait::default());
    let handled = Arc::new(Handled {
        through: AtomicU64::new(0),
        events: AtomicU64::new(0),
        gaps: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let (name, seen) = (node.bus_name().expect("a node with a bus").clone(), Arc::clone(&handled));
    let settings = SubscriberOptions { next: Some(Sequence::FIRST), ..SubscriberOptions::default() };
    let handler = on_own_thread(
        "handler",
        None,
        move || BusSubscriber::open(&name, service, &settings),
        move |mut subscriber| {
            while !seen.stop.load(Ordering::Relaxed) {
                match subscriber.poll().expect("a bus that works") {
                    Some(Delivery::Frame(frame)) => {
                        let mut events = 0;
                        for event in frame.frame().events() {
                            std::hint::black_box(event.header());
                            events += 1;
                        }
                        seen.events.fetch_add(events, Ordering::Relaxed);
                        // Release: pairs with the Acquire in `Handled::wait_for`.
                        seen.through.store(frame.frame().last_sequence().get(), Ordering::Release);
                    }
                    Some(Delivery::Gap { expected, found }) => {
                        seen.gaps.fetch_add(found.get() - expected.get(), Ordering::Relaxed);
                    }
                    Some(_) => {}
                    None => {
                        subscriber.wait(Duration::from_millis(10)).expect("a bus that works");
                    }
                }
            }
        },
    )
    .expect("a bus to subscribe to");
    let mut publisher = node.publisher(ProducerId(1)).expect("the only handle");
    let mut number = 0;
    let (before, begun) = (handled.events.load(Ordering::Relaxed), Instant::now());
    let mut last = Sequence::ZERO;
    while begun.elapsed() < options.duration() {
        number += 1;
        last = publish(&mut publisher, number);
    }
    node.wait(last, Stage::Visible).expect("a disk that syncs");
    handled.wait_for(last);
    let seconds = begun.elapsed().as_secs_f64();
    let (events, gaps) =
        (handled.events.load(Ordering::Relaxed) - before, handled.gaps.load(Ordering::Relaxed));
    report.row(format!("{label}: as many as one producer publishes"), events as f64 / seconds, "events/s");
    report.row(
        format!("{label}: events overwritten before they were read (a subscription reads them from the log)"),
        gaps as f64,
        "events",
    );
    handled.stop.store(true, Ordering::Relaxed);
    handler.join().expect("the handler");
    drop(publisher);
    node.close().expect("a node that closes");
}
