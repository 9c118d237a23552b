//! Backups of a live store and restores to any point: equal to the source up to a group end, and never less than
//! whole.

mod model;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use matchtape_schemas::*;
use matchtape_storage::sim::{Fault, Random, SimDisk};
use matchtape_storage::{
    CopyError, CopyProgress, CopyReport, Disk, DiskBelow, OpenError, Point, ReadOnlyOptions, ReadOnlyStore,
    RealDisk, RetentionPolicy, SYSTEM,
};
use model::*;

fn read_only(disk: &SimDisk) -> ReadOnlyStore {
    ReadOnlyStore::open(Arc::new(disk.clone()), ReadOnlyOptions::default()).expect("opened")
}

fn copy(source: &SimDisk, point: Point) -> Result<(SimDisk, CopyReport), CopyError> {
    let target = SimDisk::new(99);
    let to: Arc<dyn Disk> = Arc::new(target.clone());
    let report = read_only(source).copy_to(point, &to, None, &mut |_| {})?;
    Ok((target, report))
}

/// Opens a copy for writing, compares it with what it should hold, and goes on in it.
fn check_copy(disk: &SimDisk, events: &[Placed], report: &CopyReport, seed: u64) {
    disk.kill();
    let (mut driven, opened) =
        Driven::open(Arc::new(disk.clone()), small_options(), events.to_vec(), seed).expect("opened");
    let last = report.through + u64::from(report.epoch_started.is_some());
    assert_eq!((opened.last_sequence, driven.head.last_sequence.0), (last, last));
    let found = driven.store.reader().first_kept().0;
    assert_eq!(found, report.first_kept);
    match report.epoch_started {
        None => check_reader(&driven.store.reader(), events, &mut Random::new(seed), 10),
        Some(epoch) => {
            assert_eq!(driven.head.epoch, Epoch(epoch));
            let reader = driven.store.reader();
            for at in found..=report.through {
                let event = reader.event(Sequence(at)).expect("kept").expect("there");
                assert_eq!(event.event().to_event(), events[at as usize - 1].event);
            }
            let begun = reader.event(Sequence(last)).expect("kept").expect("there").event().to_event();
            let Body::EpochStarted(body) = &begun.body else { panic!("{begun:?}") };
            assert_eq!((body.epoch, body.previous_last_sequence), (Epoch(epoch), Sequence(report.through)));
            driven.events.push(Placed { sequence: Sequence(last), event: begun });
            driven.check(10);
        }
    }
    assert!(driven.store.verify(&mut |_| {}).expect("verified").is_sound());
    driven.append(2, true);
    driven.check(5);
    driven.store.flush().expect("flushed");
    driven.check(5);
}

/// Flushed tables, a flushed tail and one that is only in the log; with old events dropped if asked.
fn source(seed: u64, dropped: bool) -> (SimDisk, Driven) {
    let disk = SimDisk::new(seed);
    let mut driven = Driven::new(&disk, seed);
    for _ in 0..6 {
        driven.append(3, true);
        driven.store.flush().expect("flushed");
    }
    if dropped {
        let policy = RetentionPolicy {
            age: Some(Duration::from_nanos(60)),
            snapshot_gap_bytes: 0,
            ..RetentionPolicy::default()
        };
        let now = AcceptedTime(driven.events.len() as i64);
        assert!(driven.store.retain(&policy, now).expect("dropped").first_kept > 1);
    }
    driven.append(3, true);
    driven.append_large_group(2);
    driven.writer.idle().expect("proven");
    (disk, driven)
}

#[test]
fn a_backup_holds_everything_that_is_durable_and_is_a_store() {
    for dropped in [false, true] {
        let (disk, driven) = source(1, dropped);
        let before = disk.operations();
        let (target, report) = copy(&disk, Point::End).expect("copied");
        assert_eq!(disk.operations(), before, "nothing in the source was touched");
        assert_eq!(report.through, driven.events.len() as u64);
        assert!(
            report.events_rewritten > 0 && report.copied > 6 && report.epoch_started.is_none(),
            "{report:?}"
        );
        check_copy(&target, &driven.events, &report, 5);
    }
    let empty = SimDisk::new(1);
    drop(Driven::new(&empty, 1));
    let (target, report) = copy(&empty, Point::End).expect("an empty store has a backup too");
    check_copy(&target, &[], &report, 5);
}

