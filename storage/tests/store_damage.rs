//! Damage of every kind in tables, snapshots and manifest: noticed, with the place named, or without effect. Never a wrong answer.

mod fuzzed;
mod model;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use matchtape_schemas::*;
use matchtape_storage::sim::{Fault, Random, SimDisk};
use matchtape_storage::wal::WalError;
use matchtape_storage::{
    Access, Caching, Disk, EventStore, OpenError, Query, ReadError, SalvageOptions, TableError, salvage,
};
use model::damage::{
    Damage, files, finished_store, survive_any, survive_records, survive_snapshot, with_records,
};
use model::*;
use proptest::prelude::*;

/// A closed store with two flushes, and its events.
fn store() -> (SimDisk, Vec<Placed>) {
    let disk = SimDisk::new(5);
    let mut driven = Driven::new(&disk, 3);
    for round in 0..2 {
        driven.append(3, true);
        driven.append(2, true);
        if round == 0 {
            driven.store.flush().expect("flushed");
        }
    }
    let Driven { store, writer, events, .. } = driven;
    writer.close().expect("closed");
    store.close().expect("closed");
    (disk, events)
}

/// The same store on a disk of its own, to be damaged.
fn copy(disk: &SimDisk) -> SimDisk {
    disk.kill_at(disk.operations())
}

fn tables(disk: &SimDisk, extension: &str) -> Vec<PathBuf> {
    files(disk).into_iter().filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Outcome {
    RefusedToOpen,
    Found,
    NoEffect,
}

/// Opens a damaged store. Whatever it answers must be right; errors are allowed.
fn outcome(disk: &SimDisk, events: &[Placed]) -> Outcome {
    let opened = Driven::open(Arc::new(disk.clone()), small_options(), events.to_vec(), 1);
    let driven = match opened {
        Ok((driven, _)) => driven,
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.contains("tables/") || text.contains("manifest") || text.contains("sequence"),
                "{text}"
            );
            return Outcome::RefusedToOpen;
        }
    };
    assert_eq!(driven.head.last_sequence.0, events.len() as u64, "the log has everything");
    let digest = Digest::of(events).bytes();
    assert_eq!(driven.store.projection_section("digest"), Some(&*digest));
    let reader = driven.store.reader();
    let mut cursor = reader.frames(Sequence::ZERO).expect("from the first");
    while let Ok(Some(frame)) = cursor.next_frame() {
        for event in frame.frame().events() {
            assert_eq!(event.to_event(), events[event.sequence().0 as usize - 1].event);
        }
    }
    for order in 1..6 {
        let query = Query { order: Some(OrderId(order)), ..Query::default() };
        let found: Result<Vec<_>, ReadError> = reader.query(&query).expect("possible").collect();
        let Ok(found) = found else { continue };
        for event in &found {
            assert_eq!(event.event().to_event(), events[event.sequence().0 as usize - 1].event);
        }
    }
    let report = driven.store.verify(&mut |_| {}).expect("the disk answers");
    if report.is_sound() {
        check_reader(&reader, events, &mut Random::new(1), 5);
        return Outcome::NoEffect;
    }
    for finding in &report.findings {
        assert!(finding.file.contains("tables"), "{finding:?}");
    }
    Outcome::Found
}

#[test]
fn a_flipped_bit_anywhere_is_noticed_or_without_effect() {
    let (disk, events) = store();
    assert_eq!(outcome(&copy(&disk), &events), Outcome::NoEffect);
    for path in files(&disk) {
        let bytes = disk.content(&path).expect("there").len();
        let mut noticed = 0;
        for offset in 0..bytes {
            let damaged = copy(&disk);
            damaged.flip_bit(&path, offset as u64, (offset % 8) as u8);
            noticed += usize::from(outcome(&damaged, &events) != Outcome::NoEffect);
        }
        if path == Path::new("manifest") {
            // The last change of the manifest may count as never made: then the log is replayed instead.
            assert!(noticed > 64, "{noticed} of {bytes}");
        } else {
            assert_eq!(noticed, bytes, "{}", path.display());
        }
    }
}

