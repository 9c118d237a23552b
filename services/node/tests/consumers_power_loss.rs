//! Durable consumers when the power goes: on simulated disks, at sampled moments of a recorded run.
//!
//! What is judged: a consumer that was made is there; its floor is not below what was acknowledged durably and not ahead of
//! the tape; from there on nothing is left out but what was acknowledged, given up or, delivered as often as allowed, is on
//! the list of what is parked; nothing comes again that was acknowledged or given up durably; whatever else was delivered
//! before is marked, and its deliveries are counted on from what was recorded.

#[path = "../../gateway/tests/support/judge.rs"]
mod judge;
mod support;

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use judge::Judge;
use matchtape_node::consumers::{
    AckPolicy, Advisory, ConsumerHandle, ConsumerName, Definition, Item, MemberName,
};
use matchtape_node::{BusOptions, Node, NodeOptions};
use matchtape_schemas::{ProducerId, Sequence, Stage};
use matchtape_storage::sim::{Fault, PowerLoss, SimDisk};
use matchtape_storage::{
    Access, Caching, Disk, DiskError, DiskFile, DiskLock, Entry, EntryKind, LockError, LockHolder,
};
use support::{order, put, small};

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(2);

/// The system tape on a disk of its own, so that each can lose power by itself; or both on one, as in a data directory.
#[derive(Clone, Debug)]
struct TwoDisks {
    main: SimDisk,
    system: SimDisk,
    /// The system tape's tables on another one, where they are to lack room by themselves.
    tables: Option<SimDisk>,
    /// `main` and `system` are the same disk.
    are_one: bool,
}

impl TwoDisks {
    fn apart(main: SimDisk, system: SimDisk) -> Self {
        Self { main, system, tables: None, are_one: false }
    }

    /// Everything happens in the order of one disk.
    fn one(disk: SimDisk) -> Self {
        Self { are_one: true, ..Self::apart(disk.clone(), disk) }
    }

    fn route(&self, path: &Path) -> (&SimDisk, PathBuf) {
        let mut parts = path.components();
        match parts.next() {
            Some(Component::Normal(first)) if first == "system" && !self.are_one => {
                let path = parts.as_path();
                let disk = self.tables.as_ref().filter(|_| path.starts_with("tables"));
                (disk.unwrap_or(&self.system), path.to_owned())
            }
            _ => (&self.main, path.to_owned()),
        }
    }
}

impl Disk for TwoDisks {
    fn open(&self, path: &Path, access: Access, caching: Caching) -> Result<Arc<dyn DiskFile>, DiskError> {
        let (disk, path) = self.route(path);
        disk.open(&path, access, caching)
    }

    fn list(&self, directory: &Path) -> Result<Vec<Entry>, DiskError> {
        let (disk, path) = self.route(directory);
        let mut entries = disk.list(&path)?;
        if directory.as_os_str().is_empty() && !self.are_one && !self.system.list(Path::new(""))?.is_empty() {
            entries.push(Entry { name: "system".to_owned(), kind: EntryKind::Directory });
        }
        Ok(entries)
    }

    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        let (disk, path) = self.route(path);
        if path.as_os_str().is_empty() { Ok(()) } else { disk.create_directory(&path) }
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let (disk, from) = self.route(from);
        disk.rename(&from, &self.route(to).1)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        let (disk, path) = self.route(path);
        disk.remove(&path)
    }

    fn hard_link(&self, existing: &Path, new: &Path) -> Result<(), DiskError> {
        let (disk, existing) = self.route(existing);
        disk.hard_link(&existing, &self.route(new).1)
    }

    fn sync_directory(&self, directory: &Path) -> Result<(), DiskError> {
        let (disk, path) = self.route(directory);
        disk.sync_directory(&path)
    }

    fn lock(&self, path: &Path, holder: &LockHolder) -> Result<Box<dyn DiskLock>, LockError> {
        let (disk, path) = self.route(path);
        disk.lock(&path, holder)
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        self.main.free_bytes()
    }

    fn random(&self, bytes: &mut [u8]) -> Result<(), DiskError> {
        self.main.random(bytes)
    }
}

