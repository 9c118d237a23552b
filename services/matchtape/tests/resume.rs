//! What `tail` and `replay` say at their end: whoever begins again with it is given everything else, and nothing again.

use std::path::Path;
use std::process::Command;

use matchtape_node::{Node, NodeOptions};
use matchtape_schemas::event::OrderCancelled;
use matchtape_schemas::*;
use serde_json::Value;
use tempfile::TempDir;

/// An order is cancelled every millisecond, in groups of three; the tape ends in the middle of a window.
const EVENTS: u64 = 1010;

fn tape(folder: &Path) {
    let mut options = NodeOptions::default();
    options.store.wal.segment_bytes = 1 << 20;
    let node = Node::open(folder, options, matchtape_market::projections()).unwrap();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    let event = |number: u64| {
        let time = EventTime(1_700_000_000_000_000_000 + number as i64 * 1_000_000);
        let body = OrderCancelled { order_id: OrderId(number), ..OrderCancelled::default() };
        Event::new(InstrumentId(1), ProducerSequence(number), time, body)
    };
    let numbers: Vec<u64> = (2..=EVENTS).collect();
    let mut last = Sequence::ZERO;
    for group in numbers.chunks(3) {
        let events: Vec<Event> = group.iter().map(|number| event(*number)).collect();
        last = publisher.publish_group(&events).unwrap().sequence();
    }
    drop(publisher);
    node.wait(last, Stage::Visible).unwrap();
    assert_eq!(last, Sequence(EVENTS), "the first event is the epoch's");
    node.close().unwrap();
}

/// The rows, and how the command says to go on.
fn run(folder: &Path, args: &[&str]) -> (Vec<Value>, Vec<String>) {
    let output = Command::new(env!("CARGO_BIN_EXE_matchtape"))
        .args(args)
        .args(["--format", "ndjson", "--data"])
        .arg(folder)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {said}");
    let rows = String::from_utf8(output.stdout).unwrap();
    let rows = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let resume = said.lines().find_map(|line| line.strip_prefix("resume with ")).expect("how to go on");
    (rows, resume.split(' ').map(str::to_owned).collect())
}

fn sequences(rows: &[Value]) -> Vec<u64> {
    let of = |row: &Value| row["sequence"].as_u64().unwrap();
    rows.iter()
        .flat_map(|row| {
            row["events"].as_array().map_or_else(|| vec![of(row)], |rows| rows.iter().map(of).collect())
        })
        .collect()
}

#[test]
fn a_tail_through_an_event_goes_on_behind_that_event() {
    let folder = TempDir::new().unwrap();
    tape(folder.path());
    // No node publishes it: all comes from the log, read in frames that hold more.
    let (rows, resume) = run(folder.path(), &["tail", "--from", "5", "--through", "10"]);
    assert_eq!(sequences(&rows), (5..=10).collect::<Vec<_>>());
    assert_eq!(resume, ["--from", "11"]);
    let (rows, resume) =
        run(folder.path(), &["tail", "--tier", "delayed", "--from", "5", "--through", "250"]);
    // The first window that begins there or later, to the one that holds the last event.
    assert_eq!(sequences(&rows), (101..=301).collect::<Vec<_>>());
    assert_eq!(resume[0], "--after-window");
    let (rows, _) =
        run(folder.path(), &["tail", "--tier", "delayed", &resume[0], &resume[1], "--through", "302"]);
    assert_eq!(sequences(&rows)[0], 302);
}

#[test]
fn a_replay_in_windows_gives_every_event_and_is_continued_where_it_ended() {
    let folder = TempDir::new().unwrap();
    tape(folder.path());
    let replay = |more: &[&str]| {
        run(folder.path(), &[&["replay", "--tier", "delayed", "--speed", "0"], more].concat())
    };
    let (whole, _) = replay(&[]);
    assert_eq!(sequences(&whole), (1..=EVENTS).collect::<Vec<_>>());
    assert_eq!(whole.last().unwrap()["last_part"], false, "the last window is not at its end");
    // Inside a group, and at the end of one.
    for to in ["1", "100", "250", "999"] {
        let (mut given, resume) = replay(&["--to", to]);
        let (rest, _) = replay(&[&resume[0], &resume[1]]);
        given.extend(rest);
        assert_eq!(sequences(&given), (1..=EVENTS).collect::<Vec<_>>(), "--to {to}, then {resume:?}");
    }
    // Too late for a window that is whole: nothing is given, and nothing is said to have been.
    let (rows, resume) = replay(&["--from", "1009"]);
    assert!(rows.is_empty() && resume == ["--from", "1009"], "{rows:?} {resume:?}");
}
