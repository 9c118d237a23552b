//! Which files exist: the one atomic switch. A file that the manifest does not name is not part of the store, however whole
//! it is; a file that it names was durable before it was named.
//!
//! ```text
//! file header | record | record | ...
//! ```
//!
//! | offset | size | field of a record |
//! |---|---|---|
//! | 0 | 4 | bytes of the payload |
//! | 4 | 4 | number of the record in this file, from 1 |
//! | 8 | 4 | zero |
//! | 12 | 4 | CRC-32 over tape (8), generation (8), offset of the record in the file (8), bytes 0..12, payload |
//! | 16 | | payload: edits, one after the other |
//!
//! An edit is a tag byte and its fields: `1` file number of a new event table (8), its bytes (8), its footer; `2` file
//! number of a new index table (8), its bytes (8), its level (1), its footer; `3` file number of a new snapshot (8), its
//! bytes (8), its footer; `4` the file number of one that is gone (8); `5` the next file number (8); `6`
//! the log was begun, so its absence from now on is damage; `7` a segment that the log lets go of: its facts;
//! `8` the first event kept (8); `9` a legal hold: its first event
//! (8), when it was placed (8), bytes of its name (1), its name; first event zero means that the hold is lifted; `10` the
//! cold tier (1: `0` an event table is an object there, and not a local file any more: file number (8), bytes (8), BLAKE3
//! (32), bytes of its key (1), its key; `1` the object is gone: file number (8)).
//!
//! Whoever opens the store for writing writes the whole manifest anew (under a temporary name, synced, renamed, the directory
//! synced) with the next generation: so nothing of it rests on what an earlier process left in the page cache, and a torn
//! last record is gone. After that, each change appends one record and syncs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use matchtape_schemas::{AcceptedTime, Sequence, TapeId};

use crate::archive::cold::ColdObject;
use crate::codec::{Fields, Short};
use crate::compaction::choose::{LEVELS, Levels};
use crate::disk::{Access, Caching, Disk, DiskError, DiskFile};
use crate::file_header::{self, FILE_HEADER_BYTES, FileKind};
use crate::pins;
use crate::segment_facts::SegmentFacts;
use crate::snapshot::{SnapshotFooter, SnapshotMeta};
use crate::sstable::{EventFooter, EventTableMeta, IndexFooter, IndexTableMeta, TableError, new_path};
use crate::wal::Damage;

