//! The decision: a pure function.

use std::time::Duration;

use matchtape_schemas::{AcceptedTime, KindMask, Sequence};
use serde::Serialize;

use super::policy::{PinLimit, RetentionPolicy};
use crate::manifest::Contents;
use crate::pins::{PinKind, PinView};
use crate::snapshot::SnapshotMeta;
use crate::sstable::{EventTableMeta, TableFile};

/// A store that can be recovered even if its newest snapshot is damaged has this many.
const SNAPSHOTS_MIN: usize = 2;

/// Everything the decision depends on besides policy and pins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation<'a> {
    pub contents: &'a Contents,
    /// The last event of each closed trading day, oldest first.
    pub day_ends: &'a [Sequence],
    /// File numbers of snapshots that do not read back.
    pub unusable: &'a [u64],
    pub now: AcceptedTime,
}

/// Why a file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// What it holds is before the first event kept.
    Old,
    /// It is a snapshot so close to others that replaying over the gap is cheap.
    Thinned,
}

/// A file that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DroppedFile {
    /// Relative to the data directory.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Why.
    pub reason: DropReason,
    #[serde(skip)]
    pub(crate) table: TableFile,
}

/// By what a pin is over its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Excess {
    /// It keeps too many bytes of event tables.
    Bytes {
        /// So many.
        kept: u64,
        /// Allowed.
        limit: u64,
    },
    /// What it keeps is too old.
    Age {
        /// So old at least, in seconds.
        seconds: u64,
        /// Allowed, in seconds.
        limit_seconds: u64,
    },
}

impl std::fmt::Display for Excess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes { kept, limit } => write!(f, "it keeps {kept} bytes, {limit} are allowed"),
            Self::Age { seconds, limit_seconds } => {
                write!(f, "what it keeps is {seconds} s old, {limit_seconds} s are allowed")
            }
        }
    }
}

/// Something an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "advisory")]
pub enum Advisory {
    /// A pin was in the way and over its limit: it does not count any more.
    PinBroken {
        /// What was pinned.
        pin: PinView,
        /// Why.
        excess: Excess,
    },
    /// A legal hold is in the way and over its limit. It is kept.
    HoldOverLimit {
        /// The hold.
        hold: PinView,
        /// By how much.
        excess: Excess,
    },
    /// A snapshot does not read back and cannot be relied on.
    SnapshotUnusable {
        /// The file.
        file: String,
        /// What is wrong with it, if that was looked at.
        what: String,
    },
}

impl std::fmt::Display for Advisory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PinBroken { pin, excess } => {
                write!(f, "{} {:?} at sequence {} is broken: {excess}", pin.kind, pin.name, pin.from)
            }
            Self::HoldOverLimit { hold, excess } => {
                write!(f, "legal hold {:?} at sequence {} stays: {excess}", hold.name, hold.from)
            }
            Self::SnapshotUnusable { file, what } => write!(f, "{file} cannot be relied on: {what}"),
        }
    }
}

/// Why not more goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "restraint")]
pub enum Restraint {
    /// Somebody needs it.
    Pinned {
        /// Who, and from where on.
        pin: PinView,
    },
    /// The rules ask for every event to go, but the newest event table that holds anything from outside always stays: what the
    /// sequencer itself adds to a quiet tape does not stand for it.
    NewestTable,
    /// The next to go are in the cold tier: dropping them would make no room on the local disk, and nothing newer can go before them.
    /// Moving more there would.
    ColdTier {
        /// The first event of those.
        first: u64,
    },
    /// The rules count trading days, and no `SessionClosed` on the tape ends one.
    NoTradingDay,
    /// The rest must begin at a snapshot, with another one behind it.
    Snapshots {
        /// The first event that was to be kept.
        first_wanted: u64,
    },
}

impl std::fmt::Display for Restraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pinned { pin } => {
                write!(f, "{} {:?} needs everything from sequence {} on", pin.kind, pin.name, pin.from)
            }
            Self::NewestTable => f.write_str(
                "the newest event table that holds more than the sequencer's own events always stays",
            ),
            Self::ColdTier { first } => write!(
                f,
                "sequence {first} is in the cold tier: a limit of bytes on the local disk drops neither it nor what follows"
            ),
            Self::NoTradingDay => {
                f.write_str("the rules keep trading days, and none is closed on this tape (`session_closed`)")
            }
            Self::Snapshots { first_wanted } => write!(
                f,
                "to begin with sequence {first_wanted}, a good snapshot must stand right before it and another one behind it"
            ),
        }
    }
}

