//! `matchtape hold`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use matchtape_client::time::rfc3339;
use matchtape_schemas::Sequence;
use matchtape_storage::{HoldError, PinError};
use serde::{Deserialize, Serialize};

use super::super::error::CliError;
use super::super::inspect::ReportFormat;
use super::super::query::{path_below, server};
use super::super::store;
use super::{now, open_for_change, print};
use crate::server::{Method, ServerError};

/// Legal holds: nothing from their first event on is dropped until they are lifted.
///
/// A hold is part of the tape's directory and outlives every restart. Retention never breaks it; it only alarms when a hold
/// keeps much. The oldest events go first, so what keeps one keeps all behind it: a hold has a beginning and no end. While a node runs
/// on the directory, holds are placed and lifted through it (--server).
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  matchtape hold add --data tape/ --name case-2026-17 --from 1200000
  matchtape hold add --data tape/ --name case-2026-18 --from end        (what comes from now on)
  matchtape hold add --server http://127.0.0.1:7474 --name case-2026-17 --from 1200000      (a running node)
  matchtape hold list --data tape/                                      (also beside a running node)
  matchtape hold rm --data tape/ --name case-2026-17")]
pub(in super::super) struct HoldArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Place a hold, or move the one of that name back
    Add {
        #[command(flatten)]
        tape: Tape,
        /// What it is called: 1 to 64 bytes
        #[arg(long)]
        name: String,
        /// The first event that stays; `end`: the next one [default: the first there is]
        #[arg(long, value_name = "SEQUENCE", value_parser = from)]
        from: Option<Start>,
    },
    /// Show the holds
    List {
        #[command(flatten)]
        tape: Tape,
    },
    /// Lift a hold
    Rm {
        #[command(flatten)]
        tape: Tape,
        /// What it is called
        #[arg(long)]
        name: String,
    },
}

