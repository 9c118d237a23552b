//! What retention drops, what holds it back, and that everything that is kept still has its answer.

mod model;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use matchtape_schemas::*;
use matchtape_storage::sim::{Random, SimDisk};
use matchtape_storage::{
    Advisory, Disk, EventStore, HoldError, OpenError, PinError, PinKind, PinLimit, PinLimits, Query,
    ReadError, ReadOnlyOptions, ReadOnlyStore, Restraint, RetentionMarks, RetentionPolicy,
};
use model::*;

/// A store of so many flushes, about fifteen events each.
fn flushed(disk: &SimDisk, flushes: usize) -> Driven {
    let mut driven = Driven::new(disk, 3);
    for _ in 0..flushes {
        driven.append(3, true);
        driven.store.flush().expect("flushed");
    }
    driven
}

fn now(driven: &Driven) -> AcceptedTime {
    AcceptedTime(driven.events.len() as i64)
}

/// Events as long ago as so many events.
fn older_than(events: u64) -> RetentionPolicy {
    RetentionPolicy {
        age: Some(Duration::from_nanos(events)),
        snapshot_gap_bytes: 0,
        ..RetentionPolicy::default()
    }
}

fn files(disk: &SimDisk, extension: &str) -> usize {
    let entries = disk.list(Path::new("tables")).expect("listed");
    entries.iter().filter(|entry| entry.name.ends_with(extension)).count()
}

#[test]
fn what_is_old_goes_and_everything_else_keeps_its_answers_also_after_a_restart() {
    let disk = SimDisk::new(1);
    let mut driven = flushed(&disk, 12);
    let plan = driven.store.plan_retention(&older_than(40), now(&driven)).expect("planned");
    assert_eq!(files(&disk, "events"), 12, "a plan changes nothing");
    let choice = driven.store.retain(&older_than(40), now(&driven)).expect("dropped");
    assert_eq!(choice, plan);
    let first_kept = driven.store.reader().first_kept();
    assert!(first_kept.0 > 40 && choice.first_kept == first_kept.0, "{choice:?}");
    assert_eq!(
        files(&disk, "events"),
        12 - choice.dropped.iter().filter(|file| file.file.ends_with("events")).count()
    );
    assert!(files(&disk, "events") < 6 && files(&disk, "snapshot") >= 2);
    driven.check(60);
    assert!(driven.store.verify(&mut |_| {}).expect("verified").is_sound());

    let events = driven.events.clone();
    drop(driven);
    disk.kill();
    let (mut driven, _) = Driven::open(Arc::new(disk.clone()), small_options(), events, 9).expect("opened");
    assert_eq!(driven.store.reader().first_kept(), first_kept);
    assert_eq!(driven.store.projection_section("digest"), Some(&*Digest::of(&driven.events).bytes()));
    driven.append(2, true);
    driven.check(60);
    assert!(driven.store.verify(&mut |_| {}).expect("verified").is_sound());
}

#[test]
fn every_state_as_of_a_kept_event_can_still_be_made() {
    let disk = SimDisk::new(1);
    let driven = flushed(&disk, 20);
    let policy = RetentionPolicy { snapshot_gap_bytes: 6 << 10, ..older_than(120) };
    let choice = driven.store.retain(&policy, now(&driven)).expect("dropped");
    assert!(choice.dropped.iter().filter(|file| file.file.ends_with("snapshot")).count() > 12, "{choice:?}");
    let reader = driven.store.reader();
    for at in choice.first_kept - 1..=driven.events.len() as u64 {
        let snapshot = reader.snapshot_before(Sequence(at)).expect("read").expect("one at or before");
        let mut digest = Digest::default();
        digest.restore(&snapshot.section("digest").expect("there").bytes).expect("restored");
        let mut frames = reader.frames(snapshot.sequence().next()).expect("kept");
        while let Some(frame) = frames.next_frame().expect("read") {
            for event in frame
                .frame()
                .events()
                .filter(|event| event.sequence() > snapshot.sequence() && event.sequence() <= Sequence(at))
            {
                digest.apply(&event);
            }
        }
        assert_eq!(digest, Digest::of(&driven.events[..at as usize]));
    }
}

