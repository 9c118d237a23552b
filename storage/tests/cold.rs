//! The cold tier: where the events are makes no difference to any answer, and no moment of a crash and no failure of the
//! store of objects costs an event.

mod model;

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use matchtape_schemas::*;
use matchtape_storage::archive::{
    ColdError, ColdPolicy, ColdProgress, ColdPushError, ColdReport, ColdStep, ColdStore, Patience,
};
use matchtape_storage::sim::{Fault, PowerLoss, Random, SimDisk};
use matchtape_storage::{
    Compression, Disk, EventStore, PinKind, Point, Query, ReadError, ReadOnlyOptions, ReadOnlyStore,
    RetentionPolicy, SalvageOptions, StoreOptions, TableError, salvage,
};
use model::*;
use parking_lot::Mutex;

/// How a store of objects misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mischief {
    /// It refuses, once.
    RefuseOnce,
    /// It refuses from then on.
    Refuse,
    /// It reports success and does nothing; a read gives zeros.
    Lie,
    /// It stores, or gives, one bit otherwise than it was.
    Flip,
}

/// Objects in memory, with a trace in step with a disk's: a change counts as done once the call has returned.
#[derive(Clone, Debug)]
struct FakeCold {
    disk: SimDisk,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    /// Operations of the disk before it, the key, the object afterwards.
    trace: Vec<(usize, String, Option<Vec<u8>>)>,
    calls: usize,
    mischief: Option<(usize, Mischief)>,
}

impl FakeCold {
    fn new(disk: &SimDisk) -> Self {
        Self { disk: disk.clone(), state: Arc::default() }
    }

    /// What there is when the first `changes` changes were made.
    fn after(&self, changes: usize, disk: &SimDisk) -> Self {
        let cold = Self::new(disk);
        for (_, key, object) in &self.state.lock().trace[..changes] {
            let objects = &mut cold.state.lock().objects;
            match object {
                Some(object) => drop(objects.insert(key.clone(), object.clone())),
                None => drop(objects.remove(key)),
            }
        }
        cold
    }

    /// How many changes may have been made when the disk had done so many operations: least and most.
    fn changes_at(&self, operation: usize) -> std::ops::RangeInclusive<usize> {
        let trace = &self.state.lock().trace;
        trace.partition_point(|(at, ..)| *at < operation)..=trace.partition_point(|(at, ..)| *at <= operation)
    }

    fn misbehave(&self, call: usize, mischief: Mischief) {
        let mut state = self.state.lock();
        let call = state.calls + call;
        state.mischief = Some((call, mischief));
    }

    fn behave(&self) {
        self.state.lock().mischief = None;
    }

    fn keys(&self) -> Vec<String> {
        self.state.lock().objects.keys().cloned().collect()
    }

    fn call(&self, operation: &'static str, key: &str) -> Result<Option<Mischief>, ColdError> {
        let mut state = self.state.lock();
        let call = state.calls;
        state.calls += 1;
        let refused = || ColdError::Failed {
            place: "fake".to_owned(),
            operation,
            key: key.to_owned(),
            source: "out of order".into(),
        };
        match state.mischief {
            Some((at, Mischief::RefuseOnce)) if at == call => Err(refused()),
            Some((at, Mischief::Refuse)) if at <= call => Err(refused()),
            Some((at, mischief)) if at == call => Ok(Some(mischief)),
            _ => Ok(None),
        }
    }

    fn change(&self, key: &str, object: Option<Vec<u8>>) {
        let at = self.disk.operations();
        let mut state = self.state.lock();
        state.trace.push((at, key.to_owned(), object.clone()));
        match object {
            Some(object) => drop(state.objects.insert(key.to_owned(), object)),
            None => drop(state.objects.remove(key)),
        }
    }
}

fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 4;
    }
}

impl ColdStore for FakeCold {
    fn place(&self) -> &str {
        "fake"
    }

    fn patience(&self) -> Patience {
        Patience { first_pause: Duration::ZERO, ..Patience::default() }
    }

    fn put(&self, key: &str, source: &mut dyn Read, bytes: u64) -> Result<(), ColdError> {
        let mischief = self.call("store", key)?;
        let mut object = Vec::new();
        source.read_to_end(&mut object).expect("the local file is there");
        assert_eq!(object.len() as u64, bytes);
        match mischief {
            Some(Mischief::Flip) => flip(&mut object),
            Some(_) => return Ok(()),
            None => {}
        }
        self.change(key, Some(object));
        Ok(())
    }

