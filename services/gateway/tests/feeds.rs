//! What the feeds promise: exact, in order, without gap or duplicate, from any position, whatever the client's speed.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use matchtape_gateway::Limits;
use matchtape_schemas::{InstrumentId, Kind, KindMask, Sequence};
use serde_json::{Value, json};
use support::client::{Client, LevelBook, sequences};
use support::http::get;
use support::{INSTRUMENTS, Levels, Oracle, Recorded, SECRET_ACCOUNT, SECRET_CLIENT_ORDER, Tape, generous};

/// The instrument an item is about.
fn instrument_of(item: &Value) -> InstrumentId {
    let symbol = item["instrument"].as_str().unwrap();
    INSTRUMENTS.iter().find(|(_, name)| *name == symbol).unwrap().0
}

fn cut(levels: &Levels, depth: usize) -> Levels {
    levels.iter().take(if depth == 0 { usize::MAX } else { depth }).cloned().collect()
}

/// Applies items to books and compares each state with the oracle's. Returns the books.
fn check_books(
    items: &[Value],
    depth: usize,
    oracle: &Oracle,
    books: &mut BTreeMap<InstrumentId, LevelBook>,
) {
    for item in items {
        let instrument = instrument_of(item);
        let book = books.entry(instrument).or_default();
        if !book.apply(item) {
            continue;
        }
        let sequence = Sequence(item["sequence"].as_u64().unwrap());
        let (bids, asks, checksum) = oracle
            .books
            .get(&(sequence, instrument))
            .unwrap_or_else(|| panic!("{sequence} does not end a group: {item}"));
        assert_eq!(
            (book.bids(), book.asks()),
            (cut(bids, depth), cut(asks, depth)),
            "{instrument} at {sequence}"
        );
        if depth == 0 || depth >= 10 {
            assert_eq!(item["checksum"], json!(checksum), "{instrument} at {sequence}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_and_changes_are_the_folded_book_at_every_sequence_at_every_depth() {
    let mut tape = Tape::open();
    tape.define();
    let start = tape.flow(300);
    tape.visible(start);
    let gateway = tape.gateway(generous()).await;
    let mut client = Client::connect(gateway.address()).await;
    let depths = [0, 1, 5, 10, 20];
    for (id, depth) in depths.iter().enumerate() {
        let request = json!({"id": id, "channel": "book", "symbols": ["ALFA", "BETA"], "depth": depth});
        let acknowledged = client.subscribe(request).await;
        assert_eq!(acknowledged["depth"], *depth);
        assert_eq!(acknowledged["symbols"], json!(["ALFA", "BETA"]));
    }
    // Bursts and single groups, so that changes come in blocks of every size.
    for burst in [1, 1, 7, 200, 1, 40] {
        let last = tape.flow(burst);
        tape.visible(last);
    }
    let mut end = tape.flow(1);
    // An order in each book makes the last change of every view.
    for _ in 0..200 {
        end = tape.flow(1);
    }
    tape.visible(end);
    client.subscribe(json!({"id": 99, "channel": "tape"})).await;
    let marker = tape.flow(1);
    tape.visible(marker);
    let mut received: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    loop {
        let message = client.next().await;
        if message["type"] != "data" {
            continue;
        }
        let id = message["id"].as_u64().unwrap();
        if id == 99 {
            break;
        }
        received.entry(id).or_default().extend(message["data"].as_array().unwrap().iter().cloned());
    }
    let oracle = Oracle::of(&tape);
    for (id, depth) in depths.iter().enumerate() {
        let mut books = BTreeMap::new();
        let items = &received[&(id as u64)];
        assert!(items.len() > 20, "{} items", items.len());
        check_books(items, *depth, &oracle, &mut books);
        assert!(books.values().all(|book| book.conflated == 0 && book.snapshots == 1));
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_channel_resumes_at_every_position_without_gap_or_duplicate() {
    let mut tape = Tape::open();
    tape.define();
    let middle = tape.flow(80);
    tape.visible(middle);
    let gateway = tape.gateway(generous()).await;
    let mut client = Client::connect(gateway.address()).await;
    let end = tape.flow(40);
    tape.visible(end);
    let events = tape.events();
    let oracle = Oracle::of(&tape);
    let through = end.get();
    let mbo = KindMask::ORDERS.with(KindMask::of(&[Kind::TradeMatched]));
    let in_mbo = |event: &&Recorded| mbo.contains(event.kind) && event.kind != Kind::OrderRejected;
    let mut id = 0;
    for from in 1..=through {
        for (channel, expected) in [
            ("tape", events.iter().map(|event| event.sequence.get()).collect::<Vec<_>>()),
            (
                "trades",
                events
                    .iter()
                    .filter(|event| KindMask::TRADES.contains(event.kind))
                    .map(|event| event.sequence.get())
                    .collect(),
            ),
            ("mbo", events.iter().filter(in_mbo).map(|event| event.sequence.get()).collect()),
        ] {
            id += 1;
            let mut request = json!({"id": id, "channel": channel, "from_sequence": from});
            if channel == "mbo" {
                request["symbols"] = json!(["ALFA", "BETA"]);
                request["snapshot"] = json!(false);
            }
            let acknowledged = client.subscribe(request).await;
            assert_eq!(acknowledged["start"], from, "{channel}");
            let mut items = Vec::new();
            loop {
                let message = client.next().await;
                match message["type"].as_str().unwrap() {
                    "data" => items.extend(message["data"].as_array().unwrap().iter().cloned()),
                    "replay_completed" => {
                        if message["sequence"].as_u64().unwrap() >= through {
                            break;
                        }
                    }
                    other => panic!("{other}: {message}"),
                }
                if items.last().is_some_and(|item| item["sequence"].as_u64() == expected.last().copied()) {
                    break;
                }
            }
            let wanted: Vec<u64> = expected.into_iter().filter(|sequence| *sequence >= from).collect();
            assert_eq!(sequences(&items), wanted, "{channel} from {from}");
            client.send(json!({"op": "unsubscribe", "id": id})).await;
            client.until("unsubscribed").await;
        }
        // A book as of then, and its changes from then on.
        id += 1;
        let acknowledged = client
            .subscribe(json!({"id": id, "channel": "book", "symbols": ["ALFA", "BETA"], "depth": 5, "from_sequence": from}))
            .await;
        let start = acknowledged["start"].as_u64().unwrap();
        let group_end = events.iter().rfind(|event| event.ends_group && event.sequence.get() < from);
        assert_eq!(start, group_end.map_or(0, |event| event.sequence.get()) + 1, "from {from}");
        let messages = client.until("replay_completed").await;
        let completed = messages.last().unwrap()["sequence"].as_u64().unwrap();
        let items: Vec<Value> =
            messages.iter().filter_map(|message| message["data"].as_array()).flatten().cloned().collect();
        let mut books = BTreeMap::new();
        if start == 1 {
            // Before the first event there is nothing to compare with but emptiness.
            let (empty, rest) = items.split_at(2);
            assert!(empty.iter().all(|item| item["bids"] == json!([]) && item["asks"] == json!([])));
            for item in empty {
                books.entry(instrument_of(item)).or_insert_with(LevelBook::default).apply(item);
            }
            check_books(rest, 5, &oracle, &mut books);
        } else {
            check_books(&items, 5, &oracle, &mut books);
        }
        if completed == through {
            for (instrument, _) in INSTRUMENTS {
                let (bids, asks, _) = &oracle.books[&(end, instrument)];
                let book = &books[&instrument];
                assert_eq!((book.bids(), book.asks()), (cut(bids, 5), cut(asks, 5)));
            }
        }
        client.send(json!({"op": "unsubscribe", "id": id})).await;
        client.until("unsubscribed").await;
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replayed_items_are_the_same_text_as_live_ones() {
    let mut tape = Tape::open();
    let defined = tape.define();
    tape.visible(defined);
    let gateway = tape.gateway(generous()).await;
    let requests = [
        json!({"id": 1, "channel": "trades"}),
        json!({"id": 2, "channel": "mbo", "symbols": ["ALFA"]}),
        json!({"id": 3, "channel": "tape"}),
        json!({"id": 4, "channel": "book", "symbols": ["BETA"], "depth": 10}),
    ];
    let mut live = Client::connect(gateway.address()).await;
    for request in &requests {
        live.subscribe(request.clone()).await;
    }
    let end = tape.flow(400);
    tape.visible(end);
    let mut replayed = Client::connect(gateway.address()).await;
    for request in &requests {
        let mut request = request.clone();
        request["from_sequence"] = json!(defined.next().get());
        replayed.subscribe(request).await;
    }
    let mut items = [BTreeMap::new(), BTreeMap::new()];
    for (client, items) in [&mut live, &mut replayed].into_iter().zip(&mut items) {
        // The tape is the last to be complete on neither client, so gather until every channel has its last item.
        let mut done = std::collections::BTreeSet::new();
        while done.len() < 4 {
            let message = client.next().await;
            if message["type"] != "data" {
                continue;
            }
            let id = message["id"].as_u64().unwrap();
            let list: &mut Vec<String> = items.entry(id).or_default();
            for item in message["data"].as_array().unwrap() {
                // What the first change after a snapshot follows is where the snapshot was taken; both are told.
                let mut item = item.clone();
                if let Some(object) = item.as_object_mut() {
                    object.remove("previous_sequence");
                }
                if item["type"] != "snapshot" {
                    list.push(item.to_string());
                }
            }
            let last = message["sequence"].as_u64().unwrap();
            if last >= last_of(&tape, id) {
                done.insert(id);
            }
        }
    }
    assert!(items[0].values().all(|list| list.len() > 30));
    assert_eq!(items[0], items[1]);
    gateway.shutdown().await;
}

/// The last position of which a subscription of the test above hears.
fn last_of(tape: &Tape, id: u64) -> u64 {
    let events = tape.events();
    let of = |wanted: &dyn Fn(&Recorded) -> bool| {
        events.iter().rfind(|event| wanted(event)).unwrap().sequence.get()
    };
    match id {
        1 => of(&|event| event.kind == Kind::TradeMatched),
        2 => of(&|event| {
            event.instrument == INSTRUMENTS[0].0
                && (KindMask::ORDERS.contains(event.kind) || event.kind == Kind::TradeMatched)
                && event.kind != Kind::OrderRejected
        }),
        3 => of(&|_| true),
        _ => {
            let oracle = Oracle::of(tape);
            let mut last = 0;
            let mut before = None;
            for ((sequence, instrument), (bids, asks, _)) in &oracle.books {
                if *instrument != INSTRUMENTS[1].0 {
                    continue;
                }
                let now = (cut(bids, 10), cut(asks, 10));
                if before.as_ref() != Some(&now) {
                    last = sequence.get();
                }
                before = Some(now);
            }
            last
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_falls_behind_is_served_from_the_log_without_a_gap() {
    let mut tape = Tape::open();
    let defined = tape.define();
    tape.visible(defined);
    let limits = Limits { recent_bytes_max: 64 * 1024, ..generous() };
    let gateway = tape.gateway(limits).await;
    let mut slow = Client::connect(gateway.address()).await;
    slow.subscribe(json!({"id": 1, "channel": "tape"})).await;
    let mut quick = Client::connect(gateway.address()).await;
    quick.subscribe(json!({"id": 1, "channel": "tape"})).await;
    // Far more than sockets buffer, and the slow client reads nothing of it meanwhile.
    let end = tape.flow(10_000);
    let quick_items = quick.items_through(1, end.get()).await;
    let dense = |items: &[Value]| {
        let sequences = sequences(items);
        assert_eq!(sequences, (defined.next().get()..=end.get()).collect::<Vec<_>>());
    };
    dense(&quick_items);
    let (mut lagging, mut caught_up, mut items) = (0, 0, Vec::new());
    while items.last().is_none_or(|item: &Value| item["sequence"] != end.get()) {
        let message = slow.next().await;
        match message["type"].as_str().unwrap() {
            "data" => items.extend(message["data"].as_array().unwrap().iter().cloned()),
            "lagging" => {
                assert!(message["behind"].as_u64().unwrap() > 0);
                assert_eq!(
                    message["sequence"],
                    items.last().map_or(json!(defined.get()), |item| item["sequence"].clone())
                );
                lagging += 1;
            }
            "caught_up" => caught_up += 1,
            other => panic!("{other}"),
        }
    }
    dense(&items);
    assert!(lagging > 0 && caught_up + 1 >= lagging, "{lagging} and {caught_up}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_book_client_gets_merged_changes_or_a_new_snapshot_and_is_told() {
    for recent_bytes_max in [64 * 1024, 64 * 1024 * 1024] {
        let mut tape = Tape::open();
        let defined = tape.define();
        tape.visible(defined);
        let limits = Limits { recent_bytes_max, conflate_above: 4, ..generous() };
        let gateway = tape.gateway(limits).await;
        let mut slow = Client::connect(gateway.address()).await;
        slow.subscribe(json!({"id": 1, "channel": "book", "symbols": ["ALFA", "BETA"], "depth": 0})).await;
        // A fat subscription beside it fills the socket, so that books have to wait too.
        slow.subscribe(json!({"id": 2, "channel": "tape"})).await;
        // Round by round: the first ones fill the socket, which nobody reads, and the later ones find it full.
        let mut end = defined;
        for _ in 0..10 {
            end = tape.flow(1_000);
            while get(gateway.address(), "/v1/watermarks").await.json()["feed"] != end.get() {}
        }
        let mut items = Vec::new();
        let mut tape_at = 0;
        let oracle = Oracle::of(&tape);
        let mut books = BTreeMap::new();
        while tape_at < end.get()
            || INSTRUMENTS.iter().any(|(instrument, _)| {
                let (bids, asks, _) = &oracle.books[&(end, *instrument)];
                books
                    .get(instrument)
                    .is_none_or(|book: &LevelBook| (book.bids(), book.asks()) != (bids.clone(), asks.clone()))
            })
        {
            let message = slow.next().await;
            if message["type"] != "data" {
                continue;
            }
            if message["id"] == 2 {
                tape_at = message["sequence"].as_u64().unwrap();
                continue;
            }
            items = message["data"].as_array().unwrap().clone();
            check_books(&items, 0, &oracle, &mut books);
        }
        assert!(!items.is_empty());
        let conflated: usize = books.values().map(|book| book.conflated).sum();
        assert!(conflated > 0, "with {recent_bytes_max} bytes");
        let snapshots: usize = books.values().map(|book| book.snapshots).sum();
        assert_eq!(snapshots > 2, recent_bytes_max == 64 * 1024, "{snapshots} snapshots");
        gateway.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_private_is_ever_sent() {
    let mut tape = Tape::open();
    tape.define();
    let middle = tape.flow(100);
    tape.visible(middle);
    let gateway = tape.gateway(generous()).await;
    let address = gateway.address();
    let mut client = Client::connect(address).await;
    let symbols = json!(["ALFA", "BETA"]);
    for (id, request) in [
        json!({"channel": "tape", "from_sequence": 0}),
        json!({"channel": "trades", "from_sequence": 0}),
        json!({"channel": "mbo", "symbols": symbols}),
        json!({"channel": "mbo", "symbols": symbols, "from_sequence": 1}),
        json!({"channel": "book", "symbols": symbols}),
    ]
    .into_iter()
    .enumerate()
    {
        let mut request = request;
        request["id"] = json!(id);
        client.subscribe(request).await;
    }
    let end = tape.flow(100);
    tape.visible(end);
    let mut texts = Vec::new();
    let mut reached = 0;
    while reached < end.get() {
        let message = client.next().await;
        if message["id"] == 0 && message["type"] == "data" {
            reached = message["sequence"].as_u64().unwrap();
        }
        texts.push(message.to_string());
    }
    for path in [
        "/v1/events?limit=10000",
        "/v1/trades?limit=1000",
        "/v1/book?instrument=ALFA",
        "/v1/instruments",
        "/metrics",
    ] {
        texts.push(get(address, path).await.body);
    }
    let events = texts.iter().filter(|text| text.contains("order_rejected")).count();
    assert!(events > 0, "rejections are on the tape, so that it has no gap, but say nothing");
    for text in &texts {
        for secret in [SECRET_CLIENT_ORDER, "secret", &SECRET_ACCOUNT.to_string()] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_tape_can_be_watched_and_its_first_instrument_appears() {
    let mut tape = Tape::open();
    let gateway = tape.gateway(generous()).await;
    let mut client = Client::connect(gateway.address()).await;
    let acknowledged = client.subscribe(json!({"id": 1, "channel": "trades"})).await;
    assert_eq!((&acknowledged["head"], &acknowledged["start"]), (&json!(0), &json!(1)));
    client.subscribe(json!({"id": 2, "channel": "tape", "from_sequence": 1})).await;
    client.send(json!({"op": "subscribe", "id": 3, "channel": "book", "symbols": ["ALFA"]})).await;
    let error = loop {
        let message = client.next().await;
        if message["type"] == "error" {
            break message;
        }
    };
    assert_eq!((&error["id"], &error["error"]), (&json!(3), &json!("unknown_symbol")));
    tape.define();
    let end = tape.flow(50);
    tape.visible(end);
    let items = client.items_through(2, end.get()).await;
    assert_eq!(sequences(&items), (1..=end.get()).collect::<Vec<_>>());
    client.subscribe(json!({"id": 3, "channel": "book", "symbols": ["ALFA"]})).await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feeds_and_books_go_on_after_a_restart_from_a_snapshot() {
    let mut tape = Tape::open();
    tape.define();
    let before = tape.flow(500);
    tape.visible(before);
    let mut tape = tape.reopen();
    assert!(tape.node.reader().snapshot_before(Sequence::MAX).unwrap().is_some(), "closing takes a snapshot");
    let gateway = tape.gateway(generous()).await;
    let mut client = Client::connect(gateway.address()).await;
    client.subscribe(json!({"id": 1, "channel": "book", "symbols": ["ALFA", "BETA"], "depth": 0})).await;
    let snapshot = client.until("data").await.pop().unwrap();
    client.subscribe(json!({"id": 2, "channel": "tape", "from_sequence": before.next().get()})).await;
    let end = tape.flow(200);
    tape.visible(end);
    let mut books = BTreeMap::new();
    let oracle = Oracle::of(&tape);
    check_books(snapshot["data"].as_array().unwrap(), 0, &oracle, &mut books);
    let mut reached = 0;
    while reached < end.get() {
        let message = client.next().await;
        match message["id"].as_u64() {
            Some(1) => check_books(message["data"].as_array().unwrap(), 0, &oracle, &mut books),
            Some(2) if message["type"] == "data" => reached = message["sequence"].as_u64().unwrap(),
            _ => {}
        }
    }
    assert!(books.values().all(|book| book.held > before.get()));
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_tell_every_watermark_also_without_subscriptions() {
    let mut tape = Tape::open();
    let defined = tape.define();
    tape.visible(defined);
    let limits = Limits { heartbeat_interval: Duration::from_millis(20), ..generous() };
    let gateway = tape.gateway(limits).await;
    let mut client = Client::connect(gateway.address()).await;
    let mut last = 0;
    for _ in 0..3 {
        let end = tape.flow(10);
        tape.visible(end);
        loop {
            let message = client.receive().await.unwrap();
            assert_eq!(message["type"], "heartbeat");
            let marks = &message["watermarks"];
            let visible = marks["visible"].as_u64().unwrap();
            let chain = ["accepted", "written", "durable", "replicated", "visible"]
                .map(|stage| marks[stage].as_u64().unwrap());
            assert!(chain.is_sorted_by(|earlier, later| earlier >= later), "{message}");
            assert!(visible >= last);
            last = visible;
            if visible >= end.get() && message["feed"].as_u64().unwrap() >= end.get() {
                break;
            }
        }
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_larger_than_a_frame_moves_books_once_and_is_never_shown_half() {
    let mut tape = Tape::open();
    let defined = tape.define();
    tape.visible(defined);
    let gateway = tape.gateway(generous()).await;
    let mut client = Client::connect(gateway.address()).await;
    let symbols = json!(["ALFA", "BETA"]);
    client.subscribe(json!({"id": 1, "channel": "book", "symbols": symbols, "depth": 0})).await;
    let mut orders = Client::connect(gateway.address()).await;
    orders.subscribe(json!({"id": 2, "channel": "mbo", "symbols": symbols, "snapshot": false})).await;
    let group = tape.large_group(3_000);
    let end = tape.put(&group);
    tape.visible(end);
    let mbo = orders.items_through(2, end.get()).await;
    assert_eq!(mbo.len(), 3_000);
    let lasts: Vec<u64> = mbo
        .iter()
        .filter(|item| item["last"] == true)
        .map(|item| item["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(lasts, [end.get() - 1, end.get()], "each instrument's last event of the group");

    // A replay from the middle of the group: orders from there, books from before it.
    let middle = end.get() - 1_000;
    let mut late = Client::connect(gateway.address()).await;
    let replayed = late.subscribe(json!({"id": 3, "channel": "tape", "from_sequence": middle})).await;
    assert_eq!(replayed["start"], middle);
    let items = late.items_through(3, end.get()).await;
    assert_eq!(sequences(&items), (middle..=end.get()).collect::<Vec<_>>());
    let request =
        json!({"id": 4, "channel": "book", "symbols": symbols, "depth": 0, "from_sequence": middle});
    assert_eq!(late.subscribe(request).await["start"], defined.next().get());

    let live = client.items_through(1, end.get()).await;
    let replayed = late.items_through(4, end.get()).await;
    let oracle = Oracle::of(&tape);
    for items in [live, replayed] {
        let mut books = BTreeMap::new();
        check_books(&items, 0, &oracle, &mut books);
        let deltas: Vec<u64> =
            sequences(&items).into_iter().filter(|sequence| *sequence > defined.get()).collect();
        assert_eq!(deltas, [end.get(), end.get()], "one change per book");
    }
    gateway.shutdown().await;
}
