//! How commands end that are stopped, asked for what is not there, or given output that takes nothing: what they say, and their
//! exit codes.

mod shared_memory;
mod watched;

use std::fs::File;
use std::io::{BufRead, BufReader, Lines, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::Duration;

use matchtape_node::{Node, NodeOptions};
use matchtape_schemas::event::OrderAccepted;
use matchtape_schemas::*;
use matchtape_storage::RetentionPolicy;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use watched::Bus;

/// A tape of so many orders, an hour apart, on it and a beginning of the term: sequences 1 to `orders + 1`.
struct Tape {
    folder: TempDir,
}

impl Tape {
    fn new(orders: u64) -> Self {
        let tape = Self { folder: tempfile::tempdir().unwrap() };
        let node = tape.open();
        let mut publisher = node.publisher(ProducerId(1)).unwrap();
        for number in 1..=orders {
            let body = OrderAccepted { order_id: OrderId(number), ..OrderAccepted::default() };
            let time = EventTime(number as i64 * 3_600_000_000_000);
            let event = Event::new(InstrumentId(1), ProducerSequence(number), time, body);
            let last = publisher.publish(&event).unwrap().sequence();
            node.wait(last, Stage::Visible).unwrap();
            if number.is_multiple_of(10) {
                node.store().flush().unwrap();
            }
        }
        drop(publisher);
        node.close().unwrap();
        tape
    }

    fn open(&self) -> Node {
        let mut options = NodeOptions::default();
        options.store.wal.segment_bytes = 1 << 20;
        options.store.compaction.small_event_table_bytes = 0;
        Node::open(&self.path(), options, matchtape_market::projections()).unwrap()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("tape")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_matchtape"));
        command.args(args).arg("--data").arg(self.path());
        command
    }

    fn run(&self, args: &[&str]) -> Ended {
        Ended::of(self.command(args).output().unwrap())
    }
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    rows: usize,
    said: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        let rows = output.stdout.iter().filter(|byte| **byte == b'\n').count();
        Self { code: output.status.code(), rows, said: String::from_utf8(output.stderr).unwrap() }
    }
}

/// A command that runs until it is stopped.
struct Running {
    child: Child,
    said: Lines<BufReader<ChildStderr>>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, said }
    }

    fn waits_until_it_says(&mut self, words: &str) -> String {
        let said = self.said.by_ref().map_while(Result::ok).find(|line| line.contains(words));
        said.unwrap_or_else(|| panic!("it ended without saying {words:?}"))
    }

    /// The code that it ends with, and the rest of what it said.
    fn stopped(mut self, signal: Signal) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let said: Vec<String> = self.said.by_ref().map_while(Result::ok).collect();
        (self.child.wait().unwrap().code(), said.join("\n"))
    }
}

impl Drop for Running {
    /// After a test that failed; one that was stopped is gone.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_replay_that_is_cut_can_be_told_from_a_whole_one() {
    let tape = Tape::new(20);
    let whole = tape.run(&["replay", "--format", "ndjson"]);
    assert_eq!((whole.code, whole.rows), (Some(0), 21), "{whole:?}");
    assert!(whole.said.contains("resume with --from 22"), "{}", whole.said);

    // The second order is due an hour after the first.
    let mut command = tape.command(&["replay", "--tier", "realtime", "--format", "ndjson", "--from", "2"]);
    let mut replay = Running::start(command.stdout(Stdio::piped()));
    let mut first = [0];
    replay.child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let (code, said) = replay.stopped(Signal::INT);
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("resume with --from 3"), "{said}");
}

#[test]
fn a_replay_beyond_the_end_of_the_tape_is_refused_and_right_behind_it_there_is_nothing_yet() {
    let tape = Tape::new(20);
    for beyond in [["--to", "22"], ["--from", "23"]] {
        let ended = tape.run(&[&["replay"][..], &beyond].concat());
        assert_eq!((ended.code, ended.rows), (Some(1), 0), "{ended:?}");
        assert!(ended.said.contains("the tape ends with sequence 21"), "{}", ended.said);
        assert!(ended.said.contains("matchtape tail"), "{}", ended.said);
    }
    for (args, said) in [
        (["--from", "9", "--to", "7"], "--from lies behind --to"),
        (["--from", "9", "--speed", "-1"], "--speed -1 is not a factor of 0 or more"),
    ] {
        let ended = tape.run(&[&["replay"][..], &args].concat());
        assert!(ended.code == Some(2) && ended.said.contains(said), "{ended:?}");
    }
    for (within, rows) in [(["--to", "21"], 21), (["--from", "22"], 0)] {
        let ended = tape.run(&[&["replay", "--format", "ndjson"][..], &within].concat());
        assert_eq!((ended.code, ended.rows), (Some(0), rows), "{ended:?}");
    }
}