/// The manifest's name.
pub(crate) const MANIFEST: &str = "manifest";
const RECORD_HEADER_BYTES: usize = 16;
/// A longer payload is impossible: about a million tables.
const PAYLOAD_BYTES_MAX: usize = 512 << 20;

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
    fn put(&self, out: &mut Vec<u8>) {
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

    fn read(fields: &mut Fields<'_>) -> Result<Self, Short> {
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

    fn edits(&self) -> Vec<Edit> {
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
    fn contradiction(&self) -> Option<String> {
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

/// What was read.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub contents: Contents,
    pub generation: u64,
    /// The last record was not whole and was left out: where it begins.
    pub torn_at: Option<u64>,
}

fn checksum(tape: TapeId, generation: u64, offset: u64, header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&tape.0.to_le_bytes());
    hasher.update(&generation.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(&header[..12]);
    hasher.update(payload);
    hasher.finalize()
}

fn encode_record(tape: TapeId, generation: u64, offset: u64, number: u32, edits: &[Edit]) -> Vec<u8> {
    let mut record = vec![0; RECORD_HEADER_BYTES];
    for edit in edits {
        edit.put(&mut record);
    }
    let length = (record.len() - RECORD_HEADER_BYTES) as u32;
    record[0..4].copy_from_slice(&length.to_le_bytes());
    record[4..8].copy_from_slice(&number.to_le_bytes());
    let sum = checksum(tape, generation, offset, &record, &record[RECORD_HEADER_BYTES..]);
    record[12..16].copy_from_slice(&sum.to_le_bytes());
    record
}

/// The payload of the record at `offset`, and its number, if one stands there whole.
fn record_at(bytes: &[u8], tape: TapeId, generation: u64, offset: usize) -> Option<(u32, &[u8])> {
    let rest = &bytes[offset..];
    let header = rest.get(..RECORD_HEADER_BYTES)?;
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let length = word(0) as usize;
    if length > PAYLOAD_BYTES_MAX || word(8) != 0 {
        return None;
    }
    let payload = rest.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length)?;
    (checksum(tape, generation, offset as u64, header, payload) == word(12)).then(|| (word(4), payload))
}

/// Reads a manifest's bytes. A last record that is not whole is a change that was never promised; anything else that does
/// not check is damage.
pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<Loaded, TableError> {
    let damage = |offset: usize, part, expected: String, found: String| {
        TableError::Damage(Damage { file: path.to_path_buf(), offset: offset as u64, part, expected, found })
    };
    let (tape, generation) = file_header::decode(path, FileKind::Manifest, bytes)?;
    let mut contents = Contents::empty(tape);
    let (mut offset, mut number) = (FILE_HEADER_BYTES, 0);
    let mut torn_at = None;
    while offset < bytes.len() {
        let found = record_at(bytes, tape, generation, offset);
        let Some((_, payload)) = found.filter(|(found, _)| *found == number + 1) else {
            // Records are synced one by one: a later one proves that this one had been whole.
            let later = (offset + 1..bytes.len())
                .find(|at| record_at(bytes, tape, generation, *at).is_some_and(|(later, _)| later > number));
            if later.is_some() || number == 0 {
                let expected = format!("record {}", number + 1);
                return Err(damage(offset, "record of the manifest", expected, "other bytes".to_owned()));
            }
            torn_at = Some(offset as u64);
            break;
        };
        number += 1;
        let mut fields = Fields::new(payload);
        while !fields.is_empty() {
            let edit = Edit::read(&mut fields).map_err(|short| {
                let at = offset + RECORD_HEADER_BYTES + short.at;
                damage(at, "edit of the manifest", "a possible one".to_owned(), "another".to_owned())
            })?;
            contents.apply(edit);
        }
        offset += RECORD_HEADER_BYTES + payload.len();
    }
    if number == 0 {
        return Err(damage(
            offset,
            "record of the manifest",
            "record 1".to_owned(),
            "the end of the file".to_owned(),
        ));
    }
    if let Some(contradiction) = contents.contradiction() {
        return Err(damage(0, "manifest", "files that fit together".to_owned(), contradiction));
    }
    Ok(Loaded { contents, generation, torn_at })
}

/// A record as it stands there, for people.
pub(crate) struct RecordView {
    pub at: usize,
    pub bytes: usize,
    pub number: Option<u32>,
    /// Where each edit begins, and what it says.
    pub edits: Vec<(usize, String)>,
    pub damage: Option<String>,
}

/// Gives every record, whole or not, to `visit`, until it returns `false`. Goes on behind damage with the next whole record.
pub(crate) fn for_each_record(bytes: &[u8], visit: &mut dyn FnMut(RecordView) -> bool) {
    let word = |at: usize| {
        bytes.get(at..at + 8).map_or(0, |word| u64::from_le_bytes(word.try_into().expect("eight")))
    };
    let (tape, generation) = (TapeId(word(16)), word(24));
    let mut offset = FILE_HEADER_BYTES;
    while offset < bytes.len() {
        let Some((number, payload)) = record_at(bytes, tape, generation, offset) else {
            let whole = |at: &usize| record_at(bytes, tape, generation, *at).is_some();
            let next = (offset + 1..bytes.len()).find(whole).unwrap_or(bytes.len());
            let damage = Some("no whole record".to_owned());
            let view =
                RecordView { at: offset, bytes: next - offset, number: None, edits: Vec::new(), damage };
            if !visit(view) {
                return;
            }
            offset = next;
            continue;
        };
        let mut view = RecordView {
            at: offset,
            bytes: RECORD_HEADER_BYTES + payload.len(),
            number: Some(number),
            edits: Vec::new(),
            damage: None,
        };
        let mut fields = Fields::new(payload);
        while !fields.is_empty() {
            let at = offset + RECORD_HEADER_BYTES + fields.at();
            match Edit::read(&mut fields) {
                Ok(edit) => view.edits.push((at, format!("{edit:?}"))),
                Err(short) => {
                    view.damage = Some(format!("an impossible edit at byte {} of the payload", short.at));
                    break;
                }
            }
        }
        offset += view.bytes;
        if !visit(view) {
            return;
        }
    }
}

/// Reads the manifest; `None` if there is none.
pub(crate) fn load(disk: &dyn Disk) -> Result<Option<Loaded>, TableError> {
    let path = Path::new(MANIFEST);
    let file = match disk.open(path, Access::Read, Caching::Buffered) {
        Ok(file) => file,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let length = usize::try_from(file.len_bytes()?).unwrap_or(usize::MAX);
    if length > FILE_HEADER_BYTES + 2 * PAYLOAD_BYTES_MAX {
        return Err(TableError::Damage(Damage {
            file: path.to_path_buf(),
            offset: 0,
            part: "length of the manifest",
            expected: "a possible one".to_owned(),
            found: format!("{length} bytes"),
        }));
    }
    let mut bytes = vec![0; length];
    let read = file.read_at(&mut bytes, 0)?;
    decode(path, &bytes[..read]).map(Some)
}

/// The manifest of a store that is open for writing.
#[derive(Debug)]
pub(crate) struct Manifest {
    contents: Contents,
    generation: u64,
    file: Arc<dyn DiskFile>,
    length: u64,
    records: u32,
    broken: bool,
}

impl Manifest {
    /// Writes the whole manifest anew and makes it the one that counts.
    pub(crate) fn write(disk: &dyn Disk, contents: Contents, generation: u64) -> Result<Self, DiskError> {
        let path = PathBuf::from(MANIFEST);
        let temporary = new_path(&path);
        match disk.remove(&temporary) {
            Ok(()) => {}
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
        let mut bytes = file_header::encode(FileKind::Manifest, contents.tape, generation).to_vec();
        let record = encode_record(contents.tape, generation, bytes.len() as u64, 1, &contents.edits());
        bytes.extend_from_slice(&record);
        let file = disk.open(&temporary, Access::CreateNew, Caching::Buffered)?;
        file.write_at(&bytes, 0)?;
        file.sync_all()?;
        disk.rename(&temporary, &path)?;
        disk.sync_directory(Path::new(""))?;
        Ok(Self { contents, generation, file, length: bytes.len() as u64, records: 1, broken: false })
    }

    pub(crate) fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Numbers for `count` new files. They are spent even if nothing comes of it.
    pub(crate) fn take_files(&mut self, count: u64) -> u64 {
        let first = self.contents.next_file;
        self.contents.next_file += count;
        first
    }

    /// Makes a change durable. After an error nothing more is appended, because what the file holds is not known; but for a
    /// full disk ([`DiskError::may_pass`]), after which the manifest is as it was.
    pub(crate) fn append(&mut self, mut edits: Vec<Edit>) -> Result<(), DiskError> {
        if self.broken {
            let source = std::io::Error::other("an earlier change of the manifest failed");
            return Err(DiskError::new(crate::disk::Operation::Write, self.file.path(), source));
        }
        edits.push(Edit::NextFile(self.contents.next_file));
        let record =
            encode_record(self.contents.tape, self.generation, self.length, self.records + 1, &edits);
        self.broken = true;
        if let Err(error) = self.file.write_at(&record, self.length) {
            // Without its last bytes it is no record. What could be taken for a part of the next one is cut off.
            if error.may_pass() {
                self.file.set_len(self.length)?;
                self.broken = false;
            }
            return Err(error);
        }
        self.file.sync_data()?;
        self.broken = false;
        self.length += record.len() as u64;
        self.records += 1;
        for edit in edits {
            self.contents.apply(edit);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::sstable::block::BlockAt;
    use matchtape_schemas::{EventTime, Head, InstrumentId, KindMask};
    use proptest::prelude::*;

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

    fn released(number: u64, first: u64, last: u64) -> Edit {
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

    fn flush(number: u64, before: u64, after: u64) -> Vec<Edit> {
        vec![events(number, before, after), index(number + 1, before + 1, after), snapshot(number + 2, after)]
    }

    /// A manifest of three flushes and a removal, and its bytes.
    fn example() -> (SimDisk, Contents) {
        let disk = SimDisk::new(1);
        let mut manifest = Manifest::write(&disk, Contents::empty(TAPE), 4).unwrap();
        for round in 0..3 {
            let number = manifest.take_files(3);
            let mut edits = flush(number, round * 10, round * 10 + 10);
            // Of a segment that the flush before has covered.
            edits.extend((round > 0).then(|| released(round, round * 10 - 9, round * 10)));
            manifest.append(edits).unwrap();
        }
        manifest.append(vec![Edit::Remove(3)]).unwrap();
        (disk, manifest.contents().clone())
    }

    #[test]
    fn what_was_appended_is_read_back() {
        let (disk, contents) = example();
        assert_eq!(
            (contents.event_tables.len(), contents.index_tables.len(), contents.snapshots.len()),
            (3, 3, 2)
        );
        let loaded = load(&disk).unwrap().unwrap();
        assert_eq!((loaded.contents, loaded.generation, loaded.torn_at), (contents.clone(), 4, None));
        assert_eq!(contents.flushed_through(), Sequence(30));
        let again = Manifest::write(&disk, contents.clone(), 5).unwrap();
        assert_eq!(load(&disk).unwrap().unwrap().contents, *again.contents());
        assert_eq!(*again.contents(), contents);
    }

    #[test]
    fn a_cut_anywhere_leaves_whole_records_or_is_an_error() {
        let (disk, _) = example();
        let bytes = disk.content(Path::new(MANIFEST)).unwrap();
        let mut ends = Vec::new();
        for length in 0..bytes.len() {
            match decode(Path::new(MANIFEST), &bytes[..length]) {
                Ok(loaded) => {
                    let torn = loaded.torn_at.map_or(length as u64, |at| at);
                    ends.push((torn, loaded.contents.flushed_through().0));
                }
                Err(error) => {
                    assert!(length < FILE_HEADER_BYTES + RECORD_HEADER_BYTES + 10, "{length}: {error}")
                }
            }
        }
        ends.dedup();
        let flushed: Vec<u64> = ends.iter().map(|(_, flushed)| *flushed).collect();
        assert_eq!(flushed, [0, 10, 20, 30], "one prefix of whole records per stretch");
    }

    #[test]
    fn every_single_flipped_bit_is_an_error_or_costs_only_the_last_record() {
        let (disk, contents) = example();
        let mut bytes = disk.content(Path::new(MANIFEST)).unwrap();
        let mut last_record = 0;
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(loaded) = decode(Path::new(MANIFEST), &bytes) {
                // As after a crash in the middle of the last change: nothing rests on it but the change itself.
                assert!(loaded.torn_at.is_some_and(|at| at as usize <= bit / 8), "bit {bit}");
                assert_eq!(loaded.contents.event_tables, contents.event_tables);
                last_record += 1;
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(last_record > 0 && last_record < 8 * 64, "{last_record}");
    }

    #[test]
    fn tables_that_do_not_fit_together_are_refused() {
        let disk = SimDisk::new(1);
        let mut manifest = Manifest::write(&disk, Contents::empty(TAPE), 1).unwrap();
        manifest.append(flush(1, 0, 10)).unwrap();
        manifest.append(flush(4, 11, 20)).unwrap();
        let error = load(&disk).unwrap_err().to_string();
        assert!(error.contains("ends at 10") && error.contains("begins after 11"), "{error}");
    }

    #[test]
    fn a_segment_is_released_behind_the_one_before_and_not_beyond_the_tables() {
        for (facts, wrong) in [
            (vec![released(1, 1, 5), released(2, 5, 9)], "released segment 2 begins inside segment 1"),
            (vec![released(1, 1, 11)], "segment 1 was released at 11, but tables end at 10"),
        ] {
            let disk = SimDisk::new(1);
            let mut manifest = Manifest::write(&disk, Contents::empty(TAPE), 1).unwrap();
            manifest.append(flush(1, 0, 10)).unwrap();
            manifest.append(facts).unwrap();
            let error = load(&disk).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn what_retention_and_holds_say_outlives_a_rewrite_and_must_fit_the_tables() {
        let disk = SimDisk::new(1);
        let mut manifest = Manifest::write(&disk, Contents::empty(TAPE), 1).unwrap();
        manifest.append(flush(1, 0, 10)).unwrap();
        manifest.append(flush(4, 10, 20)).unwrap();
        let hold = |name: &str, from| LegalHold {
            name: name.to_owned(),
            from: Sequence(from),
            placed: AcceptedTime(7),
        };
        manifest.append(vec![Edit::Hold(hold("b", 11)), Edit::Hold(hold("a", 12))]).unwrap();
        manifest
            .append(vec![Edit::Hold(hold("b", 0)), Edit::Remove(1), Edit::FirstKept(Sequence(11))])
            .unwrap();
        let contents = load(&disk).unwrap().unwrap().contents;
        assert_eq!((contents.first_kept, contents.holds.as_slice()), (Sequence(11), &[hold("a", 12)][..]));
        assert_eq!(contents, *manifest.contents());
        Manifest::write(&disk, contents.clone(), 2).unwrap();
        assert_eq!(load(&disk).unwrap().unwrap().contents, contents);
        manifest = Manifest::write(&disk, contents, 3).unwrap();
        manifest.append(vec![Edit::FirstKept(Sequence(15))]).unwrap();
        let error = load(&disk).unwrap_err().to_string();
        assert!(error.contains("kept from 15") && error.contains("begin with 11"), "{error}");
    }

    #[test]
    fn after_a_failed_sync_nothing_more_is_appended() {
        let disk = SimDisk::new(1);
        let mut manifest = Manifest::write(&disk, Contents::empty(TAPE), 1).unwrap();
        disk.fail_at(disk.operations() + 1, crate::disk::sim::Fault::Eio);
        assert!(manifest.append(flush(1, 0, 10)).is_err());
        let operations = disk.operations();
        assert!(manifest.append(flush(1, 0, 10)).is_err());
        assert_eq!(disk.operations(), operations, "not even tried");
    }

    proptest! {
        #[test]
        fn any_bytes_at_all_are_refused_without_a_panic(bytes: Vec<u8>, tail in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(Path::new(MANIFEST), &bytes).is_err());
            let mut bytes = file_header::encode(FileKind::Manifest, TAPE, 1).to_vec();
            bytes.extend_from_slice(&tail);
            prop_assert!(decode(Path::new(MANIFEST), &bytes).is_err());
            // Records that check but hold anything.
            let mut record = vec![0; RECORD_HEADER_BYTES];
            record.extend_from_slice(&tail);
            record[0..4].copy_from_slice(&(tail.len() as u32).to_le_bytes());
            record[4] = 1;
            let sum = checksum(TAPE, 1, FILE_HEADER_BYTES as u64, &record, &tail);
            record[12..16].copy_from_slice(&sum.to_le_bytes());
            let mut bytes = file_header::encode(FileKind::Manifest, TAPE, 1).to_vec();
            bytes.extend_from_slice(&record);
            let _ = decode(Path::new(MANIFEST), &bytes);
        }
    }

    fn object(number: u64, key: &str) -> Edit {
        Edit::MovedCold(ColdObject { number, bytes: 1000, hash: [7; 32], key: key.to_owned() })
    }

    #[test]
    fn tables_in_the_cold_tier_are_known_by_their_objects_until_those_are_removed() {
        let (disk, contents) = example();
        let mut manifest = Manifest::write(&disk, contents, 5).unwrap();
        manifest.append(vec![object(1, "a/1"), object(4, "a/4")]).unwrap();
        manifest.append(vec![Edit::Remove(1)]).unwrap();
        let loaded = load(&disk).unwrap().unwrap().contents;
        assert_eq!(loaded, *manifest.contents());
        assert_eq!(
            loaded.cold.keys().copied().collect::<Vec<_>>(),
            [1, 4],
            "the object of 1 is still to be removed"
        );
        assert!(loaded.names(4) && !loaded.names_locally(4) && loaded.names_locally(7));
        let mut again = Manifest::write(&disk, loaded, 6).unwrap();
        again.append(vec![Edit::RemovedCold(1)]).unwrap();
        assert_eq!(load(&disk).unwrap().unwrap().contents.cold.keys().copied().collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn an_object_that_is_not_its_table_is_refused() {
        let longer = ColdObject { number: 1, bytes: 1001, hash: [7; 32], key: "a/1".to_owned() };
        // An index table, a path that leads out of its place, another length than the table has.
        for edit in [object(2, "a/2"), object(1, "../1"), Edit::MovedCold(longer)] {
            let (disk, contents) = example();
            let mut manifest = Manifest::write(&disk, contents, 5).unwrap();
            manifest.append(vec![edit]).unwrap();
            let error = load(&disk).unwrap_err();
            assert!(matches!(error, TableError::Damage(_)), "{error}");
        }
    }
}
