//! `matchtape bench-disk`

use std::io::{BufWriter, IsTerminal, Write, stdout};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use matchtape_storage::RealDisk;
use matchtape_storage::wal::WriteBackend;

use super::error::CliError;
use super::inspect::ReportFormat;
use super::interrupt;
use crate::bench_disk::{
    BenchError, Extents, FILE_NAME, Measured, Measurement, Phase, Plan, Progress, Recommendation,
    backend_name, measure, recommend,
};

/// Measure how fast a disk makes writes durable, and recommend the log's `write_backend`.
///
/// Writes, as the log does it, to a temporary file in the directory, and removes it; of a data directory nothing else is
/// touched. One write at a time: with `direct`, a log under load has up to four under way and so does better than these rows.
/// io_uring is not among the backends; where it was measured it was no faster.
///
/// Beside a running node it works too, but takes the disk's time from it, and the numbers are those of a busy disk.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  matchtape bench-disk --dir /var/lib/matchtape
  matchtape bench-disk --dir /mnt/nvme --seconds 60        (more writes, a surer P99.9)
  matchtape bench-disk --dir . --mib 64 --format json")]
pub(super) struct BenchDiskArgs {
    /// A directory on the disk, such as the data directory of a node
    #[arg(long, visible_alias = "data", value_name = "DIR")]
    dir: PathBuf,
    /// Seconds of writing in all; preparing the file comes on top
    #[arg(long, default_value = "20", value_parser = seconds)]
    seconds: Duration,
    /// Size of the temporary file; an eighth of it on top, and as much again has to be free
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(16..=1 << 40))]
    mib: u64,
    /// How it is written [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    if (0.01..=86_400.0).contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err("between 0.01 and 86400".to_owned())
}

