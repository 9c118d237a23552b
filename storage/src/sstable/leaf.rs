//! The index of an event table: fixed-size entries, the same in leaves (one per block of frames) and in the top (one per
//! leaf, its bounds the union of the leaf's).
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | first sequence |
//! | 8 | 8 | offset of the block in the file |
//! | 16 | 4 | bytes of the block |
//! | 20 | 4 | events in it |
//! | 24 | 8 | least event time, ns |
//! | 32 | 8 | greatest event time, ns |
//! | 40 | 8 | mask of the kinds in it |

use std::path::Path;

use matchtape_schemas::{EventTime, KindMask, Sequence};

use super::block::BlockAt;
use crate::codec::Fields;
use crate::wal::Damage;

pub(super) const ENTRY_BYTES: usize = 48;

/// What a block (or a leaf's blocks together) holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockEntry {
    pub first: Sequence,
    pub at: BlockAt,
    pub count: u32,
    pub min_time: EventTime,
    pub max_time: EventTime,
    pub kinds: KindMask,
}

impl BlockEntry {
    pub(crate) fn last(&self) -> Sequence {
        Sequence(self.first.0 + u64::from(self.count) - 1)
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.first.0.to_le_bytes());
        out.extend_from_slice(&self.at.offset.to_le_bytes());
        out.extend_from_slice(&self.at.bytes.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.min_time.0.to_le_bytes());
        out.extend_from_slice(&self.max_time.0.to_le_bytes());
        out.extend_from_slice(&self.kinds.0.to_le_bytes());
    }

    /// Takes another block, which follows, into the bounds.
    pub(super) fn widen(&mut self, next: &Self) {
        self.count += next.count;
        self.min_time = self.min_time.min(next.min_time);
        self.max_time = self.max_time.max(next.max_time);
        self.kinds = self.kinds.with(next.kinds);
    }
}

/// A decoded leaf or top: at least one entry, dense in sequences.
#[derive(Debug)]
pub(crate) struct EventLeaf {
    entries: Box<[BlockEntry]>,
}

impl EventLeaf {
    pub(super) fn decode(path: &Path, offset: u64, raw: &[u8]) -> Result<Self, Damage> {
        let damage = |expected: &str, found: String| Damage {
            file: path.to_path_buf(),
            offset,
            part: "index of an event table",
            expected: expected.to_owned(),
            found,
        };
        if raw.is_empty() || !raw.len().is_multiple_of(ENTRY_BYTES) {
            return Err(damage("whole entries", format!("{} bytes", raw.len())));
        }
        let mut entries: Vec<BlockEntry> = Vec::with_capacity(raw.len() / ENTRY_BYTES);
        for (number, bytes) in raw.chunks_exact(ENTRY_BYTES).enumerate() {
            let entry = decode_entry(bytes);
            let follows = match entries.last() {
                Some(before) => entry.first.0 == before.first.0 + u64::from(before.count),
                None => entry.first > Sequence::ZERO,
            };
            if !follows || entry.count == 0 || entry.first.0.checked_add(u64::from(entry.count)).is_none() {
                return Err(damage("entries that follow each other", format!("entry {number}: {entry:?}")));
            }
            entries.push(entry);
        }
        Ok(Self { entries: entries.into_boxed_slice() })
    }

    pub(crate) fn entries(&self) -> &[BlockEntry] {
        &self.entries
    }

    pub(super) fn first(&self) -> Sequence {
        self.entries[0].first
    }

    pub(super) fn last(&self) -> Sequence {
        self.entries[self.entries.len() - 1].last()
    }

    /// The number of the entry that holds `sequence`.
    pub(crate) fn holding(&self, sequence: Sequence) -> Option<usize> {
        let number = self.entries.partition_point(|entry| entry.first <= sequence).checked_sub(1)?;
        (sequence <= self.entries[number].last()).then_some(number)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.entries)
    }
}

fn decode_entry(bytes: &[u8]) -> BlockEntry {
    let mut fields = Fields::new(bytes);
    let mut read = || -> Result<BlockEntry, crate::codec::Short> {
        Ok(BlockEntry {
            first: fields.sequence()?,
            at: BlockAt { offset: fields.u64()?, bytes: fields.u32()? },
            count: fields.u32()?,
            min_time: EventTime(fields.i64()?),
            max_time: EventTime(fields.i64()?),
            kinds: KindMask(fields.u64()?),
        })
    };
    read().expect("an entry's bytes are all there")
}