    fn get_range(&self, key: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, ColdError> {
        let mischief = self.call("read", key)?;
        let state = self.state.lock();
        let missing = || ColdError::Missing { place: "fake".to_owned(), key: key.to_owned() };
        let object = state.objects.get(key).ok_or_else(missing)?;
        let rest = &object[object.len().min(offset as usize)..];
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        match mischief {
            Some(Mischief::Flip) => flip(&mut buffer[..read]),
            Some(_) => buffer.fill(0),
            None => {}
        }
        Ok(read)
    }

    fn head(&self, key: &str) -> Result<u64, ColdError> {
        let lies = self.call("ask for", key)?.is_some();
        let state = self.state.lock();
        let missing = || ColdError::Missing { place: "fake".to_owned(), key: key.to_owned() };
        let object = state.objects.get(key).ok_or_else(missing)?;
        Ok(object.len() as u64 + u64::from(lies))
    }

    fn delete(&self, key: &str) -> Result<(), ColdError> {
        if self.call("remove", key)?.is_none() {
            self.change(key, None);
        }
        Ok(())
    }
}

fn options(cold: &FakeCold) -> StoreOptions {
    StoreOptions { cold: Some(Arc::new(cold.clone())), ..small_options() }
}

fn open(disk: &SimDisk, cold: &FakeCold, events: Vec<Placed>) -> Driven {
    Driven::open(Arc::new(disk.clone()), options(cold), events, 3).expect("opened").0
}

/// A store of so many event tables.
fn flushed(disk: &SimDisk, cold: &FakeCold, flushes: usize) -> Driven {
    let mut driven = open(disk, cold, Vec::new());
    for _ in 0..flushes {
        driven.append(3, true);
        driven.store.flush().expect("flushed");
    }
    driven
}

fn go_on(_: ColdProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn push(store: &EventStore) -> Result<ColdReport, ColdPushError> {
    store.push_cold(&ColdPolicy::default(), &mut go_on)
}

fn local_tables(disk: &SimDisk) -> Vec<String> {
    let entries = disk.list(Path::new("tables")).expect("listed").into_iter().map(|entry| entry.name);
    entries.filter(|name| name.ends_with(".events")).collect()
}

fn older_than(events: u64) -> RetentionPolicy {
    let age = Some(Duration::from_nanos(events));
    RetentionPolicy { age, snapshot_gap_bytes: 0, ..RetentionPolicy::default() }
}

fn now(driven: &Driven) -> AcceptedTime {
    AcceptedTime(driven.events.len() as i64)
}

#[test]
fn every_answer_is_the_same_from_the_cold_tier_also_after_a_restart_and_read_only() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let mut driven = flushed(&disk, &cold, 6);
    let report = push(&driven.store).expect("pushed");
    assert_eq!((report.moved.len(), cold.keys().len(), local_tables(&disk).len()), (5, 5, 1));
    let inspection = driven.store.inspect();
    assert_eq!(inspection.cold_bytes, report.moved.iter().map(|moved| moved.bytes).sum::<u64>());
    assert_eq!(inspection.event_tables.iter().filter(|table| table.cold.is_some()).count(), 5);
    driven.check(60);
    assert!(driven.store.verify(&mut |_| {}).expect("verified").is_sound());
    assert_eq!(push(&driven.store).expect("pushed"), ColdReport::default(), "nothing is left to move");

    let events = driven.events.clone();
    drop(driven);
    disk.kill();
    let mut driven = open(&disk, &cold, events);
    assert_eq!(local_tables(&disk).len(), 1);
    driven.append(3, true);
    driven.store.flush().expect("flushed");
    driven.check(60);
    let watched = ReadOnlyOptions { cold: Some(Arc::new(cold.clone())), ..ReadOnlyOptions::default() };
    let watched = ReadOnlyStore::open(Arc::new(disk.clone()), watched).expect("opened");
    check_reader(&watched.reader(), &driven.events, &mut Random::new(1), 60);
    assert!(watched.verify(&mut |_| {}).expect("verified").is_sound());
}

#[test]
fn a_policy_keeps_what_is_young_and_the_newest_local() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let driven = flushed(&disk, &cold, 6);
    let tables = driven.store.inspect().event_tables;
    let policy =
        ColdPolicy { accepted_through: AcceptedTime(tables[1].last_accepted_time), ..ColdPolicy::default() };
    let report = driven.store.push_cold(&policy, &mut go_on).expect("pushed");
    assert_eq!(report.moved.iter().map(|moved| moved.last_sequence).max(), Some(tables[1].last_sequence));
    let policy = ColdPolicy { keep_newest: 3, ..ColdPolicy::default() };
    assert_eq!(driven.store.push_cold(&policy, &mut go_on).expect("pushed").moved.len(), 1);
    let policy = ColdPolicy { keep_newest: 0, ..ColdPolicy::default() };
    driven.store.push_cold(&policy, &mut go_on).expect("pushed");
    assert_eq!(local_tables(&disk).len(), 1, "the newest stays in any case");
}

