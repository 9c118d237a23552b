//! `matchtape tail` and `matchtape replay`: a subscription at the terminal.
//!
//! Events go to standard output, one row each; what the subscription says about itself (live, lagging, ended) goes to
//! standard error. Both commands read the data directory and the bus, never the node itself.

use std::collections::HashMap;
use std::io::{BufWriter, Stdout, Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use matchtape_bus::{BusError, BusName, BusService, WakeUp, bind_to_core};
use matchtape_client::{EventRow, Format, Output};
use matchtape_market::Instruments;
use matchtape_node::{BusOptions, FollowedHistory};
use matchtape_schemas::{AccountId, EventRef, InstrumentId, KindMask, OrderId, Sequence, TapeId};
use matchtape_storage::ReadOnlyStore;
use matchtape_subscription::{
    Batch, BusLive, Conflation, Delayed, DelayedOptions, End, Filter, Historical, HistoricalOptions,
    HistoryError, LeaveReason, OpenWindow, Pace, RealTime, RealTimeOptions, Start, Subscription,
    SubscriptionError, Update, WindowCursor, WindowStart,
};

use super::error::CliError;
use super::position::Position;
use super::query::kind;
use super::{FormatArg, interrupt, store};

/// Follow a live tape: what is visible (or accepted) as it comes.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  matchtape tail --data /var/lib/matchtape
  matchtape tail --data tape/ --from beginning --instrument ESH4 --kind trades
  matchtape tail --data tape/ --from 50001 --format ndjson        (resume after event 50000)
  matchtape tail --data tape/ --tier delayed                      (windows of 100 ms of event time)
  matchtape tail --data tape/ --tier delayed --after-window 180211/17035452000   (resume after a window)
  matchtape tail --data tape/ --tier delayed --conflate           (of each window only what still matters at its end)
  matchtape tail --data tape/ --speculative                       (before it is durable; may be retracted)
  matchtape tail --data tape/ --wake-up busy-poll --core 3        (a core for the lowest latency)")]
pub(super) struct TailArgs {
    #[command(flatten)]
    common: Common,
    /// Where to begin: new, beginning, a sequence, or a time
    #[arg(long, value_name = "POSITION", default_value = "new", value_parser = start)]
    from: Start,
    /// In windows: begin with exactly what followed the window (or part of one) with this cursor
    #[arg(long, value_name = "CURSOR", conflicts_with = "from")]
    after_window: Option<WindowCursor>,
    /// As events come, or in windows
    #[arg(long, value_enum, default_value_t = LiveTier::Realtime)]
    tier: LiveTier,
    /// In windows: leave out states that a later event of the window replaces, and orders that came and went in it
    #[arg(long)]
    conflate: bool,
    /// Accepted events, before they are durable; some may be retracted
    #[arg(long, conflicts_with_all = ["tier", "conflate"])]
    speculative: bool,
    /// The namespace of the bus, as the node has it
    #[arg(long, value_name = "NAME", default_value = "matchtape")]
    namespace: String,
    /// The folder of the bus, as the node has it
    #[arg(long, value_name = "DIR")]
    bus_root: Option<PathBuf>,
    /// How it learns that there is something new
    #[arg(long, value_name = "HOW", value_enum, default_value_t = WakeUpArg::Event)]
    wake_up: WakeUpArg,
    /// The core that the reading thread is bound to
    #[arg(long, value_name = "NUMBER")]
    core: Option<usize>,
    /// Stop after the event with this sequence, or after the window that holds it
    #[arg(long, value_name = "SEQUENCE")]
    through: Option<u64>,
    /// Stop after this long
    #[arg(long, value_name = "TIME", value_parser = super::position::duration)]
    duration: Option<Duration>,
}

/// Play a piece of history again.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  matchtape replay --data tape/ --tier historical                         (as fast as it goes)
  matchtape replay --data tape/ --tier realtime --speed 60 --from 2023-07-11T09:30:00+08:00
  matchtape replay --data tape/ --tier delayed --speed 1 --instrument ESH4")]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    common: Common,
    /// realtime: event by event at its own pace; delayed: in windows of 100 ms at their own pace, what is in the one that is
    /// open at the end as a part of it; historical: as fast as it goes
    #[arg(long, value_enum, default_value_t = Tier::Historical)]
    tier: Tier,
    /// In windows: leave out states that a later event of the window replaces, and orders that came and went in it
    #[arg(long)]
    conflate: bool,
    /// The pace: 1 as it happened, 60 an hour per minute, 0 as fast as it goes [default: 0 for historical, else 1]
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true)]
    speed: Option<f64>,
    /// Where to begin: beginning, a sequence, or a time
    #[arg(long, value_name = "POSITION", default_value = "beginning", value_parser = start)]
    from: Start,
    /// In windows: begin with exactly what followed the window (or part of one) with this cursor
    #[arg(long, value_name = "CURSOR", conflicts_with = "from")]
    after_window: Option<WindowCursor>,
    /// Where to end: a sequence (inclusive) or a time [default: the last visible event]
    #[arg(long, value_name = "POSITION")]
    to: Option<Position>,
}

