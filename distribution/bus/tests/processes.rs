//! Publisher and subscribers in processes of their own, stopped, killed and restarted.

mod support;

use std::time::Duration;

use matchtape_bus::{
    BusError, BusService, BusSubscriber, Delivery, Liveness, SubscriberOptions, clean_dead_participants,
};
use matchtape_schemas::Sequence;
use rustix::process::Signal;
use support::{Other, Place, Tape, check_trades, small};

/// The next delivery, within a minute.
fn next(subscriber: &mut BusSubscriber) -> Delivery {
    loop {
        if let Some(delivery) = subscriber.poll().expect("poll") {
            return delivery;
        }
        assert!(subscriber.wait(Duration::from_secs(60)).expect("wait"), "nothing came for a minute");
    }
}

fn from(next: u64) -> SubscriberOptions {
    SubscriberOptions { next: Some(Sequence(next)), ..SubscriberOptions::default() }
}

#[test]
fn a_subscriber_in_another_process_gets_every_frame_polling_and_sleeping() {
    for wake_up in ["poll", "event"] {
        let place = Place::new("other");
        let mut tape = Tape::new();
        let mut publisher = place.publisher(BusService::Live, &small(), &tape.head);
        let mut other = Other::start(&place, &["subscribe", "1", "2000", wake_up, "each"]);
        assert_eq!(other.hear(), "open");
        // One frame at a time: the next is sent when this one has been taken, so the small buffer never overflows.
        publisher.heartbeat(&tape.watermarks());
        assert_eq!(other.hear(), "heartbeat");
        for _ in 0..200 {
            let frame = tape.trades(10).to_vec();
            assert_eq!(publisher.publish(&frame, &tape.watermarks()).expect("publish"), 1, "{wake_up}");
            assert_eq!(other.hear(), format!("taken {}", tape.head.last_sequence), "{wake_up}");
        }
        assert_eq!(other.hear(), "done next=2001 events=2000 missed=0", "{wake_up}");
        other.leave();
    }
}

#[test]
fn a_stopped_subscriber_stalls_nobody_and_finds_its_exact_gap_afterwards() {
    let place = Place::new("stopped");
    let mut tape = Tape::new();
    let mut publisher = place.publisher(BusService::Live, &small(), &tape.head);
    let frames = 10_000_u64;
    let mut other = Other::start(&place, &["subscribe", "1", &(frames * 10).to_string(), "event"]);
    assert_eq!(other.hear(), "open");
    publisher.heartbeat(&tape.watermarks());
    assert_eq!(other.hear(), "heartbeat");
    other.stop();
    for _ in 0..frames {
        let frame = tape.trades(10).to_vec();
        // Each call returns: that it took the frame while the only reader stands still is the point.
        assert_eq!(publisher.publish(&frame, &tape.watermarks()).expect("publish"), 1);
    }
    assert_eq!(publisher.counters().frames, frames);
    assert_eq!(publisher.counters().send_failures, 0);
    other.signal(Signal::CONT);
    let lines = other.hear_until("done");
    // It may have taken up to the buffer's worth before it was stopped in mid-poll: nothing was published then.
    let kept = 4 * 10;
    assert_eq!(
        lines,
        [
            format!("gap 1 {}", frames * 10 - kept + 1),
            format!("done next={} events={kept} missed={}", frames * 10 + 1, frames * 10 - kept)
        ]
    );
    other.leave();
}

