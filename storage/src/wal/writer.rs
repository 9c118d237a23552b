//! The one place that appends to the log: one write and at most one sync per commit.
//!
//! ```text
//! place    decides where a commit goes and what its header says       one caller at a time, in the order of the tape
//! write    brings it to the disk                                      any thread; several commits at once
//! settle   counts it as written and durable                           one caller at a time, in the order of the tape
//!
//! placed >= settled: written group end >= durable group end >= durable_through of any block written
//! ```
//!
//! Several commits may be written at once, and reach the disk in any order. Nothing is said of one before all before it are
//! settled; and a block's `durable_through` is what was settled when it was placed, so that it never vouches for another
//! that was under way. What a crash leaves behind a commit that did not reach the disk is therefore a torn tail.
//!
//! Never retries and never continues after a failed write or sync: what such a failure left on the disk is
//! unknown to this process, so the writer is poisoned and recovery decides at the next start.

use std::collections::VecDeque;
use std::sync::Arc;

use matchtape_schemas::{FrameFlags, Head, Sequence};

use super::block::{COMMIT_HEADER_BYTES, CommitHeader};
use super::buffer::{BufferPool, CommitBuffer};
use super::config::{SyncPolicy, WalConfig};
use super::error::WalError;
use super::release::Releaser;
use super::segment::{Footer, SEGMENT_START, SegmentHeader, SegmentId, SpareMark};
use super::segments::{Sealed, SegmentInfo, Segments};
use super::space::SpaceProblem;
use super::spare::{NextSegment, Spares};
use super::tally::Tally;
use crate::disk::{Access, AlignedBytes, BLOCK_BYTES, Caching, Disk, DiskError, DiskFile};

/// A commit that was written.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its frames, from now on read-only and shared.
    pub commit: Arc<CommitBuffer>,
    /// The last event handed to the kernel.
    pub written: Sequence,
    /// The last event synced. An event whose group has not ended is dropped by recovery even if it is durable: a
    /// promise about it must wait for the group's end.
    pub durable: Sequence,
}

/// Appends commits to the open segment.
#[derive(Debug)]
pub struct Writer {
    disk: Arc<dyn Disk>,
    config: WalConfig,
    incarnation: u64,
    open: OpenSegment,
    /// Behind the last commit placed.
    head: Head,
    /// The last group end placed.
    placed_group_end: Sequence,
    /// The number of the last block settled in the open segment.
    settled: u64,
    written: Sequence,
    durable: Sequence,
    written_group_end: Sequence,
    durable_group_end: Sequence,
    /// What the blocks on the disk prove to have been durable.
    proven: Sequence,
    /// Written and reported; their sums are still to be added to the tally, off the path of the one who waits.
    untallied: VecDeque<Arc<CommitBuffer>>,
    /// The last frame placed ended the segment: seal it when it is settled, begin the next.
    rotation_due: bool,
    poison: Option<Arc<WalError>>,
    segments: Segments,
    spares: Spares,
    buffers: Arc<BufferPool>,
}

/// A block that has its place in the log and is to be written there.
#[derive(Debug)]
#[must_use = "the log waits for it"]
pub struct Placed {
    /// `None`: an idle block.
    buffer: Option<CommitBuffer>,
    header: CommitHeader,
    file: Arc<dyn DiskFile>,
    at: u64,
    /// What the writer's `head` and `placed_group_end` were before it.
    before: (Head, Sequence),
    /// Where the tape stands behind it.
    head: Head,
    group_end: Option<Sequence>,
    sync: Synced,
}

/// What makes a block durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Synced {
    /// The write itself.
    ByWrite,
    /// A sync behind the write.
    ByCall {
        /// The mistake `retry_failed_sync`.
        again: bool,
    },
    /// A later sync, if any.
    Later,
}

