//! `kill -9` at random moments of an import, again and again, until it gets through: nothing acknowledged is lost,
//! nothing is doubled, and the import resumes.
//!
//! `MATCHTAPE_KILLS` says how often (default 10); `MATCHTAPE_KILL_SEED` repeats a run.

mod oracle;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use matchtape_market::{Books, Instruments};
use matchtape_node::{Node, NodeOptions};
use matchtape_schemas::*;
use matchtape_storage::{ReadOnlyOptions, ReadOnlyStore, RealDisk};
use tempfile::TempDir;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

fn spawn(data: &Path, tape: &Path) -> Child {
    let folder = data.join("sse_l2_20230711");
    Command::new(env!("CARGO_BIN_EXE_matchtape"))
        .args(["import", "--format", "sse-l2", "--acknowledge", "--segment-mib", "8", "--data"])
        .arg(tape)
        .args([folder.join("orders.csv.gz"), folder.join("trades.csv.gz")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// When an import is killed.
#[derive(Clone, Copy)]
enum Kill {
    /// So long after its start.
    After(Duration),
    /// As soon as it has acknowledged something so often: in the midst of publishing.
    AfterAcknowledgements(u64),
    Never,
}

/// Lets an import run and kills it; returns the last sequence it acknowledged, and whether it got through.
fn run_until(mut child: Child, kill: Kill) -> (u64, bool) {
    let out = BufReader::new(child.stdout.take().unwrap());
    let (acknowledged, times) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let reader = {
        let (acknowledged, times) = (Arc::clone(&acknowledged), Arc::clone(&times));
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let row: serde_json::Value =
                    serde_json::from_str(&line).expect("whole lines are written at once");
                // Relaxed: read after this thread has ended.
                acknowledged.store(row["durable"].as_u64().unwrap(), Ordering::Relaxed);
                // Relaxed: only says that it is time to kill.
                times.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let begun = Instant::now();
    let through = loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "the import failed by itself");
            break true;
        }
        let now = match kill {
            Kill::After(time) => begun.elapsed() >= time,
            Kill::AfterAcknowledgements(count) => times.load(Ordering::Relaxed) >= count,
            Kill::Never => false,
        };
        if now {
            child.kill().unwrap();
            break child.wait().unwrap().success();
        }
        std::thread::yield_now();
    };
    reader.join().unwrap();
    (acknowledged.load(Ordering::Relaxed), through)
}

/// What recovery brings back. (Reading alone may show less: what the last commit block before the kill does not prove.)
fn recovered(tape: &Path) -> u64 {
    if !tape.exists() {
        return 0;
    }
    let read_only =
        match ReadOnlyStore::open(Arc::new(RealDisk::open(tape).unwrap()), ReadOnlyOptions::default()) {
            Ok(store) => store.reader().visible().get(),
            // Killed before there was a store.
            Err(matchtape_storage::OpenError::NoStore) => 0,
            Err(error) => panic!("{error}"),
        };
    let projections: Vec<Box<dyn Projection>> = vec![Box::new(Books::new()), Box::new(Instruments::new())];
    let mut options = NodeOptions::default();
    options.store.wal.segment_bytes = 8 << 20;
    let node = Node::open(tape, options, projections).unwrap();
    let recovered = node.reader().visible().get();
    assert!(read_only <= recovered, "read without recovery: {read_only}, recovered: {recovered}");
    // Dropped, not closed: the next import recovers as after a kill.
    recovered
}

#[test]
fn an_import_killed_at_random_moments_loses_nothing_acknowledged_and_doubles_nothing() {
    let Some(data) = oracle::data() else { return };
    let kills = number("MATCHTAPE_KILLS").unwrap_or(10);
    let seed = number("MATCHTAPE_KILL_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("MATCHTAPE_KILL_SEED={seed}");
    let mut random = Random(seed);
    let folder = TempDir::new().unwrap();

    // How long a whole import takes here: kills fall anywhere in it.
    let begun = Instant::now();
    let (_, through) = run_until(spawn(&data, &folder.path().join("whole")), Kill::Never);
    assert!(through);
    let whole = begun.elapsed();
    std::fs::remove_dir_all(folder.path().join("whole")).unwrap();

    let (mut killed, mut tapes, mut midway) = (0, 0, 0);
    while killed < kills {
        tapes += 1;
        let tape = folder.path().join(format!("tape{tapes}"));
        let (mut through, mut acknowledged) = (false, 0);
        while !through {
            let kill = match random.next() % 2 {
                _ if killed >= kills => Kill::Never,
                0 => Kill::After(Duration::from_nanos(random.next() % (whole.as_nanos() as u64 * 5 / 4))),
                _ => Kill::AfterAcknowledgements(1 + random.next() % 20),
            };
            let before = acknowledged;
            let said;
            (said, through) = run_until(spawn(&data, &tape), kill);
            acknowledged = acknowledged.max(said);
            killed += u64::from(!through);
            midway += u64::from(!through && acknowledged > before);
            let recovered = recovered(&tape);
            assert!(
                recovered >= acknowledged,
                "acknowledged {acknowledged}, recovered {recovered}, kill {killed}"
            );
        }
        everything_once(&data, &tape);
        std::fs::remove_dir_all(&tape).unwrap();
    }
    eprintln!("{killed} kills, {midway} of them after something new was acknowledged, {tapes} tapes");
}

#[test]
fn an_interrupted_import_ends_in_order_and_goes_on_the_next_time() {
    let Some(data) = oracle::data() else { return };
    let folder = TempDir::new().unwrap();
    let tape = folder.path().join("tape");
    let mut child = spawn(&data, &tape);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    // Nobody reads what it still acknowledges: that does not stop it either.
    drop(out);
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    // The rest of the day may have gone through before the signal came.
    match ended.status.code() {
        Some(130) => assert!(said.contains("interrupted: what is imported is durable"), "{said}"),
        code => assert_eq!(code, Some(0), "{said}"),
    }
    let (_, through) = run_until(spawn(&data, &tape), Kill::Never);
    assert!(through);
    everything_once(&data, &tape);
}

/// The tape is exactly what one undisturbed import makes, whatever terms lie in between.
fn everything_once(data: &Path, tape: &Path) {
    let expected = oracle::expected(&data.join("sse_l2_20230711"));
    let store =
        ReadOnlyStore::open(Arc::new(RealDisk::open(tape).unwrap()), ReadOnlyOptions::default()).unwrap();
    let mut oracle = oracle::sse::Oracle::new(&expected);
    let mut frames = store.reader().frames(Sequence::FIRST).unwrap();
    let mut last = Sequence::ZERO;
    while let Some(frame) = frames.next_frame().unwrap() {
        for event in frame.frame().events() {
            assert_eq!(event.sequence(), last.next());
            last = event.sequence();
            oracle.apply(&event);
        }
    }
    let mut differences = Vec::new();
    let described = ["/format", "/files", "/date", "/timezone", "/price_unit", "/qty_unit"];
    oracle::compare("", &expected, &oracle.finish(), &described, &mut differences);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    let report = store.verify(&mut |_| {}).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
}