/// The recorded moments: operations done on each disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment {
    main: usize,
    system: usize,
}

impl Moment {
    fn is_by(&self, at: Moment) -> bool {
        self.main <= at.main && self.system <= at.system
    }
}

struct Run {
    disks: TwoDisks,
    /// When it was said that the consumer is made.
    made: Option<Moment>,
    /// (when it was said, everything up to here is acknowledged durably)
    promised: Vec<(Moment, Sequence)>,
    /// (when it was asked for, when it was there, what was given)
    delivered: Vec<(Moment, Moment, Sequence)>,
    /// (when it was durable, what was given so often)
    counted: Vec<(Moment, Sequence, u32)>,
    /// (when that was begun, when it was durable, what was acknowledged or given up)
    acknowledged: Vec<(Moment, Moment, Sequence)>,
    /// (when it was said, the last event that is durable)
    durable: Vec<(Moment, Sequence)>,
}

fn name() -> ConsumerName {
    "c".parse().unwrap()
}

fn member() -> MemberName {
    "m".parse().unwrap()
}

fn open(disks: &TwoDisks) -> Node {
    open_with_bus(disks, None)
}

fn open_with_bus(disks: &TwoDisks, bus: Option<BusOptions>) -> Node {
    let mut options = NodeOptions { bus, ..small() };
    options.consumers.record_interval = Duration::from_millis(1);
    Node::open_on(Arc::new(disks.clone()), options, Vec::new()).expect("recovery succeeds")
}

/// An event that was refused so often is parked.
const DELIVERIES: u32 = 3;

/// Where each event is acknowledged by itself: those that are refused whenever they come.
fn is_refused(sequence: Sequence) -> bool {
    sequence.get().is_multiple_of(5)
}

fn definition(ack: AckPolicy) -> Definition {
    Definition { ack, max_ack_pending: 20, max_deliver: Some(DELIVERIES), ..Definition::default() }
}

impl Run {
    fn moment(&self) -> Moment {
        Moment { main: self.disks.main.operations(), system: self.disks.system.operations() }
    }

    fn record(disks: TwoDisks, ack: AckPolicy) -> Self {
        let mut run = Self {
            disks,
            made: None,
            promised: Vec::new(),
            delivered: Vec::new(),
            counted: Vec::new(),
            acknowledged: Vec::new(),
            durable: Vec::new(),
        };
        let mut number = 0;
        for life in 0..3 {
            let mut judge = Judge::new();
            let node = open_with_bus(&run.disks, judge.bus());
            let disk: Arc<dyn Disk> = Arc::new(run.disks.clone());
            judge.watch_on(move || Some(Arc::clone(&disk)));
            let mut publisher = node.publisher(ProducerId(1)).unwrap();
            let mut handle = None;
            for step in 0..4 {
                let mut last = Sequence::ZERO;
                for _ in 0..4 {
                    number += 1;
                    last = put(&mut publisher, &order(number)).sequence();
                }
                node.wait(last, Stage::Visible).unwrap();
                run.durable.push((run.moment(), last));
                if run.made.is_none() && step == 1 {
                    node.consumers().add(&name(), definition(ack)).unwrap();
                    run.made = Some(run.moment());
                }
                if run.made.is_some() {
                    let handle =
                        handle.get_or_insert_with(|| node.consumers().attach(&name(), &member()).unwrap());
                    let (asked, mut given, mut counts) = (run.moment(), Vec::new(), Vec::new());
                    for item in handle.fetch(6, LONG).unwrap() {
                        let Some(delivery) = item.delivery() else { continue };
                        given.push(delivery.sequence());
                        counts.push((delivery.sequence(), delivery.delivery_count()));
                    }
                    let there = run.moment();
                    run.delivered.extend(given.iter().map(|sequence| (asked, there, *sequence)));
                    // One stays out, so that what is pending is recorded too.
                    given.pop();
                    let (mut refused, mut given_up) = (Vec::new(), Vec::new());
                    if ack == AckPolicy::Explicit {
                        refused.extend(given.extract_if(.., |one| is_refused(*one)));
                        given_up.extend(given.extract_if(.., |one| one.get() % 7 == 3));
                        // In no order.
                        given.reverse();
                    }
                    if !given.is_empty() {
                        let begun = run.moment();
                        for sequence in &refused {
                            handle.nak(*sequence, Duration::ZERO).unwrap();
                        }
                        for sequence in &given_up {
                            handle.term(*sequence).unwrap();
                        }
                        handle.ack_each(&given).unwrap();
                        handle.ack_durable(given[0]).unwrap();
                        let floor = node.consumers().info(&name()).unwrap().machine.floor;
                        let done = run.moment();
                        run.promised.push((done, floor));
                        given.extend(given_up);
                        run.acknowledged.extend(given.iter().map(|sequence| (begun, done, *sequence)));
                        run.counted.extend(counts.iter().map(|(sequence, count)| (done, *sequence, *count)));
                    }
                }
            }
            drop((handle, publisher));
            // What it has open ends with this life.
            judge.end();
            if life == 1 {
                node.close().unwrap();
            } else {
                drop(node);
                run.disks.main.kill();
                run.disks.system.kill();
            }
        }
        run
    }

