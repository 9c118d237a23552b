//! What became of orders, and pages of events: bound to their question, the same as lines and as CSV, nothing private.

mod support;

use std::collections::BTreeMap;

use matchtape_gateway::Limits;
use matchtape_market::{OrderState, OrderStates, OrderStatus};
use matchtape_schemas::{Kind, Sequence};
use serde_json::{Value, json};
use support::client::sequences;
use support::http::{Answer, get, get_lines, get_with};
use support::{INSTRUMENTS, SECRET_ACCOUNT, SECRET_CLIENT_ORDER, Tape, generous};

/// A tape that was flushed in the middle.
async fn filled() -> (Tape, Sequence, matchtape_gateway::GatewayHandle) {
    let mut tape = Tape::open();
    tape.define();
    let middle = tape.flow(500);
    tape.visible(middle);
    tape.node.store().flush().unwrap();
    let end = tape.flow(500);
    tape.visible(end);
    let gateway = tape.gateway(Limits { page_rows_max: 200, ..generous() }).await;
    (tape, end, gateway)
}

/// Every accepted order as of a position, by plain folding.
fn folded(tape: &Tape, through: Sequence) -> Vec<OrderState> {
    let mut states = OrderStates::new();
    let mut frames = tape.node.reader().frames(Sequence::ZERO).unwrap();
    while let Some(frame) = frames.next_frame().unwrap() {
        for event in frame.frame().events() {
            if event.sequence() <= through && event.kind() != Kind::OrderRejected {
                states.apply(&event);
            }
        }
    }
    states.iter().copied().collect()
}

fn row(state: &OrderState) -> Value {
    let symbol = INSTRUMENTS.iter().find(|(id, _)| *id == state.instrument).unwrap().1;
    json!({
        "instrument": symbol, "order_id": state.order_id.to_string(), "side": state.side.name(),
        "price": state.price.to_string(), "quantity": state.left.to_string(), "status": state.status.name(),
        "accepted": state.accepted.to_string(), "executed": state.executed.to_string(),
        "cancelled": state.cancelled.to_string(), "replaced": state.replaced,
        "first_sequence": state.first_sequence.get(), "last_sequence": state.last_sequence.get(),
        "entered_at": state.entered_at.to_string(), "changed_at": state.changed_at.to_string(),
    })
}

