//! The frame codec: a checksummed batch of consecutive events, the same bytes in the log, on the bus and on the wire.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `MTFR` |
//! | 4 | 2 | version: 1 |
//! | 6 | 2 | flags: [`FrameFlags`] |
//! | 8 | 8 | tape |
//! | 16 | 8 | epoch |
//! | 24 | 8 | first sequence |
//! | 32 | 4 | count of events, at least 1 |
//! | 36 | 4 | length: this header and the events, at most 64 KiB |
//! | 40 | 8 | accepted time, ns: the sequencer's, never decreasing on a tape |
//! | 48 | 8 | the greatest event time of the tape up to the end of this frame, ns |
//! | 56 | 8 | mask of the kinds inside |
//! | 64 | 8 | checksum of the frame before this one on the tape, zero for the first |
//! | 72 | 8 | zero |
//! | 80 | 2 | checksum algorithm: 1 = CRC-32 (ISO-HDLC, as in zlib) |
//! | 82 | 6 | zero |
//! | 88 | 8 | checksum over bytes 0..88 and 96..length |
//! | 96 | | events, each at a multiple of 16 |
//!
//! A frame never holds an unfinished group beside something else: either its last event ends a group, or the frame lies
//! wholly inside one group that is larger than a frame and carries [`FrameFlags::OPEN_GROUP`]. So a position at the end
//! of a frame without that flag is always one that readers may be shown.
//!
//! [`Frame::decode`] checks everything that a reader relies on, once. Nothing in a frame is local to a machine.

use crate::event::{ALIGNMENT, EventError, EventFlags, EventRef, check_event};
use crate::ids::{AcceptedTime, Epoch, EventTime, Sequence, TapeId};
use crate::limits::{EVENT_BYTES_MIN, FRAME_BYTES_MAX};
use crate::tags::KindMask;

/// The header of every frame.
pub const FRAME_HEADER_BYTES: usize = 96;
/// The first bytes of every frame.
pub const FRAME_MAGIC: [u8; 4] = *b"MTFR";
/// The version this release writes.
pub const FRAME_VERSION: u16 = 1;
/// CRC-32/ISO-HDLC, the checksum this release writes.
pub const CHECKSUM_CRC32: u16 = 1;
const CHECKSUM_AT: usize = 88;

/// What holds for a whole frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameFlags(u16);

impl FrameFlags {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// The primary ends the segment with this frame, and so does every replica.
    pub const ENDS_SEGMENT: Self = Self(1);
    /// The group of the last event goes on in the next frame.
    pub const OPEN_GROUP: Self = Self(2);
    const KNOWN: u16 = 3;

    /// The persisted bits; `None` when one is not known.
    pub const fn from_bits(bits: u16) -> Option<Self> {
        if bits & !Self::KNOWN == 0 { Some(Self(bits)) } else { None }
    }

    /// The persisted bits.
    #[inline]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether all of `other` are set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both together.
    #[inline]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Where a tape stands: what the next frame must continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The tape.
    pub tape: TapeId,
    /// The term of the last frame; for a writer, the term it writes in.
    pub epoch: Epoch,
    /// The last event, zero on an empty tape.
    pub last_sequence: Sequence,
    /// The checksum of the last frame, zero on an empty tape.
    pub checksum: u64,
    /// The accepted time of the last frame.
    pub accepted_time: AcceptedTime,
    /// The greatest event time so far.
    pub max_event_time: EventTime,
}

impl Head {
    /// A tape without events.
    pub const fn empty(tape: TapeId) -> Self {
        Self {
            tape,
            epoch: Epoch(0),
            last_sequence: Sequence::ZERO,
            checksum: 0,
            accepted_time: AcceptedTime(i64::MIN),
            max_event_time: EventTime::MIN,
        }
    }
}

/// A frame's header, as native values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What holds for the whole frame.
    pub flags: FrameFlags,
    /// The tape.
    pub tape: TapeId,
    /// The term.
    pub epoch: Epoch,
    /// The position of the first event.
    pub first_sequence: Sequence,
    /// How many events, at least 1.
    pub count: u32,
    /// Header and events, in bytes.
    pub length: u32,
    /// When the sequencer accepted it.
    pub accepted_time: AcceptedTime,
    /// The greatest event time of the tape up to the end of this frame.
    pub max_event_time: EventTime,
    /// The kinds inside.
    pub kinds: KindMask,
    /// The checksum of the frame before.
    pub previous_checksum: u64,
    /// The checksum of this frame.
    pub checksum: u64,
}

