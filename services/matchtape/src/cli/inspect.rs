//! `matchtape inspect`

use std::io::{BufWriter, IsTerminal, Write, stdout};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use matchtape_client::time::rfc3339;
use matchtape_storage::Inspection;

use super::error::CliError;
use super::store;

/// What a data directory holds: watermarks, segments of the log, tables, snapshots.
///
/// Read-only, also beside a running writer, whose segments are listed as the files they are: how far each is filled only
/// the writer knows without reading it. Nor is it written down how often each byte was written again by merging: that a running node
/// tells, since its start (`/v1/health`).
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  matchtape inspect --data tape/\n  matchtape inspect --data tape/ --format json"
)]
pub(super) struct InspectArgs {
    /// The tape's directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// How it is written [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

/// Where a store keeps its log.
const LOG: &str = "wal";

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ReportFormat {
    /// For people
    Text,
    /// One JSON object
    Json,
}

impl ReportFormat {
    pub(super) fn or_default(format: Option<Self>) -> Self {
        format.unwrap_or(if stdout().is_terminal() { Self::Text } else { Self::Json })
    }
}

pub(super) fn run(args: &InspectArgs) -> Result<(), CliError> {
    let inspection = store::open(&args.data)?.inspect();
    let segments = segment_files(&args.data)?;
    let mut out = BufWriter::new(stdout());
    match ReportFormat::or_default(args.format) {
        ReportFormat::Json => {
            let mut report = serde_json::to_value(&inspection).map_err(std::io::Error::from)?;
            report["segment_files"] = segments
                .iter()
                .map(|(file, bytes)| serde_json::json!({ "file": file, "bytes": bytes }))
                .collect();
            serde_json::to_writer_pretty(&mut out, &report).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        ReportFormat::Text => text(&mut out, &inspection, &segments)?,
    }
    out.flush()?;
    Ok(())
}

/// The files of the log and their sizes, by name.
fn segment_files(data: &Path) -> Result<Vec<(String, u64)>, CliError> {
    let directory = data.join(LOG);
    let failed = |error: std::io::Error| CliError::failed(format_args!("{}: {error}", directory.display()));
    let mut files = Vec::new();
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.metadata() {
            Ok(meta) if meta.is_file() => files.push((format!("{LOG}/{name}"), meta.len())),
            // Removed by the writer meanwhile.
            Ok(_) | Err(_) => {}
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn text(out: &mut impl Write, inspection: &Inspection, segments: &[(String, u64)]) -> std::io::Result<()> {
    writeln!(out, "tape            {}", inspection.tape)?;
    writeln!(out, "epoch           {}", inspection.epoch)?;
    writeln!(out, "first kept      {}", inspection.first_kept)?;
    writeln!(out, "visible         {}", inspection.visible)?;
    writeln!(out, "flushed through {}", inspection.flushed_through)?;
    writeln!(out, "in memory only  {} events", inspection.memory.events)?;
    let memory = &inspection.memory;
    writeln!(out, "open files      {} of tables, at most {}", memory.open_tables, memory.open_tables_max)?;
    writeln!(out, "tables          {} bytes", inspection.table_bytes)?;
    let amplification = &inspection.amplification;
    if let Some(space) = amplification.space {
        writeln!(out, "space           {space:.2} bytes on disk per byte of frames")?;
    }
    writeln!(out, "lookups         ask at most {} index tables", amplification.tables_per_lookup)?;
    for table in &inspection.event_tables {
        let ratio = table.raw_bytes as f64 / table.bytes.max(1) as f64;
        writeln!(
            out,
            "event table     {}: sequences {} to {}, {} frames, {} bytes ({}{ratio:.1} : 1), event times {} to {}",
            table.file,
            table.first_sequence,
            table.last_sequence,
            table.frames,
            table.bytes,
            table.compression.map(|name| format!("{name}, ")).unwrap_or_default(),
            rfc3339(table.min_event_time),
            rfc3339(table.max_event_time),
        )?;
    }
    for table in &inspection.index_tables {
        writeln!(
            out,
            "index table     {}: level {}, sequences {} to {}, {} entities, {} postings, {} bytes",
            table.file,
            table.level,
            table.first_sequence,
            table.last_sequence,
            table.entities,
            table.postings,
            table.bytes,
        )?;
    }
    for snapshot in &inspection.snapshots {
        writeln!(
            out,
            "snapshot        {}: at sequence {}, {} sections, {} bytes",
            snapshot.file, snapshot.sequence, snapshot.sections, snapshot.bytes
        )?;
    }
    for (file, bytes) in segments {
        writeln!(out, "segment         {file}: {bytes} bytes")?;
    }
    Ok(())
}
