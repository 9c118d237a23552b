//! A running node and everything that reaches it through its gateway: imports that are killed, a node that is killed
//! under an import, and queries that give what the tape itself gives.

mod oracle;
mod shared_memory;
mod shown;
mod watched;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use matchtape_schemas::*;
use matchtape_storage::{ReadOnlyOptions, ReadOnlyStore, RealDisk};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use watched::Bus;

const PATIENCE: Duration = Duration::from_secs(60);

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn matchtape(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_matchtape")).args(args).output().unwrap()
}

fn succeed(args: &[&str]) -> Output {
    let output = matchtape(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn fail(args: &[&str]) -> (String, Option<i32>) {
    let output = matchtape(args);
    assert!(!output.status.success(), "{args:?} succeeded");
    (String::from_utf8(output.stderr).unwrap(), output.status.code())
}

/// A node with its gateway, in a process of its own.
struct Served {
    child: Child,
    url: String,
    bus: Option<Bus>,
}

impl Served {
    fn start(tape: &Path, port: &str) -> Self {
        Self::start_on(Bus::new("served"), tape, port)
    }

    /// On the bus of one that was killed, with the same judge.
    fn start_on(mut bus: Bus, tape: &Path, port: &str) -> Self {
        let begun = Instant::now();
        loop {
            let mut child = Command::new(env!("CARGO_BIN_EXE_matchtape"))
                .args(["serve", "--data", text(tape), "--listen", &format!("127.0.0.1:{port}")])
                .envs(bus.settings())
                .env("MATCHTAPE_STORAGE__SEGMENT_MIB", "8")
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let said = BufReader::new(child.stdout.take().unwrap());
            let mut said = said.lines().map_while(Result::ok);
            if let Some(url) = said.find_map(|line| Some(line.strip_prefix("page ")?.to_owned())) {
                bus.watch(tape);
                return Self { child, url: url.trim_end_matches('/').to_owned(), bus: Some(bus) };
            }
            // Somebody else may have the port of one that was killed for a moment.
            assert!(port != "0" && begun.elapsed() < PATIENCE, "it says where its page is");
            child.wait().unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn port(&self) -> &str {
        self.url.rsplit(':').next().unwrap()
    }

    /// As the power goes, for the process.
    fn kill(mut self) -> Bus {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.bus.take().expect("it has one")
    }

    /// SIGTERM ends it in order, after the judge.
    fn stop(mut self) {
        self.bus.as_mut().expect("it has one").ends_clean();
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

/// A test that fails leaves no node behind.
impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last event that a node shows.
fn last_of(served: &Served) -> Sequence {
    let last = succeed(&["query", "events", "--server", &served.url, "--reverse", "--limit", "1"]).stdout;
    let last: serde_json::Value = serde_json::from_slice(&last).unwrap();
    Sequence(last["sequence"].as_u64().unwrap())
}

/// An import that has said that something is durable, and goes on.
fn begun(args: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_matchtape"))
        .args(args)
        .arg("--acknowledge")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"durable\":"), "{line}");
    (child, out)
}

fn files(data: &Path) -> ([PathBuf; 2], PathBuf) {
    let sse = ["orders.csv.gz", "trades.csv.gz"].map(|name| data.join("sse_l2_20230711").join(name));
    (sse, data.join("cme_mbo_esh4_20231225").join("esh4-glbx-mdp3-20231225.mbo.dbn.zst"))
}

/// Every event that is not the sequencer's own: who produced it, and what it says.
fn events(tape: &Path) -> Vec<(ProducerId, Event)> {
    let disk = Arc::new(RealDisk::open(tape).unwrap());
    let store = ReadOnlyStore::open(disk, ReadOnlyOptions::default()).unwrap();
    let mut frames = store.reader().frames(Sequence::FIRST).unwrap();
    let mut events = Vec::new();
    while let Some(frame) = frames.next_frame().unwrap() {
        let outside = frame.frame().events().filter(|event| !KindMask::CONTROL.contains(event.kind()));
        events.extend(outside.map(|event| (event.header().producer, event.to_event())));
    }
    events
}

#[test]
fn both_days_go_into_a_running_node_whoever_is_killed_and_every_question_to_it_is_answered_right() {
    let Some(data) = oracle::data() else { return };
    let folder = TempDir::new().unwrap();
    let tape = folder.path().join("served");
    let ([orders, trades], cme) = files(&data);
    let served = Served::start(&tape, "0");

    // The import is killed as soon as something of it is durable, and run again.
    let sse = ["import", "--format", "sse-l2", "--server", &served.url, text(&orders), text(&trades)];
    let (mut killed, _out) = begun(&sse);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let said = String::from_utf8(succeed(&sse).stderr).unwrap();
    let (added, already) = counts(&said);
    assert_eq!(added + already, 111_429, "{said}");
    assert!(already > 0, "{said}");
    eprintln!("killed after {already} events, {added} were left");
    let again = String::from_utf8(succeed(&sse).stderr).unwrap();
    assert_eq!(counts(&again), (0, 111_429), "{again}");

    // The node is killed under an import, which finds it again.
    let (import, mut out) = begun(&["import", "--format", "dbn-mbo", "--server", &served.url, text(&cme)]);
    let port = served.port().to_owned();
    let bus = served.kill();
    let served = Served::start_on(bus, &tape, &port);
    // It acknowledges on, also to a reader that is slow.
    std::io::copy(&mut out, &mut std::io::sink()).unwrap();
    let ended = import.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success(), "{said}");
    assert_eq!(counts(&said), (68_793, 0), "what was sent twice is this import's own: {said}");

    let tries = said.matches("trying again").count();
    eprintln!("the import lost the node and asked {tries} times for it");

    check_tape(&data, &["--server", &served.url]);
    let questions: Vec<Vec<&str>> = [
        "events --instrument 601825.SH --format csv",
        "events --from 1000 --to 1500 --kind orders,trades",
        "events --reverse --limit 2000 --instrument ESH4",
        "events --order 6412777267140",
        "trades --instrument 600761.SH --format table",
        "trades --from 2023-12-25T23:00:00Z --to 2023-12-25T23:05:00Z --reverse",
        "book --instrument 605580.SH --depth 7 --format csv",
        "book --instrument ESH4 --at 2023-12-25T23:30:00Z",
        "candles --instrument ESH4 --interval 5s --from 2023-12-25T23:00:00Z",
        "candles --instrument 600761.SH --interval 1h --reverse --limit 2 --format csv",
    ]
    .iter()
    .map(|question| question.split(' ').collect())
    .collect();
    let ask = |place: [&str; 2]| -> Vec<Vec<u8>> {
        questions.iter().map(|words| succeed(&[&["query"], &words[..], &place].concat()).stdout).collect()
    };
    let answers = ask(["--server", &served.url]);
    served.stop();
    for ((question, of_server), of_tape) in questions.iter().zip(&answers).zip(ask(["--data", text(&tape)])) {
        assert!(of_tape.iter().filter(|byte| **byte == b'\n').count() > 1, "{question:?} has an answer");
        let (of_server, of_tape) = (String::from_utf8_lossy(of_server), String::from_utf8_lossy(&of_tape));
        let differing = of_server.lines().zip(of_tape.lines()).find(|(left, right)| left != right);
        assert_eq!(differing, None, "{question:?}");
        assert_eq!(of_server.len(), of_tape.len(), "{question:?}");
    }

    let direct = folder.path().join("direct");
    let here = ["--segment-mib", "8", "--data", text(&direct)];
    succeed(&[&["import", "--format", "sse-l2", text(&orders), text(&trades)], &here[..]].concat());
    succeed(&[&["import", "--format", "dbn-mbo", text(&cme)], &here[..]].concat());
    let (served, direct) = (events(&tape), events(&direct));
    assert_eq!(served.len(), 111_429 + 68_793);
    let differing = served.iter().zip(&direct).find(|(left, right)| left != right);
    assert_eq!(differing, None);
    assert_eq!(served.len(), direct.len());
    let verified = succeed(&["verify", "--data", text(&tape), "--format", "text"]);
    assert!(verified.stdout.starts_with(b"sound: "));
}

/// What an import's summary says: events added, and events that were there.
fn counts(said: &str) -> (u64, u64) {
    let number = |before: &str| -> u64 {
        let end = said.find(before).unwrap_or_else(|| panic!("{before:?} in {said}"));
        said[..end].rsplit(' ').next().unwrap().parse().unwrap()
    };
    (number(" events added"), number(" there already"))
}

/// The independent program, asking through the gateway.
fn check_tape(data: &Path, place: &[&str]) {
    let script = data.join("../check/check_tape.py");
    if !script.exists() || Command::new("python3").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "CI has to run {}", script.display());
        eprintln!("\n!!! NOT CHECKED: {} with python3\n", script.display());
        return;
    }
    for (kind, folder, arguments) in
        [("sse", "sse_l2_20230711", &[][..]), ("dbn", "cme_mbo_esh4_20231225", &["--symbol", "ESH4"])]
    {
        let output = Command::new("python3")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(&script)
            .args([kind, text(&data.join(folder).join("expected.json"))])
            .args(arguments)
            .args(["--", env!("CARGO_BIN_EXE_matchtape"), "QUERY_ARGS_HERE"])
            .args(place)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains(" agree, 0 differ"), "{kind}: {said}");
        assert!(!said.starts_with("0 agree"), "{said}");
    }
}

