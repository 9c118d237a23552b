//! Damage that is not a torn tail: each kind is refused with the file, the place, what was expected and what was found,
//! and nothing on the disk is changed.

mod fuzzed;
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use matchtape_schemas::{FrameFlags, Head, Sequence, TapeId};
use matchtape_storage::sim::{Fault, PowerLoss, SimDisk};
use matchtape_storage::wal::{self, ClusterId, CutReason, OpenedWal, WalConfig, WalError, WalReader};
use matchtape_storage::{Disk, limits};
use proptest::prelude::*;
use support::{FrameMaker, TAPE, finished_log, small_config};

fn open(disk: &SimDisk, config: &WalConfig) -> Result<OpenedWal, WalError> {
    wal::open(Arc::new(disk.clone()), config.clone())
}

/// A log of some sealed segments and an open one with commits at blocks 1, 2, ... and, at the end, an idle block.
fn written(idle: bool) -> SimDisk {
    let (disk, _) = finished_log(5);
    let opened = open(&disk, &small_config()).expect("opened");
    if idle {
        // The block that proves the last commit.
        let mut writer = opened.writer;
        writer.idle().expect("idle");
    }
    disk
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_is_damaged_nothing_is_recovered_that_was_not_written(
        damages in proptest::collection::vec((any::<u8>(), any::<u16>(), proptest::collection::vec(any::<u8>(), 1..40)), 1..4),
    ) {
        support::survive_any(&damages);
    }
}

#[test]
fn what_the_fuzzer_has_kept_of_logs_is_survived() {
    fuzzed::replay("log", |damages: Vec<support::Damage>| support::survive_any(&damages));
}

fn segment(number: u64) -> PathBuf {
    PathBuf::from(format!("wal/{number:012}.wal"))
}

fn snapshot(disk: &SimDisk) -> Vec<(String, Option<Vec<u8>>)> {
    let entries = disk.list(Path::new("wal")).expect("listed");
    entries
        .into_iter()
        .map(|entry| (entry.name.clone(), disk.content(&Path::new("wal").join(&entry.name))))
        .collect()
}

/// Opens the damaged log; expects refusal, with these words in it, and an untouched disk.
#[track_caller]
fn refused(disk: &SimDisk, words: &[&str]) {
    let before = snapshot(disk);
    let error = open(disk, &small_config()).expect_err("damage is refused").to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
    assert_eq!(snapshot(disk), before, "nothing was changed");
}

/// Where commits start in the open segment.
fn commits(disk: &SimDisk, number: u64) -> Vec<u64> {
    let content = disk.content(&segment(number)).expect("there");
    let blocks = (1..content.len() / 4096).map(|block| block * 4096);
    blocks.filter(|at| content[*at..].starts_with(b"MTCOMMIT")).map(|at| at as u64).collect()
}

#[test]
fn a_flipped_bit_in_a_proven_commit_is_corruption_with_its_place() {
    let healthy = written(true);
    let places = commits(&healthy, 3);
    assert!(places.len() >= 5);
    for place in &places[..places.len() - 1] {
        for (inside, part) in [(3, "commit magic"), (40, "commit header checksum"), (128 + 100, "frame")] {
            let disk = written(true);
            disk.flip_bit(&segment(3), place + inside, 2);
            // A frame's own place is after the commit header.
            let at = if part == "frame" { place + 128 } else { *place };
            let place = format!("wal/000000000003.wal at byte {at}: {part}: expected");
            refused(&disk, &["corrupt log", &place, "found", "was durable"]);
        }
    }
}

#[test]
fn a_zeroed_commit_in_the_middle_is_corruption_not_the_end() {
    let disk = written(true);
    let place = commits(&disk, 3)[1];
    let at = place as usize;
    disk.edit(&segment(3), |bytes| bytes[at..at + 4096].fill(0));
    refused(
        &disk,
        &[&format!("wal/000000000003.wal at byte {place}: commit: expected commit 2"), "found zeros"],
    );
}

