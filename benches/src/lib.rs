//! What every benchmark program shares: its options, the machine it ran on, and how results are printed.
//!
//! A result stands beside the machine's own limit measured in the same run, as a ratio, and names the guarantee it was
//! measured under. Latency under load is measured open-loop: from when an operation was due, not from when it began.

pub mod device;
pub mod flow;
pub mod frames;
pub mod node;
pub mod tape;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Options every program has.
#[derive(clap::Parser, Clone, Debug)]
pub struct Options {
    /// How results are printed.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// How long each measurement takes, in seconds.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Where data is written: a folder on the disk to be measured. Default: the temporary directory.
    #[arg(long)]
    pub data: Option<PathBuf>,
}

/// How results are printed.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For reading.
    Table,
    /// For machines: one object.
    Json,
}

impl Options {
    /// The time of one measurement.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// A folder of this run, removed when dropped.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub fn folder(&self) -> tempfile::TempDir {
        let parent = self.data.clone().unwrap_or_else(std::env::temp_dir);
        tempfile::Builder::new()
            .prefix("matchtape-bench-")
            .tempdir_in(&parent)
            .unwrap_or_else(|error| panic!("cannot make a folder in {}: {error}", parent.display()))
    }
}

/// The machine a result belongs to.
#[derive(Serialize, Clone, Debug)]
pub struct Hardware {
    /// The processor's own name.
    pub processor: String,
    /// Processors this process may use.
    pub cores: usize,
    /// Main memory in GiB.
    pub memory_gib: u64,
    /// The kernel.
    pub kernel: String,
    /// The file system that data was written to.
    pub file_system: String,
}

fn first_line_with(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':').map_or(line, |(_, value)| value).trim().to_owned())
}

impl Hardware {
    /// This machine, with the file system that holds `data`.
    pub fn here(data: &Path) -> Self {
        let uname = rustix::system::uname();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let data = data.canonicalize().unwrap_or_else(|_| data.to_owned());
        let file_system = mounts
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ');
                let (_device, mount, kind) = (words.next()?, words.next()?, words.next()?);
                data.starts_with(mount).then(|| (mount.len(), kind.to_owned()))
            })
            .max()
            .map_or_else(|| "unknown".into(), |(_, kind)| kind);
        let memory_kib = first_line_with("/proc/meminfo", "MemTotal")
            .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
            .unwrap_or(0);
        Self {
            processor: first_line_with("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: memory_kib >> 20,
            kernel: format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
            file_system,
        }
    }
}

/// One number.
#[derive(Serialize, Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// The machine's own number for the same, measured in this run.
    pub beside: Option<Beside>,
    /// What we want it to be.
    pub goal: Option<String>,
}

/// The machine's own number beside ours.
#[derive(Serialize, Clone, Debug)]
pub struct Beside {
    /// What was measured.
    pub what: String,
    /// The number, in the row's unit.
    pub value: f64,
    /// Ours divided by it.
    pub ratio: f64,
}

/// The results of one program.
#[derive(Serialize, Clone, Debug)]
pub struct Report {
    /// The program.
    pub benchmark: &'static str,
    /// What holds for every number in it: durability, batch, record size.
    pub guarantees: Vec<String>,
    /// The machine.
    pub hardware: Hardware,
    /// The numbers.
    pub rows: Vec<Row>,
}

impl Report {
    /// A report without numbers yet.
    pub fn new(benchmark: &'static str, data: &Path) -> Self {
        Self { benchmark, guarantees: Vec::new(), hardware: Hardware::here(data), rows: Vec::new() }
    }

    /// States what the numbers were measured under.
    pub fn guarantee(&mut self, text: impl Into<String>) {
        self.guarantees.push(text.into());
    }

    /// Adds a number.
    pub fn row(&mut self, what: impl Into<String>, value: f64, unit: &'static str) -> &mut Row {
        self.rows.push(Row { what: what.into(), value, unit, beside: None, goal: None });
        self.rows.last_mut().expect("just pushed")
    }

