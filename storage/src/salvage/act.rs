//! Saying what would be done, and doing it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use matchtape_schemas::limits::FRAME_BYTES_MAX;
use matchtape_schemas::{Head, Sequence};

use super::gather::{Found, LooseHeader};
use super::line_up::{Item, Plan, indexes};
use super::{SalvageError, SalvageProgress, SalvageReport, Span};
use crate::archive::ColdStore;
use crate::archive::cold::ColdObject;
use crate::backup::begin_epoch;
use crate::disk::{Access, AlignedBytes, BLOCK_BYTES, Caching, Disk, DiskError, DiskLock};
use crate::manifest::{Contents, Edit, MANIFEST, Manifest};
use crate::open::{OpenError, WAL};
use crate::options::{ReadOnlyOptions, WalOptions};
use crate::read_only::ReadOnlyStore;
use crate::rebuild::{self, TableBuilder};
use crate::segment_facts::SegmentFacts;
use crate::snapshot::SnapshotMeta;
use crate::sstable::{ColdTable, EventTableMeta, TABLES, TableError};
use crate::wal::collect;

/// Damaged files go to a directory of this name and a number.
const SALVAGE: &str = "salvage-";
/// In there: which objects of the cold tier the store no longer knows.
const OBJECTS: &str = "cold.objects";
/// Bytes copied at once.
const COPY_BYTES: usize = 1 << 20;

/// Snapshots that the store keeps.
fn snapshots(found: &Found, plan: &Plan) -> Vec<SnapshotMeta> {
    let (start, end) = (plan.main.start.last_sequence, plan.main.end().last_sequence);
    found.snapshots.iter().filter(|meta| (start..=end).contains(&meta.sequence())).copied().collect()
}

/// Files that are to be put aside.
fn aside(found: &Found, plan: &Plan) -> BTreeSet<PathBuf> {
    let mut files = found.bad_files.clone();
    let kept: Vec<u64> = plan
        .main
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Table(meta) => Some(meta.number),
            Item::Frame(_) => None,
        })
        .collect();
    files.extend(
        found.tables.iter().filter(|meta| !kept.contains(&meta.number)).map(|meta| meta.file().path()),
    );
    let snapshots = snapshots(found, plan);
    files.extend(
        found.snapshots.iter().filter(|meta| !snapshots.contains(meta)).map(|meta| meta.file().path()),
    );
    if !plan.log_kept {
        files.extend(found.log_files.iter().cloned());
    }
    files
}

/// Objects of the cold tier whose tables are not in the store any more. The store must not know them: it removes objects that
/// it knows and has no table of, and these hold events that are nowhere else.
fn objects_aside<'a>(found: &'a Found, plan: &Plan) -> Vec<(&'a EventTableMeta, &'a ColdObject)> {
    let kept = |meta: &EventTableMeta| {
        plan.main.items.iter().any(|item| matches!(item, Item::Table(table) if table.number == meta.number))
    };
    let gone = found.contents.event_tables.iter().filter(|meta| !kept(meta));
    gone.filter_map(|meta| Some((meta, found.contents.cold.get(&meta.number)?))).collect()
}

/// Frames that are readable but not in the store, in order.
fn frames_aside<'a>(found: &'a Found, plan: &Plan) -> Vec<&'a LooseHeader> {
    let (start, end) = (plan.main.start.last_sequence, plan.end);
    let outside =
        |loose: &&LooseHeader| loose.header.first_sequence <= start || loose.header.last_sequence() > end;
    found.loose.values().flatten().filter(outside).collect()
}

