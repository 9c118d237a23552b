//! The key of an entity while tables are merged and searched: its first sixteen bytes as a number, so that comparing, hashing
//! and cutting off what two keys share are a few instructions. Only keys of keyed state can be longer.

use std::cmp::Ordering;

use crate::codec::{Fields, Short, put_varint};
use crate::entity::ENTITY_KEY_BYTES_MAX;

const HEAD_BYTES: usize = 16;
/// Half a byte that means: the number follows as a varint.
const FOLLOWS: usize = 15;

/// See the module. Ordered as the bytes are.
#[derive(Debug, Default, Eq)]
pub(crate) struct Key {
    /// The first bytes, most significant first, then zeros.
    head: u128,
    length: usize,
    /// The bytes behind those of the head.
    tail: Vec<u8>,
}

impl Clone for Key {
    fn clone(&self) -> Self {
        Self { head: self.head, length: self.length, tail: self.tail.clone() }
    }

    #[inline]
    fn clone_from(&mut self, other: &Self) {
        (self.head, self.length) = (other.head, other.length);
        if !self.tail.is_empty() || !other.tail.is_empty() {
            self.tail.clone_from(&other.tail);
        }
    }
}

impl PartialEq for Key {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        let short = self.head == other.head && self.length == other.length;
        short && (self.length <= HEAD_BYTES || self.tail == other.tail)
    }
}

impl Ord for Key {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        match self.head.cmp(&other.head) {
            Ordering::Equal if self.length.max(other.length) > HEAD_BYTES => {
                self.tail.cmp(&other.tail).then(self.length.cmp(&other.length))
            }
            // Zeros at the end of the head may stand for nothing: then the shorter key comes first.
            Ordering::Equal => self.length.cmp(&other.length),
            unequal => unequal,
        }
    }
}

impl PartialOrd for Key {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// All bits but those of the last bytes.
#[inline]
fn first_bytes(count: usize) -> u128 {
    u128::MAX.checked_shl(8 * (HEAD_BYTES - count) as u32).unwrap_or(0)
}

#[inline]
fn shifted_left(head: u128, bytes: usize) -> u128 {
    head.checked_shl(8 * bytes as u32).unwrap_or(0)
}

impl Key {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut key = Self::default();
        key.set(bytes);
        key
    }

    /// Becomes the key of these bytes.
    pub(crate) fn set(&mut self, bytes: &[u8]) {
        let (start, rest) = bytes.split_at(bytes.len().min(HEAD_BYTES));
        let mut head = [0; HEAD_BYTES];
        head[..start.len()].copy_from_slice(start);
        self.head = u128::from_be_bytes(head);
        self.length = bytes.len();
        self.tail.clear();
        self.tail.extend_from_slice(rest);
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.to_be_bytes()[..self.length.min(HEAD_BYTES)].to_vec();
        bytes.extend_from_slice(&self.tail);
        bytes
    }

    /// Its first sixteen bytes as a number. Where two keys differ in it, they are in its order.
    #[inline]
    pub(super) fn head(&self) -> u128 {
        self.head
    }

    /// How many bytes it has.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Memory that it holds elsewhere, in bytes.
    pub(super) fn tail_bytes(&self) -> usize {
        self.tail.capacity()
    }

    pub(crate) fn starts_with(&self, prefix: &Self) -> bool {
        if prefix.length > HEAD_BYTES {
            return self.head == prefix.head && self.tail.starts_with(&prefix.tail);
        }
        self.length >= prefix.length && (self.head ^ prefix.head) & first_bytes(prefix.length) == 0
    }

