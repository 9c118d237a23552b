//! Every structure of one file, for people: where it lies, what it says, whether it checks. Reads only, and goes on behind
//! damage as far as the next structure that checks.

use std::path::Path;

use matchtape_schemas::{Frame, FrameHeader, Sequence, TapeId};
use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};

use crate::codec::{Fields, Short};
use crate::disk::{Access, AlignedBytes, Caching, Disk, DiskError, DiskFile};
use crate::file_header::{self, FILE_HEADER_BYTES, FileKind};
use crate::manifest::{self, Edit};
use crate::snapshot::SnapshotFooter;
use crate::sstable::block::{
    self, BLOCK_HEADER_BYTES, BLOCK_RAW_BYTES_MAX, BlockAt, BlockKind, FileId, Stored,
};
use crate::sstable::{Cursor, EventFooter, IndexFooter, PostingBlock, TableError, TableFile};
use crate::wal;

/// Of bytes that are shown as they are, at most so many per structure.
const RAW_BYTES_MAX: usize = 64 << 10;
/// Of damaged bytes, so many are shown unless all are asked for.
const DAMAGED_BYTES_SHOWN: usize = 64;

/// A structure of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DumpItem {
    /// Its first byte in the file; of a part of a compressed block, in the block's payload.
    pub offset: u64,
    /// Its length there.
    pub bytes: u64,
    /// Parts of a structure follow it, one deeper.
    pub depth: u8,
    /// What it is.
    pub what: &'static str,
    /// What it says.
    pub fields: Vec<(&'static str, String)>,
    /// What is wrong with it, if anything is.
    pub damage: Option<String>,
    /// Its bytes as they are: if asked for, or the first of them if it is damaged.
    pub raw: Vec<u8>,
}

impl Serialize for DumpItem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Pairs<'a>(&'a [(&'static str, String)]);
        impl Serialize for Pairs<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(Some(self.0.len()))?;
                for (name, value) in self.0 {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
        let fields = 5 + usize::from(self.damage.is_some()) + usize::from(!self.raw.is_empty());
        let mut item = serializer.serialize_struct("DumpItem", fields)?;
        item.serialize_field("offset", &self.offset)?;
        item.serialize_field("bytes", &self.bytes)?;
        item.serialize_field("depth", &self.depth)?;
        item.serialize_field("what", self.what)?;
        item.serialize_field("fields", &Pairs(&self.fields))?;
        if let Some(damage) = &self.damage {
            item.serialize_field("damage", damage)?;
        }
        if !self.raw.is_empty() {
            item.serialize_field("raw", &hex(&self.raw))?;
        }
        item.end()
    }
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where structures go.
pub(crate) struct Out<'a> {
    visit: &'a mut dyn FnMut(DumpItem) -> bool,
    raw: bool,
    pub(crate) stopped: bool,
}

impl Out<'_> {
    pub(crate) fn put(&mut self, mut item: DumpItem, bytes: &[u8]) {
        let shown = match (self.raw, &item.damage) {
            (true, _) => RAW_BYTES_MAX,
            (false, Some(_)) => DAMAGED_BYTES_SHOWN,
            (false, None) => 0,
        };
        item.raw = bytes[..bytes.len().min(shown)].to_vec();
        self.stopped |= !(self.visit)(item);
    }
}

/// Shows every structure of a file to `visit`, until it returns `false`; with `raw`, its bytes too.
pub fn dump(
    disk: &dyn Disk,
    path: &Path,
    raw: bool,
    visit: &mut dyn FnMut(DumpItem) -> bool,
) -> Result<(), DiskError> {
    let file = disk.open(path, Access::Read, Caching::Buffered)?;
    let mut out = Out { visit, raw, stopped: false };
    let mut start = [0; 8];
    let read = file.read_at(&mut start, 0)?;
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let of_magic = [FileKind::Events, FileKind::Index, FileKind::Snapshot, FileKind::Manifest]
        .into_iter()
        .find(|kind| start[..read] == kind.magic());
    // The name tells what a file should be whose first bytes are damaged.
    let of_name = match (extension, name) {
        ("events", _) => Some(FileKind::Events),
        ("index", _) => Some(FileKind::Index),
        ("snapshot", _) => Some(FileKind::Snapshot),
        (_, "manifest") => Some(FileKind::Manifest),
        _ => None,
    };
    if extension == "new" {
        return dump_unfinished(&*file, &mut out);
    }
    match of_magic.or(of_name) {
        Some(FileKind::Manifest) => dump_manifest(&*file, &mut out),
        Some(kind) => dump_blocks(&*file, kind, &mut out),
        None if ["wal", "free"].contains(&extension) || start == wal::dump::MAGIC => {
            wal::dump::segment(&*file, &mut out)
        }
        None if start[..4] == matchtape_schemas::frame::FRAME_MAGIC => dump_frames(&*file, &mut out),
        None => dump_text(&*file, &mut out),
    }
}

