//! A store at work: the log's thread, the indexing and the flushing thread, readers in this process and a read-only one,
//! on a real directory.

mod model;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use matchtape_schemas::event::{OrderAccepted, encode_event};
use matchtape_schemas::*;
use matchtape_storage::sim::{Random, SimDisk};
use matchtape_storage::wal::{
    AppendError, CommitObserver, Committed, GroupCommitOptions, Preparation, SyncPolicy, WalError, WhenFull,
};
use matchtape_storage::{
    AlignedBytes, Disk, EventStore, OpenError, Query, ReadOnlyOptions, ReadOnlyStore, Reader, RealDisk,
    StoreOptions, VisibleGate, WalOptions, limits,
};
use model::{Digest, Driven, Placed, check_frames, check_reader, projections, small_options};

/// What a single node does: durable is visible.
struct ShowDurable(Arc<VisibleGate>);

impl CommitObserver for ShowDurable {
    fn committed(&mut self, committed: &Committed) {
        self.0.raise(committed.durable);
    }

    fn durable(&mut self, durable: Sequence) {
        self.0.raise(durable);
    }

    fn failed(&mut self, error: &Arc<WalError>) {
        assert!(matches!(**error, WalError::Closed), "{error}");
    }
}

/// What a node does that has to show what is only written.
struct ShowWritten(Arc<VisibleGate>);

impl CommitObserver for ShowWritten {
    fn committed(&mut self, committed: &Committed) {
        self.0.raise(committed.written);
    }

    fn durable(&mut self, _: Sequence) {}

    fn failed(&mut self, error: &Arc<WalError>) {
        assert!(matches!(**error, WalError::Closed), "{error}");
    }
}

const ORDERS: u64 = 500;
const INSTRUMENTS: u32 = 7;

/// What the event at a position is.
fn event_at(sequence: u64) -> Event {
    let body = OrderAccepted {
        order_id: OrderId(1 + sequence % ORDERS),
        account: AccountId(1 + sequence % 11),
        quantity: Quantity::from_units(sequence),
        ..Default::default()
    };
    let instrument = InstrumentId(sequence as u32 % INSTRUMENTS);
    Event::new(instrument, ProducerSequence(sequence), EventTime(sequence as i64 * 10), body)
}

fn options() -> StoreOptions {
    StoreOptions {
        memtable_bytes: 2 << 20,
        wal: WalOptions {
            segment_bytes: 4 << 20,
            commit_bytes: limits::COMMIT_BYTES_MIN,
            ..WalOptions::default()
        },
        ..StoreOptions::default()
    }
}

