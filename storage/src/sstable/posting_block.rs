//! A block of postings: sorted entries of key and positions, each written against the one before.

use std::sync::OnceLock;

use matchtape_schemas::Sequence;

use super::key::Key;
use super::posting_list::Postings;
use crate::codec::{Fields, Short, put_varint};

/// Every so many entries of a block, the whole key is written and its place noted, so that a search skips.
const RESTART_INTERVAL: usize = 16;
/// Bytes before the entries.
const HEADER_BYTES: usize = 32;

/// A block of postings.
///
/// ```text
/// u64 base | u64 least position | u64 greatest position | u32 postings | u32 entities
///   | entry ... | u32 place of every 16th entry ... | u32 how many places
/// entry    u8 bytes of the key shared with the entry before (upper half; 0 at a noted place), bytes of the rest of the key
///             (lower half); of each half 15 means: a varint follows and is the number
///          the rest of the key
///          varint postings
///          varint first position minus that of the entry before (at a noted place: minus base), zigzag
///          if there are several: varint last minus first position, varint bytes of the steps,
///             the steps: differences as varints, each at least 1
/// ```
///
/// A long list goes on in further entries of the same key.
#[derive(Debug)]
pub(crate) struct PostingBlock {
    raw: Vec<u8>,
    base: u64,
    least: u64,
    greatest: u64,
    postings: u32,
    entities: u32,
    /// Where the entries end and the noted places begin.
    entries_end: usize,
    restarts: usize,
    /// The first bytes of the key at each noted place, made for the first search: one in the block itself would wait for memory
    /// twice in each step, for the place and for the key there.
    heads: OnceLock<Box<[u128]>>,
}

/// Why a block of postings cannot be read.
pub(super) type Impossible = (usize, &'static str);

/// Where a reader of a block is: behind an entry, which it has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cursor {
    /// The key of the entry.
    pub key: Key,
    pub count: u64,
    pub first: u64,
    pub last: u64,
    /// Where the entry begins, where its steps do, and where the next entry does.
    place: usize,
    steps_at: usize,
    next: usize,
    /// How many entries were read since a noted place; the one there included.
    since_restart: usize,
}

impl Cursor {
    /// Where the next entry begins.
    pub(crate) fn next_place(&self) -> usize {
        self.next
    }
}

/// An entry as a block has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoded<'a> {
    /// The entry, and what follows it in the block.
    bytes: &'a [u8],
    length: usize,
    /// Its whole key is written.
    at_restart: bool,
}

impl PostingBlock {
    pub(crate) fn decode(raw: Vec<u8>) -> Result<Self, Impossible> {
        let count_at = raw.len().checked_sub(4).ok_or((0, "length"))?;
        let restarts = u32::from_le_bytes(raw[count_at..].try_into().expect("four bytes")) as usize;
        let places = restarts.checked_mul(4).filter(|_| restarts > 0);
        let entries_end =
            places.and_then(|bytes| count_at.checked_sub(bytes)).ok_or((count_at, "number of places"))?;
        let mut fields = Fields::new(&raw);
        let mut header = || -> Result<_, Short> {
            let (base, least, greatest) = (fields.u64()?, fields.u64()?, fields.u64()?);
            Ok((base, least, greatest, fields.u32()?, fields.u32()?))
        };
        let (base, least, greatest, postings, entities) = header().map_err(|_| (0, "length"))?;
        if entries_end <= HEADER_BYTES {
            return Err((count_at, "number of places"));
        }
        let heads = OnceLock::new();
        let block = Self { base, least, greatest, postings, entities, entries_end, restarts, heads, raw };
        for number in 0..restarts {
            if !(HEADER_BYTES..entries_end).contains(&block.restart(number)) {
                return Err((entries_end + 4 * number, "place of an entry"));
            }
        }
        if block.restart(0) != HEADER_BYTES {
            return Err((entries_end, "place of the first entry"));
        }
        Ok(block)
    }

    fn restart(&self, number: usize) -> usize {
        let at = self.entries_end + 4 * number;
        u32::from_le_bytes(self.raw[at..at + 4].try_into().expect("checked when decoded")) as usize
    }

