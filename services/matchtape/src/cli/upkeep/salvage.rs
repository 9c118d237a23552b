//! `matchtape salvage`

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use matchtape_storage::{Disk, LockError, SalvageError, SalvageOptions, SalvageReport, Span, salvage};

use super::super::cold;
use super::super::error::CliError;
use super::super::inspect::ReportFormat;
use super::super::store::{self, NO_STORE};
use super::{print, progress_bar};

/// Make a store of what is left of a damaged one; without --apply, only say what would be left.
///
/// What is kept is the newest stretch of the tape without a hole that a node can go on from; what is behind or before the hole
/// cannot be part of the store. Events are taken from every table and from the log, whichever still has them. Damaged files are not
/// thrown away: they go to `salvage-N` in the data directory, under their old names. No node may run on the directory, not even for
/// a look: what it is in the midst of would seem damaged. Tables that have moved to a cold tier stay there; they are read where an
/// index over them has to be made anew, and at the end. Where the log has to go, the roots of its sound sealed segments stay known, as
/// far as the store has their events (`matchtape proof`).
#[derive(Args, Debug)]
#[command(after_help = "Exit codes: 0 sound, or done; 1 damaged and nothing was done.

Examples:
  matchtape salvage --data tape/                 (what would be kept, lost, and put aside)
  matchtape salvage --data tape/ --apply
  matchtape dump tape/salvage-1/tables/0000000000000004.events

If there is a backup, compare first: `matchtape restore` may lose less.")]
pub(in super::super) struct SalvageArgs {
    /// The damaged directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Do it
    #[arg(long)]
    apply: bool,
    /// How it is written [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

pub(in super::super) fn run(args: &SalvageArgs) -> Result<(), CliError> {
    let disk: Arc<dyn Disk> = Arc::new(store::disk(&args.data)?);
    let bar = progress_bar();
    let cold = cold::of(&args.data)?;
    let options = SalvageOptions { apply: args.apply, cold, ..SalvageOptions::default() };
    let salvaged = salvage(&disk, &options, &mut |step| {
        bar.set_length(step.bytes_total);
        bar.set_position(step.bytes);
        bar.set_message(step.file.display().to_string());
    });
    bar.finish_and_clear();
    let report = salvaged.map_err(|error| failed(args, &error))?;
    print(args.format, &report, describe)?;
    if report.is_sound() || report.applied {
        return Ok(());
    }
    Err(CliError::with_advice(
        format_args!("{}: damaged; nothing was changed", args.data.display()),
        "--apply does what is described above",
    ))
}

fn failed(args: &SalvageArgs, error: &SalvageError) -> CliError {
    let message = format_args!("{}: {error}", args.data.display());
    if let Some(advice) = store::system_advice(error) {
        return CliError::with_advice(message, advice);
    }
    let advice = match error {
        SalvageError::Lock(LockError::Held { .. }) => "stop the process that has the directory first",
        SalvageError::Lock(LockError::Disk(_)) | SalvageError::Disk(_) => {
            "run it again when the disk answers; nothing is lost by that"
        }
        SalvageError::Feature(_) => "nothing was changed; a table that cannot be read here may be whole",
        SalvageError::Version(_) | SalvageError::Log(_) => "use the release that has written the directory",
        SalvageError::Nothing => NO_STORE,
        SalvageError::Tapes { .. } => "move the files of the other tape away, and run it again",
        SalvageError::ColdNeeded { .. } => {
            "nothing was changed; MATCHTAPE_COLD__PLACE names the cold tier, and a build with `--features cold` reads it"
        }
        SalvageError::Cold { .. } => "nothing was changed; run it again when the cold tier answers",
        SalvageError::ReadBack(_) => "keep a copy of the directory before trying anything else",
    };
    CliError::with_advice(message, advice)
}

fn spans(spans: &[Span]) -> String {
    spans.iter().map(Span::to_string).collect::<Vec<_>>().join(", ")
}

fn describe(report: &SalvageReport) -> String {
    let mut text = String::new();
    for finding in &report.damage {
        let place = finding.offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
        let _ = writeln!(text, "damaged   {}{place}: {}", finding.file, finding.what);
    }
    if report.manifest_rebuilt {
        let _ = writeln!(text, "rebuilt   the manifest, from the files");
    }
    if report.is_sound() {
        return "nothing is damaged".to_owned();
    }
    match report.kept {
        Some(kept) => writeln!(text, "kept      sequences {kept}"),
        None => writeln!(text, "kept      nothing"),
    }
    .expect("a string takes everything");
    if !report.lost.is_empty() {
        let _ = writeln!(text, "lost      sequences {}", spans(&report.lost));
    }
    if !report.aside.is_empty() {
        let _ = writeln!(
            text,
            "aside     sequences {}: readable, but behind or before a hole",
            spans(&report.aside)
        );
    }
    let _ = writeln!(
        text,
        "made anew {} event tables, {} index tables{}",
        report.tables_rebuilt,
        report.indexes_rebuilt,
        if report.log_kept { "" } else { "; a new log begins when the store is opened" }
    );
    if report.roots_kept > 0 {
        let _ = writeln!(text, "roots     of {} sealed segments stay known", report.roots_kept);
    }
    if let Some(epoch) = report.epoch_started {
        let _ = writeln!(text, "epoch     {epoch} begins behind the last event kept");
    }
    if let Some(directory) = &report.directory {
        let _ = writeln!(text, "aside     {} files, to {directory}/:", report.files_aside.len());
        for file in &report.files_aside {
            let _ = writeln!(text, "          {file}");
        }
    }
    if !report.objects_aside.is_empty() {
        let _ = writeln!(
            text,
            "aside     {} objects of the cold tier, which stay where they are:",
            report.objects_aside.len()
        );
        for key in &report.objects_aside {
            let _ = writeln!(text, "          {key}");
        }
    }
    for warning in &report.warnings {
        let _ = writeln!(text, "warning   {warning}");
    }
    if let Some(verified) = &report.verified {
        let _ = writeln!(
            text,
            "read back {} events and {} postings: {}",
            verified.events,
            verified.postings,
            if verified.is_sound() { "sound" } else { "not sound, see `matchtape verify`" }
        );
    }
    text
}
