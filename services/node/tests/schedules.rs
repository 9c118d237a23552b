//! Random schedules of real processes over the real bus: a node that publishes, readers of every tier that join, dawdle,
//! are stopped, continued and killed, a node that is stopped, killed and restarted under them. Every event that any of
//! them is given is checked where it arrives (`support/checker.rs`), and in the end against the log.
//!
//! A schedule that fails prints its seed. `MATCHTAPE_PROCESS_SEED=42` runs that one alone; what the machine does in between
//! is not in the seed, so it may take a few tries. `MATCHTAPE_PROCESS_SCHEDULES=1000` runs more of them.

#[path = "support/checker.rs"]
mod checker;
#[path = "support/script.rs"]
mod script;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use checker::Digest;
use matchtape_bus::{BusName, clean_dead_participants};
use matchtape_node::{BusOptions, StoreHistory};
use matchtape_schemas::{KindMask, Sequence};
use matchtape_storage::{ReadOnlyOptions, ReadOnlyStore, RealDisk};
use matchtape_subscription::{
    Delayed, DelayedOptions, End, Pace, Start, Subscription, Update, WindowCursor, WindowStart,
};
use rustix::process::{Pid, Signal, kill_process};
use script::Random;
use serde_json::Value;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Schedules that run at once: most of their time is waiting.
const AT_ONCE: u64 = 3;

#[derive(Default)]
struct Heard {
    lines: Vec<String>,
    ended: bool,
}

/// A process that is told what to do by lines and answers by lines.
struct Peer {
    what: String,
    child: Child,
    input: ChildStdin,
    heard: Arc<(Mutex<Heard>, Condvar)>,
    stopped: bool,
}

impl Peer {
    fn start(place: &Place, what: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_node-test-peer"))
            .arg(place.folder.path())
            .arg(&place.namespace)
            .args(what.split(' '))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("child");
        let input = child.stdin.take().expect("stdin");
        let heard = Arc::<(Mutex<Heard>, Condvar)>::default();
        let mut errors = BufReader::new(child.stderr.take().expect("stderr"));
        let (output, into) = (BufReader::new(child.stdout.take().expect("stdout")), Arc::clone(&heard));
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                into.0.lock().expect("no panic").lines.push(line);
                into.1.notify_all();
            }
            // It has ended: what it said about why comes last.
            let mut said = String::new();
            let _ = std::io::Read::read_to_string(&mut errors, &mut said);
            let mut heard = into.0.lock().expect("no panic");
            heard.lines.extend(said.lines().map(str::to_owned));
            heard.ended = true;
            into.1.notify_all();
        });
        Self { what: what.to_owned(), child, input, heard, stopped: false }
    }

    /// Waits for a line that `wanted` accepts.
    fn wait_for<T>(&self, what: &str, mut wanted: impl FnMut(&str) -> Option<T>) -> Result<T, String> {
        let deadline = Instant::now() + PATIENCE;
        let (lock, moved) = &*self.heard;
        let mut heard = lock.lock().expect("no panic");
        let mut looked = 0;
        loop {
            if let Some(found) = heard.lines[looked..].iter().find_map(|line| wanted(line)) {
                return Ok(found);
            }
            looked = heard.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || heard.ended {
                let tail = &heard.lines[heard.lines.len().saturating_sub(12)..];
                let ended = if heard.ended { "ended" } else { "was waited for" };
                return Err(format!(
                    "`{}` {ended} without {what}; it said last:\n  {}",
                    self.what,
                    tail.join("\n  ")
                ));
            }
            heard = moved.wait_timeout(heard, left).expect("no panic").0;
        }
    }

    /// Waits until it says that it is at `position` or beyond.
    fn wait_at(&self, position: u64) -> Result<(), String> {
        self.wait_for(&format!("reaching {position}"), |line| (at(line)? >= position).then_some(()))
    }

    /// The last line that says where it is.
    fn last_at(&self) -> Option<String> {
        let heard = self.heard.0.lock().expect("no panic");
        heard.lines.iter().rev().find(|line| at(line).is_some()).cloned()
    }

    fn position(&self) -> u64 {
        self.last_at().and_then(|line| at(&line)).unwrap_or(0)
    }

    fn tell(&mut self, line: &str) {
        // One that has ended says so where it is waited for.
        let _ = writeln!(self.input, "{line}").and_then(|()| self.input.flush());
    }

    fn signal(&mut self, signal: Signal) {
        self.stopped = signal == Signal::STOP;
        kill_process(Pid::from_child(&self.child), signal).expect("our own child");
    }

    /// `kill -9`; `Err` when it had found something wrong before.
    fn kill(mut self) -> Result<(), String> {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
        self.complaint()
    }

    fn complaint(&self) -> Result<(), String> {
        let heard = self.heard.0.lock().expect("no panic");
        let wrong =
            heard.lines.iter().find(|line| line.starts_with("violated") || line.starts_with("failed"));
        wrong.map_or(Ok(()), |line| Err(format!("`{}`: {line}", self.what)))
    }
}