/// Appends `count` events in frames of up to 60, heeding back-pressure.
fn write(store: &EventStore, head: &mut Head, count: u64, random: &mut Random) {
    let mut memory = AlignedBytes::zeroed(4096);
    let end = head.last_sequence.0 + count;
    while head.last_sequence.0 < end {
        if store.pressure().must_wait() {
            store.health().expect("flushing goes on");
            store.compaction_health().expect("compaction goes on");
            std::thread::yield_now();
            continue;
        }
        let events = (1 + random.below(60)).min(end - head.last_sequence.0);
        let ends = if store.wal().wants_segment_end() { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
        let appended = store.wal().append(limits::COMMIT_BYTES_MIN / 2, |space| {
            head.epoch = Epoch::FIRST;
            let mut writer = FrameWriter::new(space, head);
            for index in 1..=events {
                let event = event_at(head.last_sequence.0 + index);
                let bytes = event.encoded_len();
                encode_event(&event, ProducerId(1), &mut memory[..bytes]);
                assert!(writer.push(&memory[..bytes]));
            }
            writer.finish(head, AcceptedTime(1), ends)
        });
        match appended {
            Ok(_) => {}
            Err(AppendError::Full) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Asks until told to stop, at least once; every answer must be complete up to what was visible before the question.
fn keep_asking(reader: &Reader, stop: &AtomicBool, seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let mut questions = 0;
    loop {
        let last = stop.load(Ordering::Acquire);
        let visible = reader.visible().0;
        if visible > 0 {
            let at = 1 + random.below(visible);
            let event = reader.event(Sequence(at)).unwrap().expect("visible");
            let found = event.event();
            let expected = event_at(at);
            assert_eq!(
                (found.sequence().0, found.instrument(), found.event_time()),
                (at, expected.instrument, expected.event_time)
            );
            let order = random.below(ORDERS);
            let query =
                Query { order: Some(OrderId(1 + order)), through: Sequence(visible), ..Query::default() };
            let found: Vec<u64> =
                reader.query(&query).unwrap().map(|event| event.unwrap().sequence().0).collect();
            let expected: Vec<u64> = (1..=visible).filter(|sequence| sequence % ORDERS == order).collect();
            assert_eq!(found, expected, "order {} through {visible}", 1 + order);
            questions += 1;
        }
        if last {
            return questions;
        }
    }
}

/// Follows the tape to its end; every event comes once, in order.
fn follow(reader: &Reader, end: u64) {
    let mut cursor = reader.frames(Sequence::FIRST).unwrap();
    let mut next = 1;
    while next <= end {
        let Some(frame) = cursor.next_frame().unwrap() else {
            std::thread::yield_now();
            continue;
        };
        for event in frame.frame().events() {
            assert_eq!(event.sequence().0, next);
            assert_eq!(event.event_time(), EventTime(next as i64 * 10));
            next += 1;
        }
    }
}

#[test]
fn readers_get_complete_answers_while_the_store_indexes_flushes_and_rotates() {
    let directory = tempfile::tempdir().unwrap();
    let events = 120_000;
    let mut head = None;
    for life in 1..=2 {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::create(directory.path()).unwrap());
        let (store, _) = EventStore::open(disk, options(), projections()).unwrap();
        let mut tape = head.unwrap_or(store.head());
        assert_eq!(tape, store.head());
        store.start_log(ShowDurable(Arc::clone(store.visible())), GroupCommitOptions::default());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = store.reader();
            let asking: Vec<_> = (0..2)
                .map(|seed| {
                    let (reader, stop) = (reader.clone(), &stop);
                    scope.spawn(move || keep_asking(&reader, stop, seed))
                })
                .collect();
            let following = scope.spawn(|| follow(&store.reader(), events * life));
            write(&store, &mut tape, events, &mut Random::new(life));
            following.join().unwrap();
            stop.store(true, Ordering::Release);
            for asking in asking {
                assert!(asking.join().unwrap() > 0);
            }
        });
        // Each flush takes one; the event tables may be merged by now.
        assert!(store.inspect().snapshots.len() > 2, "{:?}", store.inspect());
        assert_eq!(store.close().unwrap(), tape.last_sequence, "everything is flushed");
        head = Some(tape);
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(directory.path()).unwrap());
    let (store, report) = EventStore::open(disk, options(), projections()).unwrap();
    assert_eq!((report.replayed_events, report.last_sequence), (0, 2 * events));
    let expected =
        (1..=2 * events).map(|sequence| Placed { sequence: Sequence(sequence), event: event_at(sequence) });
    let digest = Digest::of(&expected.collect::<Vec<_>>()).bytes();
    assert_eq!(store.projection_section("digest"), Some(&*digest));
    let verified = store.verify(&mut |_| {}).unwrap();
    assert!(verified.is_sound() && verified.sealed_segments > 0, "{verified:?}");
    assert!(store.segment_facts().len() > 4, "rotated, and most of the log let go of");
}

#[test]
fn without_a_sync_policy_memory_is_flushed_all_the_same_long_before_the_segment_ends() {
    let directory = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::create(directory.path()).unwrap());
    let wal = WalOptions { sync: SyncPolicy::None, segment_bytes: 64 << 20, ..options().wal };
    let options = StoreOptions { wal, ..options() };
    let limit = options.memtable_bytes * (options.immutable_memtables_max + 1);
    let (store, _) = EventStore::open(disk, options, projections()).unwrap();
    let mut tape = store.head();
    let show_written = ShowWritten(Arc::clone(store.visible()));
    store.start_log(show_written, GroupCommitOptions::default());
    // `write` waits while memory is full, for ever if it is not flushed.
    let events = 4 * limit as u64 / 128;
    write(&store, &mut tape, events, &mut Random::new(1));
    assert!(store.flushes() > 2 && store.segments().list().len() == 1);
    assert_eq!(store.close().unwrap(), tape.last_sequence);
}

