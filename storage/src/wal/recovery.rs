//! Opening the log for writing: find the segments, prove the sealed ones by their footers, check every byte of the
//! open one, decide what its end is, repair it, and hand out a writer.
//!
//! The decision (crash rule 3): a place that does not check is a torn tail, unless something later in the log proves
//! that it had been durable. Then nothing is touched and the error says where and why.
//!
//! What nothing proves to have been durable is read past the page cache, after a sync (crash rule 8): the kernel may hold
//! bytes of an earlier process that never reached the disk, and call them clean. What a later block states to have been
//! durable may come from the cache, even if that block does: whoever wrote it had seen the sync succeed.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use matchtape_schemas::{Head, Sequence};

use super::block::{CommitHeader, hex};
use super::config::{Mistakes, WalConfig};
use super::error::{Damage, WalError};
use super::reader::WalReader;
use super::report::{Cut, CutReason, WalReport};
use super::scan::{
    Block, First, SegmentScan, Stop, Trace, Window, find_proof, find_traces, judge_traces, open_past_cache,
    read_footer, read_header,
};
use super::segment::{Footer, SEGMENT_START, SegmentHeader, SegmentId, SegmentNumber, SegmentRoot};
use super::segments::{Sealed, SegmentInfo, Segments};
use super::spare::Spares;
use super::tally::Tally;
use super::writer::{OpenSegment, Resume, Writer, begin, new_segment_id, seal};
use crate::disk::{Access, AlignedBytes, BLOCK_BYTES, Caching, Disk, DiskError, DiskFile, EntryKind};

/// A log that is ready to be appended to.
#[derive(Debug)]
pub struct OpenedWal {
    /// Appends to it.
    pub writer: Writer,
    /// Where the tape stands. Every event up to here is durable; none behind it is on the disk.
    pub head: Head,
    /// Its segments, shared with the writer.
    pub segments: Segments,
    /// What was found and done.
    pub report: WalReport,
}

/// Opens the log below `config.directory`, creating it if there is none. The caller holds the data directory's lock.
pub fn open(disk: Arc<dyn Disk>, config: WalConfig) -> Result<OpenedWal, WalError> {
    config.check()?;
    create_directory(&*disk, &config.directory)?;
    let mut report = WalReport::default();
    let Found { numbers, free } = find_files(&*disk, &config, &mut report)?;
    let (headers, ready) = read_headers(&disk, &config, &numbers)?;
    let mut incarnation = [0; 8];
    disk.random(&mut incarnation)?;
    let recovery = Recovery { disk, config, incarnation: u64::from_le_bytes(incarnation), free, report };
    match headers.split_last() {
        None => recovery.start(ready),
        Some((last, sealed)) => recovery.resume(sealed, *last, ready),
    }
}

/// Checks the log as `open` would, and the whole of every sealed segment, without changing anything. Returns where the tape stood
/// when the oldest segment began. An empty directory is a log that was not begun.
pub(crate) fn check(disk: &Arc<dyn Disk>, config: &WalConfig) -> Result<Option<Head>, WalError> {
    let mut headers = Vec::new();
    let mut not_begun = None;
    let mut numbers = Vec::new();
    for path in super::collect::files(&**disk, &config.directory)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        numbers.extend(SegmentNumber::from_name(name));
    }
    check_dense(&config.directory, &numbers)?;
    for number in numbers {
        let path = number.path(&config.directory);
        let file = disk.open(&path, Access::Read, Caching::Buffered)?;
        let damage = match (read_header(&file, number, config)?, &not_begun) {
            (First::Header(header), None) => {
                headers.push(header);
                continue;
            }
            (First::Header(_), Some(damage)) => {
                let because = "a later segment was begun".to_owned();
                return Err(WalError::Corrupt { damage: Damage::clone(damage), because });
            }
            // The mark says that nothing in it was promised.
            (First::Spare, _) => {
                not_begun = Some(no_header(path, "a segment that was not begun"));
                continue;
            }
            (First::Damaged(damage), _) => damage,
        };
        let rest = find_proof(&file, (SegmentId([0; 16]), false), 0, Sequence::MAX)?;
        if rest.stale.iter().any(|offset| *offset >= SEGMENT_START) {
            return Err(WalError::Corrupt {
                damage,
                because: "something was written behind the header".to_owned(),
            });
        }
        not_begun = Some(damage);
    }
    let Some((last, sealed)) = headers.split_last() else { return Ok(None) };
    let mut recovery = Recovery {
        disk: Arc::clone(disk),
        config: config.clone(),
        incarnation: 0,
        free: Vec::new(),
        report: WalReport::default(),
    };
    let reader = WalReader::new(Arc::clone(disk), config.clone(), Segments::default());
    for (index, header) in sealed.iter().enumerate() {
        let info = recovery.check_sealed(header, sealed.get(index + 1).unwrap_or(last))?;
        reader.verify(&info)?;
    }
    let tail = recovery.scan_open(&last.number.path(&config.directory), *last)?;
    if tail.head.last_sequence < config.known_durable {
        return Err(WalError::Short { last: tail.head.last_sequence, known: config.known_durable });
    }
    Ok(Some(headers[0].head))
}

