//! The same bodies on a publisher inside the node and on one outside: one API, one set of results.

mod support;

use std::time::{Duration, Instant};

use matchtape_bus::{RemoteOptions, RemotePublisher};
use matchtape_node::{Node, NodeOptions, Publish, PublishError, Publisher};
use matchtape_schemas::event::{Event, EventFlags, OrderAccepted, OrderCancelled, Side, StateSet};
use matchtape_schemas::{
    EventTime, InstrumentId, OrderId, Price, ProducerId, ProducerSequence, Quantity, Sequence, Stage,
};
use support::order;
use support::place::{PATIENCE, PRODUCER, Place, patient};

/// Runs a body inside the node and outside of it, each on a tape of its own.
fn both(
    name: &str,
    options: impl Fn(NodeOptions) -> NodeOptions,
    window_events: usize,
    inside: fn(Publisher, &Node),
    outside: fn(RemotePublisher, &Node),
) {
    let place = Place::new(name);
    let node = Node::open_on(place.disk(), options(place.options()), Vec::new()).unwrap();
    inside(node.publisher(PRODUCER).unwrap(), &node);
    place.watched.joins();
    node.close().unwrap();
    let place = Place::new(name);
    let node = Node::open_on(place.disk(), options(place.options()), Vec::new()).unwrap();
    let remote = RemoteOptions { window_events, window_bytes: 256 << 20, ..patient() };
    outside(RemotePublisher::connect(&place.name(node.tape()), PRODUCER, remote).unwrap(), &node);
    place.watched.joins();
    node.close().unwrap();
}

/// The producer's events on the tape.
fn on_tape(node: &Node) -> Vec<(Sequence, Event)> {
    let mut frames = node.reader().frames(Sequence::FIRST).unwrap();
    let mut events = Vec::new();
    while let Some(frame) = frames.next_frame().unwrap() {
        let own = frame.frame().events().filter(|event| event.header().producer == PRODUCER);
        events.extend(own.map(|event| (event.sequence(), event.to_event())));
    }
    events
}

fn results<P: Publish>(mut publisher: P, node: &Node) {
    assert_eq!((publisher.producer(), publisher.last(), publisher.accepted()), (PRODUCER, None, None));
    let first = publisher.publish(&order(3)).unwrap();
    assert!(first.is_new());
    assert_eq!(publisher.last(), Some(ProducerSequence(3)));
    // The term's start is on the tape before it.
    assert_eq!(publisher.wait(first.last(), Stage::Accepted).unwrap(), Sequence(2));
    assert_eq!(publisher.accepted().unwrap().sequence, Sequence(2));
    for repeated in [&[order(3)][..], &[order(1), order(2)], &[order(2), order(3)]] {
        let again = publisher.publish_group(repeated).unwrap();
        assert!(!again.is_new() && again.last() == first.last());
    }
    // What can never be taken says why, in the same words, and takes nothing.
    let large = StateSet::new(b"key", &vec![7; 48 * 1024 - 3]).unwrap();
    let large = |number| Event::new(InstrumentId(0), ProducerSequence(number), EventTime(1), large.clone());
    let mut ahead = order(4);
    ahead.event_time = EventTime(i64::MAX);
    let refused = [
        (vec![], PublishError::GroupSize { events: 0, limit: 2048 }),
        ((4..4 + 2049).map(order).collect(), PublishError::GroupSize { events: 2049, limit: 2048 }),
        (
            vec![order(3), order(4)],
            PublishError::GroupOrder { after: ProducerSequence(3), found: ProducerSequence(3) },
        ),
        (
            vec![order(4), order(6), order(6)],
            PublishError::GroupOrder { after: ProducerSequence(6), found: ProducerSequence(6) },
        ),
        (
            (4..4 + 1400).map(large).collect(),
            PublishError::GroupBytes { bytes: 1400 * large(4).encoded_len(), limit: 64 << 20 },
        ),
    ];
    for (group, expected) in refused {
        let why = publisher.publish_group(&group).unwrap_err();
        assert!(why == expected, "{why}, not {expected}");
        assert_eq!(why.to_string(), expected.to_string());
    }
    let why = publisher.publish(&ahead).unwrap_err().to_string();
    assert!(why.contains(&format!("event time {} ns is more than", i64::MAX)), "{why}");
    let group: Vec<Event> = (4..=2051).map(order).collect();
    let last = publisher.publish_group(&group).unwrap().last();
    assert_eq!(publisher.wait(last, Stage::Visible).unwrap(), Sequence(2050));
    let watermarks = publisher.watermarks();
    assert!(
        watermarks.visible == Sequence(2050) && watermarks.durable >= watermarks.visible,
        "{watermarks:?}"
    );
    let events = on_tape(node);
    assert_eq!(events.len(), 2049);
    let ends = events.iter().filter(|(_, event)| event.flags.contains(EventFlags::LAST_OF_GROUP)).count();
    assert_eq!(ends, 2, "the first event, and the group's last");
}