const ORDERS: &str = "MDDate,MDTime,Symbol,ReceiveDateTime,OrderType,OrderPrice,OrderQty,OrderBSFlag,ChannelNo,ApplSeqNum,OrderNO,SecurityID
2023.07.11,09:30:01.000,a,2023.07.11T09:30:01.001,2,10.1,300,1,1,1,11,A.SH
2023.07.11,09:30:02.000,a,2023.07.11T09:30:02.001,2,10.2,200,2,1,2,12,A.SH
2023.07.11,09:30:03.000,b,2023.07.11T09:30:03.001,2,5,100,1,1,3,13,B.SH
2023.07.11,09:30:04.000,a,2023.07.11T09:30:04.001,10,10.1,300,1,1,4,11,A.SH
";
const TRADES: &str = "MDDate,MDTime,Symbol,ReceiveDateTime,TradeIndex,TradeBuyNo,TradeSellNo,TradeBSFlag,TradePrice,TradeQty,ChannelNo,ApplSeqNum,SecurityID
2023.07.11,09:30:05.000,a,2023.07.11T09:30:05.001,901,99,12,1,10.2,50,1,5,A.SH
";

/// A small day.
fn small(folder: &Path) -> [String; 2] {
    [("orders.csv", ORDERS), ("trades.csv", TRADES)].map(|(name, lines)| {
        let file = folder.join(name);
        std::fs::write(&file, lines).unwrap();
        text(&file).to_owned()
    })
}

