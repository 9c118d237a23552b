//! What makes an event of a fixed size valid, as a row of a table: a scan checks millions of events per second, and walking
//! through the fields of each kind costs a jump that the processor cannot foresee.
//!
//! The rows are made by the compiler from the same declarations as the archives, and say yes only to what bytecheck says yes
//! to: a test compares them for every value of every byte. Whatever they do not say yes to is bytecheck's to judge.

use super::{ALIGNMENT, EVENT_HEADER_BYTES};
use crate::decimal::{Price, Quantity};
use crate::tags::Kind;
use crate::text::Text;

/// A type of a payload's fields, by what its archive may be.
pub trait Field {
    /// The greatest value of the one byte that it is; `u8::MAX`: whatever its bytes are, they are a value of it.
    const GREATEST: u8 = u8::MAX;
}

impl Field for u16 {}
impl Field for u32 {}
impl Field for u64 {}
impl Field for i32 {}
impl Field for i64 {}
impl<const N: usize> Field for [u8; N] {}
impl Field for Price {}
impl Field for Quantity {}
impl<const N: usize> Field for Text<N> {}

/// Fields of choices that a payload may have.
const CHOICES_MAX: usize = 4;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Header and payload in bytes; zero fits no event.
    length: u32,
    kind: Kind,
    /// Where in the event a field of choices lies, and its greatest value. Unused ones allow every value of the first byte.
    choices: [(u8, u8); CHOICES_MAX],
}

impl Shape {
    /// It says yes to nothing.
    pub const NONE: Self = Self { length: 0, kind: Kind::ALL[0], choices: [(0, u8::MAX); CHOICES_MAX] };

    /// That of a kind whose payload has so many bytes.
    pub(crate) const fn of(kind: Kind, payload_bytes: usize) -> Self {
        let length = EVENT_HEADER_BYTES + payload_bytes;
        assert!(length <= u8::MAX as usize, "places of fields are kept in a byte");
        Self { length: length as u32, kind, ..Self::NONE }
    }

    /// With a field at this offset in the payload, whose greatest value is given as in [`Field`].
    pub(crate) const fn with(mut self, offset: usize, greatest: u8) -> Self {
        let mut free = 0;
        if greatest < u8::MAX {
            while self.choices[free].1 != u8::MAX {
                free += 1;
                assert!(free < CHOICES_MAX, "a payload has few fields of choices");
            }
            self.choices[free] = ((EVENT_HEADER_BYTES + offset) as u8, greatest);
        }
        self
    }

    /// The kind of the event that starts `bytes`, if its length and its fields are what this allows.
    #[inline]
    pub(crate) fn fits(&self, bytes: &[u8]) -> Option<Kind> {
        let event = bytes.get(..self.length as usize)?;
        let length = event.first_chunk::<4>()?;
        let mut fits = u32::from_le_bytes(*length) == self.length;
        fits &= bytes.as_ptr().addr().is_multiple_of(ALIGNMENT);
        for (at, greatest) in self.choices {
            fits &= *event.get(usize::from(at))? <= greatest;
        }
        fits.then_some(self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::super::header::check_in_full;
    use super::*;
    use crate::tags;

    #[repr(C, align(16))]
    struct Aligned([u8; 256]);

    /// An event of a kind with nothing in it, and its length.
    fn empty(kind: Kind) -> (Aligned, usize) {
        let mut event = Aligned([0; 256]);
        event.0[4..6].copy_from_slice(&kind.tag().to_le_bytes());
        for length in (EVENT_HEADER_BYTES..=event.0.len()).step_by(ALIGNMENT) {
            event.0[..4].copy_from_slice(&(length as u32).to_le_bytes());
            if check_in_full(&event.0).is_ok() {
                return (event, length);
            }
        }
        panic!("{kind} has no empty event");
    }

    #[test]
    fn one_look_says_yes_to_what_bytecheck_does_for_every_value_of_every_byte() {
        for kind in Kind::ALL.iter().copied().filter(|kind| *kind != Kind::StateSet) {
            let (mut event, length) = empty(kind);
            let mut refused = 0;
            for at in 0..length {
                let was = event.0[at];
                for value in 0..=u8::MAX {
                    event.0[at] = value;
                    let (full, plain) = (check_in_full(&event.0), tags::plainly(&event.0));
                    // Flags are looked at beside the shape.
                    if at != 6 {
                        assert_eq!(
                            plain,
                            full.as_ref().ok().map(|header| header.kind),
                            "{kind}: {value} at {at}"
                        );
                    }
                    refused += u32::from(full.is_err());
                }
                event.0[at] = was;
            }
            // At least lengths, tags and flags.
            assert!(refused > 1000, "{kind}: {refused}");
        }
    }

    #[test]
    fn one_look_says_no_to_an_event_that_is_cut_short_or_lies_across_the_grid() {
        for kind in Kind::ALL.iter().copied().filter(|kind| *kind != Kind::StateSet) {
            let (event, length) = empty(kind);
            assert_eq!(tags::plainly(&event.0[..length]), Some(kind));
            assert!((0..length).all(|end| tags::plainly(&event.0[..end]).is_none()));
            let mut shifted = Aligned([0; 256]);
            shifted.0[8..8 + length].copy_from_slice(&event.0[..length]);
            assert_eq!(tags::plainly(&shifted.0[8..]), None);
        }
    }

    #[test]
    fn events_of_many_sizes_are_judged_in_full() {
        let (event, _) = empty_set();
        assert_eq!(tags::plainly(&event.0), None);
        assert!(check_in_full(&event.0).is_ok());
    }

    /// An event that sets a key of one byte to nothing.
    fn empty_set() -> (Aligned, usize) {
        let mut event = Aligned([0; 256]);
        let length = EVENT_HEADER_BYTES + 2 * ALIGNMENT;
        event.0[..4].copy_from_slice(&(length as u32).to_le_bytes());
        event.0[4..6].copy_from_slice(&Kind::StateSet.tag().to_le_bytes());
        event.0[EVENT_HEADER_BYTES] = 1;
        (event, length)
    }
}
