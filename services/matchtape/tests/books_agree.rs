//! The books of both real days, as everybody comes by them: followed live from the bus, kept by changes alone, replayed by
//! another process, asked for as of a position from the node and from its files. At every checkpoint of the judge they are
//! what the judge says, and so are their checksums.
//!
//! A live reader that is slower than the import reads the log. So that it comes to the checkpoints live, the import waits
//! before and behind each of them until it has caught up.

mod oracle;
mod shared_memory;
mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use matchtape::import::dbn::{self, DbnSource};
use matchtape::import::sse::{self, SseSource};
use matchtape::import::{
    Directory, Input, LoadError, Loaded, NodeTarget, OnError, Overlap, Recorded, Source, Target, load,
};
use matchtape_bus::{BusConfig, BusService, WakeUp};
use matchtape_client::as_of;
use matchtape_market::{
    Book, BookChange, Books, CHECKSUM_LEVELS, Instruments, Volume, book_checksum, projections,
};
use matchtape_node::{BusOptions, FollowedHistory, Node, NodeOptions};
use matchtape_schemas::event::Side;
use matchtape_schemas::{
    Body, Event, EventRef, EventTime, InstrumentId, Kind, KindMask, Price, ProducerId, ProducerSequence,
    Quantity, Sequence, Stage,
};
use matchtape_storage::{ReadOnlyOptions, ReadOnlyStore, RealDisk};
use matchtape_subscription::{
    BusLive, End, Historical, HistoricalOptions, RealTime, RealTimeOptions, Start, Subscription, Update,
};
use oracle::Units;
use serde_json::Value;
use shared_memory::Namespace;
use watched::Watched;

const PATIENCE: Duration = Duration::from_secs(60);
/// How soon a reader notices that it has come to the end.
const TURN: Duration = Duration::from_millis(20);

/// What the judge says of a book after so many of its instrument's records.
struct Checkpoint {
    records: u64,
    top10: Value,
    totals: Value,
    checksum: u32,
}

struct Day {
    units: Units,
    /// By the judge's name of the instrument, its symbol or the venue's number, in the order of records.
    checkpoints: BTreeMap<String, Vec<Checkpoint>>,
}

impl Day {
    fn new(folder: &Path, units: Units, records: &str) -> Self {
        let expected = oracle::expected(folder);
        let of = |instrument: &Value| -> Vec<Checkpoint> {
            let points = instrument["book_checkpoints"].as_array().expect("a list").iter();
            let mut points: Vec<Checkpoint> = points
                .map(|point| Checkpoint {
                    records: point[records].as_u64().expect("a count"),
                    top10: point["top10"].clone(),
                    totals: point["totals"].clone(),
                    checksum: checksum_of(&point["top10"], units),
                })
                .collect();
            points.sort_by_key(|point| point.records);
            points
        };
        let instruments = expected["instruments"].as_object().expect("by name");
        let checkpoints = instruments.iter().map(|(name, one)| (name.clone(), of(one))).collect();
        Self { units, checkpoints }
    }

    fn of(&self, names: &[String]) -> &[Checkpoint] {
        names.iter().find_map(|name| self.checkpoints.get(name)).map_or(&[], Vec::as_slice)
    }
}

/// The checksum as its documentation says it, from the judge's rows alone.
fn checksum_of(top10: &Value, units: Units) -> u32 {
    let mut text = String::new();
    for (side, rows) in [("buy", "bids"), ("sell", "asks")] {
        for row in top10[rows].as_array().expect("rows") {
            let number = |place: usize| row[place].as_i64().expect("a whole number");
            let price = Price::from_units(number(0) * units.price);
            let quantity = Quantity::from_whole(number(1) as u64).expect("a quantity");
            text.push_str(&format!("{side},{price},{quantity},{}\n", number(2)));
        }
    }
    crc32fast::hash(text.as_bytes())
}

/// A copy of the levels, kept by changes alone.
#[derive(Default)]
struct Copy {
    held: Sequence,
    bids: BTreeMap<Price, (Volume, u32)>,
    asks: BTreeMap<Price, (Volume, u32)>,
}

impl Copy {
    fn apply(&mut self, change: &BookChange) {
        assert_eq!(change.previous_sequence, self.held, "a change before this one is missing");
        assert!(change.first_sequence > self.held && change.last_sequence >= change.first_sequence);
        self.held = change.last_sequence;
        for level in &change.levels {
            let side = if level.side == Side::Buy { &mut self.bids } else { &mut self.asks };
            if level.orders == 0 {
                side.remove(&level.price);
            } else {
                side.insert(level.price, (level.quantity, level.orders));
            }
        }
    }

