//! One run of real data, watched by every kind of reader, each in a process of its own, while readers join late, stop,
//! are killed and resume, and the node itself is killed and comes back: all of them get the same events in the same
//! order, no gap, no duplicate, and nobody is waited for.

mod oracle;
mod shared_memory;
mod watched;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use parking_lot::{Condvar, Mutex};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use shared_memory::Namespace;
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;
use watched::Watched;

const PATIENCE: Duration = Duration::from_secs(120);

struct Place {
    folder: TempDir,
    namespace: Namespace,
}

impl Place {
    fn new(name: &str) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), namespace: Namespace::new(name) }
    }

    fn tape(&self) -> PathBuf {
        self.folder.path().join("tape")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_matchtape"));
        command.args(args).env("MATCHTAPE_BUS__ROOT", self.folder.path().join("bus"));
        command
    }

    /// A command on the tape that has to succeed; its output.
    fn ask(&self, args: &[&str]) -> String {
        let output = self.command(args).arg("--data").arg(self.tape()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// A running `matchtape serve`.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(place: &Place, listen: &str) -> Self {
        let begun = Instant::now();
        loop {
            let mut child = place
                .command(&["serve", "--listen", listen, "--namespace", place.namespace.as_str()])
                // Few small buffers, so that readers are outrun and have to read the log.
                .env("MATCHTAPE_BUS__BUFFER_FRAMES", "8")
                .env("MATCHTAPE_BUS__SUBSCRIBERS_MAX", "12")
                .env("MATCHTAPE_STORAGE__SEGMENT_MIB", "16")
                .arg("--data")
                .arg(place.tape())
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit())
                .spawn()
                .unwrap();
            let said = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut said = said.map_while(Result::ok);
            if let Some(url) = said.find_map(|line| Some(line.strip_prefix("page http://")?.to_owned())) {
                return Self { child, address: url.trim_end_matches('/').to_owned() };
            }
            // Somebody else may have the port of one that was killed for a moment.
            assert!(
                !listen.ends_with(":0") && begun.elapsed() < PATIENCE,
                "the server says where it listens"
            );
            child.wait().unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn stop(mut self) {
        signal(&self.child, Signal::TERM);
        assert!(self.child.wait().unwrap().success(), "an orderly end is exit code 0");
    }
}

/// What an observer has shown so far, and when it moves.
#[derive(Default)]
struct Shown {
    lines: Mutex<Vec<(u64, String)>>,
    moved: Condvar,
}

impl Shown {
    fn last(&self) -> u64 {
        self.lines.lock().last().map_or(0, |(sequence, _)| *sequence)
    }

    fn wait_for(&self, sequence: u64, who: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock();
        while lines.last().map_or(0, |(sequence, _)| *sequence) < sequence {
            let last = lines.last().map_or(0, |(sequence, _)| *sequence);
            let timed_out = self.moved.wait_until(&mut lines, deadline).timed_out();
            assert!(!timed_out, "{who} is at {last}, waiting for {sequence}");
        }
    }
}

#[derive(serde::Deserialize)]
struct Position {
    #[serde(alias = "last_sequence")]
    sequence: u64,
}

/// A `matchtape tail` whose lines are collected as they come.
struct Observer {
    child: Child,
    shown: Arc<Shown>,
    said: std::thread::JoinHandle<String>,
    reader: std::thread::JoinHandle<()>,
}

impl Observer {
    fn start(place: &Place, args: &[&str], shown: Arc<Shown>) -> Self {
        let mut child = place
            .command(&["tail", "--format", "ndjson", "--namespace", place.namespace.as_str()])
            .args(args)
            .arg("--bus-root")
            .arg(place.folder.path().join("bus"))
            .arg("--data")
            .arg(place.tape())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let into = Arc::clone(&shown);
        let reader = std::thread::spawn(move || {
            for line in out.lines() {
                let line = line.unwrap();
                // A line cut by a kill is not one.
                let Ok(Position { sequence }) = serde_json::from_str(&line) else { continue };
                into.lines.lock().push((sequence, line));
                into.moved.notify_all();
            }
        });
        let mut err = child.stderr.take().unwrap();
        let said = std::thread::spawn(move || {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut err, &mut text).unwrap();
            text
        });
        Self { child, shown, said, reader }
    }

    /// Ends it in order; what it said.
    fn stop(mut self) -> String {
        signal(&self.child, Signal::INT);
        assert_eq!(self.child.wait().unwrap().code(), Some(130));
        self.reader.join().unwrap();
        self.said.join().unwrap()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.reader.join().unwrap();
    }
}

