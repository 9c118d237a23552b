//! The DBN importer on small files made here, whole and damaged.

use matchtape::import::dbn::{DbnSource, Options};
use matchtape::import::{Directory, GROUP_EVENTS_MAX, ImportError, Input, Item, OnError, Place, Source};
use matchtape_market::Books;
use matchtape_schemas::event::Side;
use matchtape_schemas::*;
use proptest::prelude::*;

mod fuzzed;
#[path = "../../../distribution/market/tests/common/mod.rs"]
mod tape;

#[derive(Clone, Copy)]
struct Rec {
    publisher: u16,
    instrument: u32,
    ts_event: u64,
    order: u64,
    price: i64,
    size: u32,
    flags: u8,
    action: u8,
    side: u8,
    ts_recv: u64,
    sequence: u32,
}

const LAST: u8 = 128;
const DAY_NS: u64 = 1_703_462_400_000_000_000;

fn rec(action: u8, side: u8, order: u64, price: i64, size: u32, flags: u8) -> Rec {
    let times = (DAY_NS + 5, DAY_NS + 9);
    Rec {
        publisher: 1,
        instrument: 17077,
        ts_event: times.0,
        order,
        price,
        size,
        flags,
        action,
        side,
        ts_recv: times.1,
        sequence: 7,
    }
}

impl Rec {
    fn bytes(&self) -> Vec<u8> {
        let mut out = vec![14, 0xA0];
        out.extend(self.publisher.to_le_bytes());
        out.extend(self.instrument.to_le_bytes());
        out.extend(self.ts_event.to_le_bytes());
        out.extend(self.order.to_le_bytes());
        out.extend(self.price.to_le_bytes());
        out.extend(self.size.to_le_bytes());
        out.extend([self.flags, 3, self.action, self.side]);
        out.extend(self.ts_recv.to_le_bytes());
        out.extend((-11i32).to_le_bytes());
        out.extend(self.sequence.to_le_bytes());
        assert_eq!(out.len(), 56);
        out
    }
}

fn padded(text: &str, bytes: usize) -> Vec<u8> {
    let mut out = text.as_bytes().to_vec();
    out.resize(bytes, 0);
    out
}

/// The head of a file; `symbols` are (symbol, number, first day, end day).
fn head(version: u8, ts_out: bool, symbols: &[(&str, &str, u32, u32)]) -> Vec<u8> {
    let symbol_bytes = if version == 1 { 22 } else { 71 };
    let mut rest = padded("GLBX.MDP3", 16);
    rest.extend(0u16.to_le_bytes());
    rest.extend([0; 24]);
    if version == 1 {
        rest.extend([0; 8]);
    }
    rest.extend([1, 0, u8::from(ts_out)]);
    if version == 1 {
        rest.extend([0; 47]);
    } else {
        rest.extend((symbol_bytes as u16).to_le_bytes());
        rest.extend([0; 53]);
    }
    rest.extend([0; 4]);
    rest.extend(1u32.to_le_bytes());
    rest.extend(padded("ESH4", symbol_bytes));
    rest.extend([0; 8]);
    rest.extend((symbols.len() as u32).to_le_bytes());
    for (symbol, number, first, end) in symbols {
        rest.extend(padded(symbol, symbol_bytes));
        rest.extend(1u32.to_le_bytes());
        rest.extend(first.to_le_bytes());
        rest.extend(end.to_le_bytes());
        rest.extend(padded(number, symbol_bytes));
    }
    let mut out = b"DBN".to_vec();
    out.push(version);
    out.extend((rest.len() as u32).to_le_bytes());
    out.extend(rest);
    out
}

const ESH4: (&str, &str, u32, u32) = ("ESH4", "17077", 20_231_225, 20_231_226);

fn file(records: &[Rec]) -> Vec<u8> {
    let mut out = head(1, false, &[ESH4]);
    records.iter().for_each(|record| out.extend(record.bytes()));
    out
}

fn options(on_error: OnError) -> Options {
    Options { instruments: Vec::new(), on_error, id: None }
}