#[test]
fn a_manifest_that_was_torn_is_kept_as_it_was_found() {
    let (healthy, mut events) = store();
    let (manifest, kept) = (Path::new("manifest"), Path::new("manifest.torn"));
    let disk = copy(&healthy);
    for cut in [5, 7] {
        disk.edit(manifest, |bytes| bytes.truncate(bytes.len() - cut));
        let torn = disk.content(manifest).expect("there");
        let (mut driven, report) =
            Driven::open(Arc::new(disk.clone()), small_options(), events, 1).expect("opened");
        assert!(report.manifest_torn && report.to_string().contains("kept in manifest.torn"), "{report}");
        assert_eq!(disk.content(kept), Some(torn), "also in the place of an older one");
        driven.append(2, true);
        driven.store.flush().expect("flushed");
        events = driven.events.clone();
        drop(driven);
        disk.kill();
    }
    let torn = disk.content(kept);
    let (mut driven, report) =
        Driven::open(Arc::new(disk.clone()), small_options(), events, 1).expect("opened");
    assert!(!report.manifest_torn && report.manifest_kept.is_none(), "{report}");
    assert_eq!(disk.content(kept), torn, "it stays");
    driven.append(2, true);
    driven.store.flush().expect("flushed");
    events = driven.events.clone();
    drop(driven);
    disk.kill();
    // What cannot be kept keeps nobody from opening.
    disk.edit(manifest, |bytes| bytes.truncate(bytes.len() - 5));
    disk.fail_next(Fault::Eio);
    let (_, report) = Driven::open(Arc::new(disk.clone()), small_options(), events, 1).expect("opened");
    assert!(report.manifest_torn && report.manifest_kept.is_none(), "{report}");
}

#[test]
fn a_file_that_is_cut_is_noticed_and_named() {
    let (disk, events) = store();
    for path in files(&disk) {
        for cut in [1, 20, 100] {
            let damaged = copy(&disk);
            damaged.edit(&path, |bytes| bytes.truncate(bytes.len() - cut));
            let found = outcome(&damaged, &events);
            if path != Path::new("manifest") {
                assert_ne!(found, Outcome::NoEffect, "{} cut by {cut}", path.display());
            }
        }
    }
}

#[test]
fn a_missing_table_is_named_by_whoever_reads_it() {
    let (disk, events) = store();
    let path = tables(&disk, "events")[0].clone();
    let damaged = copy(&disk);
    damaged.remove(&path).expect("removed");
    let (driven, _) =
        Driven::open(Arc::new(damaged), small_options(), events, 1).expect("tables are opened when read");
    let error = driven.store.reader().event(Sequence::FIRST).expect_err("gone");
    assert!(error.to_string().contains(&*path.display().to_string()), "{error}");
    assert!(error.is_file_missing());
    let findings = driven.store.verify(&mut |_| {}).expect("verified").findings;
    assert!(findings.iter().any(|finding| finding.file == path.display().to_string()), "{findings:?}");
}

#[test]
fn two_files_with_their_names_swapped_are_noticed() {
    let (disk, events) = store();
    for extension in ["events", "index", "snapshot"] {
        let [first, second] = tables(&disk, extension).try_into().expect("two of each");
        let damaged = copy(&disk);
        let spare = Path::new("tables/spare");
        damaged.rename(&first, spare).expect("renamed");
        damaged.rename(&second, &first).expect("renamed");
        damaged.rename(spare, &second).expect("renamed");
        assert_ne!(outcome(&damaged, &events), Outcome::NoEffect, "{extension}");
    }
}

#[test]
fn a_file_of_another_tape_is_noticed() {
    let (disk, events) = store();
    let other = SimDisk::new(9);
    let options = matchtape_storage::StoreOptions { tape: Some(TapeId(0xBEEF)), ..small_options() };
    let (mut driven, _) = Driven::open(Arc::new(other.clone()), options, Vec::new(), 3).expect("created");
    driven.append(3, true);
    driven.store.flush().expect("flushed");
    for extension in ["events", "index", "snapshot"] {
        let path = tables(&disk, extension)[0].clone();
        let foreign = other.content(&path).expect("the same name");
        let damaged = copy(&disk);
        damaged.edit(&path, |bytes| *bytes = foreign);
        assert_ne!(outcome(&damaged, &events), Outcome::NoEffect, "{extension}");
    }
}