fn create_directory(disk: &dyn Disk, directory: &Path) -> Result<(), WalError> {
    match disk.create_directory(directory) {
        Ok(()) => {}
        Err(error) if error.is_existing() => {}
        Err(error) => return Err(error.into()),
    }
    // Also when it existed: the process that created it may have died before this sync (crash rule 2).
    disk.sync_directory(directory.parent().unwrap_or(Path::new("")))?;
    disk.sync_directory(directory)?;
    Ok(())
}

/// The log's files.
#[derive(Default)]
struct Found {
    /// Of segments, dense.
    numbers: Vec<SegmentNumber>,
    /// Of released ones, to be used again.
    free: Vec<SegmentNumber>,
}

fn find_files(disk: &dyn Disk, config: &WalConfig, report: &mut WalReport) -> Result<Found, WalError> {
    let directory = &config.directory;
    let Found { mut numbers, mut free } = Found::default();
    for entry in disk.list(directory)? {
        let number = SegmentNumber::from_name(&entry.name);
        let preparing = entry.name.strip_suffix(".new").and_then(SegmentNumber::from_name);
        let released = entry.name.strip_suffix(".free").and_then(SegmentNumber::from_name);
        match (number, released, preparing, entry.kind) {
            (Some(number), _, _, EntryKind::File) => numbers.push(number),
            (None, Some(number), _, EntryKind::File) if free.len() < config.recycled_files_max => {
                free.push(number);
            }
            (None, Some(_), _, EntryKind::File) | (None, None, Some(_), EntryKind::File) => {
                disk.remove(&directory.join(&entry.name))?;
                report.removed.push(entry.name);
            }
            _ => report.ignored.push(entry.name),
        }
    }
    numbers.sort_unstable();
    check_dense(directory, &numbers)?;
    Ok(Found { numbers, free })
}

pub(super) fn check_dense(directory: &Path, numbers: &[SegmentNumber]) -> Result<(), WalError> {
    for pair in numbers.windows(2) {
        if pair[1] != pair[0].next() {
            return Err(WalError::MissingSegment { file: pair[0].next().path(directory), next: pair[1].0 });
        }
    }
    Ok(())
}

/// The headers of the segments that were begun, oldest first, and the greatest number whose file exists.
fn read_headers(
    disk: &Arc<dyn Disk>,
    config: &WalConfig,
    numbers: &[SegmentNumber],
) -> Result<(Vec<SegmentHeader>, Option<SegmentNumber>), WalError> {
    let ready = numbers.last().copied();
    let mut begun = numbers.len();
    // From the end: prepared segments, which must be empty, until the newest that was begun.
    while begun > 0 {
        let number = numbers[begun - 1];
        let path = number.path(&config.directory);
        let file = read_durably(&**disk, &path, config.mistakes())?;
        let damage = match read_header(&file, number, config)? {
            First::Header(_) => break,
            First::Spare => {
                begun -= 1;
                continue;
            }
            First::Damaged(damage) => damage,
        };
        check_never_begun(&**disk, &file, damage)?;
        begun -= 1;
    }
    if begun == 0
        && let Some(first) = numbers.first()
        && *first != config.first_segment
    {
        let file = SegmentNumber(first.0 - 1).path(&config.directory);
        return Err(WalError::MissingSegment { file, next: first.0 });
    }
    let mut headers = Vec::with_capacity(begun);
    for (index, number) in numbers[..begun].iter().enumerate() {
        let path = number.path(&config.directory);
        let file = if index + 1 == begun {
            read_durably(&**disk, &path, config.mistakes())?
        } else {
            disk.open(&path, Access::Read, Caching::Buffered)?
        };
        let damage = match read_header(&file, *number, config)? {
            First::Header(header) => {
                headers.push(header);
                continue;
            }
            First::Damaged(damage) => damage,
            First::Spare => no_header(path, "a segment that was not begun"),
        };
        return Err(WalError::Corrupt { damage, because: "a later segment was begun".to_owned() });
    }
    Ok((headers, ready))
}

