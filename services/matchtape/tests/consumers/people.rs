//! What people and members ask of consumers, of a node that nobody kills.

use std::io::{BufRead, BufReader};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use matchtape::consumers::Member;
use matchtape::server::Server;
use matchtape_schemas::Sequence;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::proxy::{Passed, between};
use crate::served::{Served, publish};
use crate::shown;

/// Passes requests on to `url`, and drops every third answer to a request for events on its way back.
fn forgetful_proxy(url: &str) -> (String, Arc<AtomicU64>) {
    let (asked, lost) = (AtomicU64::new(0), Arc::<AtomicU64>::default());
    let counted = Arc::clone(&lost);
    let address = between(url, move |request, pass| {
        let Passed::Answer(answer) = pass() else { return None };
        if request.path().ends_with("/next") && asked.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
            counted.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(answer)
    });
    (address, lost)
}

#[test]
fn what_was_in_answers_that_got_lost_comes_before_anything_else_and_nothing_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let node = Served::start(&folder.path().join("tape"), "0");
    let last = publish(&node.url, 1, 1_000);
    let (proxy, lost) = forgetful_proxy(&node.url);
    for ack in ["all", "explicit"] {
        node.succeed(&["consumer", "add", ack, "--ack", ack, "--ack-wait", "60s", "--max-deliver", "1"]);
        let server = Server::new(&proxy).unwrap();
        let mut member =
            matchtape::consumers::Member::new(&server, &ack.parse().unwrap(), &"m".parse().unwrap());
        let stop = std::sync::atomic::AtomicBool::new(false);
        let mut came = Vec::new();
        while came.last() != Some(&last) {
            let items = member.next(25, std::time::Duration::ZERO, &stop, &mut |_| ()).unwrap();
            let given: Vec<u64> = items
                .iter()
                .map(|item| match item {
                    matchtape_client::consumers::ConsumerItem::Delivery(delivery) => {
                        delivery.event.sequence.get()
                    }
                    other => panic!("{other:?}"),
                })
                .collect();
            came.extend(&given);
            if given.is_empty() {
                continue;
            }
            let acknowledged = if ack == "all" { given[given.len() - 1..].to_vec() } else { given };
            let said =
                matchtape_client::consumers::Acknowledgement { ack: acknowledged, ..Default::default() };
            member.acknowledge(&said, &stop, &mut |_| ()).unwrap();
        }
        assert_eq!(came, (1..=last).collect::<Vec<_>>(), "{ack}");
        let view = member.info().unwrap();
        assert_eq!((view.ack_floor, view.parked), (last, 0));
        assert!(view.delivered > last, "some were sent twice");
    }
    assert!(lost.load(Ordering::Relaxed) > 30);
    node.stop();
}

