//! Whether the publisher notices what becomes of its subscribers: the latency of publishing while subscribers in other
//! processes read, are stopped (SIGSTOP), go on, and are killed (SIGKILL).
//!
//!     cargo run --release -p matchtape-benches --bin stall -- --seconds 3
//!
//! Twice: the bus's own `publish` (a frame copied into shared memory and handed to every subscriber), and the engine's
//! `publish` on a node whose bus they read. Both open-loop: from when a call was due.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use matchtape_benches::frames::{Frames, TAPE, at};
use matchtape_benches::{Options, Report, microseconds, nanoseconds, node, tape};
use matchtape_bus::{
    BusConfig, BusName, BusPublisher, BusService, BusSubscriber, Liveness, SubscriberOptions,
};
use matchtape_node::Node;
use matchtape_schemas::{ProducerId, TapeId};
use rustix::process::{Pid, Signal, kill_process};

/// Subscribers in processes of their own.
const SUBSCRIBERS: usize = 3;
/// Frames of 32 events, or single events, per second.
const RATE: f64 = 10_000.0;

#[derive(Parser)]
struct StallOptions {
    #[command(flatten)]
    common: Options,
    /// For the subscribers' processes: where the bus is, and its tape.
    #[arg(long, hide = true, num_args = 2, value_names = ["ROOT", "TAPE"])]
    subscribe: Vec<String>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let StallOptions { common: options, subscribe } = StallOptions::parse();
    if let [root, tape] = subscribe.as_slice() {
        return read_for_ever(Path::new(root), TapeId(tape.parse()?));
    }
    let folder = options.folder();
    let mut report = Report::new("stall", folder.path());
    report.guarantee(format!(
        "{SUBSCRIBERS} subscribers in processes of their own, woken by events; {RATE} calls a second, open-loop; one \
         subscriber is stopped, goes on and is killed, the others read on"
    ));
    bus_alone(&options, folder.path(), &mut report)?;
    whole_node(&options, folder.path(), &mut report)?;
    report.print(options.format);
    Ok(())
}

fn read_for_ever(root: &Path, tape: TapeId) -> Result<(), Box<dyn std::error::Error>> {
    let name = BusName::with_root("bench", tape, root)?;
    let mut subscriber = BusSubscriber::open(&name, BusService::Live, &SubscriberOptions::default())?;
    println!("open");
    std::io::stdout().flush()?;
    loop {
        while let Some(delivery) = subscriber.poll()? {
            std::hint::black_box(&delivery);
        }
        subscriber.wait(Duration::from_millis(100))?;
    }
}

/// A process that ends with this value.
struct Reader(Child);

impl Reader {
    fn start(name: &BusName) -> Result<Self, Box<dyn std::error::Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--subscribe")
            .arg(name.root())
            .arg(name.tape().to_string())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("its output")?;
        let open = BufReader::new(stdout).lines().next();
        if open.transpose()?.as_deref() == Some("open") {
            Ok(Self(child))
        } else {
            Err("it did not open".into())
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), Box<dyn std::error::Error>> {
        Ok(kill_process(Pid::from_child(&self.0), signal)?)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Calls at a fixed rate, each with something made before it is due; from when it was due to when it was done.
fn open_loop<T>(
    duration: Duration,
    mut prepare: impl FnMut() -> T,
    mut call: impl FnMut(T),
) -> Histogram<u64> {
    let mut histogram = nanoseconds();
    let start = Instant::now();
    for number in 0..(duration.as_secs_f64() * RATE) as u32 {
        let prepared = prepare();
        let due = start + Duration::from_secs_f64(f64::from(number) / RATE);
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        call(prepared);
        histogram.saturating_record(due.elapsed().as_nanos().max(1) as u64);
    }
    histogram
}

/// Measures `call` through all that happens to the first of the readers.
fn measure<T>(
    what: &str,
    options: &Options,
    name: &BusName,
    report: &mut Report,
    mut prepare: impl FnMut() -> T,
    mut call: impl FnMut(T),
) -> Result<(), Box<dyn std::error::Error>> {
    // Warm: pages mapped, connections made by what is published meanwhile.
    let mut readers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        readers.push(Reader::start(name)?);
        (0..100).for_each(|_| call(prepare()));
    }
    let _ = open_loop(Duration::from_millis(300), &mut prepare, &mut call);
    let mut before = None;
    for (state, signal) in [
        ("all read", None),
        ("one stopped", Some(Signal::STOP)),
        ("it goes on", Some(Signal::CONT)),
        ("it is killed", Some(Signal::KILL)),
        ("all read, once more", None),
    ] {
        if let Some(signal) = signal {
            readers[0].signal(signal)?;
        } else if before.is_some() {
            readers[0] = Reader::start(name)?;
        }
        let histogram = open_loop(options.duration(), &mut prepare, &mut call);
        let before = before.get_or_insert_with(|| histogram.clone());
        for (quantile_name, quantile) in [("P50", 0.5), ("P99", 0.99), ("P99.9", 0.999)] {
            let row = report.row(
                format!("{what}, {state}: {quantile_name}"),
                microseconds(&histogram, quantile),
                "us",
            );
            row.beside("all read", microseconds(before, quantile));
            if quantile_name == "P99.9" {
                row.goal("1 x");
            }
        }
    }
    Ok(())
}

fn bus_alone(
    options: &Options,
    folder: &Path,
    report: &mut Report,
) -> Result<(), Box<dyn std::error::Error>> {
    let name = BusName::with_root("bench", TAPE, &folder.join("bus-alone"))?;
    let mut frames = Frames::new(32);
    let mut publisher = BusPublisher::open(&name, BusService::Live, &BusConfig::default(), &frames.head)?;
    // As in a node: killed subscribers are cleaned up behind by a thread.
    let _liveness = Liveness::start(&name, Duration::from_secs(1))?;
    let prepare = || {
        let frame = frames.next_frame();
        (frame, at(frames.head.last_sequence))
    };
    measure("bus publish, 32 events", options, &name, report, prepare, |(frame, watermarks)| {
        publisher.publish(&frame, &watermarks).expect("publishing never fails for a subscriber");
    })
}

fn whole_node(
    options: &Options,
    folder: &Path,
    report: &mut Report,
) -> Result<(), Box<dyn std::error::Error>> {
    let settings = node::options(folder, BusConfig::default());
    let node = Node::open(&folder.join("tape"), settings, Vec::new())?;
    let name = node.bus_name().ok_or("a node with a bus")?.clone();
    let mut publisher = node.publisher(ProducerId(1))?;
    let mut number = 0;
    let prepare = || {
        number += 1;
        tape::order(number, 16)
    };
    measure("engine's publish", options, &name, report, prepare, |event| {
        node::publish(&mut publisher, &event);
    })?;
    drop(publisher);
    Ok(node.close()?)
}