#[derive(Args, Debug)]
struct Common {
    /// The tape's directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Only of this instrument: its symbol, the venue's number, or its id on the tape
    #[arg(long, value_name = "SYMBOL")]
    instrument: Option<String>,
    /// Only these kinds or topics, separated by commas
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kind)]
    kind: Vec<KindMask>,
    /// Only what names this order, by its number on the tape
    #[arg(long, value_name = "NUMBER")]
    order: Option<u64>,
    /// Only what names this account, by its number on the tape
    #[arg(long, value_name = "NUMBER")]
    account: Option<u64>,
    /// How rows are written [default: table on a terminal, else ndjson]
    #[arg(long, value_enum)]
    format: Option<FormatArg>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LiveTier {
    Realtime,
    Delayed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WakeUpArg {
    /// It sleeps and the node wakes it; on a bus whose `wake_up` is busy-poll it looks every millisecond
    Event,
    /// It looks again and again: a core of its own for the lowest latency
    BusyPoll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tier {
    Realtime,
    Delayed,
    Historical,
}

pub(super) fn start(text: &str) -> Result<Start, String> {
    match text {
        "new" => Ok(Start::New),
        "beginning" => Ok(Start::Beginning),
        _ => text.parse::<Position>().map(|position| match position {
            Position::Sequence(sequence) => Start::At(sequence),
            Position::Time(time) => Start::Time(time),
        }),
    }
}

pub(super) fn tail(args: &TailArgs) -> Result<(), CliError> {
    let stop = interrupt::flag()?;
    let (store, mut printer) = args.common.open()?;
    if let Some(core) = args.core {
        bind_to_core(core).map_err(|error| {
            let reason = match error {
                BusError::BadConfig { reason, .. } => reason,
                other => other.to_string(),
            };
            CliError::Usage(format!("--core {reason}"))
        })?;
    }
    let name = bus_name(&args.namespace, args.bus_root.as_deref(), store.tape())?;
    printer.bus = Some(name.clone());
    let until = Until {
        stop,
        deadline: args.duration.and_then(|limit| Instant::now().checked_add(limit)),
        through: args.through.map(Sequence),
    };
    let filter = args.common.filter(&printer)?;
    let history = FollowedHistory::new(store);
    let conflation = conflation(args.conflate, args.after_window, args.tier == LiveTier::Delayed)?;
    match args.tier {
        LiveTier::Realtime => {
            let service = if args.speculative { BusService::Speculative } else { BusService::Live };
            let options = RealTimeOptions { start: args.from, filter, ..RealTimeOptions::default() };
            let live = attach(&name, service, args.wake_up);
            let subscription = RealTime::open(history, live, options).map_err(failed)?;
            printer.run(subscription, Place::Events, &until)
        }
        LiveTier::Delayed => {
            let start = args.after_window.map_or(WindowStart::From(args.from), WindowStart::After);
            let options = DelayedOptions { start, filter, conflation, ..DelayedOptions::default() };
            let live = attach(&name, BusService::Live, args.wake_up);
            let subscription = Delayed::live(history, live, &options).map_err(failed)?;
            let place = Place::windows(&subscription, args.after_window);
            printer.run(subscription, place, &until)
        }
    }
}

/// The bus of a tape, as the node has it.
pub(super) fn bus_name(namespace: &str, root: Option<&Path>, tape: TapeId) -> Result<BusName, CliError> {
    let options =
        BusOptions { namespace: namespace.into(), root: root.map(Path::to_owned), ..BusOptions::default() };
    // One that is named and not there is a slip: whoever attaches would make it, and hear nothing there.
    if let Some(root) = root.filter(|root| !root.exists()) {
        return Err(CliError::with_advice(
            format_args!("--bus-root {}: there is no such folder", root.display()),
            "it is `bus.root` of the node's configuration; the node makes it",
        ));
    }
    options.name(tape).map_err(CliError::failed)
}

fn conflation(asked: bool, after: Option<WindowCursor>, windows: bool) -> Result<Conflation, CliError> {
    if after.is_some() && !windows {
        return Err(CliError::Usage("--after-window is about windows: it goes with --tier delayed".into()));
    }
    match (asked, windows) {
        (true, false) => {
            Err(CliError::Usage("--conflate is about windows: it goes with --tier delayed".into()))
        }
        (true, true) => Ok(Conflation::LastState),
        (false, _) => Ok(Conflation::None),
    }
}

fn attach(name: &BusName, service: BusService, wake_up: WakeUpArg) -> BusLive {
    let wake_up = match wake_up {
        WakeUpArg::Event => WakeUp::Event,
        WakeUpArg::BusyPoll => WakeUp::BusyPoll,
    };
    BusLive::new(name, service, wake_up, Duration::from_micros(20))
}

pub(super) fn replay(args: &ReplayArgs) -> Result<(), CliError> {
    let stop = interrupt::flag()?;
    let (store, mut printer) = args.common.open()?;
    let speed = args.speed.unwrap_or(if args.tier == Tier::Historical { 0.0 } else { 1.0 });
    if !speed.is_finite() || speed < 0.0 {
        return Err(CliError::Usage(format!("--speed {speed} is not a factor of 0 or more")));
    }
    let pace = if speed == 0.0 { Pace::AsFastAsPossible } else { Pace::Times(speed) };
    let end = match args.to {
        None => End::Visible,
        Some(Position::Sequence(last)) => End::Through(last),
        Some(Position::Time(time)) => End::Before(time),
    };
    if args.from == Start::New {
        return Err(CliError::Usage("--from new is the end of the tape: nothing to replay".into()));
    }
    let visible = store.reader().visible();
    let behind = |flag: &str, position: Sequence| {
        CliError::with_advice(
            format_args!("{flag} {position}: the tape ends with sequence {visible}"),
            "`matchtape tail` waits for what comes",
        )
    };
    // From right behind the end on there is nothing yet: where everything was replayed, that is where to resume.
    if let Start::At(from) = args.from
        && from > visible.next()
    {
        return Err(behind("--from", from));
    }
    // Right behind it there is nothing either: where to resume after the same --to.
    if let (Start::At(from), End::Through(to)) = (args.from, end)
        && from > to.next()
    {
        return Err(CliError::Usage("--from lies behind --to".to_owned()));
    }
    if let End::Through(to) = end
        && to > visible
    {
        return Err(behind("--to", to));
    }
    let until = Until { stop, deadline: None, through: None };
    let filter = args.common.filter(&printer)?;
    let history = FollowedHistory::new(store);
    let conflation = conflation(args.conflate, args.after_window, args.tier == Tier::Delayed)?;
    match args.tier {
        Tier::Realtime | Tier::Historical => {
            let start = args.from;
            let options = HistoricalOptions { start, end, filter, pace, ..HistoricalOptions::default() };
            printer.run(Historical::open(history, options).map_err(failed)?, Place::Events, &until)
        }
        Tier::Delayed => {
            let start = args.after_window.map_or(WindowStart::From(args.from), WindowStart::After);
            let open_window = OpenWindow::AsPart;
            let options =
                DelayedOptions { start, filter, conflation, open_window, ..DelayedOptions::default() };
            let subscription = Delayed::replay(history, &options, end, pace).map_err(failed)?;
            let place = Place::windows(&subscription, args.after_window);
            printer.run(subscription, place, &until)
        }
    }
}

impl Common {
    fn open(&self) -> Result<(ReadOnlyStore, Printer), CliError> {
        let store = store::open(&self.data)?;
        let instruments = store::instruments(&store.reader())?;
        let format = FormatArg::or_default(self.format);
        let printer = Printer {
            bus: None,
            heard: false,
            output: Output::new(BufWriter::new(stdout()), format),
            format,
            instruments,
            symbols: HashMap::new(),
        };
        Ok((store, printer))
    }

    fn filter(&self, printer: &Printer) -> Result<Filter, CliError> {
        let mut filter = Filter {
            order: self.order.map(OrderId),
            account: self.account.map(AccountId),
            ..Filter::default()
        };
        if !self.kind.is_empty() {
            filter.kinds = self.kind.iter().fold(KindMask::NONE, |all, kind| all.with(*kind));
        }
        if let Some(symbol) = &self.instrument {
            let found = printer.instruments.find(symbol).ok_or_else(|| {
                let known: Vec<String> = printer
                    .instruments
                    .iter()
                    .take(20)
                    .map(|one| one.definition.symbol.to_string())
                    .collect();
                CliError::with_advice(
                    format_args!("no instrument {symbol:?} on this tape"),
                    format_args!("there are: {}", known.join(", ")),
                )
            })?;
            filter.instruments = [found.id].into_iter().collect();
        }
        Ok(filter)
    }
}

/// When to stop by itself.
struct Until {
    stop: Arc<AtomicBool>,
    deadline: Option<Instant>,
    through: Option<Sequence>,
}

/// How far what was given reaches.
enum Place {
    /// As far as the subscription says.
    Events,
    /// No window was given yet; they begin here or later.
    NoWindow { first: Sequence },
    /// Through this window: the subscription has read on.
    AfterWindow(WindowCursor),
}

impl Place {
    fn windows(subscription: &impl Subscription, after: Option<WindowCursor>) -> Self {
        after.map_or(Self::NoWindow { first: subscription.position() }, Self::AfterWindow)
    }

    /// The first event that was not given.
    fn next(&self, subscription: &impl Subscription) -> Sequence {
        match self {
            Self::Events => subscription.position(),
            Self::NoWindow { first } => *first,
            Self::AfterWindow(cursor) => cursor.last.next(),
        }
    }
}

/// A window as a JSON line.
#[derive(serde::Serialize)]
struct WindowRow {
    window_start: String,
    window_end: String,
    /// So many of them, where they are empty and follow each other.
    windows: u64,
    empty: bool,
    part: u32,
    last_part: bool,
    /// Where to go on: `--after-window`.
    cursor: String,
    first_sequence: u64,
    last_sequence: u64,
    late: u32,
    conflated: bool,
    left_out: u32,
    bytes: usize,
    /// Of the window's bytes, so that two readers can compare.
    crc32: String,
    events: Vec<EventRow>,
}

struct Printer {
    /// The bus that is listened to, if one is.
    bus: Option<BusName>,
    /// Whether anything has come from it.
    heard: bool,
    output: Output<BufWriter<Stdout>>,
    format: Format,
    instruments: Instruments,
    symbols: HashMap<InstrumentId, Option<String>>,
}

impl Printer {
    fn run(
        &mut self,
        mut subscription: impl Subscription,
        mut place: Place,
        until: &Until,
    ) -> Result<(), CliError> {
        let mut interrupted = false;
        loop {
            if until.stop.load(Ordering::Relaxed) {
                interrupted = true;
                break;
            }
            if until.deadline.is_some_and(|limit| Instant::now() >= limit) {
                break;
            }
            if until.through.is_some_and(|last| place.next(&subscription) > last) {
                break;
            }
            let Some(update) = subscription.next(Duration::from_millis(50)).map_err(failed)? else {
                self.output.flush::<EventRow>()?;
                continue;
            };
            match update {
                Update::Events(events) => {
                    for event in events.iter() {
                        if until.through.is_none_or(|last| event.sequence() <= last) {
                            self.event(&event)?;
                        }
                    }
                }
                Update::Window(batch) => {
                    self.window(&batch)?;
                    place = Place::AfterWindow(batch.cursor());
                }
                Update::Heartbeat { .. } => self.output.flush::<EventRow>()?,
                Update::Ended { next } => {
                    eprintln!("the end: sequence {next} is next");
                    break;
                }
                notice @ (Update::LiveJoined { .. }
                | Update::LiveLeft { .. }
                | Update::Lagging { .. }
                | Update::CaughtUp { .. }
                | Update::Alarm { .. }
                | Update::Retract { .. }
                | Update::PublisherRestarted { .. }
                | Update::Ahead { .. }) => {
                    self.output.flush::<EventRow>()?;
                    self.heard |= matches!(notice, Update::LiveJoined { .. });
                    let unheard = self.bus.as_ref().filter(|_| !self.heard);
                    eprintln!("{}", in_words(&notice, unheard));
                }
            }
        }
        self.output.flush::<EventRow>()?;
        let read = subscription.position();
        let resume = match place {
            Place::Events => {
                format!("resume with --from {}", until.through.map_or(read, |last| read.min(last.next())))
            }
            Place::NoWindow { first } => {
                if first < read {
                    eprintln!(
                        "events {first} to {} were not given: the window that they are in began before, or is still open",
                        read.previous()
                    );
                }
                format!("resume with --from {first}")
            }
            Place::AfterWindow(cursor) => format!("resume with --after-window {cursor}"),
        };
        if interrupted {
            return Err(CliError::Interrupted(resume));
        }
        eprintln!("{resume}");
        Ok(())
    }

    fn event(&mut self, event: &EventRef<'_>) -> Result<(), CliError> {
        let symbol = self.symbol(event);
        self.output.write(&EventRow::new(event, symbol.as_deref()))?;
        Ok(())
    }

    fn symbol(&mut self, event: &EventRef<'_>) -> Option<String> {
        if matches!(event.kind(), matchtape_schemas::Kind::InstrumentDefined) {
            self.instruments.apply(event);
            self.symbols.remove(&event.instrument());
        }
        let id = event.instrument();
        let instruments = &self.instruments;
        self.symbols
            .entry(id)
            .or_insert_with(|| instruments.get(id).map(|one| one.definition.symbol.to_string()))
            .clone()
    }

    /// One line for a window (with its bytes' CRC-32, so that two readers can compare), then its events.
    fn window(&mut self, batch: &Batch<'_>) -> Result<(), CliError> {
        if self.format == Format::Ndjson {
            let events = batch.events().map(|event| {
                let symbol = self.symbol(&event);
                EventRow::new(&event, symbol.as_deref())
            });
            let row = WindowRow {
                window_start: batch.start().to_string(),
                window_end: batch.end().to_string(),
                windows: batch.windows(),
                empty: batch.is_empty(),
                part: batch.part(),
                last_part: batch.is_last_part(),
                cursor: batch.cursor().to_string(),
                first_sequence: batch.first().get(),
                last_sequence: batch.last().get(),
                late: batch.late(),
                conflated: batch.is_conflated(),
                left_out: batch.left_out(),
                bytes: batch.bytes().len(),
                crc32: format!("{:08x}", crc32fast::hash(batch.bytes())),
                events: events.collect(),
            };
            let line = serde_json::to_string(&row).expect("rows are plain data");
            let mut out = stdout().lock();
            writeln!(out, "{line}")?;
            out.flush()?;
            return Ok(());
        }
        self.output.flush::<EventRow>()?;
        eprintln!(
            "window {} .. {}: {} events, {} late{}{}",
            matchtape_client::time::rfc3339(batch.start().get()),
            matchtape_client::time::rfc3339(batch.end().get()),
            batch.count(),
            batch.late(),
            if batch.is_conflated() { format!(", {} left out", batch.left_out()) } else { String::new() },
            if batch.is_empty() { format!(" ({} empty windows)", batch.windows()) } else { String::new() }
        );
        for event in batch.events() {
            self.event(&event)?;
        }
        Ok(())
    }
}

/// What a subscription says about itself, for people. `unheard` is the bus, where nothing has come from it yet.
pub(super) fn in_words(notice: &Update<'_>, unheard: Option<&BusName>) -> String {
    match notice {
        Update::LiveJoined { next } => format!("live from sequence {next} on"),
        Update::LiveLeft { next, reason } => {
            let reason = match reason {
                LeaveReason::Missed { first, last } => {
                    format!("sequences {first} to {last} did not come by the bus")
                }
                LeaveReason::PublisherRestarted => "the node was started again".to_owned(),
                LeaveReason::Retracted => {
                    "the node's last term may have lost what it had accepted".to_owned()
                }
                LeaveReason::Silent => "the node is silent".to_owned(),
            };
            format!("from the log from sequence {next} on: {reason}")
        }
        Update::Lagging { behind } => {
            format!("too slow for the bus: {behind} events come from the log instead")
        }
        Update::CaughtUp { next } => format!("caught up at sequence {next}"),
        Update::Alarm { missed } => match unheard {
            Some(bus) => format!(
                "no node publishes tape {:016x} on bus {} in {}: what is written is shown as the log has it, and the bus is tried again",
                bus.tape().get(),
                bus.namespace(),
                bus.root().display()
            ),
            None => format!("the node is silent: {missed} heartbeats have not come"),
        },
        Update::Retract { epoch, first, last } => {
            format!("retracted: sequences {first} to {last} of epoch {epoch} never happened")
        }
        Update::PublisherRestarted { epoch } => format!("the node was started again: epoch {epoch}"),
        Update::Ahead { next, visible } => {
            format!("sequence {next} is not on the tape yet, which ends with {visible}: waiting for it")
        }
        Update::Events(_) | Update::Window(_) | Update::Heartbeat { .. } | Update::Ended { .. } => {
            unreachable!("these are no notices")
        }
    }
}

pub(super) fn failed(error: SubscriptionError) -> CliError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    match error {
        SubscriptionError::Bus(_) | SubscriptionError::Handover(_) => CliError::with_advice(
            text,
            "the node that writes the tape has to run with the same --namespace (and --bus-root)",
        ),
        SubscriptionError::History(HistoryError::BelowRetention { .. }) => {
            CliError::with_advice(text, "--from beginning is the first event that is kept")
        }
        SubscriptionError::History(HistoryError::Failed(_)) => {
            CliError::with_advice(text, "`matchtape verify` with the same --data tells what is wrong")
        }
        SubscriptionError::AheadOfTape { .. }
        | SubscriptionError::BadOption { .. }
        | SubscriptionError::Thread(_) => CliError::failed(text),
    }
}
