//! Reading everything there is, whatever is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use matchtape_schemas::{Epoch, Frame, FrameHeader, Head, Sequence, TapeId};

use super::{SalvageError, SalvageProgress};
use crate::check::Finding;
use crate::codec::Fields;
use crate::disk::{Access, AlignedBytes, Caching, Disk, DiskError, DiskFile, EntryKind};
use crate::file_header::{self, FILE_HEADER_BYTES, FileKind, HeaderError};
use crate::manifest::{self, Contents, Loaded};
use crate::open::WAL;
use crate::options::WalOptions;
use crate::snapshot::{Snapshot, SnapshotFooter, SnapshotMeta};
use crate::sstable::block::{self, BLOCK_HEADER_BYTES, BLOCK_RAW_BYTES_MAX, BlockAt, BlockKind, FileId};
use crate::sstable::{
    BlockCache, EventFooter, EventTableMeta, IndexTable, IndexTableMeta, OpenFiles, TABLES, TableError,
    TableFile,
};
use crate::wal::collect::{self, LooseFrame};
use crate::wal::{self, ClusterId, Damage, WalError};

/// A frame that is in no whole table.
#[derive(Clone, Debug)]
pub(super) enum Loose {
    /// Read from a damaged table.
    Memory(Arc<AlignedBytes>, usize),
    /// Still in the log.
    Log(LooseFrame),
}

/// What a frame says of itself.
#[derive(Clone, Debug)]
pub(super) struct LooseHeader {
    pub header: FrameHeader,
    pub from: Loose,
}

/// Everything that was found.
pub(super) struct Found {
    pub tape: TapeId,
    pub cluster: ClusterId,
    /// What the manifest says, or, if there is none, an empty store of this tape.
    pub contents: Contents,
    pub generation: u64,
    pub manifest_rebuilt: bool,
    /// Event tables in which everything checks, named by the manifest or not, by first event.
    pub tables: Vec<EventTableMeta>,
    /// Index tables that the manifest names and in which everything checks.
    pub indexes: Vec<IndexTableMeta>,
    /// Snapshots in which everything checks, oldest first.
    pub snapshots: Vec<SnapshotMeta>,
    /// By first event; several, if two lines of the tape were found.
    pub loose: BTreeMap<u64, Vec<LooseHeader>>,
    pub log_files: Vec<PathBuf>,
    /// The log needs no repair.
    pub log_sound: bool,
    pub damage: Vec<Finding>,
    /// Files with damage, or with no place in the store any more.
    pub bad_files: BTreeSet<PathBuf>,
    pub warnings: Vec<String>,
    /// The last event that any whole structure speaks of.
    pub last_known: Sequence,
    pub last_epoch: Epoch,
    /// Above every file number.
    pub next_file: u64,
}

/// What is wrong with one file.
enum Wrong {
    Damage(Finding),
    Stop(SalvageError),
}

impl From<TableError> for Wrong {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Damage(damage) => Self::Damage(Finding {
                file: damage.file.display().to_string(),
                offset: Some(damage.offset),
                what: format!("{}: expected {}, found {}", damage.part, damage.expected, damage.found),
            }),
            TableError::Version(version) => Self::Stop(version.into()),
            TableError::Feature(feature) => Self::Stop(feature.into()),
            // A file that is gone and a sector that cannot be read are damage too. What this process may not open, or cannot just
            // now, is not: given up, it would be removed.
            TableError::Disk(error) if !error.is_unreadable() => Self::Stop(error.into()),
            TableError::Disk(error) => Self::Damage(Finding {
                file: error.path.display().to_string(),
                offset: error.offset,
                what: error.to_string(),
            }),
        }
    }
}

impl From<HeaderError> for Wrong {
    fn from(error: HeaderError) -> Self {
        Self::from(TableError::from(error))
    }
}

impl From<DiskError> for Wrong {
    fn from(error: DiskError) -> Self {
        Self::from(TableError::from(error))
    }
}

