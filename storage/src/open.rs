//! Opening a store for writing: lock, manifest, newest good snapshot, log, the unflushed tail, projections at the head.
//!
//! The history is not read: tables are opened when they are first asked, sealed segments are proven by their footers, and
//! only what no table holds is replayed. What was found, replayed, cut and removed is in the [`RecoveryReport`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use matchtape_schemas::frame::ChainError;
use matchtape_schemas::{Head, Projection, ProjectionError, Sequence, TapeId};
use serde::Serialize;

use crate::archive::cold::NoCold;
use crate::chunk::ChunkBuilder;
use crate::disk::{Access, Caching, Disk, DiskError, DiskLock, EntryKind, LockError, LockHolder};
use crate::flush::{FlushError, Flusher};
use crate::fold::Fold;
use crate::ingest::Ingest;
use crate::manifest::{self, Contents, Edit, MANIFEST, Manifest};
use crate::memtable::MemTable;
use crate::obsolete::{Obsolete, Removal};
use crate::options::{StoreOptions, VisibleAtOpen};
use crate::read::ReadError;
use crate::read::view::Shared;
use crate::scrub::Scrubber;
use crate::snapshot::Snapshot;
use crate::sstable::{BlockCache, Caller, OpenFiles, TABLES, TableError, TableFile};
use crate::visible::VisibleGate;
use crate::wal::{self, OpenedWal, WalConfig, WalError, WalReader, WalReport};

/// The lock file.
pub(crate) const LOCK: &str = "lock";
/// The log's directory, as [`WalConfig`] names it.
pub(crate) const WAL: &str = "wal";

/// Why a store was not opened. Nothing that was promised to anyone was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Manifest, table or snapshot are damaged, or a newer release's.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The log is damaged, short, or not this store's.
    #[error(transparent)]
    Wal(Box<WalError>),
    /// The store holds another tape.
    #[error("the store holds tape {found}, not tape {expected}")]
    Tape {
        /// The one asked for.
        expected: TapeId,
        /// The one there.
        found: TapeId,
    },
    /// There is no store here (read-only opening).
    #[error("there is no store here: no {MANIFEST}")]
    NoStore,
    /// Files of a store are there, but not the manifest that says which of them count.
    #[error("{} is missing, although {} is there", MANIFEST, found.display())]
    ManifestMissing {
        /// What was found instead.
        found: PathBuf,
    },
    /// The manifest says that there is a log, and there is none.
    #[error("the log is missing: no segment in {}", directory.display())]
    LogMissing {
        /// Where it should be.
        directory: PathBuf,
    },
    /// The manifest's last change is damaged, and files are gone that only it can have let go of: it had been durable, and what
    /// it named in their place may be all that is left.
    #[error(
        "{MANIFEST}: the last change, from byte {at} on, does not check, but it had been durable: {} is not there whole",
        file.display()
    )]
    ChangeLost {
        /// Where the damaged record begins.
        at: u64,
        /// A file that the changes before it name.
        file: PathBuf,
    },
    /// Events between the tables and the log are missing: the manifest may have lost its end.
    #[error("{MANIFEST} names tables through sequence {flushed}, but the log begins with {log_first}")]
    LogGap {
        /// The last event in tables.
        flushed: Sequence,
        /// The first event in the log.
        log_first: Sequence,
    },
    /// Tables and log do not belong together.
    #[error("the log does not continue the tables, which end at sequence {flushed}: {source}")]
    Diverged {
        /// The last event in tables.
        flushed: Sequence,
        /// In which way.
        source: ChainError,
    },
    /// A projection has no usable section and the events it would have to be folded from are gone.
    #[error("projection {projection} must be folded from sequence 1, but the first kept is {first_kept}")]
    HistoryGone {
        /// Its name.
        projection: &'static str,
        /// The first event there still is.
        first_kept: Sequence,
    },
    /// A projection refused even its own initial state.
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    /// What is kept could not be read.
    #[error(transparent)]
    Read(ReadError),
    /// The tail was too long for memory and could not be flushed.
    #[error(transparent)]
    Flush(#[from] FlushError),
}

