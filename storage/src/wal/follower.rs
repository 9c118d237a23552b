//! Reading a log that another process is writing: no lock, no repair, no write.
//!
//! Serves only what the log itself proves to be durable: up to the greatest `durable_through` of any block, or the end of
//! a sealed segment. Both are group ends. [`WalFollower::refresh`] looks whether there is more by now.
//!
//! ```text
//!   ... | commit | commit | commit | (not written yet)
//!                ^ serve  ^ probe: the first block that is not proven; looked at again on every refresh, because a
//!                           writer that recovers may replace blocks that nobody was promised
//! ```

use std::path::Path;
use std::sync::Arc;

use matchtape_schemas::{Frame, Sequence, TapeId};

use super::block::CommitHeader;
use super::bytes::is_zero;
use super::config::WalConfig;
use super::error::{Damage, WalError};
use super::frames::{WalFrames, gone, is_still};
use super::recovery::{check_dense, check_link, life};
use super::scan::{First, Stop, bears_id, find_proof, read_footer, read_header};
use super::segment::{
    ClusterId, FOOTER_MAGIC, Footer, SEGMENT_START, SegmentHeader, SegmentId, SegmentNumber,
};
use super::segments::{Sealed, SegmentInfo};
use crate::disk::{Access, AlignedBytes, BLOCK_BYTES, Caching, Disk, DiskError, DiskFile, EntryKind};

/// So often the directory is listed before a hole is believed.
const LISTS_MAX: u32 = 3;

/// The identity of a log, as its oldest segment states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalIdentity {
    /// The deployment.
    pub cluster: ClusterId,
    /// The tape.
    pub tape: TapeId,
}

