//! Exports as Parquet: what is in the files, and that a directory with a manifest is a complete export at any moment of a crash.
//! That other programs read the same is `.ci/parquet`'s to show.
#![cfg(feature = "parquet")]

mod model;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use matchtape_schemas::event::*;
use matchtape_schemas::text::Text;
use matchtape_schemas::*;
use matchtape_storage::archive::parquet::{
    MANIFEST, ParquetExportError, ParquetManifest, ParquetTarget, export, sealed_segments,
};
use matchtape_storage::sim::{Fault, PowerLoss, SimDisk};
use matchtape_storage::{Access, Caching, Disk, Query};
use model::*;
use parquet::data_type::Decimal;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};

/// Events of several kinds, some in tables, some in memory.
fn tape() -> Driven {
    let mut driven = Driven::new(&SimDisk::new(1), 1);
    for _ in 0..40 {
        driven.append(3, true);
    }
    driven.store.flush().expect("flushed");
    driven.append(3, true);
    driven
}

fn export_to(driven: &Driven, disk: &SimDisk, query: &Query) -> Result<ParquetManifest, ParquetExportError> {
    let target = ParquetTarget { disk, directory: Path::new("out") };
    let symbol = |id: InstrumentId| (id == InstrumentId(1)).then(|| "ONE".to_owned());
    export(&driven.store.reader(), query, &symbol, &target, &mut |_| ControlFlow::Continue(()))
}

fn target() -> SimDisk {
    let disk = SimDisk::new(2);
    disk.create_directory(Path::new("out")).expect("created");
    disk.sync_directory(Path::new("")).expect("synced");
    disk
}

fn names(disk: &SimDisk) -> Vec<String> {
    disk.list(Path::new("out")).expect("listed").into_iter().map(|entry| entry.name).collect()
}

fn rows(disk: &SimDisk, file: &str) -> Vec<Row> {
    let bytes = disk.content(&Path::new("out").join(file)).expect("there");
    let temporary = tempfile::NamedTempFile::new().expect("created");
    std::fs::write(temporary.path(), bytes).expect("written");
    let reader = SerializedFileReader::try_from(temporary.path()).expect("a Parquet file");
    reader.get_row_iter(None).expect("rows").map(|row| row.expect("a row")).collect()
}

fn field(row: &Row, name: &str) -> Field {
    row.get_column_iter().find(|(column, _)| *column == name).expect("a column").1.clone()
}

fn units(field: &Field) -> (i128, i32) {
    let Field::Decimal(decimal @ Decimal::Bytes { value, .. }) = field else { panic!("{field:?}") };
    let bytes = value.data();
    let mut all = [if bytes[0] & 0x80 == 0 { 0 } else { 0xFF }; 16];
    all[16 - bytes.len()..].copy_from_slice(bytes);
    (i128::from_be_bytes(all), decimal.scale())
}

#[test]
fn every_event_is_in_the_file_of_its_kind_once_and_in_order() {
    let driven = tape();
    let disk = target();
    let manifest = export_to(&driven, &disk, &Query::default()).expect("exported");
    assert_eq!(manifest.events as usize, driven.events.len());
    let mut expected: BTreeMap<Kind, Vec<&Placed>> = BTreeMap::new();
    for placed in &driven.events {
        expected.entry(placed.event.body.kind()).or_default().push(placed);
    }
    let files: Vec<&str> = manifest.files.iter().map(|file| file.kind).collect();
    assert_eq!(files, expected.keys().map(|kind| kind.name()).collect::<Vec<_>>());
    for (file, placed) in manifest.files.iter().zip(expected.values()) {
        let rows = rows(&disk, &file.file);
        assert_eq!((rows.len(), file.rows as usize), (placed.len(), placed.len()), "{}", file.file);
        for (row, placed) in rows.iter().zip(placed) {
            assert_eq!(field(row, "sequence"), Field::ULong(placed.sequence.0));
            assert_eq!(field(row, "producer_sequence"), Field::ULong(placed.event.producer_sequence.0));
            assert_eq!(field(row, "instrument_id"), Field::UInt(placed.event.instrument.0));
            let one = placed.event.instrument == InstrumentId(1);
            assert_eq!(field(row, "instrument"), if one { Field::Str("ONE".into()) } else { Field::Null });
            assert_eq!(field(row, "late"), Field::Bool(placed.event.flags.contains(EventFlags::LATE)));
        }
    }
}

