//! One message of the delayed tier as bytes: a window, a part of one, or a run of empty ones.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `MTWB` |
//! | 4 | 2 | version: 1 |
//! | 6 | 2 | flags: 1 = the last part of its window, 2 = a run of empty windows, 4 = of a conflated channel |
//! | 8 | 8 | tape |
//! | 16 | 8 | width of a window, ns |
//! | 24 | 8 | first window: it begins at first window x width |
//! | 32 | 8 | last window: the first one, but in a run of empty ones |
//! | 40 | 8 | first position covered |
//! | 48 | 8 | last position covered; one less than the first when none is |
//! | 56 | 4 | part, from 0 |
//! | 60 | 4 | count of events |
//! | 64 | 4 | of which late: their own time lies before the window |
//! | 68 | 4 | length of all of it |
//! | 72 | 4 | count of events left out by conflation; zero without flag 4 |
//! | 76 | 4 | zero |
//! | 80 | | runs |
//!
//! A run is a 32-byte header (first position, epoch, accepted time, count `u32`, length of its events `u32`), then
//! events of consecutive positions as they are on the tape. All numbers are little-endian, everything lies at multiples
//! of 16. A run ends only where the next event differs in one of these, so the bytes do not depend on framing. What
//! conflation leaves out is told in `conflate.rs`.

use std::fmt;
use std::str::FromStr;

use matchtape_schemas::event::{ALIGNMENT, EventError};
use matchtape_schemas::{AcceptedTime, Epoch, EventRef, EventTime, Sequence, TapeId};
use rkyv::util::AlignedVec;

const MAGIC: [u8; 4] = *b"MTWB";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 80;
const RUN_HEADER_BYTES: usize = 32;
const LAST_PART: u16 = 1;
const EMPTY: u16 = 2;
const CONFLATED: u16 = 4;

/// Bytes that are not a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer or more bytes than the batch has.
    #[error("batch has {stated} bytes, {available} are there")]
    Length {
        /// As stated (or the least there must be).
        stated: usize,
        /// As there are.
        available: usize,
    },
    /// They do not lie at a multiple of 16.
    #[error("batch does not lie at a multiple of {ALIGNMENT}")]
    Misaligned,
    /// A field of the header holds what no writer writes.
    #[error("batch header: {0} is impossible")]
    Header(&'static str),
    /// A run's header contradicts its events or its place.
    #[error("batch run at byte {at}: {what} is impossible")]
    Run {
        /// Where the run starts.
        at: usize,
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

/// Where a reader of windows stands after a batch: store it, and resume with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowCursor {
    /// The last window seen.
    pub window: i64,
    /// Parts of it that are still to come begin with this one; `None`: it was complete.
    pub next_part: Option<u32>,
    /// The last position covered.
    pub last: Sequence,
}

/// `LAST/WINDOW`, and `/PART` where parts of the window are still to come: as it is stored, and given back to `from_str`.
impl fmt::Display for WindowCursor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.last, self.window)?;
        self.next_part.map_or(Ok(()), |part| write!(out, "/{part}"))
    }
}

/// The text is no [`WindowCursor`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not where a window ended, like 180211/17035452000 (LAST/WINDOW, or LAST/WINDOW/PART)")]
pub struct WindowCursorError(String);

impl FromStr for WindowCursor {
    type Err = WindowCursorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || WindowCursorError(text.to_owned());
        let mut fields = text.split('/');
        let last = fields.next().and_then(|last| last.parse().ok()).ok_or_else(error)?;
        let window = fields.next().and_then(|window| window.parse().ok()).ok_or_else(error)?;
        let next_part = fields.next().map(|part| part.parse().map_err(|_| error())).transpose()?;
        if fields.next().is_some() || last == u64::MAX {
            return Err(error());
        }
        Ok(Self { window, next_part, last: Sequence(last) })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub last_part: bool,
    pub empty: bool,
    pub tape: TapeId,
    pub width: i64,
    pub first_window: i64,
    pub last_window: i64,
    pub first: Sequence,
    pub last: Sequence,
    pub part: u32,
    pub count: u32,
    pub late: u32,
    pub conflated: bool,
    pub left_out: u32,
}

