//! Durable consumers inside a node, on a real disk: what they are given, what they resume with, what they are told.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use matchtape_node::consumers::{
    AckError, AckPolicy, Advisory, Attempt, ConsumerError, ConsumerFilter, ConsumerHandle, ConsumerName,
    Definition, DeliverPolicy, Delivery, Item, MemberName, ParkReason,
};
use matchtape_node::{Node, NodeOptions, Publisher};
use matchtape_schemas::{Event, EventTime, InstrumentId, Kind, KindMask, ProducerId, Sequence, Stage};
use matchtape_storage::{
    Disk, PinLimit, PinLimits, ReadOnlyOptions, ReadOnlyStore, RealDisk, RetentionPolicy,
};
use support::{order, put};

/// Long enough for anything that happens at all.
const LONG: Duration = Duration::from_secs(30);
/// For what must not happen: short, because it is waited for in full.
const SHORT: Duration = Duration::from_millis(60);

struct Place {
    /// With the judge of every event.
    judged: support::place::Place,
    disk: Arc<dyn Disk>,
}

impl Place {
    fn new() -> Self {
        let judged = support::place::Place::new("consumers");
        Self { disk: judged.disk(), judged }
    }

    fn folder(&self) -> std::path::PathBuf {
        self.judged.folder.path().join("data")
    }

    fn open(&self) -> Node {
        self.open_with(|_| {})
    }

    fn open_with(&self, change: impl FnOnce(&mut NodeOptions)) -> Node {
        let mut options = NodeOptions { ingress: None, ..self.judged.options() };
        // So soon it hears a bus on which nothing is published.
        options.bus.as_mut().unwrap().config.heartbeat_interval = Duration::from_millis(10);
        change(&mut options);
        let node = Node::open_on(Arc::clone(&self.disk), options, Vec::new()).expect("a disk that works");
        self.judged.watched.joins();
        node
    }
}

/// Records only when somebody waits for it, and at the end.
fn never_by_itself(options: &mut NodeOptions) {
    options.consumers.record_interval = Duration::from_secs(3600);
}

fn name(text: &str) -> ConsumerName {
    text.parse().unwrap()
}

fn member(text: &str) -> MemberName {
    text.parse().unwrap()
}

fn explicit() -> Definition {
    Definition { ack: AckPolicy::Explicit, ..Definition::default() }
}

/// An order of one of a few instruments.
fn event(number: u64, instruments: u32) -> Event {
    Event { instrument: InstrumentId(1 + number as u32 % instruments), ..order(number) }
}

fn publish(node: &Node, publisher: &mut Publisher, numbers: std::ops::RangeInclusive<u64>) -> Sequence {
    let mut last = Sequence::ZERO;
    for number in numbers {
        last = put(publisher, &event(number, 3)).sequence();
    }
    node.wait(last, Stage::Visible).unwrap();
    last
}

/// (sequence, delivery count, redelivered) of what comes, until nothing does.
fn drain(handle: &ConsumerHandle, batch: usize) -> Vec<(u64, u32, bool)> {
    let mut all = Vec::new();
    loop {
        let items = match handle.attempt(batch).unwrap() {
            Attempt::Items(items) => items,
            // There may be something at once, however long others had their turn.
            Attempt::Wait(ready) if ready.is_turn() => continue,
            Attempt::Wait(_) => handle.fetch(batch, SHORT).unwrap(),
        };
        if items.is_empty() {
            return all;
        }
        for item in items {
            let delivery = item.delivery().unwrap_or_else(|| panic!("{item:?}")).clone();
            assert_eq!(delivery.event().sequence(), delivery.sequence());
            all.push((delivery.sequence().get(), delivery.delivery_count(), delivery.redelivered()));
        }
    }
}

fn new(sequences: impl IntoIterator<Item = u64>) -> Vec<(u64, u32, bool)> {
    sequences.into_iter().map(|sequence| (sequence, 1, false)).collect()
}

#[test]
fn everything_comes_once_in_order_and_goes_on_after_a_restart_behind_what_was_acknowledged() {
    let place = Place::new();
    let node = place.open();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    publish(&node, &mut publisher, 1..=100);
    assert!(
        !place.disk.list("".as_ref()).unwrap().iter().any(|entry| entry.name == "system"),
        "nobody asked"
    );
    let info = node.consumers().add(&name("risk"), Definition::default()).unwrap();
    assert_eq!((info.machine.next, info.visible), (Sequence(1), Sequence(101)));
    let handle = node.consumers().attach(&name("risk"), &member("a")).unwrap();
    let got = drain(&handle, 7);
    assert_eq!(got, new(1..=101));
    let info = node.consumers().info(&name("risk")).unwrap();
    assert_eq!((info.machine.delivered, info.machine.out, info.machine.floor), (101, 101, Sequence(0)));
    assert_eq!(handle.ack(Sequence(60)).unwrap().settled, 60);
    drop((handle, publisher));
    node.close().unwrap();

    let node = place.open();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    publish(&node, &mut publisher, 101..=110);
    let info = node.consumers().info(&name("risk")).unwrap();
    assert_eq!(
        (info.machine.floor, info.machine.next, info.machine.waiting),
        (Sequence(60), Sequence(102), 41)
    );
    let handle = node.consumers().attach(&name("risk"), &member("a")).unwrap();
    let expected: Vec<_> = (61..=101).map(|sequence| (sequence, 2, true)).chain(new(102..=112)).collect();
    assert_eq!(drain(&handle, 50), expected);
    handle.ack(Sequence(112)).unwrap();
    drop((handle, publisher));
    node.close().unwrap();
    let node = place.open();
    assert_eq!(node.consumers().info(&name("risk")).unwrap().machine.floor, Sequence(112));
}