/// What goes and why not more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RetentionChoice {
    /// The first event kept so far.
    pub first_kept_before: u64,
    /// The first event kept from now on.
    pub first_kept: u64,
    /// The first event that the policy by itself would keep.
    pub first_wanted: u64,
    /// Files that go.
    pub dropped: Vec<DroppedFile>,
    /// Their bytes.
    pub dropped_bytes: u64,
    /// Bytes of tables and snapshots that stay.
    pub kept_bytes: u64,
    /// Why not more.
    pub restraints: Vec<Restraint>,
    /// What to know.
    pub advisories: Vec<Advisory>,
}

impl RetentionChoice {
    /// Pins that this choice breaks.
    pub(crate) fn broken(&self) -> Vec<PinView> {
        let broken = |advisory: &Advisory| match advisory {
            Advisory::PinBroken { pin, .. } => Some(pin.clone()),
            Advisory::HoldOverLimit { .. } | Advisory::SnapshotUnusable { .. } => None,
        };
        self.advisories.iter().filter_map(broken).collect()
    }
}

/// Decides. `pins` are those that still count, holds included.
pub(crate) fn choose(
    situation: &Situation<'_>,
    policy: &RetentionPolicy,
    pins: &[PinView],
) -> RetentionChoice {
    let (wanted, mut restraints) = wanted_cut(situation, policy);
    let (held, mut advisories, over) = within_pins(situation, policy, pins, wanted, &mut restraints);
    let cut = at_a_snapshot(situation, held, &mut restraints);
    // Only those that are in the way of what really goes.
    let broken = over.into_iter().filter(|(allowed, _)| *allowed < cut);
    advisories.extend(broken.map(|(_, advisory)| advisory));

    let contents = situation.contents;
    let tables = &contents.event_tables;
    let first_of =
        |cut: usize| tables.get(cut).map_or(contents.flushed_through().next(), |table| table.first());
    let first_kept = first_of(cut);
    let mut dropped = Vec::new();
    let mut drop = |table: TableFile, bytes, reason| {
        dropped.push(DroppedFile { file: table.path().display().to_string(), bytes, reason, table });
    };
    for table in &tables[..cut] {
        drop(table.file(), table.bytes, DropReason::Old);
    }
    for index in contents.index_tables.iter().filter(|index| index.footer.last < first_kept) {
        drop(index.file(), index.bytes, DropReason::Old);
    }
    for snapshot in dispensable(situation, policy, first_kept) {
        let old = snapshot.sequence() < first_kept.previous();
        let reason = if old { DropReason::Old } else { DropReason::Thinned };
        drop(snapshot.file(), snapshot.bytes, reason);
    }
    let dropped_bytes = dropped.iter().map(|file| file.bytes).sum();
    RetentionChoice {
        first_kept_before: first_of(0).0,
        first_kept: first_kept.0,
        first_wanted: first_of(wanted).0,
        dropped_bytes,
        kept_bytes: bytes_from(contents, 0) - dropped_bytes,
        dropped,
        restraints,
        advisories,
    }
}

