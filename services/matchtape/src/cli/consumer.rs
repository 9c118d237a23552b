//! `matchtape consumer`: durable consumers of a running node.

use std::io::{BufWriter, Stdout, Write, stdout};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use matchtape_client::consumers::{
    Acknowledgement, AdvisoryView, ConsumerDefinition, ConsumerItem, ConsumerList, ConsumerRow, ConsumerView,
    DeliveryView, ParkedList, ParkedRow, Settled,
};
use matchtape_client::{EventRow, Format, Output};
use matchtape_node::consumers::{ConsumerName, MemberName};

use super::error::CliError;
use super::position::{Position, duration};
use super::{FormatArg, interrupt};
use crate::consumers::Member;
use crate::server::{Method, Server, ServerError};

/// Durable consumers of a running node: named readers that acknowledge events and resume where they were.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  matchtape consumer add risk --ack explicit --kind trades --max-deliver 5 --backoff 1s,10s,1m
  matchtape consumer list
  matchtape consumer next risk --batch 10                 (what comes; attaches, shows, detaches)
  matchtape consumer ack risk 4711 4712
  matchtape consumer ack risk 4713 --in-progress          (not done yet: its time begins anew)
  matchtape consumer next risk --follow --ack             (goes on until Ctrl-C, acknowledging what it showed)
  matchtape consumer parked risk                          (what failed as often as allowed)
  matchtape consumer unpark risk 4711
  matchtape consumer rm risk

--server is http://127.0.0.1:7474 unless MATCHTAPE_SERVER or the flag says otherwise.")]
pub(super) struct ConsumerArgs {
    #[command(subcommand)]
    what: What,
}

/// Where, and how it is shown.
#[derive(Args, Debug)]
pub(super) struct Common {
    /// The node's gateway
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// How rows are written [default: table on a terminal, else ndjson]
    #[arg(long, value_enum)]
    pub(super) format: Option<FormatArg>,
}

impl Common {
    pub(super) fn server(&self) -> Result<Server, CliError> {
        let named = self.server.clone().or_else(|| std::env::var("MATCHTAPE_SERVER").ok());
        Ok(Server::new(named.as_deref().unwrap_or("http://127.0.0.1:7474"))?)
    }
}

