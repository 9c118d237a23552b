//! State at a sequence: every projection's section, with a hash over all of it.
//!
//! ```text
//! NNNN.snapshot   file header | section piece | section piece | ... | top | footer
//! ```
//!
//! Everything is a [block](crate::sstable::block). A section's bytes are cut into pieces of at most 1 MiB; the top lists
//! the sections. Storage does not look into a section: it knows its name and its version.

use std::path::PathBuf;
use std::sync::Arc;

use matchtape_schemas::{Head, Projection, ProjectionError, Sequence};

use crate::codec::{Fields, HEAD_BYTES, Short, put_head};
use crate::disk::{Disk, DiskError, DiskFile};
use crate::file_header::FileKind;
use crate::sstable::block::{self, BLOCK_HEADER_BYTES, BlockAt, BlockKind, Compress, FileId};
use crate::sstable::{FileWriter, TableError, TableFile, open_file};
use crate::wal::Damage;

/// The longest piece of a section.
const PIECE_BYTES_MAX: usize = 1 << 20;
/// The longest name of a section.
const NAME_BYTES_MAX: usize = 32;

/// What a snapshot is; its last block, and repeated in the manifest.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 48 | where the tape stood: tape, epoch, last sequence, checksum, accepted time, greatest event time |
/// | 48 | 4 | sections |
/// | 52 | 4 | bytes of the top |
/// | 56 | 8 | offset of the top |
/// | 64 | 32 | BLAKE3 over the head as above and, of each section, bytes of the name (1), name, version (4), bytes (8), bytes |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotFooter {
    pub head: Head,
    pub sections: u32,
    pub top: BlockAt,
    pub hash: [u8; 32],
}

impl SnapshotFooter {
    pub(crate) const BYTES: usize = HEAD_BYTES + 48;

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_head(out, &self.head);
        out.extend_from_slice(&self.sections.to_le_bytes());
        out.extend_from_slice(&self.top.bytes.to_le_bytes());
        out.extend_from_slice(&self.top.offset.to_le_bytes());
        out.extend_from_slice(&self.hash);
    }

    pub(crate) fn read(fields: &mut Fields<'_>) -> Result<Self, Short> {
        let head = fields.head()?;
        let sections = fields.u32()?;
        let bytes = fields.u32()?;
        let at = fields.at();
        if head.last_sequence == Sequence::MAX {
            return Err(Short { at });
        }
        Ok(Self { head, sections, top: BlockAt { offset: fields.u64()?, bytes }, hash: fields.array()? })
    }
}

/// A snapshot as the manifest knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotMeta {
    pub number: u64,
    /// The file's length.
    pub bytes: u64,
    pub footer: SnapshotFooter,
}

impl SnapshotMeta {
    pub(crate) fn file(&self) -> TableFile {
        TableFile { kind: FileKind::Snapshot, number: self.number }
    }

    pub(crate) fn sequence(&self) -> Sequence {
        self.footer.head.last_sequence
    }
}

/// A projection's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The projection's name.
    pub name: String,
    /// The section's layout.
    pub version: u32,
    /// What the projection saved.
    pub bytes: Vec<u8>,
}

impl Section {
    /// A projection's state as it is now.
    pub(crate) fn of(projection: &dyn Projection) -> Self {
        let mut bytes = Vec::new();
        projection.save(&mut bytes);
        Self { name: projection.name().to_owned(), version: projection.version(), bytes }
    }
}

/// The state of every projection at one position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    head: Head,
    sections: Vec<Section>,
}

impl Snapshot {
    pub(crate) fn new(head: Head, sections: Vec<Section>) -> Self {
        Self { head, sections }
    }

    /// The last event in it.
    pub fn sequence(&self) -> Sequence {
        self.head.last_sequence
    }

    /// Where the tape stood.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The section of a projection.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// Makes `projection` what its section says, also one in an older layout that it reads; `None`, and nothing changed,
    /// where there is no such section.
    pub fn restore(&self, projection: &mut dyn Projection) -> Option<Result<(), ProjectionError>> {
        let section = self.section(projection.name())?;
        if section.version == projection.version() {
            Some(projection.restore(&section.bytes))
        } else {
            projection.restore_older(section.version, &section.bytes)
        }
    }