/// The position in a line that says one.
fn at(line: &str) -> Option<u64> {
    let mut words = line.split(' ');
    matches!(words.next(), Some("at" | "ended")).then(|| words.next()?.parse().ok())?
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Place {
    folder: tempfile::TempDir,
    namespace: String,
}

impl Place {
    fn new(seed: u64) -> Self {
        // Of two runs in one process, too.
        static RUN: AtomicU64 = AtomicU64::new(0);
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        // One in four polls; the peers know it from the name.
        let wake_up = if seed % 4 == 3 { "-poll" } else { "" };
        let namespace = format!("s{}-{run}{wake_up}", std::process::id());
        Self { folder: tempfile::tempdir().expect("tempdir"), namespace }
    }

    fn store(&self) -> ReadOnlyStore {
        let disk = RealDisk::open(&self.folder.path().join("data")).expect("the node has made it");
        ReadOnlyStore::open(Arc::new(disk), ReadOnlyOptions::default()).expect("a tape")
    }

    fn bus(&self) -> BusName {
        let root = Some(self.folder.path().join("bus"));
        let options = BusOptions { namespace: self.namespace.clone(), root, ..BusOptions::default() };
        options.name(self.store().tape()).expect("a name")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.folder.path().join("data").exists() && !std::thread::panicking() {
            // Removes what killed processes have left in shared memory.
            let _ = clean_dead_participants(&self.bus());
        }
        forget_id_counters(&self.namespace);
    }
}

/// Removes the 16 bytes per namespace that iceoryx2 keeps for good.
fn forget_id_counters(namespace: &str) {
    for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("mt_{namespace}_")) && name.ends_with(".global_mgmt") {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

const TIERS: [&str; 6] = ["live", "speculative", "trades", "delayed", "historical", "paced"];

struct Reader {
    tier: &'static str,
    peer: Peer,
    /// The position and, for windows, the cursor it was told to begin with.
    from: String,
}

impl Reader {
    fn start(place: &Place, tier: &'static str, from: &str) -> Self {
        Self { tier, peer: Peer::start(place, &format!("check {tier} {from}")), from: from.to_owned() }
    }

    /// Where another one goes on when this one is killed.
    fn resume_from(&self) -> String {
        self.peer.last_at().map_or(self.from.clone(), |line| line.trim_start_matches("at ").to_owned())
    }
}

/// What one schedule reached.
#[derive(Default)]
struct Reached {
    events: u64,
    counts: Vec<(String, u64)>,
}

impl Reached {
    fn add(&mut self, verdict: &Value) {
        for (name, value) in verdict.as_object().expect("an object") {
            let Some(value) = value.as_u64().filter(|_| !name.contains("digest")) else { continue };
            match self.counts.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += value,
                None => self.counts.push((name.clone(), value)),
            }
        }
    }

    fn count(&self, name: &str) -> u64 {
        self.counts.iter().find(|(known, _)| known == name).map_or(0, |(_, sum)| *sum)
    }
}

struct Schedule<'a> {
    place: &'a Place,
    random: Random,
    node: Option<Peer>,
    readers: Vec<Reader>,
    buffer: u64,
    /// What was done, for who has to find out why it failed.
    story: Vec<String>,
}

impl<'a> Schedule<'a> {
    fn new(place: &'a Place, seed: u64) -> Self {
        let mut random = Random(seed);
        let buffer = 1 + random.below(6);
        Self { place, random, node: None, readers: Vec::new(), buffer, story: Vec::new() }
    }

