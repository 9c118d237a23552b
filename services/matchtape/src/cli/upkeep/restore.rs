//! `matchtape restore`

use std::path::PathBuf;

use clap::Args;
use matchtape_client::position::parse_time;
use matchtape_client::time::rfc3339;
use matchtape_schemas::{AcceptedTime, Sequence};
use matchtape_storage::{CopyError, CopyReport, Point, ReadOnlyStore};

use super::super::error::CliError;
use super::super::inspect::ReportFormat;
use super::super::interrupt;
use super::super::store;
use super::{copy_error, describe_copy, print, progress_bar, show_copying, target};

/// Make a data directory from a backup, up to its end or to an earlier point, and read it back.
///
/// It ends with a whole group of events. Restored to a point before the backup's end, it also holds the beginning of a new
/// term, above any that the backup shows, so that what is appended to it can always be told from what the original has
/// there. Only one of the two may go on: a tape has one future.
///
/// The backup's durable consumers are in it. One that had come further than what is restored is put back to its end when a
/// node opens it, and told so (`pulled_back`): it gets everything that comes there now.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  matchtape restore --from backup/2026-07-28 --data tape/
  matchtape restore --from backup/2026-07-28 --data tape/ --to-sequence 123456789
  matchtape restore --from backup/2026-07-28 --data tape/ --to-time 2026-07-28T14:30:00+08:00

--to-time counts by when events were accepted, not by what their producers say. --from may also be a live data directory.")]
pub(in super::super) struct RestoreArgs {
    /// The backup
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The new data directory; empty, or not there yet
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Up to the last group that ends at or before this sequence
    #[arg(long, value_name = "SEQUENCE", conflicts_with = "to_time")]
    to_sequence: Option<u64>,
    /// Up to the last group accepted at or before this time: RFC 3339, or ns since 1970 UTC
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to_time: Option<i64>,
    /// How it is written [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

pub(in super::super) fn run(args: &RestoreArgs) -> Result<(), CliError> {
    let point = match (args.to_sequence, args.to_time) {
        (Some(sequence), _) => Point::Sequence(Sequence(sequence)),
        (None, Some(time)) => Point::Time(AcceptedTime(time)),
        (None, None) => Point::End,
    };
    let source = store::open(&args.from)?;
    let (_, shared) = target(&args.from, &args.data)?;
    let (bar, stop) = (progress_bar(), interrupt::flag()?);
    // Copied, not linked: a backup must stay what it is, whatever happens to the store made from it.
    let copied =
        source.copy_to(point, &shared, None, &mut |step| show_copying(&bar, &stop, &args.data, step));
    bar.finish_and_clear();
    let report = copied.map_err(|error| match (&error, first_accepted(&source)) {
        (CopyError::Nothing { .. }, Some(accepted)) => CliError::with_advice(
            format_args!("{}: {error}, accepted {}", args.from.display(), rfc3339(accepted.0)),
            "choose a later point, or an older backup; an imported event was accepted when it was imported",
        ),
        _ => copy_error(&args.from, &args.data, &error),
    })?;
    print(args.format, &report, describe)
}

/// When the first event that is kept was accepted.
fn first_accepted(source: &ReadOnlyStore) -> Option<AcceptedTime> {
    let reader = source.reader();
    let mut frames = reader.frames(reader.first_kept()).ok()?;
    Some(frames.next_frame().ok()??.frame().header().accepted_time)
}

fn describe(report: &CopyReport) -> String {
    let mut text = describe_copy(report);
    match report.epoch_started {
        Some(epoch) => text.push_str(&format!(
            "\nepoch {epoch} begins at sequence {}: sequences {} to {} of the backup are not in it\n\
             append to this store or to the original, never to both",
            report.through + 1,
            report.through + 1,
            report.source_last
        )),
        None => text.push_str(
            "\nthe next node to open it begins a new epoch; if the original has gone on since the backup, append to one of \
             the two, never to both",
        ),
    }
    text
}
