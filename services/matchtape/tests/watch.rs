//! `matchtape watch` itself: a bus that tells another tape than the log is noticed whatever its mistake, and a judge that stood
//! still has missed nothing.

mod shared_memory;
mod shown;
mod watched;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use matchtape_bus::{BusConfig, BusName, BusPublisher, BusService};
use matchtape_node::{BusOptions, Node, NodeOptions, PublishError, Publisher};
use matchtape_schemas::event::OrderAccepted;
use matchtape_schemas::{
    Epoch, Event, EventTime, Frame, FrameFlags, FrameWriter, Head, InstrumentId, OrderId, ProducerId,
    ProducerSequence, Sequence, Stage, Watermarks,
};
use rkyv::util::AlignedVec;
use rustix::process::Signal;
use serde_json::Value;
use shared_memory::Namespace;
use tempfile::TempDir;
use watched::Watched;

/// A tape, and a bus that its node does not know of.
struct Place {
    folder: TempDir,
    namespace: Namespace,
    node: Node,
    publisher: Publisher,
    /// The last that was published.
    last: Sequence,
}

fn options(bus: Option<BusOptions>) -> NodeOptions {
    let mut options = NodeOptions { bus, ..NodeOptions::default() };
    options.store.wal.segment_bytes = 4 << 20;
    options
}

impl Place {
    fn new(bus: bool) -> Self {
        let (folder, namespace) = (tempfile::tempdir().unwrap(), Namespace::new("watch"));
        let bus = bus.then(|| BusOptions {
            namespace: namespace.as_str().to_owned(),
            root: Some(folder.path().join("bus")),
            config: Self::config(),
            speculative: true,
            ..BusOptions::default()
        });
        let node = Node::open(&folder.path().join("tape"), options(bus), Vec::new()).unwrap();
        let publisher = node.publisher(ProducerId(1)).unwrap();
        let mut place = Self { folder, namespace, node, publisher, last: Sequence::ZERO };
        for number in 1..=20 {
            place.put(number);
        }
        place
    }

    /// Few places, so that who stands still is outrun.
    fn config() -> BusConfig {
        BusConfig { subscribers_max: 2, buffer_samples: 4, ..BusConfig::default() }
    }

    /// An order, visible.
    fn put(&mut self, number: u64) -> Sequence {
        let last = self.put_quickly(number);
        self.node.wait(last, Stage::Visible).unwrap();
        last
    }

