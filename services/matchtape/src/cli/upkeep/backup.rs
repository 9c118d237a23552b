//! `matchtape backup`

use std::path::{Path, PathBuf};

use clap::Args;
use matchtape_storage::{Point, RealDisk};

use super::super::error::CliError;
use super::super::inspect::ReportFormat;
use super::super::interrupt;
use super::super::store;
use super::{copy_error, describe_copy, print, progress_bar, show_copying, target};

/// Copy a data directory, also while a node writes to it, and read the copy back.
///
/// Everything that is durable when it starts is in it, and the durable consumers with where each of them was. Tables are linked where both directories are on one file system:
/// that takes no time and no space, and they never change; nothing of the log is linked. Takes no lock and changes nothing in the
/// source. A backup is a data directory like any other: queries, verify and restore work on it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  matchtape backup --data tape/ --to backup/2026-07-28
  matchtape backup --data tape/ --to /mnt/other/2026-07-28     (another file system: copied)
  matchtape restore --from backup/2026-07-28 --data tape-again/

Links protect against what happens to the tape, not against the loss of the disk: --copy, or another file system, does.")]
pub(in super::super) struct BackupArgs {
    /// The tape's directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where the backup goes; empty, or not there yet
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Copy every file, even where it could be linked
    #[arg(long)]
    copy: bool,
    /// How it is written [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

pub(in super::super) fn run(args: &BackupArgs) -> Result<(), CliError> {
    let source = store::open(&args.data)?;
    let from = RealDisk::open(&args.data).map_err(CliError::failed)?;
    let (to, shared) = target(&args.data, &args.to)?;
    let link = |path: &Path| from.link_into(&to, path);
    let (bar, stop) = (progress_bar(), interrupt::flag()?);
    let copied =
        source.copy_to(Point::End, &shared, if args.copy { None } else { Some(&link) }, &mut |step| {
            show_copying(&bar, &stop, &args.to, step)
        });
    bar.finish_and_clear();
    let report = copied.map_err(|error| copy_error(&args.data, &args.to, &error))?;
    print(args.format, &report, describe_copy)
}
