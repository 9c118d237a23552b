//! The block: what every part of a table is made of.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | stored bytes: of the payload as it lies in the file |
//! | 4 | 4 | raw bytes: of the payload when decompressed |
//! | 8 | 1 | what it holds: [`BlockKind`] |
//! | 9 | 1 | compression: 0 none, 1 LZ4 (block format), 2 Zstandard (a frame; in builds with the feature `zstd`) |
//! | 10 | 2 | zero |
//! | 12 | 4 | CRC-32 over tape (8), file number (8), offset in the file (8), bytes 0..12 and the payload |
//! | 16 | | payload |
//!
//! Tape, file number and offset are not stored but summed: a block that was read from another place, another file or
//! another tape does not check, even if it is intact.

use std::path::Path;

use matchtape_schemas::TapeId;

use crate::disk::{AlignedBytes, DiskFile};
use crate::options::Compression;
use crate::sstable::{FeatureError, TableError};
use crate::wal::Damage;

/// The header before every payload.
pub(crate) const BLOCK_HEADER_BYTES: usize = 16;

/// The longest payload, raw or stored: it bounds what a damaged length can make us allocate. The top index of an index
/// table is the largest block there is.
pub(crate) const BLOCK_RAW_BYTES_MAX: usize = 16 << 20;

/// What a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum BlockKind {
    /// Whole frames.
    Frames = 1,
    /// Postings of an index.
    Postings = 2,
    /// Where the data blocks are.
    Leaf = 3,
    /// Where the leaves are.
    Top = 4,
    /// Which entities a block of postings may hold.
    Filter = 5,
    /// What the table is; the last block of the file.
    Footer = 6,
    /// A section of a snapshot.
    Section = 7,
}

impl BlockKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Frames => "block of frames",
            Self::Postings => "block of postings",
            Self::Leaf => "leaf of the index",
            Self::Top => "top of the index",
            Self::Filter => "filter",
            Self::Footer => "footer",
            Self::Section => "section",
        }
    }
}

/// Which file a block belongs to: part of every checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    pub tape: TapeId,
    pub number: u64,
}

/// Where a block lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockAt {
    pub offset: u64,
    /// Header and stored payload.
    pub bytes: u32,
}

fn checksum(file: FileId, offset: u64, header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&file.tape.0.to_le_bytes());
    hasher.update(&file.number.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(&header[..12]);
    hasher.update(payload);
    hasher.finalize()
}

/// Makes blocks; keeps the compressors' tables between them.
#[derive(Default)]
pub(crate) struct BlockMaker {
    table: lz4_flex::block::CompressTable,
    #[cfg(feature = "zstd")]
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl std::fmt::Debug for BlockMaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlockMaker")
    }
}

/// Whether a payload is worth compressing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compress {
    /// LZ4, if it saves at least an eighth.
    Lz4,
    /// Zstandard at this level, likewise.
    #[cfg(feature = "zstd")]
    Zstd(i32),
    /// Random or tiny bytes.
    Never,
}

impl BlockMaker {
    /// Appends a block to `out`, which ends at `offset` of the file.
    pub(crate) fn put(
        &mut self,
        out: &mut Vec<u8>,
        file: FileId,
        offset: u64,
        kind: BlockKind,
        raw: &[u8],
        compress: Compress,
    ) -> BlockAt {
        assert!(raw.len() <= BLOCK_RAW_BYTES_MAX, "blocks are bounded");
        let start = out.len();
        out.resize(start + BLOCK_HEADER_BYTES, 0);
        let (mut stored_as, stored) = match compress {
            Compress::Never => (Stored::Raw, usize::MAX),
            Compress::Lz4 => (Stored::Lz4, self.lz4(out, raw)),
            #[cfg(feature = "zstd")]
            Compress::Zstd(level) => (Stored::Zstd, self.zstd(out, raw, level)),
        };
        if stored <= raw.len() - raw.len() / 8 {
            out.truncate(start + BLOCK_HEADER_BYTES + stored);
        } else {
            stored_as = Stored::Raw;
            out.truncate(start + BLOCK_HEADER_BYTES);
            out.extend_from_slice(raw);
        }
        let stored = out.len() - start - BLOCK_HEADER_BYTES;
        let (header, payload) = out[start..].split_at_mut(BLOCK_HEADER_BYTES);
        header[0..4].copy_from_slice(&(stored as u32).to_le_bytes());
        header[4..8].copy_from_slice(&(raw.len() as u32).to_le_bytes());
        header[8] = kind as u8;
        header[9] = stored_as as u8;
        let sum = checksum(file, offset, header, payload);
        header[12..16].copy_from_slice(&sum.to_le_bytes());
        BlockAt { offset, bytes: (BLOCK_HEADER_BYTES + stored) as u32 }
    }