#[test]
fn a_query_from_a_time_of_which_events_were_dropped_is_refused_and_not_answered_with_the_rest() {
    let disk = SimDisk::new(1);
    let driven = flushed(&disk, 8);
    let reader = driven.store.reader();
    let from = |time| Query { event_time_from: EventTime(time), ..Query::default() };
    let kept_all = reader.query(&from(i64::MIN + 1)).expect("nothing was dropped").count();
    assert_eq!(kept_all, driven.events.len());
    let choice = driven.store.retain(&older_than(20), now(&driven)).expect("dropped");
    let dropped = &driven.events[..choice.first_kept as usize - 1];
    let greatest = dropped.iter().map(|placed| placed.event.event_time.get()).max().expect("some");
    for time in [i64::MIN + 1, greatest - 1, greatest] {
        let refused = reader.query(&from(time)).expect_err("it may have been dropped");
        let paged = reader.page(&from(time), "events", None).expect_err("likewise");
        assert!(matches!(paged, ReadError::TimeBelowRetention { .. }), "{paged}");
        assert!(
            matches!(refused, ReadError::TimeBelowRetention { asked, dropped_through, first_kept }
                if asked.get() == time && dropped_through.get() == greatest && first_kept.get() == choice.first_kept),
            "{refused}"
        );
    }
    let later = driven.events.iter().filter(|placed| placed.event.event_time.get() > greatest).count();
    assert_eq!(reader.query(&from(greatest + 1)).expect("all is there").count(), later);
    let rest = driven.events.len() - dropped.len();
    assert_eq!(reader.query(&Query::default()).expect("from the first kept").count(), rest);
}

