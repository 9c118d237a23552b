//! A proof as a file.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `MTPROOF\0` |
//! | 8 | 2 | version: 1 |
//! | 10 | 2 | zero |
//! | 12 | 4 | number of parts |
//! | 16 | 8 | tape |
//! | 24 | 8 | first sequence |
//! | 32 | 8 | last sequence |
//! | 40 | | parts, one after the other |
//! | end - 4 | 4 | CRC-32 of everything before |
//!
//! | offset | size | field of a part |
//! |---|---|---|
//! | 0 | 8 | segment |
//! | 8 | 8 | bytes of all its frames |
//! | 16 | 8 | where among them the run begins |
//! | 24 | 8 | bytes of the run in this segment |
//! | 32 | 2 | bytes before the run, in its first piece: below 1024 |
//! | 34 | 2 | bytes behind it, in its last piece: below 1024 |
//! | 36 | 2 | nodes, at most 108 |
//! | 38 | 2 | zero |
//! | 40 | | the bytes before, the bytes behind, the nodes (32 each) |
//!
//! The checksum tells damage on the way from what the roots are for. A later version keeps it, the magic and the version's place.

use std::path::Path;

use matchtape_schemas::{Sequence, TapeId};

use super::{Proof, SegmentPart};
use crate::codec::{Fields, Short};
use crate::file_header::VersionError;
use crate::wal::{Damage, SegmentNumber};

/// The longest proof: of 12 000 segments.
pub const PROOF_BYTES_MAX: u64 = 64 << 20;

const MAGIC: [u8; 8] = *b"MTPROOF\0";
const PROOF_VERSION: u16 = 1;
const SUM_BYTES: usize = 4;
const BESIDE_BYTES_MAX: u16 = 1023;
/// Two at each of the 54 levels of a tree over `u64` bytes.
const NODES_MAX: u16 = 108;

/// Why bytes are no proof that this release can read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofFileError {
    /// They are damaged, or something else.
    #[error("{0}")]
    Damage(Damage),
    /// A newer release has made it.
    #[error(transparent)]
    Version(#[from] VersionError),
}