/// Reads whose log lies in `directory`; `None` if there is none, or none was begun.
pub fn identify(disk: &dyn Disk, directory: &Path) -> Result<Option<WalIdentity>, WalError> {
    let numbers = match segment_numbers(disk, directory) {
        Ok(numbers) => numbers,
        Err(WalError::Disk(error)) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut block = AlignedBytes::zeroed(BLOCK_BYTES);
    for number in numbers {
        let file = disk.open(&number.path(directory), Access::Read, Caching::Buffered)?;
        let read = file.read_at(&mut block, 0)?;
        if let Ok(header) = SegmentHeader::decode(&block[..read]) {
            return Ok(Some(WalIdentity { cluster: header.cluster, tape: header.head.tape }));
        }
    }
    Ok(None)
}

fn segment_numbers(disk: &dyn Disk, directory: &Path) -> Result<Vec<SegmentNumber>, WalError> {
    let list = || {
        let entries = disk.list(directory)?;
        let files = entries.iter().filter(|entry| entry.kind == EntryKind::File);
        let mut numbers: Vec<SegmentNumber> =
            files.filter_map(|entry| SegmentNumber::from_name(&entry.name)).collect();
        numbers.sort_unstable();
        check_dense(directory, &numbers).map(|()| numbers)
    };
    // A list is not made in one moment: of segments that the writer lets go of meanwhile it may have the older and not the newer.
    for _ in 1..LISTS_MAX {
        match list() {
            Err(WalError::MissingSegment { .. }) => {}
            listed => return listed,
        }
    }
    list()
}

/// The first event the log holds; `None` if no segment was begun.
pub(super) fn first_kept(disk: &dyn Disk, config: &WalConfig) -> Result<Option<Sequence>, WalError> {
    for number in segment_numbers(disk, &config.directory)? {
        let file = match disk.open(&number.path(&config.directory), Access::Read, Caching::Buffered) {
            Err(error) if error.is_missing() => continue,
            opened => opened?,
        };
        if let First::Header(header) = read_header(&file, number, config)? {
            return Ok(Some(header.head.last_sequence.next()));
        }
    }
    Ok(None)
}

/// What [`sealed`] finds.
#[derive(Debug, Default)]
pub(crate) struct SealedSegments {
    /// Those whose header and footer check, oldest first.
    pub list: Vec<SegmentInfo>,
    /// The one that grows, if one was begun.
    pub open: Option<SegmentInfo>,
    /// What is wrong with others, or between them.
    pub damage: Vec<WalError>,
}

/// The sealed segments of a log that another process may be writing, by their headers and footers, and by their links: each has to
/// be the one that the next states to follow. One that is sealed, or released, meanwhile may be missing.
pub(crate) fn sealed(disk: &dyn Disk, config: &WalConfig) -> Result<SealedSegments, WalError> {
    let mut found = SealedSegments::default();
    let numbers = match segment_numbers(disk, &config.directory) {
        Err(WalError::Disk(error)) if error.is_missing() => return Ok(found),
        listed => listed?,
    };
    // One whose footer is not there: the open one, unless a later one was begun.
    let mut unsealed: Option<(Arc<dyn DiskFile>, SegmentHeader)> = None;
    // Those that are being begun, likewise.
    let mut headless: Vec<Headless> = Vec::new();
    let mut before: Option<(SegmentHeader, Footer)> = None;
    let corrupt = |damage| WalError::Corrupt { damage, because: "a later segment was begun".to_owned() };
    for number in numbers {
        let file = match disk.open(&number.path(&config.directory), Access::Read, Caching::Buffered) {
            Err(error) if error.is_missing() => continue,
            opened => opened?,
        };
        let header = match read_header(&file, number, config)? {
            First::Header(header) => header,
            First::Spare => continue,
            First::Damaged(damage) => {
                headless.push(Headless { number, file, damage });
                continue;
            }
        };
        for Headless { number, damage, .. } in headless.drain(..) {
            if is_there(disk, config, number)? {
                found.damage.push(corrupt(damage));
            }
        }
        if let Some((file, header)) = unsealed.take() {
            // Sealed since the look at it, then; or recycled.
            match read_footer(&file, &header)? {
                Ok(footer) => before = Some(found.add(&file, header, footer)?),
                Err(Stop::Damage(damage)) if is_still(&file, &header)? => found.damage.push(corrupt(damage)),
                Err(Stop::Damage(_)) => {}
                Err(Stop::Error(error)) => return Err(error),
            }
        }
        if let Some((sealed, footer)) = before.filter(|(sealed, _)| sealed.number.next() == number) {
            found.damage.extend(check_link(config, footer, &sealed, &header).err());
        }
        match read_footer(&file, &header)? {
            Ok(footer) => before = Some(found.add(&file, header, footer)?),
            Err(Stop::Damage(_)) => unsealed = Some((file, header)),
            Err(Stop::Error(error)) => return Err(error),
        }
    }
    for headless in &headless {
        found.damage.extend(headless.check_never_begun(disk, config).err());
    }
    found.open = unsealed.map(|(_, header)| SegmentInfo {
        number: header.number,
        id: header.id,
        begins: header.head,
        sealed: None,
    });
    Ok(found)
}

/// A segment without a good header.
struct Headless {
    number: SegmentNumber,
    file: Arc<dyn DiskFile>,
    damage: Damage,
}

impl Headless {
    /// As the newest it is one that is being begun, but only if there is nothing behind the header, as for a writer that opens it.
    fn check_never_begun(&self, disk: &dyn Disk, config: &WalConfig) -> Result<(), WalError> {
        let rest = find_proof(&self.file, (SegmentId([0; 16]), false), 0, Sequence::MAX)?;
        let Some(offset) = rest.stale.iter().find(|offset| **offset >= SEGMENT_START) else { return Ok(()) };
        // Begun since the look at the header, then.
        match read_header(&self.file, self.number, config)? {
            First::Damaged(damage) if is_there(disk, config, self.number)? => {
                let because = format!("something was written behind the header, at byte {offset}");
                Err(WalError::Corrupt { damage, because })
            }
            First::Damaged(_) | First::Header(_) | First::Spare => Ok(()),
        }
    }
}

/// Whether the log still holds a sealed segment; otherwise its file is gone, or another's by now.
pub(crate) fn is_held(disk: &dyn Disk, config: &WalConfig, segment: &SegmentInfo) -> Result<bool, WalError> {
    let file = match disk.open(&segment.number.path(&config.directory), Access::Read, Caching::Buffered) {
        Err(error) if error.is_missing() => return Ok(false),
        opened => opened?,
    };
    Ok(match read_header(&file, segment.number, config)? {
        First::Header(header) => header.id == segment.id,
        First::Spare => false,
        First::Damaged(_) => true,
    })
}

/// Whether a segment still has its name: otherwise its file may be another's by now.
fn is_there(disk: &dyn Disk, config: &WalConfig, number: SegmentNumber) -> Result<bool, DiskError> {
    match disk.open(&number.path(&config.directory), Access::Read, Caching::Buffered) {
        Err(error) if error.is_missing() => Ok(false),
        opened => opened.map(|_| true),
    }
}

impl SealedSegments {
    fn add(
        &mut self,
        file: &Arc<dyn DiskFile>,
        header: SegmentHeader,
        footer: Footer,
    ) -> Result<(SegmentHeader, Footer), DiskError> {
        let Footer { head: ends, totals, root, .. } = footer;
        let sealed = Some(Sealed { ends, totals, root, file_bytes: file.len_bytes()? });
        self.list.push(SegmentInfo { number: header.number, id: header.id, begins: header.head, sealed });
        Ok((header, footer))
    }
}

/// Follows a log from a sequence on.
#[derive(Debug)]
pub struct WalFollower {
    disk: Arc<dyn Disk>,
    config: WalConfig,
    frames: WalFrames,
    probe: Probe,
    first_kept: Sequence,
}

/// The first place that is not proven.
#[derive(Debug)]
struct Probe {
    file: Arc<dyn DiskFile>,
    header: SegmentHeader,
    at: u64,
    commits: u64,
    /// The sequence expected at `at`.
    next: Sequence,
    through: Sequence,
}

impl WalFollower {
    /// Opens the log below `config.directory` for reading from the frame that holds `from` (at least 1). `None` if no
    /// segment was begun yet.
    pub fn open(disk: Arc<dyn Disk>, config: WalConfig, from: Sequence) -> Result<Option<Self>, WalError> {
        let from = from.max(Sequence::FIRST);
        let mut start = None;
        let mut last = None;
        let mut first_kept = None;
        let mut before: Option<Headless> = None;
        let mut behind: Vec<Headless> = Vec::new();
        for number in segment_numbers(&*disk, &config.directory)? {
            let path = number.path(&config.directory);
            let file = match disk.open(&path, Access::Read, Caching::Buffered) {
                Ok(file) => file,
                // Retention took it since the directory was listed.
                Err(error) if error.is_missing() && last.is_none() => continue,
                Err(error) => return Err(error.into()),
            };
            match read_header(&file, number, &config)? {
                First::Header(header) => {
                    let begins = header.head.last_sequence.next();
                    first_kept.get_or_insert(begins);
                    if begins <= from {
                        start = Some(number);
                    }
                    last = Some((file, header));
                    // Damage before the newest segment shows when a frame is read.
                    before = behind.drain(..).next_back().or(before);
                }
                // Prepared.
                First::Spare => {}
                First::Damaged(damage) => behind.push(Headless { number, file, damage }),
            }
        }
        for headless in &behind {
            headless.check_never_begun(&*disk, &config)?;
        }
        let (Some((file, header)), Some(first_kept)) = (last, first_kept) else { return Ok(None) };
        let Some(start) = start else {
            // It would be in one that cannot be read, unless that one was let go of.
            if let Some(Headless { number, damage, .. }) = before
                && is_there(&*disk, &config, number)?
            {
                return Err(WalError::Corrupt { damage, because: "a later segment was begun".to_owned() });
            }
            return Err(WalError::BelowRetention { asked: from, first_kept });
        };
        let through = header.head.last_sequence;
        let probe = Probe { file, header, at: SEGMENT_START, commits: 0, next: through.next(), through };
        let frames = WalFrames::open(Arc::clone(&disk), config.clone(), start, from, through)?;
        let mut follower = Self { disk, config, frames, probe, first_kept };
        follower.advance(Thoroughness::AlsoBehindTheEnd)?;
        Ok(Some(follower))
    }

    /// The last event that is provably durable. Always the end of a group.
    pub fn through(&self) -> Sequence {
        self.probe.through
    }

    /// The first event the log held when it was opened.
    pub fn first_kept(&self) -> Sequence {
        self.first_kept
    }

    /// Looks how far the log proves itself durable by now; returns [`WalFollower::through`].
    pub fn refresh(&mut self) -> Result<Sequence, WalError> {
        self.advance(Thoroughness::WhereNothingIsWritten)
    }

    fn advance(&mut self, thoroughness: Thoroughness) -> Result<Sequence, WalError> {
        loop {
            match self.probe.advance()? {
                ProbeEnd::Footer => {
                    if !self.next_segment()? {
                        break;
                    }
                }
                ProbeEnd::Nothing { .. } | ProbeEnd::Refused { .. }
                    if !is_still(&self.probe.file, &self.probe.header)? =>
                {
                    let (next, number) = (self.probe.through.next(), self.probe.header.number);
                    return Err(gone(&*self.disk, &self.config, next, number));
                }
                ProbeEnd::Nothing { .. } if thoroughness == Thoroughness::WhereNothingIsWritten => break,
                ProbeEnd::Nothing { at } | ProbeEnd::Refused { at } => {
                    if !self.moved_on_from(at)? {
                        break;
                    }
                }
            }
        }
        self.frames.raise(self.probe.through);
        Ok(self.probe.through)
    }

    fn next_segment(&mut self) -> Result<bool, WalError> {
        let number = self.probe.header.number.next();
        let path = number.path(&self.config.directory);
        let file = match self.disk.open(&path, Access::Read, Caching::Buffered) {
            Ok(file) => file,
            // Not prepared yet; or begun, sealed and released since the last look.
            Err(error) if error.is_missing() => {
                return match gone(&*self.disk, &self.config, self.probe.through.next(), number) {
                    WalError::MissingSegment { .. } => Ok(false),
                    error => Err(error),
                };
            }
            Err(error) => return Err(error.into()),
        };
        let header = match read_header(&file, number, &self.config)? {
            First::Header(header) => header,
            First::Spare => return Ok(false),
            First::Damaged(damage) => {
                let headless = Headless { number, file, damage };
                return headless.check_never_begun(&*self.disk, &self.config).map(|()| false);
            }
        };
        let through = header.head.last_sequence;
        self.probe = Probe { file, header, at: SEGMENT_START, commits: 0, next: through.next(), through };
        Ok(true)
    }

    /// The probe stopped at `at`. Usually nothing was written there yet, or is just being written; `false` then. But if
    /// something behind it proves it, either the writer has meanwhile gone past it, or it is damaged.
    fn moved_on_from(&mut self, at: u64) -> Result<bool, WalError> {
        let next = self.probe.stopped_before(at)?;
        let rest = find_proof(&self.probe.file, life(&self.probe.header), at, next)?;
        let Some(because) = rest.proof else { return Ok(false) };
        match self.probe.advance()? {
            ProbeEnd::Footer => Ok(true),
            ProbeEnd::Nothing { at: again } | ProbeEnd::Refused { at: again } if again != at => Ok(true),
            ProbeEnd::Nothing { .. } | ProbeEnd::Refused { .. } => {
                let damage = Damage {
                    file: self.probe.file.path().to_path_buf(),
                    offset: at,
                    part: "commit",
                    expected: format!("the commit of sequence {next}"),
                    found: "something else".to_owned(),
                };
                Err(WalError::Corrupt { damage, because })
            }
        }
    }

    /// The next frame that is provably durable; `None` when there is none by the last refresh.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, WalError> {
        self.frames.next_frame()
    }
}