fn open(bytes: Vec<u8>, options: &Options) -> Result<DbnSource, ImportError> {
    DbnSource::open(Input::of_bytes("x.dbn", bytes).unwrap(), Directory::new(), options)
}

fn drain(source: &mut DbnSource) -> (Vec<Event>, Vec<Vec<Event>>, Option<ImportError>) {
    let (mut definitions, mut groups) = (Vec::new(), Vec::new());
    loop {
        match source.next() {
            Ok(Some(Item::DayBegins(_))) => {}
            Ok(Some(Item::Definition(event))) => definitions.push(event),
            Ok(Some(Item::Records(events))) => groups.push(events),
            Ok(None) => return (definitions, groups, None),
            Err(error) => return (definitions, groups, Some(error)),
        }
    }
}

fn ordinals(groups: &[Vec<Event>]) -> Vec<Vec<u64>> {
    groups.iter().map(|group| group.iter().map(|event| event.producer_sequence.get()).collect()).collect()
}

fn import(bytes: Vec<u8>) -> (Vec<Event>, Vec<Vec<Event>>) {
    let (definitions, groups, error) = drain(&mut open(bytes, &options(OnError::Stop)).unwrap());
    assert!(error.is_none(), "{error:?}");
    (definitions, groups)
}

#[test]
fn each_action_becomes_its_event_and_groups_end_where_the_venue_ends_them() {
    let records = [
        rec(b'R', b'N', 0, i64::MAX, 0, 8 | LAST),
        rec(b'A', b'B', 71, 4_800_000_000_000, 5, 32),
        rec(b'A', b'A', 72, 4_800_250_000_000, 6, 32 | LAST),
        rec(b'T', b'A', 80, 4_800_000_000_000, 2, 0),
        rec(b'T', b'B', 81, 4_800_000_000_000, 2, 0),
        rec(b'T', b'N', 0, 4_800_000_000_000, 2, 0),
        rec(b'F', b'B', 71, 4_800_000_000_000, 2, 0),
        rec(b'M', b'B', 71, 4_799_000_000_000, 3, 130),
        rec(b'N', b'N', 0, 0, 0, LAST),
        rec(b'C', b'A', 72, 4_800_250_000_000, 6, LAST),
    ];
    let (definitions, groups) = import(file(&records));
    let Body::InstrumentDefined(instrument) = &definitions[0].body else { panic!() };
    assert_eq!((instrument.symbol.to_string(), instrument.venue_instrument_id), ("ESH4".into(), 17077));
    assert_eq!(
        (instrument.publisher, instrument.channel, instrument.venue.to_string()),
        (1, 3, "GLBX.MDP3".into())
    );
    assert_eq!(ordinals(&groups), [vec![1], vec![2, 3], vec![4, 5, 6, 7, 8], vec![10]]);
    for group in &groups {
        let ends: Vec<bool> =
            group.iter().map(|event| event.flags.contains(EventFlags::LAST_OF_GROUP)).collect();
        assert_eq!(ends.iter().filter(|end| **end).count(), 1);
        assert_eq!(ends.last(), Some(&true));
    }
    let Body::BookCleared(cleared) = &groups[0][0].body else { panic!() };
    assert_eq!((cleared.send_delay_ns, cleared.venue_sequence), (-11, VenueSequence(7)));
    assert_eq!((groups[0][0].venue_flags, groups[0][0].event_time), (136, EventTime(DAY_NS as i64 + 5)));
    let Body::OrderAccepted(accepted) = &groups[1][0].body else { panic!() };
    assert_eq!(
        (accepted.order_id, accepted.side, accepted.quantity),
        (OrderId(71), Side::Buy, Quantity::from_whole(5).unwrap())
    );
    assert_eq!(
        (accepted.price, accepted.receive_time),
        ("4800".parse().unwrap(), ReceiveTime(DAY_NS as i64 + 9))
    );
    assert!(groups[1].iter().all(|event| event.flags.contains(EventFlags::SNAPSHOT)));
    let trades: Vec<_> = groups[2][..3]
        .iter()
        .map(|event| {
            assert!(event.flags.contains(EventFlags::REPORTS_ONLY));
            let Body::TradeMatched(trade) = &event.body else { panic!() };
            (trade.buy_order_id.get(), trade.sell_order_id.get(), trade.aggressor)
        })
        .collect();
    assert_eq!(trades, [(0, 80, Side::Sell), (81, 0, Side::Buy), (0, 0, Side::None)]);
    assert!(matches!(&groups[2][3].body, Body::OrderExecuted(fill) if fill.order_id == OrderId(71)));
    assert!(groups[2][3].flags.contains(EventFlags::REPORTS_ONLY));
    assert!(
        matches!(&groups[2][4].body, Body::OrderReplaced(m) if m.order_id == m.new_order_id && m.order_id == OrderId(71))
    );
    assert!(matches!(&groups[3][0].body, Body::OrderCancelled(cancel) if cancel.order_id == OrderId(72)));

    let mut tape = tape::Tape::new();
    definitions.iter().chain(groups.iter().flatten()).for_each(|event| tape.push(event));
    let mut books = Books::new();
    tape.each(|event| books.apply(event));
    let book = books.get(InstrumentId(1)).unwrap();
    assert_eq!(book.best(Side::Buy).map(|level| level.price), Some("4799".parse().unwrap()));
    assert_eq!(book.best(Side::Sell), None);
}

