//! Reads one segment block by block and checks everything: headers, padding, frames, density, the chain.
//!
//! It only says what is there. Whether a place that does not check is a torn tail or corruption is decided in
//! `recovery.rs`, from [`find_proof`].

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use matchtape_schemas::{Frame, FrameFlags, Head, Sequence};

use super::block::{COMMIT_HEADER_BYTES, COMMIT_MAGIC, COMMIT_VERSION, CommitHeader, NotACommit, hex};
use super::bytes::{checksums, is_zero, u16_at};
use super::config::WalConfig;
use super::error::{Damage, WalError};
use super::segment::{
    FOOTER_MAGIC, Footer, SEAL_BYTES, SEGMENT_START, SealError, SegmentHeader, SegmentId, SegmentNumber,
    SpareMark,
};
use crate::disk::{Access, AlignedBytes, BLOCK_BYTES, Caching, Disk, DiskError, DiskFile};
use crate::limits::COMMIT_BYTES_MAX;

/// Bytes read at once. Large enough for the device, small enough for the cache.
const WINDOW_BYTES: usize = 1 << 20;

/// Likewise where nothing is expected: as fast as the device goes.
const TRACE_BYTES: usize = 4 << 20;

/// A window over a file, read forwards in large aligned pieces.
#[derive(Debug)]
pub(super) struct Window {
    file: Arc<dyn DiskFile>,
    memory: AlignedBytes,
    start: u64,
    filled: usize,
}

impl Window {
    pub(super) fn new(file: Arc<dyn DiskFile>) -> Self {
        Self { file, memory: AlignedBytes::zeroed(BLOCK_BYTES), start: 0, filled: 0 }
    }

    /// Forgets what was read from `at` on: the file may have changed there.
    fn forget_from(&mut self, at: u64) {
        let keep = usize::try_from(at.saturating_sub(self.start)).unwrap_or(usize::MAX);
        self.filled = self.filled.min(keep);
    }

    /// The bytes from `at`, a multiple of [`BLOCK_BYTES`]: `wanted` of them, or fewer where the file ends.
    pub(super) fn get(&mut self, at: u64, wanted: usize) -> Result<&[u8], DiskError> {
        assert!(at.is_multiple_of(BLOCK_BYTES as u64), "windows start at blocks");
        let inside = at >= self.start && at + wanted as u64 <= self.start + self.filled as u64;
        if !inside {
            self.refill(at, wanted)?;
        }
        let from = usize::try_from(at - self.start).expect("inside the window");
        let until = self.filled.min(from + wanted);
        Ok(&self.memory[from.min(until)..until])
    }

    fn refill(&mut self, at: u64, wanted: usize) -> Result<(), DiskError> {
        let wanted = wanted.next_multiple_of(BLOCK_BYTES);
        let end = self.start + self.filled as u64;
        // What the window already holds of the range moves to its front instead of being read again.
        let keep = if at >= self.start && at < end { usize::try_from(end - at).expect("inside") } else { 0 };
        let keep = keep / BLOCK_BYTES * BLOCK_BYTES;
        let from = if keep > 0 { usize::try_from(at - self.start).expect("inside") } else { 0 };
        let capacity = self.capacity_for(at, wanted)?;
        if capacity > self.memory.len() {
            let mut larger = AlignedBytes::zeroed(capacity);
            larger[..keep].copy_from_slice(&self.memory[from..from + keep]);
            self.memory = larger;
        } else {
            self.memory.copy_within(from..from + keep, 0);
        }
        self.start = at;
        self.filled = keep;
        let read = self.file.read_at(&mut self.memory[keep..], at + keep as u64)?;
        self.filled = keep + read;
        Ok(())
    }

    /// As much as is read at once, but not more than the file has: segments may be small.
    fn capacity_for(&self, at: u64, wanted: usize) -> Result<usize, DiskError> {
        if self.memory.len() >= wanted.max(WINDOW_BYTES) {
            return Ok(self.memory.len());
        }
        let left = usize::try_from(self.file.len_bytes()?.saturating_sub(at)).unwrap_or(usize::MAX);
        Ok(wanted.max(left.min(WINDOW_BYTES).next_multiple_of(BLOCK_BYTES)))
    }
}