#[test]
fn without_syncs_what_is_flushed_on_a_quiet_tape_does_not_wait_for_the_next_event() {
    let directory = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::create(directory.path()).unwrap());
    let wal = WalOptions { sync: SyncPolicy::None, ..options().wal };
    let (store, _) = EventStore::open(disk, StoreOptions { wal, ..options() }, projections()).unwrap();
    let mut tape = store.head();
    let show_written = ShowWritten(Arc::clone(store.visible()));
    store.start_log(show_written, GroupCommitOptions::default());
    for _ in 0..3 {
        write(&store, &mut tape, 500, &mut Random::new(1));
        while store.visible().get() < tape.last_sequence {
            std::thread::yield_now();
        }
        store.flush().unwrap();
        let begun = Instant::now();
        while store.flushed_through() < tape.last_sequence {
            assert!(begun.elapsed() < Duration::from_secs(30), "the log is not synced");
            std::thread::yield_now();
        }
    }
    store.close().unwrap();
}

#[test]
fn a_log_opened_for_a_command_makes_the_next_segment_only_when_one_ends() {
    let disk = SimDisk::new(1);
    let wal = WalOptions { preparation: Preparation::WhenNeeded, ..small_options().wal };
    let options = StoreOptions { wal, log_kept_bytes: u64::MAX, ..small_options() };
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let segments = || disk.list(Path::new("wal")).unwrap().len();
    let (mut driven, _) = Driven::open(shared, options, Vec::new(), 1).unwrap();
    driven.append(1, true);
    assert_eq!((segments(), driven.store.segments().list().len()), (1, 1));
    while driven.store.segments().list().len() < 4 {
        driven.append(2, true);
        assert_eq!(segments(), driven.store.segments().list().len(), "none is made ahead");
    }
    driven.check(20);
}

#[test]
fn a_read_only_store_follows_a_live_one_and_never_shows_what_is_not_durable() {
    let directory = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::create(directory.path()).unwrap());
    let (store, _) = EventStore::open(disk, options(), projections()).unwrap();
    store.start_log(
        ShowDurable(Arc::clone(store.visible())),
        GroupCommitOptions { when_full: WhenFull::Wait, ..Default::default() },
    );
    let events = 100_000;
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(directory.path()).unwrap());
            let watched = ReadOnlyStore::open(disk, ReadOnlyOptions::default()).unwrap();
            let reader = watched.reader();
            let mut shown = 0;
            while shown < events {
                let visible = watched.refresh().unwrap().0;
                assert!(visible >= shown, "it never goes back");
                assert!(visible <= store.visible().get().0, "nothing that is not durable");
                let stop = AtomicBool::new(true);
                keep_asking(&reader, &stop, visible);
                shown = visible;
            }
            assert_eq!(watched.head().last_sequence.0, events);
            assert!(watched.verify(&mut |_| {}).unwrap().is_sound());
        });
        let mut head = store.head();
        write(&store, &mut head, events, &mut Random::new(1));
        watching.join().unwrap();
    });
    store.close().unwrap();
}

#[test]
fn a_read_only_store_answers_like_the_store_itself_at_every_state_of_flush() {
    let disk = matchtape_storage::sim::SimDisk::new(2);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let error =
        ReadOnlyStore::open(Arc::clone(&shared), ReadOnlyOptions::default()).expect_err("nothing there");
    assert!(matches!(error, OpenError::NoStore), "{error}");
    let mut driven = Driven::new(&disk, 4);
    let watched = ReadOnlyStore::open(Arc::clone(&shared), ReadOnlyOptions::default()).unwrap();
    assert_eq!(watched.reader().visible(), Sequence::ZERO);
    let options = ReadOnlyOptions { memtable_bytes: 16 << 10, ..Default::default() };
    for step in 0..60 {
        driven.append(3, true);
        match step % 6 {
            2 => driven.writer.idle().unwrap(),
            4 => {
                driven.store.flush().unwrap();
            }
            5 => driven.append_large_group(2),
            _ => {}
        }
        let operations = disk.operations();
        let visible = watched.refresh().unwrap();
        assert!(visible <= driven.store.visible().get());
        if step % 6 == 2 || step % 6 == 4 {
            assert_eq!(visible, driven.head.last_sequence, "idle, or flushed: everything is provable");
        }
        let events = &driven.events[..visible.0 as usize];
        check_reader(&watched.reader(), events, &mut driven.random, 10);
        let fresh = ReadOnlyStore::open(Arc::clone(&shared), options.clone()).unwrap();
        assert_eq!(fresh.reader().visible(), visible);
        check_reader(&fresh.reader(), events, &mut driven.random, 3);
        assert_eq!(disk.operations(), operations, "it changes nothing");
    }
    assert_eq!(watched.inspect().event_tables.len(), 10);
    let wrong = ReadOnlyOptions { tape: Some(TapeId(1)), ..Default::default() };
    assert!(matches!(ReadOnlyStore::open(shared, wrong), Err(OpenError::Tape { .. })));
}