#[test]
fn reading_below_says_where_the_tape_begins_now_and_a_reader_under_way_finishes_its_block() {
    let disk = SimDisk::new(1);
    let driven = flushed(&disk, 8);
    let reader = driven.store.reader();
    let mut frames = reader.frames(Sequence::FIRST).expect("kept");
    assert!(frames.next_frame().expect("read").is_some());
    let mut query = reader.query(&Query::default()).expect("possible");
    assert_eq!(query.next().expect("an event").expect("read").sequence(), Sequence::FIRST);
    let choice = driven.store.retain(&older_than(20), now(&driven)).expect("dropped");
    let first_kept = Sequence(choice.first_kept);
    // A query holds what it began with; a frame cursor goes on in what is there now.
    assert_eq!(query.filter(|event| event.is_ok()).count(), driven.events.len() - 1);
    let below = loop {
        match frames.next_frame() {
            Ok(frame) => assert!(frame.is_some(), "it must meet the edge first"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(below, ReadError::BelowRetention { first_kept: kept, .. } if kept == first_kept),
        "{below}"
    );
    assert!(below.to_string().contains(&format!("the first kept is {first_kept}")), "{below}");

    let other = ReadOnlyStore::open(Arc::new(disk), ReadOnlyOptions::default()).expect("opened");
    assert_eq!(other.reader().first_kept(), first_kept);
    assert!(matches!(other.reader().event(Sequence::FIRST), Err(ReadError::BelowRetention { .. })));
}

#[test]
fn a_pin_holds_back_what_it_needs_until_it_moves_on_or_is_over_its_limit() {
    let disk = SimDisk::new(1);
    let driven = flushed(&disk, 10);
    let pin = driven.store.pin(PinKind::Consumer, "clearing", Sequence(30)).expect("pinned");
    let policy = older_than(20);
    let choice = driven.store.retain(&policy, now(&driven)).expect("dropped");
    assert!(choice.first_kept <= 30 && choice.first_wanted > 30, "{choice:?}");
    assert!(matches!(&choice.restraints[0], Restraint::Pinned { pin } if pin.name == "clearing"));
    pin.advance(Sequence(60)).expect("not broken");
    let choice = driven.store.retain(&policy, now(&driven)).expect("dropped");
    assert!(choice.first_kept > 30 && choice.first_kept <= 60, "{choice:?}");

    let tight = PinLimit { age: Some(Duration::from_nanos(30)), bytes: None };
    let limits = PinLimits { consumer: tight, ..PinLimits::default() };
    let policy = RetentionPolicy { pin_limits: limits, ..policy };
    let choice = driven.store.retain(&policy, now(&driven)).expect("dropped");
    assert!(
        matches!(&choice.advisories[0], Advisory::PinBroken { pin, .. } if pin.name == "clearing"),
        "{choice:?}"
    );
    assert!(choice.first_kept > 60);
    assert!(pin.is_broken());
    let marks = || driven.store.gauge().numbers().retention;
    assert_eq!(marks(), RetentionMarks { pins_broken: 1, ..RetentionMarks::default() });
    driven.store.retain(&policy, now(&driven)).expect("looked again");
    assert_eq!(marks().pins_broken, 1, "it is broken once");
    assert!(matches!(pin.advance(Sequence(100)), Err(PinError::Broken { .. })));
    let refused = driven.store.pin(PinKind::Consumer, "clearing", Sequence(60)).expect_err("gone");
    assert_eq!(
        refused,
        PinError::BelowRetention { asked: Sequence(60), first_kept: Sequence(choice.first_kept) }
    );
}

#[test]
fn a_legal_hold_outlives_the_process_and_only_alarms() {
    let disk = SimDisk::new(1);
    let driven = flushed(&disk, 10);
    driven.store.hold("case 7", Sequence(20), now(&driven)).expect("placed");
    let events = driven.events.clone();
    drop(driven);
    disk.kill();
    let (driven, _) = Driven::open(Arc::new(disk.clone()), small_options(), events, 9).expect("opened");
    assert_eq!(driven.store.holds()[0].name, "case 7");
    let tight = PinLimit { bytes: Some(1), age: None };
    let limits = PinLimits { legal_hold: tight, ..PinLimits::default() };
    let policy = RetentionPolicy { pin_limits: limits, ..older_than(20) };
    let choice = driven.store.retain(&policy, now(&driven)).expect("ran");
    assert!(choice.first_kept <= 20, "{choice:?}");
    assert!(matches!(&choice.advisories[0], Advisory::HoldOverLimit { hold, .. } if hold.name == "case 7"));
    let numbers = driven.store.gauge().numbers();
    assert_eq!((numbers.legal_holds, numbers.retention.holds_over_limit), (1, 1));
    let refused = driven.store.hold("too late", Sequence(1), now(&driven));
    if choice.first_kept > 1 {
        assert!(matches!(refused, Err(HoldError::Pin(PinError::BelowRetention { .. }))));
    }
    assert!(!driven.store.lift_hold("case 8", now(&driven)).expect("durable"));
    assert!(driven.store.lift_hold("case 7", now(&driven)).expect("durable"));
    let choice = driven.store.retain(&policy, now(&driven)).expect("dropped");
    assert!(choice.first_kept > 60, "{choice:?}");
    let numbers = driven.store.gauge().numbers();
    assert_eq!((numbers.legal_holds, numbers.retention.holds_over_limit), (0, 0));
}

#[test]
fn trading_days_and_sizes_are_reasons_to_drop_too() {
    let disk = SimDisk::new(1);
    let mut driven = Driven::new(&disk, 3);
    let mut day_ends = Vec::new();
    for day in 0..6 {
        driven.append(2, true);
        // A day may close more than one session.
        for session in 0..2 {
            driven.append_group(vec![Event::new(
                InstrumentId(0),
                ProducerSequence(driven.head.last_sequence.0 + 1),
                EventTime(driven.head.last_sequence.0 as i64 * 100),
                event::SessionClosed { trading_day: 20_260_101 + day, session, ..Default::default() },
            )]);
        }
        day_ends.push(driven.head.last_sequence);
        driven.store.flush().expect("flushed");
    }
    let policy = RetentionPolicy { trading_days: Some(2), ..RetentionPolicy::default() };
    let choice = driven.store.retain(&policy, now(&driven)).expect("dropped");
    assert_eq!(choice.first_kept, day_ends[3].0 + 1);
    driven.check(30);

    let policy = RetentionPolicy { bytes: Some(1), ..RetentionPolicy::default() };
    let choice = driven.store.retain(&policy, now(&driven)).expect("dropped");
    assert!(choice.restraints.contains(&Restraint::NewestTable), "{choice:?}");
    assert_eq!(choice.first_kept, day_ends[4].0 + 1);
    driven.check(30);
}

#[test]
fn a_damaged_snapshot_is_not_relied_on_and_an_older_one_still_opens_the_store() {
    let disk = SimDisk::new(1);
    let driven = flushed(&disk, 8);
    let snapshots = driven.store.inspect().snapshots;
    let newest = snapshots.last().expect("there").file.clone();
    disk.flip_bit(Path::new(&newest), 100, 1);
    let choice = driven.store.retain(&older_than(0), now(&driven)).expect("dropped");
    assert!(
        choice
            .advisories
            .iter()
            .any(|advisory| matches!(advisory, Advisory::SnapshotUnusable { file, .. } if *file == newest)),
        "{choice:?}"
    );
    // Without the damaged one, two good ones are left.
    assert_eq!(choice.first_kept, snapshots[5].sequence + 1);
    let events = driven.events.clone();
    drop(driven);
    disk.kill();
    let (driven, report) =
        Driven::open(Arc::new(disk.clone()), small_options(), events.clone(), 9).expect("opened");
    assert!(report.snapshots_refused[0].contains(&newest), "{report}");
    assert_eq!(report.snapshot_sequence, snapshots[6].sequence);
    assert_eq!(driven.store.projection_section("digest"), Some(&*Digest::of(&events).bytes()));
    drop(driven);
    disk.kill();

    // With all of them damaged there is no way back, and it is said.
    for snapshot in &snapshots[5..7] {
        disk.flip_bit(Path::new(&snapshot.file), 100, 1);
    }
    let error = EventStore::open(Arc::new(disk), small_options(), projections()).expect_err("no state");
    assert!(matches!(error, OpenError::HistoryGone { projection: "digest", .. }), "{error}");
}

/// The digest of a later release: it saves its halves the other way round, and reads both layouts.
#[derive(Default)]
struct Later(Digest);

impl Projection for Later {
    fn name(&self) -> &'static str {
        "digest"
    }

    fn version(&self) -> u32 {
        2
    }

    fn apply(&mut self, event: &EventRef<'_>) {
        self.0.apply(event);
    }

    fn save(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&turned(&self.0.bytes()));
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), ProjectionError> {
        self.0.restore(&turned(section))
    }

    fn restore_older(&mut self, version: u32, section: &[u8]) -> Option<Result<(), ProjectionError>> {
        (version == 1).then(|| self.0.restore(section))
    }
}

