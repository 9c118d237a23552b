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

/// Where an event is in its chunk: found in one step, for a search over the frames would meet cold memory with each.
#[derive(Clone, Copy, Debug)]
struct EventAt {
    /// The number of its frame, or that modulo 2^16.
    frame: u16,
    /// Where it starts in the chunk, in units of 16 bytes; the lower half first. So in its parts that 6 bytes are enough.
    offset: [u16; 2],
}

impl EventAt {
    fn new(frame: usize, offset: usize) -> Self {
        let offset = offset / ALIGNMENT;
        Self { frame: frame as u16, offset: [offset as u16, (offset >> 16) as u16] }
    }

    /// In bytes.
    #[inline]
    fn offset(self) -> usize {
        (usize::from(self.offset[0]) | usize::from(self.offset[1]) << 16) * ALIGNMENT
    }
}

/// How many frames later the same number stands in an [`EventAt`].
const FRAMES_TOLD_APART: usize = 1 << 16;

/// Frames that follow each other on the tape, at least one.
#[derive(Debug)]
pub(crate) struct Chunk {
    memory: Memory,
    /// The first event's.
    first: Sequence,
    frames: Box<[FrameAt]>,
    /// Where each event is. Made when first asked for.
    events: OnceLock<Box<[EventAt]>>,
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
        Self::new(Memory::Commit(commit), frames, OnceLock::new())
    }

    fn new(memory: Memory, frames: Vec<FrameAt>, checked: OnceLock<()>) -> Self {
        let first = frames[0].header.first_sequence;
        Self { memory, first, frames: frames.into_boxed_slice(), events: OnceLock::new(), checked }
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
        Ok(Self::new(Memory::Own(bytes, length), frames, OnceLock::from(())))
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
        // Where events are is counted before it is made: it comes with the first index entry or read.
        memory + size_of_val(&*self.frames) + size_of::<EventAt>() * self.event_count() + size_of::<Self>()
    }

    pub(crate) fn frames(&self) -> &[FrameAt] {
        &self.frames
    }

    pub(crate) fn first_sequence(&self) -> Sequence {
        self.first
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

    /// The event at `sequence`, which is in frame `number` and starts so many bytes into the chunk. What holds for the frame is
    /// known here: its own header, which is far from the event, is not looked at.
    #[inline]
    fn event(&self, number: usize, offset: usize, sequence: Sequence) -> EventRef<'_> {
        let header = &self.frames[number].header;
        EventRef::decode_first(sequence, header.epoch, header.accepted_time, &self.bytes()[offset..])
            .expect("the offset came from a checked frame's own events")
    }

    fn events(&self) -> &[EventAt] {
        self.events.get_or_init(|| {
            let mut events = Vec::with_capacity(self.event_count());
            for (number, at) in self.frames.iter().enumerate() {
                let (frame, start) = (self.frame(number), at.start as usize);
                let places = frame.events().map(|event| start + frame.offset_of(&event));
                events.extend(places.map(|offset| EventAt::new(number, offset)));
            }
            events.into_boxed_slice()
        })
    }

    /// The first byte of the event at `sequence`, which is in the chunk.
    #[inline]
    pub(crate) fn first_byte(&self, sequence: Sequence) -> u8 {
        self.bytes()[self.events()[(sequence.0 - self.first.0) as usize].offset()]
    }

    /// The number of the frame that holds `sequence`, which is in the chunk, and where its event starts in the chunk, in bytes.
    #[inline]
    fn find(&self, sequence: Sequence) -> (usize, usize) {
        let index = (sequence.0 - self.first.0) as usize;
        let at = self.events()[index];
        let mut number = usize::from(at.frame);
        while let Some(later) = self.frames.get(number + FRAMES_TOLD_APART) {
            if later.first_event as usize > index {
                break;
            }
            number += FRAMES_TOLD_APART;
        }
        (number, at.offset())
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
        let frames = std::mem::take(&mut self.frames);
        Some(Chunk::new(Memory::Own(bytes, used), frames, OnceLock::from(())))
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
        (index < u64::from(header.count)).then(|| EventHandle::of(&self.chunk, sequence))
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
        Self::at(chunk, number, chunk.frames()[number].start as usize + offset, sequence)
    }

    /// The event of frame `number` that starts `offset` bytes into the chunk.
    #[inline]
    fn at(chunk: &Arc<Chunk>, number: usize, offset: usize, sequence: Sequence) -> Self {
        Self { chunk: Arc::clone(chunk), frame: number as u32, offset: offset as u32, sequence }
    }

    /// The event at `sequence`, which is in the chunk.
    #[inline]
    pub(crate) fn of(chunk: &Arc<Chunk>, sequence: Sequence) -> Self {
        let (number, offset) = chunk.find(sequence);
        Self::at(chunk, number, offset, sequence)
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

#[cfg(test)]
mod tests {
    use matchtape_schemas::event::{SessionOpened, encode_event};
    use matchtape_schemas::{
        AcceptedTime, Event, EventTime, FrameFlags, FrameWriter, InstrumentId, ProducerId, ProducerSequence,
        TapeId,
    };

    use super::*;

    /// A chunk of frames that have so many events each; the numbers of their producer are their positions.
    fn chunk(frames: u64, events: u64) -> Arc<Chunk> {
        let mut head = Head::empty(TapeId(1));
        let mut bytes = AlignedBytes::zeroed(16 << 20);
        let (mut used, mut number) = (0, 0);
        let mut encoded = AlignedBytes::zeroed(4096);
        for _ in 0..frames {
            let mut writer = FrameWriter::new(&mut bytes[used..], &head);
            for _ in 0..events {
                number += 1;
                let event = Event::new(
                    InstrumentId(1),
                    ProducerSequence(number),
                    EventTime(number as i64),
                    SessionOpened::default(),
                );
                let length = event.encoded_len();
                encode_event(&event, ProducerId(1), &mut encoded[..length]);
                assert!(writer.push(&encoded[..length]));
            }
            let accepted = AcceptedTime(number as i64);
            used += writer.finish(&mut head, accepted, FrameFlags::NONE).length as usize;
        }
        Arc::new(Chunk::decode(bytes, used).expect("just written"))
    }

    #[test]
    fn every_event_is_found_with_its_frame_also_where_frames_are_more_than_a_place_has_bits_for() {
        for (frames, events) in [(1, 1), (3, 50), (FRAMES_TOLD_APART as u64 + 10, 1)] {
            let chunk = chunk(frames, events);
            for number in (1..=frames * events).rev().step_by(1 + chunk.event_count() / 1000).chain([1]) {
                let found = EventHandle::of(&chunk, Sequence(number));
                let event = found.event();
                assert_eq!((event.sequence().0, event.header().producer_sequence.get()), (number, number));
                // The frame's own: the number of its last event.
                assert_eq!(event.accepted_time().0 as u64, number.div_ceil(events) * events);
            }
        }
    }
}
