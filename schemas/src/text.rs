//! Short text of a fixed size inside records: symbols, names, client order ids.

use std::borrow::Cow;
use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

/// Up to `N` bytes of UTF-8, padded with zero bytes; the text itself contains none.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Text<const N: usize>([u8; N]);

/// Text that does not fit its field.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
pub enum TextError {
    /// More bytes than the field holds.
    #[error("{text:?} has {bytes} bytes, the field holds {limit}")]
    TooLong {
        /// The text refused.
        text: String,
        /// Its length in bytes.
        bytes: usize,
        /// The field's size in bytes.
        limit: usize,
    },
    /// A zero byte inside would end the text early.
    #[error("{0:?} contains a zero byte")]
    ZeroByte(String),
}

impl<const N: usize> Text<N> {
    /// The text as a field of `N` bytes.
    pub fn new(text: &str) -> Result<Self, TextError> {
        if text.len() > N {
            return Err(TextError::TooLong { text: text.to_owned(), bytes: text.len(), limit: N });
        }
        if text.as_bytes().contains(&0) {
            return Err(TextError::ZeroByte(text.to_owned()));
        }
        let mut bytes = [0; N];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self(bytes))
    }

    /// The text; bytes from outside that are not UTF-8 are shown as U+FFFD.
    pub fn as_str(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(trimmed(&self.0))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        trimmed(&self.0).is_empty()
    }
}

impl<const N: usize> ArchivedText<N> {
    /// The native value of this archived field.
    #[inline]
    pub fn get(&self) -> Text<N> {
        Text(self.0)
    }
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len())]
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.as_str())
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.as_str(), f)
    }
}

impl<const N: usize> fmt::Debug for ArchivedText<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.get(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_kept_whole_or_refused() {
        assert_eq!(Text::<8>::new("ESH4").unwrap().as_str(), "ESH4");
        assert_eq!(Text::<4>::new("ESH4").unwrap().to_string(), "ESH4");
        assert!(matches!(Text::<4>::new("恒盛"), Err(TextError::TooLong { bytes: 6, limit: 4, .. })));
        assert!(matches!(Text::<4>::new("a\0b"), Err(TextError::ZeroByte(_))));
        assert!(Text::<4>::default().is_empty());
    }
}