/// What stands at the next place for a block.
#[derive(Clone, Copy, Debug)]
pub(super) enum Block {
    /// A commit that checks in every byte.
    Commit(CommitHeader),
    /// The footer of a sealed segment.
    Footer(Footer),
    /// Zeros, the end of the file, or what an earlier life of a recycled file left: nothing was written here yet.
    Nothing,
}

/// Why the scan cannot go on at this place.
#[derive(Debug)]
pub(super) enum Stop {
    /// The bytes are not what a writer leaves there: torn, or damaged.
    Damage(Damage),
    /// A reason that is neither.
    Error(WalError),
}

impl From<DiskError> for Stop {
    fn from(error: DiskError) -> Self {
        Self::Error(error.into())
    }
}

/// A scan of one segment.
#[derive(Debug)]
pub(super) struct SegmentScan {
    window: Window,
    path: PathBuf,
    pub(super) header: SegmentHeader,
    /// Where the next block is expected.
    pub(super) at: u64,
    /// Commits accepted so far.
    pub(super) commits: u64,
    /// Where the tape stands after the last accepted frame.
    pub(super) head: Head,
    /// Whether the last accepted frame leaves its group open.
    pub(super) open_group: bool,
    /// Whether the last accepted frame ends the segment.
    pub(super) ended: bool,
    /// The greatest `durable_through` of an accepted block.
    pub(super) proven: Sequence,
    /// Where the frames of the last accepted commit lie in the file; the window holds them.
    accepted: Range<u64>,
    /// Some commits were passed by their headers alone, so `head` may lag behind in all but position and checksum.
    skipped: bool,
}

impl SegmentScan {
    /// A scan of `file`, whose header was read.
    pub(super) fn new(file: Arc<dyn DiskFile>, header: SegmentHeader) -> Self {
        let path = file.path().to_path_buf();
        Self {
            window: Window::new(file),
            path,
            header,
            at: SEGMENT_START,
            commits: 0,
            head: header.head,
            open_group: false,
            ended: false,
            proven: header.head.last_sequence,
            accepted: 0..0,
            skipped: false,
        }
    }

    pub(super) fn file(&self) -> &Arc<dyn DiskFile> {
        &self.window.file
    }

    /// Where the frames of the last accepted commit lie in the file.
    pub(super) fn accepted(&self) -> Range<u64> {
        self.accepted.clone()
    }