#[test]
fn damage_to_the_last_unproven_commit_is_a_torn_tail_and_cut() {
    let disk = written(false);
    let last = *commits(&disk, 3).last().expect("commits");
    disk.flip_bit(&segment(3), last + 200, 1);
    let opened = open(&disk, &small_config()).expect("a torn tail is no error");
    let cut = opened.report.cut.clone().expect("reported");
    assert_eq!((cut.file.as_str(), cut.offset), ("wal/000000000003.wal", last));
    assert!(matches!(&cut.reason, CutReason::TornTail { damage } if damage.contains("frame")), "{cut:?}");
    assert!(
        disk.content(&segment(3)).expect("there")[last as usize..].iter().all(|byte| *byte == 0),
        "erased"
    );
    let json = serde_json::to_string(&opened.report).expect("the report is JSON");
    assert!(json.contains("torn_tail"), "{json}");
}

#[test]
fn a_shorter_log_than_something_else_remembers_is_refused() {
    let disk = written(false);
    let last = *commits(&disk, 3).last().expect("commits");
    disk.flip_bit(&segment(3), last + 200, 1);
    let known = {
        let whole = written(false);
        open(&whole, &small_config()).expect("opened").head.last_sequence
    };
    let before = snapshot(&disk);
    let error = open(&disk, &WalConfig { known_durable: known, ..small_config() }).expect_err("too short");
    assert!(matches!(error, WalError::Short { known: found, .. } if found == known), "{error}");
    assert_eq!(snapshot(&disk), before);
}

#[test]
fn damaged_headers_and_footers_name_themselves() {
    let disk = written(true);
    disk.flip_bit(&segment(3), 60, 0);
    refused(
        &disk,
        &[
            "wal/000000000003.wal at byte 0: segment header: expected checksum",
            "something was written behind",
        ],
    );

    let disk = written(true);
    disk.flip_bit(&segment(1), 60, 0);
    refused(&disk, &["wal/000000000001.wal at byte 0: segment header", "a later segment was begun"]);

    let disk = written(true);
    disk.edit(&segment(2), |bytes| bytes[..4096].fill(0));
    refused(&disk, &["wal/000000000002.wal at byte 0: segment header: expected a header, found zeros"]);

    let disk = written(true);
    let footer = disk.content(&segment(2)).expect("there").len() as u64 - 4096;
    disk.flip_bit(&segment(2), footer + 100, 0);
    refused(&disk, &[&format!("wal/000000000002.wal at byte {footer}: segment footer: expected checksum")]);

    let disk = written(true);
    disk.edit(&segment(2), |bytes| bytes.truncate(bytes.len() - 4096));
    refused(&disk, &["wal/000000000002.wal at byte", "segment footer"]);
}

#[test]
fn a_missing_or_swapped_segment_is_named() {
    let disk = written(true);
    disk.remove(&segment(2)).expect("removed");
    refused(&disk, &["wal/000000000002.wal is missing: the log goes on with segment 3"]);

    let disk = written(true);
    // The newest begun one, behind which only a prepared one is left.
    disk.remove(&segment(3)).expect("removed");
    refused(&disk, &["wal/000000000003.wal is missing"]);

    let disk = written(true);
    disk.rename(&segment(1), Path::new("wal/aside")).expect("renamed");
    disk.rename(&segment(2), &segment(1)).expect("renamed");
    disk.rename(Path::new("wal/aside"), &segment(2)).expect("renamed");
    refused(&disk, &["segment number: expected"]);
}

