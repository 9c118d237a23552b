//! What one file has to be, whoever asks: `verify` asks all of them once, the scrub again and again.
//!
//! A file is read whole and compared with what it says of itself and with what the manifest, or the log's list, says of it. What
//! is between files (that tables continue each other, that indexes have what the events have) is `verify`'s alone.

use std::path::PathBuf;
use std::sync::Arc;

use matchtape_schemas::{EventTime, KindMask, Sequence};
use serde::Serialize;

use crate::chunk::Chunk;
use crate::disk::{Disk, DiskError};
use crate::snapshot::{Snapshot, SnapshotMeta};
use crate::sstable::{BlockEntry, EventTable, IndexTable, TableError};
use crate::wal::{Damage, SegmentInfo, WalError, WalReader};

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// In which file, relative to the data directory.
    pub file: String,
    /// Where in it, in bytes, if it has a place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What: the part, what was expected and what was found.
    pub what: String,
}

/// What was found, in order.
#[derive(Debug, Default)]
pub(crate) struct Findings(pub Vec<Finding>);

impl Findings {
    pub(crate) fn find(&mut self, file: &str, offset: Option<u64>, what: String) {
        self.0.push(Finding { file: file.to_owned(), offset, what });
    }

    /// Damage, missing files and sectors that cannot be read are findings; what this process may not open, or cannot just now, says
    /// nothing about the file and is handed back.
    fn note(&mut self, file: &str, error: TableError) -> Result<(), DiskError> {
        match error {
            TableError::Damage(damage) => self.damage(file, damage),
            TableError::Version(version) => self.find(file, None, version.to_string()),
            TableError::Feature(feature) => self.find(file, None, feature.to_string()),
            TableError::Disk(error) => return self.disk(file, error),
        }
        Ok(())
    }

    pub(crate) fn damage(&mut self, file: &str, Damage { offset, part, expected, found, .. }: Damage) {
        self.find(file, Some(offset), format!("{part}: expected {expected}, found {found}"));
    }

    fn disk(&mut self, file: &str, error: DiskError) -> Result<(), DiskError> {
        if !error.is_unreadable() {
            return Err(error);
        }
        self.find(file, error.offset, error.to_string());
        Ok(())
    }
}

fn name(path: PathBuf) -> String {
    path.display().to_string()
}

/// What an event table turned out to have, as far as it could be read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EventsRead {
    pub events: u64,
    pub frames: u64,
    pub blocks: u64,
}

/// Every block of an event table: its checksum, its frames and their chain, what the index states about it. `visit` is given each
/// block's frames.
pub(crate) fn event_table(
    table: &EventTable,
    findings: &mut Findings,
    visit: &mut dyn FnMut(&Chunk, &mut Findings),
) -> Result<EventsRead, DiskError> {
    let mut read = EventsRead::default();
    let outcome = read_events(table, &mut read, findings, visit);
    outcome.or_else(|error| findings.note(&name(table.meta.file().path()), error))?;
    Ok(read)
}

fn read_events(
    table: &EventTable,
    read: &mut EventsRead,
    findings: &mut Findings,
    visit: &mut dyn FnMut(&Chunk, &mut Findings),
) -> Result<(), TableError> {
    let (file, footer) = (name(table.meta.file().path()), table.meta.footer);
    let mut head = footer.before;
    let mut buffer = Vec::new();
    for leaf_entry in table.top()? {
        let leaf = table.leaf(leaf_entry)?;
        for entry in leaf.entries() {
            let chunk = table.load_uncached(entry, &mut buffer)?;
            for frame in chunk.frames() {
                if let Err(error) = frame.header.check_follows(&head) {
                    findings.find(&file, Some(entry.at.offset), error.to_string());
                }
                head = frame.header.head();
            }
            if !states_its_bounds(&chunk, entry, leaf_entry) {
                let what = "the index states other times or kinds than the block's events have";
                findings.find(&file, Some(entry.at.offset), what.to_owned());
            }
            visit(&chunk, findings);
            read.events += chunk.event_count() as u64;
            read.frames += chunk.frames().len() as u64;
            read.blocks += 1;
        }
    }
    if (head, read.frames, read.blocks) != (footer.after, footer.frames, footer.blocks) {
        let what = "its footer states another end, or another number of frames or blocks";
        findings.find(&file, None, what.to_owned());
    }
    Ok(())
}

