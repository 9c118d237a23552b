//! Reads everything and checks it: every checksum, the chain of frames across tables and log, the bounds that indexes state,
//! every index rebuilt from the events and compared, every snapshot's hash, the root of every sealed segment that the log still
//! holds. Of those that it has let go of, the roots are kept for proofs ([`crate::prove`] compares them) and not compared here.
//!
//! Indexes are compared as sets, by a fingerprint that does not depend on order: so memory stays flat, and it does not
//! matter how postings are spread over tables. Where an index table covers exactly one event table (as flushed), a
//! difference is laid at its door by name.

use std::collections::HashMap;

use matchtape_schemas::{EventTime, Head, KindMask, Sequence};
use serde::Serialize;

use crate::chunk::Chunk;
use crate::entity::for_each_entity;
use crate::read::ReadError;
use crate::read::view::{Shared, SnapshotFile};
use crate::snapshot::Snapshot;
use crate::sstable::{BlockEntry, EventTable, TableError, entity_hash, mix};
use crate::wal::{Damage, WalReader};

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
    /// What is wrong; empty if nothing is.
    pub findings: Vec<Finding>,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// In which file, relative to the data directory.
    pub file: String,
    /// Where in it, in bytes, if it has a place.
    pub offset: Option<u64>,
    /// What.
    pub what: String,
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
    let view = shared.view();
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

    let mut by_range = HashMap::new();
    let mut from_events = Fingerprint::default();
    let mut before: Option<Head> = None;
    for table in &view.event_tables {
        step(table.meta.file().path().display().to_string(), table.meta.bytes);
        let mut check =
            TableCheck { table, report: &mut report, heads: &mut heads, postings: Fingerprint::default() };
        let outcome = check.run(before);
        let postings = check.postings;
        by_range.insert((table.meta.first(), table.meta.last()), postings);
        from_events.join(postings);
        if let Err(error) = outcome {
            report.note(&table.meta.file().path().display().to_string(), error)?;
        }
        before = Some(table.meta.footer.after);
    }

    let mut from_tables = Fingerprint::default();
    for table in &view.index_tables {
        let file = table.meta.file().path().display().to_string();
        step(file.clone(), table.meta.bytes);
        let mut found = Fingerprint::default();
        // A merged table may reach below what retention has kept.
        let mut kept = Fingerprint::default();
        let first_kept = view.first_kept().0;
        let each = table.for_each_posting(|key, position| {
            found.add(key, position);
            if position >= first_kept {
                kept.add(key, position);
            }
        });
        if let Err(error) = each {
            report.note(&file, error)?;
        }
        from_tables.join(kept);
        report.postings += kept.count;
        if found.count != table.meta.footer.postings {
            report.find(
                &file,
                format!("{} postings, the footer states {}", found.count, table.meta.footer.postings),
            );
        }
        let range = (table.meta.footer.first, table.meta.footer.last);
        // Above level 0 a table has a part of the entities of its range.
        if table.meta.level == 0
            && let Some(rebuilt) = by_range.get(&range)
            && *rebuilt != found
        {
            report.find(
                &file,
                format!("{} postings differ from the {} of its events", found.count, rebuilt.count),
            );
        }
    }
    if from_events != from_tables {
        let what = format!("{} postings in all, the events have {}", from_tables.count, from_events.count);
        report.find("index tables", what);
    }

    for SnapshotFile { meta, .. } in view.snapshots.iter().map(|file| &**file) {
        let file = meta.file().path().display().to_string();
        step(file.clone(), meta.bytes);
        report.snapshots += 1;
        if let Err(error) = Snapshot::load(&*shared.disk, meta) {
            report.note(&file, error)?;
        }
    }
    for segment in segments.iter().filter(|segment| segment.sealed.is_some()) {
        let wal = wal.expect("segments come from the log");
        let file = format!("segment {}", segment.number);
        step(file.clone(), segment.sealed.map_or(0, |sealed| sealed.file_bytes));
        report.sealed_segments += 1;
        // One that was let go of meanwhile needs no judgement.
        if let Err(error) = wal.verify(segment)
            && wal.segments().get(segment.number).is_some()
        {
            report.find(&file, error.to_string());
        }
    }
    progress(VerifyProgress { file: String::new(), bytes: bytes_total, bytes_total });
    Ok(report)
}

