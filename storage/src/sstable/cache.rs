//! A bounded cache of checked, decompressed blocks.
//!
//! Second-chance replacement: an entry that was used since the hand last passed stays once more, and what lookups find their blocks
//! by (leaves and filters, a hundredth of the bytes) stays for more passes than the blocks do. Bulk scans read past it
//! ([`Caller::Scan`](super::Caller)), so a replay does not push out what point reads use.

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::index_table::IndexLeaf;
use super::leaf::EventLeaf;
use super::posting_block::PostingBlock;
use crate::chunk::Chunk;

/// So many independently locked parts.
const SHARDS: usize = 16;

/// What is cached.
#[derive(Clone, Debug)]
pub(crate) enum Cached {
    Frames(Arc<Chunk>),
    EventLeaf(Arc<EventLeaf>),
    Postings(Arc<PostingBlock>),
    IndexLeaf(Arc<IndexLeaf>),
    Filter(Arc<[u8]>),
}

impl Cached {
    /// Memory, that of its place in the cache included: filters are small.
    fn bytes(&self) -> usize {
        let value = match self {
            Self::Frames(chunk) => chunk.memory_bytes(),
            Self::EventLeaf(leaf) => leaf.memory_bytes(),
            Self::Postings(block) => block.memory_bytes(),
            Self::IndexLeaf(leaf) => leaf.memory_bytes(),
            Self::Filter(filter) => filter.len(),
        };
        value + PLACE_BYTES
    }

    /// How many times the hand passes before it goes, if it is not used meanwhile.
    fn chances(&self) -> u8 {
        match self {
            Self::Frames(_) | Self::Postings(_) => 1,
            Self::EventLeaf(_) | Self::IndexLeaf(_) | Self::Filter(_) => INDEX_CHANCES,
        }
    }
}

/// Lookups at random over far more blocks than the cache holds come back to a leaf or a filter once in some passes of the hand.
const INDEX_CHANCES: u8 = 8;

/// An entry and its key, both in containers that grow by doubling.
const PLACE_BYTES: usize = 2 * (size_of::<(Key, Entry)>() + size_of::<Key>());

/// File number and offset.
type Key = (u64, u64);

#[derive(Debug)]
struct Entry {
    value: Cached,
    /// Where its key is among those that the hand passes.
    place: u32,
    /// How many more times the hand passes.
    chances: u8,
}

/// What a lookup wants is in the map itself: a step from there to an entry elsewhere would be one more wait for memory.
#[derive(Debug, Default)]
struct Shard {
    entries: FxHashMap<Key, Entry>,
    keys: Vec<Key>,
    hand: usize,
    bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct BlockCache {
    shards: [Mutex<Shard>; SHARDS],
    shard_bytes_max: usize,
}

impl BlockCache {
    /// At most about `bytes_max` of blocks.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), shard_bytes_max: bytes_max / SHARDS }
    }

    fn shard(&self, key: Key) -> &Mutex<Shard> {
        let mixed = (key.0 ^ key.1.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        &self.shards[(mixed >> 60) as usize % SHARDS]
    }

    pub(crate) fn get(&self, file: u64, offset: u64) -> Option<Cached> {
        let mut shard = self.shard((file, offset)).lock();
        let entry = shard.entries.get_mut(&(file, offset))?;
        entry.chances = entry.value.chances();
        Some(entry.value.clone())
    }

    /// Whether it is there; that does not count as being used.
    pub(crate) fn contains(&self, file: u64, offset: u64) -> bool {
        self.shard((file, offset)).lock().entries.contains_key(&(file, offset))
    }

    pub(crate) fn insert(&self, file: u64, offset: u64, value: Cached) {
        let key = (file, offset);
        let mut shard = self.shard(key).lock();
        let shard = &mut *shard;
        if shard.entries.contains_key(&key) {
            return;
        }
        shard.bytes += value.bytes();
        let place = u32::try_from(shard.keys.len()).expect("blocks of so many would not fit memory");
        // A block has to be used once more before it stays.
        let chances = value.chances() - 1;
        shard.entries.insert(key, Entry { value, place, chances });
        shard.keys.push(key);
        // The newest entry alone may be larger than the bound; it then goes with the next one.
        while shard.bytes > self.shard_bytes_max && shard.keys.len() > 1 {
            shard.evict_one();
        }
    }

    /// Lets go of everything of a file that is gone.
    pub(crate) fn forget(&self, file: u64) {
        for shard in &self.shards {
            shard.lock().retain_files(|kept| kept != file);
        }
    }

    /// The most memory that blocks may have, in bytes; while it is full, one block more per part.
    pub(crate) fn bytes_max(&self) -> usize {
        self.shard_bytes_max * SHARDS
    }

    /// Memory held, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes).sum()
    }
}

