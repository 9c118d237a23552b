//! Reads everything and checks it: every checksum, the chain of frames across tables and log, the bounds that indexes state,
//! every index rebuilt from the events and compared, every snapshot's hash, the root of every sealed segment that the log still
//! holds, every commit of the one that grows. Of those that it has let go of, the roots are kept for proofs ([`crate::prove`] compares them) and not compared here.
//!
//! Indexes are compared as sets, by a fingerprint that does not depend on order: so memory stays flat, and it does not
//! matter how postings are spread over tables. Where an index table covers exactly one event table (as flushed), a
//! difference is laid at its door by name.

use std::collections::HashMap;

use matchtape_schemas::{Head, Sequence};
use serde::Serialize;

use crate::check::{self, EventsRead, Finding, Findings};
use crate::chunk::Chunk;
use crate::entity::for_each_entity;
use crate::open::WAL;
use crate::read::ReadError;
use crate::read::view::{Shared, SnapshotFile};
use crate::sstable::{TableError, entity_hash, mix};
use crate::wal::{SegmentInfo, WalReader};

/// What is being checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyProgress {
    /// The file.
    pub file: String,
    /// Bytes checked so far, of all files.
    pub bytes: u64,
    /// Bytes to check in all.
    pub bytes_total: u64,
}

/// What was checked and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Events read from tables.
    pub events: u64,
    /// Frames read from tables.
    pub frames: u64,
    /// Blocks of frames.
    pub blocks: u64,
    /// Postings rebuilt from events and found in index tables.
    pub postings: u64,
    /// Snapshots read back.
    pub snapshots: u64,
    /// Sealed segments of the log compared with their roots.
    pub sealed_segments: u64,
    /// Events that only the log has yet, through the last visible one. They were checked when they were read from it or written.
    pub log_events: u64,
    /// What is wrong; empty if nothing is.
    pub findings: Vec<Finding>,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

/// A set of postings, as a count and a sum of hashes: equal for equal sets, whatever their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fingerprint {
    count: u64,
    sum: u128,
}

