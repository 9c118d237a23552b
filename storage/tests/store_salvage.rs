//! Salvage: whatever is damaged, what it makes is a sound store of events that were on the tape, it says exactly which
//! ones are missing, and the damaged bytes are still there.

mod model;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use matchtape_schemas::*;
use matchtape_storage::sim::{Fault, PowerLoss, Random, SimDisk};
use matchtape_storage::{
    Disk, EventStore, ReadOnlyOptions, ReadOnlyStore, SalvageError, SalvageOptions, SalvageReport, Span,
    salvage,
};
use model::damage::{Damage, damaged};
use model::*;
use proptest::prelude::*;

/// Ten flushes and a tail that is only in the log; with `released`, the log has nothing that tables have, as far as whole
/// segments go.
fn store(released: bool) -> (SimDisk, Vec<Placed>) {
    let disk = SimDisk::new(5);
    let mut driven = Driven::new(&disk, 3);
    for _ in 0..10 {
        driven.append(3, true);
        driven.append(2, true);
        driven.store.flush().expect("flushed");
    }
    if released {
        driven.store.release_log(driven.store.flushed_through()).expect("released");
    }
    driven.append(2, true);
    driven.append(2, true);
    let Driven { store, writer, events, .. } = driven;
    writer.close().expect("closed");
    drop(store);
    disk.kill();
    (disk, events)
}

fn copy(disk: &SimDisk) -> SimDisk {
    disk.kill_at(disk.operations())
}

fn all_files(disk: &SimDisk) -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("manifest")];
    for directory in ["tables", "wal"] {
        let entries = disk.list(Path::new(directory)).unwrap_or_default();
        files.extend(entries.into_iter().map(|entry| Path::new(directory).join(entry.name)));
    }
    files
}

fn files_of(disk: &SimDisk, extension: &str) -> Vec<PathBuf> {
    all_files(disk)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}

fn run(disk: &SimDisk, apply: bool) -> Result<SalvageReport, SalvageError> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    salvage(&shared, &SalvageOptions { apply, ..SalvageOptions::default() }, &mut |_| {})
}

fn count(spans: &[Span]) -> u64 {
    spans.iter().map(|span| span.last - span.first + 1).sum()
}

/// Salvages and checks everything that must hold of the result.
fn salvaged(disk: &SimDisk, events: &[Placed]) -> SalvageReport {
    let before: Vec<(PathBuf, Option<Vec<u8>>)> =
        all_files(disk).into_iter().map(|path| (path.clone(), disk.content(&path))).collect();
    let planned = run(disk, false).unwrap_or_else(|error| panic!("{error}"));
    for (path, content) in &before {
        assert_eq!(&disk.content(path), content, "{} is as it was", path.display());
    }
    let report = run(disk, true).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        (report.kept, &report.lost, &report.aside, &report.damage),
        (planned.kept, &planned.lost, &planned.aside, &planned.damage)
    );
    check_salvaged(disk, events, &report);
    // The damaged bytes are still there.
    for (path, content) in &before {
        if report.files_aside.contains(&path.display().to_string()) {
            let directory = report.directory.as_ref().expect("something went there");
            assert_eq!(&disk.content(&Path::new(directory).join(path)), content, "{}", path.display());
        }
    }
    report
}

