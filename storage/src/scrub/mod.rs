//! Reads what is on the local disk again and again, slowly, while the store serves: damage is to be found while there is still
//! another copy, and not years later by whoever needs the event.
//!
//! ```text
//! round   sealed segments, tables, snapshots that there are, one after the other, each checked by `check`
//!         |-- read at so many bytes per second --|............ rest ............|-- next round --
//! ```
//!
//! A round begins when the store is opened, at a file chosen by lot, and goes round from there: where the last process stood is
//! not kept anywhere, and a store that is restarted more often than a round takes is still read evenly.
//!
//! Files are read past the page cache, so what the device holds is what is checked, and no page that a lookup uses is pushed out.
//! (Where the file system has no direct I/O, the pages of what was read are given back instead.) A table is held while it is read, as a reader
//! does, and no longer: its space is free a moment after nobody needs it.
//!
//! Never writes, never mends, never stops anything: what is damaged is named by [`ScrubMarks`], and everything that does
//! not need it goes on. The growing segment, the manifest (both are read, and the latter is written anew, at every opening) and the cold
//! tier (reading it costs money; its stores check their own bytes) are left to `verify`.

mod paced;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

use self::paced::{Pace, PacedDisk};
use crate::check::{self, Finding, Findings};
use crate::disk::{Disk, DiskError};
use crate::guard::caught;
use crate::options::ScrubOptions;
use crate::read::view::{Shared, View};
use crate::sstable::{BlockCache, EventTable, IndexTable, OpenFiles, TableFile};
use crate::wal::{SegmentNumber, Segments, WalConfig, WalReader};

/// However short the interval is, rounds leave so much time to others.
const REST_MIN: Duration = Duration::from_millis(1);

/// What the scrub has done since the store was opened, and what it has found that is still there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ScrubMarks {
    /// Rounds that came to their end.
    pub rounds: u64,
    /// Files checked.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Files that could not be read for a reason that says nothing about them (no permission, too many open files); the next
    /// round tries again.
    pub unread_files: u64,
    /// Files of the store that are damaged, with the first thing wrong in each; `verify` names the rest.
    pub damaged: Vec<Finding>,
}

/// A file that can be scrubbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Segment(SegmentNumber),
    /// A snapshot too.
    Table(TableFile),
}

/// See the module. One round at a time.
#[derive(Debug)]
pub(crate) struct Scrubber {
    options: ScrubOptions,
    wal: (WalConfig, Segments),
    pace: Arc<Pace>,
    busy: Mutex<()>,
    rounds: AtomicU64,
    files: AtomicU64,
    unread_files: AtomicU64,
    damaged: Mutex<BTreeMap<Target, Finding>>,
}

impl Scrubber {
    pub(crate) fn new(options: ScrubOptions, config: WalConfig, segments: Segments) -> Self {
        Self {
            options,
            wal: (config, segments),
            pace: Arc::default(),
            busy: Mutex::new(()),
            rounds: AtomicU64::new(0),
            files: AtomicU64::new(0),
            unread_files: AtomicU64::new(0),
            damaged: Mutex::default(),
        }
    }

    /// The scrubbing thread: rounds at their pace until the store stops.
    pub(crate) fn run(&self, shared: &Shared) {
        let ScrubOptions { bytes_per_second, every } = self.options;
        loop {
            let begun = Instant::now();
            if !self.round(shared, bytes_per_second) {
                return;
            }
            if !self.pace.rest(every.saturating_sub(begun.elapsed()).max(REST_MIN)) {
                return;
            }
        }
    }