    /// Adds P50, P99, P99.9 and the maximum of a histogram of nanoseconds, in microseconds.
    pub fn latency(&mut self, what: &str, histogram: &Histogram<u64>) {
        for (name, quantile) in [("P50", 0.5), ("P99", 0.99), ("P99.9", 0.999), ("max", 1.0)] {
            self.row(format!("{what} {name}"), microseconds(histogram, quantile), "us");
        }
    }

    /// Prints everything as asked.
    ///
    /// # Panics
    /// Never: the report is plain data.
    pub fn print(&self, format: Format) {
        if format == Format::Json {
            println!("{}", serde_json::to_string_pretty(self).expect("plain data"));
            return;
        }
        let hardware = &self.hardware;
        println!(
            "{}: {}, {} cores, {} GiB, {}, data on {}",
            self.benchmark,
            hardware.processor,
            hardware.cores,
            hardware.memory_gib,
            hardware.kernel,
            hardware.file_system
        );
        for guarantee in &self.guarantees {
            println!("  {guarantee}");
        }
        let width = self.rows.iter().map(|row| row.what.len()).max().unwrap_or(0);
        for row in &self.rows {
            let mut line = format!("  {:width$}  {:>14} {:9}", row.what, number(row.value), row.unit);
            if let Some(beside) = &row.beside {
                line += &format!("  {:.2} x {} ({})", beside.ratio, beside.what, number(beside.value));
            }
            if let Some(goal) = &row.goal {
                line += &format!("  goal {goal}");
            }
            println!("{}", line.trim_end());
        }
    }
}

impl Row {
    /// Puts the machine's own number beside this one.
    pub fn beside(&mut self, what: &str, value: f64) -> &mut Self {
        self.beside = Some(Beside { what: what.to_owned(), value, ratio: self.value / value });
        self
    }

    /// States the goal.
    pub fn goal(&mut self, goal: &str) -> &mut Self {
        self.goal = Some(goal.to_owned());
        self
    }
}

/// Binds the calling thread to a core, also back to one that was given up before; threads and processes that it starts from
/// then on stay there as well.
///
/// # Panics
/// On a machine without that core.
pub fn bind_to_core(core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores).expect("a machine of that many cores");
}

fn number(value: f64) -> String {
    let digits = if value >= 1000.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        3
    };
    let text = format!("{value:.digits$}");
    let (whole, fraction) =
        text.split_once('.').map_or((text.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    fraction.map_or_else(|| grouped.clone(), |fraction| format!("{grouped}.{fraction}"))
}

/// A histogram of nanoseconds up to a minute, three digits.
///
/// # Panics
/// Never: the bounds are constants.
pub fn nanoseconds() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("constant bounds")
}

/// A quantile in microseconds.
pub fn microseconds(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}

/// Calls `operation` at a fixed rate for a while and records, from when each call was due, when it was done.
///
/// `operation` is given the call's number. Returns the histogram of nanoseconds.
pub fn open_loop(rate_per_second: f64, duration: Duration, operation: impl FnMut(u64)) -> Histogram<u64> {
    let spin = |due| {
        while Instant::now() < due {
            std::hint::spin_loop();
        }
    };
    open_loop_waiting(spin, rate_per_second, duration, operation)
}

/// The same, where `wait` returns when a moment has come, or later: what it is late counts as the operation's latency.
pub fn open_loop_waiting(
    wait: impl Fn(Instant),
    rate_per_second: f64,
    duration: Duration,
    mut operation: impl FnMut(u64),
) -> Histogram<u64> {
    let mut histogram = nanoseconds();
    let gap = Duration::from_secs_f64(1.0 / rate_per_second);
    let start = Instant::now();
    let calls = (duration.as_secs_f64() * rate_per_second) as u64;
    for call in 0..calls {
        let due = start + gap.mul_f64(call as f64);
        wait(due);
        operation(call);
        histogram.saturating_record(due.elapsed().as_nanos().max(1) as u64);
    }
    histogram
}