/// Appends, flushes, moves, drops, goes on: with what each moment promised.
fn record(disk: &SimDisk, cold: &FakeCold) -> (Vec<Placed>, Vec<(usize, Sequence)>) {
    let mut driven = flushed(disk, cold, 3);
    let mut promised = Vec::new();
    push(&driven.store).expect("pushed");
    for round in 0..2 {
        driven.append(3, true);
        promised.push((disk.operations(), driven.head.last_sequence));
        driven.store.flush().expect("flushed");
        push(&driven.store).expect("pushed");
        if round == 0 {
            driven.store.retain(&older_than(30), now(&driven)).expect("dropped");
        }
    }
    let report = push(&driven.store).expect("pushed");
    assert!(report.removed.is_empty(), "all of it was removed before: {report:?}");
    (driven.events.clone(), promised)
}

fn judge(disk: &SimDisk, cold: &FakeCold, events: &[Placed], at_least: Sequence) -> Result<(), String> {
    let opened = Driven::open(Arc::new(disk.clone()), options(cold), Vec::new(), 3);
    let (mut driven, _) = opened.map_err(|error| error.to_string())?;
    let last = driven.head.last_sequence;
    if last < at_least {
        return Err(format!("recovered through {last}, {at_least} was promised"));
    }
    driven.events = events[..last.0 as usize].to_vec();
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for pushed in [false, true] {
            if pushed {
                push(&driven.store).expect("pushed");
                // Whatever is there is there for a reason, and the local copies are gone.
                let named = driven.store.inspect().event_tables;
                let keys: Vec<String> = named.iter().filter_map(|table| table.cold.clone()).collect();
                let there: Vec<String> = cold.keys();
                assert!(there.iter().all(|key| keys.contains(key)) && there.len() == keys.len(), "{there:?}");
                assert_eq!(local_tables(disk).len(), named.len() - keys.len());
            }
            check_reader(&driven.store.reader(), &driven.events, &mut Random::new(7), 3);
            let verified = driven.store.verify(&mut |_| {}).expect("readable");
            assert!(verified.is_sound(), "{:?}", verified.findings);
        }
    }));
    checked.map_err(|panic| {
        panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a check failed".to_owned())
    })
}

#[test]
fn a_crash_at_any_moment_of_moving_and_dropping_costs_no_event() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let (events, promised) = record(&disk, &cold);
    let mut judged = 0;
    let mut found = Vec::new();
    disk.for_each_crash_point(|point| {
        let at_least = promised.iter().rev().find(|(at, _)| *at <= point.operation);
        let at_least = at_least.map_or(Sequence::ZERO, |(_, last)| *last);
        for changes in cold.changes_at(point.operation) {
            // The disk's next operation was begun only after the last of these changes.
            let all_made = changes == *cold.changes_at(point.operation).end();
            let seeded = PowerLoss::Seeded(point.operation as u64 * 31 + changes as u64);
            let begun = [PowerLoss::KeepUnsynced, seeded].into_iter().filter(|_| all_made);
            let lost =
                [PowerLoss::LoseUnsynced].into_iter().chain(begun).map(|choice| point.power_loss(choice));
            for left in lost.chain([point.killed()]) {
                judged += 1;
                if let Err(wrong) = judge(&left, &cold.after(changes, &left), &events, at_least) {
                    found.push(format!("operation {}, {changes} changes: {wrong}", point.operation));
                }
            }
        }
    });
    assert!(judged > 400, "{judged}");
    assert!(found.is_empty(), "{} of {judged}: {}", found.len(), found[..found.len().min(3)].join("\n"));
}

