//! Sealing on demand: what was accepted is in a sealed segment, by a frame that says so, and nothing is added without need.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use matchtape_node::{Node, SealError, SealReport};
use matchtape_schemas::event::EventFlags;
use matchtape_schemas::{EventTime, FrameFlags, Kind, ProducerId, Sequence, Stage};
use matchtape_storage::sim::SimDisk;
use matchtape_storage::{Disk, ReadOnlyOptions, ReadOnlyStore};
use support::{open, order, put};

const PATIENCE: Duration = Duration::from_secs(30);

fn seal(node: &Node) -> SealReport {
    node.sealer().seal(PATIENCE).expect("sealed")
}

/// Publishes the orders `numbers` and waits for them; the last one's position.
fn publish(node: &Node, numbers: std::ops::Range<u64>) -> Sequence {
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    let last = numbers.map(|number| put(&mut publisher, &order(number)).sequence()).last().unwrap();
    node.wait(last, Stage::Visible).unwrap();
    last
}

/// Kind, event time and flags of the last event.
fn last_event(node: &Node) -> (Sequence, Kind, EventTime, EventFlags) {
    let last = node.watermarks().accepted;
    node.wait(last, Stage::Visible).unwrap();
    let event = node.reader().event(last).unwrap().expect("visible");
    let header = event.event().header();
    (last, header.kind, header.event_time, header.flags)
}

#[test]
fn a_tape_is_sealed_by_one_event_that_says_nothing_new_and_once() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    let node = open(&disk);
    let empty = seal(&node);
    assert_eq!((empty.sealed, empty.through, empty.segment), (false, Sequence::ZERO, None));
    assert_eq!(node.watermarks().accepted, Sequence::ZERO, "an empty tape stays empty");

    let last = publish(&node, 1..6);
    let sealed = seal(&node);
    let facts = sealed.segment.expect("just sealed");
    assert!(sealed.sealed && sealed.through == last.next(), "{sealed:?}");
    assert_eq!((facts.first, facts.last), (Sequence::FIRST, last.next()));
    // Of the last order's time: nothing that comes later is late for it.
    let (at, kind, time, flags) = last_event(&node);
    assert_eq!((at, kind, time), (last.next(), Kind::TimeAdvanced, order(5).event_time));
    assert_eq!(flags, EventFlags::LAST_OF_GROUP);
    assert_eq!(seal(&node), SealReport { sealed: false, ..sealed });
    assert_eq!(node.watermarks().accepted, at, "nothing is added to what is sealed");

    // Opened again with nothing in the open segment there is nothing to do; else the term's start is the last event.
    node.close().unwrap();
    let node = open(&disk);
    assert!(!seal(&node).sealed);
    let last = publish(&node, 6..8);
    node.close().unwrap();
    let node = open(&disk);
    let sealed = seal(&node);
    assert!(sealed.sealed && sealed.through == last.next(), "{sealed:?}");
    assert_eq!(last_event(&node).1, Kind::EpochStarted);
    let facts = node.store().segment_facts();
    assert_eq!(facts.iter().map(|facts| facts.number.0).collect::<Vec<_>>(), [1, 2]);

    // By a frame, and what reads beside the writer sees the same.
    let reading = ReadOnlyStore::open(Arc::clone(&disk), ReadOnlyOptions::default()).unwrap();
    assert_eq!(reading.segment_facts().unwrap(), facts);
    let mut frames = reading.reader().frames(Sequence::FIRST).unwrap();
    let mut ends = Vec::new();
    while let Some(frame) = frames.next_frame().unwrap() {
        let header = *frame.frame().header();
        if header.flags.contains(FrameFlags::ENDS_SEGMENT) {
            ends.push(header.last_sequence());
        }
    }
    assert_eq!(ends, facts.iter().map(|facts| facts.last).collect::<Vec<_>>());
    node.close().unwrap();
}

#[test]
fn under_a_load_each_one_who_asks_finds_all_that_was_accepted_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::open(folder.path(), support::small(), Vec::new()).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let node = &node;
        let stop = &stop;
        let publishing = scope.spawn(move || {
            let mut publisher = node.publisher(ProducerId(1)).unwrap();
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                // With pauses now and then, in which a tape is as idle as it gets.
                if number % 500 == 0 {
                    node.wait(publisher.accepted().unwrap().sequence, Stage::Visible).unwrap();
                }
                put(&mut publisher, &order(number));
            }
            number
        });
        let asking: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(move || {
                    let mut sealed = Sequence::ZERO;
                    for _ in 0..30 {
                        // Something has come since, so that each one is another segment.
                        node.wait(sealed.next(), Stage::Accepted).unwrap();
                        let accepted = node.watermarks().accepted;
                        let report = seal(node);
                        assert!(report.through >= accepted, "{report:?} before {accepted}");
                        sealed = report.through;
                    }
                })
            })
            .collect();
        let asked: Vec<_> = asking.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(publishing.join().unwrap() > 0);
        asked.into_iter().for_each(|asked| asked.unwrap());
    });
    assert!(node.store().segment_facts().len() >= 30);
    node.store().flush().unwrap();
    let report = node.store().verify(&mut |_| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
    node.close().unwrap();
}

#[test]
fn what_was_not_in_a_frame_yet_when_it_was_asked_is_sealed_too() {
    let node = open(&(Arc::new(SimDisk::new(1)) as Arc<dyn Disk>));
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    let mut numbers = 1..;
    for _ in 0..20 {
        // More than one frame of them; nothing comes after these, so that no later frame makes up for it.
        let mut accepted = Sequence::ZERO;
        for number in numbers.by_ref().take(1000) {
            accepted = put(&mut publisher, &order(number)).sequence();
        }
        let report = seal(&node);
        assert!(report.sealed && report.through >= accepted, "{report:?} before {accepted}");
    }
    drop(publisher);
    node.close().unwrap();
}

#[test]
fn without_room_for_the_next_segment_nothing_is_sealed_and_nothing_added_until_there_is() {
    let disk = SimDisk::new(1);
    // Room for the first segment and a little more, not for the next one.
    disk.set_capacity(1536 << 10);
    let mut options = support::small();
    options.store.wal.segment_bytes = 1 << 20;
    let node = Node::open_on(Arc::new(disk.clone()), options, Vec::new()).unwrap();
    let last = publish(&node, 1..2);
    let error = node.sealer().seal(PATIENCE).expect_err("no room");
    assert!(error.may_pass() && error.to_string().contains("no next segment"), "{error}");
    assert_eq!(node.watermarks().accepted, last, "an event that would end no segment is not put on the tape");
    disk.set_capacity(u64::MAX);
    assert!(seal(&node).sealed);
    node.close().unwrap();
}

#[test]
fn a_node_that_is_gone_or_whose_log_failed_says_so() {
    let disk = SimDisk::new(1);
    let node = open(&(Arc::new(disk.clone()) as Arc<dyn Disk>));
    publish(&node, 1..2);
    let sealer = node.sealer();
    node.close().unwrap();
    let error = sealer.seal(PATIENCE).expect_err("closed");
    assert!(matches!(error, SealError::Log(_)) && !error.may_pass(), "{error}");

    let node = open(&(Arc::new(disk.clone()) as Arc<dyn Disk>));
    publish(&node, 2..3);
    disk.kill();
    let error = node.sealer().seal(PATIENCE).expect_err("the disk is gone");
    assert!(!error.may_pass(), "{error}");
    drop(node);
}
