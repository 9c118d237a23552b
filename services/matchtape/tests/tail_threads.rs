//! Where `tail` runs and how it waits: on the core that it is given, asleep or looking again and again.

mod shared_memory;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use matchtape_bus::BusConfig;
use matchtape_node::{BusOptions, Node, NodeOptions};
use shared_memory::Namespace;

const PATIENCE: Duration = Duration::from_secs(60);

struct Place {
    folder: tempfile::TempDir,
    namespace: Namespace,
}

impl Place {
    fn new(test: &str) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), namespace: Namespace::new(test) }
    }

    fn tape(&self) -> PathBuf {
        self.folder.path().join("tape")
    }

    fn node(&self) -> Node {
        let bus = BusOptions {
            namespace: self.namespace.as_str().into(),
            root: Some(self.folder.path().join("bus")),
            config: BusConfig { subscribers_max: 2, buffer_samples: 8, ..BusConfig::default() },
            ..BusOptions::default()
        };
        let mut options = NodeOptions { bus: Some(bus), ..NodeOptions::default() };
        options.store.wal.segment_bytes = 1 << 20;
        Node::open(&self.tape(), options, Vec::new()).unwrap()
    }

    fn tail(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_matchtape"));
        command
            .arg("tail")
            .arg("--data")
            .arg(self.tape())
            .arg("--bus-root")
            .arg(self.folder.path().join("bus"));
        command.args(["--namespace", self.namespace.as_str()]).args(args);
        command
    }
}

/// A `tail` that is live.
struct Tail {
    child: Child,
    said: Receiver<String>,
}

impl Tail {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, said) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // Ends with the child.
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let tail = Self { child, said };
        while !tail.said.recv_timeout(PATIENCE).expect("it says that it is live").starts_with("live from") {}
        tail
    }

    /// What the system says about its reading thread, which is its main one.
    fn status(&self, key: &str) -> String {
        let task = self.child.id();
        let status = std::fs::read_to_string(format!("/proc/{task}/task/{task}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
        line.trim().to_owned()
    }

    /// Processor time of the thread so far, in the system's ticks: hundredths of a second.
    fn ticks(&self) -> u64 {
        let task = self.child.id();
        let stat = std::fs::read_to_string(format!("/proc/{task}/task/{task}/stat")).unwrap();
        // Behind the name, which may hold anything: state is the first field, user and system time the 12th and 13th.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// How often it went to sleep while it took `ticks`, or else in a second.
    fn sleeps(&self, ticks: u64) -> (u64, u64) {
        let count = || self.status("voluntary_ctxt_switches").parse::<u64>().unwrap();
        let (begun, before, slept) = (Instant::now(), self.ticks(), count());
        while self.ticks() - before < ticks && begun.elapsed() < Duration::from_secs(1) {
            std::thread::sleep(Duration::from_millis(10));
        }
        (count() - slept, self.ticks() - before)
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_tail_runs_on_the_core_it_is_given_and_a_core_that_is_not_there_is_refused_with_those_that_are() {
    let place = Place::new("core");
    let node = place.node();
    let free = Tail::start(place.tail(&[])).status("Cpus_allowed_list");
    let last = free.rsplit([',', '-']).next().unwrap();
    let bound = Tail::start(place.tail(&["--core", last]));
    assert_eq!(bound.status("Cpus_allowed_list"), last);
    if free == last {
        eprintln!("NOT CHECKED: that a tail is bound, for there is one core only");
    }
    drop(bound);
    let output = place.tail(&["--core", "100000"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--core 100000 is none of those this process may use: "), "{said}");
    node.close().unwrap();
}

#[test]
fn a_tail_sleeps_unless_it_is_told_to_poll() {
    let place = Place::new("poll");
    let node = place.node();
    let (slept, took) = Tail::start(place.tail(&[])).sleeps(50);
    assert!(slept >= 5, "it slept {slept} times, and took {took} hundredths of a second");
    // A machine that is busy makes it wait for other reasons, too: one look of several at which it does not sleep is enough.
    let tail = Tail::start(place.tail(&["--wake-up", "busy-poll"]));
    let mut looks = Vec::new();
    while looks.last().is_none_or(|(slept, _)| *slept >= 5) {
        assert!(looks.len() < 10, "it slept, and took hundredths of a second: {looks:?}");
        looks.push(tail.sleeps(20));
    }
    drop(tail);
    node.close().unwrap();
}
