//! Publishes what a source hands out, each record once however often it is run.

use std::sync::atomic::{AtomicBool, Ordering};

use matchtape_node::{NodeError, PublishError, WaitError};
use matchtape_schemas::{Body, Event, ProducerId, ProducerSequence, Sequence};

use super::{Directory, ImportError, Item, Source, Target};
use crate::server::ServerError;

/// What loading did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Events put on the tape, definitions included.
    pub published: u64,
    /// Events that were on the tape already.
    pub already: u64,
    /// The last event put on the tape, zero for none. It is durable.
    pub last: Sequence,
    /// Whether it was asked to stop before the source's end.
    pub interrupted: bool,
}

/// Why loading ended early. What was published before is on the tape and durable, except after `Wait`; after `Server` all
/// but the last batch is.
#[derive(thiserror::Error, Debug)]
pub enum LoadError {
    /// The source.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The node gave no handle.
    #[error(transparent)]
    Node(Box<NodeError>),
    /// The node refused events.
    #[error("record {record} of the source: {reason}")]
    Publish {
        /// Its ordinal.
        record: ProducerSequence,
        /// Why.
        reason: PublishError,
    },
    /// The node ended before everything was durable.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The node elsewhere did not answer, or refused.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The tape has later records of this source, and none of this instrument.
    #[error(
        "{symbol} was left out when this source was imported: the tape has its records up to number {through}, \
         and {symbol} begins at number {first}"
    )]
    LeftOutBefore {
        /// The instrument.
        symbol: String,
        /// The last record on the tape.
        through: ProducerSequence,
        /// The instrument's first record.
        first: ProducerSequence,
    },
}

/// One producer and what it had published when it was opened.
struct Lane {
    producer: ProducerId,
    through: ProducerSequence,
}

impl Lane {
    fn open(target: &mut dyn Target, producer: ProducerId) -> Result<Self, LoadError> {
        Ok(Self { producer, through: target.open(producer)? })
    }

    fn has(&self, event: &Event) -> bool {
        event.producer_sequence <= self.through
    }
}

/// Called now and then with how far the source, the loading and the tape are.
pub type Watch<'a> = dyn FnMut(&dyn Source, &Loaded, &dyn Target) + 'a;

/// Publishes everything of `source`. `known` are the instruments of the tape as they were before. Returns when all of
/// it is durable, or, once `stop` is set, what was published until then.
pub fn load(
    target: &mut dyn Target,
    source: &mut dyn Source,
    known: &Directory,
    stop: &AtomicBool,
    watch: &mut Watch<'_>,
) -> Result<Loaded, LoadError> {
    let records = Lane::open(target, source.id().records)?;
    let definitions = Lane::open(target, source.id().definitions)?;
    let mut loaded = Loaded::default();
    let outcome = run(target, source, known, stop, watch, [&records, &definitions], &mut loaded);
    // Also what came before an error: only then is it true that it is imported.
    match outcome {
        // The last batch was tried for long enough.
        Err(LoadError::Server(error)) => Err(LoadError::Server(error)),
        outcome => target.settle(&mut loaded).and(outcome).map(|()| loaded),
    }
}

fn run(
    target: &mut dyn Target,
    source: &mut dyn Source,
    known: &Directory,
    stop: &AtomicBool,
    watch: &mut Watch<'_>,
    [records, definitions]: [&Lane; 2],
    loaded: &mut Loaded,
) -> Result<(), LoadError> {
    // Definitions wait for the records they introduce, to see whether those are on the tape.
    let mut introduced: Vec<Event> = Vec::new();
    while let Some(item) = source.next()? {
        // Relaxed: a flag that nothing else depends on.
        if stop.load(Ordering::Relaxed) {
            loaded.interrupted = true;
            return Ok(());
        }
        let group = match item {
            Item::Definition(definition) => {
                introduced.push(definition);
                continue;
            }
            Item::Records(group) => group,
        };
        for definition in introduced.drain(..) {
            check_left_out(&definition, &group, known, records)?;
            publish(target, definitions, &[definition], loaded)?;
        }
        publish(target, records, &group, loaded)?;
        watch(source, loaded, target);
    }
    Ok(())
}

/// A definition always goes onto the tape before the first record of its instrument. So where the tape has that record's
/// place and not the definition, the instrument was filtered out when the source was imported.
fn check_left_out(
    definition: &Event,
    group: &[Event],
    known: &Directory,
    records: &Lane,
) -> Result<(), LoadError> {
    let Body::InstrumentDefined(instrument) = &definition.body else { return Ok(()) };
    let first = group.iter().find(|event| event.instrument == definition.instrument);
    match first {
        Some(first) if records.has(first) && known.get(instrument).is_none() => {
            Err(LoadError::LeftOutBefore {
                symbol: instrument.symbol.to_string(),
                through: records.through,
                first: first.producer_sequence,
            })
        }
        _ => Ok(()),
    }
}

fn publish(
    target: &mut dyn Target,
    lane: &Lane,
    group: &[Event],
    loaded: &mut Loaded,
) -> Result<(), LoadError> {
    match group.last() {
        None => Ok(()),
        Some(last) if lane.has(last) => {
            loaded.already += group.len() as u64;
            Ok(())
        }
        Some(_) => target.publish(lane.producer, group, loaded),
    }
}