/// What a frame's header says.
pub(crate) fn frame_fields(header: &FrameHeader) -> Vec<(&'static str, String)> {
    vec![
        ("first", header.first_sequence.to_string()),
        ("last", header.last_sequence().to_string()),
        ("epoch", header.epoch.to_string()),
        ("tape", header.tape.to_string()),
        ("accepted", header.accepted_time.to_string()),
        ("max_event_time", header.max_event_time.to_string()),
        ("kinds", format!("{:x}", header.kinds.0)),
        ("flags", format!("{:x}", header.flags.bits())),
        ("previous", format!("{:08x}", header.previous_checksum)),
        ("checksum", format!("{:08x}", header.checksum)),
    ]
}

fn header_item(file: &dyn DiskFile, kind: FileKind, out: &mut Out<'_>) -> Result<FileId, DiskError> {
    let mut bytes = [0; FILE_HEADER_BYTES];
    let read = file.read_at(&mut bytes, 0)?;
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let damage = match file_header::decode(file.path(), kind, &bytes[..read]) {
        Ok(_) => None,
        Err(file_header::HeaderError::Damage(damage)) => Some(damage.to_string()),
        Err(file_header::HeaderError::Version(version)) => Some(version.to_string()),
    };
    // Of a damaged header, the name knows the number.
    let of_name = crate::sstable::TableFile::from_name(
        file.path().file_name().and_then(|name| name.to_str()).unwrap_or_default(),
    );
    let number = match (&damage, of_name) {
        (Some(_), Some(table)) => table.number,
        (Some(_) | None, _) => word(24),
    };
    let fields = vec![
        ("kind", kind.name().to_owned()),
        ("version", u16::from_le_bytes([bytes[8], bytes[9]]).to_string()),
        ("tape", format!("{:016x}", word(16))),
        (if kind == FileKind::Manifest { "generation" } else { "file" }, word(24).to_string()),
    ];
    let item = DumpItem { bytes: read as u64, what: "file header", fields, damage, ..DumpItem::default() };
    out.put(item, &bytes[..read]);
    Ok(FileId { tape: TapeId(word(16)), number })
}

const KINDS: [BlockKind; 7] = [
    BlockKind::Frames,
    BlockKind::Postings,
    BlockKind::Leaf,
    BlockKind::Top,
    BlockKind::Filter,
    BlockKind::Footer,
    BlockKind::Section,
];

/// The header of a block as it stands there, checked or not.
struct Stated {
    stored: u32,
    raw: u32,
    kind: u8,
    compression: u8,
    checksum: u32,
}

fn stated(header: &[u8]) -> Stated {
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    Stated { stored: word(0), raw: word(4), kind: header[8], compression: header[9], checksum: word(12) }
}

/// Reads the block at `at`: `Ok` if it checks.
fn block_at(
    file: &dyn DiskFile,
    id: FileId,
    at: u64,
    length: u64,
    buffer: &mut Vec<u8>,
) -> Result<(BlockKind, Stated, AlignedBytes, usize), String> {
    let mut header = [0; BLOCK_HEADER_BYTES];
    file.read_exact_at(&mut header, at).map_err(|error| error.to_string())?;
    let stated = stated(&header);
    let bytes = u64::from(stated.stored) + BLOCK_HEADER_BYTES as u64;
    if at + bytes > length || stated.raw as usize > BLOCK_RAW_BYTES_MAX {
        return Err(format!("{} stored and {} raw bytes are impossible here", stated.stored, stated.raw));
    }
    let Some(kind) = KINDS.into_iter().find(|kind| *kind as u8 == stated.kind) else {
        return Err(format!("kind {} does not exist", stated.kind));
    };
    block::load(file, BlockAt { offset: at, bytes: bytes as u32 }, buffer)
        .map_err(|error| error.to_string())?;
    let (raw, length) =
        block::read_payload_aligned(file.path(), id, at, kind, buffer).map_err(|error| match error {
            TableError::Damage(damage) => format!("expected {}, found {}", damage.expected, damage.found),
            other => other.to_string(),
        })?;
    Ok((kind, stated, raw, length))
}