    fn put_quickly(&mut self, number: u64) -> Sequence {
        let body = OrderAccepted { order_id: OrderId(number), ..OrderAccepted::default() };
        let event = Event::new(InstrumentId(1), ProducerSequence(number), EventTime(number as i64), body);
        loop {
            match self.publisher.publish(&event) {
                Ok(published) => {
                    self.last = published.sequence();
                    return self.last;
                }
                Err(PublishError::WouldBlock) => self.publisher.wait_for_room(1).unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn tape(&self) -> PathBuf {
        self.folder.path().join("tape")
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("bus")
    }

    fn watch(&self, args: &[&str]) -> Watched {
        Watched::with(&self.tape(), &self.namespace, &self.root(), args)
    }

    fn close(self) {
        drop(self.publisher);
        self.node.close().unwrap();
    }
}

/// What a bus does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// One bit of one event, in a frame whose checksum is right.
    Bit,
    /// An event under a term that never began.
    Term,
    /// An event before it is visible.
    Early,
    /// A watermark that is ahead of the stage before it.
    Watermarks,
    /// An accepted event that the log never comes to have, and nobody takes back.
    Phantom,
    /// It gives nothing more, and says nothing of it.
    Withheld,
}

/// The one event behind `head`, as a frame that is whole and sound.
fn frame(head: &Head, log: Frame<'_>, mistake: Mistake) -> Vec<u8> {
    let event = log.events().next().unwrap();
    let mut head = *head;
    if mistake == Mistake::Term {
        head.epoch = Epoch(head.epoch.get() + 1);
    }
    let mut bytes = event.bytes().to_vec();
    if matches!(mistake, Mistake::Bit | Mistake::Phantom) {
        // Of the order's number: still an order, but another one.
        bytes[32] ^= 1;
    }
    let mut aligned: AlignedVec<16> = AlignedVec::new();
    aligned.extend_from_slice(&bytes);
    let mut memory: AlignedVec<16> = AlignedVec::new();
    memory.resize(64 * 1024, 0);
    let mut writer = FrameWriter::new(&mut memory, &head);
    assert!(writer.push(&aligned));
    let length = writer.finish(&mut head, log.header().accepted_time, FrameFlags::NONE).length;
    memory[..length as usize].to_vec()
}

/// Beside a judge, a bus publishes what becomes visible, with one mistake. The judge's exit code and verdict.
fn judged(mistake: Mistake) -> (Option<i32>, Value) {
    let mut place = Place::new(false);
    let name = BusName::with_root(place.namespace.as_str(), place.node.tape(), &place.root()).unwrap();
    let head = |node: &Node| {
        let mut frames = node.reader().frames(Sequence::FIRST).unwrap();
        let mut head = Head::empty(node.tape());
        while let Some(frame) = frames.next_frame().unwrap() {
            head = frame.frame().header().head();
        }
        head
    };
    let before = head(&place.node);
    let speculative = mistake == Mistake::Phantom;
    let service = if speculative { BusService::Speculative } else { BusService::Live };
    // Its only signs of life are those that it is told to give: nobody is missed.
    let config = BusConfig { heartbeat_interval: Duration::from_secs(60), ..Place::config() };
    let mut bus = BusPublisher::open(&name, service, &config, &before).unwrap();
    let args = ["--from", "beginning", "--patience", "1s", "--speculative"];
    let watch = place.watch(match mistake {
        Mistake::Phantom => &args,
        Mistake::Withheld => &args[..4],
        _ => &args[..2],
    });
    // It joins when it hears that the bus goes on where the log ends.
    let all_at = |sequence| Watermarks::all(sequence);
    let begun = Instant::now();
    while !watch.has_said("live from sequence 22 on") {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not join");
        bus.heartbeat(&all_at(before.last_sequence));
        std::thread::park_timeout(Duration::from_millis(10));
    }
    for number in 21..=25 {
        let last = place.put(number);
        if mistake == Mistake::Withheld && number >= 23 {
            continue;
        }
        let mistake = if number == 23 { mistake } else { Mistake::None };
        let mut frames = place.node.reader().frames(last).unwrap();
        let logged = frames.next_frame().unwrap().unwrap();
        let logged = logged.frame();
        let mut watermarks = all_at(last);
        match mistake {
            Mistake::Early => watermarks.visible = last.previous(),
            Mistake::Watermarks => watermarks.durable = last.previous(),
            Mistake::None | Mistake::Bit | Mistake::Term | Mistake::Phantom | Mistake::Withheld => {}
        }
        if speculative {
            watermarks = Watermarks { accepted: last, written: last, ..all_at(before.last_sequence) };
        }
        let bytes = match mistake {
            Mistake::Bit | Mistake::Term | Mistake::Phantom => frame(&head_before(logged), logged, mistake),
            Mistake::None | Mistake::Early | Mistake::Watermarks | Mistake::Withheld => {
                logged.bytes().to_vec()
            }
        };
        // A term that it has seen is the least that it takes: a mistake about it is the last thing that it says.
        bus.publish(&bytes, &watermarks).unwrap();
        if mistake == Mistake::Term {
            break;
        }
    }
    // Told to end now, it has to come to there.
    shown::until_shown(&place.tape(), place.last);
    let outcome = watch.stop();
    drop(bus);
    place.close();
    outcome
}

/// Where the tape stands before a frame of one event.
fn head_before(frame: Frame<'_>) -> Head {
    let header = frame.header();
    Head {
        last_sequence: header.first_sequence.previous(),
        checksum: header.previous_checksum,
        ..header.head()
    }
}

#[test]
fn a_bus_that_makes_any_mistake_ends_the_judge_with_a_verdict_that_says_so() {
    for (mistake, word) in [
        (Mistake::None, ""),
        (Mistake::Bit, "not the log's: event 24 was shown with"),
        (Mistake::Term, "not the log's: event 24 was shown of epoch 2"),
        (Mistake::Early, "events through 24 are labelled visible, which is at 23"),
        (Mistake::Watermarks, "watermarks contradict each other"),
        (Mistake::Phantom, "never retracted: not the log's: event 24"),
    ] {
        let (code, verdict) = judged(mistake);
        let found = verdict["found"].as_array().expect("what is wrong");
        if mistake == Mistake::None {
            assert_eq!((code, &verdict["verdict"]), (Some(0), &"clean".into()), "{verdict}");
            assert_eq!((&verdict["events"], &verdict["compared"]), (&26.into(), &26.into()), "{verdict}");
            assert_eq!(verdict["live"], 5, "{verdict}");
            continue;
        }
        assert_eq!((code, &verdict["verdict"]), (Some(1), &"violated".into()), "{mistake:?}: {verdict}");
        let said = found.iter().any(|one| one.as_str().is_some_and(|one| one.starts_with(word)));
        assert!(said, "{mistake:?}: {verdict}");
    }
}

#[test]
fn a_judge_that_did_not_come_to_where_the_tape_is_says_so() {
    let (code, verdict) = judged(Mistake::Withheld);
    assert_eq!((code, &verdict["verdict"]), (Some(1), &"incomplete".into()), "{verdict}");
    let missing = verdict["missing"].as_str().unwrap_or_default();
    assert!(missing.starts_with("shown through 23, the tape is at 26"), "{verdict}");
}

#[test]
fn a_judge_that_stood_still_is_outrun_and_misses_nothing() {
    let mut place = Place::new(true);
    for args in [&["--from", "new"][..], &["--from", "beginning", "--speculative"]] {
        let mut watch = place.watch(args);
        watch.wait_for("live from sequence", 1);
        watch.signal(Signal::STOP);
        let begun = place.publisher.last().unwrap().get();
        let mut last = Sequence::ZERO;
        // Each visible, and so a frame of its own, until its buffer has run over several times.
        for number in begun + 1..=begun + 40 {
            last = place.put(number);
        }
        for number in begun + 41..=begun + 4000 {
            last = place.put_quickly(number);
        }
        place.node.wait(last, Stage::Visible).unwrap();
        watch.signal(Signal::CONT);
        watch.wait_for("caught up at sequence", 1);
        shown::until_shown(&place.tape(), last);
        let verdict = watch.ends_clean();
        assert!(verdict["lagging"].as_u64() > Some(0), "{verdict}");
        assert_eq!(verdict["last_sequence"], last.get(), "{verdict}");
        assert!(verdict["compared"].as_u64() >= verdict["events"].as_u64(), "{verdict}");
    }
    place.close();
}

#[test]
fn a_judge_that_hears_no_bus_or_is_told_where_to_end_says_what_it_judged() {
    let place = Place::new(false);
    std::fs::create_dir(place.root()).unwrap();
    let (code, verdict) = place.watch(&["--from", "beginning", "--duration", "1s"]).ended();
    assert_eq!((code, &verdict["verdict"]), (Some(1), &"incomplete".into()), "{verdict}");
    let (code, verdict) = place.watch(&["--from", "beginning", "--through", "5"]).ended();
    assert_eq!((code, &verdict["verdict"], &verdict["live"]), (Some(1), &"incomplete".into(), &0.into()));
    assert!(verdict["compared"].as_u64() >= Some(5), "{verdict}");
    let output = Command::new(env!("CARGO_BIN_EXE_matchtape"))
        .args(["watch", "--bus-root", "/nowhere", "--data"])
        .arg(place.tape())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("there is no such folder"), "{said}");
    place.close();

    let mut place = Place::new(true);
    let through = place.last.next().next();
    let watch = place.watch(&["--through", &through.get().to_string()]);
    watch.wait_for("live from sequence", 1);
    place.put(21);
    place.put(22);
    let (code, verdict) = watch.ended();
    assert_eq!((code, &verdict["verdict"], &verdict["live"]), (Some(0), &"clean".into(), &2.into()));
    place.close();
}