#[test]
fn a_read_only_store_of_a_crashed_one_shows_a_prefix() {
    let disk = matchtape_storage::sim::SimDisk::new(3);
    let mut driven = Driven::new(&disk, 4);
    for _ in 0..10 {
        driven.append(3, true);
    }
    driven.store.flush().unwrap();
    driven.append(3, true);
    driven.append(3, true);
    let events = driven.events.clone();
    let operations = disk.operations();
    for operation in (1..=operations).rev().step_by(3) {
        let crashed = disk.crash_at(operation, matchtape_storage::sim::PowerLoss::Seeded(operation as u64));
        match ReadOnlyStore::open(Arc::new(crashed), ReadOnlyOptions::default()) {
            Ok(store) => {
                let reader = store.reader();
                let visible = reader.visible().0 as usize;
                check_frames(&reader, &events[..visible], Sequence::FIRST);
            }
            Err(OpenError::NoStore) => assert!(operation < 12, "the manifest comes first"),
            Err(error) => panic!("operation {operation}: {error}"),
        }
    }
}

#[test]
fn a_read_only_store_goes_on_when_the_log_it_followed_was_let_go_of_and_its_files_used_again() {
    let disk = matchtape_storage::sim::SimDisk::new(3);
    let mut options = StoreOptions { log_kept_bytes: 0, ..model::small_options() };
    options.wal.segment_bytes = limits::SEGMENT_BYTES_MIN;
    let (mut driven, _) = Driven::open(Arc::new(disk.clone()), options, Vec::new(), 1).expect("opened");
    driven.append(2, true);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let follow = ReadOnlyStore::open(Arc::clone(&shared), ReadOnlyOptions::default()).expect("opened");
    let late = ReadOnlyStore::open(shared, ReadOnlyOptions::default()).expect("opened");
    for round in 0..30 {
        driven.append(3, true);
        driven.writer.idle().expect("idle");
        if round % 2 == 1 {
            driven.store.flush().expect("flushed");
        }
        assert_eq!(follow.refresh().expect("refreshed"), driven.head.last_sequence, "round {round}");
    }
    assert!(disk.describe_trace().iter().any(|line| line.contains("000000000001.wal.free to")));
    assert_eq!(late.refresh().expect("refreshed"), driven.head.last_sequence);
    let mut random = Random::new(1);
    for store in [follow, late] {
        check_reader(&store.reader(), &driven.events, &mut random, 20);
    }
}

#[test]
fn the_log_keeps_the_newest_sealed_segments_that_fit_and_no_more() {
    let sealed_bytes = |driven: &Driven| {
        let sealed = driven.store.segments().list();
        sealed.iter().filter_map(|segment| Some(segment.sealed?.file_bytes)).collect::<Vec<u64>>()
    };
    let log = |log_kept_bytes| {
        let mut options = StoreOptions { log_kept_bytes, ..model::small_options() };
        options.wal.segment_bytes = limits::SEGMENT_BYTES_MIN;
        let disk = Arc::new(matchtape_storage::sim::SimDisk::new(3));
        let (mut driven, _) = Driven::open(disk, options, Vec::new(), 1).expect("opened");
        while sealed_bytes(&driven).len() < 8 {
            driven.append(3, true);
            driven.writer.maintain().expect("maintained");
        }
        let all = sealed_bytes(&driven);
        driven.store.flush().expect("flushed");
        (all, sealed_bytes(&driven))
    };
    let (all, none) = log(0);
    assert!(none.is_empty(), "{all:?} became {none:?}");
    for newest in 1..all.len() {
        let expected = &all[all.len() - newest..];
        let fit: u64 = expected.iter().sum();
        assert_eq!(log(fit), (all.clone(), expected.to_vec()));
        assert_eq!(log(fit - 1), (all.clone(), expected[1..].to_vec()));
    }
    assert_eq!(log(u64::MAX), (all.clone(), all));
}