/// A checked batch where it lies.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    header: BatchHeader,
    bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Checks the batch that `bytes`, at a multiple of 16, exactly are.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BatchError> {
        if !bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) {
            return Err(BatchError::Misaligned);
        }
        let header = BatchHeader::decode(bytes)?;
        check_runs(&header, bytes)?;
        Ok(Self { header, bytes })
    }

    /// The window; the first one of a run of empty ones.
    #[must_use]
    pub fn window(&self) -> i64 {
        self.header.first_window
    }

    /// How many windows this is about: more than one only when they are empty.
    #[must_use]
    pub fn windows(&self) -> u64 {
        self.header.last_window.abs_diff(self.header.first_window) + 1
    }

    /// Whether it says that nothing happened in its windows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.header.empty
    }

    /// When the first window begins.
    #[must_use]
    pub fn start(&self) -> EventTime {
        EventTime(self.header.first_window.saturating_mul(self.header.width))
    }

    /// When the last window ends; the first moment after it.
    #[must_use]
    pub fn end(&self) -> EventTime {
        EventTime(self.header.last_window.saturating_add(1).saturating_mul(self.header.width))
    }

    /// The tape.
    #[must_use]
    pub fn tape(&self) -> TapeId {
        self.header.tape
    }

    /// The first position covered, shown or not. Positions continue from batch to batch.
    #[must_use]
    pub fn first(&self) -> Sequence {
        self.header.first
    }

    /// The last position covered; before [`first`](Self::first) when none is.
    #[must_use]
    pub fn last(&self) -> Sequence {
        self.header.last
    }

    /// Which part of its window, from 0.
    #[must_use]
    pub fn part(&self) -> u32 {
        self.header.part
    }

    /// Whether its window ends with it.
    #[must_use]
    pub fn is_last_part(&self) -> bool {
        self.header.last_part
    }

    /// How many events it holds.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.header.count
    }

    /// How many of them are late: their own time lies before the window they are shown in.
    #[must_use]
    pub fn late(&self) -> u32 {
        self.header.late
    }

    /// Whether it is of a conflated channel: events that later ones of it made superfluous are not in it.
    #[must_use]
    pub fn is_conflated(&self) -> bool {
        self.header.conflated
    }

    /// How many events conflation left out. With [`count`](Self::count) they are all that passed the filter.
    #[must_use]
    pub fn left_out(&self) -> u32 {
        self.header.left_out
    }

    /// Where its reader stands afterwards.
    #[must_use]
    pub fn cursor(&self) -> WindowCursor {
        WindowCursor {
            window: self.header.last_window,
            next_part: (!self.header.last_part).then(|| self.header.part + 1),
            last: self.header.last,
        }
    }

    /// Its events, in order.
    #[must_use]
    pub fn events(&self) -> BatchEvents<'a> {
        BatchEvents { rest: &self.bytes[HEADER_BYTES..], run: None, left: 0 }
    }

    /// All of it, as it is sent and stored.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl std::fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.header.fmt(f)
    }
}

/// The events of a batch, in order.
#[derive(Clone)]
pub struct BatchEvents<'a> {
    rest: &'a [u8],
    /// Epoch, accepted time and next position of the run that `rest` is in.
    run: Option<(Epoch, AcceptedTime, Sequence)>,
    left: u32,
}

impl<'a> Iterator for BatchEvents<'a> {
    type Item = EventRef<'a>;

    fn next(&mut self) -> Option<EventRef<'a>> {
        if self.left == 0 {
            if self.rest.is_empty() {
                return None;
            }
            let run = Run::decode(self.rest);
            self.run = Some((run.epoch, run.accepted_time, run.first));
            self.left = run.count;
            self.rest = &self.rest[RUN_HEADER_BYTES..];
        }
        let (epoch, accepted_time, next) = self.run.as_mut()?;
        let length = u32::from_le_bytes(array(self.rest, 0)) as usize;
        let (bytes, rest) = self.rest.split_at(length);
        let event = EventRef::decode(*next, *epoch, *accepted_time, bytes).expect("the batch was checked");
        *next = next.next();
        self.left -= 1;
        self.rest = rest;
        Some(event)
    }
}

/// A batch and its memory.
#[derive(Clone)]
pub struct BatchBuf {
    bytes: AlignedVec<ALIGNMENT>,
}

impl BatchBuf {
    /// A copy.
    #[must_use]
    pub fn copy(batch: &Batch<'_>) -> Self {
        let mut bytes = AlignedVec::new();
        bytes.extend_from_slice(batch.bytes);
        Self { bytes }
    }

    /// The batch.
    #[must_use]
    pub fn batch(&self) -> Batch<'_> {
        let header = BatchHeader::decode(&self.bytes).expect("built here");
        Batch { header, bytes: &self.bytes }
    }
}

