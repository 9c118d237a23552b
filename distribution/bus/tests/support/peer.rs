//! The process at the other end of the tests.
//!
//! `bus-test-peer ROOT NAMESPACE publish LAST EPOCH` publishes after LAST; told `frames N COUNT`, `heartbeat`.
//! `bus-test-peer ROOT NAMESPACE subscribe NEXT UNTIL poll|event [each]` checks every event and says what it gets until
//! it has passed UNTIL; with `each` also `taken LAST` for each frame.
//! `bus-test-peer ROOT NAMESPACE budget` opens live, then speculative, each of the default size, and says how that went.
//! `bus-test-peer ROOT NAMESPACE full` opens live, fills /dev/shm, and publishes on, to itself and to one who comes later.
//! `bus-test-peer ROOT NAMESPACE producers` opens the way in, connects as many producers as there is memory for, fills
//! /dev/shm and has them publish on.
//! `bus-test-peer ROOT NAMESPACE life publisher|subscriber|both|node` opens, uses and leaves it.
//! `bus-test-peer ROOT NAMESPACE hold` is there, with a speculative publisher.
//! `bus-test-peer ROOT NAMESPACE open` says whether a subscriber can be opened.

use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use matchtape_bus::{
    BusConfig, BusError, BusName, BusPublisher, BusService, BusSubscriber, Delivery, Door, IngressConfig,
    IngressTerms, Intake, PortThread, RemoteOptions, RemotePublisher, SafeAt, SubscriberOptions, Unpublished,
    WakeUp, on_own_thread,
};
use matchtape_schemas::event::OrderCancelled;
use matchtape_schemas::publish::{ProducerMark, Publish as _};
use matchtape_schemas::{
    Epoch, Event, EventTime, InstrumentId, ProducerId, ProducerSequence, Sequence, Stage,
};
use tape::{TAPE, Tape, check_trades};

mod tape;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [root, namespace, role @ ..] = arguments.as_slice() else { panic!("ROOT NAMESPACE ...") };
    let name = BusName::with_root(namespace, TAPE, Path::new(root)).expect("name");
    let number = |text: &str| text.parse::<u64>().expect("a number");
    match role {
        ["publish", last, epoch] => publish(&name, number(last), number(epoch)),
        ["subscribe", next, until, wake_up, each @ ..] => {
            let wake_up = if *wake_up == "event" { WakeUp::Event } else { WakeUp::BusyPoll };
            subscribe(&name, number(next), number(until), wake_up, !each.is_empty());
        }
        ["budget"] => budget(&name),
        ["full"] => full(&name),
        ["producers"] => producers(&name),
        ["life", part] => life(&name, part),
        ["hold"] => {
            let config = BusConfig { buffer_samples: 4, borrowed_samples: 2, ..BusConfig::default() };
            let head = Tape::new().head;
            let _there =
                BusPublisher::open(&name, BusService::Speculative, &config, &head).expect("publisher");
            say("open");
            // Until the test is done with it.
            let _ = std::io::stdin().lines().count();
        }
        ["open"] => match BusSubscriber::open(&name, BusService::Live, &SubscriberOptions::default()) {
            Ok(_) => say("open"),
            Err(error) => say(&format!("{error:?} | {error}")),
        },
        other => panic!("{other:?}"),
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("the test listens");
}

