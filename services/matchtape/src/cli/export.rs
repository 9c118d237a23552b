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
    matchtape export parquet --data tape/ --out segments/ --per-segment\n  \
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
    /// A directory for each sealed segment of the tape, named by its first sequence; those that are there already are left
    /// as they are, so that running it again adds what was sealed since
    #[arg(long)]
    per_segment: bool,
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
    use matchtape_storage::archive::parquet::{MANIFEST, ParquetTarget, export, sealed_segments};
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

    let first = query.from.max(reader.first_kept());
    let bar = progress_bar(query.through.min(reader.visible()).0.saturating_sub(first.0));
    let symbol =
        |id| instruments.get(id).map(|instrument| instrument.definition.symbol.as_str().into_owned());
    let into = |directory: &Path, query: &Query| {
        std::fs::create_dir_all(directory)
            .map_err(|error| CliError::failed(format_args!("creating {}: {error}", directory.display())))?;
        let disk = RealDisk::open(directory).map_err(CliError::failed)?;
        let target = ParquetTarget { disk: &disk, directory: Path::new("") };
        let outcome = export(&reader, query, &symbol, &target, &mut |progress| {
            let Sequence(at) = progress.sequence;
            bar.set_position(at.saturating_sub(first.0));
            // A hint to stop soon, nothing else is published by it.
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        outcome.map_err(|error| export_error(directory, error))
    };
    let mut exported = Vec::new();
    if args.per_segment {
        for (first, last) in sealed_segments(&reader, query.from, query.through)? {
            let directory = args.out.join(format!("segment-{:020}", first.0));
            if directory.join(MANIFEST).exists() {
                continue;
            }
            let query = Query { from: first, through: last, ..query.clone() };
            let manifest = into(&directory, &query)?;
            exported.push((directory, manifest));
        }
    } else {
        let manifest = into(&args.out, &query)?;
        exported.push((args.out.clone(), manifest));
    }
    bar.finish_and_clear();
    print(args, &exported)
}

#[cfg(feature = "parquet")]
fn export_error(
    directory: &std::path::Path,
    error: matchtape_storage::archive::parquet::ParquetExportError,
) -> CliError {
    use matchtape_storage::archive::parquet::ParquetExportError;
    match error {
        ParquetExportError::Read(error) => error.into(),
        ParquetExportError::Stopped { events } => CliError::Interrupted(format!(
            "stopped after {events} events; what was written to {} was removed",
            directory.display()
        )),
        error @ ParquetExportError::NotEmpty { .. } => CliError::with_advice(
            format_args!("{}: {error}", directory.display()),
            "--out names a new or empty directory",
        ),
        error @ ParquetExportError::Disk(_) => CliError::with_advice(
            format_args!("{}: {error}", directory.display()),
            "check the directory, its permissions and the space left on the device",
        ),
        error @ ParquetExportError::Encode(_) => CliError::failed(error),
    }
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
    exported: &[(PathBuf, matchtape_storage::archive::parquet::ParquetManifest)],
) -> Result<(), CliError> {
    use std::io::Write;
    let mut out = std::io::BufWriter::new(std::io::stdout());
    match (ReportFormat::or_default(args.format), exported) {
        (ReportFormat::Json, [(_, manifest)]) if !args.per_segment => {
            serde_json::to_writer_pretty(&mut out, manifest).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        (ReportFormat::Json, all) => {
            let all: Vec<_> = all.iter().map(|(_, manifest)| manifest).collect();
            serde_json::to_writer_pretty(&mut out, &all).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        (ReportFormat::Text, all) => {
            for (directory, manifest) in all {
                for file in &manifest.files {
                    let path = directory.join(&file.file);
                    writeln!(out, "{:>12} rows {:>12} bytes  {}", file.rows, file.bytes, path.display())?;
                }
            }
            let events: u64 = all.iter().map(|(_, manifest)| manifest.events).sum();
            writeln!(out, "{events:>12} events, in {} directories", all.len())?;
        }
    }
    out.flush()?;
    Ok(())
}
