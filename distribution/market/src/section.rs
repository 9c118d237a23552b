//! Little-endian numbers of a snapshot section, read with every length checked.

use matchtape_schemas::ProjectionError;

/// Reads a section front to back.
pub(crate) struct SectionReader<'a> {
    section: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> SectionReader<'a> {
    pub(crate) fn new(section: &'static str, bytes: &'a [u8]) -> Self {
        Self { section, bytes, at: 0 }
    }

    pub(crate) fn error(&self, what: impl Into<String>) -> ProjectionError {
        ProjectionError { section: self.section, at: self.at, what: what.into() }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], ProjectionError> {
        let rest = &self.bytes[self.at..];
        if count > rest.len() {
            return Err(self.error(format!("{count} bytes expected, {} are left", rest.len())));
        }
        self.at += count;
        Ok(&rest[..count])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProjectionError> {
        Ok(self.take(N)?.try_into().expect("as many bytes as asked for"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ProjectionError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ProjectionError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, ProjectionError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, ProjectionError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, ProjectionError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    /// A count of things of which each takes at least `bytes_each`: refused before anything is allocated for it.
    pub(crate) fn count(&mut self, bytes_each: usize) -> Result<usize, ProjectionError> {
        let count = self.u32()? as usize;
        let left = self.bytes.len() - self.at;
        if count > left / bytes_each {
            return Err(self.error(format!("{count} entries cannot be in {left} bytes")));
        }
        Ok(count)
    }

    pub(crate) fn end(&self) -> Result<(), ProjectionError> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            left => Err(self.error(format!("{left} bytes after the end"))),
        }
    }
}

pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// A count that is known to be small enough because each entry is in memory.
pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    put_u32(out, u32::try_from(count).expect("fewer than 2^32 entries"));
}