fn publish(name: &BusName, last: u64, epoch: u64) {
    let config = BusConfig {
        buffer_samples: 4,
        borrowed_samples: 2,
        frame_bytes_max: 16 * 1024,
        ..BusConfig::default()
    };
    let mut tape = Tape::after(last, epoch);
    let mut publisher = match BusPublisher::open(name, BusService::Live, &config, &tape.head) {
        Ok(publisher) => publisher,
        Err(error) => return say(&format!("{error:?}")),
    };
    say("open");
    for line in std::io::stdin().lines() {
        let line = line.expect("text");
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["frames", frames, count] => {
                for _ in 0..frames.parse::<u64>().expect("a number") {
                    let frame = tape.trades(count.parse().expect("a number")).to_vec();
                    publisher.publish(&frame, &tape.watermarks()).expect("publish");
                }
                say(&format!("published {}", tape.head.last_sequence));
            }
            ["heartbeat"] => {
                let receivers = publisher.heartbeat(&tape.watermarks());
                say(&format!("heartbeat {receivers}"));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// One life, on one thread.
fn life(name: &BusName, part: &str) {
    let tape = Tape::new();
    let config = BusConfig { buffer_samples: 4, borrowed_samples: 2, ..BusConfig::default() };
    if part == "node" {
        let terms = IngressTerms {
            epoch: Epoch(1),
            skew_ns_max: 0,
            group_events_max: 8,
            group_bytes_max: 4096,
            safe_at: SafeAt::Durable,
        };
        let mut node = Intake::<()>::open(name, &IngressConfig::default(), &terms).expect("intake");
        node.reply(&tape.watermarks(), None, true).expect("reply");
        drop(node);
        return say("done");
    }
    let mut publisher = (part != "subscriber")
        .then(|| BusPublisher::open(name, BusService::Live, &config, &tape.head).expect("publisher"));
    let mut subscriber = (part != "publisher").then(|| {
        BusSubscriber::open(name, BusService::Live, &SubscriberOptions::default()).expect("subscriber")
    });
    if let Some(publisher) = &mut publisher {
        publisher.heartbeat(&tape.watermarks());
    }
    if let Some(subscriber) = &mut subscriber {
        let _ = subscriber.poll().expect("poll");
    }
    drop((subscriber, publisher));
    say("done");
}

fn budget(name: &BusName) {
    let head = Tape::new().head;
    let open = |service| BusPublisher::open(name, service, &BusConfig::default(), &head);
    let live = open(BusService::Live);
    say(&live.as_ref().map_or_else(|error| format!("{error}"), |_| "open".into()));
    let speculative = open(BusService::Speculative);
    say(&speculative.as_ref().map_or_else(|error| format!("{error}"), |_| "open".into()));
}

fn full(name: &BusName) {
    let config = BusConfig { buffer_samples: 4, borrowed_samples: 2, ..BusConfig::default() };
    let mut tape = Tape::new();
    let mut publisher = BusPublisher::open(name, BusService::Live, &config, &tape.head).expect("publisher");
    let options = SubscriberOptions { next: Some(Sequence(1)), ..SubscriberOptions::default() };
    let mut early = BusSubscriber::open(name, BusService::Live, &options).expect("subscriber");
    publisher.heartbeat(&tape.watermarks());
    assert!(early.poll().expect("poll").is_some());
    fill_shared_memory();
    let mut publish = |publisher: &mut BusPublisher, early: &mut BusSubscriber| {
        for _ in 0..300 {
            let frame = tape.trades(100).to_vec();
            publisher.publish(&frame, &tape.watermarks()).expect("publish");
            match early.poll().expect("poll") {
                Some(Delivery::Frame(frame)) => check_trades(&frame.frame()),
                other => panic!("{other:?}"),
            }
        }
    };
    publish(&mut publisher, &mut early);
    say("published");
    match BusSubscriber::open(name, BusService::Live, &options) {
        Ok(_) => say("joined"),
        Err(error) => say(&format!("{error}")),
    }
    publish(&mut publisher, &mut early);
    say(&format!("published, {} broken", publisher.counters().broken_connections));
}

/// Until not a page is left.
fn fill_shared_memory() {
    let mut filler = std::fs::File::create("/dev/shm/filler").expect("filler");
    let block = vec![1_u8; 1 << 16];
    let mut filled = 0_u64;
    let why = loop {
        // Byte by byte at the end.
        let size = if filled == 0 { block.len() } else { 1 };
        match filler.write_all(&block[..size]) {
            Ok(()) => filled += u64::from(size == 1),
            Err(error) if size == 1 => break error,
            Err(_) => filled = 1,
        }
    };
    say(&format!("full {:?}", why.kind()));
}

/// A node that takes every event, for as long as `stopped` has another end.
fn take_in(name: &BusName, stopped: Receiver<()>) -> Result<PortThread<()>, BusError> {
    let (name, config) = (name.clone(), IngressConfig::default());
    let terms = IngressTerms {
        epoch: Epoch(1),
        skew_ns_max: 0,
        group_events_max: 8,
        group_bytes_max: 4096,
        safe_at: SafeAt::Durable,
    };
    on_own_thread(
        "node",
        None,
        move || Intake::open(&name, &config, &terms),
        move |mut node| {
            let mut door = Taker(0);
            while stopped.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout) {
                node.receive(&mut door).expect("receive");
                node.reply(&tape::all_at(Sequence(door.0)), None, true).expect("reply");
            }
        },
    )
}

struct Taker(u64);

impl Door for Taker {
    type Writer = ();

    fn open(&mut self, _: ProducerId) -> Result<((), Option<ProducerMark>), u32> {
        Ok(((), None))
    }

    fn publish(&mut self, (): &mut (), group: &[u8], events: usize) -> Result<ProducerMark, Unpublished> {
        self.0 += events as u64;
        let number = u64::from_le_bytes(group[16..24].try_into().expect("eight bytes"));
        Ok(ProducerMark { producer_sequence: ProducerSequence(number), sequence: Sequence(self.0) })
    }
}

fn producers(name: &BusName) {
    let (stop, stopped) = channel();
    let node = match take_in(name, stopped) {
        Ok(node) => node,
        Err(error) => return say(&format!("{error}")),
    };
    let connect = |number| RemotePublisher::connect(name, ProducerId(number), RemoteOptions::default());
    let mut connected = Vec::new();
    let refused = loop {
        match connect(connected.len() as u32 + 1) {
            Ok(producer) => connected.push(producer),
            Err(error) => break error,
        }
    };
    say(&format!("connected {}", connected.len()));
    say(&format!("{refused}"));
    fill_shared_memory();
    for number in 1..=300 {
        for producer in &mut connected {
            let body = OrderCancelled::default();
            let event = Event::new(InstrumentId(1), ProducerSequence(number), EventTime(0), body);
            let taken = producer.publish(&event).expect("publish");
            producer.wait(taken.last(), Stage::Durable).expect("durable");
        }
    }
    say("published");
    match connect(100) {
        Ok(_) => say("joined"),
        Err(error) => say(&format!("{error}")),
    }
    drop((connected, stop));
    node.join().expect("node");
}

fn subscribe(name: &BusName, next: u64, until: u64, wake_up: WakeUp, each: bool) {
    let options = SubscriberOptions { next: Some(Sequence(next)), wake_up, ..SubscriberOptions::default() };
    let mut subscriber = loop {
        match BusSubscriber::open(name, BusService::Live, &options) {
            Ok(subscriber) => break subscriber,
            Err(BusError::NotFound { .. } | BusError::Busy { .. }) => std::thread::yield_now(),
            Err(error) => return say(&format!("{error:?}")),
        }
    };
    say("open");
    let (mut events, mut heard) = (0, false);
    while subscriber.next().expect("given") <= Sequence(until) {
        match subscriber.poll().expect("poll") {
            None => {
                subscriber.wait(Duration::from_millis(100)).expect("wait");
            }
            Some(Delivery::Frame(frame)) => {
                check_trades(&frame.frame());
                let last = frame.frame().last_sequence();
                events += last.get() - frame.first_new().get() + 1;
                if each {
                    say(&format!("taken {last}"));
                }
            }
            Some(Delivery::Heartbeat { .. }) => {
                // The first is the sign that the publisher knows this subscriber.
                if !heard {
                    say("heartbeat");
                    heard = true;
                }
            }
            Some(Delivery::Gap { expected, found }) => say(&format!("gap {expected} {found}")),
            Some(Delivery::Retract { first, last, .. }) => say(&format!("retract {first} {last}")),
            Some(Delivery::PublisherRestarted { epoch }) => say(&format!("restarted {epoch}")),
        }
    }
    let counters = subscriber.counters();
    say(&format!(
        "done next={} events={events} missed={}",
        subscriber.next().expect("given"),
        counters.missed
    ));
}
