//! `matchtape cold`, and where the cold tier of a data directory is.
//!
//! A data directory remembers the place in a file of its own, `cold.place`, written before the first table moves: so every
//! command that reads the directory finds its events, and `MATCHTAPE_COLD__PLACE` says otherwise when the place has moved.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use matchtape_storage::archive::ColdStore;

use super::config::CompressionName;
use super::error::CliError;
use super::inspect::ReportFormat;

/// Holds the place, one line.
const REMEMBERED: &str = "cold.place";
/// Overrides what the directory remembers.
const VARIABLE: &str = "MATCHTAPE_COLD__PLACE";

/// Move old event tables to a cold tier: a directory on a cheaper disk, or an object store. Reads span both.
#[derive(Args, Debug)]
pub(super) struct ColdArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Push(PushArgs),
    Status(StatusArgs),
}

/// Move event tables, and remove objects that retention has left behind. For a directory that no node is running on; a
/// running node does it itself, see the section `cold` of `matchtape config show`.
///
/// Each table is checked, uploaded, read back and compared before its local file goes. Stopped in between (Ctrl-C), it
/// has moved what it says; run again, it goes on.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    matchtape cold push --data tape/ --to /mnt/archive/tape --older-than 720h --compression zstd\n  \
    matchtape cold push --data tape/ --to s3://bucket/tape       (a build with `--features cold-s3`; credentials from AWS_... variables)")]
struct PushArgs {
    /// The tape's directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// A directory, file://, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX [default: where it went before]
    #[arg(long, value_name = "PLACE")]
    to: Option<String>,
    /// Only tables whose last event was accepted so long ago (90s, 15m, 720h)
    #[arg(long, value_name = "DURATION", value_parser = super::position::duration)]
    older_than: Option<std::time::Duration>,
    /// So many of the newest tables stay local in any case; at least one does
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    keep_newest: usize,
    /// First write them anew, compressed like this, if they are not [default: they move as they are]
    #[arg(long, value_enum)]
    compression: Option<CompressionName>,
    /// How the report is written [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

/// Which event tables are in the cold tier, and whether it has them. Read-only, also beside a running node.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit codes: 0 every object is there, 1 one is not.\n\nExamples:\n  matchtape cold status --data tape/"
)]
struct StatusArgs {
    /// The tape's directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// How it is written [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

pub(super) fn run(args: &ColdArgs) -> Result<(), CliError> {
    match &args.what {
        What::Push(args) => push(args),
        What::Status(args) => status(args),
    }
}

/// The place that the environment or the directory names.
pub(super) fn place_of(data: &Path) -> Result<Option<String>, CliError> {
    if let Ok(place) = std::env::var(VARIABLE)
        && !place.is_empty()
    {
        return Ok(Some(place));
    }
    let path = data.join(REMEMBERED);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|place| !place.is_empty())),
        // Whoever opens the directory says that there is none.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(CliError::failed(format_args!("{}: {error}", path.display()))),
    }
}

/// The directory's cold tier, if it has one. A build without it warns: what is local can still be read.
pub(super) fn of(data: &Path) -> Result<Option<Arc<dyn ColdStore>>, CliError> {
    let Some(place) = place_of(data)? else { return Ok(None) };
    #[cfg(feature = "cold")]
    return open(&place).map(Some);
    #[cfg(not(feature = "cold"))]
    {
        eprintln!("warning: this build cannot read the cold tier at {place}; build it with --features cold");
        Ok(None)
    }
}

#[cfg(feature = "cold")]
fn open(place: &str) -> Result<Arc<dyn ColdStore>, CliError> {
    matchtape_storage::archive::open_cold(place).map_err(|error| {
        CliError::with_advice(
            format_args!("the cold tier: {error}"),
            format_args!("a directory that exists, or a URL that this build knows; {VARIABLE} overrides it"),
        )
    })
}