    /// The payload as it was written.
    pub(crate) fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The least position it states.
    pub(crate) fn least(&self) -> u64 {
        self.least
    }

    /// The greatest position it states.
    pub(crate) fn greatest(&self) -> u64 {
        self.greatest
    }

    /// The number of postings it states.
    pub(crate) fn postings(&self) -> u64 {
        u64::from(self.postings)
    }

    /// The number of keys it states.
    pub(crate) fn entities(&self) -> u64 {
        u64::from(self.entities)
    }

    /// Before the entry at a noted place.
    fn at_restart(&self, number: usize) -> Cursor {
        Cursor { next: self.restart(number), ..Cursor::default() }
    }

    /// Before the first entry, keeping what the cursor has allocated.
    pub(crate) fn rewind(&self, cursor: &mut Cursor) {
        cursor.key.clear();
        (cursor.next, cursor.since_restart) = (self.restart(0), 0);
    }

    /// Goes to the next entry; `false` if there is none.
    #[inline]
    pub(crate) fn advance(&self, cursor: &mut Cursor) -> Result<bool, Impossible> {
        let place = cursor.next;
        let Some(rest) = self.raw.get(place..self.entries_end).filter(|rest| !rest.is_empty()) else {
            return Ok(false);
        };
        let mut fields = Fields::new(rest);
        self.read(cursor, &mut fields).map_err(|short| (place + short.at, "entry"))?;
        cursor.next = place + fields.at();
        Ok(true)
    }

    /// Whether there is an entry behind the cursor's, of another key.
    #[inline]
    pub(super) fn next_is_of_another(&self, cursor: &Cursor) -> bool {
        let rest = &self.raw[..self.entries_end];
        let Some(lengths) = rest.get(cursor.next) else { return false };
        if cursor.since_restart.is_multiple_of(RESTART_INTERVAL) {
            // The whole key is there.
            let mut key = Key::default();
            return key.read(&mut Fields::new(&rest[cursor.next..])).is_ok() && key != cursor.key;
        }
        // Keys ascend: one that has no byte of its own is the same.
        lengths & 0x0F != 0
    }

    #[inline]
    fn read(&self, cursor: &mut Cursor, fields: &mut Fields<'_>) -> Result<(), Short> {
        cursor.place = cursor.next;
        let before = if cursor.since_restart.is_multiple_of(RESTART_INTERVAL) {
            cursor.key.clear();
            cursor.since_restart = 0;
            self.base
        } else {
            cursor.first
        };
        cursor.since_restart += 1;
        cursor.key.read(fields)?;
        let at = fields.at();
        cursor.count = fields.varint()?;
        let step = fields.varint()?;
        cursor.first = before.wrapping_add((step >> 1) ^ (step & 1).wrapping_neg());
        let (mut length, mut steps) = (0, 0);
        if cursor.count > 1 {
            length = fields.varint()?;
            steps = usize::try_from(fields.varint()?).map_err(|_| Short { at })?;
        }
        cursor.last = cursor.first.checked_add(length).ok_or(Short { at })?;
        cursor.steps_at = cursor.place + fields.at();
        fields.bytes(steps)?;
        // Every step has at least a byte, so the count is bounded too.
        let possible = cursor.count > 0 && cursor.count - 1 <= steps as u64;
        if !possible || cursor.first < self.least || cursor.last > self.greatest {
            return Err(Short { at });
        }
        Ok(())
    }