fn check_salvaged(disk: &SimDisk, events: &[Placed], report: &SalvageReport) {
    let last = events.len() as u64;
    if report.applied {
        let verified = report.verified.as_ref().expect("read back");
        assert!(verified.is_sound(), "{:?} in {report:?}", verified.findings);
    }
    disk.kill();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (mut driven, opened) = Driven::open_with(shared, small_options(), Vec::new(), 1, Vec::new())
        .unwrap_or_else(|error| {
            panic!("{error} after {report:?}");
        });
    let reader = driven.store.reader();
    let kept = report.kept.unwrap_or(Span { first: 1, last: 0 });
    // The beginning of a new term is an event of the store, and none that was kept.
    let begins = u64::from(report.epoch_started.is_some());
    assert_eq!(opened.last_sequence, kept.last + begins, "{report:?}");
    assert_eq!(reader.first_kept().0, kept.first, "{report:?}");
    for at in kept.first..=kept.last {
        let event = reader.event(Sequence(at)).expect("readable").expect("kept");
        assert_eq!(event.event().to_event(), events[at as usize - 1].event);
    }
    // Every event is kept, aside or lost, and only one of them.
    let kept_count = (kept.last + 1).saturating_sub(kept.first);
    let told = kept_count + count(&report.aside) + count(&report.lost);
    let unknown = report.warnings.iter().any(|warning| warning.contains("cannot be told"));
    assert!(told == last || told < last && unknown && report.epoch_started.is_some(), "{report:?}");
    let verified = driven.store.verify(&mut |_| {}).expect("readable");
    assert!(verified.is_sound(), "{:?}", verified.findings);
    // It goes on.
    driven.events = events[..kept.last as usize].to_vec();
    if report.epoch_started.is_some() {
        let next = Sequence(kept.last + 1);
        let begun = reader.event(next).expect("readable").expect("there").event().to_event();
        assert!(matches!(begun.body, Body::EpochStarted(_)), "{begun:?}");
        driven.events.push(Placed { sequence: next, event: begun });
    }
    driven.append(2, true);
    driven.store.flush().expect("flushed");
    let verified = driven.store.verify(&mut |_| {}).expect("readable");
    assert!(verified.is_sound(), "{:?}", verified.findings);
    let events = driven.events.clone();
    let first_kept = driven.store.reader().first_kept();
    drop(driven);
    disk.kill();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    // With its projections too, if there is a state to begin from.
    if let Ok((driven, _)) = Driven::open(shared, small_options(), events.clone(), 1) {
        let digest = Digest::of(&events).bytes();
        assert_eq!(driven.store.projection_section("digest"), Some(&*digest));
        // A snapshot right before the first event kept is not promised here: that is said where it is asked.
        if first_kept == Sequence::FIRST {
            check_reader(&driven.store.reader(), &events, &mut Random::new(1), 5);
        }
    } else {
        assert!(report.warnings.iter().any(|warning| warning.contains("no snapshot")), "{report:?}");
    }
    disk.kill();
}

#[test]
fn a_sound_store_is_left_alone() {
    for released in [false, true] {
        let (disk, _) = store(released);
        let before: Vec<_> = all_files(&disk).into_iter().map(|path| disk.content(&path)).collect();
        let report = run(&disk, true).expect("looked at");
        assert!(report.is_sound() && !report.applied && report.directory.is_none(), "{report:?}");
        let after: Vec<_> = all_files(&disk).into_iter().map(|path| disk.content(&path)).collect();
        assert_eq!(before, after);
    }
}

#[test]
fn a_damaged_event_table_is_made_anew_from_the_log() {
    let (disk, events) = store(false);
    for path in files_of(&disk, "events") {
        let bytes = disk.content(&path).expect("there").len() as u64;
        for offset in [0, 70, bytes / 2, bytes - 300, bytes - 10] {
            let damaged = copy(&disk);
            damaged.flip_bit(&path, offset, 3);
            let report = salvaged(&damaged, &events);
            assert!(report.lost.is_empty() && report.aside.is_empty() && report.log_kept, "{report:?}");
            assert_eq!((report.tables_rebuilt, report.indexes_rebuilt, report.epoch_started), (1, 0, None));
        }
    }
}

#[test]
fn without_the_log_a_damaged_event_table_costs_what_is_in_its_damaged_blocks_and_the_newest_part_is_kept() {
    let (disk, events) = store(true);
    let tables = files_of(&disk, "events");
    let mut lost = 0;
    for path in &tables[..6] {
        for place in 1..8 {
            let damaged = copy(&disk);
            let bytes = disk.content(path).expect("there").len() as u64;
            damaged.flip_bit(path, bytes * place / 8, 3);
            let report = salvaged(&damaged, &events);
            let kept = report.kept.expect("the newest part");
            assert_eq!(kept.last, events.len() as u64, "{report:?}");
            assert!(report.log_kept && report.epoch_started.is_none(), "nothing behind the end was given up");
            lost += count(&report.lost);
        }
    }
    assert!(lost > 0);
}