/// Whether leaf and top state about a block what its events have.
fn states_its_bounds(chunk: &Chunk, entry: &BlockEntry, leaf: &BlockEntry) -> bool {
    let (mut min_time, mut max_time, mut kinds) = (EventTime::MAX, EventTime::MIN, KindMask::NONE);
    for number in 0..chunk.frames().len() {
        for event in chunk.frame(number).events() {
            min_time = min_time.min(event.event_time());
            max_time = max_time.max(event.event_time());
            kinds = kinds.with(KindMask::of(&[event.kind()]));
        }
    }
    (entry.min_time, entry.max_time, entry.kinds) == (min_time, max_time, kinds)
        && leaf.min_time <= min_time
        && leaf.max_time >= max_time
        && leaf.kinds.with(kinds) == leaf.kinds
}

/// Every block of an index table and its filter, and the order and number of its postings. `visit` is given each of them: the
/// entity's key and the position.
pub(crate) fn index_table(
    table: &Arc<IndexTable>,
    findings: &mut Findings,
    mut visit: impl FnMut(&[u8], u64),
) -> Result<(), DiskError> {
    let file = name(table.meta.file().path());
    let mut postings = 0;
    let outcome = table.for_each_posting(|key, position| {
        postings += 1;
        visit(key, position);
    });
    let stated = table.meta.footer.postings;
    match outcome {
        Ok(()) if postings == stated => Ok(()),
        Ok(()) => {
            findings.find(&file, None, format!("{postings} postings, the footer states {stated}"));
            Ok(())
        }
        Err(error) => findings.note(&file, error),
    }
}

/// Every byte of a snapshot, and its hash.
pub(crate) fn snapshot(
    disk: &dyn Disk,
    meta: &SnapshotMeta,
    findings: &mut Findings,
) -> Result<(), DiskError> {
    match Snapshot::load(disk, meta) {
        Ok(_) => Ok(()),
        Err(error) => findings.note(&name(meta.file().path()), error),
    }
}

/// Every commit of a sealed segment, the chain of its frames, its footer's sums and its root.
pub(crate) fn segment(
    wal: &WalReader,
    segment: &SegmentInfo,
    findings: &mut Findings,
) -> Result<(), DiskError> {
    let file = name(wal.path(segment.number));
    let Err(error) = wal.verify(segment) else { return Ok(()) };
    // The list first, then the file: what was let go of meanwhile needs no judgement, for its bytes may be another's by now.
    if wal.segments().get(segment.number).is_none() {
        return Ok(());
    }
    match error {
        WalError::Corrupt { damage, .. } => findings.damage(&file, damage),
        WalError::Disk(error) => return findings.disk(&file, error),
        error => findings.find(&file, None, error.to_string()),
    }
    Ok(())
}

/// Every commit of the segment that grows, up to the one with the event `through`, which is known to be in it.
pub(crate) fn open_segment(
    wal: &WalReader,
    open: &SegmentInfo,
    through: Sequence,
    findings: &mut Findings,
) -> Result<(), DiskError> {
    let read = || -> Result<(), WalError> {
        let mut frames = wal.frames(open.first_sequence(), through)?;
        while frames.next_frame()?.is_some() {}
        Ok(())
    };
    match read() {
        Ok(()) => Ok(()),
        // Sealed meanwhile, and let go of.
        Err(WalError::BelowRetention { .. }) => Ok(()),
        Err(WalError::Corrupt { damage, .. }) => {
            findings.damage(&name(damage.file.clone()), damage);
            Ok(())
        }
        Err(WalError::Disk(error)) => {
            let file = name(wal.path(open.number));
            findings.disk(&file, error)
        }
        Err(error) => {
            findings.find(&name(wal.path(open.number)), None, error.to_string());
            Ok(())
        }
    }
}