#[test]
fn an_object_store_that_fails_or_lies_at_any_call_costs_no_event() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let driven = flushed(&disk, &cold, 4);
    let calls = cold.state.lock().calls;
    push(&driven.store).expect("pushed");
    let calls = cold.state.lock().calls - calls;
    assert!(calls >= 9, "{calls}");
    for call in 0..calls {
        for mischief in [Mischief::RefuseOnce, Mischief::Refuse, Mischief::Lie, Mischief::Flip] {
            let disk = SimDisk::new(1);
            let cold = FakeCold::new(&disk);
            let mut driven = flushed(&disk, &cold, 4);
            cold.misbehave(call, mischief);
            let outcome = push(&driven.store);
            cold.behave();
            match mischief {
                Mischief::RefuseOnce => assert_eq!(outcome.expect("tried again").moved.len(), 3),
                Mischief::Refuse => {
                    let error = outcome.expect_err("it never answers");
                    assert!(error.to_string().starts_with("fake: cannot "), "{error}");
                    // What is told to be local is.
                    let told = driven
                        .store
                        .inspect()
                        .event_tables
                        .iter()
                        .filter(|table| table.cold.is_none())
                        .count();
                    assert_eq!((told, local_tables(&disk).len()), (4 - call / 3, 4 - call / 3));
                }
                // The read back shows it, whichever call it was: nothing is moved on a promise.
                Mischief::Lie | Mischief::Flip => {
                    let error = outcome.expect_err("what was read back was not what was stored");
                    let missing = matches!(error, ColdPushError::Cold(ColdError::Missing { .. }));
                    assert!(
                        missing || matches!(error, ColdPushError::ReadBack { .. }),
                        "call {call}: {error}"
                    );
                }
            }
            driven.check(4);
            push(&driven.store).expect("pushed");
            assert_eq!(local_tables(&disk).len(), 1);
            driven.check(4);
            assert!(driven.store.verify(&mut |_| {}).expect("verified").is_sound());
        }
    }
}

fn read_all(driven: &Driven) -> Result<usize, ReadError> {
    driven.store.reader().query(&Query::default())?.try_fold(0, |count, event| event.map(|_| count + 1))
}

#[test]
fn an_unreachable_store_is_named_and_forgotten_when_it_is_back() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let driven = flushed(&disk, &cold, 4);
    push(&driven.store).expect("pushed");
    cold.misbehave(0, Mischief::Refuse);
    let newest = driven.store.inspect().event_tables[3].first_sequence;
    assert!(driven.store.reader().event(Sequence(newest)).expect("local").is_some());
    let error = read_all(&driven).expect_err("it does not answer");
    assert!(matches!(error, ReadError::Table(TableError::Disk(_))), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&cold.keys()[0]) && text.contains("out of order"), "{text}");
    cold.behave();
    assert_eq!(read_all(&driven).expect("readable"), driven.events.len());
}

#[test]
fn a_store_opened_without_its_cold_tier_answers_what_is_local_and_says_what_it_lacks() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let driven = flushed(&disk, &cold, 4);
    push(&driven.store).expect("pushed");
    let events = driven.events.clone();
    drop(driven);
    disk.kill();
    let (driven, _) = Driven::open(Arc::new(disk.clone()), small_options(), events, 3)
        .expect("the newest tables are local");
    let error = read_all(&driven).expect_err("objects cannot be read");
    assert!(error.to_string().contains("no cold tier is configured"), "{error}");
    let newest = driven.store.inspect().event_tables[3].first_sequence;
    assert!(driven.store.reader().event(Sequence(newest)).expect("local").is_some());
    let watched = ReadOnlyStore::open(Arc::new(disk), ReadOnlyOptions::default()).expect("opened");
    assert!(watched.reader().event(Sequence(newest)).expect("local").is_some());
}

