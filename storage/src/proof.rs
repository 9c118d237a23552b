//! Proof that an exported run of frames is complete and unaltered, for someone who holds nothing but segment roots.
//!
//! A root is plain BLAKE3 over the bytes of a segment's frames, and BLAKE3 is a tree over pieces of 1024 bytes:
//!
//! ```text
//!                 root
//!          +-------+-------+
//!        left            right          a node outside the run: its 32 bytes are in the proof
//!      +---+---+       +---+---+        a node inside: computed from the exported bytes
//!   [ ... ] [ .####### #### ] [ ... ]   the run; what its first and last piece have beyond it is in the proof too
//! ```
//!
//! So nothing outside the run is needed, or told. Bytes at another place, another length, a frame more or less, or in another
//! order make another root. Where a run crosses segments, it must reach the end of one and begin at the start of the next.
//!
//! What it does not prove: that the roots are the tape's. Whoever holds them has to have them from somewhere they trust.

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use matchtape_schemas::{Frame, Head, Sequence};

use crate::read::{ReadError, Reader};
use crate::segment_facts::SegmentFacts;
use crate::wal::{SegmentNumber, SegmentRoot};

/// The leaf of BLAKE3's tree.
const PIECE: u64 = 1024;

/// What has to be known, besides the frames and the roots, to check a run of frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// One per segment, in the order of the tape.
    pub parts: Vec<SegmentPart>,
}

/// The part of a run that lies in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentPart {
    /// The segment.
    pub segment: SegmentNumber,
    /// Bytes of all its frames.
    pub stream_bytes: u64,
    /// Where among them the run begins.
    pub offset: u64,
    /// Bytes of the run in this segment.
    pub bytes: u64,
    /// The bytes before the run in its first piece, fewer than 1024.
    pub before: Vec<u8>,
    /// The bytes behind the run in its last piece, fewer than 1024.
    pub after: Vec<u8>,
    /// The nodes outside the run, from left to right.
    pub nodes: Vec<[u8; 32]>,
}

/// Why a proof cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The frames could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Only sealed segments have roots.
    #[error("sequence {0} is in no sealed segment whose facts are known; only what is sealed can be proven")]
    NotSealed(Sequence),
    /// Tables and root disagree: `verify` tells more.
    #[error("the frames of segment {0} do not make its root")]
    Root(SegmentNumber),
}

/// Why frames are not what the roots vouch for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Nobody vouches for a segment.
    #[error("no root is known of segment {0}")]
    UnknownSegment(SegmentNumber),
    /// The proof itself is impossible.
    #[error("the proof of segment {segment} is impossible: {what}")]
    Impossible {
        /// The segment.
        segment: SegmentNumber,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Bytes were removed, added, altered or moved.
    #[error("the frames of segment {segment} make root {found}, not {expected}")]
    Root {
        /// The segment.
        segment: SegmentNumber,
        /// What is vouched for.
        expected: SegmentRoot,
        /// What the bytes make.
        found: SegmentRoot,
    },
    /// The bytes are not as many as the proof is about.
    #[error("{found} bytes of frames, the proof is about {expected}")]
    Length {
        /// By the proof.
        expected: u64,
        /// As given.
        found: u64,
    },
    /// Between two parts something is left out.
    #[error("the run leaves out what is between segments {0} and {1}")]
    Gap(SegmentNumber, SegmentNumber),
    /// The bytes are vouched for, but they are not whole frames that follow each other.
    #[error("byte {at}: {what}")]
    Frame {
        /// Where in the exported bytes.
        at: u64,
        /// What is wrong.
        what: String,
    },
}

/// A node of the tree: where its bytes lie in the stream.
#[derive(Clone, Copy)]
struct Node {
    offset: u64,
    bytes: u64,
}

impl Node {
    fn split(self) -> (Self, Self) {
        let left = left_subtree_len(self.bytes);
        let right = Self { offset: self.offset + left, bytes: self.bytes - left };
        (Self { offset: self.offset, bytes: left }, right)
    }

    fn end(self) -> u64 {
        self.offset + self.bytes
    }
}