/// How many event tables the policy by itself drops.
fn wanted_cut(situation: &Situation<'_>, policy: &RetentionPolicy) -> (usize, Vec<Restraint>) {
    let contents = situation.contents;
    let tables = &contents.event_tables;
    let (mut wanted, mut restraints) = (0, Vec::new());
    if let Some(age) = policy.age {
        let before = situation.now.0.saturating_sub(nanoseconds(age));
        wanted = tables.partition_point(|table| table.footer.after.accepted_time.0 < before);
    }
    if let Some(days) = policy.trading_days {
        if situation.day_ends.is_empty() {
            restraints.push(Restraint::NoTradingDay);
        }
        let older = situation.day_ends.len().checked_sub(days as usize + 1);
        let through = older.map_or(Sequence::ZERO, |day| situation.day_ends[day]);
        wanted = wanted.max(tables.partition_point(|table| table.last() <= through));
    }
    if let Some(bytes) = policy.bytes {
        let fits = (0..tables.len()).find(|cut| local_bytes_from(contents, *cut) <= bytes);
        let fits = fits.unwrap_or(tables.len());
        while wanted < fits {
            // The oldest goes first, and what has left the local disk would make no room on it.
            if contents.cold.contains_key(&tables[wanted].number) {
                restraints.push(Restraint::ColdTier { first: tables[wanted].first().0 });
                break;
            }
            wanted += 1;
        }
    }
    let newest = newest_from_outside(tables);
    if wanted > newest {
        wanted = newest;
        restraints.push(Restraint::NewestTable);
    }
    (wanted, restraints)
}

/// The newest event table with an event that is not the sequencer's own; the newest of all where there is none.
fn newest_from_outside(tables: &[EventTableMeta]) -> usize {
    let outside = KindMask(!KindMask::CONTROL.bits());
    let newest = tables.iter().rposition(|table| table.footer.kinds.intersects(outside));
    newest.unwrap_or(tables.len().saturating_sub(1))
}

fn nanoseconds(age: Duration) -> i64 {
    i64::try_from(age.as_nanos()).unwrap_or(i64::MAX)
}

/// Of [`bytes_from`], those on the local disk.
fn local_bytes_from(contents: &Contents, cut: usize) -> u64 {
    let tables = contents.event_tables[cut..].iter();
    let cold = tables.filter(|table| contents.cold.contains_key(&table.number));
    bytes_from(contents, cut) - cold.map(|table| table.bytes).sum::<u64>()
}

/// Bytes that stay if the first `cut` event tables go, with everything that only they need.
fn bytes_from(contents: &Contents, cut: usize) -> u64 {
    let before = match cut.checked_sub(1) {
        Some(last) => contents.event_tables[last].last(),
        None => Sequence::ZERO,
    };
    let events = contents.event_tables[cut..].iter().map(|table| table.bytes);
    let indexes = contents.index_tables.iter().filter(|index| index.footer.last > before);
    let snapshots = contents.snapshots.iter().filter(|snapshot| snapshot.sequence() >= before);
    events.chain(indexes.map(|index| index.bytes)).chain(snapshots.map(|snapshot| snapshot.bytes)).sum()
}

/// As much of `wanted` as those pins allow that are never broken or within their limits; and the others that keep any of it: how
/// much each of them would allow, and what is to be said if it is broken.
fn within_pins(
    situation: &Situation<'_>,
    policy: &RetentionPolicy,
    pins: &[PinView],
    wanted: usize,
    restraints: &mut Vec<Restraint>,
) -> (usize, Vec<Advisory>, Vec<(usize, Advisory)>) {
    let tables = &situation.contents.event_tables;
    let (mut advisories, mut over) = (Vec::new(), Vec::new());
    let mut cut = wanted;
    for pin in pins.iter().filter(|pin| !pin.broken) {
        // The table that holds the first pinned event stays.
        let allowed = tables.partition_point(|table| table.last().0 < pin.from);
        if allowed >= wanted {
            continue;
        }
        let excess = excess(situation, allowed, policy.pin_limits.of(pin.kind));
        match (pin.kind, excess) {
            (PinKind::LegalHold, Some(excess)) => {
                advisories.push(Advisory::HoldOverLimit { hold: pin.clone(), excess });
            }
            (PinKind::Standby | PinKind::Consumer | PinKind::Archive | PinKind::Backup, Some(excess)) => {
                over.push((allowed, Advisory::PinBroken { pin: pin.clone(), excess }));
                continue;
            }
            (_, None) => {}
        }
        restraints.push(Restraint::Pinned { pin: pin.clone() });
        cut = cut.min(allowed);
    }
    (cut, advisories, over)
}

