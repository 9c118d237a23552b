//! Subscriptions over the real bus: joined in the middle, outrun, and with either side killed.

mod support;

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use matchtape_bus::{BusConfig, BusName, BusPublisher, BusService, Liveness, WakeUp};
use matchtape_schemas::{BodyRef, Epoch, Head, Sequence, Watermarks};
use matchtape_subscription::{
    BatchBuf, BusLive, Delayed, DelayedOptions, End, Events, Pace, RealTime, RealTimeOptions, Start,
    Subscription, Update, WindowStart,
};
use support::{Log, ManualClock, TAPE, all_at, trades_frame};

const PATIENCE: Duration = Duration::from_secs(60);

struct Place {
    root: tempfile::TempDir,
    name: BusName,
}

impl Place {
    fn new(namespace: &str) -> Self {
        let root = tempfile::tempdir().expect("tempdir");
        let namespace = format!("{namespace}-{}", std::process::id());
        let name = BusName::with_root(&namespace, TAPE, root.path()).expect("name");
        Self { root, name }
    }

    fn live(&self, service: BusService, wake_up: WakeUp) -> BusLive {
        BusLive::new(&self.name, service, wake_up, Duration::from_micros(50))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Removes what the processes killed by this test have left.
        let _ = matchtape_bus::clean_dead_participants(&self.name);
        support::forget_id_counter(&self.name);
    }
}

/// A bus that is outrun soon.
fn small() -> BusConfig {
    BusConfig { buffer_samples: 4, frame_bytes_max: 4096, ..BusConfig::default() }
}

/// One of which nobody misses the heartbeats, however long everything stands still.
fn quiet() -> BusConfig {
    BusConfig { heartbeat_interval: PATIENCE, ..small() }
}

fn empty_tape() -> Head {
    Head { epoch: Epoch::FIRST, ..Head::empty(TAPE) }
}

#[test]
fn the_alarm_waits_for_three_of_the_intervals_that_the_bus_states() {
    let place = Place::new("interval");
    let config = BusConfig { heartbeat_interval: Duration::from_secs(1), ..small() };
    let publisher =
        BusPublisher::open(&place.name, BusService::Live, &config, &empty_tape()).expect("publisher");
    let clock = ManualClock::default();
    let live = place.live(BusService::Live, WakeUp::BusyPoll);
    let options = RealTimeOptions::default();
    let mut reader =
        RealTime::open_with_clock(Log::new(Vec::new()), live, options, clock.clone()).expect("open");
    // Attaches, and hears nothing.
    assert!(reader.poll().expect("poll").is_none());
    clock.pass(Duration::from_millis(2900));
    assert!(reader.poll().expect("poll").is_none(), "it was not too long");
    clock.pass(Duration::from_millis(200));
    assert!(matches!(reader.poll().expect("poll"), Some(Update::Alarm { missed: 3 })));
    drop(publisher);
}

