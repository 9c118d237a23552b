//! What a subscriber is given, within one process.

mod support;

use std::time::Duration;

use matchtape_bus::{
    BusConfig, BusError, BusPublisher, BusService, BusSubscriber, Delivery, SubscriberOptions, WakeUp,
};
use matchtape_schemas::{Epoch, Head, KindMask, Sequence, Watermarks};
use support::{Place, TAPE, Tape, all_at, check_trades, small};

fn from(next: u64) -> SubscriberOptions {
    SubscriberOptions { next: Some(Sequence(next)), ..SubscriberOptions::default() }
}

struct Bus {
    tape: Tape,
    publisher: BusPublisher,
    /// Last: when it is dropped, nothing may be left of the others.
    place: Place,
}

impl Bus {
    fn new(namespace: &str, service: BusService) -> Self {
        let place = Place::new(namespace);
        let tape = Tape::new();
        let publisher = place.publisher(service, &small(), &tape.head);
        Self { place, tape, publisher }
    }

    fn subscriber(&self, service: BusService, options: &SubscriberOptions) -> BusSubscriber {
        BusSubscriber::open(&self.place.name, service, options).expect("subscriber")
    }

    fn trades(&mut self, count: u64) {
        let frame = self.tape.trades(count).to_vec();
        self.publisher.publish(&frame, &self.tape.watermarks()).expect("publish");
    }
}

/// Everything there is now, in short words.
fn drain(subscriber: &mut BusSubscriber) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(delivery) = subscriber.poll().expect("poll") {
        all.push(word(&delivery));
    }
    all
}

fn word(delivery: &Delivery) -> String {
    match delivery {
        Delivery::Frame(frame) => {
            let (first, last) = (frame.frame().first_sequence(), frame.frame().last_sequence());
            if frame.first_new() == first {
                format!("frame {first}-{last}")
            } else {
                format!("frame {first}-{last} from {}", frame.first_new())
            }
        }
        Delivery::Heartbeat { epoch, watermarks } => format!("heartbeat {epoch} {}", watermarks.visible),
        Delivery::Gap { expected, found } => format!("gap {expected}-{found}"),
        Delivery::Retract { epoch, first, last } => format!("retract {epoch}: {first}-{last}"),
        Delivery::PublisherRestarted { epoch } => format!("restarted {epoch}"),
    }
}

#[test]
fn frames_arrive_in_order_byte_for_byte_with_their_watermarks() {
    let mut bus = Bus::new("order", BusService::Live);
    let mut subscriber = bus.subscriber(BusService::Live, &from(1));
    for round in 1..=1000_u64 {
        let frame = bus.tape.trades(1 + round % 100).to_vec();
        let watermarks = Watermarks { accepted: Sequence(round * 1_000_000), ..bus.tape.watermarks() };
        assert_eq!(bus.publisher.publish(&frame, &watermarks).expect("publish"), 1);
        let Some(Delivery::Frame(got)) = subscriber.poll().expect("poll") else { panic!("a frame was sent") };
        assert_eq!(got.bytes(), frame);
        assert_eq!(got.bytes().as_ptr().addr() % 16, 0);
        assert_eq!(got.watermarks(), watermarks);
        check_trades(&got.frame());
    }
    assert!(subscriber.poll().expect("poll").is_none());
    assert_eq!(subscriber.next(), Some(bus.tape.head.last_sequence.next()));
    assert_eq!(subscriber.counters().gaps, 0);
}

#[test]
fn an_overflow_is_one_exact_gap_and_the_freshest_frames_are_kept() {
    let mut bus = Bus::new("overflow", BusService::Live);
    let mut subscriber = bus.subscriber(BusService::Live, &from(1));
    for _ in 0..10 {
        bus.trades(10);
    }
    // Four samples fit: those of the events 61 to 100.
    let all = ["gap 1-61", "frame 61-70", "frame 71-80", "frame 81-90", "frame 91-100"];
    assert_eq!(drain(&mut subscriber), all);
    assert_eq!(subscriber.counters().missed, 60);
    bus.trades(1);
    assert_eq!(drain(&mut subscriber), ["frame 101-101"]);
}