#[test]
fn groups_of_several_instruments_that_interleave_stay_in_file_order() {
    let other = |mut record: Rec| {
        record.instrument = 42;
        record
    };
    let add = |order, flags| rec(b'A', b'B', order, 1, 1, flags);
    let records =
        [add(1, 0), other(add(2, 0)), add(3, LAST), other(add(4, LAST)), other(add(5, LAST)), add(6, LAST)];
    let (definitions, groups) = import(file(&records));
    assert_eq!(ordinals(&groups), [vec![1, 2, 3, 4], vec![5], vec![6]]);
    let symbols: Vec<String> = definitions
        .iter()
        .map(|event| {
            let Body::InstrumentDefined(instrument) = &event.body else { panic!() };
            instrument.symbol.to_string()
        })
        .collect();
    assert_eq!(symbols, ["ESH4", "42"], "without a mapping the number is the symbol");

    let only = |wanted: &str| Options { instruments: vec![wanted.to_owned()], ..options(OnError::Stop) };
    for (wanted, expected) in [
        ("ESH4", vec![vec![1, 3], vec![6]]),
        ("42", vec![vec![2, 4], vec![5]]),
        ("17077", vec![vec![1, 3], vec![6]]),
    ] {
        let mut source = open(file(&records), &only(wanted)).unwrap();
        let (definitions, groups, error) = drain(&mut source);
        assert!(error.is_none() && definitions.len() == 1);
        assert_eq!(ordinals(&groups), expected, "{wanted}");
        assert!(groups.iter().all(|group| group.last().unwrap().flags.contains(EventFlags::LAST_OF_GROUP)));
    }
}

#[test]
fn symbols_are_those_of_the_day_and_unique_on_the_tape() {
    let symbols = [("OLD", "17077", 20_231_224, 20_231_225), ("ESH4", "17077", 20_231_225, 20_231_226)];
    let mut bytes = head(1, false, &symbols);
    bytes.extend(rec(b'A', b'B', 1, 1, 1, LAST).bytes());
    let taken = {
        let mut directory = Directory::new();
        let symbol = text::Text::new("ESH4").unwrap();
        directory.get_or_add(&matchtape_schemas::event::InstrumentDefined { symbol, ..Default::default() });
        directory
    };
    for (directory, expected) in [(Directory::new(), "ESH4"), (taken, "ESH4#17077")] {
        let input = Input::of_bytes("x", bytes.clone()).unwrap();
        let (definitions, ..) =
            drain(&mut DbnSource::open(input, directory, &options(OnError::Stop)).unwrap());
        let Body::InstrumentDefined(instrument) = &definitions[0].body else { panic!() };
        assert_eq!(instrument.symbol.to_string(), expected);
    }
}