/// The run, widened to whole pieces.
#[derive(Clone, Copy)]
struct Pieces {
    start: u64,
    end: u64,
}

impl Pieces {
    fn around(offset: u64, bytes: u64, stream_bytes: u64) -> Self {
        let end = (offset + bytes).next_multiple_of(PIECE).min(stream_bytes);
        Self { start: offset / PIECE * PIECE, end }
    }

    fn hold(self, node: Node) -> bool {
        node.offset >= self.start && node.end() <= self.end
    }

    fn miss(self, node: Node) -> bool {
        node.end() <= self.start || node.offset >= self.end
    }
}

fn value_of(node: Node, bytes: &[u8]) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(node.offset);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// Exports the frames from the one that holds `first` to the one that holds `last`, and their proof. `facts` are those of
/// [`EventStore::segment_facts`](crate::EventStore::segment_facts).
pub fn prove(
    reader: &Reader,
    facts: &[SegmentFacts],
    first: Sequence,
    last: Sequence,
) -> Result<(Vec<u8>, Proof), ProveError> {
    let mut exported = Vec::new();
    let mut parts = Vec::new();
    let mut next = first;
    while next <= last {
        let holds = |facts: &&SegmentFacts| facts.first <= next && next <= facts.last;
        let segment = facts.iter().find(holds).ok_or(ProveError::NotSealed(next))?;
        let (part, run) = prove_segment(reader, segment, next, last)?;
        parts.push(part);
        exported.extend_from_slice(&run);
        next = segment.last.next();
    }
    Ok((exported, Proof { parts }))
}

fn prove_segment(
    reader: &Reader,
    segment: &SegmentFacts,
    first: Sequence,
    last: Sequence,
) -> Result<(SegmentPart, Vec<u8>), ProveError> {
    let mut stream = Vec::new();
    let (mut start, mut end) = (None, 0);
    let mut frames = reader.frames(segment.first)?;
    while let Some(handle) = frames.next_frame()? {
        let frame = handle.frame();
        if frame.first_sequence() > segment.last {
            break;
        }
        if frame.last_sequence() >= first && frame.first_sequence() <= last {
            start.get_or_insert(stream.len());
            end = stream.len() + frame.bytes().len();
        }
        stream.extend_from_slice(frame.bytes());
    }
    if stream.len() as u64 != segment.frame_bytes || *blake3::hash(&stream).as_bytes() != segment.root.0 {
        return Err(ProveError::Root(segment.number));
    }
    let start = start.expect("the segment holds the first event");
    let (offset, bytes) = (start as u64, (end - start) as u64);
    let whole = Node { offset: 0, bytes: stream.len() as u64 };
    let pieces = Pieces::around(offset, bytes, whole.bytes);
    let mut nodes = Vec::new();
    if !pieces.hold(whole) {
        note_nodes(&stream, whole, pieces, &mut nodes);
    }
    let part = SegmentPart {
        segment: segment.number,
        stream_bytes: whole.bytes,
        offset,
        bytes,
        before: stream[pieces.start as usize..start].to_vec(),
        after: stream[end..pieces.end as usize].to_vec(),
        nodes,
    };
    Ok((part, stream[start..end].to_vec()))
}

fn note_nodes(stream: &[u8], node: Node, pieces: Pieces, nodes: &mut Vec<[u8; 32]>) {
    if pieces.hold(node) {
        return;
    }
    if pieces.miss(node) {
        nodes.push(value_of(node, &stream[node.offset as usize..node.end() as usize]));
        return;
    }
    let (left, right) = node.split();
    note_nodes(stream, left, pieces, nodes);
    note_nodes(stream, right, pieces, nodes);
}

