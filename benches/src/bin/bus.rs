//! One-way latency and rate of the bus beside bare iceoryx2, in one run, with the same bytes and the same checks by the
//! reader. Bare iceoryx2 neither validates nor knows sequences; the difference is what those cost.
//!
//!     cargo run --release -p matchtape-benches --bin bus -- --rounds 10
//!
//! Writer and reader are bound to cores 0 and 1. A virtual machine's cores may be near or far from each other, and move:
//! the round trip of one cache line stands in the report, and only rows of one run compare.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use matchtape_benches::frames::{BareSizes, Frames, TAPE, at, bare, send_bare, sum_words, unit_bytes};
use matchtape_benches::{Format, Report, microseconds, nanoseconds};
use matchtape_bus::{
    BusConfig, BusError, BusName, BusPublisher, BusService, BusSubscriber, Delivery, SubscriberOptions,
    WakeUp, on_own_thread,
};
use matchtape_schemas::{Head, Watermarks};

const BUFFER: usize = 64;
/// The publisher stays this far ahead at most, so that nothing overflows and every event is checked.
const WINDOW: u64 = BUFFER as u64 - 8;

/// What reader and writer share beside the bus. The writer takes the times apart, so that nothing but the sample itself
/// travels between the cores while the clock runs.
struct Shared {
    start: Instant,
    read_at_ns: AtomicU64,
    frames_read: AtomicU64,
    sum: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn new() -> Arc<Self> {
        let zero = || AtomicU64::new(0);
        Arc::new(Self {
            start: Instant::now(),
            read_at_ns: zero(),
            frames_read: zero(),
            sum: zero(),
            stop: AtomicBool::new(false),
        })
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// One frame was handled.
    fn read(&self, words: u64) {
        self.read_at_ns.store(self.now_ns(), Ordering::Relaxed);
        self.sum.store(self.sum.load(Ordering::Relaxed).wrapping_add(words), Ordering::Relaxed);
        // Release: pairs with Acquire in `wait_for`.
        self.frames_read.fetch_add(1, Ordering::Release);
    }

    fn wait_for(&self, frames: u64) {
        // Acquire: pairs with Release in `read`.
        while self.frames_read.load(Ordering::Acquire) < frames {
            std::hint::spin_loop();
        }
    }

    /// From `sent_at_ns` to when the last frame was handled.
    fn latency_since(&self, sent_at_ns: u64) -> u64 {
        self.read_at_ns.load(Ordering::Relaxed).saturating_sub(sent_at_ns)
    }
}

/// How many frames are sent one at a time, for the latency.
fn paced_frames(rounds: u64) -> u64 {
    20_000 * rounds
}

/// Sends frames one at a time, then as fast as the window allows, and checks that every word arrived.
fn drive(events: u64, rounds: u64, shared: &Shared, mut send: impl FnMut(&[u8], &Head)) -> Measured {
    let mut frames = Frames::new(events);
    let (mut sent, mut expected) = (0_u64, 0_u64);
    let mut latencies = nanoseconds();
    for _ in 0..paced_frames(rounds) {
        let frame = frames.next_frame();
        expected = expected.wrapping_add(sum_words(&frame));
        let sent_at_ns = shared.now_ns();
        send(&frame, &frames.head);
        sent += 1;
        shared.wait_for(sent);
        latencies.saturating_record(shared.latency_since(sent_at_ns));
    }
    let per_round = (4 << 20) / (events * 128 + 96);
    let mut rates = Vec::new();
    for _ in 0..rounds * 4 {
        let batch: Vec<_> = (0..per_round).map(|_| (frames.next_frame(), frames.head)).collect();
        expected = batch.iter().fold(expected, |sum, (frame, _)| sum.wrapping_add(sum_words(frame)));
        let start = Instant::now();
        for (frame, head) in &batch {
            shared.wait_for((sent + 1).saturating_sub(WINDOW));
            send(frame, head);
            sent += 1;
        }
        shared.wait_for(sent);
        rates.push((per_round * events) as f64 / start.elapsed().as_secs_f64());
    }
    shared.stop.store(true, Ordering::Release);
    assert_eq!(shared.sum.load(Ordering::Relaxed), expected, "some word did not arrive as sent");
    rates.sort_by(f64::total_cmp);
    Measured { latencies, rate: rates[rates.len() / 2] }
}

/// What one reader gave.
struct Measured {
    latencies: Histogram<u64>,
    /// Events per second, the median of the rounds.
    rate: f64,
}

fn bus_config() -> BusConfig {
    BusConfig { subscribers_max: 8, subscribers_spare: 0, buffer_samples: BUFFER, ..BusConfig::default() }
}

fn measure_bus(
    name: &BusName,
    events: u64,
    rounds: u64,
    options: SubscriberOptions,
) -> Result<Measured, BusError> {
    let shared = Shared::new();
    let head = Frames::new(events).head;
    let mut publisher = BusPublisher::open(name, BusService::Live, &bus_config(), &head)?;
    let (open_name, reader) = (name.clone(), Arc::clone(&shared));
    let thread = on_own_thread(
        "reader",
        Some(1),
        move || BusSubscriber::open(&open_name, BusService::Live, &options),
        move |mut subscriber| {
            while !reader.stop.load(Ordering::Relaxed) {
                match subscriber.poll().expect("poll") {
                    Some(Delivery::Frame(frame)) => {
                        reader.read(sum_words(frame.bytes()));
                    }
                    Some(Delivery::Heartbeat { .. }) => (),
                    Some(other) => panic!("{other:?}"),
                    None if options.wake_up == WakeUp::Event => {
                        subscriber.wait(Duration::from_millis(10)).expect("wait");
                    }
                    None => std::hint::spin_loop(),
                }
            }
        },
    )?;
    publisher.heartbeat(&Watermarks::default());
    let measured = drive(events, rounds, &shared, |frame, head| {
        publisher.publish(frame, &at(head.last_sequence)).expect("publish");
    });
    thread.join().expect("reader");
    Ok(measured)
}

fn measure_bare(name: &BusName, events: u64, rounds: u64) -> Result<Measured, Box<dyn std::error::Error>> {
    let shared = Shared::new();
    let sizes = BareSizes { subscribers: 8, buffer: BUFFER, history: 0 };
    let place = name.clone();
    let open = move || bare(&place, "bare", sizes);
    let (service, _node) = open()?;
    let publisher = service.publisher_builder().initial_max_slice_len(4096).max_loaned_samples(1).create()?;
    let reader = Arc::clone(&shared);
    let thread = on_own_thread(
        "bare reader",
        Some(1),
        move || {
            let (service, node) = open().map_err(|error| BusError::Internal {
                doing: "opening bare iceoryx2",
                cause: error.to_string(),
            })?;
            Ok((service.subscriber_builder().create().expect("subscriber"), node))
        },
        move |(subscriber, _node)| {
            while !reader.stop.load(Ordering::Relaxed) {
                let Some(sample) = subscriber.receive().expect("receive") else {
                    std::hint::spin_loop();
                    continue;
                };
                reader.read(sum_words(unit_bytes(sample.payload())));
            }
        },
    )?;
    let measured = drive(events, rounds, &shared, |frame, _| {
        send_bare(&publisher, frame).expect("send");
    });
    thread.join().expect("reader");
    Ok(measured)
}

/// Frames of one event to a reader that sleeps before each: when it has it, and what the call that wakes it takes.
struct WakeUps {
    latencies: Histogram<u64>,
    costs: Histogram<u64>,
}

fn drive_sleeper(shared: &Shared, mut send: impl FnMut(&[u8], &Head)) -> WakeUps {
    let mut frames = Frames::new(1);
    let mut found = WakeUps { latencies: nanoseconds(), costs: nanoseconds() };
    for sent in 1..=3_000 {
        std::thread::sleep(Duration::from_micros(200));
        let frame = frames.next_frame();
        let sent_at_ns = shared.now_ns();
        send(&frame, &frames.head);
        found.costs.saturating_record(shared.now_ns() - sent_at_ns);
        shared.wait_for(sent);
        found.latencies.saturating_record(shared.latency_since(sent_at_ns));
    }
    shared.stop.store(true, Ordering::Release);
    found
}

fn bus_wake_ups(name: &BusName) -> Result<WakeUps, BusError> {
    let shared = Shared::new();
    let mut publisher = BusPublisher::open(name, BusService::Live, &bus_config(), &Frames::new(1).head)?;
    let options = SubscriberOptions { spin: Duration::ZERO, ..SubscriberOptions::default() };
    let (open_name, reader) = (name.clone(), Arc::clone(&shared));
    let thread = on_own_thread(
        "sleeper",
        None,
        move || BusSubscriber::open(&open_name, BusService::Live, &options),
        move |mut subscriber| {
            while !reader.stop.load(Ordering::Acquire) {
                if let Some(Delivery::Frame(frame)) = subscriber.poll().expect("poll") {
                    reader.read(sum_words(frame.bytes()));
                } else {
                    subscriber.wait(Duration::from_millis(100)).expect("wait");
                }
            }
        },
    )?;
    publisher.heartbeat(&Watermarks::default());
    let found = drive_sleeper(&shared, |frame, head| {
        publisher.publish(frame, &at(head.last_sequence)).expect("publish");
    });
    thread.join().expect("sleeper");
    Ok(found)
}

/// The same with what iceoryx2 has for it: a sample, and then a notification of an event service.
fn bare_wake_ups(name: &BusName) -> Result<WakeUps, Box<dyn std::error::Error>> {
    let shared = Shared::new();
    let sizes = BareSizes { subscribers: 8, buffer: BUFFER, history: 0 };
    let place = name.clone();
    let open = move || -> Result<_, Box<dyn std::error::Error>> {
        let (samples, node) = bare(&place, "bare-woken", sizes)?;
        let events = node.service_builder(&"bare-woken".try_into()?).event().open_or_create()?;
        Ok((samples, events, node))
    };
    let (samples, events, _node) = open()?;
    let publisher = samples.publisher_builder().initial_max_slice_len(4096).max_loaned_samples(1).create()?;
    let notifier = events.notifier_builder().create()?;
    let reader = Arc::clone(&shared);
    let thread = on_own_thread(
        "bare sleeper",
        None,
        move || {
            let (samples, events, node) = open().map_err(|error| BusError::Internal {
                doing: "opening bare iceoryx2",
                cause: error.to_string(),
            })?;
            let subscriber = samples.subscriber_builder().create().expect("subscriber");
            Ok((subscriber, events.listener_builder().create().expect("listener"), node))
        },
        move |(subscriber, listener, _node)| {
            while !reader.stop.load(Ordering::Acquire) {
                if let Some(sample) = subscriber.receive().expect("receive") {
                    reader.read(sum_words(unit_bytes(sample.payload())));
                } else {
                    listener.timed_wait(|_| (), Duration::from_millis(100)).expect("wait");
                }
            }
        },
    )?;
    let found = drive_sleeper(&shared, |frame, _| {
        send_bare(&publisher, frame).expect("send");
        notifier.notify().expect("notify");
    });
    thread.join().expect("sleeper");
    Ok(found)
}

fn measure_wake_ups(name: &BusName, report: &mut Report) -> Result<(), Box<dyn std::error::Error>> {
    let (bare, ours) = (bare_wake_ups(name)?, bus_wake_ups(name)?);
    for (what, ours, bare) in [
        ("publish to handler", &ours.latencies, &bare.latencies),
        ("publish() itself, which wakes it", &ours.costs, &bare.costs),
    ] {
        for (quantile_name, quantile) in [("P50", 0.5), ("P99", 0.99), ("P99.9", 0.999)] {
            report
                .row(
                    format!("sleeping subscriber, {what} {quantile_name}"),
                    microseconds(ours, quantile),
                    "us",
                )
                .beside("bare iceoryx2, a sample and a notification", microseconds(bare, quantile));
        }
    }
    Ok(())
}

/// What one cache line costs to go to the other core and back. Virtual machines move between neighbouring and distant
/// cores, which changes everything below by a factor: compare only rows of the same weather.
fn core_round_trip_ns() -> Result<u64, BusError> {
    const TRIPS: u64 = 200_000;
    let shared = Shared::new();
    let other = Arc::clone(&shared);
    let echo = on_own_thread(
        "echo",
        Some(1),
        || Ok(()),
        move |()| {
            for trip in 1..=TRIPS {
                while other.sum.load(Ordering::Acquire) < trip {
                    std::hint::spin_loop();
                }
                // Release: pairs with Acquire in `wait_for`.
                other.frames_read.store(trip, Ordering::Release);
            }
        },
    )?;
    let start = Instant::now();
    for trip in 1..=TRIPS {
        shared.sum.store(trip, Ordering::Release);
        shared.wait_for(trip);
    }
    echo.join().expect("echo");
    Ok(start.elapsed().as_nanos() as u64 / TRIPS)
}

#[derive(Parser, Clone)]
struct BusOptions {
    /// How results are printed.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// How often each measurement is repeated.
    #[arg(long, default_value_t = 10)]
    rounds: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = BusOptions::parse();
    let format = options.format;
    let root = tempfile::tempdir()?;
    // Before the writer is bound: it counts the cores it may run on.
    let report = Report::new("bus", root.path());
    let writer = on_own_thread(
        "writer",
        Some(0),
        || Ok(()),
        move |()| run(options.rounds, root.path(), report).map_err(|error| error.to_string()),
    )?;
    writer.join().expect("writer")?.print(format);
    Ok(())
}

fn run(
    rounds: u64,
    root: &std::path::Path,
    mut report: Report,
) -> Result<Report, Box<dyn std::error::Error>> {
    let name = BusName::with_root("bench", TAPE, root)?;
    report.guarantee("events of 128 bytes; the reader sums every 8-byte word and the sum is compared");
    report.guarantee(
        "bus: every frame checked (checksum, every event, continuity) by its reader; bare: nothing",
    );
    report.row("core to core and back, one cache line", core_round_trip_ns()? as f64 / 1e3, "us");
    for events in [1, 32, 128, 500] {
        let bare = measure_bare(&name, events, rounds)?;
        let poll = SubscriberOptions { wake_up: WakeUp::BusyPoll, ..SubscriberOptions::default() };
        let bus = measure_bus(&name, events, rounds, poll)?;
        for (quantile_name, quantile) in [("P50", 0.5), ("P99", 0.99), ("P99.9", 0.999)] {
            let what = format!("{events} events per frame, polling, one way {quantile_name}");
            let row = report.row(what, microseconds(&bus.latencies, quantile), "us");
            row.beside("bare iceoryx2", microseconds(&bare.latencies, quantile)).goal("<= 1.3 x");
        }
        report
            .row(format!("{events} events per frame, polling"), bus.rate, "events/s")
            .beside("bare iceoryx2", bare.rate);
        let event = measure_bus(&name, events, rounds, SubscriberOptions::default())?;
        report.latency(
            &format!("{events} events per frame, woken by events after 50 us, one way"),
            &event.latencies,
        );
    }
    measure_wake_ups(&name, &mut report)?;
    report.row("core to core and back, one cache line, at the end", core_round_trip_ns()? as f64 / 1e3, "us");
    Ok(report)
}