#[test]
fn what_is_no_longer_kept_is_not_blamed_on_the_bus() {
    let tape = Tape::new(50);
    let node = tape.open();
    let policy = RetentionPolicy { age: Some(Duration::ZERO), ..RetentionPolicy::default() };
    let now = AcceptedTime(i64::MAX);
    let first = node.store().retain(&policy, now).unwrap().first_kept;
    assert!(first > 1);
    node.close().unwrap();
    for command in ["replay", "tail"] {
        let ended = tape.run(&[command, "--from", "1"]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.said.contains(&format!("begins at {first}")), "{}", ended.said);
        assert!(
            ended.said.contains("--from beginning") && !ended.said.contains("--namespace"),
            "{}",
            ended.said
        );
    }
}

#[test]
fn an_answer_about_orders_says_from_where_on_it_is_complete() {
    let tape = Tape::new(50);
    let whole = tape.run(&["query", "orders", "--format", "ndjson"]);
    assert_eq!((whole.code, whole.rows, whole.said.as_str()), (Some(0), 50, ""));
    let node = tape.open();
    let policy = RetentionPolicy { age: Some(Duration::ZERO), ..RetentionPolicy::default() };
    let first = node.store().retain(&policy, AcceptedTime(i64::MAX)).unwrap().first_kept;
    assert!(first > 5);
    node.close().unwrap();
    let kept = tape.run(&["query", "orders", "--format", "ndjson"]);
    assert_eq!(kept.code, Some(0), "{kept:?}");
    assert!(kept.said.contains(&format!("complete from sequence {first} on")), "{}", kept.said);
    for below in [["--to", "5"], ["--from", "5"], ["--at", "5"]] {
        let ended = tape.run(&[&["query", "orders"][..], &below].concat());
        assert_eq!((ended.code, ended.rows), (Some(1), 0), "{ended:?}");
        assert!(ended.said.contains("below retention"), "{}", ended.said);
    }
}

#[test]
fn wrong_usage_ends_with_2_wherever_it_is_noticed() {
    let tape = Tape::new(3);
    for (wrong, said) in [(["--order", "0"], "order 0"), (["--cursor", "zzz"], "not a cursor")] {
        let ended = tape.run(&[&["query", "events"][..], &wrong].concat());
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.said.contains(said), "{}", ended.said);
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_matchtape"));
    let ended = Ended::of(command.args(["query", "events", "--server", "foo"]).output().unwrap());
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.said.contains("prints after \"page\""), "{}", ended.said);
}

#[test]
fn a_tail_that_no_node_feeds_says_so_and_where_it_listens() {
    let tape = Tape::new(3);
    let bus = tape.folder.path().join("bus");
    let listens = ["--namespace", "nobody", "--bus-root", bus.to_str().unwrap()];
    let tail = |from: &str| {
        let mut command = tape.command(&[&["tail", "--from", from][..], &listens].concat());
        Running::start(command.stdout(Stdio::null()))
    };
    let missing = tape.run(&[&["tail"][..], &listens].concat());
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.said.contains("no such folder") && !bus.exists(), "{}", missing.said);
    std::fs::create_dir(&bus).unwrap();
    let mut tail_of_all = tail("beginning");
    let said = tail_of_all.waits_until_it_says("no node publishes tape");
    assert!(said.contains("on bus nobody") && said.contains(bus.to_str().unwrap()), "{said}");
    let (code, said) = tail_of_all.stopped(Signal::TERM);
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("resume with --from 5"), "{said}");

    let mut ahead = tail("99");
    let said = ahead.waits_until_it_says("99");
    assert_eq!(said, "sequence 99 is not on the tape yet, which ends with 4: waiting for it");
    assert_eq!(ahead.stopped(Signal::INT).0, Some(130));
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn a_node_whose_output_takes_nothing_serves_all_the_same_and_says_what_was_lost() {
    let (tape, mut bus) = (Tape::new(1), Bus::new("full"));
    let mut command = tape.command(&["serve", "--listen", "127.0.0.1:0"]);
    let mut serve = Running::start(command.envs(bus.settings()).stdout(full()));
    let said = serve.waits_until_it_says("writing the output");
    assert!(said.contains("No space left"), "{said}");
    bus.watch(&tape.path());
    bus.ends_clean();
    let (code, said) = serve.stopped(Signal::TERM);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("closed at sequence"), "{said}");

    // Nor is the standard error anything that a node depends on.
    let mut command = tape.command(&["serve", "--listen", "127.0.0.1:0"]);
    let mut child = command.envs(bus.settings()).stdout(Stdio::piped()).stderr(full()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.any(|line| line.starts_with("page ")));
    bus.watch(&tape.path());
    bus.ends_clean();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_node_whose_log_failed_goes_on_serving_and_says_at_its_end_what_is_not_known() {
    let (tape, mut bus) = (Tape::new(1), Bus::new("failed"));
    // A file that grows too large is an error then, and not the end of the process.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_matchtape"), "serve"]);
    command.args(["--listen", "127.0.0.1:0", "--data"]).arg(tape.path());
    let mut serve = Running::start(command.envs(bus.settings()).stdout(Stdio::piped()));
    let mut lines = BufReader::new(serve.child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let page = lines.find_map(|line| line.strip_prefix("page ").map(str::to_owned)).unwrap();
    let server = page.trim_end_matches('/');
    bus.watch(&tape.path());
    let put = |value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_matchtape"));
        Ended::of(command.args(["state", "put", "key", value, "--server", server]).output().unwrap())
    };
    assert_eq!(put("before").code, Some(0));
    bus.is_joined();
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let process = Some(Pid::from_child(&serve.child));
    rustix::process::prlimit(process, rustix::process::Resource::Fsize, none).unwrap();
    let refused = put("after");
    assert_ne!(refused.code, Some(0), "{refused:?}");
    serve.waits_until_it_says("the log failed");
    // What is on the tape is still served.
    let mut get = Command::new(env!("CARGO_BIN_EXE_matchtape"));
    let got = get.args(["state", "get", "key", "--server", server]).output().unwrap();
    assert_eq!(got.stdout, b"before", "{got:?}");
    let (code, said) = serve.stopped(Signal::TERM);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("stopping: no events were taken any more"), "{said}");
    // And the next start tells: it has what was acknowledged, and goes on.
    let node = tape.open();
    let mut publisher = node.publisher(ProducerId(2)).unwrap();
    let event = Event::new(InstrumentId(1), ProducerSequence(1), EventTime(1), OrderAccepted::default());
    let last = publisher.publish(&event).unwrap().sequence();
    node.wait(last, Stage::Visible).unwrap();
    drop(publisher);
    node.close().unwrap();
    // The judge has seen all of it, the failure and the start from the log alone.
    bus.ends_clean();
}

