//! Frames in order, from a sequence to a bound that the caller vouches for, across segments.
//!
//! Every frame handed out was checked, where it lies, in its chain. A place at or below the bound that does not check is
//! corruption: someone knows that it had been durable.

use std::path::PathBuf;
use std::sync::Arc;

use matchtape_schemas::{Frame, Sequence};

use super::config::WalConfig;
use super::error::{Damage, WalError};
use super::follower::first_kept;
use super::recovery::check_link;
use super::scan::{Block, First, SegmentScan, Stop, read_header};
use super::segment::{Footer, SegmentHeader, SegmentNumber};
use crate::disk::{Access, AlignedBytes, BLOCK_BYTES, Caching, Disk, DiskError, DiskFile};

/// Whether the file still is the segment of this header: a released one's may have become another. What was read before
/// is that segment's then, because whoever uses a file again writes its first block first.
pub(super) fn is_still(file: &Arc<dyn DiskFile>, header: &SegmentHeader) -> Result<bool, DiskError> {
    let mut block = AlignedBytes::zeroed(BLOCK_BYTES);
    let read = file.read_at(&mut block, 0)?;
    Ok(SegmentHeader::decode(&block[..read]).is_ok_and(|found| found.id == header.id))
}

/// The error for a segment that is not there: it was released, or lost.
pub(super) fn gone(disk: &dyn Disk, config: &WalConfig, asked: Sequence, number: SegmentNumber) -> WalError {
    match first_kept(disk, config) {
        Err(error) => error,
        Ok(Some(first_kept)) if asked < first_kept => WalError::BelowRetention { asked, first_kept },
        Ok(_) => WalError::MissingSegment { file: number.path(&config.directory), next: number.0 },
    }
}

/// Frames of the log, in order. Not an `Iterator`: each frame borrows the reader's window.
#[derive(Debug)]
pub struct WalFrames {
    disk: Arc<dyn Disk>,
    config: WalConfig,
    scan: SegmentScan,
    /// Known once the scan has come to the end of a sealed segment.
    footer: Option<Footer>,
    /// The next frame's place in the accepted commit.
    next: u64,
    from: Sequence,
    through: Sequence,
}

impl WalFrames {
    /// From the frame that holds `from` to the one that holds `through`. `segment` is one that begins at or before
    /// `from`, best the last such.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        config: WalConfig,
        segment: SegmentNumber,
        from: Sequence,
        through: Sequence,
    ) -> Result<Self, WalError> {
        let path = segment.path(&config.directory);
        let file = match disk.open(&path, Access::Read, Caching::Buffered) {
            Err(error) if error.is_missing() => return Err(gone(&*disk, &config, from, segment)),
            opened => opened?,
        };
        let header = match read_header(&file, segment, &config)? {
            First::Header(header) => header,
            First::Spare => {
                let (expected, found) = ("a header".to_owned(), "a segment that was not begun".to_owned());
                let damage = Damage { file: path, offset: 0, part: "segment header", expected, found };
                return Err(WalError::Corrupt { damage, because: "the segment was begun".to_owned() });
            }
            First::Damaged(damage) => {
                return Err(WalError::Corrupt { damage, because: "the segment was begun".to_owned() });
            }
        };
        let mut scan = SegmentScan::new(file, header);
        scan.pass(from)?;
        Ok(Self { disk, config, scan, footer: None, next: 0, from, through })
    }

    /// The bound: frames that end behind it are not handed out.
    pub fn through(&self) -> Sequence {
        self.through
    }

    /// Raises the bound.
    pub(super) fn raise(&mut self, through: Sequence) {
        if through > self.through {
            self.through = through;
            self.scan.look_again();
        }
    }

    /// The next frame, or `None` at the bound.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, WalError> {
        loop {
            if let Some(place) = self.next_place() {
                return Ok(Some(self.scan.frame_at(place)));
            }
            if self.scan.head.last_sequence >= self.through {
                return Ok(None);
            }
            if !self.next_commit()? {
                return Ok(None);
            }
        }
    }

    /// The place of the next wanted frame of the accepted commit.
    fn next_place(&mut self) -> Option<u64> {
        loop {
            let accepted = self.scan.accepted();
            if !accepted.contains(&self.next) {
                return None;
            }
            let offset = self.next;
            let header = *self.scan.frame_at(offset).header();
            if header.first_sequence > self.through {
                return None;
            }
            self.next += u64::from(header.length);
            if header.last_sequence() >= self.from {
                return Some(offset);
            }
        }
    }

    /// Moves to the next commit, if need be in the next segment; `false` where there is none yet.
    fn next_commit(&mut self) -> Result<bool, WalError> {
        if let Some(footer) = self.footer {
            return self.next_segment(footer);
        }
        match self.scan.next_block() {
            Ok(Block::Commit(_)) => {
                self.next = self.scan.accepted().start;
                Ok(true)
            }
            Ok(Block::Footer(footer)) => {
                self.footer = Some(footer);
                self.next_segment(footer)
            }
            Ok(Block::Nothing) => Err(self.refuse(self.missing("zeros"))),
            Err(Stop::Error(error)) => Err(self.refuse(error)),
            Err(Stop::Damage(damage)) => Err(self.refuse(self.corrupt(damage))),
        }
    }

    /// What does not check in a file that became another segment meanwhile is no damage: the events were let go of.
    fn refuse(&self, error: WalError) -> WalError {
        match is_still(self.scan.file(), &self.scan.header) {
            Ok(true) => error,
            Ok(false) => {
                let next = self.scan.head.last_sequence.next();
                gone(&*self.disk, &self.config, next, self.scan.header.number)
            }
            Err(error) => error.into(),
        }
    }

    fn next_segment(&mut self, footer: Footer) -> Result<bool, WalError> {
        let number = self.scan.header.number.next();
        let path = number.path(&self.config.directory);
        let file = match self.disk.open(&path, Access::Read, Caching::Buffered) {
            Ok(file) => file,
            Err(error) if error.is_missing() => {
                return Err(gone(&*self.disk, &self.config, footer.head.last_sequence.next(), number));
            }
            Err(error) => return Err(error.into()),
        };
        match read_header(&file, number, &self.config)? {
            First::Header(header) => {
                check_link(&self.config, footer, &self.scan.header, &header)?;
                self.scan = SegmentScan::new(file, header);
                self.footer = None;
                Ok(true)
            }
            First::Spare => Err(self.missing("a segment that was not begun")),
            First::Damaged(damage) => Err(self.corrupt(damage)),
        }
    }

    fn missing(&self, found: &str) -> WalError {
        let damage = Damage {
            file: PathBuf::from(self.scan.file().path()),
            offset: self.scan.at,
            part: "commit",
            expected: format!("the commit of sequence {}", self.scan.head.last_sequence.next()),
            found: found.to_owned(),
        };
        self.corrupt(damage)
    }

    fn corrupt(&self, damage: Damage) -> WalError {
        WalError::Corrupt { damage, because: format!("sequence {} is known to be durable", self.through) }
    }
}