impl From<WalError> for OpenError {
    fn from(error: WalError) -> Self {
        Self::Wal(Box::new(error))
    }
}

/// What opening a store found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RecoveryReport {
    /// The tape, in hexadecimal as everywhere in messages.
    pub tape: String,
    /// The store did not exist before.
    pub created: bool,
    /// The last event recovered; durable.
    pub last_sequence: u64,
    /// Every event up to here was in tables already.
    pub flushed_through: u64,
    /// Event tables.
    pub event_tables: u64,
    /// Index tables.
    pub index_tables: u64,
    /// The last change of the manifest was not whole and was left out.
    pub manifest_torn: bool,
    /// Where the manifest with that change was kept, for whoever wants to know what it was; the next one takes its place. `None` where
    /// the file system has no second names.
    pub manifest_kept: Option<String>,
    /// Where the snapshot stood that the projections started from; zero for none.
    pub snapshot_sequence: u64,
    /// Snapshots that were passed over, and why.
    pub snapshots_refused: Vec<String>,
    /// Events given to projections from tables, because the snapshot was older than the tables.
    pub folded_from_tables: u64,
    /// Events read from the log into memory.
    pub replayed_events: u64,
    /// Bytes of their frames.
    pub replayed_bytes: u64,
    /// Files that nothing named and that were removed.
    pub removed: Vec<String>,
    /// Files that are not the store's; left alone.
    pub ignored: Vec<String>,
    /// The log's own account.
    pub wal: WalReport,
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.created {
            return write!(f, "created a store for tape {}", self.tape);
        }
        writeln!(f, "tape {} recovered through sequence {}", self.tape, self.last_sequence)?;
        writeln!(
            f,
            "tables: {} of events, {} of indexes, through sequence {}",
            self.event_tables, self.index_tables, self.flushed_through
        )?;
        writeln!(
            f,
            "replayed {} events ({} bytes) from the log; projections from the snapshot at {}{}",
            self.replayed_events,
            self.replayed_bytes,
            self.snapshot_sequence,
            match self.folded_from_tables {
                0 => String::new(),
                events => format!(" and {events} events of the tables"),
            }
        )?;
        if self.manifest_torn {
            write!(f, "the last change of the manifest was not whole and does not count")?;
            match &self.manifest_kept {
                Some(file) => writeln!(f, "; kept in {file}")?,
                None => writeln!(f)?,
            }
        }
        for refused in &self.snapshots_refused {
            writeln!(f, "passed over a snapshot: {refused}")?;
        }
        for name in &self.removed {
            writeln!(f, "removed {name}, which nothing named")?;
        }
        for name in &self.ignored {
            writeln!(f, "left alone {name}, which is not the store's")?;
        }
        write!(f, "{}", self.wal)
    }
}

/// A store that is ready.
pub(crate) struct Opened {
    pub lock: Box<dyn DiskLock>,
    pub ingest: Arc<Ingest>,
    pub writer: wal::Writer,
    pub wal_config: WalConfig,
    pub segments: wal::Segments,
    pub head: Head,
    /// The projections' state at the head.
    pub at_head: Snapshot,
    pub report: RecoveryReport,
}