impl FrameHeader {
    /// The position of the last event.
    #[inline]
    pub const fn last_sequence(&self) -> Sequence {
        Sequence(self.first_sequence.0 + self.count as u64 - 1)
    }

    /// Where the tape stands after this frame.
    pub const fn head(&self) -> Head {
        Head {
            tape: self.tape,
            epoch: self.epoch,
            last_sequence: self.last_sequence(),
            checksum: self.checksum,
            accepted_time: self.accepted_time,
            max_event_time: self.max_event_time,
        }
    }

    /// Whether readers may stop after this frame.
    #[inline]
    pub const fn ends_group(&self) -> bool {
        !self.flags.contains(FrameFlags::OPEN_GROUP)
    }

    /// Reads and bounds the header that starts `bytes`, without looking at the events or the checksum.
    ///
    /// What it returns is plausible, not proven: use it to learn how many bytes to read.
    pub fn peek(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() < FRAME_HEADER_BYTES {
            return Err(FrameError::Truncated { needed: FRAME_HEADER_BYTES, available: bytes.len() });
        }
        if bytes[0..4] != FRAME_MAGIC {
            return Err(FrameError::Magic { found: array(bytes, 0) });
        }
        let version = u16::from_le_bytes(array(bytes, 4));
        if version != FRAME_VERSION {
            return Err(FrameError::Version { found: version });
        }
        let flag_bits = u16::from_le_bytes(array(bytes, 6));
        let flags = FrameFlags::from_bits(flag_bits).ok_or(FrameError::Flags(flag_bits))?;
        let algorithm = u16::from_le_bytes(array(bytes, 80));
        if algorithm != CHECKSUM_CRC32 {
            return Err(FrameError::Algorithm { found: algorithm });
        }
        if bytes[72..80].iter().chain(&bytes[82..88]).any(|byte| *byte != 0) {
            return Err(FrameError::Reserved);
        }
        let header = Self {
            flags,
            tape: TapeId(u64::from_le_bytes(array(bytes, 8))),
            epoch: Epoch(u64::from_le_bytes(array(bytes, 16))),
            first_sequence: Sequence(u64::from_le_bytes(array(bytes, 24))),
            count: u32::from_le_bytes(array(bytes, 32)),
            length: u32::from_le_bytes(array(bytes, 36)),
            accepted_time: AcceptedTime(i64::from_le_bytes(array(bytes, 40))),
            max_event_time: EventTime(i64::from_le_bytes(array(bytes, 48))),
            kinds: KindMask(u64::from_le_bytes(array(bytes, 56))),
            previous_checksum: u64::from_le_bytes(array(bytes, 64)),
            checksum: u64::from_le_bytes(array(bytes, CHECKSUM_AT)),
        };
        let length = header.length as usize;
        if length > FRAME_BYTES_MAX
            || !length.is_multiple_of(ALIGNMENT)
            || length < FRAME_HEADER_BYTES + EVENT_BYTES_MIN
        {
            return Err(FrameError::Length { length: header.length });
        }
        let events_max = (length - FRAME_HEADER_BYTES) / EVENT_BYTES_MIN;
        if header.count == 0 || header.count as usize > events_max {
            return Err(FrameError::Count { count: header.count, length: header.length });
        }
        if header.first_sequence == Sequence::ZERO
            || header.first_sequence.0.checked_add(u64::from(header.count)).is_none()
        {
            return Err(FrameError::FirstSequence(header.first_sequence));
        }
        Ok(header)
    }

    /// Whether this frame may stand right after `head` on the same tape.
    pub fn check_follows(&self, head: &Head) -> Result<(), ChainError> {
        if self.tape != head.tape {
            return Err(ChainError::Tape { expected: head.tape, found: self.tape });
        }
        if self.epoch < head.epoch {
            return Err(ChainError::Epoch { at_least: head.epoch, found: self.epoch });
        }
        if self.first_sequence != head.last_sequence.next() {
            return Err(ChainError::Sequence {
                expected: head.last_sequence.next(),
                found: self.first_sequence,
            });
        }
        if self.previous_checksum != head.checksum {
            return Err(ChainError::Checksum { expected: head.checksum, found: self.previous_checksum });
        }
        if self.accepted_time < head.accepted_time || self.max_event_time < head.max_event_time {
            return Err(ChainError::Time { first_sequence: self.first_sequence });
        }
        Ok(())
    }
}