impl Found {
    /// Notes damage; anything else ends salvage.
    fn note(&mut self, path: &Path, wrong: Wrong) -> Result<(), SalvageError> {
        match wrong {
            Wrong::Damage(finding) => {
                self.damage.push(finding);
                self.bad_files.insert(path.to_path_buf());
                Ok(())
            }
            Wrong::Stop(error) => Err(error),
        }
    }

    /// Further places in the log that do not check.
    fn note_rest(&mut self, damages: Vec<crate::wal::Damage>) {
        for damage in damages {
            let file = damage.file.display().to_string();
            if self.damage.iter().any(|known| known.file == file && known.offset == Some(damage.offset)) {
                continue;
            }
            let what = format!("{}: {}", damage.part, damage.found);
            self.damage.push(Finding { file, offset: Some(damage.offset), what });
        }
    }

    /// Whether retention has dropped this event: it is nothing that could be missing.
    fn is_dropped(&self, last: Sequence) -> bool {
        let first = self.contents.event_tables.first().filter(|_| !self.manifest_rebuilt);
        first.is_some_and(|table| last <= table.footer.before.last_sequence)
    }

    fn knows(&mut self, head: Head) {
        self.last_known = self.last_known.max(head.last_sequence);
        self.last_epoch = self.last_epoch.max(head.epoch);
    }

    /// Keeps a frame unless a whole table has it.
    fn keep(&mut self, header: FrameHeader, from: impl FnOnce() -> Loose) {
        self.knows(header.head());
        let after = self.tables.partition_point(|table| table.last() < header.first_sequence);
        let in_a_table = self.tables.get(after).is_some_and(|table| table.first() <= header.first_sequence);
        if in_a_table || self.is_dropped(header.last_sequence()) {
            return;
        }
        let there = self.loose.entry(header.first_sequence.0).or_default();
        if !there.iter().any(|other| other.header == header) {
            there.push(LooseHeader { header, from: from() });
        }
    }
}

/// Whether nothing of a store is here: no manifest, no table, no segment.
pub(super) fn is_nothing(disk: &dyn Disk) -> Result<bool, SalvageError> {
    let manifest = match disk.open(Path::new(manifest::MANIFEST), Access::Read, Caching::Buffered) {
        Err(error) if error.is_missing() => false,
        opened => opened.map(|_| true)?,
    };
    Ok(!manifest && table_files(disk)?.is_empty() && collect::files(disk, Path::new(WAL))?.is_empty())
}

pub(super) fn gather(
    disk: &Arc<dyn Disk>,
    cluster: ClusterId,
    progress: &mut dyn FnMut(SalvageProgress),
) -> Result<Found, SalvageError> {
    let files = table_files(&**disk)?;
    let log_files = collect::files(&**disk, Path::new(WAL))?;
    let mut damage = Vec::new();
    let mut bad_files = BTreeSet::new();
    let loaded = match manifest::load(&**disk) {
        Ok(loaded) => loaded,
        Err(error) => match Wrong::from(error) {
            Wrong::Damage(finding) => {
                damage.push(finding);
                bad_files.insert(PathBuf::from(manifest::MANIFEST));
                None
            }
            Wrong::Stop(error) => return Err(error),
        },
    };
    let manifest_rebuilt = loaded.is_none();
    let mut warnings = Vec::new();
    let Loaded { contents, generation, .. } = match loaded {
        Some(loaded) => loaded,
        None => {
            let contents = known_only_to_the_manifest(&**disk, whose(&**disk, &files)?, &mut warnings);
            Loaded { contents, generation: 0, torn_at: None }
        }
    };
    let mut found = Found {
        tape: contents.tape,
        cluster,
        generation,
        manifest_rebuilt,
        tables: Vec::new(),
        indexes: Vec::new(),
        snapshots: Vec::new(),
        loose: BTreeMap::new(),
        log_files,
        log_sound: true,
        damage,
        bad_files,
        warnings,
        last_known: contents.flushed_through(),
        last_epoch: contents.event_tables.last().map_or(Epoch(0), |table| table.footer.after.epoch),
        next_file: files.iter().map(|file| file.number + 1).max().unwrap_or(1).max(contents.next_file),
        contents,
    };
    let mut step = Steps { progress, done: 0, total: total_bytes(&**disk, &files, &found.log_files) };
    read_tables(disk, &files, &mut found, &mut step)?;
    read_log(disk, &mut found, &mut step)?;
    Ok(found)
}

