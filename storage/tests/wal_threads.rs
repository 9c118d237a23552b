//! The log with its threads on a real directory: group commit, the order of reports, readers in the same process and
//! followers in another, and what is left after closing.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use matchtape_schemas::{FrameFlags, Head, Sequence};
use matchtape_storage::sim::{Fault, SimDisk};
use matchtape_storage::wal::{
    self, AppendError, CommitObserver, Committed, GroupCommit, GroupCommitOptions, Preparation, SealError,
    SyncPolicy, WalConfig, WalError, WalFollower, WalReader, WhenFull, WriteBackend, identify,
};
use matchtape_storage::{Disk, RealDisk};
use support::{FrameMaker, TAPE, small_config};

#[derive(Debug)]
enum Report {
    Committed { first: Sequence, written: Sequence, durable: Sequence },
    Durable(Sequence),
    Failed(Arc<WalError>),
}

struct Reports(Sender<Report>);

impl CommitObserver for Reports {
    fn committed(&mut self, committed: &Committed) {
        let first = committed.commit.first_sequence().expect("a commit has frames");
        let report = Report::Committed { first, written: committed.written, durable: committed.durable };
        self.0.send(report).expect("the test listens");
    }

    fn durable(&mut self, durable: Sequence) {
        self.0.send(Report::Durable(durable)).expect("the test listens");
    }

    fn failed(&mut self, error: &Arc<WalError>) {
        self.0.send(Report::Failed(Arc::clone(error))).expect("the test listens");
    }
}

fn start(
    disk: &Arc<dyn Disk>,
    config: &WalConfig,
    options: GroupCommitOptions,
) -> (GroupCommit, Head, Receiver<Report>) {
    let opened = wal::open(Arc::clone(disk), config.clone()).expect("opened");
    let (sender, receiver) = channel();
    (GroupCommit::start(opened.writer, Reports(sender), options), opened.head, receiver)
}

fn append(log: &GroupCommit, maker: &mut FrameMaker, events: u64, open: bool) -> Result<(), AppendError> {
    let ends = !open && log.wants_segment_end();
    let flags = if ends { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
    log.append(8192, |space| maker.write(space, events, open, flags)).map(|_| ())
}

/// Backends that this machine's temporary directory can do.
fn backends(directory: &Path) -> Vec<WriteBackend> {
    let disk = RealDisk::open(directory).expect("the directory exists");
    let direct = disk.open(
        Path::new("probe"),
        matchtape_storage::Access::CreateNew,
        matchtape_storage::Caching::Direct,
    );
    if direct.is_ok() {
        vec![WriteBackend::Buffered, WriteBackend::Direct]
    } else {
        vec![WriteBackend::Buffered]
    }
}

const WAIT: GroupCommitOptions = GroupCommitOptions {
    full_buffers_max: 2,
    when_full: WhenFull::Wait,
    spin: Duration::from_micros(5),
    idle_after: Duration::from_millis(1),
};

/// What was reported so far; every report continues the one before.
#[derive(Default)]
struct Noted {
    last: Sequence,
    durable: Sequence,
}

impl Noted {
    fn note(&mut self, report: Report) {
        match report {
            Report::Committed { first, written, durable } => {
                assert_eq!(first, self.last.next(), "reports are in order and dense");
                // A commit may end inside a group: what is durable then is the group before it.
                assert!(self.durable <= durable && durable <= written, "{durable} of {written}");
                (self.last, self.durable) = (written, durable);
            }
            Report::Durable(_) => panic!("there is no sync outside a commit under this policy"),
            Report::Failed(error) => panic!("{error}"),
        }
    }
}

#[test]
fn everything_appended_is_reported_once_in_order_and_found_again() {
    let directory = tempfile::tempdir().expect("a directory");
    for backend in backends(directory.path()) {
        let config = WalConfig {
            backend,
            directory: format!("{backend:?}").into(),
            preparation: Preparation::Background,
            segment_bytes: 256 << 10,
            ..small_config()
        };
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(directory.path()).expect("opened"));
        let (log, head, reports) = start(&disk, &config, WAIT);
        let mut maker = FrameMaker::new(head, 1);
        let mut noted = Noted::default();
        for step in 0..3000_u64 {
            // Now and then a group of several frames, which has to begin a commit.
            if step % 50 == 7 {
                for _ in 0..3 {
                    append(&log, &mut maker, 3, true).expect("appended");
                }
            }
            append(&log, &mut maker, 1 + step % 5, false).expect("appended");
            // The next segment is prepared by another thread, which this loop would outrun: let it catch up.
            while step % 500 == 499 && !log.wants_segment_end() {
                append(&log, &mut maker, 1, false).expect("appended");
                while noted.last < maker.head.last_sequence {
                    noted.note(reports.recv().expect("reported"));
                }
            }
        }
        log.close().expect("closed");
        for report in reports {
            noted.note(report);
        }
        let last = noted.last;
        assert_eq!(last, maker.head.last_sequence);
        assert_eq!(noted.durable, last, "every batch is synced");
        let opened = wal::open(Arc::clone(&disk), config.clone()).expect("opened again");
        assert_eq!(opened.head, maker.head);
        assert_eq!(opened.report.cut, None);
        assert!(opened.segments.list().len() > 4, "rotations: {}", opened.report);
        let reader = WalReader::new(disk, config, opened.segments.clone());
        for from in [1, 2, 777, last.0 / 2, last.0] {
            let mut frames = reader.frames(Sequence(from), last).expect("frames");
            let mut next = None;
            while let Some(found) = frames.next_frame().expect("a frame") {
                let first = found.first_sequence();
                match next {
                    None => assert!(first.0 <= from && found.last_sequence().0 >= from),
                    Some(next) => assert_eq!(first, next),
                }
                next = Some(found.last_sequence().next());
            }
            assert_eq!(next, Some(last.next()));
        }
        for segment in opened.segments.list() {
            if segment.sealed.is_some() {
                reader.verify(&segment).expect("sealed segments verify");
            }
        }
    }
}

