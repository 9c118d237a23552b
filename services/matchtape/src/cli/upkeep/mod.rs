//! What operations do to a data directory: copies of it, what goes and what must stay, repair, looking inside.

pub(super) mod backup;
pub(super) mod dump;
pub(super) mod hold;
pub(super) mod restore;
pub(super) mod retain;
pub(super) mod salvage;
pub(super) mod snapshot;

use std::fmt::Write as _;
use std::io::{BufWriter, IsTerminal, Write, stdout};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};
use matchtape_schemas::AcceptedTime;
use matchtape_storage::wal::Preparation;
use matchtape_storage::{
    CopyError, CopyProgress, CopyReport, Disk, EventStore, RealDisk, StoreOptions, VerifyProgress,
    WalOptions, Workers,
};
use serde::Serialize;

use super::error::{CliError, INTERRUPTED};
use super::inspect::ReportFormat;
use super::store::{NO_STORE, open_error};

/// Bytes done of bytes in all, and what is being done; silent where standard error is no terminal.
fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix:9} [{bar:40}] {bytes}/{total_bytes}  {wide_msg}");
    ProgressBar::new(0).with_style(style.expect("the template is right"))
}

/// How long a step has taken whose end cannot be told; silent where standard error is no terminal.
fn spinner(what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {elapsed}  {wide_msg}");
    let bar = ProgressBar::no_length().with_style(style.expect("the template is right")).with_message(what);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn show_verifying(bar: &ProgressBar, step: VerifyProgress) {
    bar.set_prefix("reading");
    bar.set_length(step.bytes_total);
    bar.set_position(step.bytes);
    bar.set_message(step.file);
}

/// Shows how far a copy to `target` is, and ends the process between two steps once Ctrl-C has come: what is half there is no store, and
/// nothing of the source depends on it.
fn show_copying(bar: &ProgressBar, stop: &AtomicBool, target: &Path, step: CopyProgress) {
    // A hint to stop soon, nothing else is published by it.
    if stop.load(Ordering::Relaxed) {
        bar.finish_and_clear();
        let text = format!("interrupted: {} is not whole, remove it", target.display());
        eprintln!("{text}");
        std::process::exit(i32::from(INTERRUPTED));
    }
    match step {
        CopyProgress::Copying { file, bytes, bytes_total } => {
            bar.set_prefix("copying");
            bar.set_length(bytes_total);
            bar.set_position(bytes);
            bar.set_message(file);
        }
        CopyProgress::Verifying(step) => show_verifying(bar, step),
    }
}

/// Now, as accepted times count.
pub(super) fn now() -> AcceptedTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    AcceptedTime(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Opens a data directory for changing what is in it, with no thread but this one: nothing is flushed. Dropping it leaves
/// it as it was, but for what was asked of it.
fn open_for_change(directory: &Path) -> Result<EventStore, CliError> {
    let disk = super::store::disk(directory)?;
    if !directory.join("manifest").exists() {
        return Err(CliError::with_advice(
            format_args!("there is no store in {}", directory.display()),
            NO_STORE,
        ));
    }
    let options = StoreOptions {
        workers: Workers::Caller,
        wal: WalOptions { preparation: Preparation::WhenNeeded, ..WalOptions::default() },
        ..StoreOptions::default()
    };
    let opened = EventStore::open(Arc::new(disk), options, Vec::new());
    opened.map(|(store, _)| store).map_err(|error| open_error(directory, &error))
}

/// The directory that a copy of `source` is made in: new, or empty, and not within what is copied.
fn target(source: &Path, directory: &Path) -> Result<(RealDisk, Arc<dyn Disk>), CliError> {
    let within = || -> std::io::Result<bool> {
        // The first parent that is there decides: the rest is made below it.
        let there = std::path::absolute(directory)?;
        let there = there.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        Ok(there.canonicalize()?.starts_with(source.canonicalize()?))
    };
    if within().map_err(|error| CliError::failed(format_args!("{}: {error}", directory.display())))? {
        return Err(CliError::with_advice(
            format_args!("{} lies within {}, which is copied", directory.display(), source.display()),
            "name a directory outside of it",
        ));
    }
    let open = || -> Result<_, matchtape_storage::DiskError> {
        let disk = RealDisk::create(directory)?;
        let shared: Arc<dyn Disk> = Arc::new(RealDisk::open(directory)?);
        Ok((disk, shared))
    };
    open().map_err(|error| {
        CliError::with_advice(error, "check that the target's parent directory can be written")
    })
}

fn copy_error(source: &Path, target: &Path, error: &CopyError) -> CliError {
    let (from, to) = (source.display(), target.display());
    let cause: Option<&(dyn std::error::Error + 'static)> = if let CopyError::Target(cause) = error {
        Some(cause)
    } else if let CopyError::Lock(cause) = error {
        Some(cause)
    } else {
        None
    };
    if let Some(advice) = cause.and_then(super::store::system_advice) {
        return CliError::with_advice(
            format_args!("{from}: {error}"),
            format_args!("{advice}; {to} is no store, remove it"),
        );
    }
    let advice = match error {
        CopyError::NotEmpty { .. } => "name a directory that is empty or does not exist".to_owned(),
        CopyError::Beyond { last, .. } => {
            format!("leave the point away to take everything up to sequence {last}")
        }
        CopyError::Nothing { .. } => "choose a later point, or an older backup".to_owned(),
        CopyError::Lock(_) => format!("another process works in {to}"),
        CopyError::System(_) => format!(
            "that is the tape of the durable consumers: `matchtape verify --data {from}/system` tells what else is wrong; \
             {to} is no store, remove it"
        ),
        CopyError::Source(_) | CopyError::Open(_) | CopyError::Read(_) => {
            format!("`matchtape verify --data {from}` tells what else is wrong; {to} is no store, remove it")
        }
        CopyError::Target(_) => {
            format!("{to} is no store, remove it; check the space and the permissions there")
        }
        CopyError::ReadBack(_) | CopyError::Unsound { .. } => {
            format!(
                "`matchtape verify --data {from}` tells whether the source is sound; {to} is no store, remove it"
            )
        }
    };
    CliError::with_advice(format_args!("{from} to {to}: {error}"), advice)
}

/// What a copy made, for people.
fn describe_copy(report: &CopyReport) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "tape {}: sequences {} to {}, accepted until {}",
        report.tape,
        report.first_kept,
        report.through,
        matchtape_client::time::rfc3339(report.accepted_time)
    );
    let _ = writeln!(
        text,
        "{} files linked, {} copied ({} bytes), {} events written anew{}",
        report.linked,
        report.copied,
        report.copied_bytes,
        report.events_rewritten,
        match report.indexes_rebuilt {
            0 => String::new(),
            rebuilt => format!(", {rebuilt} index tables rebuilt"),
        }
    );
    let _ = writeln!(
        text,
        "{}",
        match report.system {
            Some(_) => "the durable consumers are in it, with where each of them was",
            None => "there are no durable consumers",
        }
    );
    let _ = write!(
        text,
        "read back: {} events, {} postings and {} snapshots are sound",
        report.verified.events, report.verified.postings, report.verified.snapshots
    );
    text
}

/// Writes a report as JSON or, for people, as `text` says.
pub(super) fn print<T: Serialize>(
    format: Option<ReportFormat>,
    report: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<(), CliError> {
    let mut out = BufWriter::new(stdout());
    match ReportFormat::or_default(format) {
        ReportFormat::Json => {
            serde_json::to_writer_pretty(&mut out, report).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        ReportFormat::Text => writeln!(out, "{}", text(report).trim_end())?,
    }
    out.flush()?;
    Ok(())
}
