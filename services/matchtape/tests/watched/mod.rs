//! The judge beside a test's node: `matchtape watch`, a process of its own that begins at a random moment and has to end clean.
#![allow(dead_code, reason = "each test uses its part")]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::shared_memory::Namespace;

const PATIENCE: Duration = Duration::from_secs(60);
/// It begins within this time.
const BEGINS_WITHIN_MS: u64 = 100;

/// Chance that no two have the same of.
fn chance(below: u64) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) % below
}

/// A bus of a test's own, for a node in another process, and the judge on it.
pub struct Bus {
    // Ended before what it reads is removed.
    watched: Option<Watched>,
    pub namespace: Namespace,
    root: TempDir,
}

impl Bus {
    pub fn new(test: &str) -> Self {
        Self { watched: None, namespace: Namespace::new(test), root: tempfile::tempdir().unwrap() }
    }

    /// What makes `matchtape serve` use it: few places, for many tests run at once in one /dev/shm.
    pub fn settings(&self) -> [(&'static str, String); 5] {
        [
            ("MATCHTAPE_BUS__NAMESPACE", self.namespace.as_str().to_owned()),
            ("MATCHTAPE_BUS__ROOT", self.root.path().to_str().unwrap().to_owned()),
            ("MATCHTAPE_BUS__SUBSCRIBERS_MAX", "2".to_owned()),
            ("MATCHTAPE_BUS__BUFFER_FRAMES", "8".to_owned()),
            ("MATCHTAPE_INGRESS__PRODUCERS_MAX", "1".to_owned()),
        ]
    }

    /// Starts the judge beside the node that writes `tape`, unless there is one from before it was killed.
    pub fn watch(&mut self, tape: &Path) {
        let Self { watched, namespace, root } = self;
        watched.get_or_insert_with(|| Watched::start(tape, namespace, root.path()));
    }

    /// The same, from there on.
    pub fn watch_from(&mut self, tape: &Path, from: &str) {
        let Self { watched, namespace, root } = self;
        watched.get_or_insert_with(|| Watched::with(tape, namespace, root.path(), &["--from", from]));
    }

    /// Waits until the judge has heard the bus, for a node that will not be there for long.
    pub fn is_joined(&self) {
        self.watched.as_ref().expect("it was started").wait_for("live from sequence", 1);
    }

    /// Ends the judge, to be called while the node runs: everything was right. Its verdict, if there was one.
    pub fn ends_clean(&mut self) -> Option<Value> {
        self.watched.take().map(Watched::ends_clean)
    }
}

/// What it says on standard error.
#[derive(Default)]
struct Heard {
    lines: Mutex<(Vec<String>, bool)>,
    moved: Condvar,
}

/// A `matchtape watch`.
pub struct Watched {
    args: Vec<String>,
    child: Receiver<Child>,
    started: Option<Child>,
    heard: Arc<Heard>,
    starter: Option<JoinHandle<()>>,
}

impl Watched {
    /// Of what is visible, from the beginning or from where the tape is when it begins.
    pub fn start(tape: &Path, namespace: &Namespace, root: &Path) -> Self {
        let from = if chance(2) == 0 { "beginning" } else { "new" };
        Self::with(tape, namespace, root, &["--from", from])
    }

    pub fn with(tape: &Path, namespace: &Namespace, root: &Path, args: &[&str]) -> Self {
        let place = ["--data", tape.to_str().unwrap(), "--namespace", namespace.as_str(), "--bus-root"];
        let fixed = ["watch", "--format", "json"].iter().chain(&place);
        let mut all: Vec<String> = fixed.chain(args).map(|arg| (*arg).to_owned()).collect();
        all.insert(8, root.to_str().unwrap().to_owned());
        let (sender, child) = channel();
        let heard = Arc::<Heard>::default();
        let (args, into) = (all.clone(), Arc::clone(&heard));
        let moment = Duration::from_millis(chance(BEGINS_WITHIN_MS));
        let starter = std::thread::spawn(move || {
            std::thread::sleep(moment);
            let mut child = Command::new(env!("CARGO_BIN_EXE_matchtape"))
                .args(&all)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let said = BufReader::new(child.stderr.take().unwrap());
            // Nobody may want it any more: it is ended then.
            if let Err(unwanted) = sender.send(child) {
                let mut child = unwanted.0;
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
            for line in said.lines().map_while(Result::ok) {
                into.lines.lock().0.push(line);
                into.moved.notify_all();
            }
            into.lines.lock().1 = true;
            into.moved.notify_all();
        });
        Self { args, child, started: None, heard, starter: Some(starter) }
    }

    fn child(&mut self) -> &mut Child {
        let child = &self.child;
        self.started.get_or_insert_with(|| child.recv_timeout(PATIENCE).expect("it starts"))
    }

    pub fn signal(&mut self, signal: Signal) {
        kill_process(Pid::from_child(self.child()), signal).unwrap();
    }

    /// Waits until it has said this so many times.
    pub fn wait_for(&self, words: &str, times: usize) {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.heard.lines.lock();
        while lines.0.iter().filter(|line| line.contains(words)).count() < times {
            assert!(!lines.1, "{:?} ended without {words:?}: {}", self.args, lines.0.join("\n"));
            let late = self.heard.moved.wait_until(&mut lines, deadline).timed_out();
            assert!(!late, "{:?} does not say {words:?}: {}", self.args, lines.0.join("\n"));
        }
    }

    /// Whether it has said this; it has not ended.
    pub fn has_said(&self, words: &str) -> bool {
        let lines = self.heard.lines.lock();
        assert!(!lines.1, "{:?} ended: {}", self.args, lines.0.join("\n"));
        lines.0.iter().any(|line| line.contains(words))
    }

    /// Ends it once it has heard the bus. Its exit code and its verdict.
    pub fn stop(mut self) -> (Option<i32>, Value) {
        self.wait_for("live from sequence", 1);
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Waits for its end. Its exit code and its verdict.
    pub fn ended(mut self) -> (Option<i32>, Value) {
        let mut said = String::new();
        let mut out = self.child().stdout.take().unwrap();
        out.read_to_string(&mut said).unwrap();
        let code = self.child().wait().unwrap().code();
        self.starter.take().unwrap().join().unwrap();
        let lines = self.heard.lines.lock().0.join("\n");
        let verdict = serde_json::from_str(&said);
        (code, verdict.unwrap_or_else(|_| panic!("{:?}: {code:?}, {said:?}\n{lines}", self.args)))
    }

    /// Ends it once it has heard the bus: everything was right, and was compared. Its verdict.
    pub fn ends_clean(self) -> Value {
        let (args, heard) = (self.args.clone(), Arc::clone(&self.heard));
        let (code, verdict) = self.stop();
        let said = heard.lines.lock().0.join("\n");
        // One that came late may have read everything from the log, and a node that has ended is silent.
        let missing = verdict["missing"].as_str().unwrap_or_default();
        let alone = ["none of the", "the bus was silent"].iter().any(|words| missing.starts_with(words));
        let expected = if alone { (Some(1), &"incomplete".into()) } else { (Some(0), &"clean".into()) };
        assert_eq!((code, &verdict["verdict"]), expected, "{args:?}: {verdict}\n{said}");
        verdict
    }
}

/// A test that fails leaves none behind.
impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(mut child) = self.started.take().or_else(|| self.child.try_recv().ok()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
