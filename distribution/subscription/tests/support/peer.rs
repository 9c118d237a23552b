//! The process at the other end of the tests, to be killed.
//!
//! `subscription-test-peer ROOT NAMESPACE publish LAST EPOCH` publishes the frames of the common tape after LAST; told
//! `frames N` or `heartbeat`.
//! `subscription-test-peer ROOT NAMESPACE read NEXT VISIBLE` reads that tape from NEXT on, with a log through VISIBLE, and
//! says `taken FIRST LAST` for what it was given.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use matchtape_bus::{BusConfig, BusName, BusPublisher, BusService, WakeUp};
use matchtape_schemas::{Epoch, EventTime, Frame, Head, Sequence, Watermarks};
use matchtape_subscription::{
    BusLive, FrameHandle, History, HistoryError, RealTime, RealTimeOptions, Start, Subscription, Update,
};
use tape::{OwnedFrame, TAPE, all_at, trades_frame, trades_through};

mod tape;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [root, namespace, role @ ..] = arguments.as_slice() else { panic!("ROOT NAMESPACE ...") };
    let name = BusName::with_root(namespace, TAPE, Path::new(root)).expect("name");
    let number = |text: &str| text.parse::<u64>().expect("a number");
    match role {
        ["publish", last, epoch] => publish(&name, number(last), number(epoch)),
        ["read", next, visible] => read(&name, number(next), number(visible)),
        other => panic!("{other:?}"),
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("the test listens");
}

fn publish(name: &BusName, last: u64, epoch: u64) {
    let mut head = Head { epoch: Epoch(epoch), last_sequence: Sequence(last), ..Head::empty(TAPE) };
    let config = BusConfig { buffer_samples: 4, frame_bytes_max: 4096, ..BusConfig::default() };
    let mut publisher = BusPublisher::open(name, BusService::Live, &config, &head).expect("publisher");
    say("open");
    for line in std::io::stdin().lines() {
        let line = line.expect("text");
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["frames", frames] => {
                for _ in 0..frames.parse::<u64>().expect("a number") {
                    let frame = trades_frame(&mut head);
                    publisher.publish(frame.bytes(), &all_at(head.last_sequence)).expect("publish");
                }
                say(&format!("published {}", head.last_sequence));
            }
            ["heartbeat"] => {
                publisher.heartbeat(&all_at(head.last_sequence));
                say("beaten");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The log of the common tape through one event.
struct Through(u64);

struct Handle(OwnedFrame);

impl FrameHandle for Handle {
    fn frame(&self) -> Frame<'_> {
        self.0.frame()
    }
}

impl History for Through {
    type Frame = Handle;

    fn visible(&self) -> Sequence {
        Sequence(self.0)
    }

    fn progress(&self) -> (Epoch, Watermarks) {
        (Epoch::default(), Watermarks::all(self.visible()))
    }

    fn first_kept(&self) -> Sequence {
        Sequence::FIRST
    }

    fn frame_at(&mut self, from: Sequence) -> Result<Option<Handle>, HistoryError> {
        let (frames, _) = trades_through(self.0.min(from.get()));
        Ok(frames.into_iter().next_back().filter(|_| from.get() <= self.0).map(Handle))
    }

    fn first_at_time(&mut self, time: EventTime) -> Result<Option<Sequence>, HistoryError> {
        let sequence = Sequence((time.get() / 1_000_000).max(1) as u64);
        Ok(Some(sequence).filter(|sequence| sequence.get() <= self.0))
    }
}

fn read(name: &BusName, next: u64, visible: u64) {
    let live = BusLive::new(name, BusService::Live, WakeUp::Event, Duration::ZERO);
    let options = RealTimeOptions { start: Start::At(Sequence(next)), ..RealTimeOptions::default() };
    let mut reader = RealTime::open(Through(visible), live, options).expect("open");
    loop {
        match reader.next(Duration::from_secs(60)).expect("read") {
            Some(Update::Events(events)) => {
                for event in events.iter() {
                    assert_eq!(event.event_time().get(), event.sequence().get() as i64 * 1_000_000);
                }
                say(&format!("taken {} {}", events.first(), events.last()));
            }
            Some(Update::LiveJoined { .. }) => say("joined"),
            Some(_) => {}
            None => panic!("nothing for a minute"),
        }
    }
}