/// Bytes that are not a frame.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
pub enum FrameError {
    /// Fewer bytes than the frame has.
    #[error("frame needs {needed} bytes, {available} are there")]
    Truncated {
        /// As stated by the header (or the header's own size).
        needed: usize,
        /// As there are.
        available: usize,
    },
    /// The bytes do not lie at a multiple of 16.
    #[error("frame does not lie at a multiple of {ALIGNMENT}")]
    Misaligned,
    /// No frame starts here.
    #[error("frame magic is {found:02x?}, expected {FRAME_MAGIC:02x?}")]
    Magic {
        /// What stands there.
        found: [u8; 4],
    },
    /// A version this release does not read.
    #[error("frame version {found}, this release reads {FRAME_VERSION}")]
    Version {
        /// As stated.
        found: u16,
    },
    /// A flag this release does not know.
    #[error("unknown frame flags {0:#06x}")]
    Flags(u16),
    /// A checksum algorithm this release does not know.
    #[error("checksum algorithm {found}, this release knows {CHECKSUM_CRC32} (CRC-32)")]
    Algorithm {
        /// As stated.
        found: u16,
    },
    /// Bytes that must be zero are not.
    #[error("reserved bytes of the frame header are not zero")]
    Reserved,
    /// An impossible length.
    #[error("frame length {length} is impossible")]
    Length {
        /// As stated.
        length: u32,
    },
    /// An impossible number of events.
    #[error("{count} events cannot be in a frame of {length} bytes")]
    Count {
        /// As stated.
        count: u32,
        /// As stated.
        length: u32,
    },
    /// A position no event has.
    #[error("first sequence {0} is impossible")]
    FirstSequence(Sequence),
    /// The bytes are not what was written.
    #[error("frame at sequence {first_sequence}: checksum {found:08x}, expected {expected:08x}")]
    Checksum {
        /// The first event's position, as stated.
        first_sequence: Sequence,
        /// As stated by the frame.
        expected: u64,
        /// As computed from its bytes.
        found: u64,
    },
    /// The checksum holds but the header contradicts the events: a broken writer.
    #[error("frame at sequence {first_sequence}: header states another {what} than its events have")]
    Contradiction {
        /// The first event's position, as stated.
        first_sequence: Sequence,
        /// Which field.
        what: &'static str,
    },
    /// One of the events is not one.
    #[error("event {sequence}: {source}")]
    Event {
        /// Its position.
        sequence: Sequence,
        /// What is wrong with it.
        source: EventError,
    },
}

/// A frame that does not continue its tape.
#[derive(thiserror::Error, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainError {
    /// From another tape.
    #[error("frame of tape {found}, expected tape {expected}")]
    Tape {
        /// The tape it should be.
        expected: TapeId,
        /// The frame's.
        found: TapeId,
    },
    /// From an earlier term.
    #[error("frame of epoch {found} after one of epoch {at_least}")]
    Epoch {
        /// The last frame's term.
        at_least: Epoch,
        /// The frame's.
        found: Epoch,
    },
    /// Not the next position.
    #[error("frame starts at sequence {found}, expected {expected}")]
    Sequence {
        /// The next position.
        expected: Sequence,
        /// The frame's.
        found: Sequence,
    },
    /// It continues another frame than the last one.
    #[error("frame continues checksum {found:08x}, the tape's last frame has {expected:08x}")]
    Checksum {
        /// The last frame's.
        expected: u64,
        /// The one it names.
        found: u64,
    },
    /// A clock that must not go back did.
    #[error("frame at sequence {first_sequence}: accepted time or greatest event time goes back")]
    Time {
        /// The frame's first event.
        first_sequence: Sequence,
    },
}

#[inline]
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

fn checksum(frame: &[u8]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..CHECKSUM_AT]);
    hasher.update(&frame[FRAME_HEADER_BYTES..]);
    u64::from(hasher.finalize())
}