impl PartialEq for BatchBuf {
    fn eq(&self, other: &Self) -> bool {
        self.bytes.as_slice() == other.bytes.as_slice()
    }
}

impl Eq for BatchBuf {}

impl std::fmt::Debug for BatchBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.batch().fmt(f)
    }
}

/// Collects the events of one batch.
pub(crate) struct Builder {
    bytes: AlignedVec<ALIGNMENT>,
    count: u32,
    late: u32,
    left_out: u32,
    /// The run being written and where its header lies.
    run: Option<(usize, Run)>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        let mut bytes = AlignedVec::new();
        bytes.extend_from_slice(&[0; HEADER_BYTES]);
        Self { bytes, count: 0, late: 0, left_out: 0, run: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn push(&mut self, event: &EventRef<'_>, late: bool) {
        let continues = self.run.as_ref().is_some_and(|(_, run)| {
            run.epoch == event.epoch()
                && run.accepted_time == event.accepted_time()
                && run.first.get() + u64::from(run.count) == event.sequence().get()
        });
        if !continues {
            self.end_run();
            let run = Run {
                first: event.sequence(),
                epoch: event.epoch(),
                accepted_time: event.accepted_time(),
                count: 0,
                length: 0,
            };
            self.run = Some((self.bytes.len(), run));
            self.bytes.extend_from_slice(&[0; RUN_HEADER_BYTES]);
        }
        if let Some((_, run)) = &mut self.run {
            run.count += 1;
            run.length += event.bytes().len() as u32;
        }
        self.bytes.extend_from_slice(event.bytes());
        self.count += 1;
        self.late += u32::from(late);
    }

    /// The next event is not in it.
    pub(crate) fn leave_out(&mut self) {
        self.left_out += 1;
    }

    /// The batch of what was pushed, otherwise as `whole`, which nothing was left out of.
    pub(crate) fn finish_conflated(self, whole: &Batch<'_>) -> BatchBuf {
        let left_out = whole.header.left_out + self.left_out;
        self.finish(BatchHeader { conflated: true, left_out, ..whole.header })
    }

    fn end_run(&mut self) {
        if let Some((at, run)) = self.run.take() {
            run.encode(&mut self.bytes[at..at + RUN_HEADER_BYTES]);
        }
    }

    /// The batch; counts are those of what was pushed.
    pub(crate) fn finish(mut self, header: BatchHeader) -> BatchBuf {
        self.end_run();
        let header = BatchHeader { count: self.count, late: self.late, ..header };
        let length = u32::try_from(self.bytes.len()).expect("a part is cut long before 4 GiB");
        header.encode(length, &mut self.bytes[..HEADER_BYTES]);
        BatchBuf { bytes: self.bytes }
    }
}

impl BatchHeader {
    fn encode(&self, length: u32, out: &mut [u8]) {
        let flag = |holds, flag| if holds { flag } else { 0 };
        let flags =
            flag(self.last_part, LAST_PART) | flag(self.empty, EMPTY) | flag(self.conflated, CONFLATED);
        out[0..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6..8].copy_from_slice(&flags.to_le_bytes());
        out[8..16].copy_from_slice(&self.tape.get().to_le_bytes());
        out[16..24].copy_from_slice(&self.width.to_le_bytes());
        out[24..32].copy_from_slice(&self.first_window.to_le_bytes());
        out[32..40].copy_from_slice(&self.last_window.to_le_bytes());
        out[40..48].copy_from_slice(&self.first.get().to_le_bytes());
        out[48..56].copy_from_slice(&self.last.get().to_le_bytes());
        out[56..60].copy_from_slice(&self.part.to_le_bytes());
        out[60..64].copy_from_slice(&self.count.to_le_bytes());
        out[64..68].copy_from_slice(&self.late.to_le_bytes());
        out[68..72].copy_from_slice(&length.to_le_bytes());
        out[72..76].copy_from_slice(&self.left_out.to_le_bytes());
        out[76..80].fill(0);
    }

