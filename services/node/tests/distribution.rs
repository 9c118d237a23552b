//! Node and subscriptions together: what is published is what subscribers get, through the real bus and the real log.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use matchtape_bus::{BusConfig, BusService, BusSubscriber, Delivery, SubscriberOptions, WakeUp};
use matchtape_node::{BusOptions, FollowedHistory, IngressOptions, Node, NodeOptions, PublishError};
use matchtape_schemas::event::{
    AccountOpened, Event, OrderAccepted, OrderCancelled, StateSet, TradeBusted, TradeMatched,
    TradingStatusChanged,
};
use matchtape_schemas::{
    AccountId, Body, EventFlags, Kind, KindMask, OrderId, ProducerId, Sequence, Stage, TradeId, Watermarks,
};
use matchtape_storage::{Disk, ReadOnlyOptions, ReadOnlyStore, RealDisk, Workers};
use matchtape_subscription::{
    BusLive, Delayed, DelayedOptions, End, Filter, Historical, HistoricalOptions, History, Pace, RealTime,
    RealTimeOptions, Start, Subscription, Update, WindowStart,
};
use support::watched::Watched;
use support::{order, put, small};

const PATIENCE: Duration = Duration::from_secs(30);

struct Place {
    folder: tempfile::TempDir,
    namespace: String,
    /// Judges every event of every node here.
    watched: Watched,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.watched.ends_clean();
        }
        // 16 bytes per namespace that iceoryx2 keeps for good.
        let begin = format!("mt_{}_", self.namespace);
        for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&begin) && name.ends_with(".global_mgmt") {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

impl Place {
    fn new() -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let namespace = format!("t{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::tempdir().unwrap();
        let watched = Watched::start(folder.path(), &namespace, "durable");
        Self { folder, namespace, watched }
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(RealDisk::create(&self.folder.path().join("data")).unwrap())
    }

    fn bus(&self) -> BusOptions {
        // Small: many tests run at once in one /dev/shm.
        let config = BusConfig { subscribers_max: 5, buffer_samples: 8, ..BusConfig::default() };
        BusOptions {
            namespace: self.namespace.clone(),
            root: Some(self.folder.path().join("bus")),
            config,
            speculative: true,
            core: None,
        }
    }

    fn node(&self) -> Node {
        let options = NodeOptions { bus: Some(self.bus()), ..small() };
        Node::open_on(self.disk(), options, Vec::new()).unwrap()
    }
}

fn live(node: &Node, service: BusService) -> BusLive {
    BusLive::new(node.bus_name().unwrap(), service, WakeUp::Event, Duration::from_micros(50))
}

/// Everything up to `last`, in order, each once.
fn collect<S: Subscription>(subscription: &mut S, last: Sequence) -> Vec<(Sequence, Event)> {
    let mut events = Vec::new();
    let deadline = std::time::Instant::now() + PATIENCE;
    while events.last().is_none_or(|(sequence, _)| *sequence < last) {
        assert!(std::time::Instant::now() < deadline, "stuck after {:?}", events.last().map(|(at, _)| at));
        let Some(update) = subscription.next(Duration::from_millis(100)).unwrap() else { continue };
        if let Update::Events(batch) = update {
            events.extend(batch.iter().map(|event| (event.sequence(), event.to_event())));
        }
    }
    events
}

fn whole_tape(node: &Node) -> Vec<(Sequence, Event)> {
    let mut frames = node.reader().frames(Sequence::FIRST).unwrap();
    let mut events = Vec::new();
    while let Some(frame) = frames.next_frame().unwrap() {
        events.extend(frame.frame().events().map(|event| (event.sequence(), event.to_event())));
    }
    events
}

#[test]
fn every_tier_gets_the_same_events_in_the_same_order() {
    const EVENTS: u64 = 30_000;
    let place = Place::new();
    let node = place.node();
    let last = Sequence(EVENTS + 1);
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    // Some of it is history before anybody subscribes.
    for number in 1..=EVENTS / 3 {
        put(&mut publisher, &order(number));
    }
    std::thread::scope(|scope| {
        let (node, place) = (&node, &place);
        let from_start = RealTimeOptions { start: Start::Beginning, ..RealTimeOptions::default() };
        let real_time = scope.spawn({
            let options = from_start.clone();
            move || {
                let history = node.history();
                let mut subscription =
                    RealTime::open(history, live(node, BusService::Live), options).unwrap();
                collect(&mut subscription, last)
            }
        });
        let speculative = scope.spawn({
            let options = from_start.clone();
            move || {
                let history = node.history();
                let mut subscription =
                    RealTime::open(history, live(node, BusService::Speculative), options).unwrap();
                collect(&mut subscription, last)
            }
        });
        // As another process would: from the files alone, and the bus.
        let outside = scope.spawn(move || {
            let store = ReadOnlyStore::open(place.disk(), ReadOnlyOptions::default()).unwrap();
            let history = FollowedHistory::new(store);
            let mut subscription = RealTime::open(history, live(node, BusService::Live), from_start).unwrap();
            collect(&mut subscription, last)
        });
        for number in EVENTS / 3 + 1..=EVENTS {
            put(&mut publisher, &order(number));
        }
        node.wait(last, Stage::Visible).unwrap();
        let expected = whole_tape(node);
        assert_eq!(expected.len() as u64, EVENTS + 1);
        assert!(real_time.join().unwrap() == expected, "real-time");
        assert!(outside.join().unwrap() == expected, "from another process' point of view");
        // The log's own copy marks late events; so does the frame on the bus, which is the same bytes.
        assert!(speculative.join().unwrap() == expected, "speculative");
        let options =
            HistoricalOptions { start: Start::Beginning, end: End::Visible, ..HistoricalOptions::default() };
        let mut historical = Historical::open(node.history(), options).unwrap();
        assert!(collect(&mut historical, last) == expected, "historical");
    });
    place.watched.joins();
    node.close().unwrap();
}

/// An event of each topic in turn, in frames of their own and together.
fn of_every_topic(number: u64) -> Event {
    let body: Body = match number % 9 {
        0 | 6 => OrderAccepted { order_id: OrderId(number), ..OrderAccepted::default() }.into(),
        1 => OrderCancelled { order_id: OrderId(number), ..OrderCancelled::default() }.into(),
        2 | 7 => TradeMatched { trade_id: TradeId(number), ..TradeMatched::default() }.into(),
        3 => TradeBusted { trade_id: TradeId(number), ..TradeBusted::default() }.into(),
        4 => TradingStatusChanged::default().into(),
        5 => AccountOpened { account: AccountId(number), ..AccountOpened::default() }.into(),
        _ => StateSet::new(&number.to_le_bytes(), b"value").unwrap().into(),
    };
    Event { body, ..order(number) }
}

#[test]
fn each_topic_comes_to_its_subscriber_and_heartbeats_tell_every_stage_when_nothing_comes() {
    const EVENTS: u64 = 9_000;
    let place = Place::new();
    let config = BusConfig { heartbeat_interval: Duration::from_millis(20), ..place.bus().config };
    let config = BusConfig { subscribers_max: 6, ..config };
    let options = NodeOptions { bus: Some(BusOptions { config, ..place.bus() }), ..small() };
    let node = Node::open_on(place.disk(), options, Vec::new()).unwrap();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    let topics = ["orders", "trades", "market", "accounts", "state", "control"];
    let (joined, wait_for_joined) = mpsc::channel();
    std::thread::scope(|scope| {
        let node = &node;
        let readers = topics.map(|topic| {
            let joined = joined.clone();
            scope.spawn(move || {
                let filter = Filter::kinds(KindMask::topic(topic).unwrap());
                let options = RealTimeOptions { start: Start::Beginning, filter, ..Default::default() };
                let history = node.history();
                let mut reader = RealTime::open(history, live(node, BusService::Live), options).unwrap();
                let (mut events, mut told) = (Vec::new(), Watermarks::default());
                let deadline = std::time::Instant::now() + PATIENCE;
                // Its position goes on to the end, whatever the last event is.
                while reader.position() <= Sequence(EVENTS + 1) || told.visible <= Sequence(EVENTS) {
                    assert!(std::time::Instant::now() < deadline, "{topic}: at {}", reader.position());
                    match reader.next(Duration::from_millis(100)).unwrap() {
                        Some(Update::Events(batch)) => {
                            events.extend(batch.iter().map(|event| (event.sequence(), event.to_event())));
                        }
                        Some(Update::Heartbeat { watermarks, .. }) => told = watermarks,
                        Some(Update::LiveJoined { .. }) => joined.send(()).unwrap(),
                        Some(_) | None => {}
                    }
                }
                (events, told)
            })
        });
        put(&mut publisher, &of_every_topic(1));
        for _ in topics {
            wait_for_joined.recv_timeout(PATIENCE).expect("all are live before the rest comes");
        }
        let mut number = 1;
        while number < EVENTS {
            // Together, so that frames hold several kinds, and one at a time, so that they hold one.
            let last = if number < EVENTS / 2 { number + 5 } else { number + 1 }.min(EVENTS);
            for number in number + 1..=last {
                put(&mut publisher, &of_every_topic(number));
            }
            number = last;
            if number.is_multiple_of(50) {
                node.wait(node.watermarks().accepted, Stage::Visible).unwrap();
            }
        }
        node.wait(Sequence(EVENTS + 1), Stage::Visible).unwrap();
        let all = whole_tape(node);
        let mut seen = 0;
        for (topic, reader) in topics.into_iter().zip(readers) {
            let (events, told) = reader.join().unwrap();
            let mask = KindMask::topic(topic).unwrap();
            let expected: Vec<_> =
                all.iter().filter(|(_, event)| mask.contains(event.body.kind())).cloned().collect();
            assert!(!expected.is_empty() && events == expected, "{topic}: {} events", events.len());
            seen += events.len();
            let end = Sequence(EVENTS + 1);
            let every =
                Watermarks { accepted: end, written: end, durable: end, replicated: end, visible: end };
            assert_eq!(told, every, "{topic}");
        }
        assert_eq!(seen, all.len(), "every event is of one topic");
    });
    drop(publisher);
    place.watched.joins();
    node.close().unwrap();
}

fn from_beginning() -> DelayedOptions {
    DelayedOptions { start: WindowStart::From(Start::Beginning), ..DelayedOptions::default() }
}

#[test]
fn delayed_batches_of_a_live_tape_and_of_its_replay_are_the_same_bytes() {
    let place = Place::new();
    let node = place.node();
    let (first_batch, wait_for_first) = mpsc::channel();
    std::thread::scope(|scope| {
        let node = &node;
        let watching = scope.spawn(move || {
            let history = node.history();
            let live = live(node, BusService::Live);
            let options = from_beginning();
            let mut delayed = Delayed::live(history, live, &options).unwrap();
            let mut batches: Vec<Vec<u8>> = Vec::new();
            let deadline = std::time::Instant::now() + PATIENCE;
            while batches.len() < 50 {
                assert!(std::time::Instant::now() < deadline, "stuck after {} batches", batches.len());
                if let Some(Update::Window(batch)) = delayed.next(Duration::from_millis(100)).unwrap() {
                    batches.push(batch.bytes().to_vec());
                    let _ = first_batch.send(());
                }
            }
            batches
        });
        let mut publisher = node.publisher(ProducerId(1)).unwrap();
        let mut number = 0;
        // 60 windows of 100 ms of event time, with events that come late, and a hole of 5 windows.
        for window in (0..40).chain(45..66) {
            for event in 0..20i64 {
                number += 1;
                let mut order = order(number);
                order.event_time.0 = 1_700_000_000_000_000_000 + window * 100_000_000 + event * 1_000_000;
                if event == 7 {
                    order.event_time.0 -= 300_000_000;
                }
                put(&mut publisher, &order);
            }
            if window == 2 {
                wait_for_first.recv_timeout(PATIENCE).expect("windows close while the tape is live");
            }
        }
        let live = watching.join().unwrap();
        let options = from_beginning();
        let mut replay =
            Delayed::replay(node.history(), &options, End::Visible, Pace::AsFastAsPossible).unwrap();
        let mut replayed: Vec<Vec<u8>> = Vec::new();
        while replayed.len() < live.len() {
            match replay.next(PATIENCE).unwrap() {
                Some(Update::Window(batch)) => replayed.push(batch.bytes().to_vec()),
                Some(Update::Ended { .. }) | None => break,
                Some(_) => {}
            }
        }
        assert!(live == replayed, "{} live batches, {} replayed", live.len(), replayed.len());
    });
    place.watched.joins();
}

#[test]
fn a_subscriber_outlives_nodes_that_crash_and_come_back() {
    let place = Place::new();
    let mut expected = Vec::new();
    let store_there = place.node();
    drop(store_there);
    let name = place
        .bus()
        .name(ReadOnlyStore::open(place.disk(), ReadOnlyOptions::default()).unwrap().tape())
        .unwrap();
    let (target, targets) = mpsc::channel::<Sequence>();
    let disk = place.disk();
    let subscriber = std::thread::spawn(move || {
        let history = FollowedHistory::new(ReadOnlyStore::open(disk, ReadOnlyOptions::default()).unwrap());
        let live = BusLive::new(&name, BusService::Live, WakeUp::Event, Duration::ZERO);
        let options = RealTimeOptions { start: Start::Beginning, ..RealTimeOptions::default() };
        let mut subscription = RealTime::open(history, live, options).unwrap();
        let mut got = Vec::new();
        for last in targets {
            got.extend(collect(&mut subscription, last));
        }
        got
    });
    for round in 0..4u64 {
        let node = place.node();
        let mut publisher = node.publisher(ProducerId(1)).unwrap();
        let mut last = Sequence::ZERO;
        for number in round * 500 + 1..=(round + 1) * 500 {
            last = put(&mut publisher, &order(number)).sequence();
        }
        node.wait(last, Stage::Visible).unwrap();
        target.send(last).unwrap();
        if round == 3 {
            expected = whole_tape(&node);
            place.watched.joins();
        }
        drop(publisher);
        // As a crash would leave it.
        drop(node);
    }
    drop(target);
    let got = subscriber.join().unwrap();
    assert_eq!(
        got.iter().map(|(sequence, _)| sequence.get()).collect::<Vec<_>>(),
        (1..=2004).collect::<Vec<_>>()
    );
    assert!(got == expected);
}

#[test]
fn a_speculative_reader_hears_that_a_node_lives_while_it_cannot_take_events() {
    let place = Place::new();
    let mut options = NodeOptions { bus: Some(place.bus()), ring_slots: 1024, ..small() };
    // Nothing is indexed or flushed until this test says so.
    options.store.workers = Workers::Caller;
    options.store.memtable_bytes = 1 << 20;
    let node = Node::open_on(place.disk(), options, Vec::new()).unwrap();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    let mut number = 1;
    loop {
        match publisher.publish(&order(number)) {
            Ok(_) => number += 1,
            Err(PublishError::WouldBlock) if node.store().pressure().slow_down().0 >= 1000 => break,
            Err(PublishError::WouldBlock) => std::thread::yield_now(),
            Err(other) => panic!("{other}"),
        }
    }
    let name = node.bus_name().unwrap();
    let mut subscriber =
        BusSubscriber::open(name, BusService::Speculative, &SubscriberOptions::default()).unwrap();
    let (mut heartbeats, deadline) = (0, std::time::Instant::now() + PATIENCE);
    while heartbeats < 3 && std::time::Instant::now() < deadline {
        subscriber.wait(Duration::from_millis(100)).unwrap();
        while let Some(delivery) = subscriber.poll().unwrap() {
            heartbeats += usize::from(matches!(delivery, Delivery::Heartbeat { .. }));
        }
    }
    drop((subscriber, publisher));
    // What it was kept from: without this it could not be closed.
    node.store().flush().unwrap();
    place.watched.joins();
    node.close().unwrap();
    assert!(heartbeats >= 3, "{heartbeats} signs of life");
}

#[test]
fn an_idle_live_tape_says_that_time_has_passed() {
    let place = Place::new();
    let options = NodeOptions {
        bus: Some(place.bus()),
        time_advanced_after: Some(Duration::from_millis(20)),
        ..small()
    };
    let node = Node::open_on(place.disk(), options, Vec::new()).unwrap();
    assert_eq!(node.watermarks().accepted, Sequence::ZERO, "a tape nobody wrote to stays untouched");
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    // An event of another day does not make it live.
    put(&mut publisher, &order(1));
    assert_eq!(
        node.wait_for(Sequence(3), Stage::Accepted, Duration::from_millis(200)),
        Err(matchtape_node::WaitError::TimedOut)
    );
    let mut now = order(2);
    now.event_time.0 =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    put(&mut publisher, &now);
    node.wait_for(Sequence(4), Stage::Visible, PATIENCE).unwrap();
    let event = node.reader().event(Sequence(4)).unwrap().unwrap();
    assert_eq!(
        (event.event().kind(), event.event().flags()),
        (Kind::TimeAdvanced, EventFlags::LAST_OF_GROUP)
    );
    // Far enough that the window of 100 ms which the last event is in is closed.
    let said = event.event().event_time().get();
    assert!(said - now.event_time.get() >= 100_000_000, "{said} after {}", now.event_time);
    place.watched.joins();
    node.close().unwrap();
}

/// The cores that a thread of this process called `name` may run on, for each of that name.
fn cores_of(name: &str) -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let called = tasks.filter(|task| {
        // A thread of another test may end meanwhile.
        std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name)
    });
    let status = called.filter_map(|task| std::fs::read_to_string(task.join("status")).ok());
    let allowed = status.map(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.unwrap().trim().to_owned()
    });
    allowed.collect()
}