/// Checks that `frames` are a complete and unaltered run of the tape whose segments have these roots, and returns its
/// first and its last event.
pub fn check(
    proof: &Proof,
    frames: &[u8],
    root_of: impl Fn(SegmentNumber) -> Option<SegmentRoot>,
) -> Result<(Sequence, Sequence), ProofError> {
    let stated = proof.parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.bytes));
    let (expected, found) = (stated.unwrap_or(u64::MAX), frames.len() as u64);
    if expected != found {
        return Err(ProofError::Length { expected, found });
    }
    let mut rest = frames;
    for (index, part) in proof.parts.iter().enumerate() {
        if let Some(before) = index.checked_sub(1).map(|before| &proof.parts[before])
            && (before.segment.next() != part.segment
                || before.offset + before.bytes != before.stream_bytes
                || part.offset != 0)
        {
            return Err(ProofError::Gap(before.segment, part.segment));
        }
        let (run, others) = rest.split_at(part.bytes as usize);
        rest = others;
        let expected = root_of(part.segment).ok_or(ProofError::UnknownSegment(part.segment))?;
        let found = part.root(run)?;
        if found != expected {
            return Err(ProofError::Root { segment: part.segment, expected, found });
        }
    }
    check_frames(frames)
}

impl SegmentPart {
    /// The root that the run and this proof make.
    fn root(&self, run: &[u8]) -> Result<SegmentRoot, ProofError> {
        let impossible = |what| ProofError::Impossible { segment: self.segment, what };
        let end = self.offset.checked_add(self.bytes).filter(|end| *end <= self.stream_bytes);
        if end.is_none() || self.bytes == 0 {
            return Err(impossible("it is about bytes that the segment does not have"));
        }
        let pieces = Pieces::around(self.offset, self.bytes, self.stream_bytes);
        let bytes = [&self.before, run, &self.after].concat();
        if self.offset - pieces.start != self.before.len() as u64
            || bytes.len() as u64 != pieces.end - pieces.start
        {
            return Err(impossible("the bytes beside the run are too few or too many"));
        }
        let whole = Node { offset: 0, bytes: self.stream_bytes };
        let mut nodes = self.nodes.iter();
        let root = if pieces.hold(whole) {
            *blake3::hash(&bytes).as_bytes()
        } else {
            let (left, right) = whole.split();
            let mut value = |node| value(node, pieces, &bytes, &mut nodes);
            let (left, right) = (value(left), value(right));
            let (Some(left), Some(right)) = (left, right) else {
                return Err(impossible("too few nodes"));
            };
            *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
        };
        if nodes.next().is_some() {
            return Err(impossible("too many nodes"));
        }
        Ok(SegmentRoot(root))
    }
}

/// The value of a node, from the bytes or the proof. The recursion is as deep as the tree: at most 54 for a stream of `u64` bytes.
fn value(
    node: Node,
    pieces: Pieces,
    bytes: &[u8],
    nodes: &mut std::slice::Iter<'_, [u8; 32]>,
) -> Option<ChainingValue> {
    if pieces.miss(node) {
        return nodes.next().copied();
    }
    if pieces.hold(node) {
        let start = (node.offset - pieces.start) as usize;
        return Some(value_of(node, &bytes[start..start + node.bytes as usize]));
    }
    let (left, right) = node.split();
    let left = value(left, pieces, bytes, nodes)?;
    let right = value(right, pieces, bytes, nodes)?;
    Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
}

/// Whole frames that follow each other.
fn check_frames(frames: &[u8]) -> Result<(Sequence, Sequence), ProofError> {
    let mut at = 0;
    let mut run: Option<(Sequence, Head)> = None;
    // Frames lie at multiples of 16 in memory to be read in place; an export may lie anywhere.
    let mut memory = crate::disk::AlignedBytes::zeroed(matchtape_schemas::limits::FRAME_BYTES_MAX);
    while at < frames.len() {
        let wrong = |what: String| ProofError::Frame { at: at as u64, what };
        let bytes = (frames.len() - at).min(memory.len());
        memory[..bytes].copy_from_slice(&frames[at..at + bytes]);
        let frame = Frame::decode(&memory[..bytes]).map_err(|error| wrong(error.to_string()))?;
        if let Some((_, head)) = &run {
            frame.header().check_follows(head).map_err(|error| wrong(error.to_string()))?;
        }
        let first = run.map_or(frame.first_sequence(), |(first, _)| first);
        run = Some((first, frame.header().head()));
        at += frame.bytes().len();
    }
    let (first, head) = run.ok_or(ProofError::Frame { at: 0, what: "no frames at all".to_owned() })?;
    Ok((first, head.last_sequence))
}