/// By what a pin that keeps everything from table `first` on is over its limit.
fn excess(situation: &Situation<'_>, first: usize, limit: PinLimit) -> Option<Excess> {
    let tables = &situation.contents.event_tables[first..];
    let kept = tables.iter().map(|table| table.bytes).sum();
    if let Some(limit) = limit.bytes
        && kept > limit
    {
        return Some(Excess::Bytes { kept, limit });
    }
    // The youngest that the pinned event can be: it is in this table.
    let age = situation.now.0.saturating_sub(tables.first()?.footer.after.accepted_time.0);
    let limit = limit.age?;
    (age > nanoseconds(limit)).then(|| Excess::Age {
        seconds: u64::try_from(age).unwrap_or(0) / 1_000_000_000,
        limit_seconds: limit.as_secs(),
    })
}

fn usable<'a>(situation: &Situation<'a>) -> impl DoubleEndedIterator<Item = &'a SnapshotMeta> + Clone {
    let unusable = situation.unusable;
    situation.contents.snapshots.iter().filter(move |snapshot| !unusable.contains(&snapshot.number))
}

/// The greatest cut up to `cut` that leaves a snapshot right before the first event kept, and another one.
fn at_a_snapshot(situation: &Situation<'_>, cut: usize, restraints: &mut Vec<Restraint>) -> usize {
    let tables = &situation.contents.event_tables;
    let possible = |cut: &usize| {
        let before = tables[*cut].footer.before.last_sequence;
        let after = usable(situation).filter(|snapshot| snapshot.sequence() >= before);
        after.clone().any(|snapshot| snapshot.sequence() == before) && after.count() >= SNAPSHOTS_MIN
    };
    let found = (1..=cut).rev().find(possible).unwrap_or(0);
    if found < cut {
        restraints.push(Restraint::Snapshots { first_wanted: tables[cut].first().0 });
    }
    found
}

/// Snapshots that no state as of a kept event needs: those before the first of them, and those so close to their
/// neighbours that replaying over the gap is cheap.
fn dispensable<'a>(
    situation: &Situation<'a>,
    policy: &RetentionPolicy,
    first_kept: Sequence,
) -> Vec<&'a SnapshotMeta> {
    let before = first_kept.previous();
    let mut dispensable: Vec<_> =
        situation.contents.snapshots.iter().filter(|snapshot| snapshot.sequence() < before).collect();
    let kept: Vec<_> = usable(situation).filter(|snapshot| snapshot.sequence() >= before).collect();
    let mut last_kept = before;
    let mut last_accepted = kept.first().map_or(0, |snapshot| snapshot.footer.head.accepted_time.0);
    // The newest two stay; one at the very beginning stays unless the tape begins there.
    for (at, snapshot) in kept.iter().enumerate().take(kept.len().saturating_sub(SNAPSHOTS_MIN)) {
        let begins = snapshot.sequence() == before;
        let gap = frame_bytes_between(situation.contents, last_kept, kept[at + 1].sequence());
        let age = kept[at + 1].footer.head.accepted_time.0.saturating_sub(last_accepted);
        if begins || gap > policy.snapshot_gap_bytes || age > nanoseconds(policy.snapshot_gap_age) {
            last_kept = snapshot.sequence();
            last_accepted = snapshot.footer.head.accepted_time.0;
        } else {
            dispensable.push(*snapshot);
        }
    }
    dispensable
}

/// Bytes of the frames in event tables that reach into the events behind `from`, up to `through`.
fn frame_bytes_between(contents: &Contents, from: Sequence, through: Sequence) -> u64 {
    let between =
        contents.event_tables.iter().filter(|table| table.last() > from && table.first() <= through);
    between.map(|table| table.footer.raw_bytes).sum()
}

#[cfg(test)]
mod tests {
    use matchtape_schemas::{EventTime, Head, InstrumentId, TapeId};
    use proptest::prelude::*;

    use super::*;
    use crate::archive::cold::ColdObject;
    use crate::manifest::Edit;
    use crate::retention::PinLimits;
    use crate::snapshot::SnapshotFooter;
    use crate::sstable::block::BlockAt;
    use crate::sstable::{EventFooter, IndexFooter, IndexTableMeta};

    const TAPE: TapeId = TapeId(7);
    /// One event is accepted per nanosecond, and takes so many bytes of frames.
    const EVENT_BYTES: u64 = 100;

    fn head(last: u64) -> Head {
        Head { last_sequence: Sequence(last), accepted_time: AcceptedTime(last as i64), ..Head::empty(TAPE) }
    }

