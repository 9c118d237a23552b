//! How many files are open depends on the options, not on the length of the history.

mod model;

use std::path::Path;
use std::sync::Arc;

use matchtape_schemas::*;
use matchtape_storage::sim::{Random, SimDisk};
use matchtape_storage::{
    Access, Caching, Disk, EventStore, Query, ReadOnlyOptions, ReadOnlyStore, StoreOptions,
};
use model::*;

/// Tables of each kind in the store.
const TABLES: usize = 30;
/// Tables of both kinds that may be open.
const OPEN_MAX: usize = 4;

/// A disk with a closed store of many tables, none merged, on which nothing was ever open; and its events.
fn many_tables() -> (SimDisk, Vec<Placed>) {
    let disk = SimDisk::new(3);
    let (mut driven, _) =
        Driven::open(Arc::new(disk.clone()), small_options(), Vec::new(), 5).expect("created");
    for _ in 0..TABLES {
        driven.append(1, true);
        driven.store.flush().expect("flushed");
    }
    let Driven { store, writer, events, .. } = driven;
    writer.close().expect("closed");
    store.close().expect("closed");
    (disk.kill_at(disk.operations()), events)
}

#[test]
fn however_many_tables_are_read_only_so_many_of_their_files_are_open() {
    let (disk, events) = many_tables();
    let options = StoreOptions { open_tables_max: OPEN_MAX, ..small_options() };
    let (store, _) = EventStore::open(Arc::new(disk.clone()), options, Vec::new()).expect("opened");
    assert!(store.inspect().event_tables.len() >= TABLES);
    let others = disk.open_files();
    let peak_before = disk.open_files_peak();
    check_reader(&store.reader(), &events, &mut Random::new(1), 50);
    assert!(store.verify(&mut |_| {}).expect("readable").is_sound());
    let memory = store.inspect().memory;
    assert_eq!((memory.open_tables, memory.open_tables_max), (OPEN_MAX, OPEN_MAX));
    assert_eq!(disk.open_files(), others + OPEN_MAX);
    // One more while it is opened; verify reads the log and the snapshots beside that.
    assert!(disk.open_files_peak() <= peak_before.max(others + OPEN_MAX + 2), "{}", disk.open_files_peak());
}

#[test]
fn a_scan_opens_no_table_in_which_nothing_can_match() {
    let (disk, events) = many_tables();
    let (store, _) = EventStore::open(Arc::new(disk), small_options(), Vec::new()).expect("opened");
    let latest = events.iter().map(|placed| placed.event.event_time).max().expect("there are events");
    let query = Query { event_time_from: EventTime(latest.0 + 1), ..Query::default() };
    assert_eq!(store.reader().query(&query).expect("a cursor").count(), 0);
    assert_eq!(store.inspect().memory.open_tables, 0);
}

#[test]
fn a_read_only_store_that_may_not_open_all_tables_reads_them_all_and_says_when_one_is_gone() {
    let (disk, events) = many_tables();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    // Nothing is answered from memory.
    let options =
        ReadOnlyOptions { open_tables_max: OPEN_MAX, block_cache_bytes: 0, ..ReadOnlyOptions::default() };
    let watched = ReadOnlyStore::open(Arc::clone(&shared), options).expect("opened");
    check_reader(&watched.reader(), &events, &mut Random::new(1), 50);
    assert_eq!(watched.inspect().memory.open_tables, OPEN_MAX);

    let (store, _) = EventStore::open(shared, small_options(), Vec::new()).expect("opened");
    store.compact(&mut |_| true).expect("compacted");
    let gone = watched.reader().event(Sequence::FIRST).expect_err("its table was merged away");
    assert!(gone.is_file_missing(), "{gone}");
    let report = watched.verify(&mut |_| {}).expect("looked again");
    assert!(report.is_sound() && report.events == events.len() as u64, "{report:?}");

    // One that the writer has not let go of is missing for good.
    let tables = store.inspect().event_tables;
    let lost = Path::new(&tables[0].file);
    let bytes = disk.content(lost).expect("there");
    disk.remove(lost).expect("removed");
    let report = watched.verify(&mut |_| {}).expect("looked again");
    assert!(report.findings.iter().any(|finding| Path::new(&finding.file) == lost), "{report:?}");
    let file = disk.open(lost, Access::CreateNew, Caching::Buffered).expect("created");
    file.write_at(&bytes, 0).expect("written");
    watched.refresh().expect("refreshed");
    check_reader(&watched.reader(), &events, &mut Random::new(2), 50);
    assert!(watched.verify(&mut |_| {}).expect("readable").is_sound());
}
