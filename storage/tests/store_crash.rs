//! The store loses power, or its process, at every operation of a recorded run with flushes, snapshots, compaction,
//! retention, backups and restarts in it, and is judged by what it then answers: what was acknowledged is there, what is there
//! is a prefix of what was accepted, and every question has the answer a plain list gives. A backup that was finished is
//! whole, one that was not is whole or no store.

mod model;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use matchtape_schemas::*;
use matchtape_storage::sim::{Fault, PowerLoss, Random, SimDisk};
use matchtape_storage::wal::SyncPolicy;
use matchtape_storage::{
    Disk, DiskBelow, EventStore, ReadOnlyOptions, ReadOnlyStore, RetentionPolicy, StoreMistakes,
    StoreOptions, limits,
};
use model::*;

/// A recorded run.
struct Run {
    disk: SimDisk,
    events: Vec<Placed>,
    /// (operations when the promise was made, last event acknowledged as durable)
    promised: Vec<(usize, Sequence)>,
    /// (operations before a commit, last event accepted with it)
    accepted: Vec<(usize, Sequence)>,
    /// Files that retention has removed.
    dropped: usize,
    backups: Vec<Backup>,
}

/// A backup by hard links beside the store, on the same disk.
struct Backup {
    directory: String,
    /// Operations when it was finished.
    finished: usize,
    through: Sequence,
}

fn back_up(disk: &SimDisk, store: &EventStore, directory: &str) -> Backup {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let target: Arc<dyn Disk> = Arc::new(DiskBelow::create(&shared, directory).expect("created"));
    let link = |path: &Path| disk.hard_link(path, &Path::new(directory).join(path)).map(|()| true);
    let report = store.copy_to(&target, Some(&link), &mut |_| {}).expect("backed up");
    assert!(report.linked > 0, "{report:?}");
    let (directory, through) = (directory.to_owned(), Sequence(report.through));
    Backup { directory, finished: disk.operations(), through }
}

/// Drops what is older than about fifty events, and the log that tables have.
pub fn small_retention() -> RetentionPolicy {
    RetentionPolicy {
        age: Some(Duration::from_nanos(50)),
        snapshot_gap_bytes: 4 << 10,
        ..RetentionPolicy::default()
    }
}

/// Appends, flushes, drops what is old, restarts; `prepare` may plan faults.
fn record(seed: u64, options: &StoreOptions, prepare: impl FnOnce(&SimDisk)) -> Run {
    let disk = SimDisk::new(seed);
    prepare(&disk);
    let mut run = Run {
        disk: disk.clone(),
        events: Vec::new(),
        promised: Vec::new(),
        accepted: Vec::new(),
        dropped: 0,
        backups: Vec::new(),
    };
    for life in 0..3 {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let events = std::mem::take(&mut run.events);
        let (mut driven, _) = Driven::open(shared, options.clone(), events, seed + life)
            .unwrap_or_else(|error| panic!("life {life}: {error}"));
        for step in 0..9 {
            let before = disk.operations();
            let frames = 1 + driven.random.below(3);
            driven.append(frames, true);
            run.accepted.push((before, driven.head.last_sequence));
            run.promised.push((disk.operations(), driven.head.last_sequence));
            if step % 2 == 1 {
                driven.store.flush().expect("flushed");
                let now = AcceptedTime(driven.events.len() as i64);
                let choice = driven.store.retain(&small_retention(), now).expect("old files go");
                run.dropped += choice.dropped.len();
            }
            if step % 4 == 3 {
                driven.store.compact(&mut |_| true).expect("compacted");
            }
            if step == 4 {
                run.backups.push(back_up(&disk, &driven.store, &format!("backup-{life}")));
            }
        }
        let Driven { store, writer, events, .. } = driven;
        run.events = events;
        if life == 0 {
            writer.close().expect("closed");
            store.close().expect("closed");
        } else {
            drop((store, writer));
            disk.kill();
        }
    }
    run
}

impl Run {
    fn promised_at(&self, operation: usize) -> Sequence {
        let made = self.promised.iter().rev().find(|(at, _)| *at <= operation);
        made.map_or(Sequence::ZERO, |(_, last)| *last)
    }

    fn accepted_at(&self, operation: usize) -> Sequence {
        let begun = self.accepted.iter().rev().find(|(at, _)| *at <= operation);
        begun.map_or(Sequence::ZERO, |(_, last)| *last)
    }
}