#[test]
fn versions_1_to_3_sending_times_and_any_alignment_are_read() {
    let record = rec(b'A', b'B', 1, 1, 1, LAST);
    let (_, plain) = import(file(&[record, record]));
    for version in 1..=3 {
        for ts_out in [false, true] {
            for symbols in [&[][..], &[ESH4][..], &[ESH4, ("ESM4", "9", 20_231_225, 20_231_226)][..]] {
                let mut bytes = head(version, ts_out, symbols);
                for _ in 0..2 {
                    let mut record = record.bytes();
                    if ts_out {
                        record[0] = 16;
                        record.extend(77u64.to_le_bytes());
                    }
                    bytes.extend(record);
                }
                assert_eq!(import(bytes).1, plain, "version {version}, ts_out {ts_out}");
            }
        }
    }
}

#[test]
fn records_of_other_schemas_and_undefined_times_and_prices_are_taken_as_they_are() {
    let mut bytes = file(&[rec(b'A', b'B', 1, 1, 1, LAST)]);
    let mut symbol_mapping = vec![0; 24];
    (symbol_mapping[0], symbol_mapping[1]) = (6, 0x16);
    bytes.extend(symbol_mapping);
    let mut undefined = rec(b'A', b'A', 2, i64::MAX, 1, LAST);
    undefined.ts_recv = u64::MAX;
    bytes.extend(undefined.bytes());
    let mut source = open(bytes, &options(OnError::Stop)).unwrap();
    let (_, groups, error) = drain(&mut source);
    assert!(error.is_none());
    assert_eq!(ordinals(&groups), [vec![1], vec![3]]);
    let Body::OrderAccepted(order) = &groups[1][0].body else { panic!() };
    assert_eq!((order.price, order.receive_time), (Price::NONE, ReceiveTime(0)));
    assert_eq!(source.tally().without_event, 1);
}

/// Every way a record can be wrong: its bytes, where in it, the field.
fn malformed() -> Vec<(Vec<u8>, u64, &'static str)> {
    let with = |at: usize, byte: u8| {
        let mut bytes = rec(b'A', b'B', 9, 1, 1, LAST).bytes();
        bytes[at] = byte;
        bytes
    };
    vec![
        (with(0, 0), 0, "length"),
        (with(0, 3), 0, "length"),
        (with(38, b'x'), 38, "action"),
        (with(39, b'b'), 39, "side"),
        (with(15, 0xFF), 8, "ts_event"),
        (with(47, 0xF0), 40, "ts_recv"),
    ]
}

#[test]
fn a_malformed_record_stops_the_import_and_names_file_byte_and_field() {
    let good = rec(b'A', b'B', 1, 1, 1, LAST);
    let start = file(&[good]).len() as u64;
    for (bytes, offset, field) in malformed() {
        let bytes = [file(&[good]), bytes, good.bytes()].concat();
        let (_, groups, error) = drain(&mut open(bytes.clone(), &options(OnError::Stop)).unwrap());
        let Some(ImportError::Malformed(problem)) = error else { panic!("{field}") };
        assert_eq!((problem.place, problem.field), (Place::Byte(start + offset), field), "{problem}");
        assert!(problem.to_string().starts_with("x.dbn, byte "), "{problem}");
        assert_eq!(ordinals(&groups), [vec![1]], "what came before is handed out");

        let mut source = open(bytes, &options(OnError::Skip)).unwrap();
        let (_, groups, error) = drain(&mut source);
        assert!(error.is_none());
        assert_eq!(ordinals(&groups), [vec![1], vec![3]], "{field}");
        assert_eq!((source.tally().malformed, source.tally().problems[0].field), (1, field));
    }
}

#[test]
fn a_malformed_record_leaves_out_the_group_it_is_in() {
    let bytes =
        [file(&[rec(b'A', b'B', 1, 1, 1, LAST), rec(b'A', b'B', 2, 1, 1, 0)]), malformed()[2].0.clone()]
            .concat();
    let (_, groups, error) = drain(&mut open(bytes, &options(OnError::Stop)).unwrap());
    assert!(error.is_some());
    assert_eq!(ordinals(&groups), [vec![1]]);
}

