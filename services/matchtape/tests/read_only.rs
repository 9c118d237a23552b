//! A directory that this user, or nobody, may write to: what writes says so and what to do, and what reads works.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use matchtape_node::{Node, NodeOptions};
use matchtape_schemas::event::OrderAccepted;
use matchtape_schemas::*;
use tempfile::TempDir;

const ORDERS: &str = "MDDate,MDTime,SecurityType,SecuritySubType,SecurityIDSource,Symbol,ReceiveDateTime,OrderIndex,OrderType,\
    OrderPrice,OrderQty,OrderBSFlag,ChannelNo,ApplSeqNum,OrderNO,SecurityID
2023.07.11,09:30:01.000,2,02001,101,n,2023.07.11T09:30:01.001,1,2,10.5,300,1,1,1,11,A.SH
";

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A closed tape of some orders, in tables, in a folder that everybody may enter; and a file to import.
fn made(folder: &TempDir) -> (String, String) {
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (tape, orders) = (folder.path().join("tape"), folder.path().join("orders.csv"));
    std::fs::write(&orders, ORDERS).unwrap();
    let node = Node::open(&tape, NodeOptions::default(), matchtape_market::projections()).unwrap();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    for number in 1..=20 {
        let body = OrderAccepted { order_id: OrderId(number), ..Default::default() };
        let event = Event::new(InstrumentId(1), ProducerSequence(number), EventTime(5), body);
        let last = publisher.publish(&event).unwrap().sequence();
        node.wait(last, Stage::Visible).unwrap();
    }
    drop(publisher);
    node.close().unwrap();
    (text(&tape), text(&orders))
}

/// Sets the modes of everything below, directories last.
fn set_modes(path: &Path, directory: u32, file: u32) {
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => set_modes(&entry.path(), directory, file),
            false => std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(file)).unwrap(),
        }
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(directory)).unwrap();
}

/// Everything there is in a directory, with sizes: what only reads changes none of it.
fn listing(path: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(listing(&entry.path())),
            false => found.push((text(&entry.path()), entry.metadata().unwrap().len())),
        }
    }
    found.sort();
    found
}

/// Runs commands of the binary behind `before`; `advice` is what those that write have to say.
fn check(before: &[&str], tape: &str, orders: &str, advice: &str) {
    let run = |args: &[&str]| -> Output {
        // One that does not refuse would serve for ever.
        let whole = [&["timeout", "60"], before, &[env!("CARGO_BIN_EXE_matchtape")], args].concat();
        // Where nobody else's folder for temporary files is in the way.
        Command::new(whole[0]).args(&whole[1..]).current_dir("/").output().unwrap()
    };
    let there = listing(Path::new(tape));
    let data = ["--data", tape];
    for args in [
        &["serve", "--no-bus", "--listen", "127.0.0.1:0"][..],
        &["import", "--format", "sse-l2", orders, orders],
        &["hold", "add", "--name", "case"],
        &["snapshot"],
    ] {
        let output = run(&[args, &data].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains(tape) && said.contains(advice), "{args:?}: {said}");
        assert!(!said.contains("salvage"), "nothing is damaged: {args:?}: {said}");
    }
    for args in [
        &["query", "events"][..],
        &["replay", "--tier", "realtime", "--speed", "0"],
        &["inspect"],
        &["verify"],
        &["dump"],
        &["hold", "list"],
    ] {
        let output = run(&[args, &data].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let rows = run(&[&["query", "events"], &data[..]].concat()).stdout;
    assert_eq!(String::from_utf8(rows).unwrap().lines().count(), 21);
    assert_eq!(listing(Path::new(tape)), there);
}

/// Whether commands can be run like this here.
fn works(before: &[&str]) -> bool {
    let whole = [before, &[env!("CARGO_BIN_EXE_matchtape"), "--version"]].concat();
    let output = Command::new(whole[0]).args(&whole[1..]).current_dir("/").output();
    output.is_ok_and(|output| output.status.success())
}

#[test]
fn a_directory_of_another_user_is_read_and_whoever_would_write_is_told_whose_it_is() {
    let folder = TempDir::new().unwrap();
    let (tape, orders) = made(&folder);
    // Root may write whatever the modes say, so somebody else tries.
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let root = rustix::process::getuid().is_root();
    let before = if root { &nobody[..] } else { &["env"] };
    if !works(before) {
        eprintln!("NOT CHECKED: a directory of another user: cannot run the binary as somebody else here");
        return;
    }
    set_modes(Path::new(&tape), 0o555, 0o444);
    check(before, &tape, &orders, "run it as the user that the directory belongs to");
    set_modes(Path::new(&tape), 0o755, 0o644);
}

#[test]
fn a_file_system_that_is_mounted_read_only_is_read_and_whoever_would_write_is_told_so() {
    let folder = TempDir::new().unwrap();
    let (tape, orders) = made(&folder);
    // In a mount namespace of its own, where this user may mount.
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
    let before = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, &tape];
    if !works(&before) {
        eprintln!("NOT CHECKED: a read-only file system: nothing can be mounted here");
        return;
    }
    check(&before, &tape, &orders, "the file system is mounted read-only");
}
