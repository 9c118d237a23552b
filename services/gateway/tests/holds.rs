//! Legal holds of a running node over HTTP.

mod support;

use std::net::SocketAddr;

use matchtape_gateway::{Gateway, TapeHandle};
use matchtape_node::{HoldFrom, HoldsError};
use matchtape_schemas::*;
use matchtape_storage::RetentionPolicy;
use serde_json::{Value, json};
use support::http::{Answer, get, get_with, request};
use support::{Tape, config, generous};
use tokio::sync::watch;

const NOW: AcceptedTime = AcceptedTime(1_800_000_000_000_000_000);

/// A tape of several event tables, and the last event of each.
fn filled() -> (Tape, Vec<Sequence>) {
    let mut tape = Tape::open();
    tape.define();
    let mut ends = Vec::new();
    for _ in 0..5 {
        let end = tape.flow(20);
        tape.visible(end);
        tape.node.store().flush().unwrap();
        ends.push(end);
    }
    (tape, ends)
}

/// Drops all that nothing keeps; the first event that is left.
fn drop_old(tape: &mut Tape) -> u64 {
    // Who judges needs all of it.
    tape.judge.end();
    let policy = RetentionPolicy { bytes: Some(1), ..RetentionPolicy::default() };
    tape.node.store().retain(&policy, NOW).unwrap().first_kept
}

async fn place(address: SocketAddr, name: &str, from: &str) -> Answer {
    request(address, "PUT", &format!("/v1/holds/{name}?from={from}")).await
}

async fn listed(address: SocketAddr) -> Vec<(String, u64)> {
    let answer = get(address, "/v1/holds").await.json();
    let hold = |hold: &Value| {
        assert!(hold["placed_at"].as_str().unwrap().parse::<i64>().unwrap() > 0, "{hold}");
        (hold["name"].as_str().unwrap().to_owned(), hold["from"].as_u64().unwrap())
    };
    answer["holds"].as_array().unwrap().iter().map(hold).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_placed_on_a_running_node_keeps_what_it_names_also_after_a_restart_until_it_is_lifted() {
    let (mut tape, ends) = filled();
    let gateway = tape.gateway(generous()).await;
    let address = gateway.address();
    assert_eq!(get(address, "/v1/holds").await.json(), json!({"holds": []}));
    let from = ends[1].get();
    let last = tape.node.watermarks().visible.get();
    let placed = place(address, "case%2F17", &from.to_string()).await;
    assert_eq!(placed.status, 200, "{}", placed.body);
    assert_eq!(placed.json(), json!({"name": "case/17", "from": from, "last": last}));
    let later = place(address, "later", "end").await;
    assert_eq!(later.json(), json!({"name": "later", "from": last + 1, "last": last}));
    assert_eq!(listed(address).await, [("case/17".to_owned(), from), ("later".to_owned(), last + 1)]);
    let first_kept = drop_old(&mut tape);
    assert!(first_kept > 1 && first_kept <= from, "{first_kept}: what is held stays, what is before it goes");
    gateway.shutdown().await;

    let mut tape = tape.reopen();
    let gateway = tape.gateway(generous()).await;
    let address = gateway.address();
    assert_eq!(listed(address).await, [("case/17".to_owned(), from), ("later".to_owned(), last + 1)]);
    assert!(drop_old(&mut tape) <= from, "it outlives a restart");
    // Below what is left there is nothing to keep.
    let gone = place(address, "old", "1").await;
    assert_eq!((gone.status, &gone.json()["error"]), (410, &json!("below_retention")), "{}", gone.body);
    assert_eq!(
        (&gone.json()["first_kept"], &gone.json()["where"]),
        (&json!(first_kept), &json!("from")),
        "{}",
        gone.body
    );
    let lifted = request(address, "DELETE", "/v1/holds/case%2F17").await;
    assert_eq!((lifted.status, &lifted.json()["name"]), (200, &json!("case/17")), "{}", lifted.body);
    assert_eq!(lifted.json().get("from"), None);
    assert_eq!(listed(address).await, [("later".to_owned(), last + 1)]);
    assert!(drop_old(&mut tape) > from, "what nobody holds any more goes");
    // Left out, it begins with the first there is.
    let all = request(address, "PUT", "/v1/holds/all").await;
    assert_eq!(all.json()["from"], tape.node.reader().first_kept().get(), "{}", all.body);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_request_for_a_hold_changes_nothing_and_is_told_why() {
    let (tape, ends) = filled();
    let gateway = tape.gateway(generous()).await;
    let address = gateway.address();
    let from = ends[2].get();
    assert_eq!(place(address, "case", &from.to_string()).await.status, 200);
    let beyond = tape.node.watermarks().visible.get() + 2;
    let long = format!("/v1/holds/{}", "x".repeat(65));
    for (method, path, status, error, place) in [
        ("PUT", "/v1/holds/case?from=end", 409, "hold_keeps_more", "from"),
        ("PUT", &format!("/v1/holds/new?from={beyond}"), 404, "beyond_head", "from"),
        ("PUT", "/v1/holds/new?from=soon", 400, "bad_request", "from"),
        ("PUT", "/v1/holds/new?through=7", 400, "bad_request", "through"),
        ("PUT", "/v1/holds/a%0Ab", 400, "bad_request", "name"),
        ("PUT", &long, 400, "bad_request", "name"),
        ("DELETE", "/v1/holds/new", 404, "unknown_hold", "name"),
        ("DELETE", "/v1/holds/case?from=3", 400, "bad_request", "from"),
        ("GET", "/v1/holds?name=case", 400, "bad_request", "name"),
        ("GET", "/v1/holds/case", 405, "method_not_allowed", "method"),
    ] {
        let answer = request(address, method, path).await;
        let body = answer.json();
        assert_eq!((answer.status, &body["error"], &body["where"]), (status, &json!(error), &json!(place)));
        assert!(
            !body["what"].as_str().unwrap().is_empty() && !body["what_to_do"].as_str().unwrap().is_empty()
        );
    }
    // A page of another site may not either.
    let other = format!("Host: {address}\r\nOrigin: http://evil.example\r\n");
    assert_eq!(get_with(address, "/v1/holds", &other).await.status, 403);
    assert_eq!(listed(address).await, [("case".to_owned(), from)]);

    // Whoever still has a way to the holds of a closed node can do nothing to its directory.
    let holds = tape.node.holds();
    gateway.shutdown().await;
    tape.reopen_after(|_| {
        assert!(matches!(holds.place("late", HoldFrom::End), Err(HoldsError::Closed)));
        assert!(matches!(holds.list(), Err(HoldsError::Closed)));
    });
}

#[tokio::test]
async fn a_gateway_that_only_shows_a_tape_keeps_no_holds() {
    let tape = Tape::open();
    let (_sender, tail) = watch::channel(tape.node.watermarks());
    let shown = TapeHandle::shown(tape.node.reader(), tail);
    let gateway = Gateway::start(config(generous()), shown).await.unwrap();
    for (method, path) in [("GET", "/v1/holds"), ("PUT", "/v1/holds/case"), ("DELETE", "/v1/holds/case")] {
        let answer = request(gateway.address(), method, path).await;
        assert_eq!((answer.status, &answer.json()["error"]), (501, &json!("holds_not_offered")));
    }
    gateway.shutdown().await;
}