    fn decode(bytes: &[u8]) -> Result<Self, BatchError> {
        if bytes.len() < HEADER_BYTES {
            return Err(BatchError::Length { stated: HEADER_BYTES, available: bytes.len() });
        }
        if bytes[0..4] != MAGIC {
            return Err(BatchError::Header("the magic"));
        }
        if u16::from_le_bytes(array(bytes, 4)) != VERSION {
            return Err(BatchError::Header("the version"));
        }
        let flags = u16::from_le_bytes(array(bytes, 6));
        if flags & !(LAST_PART | EMPTY | CONFLATED) != 0 || flags & (LAST_PART | EMPTY) == EMPTY {
            return Err(BatchError::Header("a flag"));
        }
        let stated = u32::from_le_bytes(array(bytes, 68)) as usize;
        if stated != bytes.len() {
            return Err(BatchError::Length { stated, available: bytes.len() });
        }
        let header = Self {
            last_part: flags & LAST_PART != 0,
            empty: flags & EMPTY != 0,
            tape: TapeId(u64::from_le_bytes(array(bytes, 8))),
            width: i64::from_le_bytes(array(bytes, 16)),
            first_window: i64::from_le_bytes(array(bytes, 24)),
            last_window: i64::from_le_bytes(array(bytes, 32)),
            first: Sequence(u64::from_le_bytes(array(bytes, 40))),
            last: Sequence(u64::from_le_bytes(array(bytes, 48))),
            part: u32::from_le_bytes(array(bytes, 56)),
            count: u32::from_le_bytes(array(bytes, 60)),
            late: u32::from_le_bytes(array(bytes, 64)),
            conflated: flags & CONFLATED != 0,
            left_out: u32::from_le_bytes(array(bytes, 72)),
        };
        let one_window = header.first_window == header.last_window;
        if header.width <= 0 {
            return Err(BatchError::Header("the width"));
        }
        if header.first_window > header.last_window || !(one_window || header.empty) {
            return Err(BatchError::Header("the window"));
        }
        if header.first == Sequence::ZERO || header.last < header.first.previous() {
            return Err(BatchError::Header("the position"));
        }
        if header.late > header.count || (header.empty && (header.count > 0 || header.part > 0)) {
            return Err(BatchError::Header("the count"));
        }
        if header.left_out > 0 && (!header.conflated || header.empty) {
            return Err(BatchError::Header("the count of events left out"));
        }
        if bytes[76..80] != [0; 4] {
            return Err(BatchError::Header("a reserved byte"));
        }
        Ok(header)
    }
}

struct Run {
    first: Sequence,
    epoch: Epoch,
    accepted_time: AcceptedTime,
    count: u32,
    length: u32,
}

impl Run {
    fn encode(&self, out: &mut [u8]) {
        out[0..8].copy_from_slice(&self.first.get().to_le_bytes());
        out[8..16].copy_from_slice(&self.epoch.get().to_le_bytes());
        out[16..24].copy_from_slice(&self.accepted_time.get().to_le_bytes());
        out[24..28].copy_from_slice(&self.count.to_le_bytes());
        out[28..32].copy_from_slice(&self.length.to_le_bytes());
    }

    /// `bytes` have at least a run's header.
    fn decode(bytes: &[u8]) -> Self {
        Self {
            first: Sequence(u64::from_le_bytes(array(bytes, 0))),
            epoch: Epoch(u64::from_le_bytes(array(bytes, 8))),
            accepted_time: AcceptedTime(i64::from_le_bytes(array(bytes, 16))),
            count: u32::from_le_bytes(array(bytes, 24)),
            length: u32::from_le_bytes(array(bytes, 28)),
        }
    }
}

fn check_runs(header: &BatchHeader, bytes: &[u8]) -> Result<(), BatchError> {
    let (mut at, mut count, mut next) = (HEADER_BYTES, 0_u64, header.first);
    while at < bytes.len() {
        let bad = |what| BatchError::Run { at, what };
        if bytes.len() - at < RUN_HEADER_BYTES {
            return Err(bad("the length"));
        }
        let run = Run::decode(&bytes[at..]);
        let last = run.first.get().checked_add(u64::from(run.count).saturating_sub(1));
        if run.count == 0 || run.first < next || last.is_none_or(|last| last > header.last.get()) {
            return Err(bad("the position"));
        }
        let mut rest = bytes[at + RUN_HEADER_BYTES..].get(..run.length as usize).ok_or(bad("the length"))?;
        for index in 0..u64::from(run.count) {
            let sequence = Sequence(run.first.get() + index);
            let event = matchtape_schemas::event::check_event(rest)
                .map_err(|source| BatchError::Event { sequence, source })?;
            rest = &rest[event.length as usize..];
        }
        if !rest.is_empty() {
            return Err(bad("the count"));
        }
        count += u64::from(run.count);
        next = Sequence(run.first.get() + u64::from(run.count));
        at += RUN_HEADER_BYTES + run.length as usize;
    }
    if count != u64::from(header.count) {
        return Err(BatchError::Header("the count"));
    }
    Ok(())
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}