#[test]
fn a_malformed_line_ends_an_import_into_a_node_after_what_came_before_it() {
    let folder = TempDir::new().unwrap();
    let [orders, trades] = small(folder.path());
    let served = Served::start(&folder.path().join("tape"), "0");
    std::fs::write(&orders, ORDERS.replace(",5,100,", ",5.5.5,100,")).unwrap();
    let import = ["import", "--format", "sse-l2", "--server", &served.url, &orders, &trades];
    let (said, code) = fail(&import);
    assert!(code == Some(1) && said.contains("orders.csv, line 4: OrderPrice"), "{said}");
    let query = ["query", "events", "--server", &served.url, "--kind", "orders,market"];
    let before = String::from_utf8(succeed(&query).stdout).unwrap();
    assert_eq!(before.lines().count(), 3, "the definition and both orders: {before}");
    std::fs::write(&orders, ORDERS).unwrap();
    let said = String::from_utf8(succeed(&import).stderr).unwrap();
    assert_eq!(counts(&said), (4, 3), "{said}");
    // The tape has these records: not under another number, nor others under theirs.
    let as_number = |number| [&import[..], &["--producer", number]].concat();
    let (said, _) = fail(&as_number("7"));
    assert!(said.contains("the tape has events of A.SH from"), "{said}");
    let (said, _) = fail(&["import", "--format", "sse-l2", "--server", &served.url, &trades]);
    assert!(said.contains("the tape has events of A.SH from"), "{said}");
    let levels =
        succeed(&["query", "book", "--server", &served.url, "--instrument", "A.SH", "--format", "csv"]);
    assert_eq!(String::from_utf8(levels.stdout).unwrap(), "side,price,quantity,orders\nsell,10.2,150,1\n");
    // An order's number finds its events, and no other order's.
    let of_order = succeed(&["query", "events", "--server", &served.url, "--order", "12"]);
    assert_eq!(String::from_utf8(of_order.stdout).unwrap().lines().count(), 2);
    // What became of orders, and pages, are the same from the node and from its directory.
    let tape = folder.path().join("tape");
    shown::until_shown(&tape, last_of(&served));
    for args in [
        &["query", "orders"][..],
        &["query", "orders", "--instrument", "A.SH", "--status", "open", "--reverse"],
        &["query", "orders", "--order", "12", "--at", "5"],
        &["query", "orders", "--order", "77"],
        &["query", "events", "--kind", "orders,trades", "--limit", "3"],
        &["query", "trades", "--limit", "1"],
        &["query", "ticker"],
        &["query", "ticker", "--instrument", "A.SH", "--at", "4"],
        &["query", "ticker", "--at", "2023-07-11T09:30:05+08:00"],
        &["query", "status"],
        &["query", "status", "--instrument", "A.SH", "--at", "3"],
    ] {
        let of_server = succeed(&[args, &["--server", &served.url]].concat());
        let of_tape = succeed(&[args, &["--data", text(&tape)]].concat());
        assert_eq!(String::from_utf8(of_server.stdout), String::from_utf8(of_tape.stdout), "{args:?}");
    }
    for place in [["--server", served.url.as_str()], ["--data", text(&tape)]] {
        let args = [&["query", "events", "--kind", "orders,trades"][..], &place].concat();
        let whole = succeed(&args);
        assert!(whole.stderr.is_empty());
        let (mut rows, mut cursor) = (Vec::new(), Vec::new());
        for page in 1.. {
            let found = succeed(
                &[&args[..], &["--limit", "2"], &cursor.iter().map(String::as_str).collect::<Vec<_>>()]
                    .concat(),
            );
            rows.extend(found.stdout);
            let said = String::from_utf8(found.stderr).unwrap();
            let Some(next) = said.strip_prefix("next: ") else {
                assert!(page > 1 && said.is_empty(), "{said}");
                break;
            };
            cursor = next.split_whitespace().map(str::to_owned).collect();
        }
        assert_eq!(rows, whole.stdout);
        let (said, code) = fail(
            &[
                &["query", "events", "--limit", "2"][..],
                &place,
                &cursor.iter().map(String::as_str).collect::<Vec<_>>(),
            ]
            .concat(),
        );
        assert!(code == Some(2) && said.contains("cursor of another question"), "{said}");
    }
    served.stop();
}