#[test]
fn what_was_not_recorded_before_a_crash_comes_again_marked_and_what_was_does_not() {
    let place = Place::new();
    let node = place.open_with(never_by_itself);
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    publish(&node, &mut publisher, 1..=50);
    node.consumers().add(&name("risk"), explicit()).unwrap();
    let handle = node.consumers().attach(&name("risk"), &member("a")).unwrap();
    assert_eq!(drain(&handle, 20), new(1..=51));
    for sequence in 1..=9 {
        handle.ack(Sequence(sequence)).unwrap();
    }
    handle.ack_durable(Sequence(10)).unwrap();
    handle.ack(Sequence(11)).unwrap();
    drop((handle, publisher));
    // As a crash: nothing more is recorded.
    drop(node);

    let node = place.open_with(never_by_itself);
    let handle = node.consumers().attach(&name("risk"), &member("a")).unwrap();
    let expected: Vec<_> = (11..=51).map(|sequence| (sequence, 2, true)).collect();
    assert_eq!(drain(&handle, 20), expected, "11 was acknowledged, but not recorded");
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    publish(&node, &mut publisher, 51..=60);
    assert_eq!(drain(&handle, 20).len(), 11);
    drop((handle, publisher));
    drop(node);

    // These were delivered, and nothing of it was recorded: they are marked all the same.
    let node = place.open();
    let handle = node.consumers().attach(&name("risk"), &member("a")).unwrap();
    assert!(drain(&handle, 20).iter().all(|(_, _, redelivered)| *redelivered));
}

#[test]
fn a_consumer_begins_where_it_was_asked_to() {
    let place = Place::new();
    let node = place.open();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    // Sequence n + 1 is order n, of instrument 1 + n % 3.
    publish(&node, &mut publisher, 1..=30);
    let consumers = node.consumers();
    let filter = |instruments: &[u32]| ConsumerFilter {
        kinds: KindMask::ORDERS,
        instruments: instruments.iter().map(|id| InstrumentId(*id)).collect(),
    };
    let cases: [(DeliverPolicy, ConsumerFilter, Vec<u64>); 9] = [
        (DeliverPolicy::All, ConsumerFilter::default(), (1..=31).collect()),
        (DeliverPolicy::All, filter(&[1, 3]), (1..=30).filter(|n| n % 3 != 1).map(|n| n + 1).collect()),
        (DeliverPolicy::New, ConsumerFilter::default(), vec![]),
        (DeliverPolicy::Last, ConsumerFilter::default(), vec![31]),
        (DeliverPolicy::Last, filter(&[2, 3]), vec![30]),
        (DeliverPolicy::LastPerInstrument, ConsumerFilter::default(), vec![29, 30, 31]),
        (DeliverPolicy::LastPerInstrument, filter(&[2, 7]), vec![29]),
        (DeliverPolicy::ByStartSequence(Sequence(28)), ConsumerFilter::default(), (28..=31).collect()),
        (DeliverPolicy::ByStartTime(order(25).event_time), filter(&[]), (26..=31).collect()),
    ];
    for (place, (deliver, filter, expected)) in cases.iter().enumerate() {
        let name = name(&format!("c{place}"));
        let definition = Definition { deliver: *deliver, filter: filter.clone(), ..explicit() };
        consumers.add(&name, definition).unwrap();
        let handle = consumers.attach(&name, &member("m")).unwrap();
        assert_eq!(drain(&handle, 4), new(expected.iter().copied()), "{deliver:?}");
    }
    publish(&node, &mut publisher, 31..=33);
    for (place, (deliver, filter, _)) in cases.iter().enumerate() {
        let handle = consumers.attach(&name(&format!("c{place}")), &member("m")).unwrap();
        let came: Vec<u64> = drain(&handle, 4).iter().filter(|one| !one.2).map(|one| one.0).collect();
        let passes = |sequence: &u64| {
            let instrument = InstrumentId(1 + (*sequence as u32 - 1) % 3);
            filter.instruments.is_empty() || filter.instruments.contains(&instrument)
        };
        assert_eq!(came, (32..=34).filter(passes).collect::<Vec<_>>(), "{deliver:?}");
    }
    let time_ahead = DeliverPolicy::ByStartTime(EventTime::MAX);
    let info = consumers.add(&name("later"), Definition { deliver: time_ahead, ..explicit() }).unwrap();
    assert_eq!(info.machine.next, Sequence(35));
}

#[test]
fn the_last_of_each_instrument_goes_on_after_a_crash_in_the_middle_of_them() {
    let place = Place::new();
    let node = place.open();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    publish(&node, &mut publisher, 1..=30);
    let definition = Definition { deliver: DeliverPolicy::LastPerInstrument, ..explicit() };
    node.consumers().add(&name("c"), definition).unwrap();
    let handle = node.consumers().attach(&name("c"), &member("m")).unwrap();
    let first = handle.next(LONG).unwrap().unwrap();
    assert_eq!(first.delivery().unwrap().sequence(), Sequence(29));
    handle.ack_durable(Sequence(29)).unwrap();
    publish(&node, &mut publisher, 31..=40);
    drop((handle, publisher));
    drop(node);
    let node = place.open();
    let handle = node.consumers().attach(&name("c"), &member("m")).unwrap();
    let came: Vec<u64> = drain(&handle, 5).iter().map(|one| one.0).collect();
    assert_eq!(came, [30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41], "as of when it was made");
}