    /// All sections, in the order the projections were registered.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut head = Vec::new();
        put_head(&mut head, &self.head);
        hasher.update(&head);
        for section in &self.sections {
            hasher.update(&[section.name.len() as u8]);
            hasher.update(section.name.as_bytes());
            hasher.update(&section.version.to_le_bytes());
            hasher.update(&(section.bytes.len() as u64).to_le_bytes());
            hasher.update(&section.bytes);
        }
        hasher.finalize().into()
    }

    /// Writes and syncs it under a temporary name; returns what it is to be called.
    ///
    /// # Panics
    /// If a section's name is longer than the format allows; [`Projection::name`] is bounded.
    pub(crate) fn write(&self, disk: &dyn Disk, number: u64) -> Result<(SnapshotMeta, PathBuf), DiskError> {
        let id = FileId { tape: self.head.tape, number };
        let mut out = FileWriter::create(disk, TableFile { kind: FileKind::Snapshot, number }, id)?;
        let mut top = Vec::new();
        for section in &self.sections {
            assert!(section.name.len() <= NAME_BYTES_MAX, "{} is too long a name", section.name);
            top.push(section.name.len() as u8);
            top.extend_from_slice(section.name.as_bytes());
            top.extend_from_slice(&section.version.to_le_bytes());
            top.extend_from_slice(&(section.bytes.len() as u64).to_le_bytes());
            let pieces = section.bytes.chunks(PIECE_BYTES_MAX);
            top.extend_from_slice(&(pieces.len() as u32).to_le_bytes());
            for piece in pieces {
                let at = out.block(BlockKind::Section, piece, Compress::Lz4)?;
                top.extend_from_slice(&at.offset.to_le_bytes());
                top.extend_from_slice(&at.bytes.to_le_bytes());
            }
        }
        let footer = SnapshotFooter {
            head: self.head,
            sections: self.sections.len() as u32,
            top: out.block(BlockKind::Top, &top, Compress::Never)?,
            hash: self.hash(),
        };
        let mut raw = Vec::new();
        footer.put(&mut raw);
        let (bytes, path) = out.finish(&raw)?;
        Ok((SnapshotMeta { number, bytes, footer }, path))
    }

    /// The names of a snapshot's sections, without reading them.
    pub(crate) fn section_names(disk: &dyn Disk, meta: &SnapshotMeta) -> Result<Vec<String>, TableError> {
        let id = FileId { tape: meta.footer.head.tape, number: meta.number };
        let file = open_file(disk, meta.file(), id, meta.bytes)?;
        let reading = Reading { file, id, meta };
        let top = reading.payload(meta.footer.top, BlockKind::Top)?;
        Ok(reading.listed(&top)?.into_iter().map(|listed| listed.name).collect())
    }

    /// Reads one back and checks every byte of it.
    pub(crate) fn load(disk: &dyn Disk, meta: &SnapshotMeta) -> Result<Self, TableError> {
        let id = FileId { tape: meta.footer.head.tape, number: meta.number };
        let file = open_file(disk, meta.file(), id, meta.bytes)?;
        let reading = Reading { file, id, meta };
        let snapshot = reading.snapshot()?;
        if snapshot.hash() != meta.footer.hash {
            return Err(reading.damage(meta.footer.top, "hash", "another".to_owned()));
        }
        Ok(snapshot)
    }
}

/// One section as the top lists it.
struct Listed {
    name: String,
    version: u32,
    bytes: u64,
    pieces: Vec<BlockAt>,
}

struct Reading<'a> {
    file: Arc<dyn DiskFile>,
    id: FileId,
    meta: &'a SnapshotMeta,
}