    /// The frame at this place of the last accepted commit.
    ///
    /// # Panics
    /// If no frame of that commit starts there.
    pub(super) fn frame_at(&self, offset: u64) -> Frame<'_> {
        assert!(self.accepted.contains(&offset), "only frames of the accepted commit");
        let inside = |at: u64| usize::try_from(at - self.window.start).expect("the window holds the commit");
        let bytes = &self.window.memory[inside(offset)..inside(self.accepted.end)];
        // SAFETY: `next_block` had `Frame::decode` accept every frame of this commit where it lies now: it sets `accepted`
        // last, and whatever could move or overwrite the window (another `next_block` or `pass`) empties it first.
        unsafe { Frame::assume_checked(bytes) }
    }

    /// Reads on from another handle of the same file.
    pub(super) fn read_from(&mut self, file: Arc<dyn DiskFile>) {
        self.window = Window::new(file);
        self.accepted = 0..0;
    }

    /// Reads again what lies behind the last accepted commit: a writer may have changed it.
    pub(super) fn look_again(&mut self) {
        self.window.forget_from(self.at);
    }

    /// Passes commits that end before `sequence` by their headers alone: nothing else of them is read.
    pub(super) fn pass(&mut self, sequence: Sequence) -> Result<(), DiskError> {
        self.accepted = 0..0;
        let mut block = AlignedBytes::zeroed(BLOCK_BYTES);
        loop {
            let read = self.window.file.read_at(&mut block, self.at)?;
            let Ok(header) = CommitHeader::decode(&block[..read]) else { return Ok(()) };
            if header.last_sequence >= sequence || self.check_place(&header).is_err() {
                return Ok(());
            }
            self.at += header.total_bytes();
            self.commits += 1;
            self.head.last_sequence = header.last_sequence;
            self.head.checksum = header.last_checksum;
            self.open_group = header.open_group;
            self.proven = self.proven.max(header.durable_through);
            self.skipped = true;
        }
    }

    /// Looks at the next block and, if it is a commit that checks, moves behind it. The commit's frames are then
    /// [`SegmentScan::accepted_frames`], until the next call.
    pub(super) fn next_block(&mut self) -> Result<Block, Stop> {
        let at = self.at;
        self.accepted = 0..0;
        let first = self.window.get(at, BLOCK_BYTES)?;
        if is_zero(first) || (self.header.recycled && !bears_id(first, self.header.id)) {
            return Ok(Block::Nothing);
        }
        if first.len() >= 8 && first[..8] == FOOTER_MAGIC {
            return self.footer();
        }
        let header = match CommitHeader::decode(first) {
            Ok(header) => header,
            Err(refused) => {
                let known = first.len() >= COMMIT_HEADER_BYTES && first[..8] == COMMIT_MAGIC;
                let bytes = known.then(|| first[..COMMIT_HEADER_BYTES].to_vec());
                return Err(self.refuse_commit(refused, bytes));
            }
        };
        self.check_place(&header)?;
        let total = usize::try_from(header.total_bytes()).expect("bounded when decoded");
        let found = self.window.get(at, total)?.len();
        if found < total {
            return Err(self.damage(
                at,
                "commit",
                format!("{total} bytes"),
                format!("{found} until the file ends"),
            ));
        }
        let (head, open_group, ended) = self.check_frames(&header)?;
        let used = COMMIT_HEADER_BYTES + header.frame_bytes as usize;
        if !is_zero(&self.window.get(at, total)?[used..]) {
            let offset = at + used as u64;
            return Err(self.damage(
                offset,
                "padding of a commit",
                "zeros".to_owned(),
                "other bytes".to_owned(),
            ));
        }
        self.accepted = at + COMMIT_HEADER_BYTES as u64..at + used as u64;
        self.at += total as u64;
        self.commits += 1;
        self.head = head;
        self.open_group = open_group;
        self.ended = ended;
        self.proven = self.proven.max(header.durable_through);
        Ok(Block::Commit(header))
    }

    /// The bytes of all frames of the last accepted commit.
    pub(super) fn accepted_frames(&self) -> &[u8] {
        let inside =
            |at: u64| usize::try_from(at.saturating_sub(self.window.start)).expect("the window holds it");
        &self.window.memory[inside(self.accepted.start)..inside(self.accepted.end)]
    }

    fn check_place(&self, header: &CommitHeader) -> Result<(), Stop> {
        let refuse = |part, expected: String, found: String| Err(self.damage(self.at, part, expected, found));
        if header.segment_id != self.header.id {
            return refuse("segment id of a commit", hex(&self.header.id.0), hex(&header.segment_id.0));
        }
        if header.commit_number != self.commits + 1 {
            return refuse("commit number", (self.commits + 1).to_string(), header.commit_number.to_string());
        }
        let next = self.head.last_sequence.next();
        if header.first_sequence != next {
            return refuse("first sequence of a commit", next.to_string(), header.first_sequence.to_string());
        }
        if header.previous_checksum != self.head.checksum {
            let (expected, found) = (self.head.checksum, header.previous_checksum);
            return refuse("chain of a commit", format!("{expected:08x}"), format!("{found:08x}"));
        }
        if self.ended {
            return refuse("block", "the footer of an ended segment".to_owned(), "a commit".to_owned());
        }
        Ok(())
    }

    fn check_frames(&mut self, header: &CommitHeader) -> Result<(Head, bool, bool), Stop> {
        let (at, mut head) = (self.at, self.head);
        let (mut open_group, mut ended) = (self.open_group, self.ended);
        let total = usize::try_from(header.total_bytes()).expect("bounded when decoded");
        let bytes = self.window.get(at, total)?;
        let used = COMMIT_HEADER_BYTES + header.frame_bytes as usize;
        let mut offset = COMMIT_HEADER_BYTES;
        let mut frames = 0;
        let mut problem = None;
        while offset < used {
            let refused = match Frame::decode(&bytes[offset..used]) {
                Ok(frame) => match frame.header().check_follows(&head) {
                    Ok(()) => {
                        head = frame.header().head();
                        open_group = !frame.header().ends_group();
                        ended = frame.header().flags.contains(FrameFlags::ENDS_SEGMENT);
                        offset += frame.bytes().len();
                        frames += 1;
                        continue;
                    }
                    Err(chain) => chain.to_string(),
                },
                Err(error) => error.to_string(),
            };
            problem = Some((
                offset,
                "frame",
                format!("the frame of sequence {}", head.last_sequence.next()),
                refused,
            ));
            break;
        }
        if problem.is_none()
            && (frames, head.last_sequence, head.checksum)
                != (header.frame_count, header.last_sequence, header.last_checksum)
        {
            let expected = format!(
                "{} frames through {} ({:08x})",
                header.frame_count, header.last_sequence, header.last_checksum
            );
            let found = format!("{frames} frames through {} ({:08x})", head.last_sequence, head.checksum);
            problem = Some((0, "frames of a commit", expected, found));
        }
        if problem.is_none() && header.open_group != open_group {
            problem =
                Some((10, "open group of a commit", header.open_group.to_string(), open_group.to_string()));
        }
        match problem {
            None => Ok((head, open_group, ended)),
            Some((offset, part, expected, found)) => {
                Err(self.damage(at + offset as u64, part, expected, found))
            }
        }
    }

    fn footer(&mut self) -> Result<Block, Stop> {
        let at = self.at;
        let block = self.window.get(at, BLOCK_BYTES)?;
        let decoded = Footer::decode(block);
        let rest_zero = block.len() == BLOCK_BYTES && is_zero(&block[SEAL_BYTES..]);
        let footer = match decoded {
            Ok(footer) => footer,
            Err(error) => return Err(self.refuse_seal(at, error)),
        };
        if !rest_zero {
            return Err(self.damage(
                at,
                "padding of the footer",
                "zeros".to_owned(),
                "other bytes".to_owned(),
            ));
        }
        if footer.id != self.header.id {
            return Err(self.damage(
                at,
                "segment id of the footer",
                hex(&self.header.id.0),
                hex(&footer.id.0),
            ));
        }
        if self.skipped {
            // The frames that would tell were not read; position and checksum are those of the last commit's header.
            self.head =
                Head { last_sequence: self.head.last_sequence, checksum: self.head.checksum, ..footer.head };
        }
        let expected = (self.header.head.last_sequence.next(), self.head, self.commits);
        let found = (footer.first_sequence, footer.head, footer.totals.commits);
        if expected != found {
            let (expected, found) = (format!("{expected:?}"), format!("{found:?}"));
            return Err(self.damage(at, "footer's account of its segment", expected, found));
        }
        Ok(Block::Footer(footer))
    }

    fn damage(&self, offset: u64, part: &'static str, expected: String, found: String) -> Stop {
        Stop::Damage(Damage { file: self.path.clone(), offset, part, expected, found })
    }

    fn refuse_seal(&self, offset: u64, error: SealError) -> Stop {
        match error {
            SealError::Damaged { part, expected, found } => self.damage(offset, part, expected, found),
            SealError::Version(found) => {
                Stop::Error(WalError::Version { file: self.path.clone(), offset, expected: 1, found })
            }
        }
    }

    /// A header with a good checksum and another version is a newer release's, not damage.
    fn refuse_commit(&self, refused: NotACommit, header: Option<Vec<u8>>) -> Stop {
        if let Some(bytes) = header {
            let (stated, computed) = checksums(&bytes);
            let version = u16_at(&bytes, 8);
            if stated == computed && version != COMMIT_VERSION {
                return Stop::Error(WalError::Version {
                    file: self.path.clone(),
                    offset: self.at,
                    expected: COMMIT_VERSION,
                    found: version,
                });
            }
        }
        self.damage(self.at, refused.part, refused.expected, refused.found)
    }
}