#[test]
fn what_is_published_refused_and_repeated_has_the_same_results_both_ways() {
    let ring = |options| NodeOptions { ring_slots: 2048, ..options };
    // As much as the node takes: what is refused is refused for the same limits.
    both("results", ring, 1 << 12, results::<Publisher>, results::<RemotePublisher>);
}

fn loans<P: Publish>(mut publisher: P, node: &Node) {
    let mut given_up = publisher.loan::<OrderAccepted>(InstrumentId(1), ProducerSequence(1), EventTime(7));
    given_up.order_id = OrderId(4);
    let mut loan = publisher.loan::<OrderAccepted>(InstrumentId(9), ProducerSequence(1), EventTime(7));
    loan.order_id = OrderId(5);
    loan.price = Price::from_units(11);
    loan.quantity = Quantity::from_units(12);
    loan.publish().unwrap();
    let body = OrderCancelled { order_id: OrderId(5), side: Side::Sell, ..OrderCancelled::default() };
    let loan = publisher.loan::<OrderCancelled>(InstrumentId(9), ProducerSequence(2), EventTime(8));
    let last = loan.flags(EventFlags::SNAPSHOT).fill(body.clone()).publish().unwrap().last();
    publisher.wait(last, Stage::Visible).unwrap();
    let events = on_tape(node);
    let of_loan = OrderAccepted {
        order_id: OrderId(5),
        price: Price::from_units(11),
        quantity: Quantity::from_units(12),
        ..OrderAccepted::default()
    };
    let mut expected = [
        Event::new(InstrumentId(9), ProducerSequence(1), EventTime(7), of_loan),
        Event::new(InstrumentId(9), ProducerSequence(2), EventTime(8), body),
    ];
    expected[0].flags = EventFlags::LAST_OF_GROUP;
    expected[1].flags = EventFlags::SNAPSHOT.with(EventFlags::LAST_OF_GROUP);
    assert_eq!(events.into_iter().map(|(_, event)| event).collect::<Vec<_>>(), expected);
}

#[test]
fn events_are_filled_in_where_they_are_published_both_ways() {
    both("loans", |options| options, 1 << 12, loans::<Publisher>, loans::<RemotePublisher>);
}

fn futures<P: Publish + 'static>(mut publisher: P, node: &Node) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let tasks = tokio::task::LocalSet::new();
    let positions = tasks.block_on(&runtime, async move {
        let mut waiting = Vec::new();
        for number in 1..=60 {
            let last = publisher.publish(&order(number)).unwrap().last();
            // It is published on while tasks of their own wait for the stages of what was.
            let stage =
                [Stage::Accepted, Stage::Written, Stage::Durable, Stage::Visible][number as usize % 4];
            waiting.push(tokio::task::spawn_local(publisher.wait_async(last, stage)));
            // A future that is given up disturbs no other.
            drop(publisher.wait_async(last, Stage::Visible));
            tokio::task::yield_now().await;
        }
        let mut positions = Vec::new();
        for reached in waiting {
            positions.push(reached.await.unwrap().unwrap());
        }
        // One that is reached already, in a handle of which nothing else is asked.
        let last = publisher.publish(&order(61)).unwrap().last();
        positions.push(publisher.wait_async(last, Stage::Visible).await.unwrap());
        positions.push(publisher.wait_async(last, Stage::Durable).await.unwrap());
        positions
    });
    let (last, rest) = positions.split_last().unwrap();
    assert_eq!(*last, Sequence(62));
    // Outside, an event may be told by one behind it.
    for (index, position) in rest.iter().enumerate() {
        assert!((index as u64 + 2..=62).contains(&position.get()), "event {} at {position}", index + 1);
    }
    assert_eq!(on_tape(node).len(), 61);
}

