//! How a store is while it works, for whoever has to tell it: how fast new events are taken and why not faster, what was
//! done, what there is.

use std::fmt;
use std::sync::Arc;

use matchtape_schemas::Sequence;

use crate::compaction::CompactionTotals;
use crate::ingest::Ingest;
use crate::inspect::{self, Amplification};
use crate::pins::{PinView, Pins, RetentionMarks};
use crate::pressure::{Pressure, PressureReason};
use crate::scrub::ScrubMarks;
use crate::wal::Segments;

/// Asks a store how it is. Clones ask the same one; it may outlive the store, and tells its last state then.
#[derive(Clone)]
pub struct StoreGauge {
    ingest: Arc<Ingest>,
    segments: Segments,
    pins: Pins,
}

/// How intake is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intake {
    /// How much of the time no events are taken, in thousandths. 1000: none are, for now or (`failed`) until the store is
    /// opened again.
    pub slowed_permille: u32,
    /// Why, as one word: `none`, `memtables`, `indexing`, `compaction`, `no_space` or `failed`.
    pub reason: &'static str,
    /// Why, for people; empty at full speed.
    pub what: String,
    /// The numbers it follows from.
    pub pressure: Pressure,
}

/// What a store has done since it was opened, and what it has.
#[derive(Clone, Debug)]
pub struct StoreNumbers {
    /// Memtables that became tables.
    pub flushes: u64,
    /// Bytes of the frames in them: what was appended.
    pub flushed_frame_bytes: u64,
    /// Bytes of the tables and snapshots they became. With what compaction wrote, per byte appended: the write amplification.
    pub flush_written_bytes: u64,
    /// The last event in tables.
    pub flushed_through: Sequence,
    /// Indexing or flushing has ended: no more events are taken until the store is opened again.
    pub flush_failed: bool,
    /// What compaction has done.
    pub compaction: CompactionTotals,
    /// The last try to compact failed: tables become more until one does better, or until the store is opened again.
    pub compaction_failed: bool,
    /// New events are refused for want of space.
    pub lacks_space: bool,
    /// Free on the device that the directory is on, if it says.
    pub free_bytes: Option<u64>,
    /// Segments of the log, the growing one included.
    pub log_segments: u64,
    /// Tables of events, those in the cold tier included.
    pub event_tables: u64,
    /// Tables of index entries.
    pub index_tables: u64,
    /// Bytes of the tables and snapshots on the local disk.
    pub table_bytes: u64,
    /// Bytes of the event tables in the cold tier.
    pub cold_bytes: u64,
    /// Bytes of the frames that all event tables were made of. What is kept beside that is the space amplification.
    pub frame_bytes: u64,
    /// Bytes of the sealed segments of the log.
    pub log_sealed_bytes: u64,
    /// How much more is kept, asked and written than was appended.
    pub amplification: Amplification,
    /// Who needs old events, in this process.
    pub pins: Vec<PinView>,
    /// Legal holds.
    pub legal_holds: u64,
    /// What retention has found and done.
    pub retention: RetentionMarks,
    /// What the scrub has done and found.
    pub scrub: ScrubMarks,
}

impl StoreGauge {
    pub(crate) fn new(ingest: Arc<Ingest>, segments: Segments, pins: Pins) -> Self {
        Self { ingest, segments, pins }
    }

    /// How intake is now. Costs what a look at the list of memtables does.
    pub fn intake(&self) -> Intake {
        let pressure = self.ingest.pressure();
        let refused = |reason, what| Intake { slowed_permille: 1000, reason, what, pressure };
        if let Some(failure) = self.ingest.flusher.failure() {
            return refused("failed", failure.to_string());
        }
        if let Some(what) = self.ingest.space.reason() {
            return refused("no_space", what);
        }
        let (slowed_permille, reason) = pressure.slow_down();
        let what = if reason == PressureReason::None { String::new() } else { reason.to_string() };
        Intake { slowed_permille, reason: reason.word(), what, pressure }
    }

    /// How much more is kept, asked and written than was appended. Costs a look at the list of tables.
    pub fn amplification(&self) -> Amplification {
        let (ingest, view) = (&self.ingest, self.ingest.shared.view());
        let sealed_bytes = inspect::sealed_bytes(&self.segments.list());
        Amplification::of(&view, sealed_bytes, ingest.written())
    }

    /// What the scrub has done, and which files it has found damaged.
    pub fn scrub(&self) -> ScrubMarks {
        self.ingest.scrubber.marks(&self.ingest.shared.view())
    }

    /// The numbers now. Costs a look at the list of tables, and asks the device for its free space.
    pub fn numbers(&self) -> StoreNumbers {
        let ingest = &self.ingest;
        let view = ingest.shared.view();
        let (mut table_bytes, mut cold_bytes) = (0, 0);
        for table in &view.event_tables {
            *(if table.cold.is_some() { &mut cold_bytes } else { &mut table_bytes }) += table.meta.bytes;
        }
        table_bytes += view.index_tables.iter().map(|table| table.meta.bytes).sum::<u64>();
        table_bytes += view.snapshots.iter().map(|snapshot| snapshot.meta.bytes).sum::<u64>();
        let (flushed_frame_bytes, flush_written_bytes) = ingest.flusher.written();
        let segments = self.segments.list();
        StoreNumbers {
            frame_bytes: view.event_tables.iter().map(|table| table.meta.footer.raw_bytes).sum(),
            log_sealed_bytes: inspect::sealed_bytes(&segments),
            amplification: self.amplification(),
            flushed_frame_bytes,
            flush_written_bytes,
            flushes: ingest.flusher.flushes(),
            flushed_through: view.flushed_through(),
            flush_failed: ingest.flusher.failure().is_some(),
            compaction: ingest.compactor.totals(),
            compaction_failed: ingest.compactor.failure().is_some(),
            lacks_space: ingest.space.is_set(),
            free_bytes: ingest.shared.disk.free_bytes().ok(),
            log_segments: segments.len() as u64,
            event_tables: view.event_tables.len() as u64,
            index_tables: view.index_tables.len() as u64,
            table_bytes,
            cold_bytes,
            pins: self.pins.list(),
            legal_holds: view.holds.len() as u64,
            retention: self.pins.marks(),
            scrub: ingest.scrubber.marks(&view),
        }
    }
}

impl fmt::Debug for StoreGauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StoreGauge").field(&self.intake()).finish()
    }
}
