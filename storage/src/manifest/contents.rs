//! What exists, and the edits that change it.
//!
//! An edit is a tag byte and its fields: `1` file number of a new event table (8), its bytes (8), its footer; `2` file
//! number of a new index table (8), its bytes (8), its level (1), its footer; `3` file number of a new snapshot (8), its
//! bytes (8), its footer; `4` the file number of one that is gone (8); `5` the next file number (8); `6`
//! the log was begun, so its absence from now on is damage; `7` a segment that the log lets go of: its facts;
//! `8` the first event kept (8); `9` a legal hold: its first event
//! (8), when it was placed (8), bytes of its name (1), its name; first event zero means that the hold is lifted; `10` the
//! cold tier (1: `0` an event table is an object there, and not a local file any more: file number (8), bytes (8), BLAKE3
//! (32), bytes of its key (1), its key; `1` the object is gone: file number (8)).

use std::collections::BTreeMap;

use matchtape_schemas::{AcceptedTime, Sequence, TapeId};

use crate::archive::cold::ColdObject;
use crate::codec::{Fields, Short};
use crate::compaction::choose::{LEVELS, Levels};
use crate::pins;
use crate::segment_facts::SegmentFacts;
use crate::snapshot::{SnapshotFooter, SnapshotMeta};
use crate::sstable::{EventFooter, EventTableMeta, IndexFooter, IndexTableMeta, TableFile};

/// One change of what exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    AddEvents(EventTableMeta),
    AddIndex(IndexTableMeta),
    AddSnapshot(SnapshotMeta),
    Remove(u64),
    NextFile(u64),
    LogBegun,
    ReleaseSegment(SegmentFacts),
    FirstKept(Sequence),
    /// A hold from sequence zero is one that is lifted.
    Hold(LegalHold),
    /// An event table is an object of the cold tier from now on.
    MovedCold(ColdObject),
    /// The object of a table that is gone was removed.
    RemovedCold(u64),
}

/// Nothing from an event on may be dropped, because a person has said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegalHold {
    /// Its name, 1 to [`PIN_NAME_BYTES_MAX`](crate::PIN_NAME_BYTES_MAX) bytes.
    pub name: String,
    /// The first event that stays.
    pub from: Sequence,
    /// When it was placed.
    pub placed: AcceptedTime,
}

impl Edit {
    /// Files may go on its strength.
    pub(super) fn makes_room(&self) -> bool {
        matches!(self, Self::Remove(_) | Self::ReleaseSegment(_) | Self::MovedCold(_))
    }