pub(super) fn report(
    disk: &Arc<dyn Disk>,
    found: &Found,
    plan: &Plan,
    cold: Option<&Arc<dyn ColdStore>>,
) -> Result<SalvageReport, SalvageError> {
    let mut report = SalvageReport {
        tape: format!("{:016x}", found.tape.0),
        damage: found.damage.clone(),
        lost: plan.lost.clone(),
        aside: plan.aside.clone(),
        log_kept: plan.log_kept,
        manifest_rebuilt: found.manifest_rebuilt,
        epoch_started: plan.epoch.map(|epoch| epoch.0),
        warnings: found.warnings.clone(),
        ..SalvageReport::default()
    };
    let start = plan.main.start.last_sequence;
    report.kept = (plan.end > start).then(|| Span { first: start.0 + 1, last: plan.end.0 });
    let mut before_is_frame = false;
    for item in &plan.main.items {
        let is_frame = matches!(item, Item::Frame(_));
        report.tables_rebuilt += u64::from(is_frame && !before_is_frame);
        before_is_frame = is_frame;
    }
    let tables: Vec<EventTableMeta> = plan
        .main
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Table(meta) => Some(*meta),
            Item::Frame(_) => None,
        })
        .collect();
    let dirty = indexes(&found.contents.index_tables, &found.indexes, &tables).1;
    report.indexes_rebuilt = dirty.len() as u64;
    if cold.is_none()
        && let Some(needed) = dirty.iter().find_map(|meta| cold_needed(found, meta))
    {
        report.warnings.push(format!("it cannot be done from here: {needed}"));
    }
    if report.is_sound() {
        return Ok(report);
    }
    if start > Sequence::ZERO && snapshots(found, plan).is_empty() {
        report.warnings.push(format!(
            "no snapshot of the state before sequence {} is left: a node cannot open the store with projections",
            start.0 + 1
        ));
    }
    let had_a_log = found.contents.log_begun || !found.log_files.is_empty();
    if had_a_log && !plan.log_kept {
        report.warnings.push(format!(
            "the log is put aside: whether it held more behind sequence {} than is listed cannot be told",
            found.last_known.max(plan.end)
        ));
    }
    let mut files = aside(found, plan);
    let objects = objects_aside(found, plan);
    // What has become an object has no file here.
    for (meta, _) in &objects {
        let path = meta.file().path();
        if files.contains(&path) && !exists(&**disk, &path)? {
            files.remove(&path);
        }
    }
    report.files_aside = files.iter().map(|path| path.display().to_string()).collect();
    report.objects_aside = objects.iter().map(|(_, object)| object.key.clone()).collect();
    report.directory = Some(free_directory(&**disk)?);
    Ok(report)
}

fn free_directory(disk: &dyn Disk) -> Result<String, DiskError> {
    let entries = disk.list(Path::new(""))?;
    let taken = entries.iter().filter_map(|entry| entry.name.strip_prefix(SALVAGE)?.parse::<u64>().ok());
    Ok(format!("{SALVAGE}{}", taken.max().unwrap_or(0) + 1))
}

