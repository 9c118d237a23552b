//! Publishes what a source hands out, each record once however often it is run.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use matchtape_node::{NodeError, PublishError, WaitError};
use matchtape_schemas::{
    Body, Event, EventTime, InstrumentId, ProducerId, ProducerSequence, Sequence, VenueSequence,
};
use matchtape_storage::ReadError;

use super::{Directory, ImportError, Item, Source, Target, days};
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
    /// The tape's time had passed this one, of the source's first event that was put there: it is late on this tape, and so is
    /// whatever else lies before that time.
    pub behind: Option<EventTime>,
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
    /// The tape has later records of this source, and none of this instrument: it was left out, or the records are numbered
    /// otherwise now.
    #[error(
        "the tape has the records of this source up to number {through}, but no {symbol}, which begins at number {first}: either \
         it was left out when the source was imported, or the files have grown elsewhere than at their end"
    )]
    LeftOutBefore {
        /// The instrument.
        symbol: String,
        /// The last record on the tape.
        through: ProducerSequence,
        /// The instrument's first record.
        first: ProducerSequence,
    },
    /// What the tape has under this source's producer are not its records.
    #[error(
        "the tape has records of producer {producer} through number {through}, but record {record} of this source is not \
         among them: they are of another source"
    )]
    OtherSource {
        /// The producer.
        producer: ProducerId,
        /// Its last record on the tape.
        through: ProducerSequence,
        /// A record that should be there.
        record: ProducerSequence,
    },
    /// The last record that the tape has of this source is another one here.
    #[error(
        "the tape has records of this source through number {through}, which is another record here: the files have grown \
         elsewhere than at their end, or lines that were left out are whole now"
    )]
    Renumbered {
        /// The last record on the tape.
        through: ProducerSequence,
    },
    /// The tape has events of the instrument from where this source's begin or later, of another source.
    #[error(
        "the tape has events of {symbol} from the time and the venue's number of this source's record {record} on, from \
         another source (producer {producer})"
    )]
    Overlaps {
        /// The instrument.
        symbol: String,
        /// Where they came from.
        producer: ProducerId,
        /// The instrument's first record.
        record: ProducerSequence,
    },
    /// The tape could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// What becomes of a source that begins among events which the tape has of the same instrument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// It is refused: most likely these are the same records.
    Refuse,
    /// It is published beside them.
    Allow,
}

/// One producer and what it had published when it was opened.
pub(super) struct Lane {
    producer: ProducerId,
    through: ProducerSequence,
}

impl Lane {
    pub(super) fn open(target: &mut dyn Target, producer: ProducerId) -> Result<Self, LoadError> {
        Ok(Self { producer, through: target.open(producer)? })
    }

    pub(super) fn producer(&self) -> ProducerId {
        self.producer
    }

    pub(super) fn through(&self) -> ProducerSequence {
        self.through
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
    overlap: Overlap,
    stop: &AtomicBool,
    watch: &mut Watch<'_>,
) -> Result<Loaded, LoadError> {
    let records = Lane::open(target, source.id().records)?;
    let definitions = Lane::open(target, source.id().definitions)?;
    let mut loaded = Loaded::default();
    let mut beginnings = Beginnings { known, overlap, begun: false, adding: false, seen: BTreeSet::new() };
    let outcome = run(target, source, &mut beginnings, stop, watch, [&records, &definitions], &mut loaded);
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
    beginnings: &mut Beginnings<'_>,
    stop: &AtomicBool,
    watch: &mut Watch<'_>,
    [records, definitions]: [&Lane; 2],
    loaded: &mut Loaded,
) -> Result<(), LoadError> {
    // Definitions wait for the records they introduce, to see whether those are on the tape.
    let mut introduced: Vec<Event> = Vec::new();
    let mut known = beginnings.known.clone();
    while let Some(item) = source.next()? {
        // Relaxed: a flag that nothing else depends on.
        if stop.load(Ordering::Relaxed) {
            loaded.interrupted = true;
            return Ok(());
        }
        let group = match item {
            Item::DayBegins(day) => {
                // Where the tape has the day's beginning, it is too late to clear the books before it.
                if day.record > records.through {
                    days::close(target, &day, &known, loaded)?;
                }
                continue;
            }
            Item::Definition(definition) => {
                if let Body::InstrumentDefined(body) = &definition.body {
                    known.insert(definition.instrument, body);
                }
                introduced.push(definition);
                continue;
            }
            Item::Records(group) => group,
        };
        loaded.behind = beginnings.check(target, &group, records)?.or(loaded.behind);
        for definition in introduced.drain(..) {
            check_left_out(&definition, &group, beginnings.known, records)?;
            publish(target, definitions, &[definition], loaded)?;
        }
        // A record without its definition would be of no instrument.
        if loaded.interrupted {
            return Ok(());
        }
        publish(target, records, &group, loaded)?;
        watch(source, loaded, target);
    }
    Ok(())
}

/// Looks at what the tape has where a source begins: numbers alone do not say whose records they number.
struct Beginnings<'a> {
    /// The instruments of the tape as they were before.
    known: &'a Directory,
    overlap: Overlap,
    /// The source's first record was looked at.
    begun: bool,
    /// The first event that the tape does not have was looked at.
    adding: bool,
    /// Instruments whose first record was looked at.
    seen: BTreeSet<InstrumentId>,
}

