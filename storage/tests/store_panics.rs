//! A thread that panics takes nobody with it into waiting for ever: its store says so, and takes nothing more.

mod model;
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Sender, channel};

use matchtape_schemas::event::EventRef;
use matchtape_schemas::*;
use matchtape_storage::sim::SimDisk;
use matchtape_storage::wal::{
    self, AppendError, CommitObserver, Committed, GroupCommit, GroupCommitOptions, Preparation, WalConfig,
    WalError, WhenFull,
};
use matchtape_storage::{
    Access, Caching, Disk, DiskError, DiskFile, DiskLock, Entry, EventStore, FlushError, LockError,
    LockHolder, StoreMistakes, StoreOptions,
};
use model::{Driven, small_options};
use support::{FrameMaker, small_config};

/// Tells of the end; panics at a commit if it is told to.
struct Observer {
    panic_at: Option<u64>,
    commits: u64,
    failed: Sender<Arc<WalError>>,
}

impl CommitObserver for Observer {
    fn committed(&mut self, _: &Committed) {
        self.commits += 1;
        assert!(self.panic_at != Some(self.commits), "the observer is at its end");
    }

    fn durable(&mut self, _: Sequence) {}

    fn failed(&mut self, error: &Arc<WalError>) {
        self.failed.send(Arc::clone(error)).expect("the test listens");
    }
}

const WAIT: GroupCommitOptions = GroupCommitOptions {
    full_buffers_max: 1,
    when_full: WhenFull::Wait,
    spin: std::time::Duration::ZERO,
    idle_after: std::time::Duration::from_millis(1),
};

