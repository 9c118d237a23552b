//! Ascending positions as blocks hold them: the first one, then varint differences. A merge hands lists on as they are encoded
//! and never takes them apart, unless retention cuts through one.

use crate::codec::{Fields, Short, put_varint};

/// At least one position, ascending, and checked: see [`Postings::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Postings<'a> {
    /// How many.
    pub count: u64,
    pub first: u64,
    pub last: u64,
    /// The differences of those behind the first, each at least 1.
    pub steps: &'a [u8],
}

impl<'a> Postings<'a> {
    /// What `encoded` holds: a varint to be added to `base`, then the steps. It has to be `count` positions exactly.
    pub(crate) fn check(base: u64, count: u64, encoded: &'a [u8]) -> Result<Self, Short> {
        let mut fields = Fields::new(encoded);
        let first = fields.varint()?;
        let first = base.checked_add(first).filter(|_| count > 0).ok_or(Short { at: 0 })?;
        let steps = &encoded[fields.at()..];
        let mut last = first;
        for _ in 1..count {
            let at = fields.at();
            let step = fields.varint()?;
            last = last.checked_add(step).filter(|_| step > 0).ok_or(Short { at })?;
        }
        if fields.is_empty() {
            Ok(Self { count, first, last, steps })
        } else {
            Err(Short { at: fields.at() })
        }
    }

    /// One after the other.
    pub(crate) fn positions(&self) -> impl Iterator<Item = u64> + use<'a> {
        let mut fields = Fields::new(self.steps);
        let mut next = Some(self.first);
        std::iter::from_fn(move || {
            let position = next?;
            next = (!fields.is_empty()).then(|| position + fields.varint().expect("the steps were checked"));
            Some(position)
        })
    }
}

/// Positions being gathered.
#[derive(Clone, Debug, Default)]
pub(crate) struct PostingList {
    count: u64,
    first: u64,
    last: u64,
    steps: Vec<u8>,
}

impl PostingList {
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn clear(&mut self) {
        self.count = 0;
        self.steps.clear();
    }

    /// Takes in the next position.
    pub(crate) fn push(&mut self, position: u64) {
        self.append(Postings { count: 1, first: position, last: position, steps: &[] });
    }

    /// Takes in the next positions, all behind those it has.
    pub(crate) fn append(&mut self, next: Postings<'_>) {
        if self.is_empty() {
            self.first = next.first;
        } else {
            debug_assert!(next.first > self.last, "positions come in order");
            put_varint(&mut self.steps, next.first - self.last);
        }
        self.steps.extend_from_slice(next.steps);
        self.last = next.last;
        self.count += next.count;
    }

    /// Those it has, at least one.
    pub(crate) fn get(&self) -> Postings<'_> {
        Postings { count: self.count, first: self.first, last: self.last, steps: &self.steps }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lists_put_together_from_pieces_are_the_list_written_at_once(
            positions in prop::collection::btree_set(100u64..1 << 40, 1..200),
            cuts: Vec<prop::sample::Index>,
        ) {
            let positions: Vec<u64> = positions.into_iter().collect();
            let whole = positions.iter().fold(PostingList::default(), |mut list, position| {
                list.push(*position);
                list
            });
            let cuts: BTreeSet<usize> = cuts.iter().map(|cut| cut.index(positions.len())).collect();
            let ends: Vec<usize> = cuts.into_iter().filter(|cut| *cut > 0).chain([positions.len()]).collect();
            let (mut pieced, mut start) = (PostingList::default(), 0);
            for end in ends {
                let mut piece = PostingList::default();
                positions[start..end].iter().for_each(|position| piece.push(*position));
                pieced.append(piece.get());
                start = end;
            }
            prop_assert_eq!(pieced.get(), whole.get());
            let mut encoded = Vec::new();
            put_varint(&mut encoded, whole.first - 100);
            encoded.extend_from_slice(&whole.steps);
            let read = Postings::check(100, whole.count, &encoded).unwrap();
            prop_assert_eq!(read, whole.get());
            prop_assert_eq!(read.positions().collect::<Vec<_>>(), positions);
            prop_assert!(Postings::check(100, whole.count + 1, &encoded).is_err());
            prop_assert!(Postings::check(100, whole.count - 1, &encoded).is_err());
        }

        #[test]
        fn any_bytes_at_all_are_positions_in_order_or_an_error(base: u64, count in 0u64..20, encoded: Vec<u8>) {
            if let Ok(read) = Postings::check(base, count, &encoded) {
                let positions: Vec<u64> = read.positions().collect();
                prop_assert_eq!(positions.len() as u64, count);
                prop_assert!(positions.is_sorted_by(|left, right| left < right));
                prop_assert_eq!((positions.first(), positions.last()), (Some(&read.first), Some(&read.last)));
            }
        }
    }
}
