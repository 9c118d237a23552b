//! The commit block: the log's local wrapper around the frames of one commit. `ON_DISK.md` draws it.
//!
//! Its checksum covers the header only. The frames inside prove themselves (each has its own checksum and names the one
//! before), the header names the chain on both sides of them, and the padding must be zero; so every byte of a
//! commit is covered, and the payload is summed only once, by whoever framed it.

use matchtape_schemas::Sequence;

use super::bytes::{array, checksums, put, seal, u16_at, u32_at, u64_at};
use super::segment::SegmentId;
use crate::disk::BLOCK_BYTES;
use crate::limits::COMMIT_BYTES_MAX;

/// The header at the start of every commit; frames follow at once, at a multiple of 16.
pub const COMMIT_HEADER_BYTES: usize = 128;
pub(super) const COMMIT_MAGIC: [u8; 8] = *b"MTCOMMIT";
pub(super) const COMMIT_VERSION: u16 = 1;
/// The commit ends inside a group that is larger than a frame.
const FLAG_OPEN_GROUP: u16 = 1;

const _: () = assert!(COMMIT_HEADER_BYTES.is_multiple_of(matchtape_schemas::event::ALIGNMENT));

/// The header of one commit, as native values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitHeader {
    /// The segment it was written for.
    pub segment_id: SegmentId,
    /// Dense in its segment, from 1.
    pub commit_number: u64,
    /// The first event; of an idle block, the next event.
    pub first_sequence: Sequence,
    /// The last event; of an idle block, the last event before it.
    pub last_sequence: Sequence,
    /// Everything up to this group end was durable before this commit was written.
    pub durable_through: Sequence,
    /// Bytes of frames after the header, zero in an idle block.
    pub frame_bytes: u32,
    /// How many frames.
    pub frame_count: u32,
    /// Checksum of the frame before the first one.
    pub previous_checksum: u64,
    /// Checksum of the last frame; of an idle block, the same as `previous_checksum`.
    pub last_checksum: u64,
    /// Which run of the process wrote it.
    pub incarnation: u64,
    /// Whether the group of the last event goes on.
    pub open_group: bool,
}

/// Why bytes are not a commit header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotACommit {
    pub part: &'static str,
    pub expected: String,
    pub found: String,
}

impl CommitHeader {
    /// Header, frames and padding.
    pub(crate) fn total_bytes(&self) -> u64 {
        (COMMIT_HEADER_BYTES as u64 + u64::from(self.frame_bytes)).next_multiple_of(BLOCK_BYTES as u64)
    }

    pub(crate) fn encode(&self, out: &mut [u8]) {
        let out = &mut out[..COMMIT_HEADER_BYTES];
        out.fill(0);
        put(out, 0, &COMMIT_MAGIC);
        put(out, 8, &COMMIT_VERSION.to_le_bytes());
        put(out, 10, &(if self.open_group { FLAG_OPEN_GROUP } else { 0 }).to_le_bytes());
        put(out, 16, &self.segment_id.0);
        put(out, 32, &self.commit_number.to_le_bytes());
        put(out, 40, &self.first_sequence.0.to_le_bytes());
        put(out, 48, &self.last_sequence.0.to_le_bytes());
        put(out, 56, &self.durable_through.0.to_le_bytes());
        put(out, 64, &self.frame_bytes.to_le_bytes());
        put(out, 68, &self.frame_count.to_le_bytes());
        put(out, 72, &self.previous_checksum.to_le_bytes());
        put(out, 80, &self.last_checksum.to_le_bytes());
        put(out, 88, &self.incarnation.to_le_bytes());
        seal(out);
    }

