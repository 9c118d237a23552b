//! `matchtape export`: the tape in other programs' formats.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use matchtape_schemas::KindMask;

use super::error::CliError;
use super::inspect::ReportFormat;
use super::position::Position;
use super::query::kind;

/// Write the tape, or a part of it, for other programs.
#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    #[command(subcommand)]
    to: Target,
}

#[derive(Subcommand, Debug)]
enum Target {
    Parquet(ParquetArgs),
}

/// Parquet files, one per kind of event, for pandas, polars, DuckDB and the like; private fields included.
///
/// Identifiers are unsigned integers with zero for "none", times are timestamps in UTC with nanoseconds, prices and quantities
/// exact decimals. `manifest.json` lists the files with their hashes and is written last: where it is, the export is
/// complete. Read-only, and works beside a running writer.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    matchtape export parquet --data tape/ --out export/\n  \
    matchtape export parquet --data tape/ --out trades/ --kind trades --instrument 600761.SH\n  \
    python3 -c \"import polars; print(polars.read_parquet('export/trade_matched.parquet'))\"")]
struct ParquetArgs {
    /// The tape's directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where the files go: a new or empty directory
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// From this sequence or event time on
    #[arg(long, value_name = "POSITION")]
    from: Option<Position>,
    /// Up to this sequence or event time, inclusive
    #[arg(long, value_name = "POSITION")]
    to: Option<Position>,
    /// Only of this instrument: its symbol, the venue's number, or its id on the tape
    #[arg(long, value_name = "SYMBOL")]
    instrument: Option<String>,
    /// Only these kinds or topics, separated by commas
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kind)]
    kind: Vec<KindMask>,
    /// How the list of files is written [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

pub(super) fn run(args: &ExportArgs) -> Result<(), CliError> {
    match &args.to {
        Target::Parquet(args) => parquet(args),
    }
}

#[cfg(not(feature = "parquet"))]
fn parquet(_: &ParquetArgs) -> Result<(), CliError> {
    Err(CliError::with_advice(
        "this binary was built without Parquet",
        "cargo build --release --features parquet",
    ))
}

#[cfg(feature = "parquet")]
fn parquet(args: &ParquetArgs) -> Result<(), CliError> {
    use std::ops::ControlFlow;
    use std::path::Path;
    use std::sync::atomic::Ordering;

    use matchtape_schemas::Sequence;
    use matchtape_storage::archive::parquet::{ParquetExportError, ParquetTarget, export};
    use matchtape_storage::{Query, RealDisk};

    use super::{interrupt, store};

    let stop = interrupt::flag()?;
    let store = store::open(&args.data)?;
    let reader = store.reader();
    let instruments = store::instruments(&reader)?;
    let instrument = args.instrument.as_deref().map(|text| store::find(&instruments, text)).transpose()?;
    let mut query = Query { instrument: instrument.map(|instrument| instrument.id), ..Query::default() };
    match args.from {
        Some(Position::Sequence(from)) => query.from = from,
        Some(Position::Time(from)) => query.event_time_from = from,
        None => {}
    }
    match args.to {
        Some(Position::Sequence(through)) => query.through = through,
        Some(Position::Time(through)) => query.event_time_through = through,
        None => {}
    }
    if !args.kind.is_empty() {
        query.kinds = args.kind.iter().fold(KindMask::NONE, |all, kind| all.with(*kind));
    }

    std::fs::create_dir_all(&args.out)
        .map_err(|error| CliError::failed(format_args!("creating {}: {error}", args.out.display())))?;
    let disk = RealDisk::open(&args.out).map_err(CliError::failed)?;
    let target = ParquetTarget { disk: &disk, directory: Path::new("") };
    let first = query.from.max(reader.first_kept());
    let bar = progress_bar(query.through.min(reader.visible()).0.saturating_sub(first.0));
    let symbol =
        |id| instruments.get(id).map(|instrument| instrument.definition.symbol.as_str().into_owned());
    let outcome = export(&reader, &query, &symbol, &target, &mut |progress| {
        let Sequence(at) = progress.sequence;
        bar.set_position(at.saturating_sub(first.0));
        bar.set_message(format!("{} events", progress.events));
        // A hint to stop soon, nothing else is published by it.
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    let manifest = outcome.map_err(|error| match error {
        ParquetExportError::Read(error) => error.into(),
        ParquetExportError::Stopped { events } => CliError::Interrupted(format!(
            "stopped after {events} events; what was written was removed, nothing was exported"
        )),
        error @ ParquetExportError::NotEmpty { .. } => CliError::with_advice(
            format_args!("{}: {error}", args.out.display()),
            "--out names a new or empty directory",
        ),
        error @ ParquetExportError::Disk(_) => CliError::with_advice(
            format_args!("{}: {error}", args.out.display()),
            "check the directory, its permissions and the space left on the device",
        ),
        error @ ParquetExportError::Encode(_) => CliError::failed(error),
    })?;
    print(args, &manifest)
}

#[cfg(feature = "parquet")]
fn progress_bar(length: u64) -> indicatif::ProgressBar {
    use std::io::IsTerminal;
    if !std::io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let style = indicatif::ProgressStyle::with_template("[{bar:40}] {percent} %  {wide_msg}");
    indicatif::ProgressBar::new(length).with_style(style.expect("the template is right"))
}

#[cfg(feature = "parquet")]
fn print(
    args: &ParquetArgs,
    manifest: &matchtape_storage::archive::parquet::ParquetManifest,
) -> Result<(), CliError> {
    use std::io::Write;
    let mut out = std::io::BufWriter::new(std::io::stdout());
    match ReportFormat::or_default(args.format) {
        ReportFormat::Json => {
            serde_json::to_writer_pretty(&mut out, manifest).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        ReportFormat::Text => {
            for file in &manifest.files {
                let path = args.out.join(&file.file);
                writeln!(out, "{:>12} rows {:>12} bytes  {}", file.rows, file.bytes, path.display())?;
            }
            writeln!(out, "{:>12} events of tape {}", manifest.events, manifest.tape)?;
        }
    }
    out.flush()?;
    Ok(())
}
