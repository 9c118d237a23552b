//! The log loses power, or its process, at every operation of a recorded run, and is judged by what it then holds.
//!
//! Each known mistake of [`Mistakes`] is switched on once, to show that the judge would notice it.

mod support;

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use matchtape_schemas::{FrameFlags, Sequence};
use matchtape_storage::Disk;
use matchtape_storage::sim::{Fault, PowerLoss, SimDisk};
use matchtape_storage::wal::{
    self, CommitObserver, Committed, GroupCommit, GroupCommitOptions, Mistakes, SyncPolicy, WalConfig,
    WalError, WriteBackend, Writer,
};
use support::{FrameMaker, History, judge, small_config};

/// What is tried at each crash point.
#[derive(Clone, Copy)]
struct Effort {
    /// Seeded choices of what survives, beside "nothing" and "everything".
    seeds: u64,
    /// Of the crash points of each recovery, one in this many is tried; zero: none.
    second_crash_every: usize,
}

const FULL: Effort = Effort { seeds: 4, second_crash_every: 6 };
const LIGHT: Effort = Effort { seeds: 2, second_crash_every: 13 };
const QUICK: Effort = Effort { seeds: 6, second_crash_every: 0 };

fn choices(effort: Effort, operation: usize) -> Vec<PowerLoss> {
    let seeded = (0..effort.seeds).map(|seed| PowerLoss::Seeded(seed * 1_000_003 + operation as u64));
    [PowerLoss::LoseUnsynced, PowerLoss::KeepUnsynced].into_iter().chain(seeded).collect()
}

/// Writes a tape with several rotations, small and large groups, idle blocks and a restart; ends in the middle.
fn record(disk: &SimDisk, config: &WalConfig, seed: u64) -> History {
    record_releasing(disk, config, seed, usize::MAX)
}