fn turned(section: &[u8]) -> Vec<u8> {
    let (first, second) = section.split_at(8);
    [second, first].concat()
}

#[test]
fn a_tape_without_its_beginning_is_opened_by_a_release_that_reads_its_sections_older_layout() {
    let disk = SimDisk::new(1);
    let driven = flushed(&disk, 8);
    let choice = driven.store.retain(&older_than(40), now(&driven)).expect("dropped");
    assert!(choice.first_kept > 1, "{choice:?}");
    let events = driven.events.clone();
    drop(driven);
    disk.kill();
    let later = || -> Vec<Box<dyn Projection>> { vec![Box::new(Later::default())] };
    // Once from sections of the older layout, and once from those that were written then.
    let mut events = Some(events);
    for round in 0..2 {
        let known = events.take().expect("of the round before");
        let (mut driven, report) =
            Driven::open_with(Arc::new(disk.clone()), small_options(), known, 9, later()).expect("opened");
        assert!(report.snapshots_refused.is_empty() && report.snapshot_sequence > 0, "{round}: {report}");
        let expected = turned(&Digest::of(&driven.events).bytes());
        assert_eq!(driven.store.projection_section("digest"), Some(&*expected), "{round}");
        driven.append(3, true);
        driven.store.flush().expect("flushed");
        events = Some(driven.events.clone());
        drop(driven);
        disk.kill();
    }
    // The release before knows nothing of the later layout: it takes the newest of its own that there is.
    let (driven, _) =
        Driven::open(Arc::new(disk), small_options(), events.expect("of the last"), 9).expect("opened");
    assert_eq!(driven.store.projection_section("digest"), Some(&*Digest::of(&driven.events).bytes()));
}