pub(crate) fn open(
    disk: Arc<dyn Disk>,
    options: &StoreOptions,
    projections: Vec<Box<dyn Projection>>,
) -> Result<Opened, OpenError> {
    let lock = take_lock(&*disk)?;
    let mut report = RecoveryReport::default();
    let (contents, generation, torn_at) = load_or_create(&*disk, options)?;
    report.created = generation == 0;
    report.manifest_torn = torn_at.is_some();
    if let Some(torn_at) = torn_at {
        check_torn(&*disk, &contents, torn_at)?;
        report.manifest_kept = manifest::keep_aside(&*disk).map(|path| path.display().to_string());
    }
    let next_file =
        if options.mistakes().file_numbers_restart { 1 } else { above_all_files(&*disk, &contents)? };
    let contents = Contents { next_file, ..contents };
    // What was never whole is nothing, whatever the manifest says: its space may be what the rest lacks.
    remove_temporaries(&*disk, &mut report)?;
    // Written anew: whatever an earlier process left in the page cache is durable from here on, or not there.
    let mut manifest = Manifest::write(&disk, contents, generation + 1)?;
    manifest.keep_reserve()?;
    let contents = manifest.contents().clone();
    let flushed = contents.event_tables.last().map_or(Head::empty(contents.tape), |table| table.footer.after);
    report.tape = format!("{:016x}", contents.tape.0);
    report.flushed_through = flushed.last_sequence.0;
    report.event_tables = contents.event_tables.len() as u64;
    report.index_tables = contents.index_tables.len() as u64;

    let mut wal_config = options.wal.config(flushed, flushed.last_sequence);
    // After a restore or a salvage the log is empty, and one that was there before has used these numbers.
    if let Some(facts) = contents.released.last() {
        wal_config.first_segment = facts.number.next();
    }
    if contents.log_begun && wal::identify(&*disk, &wal_config.directory)?.is_none() {
        return Err(OpenError::LogMissing { directory: wal_config.directory });
    }
    let fold = restore_projections(&*disk, &contents, projections, &mut report)?;

    let cache = Arc::new(BlockCache::new(options.block_cache_bytes));
    let gate = Arc::new(VisibleGate::new(flushed.last_sequence));
    let memtable = Arc::new(MemTable::new(flushed));
    let mistake = options.mistakes().files_removed_under_readers;
    let removal = if mistake { Removal::AtOnce } else { Removal::WhenUnread };
    let obsolete = Arc::new(Obsolete::new(Arc::clone(&disk), Arc::clone(&cache), removal));
    let files = OpenFiles::new(Arc::clone(&disk), options.open_tables_max);
    let cold = options.cold.clone().unwrap_or_else(|| Arc::new(NoCold));
    let shared = Arc::new(Shared::new(files, cold, cache, gate, obsolete, &contents, memtable));
    let fold = fold_tables(&shared, fold, flushed, &mut report)?;

    let OpenedWal { writer, head, segments, report: wal_report } =
        wal::open(Arc::clone(&disk), wal_config.clone())?;
    report.wal = wal_report;
    report.last_sequence = head.last_sequence.0;
    // Only now: if the manifest had lost its end, what it does not name would be all that is left.
    let log_first = segments.first_sequence().unwrap_or(Sequence::FIRST);
    if log_first > flushed.last_sequence.next() {
        return Err(OpenError::LogGap { flushed: flushed.last_sequence, log_first });
    }
    remove_orphans(&*disk, &contents, &mut report)?;
    let flusher = Flusher::new(manifest, fold, options.compression);
    if !contents.log_begun {
        flusher.edit_manifest(vec![Edit::LogBegun])?;
    }
    let scrubber = Scrubber::new(options.scrub, wal_config.clone(), segments.clone());
    let ingest = Ingest::new(shared, flusher, &writer, scrubber, options);
    let frames = WalReader::new(disk, wal_config.clone(), segments.clone());
    replay_tail(&ingest, &frames, flushed, head, options.visible_at_open, &mut report)?;
    ingest.flusher.fold_all(&ingest.shared);
    let at_head = ingest.flusher.folded();
    Ok(Opened { lock, ingest: Arc::new(ingest), writer, wal_config, segments, head, at_head, report })
}

pub(crate) fn take_lock(disk: &dyn Disk) -> Result<Box<dyn DiskLock>, LockError> {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let holder = LockHolder {
        pid: std::process::id(),
        started_ns: u64::try_from(started.as_nanos()).unwrap_or(u64::MAX),
    };
    disk.lock(Path::new(LOCK), &holder)
}