/// A checked frame where it lies.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    header: FrameHeader,
    bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Checks the frame that starts `bytes`, which lie at a multiple of 16 and may go on after it: header, checksum,
    /// every event, and that the header says what the events are. It does not know the tape's chain: see
    /// [`FrameHeader::check_follows`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let header = FrameHeader::peek(bytes)?;
        let length = header.length as usize;
        if bytes.len() < length {
            return Err(FrameError::Truncated { needed: length, available: bytes.len() });
        }
        if !bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) {
            return Err(FrameError::Misaligned);
        }
        let bytes = &bytes[..length];
        let found = checksum(bytes);
        if found != header.checksum {
            return Err(FrameError::Checksum {
                first_sequence: header.first_sequence,
                expected: header.checksum,
                found,
            });
        }
        check_events(&header, &bytes[FRAME_HEADER_BYTES..])?;
        Ok(Self { header, bytes })
    }

    /// The frame that starts `bytes`, without checking it again.
    ///
    /// # Safety
    /// [`Frame::decode`] has accepted these bytes before, at an address that was a multiple of 16 as this one is, and
    /// they have not changed since.
    pub unsafe fn assume_checked(bytes: &'a [u8]) -> Self {
        let header = FrameHeader::peek(bytes).expect("the frame was checked before");
        Self { header, bytes: &bytes[..header.length as usize] }
    }

    /// The header.
    #[inline]
    pub fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// The whole frame as it is in WAL, bus and wire.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The position of the first event.
    #[inline]
    pub fn first_sequence(&self) -> Sequence {
        self.header.first_sequence
    }

    /// The position of the last event.
    #[inline]
    pub fn last_sequence(&self) -> Sequence {
        self.header.last_sequence()
    }

    /// The events, in order.
    #[inline]
    pub fn events(&self) -> Events<'a> {
        Events {
            next: self.header.first_sequence,
            epoch: self.header.epoch,
            accepted_time: self.header.accepted_time,
            rest: &self.bytes[FRAME_HEADER_BYTES..],
        }
    }

    /// The event at a position, if it is in this frame.
    pub fn event(&self, sequence: Sequence) -> Option<EventRef<'a>> {
        let index = sequence.0.checked_sub(self.header.first_sequence.0)?;
        self.events().nth(usize::try_from(index).ok()?)
    }

    /// Where an event of this frame starts, in bytes from the frame's start.
    pub fn offset_of(&self, event: &EventRef<'a>) -> usize {
        event.bytes().as_ptr().addr() - self.bytes.as_ptr().addr()
    }
}

impl std::fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.header.fmt(f)
    }
}

fn check_events(header: &FrameHeader, mut rest: &[u8]) -> Result<(), FrameError> {
    let contradiction = |what| FrameError::Contradiction { first_sequence: header.first_sequence, what };
    let (mut count, mut kinds, mut ends_group) = (0u32, 0u64, true);
    while !rest.is_empty() {
        let event = check_event(rest).map_err(|source| FrameError::Event {
            sequence: Sequence(header.first_sequence.0 + u64::from(count)),
            source,
        })?;
        if event.event_time > header.max_event_time {
            return Err(contradiction("greatest event time"));
        }
        count += 1;
        kinds |= 1 << event.kind.tag();
        ends_group = event.flags.contains(EventFlags::LAST_OF_GROUP);
        if ends_group && !header.ends_group() {
            return Err(contradiction("end of group"));
        }
        rest = &rest[event.length as usize..];
    }
    if count != header.count {
        return Err(contradiction("count"));
    }
    if kinds != header.kinds.0 {
        return Err(contradiction("mask of kinds"));
    }
    if ends_group != header.ends_group() {
        return Err(contradiction("end of group"));
    }
    Ok(())
}

/// The events of a frame, in order.
#[derive(Clone)]
pub struct Events<'a> {
    next: Sequence,
    epoch: Epoch,
    accepted_time: AcceptedTime,
    rest: &'a [u8],
}

impl<'a> Iterator for Events<'a> {
    type Item = EventRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<EventRef<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let length = u32::from_le_bytes(array(self.rest, 0)) as usize;
        let (bytes, rest) = self.rest.split_at(length);
        // SAFETY: only a checked `Frame` makes this iterator, and lengths were checked to tile the frame exactly.
        let event = unsafe { EventRef::new_unchecked(self.next, self.epoch, self.accepted_time, bytes) };
        self.next = self.next.next();
        self.rest = rest;
        Some(event)
    }

    #[inline]
    fn nth(&mut self, skipped: usize) -> Option<EventRef<'a>> {
        for _ in 0..skipped {
            if self.rest.is_empty() {
                return None;
            }
            let length = u32::from_le_bytes(array(self.rest, 0)) as usize;
            self.rest = &self.rest[length..];
            self.next = self.next.next();
        }
        self.next()
    }
}

/// What a written frame turned out to be.
pub type FrameInfo = FrameHeader;

/// Writes one frame over memory that lies at a multiple of 16.
///
/// Events are copied in as bytes; `finish` fills in the header, advances the tape's [`Head`] and sets
/// [`EventFlags::LATE`] on events behind the running greatest event time.
#[derive(Debug)]
pub struct FrameWriter<'a> {
    out: &'a mut [u8],
    length: usize,
    count: u32,
    kinds: u64,
    max_event_time: EventTime,
    ends_group: bool,
}

