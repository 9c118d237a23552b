//! After `kill -9` in the middle of the load: how long until a new process serves again, with little and with much on disk.
//!
//!     cargo run --release -p matchtape-benches --bin recovery -- --gigabytes 10 --data /some/disk
//!
//! Writes so much below `--data`, in a process of its own that is then killed, and removes it again. The time runs from
//! starting the new process to its answers: the newest event, one order's events, and the first event there is.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use matchtape_benches::{Options, Report, device, tape};
use matchtape_node::{Node, NodeOptions, PublishError};
use matchtape_schemas::{OrderId, ProducerId, Sequence};
use matchtape_storage::wal::WriteBackend;
use matchtape_storage::{Compression, Query};

/// Events of one group.
const GROUP: u64 = 256;
/// So often the writer says how far it is durable.
const SAY_EVERY: Duration = Duration::from_millis(20);

#[derive(clap::Parser)]
struct RecoveryOptions {
    #[command(flatten)]
    common: Options,
    /// What is on the disk when the last kill comes; the first comes at a tenth of it.
    #[arg(long, default_value_t = 10.0)]
    gigabytes: f64,
    /// How often it is killed for each.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// What the program does when it has started itself.
    #[arg(long, hide = true)]
    child: Option<Role>,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Publishes until it is killed.
    Write,
    /// Opens, answers, reports.
    Serve,
}

/// What is written at least between two kills.
const MORE_BYTES: u64 = 400 << 20;

fn settings() -> NodeOptions {
    let mut settings = NodeOptions::default();
    settings.store.wal.backend = WriteBackend::Direct;
    // So that the events made here, which compress well, fill a disk in a minute.
    settings.store.compression = Compression::None;
    settings
}

/// Tells the parent; a parent that is gone ends the child.
fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("the parent listens");
}

fn write_until_killed(data: &Path) {
    let node = Node::open(data, settings(), Vec::new()).expect("a tape that opens");
    let mut publisher = node.publisher(ProducerId(1)).expect("the only handle");
    let mut next = publisher.last().map_or(0, |last| last.get()) + 1;
    let mut said = Instant::now();
    loop {
        let group: Vec<_> = (next..next + GROUP).map(|number| tape::order(number, 64)).collect();
        match publisher.publish_group(&group) {
            Ok(_) => next += GROUP,
            Err(PublishError::WouldBlock) => publisher.wait_for_room(group.len()).expect("the node is open"),
            Err(error) => panic!("{error}"),
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            say(&format!("durable {}", node.watermarks().durable));
        }
    }
}

fn serve(data: &Path) {
    let begun = Instant::now();
    let node = Node::open(data, settings(), Vec::new()).expect("a tape that recovers");
    let opened = begun.elapsed();
    let reader = node.reader();
    let last = node.watermarks().visible;
    let newest = reader.event(last).expect("an undamaged tape").expect("the newest event");
    let newest = newest.event().to_event();
    // The order's id is the event's number, see `tape::order`.
    let order = Some(OrderId(newest.producer_sequence.0));
    let query = Query { instrument: Some(newest.instrument), order, ..Query::default() };
    let found =
        reader.query(&query).expect("an undamaged tape").map(|event| event.expect("an undamaged tape"));
    assert_eq!(found.count(), 1, "the newest order is found by its id");
    let first = reader.first_kept();
    assert!(reader.event(first).expect("an undamaged tape").is_some());
    say(&format!("served {} {}", last, opened.as_micros()));
    let report = node.recovery();
    say(&serde_json::to_string(report).expect("plain data"));
    say(&report.to_string());
    say("end of report");
    drop(node);
}

fn start(role: &str, data: &Path) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--child", role, "--data"])
        .arg(data)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts");
    let said = BufReader::new(child.stdout.take().expect("piped"));
    (child, said)
}

/// Bytes that the files below take on the disk.
fn bytes_below(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let sizes = entries.filter_map(Result::ok).filter_map(|entry| {
        let meta = entry.metadata().ok()?;
        Some(if meta.is_dir() { bytes_below(&entry.path()) } else { meta.len() })
    });
    sizes.sum()
}

/// Lets the writer run until there is so much on disk, and kills it; returns the last event that it called durable.
fn load(data: &Path, bytes: u64) -> Sequence {
    let (mut child, said) = start("write", data);
    let mut durable = Sequence::ZERO;
    let mut killed = false;
    for line in said.lines() {
        let line = line.expect("text");
        let number = line.strip_prefix("durable ").and_then(|number| number.parse().ok());
        durable = Sequence(number.expect("the writer says what is durable"));
        if !killed && bytes_below(data) >= bytes {
            // SIGKILL, with commits under way. What it said before is read to the end.
            child.kill().expect("our own child");
            killed = true;
        }
    }
    child.wait().expect("our own child");
    assert!(killed, "the writer ended by itself");
    durable
}

