//! Shanghai Stock Exchange level-2 records: order and trade CSV files, plain or compressed, as one source.
//!
//! The files share one sequence per channel and day, so they are read whole, merged by (day, ChannelNo, ApplSeqNum) and handed
//! out in that order, each record a group of its own. A record's ordinal is its place in the merged order. A malformed line has
//! its place right after the line before it in its file; with [`OnError::Stop`] the import ends there, with everything
//! before it in the merged order imported.
//!
//! A number is one record's. Where a record is there twice (a file given plain and compressed, a doubled line), all but the
//! first are left out before anything is numbered, so that the source is the one it is without them. Two different records
//! with one number are refused: which of them happened is nothing a file says.
//!
//! Orders are good for the day, and no record says when they go. So each day's first record is preceded by [`Item::DayBegins`].
//!
//! What the venue means is kept as it is: an order that is executed in full on arrival is never posted and shows up only
//! in trades, and a cancel names what was left. Prices carry binary-float noise and are rounded to 1/10000, half up,
//! digit by digit. Exchange time is Asia/Shanghai (UTC+8, no summer time since 1991) and becomes UTC.

mod columns;
mod decimal;
mod line;

use std::collections::BTreeSet;
use std::path::PathBuf;

use matchtape_schemas::event::{
    Event, InstrumentClass, InstrumentDefined, OrderAccepted, OrderCancelled, Side, TradeMatched,
};
use matchtape_schemas::text::Text;
use matchtape_schemas::{
    Body, EventTime, InstrumentId, OrderId, Price, ProducerSequence, Quantity, ReceiveTime, TradeId,
    VenueSequence,
};

use self::line::{Line, What};
use super::{
    DayBegins, Directory, ImportError, Input, Item, OnError, Place, Problem, Progress, Source, SourceId,
    Tally,
};

/// The name of the format.
pub const FORMAT: &str = "sse-l2";

/// Records that are merged in memory: about 3 GB of them.
pub const RECORDS_MAX: usize = 32 << 20;

/// Malformed lines are kept until their place is known; files with more are not of this format.
pub const MALFORMED_MAX: usize = 100_000;

const VENUE: &str = "XSHG";
const CURRENCY: &str = "CNY";
/// 0.01 CNY, in units of 1e-9.
const PRICE_STEP: Price = Price::from_units(10_000_000);
/// Odd lots are sold, so the step is one share.
const QUANTITY_STEP: Quantity = Quantity::from_units(1_000_000_000);

/// What [`SseSource::open`] is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only these instruments (symbols as in SecurityID); empty: all.
    pub instruments: Vec<String>,
    /// What to do about malformed lines.
    pub on_error: OnError,
    /// Instead of the producers that follow from the content.
    pub id: Option<SourceId>,
}

/// One line of either file, compact.
#[derive(Clone, Copy, Debug)]
struct Record {
    channel: u32,
    sequence: u64,
    event_time: i64,
    receive_time: i64,
    instrument: u32,
    /// Where it stands, to be named.
    file: u32,
    line: u32,
    what: What,
}

impl Record {
    /// Its place in the merged order.
    fn key(&self) -> (i64, u32, u64) {
        (decimal::day_of_utc_ns(self.event_time), self.channel, self.sequence)
    }

    /// Whether it says the same, wherever it stands.
    fn equals(&self, other: &Self) -> bool {
        let facts = |record: &Self| (record.event_time, record.receive_time, record.instrument, record.what);
        self.key() == other.key() && facts(self) == facts(other)
    }
}

/// An instrument of the files.
#[derive(Debug)]
struct Security {
    symbol: Text<40>,
    name: Text<64>,
    wanted: bool,
    id: Option<InstrumentId>,
}

/// The files as events.
#[derive(Debug)]
pub struct SseSource {
    id: SourceId,
    on_error: OnError,
    directory: Directory,
    securities: Vec<Security>,
    records: Vec<Record>,
    problems: Vec<Option<Problem>>,
    files: Vec<PathBuf>,
    next: usize,
    definitions: u64,
    /// What comes before further records are looked at, the next one last.
    waiting: Vec<Item>,
    day: Option<i64>,
    last_time: i64,
    tally: Tally,
}

/// Whether a file begins as one of this format does.
pub fn check(file: Input) -> Result<(), ImportError> {
    line::Lines::new(file).map(|_| ())
}