/// The tape channel of the WebSocket, reconnecting where it ended until `through` has come.
async fn watch_websocket(address: String, through: tokio::sync::watch::Receiver<Option<u64>>) -> Vec<Value> {
    let mut rows: Vec<Value> = Vec::new();
    let last = |rows: &[Value]| rows.last().map_or(0, |row| row["sequence"].as_u64().unwrap());
    let mut deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the WebSocket client is at {}", last(&rows));
        let Ok((mut socket, _)) = tokio_tungstenite::connect_async(format!("ws://{address}/v1/stream")).await
        else {
            // Nobody listens while the node is down.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let from = last(&rows) + u64::from(!rows.is_empty());
        let request =
            serde_json::json!({"op": "subscribe", "id": 1, "channel": "tape", "from_sequence": from});
        if socket.send(Message::text(request.to_string())).await.is_err() {
            continue;
        }
        loop {
            if through.borrow().is_some_and(|through| last(&rows) >= through) {
                return rows;
            }
            let message = match tokio::time::timeout(Duration::from_millis(200), socket.next()).await {
                Err(_) => continue,
                Ok(Some(Ok(Message::Text(text)))) => text,
                Ok(Some(Ok(_))) => continue,
                Ok(Some(Err(_)) | None) => break,
            };
            let message: Value = serde_json::from_str(&message).unwrap();
            assert_ne!(message["type"], "error", "{message}");
            if let Some(data) = message["data"].as_array() {
                rows.extend(data.iter().cloned());
                deadline = Instant::now() + PATIENCE;
            }
        }
    }
}

