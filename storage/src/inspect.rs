//! Which files a store has and what is in them, as plain values for a terminal or as JSON.

use matchtape_schemas::Sequence;
use serde::Serialize;

use crate::pressure::Pressure;
use crate::read::view::{Shared, View};
use crate::sstable::EventTable;
use crate::sstable::block::Stored;
use crate::wal::SegmentInfo;

/// A store at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The tape, in hexadecimal as everywhere in messages.
    pub tape: String,
    /// The term of the last event.
    pub epoch: u64,
    /// The last event in memory or tables.
    pub last_sequence: u64,
    /// The first event still there.
    pub first_kept: u64,
    /// The last event that readers are given.
    pub visible: u64,
    /// The last event in tables.
    pub flushed_through: u64,
    /// Segments of the log, oldest first.
    pub segments: Vec<SegmentView>,
    /// Tables of events, oldest first.
    pub event_tables: Vec<EventTableView>,
    /// Tables of index entries.
    pub index_tables: Vec<IndexTableView>,
    /// Snapshots, oldest first.
    pub snapshots: Vec<SnapshotView>,
    /// Legal holds, by name.
    pub holds: Vec<HoldView>,
    /// What is in memory only.
    pub memory: MemoryView,
    /// Bytes of the tables and snapshots on the local disk.
    pub table_bytes: u64,
    /// Bytes of the event tables in the cold tier.
    pub cold_bytes: u64,
    /// What is kept, asked and written for what was appended.
    pub amplification: Amplification,
    /// Bytes of the sealed segments.
    pub sealed_segment_bytes: u64,
}

/// A segment of the log.
#[derive(Clone, Debug, Serialize)]
pub struct SegmentView {
    /// Its place in the chain.
    pub number: u64,
    /// Its first event.
    pub first_sequence: u64,
    /// Its last event, once it is sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sequence: Option<u64>,
    /// Bytes of the file, once it is sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// BLAKE3 over its frames, once it is sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
}

/// A table of events.
#[derive(Clone, Debug, Serialize)]
pub struct EventTableView {
    /// The file, relative to the data directory.
    pub file: String,
    /// Its first event.
    pub first_sequence: u64,
    /// Its last event.
    pub last_sequence: u64,
    /// Frames in it.
    pub frames: u64,
    /// Blocks in it.
    pub blocks: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of its frames, uncompressed.
    pub raw_bytes: u64,
    /// How its blocks are compressed: `none`, `lz4`, `zstd`. Of one in the cold tier it is not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<&'static str>,
    /// The least event time, ns.
    #[serde(serialize_with = "as_text")]
    pub min_event_time: i64,
    /// The greatest event time, ns.
    #[serde(serialize_with = "as_text")]
    pub max_event_time: i64,
    /// Accepted time of its first frame, ns.
    #[serde(serialize_with = "as_text")]
    pub first_accepted_time: i64,
    /// Accepted time of its last frame, ns.
    #[serde(serialize_with = "as_text")]
    pub last_accepted_time: i64,
    /// The least instrument.
    #[serde(serialize_with = "as_text")]
    pub min_instrument: u32,
    /// The greatest instrument.
    #[serde(serialize_with = "as_text")]
    pub max_instrument: u32,
    /// The object it is in the cold tier; the file is not there then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold: Option<String>,
}

/// A table of index entries.
#[derive(Clone, Debug, Serialize)]
pub struct IndexTableView {
    /// The file, relative to the data directory.
    pub file: String,
    /// Zero as flushed.
    pub level: u8,
    /// The first event it covers.
    pub first_sequence: u64,
    /// The last event it covers.
    pub last_sequence: u64,
    /// Entities in it.
    pub entities: u64,
    /// Postings in it.
    pub postings: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// A snapshot.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotView {
    /// The file, relative to the data directory.
    pub file: String,
    /// The last event in it.
    pub sequence: u64,
    /// Sections in it.
    pub sections: u32,
    /// Bytes of the file.
    pub bytes: u64,
    /// BLAKE3 over the state.
    pub hash: String,
}