impl Placed {
    /// Writes the block, and makes it durable if every batch is to be. It may run beside other blocks' writes. Where the
    /// disk was full ([`WalError::may_pass`]) it may be called again; any other error is final.
    pub fn write(&mut self) -> Result<(), WalError> {
        match &mut self.buffer {
            Some(buffer) => self.file.write_at(buffer.finish(&self.header), self.at)?,
            None => {
                let mut block = AlignedBytes::zeroed(BLOCK_BYTES);
                self.header.encode(&mut block[..COMMIT_HEADER_BYTES]);
                self.file.write_at(&block, self.at)?;
            }
        }
        let Synced::ByCall { again } = self.sync else { return Ok(()) };
        // Not even a full disk is a reason to try this again.
        sync(&*self.file, again).map_err(|error| WalError::Poisoned(Arc::new(error.into())))
    }
}

fn sync(file: &dyn DiskFile, again: bool) -> Result<(), DiskError> {
    match file.sync_data() {
        Err(_) if again => file.sync_data(),
        done => done,
    }
}

/// The segment that commits go to.
#[derive(Debug)]
pub(super) struct OpenSegment {
    pub(super) header: SegmentHeader,
    pub(super) file: Arc<dyn DiskFile>,
    /// Where the next block goes.
    pub(super) at: u64,
    /// The number of the last block placed.
    pub(super) commits: u64,
    pub(super) tally: Tally,
}

/// What recovery hands to a new writer: a log whose every byte up to `open.at` is durable.
pub(super) struct Resume {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) config: WalConfig,
    pub(super) incarnation: u64,
    pub(super) open: OpenSegment,
    pub(super) head: Head,
    pub(super) proven: Sequence,
    pub(super) segments: Segments,
    pub(super) spares: Spares,
}

impl Writer {
    pub(super) fn resume(resume: Resume) -> Self {
        let Resume { disk, config, incarnation, open, head, proven, segments, spares } = resume;
        spares.prepare(open.header.number.next());
        let buffers = BufferPool::new(config.commit_bytes);
        Self {
            disk,
            config,
            incarnation,
            settled: open.commits,
            open,
            head,
            placed_group_end: head.last_sequence,
            written: head.last_sequence,
            durable: head.last_sequence,
            written_group_end: head.last_sequence,
            durable_group_end: head.last_sequence,
            proven,
            untallied: VecDeque::new(),
            rotation_due: false,
            poison: None,
            segments,
            spares,
            buffers,
        }
    }

    /// Where the tape stands: what the next commit must continue.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The last event synced.
    pub fn durable(&self) -> Sequence {
        self.durable
    }

    /// The last event synced at which readers may stop: what can be promised, because recovery keeps it.
    pub fn durable_group_end(&self) -> Sequence {
        self.durable_group_end
    }

    /// The segments of this log.
    pub fn segments(&self) -> Segments {
        self.segments.clone()
    }

    /// Where empty commit buffers come from.
    pub fn buffers(&self) -> &Arc<BufferPool> {
        &self.buffers
    }

    /// Says when new events should be refused for want of disk space.
    pub fn space_problem(&self) -> SpaceProblem {
        self.spares.problem()
    }

    pub(super) fn next_segment(&self) -> NextSegment {
        self.spares.next_segment()
    }

    /// The log's configuration.
    pub fn config(&self) -> &WalConfig {
        &self.config
    }

    /// Whether the next frame should carry [`FrameFlags::ENDS_SEGMENT`]: the segment is full and the next one prepared.
    pub fn wants_segment_end(&self) -> bool {
        let number = self.open.header.number.next();
        !self.rotation_due && self.open.at >= self.config.segment_limit() && self.spares.is_ready(number)
    }

    /// Whether [`Writer::idle`] would write a block.
    pub fn has_unproven(&self) -> bool {
        self.poison.is_none() && self.proven < self.durable_group_end
    }

    /// Whether something written is not yet synced.
    pub fn has_unsynced(&self) -> bool {
        self.poison.is_none() && self.durable < self.written
    }

    /// Whether blocks are placed that are not settled.
    pub fn has_under_way(&self) -> bool {
        self.settled < self.open.commits
    }

    /// Whether several commits may be written at once: where each write makes its own bytes durable. A sync makes all
    /// bytes of the file durable that were written before it, so there one at a time is as good.
    pub fn takes_several(&self) -> bool {
        self.config.caching() == Caching::DirectSync
    }

