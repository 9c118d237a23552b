//! Writes an event table: frames in, blocks of whole frames out.

use std::path::PathBuf;

use matchtape_schemas::limits::FRAME_BYTES_MAX;
use matchtape_schemas::{AcceptedTime, EventTime, Frame, Head, InstrumentId, KindMask};

use super::block::{BlockAt, BlockKind, Compress, FileId};
use super::event_table::{EventFooter, EventTableMeta};
use super::leaf::{BlockEntry, ENTRY_BYTES};
use super::table_file::{FileWriter, TableFile};
use crate::disk::{Disk, DiskError};
use crate::file_header::FileKind;
use crate::options::Compression;

/// A block is closed before it would grow beyond this. A frame is never split, and a frame of the greatest size is a
/// block of its own, which is what a point read has to decompress at most.
///
/// Measured beside frames and blocks of 16 KiB, in turn, with other work on the machine (its device: 4 KiB in 43 us, P99 80):
/// with nothing in the page cache an event took P50 57 and P99 170 us instead of 91-114 and 244-323, an order P50 110 and P99 631
/// instead of 148-168 and 1 304-2 511; but a scan of blocks in memory gave 29 M events/s instead of 46, and an event from such a block
/// came after 1.02 us instead of 0.90-0.94. On the disk they are 4 % larger. Whoever reads a tape mostly reads it in order.
const BLOCK_BYTES_TARGET: usize = 32 << 10;
/// Real order flow: level 1 makes 5.4 : 1 at 0.62 GB/s, 3 makes 5.6 : 1 at 0.54, 6 makes 6.1 : 1 at 0.14.
#[cfg(feature = "zstd")]
const ZSTD_LEVEL: i32 = 3;
/// A leaf is closed when it has reached this.
const LEAF_BYTES_TARGET: usize = 4 << 10;

const _: () =
    assert!(BLOCK_BYTES_TARGET <= FRAME_BYTES_MAX && FRAME_BYTES_MAX <= super::block::BLOCK_RAW_BYTES_MAX);

/// See the module.
#[derive(Debug)]
pub(crate) struct EventTableWriter {
    out: FileWriter,
    compress: Compress,
    number: u64,
    raw: Vec<u8>,
    /// The block being filled; its place is not known yet.
    open: Option<BlockEntry>,
    leaf: Vec<BlockEntry>,
    top: Vec<BlockEntry>,
    footer: EventFooter,
}

impl EventTableWriter {
    /// A table of the events after `before`.
    pub(crate) fn create(
        disk: &dyn Disk,
        number: u64,
        before: Head,
        compression: Compression,
    ) -> Result<Self, DiskError> {
        let id = FileId { tape: before.tape, number };
        let out = FileWriter::create(disk, TableFile { kind: FileKind::Events, number }, id)?;
        let footer = EventFooter {
            before,
            after: before,
            first_accepted: AcceptedTime(i64::MAX),
            min_time: EventTime::MAX,
            max_time: EventTime::MIN,
            kinds: KindMask::NONE,
            min_instrument: InstrumentId(u32::MAX),
            max_instrument: InstrumentId(0),
            frames: 0,
            blocks: 0,
            raw_bytes: 0,
            top: BlockAt { offset: 0, bytes: 0 },
        };
        let compress = match compression {
            Compression::Lz4 => Compress::Lz4,
            #[cfg(feature = "zstd")]
            Compression::Zstd => Compress::Zstd(ZSTD_LEVEL),
            Compression::None => Compress::Never,
        };
        Ok(Self {
            out,
            compress,
            number,
            raw: Vec::new(),
            open: None,
            leaf: Vec::new(),
            top: Vec::new(),
            footer,
        })
    }

    /// Takes in the next frame.
    ///
    /// # Panics
    /// If it does not follow the one before.
    pub(crate) fn add(&mut self, frame: &Frame<'_>) -> Result<(), DiskError> {
        let header = frame.header();
        header.check_follows(&self.footer.after).expect("frames are flushed in order");
        if !self.raw.is_empty() && self.raw.len() + frame.bytes().len() > BLOCK_BYTES_TARGET {
            self.close_block()?;
        }
        let (mut min_time, mut max_time) = (EventTime::MAX, EventTime::MIN);
        for event in frame.events() {
            min_time = min_time.min(event.event_time());
            max_time = max_time.max(event.event_time());
            self.footer.min_instrument = self.footer.min_instrument.min(event.instrument());
            self.footer.max_instrument = self.footer.max_instrument.max(event.instrument());
        }
        let entry = BlockEntry {
            first: header.first_sequence,
            at: BlockAt { offset: 0, bytes: 0 },
            count: header.count,
            min_time,
            max_time,
            kinds: header.kinds,
        };
        match &mut self.open {
            Some(open) => open.widen(&entry),
            None => self.open = Some(entry),
        }
        self.raw.extend_from_slice(frame.bytes());
        self.footer.after = header.head();
        self.footer.first_accepted = self.footer.first_accepted.min(header.accepted_time);
        self.footer.frames += 1;
        self.footer.raw_bytes += frame.bytes().len() as u64;
        Ok(())
    }

    /// Bytes so far, without what is added at the end.
    pub(crate) fn bytes(&self) -> u64 {
        self.out.offset()
    }

    fn close_block(&mut self) -> Result<(), DiskError> {
        let Some(mut entry) = self.open.take() else { return Ok(()) };
        entry.at = self.out.block(BlockKind::Frames, &self.raw, self.compress)?;
        self.raw.clear();
        self.footer.blocks += 1;
        self.footer.min_time = self.footer.min_time.min(entry.min_time);
        self.footer.max_time = self.footer.max_time.max(entry.max_time);
        self.footer.kinds = self.footer.kinds.with(entry.kinds);
        self.leaf.push(entry);
        if self.leaf.len() * ENTRY_BYTES >= LEAF_BYTES_TARGET {
            self.close_leaf()?;
        }
        Ok(())
    }

    fn close_leaf(&mut self) -> Result<(), DiskError> {
        let Some(first) = self.leaf.first() else { return Ok(()) };
        let mut entry = *first;
        for block in &self.leaf[1..] {
            entry.widen(block);
        }
        entry.at = self.out.block(BlockKind::Leaf, &encode(&self.leaf), Compress::Never)?;
        self.leaf.clear();
        self.top.push(entry);
        Ok(())
    }

    /// Writes the index and syncs the file, which still has its temporary name; returns what it is to be called.
    ///
    /// # Panics
    /// If no frame was added.
    pub(crate) fn finish(mut self) -> Result<(EventTableMeta, PathBuf), DiskError> {
        self.close_block()?;
        self.close_leaf()?;
        assert!(self.footer.frames > 0, "a table has at least one frame");
        self.footer.top = self.out.block(BlockKind::Top, &encode(&self.top), Compress::Never)?;
        let mut footer = Vec::new();
        self.footer.put(&mut footer);
        let (bytes, path) = self.out.finish(&footer)?;
        Ok((EventTableMeta { number: self.number, bytes, footer: self.footer }, path))
    }
}

fn encode(entries: &[BlockEntry]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(entries.len() * ENTRY_BYTES);
    for entry in entries {
        entry.put(&mut raw);
    }
    raw
}
