//! Random operations on a store, every kind of question after each, compared with a plain list.

mod model;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use matchtape_schemas::*;
use matchtape_storage::sim::SimDisk;
use matchtape_storage::{
    Compression, Direction, Disk, EventStore, OpenError, Query, ReadError, VisibleAtOpen,
};
use model::*;

/// How many runs; `MATCHTAPE_MODEL_SEEDS` makes them more.
fn seeds() -> u64 {
    std::env::var("MATCHTAPE_MODEL_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(12)
}

#[test]
fn every_question_is_answered_as_by_a_plain_list_through_appends_flushes_and_restarts() {
    let mut levels = 0;
    for seed in 0..seeds() {
        let disk = SimDisk::new(seed);
        let compression = match seed % 3 {
            #[cfg(feature = "zstd")]
            1 => Compression::Zstd,
            2 => Compression::None,
            _ => Compression::Lz4,
        };
        let options = matchtape_storage::StoreOptions { compression, ..small_options() };
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let (mut driven, _) = Driven::open(shared, options.clone(), Vec::new(), seed).expect("created");
        let mut open_answers: Vec<Paging> = Vec::new();
        for step in 0..60 {
            match driven.random.below(12) {
                0 => {
                    let flushed = driven.store.flush().expect("flushed");
                    assert_eq!(flushed, driven.store.visible().get(), "seed {seed} step {step}");
                }
                1 => {
                    let Driven { store, writer, events, .. } = driven;
                    if step % 2 == 0 {
                        writer.close().expect("closed");
                        store.close().expect("closed");
                    } else {
                        drop((store, writer));
                        disk.kill();
                    }
                    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
                    let (again, report) =
                        Driven::open(shared, options.clone(), events, seed * 100 + step).expect("reopened");
                    driven = again;
                    assert_eq!(report.last_sequence, driven.events.len() as u64);
                    let digest = Digest::of(&driven.events).bytes();
                    assert_eq!(
                        driven.store.projection_section("digest"),
                        Some(&*digest),
                        "seed {seed} step {step}"
                    );
                }
                2 => driven.append_large_group(2),
                3..=4 => {
                    driven.store.flush().expect("flushed");
                    driven.compact();
                }
                _ => {
                    let frames = 1 + driven.random.below(4);
                    driven.append(frames, true);
                }
            }
            driven.check(12);
            open_answers.retain_mut(|paging| !paging.go_on(&mut driven));
            open_answers.extend(Paging::begin(&mut driven));
        }
        while !open_answers.is_empty() {
            open_answers.retain_mut(|paging| !paging.go_on(&mut driven));
        }
        let inspection = driven.store.inspect();
        levels = levels.max(inspection.index_tables.iter().map(|table| table.level).max().unwrap_or(0));
        let report = driven.store.verify(&mut |_| {}).expect("verified");
        assert!(report.is_sound(), "{:?}", report.findings);
        assert_eq!(report.events, driven.store.flushed_through().0);
    }
    assert!(levels >= 2, "compaction came to level {levels}");
}

#[test]
fn questions_that_name_several_keys_at_once_are_answered_both_ways_and_by_pages() {
    let disk = SimDisk::new(8);
    let mut driven = Driven::new(&disk, 8);
    // Merged tables, new ones, and a tail in memory.
    for step in 0..16 {
        driven.append(2, true);
        driven.append_group(trade_and_executions(&driven, step / 4));
        if step < 14 {
            driven.store.flush().expect("flushed");
        }
        if step == 9 {
            driven.store.compact(&mut |_| true).expect("compacted");
        }
    }
    let (reader, events) = (driven.store.reader(), driven.visible_events());
    let mut answered = BTreeSet::new();
    for query in questions_about(events) {
        for direction in [Direction::Forward, Direction::Backward] {
            let query = Query { direction, ..query.clone() };
            if check_question(&reader, events, &query, 1) > 1 {
                let named = [query.order.is_some(), query.account.is_some(), query.trade.is_some()];
                answered.insert((named, query.state_key.is_some(), query.instrument.is_some()));
            }
        }
        // No event is about a key and about anything else.
        let query = Query { state_key: Some(b"k".to_vec()), ..query };
        if query.order.is_some() || query.account.is_some() || query.trade.is_some() {
            assert_eq!(check_question(&reader, events, &query, 1), 0, "{query:?}");
        }
    }
    // Order, account, trade; with or without instrument, kind, time and range.
    for named in [[true, true, false], [true, false, true], [false, true, true], [true, true, true]] {
        assert!([false, true].iter().all(|narrow| answered.contains(&(named, false, *narrow))), "{named:?}");
    }
    assert!(answered.contains(&([false; 3], true, true)), "{answered:?}");
}

/// Of one order and account, and its counterparty: always the same until the number changes.
fn trade_and_executions(driven: &Driven, number: u64) -> Vec<Event> {
    use matchtape_schemas::event::{OrderExecuted, TradeMatched};

    let (trade_id, buy, sell) = (TradeId(90 + number), OrderId(91 + number), OrderId(191));
    let trade = TradeMatched {
        trade_id,
        buy_order_id: buy,
        sell_order_id: sell,
        buy_account: AccountId(7),
        sell_account: AccountId(8),
        ..Default::default()
    };
    let execution = OrderExecuted { trade_id, order_id: buy, account: AccountId(7), ..Default::default() };
    let first = driven.head.last_sequence.0 + 1;
    let bodies = [trade.into(), execution.clone().into(), Body::from(execution)];
    let events = bodies.into_iter().zip(first..).map(|(body, number)| {
        Event::new(InstrumentId(1), ProducerSequence(number), EventTime((number * 100) as i64), body)
    });
    events.collect()
}

#[test]
fn a_memtable_that_is_full_is_flushed_on_its_own_and_the_answers_stay_the_same() {
    let disk = SimDisk::new(3);
    let options = matchtape_storage::StoreOptions { memtable_bytes: 256 << 10, ..small_options() };
    let (mut driven, _) = Driven::open(Arc::new(disk.clone()), options, Vec::new(), 5).expect("created");
    let mut memtables = 0;
    while driven.store.inspect().memory.memtables < 4 {
        driven.append(4, true);
        memtables = memtables.max(driven.store.inspect().memory.memtables);
    }
    assert!(driven.store.pressure().must_wait(), "three sealed ones are too many");
    driven.check(100);
    driven.store.flush().expect("flushed");
    assert!(!driven.store.pressure().must_wait());
    let inspection = driven.store.inspect();
    assert_eq!(
        (inspection.memory.memtables, inspection.event_tables.len(), inspection.snapshots.len()),
        (1, 4, 4)
    );
    assert_eq!(inspection.flushed_through, driven.events.len() as u64);
    driven.check(200);
    assert!(driven.store.verify(&mut |_| {}).expect("verified").is_sound());
}

#[test]
fn nothing_beyond_the_gate_is_shown_nor_flushed() {
    let disk = SimDisk::new(4);
    let mut driven = Driven::new(&disk, 1);
    driven.append(3, true);
    let shown = driven.store.visible().get();
    for _ in 0..5 {
        driven.append(3, false);
        driven.check(20);
        assert_eq!(
            driven.store.flush().expect("nothing to do"),
            Sequence::ZERO,
            "part of the memtable is not visible"
        );
    }
    // A reader that waits at the gate goes on when it rises.
    let mut cursor = driven.store.reader().frames(shown.next()).expect("a cursor at the end");
    assert!(cursor.next_frame().unwrap().is_none());
    let all = driven.head.last_sequence;
    driven.store.visible().raise(all);
    assert_eq!(cursor.next_frame().unwrap().expect("visible now").header().first_sequence, shown.next());
    driven.check(50);
    assert_eq!(driven.store.flush().expect("flushed"), all);
    driven.check(50);
}

#[test]
fn a_frame_is_given_only_when_all_of_it_is_visible() {
    let disk = SimDisk::new(4);
    let mut driven = Driven::new(&disk, 8);
    driven.append(2, true);
    let first_last = driven.store.reader().frames(Sequence::FIRST).unwrap().next_frame().unwrap().unwrap();
    let (first_last, all) = (first_last.header().last_sequence(), driven.head.last_sequence);
    drop(driven.store.reader());
    driven.append(1, false);
    let mut cursor = driven.store.reader().frames(all.next()).unwrap();
    driven.store.visible().raise(all.next());
    if driven.head.last_sequence > all.next() {
        assert!(cursor.next_frame().unwrap().is_none(), "its end is not visible");
    }
    driven.store.visible().raise(driven.head.last_sequence);
    assert!(cursor.next_frame().unwrap().is_some());
    assert!(first_last <= all);
}

#[test]
fn in_a_cluster_only_what_was_flushed_is_visible_after_a_restart() {
    let disk = SimDisk::new(6);
    let mut driven = Driven::new(&disk, 2);
    driven.append(4, true);
    let flushed = driven.store.flush().expect("flushed");
    driven.append(4, true);
    let (all, events) = (driven.head.last_sequence, driven.events.clone());
    drop(driven);
    disk.kill();
    let options =
        matchtape_storage::StoreOptions { visible_at_open: VisibleAtOpen::Flushed, ..small_options() };
    let (mut driven, _) = Driven::open(Arc::new(disk.clone()), options, events, 3).expect("reopened");
    assert_eq!((driven.store.visible().get(), driven.head.last_sequence), (flushed, all));
    driven.check(30);
    driven.store.visible().raise(all);
    driven.check(30);
    // The projections stand at the head already; the flush takes a snapshot there.
    assert_eq!(driven.store.flush().expect("flushed"), all);
    driven.check(30);
    assert_eq!(driven.store.inspect().snapshots.last().map(|snapshot| snapshot.sequence), Some(all.0));
}

#[test]
fn a_tail_longer_than_memory_is_flushed_while_the_store_opens() {
    let disk = SimDisk::new(7);
    let mut driven = Driven::new(&disk, 2);
    for _ in 0..150 {
        driven.append(4, true);
    }
    let events = driven.events.clone();
    drop(driven);
    disk.kill();
    let options = matchtape_storage::StoreOptions { memtable_bytes: 64 << 10, ..small_options() };
    let (mut driven, report) =
        Driven::open(Arc::new(disk.clone()), options.clone(), events.clone(), 3).expect("reopened");
    assert_eq!((report.flushed_through, report.replayed_events), (0, events.len() as u64));
    let inspection = driven.store.inspect();
    assert!(inspection.event_tables.len() > 1, "{inspection:?}");
    assert_eq!(inspection.snapshots.len(), inspection.event_tables.len());
    driven.check(100);
    drop(driven);
    disk.kill();
    let (mut driven, report) =
        Driven::open(Arc::new(disk.clone()), options, events.clone(), 3).expect("reopened");
    assert!(report.replayed_events < events.len() as u64 / 2, "only the tail: {report}");
    assert_eq!((report.folded_from_tables, report.snapshot_sequence), (0, report.flushed_through));
    driven.check(100);
}

#[test]
fn impossible_and_foreign_questions_are_refused() {
    let disk = SimDisk::new(1);
    let mut driven = Driven::new(&disk, 1);
    driven.append(2, true);
    let reader = driven.store.reader();
    for query in [
        Query { order: Some(OrderId(0)), ..Query::default() },
        Query { account: Some(AccountId(0)), ..Query::default() },
        Query { trade: Some(TradeId(0)), ..Query::default() },
    ] {
        assert!(matches!(refused(reader.query(&query)), ReadError::Query(_)));
    }
    drop(driven);
    disk.kill();
    let options = matchtape_storage::StoreOptions { tape: Some(TapeId(1)), ..small_options() };
    let error = EventStore::open(Arc::new(disk.clone()), options, Vec::new()).expect_err("another tape");
    assert!(matches!(error, OpenError::Tape { expected: TapeId(1), found: TAPE }), "{error}");
}

#[test]
fn a_second_opening_is_told_who_has_the_store() {
    let disk = SimDisk::new(1);
    let driven = Driven::new(&disk, 1);
    let error = EventStore::open(Arc::new(disk.clone()), small_options(), Vec::new()).expect_err("held");
    assert!(matches!(error, OpenError::Lock(_)) && error.to_string().contains("held by process"), "{error}");
    drop(driven);
    EventStore::open(Arc::new(disk), small_options(), Vec::new()).expect("free again");
}

#[test]
fn what_opening_reads_does_not_grow_with_the_history() {
    for flushes in [4, 40] {
        let disk = SimDisk::new(7);
        let mut driven = Driven::new(&disk, 3);
        for _ in 0..flushes {
            driven.append(3, true);
            driven.store.flush().expect("flushed");
        }
        driven.append(1, true);
        let Driven { store, writer, events, .. } = driven;
        writer.close().expect("closed");
        drop(store);
        disk.take_reads();
        let opened = Driven::open(Arc::new(disk.clone()), small_options(), events, 1).expect("opened");
        // But for the manifest: what it says of a table is a few hundred bytes.
        let mut reads = disk.take_reads();
        reads.retain(|read| read.path != Path::new("manifest"));
        let files: BTreeSet<_> = reads.iter().map(|read| &read.path).collect();
        let of_log = files.iter().filter(|path| path.starts_with("wal")).count();
        // The newest snapshot, and of the log what is kept, the open segment and a spare one.
        assert!(files.len() - of_log == 1 && of_log <= 6, "{flushes} flushes: {files:?}");
        let bytes: u64 = reads.iter().map(|read| read.bytes.end - read.bytes.start).sum();
        assert!(bytes < 4 * small_options().wal.segment_bytes, "{flushes} flushes: {bytes} bytes");
        drop(opened);
    }
}
