//! A store that another process may be writing: no lock, no repair, no write.
//!
//! It sees the tables that the manifest names, and of the log what the log itself proves to be durable. Files that a
//! writer has replaced meanwhile are no error: the manifest is read again.

use std::path::Path;
use std::sync::Arc;

use matchtape_schemas::{AcceptedTime, Head, Sequence, TapeId};
use parking_lot::Mutex;

use crate::archive::cold::NoCold;
use crate::check::{Finding, Findings};
use crate::chunk::ChunkBuilder;
use crate::disk::Disk;
use crate::file_header::FileKind;
use crate::inspect::{self, Inspection};
use crate::manifest::{self, Contents};
use crate::memtable::MemTable;
use crate::obsolete::{Obsolete, Removal};
use crate::open::{OpenError, WAL};
use crate::options::{ReadOnlyOptions, WalOptions};
use crate::read::view::Shared;
use crate::read::{ReadError, Reader};
use crate::retention::{self, RetentionChoice, RetentionPolicy};
use crate::segment_facts::SegmentFacts;
use crate::sstable::{BlockCache, OpenFiles, TableError, TableFile};
use crate::verify::{self, VerifyProgress, VerifyReport};
use crate::visible::VisibleGate;
use crate::wal::{self, Damage, Segments, WalConfig, WalError, WalFollower, WalReader};

/// So often the manifest is read again when files it named are gone. Each time, the writer has changed it meanwhile.
const ATTEMPTS_MAX: usize = 10;

/// See the module.
#[derive(Debug)]
pub struct ReadOnlyStore {
    shared: Arc<Shared>,
    options: ReadOnlyOptions,
    /// What the manifest named when it was last read.
    contents: Mutex<Contents>,
    follow: Mutex<Follow>,
}

#[derive(Debug)]
struct Follow {
    /// `None` while no segment was begun.
    follower: Option<WalFollower>,
    memtable: Arc<MemTable>,
    head: Head,
}

impl ReadOnlyStore {
    /// Opens what is there.
    pub fn open(disk: Arc<dyn Disk>, options: ReadOnlyOptions) -> Result<Self, OpenError> {
        let mut attempt = 1;
        loop {
            match Self::try_open(Arc::clone(&disk), &options) {
                Err(error) if attempt < ATTEMPTS_MAX && has_moved_on(&error) => attempt += 1,
                outcome => return outcome.map_err(a_gap),
            }
        }
    }

    fn try_open(disk: Arc<dyn Disk>, options: &ReadOnlyOptions) -> Result<Self, OpenError> {
        let contents = load(&*disk, options)?;
        let flushed =
            contents.event_tables.last().map_or(Head::empty(contents.tape), |table| table.footer.after);
        let memtable = Arc::new(MemTable::new(flushed));
        let cache = Arc::new(BlockCache::new(options.block_cache_bytes));
        let gate = Arc::new(VisibleGate::new(flushed.last_sequence));
        let obsolete = Arc::new(Obsolete::new(Arc::clone(&disk), Arc::clone(&cache), Removal::Never));
        let files = OpenFiles::new(disk, options.open_tables_max);
        let cold = options.cold.clone().unwrap_or_else(|| Arc::new(NoCold));
        let shared =
            Arc::new(Shared::new(files, cold, cache, gate, obsolete, &contents, Arc::clone(&memtable)));
        let follow = Mutex::new(Follow { follower: None, memtable, head: flushed });
        let store = Self { shared, options: options.clone(), contents: Mutex::new(contents.clone()), follow };
        store.follow(&contents)?;
        Ok(store)
    }

    /// The tape.
    pub fn tape(&self) -> TapeId {
        self.shared.tape
    }

    /// Where the tape stands, as far as it was read.
    pub fn head(&self) -> Head {
        self.follow.lock().head
    }