pub(super) fn run(args: &BenchDiskArgs) -> Result<(), CliError> {
    let stop = interrupt::flag()?;
    let disk = RealDisk::open(&args.dir)
        .map_err(|error| CliError::with_advice(error, "--dir names a directory that exists"))?;
    let is_in_memory = is_in_memory(&args.dir)?;
    let bar = if std::io::stderr().is_terminal() {
        let style = ProgressStyle::with_template("[{bar:40}] {percent} %  {wide_msg}");
        ProgressBar::new(0).with_style(style.expect("the template is right"))
    } else {
        ProgressBar::hidden()
    };
    let mut shown = None;
    let plan = Plan { file_bytes: args.mib << 20, duration: args.seconds };
    let outcome = measure(&disk, &args.dir, &plan, &mut |progress| {
        // Between writes of microseconds: only what changes.
        if shown != Some((progress.phase, progress.done)) {
            shown = Some((progress.phase, progress.done));
            show(&bar, progress);
        }
        // A hint to stop soon, nothing else is published by it.
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    let measurement = outcome.map_err(|error| failed(&args.dir, error))?;
    print(args, &measurement, is_in_memory)
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_length(progress.total);
    bar.set_position(progress.done);
    bar.set_message(match progress.phase {
        Phase::Preparing => "writing zeros".to_owned(),
        Phase::Measuring(backend, bytes) => format!("{} of {} KiB", backend_name(backend), bytes >> 10),
    });
}

fn failed(directory: &Path, error: BenchError) -> CliError {
    let message = format!("{}: {error}", directory.display());
    match error {
        BenchError::NoRoom { .. } => {
            CliError::with_advice(message, "--mib takes a smaller file (at least 16), --dir another disk")
        }
        BenchError::Disk(error) if error.is_full() => {
            CliError::with_advice(message, "--mib takes a smaller file; what was written is removed")
        }
        BenchError::Disk(error) if error.is_existing() => CliError::with_advice(
            message,
            "another run is at work there, or was killed: then remove that file and try again",
        ),
        BenchError::Disk(_) => {
            CliError::with_advice(message, "check the directory, its permissions and the system's log")
        }
        BenchError::Stopped => {
            CliError::Interrupted(format!("interrupted: {FILE_NAME} is removed, nothing else was touched"))
        }
    }
}

/// Whether the directory is on tmpfs or ramfs, where nothing is durable.
fn is_in_memory(directory: &Path) -> Result<bool, CliError> {
    const TMPFS_MAGIC: i128 = 0x0102_1994;
    const RAMFS_MAGIC: i128 = 0x8584_58f6;
    let stat = rustix::fs::statfs(directory)
        .map_err(|errno| CliError::failed(format_args!("{}: {errno}", directory.display())))?;
    Ok([TMPFS_MAGIC, RAMFS_MAGIC].contains(&i128::from(stat.f_type)))
}

const IN_MEMORY: &str = "this directory is in memory: nothing there survives the power going, and the numbers say nothing \
                         about a disk";

/// What a backend does, and what it gives.
fn guarantee(backend: WriteBackend) -> &'static str {
    match backend {
        WriteBackend::Buffered => {
            "a commit is written through the page cache and durable when fdatasync has returned; works on every file system"
        }
        WriteBackend::Direct => {
            "a commit is durable when its write has returned (O_DIRECT | O_DSYNC): one call, no copy in the page cache"
        }
    }
}

const BOTH: &str = "with storage.sync = \"every-batch\" either loses nothing that was reported durable, when the power goes, \
                    on a device that keeps what it says it has flushed; the backend may be changed at any restart";

/// For the configuration file.
fn setting(backend: WriteBackend) -> String {
    format!("[storage]\nwrite_backend = \"{}\"\n", backend_name(backend))
}

fn print(args: &BenchDiskArgs, measurement: &Measurement, is_in_memory: bool) -> Result<(), CliError> {
    let recommendation = recommend(&measurement.measured);
    let mut out = BufWriter::new(stdout());
    match ReportFormat::or_default(args.format) {
        ReportFormat::Json => {
            let guarantees = [WriteBackend::Buffered, WriteBackend::Direct]
                .map(|backend| (backend_name(backend).to_owned(), guarantee(backend).into()));
            let report = serde_json::json!({
                "directory": args.dir,
                "file_mib": args.mib,
                "seconds": args.seconds.as_secs_f64(),
                "in_memory": is_in_memory,
                "measured": measurement.measured,
                "unmeasured": measurement.unmeasured,
                "recommendation": {
                    "backend": backend_name(recommendation.backend),
                    "reasons": recommendation.reasons,
                    "setting": setting(recommendation.backend),
                },
                "guarantees": serde_json::Map::from_iter(guarantees),
            });
            serde_json::to_writer_pretty(&mut out, &report).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        ReportFormat::Text => {
            table(&mut out, &measurement.measured)?;
            for lack in &measurement.unmeasured {
                writeln!(out, "not measured: {}: {}", lack.what, lack.why)?;
            }
            if is_in_memory {
                writeln!(out, "attention: {IN_MEMORY}")?;
            }
            advise(&mut out, &recommendation)?;
        }
    }
    out.flush()?;
    Ok(())
}

fn table(out: &mut impl Write, measured: &[Measured]) -> std::io::Result<()> {
    writeln!(out, "durable writes, one after the other\n")?;
    writeln!(
        out,
        "{:>8}  {:<10} {:<9} {:>9} {:>9} {:>10} {:>9} {:>8} {:>9}",
        "KiB", "onto", "backend", "P50 us", "P99 us", "P99.9 us", "max us", "MB/s", "writes"
    )?;
    for row in measured {
        let onto = match row.extents {
            Extents::Zeroed => "zeroed",
            Extents::Allocated => "allocated",
        };
        let us = |ns: u64| format!("{:.1}", ns as f64 / 1e3);
        writeln!(
            out,
            "{:>8}  {:<10} {:<9} {:>9} {:>9} {:>10} {:>9} {:>8.1} {:>9}",
            row.bytes >> 10,
            onto,
            backend_name(row.backend),
            us(row.p50_ns),
            us(row.p99_ns),
            us(row.p999_ns),
            us(row.max_ns),
            row.bytes_per_second as f64 / 1e6,
            row.writes
        )?;
    }
    writeln!(out)
}

fn advise(out: &mut impl Write, recommendation: &Recommendation) -> std::io::Result<()> {
    for reason in &recommendation.reasons {
        writeln!(out, "  {reason}")?;
    }
    writeln!(out, "\nfor the configuration file (`matchtape serve --config FILE`):\n")?;
    writeln!(out, "{}", setting(recommendation.backend))?;
    for backend in [WriteBackend::Buffered, WriteBackend::Direct] {
        writeln!(out, "{:<9} {}", backend_name(backend), guarantee(backend))?;
    }
    writeln!(out, "{:<9} {BOTH}", "both")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config::{BackendName, Config};

    #[test]
    fn the_setting_is_one_that_a_node_takes() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("matchtape.toml");
        for (backend, name) in
            [(WriteBackend::Buffered, BackendName::Buffered), (WriteBackend::Direct, BackendName::Direct)]
        {
            std::fs::write(&file, setting(backend)).unwrap();
            let config = Config::load(Some(&file), &serde_json::Map::new()).unwrap();
            assert_eq!(config.storage.write_backend, name);
            assert_eq!(config.node_options().store.wal.backend, backend);
        }
    }

    #[test]
    fn seconds_may_be_a_fraction_and_have_bounds() {
        assert_eq!(seconds("0.2"), Ok(Duration::from_millis(200)));
        for wrong in ["0", "-1", "nan", "inf", "1e9", "2m", ""] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