/// The log's files, in their order.
fn segments(data: &Path) -> Vec<PathBuf> {
    let files =
        std::fs::read_dir(data.join("wal")).expect("a log").map(|entry| entry.expect("a name").path());
    let mut segments: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|end| end == "wal")).collect();
    segments.sort();
    segments
}

/// What the new process found.
struct Served {
    /// From starting it to its answers.
    took: Duration,
    /// In which it opened the node.
    opened: Duration,
    last: Sequence,
    replayed_bytes: u64,
    report: String,
}

fn recover(data: &Path) -> Served {
    let begun = Instant::now();
    let (mut child, said) = start("serve", data);
    let mut lines = said.lines().map(|line| line.expect("text"));
    let served = lines.next().expect("the node serves");
    let took = begun.elapsed();
    let mut words = served.split(' ').skip(1).map(|word| word.parse().expect("a number"));
    let (last, opened) = (words.next().expect("the last event"), words.next().expect("a time"));
    let report: serde_json::Value =
        serde_json::from_str(&lines.next().expect("a report")).expect("the report as JSON");
    let text: Vec<String> = lines.by_ref().take_while(|line| line != "end of report").collect();
    for _ in lines {}
    child.wait().expect("our own child");
    Served {
        took,
        opened: Duration::from_micros(opened),
        last: Sequence(last),
        replayed_bytes: report["replayed_bytes"].as_u64().expect("a number"),
        report: text.join("\n"),
    }
}

fn main() {
    let options = RecoveryOptions::parse();
    match (options.child, &options.common.data) {
        (Some(Role::Write), Some(data)) => return write_until_killed(data),
        (Some(Role::Serve), Some(data)) => return serve(data),
        _ => {}
    }
    let folder = options.common.folder();
    let mut report = Report::new("recovery", folder.path());
    report.guarantee("events of 128 bytes, not compressed, as fast as one producer publishes them; every batch is synced; killed by SIGKILL in mid-load");
    report.guarantee("serving: a new process has answered for the newest event, for its order by id, and for the first event; every byte of the log that no table covers was checked");
    let data: PathBuf = folder.path().join("tape");
    let mut texts = Vec::new();
    for share in [0.1, 1.0] {
        let bytes = (options.gigabytes * share * 1e9) as u64;
        let (mut cached, mut cold) = (Vec::new(), Vec::new());
        for round in 0..options.rounds {
            for (from, found) in [("files in the page cache", &mut cached), ("nothing in it", &mut cold)] {
                // A kill of its own for each: whoever has served once has flushed.
                let durable = load(&data, bytes.max(bytes_below(&data) + MORE_BYTES));
                if from == "nothing in it" {
                    device::forget_cached(&data);
                }
                let served = recover(&data);
                assert!(served.last >= durable, "{} was durable, {} was recovered", durable, served.last);
                if round == 0 {
                    texts.push(format!("{share} of it, {from}:\n{}", served.report));
                }
                found.push(served);
            }
        }
        let on_disk = bytes_below(&data) as f64 / 1e9;
        let segment: Vec<_> = segments(&data).into_iter().rev().take(2).collect();
        for (from, mut found) in [("files in the page cache", cached), ("nothing in it", cold)] {
            found.sort_by_key(|served| served.took);
            let (middle, last) = (&found[found.len() / 2], &found[found.len() - 1]);
            let name = format!("{on_disk:.1} GB on disk, {from}, {} kills", found.len());
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            report
                .row(
                    format!("{name}: from starting the process to its answers, the middle"),
                    ms(middle.took),
                    "ms",
                )
                .goal("< 1 000");
            report.row(format!("{name}: likewise, the slowest"), ms(last.took), "ms").goal("< 1 000");
            report.row(format!("{name}: of the middle one, opening"), ms(middle.opened), "ms");
            if from == "nothing in it" {
                device::forget_cached(&data);
            }
            report
                .row(
                    format!("{name}: of the middle one, log not yet in tables, in opening"),
                    middle.replayed_bytes as f64 / middle.opened.as_secs_f64() / 1e9,
                    "GB/s",
                )
                .beside(
                    "the last two segments read there and not looked at",
                    device::read_throughput(segment.iter().map(PathBuf::as_path)) / 1e9,
                );
        }
    }
    for text in texts {
        println!("{text}\n");
    }
    report.print(options.common.format);
}
