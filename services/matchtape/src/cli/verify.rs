//! `matchtape verify`

use std::io::{BufWriter, IsTerminal, Write, stdout};
use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use matchtape_market::projections;
use matchtape_node::ProducerMarks;
use matchtape_schemas::{Projection, Sequence};
use matchtape_storage::{Finding, ReadError, Reader, SnapshotView, VerifyReport};

use super::error::CliError;
use super::inspect::ReportFormat;
use super::store;

/// Read everything and check it: checksums, chains, indexes rebuilt and compared, snapshots folded again and compared.
///
/// Every snapshot is compared with what the events make, from the first event on; where retention has dropped that, from the
/// oldest snapshot on, which is then taken as it is. Of what programs of others keep in snapshots only the checksums are looked at.
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
        let mut kept = projections();
        kept.push(Box::new(ProducerMarks::default()));
        let bar = folding_bar();
        let snapshots = store.inspect().snapshots;
        report.findings.extend(compare_snapshots(&reader, &snapshots, kept, &bar)?);
        bar.finish_and_clear();
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

/// Events done of events in all; silent where standard error is no terminal.
fn folding_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("[{bar:40}] {human_pos}/{human_len} events  {wide_msg}");
    ProgressBar::new(0)
        .with_style(style.expect("the template is right"))
        .with_message("folding snapshots again")
}

/// A projection, and whether it has a state to go on from.
struct Folded {
    projection: Box<dyn Projection>,
    begun: bool,
}

/// Folds projections through all snapshots, oldest first, and compares them with each. The fold goes on from what the events make,
/// not from what a snapshot says: one that is wrong makes no later one wrong.
fn compare_snapshots(
    reader: &Reader,
    snapshots: &[SnapshotView],
    projections: Vec<Box<dyn Projection>>,
    bar: &ProgressBar,
) -> Result<Vec<Finding>, ReadError> {
    let (first_kept, visible) = (reader.first_kept(), reader.visible());
    let begun = first_kept <= Sequence::FIRST;
    let mut folded: Vec<Folded> =
        projections.into_iter().map(|projection| Folded { projection, begun }).collect();
    let kept = first_kept.previous().get()..=visible.get();
    let mut due = snapshots.iter().filter(|snapshot| kept.contains(&snapshot.sequence)).peekable();
    let Some(oldest) = due.peek() else { return Ok(Vec::new()) };
    let start = if begun { Sequence::FIRST } else { Sequence(oldest.sequence).next() };
    bar.set_length(visible.get());
    let mut findings = Vec::new();
    if start <= visible {
        let mut frames = reader.frames(start)?;
        'fold: while let Some(frame) = frames.next_frame()? {
            for event in frame.frame().events().filter(|event| event.sequence() >= start) {
                while let Some(snapshot) = due.next_if(|next| next.sequence < event.sequence().get()) {
                    compare(reader, snapshot, &mut folded, &mut findings)?;
                }
                if due.peek().is_none() {
                    break 'fold;
                }
                let going = folded.iter_mut().filter(|folded| folded.begun);
                going.for_each(|folded| folded.projection.apply(&event));
            }
            bar.set_position(frame.frame().header().last_sequence().get());
        }
    }
    for snapshot in due {
        compare(reader, snapshot, &mut folded, &mut findings)?;
    }
    Ok(findings)
}

/// Compares a snapshot with what was folded up to it. What has no state yet begins with it.
fn compare(
    reader: &Reader,
    view: &SnapshotView,
    folded: &mut [Folded],
    findings: &mut Vec<Finding>,
) -> Result<(), ReadError> {
    // Thinned by a node meanwhile: an older one is found in its place.
    let found = reader.snapshot_before(Sequence(view.sequence))?;
    let Some(snapshot) = found.filter(|found| found.sequence().get() == view.sequence) else { return Ok(()) };
    let finding = |what| Finding { file: view.file.clone(), offset: None, what };
    for Folded { projection, begun } in folded {
        let section = snapshot.section(projection.name());
        let Some(section) = section.filter(|section| section.version == projection.version()) else {
            continue;
        };
        if !*begun {
            match projection.restore(&section.bytes) {
                Ok(()) => *begun = true,
                Err(error) => findings.push(finding(error.to_string())),
            }
            continue;
        }
        let mut made = Vec::new();
        projection.save(&mut made);
        if made == section.bytes {
            continue;
        }
        let same = made.iter().zip(&section.bytes).take_while(|(left, right)| left == right).count();
        findings.push(finding(format!(
            "section {} is not what the events up to sequence {} make: {} bytes, expected {}, different from byte {same} of it on",
            section.name,
            view.sequence,
            section.bytes.len(),
            made.len()
        )));
    }
    Ok(())
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