fn import(place: &Place, server: &Server, format: &[&str], files: &[PathBuf]) -> Child {
    place
        .command(&["import", "--acknowledge", "--server", &format!("http://{}", server.address), "--format"])
        .args(format)
        .args(files)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

fn sequences_are_dense(who: &str, lines: &[(u64, String)]) {
    for (at, (sequence, _)) in lines.iter().enumerate() {
        assert_eq!(*sequence, at as u64 + 1, "{who}: a gap or a duplicate");
    }
}

fn same(who: &str, lines: &[(u64, String)], expected: &[String]) {
    sequences_are_dense(who, lines);
    assert_eq!(lines.len(), expected.len(), "{who}");
    for ((_, line), expected) in lines.iter().zip(expected) {
        assert_eq!(line, expected, "{who}");
    }
}

/// What is left after taking back what was retracted: a position shown again replaces everything from it on.
fn without_retracted(lines: &[(u64, String)]) -> (Vec<(u64, String)>, usize) {
    let mut kept: BTreeMap<u64, String> = BTreeMap::new();
    let mut retracted = 0;
    for (sequence, line) in lines {
        retracted += kept.split_off(sequence).len();
        kept.insert(*sequence, line.clone());
    }
    (kept.into_iter().collect(), retracted)
}

#[test]
fn every_reader_of_real_data_gets_the_same_tape_through_stops_kills_and_restarts() {
    let Some(data) = oracle::data() else { return };
    let sse: Vec<PathBuf> =
        ["orders.csv.gz", "trades.csv.gz"].map(|name| data.join("sse_l2_20230711").join(name)).into();
    let cme = vec![data.join("cme_mbo_esh4_20231225").join("esh4-glbx-mdp3-20231225.mbo.dbn")];
    let place = Place::new("obs");
    let server = Server::start(&place, "127.0.0.1:0");
    let address = server.address.clone();

    let from_start = ["--from", "beginning"];
    let start = |args: &[&str]| Observer::start(&place, args, Arc::default());
    let real_time = start(&from_start);
    let speculative = start(&["--from", "beginning", "--speculative"]);
    let delayed = start(&["--from", "beginning", "--tier", "delayed"]);
    let conflated = start(&["--from", "beginning", "--tier", "delayed", "--conflate"]);
    let stopped = start(&from_start);
    let killed = start(&from_start);
    // And who judges every event of it, one of them outrun like the one that stands still.
    let judge = |args: &[&str]| {
        Watched::with(&place.tape(), &place.namespace, &place.folder.path().join("bus"), args)
    };
    let mut judges =
        [judge(&["--from", "beginning"]), judge(&["--from", "beginning", "--speculative"]), judge(&[])];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (through, wanted) = tokio::sync::watch::channel(None);
    let websocket = runtime.spawn(watch_websocket(address.clone(), wanted));

    // The first data set, with a reader that stands still in the middle of it, for longer than its buffer lasts, and one
    // that is killed. The import neither waits for them nor fails.
    let mut importing = import(&place, &server, &["sse-l2"], &sse);
    real_time.shown.wait_for(5_000, "real-time");
    signal(&stopped.child, Signal::STOP);
    judges[0].signal(Signal::STOP);
    real_time.shown.wait_for(20_000, "real-time");
    killed.shown.wait_for(1_000, "the one to be killed");
    let killed_shown = Arc::clone(&killed.shown);
    killed.kill();
    let next = (killed_shown.last() + 1).to_string();
    let resumed = Observer::start(&place, &["--from", &next], Arc::clone(&killed_shown));
    let joiner = start(&from_start);
    assert!(importing.wait().unwrap().success());
    signal(&stopped.child, Signal::CONT);
    judges[0].signal(Signal::CONT);

    // The second, with the node killed under the import and under everybody, and started again. The import stands still
    // while the node goes down, so that it is really in the middle.
    let last_there = || {
        let last = place.ask(&["query", "events", "--format", "ndjson", "--reverse", "--limit", "1"]);
        serde_json::from_str::<Position>(&last).unwrap().sequence
    };
    let mut server = server;
    let mut caught = false;
    // One that was through before it was stopped shows nothing: then the same records once more, as another source.
    for producer in ["11", "12", "13", "14", "15"] {
        let before = last_there();
        let source = ["dbn-mbo", "--allow-overlap", "--producer", producer];
        let mut importing = import(&place, &server, &source, &cme);
        let acknowledged = BufReader::new(importing.stdout.take().unwrap()).lines().next();
        signal(&importing, Signal::STOP);
        assert!(
            acknowledged.is_some_and(|line| line.unwrap().contains("durable")),
            "something was acknowledged"
        );
        server.kill();
        server = Server::start(&place, &address);
        caught = last_there() < before + 68_793;
        signal(&importing, Signal::CONT);
        // Where an import's own retries ended before the node was back, the same command goes on.
        if !importing.wait().unwrap().success() {
            assert!(import(&place, &server, &source, &cme).wait().unwrap().success());
        }
        if caught {
            break;
        }
    }
    assert!(caught, "the node was killed in the middle of the import, not after it");

    let expected: Vec<String> =
        place.ask(&["query", "events", "--format", "ndjson"]).lines().map(str::to_owned).collect();
    let last = expected.len() as u64;
    assert!(last > 111_429 + 68_793, "both data sets are on the tape: {last}");
    for (who, observer) in [
        ("real-time", &real_time),
        ("speculative", &speculative),
        ("stopped", &stopped),
        ("killed, resumed", &resumed),
        ("joiner", &joiner),
    ] {
        observer.shown.wait_for(last, who);
    }
    // An idle tape says after a while that time has passed: what came last is the tape's end only now.
    through.send(Some(last)).unwrap();
    let rows = runtime.block_on(websocket).unwrap();

    for (who, observer) in
        [("real-time", real_time), ("stopped", stopped), ("killed, resumed", resumed), ("joiner", joiner)]
    {
        let shown = Arc::clone(&observer.shown);
        let said = observer.stop();
        let lines = shown.lines.lock();
        same(who, &lines[..last as usize], &expected);
        if who == "stopped" {
            assert!(
                said.contains("too slow for the bus") || said.contains("from the log"),
                "it was outrun and told so: {said}"
            );
        }
    }
    let shown = Arc::clone(&speculative.shown);
    let said = speculative.stop();
    let (kept, retracted) = without_retracted(&shown.lines.lock());
    same("speculative", &kept[..last as usize], &expected);
    assert!(retracted == 0 || said.contains("retracted"), "{retracted} taken back without a word");

    for (row, line) in rows.iter().zip(&expected) {
        let full: Value = serde_json::from_str(line).unwrap();
        for field in ["sequence", "kind", "instrument", "event_time"] {
            assert_eq!(row[field], full[field], "WebSocket: {row} instead of {full}");
        }
    }
    assert!(rows.len() as u64 >= last, "WebSocket: {} rows", rows.len());

    // Delayed: what was shown live is, to the byte, how a replay begins; conflated or not.
    for (who, observer, conflate) in
        [("delayed", delayed, &[][..]), ("conflated", conflated, &["--conflate"])]
    {
        let shown = Arc::clone(&observer.shown);
        observer.stop();
        let live = shown.lines.lock();
        let args =
            [&["replay", "--tier", "delayed", "--speed", "0", "--format", "ndjson"], conflate].concat();
        let replay = place.ask(&args);
        let replayed: Vec<&str> = replay.lines().collect();
        assert!(live.len() > 1_000, "{who}: {} windows", live.len());
        for ((_, live), replayed) in live.iter().zip(&replayed) {
            assert_eq!(live, replayed, "{who}");
        }
        assert!(replayed.len() + 2 >= live.len(), "{who}: {} live, {} replayed", live.len(), replayed.len());
        let left_out = |line: &&str| {
            let line: Value = serde_json::from_str(line).unwrap();
            (line["left_out"].as_u64().unwrap(), line["events"].as_array().unwrap().len() as u64)
        };
        let (missing, there): (Vec<u64>, Vec<u64>) = replayed.iter().map(left_out).unzip();
        let (missing, there): (u64, u64) = (missing.iter().sum(), there.iter().sum());
        assert_eq!(missing > 0, who == "conflated", "{who}: {missing} left out");
        println!("{who}: {there} events in {} windows, {missing} left out", replayed.len());
    }

    let historical = place.ask(&["replay", "--tier", "historical", "--format", "ndjson"]);
    for (line, expected) in historical.lines().zip(&expected) {
        assert_eq!(line, expected, "historical");
    }
    // Of one order, all that names its number, and nothing else.
    let rows = expected.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let order = rows.clone().find(|row| row["kind"] == "order_accepted").unwrap()["order_id"].clone();
    let names = |row: &Value| {
        ["order_id", "new_order_id", "buy_order_id", "sell_order_id"].iter().any(|field| row[*field] == order)
    };
    let naming: Vec<Value> = rows.filter(names).collect();
    // Written as a string or as a number: the option takes the digits.
    let number = order.as_str().map_or_else(|| order.to_string(), str::to_owned);
    let of_one = place.ask(&["replay", "--order", &number, "--format", "ndjson"]);
    let of_one: Vec<Value> = of_one.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!naming.is_empty() && of_one == naming, "order {number}: {of_one:?}");

    let verdicts = judges.map(Watched::ends_clean);
    for verdict in &verdicts[..2] {
        assert!(verdict["events"].as_u64() >= Some(last), "{verdict}");
    }
    // Killed under them, whether they were live then or behind.
    let restarts = verdicts.iter().filter_map(|verdict| verdict["restarts"].as_u64()).sum::<u64>();
    assert!(restarts > 0, "{verdicts:?}");
    server.stop();
    check_nothing_is_left(&place);
}

fn check_nothing_is_left(place: &Place) {
    let mut left = place.namespace.files();
    left.retain(|path| path.extension().is_none_or(|end| end != "global_mgmt"));
    assert!(
        left.is_empty(),
        "left in shared memory by processes below {}: {left:?}",
        place.folder.path().display()
    );
}