/// Opens what is left and says everything that is wrong with it; the disk, as recovery leaves it, is returned.
fn judge(
    disk: &SimDisk,
    options: &StoreOptions,
    run: &Run,
    operation: usize,
    queries: usize,
) -> Result<(), String> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (mut driven, report) = Driven::open(shared, options.clone(), Vec::new(), operation as u64)
        .map_err(|error| format!("recovery refused: {error}"))?;
    let last = driven.head.last_sequence;
    if last < run.promised_at(operation) {
        return Err(format!(
            "recovered through {last}, {} was promised; {report}",
            run.promised_at(operation)
        ));
    }
    if last > run.accepted_at(operation) {
        return Err(format!("recovered through {last}, {} was accepted", run.accepted_at(operation)));
    }
    let events = &run.events[..last.0 as usize];
    if events.last().is_some_and(|placed| !placed.event.flags.contains(EventFlags::LAST_OF_GROUP)) {
        return Err(format!("{last} is inside a group"));
    }
    let mut random = Random::new(operation as u64);
    let reader = driven.store.reader();
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        check_reader(&reader, events, &mut random, queries);
        assert_eq!(driven.store.projection_section("digest"), Some(&*Digest::of(events).bytes()));
        let verified = driven.store.verify(&mut |_| {}).expect("readable");
        assert!(verified.is_sound(), "{:?}", verified.findings);
        check_facts(&driven.store);
    }));
    if let Err(panic) = checked {
        let text = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a check failed".to_owned());
        return Err(text);
    }
    judge_backups(disk, run, operation, &mut random)?;
    // It goes on from there.
    driven.events = events.to_vec();
    driven.append(1, true);
    driven.store.flush().map_err(|error| error.to_string())?;
    driven.store.compact(&mut |_| true).map_err(|error| error.to_string())?;
    let events = driven.events.clone();
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        check_reader(&driven.store.reader(), &events, &mut random, 1);
    }));
    checked.map_err(|_| "after going on, a check failed".to_owned())
}

/// Backups that were finished before `operation` hold what was promised of them; others may be there whole.
fn judge_backups(disk: &SimDisk, run: &Run, operation: usize, random: &mut Random) -> Result<(), String> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    for backup in &run.backups {
        let below = DiskBelow::open(&shared, &backup.directory).map_err(|error| error.to_string())?;
        let opened = below.map(|below| ReadOnlyStore::open(Arc::new(below), ReadOnlyOptions::default()));
        let store = match opened {
            Some(Ok(store)) => store,
            None if operation < backup.finished => continue,
            Some(Err(_)) if operation < backup.finished => continue,
            None => return Err(format!("{} is gone", backup.directory)),
            Some(Err(error)) => return Err(format!("{}: {error}", backup.directory)),
        };
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            assert_eq!(store.head().last_sequence, backup.through);
            check_reader(&store.reader(), &run.events[..backup.through.0 as usize], random, 1);
            let verified = store.verify(&mut |_| {}).expect("readable");
            assert!(verified.is_sound(), "{:?}", verified.findings);
        }));
        if let Err(panic) = checked {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            return Err(format!("{}: {text}", backup.directory));
        }
    }
    Ok(())
}

/// What is known of segments reaches without a hole from the first event to the open segment, and is true.
fn check_facts(store: &EventStore) {
    let mut next = Sequence::FIRST;
    let first_kept = store.reader().first_kept();
    for facts in store.segment_facts() {
        assert_eq!(facts.first, next, "no segment went unrecorded");
        next = facts.last.next();
        if facts.first < first_kept {
            continue;
        }
        let mut hasher = blake3::Hasher::new();
        let (mut frames, mut bytes) = (0, 0);
        let mut cursor = store.reader().frames(facts.first).expect("kept");
        while let Some(handle) = cursor.next_frame().expect("readable") {
            let frame = handle.frame();
            if frame.first_sequence() > facts.last {
                break;
            }
            hasher.update(frame.bytes());
            (frames, bytes) = (frames + 1, bytes + frame.bytes().len() as u64);
        }
        assert_eq!((frames, bytes), (facts.frames, facts.frame_bytes));
        assert_eq!(facts.root.0, *hasher.finalize().as_bytes(), "segment {}", facts.number);
    }
    let open = store.segments().list().pop().expect("a log has a segment");
    assert_eq!(open.first_sequence(), next, "no segment went unrecorded");
}