impl Proof {
    /// As a file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&PROOF_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&(self.parts.len() as u32).to_le_bytes());
        for number in [self.tape.0, self.first.0, self.last.0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for part in &self.parts {
            for number in [part.segment.0, part.stream_bytes, part.offset, part.bytes] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            for count in [part.before.len(), part.after.len(), part.nodes.len(), 0] {
                out.extend_from_slice(&(count as u16).to_le_bytes());
            }
            out.extend_from_slice(&part.before);
            out.extend_from_slice(&part.after);
            part.nodes.iter().for_each(|node| out.extend_from_slice(node));
        }
        let sum = crc32fast::hash(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads what [`Proof::encode`] makes; `path` is for messages.
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<Self, ProofFileError> {
        let damage = |offset: usize, part, expected: String, found: String| {
            let (file, offset) = (path.to_path_buf(), offset as u64);
            ProofFileError::Damage(Damage { file, offset, part, expected, found })
        };
        if !bytes.starts_with(&MAGIC) {
            let found = format!("{:02x?}", &bytes[..bytes.len().min(MAGIC.len())]);
            return Err(damage(0, "magic", "that of a proof".to_owned(), found));
        }
        let Some(end) = bytes.len().checked_sub(SUM_BYTES).filter(|end| *end >= MAGIC.len()) else {
            return Err(damage(0, "proof", "more bytes".to_owned(), bytes.len().to_string()));
        };
        let (content, sum) = bytes.split_at(end);
        let (stated, found) = (u32::from_le_bytes(sum.try_into().expect("four")), crc32fast::hash(content));
        if stated != found {
            return Err(damage(end, "proof", format!("checksum {stated:08x}"), format!("{found:08x}")));
        }
        let mut fields = Fields::new(&content[MAGIC.len()..]);
        let version = fields.u16().unwrap_or(0);
        if version != PROOF_VERSION {
            let file = path.to_path_buf();
            return Err(VersionError { file, found: version, expected: PROOF_VERSION }.into());
        }
        read(&mut fields).map_err(|Short { at }| {
            damage(MAGIC.len() + at, "proof", "a possible field".to_owned(), "an impossible one".to_owned())
        })
    }
}

/// Everything behind the version.
fn read(fields: &mut Fields<'_>) -> Result<Proof, Short> {
    zero(fields)?;
    let count = fields.u32()?;
    let (tape, first, last) = (TapeId(fields.u64()?), Sequence(fields.u64()?), Sequence(fields.u64()?));
    // Nothing is allocated for what is only stated.
    let mut parts = Vec::new();
    for _ in 0..count {
        parts.push(read_part(fields)?);
    }
    if fields.is_empty() { Ok(Proof { tape, first, last, parts }) } else { Err(Short { at: fields.at() }) }
}

fn read_part(fields: &mut Fields<'_>) -> Result<SegmentPart, Short> {
    let (segment, stream_bytes) = (SegmentNumber(fields.u64()?), fields.u64()?);
    let (offset, bytes) = (fields.u64()?, fields.u64()?);
    let mut up_to = |max: u16| {
        let at = fields.at();
        fields.u16().and_then(|count| if count <= max { Ok(usize::from(count)) } else { Err(Short { at }) })
    };
    let (before, after, nodes) = (up_to(BESIDE_BYTES_MAX)?, up_to(BESIDE_BYTES_MAX)?, up_to(NODES_MAX)?);
    zero(fields)?;
    let (before, after) = (fields.bytes(before)?.to_vec(), fields.bytes(after)?.to_vec());
    let nodes = (0..nodes).map(|_| fields.array()).collect::<Result<_, _>>()?;
    Ok(SegmentPart { segment, stream_bytes, offset, bytes, before, after, nodes })
}

fn zero(fields: &mut Fields<'_>) -> Result<(), Short> {
    let at = fields.at();
    if fields.u16()? == 0 { Ok(()) } else { Err(Short { at }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proof() -> impl Strategy<Value = Proof> {
        let numbers = any::<[u64; 4]>();
        let beside = || prop::collection::vec(any::<u8>(), 0..20);
        let nodes = prop::collection::vec(any::<[u8; 32]>(), 0..4);
        let part = (numbers, beside(), beside(), nodes).prop_map(|(numbers, before, after, nodes)| {
            let [segment, stream_bytes, offset, bytes] = numbers;
            SegmentPart { segment: SegmentNumber(segment), stream_bytes, offset, bytes, before, after, nodes }
        });
        (any::<[u64; 3]>(), prop::collection::vec(part, 0..4)).prop_map(|(numbers, parts)| {
            let [tape, first, last] = numbers;
            Proof { tape: TapeId(tape), first: Sequence(first), last: Sequence(last), parts }
        })
    }

    fn decode(bytes: &[u8]) -> Result<Proof, ProofFileError> {
        Proof::decode(Path::new("run.proof"), bytes)
    }

    fn reseal(mut bytes: Vec<u8>) -> Vec<u8> {
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    proptest! {
        #[test]
        fn a_proof_comes_back_and_every_flipped_bit_and_cut_is_noticed(proof in proof(), place: prop::sample::Index) {
            let bytes = proof.encode();
            prop_assert_eq!(decode(&bytes), Ok(proof));
            let bit = place.index(bytes.len() * 8);
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&flipped).is_err(), "bit {}", bit);
            prop_assert!(decode(&bytes[..bit / 8]).is_err(), "cut at {}", bit / 8);
        }

        #[test]
        fn any_bytes_with_a_true_checksum_are_a_proof_or_an_error_but_no_panic(
            proof in proof(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8)
        ) {
            let mut bytes = proof.encode();
            bytes.truncate(bytes.len() - SUM_BYTES);
            for (place, byte) in changes {
                let at = place.index(bytes.len());
                bytes[at] = byte;
            }
            let bytes = reseal(bytes);
            if let Ok(proof) = decode(&bytes) {
                prop_assert_eq!(proof.encode(), bytes, "one proof has one form");
            }
        }
    }

    #[test]
    fn a_newer_releases_proof_and_another_file_are_told_apart() {
        let proof = Proof { tape: TapeId(7), first: Sequence(1), last: Sequence(2), parts: Vec::new() };
        let mut bytes = proof.encode();
        bytes.truncate(bytes.len() - SUM_BYTES);
        bytes[8] = 2;
        let error = decode(&reseal(bytes)).expect_err("newer");
        assert_eq!(error.to_string(), "run.proof has format version 2, this release reads 1");
        let error = decode(b"MTEVENTS and more").expect_err("a table");
        assert!(
            error.to_string().starts_with("run.proof at byte 0: magic: expected that of a proof"),
            "{error}"
        );
    }
}