#[test]
fn a_segment_of_another_log_or_release_is_told_apart_from_damage() {
    let disk = written(true);
    let other_tape = WalConfig { start: Head::empty(TapeId(78)), ..small_config() };
    let error = open(&disk, &other_tape).expect_err("another tape").to_string();
    assert_eq!(error, format!("wal/000000000003.wal belongs to tape {TAPE}, this log is tape 78"));
    let error =
        open(&disk, &WalConfig { cluster: ClusterId(9), ..small_config() }).expect_err("another cluster");
    assert!(matches!(error, WalError::Foreign { what: "cluster", expected: 9, found: 0, .. }), "{error}");

    // A segment of the same number from another log of the same tape: only the random ids and the roots differ.
    let disk = written(true);
    let stranger = {
        let other = SimDisk::new(99);
        let opened = open(&other, &small_config()).expect("opened");
        let (mut writer, mut maker) = (opened.writer, FrameMaker::new(opened.head, 99));
        while writer.segments().list().len() < 3 {
            let ends = if writer.wants_segment_end() { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
            let buffer = maker.commit(&writer, 2, false, ends);
            writer.commit(buffer).expect("committed");
            writer.maintain().expect("maintained");
        }
        other.content(&segment(2)).expect("there")
    };
    disk.edit(&segment(2), |bytes| *bytes = stranger);
    refused(&disk, &["corrupt log", "previous segment's id"]);

    let disk = written(true);
    let place = commits(&disk, 3)[0];
    for (file, at, bytes, words) in [
        (segment(3), 0, 256, "wal/000000000003.wal at byte 0 has format version 2, this release reads 1"),
        (segment(3), place, 128, "has format version 2, this release reads 1"),
    ] {
        let disk = written(true);
        disk.edit(&file, |content| {
            let header = &mut content[at as usize..at as usize + bytes];
            header[8] = 2;
            let sum = crc32fast::hash(&header[..bytes - 4]);
            header[bytes - 4..].copy_from_slice(&sum.to_le_bytes());
        });
        refused(&disk, &[words]);
    }
}

#[test]
fn bytes_of_an_earlier_life_of_a_segment_never_pass_for_its_own() {
    let disk = written(true);
    let content = disk.content(&segment(2)).expect("there");
    let place = *commits(&disk, 3).last().expect("commits") as usize + 4096;
    // A whole valid commit of segment 2 behind the end of segment 3: the torn remains of nothing, so erased.
    disk.edit(&segment(3), |bytes| bytes[place..place + 4096].copy_from_slice(&content[4096..8192]));
    let opened = open(&disk, &small_config()).expect("opened");
    assert_eq!(opened.report.cut.expect("cut").offset, place as u64);
    // The same in the middle, where it is proven.
    let disk = written(true);
    let middle = commits(&disk, 3)[1] as usize;
    disk.edit(&segment(3), |bytes| bytes[middle..middle + 4096].copy_from_slice(&content[4096..8192]));
    refused(&disk, &["segment id of a commit: expected", &format!("at byte {middle}")]);
}

#[test]
fn a_damaged_sealed_segment_is_found_when_it_is_read_and_when_it_is_verified() {
    let disk = written(true);
    let place = commits(&disk, 1)[2];
    disk.flip_bit(&segment(1), place + 300, 4);
    // Opening does not read sealed segments; time to serve does not grow with history.
    let opened = open(&disk, &small_config()).expect("opened");
    let reader = WalReader::new(Arc::new(disk.clone()), small_config(), opened.segments.clone());
    let sealed = opened.segments.list()[0];
    let error = reader.verify(&sealed).expect_err("damaged").to_string();
    assert!(error.contains("wal/000000000001.wal at byte") && error.contains("checksum"), "{error}");
    let mut frames = reader.frames(Sequence::FIRST, opened.head.last_sequence).expect("opened");
    let error = loop {
        match frames.next_frame() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the damage was passed over"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("known to be durable"), "{error}");
    assert!(reader.verify(&opened.segments.list()[1]).is_ok());
}

#[test]
fn an_unreadable_sector_is_the_disks_error_not_an_end() {
    let disk = written(true);
    let place = commits(&disk, 3)[1];
    disk.make_unreadable(&segment(3), place..place + 512);
    let error = open(&disk, &small_config()).expect_err("unreadable");
    assert!(matches!(&error, WalError::Disk(_)), "{error}");
    assert!(error.to_string().contains("cannot read wal/000000000003.wal at byte"), "{error}");
}

#[test]
fn errors_of_the_disk_at_every_step_of_opening_are_reported_and_harmless() {
    let healthy = written(false);
    let steps = {
        let copy = healthy.kill_at(healthy.operations());
        open(&copy, &small_config()).expect("opened");
        copy.operations()
    };
    assert!(steps > 3);
    let last =
        open(&healthy.kill_at(healthy.operations()), &small_config()).expect("opened").head.last_sequence;
    for fault in [Fault::Eio, Fault::Enospc] {
        for step in 0..steps {
            let disk = healthy.kill_at(healthy.operations());
            disk.fail_at(step, fault);
            // A failure to prepare the next segment is not one to open this one.
            if let Err(error) = open(&disk, &small_config()) {
                assert!(matches!(error, WalError::Disk(_) | WalError::Poisoned(_)), "{error}");
            }
            let again = open(&disk.crash_at(disk.operations(), PowerLoss::KeepUnsynced), &small_config());
            assert_eq!(again.expect("opens afterwards").head.last_sequence, last, "step {step}");
        }
    }
}

#[test]
fn a_full_disk_is_said_before_it_matters_and_loses_nothing() {
    let disk = SimDisk::new(5);
    let opened = open(&disk, &small_config()).expect("opened");
    let (mut writer, mut maker) = (opened.writer, FrameMaker::new(opened.head, 5));
    assert_eq!(writer.space_problem().reason(), None);
    // Room for what exists (a segment and its spare), and not for a third.
    disk.set_capacity(2 * small_config().segment_bytes + 4096);
    while !writer.wants_segment_end() {
        let buffer = maker.commit(&writer, 2, false, FrameFlags::NONE);
        writer.commit(buffer).expect("committed");
    }
    let buffer = maker.commit(&writer, 1, false, FrameFlags::ENDS_SEGMENT);
    writer.commit(buffer).expect("committed");
    writer.maintain().expect("the spare was there");
    let reason = writer.space_problem().reason().expect("there is no further spare");
    assert!(reason.contains("No space left"), "{reason}");
    // The segment does not ask to end while it could not be followed by another, and commits go on fitting into it.
    for _ in 0..3 {
        let buffer = maker.commit(&writer, 2, false, FrameFlags::NONE);
        writer.commit(buffer).expect("there is room in the segment");
    }
    // A segment end that comes all the same (a replica is told where) waits: nothing is written, nothing is lost.
    let buffer = maker.commit(&writer, 1, false, FrameFlags::ENDS_SEGMENT);
    writer.commit(buffer).expect("committed");
    let error = writer.maintain().expect_err("no next segment");
    assert!(error.is_full() && matches!(error, WalError::Disk(_)), "{error}");
    disk.set_capacity(1 << 30);
    writer.maintain().expect("room again");
    assert_eq!(writer.space_problem().reason(), None);
    let buffer = maker.commit(&writer, 1, false, FrameFlags::NONE);
    writer.commit(buffer).expect("committed");
    drop(writer);
    assert_eq!(open(&disk, &small_config()).expect("opened").head, maker.head);
}

#[test]
fn a_next_segment_that_found_no_room_is_tried_again_with_the_next_commit() {
    let disk = SimDisk::new(5);
    disk.set_capacity(small_config().segment_bytes + 4096);
    let opened = open(&disk, &small_config()).expect("opened");
    let (mut writer, mut maker) = (opened.writer, FrameMaker::new(opened.head, 5));
    assert!(writer.space_problem().is_set());
    disk.set_capacity(1 << 30);
    for _ in 0..2 {
        let buffer = maker.commit(&writer, 1, false, FrameFlags::NONE);
        writer.commit(buffer).expect("committed");
    }
    assert_eq!(writer.space_problem().reason(), None, "nobody has to end a segment by force for that");
}

#[test]
fn a_sync_that_fails_while_the_next_segment_is_prepared_ends_the_log_and_is_never_tried_again() {
    let steps = {
        let disk = SimDisk::new(5);
        let created = disk.operations();
        open(&disk, &small_config()).expect("opened");
        disk.describe_trace().split_off(created)
    };
    // Of the second segment: the first one cannot be begun without.
    let preparing = steps.iter().position(|step| step.contains("000000000002.wal.new")).expect("prepared");
    let syncs = (preparing..steps.len()).filter(|step| steps[*step].starts_with("sync"));
    let mut ended = 0;
    for step in syncs {
        let disk = SimDisk::new(5);
        disk.fail_at(step, Fault::Eio);
        let opened = open(&disk, &small_config()).expect("the first segment is there");
        let (mut writer, mut maker) = (opened.writer, FrameMaker::new(opened.head, 5));
        let buffer = maker.commit(&writer, 1, false, FrameFlags::NONE);
        let before = disk.operations();
        let error = writer.commit(buffer).expect_err("the log has ended");
        assert!(
            matches!(&error, WalError::Poisoned(_)) && error.to_string().contains("cannot sync"),
            "{error}"
        );
        assert!(!writer.space_problem().is_set(), "space is not what it lacks");
        assert!(writer.maintain().is_err() && writer.close().is_err());
        assert_eq!(disk.operations(), before, "nothing more is written");
        ended += 1;
    }
    assert_eq!(ended, 2, "the file and its name: {steps:?}");
}

#[test]
fn a_commit_that_only_the_page_cache_has_is_nowhere_after_the_next_opening() {
    let disk = SimDisk::new(5);
    let opened = open(&disk, &small_config()).expect("opened");
    let (mut writer, mut maker) = (opened.writer, FrameMaker::new(opened.head, 5));
    let buffer = maker.commit(&writer, 1, false, FrameFlags::NONE);
    writer.commit(buffer).expect("committed");
    let head = maker.head;
    let buffer = maker.commit(&writer, 2, false, FrameFlags::NONE);
    disk.fail_at(disk.operations() + 1, Fault::Eio);
    writer.commit(buffer).expect_err("its sync failed");
    let shown = disk.content(&segment(1)).expect("there");
    disk.kill();
    assert_eq!(open(&disk, &small_config()).expect("opened").head, head);
    let now = disk.content(&segment(1)).expect("there");
    let device =
        disk.crash_at(disk.operations(), PowerLoss::LoseUnsynced).content(&segment(1)).expect("there");
    assert!(shown != now && now == device, "a reader would find it behind what is appended next");
}

#[test]
fn refused_commits_write_nothing_and_leave_the_log_usable() {
    let disk = SimDisk::new(5);
    let opened = open(&disk, &small_config()).expect("opened");
    let (mut writer, mut maker) = (opened.writer, FrameMaker::new(opened.head, 5));
    let first = maker.commit(&writer, 1, false, FrameFlags::NONE);
    let second = maker.commit(&writer, 1, false, FrameFlags::NONE);
    let operations = disk.operations();
    assert!(matches!(writer.commit(second), Err(WalError::Chain(_))), "out of order");
    assert!(matches!(writer.commit(writer.buffers().take()), Err(WalError::Rule(_))), "empty");
    assert_eq!(disk.operations(), operations);
    writer.commit(first).expect("in order");
    let mut open_end = FrameMaker::new(writer.head(), 6);
    let ends_open = open_end.commit(&writer, 1, true, FrameFlags::ENDS_SEGMENT);
    assert!(
        matches!(writer.commit(ends_open), Err(WalError::Rule(_))),
        "a segment never ends inside a group"
    );
}

#[test]
fn configurations_that_cannot_work_are_refused_in_words() {
    for config in [
        WalConfig { segment_bytes: 4096, ..small_config() },
        WalConfig { segment_bytes: (32 << 10) + 1, ..small_config() },
        WalConfig { commit_bytes: limits::COMMIT_BYTES_MIN - 4096, ..small_config() },
        WalConfig { commit_bytes: limits::COMMIT_BYTES_MAX + 4096, ..small_config() },
    ] {
        let error = open(&SimDisk::new(1), &config).expect_err("refused").to_string();
        assert!(error.contains("is not a multiple of 4096 in"), "{error}");
    }
}

#[test]
fn foreign_files_are_left_alone_and_half_prepared_ones_removed() {
    let disk = written(true);
    for name in ["wal/notes.txt", "wal/000000000009.wal.new"] {
        let file = disk
            .open(Path::new(name), matchtape_storage::Access::CreateNew, matchtape_storage::Caching::Buffered)
            .expect("created");
        file.write_at(b"x", 0).expect("written");
    }
    let report = open(&disk, &small_config()).expect("opened").report;
    assert_eq!(report.ignored, ["notes.txt"]);
    assert_eq!(report.removed, ["000000000009.wal.new"]);
    assert!(disk.content(Path::new("wal/notes.txt")).is_some());
}

/// Told of nothing.
struct Deaf;

impl wal::CommitObserver for Deaf {
    fn committed(&mut self, _: &wal::Committed) {}
    fn durable(&mut self, _: Sequence) {}
    fn failed(&mut self, _: &Arc<WalError>) {}
}

#[test]
fn a_full_disk_at_any_step_of_writing_is_waited_for_and_a_sync_that_says_so_is_final() {
    // What one run does to the disk, with rotations in it; `full_at` finds no room once.
    let run = |full_at: Option<usize>| {
        let disk = SimDisk::new(5);
        let opened = open(&disk, &small_config()).expect("opened");
        let begun = disk.operations();
        if let Some(step) = full_at {
            disk.fail_at(begun + step, Fault::Enospc);
        }
        let mut maker = FrameMaker::new(opened.head, 5);
        let options = wal::GroupCommitOptions {
            when_full: wal::WhenFull::Wait,
            idle_after: std::time::Duration::from_secs(3600),
            ..wal::GroupCommitOptions::default()
        };
        let log = wal::GroupCommit::start(opened.writer, Deaf, options);
        let mut ended = None;
        for number in 0..40 {
            // The segment ends where this says, whatever the timing: the disk then sees the same operations each time.
            let flags = if number % 12 == 11 { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
            match log.append(limits::COMMIT_BYTES_MIN - 4096, |space| maker.write(space, 6, false, flags)) {
                Ok(_) => {}
                Err(error) => {
                    ended = Some(error);
                    break;
                }
            }
        }
        let closed = log.close();
        (disk, begun, maker.head, ended, closed)
    };
    let (disk, begun, ..) = run(None);
    let steps = disk.operations() - begun;
    assert!(steps > 60, "{steps}");
    let (mut waited, mut ended) = (0, 0);
    for step in 0..steps {
        let (disk, begun, head, refused, closed) = run(Some(step));
        let Some(operation) = disk.describe_trace().get(begun + step).cloned() else { continue };
        let found = open(&disk.crash_at(disk.operations(), PowerLoss::KeepUnsynced), &small_config())
            .unwrap_or_else(|error| panic!("step {step}, {operation}: {error}"));
        if closed.as_ref().is_err_and(|error| error.to_string().contains("cannot sync")) {
            assert!(found.head.last_sequence <= head.last_sequence);
            ended += 1;
            continue;
        }
        assert!(refused.is_none(), "step {step}, {operation}: {refused:?}");
        closed.unwrap_or_else(|error| panic!("step {step}, {operation}: {error}"));
        assert_eq!(found.head, head, "step {step}, {operation}: everything accepted is there");
        waited += 1;
    }
    assert!(waited > 20 && ended > 5, "{waited} waited for, {ended} final");
}

#[test]
fn the_roots_of_two_replicas_are_equal_however_their_commits_and_files_differ() {
    let (disk, _) = finished_log(5);
    let first = open(&disk, &small_config()).expect("opened");
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let reader = WalReader::new(shared, small_config(), first.segments.clone());
    let mut frames = reader.frames(Sequence::FIRST, first.head.last_sequence).expect("all are there");
    // The same frames, each in a commit of its own, into larger files.
    let config = WalConfig { segment_bytes: 2 * small_config().segment_bytes, ..small_config() };
    let other = SimDisk::new(99);
    let mut replica = open(&other, &config).expect("begun").writer;
    while let Some(frame) = frames.next_frame().expect("readable") {
        let mut buffer = replica.buffers().take();
        let copied = buffer.append(|space| {
            space[..frame.bytes().len()].copy_from_slice(frame.bytes());
            *frame.header()
        });
        copied.expect("it continues the tape");
        replica.commit(buffer).expect("committed");
        replica.maintain().expect("maintained");
    }
    let (one, two) = (first.segments.list(), replica.segments().list());
    assert!(one.len() > 2 && one.len() == two.len());
    for (one, two) in one.iter().zip(&two) {
        assert_eq!((one.begins, one.sealed.is_some()), (two.begins, two.sealed.is_some()));
        let (Some(one), Some(two)) = (one.sealed, two.sealed) else { continue };
        assert_eq!((one.root, one.ends), (two.root, two.ends));
        assert_ne!(one.file_bytes, two.file_bytes, "what is around the frames is each replica's own");
    }
}