    fn checksum(&self) -> u32 {
        let mut text = String::new();
        for (price, (quantity, orders)) in self.bids.iter().rev().take(CHECKSUM_LEVELS) {
            text.push_str(&format!("buy,{price},{quantity},{orders}\n"));
        }
        for (price, (quantity, orders)) in self.asks.iter().take(CHECKSUM_LEVELS) {
            text.push_str(&format!("sell,{price},{quantity},{orders}\n"));
        }
        crc32fast::hash(text.as_bytes())
    }
}

/// Whether a record is one of those that the judge counts.
fn counts(kind: Kind) -> bool {
    kind != Kind::InstrumentDefined && !KindMask::CONTROL.contains(kind)
}

/// Where the live reader is, for the import.
#[derive(Default)]
struct Progress {
    live: AtomicBool,
    at: AtomicU64,
    /// Set when the import has ended: its last event.
    last: AtomicU64,
}

/// Where the checkpoints are on the tape: position, instrument, day, and which of that instrument's.
type Reached = Vec<(Sequence, InstrumentId, usize, usize)>;

/// One reader's books, judged as they come to the checkpoints.
struct Reader<'a> {
    who: &'static str,
    days: &'a [Day],
    books: Books,
    instruments: Instruments,
    records: BTreeMap<InstrumentId, u64>,
    copies: BTreeMap<InstrumentId, Copy>,
    reached: Reached,
    /// Events come from the bus.
    is_live: bool,
    /// How many of each day's checkpoints did.
    reached_live: Vec<usize>,
}

impl<'a> Reader<'a> {
    fn new(who: &'static str, days: &'a [Day]) -> Self {
        let mut books = Books::new();
        books.watch();
        let (instruments, records, copies) = (Instruments::new(), BTreeMap::new(), BTreeMap::new());
        let (reached, is_live, reached_live) = (Vec::new(), false, vec![0; days.len()]);
        Self { who, days, books, instruments, records, copies, reached, is_live, reached_live }
    }

    fn apply(&mut self, event: &EventRef<'_>) {
        self.books.apply(event);
        self.instruments.apply(event);
        for change in self.books.take_changes() {
            self.copies.entry(change.instrument).or_default().apply(&change);
        }
        let instrument = event.instrument();
        if !counts(event.kind()) {
            return;
        }
        let records = self.records.entry(instrument).or_default();
        *records += 1;
        let records = *records;
        let definition = &self.instruments.get(instrument).expect("defined before").definition;
        let symbol = &definition.symbol.to_string();
        let names = [symbol.clone(), definition.venue_instrument_id.to_string()];
        for (place, day) in self.days.iter().enumerate() {
            for (number, point) in day.of(&names).iter().enumerate() {
                if point.records == records {
                    let who = format!("{}, {symbol} after {records} records", self.who);
                    judge(&who, day.units, point, self.books.get(instrument).expect("a book"));
                    assert_eq!(
                        self.copies[&instrument].checksum(),
                        point.checksum,
                        "{who}, by changes alone"
                    );
                    self.reached.push((event.sequence(), instrument, place, number));
                    self.reached_live[place] += usize::from(self.is_live);
                }
            }
        }
    }

    /// Reads through the last position once that is known.
    fn follow(mut self, mut subscription: impl Subscription, progress: &Progress) -> Self {
        let begun = Instant::now();
        let mut at = 0;
        // Acquire: pairs with the import's store of where it ended.
        while at < progress.last.load(Ordering::Acquire) {
            assert!(begun.elapsed() < PATIENCE, "{} is stuck at {at}", self.who);
            match subscription.next(TURN).expect("a sound tape") {
                Some(Update::Events(events)) => {
                    for event in events.iter() {
                        self.apply(&event);
                        at = event.sequence().get();
                    }
                }
                Some(Update::LiveJoined { .. }) => self.is_live = true,
                Some(Update::LiveLeft { .. }) => self.is_live = false,
                _ => {}
            }
            // Release: pairs with the import's look at both.
            progress.live.store(self.is_live, Ordering::Release);
            progress.at.store(at, Ordering::Release);
        }
        self
    }
}

fn judge(who: &str, units: Units, point: &Checkpoint, book: &Book) {
    assert_eq!(units.top10(book), point.top10, "{who}");
    assert_eq!(units.totals(book), point.totals, "{who}");
    assert_eq!(book_checksum(book), point.checksum, "{who}");
}