/// What no other file says, as far as whole records of the manifest still do: holds, the objects of the cold tier, and the facts of
/// segments that the log has let go of. Tables are taken from their files.
fn known_only_to_the_manifest(disk: &dyn Disk, tape: TapeId, warnings: &mut Vec<String>) -> Contents {
    let mut contents = Contents::empty(tape);
    // What cannot be read at all says nothing.
    if let Ok(found) = manifest::whole_records(disk) {
        contents.holds = found.holds;
        for table in found.event_tables.into_iter().filter(|table| table.footer.after.tape == tape) {
            if let Some(object) = found.cold.get(&table.number) {
                contents.cold.insert(table.number, object.clone());
                contents.event_tables.push(table);
            }
        }
        // One that no table is known of would be taken for one that nobody needs, and removed.
        for object in found.cold.values().filter(|object| !contents.cold.contains_key(&object.number)) {
            warnings
                .push(format!("nothing is known of what the object {} of the cold tier holds", object.key));
        }
        for facts in found.released {
            if contents.released.last().is_none_or(|last| last.last < facts.first) {
                contents.released.push(facts);
            }
        }
    }
    warnings.push(format!(
        "the manifest could not be read whole: {} legal holds, {} objects of the cold tier and the facts of {} segments were found in \
         it; what else it held of these is lost, so place holds again that are missing",
        contents.holds.len(),
        contents.cold.len(),
        contents.released.len()
    ));
    contents
}

struct Steps<'a> {
    progress: &'a mut dyn FnMut(SalvageProgress),
    done: u64,
    total: u64,
}

impl Steps<'_> {
    fn step(&mut self, disk: &dyn Disk, file: &Path) {
        (self.progress)(SalvageProgress {
            file: file.to_path_buf(),
            bytes: self.done,
            bytes_total: self.total,
        });
        self.done += length_of(disk, file);
    }
}

fn length_of(disk: &dyn Disk, file: &Path) -> u64 {
    disk.open(file, Access::Read, Caching::Buffered).and_then(|file| file.len_bytes()).unwrap_or(0)
}

fn total_bytes(disk: &dyn Disk, files: &[TableFile], log: &[PathBuf]) -> u64 {
    let tables = files.iter().map(|file| length_of(disk, &file.path()));
    tables.chain(log.iter().map(|file| length_of(disk, file))).sum()
}