/// Every page of an answer.
async fn pages(gateway: &matchtape_gateway::GatewayHandle, path: &str, list: &str) -> Vec<Value> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let answer = get(gateway.address(), &format!("{path}{cursor}")).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        for secret in [SECRET_ACCOUNT.to_string().as_str(), SECRET_CLIENT_ORDER, "rejected"] {
            assert!(!answer.body.contains(secret) || path.contains("events"), "{secret}: {}", answer.body);
        }
        let page = answer.json();
        rows.extend(page[list].as_array().unwrap().iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return rows,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_are_listed_as_they_are_folded_page_by_page_and_without_what_is_private() {
    let (tape, end, gateway) = filled().await;
    let all = folded(&tape, end);
    let middle = Sequence(end.get() / 2);
    let earlier = folded(&tape, middle);
    assert!(all.len() > 300);
    let rows = |states: &[OrderState], wanted: &dyn Fn(&OrderState) -> bool| -> Vec<Value> {
        states.iter().filter(|state| wanted(state)).map(row).collect()
    };
    for (path, expected) in [
        ("/v1/orders?limit=200", rows(&all, &|_| true)),
        ("/v1/orders?limit=7&status=open", rows(&all, &|state| state.status == OrderStatus::Open)),
        (
            "/v1/orders?limit=20&instrument=BETA&status=filled",
            rows(&all, &|state| state.instrument == INSTRUMENTS[1].0 && state.status == OrderStatus::Filled),
        ),
        (&format!("/v1/orders?limit=50&at={middle}"), rows(&earlier, &|_| true)),
        (
            &format!("/v1/orders?limit=50&from=40&to={middle}"),
            rows(&all, &|state| (Sequence(40)..=middle).contains(&state.first_sequence)),
        ),
    ] {
        assert!(expected.len() > 5, "{path}");
        assert_eq!(pages(&gateway, path, "orders").await, expected, "{path}");
        let mut reversed = expected;
        reversed.reverse();
        assert_eq!(pages(&gateway, &format!("{path}&order=desc"), "orders").await, reversed, "{path}");
    }
    let lines = get_lines(gateway.address(), "/v1/orders?limit=3&status=cancelled").await;
    assert_eq!(lines.lines(), rows(&all, &|state| state.status == OrderStatus::Cancelled)[..3]);
    assert!(lines.headers.contains("matchtape-next: "), "{}", lines.headers);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_found_by_its_number_as_of_any_position() {
    let (tape, end, gateway) = filled().await;
    for state in folded(&tape, end).iter().step_by(9) {
        let path = format!("/v1/orders/{}", state.order_id);
        let answer = get(gateway.address(), &path).await;
        assert_eq!(answer.json()["orders"], json!([row(state)]), "{}", answer.body);
        let entered = state.first_sequence;
        let then = get(gateway.address(), &format!("{path}?at={entered}")).await.json();
        let expected = folded(&tape, entered);
        assert_eq!(then["orders"], json!([row(&expected[expected.len() - 1])]));
        let before = get(gateway.address(), &format!("{path}?at={}", entered.previous())).await.json();
        assert_eq!(before["orders"], json!([]));
    }
    for (path, status, error, place) in [
        ("/v1/orders/0", 400, "bad_request", "path"),
        ("/v1/orders/x", 400, "bad_request", "path"),
        ("/v1/orders?status=rejected", 400, "bad_request", "status"),
        ("/v1/orders?at=999999999", 404, "beyond_head", "at"),
        ("/v1/orders?at=2023-11-14T22:13:20Z", 400, "bad_request", "at"),
        ("/v1/orders?account=7", 400, "bad_request", "account"),
        ("/v1/orders?limit=201", 400, "bad_request", "limit"),
    ] {
        let answer = get(gateway.address(), path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert_eq!((&answer.json()["error"], &answer.json()["where"]), (&json!(error), &json!(place)));
    }
    gateway.shutdown().await;
}

fn next_of(answer: &Answer) -> Option<String> {
    answer.headers.lines().find_map(|line| Some(line.strip_prefix("matchtape-next: ")?.trim().to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_come_in_pages_too_and_the_pages_end_where_the_tape_did() {
    let (mut tape, end, gateway) = filled().await;
    let whole = get_lines(gateway.address(), "/v1/events").await.lines();
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = get_lines(gateway.address(), &format!("/v1/events?limit=150{cursor}")).await;
        found.extend(page.lines());
        // What is appended and flushed meanwhile belongs to a later answer.
        let more = tape.flow(3);
        tape.visible(more);
        tape.node.store().flush().unwrap();
        match next_of(&page) {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(sequences(&found), (1..=end.get()).collect::<Vec<_>>());
    assert_eq!(found, whole);
    // The rest of an answer at once.
    let first = get(gateway.address(), "/v1/events?limit=10&kind=orders&order=desc").await.json();
    let rest = format!("/v1/events?kind=orders&order=desc&cursor={}", first["next"].as_str().unwrap());
    let rest = get_lines(gateway.address(), &rest).await;
    assert_eq!(next_of(&rest), None);
    let mut both = first["events"].as_array().unwrap().clone();
    both.extend(rest.lines());
    let all = get_lines(gateway.address(), "/v1/events?kind=orders&order=desc").await.lines();
    let through = first["through"].as_u64().unwrap();
    assert_eq!(
        both[..],
        all[all.iter().position(|row| row["sequence"].as_u64().unwrap() <= through).unwrap()..]
    );
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_is_refused_for_another_question_and_on_another_tape() {
    let (_tape, _, gateway) = filled().await;
    let (_other, _, elsewhere) = filled().await;
    let next = |page: Value| page["next"].as_str().unwrap().to_owned();
    let events = next(get(gateway.address(), "/v1/events?limit=5&kind=trades").await.json());
    let orders = next(get(gateway.address(), "/v1/orders?limit=5&status=open").await.json());
    for (gateway, path, status, error) in [
        (&gateway, format!("/v1/events?kind=trades&cursor={events}"), 200, ""),
        // A page may have another length.
        (&gateway, format!("/v1/events?limit=1&kind=trades&cursor={events}"), 200, ""),
        (&gateway, format!("/v1/events?kind=orders&cursor={events}"), 400, "bad_cursor"),
        (&gateway, format!("/v1/events?kind=trades&order=desc&cursor={events}"), 400, "bad_cursor"),
        (&gateway, format!("/v1/trades?order=asc&cursor={events}"), 400, "bad_cursor"),
        (&gateway, format!("/v1/events?kind=trades&cursor={}", &events[1..]), 400, "bad_cursor"),
        (&elsewhere, format!("/v1/events?kind=trades&cursor={events}"), 409, "other_tape"),
        (&gateway, format!("/v1/orders?status=open&cursor={orders}"), 200, ""),
        (&gateway, format!("/v1/orders?status=filled&cursor={orders}"), 400, "bad_cursor"),
        (&gateway, format!("/v1/orders?status=open&cursor={events}"), 400, "bad_cursor"),
        (&elsewhere, format!("/v1/orders?status=open&cursor={orders}"), 409, "other_tape"),
    ] {
        let answer = get(gateway.address(), &path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        if status != 200 {
            assert_eq!((&answer.json()["error"], &answer.json()["where"]), (&json!(error), &json!("cursor")));
        }
    }
    gateway.shutdown().await;
    elsewhere.shutdown().await;
}

/// Rows of CSV by the names of their columns; what is empty is left out.
fn csv(answer: &Answer) -> Vec<BTreeMap<String, String>> {
    assert!(answer.headers.to_ascii_lowercase().contains("content-type: text/csv"), "{}", answer.headers);
    let mut lines = answer.body.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(cells.len(), names.len(), "{line}");
        let named = names.iter().zip(cells).filter(|(_, cell)| !cell.is_empty());
        named.map(|(name, cell)| ((*name).to_owned(), cell.to_owned())).collect()
    };
    lines.map(row).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn csv_has_the_same_rows_as_lines_have() {
    let (_tape, _, gateway) = filled().await;
    let address = gateway.address();
    let headers = format!("Host: {address}\r\nAccept: text/csv\r\n");
    for path in [
        "/v1/events?kind=orders",
        "/v1/events?limit=20&kind=orders",
        "/v1/orders?limit=50",
        "/v1/book?instrument=ALFA&depth=0",
        "/v1/candles?instrument=ALFA&interval=1s",
    ] {
        let expected = get_lines(address, path).await;
        let answer = get_with(address, path, &headers).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert_eq!(next_of(&answer), next_of(&expected));
        let text = |row: &Value| -> BTreeMap<String, String> {
            let object = row.as_object().unwrap().iter();
            object.map(|(name, value)| (name.clone(), value.to_string().replace('"', ""))).collect()
        };
        let expected: Vec<_> = expected.lines().iter().map(text).collect();
        assert!(!expected.is_empty());
        assert_eq!(csv(&answer), expected, "{path}");
    }
    // A trade's row in CSV has every column of an event, in lines only those of a trade.
    let trades = csv(&get_with(address, "/v1/trades?order=asc&limit=200", &headers).await);
    let lines = get_lines(address, "/v1/trades?order=asc&limit=200").await.lines();
    assert_eq!(trades.len(), lines.len());
    for (row, line) in trades.iter().zip(&lines) {
        assert_eq!(
            (row["sequence"].parse::<u64>().ok(), row["kind"].as_str()),
            (line["sequence"].as_u64(), "trade_matched")
        );
        assert_eq!(json!(row["price"]), line["price"]);
    }
    assert_eq!(get_with(address, "/v1/instruments", &headers).await.status, 406);
    gateway.shutdown().await;
}