#[test]
fn damage_in_the_log_costs_what_no_table_has_and_the_rest_of_the_tail_is_put_aside() {
    let (disk, events) = store(false);
    let flushed = {
        let (driven, report) =
            Driven::open(Arc::new(copy(&disk)), small_options(), events.clone(), 1).expect("sound");
        drop(driven);
        report.flushed_through
    };
    let mut cost = 0;
    for path in files_of(&disk, "wal") {
        let content = disk.content(&path).expect("there");
        for offset in
            (0..content.len()).step_by(4096).filter(|at| content[*at..*at + 64].iter().any(|byte| *byte != 0))
        {
            for within in [20, 150, 200] {
                let damaged = copy(&disk);
                damaged.flip_bit(&path, (offset + within) as u64, 3);
                if EventStore::open(Arc::new(copy(&damaged)), small_options(), projections())
                    .is_ok_and(|(store, _)| store.verify(&mut |_| {}).expect("read").is_sound())
                {
                    // A torn tail: no business of salvage.
                    continue;
                }
                let report = salvaged(&damaged, &events);
                assert!(report.kept.expect("tables").last >= flushed, "{report:?}");
                assert!(!report.log_kept, "{report:?}");
                cost += count(&report.lost) + count(&report.aside);
                assert!(report.epoch_started.is_some(), "{report:?}");
            }
        }
    }
    assert!(cost > 0);
}

#[test]
fn damaged_indexes_are_rebuilt_and_damaged_snapshots_are_dropped_at_no_cost() {
    let (disk, events) = store(true);
    for (extension, rebuilt) in [("index", 1), ("snapshot", 0)] {
        for path in files_of(&disk, extension) {
            let damaged = copy(&disk);
            damaged.flip_bit(&path, 100, 3);
            let report = salvaged(&damaged, &events);
            assert!(report.lost.is_empty() && report.aside.is_empty() && report.log_kept, "{report:?}");
            assert_eq!((report.indexes_rebuilt, report.tables_rebuilt), (rebuilt, 0));
            assert_eq!(report.files_aside, [path.display().to_string()]);
        }
    }
}

#[test]
fn a_lost_or_damaged_manifest_is_made_from_the_files() {
    for released in [false, true] {
        let (disk, events) = store(released);
        for remove in [false, true] {
            let damaged = copy(&disk);
            if remove {
                damaged.remove(Path::new("manifest")).expect("removed");
            } else {
                damaged.flip_bit(Path::new("manifest"), 30, 3);
            }
            let report = salvaged(&damaged, &events);
            assert!(report.manifest_rebuilt && report.log_kept, "{report:?}");
            assert!(report.lost.is_empty() && report.aside.is_empty(), "{report:?}");
            assert!(report.warnings.iter().any(|warning| warning.contains("legal holds")));
            assert_eq!(report.kept, Some(Span { first: 1, last: events.len() as u64 }));
        }
    }
}

#[test]
fn what_only_the_manifest_knew_is_taken_from_its_whole_records() {
    let (disk, events) = store(true);
    let (driven, _) =
        Driven::open(Arc::new(disk.clone()), small_options(), events.clone(), 1).expect("opened");
    driven.store.hold("case-17", Sequence(3), AcceptedTime(7)).expect("placed");
    driven.store.hold("case-18", Sequence(5), AcceptedTime(8)).expect("placed");
    let facts: Vec<_> = driven.store.segment_facts().iter().map(|facts| facts.root).collect();
    assert!(!facts.is_empty());
    driven.store.hold("case-19", Sequence(7), AcceptedTime(9)).expect("placed");
    drop(driven);
    disk.kill();
    // The record of the second of three is damaged; the file ends behind the third, of which nothing is missing.
    disk.edit(Path::new("manifest"), |bytes| {
        let name = bytes.windows(7).rposition(|window| window == b"case-18").expect("there");
        bytes[name] ^= 1;
    });
    let report = salvaged(&disk, &events);
    assert!(report.manifest_rebuilt && report.lost.is_empty(), "{report:?}");
    assert!(report.warnings.iter().any(|warning| warning.contains("2 legal holds")), "{report:?}");
    let store = ReadOnlyStore::open(Arc::new(disk.clone()), ReadOnlyOptions::default()).expect("opened");
    let holds: Vec<String> = store.inspect().holds.iter().map(|hold| hold.name.clone()).collect();
    assert_eq!(holds, ["case-17", "case-19"]);
    let kept: Vec<_> = store.segment_facts().expect("read").iter().map(|facts| facts.root).collect();
    assert!(facts.iter().all(|root| kept.contains(root)), "what was let go of can still be checked");
}

