//! What takes long says on a terminal how far it is, and nowhere else.

use std::path::Path;
use std::process::{Command, Stdio};

use matchtape_node::{Node, NodeOptions};
use matchtape_schemas::event::OrderAccepted;
use matchtape_schemas::*;
use tempfile::TempDir;

/// A tape with a table of some hundred orders.
fn tape(folder: &TempDir) -> String {
    let place = folder.path().join("tape");
    let node = Node::open(&place, NodeOptions::default(), matchtape_market::projections()).unwrap();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    let mut last = Sequence::ZERO;
    for number in 1..=300 {
        let body = OrderAccepted { order_id: OrderId(number), ..Default::default() };
        let event = Event::new(InstrumentId(1), ProducerSequence(number), EventTime(5), body);
        last = publisher.publish(&event).unwrap().sequence();
    }
    node.wait(last, Stage::Visible).unwrap();
    drop(publisher);
    node.close().unwrap();
    place.to_str().unwrap().to_owned()
}

/// Runs a command in a terminal of its own, made by `script`; everything that it shows there.
fn shown_on_a_terminal(command: &str) -> Option<String> {
    let binary = Path::new(env!("CARGO_BIN_EXE_matchtape")).display();
    let line = format!("stty cols 120 rows 40; exec '{binary}' {command}");
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => {
            let shown = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{command}: {shown}");
            Some(shown)
        }
        Err(error) => {
            eprintln!("NOT CHECKED: what is shown on a terminal: no `script` (util-linux) here: {error}");
            None
        }
    }
}

#[test]
fn what_reads_a_whole_store_says_on_a_terminal_how_far_it_is_and_is_silent_elsewhere() {
    let folder = TempDir::new().unwrap();
    let tape = tape(&folder);
    let backup = folder.path().join("backup").display().to_string();
    for (command, said) in [
        (format!("dump --data {tape} > /dev/null"), vec!["reading", "tables/", "B  "]),
        (format!("dump --data {tape} --damaged"), vec!["reading", "tables/"]),
        (format!("verify --data {tape} > /dev/null"), vec!["tables/", "events  folding snapshots again"]),
        (format!("backup --data {tape} --to {backup} > /dev/null"), vec!["copying", "reading"]),
    ] {
        let Some(shown) = shown_on_a_terminal(&command) else { return };
        for words in said {
            assert!(shown.contains(words), "{command}: no {words:?} in {shown:?}");
        }
        assert!(shown.contains("[#") || shown.contains("[-") || shown.contains('█') || shown.contains('░'));
    }
    // The structures themselves go by: a bar would stand between them.
    let shown = shown_on_a_terminal(&format!("dump --data {tape}")).unwrap();
    assert!(shown.contains("footer") && !shown.contains("reading"), "{}", &shown[..shown.len().min(2000)]);

    for args in [&["dump", "--data", &tape][..], &["verify", "--data", &tape]] {
        let output = Command::new(env!("CARGO_BIN_EXE_matchtape")).args(args).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}");
    }
}
