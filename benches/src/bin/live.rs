//! From the matching engine to a subscriber's handler, through the whole node: speculative (publish to handler) and live
//! (durable to handler), each beside one sample of bare iceoryx2 between the same cores in the same manner; then as many as
//! come.
//!
//!     cargo run --release -p matchtape-benches --bin live -- --seconds 5
//!
//! Latency is taken by one thread that publishes and then polls for its event: a matching engine and its reader that are
//! never both busy. It has core 0 to itself, the node's threads have the others. On a machine with two cores pipeline and
//! log share one, where an exchange gives each its own: with events one after the other the log is always at work there,
//! and shows in the tail; with an event when the log has done with the one before, every event finds cold caches.
//! `bus` measures the bus alone.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use hdrhistogram::Histogram;
use matchtape_benches::frames::{BareSizes, Frames, TAPE, bare, send_bare, sum_words, unit_bytes};
use matchtape_benches::{Options, Report, microseconds, nanoseconds, tape};
use matchtape_bus::{
    BusConfig, BusName, BusService, BusSubscriber, Delivery, SubscriberOptions, WakeUp, on_own_thread,
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let folder = options.folder();
    let mut report = Report::new("live", folder.path());
    report.guarantee("events of 128 bytes; live: only what is synced to the device; speculative: accepted, may be retracted");
    report.guarantee(
        "the subscriber checks every frame: checksum, every event, continuity; bare: every word is summed",
    );
    report.guarantee("one way: the handler's thread has core 0, all threads of the node have the others");
    let (busy, rest) = (Pace::OneAfterTheOther, Pace::WhenAllRest);
    for (pace, what) in [(busy, "one after the other"), (rest, "each when all rest")] {
        let bare = bare_one_way(pace, false, &options, folder.path())?;
        let ours = latency(BusService::Speculative, pace, &options, folder.path());
        rows(&mut report, &format!("speculative: publish to handler, {what}"), &ours, ("bare", &bare));
    }
    let bare = bare_one_way(rest, true, &options, folder.path())?;
    let ours = latency(BusService::Live, rest, &options, folder.path());
    rows(&mut report, "live: durable to handler", &ours, ("bare, sent after a sync", &bare));
    for service in [BusService::Speculative, BusService::Live] {
        rate(service, &options, &mut report, folder.path());
    }
    report.print(options.format);
    Ok(())
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

/// When the next event comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Once the one before was handled.
    OneAfterTheOther,
    /// Once the log is done with the one before and looks for no more.
    WhenAllRest,
}

/// How long that takes after the event is durable: longer than the log looks for work.
const LOG_RESTS: Duration = Duration::from_micros(100);

fn spin_for(duration: Duration) {
    let start = Instant::now();
    while start.elapsed() < duration {
        std::hint::spin_loop();
    }
}

/// What `start` starts has all cores but the first, where the calling thread is from then on.
fn apart<T>(cores: usize, start: impl FnOnce() -> T) -> T {
    if cores > 1 {
        bind_to(1..cores);
    }
    let started = start();
    if cores > 1 {
        bind_to(0..1);
    }
    started
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// One event at a time: the handler asks for it, the engine's thread publishes it on a core with the node's threads.
fn latency(service: BusService, pace: Pace, options: &Options, folder: &std::path::Path) -> Histogram<u64> {
    let cores = cores();
    let speculative = service == BusService::Speculative;
    // The engine frames its events itself.
    let wait = PipelineWait::Adaptive { spin: Duration::ZERO };
    let data = tempfile::tempdir_in(folder).expect("a folder");
    let node = apart(cores, || node(data.path(), "tape", WakeUp::BusyPoll, speculative, wait));
    let settings = SubscriberOptions {
        wake_up: WakeUp::BusyPoll,
        next: Some(Sequence::FIRST),
        ..SubscriberOptions::default()
    };
    let bus = node.bus_name().expect("a node with a bus");
    let mut subscriber = BusSubscriber::open(bus, service, &settings).expect("a bus to subscribe to");
    let (asked, begun_at_ns) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicI64::new(0)));
    let (ask, stamp) = (Arc::clone(&asked), Arc::clone(&begun_at_ns));
    let mut publisher = node.publisher(ProducerId(1)).expect("the only handle");
    let engine = move || {
        let mut published = 0;
        loop {
            // Acquire: pairs with the Release below.
            match ask.load(Ordering::Acquire) {
                u64::MAX => return,
                asked if asked > published => {
                    published = asked;
                    stamp.store(wall_clock_ns(), Ordering::Relaxed);
                    publish(&mut publisher, published);
                }
                _ => std::hint::spin_loop(),
            }
        }
    };
    let engine = apart(cores, || std::thread::spawn(engine));
    let (mut number, stages, mut one_way) = (0, node.latency(), nanoseconds());
    let start = Instant::now();
    while start.elapsed() < options.duration() {
        number += 1;
        asked.store(number, Ordering::Release);
        let (sequence, at_ns) = loop {
            // The first frame has the term's start too.
            if let Some(Delivery::Frame(frame)) = subscriber.poll().expect("a bus that works")
                && frame.frame().last_sequence() > Sequence(number)
            {
                for event in frame.frame().events() {
                    std::hint::black_box(event.header());
                }
                break (frame.frame().last_sequence(), wall_clock_ns());
            }
            std::hint::spin_loop();
        };
        let since = if speculative { begun_at_ns.load(Ordering::Relaxed) } else { stages.durable_at().get() };
        one_way.saturating_record((at_ns - since).max(1) as u64);
        if pace == Pace::WhenAllRest {
            while node.watermarks().durable < sequence {
                std::hint::spin_loop();
            }
            spin_for(LOG_RESTS);
        }
    }
    asked.store(u64::MAX, Ordering::Release);
    engine.join().expect("the engine");
    drop(subscriber);
    node.close().expect("a node that closes");
    bind_to(0..cores);
    one_way
}

