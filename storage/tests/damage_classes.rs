//! Every class of damage to every kind of file: who says so, in which words, and that nothing was changed by the refusal. And
//! every step of a store's life on a disk that fails or is full there: nothing acknowledged is lost.

mod model;

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use matchtape_schemas::*;
use matchtape_storage::sim::{Fault, SimDisk};
use matchtape_storage::{
    Disk, EventStore, OpenError, ReadOnlyOptions, ReadOnlyStore, RetentionPolicy, SalvageError,
    SalvageOptions, Span, StoreOptions, WalOptions, salvage,
};
use model::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum File {
    SealedSegment,
    OpenSegment,
    Events,
    Index,
    Snapshot,
    Manifest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    FlippedBit,
    Missing,
    Cut,
    Swapped,
    OtherTape,
    FutureVersion,
    Unreadable,
}

/// Who notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noticed {
    /// Opening refuses.
    Open,
    /// Opening reads only what it needs; `verify`, or whoever reads the place, says so.
    Verify,
    /// Opening goes on with an older snapshot, and reports it.
    Report,
}

use Class::*;
use File::*;

const TABLE: &[(File, Class, Noticed)] = &[
    (SealedSegment, FlippedBit, Noticed::Verify),
    (SealedSegment, Missing, Noticed::Open),
    (SealedSegment, Cut, Noticed::Open),
    (SealedSegment, Swapped, Noticed::Open),
    (SealedSegment, OtherTape, Noticed::Open),
    (SealedSegment, FutureVersion, Noticed::Open),
    (SealedSegment, Unreadable, Noticed::Verify),
    (OpenSegment, FlippedBit, Noticed::Open),
    (OpenSegment, Missing, Noticed::Open),
    // Cut is left out: an open segment that ends early cannot be told from a torn tail, unless tables know of more.
    (OpenSegment, OtherTape, Noticed::Open),
    (OpenSegment, FutureVersion, Noticed::Open),
    (OpenSegment, Unreadable, Noticed::Open),
    (Events, FlippedBit, Noticed::Verify),
    (Events, Missing, Noticed::Verify),
    (Events, Cut, Noticed::Verify),
    (Events, Swapped, Noticed::Verify),
    (Events, OtherTape, Noticed::Verify),
    (Events, FutureVersion, Noticed::Verify),
    (Events, Unreadable, Noticed::Verify),
    (Index, FlippedBit, Noticed::Verify),
    (Index, Missing, Noticed::Verify),
    (Index, Cut, Noticed::Verify),
    (Index, Swapped, Noticed::Verify),
    (Index, OtherTape, Noticed::Verify),
    (Index, FutureVersion, Noticed::Verify),
    (Index, Unreadable, Noticed::Verify),
    (Snapshot, FlippedBit, Noticed::Report),
    (Snapshot, Missing, Noticed::Report),
    (Snapshot, Cut, Noticed::Report),
    (Snapshot, Swapped, Noticed::Report),
    (Snapshot, OtherTape, Noticed::Report),
    (Snapshot, FutureVersion, Noticed::Open),
    (Snapshot, Unreadable, Noticed::Report),
    (Manifest, FlippedBit, Noticed::Open),
    (Manifest, Missing, Noticed::Open),
    (Manifest, Cut, Noticed::Open),
    (Manifest, OtherTape, Noticed::Open),
    (Manifest, FutureVersion, Noticed::Open),
    (Manifest, Unreadable, Noticed::Open),
];

fn options() -> StoreOptions {
    StoreOptions { log_kept_bytes: u64::MAX, ..small_options() }
}

fn store(seed: u64, tape: TapeId) -> (SimDisk, Vec<Placed>) {
    store_of(seed, StoreOptions { tape: Some(tape), ..options() })
}

fn store_of(seed: u64, options: StoreOptions) -> (SimDisk, Vec<Placed>) {
    let disk = SimDisk::new(seed);
    let (mut driven, _) =
        Driven::open(Arc::new(disk.clone()), options, Vec::new(), seed).expect("a store is created");
    for _ in 0..10 {
        driven.append(3, true);
        driven.append(2, true);
        driven.store.flush().expect("flushed");
    }
    // A tail that only the log has, of several commits.
    for _ in 0..4 {
        driven.append(2, true);
    }
    let Driven { store, writer, events, .. } = driven;
    writer.close().expect("closed");
    drop(store);
    disk.kill();
    (disk.kill_at(disk.operations()), events)
}