#[test]
fn a_killed_subscriber_stalls_nobody_and_its_slot_comes_back() {
    let place = Place::new("killed");
    let mut tape = Tape::new();
    let mut publisher = place.publisher(BusService::Live, &small(), &tape.head);
    let mut survivor = BusSubscriber::open(&place.name, BusService::Live, &from(1)).expect("subscriber");
    // More deaths than there are slots, spare ones included.
    for death in 0..15_u64 {
        let mut other = Other::start(&place, &["subscribe", "1", "1000000000", "event"]);
        assert_eq!(other.hear(), "open", "death {death}");
        publisher.heartbeat(&tape.watermarks());
        while other.hear() != "heartbeat" {}
        other.kill();
        for _ in 0..20 {
            let frame = tape.trades(10).to_vec();
            publisher.publish(&frame, &tape.watermarks()).expect("publish");
            assert!(matches!(next(&mut survivor), Delivery::Heartbeat { .. } | Delivery::Frame(_)));
        }
        while survivor.poll().expect("poll").is_some() {}
        assert_eq!(survivor.next(), Some(tape.head.last_sequence.next()));
        let cleaned = clean_dead_participants(&place.name).expect("clean");
        assert_eq!((cleaned.removed, cleaned.failed), (1, 0), "death {death}");
    }
    assert_eq!(survivor.counters().gaps, 0);
    assert_eq!(publisher.counters().send_failures, 0);
    let frame = tape.trades(1).to_vec();
    assert_eq!(
        publisher.publish(&frame, &tape.watermarks()).expect("publish"),
        1,
        "only the survivor is left"
    );
}

#[test]
fn a_killed_publisher_is_replaced_under_a_living_subscriber() {
    let place = Place::new("replaced");
    let mut first = Other::start(&place, &["publish", "0", "1"]);
    assert_eq!(first.hear(), "open");
    let mut subscriber = BusSubscriber::open(&place.name, BusService::Live, &from(1)).expect("subscriber");
    first.tell("frames 3 10");
    assert_eq!(first.hear(), "published 30");
    for expected in [10, 20, 30] {
        let Delivery::Frame(frame) = next(&mut subscriber) else { panic!("a frame") };
        check_trades(&frame.frame());
        assert_eq!(frame.frame().last_sequence(), Sequence(expected));
    }
    let mut last = 30;
    for epoch in 2..8_u64 {
        first.kill();
        // Ten events became visible that nobody had published before the death.
        last += 10;
        let mut second = Other::start(&place, &["publish", &last.to_string(), &epoch.to_string()]);
        assert_eq!(second.hear(), "open", "epoch {epoch}");
        second.tell("frames 2 5");
        assert_eq!(second.hear(), format!("published {}", last + 10));
        let mut seen = Vec::new();
        while subscriber.next() != Some(Sequence(last + 11)) {
            match next(&mut subscriber) {
                Delivery::Frame(frame) => {
                    check_trades(&frame.frame());
                    seen.push(format!(
                        "{}-{}",
                        frame.frame().first_sequence(),
                        frame.frame().last_sequence()
                    ));
                }
                Delivery::Gap { expected, found } => seen.push(format!("gap {expected} {found}")),
                Delivery::PublisherRestarted { epoch } => seen.push(format!("restarted {epoch}")),
                other => panic!("{other:?}"),
            }
        }
        let (gap, a, b) = (last - 9, last + 1, last + 6);
        let expected = [
            format!("restarted {epoch}"),
            format!("gap {gap} {a}"),
            format!("{a}-{}", a + 4),
            format!("{b}-{}", b + 4),
        ];
        assert_eq!(seen, expected);
        last += 10;
        first = second;
    }
}

#[test]
fn a_second_living_publisher_is_refused_by_name_of_its_process() {
    let place = Place::new("second");
    let mut first = Other::start(&place, &["publish", "0", "1"]);
    assert_eq!(first.hear(), "open");
    let error = matchtape_bus::BusPublisher::open(&place.name, BusService::Live, &small(), &Tape::new().head)
        .expect_err("one is enough");
    match &error {
        BusError::AnotherPublisher { process, .. } => assert_eq!(*process, first.child.id().to_string()),
        other => panic!("{other:?}"),
    }
    // A stopped one is alive.
    first.stop();
    assert!(matches!(
        matchtape_bus::BusPublisher::open(&place.name, BusService::Live, &small(), &Tape::new().head),
        Err(BusError::AnotherPublisher { .. })
    ));
    first.signal(Signal::CONT);
    first.kill();
    drop(place.publisher(BusService::Live, &small(), &Tape::new().head));
}

