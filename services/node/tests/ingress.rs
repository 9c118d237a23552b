//! Producers in other processes: what they publish is on the tape once, in order, whoever is killed.
//!
//! The other process is this test binary itself. `MATCHTAPE_INGRESS_KILLS` says how often each side is killed.

mod support;

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use matchtape_bus::{
    BusName, ConnectError, RemoteEnded, RemoteOptions, RemotePublishError, RemotePublisher, RemoteWaitError,
    WakeUp,
};
use matchtape_node::{Node, NodeOptions, Publish, PublishError, Published, VisibleAt, WaitError};
use matchtape_schemas::event::{Event, EventFlags, TimeAdvanced};
use matchtape_schemas::{
    Epoch, EventTime, InstrumentId, ProducerId, ProducerSequence, Sequence, Stage, TapeId,
};
use matchtape_storage::wal::SyncPolicy;
use matchtape_storage::{Disk, RealDisk};
use support::place::{self, PATIENCE, PRODUCER, Place, patient};
use support::{order, put, small};

const ROLE: &str = "MATCHTAPE_INGRESS_ROLE";

/// Starts this binary in a role, with the place to meet at.
fn start(place: &Place, role: &str) -> Other {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["the_process_at_the_other_end", "--exact", "--nocapture"])
        .env(ROLE, format!("{role} {} {}", place.namespace, place.folder.path().display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap()).lines();
    Other { child, output }
}