fn copy(disk: &SimDisk) -> SimDisk {
    disk.kill_at(disk.operations())
}

/// The files of a kind, in order.
fn files(disk: &SimDisk, file: File) -> Vec<PathBuf> {
    let of = |directory: &str, extension: &str| -> Vec<PathBuf> {
        let entries = disk.list(Path::new(directory)).expect("listed");
        let names = entries.into_iter().filter(|entry| entry.name.ends_with(extension));
        names.map(|entry| Path::new(directory).join(entry.name)).collect()
    };
    let begun = |path: &PathBuf| disk.content(path).expect("there").starts_with(b"MTSEGMNT");
    let mut segments: Vec<PathBuf> = of("wal", ".wal").into_iter().filter(begun).collect();
    match file {
        SealedSegment => {
            segments.pop();
            segments
        }
        OpenSegment => segments.split_off(segments.len() - 1),
        Events => of("tables", ".events"),
        Index => of("tables", ".index"),
        Snapshot => of("tables", ".snapshot"),
        Manifest => vec![PathBuf::from("manifest")],
    }
}

/// Damages a copy of the store; says which files a message may name.
fn damage(healthy: &SimDisk, other: &SimDisk, file: File, class: Class) -> (SimDisk, Vec<PathBuf>) {
    let disk = copy(healthy);
    let all = files(&disk, file);
    // The newest counts: what an older snapshot says is not asked. Of sealed segments the oldest, whose events tables have;
    // but if that one is missing, it might as well have been released.
    let oldest = file == SealedSegment && !matches!(class, Missing | Swapped);
    let path = if oldest { all.first() } else { all.last() }.expect("one of each").clone();
    let bytes = disk.content(&path).expect("there").len() as u64;
    let mut named = vec![path.clone()];
    match class {
        // Behind the header, in the first thing it holds.
        FlippedBit => disk.flip_bit(&path, if path.starts_with("wal") { 4096 + 300 } else { 90 }, 2),
        Missing => disk.remove(&path).expect("removed"),
        Cut if file == Manifest => disk.edit(&path, |bytes| bytes.truncate(70)),
        Cut => disk.edit(&path, |bytes| bytes.truncate(bytes.len() - 5)),
        Swapped => {
            let first = all.first().expect("two of each").clone();
            assert_ne!(first, path);
            let spare = Path::new("spare");
            disk.rename(&first, spare).expect("renamed");
            disk.rename(&path, &first).expect("renamed");
            disk.rename(spare, &path).expect("renamed");
            named.push(first);
        }
        OtherTape => {
            let foreign = other.content(files(other, file).last().expect("one of each")).expect("there");
            disk.edit(&path, |bytes| *bytes = foreign);
        }
        FutureVersion => disk.edit(&path, |bytes| {
            bytes[8] = 9;
            let end = if path.starts_with("wal") { 252 } else { 60 };
            let checksum = crc32fast::hash(&bytes[..end]);
            bytes[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
        }),
        Unreadable => {
            disk.make_unreadable(&path, if path.starts_with("wal") { 4096..8192 } else { 70..bytes })
        }
    }
    (disk, named)
}

/// What a gap in the log, or in what fits together, is called by.
fn names(text: &str, named: &[PathBuf], file: File, class: Class) -> bool {
    let directly = named.iter().any(|path| text.contains(&*path.display().to_string()));
    let by_what_is_missing = match (file, class) {
        // The tables know how far the log had come, or the segment behind says which one is missing.
        (OpenSegment | SealedSegment, Missing | Cut) => {
            text.contains("wal") || text.contains("the log ends at sequence")
        }
        // Another tape's manifest is a whole one: the store's own files are then the foreign ones.
        (Manifest, OtherTape) => text.contains("tape"),
        _ => false,
    };
    directly || by_what_is_missing
}

#[test]
fn every_class_of_damage_to_every_kind_of_file_is_noticed_and_named_and_nothing_is_changed_by_that() {
    let (healthy, events) = store(5, TAPE);
    let (other, _) = store(6, TapeId(0xBEEF));
    for (file, class, expected) in TABLE {
        let context = format!("{file:?} {class:?}");
        let (disk, named) = damage(&healthy, &other, *file, *class);
        let before: Vec<_> = named.iter().map(|path| disk.content(path)).collect();
        let (noticed, text) = match EventStore::open(Arc::new(disk.clone()), options(), projections()) {
            Err(error) => (Noticed::Open, error.to_string()),
            Ok((store, report)) if !report.snapshots_refused.is_empty() => {
                let digest = Digest::of(&events).bytes();
                assert_eq!(store.projection_section("digest"), Some(&*digest), "{context}");
                (Noticed::Report, report.to_string())
            }
            Ok((store, report)) => {
                assert_eq!(report.last_sequence, events.len() as u64, "{context}");
                let findings = store.verify(&mut |_| {}).expect("verified").findings;
                let text: Vec<String> =
                    findings.iter().map(|finding| format!("{}: {}", finding.file, finding.what)).collect();
                (Noticed::Verify, text.join("\n"))
            }
        };
        assert_eq!(noticed, *expected, "{context}: {text}");
        assert!(names(&text, &named, *file, *class), "{context}: {text} names none of {named:?}");
        let after: Vec<_> = named.iter().map(|path| disk.content(path)).collect();
        assert!(before == after, "{context}: the refusal changed a file");
        if *class == FutureVersion {
            assert!(text.contains("format version 9"), "{context}: {text}");
        }
        disk.kill();
        check_salvage(&disk, &events, *file, *class, &context);
    }
}

/// What salvage makes of it loses nothing that any file still has.
fn check_salvage(disk: &SimDisk, events: &[Placed], file: File, class: Class, context: &str) {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let done = salvage(&shared, &SalvageOptions { apply: true, ..SalvageOptions::default() }, &mut |_| {});
    let report = match done {
        Ok(report) => report,
        Err(SalvageError::Version(_) | SalvageError::Log(_)) if class == FutureVersion => return,
        // Two whole stores mixed up: nothing that a program should decide.
        Err(_) if (file, class) == (Manifest, OtherTape) => return,
        // The simulated disk cannot read this name, whatever file has it.
        Err(SalvageError::ReadBack(_)) if (file, class) == (Manifest, Unreadable) => return,
        Err(error) => panic!("{context}: {error}"),
    };
    if (file, class) == (Manifest, OtherTape) {
        return;
    }
    assert!(!report.is_sound(), "{context}: {report:?}");
    let in_the_log_only = matches!(file, SealedSegment | OpenSegment);
    assert!(in_the_log_only || report.lost.is_empty() && report.aside.is_empty(), "{context}: {report:?}");
    disk.kill();
    // Which sectors of which name cannot be read stays behind: another file has the name by now.
    let disk = copy(disk);
    let (driven, _) = Driven::open(Arc::new(disk.clone()), options(), Vec::new(), 1)
        .unwrap_or_else(|error| panic!("{context}: {error} after {report:?}"));
    let kept = report.kept.expect("most of it").last;
    for at in 1..=kept {
        let event = driven.store.reader().event(Sequence(at)).expect("readable").expect("kept");
        assert_eq!(event.event().to_event(), events[at as usize - 1].event, "{context}");
    }
    assert!(driven.store.verify(&mut |_| {}).expect("verified").is_sound(), "{context}");
    disk.kill();
}

/// What `matchtape verify` says of a directory that nobody has open.
fn verify_at_rest(disk: &SimDisk) -> String {
    let before = disk.operations();
    let store = match ReadOnlyStore::open(Arc::new(disk.clone()), ReadOnlyOptions::default()) {
        Ok(store) => store,
        Err(error) => return format!("refused: {error}"),
    };
    let findings = store.verify(&mut |_| {}).expect("verified").findings;
    assert_eq!(disk.operations(), before, "nothing is changed");
    findings.iter().map(|finding| format!("{}: {}\n", finding.file, finding.what)).collect()
}

#[test]
fn verify_at_rest_notices_a_kept_segment_that_is_missing_swapped_or_of_another_log() {
    let small = |seed, tape| {
        let wal = WalOptions { segment_bytes: 32 << 10, ..options().wal };
        store_of(seed, StoreOptions { tape: Some(tape), wal, ..options() }).0
    };
    let (healthy, other_tape, other_life) = (small(5, TAPE), small(6, TapeId(0xBEEF)), small(7, TAPE));
    let segments = files(&healthy, SealedSegment);
    assert!(segments.len() > 3, "{segments:?}");
    assert_eq!(verify_at_rest(&healthy), "");
    for (number, path) in segments.iter().enumerate() {
        let name = path.display().to_string();
        // The oldest might as well have been let go of.
        if number > 0 {
            let disk = copy(&healthy);
            disk.remove(path).expect("removed");
            let said = verify_at_rest(&disk);
            assert!(said.contains(&format!("{name} is missing")), "{said}");

            let disk = copy(&healthy);
            let (older, spare) = (&segments[number - 1], Path::new("spare"));
            disk.rename(older, spare).expect("renamed");
            disk.rename(path, older).expect("renamed");
            disk.rename(spare, path).expect("renamed");
            let said = verify_at_rest(&disk);
            let named = said.contains(&name) || said.contains(&*older.display().to_string());
            assert!(named && said.contains("segment number"), "{said}");
        }
        for (other, word) in [(&other_tape, "belongs to tape"), (&other_life, "previous segment's id")] {
            let disk = copy(&healthy);
            let foreign = other.content(path).expect("it has as many segments");
            disk.edit(path, |bytes| *bytes = foreign);
            let said = verify_at_rest(&disk);
            let next = format!("{:012}.wal", number + 2);
            assert!(said.contains(word) && (said.contains(&name) || said.contains(&next)), "{said}");
        }
    }
}

#[test]
fn what_no_writer_opens_is_not_sound_to_who_only_reads() {
    let (healthy, _) = store(5, TAPE);
    let open = files(&healthy, OpenSegment).remove(0);
    let sealed = healthy.content(&files(&healthy, SealedSegment)[0]).expect("there");
    let damaged = |change: &dyn Fn(&SimDisk)| {
        let disk = copy(&healthy);
        change(&disk);
        disk
    };
    // In the header; another segment's file; none.
    let flipped = damaged(&|disk| disk.flip_bit(&open, 10, 2));
    let replaced = damaged(&|disk| disk.edit(&open, |bytes| bytes.clone_from(&sealed)));
    let lost = damaged(&|disk| disk.remove(&open).expect("removed"));
    // In a commit that tables have.
    let flushed = SimDisk::new(5);
    let mut driven = Driven::open(Arc::new(flushed.clone()), options(), Vec::new(), 5).expect("created").0;
    driven.append(3, true);
    driven.store.flush().expect("flushed");
    driven.append(2, true);
    let Driven { store, writer, .. } = driven;
    writer.close().expect("closed");
    drop(store);
    flushed.kill();
    let flushed = copy(&flushed);
    assert_eq!(verify_at_rest(&flushed), "");
    flushed.flip_bit(Path::new("wal/000000000001.wal"), 4096 + 300, 2);
    for (disk, readers_refuse) in [(flipped, true), (replaced, true), (lost, true), (flushed, false)] {
        let said = verify_at_rest(&disk);
        let refused = EventStore::open(Arc::new(disk.clone()), options(), projections()).map(|_| ());
        let refused = refused.expect_err("no writer opens it").to_string();
        assert!(said.contains("wal/"), "{said:?}, a writer: {refused}");
        assert_eq!(said.starts_with("refused: "), readers_refuse, "{said:?}, a writer: {refused}");
    }
}

#[test]
fn events_that_neither_tables_nor_the_log_have_are_missed_by_all() {
    let disk = SimDisk::new(5);
    let wal = WalOptions { segment_bytes: 32 << 10, ..options().wal };
    let mut driven = Driven::open(Arc::new(disk.clone()), StoreOptions { wal, ..options() }, Vec::new(), 5)
        .expect("a store is created")
        .0;
    while driven.store.segments().list().len() < 3 {
        driven.append(2, true);
    }
    driven.append(2, true);
    let second = driven.store.segments().list()[1].first_sequence().0;
    let Driven { store, writer, events, .. } = driven;
    writer.close().expect("closed");
    drop(store);
    disk.kill();
    disk.remove(&files(&disk, SealedSegment)[0]).expect("removed");
    for error in [
        ReadOnlyStore::open(Arc::new(disk.clone()), ReadOnlyOptions::default()).map(|_| ()),
        EventStore::open(Arc::new(disk.clone()), options(), projections()).map(|_| ()),
    ] {
        let error = error.expect_err("a gap");
        assert!(matches!(error, OpenError::LogGap { .. }), "{error}");
    }
    disk.kill();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let report = salvage(&shared, &SalvageOptions { apply: true, ..SalvageOptions::default() }, &mut |_| {});
    let report = report.expect("salvaged");
    let span = |first, last| Span { first, last };
    let last = events.len() as u64;
    assert_eq!(
        (report.kept, report.lost, report.aside),
        (None, vec![span(1, second - 1)], vec![span(second, last)])
    );
    disk.kill();
    Driven::open(Arc::new(disk), options(), Vec::new(), 1).expect("it begins anew");
}

/// Two lives with flushes, retention and holds in them; returns the last event acknowledged as durable, and whether it
/// came to its end.
fn live(disk: &SimDisk, acknowledged: &mut (u64, Vec<Placed>)) -> bool {
    for life in 0..2 {
        let events = acknowledged.1[..acknowledged.0 as usize].to_vec();
        let Ok((mut driven, _)) = Driven::open(Arc::new(disk.clone()), small_options(), events.clone(), life)
        else {
            return false;
        };
        // After a failure the log may hold more than was acknowledged: this script then has nothing to go on with.
        if driven.head.last_sequence.0 != events.len() as u64 {
            return false;
        }
        for step in 0..6 {
            let appended = std::panic::catch_unwind(AssertUnwindSafe(|| driven.append(2, true)));
            if appended.is_err() {
                acknowledged.1.clone_from(&driven.events);
                return false;
            }
            *acknowledged = (driven.head.last_sequence.0, driven.events.clone());
            let upkeep = match step {
                1 | 3 | 4 => driven.store.flush().is_ok(),
                2 => {
                    let from = driven.head.last_sequence;
                    driven.store.hold(&format!("case {from}"), from, AcceptedTime(1)).is_ok()
                }
                _ => {
                    let age = Some(Duration::from_nanos(20));
                    let policy = RetentionPolicy { age, snapshot_gap_bytes: 0, ..RetentionPolicy::default() };
                    driven.store.retain(&policy, AcceptedTime(driven.events.len() as i64)).is_ok()
                }
            };
            if !upkeep {
                return false;
            }
        }
        let Driven { store, writer, .. } = driven;
        if writer.close().is_err() || store.close().is_err() {
            return false;
        }
        disk.kill();
    }
    true
}

#[test]
fn a_disk_that_fails_or_is_full_at_any_step_costs_nothing_that_was_acknowledged() {
    let plain = SimDisk::new(7);
    assert!(live(&plain, &mut (0, Vec::new())));
    let steps = plain.operations();
    assert!(steps > 100, "{steps}");
    let mut failed = 0;
    for step in 0..steps {
        for fault in [Fault::Eio, Fault::Enospc] {
            let disk = SimDisk::new(7);
            disk.fail_at(step, fault);
            let mut acknowledged = (0, Vec::new());
            failed += usize::from(!live(&disk, &mut acknowledged));
            disk.kill();
            let left = copy(&disk);
            let (driven, report) = Driven::open(Arc::new(left), small_options(), Vec::new(), 1)
                .unwrap_or_else(|error| panic!("step {step} {fault:?}: {error}"));
            assert!(report.last_sequence >= acknowledged.0, "step {step} {fault:?}: {report}");
            let verified = driven.store.verify(&mut |_| {}).expect("verified");
            assert!(verified.is_sound(), "step {step} {fault:?}: {:?}", verified.findings);
            let reader = driven.store.reader();
            for at in reader.first_kept().0..=report.last_sequence {
                let event =
                    reader.event(Sequence(at)).expect("readable").expect("visible").event().to_event();
                assert_eq!(event, acknowledged.1[at as usize - 1].event, "step {step} {fault:?}");
            }
        }
    }
    assert!(failed > steps, "{failed} of {} faults were felt", 2 * steps);
}

/// The same, and a third life that ends before its events are in tables: the log alone has them, and the idle block behind them
/// says that they are there.
fn live_and_die(disk: &SimDisk, acknowledged: &mut (u64, Vec<Placed>)) {
    if !live(disk, acknowledged) {
        return;
    }
    let events = acknowledged.1.clone();
    let opened = Driven::open(Arc::new(disk.clone()), small_options(), events, 2);
    let Some(mut driven) = opened.ok().map(|(driven, _)| driven) else { return };
    if driven.head.last_sequence.0 != acknowledged.0 {
        return;
    }
    for _ in 0..3 {
        driven.append(2, true);
        *acknowledged = (driven.head.last_sequence.0, driven.events.clone());
    }
    driven.writer.idle().expect("idle");
}

/// The device reports success, and the bytes are elsewhere in the file: over its header, in the middle of a block, over another
/// block, behind its end.
#[test]
fn a_write_that_lands_elsewhere_is_noticed_or_costs_nothing_that_was_acknowledged() {
    let plain = SimDisk::new(7);
    live_and_die(&plain, &mut (0, Vec::new()));
    let trace = plain.describe_trace();
    let (mut refused, mut found, mut harmless) = (0, 0, 0);
    for (step, line) in trace.iter().enumerate().filter(|(_, line)| line.starts_with("write")) {
        for elsewhere in [0, 512, 4096, 20 << 10] {
            let context = format!("{line}, which went to {elsewhere}");
            let disk = SimDisk::new(7);
            disk.fail_at(step, Fault::MisdirectTo(elsewhere));
            let mut acknowledged = (0, Vec::new());
            live_and_die(&disk, &mut acknowledged);
            disk.kill();
            let opened = Driven::open(Arc::new(copy(&disk)), small_options(), Vec::new(), 1);
            let (driven, report) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    let text = error.to_string();
                    let named = ["wal", "manifest", "the log ends at sequence"];
                    assert!(named.iter().any(|part| text.contains(part)), "{context}: {text}");
                    refused += 1;
                    continue;
                }
            };
            assert!(report.last_sequence >= acknowledged.0, "{context}: {report}");
            let findings = driven.store.verify(&mut |_| {}).expect("verified").findings;
            let reader = driven.store.reader();
            for at in reader.first_kept().0..=report.last_sequence {
                let event = match reader.event(Sequence(at)) {
                    Ok(event) => event.expect("visible").event().to_event(),
                    Err(error) => {
                        assert!(!findings.is_empty(), "{context}: only a reader noticed: {error}");
                        continue;
                    }
                };
                assert_eq!(event, acknowledged.1[at as usize - 1].event, "{context}");
            }
            *(if findings.is_empty() { &mut harmless } else { &mut found }) += 1;
        }
    }
    assert!(refused > 100 && found > 50, "{refused} were refused, {found} found, {harmless} harmless");
}