#[test]
fn what_a_writer_lets_go_of_while_a_reader_verifies_is_no_damage() {
    let disk = SimDisk::new(1);
    let mut driven = flushed(&disk, 12);
    for _ in 0..40 {
        driven.append(3, true);
    }
    driven.store.flush().expect("flushed");
    let read_only = ReadOnlyOptions { open_tables_max: 1, ..ReadOnlyOptions::default() };
    let watched = ReadOnlyStore::open(Arc::new(disk.clone()), read_only).expect("opened");
    let segments = || {
        let entries = disk.list(Path::new("wal")).expect("listed");
        entries.iter().filter(|entry| entry.name.ends_with(".wal")).count()
    };
    let (before, segments_before) = (files(&disk, "snapshot"), segments());
    // Everything that a look of the node's does, after the first file was begun.
    let mut begun = false;
    let report = watched.verify(&mut |_| {
        if !std::mem::replace(&mut begun, true) {
            let policy = RetentionPolicy { snapshot_gap_bytes: 6 << 10, ..older_than(1 << 20) };
            driven.store.retain(&policy, now(&driven)).expect("thinned");
            driven.store.release_log(driven.head.last_sequence).expect("released");
        }
    });
    let report = report.expect("verified");
    assert!(files(&disk, "snapshot") < before, "snapshots were thinned");
    assert!(segments() < segments_before, "segments were let go of");
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.events, driven.events.len() as u64);
    // Of the view of before, the newest that is there.
    assert!(watched.reader().snapshot_before(Sequence::MAX).expect("an older one").is_some());
    // One that is missing and named is missing.
    let named = driven.store.inspect().snapshots;
    disk.remove(Path::new(&named[0].file)).expect("removed");
    let report = watched.verify(&mut |_| {}).expect("verified");
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert_eq!(report.findings[0].file, named[0].file);
}

#[test]
fn what_drops_nothing_reads_no_snapshot() {
    let disk = SimDisk::new(1);
    let driven = flushed(&disk, 6);
    let newest = driven.store.inspect().snapshots.last().expect("one per flush").file.clone();
    disk.make_unreadable(Path::new(&newest), 70..71);
    let none = RetentionPolicy { snapshot_gap_bytes: 0, ..RetentionPolicy::default() };
    let choice = driven.store.retain(&none, now(&driven)).expect("nothing to do");
    assert!(choice.dropped.is_empty(), "{choice:?}");
    driven.store.retain(&older_than(20), now(&driven)).expect_err("now it is needed");
}

#[test]
fn a_run_with_fewer_projections_does_not_cost_the_others_their_state() {
    let disk = SimDisk::new(1);
    let driven = flushed(&disk, 4);
    let events = driven.events.clone();
    drop(driven);
    disk.kill();
    // A tool that knows of no projection opens the store and flushes now and then.
    let (mut driven, _) =
        Driven::open_with(Arc::new(disk.clone()), small_options(), events, 9, Vec::new()).expect("opened");
    for _ in 0..6 {
        driven.append(3, true);
        driven.store.flush().expect("flushed");
    }
    let snapshots = driven.store.inspect().snapshots;
    let choice = driven.store.retain(&older_than(0), now(&driven)).expect("ran");
    assert_eq!(choice.first_kept, snapshots[2].sequence + 1, "{choice:?}");
    assert!(
        choice.restraints.iter().any(|restraint| matches!(restraint, Restraint::Snapshots { .. })),
        "{choice:?}"
    );
    let events = driven.events.clone();
    drop(driven);
    disk.kill();
    let (driven, _) = Driven::open(Arc::new(disk.clone()), small_options(), events, 9).expect("opened");
    assert_eq!(driven.store.projection_section("digest"), Some(&*Digest::of(&driven.events).bytes()));
    // Unless it is said that nobody will ask for it again.
    let policy = RetentionPolicy { abandoned_sections: vec!["digest".to_owned()], ..older_than(0) };
    let choice = driven.store.plan_retention(&policy, now(&driven)).expect("planned");
    assert!(choice.first_kept > driven.events.len() as u64 / 2, "{choice:?}");
}