#[test]
fn stages_are_awaited_as_futures_while_publishing_goes_on_both_ways() {
    both("futures", |options| options, 1 << 12, futures::<Publisher>, futures::<RemotePublisher>);
    // Where the node wakes nobody the tasks are woken all the same.
    let place = Place::new("poll");
    let mut options = place.options();
    options.ingress.as_mut().unwrap().config.wake_up = matchtape_bus::WakeUp::BusyPoll;
    let node = Node::open_on(place.disk(), options, Vec::new()).unwrap();
    futures(place.connect(node.tape()).unwrap(), &node);
    place.watched.joins();
    node.close().unwrap();
}

fn full<P: Publish>(mut publisher: P, node: &Node) {
    let (mut refused, mut number) = (0, 0);
    let mut last = None;
    let begun = Instant::now();
    // Whoever is slower than the node is never refused: on, until it was not.
    while number < 20_000 || refused == 0 {
        assert!(begun.elapsed() < PATIENCE, "it is never full");
        let group: Vec<Event> = (number + 1..=number + 8).map(order).collect();
        match publisher.publish_group(&group) {
            Ok(published) => (number, last) = (number + 8, Some(published.last())),
            Err(why) if why == PublishError::WouldBlock => {
                refused += 1;
                publisher.wait_for_room(8).unwrap();
            }
            Err(why) => panic!("{why}"),
        }
    }
    publisher.wait(last.unwrap(), Stage::Visible).unwrap();
    // However many are asked for: all that there can be.
    publisher.wait_for_room(usize::MAX).unwrap();
    let numbers: Vec<u64> = on_tape(node).iter().map(|(_, event)| event.producer_sequence.get()).collect();
    assert_eq!(numbers, (1..=number).collect::<Vec<_>>());
}

#[test]
fn what_has_no_room_is_told_so_and_room_is_waited_for_both_ways() {
    let ring = |options| NodeOptions { ring_slots: 64, ..options };
    both("full", ring, 64, full::<Publisher>, full::<RemotePublisher>);
}

#[test]
fn a_closed_node_is_told_in_the_same_words_both_ways() {
    fn refused<P: Publish>(publisher: &mut P) -> P::PublishError {
        let begun = Instant::now();
        for number in 2.. {
            assert!(begun.elapsed() < PATIENCE);
            // Outside, what is taken before the word comes is kept for the node's successor.
            if let Err(why) = publisher.publish(&order(number)) {
                return why;
            }
        }
        unreachable!("numbers do not end");
    }
    let place = Place::new("closed");
    let node = place.node();
    let mut inside = node.publisher(ProducerId(1)).unwrap();
    let mut outside = place.connect(node.tape()).unwrap();
    inside.publish(&order(1)).unwrap();
    let last = outside.publish(&order(1)).unwrap().last();
    outside.wait(last, Stage::Durable).unwrap();
    place.watched.joins();
    node.close().unwrap();
    assert!(refused(&mut inside) == PublishError::Closed);
    assert!(refused(&mut outside) == PublishError::Closed);
}

#[test]
fn the_longest_limits_are_none() {
    const LONGEST: Duration = Duration::MAX;
    let place = Place::new("longest");
    let node = place.node();
    let mut inside = node.publisher(ProducerId(1)).unwrap();
    let options = RemoteOptions { connect_wait: LONGEST, silence_max: LONGEST, ..RemoteOptions::default() };
    let mut outside = RemotePublisher::connect(&place.name(node.tape()), PRODUCER, options).unwrap();
    let last = inside.publish(&order(1)).unwrap().last();
    inside.wait_for(last, Stage::Durable, LONGEST).unwrap();
    node.wait_for(last, Stage::Visible, LONGEST).unwrap();
    node.progress().wait_for(last, Stage::Visible, LONGEST).unwrap();
    let last = outside.publish(&order(1)).unwrap().last();
    outside.wait_for(last, Stage::Visible, LONGEST).unwrap();
    node.sealer().seal(LONGEST).unwrap();
    drop((inside, outside));
    place.watched.joins();
    node.close().unwrap();
}

#[test]
fn a_future_outside_holds_on_to_its_producer() {
    let place = Place::new("held");
    let node = place.node();
    let mut publisher = place.connect(node.tape()).unwrap();
    let last = publisher.publish(&order(1)).unwrap().last();
    let reached = publisher.wait_async(last, Stage::Visible);
    drop(publisher);
    assert!(place.connect(node.tape()).is_err());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(reached), Ok(Sequence(2)));
    assert_eq!(place.connect(node.tape()).unwrap().last(), Some(ProducerSequence(1)));
    place.watched.joins();
    node.close().unwrap();
}
