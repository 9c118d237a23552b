//! Whether the publisher notices what becomes of its subscribers: the latency of publishing while subscribers in other
//! processes read, are stopped (SIGSTOP), go on, and are killed (SIGKILL).
//!
//!     cargo run --release -p matchtape-benches --bin stall -- --rounds 15
//!
//! The bus's own `publish` (a frame copied into shared memory and handed to every subscriber), and the engine's `publish` on a
//! node whose bus they read. Open-loop: from when a call was due. The publisher has a core to itself, everything else
//! the other one: what is looked for is what subscribers do to the publisher, not what they take from its processor.
//!
//! A machine's slowest thousandth differs from one second to the next by more than any subscriber adds. So all states come
//! again in every round, each is set against the round's own "all read", and of all rounds the middle is told. What this
//! can see at all is told by "all read" a second time, where nothing differs.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use matchtape_benches::frames::{Frames, TAPE, at};
use matchtape_benches::{Options, Report, bind_to_core, microseconds, nanoseconds, node, tape};
use matchtape_bus::{
    BusConfig, BusName, BusPublisher, BusService, BusSubscriber, Liveness, SubscriberOptions, WakeUp,
    clean_dead_participants,
};
use matchtape_node::Node;
use matchtape_schemas::{ProducerId, TapeId};
use rustix::process::{Pid, Signal, kill_process};

/// Subscribers in processes of their own.
const SUBSCRIBERS: usize = 2;
/// Frames of 32 events, or single events, per second.
const RATE: f64 = 10_000.0;
/// How often a subscriber that nobody wakes looks.
const LOOK: Duration = Duration::from_micros(200);

const QUANTILES: [(&str, f64); 3] = [("P50", 0.5), ("P99", 0.99), ("P99.9", 0.999)];

/// What becomes of the first subscriber, one after the other.
const STATES: [(&str, Option<Signal>); 6] = [
    ("nothing is called: the machine itself", None),
    ("all read", None),
    ("all read, once more", None),
    ("one is stopped", Some(Signal::STOP)),
    ("it goes on", Some(Signal::CONT)),
    ("it is killed", Some(Signal::KILL)),
];
const NOTHING: usize = 0;
const ALL_READ: usize = 1;

#[derive(Parser)]
struct StallOptions {
    /// `--seconds` is how long each state is measured in each round.
    #[command(flatten)]
    common: Options,
    /// How often everything is done.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// For the subscribers' processes: where the bus is, its tape, and how they look.
    #[arg(long, hide = true, num_args = 3, value_names = ["ROOT", "TAPE", "WOKEN"])]
    subscribe: Vec<String>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let StallOptions { common, rounds, subscribe } = StallOptions::parse();
    if let [root, tape, woken] = subscribe.as_slice() {
        return read_for_ever(Path::new(root), TapeId(tape.parse()?), woken == "true");
    }
    let folder = common.folder();
    let mut report = Report::new("stall", folder.path());
    report.guarantee(format!(
        "{SUBSCRIBERS} subscribers in processes of their own; {RATE} calls a second, open-loop, on a core of its own; \
         {rounds} rounds of {:.1} s per state: the middle of the rounds, and the middle of the ratios to the same \
         round's `all read` with the quarters of the rounds below and above",
        common.seconds
    ));
    let mut stall = Stall { duration: common.duration(), rounds, report };
    stall.bus_alone(folder.path(), false)?;
    stall.bus_alone(folder.path(), true)?;
    stall.whole_node(folder.path())?;
    stall.report.print(common.format);
    Ok(())
}

fn read_for_ever(root: &Path, tape: TapeId, woken: bool) -> Result<(), Box<dyn std::error::Error>> {
    let name = BusName::with_root("bench", tape, root)?;
    let wake_up = if woken { WakeUp::Event } else { WakeUp::BusyPoll };
    let options = SubscriberOptions { wake_up, ..SubscriberOptions::default() };
    let mut subscriber = BusSubscriber::open(&name, BusService::Live, &options)?;
    println!("open");
    std::io::stdout().flush()?;
    loop {
        while let Some(delivery) = subscriber.poll()? {
            std::hint::black_box(&delivery);
        }
        if woken {
            subscriber.wait(Duration::from_millis(100))?;
        } else {
            std::thread::sleep(LOOK);
        }
    }
}

/// A process that ends with this value.
struct Reader(Child);