#[test]
fn a_quiet_tape_gets_a_snapshot_when_one_is_due() {
    let disk = SimDisk::new(1);
    let mut driven = Driven::new(&disk, 3);
    let half_hour = Duration::from_secs(1800);
    assert_eq!(driven.store.snapshot_if_due(half_hour, AcceptedTime(i64::MAX)).expect("nothing"), None);
    driven.append(1, true);
    let accepted = now(&driven).0;
    let due = AcceptedTime(accepted + half_hour.as_nanos() as i64);
    let early = AcceptedTime(due.0 - driven.events.len() as i64 - 1);
    assert_eq!(driven.store.snapshot_if_due(half_hour, early).expect("nothing yet"), None);
    let through = driven.store.snapshot_if_due(half_hour, due).expect("flushed");
    assert_eq!(through, Some(driven.head.last_sequence));
    assert_eq!(driven.store.inspect().snapshots[0].sequence, driven.head.last_sequence.0);
    assert_eq!(driven.store.snapshot_if_due(half_hour, AcceptedTime(i64::MAX)).expect("nothing"), None);
}

#[test]
fn random_retention_between_random_work_never_costs_an_answer() {
    let rounds = std::env::var("MATCHTAPE_RETENTION_RUNS").map_or(12, |text| text.parse().expect("a number"));
    let (mut dropped, mut merges) = (0, 0);
    for seed in 0..rounds {
        let disk = SimDisk::new(seed);
        let mut driven = Driven::new(&disk, seed);
        let mut random = Random::new(seed ^ 0xFEED);
        for _ in 0..40 {
            match random.below(10) {
                0..=3 => driven.append(1 + random.below(3), true),
                4 => {
                    driven.store.flush().expect("flushed");
                }
                5..=6 => {
                    driven.store.flush().expect("flushed");
                    driven.compact();
                }
                7 => driven.append_large_group(2),
                8 => {
                    let policy = RetentionPolicy {
                        snapshot_gap_bytes: random.below(20 << 10),
                        ..older_than(random.below(150))
                    };
                    let before = driven.store.reader().first_kept();
                    let choice = driven.store.retain(&policy, now(&driven)).expect("dropped");
                    assert!(choice.first_kept <= choice.first_wanted.max(before.0));
                    dropped += choice.dropped.len();
                }
                _ => {
                    merges += driven.store.compaction_totals().merges;
                    let events = std::mem::take(&mut driven.events);
                    drop(driven);
                    disk.kill();
                    let opened =
                        Driven::open(Arc::new(disk.clone()), small_options(), events, random.next_u64());
                    driven = opened.unwrap_or_else(|error| panic!("seed {seed}: {error}")).0;
                }
            }
            driven.check(4);
        }
        driven.check(30);
        merges += driven.store.compaction_totals().merges;
        let verified = driven.store.verify(&mut |_| {}).expect("verified");
        assert!(verified.is_sound(), "seed {seed}: {:?}", verified.findings);
    }
    assert!(dropped > 10 && merges > 10, "{dropped} files were dropped, {merges} merges made");
}

