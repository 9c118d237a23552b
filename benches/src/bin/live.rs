//! From the matching engine to a subscriber's handler, through the whole node: speculative (publish to handler) and live
//! (durable to handler), each beside one sample of bare iceoryx2 between the same cores in the same manner; then as many as
//! come.
//!
//!     cargo run --release -p matchtape-benches --bin live -- --seconds 5
//!
//! The handler has core 0 to itself, the node's threads have the others; the engine that publishes speculatively runs there
//! too. On a machine with two cores engine and log share one, where an exchange gives each its own: with events one after the
//! other the log is always at work there, and shows in the tail; with an event when the log has done with the one before,
//! every event finds cold caches. Live events are published by the handler's thread, which is never busy with both.
//! `bus` measures the bus alone.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use hdrhistogram::Histogram;
use iceoryx2::prelude::ipc;
use matchtape_benches::frames::{
    Bare, BareSizes, BareSubscriber, Frames, TAPE, bare, send_bare, sum_words, unit_bytes,
};
use matchtape_benches::{Options, Report, microseconds, nanoseconds, tape};
use matchtape_bus::{
    BusConfig, BusName, BusService, BusSubscriber, Delivery, SubscriberOptions, WakeUp, on_own_thread,
};
use matchtape_node::{BusOptions, Node, NodeOptions, PipelineWait, PublishError, Publisher};
use matchtape_schemas::{Event, ProducerId, Sequence, Stage};

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