    fn start_node(&mut self) -> Result<(), String> {
        let seed = self.random.next();
        let node = Peer::start(self.place, &format!("node {seed} {}", self.buffer));
        node.wait_for("opening", |line| line.starts_with("open").then_some(()))?;
        self.node = Some(node);
        Ok(())
    }

    fn node(&mut self) -> &mut Peer {
        self.node.as_mut().expect("between steps there is a node")
    }

    /// Ends the node in order.
    fn close(node: Option<Peer>) -> Result<(), String> {
        let mut node = node.expect("between steps there is a node");
        node.tell("close");
        let status = node.child.wait().expect("our own child");
        if status.success() { Ok(()) } else { Err(format!("the node ended with {status}")) }
    }

    fn join(&mut self) {
        let tier = TIERS[self.random.below(TIERS.len() as u64) as usize];
        let head = self.node().position();
        let from = match self.random.below(3) {
            0 => 1,
            1 => 1 + self.random.below(head.max(1)),
            // Not there yet: real-time readers wait for it.
            _ if matches!(tier, "live" | "speculative") && self.random.one_in(4) => {
                head + 1 + self.random.below(500)
            }
            _ => head.max(1),
        };
        self.story.push(format!("{tier} joins at {from}"));
        let mut reader = Reader::start(self.place, tier, &from.to_string());
        if self.random.one_in(4) {
            reader.peer.tell(&format!("dawdle {}", self.random.below(3_000)));
        }
        self.readers.push(reader);
    }

    /// Lets the node go on by this many events.
    fn go_on(&mut self, events: u64) -> Result<(), String> {
        let target = self.node().position() + events;
        self.node().wait_at(target)
    }

    fn pick(&mut self) -> Option<usize> {
        (!self.readers.is_empty()).then(|| self.random.below(self.readers.len() as u64) as usize)
    }

    fn step(&mut self) -> Result<(), String> {
        match self.random.below(14) {
            0..3 if self.readers.len() < 6 => self.join(),
            3..5 => {
                if let Some(index) = self.pick() {
                    self.story.push(format!("reader {index} is stopped"));
                    self.readers[index].peer.signal(Signal::STOP);
                }
            }
            5..7 => {
                for index in 0..self.readers.len() {
                    if self.readers[index].peer.stopped {
                        self.story.push(format!("reader {index} goes on"));
                        self.readers[index].peer.signal(Signal::CONT);
                    }
                }
            }
            7..9 => {
                if let Some(index) = self.pick() {
                    let reader = self.readers.swap_remove(index);
                    let (tier, from) = (reader.tier, reader.resume_from());
                    self.story.push(format!("{tier} reader {index} is killed, another begins at {from}"));
                    reader.peer.kill()?;
                    self.readers.push(Reader::start(self.place, tier, &from));
                }
            }
            9 => {
                self.story.push("the node is killed and restarted".into());
                let node = self.node.take().expect("between steps there is a node");
                node.kill()?;
                self.start_node()?;
            }
            10 => {
                self.story.push("the node ends and is restarted".into());
                self.node().tell("end");
                self.node().wait_for("ending", |line| line.starts_with("ended").then_some(()))?;
                Self::close(self.node.take())?;
                self.start_node()?;
            }
            11 => {
                self.story.push("the node is stopped".into());
                self.node().signal(Signal::STOP);
                // Whoever is live notices: three missed heartbeats.
                let live = self.readers.iter().find(|one| {
                    !one.peer.stopped && matches!(one.tier, "live" | "speculative" | "trades" | "delayed")
                });
                let heard = live.map(|live| {
                    let alarm = |line: &str| line.starts_with("alarm").then_some(());
                    live.peer.wait_for("an alarm", alarm)
                });
                self.node().signal(Signal::CONT);
                heard.transpose()?;
            }
            _ => self.go_on(2_000)?,
        }
        let events = self.random.below(600);
        self.go_on(events)?;
        self.readers.iter().try_for_each(|reader| reader.peer.complaint())
    }

