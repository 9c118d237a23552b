//! `matchtape compact`

use std::io::{BufWriter, IsTerminal, Write, stdout};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use matchtape_node::{Node, NodeOptions};
use matchtape_storage::CompactProgress;
use serde::Serialize;

use super::config::CompressionName;
use super::error::CliError;
use super::import::node_error;
use super::inspect::ReportFormat;
use super::{interrupt, store};

/// Merge tables now, so that lookups ask fewer of them. A running node does this by itself, at a bounded rate.
///
/// Takes the directory like a node does: nothing else may write to it meanwhile; readers may go on. Interrupted, it keeps
/// what it has merged so far.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  matchtape compact --data tape/\n  matchtape compact --data tape/ --compression zstd"
)]
pub(super) struct CompactArgs {
    /// The tape's directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Also write event tables anew that are not compressed like this [default: they stay as they are]
    #[arg(long, value_enum)]
    compression: Option<CompressionName>,
    /// How it is written [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

/// How many tables there are, and what they take.
#[derive(Clone, Copy, Debug, Serialize)]
struct Tables {
    index_tables: usize,
    event_tables: usize,
    bytes: u64,
    tables_per_lookup: u64,
    /// Bytes kept per byte of the events in tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    space: Option<f64>,
}

impl Tables {
    fn of(node: &Node) -> Self {
        let inspection = node.store().inspect();
        Self {
            index_tables: inspection.index_tables.len(),
            event_tables: inspection.event_tables.len(),
            bytes: inspection.table_bytes,
            tables_per_lookup: inspection.amplification.tables_per_lookup,
            space: inspection.amplification.space,
        }
    }
}

pub(super) fn run(args: &CompactArgs) -> Result<(), CliError> {
    // A directory without a store is not made into one.
    drop(store::open(&args.data)?);
    let compression = args.compression.map(CompressionName::wanted).transpose()?;
    let stop = interrupt::flag()?;
    let options = NodeOptions { name: "compact".to_owned(), ..NodeOptions::default() };
    let node = Node::open(&args.data, options, matchtape_market::projections())
        .map_err(|error| node_error(&args.data, &error))?;
    let bar = if std::io::stderr().is_terminal() {
        let style = ProgressStyle::with_template("{spinner} {bytes} written  {bytes_per_sec}  {wide_msg}");
        ProgressBar::no_length().with_style(style.expect("the template is right"))
    } else {
        ProgressBar::hidden()
    };
    let before = Tables::of(&node);
    let mut go_on = |progress: CompactProgress| {
        bar.set_position(progress.bytes_written);
        bar.set_message(format!(
            "{} index tables, {} as flushed; {} event tables",
            progress.index_tables, progress.level0_tables, progress.event_tables
        ));
        !stop.load(Ordering::Relaxed)
    };
    let totals = node.store().compaction_totals();
    let compacted = node.store().compact(&mut go_on).and_then(|_| match compression {
        Some(compression) => node.store().recompress(compression, &mut go_on).map(|_| ()),
        None => Ok(()),
    });
    let done = node.store().compaction_totals() - totals;
    bar.finish_and_clear();
    let after = Tables::of(&node);
    let closed = node.close().map_err(|error| node_error(&args.data, &error));
    compacted.map_err(|error| {
        let advice = store::system_advice(&error).unwrap_or("`matchtape verify` says what is damaged");
        CliError::with_advice(
            format_args!("{}: {error}", args.data.display()),
            format_args!("what was merged before stays merged, nothing else was changed; {advice}"),
        )
    })?;
    closed?;
    let mut out = BufWriter::new(stdout());
    match ReportFormat::or_default(args.format) {
        ReportFormat::Json => {
            let report = serde_json::json!({ "before": before, "after": after, "done": done });
            serde_json::to_writer_pretty(&mut out, &report).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        ReportFormat::Text => {
            writeln!(
                out,
                "index tables {} -> {}, event tables {} -> {}, {} -> {} bytes; a lookup asks at most {} index tables, before {}",
                before.index_tables,
                after.index_tables,
                before.event_tables,
                after.event_tables,
                before.bytes,
                after.bytes,
                after.tables_per_lookup,
                before.tables_per_lookup,
            )?;
            if let (Some(before), Some(after)) = (before.space, after.space) {
                writeln!(out, "{before:.2} -> {after:.2} bytes on disk per byte of frames")?;
            }
            writeln!(
                out,
                "{} merges of index tables, {} of event tables, {} tables moved; {} bytes read, {} written",
                done.merges, done.event_merges, done.moves, done.bytes_read, done.bytes_written
            )?;
        }
    }
    out.flush()?;
    if stop.load(Ordering::Relaxed) {
        return Err(CliError::Interrupted("interrupted: what was merged stays merged".to_owned()));
    }
    Ok(())
}