    /// There are files because of it.
    pub(super) fn takes_room(&self) -> bool {
        matches!(self, Self::AddEvents(_) | Self::AddIndex(_) | Self::AddSnapshot(_))
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::AddEvents(meta) => {
                out.push(1);
                out.extend_from_slice(&meta.number.to_le_bytes());
                out.extend_from_slice(&meta.bytes.to_le_bytes());
                meta.footer.put(out);
            }
            Self::AddIndex(meta) => {
                out.push(2);
                out.extend_from_slice(&meta.number.to_le_bytes());
                out.extend_from_slice(&meta.bytes.to_le_bytes());
                out.push(meta.level);
                meta.footer.put(out);
            }
            Self::AddSnapshot(meta) => {
                out.push(3);
                out.extend_from_slice(&meta.number.to_le_bytes());
                out.extend_from_slice(&meta.bytes.to_le_bytes());
                meta.footer.put(out);
            }
            Self::Remove(number) => {
                out.push(4);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Self::NextFile(number) => {
                out.push(5);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Self::LogBegun => out.push(6),
            Self::ReleaseSegment(facts) => {
                out.push(7);
                facts.put(out);
            }
            Self::FirstKept(first) => {
                out.push(8);
                out.extend_from_slice(&first.0.to_le_bytes());
            }
            Self::Hold(hold) => {
                out.push(9);
                out.extend_from_slice(&hold.from.0.to_le_bytes());
                out.extend_from_slice(&hold.placed.0.to_le_bytes());
                out.push(hold.name.len() as u8);
                out.extend_from_slice(hold.name.as_bytes());
            }
            Self::MovedCold(object) => {
                out.extend_from_slice(&[10, 0]);
                out.extend_from_slice(&object.number.to_le_bytes());
                out.extend_from_slice(&object.bytes.to_le_bytes());
                out.extend_from_slice(&object.hash);
                out.push(object.key.len() as u8);
                out.extend_from_slice(object.key.as_bytes());
            }
            Self::RemovedCold(number) => {
                out.extend_from_slice(&[10, 1]);
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, Short> {
        let at = fields.at();
        Ok(match fields.u8()? {
            1 => Self::AddEvents(EventTableMeta {
                number: fields.u64()?,
                bytes: fields.u64()?,
                footer: EventFooter::read(fields)?,
            }),
            2 => Self::AddIndex(IndexTableMeta {
                number: fields.u64()?,
                bytes: fields.u64()?,
                level: fields.u8()?,
                footer: IndexFooter::read(fields)?,
            }),
            3 => Self::AddSnapshot(SnapshotMeta {
                number: fields.u64()?,
                bytes: fields.u64()?,
                footer: SnapshotFooter::read(fields)?,
            }),
            4 => Self::Remove(fields.u64()?),
            5 => Self::NextFile(fields.u64()?),
            6 => Self::LogBegun,
            7 => Self::ReleaseSegment(SegmentFacts::read(fields)?),
            8 => Self::FirstKept(fields.sequence()?),
            9 => {
                let (from, placed) = (fields.sequence()?, AcceptedTime(fields.i64()?));
                let length = usize::from(fields.u8()?);
                let name = std::str::from_utf8(fields.bytes(length)?).map_err(|_| Short { at })?.to_owned();
                if pins::check_name(&name).is_err() {
                    return Err(Short { at });
                }
                Self::Hold(LegalHold { name, from, placed })
            }
            10 => match fields.u8()? {
                0 => {
                    let (number, bytes, hash) = (fields.u64()?, fields.u64()?, fields.array()?);
                    let length = usize::from(fields.u8()?);
                    let key =
                        std::str::from_utf8(fields.bytes(length)?).map_err(|_| Short { at })?.to_owned();
                    let object = ColdObject { number, bytes, hash, key };
                    if !object.is_possible() {
                        return Err(Short { at });
                    }
                    Self::MovedCold(object)
                }
                1 => Self::RemovedCold(fields.u64()?),
                _ => return Err(Short { at }),
            },
            _ => return Err(Short { at }),
        })
    }
}

/// What exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    pub tape: TapeId,
    /// Oldest first; each continues the one before.
    pub event_tables: Vec<EventTableMeta>,
    /// In the order they were added.
    pub index_tables: Vec<IndexTableMeta>,
    /// Oldest first.
    pub snapshots: Vec<SnapshotMeta>,
    /// Above every number ever given to a file.
    pub next_file: u64,
    /// The log was begun: it has to be there.
    pub log_begun: bool,
    /// Segments that the log has let go of, or is about to, oldest first. They are kept for good: whoever has only this can
    /// still check a copy of their frames.
    pub released: Vec<SegmentFacts>,
    /// The first event that was not dropped. What event tables there are begin with it, unless it is the tape's first.
    pub first_kept: Sequence,
    /// By name.
    pub holds: Vec<LegalHold>,
    /// By file number: event tables that are objects of the cold tier, and objects whose table is gone and that are still
    /// to be removed.
    pub cold: BTreeMap<u64, ColdObject>,
}

impl Contents {
    pub(crate) fn empty(tape: TapeId) -> Self {
        Self {
            tape,
            event_tables: Vec::new(),
            index_tables: Vec::new(),
            snapshots: Vec::new(),
            next_file: 1,
            log_begun: false,
            released: Vec::new(),
            first_kept: Sequence::FIRST,
            holds: Vec::new(),
            cold: BTreeMap::new(),
        }
    }

    /// Every event up to here is in a table, and in the index tables.
    pub(crate) fn flushed_through(&self) -> Sequence {
        self.event_tables.last().map_or(Sequence::ZERO, EventTableMeta::last)
    }

    /// The files that have to be on the local disk, and their bytes.
    pub(crate) fn local_files(&self) -> impl Iterator<Item = (TableFile, u64)> {
        let events = self.event_tables.iter().map(|table| (table.file(), table.bytes));
        let events = events.filter(|(file, _)| !self.cold.contains_key(&file.number));
        let indexes = self.index_tables.iter().map(|table| (table.file(), table.bytes));
        let snapshots = self.snapshots.iter().map(|snapshot| (snapshot.file(), snapshot.bytes));
        events.chain(indexes).chain(snapshots)
    }

    /// Whether a file of this number is part of the store.
    pub(crate) fn names(&self, number: u64) -> bool {
        self.event_tables.iter().any(|table| table.number == number)
            || self.index_tables.iter().any(|table| table.number == number)
            || self.snapshots.iter().any(|snapshot| snapshot.number == number)
    }

    /// Whether a file of this number is part of the store and on the local disk.
    pub(crate) fn names_locally(&self, number: u64) -> bool {
        self.names(number) && !self.cold.contains_key(&number)
    }

    pub(crate) fn apply(&mut self, edit: Edit) {
        match edit {
            // In its place: a table that was made of neighbours comes after the ones behind it.
            Edit::AddEvents(meta) => {
                let at = self.event_tables.partition_point(|table| table.last() < meta.last());
                self.event_tables.insert(at, meta);
            }
            Edit::AddIndex(meta) => self.index_tables.push(meta),
            Edit::AddSnapshot(meta) => self.snapshots.push(meta),
            Edit::Remove(number) => {
                self.event_tables.retain(|table| table.number != number);
                self.index_tables.retain(|table| table.number != number);
                self.snapshots.retain(|snapshot| snapshot.number != number);
            }
            Edit::NextFile(number) => self.next_file = self.next_file.max(number),
            Edit::LogBegun => self.log_begun = true,
            Edit::ReleaseSegment(facts) => self.released.push(facts),
            Edit::MovedCold(object) => {
                self.cold.insert(object.number, object);
            }
            Edit::RemovedCold(number) => {
                self.cold.remove(&number);
            }
            Edit::FirstKept(first) => self.first_kept = self.first_kept.max(first),
            Edit::Hold(hold) => {
                self.holds.retain(|other| other.name != hold.name);
                if hold.from > Sequence::ZERO {
                    self.holds.push(hold);
                    self.holds.sort_by(|left, right| left.name.cmp(&right.name));
                }
            }
        }
    }

    /// What makes this out of nothing.
    pub(super) fn edits(&self) -> Vec<Edit> {
        let mut edits = vec![Edit::NextFile(self.next_file)];
        edits.extend(self.log_begun.then_some(Edit::LogBegun));
        edits.extend(self.event_tables.iter().copied().map(Edit::AddEvents));
        edits.extend(self.index_tables.iter().cloned().map(Edit::AddIndex));
        edits.extend(self.snapshots.iter().copied().map(Edit::AddSnapshot));
        edits.extend(self.released.iter().copied().map(Edit::ReleaseSegment));
        edits.extend((self.first_kept > Sequence::FIRST).then_some(Edit::FirstKept(self.first_kept)));
        edits.extend(self.holds.iter().cloned().map(Edit::Hold));
        edits.extend(self.cold.values().cloned().map(Edit::MovedCold));
        edits
    }

    /// What cannot be, if anything.
    pub(super) fn contradiction(&self) -> Option<String> {
        for pair in self.event_tables.windows(2) {
            let (before, after) = (pair[0].footer.after, pair[1].footer.before);
            if before != after {
                return Some(format!(
                    "event table {} ends at {} ({:08x}), event table {} begins after {} ({:08x})",
                    pair[0].number,
                    before.last_sequence,
                    before.checksum,
                    pair[1].number,
                    after.last_sequence,
                    after.checksum
                ));
            }
        }
        let tapes = self.event_tables.iter().map(|table| table.footer.after.tape);
        let tapes = tapes.chain(self.index_tables.iter().map(|table| table.footer.tape));
        let tapes = tapes.chain(self.snapshots.iter().map(|snapshot| snapshot.footer.head.tape));
        for tape in tapes {
            if tape != self.tape {
                return Some(format!("a file of tape {tape} on tape {}", self.tape));
            }
        }
        if let Some(first) = self.event_tables.first().map(EventTableMeta::first)
            && self.first_kept > Sequence::FIRST
            && first != self.first_kept
        {
            return Some(format!("events are kept from {}, but tables begin with {first}", self.first_kept));
        }
        for pair in self.released.windows(2) {
            if pair[1].first <= pair[0].last {
                let (one, other) = (pair[0].number, pair[1].number);
                return Some(format!("released segment {other} begins inside segment {one}"));
            }
        }
        if let Some(table) = self.index_tables.iter().find(|table| usize::from(table.level) >= LEVELS) {
            return Some(format!("index table {} on level {}", table.number, table.level));
        }
        if let Some(contradiction) = Levels::new(self.index_tables.iter()).contradiction() {
            return Some(contradiction);
        }
        for object in self.cold.values() {
            let number = object.number;
            let table = self.event_tables.iter().find(|table| table.number == number);
            let (stated, local) = (table.map_or(object.bytes, |table| table.bytes), table.is_none());
            if object.bytes != stated || (local && self.names(number)) {
                return Some(format!("the object {} is not event table {number}", object.key));
            }
        }
        let through = self.flushed_through();
        if let Some(facts) = self.released.last().filter(|facts| facts.last > through) {
            return Some(format!(
                "segment {} was released at {}, but tables end at {through}",
                facts.number, facts.last
            ));
        }
        if let Some(snapshot) = self.snapshots.iter().find(|snapshot| snapshot.sequence() > through) {
            return Some(format!("a snapshot at {}, but tables end at {through}", snapshot.sequence()));
        }
        None
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::sstable::block::BlockAt;
    use matchtape_schemas::{EventTime, Head, InstrumentId, KindMask};

    pub(crate) const TAPE: TapeId = TapeId(77);

    fn head(last: u64) -> Head {
        Head { last_sequence: Sequence(last), checksum: last * 3, ..Head::empty(TAPE) }
    }

    pub(crate) fn events(number: u64, before: u64, after: u64) -> Edit {
        let footer = EventFooter {
            before: head(before),
            after: head(after),
            first_accepted: AcceptedTime(1),
            min_time: EventTime(2),
            max_time: EventTime(3),
            kinds: KindMask::ORDERS,
            min_instrument: InstrumentId(4),
            max_instrument: InstrumentId(5),
            frames: 6,
            blocks: 7,
            raw_bytes: 8,
            top: BlockAt { offset: 9, bytes: 10 },
        };
        Edit::AddEvents(EventTableMeta { number, bytes: 1000, footer })
    }

    pub(crate) fn index(number: u64, first: u64, last: u64) -> Edit {
        let footer = IndexFooter {
            tape: TAPE,
            first: Sequence(first),
            last: Sequence(last),
            entities: 4,
            postings: 5,
            blocks: 6,
            top: BlockAt { offset: 9, bytes: 10 },
            min_key: b"\x01a".as_slice().into(),
            max_key: b"\x05zz".as_slice().into(),
        };
        Edit::AddIndex(IndexTableMeta { number, bytes: 500, level: 0, footer })
    }

    fn snapshot(number: u64, at: u64) -> Edit {
        let footer = SnapshotFooter {
            head: head(at),
            sections: 1,
            top: BlockAt { offset: 1, bytes: 2 },
            hash: [3; 32],
        };
        Edit::AddSnapshot(SnapshotMeta { number, bytes: 200, footer })
    }

    pub(crate) fn released(number: u64, first: u64, last: u64) -> Edit {
        Edit::ReleaseSegment(SegmentFacts {
            number: crate::wal::SegmentNumber(number),
            id: [number as u8; 16],
            first: Sequence(first),
            last: Sequence(last),
            frames: 1,
            frame_bytes: 96,
            min_event_time: EventTime(-5),
            max_event_time: EventTime(6),
            first_accepted_time: AcceptedTime(1),
            last_accepted_time: AcceptedTime(2),
            root: crate::wal::SegmentRoot([7; 32]),
        })
    }

    pub(crate) fn flush(number: u64, before: u64, after: u64) -> Vec<Edit> {
        vec![events(number, before, after), index(number + 1, before + 1, after), snapshot(number + 2, after)]
    }

    #[test]
    fn a_segment_is_released_behind_the_one_before_and_not_beyond_the_tables() {
        for (facts, wrong) in [
            (vec![released(1, 1, 5), released(2, 5, 9)], "released segment 2 begins inside segment 1"),
            (vec![released(1, 1, 11)], "segment 1 was released at 11, but tables end at 10"),
        ] {
            let mut contents = Contents::empty(TAPE);
            for edit in flush(1, 0, 10).into_iter().chain(facts) {
                contents.apply(edit);
            }
            assert_eq!(contents.contradiction().as_deref(), Some(wrong));
        }
    }
}