#[test]
fn a_waiting_member_is_woken_by_what_becomes_visible_by_acknowledgements_and_by_time() {
    let place = Place::new();
    let node = place.open();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    publish(&node, &mut publisher, 1..=2);
    let two_out = Definition { max_ack_pending: 2, ..explicit() };
    let consumers = node.consumers();
    consumers.add(&name("c"), Definition { deliver: DeliverPolicy::New, ..two_out.clone() }).unwrap();
    let handle = consumers.attach(&name("c"), &member("one")).unwrap();
    assert!(handle.fetch(10, SHORT).unwrap().is_empty());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| handle.fetch(10, LONG).unwrap());
        publish(&node, &mut publisher, 3..=3);
        let items = waiting.join().unwrap();
        assert_eq!(items[0].delivery().unwrap().sequence(), Sequence(4));
    });
    publish(&node, &mut publisher, 4..=5);
    assert_eq!(handle.fetch(10, LONG).unwrap().len(), 1, "two may be out");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| handle.fetch(10, LONG).unwrap());
        handle.ack(Sequence(4)).unwrap();
        assert_eq!(waiting.join().unwrap()[0].delivery().unwrap().sequence(), Sequence(6));
    });
    // Nobody acknowledges the two that this one is given: time alone brings them again, and then parks them.
    let deliver = DeliverPolicy::ByStartSequence(Sequence(5));
    let wait = Duration::from_millis(150);
    let patient = Definition { deliver, max_deliver: Some(2), members_max: 2, ..two_out };
    consumers.add(&name("t"), Definition { ack_wait: wait, ..patient.clone() }).unwrap();
    let handle = consumers.attach(&name("t"), &member("one")).unwrap();
    let begun = Instant::now();
    assert_eq!(handle.fetch(10, LONG).unwrap().len(), 2);
    let other = consumers.attach(&name("t"), &member("two")).unwrap();
    let (mut came, mut told) = (Vec::new(), Vec::new());
    while told.is_empty() {
        for item in other.fetch(10, LONG).unwrap() {
            match item {
                Item::Delivery(delivery) => {
                    assert!(delivery.delivery_count() == 2 && delivery.redelivered());
                    came.push(delivery.sequence().get());
                }
                Item::Advisory(advisory) => told.push(advisory),
            }
        }
    }
    assert_eq!(came, [5, 6]);
    let reason = ParkReason::Expired;
    assert_eq!(told[0], Advisory::Parked { sequence: Sequence(5), deliveries: 2, reason });
    assert!(begun.elapsed() >= 2 * wait);
    while consumers.parked(&name("t")).unwrap().len() < 2 {
        handle.fetch(10, SHORT).unwrap();
    }
    // What is taken back does not expire at once again.
    consumers.update(&name("t"), patient).unwrap();
    assert_eq!(consumers.unpark(&name("t"), Some(Sequence(5))).unwrap(), 1);
    let again = loop {
        if let Some(Item::Delivery(delivery)) = handle.next(LONG).unwrap() {
            break delivery;
        }
    };
    assert_eq!((again.sequence(), again.delivery_count()), (Sequence(5), 3));
    assert_eq!(consumers.discard(&name("t"), None).unwrap(), 1);
}

/// What a member was given. `got` and `acked` are moments of one count that every member moves on.
struct Given {
    /// Which life of which member.
    attachment: (u64, u32),
    delivery: Delivery,
    /// When it was there.
    got: u64,
    /// When its acknowledgement began; `None`: its member died with it.
    acked: Option<u64>,
}

#[test]
fn members_share_the_events_each_instrument_in_order_whoever_dies() {
    const MEMBERS: u64 = 4;
    let place = Place::new();
    let node = place.open();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    let definition = Definition { members_max: MEMBERS as u16, max_ack_pending: 64, ..explicit() };
    let consumers = node.consumers();
    consumers.add(&name("shared"), definition).unwrap();
    let total = 3000u64;
    let (sender, seen) = std::sync::mpsc::channel();
    let each_has_one = std::sync::Barrier::new(MEMBERS as usize);
    let moments = AtomicU64::new(0);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for worker in 0..MEMBERS {
            let (consumers, sender) = (consumers.clone(), sender.clone());
            let (each_has_one, moments) = (&each_has_one, &moments);
            scope.spawn(move || {
                let moment = || moments.fetch_add(1, Ordering::SeqCst);
                let attach = || consumers.attach(&name("shared"), &member(&format!("w{worker}"))).unwrap();
                let (mut life, mut handled) = (0, 0);
                let mut handle = attach();
                // Nobody does all of it before another has begun.
                let mut items = handle.fetch(1, LONG).unwrap();
                each_has_one.wait();
                while consumers.info(&name("shared")).unwrap().machine.floor.get() <= total {
                    assert!(begun.elapsed() < LONG, "it never comes to an end");
                    let got = moment();
                    // All of them together can do no more than a third of it without one that dies with what it has.
                    let dies = handled > 100 * (worker + 1) && !items.is_empty();
                    for item in items {
                        let delivery = item.delivery().unwrap().clone();
                        let acked = (!dies).then(moment);
                        if !dies {
                            handle.ack(delivery.sequence()).unwrap();
                        }
                        handled += 1;
                        sender.send(Given { attachment: (worker, life), delivery, got, acked }).unwrap();
                    }
                    if dies {
                        drop(handle);
                        (handled, life) = (0, life + 1);
                        handle = attach();
                    }
                    items = handle.fetch(1 + worker as usize * 3, SHORT).unwrap();
                }
            });
        }
        drop(sender);
        for number in 1..=total {
            put(&mut publisher, &event(number, 17));
        }
    });
    let mut all: Vec<Given> = seen.iter().collect();
    all.sort_by_key(|given| given.delivery.consumer_sequence());
    assert!(all.iter().zip(1..).all(|(given, number)| given.delivery.consumer_sequence() == number));
    // The last delivery of each event, by instrument.
    let mut latest: BTreeMap<InstrumentId, BTreeMap<Sequence, &Given>> = BTreeMap::new();
    for given in &all {
        let Given { attachment, delivery, got, .. } = given;
        let (sequence, instrument) = (delivery.sequence(), delivery.event().instrument());
        let known = latest.entry(instrument).or_default();
        if known.contains_key(&sequence) {
            assert!(delivery.redelivered(), "{sequence} unmarked");
        } else {
            let before = known.last_key_value().map(|(last, _)| *last);
            assert!(before < Some(sequence), "{sequence} of {instrument} came first behind {before:?}");
        }
        for (earlier, with) in known.range(..sequence).filter(|(_, with)| with.attachment != *attachment) {
            assert!(
                with.acked.is_some_and(|acked| acked < *got),
                "{sequence} of {instrument} went to {attachment:?} while {earlier} was not done with by {:?}",
                with.attachment
            );
        }
        known.insert(sequence, given);
    }
    let events: usize = latest.values().map(BTreeMap::len).sum();
    assert_eq!(events as u64, total + 1, "every event, the epoch's included");
    assert!(latest.values().flat_map(BTreeMap::values).all(|given| given.acked.is_some()));
    let workers: BTreeSet<u64> = all.iter().map(|given| given.attachment.0).collect();
    assert_eq!(workers.len() as u64, MEMBERS);
    assert!(all.iter().any(|given| given.acked.is_none()), "nobody died with anything");
    assert_eq!(consumers.info(&name("shared")).unwrap().machine.floor, Sequence(total + 1));
}

