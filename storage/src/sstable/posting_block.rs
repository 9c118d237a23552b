//! A block of postings: sorted entries of key and positions, compressed against each other.

use matchtape_schemas::Sequence;

use super::posting_list::Postings;
use crate::codec::{Fields, Short, put_varint, varint_bytes};
use crate::entity::ENTITY_KEY_BYTES_MAX;

/// Every so many entries of a block, the whole key is written and its place noted, so that a search skips.
const RESTART_INTERVAL: usize = 16;

/// A length that is not greater than `max`.
pub(super) fn bounded(fields: &mut Fields<'_>, max: usize) -> Result<usize, Short> {
    let at = fields.at();
    match usize::try_from(fields.varint()?) {
        Ok(value) if value <= max => Ok(value),
        _ => Err(Short { at }),
    }
}

/// A block of postings.
///
/// ```text
/// u64 base | entry ... | u32 place of every 16th entry ... | u32 how many places
/// entry    varint bytes of the key shared with the entry before (0 at a noted place)
///          varint bytes of the rest of the key
///          varint postings
///          varint bytes of the encoded postings
///          the rest of the key
///          varint first posting minus base, then varint differences, each at least 1
/// ```
///
/// A long list goes on in further entries of the same key.
#[derive(Debug)]
pub(crate) struct PostingBlock {
    raw: Vec<u8>,
    base: u64,
    /// Where the entries end and the noted places begin.
    entries_end: usize,
    restarts: usize,
}

/// Why a block of postings cannot be read.
pub(super) type Impossible = (usize, &'static str);

impl PostingBlock {
    pub(super) fn decode(raw: Vec<u8>) -> Result<Self, Impossible> {
        let count_at = raw.len().checked_sub(4).ok_or((0, "length"))?;
        let restarts = u32::from_le_bytes(raw[count_at..].try_into().expect("four bytes")) as usize;
        let places = restarts.checked_mul(4).filter(|_| restarts > 0);
        let entries_end =
            places.and_then(|bytes| count_at.checked_sub(bytes)).ok_or((count_at, "number of places"))?;
        if entries_end < 8 {
            return Err((count_at, "number of places"));
        }
        let base = u64::from_le_bytes(raw[..8].try_into().expect("eight bytes"));
        let block = Self { raw, base, entries_end, restarts };
        for number in 0..restarts {
            if !(8..entries_end).contains(&block.restart(number)) {
                return Err((entries_end + 4 * number, "place of an entry"));
            }
        }
        Ok(block)
    }

    fn restart(&self, number: usize) -> usize {
        let at = self.entries_end + 4 * number;
        u32::from_le_bytes(self.raw[at..at + 4].try_into().expect("checked when decoded")) as usize
    }

    /// Reads the entry at `place`: makes `key`, which has to be the key of the entry before, its key, and returns the number
    /// of its postings, the postings as they are encoded and the place of the next entry. `None` at the end.
    fn entry(&self, place: usize, key: &mut Vec<u8>) -> Result<Option<(u64, Fields<'_>, usize)>, Impossible> {
        let Some(rest) = self.raw.get(place..self.entries_end).filter(|rest| !rest.is_empty()) else {
            return Ok(None);
        };
        let mut fields = Fields::new(rest);
        let mut read = || -> Result<(u64, Fields<'_>), Short> {
            let shared = bounded(&mut fields, key.len())?;
            let rest = bounded(&mut fields, ENTITY_KEY_BYTES_MAX - shared)?;
            let count = fields.varint()?;
            let bytes = bounded(&mut fields, self.raw.len())?;
            key.truncate(shared);
            key.extend_from_slice(fields.bytes(rest)?);
            Ok((count, Fields::new(fields.bytes(bytes)?)))
        };
        let (count, postings) = read().map_err(|short| (place + short.at, "entry"))?;
        Ok(Some((count, postings, place + fields.at())))
    }

    /// Reads the entry at `place`: makes `key`, which has to be the key of the entry before, its key; returns its postings
    /// and the place of the next entry. `None` at the end.
    pub(super) fn read_entry(
        &self,
        place: usize,
        key: &mut Vec<u8>,
    ) -> Result<Option<(Postings<'_>, usize)>, Impossible> {
        let Some((count, encoded, next)) = self.entry(place, key)? else { return Ok(None) };
        let postings = Postings::check(self.base, count, encoded.rest());
        Ok(Some((postings.map_err(|short| (place + short.at, "posting"))?, next)))
    }

    /// Bytes of the payload.
    pub(super) fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.raw[range]
    }

    /// The place of the first entry.
    pub(super) fn first_place(&self) -> usize {
        self.restart(0)
    }

    /// Calls `visit` with key and postings (encoded) of every entry from the noted place `restart` on, until it says stop.
    fn walk<'a>(
        &'a self,
        restart: usize,
        mut visit: impl FnMut(&[u8], u64, Fields<'a>) -> Result<bool, Short>,
    ) -> Result<(), Impossible> {
        let mut place = self.restart(restart);
        let mut key = Vec::with_capacity(ENTITY_KEY_BYTES_MAX);
        while let Some((count, postings, next)) = self.entry(place, &mut key)? {
            if !visit(&key, count, postings).map_err(|short| (place + short.at, "entry"))? {
                return Ok(());
            }
            place = next;
        }
        Ok(())
    }

    /// The last noted place whose key is below `key`; the first one, if none is.
    fn seek(&self, key: &[u8]) -> Result<usize, Impossible> {
        let (mut low, mut high) = (0, self.restarts);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut below = false;
            self.walk(middle, |found, _, _| {
                below = found < key;
                Ok(false)
            })?;
            if below { low = middle + 1 } else { high = middle }
        }
        Ok(low.saturating_sub(1))
    }

    fn decode_postings(&self, count: u64, mut fields: Fields<'_>, out: &mut Vec<u64>) -> Result<(), Short> {
        let mut position = self.base;
        for number in 0..count {
            let at = fields.at();
            let step = fields.varint()?;
            position = position.checked_add(step).filter(|_| number == 0 || step > 0).ok_or(Short { at })?;
            out.push(position);
        }
        if fields.is_empty() { Ok(()) } else { Err(Short { at: fields.at() }) }
    }

    /// Appends the postings of all keys that are (`exact`) or begin with `key`.
    pub(super) fn collect(&self, key: &[u8], exact: bool, out: &mut Vec<u64>) -> Result<(), Impossible> {
        let restart = self.seek(key)?;
        self.walk(restart, |found, count, postings| {
            let wanted = if exact { found == key } else { found.starts_with(key) };
            if wanted {
                self.decode_postings(count, postings, out)?;
            }
            Ok(wanted || found < key)
        })
    }

    /// Every key with its postings, in order.
    #[cfg(test)]
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&[u8], u64)) -> Result<(), Impossible> {
        let mut decoded = Vec::new();
        self.walk(0, |key, count, postings| {
            decoded.clear();
            self.decode_postings(count, postings, &mut decoded)?;
            for position in &decoded {
                visit(key, *position);
            }
            Ok(true)
        })
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.raw.len()
    }
}