/// The whole files in the directory of tables.
fn table_files(disk: &dyn Disk) -> Result<Vec<TableFile>, SalvageError> {
    let entries = match disk.list(Path::new(TABLES)) {
        Ok(entries) => entries,
        Err(error) if error.is_missing() => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let whole = entries.into_iter().filter_map(|entry| {
        let file = TableFile::from_name(&entry.name)?;
        (entry.kind == EntryKind::File && entry.name == file.name()).then_some(file)
    });
    Ok(whole.collect())
}

/// Whose tape the files are of, when no manifest says so.
fn whose(disk: &dyn Disk, files: &[TableFile]) -> Result<TapeId, SalvageError> {
    let mut tapes = BTreeMap::new();
    for file in files {
        match read_start(disk, &file.path()) {
            Ok(header) => {
                if let Ok((tape, _)) = file_header::decode(&file.path(), file.kind, &header) {
                    *tapes.entry(tape).or_insert(0_u64) += 1;
                }
            }
            Err(error) if error.is_unreadable() => {}
            Err(error) => return Err(error.into()),
        }
    }
    if let Ok(Some(identity)) = wal::identify(disk, Path::new(WAL)) {
        *tapes.entry(identity.tape).or_default() += 1;
    }
    match tapes.len() {
        0 => Err(SalvageError::Nothing),
        1 => Ok(*tapes.keys().next().expect("one")),
        _ => Err(SalvageError::Tapes { tapes: tapes.into_keys().collect() }),
    }
}

fn read_start(disk: &dyn Disk, path: &Path) -> Result<[u8; FILE_HEADER_BYTES], DiskError> {
    let mut header = [0; FILE_HEADER_BYTES];
    disk.open(path, Access::Read, Caching::Buffered)?.read_exact_at(&mut header, 0)?;
    Ok(header)
}

/// What the last block of a file says the file is.
fn read_footer(
    disk: &dyn Disk,
    file: TableFile,
    tape: TapeId,
    bytes: usize,
) -> Result<(u64, Vec<u8>), Wrong> {
    let path = file.path();
    let header = read_start(disk, &path)?;
    file_header::check(&path, file.kind, tape, file.number, &header)?;
    let open = disk.open(&path, Access::Read, Caching::Buffered)?;
    let length = open.len_bytes()?;
    let block_bytes = (BLOCK_HEADER_BYTES + bytes) as u32;
    let at = BlockAt { offset: length.saturating_sub(u64::from(block_bytes)), bytes: block_bytes };
    let mut buffer = Vec::new();
    block::load(&*open, at, &mut buffer)?;
    let id = FileId { tape, number: file.number };
    let payload =
        block::read_payload(&path, id, at.offset, BlockKind::Footer, &buffer).map_err(Wrong::from)?;
    Ok((length, payload))
}

fn impossible(file: TableFile) -> Wrong {
    Wrong::Damage(Finding {
        file: file.path().display().to_string(),
        offset: None,
        what: "its footer holds an impossible field".to_owned(),
    })
}

fn event_meta(disk: &dyn Disk, file: TableFile, tape: TapeId) -> Result<EventTableMeta, Wrong> {
    let (bytes, payload) = read_footer(disk, file, tape, EventFooter::BYTES)?;
    let footer = EventFooter::read(&mut Fields::new(&payload)).map_err(|_| impossible(file))?;
    Ok(EventTableMeta { number: file.number, bytes, footer })
}

fn snapshot_meta(disk: &dyn Disk, file: TableFile, tape: TapeId) -> Result<SnapshotMeta, Wrong> {
    let (bytes, payload) = read_footer(disk, file, tape, SnapshotFooter::BYTES)?;
    let footer = SnapshotFooter::read(&mut Fields::new(&payload)).map_err(|_| impossible(file))?;
    Ok(SnapshotMeta { number: file.number, bytes, footer })
}

fn read_tables(
    disk: &Arc<dyn Disk>,
    files: &[TableFile],
    found: &mut Found,
    steps: &mut Steps<'_>,
) -> Result<(), SalvageError> {
    let tape = found.tape;
    // What the manifest names comes first: of two tables with the same events, it is the one that counts.
    let named: Vec<EventTableMeta> = found.contents.event_tables.clone();
    let mut damaged = Vec::new();
    for meta in &named {
        steps.step(&**disk, &meta.file().path());
        found.knows(meta.footer.after);
        if found.contents.cold.contains_key(&meta.number) {
            // An object of the cold tier: nothing here can judge it.
            found.tables.push(*meta);
            continue;
        }
        match check_events(disk, meta) {
            Ok(()) => found.tables.push(*meta),
            Err(wrong) => {
                found.note(&meta.file().path(), wrong)?;
                damaged.push(meta.file());
            }
        }
    }
    // A table that nothing names counts too: an interrupted flush or salvage has made it, or the manifest is gone.
    let unnamed = files.iter().filter(|file| file.kind == FileKind::Events);
    for file in unnamed.filter(|file| !named.iter().any(|meta| meta.number == file.number)) {
        steps.step(&**disk, &file.path());
        match event_meta(&**disk, *file, tape).and_then(|meta| check_events(disk, &meta).map(|()| meta)) {
            Ok(meta) => {
                let (first, last) = (meta.first(), meta.last());
                let there = found.tables.iter().any(|other| other.first() <= last && first <= other.last());
                if !there && !found.is_dropped(last) {
                    found.knows(meta.footer.after);
                    found.tables.push(meta);
                }
            }
            Err(wrong) if found.manifest_rebuilt => {
                found.note(&file.path(), wrong)?;
                damaged.push(*file);
            }
            // Left behind half-done; opening the store removes it.
            Err(Wrong::Damage(_)) => {}
            Err(Wrong::Stop(error)) => return Err(error),
        }
    }
    found.tables.sort_by_key(EventTableMeta::first);
    for file in damaged {
        scan_damaged(&**disk, file, found)?;
    }

    let (files_open, cache) = (OpenFiles::new(Arc::clone(disk), 1), Arc::new(BlockCache::new(0)));
    for meta in found.contents.index_tables.clone() {
        steps.step(&**disk, &meta.file().path());
        let table = Arc::new(IndexTable::new(meta.clone(), Arc::clone(&files_open), Arc::clone(&cache)));
        let mut postings = 0;
        match table.for_each_posting(|_, _| postings += 1) {
            Ok(()) if postings == meta.footer.postings => found.indexes.push(meta),
            Ok(()) => {
                let what = format!("{postings} postings, the footer states {}", meta.footer.postings);
                let file = meta.file().path().display().to_string();
                found.note(&meta.file().path(), Wrong::Damage(Finding { file, offset: None, what }))?;
            }
            Err(error) => found.note(&meta.file().path(), error.into())?,
        }
    }

    let mut snapshots: Vec<Result<SnapshotMeta, (TableFile, Wrong)>> =
        found.contents.snapshots.iter().copied().map(Ok).collect();
    if found.manifest_rebuilt {
        let of = |file: &TableFile| snapshot_meta(&**disk, *file, tape).map_err(|wrong| (*file, wrong));
        snapshots = files.iter().filter(|file| file.kind == FileKind::Snapshot).map(of).collect();
    }
    for snapshot in snapshots {
        match snapshot {
            Ok(meta) => {
                steps.step(&**disk, &meta.file().path());
                match Snapshot::load(&**disk, &meta) {
                    Ok(_) => {
                        found.knows(meta.footer.head);
                        found.snapshots.push(meta);
                    }
                    Err(error) => found.note(&meta.file().path(), error.into())?,
                }
            }
            Err((file, wrong)) => found.note(&file.path(), wrong)?,
        }
    }
    found.snapshots.sort_by_key(SnapshotMeta::sequence);
    Ok(())
}

/// Reads a whole event table: every block, every frame, and the chain from end to end.
fn check_events(disk: &Arc<dyn Disk>, meta: &EventTableMeta) -> Result<(), Wrong> {
    let mut head = meta.footer.before;
    let mut broken = None;
    crate::rebuild::for_each_frame::<TableError>(disk, meta, None, |frame| {
        if let Err(error) = frame.header().check_follows(&head) {
            broken.get_or_insert(error);
        }
        head = frame.header().head();
        Ok(())
    })?;
    let finding = |what: String| {
        Wrong::Damage(Finding { file: meta.file().path().display().to_string(), offset: None, what })
    };
    if let Some(error) = broken {
        return Err(finding(error.to_string()));
    }
    if head != meta.footer.after {
        return Err(finding(format!(
            "its frames end at {}, its footer says {}",
            head.last_sequence,
            meta.last()
        )));
    }
    Ok(())
}

/// Every frame of every block that checks, wherever it begins: the index of the table may be what is damaged.
fn scan_damaged(disk: &dyn Disk, file: TableFile, found: &mut Found) -> Result<(), SalvageError> {
    let path = file.path();
    let open = match disk.open(&path, Access::Read, Caching::Buffered) {
        Ok(open) => open,
        Err(error) if error.is_missing() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let length = open.len_bytes()?;
    let id = FileId { tape: found.tape, number: file.number };
    let mut window = Window { file: &*open, start: 0, bytes: Vec::new() };
    let mut buffer = Vec::new();
    let mut at = FILE_HEADER_BYTES as u64;
    while at + BLOCK_HEADER_BYTES as u64 <= length {
        let Some(bytes) = plausible(window.get(at), length - at) else {
            at += 1;
            continue;
        };
        let place = BlockAt { offset: at, bytes };
        if block::load(&*open, place, &mut buffer).is_err() {
            at += 1;
            continue;
        }
        match block::read_payload_aligned(&path, id, at, BlockKind::Frames, &buffer) {
            Ok((raw, raw_bytes)) => {
                take_frames(&raw, raw_bytes, found);
                at += u64::from(bytes);
            }
            // Its checksum is right: another build reads it.
            Err(TableError::Feature(feature)) => return Err(feature.into()),
            Err(_) if is_another_kind(&path, id, at, &buffer) => at += u64::from(bytes),
            Err(_) => at += 1,
        }
    }
    Ok(())
}

fn is_another_kind(path: &Path, id: FileId, at: u64, block: &[u8]) -> bool {
    let kinds = [BlockKind::Leaf, BlockKind::Top, BlockKind::Footer];
    kinds.iter().any(|kind| block::read_payload(path, id, at, *kind, block).is_ok())
}

/// Bytes of the block that these sixteen may be the header of.
fn plausible(header: Option<[u8; BLOCK_HEADER_BYTES]>, left: u64) -> Option<u32> {
    let header = header?;
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let (stored, raw) = (word(0), word(4));
    let possible = (1..=7).contains(&header[8])
        && header[10..12] == [0, 0]
        && raw as usize <= BLOCK_RAW_BYTES_MAX
        && stored <= raw
        && u64::from(stored) + BLOCK_HEADER_BYTES as u64 <= left;
    possible.then_some(stored + BLOCK_HEADER_BYTES as u32)
}

fn take_frames(raw: &AlignedBytes, raw_bytes: usize, found: &mut Found) {
    let mut at = 0;
    while at < raw_bytes {
        let Ok(frame) = Frame::decode(&raw[at..raw_bytes]) else { return };
        let length = frame.bytes().len();
        if frame.header().tape == found.tape {
            let mut copy = AlignedBytes::zeroed(length);
            copy[..length].copy_from_slice(frame.bytes());
            found.keep(*frame.header(), || Loose::Memory(Arc::new(copy), length));
        }
        at += length;
    }
}

/// Sixteen bytes anywhere in a file, read in larger pieces. What cannot be read is passed over.
struct Window<'a> {
    file: &'a dyn DiskFile,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    fn get(&mut self, at: u64) -> Option<[u8; BLOCK_HEADER_BYTES]> {
        const PIECE: usize = 1 << 16;
        let inside =
            at >= self.start && at + BLOCK_HEADER_BYTES as u64 <= self.start + self.bytes.len() as u64;
        if !inside {
            self.start = at;
            self.bytes.resize(PIECE, 0);
            let mut wanted = PIECE;
            // An unreadable sector spoils a long read; a short one may still do.
            let read = loop {
                match self.file.read_at(&mut self.bytes[..wanted], at) {
                    Ok(read) => break read,
                    Err(_) if wanted > BLOCK_HEADER_BYTES => wanted = BLOCK_HEADER_BYTES,
                    Err(_) => break 0,
                }
            };
            self.bytes.truncate(read);
        }
        let from = usize::try_from(at - self.start).expect("inside");
        self.bytes.get(from..from + BLOCK_HEADER_BYTES)?.try_into().ok()
    }
}

