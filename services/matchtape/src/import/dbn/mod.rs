//! Databento Binary Encoding, schema `mbo` (market by order), versions 1 to 3, plain or zstd-compressed.
//!
//! The decoder is our own: the layout is fixed and small, an error has to name the byte, the field, what was found and
//! what was expected, and a damaged record has to be skippable; the `dbn` crate gives neither, and brings every schema.
//! Records are read into a buffer of their own, so it does not matter where in the file they lie.
//!
//! | action | event |
//! |---|---|
//! | A | `OrderAccepted` |
//! | C | `OrderCancelled` |
//! | M | `OrderReplaced`, same number |
//! | R | `BookCleared` |
//! | T | `TradeMatched`, reports only; the record's order is the aggressor's: the buying one for side B, else the selling |
//! | F | `OrderExecuted`, reports only |
//! | N | none: it says nothing about orders |
//!
//! A group ends at a record flagged `last` (128) once every instrument with an open event has had its last record, so
//! that events of several instruments that lie interleaved in the file stay in the file's order. Snapshot records (32)
//! become events flagged `SNAPSHOT`. A record's ordinal is its place in the file.

mod metadata;
mod record;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use matchtape_schemas::event::{
    BookCleared, Event, EventFlags, InstrumentDefined, OrderAccepted, OrderCancelled, OrderExecuted,
    OrderReplaced, Side, TradeMatched,
};
use matchtape_schemas::text::Text;
use matchtape_schemas::{
    Body, EventTime, InstrumentId, OrderId, Price, ProducerSequence, Quantity, ReceiveTime, VenueSequence,
};

pub use self::metadata::Metadata;
use self::record::{Action, Mbo};
use super::{
    Directory, GROUP_EVENTS_MAX, ImportError, Input, Item, OnError, Place, Problem, Progress, Source,
    SourceId, Tally,
};

/// The name of the format.
pub const FORMAT: &str = "dbn-mbo";

/// The record's flag for the last one of an event.
const FLAG_LAST: u8 = 128;
/// The record's flag for one that restates the book.
const FLAG_SNAPSHOT: u8 = 32;

/// What [`DbnSource::open`] is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only these instruments (symbols, or the venue's numbers); empty: all.
    pub instruments: Vec<String>,
    /// What to do about malformed records.
    pub on_error: OnError,
    /// Instead of the producers that follow from the content.
    pub id: Option<SourceId>,
}

/// What tells instruments of a file apart.
type Key = (u16, u32);

/// An instrument of the file; `None` inside: not asked for.
type Known = Option<InstrumentId>;

/// One file as events.
pub struct DbnSource {
    input: Input,
    id: SourceId,
    options: Options,
    metadata: Metadata,
    directory: Directory,
    known: BTreeMap<Key, Known>,
    definitions: u64,
    /// The record read ahead to identify the source.
    first: Option<Vec<u8>>,
    at: u64,
    ordinal: u64,
    group: Vec<Event>,
    open: BTreeSet<Key>,
    ready: VecDeque<Item>,
    ended: bool,
    /// A problem that ends the import once what came before it is handed out.
    stopped: Option<ImportError>,
    last_time: i64,
    tally: Tally,
}

/// Whether a file begins as one of this format does.
pub fn check(mut file: Input) -> Result<(), ImportError> {
    Metadata::read(&mut file).map(|_| ())
}

impl DbnSource {
    /// Reads the metadata.
    pub fn open(mut input: Input, directory: Directory, options: &Options) -> Result<Self, ImportError> {
        let (metadata, raw) = Metadata::read(&mut input)?;
        let mut first = vec![0; metadata.record_bytes()];
        let count = input.read_up_to(&mut first)?;
        first.truncate(count);
        let id = options.id.unwrap_or_else(|| SourceId::of_content(FORMAT, &[&raw, &first]));
        Ok(Self {
            at: raw.len() as u64,
            input,
            id,
            options: options.clone(),
            metadata,
            directory,
            known: BTreeMap::new(),
            definitions: 0,
            first: Some(first),
            ordinal: 0,
            group: Vec::new(),
            open: BTreeSet::new(),
            ready: VecDeque::new(),
            ended: false,
            stopped: None,
            last_time: i64::MIN,
            tally: Tally::default(),
        })
    }