/// Opens the place for a store that moves tables there, and has the directory remember it, durably.
#[cfg(feature = "cold")]
pub(super) fn settle(data: &Path, place: &str) -> Result<Arc<dyn ColdStore>, CliError> {
    use std::io::Write;
    // A directory is remembered by its whole path: the next command may run elsewhere.
    let absolute = match place.contains("://") {
        true => place.to_owned(),
        false => {
            let whole = std::path::absolute(place);
            whole.map_err(|error| CliError::failed(format_args!("{place}: {error}")))?.display().to_string()
        }
    };
    let place = absolute.as_str();
    let store = open(place)?;
    let path = data.join(REMEMBERED);
    let failed = |error| CliError::failed(format_args!("{}: {error}", path.display()));
    let known = std::fs::read_to_string(&path).is_ok_and(|text| text.trim() == place);
    if !known {
        let temporary = data.join(format!("{REMEMBERED}.new"));
        let write = || {
            let mut file = std::fs::File::create(&temporary)?;
            writeln!(file, "{place}")?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            std::fs::File::open(data)?.sync_all()
        };
        write().map_err(failed)?;
    }
    Ok(store)
}

#[cfg(not(feature = "cold"))]
pub(super) fn settle(_: &Path, _: &str) -> Result<Arc<dyn ColdStore>, CliError> {
    Err(CliError::with_advice(
        "this binary was built without a cold tier",
        "cargo build --release --features cold",
    ))
}

fn push(args: &PushArgs) -> Result<(), CliError> {
    use std::ops::ControlFlow;
    use std::sync::atomic::Ordering;

    use matchtape_schemas::AcceptedTime;
    use matchtape_storage::archive::{ColdPolicy, ColdStep};
    use matchtape_storage::wal::Preparation;
    use matchtape_storage::{EventStore, RealDisk, StoreOptions, WalOptions, Workers};

    let stop = super::interrupt::flag()?;
    let place = match &args.to {
        Some(place) => place.clone(),
        None => place_of(&args.data)?.ok_or_else(|| {
            CliError::Usage(format!("{} has no cold tier yet: --to names one", args.data.display()))
        })?,
    };
    // Opened for reading first: a directory without a store is not made one.
    drop(super::store::open(&args.data)?);
    let disk = RealDisk::open(&args.data).map_err(CliError::failed)?;
    // In one thread, and nothing is flushed: dropped, it is as it was, but for what has moved.
    let options = StoreOptions {
        cold: Some(settle(&args.data, &place)?),
        workers: Workers::Caller,
        wal: WalOptions { preparation: Preparation::WhenNeeded, ..WalOptions::default() },
        ..StoreOptions::default()
    };
    let (store, _) = EventStore::open(Arc::new(disk), options, Vec::new())
        .map_err(|error| super::store::open_error(&args.data, &error))?;
    let accepted_through = match args.older_than {
        None => AcceptedTime(i64::MAX),
        Some(age) => accepted_before(age),
    };
    let bar = progress_bar();
    let compression = args.compression.map(CompressionName::wanted).transpose()?;
    let policy = ColdPolicy { accepted_through, keep_newest: args.keep_newest, compression };
    let outcome = store.push_cold(&policy, &mut |progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes);
        let step = match progress.step {
            ColdStep::Compressing => "compressing",
            ColdStep::Checking => "checking",
            ColdStep::Uploading => "uploading",
            ColdStep::ReadingBack => "reading back",
            ColdStep::Removing => "removing",
        };
        bar.set_message(format!("{step} {}", progress.name));
        // A hint to stop soon, nothing else is published by it.
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    let report = outcome.map_err(|error| {
        let advice = "what was moved before is safe in both senses; run the command again when it is mended";
        CliError::with_advice(error, advice)
    })?;
    print_push(args, &place, &report)?;
    if report.stopped {
        let moved = report.moved.len();
        return Err(CliError::Interrupted(format!(
            "stopped; {moved} tables have moved, run it again to go on"
        )));
    }
    Ok(())
}

