//! The tools of operations, as commands: beside a running node, and on what it leaves.

use std::path::Path;
use std::process::{Command, Output};

use matchtape_market::projections;
use matchtape_node::{Node, NodeOptions};
use matchtape_schemas::event::{OrderCancelled, SessionClosed};
use matchtape_schemas::*;
use serde_json::Value;
use tempfile::TempDir;

fn matchtape(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_matchtape")).args(args).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The report of a command that has to succeed.
fn report(args: &[&str]) -> Value {
    let output = matchtape(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// What a command that has to fail says.
fn refused(args: &[&str]) -> String {
    let output = matchtape(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn open(tape: &Path) -> Node {
    open_with(tape, projections())
}

fn open_with(tape: &Path, projections: Vec<Box<dyn Projection>>) -> Node {
    let mut options = NodeOptions::default();
    options.store.wal.segment_bytes = 1 << 20;
    // Every day keeps tables of its own, though it is small.
    options.store.compaction.small_event_table_bytes = 0;
    options.store.compaction.level0_tables = 1000;
    Node::open(tape, options, projections).unwrap()
}

/// Publishes so many cancellations of orders, then the end of a day, and brings them into tables.
fn publish_day(node: &Node, day: u32, count: u64) {
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    let from = publisher.last().map_or(0, |last| last.get()) + 1;
    let mut last = Sequence::ZERO;
    for number in from..from + count {
        let body = OrderCancelled { order_id: OrderId(number), ..Default::default() };
        let event = Event::new(InstrumentId(1), ProducerSequence(number), EventTime(number as i64), body);
        last = publisher.publish(&event).unwrap().sequence();
    }
    let closed = SessionClosed { trading_day: day, ..Default::default() };
    let number = from + count;
    let event = Event::new(InstrumentId(0), ProducerSequence(number), EventTime(number as i64), closed);
    last = last.max(publisher.publish(&event).unwrap().sequence());
    node.wait(last, Stage::Visible).unwrap();
    drop(publisher);
    node.store().flush().unwrap();
}

fn five_days(tape: &Path) -> Node {
    let node = open(tape);
    for day in 0..5 {
        publish_day(&node, 20_260_101 + day, 200);
    }
    node
}

#[test]
fn a_running_node_is_backed_up_and_restored_to_any_point() {
    let folder = TempDir::new().unwrap();
    let (tape, backup, again) =
        (folder.path().join("tape"), folder.path().join("backup"), folder.path().join("again"));
    let node = five_days(&tape);
    let made = report(&["backup", "--data", text(&tape), "--to", text(&backup)]);
    let last = node.watermarks().visible.get();
    assert_eq!((made["through"].as_u64(), made["copied"].as_u64()), (Some(last), Some(0)), "{made}");
    assert!(made["linked"].as_u64() >= Some(15), "{made}");
    publish_day(&node, 20_260_106, 100);
    node.close().unwrap();
    assert!(matchtape(&["verify", "--data", text(&tape)]).status.success(), "the source is unharmed");
    assert!(matchtape(&["verify", "--data", text(&backup)]).status.success());
    let inspected = report(&["inspect", "--data", text(&backup)]);
    assert_eq!(inspected["visible"].as_u64(), Some(last), "what came later is not in it");

    for within in [backup.join("again"), backup.clone()] {
        let said = refused(&["restore", "--from", text(&backup), "--data", text(&within)]);
        assert!(said.contains("lies within"), "{said}");
    }
    assert!(!backup.join("again").exists());
    let said = refused(&["restore", "--from", text(&backup), "--data", text(&tape)]);
    assert!(said.contains("not empty") && said.contains("name a directory that is empty"), "{said}");
    let restored =
        report(&["restore", "--from", text(&backup), "--data", text(&again), "--to-sequence", "500"]);
    assert_eq!(restored["through"].as_u64(), Some(500), "{restored}");
    assert_eq!(restored["epoch_started"].as_u64(), Some(2), "{restored}");
    let node = open(&again);
    assert_eq!((node.watermarks().visible, node.epoch()), (Sequence(501), Epoch(3)));
    publish_day(&node, 20_260_103, 10);
    node.close().unwrap();
    assert!(matchtape(&["verify", "--data", text(&again)]).status.success());

    let whole = folder.path().join("whole");
    let text_report =
        matchtape(&["restore", "--from", text(&backup), "--data", text(&whole), "--format", "text"]);
    let said = String::from_utf8(text_report.stdout).unwrap();
    assert!(said.contains(&format!("sequences 1 to {last}")) && said.contains("never to both"), "{said}");
    let early = folder.path().join("early");
    let said = refused(&[
        "restore",
        "--from",
        text(&backup),
        "--data",
        text(&early),
        "--to-time",
        "2001-01-01T00:00:00Z",
    ]);
    assert!(
        said.contains("no group of events") && said.contains("the first event kept is 1, accepted 20"),
        "{said}"
    );
}

#[test]
fn old_days_go_when_told_and_a_hold_keeps_them() {
    let folder = TempDir::new().unwrap();
    let tape = folder.path().join("tape");
    let data = ["--data", text(&tape)];
    let with = |command: &[&'static str], more: &[&'static str]| -> Vec<String> {
        command.iter().chain(&data).chain(more).map(|arg| (*arg).to_owned()).collect()
    };
    let report = |args: Vec<String>| report(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let refused = |args: Vec<String>| refused(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let node = five_days(&tape);
    // Beside a running node: what would go can be seen, and nothing can be changed.
    let planned = report(with(&["retain"], &["--trading-days", "2"]));
    assert!(planned["first_kept"].as_u64() > Some(1), "{planned}");
    let said = refused(with(&["hold", "add"], &["--name", "case-1", "--from", "300"]));
    assert!(said.contains(&format!("process {}", std::process::id())), "{said}");
    assert!(said.contains("`hold` go through a running node with --server"), "{said}");
    assert!(
        refused(with(&["retain"], &["--trading-days", "2", "--apply"])).contains("writes there, since 20")
    );
    node.close().unwrap();

    let placed = report(with(&["hold", "add"], &["--name", "case-1", "--from", "300"]));
    let last = placed["last"].as_u64().unwrap();
    assert_eq!(placed, serde_json::json!({"name": "case-1", "from": 300, "last": last}));
    // What comes from now on can be held; a number further on is a mistake.
    let placed = report(with(&["hold", "add"], &["--name", "case-2", "--from", "end"]));
    assert_eq!((placed["from"].as_u64(), placed["last"].as_u64()), (Some(last + 1), Some(last)));
    let said = refused(with(&["hold", "add"], &["--name", "case-2", "--from", "12000000"]));
    assert!(said.contains(&format!("sequence 12000000 is beyond the end of the tape, {last}")), "{said}");
    assert!(said.contains("--from end"), "{said}");
    let lifted = report(with(&["hold", "rm"], &["--name", "case-2"]));
    assert_eq!(lifted, serde_json::json!({"name": "case-2", "last": last}));
    assert!(report(with(&["inspect"], &[]))["memory"]["pressure"].is_null(), "nobody writes here");
    let listed = report(with(&["hold", "list"], &[]));
    assert_eq!((listed[0]["name"].as_str(), listed[0]["from"].as_u64()), (Some("case-1"), Some(300)));
    // Forward it would keep less, which only lifting it may do.
    let said = refused(with(&["hold", "add"], &["--name", "case-1", "--from", "end"]));
    assert!(said.contains("from sequence 300 on") && said.contains("hold rm"), "{said}");
    let placed = report(with(&["hold", "add"], &["--name", "case-1", "--from", "299"]));
    assert_eq!(placed["from"].as_u64(), Some(299), "{placed}");
    let said = refused(with(&["hold", "add"], &["--name", "case-3\nno holds", "--from", "1"]));
    assert!(said.contains("control characters"), "{said}");
    let kept = report(with(&["retain"], &["--trading-days", "2"]));
    let first_kept = kept["first_kept"].as_u64().unwrap();
    assert!(first_kept > 1 && first_kept <= 299, "{kept}");
    assert_eq!(kept["restraints"][0]["pin"]["name"].as_str(), Some("case-1"), "{kept}");
    report(with(&["hold", "rm"], &["--name", "case-1"]));
    assert!(refused(with(&["hold", "rm"], &["--name", "case-1"])).contains("there is no hold"));
    let dropped = report(with(&["retain"], &["--trading-days", "2", "--apply"]));
    assert_eq!(dropped["first_kept"], planned["first_kept"], "{dropped}");

    assert!(report(with(&["verify"], &[]))["findings"].as_array().unwrap().is_empty());
    let node = open(&tape);
    publish_day(&node, 20_260_106, 10);
    node.close().unwrap();
    let snapshot = report(with(&["snapshot"], &[]));
    assert!(snapshot["sequence"].as_u64() > Some(1000), "{snapshot}");
    // All that a served node keeps, and the producers.
    assert_eq!(snapshot["sections"].as_u64(), Some(projections().len() as u64 + 1), "{snapshot}");
}

#[test]
fn rules_that_ask_for_the_whole_tape_are_followed_only_when_that_is_asked_for_and_leave_the_venues_newest_events()
 {
    let folder = TempDir::new().unwrap();
    let tape = folder.path().join("tape");
    five_days(&tape).close().unwrap();
    // The newest table holds nothing but the beginning of a term.
    let node = open(&tape);
    node.sealer().seal(std::time::Duration::from_secs(60)).unwrap();
    node.close().unwrap();
    let tables = report(&["inspect", "--data", text(&tape)])["event_tables"].as_array().unwrap().clone();
    let newest = |at: usize| &tables[tables.len() - at];
    assert_eq!(newest(1)["first_sequence"], newest(1)["last_sequence"], "{tables:?}");

    // 0 is no rule, as in the configuration; and without a rule nothing goes, though snapshots could be thinned.
    let snapshots = || report(&["inspect", "--data", text(&tape)])["snapshots"].as_array().unwrap().len();
    let before = snapshots();
    assert!(before > 2, "{before} snapshots");
    for rule in [&[][..], &["--max-bytes", "0"], &["--trading-days", "0"]] {
        for apply in [&[][..], &["--apply"]] {
            let kept = report(&[&["retain", "--data", text(&tape)][..], rule, apply].concat());
            assert_eq!(kept["first_kept"].as_u64(), Some(1), "{kept}");
            assert_eq!(kept["dropped"].as_array().map(Vec::len), Some(0), "{kept}");
            assert_eq!(snapshots(), before);
        }
    }
    let said = matchtape(&["retain", "--data", text(&tape), "--format", "text"]);
    assert!(String::from_utf8(said.stdout).unwrap().contains("no rule"));
    let thinned = report(&["retain", "--data", text(&tape), "--max-bytes", "1TiB"]);
    assert!(
        thinned["dropped"].as_array().unwrap().iter().all(|file| file["reason"] == "thinned"),
        "{thinned}"
    );
    assert_eq!(thinned["dropped"].as_array().map(Vec::len), Some(before - 2), "{thinned}");
    let all = ["retain", "--data", text(&tape), "--age", "1ns"];
    let planned = report(&all);
    assert_eq!(planned["first_kept"], newest(2)["first_sequence"], "{planned}");
    let said = matchtape(&[&all[..], &["--format", "text"]].concat());
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("the whole tape") && said.contains("--apply --everything"), "{said}");

    let said = refused(&[&all[..], &["--apply"]].concat());
    assert!(said.contains("the whole tape") && said.contains("--everything"), "{said}");
    let inspected = report(&["inspect", "--data", text(&tape)]);
    assert_eq!(inspected["first_kept"].as_u64(), Some(1), "nothing was changed: {inspected}");
    let dropped = report(&[&all[..], &["--apply", "--everything"]].concat());
    assert_eq!(dropped["first_kept"], planned["first_kept"], "{dropped}");
    let left = matchtape(&["query", "events", "--data", text(&tape), "--kind", "orders"]);
    assert_eq!(String::from_utf8(left.stdout).unwrap().lines().count(), 200, "the last day is there");
}

#[test]
fn a_damaged_store_is_salvaged_as_the_messages_say() {
    let folder = TempDir::new().unwrap();
    let tape = folder.path().join("tape");
    five_days(&tape).close().unwrap();
    let inspected = report(&["inspect", "--data", text(&tape)]);
    let index = inspected["index_tables"][1]["file"].as_str().unwrap();
    let damaged = tape.join(index);
    let mut bytes = std::fs::read(&damaged).unwrap();
    bytes[100] ^= 4;
    std::fs::write(&damaged, bytes).unwrap();

    let said = refused(&["verify", "--data", text(&tape)]);
    assert!(said.contains("matchtape salvage"), "{said}");
    let dumped = matchtape(&["dump", "--data", text(&tape), "--damaged", "--format", "text"]);
    let dumped = String::from_utf8(dumped.stdout).unwrap();
    assert!(dumped.contains(index) && dumped.contains("DAMAGED"), "{dumped}");
    assert!(refused(&["dump", text(&damaged)]).contains("1 structures do not check"));
    assert_eq!(matchtape(&["dump", text(&tape.join("manifest"))]).status.code(), Some(0));
    assert_eq!(dumped.lines().filter(|line| line.contains("DAMAGED")).count(), 1, "{dumped}");

    let said = refused(&["salvage", "--data", text(&tape)]);
    assert!(said.contains("nothing was changed") && said.contains("--apply"), "{said}");
    let salvaged = report(&["salvage", "--data", text(&tape), "--apply"]);
    assert_eq!(salvaged["files_aside"][0].as_str(), Some(index), "{salvaged}");
    assert_eq!(salvaged["lost"].as_array().map(Vec::len), Some(0), "{salvaged}");
    assert!(tape.join("salvage-1").join(index).exists());
    assert!(matchtape(&["verify", "--data", text(&tape)]).status.success());
    let sound = report(&["salvage", "--data", text(&tape), "--apply"]);
    assert_eq!(sound["applied"].as_bool(), Some(false), "{sound}");
    open(&tape).close().unwrap();

    std::fs::remove_file(tape.join("manifest")).unwrap();
    let said = refused(&["snapshot", "--data", text(&tape)]);
    assert!(said.contains("manifest") || said.contains("no store"), "{said}");
    let salvaged = report(&["salvage", "--data", text(&tape), "--apply"]);
    assert_eq!(salvaged["manifest_rebuilt"].as_bool(), Some(true), "{salvaged}");
    assert!(matchtape(&["verify", "--data", text(&tape)]).status.success());
    open(&tape).close().unwrap();
}

#[test]
fn verify_reads_the_log_too_what_no_table_has_yet_and_what_is_kept_beside_the_tables() {
    let folder = TempDir::new().unwrap();
    let tape = folder.path().join("tape");
    let verify = || {
        let output = matchtape(&["verify", "--data", text(&tape)]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        (report, output.status.code())
    };
    let node = five_days(&tape);
    node.sealer().seal(std::time::Duration::from_secs(60)).unwrap();
    let in_tables = node.watermarks().visible.get();
    node.store().flush().unwrap();
    let mut publisher = node.publisher(ProducerId(7)).unwrap();
    for number in 1..=3 {
        let body = OrderCancelled { order_id: OrderId(1), ..Default::default() };
        let event = Event::new(InstrumentId(1), ProducerSequence(number), EventTime(1), body);
        let last = publisher.publish(&event).unwrap().sequence();
        node.wait(last, Stage::Visible).unwrap();
    }
    drop(publisher);
    let begun = std::time::Instant::now();
    let report = loop {
        let (report, code) = verify();
        assert_eq!((code, report["events"].as_u64()), (Some(0), Some(in_tables)), "{report}");
        // A directory shows what has something behind it, and the last event has when the log has been idle.
        if report["log_events"] == 3 {
            break report;
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{report}");
    };
    assert_eq!(report["sealed_segments"].as_u64(), Some(1), "{report}");
    node.close().unwrap();

    let segment = tape.join("wal/000000000001.wal");
    let sound = std::fs::read(&segment).unwrap();
    // In the middle of a commit, and in the header.
    for at in [5000, 20] {
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        std::fs::write(&segment, damaged).unwrap();
        let (report, code) = verify();
        assert_eq!(code, Some(1), "{at}: {report}");
        assert_eq!(report["findings"][0]["file"], "wal/000000000001.wal", "{at}: {report}");
    }
    std::fs::write(&segment, sound).unwrap();
    assert_eq!(verify().1, Some(0));
}

#[test]
fn every_command_shows_examples() {
    for command in ["backup", "restore", "snapshot", "retain", "hold", "salvage", "dump"] {
        let help = matchtape(&[command, "--help"]);
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.contains("Examples:") && help.contains(&format!("matchtape {command}")), "{help}");
    }
}

/// The books, saved with a byte too much while `FALSE` says so.
struct FalseBooks(matchtape_market::Books);

static FALSE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

impl Projection for FalseBooks {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn version(&self) -> u32 {
        self.0.version()
    }

    fn apply(&mut self, event: &EventRef<'_>) {
        self.0.apply(event);
    }

    fn save(&self, out: &mut Vec<u8>) {
        self.0.save(out);
        if FALSE.load(std::sync::atomic::Ordering::SeqCst) {
            out.push(0);
        }
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), ProjectionError> {
        self.0.restore(section)
    }
}

#[test]
fn verify_finds_a_snapshot_in_the_middle_that_is_not_what_its_events_make_also_after_retention() {
    let folder = TempDir::new().unwrap();
    let tape = folder.path().join("tape");
    let mut kept = projections();
    let name = kept[0].name();
    assert_eq!(name, matchtape_market::Books::new().name());
    kept[0] = Box::new(FalseBooks(matchtape_market::Books::new()));
    let node = open_with(&tape, kept);
    for day in 0..5 {
        FALSE.store(day == 3, std::sync::atomic::Ordering::SeqCst);
        publish_day(&node, 20_260_101 + day, 50);
    }
    node.close().unwrap();
    let verified = || {
        let output = matchtape(&["verify", "--data", text(&tape)]);
        assert_eq!(output.status.code(), Some(1));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["findings"].as_array().unwrap().clone()
    };
    let fourth = report(&["inspect", "--data", text(&tape)])["snapshots"][3].clone();
    let expect_fourth = |findings: Vec<Value>| {
        let [finding] = findings.as_slice() else { panic!("{findings:?}") };
        assert_eq!(finding["file"], fourth["file"]);
        let what = finding["what"].as_str().unwrap();
        let place =
            format!("section {name} is not what the events up to sequence {} make", fourth["sequence"]);
        assert!(what.contains(&place), "{what}");
    };
    expect_fourth(verified());
    let dropped = report(&["retain", "--data", text(&tape), "--trading-days", "2", "--apply"]);
    assert!(dropped["first_kept"].as_u64() > Some(1), "{dropped}");
    let left = report(&["inspect", "--data", text(&tape)])["snapshots"].clone();
    assert!(left[0]["sequence"].as_u64() < fourth["sequence"].as_u64(), "something to begin with: {left}");
    expect_fourth(verified());
}

#[test]
fn what_opening_found_is_told_as_one_object_where_it_is_asked_for() {
    let folder = TempDir::new().unwrap();
    let tape = folder.path().join("tape");
    five_days(&tape).close().unwrap();
    let node = open(&tape);
    publish_day(&node, 20_260_106, 50);
    node.close().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_matchtape"))
        .args(["serve", "--no-bus", "--data", text(&tape), "--listen", "127.0.0.1:0", "--report", "json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let said = std::io::BufReader::new(child.stderr.take().unwrap());
    let found = std::io::BufRead::lines(said)
        .map_while(Result::ok)
        .find_map(|line| serde_json::from_str::<Value>(&line).ok())
        .expect("a line of JSON");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(found["created"], false, "{found}");
    let id = &report(&["inspect", "--data", text(&tape)])["tape"];
    assert_eq!(&found["tape"], id);
    assert!(found["last_sequence"].as_u64() >= found["flushed_through"].as_u64(), "{found}");
    assert!(found["event_tables"].as_u64() >= Some(6) && found["wal"].is_object(), "{found}");
}

#[test]
fn a_refused_restore_leaves_its_target_usable_and_a_directory_without_a_manifest_is_still_shown() {
    let folder = TempDir::new().unwrap();
    let (tape, again) = (folder.path().join("tape"), folder.path().join("again"));
    five_days(&tape).close().unwrap();
    let restore = |point: &str| {
        let args = ["restore", "--from", text(&tape), "--data", text(&again), "--to-sequence", point];
        matchtape(&args).status.code()
    };
    assert_eq!(restore("0"), Some(1), "nothing ends there");
    assert_eq!(restore("999999"), Some(1), "beyond the end");
    assert_eq!(restore("300"), Some(0));

    std::fs::rename(again.join("manifest"), again.join("gone")).unwrap();
    let shown = matchtape(&["dump", "--data", text(&again)]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.lines().any(|line| line.contains("\"what\":\"footer\"")), "{shown}");
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let said = refused(&["dump", "--data", text(&empty)]);
    assert!(said.contains("nothing of a store") && said.contains("has to be the directory"), "{said}");
    let said = refused(&["salvage", "--data", text(&empty)]);
    assert!(said.contains("no store here") && said.contains("has to be the directory"), "{said}");
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0, "a look leaves nothing behind");
    let said = refused(&["restore", "--from", text(&folder.path().join("none")), "--data", text(&empty)]);
    assert!(said.contains("has to be the directory") && !said.contains("--data"), "{said}");
    let said = refused(&["salvage", "--data", text(&folder.path().join("none"))]);
    assert!(said.contains("has to be the directory"), "{said}");
    let said = refused(&["hold", "add", "--data", text(&tape), "--name", ""]);
    assert!(said.contains("1 to 64 bytes") && said.contains("--name is"), "{said}");
}

#[test]
fn event_tables_are_compressed_anew_when_asked_and_a_build_that_cannot_says_how() {
    let folder = TempDir::new().unwrap();
    let tape = folder.path().join("tape");
    five_days(&tape).close().unwrap();
    let words = || -> Vec<String> {
        let tables = report(&["inspect", "--data", text(&tape)])["event_tables"].as_array().unwrap().clone();
        tables.iter().map(|table| table["compression"].as_str().unwrap().to_owned()).collect()
    };
    assert!(words().iter().all(|word| word == "lz4"));
    report(&["compact", "--data", text(&tape), "--compression", "none"]);
    assert!(words().iter().all(|word| word == "none"), "{:?}", words());
    let zstd = ["compact", "--data", text(&tape), "--compression", "zstd"];
    if cfg!(feature = "zstd") {
        report(&zstd);
        assert!(words().iter().all(|word| word == "zstd"));
    } else {
        let said = refused(&zstd);
        assert!(said.contains("--features zstd"), "{said}");
        assert!(words().iter().all(|word| word == "none"), "nothing was changed");
    }
    assert!(matchtape(&["verify", "--data", text(&tape)]).status.success());
}