struct Other {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Other {
    /// The next line it says, without the test harness's own; `None` once it has ended.
    fn hear(&mut self) -> Option<String> {
        loop {
            let line = self.output.next()?.ok()?;
            if let Some((_, said)) = line.split_once("@ ") {
                return Some(said.to_owned());
            }
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more when the parent is done.
    let _ = writeln!(out, "@ {line}").and_then(|()| out.flush());
}

#[test]
fn the_process_at_the_other_end() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let words: Vec<&str> = role.split(' ').collect();
    let [role, tape, namespace, folder] = words.as_slice() else { panic!("{role}") };
    let folder = std::path::Path::new(folder);
    match *role {
        "node" | "unsynced" => {
            let disk: Arc<dyn Disk> = Arc::new(RealDisk::create(&folder.join("data")).unwrap());
            let options = place::options(folder, namespace);
            let options = if *role == "unsynced" { unsynced(options) } else { options };
            let node = Node::open_on(disk, options, Vec::new()).unwrap();
            say(&format!("open {}", node.tape().get()));
            std::thread::park();
        }
        // Publishes for ever, groups of one to three, and says what is durable.
        "publish" => {
            let tape = TapeId(tape.parse().unwrap());
            let name = BusName::with_root(namespace, tape, &folder.join("bus")).unwrap();
            let mut publisher = match RemotePublisher::connect(&name, PRODUCER, patient()) {
                Ok(publisher) => publisher,
                Err(error) => return say(&format!("{error}")),
            };
            let mut number = publisher.last().map_or(0, ProducerSequence::get);
            say(&format!("open {number}"));
            loop {
                let group = group_after(number);
                match publisher.publish_group(&group) {
                    Ok(Published::New { last, .. }) => number = last.get(),
                    Err(RemotePublishError::Refused(PublishError::WouldBlock)) => {
                        publisher.wait_for_room(3).unwrap();
                    }
                    // Its successor is published to.
                    Err(RemotePublishError::Refused(PublishError::Closed)) => std::thread::yield_now(),
                    other => panic!("{other:?}"),
                }
                if number % 50 < 3 {
                    match publisher.wait(ProducerSequence(number), Stage::Durable) {
                        Ok(at) => say(&format!("durable {number} {at}")),
                        Err(RemoteWaitError::Wait(WaitError::Closed)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
        other => panic!("{other}"),
    }
}

/// What the log is given is synced only where a segment ends.
fn unsynced(mut options: NodeOptions) -> NodeOptions {
    options.store.wal.sync = SyncPolicy::None;
    options.visible_at = VisibleAt::Written;
    options
}

/// The group that follows the event of this number: what it holds depends on nothing else.
fn group_after(number: u64) -> Vec<Event> {
    (number + 1..=number + 1 + number % 3).map(order).collect()
}

/// The producer's events on the tape, each with its position: of numbers 1, 2, 3 ... and whole groups.
fn check_tape(node: &Node, producer: ProducerId) -> Vec<(Sequence, Event)> {
    let mut frames = node.reader().frames(Sequence::FIRST).unwrap();
    let mut events = Vec::new();
    while let Some(frame) = frames.next_frame().unwrap() {
        for event in frame.frame().events().filter(|event| event.header().producer == producer) {
            events.push((event.sequence(), event.to_event()));
        }
    }
    for (index, (_, event)) in events.iter().enumerate() {
        let expected = order(index as u64 + 1);
        assert_eq!(event.body, expected.body, "event {index}");
        assert_eq!(event.producer_sequence, expected.producer_sequence);
    }
    events
}

fn check_groups(events: &[(Sequence, Event)]) {
    let mut number = 0;
    while number < events.len() as u64 {
        let size = group_after(number).len() as u64;
        for member in number..number + size {
            let (sequence, event) = &events[member as usize];
            assert_eq!(sequence.get(), events[number as usize].0.get() + member - number, "consecutive");
            let last = member + 1 == number + size;
            assert_eq!(event.flags.contains(EventFlags::LAST_OF_GROUP), last, "event {}", member + 1);
        }
        number += size;
    }
}

fn kills() -> u64 {
    std::env::var("MATCHTAPE_INGRESS_KILLS").map_or(5, |text| text.parse().expect("a number"))
}

#[test]
fn what_is_published_from_outside_is_on_the_tape_once_and_its_stages_are_awaited() {
    for wake_up in [WakeUp::Event, WakeUp::BusyPoll] {
        let place = Place::new("in");
        let mut options = place.options();
        options.ingress.as_mut().unwrap().config.wake_up = wake_up;
        let node = Node::open_on(place.disk(), options, Vec::new()).unwrap();
        let mut publisher = place.connect(node.tape()).unwrap();
        assert_eq!((publisher.last(), publisher.accepted()), (None, None));
        assert_eq!(
            publisher.wait(ProducerSequence(1), Stage::Durable),
            Err(RemoteWaitError::NeverPublished(ProducerSequence(1)))
        );
        let taken = publisher.publish(&order(1)).unwrap();
        assert_eq!(taken, Published::New { first: ProducerSequence(1), last: ProducerSequence(1) });
        // The term's start is on the tape before it.
        assert_eq!(publisher.wait(taken.last(), Stage::Accepted), Ok(Sequence(2)));
        assert_eq!(publisher.wait(taken.last(), Stage::Visible), Ok(Sequence(2)));
        let group: Vec<Event> = (2..=900).map(order).collect();
        let taken = publisher.publish_group(&group).unwrap();
        assert_eq!(publisher.wait(taken.last(), Stage::Durable), Ok(Sequence(901)));
        assert_eq!(publisher.poll(), Ok(0), "nothing is under way");
        let already = Published::Already { last: ProducerSequence(900) };
        assert_eq!(publisher.publish(&order(7)), Ok(already));
        assert_eq!(publisher.publish_group(&group), Ok(already));

        // Refused here, in the words of a publisher inside the node, before anything is sent.
        assert!(matches!(
            publisher.publish_group(&[order(900), order(901)]),
            Err(RemotePublishError::Refused(PublishError::GroupOrder { after, found }))
                if (after, found) == (ProducerSequence(900), ProducerSequence(900))
        ));
        assert!(matches!(
            publisher.publish_group(&[]),
            Err(RemotePublishError::Refused(PublishError::GroupSize { events: 0, limit: 1024 }))
        ));
        let mut ahead = order(901);
        ahead.event_time = EventTime(i64::MAX);
        assert!(matches!(
            publisher.publish(&ahead),
            Err(RemotePublishError::Refused(PublishError::EventTimeAhead { .. }))
        ));

        let second = place.connect(node.tape()).err().unwrap();
        assert!(
            matches!(&second, ConnectError::Ended(RemoteEnded::InUse { process, .. }) if *process == std::process::id()),
            "{second}"
        );
        assert!(node.publisher(PRODUCER).is_err(), "nor inside the node");
        drop(publisher);
        // Its place is free as soon as it has gone.
        let again = place.connect(node.tape()).unwrap();
        assert_eq!(again.last(), Some(ProducerSequence(900)));
        assert_eq!(again.accepted().unwrap().sequence, Sequence(901));
        drop(again);
        let events = check_tape(&node, PRODUCER);
        assert_eq!(events.len(), 900);
        place.watched.joins();
        node.close().unwrap();
    }
}

#[test]
fn a_full_window_refuses_and_everything_taken_arrives_in_order() {
    let place = Place::new("full");
    let options = NodeOptions { ring_slots: 4, ..place.options() };
    let node = Node::open_on(place.disk(), options, Vec::new()).unwrap();
    let remote = RemoteOptions { window_events: 24, ..patient() };
    let mut publisher = RemotePublisher::connect(&place.name(node.tape()), PRODUCER, remote).unwrap();
    let (mut refused, mut number) = (0, 0);
    let deadline = Instant::now() + PATIENCE;
    // Whoever is slower than the node is never refused: on, until it was not.
    while number < 3000 || refused == 0 {
        assert!(Instant::now() < deadline, "it is never full");
        match publisher.publish_group(&group_after(number)) {
            Ok(taken) => number = taken.last().get(),
            Err(RemotePublishError::Refused(PublishError::WouldBlock)) => {
                refused += 1;
                assert!(publisher.under_way() > 20, "{}", publisher.under_way());
                publisher.wait_for_room(3).unwrap();
            }
            other => panic!("{other:?}"),
        }
        assert!(publisher.under_way() <= 24);
    }
    publisher.wait(ProducerSequence(number), Stage::Visible).unwrap();
    let too_large: Vec<Event> = (number + 1..number + 6).map(order).collect();
    assert!(matches!(
        publisher.publish_group(&too_large),
        Err(RemotePublishError::Refused(PublishError::GroupSize { events: 5, limit: 4 }))
    ));
    drop(publisher);
    let events = check_tape(&node, PRODUCER);
    assert_eq!(events.len() as u64, number);
    check_groups(&events);
    place.watched.joins();
    node.close().unwrap();
}

#[test]
fn a_node_killed_under_load_loses_nothing_that_a_living_producer_published() {
    let place = Place::new("nodekill");
    let start = || {
        let mut node = start(&place, "node 0");
        let said = node.hear().expect("the node starts");
        (node, TapeId(said.strip_prefix("open ").unwrap().parse().unwrap()))
    };
    let (mut node, tape) = start();
    let mut publisher = place.connect(tape).unwrap();
    let (mut number, mut durable) = (0, 0);
    for round in 0..kills() {
        let until = number + 2000 + round * 137;
        while number < until {
            match publisher.publish_group(&group_after(number)) {
                Ok(taken) => number = taken.last().get(),
                Err(RemotePublishError::Refused(PublishError::WouldBlock)) => {
                    publisher.wait_for_room(3).unwrap()
                }
                other => panic!("{other:?}"),
            }
            if number % 500 < 3 {
                durable = number;
                publisher.wait(ProducerSequence(durable), Stage::Durable).unwrap();
            }
        }
        // In the middle of what is under way; published on into the void until another node answers.
        node.kill();
        for _ in 0..50 {
            match publisher.publish_group(&group_after(number)) {
                Ok(taken) => number = taken.last().get(),
                Err(RemotePublishError::Refused(PublishError::WouldBlock)) => break,
                other => panic!("{other:?}"),
            }
        }
        let (restarted, same) = start();
        assert_eq!(same, tape);
        node = restarted;
    }
    publisher.wait(ProducerSequence(number), Stage::Durable).unwrap();
    assert!(durable > 0 && publisher.poll() == Ok(0));
    drop(publisher);
    node.kill();
    let node = place.node();
    let events = check_tape(&node, PRODUCER);
    assert_eq!(events.len() as u64, number);
    check_groups(&events);
    place.watched.joins();
    node.close().unwrap();
}

#[test]
fn with_a_node_that_does_not_sync_a_producer_goes_on_from_what_is_written() {
    let place = Place::with_visible_at("unsynced", "written");
    let mut node = start(&place, "unsynced 0");
    let tape = TapeId(node.hear().unwrap().strip_prefix("open ").unwrap().parse().unwrap());
    // Smaller than what is published, and no segment ends: a window that kept what is not durable would stay full.
    let options = RemoteOptions { window_events: 64, ..patient() };
    let connect = || RemotePublisher::connect(&place.name(tape), PRODUCER, options.clone());
    let deadline = Instant::now() + PATIENCE;
    let mut number = 0;
    for round in 1..=4 {
        let mut publisher = connect().unwrap();
        assert_eq!(publisher.last().map_or(0, ProducerSequence::get), number);
        let publish = |publisher: &mut RemotePublisher, number: &mut u64, through| {
            while *number < through {
                match publisher.publish(&order(*number + 1)) {
                    Ok(_) => *number += 1,
                    Err(why) if why == PublishError::WouldBlock => {
                        assert!(Instant::now() < deadline, "the window stays full");
                        publisher.poll().unwrap();
                    }
                    Err(why) => panic!("{why}"),
                }
            }
        };
        publish(&mut publisher, &mut number, round * 1000);
        if round % 2 == 0 {
            // Room for those that nobody takes in before there is another node.
            publisher.wait(ProducerSequence(number - 40), Stage::Written).unwrap();
            // What was written survives the node, and what was not is sent to the next one.
            node.kill();
            publish(&mut publisher, &mut number, round * 1000 + 10);
            node = start(&place, "unsynced 0");
            assert!(node.hear().is_some());
        }
        publisher.wait(ProducerSequence(number), Stage::Written).unwrap();
        assert!(publisher.watermarks().durable < publisher.watermarks().written);
    }
    node.kill();
    let node = place.node();
    assert_eq!(check_tape(&node, PRODUCER).len() as u64, number);
    place.watched.joins();
    node.close().unwrap();
}

#[test]
fn a_killed_producer_goes_on_where_the_tape_says_it_ended() {
    let place = Place::new("prodkill");
    let mut options = place.options();
    // Fewer places than are killed: those of the dead come back.
    let config = &mut options.ingress.as_mut().unwrap().config;
    (config.producers_max, config.producers_spare) = (1, 1);
    let node = Node::open_on(place.disk(), options, Vec::new()).unwrap();
    let role = format!("publish {}", node.tape().get());
    let mut safe = 0;
    for round in 0..kills() {
        let mut other = start(&place, &role);
        let open: u64 = other.hear().and_then(|said| said.strip_prefix("open ")?.parse().ok()).expect("open");
        assert!(open >= safe, "round {round}: goes on after {open}, {safe} was durable");
        for _ in 0..=round % 4 {
            let said = other.hear().expect("it publishes");
            let number = said.split(' ').nth(1).unwrap().parse::<u64>().unwrap();
            assert!(number > safe);
            safe = number;
        }
        // Somewhere in the next group.
        std::thread::sleep(Duration::from_micros(round * 97 % 1000));
        other.kill();
    }
    // At once, without waiting for anybody to clean up behind the last.
    let publisher = place.connect(node.tape()).unwrap();
    let last = publisher.last().unwrap().get();
    assert!(last >= safe);
    node.wait(publisher.accepted().unwrap().sequence, Stage::Visible).unwrap();
    drop(publisher);
    let events = check_tape(&node, PRODUCER);
    assert_eq!(events.len() as u64, last);
    check_groups(&events);
    place.watched.joins();
    node.close().unwrap();
}

#[test]
fn a_second_process_is_told_who_holds_the_producer_also_after_the_node_was_restarted() {
    let place = Place::new("second");
    let node = place.node();
    let role = format!("publish {}", node.tape().get());
    let mut holder = start(&place, &role);
    assert!(holder.hear().unwrap().starts_with("open"));
    let held_by = |error: ConnectError, process: u32| match error {
        ConnectError::Ended(RemoteEnded::InUse { process: found, .. }) => assert_eq!(found, process),
        other => panic!("{other}"),
    };
    held_by(place.connect(node.tape()).err().unwrap(), holder.child.id());
    let tape = node.tape();
    place.watched.joins();
    node.close().unwrap();
    // The holder is stopped: it cannot say hello to the new node, and is alive.
    let pid = rustix::process::Pid::from_raw(holder.child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let node = place.node();
    held_by(place.connect(tape).err().unwrap(), holder.child.id());
    holder.kill();
    drop(place.connect(tape).unwrap());
    node.close().unwrap();
}

#[test]
fn a_closed_node_says_so_and_its_successor_is_published_to() {
    let place = Place::new("closed");
    let node = place.node();
    let tape = node.tape();
    let mut publisher = place.connect(tape).unwrap();
    publisher.publish(&order(1)).unwrap();
    publisher.wait(ProducerSequence(1), Stage::Durable).unwrap();
    let mut inside = node.publisher(ProducerId(1)).unwrap();
    put(&mut inside, &order(1));
    drop(inside);
    node.close().unwrap();
    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        match publisher.publish(&order(2)) {
            Err(error) => break error,
            // Taken before the word came; the successor gets it.
            Ok(_) => assert!(Instant::now() < deadline),
        }
    };
    assert_eq!(refused, PublishError::Closed);
    let node = place.node();
    while publisher.publish(&order(3)) == Err(RemotePublishError::Refused(PublishError::Closed)) {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    publisher.wait(ProducerSequence(3), Stage::Visible).unwrap();
    drop(publisher);
    place.watched.joins();
    node.close().unwrap();
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_node_of_an_earlier_term_is_not_published_to() {
    let mut place = Place::new("fenced");
    let node = place.node();
    let tape = node.tape();
    let mut publisher = place.connect(tape).unwrap();
    let deadline = Instant::now() + PATIENCE;
    // To this node or its successor, once that is heard.
    let publish = |publisher: &mut RemotePublisher, number| {
        while publisher.publish(&order(number)).is_err_and(|why| why == PublishError::Closed)
            || publisher
                .wait(ProducerSequence(number), Stage::Durable)
                .is_err_and(|why| why == WaitError::Closed)
        {
            assert!(Instant::now() < deadline);
        }
        assert!(publisher.wait(ProducerSequence(number), Stage::Durable).is_ok());
    };
    publish(&mut publisher, 1);
    place.watched.joins();
    node.close().unwrap();
    // What somebody will open later on, two terms behind.
    let (data, copy) = (place.folder.path().join("data"), place.folder.path().join("copy"));
    copy_folder(&data, &copy);
    let mut epoch = Epoch(0);
    for number in 2..=3 {
        let node = place.node();
        publish(&mut publisher, number);
        epoch = node.epoch();
        node.close().unwrap();
    }
    while publisher.publish(&order(4)).is_ok() {
        assert!(Instant::now() < deadline, "it was closed");
    }
    publisher.poll().unwrap();
    let replies = publisher.counters().replies;
    let mut options = place.options();
    options.ingress.as_mut().unwrap().config.heartbeat_interval = Duration::from_millis(5);
    // Who subscribes there is told that the tape went back, and ends.
    place.watched.ends_clean();
    let late = Node::open(&copy, options, Vec::new()).unwrap();
    assert!(late.epoch() < epoch && late.tape() == tape);
    while publisher.counters().replies < replies + 3 {
        assert!(Instant::now() < deadline, "it speaks");
        publisher.poll().unwrap();
        assert_eq!(publisher.publish(&order(4)), Err(PublishError::Closed.into()), "it is not listened to");
    }
    let counters = late.ingress_counters().unwrap();
    assert_eq!((counters.samples, counters.ignored), (0, 0), "nor greeted");
    late.close().unwrap();
    let node = place.node();
    publish(&mut publisher, 4);
    drop(publisher);
    assert_eq!(check_tape(&node, PRODUCER).len(), 4);
    node.close().unwrap();
}

#[test]
fn a_silent_node_ends_a_wait_with_the_outcome_unknown() {
    let place = Place::new("silent");
    let mut other = start(&place, "node 0");
    let tape = TapeId(other.hear().unwrap().strip_prefix("open ").unwrap().parse().unwrap());
    let options = RemoteOptions { silence_max: Duration::from_millis(400), ..patient() };
    let mut publisher = RemotePublisher::connect(&place.name(tape), PRODUCER, options).unwrap();
    publisher.publish(&order(1)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    // A machine that stands still for as long is a silent node, too.
    let disconnected = |publisher: &mut RemotePublisher, number| {
        assert!(Instant::now() < deadline, "it answers");
        match publisher.wait(ProducerSequence(number), Stage::Durable) {
            Ok(_) => false,
            Err(RemoteWaitError::Disconnected { .. }) => true,
            Err(error) => panic!("{error}"),
        }
    };
    while disconnected(&mut publisher, 1) {}
    other.kill();
    publisher.publish(&order(2)).unwrap();
    let limit = Duration::from_millis(1);
    let ended = publisher.wait_for(ProducerSequence(2), Stage::Durable, limit);
    assert_eq!(ended, Err(WaitError::TimedOut.into()));
    let ended = publisher.wait(ProducerSequence(2), Stage::Durable);
    assert!(
        matches!(ended, Err(RemoteWaitError::Disconnected { silent_ms }) if silent_ms >= 400),
        "{ended:?}"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let ended = runtime.block_on(publisher.wait_async(ProducerSequence(2), Stage::Durable));
    assert!(matches!(ended, Err(RemoteWaitError::Disconnected { .. })), "{ended:?}");
    let node = place.node();
    while disconnected(&mut publisher, 2) {}
    drop(publisher);
    place.watched.joins();
    node.close().unwrap();
}

#[test]
fn what_the_sequencer_alone_may_say_ends_the_handle_and_leaves_others_alone() {
    let place = Place::new("control");
    let node = place.node();
    let mut bad = place.connect(node.tape()).unwrap();
    let mut good = RemotePublisher::connect(&place.name(node.tape()), ProducerId(8), patient()).unwrap();
    let event = Event::new(InstrumentId(0), ProducerSequence(1), EventTime(5), TimeAdvanced::default());
    bad.publish(&event).unwrap();
    match bad.wait(ProducerSequence(1), Stage::Accepted) {
        Err(RemoteWaitError::Ended(RemoteEnded::Refused { reason, .. })) => {
            assert!(reason.contains("time_advanced is the sequencer's to say"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(bad.publish(&order(2)), Err(RemotePublishError::Ended(RemoteEnded::Refused { .. }))));
    good.publish(&order(1)).unwrap();
    good.wait(ProducerSequence(1), Stage::Durable).unwrap();
    // The producer is free again, also while the handle that ended is still there.
    drop(place.connect(node.tape()).unwrap());
    drop((bad, good));
    place.watched.joins();
    node.close().unwrap();
}

#[test]
fn a_node_whose_way_in_does_not_open_lets_go_of_all_it_had_started() {
    let folder = tempfile::tempdir().unwrap();
    let namespace = format!("i{}half", std::process::id());
    let place = Place::new("half");
    for speculative in [false, true] {
        let mut options = place::options(folder.path(), &namespace);
        options.bus = place.options().bus;
        options.bus.as_mut().unwrap().speculative = speculative;
        options.ingress.as_mut().unwrap().config.producers_max = 0;
        let error = Node::open(folder.path(), options, Vec::new()).err().unwrap();
        assert!(error.to_string().contains("producers_max"), "{error}");
        // The store and the system tape are free, and so are the names on the bus.
        let whole = NodeOptions { bus: place.options().bus, ..small() };
        let node = Node::open(folder.path(), whole, Vec::new()).unwrap();
        node.close().unwrap();
    }
}

#[test]
fn a_bus_that_could_not_carry_every_frame_is_refused_when_the_node_opens() {
    let place = Place::new("small");
    let mut options = place.options();
    options.bus.as_mut().unwrap().config.frame_bytes_max = 64 * 1024 - 16;
    let error = Node::open_on(place.disk(), options, Vec::new()).err().unwrap().to_string();
    assert!(
        error.contains("frame_bytes_max") && error.contains("65536") && error.contains("65520"),
        "{error}"
    );
}

#[test]
fn without_a_node_connecting_says_what_is_missing() {
    let place = Place::new("nobody");
    let options = RemoteOptions { connect_wait: Duration::from_millis(20), ..RemoteOptions::default() };
    let error = RemotePublisher::connect(&place.name(TapeId(1)), PRODUCER, options).err().unwrap();
    assert!(error.to_string().contains("is the node running"), "{error}");
    for options in [
        RemoteOptions { keep_until: Some(Stage::Written), ..RemoteOptions::default() },
        RemoteOptions { window_events: 0, ..RemoteOptions::default() },
        RemoteOptions { window_bytes: 1000, ..RemoteOptions::default() },
    ] {
        let error = RemotePublisher::connect(&place.name(TapeId(1)), PRODUCER, options).err().unwrap();
        assert!(matches!(error, ConnectError::Option { .. }), "{error}");
    }
    let options = NodeOptions { bus: None, ..place.options() };
    let error = Node::open_on(place.disk(), options, Vec::new()).err().unwrap();
    assert!(error.to_string().contains("ingress"), "{error}");
}

#[test]
fn a_producer_outside_waits_while_the_disk_is_full_and_goes_on_when_there_is_room() {
    let place = Place::new("full");
    let sim = matchtape_storage::sim::SimDisk::new(1);
    let node = Node::open_on(Arc::new(sim.clone()), place.options(), Vec::new()).unwrap();
    let mut publisher = place.connect(node.tape()).unwrap();
    let taken = publisher.publish(&order(1)).unwrap();
    publisher.wait(taken.last(), Stage::Durable).unwrap();
    sim.set_capacity(400 << 10);
    let mut number = 1;
    while node.store().space_problem().reason().is_none() {
        match publisher.publish(&order(number + 1)) {
            Ok(_) => number += 1,
            // The window fills when the node takes nothing more.
            Err(RemotePublishError::Refused(PublishError::WouldBlock)) => {
                publisher.poll().unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
    // More than one that the node has to say no to, whatever was under way when the disk became full.
    for _ in 0..100 {
        match publisher.publish(&order(number + 1)) {
            Ok(_) => number += 1,
            Err(RemotePublishError::Refused(PublishError::WouldBlock)) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let last = ProducerSequence(number);
    let waited = publisher.wait_for(last, Stage::Durable, Duration::from_millis(500));
    assert_eq!(waited, Err(WaitError::TimedOut.into()), "not refused, and not taken");
    sim.set_capacity(1 << 40);
    publisher.wait(last, Stage::Visible).unwrap();
    assert_eq!(check_tape(&node, PRODUCER).len() as u64, number, "each is on the tape once");
    drop(publisher);
    node.close().unwrap();
}
