//! Random schedules of real processes over the real bus: a node that publishes, a publisher outside of it and readers of every
//! tier that join, dawdle, are stopped, continued and killed, a node that is stopped, killed and restarted under them. Every
//! event that any of them is given is checked where it arrives (`support/checker.rs`), and in the end against the log.
//!
//! A schedule is a few such steps in a row, most often one to seven. It begins with readers of its own and ends with the
//! account of each, compared with the log. What costs most is making a tape and a bus, so several schedules in succession
//! share them: the tape only grows, and the node that a schedule finds may be one that another killed.
//!
//! A schedule that fails prints its seed. `MATCHTAPE_PROCESS_SEED=42` runs that one alone, on a tape of its own; what the
//! machine does in between is not in the seed, so it may take a few tries. `MATCHTAPE_PROCESS_SCHEDULES=10000` runs more of
//! them.

#[path = "support/script.rs"]
mod script;

use std::io::{BufRead, BufReader, Write};
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use matchtape_bus::{BusName, clean_dead_participants};
use matchtape_node::{BusOptions, StoreHistory};
use matchtape_schemas::{EventRef, KindMask, Sequence};
use matchtape_storage::{ReadOnlyOptions, ReadOnlyStore, RealDisk};
use matchtape_subscription::check::Digest;
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
/// Schedules that share a tape, one after the other.
const ON_ONE_TAPE: u64 = 10;
/// Steps of a schedule that is not a long one.
const STEPS_MAX: u64 = 7;

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

    /// Waits until what it has said meets `met`.
    fn wait_until<T>(&self, what: &str, mut met: impl FnMut(&[String]) -> Option<T>) -> Result<T, String> {
        let deadline = Instant::now() + PATIENCE;
        let (lock, moved) = &*self.heard;
        let mut heard = lock.lock().expect("no panic");
        loop {
            if let Some(found) = met(&heard.lines) {
                return Ok(found);
            }
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

    /// Waits for a line that `wanted` accepts.
    fn wait_for<T>(&self, what: &str, mut wanted: impl FnMut(&str) -> Option<T>) -> Result<T, String> {
        self.wait_until(what, |lines| lines.iter().find_map(|line| wanted(line)))
    }

    /// Waits until its last word about heartbeats is that they are missing.
    fn wait_alarmed(&self) -> Result<(), String> {
        self.wait_until("an alarm", |lines| {
            let word = |line: &String| line.split(' ').next().map(str::to_owned);
            let last = lines.iter().rev().filter_map(word).find(|word| word == "alarm" || word == "heard");
            (last? == "alarm").then_some(())
        })
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

    /// The number in the last line that begins so.
    fn last_of(&self, word: &str) -> Option<u64> {
        let heard = self.heard.0.lock().expect("no panic");
        heard.lines.iter().rev().find_map(|line| line.strip_prefix(word)?.parse().ok())
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
    matches!(words.next(), Some("open" | "at" | "ended")).then(|| words.next()?.parse().ok())?
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
    /// Whatever is left in shared memory is removed.
    sweeps: bool,
}

impl Place {
    fn new(seed: u64) -> Self {
        // Of two runs in one process, too.
        static RUN: AtomicU64 = AtomicU64::new(0);
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        // One in eight polls; the peers know it from the name. More would be a test of how cores are shared.
        let wake_up = if seed % 8 == 3 { "-poll" } else { "" };
        let namespace = format!("s{}-{run}{wake_up}", std::process::id());
        Self { folder: tempfile::tempdir().expect("tempdir"), namespace, sweeps: false }
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
        for (path, name) in in_shared_memory(&self.namespace) {
            // 16 bytes per namespace that iceoryx2 keeps for good; and what a process was just making when it was killed.
            if name.ends_with(".global_mgmt") || self.sweeps {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// Path and name of what there is.
fn in_shared_memory(namespace: &str) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir("/dev/shm").expect("shared memory").map(|entry| entry.expect("entry"));
    let entries = entries.map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned()));
    entries.filter(|(_, name)| name.starts_with(&format!("mt_{namespace}_"))).collect()
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

/// The publisher that is a process of its own.
#[derive(Default)]
struct Outside {
    /// `None`: there was none yet, or it was killed.
    peer: Option<Peer>,
    began: bool,
    /// The last number that a life that is over said to be durable.
    durable: u64,
    /// The last number when it was paused.
    last: u64,
    pauses: u64,
}

struct Schedule<'a> {
    place: &'a Place,
    random: Random,
    node: Option<Peer>,
    outside: Outside,
    readers: Vec<Reader>,
    buffer: u64,
    /// Where the tape was when the schedule began.
    begin: u64,
    /// What was done, for who has to find out why it failed.
    story: Vec<String>,
    /// How often each of the rarer steps was done.
    done: Vec<&'static str>,
    /// What the readers of the schedule said in the end.
    accounts: Vec<Account>,
}

/// What a reader said that it was given.
struct Account {
    tier: &'static str,
    what: String,
    /// Where it was told to begin, and to end.
    from: String,
    last: u64,
    verdict: Value,
}

impl<'a> Schedule<'a> {
    fn new(place: &'a Place, seed: u64) -> Self {
        let mut random = Random(seed);
        let buffer = 1 + random.below(6);
        let (readers, story, done, accounts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (node, outside) = (None, Outside::default());
        Self { place, random, node, outside, readers, buffer, begin: 0, story, done, accounts }
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

    /// Lets nobody publish any more until told to go on; returns the last event.
    fn pause(&mut self) -> Result<u64, String> {
        if self.outside.began {
            // What one that was killed had under way is on the tape or will never be, once another has begun.
            self.continue_outside();
            self.outside.pauses += 1;
            let paused = format!("paused {} ", self.outside.pauses);
            let peer = self.outside.peer.as_mut().expect("it goes on");
            peer.tell(&format!("pause {}", self.outside.pauses));
            self.outside.last = peer.wait_for("pausing", |line| line.strip_prefix(&paused)?.parse().ok())?;
            self.outside.look()?;
        }
        self.end_node()
    }

    /// Lets the node publish no more until it is told to go on; returns the last event.
    fn end_node(&mut self) -> Result<u64, String> {
        let node = self.node();
        node.tell("end");
        // The last line is of an earlier end until it has gone on.
        node.wait_until("ending", |lines| at(lines.last().filter(|line| line.starts_with("ended"))?))
    }

    /// Starts the publisher outside, or lets one that is stopped go on.
    fn continue_outside(&mut self) {
        match &mut self.outside.peer {
            Some(peer) if peer.stopped => {
                self.story.push("the publisher outside goes on".into());
                peer.signal(Signal::CONT);
            }
            Some(_) => {}
            None => {
                let seed = self.random.next();
                self.story.push("the publisher outside is started".into());
                self.done.push(if self.outside.began { "publisher_restarts" } else { "publisher_starts" });
                self.outside.began = true;
                self.outside.peer = Some(Peer::start(self.place, &format!("publish {seed}")));
            }
        }
    }

    /// Nobody waits for it: it may be at anything when the next step comes, also at beginning.
    fn step_outside(&mut self) -> Result<(), String> {
        let choice = self.random.below(3);
        match &mut self.outside.peer {
            Some(peer) if choice == 0 => {
                self.story.push("the publisher outside is killed".into());
                self.done.push(match (peer.stopped, peer.last_of("sent ").is_some()) {
                    (false, true) => "publisher_kills",
                    (false, false) => "publisher_kills_early",
                    (true, _) => "publisher_kills_stopped",
                });
                let durable = peer.last_of("durable ").unwrap_or(0).max(self.outside.last);
                self.outside.look()?;
                self.outside.durable = self.outside.durable.max(durable);
                self.outside.peer.take().expect("there is one").kill()
            }
            Some(peer) if choice == 1 && !peer.stopped => {
                self.story.push("the publisher outside is stopped".into());
                self.done.push("publisher_stops");
                peer.signal(Signal::STOP);
                Ok(())
            }
            Some(_) | None => {
                self.continue_outside();
                Ok(())
            }
        }
    }

    /// What the node is about to go away under.
    fn note_outside(&mut self, publishing: &'static str) {
        let sends = |peer: &Peer| !peer.stopped && peer.last_of("sent ").is_some();
        if self.outside.peer.as_ref().is_some_and(sends) {
            self.done.push(publishing);
        }
    }

    /// Ends everybody who publishes in order, once they are paused.
    fn close(&mut self) -> Result<(), String> {
        if let Some(mut peer) = self.outside.peer.take() {
            peer.tell("close");
            let status = peer.child.wait().expect("our own child");
            peer.complaint()?;
            if !status.success() {
                return Err(format!("the publisher outside ended with {status}"));
            }
        }
        self.close_node()
    }

    /// Ends a paused node in order.
    fn close_node(&mut self) -> Result<(), String> {
        let mut node = self.node.take().expect("between steps there is a node");
        node.tell("close");
        let status = node.child.wait().expect("our own child");
        if status.success() { Ok(()) } else { Err(format!("the node ended with {status}")) }
    }

    fn join(&mut self) {
        let tier = TIERS[self.random.below(TIERS.len() as u64) as usize];
        let head = self.node().position();
        // What came before this schedule was read by others; now and then all of it is read again.
        let first = if self.random.one_in(5) { 1 } else { self.begin.max(1) };
        let from = match self.random.below(3) {
            0 => first,
            1 => first + self.random.below(head.saturating_sub(first).max(1)),
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
        match self.random.below(16) {
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
                self.note_outside("node_kills_under_publisher");
                let node = self.node.take().expect("between steps there is a node");
                node.kill()?;
                self.start_node()?;
            }
            10 => {
                self.story.push("the node ends and is restarted".into());
                self.note_outside("node_ends_under_publisher");
                self.end_node()?;
                self.close_node()?;
                self.start_node()?;
            }
            11 => {
                self.story.push("the node is stopped".into());
                self.node().signal(Signal::STOP);
                // Whoever is live notices: three missed heartbeats.
                let live = self.readers.iter().find(|one| {
                    !one.peer.stopped && matches!(one.tier, "live" | "speculative" | "trades" | "delayed")
                });
                let alarmed = live.map(|live| live.peer.wait_alarmed());
                self.node().signal(Signal::CONT);
                alarmed.transpose()?;
            }
            12..15 => self.step_outside()?,
            _ => self.go_on(2_000)?,
        }
        let events = self.random.below(600);
        self.go_on(events)?;
        self.readers.iter().map(|reader| &reader.peer).chain(&self.outside.peer).try_for_each(Peer::complaint)
    }

    /// One schedule from its first reader to the account of each, of which `accounts` has those that the log has to confirm.
    /// The node is paused after it.
    fn run(&mut self, seed: u64) -> Result<Reached, String> {
        self.random = Random(seed);
        self.story.clear();
        self.done.clear();
        self.readers.clear();
        self.accounts.clear();
        self.begin = self.node().position();
        self.join();
        self.go_on(250)?;
        // Now and then a long one.
        let steps = if self.random.one_in(25) { 25 } else { 1 + self.random.below(STEPS_MAX) };
        for _ in 0..steps {
            self.step()?;
        }
        let last = self.pause()?;
        // It began at what was accepted, of which a node that was killed may have lost more than has come since.
        self.judge(last, last.saturating_sub(self.begin))
    }

    /// Lets everybody read to the end and say what they were given.
    fn judge(&mut self, last: u64, events: u64) -> Result<Reached, String> {
        let mut reached = Reached { events, ..Reached::default() };
        for name in &self.done {
            reached.add(&serde_json::json!({ *name: 1 }));
        }
        for reader in &mut self.readers {
            if reader.peer.stopped {
                reader.peer.signal(Signal::CONT);
            }
            reader.peer.tell("dawdle 0");
            reader.peer.tell(&format!("until {last}"));
        }
        for reader in &self.readers {
            let verdict = |line: &str| line.strip_prefix("verdict ").map(str::to_owned);
            let verdict = reader.peer.wait_for("a verdict", verdict)?;
            let verdict: Value =
                serde_json::from_str(&verdict).map_err(|error| format!("{error}: {verdict}"))?;
            if verdict["verdict"] != "ok" {
                return Err(format!("`{}`: {verdict}", reader.peer.what));
            }
            reached.add(&verdict);
            reached.add(&serde_json::json!({ reader.tier: 1 }));
            let (tier, what, from) = (reader.tier, reader.peer.what.clone(), reader.from.clone());
            self.accounts.push(Account { tier, what, from, last, verdict });
        }
        Ok(reached)
    }
}

impl Account {
    /// Compares it with the log, once the node is closed: before, nobody else knows how much of its end is durable.
    fn check(&self, place: &Place) -> Result<(), String> {
        let got = |name: &str| self.verdict[name].as_u64().expect("a number");
        let [(events, digest), (found_events, found_digest)] = if self.tier == "delayed" {
            [replayed(place, &self.from, self.last), (got("batches"), Digest(got("batch_digest")))]
        } else {
            let kinds = if self.tier == "trades" { KindMask::TRADES } else { KindMask::ALL };
            let range = Sequence(got("first"))..=Sequence(self.last);
            [on_the_log(place, range, kinds), (got("events"), Digest(got("digest")))]
        };
        if (events, digest.0) == (found_events, found_digest.0) {
            return Ok(());
        }
        Err(format!(
            "`{}`: {found_events} events or batches with digest {}, the log has {events} with {}: {}",
            self.what, found_digest.0, digest.0, self.verdict
        ))
    }
}

impl Outside {
    /// Whether this life, if it has begun, did so where the one before it had ended.
    fn look(&self) -> Result<(), String> {
        let open = self.peer.as_ref().and_then(|peer| peer.last_of("open "));
        match open.filter(|open| *open < self.durable) {
            None => Ok(()),
            Some(open) => Err(format!("{} was durable, a publisher goes on after {open}", self.durable)),
        }
    }

    /// All that it published is on the tape; that it is there once and in order the readers have seen.
    fn check(&self, place: &Place) -> Result<(), String> {
        let store = place.store();
        let (mut events, mut last) = (0, 0);
        let mut frames = store.reader().frames(Sequence::FIRST).expect("kept");
        while let Some(frame) = frames.next_frame().expect("readable") {
            for event in frame.frame().events().filter(|event| event.header().producer == script::OUTSIDE) {
                (events, last) = (events + 1, event.header().producer_sequence.get());
            }
        }
        if (events, last) == (self.last, self.last) {
            return Ok(());
        }
        Err(format!("{} were published from outside, {events} through {last} are on the tape", self.last))
    }
}

fn on_the_log(place: &Place, range: RangeInclusive<Sequence>, kinds: KindMask) -> (u64, Digest) {
    let store = place.store();
    let (mut events, mut digest) = (0, Digest::EMPTY);
    if range.is_empty() {
        return (events, digest);
    }
    let mut frames = store.reader().frames(*range.start()).expect("kept");
    while let Some(frame) = frames.next_frame().expect("readable") {
        let frame = frame.frame();
        if frame.header().first_sequence > *range.end() {
            break;
        }
        let wanted = |event: &EventRef<'_>| range.contains(&event.sequence()) && kinds.contains(event.kind());
        for event in frame.events().filter(wanted) {
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
            Update::Heartbeat { .. } => {}
            Update::Ended { .. } => return (batches, digest),
            other => panic!("{other:?}"),
        }
    }
}

/// What became of a schedule.
struct Outcome {
    seed: u64,
    story: String,
    accounts: Vec<Account>,
    result: Result<Reached, String>,
}

impl Outcome {
    fn failure(&self) -> Option<String> {
        let why = self.result.as_ref().err()?;
        let (seed, story) = (self.seed, &self.story);
        let again = format!("MATCHTAPE_PROCESS_SEED={seed} cargo test -p matchtape-node --test schedules");
        Some(format!("seed {seed}: {why}\n  after: {story}\n  again: {again}"))
    }
}

/// Schedules one after the other on one tape. One that fails leaves what nobody can rely on: the rest get another tape.
fn run(mut seeds: Range<u64>) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    while !seeds.is_empty() {
        let mut place = Place::new(seeds.start / ON_ONE_TAPE);
        place.sweeps = true;
        let mut schedule = Schedule::new(&place, seeds.start);
        let begun = outcomes.len();
        let mut failed = false;
        for seed in seeds.by_ref() {
            // A panic is this schedule's failure, not that of the others.
            let go = std::panic::AssertUnwindSafe(|| {
                if schedule.node.is_some() {
                    schedule.node().tell("go on");
                    if let Some(peer) = &mut schedule.outside.peer {
                        peer.tell("go on");
                    }
                } else {
                    schedule.start_node()?;
                }
                schedule.run(seed)
            });
            let result = std::panic::catch_unwind(go).unwrap_or_else(|_| Err("panicked, see above".into()));
            failed = result.is_err();
            let (story, accounts) = (schedule.story.join("; "), std::mem::take(&mut schedule.accounts));
            outcomes.push(Outcome { seed, story, accounts, result });
            if failed {
                break;
            }
        }
        if failed {
            continue;
        }
        let closed = schedule.close().and_then(|()| schedule.outside.check(&place));
        for outcome in &mut outcomes[begun..] {
            let checked = outcome.accounts.iter().try_for_each(|account| account.check(&place));
            if let Err(why) = closed.clone().and(checked) {
                outcome.result = Err(why);
            }
        }
    }
    outcomes
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

#[test]
fn every_reader_is_given_the_tape_and_nothing_else_whatever_happens_to_it_and_to_the_node() {
    if let Some(seed) = setting("MATCHTAPE_PROCESS_SEED") {
        let outcome = &run(seed..seed + 1)[0];
        println!("{:?}", outcome.result.as_ref().map(|reached| (reached.events, &reached.counts)));
        assert!(outcome.result.is_ok(), "{:?}", outcome.failure());
        return;
    }
    let schedules = setting("MATCHTAPE_PROCESS_SCHEDULES").unwrap_or(1000);
    let next = AtomicU64::new(0);
    let (mut sum, mut failures) = (Reached::default(), Vec::new());
    let outcomes = std::thread::scope(|scope| {
        let worker = || {
            let mut outcomes = Vec::new();
            loop {
                let first = next.fetch_add(ON_ONE_TAPE, Ordering::Relaxed);
                if first >= schedules {
                    return outcomes;
                }
                outcomes.extend(run(first..schedules.min(first + ON_ONE_TAPE)));
            }
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("schedules return errors"))
            .collect::<Vec<_>>()
    });
    for outcome in outcomes {
        failures.extend(outcome.failure());
        let Ok(reached) = outcome.result else { continue };
        sum.events += reached.events;
        for (name, value) in &reached.counts {
            sum.add(&serde_json::json!({ name.as_str(): value }));
        }
    }
    println!("{schedules} schedules, {} events published; {:?}", sum.events, sum.counts);
    assert!(failures.is_empty(), "{} of {schedules} failed:\n{}", failures.len(), failures.join("\n"));
    // The schedules do reach what they are meant to try.
    if schedules >= 500 {
        let told = [
            "joined",
            "left",
            "lagging",
            "caught_up",
            "heartbeats",
            "alarms",
            "restarts",
            "retractions",
            "accepted",
            "batches",
            "empty_windows",
            "late",
        ];
        let done = [
            "publisher_starts",
            "publisher_stops",
            "publisher_kills",
            "publisher_kills_early",
            "publisher_kills_stopped",
            "publisher_restarts",
            "node_kills_under_publisher",
            "node_ends_under_publisher",
        ];
        // And every tier was judged.
        for name in told.iter().chain(&done).chain(&TIERS) {
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
    // A reader slower than the node would never come to where there is nothing more to be said.
    schedule.pause().expect("it ends");
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
        schedule.continue_outside();
        let outside = schedule.outside.peer.take().expect("started");
        outside.wait_for("publishing", |line| line.starts_with("sent").then_some(())).expect("events");
        outside.kill().expect("nothing to complain of");
        schedule.node.take().expect("running").kill().expect("nothing to complain of");
        for reader in schedule.readers.drain(..) {
            reader.peer.kill().expect("nothing to complain of");
        }
    }
    drop(place);
    let left = in_shared_memory(&namespace);
    assert!(left.is_empty(), "{left:?}");
}
