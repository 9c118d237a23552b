//! Publishes what a source hands out, each record once however often it is run.

use std::sync::atomic::{AtomicBool, Ordering};

use matchtape_node::{Node, NodeError, PublishError, Published, Publisher, WaitError};
use matchtape_schemas::{Body, Event, ProducerSequence, Sequence, Stage};

use super::{Directory, ImportError, Item, Source};

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

/// Why loading ended early. What was published before is on the tape and durable, except after `Wait`.
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
    publisher: Publisher,
    through: ProducerSequence,
}

impl Lane {
    fn has(&self, event: &Event) -> bool {
        event.producer_sequence <= self.through
    }
}

/// Publishes everything of `source`. `known` are the instruments of the tape as they were before. Returns when all of
/// it is durable, or, once `stop` is set, what was published until then. `watch` is called now and then.
pub fn load(
    node: &Node,
    source: &mut dyn Source,
    known: &Directory,
    stop: &AtomicBool,
    watch: &mut dyn FnMut(&dyn Source, &Loaded),
) -> Result<Loaded, LoadError> {
    let lane = |producer| -> Result<Lane, LoadError> {
        let publisher = node.publisher(producer).map_err(|error| LoadError::Node(Box::new(error)))?;
        let through = publisher.last().map_or(ProducerSequence(0), |mark| mark.producer_sequence);
        Ok(Lane { publisher, through })
    };
    let mut records = lane(source.id().records)?;
    let mut definitions = lane(source.id().definitions)?;
    let mut loaded = Loaded::default();
    let outcome = run(source, known, stop, watch, &mut records, &mut definitions, &mut loaded);
    // Also what came before an error: only then is it true that it is imported.
    if loaded.last > Sequence::ZERO {
        node.wait(loaded.last, Stage::Durable)?;
    }
    outcome.map(|()| loaded)
}

fn run(
    source: &mut dyn Source,
    known: &Directory,
    stop: &AtomicBool,
    watch: &mut dyn FnMut(&dyn Source, &Loaded),
    records: &mut Lane,
    definitions: &mut Lane,
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
            publish(definitions, &[definition], loaded)?;
        }
        publish(records, &group, loaded)?;
        watch(source, loaded);
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

fn publish(lane: &mut Lane, group: &[Event], loaded: &mut Loaded) -> Result<(), LoadError> {
    let Some(last) = group.last() else { return Ok(()) };
    if lane.has(last) {
        loaded.already += group.len() as u64;
        return Ok(());
    }
    loop {
        match lane.publisher.publish_group(group) {
            Ok(Published::New { last, .. }) => {
                loaded.published += group.len() as u64;
                loaded.last = last;
                return Ok(());
            }
            Ok(Published::Already { .. }) => {
                loaded.already += group.len() as u64;
                return Ok(());
            }
            Err(PublishError::WouldBlock) => lane.publisher.wait_for_room(group.len())?,
            Err(reason) => {
                return Err(LoadError::Publish { record: group[0].producer_sequence, reason });
            }
        }
    }
}