#[test]
fn a_lost_tail_shows_at_the_next_heartbeat() {
    let mut bus = Bus::new("tail", BusService::Live);
    let mut subscriber = bus.subscriber(BusService::Live, &from(1));
    bus.trades(5);
    for _ in 0..4 {
        bus.publisher.heartbeat(&bus.tape.watermarks());
    }
    assert_eq!(drain(&mut subscriber)[..2], ["gap 1-6", "heartbeat 1 5"]);
}

#[test]
fn after_a_gap_the_caller_may_continue_anywhere_also_inside_a_frame() {
    let mut bus = Bus::new("seek", BusService::Live);
    let mut subscriber = bus.subscriber(BusService::Live, &from(1));
    for _ in 0..6 {
        bus.trades(10);
    }
    assert_eq!(subscriber.poll().expect("poll").map(|delivery| word(&delivery)).as_deref(), Some("gap 1-21"));
    // The log was read up to the middle of the second frame that is still there.
    subscriber.seek(Sequence(36));
    assert_eq!(drain(&mut subscriber), ["frame 31-40 from 36", "frame 41-50", "frame 51-60"]);
    assert_eq!(subscriber.counters().duplicates, 1);
}

#[test]
fn a_late_joiner_learns_at_the_first_heartbeat_what_it_has_missed() {
    let mut bus = Bus::new("late", BusService::Live);
    bus.trades(7);
    let mut from_start = bus.subscriber(BusService::Live, &from(1));
    let mut from_now = bus.subscriber(BusService::Live, &SubscriberOptions::default());
    assert!(from_start.poll().expect("poll").is_none(), "no history on the bus");
    assert_eq!(bus.publisher.heartbeat(&bus.tape.watermarks()), 2);
    assert_eq!(drain(&mut from_start), ["gap 1-8", "heartbeat 1 7"]);
    assert_eq!(drain(&mut from_now), ["heartbeat 1 7"]);
    bus.trades(3);
    assert_eq!(drain(&mut from_start), ["frame 8-10"]);
    assert_eq!(drain(&mut from_now), ["frame 8-10"]);
}

#[test]
fn a_filter_passes_frames_over_without_hiding_a_gap() {
    let mut bus = Bus::new("filter", BusService::Live);
    let options = SubscriberOptions { kinds: KindMask::TRADES, ..from(1) };
    let mut subscriber = bus.subscriber(BusService::Live, &options);
    let orders = |bus: &mut Bus| {
        let frame = bus.tape.cancellations(4).to_vec();
        bus.publisher.publish(&frame, &bus.tape.watermarks()).expect("publish");
    };
    orders(&mut bus);
    bus.trades(2);
    orders(&mut bus);
    assert_eq!(drain(&mut subscriber), ["frame 5-6"]);
    assert_eq!(subscriber.next(), Some(Sequence(11)), "what was passed over counts");
    assert_eq!(subscriber.counters().filtered, 2);
    for _ in 0..5 {
        orders(&mut bus);
    }
    assert_eq!(drain(&mut subscriber), ["gap 11-15"], "also where only unwanted kinds were lost");
    subscriber.set_kinds(KindMask::ALL);
    orders(&mut bus);
    assert_eq!(drain(&mut subscriber), ["frame 31-34"]);
}

#[test]
fn holding_too_many_frames_is_an_error_that_ends_when_one_is_dropped() {
    let mut bus = Bus::new("held", BusService::Live);
    let mut subscriber = bus.subscriber(BusService::Live, &from(1));
    for _ in 0..3 {
        bus.trades(1);
    }
    let first = subscriber.poll().expect("poll").expect("a frame");
    let second = subscriber.poll().expect("poll").expect("a frame");
    assert!(matches!(subscriber.poll(), Err(BusError::TooManyHeld { held_max: 2 })));
    assert_eq!(word(&first), "frame 1-1");
    drop(first);
    assert_eq!(drain(&mut subscriber), ["frame 3-3"]);
    assert_eq!(word(&second), "frame 2-2", "held frames stay as they are");
}