/// What the rest of a segment holds behind a place that does not check.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// A later block that proves the place to have been durable.
    pub(super) proof: Option<String>,
    /// The blocks that hold something, as offsets; to be erased if the place is a torn tail. In a recycled file only those
    /// that bear this segment's id: no others can be taken for its own.
    pub(super) stale: Vec<u64>,
}

/// Whether a block claims to be a commit's first or the footer of this segment; whether it checks is another question.
pub(super) fn bears_id(block: &[u8], id: SegmentId) -> bool {
    block.len() >= 32 && (block[..8] == COMMIT_MAGIC || block[..8] == FOOTER_MAGIC) && block[16..32] == id.0
}

/// Looks at everything from `at` to the end of the file. A block of this segment that states a `durable_through` of at
/// least `sequence`, or a footer of it, proves that the event `sequence` at `at` had been durable.
pub(super) fn find_proof(
    file: &Arc<dyn DiskFile>,
    life: (SegmentId, bool),
    at: u64,
    sequence: Sequence,
) -> Result<Rest, DiskError> {
    Ok(judge_traces(&find_traces(file, life, at..u64::MAX)?, at, sequence))
}

/// A block that holds something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trace {
    at: u64,
    claim: Claim,
}

/// What a block states, if it is one of the segment's own.
#[derive(Clone, Copy, Debug)]
enum Claim {
    Nothing,
    Commit { number: u64, durable_through: Sequence },
    Footer { last: Sequence },
}