/// The same on a later day: numbers begin anew, and B is not traded.
fn later(folder: &Path, day: &str) -> [String; 2] {
    [("orders", ORDERS), ("trades", TRADES)].map(|(name, lines)| {
        let file = folder.join(format!("{name}-{day}.csv"));
        let lines = lines.lines().filter(|line| !line.ends_with(",B.SH"));
        let lines: Vec<String> = lines.map(|line| line.replace("2023.07.11", day)).collect();
        std::fs::write(&file, lines.join("\n")).unwrap();
        text(&file).to_owned()
    })
}

#[test]
fn a_days_orders_are_gone_when_the_venues_next_day_begins_and_its_closing_book_is_seen_until_then() {
    let folder = TempDir::new().unwrap();
    let first = small(folder.path());
    let [second, third] = ["2023.07.12", "2023.07.13"].map(|day| later(folder.path(), day));
    let import = |place: [&str; 2], files: &[String]| {
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let args = [&["import", "--format", "sse-l2"][..], &place, &files].concat();
        counts(&String::from_utf8(succeed(&args).stderr).unwrap())
    };
    let [here, there, together] = ["here", "there", "together"].map(|name| folder.path().join(name));
    let served = Served::start(&there, "0");
    for place in [["--data", text(&here)], ["--server", &served.url]] {
        assert_eq!(import(place, &first), (7, 0));
        // A definition, four records, and two books cleared and the day closed before them.
        assert_eq!(import(place, &second), (8, 0));
        assert_eq!((import(place, &first), import(place, &second)), ((0, 7), (0, 5)), "once");
        assert_eq!((import(place, &third), import(place, &second)), ((8, 0), (0, 5)));
    }
    served.stop();
    assert_eq!(events(&here), events(&there), "whichever way it came");
    // All days at once are a source of its own, and say the same.
    import(["--data", text(&together)], &[first, second, third].concat());
    let said = |tape| {
        let defined = |event: &Event| matches!(event.body, Body::InstrumentDefined(_));
        let events = events(tape).into_iter().map(|(_, event)| event).filter(|event| !defined(event));
        events.map(|event| (event.instrument, event.event_time, event.body)).collect::<Vec<_>>()
    };
    assert_eq!(said(&here), said(&together));

    let ask = |args: &[&str]| {
        let answer = succeed(&[&["query"], args, &["--data", text(&here), "--format", "csv"]].concat());
        String::from_utf8(answer.stdout).unwrap()
    };
    let book = |instrument, at| {
        let book = ask(&["book", "--instrument", instrument, "--at", at]);
        book.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let nothing: [&str; 0] = [];
    assert_eq!(book("A.SH", "2023-07-11T23:59:59+08:00"), ["sell,10.2,150,1"]);
    assert_eq!(book("A.SH", "2023-07-12T00:00:00+08:00"), nothing);
    assert_eq!(book("A.SH", "2023-07-12T09:30:01+08:00"), ["buy,10.1,300,1"]);
    assert_eq!(book("A.SH", "end"), ["sell,10.2,150,1"]);
    assert_eq!(book("B.SH", "end"), nothing);
    let open = ask(&["orders", "--status", "open"]);
    assert_eq!(open.lines().count(), 2, "the heading, and order 12 of the last day: {open}");
    let closed = ask(&["events", "--kind", "session_closed"]);
    let both = closed.contains("20230711") && closed.contains("20230712");
    assert!(closed.lines().count() == 3 && both, "{closed}");
}

#[test]
fn keyed_state_is_written_to_a_node_and_read_from_it_and_from_its_directory_as_of_any_position() {
    let folder = TempDir::new().unwrap();
    let tape = folder.path().join("tape");
    let served = Served::start(&tape, "0");
    let server = ["--server", served.url.as_str()];
    let state = |args: &[&str]| succeed(&[&["state"], args].concat());
    let said = |output: Output| String::from_utf8(output.stdout).unwrap();
    let sequence = |output: Output| -> u64 {
        let said = String::from_utf8(output.stderr).unwrap();
        said.strip_prefix("sequence ").unwrap().split(',').next().unwrap().parse().unwrap()
    };
    let put = |key: &str, value: &str| sequence(state(&[&["put", key, value][..], &server].concat()));
    let first = put("limits/ESH4", "5000");
    assert_eq!(first, 2, "after the epoch's start");
    put("limits/ESM4", "0x00ff");
    put("0xff00", "binary");
    let second = put("limits/ESH4", "6000 è");
    let big = folder.path().join("big");
    std::fs::write(&big, vec![b'x'; 48 * 1024 - 3]).unwrap();
    state(&[&["put", "big", "--file", text(&big)][..], &server].concat());
    sequence(state(&[&["delete", "limits/ESM4"][..], &server].concat()));

    let check = |place: &[&str]| {
        let get = |args: &[&str]| said(state(&[&["get"], args, place].concat()));
        assert_eq!(get(&["limits/ESH4"]), "6000 è");
        assert_eq!(get(&["limits/ESH4", "--at", &(second - 1).to_string()]), "5000");
        assert_eq!(get(&["0xff00"]), "binary");
        assert_eq!(get(&["big"]).len(), 48 * 1024 - 3);
        for gone in [&["limits/ESM4"][..], &["limits/ESH4", "--at", "1"], &["never"]] {
            let (said, code) = fail(&[&["state", "get"], gone, place].concat());
            assert!(code == Some(1) && said.contains("has no value"), "{said}");
        }
        let keys = |args: &[&str]| -> Vec<String> {
            let out = said(state(&[&["list", "--format", "csv"], args, place].concat()));
            out.lines().skip(1).map(|line| line.split(',').next().unwrap().to_owned()).collect()
        };
        assert_eq!(keys(&[]), ["big", "limits/ESH4", "0xff00"]);
        assert_eq!(
            keys(&["--prefix", "limits/", "--at", &second.to_string()]),
            ["limits/ESH4", "limits/ESM4"]
        );
        assert_eq!(keys(&["--from", "c", "--to", "limits/ESM4"]), ["limits/ESH4"]);
        assert_eq!(keys(&["--limit", "1"]), ["big"]);
        assert!(keys(&["--at", "2001-09-09"]).is_empty(), "long before the first");
    };
    check(&server);
    shown::until_shown(&tape, last_of(&served));
    check(&["--data", text(&tape)]);
    // Not a word of it is on the public tape, and a node that was stopped in order knows all of it again.
    let events = said(succeed(&[&["query", "events", "--kind", "state"][..], &server].concat()));
    assert_eq!(events.lines().count(), 6);
    assert!(!events.contains("limits") && !events.contains("\"value\""), "{events}");
    let (port, url) = (served.port().to_owned(), served.url.clone());
    served.stop();
    let served = Served::start(&tape, &port);
    assert_eq!(served.url, url);
    check(&["--server", &url]);
    shown::until_shown(&tape, last_of(&served));
    check(&["--data", text(&tape)]);
    for (args, code) in [
        (&["put", "k", "v"][..], 2),
        (&["put", "", "v", "--server", &url], 2),
        (&["put", "0x1", "v", "--server", &url], 2),
        (&["put", "k", "--server", &url], 2),
        (&["put", "k", "--file", text(&folder.path().join("none")), "--server", &url], 1),
        (&["get", "k"], 2),
    ] {
        let (said, found) = fail(&[&["state"], args].concat());
        assert_eq!(found, Some(code), "{args:?}: {said}");
    }
    std::fs::write(&big, vec![b'x'; 48 * 1024]).unwrap();
    let (said, _) = fail(&["state", "put", "big", "--file", text(&big), "--server", &url]);
    assert!(said.contains("at most 49152"), "{said}");
    served.stop();
}

#[test]
fn a_place_is_a_directory_or_a_server_and_what_only_the_tape_tells_is_refused() {
    let folder = TempDir::new().unwrap();
    let [orders, trades] = small(folder.path());
    let tape = folder.path().join("tape");
    let both = ["--data", text(&tape), "--server", "http://127.0.0.1:1"];
    for (args, place) in [
        (&["query", "events"][..], &[][..]),
        (&["query", "events"], &both),
        (&["import", "--format", "sse-l2", &orders, &trades], &[]),
        (&["import", "--format", "sse-l2", &orders, &trades], &both),
        (&["import", "--format", "sse-l2", "--segment-mib", "8", &orders, &trades], &both[2..]),
        (&["query", "orders", "--account", "7"], &both[2..]),
        (&["query", "orders", "--at", "2023-07-11"], &both[2..]),
        (&["query", "account"], &both[2..]),
        (&["query", "events", "--account", "7"], &both[2..]),
        (&["query", "trades", "--account", "7"], &both[2..]),
        (&["query", "candles", "--instrument", "A.SH", "--from", "7"], &both[2..]),
        (&["query", "candles", "--instrument", "A.SH", "--interval", "100ms"], &both[2..]),
    ] {
        let (said, code) = fail(&[args, place].concat());
        assert_eq!(code, Some(2), "{args:?} {place:?}: {said}");
    }
    // No port that is given away by the system: nobody is there.
    let nobody = "http://127.0.0.1:1";
    for args in [&["query", "events"][..], &["import", "--format", "sse-l2", &orders, &trades]] {
        let (said, code) = fail(&[args, &["--server", nobody]].concat());
        assert!(code == Some(1) && said.contains(nobody), "{said}");
    }
    assert!(!tape.exists());

    let served = Served::start(&tape, "0");
    let (said, code) = fail(&["query", "book", "--server", &served.url, "--instrument", "C.SH"]);
    assert!(code == Some(1) && said.contains("no instrument is called \"C.SH\""), "{said}");
    // The environment names a gateway where nothing else says where the tape is.
    let url = served.url.clone();
    let with = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_matchtape"));
        let output = command.args(args).env("MATCHTAPE_SERVER", &url).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    with(&["state", "put", "limits/alpha", "5000"]);
    assert_eq!(with(&["state", "get", "limits/alpha"]), b"5000");
    assert!(!with(&["query", "events"]).is_empty());
    with(&["import", "--format", "sse-l2", &orders, &trades]);
    with(&["seal"]);
    // Who waits for what is far ahead is told so.
    let mut waiting = Command::new(env!("CARGO_BIN_EXE_matchtape"));
    waiting.args(["subscribe", "--server", &url, "--from", "1000"]).stderr(Stdio::piped());
    let mut waiting = waiting.spawn().unwrap();
    let mut stderr = BufReader::new(waiting.stderr.take().unwrap());
    let (told, first) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut said = String::new();
        stderr.read_line(&mut said).unwrap();
        told.send(said)
    });
    let said = first.recv_timeout(std::time::Duration::from_secs(60));
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    let said = said.expect("it says something");
    assert!(said.contains("sequence 1000 is not there yet"), "{said}");
    served.stop();
    assert!(!with(&["query", "events", "--data", text(&tape)]).is_empty(), "a flag counts before it");
}

