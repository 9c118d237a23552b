//! Every structure of a segment file, for people.

use matchtape_schemas::Frame;
use matchtape_schemas::limits::FRAME_BYTES_MAX;

use super::block::{COMMIT_HEADER_BYTES, CommitHeader, hex};
use super::bytes::is_zero;
use super::scan::bears_id;
use super::segment::{FOOTER_MAGIC, Footer, SEGMENT_MAGIC, SealError, SegmentHeader, SegmentId, SpareMark};
use crate::disk::{AlignedBytes, BLOCK_BYTES, DiskError, DiskFile};
use crate::dump::{DumpItem, Out, frame_fields};

/// What a segment file begins with.
pub(crate) const MAGIC: [u8; 8] = SEGMENT_MAGIC;

pub(crate) fn segment(file: &dyn DiskFile, out: &mut Out<'_>) -> Result<(), DiskError> {
    let length = file.len_bytes()?;
    let mut block = AlignedBytes::zeroed(BLOCK_BYTES);
    let mut at = 0;
    let mut zeros: Option<u64> = None;
    // Known once the header was read, if the file had an earlier life: what does not bear this id is left of that.
    let mut own: Option<SegmentId> = None;
    let mut earlier: Option<u64> = None;
    while at < length && !out.stopped {
        let (bytes, unreadable) = match file.read_at(&mut block, at) {
            Ok(read) => (&block[..read], None),
            Err(error) => (&block[..0], Some(error.to_string())),
        };
        if unreadable.is_none() && is_zero(bytes) {
            end_stretch(&mut earlier, "left of an earlier life of the file", at, out);
            zeros.get_or_insert(at);
            at += BLOCK_BYTES as u64;
            continue;
        }
        end_stretch(&mut zeros, "zeros", at, out);
        if unreadable.is_none() && own.is_some_and(|id| !bears_id(bytes, id)) {
            earlier.get_or_insert(at);
            at += BLOCK_BYTES as u64;
            continue;
        }
        end_stretch(&mut earlier, "left of an earlier life of the file", at, out);
        let is = |magic: &[u8]| bytes.len() >= 8 && bytes[..8] == *magic;
        if let Some(damage) = unreadable {
            put(out, at, BLOCK_BYTES as u64, "block", Vec::new(), Some(damage), &[]);
        } else if at == 0
            && let Some(mark) = SpareMark::decode(bytes)
        {
            let fields = vec![("segment", mark.number.to_string()), ("recycled", mark.recycled.to_string())];
            put(out, at, BLOCK_BYTES as u64, "mark of a prepared segment", fields, None, bytes);
            // No commit bears it.
            own = mark.recycled.then_some(SegmentId([0; 16]));
        } else if is(&SEGMENT_MAGIC) {
            let header = SegmentHeader::decode(bytes);
            own = header.as_ref().ok().filter(|header| header.recycled).map(|header| header.id);
            let (fields, damage) = header_fields(header);
            put(out, at, BLOCK_BYTES as u64, "segment header", fields, damage, bytes);
        } else if is(&FOOTER_MAGIC) {
            let (fields, damage) = footer_fields(Footer::decode(bytes));
            put(out, at, BLOCK_BYTES as u64, "footer", fields, damage, bytes);
        } else {
            match CommitHeader::decode(bytes) {
                Ok(header) => {
                    let what = if header.frame_bytes == 0 { "idle block" } else { "commit" };
                    put(out, at, header.total_bytes(), what, commit_fields(&header), None, bytes);
                    if frames(file, at, &header, length, out)? {
                        at += header.total_bytes();
                        continue;
                    }
                }
                Err(refused) => {
                    let damage =
                        format!("{}: expected {}, found {}", refused.part, refused.expected, refused.found);
                    put(out, at, BLOCK_BYTES as u64, "block", Vec::new(), Some(damage), bytes);
                }
            }
        }
        at += BLOCK_BYTES as u64;
    }
    end_stretch(&mut zeros, "zeros", length, out);
    end_stretch(&mut earlier, "left of an earlier life of the file", length, out);
    Ok(())
}

