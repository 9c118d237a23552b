//! `matchtape snapshot`

use std::path::PathBuf;

use clap::Args;
use matchtape_market::projections;
use matchtape_node::{Node, NodeError, NodeOptions};
use matchtape_storage::{SnapshotView, StoreOptions, WalOptions, wal::Preparation};

use super::super::error::CliError;
use super::super::inspect::ReportFormat;
use super::super::store::{self, open_error};
use super::{print, spinner};

/// Bring everything in the log into tables and take a snapshot of the state there.
///
/// A running node does so whenever its memory fills, and at an interval besides: this is for a directory that no
/// node runs on, before a copy or an upgrade. The snapshot holds all that a node keeps.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  matchtape snapshot --data tape/")]
pub(in super::super) struct SnapshotArgs {
    /// The tape's directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// How it is written [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

pub(in super::super) fn run(args: &SnapshotArgs) -> Result<(), CliError> {
    // A directory without a store is not made into one.
    store::open(&args.data)?;
    let wal = WalOptions { preparation: Preparation::WhenNeeded, ..WalOptions::default() };
    let options = NodeOptions {
        name: "snapshot".to_owned(),
        store: StoreOptions { wal, ..StoreOptions::default() },
        ..NodeOptions::default()
    };
    let bar = spinner("opening: the end of the log is read");
    let failed = |error: NodeError| match &error {
        NodeError::Open(error) => open_error(&args.data, error),
        other => CliError::failed(format_args!("{}: {other}", args.data.display())),
    };
    let node = Node::open(&args.data, options, projections()).map_err(failed)?;
    let (flushed, visible) = (node.store().flushed_through(), node.watermarks().visible);
    bar.set_message(format!("writing tables and the snapshot: sequences {flushed} to {visible}"));
    node.close().map_err(failed)?;
    bar.finish_and_clear();
    let snapshots = store::open(&args.data)?.inspect().snapshots;
    let Some(newest) = snapshots.last() else {
        return Err(CliError::failed(format_args!("{}: the tape is empty", args.data.display())));
    };
    print(args.format, newest, describe)
}

fn describe(snapshot: &SnapshotView) -> String {
    format!(
        "{} at sequence {}: {} sections, {} bytes",
        snapshot.file, snapshot.sequence, snapshot.sections, snapshot.bytes
    )
}