#[test]
fn a_late_process_joins_a_running_bus_where_it_is() {
    let place = Place::new("joiner");
    let mut tape = Tape::new();
    let mut publisher = place.publisher(BusService::Live, &small(), &tape.head);
    for _ in 0..5 {
        let frame = tape.trades(10).to_vec();
        assert_eq!(publisher.publish(&frame, &tape.watermarks()).expect("publish"), 0, "nobody listens yet");
    }
    let mut other = Other::start(&place, &["subscribe", "1", "60", "event"]);
    assert_eq!(other.hear(), "open");
    publisher.heartbeat(&tape.watermarks());
    assert_eq!(other.hear(), "gap 1 51");
    assert_eq!(other.hear(), "heartbeat");
    let frame = tape.trades(10).to_vec();
    publisher.publish(&frame, &tape.watermarks()).expect("publish");
    assert_eq!(other.hear(), "done next=61 events=10 missed=50");
    other.leave();
}

#[test]
fn nothing_is_left_behind_by_those_who_leave_nor_by_those_who_are_killed() {
    let place = Place::new("leftovers");
    let mut tape = Tape::new();
    let mut publisher = place.publisher(BusService::Live, &small(), &tape.head);
    let mut subscriber = BusSubscriber::open(&place.name, BusService::Live, &from(1)).expect("subscriber");
    let frame = tape.trades(10).to_vec();
    publisher.publish(&frame, &tape.watermarks()).expect("publish");
    assert!(matches!(next(&mut subscriber), Delivery::Frame(_)));
    assert!(!place.leftovers().is_empty(), "the check sees what it should");
    drop(publisher);
    drop(subscriber);
    assert_eq!(place.leftovers(), Vec::<String>::new());

    let mut other = Other::start(&place, &["publish", "0", "1"]);
    assert_eq!(other.hear(), "open");
    let mut reader = Other::start(&place, &["subscribe", "1", "1000000", "event"]);
    assert_eq!(reader.hear(), "open");
    other.tell("frames 3 10");
    other.hear_until("published");
    other.kill();
    reader.kill();
    assert!(!place.leftovers().is_empty());
    let liveness = Liveness::start(&place.name, Duration::from_millis(5)).expect("liveness");
    while liveness.cleaned().removed < 2 {
        assert_eq!(liveness.cleaned().failed, 0);
        std::thread::yield_now();
    }
    drop(liveness);
    assert_eq!(place.leftovers(), Vec::<String>::new());
}

#[test]
fn killed_publishers_and_subscribers_in_any_order_leave_a_working_bus() {
    let place = Place::new("schedule");
    let _liveness = Liveness::start(&place.name, Duration::from_millis(5)).expect("liveness");
    let mut last = 0;
    for round in 1..=10_u64 {
        let mut publisher = Other::start(&place, &["publish", &last.to_string(), &round.to_string()]);
        assert_eq!(publisher.hear(), "open", "round {round}");
        let reads_on = round % 2 == 0;
        let (first, until) = ((last + 1).to_string(), last + 20);
        let end = if reads_on { until + 1 } else { until };
        let mut reader = Other::start(&place, &["subscribe", &first, &end.to_string(), "event", "each"]);
        assert_eq!(reader.hear(), "open", "round {round}");
        publisher.tell("frames 2 10");
        assert_eq!(publisher.hear(), format!("published {until}"));
        assert_eq!(reader.hear(), format!("taken {}", until - 10), "round {round}");
        assert_eq!(reader.hear(), format!("taken {until}"), "round {round}");
        if reads_on {
            reader.kill();
        } else {
            assert_eq!(reader.hear(), format!("done next={} events=20 missed=0", until + 1), "round {round}");
            reader.leave();
        }
        publisher.kill();
        last = until;
    }
}