    /// A reader; it sees what a later [`ReadOnlyStore::refresh`] finds.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared))
    }

    /// Looks what the writer has done meanwhile; returns the last event that can be read now.
    pub fn refresh(&self) -> Result<Sequence, OpenError> {
        let mut attempt = 1;
        loop {
            let outcome = load(&*self.shared.disk, &self.options).and_then(|contents| self.follow(&contents));
            match outcome {
                Err(error) if attempt < ATTEMPTS_MAX && has_moved_on(&error) => {
                    // Also the segment being followed may be gone: the tables have its events.
                    self.follow.lock().follower = None;
                    attempt += 1;
                }
                outcome => return outcome.map(|()| self.shared.visible.get()).map_err(a_gap),
            }
        }
    }

    pub(crate) fn contents(&self) -> Contents {
        self.contents.lock().clone()
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.shared.disk
    }

    /// Takes over the manifest's files and what the log proves beyond them.
    fn follow(&self, contents: &Contents) -> Result<(), OpenError> {
        let mut follow = self.follow.lock();
        self.install(contents)?;
        self.contents.lock().clone_from(contents);
        if let Some(table) = contents.event_tables.last()
            && table.footer.after.last_sequence > follow.head.last_sequence
        {
            // The writer has flushed what the log does not prove yet: the tables prove it.
            follow.head = table.footer.after;
            follow.memtable = Arc::new(MemTable::new(follow.head));
            let memtable = Arc::clone(&follow.memtable);
            self.shared.change(|view| view.memtables = vec![memtable]);
        }
        // No log yet: the writer has just created the store.
        if follow.follower.is_none() && wal::identify(&*self.shared.disk, Path::new(WAL))?.is_some() {
            let disk = Arc::clone(&self.shared.disk);
            follow.follower =
                WalFollower::open(disk, self.wal_config(follow.head), follow.head.last_sequence.next())?;
        }
        let Follow { follower: Some(follower), memtable, head } = &mut *follow else { return Ok(()) };
        follower.refresh()?;
        let mut builder = ChunkBuilder::new();
        loop {
            let frame = follower.next_frame()?;
            let full = frame.as_ref().is_none_or(|found| !builder.has_room_for(found));
            if full && let Some(chunk) = builder.take() {
                if memtable.memory_bytes() >= self.options.memtable_bytes || !memtable.has_places_for(&chunk)
                {
                    let next = Arc::new(MemTable::new(memtable.head()));
                    *memtable = Arc::clone(&next);
                    self.shared.change(|view| view.memtables.push(next));
                }
                *head = chunk.head();
                memtable.push(Arc::new(chunk));
                while memtable.index_more() {}
            }
            let Some(found) = frame else { break };
            let header = *found.header();
            if header.first_sequence <= head.last_sequence {
                continue;
            }
            builder.add(&found);
        }
        // Both are group ends: what the log proves, and what was flushed.
        self.shared.visible.raise(head.last_sequence);
        Ok(())
    }

    /// Makes the manifest's files the view's, as many of them open as may be, and lets go of memtables whose events are in them.
    fn install(&self, contents: &Contents) -> Result<(), TableError> {
        let flushed = contents.flushed_through();
        let mut opened = Ok(());
        self.shared.change(|view| {
            let before = view.clone();
            self.shared.install_files(view, contents);
            // Objects of the cold tier have no name that a writer could take away under a reader's hand.
            let events = view.event_tables.iter().filter(|table| table.cold.is_none());
            // A writer replaces index tables most often, then the newest event tables: those are in front.
            let indexes = view.index_tables.iter().map(|table| table.top().map(|_| ()));
            let tables = indexes.chain(events.rev().map(|table| table.top().map(|_| ())));
            opened = tables.take(self.options.open_tables_max).collect();
            if opened.is_err() {
                *view = before;
                return;
            }
            let newest = Arc::clone(&view.memtables[view.memtables.len() - 1]);
            view.memtables
                .retain(|memtable| memtable.last_sequence() > flushed || Arc::ptr_eq(memtable, &newest));
        });
        opened
    }

    fn wal_config(&self, flushed: Head) -> WalConfig {
        let options = WalOptions { cluster: self.options.cluster, ..WalOptions::default() };
        options.config(flushed, Sequence::ZERO)
    }

    /// What retention would drop now, and why not more, as far as can be seen from here: pins that live in the writing
    /// process are not known.
    pub fn plan_retention(
        &self,
        policy: &RetentionPolicy,
        now: AcceptedTime,
    ) -> Result<RetentionChoice, OpenError> {
        let contents = load(&*self.shared.disk, &self.options)?;
        let reader = self.reader();
        let scope = retention::Scope { reader: &reader, shared: &self.shared, policy, now };
        retention::plan(&scope, &contents, &[]).map_err(OpenError::Read)
    }

    /// Which files there are and what is in them. Segments are not listed: only the writer knows them without reading.
    pub fn inspect(&self) -> Inspection {
        inspect::inspect(&self.shared, &[], None, inspect::Written::default())
    }

    /// What is known of every sealed segment there ever was since the store was made, oldest first, also of those that the log
    /// does not hold any more. One that is sealed while this is called may be missing.
    pub fn segment_facts(&self) -> Result<Vec<SegmentFacts>, OpenError> {
        let disk = &*self.shared.disk;
        // The log first: what is released between the two is in the manifest then.
        let sealed = wal::sealed(disk, &self.wal_config(self.head()))?;
        if let Some(damage) = sealed.damage.into_iter().next() {
            return Err(damage.into());
        }
        let mut facts = load(disk, &self.options)?.released;
        let known = facts.last().map_or(Sequence::ZERO, |facts| facts.last);
        let sealed = sealed.list.iter().filter_map(SegmentFacts::of);
        facts.extend(sealed.filter(|facts| facts.last > known));
        Ok(facts)
    }

    /// Reads all tables, snapshots and sealed segments and checks them; of the open segment, what no table has was checked when it
    /// was read. A writer goes on meanwhile: what it has let go of is no finding, and if it has merged a table that was not open
    /// and could not be read any more, all is read again.
    pub fn verify(&self, progress: &mut dyn FnMut(VerifyProgress)) -> Result<VerifyReport, ReadError> {
        let mut attempt = 1;
        loop {
            let before = self.contents();
            let mut report = self.verify_once(progress)?;
            if report.is_sound() {
                return Ok(report);
            }
            // Where the manifest does not load, the findings are the whole answer.
            let Ok(now) = load(&*self.shared.disk, &self.options) else { return Ok(report) };
            let gone = |finding: &Finding| {
                let file = TableFile::from_path(Path::new(&finding.file))?;
                (before.names_locally(file.number) && !now.names_locally(file.number)).then_some(file.kind)
            };
            let merged = report.findings.iter().filter_map(gone).any(|kind| kind != FileKind::Snapshot);
            if merged && attempt < ATTEMPTS_MAX && self.refresh().is_ok() {
                attempt += 1;
                continue;
            }
            let found = report.findings.len();
            report.findings.retain(|finding| gone(finding) != Some(FileKind::Snapshot));
            report.snapshots -= (found - report.findings.len()) as u64;
            return Ok(report);
        }
    }

    fn verify_once(&self, progress: &mut dyn FnMut(VerifyProgress)) -> Result<VerifyReport, ReadError> {
        let (disk, config) = (&self.shared.disk, self.wal_config(self.head()));
        let (sealed, damage) = match wal::sealed(&**disk, &config) {
            Ok(found) => (found.list.into_iter().chain(found.open).collect::<Vec<_>>(), found.damage),
            Err(WalError::Disk(error)) => return Err(TableError::Disk(error).into()),
            Err(error) => (Vec::new(), vec![error]),
        };
        let wal = WalReader::new(Arc::clone(disk), config.clone(), Segments::of(sealed.clone()));
        let mut report = verify::verify(&self.shared, Some(&wal), progress)?;
        // The writer may have let go of some meanwhile; their bytes may be another's by now.
        for segment in &sealed {
            let file = wal.path(segment.number).display().to_string();
            let is_found = report.findings.iter().any(|finding| finding.file == file);
            // One whose header says something else altogether is not gone: what was found is true of it.
            if is_found && !wal::is_held(&**disk, &config, segment).unwrap_or(true) {
                report.findings.retain(|finding| finding.file != file);
                report.sealed_segments -= u64::from(segment.sealed.is_some());
            }
        }
        let mut findings = Findings(report.findings);
        for error in damage {
            match error {
                WalError::Corrupt { damage, because } => {
                    let Damage { file, offset, part, expected, found } = damage;
                    let what = format!("{part}: expected {expected}, found {found}, and {because}");
                    findings.find(&file.display().to_string(), Some(offset), what);
                }
                error => findings.find(WAL, None, error.to_string()),
            }
        }
        report.findings = findings.0;
        Ok(report)
    }
}

