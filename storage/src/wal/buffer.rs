//! The memory of one commit: frames are written into it where they will stay, the log writes it with one call, and
//! afterwards the same bytes serve everyone who wants recent events.
//!
//! A full buffer is shared as it is. A commit that fills at most a quarter of its buffer is copied into memory of its own
//! size when it is shared, so that a quiet tape does not hold a megabyte per event.

use std::fmt;
use std::sync::{Arc, Weak};

use matchtape_schemas::frame::ChainError;
use matchtape_schemas::{FrameFlags, FrameHeader, Head, Sequence};
use parking_lot::Mutex;

use super::block::{COMMIT_HEADER_BYTES, CommitHeader};
use crate::disk::{AlignedBytes, BLOCK_BYTES};

/// A buffer that is at most this part full is shared as a copy.
const SHARE_COPY_DIVISOR: usize = 4;

/// Bytes of unused buffers that are kept. A flushed memtable gives its buffers back at once, and the next one takes them: from
/// the system each page would have to be zeroed and mapped again, which took a tenth of all the processor time of a node at 2 M
/// events/s. Together with those in use they are never more than were once in use.
const KEEP_BYTES: usize = 128 << 20;

/// Buffers that are kept whatever their size.
const KEEP_LEAST: usize = 8;

/// Where commit buffers come from and return to.
#[derive(Debug)]
pub struct BufferPool {
    free: Mutex<Vec<AlignedBytes>>,
    buffer_bytes: usize,
}

impl BufferPool {
    /// Buffers of `buffer_bytes`.
    pub(super) fn new(buffer_bytes: usize) -> Arc<Self> {
        assert!(buffer_bytes.is_multiple_of(BLOCK_BYTES));
        Arc::new(Self { free: Mutex::new(Vec::new()), buffer_bytes })
    }

    fn keep_max(&self) -> usize {
        (KEEP_BYTES / self.buffer_bytes).max(KEEP_LEAST)
    }

    /// An empty buffer, recycled if there is one.
    pub fn take(self: &Arc<Self>) -> CommitBuffer {
        let memory = self.free.lock().pop().unwrap_or_else(|| AlignedBytes::zeroed(self.buffer_bytes));
        CommitBuffer {
            memory: Memory::Pooled { bytes: Some(memory), pool: Arc::downgrade(self) },
            used: COMMIT_HEADER_BYTES,
            summary: None,
        }
    }
}

enum Memory {
    /// Returns to its pool, if that still exists.
    Pooled { bytes: Option<AlignedBytes>, pool: Weak<BufferPool> },
    /// A small commit's own memory. 16-byte units, because frames lie at multiples of 16.
    Own(Box<[u128]>),
}

impl Drop for Memory {
    fn drop(&mut self) {
        let Self::Pooled { bytes, pool } = self else { return };
        let (Some(bytes), Some(pool)) = (bytes.take(), pool.upgrade()) else { return };
        let mut free = pool.free.lock();
        if free.len() < pool.keep_max() {
            free.push(bytes);
        }
    }
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Pooled { bytes, .. } => bytes.as_ref().expect("taken only when dropped"),
            Self::Own(units) => {
                // SAFETY: the units are initialised, live as long as `self`, and any byte of them is a valid `u8`.
                unsafe { std::slice::from_raw_parts(units.as_ptr().cast::<u8>(), units.len() * 16) }
            }
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Pooled { bytes, .. } => bytes.as_mut().expect("taken only when dropped"),
            Self::Own(units) => {
                // SAFETY: as in `bytes`; exclusive through `&mut self`, and any bytes make a valid `u128`.
                unsafe { std::slice::from_raw_parts_mut(units.as_mut_ptr().cast::<u8>(), units.len() * 16) }
            }
        }
    }
}

/// What the frames of a buffer are, kept as they are added.
#[derive(Clone, Copy, Debug)]
struct Summary {
    first: FrameHeader,
    last: FrameHeader,
    frames: u32,
}

/// The frames of one commit, with room for its header before them. Frames lie at multiples of 16.
pub struct CommitBuffer {
    memory: Memory,
    used: usize,
    summary: Option<Summary>,
}

/// Why a frame may not join a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It does not continue the frame before.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// It begins a group larger than a frame and must therefore begin a commit, so that recovery can drop an unfinished
    /// group by whole commits; or the commit ends with the last frame of a segment. [`CommitBuffer::carry_over`].
    #[error("the frame has to begin a commit of its own")]
    NewCommit(FrameHeader),
}

impl CommitBuffer {
    /// Bytes that further frames may take.
    pub fn room(&self) -> usize {
        self.memory.bytes().len() - self.used
    }

    /// Whether no frame was added.
    pub fn is_empty(&self) -> bool {
        self.summary.is_none()
    }

    /// Appends one frame, which `write` writes at the start of the memory it is given (at a multiple of 16) with
    /// `FrameWriter`.
    pub fn append(&mut self, write: impl FnOnce(&mut [u8]) -> FrameHeader) -> Result<FrameHeader, Refusal> {
        let frame = write(self.space());
        self.add(frame)?;
        Ok(frame)
    }

