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
//! What edits say and what exists after them is in `contents`.
//!
//! How far each index reaches is not said by a number of its own. An index table holds every index of a stretch of the tape and says which
//! in its footer, and the record that names an event table names the index table of the same events. So all indexes reach as far as the
//! event tables do, and what is behind those is in the log and indexed in memory.
//!
//! Whoever opens the store for writing writes the whole manifest anew (under a temporary name, synced, renamed, the directory
//! synced) with the next generation: so nothing of it rests on what an earlier process left in the page cache, and a torn
//! last record is gone (the file with it keeps the name `manifest.torn`: what rots in one sector may take a change and its proof
//! together, and look like this). After that, each change appends one record and syncs, and then an empty one in the same way: it proves
//! that the change was whole, so that a bit that rots in it is not taken for a torn tail. What no file tells, a legal hold, is
//! followed by a second proof, behind a record that changes nothing and is longer than a sector: so what rots in one sector does not take
//! the hold and all that proves it. A file that has grown to several times what it says is written anew while the store goes on.
//!
//! Dropping files, which makes room, first takes a record of the manifest, which needs some: while the store is open, the
//! temporary name has a reserve of zeros that is given up for that on a full disk.

pub(crate) mod contents;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use matchtape_schemas::TapeId;

pub use self::contents::LegalHold;
pub(crate) use self::contents::{Contents, Edit};
use crate::codec::Fields;
use crate::disk::{Access, BLOCK_BYTES, Caching, Disk, DiskError, DiskFile, Operation};
use crate::file_header::{self, FILE_HEADER_BYTES, FileKind};
use crate::sstable::{TableError, new_path};
use crate::wal::Damage;

/// The manifest's name.
pub(crate) const MANIFEST: &str = "manifest";
/// One whose last record was not whole, as it was found.
const TORN: &str = "manifest.torn";
const RECORD_HEADER_BYTES: usize = 16;
/// A longer payload is impossible: about a million tables. Tests come to a smaller limit without half a gigabyte.
const PAYLOAD_BYTES_MAX: usize = if cfg!(test) { 1 << 20 } else { 512 << 20 };
/// A file that is not longer than this is never written anew for its length.
const GROWN_BYTES_MIN: u64 = 1 << 20;
/// A longer one is when it has so many times the bytes it had when it was new.
const GROWN_TIMES: u64 = 4;
/// What the edit takes that says the number of the next file.
const NEXT_FILE_BYTES: usize = 9;
/// For records that make room on a full disk: of a retention that drops a thousand tables.
const RESERVE_BYTES: usize = 16 << 10;

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

fn encode_record(
    tape: TapeId,
    generation: u64,
    offset: u64,
    number: u32,
    edits: &[Edit],
) -> Result<Vec<u8>, DiskError> {
    let mut record = vec![0; RECORD_HEADER_BYTES];
    for edit in edits {
        edit.put(&mut record);
    }
    let length = record.len() - RECORD_HEADER_BYTES;
    if length > PAYLOAD_BYTES_MAX {
        let source = std::io::Error::other(format!("a record of {length} bytes could not be read again"));
        return Err(DiskError::new(Operation::Write, Path::new(MANIFEST), source));
    }
    record[0..4].copy_from_slice(&(length as u32).to_le_bytes());
    record[4..8].copy_from_slice(&number.to_le_bytes());
    let sum = checksum(tape, generation, offset, &record, &record[RECORD_HEADER_BYTES..]);
    record[12..16].copy_from_slice(&sum.to_le_bytes());
    Ok(record)
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
    pub edits: Vec<(usize, Edit)>,
    pub damage: Option<String>,
}

