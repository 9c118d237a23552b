//! `matchtape watch`: the judge beside a running node.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use matchtape_bus::{BusName, BusService, WakeUp};
use matchtape_node::FollowedHistory;
use matchtape_schemas::{Sequence, Stage};
use matchtape_subscription::check::{Checker, Promise, Watch};
use matchtape_subscription::{
    BusLive, RealTime, RealTimeOptions, Start, Subscription, SubscriptionError, Update,
};
use serde::Serialize;

use super::error::CliError;
use super::inspect::ReportFormat;
use super::{follow, interrupt, store};

/// Judge a running tape from outside: every event as a subscriber is given it, against the rules and against the log.
///
/// It subscribes as any program of this machine does, and reads the directory by itself; the node does not know it from another
/// subscriber. Judged are: positions, without gap or repetition whatever joins, leaves, lags, fails or starts again; every event,
/// byte for byte and with its term as the log has it there; terms, groups, the numbers of producers, late marks; the stage that an
/// event is labelled with, and the watermarks that came along; with --speculative, that only what was merely accepted is retracted,
/// and that all the rest is on the log as it was shown. The first 8 things that it finds it says at once, more it counts; the verdict
/// comes at the end, and is clean only where events came by the bus or there were none.
///
/// Told to stop, it first goes on to where the tape is then, and compares what it was shown last, which the log proves a moment
/// later. It takes a subscriber's place on the bus, and never makes the node wait.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit codes: 0 everything that was shown was judged and is right (also when ended by Ctrl-C or SIGTERM); 1 a \
rule was broken, or something could not be judged.

Examples:
  matchtape watch --data tape/                                     (until Ctrl-C)
  matchtape watch --data tape/ --duration 10m --format json        (ten minutes, then a verdict)
  matchtape watch --data tape/ --through 50000                     (until that event has come)
  matchtape watch --data tape/ --speculative                       (what is shown before it is durable)"
)]
pub(super) struct WatchArgs {
    /// The tape's directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where to begin: new, beginning, a sequence, or a time
    #[arg(long, value_name = "POSITION", default_value = "new", value_parser = follow::start)]
    from: Start,
    /// Accepted events, before they are durable
    #[arg(long)]
    speculative: bool,
    /// From which stage on the node shows events, as `node.visible_at` says
    #[arg(long, value_enum, value_name = "STAGE", default_value_t = VisibleAtArg::Durable)]
    visible_at: VisibleAtArg,
    /// The namespace of the bus, as the node has it
    #[arg(long, value_name = "NAME", default_value = "matchtape")]
    namespace: String,
    /// The folder of the bus, as the node has it
    #[arg(long, value_name = "DIR")]
    bus_root: Option<PathBuf>,
    /// Stop after the event with this sequence
    #[arg(long, value_name = "SEQUENCE")]
    through: Option<u64>,
    /// Stop after this long
    #[arg(long, value_name = "TIME", value_parser = super::position::duration)]
    duration: Option<Duration>,
    /// Stopped, go on for so long at most, to where the tape is then and until the log proves what was shown last
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = super::position::duration)]
    patience: Duration,
    /// How the verdict is written [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum VisibleAtArg {
    Durable,
    Written,
}

/// How soon a signal is noticed where nothing comes.
const TURN: Duration = Duration::from_millis(50);
/// Between two lines that say how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// The verdict, as JSON.
#[derive(Serialize)]
struct Verdict {
    /// `clean`, `violated`, or `incomplete`: nothing was found, but not all was judged.
    verdict: &'static str,
    first_sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_sequence: Option<u64>,
    events: u64,
    /// Events that came by the bus, also such as were taken back; the others were read from the log.
    live: u64,
    /// Events that the log has as they were shown; one that was taken back and shown again may count twice.
    compared: u64,
    uncompared: u64,
    joins: u64,
    leaves: u64,
    lagging: u64,
    restarts: u64,
    heartbeats: u64,
    alarms: u64,
    late: u64,
    retractions: u64,
    retracted_events: u64,
    violations: u64,
    /// What was not judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
    /// The first few in words.
    found: Vec<String>,
}

/// How it ended.
enum End {
    /// The last event that was asked for was shown.
    Reached,
    /// Somebody, or the clock, has ended it.
    Stopped,
    /// The subscription, or the log.
    Failed(SubscriptionError),
}