#[test]
fn a_log_that_is_behind_by_all_its_buffers_refuses_and_takes_more_when_it_has_caught_up() {
    // A disk that makes the log thread wait: it stands at the first commit until the test lets go.
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    let opened =
        wal::open(Arc::clone(&disk), WalConfig { segment_bytes: 4 << 20, ..small_config() }).expect("opened");
    let mut maker = FrameMaker::new(opened.head, 1);
    let (let_go, gate) = channel::<()>();
    struct Gate(Receiver<()>, Sender<Sequence>);
    impl CommitObserver for Gate {
        fn committed(&mut self, committed: &Committed) {
            let _ = self.0.recv();
            let _ = self.1.send(committed.durable);
        }
        fn durable(&mut self, _: Sequence) {}
        fn failed(&mut self, _: &Arc<WalError>) {}
    }
    let (reported, reports) = channel();
    let options = GroupCommitOptions { when_full: WhenFull::Refuse, ..WAIT };
    let log = GroupCommit::start(opened.writer, Gate(gate, reported), options);
    let mut appended = 0;
    let full = loop {
        let before = maker.head;
        match append(&log, &mut maker, 20, false) {
            Ok(()) => appended += 1,
            Err(error) => {
                assert_eq!(maker.head, before, "a refused frame was not written");
                break error;
            }
        }
    };
    assert!(matches!(full, AppendError::Full), "{full}");
    assert!(appended > 10);
    drop(let_go);
    while reports.recv().expect("reported") < maker.head.last_sequence {}
    append(&log, &mut maker, 20, false).expect("there is room again");
    log.close().expect("closed");
}

/// The place of every write as it begins; the write at `held` stands until it is let go of.
fn hold_write(disk: &SimDisk, held: Option<u64>) -> (Receiver<u64>, Sender<()>) {
    let (begun, begins) = channel();
    let (let_go, gate) = channel();
    let (begun, gate) = (std::sync::Mutex::new(begun), std::sync::Mutex::new(gate));
    disk.before_write(move |offset| {
        // Nobody may listen any more.
        let _ = begun.lock().expect("held shortly").send(offset);
        if Some(offset) == held {
            gate.lock().expect("held shortly").recv().expect("let go");
        }
    });
    (begins, let_go)
}