#[test]
fn a_damaged_snapshot_is_passed_over_for_an_older_one() {
    let (disk, events) = store();
    let [older, newer] = tables(&disk, "snapshot").try_into().expect("two");
    let damaged = copy(&disk);
    damaged.flip_bit(&newer, 100, 3);
    let (driven, report) =
        Driven::open(Arc::new(damaged), small_options(), events.clone(), 1).expect("opened");
    assert!(report.snapshots_refused[0].contains(&*newer.display().to_string()), "{report}");
    assert!(report.snapshot_sequence > 0 && report.folded_from_tables > 0, "{report}");
    assert_eq!(driven.store.projection_section("digest"), Some(&*Digest::of(&events).bytes()));
    let snapshot =
        driven.store.reader().snapshot_before(Sequence::MAX).expect("read").expect("the older one");
    assert_eq!(snapshot.sequence().0, report.snapshot_sequence);

    // Nor does a sector of it that cannot be read end the opening.
    let unreadable = copy(&disk);
    unreadable.make_unreadable(&newer, 70..71);
    let (driven, again) =
        Driven::open(Arc::new(unreadable), small_options(), events.clone(), 1).expect("opened");
    assert!(again.snapshots_refused[0].contains("cannot read"), "{again}");
    assert_eq!(again.snapshot_sequence, report.snapshot_sequence);
    assert_eq!(driven.store.projection_section("digest"), Some(&*Digest::of(&events).bytes()));

    let damaged = copy(&disk);
    damaged.flip_bit(&newer, 100, 3);
    damaged.remove(&older).expect("removed");
    let (driven, report) =
        Driven::open(Arc::new(damaged), small_options(), events.clone(), 1).expect("opened");
    assert_eq!((report.snapshots_refused.len(), report.snapshot_sequence), (2, 0));
    assert_eq!(report.folded_from_tables, events.len() as u64);
    assert_eq!(driven.store.projection_section("digest"), Some(&*Digest::of(&events).bytes()));
}

#[test]
fn a_newer_format_is_refused_by_its_version() {
    let (disk, _) = store();
    for path in
        files(&disk).into_iter().filter(|path| path.extension().is_none_or(|found| found != "snapshot"))
    {
        let damaged = copy(&disk);
        damaged.edit(&path, |bytes| {
            bytes[8] = 9;
            let checksum = crc32fast::hash(&bytes[..60]);
            bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
        });
        let error = match EventStore::open(Arc::new(damaged), small_options(), Vec::new()) {
            Err(error) => error.to_string(),
            Ok((store, _)) => match store.reader().event(Sequence::FIRST) {
                Err(ReadError::Table(error @ TableError::Version(_))) => error.to_string(),
                _ => store.verify(&mut |_| {}).expect("verified").findings.remove(0).what,
            },
        };
        assert!(
            error.contains("format version 9") && error.contains(&*path.display().to_string()),
            "{error}"
        );
    }
}

#[test]
fn a_lost_manifest_or_log_is_not_taken_for_a_new_store() {
    let (disk, _) = store();
    let damaged = copy(&disk);
    damaged.remove(Path::new("manifest")).expect("removed");
    let error = EventStore::open(Arc::new(damaged), small_options(), Vec::new()).expect_err("no manifest");
    assert!(matches!(error, OpenError::ManifestMissing { .. }), "{error}");

    let damaged = copy(&disk);
    for entry in damaged.list(Path::new("wal")).expect("listed") {
        damaged.remove(&Path::new("wal").join(entry.name)).expect("removed");
    }
    let error = EventStore::open(Arc::new(damaged), small_options(), Vec::new()).expect_err("no log");
    assert!(matches!(error, OpenError::LogMissing { .. }), "{error}");
}