    /// Whether the last commit placed ends the segment: no other can be placed before it is settled and
    /// [`Writer::maintain`] has begun the next one.
    pub fn is_at_segment_end(&self) -> bool {
        self.rotation_due
    }

    /// Writes one commit; it is durable on return under [`SyncPolicy::EveryBatch`].
    ///
    /// A refusal ([`WalError::Chain`], [`WalError::Rule`], a full disk) leaves the log as it was; any other error is final.
    ///
    /// # Panics
    /// If a block placed before is not settled.
    pub fn commit(&mut self, buffer: CommitBuffer) -> Result<Committed, WalError> {
        self.maintain()?;
        let mut placed = self.place(buffer)?;
        match placed.write() {
            Ok(()) => Ok(self.settle(placed)?.expect("not an idle block")),
            Err(error) if error.may_pass() => {
                self.withdraw(&placed);
                Err(error)
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Takes back the last block placed. What was written of it is written over by the next one, or found to be torn: nobody
    /// was told of it.
    fn withdraw(&mut self, placed: &Placed) {
        assert_eq!(placed.header.commit_number, self.open.commits, "the last one");
        self.open.at = placed.at;
        self.open.commits -= 1;
        (self.head, self.placed_group_end) = placed.before;
        self.rotation_due = false;
    }

    /// Gives a commit its place behind the last one. It has to be written, and settled in its turn.
    ///
    /// A refusal ([`WalError::Chain`], [`WalError::Rule`], a full disk) leaves the log as it was; any other error is final.
    pub fn place(&mut self, buffer: CommitBuffer) -> Result<Placed, WalError> {
        self.check_poison()?;
        if self.rotation_due {
            self.maintain()?;
        }
        let (Some(first), Some(last)) = (buffer.first_frame(), buffer.last_frame()) else {
            return Err(WalError::Rule("a commit holds at least one frame"));
        };
        first.check_follows(&self.head)?;
        let ends_segment = last.flags.contains(FrameFlags::ENDS_SEGMENT);
        if ends_segment && !last.ends_group() {
            return Err(WalError::Rule("a segment ends with a group"));
        }
        let vouches_for_all = self.config.mistakes().vouch_for_what_is_under_way;
        let header = CommitHeader {
            segment_id: self.open.header.id,
            commit_number: self.open.commits + 1,
            first_sequence: first.first_sequence,
            last_sequence: last.last_sequence(),
            durable_through: if vouches_for_all { self.placed_group_end } else { self.durable_group_end },
            frame_bytes: u32::try_from(buffer.frame_bytes().len()).expect("bounded by COMMIT_BYTES_MAX"),
            frame_count: buffer.frame_count(),
            previous_checksum: self.head.checksum,
            last_checksum: last.checksum,
            incarnation: self.incarnation,
            open_group: !last.ends_group(),
        };
        self.rotation_due = ends_segment;
        let group_end = last.ends_group().then(|| last.last_sequence());
        Ok(self.place_block(Some(buffer), header, last.head(), group_end))
    }

    fn place_block(
        &mut self,
        buffer: Option<CommitBuffer>,
        header: CommitHeader,
        head: Head,
        group_end: Option<Sequence>,
    ) -> Placed {
        let (at, before) = (self.open.at, (self.head, self.placed_group_end));
        self.open.at += header.total_bytes();
        self.open.commits += 1;
        self.head = head;
        self.placed_group_end = group_end.unwrap_or(self.placed_group_end);
        let mistakes = self.config.mistakes();
        let sync = match (self.config.sync, self.config.caching()) {
            (SyncPolicy::EveryBatch, Caching::DirectSync) => Synced::ByWrite,
            (SyncPolicy::EveryBatch, Caching::Buffered | Caching::Direct) if mistakes.report_before_sync => {
                Synced::Later
            }
            (SyncPolicy::EveryBatch, Caching::Buffered | Caching::Direct) => {
                Synced::ByCall { again: mistakes.retry_failed_sync }
            }
            (SyncPolicy::Interval(_) | SyncPolicy::None, _) => Synced::Later,
        };
        Placed { buffer, header, file: Arc::clone(&self.open.file), at, before, head, group_end, sync }
    }

    /// Counts a block that was written as written, and as durable if it is. `None` for an idle block.
    ///
    /// # Panics
    /// If blocks placed before it are not settled.
    pub fn settle(&mut self, placed: Placed) -> Result<Option<Committed>, WalError> {
        self.check_poison()?;
        assert_eq!(placed.header.commit_number, self.settled + 1, "blocks are settled in order");
        self.settled += 1;
        self.written = placed.head.last_sequence;
        self.written_group_end = placed.group_end.unwrap_or(self.written_group_end);
        self.proven = self.proven.max(placed.header.durable_through);
        if self.config.sync == SyncPolicy::EveryBatch {
            self.durable = self.written;
            self.durable_group_end = self.written_group_end;
        }
        let Some(buffer) = placed.buffer else {
            self.open.tally.add_commit(&[]);
            return Ok(None);
        };
        let commit = buffer.share();
        self.untallied.push_back(Arc::clone(&commit));
        Ok(Some(Committed { commit, written: self.written, durable: self.durable }))
    }

    /// Ends all writing with an error of [`Placed::write`].
    pub fn fail(&mut self, error: WalError) -> WalError {
        self.poison_with(error)
    }

    /// Makes everything written durable.
    pub fn sync(&mut self) -> Result<(), WalError> {
        self.check_poison()?;
        let mistakes = self.config.mistakes();
        if self.config.caching() != Caching::DirectSync
            && !mistakes.report_before_sync
            && let Err(error) = sync(&*self.open.file, mistakes.retry_failed_sync)
        {
            return Err(self.poison_with(error.into()));
        }
        self.durable = self.written;
        self.durable_group_end = self.written_group_end;
        Ok(())
    }

    /// Does what was put off so that no one had to wait for it: sums, sealing, beginning the next segment. The next
    /// commit does it otherwise.
    ///
    /// A full disk is an error that is not final: nothing was changed, and a later call tries again.
    pub fn maintain(&mut self) -> Result<(), WalError> {
        self.check_poison()?;
        self.spares.check().map_err(|error| self.poison_with(error))?;
        self.tally();
        if self.rotation_due && !self.has_under_way() {
            let ready = self.spares.wait(self.open.header.number.next());
            ready.map_err(|error| self.unless_full(error))?;
            self.rotate().map_err(|error| self.unless_full(error))?;
        }
        Ok(())
    }

    /// Called when nothing more has arrived: writes one empty block, and syncs it, so that the last durable group is
    /// provably durable (to a read-only reader, and to recovery as against a torn tail).
    pub fn idle(&mut self) -> Result<(), WalError> {
        self.maintain()?;
        let Some(mut placed) = self.place_idle() else { return Ok(()) };
        match placed.write() {
            Ok(()) => self.settle(placed).map(|_| ())?,
            Err(error) if error.may_pass() => {
                self.withdraw(&placed);
                return Err(error);
            }
            Err(error) => return Err(self.fail(error)),
        }
        if self.config.sync == SyncPolicy::EveryBatch { Ok(()) } else { self.sync() }
    }

    /// The empty block of [`Writer::idle`], to be written beside whatever comes next; `None` if there is nothing to prove
    /// or something under way that will.
    pub fn place_idle(&mut self) -> Option<Placed> {
        if !self.has_unproven() || self.has_under_way() || self.rotation_due {
            return None;
        }
        let header = CommitHeader {
            segment_id: self.open.header.id,
            commit_number: self.open.commits + 1,
            first_sequence: self.head.last_sequence.next(),
            last_sequence: self.head.last_sequence,
            durable_through: self.durable_group_end,
            frame_bytes: 0,
            frame_count: 0,
            previous_checksum: self.head.checksum,
            last_checksum: self.head.checksum,
            incarnation: self.incarnation,
            open_group: self.placed_group_end != self.head.last_sequence,
        };
        Some(self.place_block(None, header, self.head, None))
    }

    /// Makes everything durable and provable.
    pub fn close(mut self) -> Result<(), WalError> {
        self.finish()
    }

    pub(super) fn finish(&mut self) -> Result<(), WalError> {
        self.maintain()?;
        self.sync()?;
        self.idle()
    }

    /// Lets go of the oldest segments, also from another thread while this writer writes.
    pub fn releaser(&self) -> Releaser {
        Releaser::new(Arc::clone(&self.disk), &self.config, self.segments.clone(), self.spares.pool())
    }

    fn tally(&mut self) {
        while let Some(commit) = self.untallied.pop_front() {
            self.open.tally.add_commit(commit.frame_bytes());
            self.spares.pay(commit.frame_bytes().len());
        }
    }

    /// Each of its steps can be done again, with the same outcome, until the new segment is begun.
    fn rotate(&mut self) -> Result<(), WalError> {
        let skip_sync = self.config.mistakes().rotate_without_sync;
        if self.durable < self.written {
            self.sync()?;
        }
        let sealed = seal(&mut self.open, self.head, skip_sync)?;
        self.segments.seal_last(sealed);
        let number = self.open.header.number.next();
        let path = number.path(&self.config.directory);
        let header = SegmentHeader {
            id: new_segment_id(&*self.disk)?,
            cluster: self.config.cluster,
            number,
            head: self.head,
            previous_root: sealed.root,
            previous_id: self.open.header.id,
            incarnation: self.incarnation,
            recycled: false,
        };
        let file = self.disk.open(&path, Access::ReadWrite, self.config.caching())?;
        self.open = begin(file, header)?;
        self.settled = self.open.commits;
        self.segments.begin(SegmentInfo { number, id: self.open.header.id, begins: self.head, sealed: None });
        // The new header, durable by now, proves everything before it.
        self.proven = self.durable_group_end;
        self.rotation_due = false;
        self.spares.prepare(number.next());
        Ok(())
    }

    fn check_poison(&self) -> Result<(), WalError> {
        match &self.poison {
            None => Ok(()),
            Some(cause) => Err(WalError::Poisoned(Arc::clone(cause))),
        }
    }

    /// A full disk is no reason to end: what was to be written is still in memory.
    fn unless_full(&mut self, error: WalError) -> WalError {
        if error.may_pass() { error } else { self.poison_with(error) }
    }

    fn poison_with(&mut self, error: WalError) -> WalError {
        let cause = match error {
            WalError::Poisoned(cause) => cause,
            other => Arc::new(other),
        };
        self.poison = Some(Arc::clone(&cause));
        WalError::Poisoned(cause)
    }
}

/// Writes the footer after the last block, cuts the file there, and makes both durable.
pub(super) fn seal(open: &mut OpenSegment, head: Head, skip_sync: bool) -> Result<Sealed, WalError> {
    let (totals, root) = open.tally.finish();
    let footer = Footer {
        id: open.header.id,
        first_sequence: open.header.head.last_sequence.next(),
        head,
        totals,
        root,
    };
    let mut block = AlignedBytes::zeroed(BLOCK_BYTES);
    footer.encode(&mut block);
    open.file.write_at(&block, open.at)?;
    let file_bytes = open.at + BLOCK_BYTES as u64;
    if !skip_sync {
        // The footer first: a file that is short and has no footer could not be told from a damaged one.
        open.file.sync_data()?;
        open.file.set_len(file_bytes)?;
        open.file.sync_all()?;
    }
    Ok(Sealed { ends: head, totals, root, file_bytes })
}

/// Writes a segment's header, durable on return, over a prepared file, whose mark says whether it had an earlier life.
pub(super) fn begin(file: Arc<dyn DiskFile>, header: SegmentHeader) -> Result<OpenSegment, WalError> {
    let mut block = AlignedBytes::zeroed(BLOCK_BYTES);
    file.read_at(&mut block, 0)?;
    let recycled = SpareMark::decode(&block).is_some_and(|mark| mark.recycled);
    let header = SegmentHeader { recycled, ..header };
    block.fill(0);
    header.encode(&mut block);
    file.write_at(&block, 0)?;
    file.sync_data()?;
    Ok(OpenSegment { header, file, at: SEGMENT_START, commits: 0, tally: Tally::new() })
}

/// Draws the identity of a new segment.
pub(super) fn new_segment_id(disk: &dyn Disk) -> Result<SegmentId, WalError> {
    let mut id = [0; 16];
    disk.random(&mut id)?;
    Ok(SegmentId(id))
}
