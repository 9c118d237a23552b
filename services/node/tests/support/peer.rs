//! The processes of the schedules: a node that publishes the script, a publisher outside of it, and readers whose every event
//! is checked.
//!
//! `node-test-peer PLACE NAMESPACE node SEED BUFFER` opens the node in PLACE and publishes, in bursts; says `open HEAD`,
//! then `at N` as it goes; told `end`, it says `ended LAST` once that is visible, and stays until told `close` or `go on`.
//!
//! `node-test-peer PLACE NAMESPACE publish SEED` publishes to that node, also while it is gone and to its successors, in
//! bursts; says `open N`, where N is the number it goes on after, then `sent N` as it goes and `durable N` of what is, and
//! `failed ..` of what should not be; told `pause ID`, it says `paused ID N` once all of that is visible, and stays until
//! told `close` or `go on`.
//!
//! `node-test-peer PLACE NAMESPACE check TIER FIRST [WINDOW PART]` reads from FIRST on; says `at N` (for windows `at N
//! WINDOW PART`, from where another goes on), `alarm N` when it misses heartbeats and `heard` when they come again, whatever
//! is wrong as soon as it is seen, and, told `until LAST`, its verdict in one line of JSON. Told `dawdle MICROSECONDS`, it is slow. With `damage WHAT N` instead of a window, what the checker
//! is given is broken at event N.
//!
//! `node-test-peer PLACE NAMESPACE watch VISIBLE_AT` reads what is visible from a random moment on, with nothing known of what
//! has to come, and holds it against the log; says `joined` once it hears the bus; told `end`, it says what was wrong, or nothing
//! but what it saw.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use matchtape_bus::{
    BusConfig, BusError, BusName, BusService, ConnectError, IngressConfig, RemoteOptions, RemotePublishError,
    RemotePublisher, RemoteWaitError, WakeUp,
};
use matchtape_node::{
    BusOptions, FollowedHistory, IngressOptions, Node, NodeOptions, Publish, PublishError, Publisher,
    WaitError,
};
use matchtape_schemas::{KindMask, ProducerSequence, Sequence, Stage};
use matchtape_storage::{ReadOnlyOptions, ReadOnlyStore, RealDisk};
use matchtape_subscription::check::{self, Watch};
use matchtape_subscription::{
    BusLive, Delayed, DelayedOptions, End, Filter, Historical, HistoricalOptions, Pace, RealTime,
    RealTimeOptions, Start, Subscription, Update, WindowCursor, WindowStart,
};

use checker::{Checker, Corruption, Damage, Promise};
use script::{INSIDE, OUTSIDE, Random};

mod checker;
mod script;

/// How often the node gives a sign of life. Short, so that an alarm does not cost a test a third of a second.
const HEARTBEAT: Duration = Duration::from_millis(25);

/// Longer than any node is gone.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [place, namespace, role @ ..] = arguments.as_slice() else { panic!("PLACE NAMESPACE ...") };
    let place = Path::new(place);
    match role {
        ["node", seed, buffer] => publish(place, namespace, number(seed), number(buffer) as usize),
        ["publish", seed] => {
            if let Err(wrong) = publish_from_outside(place, namespace, number(seed)) {
                say(&format!("failed: {wrong}"));
                std::process::exit(1);
            }
        }
        ["check", tier, first, resumed @ ..] => {
            let (mut cursor, mut corruption) = (None, Corruption::NONE);
            match resumed {
                [] => {}
                [window, part] => cursor = Some((window.parse().expect("a window"), number(part) as u32)),
                ["damage", what, at] => corruption = Corruption::of(damage(what), Sequence(number(at))),
                other => panic!("{other:?}"),
            }
            std::process::exit(check(place, namespace, tier, Sequence(number(first)), cursor, corruption));
        }
        ["watch", visible_at] => {
            let visible_at = match *visible_at {
                "durable" => Stage::Replicated,
                "written" => Stage::Written,
                other => panic!("{other:?}"),
            };
            std::process::exit(watch_beside(place, namespace, visible_at));
        }
        other => panic!("{other:?}"),
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("the test listens");
}