#[test]
fn a_log_that_ends_before_the_tables_is_refused() {
    let (disk, _) = store();
    let early = copy(&disk);
    // An older log under newer tables, as after restoring half a backup.
    let old = SimDisk::new(5);
    let mut driven = Driven::new(&old, 3);
    driven.append(1, true);
    drop(driven);
    for entry in early.list(Path::new("wal")).expect("listed") {
        let path = Path::new("wal").join(entry.name);
        match old.content(&path) {
            Some(content) => early.edit(&path, |bytes| *bytes = content),
            None => early.remove(&path).expect("removed"),
        }
    }
    let error = EventStore::open(Arc::new(early), small_options(), Vec::new()).expect_err("short");
    let OpenError::Wal(error) = error else { panic!("{error}") };
    assert!(matches!(*error, WalError::Short { .. }), "{error}");
}

#[test]
fn a_flush_that_fails_at_any_step_loses_nothing_and_says_so() {
    let plain = SimDisk::new(5);
    let mut driven = Driven::new(&plain, 3);
    driven.append(4, true);
    let before = plain.operations();
    driven.store.flush().expect("flushed");
    let steps = plain.operations() - before;
    assert!(steps > 12, "{steps}");
    let (mut passed, mut unproven) = (0, 0);
    for step in 0..steps {
        for fault in [Fault::Eio, Fault::Enospc] {
            let disk = SimDisk::new(5);
            let mut driven = Driven::new(&disk, 3);
            driven.append(4, true);
            disk.fail_at(before + step, fault);
            let error = match driven.store.flush() {
                Err(error) => error,
                // What proves the manifest's last record is left out where there is no room: the record is durable.
                Ok(_) => {
                    assert_eq!(fault, Fault::Enospc);
                    unproven += 1;
                    continue;
                }
            };
            if error.may_pass() {
                assert_eq!(fault, Fault::Enospc);
                passed += 1;
                goes_on_when_there_is_room(&disk, driven);
                continue;
            }
            assert!(driven.store.health().is_err(), "{error}");
            assert!(!driven.store.space_problem().is_set(), "it is not the space: {error}");
            driven.append(2, true);
            driven.check(5);
            let operations = disk.operations();
            driven.store.flush().expect_err("not tried again");
            assert_eq!(disk.operations(), operations);
            let events = driven.events.clone();
            drop(driven);
            disk.kill();
            let (mut driven, _) = Driven::open(Arc::new(disk.clone()), small_options(), events, 1)
                .unwrap_or_else(|error| panic!("step {step} {fault:?}: {error}"));
            driven.check(5);
            driven.store.flush().expect("flushed now");
            driven.check(5);
            assert!(driven.store.verify(&mut |_| {}).expect("verified").is_sound());
        }
    }
    assert!(passed > 8, "{passed} steps were tried again");
    assert_eq!(unproven, 1);
}

/// A flush that found no room is one that did not happen: nothing of it is left, and the next one does it all.
fn goes_on_when_there_is_room(disk: &SimDisk, mut driven: Driven) {
    driven.store.health().expect("flushing goes on");
    assert!(driven.store.space_problem().is_set(), "new events are to be refused meanwhile");
    driven.append(2, true);
    driven.check(5);
    driven.store.flush().expect("there is room again");
    assert!(!driven.store.space_problem().is_set());
    driven.check(5);
    assert!(driven.store.verify(&mut |_| {}).expect("verified").is_sound());
    let named = driven.store.inspect();
    let named = named.event_tables.len() + named.index_tables.len() + named.snapshots.len();
    assert_eq!(disk.list(Path::new("tables")).expect("listed").len(), named, "no half-written files stay");
    let events = driven.events.clone();
    drop(driven);
    disk.kill();
    let (mut driven, _) =
        Driven::open(Arc::new(disk.clone()), small_options(), events, 1).expect("opens again");
    driven.check(5);
}