/// A log of which the second commit's write was begun while the first one's stands until it is let go of.
struct TwoUnderWay {
    disk: SimDisk,
    log: GroupCommit,
    maker: FrameMaker,
    reports: Receiver<Report>,
    let_go: Sender<()>,
}

fn two_under_way() -> TwoUnderWay {
    let disk = SimDisk::new(1);
    let config = WalConfig { backend: WriteBackend::Direct, segment_bytes: 1 << 20, ..small_config() };
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (log, head, reports) =
        start(&shared, &config, GroupCommitOptions { idle_after: Duration::from_secs(3600), ..WAIT });
    let mut maker = FrameMaker::new(head, 1);
    let (begins, let_go) = hold_write(&disk, Some(4096));
    append(&log, &mut maker, 1, false).expect("appended");
    assert_eq!(begins.recv().expect("begun"), 4096);
    append_more_than_a_buffer(&log, &mut maker);
    // Without a second thread this would be for ever.
    assert_eq!(begins.recv().expect("begun"), 8192, "a full buffer does not wait");
    TwoUnderWay { disk, log, maker, reports, let_go }
}

#[test]
fn a_commit_is_written_beside_one_that_takes_long_and_both_are_told_in_order() {
    let TwoUnderWay { log, maker, reports, let_go, .. } = two_under_way();
    assert!(reports.try_recv().is_err(), "nothing is told before the first");
    let_go.send(()).expect("it waits");
    let mut noted = Noted::default();
    while noted.last < maker.head.last_sequence {
        noted.note(reports.recv().expect("reported"));
    }
    log.close().expect("closed");
}

/// And less than two.
fn append_more_than_a_buffer(log: &GroupCommit, maker: &mut FrameMaker) {
    for _ in 0..20 {
        append(log, maker, 20, false).expect("appended");
    }
}

#[test]
fn the_last_commit_is_proven_when_nothing_follows_and_the_next_one_is_written_beside_that() {
    for backend in [WriteBackend::Buffered, WriteBackend::Direct] {
        let disk = SimDisk::new(1);
        let config = WalConfig { backend, segment_bytes: 1 << 20, ..small_config() };
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let (log, head, reports) = start(&shared, &config, WAIT);
        let mut maker = FrameMaker::new(head, 1);
        let holds = backend == WriteBackend::Direct;
        let (begins, let_go) = hold_write(&disk, holds.then_some(8192));
        append(&log, &mut maker, 1, false).expect("appended");
        assert_eq!(begins.recv().expect("begun"), 4096);
        assert!(matches!(reports.recv().expect("reported"), Report::Committed { .. }));
        let proven = maker.head.last_sequence;
        assert_eq!(begins.recv().expect("begun"), 8192, "an idle block, by itself");
        if holds {
            append(&log, &mut maker, 1, false).expect("appended");
            assert_eq!(begins.recv().expect("begun"), 12_288);
            assert!(reports.try_recv().is_err(), "without the block before it, recovery would not find it");
            let_go.send(()).expect("it waits");
            assert!(matches!(reports.recv().expect("reported"), Report::Committed { .. }));
        }
        log.close().expect("closed");
        let idle = disk.kill_at(disk.operations());
        let follower =
            WalFollower::open(Arc::new(idle), config, Sequence::FIRST).expect("opened").expect("begun");
        assert!(follower.through() >= proven);
    }
}

