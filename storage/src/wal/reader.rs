//! Reading the log by sequence within the process that writes it, and checking sealed segments in the background.

use std::path::PathBuf;
use std::sync::Arc;

use matchtape_schemas::Sequence;

use super::config::WalConfig;
use super::error::{Damage, WalError};
use super::frames::WalFrames;
use super::scan::{Block, First, SegmentScan, Stop, read_header};
use super::segment::SegmentNumber;
use super::segments::{Sealed, SegmentInfo, Segments};
use super::tally::Tally;
use crate::disk::{Access, Caching, Disk};

/// Reads frames by sequence. Cheap to clone; any number may read while the writer writes.
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

    /// The file of a segment.
    pub(crate) fn path(&self, segment: SegmentNumber) -> PathBuf {
        segment.path(&self.config.directory)
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

    /// Reads a whole sealed segment and compares it with its footer: every checksum, the chain, every sum, the root.
    pub fn verify(&self, segment: &SegmentInfo) -> Result<Sealed, WalError> {
        let Some(sealed) = segment.sealed else {
            return Err(WalError::Rule("only sealed segments can be verified"));
        };
        let path = self.path(segment.number);
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
            First::Spare => {
                let found = "a segment that was not begun".into();
                return Err(corrupt(place(0, "segment header", "a header".into(), found)));
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
