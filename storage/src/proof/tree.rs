//! BLAKE3's tree over a segment's frames, cut into what lies in a run and what lies outside.

use blake3::hazmat::{ChainingValue, HasherExt, left_subtree_len};

/// The leaf of the tree.
const PIECE: u64 = 1024;

/// A node: where its bytes lie in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub offset: u64,
    pub bytes: u64,
}

impl Node {
    pub(super) fn whole(bytes: u64) -> Self {
        Self { offset: 0, bytes }
    }

    pub(super) fn split(self) -> (Self, Self) {
        let left = left_subtree_len(self.bytes);
        let right = Self { offset: self.offset + left, bytes: self.bytes - left };
        (Self { offset: self.offset, bytes: left }, right)
    }

    fn end(self) -> u64 {
        self.offset + self.bytes
    }
}

/// A run, widened to whole pieces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces {
    pub start: u64,
    pub end: u64,
}

impl Pieces {
    /// `offset + bytes` is at most `stream_bytes`.
    pub(super) fn around(offset: u64, bytes: u64, stream_bytes: u64) -> Self {
        let end = (offset + bytes).checked_next_multiple_of(PIECE).unwrap_or(u64::MAX);
        Self { start: offset / PIECE * PIECE, end: end.min(stream_bytes) }
    }

    pub(super) fn hold(self, node: Node) -> bool {
        node.offset >= self.start && node.end() <= self.end
    }

    pub(super) fn miss(self, node: Node) -> bool {
        node.end() <= self.start || node.offset >= self.end
    }

    /// The greatest nodes below `node` that lie wholly inside or wholly outside, from left to right, and which it is. As deep as
    /// the tree: at most 54 for a stream of `u64` bytes.
    pub(super) fn cut(self, node: Node, visit: &mut impl FnMut(Node, bool)) {
        if self.hold(node) {
            visit(node, true);
        } else if self.miss(node) {
            visit(node, false);
        } else {
            let (left, right) = node.split();
            self.cut(left, visit);
            self.cut(right, visit);
        }
    }
}

/// Values of nodes whose bytes come by.
#[derive(Debug)]
pub(super) struct Values {
    /// In order, and none inside another. None of them is a root.
    nodes: Vec<Node>,
    hasher: blake3::Hasher,
    pub found: Vec<ChainingValue>,
}

impl Values {
    pub(super) fn of(nodes: Vec<Node>) -> Self {
        Self { nodes, hasher: blake3::Hasher::new(), found: Vec::new() }
    }

    /// Takes the bytes at `at` of the stream; they follow those before.
    pub(super) fn feed(&mut self, mut at: u64, mut bytes: &[u8]) {
        while let Some(node) = self.nodes.get(self.found.len()) {
            let before = (node.offset.saturating_sub(at)).min(bytes.len() as u64);
            (at, bytes) = (at + before, &bytes[before as usize..]);
            if bytes.is_empty() {
                return;
            }
            if at == node.offset {
                self.hasher = blake3::Hasher::new();
                self.hasher.set_input_offset(node.offset);
            }
            let inside = (node.end() - at).min(bytes.len() as u64);
            self.hasher.update(&bytes[..inside as usize]);
            (at, bytes) = (at + inside, &bytes[inside as usize..]);
            if at == node.end() {
                self.found.push(self.hasher.finalize_non_root());
            }
        }
    }
}