    /// The persisted hash: see `filter.rs`.
    #[inline]
    pub(super) fn hash(&self) -> u64 {
        let (high, low) = ((self.head >> 64) as u64, self.head as u64);
        let length = (self.length as u64).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
        let mut hash =
            super::filter::mix(high.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(length) ^ low);
        for chunk in self.tail.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = super::filter::mix(hash ^ u64::from_le_bytes(word));
        }
        hash
    }

    /// How many bytes it begins with that `before` begins with too.
    #[inline]
    fn shared(&self, before: &Self) -> usize {
        let in_head = (self.head ^ before.head).leading_zeros() as usize / 8;
        let shortest = self.length.min(before.length);
        if in_head < HEAD_BYTES || shortest <= HEAD_BYTES {
            return in_head.min(shortest);
        }
        HEAD_BYTES + self.tail.iter().zip(&before.tail).take_while(|(left, right)| left == right).count()
    }

    /// Appends what a reader that knows `before` needs: a byte of how many bytes it shares and how many follow (half a byte
    /// each; 15: the number follows), and the rest of the bytes.
    #[inline]
    pub(super) fn put(&self, before: &Self, out: &mut Vec<u8>) {
        let shared = self.shared(before);
        let rest = self.length - shared;
        out.push((shared.min(FOLLOWS) << 4 | rest.min(FOLLOWS)) as u8);
        if shared >= FOLLOWS {
            put_varint(out, shared as u64);
        }
        if rest >= FOLLOWS {
            put_varint(out, rest as u64);
        }
        if self.length <= HEAD_BYTES {
            let at = out.len();
            out.extend_from_slice(&shifted_left(self.head, shared).to_be_bytes());
            out.truncate(at + rest);
        } else {
            out.extend_from_slice(&self.to_bytes()[shared..]);
        }
    }

    /// Becomes the key of no bytes, which is before all others.
    #[inline]
    pub(super) fn clear(&mut self) {
        (self.head, self.length) = (0, 0);
        self.tail.clear();
    }

    /// Being the key of the entry before, becomes the key that [`Key::put`] wrote.
    #[inline]
    pub(super) fn read(&mut self, fields: &mut Fields<'_>) -> Result<(), Short> {
        let at = fields.at();
        let lengths = usize::from(fields.u8()?);
        let (mut shared, mut rest) = (lengths >> 4, lengths & 15);
        if shared == FOLLOWS {
            shared = bounded(fields, ENTITY_KEY_BYTES_MAX)?;
        }
        if rest == FOLLOWS {
            rest = bounded(fields, ENTITY_KEY_BYTES_MAX)?;
        }
        let length = shared + rest;
        if shared > self.length || length > ENTITY_KEY_BYTES_MAX {
            return Err(Short { at });
        }
        if length > HEAD_BYTES || !self.tail.is_empty() {
            let mut bytes = self.to_bytes();
            bytes.truncate(shared);
            bytes.extend_from_slice(fields.bytes(rest)?);
            self.set(&bytes);
            return Ok(());
        }
        let head = match fields.rest().first_chunk::<HEAD_BYTES>() {
            Some(ahead) => {
                fields.bytes(rest)?;
                u128::from_be_bytes(*ahead) & first_bytes(rest)
            }
            None => {
                let mut padded = [0; HEAD_BYTES];
                padded[..rest].copy_from_slice(fields.bytes(rest)?);
                u128::from_be_bytes(padded)
            }
        };
        self.head = self.head & first_bytes(shared) | head.checked_shr(8 * shared as u32).unwrap_or(0);
        self.length = length;
        Ok(())
    }
}

/// A length that is not greater than `max`.
pub(super) fn bounded(fields: &mut Fields<'_>, max: usize) -> Result<usize, Short> {
    let at = fields.at();
    match usize::try_from(fields.varint()?) {
        Ok(value) if value <= max => Ok(value),
        _ => Err(Short { at }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes as keys have them: short ones that share much, and longer ones.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            3 => prop::collection::vec(0u8..2, 0..20),
            1 => prop::collection::vec(any::<u8>(), 0..ENTITY_KEY_BYTES_MAX),
            1 => prop::collection::vec(0u8..1, 0..40),
        ]
    }

    proptest! {
        #[test]
        fn keys_compare_as_their_bytes_do(left in bytes(), right in bytes()) {
            let (of_left, of_right) = (Key::of(&left), Key::of(&right));
            prop_assert_eq!(of_left.to_bytes(), left.clone());
            prop_assert_eq!(of_left.cmp(&of_right), left.cmp(&right));
            prop_assert_eq!(of_left == of_right, left == right);
            prop_assert_eq!(of_left.starts_with(&of_right), left.starts_with(&right));
            prop_assert_eq!(of_left.hash() == of_right.hash(), left == right);
        }

        #[test]
        fn a_row_of_keys_written_against_each_other_comes_back(keys in prop::collection::vec(bytes(), 1..20)) {
            let (mut out, mut before) = (Vec::new(), Key::default());
            for key in &keys {
                let key = Key::of(key);
                key.put(&before, &mut out);
                before.clone_from(&key);
            }
            let (mut fields, mut read) = (Fields::new(&out), Key::default());
            for key in &keys {
                read.read(&mut fields).unwrap();
                prop_assert_eq!(&read.to_bytes(), key);
            }
            prop_assert!(fields.is_empty());
            // Cut short anywhere, every key is one of them or an error.
            for end in 0..out.len() {
                let (mut fields, mut read) = (Fields::new(&out[..end]), Key::default());
                for key in &keys {
                    if read.read(&mut fields).is_err() {
                        break;
                    }
                    prop_assert_eq!(&read.to_bytes(), key);
                }
            }
        }

        #[test]
        fn any_bytes_at_all_are_a_key_or_an_error(before in bytes(), raw: Vec<u8>) {
            let mut key = Key::of(&before);
            if key.read(&mut Fields::new(&raw)).is_ok() {
                prop_assert!(key.to_bytes().len() <= ENTITY_KEY_BYTES_MAX);
                prop_assert_eq!(Key::of(&key.to_bytes()), key);
            }
        }
    }
}