pub(super) fn act(
    disk: &Arc<dyn Disk>,
    found: Found,
    plan: Plan,
    mut report: SalvageReport,
    cold: Option<&Arc<dyn ColdStore>>,
    lock: Box<dyn DiskLock>,
    progress: &mut dyn FnMut(SalvageProgress),
) -> Result<SalvageReport, SalvageError> {
    let directory = PathBuf::from(report.directory.clone().expect("named when there is something to do"));
    for path in [directory.clone(), directory.join(TABLES), directory.join(WAL)] {
        disk.create_directory(&path)?;
    }
    ensure_directory(&**disk, Path::new(TABLES))?;
    let mut say = |file: &Path| {
        progress(SalvageProgress { file: file.to_path_buf(), bytes: 0, bytes_total: 0 });
    };

    // New files first: until the manifest names them they are nothing.
    let mut contents = Contents::empty(found.tape);
    contents.log_begun = plan.log_kept && !found.log_files.is_empty();
    contents.holds.clone_from(&found.contents.holds);
    contents.cold.clone_from(&found.contents.cold);
    let objects = objects_aside(&found, &plan);
    objects.iter().for_each(|(meta, _)| contents.apply(Edit::RemovedCold(meta.number)));
    let end = plan.main.end().last_sequence;
    contents.released = found.contents.released.iter().filter(|facts| facts.last <= end).copied().collect();
    say(Path::new("new tables"));
    let (tables, next_file) = write_tables(disk, &found, &plan)?;
    if !plan.log_kept {
        let facts = facts_of_the_log(disk, &found, &contents.released, &tables)?;
        report.roots_kept = facts.len() as u64;
        contents.released.extend(facts);
    }
    report.tables_rebuilt = tables.iter().filter(|table| table.number >= found.next_file).count() as u64;
    let (kept, dirty) = indexes(&found.contents.index_tables, &found.indexes, &tables);
    kept.into_iter().for_each(|index| contents.apply(Edit::AddIndex(index)));
    let (edits, number) = make_indexes(disk, &found, &dirty, cold, next_file, &mut say)?;
    edits.into_iter().for_each(|edit| contents.apply(edit));
    report.indexes_rebuilt = dirty.len() as u64;
    tables.into_iter().for_each(|table| contents.apply(Edit::AddEvents(table)));
    snapshots(&found, &plan).into_iter().for_each(|meta| contents.apply(Edit::AddSnapshot(meta)));
    contents.apply(Edit::NextFile(number));
    if !contents.event_tables.is_empty() && plan.main.start.last_sequence > Sequence::ZERO {
        contents.apply(Edit::FirstKept(plan.main.start.last_sequence.next()));
    }

    // What is damaged gets its second name before the switch and loses its first one after it: it is never without.
    write_frames_aside(&**disk, &directory, &frames_aside(&found, &plan), &mut report)?;
    write_objects_aside(&**disk, &directory, &objects, &mut report)?;
    let mut files = Vec::new();
    for path in aside(&found, &plan) {
        if exists(&**disk, &path)? {
            say(&path);
            put_aside(&**disk, &path, &directory.join(&path))?;
            files.push(path);
        }
    }
    for path in [directory.join(TABLES), directory.join(WAL), directory.clone(), PathBuf::new()] {
        disk.sync_directory(&path)?;
    }
    Manifest::write(disk, contents, found.generation + 1)?;
    for path in files.iter().filter(|path| *path != Path::new(MANIFEST)) {
        disk.remove(path)?;
    }
    disk.sync_directory(Path::new(TABLES))?;
    if !found.log_files.is_empty() {
        disk.sync_directory(Path::new(WAL))?;
    }
    drop(lock);

    let wrong = |error: OpenError| SalvageError::ReadBack(Box::new(error));
    let options =
        ReadOnlyOptions { cluster: found.cluster, cold: cold.cloned(), ..ReadOnlyOptions::default() };
    let store = ReadOnlyStore::open(Arc::clone(disk), options).map_err(wrong)?;
    let verified = store.verify(&mut |step| {
        progress(SalvageProgress {
            file: PathBuf::from(step.file),
            bytes: step.bytes,
            bytes_total: step.bytes_total,
        });
    });
    report.verified = Some(verified.map_err(|error| wrong(OpenError::Read(error)))?);
    report.applied = true;
    Ok(report)
}

/// Facts of those sealed segments of a log that is put aside that are sound and whose events the store has: their roots may have been
/// published, and a proof of that range stays possible.
fn facts_of_the_log(
    disk: &Arc<dyn Disk>,
    found: &Found,
    released: &[SegmentFacts],
    tables: &[EventTableMeta],
) -> Result<Vec<SegmentFacts>, SalvageError> {
    let options = WalOptions { cluster: found.cluster, ..WalOptions::default() };
    let config = options.config(Head::empty(found.tape), Sequence::ZERO);
    let mut known = released.last().map_or(Sequence::ZERO, |facts| facts.last);
    let mut kept = Vec::new();
    for segment in collect::sound_segments(disk, &found.log_files, &config)? {
        let (Some(facts), Some(sealed)) = (SegmentFacts::of(&segment), segment.sealed) else { continue };
        let table = tables.iter().find(|table| (table.first()..=table.last()).contains(&facts.last));
        let Some(table) = table.filter(|table| !found.contents.cold.contains_key(&table.number)) else {
            continue;
        };
        if facts.first <= known {
            continue;
        }
        // Its last frame is one of the store's, and with it by their chain all before: it is of no other life of the tape.
        let mut is_ours = false;
        rebuild::for_each_frame::<TableError>(disk, table, None, |frame| {
            is_ours |= frame.header().head() == sealed.ends;
            Ok(())
        })?;
        if is_ours {
            known = facts.last;
            kept.push(facts);
        }
    }
    Ok(kept)
}

/// The object that an index over this table has to be made from.
fn cold_needed(found: &Found, meta: &EventTableMeta) -> Option<SalvageError> {
    let object = found.contents.cold.get(&meta.number)?;
    let (key, first, last) = (object.key.clone(), meta.first().0, meta.last().0);
    Some(SalvageError::ColdNeeded { key, first, last })
}