fn violations(run: &Run, options: &StoreOptions, seeds: u64, enough: usize) -> Vec<String> {
    let mut found = Vec::new();
    run.disk.for_each_crash_point(|point| {
        if found.len() >= enough {
            return;
        }
        let seeded = (0..seeds).map(|seed| PowerLoss::Seeded(seed * 7919 + point.operation as u64));
        let choices = [PowerLoss::LoseUnsynced, PowerLoss::KeepUnsynced].into_iter().chain(seeded);
        for choice in choices {
            if let Err(wrong) = judge(&point.power_loss(choice), options, run, point.operation, 3) {
                found.push(format!("operation {} {choice:?}: {wrong}", point.operation));
            }
        }
        if let Err(wrong) = judge(&point.killed(), options, run, point.operation, 3) {
            found.push(format!("operation {} killed: {wrong}", point.operation));
        }
    });
    found
}

#[test]
fn a_crash_at_any_moment_loses_nothing_acknowledged_and_every_answer_stays_right() {
    let options = small_options();
    let run = record(1, &options, |_| {});
    assert!(run.dropped > 6, "{} files were dropped on the way", run.dropped);
    assert_eq!(run.backups.len(), 3);
    let traced = |part: &str| run.disk.describe_trace().iter().filter(|line| line.contains(part)).count();
    for part in [".wal.new to", ".events.new to", ".index.new to", ".snapshot.new to", "manifest.new to"] {
        assert!(traced(part) > 2, "{} of {part}", traced(part));
    }
    let found = violations(&run, &options, 2, 3);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Segments of a few commits, let go of as soon as tables have them.
fn releasing_options() -> StoreOptions {
    let mut options = StoreOptions { log_kept_bytes: 0, ..small_options() };
    options.wal.segment_bytes = limits::SEGMENT_BYTES_MIN;
    options
}

#[test]
fn a_crash_while_the_log_is_let_go_of_and_its_files_are_used_again_loses_nothing() {
    let options = releasing_options();
    let run = record(5, &options, |_| {});
    let trace = run.disk.describe_trace();
    let count = |begin: &str, part: &str| {
        trace.iter().filter(|line| line.starts_with(begin) && line.contains(part)).count()
    };
    // Everything a store does to its disk is in it.
    assert!(count("rename", ".new to wal/") > 6, "segments were begun");
    assert!(count("rename", ".wal.free") > 6 && count("rename", ".free to") > 2, "let go of, and used again");
    assert!(count("create", ".events") > 6 && count("create", ".snapshot") > 3, "flushed, with snapshots");
    assert!(count("remove tables/", ".index") > 4, "merged");
    assert!(run.dropped > 6 && run.backups.len() == 3, "{} files were dropped", run.dropped);
    let found = violations(&run, &options, 1, 3);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_log_that_goes_before_its_facts_are_recorded_is_noticed() {
    let mistakes = StoreMistakes { log_goes_before_the_manifest: true, ..StoreMistakes::default() };
    let options = StoreOptions { mistakes, ..releasing_options() };
    let run = record(5, &options, |_| {});
    assert!(!violations(&run, &options, 0, 1).is_empty());
}

/// One life that shows everything at once and flushes often; where commits are not synced, it syncs now and then.
fn record_one_life(seed: u64, options: &StoreOptions) -> Run {
    let disk = SimDisk::new(seed);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (mut driven, _) = Driven::open(shared, options.clone(), Vec::new(), seed).expect("opened");
    let (mut promised, mut accepted) = (Vec::new(), Vec::new());
    for step in 0..16 {
        let before = disk.operations();
        driven.append(2, true);
        accepted.push((before, driven.head.last_sequence));
        if step % 5 == 4 {
            driven.writer.sync().expect("synced");
            driven.store.made_durable(driven.writer.durable_group_end());
        }
        promised.push((disk.operations(), driven.writer.durable_group_end()));
        if step % 3 == 2 {
            driven.store.flush().expect("flushed");
            assert!(
                driven.store.flushed_through() <= driven.writer.durable()
                    || options.mistakes.flush_overtakes_the_log
            );
        }
    }
    assert!(driven.store.flushed_through() > Sequence::ZERO);
    Run { disk, events: driven.events.clone(), promised, accepted, dropped: 0, backups: Vec::new() }
}

#[test]
fn tables_never_overtake_the_log_where_readers_see_what_is_not_durable() {
    let mut options = releasing_options();
    options.wal.sync = SyncPolicy::None;
    let run = record_one_life(6, &options);
    let found = violations(&run, &options, 2, 3);
    assert!(found.is_empty(), "{}", found.join("\n"));
    let mut overtaking = options.clone();
    overtaking.mistakes.flush_overtakes_the_log = true;
    let run = record_one_life(6, &overtaking);
    assert!(!violations(&run, &options, 0, 1).is_empty(), "the judge would notice");
}

#[test]
fn a_checkpoint_that_removes_the_segment_still_written_is_noticed() {
    // One segment, which is not sealed.
    let mut honest = StoreOptions { log_kept_bytes: 0, ..small_options() };
    honest.wal.segment_bytes = 1 << 20;
    let found = violations(&record_one_life(7, &honest), &honest, 1, 3);
    assert!(found.is_empty(), "{}", found.join("\n"));
    let mut mistaken = honest.clone();
    mistaken.wal.mistakes.release_the_open_segment = true;
    let found = violations(&record_one_life(7, &mistaken), &honest, 1, 3);
    let noticed = |wrong: &String| wrong.contains("the log is missing: no segment in wal");
    assert!(!found.is_empty() && found.iter().all(noticed), "{}", found.join("\n"));
}

#[test]
fn a_second_crash_while_recovering_from_the_first_is_as_safe() {
    let options = small_options();
    let run = record(2, &options, |_| {});
    let mut tried = 0;
    run.disk.for_each_crash_point(|point| {
        if !point.operation.is_multiple_of(9) {
            return;
        }
        let first = point.power_loss(PowerLoss::Seeded(point.operation as u64));
        let before = first.operations();
        let opened =
            Driven::open(Arc::new(first.clone()), options.clone(), Vec::new(), 1).expect("recovered");
        drop(opened);
        for operation in before..=first.operations() {
            let second = first.crash_at(operation, PowerLoss::Seeded(operation as u64));
            if let Err(wrong) = judge(&second, &options, &run, point.operation, 1) {
                panic!("operation {}, then {operation}: {wrong}", point.operation);
            }
            tried += 1;
        }
    });
    assert!(tried > 100, "{tried}");
}

/// The operations that sync tables and snapshots.
fn table_syncs(disk: &SimDisk) -> Vec<usize> {
    let trace = disk.describe_trace();
    let created = trace.iter().filter_map(|line| line.strip_prefix("create tables/")?.split_once(" as "));
    let files: Vec<String> = created.map(|(_, file)| format!("sync {file}")).collect();
    (0..trace.len()).filter(|operation| files.contains(&trace[*operation])).collect()
}

#[test]
fn a_device_that_ignores_the_syncs_of_tables_is_noticed() {
    let options = small_options();
    let run = record(3, &options, |_| {});
    let syncs = table_syncs(&run.disk);
    assert!(syncs.len() > 6, "{syncs:?} in {:?}", run.disk.describe_trace());
    let lying = record(3, &options, |disk| {
        for operation in &syncs {
            disk.fail_at(*operation, Fault::SyncIgnored);
        }
    });
    assert!(!violations(&lying, &options, 1, 1).is_empty());
}

/// The operations that compaction alone does: it makes index tables of a higher level, and event tables of others.
#[test]
fn the_recorded_run_merges_index_tables_event_tables_and_removes_what_they_were_made_of() {
    let run = record(1, &small_options(), |_| {});
    let trace = run.disk.describe_trace();
    let removed = |kind: &str| {
        let gone = |line: &&String| line.starts_with("remove tables/") && line.contains(kind);
        trace.iter().filter(gone).count()
    };
    assert!(removed(".index") > 4 && removed(".events") > 4, "{trace:?}");
    let options = small_options();
    let (driven, _) = Driven::open(Arc::new(run.disk.clone()), options, Vec::new(), 1).expect("recovered");
    let inspection = driven.store.inspect();
    assert!(inspection.index_tables.iter().any(|table| table.level > 0), "{inspection:?}");
}

#[test]
fn file_numbers_that_begin_anew_are_noticed() {
    let options = StoreOptions {
        mistakes: StoreMistakes { file_numbers_restart: true, ..Default::default() },
        ..small_options()
    };
    let run = record(4, &options, |_| {});
    let found = violations(&run, &options, 0, 3);
    // A table that the manifest names is another one by now.
    let noticed = |wrong: &String| wrong.contains("damaged table: tables/");
    assert!(!found.is_empty() && found.iter().all(noticed), "{}", found.join("\n"));
}

#[test]
fn files_that_go_before_the_manifest_has_let_go_of_them_are_noticed() {
    let mistakes = StoreMistakes { files_go_before_the_manifest: true, ..StoreMistakes::default() };
    let options = StoreOptions { mistakes, ..small_options() };
    let run = record(1, &options, |_| {});
    assert!(!violations(&run, &options, 0, 1).is_empty());
}