    /// Opens what is left and says what is wrong with it. Returns whether the record had to be pulled back.
    fn judge(&self, disks: &TwoDisks, at: Moment) -> Result<bool, String> {
        let node = open(disks);
        let head = node.watermarks().durable;
        let durable = self.durable.iter().filter(|(moment, _)| moment.main <= at.main).map(|(_, last)| *last);
        let durable = durable.max().unwrap_or_default();
        if head < durable {
            return Err(format!("the tape ends at {head}, {durable} was durable"));
        }
        let Ok(info) = node.consumers().info(&name()) else {
            let lost = self.made.is_some_and(|made| made.system <= at.system);
            return if lost { Err("the consumer is gone".into()) } else { Ok(false) };
        };
        let floor = info.machine.floor;
        let promised = self.promised.iter().filter(|(moment, _)| moment.system <= at.system);
        let promised = promised.map(|(_, floor)| *floor).max().unwrap_or_default().min(head);
        if floor < promised {
            return Err(format!("the floor is {floor}, {promised} was acknowledged durably"));
        }
        if info.machine.next > head.next() {
            return Err(format!("{} is next, the tape ends at {head}", info.machine.next));
        }
        let mut publisher = node.publisher(ProducerId(1)).unwrap();
        let mut number = publisher.last().map_or(0, |last| last.get());
        let mut last = head;
        for _ in 0..3 {
            number += 1;
            last = put(&mut publisher, &order(number)).sequence();
        }
        node.wait(last, Stage::Visible).unwrap();
        let handle = node.consumers().attach(&name(), &member()).unwrap();
        let (came, pulled_back) = drain(&handle, last);
        let parked = node.consumers().parked(&name()).unwrap();
        for one in &parked {
            let given = self.delivered.iter();
            let given = given.filter(|(asked, _, other)| *other == one.sequence && asked.system <= at.system);
            if one.deliveries != DELIVERIES || given.count() < DELIVERIES as usize {
                return Err(format!("{} is parked, and was not given so often", one.sequence));
            }
        }
        for sequence in (Sequence::FIRST.get()..=last.get()).map(Sequence) {
            // Whether the record has what was acknowledged shows in that it does not come.
            let meant = |one: Sequence| match info.definition.ack {
                AckPolicy::All => sequence <= one,
                AckPolicy::Explicit | AckPolicy::None => sequence == one,
            };
            let done =
                self.acknowledged.iter().any(|(begun, _, one)| meant(*one) && begun.system <= at.system);
            let done = done && sequence < info.machine.next;
            let comes = came.iter().any(|(other, ..)| *other == sequence);
            let is_parked = parked.iter().any(|one| one.sequence == sequence);
            if comes && is_parked {
                return Err(format!("{sequence} is parked and comes"));
            }
            if !done && !comes && !is_parked {
                return Err(format!("{sequence} never comes; the floor was {floor}"));
            }
        }
        for (sequence, redelivered, count) in &came {
            // Behind a lost end other events have those positions.
            if *sequence > head {
                continue;
            }
            let done =
                self.acknowledged.iter().any(|(_, done, one)| one == sequence && done.system <= at.system);
            if done && !pulled_back {
                return Err(format!("{sequence} was acknowledged durably and comes again"));
            }
            let given = self.delivered.iter().filter(|(_, _, one)| one == sequence);
            if given.clone().any(|(_, there, _)| there.is_by(at)) && !redelivered {
                return Err(format!("{sequence} was given before and is not marked"));
            }
            let counted =
                self.counted.iter().filter(|(done, one, _)| one == sequence && done.system <= at.system);
            let counted = counted.map(|(_, _, count)| *count).max().unwrap_or(0);
            let given = given.filter(|(asked, ..)| asked.system <= at.system).count() as u32;
            if !(counted + 1..=given + 1).contains(count) {
                return Err(format!(
                    "{sequence} comes for time {count}; {counted} are recorded, {given} there were"
                ));
            }
        }
        Ok(pulled_back)
    }
}