/// Which tape, and how the answer is written.
#[derive(Args, Debug)]
struct Tape {
    /// The tape's directory
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    data: Option<PathBuf>,
    /// The gateway of the node that writes the tape [default: MATCHTAPE_SERVER, if set]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// How it is written [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

/// Where a hold begins.
#[derive(Clone, Copy, Debug)]
enum Start {
    Sequence(Sequence),
    End,
}

fn from(text: &str) -> Result<Start, String> {
    match text.parse() {
        Ok(number) => Ok(Start::Sequence(Sequence(number))),
        Err(_) if text == "end" => Ok(Start::End),
        Err(_) => Err(format!("{text:?} is neither a sequence nor `end`")),
    }
}

/// What became of a hold, as a gateway says it too.
#[derive(Serialize, Deserialize, Debug)]
struct Report {
    name: String,
    /// Left out: it is lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<u64>,
    /// The last event of the tape then.
    last: u64,
}

/// A hold there is, as a gateway says it too.
#[derive(Serialize, Deserialize, Debug)]
struct Hold {
    name: String,
    from: u64,
    /// ns, in digits.
    placed_at: String,
}

#[derive(Deserialize)]
struct Holds {
    holds: Vec<Hold>,
}

pub(in super::super) fn run(args: &HoldArgs) -> Result<(), CliError> {
    match &args.what {
        What::Add { tape, name, from } => {
            let report = match &tape.data {
                Some(data) => add(data, name, *from)?,
                None => {
                    let from = from.map(|from| match from {
                        Start::Sequence(from) => ("from", from.to_string()),
                        Start::End => ("from", "end".to_owned()),
                    });
                    change(tape, Method::Put, name, from.as_slice())?
                }
            };
            print(tape.format, &report, describe)
        }
        What::List { tape } => {
            let holds = match &tape.data {
                Some(data) => {
                    let holds = store::open(data)?.inspect().holds.into_iter();
                    holds
                        .map(|hold| Hold {
                            name: hold.name,
                            from: hold.from,
                            placed_at: hold.placed_at.to_string(),
                        })
                        .collect()
                }
                None => server(tape.server.as_deref())?.object::<Holds>("/v1/holds", &[])?.holds,
            };
            print(tape.format, &holds, |holds| describe_all(holds))
        }
        What::Rm { tape, name } => {
            let report = match &tape.data {
                Some(data) => remove(data, name)?,
                None => change(tape, Method::Delete, name, &[])?,
            };
            print(tape.format, &report, describe)
        }
    }
}

/// Through the node that writes the tape.
fn change(
    tape: &Tape,
    method: Method,
    name: &str,
    parameters: &[(&str, String)],
) -> Result<Report, CliError> {
    let server = server(tape.server.as_deref())?;
    // It would be another path.
    if name.is_empty() || name == "." || name == ".." {
        return Err(CliError::with_advice(
            format_args!("{name:?} is no name that a gateway can be asked for"),
            "choose another --name",
        ));
    }
    server.send(method, &path_below("/v1/holds/", name), parameters, None::<&()>).map_err(|error| {
        if let ServerError::Refused { error: word, what_to_do, .. } = &error {
            let advice = match word.as_str() {
                "beyond_head" => "--from end holds what comes from now on",
                "hold_keeps_more" => {
                    "nothing was changed; a further hold has another --name, and `hold rm` lifts this one"
                }
                "unknown_hold" => "`matchtape hold list` shows them",
                _ => what_to_do.as_str(),
            };
            return CliError::with_advice(&error, advice);
        }
        error.into()
    })
}

fn add(data: &Path, name: &str, from: Option<Start>) -> Result<Report, CliError> {
    let store = open_for_change(data)?;
    let reader = store.reader();
    let from = match from {
        None => reader.first_kept(),
        Some(Start::Sequence(from)) => from.max(Sequence::FIRST),
        Some(Start::End) => reader.visible().next(),
    };
    store.hold(name, from, now()).map_err(|error| failed(data, &error))?;
    Ok(Report { name: name.to_owned(), from: Some(from.0), last: reader.visible().0 })
}

fn remove(data: &Path, name: &str) -> Result<Report, CliError> {
    let store = open_for_change(data)?;
    let lifted = store.lift_hold(name, now()).map_err(|error| failed(data, &error))?;
    if !lifted {
        return Err(CliError::with_advice(
            format_args!("{}: there is no hold {name:?}", data.display()),
            "`matchtape hold list` shows them",
        ));
    }
    Ok(Report { name: name.to_owned(), from: None, last: store.reader().visible().0 })
}

fn failed(data: &Path, error: &HoldError) -> CliError {
    let advice = match error {
        HoldError::Pin(PinError::BelowRetention { .. }) => "`matchtape inspect` shows the first event kept",
        HoldError::Beyond { .. } => "--from end holds what comes from now on",
        HoldError::Forward { .. } => {
            "nothing was changed; a further hold has another --name, and `hold rm` lifts this one"
        }
        HoldError::Characters => "choose another --name",
        HoldError::Pin(_) => "--name is what `matchtape hold list` shows it by",
        HoldError::Flush(_) => "check the space left on the device, and run it again",
    };
    CliError::with_advice(format_args!("{}: {error}", data.display()), advice)
}

fn describe(report: &Report) -> String {
    let Report { name, from, .. } = report;
    match from {
        Some(from) => format!("hold {name:?} keeps everything from sequence {from} on"),
        None => format!("hold {name:?} is lifted"),
    }
}

fn describe_all(holds: &[Hold]) -> String {
    let mut text = String::new();
    for hold in holds {
        let placed = hold.placed_at.parse().map_or_else(|_| hold.placed_at.clone(), rfc3339);
        let _ = writeln!(text, "{:?}: from sequence {}, placed {placed}", hold.name, hold.from);
    }
    if holds.is_empty() {
        text.push_str("no holds");
    }
    text
}