impl SseSource {
    /// Reads and merges the files, in whichever order they are given. `watch` is told how far reading has come.
    pub fn open(
        files: Vec<Input>,
        directory: Directory,
        options: &Options,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Self, ImportError> {
        if files.is_empty() {
            return Err(ImportError::Files("no file given".to_owned()));
        }
        let mut source = Self {
            id: SourceId::of_number(1),
            on_error: options.on_error,
            directory,
            securities: Vec::new(),
            records: Vec::new(),
            problems: Vec::new(),
            files: Vec::new(),
            next: 0,
            definitions: 0,
            waiting: Vec::new(),
            day: None,
            last_time: i64::MIN,
            tally: Tally::default(),
        };
        let total = files.iter().map(|file| file.progress().total).sum();
        let mut before = 0;
        let mut beginnings: Vec<Vec<u8>> = Vec::new();
        for file in files {
            let size = file.progress().total;
            let beginning =
                source.read(file, options, &mut |done| watch(Progress { done: before + done, total }))?;
            before += size;
            beginnings.extend(beginning);
        }
        // The same files in another order are the same source, and so are they with one of them given twice.
        beginnings.sort_unstable();
        beginnings.dedup();
        let parts: Vec<&[u8]> = beginnings.iter().map(Vec::as_slice).collect();
        source.id = options.id.unwrap_or_else(|| SourceId::of_content(FORMAT, &parts));
        // Stable, so that equal numbers keep the order of the files; and quick, because runs are sorted already.
        source.records.sort_by_key(Record::key);
        source.leave_out_repeated()?;
        Ok(source)
    }

    /// Of the records with one number, keeps the first, and refuses others that say something else. Malformed lines have
    /// the number of the record before them: one is there twice where its file is.
    fn leave_out_repeated(&mut self) -> Result<(), ImportError> {
        let before = self.records.len();
        let mut first: Option<Record> = None;
        let mut lines: BTreeSet<(u32, u32)> = BTreeSet::new();
        let mut conflict = None;
        self.records.retain(|record| {
            if first.is_none_or(|first| first.key() != record.key()) {
                first = None;
                lines.clear();
            }
            match (record.what, first) {
                (What::Malformed { checksum, .. }, _) => lines.insert((record.line, checksum)),
                (_, None) => {
                    first = Some(*record);
                    true
                }
                (_, Some(first)) => {
                    if !first.equals(record) {
                        conflict.get_or_insert((first, *record));
                    }
                    false
                }
            }
        });
        self.tally.repeated = (before - self.records.len()) as u64;
        let Some((one, other)) = conflict else { return Ok(()) };
        let place =
            |record: &Record| format!("{}, line {}", self.files[record.file as usize].display(), record.line);
        Err(ImportError::Repeated(format!(
            "{} and {}: two different records with ApplSeqNum {} of channel {}",
            place(&one),
            place(&other),
            one.sequence,
            one.channel
        )))
    }

    /// Reads one file; returns its first record as it stands, which identifies it.
    fn read(
        &mut self,
        file: Input,
        options: &Options,
        watch: &mut dyn FnMut(u64),
    ) -> Result<Option<Vec<u8>>, ImportError> {
        let path: PathBuf = file.file().to_owned();
        self.files.push(path.clone());
        let place = self.files.len() as u32 - 1;
        let mut lines = line::Lines::new(file)?;
        let mut beginning = None;
        let (mut channel, mut sequence, mut event_time) = (0, 0, 0);
        let mut count = 0u64;
        while lines.advance()? {
            count += 1;
            if count.is_multiple_of(4096) {
                watch(lines.bytes_read());
            }
            if beginning.is_none() {
                beginning = Some(lines.raw());
            }
            if self.records.len() == RECORDS_MAX {
                return Err(ImportError::Files(format!(
                    "{}: more than {RECORDS_MAX} records in all; import channels or instruments from separate files",
                    path.display()
                )));
            }
            // Files of more lines hold more records than are merged.
            let number = u32::try_from(lines.line()).unwrap_or(u32::MAX);
            let record = match lines.parse() {
                Ok(line) => self.record(&line, options, &path, (place, number)),
                Err(problem) => Err(problem),
            };
            if record.is_err() && self.problems.len() == MALFORMED_MAX {
                return Err(ImportError::Files(format!(
                    "{}: more than {MALFORMED_MAX} malformed lines in all; is it of the format {FORMAT}?",
                    path.display()
                )));
            }
            let record = record.unwrap_or_else(|problem| {
                self.problems.push(Some(problem));
                let problem = self.problems.len() as u32 - 1;
                let what = What::Malformed { problem, checksum: crc32fast::hash(&lines.raw()) };
                Record {
                    channel,
                    sequence,
                    event_time,
                    receive_time: 0,
                    instrument: 0,
                    file: place,
                    line: number,
                    what,
                }
            });
            (channel, sequence, event_time) = (record.channel, record.sequence, record.event_time);
            self.records.push(record);
        }
        Ok(beginning)
    }

    fn record(
        &mut self,
        line: &Line<'_>,
        options: &Options,
        path: &std::path::Path,
        (file, number): (u32, u32),
    ) -> Result<Record, Problem> {
        let text = |field, found: &str, error: matchtape_schemas::text::TextError| {
            Problem::new(path, Place::Line(number.into()), field, format!("{found:?}"), error.to_string())
        };
        let symbol = Text::new(line.symbol).map_err(|error| text("SecurityID", line.symbol, error))?;
        // Files list one instrument after the other, so the last one is nearly always the one.
        let known = self.securities.iter().rposition(|security| security.symbol == symbol);
        let instrument = match known {
            Some(known) => known,
            None => {
                let name = Text::new(line.name).map_err(|error| text("Symbol", line.name, error))?;
                let wanted = options.instruments.is_empty()
                    || options.instruments.iter().any(|wanted| wanted == line.symbol);
                self.securities.push(Security { symbol, name, wanted, id: None });
                self.securities.len() - 1
            }
        };
        Ok(Record {
            channel: line.channel,
            sequence: line.sequence,
            event_time: line.event_time,
            receive_time: line.receive_time,
            instrument: instrument as u32,
            file,
            line: number,
            what: line.what,
        })
    }

    /// The definition of a record's instrument, if this is its first.
    fn define(&mut self, record: &Record) -> Option<Item> {
        let security = &mut self.securities[record.instrument as usize];
        if security.id.is_some() {
            return None;
        }
        let symbol = security.symbol.as_str();
        let digits = symbol.split_once('.').map_or(symbol.as_ref(), |(digits, _)| digits);
        let definition = InstrumentDefined {
            symbol: security.symbol,
            name: security.name,
            venue_instrument_id: digits.parse().unwrap_or(0),
            price_increment: PRICE_STEP,
            quantity_increment: QUANTITY_STEP,
            currency: Text::new(CURRENCY).expect("short"),
            venue: Text::new(VENUE).expect("short"),
            channel: record.channel.try_into().unwrap_or(0),
            class: InstrumentClass::Equity,
            ..InstrumentDefined::default()
        };
        self.definitions += 1;
        // An instrument that is left out takes a number and no id.
        if !security.wanted {
            security.id = Some(InstrumentId(0));
            return None;
        }
        let id = self.directory.get_or_add(&definition);
        security.id = Some(id);
        let number = ProducerSequence(self.definitions);
        Some(Item::Definition(Event::new(id, number, EventTime(record.event_time), definition)))
    }
}

impl Source for SseSource {
    fn next(&mut self) -> Result<Option<Item>, ImportError> {
        if let Some(item) = self.waiting.pop() {
            return Ok(Some(item));
        }
        while let Some(&record) = self.records.get(self.next) {
            self.next += 1;
            self.tally.records += 1;
            if let What::Malformed { problem, .. } = record.what {
                let problem = self.problems[problem as usize].take().expect("each is met once");
                self.tally.malformed(problem, self.on_error)?;
                continue;
            }
            if record.event_time < self.last_time {
                self.tally.back_in_time += 1;
            }
            self.last_time = self.last_time.max(record.event_time);
            let definition = self.define(&record);
            let security = &self.securities[record.instrument as usize];
            if !security.wanted {
                self.tally.filtered += 1;
                continue;
            }
            let id = security.id.expect("defined before its first record");
            let ordinal = ProducerSequence(self.next as u64);
            let event = Event::new(id, ordinal, EventTime(record.event_time), body(&record));
            self.waiting.push(Item::Records(vec![event]));
            self.waiting.extend(definition);
            let day = decimal::day_of_utc_ns(record.event_time);
            if self.day.replace(day) != Some(day) {
                self.waiting.push(Item::DayBegins(DayBegins {
                    venue: VENUE,
                    begins: EventTime(decimal::utc_ns(day, 0).unwrap_or(record.event_time)),
                    utc_offset_ns: decimal::SHANGHAI_NS,
                    record: ordinal,
                }));
            }
            return Ok(self.waiting.pop());
        }
        Ok(None)
    }