#[test]
fn an_address_that_cannot_be_had_is_known_before_a_tape_is_made() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("tape");
    let mut command = Command::new(env!("CARGO_BIN_EXE_matchtape"));
    let listen = taken.local_addr().unwrap().to_string();
    command.args(["serve", "--no-bus", "--listen", &listen, "--data"]).arg(&data);
    let refused = Ended::of(command.output().unwrap());
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.said.contains(&listen) && refused.said.contains("--listen chooses"), "{}", refused.said);
    assert!(!data.exists());
}

#[test]
fn a_range_that_is_written_backwards_is_wrong_usage_and_no_empty_answer() {
    let tape = Tape::new(3);
    for (from, to) in [("3", "2"), ("2023-01-02T00:00:00Z", "2023-01-01T00:00:00Z")] {
        for query in [&["query", "events"][..], &["query", "trades"]] {
            let ended = tape.run(&[query, &["--from", from, "--to", to]].concat());
            assert_eq!((ended.code, ended.rows), (Some(2), 0), "{ended:?}");
            assert!(ended.said.contains("--from lies behind --to"), "{}", ended.said);
        }
    }
    let ended = tape.run(&["query", "events", "--from", "2", "--to", "2", "--format", "ndjson"]);
    assert_eq!((ended.code, ended.rows), (Some(0), 1), "{ended:?}");
}

#[test]
fn an_import_that_cannot_say_what_is_durable_ends_with_an_error() {
    let tape = Tape::new(0);
    let orders = "MDDate,MDTime,SecurityType,SecuritySubType,SecurityIDSource,Symbol,ReceiveDateTime,OrderIndex,OrderType,OrderPrice,OrderQty,OrderBSFlag,ChannelNo,ApplSeqNum,OrderNO,SecurityID\n\
                  2023.07.11,09:30:00.000,2,02001,101,恒盛能源,2023.07.11T09:30:00.401,1,2,15.93,300,1,1,1,1,605580.SH\n";
    let file = tape.folder.path().join("orders.csv");
    std::fs::write(&file, orders).unwrap();
    let import = |out: Stdio| {
        let mut command =
            tape.command(&["import", "--format", "sse-l2", "--acknowledge", "--segment-mib", "1"]);
        Ended::of(command.arg(&file).stdout(out).output().unwrap())
    };
    let lost = import(full());
    assert_eq!(lost.code, Some(1), "{lost:?}");
    assert!(lost.said.contains("No space left") && lost.said.contains("is durable"), "{}", lost.said);
    let again = import(Stdio::piped());
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.said.contains(" 0 events added"), "it was imported all the same: {}", again.said);
}

#[test]
fn a_setting_with_one_underscore_is_refused_before_anything_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("tape");
    let check = |name: &str, value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_matchtape"));
        command.args(["config", "check", "--no-bus", "--data"]).arg(&data).env(name, value);
        Ended::of(command.output().unwrap())
    };
    let refused = check("MATCHTAPE_STORAGE_WRITE_BACKEND", "direct");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.said.contains("MATCHTAPE_STORAGE__WRITE_BACKEND"), "{}", refused.said);
    let warned = check("MATCHTAPE_STORGE_SYNC", "none");
    assert_eq!(warned.code, Some(0), "{warned:?}");
    assert!(warned.said.contains("MATCHTAPE_STORGE_SYNC") && warned.said.contains("good"), "{}", warned.said);
    assert!(!data.exists());
}