/// A legal hold.
#[derive(Clone, Debug, Serialize)]
pub struct HoldView {
    /// Its name.
    pub name: String,
    /// The first event that stays.
    pub from: u64,
    /// When it was placed, ns.
    #[serde(serialize_with = "as_text")]
    pub placed_at: i64,
}

/// How much more is kept, asked and written than was appended.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Amplification {
    /// Bytes of tables (also those in the cold tier), snapshots and sealed segments per byte of the frames in tables. `None` without tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub space: Option<f64>,
    /// Index tables that a lookup of one entity asks at most: those of level 0, and of each level above one (or, of an entity
    /// with tables of its own, those of the range asked for). A filter page spares it most of those that have nothing.
    pub tables_per_lookup: u64,
    /// Bytes that flushing and compaction wrote per byte of the frames flushed, since the store was opened. The log is not in
    /// it: it writes each frame once, and padding. `None` before the first flush, and if the store is open for reading only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<f64>,
}

/// What was written since the store was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    /// Bytes of frames that were flushed.
    pub flushed_raw: u64,
    /// Bytes of the tables and snapshots they became.
    pub flushed: u64,
    /// Bytes of the tables that compaction wrote.
    pub compacted: u64,
}

impl Amplification {
    pub(crate) fn of(view: &View, sealed_segment_bytes: u64, written: Written) -> Self {
        let per = |bytes: u64, raw: u64| (raw > 0).then(|| bytes as f64 / raw as f64);
        let kept = view.event_tables.iter().map(|table| table.meta.bytes).sum::<u64>()
            + view.index_tables.iter().map(|table| table.meta.bytes).sum::<u64>()
            + view.snapshots.iter().map(|snapshot| snapshot.meta.bytes).sum::<u64>()
            + sealed_segment_bytes;
        let mut levels = [0u64; 256];
        for table in &view.index_tables {
            let count = &mut levels[usize::from(table.meta.level)];
            *count = if table.meta.level == 0 { *count + 1 } else { 1 };
        }
        Self {
            space: per(kept, view.event_tables.iter().map(|table| table.meta.footer.raw_bytes).sum()),
            tables_per_lookup: levels.iter().sum(),
            write: per(written.flushed + written.compacted, written.flushed_raw),
        }
    }
}

/// Bytes of the log's sealed segments.
pub(crate) fn sealed_bytes(segments: &[SegmentInfo]) -> u64 {
    segments.iter().filter_map(|segment| segment.sealed).map(|sealed| sealed.file_bytes).sum()
}

/// What is in memory only, and the files that are open for it. Bounded are what is not in tables (`pressure.limit_bytes`), blocks
/// (`block_cache_bytes_max`) and the tables' open files (`open_tables_max`, and one more for each thread that reads or merges).
/// `table_index_bytes` grows with the tables that were read, by about 1 byte in 4000, and what is known of released segments with
/// the log, by 120 bytes per segment.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryView {
    /// Memtables, the growing one included.
    pub memtables: usize,
    /// Events in them that are in no table.
    pub events: u64,
    /// Decompressed blocks, in bytes.
    pub block_cache_bytes: u64,
    /// The most that they may be.
    pub block_cache_bytes_max: u64,
    /// The tops of the indexes of the tables that were read, in bytes.
    pub table_index_bytes: u64,
    /// Tables whose files are open.
    pub open_tables: usize,
    /// The most that are kept open.
    pub open_tables_max: usize,
    /// Files that are not part of the store any more and are about to be removed.
    pub obsolete_files: usize,
    /// How far indexing and flushing are behind; `None` where the store is only read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
}

/// Times and ids in JSON are strings of digits: they may be any 64-bit number, and many readers round above 2^53.
pub(crate) fn as_text<S: serde::Serializer>(
    number: &impl std::fmt::Display,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn compression(table: &EventTable) -> Option<&'static str> {
    // What is damaged is for `verify` to say.
    table.cold.is_none().then(|| table.stored_as().ok().flatten().map(Stored::name)).flatten()
}

