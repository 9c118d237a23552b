//! A list that one thread appends to while any number read it, without a lock on either side.
//!
//! It lives in buckets of doubling size that never move, so a reader's reference stays good, and an append touches nothing
//! a reader holds.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Slots of the first bucket.
const FIRST_BUCKET: usize = 64;
/// Enough for more entries than memory holds.
const BUCKETS: usize = 32;

/// See the module.
#[derive(Debug)]
pub(super) struct AppendList<T> {
    buckets: [OnceLock<Box<[OnceLock<T>]>>; BUCKETS],
    length: AtomicUsize,
}

/// The bucket of an entry and its place there.
#[inline]
fn place(index: usize) -> (usize, usize) {
    let shifted = index + FIRST_BUCKET;
    let bucket = (shifted / FIRST_BUCKET).ilog2() as usize;
    (bucket, shifted - (FIRST_BUCKET << bucket))
}

impl<T> AppendList<T> {
    pub(super) fn new() -> Self {
        Self { buckets: [const { OnceLock::new() }; BUCKETS], length: AtomicUsize::new(0) }
    }

    pub(super) fn len(&self) -> usize {
        // Acquire: pairs with Release in `push`; entries below the length are there.
        self.length.load(Ordering::Acquire)
    }

    /// Appends one entry. Only one thread may append at a time.
    ///
    /// # Panics
    /// If another thread appended at the same time.
    pub(super) fn push(&self, value: T) {
        let index = self.length.load(Ordering::Relaxed);
        let (bucket, at) = place(index);
        let slots = self.buckets[bucket]
            .get_or_init(|| std::iter::repeat_with(OnceLock::new).take(FIRST_BUCKET << bucket).collect());
        assert!(slots[at].set(value).is_ok(), "one thread appends");
        // Release: pairs with Acquire in `len`.
        self.length.store(index + 1, Ordering::Release);
    }

    /// The entry, if it was appended.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&T> {
        if index >= self.len() {
            return None;
        }
        let (bucket, at) = place(index);
        self.buckets[bucket].get()?[at].get()
    }

    /// How many entries, from the first, satisfy `wanted`, which holds for a prefix of them.
    pub(super) fn partition_point(&self, wanted: impl Fn(&T) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if wanted(self.get(middle).expect("below the length")) { low = middle + 1 } else { high = middle }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_fill_bucket_after_bucket_without_a_hole() {
        let mut expected = (0, 0);
        for index in 0..100_000 {
            assert_eq!(place(index), expected);
            expected = if expected.1 + 1 == FIRST_BUCKET << expected.0 {
                (expected.0 + 1, 0)
            } else {
                (expected.0, expected.1 + 1)
            };
        }
    }

    #[test]
    fn readers_see_a_growing_prefix_while_one_thread_appends() {
        let list = AppendList::new();
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        while list.len() < 50_000 {
                            let length = list.len();
                            if length > 0 {
                                assert_eq!(list.get(length - 1), Some(&(length - 1)));
                                assert_eq!(list.partition_point(|value| *value < length / 2), length / 2);
                            }
                            std::hint::spin_loop();
                        }
                    })
                })
                .collect();
            for value in 0..50_000 {
                list.push(value);
            }
            for reader in readers {
                reader.join().unwrap();
            }
        });
        assert_eq!(list.get(50_000), None);
    }
}