#[test]
fn a_node_and_its_directory_agree_on_which_trade_a_bust_by_a_number_used_again_took_back() {
    use matchtape_node::{Node, NodeOptions};
    use matchtape_schemas::event::{TradeBusted, TradeMatched};
    let folder = TempDir::new().unwrap();
    let tape = folder.path().join("tape");
    let trade = || TradeMatched { trade_id: TradeId(7), ..Default::default() }.into();
    let bust = || TradeBusted { trade_id: TradeId(7), ..Default::default() }.into();
    let events: [(u32, Body); 5] = [(1, trade()), (1, trade()), (2, trade()), (1, bust()), (1, trade())];
    let node = Node::open(&tape, NodeOptions::default(), Vec::new()).unwrap();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    for (number, (instrument, body)) in events.into_iter().enumerate() {
        let number = ProducerSequence(number as u64 + 1);
        publisher.publish(&Event::new(InstrumentId(instrument), number, EventTime(1), body)).unwrap();
    }
    drop(publisher);
    node.close().unwrap();
    let served = Served::start(&tape, "0");
    let of_server = succeed(&["query", "trades", "--server", &served.url]).stdout;
    served.stop();
    let of_tape = succeed(&["query", "trades", "--data", text(&tape)]).stdout;
    let (of_server, of_tape) = (String::from_utf8(of_server).unwrap(), String::from_utf8(of_tape).unwrap());
    assert_eq!(of_server, of_tape);
    // The epoch's start is at 1.
    let rows = of_tape.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let busted: Vec<_> = rows.map(|row| (row["sequence"].as_u64(), row["busted"].as_bool())).collect();
    let expected =
        [(2, false), (3, true), (4, false), (6, false)].map(|(at, busted)| (Some(at), Some(busted)));
    assert_eq!(busted, expected, "{of_tape}");
    let csv = succeed(&["query", "trades", "--data", text(&tape), "--format", "csv"]).stdout;
    let csv = String::from_utf8(csv).unwrap();
    let last: Vec<&str> = csv.lines().map(|line| line.rsplit(',').next().unwrap()).collect();
    assert_eq!(last, ["busted", "false", "true", "false", "false"], "{csv}");
}