#[test]
fn a_write_that_fails_beside_others_ends_the_log_and_nothing_behind_it_is_told() {
    let TwoUnderWay { disk, log, mut maker, reports, let_go } = two_under_way();
    // The second is written by now or will be; the first then fails.
    while disk.operations() == 0 || !disk.describe_trace().last().expect("some").contains("at 8192 durably") {
        std::thread::yield_now();
    }
    disk.fail_next(Fault::Eio);
    let_go.send(()).expect("it waits");
    match reports.recv().expect("reported") {
        Report::Failed(cause) => assert!(cause.to_string().contains("000000000001.wal"), "{cause}"),
        other => panic!("told of {other:?}"),
    }
    assert!(append(&log, &mut maker, 1, false).is_err());
    assert!(matches!(log.close(), Err(WalError::Poisoned(_))));
    assert!(reports.recv().is_err(), "nothing more is told");
}

#[test]
fn a_failure_ends_the_log_for_everyone_and_says_why() {
    let disk = SimDisk::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (log, head, reports) = start(&shared, &small_config(), WAIT);
    let mut maker = FrameMaker::new(head, 1);
    append(&log, &mut maker, 1, false).expect("appended");
    assert!(matches!(reports.recv().expect("reported"), Report::Committed { .. }));
    disk.fail_next(Fault::Eio);
    // The idle block may take the fault as well as the next commit; either ends the log.
    let _ = append(&log, &mut maker, 1, false);
    let cause = loop {
        match reports.recv().expect("reported") {
            Report::Failed(cause) => break cause,
            Report::Committed { .. } | Report::Durable(_) => {}
        }
    };
    assert!(cause.to_string().contains("000000000001.wal"), "{cause}");
    let ended = append(&log, &mut maker, 1, false).expect_err("nothing is accepted any more");
    assert!(matches!(ended, AppendError::Ended(_)), "{ended}");
    assert!(matches!(log.close(), Err(WalError::Poisoned(_))));
}

#[test]
fn a_segment_that_is_asked_to_end_ends_with_the_next_frame_and_whoever_waits_for_that_is_told() {
    for (backend, preparation) in
        [(WriteBackend::Buffered, Preparation::Inline), (WriteBackend::Direct, Preparation::Background)]
    {
        let disk = SimDisk::new(1);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let config = WalConfig { backend, preparation, ..small_config() };
        let (log, head, reports) = start(&shared, &config, WAIT);
        let mut maker = FrameMaker::new(head, 1);
        let sealer = log.sealer();
        let soon = || Instant::now() + Duration::from_secs(20);
        append(&log, &mut maker, 3, false).expect("appended");
        let first = maker.head.last_sequence;
        assert!(matches!(sealer.wait(first, Instant::now()), Err(SealError::TimedOut)));
        assert_eq!((sealer.sealed_through(), sealer.last_sealed()), (Sequence::ZERO, None));
        // Nothing has paid for the next segment; it is made at once.
        sealer.ask(soon()).expect("asked");
        assert!(log.wants_segment_end());
        // Inside a group no segment ends.
        append(&log, &mut maker, 2, true).expect("appended");
        assert!(log.wants_segment_end());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| sealer.wait(first, soon()));
            append(&log, &mut maker, 2, false).expect("appended");
            waiting.join().expect("no panic").expect("sealed");
        });
        let end = maker.head.last_sequence;
        assert!(!log.wants_segment_end(), "once");
        assert_eq!(sealer.sealed_through(), end);
        assert_eq!(sealer.last_sealed().map(|segment| segment.number.0), Some(1));

        // Asked again, and the disk fails under it; the thread that prepares segments may meet that first.
        append(&log, &mut maker, 1, false).expect("appended");
        sealer.ask(soon()).expect("asked");
        disk.fail_all(Fault::Eio);
        let error = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| sealer.wait(end.next(), soon()));
            let _ = append(&log, &mut maker, 1, false);
            waiting.join().expect("no panic").expect_err("the log has ended")
        });
        assert!(matches!(error, SealError::Ended(_)), "{error}");
        assert!(matches!(sealer.ask(soon()), Err(SealError::Ended(_) | SealError::NoNext(_))));
        drop((log, reports));
    }
}