#[test]
fn a_file_that_ends_inside_a_record_or_a_group_says_so() {
    let whole = file(&[rec(b'A', b'B', 1, 1, 1, LAST), rec(b'A', b'B', 2, 1, 1, LAST)]);
    let cut = whole[..whole.len() - 10].to_vec();
    let (_, groups, error) = drain(&mut open(cut.clone(), &options(OnError::Stop)).unwrap());
    let Some(ImportError::Malformed(problem)) = error else { panic!() };
    assert_eq!((problem.found.as_str(), problem.expected.as_str()), ("46 bytes", "56 bytes"));
    assert_eq!(ordinals(&groups), [vec![1]]);
    let mut source = open(cut, &options(OnError::Skip)).unwrap();
    assert_eq!(drain(&mut source).1.len(), 1);
    assert_eq!(source.tally().malformed, 1);

    let mut source = open(file(&[rec(b'A', b'B', 1, 1, 1, 0)]), &options(OnError::Stop)).unwrap();
    let (_, groups, error) = drain(&mut source);
    assert!(error.is_none());
    assert_eq!((ordinals(&groups), source.tally().groups_cut), (vec![vec![1]], 1));
}

#[test]
fn a_group_without_end_is_cut_and_counted() {
    let records: Vec<Rec> =
        (0..GROUP_EVENTS_MAX as u64 + 10).map(|order| rec(b'A', b'B', order + 1, 1, 1, 0)).collect();
    let mut source = open(file(&records), &options(OnError::Stop)).unwrap();
    let (_, groups, error) = drain(&mut source);
    assert!(error.is_none());
    assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [GROUP_EVENTS_MAX, 10]);
    assert_eq!(source.tally().groups_cut, 2);
}

#[test]
fn heads_that_are_not_of_such_a_file_are_refused_with_the_byte() {
    let good = head(1, false, &[ESH4]);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let cases = [
        (b"".to_vec(), 0, "the file's head"),
        (b"DBQ\x01\0\0\0\0".to_vec(), 0, "the file's head"),
        (with(3, 0), 3, "version"),
        (with(3, 4), 3, "version"),
        (with(4, 9), 4, "metadata length"),
        (with(7, 0xFF), 4, "metadata length"),
        (good[..100].to_vec(), 8, "metadata"),
        (with(24, 9), 24, "schema"),
        (with(111, 9), 112, "schema definition"),
        (with(115, 9), 112, "symbols"),
        (with(149, 9), 146, "symbol mappings"),
        (with(175, 9), 172, "intervals of a mapping"),
        (with(179, 0xFF), 176, "first day"),
    ];
    for (bytes, at, field) in cases {
        let Err(ImportError::Malformed(problem)) = open(bytes, &options(OnError::Skip)) else {
            panic!("{field}")
        };
        assert_eq!((problem.place, problem.field), (Place::Byte(at), field), "{problem}");
    }
}

#[test]
fn cancels_and_changes_of_unknown_orders_are_imported_and_counted_by_the_book() {
    let records =
        [rec(b'C', b'B', 1, 5, 1, LAST), rec(b'M', b'A', 2, 6, 4, LAST), rec(b'F', b'A', 3, 6, 4, LAST)];
    let (definitions, groups) = import(file(&records));
    let mut tape = tape::Tape::new();
    definitions.iter().chain(groups.iter().flatten()).for_each(|event| tape.push(event));
    let mut books = Books::new();
    tape.each(|event| books.apply(event));
    let counters = books.get(InstrumentId(1)).unwrap().counters();
    assert_eq!(
        (counters.cancels_of_unknown, counters.replaces_of_unknown, counters.executions_of_unknown),
        (1, 1, 0)
    );
}