/// The same, letting go of all sealed segments but the last `keep` now and then.
fn record_releasing(disk: &SimDisk, config: &WalConfig, seed: u64, keep: usize) -> History {
    let mut history = History::default();
    let mut maker: Option<FrameMaker> = None;
    for life in 0..2 {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let opened = wal::open(shared, config.clone()).expect("a healthy log opens");
        let mut writer = opened.writer;
        let maker = maker.get_or_insert_with(|| FrameMaker::new(opened.head, seed));
        assert_eq!(maker.head, opened.head, "a clean restart loses nothing");
        for step in 0..26 {
            let ends = if writer.wants_segment_end() { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
            let large_group = step % 9 == 4;
            if large_group {
                for _ in 0..2 {
                    let open = maker.commit(&writer, 2, true, FrameFlags::NONE);
                    history.commit(disk, &mut writer, open).expect("committed");
                }
            }
            let frames = 1 + maker.below(4);
            let buffer = maker.commit(&writer, frames, false, ends);
            history.commit(disk, &mut writer, buffer).expect("committed");
            if step % 5 == 2 {
                writer.idle().expect("idle");
            }
            if step % 4 == 3 {
                writer.maintain().expect("maintained");
                history.release(disk, &writer, keep);
            }
            if step % 7 == 6 && config.sync != SyncPolicy::EveryBatch {
                writer.sync().expect("synced");
                history.durable.push((disk.operations(), history.group_end(writer.durable())));
            }
        }
        if life == 0 {
            writer.close().expect("closed");
            let end = disk.operations();
            history.durable.push((end, history.group_end(Sequence::MAX)));
        }
    }
    history
}

/// Every violation found by crashing at every operation.
fn violations(
    disk: &SimDisk,
    config: &WalConfig,
    history: &History,
    effort: Effort,
    enough: usize,
) -> Vec<String> {
    let mut found = Vec::new();
    disk.for_each_crash_point(|point| {
        let operation = point.operation;
        let durable = history.durable_at(operation);
        for choice in choices(effort, operation) {
            if found.len() >= enough {
                return;
            }
            let lost = point.power_loss(choice);
            if let Err(wrong) = survive(&lost, config, history, operation, durable, effort) {
                found.push(format!("power lost at operation {operation} ({choice:?}): {wrong}"));
            }
        }
        let killed = point.killed();
        let written = history.written_at(operation);
        if let Err(wrong) = survive(&killed, config, history, operation, written, effort) {
            found.push(format!("killed at operation {operation}: {wrong}"));
        }
    });
    found
}

/// Recovers, writes on, loses power again, recovers again; and loses power in the middle of the first recovery.
fn survive(
    disk: &SimDisk,
    config: &WalConfig,
    history: &History,
    begun: usize,
    at_least: Sequence,
    effort: Effort,
) -> Result<(), String> {
    let (mut writer, head) = judge(disk, config, history, begun, at_least)?;
    let recovered = disk.operations();
    // From now on the recovered events are promised: rule 8.
    let again = disk.crash_at(recovered, PowerLoss::LoseUnsynced);
    judge(&again, config, history, begun, head.last_sequence)
        .map_err(|wrong| format!("after recovery: {wrong}"))?;

    let mut later = History { released: history.released.clone(), ..History::default() };
    later.frames.extend(
        history
            .frames
            .iter()
            .filter(|(_, frame)| frame.last_sequence() <= head.last_sequence)
            .map(|(_, f)| (0, *f)),
    );
    let mut maker = FrameMaker::new(head, begun as u64);
    for _ in 0..3 {
        let buffer = maker.commit(&writer, 2, false, FrameFlags::NONE);
        later.commit(disk, &mut writer, buffer).map_err(|error| format!("cannot write on: {error}"))?;
    }
    writer.idle().map_err(|error| format!("cannot write on: {error}"))?;
    let end = disk.operations();
    for choice in [PowerLoss::LoseUnsynced, PowerLoss::Seeded(begun as u64)] {
        let again = disk.crash_at(end, choice);
        judge(&again, config, &later, usize::MAX, later.durable_at(end))
            .map_err(|wrong| format!("after writing on: {wrong}"))?;
    }
    if effort.second_crash_every > 0 {
        for operation in (begun % effort.second_crash_every..recovered).step_by(effort.second_crash_every) {
            for choice in [PowerLoss::LoseUnsynced, PowerLoss::Seeded(operation as u64)] {
                let again = disk.crash_at(operation, choice);
                // What the first recovery began from was on the device or in the cache of a killed process; only
                // what was durable has to outlive the second crash.
                let durable = history.durable_at(begun);
                judge(&again, config, history, begun, durable).map_err(|wrong| {
                    format!("crashed again at operation {operation} of recovery: {wrong}")
                })?;
            }
        }
    }
    Ok(())
}

fn assert_clean(found: &[String], disk: &SimDisk) {
    assert!(
        found.is_empty(),
        "{} violations, the first: {}\n{}",
        found.len(),
        found[0],
        disk.describe_trace().join("\n")
    );
}

fn crash_everywhere(config: &WalConfig, seed: u64) {
    let disk = SimDisk::new(seed);
    let history = record(&disk, config, seed);
    let segments = disk.list(&config.directory).expect("listed").len();
    assert!(segments >= 4, "the trace has rotations in it: {segments} files");
    assert_clean(&violations(&disk, config, &history, FULL, 3), &disk);
}

#[test]
fn a_crash_at_every_operation_loses_nothing_durable_with_buffered_writes() {
    crash_everywhere(&small_config(), 1);
}

#[test]
fn a_crash_at_every_operation_loses_nothing_durable_with_direct_writes() {
    crash_everywhere(&WalConfig { backend: WriteBackend::Direct, ..small_config() }, 2);
}

#[test]
fn a_crash_at_every_operation_keeps_a_prefix_when_nothing_is_synced() {
    crash_everywhere(&WalConfig { sync: SyncPolicy::None, ..small_config() }, 3);
    crash_everywhere(
        &WalConfig { sync: SyncPolicy::None, backend: WriteBackend::Direct, ..small_config() },
        4,
    );
}

/// Notes, in the log's own thread, what it says to be durable, with the operations until then.
struct Noting(SimDisk, Arc<Mutex<History>>, Sender<Sequence>);

impl CommitObserver for Noting {
    fn committed(&mut self, committed: &Committed) {
        let mut history = self.1.lock().expect("nobody panics with it");
        let now = self.0.operations();
        let (written, durable) = (history.group_end(committed.written), history.group_end(committed.durable));
        history.written.push((now, written));
        history.durable.push((now, durable));
    }

    fn durable(&mut self, durable: Sequence) {
        let mut history = self.1.lock().expect("nobody panics with it");
        let durable = history.group_end(durable);
        history.durable.push((self.0.operations(), durable));
        self.2.send(durable).expect("the test listens");
    }

    fn failed(&mut self, error: &Arc<WalError>) {
        panic!("{error}");
    }
}

/// A log with its thread, which syncs by the clock; ends when so many bursts of commits were promised.
fn record_by_the_clock(disk: &SimDisk, config: &WalConfig, seed: u64) -> History {
    let opened = wal::open(Arc::new(disk.clone()), config.clone()).expect("a healthy log opens");
    let mut maker = FrameMaker::new(opened.head, seed);
    let history = Arc::new(Mutex::new(History::default()));
    let (sender, promises) = channel();
    let observer = Noting(disk.clone(), Arc::clone(&history), sender);
    let log = GroupCommit::start(opened.writer, observer, GroupCommitOptions::default());
    for _ in 0..8 {
        for _ in 0..6 {
            let ends = log.wants_segment_end();
            let flags = if ends { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
            let begun = disk.operations();
            let events = 1 + maker.below(6);
            let appended = log.append(8192, |space| {
                let header = maker.write(space, events, false, flags);
                history.lock().expect("nobody panics with it").frames.push((begun, header));
                header
            });
            appended.expect("appended");
        }
        while promises.recv_timeout(Duration::from_secs(60)).expect("the log goes on")
            < maker.head.last_sequence
        {}
    }
    log.close().expect("closed");
    Arc::into_inner(history).expect("the log is gone").into_inner().expect("nobody panicked with it")
}

fn by_the_clock(backend: WriteBackend) -> WalConfig {
    WalConfig { sync: SyncPolicy::Interval(Duration::from_millis(1)), backend, ..small_config() }
}

#[test]
fn a_crash_at_every_operation_loses_nothing_that_was_synced_when_the_clock_says_when() {
    for backend in [WriteBackend::Buffered, WriteBackend::Direct] {
        let disk = SimDisk::new(5);
        let history = record_by_the_clock(&disk, &by_the_clock(backend), 5);
        let behind = history.written.iter().filter(|(at, written)| *written > history.durable_at(*at));
        assert!(behind.count() > 0, "some commits were written before they were synced");
        assert_clean(&violations(&disk, &by_the_clock(backend), &history, LIGHT, 3), &disk);
    }
}

#[test]
fn the_judge_notices_a_clock_that_syncs_nothing() {
    let mistakes = Mistakes { report_before_sync: true, ..Mistakes::default() };
    let config = WalConfig { mistakes, ..by_the_clock(WriteBackend::Buffered) };
    let disk = SimDisk::new(5);
    let history = record_by_the_clock(&disk, &config, 5);
    let found = violations(&disk, &config, &history, QUICK, 1);
    assert!(found.iter().any(|wrong| wrong.contains("was promised")), "{found:?}");
}

fn crash_while_recycling(config: &WalConfig, seed: u64, keep: usize) {
    let disk = SimDisk::new(seed);
    let history = record_releasing(&disk, config, seed, keep);
    let renamed = |from: &str, to: &str| {
        let trace = disk.describe_trace();
        trace
            .iter()
            .filter(|line| line.starts_with("rename") && line.contains(from) && line.ends_with(to))
            .count()
    };
    assert!(renamed(".wal to", ".free") >= 3, "segments were released");
    assert!(renamed(".free to", ".new") >= 3, "their files were used again");
    assert_clean(&violations(&disk, config, &history, LIGHT, 3), &disk);
}

#[test]
fn a_crash_at_every_operation_loses_nothing_durable_while_segments_are_released_and_their_files_used_again() {
    crash_while_recycling(&small_config(), 1, 1);
    crash_while_recycling(&WalConfig { backend: WriteBackend::Direct, ..small_config() }, 2, 0);
}

#[test]
fn a_crash_at_every_operation_keeps_a_prefix_in_recycled_files_when_nothing_is_synced() {
    crash_while_recycling(&WalConfig { sync: SyncPolicy::None, ..small_config() }, 3, 0);
    let direct = WalConfig { sync: SyncPolicy::None, backend: WriteBackend::Direct, ..small_config() };
    crash_while_recycling(&direct, 4, 1);
}

/// When a commit is promised.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Promise {
    /// When it and all before it are on the disk.
    InOrder,
    /// When it is: a mistake, for the judge to notice.
    WhenWritten,
}

/// Several commits written at once, in any order, with idle blocks among them; through rotations, in files used again. Ends
/// early where the log does.
fn record_side_by_side(
    disk: &SimDisk,
    config: &WalConfig,
    seed: u64,
    promise: Promise,
    releases: bool,
) -> History {
    let mut history = History::default();
    let opened = wal::open(Arc::new(disk.clone()), config.clone()).expect("a healthy log opens");
    let (mut writer, mut maker) = (opened.writer, FrameMaker::new(opened.head, seed));
    assert!(writer.takes_several());
    for step in 0..36 {
        if write_side_by_side(disk, &mut writer, &mut maker, &mut history, step, promise).is_err() {
            break;
        }
        // What keeps the next segment from being prepared is tried again with the next commit.
        let _ = writer.maintain();
        if releases && step % 4 == 3 {
            history.release(disk, &writer, 1);
        }
    }
    history
}

fn write_side_by_side(
    disk: &SimDisk,
    writer: &mut Writer,
    maker: &mut FrameMaker,
    history: &mut History,
    step: u64,
    promise: Promise,
) -> Result<(), WalError> {
    let begun = disk.operations();
    let mut blocks = Vec::new();
    if step % 3 == 1 {
        blocks.extend(writer.place_idle().map(Some));
    }
    for commit in 0..=maker.below(4) {
        if writer.is_at_segment_end() && commit > 0 {
            break;
        }
        let open = step % 7 == 3 && commit == 0;
        let ends = !open && writer.wants_segment_end();
        let flags = if ends { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
        let frames = 1 + maker.below(3);
        let buffer = maker.commit(writer, frames, open, flags);
        history.frames.extend(buffer.frames().map(|(header, _)| (begun, header)));
        blocks.push(Some(writer.place(buffer)?));
    }
    let mut left: Vec<usize> = (0..blocks.len()).collect();
    let (mut written, mut settled) = (vec![false; blocks.len()], 0);
    disk.at_once(|| {
        while !left.is_empty() {
            let next = left.swap_remove(maker.below(left.len() as u64) as usize);
            let block = blocks[next].as_mut().expect("not settled");
            let done = match block.write() {
                Err(error) if error.may_pass() => block.write(),
                done => done,
            };
            done.map_err(|error| writer.fail(error))?;
            written[next] = true;
            while settled < written.len() && written[settled] {
                writer.settle(blocks[settled].take().expect("not settled"))?;
                settled += 1;
            }
            let durable = match promise {
                Promise::InOrder => writer.durable_group_end(),
                Promise::WhenWritten => history.group_end(Sequence::MAX),
            };
            history.durable.push((disk.operations(), durable));
            history.written.push((disk.operations(), durable));
        }
        Ok(())
    })
}

fn side_by_side() -> WalConfig {
    WalConfig { backend: WriteBackend::Direct, ..small_config() }
}

#[test]
fn a_crash_at_every_operation_loses_nothing_durable_when_several_commits_are_written_at_once() {
    for seed in [1, 2, 3] {
        let disk = SimDisk::new(seed);
        let history = record_side_by_side(&disk, &side_by_side(), seed, Promise::InOrder, true);
        let trace = disk.describe_trace();
        assert!(trace.iter().any(|line| line.ends_with("000000000004.wal")), "rotations");
        assert!(trace.iter().any(|line| line.contains(".free to")), "files used again");
        assert_clean(&violations(&disk, &side_by_side(), &history, LIGHT, 3), &disk);
    }
}

#[test]
fn a_write_that_fails_or_finds_no_room_beside_others_breaks_no_promise() {
    let whole = SimDisk::new(4);
    drop(wal::open(Arc::new(whole.clone()), side_by_side()).expect("opened"));
    let opened = whole.operations();
    let whole = SimDisk::new(4);
    record_side_by_side(&whole, &side_by_side(), 4, Promise::InOrder, false);
    let mut ended_early = 0;
    for operation in opened..whole.operations() {
        for fault in [Fault::Eio, Fault::Enospc] {
            let disk = SimDisk::new(4);
            disk.fail_at(operation, fault);
            let history = record_side_by_side(&disk, &side_by_side(), 4, Promise::InOrder, false);
            let end = disk.operations();
            ended_early += usize::from(end < whole.operations());
            let losses =
                [PowerLoss::LoseUnsynced, PowerLoss::KeepUnsynced, PowerLoss::Seeded(operation as u64)];
            let lost = losses.map(|choice| disk.crash_at(end, choice));
            for survivor in lost.iter().chain([&disk.kill_at(end)]) {
                if let Err(wrong) =
                    judge(survivor, &side_by_side(), &history, usize::MAX, history.durable_at(end))
                {
                    panic!("operation {operation} failed with {fault:?}: {wrong}");
                }
            }
        }
    }
    assert!(ended_early > 50, "{ended_early} of the faults ended the log");
}

#[test]
fn the_judge_notices_a_commit_that_is_promised_before_one_that_was_begun_before_it() {
    let disk = SimDisk::new(1);
    let history = record_side_by_side(&disk, &side_by_side(), 1, Promise::WhenWritten, true);
    assert!(!violations(&disk, &side_by_side(), &history, QUICK, 1).is_empty());
}

#[test]
fn the_judge_notices_a_block_that_vouches_for_commits_under_way() {
    let mistakes = Mistakes { vouch_for_what_is_under_way: true, ..Mistakes::default() };
    let config = WalConfig { mistakes, ..side_by_side() };
    let disk = SimDisk::new(1);
    let history = record_side_by_side(&disk, &config, 1, Promise::InOrder, true);
    assert!(!violations(&disk, &config, &history, QUICK, 1).is_empty());
}

#[test]
fn a_log_that_keeps_no_released_files_removes_them() {
    let config = WalConfig { recycled_files_max: 0, ..small_config() };
    let disk = SimDisk::new(5);
    let history = record_releasing(&disk, &config, 5, 0);
    assert!(disk.describe_trace().iter().filter(|line| line.starts_with("remove")).count() >= 3);
    assert_clean(&violations(&disk, &config, &history, QUICK, 3), &disk);
    // Files that an earlier run kept, and this one is not to keep, go when the log is opened.
    let disk = SimDisk::new(6);
    let history = record_releasing(&disk, &small_config(), 6, 0);
    let free = |disk: &SimDisk| {
        let names = disk.list(&config.directory).expect("listed").into_iter().map(|entry| entry.name);
        names.filter(|name| name.ends_with(".free")).count()
    };
    assert!(free(&disk) > 0);
    disk.kill();
    let at_least = history.written_at(usize::MAX);
    judge(&disk, &config, &history, usize::MAX, at_least).expect("opened");
    assert_eq!(free(&disk), 0);
}

#[test]
fn a_released_segment_that_a_backup_has_linked_keeps_its_bytes() {
    for (honest, mistakes) in
        [(true, Mistakes::default()), (false, Mistakes { recycle_linked: true, ..Mistakes::default() })]
    {
        let config = WalConfig { mistakes, ..small_config() };
        let disk = SimDisk::new(7);
        let opened = wal::open(Arc::new(disk.clone()), config.clone()).expect("opened");
        let (mut writer, mut maker) = (opened.writer, FrameMaker::new(opened.head, 7));
        let mut history = History::default();
        disk.create_directory(Path::new("backup")).expect("created");
        let mut linked: Option<Vec<u8>> = None;
        while writer.segments().list().last().expect("one").number.0 < 6 {
            let ends = if writer.wants_segment_end() { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
            let buffer = maker.commit(&writer, 2, false, ends);
            history.commit(&disk, &mut writer, buffer).expect("committed");
            writer.maintain().expect("maintained");
            if linked.is_none() && writer.segments().list().len() == 2 {
                let path = Path::new("wal/000000000001.wal");
                disk.hard_link(path, Path::new("backup/1")).expect("linked");
                linked = disk.content(path);
            }
            history.release(&disk, &writer, 0);
        }
        assert_eq!(disk.content(Path::new("backup/1")) == linked, honest, "{mistakes:?}");
    }
}

#[test]
fn a_failed_sync_ends_all_writing_and_no_later_promise_is_broken() {
    assert_clean(&failed_sync_violations(&small_config()), &SimDisk::new(0));
}

/// Fails every sync of a run in turn, goes on as far as the log lets it, then kills the process, recovers on the
/// same machine (whose cache holds what never reached the disk), and loses power.
fn failed_sync_violations(config: &WalConfig) -> Vec<String> {
    let mut found = Vec::new();
    for failing in 0..60 {
        let disk = SimDisk::new(9);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let opened = wal::open(shared, config.clone()).expect("opened");
        let mut writer = opened.writer;
        let mut maker = FrameMaker::new(opened.head, 9);
        let mut history = History::default();
        disk.fail_at(disk.operations() + failing, Fault::Eio);
        let mut failed = false;
        for _ in 0..14 {
            let ends = if writer.wants_segment_end() { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
            let buffer = maker.commit(&writer, 4, false, ends);
            match history.commit(&disk, &mut writer, buffer) {
                Ok(()) => assert!(
                    !failed || config.mistakes.retry_failed_sync,
                    "nothing is accepted after a failure"
                ),
                Err(WalError::Poisoned(_)) => failed = true,
                // The next segment could not be prepared; nothing was written.
                Err(WalError::Disk(_)) => break,
                Err(error) => panic!("{error}"),
            }
        }
        let end = disk.operations();
        let durable = history.durable_at(end);
        for choice in [PowerLoss::LoseUnsynced, PowerLoss::KeepUnsynced, PowerLoss::Seeded(failing as u64)] {
            if let Err(wrong) = judge(&disk.crash_at(end, choice), config, &history, usize::MAX, durable) {
                found.push(format!("operation {failing} failed, power lost: {wrong}"));
            }
        }
        let killed = disk.kill_at(end);
        match judge(&killed, config, &history, usize::MAX, durable) {
            Err(wrong) => found.push(format!("operation {failing} failed, killed: {wrong}")),
            Ok((_, head)) => {
                let lost = killed.crash_at(killed.operations(), PowerLoss::LoseUnsynced);
                if let Err(wrong) = judge(&lost, config, &history, usize::MAX, head.last_sequence) {
                    found.push(format!("operation {failing} failed, killed, recovered, power lost: {wrong}"));
                }
            }
        }
    }
    found
}

#[test]
fn the_judge_notices_a_recycled_file_under_its_old_header() {
    for (honest, mistakes) in
        [(true, Mistakes::default()), (false, Mistakes { recycle_without_mark: true, ..Mistakes::default() })]
    {
        let config = WalConfig { mistakes, ..small_config() };
        let disk = SimDisk::new(8);
        let opened = wal::open(Arc::new(disk.clone()), config.clone()).expect("opened");
        let (mut writer, mut maker) = (opened.writer, FrameMaker::new(opened.head, 8));
        let mut history = History::default();
        while !disk.describe_trace().iter().any(|line| line.ends_with("000000000004.wal")) {
            let ends = if writer.wants_segment_end() { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
            let buffer = maker.commit(&writer, 2, false, ends);
            history.commit(&disk, &mut writer, buffer).expect("committed");
            writer.maintain().expect("maintained");
            history.release(&disk, &writer, 0);
        }
        drop(writer);
        let judged = judge(&disk, &config, &history, usize::MAX, history.durable_at(usize::MAX));
        assert_eq!(judged.is_ok(), honest, "{judged:?}");
    }
}

#[test]
fn the_judge_notices_a_file_written_over_before_its_old_name_is_gone() {
    let mistakes = Mistakes { recycle_before_sync: true, ..Mistakes::default() };
    let config = WalConfig { mistakes, ..small_config() };
    let found = (1..4).find_map(|seed| {
        let disk = SimDisk::new(seed);
        let history = record_releasing(&disk, &config, seed, 0);
        violations(&disk, &config, &history, QUICK, 1).pop()
    });
    let found = found.unwrap_or_else(|| panic!("{mistakes:?} went unnoticed"));
    println!("{mistakes:?}: {found}");
}

fn red(mistakes: Mistakes) {
    let honest = small_config();
    let config = WalConfig { mistakes, ..small_config() };
    assert_ne!(config.mistakes, honest.mistakes);
    let found = (1..4).find_map(|seed| {
        let disk = SimDisk::new(seed);
        let history = record(&disk, &config, seed);
        violations(&disk, &config, &history, QUICK, 1).pop()
    });
    let found = found.unwrap_or_else(|| panic!("{mistakes:?} went unnoticed"));
    println!("{mistakes:?}: {found}");
}

#[test]
fn the_judge_notices_a_torn_tail_taken_for_corruption() {
    red(Mistakes { torn_tail_is_fatal: true, ..Mistakes::default() });
}

#[test]
fn the_judge_notices_appending_after_garbage() {
    red(Mistakes { append_after_garbage: true, ..Mistakes::default() });
}

#[test]
fn the_judge_notices_rotation_without_sync() {
    red(Mistakes { rotate_without_sync: true, ..Mistakes::default() });
}

#[test]
fn the_judge_notices_a_promise_before_the_sync() {
    red(Mistakes { report_before_sync: true, ..Mistakes::default() });
}

#[test]
fn the_judge_notices_a_kept_unfinished_group() {
    red(Mistakes { keep_unfinished_group: true, ..Mistakes::default() });
}

#[test]
fn the_judge_notices_recovery_from_the_page_cache_alone() {
    red(Mistakes { trust_page_cache: true, ..Mistakes::default() });
}

#[test]
fn the_judge_notices_a_retried_sync() {
    let mistakes = Mistakes { retry_failed_sync: true, ..Mistakes::default() };
    assert!(!failed_sync_violations(&WalConfig { mistakes, ..small_config() }).is_empty());
}

#[test]
fn the_judge_notices_a_skipped_bad_commit() {
    let mistakes = Mistakes { skip_bad_commits: true, ..Mistakes::default() };
    // Only unsynced commits can be lost in the middle; under this policy they are.
    let config = WalConfig { mistakes, sync: SyncPolicy::None, ..small_config() };
    let found = (1..6).find_map(|seed| {
        let disk = SimDisk::new(seed);
        let history = record(&disk, &config, seed);
        violations(&disk, &config, &history, QUICK, 1).pop()
    });
    let found = found.unwrap_or_else(|| panic!("{mistakes:?} went unnoticed"));
    println!("{mistakes:?}: {found}");
}