#[test]
fn a_running_store_backs_itself_up() {
    let (_, driven) = source(1, true);
    let target = SimDisk::new(99);
    let to: Arc<dyn Disk> = Arc::new(target.clone());
    let report = driven.store.copy_to(&to, None, &mut |_| {}).expect("copied");
    assert_eq!(report.through, driven.events.len() as u64);
    check_copy(&target, &driven.events, &report, 5);
}

#[test]
fn a_restore_to_any_sequence_ends_at_the_last_group_end_and_begins_a_term_above_the_source() {
    for dropped in [false, true] {
        let (disk, driven) = source(2, dropped);
        let events = &driven.events;
        let first_kept = driven.store.reader().first_kept();
        let mut restored = 0;
        for asked in 1..=events.len() as u64 {
            let mut ends = events[..asked as usize].iter().filter(|placed| {
                placed.sequence >= first_kept && placed.event.flags.contains(EventFlags::LAST_OF_GROUP)
            });
            let expected = ends.next_back().map(|placed| placed.sequence.0);
            match (copy(&disk, Point::Sequence(Sequence(asked))), expected) {
                (Ok((target, report)), Some(expected)) => {
                    assert_eq!(report.through, expected, "asked for {asked}");
                    let goes_on = expected < events.len() as u64;
                    assert_eq!(report.epoch_started.is_some(), goes_on);
                    assert!(report.epoch_started.is_none_or(|epoch| epoch > driven.head.epoch.0));
                    check_copy(&target, &events[..expected as usize], &report, asked);
                    restored += 1;
                }
                (Err(CopyError::Nothing { first_kept: kept }), None) => assert_eq!(kept, first_kept),
                (outcome, expected) => panic!("{asked}: {outcome:?}, expected {expected:?}"),
            }
        }
        assert!(restored > 40, "{restored}");
    }
}

#[test]
fn a_restore_to_a_time_takes_every_group_accepted_by_then() {
    let (disk, driven) = source(3, false);
    // The accepted time of a frame is the number of its last event.
    let reader = driven.store.reader();
    for time in 1..=driven.events.len() as i64 + 1 {
        let mut expected = Sequence::ZERO;
        let mut frames = reader.frames(Sequence::FIRST).expect("kept");
        while let Some(frame) = frames.next_frame().expect("read") {
            if frame.header().accepted_time.0 <= time && frame.header().ends_group() {
                expected = frame.header().last_sequence();
            }
        }
        match copy(&disk, Point::Time(AcceptedTime(time))) {
            Ok((_, report)) => assert_eq!(report.through, expected.0, "at {time}"),
            Err(CopyError::Nothing { .. }) => assert_eq!(expected, Sequence::ZERO, "at {time}"),
            Err(error) => panic!("at {time}: {error}"),
        }
    }
}

#[test]
fn a_writer_that_moves_on_meanwhile_is_followed() {
    for seed in 0..6 {
        let (disk, mut driven) = source(seed, false);
        let store = read_only(&disk);
        let target = SimDisk::new(99);
        let to: Arc<dyn Disk> = Arc::new(target.clone());
        let mut random = Random::new(seed);
        let report = store
            .copy_to(Point::End, &to, None, &mut |step| {
                if !matches!(step, CopyProgress::Copying { .. })
                    || random.below(3) > 0
                    || driven.events.len() > 600
                {
                    return;
                }
                driven.append(2, true);
                driven.store.flush().expect("flushed");
                let policy = RetentionPolicy {
                    age: Some(Duration::from_nanos(40)),
                    snapshot_gap_bytes: 0,
                    ..RetentionPolicy::default()
                };
                let now = AcceptedTime(driven.events.len() as i64);
                driven.store.retain(&policy, now).expect("dropped");
            })
            .expect("copied");
        assert!(seed > 0 || report.attempts > 1, "{report:?}");
        check_copy(&target, &driven.events[..report.through as usize], &report, seed);
        driven.check(10);
    }
}

