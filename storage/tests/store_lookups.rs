//! What a lookup asks of the disk: no more than it needs, and what it will need together before it waits for any of it.

mod model;

use std::sync::Arc;

use matchtape_schemas::event::OrderAccepted;
use matchtape_schemas::*;
use matchtape_storage::sim::{ReadStep, SimDisk};
use matchtape_storage::{Direction, Query, ReadOnlyOptions, ReadOnlyStore, StoreOptions};
use model::{Driven, small_options};

/// In every block.
const WIDE: OrderId = OrderId(7);
/// In the first block alone.
const NARROW: OrderId = OrderId(8);
const BLOCKS: u64 = 6;
const EVENTS_PER_BLOCK: u64 = 300;

/// A closed store whose table has blocks of one frame each.
fn tape() -> SimDisk {
    tape_of(BLOCKS, |block, number| match number {
        0 => WIDE,
        1 if block == 0 => NARROW,
        // Others, so that the index has something to choose from.
        _ => OrderId(100 + block * EVENTS_PER_BLOCK + number),
    })
}

fn tape_of(blocks: u64, order: impl Fn(u64, u64) -> OrderId) -> SimDisk {
    let disk = SimDisk::new(1);
    let options = StoreOptions { memtable_bytes: 64 << 20, ..small_options() };
    let opened = Driven::open(Arc::new(disk.clone()), options, Vec::new(), 1);
    let (mut driven, _) = opened.expect("a store is created");
    for block in 0..blocks {
        let group = (0..EVENTS_PER_BLOCK).map(|number| {
            let order_id = order(block, number);
            let price = Price::from_units(order_id.get() as i64);
            let body = OrderAccepted { order_id, price, ..Default::default() };
            let sequence = block * EVENTS_PER_BLOCK + number + 1;
            Event::new(InstrumentId(1), ProducerSequence(sequence), EventTime(1), body)
        });
        driven.append_group(group.collect());
    }
    driven.store.flush().expect("flushed");
    let Driven { store, writer, .. } = driven;
    writer.close().expect("closed");
    drop(store);
    disk
}

fn of_order(order: OrderId) -> Query {
    Query { instrument: Some(InstrumentId(1)), order: Some(order), ..Query::default() }
}

/// What the disk is asked for by a query in files of this extension, after one for the narrow order.
fn steps(disk: &SimDisk, query: &Query, extension: &str) -> Vec<ReadStep> {
    let store = ReadOnlyStore::open(Arc::new(disk.clone()), ReadOnlyOptions::default()).expect("opened");
    let count = |query: &Query| {
        let found: Result<Vec<_>, _> = store.reader().query(query).expect("asked").collect();
        found.expect("read").len()
    };
    assert_eq!(count(&of_order(NARROW)), 1);
    disk.take_reads();
    let found = count(query) as u64;
    assert_eq!(found, query.limit.unwrap_or(BLOCKS));
    let mut steps = disk.take_reads();
    steps.retain(|step| step.path.extension().is_some_and(|found| found == extension));
    steps
}

#[test]
fn all_blocks_of_an_order_are_asked_for_before_the_first_is_read() {
    let disk = tape();
    for direction in [Direction::Forward, Direction::Backward] {
        let steps = steps(&disk, &Query { direction, ..of_order(WIDE) }, "events");
        // The first block is in the cache.
        let (hints, reads) = steps.split_at(BLOCKS as usize - 1);
        assert!(hints.iter().all(|step| step.is_hint) && reads.iter().all(|step| !step.is_hint), "{steps:?}");
        let bytes = |steps: &[ReadStep]| steps.iter().map(|step| step.bytes.clone()).collect::<Vec<_>>();
        assert_eq!(bytes(hints), bytes(reads));
        let ascending = hints.is_sorted_by_key(|step| step.bytes.start);
        assert_eq!(ascending, direction == Direction::Forward);
    }
}

#[test]
fn nothing_is_asked_for_that_a_limit_leaves_out_or_that_is_read_at_once() {
    let disk = tape();
    let last = Query { direction: Direction::Backward, limit: Some(1), ..of_order(WIDE) };
    let alone = steps(&disk, &last, "events");
    assert!(alone.len() == 1 && !alone[0].is_hint, "{alone:?}");
    let two = steps(&disk, &Query { limit: Some(2), ..last }, "events");
    assert_eq!(two.iter().filter(|step| step.is_hint).count(), 2, "{two:?}");
    assert_eq!(two.len(), 4);
}

#[test]
fn a_scan_asks_for_what_comes_next_before_it_reads_it() {
    // Of ids that do not compress, so that the table is larger than what is asked for at a time.
    let scattered = |block: u64, number: u64| {
        OrderId((block * EVENTS_PER_BLOCK + number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    };
    let disk = tape_of(100, scattered);
    let store = ReadOnlyStore::open(Arc::new(disk.clone()), ReadOnlyOptions::default()).expect("opened");
    disk.take_reads();
    let mut frames = store.reader().frames(Sequence::FIRST).expect("asked");
    while frames.next_frame().expect("read").is_some() {}
    let mut steps = disk.take_reads();
    steps.retain(|step| step.path.extension().is_some_and(|found| found == "events"));
    let (mut asked_through, mut read_through, mut hints) = (None, 0, 0);
    for ReadStep { bytes, is_hint, .. } in &steps {
        if *is_hint {
            assert!(bytes.start >= read_through, "{steps:?}");
            (asked_through, hints) = (Some(bytes.end), hints + 1);
        } else {
            assert!(asked_through.is_none_or(|through| bytes.end <= through), "{steps:?}");
            read_through = bytes.end;
        }
    }
    assert!(hints >= 2, "{hints} in {read_through} bytes");
}

#[test]
fn postings_come_with_their_filter_in_one_read() {
    let disk = tape();
    let store = ReadOnlyStore::open(Arc::new(disk.clone()), ReadOnlyOptions::default()).expect("opened");
    disk.take_reads();
    assert_eq!(store.reader().query(&of_order(NARROW)).expect("asked").count(), 1);
    let mut reads = disk.take_reads();
    reads.retain(|step| step.path.extension().is_some_and(|found| found == "index"));
    // A leaf of the index, and what is looked for: the top is in memory since the store was opened.
    assert_eq!(reads.len(), 2, "{reads:?}");
}
