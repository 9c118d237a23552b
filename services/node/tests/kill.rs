//! `kill -9` on a real disk, again and again: nothing acknowledged is lost, nothing is doubled, no group is torn.
//!
//! The child process is this test binary itself. Another one judges every event on the bus, and outlives them all. Each round it recovers the tape, checks all of it against what its
//! predecessors had acknowledged, publishes from several threads through flushes and rotations, and is killed
//! at a random moment, also in the midst of recovery. `MATCHTAPE_NODE_KILLS` says how often (default 200; 10 000 take about
//! half an hour), `MATCHTAPE_NODE_KILL_SEED` repeats the moments of a run.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use matchtape_node::{Node, NodeOptions, PublishError, PublishError::WouldBlock, Publisher};
use matchtape_schemas::event::{Event, EventFlags, OrderAccepted};
use matchtape_schemas::{
    AccountId, EventTime, InstrumentId, Kind, OrderId, ProducerId, ProducerSequence, Quantity, Sequence,
    Stage,
};
use matchtape_storage::sim::Random;
use matchtape_storage::{EventStore, limits};
use support::place::{self, Place};

const PRODUCERS: u32 = 3;
/// Rounds on one tape: each begins by reading all of it.
const ROUNDS_PER_TAPE: u64 = 20;

/// What the child is told: where the tape and its bus are, the bus's namespace, and what was acknowledged to each producer.
const CHILD: &str = "MATCHTAPE_NODE_KILL_CHILD";
const NAMESPACE: &str = "MATCHTAPE_NODE_KILL_NAMESPACE";
const ACKNOWLEDGED: &str = "MATCHTAPE_NODE_KILL_ACKNOWLEDGED";

/// The group that the event of this number belongs to: its first event and how many it has.
fn group_of(number: u64) -> (u64, u64) {
    // Groups of 1, 2, .. 7, 1, 2, ..
    let mut first = (number - 1) / 28 * 28 + 1;
    for events in 1..=7 {
        if number < first + events {
            return (first, events);
        }
        first += events;
    }
    unreachable!("28 is 1 + 2 + .. + 7")
}

fn event(producer: u32, number: u64) -> Event {
    let body = OrderAccepted {
        order_id: OrderId(number),
        account: AccountId(u64::from(producer)),
        quantity: Quantity::from_units(number ^ 0x5555),
        ..OrderAccepted::default()
    };
    let instrument = InstrumentId(1 + (number % 5) as u32);
    Event::new(
        instrument,
        ProducerSequence(number),
        EventTime(1_700_000_000_000_000_000 + number as i64),
        body,
    )
}

fn options(folder: &Path, namespace: &str) -> NodeOptions {
    let mut options = NodeOptions { ingress: None, ..place::options(folder, namespace) };
    options.store.memtable_bytes = 512 << 10;
    options.store.wal.segment_bytes = limits::SEGMENT_BYTES_MIN;
    options.store.wal.commit_bytes = limits::COMMIT_BYTES_MIN;
    options
}

/// Reads the whole tape: each producer's events are there from the first on, in order, once, as published, in whole
/// groups; and everything acknowledged is among them. Returns how many each producer has.
fn check(node: &Node, acknowledged: &BTreeMap<u32, u64>) -> BTreeMap<u32, u64> {
    let mut found: BTreeMap<u32, u64> = (1..=PRODUCERS).map(|producer| (producer, 0)).collect();
    let mut frames = node.reader().frames(Sequence::FIRST).unwrap();
    let mut next = Sequence::FIRST;
    while let Some(frame) = frames.next_frame().unwrap() {
        for read in frame.frame().events() {
            assert_eq!(read.sequence(), next);
            next = next.next();
            if read.kind() == Kind::EpochStarted {
                continue;
            }
            let producer = read.header().producer.0;
            let number = found.get_mut(&producer).expect("a producer of this test");
            *number += 1;
            let mut expected = event(producer, *number);
            expected.flags = read.header().flags;
            assert_eq!(read.to_event(), expected);
            let (first, events) = group_of(*number);
            assert_eq!(
                read.header().flags.contains(EventFlags::LAST_OF_GROUP),
                *number == first + events - 1
            );
        }
    }
    assert_eq!(next, node.reader().visible().next());
    for (producer, number) in &found {
        let promised = acknowledged.get(producer).copied().unwrap_or(0);
        assert!(*number >= promised, "producer {producer}: {promised} acknowledged, {number} recovered");
        if *number > 0 {
            let (first, events) = group_of(*number);
            assert_eq!(*number, first + events - 1, "producer {producer}: a torn group");
        }
    }
    found
}

/// Publishes until killed; says what is durable.
fn publish(node: &Node, mut publisher: Publisher, mut number: u64, out: &Mutex<std::io::Stdout>) -> ! {
    let producer = publisher.producer().0;
    loop {
        let (first, events) = group_of(number + 1);
        assert_eq!(first, number + 1);
        let group: Vec<Event> = (first..first + events).map(|number| event(producer, number)).collect();
        let published = loop {
            match publisher.publish_group(&group) {
                Ok(published) => break published,
                Err(WouldBlock) => publisher.wait_for_room(group.len()).unwrap(),
                Err(PublishError::Poisoned) => panic!("the disk failed"),
                Err(error) => panic!("{error}"),
            }
        };
        number += events;
        // Now and then it waits; in between the ring and the commits fill.
        if number.is_multiple_of(16) || producer == 1 {
            node.wait(published.sequence(), Stage::Durable).unwrap();
            let mut out = out.lock().unwrap();
            writeln!(out, "{producer} {number}").and_then(|()| out.flush()).expect("the parent listens");
        }
    }
}