/// Bytes moved of those to move, and what is being done; silent where standard error is no terminal.
fn progress_bar() -> indicatif::ProgressBar {
    use std::io::IsTerminal;
    if !std::io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let style = indicatif::ProgressStyle::with_template("[{bar:40}] {bytes}/{total_bytes}  {wide_msg}");
    indicatif::ProgressBar::new(0).with_style(style.expect("the template is right"))
}

/// So long ago by this machine's clock.
pub(super) fn accepted_before(age: std::time::Duration) -> matchtape_schemas::AcceptedTime {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let at = now.as_nanos() as i128 - age.as_nanos() as i128;
    matchtape_schemas::AcceptedTime(i64::try_from(at).unwrap_or(i64::MIN))
}

fn print_push(
    args: &PushArgs,
    place: &str,
    report: &matchtape_storage::archive::ColdReport,
) -> Result<(), CliError> {
    use std::io::Write;
    let mut out = std::io::BufWriter::new(std::io::stdout());
    match ReportFormat::or_default(args.format) {
        ReportFormat::Json => {
            serde_json::to_writer_pretty(&mut out, report).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        ReportFormat::Text => {
            for moved in &report.moved {
                writeln!(
                    out,
                    "moved   {:>12} bytes  sequences {} to {}  {place}/{}",
                    moved.bytes, moved.first_sequence, moved.last_sequence, moved.key
                )?;
            }
            for key in &report.removed {
                writeln!(out, "removed {place}/{key}")?;
            }
            let bytes: u64 = report.moved.iter().map(|moved| moved.bytes).sum();
            writeln!(
                out,
                "{} tables with {bytes} bytes moved, {} objects removed",
                report.moved.len(),
                report.removed.len()
            )?;
        }
    }
    out.flush()?;
    Ok(())
}

fn status(args: &StatusArgs) -> Result<(), CliError> {
    use std::io::Write;
    let place = place_of(&args.data)?;
    let cold = of(&args.data)?;
    let inspection = super::store::open(&args.data)?.inspect();
    let mut objects = Vec::new();
    let mut bad = 0;
    for table in &inspection.event_tables {
        let Some(key) = &table.cold else { continue };
        let state = match cold.as_ref().map(|cold| cold.head(key)) {
            None => "not asked: no cold tier at hand".to_owned(),
            Some(Ok(bytes)) if bytes == table.bytes => "there".to_owned(),
            Some(Ok(bytes)) => format!("{bytes} bytes, expected {}", table.bytes),
            Some(Err(error)) => error.to_string(),
        };
        bad += usize::from(state != "there");
        objects.push(serde_json::json!({
            "key": key, "bytes": table.bytes, "first_sequence": table.first_sequence,
            "last_sequence": table.last_sequence, "state": state,
        }));
    }
    let mut out = std::io::BufWriter::new(std::io::stdout());
    match ReportFormat::or_default(args.format) {
        ReportFormat::Json => {
            let mut report = serde_json::json!({
                "cold_bytes": inspection.cold_bytes, "local_bytes": inspection.table_bytes, "objects": objects,
            });
            if let Some(place) = &place {
                report["place"] = place.as_str().into();
            }
            serde_json::to_writer_pretty(&mut out, &report).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        ReportFormat::Text => {
            writeln!(out, "cold tier   {}", place.as_deref().unwrap_or("none"))?;
            for object in &objects {
                let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
                writeln!(
                    out,
                    "object      {}: sequences {} to {}, {} bytes, {}",
                    text("key"),
                    object["first_sequence"],
                    object["last_sequence"],
                    object["bytes"],
                    text("state"),
                )?;
            }
            writeln!(
                out,
                "event tables {} of {} in the cold tier, {} bytes there, {} bytes of tables local",
                objects.len(),
                inspection.event_tables.len(),
                inspection.cold_bytes,
                inspection.table_bytes
            )?;
        }
    }
    out.flush()?;
    if bad == 0 {
        Ok(())
    } else {
        Err(CliError::failed(format_args!("{bad} of {} objects are not as they should be", objects.len())))
    }
}
