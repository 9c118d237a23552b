//! Keyed reference data: the last value of a key wins.
//!
//! `StateSet` is the one payload of variable size. It is a fixed head, then the key, then the value, then zeros up to a
//! multiple of 16:
//!
//! ```text
//! 0  u32 key bytes      8  u64 zero
//! 4  u32 value bytes    16 key, value, zeros
//! ```

use super::{ALIGNMENT, Field, Payload, PayloadError, Reserved, Shape, payload};

/// Longest key, in bytes.
pub const STATE_KEY_BYTES_MAX: usize = 128;
/// Longest key and value together, in bytes.
pub const STATE_BYTES_MAX: usize = 48 * 1024;
const HEAD_BYTES: usize = 16;

/// A value for a key; replaces the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateSet {
    key: Vec<u8>,
    value: Vec<u8>,
}

/// A [`StateSet`] where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSetView<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Its value from here on.
    pub value: &'a [u8],
}

/// A key or value that no event can hold.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
pub enum StateError {
    /// A key is 1 to [`STATE_KEY_BYTES_MAX`] bytes.
    #[error("a key has 1 to {STATE_KEY_BYTES_MAX} bytes, this one {0}")]
    Key(usize),
    /// Key and value together are at most [`STATE_BYTES_MAX`] bytes.
    #[error("key and value have {0} bytes, an event holds {STATE_BYTES_MAX}")]
    Value(usize),
}

impl StateSet {
    /// A value for a key.
    pub fn new(key: &[u8], value: &[u8]) -> Result<Self, StateError> {
        check_key(key.len())?;
        if key.len() + value.len() > STATE_BYTES_MAX {
            return Err(StateError::Value(key.len() + value.len()));
        }
        Ok(Self { key: key.to_vec(), value: value.to_vec() })
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Its value from here on.
    pub fn value(&self) -> &[u8] {
        &self.value
    }
}

fn check_key(bytes: usize) -> Result<(), StateError> {
    if bytes == 0 || bytes > STATE_KEY_BYTES_MAX { Err(StateError::Key(bytes)) } else { Ok(()) }
}

/// Key and value lengths, if the payload's size is what they ask for.
fn lengths(bytes: &[u8]) -> Result<(usize, usize), PayloadError> {
    if bytes.len() < HEAD_BYTES {
        return Err(PayloadError::Length { expected: HEAD_BYTES, found: bytes.len() });
    }
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
    let (key, value) = (word(0), word(4));
    if check_key(key).is_err() || value > STATE_BYTES_MAX || key + value > STATE_BYTES_MAX {
        return Err(PayloadError::Invalid(format!("key of {key} and value of {value} bytes")));
    }
    let expected = (HEAD_BYTES + key + value).next_multiple_of(ALIGNMENT);
    if bytes.len() != expected {
        return Err(PayloadError::Length { expected, found: bytes.len() });
    }
    Ok((key, value))
}

impl Payload for StateSet {
    const KIND: crate::tags::Kind = crate::tags::Kind::StateSet;
    const SHAPE: Shape = Shape::NONE;
    type View<'a> = StateSetView<'a>;

    fn encoded_len(&self) -> usize {
        (HEAD_BYTES + self.key.len() + self.value.len()).next_multiple_of(ALIGNMENT)
    }

    fn encode(&self, out: &mut [u8]) {
        assert_eq!(out.len(), self.encoded_len());
        let (key_end, value_end) =
            (HEAD_BYTES + self.key.len(), HEAD_BYTES + self.key.len() + self.value.len());
        out[0..4].copy_from_slice(&(self.key.len() as u32).to_le_bytes());
        out[4..8].copy_from_slice(&(self.value.len() as u32).to_le_bytes());
        out[8..HEAD_BYTES].fill(0);
        out[HEAD_BYTES..key_end].copy_from_slice(&self.key);
        out[key_end..value_end].copy_from_slice(&self.value);
        out[value_end..].fill(0);
    }

    fn check(bytes: &[u8]) -> Result<(), PayloadError> {
        lengths(bytes).map(|_| ())
    }

    unsafe fn view(bytes: &[u8]) -> StateSetView<'_> {
        let (key, value) = lengths(bytes).expect("checked when the frame was decoded");
        StateSetView { key: &bytes[HEAD_BYTES..][..key], value: &bytes[HEAD_BYTES + key..][..value] }
    }

    fn native(view: StateSetView<'_>) -> Self {
        Self { key: view.key.to_vec(), value: view.value.to_vec() }
    }
}

/// Room for the longest key.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct KeyBytes([u8; STATE_KEY_BYTES_MAX]);

impl Field for KeyBytes {}

impl Default for KeyBytes {
    fn default() -> Self {
        Self([0; STATE_KEY_BYTES_MAX])
    }
}

payload! {
    /// A key has no value any more.
    StateDeleted / ArchivedStateDeleted, 144 bytes {
        /// The key, then zeros.
        key: KeyBytes,
        /// Bytes of the key.
        key_bytes: u16,
        /// Zero.
        reserved: Reserved<14>,
    }
}

impl StateDeleted {
    /// The deletion of a key.
    pub fn new(key: &[u8]) -> Result<Self, StateError> {
        check_key(key.len())?;
        let mut padded = [0; STATE_KEY_BYTES_MAX];
        padded[..key.len()].copy_from_slice(key);
        Ok(Self { key: KeyBytes(padded), key_bytes: key.len() as u16, reserved: Reserved::default() })
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.key.0[..usize::from(self.key_bytes).min(STATE_KEY_BYTES_MAX)]
    }
}

impl ArchivedStateDeleted {
    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.key.0[..usize::from(self.key_bytes.to_native()).min(STATE_KEY_BYTES_MAX)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_that_no_event_holds_are_refused() {
        assert_eq!(StateSet::new(b"", b"v"), Err(StateError::Key(0)));
        assert_eq!(StateSet::new(&[1; 129], b"v"), Err(StateError::Key(129)));
        assert_eq!(
            StateSet::new(b"k", &vec![0; STATE_BYTES_MAX]),
            Err(StateError::Value(STATE_BYTES_MAX + 1))
        );
        assert_eq!(StateDeleted::new(b""), Err(StateError::Key(0)));
    }

    #[test]
    fn a_payload_of_another_size_than_its_lengths_say_is_refused() {
        let set = StateSet::new(b"key", b"value").unwrap();
        let mut bytes = vec![0; set.encoded_len()];
        set.encode(&mut bytes);
        assert_eq!(StateSet::check(&bytes), Ok(()));
        bytes[0] = 200;
        assert!(matches!(StateSet::check(&bytes), Err(PayloadError::Invalid(_))));
        bytes[0] = 30;
        assert!(matches!(StateSet::check(&bytes), Err(PayloadError::Length { expected: 64, found: 32 })));
        assert!(matches!(StateSet::check(&bytes[..8]), Err(PayloadError::Length { .. })));
    }
}
