//! `matchtape subscribe`: a node's events through its gateway, as they become visible.

use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use matchtape_client::EventRow;
use matchtape_client::consumers::ConsumerDefinition;
use matchtape_node::consumers::{ConsumerName, MemberName};

use super::consumer::{Common, Following, Shown, follow, found};
use super::error::CliError;
use super::interrupt;
use super::position::Position;
use crate::consumers::Member;
use crate::server::{Server, ServerError};

/// How often the end of the tape is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Events of one request of a consumer.
const BATCH: u32 = 1000;

/// Follow a node through its gateway, without its directory or its bus.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  matchtape subscribe                                     (what is new, until Ctrl-C)
  matchtape subscribe --from beginning --instrument ESH4 --kind trades
  matchtape subscribe --from 50001 --format ndjson        (resume after event 50000)
  matchtape subscribe --consumer risk --create --kind trades   (durable: the node remembers what was shown, also over kill -9)
  matchtape subscribe --consumer risk                          (goes on where that was)

Without --consumer nothing is kept anywhere: at the end it says where to resume. With one, what was shown is
acknowledged, and the next run goes on behind it. Only --create makes one, with what --from, --instrument and --kind say; again
with the same, it goes on. A consumer that is there with another definition, or is not there, is an error: no event is passed over.")]
pub(super) struct SubscribeArgs {
    #[command(flatten)]
    common: Common,
    /// Resume with this durable consumer
    #[arg(long, value_name = "NAME")]
    consumer: Option<ConsumerName>,
    /// Make the consumer if it is not there
    #[arg(long, requires = "consumer")]
    create: bool,
    /// Where to begin, or where a consumer that is made does: new, beginning, a sequence, or a time [default: new]
    #[arg(long, value_name = "POSITION")]
    from: Option<String>,
    /// Only of this instrument: its symbol, the venue's number, or its id on the tape
    #[arg(long, value_name = "SYMBOL")]
    instrument: Option<String>,
    /// Only these kinds or topics, separated by commas
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// This member's name, with --consumer; another one of that name is replaced
    #[arg(long, default_value = "subscribe", requires = "consumer")]
    member: MemberName,
    /// Stop after so many events
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
}

/// Where to begin.
enum From {
    New,
    Beginning,
    At(Position),
}

impl SubscribeArgs {
    fn from(&self) -> Result<From, CliError> {
        match self.from.as_deref().unwrap_or("new") {
            "new" => Ok(From::New),
            "beginning" => Ok(From::Beginning),
            other => other.parse().map(From::At).map_err(|error| CliError::Usage(format!("--from: {error}"))),
        }
    }

    fn definition(&self) -> Result<ConsumerDefinition, CliError> {
        let mut definition = ConsumerDefinition {
            instruments: self.instrument.iter().cloned().collect(),
            kinds: self.kind.iter().flat_map(|kinds| kinds.split(',').map(str::to_owned)).collect(),
            ..ConsumerDefinition::default()
        };
        match self.from()? {
            From::New => definition.deliver = "new".to_owned(),
            From::Beginning => {}
            From::At(Position::Sequence(sequence)) => {
                definition.deliver = "by_start_sequence".to_owned();
                definition.start_sequence = Some(sequence.get());
            }
            From::At(Position::Time(time)) => {
                definition.deliver = "by_start_time".to_owned();
                definition.start_time = Some(time.to_string());
            }
        }
        Ok(definition)
    }
}

pub(super) fn run(args: &SubscribeArgs) -> Result<(), CliError> {
    let server = args.common.server()?;
    let Some(name) = &args.consumer else { return ephemeral(args, &server) };
    let chosen = args.from.is_some() || args.instrument.is_some() || args.kind.is_some();
    if chosen && !args.create {
        return Err(CliError::Usage(
            "--from, --instrument and --kind say what a new consumer is: with --create; one that is there goes on as it is"
                .to_owned(),
        ));
    }
    let definition = if args.create { Some(args.definition()?) } else { None };
    found(&server, name, definition.as_ref())?;
    let mut member = Member::new(&server, name, &args.member);
    let mut shown = Shown::new(&args.common);
    let how = Following { batch: BATCH, wait: None, events_max: args.limit, ack: true, follow: true };
    let resume = format!("resume with --consumer {name}");
    match follow(&mut member, &mut shown, &how) {
        Err(CliError::Interrupted(_)) => Err(CliError::Interrupted(resume)),
        outcome => {
            outcome?;
            eprintln!("{resume}");
            Ok(())
        }
    }
}

/// Asks for what has become visible, again and again: nothing is kept at the node.
fn ephemeral(args: &SubscribeArgs, server: &Server) -> Result<(), CliError> {
    let stop = interrupt::flag()?;
    let mut notice = |text: &str| eprintln!("{text}");
    let mut shown = Shown::new(&args.common);
    let (mut next, mut from) = (1, None);
    let filter: Vec<(&str, String)> = [("instrument", &args.instrument), ("kind", &args.kind)]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.clone()?)))
        .collect();
    let visible = server.watermarks()?.visible;
    // A filter that the node does not understand is refused at once, and not when the next event comes.
    let nothing = [("from", (visible + 1).to_string()), ("limit", "1".to_owned())];
    let _: serde_json::Value = server.object("/v1/events", &[&nothing[..], &filter].concat())?;
    match args.from()? {
        From::New => next = visible + 1,
        From::Beginning => from = Some("0".to_owned()),
        From::At(Position::Sequence(sequence)) => next = sequence.get().max(1),
        From::At(time @ Position::Time(_)) => from = Some(time.to_string()),
    }
    if next > visible + 1 {
        notice(&format!("sequence {next} is not there yet, the tape ends with {visible}: waiting for it"));
    }
    let mut count = 0;
    let enough = |count: u64| args.limit.is_some_and(|limit| count >= limit);
    'events: while !stop.load(Ordering::Relaxed) && !enough(count) {
        let visible = match server.persistently(&stop, &mut notice, Server::watermarks) {
            Ok(answered) => answered.answer.visible,
            Err(_) if stop.load(Ordering::Relaxed) => break,
            Err(error) => return Err(error.into()),
        };
        if visible < next {
            shown.flush()?;
            std::thread::park_timeout(LOOK_EVERY);
            continue;
        }
        let begin = from.clone().unwrap_or_else(|| next.to_string());
        let parameters = [&[("from", begin), ("to", visible.to_string())], &filter[..]].concat();
        let mut cut = None;
        for row in server.rows::<EventRow>("/v1/events", &parameters)? {
            match row {
                Ok(row) if row.sequence.get() < next => {}
                Ok(row) => {
                    shown.event(&row)?;
                    next = row.sequence.get() + 1;
                    count += 1;
                    if enough(count) {
                        break 'events;
                    }
                }
                Err(error @ ServerError::Connection { .. }) => cut = Some(error),
                Err(error) => return Err(error.into()),
            }
            if cut.is_some() || stop.load(Ordering::Relaxed) {
                break;
            }
        }
        match cut {
            // What came of the answer counts; the rest is asked for again.
            Some(error) => notice(&format!("{error}; going on at sequence {next}")),
            None if stop.load(Ordering::Relaxed) => {}
            None => (next, from) = (visible + 1, None),
        }
    }
    shown.flush()?;
    let resume = format!("resume with --from {next}");
    if stop.load(Ordering::Relaxed) && !enough(count) {
        return Err(CliError::Interrupted(resume));
    }
    eprintln!("{resume}");
    Ok(())
}