#[test]
fn a_manifest_that_lost_its_end_does_not_cost_the_tables_it_named() {
    let (healthy, _) = store(5, TAPE);
    let disk = copy(&healthy);
    // The oldest segments were released: only tables have their events.
    let segments = files(&disk, SealedSegment);
    disk.remove(&segments[0]).expect("removed");
    // Behind the first record, as if no table had ever been named.
    disk.edit(Path::new("manifest"), |bytes| bytes.truncate(100));
    let tables = files(&disk, Events);
    let error = EventStore::open(Arc::new(disk.clone()), options(), projections()).expect_err("a gap");
    assert!(matches!(error, OpenError::LogGap { .. }), "{error}");
    assert_eq!(files(&disk, Events), tables, "what the manifest does not name is not removed");
}

#[test]
fn a_directory_that_cannot_be_written_is_named_and_can_still_be_read() {
    let (healthy, events) = store(5, TAPE);
    let disk = copy(&healthy);
    for step in 0..200 {
        disk.fail_at(step, Fault::Eio);
    }
    let error = EventStore::open(Arc::new(disk.clone()), options(), projections()).expect_err("not writable");
    assert!(error.to_string().starts_with("cannot "), "{error}");
    disk.kill();
    let before = disk.operations();
    let store = ReadOnlyStore::open(Arc::new(disk.clone()), ReadOnlyOptions::default()).expect("readable");
    assert_eq!(store.reader().visible().0, events.len() as u64);
    assert!(store.verify(&mut |_| {}).expect("verified").is_sound());
    assert_eq!(disk.operations(), before, "nothing was even tried");
}

#[test]
fn a_second_process_is_told_who_has_the_store() {
    let (disk, _) = store(5, TAPE);
    let (first, _) = EventStore::open(Arc::new(disk.clone()), options(), projections()).expect("opened");
    let error = EventStore::open(Arc::new(disk.clone()), options(), projections()).expect_err("in use");
    assert!(matches!(error, OpenError::Lock(_)));
    let text = error.to_string();
    assert!(text.contains("lock") && text.contains(&format!("process {}", std::process::id())), "{text}");
    drop(first);
    EventStore::open(Arc::new(disk), options(), projections()).expect("free again");
}
