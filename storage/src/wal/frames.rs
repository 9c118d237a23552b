//! Frames in order, from a sequence to a bound that the caller vouches for, across segments.
//!
//! Every frame handed out was checked, where it lies, in its chain. A place at or below the bound that does not check is
//! corruption: someone knows that it had been durable.

use std::path::PathBuf;
use std::sync::Arc;

use matchtape_schemas::{Frame, Sequence};

use super::config::WalConfig;
use super::error::{Damage, WalError};
use super::recovery::check_link;
use super::scan::{Block, First, SegmentScan, Stop, read_header};
use super::segment::{Footer, SegmentNumber};
use crate::disk::{Access, Caching, Disk};

/// Where a frame lies in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FramePlace {
    /// The segment.
    pub segment: SegmentNumber,
    /// The frame's first byte in the segment's file.
    pub offset: u64,
}

/// A checked frame and where it lies in the log.
#[derive(Clone, Copy, Debug)]
pub struct WalFrame<'a> {
    /// The frame.
    pub frame: Frame<'a>,
    /// Its place.
    pub place: FramePlace,
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
        let file = disk.open(&path, Access::Read, Caching::Buffered)?;
        let header = match read_header(&file, segment, &config)? {
            First::Header(header) => header,
            First::Zero => {
                let (expected, found) = ("a header".to_owned(), "zeros".to_owned());
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
    pub fn next_frame(&mut self) -> Result<Option<WalFrame<'_>>, WalError> {
        loop {
            if let Some(place) = self.next_place() {
                return Ok(Some(WalFrame { frame: self.scan.frame_at(place.offset), place }));
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
    fn next_place(&mut self) -> Option<FramePlace> {
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
                return Some(FramePlace { segment: self.scan.header.number, offset });
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
            Ok(Block::Nothing) => Err(self.missing("zeros")),
            Err(Stop::Error(error)) => Err(error),
            Err(Stop::Damage(damage)) => Err(self.corrupt(damage)),
        }
    }

    fn next_segment(&mut self, footer: Footer) -> Result<bool, WalError> {
        let number = self.scan.header.number.next();
        let path = number.path(&self.config.directory);
        let file = match self.disk.open(&path, Access::Read, Caching::Buffered) {
            Ok(file) => file,
            Err(error) if error.is_missing() => {
                return Err(WalError::MissingSegment { file: path, next: number.0 });
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
            First::Zero => Err(self.missing("a segment that was not begun")),
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