#[test]
fn what_was_recovered_is_proven_although_nothing_follows() {
    for backend in [WriteBackend::Buffered, WriteBackend::Direct] {
        let disk = SimDisk::new(1);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let config = WalConfig { backend, ..small_config() };
        let opened = wal::open(Arc::clone(&shared), config.clone()).expect("opened");
        let (mut writer, mut maker) = (opened.writer, FrameMaker::new(opened.head, 1));
        let buffer = maker.commit(&writer, 3, false, FrameFlags::NONE);
        writer.commit(buffer).expect("committed");
        // The process dies before anything proves that commit.
        drop(writer);
        let (log, head, _reports) = start(&shared, &config, WAIT);
        assert_eq!(head, maker.head);
        let patience = Instant::now() + Duration::from_secs(20);
        let proven = || {
            let found: Arc<dyn Disk> = Arc::new(disk.kill_at(disk.operations()));
            let follower = WalFollower::open(found, config.clone(), Sequence::FIRST).expect("opened");
            follower.expect("begun").through()
        };
        while proven() < head.last_sequence {
            assert!(Instant::now() < patience, "{backend:?}: {} of {}", proven(), head.last_sequence);
            std::thread::yield_now();
        }
        log.close().expect("closed");
    }
}

/// Told of everything, says nothing.
struct Silent;

impl CommitObserver for Silent {
    fn committed(&mut self, _: &Committed) {}
    fn durable(&mut self, _: Sequence) {}
    fn failed(&mut self, _: &Arc<WalError>) {}
}

#[test]
fn an_owner_that_panics_does_not_let_go_of_the_log_while_its_threads_write() {
    let disk = SimDisk::new(1);
    let opened = wal::open(Arc::new(disk.clone()), small_config()).expect("opened");
    let (begins, let_go) = hold_write(&disk, Some(4096));
    let (say, said) = channel();
    let owner = std::thread::spawn(move || {
        let mut maker = FrameMaker::new(opened.head, 1);
        let log = GroupCommit::start(opened.writer, Silent, WAIT);
        append(&log, &mut maker, 1, false).expect("appended");
        begins.recv().expect("begun");
        say.send(()).expect("the test listens");
        panic!("as a bug in whoever has the log");
    });
    said.recv().expect("it panics now");
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until && !owner.is_finished() {
        std::thread::yield_now();
    }
    assert!(!owner.is_finished(), "gone, and its log still writes");
    let_go.send(()).expect("it waits");
    assert!(owner.join().is_err());
    let opened = wal::open(Arc::new(disk), small_config()).expect("opened");
    assert_eq!(opened.report.cut, None);
    assert!(opened.head.last_sequence > Sequence::ZERO, "what was appended was written");
}

#[test]
fn under_an_interval_policy_durability_follows_within_the_interval() {
    let disk = SimDisk::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let config = WalConfig { sync: SyncPolicy::Interval(Duration::from_millis(3)), ..small_config() };
    let (log, head, reports) = start(&shared, &config, WAIT);
    let mut maker = FrameMaker::new(head, 1);
    append(&log, &mut maker, 2, false).expect("appended");
    let Report::Committed { written, durable, .. } = reports.recv().expect("reported") else {
        panic!("a commit first")
    };
    assert_eq!((written, durable), (Sequence(2), Sequence::ZERO));
    assert!(matches!(reports.recv().expect("reported"), Report::Durable(Sequence(2))));
    log.close().expect("closed");
}

/// Every frame a follower now hands out; returns the last event.
fn drain(follower: &mut WalFollower, mut next: Sequence) -> Sequence {
    while let Some(found) = follower.next_frame().expect("a frame") {
        assert_eq!(found.first_sequence(), next);
        next = found.last_sequence().next();
    }
    assert_eq!(next.previous(), follower.through(), "all that is proven is served");
    next
}