    /// Reads and bounds the header that starts `bytes`; says nothing about the frames.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, NotACommit> {
        let refuse = |part, expected: String, found: String| Err(NotACommit { part, expected, found });
        if bytes.len() < COMMIT_HEADER_BYTES {
            return refuse(
                "commit header",
                format!("{COMMIT_HEADER_BYTES} bytes"),
                format!("{} bytes", bytes.len()),
            );
        }
        let bytes = &bytes[..COMMIT_HEADER_BYTES];
        if bytes[..8] != COMMIT_MAGIC {
            return refuse("commit magic", hex(&COMMIT_MAGIC), hex(&bytes[..8]));
        }
        let (stated, computed) = checksums(bytes);
        if stated != computed {
            return refuse("commit header checksum", format!("{stated:08x}"), format!("{computed:08x}"));
        }
        let version = u16_at(bytes, 8);
        if version != COMMIT_VERSION {
            return refuse("commit version", COMMIT_VERSION.to_string(), version.to_string());
        }
        let flags = u16_at(bytes, 10);
        if flags & !FLAG_OPEN_GROUP != 0 {
            return refuse("commit flags", "0 or 1".to_owned(), flags.to_string());
        }
        if bytes[12..16].iter().chain(&bytes[96..124]).any(|byte| *byte != 0) {
            return refuse(
                "reserved bytes of the commit header",
                "zeros".to_owned(),
                "other bytes".to_owned(),
            );
        }
        let header = Self {
            segment_id: SegmentId(array(bytes, 16)),
            commit_number: u64_at(bytes, 32),
            first_sequence: Sequence(u64_at(bytes, 40)),
            last_sequence: Sequence(u64_at(bytes, 48)),
            durable_through: Sequence(u64_at(bytes, 56)),
            frame_bytes: u32_at(bytes, 64),
            frame_count: u32_at(bytes, 68),
            previous_checksum: u64_at(bytes, 72),
            last_checksum: u64_at(bytes, 80),
            incarnation: u64_at(bytes, 88),
            open_group: flags & FLAG_OPEN_GROUP != 0,
        };
        if header.total_bytes() > COMMIT_BYTES_MAX as u64 {
            return refuse(
                "commit length",
                format!("at most {COMMIT_BYTES_MAX}"),
                header.frame_bytes.to_string(),
            );
        }
        let (first, last) = (header.first_sequence.0, header.last_sequence.0);
        let idle = header.frame_bytes == 0;
        let sane = if idle { last.checked_add(1) == Some(first) } else { first >= 1 && first <= last };
        if !sane || (header.frame_count == 0) != idle {
            let expected = "a first sequence, a last one not below it, and frames for them".to_owned();
            let found =
                format!("{first}..={last} in {} frames of {} bytes", header.frame_count, header.frame_bytes);
            return refuse("commit range", expected, found);
        }
        if header.durable_through >= header.first_sequence {
            let expected = format!("below the first sequence {first}");
            return refuse("durable_through", expected, header.durable_through.to_string());
        }
        Ok(header)
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn headers()(
            id: [u8; 16], commit_number: u64, first in 1_u64..u64::MAX / 2, more in 0_u64..1 << 20, back in 1_u64..100,
            frame_bytes in 1_u32..(COMMIT_BYTES_MAX - COMMIT_HEADER_BYTES) as u32, frame_count in 1_u32..10_000,
            checksums: [u64; 2], incarnation: u64, open_group: bool, idle: bool,
        ) -> CommitHeader {
            CommitHeader {
                segment_id: SegmentId(id),
                commit_number,
                first_sequence: Sequence(first),
                last_sequence: Sequence(if idle { first - 1 } else { first + more }),
                durable_through: Sequence(first.saturating_sub(back)),
                frame_bytes: if idle { 0 } else { frame_bytes },
                frame_count: if idle { 0 } else { frame_count },
                previous_checksum: checksums[0],
                last_checksum: checksums[1],
                incarnation,
                open_group,
            }
        }
    }

    proptest! {
        #[test]
        fn a_header_survives_its_own_encoding(header in headers()) {
            let mut bytes = [0xAA; COMMIT_HEADER_BYTES];
            header.encode(&mut bytes);
            prop_assert_eq!(CommitHeader::decode(&bytes), Ok(header));
        }

        #[test]
        fn any_flipped_bit_is_noticed(header in headers(), at in 0..COMMIT_HEADER_BYTES, bit in 0..8) {
            let mut bytes = [0; COMMIT_HEADER_BYTES];
            header.encode(&mut bytes);
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(CommitHeader::decode(&bytes).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), sealed: bool) {
            let mut bytes = bytes;
            if sealed && bytes.len() >= COMMIT_HEADER_BYTES {
                put(&mut bytes, 0, &COMMIT_MAGIC);
                put(&mut bytes, 8, &COMMIT_VERSION.to_le_bytes());
                seal(&mut bytes[..COMMIT_HEADER_BYTES]);
            }
            let _ = CommitHeader::decode(&bytes);
        }
    }
}