fn rows(report: &mut Report, what: &str, ours: &Histogram<u64>, bare: (&str, &Histogram<u64>)) {
    for (quantile_name, quantile) in [("P50", 0.5), ("P99", 0.99), ("P99.9", 0.999), ("max", 1.0)] {
        let row = report.row(format!("{what} {quantile_name}"), microseconds(ours, quantile), "us");
        row.beside(bare.0, microseconds(bare.1, quantile));
        row.goal(if quantile_name == "P99" { "< 1 us, <= 1.3 x" } else { "<= 1.3 x" });
    }
}

/// One way of bare iceoryx2 between the same cores, as many bytes; `syncs`: by a thread that has just made a block durable,
/// as the log's thread has.
fn bare_one_way(
    pace: Pace,
    syncs: bool,
    options: &Options,
    folder: &std::path::Path,
) -> Result<Histogram<u64>, Box<dyn std::error::Error>> {
    let cores = cores();
    let place = tempfile::tempdir_in(folder)?;
    let name = BusName::with_root("bench", TAPE, place.path())?;
    let file = std::fs::File::create(place.path().join("synced"))?;
    let sizes = BareSizes { subscribers: 8, buffer: 64, history: 0 };
    let (service, _node) = bare(&name, "one-way", sizes)?;
    let subscriber = service.subscriber_builder().create()?;
    let (asked, sent_at_ns) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicI64::new(0)));
    let (ask, stamp) = (Arc::clone(&asked), Arc::clone(&sent_at_ns));
    let send = move || {
        let (service, _node) = bare(&name, "one-way", sizes).expect("the service is there");
        let publisher =
            service.publisher_builder().initial_max_slice_len(4096).create().expect("one publisher");
        let (frame, block) = (Frames::new(1).next_frame(), [7; 4096]);
        let mut sent = 0;
        loop {
            // Acquire: pairs with the Release below.
            match ask.load(Ordering::Acquire) {
                u64::MAX => return,
                asked if asked > sent => {
                    sent = asked;
                    if syncs {
                        file.write_all_at(&block, 0).expect("a disk that writes");
                        file.sync_data().expect("a disk that syncs");
                    }
                    stamp.store(wall_clock_ns(), Ordering::Relaxed);
                    send_bare(&publisher, &frame).expect("send");
                }
                _ => std::hint::spin_loop(),
            }
        }
    };
    let sender = apart(cores, || std::thread::spawn(send));
    let (mut one_way, start, mut number) = (nanoseconds(), Instant::now(), 0);
    while start.elapsed() < options.duration() {
        number += 1;
        asked.store(number, Ordering::Release);
        let at_ns = loop {
            if let Some(sample) = subscriber.receive()? {
                std::hint::black_box(sum_words(unit_bytes(sample.payload())));
                break wall_clock_ns();
            }
            std::hint::spin_loop();
        };
        one_way.saturating_record((at_ns - sent_at_ns.load(Ordering::Relaxed)).max(1) as u64);
        if pace == Pace::WhenAllRest {
            // Without a sync: as long as the log takes for one.
            spin_for(if syncs { LOG_RESTS } else { LOG_RESTS * 3 });
        }
    }
    asked.store(u64::MAX, Ordering::Release);
    sender.join().map_err(|_| "the sender panicked")?;
    bind_to(0..cores);
    Ok(one_way)
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