    /// Event tables of these lengths; after each, an index table over so many tables, and perhaps a snapshot.
    fn contents(tables: &[(u64, bool)], index_every: usize) -> Contents {
        let mut contents = Contents::empty(TAPE);
        let (mut number, mut last, mut indexed) = (1, 0, 0);
        for (at, (events, snapshot)) in tables.iter().enumerate() {
            let top = BlockAt { offset: 9, bytes: 10 };
            let footer = EventFooter {
                before: head(last),
                after: head(last + events),
                first_accepted: AcceptedTime(last as i64 + 1),
                min_time: EventTime(0),
                max_time: EventTime(0),
                kinds: KindMask::ORDERS,
                min_instrument: InstrumentId(1),
                max_instrument: InstrumentId(1),
                frames: 1,
                blocks: 1,
                raw_bytes: events * EVENT_BYTES,
                top,
            };
            last += events;
            contents.apply(Edit::AddEvents(EventTableMeta { number, bytes: events * 30, footer }));
            if at % index_every == index_every - 1 || at + 1 == tables.len() {
                let key: Box<[u8]> = b"k".as_slice().into();
                let footer = IndexFooter {
                    tape: TAPE,
                    first: Sequence(indexed + 1),
                    last: Sequence(last),
                    entities: 1,
                    postings: 1,
                    blocks: 1,
                    top,
                    min_key: key.clone(),
                    max_key: key,
                };
                indexed = last;
                contents.apply(Edit::AddIndex(IndexTableMeta {
                    number: number + 1,
                    bytes: 50,
                    level: 0,
                    footer,
                }));
            }
            if *snapshot {
                let footer = SnapshotFooter { head: head(last), sections: 1, top, hash: [0; 32] };
                contents.apply(Edit::AddSnapshot(SnapshotMeta { number: number + 2, bytes: 70, footer }));
            }
            number += 3;
        }
        contents
    }

    fn pin(kind: PinKind, from: u64, broken: bool) -> PinView {
        PinView { name: format!("{kind} at {from}"), kind, from, broken }
    }

    prop_compose! {
        fn pins()(found in prop::collection::vec((0..5_usize, 1..600_u64, prop::bool::weighted(0.1)), 0..4)) -> Vec<PinView> {
            let kinds =
                [PinKind::Standby, PinKind::Consumer, PinKind::Archive, PinKind::Backup, PinKind::LegalHold];
            let of = |(kind, from, broken): (usize, u64, bool)| pin(kinds[kind], from, broken && kind < 4);
            found.into_iter().map(of).collect()
        }
    }

