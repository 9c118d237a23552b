//! The first bytes of every file that is not a log segment: what it is, of which release, of which tape.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic: `MTEVENTS`, `MTINDEX\0`, `MTSNAPSH`, `MTMANIFS` |
//! | 8 | 2 | version: 2 of index tables and manifests, 1 of the others |
//! | 10 | 6 | zero |
//! | 16 | 8 | tape |
//! | 24 | 8 | file number, unique on the tape; of a manifest, its generation |
//! | 32 | 28 | zero |
//! | 60 | 4 | CRC-32 over bytes 0..60 |

use std::path::{Path, PathBuf};

use matchtape_schemas::TapeId;

use crate::wal::Damage;

/// Bytes before the content of every file.
pub(crate) const FILE_HEADER_BYTES: usize = 64;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileKind {
    Events,
    Index,
    Snapshot,
    Manifest,
}

impl FileKind {
    pub(crate) const fn magic(self) -> [u8; 8] {
        match self {
            Self::Events => *b"MTEVENTS",
            Self::Index => *b"MTINDEX\0",
            Self::Snapshot => *b"MTSNAPSH",
            Self::Manifest => *b"MTMANIFS",
        }
    }

    /// The version this release writes and reads.
    pub(crate) const fn version(self) -> u16 {
        match self {
            Self::Events | Self::Snapshot => 1,
            // 1 was another layout of posting blocks, filters and index footers, which the manifest repeats; no release wrote it.
            Self::Index | Self::Manifest => 2,
        }
    }

    /// The word for it in messages.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Events => "event table",
            Self::Index => "index table",
            Self::Snapshot => "snapshot",
            Self::Manifest => "manifest",
        }
    }
}

/// A file of another release's format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} has format version {found}, this release reads {expected}", file.display())]
pub struct VersionError {
    /// The file, relative to the data directory.
    pub file: PathBuf,
    /// The version it states.
    pub found: u16,
    /// The version that is read.
    pub expected: u16,
}

/// Why a header is not the expected one.
#[derive(Debug)]
pub(crate) enum HeaderError {
    Damage(Damage),
    Version(VersionError),
}

pub(crate) fn encode(kind: FileKind, tape: TapeId, number: u64) -> [u8; FILE_HEADER_BYTES] {
    let mut header = [0; FILE_HEADER_BYTES];
    header[0..8].copy_from_slice(&kind.magic());
    header[8..10].copy_from_slice(&kind.version().to_le_bytes());
    header[16..24].copy_from_slice(&tape.0.to_le_bytes());
    header[24..32].copy_from_slice(&number.to_le_bytes());
    let checksum = crc32fast::hash(&header[..60]);
    header[60..64].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// Checks a header up to the identity of the file; returns tape and number.
pub(crate) fn decode(path: &Path, kind: FileKind, header: &[u8]) -> Result<(TapeId, u64), HeaderError> {
    let damage = |offset, expected: String, found: String| {
        let part = "file header";
        HeaderError::Damage(Damage { file: path.to_path_buf(), offset, part, expected, found })
    };
    if header.len() < FILE_HEADER_BYTES {
        return Err(damage(0, format!("{FILE_HEADER_BYTES} bytes"), format!("{} bytes", header.len())));
    }
    if header[0..8] != kind.magic() {
        return Err(damage(0, format!("the magic of a {}", kind.name()), format!("{:02x?}", &header[0..8])));
    }
    let (stated, found) =
        (u32::from_le_bytes(header[60..64].try_into().expect("four bytes")), crc32fast::hash(&header[..60]));
    if stated != found {
        return Err(damage(60, format!("checksum {stated:08x}"), format!("{found:08x}")));
    }
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version != kind.version() {
        let file = path.to_path_buf();
        return Err(HeaderError::Version(VersionError { file, found: version, expected: kind.version() }));
    }
    if header[10..16].iter().chain(&header[32..60]).any(|byte| *byte != 0) {
        return Err(damage(10, "zeros".to_owned(), "other bytes".to_owned()));
    }
    let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    Ok((TapeId(word(16)), word(24)))
}

/// Checks a header, and that the file is the one that was meant.
pub(crate) fn check(
    path: &Path,
    kind: FileKind,
    tape: TapeId,
    number: u64,
    header: &[u8],
) -> Result<(), HeaderError> {
    let found = decode(path, kind, header)?;
    if found == (tape, number) {
        return Ok(());
    }
    Err(HeaderError::Damage(Damage {
        file: path.to_path_buf(),
        offset: 16,
        part: "identity of the file",
        expected: format!("tape {tape}, file {number}"),
        found: format!("tape {}, file {}", found.0, found.1),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_single_flipped_bit_and_every_other_file_is_noticed() {
        let path = Path::new("tables/1.events");
        let header = encode(FileKind::Events, TapeId(5), 1);
        assert!(check(path, FileKind::Events, TapeId(5), 1, &header).is_ok());
        for bit in 0..header.len() * 8 {
            let mut copy = header;
            copy[bit / 8] ^= 1 << (bit % 8);
            assert!(check(path, FileKind::Events, TapeId(5), 1, &copy).is_err(), "bit {bit}");
        }
        for (kind, tape, number) in
            [(FileKind::Index, 5, 1), (FileKind::Events, 6, 1), (FileKind::Events, 5, 2)]
        {
            assert!(check(path, kind, TapeId(tape), number, &header).is_err());
        }
        assert!(check(path, FileKind::Events, TapeId(5), 1, &header[..63]).is_err());
    }

    #[test]
    fn a_newer_version_is_named_and_not_called_damage() {
        let mut header = encode(FileKind::Events, TapeId(5), 1);
        header[8] = 2;
        let checksum = crc32fast::hash(&header[..60]);
        header[60..64].copy_from_slice(&checksum.to_le_bytes());
        let error = check(Path::new("x"), FileKind::Events, TapeId(5), 1, &header).unwrap_err();
        assert!(matches!(error, HeaderError::Version(VersionError { found: 2, .. })), "{error:?}");
    }
}
