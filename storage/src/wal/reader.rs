//! Reading the log by sequence within the process that writes it, and checking sealed segments in the background.

use std::sync::Arc;

use matchtape_schemas::Sequence;
use matchtape_schemas::frame::{FRAME_HEADER_BYTES, Frame, FrameHeader};

use super::config::WalConfig;
use super::error::{Damage, WalError};
use super::frames::{FramePlace, WalFrames};
use super::scan::{Block, First, SegmentScan, Stop, read_header};
use super::segment::SegmentNumber;
use super::segments::{Sealed, SegmentInfo, Segments};
use super::tally::Tally;
use crate::disk::{Access, AlignedBytes, BLOCK_BYTES, Caching, Disk};

/// Reads frames by sequence or by place. Cheap to clone; any number may read while the writer writes.
#[derive(Clone, Debug)]
pub struct WalReader {
    disk: Arc<dyn Disk>,
    config: WalConfig,
    segments: Segments,
}

impl WalReader {
    /// A reader of the log that `open` opened with this configuration.
    pub fn new(disk: Arc<dyn Disk>, config: WalConfig, segments: Segments) -> Self {
        Self { disk, config, segments }
    }

    /// The log's segments.
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// Frames from the one that holds `from` to the one that holds `through`. The caller vouches that every event up to
    /// `through` was written: whatever is missing there is corruption.
    pub fn frames(&self, from: Sequence, through: Sequence) -> Result<WalFrames, WalError> {
        let from = from.max(Sequence::FIRST);
        let Some(segment) = self.segments.holding(from) else {
            let first_kept = self.segments.first_sequence().unwrap_or(Sequence::FIRST);
            return Err(WalError::BelowRetention { asked: from, first_kept });
        };
        WalFrames::open(Arc::clone(&self.disk), self.config.clone(), segment.number, from, through)
    }

    /// Opens one segment for [`SegmentFile::frame`].
    pub fn segment_file(&self, number: SegmentNumber) -> Result<SegmentFile, WalError> {
        let path = number.path(&self.config.directory);
        Ok(SegmentFile { file: self.disk.open(&path, Access::Read, Caching::Buffered)? })
    }

    /// Reads a whole sealed segment and compares it with its footer: every checksum, the chain, every sum, the root.
    pub fn verify(&self, segment: &SegmentInfo) -> Result<Sealed, WalError> {
        let Some(sealed) = segment.sealed else {
            return Err(WalError::Rule("only sealed segments can be verified"));
        };
        let path = segment.number.path(&self.config.directory);
        let file = self.disk.open(&path, Access::Read, Caching::Buffered)?;
        let because = || "the segment is sealed".to_owned();
        let corrupt = |damage| WalError::Corrupt { damage, because: because() };
        let place = |offset, part, expected: String, found: String| Damage {
            file: path.clone(),
            offset,
            part,
            expected,
            found,
        };
        let header = match read_header(&file, segment.number, &self.config)? {
            First::Header(header) => header,
            First::Damaged(damage) => return Err(corrupt(damage)),
            First::Zero | First::Spare => {
                return Err(corrupt(place(0, "segment header", "a header".into(), "zeros".into())));
            }
        };
        let mut scan = SegmentScan::new(Arc::clone(&file), header);
        let mut tally = Tally::new();
        let footer = loop {
            match scan.next_block() {
                Ok(Block::Commit(_)) => tally.add_commit(scan.accepted_frames()),
                Ok(Block::Footer(footer)) => break footer,
                Ok(Block::Nothing) => {
                    return Err(corrupt(place(scan.at, "block", "a footer".into(), "zeros".into())));
                }
                Err(Stop::Error(error)) => return Err(error),
                Err(Stop::Damage(damage)) => return Err(corrupt(damage)),
            }
        };
        let (totals, root) = tally.finish();
        let file_bytes = file.len_bytes()?;
        let found = Sealed { ends: footer.head, totals, root, file_bytes };
        if found != sealed || (totals, root) != (footer.totals, footer.root) {
            return Err(corrupt(place(
                scan.at,
                "footer's sums",
                format!("{sealed:?}"),
                format!("{found:?}"),
            )));
        }
        Ok(found)
    }
}

/// One segment, open for random access.
#[derive(Debug)]
pub struct SegmentFile {
    file: Arc<dyn crate::disk::DiskFile>,
}

impl SegmentFile {
    /// Reads and checks the frame at `offset` into `memory`, which must hold [`FRAME_BYTES_MAX`] bytes.
    ///
    /// [`FRAME_BYTES_MAX`]: matchtape_schemas::limits::FRAME_BYTES_MAX
    pub fn frame<'a>(&self, place: FramePlace, memory: &'a mut AlignedBytes) -> Result<Frame<'a>, WalError> {
        let corrupt = |expected: &str, found: String| WalError::Corrupt {
            damage: Damage {
                file: self.file.path().to_path_buf(),
                offset: place.offset,
                part: "frame",
                expected: expected.to_owned(),
                found,
            },
            because: "an index points there".to_owned(),
        };
        // One read covers most frames; a longer one takes a second.
        let guess = BLOCK_BYTES.min(memory.len());
        let mut filled = self.file.read_at(&mut memory[..guess], place.offset)?;
        let header = FrameHeader::peek(&memory[..filled.max(FRAME_HEADER_BYTES).min(memory.len())])
            .map_err(|error| corrupt("a frame header", error.to_string()))?;
        let length = header.length as usize;
        if length > memory.len() {
            return Err(corrupt("a frame that fits", format!("{length} bytes")));
        }
        if filled < length {
            filled += self.file.read_at(&mut memory[filled..length], place.offset + filled as u64)?;
        }
        Frame::decode(&memory[..filled.min(length)]).map_err(|error| corrupt("a frame", error.to_string()))
    }
}
