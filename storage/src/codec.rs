//! Little-endian fields in order, for the formats that are read front to back (manifest, snapshot, table footers), and
//! the variable-length integers of posting blocks. Every read is bounded by the bytes there are.

use matchtape_schemas::{AcceptedTime, Epoch, EventTime, Head, Sequence, TapeId};

/// Bytes of an encoded [`Head`].
pub(crate) const HEAD_BYTES: usize = 48;

/// Fields read one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The bytes ended before the field did, or a number does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Short {
    /// Where the field starts.
    pub at: usize,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8], Short> {
        let end = self.at.checked_add(length).ok_or(Short { at: self.at })?;
        let field = self.bytes.get(self.at..end).ok_or(Short { at: self.at })?;
        self.at = end;
        Ok(field)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        Ok(self.bytes(N)?.try_into().expect("N bytes were read"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Short> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Short> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn sequence(&mut self) -> Result<Sequence, Short> {
        self.u64().map(Sequence)
    }

    pub(crate) fn head(&mut self) -> Result<Head, Short> {
        Ok(Head {
            tape: TapeId(self.u64()?),
            epoch: Epoch(self.u64()?),
            last_sequence: self.sequence()?,
            checksum: self.u64()?,
            accepted_time: AcceptedTime(self.i64()?),
            max_event_time: EventTime(self.i64()?),
        })
    }

    /// A LEB128 number of at most 64 bits.
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, Short> {
        let start = self.at;
        // Most are one byte: lengths, and the steps of busy entities.
        if let Some(byte) = self.bytes.get(start).filter(|byte| **byte < 0x80) {
            self.at += 1;
            return Ok(u64::from(*byte));
        }
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some(byte) = self.bytes.get(self.at) else { return Err(Short { at: start }) };
            self.at += 1;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                return Err(Short { at: start });
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Short { at: start })
    }
}

/// Appends a head.
pub(crate) fn put_head(out: &mut Vec<u8>, head: &Head) {
    out.extend_from_slice(&head.tape.0.to_le_bytes());
    out.extend_from_slice(&head.epoch.0.to_le_bytes());
    out.extend_from_slice(&head.last_sequence.0.to_le_bytes());
    out.extend_from_slice(&head.checksum.to_le_bytes());
    out.extend_from_slice(&head.accepted_time.0.to_le_bytes());
    out.extend_from_slice(&head.max_event_time.0.to_le_bytes());
}

/// Appends a LEB128 number.
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_survives_its_variable_length(value: u64) {
            for value in [value, value >> 32, value >> 57, 0, u64::MAX] {
                let mut bytes = Vec::new();
                put_varint(&mut bytes, value);
                let mut fields = Fields::new(&bytes);
                prop_assert_eq!(fields.varint(), Ok(value));
                prop_assert!(fields.is_empty());
                prop_assert_eq!(Fields::new(&bytes[..bytes.len() - 1]).varint(), Err(Short { at: 0 }));
            }
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_refused() {
        let mut bytes = [0xFF; 10];
        bytes[9] = 0x02;
        assert_eq!(Fields::new(&bytes).varint(), Err(Short { at: 0 }));
        bytes[9] = 0x01;
        assert_eq!(Fields::new(&bytes).varint(), Ok(u64::MAX));
        assert_eq!(Fields::new(&[0x80; 11]).varint(), Err(Short { at: 0 }));
    }

    #[test]
    fn a_head_survives_and_has_the_bytes_it_says() {
        let head = Head {
            tape: TapeId(1),
            epoch: Epoch(2),
            last_sequence: Sequence(3),
            checksum: 4,
            accepted_time: AcceptedTime(-5),
            max_event_time: EventTime(i64::MIN),
        };
        let mut bytes = Vec::new();
        put_head(&mut bytes, &head);
        assert_eq!(bytes.len(), HEAD_BYTES);
        assert_eq!(Fields::new(&bytes).head(), Ok(head));
        assert!(Fields::new(&bytes[1..]).head().is_err());
    }
}
