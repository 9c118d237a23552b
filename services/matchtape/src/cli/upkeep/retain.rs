//! `matchtape retain`

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use matchtape_storage::{Restraint, RetentionChoice, RetentionPolicy};

use super::super::error::CliError;
use super::super::inspect::ReportFormat;
use super::super::position::Interval;
use super::super::retention::in_words;
use super::super::store::{self, open_error};
use super::{now, open_for_change, print, spinner};

/// Show which old files would go, and why not more; with --apply, drop them.
///
/// Each rule is a reason to drop: what one of them drops goes, unless a legal hold, a snapshot or (in a running node) a
/// standby, a consumer or an upload still needs it. Without --apply nothing is changed, and it works beside a running node; pins of that
/// node are not seen then. A running node drops old files itself, as `[retention]` in its configuration says; the rules mean the
/// same here and there. How much of the log stays beside the tables is `storage.log_kept_mib`.
///
/// Snapshots that stand close to each other are thinned by the same run; the newest two stay. Without a rule nothing goes, no snapshot
/// either: a running node thins them by itself.
///
/// The newest event table that holds more than the sequencer's own events always stays. Rules that ask for it, too, ask for the whole
/// tape to go: that is done only with --everything.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  matchtape retain --data tape/ --age 30d                         (what would go)
  matchtape retain --data tape/ --trading-days 250 --apply
  matchtape retain --data tape/ --max-bytes 500GiB --apply")]
pub(in super::super) struct RetainArgs {
    /// The tape's directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Drop what was accepted longer ago than this (30d, 12h)
    #[arg(long, value_name = "TIME")]
    age: Option<Interval>,
    /// Keep so many closed trading days and the running one. 0: all, as without it
    #[arg(long, value_name = "DAYS")]
    trading_days: Option<u32>,
    /// Drop the oldest until tables and snapshots take at most this much of the local disk (500GiB, 20000000). What is in the cold tier
    /// does not count, and is not dropped for it. 0: whatever they take, as without it
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_bytes: Option<u64>,
    /// A section of snapshots that nobody will ask for again; repeat for more
    #[arg(long, value_name = "NAME")]
    abandon_section: Vec<String>,
    /// Do it
    #[arg(long)]
    apply: bool,
    /// With --apply: do it though the rules ask for the whole tape to go
    #[arg(long, requires = "apply")]
    everything: bool,
    /// How it is written [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

/// A number of bytes with an optional unit.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(format!("{unit:?} is not a unit of bytes: KiB, MiB, GiB, TiB")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a size such as 500GiB"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too much"))
}

pub(in super::super) fn run(args: &RetainArgs) -> Result<(), CliError> {
    let policy = RetentionPolicy {
        age: args.age.map(|age| Duration::from_nanos(age.ns.unsigned_abs())),
        trading_days: args.trading_days.filter(|days| *days > 0),
        bytes: args.max_bytes.filter(|bytes| *bytes > 0),
        abandoned_sections: args.abandon_section.clone(),
        ..RetentionPolicy::default()
    };
    let bar = spinner("opening");
    let choice = if args.apply && policy.has_rule() {
        let store = open_for_change(&args.data)?;
        bar.set_message("reading what the rules ask for, and dropping");
        let now = now();
        if !args.everything {
            let choice = store.plan_retention(&policy, now)?;
            if wants_everything(&choice) {
                bar.finish_and_clear();
                return Err(everything_not_asked_for(args, &choice));
            }
        }
        store.retain(&policy, now).map_err(|error| {
            CliError::with_advice(
                format_args!("{}: {error}", args.data.display()),
                "what is kept is whole; run it again when the cause is gone",
            )
        })?
    } else {
        let store = store::open(&args.data)?;
        bar.set_message("reading what the rules ask for");
        let choice = store.plan_retention(&policy, now()).map_err(|error| open_error(&args.data, &error))?;
        if policy.has_rule() { choice } else { without_thinning(choice) }
    };
    bar.finish_and_clear();
    print(args.format, &choice, |choice| match policy.has_rule() {
        true => describe(choice, args.apply),
        false => format!(
            "no rule says what may go (--age, --trading-days, --max-bytes): nothing does, {} bytes stay\n",
            choice.kept_bytes
        ),
    })
}

/// The choice of a policy without a rule, as far as it is asked for here: nobody who gives no rule wants anything to go.
fn without_thinning(choice: RetentionChoice) -> RetentionChoice {
    let kept_bytes = choice.kept_bytes + choice.dropped_bytes;
    RetentionChoice { dropped: Vec::new(), dropped_bytes: 0, kept_bytes, ..choice }
}

/// Whether the rules ask for every event that came from outside, and some of them would go.
fn wants_everything(choice: &RetentionChoice) -> bool {
    choice.restraints.contains(&Restraint::NewestTable) && choice.first_kept > choice.first_kept_before
}

fn everything_not_asked_for(args: &RetainArgs, choice: &RetentionChoice) -> CliError {
    CliError::with_advice(
        format_args!(
            "{}: the rules ask for the whole tape to go; sequences {} to {} and {} bytes would, {} bytes stay",
            args.data.display(),
            choice.first_kept_before,
            choice.first_kept - 1,
            choice.dropped_bytes,
            choice.kept_bytes
        ),
        "nothing was changed; --everything does it if that is what is meant",
    )
}

fn describe(choice: &RetentionChoice, applied: bool) -> String {
    let mut text = String::new();
    let goes = if applied { "dropped" } else { "would go" };
    for file in &choice.dropped {
        let _ = writeln!(text, "{goes:9} {}", in_words(file));
    }
    let _ = writeln!(
        text,
        "first kept {} (was {}, the rules alone: {}); {} bytes go, {} stay",
        choice.first_kept,
        choice.first_kept_before,
        choice.first_wanted,
        choice.dropped_bytes,
        choice.kept_bytes
    );
    for restraint in &choice.restraints {
        let _ = writeln!(text, "not more, because {restraint}");
    }
    for advisory in &choice.advisories {
        let _ = writeln!(text, "advisory: {advisory}");
    }
    if !applied && !choice.dropped.is_empty() {
        let flags = if wants_everything(choice) {
            "the rules ask for the whole tape to go: --apply --everything does it"
        } else {
            "--apply does it"
        };
        let _ = writeln!(text, "nothing was changed; {flags}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        assert_eq!(bytes("20"), Ok(20));
        assert_eq!(bytes("3KiB"), Ok(3072));
        assert_eq!(bytes("2TiB"), Ok(2 << 40));
        for wrong in ["", "GiB", "1GB", "-1", "99999999999TiB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
