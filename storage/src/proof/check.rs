//! Checking frames with a proof and roots: no store is needed, and no more than a frame is held.

use std::io::Read;

use blake3::hazmat::{ChainingValue, Mode, merge_subtrees_non_root, merge_subtrees_root};
use matchtape_schemas::frame::FrameError;
use matchtape_schemas::limits::FRAME_BYTES_MAX;
use matchtape_schemas::{Frame, FrameHeader, Head, Sequence};

use super::tree::{Node, Pieces, Values};
use super::{Proof, ProofError, SegmentPart};
use crate::disk::AlignedBytes;
use crate::wal::{SegmentNumber, SegmentRoot};

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// Checks that `frames` are the complete and unaltered run that `proof` is about, of the tape whose segments have these roots.
/// `each` is given every frame as it comes by, before anything is proven.
pub fn check(
    proof: &Proof,
    frames: &mut dyn Read,
    root_of: impl Fn(SegmentNumber) -> Option<SegmentRoot>,
    each: &mut dyn FnMut(&Frame<'_>),
) -> Result<(), ProofError> {
    check_order(proof)?;
    let expected = proof.parts.iter().map(|part| root_of(part.segment).ok_or(part.segment));
    let expected: Vec<SegmentRoot> =
        expected.collect::<Result<_, _>>().map_err(ProofError::UnknownSegment)?;
    let mut source = Source { frames, buffer: vec![0; READ_BYTES], found: 0, run: FrameRun::new(each) };
    let mut found = Vec::new();
    for part in &proof.parts {
        match part.root(&mut source)? {
            Some(root) => found.push(root),
            None => break,
        }
    }
    let stated = proof.parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.bytes));
    let given = source.rest()?;
    if stated != given {
        return Err(ProofError::Length { expected: stated, found: given });
    }
    for ((part, expected), found) in proof.parts.iter().zip(expected).zip(found) {
        if found != expected {
            return Err(ProofError::Root { segment: part.segment, expected, found });
        }
    }
    let (first, head) = source.run.finish()?;
    let (stated, found) = ((proof.first, proof.last), (first, head.last_sequence));
    if stated != found || proof.tape != head.tape {
        return Err(ProofError::Range { stated, stated_tape: proof.tape, found, tape: head.tape });
    }
    Ok(())
}

/// What can be seen of a proof without frames.
fn check_order(proof: &Proof) -> Result<(), ProofError> {
    for part in &proof.parts {
        let impossible = |what| ProofError::Impossible { segment: part.segment, what };
        let end = part.offset.checked_add(part.bytes).filter(|end| *end <= part.stream_bytes);
        let Some(end) = end.filter(|_| part.bytes > 0) else {
            return Err(impossible("it is about bytes that the segment does not have"));
        };
        let pieces = Pieces::around(part.offset, part.bytes, part.stream_bytes);
        let beside = (part.offset - pieces.start, pieces.end - end);
        if beside != (part.before.len() as u64, part.after.len() as u64) {
            return Err(impossible("the bytes beside the run are too few or too many"));
        }
        let mut outside = 0;
        pieces.cut(Node::whole(part.stream_bytes), &mut |_, inside| outside += usize::from(!inside));
        if outside != part.nodes.len() {
            return Err(impossible("the nodes are too few or too many"));
        }
    }
    for pair in proof.parts.windows(2) {
        let (before, part) = (&pair[0], &pair[1]);
        if before.segment.0.checked_add(1) != Some(part.segment.0)
            || before.offset + before.bytes != before.stream_bytes
            || part.offset != 0
        {
            return Err(ProofError::Gap(before.segment, part.segment));
        }
    }
    Ok(())
}

/// The exported frames, read once.
struct Source<'a> {
    frames: &'a mut dyn Read,
    buffer: Vec<u8>,
    /// Bytes read so far.
    found: u64,
    run: FrameRun<'a>,
}

impl Source<'_> {
    /// At most `wanted` bytes; none at the end.
    fn next(&mut self, wanted: u64) -> Result<&[u8], ProofError> {
        let wanted = wanted.min(self.buffer.len() as u64) as usize;
        let read = loop {
            match self.frames.read(&mut self.buffer[..wanted]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => break read.map_err(|source| ProofError::Read { at: self.found, source })?,
            }
        };
        self.found += read as u64;
        self.run.feed(&self.buffer[..read]);
        Ok(&self.buffer[..read])
    }

    /// Reads to the end; how many bytes there are in all.
    fn rest(&mut self) -> Result<u64, ProofError> {
        while !self.next(u64::MAX)?.is_empty() {}
        Ok(self.found)
    }
}

