//! `matchtape bench-disk` as a program: what it reports, what it refuses, and that it leaves nothing behind.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const FILE: &str = "matchtape-bench-disk.tmp";

fn bench_disk(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_matchtape"));
    command.args(["bench-disk", "--dir"]).arg(folder).args(args);
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    bench_disk(folder, args).output().unwrap()
}

fn is_empty(folder: &TempDir) -> bool {
    std::fs::read_dir(folder.path()).unwrap().next().is_none()
}

#[test]
fn every_size_of_every_backend_is_reported_and_the_setting_is_taken_by_a_node() {
    let folder = TempDir::new().unwrap();
    let output = run(folder.path(), &["--seconds", "0.2", "--mib", "16", "--format", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(is_empty(&folder), "the files are removed");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();

    let lacking: Vec<_> =
        report["unmeasured"].as_array().unwrap().iter().map(|lack| lack["what"].as_str().unwrap()).collect();
    let mut expected = Vec::new();
    for bytes in [4096, 16_384, 262_144, 1_048_576] {
        expected.extend(["buffered", "direct"].map(|backend| (backend, bytes)));
    }
    expected.retain(|(backend, _)| !lacking.contains(backend));
    let rows = report["measured"].as_array().unwrap();
    let zeroed: Vec<_> = rows
        .iter()
        .filter(|row| row["extents"] == "zeroed")
        .map(|row| (row["backend"].as_str().unwrap(), row["bytes"].as_u64().unwrap()))
        .collect();
    assert_eq!(zeroed, expected);
    for row in rows {
        let number = |key: &str| row[key].as_u64().unwrap();
        assert!(number("writes") > 0 && number("bytes_per_second") > 0, "{row}");
        let quantiles = ["p50_ns", "p99_ns", "p999_ns", "max_ns"].map(number);
        assert!(quantiles[0] > 0 && quantiles.is_sorted(), "{row}");
    }

    let recommendation = &report["recommendation"];
    let backend = recommendation["backend"].as_str().unwrap();
    assert!(report["guarantees"][backend].is_string() && !lacking.contains(&backend));
    let file = folder.path().join("matchtape.toml");
    std::fs::write(&file, recommendation["setting"].as_str().unwrap()).unwrap();
    let shown = Command::new(env!("CARGO_BIN_EXE_matchtape"))
        .args(["config", "show", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(&format!("write_backend = \"{backend}\"")), "{shown}");
}

#[test]
fn people_get_a_table_and_the_lines_for_the_file() {
    let folder = TempDir::new().unwrap();
    let output = run(folder.path(), &["--seconds", "0.1", "--mib", "16", "--format", "text"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["P99.9 us", "1024  zeroed", "[storage]\nwrite_backend = \"", "fdatasync", "O_DSYNC"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn ctrl_c_ends_it_with_130_and_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let mut child = bench_disk(folder.path(), &["--seconds", "600", "--mib", "16", "--format", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The file is there: the signal comes in the middle of the work.
    let file = folder.path().join(FILE);
    let begun = Instant::now();
    while !file.exists() {
        assert!(begun.elapsed() < Duration::from_secs(30) && child.try_wait().unwrap().is_none());
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted") && output.stdout.is_empty(), "{said}");
    assert!(is_empty(&folder), "the files are removed");
}

#[test]
fn what_cannot_be_measured_is_refused_with_what_to_do() {
    let folder = TempDir::new().unwrap();
    let huge = (1_u64 << 40).to_string();
    std::fs::write(folder.path().join("other"), "").unwrap();
    let cases = [
        (folder.path().to_path_buf(), huge.as_str(), "MiB are free", "--mib"),
        (folder.path().join("missing"), "16", "missing", "--dir"),
        (folder.path().join("other"), "16", "other", "--dir"),
    ];
    for (directory, mib, what, advice) in cases {
        let output = run(&directory, &["--seconds", "0.1", "--mib", mib]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(what) && said.contains(advice), "{said}");
    }
    assert!(!folder.path().join(FILE).exists());
    for wrong in [["--seconds", "0"], ["--mib", "1"]] {
        assert_eq!(run(folder.path(), &wrong).status.code(), Some(2));
    }
}