/// What is on the system tape.
fn records(place: &Place) -> u128 {
    let disk = RealDisk::open(&place.folder().join("system")).unwrap();
    let store = ReadOnlyStore::open(Arc::new(disk), ReadOnlyOptions::default()).unwrap();
    let mut frames = store.reader().frames(Sequence::FIRST).unwrap();
    let mut records = 0;
    while let Some(frame) = frames.next_frame().unwrap() {
        records += frame.frame().events().filter(|event| event.kind() == Kind::StateSet).count() as u128;
    }
    records
}

#[test]
fn however_many_acknowledgements_there_are_a_consumer_is_recorded_once_per_interval() {
    const INTERVAL: Duration = Duration::from_millis(50);
    const EVENTS: u64 = 1900;
    let place = Place::new();
    let node = place.open_with(|options| options.consumers.record_interval = INTERVAL);
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    let last = publish(&node, &mut publisher, 1..=EVENTS);
    let definition = Definition { max_ack_pending: 2000, ..explicit() };
    for consumer in ["busy", "idle"] {
        node.consumers().add(&name(consumer), definition.clone()).unwrap();
    }
    let handle = node.consumers().attach(&name("busy"), &member("a")).unwrap();
    assert_eq!(drain(&handle, 100).len() as u64, EVENTS + 1);
    handle.ack_durable(Sequence(1)).unwrap();
    let before = records(&place);
    let begun = Instant::now();
    for sequence in 2..last.get() {
        handle.ack(Sequence(sequence)).unwrap();
        // Over several intervals.
        if sequence % 100 == 0 {
            std::thread::sleep(INTERVAL / 4);
        }
    }
    handle.ack_durable(last).unwrap();
    let intervals = begun.elapsed().as_nanos() / INTERVAL.as_nanos();
    let made = records(&place) - before;
    // The first need not wait, and the last was asked for.
    assert!((1..=intervals + 2).contains(&made), "{made} records in {intervals} intervals");
}

#[test]
fn definitions_are_made_changed_and_forgotten_durably() {
    let place = Place::new();
    let node = place.open();
    let consumers = node.consumers();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    publish(&node, &mut publisher, 1..=5);
    assert!(matches!(consumers.info(&name("c")), Err(ConsumerError::Unknown(_))));
    assert!(matches!(consumers.attach(&name("c"), &member("m")), Err(ConsumerError::Unknown(_))));
    let wrong = Definition { max_ack_pending: 0, ..Definition::default() };
    assert!(matches!(consumers.add(&name("c"), wrong), Err(ConsumerError::Definition(_))));
    consumers.add(&name("c"), Definition::default()).unwrap();
    consumers.add(&name("c"), Definition::default()).unwrap();
    let slower = Definition { ack_wait: Duration::from_secs(60), ..Definition::default() };
    assert!(matches!(consumers.add(&name("c"), slower.clone()), Err(ConsumerError::Exists(_))));
    consumers.update(&name("c"), slower.clone()).unwrap();
    let moved = Definition { deliver: DeliverPolicy::New, ..slower.clone() };
    assert!(matches!(consumers.update(&name("c"), moved), Err(ConsumerError::Definition(_))));
    consumers.add(&name("gone"), Definition::default()).unwrap();
    let handle = consumers.attach(&name("gone"), &member("m")).unwrap();
    assert_eq!(drain(&handle, 100).len(), 6);
    consumers.delete(&name("gone")).unwrap();
    assert!(matches!(handle.ack(Sequence(1)), Err(ConsumerError::Deleted(_))));
    assert!(matches!(handle.fetch(1, LONG), Err(ConsumerError::Deleted(_))));
    drop((handle, publisher));
    drop(node);

    let node = place.open();
    let consumers = node.consumers();
    let all: Vec<_> = consumers.list().into_iter().map(|info| (info.name, info.definition)).collect();
    assert_eq!(all, [(name("c"), slower)]);
    consumers.add(&name("gone"), Definition::default()).unwrap();
    let handle = consumers.attach(&name("gone"), &member("m")).unwrap();
    assert_eq!(drain(&handle, 100), new(1..=6), "one of an old name is a new one");
    node.close().unwrap();
    assert!(matches!(handle.ack(Sequence(1)), Err(ConsumerError::Closed)));
    assert!(matches!(handle.fetch(1, LONG), Err(ConsumerError::Closed)));
    assert!(matches!(consumers.add(&name("x"), Definition::default()), Err(ConsumerError::Closed)));
}

