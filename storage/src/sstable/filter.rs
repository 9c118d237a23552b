//! The filter of a block of postings: which entities it may hold. It lies right behind its block, so a merge that hands a
//! block on as it is hands on its filter too, and a lookup reads the few hundred bytes that its own key is about.
//!
//! A split-block Bloom filter (the one of Apache Parquet): words of 32 bits, eight of them a group; an entity has one
//! bit in each word of one group. 12 bits per entity let about 0.7 % of absent entities pass; a test holds it below 1 %.

use super::key::Key;

const GROUP_BYTES: usize = 32;
const BITS_PER_ENTITY: usize = 12;
/// One odd number for each word of a group.
const SALTS: [u32; 8] =
    [0x47B6_137B, 0x4497_4D91, 0x8824_AD5B, 0xA2B7_289D, 0x7054_95C7, 0x2DF1_424B, 0x9EFC_4947, 0x5C6B_FB31];

/// The persisted hash of an entity's key: its first sixteen bytes (then zeros) as two big-endian numbers, their mix, and the
/// rest eight bytes at a time.
pub(crate) fn hash(key: &[u8]) -> u64 {
    Key::of(key).hash()
}

/// MurmurHash3's finaliser: spreads every input bit over all output bits.
#[inline]
pub(crate) fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    hash ^ hash >> 33
}

/// The group of an entity, of `groups`: by the upper half of its hash.
#[inline]
fn group_of(hash: u64, groups: usize) -> usize {
    (((hash >> 32) * groups as u64) >> 32) as usize
}

/// The bit of an entity in a word of its group: by the lower half of its hash.
#[inline]
fn bit(hash: u64, salt: u32) -> u32 {
    1 << ((hash as u32).wrapping_mul(salt) >> 27)
}

/// Makes `filter` that of these hashes.
pub(super) fn build(hashes: &[u64], filter: &mut Vec<u8>) {
    let groups = (hashes.len() * BITS_PER_ENTITY).div_ceil(8 * GROUP_BYTES).max(1);
    filter.clear();
    filter.resize(groups * GROUP_BYTES, 0);
    let (filter, _) = filter.as_chunks_mut::<GROUP_BYTES>();
    for hash in hashes {
        let (words, _) = filter[group_of(*hash, groups)].as_chunks_mut::<4>();
        for (word, salt) in words.iter_mut().zip(SALTS) {
            *word = (u32::from_le_bytes(*word) | bit(*hash, salt)).to_le_bytes();
        }
    }
}

/// `false`: the entity is certainly not in the block. A filter of an impossible length knows nothing.
pub(super) fn may_contain(filter: &[u8], hash: u64) -> bool {
    let (groups, rest) = filter.as_chunks::<GROUP_BYTES>();
    if groups.is_empty() || !rest.is_empty() {
        return true;
    }
    let (words, _) = groups[group_of(hash, groups.len())].as_chunks::<4>();
    words.iter().zip(SALTS).all(|(word, salt)| u32::from_le_bytes(*word) & bit(hash, salt) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn present_entities_are_always_found_and_absent_ones_pass_in_less_than_one_percent() {
        for entities in [1u64, 2, 21, 22, 64, 100, 1100, 2978, 200_000] {
            // Keys as they are: an index number, then dense order numbers in two instruments.
            let key = |number: u64| {
                let mut key = vec![2];
                key.extend_from_slice(&(number / 2).to_be_bytes());
                key.extend_from_slice(&[1, 1 + number as u8 % 2]);
                hash(&key)
            };
            let mut filter = Vec::new();
            build(&(0..entities).map(key).collect::<Vec<_>>(), &mut filter);
            assert!((0..entities).all(|number| may_contain(&filter, key(number))));
            let absent = 100_000;
            let passed = (entities..entities + absent).filter(|number| may_contain(&filter, key(*number)));
            let passed = passed.count();
            assert!(passed < absent as usize / 100, "{passed} of {absent} with {entities} entities");
        }
    }
}