#[test]
fn an_index_that_lost_a_posting_is_found_by_verify() {
    let (disk, events) = store();
    // A whole, well-formed index table of fewer events, under the name and number of another: as a broken writer makes one.
    let smaller = SimDisk::new(5);
    let mut driven = Driven::new(&smaller, 3);
    driven.append(3, true);
    driven.store.flush().expect("flushed");
    let index = tables(&disk, "index")[0].clone();
    let damaged = copy(&disk);
    let content = smaller.content(&index).expect("the same number");
    damaged.edit(&index, |bytes| *bytes = content);
    let (driven, _) = Driven::open(Arc::new(damaged), small_options(), events, 1).expect("opened");
    let findings = driven.store.verify(&mut |_| {}).expect("verified").findings;
    assert!(findings.iter().any(|finding| finding.file.contains("index")), "{findings:?}");
}

#[test]
fn an_unreadable_sector_is_an_error_that_names_the_place() {
    let (disk, events) = store();
    let table = tables(&disk, "events")[0].clone();
    let damaged = copy(&disk);
    let (driven, _) = Driven::open(Arc::new(damaged.clone()), small_options(), events, 1).expect("opened");
    damaged.make_unreadable(&table, 64..100);
    let error = driven.store.reader().event(Sequence::FIRST).expect_err("unreadable");
    assert!(matches!(error, ReadError::Table(TableError::Disk(_))));
    assert!(
        error.to_string().contains(&*table.display().to_string()) && error.to_string().contains("byte 64"),
        "{error}"
    );
    assert!(damaged.open(&table, Access::Read, Caching::Buffered).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn arbitrary_damage_never_panics_and_never_shows_a_wrong_event(
        damages in prop::collection::vec(any::<Damage>(), 1..6),
        resealed: bool,
    ) {
        survive_any((resealed, damages));
    }
}

#[test]
fn what_the_fuzzers_have_kept_of_tables_manifests_and_snapshots_is_survived() {
    fuzzed::replay("tables", survive_any);
    fuzzed::replay("manifest", |payloads: Vec<Vec<u8>>| survive_records(&payloads));
    fuzzed::replay("snapshot", |payloads: Vec<Vec<u8>>| survive_snapshot(&payloads));
}

#[test]
fn records_that_a_test_appends_are_read_as_the_store_reads_its_own() {
    let (healthy, _) = finished_store();
    let open = |payload: &[u8]| {
        let disk = with_records(&healthy, &[payload.to_vec()]);
        Driven::open(Arc::new(disk), small_options(), Vec::new(), 1).map(|_| ())
    };
    let next_file = [&[5][..], &77_u64.to_le_bytes()].concat();
    open(&next_file).expect("a possible edit");
    let error = open(&[99]).expect_err("an edit of no release");
    assert!(error.to_string().contains("edit of the manifest"), "{error}");
}

/// The payload of a record: what looks like edits, so that more than the first tag is read.
fn edits() -> impl Strategy<Value = Vec<u8>> {
    let edit = (0_u8..12, proptest::collection::vec(any::<u8>(), 0..60)).prop_map(|(tag, mut fields)| {
        fields.insert(0, tag);
        fields
    });
    proptest::collection::vec(edit, 0..4).prop_map(|edits| edits.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_record_of_a_manifest_makes_the_store_panic_or_show_what_is_not_the_tapes(
        payloads in proptest::collection::vec(edits(), 1..4),
    ) {
        survive_records(&payloads);
    }

    #[test]
    fn no_blocks_of_a_snapshot_make_the_store_panic_or_show_what_is_not_the_tapes(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 1..4),
    ) {
        survive_snapshot(&payloads);
    }
}

#[test]
fn a_full_disk_is_given_the_space_of_unfinished_files_before_anything_is_written() {
    let disk = SimDisk::new(5);
    let mut driven = Driven::new(&disk, 3);
    driven.append(4, true);
    driven.store.flush().expect("flushed");
    let events = driven.events.clone();
    drop(driven);
    disk.kill();
    let unfinished = Path::new("tables/0000000000000099.index.new");
    let file = disk.open(unfinished, Access::CreateNew, Caching::Buffered).expect("created");
    file.write_at(&[7; 1 << 20], 0).expect("written");
    let names = ["tables", "wal"].into_iter().flat_map(|directory| {
        let entries = disk.list(Path::new(directory)).expect("listed").into_iter();
        entries.map(move |entry| Path::new(directory).join(entry.name))
    });
    let files = names.chain(["manifest".into(), "lock".into()]);
    let used: usize = files.filter_map(|path| disk.content(&path)).map(|content| content.len()).sum();
    disk.set_capacity(used as u64);
    let (mut driven, report) =
        Driven::open(Arc::new(disk.clone()), small_options(), events, 1).expect("there is room now");
    assert_eq!(report.removed, ["0000000000000099.index.new"]);
    driven.check(5);
}

/// The manifest's records.
fn records(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut records, mut at) = (Vec::new(), 64);
    while at + 16 <= bytes.len() {
        let payload = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
        records.push(at..at + 16 + payload);
        at += 16 + payload;
    }
    records
}

