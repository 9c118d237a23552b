//! Keyed state as of a position, and how keys and values are written as text.

use matchtape_market::{KeyedState, StateValue};
use matchtape_schemas::{BodyRef, Sequence};
use matchtape_storage::{Direction, Query, Reader};

use crate::as_of::{self, AsOfError};

/// The value of a key after the event at `through`; `None`: it has none. Found by the index; where the event that set it
/// is not kept any more, in a snapshot.
pub fn get(reader: &Reader, key: &[u8], through: Sequence) -> Result<Option<StateValue>, AsOfError> {
    let query = Query {
        through,
        state_key: Some(key.to_vec()),
        kinds: KeyedState::KINDS,
        direction: Direction::Backward,
        limit: Some(1),
        ..Query::default()
    };
    if let Some(last) = reader.query(&query)?.next().transpose()? {
        let event = last.event();
        return Ok(match event.body() {
            BodyRef::StateSet(set) => Some(StateValue {
                value: set.value.into(),
                set_at: event.sequence(),
                event_time: event.event_time(),
            }),
            _ => None,
        });
    }
    let first_kept = reader.first_kept();
    if first_kept <= Sequence::FIRST {
        return Ok(None);
    }
    // Not changed since the first event that is kept, so any snapshot since then has it.
    let mut state = KeyedState::new();
    if as_of::restore(reader, &mut state, through)? == Sequence::ZERO {
        return Err(AsOfError::HistoryGone { section: KeyedState::SECTION, asked: through, first_kept });
    }
    Ok(state.get(key).cloned())
}

/// Every value after the event at `through`.
pub fn all(reader: &Reader, through: Sequence) -> Result<KeyedState, AsOfError> {
    let mut state = KeyedState::new();
    let scope = Query { kinds: KeyedState::KINDS, ..Query::default() };
    as_of::fold(reader, &mut state, through, &scope)?;
    Ok(state)
}

/// Bytes as text where they are printable UTF-8, else in hexadecimal after `0x`.
pub fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) && !text.starts_with("0x") => text.to_owned(),
        _ => bytes.iter().fold("0x".to_owned(), |hex, byte| hex + &format!("{byte:02x}")),
    }
}

/// The bytes that a text stands for: what [`readable`] writes, read back. `None`: hexadecimal digits that are none.
pub fn from_readable(text: &str) -> Option<Vec<u8>> {
    let Some(digits) = text.strip_prefix("0x") else { return Some(text.as_bytes().to_vec()) };
    if digits.len() % 2 != 0 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_come_back_from_the_text_they_are_written_as(bytes: Vec<u8>, text: String) {
            prop_assert_eq!(from_readable(&readable(&bytes)), Some(bytes));
            prop_assert_eq!(from_readable(&readable(text.as_bytes())), Some(text.into_bytes()));
        }
    }

    #[test]
    fn texts_stay_texts_and_what_is_not_hexadecimal_is_refused() {
        assert_eq!(
            (readable(b"limits/ESH4"), readable(b"0x1"), readable(&[0, 255])),
            ("limits/ESH4".into(), "0x307831".into(), "0x00ff".into())
        );
        for wrong in ["0x1", "0xzz", "0x+1", "0xé"] {
            assert_eq!(from_readable(wrong), None, "{wrong}");
        }
    }
}