fn publish(publisher: &mut Publisher, event: &Event) -> Sequence {
    loop {
        match publisher.publish(event) {
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
    report.guarantee(format!(
        "one way: {ROUNDS} rounds, in each bare and ours in turn, so that both meet the machine's cores near and far from each other; the \
         first {WARMING} of a round are not counted"
    ));
    for pace in [Pace::OneAfterTheOther, Pace::WhenAllRest] {
        speculative(pace, &options, folder.path(), &mut report);
    }
    live(&options, folder.path(), &mut report);
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

impl Pace {
    fn words(self) -> &'static str {
        match self {
            Self::OneAfterTheOther => "one after the other",
            Self::WhenAllRest => "each when all rest",
        }
    }
}

const ROUNDS: u32 = 20;

/// The first of a round are not counted: before them something else ran.
const WARMING: u64 = 5;

/// How long that takes after the event is durable: longer than the log looks for work.
const LOG_RESTS: Duration = Duration::from_micros(100);

fn spin_for(duration: Duration) {
    let start = Instant::now();
    while start.elapsed() < duration {
        std::hint::spin_loop();
    }
}

/// What `start` starts has all cores but the first, where the calling thread is from then on.
fn apart<T>(start: impl FnOnce() -> T) -> T {
    let cores = cores();
    if cores > 1 {
        bind_to(1..cores);
    }
    let started = start();
    if cores > 1 {
        bind_to(0..1);
    }
    started
}

/// The machine's, as found before any thread was bound.
fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// A thread that sends what it is asked for, number by number, on the cores of the node; between rounds it sleeps.
struct Sender {
    shared: Arc<Asked>,
    thread: std::thread::JoinHandle<()>,
    number: u64,
}

#[derive(Default)]
struct Asked {
    /// The last number asked for.
    number: AtomicU64,
    begun_at_ns: AtomicI64,
    asleep: AtomicBool,
    over: AtomicBool,
}

impl Sender {
    /// `make` makes on that thread what does the sending, and `prepare` what precedes it and is not counted.
    fn start<S>(make: impl FnOnce() -> S + Send + 'static, mut prepare: impl FnMut() + Send + 'static) -> Self
    where
        S: FnMut(u64),
    {
        let shared = Arc::new(Asked { asleep: AtomicBool::new(true), ..Asked::default() });
        let asked = Arc::clone(&shared);
        let send = move || {
            let (mut send, mut sent) = (make(), 0);
            while !asked.over.load(Ordering::Relaxed) {
                if asked.asleep.load(Ordering::Relaxed) {
                    std::thread::park();
                }
                // Acquire: pairs with the Release in `ask`.
                let number = asked.number.load(Ordering::Acquire);
                if number == sent {
                    std::hint::spin_loop();
                    continue;
                }
                sent = number;
                prepare();
                asked.begun_at_ns.store(wall_clock_ns(), Ordering::Relaxed);
                send(number);
            }
        };
        let thread = apart(|| std::thread::spawn(send));
        Self { shared, thread, number: 0 }
    }

    fn sleeps(&self, sleeps: bool) {
        self.shared.asleep.store(sleeps, Ordering::Relaxed);
        self.thread.thread().unpark();
    }

    fn ask(&mut self) -> u64 {
        self.number += 1;
        self.shared.number.store(self.number, Ordering::Release);
        self.number
    }

    fn begun_at_ns(&self) -> i64 {
        self.shared.begun_at_ns.load(Ordering::Relaxed)
    }

    fn end(self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.sleeps(false);
        self.thread.join().expect("a sender that does not panic");
    }
}

/// Bare iceoryx2 between the same cores, as many bytes.
struct BareLane {
    subscriber: BareSubscriber,
    sender: Sender,
    // Dropped last to first made.
    _service: (Bare, iceoryx2::node::Node<ipc::Service>),
    _place: tempfile::TempDir,
}

/// What bare iceoryx2 has beside itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// A thread on the sender's cores makes a block durable whenever something was sent, which is the least that any log does.
    Log,
    /// The sender has just done that itself, as the log's thread has.
    SyncBefore,
}

/// Makes a block durable.
fn sync_block(file: &std::fs::File) {
    file.write_all_at(&[7; 4096], 0).expect("a disk that writes");
    file.sync_data().expect("a disk that syncs");
}

/// Makes blocks durable as long as somebody may ask it to.
fn log(file: std::fs::File) -> impl FnMut() {
    let wanted = Arc::new(AtomicBool::new(false));
    let asked = Arc::downgrade(&wanted);
    let log = std::thread::spawn(move || {
        while let Some(wanted) = asked.upgrade() {
            if wanted.swap(false, Ordering::Acquire) {
                sync_block(&file);
            } else {
                drop(wanted);
                std::thread::park_timeout(Duration::from_millis(100));
            }
        }
    });
    move || {
        // A system call only where it may sleep.
        if !wanted.swap(true, Ordering::Release) {
            log.thread().unpark();
        }
    }
}

impl BareLane {
    fn open(beside: Beside, folder: &std::path::Path) -> Self {
        let place = tempfile::tempdir_in(folder).expect("a folder");
        let name = BusName::with_root("bench", TAPE, place.path()).expect("a name");
        let sizes = BareSizes { subscribers: 8, buffer: 64, history: 0 };
        let (service, node) = bare(&name, "one-way", sizes).expect("a service");
        let subscriber = service.subscriber_builder().create().expect("one subscriber");
        let file = std::fs::File::create(place.path().join("synced")).expect("a file");
        let before = file.try_clone().expect("the same file");
        let prepare = move || {
            if beside == Beside::SyncBefore {
                sync_block(&before);
            }
        };
        let make = move || {
            let (service, node) = bare(&name, "one-way", sizes).expect("the service is there");
            let publisher =
                service.publisher_builder().initial_max_slice_len(4096).create().expect("one publisher");
            let frame = Frames::new(1).next_frame();
            let mut log = (beside == Beside::Log).then(|| log(file));
            move |_| {
                let _node = &node;
                send_bare(&publisher, &frame).expect("send");
                if let Some(log) = &mut log {
                    log();
                }
            }
        };
        let sender = Sender::start(make, prepare);
        Self { subscriber, sender, _service: (service, node), _place: place }
    }

    fn round(&mut self, pace: Pace, rest: Duration, until: Instant, one_way: &mut Histogram<u64>) {
        self.sender.sleeps(false);
        let counted = self.sender.number + WARMING;
        while Instant::now() < until {
            let number = self.sender.ask();
            let at_ns = loop {
                if let Some(sample) = self.subscriber.receive().expect("a bus that works") {
                    std::hint::black_box(sum_words(unit_bytes(sample.payload())));
                    break wall_clock_ns();
                }
                std::hint::spin_loop();
            };
            if number > counted {
                one_way.saturating_record((at_ns - self.sender.begun_at_ns()).max(1) as u64);
            }
            if pace == Pace::WhenAllRest {
                spin_for(rest);
            }
        }
        self.sender.sleeps(true);
    }

    fn end(self) {
        self.sender.end();
    }
}

/// A node with a subscriber that polls, and the engine's handle. The engine frames its events itself: an event finds the pipeline
/// asleep.
fn polled(
    service: BusService,
    folder: &std::path::Path,
) -> (Node, BusSubscriber, Publisher, tempfile::TempDir) {
    let wait = PipelineWait::Adaptive { spin: Duration::ZERO };
    let data = tempfile::tempdir_in(folder).expect("a folder");
    let speculative = service == BusService::Speculative;
    let node = apart(|| node(data.path(), "tape", WakeUp::BusyPoll, speculative, wait));
    let settings = SubscriberOptions {
        wake_up: WakeUp::BusyPoll,
        next: Some(Sequence::FIRST),
        ..SubscriberOptions::default()
    };
    let bus = node.bus_name().expect("a node with a bus");
    let subscriber = BusSubscriber::open(bus, service, &settings).expect("a bus to subscribe to");
    let publisher = node.publisher(ProducerId(1)).expect("the only handle");
    (node, subscriber, publisher, data)
}

/// Polls until the frame with this event has been looked through; returns when that was.
fn handle(subscriber: &mut BusSubscriber, sequence: Sequence) -> i64 {
    loop {
        if let Some(Delivery::Frame(frame)) = subscriber.poll().expect("a bus that works")
            && frame.frame().last_sequence() >= sequence
        {
            for event in frame.frame().events() {
                std::hint::black_box(event.header());
            }
            return wall_clock_ns();
        }
        std::hint::spin_loop();
    }
}

fn rest(node: &Node, sequence: Sequence) {
    while node.watermarks().durable < sequence {
        std::hint::spin_loop();
    }
    spin_for(LOG_RESTS);
}

/// Publish to handler: the handler asks for an event, the engine's thread publishes it from another core.
fn speculative(pace: Pace, options: &Options, folder: &std::path::Path, report: &mut Report) {
    let (node, mut subscriber, mut publisher, _data) = polled(BusService::Speculative, folder);
    let send = move || {
        let mut event = tape::order(1, 16);
        move |number| {
            publish(&mut publisher, &event);
            event = tape::order(number + 1, 16);
        }
    };
    let mut engine = Sender::start(send, || {});
    let mut bare = [Beside::Nothing, Beside::Log].map(|beside| BareLane::open(beside, folder));
    let (mut ours, mut theirs) = (nanoseconds(), [nanoseconds(), nanoseconds()]);
    for _ in 0..ROUNDS {
        for (bare, theirs) in bare.iter_mut().zip(&mut theirs) {
            // As long as the log takes for a sync, and rests.
            bare.round(pace, LOG_RESTS * 3, Instant::now() + options.duration() / ROUNDS, theirs);
        }
        let until = Instant::now() + options.duration() / ROUNDS;
        engine.sleeps(false);
        let counted = engine.number + WARMING;
        while Instant::now() < until {
            let number = engine.ask();
            // The term's start is the first event.
            let sequence = Sequence(number + 1);
            let at_ns = handle(&mut subscriber, sequence);
            if number > counted {
                ours.saturating_record((at_ns - engine.begun_at_ns()).max(1) as u64);
            }
            if pace == Pace::WhenAllRest {
                rest(&node, sequence);
            }
        }
        engine.sleeps(true);
    }
    engine.end();
    bare.into_iter().for_each(BareLane::end);
    drop(subscriber);
    node.close().expect("a node that closes");
    bind_to(0..cores());
    let what = format!("speculative: publish to handler, {}", pace.words());
    rows(report, &what, &ours, ("bare", &theirs[0]));
    for (name, quantile) in [("P50", 0.5), ("P99", 0.99), ("P99.9", 0.999)] {
        let row = report.row(format!("{what} {name}"), microseconds(&ours, quantile), "us");
        row.beside("bare with a log on its cores", microseconds(&theirs[1], quantile));
    }
}

/// Durable to handler: one thread publishes, each event when all rest, and polls for it.
fn live(options: &Options, folder: &std::path::Path, report: &mut Report) {
    let (node, mut subscriber, mut publisher, _data) = polled(BusService::Live, folder);
    let (mut number, stages, mut bare) = (0, node.latency(), BareLane::open(Beside::SyncBefore, folder));
    let (mut ours, mut theirs) = (nanoseconds(), nanoseconds());
    for _ in 0..ROUNDS {
        let until = Instant::now() + options.duration() / ROUNDS;
        bare.round(Pace::WhenAllRest, LOG_RESTS, until, &mut theirs);
        let until = Instant::now() + options.duration() / ROUNDS;
        let counted = number + WARMING;
        while Instant::now() < until {
            number += 1;
            let sequence = publish(&mut publisher, &tape::order(number, 16));
            let at_ns = handle(&mut subscriber, sequence);
            if number > counted {
                ours.saturating_record((at_ns - stages.durable_at().get()).max(1) as u64);
            }
            // Durable it is. The watermarks are left alone: who looks there takes their lines from the log's thread.
            spin_for(LOG_RESTS);
        }
    }
    bare.end();
    drop((publisher, subscriber));
    node.close().expect("a node that closes");
    bind_to(0..cores());
    rows(report, "live: durable to handler", &ours, ("bare, sent after a sync", &theirs));
}

fn rows(report: &mut Report, what: &str, ours: &Histogram<u64>, bare: (&str, &Histogram<u64>)) {
    for (quantile_name, quantile) in [("P50", 0.5), ("P99", 0.99), ("P99.9", 0.999), ("max", 1.0)] {
        let row = report.row(format!("{what} {quantile_name}"), microseconds(ours, quantile), "us");
        row.beside(bare.0, microseconds(bare.1, quantile));
        row.goal(if quantile_name == "P99" { "< 1 us, <= 1.3 x" } else { "<= 1.3 x" });
    }
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
        last = publish(&mut publisher, &tape::order(number, 16));
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