#[test]
fn held_frames_stay_intact_while_the_publisher_goes_round_its_memory() {
    let mut bus = Bus::new("intact", BusService::Live);
    let mut subscriber = bus.subscriber(BusService::Live, &from(1));
    bus.trades(50);
    let Some(Delivery::Frame(held)) = subscriber.poll().expect("poll") else { panic!("a frame was sent") };
    let copy = held.bytes().to_vec();
    for _ in 0..small().memory_required().chunks * 3 {
        bus.trades(50);
    }
    assert_eq!(held.bytes(), copy);
}

#[test]
fn a_retraction_takes_back_exactly_what_was_delivered_of_it() {
    let mut bus = Bus::new("retract", BusService::Speculative);
    let mut ahead = bus.subscriber(BusService::Speculative, &from(1));
    let mut behind = bus.subscriber(BusService::Speculative, &from(1));
    bus.trades(10);
    assert_eq!(drain(&mut ahead), ["frame 1-10"]);
    assert_eq!(drain(&mut behind), ["frame 1-10"]);
    bus.trades(10);
    assert_eq!(drain(&mut ahead), ["frame 11-20"]);
    let watermarks = all_at(Sequence(12));
    bus.publisher.retract(Epoch(1), Sequence(13), Sequence(20), &watermarks).expect("retract");
    let mut second = Tape::after(12, 2);
    let frame = second.trades(3).to_vec();
    bus.publisher.publish(&frame, &second.watermarks()).expect("publish");
    assert_eq!(drain(&mut ahead), ["retract 1: 13-20", "frame 13-15"]);
    assert_eq!(drain(&mut behind), ["frame 11-20", "retract 1: 13-20", "frame 13-15"]);
    assert_eq!(ahead.epoch(), Epoch(2));

    let mut late = bus.subscriber(BusService::Speculative, &from(3));
    bus.publisher.retract(Epoch(2), Sequence(13), Sequence(15), &watermarks).expect("retract");
    assert_eq!(drain(&mut late), Vec::<String>::new(), "nothing of it was delivered here");
}

#[test]
fn nothing_visible_can_be_retracted_and_only_the_tail_can_be_at_all() {
    let mut live = Bus::new("no-retract", BusService::Live);
    live.trades(3);
    let watermarks = live.tape.watermarks();
    let refused = live.publisher.retract(Epoch(1), Sequence(2), Sequence(3), &watermarks);
    assert!(matches!(refused, Err(BusError::RetractOnLive)));

    let mut speculative = Bus::new("tail-only", BusService::Speculative);
    speculative.trades(3);
    let refused = speculative.publisher.retract(Epoch(1), Sequence(1), Sequence(2), &watermarks);
    assert!(matches!(refused, Err(BusError::OutOfOrder { .. })));
}

#[test]
fn a_restarted_publisher_takes_back_what_was_not_visible() {
    let place = Place::new("restart");
    let mut tape = Tape::new();
    let mut publisher = place.publisher(BusService::Speculative, &small(), &tape.head);
    let mut subscriber =
        BusSubscriber::open(&place.name, BusService::Speculative, &from(1)).expect("subscriber");
    let frame = tape.trades(10).to_vec();
    publisher.publish(&frame, &all_at(Sequence(6))).expect("publish");
    assert_eq!(drain(&mut subscriber), ["frame 1-10"]);
    drop(publisher);

    // Events 1 to 8 have survived, 9 and 10 are different ones now.
    let mut tape = Tape::after(8, 2);
    let mut publisher = place.publisher(BusService::Speculative, &small(), &tape.head);
    let frame = tape.trades(2).to_vec();
    publisher.publish(&frame, &tape.watermarks()).expect("publish");
    assert_eq!(drain(&mut subscriber), ["restarted 2", "retract 1: 7-10", "gap 7-9", "frame 9-10"]);
}