#[test]
fn a_consumer_that_is_made_while_the_node_closes_is_there_afterwards_or_was_refused() {
    const ROUNDS: usize = 8;
    let place = Place::new();
    let mut made = Vec::new();
    for round in 0..ROUNDS {
        let node = place.open();
        let consumers = node.consumers();
        let (tell, hear) = std::sync::mpsc::channel();
        let making = std::thread::spawn({
            let consumers = consumers.clone();
            move || {
                let mut names = (0..).map(|number| name(&format!("c{round}-{number}")));
                loop {
                    let name = names.next().unwrap();
                    if let Err(error) = consumers.add(&name, Definition::default()) {
                        return error;
                    }
                    tell.send(name).unwrap();
                }
            }
        });
        // Then it is at another one.
        made.extend(hear.iter().take(1 + round % 3));
        node.close().unwrap();
        let refused = making.join().unwrap();
        assert!(matches!(refused, ConsumerError::Closed), "{refused}");
        made.extend(hear.try_iter());
        for name in &made {
            // Those of earlier rounds are there, too, and have ended like the others.
            let attached = consumers.attach(name, &member("m"));
            assert!(matches!(attached, Err(ConsumerError::Closed)), "{name} goes on without its node");
        }
    }
    let node = place.open();
    let there: Vec<_> = node.consumers().list().into_iter().map(|info| info.name).collect();
    assert!(made.iter().all(|name| there.contains(name)), "{there:?} of {made:?}");
    // One that was refused may be there, as one that nobody was told of.
    assert!(there.len() <= made.len() + ROUNDS);
    node.close().unwrap();
}

#[test]
fn an_acknowledgement_that_says_nothing_is_refused() {
    let place = Place::new();
    let node = place.open();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    publish(&node, &mut publisher, 1..=9);
    let consumers = node.consumers();
    let filter = ConsumerFilter { instruments: vec![InstrumentId(2)], ..ConsumerFilter::default() };
    let deliver = DeliverPolicy::ByStartSequence(Sequence(4));
    consumers.add(&name("c"), Definition { filter, deliver, ..explicit() }).unwrap();
    let handle = consumers.attach(&name("c"), &member("m")).unwrap();
    assert_eq!(drain(&handle, 2), new([5, 8]));
    let refused = |sequence| match handle.ack(Sequence(sequence)) {
        Err(ConsumerError::Ack(error)) => error,
        other => panic!("{other:?}"),
    };
    for never in [0, 2, 4, 6, 10] {
        assert_eq!(refused(never), AckError::NeverDelivered { sequence: Sequence(never) });
    }
    assert_eq!(refused(11), AckError::Beyond { sequence: Sequence(11), next: Sequence(11) });
    assert_eq!(handle.ack(Sequence(5)).unwrap().settled, 1);
    assert_eq!(handle.ack(Sequence(5)).unwrap().settled, 0, "again is no error");
    handle.nak(Sequence(8), Duration::from_secs(60)).unwrap();
    assert!(matches!(handle.in_progress(Sequence(8)), Err(ConsumerError::Ack(AckError::Waiting { .. }))));
    assert_eq!(handle.term(Sequence(8)).unwrap().settled, 1);

    // A second one of the same name takes the place of the first.
    let again = consumers.attach(&name("c"), &member("m")).unwrap();
    assert!(matches!(handle.fetch(1, LONG), Err(ConsumerError::NotAttached)));
    let full = consumers.attach(&name("c"), &member("other")).map(|_| ());
    assert!(matches!(full, Err(ConsumerError::Attach(_))), "alone unless it is a group");
    drop(handle);
    drain(&again, 1);
}

#[test]
fn a_member_elsewhere_is_given_up_when_it_is_not_heard_of() {
    let place = Place::new();
    let node = place.open();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    publish(&node, &mut publisher, 1..=3);
    let consumers = node.consumers();
    let group = Definition { members_max: 2, ..explicit() };
    consumers
        .add(&name("c"), Definition { member_timeout: Duration::from_secs(60), ..group.clone() })
        .unwrap();
    let remote = consumers.attach_remote(&name("c"), &member("remote")).unwrap();
    let id = remote.member();
    drop(remote);
    let session = consumers.session(&name("c"), id).unwrap();
    assert_eq!(session.fetch(2, LONG).unwrap().len(), 2, "it stays between its requests");
    // Of those who are there, too.
    consumers.update(&name("c"), Definition { member_timeout: Duration::from_millis(100), ..group }).unwrap();
    let local = consumers.attach(&name("c"), &member("local")).unwrap();
    let mut came = Vec::new();
    while came.len() < 4 {
        came.extend(local.fetch(9, LONG).unwrap().iter().map(|item| {
            let delivery = item.delivery().unwrap();
            (delivery.sequence().get(), delivery.redelivered())
        }));
    }
    came.sort_unstable();
    assert_eq!(came, [(1, true), (2, true), (3, false), (4, false)]);
    assert!(matches!(session.fetch(1, LONG), Err(ConsumerError::NotAttached)));
}