/// Publishes to a node, and lets the live reader come to the checkpoints live.
struct InStep<'a> {
    target: NodeTarget<'a>,
    days: &'a [Day],
    names: BTreeMap<InstrumentId, [String; 2]>,
    records: BTreeMap<InstrumentId, u64>,
    progress: &'a Progress,
}

impl InStep<'_> {
    /// Counts a group's records as the reader will; whether a checkpoint is among them.
    fn has_checkpoint(&mut self, group: &[Event]) -> bool {
        let mut found = false;
        for event in group {
            if let Body::InstrumentDefined(body) = &event.body {
                let names = [body.symbol.to_string(), body.venue_instrument_id.to_string()];
                self.names.insert(event.instrument, names);
            }
            if !counts(event.body.kind()) {
                continue;
            }
            let records = self.records.entry(event.instrument).or_default();
            *records += 1;
            let points = self.days.iter().flat_map(|day| day.of(&self.names[&event.instrument]));
            found |= points.into_iter().any(|point| point.records == *records);
        }
        found
    }

    /// Until the reader is live and has everything.
    fn wait_for_reader(&mut self, loaded: &mut Loaded) -> Result<(), LoadError> {
        self.target.settle(loaded)?;
        let (begun, last) = (Instant::now(), self.target.visible().get());
        // Acquire: pairs with the reader's stores.
        while !(self.progress.live.load(Ordering::Acquire)
            && self.progress.at.load(Ordering::Acquire) >= last)
        {
            assert!(begun.elapsed() < PATIENCE, "the reader is never live at {last}");
            std::thread::yield_now();
        }
        Ok(())
    }
}

impl Target for InStep<'_> {
    fn open(&mut self, producer: ProducerId) -> Result<ProducerSequence, LoadError> {
        self.target.open(producer)
    }

    fn publish(
        &mut self,
        producer: ProducerId,
        group: &[Event],
        loaded: &mut Loaded,
    ) -> Result<(), LoadError> {
        let checkpoint = self.has_checkpoint(group);
        if checkpoint {
            self.wait_for_reader(loaded)?;
        }
        self.target.publish(producer, group, loaded)?;
        // What follows would overtake it.
        if checkpoint { self.wait_for_reader(loaded) } else { Ok(()) }
    }

    fn settle(&mut self, loaded: &mut Loaded) -> Result<(), LoadError> {
        self.target.settle(loaded)
    }

    fn recorded(
        &mut self,
        instrument: Option<(InstrumentId, &str)>,
        from: EventTime,
        through: EventTime,
        found: &mut dyn FnMut(Recorded) -> bool,
    ) -> Result<Option<()>, LoadError> {
        self.target.recorded(instrument, from, through, found)
    }

    fn last_through(
        &mut self,
        instrument: (InstrumentId, &str),
        through: EventTime,
    ) -> Result<Option<EventTime>, LoadError> {
        self.target.last_through(instrument, through)
    }

    fn visible(&self) -> Sequence {
        self.target.visible()
    }
}

fn import(
    node: &Node,
    source: &mut dyn Source,
    known: &Directory,
    days: &[Day],
    progress: &Progress,
) -> Sequence {
    let stop = AtomicBool::new(false);
    let target = NodeTarget::new(node, &stop, |text| panic!("{text}"));
    let (names, records) = (BTreeMap::new(), BTreeMap::new());
    let mut target = InStep { target, days, names, records, progress };
    load(&mut target, source, known, Overlap::Refuse, &stop, &mut |_, _, _| {}).expect("a sound source").last
}

/// Both days onto the tape; returns its last event.
fn import_both(node: &Node, sse: &Path, cme: &Path, days: &[Day], progress: &Progress) -> Sequence {
    let options = sse::Options { instruments: Vec::new(), on_error: OnError::Stop, id: None };
    let files = ["orders.csv.gz", "trades.csv.gz"].map(|name| Input::open(&sse.join(name)).unwrap());
    let known = Directory::new();
    let mut source = SseSource::open(files.into(), known.clone(), &options, &mut |_| {}).unwrap();
    let last = import(node, &mut source, &known, days, progress);
    node.wait(last, Stage::Visible).unwrap();

    let options = dbn::Options { instruments: Vec::new(), on_error: OnError::Stop, id: None };
    let file = Input::open(&cme.join("esh4-glbx-mdp3-20231225.mbo.dbn")).unwrap();
    let known = Directory::of(&as_of::instruments(&node.reader(), last).unwrap());
    let mut source = DbnSource::open(file, known.clone(), &options).unwrap();
    let last = import(node, &mut source, &known, days, progress);
    node.wait(last, Stage::Visible).unwrap();
    last
}

