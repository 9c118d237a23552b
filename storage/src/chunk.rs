//! Consecutive frames in memory: a commit as it was written to the log, or a decoded block of an event table. Readers
//! hold an `Arc` of it, so nothing they were given is copied or goes away.
//!
//! This is the one place that trusts bytes without checking them again. It may, because every frame of a chunk is checked
//! once (a block when it is decoded, a commit when it is first read), and its memory never changes.

use std::sync::{Arc, OnceLock};

use matchtape_schemas::event::ALIGNMENT;
use matchtape_schemas::frame::{ChainError, FrameError};
use matchtape_schemas::limits::FRAME_BYTES_MAX;
use matchtape_schemas::{EventRef, Frame, FrameHeader, Head, Sequence};

use crate::disk::AlignedBytes;
use crate::wal::CommitBuffer;

/// Offsets inside a frame are kept in units of the alignment, so that they fit 16 bits.
const _: () = assert!(FRAME_BYTES_MAX / ALIGNMENT <= u16::MAX as usize);

#[derive(Debug)]
enum Memory {
    Commit(Arc<CommitBuffer>),
    /// The first so many bytes.
    Own(AlignedBytes, usize),
}

/// Where a frame lies in its chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameAt {
    /// Its header.
    pub header: FrameHeader,
    /// Its first byte in the chunk.
    pub start: u32,
    /// The number of its first event among the chunk's.
    pub first_event: u32,
}

/// Frames that follow each other on the tape, at least one.
#[derive(Debug)]
pub(crate) struct Chunk {
    memory: Memory,
    frames: Box<[FrameAt]>,
    /// Of each event: where it starts in its frame, in units of 16 bytes. Made when first asked for.
    offsets: OnceLock<Box<[u16]>>,
    /// Every frame was checked.
    checked: OnceLock<()>,
}

/// Bytes that are not a run of frames.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChunkError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("no frame")]
    Empty,
}

impl Chunk {
    /// The frames of a commit that the log has taken.
    pub(crate) fn of_commit(commit: Arc<CommitBuffer>) -> Self {
        let mut frames = Vec::new();
        let (mut start, mut first_event) = (0, 0);
        for (header, _) in commit.frames() {
            frames.push(FrameAt { header, start, first_event });
            start += header.length;
            first_event += header.count;
        }
        assert!(!frames.is_empty(), "a commit holds at least one frame");
        Self {
            memory: Memory::Commit(commit),
            frames: frames.into_boxed_slice(),
            offsets: OnceLock::new(),
            checked: OnceLock::new(),
        }
    }

    /// Checks every frame in the first `length` bytes, and that they fill them and follow each other.
    pub(crate) fn decode(bytes: AlignedBytes, length: usize) -> Result<Self, (usize, ChunkError)> {
        let mut frames: Vec<FrameAt> = Vec::new();
        let (mut start, mut first_event) = (0, 0);
        while start < length {
            let at = |error: ChunkError| (start, error);
            let frame = Frame::decode(&bytes[start..length]).map_err(|error| at(error.into()))?;
            let header = *frame.header();
            if let Some(before) = frames.last() {
                header.check_follows(&before.header.head()).map_err(|error| at(error.into()))?;
            }
            frames.push(FrameAt { header, start: start as u32, first_event });
            start += header.length as usize;
            first_event += header.count;
        }
        if frames.is_empty() {
            return Err((0, ChunkError::Empty));
        }
        Ok(Self {
            memory: Memory::Own(bytes, length),
            frames: frames.into_boxed_slice(),
            offsets: OnceLock::new(),
            checked: OnceLock::from(()),
        })
    }

    /// What the framing side wrote is looked at once here, off the log's thread: from then on it may be trusted.
    fn check(&self) {
        self.checked.get_or_init(|| {
            for at in &self.frames {
                let found = Frame::decode(&self.bytes()[at.start as usize..]);
                let header = found.as_ref().map(Frame::header);
                assert!(
                    header == Ok(&at.header),
                    "the log was given something else than a frame: {header:?}"
                );
            }
        });
    }

