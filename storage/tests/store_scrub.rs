//! Damage to files of a store that is open is found by reading them again, named, and stops nothing.

mod model;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use matchtape_schemas::*;
use matchtape_storage::sim::SimDisk;
use matchtape_storage::{
    CompactionOptions, Disk, EventStore, RealDisk, RetentionPolicy, ScrubMarks, ScrubOptions, StoreOptions,
    Workers,
};
use model::*;

const FLUSHES: u64 = 6;

/// The log keeps what it has.
fn options() -> StoreOptions {
    StoreOptions { log_kept_bytes: u64::MAX, ..small_options() }
}

/// A scrub that never rests, at full speed.
fn always() -> StoreOptions {
    let scrub = ScrubOptions { bytes_per_second: u64::MAX, every: Duration::ZERO };
    StoreOptions { workers: Workers::Threads, scrub, ..options() }
}

/// A store of several tables and segments, open.
fn driven(disk: Arc<dyn Disk>, options: StoreOptions) -> Driven {
    let (mut driven, _) = Driven::open(disk, options, Vec::new(), 3).expect("a store is created");
    for _ in 0..FLUSHES {
        (0..6).for_each(|_| driven.append(3, true));
        driven.store.flush().expect("flushed");
    }
    driven
}

/// The oldest file of each kind that the scrub reads.
fn one_of_each(disk: &dyn Disk) -> Vec<PathBuf> {
    let of = |directory: &str, extension: &str| {
        let entries = disk.list(Path::new(directory)).expect("listed");
        let oldest = entries.into_iter().find(|entry| entry.name.ends_with(extension)).expect("one of each");
        Path::new(directory).join(oldest.name)
    };
    vec![of("wal", ".wal"), of("tables", ".events"), of("tables", ".index"), of("tables", ".snapshot")]
}

/// Whether the one file, and a place in it, and what was expected and found there, are named.
fn names(marks: &ScrubMarks, file: &Path) -> bool {
    match marks.damaged.as_slice() {
        [finding] => {
            Path::new(&finding.file) == file
                && finding.offset.is_some()
                && finding.what.contains("expected")
                && finding.what.contains("found")
        }
        _ => false,
    }
}