impl Beginnings<'_> {
    /// Returns the time of the group's first event where it is the first that is put onto the tape, and late there.
    fn check(
        &mut self,
        target: &mut dyn Target,
        group: &[Event],
        records: &Lane,
    ) -> Result<Option<EventTime>, LoadError> {
        for event in group {
            if event.producer_sequence == records.through {
                self.check_last(target, event, records)?;
            }
            if !self.seen.insert(event.instrument) {
                continue;
            }
            let Some(symbol) = self.known.symbol(event.instrument) else { continue };
            let instrument = (event.instrument, symbol);
            if !records.has(event) {
                self.check_overlap(target, instrument, event, records)?;
            } else if !self.begun {
                check_is_there(target, instrument, event, records)?;
            }
            self.begun = true;
        }
        match group.first().filter(|first| !self.adding && !records.has(first)) {
            None => Ok(None),
            Some(first) => {
                self.adding = true;
                is_late(target, first.event_time).map(|late| late.then_some(first.event_time))
            }
        }
    }

    /// The last record that the tape has: if it is not this one, its number is another record's here, and so is that of every
    /// record behind the place where something came in between.
    fn check_last(&self, target: &mut dyn Target, last: &Event, records: &Lane) -> Result<(), LoadError> {
        let Some(symbol) = self.known.symbol(last.instrument) else { return Ok(()) };
        let instrument = Some((last.instrument, symbol));
        let mut there = false;
        let keeps_all = target.recorded(instrument, last.event_time, last.event_time, &mut |found| {
            there = found.producer == records.producer
                && found.producer_sequence == last.producer_sequence
                && found.venue_sequence.unwrap_or(VenueSequence(0)) == venue_sequence(&last.body);
            !there
        })?;
        if there || keeps_all.is_none() {
            return Ok(());
        }
        Err(LoadError::Renumbered { through: records.through })
    }

    /// Of a new source: the tape's events of another one, at the same time and with the same venue's numbers or later. Where a
    /// venue's files follow each other, either its numbers or its times are greater than all before.
    fn check_overlap(
        &self,
        target: &mut dyn Target,
        instrument: (InstrumentId, &str),
        first: &Event,
        records: &Lane,
    ) -> Result<(), LoadError> {
        if self.overlap == Overlap::Allow {
            return Ok(());
        }
        let begins = venue_sequence(&first.body);
        let mut other = None;
        target.recorded(Some(instrument), first.event_time, EventTime::MAX, &mut |found| {
            let overlaps = found.venue_sequence.is_some_and(|number| number >= begins);
            if overlaps && found.producer != records.producer {
                other = Some(found.producer);
            }
            other.is_none()
        })?;
        match other {
            None => Ok(()),
            Some(producer) => Err(LoadError::Overlaps {
                symbol: instrument.1.to_owned(),
                producer,
                record: first.producer_sequence,
            }),
        }
    }
}

/// Whether the tape has, or had, an event of a later time.
fn is_late(target: &mut dyn Target, time: EventTime) -> Result<bool, LoadError> {
    let Some(after) = time.get().checked_add(1) else { return Ok(false) };
    let mut later = false;
    let asked = target.recorded(None, EventTime(after), EventTime::MAX, &mut |_| {
        later = true;
        false
    })?;
    Ok(later || asked.is_none())
}

/// Of a source that the tape has records of: its first one is among them.
fn check_is_there(
    target: &mut dyn Target,
    instrument: (InstrumentId, &str),
    first: &Event,
    records: &Lane,
) -> Result<(), LoadError> {
    let mut there = false;
    let keeps_all = target.recorded(Some(instrument), first.event_time, first.event_time, &mut |found| {
        there = found.producer == records.producer && found.producer_sequence == first.producer_sequence;
        !there
    })?;
    if there || keeps_all.is_none() {
        return Ok(());
    }
    Err(LoadError::OtherSource {
        producer: records.producer,
        through: records.through,
        record: first.producer_sequence,
    })
}

/// The venue's number of a record; zero: it has none.
fn venue_sequence(record: &Body) -> VenueSequence {
    match record {
        Body::TradingStatusChanged(body) => body.venue_sequence,
        Body::BookCleared(body) => body.venue_sequence,
        Body::OrderAccepted(body) => body.venue_sequence,
        Body::OrderRejected(body) => body.venue_sequence,
        Body::OrderReplaced(body) => body.venue_sequence,
        Body::OrderCancelled(body) => body.venue_sequence,
        Body::OrderExecuted(body) => body.venue_sequence,
        Body::TradeMatched(body) => body.venue_sequence,
        Body::TradeBusted(body) => body.venue_sequence,
        Body::InstrumentDefined(_)
        | Body::SessionOpened(_)
        | Body::SessionClosed(_)
        | Body::AccountOpened(_)
        | Body::AccountChanged(_)
        | Body::PositionChanged(_)
        | Body::StateSet(_)
        | Body::StateDeleted(_)
        | Body::EpochStarted(_)
        | Body::EpochEnded(_)
        | Body::TimeAdvanced(_) => VenueSequence(0),
    }
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
