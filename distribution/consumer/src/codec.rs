//! Little-endian fields read front to back, each bounded by the bytes there are.

use std::ops::RangeInclusive;
use std::time::Duration;

use matchtape_schemas::Sequence;

/// Bytes that are not what they should be.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
#[error("consumer {what}: {problem} at byte {at}")]
pub struct DecodeError {
    /// What was being read: `definition`, `state` or `parked`.
    pub what: &'static str,
    /// Where.
    pub at: usize,
    /// What is wrong there.
    pub problem: String,
}

pub(crate) struct Fields<'a> {
    what: &'static str,
    version: u16,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// Reads the version first and refuses those that are not known.
    pub(crate) fn new(
        what: &'static str,
        bytes: &'a [u8],
        versions: RangeInclusive<u16>,
    ) -> Result<Self, DecodeError> {
        let mut fields = Self { what, version: 0, bytes, at: 0 };
        fields.version = fields.u16()?;
        if !versions.contains(&fields.version) {
            let (found, first, last) = (fields.version, versions.start(), versions.end());
            return Err(fields.wrong_at(0, format!("version {found}, this release reads {first} to {last}")));
        }
        Ok(fields)
    }

    /// The version that was found.
    pub(crate) fn version(&self) -> u16 {
        self.version
    }

    pub(crate) fn wrong(&self, problem: impl Into<String>) -> DecodeError {
        self.wrong_at(self.at, problem)
    }

    fn wrong_at(&self, at: usize, problem: impl Into<String>) -> DecodeError {
        DecodeError { what: self.what, at, problem: problem.into() }
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else { return Err(self.wrong(format!("it ends before {length} more bytes"))) };
        let field = &self.bytes[self.at..end];
        self.at = end;
        Ok(field)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        Ok(self.bytes(N)?.try_into().expect("N bytes were read"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn sequence(&mut self) -> Result<Sequence, DecodeError> {
        self.u64().map(Sequence)
    }

    pub(crate) fn duration(&mut self) -> Result<Duration, DecodeError> {
        self.u64().map(Duration::from_nanos)
    }

    /// A count of things that have `each` bytes, at most `max`; there are so many bytes left.
    pub(crate) fn count(&mut self, max: usize, each: usize) -> Result<usize, DecodeError> {
        let at = self.at;
        let count = self.u32()? as usize;
        if count > max || count.saturating_mul(each) > self.bytes.len() - self.at {
            return Err(self.wrong_at(at, format!("a count of {count}")));
        }
        Ok(count)
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.at == self.bytes.len() {
            return Ok(());
        }
        Err(self.wrong(format!("{} bytes too many", self.bytes.len() - self.at)))
    }
}

/// Nanoseconds, as many as fit.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
