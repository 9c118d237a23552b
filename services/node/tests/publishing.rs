//! What publishers are promised, on a real disk.

mod support;

use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use matchtape_node::{
    Node, NodeError, NodeOptions, Publish as _, PublishError, Published, VisibleAt, WaitError,
};
use matchtape_schemas::event::{EventRef, OrderAccepted, StateSet};
use matchtape_schemas::{
    Body, Epoch, Event, EventFlags, EventTime, InstrumentId, Kind, OrderId, ProducerId, ProducerSequence,
    Projection, ProjectionError, Sequence, Stage,
};
use matchtape_storage::wal::SyncPolicy;
use matchtape_storage::{Disk, RealDisk};
use support::{cancel, open, order, put, small};

const PRODUCER: ProducerId = ProducerId(5);

fn disk() -> (tempfile::TempDir, Arc<dyn Disk>) {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::create(&folder.path().join("data")).unwrap());
    (folder, disk)
}

fn kinds(node: &Node) -> Vec<(u64, Kind)> {
    let mut frames = node.reader().frames(Sequence::FIRST).unwrap();
    let mut kinds = Vec::new();
    while let Some(frame) = frames.next_frame().unwrap() {
        kinds.extend(frame.frame().events().map(|event| (event.sequence().get(), event.kind())));
    }
    kinds
}

#[test]
fn an_event_waited_for_is_durable_visible_and_read_back_as_it_was() {
    let (_folder, disk) = disk();
    let node = open(&disk);
    let mut publisher = node.publisher(PRODUCER).unwrap();
    assert_eq!(node.watermarks().accepted, Sequence::ZERO, "opening writes nothing");
    let published = put(&mut publisher, &order(1));
    assert_eq!(published, Published::New { first: Sequence(2), last: Sequence(2) }, "the epoch starts at 1");
    node.wait(published.sequence(), Stage::Visible).unwrap();
    assert!(node.watermarks().chain_holds());
    let durable = node.latency().histogram(Stage::Durable).unwrap();
    assert!(!durable.is_empty() && durable.max() > 1_000, "a sync takes longer than a microsecond");
    let read = node.reader().event(Sequence(2)).unwrap().unwrap();
    assert_eq!(read.event().to_event(), order(1));
    assert_eq!(read.event().header().producer, PRODUCER);
    assert_eq!(kinds(&node), [(1, Kind::EpochStarted), (2, Kind::OrderAccepted)]);
    drop(publisher);
    node.close().unwrap();
}

#[test]
fn a_repeated_publish_adds_nothing_in_this_run_or_after_a_restart_or_after_a_crash() {
    let (_folder, disk) = disk();
    for restart in 0..3 {
        let node = open(&disk);
        let mut publisher = node.publisher(PRODUCER).unwrap();
        for number in 1..=100 {
            let published = put(&mut publisher, &order(number));
            match (restart, published) {
                (0, Published::New { first, .. }) => assert_eq!(first, Sequence(number + 1)),
                (1.., Published::Already { last }) => assert_eq!(last, Sequence(101)),
                other => panic!("{other:?} in round {restart}"),
            }
        }
        assert!(matches!(publisher.publish(&order(50)).unwrap(), Published::Already { .. }));
        assert_eq!(publisher.last(), Some(ProducerSequence(100)));
        node.wait(Sequence(101), Stage::Visible).unwrap();
        assert_eq!(kinds(&node).len(), 101);
        drop(publisher);
        if restart == 0 {
            // As a crash: nothing is flushed, the marks come from the log.
            drop(node);
        } else {
            node.close().unwrap();
        }
    }
}

#[test]
fn every_opening_that_appends_is_an_epoch_of_its_own() {
    let (_folder, disk) = disk();
    for round in 1..=3u64 {
        let node = open(&disk);
        let mut publisher = node.publisher(PRODUCER).unwrap();
        let sequence = put(&mut publisher, &order(round)).sequence();
        node.wait(sequence, Stage::Visible).unwrap();
        let event = node.reader().event(sequence).unwrap().unwrap();
        assert_eq!((event.event().epoch(), node.epoch()), (Epoch(round), Epoch(round)));
        drop(publisher);
        node.close().unwrap();
    }
    let idle = open(&disk);
    assert_eq!((idle.epoch(), idle.watermarks().accepted), (Epoch(4), Sequence(6)));
}