fn dump_blocks(file: &dyn DiskFile, kind: FileKind, out: &mut Out<'_>) -> Result<(), DiskError> {
    let id = header_item(file, kind, out)?;
    let length = file.len_bytes()?;
    let mut at = FILE_HEADER_BYTES as u64;
    let mut buffer = Vec::new();
    while at < length && !out.stopped {
        match block_at(file, id, at, length, &mut buffer) {
            Ok((block, stated, raw, raw_bytes)) => {
                let bytes = u64::from(stated.stored) + BLOCK_HEADER_BYTES as u64;
                let fields = vec![
                    ("stored", stated.stored.to_string()),
                    ("raw", stated.raw.to_string()),
                    (
                        "compression",
                        Stored::from_byte(stated.compression).map_or("", Stored::name).to_owned(),
                    ),
                    ("checksum", format!("{:08x}", stated.checksum)),
                ];
                let item = DumpItem { offset: at, bytes, what: block.name(), fields, ..DumpItem::default() };
                out.put(item, &buffer);
                parts(kind, block, &raw[..raw_bytes], out);
                at += bytes;
            }
            Err(damage) => {
                let next = next_block(file, id, at, length, &mut buffer);
                let shown = usize::try_from(next - at).unwrap_or(usize::MAX).min(RAW_BYTES_MAX);
                let mut bytes = vec![0; shown];
                let read = file.read_at(&mut bytes, at).unwrap_or(0);
                let item = DumpItem {
                    offset: at,
                    bytes: next - at,
                    what: "damaged bytes",
                    damage: Some(damage),
                    ..DumpItem::default()
                };
                out.put(item, &bytes[..read]);
                at = next;
            }
        }
    }
    Ok(())
}

/// Where the next block that checks begins, or the end of the file.
fn next_block(file: &dyn DiskFile, id: FileId, after: u64, length: u64, buffer: &mut Vec<u8>) -> u64 {
    let mut header = [0; BLOCK_HEADER_BYTES];
    // The damage may be in the payload only: then the next one is where it should be.
    if file.read_exact_at(&mut header, after).is_ok() {
        let next = after + u64::from(stated(&header).stored) + BLOCK_HEADER_BYTES as u64;
        if next == length || next < length && block_at(file, id, next, length, buffer).is_ok() {
            return next;
        }
    }
    let mut window = vec![0; 1 << 20];
    let mut at = after + 1;
    while at + BLOCK_HEADER_BYTES as u64 <= length {
        let Ok(read) = file.read_at(&mut window, at) else { return length };
        for offset in 0..read.saturating_sub(BLOCK_HEADER_BYTES - 1) {
            let header = &window[offset..offset + BLOCK_HEADER_BYTES];
            let likely = (1..=7).contains(&header[8]) && header[9] <= 1 && header[10..12] == [0, 0];
            if likely && block_at(file, id, at + offset as u64, length, buffer).is_ok() {
                return at + offset as u64;
            }
        }
        at += (read.saturating_sub(BLOCK_HEADER_BYTES - 1)).max(1) as u64;
    }
    length
}