pub(super) fn run(args: &WatchArgs) -> Result<(), CliError> {
    let stop = interrupt::flag()?;
    let store = store::open(&args.data)?;
    let name = follow::bus_name(&args.namespace, args.bus_root.as_deref(), store.tape())?;
    let (service, stage) = if args.speculative {
        (BusService::Speculative, Stage::Accepted)
    } else {
        (BusService::Live, Stage::Visible)
    };
    let visible_at = match args.visible_at {
        VisibleAtArg::Durable => Stage::Replicated,
        VisibleAtArg::Written => Stage::Written,
    };
    // Nobody waits for what it has to say: it need not look before it sleeps.
    let live = BusLive::new(&name, service, WakeUp::Event, Duration::ZERO);
    let options = RealTimeOptions { start: args.from, ..RealTimeOptions::default() };
    let subscription = RealTime::open(FollowedHistory::new(store), live, options).map_err(follow::failed)?;
    // Opened anew: nothing that the subscription has read is taken for granted.
    let log = FollowedHistory::new(store::open(&args.data)?);
    let promise = Promise { stage, visible_at, ..Promise::VISIBLE };
    let checker = Checker::new(promise, subscription.position(), ());
    let mut watch = Watch::new(subscription, log, checker);

    let deadline = args.duration.and_then(|limit| Instant::now().checked_add(limit));
    let mut teller =
        Teller { bus: &name, heard: false, silent: false, live: 0, violations: 0, said_at: Instant::now() };
    let mut end = loop {
        if args.through.is_some_and(|last| watch.checker().resume_at() > Sequence(last)) {
            break End::Reached;
        }
        if stop.load(Ordering::Relaxed) || deadline.is_some_and(|limit| Instant::now() >= limit) {
            break End::Stopped;
        }
        if let Err(error) = watch.step(TURN, &mut |update| teller.tell(update)) {
            break End::Failed(error);
        }
        teller.progress(watch.checker());
    };
    let until = match end {
        End::Reached | End::Failed(_) => watch.checker().next(),
        End::Stopped => watch.end_by_now(),
    };
    let settled = match watch.settle(until, args.patience, &mut |update| teller.tell(update)) {
        Ok(settled) => settled,
        Err(error) => {
            end = End::Failed(error);
            false
        }
    };
    teller.found(watch.checker());
    let missing = missing(watch.checker(), &teller, until, settled);
    judge(args, watch.checker(), teller.live, settled, missing, end)
}

/// What is said on standard error as it goes.
struct Teller<'a> {
    bus: &'a BusName,
    heard: bool,
    /// Since an alarm.
    silent: bool,
    /// Events that came by the bus.
    live: u64,
    violations: usize,
    said_at: Instant,
}

impl Teller<'_> {
    fn tell(&mut self, update: &Update<'_>) {
        match update {
            Update::Events(events) if events.watermarks().is_some() => {
                self.live += events.last().next().get().saturating_sub(events.first().get());
            }
            Update::Events(_) | Update::Window(_) | Update::Heartbeat { .. } | Update::Ended { .. } => {}
            notice @ (Update::LiveJoined { .. }
            | Update::LiveLeft { .. }
            | Update::Lagging { .. }
            | Update::CaughtUp { .. }
            | Update::Alarm { .. }
            | Update::Retract { .. }
            | Update::PublisherRestarted { .. }
            | Update::Ahead { .. }) => {
                self.heard |= matches!(notice, Update::LiveJoined { .. });
                match notice {
                    Update::Alarm { .. } => self.silent = true,
                    Update::LiveJoined { .. } | Update::PublisherRestarted { .. } => self.silent = false,
                    _ => {}
                }
                eprintln!("{}", follow::in_words(notice, Some(self.bus).filter(|_| !self.heard)));
            }
        }
    }

    fn found(&mut self, checker: &Checker) {
        for violation in &checker.violations()[self.violations..] {
            eprintln!("violated: {violation}");
        }
        self.violations = checker.violations().len();
    }

    fn progress(&mut self, checker: &Checker) {
        self.found(checker);
        if self.said_at.elapsed() >= PROGRESS_EVERY {
            self.said_at = Instant::now();
            eprintln!(
                "through sequence {}: {} events, {} of them compared with the log, {} violations",
                checker.next().previous(),
                checker.events(),
                checker.counts().compared,
                checker.violated()
            );
        }
    }
}