    /// Lets everybody read to the end and compares what they were given with the log.
    fn end(&mut self) -> Result<Reached, String> {
        self.node().tell("end");
        let last = self.node().wait_for("ending", |line| at(line).filter(|_| line.starts_with("ended")))?;
        let node = self.node.take();
        let mut reached = Reached { events: last, ..Reached::default() };
        for reader in &mut self.readers {
            if reader.peer.stopped {
                reader.peer.signal(Signal::CONT);
            }
            reader.peer.tell("dawdle 0");
            reader.peer.tell(&format!("until {last}"));
        }
        let mut verdicts = Vec::new();
        for reader in &self.readers {
            if reader.tier == "paced" {
                // It would take as long as the tape took; what it was given so far has been checked.
                reader.peer.complaint()?;
                continue;
            }
            let verdict = |line: &str| line.strip_prefix("verdict ").map(str::to_owned);
            let verdict = reader.peer.wait_for("a verdict", verdict)?;
            let verdict: Value =
                serde_json::from_str(&verdict).map_err(|error| format!("{error}: {verdict}"))?;
            if verdict["verdict"] != "ok" {
                return Err(format!("`{}`: {verdict}", reader.peer.what));
            }
            reached.add(&verdict);
            verdicts.push((reader, verdict));
        }
        Self::close(node)?;
        verdicts.iter().try_for_each(|(reader, verdict)| self.compare(reader, verdict, last))?;
        Ok(reached)
    }

    fn compare(&self, reader: &Reader, verdict: &Value, last: u64) -> Result<(), String> {
        let got = |name: &str| verdict[name].as_u64().expect("a number");
        let differs = |what: &str, expected: u64, found: u64| {
            Err(format!("`{}`: {what} {found}, the log has {expected}: {verdict}", reader.peer.what))
        };
        if reader.tier == "delayed" {
            let (batches, digest) = replayed(self.place, &reader.from, last);
            if got("batches") != batches {
                return differs("batches", batches, got("batches"));
            }
            if got("batch_digest") != digest.0 {
                return differs("the digest of the batches", digest.0, got("batch_digest"));
            }
            return Ok(());
        }
        let kinds = if reader.tier == "trades" { KindMask::TRADES } else { KindMask::ALL };
        let (events, digest) = on_the_log(self.place, Sequence(got("first")), kinds);
        if got("events") != events {
            return differs("events", events, got("events"));
        }
        if got("digest") != digest.0 {
            return differs("the digest", digest.0, got("digest"));
        }
        Ok(())
    }
}

fn on_the_log(place: &Place, first: Sequence, kinds: KindMask) -> (u64, Digest) {
    let store = place.store();
    let (mut events, mut digest) = (0, Digest::EMPTY);
    if first > store.reader().visible() {
        return (events, digest);
    }
    let mut frames = store.reader().frames(first).expect("kept");
    while let Some(frame) = frames.next_frame().expect("readable") {
        let frame = frame.frame();
        for event in frame.events().filter(|event| event.sequence() >= first && kinds.contains(event.kind()))
        {
            events += 1;
            digest = digest.event(event.sequence(), event.epoch(), event.bytes());
        }
    }
    (events, digest)
}

fn replayed(place: &Place, from: &str, last: u64) -> (u64, Digest) {
    let words: Vec<i64> = from.split(' ').map(|word| word.parse().expect("a number")).collect();
    let first = Sequence(words[0] as u64);
    let start = match words[..] {
        [_, window, part] => {
            let next_part = (part > 0).then_some(part as u32);
            WindowStart::After(WindowCursor { window, next_part, last: first.previous() })
        }
        _ => WindowStart::From(Start::At(first)),
    };
    let options = DelayedOptions { start, ..DelayedOptions::default() };
    let history = StoreHistory::new(place.store().reader());
    let end = End::Through(Sequence(last));
    let mut replay = Delayed::replay(history, &options, end, Pace::AsFastAsPossible).expect("open");
    let (mut batches, mut digest) = (0, Digest::EMPTY);
    loop {
        match replay.next(PATIENCE).expect("read").expect("the tape reaches that far") {
            Update::Window(batch) => {
                batches += 1;
                digest = digest.with(batch.bytes());
            }
            Update::Ended { .. } => return (batches, digest),
            other => panic!("{other:?}"),
        }
    }
}