    /// The file's metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Reads the next record's bytes; fewer than a whole record only at the end of the file.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ImportError> {
        let mut filled = 0;
        if let Some(ahead) = &mut self.first {
            filled = ahead.len().min(buffer.len());
            buffer[..filled].copy_from_slice(&ahead[..filled]);
            ahead.drain(..filled);
            if ahead.is_empty() {
                self.first = None;
            }
        }
        if filled < buffer.len() {
            filled += self.input.read_up_to(&mut buffer[filled..])?;
        }
        Ok(filled)
    }

    /// Takes in records until something is ready to be handed out.
    fn fill(&mut self) -> Result<(), ImportError> {
        let mut bytes = [0; 4 * u8::MAX as usize];
        while self.ready.is_empty() && !self.ended {
            // The length of a record stands in its first byte, in words of four.
            let start = self.at;
            if self.read(&mut bytes[..1])? == 0 {
                self.ended = true;
                // The file ends inside a group: what there is of it belongs together.
                if !self.group.is_empty() {
                    self.tally.groups_cut += 1;
                    self.end_group();
                }
                return Ok(());
            }
            let place = Place::Byte(start);
            let stated = usize::from(bytes[0]) * 4;
            let plausible = stated >= record::HEADER_BYTES;
            // A damaged length says nothing about where the next record is; nearly all have the size of an mbo record.
            let length = if plausible { stated } else { self.metadata.record_bytes() };
            let count = 1 + self.read(&mut bytes[1..length])?;
            self.at += count as u64;
            self.ordinal += 1;
            self.tally.records += 1;
            if count < length {
                let expected = format!("{length} bytes");
                self.malformed(self.problem(place, "the record", format!("{count} bytes"), expected))?;
                continue;
            }
            if !plausible {
                let expected = format!("{} words of 4 bytes", self.metadata.record_bytes() / 4);
                self.malformed(self.problem(place, "length", bytes[0].to_string(), expected))?;
                continue;
            }
            match Mbo::parse(&bytes[..length], self.metadata.record_bytes()) {
                Ok(Some(mbo)) => self.take(&mbo),
                Ok(None) => self.tally.without_event += 1,
                Err(wrong) => {
                    let place = Place::Byte(start + wrong.offset as u64);
                    self.malformed(self.problem(place, wrong.field, wrong.found, wrong.expected))?;
                }
            }
        }
        Ok(())
    }

    fn problem(&self, place: Place, field: &'static str, found: String, expected: String) -> Problem {
        Problem::new(self.input.file(), place, field, found, expected)
    }

    fn malformed(&mut self, problem: Problem) -> Result<(), ImportError> {
        self.tally.malformed(problem, self.options.on_error)
    }

    fn take(&mut self, mbo: &Mbo) {
        if mbo.ts_event < self.last_time {
            self.tally.back_in_time += 1;
        }
        self.last_time = self.last_time.max(mbo.ts_event);
        let key = (mbo.publisher_id, mbo.instrument_id);
        let known = match self.known.get(&key) {
            Some(known) => *known,
            None => self.define(mbo),
        };
        match (known, body(mbo)) {
            (None, _) => self.tally.filtered += 1,
            (Some(_), None) => self.tally.without_event += 1,
            (Some(instrument), Some(body)) => {
                let mut flags = EventFlags::NONE;
                if matches!(mbo.action, Action::Trade | Action::Fill) {
                    flags = flags.with(EventFlags::REPORTS_ONLY);
                }
                if mbo.flags & FLAG_SNAPSHOT != 0 {
                    flags = flags.with(EventFlags::SNAPSHOT);
                }
                self.group.push(Event {
                    instrument,
                    producer_sequence: ProducerSequence(self.ordinal),
                    event_time: EventTime(mbo.ts_event),
                    flags,
                    venue_flags: mbo.flags,
                    body,
                });
            }
        }
        if mbo.flags & FLAG_LAST != 0 {
            self.open.remove(&key);
        } else {
            self.open.insert(key);
        }
        if self.open.is_empty() {
            self.end_group();
        } else if self.group.len() == GROUP_EVENTS_MAX {
            self.tally.groups_cut += 1;
            self.end_group();
        }
    }

    fn end_group(&mut self) {
        if let Some(last) = self.group.last_mut() {
            last.flags = last.flags.with(EventFlags::LAST_OF_GROUP);
            let size = self.group.len();
            self.ready.push_back(Item::Records(std::mem::replace(
                &mut self.group,
                Vec::with_capacity(size.min(64)),
            )));
        }
    }

    /// Introduces the instrument of its first record.
    fn define(&mut self, mbo: &Mbo) -> Known {
        self.definitions += 1;
        let number = mbo.instrument_id.to_string();
        let mapped = self.metadata.symbol_of(mbo.instrument_id, mbo.ts_recv);
        let mut symbol = mapped.unwrap_or(&number).to_owned();
        let wanted = self.options.instruments.is_empty()
            || self.options.instruments.iter().any(|wanted| *wanted == symbol || *wanted == number);
        let known = wanted.then(|| {
            let definition = |symbol: &str| InstrumentDefined {
                // A mapped symbol longer than the field gives way to the number, which always fits.
                symbol: Text::new(symbol).unwrap_or_else(|_| Text::new(&number).expect("ten digits fit")),
                venue_instrument_id: u64::from(mbo.instrument_id),
                venue: Text::new(&self.metadata.dataset).unwrap_or_default(),
                publisher: mbo.publisher_id,
                channel: u16::from(mbo.channel_id),
                ..InstrumentDefined::default()
            };
            // Another instrument of the tape that is called the same keeps the name.
            if self.directory.get(&definition(&symbol)).is_none() && self.directory.has_symbol(&symbol) {
                symbol = format!("{symbol}#{number}");
            }
            let definition = definition(&symbol);
            let id = self.directory.get_or_add(&definition);
            let ordinal = ProducerSequence(self.definitions);
            self.ready.push_back(Item::Definition(Event::new(
                id,
                ordinal,
                EventTime(mbo.ts_event),
                definition,
            )));
            id
        });
        self.known.insert((mbo.publisher_id, mbo.instrument_id), known);
        known
    }
}