/// Runs only as the child of the test below.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let (folder, namespace) = (Path::new(&folder), std::env::var(NAMESPACE).unwrap());
    let acknowledged: BTreeMap<u32, u64> =
        serde_json::from_str(&std::env::var(ACKNOWLEDGED).unwrap()).unwrap();
    let node = Node::open(&folder.join("data"), options(folder, &namespace), Vec::new()).unwrap();
    let found = check(&node, &acknowledged);
    let out = Mutex::new(std::io::stdout());
    writeln!(out.lock().unwrap(), "ready").unwrap();
    std::thread::scope(|scope| {
        for (producer, number) in &found {
            let publisher = node.publisher(ProducerId(*producer)).unwrap();
            assert_eq!(publisher.last().map_or(0, |last| last.get()), *number);
            let (node, out) = (&node, &out);
            scope.spawn(move || publish(node, publisher, *number, out));
        }
    });
}

fn spawn(place: &Place, acknowledged: &BTreeMap<u32, u64>) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, place.folder.path())
        .env(NAMESPACE, &place.namespace)
        .env(ACKNOWLEDGED, serde_json::to_string(acknowledged).unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Notes what the child says until it says no more; at `ready` the clock for its killing starts.
fn listen(out: ChildStdout, acknowledged: &mut BTreeMap<u32, u64>, ready: &std::sync::mpsc::Sender<()>) {
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        if line.contains("ready") {
            let _ = ready.send(());
        } else if let Some((producer, number)) = line.split_once(' ')
            && let (Ok(producer), Ok(number)) = (producer.parse(), number.parse())
        {
            acknowledged.insert(producer, number);
        }
    }
}

#[test]
fn a_node_killed_at_random_moments_loses_nothing_acknowledged_and_doubles_nothing() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let kills = number("MATCHTAPE_NODE_KILLS").unwrap_or(200);
    let seed = number("MATCHTAPE_NODE_KILL_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("MATCHTAPE_NODE_KILL_SEED={seed}");
    let mut random = Random::new(seed);
    let (mut place, mut acknowledged) = (Place::new("kill"), BTreeMap::new());
    let (mut in_recovery, mut flushed, mut total) = (0, 0, 0);
    let mut recovery = Duration::from_millis(20);
    for kill in 0..kills {
        if kill > 0 && kill % ROUNDS_PER_TAPE == 0 {
            (place, acknowledged) = (Place::new("kill"), BTreeMap::new());
        }
        let begun = Instant::now();
        let mut child = spawn(&place, &acknowledged);
        let out = child.stdout.take().unwrap();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let listening = std::thread::spawn(move || {
            listen(out, &mut acknowledged, &ready);
            acknowledged
        });
        // One in five is killed while it recovers or checks, unless it is faster than the last time.
        let moment = Duration::from_micros(random.below(recovery.as_micros() as u64 + 1));
        let early = random.below(5) == 0;
        let waited = if early { is_ready.recv_timeout(moment).ok() } else { is_ready.recv().ok() };
        if waited.is_some() {
            recovery = begun.elapsed();
            // The moment is what is being drawn, so here time itself is the subject.
            std::thread::sleep(Duration::from_micros(random.below(60_000)));
        } else {
            in_recovery += u64::from(early);
        }
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        let end = child.wait_with_output().unwrap();
        acknowledged = listening.join().unwrap();
        let said = String::from_utf8_lossy(&end.stderr);
        assert_eq!(ended, None, "kill {kill}, seed {seed}: the child ended by itself: {said}");
        if (kill + 1) % ROUNDS_PER_TAPE == 0 || kill + 1 == kills {
            let tape = place.folder.path().join("data");
            let options = options(place.folder.path(), &place.namespace);
            let node = Node::open(&tape, options.clone(), Vec::new()).unwrap();
            let found = check(&node, &acknowledged);
            total += found.values().sum::<u64>();
            place.watched.joins();
            node.close().unwrap();
            flushed += verify(&tape, options);
        }
    }
    eprintln!(
        "{kills} kills, {in_recovery} during recovery; {total} events, {flushed} event tables at the ends"
    );
    assert!(kills < ROUNDS_PER_TAPE || flushed > 0, "no round flushed");
}

/// Everything on disk checks, with every index rebuilt and compared. Returns how many event tables there are.
fn verify(tape: &Path, options: NodeOptions) -> usize {
    let disk = std::sync::Arc::new(matchtape_storage::RealDisk::open(tape).unwrap());
    let (store, _) = EventStore::open(disk, options.store, Vec::new()).unwrap();
    let report = store.verify(&mut |_| {}).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
    store.inspect().event_tables.len()
}