#[test]
fn each_thread_of_a_node_runs_on_the_core_it_is_given() {
    let place = Place::new();
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    let core = (0..rustix::thread::CpuSet::MAX_CPU).rfind(|core| allowed.is_set(*core)).unwrap();
    let options = NodeOptions {
        bus: Some(BusOptions { core: Some(core), ..place.bus() }),
        ingress: Some(IngressOptions { core: Some(core), ..IngressOptions::default() }),
        pipeline_core: Some(core),
        log_core: Some(core),
        ..small()
    };
    let node = Node::open_on(place.disk(), options, Vec::new()).unwrap();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    let last = put(&mut publisher, &order(1)).sequence();
    node.wait(last, Stage::Durable).unwrap();
    for thread in ["pipeline", "wal-commit", "bus-live", "ingress"] {
        let cores = cores_of(thread);
        assert!(cores.contains(&core.to_string()), "{thread}: {cores:?}");
    }
    drop(publisher);
    place.watched.joins();
    node.close().unwrap();
}

#[test]
fn history_from_files_sees_what_became_durable_meanwhile() {
    let place = Place::new();
    let node = place.node();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    let mut history =
        FollowedHistory::new(ReadOnlyStore::open(place.disk(), ReadOnlyOptions::default()).unwrap());
    assert!(history.frame_at(Sequence::FIRST).unwrap().is_none());
    let mut next = Sequence::FIRST;
    for number in 1..=50 {
        let sequence = put(&mut publisher, &order(number)).sequence();
        node.wait(sequence, Stage::Durable).unwrap();
        // The log proves a commit with the next one, or with the block it writes when going idle.
        let deadline = std::time::Instant::now() + PATIENCE;
        while next <= sequence {
            assert!(std::time::Instant::now() < deadline);
            match history.frame_at(next).unwrap() {
                Some(frame) => {
                    next = matchtape_subscription::FrameHandle::frame(&frame).last_sequence().next();
                }
                None => std::thread::yield_now(),
            }
        }
    }
    assert_eq!(next, Sequence(52));
    place.watched.joins();
    node.close().unwrap();
}
