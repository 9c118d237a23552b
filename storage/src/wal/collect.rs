//! Every frame that can still be read from the files of a log, whatever is wrong with the rest: for salvage.
//!
//! Reads only. A commit is looked for at every block: it is taken if its header checks and is of its file's segment; of its
//! frames, those that check. What else is there is reported as damage, once per stretch.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use matchtape_schemas::limits::FRAME_BYTES_MAX;
use matchtape_schemas::{Frame, Sequence};

use super::block::{COMMIT_HEADER_BYTES, CommitHeader};
use super::bytes::is_zero;
use super::config::WalConfig;
use super::error::{Damage, WalError};
use super::reader::WalReader;
use super::scan::{First, bears_id, read_footer, read_header};
use super::segment::{
    FOOTER_MAGIC, Footer, SEGMENT_MAGIC, SegmentHeader, SegmentId, SegmentNumber, SpareMark,
};
use super::segments::{Sealed, SegmentInfo, Segments};
use crate::disk::{Access, AlignedBytes, BLOCK_BYTES, Caching, Disk, DiskError, DiskFile, EntryKind};

/// Where a frame lies in a file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LooseFrame {
    pub file: PathBuf,
    pub offset: u64,
    pub bytes: u32,
}

/// The files of a log, oldest first, whatever is in them.
pub(crate) fn files(disk: &dyn Disk, directory: &Path) -> Result<Vec<PathBuf>, DiskError> {
    let entries = match disk.list(directory) {
        Ok(entries) => entries,
        Err(error) if error.is_missing() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let segments = entries
        .into_iter()
        .filter(|entry| entry.kind == EntryKind::File && SegmentNumber::from_name(&entry.name).is_some());
    Ok(segments.map(|entry| directory.join(entry.name)).collect())
}

/// What a file says besides its frames.
#[derive(Debug)]
pub(crate) struct Collected {
    /// What could not be read.
    pub damages: Vec<Damage>,
    /// The last event that it speaks of.
    pub last_known: Sequence,
}

/// Gives every frame of `config.start`'s tape in one file, in the order they lie; returns what could not be read.
pub(crate) fn frames(
    disk: &dyn Disk,
    path: &Path,
    config: &WalConfig,
    mut visit: impl FnMut(&Frame<'_>, LooseFrame),
) -> Result<Collected, WalError> {
    let file = disk.open(path, Access::Read, Caching::Buffered)?;
    let length = file.len_bytes()?;
    let mut damages = Vec::new();
    let mut last_known = Sequence::ZERO;
    let damage = |offset, part, found: &str| Damage {
        file: path.to_path_buf(),
        offset,
        part,
        expected: "what a writer leaves there".to_owned(),
        found: found.to_owned(),
    };
    let mut block = AlignedBytes::zeroed(BLOCK_BYTES);
    let mut frame = AlignedBytes::zeroed(FRAME_BYTES_MAX);
    let mut id: Option<SegmentId> = None;
    // Of a file that had an earlier life, what is not this segment's is no damage.
    let mut recycled = false;
    // Damage that goes on is told once.
    let mut readable = true;
    // Nor is the rest of a commit of which a frame is damaged told again, block by block.
    let mut told_to = 0;
    let mut at = 0;
    while at < length {
        let here = at;
        at += BLOCK_BYTES as u64;
        let read = match file.read_at(&mut block, here) {
            Ok(read) => read,
            Err(error) => {
                if std::mem::replace(&mut readable, false) {
                    damages.push(damage(here, "block", &error.source.to_string()));
                }
                continue;
            }
        };
        let bytes = &block[..read];
        if is_zero(bytes) {
            continue;
        }
        if here == 0 && SpareMark::decode(bytes).is_some() {
            // Prepared and not begun: nothing in it was promised to anyone.
            return Ok(Collected { damages, last_known });
        }
        if recycled && !id.is_some_and(|id| bears_id(bytes, id)) {
            continue;
        }
        let is = |magic: &[u8]| bytes.len() >= 8 && bytes[..8] == *magic;
        if is(&SEGMENT_MAGIC)
            && let Ok(header) = SegmentHeader::decode(bytes)
        {
            if here == 0 && header.head.tape == config.start.tape {
                id = Some(header.id);
                recycled = header.recycled;
                last_known = last_known.max(header.head.last_sequence);
                readable = true;
                continue;
            }
            damages.push(damage(here, "segment header", "that of another tape or place"));
            continue;
        }
        if is(&FOOTER_MAGIC)
            && let Ok(footer) = Footer::decode(bytes)
            && Some(footer.id) == id
        {
            last_known = last_known.max(footer.head.last_sequence);
            readable = true;
            continue;
        }
        let Ok(commit) = CommitHeader::decode(bytes) else {
            if here >= told_to && std::mem::replace(&mut readable, false) {
                damages.push(damage(here, "block", "other bytes"));
            }
            continue;
        };
        // Without a header the first commit says which segment it is.
        if *id.get_or_insert(commit.segment_id) != commit.segment_id {
            damages.push(damage(here, "segment id of a commit", "another segment's"));
            continue;
        }
        readable = true;
        last_known = last_known.max(commit.last_sequence).max(commit.durable_through);
        let end = here + COMMIT_HEADER_BYTES as u64 + u64::from(commit.frame_bytes);
        let mut next = here + COMMIT_HEADER_BYTES as u64;
        while next < end {
            let Some(found) = read_frame(&*file, next, end, &mut frame) else {
                damages.push(damage(next, "frame", "other bytes"));
                break;
            };
            let bytes = found.bytes().len() as u32;
            if found.header().tape == config.start.tape {
                visit(&found, LooseFrame { file: path.to_path_buf(), offset: next, bytes });
            }
            next += u64::from(bytes);
        }
        if next == end {
            at = here + commit.total_bytes();
        } else {
            told_to = here + commit.total_bytes();
        }
    }
    if id.is_none() && length > 0 && !damages.is_empty() {
        damages.truncate(1);
    }
    Ok(Collected { damages, last_known })
}

/// Those of these files that are sealed segments of this log in which everything checks, whatever the others are.
pub(crate) fn sound_segments(
    disk: &Arc<dyn Disk>,
    files: &[PathBuf],
    config: &WalConfig,
) -> Result<Vec<SegmentInfo>, DiskError> {
    let reader = WalReader::new(Arc::clone(disk), config.clone(), Segments::default());
    let mut sound = Vec::new();
    for path in files {
        match sound_segment(&**disk, path, config, &reader) {
            Ok(found) => sound.extend(found),
            Err(WalError::Disk(error)) if !error.is_unreadable() => return Err(error),
            Err(_) => {}
        }
    }
    Ok(sound)
}

fn sound_segment(
    disk: &dyn Disk,
    path: &Path,
    config: &WalConfig,
    reader: &WalReader,
) -> Result<Option<SegmentInfo>, WalError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(number) = SegmentNumber::from_name(name) else { return Ok(None) };
    let file = disk.open(path, Access::Read, Caching::Buffered)?;
    let First::Header(header) = read_header(&file, number, config)? else { return Ok(None) };
    let Ok(footer) = read_footer(&file, &header)? else { return Ok(None) };
    let Footer { head: ends, totals, root, .. } = footer;
    let sealed = Some(Sealed { ends, totals, root, file_bytes: file.len_bytes()? });
    let info = SegmentInfo { number, id: header.id, begins: header.head, sealed };
    reader.verify(&info)?;
    Ok(Some(info))
}

fn read_frame<'m>(file: &dyn DiskFile, at: u64, end: u64, memory: &'m mut AlignedBytes) -> Option<Frame<'m>> {
    let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(FRAME_BYTES_MAX);
    let read = file.read_at(&mut memory[..wanted], at).ok()?;
    Frame::decode(&memory[..read]).ok()
}