/// A deletion is a tombstone: it hides what was set before. Once retention has dropped what it hides, nothing of the key is left
/// in any index, and merging has taken the space back.
#[test]
fn a_deleted_keys_tombstone_goes_with_what_it_hid_when_tables_are_merged() {
    use matchtape_schemas::event::{StateDeleted, StateSet};

    let disk = SimDisk::new(1);
    let options = matchtape_storage::StoreOptions {
        compaction: matchtape_storage::CompactionOptions { small_event_table_bytes: 0, ..small_compaction() },
        ..small_options()
    };
    let (mut driven, _) = Driven::open(Arc::new(disk.clone()), options, Vec::new(), 3).expect("created");
    let mut number = 0;
    // A table of its own.
    let mut say = |driven: &mut Driven, bodies: Vec<Body>| {
        let event = |body| {
            number += 1;
            Event::new(InstrumentId(0), ProducerSequence(number), EventTime(number as i64), body)
        };
        driven.append_group(bodies.into_iter().map(event).collect());
        driven.store.flush().expect("flushed");
    };
    let key = |number: u64| format!("key-{number:04}").into_bytes();
    let set = |number: u64| Body::from(StateSet::new(&key(number), b"some value").expect("short"));
    let delete = |number: u64| Body::from(StateDeleted::new(&key(number)).expect("short"));
    say(&mut driven, (0..300).map(set).collect());
    say(&mut driven, (1..300).map(delete).collect());
    let deleted_through = driven.head.last_sequence;
    for number in 0..40 {
        say(&mut driven, vec![set(1000 + number)]);
    }
    let entities = |driven: &Driven| -> u64 {
        driven.store.compact(&mut |_| true).expect("compacted");
        driven.store.inspect().index_tables.iter().map(|table| table.entities).sum()
    };
    assert!(entities(&driven) >= 340, "every key that there ever was");
    let events_of = |driven: &Driven, key: Vec<u8>| {
        let query = matchtape_storage::Query { state_key: Some(key), ..Default::default() };
        let found = driven.store.reader().query(&query).expect("possible");
        found.map(|event| event.expect("read").sequence()).collect::<Vec<_>>()
    };
    assert_eq!(events_of(&driven, key(7)).len(), 2, "set and deleted");

    let policy = RetentionPolicy { bytes: Some(1), snapshot_gap_bytes: 0, ..RetentionPolicy::default() };
    driven.store.retain(&policy, now(&driven)).expect("dropped");
    assert!(driven.store.reader().first_kept() > deleted_through);
    assert_eq!(events_of(&driven, key(7)), []);
    // Whatever is merged from now on leaves them out; here all of it comes by.
    for number in 0..40 {
        say(&mut driven, vec![set(1000 + number)]);
    }
    let left = entities(&driven);
    assert!(left < 60, "{left} entities for 40 keys that are kept");
    assert!(driven.store.verify(&mut |_| {}).expect("verified").is_sound());
}

/// Not a byte more fits.
fn fill(disk: &SimDisk) {
    const PLENTY: u64 = 1 << 40;
    disk.set_capacity(PLENTY);
    let used = PLENTY - disk.free_bytes().expect("told");
    disk.set_capacity(used);
}

#[test]
fn on_a_full_disk_retention_and_the_log_still_make_room() {
    let disk = SimDisk::new(1);
    let mut driven = flushed(&disk, 12);
    fill(&disk);
    let choice = driven.store.retain(&older_than(40), now(&driven)).expect("dropped");
    assert!(choice.first_kept > 40 && files(&disk, "events") < 12, "{choice:?}");
    driven.check(20);
    // With room again, the next change sets some aside anew.
    disk.set_capacity(u64::MAX);
    driven.append(3, true);
    driven.store.flush().expect("flushed");
    fill(&disk);
    let before = driven.store.segment_facts();
    let through = driven.store.flushed_through();
    let first = driven.store.release_log(through).expect("let go of");
    assert!(first > Sequence::FIRST);
    assert_eq!(driven.store.segment_facts(), before);
    disk.set_capacity(u64::MAX);
    driven.append(3, true);
    driven.store.flush().expect("flushed");
    driven.check(20);
    let events = driven.events.clone();
    drop(driven);
    disk.kill();
    let (mut driven, _) = Driven::open(Arc::new(disk.clone()), small_options(), events, 9).expect("opened");
    assert_eq!(driven.store.reader().first_kept().0, choice.first_kept);
    driven.check(20);
}
