//! A table's file: its name, how it is written (front to back, under a temporary name), how it gets its name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::TableError;
use super::block::{BlockAt, BlockKind, BlockMaker, Compress, FileId};
use crate::disk::{Access, Caching, Disk, DiskError, DiskFile};
use crate::file_header::{self, FileKind};

/// The directory of all tables.
pub(crate) const TABLES: &str = "tables";
/// What a file is called until it is whole.
const NEW_SUFFIX: &str = ".new";
/// Bytes handed to the disk at once.
const WRITE_BYTES: usize = 1 << 20;

/// The file of a table. `None` for names that are not a table's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TableFile {
    pub kind: FileKind,
    pub number: u64,
}

impl TableFile {
    pub(crate) fn name(&self) -> String {
        let extension = match self.kind {
            FileKind::Events => "events",
            FileKind::Index => "index",
            FileKind::Snapshot => "snapshot",
            FileKind::Manifest => unreachable!("the manifest is not numbered"),
        };
        format!("{:016}.{extension}", self.number)
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new(TABLES).join(self.name())
    }

    /// What a path below the data directory is, as [`TableFile::path`] gives it.
    pub(crate) fn from_path(path: &Path) -> Option<Self> {
        let name = path.strip_prefix(TABLES).ok()?.to_str()?;
        Self::from_name(name)
    }

    /// What a name in the directory of tables is; a half-written file has its suffix removed first.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let name = name.strip_suffix(NEW_SUFFIX).unwrap_or(name);
        let (digits, extension) = name.split_once('.')?;
        let kind = match extension {
            "events" => FileKind::Events,
            "index" => FileKind::Index,
            "snapshot" => FileKind::Snapshot,
            _ => return None,
        };
        (digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_digit()))
            .then_some(Self { kind, number: digits.parse().ok()? })
    }
}

/// Where a file is written until it is whole.
pub(crate) fn new_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(NEW_SUFFIX);
    PathBuf::from(name)
}

/// Gives whole, synced files their names, durably (crash rule 2).
pub(crate) fn install(disk: &dyn Disk, directory: &Path, paths: &[PathBuf]) -> Result<(), DiskError> {
    for path in paths {
        disk.rename(&new_path(path), path)?;
    }
    disk.sync_directory(directory)
}

/// Writes a file block by block.
#[derive(Debug)]
pub(crate) struct FileWriter {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    id: FileId,
    blocks: BlockMaker,
    pending: Vec<u8>,
    written: u64,
}

impl FileWriter {
    /// Creates the file under its temporary name and writes its header. A leftover of that name is replaced.
    pub(crate) fn create(disk: &dyn Disk, table: TableFile, id: FileId) -> Result<Self, DiskError> {
        let path = table.path();
        let temporary = new_path(&path);
        match disk.remove(&temporary) {
            Ok(()) => {}
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
        let file = disk.open(&temporary, Access::CreateNew, Caching::Buffered)?;
        let pending = file_header::encode(table.kind, id.tape, id.number).to_vec();
        Ok(Self { file, path, id, blocks: BlockMaker::default(), pending, written: 0 })
    }

    /// Where the next block goes.
    pub(crate) fn offset(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    pub(crate) fn block(
        &mut self,
        kind: BlockKind,
        raw: &[u8],
        compress: Compress,
    ) -> Result<BlockAt, DiskError> {
        let offset = self.offset();
        let at = self.blocks.put(&mut self.pending, self.id, offset, kind, raw, compress);
        if self.pending.len() >= WRITE_BYTES {
            self.write_pending()?;
        }
        Ok(at)
    }

    fn write_pending(&mut self) -> Result<(), DiskError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.file.write_at(&self.pending, self.written)?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Writes the footer and syncs; returns the file's length and the name it is to get.
    pub(crate) fn finish(mut self, footer: &[u8]) -> Result<(u64, PathBuf), DiskError> {
        self.block(BlockKind::Footer, footer, Compress::Never)?;
        self.write_pending()?;
        self.file.sync_all()?;
        Ok((self.written, self.path))
    }
}

/// Opens a table's file for reading and checks its header and length.
pub(crate) fn open_file(
    disk: &dyn Disk,
    table: TableFile,
    id: FileId,
    file_bytes: u64,
) -> Result<Arc<dyn DiskFile>, TableError> {
    let path = table.path();
    let file = disk.open(&path, Access::Read, Caching::Buffered)?;
    let found = file.len_bytes()?;
    if found != file_bytes {
        return Err(TableError::Damage(crate::wal::Damage {
            file: path,
            offset: found.min(file_bytes),
            part: "length of the file",
            expected: format!("{file_bytes} bytes"),
            found: format!("{found}"),
        }));
    }
    check_header(&*file, table, id)?;
    Ok(file)
}

/// Checks that an open file begins as the table it should be.
pub(super) fn check_header(file: &dyn DiskFile, table: TableFile, id: FileId) -> Result<(), TableError> {
    let mut header = [0; file_header::FILE_HEADER_BYTES];
    let read = file.read_at(&mut header, 0)?;
    file_header::check(file.path(), table.kind, id.tape, id.number, &header[..read])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_a_file_is_and_nothing_else_is_taken_for_one() {
        for kind in [FileKind::Events, FileKind::Index, FileKind::Snapshot] {
            let table = TableFile { kind, number: 42 };
            assert_eq!(TableFile::from_name(&table.name()), Some(table));
            assert_eq!(TableFile::from_name(&format!("{}.new", table.name())), Some(table));
        }
        for name in
            ["", "1.events", "0000000000000001.wal", "000000000000000x.events", "+000000000000001.index"]
        {
            assert_eq!(TableFile::from_name(name), None, "{name}");
        }
    }
}