#[test]
fn a_restarted_publisher_takes_back_nothing_that_it_recovered() {
    for (same, expected) in [
        (true, ["restarted 2", "retract 1: 9-10", "frame 9-10"].as_slice()),
        (false, &["restarted 2", "retract 1: 3-10", "gap 3-9", "frame 9-10"]),
    ] {
        let place = Place::new("survived");
        let mut tape = Tape::new();
        let mut publisher = place.publisher(BusService::Speculative, &small(), &tape.head);
        let mut subscriber =
            BusSubscriber::open(&place.name, BusService::Speculative, &from(1)).expect("subscriber");
        let mut at_eight = tape.head;
        for _ in 0..5 {
            let frame = tape.trades(2).to_vec();
            publisher.publish(&frame, &all_at(Sequence(2))).expect("publish");
            if tape.head.last_sequence == Sequence(8) {
                at_eight = tape.head;
            }
        }
        assert_eq!(drain(&mut subscriber).len(), 5);
        drop(publisher);

        // The log kept events 1 to 8; or others of those numbers, of a publisher this subscriber has never heard.
        let mut successor = Tape::after(8, 2);
        successor.head = Head { epoch: Epoch(2), ..at_eight };
        if !same {
            successor.head.checksum ^= 1;
        }
        let mut publisher = place.publisher(BusService::Speculative, &small(), &successor.head);
        let frame = successor.trades(2).to_vec();
        publisher.publish(&frame, &successor.watermarks()).expect("publish");
        assert_eq!(drain(&mut subscriber), expected);
        assert_eq!(subscriber.certain(), Sequence(10));
    }
}

#[test]
fn samples_of_a_replaced_publisher_are_not_mixed_in() {
    let place = Place::new("stale");
    let mut tape = Tape::new();
    let mut publisher = place.publisher(BusService::Live, &small(), &tape.head);
    let mut subscriber = BusSubscriber::open(&place.name, BusService::Live, &from(1)).expect("subscriber");
    for _ in 0..2 {
        let frame = tape.trades(1).to_vec();
        publisher.publish(&frame, &tape.watermarks()).expect("publish");
    }
    drop(publisher);
    let mut publisher = place.publisher(BusService::Live, &small(), &tape.head);
    let frame = tape.trades(1).to_vec();
    publisher.publish(&frame, &tape.watermarks()).expect("publish");
    assert_eq!(drain(&mut subscriber), ["frame 1-1", "frame 2-2", "restarted 1", "frame 3-3"]);
    assert_eq!(subscriber.counters().stale, 0);
}