fn run(seed: u64) -> Result<Reached, String> {
    let place = Place::new(seed);
    let mut schedule = Schedule::new(&place, seed);
    let mut go = || {
        schedule.start_node()?;
        schedule.join();
        schedule.go_on(250)?;
        for _ in 0..16 {
            schedule.step()?;
        }
        schedule.end()
    };
    // A panic is this schedule's failure, not that of the others.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut go));
    let result = result.unwrap_or_else(|_| Err("panicked, see above".into()));
    result.map_err(|why| {
        format!(
            "seed {seed}: {why}\n  after: {}\n  again: MATCHTAPE_PROCESS_SEED={seed} cargo test -p matchtape-node --test \
             schedules",
            schedule.story.join("; ")
        )
    })
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

#[test]
fn every_reader_is_given_the_tape_and_nothing_else_whatever_happens_to_it_and_to_the_node() {
    if let Some(seed) = setting("MATCHTAPE_PROCESS_SEED") {
        let reached = run(seed).unwrap_or_else(|why| panic!("{why}"));
        println!("{} events; {:?}", reached.events, reached.counts);
        return;
    }
    let schedules = setting("MATCHTAPE_PROCESS_SCHEDULES").unwrap_or(100);
    let next = AtomicU64::new(0);
    let (mut sum, mut failures) = (Reached::default(), Vec::new());
    let results = std::thread::scope(|scope| {
        let worker = || {
            let mut results = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= schedules {
                    return results;
                }
                results.push(run(seed));
            }
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("schedules return errors"))
            .collect::<Vec<_>>()
    });
    for result in results {
        match result {
            Ok(reached) => {
                sum.events += reached.events;
                for (name, value) in &reached.counts {
                    sum.add(&serde_json::json!({ name.as_str(): value }));
                }
            }
            Err(why) => failures.push(why),
        }
    }
    println!("{schedules} schedules, {} events published; {:?}", sum.events, sum.counts);
    assert!(failures.is_empty(), "{} of {schedules} failed:\n{}", failures.len(), failures.join("\n"));
    // The schedules do reach what they are meant to try.
    if schedules >= 40 {
        for name in
            ["joined", "left", "lagging", "caught_up", "alarms", "restarts", "retractions", "batches", "late"]
        {
            assert!(sum.count(name) > 0, "no schedule had any {name}: {:?}", sum.counts);
        }
    }
}

/// What the checker is given is damaged inside its process: the line it ends with says so.
#[test]
fn a_checker_process_that_is_fed_a_damaged_tape_ends_with_a_verdict_that_says_so() {
    let place = Place::new(0);
    let mut schedule = Schedule::new(&place, 0);
    schedule.start_node().expect("a node");
    schedule.go_on(2_000).expect("events");
    for (damage, word) in [
        ("drop", "gap: event 1003 came after 1001"),
        ("duplicate", "duplicate: event 1002 came after 1002"),
        ("alter", "altered: event 1002"),
        ("reorder", "gap: event 1003 came after 1001"),
        ("old-term", "event 1002 is of epoch 0"),
    ] {
        for tier in ["live", "historical"] {
            let mut reader = Peer::start(&place, &format!("check {tier} 1 damage {damage} 1002"));
            reader
                .wait_for("a complaint", |line| line.starts_with("violated").then_some(()))
                .expect("a complaint");
            reader.tell("until 1500");
            let verdict =
                reader.wait_for("a verdict", |line| line.strip_prefix("verdict ").map(str::to_owned));
            let verdict: Value = serde_json::from_str(&verdict.expect("a verdict")).expect("JSON");
            let said = verdict["violations"].as_array().expect("what is wrong");
            let said = said.iter().any(|one| one.as_str().is_some_and(|one| one.starts_with(word)));
            assert!(said, "{tier}, {damage}: {verdict}");
            assert_eq!(verdict["verdict"], "violated");
            assert!(!reader.child.wait().expect("our own child").success(), "its exit code says so too");
        }
    }
}

/// The folder of the tests, when the process that owns it is gone, is not the next one's.
#[test]
fn a_schedule_leaves_nothing_in_shared_memory() {
    let place = Place::new(3);
    let namespace = place.namespace.clone();
    {
        let mut schedule = Schedule::new(&place, 3);
        schedule.start_node().expect("a node");
        schedule.join();
        schedule.go_on(500).expect("events");
        schedule.node.take().expect("running").kill().expect("nothing to complain of");
        for reader in schedule.readers.drain(..) {
            reader.peer.kill().expect("nothing to complain of");
        }
    }
    drop(place);
    let left: Vec<_> = std::fs::read_dir(Path::new("/dev/shm"))
        .expect("shared memory")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(&format!("mt_{namespace}_")))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
