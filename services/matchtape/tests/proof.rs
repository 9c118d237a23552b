//! `matchtape proof` as an exchange and its auditor use it: the auditor has the frames, the proof and the roots, and no tape.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use matchtape_node::{Node, NodeOptions};
use matchtape_schemas::event::OrderCancelled;
use matchtape_schemas::*;
use serde_json::Value;
use tempfile::TempDir;

fn matchtape(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_matchtape")).args(args).output().unwrap()
}

/// The standard output of a command that has to succeed.
fn done(args: &[&str]) -> String {
    let output = matchtape(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a command that has to fail says.
fn refused(code: i32, args: &[&str]) -> String {
    let output = matchtape(args);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stderr).unwrap()
}

/// A tape of at least three sealed segments, closed.
struct Tape {
    folder: TempDir,
}

impl Tape {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let mut options = NodeOptions::default();
        options.store.wal.segment_bytes = 1 << 20;
        let node = Node::open(&folder.path().join("tape"), options, Vec::new()).unwrap();
        let mut publisher = node.publisher(ProducerId(1)).unwrap();
        let mut number = 0;
        while node.store().segment_facts().len() < 3 {
            let group: Vec<_> = (0..200)
                .map(|_| {
                    number += 1;
                    let body = OrderCancelled { order_id: OrderId(number), ..Default::default() };
                    Event::new(InstrumentId(1), ProducerSequence(number), EventTime(number as i64), body)
                })
                .collect();
            let last = publisher.publish_group(&group).unwrap().sequence();
            node.wait(last, Stage::Visible).unwrap();
        }
        drop(publisher);
        node.close().unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn roots(&self) -> Vec<Value> {
        let data = self.path("tape");
        let lines = done(&["proof", "roots", "--data", text(&data)]);
        std::fs::write(self.path("roots.jsonl"), &lines).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_auditor_checks_a_run_across_segments_with_published_roots_and_without_the_tape() {
    let tape = Tape::new();
    let roots = tape.roots();
    assert!(roots.len() >= 3);
    let (data, proof, published) = (tape.path("tape"), tape.path("run.proof"), tape.path("roots.jsonl"));
    let second = roots[1]["first_sequence"].as_u64().unwrap();
    let (from, to) = ((second - 500).to_string(), (second + 500).to_string());
    let made =
        done(&["proof", "make", "--data", text(&data), "--from", &from, "--to", &to, "--out", text(&proof)]);
    let made: Value = serde_json::from_str(&made).unwrap();
    assert!(made["first_sequence"].as_u64() <= from.parse().ok(), "{made}");
    assert!(made["last_sequence"].as_u64() >= to.parse().ok(), "{made}");
    assert_eq!(made["segments"].as_array().unwrap().len(), 2);
    let (first, last) = (made["first_sequence"].to_string(), made["last_sequence"].to_string());
    let rows = done(&["query", "events", "--data", text(&data), "--from", &first, "--to", &last]);

    std::fs::rename(&data, tape.path("away")).unwrap();
    let checked = done(&["proof", "check", text(&proof), "--roots", text(&published)]);
    assert_eq!(serde_json::from_str::<Value>(&checked).unwrap(), made);
    let two: Vec<&str> = roots[..2].iter().map(|row| row["root"].as_str().unwrap()).collect();
    done(&["proof", "check", text(&proof), "--root", two[0], "--root", two[1]]);
    let shown = done(&["proof", "check", text(&proof), "--roots", text(&published), "--events", "ndjson"]);
    assert_eq!(shown, rows, "the rows of the proven frames are those of the tape");
    let said = done(&["proof", "check", text(&proof), "--roots", text(&published), "--format", "text"]);
    assert!(said.starts_with(&format!("proven   sequences {first} to {last}")), "{said}");

    let said = refused(2, &["proof", "check", text(&proof), "--root", two[0]]);
    assert!(said.contains("1 roots are given, the proof needs 2: those of the segments 1, 2"), "{said}");
    let said = refused(1, &["proof", "check", text(&proof), "--root", two[1], "--root", two[0]]);
    assert!(said.contains("not proven") && said.contains(two[1]), "{said}");
    let said = refused(2, &["proof", "check", text(&proof), "--root", "xyz"]);
    assert!(said.contains("64 hexadecimal digits"), "{said}");
    let said = refused(2, &["proof", "check", text(&proof)]);
    assert!(said.contains("--roots"), "{said}");

    done(&["proof", "check", text(&proof), "--data", text(&tape.path("away"))]);
}

#[test]
fn frames_that_were_altered_shortened_or_lengthened_are_not_proven_and_none_of_their_events_is_shown() {
    let tape = Tape::new();
    let roots = tape.roots();
    let (data, proof, published) = (tape.path("tape"), tape.path("run.proof"), tape.path("roots.jsonl"));
    done(&["proof", "make", "--data", text(&data), "--from", "300", "--to", "900", "--out", text(&proof)]);
    let frames = tape.path("run.frames");
    let whole = std::fs::read(&frames).unwrap();
    let check = |bytes: &[u8]| {
        std::fs::write(&frames, bytes).unwrap();
        let args = ["proof", "check", text(&proof), "--roots", text(&published), "--events", "csv"];
        let output = matchtape(&args);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
        String::from_utf8(output.stderr).unwrap()
    };
    let mut altered = whole.clone();
    altered[whole.len() / 2] ^= 1;
    let said = check(&altered);
    assert!(said.contains("not proven") && said.contains(roots[0]["root"].as_str().unwrap()), "{said}");
    let said = check(&whole[..whole.len() - 16]);
    assert!(said.contains(&format!(
        "{} bytes of frames, the proof is about {}",
        whole.len() - 16,
        whole.len()
    )));
    let said = check(&[&whole[..], &[0; 16]].concat());
    assert!(said.contains(&format!("{} bytes of frames", whole.len() + 16)), "{said}");
    check(&[]);

    std::fs::write(&frames, &whole).unwrap();
    done(&["proof", "check", text(&proof), "--roots", text(&published)]);
    let mut bent = std::fs::read(&proof).unwrap();
    bent[60] ^= 1;
    std::fs::write(&proof, &bent).unwrap();
    let said = refused(1, &["proof", "check", text(&proof), "--roots", text(&published)]);
    assert!(said.contains("run.proof at byte") && said.contains("get it anew"), "{said}");
    std::fs::write(&published, "{\"segment\": 1}\n").unwrap();
    let said = refused(1, &["proof", "check", text(&proof), "--roots", text(&published)]);
    assert!(said.contains("run.proof at byte"), "the proof is read first: {said}");
}

#[test]
fn what_cannot_be_proven_or_would_be_written_over_is_refused_and_leaves_no_file() {
    let tape = Tape::new();
    let sealed = tape.roots().last().unwrap()["last_sequence"].as_u64().unwrap();
    let (data, proof) = (tape.path("tape"), tape.path("run.proof"));
    let make = |from: &str, to: &str, out: &Path| {
        refused(1, &["proof", "make", "--data", text(&data), "--from", from, "--to", to, "--out", text(out)])
    };
    let beyond = (sealed + 1).to_string();
    let said = make("1", &beyond, &proof);
    assert!(said.contains(&format!("sequence {beyond} is in no sealed segment")), "{said}");
    assert!(said.contains(&format!("what is sealed ends at sequence {sealed}")), "{said}");
    assert!(make("9", "8", &proof).contains("nothing from sequence 9 to 8"));
    assert!(make("0", "8", &proof).contains("nothing from sequence 0 to 8"));
    assert!(!proof.exists() && !tape.path("run.frames").exists(), "nothing half-made stays");
    std::fs::write(tape.path("run.frames"), "mine").unwrap();
    let said = make("1", "8", &proof);
    assert!(said.contains("run.frames exists"), "{said}");
    assert_eq!(std::fs::read(tape.path("run.frames")).unwrap(), b"mine");
    assert!(!proof.exists());
    let same = ["proof", "make", "--data", text(&data), "--out", text(&proof), "--frames", text(&proof)];
    assert!(refused(2, &same).contains("the same file"));
    let said = refused(1, &["proof", "make", "--data", text(&tape.path("none")), "--out", text(&proof)]);
    assert!(said.contains("--data names the directory"), "{said}");
    let said = refused(1, &["proof", "check", text(&proof), "--data", text(&data)]);
    assert!(said.contains("run.proof"), "{said}");
}