/// Fills one block.
#[derive(Debug, Default)]
pub(super) struct BlockWriter {
    raw: Vec<u8>,
    base: u64,
    restarts: Vec<u32>,
    entries: usize,
    last_key: Vec<u8>,
}

impl BlockWriter {
    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    pub(super) fn bytes(&self) -> usize {
        self.raw.len() + self.restarts.len() * 4
    }

    pub(super) fn begin(&mut self, base: Sequence) {
        self.base = base.0;
        self.raw.extend_from_slice(&base.0.to_le_bytes());
    }

    pub(super) fn add(&mut self, key: &[u8], postings: Postings<'_>) {
        let shared = if self.entries.is_multiple_of(RESTART_INTERVAL) {
            self.restarts.push(self.raw.len() as u32);
            0
        } else {
            self.last_key.iter().zip(key).take_while(|(left, right)| left == right).count()
        };
        let first = postings.first - self.base;
        put_varint(&mut self.raw, shared as u64);
        put_varint(&mut self.raw, (key.len() - shared) as u64);
        put_varint(&mut self.raw, postings.count);
        put_varint(&mut self.raw, (varint_bytes(first) + postings.steps.len()) as u64);
        self.raw.extend_from_slice(&key[shared..]);
        put_varint(&mut self.raw, first);
        self.raw.extend_from_slice(postings.steps);
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.entries += 1;
    }

    pub(super) fn finish(&mut self) -> &[u8] {
        for restart in &self.restarts {
            self.raw.extend_from_slice(&restart.to_le_bytes());
        }
        self.raw.extend_from_slice(&(self.restarts.len() as u32).to_le_bytes());
        &self.raw
    }

    pub(super) fn clear(&mut self) {
        self.raw.clear();
        self.restarts.clear();
        self.entries = 0;
        self.last_key.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::posting_list::PostingList;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn any_bytes_at_all_make_a_block_or_an_error_but_no_panic(raw: Vec<u8>, key: Vec<u8>) {
            if let Ok(block) = PostingBlock::decode(raw) {
                let _ = block.collect(&key, true, &mut Vec::new());
                let _ = block.for_each(|_, _| {});
            }
        }

        #[test]
        fn what_was_written_is_found_by_key_and_by_prefix(
            lists in prop::collection::btree_map(
                prop::collection::vec(0u8..4, 1..6),
                prop::collection::btree_set(100u64..1 << 40, 1..20),
                1..60,
            ),
            asked in prop::collection::vec(0u8..4, 1..4),
        ) {
            let mut writer = BlockWriter::default();
            writer.begin(Sequence(100));
            for (key, positions) in &lists {
                let mut list = PostingList::default();
                positions.iter().for_each(|position| list.push(*position));
                writer.add(key, list.get());
            }
            let block = PostingBlock::decode(writer.finish().to_vec()).unwrap();
            let mut all: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
            block.for_each(|key, position| all.entry(key.to_vec()).or_default().push(position)).unwrap();
            prop_assert!(all.iter().map(|(key, list)| (key, list.clone())).eq(
                lists.iter().map(|(key, set)| (key, set.iter().copied().collect::<Vec<_>>()))
            ));
            for key in lists.keys().chain([&asked]) {
                let mut found = Vec::new();
                block.collect(key, true, &mut found).unwrap();
                prop_assert_eq!(&found, &lists.get(key).map_or(Vec::new(), |set| set.iter().copied().collect()));
            }
            let mut found = Vec::new();
            block.collect(&asked, false, &mut found).unwrap();
            let expected = lists.iter().filter(|(key, _)| key.starts_with(&asked));
            prop_assert_eq!(found, expected.flat_map(|(_, set)| set.iter().copied()).collect::<Vec<_>>());
        }
    }
}