impl<'a> FrameWriter<'a> {
    /// A frame to be written at the start of `out`, after `head`. Uses at most [`FRAME_BYTES_MAX`] bytes of it.
    ///
    /// # Panics
    /// If `out` does not lie at a multiple of 16 or cannot hold a header.
    pub fn new(out: &'a mut [u8], head: &Head) -> Self {
        assert!(out.as_ptr().addr().is_multiple_of(ALIGNMENT), "frames lie at multiples of 16");
        assert!(out.len() >= FRAME_HEADER_BYTES, "room for a frame header");
        let usable = out.len().min(FRAME_BYTES_MAX);
        Self {
            out: &mut out[..usable],
            length: FRAME_HEADER_BYTES,
            count: 0,
            kinds: 0,
            max_event_time: head.max_event_time,
            ends_group: true,
        }
    }

    /// Bytes that further events may take.
    #[inline]
    pub fn room(&self) -> usize {
        self.out.len() - self.length
    }

    /// Events written so far.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether the last event written ends its group.
    #[inline]
    pub fn ends_group(&self) -> bool {
        self.ends_group
    }

    /// Copies one encoded event (from [`encode_event`](crate::event::encode_event), or checked); `false` when it does
    /// not fit.
    #[inline]
    pub fn push(&mut self, event: &[u8]) -> bool {
        if event.len() > self.room() {
            return false;
        }
        let out = &mut self.out[self.length..self.length + event.len()];
        out.copy_from_slice(event);
        let event_time = EventTime(i64::from_le_bytes(array(event, 24)));
        let flags = EventFlags::from_bits(event[6]).unwrap_or_default().without(EventFlags::LATE);
        if event_time < self.max_event_time {
            out[6] = flags.with(EventFlags::LATE).bits();
        } else {
            out[6] = flags.bits();
            self.max_event_time = event_time;
        }
        self.length += event.len();
        self.count += 1;
        self.kinds |= 1u64.wrapping_shl(u32::from(u16::from_le_bytes(array(event, 4))));
        self.ends_group = flags.contains(EventFlags::LAST_OF_GROUP);
        true
    }

    /// Writes the header, makes `head` the tape's state after this frame, and returns what the frame is.
    ///
    /// `accepted_time` is raised to the last frame's where a clock went back. The epoch is `head.epoch`.
    ///
    /// # Panics
    /// If no event was written.
    pub fn finish(self, head: &mut Head, accepted_time: AcceptedTime, flags: FrameFlags) -> FrameInfo {
        assert!(self.count > 0, "a frame has at least one event");
        let group = if self.ends_group { FrameFlags::NONE } else { FrameFlags::OPEN_GROUP };
        let mut header = FrameHeader {
            flags: flags.with(group),
            tape: head.tape,
            epoch: head.epoch,
            first_sequence: head.last_sequence.next(),
            count: self.count,
            length: self.length as u32,
            accepted_time: accepted_time.max(head.accepted_time),
            max_event_time: self.max_event_time,
            kinds: KindMask(self.kinds),
            previous_checksum: head.checksum,
            checksum: 0,
        };
        let frame = &mut self.out[..self.length];
        frame[0..4].copy_from_slice(&FRAME_MAGIC);
        frame[4..6].copy_from_slice(&FRAME_VERSION.to_le_bytes());
        frame[6..8].copy_from_slice(&header.flags.bits().to_le_bytes());
        frame[8..16].copy_from_slice(&header.tape.get().to_le_bytes());
        frame[16..24].copy_from_slice(&header.epoch.get().to_le_bytes());
        frame[24..32].copy_from_slice(&header.first_sequence.get().to_le_bytes());
        frame[32..36].copy_from_slice(&header.count.to_le_bytes());
        frame[36..40].copy_from_slice(&header.length.to_le_bytes());
        frame[40..48].copy_from_slice(&header.accepted_time.get().to_le_bytes());
        frame[48..56].copy_from_slice(&header.max_event_time.get().to_le_bytes());
        frame[56..64].copy_from_slice(&header.kinds.0.to_le_bytes());
        frame[64..72].copy_from_slice(&header.previous_checksum.to_le_bytes());
        frame[72..80].fill(0);
        frame[80..82].copy_from_slice(&CHECKSUM_CRC32.to_le_bytes());
        frame[82..88].fill(0);
        header.checksum = checksum(frame);
        frame[CHECKSUM_AT..FRAME_HEADER_BYTES].copy_from_slice(&header.checksum.to_le_bytes());
        *head = header.head();
        header
    }
}