#[test]
fn a_missing_or_altered_object_is_named() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let driven = flushed(&disk, &cold, 3);
    push(&driven.store).expect("pushed");
    let key = cold.keys()[0].clone();
    let whole = cold.state.lock().objects[&key].clone();
    let damages = (0..whole.len()).step_by(whole.len() / 200).map(|at| {
        let mut object = whole.clone();
        object[at] ^= 0x10;
        Some(object)
    });
    let cut =
        [0, 1, 63, 64, 100, whole.len() / 2, whole.len() - 1].map(|length| Some(whole[..length].to_vec()));
    for damaged in damages.chain(cut).chain([None]) {
        match &damaged {
            Some(object) => drop(cold.state.lock().objects.insert(key.clone(), object.clone())),
            None => drop(cold.state.lock().objects.remove(&key)),
        }
        let options = ReadOnlyOptions { cold: Some(Arc::new(cold.clone())), ..ReadOnlyOptions::default() };
        let watched = ReadOnlyStore::open(Arc::new(disk.clone()), options).expect("opened");
        let all: Result<Vec<_>, ReadError> =
            watched.reader().query(&Query::default()).expect("possible").collect();
        let error = all.map(|all| all.len()).expect_err("the damage is noticed");
        match (&error, &damaged) {
            (ReadError::Table(TableError::Damage(_)), Some(_)) => {}
            (ReadError::Table(TableError::Disk(error)), None) if error.is_missing() => {}
            _ => panic!("{error:?}"),
        }
        assert!(error.to_string().contains(&key), "{error}");
        let verified = watched.verify(&mut |_| {}).expect("verified");
        assert!(!verified.is_sound());
    }
}

#[test]
fn a_damaged_table_is_not_moved() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let driven = flushed(&disk, &cold, 3);
    disk.flip_bit(&PathBuf::from("tables").join(&local_tables(&disk)[0]), 200, 1);
    let error = push(&driven.store).expect_err("damage");
    assert!(matches!(error, ColdPushError::Table(TableError::Damage(_))), "{error}");
    assert_eq!((cold.keys().len(), local_tables(&disk).len()), (0, 3));
}

#[test]
fn retention_waits_for_an_upload_and_objects_go_after_their_tables_and_their_readers() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let mut driven = flushed(&disk, &cold, 8);
    let now = now(&driven);
    let mut first = true;
    let report = driven.store.push_cold(&ColdPolicy::default(), &mut |progress| {
        if progress.step == ColdStep::Uploading && std::mem::take(&mut first) {
            assert!(driven.store.pins().iter().any(|pin| pin.kind == PinKind::Archive && pin.from == 1));
            driven.store.retain(&older_than(40), now).expect("retained");
            assert_eq!(driven.store.reader().first_kept(), Sequence::FIRST, "the upload holds it back");
        }
        ControlFlow::Continue(())
    });
    assert_eq!(report.expect("pushed").moved.len(), 7);
    assert_eq!(driven.store.pins(), []);

    let reader = driven.store.reader();
    let mut under_way = reader.query(&Query::default()).expect("possible");
    under_way.next().expect("an event").expect("readable");
    driven.store.retain(&older_than(40), now).expect("retained");
    let dropped = driven.store.inspect().event_tables.len();
    assert!(driven.store.reader().first_kept() > Sequence::FIRST && dropped < 8);
    assert_eq!(push(&driven.store).expect("pushed").removed, [""; 0], "somebody reads them");
    assert_eq!(cold.keys().len(), 7);
    let read = under_way.inspect(|event| assert!(event.is_ok(), "still readable: {event:?}"));
    assert_eq!(read.count(), driven.events.len() - 1);
    assert_eq!(push(&driven.store).expect("pushed").removed.len(), 8 - dropped);
    assert_eq!(cold.keys().len(), 7 - (8 - dropped));
    driven.check(20);
}

#[test]
fn objects_that_could_not_be_removed_are_removed_later_also_after_a_restart() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let driven = flushed(&disk, &cold, 8);
    push(&driven.store).expect("pushed");
    driven.store.retain(&older_than(40), now(&driven)).expect("retained");
    cold.misbehave(0, Mischief::Refuse);
    push(&driven.store).expect_err("it does not answer");
    cold.behave();
    let events = driven.events.clone();
    drop(driven);
    disk.kill();
    let mut driven = open(&disk, &cold, events);
    let removed = push(&driven.store).expect("pushed").removed.len();
    assert!(removed > 2, "{removed}");
    assert_eq!(cold.keys().len(), driven.store.inspect().event_tables.len() - 1);
    driven.check(20);
}

#[test]
fn whoever_reads_a_local_table_reads_it_to_its_end() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let driven = flushed(&disk, &cold, 4);
    let under_way = driven.store.reader().query(&Query::default()).expect("possible");
    push(&driven.store).expect("pushed");
    assert_eq!(local_tables(&disk).len(), 4, "a reader may still ask for them by name");
    cold.misbehave(0, Mischief::Refuse);
    let read = under_way.inspect(|event| assert!(event.is_ok(), "local: {event:?}"));
    assert_eq!(read.count(), driven.events.len());
    driven.store.flush().expect("flushed");
    cold.behave();
    push(&driven.store).expect("pushed");
}