    fn id(&self) -> SourceId {
        self.id
    }

    fn progress(&self) -> Progress {
        Progress { done: self.next as u64, total: self.records.len() as u64 }
    }

    fn tally(&self) -> &Tally {
        &self.tally
    }
}

fn body(record: &Record) -> Body {
    let (venue_sequence, receive_time) = (VenueSequence(record.sequence), ReceiveTime(record.receive_time));
    match record.what {
        What::Insert { side, price, quantity, order } => OrderAccepted {
            order_id: OrderId(order),
            price,
            quantity,
            venue_sequence,
            receive_time,
            side,
            ..OrderAccepted::default()
        }
        .into(),
        What::Cancel { side, price, quantity, order } => OrderCancelled {
            order_id: OrderId(order),
            price,
            quantity,
            venue_sequence,
            receive_time,
            side,
            ..OrderCancelled::default()
        }
        .into(),
        What::Trade { aggressor, price, quantity, index, buy, sell } => TradeMatched {
            trade_id: TradeId(index),
            buy_order_id: OrderId(buy),
            sell_order_id: OrderId(sell),
            price,
            quantity,
            venue_sequence,
            receive_time,
            aggressor,
            ..TradeMatched::default()
        }
        .into(),
        What::Malformed { .. } => unreachable!("malformed lines are no events"),
    }
}

const _: () = {
    // What RECORDS_MAX times this needs is stated there.
    assert!(size_of::<Record>() <= 96);
    assert!(size_of::<Side>() == 1);
};