impl VerifyReport {
    fn find(&mut self, file: &str, what: String) {
        self.findings.push(Finding { file: file.to_owned(), offset: None, what });
    }

    /// Damage, missing files and sectors that cannot be read are findings; what this process may not open, or cannot just now, ends
    /// the check.
    fn note(&mut self, file: &str, error: TableError) -> Result<(), ReadError> {
        match error {
            TableError::Damage(Damage { offset, part, expected, found, .. }) => {
                let what = format!("{part}: expected {expected}, found {found}");
                self.findings.push(Finding { file: file.to_owned(), offset: Some(offset), what });
            }
            TableError::Version(version) => self.find(file, version.to_string()),
            TableError::Feature(feature) => self.find(file, feature.to_string()),
            TableError::Disk(error) if error.is_unreadable() => self.find(file, error.to_string()),
            error @ TableError::Disk(_) => return Err(error.into()),
        }
        Ok(())
    }
}

struct TableCheck<'a> {
    table: &'a EventTable,
    report: &'a mut VerifyReport,
    /// Checksums that the log states for frames ending at these positions.
    heads: &'a mut HashMap<Sequence, u64>,
    postings: Fingerprint,
}

impl TableCheck<'_> {
    fn run(&mut self, before: Option<Head>) -> Result<(), TableError> {
        let footer = self.table.meta.footer;
        let file = self.table.meta.file().path().display().to_string();
        if before.is_some_and(|before| before != footer.before) {
            self.report.find(&file, "it does not continue the table before".to_owned());
        }
        let mut head = footer.before;
        let mut buffer = Vec::new();
        let (mut frames, mut blocks) = (0, 0);
        for leaf_entry in self.table.top()? {
            let leaf = self.table.leaf(leaf_entry)?;
            for entry in leaf.entries() {
                let chunk = self.table.load_uncached(entry, &mut buffer)?;
                for number in 0..chunk.frames().len() {
                    let header = chunk.frames()[number].header;
                    if let Err(error) = header.check_follows(&head) {
                        self.report.find(&file, error.to_string());
                    }
                    head = header.head();
                    if let Some(expected) = self.heads.remove(&head.last_sequence)
                        && expected != head.checksum
                    {
                        let what = format!(
                            "the frame ending at {} has checksum {:08x}, the log states {expected:08x}",
                            head.last_sequence, head.checksum
                        );
                        self.report.find(&file, what);
                    }
                }
                self.check_bounds(&file, entry, leaf_entry, &chunk);
                frames += chunk.frames().len() as u64;
                blocks += 1;
            }
        }
        if head != footer.after || frames != footer.frames || blocks != footer.blocks {
            self.report.find(
                &file,
                "its footer states another end, or another number of frames or blocks".to_owned(),
            );
        }
        self.report.frames += frames;
        self.report.blocks += blocks;
        Ok(())
    }

    /// Compares what leaf and top state about a block with its events, and takes their postings.
    fn check_bounds(&mut self, file: &str, entry: &BlockEntry, leaf: &BlockEntry, chunk: &Chunk) {
        let (mut min_time, mut max_time, mut kinds) = (EventTime::MAX, EventTime::MIN, KindMask::NONE);
        let mut key = Vec::new();
        let mut of_event = Vec::new();
        for number in 0..chunk.frames().len() {
            for event in chunk.frame(number).events() {
                min_time = min_time.min(event.event_time());
                max_time = max_time.max(event.event_time());
                kinds = kinds.with(KindMask::of(&[event.kind()]));
                of_event.clear();
                for_each_entity(&event, |entity| {
                    entity.write_key(&mut key);
                    // An entity counts once per event.
                    if !of_event.contains(&key) {
                        of_event.push(key.clone());
                    }
                });
                for key in &of_event {
                    self.postings.add(key, event.sequence().0);
                }
            }
        }
        self.report.events += chunk.event_count() as u64;
        let stated = (entry.min_time, entry.max_time, entry.kinds);
        let within =
            leaf.min_time <= min_time && leaf.max_time >= max_time && leaf.kinds.with(kinds) == leaf.kinds;
        if stated != (min_time, max_time, kinds) || !within {
            self.report.findings.push(Finding {
                file: file.to_owned(),
                offset: Some(entry.at.offset),
                what: "the index states other times or kinds than the block's events have".to_owned(),
            });
        }
    }
}