#[test]
fn the_roots_of_sound_segments_outlive_the_log_that_is_put_aside() {
    let (disk, events) = store(false);
    let facts = |disk: &SimDisk| {
        let store = ReadOnlyStore::open(Arc::new(disk.clone()), ReadOnlyOptions::default()).expect("opened");
        store.segment_facts().expect("read")
    };
    let known = facts(&copy(&disk));
    assert!(!known.is_empty());
    let begun = |path: &PathBuf| disk.content(path).expect("there").starts_with(b"MTSEGMNT");
    let segments: Vec<PathBuf> = files_of(&disk, "wal").into_iter().filter(begun).collect();
    assert_eq!(segments.len(), known.len() + 1);
    for (number, path) in segments.iter().enumerate() {
        let damaged = copy(&disk);
        damaged.flip_bit(path, 4096 + 300, 1);
        let report = salvaged(&damaged, &events);
        // Of the damaged segment none is known, and of the open one there is none.
        let expected: Vec<_> =
            known.iter().enumerate().filter(|(at, _)| *at != number).map(|(_, facts)| *facts).collect();
        assert!(!report.log_kept && report.roots_kept == expected.len() as u64, "{report:?}");
        let left = facts(&damaged);
        assert!(left.starts_with(&expected), "{left:?}, expected {expected:?}");
    }
}

#[test]
fn a_missing_file_of_any_kind_costs_only_what_was_in_it_alone() {
    for released in [false, true] {
        let (disk, events) = store(released);
        for path in all_files(&disk) {
            let damaged = copy(&disk);
            damaged.remove(&path).expect("removed");
            let sound = run(&copy(&damaged), false).map(|report| report.is_sound());
            if matches!(sound, Ok(true)) {
                // A prepared segment, or the oldest one, whose events are in tables.
                assert!(path.starts_with("wal"), "{}", path.display());
                continue;
            }
            let report = salvaged(&damaged, &events);
            let costs = count(&report.lost) + count(&report.aside) > 0;
            let only_copy = path.extension().is_some_and(|found| found == "events") && released
                || path.starts_with("wal");
            assert!(!costs || only_copy, "{}: {report:?}", path.display());
        }
    }
}

#[test]
fn two_tables_with_their_names_swapped_are_told_apart_by_what_they_hold() {
    let (disk, events) = store(false);
    for extension in ["events", "index", "snapshot", "wal"] {
        let files = files_of(&disk, extension);
        let damaged = copy(&disk);
        let spare = Path::new("spare");
        damaged.rename(&files[0], spare).expect("renamed");
        damaged.rename(&files[1], &files[0]).expect("renamed");
        damaged.rename(spare, &files[1]).expect("renamed");
        let report = salvaged(&damaged, &events);
        assert!(report.lost.is_empty(), "{extension}: {report:?}");
    }
}

#[test]
fn holds_and_what_retention_dropped_are_still_known_afterwards() {
    let disk = SimDisk::new(5);
    let mut driven = Driven::new(&disk, 3);
    for _ in 0..10 {
        driven.append(3, true);
        driven.store.flush().expect("flushed");
    }
    let policy = matchtape_storage::RetentionPolicy {
        age: Some(std::time::Duration::from_nanos(100)),
        snapshot_gap_bytes: 0,
        ..Default::default()
    };
    let choice = driven.store.retain(&policy, AcceptedTime(driven.events.len() as i64)).expect("dropped");
    driven.store.hold("case", driven.head.last_sequence, AcceptedTime(1)).expect("held");
    let index = driven.store.inspect().index_tables[1].file.clone();
    let Driven { store, writer, .. } = driven;
    writer.close().expect("closed");
    drop(store);
    disk.kill();
    disk.flip_bit(Path::new(&index), 90, 1);
    let report = run(&disk, true).expect("salvaged");
    assert_eq!(report.kept.expect("kept").first, choice.first_kept);
    assert!(report.lost.is_empty() && report.verified.expect("read back").is_sound());
    let (store, _) = EventStore::open(Arc::new(disk), small_options(), projections()).expect("opened");
    assert_eq!(store.holds()[0].name, "case");
    assert_eq!(store.reader().first_kept().0, choice.first_kept);
}

