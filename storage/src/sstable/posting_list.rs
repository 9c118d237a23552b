//! Ascending positions as blocks hold them: the first one, then varint differences. A merge hands lists on as they are encoded
//! and never takes them apart, unless retention cuts through one.

use crate::codec::{Fields, Short, put_varint};

/// At least one position, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Postings<'a> {
    /// How many.
    pub count: u64,
    pub first: u64,
    pub last: u64,
    /// The differences of those behind the first, each at least 1. Checked when they are decoded, not before: a merge passes
    /// them on as bytes, and block checksums say that they are what was written.
    pub steps: &'a [u8],
}

impl Postings<'_> {
    /// Calls `visit` with one after the other; they have to be what the rest states.
    pub(crate) fn decode(&self, mut visit: impl FnMut(u64)) -> Result<(), Short> {
        let mut fields = Fields::new(self.steps);
        let mut position = self.first;
        visit(position);
        for _ in 1..self.count {
            let at = fields.at();
            let step = fields.varint()?;
            position = position.checked_add(step).filter(|_| step > 0).ok_or(Short { at })?;
            visit(position);
        }
        if self.count > 0 && position == self.last && fields.is_empty() {
            Ok(())
        } else {
            Err(Short { at: fields.at() })
        }
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
    #[inline]
    pub(crate) fn push(&mut self, position: u64) {
        self.append(Postings { count: 1, first: position, last: position, steps: &[] });
    }

    /// Takes in the next positions, all behind those it has.
    #[inline]
    pub(crate) fn append(&mut self, next: Postings<'_>) {
        if self.is_empty() {
            self.first = next.first;
        } else {
            debug_assert!(next.first > self.last, "positions come in order");
            put_varint(&mut self.steps, next.first - self.last);
        }
        if !next.steps.is_empty() {
            self.steps.extend_from_slice(next.steps);
        }
        self.last = next.last;
        self.count += next.count;
    }

    /// Those it has, at least one.
    #[inline]
    pub(crate) fn get(&self) -> Postings<'_> {
        Postings { count: self.count, first: self.first, last: self.last, steps: &self.steps }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn decoded(postings: Postings<'_>) -> Result<Vec<u64>, Short> {
        let mut positions = Vec::new();
        postings.decode(|position| positions.push(position)).map(|()| positions)
    }

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
            let stated = whole.get();
            prop_assert_eq!(decoded(stated).unwrap(), positions);
            let (more, less) = (stated.count + 1, stated.count - 1);
            prop_assert_eq!(decoded(Postings { count: more, ..stated }).is_err(), true);
            prop_assert_eq!(decoded(Postings { count: less, ..stated }).is_err(), true);
            prop_assert_eq!(decoded(Postings { last: stated.last + 1, ..stated }).is_err(), true);
        }

        #[test]
        fn any_bytes_at_all_are_positions_in_order_or_an_error(
            first: u64, last: u64, count in 0u64..20, steps: Vec<u8>,
        ) {
            if let Ok(positions) = decoded(Postings { count, first, last, steps: &steps }) {
                prop_assert_eq!(positions.len() as u64, count);
                prop_assert!(positions.is_sorted_by(|left, right| left < right));
                prop_assert_eq!((positions.first(), positions.last()), (Some(&first), Some(&last)));
            }
        }
    }
}