    /// Appends the compressed payload and returns its bytes; behind them `out` may have more.
    fn lz4(&mut self, out: &mut Vec<u8>, raw: &[u8]) -> usize {
        let start = out.len();
        out.resize(start + lz4_flex::block::get_maximum_output_size(raw.len()), 0);
        lz4_flex::block::compress_into_with_table(raw, &mut out[start..], &mut self.table)
            .expect("the output has the maximum size")
    }

    #[cfg(feature = "zstd")]
    fn zstd(&mut self, out: &mut Vec<u8>, raw: &[u8], level: i32) -> usize {
        let compressor = self.zstd.get_or_insert_with(|| {
            let mut compressor = zstd::bulk::Compressor::new(level).expect("memory for a compressor");
            // The block has its own length and checksum.
            compressor.include_contentsize(false).expect("a setting that exists");
            compressor.include_checksum(false).expect("a setting that exists");
            compressor
        });
        let start = out.len();
        out.resize(start + zstd::zstd_safe::compress_bound(raw.len()), 0);
        compressor.compress_to_buffer(raw, &mut out[start..]).expect("the output has the maximum size")
    }
}

/// How a payload lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stored {
    Raw = 0,
    Lz4 = 1,
    Zstd = 2,
}

impl Stored {
    /// How blocks lie that this makes smaller.
    pub(crate) const fn of(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::Raw,
            Compression::Lz4 => Self::Lz4,
            #[cfg(feature = "zstd")]
            Compression::Zstd => Self::Zstd,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Raw, Self::Lz4, Self::Zstd].into_iter().find(|stored| *stored as u8 == byte)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Raw => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// A block's header that is plausible, and its payload that checks.
struct Opened<'a> {
    raw_bytes: usize,
    stored: Stored,
    payload: &'a [u8],
}

fn open<'a>(
    path: &Path,
    file: FileId,
    offset: u64,
    kind: BlockKind,
    block: &'a [u8],
) -> Result<Opened<'a>, Damage> {
    let damage = |expected: String, found: String| Damage {
        file: path.to_path_buf(),
        offset,
        part: kind.name(),
        expected,
        found,
    };
    if block.len() < BLOCK_HEADER_BYTES {
        return Err(damage(
            format!("{BLOCK_HEADER_BYTES} bytes of block header"),
            format!("{} bytes", block.len()),
        ));
    }
    let (header, payload) = block.split_at(BLOCK_HEADER_BYTES);
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let (stored, raw, stated) = (word(0) as usize, word(4) as usize, word(12));
    if stored != payload.len() {
        return Err(damage(format!("{} stored bytes", payload.len()), stored.to_string()));
    }
    let found = checksum(file, offset, header, payload);
    if stated != found {
        return Err(damage(format!("checksum {stated:08x}"), format!("{found:08x}")));
    }
    let stored_as = Stored::from_byte(header[9]);
    let (Some(stored_as), true) = (stored_as, header[8] == kind as u8 && header[10..12] == [0, 0]) else {
        return Err(damage(format!("kind {}", kind as u8), format!("{:02x?}", &header[8..12])));
    };
    if raw > BLOCK_RAW_BYTES_MAX || (stored_as == Stored::Raw && raw != stored) {
        return Err(damage("a possible length".to_owned(), raw.to_string()));
    }
    Ok(Opened { raw_bytes: raw, stored: stored_as, payload })
}