/// Every block in a range that holds something; in a recycled file, every one that bears the segment's id.
pub(super) fn find_traces(
    file: &Arc<dyn DiskFile>,
    (id, recycled): (SegmentId, bool),
    range: Range<u64>,
) -> Result<Vec<Trace>, DiskError> {
    let end = range.end.min(file.len_bytes()?);
    let mut window = Window::new(Arc::clone(file));
    let mut traces = Vec::new();
    let mut offset = range.start;
    while offset < end {
        let wanted = usize::try_from(end - offset).map_or(TRACE_BYTES, |left| left.min(TRACE_BYTES));
        let chunk = window.get(offset, wanted)?;
        if chunk.is_empty() {
            break;
        }
        if !is_zero(chunk) {
            for (index, block) in chunk.chunks(BLOCK_BYTES).enumerate() {
                if !is_zero(block) && (!recycled || bears_id(block, id)) {
                    let at = offset + (index * BLOCK_BYTES) as u64;
                    traces.push(Trace { at, claim: claim_of(block, id) });
                }
            }
        }
        offset += chunk.len().next_multiple_of(BLOCK_BYTES) as u64;
    }
    Ok(traces)
}

fn claim_of(block: &[u8], id: SegmentId) -> Claim {
    if let Ok(commit) = CommitHeader::decode(block)
        && commit.segment_id == id
    {
        let (number, durable_through) = (commit.commit_number, commit.durable_through);
        return Claim::Commit { number, durable_through };
    }
    match Footer::decode(block) {
        Ok(footer) if footer.id == id => Claim::Footer { last: footer.head.last_sequence },
        Ok(_) | Err(_) => Claim::Nothing,
    }
}

/// Says what traces, in the order of the file, mean for the event `sequence` at `at`. What stands there is asked too: a later block that
/// the device has put over it, by mistake, still states what was durable.
pub(super) fn judge_traces(traces: &[Trace], at: u64, sequence: Sequence) -> Rest {
    let proof = traces.iter().filter(|trace| trace.at >= at).find_map(|trace| match trace.claim {
        Claim::Commit { number, durable_through } if durable_through >= sequence => {
            let here = trace.at;
            Some(format!("commit {number} at byte {here} states that sequence {durable_through} was durable"))
        }
        // The one that belongs here may be torn.
        Claim::Footer { last } if trace.at > at || last >= sequence => {
            Some(format!("the footer at byte {} seals through sequence {last}", trace.at))
        }
        Claim::Commit { .. } | Claim::Footer { .. } | Claim::Nothing => None,
    });
    let stale = traces.iter().map(|trace| trace.at).filter(|offset| *offset >= at).collect();
    Rest { proof, stale }
}

/// What the first block of a segment file is.
#[derive(Debug)]
pub(super) enum First {
    /// A header of this log.
    Header(SegmentHeader),
    /// A prepared segment, by its mark.
    Spare,
    /// Something else.
    Damaged(Damage),
}