#[test]
fn time_that_goes_back_is_kept_and_counted() {
    let mut late = rec(b'A', b'B', 2, 1, 1, LAST);
    late.ts_event -= 1;
    let mut source = open(file(&[rec(b'A', b'B', 1, 1, 1, LAST), late]), &options(OnError::Stop)).unwrap();
    let (_, groups, _) = drain(&mut source);
    assert_eq!(groups[1][0].event_time, EventTime(DAY_NS as i64 + 4));
    assert_eq!(source.tally().back_in_time, 1);
}

/// A zstd file of uncompressed blocks, with a skippable frame before it.
fn zstd_stored(content: &[u8]) -> Vec<u8> {
    let mut out = vec![0x52, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 1, 2, 3];
    for frame in [&content[..content.len() / 2], &content[content.len() / 2..]] {
        out.extend([0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x58]);
        let header = 1 | (frame.len() as u32) << 3;
        out.extend(&header.to_le_bytes()[..3]);
        out.extend(frame);
    }
    out
}

#[test]
fn zstd_files_may_have_several_frames() {
    let plain = file(&[rec(b'A', b'B', 1, 1, 1, LAST), rec(b'A', b'B', 2, 1, 1, LAST)]);
    let mut compressed = zstd_stored(&plain);
    // Told by the first bytes: a skippable frame first is not how such files begin, so it stands behind the first frame.
    let skippable: Vec<u8> = compressed.drain(..11).collect();
    let first_frame = 6 + 3 + plain.len() / 2;
    compressed.splice(first_frame..first_frame, skippable);
    assert_eq!(import(compressed.clone()), import(plain));
    compressed.truncate(compressed.len() - 20);
    let error = match open(compressed, &options(OnError::Skip)) {
        Ok(mut source) => drain(&mut source).2.unwrap(),
        Err(error) => error,
    };
    assert!(matches!(&error, ImportError::Input(_)) && error.to_string().starts_with("x.dbn: "), "{error}");
}

fn consume(bytes: Vec<u8>) {
    for on_error in [OnError::Stop, OnError::Skip] {
        if let Ok(input) = Input::of_bytes("fuzz", bytes.clone())
            && let Ok(mut source) = DbnSource::open(input, Directory::new(), &options(on_error))
        {
            let (_, groups, _) = drain(&mut source);
            let ordinals: Vec<u64> = ordinals(&groups).concat();
            assert!(ordinals.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_importer_panic(bytes in prop::collection::vec(any::<u8>(), 0..500), begins: bool) {
        consume(if begins { [head(2, false, &[ESH4]), bytes].concat() } else { bytes });
    }

    #[test]
    fn no_damage_to_a_real_file_makes_the_importer_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        version in 1u8..=3,
        compressed: bool,
    ) {
        let mut bytes = head(version, false, &[ESH4]);
        for record in [rec(b'A', b'B', 1, 1, 1, 0), rec(b'A', b'A', 2, 1, 1, LAST), rec(b'C', b'A', 2, 1, 1, LAST)] {
            bytes.extend(record.bytes());
        }
        if compressed {
            bytes = zstd_stored(&bytes).split_off(11);
        }
        for (place, byte) in edits {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        consume(bytes);
    }
}

#[test]
fn what_the_fuzzer_has_kept_of_either_format_is_survived() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/import");
    let files: Vec<_> = std::fs::read_dir(&corpus).unwrap().map(|file| file.unwrap().path()).collect();
    let survive = |file: &std::path::Path| fuzzed::survive(&std::fs::read(file).unwrap());
    files.iter().for_each(|file| {
        survive(file);
    });
    // What it begins from is of the formats: a fuzzer that has to find them by itself stays shallow.
    for (seed, events) in [
        ("dbn-version-1.dbn", 16),
        ("dbn-version-2.dbn", 16),
        ("dbn-version-3.dbn", 16),
        ("dbn-with-sending-times.dbn", 16),
        ("dbn-zstd-frames.dbn.zst", 16),
        ("sse-orders.csv", 8),
        ("sse-trades.csv", 6),
        ("sse-two-members.csv.gz", 8),
    ] {
        assert_eq!(survive(&corpus.join(seed)), events, "{seed}");
    }
}