impl Opened<'_> {
    fn write_raw(&self, path: &Path, offset: u64, kind: BlockKind, out: &mut [u8]) -> Result<(), TableError> {
        let written = match self.stored {
            Stored::Raw => {
                out.copy_from_slice(self.payload);
                return Ok(());
            }
            Stored::Lz4 => unlz4(self.payload, out),
            Stored::Zstd => match unzstd(self.payload, out) {
                Some(written) => written,
                None => {
                    let (file, feature) = (path.to_path_buf(), "zstd");
                    return Err(FeatureError { file, offset, feature }.into());
                }
            },
        };
        let found = match written {
            Ok(written) if written == out.len() => return Ok(()),
            Ok(written) => format!("{written} decompressed bytes of {}", out.len()),
            Err(what) => what,
        };
        let (file, expected) = (path.to_path_buf(), format!("{} bytes of {}", out.len(), self.stored.name()));
        Err(Damage { file, offset, part: kind.name(), expected, found }.into())
    }
}

/// The bytes decompressed, or why they are not.
///
/// By the C library, whose `LZ4_decompress_safe` reads and writes inside what it is given, whatever the bytes are: 4.4 GB/s of real
/// order flow, where `lz4_flex` has 2.6. What compresses is `lz4_flex`: as fast as the C library, and its output is smaller
/// (3.54 : 1, not 3.25) and quicker to read (4.4 GB/s, not 3.8).
fn unlz4(payload: &[u8], out: &mut [u8]) -> Result<usize, String> {
    let bytes = i32::try_from(out.len()).expect("blocks are bounded");
    lz4::block::decompress_to_buffer(payload, Some(bytes), out).map_err(|error| error.to_string())
}

/// The bytes decompressed, or why they are not; `None` in a build that cannot.
#[cfg(feature = "zstd")]
fn unzstd(payload: &[u8], out: &mut [u8]) -> Option<Result<usize, String>> {
    use std::cell::RefCell;

    thread_local! {
        // Some 150 KB, which a block each would be dear.
        static DECOMPRESSOR: RefCell<zstd::bulk::Decompressor<'static>> =
            RefCell::new(zstd::bulk::Decompressor::new().expect("memory for a decompressor"));
    }
    DECOMPRESSOR.with_borrow_mut(|decompressor| {
        Some(decompressor.decompress_to_buffer(payload, out).map_err(|error| error.to_string()))
    })
}

#[cfg(not(feature = "zstd"))]
fn unzstd(_: &[u8], _: &mut [u8]) -> Option<Result<usize, String>> {
    None
}

/// The raw payload of a block that was read from `offset`.
pub(crate) fn read_payload(
    path: &Path,
    file: FileId,
    offset: u64,
    kind: BlockKind,
    block: &[u8],
) -> Result<Vec<u8>, TableError> {
    let opened = open(path, file, offset, kind, block)?;
    let mut raw = vec![0; opened.raw_bytes];
    opened.write_raw(path, offset, kind, &mut raw)?;
    Ok(raw)
}

/// The raw payload in aligned memory, and its length.
pub(crate) fn read_payload_aligned(
    path: &Path,
    file: FileId,
    offset: u64,
    kind: BlockKind,
    block: &[u8],
) -> Result<(AlignedBytes, usize), TableError> {
    let opened = open(path, file, offset, kind, block)?;
    let mut raw = AlignedBytes::zeroed(opened.raw_bytes.max(1));
    opened.write_raw(path, offset, kind, &mut raw[..opened.raw_bytes])?;
    Ok((raw, opened.raw_bytes))
}

/// What a scan asks the disk for ahead of itself, at every multiple of it that it passes: twice as much.
const AHEAD_BYTES: u64 = 256 << 10;