/// What lies in the payload of a block.
fn parts(kind: FileKind, block: BlockKind, raw: &[u8], out: &mut Out<'_>) {
    match (kind, block) {
        (FileKind::Events, BlockKind::Frames) => frames_in(raw, 1, out),
        (FileKind::Events, BlockKind::Leaf | BlockKind::Top) => event_entries(raw, out),
        (FileKind::Index, BlockKind::Leaf | BlockKind::Top) => {
            entries(raw, "entry", out, |fields| {
                let length = fields.varint()? as usize;
                let key = hex(fields.bytes(length)?);
                Ok(vec![
                    ("key", key),
                    ("first", fields.varint()?.to_string()),
                    ("offset", fields.varint()?.to_string()),
                    ("bytes", fields.varint()?.to_string()),
                    ("filter", fields.varint()?.to_string()),
                ])
            });
        }
        (FileKind::Index, BlockKind::Postings) => postings(raw, out),
        (FileKind::Index, BlockKind::Filter) => {
            let set: u32 = raw.iter().map(|byte| byte.count_ones()).sum();
            let fields = vec![("bits_set", set.to_string()), ("bits", (raw.len() * 8).to_string())];
            part(0, raw, "filter", fields, out);
        }
        (FileKind::Snapshot, BlockKind::Top) => {
            entries(raw, "section", out, |fields| {
                let length = usize::from(fields.u8()?);
                let name = String::from_utf8_lossy(fields.bytes(length)?).into_owned();
                let (version, bytes, pieces) = (fields.u32()?, fields.u64()?, fields.u32()?);
                for _ in 0..pieces {
                    fields.bytes(12)?;
                }
                Ok(vec![
                    ("name", name),
                    ("version", version.to_string()),
                    ("bytes", bytes.to_string()),
                    ("pieces", pieces.to_string()),
                ])
            });
        }
        (_, BlockKind::Footer) => {
            let mut fields = Fields::new(raw);
            let says = match kind {
                FileKind::Events => EventFooter::read(&mut fields).map(|footer| event_footer(&footer)),
                FileKind::Index => IndexFooter::read(&mut fields).map(|footer| index_footer(&footer)),
                FileKind::Snapshot => {
                    SnapshotFooter::read(&mut fields).map(|footer| snapshot_footer(&footer))
                }
                FileKind::Manifest => return,
            };
            match says {
                Ok(says) => part(0, raw, "footer", says, out),
                Err(short) => damaged_part(short.at, raw, "footer", out),
            }
        }
        // Another kind of block than this kind of file has, or bytes that only a projection reads.
        _ => {}
    }
}

