//! `matchtape seal`

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args};
use matchtape_node::{Node, NodeOptions, PublishError, SealError, SealReport};
use matchtape_storage::wal::Preparation;
use serde::{Deserialize, Serialize};

use super::error::CliError;
use super::import::node_error;
use super::inspect::ReportFormat;
use super::proof::RootRow;
use super::{interrupt, store, upkeep};
use crate::full_disk::{LOOK, Waiting};
use crate::server::Method;

/// How long a disk may take to make the next segment and to close this one.
const LIMIT: Duration = Duration::from_secs(60);

/// Seal the log's open segment, so that everything up to now can be proven.
///
/// A segment of the log is sealed when it is full (`storage.segment_mib`), and `proof` knows only sealed ones: on a quiet tape, or
/// at the end of a day, this ends it early. The event that comes next is the segment's last; if none comes, the sequencer adds one
/// that says nothing new (`epoch_started` or `time_advanced`). If everything is sealed already, nothing is changed.
#[derive(Args, Debug)]
#[command(
    group(ArgGroup::new("tape").args(["data", "server"])),
    after_help = "Examples:
  matchtape seal --data tape/                       (no node may run on it)
  matchtape seal --server http://127.0.0.1:7474     (a running node)
  matchtape seal --data tape/ && matchtape proof roots --data tape/ > roots.jsonl"
)]
pub(super) struct SealArgs {
    /// The tape's directory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The gateway of the node that writes the tape [default: MATCHTAPE_SERVER, if set]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// How the report is written [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

/// What is sealed, as a gateway says it too.
#[derive(Serialize, Deserialize, Debug)]
struct Report {
    sealed: bool,
    through: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    segment: Option<RootRow>,
}

pub(super) fn run(args: &SealArgs) -> Result<(), CliError> {
    let report: Report = match (&args.data, &args.server) {
        (Some(data), _) => at_rest(data)?.into(),
        (None, server) => {
            let server = super::query::server(server.as_deref())?;
            server.send(Method::Post, "/v1/seal", &[], None::<&()>)?
        }
    };
    upkeep::print(args.format, &report, describe)
}

fn at_rest(data: &Path) -> Result<SealReport, CliError> {
    // A directory without a store is not made into one.
    drop(store::open(data)?);
    let stop = interrupt::flag()?;
    let mut options = NodeOptions { name: "seal".to_owned(), ..NodeOptions::default() };
    // The segment behind the sealed one, and no further one beside it.
    options.store.wal.preparation = Preparation::WhenNeeded;
    let node = Node::open(data, options, matchtape_market::projections())
        .map_err(|error| node_error(data, &error))?;
    let sealed = seal(&node, &stop);
    let closed = node.close().map_err(|error| node_error(data, &error));
    let Some(sealed) = sealed else {
        return Err(CliError::Interrupted(
            "interrupted: not everything is sealed; what is durable stays, and the same command goes on from here".to_owned(),
        ));
    };
    let report = sealed.map_err(|error| failed(data, &error))?;
    closed.map(|()| report)
}

/// `None`: it was stopped while the disk was full. The node's end ends the sealing then.
fn seal(node: &Node, stop: &AtomicBool) -> Option<Result<SealReport, SealError>> {
    let mut waiting = Waiting::new(stop, |text| eprintln!("{text}"));
    let deadline = Instant::now() + LIMIT;
    let (done, sealed) = std::sync::mpsc::channel();
    let sealer = node.sealer();
    std::thread::spawn(move || {
        let sealed = loop {
            match sealer.seal(deadline.saturating_duration_since(Instant::now())) {
                // Refused at once, and there may be room a little later.
                Err(SealError::Publish(PublishError::NoSpace)) if Instant::now() < deadline => {
                    std::thread::sleep(LOOK);
                }
                sealed => break sealed,
            }
        };
        // Nobody asks any more who was stopped.
        let _ = done.send(sealed);
    });
    loop {
        match sealed.recv_timeout(LOOK) {
            Ok(sealed) => return Some(sealed),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => panic!("the thread that seals has panicked"),
        }
        if waiting.gives_up(&node.store().space_problem()) {
            return None;
        }
    }
}

fn failed(data: &Path, error: &SealError) -> CliError {
    let advice = if error.may_pass() {
        "run it again: what is sealed by then stays sealed"
    } else {
        "check the space left on the device, and `matchtape verify` with the same --data"
    };
    CliError::with_advice(format_args!("{}: {error}", data.display()), advice)
}

impl From<SealReport> for Report {
    fn from(report: SealReport) -> Self {
        let SealReport { sealed, through, segment } = report;
        Self { sealed, through: through.0, segment: segment.as_ref().map(RootRow::of) }
    }
}

fn describe(report: &Report) -> String {
    if !report.sealed {
        return match report.through {
            0 => "the tape is empty: there is nothing to seal".to_owned(),
            through => format!("everything is sealed already, through sequence {through}"),
        };
    }
    match &report.segment {
        Some(segment) => format!("sealed  {}", segment.describe()),
        None => format!("sealed  through sequence {}", report.through),
    }
}