impl SegmentPart {
    /// The root that the run and this proof make; `None` if the frames end before the run does.
    fn root(&self, source: &mut Source<'_>) -> Result<Option<SegmentRoot>, ProofError> {
        let pieces = Pieces::around(self.offset, self.bytes, self.stream_bytes);
        let whole = Node::whole(self.stream_bytes);
        let mut nodes = Vec::new();
        if !pieces.hold(whole) {
            pieces.cut(whole, &mut |node, inside| nodes.extend(inside.then_some(node)));
        }
        let mut values = Values::of(nodes);
        let mut root = blake3::Hasher::new();
        let mut feed = |at, bytes: &[u8]| {
            values.feed(at, bytes);
            // Only if the run is the segment: else it is the hash of nothing that was asked for.
            if pieces.hold(whole) {
                root.update(bytes);
            }
        };
        feed(pieces.start, &self.before);
        let (mut at, end) = (self.offset, self.offset + self.bytes);
        while at < end {
            let bytes = source.next(end - at)?;
            if bytes.is_empty() {
                return Ok(None);
            }
            feed(at, bytes);
            at += bytes.len() as u64;
        }
        feed(end, &self.after);
        if pieces.hold(whole) {
            return Ok(Some(SegmentRoot(*root.finalize().as_bytes())));
        }
        let (mut inside, mut outside) = (values.found.iter(), self.nodes.iter());
        let mut value = |node| value(node, pieces, &mut inside, &mut outside);
        let (left, right) = whole.split();
        let (left, right) = (value(left), value(right));
        Ok(Some(SegmentRoot(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())))
    }
}

type Nodes<'a> = std::slice::Iter<'a, ChainingValue>;

/// The value of a node: of those inside the run, those outside, or made of the two below it.
fn value(node: Node, pieces: Pieces, inside: &mut Nodes<'_>, outside: &mut Nodes<'_>) -> ChainingValue {
    if pieces.hold(node) {
        return *inside.next().expect("every node inside was summed");
    }
    if pieces.miss(node) {
        return *outside.next().expect("the nodes outside were counted");
    }
    let (left, right) = node.split();
    let left = value(left, pieces, inside, outside);
    let right = value(right, pieces, inside, outside);
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}

/// Whole frames that follow each other. The first thing wrong is kept until the roots have spoken: they say more.
struct FrameRun<'a> {
    /// Frames lie at multiples of 16 in memory to be read in place; an export is cut anywhere.
    memory: AlignedBytes,
    filled: usize,
    /// Of the first byte in memory.
    at: u64,
    run: Option<(Sequence, Head)>,
    wrong: Option<ProofError>,
    each: &'a mut dyn FnMut(&Frame<'_>),
}

impl<'a> FrameRun<'a> {
    fn new(each: &'a mut dyn FnMut(&Frame<'_>)) -> Self {
        let memory = AlignedBytes::zeroed(16 * FRAME_BYTES_MAX);
        Self { memory, filled: 0, at: 0, run: None, wrong: None, each }
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.wrong.is_none() {
            let room = bytes.len().min(self.memory.len() - self.filled);
            self.memory[self.filled..self.filled + room].copy_from_slice(&bytes[..room]);
            self.filled += room;
            bytes = &bytes[room..];
            let taken = self.take(false);
            self.memory.copy_within(taken..self.filled, 0);
            self.filled -= taken;
            self.at += taken as u64;
        }
    }

    /// Takes the frames that are whole; at the end, all have to be. Returns their bytes.
    fn take(&mut self, end: bool) -> usize {
        let mut from = 0;
        while from < self.filled {
            let bytes = &self.memory[from..self.filled];
            let more_needed = match FrameHeader::peek(bytes) {
                Ok(header) => header.length as usize > bytes.len(),
                Err(error) => matches!(error, FrameError::Truncated { .. }),
            };
            if more_needed && !end {
                break;
            }
            match self.follow(from) {
                Ok(taken) => from += taken,
                Err(what) => {
                    self.wrong = Some(ProofError::Frame { at: self.at + from as u64, what });
                    break;
                }
            }
        }
        from
    }

    fn follow(&mut self, from: usize) -> Result<usize, String> {
        let frame = Frame::decode(&self.memory[from..self.filled]).map_err(|error| error.to_string())?;
        if let Some((_, head)) = &self.run {
            frame.header().check_follows(head).map_err(|error| error.to_string())?;
        }
        let first = self.run.map_or(frame.first_sequence(), |(first, _)| first);
        self.run = Some((first, frame.header().head()));
        (self.each)(&frame);
        Ok(frame.bytes().len())
    }

    /// The first event, and where the tape stands after the last frame.
    fn finish(mut self) -> Result<(Sequence, Head), ProofError> {
        if self.wrong.is_none() {
            self.take(true);
        }
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        let none = || ProofError::Frame { at: 0, what: "no frames at all".to_owned() };
        self.run.ok_or_else(none)
    }
}