    /// Checks every file once; whether it came to the end. Files that are written meanwhile are left to the next round, so that
    /// it has one.
    pub(crate) fn round(&self, shared: &Shared, bytes_per_second: u64) -> bool {
        let _busy = self.busy.lock();
        let mut targets = self.targets(&shared.view());
        let mut lot = [0; 8];
        // By lot only so that restarts are fair to all; without it, from the front.
        let _ = shared.disk.random(&mut lot);
        let begin = u64::from_le_bytes(lot) % (targets.len() as u64).max(1);
        targets.rotate_left(usize::try_from(begin).expect("below a length"));

        let disk: Arc<dyn Disk> =
            Arc::new(PacedDisk::new(Arc::clone(&shared.disk), Arc::clone(&self.pace), bytes_per_second));
        let wal = WalReader::new(Arc::clone(&disk), self.wal.0.clone(), self.wal.1.clone());
        for target in targets {
            let mut findings = Findings::default();
            let checked = caught(|| check(target, shared, &disk, &wal, &mut findings));
            // What a file looked like whose reading was broken off says nothing.
            if self.pace.is_stopped() {
                return false;
            }
            let finding = match checked {
                Ok(Ok(())) => findings.0.into_iter().next(),
                Ok(Err(_)) => {
                    self.unread_files.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                // A bug that a file brings out must not end the scrub, nor pass for soundness.
                Err(panic) => {
                    let path = match target {
                        Target::Segment(number) => wal.path(number),
                        Target::Table(file) => file.path(),
                    };
                    let (file, what) = (path.display().to_string(), format!("checking it panicked: {panic}"));
                    Some(Finding { file, offset: None, what })
                }
            };
            self.files.fetch_add(1, Ordering::Relaxed);
            let mut damaged = self.damaged.lock();
            match finding {
                Some(finding) => damaged.insert(target, finding),
                None => damaged.remove(&target),
            };
        }
        self.rounds.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn targets(&self, view: &View) -> Vec<Target> {
        let sealed = self.wal.1.list().into_iter().filter(|segment| segment.sealed.is_some());
        let events = view.event_tables.iter().filter(|table| table.cold.is_none());
        let tables = events.map(|table| table.meta.file());
        let tables = tables.chain(view.index_tables.iter().map(|table| table.meta.file()));
        let tables = tables.chain(view.snapshots.iter().map(|file| file.meta.file()));
        sealed.map(|segment| Target::Segment(segment.number)).chain(tables.map(Target::Table)).collect()
    }

    /// What was done and found. A damaged file that is no part of the store any more is forgotten.
    pub(crate) fn marks(&self, view: &View) -> ScrubMarks {
        let mut damaged = self.damaged.lock();
        if !damaged.is_empty() {
            let targets = self.targets(view);
            damaged.retain(|target, _| targets.contains(target));
        }
        ScrubMarks {
            rounds: self.rounds.load(Ordering::Relaxed),
            files: self.files.load(Ordering::Relaxed),
            bytes: self.pace.bytes_read(),
            unread_files: self.unread_files.load(Ordering::Relaxed),
            damaged: damaged.values().cloned().collect(),
        }
    }

    /// Breaks off what is under way; nothing is read after that.
    pub(crate) fn stop(&self) {
        self.pace.stop();
    }
}

/// Checks a file, if it is still there. A table is asked anew, through nothing that anybody has cached of it.
fn check(
    target: Target,
    shared: &Shared,
    disk: &Arc<dyn Disk>,
    wal: &WalReader,
    findings: &mut Findings,
) -> Result<(), DiskError> {
    let file = match target {
        Target::Segment(number) => {
            let segment = wal.segments().get(number);
            return segment.map_or(Ok(()), |segment| check::segment(wal, &segment, findings));
        }
        Target::Table(file) => file,
    };
    let (files, cache) = (OpenFiles::new(Arc::clone(disk), 1), Arc::new(BlockCache::new(0)));
    // What is checked is held, and the view, which would hold everything, is not.
    let view = shared.view();
    let events = view.event_tables.iter().find(|table| table.meta.file() == file && table.cold.is_none());
    let index = view.index_tables.iter().find(|table| table.meta.file() == file);
    let snapshot = view.snapshots.iter().find(|snapshot| snapshot.meta.file() == file);
    let (events, index, snapshot) = (events.cloned(), index.cloned(), snapshot.cloned());
    drop(view);
    if let Some(held) = &events {
        let table = EventTable::new(held.meta, None, files, cache);
        check::event_table(&table, findings, &mut |_, _| {})?;
    } else if let Some(held) = &index {
        let table = Arc::new(IndexTable::new(held.meta.clone(), files, cache));
        check::index_table(&table, findings, |_, _| {})?;
    } else if let Some(held) = &snapshot {
        check::snapshot(&**disk, &held.meta, findings)?;
    }
    Ok(())
}