fn read_log(disk: &Arc<dyn Disk>, found: &mut Found, steps: &mut Steps<'_>) -> Result<(), SalvageError> {
    // Where the log has to go on from, if the tables are what they were.
    let flushed =
        found.contents.event_tables.last().map_or(Head::empty(found.tape), |table| table.footer.after);
    let config =
        WalOptions { cluster: found.cluster, ..WalOptions::default() }.config(flushed, flushed.last_sequence);
    let missing = found.contents.log_begun && found.log_files.is_empty();
    let checked = if missing { Err(None) } else { wal::check(disk, &config).map_err(Some) };
    match checked {
        Ok(_) => {}
        Err(None) => {
            found.log_sound = false;
            let what = "there is no segment of the log".to_owned();
            found.damage.push(Finding { file: WAL.to_owned(), offset: None, what });
        }
        Err(Some(error @ WalError::Version { .. })) => return Err(error.into()),
        // A sector that cannot be read is damage; a disk that cannot be written is not.
        Err(Some(WalError::Disk(error))) if !error.is_unreadable() => return Err(error.into()),
        Err(Some(error)) => {
            found.log_sound = false;
            found.damage.push(match error {
                WalError::Corrupt { damage, because } => {
                    let Damage { file, offset, part, expected, found } = damage;
                    let what = format!(
                        "{part}: expected {expected}, found {found}; it is not a torn tail, because {because}"
                    );
                    Finding { file: file.display().to_string(), offset: Some(offset), what }
                }
                error => Finding { file: WAL.to_owned(), offset: None, what: error.to_string() },
            });
        }
    }
    for path in found.log_files.clone() {
        steps.step(&**disk, &path);
        let mut frames = Vec::new();
        match collect::frames(&**disk, &path, &config, |frame, place| frames.push((*frame.header(), place))) {
            Ok(collected) => {
                found.last_known = found.last_known.max(collected.last_known);
                if !found.log_sound {
                    found.note_rest(collected.damages);
                }
            }
            Err(WalError::Disk(error)) if error.is_unreadable() => continue,
            Err(error) => return Err(error.into()),
        }
        for (header, place) in frames {
            found.keep(header, || Loose::Log(place));
        }
    }
    if !found.log_sound {
        found.bad_files.extend(found.log_files.iter().cloned());
    }
    Ok(())
}

