//! What the appender and the log threads share: the frames that no thread has taken yet, and who is to be woken for them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use matchtape_schemas::FrameHeader;
use parking_lot::{Condvar, Mutex};

use super::GroupCommitOptions;
use crate::wal::buffer::{BufferPool, CommitBuffer};
use crate::wal::error::WalError;

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub batches: Mutex<Batches>,
    /// For a log thread: there is something to do.
    pub work: Condvar,
    /// For a waiting appender: there is room.
    pub room: Condvar,
    /// For a log thread that waits for space on the disk: the log is being closed, or soon will be.
    pub closing: Condvar,
    /// For whoever waits for a segment's end: one was sealed, or the log has ended.
    pub sealed: Condvar,
    /// Lets a log thread look for work without the lock.
    pub has_work: AtomicBool,
    pub wants_segment_end: AtomicBool,
    pub options: GroupCommitOptions,
}

impl Shared {
    pub(super) fn new(pool: Arc<BufferPool>, wants_segment_end: bool, options: GroupCommitOptions) -> Self {
        let batches = Batches {
            open: pool.take(),
            full: VecDeque::with_capacity(options.full_buffers_max + 1),
            pool,
            ending: false,
            asleep: 0,
            looking: 0,
            waking: false,
            busy: false,
            blocked: false,
            asked_to_sync: false,
            hurried: false,
            closing: false,
            ended: None,
        };
        Self {
            batches: Mutex::new(batches),
            work: Condvar::new(),
            room: Condvar::new(),
            closing: Condvar::new(),
            sealed: Condvar::new(),
            has_work: AtomicBool::new(false),
            wants_segment_end: AtomicBool::new(wants_segment_end),
            options,
        }
    }
}

#[derive(Debug)]
pub(super) struct Batches {
    pub open: CommitBuffer,
    pub full: VecDeque<CommitBuffer>,
    pool: Arc<BufferPool>,
    /// A frame that ends the segment was appended and its segment is not sealed yet.
    pub ending: bool,
    /// Log threads that sleep, or are about to.
    pub asleep: usize,
    /// Log threads that look for work, or have found it and are about to take it.
    pub looking: usize,
    /// A log thread was woken and is not up yet.
    pub waking: bool,
    /// A commit is under way: only a full buffer is begun beside it.
    pub busy: bool,
    /// Nothing can be begun before something under way is settled.
    pub blocked: bool,
    /// Somebody waits for what is written to be durable, though nothing more may come: the observer is to be asked.
    pub asked_to_sync: bool,
    /// The log is soon to be closed: nobody waits for room on a full disk any more.
    pub hurried: bool,
    pub closing: bool,
    pub ended: Option<Arc<WalError>>,
}

impl Batches {
    pub(super) fn close_open(&mut self) {
        let next = self.pool.take();
        self.full.push_back(std::mem::replace(&mut self.open, next));
    }

    /// The frame behind the open buffer's last one has to open a commit of its own.
    pub(super) fn move_to_new_commit(&mut self, frame: FrameHeader) {
        let mut next = self.pool.take();
        self.open.carry_over(frame, &mut next);
        self.full.push_back(std::mem::replace(&mut self.open, next));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.full.is_empty() && self.open.is_empty()
    }

    /// Whether there is something to begin.
    pub(super) fn has_work(&self) -> bool {
        !self.blocked && (!self.full.is_empty() || (!self.busy && !self.open.is_empty()))
    }

    /// Whether a log thread is to be woken for what there is to do; the caller does it.
    pub(super) fn wakes_one(&mut self) -> bool {
        let wakes = self.asleep > 0 && self.looking == 0 && !self.waking && self.has_work();
        self.waking |= wakes;
        wakes
    }

    pub(super) fn take(&mut self) -> Option<CommitBuffer> {
        if let Some(full) = self.full.pop_front() {
            return Some(full);
        }
        if self.busy || self.open.is_empty() {
            return None;
        }
        let next = self.pool.take();
        Some(std::mem::replace(&mut self.open, next))
    }

    /// Nothing is appended any more.
    pub(super) fn is_over(&self) -> bool {
        self.closing || self.ended.is_some()
    }

    /// Whether it makes sense to wait until there is room on a full disk.
    pub(super) fn waits_for_space(&self) -> bool {
        !self.hurried && !self.is_over()
    }
}