#[test]
fn a_push_may_be_stopped_at_any_step_and_continued() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let mut driven = flushed(&disk, &cold, 4);
    for steps in 0..9 {
        let mut left = steps;
        let report = driven.store.push_cold(&ColdPolicy::default(), &mut |_| {
            left -= 1;
            if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(report.expect("no failure").stopped || local_tables(&disk).len() == 1);
        driven.check(3);
    }
    push(&driven.store).expect("pushed");
    assert_eq!((local_tables(&disk).len(), cold.keys().len()), (1, 3));
    driven.check(20);
}

#[test]
fn a_backup_brings_the_cold_tables_home() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let driven = flushed(&disk, &cold, 5);
    push(&driven.store).expect("pushed");
    let target: Arc<dyn Disk> = Arc::new(SimDisk::new(2));
    let report = driven.store.copy_to(&target, None, &mut |_| {}).expect("copied");
    assert!(report.verified.is_sound() && report.copied >= 5, "{report:?}");
    // On its own: without any objects.
    let copied = ReadOnlyStore::open(target, ReadOnlyOptions::default()).expect("opened");
    check_reader(&copied.reader(), &driven.events, &mut Random::new(1), 60);

    cold.misbehave(0, Mischief::Refuse);
    let target: Arc<dyn Disk> = Arc::new(SimDisk::new(2));
    let error = driven.store.copy_to(&target, None, &mut |_| {}).expect_err("the objects cannot be had");
    assert!(error.to_string().contains("out of order"), "{error}");
    assert!(ReadOnlyStore::open(target, ReadOnlyOptions::default()).is_err(), "half a copy is no store");
}

#[test]
fn objects_of_two_stores_of_one_tape_in_one_place_are_told_apart() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let mut driven = flushed(&disk, &cold, 6);
    let target = SimDisk::new(2);
    let copy: Arc<dyn Disk> = Arc::new(target.clone());
    driven.store.copy_to(&copy, None, &mut |_| {}).expect("copied");
    let mut copied = open(&target, &cold, driven.events.clone());
    push(&driven.store).expect("pushed");
    push(&copied.store).expect("pushed");
    // What one of them drops, the other one still has.
    driven.store.retain(&older_than(20), now(&driven)).expect("retained");
    assert!(!push(&driven.store).expect("pushed").removed.is_empty());
    copied.check(40);
    assert!(copied.store.verify(&mut |_| {}).expect("verified").is_sound());
    driven.check(20);
}

#[test]
fn two_pushes_at_once_take_turns_and_lose_no_object() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let mut driven = flushed(&disk, &cold, 12);
    let store = &driven.store;
    let busy = Mutex::new(None::<u32>);
    let one = |number: u32| {
        let report = store.push_cold(&ColdPolicy::default(), &mut |progress| {
            let other = busy.lock().replace(number).filter(|other| *other != number);
            assert_eq!(other, None, "{progress:?} while another push was under way");
            // So that the other one has its chance.
            std::thread::yield_now();
            ControlFlow::Continue(())
        });
        *busy.lock() = None;
        report.expect("pushed").moved.len()
    };
    let moved = std::thread::scope(|scope| {
        let other = scope.spawn(|| one(2));
        one(1) + other.join().expect("no panic")
    });
    assert_eq!((moved, cold.keys().len()), (11, 11));
    driven.check(40);
    assert!(driven.store.verify(&mut |_| {}).expect("verified").is_sound());
}