/// Appends until the log ends; returns why.
fn append_until_the_end(log: &GroupCommit, maker: &mut FrameMaker) -> Arc<WalError> {
    loop {
        let flags = if log.wants_segment_end() { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
        match log.append(8192, |space| maker.write(space, 2, false, flags)) {
            Ok(_) => {}
            Err(AppendError::Ended(error)) => return error,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn an_observer_that_panics_ends_the_log_and_a_waiting_appender_is_told() {
    let disk = SimDisk::new(1);
    let opened = wal::open(Arc::new(disk.clone()), small_config()).expect("opened");
    let mut maker = FrameMaker::new(opened.head, 1);
    let (failed, failure) = channel();
    let log = GroupCommit::start(opened.writer, Observer { panic_at: Some(3), commits: 0, failed }, WAIT);
    let ended = append_until_the_end(&log, &mut maker);
    let told = failure.recv().expect("the observer is told");
    for error in [ended, told] {
        let said = error.to_string();
        assert!(said.contains("wal-commit") && said.contains("the observer is at its end"), "{said}");
    }
    assert!(matches!(log.close(), Err(WalError::Poisoned(_))));
    // Two commits were told of; the third was written.
    let again = wal::open(Arc::new(disk.clone()), small_config()).expect("opens again");
    assert!(again.head.last_sequence >= Sequence(6));
}

/// A disk that panics once: where a segment is prepared, or a table removed, for the so manieth time. Zero: never.
#[derive(Debug)]
struct Trap {
    disk: SimDisk,
    at: Arc<AtomicI64>,
}

impl Trap {
    fn spring(&self, trodden: bool) {
        assert!(!trodden || self.at.fetch_sub(1, Ordering::AcqRel) != 1, "a trap");
    }
}

impl Disk for Trap {
    fn open(&self, path: &Path, access: Access, caching: Caching) -> Result<Arc<dyn DiskFile>, DiskError> {
        let preparing = path.extension().is_some_and(|extension| extension == "new");
        self.spring(preparing && path.starts_with("wal"));
        self.disk.open(path, access, caching)
    }
    fn list(&self, directory: &Path) -> Result<Vec<Entry>, DiskError> {
        self.disk.list(directory)
    }
    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.create_directory(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.spring(path.extension().is_some_and(|extension| extension == "index" || extension == "events"));
        self.disk.remove(path)
    }
    fn hard_link(&self, existing: &Path, new: &Path) -> Result<(), DiskError> {
        self.disk.hard_link(existing, new)
    }
    fn sync_directory(&self, directory: &Path) -> Result<(), DiskError> {
        self.disk.sync_directory(directory)
    }
    fn lock(&self, path: &Path, holder: &LockHolder) -> Result<Box<dyn DiskLock>, LockError> {
        self.disk.lock(path, holder)
    }
    fn free_bytes(&self) -> Result<u64, DiskError> {
        self.disk.free_bytes()
    }
    fn random(&self, bytes: &mut [u8]) -> Result<(), DiskError> {
        self.disk.random(bytes)
    }
}

#[test]
fn a_panic_while_the_next_segment_is_prepared_ends_the_log_instead_of_its_rotation_waiting_for_ever() {
    let at = Arc::new(AtomicI64::new(0));
    let disk: Arc<dyn Disk> = Arc::new(Trap { disk: SimDisk::new(1), at: Arc::clone(&at) });
    let config = WalConfig { preparation: Preparation::Background, ..small_config() };
    let opened = wal::open(disk, config).expect("opened");
    at.store(1, Ordering::Release);
    let mut maker = FrameMaker::new(opened.head, 1);
    let (failed, failure) = channel();
    let log = GroupCommit::start(opened.writer, Observer { panic_at: None, commits: 0, failed }, WAIT);
    let ended = append_until_the_end(&log, &mut maker);
    assert!(ended.to_string().contains("wal-segments panicked: a trap"), "{ended}");
    assert!(failure.recv().expect("told").to_string().contains("wal-segments"));
    assert!(matches!(log.close(), Err(WalError::Poisoned(_))));
}

#[test]
fn a_merge_that_panics_after_the_manifest_names_its_tables_leaves_them_there() {
    let mut in_a_merge = 0;
    for place in 1.. {
        let at = Arc::new(AtomicI64::new(0));
        let disk = SimDisk::new(1);
        let trap: Arc<dyn Disk> = Arc::new(Trap { disk: disk.clone(), at: Arc::clone(&at) });
        let (mut driven, _) = Driven::open(trap, small_options(), Vec::new(), 3).expect("created");
        for _ in 0..12 {
            driven.append(3, true);
            driven.store.flush().expect("flushed");
        }
        // The tables that one merge has replaced are removed by the next one, when that is durable.
        at.store(place, Ordering::Release);
        let compacted = catch_unwind(AssertUnwindSafe(|| driven.store.compact(&mut |_| true)));
        if at.load(Ordering::Acquire) > 0 {
            break;
        }
        // Or, in the end, by nobody's merge.
        if let Ok(outcome) = compacted {
            let error = outcome.expect_err("it panicked").to_string();
            assert!(error.contains("a trap"), "{error}");
            in_a_merge += 1;
        }
        driven.check(20);
        assert!(driven.store.verify(&mut |_| {}).expect("readable").is_sound());
        let events = driven.events.clone();
        drop(driven);
        disk.kill();
        let (mut driven, _) = Driven::open(Arc::new(disk), small_options(), events, 4).expect("opened");
        driven.check(20);
        assert!(driven.store.verify(&mut |_| {}).expect("readable").is_sound());
    }
    assert!(in_a_merge > 2, "{in_a_merge}");
}

/// Panics at its hundredth event.
struct Fragile {
    events: u64,
}

impl Projection for Fragile {
    fn name(&self) -> &'static str {
        "fragile"
    }
    fn version(&self) -> u32 {
        1
    }
    fn apply(&mut self, _: &EventRef<'_>) {
        self.events += 1;
        assert!(self.events < 100, "a projection with a bug");
    }
    fn save(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.events.to_le_bytes());
    }
    fn restore(&mut self, _: &[u8]) -> Result<(), ProjectionError> {
        Ok(())
    }
}

/// Commits frames of small events through the store's own writer until `done` says stop.
fn fill(store: &EventStore, done: impl Fn(u64) -> bool) {
    let mut writer = store.take_writer().expect("not taken yet");
    let mut maker = FrameMaker::new(store.head(), 1);
    let mut commits = 0;
    while !done(commits) {
        let flags = if writer.wants_segment_end() { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
        let buffer = maker.commit(&writer, 8, false, flags);
        let committed = writer.commit(buffer).expect("the log is well");
        store.committed(&committed);
        store.visible().raise(committed.durable);
        commits += 1;
    }
}

#[test]
fn a_projection_that_panics_ends_flushing_and_the_store_says_which_thread_and_why() {
    let options = StoreOptions { workers: matchtape_storage::Workers::Threads, ..small_options() };
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    let (store, _) = EventStore::open(disk, options, vec![Box::new(Fragile { events: 0 })]).expect("opened");
    fill(&store, |_| store.health().is_err());
    let failure = store.health().expect_err("the loop ended with it");
    let FlushError::Panicked { thread, message } = &*failure else { panic!("{failure}") };
    assert_eq!((thread.as_str(), message.as_str()), ("store-flush", "a projection with a bug"));
    let error = store.close().expect_err("nothing is flushed any more");
    assert!(error.to_string().contains("a projection with a bug"), "{error}");
}

#[test]
fn a_projection_that_panics_in_the_callers_own_flush_is_an_error_and_is_not_given_events_again() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    let fragile: Vec<Box<dyn Projection>> = vec![Box::new(Fragile { events: 0 })];
    let (store, _) = EventStore::open(disk, small_options(), fragile).expect("opened");
    fill(&store, |commits| commits == 40);
    for _ in 0..2 {
        let error = store.flush().expect_err("the projection panics").to_string();
        assert!(error.contains("a projection with a bug"), "{error}");
    }
    assert!(store.health().is_err());
}

#[test]
fn an_indexing_thread_that_panics_is_told_by_the_store() {
    let mistakes = StoreMistakes { indexing_panics: true, ..StoreMistakes::default() };
    let options = StoreOptions { workers: matchtape_storage::Workers::Threads, mistakes, ..small_options() };
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    let (store, _) = EventStore::open(disk, options, Vec::new()).expect("opened");
    fill(&store, |_| store.health().is_err());
    let failure = store.health().expect_err("the loop ended with it");
    assert!(matches!(&*failure, FlushError::Panicked { thread, .. } if thread == "store-index"), "{failure}");
    assert!(store.close().is_err());
}