fn put(
    out: &mut Out<'_>,
    offset: u64,
    bytes: u64,
    what: &'static str,
    fields: Vec<(&'static str, String)>,
    damage: Option<String>,
    raw: &[u8],
) {
    out.put(DumpItem { offset, bytes, what, fields, damage, ..DumpItem::default() }, raw);
}

fn end_stretch(from: &mut Option<u64>, what: &'static str, at: u64, out: &mut Out<'_>) {
    if let Some(from) = from.take() {
        put(out, from, at - from, what, Vec::new(), None, &[]);
    }
}

fn sealed(error: SealError) -> String {
    match error {
        SealError::Damaged { part, expected, found } => format!("{part}: expected {expected}, found {found}"),
        SealError::Version(version) => format!("format version {version}"),
    }
}

type Said = (Vec<(&'static str, String)>, Option<String>);

fn header_fields(header: Result<SegmentHeader, SealError>) -> Said {
    match header {
        Ok(header) => (
            vec![
                ("segment", header.number.to_string()),
                ("id", hex(&header.id.0)),
                ("cluster", header.cluster.0.to_string()),
                ("tape", header.head.tape.to_string()),
                ("epoch", header.head.epoch.to_string()),
                ("first", header.head.last_sequence.next().to_string()),
                ("previous", format!("{:08x}", header.head.checksum)),
                ("accepted", header.head.accepted_time.to_string()),
                ("previous_root", header.previous_root.to_string()),
                ("previous_id", hex(&header.previous_id.0)),
                ("incarnation", format!("{:016x}", header.incarnation)),
                ("recycled", header.recycled.to_string()),
            ],
            None,
        ),
        Err(error) => (Vec::new(), Some(sealed(error))),
    }
}

fn footer_fields(footer: Result<Footer, SealError>) -> Said {
    match footer {
        Ok(footer) => (
            vec![
                ("id", hex(&footer.id.0)),
                ("first", footer.first_sequence.to_string()),
                ("last", footer.head.last_sequence.to_string()),
                ("epoch", footer.head.epoch.to_string()),
                ("checksum", format!("{:08x}", footer.head.checksum)),
                ("commits", footer.totals.commits.to_string()),
                ("frames", footer.totals.frames.to_string()),
                ("events", footer.totals.events.to_string()),
                ("frame_bytes", footer.totals.frame_bytes.to_string()),
                ("root", footer.root.to_string()),
            ],
            None,
        ),
        Err(error) => (Vec::new(), Some(sealed(error))),
    }
}

fn commit_fields(header: &CommitHeader) -> Vec<(&'static str, String)> {
    vec![
        ("number", header.commit_number.to_string()),
        ("segment_id", hex(&header.segment_id.0)),
        ("first", header.first_sequence.to_string()),
        ("last", header.last_sequence.to_string()),
        ("durable_through", header.durable_through.to_string()),
        ("frames", header.frame_count.to_string()),
        ("frame_bytes", header.frame_bytes.to_string()),
        ("previous", format!("{:08x}", header.previous_checksum)),
        ("checksum", format!("{:08x}", header.last_checksum)),
        ("open_group", header.open_group.to_string()),
        ("incarnation", format!("{:016x}", header.incarnation)),
    ]
}

/// The frames of a commit; `false` if one does not check, so that what follows is looked at block by block.
fn frames(
    file: &dyn DiskFile,
    commit: u64,
    header: &CommitHeader,
    length: u64,
    out: &mut Out<'_>,
) -> Result<bool, DiskError> {
    let mut memory = AlignedBytes::zeroed(FRAME_BYTES_MAX);
    let mut at = commit + COMMIT_HEADER_BYTES as u64;
    let end = (at + u64::from(header.frame_bytes)).min(length);
    while at < end && !out.stopped {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(FRAME_BYTES_MAX);
        let read = file.read_at(&mut memory[..wanted], at)?;
        let (fields, bytes, damage) = match Frame::decode(&memory[..read]) {
            Ok(frame) => (frame_fields(frame.header()), frame.bytes().len(), None),
            Err(error) => (Vec::new(), read, Some(error.to_string())),
        };
        let whole = damage.is_none();
        let item = DumpItem {
            offset: at,
            bytes: bytes as u64,
            depth: 1,
            what: "frame",
            fields,
            damage,
            ..DumpItem::default()
        };
        out.put(item, &memory[..bytes]);
        if !whole {
            return Ok(false);
        }
        at += bytes as u64;
    }
    Ok(true)
}
