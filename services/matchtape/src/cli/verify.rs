//! `matchtape verify`

use std::io::{BufWriter, IsTerminal, Write, stdout};
use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use matchtape_market::projections;
use matchtape_schemas::{Projection, Sequence};
use matchtape_storage::{Finding, ReadError, Reader, VerifyReport};

use super::error::CliError;
use super::inspect::ReportFormat;
use super::store;

/// Read everything and check it: checksums, chains, indexes rebuilt and compared, snapshots folded again and compared.
///
/// Read-only: it repairs nothing, and works beside a running writer.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit codes: 0 sound, 1 something is wrong.\n\nExamples:\n  matchtape verify --data tape/"
)]
pub(super) struct VerifyArgs {
    /// The tape's directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// How it is written [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

pub(super) fn run(args: &VerifyArgs) -> Result<(), CliError> {
    let store = store::open(&args.data)?;
    let bar = if std::io::stderr().is_terminal() {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("[{bar:40}] {bytes}/{total_bytes}  {wide_msg}");
        bar.with_style(style.expect("the template is right"))
    } else {
        ProgressBar::hidden()
    };
    let mut report = store.verify(&mut |progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes);
        bar.set_message(progress.file);
    })?;
    bar.finish_and_clear();
    // Not of a damaged tape: its findings say more than a fold that ends in one of them.
    if report.is_sound() {
        // A node beside this one has gone on; what it has merged meanwhile may have no file any more.
        store.refresh().map_err(|error| store::open_error(&args.data, &error))?;
        let reader = store.reader();
        report.findings.extend(compare_snapshot(&reader, projections())?);
    }
    print(args, &report)?;
    if report.is_sound() {
        Ok(())
    } else {
        Err(CliError::with_advice(
            format_args!("{}: {} findings", args.data.display(), report.findings.len()),
            "nothing was changed; `matchtape salvage` with the same --data tells what could be saved",
        ))
    }
}

/// Folds projections from the first event to the newest snapshot and compares them with what is there.
fn compare_snapshot(
    reader: &Reader,
    mut projections: Vec<Box<dyn Projection>>,
) -> Result<Vec<Finding>, ReadError> {
    if reader.first_kept() > Sequence::FIRST {
        return Ok(Vec::new());
    }
    let Some(snapshot) = reader.snapshot_before(Sequence::MAX)? else { return Ok(Vec::new()) };
    let section = |projection: &dyn Projection| {
        let section = snapshot.section(projection.name());
        section.filter(|section| section.version == projection.version())
    };
    projections.retain(|projection| section(&**projection).is_some());
    let mut frames = reader.frames(Sequence::FIRST)?;
    'fold: while let Some(frame) = frames.next_frame()? {
        for event in frame.frame().events() {
            if event.sequence() > snapshot.sequence() {
                break 'fold;
            }
            projections.iter_mut().for_each(|projection| projection.apply(&event));
        }
    }
    let mut findings = Vec::new();
    for projection in &projections {
        let section = section(&**projection).expect("those without one were left out");
        let mut folded = Vec::new();
        projection.save(&mut folded);
        if folded == section.bytes {
            continue;
        }
        let differs = folded.iter().zip(&section.bytes).take_while(|(left, right)| left == right).count();
        findings.push(Finding {
            file: format!("the snapshot at sequence {}", snapshot.sequence()),
            offset: None,
            what: format!(
                "section {} is not what its events make: {} bytes, expected {}, different from byte {differs} of it on",
                section.name,
                section.bytes.len(),
                folded.len()
            ),
        });
    }
    Ok(findings)
}

fn print(args: &VerifyArgs, report: &VerifyReport) -> Result<(), CliError> {
    let mut out = BufWriter::new(stdout());
    match ReportFormat::or_default(args.format) {
        ReportFormat::Json => {
            serde_json::to_writer_pretty(&mut out, report).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        ReportFormat::Text => {
            for finding in &report.findings {
                match finding.offset {
                    Some(offset) => writeln!(out, "{} at byte {offset}: {}", finding.file, finding.what)?,
                    None => writeln!(out, "{}: {}", finding.file, finding.what)?,
                }
            }
            writeln!(
                out,
                "{}: {} events in tables and {} in the log alone, {} frames, {} blocks, {} postings, {} snapshots, {} sealed segments \
                 checked",
                if report.is_sound() { "sound" } else { "not sound" },
                report.events,
                report.log_events,
                report.frames,
                report.blocks,
                report.postings,
                report.snapshots,
                report.sealed_segments
            )?;
        }
    }
    out.flush()?;
    Ok(())
}