/// Asks for what a scan will read behind this block. Tables are open for lookups, behind which nothing is read ahead.
pub(crate) fn read_ahead(file: &dyn DiskFile, at: BlockAt) {
    let end = at.offset.saturating_add(u64::from(at.bytes));
    if at.offset / AHEAD_BYTES != end / AHEAD_BYTES {
        file.will_need(end, 2 * AHEAD_BYTES);
    }
}

/// Reads a block's bytes, whose place another block states.
pub(crate) fn load(file: &dyn DiskFile, at: BlockAt, buffer: &mut Vec<u8>) -> Result<(), TableError> {
    let bytes = at.bytes as usize;
    let possible = (BLOCK_HEADER_BYTES..=BLOCK_HEADER_BYTES + BLOCK_RAW_BYTES_MAX).contains(&bytes);
    if !possible || i64::try_from(at.offset.saturating_add(u64::from(at.bytes))).is_err() {
        return Err(TableError::Damage(Damage {
            file: file.path().to_path_buf(),
            offset: at.offset,
            part: "place of a block",
            expected: "a possible place".to_owned(),
            found: format!("{bytes} bytes"),
        }));
    }
    buffer.resize(bytes, 0);
    let read = file.read_at(buffer, at.offset)?;
    if read < bytes {
        return Err(TableError::Damage(Damage {
            file: file.path().to_path_buf(),
            offset: at.offset,
            part: "block",
            expected: format!("{bytes} bytes"),
            found: format!("{read} until the file ends"),
        }));
    }
    Ok(())
}

/// Reads blocks that follow each other with few calls, for whoever goes through a whole table.
#[derive(Debug, Default)]
pub(crate) struct Window {
    bytes: Vec<u8>,
    start: u64,
}

/// Bytes that a [`Window`] reads at once.
const WINDOW_BYTES: u64 = 256 << 10;