/// What was shown and could not be compared. Settled, only what was accepted since it was told to stop is left, which nobody
/// waits for.
fn uncompared(checker: &Checker, settled: bool) -> Option<Sequence> {
    checker.uncompared().filter(|_| !settled)
}

/// What was not judged, in words.
fn missing(checker: &Checker, teller: &Teller<'_>, until: Sequence, settled: bool) -> Option<String> {
    let counts = checker.counts();
    let shown = checker.next();
    if !settled && shown < until {
        let (shown, until) = (shown.previous(), until.previous());
        Some(format!(
            "shown through {shown}, the tape is at {until}: it did not come to there within --patience"
        ))
    } else if let Some(first) = uncompared(checker, settled) {
        Some(format!("events from {first} on were shown, which the log does not prove: is the node down?"))
    } else if counts.below_retention > 0 {
        Some(format!(
            "{} events were shown that retention had dropped before the log was read",
            counts.below_retention
        ))
    } else if counts.joined == 0 {
        Some("nothing came by the bus: only the log was read".to_owned())
    } else if teller.silent {
        Some("the bus was silent at the end: is the node down?".to_owned())
    } else if teller.live == 0 && checker.events() > 0 {
        Some(format!("none of the {} events came by the bus: they were read from the log", checker.events()))
    } else {
        None
    }
}

fn judge(
    args: &WatchArgs,
    checker: &Checker,
    live: u64,
    settled: bool,
    missing: Option<String>,
    end: End,
) -> Result<(), CliError> {
    let counts = checker.counts();
    let left = uncompared(checker, settled)
        .map_or(0, |first| checker.next().get().saturating_sub(first.get()))
        + counts.below_retention;
    let contradicted = matches!(end, End::Failed(SubscriptionError::Handover(_)));
    let verdict = if !checker.is_clean() || contradicted {
        "violated"
    } else if missing.is_some() || matches!(end, End::Failed(_)) {
        "incomplete"
    } else {
        "clean"
    };
    let last_sequence = (checker.events() > 0).then(|| checker.next().previous().get());
    let report = Verdict {
        verdict,
        first_sequence: checker.first().get(),
        last_sequence,
        events: checker.events(),
        live,
        compared: counts.compared,
        uncompared: left,
        joins: counts.joined,
        leaves: counts.left,
        lagging: counts.lagging,
        restarts: counts.restarts,
        heartbeats: counts.heartbeats,
        alarms: counts.alarms,
        late: counts.late,
        retractions: counts.retractions,
        retracted_events: counts.retracted,
        violations: checker.violated(),
        missing: missing.clone(),
        found: checker.violations().to_vec(),
    };
    let mut out = stdout().lock();
    match ReportFormat::or_default(args.format) {
        ReportFormat::Json => {
            serde_json::to_writer(&mut out, &report).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        ReportFormat::Text => {
            let range = last_sequence
                .map_or_else(String::new, |last| format!(", sequences {} to {last}", report.first_sequence));
            writeln!(
                out,
                "{verdict}: {} events{range}, {live} of them by the bus; {} compared with the log, {left} not; {} violations; {} joins, {} leaves, {} times outrun, \
                 {} restarts, {} retractions of {} events, {} heartbeats, {} alarms",
                report.events,
                report.compared,
                report.violations,
                report.joins,
                report.leaves,
                report.lagging,
                report.restarts,
                report.retractions,
                report.retracted_events,
                report.heartbeats,
                report.alarms
            )?;
        }
    }
    out.flush()?;
    if let End::Failed(error) = end {
        return Err(follow::failed(error));
    }
    match (checker.violations().first(), missing) {
        (Some(first), _) => Err(CliError::with_advice(
            format_args!("{}: {} violations, the first: {first}", args.data.display(), checker.violated()),
            "keep the directory and this output; `matchtape verify` with the same --data tells whether the log itself is sound",
        )),
        (None, Some(missing)) => Err(CliError::with_advice(
            missing,
            "nothing was found to be wrong, but not everything was judged; the node has to run with the same --namespace and --bus-root",
        )),
        (None, None) => Ok(()),
    }
}