impl Reader {
    /// On the core that the publisher does not have.
    fn start(name: &BusName, woken: bool) -> Result<Self, Box<dyn std::error::Error>> {
        bind_to_core(1);
        let child = Command::new(std::env::current_exe()?)
            .arg("--subscribe")
            .arg(name.root())
            .arg(name.tape().to_string())
            .arg(woken.to_string())
            .stdout(Stdio::piped())
            .spawn();
        bind_to_core(0);
        let mut child = child?;
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

/// The lower quarter, the middle, the upper quarter.
fn quarters(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

struct Stall {
    duration: Duration,
    rounds: usize,
    report: Report,
}

impl Stall {
    /// Measures `call` through all that happens to the first of the readers.
    fn measure<T>(
        &mut self,
        what: &str,
        (name, woken): (&BusName, bool),
        mut prepare: impl FnMut() -> T,
        mut call: impl FnMut(T),
    ) -> Result<(), Box<dyn std::error::Error>> {
        // Warm: pages mapped, connections made by what is published meanwhile.
        let mut readers = Vec::new();
        for _ in 0..SUBSCRIBERS {
            readers.push(Reader::start(name, woken)?);
            (0..100).for_each(|_| call(prepare()));
        }
        let _ = open_loop(Duration::from_millis(300), &mut prepare, &mut call);
        // By state and quantile, one of each round.
        let mut found = STATES.map(|_| QUANTILES.map(|_| Vec::new()));
        for _ in 0..self.rounds {
            for ((state, signal), found) in STATES.iter().zip(&mut found) {
                if let Some(signal) = signal {
                    readers[0].signal(*signal)?;
                }
                let histogram = match *state == STATES[NOTHING].0 {
                    true => open_loop(self.duration, || (), |()| ()),
                    false => open_loop(self.duration, &mut prepare, &mut call),
                };
                for ((_, quantile), found) in QUANTILES.iter().zip(found) {
                    found.push(microseconds(&histogram, *quantile));
                }
            }
            readers[0] = Reader::start(name, woken)?;
            let _ = open_loop(Duration::from_millis(100), &mut prepare, &mut call);
        }
        // They leave what they had in shared memory.
        drop(readers);
        clean_dead_participants(name)?;
        for (number, (state, _)) in STATES.iter().enumerate() {
            for (at, (quantile, _)) in QUANTILES.iter().enumerate() {
                let pairs = found[number][at].iter().zip(&found[ALL_READ][at]);
                let [low, middle, high] = quarters(pairs.map(|(this, all)| this / all).collect());
                let [_, value, _] = quarters(found[number][at].clone());
                let row = self.report.row(
                    format!("{what}, {state}: {quantile} ({low:.2} .. {middle:.2} .. {high:.2} x)"),
                    value,
                    "us",
                );
                if number > ALL_READ && *quantile == "P99.9" {
                    row.goal("1 x");
                }
            }
        }
        Ok(())
    }

    fn bus_alone(&mut self, folder: &Path, woken: bool) -> Result<(), Box<dyn std::error::Error>> {
        let name = BusName::with_root("bench", TAPE, &folder.join(format!("bus-alone-{woken}")))?;
        let mut frames = Frames::new(32);
        bind_to_core(0);
        let mut publisher = BusPublisher::open(&name, BusService::Live, &BusConfig::default(), &frames.head)?;
        bind_to_core(1);
        // As in a node: killed subscribers are cleaned up behind by a thread.
        let _liveness = Liveness::start(&name, Duration::from_secs(1))?;
        bind_to_core(0);
        let prepare = || {
            let frame = frames.next_frame();
            (frame, at(frames.head.last_sequence))
        };
        let what = match woken {
            false => "bus publish, 32 events, subscribers that look by themselves",
            true => "bus publish, 32 events, subscribers that are woken",
        };
        self.measure(what, (&name, woken), prepare, |(frame, watermarks)| {
            publisher.publish(&frame, &watermarks).expect("publishing never fails for a subscriber");
        })
    }

    fn whole_node(&mut self, folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
        bind_to_core(1);
        let settings = node::options(folder, BusConfig::default());
        let node = Node::open(&folder.join("tape"), settings, Vec::new())?;
        bind_to_core(0);
        let name = node.bus_name().ok_or("a node with a bus")?.clone();
        let mut publisher = node.publisher(ProducerId(1))?;
        let mut number = 0;
        let prepare = || {
            number += 1;
            tape::order(number, 16)
        };
        self.measure("engine's publish", (&name, false), prepare, |event| {
            node::publish(&mut publisher, &event);
        })?;
        drop(publisher);
        Ok(node.close()?)
    }
}