#[test]
fn whoever_works_long_and_says_so_is_heard_of() {
    let place = Place::new();
    let node = place.open();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    publish(&node, &mut publisher, 1..=1);
    let consumers = node.consumers();
    // Where this thread stood still for as long as a member may be silent nothing was shown: again, with more time.
    let shown = (0..8).any(|attempt| {
        let member_timeout = Duration::from_millis(150 << attempt);
        let name = name(&format!("c{attempt}"));
        consumers.add(&name, Definition { member_timeout, ..explicit() }).unwrap();
        let mut last_word = Instant::now();
        let busy = consumers.attach_remote(&name, &member("busy")).unwrap();
        let mut came = busy.fetch(2, LONG).map(|items| items.len());
        // Three times as long as it may be silent, without asking for anything.
        for step in 0..9 {
            std::thread::sleep(member_timeout / 3);
            let this_word = Instant::now();
            let said = match step % 3 {
                0 => busy.in_progress(Sequence(1)).map(|_| ()),
                1 => busy.ack(Sequence(2)).map(|_| ()),
                _ => busy.nak(Sequence(7), Duration::ZERO).map(|_| ()),
            };
            if last_word.elapsed() >= member_timeout {
                return false;
            }
            assert_eq!(std::mem::replace(&mut came, Ok(2)).unwrap(), 2);
            assert_eq!(said.is_ok(), step % 3 < 2, "{said:?}");
            last_word = this_word;
        }
        let attached: Vec<_> = consumers.info(&name).unwrap().machine.members;
        if last_word.elapsed() >= member_timeout {
            return false;
        }
        assert_eq!(attached.len(), 1, "it was given up");
        assert_eq!((attached[0].name.as_str(), attached[0].pending), ("busy", 1));
        true
    });
    assert!(shown, "this thread is never there in time");
    drop(publisher);
    node.close().unwrap();
}

#[test]
fn a_filter_that_changes_in_the_middle_of_the_last_of_each_instrument_counts_from_there_on() {
    let place = Place::new();
    let node = place.open();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    publish(&node, &mut publisher, 1..=9);
    let consumers = node.consumers();
    let only = |instruments: &[u32]| Definition {
        deliver: DeliverPolicy::LastPerInstrument,
        filter: ConsumerFilter {
            instruments: instruments.iter().copied().map(InstrumentId).collect(),
            ..ConsumerFilter::default()
        },
        ..explicit()
    };
    consumers.add(&name("c"), only(&[1, 2, 3])).unwrap();
    let handle = consumers.attach(&name("c"), &member("m")).unwrap();
    // Events 7, 8, 9 are the last of instruments 2, 3 and 1; they lie one behind the tape's first.
    let first = handle.fetch(1, LONG).unwrap();
    assert_eq!(first[0].delivery().unwrap().sequence(), Sequence(8));
    consumers.update(&name("c"), only(&[1])).unwrap();
    assert_eq!(drain(&handle, 5), new([10]), "not the last of an instrument that is not wanted any more");
    drop((handle, publisher));
    node.close().unwrap();
}

#[test]
fn a_session_of_an_earlier_life_of_the_node_is_nobody_in_this_one() {
    let place = Place::new();
    let (mut ever, mut earlier) = (std::collections::BTreeSet::new(), Vec::new());
    for life in 0..3u64 {
        let node = place.open();
        let mut publisher = node.publisher(ProducerId(1)).unwrap();
        publish(&node, &mut publisher, life * 10 + 1..=life * 10 + 10);
        let consumers = node.consumers();
        consumers.add(&name("shared"), Definition { members_max: 2, ..explicit() }).unwrap();
        let mine: Vec<_> = ["one", "two"]
            .into_iter()
            .map(|text| consumers.attach_remote(&name("shared"), &member(text)).unwrap().member())
            .collect();
        for id in &mine {
            assert!(ever.insert(*id), "{id:?} was another member's before");
        }
        // A member that did not notice the restart does not get what is another one's now.
        for id in &earlier {
            let stale = consumers.session(&name("shared"), *id).unwrap();
            assert!(matches!(stale.fetch(1, LONG), Err(ConsumerError::NotAttached)));
        }
        earlier = mine;
        drop(publisher);
        if life == 1 { drop(node) } else { node.close().unwrap() }
    }
}