#[test]
fn a_query_narrows_the_export() {
    let driven = tape();
    let disk = target();
    let (from, through) = (Sequence(20), Sequence(200));
    let query = Query { from, through, kinds: KindMask::TRADES, ..Query::default() };
    let manifest = export_to(&driven, &disk, &query).expect("exported");
    let expected = driven.events[19..200]
        .iter()
        .filter(|placed| KindMask::TRADES.contains(placed.event.body.kind()))
        .count();
    assert_eq!((manifest.events as usize, manifest.from, manifest.through), (expected, 20, 200));
    assert_eq!(names(&disk), [MANIFEST, "trade_busted.parquet", "trade_matched.parquet"]);
}

#[test]
fn the_greatest_and_least_values_of_every_type_come_back_exactly() {
    let mut driven = Driven::new(&SimDisk::new(1), 1);
    let text = Text::<40>::new("straße|\"x\",1").expect("short");
    let order = |price, quantity, order_id| OrderAccepted {
        order_id: OrderId(order_id),
        price,
        quantity,
        account: AccountId(u64::MAX),
        client_order_id: text,
        receive_time: ReceiveTime(i64::MAX),
        send_delay_ns: i32::MIN,
        side: Side::Sell,
        ..Default::default()
    };
    let bodies: Vec<Body> = vec![
        order(Price::from_units(i64::MAX), Quantity::from_units(u64::MAX), u64::MAX).into(),
        order(Price::from_units(i64::MIN + 1), Quantity::from_units(1), (1 << 53) + 1).into(),
        order(Price::NONE, Quantity::ZERO, 0).into(),
        StateSet::new(&[0xFF, 0], &vec![7; 40_000]).expect("fits").into(),
    ];
    let events: Vec<Event> = (1..)
        .zip(bodies)
        .map(|(number, body)| {
            Event::new(InstrumentId(u32::MAX), ProducerSequence(number), EventTime(i64::MAX - 9), body)
        })
        .collect();
    driven.append_group(events);
    let disk = target();
    export_to(&driven, &disk, &Query::default()).expect("exported");
    let orders = rows(&disk, "order_accepted.parquet");
    assert_eq!(units(&field(&orders[0], "price")), (i128::from(i64::MAX), 9));
    assert_eq!(units(&field(&orders[1], "price")), (i128::from(i64::MIN + 1), 9));
    assert_eq!(field(&orders[2], "price"), Field::Null);
    assert_eq!(units(&field(&orders[0], "quantity")), (i128::from(u64::MAX), 9));
    let ids: Vec<Field> = orders.iter().map(|row| field(row, "order_id")).collect();
    assert_eq!(ids, [Field::ULong(u64::MAX), Field::ULong((1 << 53) + 1), Field::ULong(0)]);
    assert_eq!(field(&orders[0], "instrument_id"), Field::UInt(u32::MAX));
    assert_eq!(field(&orders[0], "send_delay_ns"), Field::Int(i32::MIN));
    assert_eq!(field(&orders[0], "side"), Field::Str("sell".into()));
    assert_eq!(field(&orders[0], "client_order_id"), Field::Str("straße|\"x\",1".into()));
    let Field::Bytes(key) = field(&rows(&disk, "state_set.parquet")[0], "key") else { panic!("bytes") };
    assert_eq!(key.data(), [0xFF, 0]);
}

#[test]
fn segments_are_those_of_the_log_and_together_are_the_tape() {
    let driven = tape();
    let log = driven.store.segments().list();
    let sealed: Vec<(Sequence, Sequence)> = log
        .iter()
        .filter_map(|segment| Some((segment.first_sequence(), segment.sealed?.ends.last_sequence)))
        .collect();
    let found = sealed_segments(&driven.store.reader(), Sequence::ZERO, Sequence::MAX).expect("read");
    // The log may have let go of the first ones, and seals the last one when the next begins: the tape tells of both.
    let before_last = &found[..found.len() - 1];
    assert!(sealed.len() >= 2, "{sealed:?}");
    assert!(found.ends_with(&sealed) || before_last.ends_with(&sealed), "{found:?} and {sealed:?}");
    assert_eq!(found[0].0, Sequence::FIRST);
    assert!(found.windows(2).all(|pair| pair[0].1.next() == pair[1].0));
    let within = sealed_segments(&driven.store.reader(), found[1].0, found[1].1).expect("read");
    assert_eq!(within, [found[1]]);
    let (first, last) = found[1];
    let disk = target();
    let query = Query { from: first, through: last, ..Query::default() };
    let manifest = export_to(&driven, &disk, &query).expect("exported");
    assert_eq!(manifest.events, last.0 - first.0 + 1);
}