impl Source for DbnSource {
    fn next(&mut self) -> Result<Option<Item>, ImportError> {
        if self.ready.is_empty()
            && self.stopped.is_none()
            && let Err(error) = self.fill()
        {
            self.stopped = Some(error);
        }
        match (self.ready.pop_front(), self.stopped.take()) {
            (Some(item), stopped) => {
                self.stopped = stopped;
                Ok(Some(item))
            }
            (None, Some(error)) => {
                self.ended = true;
                Err(error)
            }
            (None, None) => Ok(None),
        }
    }

    fn id(&self) -> SourceId {
        self.id
    }

    fn progress(&self) -> Progress {
        self.input.progress()
    }

    fn tally(&self) -> &Tally {
        &self.tally
    }
}

fn body(mbo: &Mbo) -> Option<Body> {
    let (order_id, price, side) = (OrderId(mbo.order_id), mbo.price, mbo.side);
    let quantity = Quantity::from_whole(u64::from(mbo.size)).expect("32 bits of whole units fit");
    let (venue_sequence, receive_time) = (VenueSequence(u64::from(mbo.sequence)), ReceiveTime(mbo.ts_recv));
    let send_delay_ns = mbo.ts_in_delta;
    Some(match mbo.action {
        Action::Add => OrderAccepted {
            order_id,
            price,
            quantity,
            venue_sequence,
            receive_time,
            send_delay_ns,
            side,
            ..OrderAccepted::default()
        }
        .into(),
        Action::Cancel => OrderCancelled {
            order_id,
            price,
            quantity,
            venue_sequence,
            receive_time,
            send_delay_ns,
            side,
            ..OrderCancelled::default()
        }
        .into(),
        Action::Modify => OrderReplaced {
            order_id,
            new_order_id: order_id,
            price,
            quantity,
            venue_sequence,
            receive_time,
            send_delay_ns,
            side,
            ..OrderReplaced::default()
        }
        .into(),
        Action::Clear => {
            BookCleared { venue_sequence, receive_time, send_delay_ns, ..BookCleared::default() }.into()
        }
        Action::Trade => {
            let none = OrderId(0);
            let (buy_order_id, sell_order_id) =
                if side == Side::Buy { (order_id, none) } else { (none, order_id) };
            TradeMatched {
                buy_order_id,
                sell_order_id,
                price,
                quantity,
                venue_sequence,
                receive_time,
                send_delay_ns,
                aggressor: side,
                ..TradeMatched::default()
            }
            .into()
        }
        Action::Fill => OrderExecuted {
            order_id,
            price,
            quantity,
            venue_sequence,
            receive_time,
            send_delay_ns,
            side,
            ..OrderExecuted::default()
        }
        .into(),
        Action::Nothing => return None,
    })
}

/// The price of a record: `i64::MAX` is none, and so is what a tape writes for none.
fn price_of(units: i64) -> Price {
    if units == i64::MAX { Price::NONE } else { Price::from_units(units) }
}