impl Reading<'_> {
    fn damage(&self, at: BlockAt, part: &'static str, found: String) -> TableError {
        TableError::Damage(Damage {
            file: self.file.path().to_path_buf(),
            offset: at.offset,
            part,
            expected: "what the manifest and the format say".to_owned(),
            found,
        })
    }

    fn payload(&self, at: BlockAt, kind: BlockKind) -> Result<Vec<u8>, TableError> {
        let mut buffer = Vec::new();
        block::load(&*self.file, at, &mut buffer)?;
        block::read_payload(self.file.path(), self.id, at.offset, kind, &buffer)
    }

    fn snapshot(&self) -> Result<Snapshot, TableError> {
        let bytes = (BLOCK_HEADER_BYTES + SnapshotFooter::BYTES) as u32;
        let footer_at = BlockAt { offset: self.meta.bytes.saturating_sub(u64::from(bytes)), bytes };
        let footer = self.payload(footer_at, BlockKind::Footer)?;
        if SnapshotFooter::read(&mut Fields::new(&footer)) != Ok(self.meta.footer) {
            return Err(self.damage(footer_at, "footer", "another".to_owned()));
        }
        let top_at = self.meta.footer.top;
        let top = self.payload(top_at, BlockKind::Top)?;
        let listed = self.listed(&top)?;
        let mut sections = Vec::with_capacity(listed.len());
        for Listed { name, version, bytes: length, pieces } in listed {
            let mut bytes = Vec::new();
            for piece in pieces {
                bytes.extend_from_slice(&self.payload(piece, BlockKind::Section)?);
            }
            if bytes.len() as u64 != length {
                return Err(self.damage(top_at, "length of a section", bytes.len().to_string()));
            }
            sections.push(Section { name, version, bytes });
        }
        Ok(Snapshot { head: self.meta.footer.head, sections })
    }

    fn listed(&self, top: &[u8]) -> Result<Vec<Listed>, TableError> {
        let mut fields = Fields::new(top);
        let mut sections = Vec::new();
        while !fields.is_empty() {
            let listed = read_listed(&mut fields).map_err(|short| {
                self.damage(
                    self.meta.footer.top,
                    "list of sections",
                    format!("an impossible field at {}", short.at),
                )
            })?;
            sections.push(listed);
        }
        if sections.len() != self.meta.footer.sections as usize {
            return Err(self.damage(self.meta.footer.top, "number of sections", sections.len().to_string()));
        }
        Ok(sections)
    }
}

fn read_listed(fields: &mut Fields<'_>) -> Result<Listed, Short> {
    let at = fields.at();
    let length = usize::from(fields.u8()?);
    if length > NAME_BYTES_MAX {
        return Err(Short { at });
    }
    let name = std::str::from_utf8(fields.bytes(length)?).map_err(|_| Short { at })?.to_owned();
    let (version, bytes, count) = (fields.u32()?, fields.u64()?, fields.u32()?);
    let mut pieces = Vec::new();
    for _ in 0..count {
        pieces.push(BlockAt { offset: fields.u64()?, bytes: fields.u32()? });
    }
    Ok(Listed { name, version, bytes, pieces })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::sstable::{TABLES, install};
    use matchtape_schemas::TapeId;
    use proptest::prelude::*;
    use std::path::Path;

    fn written(sections: Vec<Section>) -> (SimDisk, SnapshotMeta, Snapshot) {
        let disk = SimDisk::new(1);
        disk.create_directory(Path::new(TABLES)).unwrap();
        let snapshot = Snapshot::new(Head { last_sequence: Sequence(9), ..Head::empty(TapeId(3)) }, sections);
        let (meta, path) = snapshot.write(&disk, 5).unwrap();
        install(&disk, Path::new(TABLES), &[path]).unwrap();
        (disk, meta, snapshot)
    }

    fn section(name: &str, bytes: Vec<u8>) -> Section {
        Section { name: name.to_owned(), version: 2, bytes }
    }

    proptest! {
        #[test]
        fn a_snapshot_comes_back_as_it_was(lengths in prop::collection::vec(0usize..3_000_000, 0..4), byte: u8) {
            let sections: Vec<Section> = lengths
                .iter()
                .enumerate()
                .map(|(number, length)| section(&format!("s{number}"), vec![byte.wrapping_add(number as u8); *length]))
                .collect();
            let (disk, meta, snapshot) = written(sections);
            prop_assert_eq!(Snapshot::load(&disk, &meta).unwrap(), snapshot);
        }
    }

    #[test]
    fn every_single_flipped_bit_of_a_snapshot_is_noticed_and_so_is_a_cut() {
        let (disk, meta, _) =
            written(vec![section("producers", vec![7; 40]), section("books", b"text".repeat(20))]);
        let path = meta.file().path();
        for offset in 0..meta.bytes {
            for bit in 0..8 {
                disk.flip_bit(&path, offset, bit);
                assert!(Snapshot::load(&disk, &meta).is_err(), "bit {bit} of byte {offset}");
                disk.flip_bit(&path, offset, bit);
            }
        }
        assert!(Snapshot::load(&disk, &meta).is_ok());
        disk.edit(&path, |bytes| bytes.truncate(bytes.len() - 1));
        assert!(Snapshot::load(&disk, &meta).is_err());
    }
}