#[test]
fn a_group_stands_together_whole_and_in_order() {
    let (_folder, disk) = disk();
    let node = open(&disk);
    let mut publisher = node.publisher(PRODUCER).unwrap();
    let group = [order(1), order(2), cancel(3, 1)];
    let published = publisher.publish_group(&group).unwrap();
    assert_eq!(published, Published::New { first: Sequence(2), last: Sequence(4) });
    assert!(matches!(publisher.publish_group(&group).unwrap(), Published::Already { last: Sequence(4) }));
    assert!(matches!(
        publisher.publish_group(&[order(3), order(4)]),
        Err(PublishError::GroupOrder { after: ProducerSequence(3), found: ProducerSequence(3) })
    ));
    assert!(matches!(publisher.publish_group(&[order(5), order(5)]), Err(PublishError::GroupOrder { .. })));
    assert!(matches!(publisher.publish_group(&[]), Err(PublishError::GroupSize { events: 0, .. })));
    let too_many: Vec<Event> = (10..10 + 1025).map(order).collect();
    assert!(matches!(
        publisher.publish_group(&too_many),
        Err(PublishError::GroupSize { events: 1025, limit: 1024 })
    ));
    node.wait(Sequence(4), Stage::Visible).unwrap();
    let ends: Vec<bool> =
        (2..=4).map(|at| node.reader().event(Sequence(at)).unwrap().unwrap().event().ends_group()).collect();
    assert_eq!(ends, [false, false, true]);
}

#[test]
fn a_group_larger_than_a_frame_becomes_visible_as_one() {
    let (_folder, disk) = disk();
    let node = open(&disk);
    let mut publisher = node.publisher(PRODUCER).unwrap();
    let group: Vec<Event> = (1..=1000).map(order).collect();
    let last = publisher.publish_group(&group).unwrap().sequence();
    node.wait(last, Stage::Visible).unwrap();
    let reader = node.reader();
    assert!(reader.event(last).unwrap().unwrap().event().ends_group());
    assert_eq!(kinds(&node).len(), 1001);
}

#[test]
fn the_first_group_may_take_the_whole_ring() {
    let (_folder, disk) = disk();
    let node = open(&disk);
    let mut publisher = node.publisher(PRODUCER).unwrap();
    let group: Vec<Event> = (1..=1024).map(order).collect();
    // Long enough for the pipeline to have fallen asleep; were it awake, this would only be easier.
    std::thread::sleep(Duration::from_millis(50));
    // The epoch's start takes the slot that is missing; it is read although nothing follows it yet.
    let published = loop {
        match publisher.publish_group(&group) {
            Err(PublishError::WouldBlock) => publisher.wait_for_room(group.len()).unwrap(),
            other => break other.unwrap(),
        }
    };
    node.wait(published.sequence(), Stage::Visible).unwrap();
}

#[test]
fn without_a_sync_per_batch_what_a_rotation_or_the_close_synced_is_announced() {
    for sync in [SyncPolicy::None, SyncPolicy::Interval(Duration::from_secs(3600))] {
        let (_folder, disk) = disk();
        let mut options = small();
        options.store.wal.sync = sync;
        let node = Node::open_on(disk, options, Vec::new()).unwrap();
        let mut publisher = node.publisher(PRODUCER).unwrap();
        let mut number = 0;
        // Until a segment has ended, nothing is durable; then its events are, and visible.
        while node.watermarks().visible < Sequence(100) {
            number += 1;
            put(&mut publisher, &order(number));
            assert!(number < 1_000_000, "{sync:?}: a rotation's sync was not announced");
        }
        let progress = node.progress();
        drop(publisher);
        node.close().unwrap();
        assert_eq!(
            progress.watermarks().visible,
            Sequence(number + 1),
            "{sync:?}: closing makes all of it durable"
        );
    }
}