#[derive(Subcommand, Debug)]
enum What {
    /// Make a consumer; again with the same definition it changes nothing
    Add(Box<AddArgs>),
    /// Every consumer and how it stands
    List(Common),
    /// One consumer with its definition, members and latest advisories
    Info(NamedArgs),
    /// Get what comes next
    Next(NextArgs),
    /// Say that events were dealt with, or not
    Ack(AckArgs),
    /// The events that were set aside
    Parked(NamedArgs),
    /// Deliver events again that were set aside: one, or all
    Unpark(ParkedArgs),
    /// Give up events that were set aside: one, or all
    Discard(ParkedArgs),
    /// Forget a consumer and where it was
    Rm(NamedArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Ack {
    /// Delivered is dealt with
    None,
    /// An acknowledgement covers everything up to its event
    All,
    /// Every event by itself
    Explicit,
}

#[derive(Args, Debug)]
struct AddArgs {
    #[command(flatten)]
    named: NamedArgs,
    /// Where it begins: all, last, last_per_instrument, new, a sequence, or a time
    #[arg(long, value_name = "POSITION", default_value = "all")]
    deliver: String,
    /// Only of these instruments: symbols, the venue's numbers or ids
    #[arg(long, value_name = "SYMBOL", value_delimiter = ',')]
    instrument: Vec<String>,
    /// Only these kinds or topics
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<String>,
    /// What has to be acknowledged
    #[arg(long, value_enum, default_value_t = Ack::All)]
    ack: Ack,
    /// An event that is not acknowledged for so long is delivered again
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    ack_wait: Duration,
    /// Instead: after the first delivery, the second, ...; the last stays
    #[arg(long, value_name = "TIME", value_delimiter = ',', value_parser = duration)]
    backoff: Vec<Duration>,
    /// After so many deliveries an event is set aside [default: never]
    #[arg(long, value_name = "COUNT")]
    max_deliver: Option<u32>,
    /// So many events may be delivered and not acknowledged
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    max_ack_pending: u32,
    /// So many members may share the events; with --ack explicit
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    members: u16,
    /// A member that is not heard of for so long is given up
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    member_timeout: Duration,
    /// For people
    #[arg(long, default_value = "")]
    description: String,
    /// Change the consumer that is there
    #[arg(long)]
    update: bool,
}

#[derive(Args, Debug)]
struct NamedArgs {
    /// The consumer: 1 to 64 letters, digits, '-', '_' or '.'
    name: ConsumerName,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
struct NextArgs {
    #[command(flatten)]
    named: NamedArgs,
    /// At most so many events at a time
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// How long to wait for the first
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    wait: Duration,
    /// Acknowledge what was shown
    #[arg(long)]
    ack: bool,
    /// Go on until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// This member's name; another one of that name is replaced
    #[arg(long, default_value = "cli")]
    member: MemberName,
}

#[derive(Args, Debug)]
struct AckArgs {
    #[command(flatten)]
    named: NamedArgs,
    /// The events
    #[arg(required = true, value_name = "SEQUENCE")]
    sequence: Vec<u64>,
    /// They could not be dealt with: deliver them again
    #[arg(long, conflicts_with_all = ["term", "in_progress"])]
    nak: bool,
    /// With --nak: not before this long
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    delay: Duration,
    /// Give them up: never deliver them again
    #[arg(long, conflicts_with = "in_progress")]
    term: bool,
    /// They are being worked on: their time begins anew
    #[arg(long)]
    in_progress: bool,
}

#[derive(Args, Debug)]
struct ParkedArgs {
    #[command(flatten)]
    named: NamedArgs,
    /// The event; all without one
    sequence: Option<u64>,
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl AddArgs {
    fn definition(&self) -> Result<ConsumerDefinition, CliError> {
        let (mut start_sequence, mut start_time) = (None, None);
        let deliver = match self.deliver.as_str() {
            word @ ("all" | "last" | "last_per_instrument" | "new") => word,
            "beginning" => "all",
            other => match other.parse::<Position>() {
                Ok(Position::Sequence(sequence)) => {
                    start_sequence = Some(sequence.get());
                    "by_start_sequence"
                }
                Ok(Position::Time(time)) => {
                    start_time = Some(time.to_string());
                    "by_start_time"
                }
                Err(error) => return Err(CliError::Usage(format!("--deliver: {error}"))),
            },
        };
        let ack = match self.ack {
            Ack::None => "none",
            Ack::All => "all",
            Ack::Explicit => "explicit",
        };
        Ok(ConsumerDefinition {
            deliver: deliver.to_owned(),
            start_sequence,
            start_time,
            kinds: self.kind.clone(),
            instruments: self.instrument.clone(),
            ack: ack.to_owned(),
            ack_wait_ms: milliseconds(self.ack_wait),
            backoff_ms: self.backoff.iter().map(|step| milliseconds(*step)).collect(),
            max_deliver: self.max_deliver,
            max_ack_pending: self.max_ack_pending,
            members_max: self.members,
            member_timeout_ms: milliseconds(self.member_timeout),
            description: self.description.clone(),
        })
    }
}

pub(super) fn run(args: &ConsumerArgs) -> Result<(), CliError> {
    match &args.what {
        What::Add(args) => {
            let method = if args.update { Method::Patch } else { Method::Put };
            let path = path(&args.named.name, "");
            let server = args.named.common.server()?;
            let view: ConsumerView = server.send(method, &path, &[], Some(&args.definition()?))?;
            show_rows(&args.named.common, &[ConsumerRow::from(&view)])
        }
        What::List(common) => {
            let list: ConsumerList = common.server()?.object("/v1/consumers", &[])?;
            show_rows(common, &list.consumers.iter().map(ConsumerRow::from).collect::<Vec<_>>())
        }
        What::Info(args) => info(args),
        What::Next(args) => next(args),
        What::Ack(args) => ack(args),
        What::Parked(args) => {
            let list: ParkedList = args.common.server()?.object(&path(&args.name, "/parked"), &[])?;
            show_rows(&args.common, &list.parked.iter().map(ParkedRow::from).collect::<Vec<_>>())
        }
        What::Unpark(args) => over_parked(args, "/unpark", "to be delivered again"),
        What::Discard(args) => over_parked(args, "/discard", "given up"),
        What::Rm(args) => {
            let _: Settled =
                args.common.server()?.send(Method::Delete, &path(&args.name, ""), &[], None::<&()>)?;
            eprintln!("consumer {} is forgotten", args.name);
            Ok(())
        }
    }
}

fn path(name: &ConsumerName, rest: &str) -> String {
    format!("/v1/consumers/{name}{rest}")
}

fn show_rows<R: matchtape_client::Row>(common: &Common, rows: &[R]) -> Result<(), CliError> {
    let mut output = Output::new(BufWriter::new(stdout()), FormatArg::or_default(common.format));
    for row in rows {
        output.write(row)?;
    }
    output.finish::<R>()?;
    Ok(())
}

fn info(args: &NamedArgs) -> Result<(), CliError> {
    let view: ConsumerView = args.common.server()?.object(&path(&args.name, ""), &[])?;
    let format = FormatArg::or_default(args.common.format);
    if format != Format::Table {
        let text = serde_json::to_string(&view).map_err(CliError::failed)?;
        writeln!(stdout(), "{text}")?;
        return Ok(());
    }
    show_rows(&args.common, &[ConsumerRow::from(&view)])?;
    let mut out = stdout();
    let definition = serde_json::to_string_pretty(&view.definition).map_err(CliError::failed)?;
    writeln!(out, "definition {definition}")?;
    for member in &view.members {
        writeln!(out, "member {}: {} not acknowledged", member.member, member.ack_pending)?;
    }
    for advisory in &view.advisories {
        writeln!(out, "{} {}", advisory.time.as_deref().unwrap_or_default(), advisory.what)?;
    }
    Ok(())
}

fn ack(args: &AckArgs) -> Result<(), CliError> {
    let mut said = Acknowledgement { durable: true, ..Acknowledgement::default() };
    let sequences = args.sequence.clone();
    if args.nak {
        (said.nak, said.nak_delay_ms) = (sequences, milliseconds(args.delay));
    } else if args.term {
        said.term = sequences;
    } else if args.in_progress {
        said.in_progress = sequences;
    } else {
        said.ack = sequences;
    }
    let server = args.named.common.server()?;
    let settled: Settled = server.send(Method::Post, &path(&args.named.name, "/ack"), &[], Some(&said))?;
    eprintln!("{} settled", settled.settled);
    Ok(())
}

fn over_parked(args: &ParkedArgs, rest: &str, what: &str) -> Result<(), CliError> {
    let parameters: Vec<_> =
        args.sequence.iter().map(|sequence| ("sequence", sequence.to_string())).collect();
    let server = args.named.common.server()?;
    let settled: Settled =
        server.send(Method::Post, &path(&args.named.name, rest), &parameters, None::<&()>)?;
    eprintln!("{} {what}", settled.settled);
    Ok(())
}

/// Shows deliveries: as they are in JSON, as events otherwise. Advisories go to standard error too.
pub(super) struct Shown {
    output: Output<BufWriter<Stdout>>,
    format: Format,
}

impl Shown {
    pub(super) fn new(common: &Common) -> Self {
        let format = FormatArg::or_default(common.format);
        Self { output: Output::new(BufWriter::new(stdout()), format), format }
    }

    pub(super) fn event(&mut self, row: &EventRow) -> Result<(), CliError> {
        Ok(self.output.write(row)?)
    }

    pub(super) fn delivery(&mut self, delivery: &DeliveryView) -> Result<(), CliError> {
        match self.format {
            Format::Ndjson => Ok(self.output.json(delivery)?),
            Format::Table | Format::Csv => self.event(&delivery.event),
        }
    }

    pub(super) fn advisory(&mut self, advisory: &AdvisoryView) -> Result<(), CliError> {
        eprintln!("{}: {}", advisory.advisory, advisory.what);
        match self.format {
            Format::Ndjson => Ok(self.output.json(advisory)?),
            Format::Table | Format::Csv => Ok(()),
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), CliError> {
        Ok(self.output.flush::<EventRow>()?)
    }
}

/// What following a consumer is to do.
pub(super) struct Following {
    pub(super) batch: u32,
    /// Without a limit: for ever.
    pub(super) wait: Option<Duration>,
    pub(super) events_max: Option<u64>,
    pub(super) ack: bool,
    pub(super) follow: bool,
}

/// Shows what a member is given, and acknowledges it once it is written. Returns how many events there were. However it ends, also
/// where the output takes no more, what was not acknowledged is for others at once.
pub(super) fn follow(member: &mut Member<'_>, shown: &mut Shown, how: &Following) -> Result<u64, CliError> {
    let outcome = follow_attached(member, shown, how);
    member.detach();
    outcome
}

fn follow_attached(member: &mut Member<'_>, shown: &mut Shown, how: &Following) -> Result<u64, CliError> {
    let stop = interrupt::flag()?;
    let explicit = member.info()?.definition.ack == "explicit";
    let acknowledges = how.ack && member.info()?.definition.ack != "none";
    let mut notice = |text: &str| eprintln!("{text}");
    let begun = Instant::now();
    let mut count = 0;
    let interrupted = || Err(CliError::Interrupted("interrupted".to_owned()));
    loop {
        if how.events_max.is_some_and(|max| count >= max) {
            return Ok(count);
        }
        if stop.load(Ordering::Relaxed) {
            return interrupted();
        }
        let left = how.wait.map_or(Duration::MAX, |wait| wait.saturating_sub(begun.elapsed()));
        let batch = how
            .events_max
            .map_or(how.batch, |max| u32::try_from(max - count).unwrap_or(u32::MAX).min(how.batch));
        let items = match member.next(batch, left, &stop, &mut notice) {
            Ok(items) => items,
            Err(_) if stop.load(Ordering::Relaxed) => return interrupted(),
            Err(error) => return Err(error.into()),
        };
        let mut sequences = Vec::new();
        for item in &items {
            match item {
                ConsumerItem::Delivery(delivery) => {
                    shown.delivery(delivery)?;
                    sequences.push(delivery.event.sequence.get());
                }
                ConsumerItem::Advisory(advisory) => shown.advisory(advisory)?,
            }
        }
        // Written before it is acknowledged: whoever reads this output has it.
        shown.flush()?;
        count += sequences.len() as u64;
        if acknowledges && !sequences.is_empty() {
            if !explicit {
                sequences = sequences.split_off(sequences.len() - 1);
            }
            let said = Acknowledgement { ack: sequences, ..Acknowledgement::default() };
            if let Err(error) = member.acknowledge(&said, &stop, &mut notice) {
                return if stop.load(Ordering::Relaxed) { interrupted() } else { Err(error.into()) };
            }
        }
        if !how.follow && (count > 0 || left.is_zero()) {
            return Ok(count);
        }
    }
}

fn next(args: &NextArgs) -> Result<(), CliError> {
    let server = args.named.common.server()?;
    let mut member = Member::new(&server, &args.named.name, &args.member);
    let mut shown = Shown::new(&args.named.common);
    let wait = (!args.follow).then_some(args.wait);
    let how = Following { batch: args.batch, wait, events_max: None, ack: args.ack, follow: args.follow };
    let count = follow(&mut member, &mut shown, &how)?;
    if count == 0 && !args.follow {
        eprintln!("nothing came within {:?}", args.wait);
    }
    Ok(())
}

/// Finds a consumer; with a definition, makes it unless it is there with that very definition.
pub(super) fn found(
    server: &Server,
    name: &ConsumerName,
    create: Option<&ConsumerDefinition>,
) -> Result<(), CliError> {
    let there = match server.object::<ConsumerView>(&path(name, ""), &[]) {
        Ok(_) => true,
        Err(ServerError::Refused { error, .. }) if error == "unknown_consumer" => false,
        Err(error) => return Err(error.into()),
    };
    match create {
        None if there => Ok(()),
        None => Err(CliError::with_advice(
            format_args!("there is no consumer {name}: nothing is known of where it was"),
            "--create makes it, and it begins where --from says; `matchtape consumer list` shows those there are",
        )),
        // Also of one that is there: the node compares.
        Some(definition) => match server.send(Method::Put, &path(name, ""), &[], Some(definition)) {
            Ok(ConsumerView { .. }) => {
                if !there {
                    eprintln!("made consumer {name}");
                }
                Ok(())
            }
            Err(ServerError::Refused { error, what, .. }) if error == "consumer_exists" => {
                Err(CliError::with_advice(
                    what,
                    "without --create, --from, --instrument and --kind it goes on as it is; `matchtape consumer info` shows how, \
                     and `consumer add --update` changes what it is given",
                ))
            }
            Err(error) => Err(error.into()),
        },
    }
}
