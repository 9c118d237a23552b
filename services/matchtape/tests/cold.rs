//! The binary moves tables to a directory of objects, and answers from there as before.
#![cfg(feature = "cold")]

mod oracle;

use std::path::Path;
use std::process::{Command, Output};

fn matchtape(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_matchtape"));
    command.args(args).env_remove("MATCHTAPE_COLD__PLACE").output().unwrap()
}

fn succeed(args: &[&str]) -> String {
    let output = matchtape(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_pushed_tape_answers_as_before_and_a_missing_object_is_told() {
    let Some(data) = oracle::data() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (tape, objects) = (folder.path().join("tape"), folder.path().join("objects"));
    let (tape, objects) = (text(&tape), text(&objects));
    let cme = data.join("cme_mbo_esh4_20231225/esh4-glbx-mdp3-20231225.mbo.dbn.zst");
    let sse = data.join("sse_l2_20230711");
    // Each import ends with a flush, and so with a table of its own.
    succeed(&["import", "--format", "dbn-mbo", "--data", tape, text(&cme)]);
    let (orders, trades) = (sse.join("orders.csv.gz"), sse.join("trades.csv.gz"));
    succeed(&["import", "--format", "sse-l2", "--data", tape, text(&orders), text(&trades)]);
    let query = ["query", "trades", "--data", tape, "--format", "csv"];
    let before = succeed(&query);
    assert!(before.lines().count() > 50_000);

    let nowhere = matchtape(&["cold", "push", "--data", tape]);
    assert_eq!(nowhere.status.code(), Some(2), "{}", String::from_utf8_lossy(&nowhere.stderr));
    let young = succeed(&["cold", "push", "--data", tape, "--to", objects, "--older-than", "1h"]);
    let young: serde_json::Value = serde_json::from_str(&young).unwrap();
    assert_eq!(young["moved"].as_array().unwrap().len(), 0, "nothing is an hour old");
    let report = succeed(&["cold", "push", "--data", tape, "--format", "json"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let moved = report["moved"].as_array().unwrap();
    assert_eq!(moved.len(), 1, "{report}");
    let key = moved[0]["key"].as_str().unwrap();
    let object = Path::new(objects).join(key);
    assert_eq!(object.metadata().unwrap().len(), moved[0]["bytes"].as_u64().unwrap());
    assert!(!Path::new(tape).join(moved[0]["file"].as_str().unwrap()).exists());

    assert_eq!(succeed(&query), before);
    succeed(&["verify", "--data", tape]);
    let status = succeed(&["cold", "status", "--data", tape, "--format", "text"]);
    assert!(status.contains("1 of 2 in the cold tier") && status.contains(objects), "{status}");

    std::fs::rename(&object, folder.path().join("aside")).unwrap();
    for failing in [&query[..], &["verify", "--data", tape], &["cold", "status", "--data", tape]] {
        let output = matchtape(failing);
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(key), "{failing:?}: {said}");
    }
}