#[test]
fn salvage_lets_no_object_be_removed_that_holds_events_the_store_gives_up() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let mut driven = flushed(&disk, &cold, 20);
    let policy = ColdPolicy { keep_newest: 10, ..ColdPolicy::default() };
    driven.store.push_cold(&policy, &mut go_on).expect("pushed");
    driven.append(4, true);
    driven.store.flush().expect("flushed");
    driven.store.release_log(driven.store.flushed_through()).expect("released");
    let keys = cold.keys();
    let behind = local_tables(&disk)[0].clone();
    let Driven { store, writer, events, .. } = driven;
    writer.close().expect("closed");
    drop(store);
    disk.kill();
    disk.flip_bit(&PathBuf::from("tables").join(&behind), 200, 1);

    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let options = SalvageOptions { apply: true, ..SalvageOptions::default() };
    let report = salvage(&shared, &options, &mut |_| {}).expect("salvaged");
    assert_eq!((report.objects_aside.len(), &report.objects_aside), (10, &keys));
    let told = Path::new(report.directory.as_ref().expect("made")).join("cold.objects");
    let told = String::from_utf8(disk.content(&told).expect("written")).expect("text");
    assert!(keys.iter().all(|key| told.lines().any(|line| line.starts_with(&format!("{key} | tables/")))));
    assert!(!report.files_aside.iter().any(|file| *file == keys[0]), "{report:?}");

    let (driven, _) = Driven::open_with(shared, self::options(&cold), events, 3, Vec::new()).expect("opened");
    assert!(driven.store.reader().first_kept() > Sequence::FIRST);
    push(&driven.store).expect("pushed");
    assert!(keys.iter().all(|key| cold.keys().contains(key)), "objects are gone: {:?}", cold.keys());
}

#[test]
fn salvage_of_a_damaged_manifest_finds_the_objects_in_what_is_left_of_it_wherever_it_is_interrupted() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let mut driven = flushed(&disk, &cold, 6);
    let policy = ColdPolicy { keep_newest: 2, ..ColdPolicy::default() };
    driven.store.push_cold(&policy, &mut go_on).expect("pushed");
    driven.append(4, true);
    let keys = cold.keys();
    assert_eq!(keys.len(), 4);
    let Driven { store, writer, events, .. } = driven;
    writer.close().expect("closed");
    drop(store);
    disk.kill();
    // In its first record, which is from before the first table.
    disk.flip_bit(Path::new("manifest"), 70, 1);

    let options = SalvageOptions { apply: true, cold: Some(Arc::new(cold.clone())), ..Default::default() };
    let salvaged = |disk: &SimDisk| {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        salvage(&shared, &options, &mut |_| {})
    };
    let check = |disk: &SimDisk, context: &str| {
        let report = salvaged(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
        let gone = report.lost.len() + report.aside.len() + report.objects_aside.len();
        // A run that was interrupted behind its switch has left nothing to do.
        let read_back = report.verified.as_ref().is_none_or(|verified| verified.is_sound());
        assert!(gone == 0 && read_back && report.log_kept, "{context}: {report:?}");
        disk.kill();
        let mut driven = open(disk, &cold, events.clone());
        driven.check(2);
        assert!(driven.store.verify(&mut |_| {}).expect("verified").is_sound(), "{context}");
        assert_eq!(cold.keys(), keys, "{context}");
        drop(driven);
        disk.kill();
    };
    let copy = |disk: &SimDisk| disk.kill_at(disk.operations());
    let whole = copy(&disk);
    assert!(salvaged(&whole).expect("salvaged").manifest_rebuilt);
    for step in 0..=whole.operations() {
        check(&whole.crash_at(step, PowerLoss::Seeded(step as u64)), &format!("crash at {step}"));
        let failing = copy(&disk);
        failing.fail_at(step, Fault::Eio);
        let _ = salvaged(&failing);
        failing.kill();
        check(&copy(&failing), &format!("error at {step}"));
    }
    // What it knows it does not take for what nobody needs.
    let driven = open(&whole, &cold, events.clone());
    push(&driven.store).expect("pushed");
    assert!(keys.iter().all(|key| cold.keys().contains(key)), "objects are gone: {:?}", cold.keys());
}

#[test]
fn a_copy_of_a_store_whose_writer_removes_an_object_meanwhile_begins_again() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let mut driven = flushed(&disk, &cold, 8);
    push(&driven.store).expect("pushed");
    let options = ReadOnlyOptions { cold: Some(Arc::new(cold.clone())), ..ReadOnlyOptions::default() };
    let watched = ReadOnlyStore::open(Arc::new(disk.clone()), options).expect("opened");
    let target: Arc<dyn Disk> = Arc::new(SimDisk::new(2));
    let mut removed = 0;
    let report = watched.copy_to(Point::End, &target, None, &mut |_| {
        if removed == 0 {
            driven.store.retain(&older_than(40), now(&driven)).expect("retained");
            removed = push(&driven.store).expect("pushed").removed.len();
        }
    });
    let report = report.expect("copied");
    assert!(removed > 0 && report.attempts == 2 && report.verified.is_sound(), "{report:?}");
    driven.check(10);
}