#[test]
fn a_reader_that_sleeps_naps_where_the_publisher_wakes_nobody() {
    let place = Place::new("naps");
    // No alarm, however slow this machine is.
    let heartbeat_interval = Duration::from_secs(60);
    let config = BusConfig { wake_up: WakeUp::BusyPoll, heartbeat_interval, ..small() };
    let mut head = empty_tape();
    let mut publisher = BusPublisher::open(&place.name, BusService::Live, &config, &head).expect("publisher");
    let log = Log::new(Vec::new());
    let live = place.live(BusService::Live, WakeUp::Event);
    let mut reader = RealTime::open(log.clone(), live, RealTimeOptions::default()).expect("open");
    // Attaches, and uses next to no processor time while nothing comes.
    let spent = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let before = spent();
    assert!(reader.next(Duration::from_millis(200)).expect("read").is_none());
    let used = spent() - before;
    assert!(used.tv_sec == 0 && used.tv_nsec < 60_000_000, "200 ms took {used:?} of processor time");
    let next = head.last_sequence.next();
    let frame = trades_frame(&mut head);
    log.change(|kept| {
        kept.frames.push(frame.clone());
        kept.visible = head.last_sequence;
    });
    publisher.publish(frame.bytes(), &all_at(head.last_sequence)).expect("publish");
    loop {
        match reader.next(PATIENCE).expect("read").expect("in time") {
            Update::Events(events) => {
                assert_eq!(events.first(), next);
                break;
            }
            Update::LiveJoined { .. } | Update::Heartbeat { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Publishes `events` in frames of ten as fast as it can, each visible in `log` first; then heartbeats until told to stop.
fn publish_all(name: &BusName, service: BusService, log: &Log, events: u64, done: &mpsc::Receiver<()>) {
    let mut head = empty_tape();
    let mut publisher = BusPublisher::open(name, service, &small(), &head).expect("publisher");
    while head.last_sequence < Sequence(events) {
        let frame = trades_frame(&mut head);
        let last = head.last_sequence;
        // A speculative bus is ahead of what is visible.
        let visible =
            if service == BusService::Live { last } else { Sequence(last.get().saturating_sub(50)) };
        log.change(|kept| {
            kept.frames.push(frame.clone());
            kept.visible = visible;
        });
        let watermarks = Watermarks { accepted: last, ..all_at(visible) };
        publisher.publish(frame.bytes(), &watermarks).expect("publish");
    }
    log.change(|kept| kept.visible = head.last_sequence);
    while done.recv_timeout(Duration::from_millis(10)) == Err(mpsc::RecvTimeoutError::Timeout) {
        publisher.heartbeat(&all_at(head.last_sequence));
    }
}

/// Checks that these events follow, each as its position calls for.
fn check(events: &Events<'_>, next: &mut Sequence) {
    assert_eq!(events.first(), *next);
    for event in events.iter() {
        assert_eq!(event.sequence(), *next);
        match event.body() {
            BodyRef::TradeMatched(trade) => assert_eq!(trade.trade_id.get().get(), next.get()),
            other => panic!("{other:?}"),
        }
        *next = next.next();
    }
    assert_eq!(*next, events.last().next());
}

#[derive(Default)]
struct Seen {
    joined: u32,
    lagging: u32,
}

/// Reads from `first` through `last`, each event once and in order, dawdling now and then.
fn read_through(reader: &mut impl Subscription, first: u64, last: u64, dawdle: Duration) -> Seen {
    let (mut seen, mut next, mut live) = (Seen::default(), Sequence(first), false);
    while next <= Sequence(last) {
        match reader.next(PATIENCE).expect("read").expect("in time") {
            Update::Events(events) => {
                check(&events, &mut next);
                if next.get() % 5000 < 10 {
                    std::thread::sleep(dawdle);
                }
            }
            Update::LiveJoined { .. } => {
                assert!(!live);
                live = true;
                seen.joined += 1;
            }
            Update::LiveLeft { .. } => {
                assert!(live);
                live = false;
            }
            Update::Lagging { .. } => seen.lagging += 1,
            Update::CaughtUp { .. } | Update::Heartbeat { .. } | Update::Alarm { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    seen
}

#[test]
fn readers_that_join_anywhere_and_are_outrun_get_every_event_once_in_order() {
    const EVENTS: u64 = 200_000;
    for (service, wake_up) in [
        (BusService::Live, WakeUp::Event),
        (BusService::Live, WakeUp::BusyPoll),
        (BusService::Speculative, WakeUp::Event),
    ] {
        let place = Place::new("outrun");
        let log = Log::new(Vec::new());
        let (stop, stopped) = mpsc::channel();
        std::thread::scope(|scope| {
            let (writer, name) = (log.clone(), place.name.clone());
            scope.spawn(move || publish_all(&name, service, &writer, EVENTS, &stopped));
            // In the middle, and from the beginning with it.
            while log.change(|kept| kept.visible) < Sequence(EVENTS / 10) {
                std::thread::yield_now();
            }
            let open = |start| {
                let options = RealTimeOptions { start, ..RealTimeOptions::default() };
                RealTime::open(log.clone(), place.live(service, wake_up), options).expect("open")
            };
            let mut slow = open(Start::Beginning);
            read_through(&mut slow, 1, EVENTS, Duration::from_millis(3));
            let mut late = open(Start::At(Sequence(EVENTS - 995)));
            read_through(&mut late, EVENTS - 995, EVENTS, Duration::ZERO);
            // At the end of the tape the heartbeats show that there is nothing else.
            while !(slow.is_live() && late.is_live()) {
                for reader in [&mut slow, &mut late] {
                    assert!(!matches!(reader.next(PATIENCE).expect("read"), Some(Update::Events(_))));
                }
            }
            stop.send(()).expect("the publisher waits");
        });
    }
}

#[test]
fn an_outrun_reader_is_told_lagging_and_caught_up() {
    let place = Place::new("lagging");
    let log = Log::new(Vec::new());
    let mut head = empty_tape();
    let mut publisher =
        BusPublisher::open(&place.name, BusService::Live, &quiet(), &head).expect("publisher");
    let mut publish = |frames: u32| {
        for _ in 0..frames {
            let frame = trades_frame(&mut head);
            log.change(|kept| {
                kept.frames.push(frame.clone());
                kept.visible = head.last_sequence;
            });
            publisher.publish(frame.bytes(), &all_at(head.last_sequence)).expect("publish");
        }
    };
    let options = RealTimeOptions {
        start: Start::Beginning,
        heartbeat_interval: PATIENCE,
        ..RealTimeOptions::default()
    };
    let live = place.live(BusService::Live, WakeUp::Event);
    let mut reader = RealTime::open(log.clone(), live, options).expect("open");
    publish(2);
    read_through(&mut reader, 1, 20, Duration::ZERO);
    // The log is at its end and the bus is attached when there is nothing more to read.
    assert!(reader.poll().expect("poll").is_none());
    let mut next = 21;
    for round in 0..20 {
        publish(1);
        let seen = read_through(&mut reader, next, next + 9, Duration::ZERO);
        assert_eq!((seen.joined, seen.lagging), (u32::from(round == 0), 0));
        publish(100);
        let mut words = Vec::new();
        let mut expected = Sequence(next + 10);
        while expected < Sequence(next + 1010) {
            match reader.next(PATIENCE).expect("read").expect("in time") {
                Update::Events(events) => check(&events, &mut expected),
                Update::LiveLeft { .. } => words.push("left"),
                Update::LiveJoined { next } => {
                    assert_eq!(next, expected);
                    words.push("joined");
                }
                Update::Lagging { behind } => {
                    assert_eq!(behind, 960);
                    words.push("lagging");
                }
                Update::CaughtUp { .. } => words.push("caught up"),
                other => panic!("{other:?}"),
            }
        }
        // Joined again with the first frame still in the buffer; so the next round starts live.
        assert_eq!(words, ["lagging", "left", "joined", "caught up"], "round {round}");
        next += 1010;
    }
}

#[test]
fn a_speculative_reader_is_told_what_a_restarted_node_has_lost_and_keeps_what_it_has_recovered() {
    let place = Place::new("speculative");
    let mut head = empty_tape();
    let mut frames: Vec<_> = (0..3).map(|_| trades_frame(&mut head)).collect();
    let log = Log::new(frames.clone());
    log.change(|kept| kept.visible = Sequence::ZERO);
    let service = BusService::Speculative;
    let options = RealTimeOptions {
        start: Start::Beginning,
        heartbeat_interval: PATIENCE,
        ..RealTimeOptions::default()
    };
    let mut publisher = BusPublisher::open(&place.name, service, &quiet(), &empty_tape()).expect("publisher");
    let mut reader = RealTime::open(log.clone(), place.live(service, WakeUp::Event), options).expect("open");
    assert!(reader.poll().expect("poll").is_none());
    let words = |reader: &mut RealTime<Log, BusLive>| {
        let mut words = Vec::new();
        while let Some(update) = reader.poll().expect("poll") {
            words.push(match update {
                Update::Events(events) => {
                    format!(
                        "{} {}-{} epoch {}",
                        events.stage(),
                        events.first(),
                        events.last(),
                        events.epoch()
                    )
                }
                Update::Retract { epoch, first, last } => format!("retract {first}-{last} of epoch {epoch}"),
                Update::PublisherRestarted { epoch } => format!("restarted {epoch}"),
                Update::LiveJoined { next } => format!("joined {next}"),
                Update::LiveLeft { next, .. } => format!("left {next}"),
                other => format!("{other:?}"),
            });
        }
        words
    };
    for (frame, visible) in frames.iter().zip([0, 0, 10]) {
        let accepted = frame.frame().last_sequence();
        let watermarks = Watermarks { accepted, ..all_at(Sequence(visible)) };
        publisher.publish(frame.bytes(), &watermarks).expect("publish");
    }
    assert_eq!(
        words(&mut reader),
        ["joined 1", "accepted 1-10 epoch 1", "accepted 11-20 epoch 1", "accepted 21-30 epoch 1"]
    );
    // The node dies; what is left of the tape are the first two frames, and it goes on differently.
    drop(publisher);
    frames.truncate(2);
    let mut head = Head { epoch: Epoch(2), ..frames[1].frame().header().head() };
    let mut publisher = BusPublisher::open(&place.name, service, &quiet(), &head).expect("publisher");
    frames.push(trades_frame(&mut head));
    log.change(|kept| (kept.frames, kept.visible) = (frames.clone(), Sequence(20)));
    let watermarks = Watermarks { accepted: Sequence(30), ..all_at(Sequence(20)) };
    publisher.publish(frames[2].bytes(), &watermarks).expect("publish");
    // What it recovered of the same frames stays; what came after them is taken back.
    let expected = ["restarted 2", "retract 21-30 of epoch 1", "accepted 21-30 epoch 2"];
    assert_eq!(words(&mut reader), expected);
}

#[test]
fn a_delayed_reader_over_the_bus_gets_what_a_replay_gives() {
    const EVENTS: u64 = 50_000;
    let place = Place::new("delayed");
    let log = Log::new(Vec::new());
    let options = DelayedOptions { start: WindowStart::From(Start::Beginning), ..DelayedOptions::default() };
    let (stop, stopped) = mpsc::channel();
    let mut live = Vec::new();
    std::thread::scope(|scope| {
        let (writer, name) = (log.clone(), place.name.clone());
        scope.spawn(move || publish_all(&name, BusService::Live, &writer, EVENTS, &stopped));
        let bus = place.live(BusService::Live, WakeUp::Event);
        let mut reader = Delayed::live(log.clone(), bus, &options).expect("open");
        // The last event, at 50 s, opens window 500.
        while live.last().is_none_or(|batch: &BatchBuf| batch.batch().window() < 499) {
            if let Update::Window(batch) = reader.next(PATIENCE).expect("read").expect("in time") {
                live.push(BatchBuf::copy(&batch));
                if live.len() % 50 == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        }
        stop.send(()).expect("the publisher waits");
    });
    let mut replay = Delayed::replay(log, &options, End::Visible, Pace::AsFastAsPossible).expect("open");
    for batch in &live {
        match replay.poll().expect("poll") {
            Some(Update::Window(replayed)) => assert!(replayed.bytes() == batch.batch().bytes()),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(replay.poll().expect("poll"), Some(Update::Ended { .. })));
    assert_eq!(live.len(), 500);
}

/// A process at the other end: told what to do by lines, answering by lines.
struct Other {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(place: &Place, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_subscription-test-peer"))
            .arg(place.root.path())
            .arg(place.name.namespace())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("child");
        let input = child.stdin.take().expect("stdin");
        let output = BufReader::new(child.stdout.take().expect("stdout")).lines();
        Self { child, input, output }
    }

    fn publisher(place: &Place, last: u64, epoch: u64) -> Self {
        let mut other = Self::start(place, &["publish", &last.to_string(), &epoch.to_string()]);
        assert_eq!(other.hear(), "open");
        other
    }

    fn hear(&mut self) -> String {
        self.output.next().expect("the child still speaks").expect("text")
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").expect("the child listens");
        self.hear()
    }

    fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_reader_survives_the_publishers_kill_and_restart() {
    let place = Place::new("restart");
    let _liveness = Liveness::start(&place.name, Duration::from_millis(50)).expect("liveness");
    let log = Log::new(Vec::new());
    let mut head = empty_tape();
    let mut grow = |epoch: u64, frames: u64| {
        head.epoch = Epoch(epoch);
        for _ in 0..frames {
            let frame = trades_frame(&mut head);
            log.change(|kept| {
                kept.frames.push(frame);
                kept.visible = head.last_sequence;
            });
        }
        head.last_sequence.get()
    };
    let options = RealTimeOptions { start: Start::Beginning, ..RealTimeOptions::default() };
    let live = place.live(BusService::Live, WakeUp::Event);
    let mut reader = RealTime::open(log.clone(), live, options).expect("open");
    let mut next = Sequence::FIRST;
    let mut publisher = Other::publisher(&place, 0, 1);
    for epoch in 1..5_u64 {
        let last = grow(epoch, 3);
        assert_eq!(publisher.ask("frames 3"), format!("published {last}"));
        let mut alarmed = false;
        let mut joined = reader.is_live();
        while next <= Sequence(last) || !joined {
            if next > Sequence(last) {
                publisher.ask("heartbeat");
            }
            match reader.next(Duration::from_millis(20)).expect("read") {
                Some(Update::Events(events)) => check(&events, &mut next),
                Some(Update::LiveJoined { .. }) => joined = true,
                Some(Update::LiveLeft { .. }) => joined = false,
                Some(Update::PublisherRestarted { epoch: found }) => assert_eq!(found, Epoch(epoch)),
                Some(Update::Heartbeat { .. } | Update::Alarm { .. }) | None => {}
                Some(other) => panic!("{other:?}"),
            }
        }
        publisher.kill();
        // Nothing is heard any more.
        while !alarmed {
            match reader.next(PATIENCE).expect("read").expect("in time") {
                Update::Alarm { missed } => alarmed = missed >= 3,
                Update::Heartbeat { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(reader.poll().expect("poll"), Some(Update::LiveLeft { .. })));
        // Two frames had become visible that the bus never saw.
        let last = grow(epoch, 2);
        publisher = Other::publisher(&place, last, epoch + 1);
    }
}

#[test]
fn a_killed_reader_resumes_at_its_position_without_gap_or_repetition() {
    let place = Place::new("resume");
    let _liveness = Liveness::start(&place.name, Duration::from_millis(50)).expect("liveness");
    let mut publisher = Other::publisher(&place, 0, 1);
    let mut published = 0;
    let mut next = 1;
    for life in 0..5 {
        // This much happened while there was no reader.
        for _ in 0..7 {
            published += 10;
            assert_eq!(publisher.ask("frames 1"), format!("published {published}"));
        }
        let mut reader = Other::start(&place, &["read", &next.to_string(), &published.to_string()]);
        let mut take = |reader: &mut Other, through: u64| {
            while next <= through {
                let line = reader.hear();
                if let Some(taken) = line.strip_prefix("taken ") {
                    let (first, last) = taken.split_once(' ').expect("two numbers");
                    assert_eq!(first.parse::<u64>().expect("a number"), next, "life {life}");
                    next = last.parse::<u64>().expect("a number") + 1;
                }
            }
        };
        take(&mut reader, published);
        // It is live when a heartbeat has reached it.
        let joined = Instant::now();
        let (heard, told) = mpsc::channel();
        std::thread::scope(|scope| {
            let listener = &mut reader;
            scope.spawn(move || {
                while listener.hear() != "joined" {}
                heard.send(()).expect("the test waits");
            });
            while told.recv_timeout(Duration::from_millis(5)).is_err() {
                publisher.ask("heartbeat");
                assert!(joined.elapsed() < PATIENCE);
            }
        });
        for _ in 0..5 {
            published += 10;
            assert_eq!(publisher.ask("frames 1"), format!("published {published}"));
            take(&mut reader, published);
        }
        reader.kill();
    }
    assert_eq!(next, 5 * 120 + 1);
}