    /// The entry that the cursor has, as it is here.
    #[inline]
    pub(super) fn encoded(&self, cursor: &Cursor) -> Encoded<'_> {
        Encoded {
            bytes: &self.raw[cursor.place..],
            length: cursor.next - cursor.place,
            at_restart: cursor.since_restart == 1,
        }
    }

    /// The positions of the entry that the cursor has.
    #[inline]
    pub(crate) fn postings_of(&self, cursor: &Cursor) -> Postings<'_> {
        let Cursor { count, first, last, steps_at, next, .. } = *cursor;
        Postings { count, first, last, steps: &self.raw[steps_at..next] }
    }

    /// The entry that the cursor has is not a possible one.
    pub(crate) fn impossible(cursor: &Cursor, what: &'static str) -> Impossible {
        (cursor.steps_at, what)
    }

    /// The last key.
    pub(crate) fn last_key(&self) -> Result<Key, Impossible> {
        let mut cursor = self.at_restart(self.restarts - 1);
        while self.advance(&mut cursor)? {}
        Ok(cursor.key)
    }

    fn heads(&self) -> Result<&[u128], Impossible> {
        if let Some(heads) = self.heads.get() {
            return Ok(heads);
        }
        let mut cursor = Cursor::default();
        let head = |number| {
            cursor.key.clear();
            (cursor.next, cursor.since_restart) = (self.restart(number), 0);
            self.advance(&mut cursor).map(|_| cursor.key.head())
        };
        let heads: Box<[u128]> = (0..self.restarts).map(head).collect::<Result<_, _>>()?;
        // Two threads may have made them at once; they are the same.
        Ok(self.heads.get_or_init(|| heads))
    }

    /// The last noted place whose key is below `key` already in its first bytes; the first one, if none is.
    fn seek(&self, key: &Key) -> Result<Cursor, Impossible> {
        let number = self.heads()?.partition_point(|head| *head < key.head());
        Ok(self.at_restart(number.saturating_sub(1)))
    }

    /// Appends the postings of all keys that are (`exact`) or begin with `key`.
    pub(super) fn collect(&self, key: &Key, exact: bool, out: &mut Vec<u64>) -> Result<(), Impossible> {
        let mut cursor = self.seek(key)?;
        while self.advance(&mut cursor)? {
            let wanted = if exact { cursor.key == *key } else { cursor.key.starts_with(key) };
            if wanted {
                let decoded = self.postings_of(&cursor).decode(|position| out.push(position));
                decoded.map_err(|short| (cursor.steps_at + short.at, "posting"))?;
            } else if cursor.key > *key {
                break;
            }
        }
        Ok(())
    }

    /// Every key with its postings, in order.
    #[cfg(test)]
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&[u8], u64)) -> Result<(), Impossible> {
        let mut cursor = self.at_restart(0);
        while self.advance(&mut cursor)? {
            let key = cursor.key.to_bytes();
            let decoded = self.postings_of(&cursor).decode(|position| visit(&key, position));
            decoded.map_err(|short| (cursor.steps_at + short.at, "posting"))?;
        }
        Ok(())
    }

    pub(super) fn memory_bytes(&self) -> usize {
        // The keys' beginnings are counted before they are made.
        self.raw.len() + self.restarts * size_of::<u128>()
    }
}

/// Fills one block.
#[derive(Debug, Default)]
pub(super) struct BlockWriter {
    raw: Vec<u8>,
    base: u64,
    least: u64,
    greatest: u64,
    postings: u64,
    restarts: Vec<u32>,
    entries: usize,
    /// The first position of the last entry.
    last_first: u64,
}

impl BlockWriter {
    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    pub(super) fn bytes(&self) -> usize {
        self.raw.len() + self.restarts.len() * 4
    }

    pub(super) fn begin(&mut self, base: Sequence) {
        (self.base, self.least, self.greatest) = (base.0, u64::MAX, 0);
        self.raw.resize(HEADER_BYTES, 0);
    }

    /// Takes in the next entry, behind one of key `before`.
    #[inline]
    pub(super) fn add(&mut self, before: &Key, key: &Key, postings: Postings<'_>) {
        if self.entries.is_multiple_of(RESTART_INTERVAL) {
            self.restarts.push(self.raw.len() as u32);
            self.last_first = self.base;
            key.put(&Key::default(), &mut self.raw);
        } else {
            key.put(before, &mut self.raw);
        }
        put_varint(&mut self.raw, postings.count);
        let step = postings.first.wrapping_sub(self.last_first) as i64;
        put_varint(&mut self.raw, (step << 1 ^ step >> 63) as u64);
        if postings.count > 1 {
            put_varint(&mut self.raw, postings.last - postings.first);
            put_varint(&mut self.raw, postings.steps.len() as u64);
            self.raw.extend_from_slice(postings.steps);
        }
        self.added(postings);
    }