impl Found {
    /// Whether the log, which is sound in itself, can go on behind tables that end here.
    pub(super) fn log_continues(&mut self, disk: &Arc<dyn Disk>, end: Head) -> Result<bool, SalvageError> {
        let config =
            WalOptions { cluster: self.cluster, ..WalOptions::default() }.config(end, end.last_sequence);
        match wal::check(disk, &config) {
            Ok(Some(begins)) if begins.last_sequence > end.last_sequence => {
                let what = format!(
                    "it begins with sequence {}, and what comes before it ends at {}",
                    begins.last_sequence.next(),
                    end.last_sequence
                );
                self.damage.push(Finding { file: WAL.to_owned(), offset: None, what });
            }
            Ok(_) => return Ok(true),
            Err(error @ (WalError::Version { .. } | WalError::Disk(_))) => return Err(error.into()),
            Err(error) => {
                let what = error.to_string();
                self.damage.push(Finding { file: WAL.to_owned(), offset: None, what });
            }
        }
        self.log_sound = false;
        self.bad_files.extend(self.log_files.iter().cloned());
        Ok(false)
    }

    /// Reads a loose frame again and gives it to `visit`.
    pub(super) fn with_frame<T>(
        disk: &dyn Disk,
        loose: &LooseHeader,
        visit: impl FnOnce(&Frame<'_>) -> T,
    ) -> Result<Option<T>, DiskError> {
        match &loose.from {
            Loose::Memory(bytes, length) => {
                Ok(Frame::decode(&bytes[..*length]).ok().map(|frame| visit(&frame)))
            }
            Loose::Log(place) => {
                let mut memory = AlignedBytes::zeroed(place.bytes as usize);
                let file = disk.open(&place.file, Access::Read, Caching::Buffered)?;
                file.read_exact_at(&mut memory[..place.bytes as usize], place.offset)?;
                Ok(Frame::decode(&memory[..place.bytes as usize]).ok().map(|frame| visit(&frame)))
            }
        }
    }
}