    /// All frames, one after the other.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Commit(commit) => commit.frame_bytes(),
            Memory::Own(bytes, length) => &bytes[..*length],
        }
    }

    /// Memory this chunk holds, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let memory = match &self.memory {
            Memory::Commit(commit) => commit.memory_bytes(),
            Memory::Own(bytes, _) => bytes.len(),
        };
        // The offsets are counted before they are made: they come with the first index entry or read.
        memory + size_of_val(&*self.frames) + 2 * self.event_count() + size_of::<Self>()
    }

    pub(crate) fn frames(&self) -> &[FrameAt] {
        &self.frames
    }

    pub(crate) fn first_sequence(&self) -> Sequence {
        self.frames[0].header.first_sequence
    }

    pub(crate) fn last_header(&self) -> &FrameHeader {
        &self.frames[self.frames.len() - 1].header
    }

    pub(crate) fn last_sequence(&self) -> Sequence {
        self.last_header().last_sequence()
    }

    /// Where the tape stands after these frames.
    pub(crate) fn head(&self) -> Head {
        self.last_header().head()
    }

    pub(crate) fn event_count(&self) -> usize {
        let last = &self.frames[self.frames.len() - 1];
        (last.first_event + last.header.count) as usize
    }

    /// The number of the frame that holds `sequence`, which is in the chunk.
    pub(crate) fn frame_holding(&self, sequence: Sequence) -> usize {
        debug_assert!(self.first_sequence() <= sequence && sequence <= self.last_sequence());
        self.frames.partition_point(|frame| frame.header.first_sequence <= sequence) - 1
    }

    /// A frame, where it lies.
    pub(crate) fn frame(&self, number: usize) -> Frame<'_> {
        self.check();
        let bytes = &self.bytes()[self.frames[number].start as usize..];
        // SAFETY: `decode`, `ChunkBuilder::add`'s caller or `check` has had these bytes decoded in this very memory (or
        // copied them from where they were), at a multiple of 16; the chunk owns it and nobody can write to it any more.
        unsafe { Frame::assume_checked(bytes) }
    }

    /// The event at `sequence`, which starts so many bytes into frame `number`. Where the frame lies and what holds for it is known
    /// here: its own header, which is far from the event, is not looked at.
    #[inline]
    fn event(&self, number: usize, offset: usize, sequence: Sequence) -> EventRef<'_> {
        let FrameAt { header, start, .. } = &self.frames[number];
        let frame = &self.bytes()[*start as usize..][..header.length as usize];
        EventRef::decode_first(sequence, header.epoch, header.accepted_time, &frame[offset..])
            .expect("the offset came from the frame's own events")
    }

    /// Where each event starts in its frame, in units of 16 bytes.
    fn offsets(&self) -> &[u16] {
        self.offsets.get_or_init(|| {
            let mut offsets = Vec::with_capacity(self.event_count());
            for number in 0..self.frames.len() {
                let frame = self.frame(number);
                offsets.extend(frame.events().map(|event| (frame.offset_of(&event) / ALIGNMENT) as u16));
            }
            offsets.into_boxed_slice()
        })
    }

    /// Where the event of number `index` in frame `number` starts, in bytes from the frame's start.
    #[inline]
    pub(crate) fn event_offset(&self, number: usize, index: u32) -> usize {
        usize::from(self.offsets()[(self.frames[number].first_event + index) as usize]) * ALIGNMENT
    }
}

/// Gathers checked frames into chunks of a convenient size.
#[derive(Debug, Default)]
pub(crate) struct ChunkBuilder {
    bytes: Option<AlignedBytes>,
    used: usize,
    frames: Vec<FrameAt>,
}

/// What a gathered chunk holds at most.
const GATHERED_BYTES: usize = 4 * FRAME_BYTES_MAX;