impl Fingerprint {
    fn add(&mut self, key: &[u8], position: u64) {
        let key = entity_hash(key);
        let low = mix(key ^ position.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let high = mix(key.rotate_left(32).wrapping_add(position));
        self.count += 1;
        self.sum = self.sum.wrapping_add(u128::from(high) << 64 | u128::from(low));
    }

    /// The postings that the events of a block have.
    fn add_events(&mut self, chunk: &Chunk) {
        let mut key = Vec::new();
        let mut of_event = Vec::new();
        for number in 0..chunk.frames().len() {
            for event in chunk.frame(number).events() {
                of_event.clear();
                for_each_entity(&event, |entity| {
                    entity.write_key(&mut key);
                    // An entity counts once per event.
                    if !of_event.contains(&key) {
                        of_event.push(key.clone());
                    }
                });
                for key in &of_event {
                    self.add(key, event.sequence().0);
                }
            }
        }
    }

    fn join(&mut self, other: Self) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

pub(crate) fn verify(
    shared: &Shared,
    wal: Option<&WalReader>,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<VerifyReport, ReadError> {
    // It goes on for long, and reads files alone.
    let (first_kept, view) = {
        let view = shared.view();
        (view.first_kept().0, view.files())
    };
    let segments = wal.map(|wal| wal.segments().list()).unwrap_or_default();
    let bytes_total = view.event_tables.iter().map(|table| table.meta.bytes).sum::<u64>()
        + view.index_tables.iter().map(|table| table.meta.bytes).sum::<u64>()
        + view.snapshots.iter().map(|file| file.meta.bytes).sum::<u64>()
        + segments.iter().filter_map(|segment| segment.sealed).map(|sealed| sealed.file_bytes).sum::<u64>();
    let mut bytes = 0;
    let mut step = |file: String, of_file: u64| {
        progress(VerifyProgress { file, bytes, bytes_total });
        bytes += of_file;
    };
    let mut report = VerifyReport::default();
    let mut heads: HashMap<Sequence, u64> = segments
        .iter()
        .map(|segment| (segment.begins.last_sequence, segment.begins.checksum))
        .filter(|(last, _)| *last > Sequence::ZERO)
        .collect();

    let mut findings = Findings::default();
    let mut by_range = HashMap::new();
    let mut from_events = Fingerprint::default();
    let mut before: Option<Head> = None;
    for table in &view.event_tables {
        let file = table.meta.file().path().display().to_string();
        step(file.clone(), table.meta.bytes);
        if before.is_some_and(|before| before != table.meta.footer.before) {
            findings.find(&file, None, "it does not continue the table before".to_owned());
        }
        before = Some(table.meta.footer.after);
        let mut postings = Fingerprint::default();
        let read = check::event_table(table, &mut findings, &mut |chunk, findings| {
            compare_with_log(&file, chunk, &mut heads, findings);
            postings.add_events(chunk);
        });
        let EventsRead { events, frames, blocks } = read.map_err(TableError::Disk)?;
        report.events += events;
        report.frames += frames;
        report.blocks += blocks;
        by_range.insert((table.meta.first(), table.meta.last()), postings);
        from_events.join(postings);
    }

    let mut from_tables = Fingerprint::default();
    for table in &view.index_tables {
        let file = table.meta.file().path().display().to_string();
        step(file.clone(), table.meta.bytes);
        let mut found = Fingerprint::default();
        // A merged table may reach below what retention has kept.
        let mut kept = Fingerprint::default();
        let read = check::index_table(table, &mut findings, |key, position| {
            found.add(key, position);
            if position >= first_kept {
                kept.add(key, position);
            }
        });
        read.map_err(TableError::Disk)?;
        from_tables.join(kept);
        report.postings += kept.count;
        let range = (table.meta.footer.first, table.meta.footer.last);
        // Above level 0 a table has a part of the entities of its range.
        if table.meta.level == 0
            && let Some(rebuilt) = by_range.get(&range)
            && *rebuilt != found
        {
            let what = format!("{} postings differ from the {} of its events", found.count, rebuilt.count);
            findings.find(&file, None, what);
        }
    }
    if from_events != from_tables {
        let what = format!("{} postings in all, the events have {}", from_tables.count, from_events.count);
        findings.find("index tables", None, what);
    }

    for SnapshotFile { meta, .. } in view.snapshots.iter().map(|file| &**file) {
        step(meta.file().path().display().to_string(), meta.bytes);
        report.snapshots += 1;
        check::snapshot(&*shared.disk, meta, &mut findings).map_err(TableError::Disk)?;
    }
    for segment in segments.iter().filter(|segment| segment.sealed.is_some()) {
        let wal = wal.expect("segments come from the log");
        let file = wal.path(segment.number).display().to_string();
        step(file, segment.sealed.map_or(0, |sealed| sealed.file_bytes));
        report.sealed_segments += 1;
        check::segment(wal, segment, &mut findings).map_err(TableError::Disk)?;
    }
    let in_tables = view.event_tables.last().map_or(Sequence::ZERO, |table| table.meta.last());
    // As whoever opens it for writing reads it: also what tables have.
    let through = shared.visible.get().max(in_tables);
    match (wal, segments.last()) {
        (Some(wal), Some(open)) if open.sealed.is_none() => {
            step(wal.path(open.number).display().to_string(), 0);
            check::open_segment(wal, open, through, &mut findings).map_err(TableError::Disk)?;
        }
        (_, Some(SegmentInfo { sealed: Some(sealed), .. })) if sealed.ends.last_sequence < in_tables => {
            let what = format!(
                "the log ends at sequence {}, the tables have events through {in_tables}",
                sealed.ends.last_sequence
            );
            findings.find(WAL, None, what);
        }
        _ => {}
    }
    report.log_events = shared.visible.get().0.saturating_sub(in_tables.0);
    progress(VerifyProgress { file: String::new(), bytes: bytes_total, bytes_total });
    report.findings = findings.0;
    Ok(report)
}

/// Compares frames with the checksums that the log states for where its segments begin.
fn compare_with_log(file: &str, chunk: &Chunk, heads: &mut HashMap<Sequence, u64>, findings: &mut Findings) {
    for frame in chunk.frames() {
        let Head { last_sequence, checksum, .. } = frame.header.head();
        if let Some(expected) = heads.remove(&last_sequence)
            && expected != checksum
        {
            let what = format!(
                "the frame ending at {last_sequence} has checksum {checksum:08x}, the log states {expected:08x}"
            );
            findings.find(file, None, what);
        }
    }
}