impl Shard {
    fn retain_files(&mut self, keep: impl Fn(u64) -> bool) {
        let mut at = 0;
        while let Some((file, _)) = self.keys.get(at) {
            if keep(*file) {
                at += 1;
            } else {
                self.remove(at);
            }
        }
    }

    fn remove(&mut self, at: usize) {
        let gone = self.entries.remove(&self.keys.swap_remove(at)).expect("every key has its entry");
        self.bytes -= gone.value.bytes();
        if let Some(moved) = self.keys.get(at) {
            self.entries.get_mut(moved).expect("every key has its entry").place = at as u32;
        }
    }

    fn evict_one(&mut self) {
        loop {
            if self.hand >= self.keys.len() {
                self.hand = 0;
            }
            let entry = self.entries.get_mut(&self.keys[self.hand]).expect("every key has its entry");
            if entry.chances > 0 {
                entry.chances -= 1;
                self.hand += 1;
                continue;
            }
            self.remove(self.hand);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use matchtape_schemas::event::{SessionOpened, encode_event};
    use matchtape_schemas::{
        AcceptedTime, Event, EventTime, FrameFlags, FrameWriter, Head, InstrumentId, ProducerId,
        ProducerSequence, TapeId,
    };

    use super::*;
    use crate::disk::AlignedBytes;

    fn filter(byte: u8) -> Cached {
        Cached::Filter(vec![byte; 1000 - PLACE_BYTES].into())
    }

    #[test]
    fn what_is_cached_stays_within_the_bound_and_is_what_was_inserted() {
        let cache = BlockCache::new(SHARDS * 10_000);
        for offset in 0..5000 {
            cache.insert(offset % 3, offset, filter(offset as u8));
            assert!(cache.bytes() <= SHARDS * 10_000);
        }
        let kept = (0..5000).filter(|offset| match cache.get(offset % 3, *offset) {
            Some(Cached::Filter(filter)) => {
                assert_eq!(filter[0], *offset as u8);
                true
            }
            _ => false,
        });
        let kept = kept.count();
        assert!((100..=160).contains(&kept), "{kept}");
    }

    #[test]
    fn a_forgotten_file_leaves_nothing_behind_and_the_others_stay() {
        let cache = BlockCache::new(SHARDS * 100_000);
        for offset in 0..300 {
            cache.insert(offset % 3, offset, filter(offset as u8));
        }
        cache.forget(1);
        assert!((0..300).all(|offset| cache.get(offset % 3, offset).is_some() == (offset % 3 != 1)));
        assert_eq!(cache.bytes(), 200 * 1000);
    }

    /// A block of one event in a page of its own.
    fn block() -> Cached {
        let body = SessionOpened::default();
        let event = Event::new(InstrumentId(1), ProducerSequence(1), EventTime(1), body);
        let mut encoded = AlignedBytes::zeroed(event.encoded_len());
        encode_event(&event, ProducerId(1), &mut encoded);
        let mut frame = AlignedBytes::zeroed(4096);
        let mut head = Head::empty(TapeId(1));
        let mut writer = FrameWriter::new(&mut frame, &head);
        assert!(writer.push(&encoded));
        let length = writer.finish(&mut head, AcceptedTime(1), FrameFlags::NONE).length as usize;
        Cached::Frames(Arc::new(Chunk::decode(frame, length).expect("just written")))
    }

    #[test]
    fn what_blocks_are_found_by_outlives_blocks_that_nobody_comes_back_to() {
        let cache = BlockCache::new(SHARDS * 100_000);
        for offset in 0..50 {
            cache.insert(1, offset, filter(0));
        }
        // Three times what the cache holds.
        let block = block();
        for offset in 0..3 * cache.bytes_max() as u64 / 4096 {
            cache.insert(2, offset, block.clone());
        }
        assert!((0..50).all(|offset| cache.contains(1, offset)));
        assert!(!cache.contains(2, 0) && cache.bytes() <= cache.bytes_max());
    }

    #[test]
    fn an_entry_that_is_used_outlives_those_that_are_not() {
        let cache = BlockCache::new(SHARDS * 10_000);
        cache.insert(9, 9, filter(1));
        for offset in 0..5000 {
            cache.insert(1, offset, filter(0));
            assert!(cache.get(9, 9).is_some(), "after {offset} others");
        }
    }
}