#[test]
fn every_kind_can_be_exported() {
    let mut driven = Driven::new(&SimDisk::new(1), 1);
    let bodies: Vec<Body> = vec![
        OrderAccepted::default().into(),
        OrderRejected::default().into(),
        OrderReplaced::default().into(),
        OrderCancelled::default().into(),
        OrderExecuted::default().into(),
        TradeMatched::default().into(),
        TradeBusted::default().into(),
        InstrumentDefined::default().into(),
        TradingStatusChanged::default().into(),
        BookCleared::default().into(),
        SessionOpened::default().into(),
        SessionClosed::default().into(),
        AccountOpened::default().into(),
        AccountChanged::default().into(),
        PositionChanged::default().into(),
        StateSet::new(b"k", b"v").expect("small").into(),
        StateDeleted::new(b"k").expect("small").into(),
        EpochStarted::default().into(),
        EpochEnded::default().into(),
        TimeAdvanced::default().into(),
    ];
    let kinds: Vec<Kind> = bodies.iter().map(Body::kind).collect();
    assert_eq!(kinds, Kind::ALL);
    let events: Vec<Event> = (1..)
        .zip(bodies)
        .map(|(number, body)| Event::new(InstrumentId(0), ProducerSequence(number), EventTime(1), body))
        .collect();
    driven.append_group(events);
    let disk = target();
    let manifest = export_to(&driven, &disk, &Query::default()).expect("exported");
    for (file, kind) in manifest.files.iter().zip(Kind::ALL) {
        assert_eq!((file.kind, rows(&disk, &file.file).len()), (kind.name(), 1));
    }
    assert_eq!(manifest.files.len(), Kind::ALL.len());
}

#[test]
fn a_crash_at_any_moment_leaves_a_complete_export_or_no_manifest() {
    let driven = tape();
    let disk = target();
    let manifest = export_to(&driven, &disk, &Query::default()).expect("exported");
    let mut complete = 0;
    disk.for_each_crash_point(|point| {
        let seeded = (0..16).map(|seed| PowerLoss::Seeded(seed * 7919 + point.operation as u64));
        for choice in [PowerLoss::LoseUnsynced, PowerLoss::KeepUnsynced].into_iter().chain(seeded) {
            let left = point.power_loss(choice);
            if left.content(&Path::new("out").join(MANIFEST)).is_none() {
                continue;
            }
            complete += 1;
            for file in &manifest.files {
                let bytes = left.content(&Path::new("out").join(&file.file)).expect("the manifest names it");
                assert_eq!(
                    blake3::hash(&bytes).to_hex().as_str(),
                    file.blake3,
                    "operation {}",
                    point.operation
                );
            }
        }
    });
    assert!(complete > 0);
}

#[test]
fn a_disk_that_refuses_at_any_step_is_an_error_and_leaves_nothing_behind() {
    let driven = tape();
    let measured = target();
    let begun = measured.operations();
    export_to(&driven, &measured, &Query::default()).expect("exported");
    for operation in begun..measured.operations() {
        for fault in [Fault::Eio, Fault::Enospc] {
            let disk = target();
            disk.fail_at(operation, fault);
            let error = export_to(&driven, &disk, &Query::default()).expect_err("the disk refused");
            assert!(matches!(error, ParquetExportError::Disk(_)), "{error}");
            assert_eq!(names(&disk), [""; 0], "operation {operation} {fault:?}");
        }
    }
}

#[test]
fn whoever_asks_to_stop_gets_nothing() {
    let mut driven = Driven::new(&SimDisk::new(1), 1);
    while driven.events.len() < 17_000 {
        driven.append(8, true);
    }
    let disk = target();
    let target = ParquetTarget { disk: &disk, directory: Path::new("out") };
    let stopped = export(&driven.store.reader(), &Query::default(), &|_| None, &target, &mut |progress| {
        assert!(progress.events < 17_000);
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(ParquetExportError::Stopped { events: 16_384 })), "{stopped:?}");
    assert_eq!(names(&disk), [""; 0]);
}

#[test]
fn a_directory_with_something_in_it_is_refused_and_leftovers_of_a_crash_are_not() {
    let driven = tape();
    let disk = target();
    let put = |name: &str| disk.open(&PathBuf::from("out").join(name), Access::CreateNew, Caching::Buffered);
    put("trade_matched.parquet.new").expect("created");
    export_to(&driven, &disk, &Query::default()).expect("exported over the leftover");
    let again = export_to(&driven, &disk, &Query::default());
    assert!(matches!(again, Err(ParquetExportError::NotEmpty { .. })), "{again:?}");
}