/// Gives every record, whole or not, to `visit`, until it returns `false`.
pub(crate) fn for_each_record(bytes: &[u8], visit: &mut dyn FnMut(RecordView) -> bool) {
    visit_records(bytes, &mut |at, record| {
        let (number, payload) = match record {
            Ok((number, payload)) => (number, payload),
            Err(bytes) => {
                let damage = Some("no whole record".to_owned());
                return visit(RecordView { at, bytes, number: None, edits: Vec::new(), damage });
            }
        };
        let mut view = RecordView {
            at,
            bytes: RECORD_HEADER_BYTES + payload.len(),
            number: Some(number),
            edits: Vec::new(),
            damage: None,
        };
        let mut fields = Fields::new(payload);
        while !fields.is_empty() {
            let at = at + RECORD_HEADER_BYTES + fields.at();
            match Edit::read(&mut fields) {
                Ok(edit) => view.edits.push((at, edit)),
                Err(short) => {
                    view.damage = Some(format!("an impossible edit at byte {} of the payload", short.at));
                    break;
                }
            }
        }
        visit(view)
    });
}

/// A record's number and payload or, where none stands whole, the bytes to the next one that does.
type FoundRecord<'a> = Result<(u32, &'a [u8]), usize>;

/// Gives every record with its place to `visit`, until it returns `false`.
fn visit_records(bytes: &[u8], visit: &mut dyn FnMut(usize, FoundRecord<'_>) -> bool) {
    let word = |at: usize| {
        bytes.get(at..at + 8).map_or(0, |word| u64::from_le_bytes(word.try_into().expect("eight")))
    };
    let (tape, generation) = (TapeId(word(16)), word(24));
    let mut offset = FILE_HEADER_BYTES;
    while offset < bytes.len() {
        let (length, record) = match record_at(bytes, tape, generation, offset) {
            Some((number, payload)) => (RECORD_HEADER_BYTES + payload.len(), Ok((number, payload))),
            None => {
                let whole = |at: &usize| record_at(bytes, tape, generation, *at).is_some();
                let length = (offset + 1..bytes.len()).find(whole).unwrap_or(bytes.len()) - offset;
                (length, Err(length))
            }
        };
        if !visit(offset, record) {
            return;
        }
        offset += length;
    }
}

/// What the whole records of a damaged manifest say, leaving out what is between them: it need not fit together.
pub(crate) fn whole_records(disk: &dyn Disk) -> Result<Contents, TableError> {
    let mut contents = Contents::empty(TapeId(0));
    let Some(bytes) = read(disk)? else { return Ok(contents) };
    visit_records(&bytes, &mut |_, record| {
        if let Ok((_, payload)) = record {
            let mut fields = Fields::new(payload);
            while let Some(edit) = (!fields.is_empty()).then(|| Edit::read(&mut fields)).and_then(Result::ok)
            {
                contents.apply(edit);
            }
        }
        true
    });
    Ok(contents)
}

/// Reads the manifest; `None` if there is none.
pub(crate) fn load(disk: &dyn Disk) -> Result<Option<Loaded>, TableError> {
    read(disk)?.map(|bytes| decode(Path::new(MANIFEST), &bytes)).transpose()
}

fn read(disk: &dyn Disk) -> Result<Option<Vec<u8>>, TableError> {
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
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Gives the manifest that is there a second name, under which it stays when it is written anew; an older one of that name goes.
/// It takes no space, and what cannot be kept is no reason not to open.
pub(crate) fn keep_aside(disk: &dyn Disk) -> Option<PathBuf> {
    let path = PathBuf::from(TORN);
    match disk.remove(&path) {
        Err(error) if !error.is_missing() => return None,
        Ok(()) | Err(_) => {}
    }
    disk.hard_link(Path::new(MANIFEST), &path).ok().map(|()| path)
}

/// The manifest of a store that is open for writing.
#[derive(Debug)]
pub(crate) struct Manifest {
    disk: Arc<dyn Disk>,
    contents: Contents,
    generation: u64,
    file: Arc<dyn DiskFile>,
    length: u64,
    records: u32,
    broken: bool,
    /// Beyond this length it is written anew.
    length_max: u64,
    reserve: Reserve,
}

/// Space set aside for records that make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reserve {
    /// Nobody has asked for one.
    None,
    There,
    /// It was needed, or there was no room for it: tried again with the next change.
    Missing,
}

/// The name of a manifest that is being written, and of the reserve at other times.
fn temporary() -> PathBuf {
    new_path(Path::new(MANIFEST))
}

fn remove_temporary(disk: &dyn Disk) -> Result<(), DiskError> {
    match disk.remove(&temporary()) {
        Err(error) if !error.is_missing() => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl Manifest {
    /// Writes the whole manifest anew and makes it the one that counts.
    pub(crate) fn write(
        disk: &Arc<dyn Disk>,
        contents: Contents,
        generation: u64,
    ) -> Result<Self, DiskError> {
        let temporary = temporary();
        remove_temporary(&**disk)?;
        let mut bytes = file_header::encode(FileKind::Manifest, contents.tape, generation).to_vec();
        let record = encode_record(contents.tape, generation, bytes.len() as u64, 1, &contents.edits())?;
        bytes.extend_from_slice(&record);
        let file = disk.open(&temporary, Access::CreateNew, Caching::Buffered)?;
        file.write_at(&bytes, 0)?;
        file.sync_all()?;
        disk.rename(&temporary, Path::new(MANIFEST))?;
        disk.sync_directory(Path::new(""))?;
        let length = bytes.len() as u64;
        Ok(Self {
            disk: Arc::clone(disk),
            contents,
            generation,
            file,
            length,
            records: 1,
            broken: false,
            length_max: GROWN_BYTES_MIN.max(GROWN_TIMES * length),
            reserve: Reserve::None,
        })
    }

    /// Sets space aside for records that make room, from now on and as soon as there is any.
    pub(crate) fn keep_reserve(&mut self) -> Result<(), DiskError> {
        self.reserve = Reserve::Missing;
        let made = remove_temporary(&*self.disk).and_then(|()| {
            let file = self.disk.open(&temporary(), Access::CreateNew, Caching::Buffered)?;
            file.write_at(&[0; RESERVE_BYTES], 0)
        });
        match made {
            Err(error) if error.may_pass() => remove_temporary(&*self.disk),
            made => made.map(|()| self.reserve = Reserve::There),
        }
    }

    /// Gives the reserve up, if there is one.
    fn give_up_reserve(&mut self) -> Result<bool, DiskError> {
        let there = self.reserve == Reserve::There;
        if there {
            self.reserve = Reserve::Missing;
            remove_temporary(&*self.disk)?;
        }
        Ok(there)
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
            return Err(DiskError::new(Operation::Write, self.file.path(), source));
        }
        let makes_room = edits.iter().any(Edit::makes_room) && !edits.iter().any(Edit::takes_room);
        let told_nowhere_else = edits.iter().any(|edit| matches!(edit, Edit::Hold(_)));
        edits.push(Edit::NextFile(self.contents.next_file));
        self.put_record(&edits, makes_room)?;
        self.file.sync_data()?;
        self.broken = false;
        for edit in edits {
            self.contents.apply(edit);
        }
        self.prove(&[])?;
        if told_nowhere_else {
            let nothing = Edit::NextFile(self.contents.next_file);
            self.prove(&vec![nothing; BLOCK_BYTES / NEXT_FILE_BYTES + 1])?;
            self.prove(&[])?;
        }
        if self.length > self.length_max {
            self.write_anew()?;
        }
        if self.reserve == Reserve::Missing && !makes_room { self.keep_reserve() } else { Ok(()) }
    }

    /// Puts a record behind the last one. The manifest is broken until whoever wants it has synced it.
    fn put_record(&mut self, edits: &[Edit], makes_room: bool) -> Result<(), DiskError> {
        let (tape, number) = (self.contents.tape, self.records + 1);
        let record = encode_record(tape, self.generation, self.length, number, edits)?;
        self.broken = true;
        while let Err(error) = self.file.write_at(&record, self.length) {
            if !error.may_pass() {
                return Err(error);
            }
            // Without its last bytes it is no record. What could be taken for a part of the next one is cut off.
            self.file.set_len(self.length)?;
            if !(makes_room && self.give_up_reserve()?) {
                self.broken = false;
                return Err(error);
            }
        }
        self.length += record.len() as u64;
        self.records = number;
        Ok(())
    }

    /// A record that changes nothing proves the one before, which is durable: whatever comes of this one, nobody was promised anything
    /// of it. Where there is no room for it, it is left out.
    fn prove(&mut self, nothing: &[Edit]) -> Result<(), DiskError> {
        match self.put_record(nothing, false) {
            Ok(()) => {
                // Before the next one: of two records that are not durable, the device may keep the later one alone.
                self.file.sync_data()?;
                self.broken = false;
                Ok(())
            }
            Err(error) if error.may_pass() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// All that was promised is durable in the file there is; on a full disk that goes on growing.
    fn write_anew(&mut self) -> Result<(), DiskError> {
        // One that could not be read again goes on growing too: each of its records can be.
        if encode_record(self.contents.tape, 0, 0, 1, &self.contents.edits()).is_err() {
            self.length_max = 2 * self.length;
            return Ok(());
        }
        self.broken = true;
        self.give_up_reserve()?;
        match Self::write(&self.disk, self.contents.clone(), self.generation + 1) {
            Ok(written) => {
                *self = Self { reserve: self.reserve, ..written };
                Ok(())
            }
            Err(error) if error.may_pass() => {
                self.length_max = 2 * self.length;
                self.broken = false;
                remove_temporary(&*self.disk)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::contents::tests::{TAPE, flush, released};
    use super::*;
    use crate::archive::cold::ColdObject;
    use crate::disk::sim::{PowerLoss, SimDisk};
    use matchtape_schemas::{AcceptedTime, Sequence};
    use proptest::prelude::*;

    fn begin(disk: &SimDisk, contents: Contents, generation: u64) -> Manifest {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        Manifest::write(&disk, contents, generation).unwrap()
    }

    /// A manifest of three flushes and a removal, and its bytes.
    fn example() -> (SimDisk, Contents) {
        let disk = SimDisk::new(1);
        let mut manifest = begin(&disk, Contents::empty(TAPE), 4);
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
        let again = begin(&disk, contents.clone(), 5);
        assert_eq!(load(&disk).unwrap().unwrap().contents, *again.contents());
        assert_eq!(*again.contents(), contents);
    }

    #[test]
    fn a_change_that_could_not_be_read_again_is_refused_and_the_manifest_goes_on() {
        let disk = SimDisk::new(1);
        let mut manifest = begin(&disk, Contents::empty(TAPE), 1);
        manifest.append(flush(1, 0, 10)).unwrap();
        let (contents, bytes) = (manifest.contents().clone(), disk.content(Path::new(MANIFEST)));
        let holds = |count| (0..count).map(|number| hold(&format!("{number:0>60}"), 5)).collect::<Vec<_>>();
        let error = manifest.append(holds(20_000)).unwrap_err().to_string();
        assert!(error.contains("could not be read again") && error.contains(MANIFEST), "{error}");
        assert_eq!((manifest.contents(), disk.content(Path::new(MANIFEST))), (&contents, bytes));
        manifest.append(holds(10_000)).unwrap();
        assert_eq!(load(&disk).unwrap().unwrap().contents.holds.len(), 10_000);
        // Whole, it would be too long as well: it is not written anew, and goes on.
        let more = |number| hold(&format!("more {number:0>55}"), 5);
        manifest.append((0..9_000).map(more).collect()).unwrap();
        assert!(manifest.length > GROWN_BYTES_MIN && manifest.length_max > GROWN_BYTES_MIN);
        manifest.append(vec![hold("a", 5)]).unwrap();
        let loaded = load(&disk).unwrap().unwrap();
        assert_eq!(loaded.generation, 1);
        assert_eq!(&loaded.contents, manifest.contents());
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
        let mut flushed: Vec<u64> = ends.iter().map(|(_, flushed)| *flushed).collect();
        flushed.dedup();
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
        let mut manifest = begin(&disk, Contents::empty(TAPE), 1);
        manifest.append(flush(1, 0, 10)).unwrap();
        manifest.append(flush(4, 11, 20)).unwrap();
        let error = load(&disk).unwrap_err().to_string();
        assert!(error.contains("ends at 10") && error.contains("begins after 11"), "{error}");
    }

    #[test]
    fn what_retention_and_holds_say_outlives_a_rewrite_and_must_fit_the_tables() {
        let disk = SimDisk::new(1);
        let mut manifest = begin(&disk, Contents::empty(TAPE), 1);
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
        begin(&disk, contents.clone(), 2);
        assert_eq!(load(&disk).unwrap().unwrap().contents, contents);
        manifest = begin(&disk, contents, 3);
        manifest.append(vec![Edit::FirstKept(Sequence(15))]).unwrap();
        let error = load(&disk).unwrap_err().to_string();
        assert!(error.contains("kept from 15") && error.contains("begin with 11"), "{error}");
    }

    fn hold(name: &str, from: u64) -> Edit {
        Edit::Hold(LegalHold { name: name.to_owned(), from: Sequence(from), placed: AcceptedTime(7) })
    }

    #[test]
    fn a_manifest_that_has_grown_is_written_anew_and_a_crash_at_any_step_of_that_costs_nothing() {
        let disk = SimDisk::new(1);
        let mut manifest = begin(&disk, Contents::empty(TAPE), 1);
        manifest.append(flush(1, 0, 10)).unwrap();
        let mut grown = 0;
        for round in 1..140 {
            let (before, operations) = (manifest.contents().clone(), disk.operations());
            // Much that leaves nothing, and one thing that stays.
            let name = |name: u64| format!("{name:060}");
            let mut edits: Vec<Edit> =
                (0..300).flat_map(|number| [hold(&name(number), 1), hold(&name(number), 0)]).collect();
            edits.push(hold("last", round));
            manifest.append(edits).unwrap();
            let loaded = load(&disk).unwrap().unwrap();
            assert_eq!(loaded.contents, *manifest.contents());
            let bytes = disk.content(Path::new(MANIFEST)).unwrap().len();
            assert!(bytes <= 2 << 20, "{bytes} bytes in round {round}");
            if loaded.generation == 1 + grown {
                continue;
            }
            grown += 1;
            for operation in operations..=disk.operations() {
                for choice in
                    [PowerLoss::LoseUnsynced, PowerLoss::KeepUnsynced, PowerLoss::Seeded(operation as u64)]
                {
                    let found = load(&disk.crash_at(operation, choice)).unwrap().unwrap().contents;
                    assert!(
                        found == before || found == *manifest.contents(),
                        "operation {operation}, {choice:?}"
                    );
                }
            }
        }
        assert!(grown >= 3, "{grown}");
    }

    #[test]
    fn after_a_failed_sync_nothing_more_is_appended() {
        let disk = SimDisk::new(1);
        let mut manifest = begin(&disk, Contents::empty(TAPE), 1);
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
        let mut manifest = begin(&disk, contents, 5);
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
        let mut again = begin(&disk, loaded, 6);
        again.append(vec![Edit::RemovedCold(1)]).unwrap();
        assert_eq!(load(&disk).unwrap().unwrap().contents.cold.keys().copied().collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn an_object_that_is_not_its_table_is_refused() {
        let longer = ColdObject { number: 1, bytes: 1001, hash: [7; 32], key: "a/1".to_owned() };
        // An index table, a path that leads out of its place, another length than the table has.
        for edit in [object(2, "a/2"), object(1, "../1"), Edit::MovedCold(longer)] {
            let (disk, contents) = example();
            let mut manifest = begin(&disk, contents, 5);
            manifest.append(vec![edit]).unwrap();
            let error = load(&disk).unwrap_err();
            assert!(matches!(error, TableError::Damage(_)), "{error}");
        }
    }
}