#[test]
fn an_index_lost_over_tables_of_the_cold_tier_is_made_anew_from_there_or_nothing_is_changed() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let mut driven = flushed(&disk, &cold, 8);
    push(&driven.store).expect("pushed");
    driven.append(4, true);
    let Driven { store, writer, events, .. } = driven;
    let objects = cold.keys().len() as u64;
    writer.close().expect("closed");
    drop(store);
    disk.kill();
    let indexes = disk.list(Path::new("tables")).expect("listed");
    let indexes: Vec<_> = indexes.into_iter().filter(|entry| entry.name.ends_with(".index")).collect();
    disk.flip_bit(&PathBuf::from("tables").join(&indexes[0].name), 100, 1);

    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let blind = SalvageOptions { apply: true, ..SalvageOptions::default() };
    let before = disk.content(Path::new("manifest"));
    let error = salvage(&shared, &blind, &mut |_| {}).expect_err("the events are elsewhere").to_string();
    assert!(error.contains("cold tier") && cold.keys().iter().any(|key| error.contains(key)), "{error}");
    assert_eq!(disk.content(Path::new("manifest")), before, "nothing was changed");
    let planned = salvage(&shared, &SalvageOptions::default(), &mut |_| {}).expect("planned");
    assert!(
        planned.warnings.iter().any(|warning| warning.contains("it cannot be done from here")),
        "{planned:?}"
    );

    let seeing = SalvageOptions { cold: Some(Arc::new(cold.clone())), ..blind };
    cold.misbehave(0, Mischief::Refuse);
    let error = salvage(&shared, &seeing, &mut |_| {}).expect_err("the tier does not answer").to_string();
    assert!(error.contains("cannot be made anew"), "{error}");
    assert_eq!(disk.content(Path::new("manifest")), before, "nothing was changed");
    cold.behave();
    let report = salvage(&shared, &seeing, &mut |_| {}).expect("salvaged");
    assert!(report.lost.is_empty() && report.objects_aside.is_empty() && report.log_kept, "{report:?}");
    assert!(report.indexes_rebuilt >= 1 && report.verified.expect("read back").is_sound());
    assert_eq!(cold.keys().len() as u64, objects);

    let mut driven = open(&disk, &cold, events);
    driven.check(60);
    assert!(driven.store.verify(&mut |_| {}).expect("verified").is_sound());
}

#[test]
fn tables_are_compressed_otherwise_on_their_way_and_a_stop_in_between_loses_nothing() {
    let disk = SimDisk::new(1);
    let cold = FakeCold::new(&disk);
    let options = StoreOptions { compression: Compression::None, ..options(&cold) };
    let mut driven = Driven::open(Arc::new(disk.clone()), options, Vec::new(), 3).expect("opened").0;
    for _ in 0..6 {
        driven.append(3, true);
        driven.store.flush().expect("flushed");
    }
    #[cfg(feature = "zstd")]
    let smaller = Compression::Zstd;
    #[cfg(not(feature = "zstd"))]
    let smaller = Compression::Lz4;
    let policy = ColdPolicy { compression: Some(smaller), ..ColdPolicy::default() };
    let before: u64 = driven.store.inspect().event_tables.iter().map(|table| table.bytes).sum();
    let mut steps = 0;
    let stopped = driven.store.push_cold(&policy, &mut |progress| {
        steps += u32::from(progress.step == ColdStep::Compressing);
        if steps > 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let stopped = stopped.expect("stopped in order");
    assert!(stopped.stopped && stopped.moved.is_empty() && cold.keys().is_empty(), "{stopped:?}");
    driven.check(10);
    let report = driven.store.push_cold(&policy, &mut go_on).expect("pushed");
    assert_eq!((report.moved.len(), cold.keys().len()), (5, 5));
    let tables = driven.store.inspect().event_tables;
    assert!(tables.iter().map(|table| table.bytes).sum::<u64>() < before);
    assert_eq!(tables[5].compression, Some("none"), "what stays local stays as it is");
    driven.check(60);
    assert!(driven.store.verify(&mut |_| {}).expect("verified").is_sound());
    let events = driven.events.clone();
    drop(driven);
    disk.kill();
    open(&disk, &cold, events).check(60);
}