/// Reads a segment's header and checks that it is of this log and has this number.
pub(super) fn read_header(
    file: &Arc<dyn DiskFile>,
    number: SegmentNumber,
    config: &WalConfig,
) -> Result<First, WalError> {
    let mut block = AlignedBytes::zeroed(BLOCK_BYTES);
    let read = file.read_at(&mut block, 0)?;
    let path = || file.path().to_path_buf();
    let damage =
        |part, expected, found| Ok(First::Damaged(Damage { file: path(), offset: 0, part, expected, found }));
    if is_zero(&block) && read == BLOCK_BYTES {
        return damage("segment header", "a header".to_owned(), "zeros".to_owned());
    }
    if SpareMark::decode(&block[..read]).is_some_and(|mark| mark.number == number) {
        return Ok(First::Spare);
    }
    let header = match SegmentHeader::decode(&block[..read]) {
        Ok(header) => header,
        Err(SealError::Damaged { part, expected, found }) => return damage(part, expected, found),
        Err(SealError::Version(found)) => {
            return Err(WalError::Version { file: path(), offset: 0, expected: 1, found });
        }
    };
    if !is_zero(&block[SEAL_BYTES..]) {
        return damage("padding of the segment header", "zeros".to_owned(), "other bytes".to_owned());
    }
    if header.number != number {
        return damage("segment number", number.to_string(), header.number.to_string());
    }
    let foreign = |what, expected, found| Err(WalError::Foreign { file: path(), what, expected, found });
    if header.cluster != config.cluster {
        return foreign("cluster", config.cluster.0, header.cluster.0);
    }
    if header.head.tape != config.start.tape {
        return foreign("tape", config.start.tape.0, header.head.tape.0);
    }
    Ok(First::Header(header))
}

/// Reads the footer that ends a sealed segment's file; the outer error is the disk's.
pub(super) fn read_footer(
    file: &Arc<dyn DiskFile>,
    header: &SegmentHeader,
) -> Result<Result<Footer, Stop>, DiskError> {
    let length = file.len_bytes()?;
    let offset = length.saturating_sub(BLOCK_BYTES as u64) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let mut block = AlignedBytes::zeroed(BLOCK_BYTES);
    let read = file.read_at(&mut block, offset)?;
    let path = file.path().to_path_buf();
    let damage = |part, expected, found| {
        Ok(Err(Stop::Damage(Damage { file: path.clone(), offset, part, expected, found })))
    };
    let footer = match Footer::decode(&block[..read]) {
        Ok(footer) => footer,
        Err(SealError::Damaged { part, expected, found }) => return damage(part, expected, found),
        Err(SealError::Version(found)) => {
            return Ok(Err(Stop::Error(WalError::Version { file: path, offset, expected: 1, found })));
        }
    };
    if footer.id != header.id {
        return damage("segment id of the footer", hex(&header.id.0), hex(&footer.id.0));
    }
    if footer.first_sequence != header.head.last_sequence.next() || footer.head.tape != header.head.tape {
        let expected = format!("segment from sequence {}", header.head.last_sequence.next());
        return damage("first sequence of the footer", expected, footer.first_sequence.to_string());
    }
    Ok(Ok(footer))
}

/// Opens a file for reading what the device holds, past the page cache where the file system can; else after asking the
/// kernel to forget its clean pages.
pub(super) fn open_past_cache(
    disk: &dyn Disk,
    path: &std::path::Path,
) -> Result<Arc<dyn DiskFile>, DiskError> {
    match disk.open(path, Access::Read, Caching::Direct) {
        Ok(file) => Ok(file),
        Err(error) if error.is_direct_unsupported() => {
            let file = disk.open(path, Access::Read, Caching::Buffered)?;
            file.drop_cache(0, file.len_bytes()?)?;
            Ok(file)
        }
        Err(error) => Err(error),
    }
}

const _: () =
    assert!(WINDOW_BYTES.is_multiple_of(BLOCK_BYTES) && COMMIT_BYTES_MAX.is_multiple_of(WINDOW_BYTES));
