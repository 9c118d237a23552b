//! Making a proof, and the exported frames beside it.

use std::io::Write;

use matchtape_schemas::Sequence;

use super::tree::{Node, Pieces, Values};
use super::{Proof, ProveError, SegmentPart};
use crate::read::Reader;
use crate::segment_facts::SegmentFacts;

/// How far [`prove`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProveProgress {
    /// Bytes of frames summed.
    pub bytes: u64,
    /// Bytes of the frames of all segments that the run touches.
    pub bytes_total: u64,
}

/// Writes the frames from the one that holds `first` to the one that holds `last`, and returns their proof. `facts` are those of
/// [`EventStore::segment_facts`](crate::EventStore::segment_facts). Reads every segment that the run touches wholly, once or
/// twice, and holds no more than a frame of it.
pub fn prove(
    reader: &Reader,
    facts: &[SegmentFacts],
    (first, last): (Sequence, Sequence),
    frames: &mut dyn Write,
    progress: &mut dyn FnMut(ProveProgress),
) -> Result<Proof, ProveError> {
    if first == Sequence::ZERO || first > last {
        return Err(ProveError::Empty { first, last });
    }
    let touched = facts.iter().filter(|segment| segment.first <= last && first <= segment.last);
    let bytes_total = touched.map(|segment| segment.frame_bytes).sum();
    let mut run = Run {
        reader,
        first,
        last,
        out: frames,
        progress: &mut |bytes| progress(ProveProgress { bytes, bytes_total }),
        bytes: 0,
        ends: None,
    };
    let mut parts = Vec::new();
    let mut next = first;
    while next <= last {
        let holds = |facts: &&SegmentFacts| facts.first <= next && next <= facts.last;
        let segment = facts.iter().find(holds).ok_or(ProveError::NotSealed(next))?;
        let (began, first_kept) = (segment.first, reader.first_kept());
        if began < first_kept {
            return Err(ProveError::Dropped { asked: next, began, first_kept });
        }
        parts.push(run.part(segment)?);
        next = segment.last.next();
    }
    let (first, last) = run.ends.expect("every segment has a frame of the run");
    Ok(Proof { tape: reader.tape(), first, last, parts })
}

struct Run<'a> {
    reader: &'a Reader,
    first: Sequence,
    last: Sequence,
    out: &'a mut dyn Write,
    progress: &'a mut dyn FnMut(u64),
    /// Summed so far.
    bytes: u64,
    /// The first and the last event of the frames written.
    ends: Option<(Sequence, Sequence)>,
}

impl Run<'_> {
    /// Where the run lies among the bytes of a segment's frames.
    fn place(&self, segment: &SegmentFacts) -> Result<(u64, u64), ProveError> {
        if self.first <= segment.first && segment.last <= self.last {
            return Ok((0, segment.frame_bytes));
        }
        let (mut at, mut start) = (0, None);
        let mut frames = self.reader.frames(segment.first)?;
        while let Some(frame) = frames.next_frame()? {
            let header = *frame.frame().header();
            if header.first_sequence > self.last.min(segment.last) {
                break;
            }
            if header.last_sequence() >= self.first {
                start.get_or_insert(at);
            }
            at += u64::from(header.length);
        }
        let start = start.ok_or(ProveError::Root(segment.number))?;
        Ok((start, at))
    }

    fn part(&mut self, segment: &SegmentFacts) -> Result<SegmentPart, ProveError> {
        let (start, end) = self.place(segment)?;
        if end > segment.frame_bytes {
            return Err(ProveError::Root(segment.number));
        }
        let pieces = Pieces::around(start, end - start, segment.frame_bytes);
        let mut outside = Vec::new();
        pieces.cut(Node::whole(segment.frame_bytes), &mut |node, inside| {
            outside.extend((!inside).then_some(node));
        });
        let mut nodes = Values::of(outside);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let mut root = blake3::Hasher::new();
        let mut at = 0;
        let mut frames = self.reader.frames(segment.first)?;
        while let Some(handle) = frames.next_frame()? {
            let frame = handle.frame();
            if frame.first_sequence() > segment.last {
                break;
            }
            let bytes = frame.bytes();
            root.update(bytes);
            nodes.feed(at, bytes);
            let frame_end = at + bytes.len() as u64;
            if start <= at && frame_end <= end {
                self.out.write_all(bytes)?;
                let first = self.ends.map_or(frame.first_sequence(), |(first, _)| first);
                self.ends = Some((first, frame.last_sequence()));
            }
            before.extend_from_slice(shared(at, bytes, pieces.start, start));
            after.extend_from_slice(shared(at, bytes, end, pieces.end));
            at = frame_end;
            self.bytes += bytes.len() as u64;
            (self.progress)(self.bytes);
        }
        if at != segment.frame_bytes || *root.finalize().as_bytes() != segment.root.0 {
            return Err(ProveError::Root(segment.number));
        }
        Ok(SegmentPart {
            segment: segment.number,
            stream_bytes: segment.frame_bytes,
            offset: start,
            bytes: end - start,
            before,
            after,
            nodes: nodes.found,
        })
    }
}

/// What of `bytes`, which lie at `at`, is between `from` and `to`.
fn shared(at: u64, bytes: &[u8], from: u64, to: u64) -> &[u8] {
    let within = |place: u64| place.saturating_sub(at).min(bytes.len() as u64) as usize;
    &bytes[within(from)..within(to)]
}