fn no_header(file: PathBuf, found: &str) -> Damage {
    let (expected, found) = ("a header".to_owned(), found.to_owned());
    Damage { file, offset: 0, part: "segment header", expected, found }
}

/// Syncs a file, then opens it for reading what the device holds.
fn read_durably(disk: &dyn Disk, path: &Path, mistakes: Mistakes) -> Result<Arc<dyn DiskFile>, DiskError> {
    if mistakes.trust_page_cache {
        return disk.open(path, Access::Read, Caching::Buffered);
    }
    disk.open(path, Access::ReadWrite, Caching::Buffered)?.sync_all()?;
    open_past_cache(disk, path)
}

/// A file without a good header is a prepared segment only if there is nothing else in it.
fn check_never_begun(disk: &dyn Disk, file: &Arc<dyn DiskFile>, damage: Damage) -> Result<(), WalError> {
    let rest = find_proof(file, (SegmentId([0; 16]), false), 0, Sequence::MAX)?;
    if let Some(offset) = rest.stale.iter().find(|offset| **offset >= SEGMENT_START) {
        let because = format!("something was written behind the header, at byte {offset}");
        return Err(WalError::Corrupt { damage, because });
    }
    if !rest.stale.is_empty() {
        erase(disk, file.path(), rest.stale)?;
    }
    Ok(())
}

/// Overwrites blocks with zeros, durably.
fn erase(disk: &dyn Disk, path: &Path, blocks: impl IntoIterator<Item = u64>) -> Result<(), DiskError> {
    let file = disk.open(path, Access::ReadWrite, Caching::Buffered)?;
    let zeros = AlignedBytes::zeroed(BLOCK_BYTES);
    for offset in blocks {
        file.write_at(&zeros, offset)?;
    }
    file.sync_all()
}

/// So many bytes behind the end are searched beside the check of what is before it; fewer are not worth a thread.
const SEARCH_ASIDE_BYTES: u64 = 8 << 20;

/// What the commits of the open segment are, and where they stop.
struct Scanned {
    end: Tail,
    footer: Option<Footer>,
    damage: Option<Damage>,
    /// Where an unfinished group began.
    before_group: Option<Tail>,
}

/// The end of the open segment, as it was found.
#[derive(Clone)]
struct Tail {
    at: u64,
    commits: u64,
    head: Head,
    ended: bool,
    proven: Sequence,
    tally: Tally,
    footer: Option<Footer>,
    /// Blocks behind `at` that hold something, and why they are to be cut.
    stale: Vec<u64>,
    reason: Option<CutReason>,
    /// What the page cache shows as commits and the device does not have whole.
    shown: Range<u64>,
}

struct Recovery {
    disk: Arc<dyn Disk>,
    config: WalConfig,
    incarnation: u64,
    /// Files of released segments.
    free: Vec<SegmentNumber>,
    report: WalReport,
}

impl Recovery {
    /// An empty log: begins the first segment.
    fn start(mut self, ready: Option<SegmentNumber>) -> Result<OpenedWal, WalError> {
        let head = self.config.start;
        let first = self.config.first_segment;
        let spares = self.spares(ready.unwrap_or(SegmentNumber(first.0 - 1)));
        let open = self.begin(&spares, first, head, SegmentRoot::NONE, SegmentId([0; 16]))?;
        let segments =
            Segments::of(vec![SegmentInfo { number: first, id: open.header.id, begins: head, sealed: None }]);
        self.report.segments = 1;
        self.hand_over(open, head, head.last_sequence, segments, spares)
    }

    fn spares(&mut self, ready: SegmentNumber) -> Spares {
        Spares::new(Arc::clone(&self.disk), &self.config, ready, std::mem::take(&mut self.free))
    }