impl ChunkBuilder {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn has_room_for(&self, frame: &Frame<'_>) -> bool {
        self.used + frame.bytes().len() <= GATHERED_BYTES
    }

    /// Copies the next frame of the tape, which has room.
    pub(crate) fn add(&mut self, frame: &Frame<'_>) {
        let bytes = self.bytes.get_or_insert_with(|| AlignedBytes::zeroed(GATHERED_BYTES));
        bytes[self.used..self.used + frame.bytes().len()].copy_from_slice(frame.bytes());
        let first_event = self.frames.last().map_or(0, |before| before.first_event + before.header.count);
        self.frames.push(FrameAt { header: *frame.header(), start: self.used as u32, first_event });
        self.used += frame.bytes().len();
    }

    /// What was gathered, in memory of its size; `None` if that is nothing.
    pub(crate) fn take(&mut self) -> Option<Chunk> {
        let mut bytes = self.bytes.take()?;
        let used = std::mem::take(&mut self.used);
        if used <= GATHERED_BYTES / 2 {
            let mut exact = AlignedBytes::zeroed(used);
            exact.copy_from_slice(&bytes[..used]);
            bytes = exact;
        }
        let frames = std::mem::take(&mut self.frames).into_boxed_slice();
        Some(Chunk {
            memory: Memory::Own(bytes, used),
            frames,
            offsets: OnceLock::new(),
            checked: OnceLock::from(()),
        })
    }
}

/// A whole frame that was read, as it lies in WAL, bus and wire.
#[derive(Clone, Debug)]
pub struct FrameHandle {
    pub(crate) chunk: Arc<Chunk>,
    pub(crate) number: u32,
}

impl FrameHandle {
    /// The frame.
    pub fn frame(&self) -> Frame<'_> {
        self.chunk.frame(self.number as usize)
    }

    /// Its header.
    pub fn header(&self) -> &FrameHeader {
        &self.chunk.frames()[self.number as usize].header
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        let at = &self.chunk.frames()[self.number as usize];
        &self.chunk.bytes()[at.start as usize..][..at.header.length as usize]
    }

    /// The event at a position, if it is in this frame. It is found without going through those before it.
    pub fn event(&self, sequence: Sequence) -> Option<EventHandle> {
        let header = self.header();
        let index = sequence.0.checked_sub(header.first_sequence.0)?;
        (index < u64::from(header.count))
            .then(|| EventHandle::at(&self.chunk, self.number as usize, index as u32))
    }
}

/// An event that was read: it holds the memory the event lies in.
#[derive(Clone, Debug)]
pub struct EventHandle {
    chunk: Arc<Chunk>,
    frame: u32,
    offset: u32,
    sequence: Sequence,
}

impl EventHandle {
    /// The event that starts `offset` bytes into frame `number`.
    #[inline]
    pub(crate) fn new(chunk: &Arc<Chunk>, number: usize, offset: usize, sequence: Sequence) -> Self {
        Self { chunk: Arc::clone(chunk), frame: number as u32, offset: offset as u32, sequence }
    }

    /// The event of number `index` in frame `number`.
    #[inline]
    pub(crate) fn at(chunk: &Arc<Chunk>, number: usize, index: u32) -> Self {
        let sequence = Sequence(chunk.frames()[number].header.first_sequence.0 + u64::from(index));
        Self::new(chunk, number, chunk.event_offset(number, index), sequence)
    }

    /// The event at `sequence`, which is in the chunk.
    #[inline]
    pub(crate) fn of(chunk: &Arc<Chunk>, sequence: Sequence) -> Self {
        let number = chunk.frame_holding(sequence);
        let index = sequence.0 - chunk.frames()[number].header.first_sequence.0;
        Self::at(chunk, number, index as u32)
    }

    /// Its position on the tape.
    #[inline]
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// The event, where it lies.
    #[inline]
    pub fn event(&self) -> EventRef<'_> {
        self.chunk.event(self.frame as usize, self.offset as usize, self.sequence)
    }
}