fn load(disk: &dyn Disk, options: &ReadOnlyOptions) -> Result<Contents, OpenError> {
    let Some(loaded) = manifest::load(disk)? else { return Err(OpenError::NoStore) };
    let found = loaded.contents.tape;
    if let Some(expected) = options.tape.filter(|expected| *expected != found) {
        return Err(OpenError::Tape { expected, found });
    }
    if loaded.contents.log_begun && wal::identify(disk, Path::new(WAL))?.is_none() {
        return Err(OpenError::LogMissing { directory: WAL.into() });
    }
    Ok(loaded.contents)
}

/// What the log does not have any more is in tables, unless it was lost: then no writer opens the store either.
fn a_gap(error: OpenError) -> OpenError {
    match error {
        OpenError::Wal(error) => match *error {
            WalError::BelowRetention { asked, first_kept } => {
                OpenError::LogGap { flushed: asked.previous(), log_first: first_kept }
            }
            error => error.into(),
        },
        error => error,
    }
}

/// Whether the writer has replaced a file between two steps of ours: the next manifest names others.
fn has_moved_on(error: &OpenError) -> bool {
    match error {
        OpenError::Table(TableError::Disk(error)) => error.is_missing(),
        OpenError::Wal(error) => match &**error {
            WalError::Disk(error) => error.is_missing(),
            WalError::BelowRetention { .. } | WalError::MissingSegment { .. } => true,
            _ => false,
        },
        _ => false,
    }
}