#[test]
fn a_legal_hold_is_placed_listed_and_lifted_in_a_running_node_as_at_rest() {
    let folder = TempDir::new().unwrap();
    let tape = folder.path().join("tape");
    let served = Served::start(&tape, "0");
    succeed(&["state", "put", "limits/alpha", "5000", "--server", &served.url]);
    let last = last_of(&served).get();
    let json = |args: &[&str]| -> serde_json::Value {
        serde_json::from_slice(&succeed(&[args, &["--format", "json"]].concat()).stdout).unwrap()
    };
    fn held_at<'a>(url: &'a str, what: &[&'a str]) -> Vec<&'a str> {
        [&["hold"], what, &["--server", url]].concat()
    }
    let url = served.url.clone();
    let held = |what| held_at(&url, what);
    let placed = json(&held(&["add", "--name", "case 17/a", "--from", "1"]));
    assert_eq!(placed, serde_json::json!({"name": "case 17/a", "from": 1, "last": last}));
    let placed = json(&held(&["add", "--name", "later", "--from", "end"]));
    assert_eq!(placed, serde_json::json!({"name": "later", "from": last + 1, "last": last}));
    let listed = json(&held(&["list"]));
    let at_rest = ["hold", "list", "--data", text(&tape)];
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    assert_eq!(listed, json(&at_rest), "the directory says the same beside the node");

    // The directory is the node's: who asks there is told where to ask, by name where that is known.
    let add = ["hold", "add", "--data", text(&tape), "--name", "x"];
    let (said, code) = fail(&add);
    assert!(code == Some(1) && said.contains("`hold` go through a running node with --server URL"), "{said}");
    assert!(said.contains("\"page\"") && said.contains(&format!("process {}", served.child.id())), "{said}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_matchtape"));
    let output = command.args(add).env("MATCHTAPE_SERVER", &served.url).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("with --server {};", served.url)), "{said}");

    for (wrong, code, words) in [
        (&["add", "--name", "case 17/a", "--from", "2"][..], 1, "`hold rm` lifts this one"),
        (&["add", "--name", "new", "--from", "9999"], 1, "--from end holds what comes from now on"),
        (&["add", "--name", "new", "--from", "soon"], 2, "neither a sequence nor `end`"),
        (&["add", "--name", ""], 1, "no name"),
        (&["add", "--name", "a\nb"], 1, "control characters"),
        (&["rm", "--name", "new"], 1, "there is no hold \"new\""),
        (&["list", "--data", text(&tape)], 2, "cannot be used with"),
    ] {
        let (said, found) = fail(&held(wrong));
        assert!(found == Some(code) && said.contains(words), "{wrong:?}: {said}");
    }
    assert_eq!(fail(&["hold", "list"]).1, Some(2));
    served.stop();

    let listed_at_rest = json(&at_rest);
    assert_eq!(listed_at_rest, listed, "holds outlive the node");
    let served = Served::start(&tape, "0");
    let server = ["--server", &served.url];
    let said = succeed(&[&["hold", "rm", "--name", "case 17/a", "--format", "text"], &server[..]].concat());
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "hold \"case 17/a\" is lifted\n");
    let said = succeed(&[&["hold", "list", "--format", "text"], &server[..]].concat());
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.starts_with(&format!("\"later\": from sequence {}, placed 20", last + 1)), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    served.stop();
}

