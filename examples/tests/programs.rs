//! The programs, run as anybody runs them: each in a process of its own, on one directory.

#[path = "../../services/gateway/tests/support/judge.rs"]
mod judge;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use judge::Judge;
use matchtape_node::{BusOptions, IngressOptions, Node, NodeOptions};
use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Program {
    child: Child,
    lines: Receiver<String>,
}

impl Program {
    fn start(path: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(path).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("the program prints a line")
    }

    fn lines(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }

    fn wait_for(&self, wanted: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut others = Vec::new();
        while Instant::now() < deadline {
            let line = self.line();
            if line.contains(wanted) {
                return line;
            }
            others.push(line);
        }
        panic!("no line with {wanted:?}, but {others:?}");
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// What it still prints, and how it ends.
    fn end(mut self) -> (Vec<String>, ExitStatus) {
        let rest = std::iter::from_fn(|| self.lines.recv_timeout(PATIENCE).ok()).collect();
        (rest, self.child.wait().unwrap())
    }

    /// As Ctrl-C does it: it has to end in order.
    fn interrupt(self) -> Vec<String> {
        self.send(Signal::INT);
        self.end_in_order()
    }

    fn end_in_order(self) -> Vec<String> {
        let (rest, status) = self.end();
        assert!(status.success(), "{status}, after {rest:?}");
        rest
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // A test that failed leaves no process behind; one that has ended cannot be killed, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Place {
    /// Of every event that the programs publish.
    judge: Judge,
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut judge = Judge::on(BusOptions::default());
        judge.watch(&folder.path().join("data"));
        Self { judge, folder }
    }

    fn data(&self) -> String {
        self.folder.path().join("data").to_str().unwrap().into()
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().into()
    }

    fn publish(&self, trades: &[&str]) -> Program {
        let program =
            Program::start(env!("CARGO_BIN_EXE_publish"), &[&[self.data().as_str()], trades].concat());
        program.wait_for("trade at");
        program
    }

    fn subscribe(&self, events: &str) -> Program {
        Program::start(env!("CARGO_BIN_EXE_subscribe"), &[&self.data(), events])
    }

    fn delayed(&self, tier: &str, windows: &str) -> Program {
        Program::start(env!("CARGO_BIN_EXE_delayed"), &[&self.data(), tier, windows])
    }

    /// How many trades the tape has, as `replay` shows them.
    fn trades(&self) -> usize {
        let lines = Program::start(env!("CARGO_BIN_EXE_replay"), &[&self.data(), "0"]).end_in_order();
        let shown = lines.iter().filter(|line| line.contains("bought 5 at")).count();
        assert_eq!(lines.last().unwrap(), &format!("{shown} trades"));
        shown
    }

    fn resume(&self, events: &[&str]) -> Program {
        let (data, file) = (self.data(), self.file("count"));
        Program::start(env!("CARGO_BIN_EXE_resume"), &[&[data.as_str(), file.as_str()], events].concat())
    }
}

/// The sequences of the event lines among these.
fn sequences(lines: &[String]) -> Vec<u64> {
    lines.iter().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

fn last_number(line: &str) -> u64 {
    line.rsplit(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty()).unwrap().parse().unwrap()
}

#[test]
fn an_engine_in_another_process_publishes_and_goes_on_after_both_were_restarted() {
    let mut place = Place::new();
    for run in 1..=2 {
        let options = NodeOptions {
            bus: Some(BusOptions::default()),
            ingress: Some(IngressOptions::default()),
            ..NodeOptions::default()
        };
        let node = Node::open(place.data().as_ref(), options, Vec::new()).unwrap();
        let engine = Program::start(env!("CARGO_BIN_EXE_publish_remote"), &[&place.data(), "3"]);
        let before = if run == 1 { 0 } else { 10 };
        engine.wait_for(&format!("publishing after {before} events"));
        let durable = engine.lines(3);
        assert!(durable.iter().all(|line| line.contains("durable in")), "{durable:?}");
        engine.end_in_order();
        place.judge.joins();
        node.close().unwrap();
    }
    assert_eq!(place.trades(), 6);
}

#[test]
fn a_subscriber_in_another_process_prints_every_event_once() {
    let mut place = Place::new();
    let publish = place.publish(&[]);
    // One that stands still before it is live may find all that it wants in the log.
    let live = (0..20).any(|_| {
        let lines = place.subscribe("40").end_in_order();
        let seen = sequences(&lines);
        assert_eq!(seen, (seen[0]..seen[0] + 40).collect::<Vec<_>>());
        assert!(lines.iter().any(|line| line.contains("bought 5 at 10")), "{lines:?}");
        lines.iter().any(|line| line.starts_with("-- live from"))
    });
    assert!(live, "it never was");
    place.judge.joins();
    let rest = publish.interrupt();
    assert!(rest.last().unwrap().starts_with("stopped after"), "{rest:?}");
}

#[test]
fn a_subscriber_lives_through_a_restart_of_the_publisher_and_ends_on_ctrl_c() {
    let mut place = Place::new();
    let first = place.publish(&[]);
    let subscribe = place.subscribe("1000000");
    subscribe.wait_for("-- live from");
    let mut lines = subscribe.lines(5);
    place.judge.joins();
    first.send(Signal::KILL);
    assert!(!first.end().1.success());
    let second = place.publish(&["5"]);
    let ended = second.end_in_order();
    let head = last_number(ended.last().unwrap().strip_suffix(" events").unwrap());
    // The sequencer may close windows after the last trade, so the head is at least this.
    while sequences(&lines).last().is_none_or(|last| *last < head) {
        lines.push(subscribe.line());
    }
    let rest = subscribe.interrupt();
    lines.extend(rest);
    let seen = sequences(&lines);
    assert_eq!(seen, (seen[0]..=*seen.last().unwrap()).collect::<Vec<_>>());
}

#[test]
fn windows_that_came_live_are_replayed_to_the_letter() {
    let mut place = Place::new();
    let publish = place.publish(&[]);
    let live = place.delayed("live", "20").end_in_order();
    place.judge.joins();
    drop(publish.interrupt());
    let replayed = place.delayed("replay", "20").end_in_order();
    assert_eq!((live.len(), &live), (20, &replayed));
    assert!(live.iter().any(|line| line.contains("1 trades, 0 late")), "{live:?}");
    let this_year = &live[19][..4];
    assert!(
        live.iter().all(|line| line.starts_with(this_year)),
        "time begins with the first event: {live:?}"
    );
}

#[test]
fn a_replay_shows_every_trade_and_keeps_the_pace_asked_for() {
    let place = Place::new();
    drop(place.publish(&["6"]).end_in_order());
    assert_eq!(place.trades(), 6);
    let start = Instant::now();
    let lines = Program::start(env!("CARGO_BIN_EXE_replay"), &[&place.data(), "2"]).end_in_order();
    // Six trades lie five pauses of 100 ms apart.
    assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
    assert_eq!(lines.last().unwrap(), "6 trades");
}

#[test]
fn a_publisher_that_is_started_again_carries_on() {
    let place = Place::new();
    let first = place.publish(&["3"]).end_in_order();
    let head = last_number(first.last().unwrap().strip_suffix(" events").unwrap());
    let again = Program::start(env!("CARGO_BIN_EXE_publish"), &[&place.data(), "4"]);
    let hello = again.line();
    assert_eq!(hello, format!("publishing to {} after {head} events; Ctrl-C ends", place.data()));
    again.end_in_order();
    assert_eq!(place.trades(), 7);
}

#[test]
fn a_count_that_is_stopped_and_killed_at_any_moment_is_right_in_the_end() {
    let mut place = Place::new();
    let publish = place.publish(&[]);
    assert_eq!(place.resume(&["20"]).end_in_order().len(), 2);
    assert!(std::fs::read_to_string(place.file("count")).unwrap().starts_with("20 "));
    for _ in 0..3 {
        let killed = place.resume(&[]);
        killed.line();
        publish.wait_for("trade at");
        killed.send(Signal::KILL);
        drop(killed.end());
    }
    let interrupted = place.resume(&[]);
    interrupted.line();
    publish.wait_for("trade at");
    assert!(interrupted.interrupt().last().unwrap().contains("trades through event"));

    place.judge.joins();
    drop(publish.interrupt());
    let trades = place.trades();
    // Nothing is published any more: reading to the last trade is reading all of them.
    let file = || std::fs::read_to_string(place.file("count")).unwrap();
    let rest = place.resume(&[]);
    let deadline = Instant::now() + PATIENCE;
    while file().trim().split_once(' ').unwrap().1 != trades.to_string() {
        assert!(Instant::now() < deadline, "{} is not {trades} trades", file());
        std::thread::yield_now();
    }
    assert_eq!(rest.interrupt().last().unwrap().split(' ').next(), Some(trades.to_string().as_str()));
}

#[test]
fn the_engines_speed_is_measured_with_the_events_checked() {
    let lines = Program::start(env!("CARGO_BIN_EXE_engine_speed"), &["3000"]).end_in_order();
    assert!(lines[0].starts_with("3000 commands in ") && lines[0].contains("commands/s"), "{lines:?}");
    assert_eq!(lines.len(), 5, "one line for each instrument");
}

#[test]
fn a_program_that_is_used_wrongly_says_how_it_is_used() {
    for path in [
        env!("CARGO_BIN_EXE_publish"),
        env!("CARGO_BIN_EXE_subscribe"),
        env!("CARGO_BIN_EXE_delayed"),
        env!("CARGO_BIN_EXE_replay"),
        env!("CARGO_BIN_EXE_resume"),
    ] {
        let output = Command::new(path).output().unwrap();
        assert!(!output.status.success());
        assert!(String::from_utf8(output.stderr).unwrap().contains("usage: "));
    }
}

#[test]
fn a_consumer_goes_on_behind_what_it_acknowledged_when_it_is_started_again() {
    let place = Place::new();
    let run = || Program::start(env!("CARGO_BIN_EXE_consumer"), &[&place.data(), "60"]).end_in_order();
    let lines = run();
    assert!(lines.contains(&"50 refused".to_owned()), "{lines:?}");
    assert_eq!(lines.last().unwrap(), "62 events dealt with, through 62");
    let lines = run();
    assert!(lines[0].starts_with("everything up to 62 was dealt with before"), "{lines:?}");
    // The second opening's own first event, and 60 more.
    assert_eq!(lines.last().unwrap(), "61 events dealt with, through 123");
}