    fn resume(
        mut self,
        sealed: &[SegmentHeader],
        last: SegmentHeader,
        ready: Option<SegmentNumber>,
    ) -> Result<OpenedWal, WalError> {
        let mut list = Vec::with_capacity(sealed.len() + 1);
        for (index, header) in sealed.iter().enumerate() {
            let next = sealed.get(index + 1).unwrap_or(&last);
            list.push(self.check_sealed(header, next)?);
        }
        let path = last.number.path(&self.config.directory);
        let tail = self.scan_open(&path, last)?;
        if tail.head.last_sequence < self.config.known_durable {
            return Err(WalError::Short { last: tail.head.last_sequence, known: self.config.known_durable });
        }
        // From here on the disk is changed.
        self.cut(&path, &tail)?;
        let garbage_end = tail.stale.last().map_or(tail.at, |offset| offset + BLOCK_BYTES as u64);
        let file = self.disk.open(&path, Access::ReadWrite, self.config.caching())?;
        let at = if self.config.mistakes().append_after_garbage { garbage_end } else { tail.at };
        let mut open = OpenSegment { header: last, file, at, commits: tail.commits, tally: tail.tally };
        list.push(SegmentInfo { number: last.number, id: last.id, begins: last.head, sealed: None });
        self.report.segments = list.len() as u64;
        let segments = Segments::of(list);
        let ready = ready.unwrap_or(last.number);
        let spares = self.spares(ready);
        if tail.footer.is_none() && !tail.ended {
            return self.hand_over(open, tail.head, tail.proven, segments, spares);
        }
        self.report.finished_rotation = true;
        // Writing the same footer again is harmless; the file may still have to be cut behind it.
        let sealed = seal(&mut open, tail.head, false)?;
        segments.seal_last(sealed);
        let next = last.number.next();
        let open = self.begin(&spares, next, tail.head, sealed.root, last.id)?;
        segments.begin(SegmentInfo { number: next, id: open.header.id, begins: tail.head, sealed: None });
        self.report.segments += 1;
        self.hand_over(open, tail.head, tail.head.last_sequence, segments, spares)
    }

    fn begin(
        &self,
        spares: &Spares,
        number: SegmentNumber,
        head: Head,
        previous_root: SegmentRoot,
        previous_id: SegmentId,
    ) -> Result<OpenSegment, WalError> {
        spares.wait(number)?;
        let path = number.path(&self.config.directory);
        let file = self.disk.open(&path, Access::ReadWrite, self.config.caching())?;
        let header = SegmentHeader {
            id: new_segment_id(&*self.disk)?,
            cluster: self.config.cluster,
            number,
            head,
            previous_root,
            previous_id,
            incarnation: self.incarnation,
            recycled: false,
        };
        begin(file, header)
    }

    fn hand_over(
        mut self,
        open: OpenSegment,
        head: Head,
        proven: Sequence,
        segments: Segments,
        spares: Spares,
    ) -> Result<OpenedWal, WalError> {
        self.report.first_sequence = segments.first_sequence().unwrap_or(Sequence::FIRST).0;
        self.report.last_sequence = head.last_sequence.0;
        let Self { disk, config, incarnation, report, free: _ } = self;
        let writer = Writer::resume(Resume {
            disk,
            config,
            incarnation,
            open,
            head,
            proven,
            segments: segments.clone(),
            spares,
        });
        Ok(OpenedWal { writer, head, segments, report })
    }

    /// A sealed segment is proven by its footer, which the next segment's header repeats.
    fn check_sealed(
        &mut self,
        header: &SegmentHeader,
        next: &SegmentHeader,
    ) -> Result<SegmentInfo, WalError> {
        let path = header.number.path(&self.config.directory);
        let file = self.disk.open(&path, Access::Read, Caching::Buffered)?;
        let footer = match read_footer(&file, header)? {
            Ok(footer) => footer,
            Err(Stop::Error(error)) => return Err(error),
            Err(Stop::Damage(damage)) => {
                return Err(WalError::Corrupt { damage, because: "a later segment was begun".to_owned() });
            }
        };
        check_link(&self.config, footer, header, next)?;
        let file_bytes = file.len_bytes()?;
        self.report.sealed_bytes += file_bytes;
        let sealed = Sealed { ends: footer.head, totals: footer.totals, root: footer.root, file_bytes };
        Ok(SegmentInfo { number: header.number, id: header.id, begins: header.head, sealed: Some(sealed) })
    }