impl Window {
    /// The bytes of a block of a file of `file_bytes`. One window reads one file.
    pub(crate) fn block(
        &mut self,
        file: &dyn DiskFile,
        file_bytes: u64,
        at: BlockAt,
    ) -> Result<&[u8], TableError> {
        let end = at.offset.saturating_add(u64::from(at.bytes));
        let held =
            |window: &Self| at.offset >= window.start && end - window.start <= window.bytes.len() as u64;
        if !held(self) {
            let ahead = WINDOW_BYTES.min(file_bytes.saturating_sub(at.offset)).max(u64::from(at.bytes));
            self.start = u64::MAX;
            // Checks the place, and that the file goes as far.
            load(
                file,
                BlockAt { offset: at.offset, bytes: u32::try_from(ahead).unwrap_or(at.bytes) },
                &mut self.bytes,
            )?;
            self.start = at.offset;
        }
        let from = (at.offset - self.start) as usize;
        Ok(&self.bytes[from..from + at.bytes as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: FileId = FileId { tape: TapeId(7), number: 3 };

    fn block(raw: &[u8], compress: Compress) -> Vec<u8> {
        let mut out = Vec::new();
        let at = BlockMaker::default().put(&mut out, FILE, 4096, BlockKind::Postings, raw, compress);
        assert_eq!((at.offset, at.bytes as usize), (4096, out.len()));
        out
    }

    const ALL: &[Compress] = &[
        Compress::Lz4,
        #[cfg(feature = "zstd")]
        Compress::Zstd(3),
        Compress::Never,
    ];

    fn read(file: FileId, offset: u64, kind: BlockKind, bytes: &[u8]) -> Result<Vec<u8>, TableError> {
        read_payload(Path::new("tables/x"), file, offset, kind, bytes)
    }

    proptest! {
        #[test]
        fn a_payload_comes_back_compressed_or_not(raw: Vec<u8>, repeats in 1usize..50) {
            let raw = raw.repeat(repeats);
            for compress in ALL.iter().copied() {
                let bytes = block(&raw, compress);
                prop_assert_eq!(&read(FILE, 4096, BlockKind::Postings, &bytes).unwrap(), &raw);
                let (aligned, length) =
                    read_payload_aligned(Path::new("x"), FILE, 4096, BlockKind::Postings, &bytes).unwrap();
                prop_assert_eq!(&aligned[..length], &raw[..]);
            }
        }

        #[test]
        fn any_bytes_at_all_are_refused_without_a_panic(bytes: Vec<u8>) {
            prop_assert!(read(FILE, 4096, BlockKind::Postings, &bytes).is_err());
        }
    }

    #[test]
    fn every_single_flipped_bit_and_every_other_place_is_noticed() {
        for compress in ALL.iter().copied() {
            let mut bytes = block(&b"some postings ".repeat(20), compress);
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(read(FILE, 4096, BlockKind::Postings, &bytes).is_err(), "bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            assert!(read(FILE, 8192, BlockKind::Postings, &bytes).is_err(), "another offset");
            assert!(
                read(FileId { number: 4, ..FILE }, 4096, BlockKind::Postings, &bytes).is_err(),
                "another file"
            );
            assert!(read(FileId { tape: TapeId(8), ..FILE }, 4096, BlockKind::Postings, &bytes).is_err());
            assert!(read(FILE, 4096, BlockKind::Leaf, &bytes).is_err(), "another kind");
            assert!(read(FILE, 4096, BlockKind::Postings, &bytes[..bytes.len() - 1]).is_err());
        }
    }

    /// A block whose checksum is right and whose payload, which says how it is stored, is anything.
    fn claimed(stored: Stored, payload: &[u8], raw_bytes: u32) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&raw_bytes.to_le_bytes());
        bytes.extend_from_slice(&[BlockKind::Postings as u8, stored as u8, 0, 0]);
        let sum = checksum(FILE, 4096, &bytes, payload);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    fn refused_or_of_its_length(stored: Stored, payload: &[u8], raw_bytes: u32) -> Result<(), TestCaseError> {
        match read(FILE, 4096, BlockKind::Postings, &claimed(stored, payload, raw_bytes)) {
            Ok(raw) => prop_assert_eq!(raw.len(), raw_bytes as usize),
            Err(error) => prop_assert!(matches!(error, TableError::Damage(_)), "{}", error),
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn any_payload_that_claims_to_be_lz4_is_refused_or_has_its_length(payload: Vec<u8>, raw_bytes in 0u32..100_000) {
            refused_or_of_its_length(Stored::Lz4, &payload, raw_bytes)?;
        }

        #[test]
        fn a_changed_byte_of_lz4_under_a_right_checksum_is_refused_or_keeps_the_length(
            raw in prop::collection::vec(0u8..4, 1..300),
            at: prop::sample::Index,
            byte: u8,
            more in -20i32..20,
        ) {
            let mut payload = lz4_flex::block::compress(&raw);
            let at = at.index(payload.len());
            payload[at] = byte;
            refused_or_of_its_length(Stored::Lz4, &payload, (raw.len() as i32 + more).max(0) as u32)?;
        }
    }

    #[cfg(not(feature = "zstd"))]
    #[test]
    fn a_build_without_zstd_names_the_feature_and_does_not_call_the_block_damaged() {
        let error = read(FILE, 4096, BlockKind::Postings, &claimed(Stored::Zstd, b"anything", 100))
            .expect_err("cannot");
        assert!(matches!(error, TableError::Feature(_)), "{error}");
        assert_eq!(
            error.to_string(),
            "tables/x at byte 4096 is compressed with zstd, which this build does not have: build it with --features zstd"
        );
    }

    #[cfg(feature = "zstd")]
    proptest! {
        #[test]
        fn any_payload_that_claims_to_be_zstd_is_refused_or_has_its_length(payload: Vec<u8>, raw_bytes in 0u32..100_000) {
            refused_or_of_its_length(Stored::Zstd, &payload, raw_bytes)?;
        }
    }
}