/// What exists, the manifest's generation (0: there is none yet), and where its last record is torn, if it is.
fn load_or_create(
    disk: &dyn Disk,
    options: &StoreOptions,
) -> Result<(Contents, u64, Option<u64>), OpenError> {
    if let Some(loaded) = manifest::load(disk)? {
        let found = loaded.contents.tape;
        if let Some(expected) = options.tape.filter(|expected| *expected != found) {
            return Err(OpenError::Tape { expected, found });
        }
        return Ok((loaded.contents, loaded.generation, loaded.torn_at));
    }
    // A log or a table without a manifest: the manifest was lost, for it is written first.
    for directory in [WAL, TABLES] {
        let entries = match disk.list(Path::new(directory)) {
            Ok(entries) => entries,
            Err(error) if error.is_missing() => continue,
            Err(error) => return Err(error.into()),
        };
        if let Some(entry) = entries.first() {
            return Err(OpenError::ManifestMissing { found: Path::new(directory).join(&entry.name) });
        }
    }
    match disk.create_directory(Path::new(TABLES)) {
        Ok(()) => {}
        Err(error) if error.is_existing() => {}
        Err(error) => return Err(error.into()),
    }
    let tape = match options.tape {
        Some(tape) => tape,
        None => {
            let mut random = [0; 8];
            disk.random(&mut random)?;
            TapeId(u64::from_le_bytes(random).max(1))
        }
    };
    Ok((Contents::empty(tape), 0, None))
}

/// A last record that does not check is a change that was never promised, unless files went on its strength: what it named
/// may be all there is of them.
fn check_torn(disk: &dyn Disk, contents: &Contents, torn_at: u64) -> Result<(), OpenError> {
    for (file, bytes) in contents.local_files() {
        let file = file.path();
        let there = match disk.open(&file, Access::Read, Caching::Buffered) {
            Ok(open) => open.len_bytes()? == bytes,
            Err(error) if error.is_missing() => false,
            Err(error) => return Err(error.into()),
        };
        if !there {
            return Err(OpenError::ChangeLost { at: torn_at, file });
        }
    }
    Ok(())
}

/// Removes files that were being written: under such a name nothing is ever read.
fn remove_temporaries(disk: &dyn Disk, report: &mut RecoveryReport) -> Result<(), DiskError> {
    let directory = Path::new(TABLES);
    for entry in disk.list(directory)? {
        let table = TableFile::from_name(&entry.name).filter(|_| entry.kind == EntryKind::File);
        if table.is_some_and(|table| entry.name != table.name()) {
            disk.remove(&directory.join(&entry.name))?;
            report.removed.push(entry.name);
        }
    }
    Ok(())
}

/// Removes whole files that an interrupted flush or merge left behind.
fn remove_orphans(
    disk: &dyn Disk,
    contents: &Contents,
    report: &mut RecoveryReport,
) -> Result<(), DiskError> {
    let directory = Path::new(TABLES);
    for entry in disk.list(directory)? {
        let table = TableFile::from_name(&entry.name).filter(|_| entry.kind == EntryKind::File);
        let Some(table) = table else {
            report.ignored.push(entry.name);
            continue;
        };
        // What has moved to the cold tier is there whole and durable: that comes before the manifest says so.
        if !contents.names_locally(table.number) {
            disk.remove(&directory.join(&entry.name))?;
            report.removed.push(entry.name);
        }
    }
    disk.sync_directory(directory)
}

/// The next file number: above what the manifest says and above every file that is there, so that no number comes twice.
fn above_all_files(disk: &dyn Disk, contents: &Contents) -> Result<u64, DiskError> {
    let mut next = contents.next_file;
    for entry in disk.list(Path::new(TABLES))? {
        if let Some(table) = TableFile::from_name(&entry.name) {
            next = next.max(table.number.saturating_add(1));
        }
    }
    Ok(next)
}