#[test]
fn readers_may_be_shown_what_is_only_written_and_a_power_loss_takes_it_from_log_and_tables_alike() {
    let sim = matchtape_storage::sim::SimDisk::new(1);
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let mut options = NodeOptions { visible_at: VisibleAt::Written, ..small() };
    options.store.wal.sync = SyncPolicy::None;
    options.store.memtable_bytes = 1 << 20;
    let node = Node::open_on(Arc::clone(&disk), options, Vec::new()).unwrap();
    let mut publisher = node.publisher(PRODUCER).unwrap();
    let mut last = Sequence::ZERO;
    for number in 1..=20_000 {
        last = put(&mut publisher, &order(number)).sequence();
    }
    node.wait(last, Stage::Visible).unwrap();
    assert_eq!(kinds(&node).len() as u64, last.get(), "shown");
    let durable = node.watermarks().durable;
    let flushed = node.store().flush().unwrap();
    node.wait_for(flushed, Stage::Durable, Duration::from_secs(60)).expect("what is in tables is durable");
    drop(publisher);
    let lost: Arc<dyn Disk> =
        Arc::new(sim.crash_at(sim.operations(), matchtape_storage::sim::PowerLoss::LoseUnsynced));
    drop(node);
    let node = open(&lost);
    assert!(node.watermarks().visible >= durable);
    let kept = kinds(&node);
    assert_eq!(kept.len() as u64, node.watermarks().visible.get());
    node.close().unwrap();
}

#[test]
fn a_loan_is_filled_in_place_and_claims_nothing_until_published() {
    let (_folder, disk) = disk();
    let node = open(&disk);
    let mut publisher = node.publisher(PRODUCER).unwrap();
    {
        let mut abandoned =
            publisher.loan::<OrderAccepted>(InstrumentId(1), ProducerSequence(1), EventTime(7));
        abandoned.order_id = OrderId(9);
    }
    assert_eq!(node.watermarks().accepted, Sequence::ZERO);
    let mut loan = publisher.loan::<OrderAccepted>(InstrumentId(1), ProducerSequence(1), EventTime(7));
    loan.order_id = OrderId(3);
    let sequence = loan.flags(EventFlags::SNAPSHOT).publish().unwrap().sequence();
    node.wait(sequence, Stage::Visible).unwrap();
    let event = node.reader().event(sequence).unwrap().unwrap().event().to_event();
    assert_eq!(event.flags, EventFlags::SNAPSHOT.with(EventFlags::LAST_OF_GROUP));
    assert!(matches!(event.body, Body::OrderAccepted(order) if order.order_id == OrderId(3)));
}

#[test]
fn the_largest_event_and_the_smallest_share_a_tape() {
    let (_folder, disk) = disk();
    let node = open(&disk);
    let mut publisher = node.publisher(PRODUCER).unwrap();
    let value = vec![7; 48 * 1024 - 3];
    let set = StateSet::new(b"key", &value).unwrap();
    for number in 1..=20 {
        let event = if number % 2 == 0 {
            order(number)
        } else {
            Event::new(InstrumentId(0), ProducerSequence(number), EventTime(1), set.clone())
        };
        put(&mut publisher, &event);
    }
    node.wait(Sequence(21), Stage::Visible).unwrap();
    let read = node.reader().event(Sequence(20)).unwrap().unwrap();
    assert_eq!(read.event().to_event().body, Body::StateSet(set));
}

#[test]
fn an_event_time_too_far_ahead_is_refused_and_a_late_one_marked() {
    let (_folder, disk) = disk();
    let node = open(&disk);
    let mut publisher = node.publisher(PRODUCER).unwrap();
    let mut ahead = order(1);
    ahead.event_time = EventTime(i64::MAX);
    assert!(matches!(
        publisher.publish(&ahead),
        Err(PublishError::EventTimeAhead { event_time: EventTime::MAX, .. })
    ));
    put(&mut publisher, &order(9));
    let mut late = order(10);
    late.event_time = EventTime(5);
    let sequence = put(&mut publisher, &late).sequence();
    node.wait(sequence, Stage::Visible).unwrap();
    assert!(node.reader().event(sequence).unwrap().unwrap().event().flags().contains(EventFlags::LATE));
}

#[test]
fn a_producer_has_one_handle_at_a_time() {
    let (_folder, disk) = disk();
    let node = open(&disk);
    let first = node.publisher(PRODUCER).unwrap();
    assert!(matches!(node.publisher(PRODUCER), Err(NodeError::ProducerInUse(PRODUCER))));
    assert!(matches!(node.publisher(ProducerId::SEQUENCER), Err(NodeError::ProducerInUse(_))));
    drop(first);
    assert!(node.publisher(PRODUCER).is_ok());
}