    fn scan_open(&mut self, path: &Path, header: SegmentHeader) -> Result<Tail, WalError> {
        let file = read_durably(&*self.disk, path, self.config.mistakes())?;
        let cached = self.disk.open(path, Access::Read, Caching::Buffered)?;
        let mut hop = SegmentScan::new(Arc::clone(&cached), header);
        hop.pass(Sequence::MAX)?;
        let (proven, written_to) = (hop.proven, hop.at);
        drop(hop);
        let scan = SegmentScan::new(cached, header);
        let search = || find_traces(&file, life(&header), written_to..u64::MAX);
        if file.len_bytes()?.saturating_sub(written_to) < SEARCH_ASIDE_BYTES {
            let (mut scanned, traces) = (self.check_commits(scan, &file, proven)?, search()?);
            return self.judge_open(&file, header, &mut scanned, written_to, traces);
        }
        // The device reads what is behind the end while this thread checks what is before it.
        std::thread::scope(|scope| {
            let searching = scope.spawn(search);
            let scanned = self.check_commits(scan, &file, proven);
            let traces = match searching.join() {
                Ok(traces) => traces,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            self.judge_open(&file, header, &mut scanned?, written_to, traces?)
        })
    }

    /// Checks commit after commit, and ends where it cannot go on.
    fn check_commits(
        &mut self,
        mut scan: SegmentScan,
        past_cache: &Arc<dyn DiskFile>,
        proven: Sequence,
    ) -> Result<Scanned, WalError> {
        let mut from_cache = true;
        let mut tally = Tally::new();
        // Where an unfinished group began, with everything as it was there.
        let mut before_group: Option<Tail> = None;
        let mut damage = None;
        let mut footer = None;
        loop {
            if from_cache && scan.head.last_sequence >= proven {
                scan.read_from(Arc::clone(past_cache));
                from_cache = false;
            }
            let before = (scan.at, scan.commits, scan.head);
            match scan.next_block() {
                Ok(Block::Commit(commit)) => {
                    if !commit.open_group {
                        before_group = None;
                    } else if before_group.is_none() && !self.config.mistakes().keep_unfinished_group {
                        before_group = Some(tail_at(before, &scan, tally.clone()));
                    }
                    tally.add_commit(scan.accepted_frames());
                    self.report.scanned_commits += 1;
                }
                Ok(Block::Footer(found)) => {
                    footer = Some(found);
                    break;
                }
                Ok(Block::Nothing) => break,
                Err(Stop::Error(error)) => return Err(error),
                Err(Stop::Damage(found)) => {
                    if self.config.mistakes().skip_bad_commits && skip_to_next_commit(&mut scan)? {
                        continue;
                    }
                    damage = Some(found);
                    break;
                }
            }
        }
        self.report.scanned_bytes = scan.at;
        let end = tail_at((scan.at, scan.commits, scan.head), &scan, tally);
        Ok(Scanned { end, footer, damage, before_group })
    }

    /// Decides what the end is. `traces` are the blocks from `written_to` on that hold something.
    fn judge_open(
        &mut self,
        file: &Arc<dyn DiskFile>,
        header: SegmentHeader,
        scanned: &mut Scanned,
        written_to: u64,
        traces: Vec<Trace>,
    ) -> Result<Tail, WalError> {
        let Scanned { end, footer, damage, before_group } = scanned;
        let from = before_group.as_ref().map_or(end.at, |before| before.at);
        let mut found = find_traces(file, life(&header), from..written_to)?;
        found.extend(traces);
        let last_in_group = end.head.last_sequence;
        let end = Tail { shown: end.at..written_to, ..end.clone() };
        let shown = end.shown.clone();
        let mut tail = match *footer {
            Some(footer) => {
                check_root(file, &end, footer)?;
                Tail { footer: Some(footer), ..end }
            }
            None => self.judge_end(file, &header, &found, end, damage.take())?,
        };
        if let Some(before) = before_group.take() {
            let stale = judge_traces(&found, before.at, before.head.last_sequence.next()).stale;
            let first = before.head.last_sequence.next().0;
            let reason = Some(CutReason::UnfinishedGroup { first, last: last_in_group.0 });
            tail = Tail { stale, reason, shown, proven: tail.proven, ..before };
        }
        self.report.replayed_events = tail.head.last_sequence.0 - header.head.last_sequence.0;
        Ok(tail)
    }

    /// The scan ended at `tail.at` without a footer: a clean end, a torn tail, or corruption.
    fn judge_end(
        &self,
        file: &Arc<dyn DiskFile>,
        header: &SegmentHeader,
        traces: &[Trace],
        tail: Tail,
        damage: Option<Damage>,
    ) -> Result<Tail, WalError> {
        let next = tail.head.last_sequence.next();
        let rest = judge_traces(traces, tail.at, next);
        let clean = damage.is_none();
        let damage = damage.unwrap_or_else(|| Damage {
            file: file.path().to_path_buf(),
            offset: tail.at,
            part: "commit",
            expected: format!("commit {} from sequence {next}", tail.commits + 1),
            found: if header.recycled { "nothing of this segment" } else { "zeros" }.to_owned(),
        });
        if let Some(because) = rest.proof {
            return Err(WalError::Corrupt { damage, because });
        }
        if clean && rest.stale.is_empty() {
            return Ok(tail);
        }
        if self.config.mistakes().torn_tail_is_fatal {
            return Err(WalError::Corrupt { damage, because: "of a known mistake".to_owned() });
        }
        let reason = Some(CutReason::TornTail { damage: damage.to_string() });
        Ok(Tail { stale: rest.stale, reason, ..tail })
    }

    /// Crash rule 4: the stale tail is erased and synced before the first append. So is what only the page cache has of it (crash rule
    /// 8): whoever reads the file would find it there, behind what is appended.
    fn cut(&mut self, path: &Path, tail: &Tail) -> Result<(), WalError> {
        self.report.cut = tail.reason.clone().map(|reason| Cut {
            file: path.display().to_string(),
            offset: tail.at,
            blocks: tail.stale.len() as u64,
            reason,
        });
        let shown = tail.shown.clone().step_by(BLOCK_BYTES);
        let blocks: BTreeSet<u64> = tail.stale.iter().copied().chain(shown).collect();
        if !blocks.is_empty() && !self.config.mistakes().append_after_garbage {
            erase(&*self.disk, path, blocks)?;
        }
        Ok(())
    }
}

/// By what a segment's own blocks are told from others.
pub(super) fn life(header: &SegmentHeader) -> (SegmentId, bool) {
    (header.id, header.recycled)
}

fn tail_at((at, commits, head): (u64, u64, Head), scan: &SegmentScan, tally: Tally) -> Tail {
    Tail {
        at,
        commits,
        head,
        ended: scan.ended,
        proven: scan.proven,
        tally,
        footer: None,
        stale: Vec::new(),
        reason: None,
        shown: 0..0,
    }
}

/// A footer whose sums are not those of the commits before it.
fn check_root(file: &Arc<dyn DiskFile>, tail: &Tail, footer: Footer) -> Result<(), WalError> {
    let (totals, root) = tail.tally.finish();
    if (totals, root) == (footer.totals, footer.root) {
        return Ok(());
    }
    let damage = Damage {
        file: file.path().to_path_buf(),
        offset: tail.at,
        part: "footer's sums",
        expected: format!("root {} of {} events", footer.root, footer.totals.events),
        found: format!("root {root} of {} events", totals.events),
    };
    Err(WalError::Corrupt {
        damage,
        because: "the footer was written after its commits were durable".to_owned(),
    })
}

/// Checks that `next` continues the segment of `header`, which `footer` seals.
pub(super) fn check_link(
    config: &WalConfig,
    footer: Footer,
    header: &SegmentHeader,
    next: &SegmentHeader,
) -> Result<(), WalError> {
    let corrupt = |offset, part, expected: String, found: String| {
        let damage = Damage { file: next.number.path(&config.directory), offset, part, expected, found };
        let because = format!("segment {} before it is sealed", header.number);
        Err(WalError::Corrupt { damage, because })
    };
    if next.previous_id != header.id {
        return corrupt(104, "previous segment's id", hex(&header.id.0), hex(&next.previous_id.0));
    }
    if next.previous_root != footer.root {
        return corrupt(
            72,
            "previous segment's root",
            footer.root.to_string(),
            next.previous_root.to_string(),
        );
    }
    if next.head != footer.head {
        return corrupt(56, "place on the tape", format!("{:?}", footer.head), format!("{:?}", next.head));
    }
    Ok(())
}

/// The mistake `skip_bad_commits`: goes on at the next place that looks like a commit of this segment.
fn skip_to_next_commit(scan: &mut SegmentScan) -> Result<bool, WalError> {
    let mut window = Window::new(Arc::clone(scan.file()));
    let mut at = scan.at;
    loop {
        at += BLOCK_BYTES as u64;
        let block = window.get(at, BLOCK_BYTES)?;
        if block.is_empty() {
            return Ok(false);
        }
        if let Ok(commit) = CommitHeader::decode(block)
            && commit.segment_id == scan.header.id
        {
            scan.at = at;
            scan.commits = commit.commit_number - 1;
            scan.head.last_sequence = commit.first_sequence.previous();
            scan.head.checksum = commit.previous_checksum;
            return Ok(true);
        }
    }
}