/// The lines of standard input. They end when the test does, and so does this process.
fn orders() -> Receiver<String> {
    let (sender, orders) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
        std::process::exit(2);
    });
    orders
}

/// Where subscribers poll, the log's thread itself sends what has become visible. Everybody knows it from the namespace.
fn wake_up(namespace: &str) -> WakeUp {
    if namespace.ends_with("-poll") { WakeUp::BusyPoll } else { WakeUp::Event }
}

fn bus(place: &Path, namespace: &str, buffer_samples: usize) -> BusOptions {
    let config = BusConfig {
        wake_up: wake_up(namespace),
        subscribers_max: 8,
        subscribers_spare: 8,
        buffer_samples,
        borrowed_samples: 2,
        heartbeat_interval: HEARTBEAT,
        ..BusConfig::default()
    };
    BusOptions {
        namespace: namespace.into(),
        root: Some(place.join("bus")),
        config,
        speculative: true,
        ..BusOptions::default()
    }
}

fn publish(place: &Path, namespace: &str, seed: u64, buffer: usize) {
    // Few queues: each takes as much shared memory as a bus.
    let config = IngressConfig {
        producers_max: 1,
        producers_spare: 8,
        queue_samples: 8,
        heartbeat_interval: HEARTBEAT,
        wake_up: wake_up(namespace),
    };
    let mut options = NodeOptions {
        bus: Some(bus(place, namespace, buffer)),
        ingress: Some(IngressOptions { config, ..IngressOptions::default() }),
        ring_slots: 2048,
        ..NodeOptions::default()
    };
    options.store.wal.segment_bytes = matchtape_storage::limits::SEGMENT_BYTES_MIN;
    options.store.wal.commit_bytes = matchtape_storage::limits::COMMIT_BYTES_MIN;
    options.store.memtable_bytes = 4 << 20;
    let node = Node::open(&place.join("data"), options, Vec::new()).expect("node");
    let mut producers = INSIDE.map(|producer| {
        let publisher = node.publisher(producer).expect("the only handle");
        let next = publisher.last().map_or(0, |last| last.get()) + 1;
        (publisher, next)
    });
    let orders = orders();
    let mut random = Random(seed);
    let (mut last, mut said) = (node.watermarks().visible, 0);
    say(&format!("open {last}"));
    loop {
        match orders.try_recv() {
            Ok(order) if order == "end" => {
                // What came from outside, too: where its publisher is paused, that is all of it.
                last = last.max(node.watermarks().accepted);
                node.wait(last, Stage::Visible).expect("a disk that syncs");
                say(&format!("ended {last}"));
                // Nothing more is published, heartbeats go on.
                match orders.recv().as_deref() {
                    Ok("close") => break,
                    Ok("go on") => continue,
                    other => panic!("{other:?}"),
                }
            }
            Ok(order) => panic!("{order:?}"),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return,
        }
        for _ in 0..1 + random.below(40) {
            let (publisher, next) = &mut producers[random.below(2) as usize];
            last = put_group(publisher, next);
        }
        if last.get() >= said + 250 {
            said = last.get();
            say(&format!("at {said}"));
        }
        if random.one_in(2) {
            std::thread::park_timeout(Duration::from_micros(random.below(2_000)));
        }
    }
    drop(producers);
    node.close().expect("a node that closes");
}

fn put_group(publisher: &mut Publisher, next: &mut u64) -> Sequence {
    let group = script::group(publisher.producer(), *next);
    *next += group.len() as u64;
    loop {
        match publisher.publish_group(&group) {
            Ok(published) => return published.sequence(),
            Err(PublishError::WouldBlock) => publisher.wait_for_room(group.len()).expect("the node is open"),
            Err(error) => panic!("{error}"),
        }
    }
}