    /// Takes in an entry as another block has it, where the entry before is this block's last one too. `false`: it has to be
    /// written anew, because one of the two has a noted place there.
    #[inline]
    pub(super) fn copy(&mut self, entry: Encoded<'_>, postings: Postings<'_>) -> bool {
        if entry.at_restart || self.entries.is_multiple_of(RESTART_INTERVAL) {
            return false;
        }
        match entry.bytes.first_chunk::<16>() {
            // Most are short; a copy of a known length is a few instructions.
            Some(ahead) if entry.length <= ahead.len() => {
                let end = self.raw.len() + entry.length;
                self.raw.extend_from_slice(ahead);
                self.raw.truncate(end);
            }
            Some(_) | None => self.raw.extend_from_slice(&entry.bytes[..entry.length]),
        }
        self.added(postings);
        true
    }

    #[inline]
    fn added(&mut self, postings: Postings<'_>) {
        self.last_first = postings.first;
        self.least = self.least.min(postings.first);
        self.greatest = self.greatest.max(postings.last);
        self.postings += postings.count;
        self.entries += 1;
    }

    /// The least position, the greatest, and how many there are.
    pub(super) fn covers(&self) -> (u64, u64, u64) {
        (self.least, self.greatest, self.postings)
    }

    /// The payload, of so many different keys.
    pub(super) fn finish(&mut self, entities: usize) -> &[u8] {
        let postings = u32::try_from(self.postings).expect("a block's postings are bounded by its bytes");
        for (at, number) in [self.base, self.least, self.greatest].into_iter().enumerate() {
            self.raw[8 * at..8 * at + 8].copy_from_slice(&number.to_le_bytes());
        }
        self.raw[24..28].copy_from_slice(&postings.to_le_bytes());
        self.raw[28..32].copy_from_slice(&(entities as u32).to_le_bytes());
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
        self.postings = 0;
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
            let key = &key[..key.len().min(crate::entity::ENTITY_KEY_BYTES_MAX)];
            // Also with a header and a place that are possible.
            let mut likely = vec![0; HEADER_BYTES];
            likely[16..24].fill(0xFF);
            likely.extend_from_slice(&raw);
            likely.extend_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
            likely.extend_from_slice(&1u32.to_le_bytes());
            for raw in [raw, likely] {
                if let Ok(block) = PostingBlock::decode(raw) {
                    let _ = block.collect(&Key::of(key), true, &mut Vec::new());
                    let _ = block.for_each(|_, _| {});
                    let _ = block.last_key();
                }
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
            let mut before = Key::default();
            for (key, positions) in &lists {
                let mut list = PostingList::default();
                positions.iter().for_each(|position| list.push(*position));
                let key = Key::of(key);
                writer.add(&before, &key, list.get());
                before = key;
            }
            let block = PostingBlock::decode(writer.finish(lists.len()).to_vec()).unwrap();
            let mut all: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
            block.for_each(|key, position| all.entry(key.to_vec()).or_default().push(position)).unwrap();
            prop_assert!(all.iter().map(|(key, list)| (key, list.clone())).eq(
                lists.iter().map(|(key, set)| (key, set.iter().copied().collect::<Vec<_>>()))
            ));
            prop_assert_eq!(&block.last_key().unwrap().to_bytes(), lists.keys().next_back().unwrap());
            let of_all = || lists.values().flatten().copied();
            prop_assert_eq!((block.least(), block.greatest()), (of_all().min().unwrap(), of_all().max().unwrap()));
            prop_assert_eq!((block.postings(), block.entities()), (of_all().count() as u64, lists.len() as u64));
            for key in lists.keys().chain([&asked]) {
                let mut found = Vec::new();
                block.collect(&Key::of(key), true, &mut found).unwrap();
                prop_assert_eq!(&found, &lists.get(key).map_or(Vec::new(), |set| set.iter().copied().collect()));
            }
            let mut found = Vec::new();
            block.collect(&Key::of(&asked), false, &mut found).unwrap();
            let expected = lists.iter().filter(|(key, _)| key.starts_with(&asked));
            prop_assert_eq!(found, expected.flat_map(|(_, set)| set.iter().copied()).collect::<Vec<_>>());
        }
    }
}