pub(crate) fn inspect(
    shared: &Shared,
    segments: &[SegmentInfo],
    pressure: Option<Pressure>,
    written: Written,
) -> Inspection {
    let view = shared.view();
    let event_tables: Vec<EventTableView> = view
        .event_tables
        .iter()
        .map(|table| {
            let footer = &table.meta.footer;
            EventTableView {
                file: table.meta.file().path().display().to_string(),
                first_sequence: table.meta.first().0,
                last_sequence: table.meta.last().0,
                frames: footer.frames,
                blocks: footer.blocks,
                bytes: table.meta.bytes,
                raw_bytes: footer.raw_bytes,
                compression: compression(table),
                min_event_time: footer.min_time.0,
                max_event_time: footer.max_time.0,
                first_accepted_time: footer.first_accepted.0,
                last_accepted_time: footer.after.accepted_time.0,
                min_instrument: footer.min_instrument.0,
                max_instrument: footer.max_instrument.0,
                cold: table.cold.as_ref().map(|cold| cold.object.key.clone()),
            }
        })
        .collect();
    let index_tables: Vec<IndexTableView> = view
        .index_tables
        .iter()
        .map(|table| IndexTableView {
            file: table.meta.file().path().display().to_string(),
            level: table.meta.level,
            first_sequence: table.meta.footer.first.0,
            last_sequence: table.meta.footer.last.0,
            entities: table.meta.footer.entities,
            postings: table.meta.footer.postings,
            bytes: table.meta.bytes,
        })
        .collect();
    let snapshots: Vec<SnapshotView> = view
        .snapshots
        .iter()
        .map(|file| &file.meta)
        .map(|meta| SnapshotView {
            file: meta.file().path().display().to_string(),
            sequence: meta.sequence().0,
            sections: meta.footer.sections,
            bytes: meta.bytes,
            hash: hex(&meta.footer.hash),
        })
        .collect();
    let sealed_segment_bytes = sealed_bytes(segments);
    let segments: Vec<SegmentView> = segments
        .iter()
        .map(|segment| SegmentView {
            number: segment.number.0,
            first_sequence: segment.first_sequence().0,
            last_sequence: segment.sealed.map(|sealed| sealed.ends.last_sequence.0),
            bytes: segment.sealed.map(|sealed| sealed.file_bytes),
            root: segment.sealed.map(|sealed| sealed.root.to_string()),
        })
        .collect();
    let (head, flushed) = (view.head(), view.flushed_through());
    let in_cold = event_tables.iter().filter(|table| table.cold.is_some());
    Inspection {
        amplification: Amplification::of(&view, sealed_segment_bytes, written),
        tape: format!("{:016x}", shared.tape.0),
        epoch: head.epoch.0,
        last_sequence: head.last_sequence.0,
        first_kept: view.first_kept().0,
        visible: shared.visible.get().0,
        flushed_through: flushed.0,
        cold_bytes: in_cold.clone().map(|table| table.bytes).sum(),
        table_bytes: event_tables.iter().map(|table| table.bytes).sum::<u64>()
            - in_cold.map(|table| table.bytes).sum::<u64>()
            + index_tables.iter().map(|table| table.bytes).sum::<u64>()
            + snapshots.iter().map(|snapshot| snapshot.bytes).sum::<u64>(),
        holds: view
            .holds
            .iter()
            .map(|hold| HoldView { name: hold.name.clone(), from: hold.from.0, placed_at: hold.placed.0 })
            .collect(),
        sealed_segment_bytes,
        memory: MemoryView {
            memtables: view.memtables.len(),
            events: head.last_sequence.max(flushed).0 - flushed.max(Sequence::ZERO).0,
            block_cache_bytes: shared.cache.bytes() as u64,
            block_cache_bytes_max: shared.cache.bytes_max() as u64,
            table_index_bytes: view.event_tables.iter().map(|table| table.memory_bytes() as u64).sum::<u64>()
                + view.index_tables.iter().map(|table| table.memory_bytes() as u64).sum::<u64>(),
            open_tables: shared.files.count(),
            open_tables_max: shared.files.files_max(),
            obsolete_files: shared.obsolete_files(),
            pressure,
        },
        segments,
        event_tables,
        index_tables,
        snapshots,
    }
}