fn outside(tape: &Path) -> ReadOnlyStore {
    ReadOnlyStore::open(Arc::new(RealDisk::open(tape).unwrap()), ReadOnlyOptions::default()).unwrap()
}

#[test]
fn books_live_replayed_and_as_of_are_what_the_judge_says_at_every_checkpoint_and_so_are_their_checksums() {
    let Some(data) = oracle::data() else { return };
    let (sse, cme) = (data.join("sse_l2_20230711"), data.join("cme_mbo_esh4_20231225"));
    let days = [
        Day::new(&sse, Units { price: 100_000 }, "events_applied"),
        Day::new(&cme, Units { price: 1 }, "records_applied"),
    ];
    let checkpoints: usize = days.iter().flat_map(|day| day.checkpoints.values()).map(Vec::len).sum();
    assert!(checkpoints >= 28, "{checkpoints}");

    let (folder, namespace) = (tempfile::tempdir().unwrap(), Namespace::new("books"));
    let tape = folder.path().join("data");
    let bus = BusOptions {
        namespace: namespace.as_str().to_owned(),
        root: Some(folder.path().join("bus")),
        config: BusConfig { subscribers_max: 4, buffer_samples: 8, ..BusConfig::default() },
        ..BusOptions::default()
    };
    let mut options = NodeOptions { bus: Some(bus), ..NodeOptions::default() };
    // Several snapshots, so that a book as of a position begins with one.
    options.store.memtable_bytes = 4 << 20;
    let node = Node::open(&tape, options, projections()).unwrap();
    let watched = Watched::start(&tape, &namespace, &folder.path().join("bus"));
    let progress = Progress { last: AtomicU64::new(u64::MAX), ..Progress::default() };
    let live = std::thread::scope(|scope| {
        let live = scope.spawn(|| {
            let name = node.bus_name().expect("it has a bus");
            let bus = BusLive::new(name, BusService::Live, WakeUp::Event, Duration::from_micros(50));
            let options = RealTimeOptions { start: Start::Beginning, ..RealTimeOptions::default() };
            let subscription = RealTime::open(node.history(), bus, options).unwrap();
            Reader::new("live", &days).follow(subscription, &progress)
        });
        let last = import_both(&node, &sse, &cme, &days, &progress);
        // Release: pairs with the reader's look at where it ends.
        progress.last.store(last.get(), Ordering::Release);
        live.join().expect("the live books are right")
    });
    // A machine that stands still at one of them sends the reader to the log; not at every other one.
    for (day, live) in days.iter().zip(live.reached_live) {
        let checkpoints: usize = day.checkpoints.values().map(Vec::len).sum();
        assert!(2 * live > checkpoints, "{live} of {checkpoints} checkpoints came live");
    }
    let live = live.reached;
    assert_eq!(live.len(), checkpoints, "every checkpoint was come to");

    let options =
        HistoricalOptions { start: Start::Beginning, end: End::Visible, ..HistoricalOptions::default() };
    let history = FollowedHistory::new(outside(&tape));
    let replay = Historical::open(history, options).unwrap();
    let replayed = Reader::new("replayed", &days).follow(replay, &progress);
    assert_eq!(replayed.reached, live);

    let as_of = |who: &str, reader: &matchtape_storage::Reader| {
        for (sequence, instrument, day, place) in &live {
            let instruments = as_of::instruments(reader, *sequence).unwrap();
            let definition = &instruments.get(*instrument).expect("defined").definition;
            let names = [definition.symbol.to_string(), definition.venue_instrument_id.to_string()];
            let books = as_of::books(reader, &[*instrument], *sequence).unwrap();
            let (who, day) = (format!("{who}, {} as of {sequence}", names[0]), &days[*day]);
            judge(&who, day.units, &day.of(&names)[*place], books.get(*instrument).expect("a book"));
        }
    };
    as_of("the node", &node.reader());
    let snapshots: BTreeSet<Sequence> = live
        .iter()
        .filter_map(|(sequence, ..)| node.reader().snapshot_before(*sequence).unwrap())
        .map(|snapshot| snapshot.sequence())
        .collect();
    assert!(snapshots.len() > 3, "the books as of the checkpoints begin with {snapshots:?}");
    watched.ends_clean();
    node.close().unwrap();
    as_of("the files", &outside(&tape).reader());
}