fn publish_from_outside(place: &Path, namespace: &str, seed: u64) -> Result<(), String> {
    let name = bus(place, namespace, 1).name(store(place).tape()).expect("a name");
    let options = RemoteOptions { connect_wait: PATIENCE, silence_max: PATIENCE, ..RemoteOptions::default() };
    let begun = Instant::now();
    let mut publisher = loop {
        match RemotePublisher::connect(&name, OUTSIDE, options.clone()) {
            Ok(publisher) => break publisher,
            // Those that were killed before it keep their places until somebody has cleaned up behind them.
            Err(ConnectError::Bus(BusError::NoFreeSlot { .. })) if begun.elapsed() < PATIENCE / 2 => {
                std::thread::park_timeout(Duration::from_millis(10));
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    let mut last = publisher.last().map_or(0, ProducerSequence::get);
    let orders = orders();
    let mut random = Random(seed);
    let (mut said, mut durable) = (last, last);
    say(&format!("open {last}"));
    loop {
        match orders.try_recv() {
            Ok(order) => {
                let id = order.strip_prefix("pause ").ok_or(format!("{order:?}"))?;
                wait_for(&mut publisher, last, Stage::Visible)?;
                say(&format!("paused {id} {last}"));
                match orders.recv().as_deref() {
                    Ok("close") => return Ok(()),
                    Ok("go on") => {}
                    other => panic!("{other:?}"),
                }
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
        for _ in 0..1 + random.below(10) {
            last = put_group_from_outside(&mut publisher, last + 1)?;
        }
        if last >= said + 20 {
            said = last;
            say(&format!("sent {said}"));
        }
        if last >= durable + 400 {
            wait_for(&mut publisher, last, Stage::Durable)?;
            durable = last;
            say(&format!("durable {durable}"));
        }
        // Less than the producers inside, so that nobody waits for it for long and the tape does not grow for it alone.
        std::thread::park_timeout(Duration::from_micros(random.below(3_000)));
    }
}

/// Returns the number of the group's last event, once it is taken.
fn put_group_from_outside(publisher: &mut RemotePublisher, first: u64) -> Result<u64, String> {
    let group = script::group(OUTSIDE, first);
    loop {
        let outcome = match publisher.publish_group(&group) {
            Ok(_) => return Ok(first + group.len() as u64 - 1),
            Err(RemotePublishError::Refused(PublishError::WouldBlock)) => {
                publisher.wait_for_room(group.len())
            }
            Err(RemotePublishError::Refused(PublishError::Closed)) => Err(WaitError::Closed.into()),
            Err(error) => return Err(error.to_string()),
        };
        until_there_is_a_node(outcome)?;
    }
}

fn wait_for(publisher: &mut RemotePublisher, last: u64, stage: Stage) -> Result<(), String> {
    if last == 0 {
        // Nothing was published on this tape.
        return Ok(());
    }
    while let Err(error) = publisher.wait(ProducerSequence(last), stage) {
        until_there_is_a_node(Err(error))?;
    }
    Ok(())
}

/// A node that has closed is followed by another one.
fn until_there_is_a_node(outcome: Result<(), RemoteWaitError>) -> Result<(), String> {
    match outcome {
        Err(RemoteWaitError::Wait(WaitError::Closed)) => {
            std::thread::park_timeout(Duration::from_millis(1));
            Ok(())
        }
        outcome => outcome.map_err(|error| error.to_string()),
    }
}

fn store(place: &Path) -> ReadOnlyStore {
    let disk = RealDisk::open(&place.join("data")).expect("the node has made it");
    ReadOnlyStore::open(Arc::new(disk), ReadOnlyOptions::default()).expect("a tape")
}

fn check(
    place: &Path,
    namespace: &str,
    tier: &str,
    first: Sequence,
    cursor: Option<(i64, u32)>,
    corruption: Corruption,
) -> i32 {
    let history = FollowedHistory::new(store(place));
    let name = bus(place, namespace, 1).name(history.tape()).expect("a name");
    let start = Start::At(first);
    match tier {
        "live" => watch(
            real_time(history, &name, BusService::Live, start, KindMask::ALL),
            Promise::VISIBLE,
            first,
            corruption,
        ),
        "trades" => {
            let promise = Promise { kinds: KindMask::TRADES, ..Promise::VISIBLE };
            watch(
                real_time(history, &name, BusService::Live, start, KindMask::TRADES),
                promise,
                first,
                corruption,
            )
        }
        "speculative" => {
            let reader = real_time(history, &name, BusService::Speculative, start, KindMask::ALL);
            watch(reader, Promise::ACCEPTED, first, corruption)
        }
        "delayed" => {
            let start = cursor.map_or(WindowStart::From(start), |(window, part)| {
                let next_part = (part > 0).then_some(part);
                WindowStart::After(WindowCursor { window, next_part, last: first.previous() })
            });
            let options =
                DelayedOptions { start, heartbeat_interval: HEARTBEAT, ..DelayedOptions::default() };
            let live = BusLive::new(&name, BusService::Live, wake_up(namespace), Duration::ZERO);
            let promise = Promise { window_ns: options.width.as_nanos() as i64, ..Promise::VISIBLE };
            watch(Delayed::live(history, live, &options).expect("open"), promise, first, corruption)
        }
        "historical" | "paced" => {
            // Five events a millisecond of event time: at this pace the schedule lasts long enough to see it held back.
            let pace = if tier == "paced" { Pace::Times(20.0) } else { Pace::AsFastAsPossible };
            let end = End::Through(Sequence::MAX);
            let options = HistoricalOptions { start, end, pace, ..HistoricalOptions::default() };
            let reader = Historical::open(history, options).expect("open");
            // To its end at that pace would take as long as the tape took.
            let hurry = |reader: &mut Historical<_>| reader.set_pace(Pace::AsFastAsPossible).expect("a pace");
            watch_to_end(reader, Promise::VISIBLE, first, corruption, hurry)
        }
        other => panic!("{other:?}"),
    }
}

/// The exit code: 0 when all that was shown is right, and on the log.
fn watch_beside(place: &Path, namespace: &str, visible_at: Stage) -> i32 {
    let orders = orders();
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    let mut random = Random(since.as_nanos() as u64);
    std::thread::park_timeout(Duration::from_millis(random.below(50)));
    let ended = || orders.try_recv().is_ok();
    // The node may not have made its tape yet.
    let history = loop {
        let disk = RealDisk::open(&place.join("data")).ok();
        let open = |disk| ReadOnlyStore::open(Arc::new(disk), ReadOnlyOptions::default()).ok();
        match disk.and_then(open) {
            Some(store) => break FollowedHistory::new(store),
            None if ended() => {
                say("no tape");
                return 0;
            }
            None => std::thread::park_timeout(Duration::from_millis(5)),
        }
    };
    let name = bus(place, namespace, 1).name(history.tape()).expect("a name");
    let start = if random.one_in(2) { Start::Beginning } else { Start::New };
    let reader = real_time(history, &name, BusService::Live, start, KindMask::ALL);
    let promise = Promise { visible_at, ..Promise::VISIBLE };
    let judge = check::Checker::new(promise, reader.position(), ());
    let mut watch = Watch::new(reader, FollowedHistory::new(store(place)), judge);
    let mut joined = false;
    let mut tell = |update: &Update<'_>| {
        if matches!(update, Update::LiveJoined { .. }) && !std::mem::replace(&mut joined, true) {
            say("joined");
        }
    };
    while !ended() {
        watch.step(Duration::from_millis(20), &mut tell).expect("a subscription that goes on");
    }
    let settled =
        watch.settle(watch.end_by_now(), PATIENCE / 4, &mut |_| ()).expect("a log that can be read");
    let judge = watch.checker();
    let (violations, counts, next) = (judge.violations(), judge.counts(), judge.next());
    say(&format!("{start:?}, next {next}, settled {settled}, {counts:?}: {violations:?}"));
    i32::from(!(settled && judge.is_clean()))
}

fn real_time(
    history: FollowedHistory,
    name: &BusName,
    service: BusService,
    start: Start,
    kinds: KindMask,
) -> RealTime<FollowedHistory, BusLive> {
    let live = BusLive::new(name, service, wake_up(name.namespace()), Duration::from_micros(20));
    let options = RealTimeOptions { start, filter: Filter::kinds(kinds), heartbeat_interval: HEARTBEAT };
    RealTime::open(history, live, options).expect("open")
}

/// Reads and checks until told where to end; the exit code.
fn watch(reader: impl Subscription, promise: Promise, first: Sequence, corruption: Corruption) -> i32 {
    watch_to_end(reader, promise, first, corruption, |_| ())
}

/// The same; what is to be done when it is told so.
fn watch_to_end<S: Subscription>(
    mut reader: S,
    promise: Promise,
    first: Sequence,
    mut corruption: Corruption,
    end_is_known: impl Fn(&mut S),
) -> i32 {
    let orders = orders();
    let mut checker = Checker::new(promise, first);
    let (mut dawdle, mut until) = (Duration::ZERO, None);
    let (mut said, mut clean, mut silent) = (first, true, false);
    say("open");
    loop {
        while let Ok(order) = orders.try_recv() {
            match order.split(' ').collect::<Vec<_>>().as_slice() {
                ["until", last] => {
                    until = Some(Sequence(number(last)));
                    end_is_known(&mut reader);
                }
                ["dawdle", us] => dawdle = Duration::from_micros(number(us)),
                other => panic!("{other:?}"),
            }
        }
        let update = match reader.next(Duration::from_millis(5)) {
            Ok(update) => update,
            Err(error) => {
                say(&format!("failed at {}: {error:?}", checker.next()));
                return 1;
            }
        };
        let (mut resume, idle) = (None, update.is_none());
        if let Some(update) = update {
            checker.update(&update, &mut corruption);
            match update {
                Update::Window(batch) => {
                    let cursor = batch.cursor();
                    resume = Some(format!(
                        "at {} {} {}",
                        cursor.last.next(),
                        cursor.window,
                        cursor.next_part.unwrap_or(0)
                    ));
                }
                Update::Events(_) if checker.resume_at().get() >= said.get() + 250 => {
                    said = checker.resume_at();
                    resume = Some(format!("at {said}"));
                }
                Update::Alarm { missed } => {
                    silent = true;
                    resume = Some(format!("alarm {missed}"));
                }
                Update::Heartbeat { .. } if std::mem::take(&mut silent) => resume = Some("heard".into()),
                _ => {}
            }
        }
        if let Some(line) = resume {
            say(&line);
            if !dawdle.is_zero() {
                std::thread::park_timeout(dawdle);
            }
        }
        if clean && !checker.is_clean() {
            clean = false;
            say(&format!("violated {}", checker.verdict()));
        }
        // Only when nothing is left to be said: a reader of windows may have read on, with more of them to show.
        if idle
            && until.is_some_and(|last| {
                reader.position() > last && checker.resume_at() > certain_end(&promise, last)
            })
        {
            say(&format!("verdict {}", checker.verdict()));
            return i32::from(!checker.is_clean());
        }
    }
}

/// A speculative reader is done when nothing that it was shown can be taken back any more.
fn certain_end(promise: &Promise, last: Sequence) -> Sequence {
    if promise.stage == Stage::Accepted { last } else { Sequence::ZERO }
}

fn damage(what: &str) -> Damage {
    match what {
        "drop" => Damage::Drop,
        "duplicate" => Damage::Duplicate,
        "alter" => Damage::Alter,
        "reorder" => Damage::Reorder,
        "old-term" => Damage::OldTerm,
        other => panic!("{other:?}"),
    }
}