#[test]
fn what_cannot_be_copied_is_refused_with_the_reason() {
    let (disk, driven) = source(1, true);
    let last = driven.head.last_sequence;
    let beyond = copy(&disk, Point::Sequence(last.next())).expect_err("too far");
    assert!(matches!(beyond, CopyError::Beyond { .. }), "{beyond}");
    let nothing = copy(&disk, Point::Time(AcceptedTime(0))).expect_err("too early");
    assert!(matches!(nothing, CopyError::Nothing { .. }), "{nothing}");

    // What was refused before anything was copied is in nobody's way.
    let again: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    read_only(&disk).copy_to(Point::Sequence(last.next()), &again, None, &mut |_| {}).expect_err("too far");
    read_only(&disk).copy_to(Point::End, &again, None, &mut |_| {}).expect("copied");

    let target = SimDisk::new(1);
    target.create_directory(Path::new("wal")).expect("created");
    let to: Arc<dyn Disk> = Arc::new(target);
    let refused = read_only(&disk).copy_to(Point::End, &to, None, &mut |_| {}).expect_err("not empty");
    assert!(matches!(&refused, CopyError::NotEmpty { found } if found == "wal"), "{refused}");
}

#[test]
fn a_copy_has_the_second_store_too_whole_and_is_none_without_it() {
    let (disk, _driven) = source(1, true);
    let (_, report) = copy(&disk, Point::End).expect("copied");
    assert!(report.system.is_none());
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    DiskBelow::create(&shared, SYSTEM).expect("created");
    let (_, report) = copy(&disk, Point::End).expect("copied");
    assert!(report.system.is_none(), "it was never written to");

    let below: Arc<dyn Disk> = Arc::new(DiskBelow::open(&shared, SYSTEM).expect("read").expect("there"));
    let (mut second, _) = Driven::open(below, small_options(), Vec::new(), 3).expect("created");
    second.append(5, true);
    second.store.flush().expect("flushed");
    second.append(2, true);
    second.writer.idle().expect("proven");
    for point in [Point::End, Point::Sequence(Sequence(100))] {
        let (target, report) = copy(&disk, point).expect("copied");
        let below = report.system.expect("copied too");
        assert_eq!((below.through, below.epoch_started), (second.events.len() as u64, None));
        let target: Arc<dyn Disk> = Arc::new(target);
        let below = DiskBelow::open(&target, SYSTEM).expect("read").expect("there");
        let below = ReadOnlyStore::open(Arc::new(below), ReadOnlyOptions::default()).expect("opened");
        check_reader(&below.reader(), &second.events, &mut Random::new(1), 20);
    }

    let table = second.store.inspect().event_tables[0].file.clone();
    disk.flip_bit(&Path::new(SYSTEM).join(&table), 200, 3);
    let target = SimDisk::new(99);
    let to: Arc<dyn Disk> = Arc::new(target.clone());
    let error = read_only(&disk).copy_to(Point::End, &to, None, &mut |_| {}).expect_err("damaged");
    assert!(error.to_string().starts_with("in system: ") && error.to_string().contains(&table), "{error}");
    let opened = ReadOnlyStore::open(Arc::new(target), ReadOnlyOptions::default());
    assert!(matches!(opened, Err(OpenError::NoStore)));
}

#[test]
fn a_damaged_source_is_named_and_what_was_copied_is_no_store() {
    let (disk, driven) = source(1, false);
    let tables = driven.store.inspect();
    for file in [&tables.event_tables[1].file, &tables.index_tables[1].file, &tables.snapshots[1].file] {
        let damaged = disk.kill_at(disk.operations());
        damaged.flip_bit(Path::new(file), 200, 3);
        let target = SimDisk::new(9);
        let to: Arc<dyn Disk> = Arc::new(target.clone());
        let error = match ReadOnlyStore::open(Arc::new(damaged), ReadOnlyOptions::default()) {
            Ok(store) => store.copy_to(Point::End, &to, None, &mut |_| {}).expect_err("damaged").to_string(),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(file), "{error}");
        target.kill();
        let opened = ReadOnlyStore::open(Arc::new(target), ReadOnlyOptions::default());
        assert!(matches!(opened, Err(OpenError::NoStore)));
    }
}