#[test]
fn waiting_ends_when_the_node_closes_and_publishing_says_so() {
    let (_folder, disk) = disk();
    let node = open(&disk);
    let mut publisher = node.publisher(PRODUCER).unwrap();
    let progress = node.progress();
    let waiting = std::thread::spawn(move || {
        progress.wait_for(Sequence(1000), Stage::Durable, Duration::from_secs(60))
    });
    put(&mut publisher, &order(1));
    node.close().unwrap();
    assert_eq!(waiting.join().unwrap(), Err(WaitError::Closed));
    assert!(matches!(publisher.publish(&order(2)), Err(PublishError::Closed)));
}

#[test]
fn producers_on_many_threads_share_one_dense_tape() {
    let (_folder, disk) = disk();
    let node = open(&disk);
    std::thread::scope(|scope| {
        for producer in 1..=8 {
            let node = &node;
            scope.spawn(move || {
                let mut publisher = node.publisher(ProducerId(producer)).unwrap();
                for number in 1..=2_000 {
                    let sequence = put(&mut publisher, &order(number)).sequence();
                    if number % 500 == 0 {
                        node.wait(sequence, Stage::Durable).unwrap();
                    }
                }
            });
        }
    });
    node.wait(Sequence(16_001), Stage::Visible).unwrap();
    let mut next = [1u64; 9];
    let mut frames = node.reader().frames(Sequence::FIRST).unwrap();
    let mut count = 0;
    while let Some(frame) = frames.next_frame().unwrap() {
        for event in frame.frame().events() {
            count += 1;
            assert_eq!(event.sequence(), Sequence(count));
            let header = event.header();
            if header.producer != ProducerId::SEQUENCER {
                let expected = &mut next[header.producer.get() as usize];
                assert_eq!(header.producer_sequence, ProducerSequence(*expected));
                *expected += 1;
            }
        }
    }
    assert_eq!(count, 16_001);
    node.close().unwrap();
}

#[test]
fn the_same_directory_is_refused_to_a_second_node_which_is_told_who_has_it() {
    let (_folder, disk) = disk();
    let _node = open(&disk);
    let refused = Node::open_on(disk, small(), Vec::new()).err().expect("one owner");
    assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
}

/// Panics at an order with this number.
struct Fragile;

impl Projection for Fragile {
    fn name(&self) -> &'static str {
        "fragile"
    }
    fn version(&self) -> u32 {
        1
    }
    fn apply(&mut self, event: &EventRef<'_>) {
        assert!(event.header().producer_sequence != ProducerSequence(50), "a projection with a bug");
    }
    fn save(&self, _: &mut Vec<u8>) {}
    fn restore(&mut self, _: &[u8]) -> Result<(), ProjectionError> {
        Ok(())
    }
}

#[test]
fn a_panic_behind_the_log_ends_publishing_and_waiting_in_poisoned() {
    let (_folder, disk) = disk();
    let mut options = small();
    options.store.memtable_bytes = 1 << 20;
    let node = Node::open_on(disk, options, vec![Box::new(Fragile)]).unwrap();
    let mut publisher = node.publisher(PRODUCER).unwrap();
    let mut last = Sequence::ZERO;
    // The flushing thread dies with the first table; publishing notices soon after.
    let refused = (1..).find_map(|number| match publisher.publish(&order(number)) {
        Ok(published) => {
            last = published.sequence();
            None
        }
        Err(PublishError::WouldBlock) => {
            // Ends in an error when the node has ended.
            let _ = publisher.wait_for_room(1);
            None
        }
        Err(error) => Some(error),
    });
    assert_eq!(refused, Some(PublishError::Poisoned));
    assert_eq!(node.wait(last.next(), Stage::Durable), Err(WaitError::Poisoned));
    drop(publisher);
    assert!(node.close().unwrap_err().to_string().contains("a projection with a bug"));
}

#[test]
fn a_group_of_too_many_bytes_is_refused_whole() {
    let (_folder, disk) = disk();
    let mut options = small();
    options.ring_slots = 4096;
    let node = Node::open_on(disk, options, Vec::new()).unwrap();
    let mut publisher = node.publisher(PRODUCER).unwrap();
    let set = StateSet::new(b"key", &vec![7; 48 * 1024 - 3]).unwrap();
    let event = |number| Event::new(InstrumentId(0), ProducerSequence(number), EventTime(1), set.clone());
    let events: Vec<Event> = (1..=1500).map(event).collect();
    assert!(
        matches!(publisher.publish_group(&events), Err(PublishError::GroupBytes { bytes, .. }) if bytes > 64 << 20)
    );
    assert_eq!(node.watermarks().accepted, Sequence::ZERO, "nothing was claimed");
    drop(publisher);
    node.close().unwrap();
}

