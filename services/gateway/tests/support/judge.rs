//! A bus of a test's own, and the judge on it: a thread with a subscription that begins at a random moment, and has to find every
//! event right, and on the log. On such a bus it has to have come to it before it is ended.

#![allow(dead_code, reason = "each test file uses its part")]

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use matchtape_bus::{BusConfig, BusService, WakeUp};
use matchtape_node::{BusOptions, FollowedHistory, Node, NodeOptions};
use matchtape_storage::{Disk, ReadOnlyOptions, ReadOnlyStore, RealDisk};
use matchtape_subscription::check::{Checker, Promise, Watch};
use matchtape_subscription::{BusLive, RealTime, RealTimeOptions, Start, Subscription, Update};

const PATIENCE: Duration = Duration::from_secs(20);
/// How soon it notices that it is to end.
const TURN: Duration = Duration::from_millis(20);

/// To be dropped before the directory that it reads.
pub struct Judge {
    bus: BusOptions,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), String>>>,
    /// Says once that events have come to it from the bus.
    joined: Option<Receiver<()>>,
    /// Of a bus that it has for itself.
    root: Option<tempfile::TempDir>,
}

impl Judge {
    pub fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let root = tempfile::tempdir().unwrap();
        let bus = BusOptions {
            namespace: format!("gw{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed)),
            root: Some(root.path().join("bus")),
            // Small: many tests run at once in one /dev/shm.
            config: BusConfig {
                subscribers_max: 1,
                subscribers_spare: 1,
                buffer_samples: 8,
                ..BusConfig::default()
            },
            ..BusOptions::default()
        };
        let mut judge = Self::on(bus);
        judge.root = Some(root);
        judge
    }

    /// On a bus that others have.
    pub fn on(bus: BusOptions) -> Self {
        Self { bus, stop: Arc::default(), thread: None, joined: None, root: None }
    }

    /// A node on such a bus, judged.
    pub fn node(directory: &Path, options: NodeOptions) -> (Self, Node) {
        let mut judge = Self::new();
        let options = NodeOptions { bus: judge.bus(), ..options };
        let node = Node::open(directory, options, Vec::new()).unwrap();
        judge.watch(directory);
        (judge, node)
    }

    /// The bus of the test's nodes, one after the other.
    pub fn bus(&self) -> Option<BusOptions> {
        Some(self.bus.clone())
    }

    /// Begins to judge the tape in `directory`, which need not be there yet; unless it has begun, or was
    /// ended.
    pub fn watch(&mut self, directory: &Path) {
        let directory = directory.to_owned();
        self.watch_on(move || Some(Arc::new(RealDisk::open(&directory).ok()?)));
    }

    /// The same, of the tape on this disk.
    pub fn watch_on(&mut self, disk: impl Fn() -> Option<Arc<dyn Disk>> + Send + 'static) {
        if self.thread.is_none() && !self.stop.load(Ordering::Relaxed) {
            let (bus, stop, (joins, joined)) = (self.bus.clone(), Arc::clone(&self.stop), channel());
            let store = move || ReadOnlyStore::open(disk()?, ReadOnlyOptions::default()).ok();
            self.thread = Some(std::thread::spawn(move || judge(&bus, &store, &stop, &joins)));
            self.joined = Some(joined);
        }
    }

    /// Waits until events come to it from the bus, to be called before the last node on it ends: else it may read the log alone.
    pub fn joins(&mut self) {
        if let Some(joined) = self.joined.take() {
            // One that has ended says below why.
            let late = joined.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
            assert!(!late, "the judge beside this test never came to the bus");
        }
    }
}

fn judge(
    bus: &BusOptions,
    store: &dyn Fn() -> Option<ReadOnlyStore>,
    stop: &AtomicBool,
    joins: &Sender<()>,
) -> Result<(), String> {
    let chance = RandomState::new().hash_one(0);
    std::thread::park_timeout(Duration::from_millis(chance % 20));
    let read = loop {
        match store() {
            Some(store) => break store,
            None if stop.load(Ordering::Relaxed) => return Ok(()),
            None => std::thread::park_timeout(TURN),
        }
    };
    let name = bus.name(read.tape()).map_err(|error| error.to_string())?;
    let live = BusLive::new(&name, BusService::Live, WakeUp::Event, Duration::ZERO);
    let start = if chance.is_multiple_of(3) { Start::New } else { Start::Beginning };
    let options = RealTimeOptions { start, ..RealTimeOptions::default() };
    let reader = RealTime::open(FollowedHistory::new(read), live, options).map_err(|e| e.to_string())?;
    let checker = Checker::new(Promise::VISIBLE, reader.position(), ());
    let log = FollowedHistory::new(store().expect("it was there"));
    let mut watch = Watch::new(reader, log, checker);
    while !stop.load(Ordering::Relaxed) {
        let mut tell = |update: &Update<'_>| {
            if matches!(update, Update::LiveJoined { .. }) {
                // Of the first time alone somebody wants to know.
                let _ = joins.send(());
            }
        };
        watch.step(TURN, &mut tell).map_err(|error| error.to_string())?;
    }
    let settled =
        watch.settle(watch.end_by_now(), PATIENCE, &mut |_| ()).map_err(|error| error.to_string())?;
    let checker = watch.checker();
    if settled && checker.is_clean() {
        return Ok(());
    }
    let (violations, counts, left) = (checker.violations(), checker.counts(), checker.uncompared());
    Err(format!("from {start:?}, settled {settled}, uncompared {left:?}: {violations:?}, {counts:?}"))
}

impl Judge {
    /// Ends it, for good, while a node is on its bus: everything was right.
    pub fn end(&mut self) {
        self.joins();
        is_right(self.stop());
    }

    fn stop(&mut self) -> Option<std::thread::Result<Result<(), String>>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join)
    }
}

fn is_right(verdict: Option<std::thread::Result<Result<(), String>>>) {
    if let Some(verdict) = verdict
        && !std::thread::panicking()
    {
        assert_eq!(verdict.expect("no panic"), Ok(()), "the judge of every event beside this test");
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        // Others may not have come to their bus at all.
        if self.root.is_some() && !std::thread::panicking() {
            self.joins();
        }
        let verdict = self.stop();
        // The 16 bytes that iceoryx2 keeps for good.
        let begin = format!("mt_{}_", self.bus.namespace);
        let files = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
        for entry in files.filter(|_| self.root.is_some()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&begin) && name.ends_with(".global_mgmt") {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        is_right(verdict);
    }
}