/// An index table for each of these event tables, wherever their events are.
fn make_indexes(
    disk: &Arc<dyn Disk>,
    found: &Found,
    tables: &[EventTableMeta],
    cold: Option<&Arc<dyn ColdStore>>,
    mut next_file: u64,
    say: &mut dyn FnMut(&Path),
) -> Result<(Vec<Edit>, u64), SalvageError> {
    let mut edits = Vec::new();
    for meta in tables {
        say(&meta.file().path());
        let object = found.contents.cold.get(&meta.number);
        let from = match (object, cold) {
            (None, _) => None,
            (Some(object), Some(store)) => {
                Some(ColdTable { store: Arc::clone(store), object: object.clone() })
            }
            (Some(_), None) => return Err(cold_needed(found, meta).expect("it is an object")),
        };
        let made = rebuild::index_table(disk, meta, from, next_file);
        edits.push(Edit::AddIndex(made.map_err(|error| match object {
            Some(_) => {
                let (first, last, source) = (meta.first().0, meta.last().0, Box::new(error));
                SalvageError::Cold { first, last, source }
            }
            None => error.into(),
        })?));
        next_file += 1;
    }
    Ok((edits, next_file))
}

fn ensure_directory(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    match disk.create_directory(path) {
        Err(error) if !error.is_existing() => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Asked of the directory: a file that this process may not open is there all the same.
fn exists(disk: &dyn Disk, path: &Path) -> Result<bool, DiskError> {
    match disk.list(path.parent().unwrap_or(Path::new(""))) {
        Ok(entries) => Ok(entries.iter().any(|entry| Some(entry.name.as_ref()) == path.file_name())),
        Err(error) if error.is_missing() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The event tables of the store: those that are whole, and new ones for the frames between them.
fn write_tables(
    disk: &Arc<dyn Disk>,
    found: &Found,
    plan: &Plan,
) -> Result<(Vec<EventTableMeta>, u64), SalvageError> {
    let mut tables = Vec::new();
    let mut next_file = found.next_file;
    let mut head = plan.main.start;
    let mut builder: Option<TableBuilder<'_>> = None;
    let close = |builder: Option<TableBuilder<'_>>, next_file: &mut u64, tables: &mut Vec<EventTableMeta>| {
        let Some(builder) = builder else { return Ok(()) };
        let (edits, next) = builder.finish()?;
        *next_file = next;
        tables.extend(edits.into_iter().filter_map(|edit| match edit {
            Edit::AddEvents(meta) => Some(meta),
            _ => None,
        }));
        Ok::<_, DiskError>(())
    };
    for item in &plan.main.items {
        match item {
            Item::Table(meta) => {
                close(builder.take(), &mut next_file, &mut tables)?;
                tables.push(*meta);
                head = meta.footer.after;
            }
            Item::Frame(loose) => {
                let into = builder.get_or_insert_with(|| TableBuilder::of_events(&**disk, head, next_file));
                let added = Found::with_frame(&**disk, loose, |frame| into.add(frame))?;
                added.ok_or_else(|| unreadable(loose))??;
                head = loose.header.head();
            }
        }
    }
    if let Some(epoch) = plan.epoch {
        let mut memory = AlignedBytes::zeroed(FRAME_BYTES_MAX);
        let frame = begin_epoch(head, epoch, &mut memory);
        let into = builder.get_or_insert_with(|| TableBuilder::of_events(&**disk, head, next_file));
        into.add(&frame)?;
    }
    close(builder.take(), &mut next_file, &mut tables)?;
    Ok((tables, next_file))
}

fn unreadable(loose: &LooseHeader) -> DiskError {
    let source = std::io::Error::other(format!(
        "the frame of sequence {} was readable a moment ago and is not any more",
        loose.header.first_sequence
    ));
    DiskError::new(crate::disk::Operation::Read, Path::new(WAL), source)
}

/// Frames that cannot be part of the store, one file per stretch.
fn write_frames_aside(
    disk: &dyn Disk,
    directory: &Path,
    frames: &[&LooseHeader],
    report: &mut SalvageReport,
) -> Result<(), DiskError> {
    let follows = |left: &&LooseHeader, right: &&LooseHeader| {
        left.header.last_sequence().next() == right.header.first_sequence
    };
    for stretch in frames.chunk_by(follows) {
        let (first, last) =
            (stretch[0].header.first_sequence, stretch[stretch.len() - 1].header.last_sequence());
        // Two lines of the tape may hold the same sequences.
        let mut path = directory.join(format!("{first}-{last}.frames"));
        let mut copy = 1;
        while exists(disk, &path)? {
            copy += 1;
            path = directory.join(format!("{first}-{last}.{copy}.frames"));
        }
        let file = disk.open(&path, Access::CreateNew, Caching::Buffered)?;
        let mut at = 0;
        for loose in stretch {
            let written = Found::with_frame(disk, loose, |frame| {
                file.write_at(frame.bytes(), at).map(|()| frame.bytes().len() as u64)
            })?;
            at += written.transpose()?.unwrap_or(0);
        }
        file.sync_all()?;
        report.files_aside.push(path.display().to_string());
    }
    Ok(())
}

/// What has to be known of objects to get at their events: one line each.
fn write_objects_aside(
    disk: &dyn Disk,
    directory: &Path,
    objects: &[(&EventTableMeta, &ColdObject)],
    report: &mut SalvageReport,
) -> Result<(), DiskError> {
    if objects.is_empty() {
        return Ok(());
    }
    let mut text =
        String::from("# object of the cold tier | table | first sequence | last | bytes | BLAKE3\n");
    for (meta, object) in objects {
        let (table, hash) = (meta.file().path(), blake3::Hash::from(object.hash));
        let (first, last) = (meta.first(), meta.last());
        writeln!(text, "{} | {} | {first} | {last} | {} | {hash}", object.key, table.display(), object.bytes)
            .expect("a string takes everything");
    }
    let path = directory.join(OBJECTS);
    let file = disk.open(&path, Access::CreateNew, Caching::Buffered)?;
    file.write_at(text.as_bytes(), 0)?;
    file.sync_all()?;
    report.files_aside.push(path.display().to_string());
    Ok(())
}

/// Gives a file a second name; where there are no links, a copy of what can be read of it.
fn put_aside(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), DiskError> {
    match disk.hard_link(from, to) {
        Ok(()) => return Ok(()),
        Err(error) if error.is_full() => return Err(error),
        Err(_) => {}
    }
    let (source, target) = (
        disk.open(from, Access::Read, Caching::Buffered)?,
        disk.open(to, Access::CreateNew, Caching::Buffered)?,
    );
    let mut buffer = vec![0; COPY_BYTES];
    let length = source.len_bytes()?;
    let mut at = 0;
    while at < length {
        let left = usize::try_from(length - at).unwrap_or(usize::MAX);
        let wanted = COPY_BYTES.min(left);
        match source.read_at(&mut buffer[..wanted], at) {
            Ok(read) => target.write_at(&buffer[..read], at)?,
            // Some of it may be readable: block by block, and a block that is not stays zeros.
            Err(_) => {
                for block in (0..wanted).step_by(BLOCK_BYTES) {
                    let (at, wanted) = (at + block as u64, BLOCK_BYTES.min(wanted - block));
                    if let Ok(read) = source.read_at(&mut buffer[..wanted], at) {
                        target.write_at(&buffer[..read], at)?;
                    }
                }
            }
        }
        at += wanted as u64;
    }
    target.set_len(length)?;
    target.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{Fault, SimDisk};

    #[test]
    fn a_copy_lacks_the_blocks_that_cannot_be_read_and_no_more() {
        let disk = SimDisk::new(1);
        let (from, to) = (Path::new("damaged"), Path::new("aside"));
        let bytes: Vec<u8> = (0..COPY_BYTES + 3 * BLOCK_BYTES + 5).map(|at| (at % 251) as u8).collect();
        disk.open(from, Access::CreateNew, Caching::Buffered).unwrap().write_at(&bytes, 0).unwrap();
        let bad = 2 * BLOCK_BYTES..3 * BLOCK_BYTES;
        disk.make_unreadable(from, bad.start as u64 + 7..bad.start as u64 + 8);
        // No second names here.
        disk.fail_next(Fault::Eio);
        put_aside(&disk, from, to).unwrap();
        let mut expected = bytes;
        expected[bad].fill(0);
        assert!(disk.content(to).unwrap() == expected);
    }
}
