//! The filter of an index table: which entities it may hold. A Bloom filter in pages of 4 KiB, so that a lookup reads one
//! page, however large the table is.
//!
//! 11 bits per entity and 7 probes inside one page: about 0.6 % of absent entities are not recognised as absent; a test
//! holds it below 1 %.

/// Bytes of a page.
pub(super) const PAGE_BYTES: usize = 4096;
const PAGE_BITS: u64 = PAGE_BYTES as u64 * 8;
const BITS_PER_ENTITY: u64 = 11;
const PROBES: u64 = 7;

/// The persisted hash of an entity's key: FNV-1a, then [`mix`].
pub(crate) fn hash(key: &[u8]) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    mix(hash)
}

/// MurmurHash3's finaliser: spreads every input bit over all output bits.
pub(crate) fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    hash ^ hash >> 33
}

/// Pages for so many entities.
pub(super) fn page_count(entities: u64) -> u32 {
    u32::try_from((entities * BITS_PER_ENTITY).div_ceil(PAGE_BITS)).expect("a table's entities are bounded")
}

/// The page an entity belongs to, of `pages`.
pub(super) fn page_of(hash: u64, pages: u32) -> u32 {
    (((hash >> 32) * u64::from(pages)) >> 32) as u32
}

/// The bits of an entity in its page, from hash bits that did not choose the page.
fn bits(hash: u64) -> impl Iterator<Item = usize> {
    let (start, step) = (hash & 0xFFFF, (hash >> 16 & 0xFFFF) | 1);
    (0..PROBES).map(move |probe| ((start + probe * step + probe * probe * probe) % PAGE_BITS) as usize)
}

pub(super) fn insert(page: &mut [u8], hash: u64) {
    for bit in bits(hash) {
        page[bit / 8] |= 1 << (bit % 8);
    }
}

/// `false`: the entity is certainly not in the table.
pub(super) fn may_contain(page: &[u8], hash: u64) -> bool {
    bits(hash).all(|bit| page[bit / 8] >> (bit % 8) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn present_entities_are_always_found_and_absent_ones_pass_in_less_than_one_percent() {
        for entities in [1u64, 100, 2978, 200_000] {
            let pages = page_count(entities);
            let mut filter = vec![0u8; pages as usize * PAGE_BYTES];
            let page = |hash| {
                let start = page_of(hash, pages) as usize * PAGE_BYTES;
                start..start + PAGE_BYTES
            };
            // Keys as they are: an index number, then dense order numbers in two instruments.
            let key = |number: u64| {
                let mut key = vec![2];
                key.extend_from_slice(&(number / 2).to_be_bytes());
                key.extend_from_slice(&(number as u32 % 2).to_be_bytes());
                hash(&key)
            };
            for number in 0..entities {
                insert(&mut filter[page(key(number))], key(number));
            }
            assert!((0..entities).all(|number| may_contain(&filter[page(key(number))], key(number))));
            let absent = 100_000;
            let passed = (entities..entities + absent)
                .filter(|number| may_contain(&filter[page(key(*number))], key(*number)))
                .count();
            assert!(passed < absent as usize / 100, "{passed} of {absent} with {entities} entities");
        }
    }
}