#[test]
fn a_full_disk_refuses_new_events_keeps_what_was_accepted_and_ends_when_there_is_room() {
    let sim = matchtape_storage::sim::SimDisk::new(1);
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let node = open(&disk);
    let mut publisher = node.publisher(PRODUCER).unwrap();
    put(&mut publisher, &order(1));
    // Room for what is there and a little more: some segment will not find its successor.
    sim.set_capacity(400 << 10);
    let mut number = 1;
    loop {
        match publisher.publish(&order(number + 1)) {
            Ok(_) => number += 1,
            // No waiting for room: a log that meets the full disk with a full ring makes none.
            Err(PublishError::WouldBlock) => std::thread::yield_now(),
            Err(PublishError::NoSpace) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(number > 100, "{number} events were taken");
    assert!(node.store().space_problem().reason().unwrap().contains("No space left"));
    assert_eq!(publisher.publish(&order(number + 1)), Err(PublishError::NoSpace), "it stays so");
    let accepted = Sequence(number + 1);
    assert_eq!(node.watermarks().accepted, accepted, "what was refused claimed nothing");
    // The space comes back; whoever tries again gets through, and everything is there once.
    sim.set_capacity(1 << 40);
    // The ring may still be as full as the disk was.
    while let Err(error) = publisher.publish(&order(number + 1)) {
        assert!(matches!(error, PublishError::NoSpace | PublishError::WouldBlock), "{error}");
        std::thread::yield_now();
    }
    node.wait(accepted.next(), Stage::Visible).unwrap();
    assert_eq!(kinds(&node).len() as u64, accepted.next().get());
    drop(publisher);
    node.close().unwrap();
    let node = open(&disk);
    assert_eq!(kinds(&node).len() as u64, accepted.next().get());
    node.close().unwrap();
}

/// A log whose buffers are full takes nothing from the ring, and on a full disk they stay full.
#[test]
fn a_node_is_closed_and_dropped_on_a_full_disk_though_its_ring_and_its_log_are_full() {
    for dropped in [false, true] {
        let sim = matchtape_storage::sim::SimDisk::new(1);
        let mut options = small();
        options.store.wal.commit_bytes = matchtape_storage::limits::COMMIT_BYTES_MIN;
        let node = Node::open_on(Arc::new(sim.clone()), options, Vec::new()).unwrap();
        let (let_go, gate) = std::sync::mpsc::channel::<()>();
        let gate = std::sync::Mutex::new(gate);
        // Nothing is written before both are full. An end of the sender opens it for good.
        sim.before_write(move |_| {
            let _ = gate.lock().unwrap().recv();
        });
        let mut publisher = node.publisher(PRODUCER).unwrap();
        let mut number = 1;
        let mut stands = std::time::Instant::now();
        while stands.elapsed() < Duration::from_millis(200) {
            match publisher.publish(&order(number)) {
                Ok(_) => (number, stands) = (number + 1, std::time::Instant::now()),
                Err(PublishError::WouldBlock) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        let accepted = node.watermarks().accepted;
        let empty = publisher.wait_for_room_until(1024, Some(std::time::Instant::now()));
        assert_eq!(empty, Err(WaitError::TimedOut), "some of it is in the ring");
        sim.fail_all(matchtape_storage::sim::Fault::Enospc);
        drop(let_go);
        drop(publisher);
        let (closed, told) = std::sync::mpsc::channel();
        let closing = std::thread::spawn(move || {
            match dropped {
                false => assert!(node.close().unwrap_err().to_string().contains("No space left")),
                true => drop(node),
            }
            closed.send(()).unwrap();
        });
        let told = told.recv_timeout(Duration::from_secs(20));
        assert_ne!(told, Err(RecvTimeoutError::Timeout), "closing does not wait for room");
        closing.join().unwrap();
        // What the disk has is a tape that goes on.
        sim.mend();
        let node = open(&(Arc::new(sim.clone()) as Arc<dyn Disk>));
        assert!(node.watermarks().accepted <= accepted);
        node.close().unwrap();
    }
}