/// How much a look at the end of the log may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thoroughness {
    /// Also the zeros behind the end are read, once, when the log is opened: a commit could have been zeroed.
    AlsoBehindTheEnd,
    /// Zeros are taken for the end.
    WhereNothingIsWritten,
}

/// Where hopping from header to header ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProbeEnd {
    Footer,
    Nothing { at: u64 },
    Refused { at: u64 },
}

impl Probe {
    fn advance(&mut self) -> Result<ProbeEnd, WalError> {
        let (end, seen) = self.hop()?;
        for block in seen {
            if block.last_sequence > self.through {
                break;
            }
            (self.at, self.commits, self.next) = (block.end, block.number, block.last_sequence.next());
        }
        Ok(end)
    }

    /// The sequence expected at the place where hopping stops.
    fn stopped_before(&self, at: u64) -> Result<Sequence, WalError> {
        let mut probe = Self {
            file: Arc::clone(&self.file),
            at: self.at,
            commits: self.commits,
            next: self.next,
            header: self.header,
            through: self.through,
        };
        let (_, seen) = probe.hop()?;
        let last = seen.iter().rev().find(|block| block.end <= at);
        Ok(last.map_or(self.next, |block| block.last_sequence.next()))
    }

    /// Raises `through` by what the headers state; returns the blocks seen, oldest first.
    fn hop(&mut self) -> Result<(ProbeEnd, Vec<Seen>), WalError> {
        let mut block = AlignedBytes::zeroed(BLOCK_BYTES);
        let (mut at, mut commits) = (self.at, self.commits);
        let mut seen = Vec::new();
        loop {
            let read = self.file.read_at(&mut block, at)?;
            let foreign = self.header.recycled && !bears_id(&block, self.header.id);
            if read < BLOCK_BYTES || is_zero(&block) || foreign {
                return Ok((ProbeEnd::Nothing { at }, seen));
            }
            if block[..8] == FOOTER_MAGIC
                && let Ok(footer) = Footer::decode(&block)
                && footer.id == self.header.id
            {
                self.through = self.through.max(footer.head.last_sequence);
                return Ok((ProbeEnd::Footer, seen));
            }
            let commit = match CommitHeader::decode(&block) {
                Ok(commit) if commit.segment_id == self.header.id && commit.commit_number == commits + 1 => {
                    commit
                }
                Ok(_) | Err(_) => return Ok((ProbeEnd::Refused { at }, seen)),
            };
            self.through = self.through.max(commit.durable_through);
            at += commit.total_bytes();
            commits += 1;
            seen.push(Seen { last_sequence: commit.last_sequence, end: at, number: commits });
        }
    }
}

/// A block that the probe has passed.
struct Seen {
    last_sequence: Sequence,
    end: u64,
    number: u64,
}