/// The projections as the newest good snapshot has them.
fn restore_projections(
    disk: &dyn Disk,
    contents: &Contents,
    projections: Vec<Box<dyn Projection>>,
    report: &mut RecoveryReport,
) -> Result<Fold, OpenError> {
    let mut fold = Fold::new(projections, Head::empty(contents.tape));
    if fold.wants_from().is_none() {
        return Ok(fold);
    }
    for meta in contents.snapshots.iter().rev() {
        // The older ones are as many as the history is long.
        if fold.wants_from() > Some(Sequence::FIRST) {
            break;
        }
        // The newest one has everything, unless a run with fewer projections wrote it.
        if !Snapshot::section_names(disk, meta).map_or(true, |names| fold.wants_any(&names)) {
            continue;
        }
        let refused = match Snapshot::load(disk, meta) {
            Ok(snapshot) => match fold.restore(&snapshot)? {
                None => {
                    report.snapshot_sequence = report.snapshot_sequence.max(snapshot.sequence().0);
                    continue;
                }
                Some(error) => error.to_string(),
            },
            Err(TableError::Damage(damage)) => damage.to_string(),
            Err(TableError::Disk(error)) if error.is_unreadable() => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        report.snapshots_refused.push(refused);
    }
    Ok(fold)
}

/// Brings the projections to the end of the tables.
fn fold_tables(
    shared: &Shared,
    mut fold: Fold,
    flushed: Head,
    report: &mut RecoveryReport,
) -> Result<Fold, OpenError> {
    let view = shared.view();
    let mut next = fold.wants_from().unwrap_or(Sequence::MAX);
    if let Some(projection) = fold.wants_before(view.first_kept()) {
        return Err(OpenError::HistoryGone { projection, first_kept: view.first_kept() });
    }
    let mut buffer = Vec::new();
    while next <= flushed.last_sequence {
        let chunk = view.chunk_holding(next, Caller::Scan, &mut buffer)?;
        fold.add_chunk(&chunk);
        report.folded_from_tables += chunk.last_sequence().0 - next.0 + 1;
        next = chunk.last_sequence().next();
    }
    fold.skip_to(flushed);
    Ok(fold)
}

/// Reads what no table holds from the log into memory. Only a tail too long for memory is flushed on the way: everything else
/// is flushed as usual, while the store serves.
fn replay_tail(
    ingest: &Ingest,
    wal: &WalReader,
    flushed: Head,
    head: Head,
    visible_at_open: VisibleAtOpen,
    report: &mut RecoveryReport,
) -> Result<(), OpenError> {
    if head.last_sequence == flushed.last_sequence {
        return Ok(());
    }
    let mut frames = wal.frames(flushed.last_sequence.next(), head.last_sequence)?;
    let mut expected = flushed;
    let mut builder = ChunkBuilder::new();
    loop {
        let frame = frames.next_frame()?;
        let full = match &frame {
            Some(found) => !builder.has_room_for(found),
            None => true,
        };
        if full && let Some(chunk) = builder.take() {
            let (last, ends_group) = (chunk.last_sequence(), chunk.last_header().ends_group());
            ingest.take(chunk);
            if visible_at_open == VisibleAtOpen::Recovered && ends_group {
                ingest.shared.visible.raise(last);
                if ingest.is_full() {
                    ingest.flush()?;
                }
            }
        }
        let Some(found) = frame else { break };
        let header = *found.header();
        header
            .check_follows(&expected)
            .map_err(|source| OpenError::Diverged { flushed: flushed.last_sequence, source })?;
        expected = header.head();
        report.replayed_events += u64::from(header.count);
        report.replayed_bytes += u64::from(header.length);
        builder.add(&found);
    }
    // Indexing is left to the indexing thread: until it is through, readers filter what it has not come to.
    Ok(())
}