#[test]
fn a_follower_sees_what_is_proven_and_nothing_more_while_the_log_grows_and_rotates() {
    let disk = SimDisk::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    assert_eq!(identify(&*shared, Path::new("wal")).expect("no log"), None);
    let opened = wal::open(Arc::clone(&shared), small_config()).expect("opened");
    let (mut writer, mut maker) = (opened.writer, FrameMaker::new(opened.head, 1));
    assert_eq!(identify(&*shared, Path::new("wal")).expect("a log").expect("begun").tape, TAPE);
    let operations_of_follower = disk.operations();
    let mut follower = WalFollower::open(Arc::clone(&shared), small_config(), Sequence::FIRST)
        .expect("opened")
        .expect("begun");
    assert_eq!(disk.operations(), operations_of_follower, "a follower writes nothing");
    let mut next = Sequence::FIRST;
    let mut durable = Sequence::ZERO;
    for step in 0..120 {
        let ends = if writer.wants_segment_end() { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
        let open = step % 10 == 4;
        let flags = if open { FrameFlags::NONE } else { ends };
        let buffer = maker.commit(&writer, 2, open, flags);
        let before = durable;
        durable = writer.commit(buffer).expect("committed").durable;
        follower.refresh().expect("refreshed");
        assert!(follower.through() <= before, "the last commit proves the one before, not itself");
        next = drain(&mut follower, next);
        if !open && step % 3 == 0 {
            writer.idle().expect("idle");
            follower.refresh().expect("refreshed");
            assert_eq!(follower.through(), durable, "the idle block proves the last commit");
            next = drain(&mut follower, next);
        }
    }
    assert!(writer.segments().list().len() > 4);
    writer.idle().expect("idle");
    // One that begins in the middle, and one at the very end.
    for from in [Sequence(100), durable, durable.next()] {
        let mut late =
            WalFollower::open(Arc::clone(&shared), small_config(), from).expect("opened").expect("begun");
        let first = late.next_frame().expect("frames").map(|found| found.first_sequence());
        assert_eq!(first.is_none(), from > durable);
        assert!(first.is_none_or(|first| first <= from));
    }
    // Retention drops the oldest segments; asking for them is an error that says where the log begins.
    let first_kept = writer.releaser().release(Sequence(200), 0).expect("released");
    assert!(first_kept > Sequence::FIRST && first_kept <= Sequence(201));
    let error = WalFollower::open(Arc::clone(&shared), small_config(), Sequence::FIRST).expect_err("dropped");
    assert!(
        matches!(error, WalError::BelowRetention { first_kept: found, .. } if found == first_kept),
        "{error}"
    );
    let reader = WalReader::new(Arc::clone(&shared), small_config(), writer.segments());
    assert!(matches!(reader.frames(Sequence(1), durable), Err(WalError::BelowRetention { .. })));
    drop(writer);
    let opened = wal::open(shared, small_config()).expect("opens without the dropped ones");
    assert_eq!((opened.head, opened.report.first_sequence), (maker.head, first_kept.0));
}

#[test]
fn a_follower_reports_damage_to_what_is_proven_instead_of_ending_early() {
    let disk = SimDisk::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let opened = wal::open(Arc::clone(&shared), small_config()).expect("opened");
    let (mut writer, mut maker) = (opened.writer, FrameMaker::new(opened.head, 1));
    for _ in 0..4 {
        let buffer = maker.commit(&writer, 1, false, FrameFlags::NONE);
        writer.commit(buffer).expect("committed");
    }
    writer.idle().expect("idle");
    let open = |disk: &SimDisk| WalFollower::open(Arc::new(disk.clone()), small_config(), Sequence::FIRST);
    let path = Path::new("wal/000000000001.wal");
    // A commit's header; its frames; a commit that was zeroed.
    let header = disk.kill_at(disk.operations());
    header.flip_bit(path, 8192 + 20, 1);
    let error = open(&header).expect_err("a later block proves it");
    assert!(matches!(error, WalError::Corrupt { ref damage, .. } if damage.offset == 8192), "{error}");
    let zeroed = disk.kill_at(disk.operations());
    zeroed.edit(path, |bytes| bytes[8192..12288].fill(0));
    assert!(matches!(open(&zeroed), Err(WalError::Corrupt { .. })));
    let frame = disk.kill_at(disk.operations());
    frame.flip_bit(path, 8192 + 300, 1);
    let mut follower = open(&frame).expect("headers are whole").expect("begun");
    assert!(follower.next_frame().expect("the first frame is whole").is_some());
    let error = loop {
        match follower.next_frame() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the damage was passed over"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("wal/000000000001.wal at byte"), "{error}");
}

#[test]
fn a_follower_survives_the_writers_crash_and_the_replacement_of_what_was_never_promised() {
    let disk = SimDisk::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let opened = wal::open(Arc::clone(&shared), small_config()).expect("opened");
    let (mut writer, mut maker) = (opened.writer, FrameMaker::new(opened.head, 1));
    let buffer = maker.commit(&writer, 2, false, FrameFlags::NONE);
    writer.commit(buffer).expect("committed");
    let kept = maker.head;
    let buffer = maker.commit(&writer, 2, true, FrameFlags::NONE);
    writer.commit(buffer).expect("committed");
    let mut follower = WalFollower::open(Arc::clone(&shared), small_config(), Sequence::FIRST)
        .expect("opened")
        .expect("begun");
    let next = drain(&mut follower, Sequence::FIRST);
    // The process dies inside a group; the next one drops it and writes something else in its place.
    drop(writer);
    let opened = wal::open(shared, small_config()).expect("opened");
    assert_eq!(opened.head, kept);
    let (mut writer, mut maker) = (opened.writer, FrameMaker::new(opened.head, 2));
    for _ in 0..3 {
        let buffer = maker.commit(&writer, 3, false, FrameFlags::NONE);
        writer.commit(buffer).expect("committed");
    }
    writer.idle().expect("idle");
    assert_eq!(follower.refresh().expect("refreshed"), maker.head.last_sequence);
    drain(&mut follower, next);
}

#[test]
fn a_follower_whose_segment_became_another_one_is_told_where_the_log_begins_now() {
    for stand_at_the_end in [false, true] {
        let disk = SimDisk::new(1);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let opened = wal::open(Arc::clone(&shared), small_config()).expect("opened");
        let (mut writer, mut maker) = (opened.writer, FrameMaker::new(opened.head, 1));
        let mut commit = |writer: &mut wal::Writer| {
            let ends = if writer.wants_segment_end() { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
            let buffer = maker.commit(writer, 2, false, ends);
            writer.commit(buffer).expect("committed");
            writer.maintain().expect("maintained");
        };
        for _ in 0..3 {
            commit(&mut writer);
        }
        let mut follower = WalFollower::open(Arc::clone(&shared), small_config(), Sequence::FIRST)
            .expect("opened")
            .expect("begun");
        let reader = WalReader::new(Arc::clone(&shared), small_config(), writer.segments());
        let mut frames = reader.frames(Sequence::FIRST, Sequence::MAX).expect("frames");
        frames.next_frame().expect("a frame").expect("there");
        if stand_at_the_end {
            while follower.next_frame().expect("frames").is_some() {}
        }
        // Until the file of segment 1 holds commits of a later segment.
        while !disk.describe_trace().iter().any(|line| line.contains("000000000001.wal.free to")) {
            commit(&mut writer);
            writer.releaser().release(Sequence::MAX, 0).expect("released");
        }
        let rotated = writer.segments().list().last().expect("one").number;
        while writer.segments().list().last().expect("one").number.0 < rotated.0 + 2 {
            commit(&mut writer);
        }
        let begins = writer.segments().first_sequence().expect("one");
        let gone = |error: WalError| {
            let WalError::BelowRetention { asked, first_kept } = error else { panic!("{error}") };
            assert_eq!(first_kept, begins);
            assert!(asked < first_kept);
        };
        gone(follower.refresh().expect_err("its segment is another one"));
        let error = loop {
            match frames.next_frame() {
                Ok(Some(found)) => assert!(found.first_sequence() < begins),
                Ok(None) => panic!("the frames ended early"),
                Err(error) => break error,
            }
        };
        gone(error);
        gone(reader.frames(Sequence::FIRST, Sequence::MAX).expect_err("not there"));
    }
}