#[test]
fn people_make_ask_acknowledge_and_forget_consumers() {
    let folder = tempfile::tempdir().unwrap();
    let node = Served::start(&folder.path().join("tape"), "0");
    publish(&node.url, 1, 20);
    let made = node.succeed(&[
        "consumer",
        "add",
        "risk",
        "--ack",
        "explicit",
        "--instrument",
        "3",
        "--kind",
        "orders",
        "--max-deliver",
        "3",
        "--backoff",
        "1h",
        "--description",
        "for the risk desk",
    ]);
    assert_eq!((&made[0]["name"], &made[0]["next"]), (&"risk".into(), &1.into()));
    let refused = node.cli(&["consumer", "add", "risk"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("consumer_exists") && said.contains("PATCH"), "{said}");
    assert!(!node.cli(&["consumer", "add", "a/b"]).status.success());
    let said = String::from_utf8(node.cli(&["consumer", "add", "x", "--kind", "nothing"]).stderr).unwrap();
    assert!(said.contains("there is no kind \"nothing\""), "{said}");

    // Instrument 3 has the orders 2, 9 and 16, one further along the tape each.
    let next = |more: &[&str]| -> Vec<(u64, u64)> {
        let rows = node.succeed(&[&["consumer", "next", "risk"], more].concat());
        let number = |value: &Value| value.as_u64().unwrap();
        rows.iter().map(|row| (number(&row["event"]["sequence"]), number(&row["delivery_count"]))).collect()
    };
    assert_eq!(next(&["--batch", "2"]), [(3, 1), (10, 1)]);
    node.succeed(&["consumer", "ack", "risk", "3"]);
    assert_eq!(next(&["--batch", "2"]), [(10, 2), (17, 1)], "detaching gave 10 back");
    let said = String::from_utf8(node.cli(&["consumer", "ack", "risk", "4"]).stderr).unwrap();
    assert!(said.contains("event 4 was never delivered"), "{said}");
    // 10 waits to be delivered again, to nobody yet.
    let said =
        String::from_utf8(node.cli(&["consumer", "ack", "risk", "10", "--in-progress"]).stderr).unwrap();
    assert!(said.contains("event 10 waits to be delivered again"), "{said}");
    for other in ["--nak", "--term"] {
        let both = node.cli(&["consumer", "ack", "risk", "10", "--in-progress", other]);
        assert_eq!(both.status.code(), Some(2), "{other}");
    }
    node.succeed(&["consumer", "ack", "risk", "17", "--term"]);
    let info = node.succeed(&["consumer", "info", "risk"]);
    assert_eq!(info[0]["ack_floor"], 9);
    assert_eq!(info[0]["definition"]["kinds"].as_array().unwrap().len(), 5);
    assert_eq!(info[0]["definition"]["instruments"], serde_json::json!(["3"]));
    assert_eq!(next(&["--batch", "2", "--ack"]), [(10, 3)]);
    assert_eq!(next(&["--wait", "0s"]), []);

    // One that a member works on stays with it.
    node.succeed(&["consumer", "add", "slow", "--ack", "explicit"]);
    let server = Server::new(&node.url).unwrap();
    let mut member = Member::new(&server, &"slow".parse().unwrap(), &"m".parse().unwrap());
    let stop = std::sync::atomic::AtomicBool::new(false);
    let given = member.next(1, Duration::from_secs(20), &stop, &mut |_| {}).unwrap();
    assert_eq!(given.len(), 1);
    let output = node.cli(&["consumer", "ack", "slow", "1", "--in-progress"]);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "1 settled\n");
    let slow = node.succeed(&["consumer", "info", "slow"]);
    assert_eq!((&slow[0]["ack_pending"], &slow[0]["ack_floor"]), (&1.into(), &0.into()));
    member.detach();
    node.succeed(&["consumer", "rm", "slow"]);

    let rows = node.succeed(&["subscribe", "--from", "beginning", "--limit", "21"]);
    assert_eq!(rows.len(), 21);
    assert!(rows.iter().all(|row| row.get("account").is_none() && row.get("client_order_id").is_none()));
    let by_consumer = |limit| {
        let args = ["subscribe", "--consumer", "feed", "--create", "--from", "5", "--limit", limit];
        let rows = node.succeed(&args);
        rows.iter().map(|row| row["event"]["sequence"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(by_consumer("3"), [5, 6, 7]);
    assert_eq!(by_consumer("2"), [8, 9], "it goes on behind what was shown");

    // Nobody who mistypes a name, or whose consumer is gone, begins anew without a word.
    let refused = |args: &[&str]| {
        let output = node.cli(args);
        assert!(!output.status.success() && output.stdout.is_empty(), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refused(&["subscribe", "--consumer", "fed", "--limit", "1"]);
    assert!(said.contains("there is no consumer fed") && said.contains("--create makes it"), "{said}");
    for other in [["--kind", "trades"], ["--from", "5"], ["--instrument", "3"]] {
        let args = [&["subscribe", "--consumer", "feed", "--limit", "1"], &other[..]].concat();
        assert!(refused(&args).contains("one that is there goes on as it is"), "{other:?}");
    }
    let said = refused(&["subscribe", "--consumer", "feed", "--create", "--kind", "trades", "--limit", "1"]);
    assert!(said.contains("there is a consumer feed") && said.contains("without --create"), "{said}");
    let goes_on = node.succeed(&["subscribe", "--consumer", "feed", "--limit", "1"]);
    assert_eq!(goes_on[0]["event"]["sequence"], 10);

    // A name is a name, and not a piece of a URL that means another one.
    for name in ["feed#x", "feed?x=1", "feed/members/x", "..", "f%65ed"] {
        let asked = [
            &["consumer", "rm", name][..],
            &["consumer", "info", name],
            &["consumer", "next", name],
            &["consumer", "next", "feed", "--member", name],
            &["subscribe", "--consumer", name],
        ];
        for args in asked {
            let said = refused(args);
            assert!(said.contains("is not 1 to 64 letters, digits"), "{args:?}: {said}");
        }
    }

    let list = node.succeed(&["consumer", "list"]);
    let names: Vec<_> = list.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["feed", "risk"]);
    node.succeed(&["consumer", "rm", "feed"]);
    assert!(
        String::from_utf8_lossy(&node.cli(&["consumer", "rm", "feed"]).stderr).contains("unknown_consumer")
    );
    node.stop();
}

#[test]
fn a_backup_has_the_consumers_and_a_restored_node_never_passes_over_an_event() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_matchtape")).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let positions = |rows: Vec<Value>| -> Vec<(u64, bool)> {
        let one =
            |row: &Value| (row["event"]["sequence"].as_u64().unwrap(), row["redelivered"].as_bool().unwrap());
        rows.iter().filter(|row| row.get("event").is_some()).map(one).collect()
    };
    let node = Served::start(&place("tape"), "0");
    // Position 1 is the node's own: its epoch begins.
    let last = publish(&node.url, 1, 20);
    for (consumer, dealt_with) in [("near", "4"), ("far", "15")] {
        let args =
            ["subscribe", "--consumer", consumer, "--create", "--from", "beginning", "--limit", dealt_with];
        node.succeed(&args);
    }
    shown::until_shown(&place("tape"), Sequence(last));
    let said = run(&[
        "backup",
        "--data",
        &text(&place("tape")),
        "--to",
        &text(&place("backup")),
        "--format",
        "text",
    ]);
    assert!(said.contains("the durable consumers are in it"), "{said}");
    node.stop();

    run(&["restore", "--from", &text(&place("backup")), "--data", &text(&place("whole"))]);
    let node = Served::start(&place("whole"), "0");
    let goes_on = |consumer: &str, count: &str| {
        positions(node.succeed(&["subscribe", "--consumer", consumer, "--limit", count]))
    };
    // Marked, because more may have been delivered after what the backup has of them.
    assert_eq!(goes_on("near", "2"), [(5, true), (6, true)]);
    assert_eq!(goes_on("far", "2"), [(16, true), (17, true)]);
    node.stop();

    run(&[
        "restore",
        "--from",
        &text(&place("backup")),
        "--data",
        &text(&place("early")),
        "--to-sequence",
        "10",
    ]);
    let node = Served::start(&place("early"), "0");
    // Position 11 is the new term's, which the restore put there, 12 and on come now.
    publish(&node.url, 100, 5);
    let goes_on = |consumer: &str, count: &str| {
        positions(node.succeed(&["subscribe", "--consumer", consumer, "--limit", count]))
    };
    assert_eq!(goes_on("near", "7"), (5..=11).map(|sequence| (sequence, true)).collect::<Vec<_>>());
    assert_eq!(goes_on("far", "3"), [(11, true), (12, true), (13, true)]);
    let info = node.succeed(&["consumer", "info", "far"]);
    assert_eq!(info[0]["advisories"][0]["advisory"], "pulled_back", "{info:?}");
    node.stop();
}

#[test]
fn what_fails_too_often_is_set_aside_for_people_to_see_and_an_interrupted_subscription_ends_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let node = Served::start(&folder.path().join("tape"), "0");
    publish(&node.url, 1, 3);
    node.succeed(&["consumer", "add", "c", "--ack", "explicit", "--max-deliver", "2", "--deliver", "3"]);
    assert_eq!(node.succeed(&["consumer", "next", "c", "--batch", "1"]).len(), 1);
    node.succeed(&["consumer", "next", "c", "--batch", "1", "--ack"]);
    // Detaching gave it back, and it was delivered a second time; one that comes to nothing twice is parked.
    assert_eq!(node.succeed(&["consumer", "next", "c", "--batch", "1", "--wait", "0s"]).len(), 1);
    let refused = node.cli(&["consumer", "ack", "c", "4", "--nak"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("waits to be delivered again"), "{said}");
    let server = Server::new(&node.url).unwrap();
    let (stop, mut notice) = (std::sync::atomic::AtomicBool::new(false), |_: &str| {});
    let mut member = matchtape::consumers::Member::new(&server, &"c".parse().unwrap(), &"m".parse().unwrap());
    let wait = std::time::Duration::from_secs(5);
    assert_eq!(member.next(1, wait, &stop, &mut notice).unwrap().len(), 1);
    node.succeed(&["consumer", "ack", "c", "4", "--nak"]);
    let parked = node.succeed(&["consumer", "parked", "c"]);
    assert_eq!((&parked[0]["sequence"], &parked[0]["reason"]), (&4.into(), &"refused".into()));
    node.succeed(&["consumer", "unpark", "c", "4"]);
    assert!(node.succeed(&["consumer", "parked", "c"]).is_empty());
    node.succeed(&["consumer", "discard", "c"]);

    let mut child = Command::new(env!("CARGO_BIN_EXE_matchtape"))
        .args(["subscribe", "--consumer", "s", "--create", "--from", "beginning", "--server", &node.url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..4 {
        out.next().unwrap().unwrap();
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("resume with --consumer s"));
    // What the node does not understand is said at once: nothing comes on this tape that would bring it up.
    for (filter, what, code) in [(["--instrument", "NOPE"], "NOPE", 1), (["--kind", "nope"], "nope", 2)] {
        let refused = node.cli(&[&["subscribe"][..], &filter].concat());
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(code) && said.contains(what), "{said}");
    }
    assert!(node.succeed(&["subscribe", "--from", "beginning", "--limit", "0"]).is_empty());
    assert!(node.succeed(&["subscribe", "--consumer", "s", "--limit", "0"]).is_empty());
    assert_eq!(node.cli(&["consumer", "next", "s", "--batch", "0"]).status.code(), Some(2));
    // Output that nobody takes any more: nothing is acknowledged, and nobody else has to wait for this member to be given up.
    node.succeed(&["consumer", "add", "h", "--ack", "explicit", "--member-timeout", "10m"]);
    let (out, nobody) = UnixStream::pair().unwrap();
    // Before it begins, and for everybody who has it: also for children of other tests that are just starting.
    nobody.shutdown(Shutdown::Both).unwrap();
    let mut closed = Command::new(env!("CARGO_BIN_EXE_matchtape"))
        .args(["consumer", "next", "h", "--follow", "--ack", "--server", &node.url])
        .stdout(OwnedFd::from(out))
        .spawn()
        .unwrap();
    assert_eq!(closed.wait().unwrap().code(), Some(0));
    let info = node.succeed(&["consumer", "info", "h"]);
    assert_eq!((&info[0]["ack_floor"], &info[0]["members"]), (&0.into(), &serde_json::json!([])));
    let info = node.succeed(&["consumer", "info", "s"]);
    assert_eq!((&info[0]["ack_floor"], &info[0]["members"]), (&4.into(), &serde_json::json!([])));
    node.stop();
}