/// Where the last record begins that changes anything.
fn last_change(bytes: &[u8]) -> usize {
    records(bytes).iter().rfind(|record| record.len() > 16).expect("a change").start
}

#[test]
fn a_last_change_that_rotted_after_files_went_on_its_strength_is_no_torn_tail() {
    let disk = SimDisk::new(5);
    let mut driven = Driven::new(&disk, 3);
    for _ in 0..6 {
        driven.append(3, true);
        driven.store.flush().expect("flushed");
    }
    for _ in 0..2 {
        driven.store.compact(&mut |_| true).expect("compacted");
    }
    let Driven { store, writer, events, .. } = driven;
    writer.close().expect("closed");
    drop(store);
    disk.kill();
    // The sector it was in, and whatever followed.
    disk.edit(Path::new("manifest"), |bytes| {
        let from = last_change(bytes);
        bytes[from..].fill(0x55);
    });
    let before: Vec<PathBuf> = files(&disk);
    let opened = EventStore::open(Arc::new(disk.clone()), small_options(), projections());
    let error = opened.map(|(_, report)| report.to_string()).expect_err("what it named is gone").to_string();
    assert!(error.contains("manifest") && error.contains("tables/"), "{error}");
    assert_eq!(files(&disk), before, "what only that change named is still there");
    disk.kill();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let report = salvage(&shared, &SalvageOptions { apply: true, ..SalvageOptions::default() }, &mut |_| {});
    let report = report.expect("salvaged");
    assert!(report.lost.is_empty() && report.applied, "{report:?}");
    disk.kill();
    let (mut driven, _) =
        Driven::open(Arc::new(disk.clone()), small_options(), events, 1).expect("opens again");
    driven.check(20);
}

#[test]
fn a_hold_that_was_acknowledged_last_does_not_vanish_with_a_flipped_bit_nor_with_its_sector() {
    let (disk, events) = store();
    let (driven, _) = Driven::open(Arc::new(disk.clone()), small_options(), events, 1).expect("opened");
    driven.store.hold("case-17", Sequence(3), AcceptedTime(7)).expect("placed");
    drop(driven);
    disk.kill();
    let content = disk.content(Path::new("manifest")).expect("there");
    let held =
        |record: &std::ops::Range<usize>| content[record.clone()].windows(7).any(|name| name == b"case-17");
    let record = records(&content).into_iter().rfind(held).expect("the hold's record");
    let sector_end = (record.start / 4096 + 1) * 4096;
    assert!(record.end + 16 < sector_end && content.len() > sector_end, "its proof is in the same sector");
    for whole_sector in [false, true] {
        let disk = copy(&disk);
        disk.edit(Path::new("manifest"), |bytes| match whole_sector {
            false => bytes[record.start + 20] ^= 4,
            true => bytes[record.start..sector_end].fill(0x55),
        });
        let opened = EventStore::open(Arc::new(disk.clone()), small_options(), projections());
        let error = opened.map(|(_, report)| report.to_string()).expect_err("a hold is missing").to_string();
        assert!(error.contains("record of the manifest"), "{error}");
    }
}
