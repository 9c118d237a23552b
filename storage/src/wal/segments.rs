//! Which segments exist, shared between the writer that adds them and the readers that look for a sequence.

use std::sync::Arc;

use matchtape_schemas::{Head, Sequence};
use parking_lot::RwLock;

use super::segment::{SegmentId, SegmentNumber, SegmentRoot, SegmentTotals};

/// What is known of one segment without reading its commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its place in the chain and its file name.
    pub number: SegmentNumber,
    /// The identity that every block of it repeats.
    pub(crate) id: SegmentId,
    /// Where the tape stood when it began.
    pub begins: Head,
    /// Known once it is sealed.
    pub sealed: Option<Sealed>,
}

/// What the footer of a sealed segment states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Where the tape stood when it ended.
    pub ends: Head,
    /// What its frames add up to.
    pub totals: SegmentTotals,
    /// BLAKE3 over its frames.
    pub root: SegmentRoot,
    /// The file's length.
    pub file_bytes: u64,
}

impl SegmentInfo {
    /// The first event it holds, or will hold.
    pub fn first_sequence(&self) -> Sequence {
        self.begins.last_sequence.next()
    }
}

/// The segments of a log, oldest first. Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct Segments {
    list: Arc<RwLock<Vec<SegmentInfo>>>,
}

impl Segments {
    pub(crate) fn of(list: Vec<SegmentInfo>) -> Self {
        Self { list: Arc::new(RwLock::new(list)) }
    }

    /// All of them.
    pub fn list(&self) -> Vec<SegmentInfo> {
        self.list.read().clone()
    }

    /// The first event the log still holds, or will hold.
    pub fn first_sequence(&self) -> Option<Sequence> {
        self.list.read().first().map(SegmentInfo::first_sequence)
    }

    /// The segment that holds, or will hold, `sequence`; `None` below the first kept.
    pub fn holding(&self, sequence: Sequence) -> Option<SegmentInfo> {
        let list = self.list.read();
        let after = list.partition_point(|segment| segment.first_sequence() <= sequence);
        Some(list[after.checked_sub(1)?])
    }

    /// Every event up to here is in a sealed segment.
    pub fn sealed_through(&self) -> Sequence {
        let list = self.list.read();
        let of_last = |last: &SegmentInfo| last.sealed.map_or(last.begins, |sealed| sealed.ends);
        list.last().map_or(Sequence::ZERO, |last| of_last(last).last_sequence)
    }

    pub(super) fn last_sealed(&self) -> Option<SegmentInfo> {
        self.list.read().iter().rev().find(|segment| segment.sealed.is_some()).copied()
    }

    /// A segment by its number.
    pub fn get(&self, number: SegmentNumber) -> Option<SegmentInfo> {
        let list = self.list.read();
        let at = list.binary_search_by_key(&number, |segment| segment.number).ok()?;
        Some(list[at])
    }

    pub(super) fn begin(&self, segment: SegmentInfo) {
        self.list.write().push(segment);
    }

    pub(super) fn seal_last(&self, sealed: Sealed) {
        if let Some(last) = self.list.write().last_mut() {
            last.sealed = Some(sealed);
        }
    }

    /// The oldest segments that are sealed and wholly at or below `through`, but for the last `keep` sealed ones.
    pub fn releasable(&self, through: Sequence, keep: usize) -> Vec<SegmentInfo> {
        let list = self.list.read();
        let sealed = list.iter().take_while(|segment| segment.sealed.is_some()).count();
        let covered = |segment: &&SegmentInfo| {
            segment.sealed.is_some_and(|sealed| sealed.ends.last_sequence <= through)
        };
        list[..sealed.min(list.len().saturating_sub(1)).saturating_sub(keep)]
            .iter()
            .take_while(covered)
            .copied()
            .collect()
    }

    /// Puts back what `drop_oldest` took out.
    pub(super) fn put_back(&self, oldest: SegmentInfo) {
        self.list.write().insert(0, oldest);
    }

    /// Takes out the oldest segment if it is sealed and all of it is at or below `through`.
    pub(super) fn drop_oldest(&self, through: Sequence) -> Option<SegmentInfo> {
        let mut list = self.list.write();
        let oldest = *list.first()?;
        let covered = oldest.sealed.is_some_and(|sealed| sealed.ends.last_sequence <= through);
        (covered && list.len() > 1).then(|| list.remove(0))
    }
}