/// Everything through `last`, with its mark and count.
fn drain(handle: &ConsumerHandle, last: Sequence) -> (Vec<(Sequence, bool, u32)>, bool) {
    let (mut came, mut pulled_back) = (Vec::new(), false);
    loop {
        let items = handle.fetch(7, SHORT).unwrap();
        let mut given = Vec::new();
        for item in &items {
            match item {
                Item::Delivery(delivery) => {
                    came.push((delivery.sequence(), delivery.redelivered(), delivery.delivery_count()));
                    given.push(delivery.sequence());
                }
                Item::Advisory(Advisory::PulledBack { .. }) => pulled_back = true,
                Item::Advisory(Advisory::Parked { .. }) => {}
                Item::Advisory(other) => panic!("{other}"),
            }
        }
        handle.ack_each(&given).unwrap();
        if given.contains(&last) {
            return (came, pulled_back);
        }
        assert!(came.len() < 10_000, "it never comes to {last}");
    }
}

/// How many moments of a run are looked at.
fn samples() -> usize {
    std::env::var("MATCHTAPE_POWER_LOSSES").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

fn choices(sample: usize) -> PowerLoss {
    match sample % 3 {
        0 => PowerLoss::LoseUnsynced,
        1 => PowerLoss::KeepUnsynced,
        _ => PowerLoss::Seeded(sample as u64),
    }
}

#[test]
fn a_consumer_resumes_after_every_loss_of_power() {
    let mut resumed = 0;
    for ack in [AckPolicy::All, AckPolicy::Explicit] {
        let run = Run::record(TwoDisks::one(SimDisk::new(1)), ack);
        let made = run.made.expect("it was made").main;
        // Right behind what was said, and from a little before the consumer is made on evenly between all operations.
        let noted = run.durable.iter().chain(&run.promised).map(|(moment, _)| moment.main);
        let noted: Vec<usize> = noted.chain([made]).filter(|noted| *noted >= made).collect();
        let first = made.saturating_sub(20);
        let (count, operations) = (samples().div_ceil(2), run.disks.main.operations());
        let between = (0..count).map(|sample| first + (operations - first) * sample / count);
        assert!(run.promised.len() > 5 && noted.len() > 10 && operations > made + 50);
        // Where each is acknowledged by itself, one was refused until it was parked.
        let often = run.counted.iter().filter(|(_, _, count)| *count == DELIVERIES).count();
        assert!(ack == AckPolicy::All || often > 0);
        // The next time round each of them meets another kind of loss.
        let noted = (0..count).map(|sample| {
            let (round, place) = (sample / noted.len(), sample % noted.len());
            (noted[place], place + round)
        });
        let between = between.zip(0..).collect::<Vec<_>>();
        for (operation, number) in noted.chain(between) {
            let choice = choices(number);
            let at = Moment { main: operation, system: operation };
            let disks = TwoDisks::one(run.disks.main.crash_at(operation, choice));
            let judged = run.judge(&disks, at).and_then(|pulled_back| match pulled_back {
                // Nothing is recorded of what is not durable on the tape.
                true => Err("it was ahead of its tape".into()),
                false => Ok(()),
            });
            if let Err(wrong) = judged {
                panic!("{ack:?}, after {operation} of {operations} operations, {choice:?}: {wrong}");
            }
            resumed += 1;
        }
    }
    eprintln!("{resumed} losses of power, and it resumed after each");
    assert!(resumed >= 2 * samples());
}

#[test]
fn a_consumer_is_never_ahead_of_a_tape_that_lost_its_end_and_never_reset_by_one_that_lost_its_record() {
    let runs = [AckPolicy::All, AckPolicy::Explicit]
        .map(|ack| Run::record(TwoDisks::apart(SimDisk::new(1), SimDisk::new(2)), ack));
    let (mut pulled_back, mut resumed) = (0, 0);
    for sample in 0..samples() {
        let run = &runs[sample % 2];
        let (main, system) = (run.disks.main.operations(), run.disks.system.operations());
        let choice = choices(sample);
        // The tape's disk stops earlier than the system tape's: its device lied, or it was replaced.
        let earlier = main - main * (sample % 20) / 40;
        let at = Moment { main: earlier, system };
        let disks =
            TwoDisks::apart(run.disks.main.crash_at(earlier, choice), run.disks.system.kill_at(system));
        match run.judge(&disks, at) {
            Ok(back) => pulled_back += u32::from(back),
            Err(wrong) => panic!("the tape at {earlier} of {main}, {choice:?}: {wrong}"),
        }
        // And the other way round.
        let earlier = system - system * (sample % 20) / 25;
        let at = Moment { main, system: earlier };
        let disks = TwoDisks::apart(run.disks.main.kill_at(main), run.disks.system.crash_at(earlier, choice));
        if let Err(wrong) = run.judge(&disks, at) {
            panic!("the system tape at {earlier} of {system}, {choice:?}: {wrong}");
        }
        resumed += 2;
    }
    eprintln!("{resumed} losses of power, it resumed after each, behind a lost end {pulled_back} times");
    assert!(pulled_back > 0, "no sample was ahead of its tape");
}

#[test]
fn a_record_of_events_that_another_term_has_replaced_is_pulled_back_though_the_tape_is_long_enough() {
    let disks = TwoDisks::apart(SimDisk::new(1), SimDisk::new(2));
    let publish = |node: &Node, count: u64| {
        let mut publisher = node.publisher(ProducerId(1)).unwrap();
        let mut number = publisher.last().map_or(0, |last| last.get());
        let mut last = Sequence::ZERO;
        for _ in 0..count {
            number += 1;
            last = put(&mut publisher, &order(number)).sequence();
        }
        node.wait(last, Stage::Visible).unwrap();
    };
    let node = open(&disks);
    node.consumers().add(&name(), definition(AckPolicy::Explicit)).unwrap();
    publish(&node, 10);
    let kept = disks.main.operations();
    publish(&node, 10);
    let handle = node.consumers().attach(&name(), &member()).unwrap();
    let mut given = Vec::new();
    while given.len() < 15 {
        let items = handle.fetch(15 - given.len(), LONG).unwrap();
        given.extend(items.iter().map(|item| item.delivery().unwrap().sequence()));
    }
    handle.ack_each(&given).unwrap();
    handle.ack_durable(given[14]).unwrap();
    drop(handle);
    node.close().unwrap();

    // The tape loses its second half and grows again where nobody knows of the consumer.
    let main = disks.main.crash_at(kept, PowerLoss::LoseUnsynced);
    let elsewhere = TwoDisks::apart(main.clone(), SimDisk::new(3));
    let node = open(&elsewhere);
    let left = node.watermarks().durable;
    assert!(left >= Sequence(11) && left < Sequence(15), "{left}");
    publish(&node, 30);
    node.close().unwrap();

    // What is recorded of it has to be mended before anything is appended: where that finds the disk full, the node does not
    // open. On a copy is seen when it is.
    let again = |system: &SimDisk| system.kill_at(system.operations());
    let copy = TwoDisks::apart(again(&main), again(&disks.system));
    drop(open(&copy));
    let trace = copy.system.describe_trace();
    let opened =
        trace.iter().rposition(|step| step == "sync directory tables").expect("it looks at its tables");
    let first = opened + 1;
    // The thread that prepares segments may write a little earlier or later than it did there, so that the fault comes before that
    // or only behind the record: then it is tried again.
    let seen = (0..20).any(|_| {
        let full = TwoDisks::apart(again(&main), again(&disks.system));
        for operation in first..first + 1000 {
            full.system.fail_at(operation, Fault::Enospc);
        }
        let refused = Node::open_on(Arc::new(full.clone()), small(), Vec::new()).err();
        if !refused.is_some_and(|refused| refused.to_string().contains("the disk is full")) {
            return false;
        }
        let node = open(&TwoDisks { system: again(&full.system), ..full });
        let info = node.consumers().info(&name()).unwrap();
        assert_eq!(info.machine.next, left.next(), "what is there now was never delivered");
        let handle = node.consumers().attach(&name(), &member()).unwrap();
        let (came, pulled_back) = drain(&handle, left.next());
        assert!(came.contains(&(left.next(), true, 1)), "{came:?}");
        pulled_back
    });
    assert!(seen, "without room it is refused and says why; with room, what was given is pulled back");
}

#[test]
fn when_nothing_more_can_be_recorded_members_are_told_and_nothing_is_promised() {
    let disks = TwoDisks::apart(SimDisk::new(1), SimDisk::new(2));
    let node = open(&disks);
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    let last = put(&mut publisher, &order(1)).sequence();
    node.wait(last, Stage::Visible).unwrap();
    node.consumers().add(&name(), definition(AckPolicy::Explicit)).unwrap();
    let handle = node.consumers().attach(&name(), &member()).unwrap();
    assert_eq!(handle.fetch(5, LONG).unwrap().len(), 2);
    disks.system.fail_all(Fault::Eio);
    let refused = handle.ack_durable(Sequence(1)).unwrap_err();
    assert!(refused.to_string().contains("cannot be recorded"), "{refused}");
    assert!(handle.ack(Sequence(2)).is_err() && handle.fetch(1, LONG).is_err());
    assert!(node.consumers().add(&"d".parse().unwrap(), Definition::default()).is_err());
    // The tape itself goes on.
    let last = put(&mut publisher, &order(2)).sequence();
    node.wait(last, Stage::Durable).unwrap();
}

/// What is recorded is on its way to a log that waits for room, for ever.
#[test]
fn a_node_is_closed_and_dropped_while_its_recorder_waits_for_a_full_disk() {
    for dropped in [false, true] {
        let disks = TwoDisks::apart(SimDisk::new(1), SimDisk::new(2));
        let node = open(&disks);
        let mut publisher = node.publisher(ProducerId(1)).unwrap();
        let last = put(&mut publisher, &order(1)).sequence();
        node.wait(last, Stage::Visible).unwrap();
        node.consumers().add(&name(), definition(AckPolicy::Explicit)).unwrap();
        let handle = node.consumers().attach(&name(), &member()).unwrap();
        assert_eq!(handle.fetch(5, LONG).unwrap().len(), 2);
        let (tried, tries) = std::sync::mpsc::channel();
        let tried = std::sync::Mutex::new(tried);
        disks.system.fail_all(Fault::Enospc);
        disks.system.before_write(move |_| {
            let _ = tried.lock().unwrap().send(());
        });
        handle.ack(Sequence(1)).unwrap();
        // The second try is one of a log that waits in between.
        for _ in 0..2 {
            tries.recv_timeout(LONG).expect("it is recorded");
        }
        drop((handle, publisher));
        let (closed, told) = std::sync::mpsc::channel();
        let closing = std::thread::spawn(move || {
            let told = if dropped {
                drop(node);
                None
            } else {
                node.close().err().map(|error| error.to_string())
            };
            closed.send(()).unwrap();
            told
        });
        told.recv_timeout(LONG).expect("closing does not wait for room");
        let error = closing.join().unwrap();
        assert_eq!(error.is_none(), dropped, "what could not be recorded is told: {error:?}");
        // Of the acknowledgement nothing was promised, either way; what was not acknowledged comes again.
        disks.system.mend();
        let node = open(&disks);
        let handle = node.consumers().attach(&name(), &member()).unwrap();
        drain(&handle, Sequence(2));
    }
}

#[test]
fn no_room_to_clear_what_records_have_replaced_is_waited_out_and_ends_nothing() {
    let disks =
        TwoDisks { tables: Some(SimDisk::new(3)), ..TwoDisks::apart(SimDisk::new(1), SimDisk::new(2)) };
    let full = disks.tables.as_ref().unwrap();
    let mut options = small();
    options.consumers.record_interval = Duration::from_millis(1);
    options.consumers.system_log_bytes = 64 << 10;
    let node = Node::open_on(Arc::new(disks.clone()), options, Vec::new()).unwrap();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    let mut last = Sequence::ZERO;
    for number in 1..=400 {
        last = put(&mut publisher, &order(number)).sequence();
    }
    node.wait(last, Stage::Visible).unwrap();
    let definition = Definition { ack: AckPolicy::Explicit, max_ack_pending: 1000, ..Definition::default() };
    node.consumers().add(&name(), definition).unwrap();
    let handle = node.consumers().attach(&name(), &member()).unwrap();
    let tables = || {
        let there = full.list(Path::new("tables")).unwrap();
        there.iter().filter(|entry| !entry.name.ends_with(".new")).count()
    };
    // Each record says of some hundred events that they are out: a few dozen are what the log may grow by.
    let go_on = |rounds: std::ops::Range<u64>, done: &dyn Fn()| {
        for round in rounds {
            let mut given = 0;
            while given < 5 {
                given += handle.fetch(5 - given, LONG).unwrap().len();
            }
            handle.ack_durable(Sequence(1 + 5 * round)).unwrap();
            done();
        }
    };
    go_on(0..20, &|| ());
    full.set_capacity(1 << 10);
    let (done, rounds) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let more = scope.spawn(move || go_on(20..70, &|| done.send(()).unwrap()));
        // Until no more is recorded: the store takes nothing more while it has no room for tables.
        loop {
            match rounds.recv_timeout(Duration::from_millis(300)) {
                Ok(()) => {}
                // Or nothing was heard of it for as long.
                Err(RecvTimeoutError::Timeout) if full.refused() == 0 => {}
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("more was recorded than the log may grow by, and nothing cleared")
                }
            }
        }
        let before = tables();
        full.set_capacity(1 << 40);
        more.join().unwrap();
        assert!(tables() > before, "it was tried again");
    });
    assert_eq!(node.consumers().info(&name()).unwrap().machine.out, 280);
    drop(publisher);
    node.close().unwrap();
}
