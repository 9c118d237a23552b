//! `matchtape hold`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use matchtape_client::time::rfc3339;
use matchtape_schemas::Sequence;
use matchtape_storage::{HoldError, HoldView, PinError};
use serde::Serialize;

use super::super::error::CliError;
use super::super::inspect::ReportFormat;
use super::super::store;
use super::{now, open_for_change, print};

/// Legal holds: nothing from their first event on is dropped until they are lifted.
///
/// A hold is part of the tape's directory and outlives every restart. Retention never breaks it; it only alarms when a hold
/// keeps much. To place or lift one, no node may run on the directory.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  matchtape hold add --data tape/ --name case-2026-17 --from 1200000
  matchtape hold add --data tape/ --name case-2026-18 --from end        (what comes from now on)
  matchtape hold list --data tape/
  matchtape hold rm --data tape/ --name case-2026-17")]
pub(in super::super) struct HoldArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Place a hold, or move the one of that name back
    Add {
        /// The tape's directory
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// What it is called: 1 to 64 bytes
        #[arg(long)]
        name: String,
        /// The first event that stays; `end`: the next one [default: the first there is]
        #[arg(long, value_name = "SEQUENCE", value_parser = from)]
        from: Option<Start>,
        /// How it is written [default: text on a terminal, else json]
        #[arg(long, value_enum)]
        format: Option<ReportFormat>,
    },
    /// Show the holds
    List {
        /// The tape's directory
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// How it is written [default: text on a terminal, else json]
        #[arg(long, value_enum)]
        format: Option<ReportFormat>,
    },
    /// Lift a hold
    Rm {
        /// The tape's directory
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// What it is called
        #[arg(long)]
        name: String,
        /// How it is written [default: text on a terminal, else json]
        #[arg(long, value_enum)]
        format: Option<ReportFormat>,
    },
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

/// What became of a hold.
#[derive(Serialize, Debug)]
struct Report<'a> {
    name: &'a str,
    /// Left out: it is lifted.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<u64>,
    /// The last event of the tape then.
    last: u64,
}

pub(in super::super) fn run(args: &HoldArgs) -> Result<(), CliError> {
    match &args.what {
        What::Add { data, name, from, format } => {
            let store = open_for_change(data)?;
            let reader = store.reader();
            let from = match from {
                None => reader.first_kept(),
                Some(Start::Sequence(from)) => (*from).max(Sequence::FIRST),
                Some(Start::End) => reader.visible().next(),
            };
            store.hold(name, from, now()).map_err(|error| failed(data, &error))?;
            let report = Report { name, from: Some(from.0), last: reader.visible().0 };
            print(*format, &report, |_| format!("hold {name:?} keeps everything from sequence {from} on"))
        }
        What::List { data, format } => {
            let holds = store::open(data)?.inspect().holds;
            print(*format, &holds, |holds| describe(holds))
        }
        What::Rm { data, name, format } => {
            let store = open_for_change(data)?;
            let lifted = store.lift_hold(name, now()).map_err(|error| failed(data, &error))?;
            if !lifted {
                return Err(CliError::with_advice(
                    format_args!("{}: there is no hold {name:?}", data.display()),
                    "`matchtape hold list` shows them",
                ));
            }
            let report = Report { name, from: None, last: store.reader().visible().0 };
            print(*format, &report, |_| format!("hold {name:?} is lifted"))
        }
    }
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

fn describe(holds: &[HoldView]) -> String {
    let mut text = String::new();
    for hold in holds {
        let _ = writeln!(
            text,
            "{:?}: from sequence {}, placed {}",
            hold.name,
            hold.from,
            rfc3339(hold.placed_at)
        );
    }
    if holds.is_empty() {
        text.push_str("no holds");
    }
    text
}