    prop_compose! {
        fn policies()(
            age in prop::option::of(0..700_u64), trading_days in prop::option::of(0..8_u32),
            bytes in prop::option::of(0..20_000_u64), limit_bytes in prop::option::of(0..20_000_u64),
            limit_age in prop::option::of(0..700_u64), gap in 0..20_000_u64, gap_age in 0..700_u64,
        ) -> RetentionPolicy {
            let limit = PinLimit { bytes: limit_bytes, age: limit_age.map(Duration::from_nanos) };
            RetentionPolicy {
                age: age.map(Duration::from_nanos),
                trading_days,
                bytes,
                pin_limits: PinLimits { standby: limit, consumer: limit, archive: limit, backup: limit, legal_hold: limit },
                snapshot_gap_bytes: gap,
                snapshot_gap_age: Duration::from_nanos(gap_age),
                abandoned_sections: Vec::new(),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn nothing_that_is_needed_goes_and_what_stays_is_explained(
            tables in prop::collection::vec((1..60_u64, prop::bool::weighted(0.8)), 0..12),
            index_every in 1..4_usize,
            unusable in prop::collection::vec(0..40_u64, 0..3),
            pins in pins(),
            policy in policies(),
        ) {
            let contents = contents(&tables, index_every);
            let last = contents.flushed_through().0;
            let ends: Vec<Sequence> = contents.event_tables.iter().map(EventTableMeta::last).collect();
            let now = AcceptedTime(last as i64);
            let situation =
                Situation { contents: &contents, day_ends: &ends, unusable: &unusable, now };
            let choice = choose(&situation, &policy, &pins);
            let mut after = contents.clone();
            for file in &choice.dropped {
                prop_assert!(after.names(file.table.number), "nothing is dropped twice");
                after.apply(Edit::Remove(file.table.number));
            }

            // What stays is a whole end of the tape, with its indexes.
            let first_kept = Sequence(choice.first_kept);
            prop_assert!(choice.first_kept_before <= choice.first_kept && choice.first_kept <= choice.first_wanted.max(1));
            let kept: Vec<_> = contents.event_tables.iter().filter(|table| table.first() >= first_kept).collect();
            prop_assert_eq!(after.event_tables.iter().collect::<Vec<_>>(), kept);
            prop_assert_eq!(after.event_tables.is_empty(), tables.is_empty());
            for index in &contents.index_tables {
                prop_assert_eq!(after.names(index.number), index.footer.last >= first_kept);
            }
            let bytes = |contents: &Contents| bytes_from(contents, 0);
            prop_assert_eq!(choice.kept_bytes + choice.dropped_bytes, bytes(&contents));
            prop_assert_eq!(choice.kept_bytes, bytes(&after));

            // Nobody loses what they need, unless they are over their limit, and then it is said.
            let broken = choice.broken();
            for pin in pins.iter().filter(|pin| !pin.broken && pin.from <= last) {
                if pin.from < choice.first_kept {
                    prop_assert!(pin.kind != PinKind::LegalHold && broken.contains(pin), "{:?} {:?}", pin, choice);
                }
            }
            for pin in &broken {
                let limit = policy.pin_limits.of(pin.kind);
                let kept = contents.event_tables.iter().filter(|table| table.last().0 >= pin.from);
                let kept: u64 = kept.map(|table| table.bytes).sum();
                let age = last - pin.from;
                prop_assert!(
                    limit.bytes.is_some_and(|limit| kept > limit)
                        || limit.age.is_some_and(|limit| u128::from(age) > limit.as_nanos()),
                    "{:?} is within its limits", pin
                );
                prop_assert!(pin.from < choice.first_kept, "it was not in the way");
            }

            // The state at the beginning is there, and one to fall back to.
            let good = |contents: &Contents| -> Vec<Sequence> {
                let usable = contents.snapshots.iter().filter(|meta| !unusable.contains(&meta.number));
                usable.map(SnapshotMeta::sequence).collect()
            };
            let snapshots = good(&after);
            if choice.first_kept > choice.first_kept_before {
                prop_assert_eq!(snapshots.first(), Some(&first_kept.previous()));
                prop_assert!(snapshots.len() >= 2);
            }
            prop_assert!(snapshots.len() >= good(&contents).len().min(2));
            prop_assert_eq!(snapshots.last().copied(), good(&contents).last().copied());

            // No gap between two snapshots becomes greater than is allowed.
            let all: Vec<Sequence> =
                good(&contents).into_iter().filter(|at| *at >= first_kept.previous()).collect();
            for pair in snapshots.windows(2) {
                let gap = frame_bytes_between(&contents, pair[0], pair[1]);
                let was_there = all.windows(2).any(|neighbours| neighbours == pair);
                prop_assert!(was_there || gap <= policy.snapshot_gap_bytes, "{:?}", pair);
                let age = u128::from(pair[1].0 - pair[0].0);
                prop_assert!(was_there || age <= policy.snapshot_gap_age.as_nanos(), "{:?}", pair);
            }

            if choice.first_kept < choice.first_wanted {
                prop_assert!(!choice.restraints.is_empty());
            }
        }
    }

    #[test]
    fn a_limit_of_bytes_is_one_of_the_local_disk_and_the_cold_tier_is_not_dropped_for_it() {
        let mut contents = contents(&[(10, true); 8], 1);
        let all = bytes_from(&contents, 0);
        let keep = |contents: &Contents, bytes| {
            let situation = Situation { contents, day_ends: &[], unusable: &[], now: AcceptedTime(i64::MAX) };
            let policy =
                RetentionPolicy { bytes: Some(bytes), snapshot_gap_bytes: 0, ..RetentionPolicy::default() };
            choose(&situation, &policy, &[])
        };
        assert!(keep(&contents, all - 1).first_kept > 1, "all of it is local");
        let moved: Vec<EventTableMeta> = contents.event_tables[..3].to_vec();
        for meta in &moved {
            let (number, bytes, key) = (meta.number, meta.bytes, meta.number.to_string());
            contents.cold.insert(number, ColdObject { number, bytes, hash: [0; 32], key });
        }
        let local = all - moved.iter().map(|meta| meta.bytes).sum::<u64>();
        let fits = keep(&contents, local);
        assert_eq!((fits.first_kept, fits.restraints.len()), (1, 0));
        let full = keep(&contents, local - 1);
        assert_eq!((full.first_kept, &*full.restraints), (1, &[Restraint::ColdTier { first: 1 }][..]));
    }

    #[test]
    fn the_table_that_always_stays_holds_something_from_outside() {
        let mut contents = contents(&[(10, true); 8], 1);
        let age = RetentionPolicy { age: Some(Duration::ZERO), ..RetentionPolicy::default() };
        let first_kept = |contents: &Contents| {
            let situation = Situation { contents, day_ends: &[], unusable: &[], now: AcceptedTime(i64::MAX) };
            let choice = choose(&situation, &age, &[]);
            assert!(choice.restraints.contains(&Restraint::NewestTable), "{choice:?}");
            choice.first_kept
        };
        for table in &mut contents.event_tables[5..] {
            table.footer.kinds = KindMask::CONTROL;
        }
        assert_eq!(first_kept(&contents), 41, "the fifth table is the newest with orders");
        contents.event_tables[7].footer.kinds = KindMask::CONTROL.with(KindMask::ORDERS);
        assert_eq!(first_kept(&contents), 71);
        for table in &mut contents.event_tables {
            table.footer.kinds = KindMask::CONTROL;
        }
        assert_eq!(first_kept(&contents), 71, "where there is none, the newest of all");
    }

    #[test]
    fn a_pin_over_its_limit_stays_while_breaking_it_would_free_nothing() {
        let contents = contents(&[(10, true); 8], 1);
        let situation =
            Situation { contents: &contents, day_ends: &[], unusable: &[], now: AcceptedTime(80) };
        let limit = PinLimit { bytes: Some(1), age: None };
        let policy = RetentionPolicy {
            age: Some(Duration::from_nanos(20)),
            pin_limits: PinLimits { consumer: limit, ..PinLimits::default() },
            ..RetentionPolicy::default()
        };
        let consumer = pin(PinKind::Consumer, 25, false);
        let alone = choose(&situation, &policy, std::slice::from_ref(&consumer));
        assert_eq!((alone.broken(), alone.first_kept), (vec![consumer.clone()], 51));
        let hold = pin(PinKind::LegalHold, 12, false);
        let held = choose(&situation, &policy, &[consumer, hold]);
        assert_eq!((held.broken(), held.first_kept), (vec![], 11));
    }

    #[test]
    fn a_rule_of_trading_days_says_where_the_tape_closes_none() {
        let contents = contents(&[(10, true); 8], 1);
        let policy = RetentionPolicy { trading_days: Some(1), ..RetentionPolicy::default() };
        let restraints = |day_ends: &[Sequence]| {
            let now = AcceptedTime(i64::MAX);
            choose(&Situation { contents: &contents, day_ends, unusable: &[], now }, &policy, &[]).restraints
        };
        assert_eq!(restraints(&[]), [Restraint::NoTradingDay]);
        assert_eq!(restraints(&[Sequence(10)]), []);
    }

    #[test]
    fn without_a_rule_nothing_of_the_tape_goes() {
        let contents = contents(&[(10, true); 8], 1);
        let situation = Situation {
            contents: &contents,
            day_ends: &[Sequence(10), Sequence(20)],
            unusable: &[],
            now: AcceptedTime(i64::MAX),
        };
        let choice = choose(&situation, &RetentionPolicy::default(), &[]);
        assert_eq!((choice.first_kept, choice.restraints.len()), (1, 0));
        assert!(choice.dropped.iter().all(|file| file.file.ends_with("snapshot")), "{choice:?}");
    }
}