#[test]
fn accounts_and_keyed_state_as_of_a_time_are_what_had_been_said_by_then() {
    use matchtape_node::{Node, NodeOptions};
    use matchtape_schemas::event::{AccountOpened, PositionChanged, StateDeleted, StateSet};
    use matchtape_schemas::text::Text;
    let folder = TempDir::new().unwrap();
    let tape = folder.path().join("tape");
    let opened = |id, name| -> Body {
        AccountOpened { account: AccountId(id), name: Text::new(name).unwrap(), ..Default::default() }.into()
    };
    let position = |id, units| -> Body {
        PositionChanged { account: AccountId(id), position: units, ..Default::default() }.into()
    };
    let set =
        |key: &str, value: &str| -> Body { StateSet::new(key.as_bytes(), value.as_bytes()).unwrap().into() };
    // Of 2023-11-14T22:13Z.
    let second = |second: i64| EventTime((1_699_999_980 + second) * 1_000_000_000);
    // What comes late is behind a later one, and counts with it.
    let events: [(i64, Body); 10] = [
        (10, opened(7, "seven")),
        (10, set("a", "old")),
        (40, opened(8, "eight")),
        (30, position(7, 3_000_000_000)),
        (40, set("b", "other")),
        (20, position(7, 4_000_000_000)),
        (30, set("a", "new")),
        (50, position(7, -5_000_000_000)),
        (50, position(8, 6_000_000_000)),
        (59, StateDeleted::new(b"a").unwrap().into()),
    ];
    let node = Node::open(&tape, NodeOptions::default(), matchtape_market::projections()).unwrap();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    for (number, (at, body)) in events.into_iter().enumerate() {
        let number = ProducerSequence(number as u64 + 1);
        publisher.publish(&Event::new(InstrumentId(0), number, second(at), body)).unwrap();
    }
    drop(publisher);
    node.close().unwrap();
    let rows = |args: &[&str], at: i64, place: &[&str]| -> Vec<serde_json::Value> {
        let time = format!("2023-11-14T22:13:{at:02}Z");
        let said = succeed(&[args, &["--at", &time], place].concat()).stdout;
        let said = String::from_utf8(said).unwrap();
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let data = ["--data", text(&tape)];
    let account = |id: &str, at| {
        let rows = rows(&["query", "account", "--account", id], at, &data);
        let row = |row: &serde_json::Value| {
            format!("{} {} {} {}", row["account"], row["name"], row["position"], row["last_sequence"])
        };
        rows.iter().map(row).collect::<Vec<_>>()
    };
    for (id, at, expected) in [
        ("7", 29, vec![r#""7" "seven" null 2"#]),
        ("7", 30, vec![r#""7" "seven" "4" 7"#]),
        ("7", 50, vec![r#""7" "seven" "-5" 9"#]),
        ("8", 39, vec![]),
    ] {
        assert_eq!(account(id, at), expected, "{id} at {at}");
    }
    // Of all keys the first later event, be it of another key, ends it; of one key only its own do.
    let served = Served::start(&tape, "0");
    for (place, at, all, one) in [
        (&data[..], 39, vec![r#""a"="old""#], "new"),
        (&["--server", &served.url], 39, vec![r#""a"="old""#], "new"),
        (&data, 40, vec![r#""a"="new""#, r#""b"="other""#], "new"),
    ] {
        let found = rows(&["state", "list"], at, place);
        let row = |row: &serde_json::Value| format!("{}={}", row["key"], row["value"]);
        assert_eq!(found.iter().map(row).collect::<Vec<_>>(), all, "{place:?} {at}");
        let time = format!("2023-11-14T22:13:{at:02}Z");
        let value = succeed(&[&["state", "get", "a", "--at", &time], place].concat()).stdout;
        assert_eq!(String::from_utf8(value).unwrap(), one, "{place:?} {at}");
    }
    served.stop();
}