    /// Begins the empty commit `into` with the frame that the last [`CommitBuffer::append`] refused with
    /// [`Refusal::NewCommit`].
    pub fn carry_over(&mut self, frame: FrameHeader, into: &mut Self) {
        let length = frame.length as usize;
        into.space()[..length].copy_from_slice(&self.space()[..length]);
        into.add(frame).expect("an empty commit takes any frame");
    }

    /// Where the next frame is to be written.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let used = self.used;
        &mut self.memory.bytes_mut()[used..]
    }

    /// Takes in the frame that was written at the start of `space`.
    pub(super) fn add(&mut self, frame: FrameHeader) -> Result<(), Refusal> {
        let Some(summary) = &mut self.summary else {
            self.summary = Some(Summary { first: frame, last: frame, frames: 1 });
            self.used += frame.length as usize;
            return Ok(());
        };
        let before_ends_group = summary.last.ends_group();
        if (before_ends_group && !frame.ends_group()) || summary.last.flags.contains(FrameFlags::ENDS_SEGMENT)
        {
            return Err(Refusal::NewCommit(frame));
        }
        frame.check_follows(&summary.last.head())?;
        summary.last = frame;
        summary.frames += 1;
        self.used += frame.length as usize;
        Ok(())
    }

    /// The frames, one after the other.
    pub fn frame_bytes(&self) -> &[u8] {
        &self.memory.bytes()[COMMIT_HEADER_BYTES..self.used]
    }

    /// The header of each frame, with the frame's bytes. They are as the framing side wrote them, not checked again.
    pub fn frames(&self) -> impl Iterator<Item = (FrameHeader, &[u8])> {
        let mut rest = self.frame_bytes();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let header = FrameHeader::peek(rest).expect("only frames were added");
            let (frame, others) = rest.split_at(header.length as usize);
            rest = others;
            Some((header, frame))
        })
    }

    /// The first event, if there is one.
    pub fn first_sequence(&self) -> Option<Sequence> {
        self.summary.map(|summary| summary.first.first_sequence)
    }

    /// Where the tape stands after these frames, if there are any.
    pub fn head(&self) -> Option<Head> {
        self.summary.map(|summary| summary.last.head())
    }

    /// The last event at which readers may stop, if there is one in these frames. (A commit whose last frame lies inside
    /// a large group began inside it.)
    pub fn last_group_end(&self) -> Option<Sequence> {
        let last = self.summary?.last;
        last.ends_group().then(|| last.last_sequence())
    }

    /// The memory this commit holds, in bytes, unused parts included.
    pub fn memory_bytes(&self) -> usize {
        self.memory.bytes().len()
    }

    pub(super) fn first_frame(&self) -> Option<FrameHeader> {
        self.summary.map(|summary| summary.first)
    }

    pub(super) fn last_frame(&self) -> Option<FrameHeader> {
        self.summary.map(|summary| summary.last)
    }

    pub(super) fn frame_count(&self) -> u32 {
        self.summary.map_or(0, |summary| summary.frames)
    }

    /// Writes the commit's header, zeroes its padding and returns the bytes to write.
    pub(super) fn finish(&mut self, header: &CommitHeader) -> &[u8] {
        let total = usize::try_from(header.total_bytes()).expect("bounded by the buffer");
        let used = self.used;
        let bytes = self.memory.bytes_mut();
        header.encode(bytes);
        bytes[used..total].fill(0);
        &bytes[..total]
    }

    /// Ends writing: from here on the bytes are read by many.
    pub(super) fn share(mut self) -> Arc<Self> {
        if self.used <= self.memory.bytes().len() / SHARE_COPY_DIVISOR {
            let mut own = Memory::Own(vec![0_u128; self.used.div_ceil(16)].into_boxed_slice());
            own.bytes_mut()[..self.used].copy_from_slice(&self.memory.bytes()[..self.used]);
            self.memory = own;
        }
        Arc::new(self)
    }
}

impl fmt::Debug for CommitBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitBuffer").field("bytes", &self.used).field("summary", &self.summary).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_that_come_back_are_taken_again_and_kept_up_to_a_bound() {
        for (buffer_bytes, kept) in [(32 << 20, KEEP_LEAST), (4 << 20, 32)] {
            let pool = BufferPool::new(buffer_bytes);
            let taken: Vec<_> = (0..kept + 3).map(|_| pool.take()).collect();
            let places: Vec<_> = taken.iter().map(|buffer| buffer.memory.bytes().as_ptr()).collect();
            drop(taken);
            assert_eq!(pool.free.lock().len(), kept);
            let again = pool.take();
            assert!(places.contains(&again.memory.bytes().as_ptr()), "it is one of those that came back");
            assert_eq!(pool.free.lock().len(), kept - 1);
        }
    }

    #[test]
    fn a_buffer_that_outlives_its_pool_is_freed() {
        let pool = BufferPool::new(BLOCK_BYTES);
        let buffer = pool.take();
        drop(pool);
        assert_eq!(buffer.memory_bytes(), BLOCK_BYTES);
    }
}