#[test]
fn delays_and_delivery_limits_outlive_the_node() {
    const HOUR: Duration = Duration::from_secs(3600);
    let place = Place::new();
    let node = place.open();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    publish(&node, &mut publisher, 1..=2);
    let consumers = node.consumers();
    let resting = Definition { backoff: vec![HOUR], ..explicit() };
    for (consumer, definition) in [
        ("delayed", explicit()),
        ("resting", resting),
        ("once", Definition { max_deliver: Some(1), ..explicit() }),
    ] {
        consumers.add(&name(consumer), definition).unwrap();
        let handle = consumers.attach_remote(&name(consumer), &member("m")).unwrap();
        assert_eq!(drain(&handle, 10), new(1..=3));
        if consumer == "delayed" {
            handle.nak(Sequence(2), HOUR).unwrap();
        }
        handle.ack_durable(Sequence(3)).unwrap();
    }
    drop(publisher);
    // Killed.
    drop(node);
    let node = place.open();
    let come = |consumer: &str| -> Vec<Item> {
        let handle = node.consumers().attach(&name(consumer), &member("m")).unwrap();
        let first = handle.fetch(10, SHORT).unwrap();
        std::iter::successors(Some(first), |_| Some(handle.fetch(10, SHORT).unwrap()))
            .take_while(|items| !items.is_empty())
            .flatten()
            .collect()
    };
    let delivered = |items: Vec<Item>| -> Vec<u64> {
        items.iter().filter_map(Item::delivery).map(|delivery| delivery.sequence().get()).collect()
    };
    assert_eq!(delivered(come("delayed")), [1], "the other one was to be left alone for an hour");
    assert!(delivered(come("resting")).is_empty(), "its step is an hour");
    let told: Vec<_> = come("once")
        .into_iter()
        .map(|item| match item {
            Item::Advisory(Advisory::Parked { sequence, deliveries, .. }) => (sequence.get(), deliveries),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [(1, 1), (2, 1)]);
    // Whoever had finished it says so to the new node, and it is not parked any more.
    let session =
        node.consumers().session(&name("once"), matchtape_node::consumers::MemberId::NOBODY).unwrap();
    assert_eq!(session.ack_durable(Sequence(1)).unwrap().settled, 1);
    node.close().unwrap();
    let node = place.open();
    let parked = node.consumers().parked(&name("once")).unwrap();
    assert_eq!(parked.iter().map(|one| one.sequence).collect::<Vec<_>>(), [Sequence(2)]);
}

#[test]
fn what_a_panicking_member_had_rests_for_its_backoff_and_what_a_leaving_one_had_does_not() {
    let place = Place::new();
    let node = place.open();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    publish(&node, &mut publisher, 1..=2);
    let consumers = node.consumers();
    let definition = Definition { backoff: vec![Duration::from_secs(3600)], ..explicit() };
    for (consumer, panics, comes_again) in [("left", false, 3), ("died", true, 0)] {
        consumers.add(&name(consumer), definition.clone()).unwrap();
        let member_s_end = std::thread::scope(|scope| {
            let life = scope.spawn(|| {
                let handle = consumers.attach(&name(consumer), &member("m")).unwrap();
                assert_eq!(drain(&handle, 10), new(1..=3));
                assert!(!panics, "one of these events is more than this member can bear");
            });
            life.join()
        });
        assert_eq!(member_s_end.is_err(), panics);
        let handle = consumers.attach(&name(consumer), &member("m")).unwrap();
        assert_eq!(drain(&handle, 10).len(), comes_again, "{consumer}");
    }
    drop(publisher);
    node.close().unwrap();
}

#[test]
fn searching_a_long_tape_for_the_last_of_each_instrument_holds_nobody_for_all_of_it() {
    let place = Place::new();
    let node = place.open();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    // A few events to the frame: more frames than are looked at in one turn.
    for number in 1..=400 {
        put(&mut publisher, &event(number, 3));
        node.wait(Sequence(number + 1), Stage::Visible).unwrap();
    }
    let consumers = node.consumers();
    let policy = DeliverPolicy::LastPerInstrument;
    let many = (1..=100).map(InstrumentId).collect();
    for (text, instruments) in [("search", Vec::new()), ("look-up", many)] {
        let filter = ConsumerFilter { instruments, ..ConsumerFilter::default() };
        consumers.add(&name(text), Definition { deliver: policy, filter, ..explicit() }).unwrap();
        let handle = consumers.attach(&name(text), &member("m")).unwrap();
        let mut turns = 0;
        let items = loop {
            match handle.attempt(10).unwrap() {
                Attempt::Items(items) => break items,
                Attempt::Wait(ready) => assert!(ready.is_turn(), "there is something to come"),
            }
            turns += 1;
        };
        assert!(turns >= 3, "{text}: {turns} turns");
        let came: Vec<u64> = items.iter().map(|item| item.delivery().unwrap().sequence().get()).collect();
        assert_eq!(came, [399, 400, 401], "{text}");
    }
}

#[test]
fn an_event_that_cannot_be_read_just_now_was_not_delivered() {
    let mut place = Place::new();
    let small_cache = |options: &mut NodeOptions| options.store.block_cache_bytes = 0;
    let node = place.open_with(small_cache);
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    publish(&node, &mut publisher, 1..=2499);
    let consumers = node.consumers();
    let definition = Definition { max_deliver: Some(2), max_ack_pending: 2000, ..explicit() };
    consumers.add(&name("c"), definition).unwrap();
    let handle = consumers.attach(&name("c"), &member("m")).unwrap();
    assert_eq!(drain(&handle, 500), new(1..=2000));
    node.store().flush().unwrap();
    drop((handle, publisher));
    node.close().unwrap();

    // Who judges needs all of it.
    place.judged.watched.ends_clean();
    // In tables now, and read from there.
    let node = place.open_with(small_cache);
    let handle = node.consumers().attach(&name("c"), &member("m")).unwrap();
    let damaged: Vec<_> = std::fs::read_dir(place.folder().join("tables"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    for (path, bytes) in &damaged {
        std::fs::write(path, vec![0xEE; bytes.len()]).unwrap();
    }
    for _ in 0..5 {
        assert!(matches!(handle.fetch(10, LONG), Err(ConsumerError::Read(_))));
    }
    for (path, bytes) in &damaged {
        std::fs::write(path, bytes).unwrap();
    }
    let again: Vec<_> = (1..=2000).map(|sequence| (sequence, 2, true)).collect();
    assert_eq!(drain(&handle, 500), again, "each for the second time, in order, and none is parked");
}

#[tokio::test]
async fn many_members_wait_on_one_thread() {
    let place = Place::new();
    let node = place.open();
    let consumers = node.consumers();
    let mut handles = Vec::new();
    for number in 0..20 {
        let name = name(&format!("c{number}"));
        consumers.add(&name, Definition { max_ack_pending: 10, ..Definition::default() }).unwrap();
        handles.push(consumers.attach(&name, &member("m")).unwrap());
    }
    let tasks: Vec<_> = handles
        .into_iter()
        .map(|handle| {
            tokio::spawn(async move {
                let mut next = 1;
                while next <= 201 {
                    for item in handle.fetch_async(7).await.unwrap() {
                        assert_eq!(item.delivery().unwrap().sequence(), Sequence(next));
                        next += 1;
                    }
                    handle.ack(Sequence(next - 1)).unwrap();
                }
                handle.recorded().await.unwrap();
                handle.consumer().clone()
            })
        })
        .collect();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    for number in 1..=200 {
        put(&mut publisher, &event(number, 3));
        tokio::task::yield_now().await;
    }
    for task in tasks {
        let done = tokio::time::timeout(LONG, task).await.unwrap().unwrap();
        assert_eq!(consumers.info(&done).unwrap().machine.floor, Sequence(201));
    }
}

#[test]
fn what_a_consumer_needs_is_kept_and_what_is_taken_from_it_all_the_same_is_told_exactly() {
    let mut place = Place::new();
    let node = place.open();
    let consumers = node.consumers();
    consumers.add(&name("c"), Definition { max_ack_pending: 5, ..explicit() }).unwrap();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    for part in 0..6 {
        publish(&node, &mut publisher, 1 + part * 500..=500 + part * 500);
        node.store().flush().unwrap();
    }
    let handle = consumers.attach(&name("c"), &member("m")).unwrap();
    assert_eq!(drain(&handle, 5), new(1..=5));
    handle.ack_durable(Sequence(1)).unwrap();
    let now = matchtape_schemas::AcceptedTime(i64::MAX / 2);
    let unlimited = PinLimit { bytes: None, age: None };
    let keeping = RetentionPolicy {
        bytes: Some(0),
        pin_limits: PinLimits { consumer: unlimited, ..PinLimits::default() },
        ..RetentionPolicy::default()
    };
    node.store().retain(&keeping, now).unwrap();
    assert_eq!(node.reader().first_kept(), Sequence(1), "2 is not acknowledged");
    assert_eq!(node.store().pins()[0].from, 2);

    // Who judges needs all of it.
    place.judged.watched.ends_clean();
    let breaking = RetentionPolicy {
        pin_limits: PinLimits { consumer: PinLimit { bytes: Some(1), age: None }, ..PinLimits::default() },
        ..keeping
    };
    node.store().retain(&breaking, now).unwrap();
    let first_kept = node.reader().first_kept();
    assert!(first_kept > Sequence(2000), "{first_kept}");
    handle.nak(Sequence(3), Duration::ZERO).unwrap();
    let told = |item: Option<Item>| match item {
        Some(Item::Advisory(advisory)) => advisory,
        other => panic!("{other:?}"),
    };
    // 3 was to come again and cannot; what is out can still be acknowledged.
    let lost = Advisory::Lost { first: Sequence(3), last: Sequence(3) };
    assert_eq!(told(handle.next(LONG).unwrap()), lost);
    handle.ack_each(&[2, 4].map(Sequence)).unwrap();
    handle.ack_durable(Sequence(5)).unwrap();
    let lost = Advisory::Lost { first: Sequence(6), last: first_kept.previous() };
    assert_eq!(told(handle.next(LONG).unwrap()), lost);
    let next = handle.next(LONG).unwrap().unwrap().delivery().unwrap().clone();
    assert_eq!(next.sequence(), first_kept);
    handle.ack_durable(first_kept).unwrap();
    assert_eq!(node.store().pins()[0].from, first_kept.next().get(), "what is left is kept again");
    let below = DeliverPolicy::ByStartSequence(Sequence(7));
    let refused = consumers.add(&name("late"), Definition { deliver: below, ..explicit() }).unwrap_err();
    assert!(matches!(refused, ConsumerError::BelowRetention { asked: Sequence(7), .. }), "{refused}");
}

#[test]
fn records_that_later_ones_replaced_do_not_pile_up() {
    let place = Place::new();
    let small_log = |options: &mut NodeOptions| options.consumers.system_log_bytes = 1 << 20;
    let node = place.open_with(small_log);
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    publish(&node, &mut publisher, 1..=2500);
    let consumers = node.consumers();
    consumers.add(&name("c"), Definition { max_ack_pending: 2000, ..explicit() }).unwrap();
    let handle = consumers.attach(&name("c"), &member("m")).unwrap();
    assert_eq!(drain(&handle, 2000).len(), 2000);
    // Each of these is a record of 40 kB.
    for sequence in 1..=400 {
        handle.ack_durable(Sequence(sequence)).unwrap();
        drain_now(&handle);
    }
    let files = |directory: &str| -> u64 {
        let path = place.folder().join("system").join(directory);
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    };
    let bytes = files("wal") + files("tables");
    assert!(bytes < 10 << 20, "{bytes} bytes are left of 16 MB of records");
    drop((handle, publisher));
    drop(node);
    let node = place.open_with(small_log);
    assert_eq!(node.consumers().info(&name("c")).unwrap().machine.floor, Sequence(400));
}

fn drain_now(handle: &ConsumerHandle) {
    while let Attempt::Items(_) = handle.attempt(100).unwrap() {}
}

#[test]
fn a_filtered_consumer_goes_on_where_its_reservation_ends_inside_a_frame() {
    let place = Place::new();
    // Nothing moves the reservation but the consumer's asking for it.
    let node = place.open_with(never_by_itself);
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    // Sequence n + 1 is order n; what a new consumer has reserved ends with 4096, in the middle of the group.
    let of = |number: u64, instrument: u32| Event { instrument: InstrumentId(instrument), ..order(number) };
    for number in 1..=4079 {
        put(&mut publisher, &of(number, 1));
    }
    publisher.wait_for_room(40).unwrap();
    let group: Vec<Event> =
        (4080..4120).map(|number| of(number, if number == 4081 || number == 4109 { 2 } else { 1 })).collect();
    let last = publisher.publish_group(&group).unwrap().sequence();
    node.wait(last, Stage::Visible).unwrap();
    for ack in [AckPolicy::None, AckPolicy::Explicit] {
        let name = name(ack.name());
        let filter = ConsumerFilter { kinds: KindMask::ALL, instruments: vec![InstrumentId(2)] };
        node.consumers().add(&name, Definition { ack, filter, ..Definition::default() }).unwrap();
        let handle = node.consumers().attach(&name, &member("m")).unwrap();
        let mut came = Vec::new();
        while came.len() < 2 {
            let items = handle.fetch(100, LONG).unwrap();
            assert!(!items.is_empty(), "{came:?}");
            came.extend(items.iter().map(|item| item.delivery().unwrap().sequence().get()));
        }
        assert_eq!(came, [4082, 4110]);
    }
}