#[test]
fn salvage_that_is_interrupted_anywhere_can_be_run_again() {
    let (disk, events) = store(true);
    let damaged = copy(&disk);
    let tables = files_of(&disk, "events");
    damaged.flip_bit(&tables[3], disk.content(&tables[3]).expect("there").len() as u64 / 2, 3);
    damaged.flip_bit(&files_of(&disk, "index")[5], 90, 3);
    let whole = copy(&damaged);
    let expected = run(&whole, true).expect("salvaged");
    let steps = whole.operations();
    for step in 0..=steps {
        for fault in [None, Some(Fault::Eio)] {
            let left = match fault {
                // The power goes.
                None => whole.crash_at(step, PowerLoss::Seeded(step as u64)),
                Some(fault) => {
                    let disk = copy(&damaged);
                    disk.fail_at(step, fault);
                    let _ = run(&disk, true);
                    disk.kill();
                    copy(&disk)
                }
            };
            let again = run(&left, true).unwrap_or_else(|error| panic!("step {step} {fault:?}: {error}"));
            // If the first run had come as far as its switch, there is nothing left to do.
            let again =
                if again.is_sound() { SalvageReport { applied: false, ..expected.clone() } } else { again };
            assert_eq!((&again.lost, again.kept), (&expected.lost, expected.kept), "step {step} {fault:?}");
            check_salvaged(&left, &events, &again);
        }
    }
}

#[test]
fn a_file_that_may_not_be_opened_just_now_is_no_damage_and_is_not_given_up() {
    for released in [false, true] {
        let (disk, events) = store(released);
        // But for the spare files of the log, of which nothing is read.
        let read = |path: &PathBuf| path.extension().is_none_or(|extension| extension != "free");
        for path in all_files(&disk).into_iter().filter(read) {
            let disk = copy(&disk);
            disk.forbid(std::slice::from_ref(&path));
            let before = disk.operations();
            let error = run(&disk, true).expect_err("it cannot judge").to_string();
            assert!(error.contains("cannot open") && error.contains(&*path.display().to_string()), "{error}");
            assert_eq!(disk.operations(), before, "nothing was changed for {}", path.display());
            disk.forbid(&[]);
            let report = run(&disk, true).expect("salvaged");
            assert!(report.is_sound() && !report.applied, "{report:?}");
            check_salvaged(&disk, &events, &report);
        }
    }
}

#[test]
fn what_is_not_damage_is_refused() {
    let (disk, _) = store(false);
    for path in all_files(&disk) {
        let content = disk.content(&path).expect("there");
        if content[..8] == [0; 8] || content.starts_with(b"MTSPARE") {
            continue;
        }
        let newer = copy(&disk);
        newer.edit(&path, |bytes| {
            bytes[8] = 9;
            let end = if path.starts_with("wal") { 252 } else { 60 };
            let checksum = crc32fast::hash(&bytes[..end]);
            bytes[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
        });
        let error = run(&newer, true).expect_err("a newer release's");
        assert!(error.to_string().contains("format version 9"), "{}: {error}", path.display());
    }
    let error = run(&SimDisk::new(1), true).expect_err("empty");
    assert!(matches!(error, SalvageError::Nothing), "{error}");

    let (driven, _) = Driven::open(Arc::new(disk.clone()), small_options(), Vec::new(), 1).expect("sound");
    let error = run(&disk, true).expect_err("in use");
    assert!(matches!(error, SalvageError::Lock(_)), "{error}");
    drop(driven);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_damage_leaves_a_sound_store_of_true_events(
        damages in prop::collection::vec(any::<Damage>(), 1..6),
        log in prop::collection::vec((any::<u8>(), any::<u16>(), any::<u8>()), 0..3),
        released: bool,
    ) {
        static HEALTHY: OnceLock<[(SimDisk, Vec<Placed>); 2]> = OnceLock::new();
        let healthy = HEALTHY.get_or_init(|| [store(false), store(true)]);
        let (disk, events) = &healthy[usize::from(released)];
        let disk = damaged(disk, &damages, false);
        let segments = files_of(&disk, "wal");
        for (file, offset, value) in log {
            disk.edit(&segments[usize::from(file) % segments.len()], |bytes| {
                let at = usize::from(offset) * 3 % bytes.len();
                bytes[at] = value;
            });
        }
        match run(&disk, true) {
            Ok(report) => {
                // A torn tail that damage has made may be cut without being called damage.
                let gone = events.len() as u64 - report.kept.map_or(0, |kept| kept.last.min(events.len() as u64));
                if report.applied && gone == 0 {
                    check_salvaged(&disk, events, &report);
                } else {
                    let opened = EventStore::open(Arc::new(disk.clone()), small_options(), Vec::new());
                    prop_assert!(opened.is_ok(), "{:?} after {:?}", opened.err(), report);
                }
            }
            Err(SalvageError::Version(_) | SalvageError::Log(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