#[test]
fn a_node_that_lost_visible_events_is_found_out() {
    let place = Place::new("lost");
    let mut tape = Tape::new();
    let mut publisher = place.publisher(BusService::Live, &small(), &tape.head);
    let mut subscriber = BusSubscriber::open(&place.name, BusService::Live, &from(1)).expect("subscriber");
    let frame = tape.trades(10).to_vec();
    publisher.publish(&frame, &tape.watermarks()).expect("publish");
    assert_eq!(drain(&mut subscriber), ["frame 1-10"]);
    drop(publisher);
    let tape = Tape::after(5, 2);
    let mut publisher = place.publisher(BusService::Live, &small(), &tape.head);
    publisher.heartbeat(&tape.watermarks());
    match subscriber.poll() {
        Err(BusError::TapeWentBack { delivered: Sequence(10), head: Sequence(5) }) => (),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reader_that_the_log_has_sent_ahead_of_a_new_publisher_is_not_told_of_a_loss() {
    let place = Place::new("ahead");
    let mut tape = Tape::new();
    let mut publisher = place.publisher(BusService::Live, &small(), &tape.head);
    let mut subscriber = BusSubscriber::open(&place.name, BusService::Live, &from(1)).expect("subscriber");
    let frame = tape.trades(10).to_vec();
    publisher.publish(&frame, &tape.watermarks()).expect("publish");
    assert_eq!(drain(&mut subscriber), ["frame 1-10"]);
    drop(publisher);
    let mut publisher = place.publisher(BusService::Live, &small(), &tape.head);
    for _ in 0..2 {
        let frame = tape.trades(10).to_vec();
        publisher.publish(&frame, &tape.watermarks()).expect("publish");
    }
    // Before it looked at the bus again, the reader has read through 30 in the log.
    subscriber.seek(Sequence(31));
    assert_eq!(drain(&mut subscriber), ["restarted 1"]);
    let frame = tape.trades(1).to_vec();
    publisher.publish(&frame, &tape.watermarks()).expect("publish");
    assert_eq!(drain(&mut subscriber), ["frame 31-31"]);
}

#[test]
fn the_publisher_refuses_what_is_not_the_next_frame_of_its_tape() {
    let mut bus = Bus::new("refuse", BusService::Live);
    let none = Watermarks::default();
    assert!(matches!(bus.publisher.publish(&[0; 200], &none), Err(BusError::BadFrame(_))));
    assert!(matches!(bus.publisher.publish(&[0; 20 * 1024], &none), Err(BusError::FrameTooLarge { .. })));
    let frame = bus.tape.trades(2).to_vec();
    assert!(matches!(bus.publisher.publish(&frame[..frame.len() - 16], &none), Err(BusError::BadFrame(_))));
    bus.publisher.publish(&frame, &none).expect("publish");
    match bus.publisher.publish(&frame, &none) {
        Err(BusError::OutOfOrder { expected: Sequence(3), found: Sequence(1) }) => (),
        other => panic!("{other:?}"),
    }
    let mut older = Tape::after(2, 0);
    let frame = older.trades(1).to_vec();
    assert!(matches!(bus.publisher.publish(&frame, &none), Err(BusError::EpochWentBack { .. })));
}

#[test]
fn a_sleeping_subscriber_is_woken_and_uses_no_processor_meanwhile() {
    let place = Place::new("sleep");
    let mut tape = Tape::new();
    let mut publisher = place.publisher(BusService::Live, &small(), &tape.head);
    let name = place.name.clone();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let sleeper = matchtape_bus::on_own_thread(
        "sleeper",
        None,
        move || BusSubscriber::open(&name, BusService::Live, &from(1)),
        move |mut subscriber| {
            let spent = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            let before = spent();
            let idle = subscriber.wait(Duration::from_millis(300)).expect("wait");
            let used = spent() - before;
            ready.send(()).expect("the test waits");
            let woken = subscriber.wait(Duration::from_secs(60)).expect("wait");
            (idle, used, woken, drain(&mut subscriber))
        },
    )
    .expect("thread");
    is_ready.recv().expect("ready");
    let frame = tape.trades(1).to_vec();
    publisher.publish(&frame, &tape.watermarks()).expect("publish");
    let (idle, used, woken, all) = sleeper.join().expect("sleeper");
    assert!(!idle && woken);
    assert!(used.tv_sec == 0 && used.tv_nsec < 30_000_000, "300 ms asleep took {used:?} of processor time");
    assert_eq!(all, ["frame 1-1"]);
}

#[test]
fn sleeping_needs_a_publisher_that_wakes() {
    let place = Place::new("no-wake");
    let config = BusConfig { wake_up: WakeUp::BusyPoll, ..small() };
    let mut publisher = place.publisher(BusService::Live, &config, &Head::empty(TAPE));
    let error = BusSubscriber::open(&place.name, BusService::Live, &from(1)).expect_err("no wake-ups");
    assert!(matches!(error, BusError::NoWakeUps { .. }), "{error}");
    let options = SubscriberOptions { wake_up: WakeUp::BusyPoll, ..from(1) };
    let mut subscriber = BusSubscriber::open(&place.name, BusService::Live, &options).expect("subscriber");
    assert!(!subscriber.wait(Duration::from_millis(1)).expect("wait"));
    publisher.heartbeat(&Watermarks::default());
    assert!(subscriber.wait(Duration::from_secs(60)).expect("wait"));
}

#[test]
fn a_wait_that_is_almost_over_ends() {
    let place = Place::new("almost");
    let tape = Tape::new();
    let _publisher = place.publisher(BusService::Live, &small(), &tape.head);
    for spin in [Duration::ZERO, Duration::from_micros(20)] {
        let options = SubscriberOptions { next: Some(Sequence(1)), spin, ..SubscriberOptions::default() };
        let mut subscriber =
            BusSubscriber::open(&place.name, BusService::Live, &options).expect("subscriber");
        // Less than the microsecond in which sockets count, also after looking first.
        for timeout in [Duration::ZERO, Duration::from_nanos(900), spin, spin + Duration::from_nanos(1)] {
            assert!(!subscriber.wait(timeout).expect("wait"));
        }
    }
}