#[test]
fn a_target_that_fails_at_any_step_is_no_store_and_the_source_is_unharmed() {
    let (disk, mut driven) = source(1, false);
    let (whole, _) = copy(&disk, Point::Sequence(Sequence(100))).expect("copied");
    let steps = whole.operations();
    assert!(steps > 40, "{steps}");
    for step in 0..steps {
        for fault in [Fault::Eio, Fault::Enospc] {
            let target = SimDisk::new(99);
            target.fail_at(step, fault);
            let to: Arc<dyn Disk> = Arc::new(target.clone());
            let outcome = read_only(&disk).copy_to(Point::Sequence(Sequence(100)), &to, None, &mut |_| {});
            let error = outcome.expect_err("it failed").to_string();
            assert!(error.starts_with("target: cannot "), "{error}");
            // Also after a loss of power: a manifest is there only with everything it names.
            for choice in [
                matchtape_storage::sim::PowerLoss::LoseUnsynced,
                matchtape_storage::sim::PowerLoss::KeepUnsynced,
            ] {
                let left = target.crash_at(target.operations(), choice);
                if let Ok(store) = ReadOnlyStore::open(Arc::new(left), ReadOnlyOptions::default()) {
                    assert!(store.verify(&mut |_| {}).expect("verified").is_sound(), "step {step}");
                }
            }
        }
    }
    driven.check(10);
}

#[test]
fn a_backup_by_hard_links_costs_no_space_and_outlives_what_the_source_drops() {
    let directory = tempfile::tempdir().expect("a directory");
    let (from, to) = (directory.path().join("tape"), directory.path().join("backup"));
    let source: Arc<dyn Disk> = Arc::new(RealDisk::create(&from).expect("created"));
    let (mut driven, _) = Driven::open(source, small_options(), Vec::new(), 3).expect("created");
    for _ in 0..6 {
        driven.append(3, true);
        driven.store.flush().expect("flushed");
    }
    driven.append(1, true);
    driven.writer.idle().expect("proven");
    let events = driven.events.clone();
    let (from, real_to) = (RealDisk::open(&from).expect("there"), RealDisk::create(&to).expect("created"));
    let target: Arc<dyn Disk> = Arc::new(RealDisk::open(&to).expect("there"));
    let link = |path: &Path| from.link_into(&real_to, path);
    let reader: Arc<dyn Disk> = Arc::new(RealDisk::open(from.root()).expect("there"));
    let store = ReadOnlyStore::open(reader, ReadOnlyOptions::default()).expect("opened");
    let report = store.copy_to(Point::End, &target, Some(&link), &mut |_| {}).expect("copied");
    assert_eq!((report.linked, report.copied, report.through), (18, 0, events.len() as u64));

    let policy = RetentionPolicy { bytes: Some(1), snapshot_gap_bytes: 0, ..RetentionPolicy::default() };
    let choice = driven.store.retain(&policy, AcceptedTime(i64::MAX)).expect("dropped");
    assert!(choice.first_kept > 1);
    driven.append(2, true);
    driven.store.flush().expect("flushed");
    let backup = ReadOnlyStore::open(Arc::clone(&target), ReadOnlyOptions::default()).expect("opened");
    assert!(backup.verify(&mut |_| {}).expect("verified").is_sound());
    check_reader(&backup.reader(), &events, &mut Random::new(1), 20);
    // The backup may become a store of its own, and drop its names, without harm to the source.
    let (mut copy, _) = Driven::open(target, small_options(), events, 4).expect("opened");
    copy.append(3, true);
    copy.store.flush().expect("flushed");
    copy.store.retain(&policy, AcceptedTime(i64::MAX)).expect("dropped");
    copy.check(20);
    driven.check(20);
    assert!(driven.store.verify(&mut |_| {}).expect("verified").is_sound());
}