/// Looks until `found`; a round takes milliseconds.
fn marks_when(store: &EventStore, found: impl Fn(&ScrubMarks) -> bool) -> ScrubMarks {
    let begun = Instant::now();
    loop {
        let marks = store.gauge().scrub();
        if found(&marks) {
            return marks;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{marks:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_sound_store_is_read_whole_and_nothing_is_found() {
    let disk = SimDisk::new(1);
    let driven = driven(Arc::new(disk.clone()), options());
    let marks = driven.store.scrub();
    assert_eq!((marks.rounds, marks.unread_files, &*marks.damaged), (1, 0, &[][..]));
    let inspection = driven.store.inspect();
    let sealed = inspection.segments.iter().filter(|segment| segment.root.is_some());
    let tables = [inspection.event_tables.len(), inspection.index_tables.len(), inspection.snapshots.len()];
    let segments: Vec<u64> = sealed.filter_map(|segment| segment.bytes).collect();
    let sealed = segments.len();
    assert!(sealed > 2 && tables.iter().all(|count| *count > 0), "{sealed} {tables:?}");
    assert_eq!(marks.files, (sealed + tables.iter().sum::<usize>()) as u64);
    let bytes: u64 = segments.iter().sum::<u64>()
        + inspection.event_tables.iter().map(|table| table.bytes).sum::<u64>()
        + inspection.index_tables.iter().map(|table| table.bytes).sum::<u64>()
        + inspection.snapshots.iter().map(|file| file.bytes).sum::<u64>();
    // A block is read anew where the index, and so the place, jumps.
    assert!((bytes..2 * bytes).contains(&marks.bytes), "{marks:?} of {bytes}");
    assert_eq!(driven.store.scrub().rounds, 2);
}

#[test]
fn any_flipped_bit_is_found_and_named_by_the_next_round_and_by_none_after_it_is_mended() {
    let disk = SimDisk::new(1);
    let mut driven = driven(Arc::new(disk.clone()), options());
    // What lookups have read, and what the page cache and the block cache have of it, hides nothing.
    driven.check(40);
    for path in one_of_each(&disk) {
        let bytes = disk.content(&path).expect("there").len() as u64;
        for place in 0..40 {
            let (at, bit) = (place * (bytes - 1) / 39, (place % 8) as u8);
            disk.flip_bit(&path, at, bit);
            let marks = driven.store.scrub();
            let found = marks.damaged.first().is_some_and(|finding| Path::new(&finding.file) == path);
            assert!(found && marks.damaged.len() == 1, "{} byte {at}: {marks:?}", path.display());
            disk.flip_bit(&path, at, bit);
        }
        assert_eq!(driven.store.scrub().damaged, []);
        disk.flip_bit(&path, bytes / 3, 1);
        let marks = driven.store.scrub();
        assert!(names(&marks, &path), "{marks:?}");
        // It stops nothing.
        driven.append(3, true);
        assert!(driven.store.health().is_ok());
        disk.flip_bit(&path, bytes / 3, 1);
    }
    assert_eq!(driven.store.scrub().damaged, []);
    driven.store.flush().expect("flushed");
    driven.check(40);
}

#[test]
fn sectors_that_cannot_be_read_and_files_that_are_gone_are_damage() {
    let disk = SimDisk::new(1);
    let driven = driven(Arc::new(disk.clone()), options());
    let paths = one_of_each(&disk);
    disk.make_unreadable(&paths[0], 8192..12288);
    disk.make_unreadable(&paths[1], 100..101);
    disk.remove(&paths[2]).expect("removed");
    let damaged = driven.store.scrub().damaged;
    let named: Vec<&Path> = damaged.iter().map(|finding| Path::new(&finding.file)).collect();
    assert_eq!(named, paths[..3].iter().map(PathBuf::as_path).collect::<Vec<_>>(), "{damaged:?}");
}

#[test]
fn a_file_that_may_not_be_opened_just_now_is_no_damage_and_is_counted() {
    let disk = SimDisk::new(1);
    let driven = driven(Arc::new(disk.clone()), options());
    let paths = one_of_each(&disk);
    let all = driven.store.scrub().files;
    disk.forbid(&paths);
    let marks = driven.store.scrub();
    assert_eq!((marks.files, marks.unread_files, &*marks.damaged), (2 * all - 4, 4, &[][..]));
    disk.forbid(&[]);
    let marks = driven.store.scrub();
    assert_eq!((marks.files, marks.unread_files, &*marks.damaged), (3 * all - 4, 4, &[][..]));
}

#[test]
fn damage_is_forgotten_with_the_file_that_had_it() {
    let disk = SimDisk::new(1);
    let mut driven = driven(Arc::new(disk.clone()), options());
    let paths = one_of_each(&disk);
    for path in &paths[..2] {
        disk.flip_bit(path, 5000, 1);
    }
    assert_eq!(driven.store.scrub().damaged.len(), 2);
    driven.store.release_log(Sequence::MAX).expect("let go of");
    assert!(names(&driven.store.gauge().scrub(), &paths[1]));
    let policy = RetentionPolicy {
        age: Some(Duration::from_nanos(20)),
        snapshot_gap_bytes: 0,
        ..RetentionPolicy::default()
    };
    driven.append(3, true);
    driven.store.flush().expect("flushed");
    driven.store.retain(&policy, AcceptedTime(driven.events.len() as i64)).expect("dropped");
    assert_eq!(driven.store.gauge().scrub().damaged, []);
    assert_eq!(driven.store.scrub().damaged, []);
}

#[test]
fn the_thread_of_a_store_in_a_real_directory_finds_a_bit_that_flips_while_it_serves() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = RealDisk::create(folder.path()).expect("created");
    // Nothing is merged away before it is found.
    let compaction =
        CompactionOptions { level0_tables: 1000, small_event_table_bytes: 0, ..small_compaction() };
    let mut driven = driven(Arc::new(disk), StoreOptions { compaction, ..always() });
    let sound = marks_when(&driven.store, |marks| marks.rounds >= 3);
    assert_eq!((&*sound.damaged, sound.unread_files), (&[][..], 0));
    let disk = RealDisk::open(folder.path()).expect("there");
    for path in one_of_each(&disk) {
        let file = std::fs::File::options().read(true).write(true).open(folder.path().join(&path));
        let file = file.expect("there");
        let at = file.metadata().expect("known").len() / 3;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        file.write_all_at(&[byte[0] ^ 4], at).expect("written");
        marks_when(&driven.store, |marks| names(marks, &path));
        driven.append(2, true);
        assert!(driven.store.health().is_ok());
        file.write_all_at(&byte, at).expect("written");
        marks_when(&driven.store, |marks| marks.damaged.is_empty());
    }
}

#[test]
fn what_retention_merging_and_the_log_let_go_of_meanwhile_is_no_damage() {
    let disk = SimDisk::new(1);
    let log_kept_bytes = 128 << 10;
    let mut driven = driven(Arc::new(disk.clone()), StoreOptions { log_kept_bytes, ..always() });
    let policy = RetentionPolicy {
        age: Some(Duration::from_nanos(300)),
        snapshot_gap_bytes: 0,
        ..RetentionPolicy::default()
    };
    let mut rounds = 0;
    while rounds < 200 {
        (0..3).for_each(|_| driven.append(3, true));
        driven.store.flush().expect("flushed");
        let now = AcceptedTime(driven.events.len() as i64);
        driven.store.retain(&policy, now).expect("dropped");
        let marks = driven.store.gauge().scrub();
        assert_eq!((&*marks.damaged, marks.unread_files), (&[][..], 0));
        rounds = marks.rounds;
    }
    assert!(driven.store.reader().first_kept() > Sequence(100));
    assert!(driven.store.segments().first_sequence() > Some(Sequence(100)));
}

#[test]
fn a_store_closes_at_once_in_the_middle_of_a_scrub_that_would_take_days() {
    let disk = SimDisk::new(1);
    drop(driven(Arc::new(disk.clone()), options()));
    disk.kill();
    let scrub = ScrubOptions { bytes_per_second: 1, every: Duration::ZERO };
    let options = StoreOptions { workers: Workers::Threads, scrub, ..options() };
    let (store, _) = EventStore::open(Arc::new(disk.clone()), options, projections()).expect("opened");
    let gauge = store.gauge();
    marks_when(&store, |marks| marks.bytes > 0);
    store.close().expect("closed");
    let marks = gauge.scrub();
    assert_eq!((marks.rounds, &*marks.damaged), (0, &[][..]), "what was broken off says nothing");
    drop(gauge);
    assert_eq!(disk.open_files(), 0);
}

#[test]
fn no_scrub_is_asked_for_and_none_reads() {
    let disk = SimDisk::new(1);
    let scrub = ScrubOptions { bytes_per_second: 0, ..ScrubOptions::default() };
    let driven = driven(Arc::new(disk.clone()), StoreOptions { scrub, ..always() });
    assert_eq!(driven.store.gauge().scrub(), ScrubMarks::default());
}