/// What a structure says: names and values.
type Says = Vec<(&'static str, String)>;

fn event_footer(footer: &EventFooter) -> Says {
    let EventFooter { before, after, .. } = footer;
    vec![
        ("first_sequence", before.last_sequence.next().to_string()),
        ("last_sequence", after.last_sequence.to_string()),
        ("epoch", after.epoch.to_string()),
        ("checksum_before", format!("{:08x}", before.checksum)),
        ("checksum", format!("{:08x}", after.checksum)),
        ("first_accepted_time", footer.first_accepted.0.to_string()),
        ("last_accepted_time", after.accepted_time.0.to_string()),
        ("min_event_time", footer.min_time.0.to_string()),
        ("max_event_time", footer.max_time.0.to_string()),
        ("max_event_time_so_far", after.max_event_time.0.to_string()),
        ("kinds", format!("{:x}", footer.kinds.0)),
        ("min_instrument", footer.min_instrument.to_string()),
        ("max_instrument", footer.max_instrument.to_string()),
        ("frames", footer.frames.to_string()),
        ("blocks", footer.blocks.to_string()),
        ("frame_bytes", footer.raw_bytes.to_string()),
        ("top", footer.top.offset.to_string()),
        ("top_bytes", footer.top.bytes.to_string()),
    ]
}

fn index_footer(footer: &IndexFooter) -> Says {
    vec![
        ("tape", footer.tape.to_string()),
        ("first_sequence", footer.first.to_string()),
        ("last_sequence", footer.last.to_string()),
        ("entities", footer.entities.to_string()),
        ("postings", footer.postings.to_string()),
        ("blocks", footer.blocks.to_string()),
        ("min_key", hex(&footer.min_key)),
        ("max_key", hex(&footer.max_key)),
        ("top", footer.top.offset.to_string()),
        ("top_bytes", footer.top.bytes.to_string()),
    ]
}

fn snapshot_footer(footer: &SnapshotFooter) -> Says {
    vec![
        ("sequence", footer.head.last_sequence.to_string()),
        ("epoch", footer.head.epoch.to_string()),
        ("checksum", format!("{:08x}", footer.head.checksum)),
        ("accepted_time", footer.head.accepted_time.0.to_string()),
        ("max_event_time_so_far", footer.head.max_event_time.0.to_string()),
        ("sections", footer.sections.to_string()),
        ("hash", hex(&footer.hash)),
        ("top", footer.top.offset.to_string()),
        ("top_bytes", footer.top.bytes.to_string()),
    ]
}

fn edit_fields(edit: &Edit) -> Says {
    let added = |file: TableFile, bytes: u64, mut says: Says| {
        says.splice(0..0, [("adds", file.path().display().to_string()), ("file_bytes", bytes.to_string())]);
        says
    };
    match edit {
        Edit::AddEvents(meta) => added(meta.file(), meta.bytes, event_footer(&meta.footer)),
        Edit::AddIndex(meta) => {
            let mut says = added(meta.file(), meta.bytes, index_footer(&meta.footer));
            says.insert(2, ("level", meta.level.to_string()));
            says
        }
        Edit::AddSnapshot(meta) => added(meta.file(), meta.bytes, snapshot_footer(&meta.footer)),
        Edit::Remove(number) => vec![("removes_file", number.to_string())],
        Edit::NextFile(number) => vec![("next_file", number.to_string())],
        Edit::LogBegun => vec![("log", "begun".to_owned())],
        Edit::ReleaseSegment(facts) => vec![
            ("releases_segment", facts.number.to_string()),
            ("first_sequence", facts.first.to_string()),
            ("last_sequence", facts.last.to_string()),
            ("frames", facts.frames.to_string()),
            ("frame_bytes", facts.frame_bytes.to_string()),
            ("root", facts.root.to_string()),
        ],
        Edit::FirstKept(first) => vec![("first_kept", first.to_string())],
        Edit::Hold(hold) if hold.from == Sequence::ZERO => vec![("lifts_hold", hold.name.clone())],
        Edit::Hold(hold) => vec![
            ("hold", hold.name.clone()),
            ("from_sequence", hold.from.to_string()),
            ("placed", hold.placed.0.to_string()),
        ],
        Edit::MovedCold(object) => vec![
            ("moved_file", object.number.to_string()),
            ("object", object.key.clone()),
            ("file_bytes", object.bytes.to_string()),
            ("hash", hex(&object.hash)),
        ],
        Edit::RemovedCold(number) => vec![("removed_object_of_file", number.to_string())],
    }
}

fn part(
    offset: usize,
    raw: &[u8],
    what: &'static str,
    fields: Vec<(&'static str, String)>,
    out: &mut Out<'_>,
) {
    let item = DumpItem {
        offset: offset as u64,
        bytes: raw.len() as u64,
        depth: 1,
        what,
        fields,
        ..DumpItem::default()
    };
    out.put(item, raw);
}

fn damaged_part(at: usize, raw: &[u8], what: &'static str, out: &mut Out<'_>) {
    let damage = Some(format!("an impossible field at byte {at} of the payload"));
    let item = DumpItem { offset: at as u64, depth: 1, what, damage, ..DumpItem::default() };
    out.put(item, &raw[at.min(raw.len())..]);
}

fn entries(
    raw: &[u8],
    what: &'static str,
    out: &mut Out<'_>,
    mut read: impl FnMut(&mut Fields<'_>) -> Result<Vec<(&'static str, String)>, Short>,
) {
    let mut fields = Fields::new(raw);
    while !fields.is_empty() && !out.stopped {
        let at = fields.at();
        match read(&mut fields) {
            Ok(said) => part(at, &raw[at..fields.at()], what, said, out),
            Err(short) => return damaged_part(short.at, raw, what, out),
        }
    }
}

fn event_entries(raw: &[u8], out: &mut Out<'_>) {
    entries(raw, "entry", out, |fields| {
        Ok(vec![
            ("first", fields.u64()?.to_string()),
            ("offset", fields.u64()?.to_string()),
            ("bytes", fields.u32()?.to_string()),
            ("events", fields.u32()?.to_string()),
            ("min_time", fields.i64()?.to_string()),
            ("max_time", fields.i64()?.to_string()),
            ("kinds", format!("{:x}", fields.u64()?)),
        ])
    });
}

fn postings(raw: &[u8], out: &mut Out<'_>) {
    let block = match PostingBlock::decode(raw.to_vec()) {
        Ok(block) => block,
        Err((at, _)) => return damaged_part(at, raw, "postings", out),
    };
    let mut cursor = Cursor::default();
    block.rewind(&mut cursor);
    while !out.stopped {
        let at = cursor.next_place();
        match block.advance(&mut cursor) {
            Ok(true) => {}
            Ok(false) => return,
            Err((at, _)) => return damaged_part(at, raw, "postings", out),
        }
        let fields = vec![
            ("key", hex(&cursor.key.to_bytes())),
            ("count", cursor.count.to_string()),
            ("first", cursor.first.to_string()),
            ("last", cursor.last.to_string()),
        ];
        if let Err(short) = block.postings_of(&cursor).decode(|_| {}) {
            return damaged_part(at + short.at, raw, "postings", out);
        }
        part(at, &raw[at..cursor.next_place()], "postings", fields, out);
    }
}

fn frames_in(raw: &[u8], depth: u8, out: &mut Out<'_>) {
    let mut at = 0;
    while at < raw.len() && !out.stopped {
        match Frame::decode(&raw[at..]) {
            Ok(frame) => {
                let bytes = frame.bytes();
                let item = DumpItem {
                    offset: at as u64,
                    bytes: bytes.len() as u64,
                    depth,
                    what: "frame",
                    fields: frame_fields(frame.header()),
                    ..DumpItem::default()
                };
                out.put(item, bytes);
                at += bytes.len();
            }
            Err(error) => {
                let item = DumpItem {
                    offset: at as u64,
                    bytes: (raw.len() - at) as u64,
                    depth,
                    what: "frame",
                    damage: Some(error.to_string()),
                    ..DumpItem::default()
                };
                return out.put(item, &raw[at..]);
            }
        }
    }
}

fn read_all(file: &dyn DiskFile, most: u64) -> Result<(AlignedBytes, usize), DiskError> {
    let length = usize::try_from(file.len_bytes()?.min(most)).unwrap_or(usize::MAX);
    let mut bytes = AlignedBytes::zeroed(length.max(1));
    let read = file.read_at(&mut bytes[..length], 0)?;
    Ok((bytes, read))
}

/// A file of frames, one after the other, as salvage puts them aside.
fn dump_frames(file: &dyn DiskFile, out: &mut Out<'_>) -> Result<(), DiskError> {
    let length = file.len_bytes()?;
    let mut memory = AlignedBytes::zeroed(matchtape_schemas::limits::FRAME_BYTES_MAX);
    let mut at = 0;
    while at < length && !out.stopped {
        let read = file.read_at(&mut memory, at)?;
        let (fields, bytes, damage) = match Frame::decode(&memory[..read]) {
            Ok(frame) => (frame_fields(frame.header()), frame.bytes().len() as u64, None),
            Err(error) => (Vec::new(), length - at, Some(error.to_string())),
        };
        let shown = read.min(bytes as usize);
        let item = DumpItem { offset: at, bytes, what: "frame", fields, damage, ..DumpItem::default() };
        out.put(item, &memory[..shown]);
        at += bytes;
    }
    Ok(())
}

fn dump_manifest(file: &dyn DiskFile, out: &mut Out<'_>) -> Result<(), DiskError> {
    header_item(file, FileKind::Manifest, out)?;
    let (bytes, length) = read_all(file, u64::MAX)?;
    manifest::for_each_record(&bytes[..length], &mut |record| {
        let (offset, end) = (record.at as u64, record.at + record.bytes);
        let item = DumpItem {
            offset,
            bytes: record.bytes as u64,
            what: "record",
            fields: record.number.map(|number| ("number", number.to_string())).into_iter().collect(),
            damage: record.damage,
            ..DumpItem::default()
        };
        out.put(item, &bytes[record.at..end]);
        for (at, edit) in record.edits {
            let item = DumpItem {
                offset: at as u64,
                depth: 1,
                what: "edit",
                fields: edit_fields(&edit),
                ..DumpItem::default()
            };
            out.put(item, &[]);
        }
        !out.stopped
    });
    Ok(())
}

/// What was being made when its maker ended: nothing in it can be wrong, for it says nothing yet.
fn dump_unfinished(file: &dyn DiskFile, out: &mut Out<'_>) -> Result<(), DiskError> {
    let (bytes, length) = read_all(file, RAW_BYTES_MAX as u64)?;
    let fields = vec![("opening", "removes it".to_owned())];
    let item = DumpItem { bytes: file.len_bytes()?, what: "unfinished file", fields, ..DumpItem::default() };
    out.put(item, &bytes[..length]);
    Ok(())
}

/// The lock file, or whatever else it is.
fn dump_text(file: &dyn DiskFile, out: &mut Out<'_>) -> Result<(), DiskError> {
    let (bytes, length) = read_all(file, RAW_BYTES_MAX as u64)?;
    let text = std::str::from_utf8(&bytes[..length]).ok().filter(|text| !text.contains('\0'));
    let what = if text.is_some() { "text" } else { "unknown bytes" };
    let damage = text.is_none().then(|| "no structure of a store".to_owned());
    let fields = text.map(|text| ("says", text.trim_end().to_owned())).into_iter().collect();
    let item = DumpItem { bytes: file.len_bytes()?, what, fields, damage, ..DumpItem::default() };
    out.put(item, &bytes[..length]);
    Ok(())
}
