//! A whole store as it stood at some point, in another directory: a backup of a live store and a restore are the same
//! work.
//!
//! ```text
//!   source   | table | table | table | memory or log ...|
//!   target   | table | table | new table  |                 up to a group end; then the manifest, last
//! ```
//!
//! Tables never change once they have their name, so those wholly before the point are taken as they are: linked, where
//! both directories are on one file system and the caller says so, else copied. What is behind them is written into a table
//! of its own. No file of the log is taken: its files are overwritten when they are recycled. A store without a log begins
//! one behind its tables when it is opened for writing.
//!
//! A store in the directory `system` of the source is copied too, whole, after the tables and before the manifest: it tells of
//! the first (how far each consumer has come), is read later, and so may be ahead of the copy. Whoever opens the copy finds that
//! out, and knows which positions to take back. What is not yet proven to be durable there is left out: those events are delivered
//! again.
//!
//! The source is not locked, and nothing in it is changed. If its writer removes a file meanwhile, the copy begins again
//! from the newer manifest; files that it has already are kept. The target is a store only once its manifest is there, and
//! everything in it was then read back.
//!
//! **Not to fork the tape.** A copy up to a point before the source's end ends with an `EpochStarted` of a term
//! above any the source shows: whatever is appended to it can be told from what the source has there. Still, the two must
//! not both go on: a tape has one future.

use std::path::Path;
use std::sync::Arc;

use matchtape_schemas::event::{EpochStarted, Event, encode_event};
use matchtape_schemas::limits::FRAME_BYTES_MAX;
use matchtape_schemas::text::Text;
use matchtape_schemas::{
    AcceptedTime, Epoch, Frame, FrameFlags, FrameWriter, Head, InstrumentId, ProducerId, ProducerSequence,
    Sequence, TapeId,
};
use serde::Serialize;

use crate::archive::cold;
use crate::check::Finding;
use crate::disk::{
    Access, AlignedBytes, Caching, Disk, DiskBelow, DiskError, DiskFile, LockError, Operation, SYSTEM,
};
use crate::inspect::as_text;
use crate::manifest::{Contents, Edit, MANIFEST, Manifest};
use crate::open::{LOCK, OpenError, take_lock};
use crate::options::ReadOnlyOptions;
use crate::read::{ReadError, Reader};
use crate::read_only::ReadOnlyStore;
use crate::rebuild::{self, TableBuilder};
use crate::sstable::{EventTableMeta, TABLES, TableError, TableFile, new_path};
use crate::verify::{VerifyProgress, VerifyReport};

/// So often a copy begins again when the writer of its source has removed a file meanwhile.
const ATTEMPTS_MAX: usize = 20;
/// Bytes copied at once.
const COPY_BYTES: usize = 1 << 20;
/// What a manifest is called whose store did not read back as it should.
const UNSOUND: &str = "manifest.unsound";

/// How far a copy goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Point {
    /// Everything that is visible.
    #[default]
    End,
    /// To the last group that ends at or before this event.
    Sequence(Sequence),
    /// To the last group of a frame that was accepted at or before this time.
    Time(AcceptedTime),
}

/// Gives a file of the source a second name in the target; `false` if that cannot be, so that it is copied.
pub type Link<'a> = &'a dyn Fn(&Path) -> Result<bool, DiskError>;

/// What a copy is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyProgress {
    /// Files are linked or copied, or written anew.
    Copying {
        /// Which file.
        file: String,
        /// Bytes done.
        bytes: u64,
        /// Bytes in all.
        bytes_total: u64,
    },
    /// Everything is read back.
    Verifying(VerifyProgress),
}

/// What a copy has made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CopyReport {
    /// The tape, in hexadecimal.
    pub tape: String,
    /// The first event in it.
    pub first_kept: u64,
    /// The last event taken from the source.
    pub through: u64,
    /// When its frame was accepted, ns.
    #[serde(serialize_with = "as_text")]
    pub accepted_time: i64,
    /// The last event of the source when it was read.
    pub source_last: u64,
    /// The term that was begun behind `through`, because the source goes on there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch_started: Option<u64>,
    /// Files that have a second name now.
    pub linked: u64,
    /// Files that were copied.
    pub copied: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// Events written into tables of their own, because no whole table of the source has them.
    pub events_rewritten: u64,
    /// Index tables that were made anew, because the source's reach beyond the point.
    pub indexes_rebuilt: u64,
    /// The copy of the store in `system`, if the source has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<Box<CopyReport>>,
    /// How often the source's writer was in the way.
    pub attempts: u64,
    /// What reading it back has found.
    pub verified: VerifyReport,
}

/// Why a copy was not made. The source is as it was. What is in the target is no store.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The target is not empty.
    #[error("the target is not empty: {found} is there")]
    NotEmpty {
        /// Something in it.
        found: String,
    },
    /// The source does not reach so far.
    #[error("sequence {asked} is beyond the last one, {last}")]
    Beyond {
        /// The point asked for.
        asked: Sequence,
        /// The source's last event.
        last: Sequence,
    },
    /// There is no group at or before the point.
    #[error("no group of events ends at or before the point; the first event kept is {first_kept}")]
    Nothing {
        /// The source's first event.
        first_kept: Sequence,
    },
    /// The source's store.
    #[error("source: {0}")]
    Open(Box<OpenError>),
    /// Reading the source.
    #[error("source: {0}")]
    Read(#[from] ReadError),
    /// The source's files.
    #[error("source: {0}")]
    Source(DiskError),
    /// The target's files.
    #[error("target: {0}")]
    Target(DiskError),
    /// Somebody else works in the target.
    #[error("target: {0}")]
    Lock(#[from] LockError),
    /// The source's second store could not be copied.
    #[error("in {SYSTEM}: {0}")]
    System(#[source] Box<CopyError>),
    /// What was written does not read back.
    #[error("target: it does not read back")]
    ReadBack(#[source] Box<OpenError>),
    /// What was written is not what was read: the source may be damaged.
    #[error("target: {} findings when it was read back, the first in {}: {}", findings.len(), findings[0].file, findings[0].what)]
    Unsound {
        /// What is wrong.
        findings: Vec<Finding>,
    },
}

impl From<OpenError> for CopyError {
    fn from(error: OpenError) -> Self {
        Self::Open(Box::new(error))
    }
}

impl From<TableError> for CopyError {
    fn from(error: TableError) -> Self {
        Self::Read(error.into())
    }
}

impl CopyError {
    /// Whether the source's writer may have removed a file that the manifest named a moment ago.
    fn has_moved_on(&self) -> bool {
        match self {
            Self::Source(error) => error.is_missing(),
            Self::Read(ReadError::BelowRetention { .. } | ReadError::TimeBelowRetention { .. }) => true,
            Self::Read(error) => error.is_file_missing(),
            _ => false,
        }
    }
}

/// A store to copy from, at one moment.
pub(crate) struct Source<'a> {
    pub disk: &'a Arc<dyn Disk>,
    pub contents: Contents,
    pub reader: Reader,
    pub head: Head,
}

impl ReadOnlyStore {
    /// Copies the store, which another process may be writing, up to `point` into the empty directory `target`, and reads
    /// the copy back. With `link`, files get a second name there instead of a copy: for a backup; a restored store should not
    /// share its files.
    pub fn copy_to(
        &self,
        point: Point,
        target: &Arc<dyn Disk>,
        link: Option<Link<'_>>,
        progress: &mut dyn FnMut(CopyProgress),
    ) -> Result<CopyReport, CopyError> {
        let mut copy = Copy::begin(target, link, progress)?;
        loop {
            self.refresh()?;
            // Also of what is sealed and still in the log, which is not copied.
            let contents = Contents { released: self.segment_facts()?, ..self.contents() };
            let (disk, reader, head) = (self.disk(), self.reader(), self.head());
            match copy.run(&Source { disk, contents, reader, head }, point) {
                Err(error) if error.has_moved_on() && copy.report.attempts < ATTEMPTS_MAX as u64 => {}
                outcome => return outcome.and_then(|()| copy.finish()),
            }
        }
    }
}

/// One copy under way.
pub(crate) struct Copy<'a> {
    target: &'a Arc<dyn Disk>,
    link: Option<Link<'a>>,
    progress: &'a mut dyn FnMut(CopyProgress),
    report: CopyReport,
    /// Files from this number on are the copy's own.
    made_from: Option<u64>,
    /// Where the copy's tape ends.
    head: Head,
    _lock: Box<dyn crate::disk::DiskLock>,
}

/// Nothing is there but what a copy leaves that was refused before it copied anything: a lock that nobody holds, and the
/// directory of tables with nothing in it.
fn check_empty(target: &dyn Disk) -> Result<(), CopyError> {
    let list = |path: &Path| target.list(path).map_err(CopyError::Target);
    for entry in list(Path::new(""))? {
        let harmless = entry.name == LOCK || entry.name == TABLES && list(Path::new(TABLES))?.is_empty();
        if !harmless {
            return Err(CopyError::NotEmpty { found: entry.name });
        }
    }
    Ok(())
}

impl<'a> Copy<'a> {
    pub(crate) fn begin(
        target: &'a Arc<dyn Disk>,
        link: Option<Link<'a>>,
        progress: &'a mut dyn FnMut(CopyProgress),
    ) -> Result<Self, CopyError> {
        check_empty(&**target)?;
        let lock = take_lock(&**target)?;
        match target.create_directory(Path::new(TABLES)) {
            Err(error) if !error.is_existing() => return Err(CopyError::Target(error)),
            Ok(()) | Err(_) => {}
        }
        let head = Head::empty(TapeId(0));
        Ok(Self { target, link, progress, report: CopyReport::default(), made_from: None, head, _lock: lock })
    }

    /// Brings everything over and writes the manifest.
    pub(crate) fn run(&mut self, source: &Source<'_>, point: Point) -> Result<(), CopyError> {
        self.report.attempts += 1;
        self.remove_made()?;
        let through = resolve(&source.reader, point)?;
        let contents = &source.contents;
        self.report = CopyReport {
            tape: format!("{:016x}", contents.tape.0),
            first_kept: source.reader.first_kept().0,
            through: through.0,
            source_last: source.head.last_sequence.0,
            ..self.report.clone()
        };

        let mut plan = Plan::of(contents, through);
        let whole = plan.whole;
        let files = plan.files();
        let tail_bytes = source.head.last_sequence.0.saturating_sub(whole.last_sequence.0) * 128;
        let bytes_total = files.iter().map(|(_, bytes)| bytes).sum::<u64>() + tail_bytes;
        let mut done = 0;
        for (file, bytes) in files {
            (self.progress)(CopyProgress::Copying {
                file: file.path().display().to_string(),
                bytes: done,
                bytes_total,
            });
            let object = contents.cold.get(&file.number);
            let object = object.map(|object| cold::open_object(source.reader.cold(), object));
            self.bring(&**source.disk, object, &file.path(), bytes)?;
            done += bytes;
        }
        self.target.sync_directory(Path::new(TABLES)).map_err(CopyError::Target)?;

        self.made_from = Some(plan.contents.next_file);
        (self.progress)(CopyProgress::Copying { file: "new tables".to_owned(), bytes: done, bytes_total });
        let mut next_file = plan.contents.next_file;
        for meta in &plan.reindex {
            let made = rebuild::index_table(self.target, meta, None, next_file).map_err(of_target)?;
            plan.contents.apply(Edit::AddIndex(made));
            next_file += 1;
        }
        self.report.indexes_rebuilt = plan.reindex.len() as u64;
        let target = Arc::clone(self.target);
        let builder = TableBuilder::new(&*target, whole, next_file);
        let goes_on = point != Point::End && through < source.head.last_sequence;
        let (edits, next_file) = self.write_tail(builder, source, through, goes_on)?;
        edits.into_iter().for_each(|edit| plan.contents.apply(edit));
        plan.contents.apply(Edit::NextFile(next_file));
        self.report.system = self.bring_system(source.disk)?;
        self.head = plan.contents.event_tables.last().map_or(whole, |table| table.footer.after);
        Manifest::write(self.target, plan.contents, 1).map_err(CopyError::Target)?;
        Ok(())
    }

    /// Removes what an earlier attempt has made itself: the source may use the numbers by now.
    fn remove_made(&mut self) -> Result<(), CopyError> {
        let Some(from) = self.made_from.take() else { return Ok(()) };
        for entry in self.target.list(Path::new(TABLES)).map_err(CopyError::Target)? {
            if TableFile::from_name(&entry.name).is_some_and(|table| table.number >= from) {
                self.target.remove(&Path::new(TABLES).join(&entry.name)).map_err(CopyError::Target)?;
            }
        }
        Ok(())
    }

    /// Links or copies one file, unless an earlier attempt did. It has its name only when it is whole. An `object` of the
    /// cold tier becomes a local file: the source will remove the object one day, whoever else relies on it.
    fn bring(
        &mut self,
        source: &dyn Disk,
        object: Option<Arc<dyn DiskFile>>,
        path: &Path,
        bytes: u64,
    ) -> Result<(), CopyError> {
        match self.target.open(path, Access::Read, Caching::Buffered) {
            Ok(_) => return Ok(()),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(CopyError::Target(error)),
        }
        if let Some(link) = self.link.filter(|_| object.is_none())
            && link(path).map_err(CopyError::Source)?
        {
            self.report.linked += 1;
            return Ok(());
        }
        let from = match object {
            Some(object) => object,
            None => source.open(path, Access::Read, Caching::Buffered).map_err(CopyError::Source)?,
        };
        let temporary = new_path(path);
        match self.target.remove(&temporary) {
            Ok(()) => {}
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(CopyError::Target(error)),
        }
        let to =
            self.target.open(&temporary, Access::CreateNew, Caching::Buffered).map_err(CopyError::Target)?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut at = 0;
        loop {
            let read = from.read_at(&mut buffer, at).map_err(CopyError::Source)?;
            if read == 0 {
                break;
            }
            to.write_at(&buffer[..read], at).map_err(CopyError::Target)?;
            at += read as u64;
        }
        if at != bytes {
            let what = format!("{at} bytes, where the manifest states {bytes}");
            let source = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, what);
            return Err(CopyError::Source(DiskError::new(Operation::Read, from.path(), source).at(at)));
        }
        to.sync_all().map_err(CopyError::Target)?;
        self.target.rename(&temporary, path).map_err(CopyError::Target)?;
        self.report.copied += 1;
        self.report.copied_bytes += bytes;
        Ok(())
    }

    /// Copies the source's second store to its end: what that says of events beyond the point is for whoever opens it.
    fn bring_system(&mut self, source: &Arc<dyn Disk>) -> Result<Option<Box<CopyReport>>, CopyError> {
        let Some(from) = DiskBelow::open(source, SYSTEM).map_err(CopyError::Source)? else { return Ok(None) };
        let entries = from.list(Path::new("")).map_err(CopyError::Source)?;
        // Without a manifest it was never written to: nothing was ever said to be in it.
        if !entries.iter().any(|entry| entry.name == MANIFEST) {
            return Ok(None);
        }
        let to = DiskBelow::create(self.target, SYSTEM).map_err(CopyError::Target)?;
        let outer = self.link;
        let link = |path: &Path| outer.expect("asked with one only")(&Path::new(SYSTEM).join(path));
        let link: Option<Link<'_>> = if outer.is_some() { Some(&link) } else { None };
        let to: Arc<dyn Disk> = Arc::new(to);
        let copied = ReadOnlyStore::open(Arc::new(from), ReadOnlyOptions::default())
            .map_err(CopyError::from)
            .and_then(|store| store.copy_to(Point::End, &to, link, self.progress));
        copied.map(|report| Some(Box::new(report))).map_err(|error| CopyError::System(Box::new(error)))
    }

    /// Writes the events behind the whole tables, up to the point; and, where the source goes on, the beginning of a term of
    /// its own.
    fn write_tail(
        &mut self,
        mut builder: TableBuilder<'_>,
        source: &Source<'_>,
        through: Sequence,
        goes_on: bool,
    ) -> Result<(Vec<Edit>, u64), CopyError> {
        let first = builder.head().last_sequence.next();
        let mut memory = AlignedBytes::zeroed(FRAME_BYTES_MAX);
        if first <= through {
            let mut frames = source.reader.frames(first)?;
            while builder.head().last_sequence < through {
                let Some(found) = frames.next_frame()? else {
                    return Err(CopyError::Beyond { asked: through, last: builder.head().last_sequence });
                };
                let frame = found.frame();
                if frame.last_sequence() <= through {
                    builder.add(&frame).map_err(CopyError::Target)?;
                } else {
                    let cut = cut_frame(&frame, builder.head(), through, &mut memory);
                    builder.add(&cut).map_err(CopyError::Target)?;
                }
                self.report.events_rewritten = builder.head().last_sequence.0 - first.0 + 1;
            }
        }
        self.report.accepted_time = builder.head().accepted_time.0;
        if goes_on {
            let epoch = Epoch(source.head.epoch.0.max(builder.head().epoch.0) + 1);
            let frame = begin_epoch(builder.head(), epoch, &mut memory);
            builder.add(&frame).map_err(CopyError::Target)?;
            self.report.epoch_started = Some(epoch.0);
        }
        builder.finish().map_err(CopyError::Target)
    }

    /// Reads everything back.
    pub(crate) fn finish(self) -> Result<CopyReport, CopyError> {
        let Self { target, progress, mut report, head, .. } = self;
        let verified = read_back(target, head, progress);
        if verified.is_err() {
            // So that nobody takes it for a store.
            target.rename(Path::new(MANIFEST), Path::new(UNSOUND)).map_err(CopyError::Target)?;
            target.sync_directory(Path::new("")).map_err(CopyError::Target)?;
        }
        report.verified = verified?;
        Ok(report)
    }
}

/// What is wrong with a table in the target is wrong in the source; what its disk says is the target's.
fn of_target(error: TableError) -> CopyError {
    match error {
        TableError::Disk(error) => CopyError::Target(error),
        error @ (TableError::Damage(_) | TableError::Version(_) | TableError::Feature(_)) => {
            CopyError::Read(error.into())
        }
    }
}

fn read_back(
    target: &Arc<dyn Disk>,
    head: Head,
    progress: &mut dyn FnMut(CopyProgress),
) -> Result<VerifyReport, CopyError> {
    let wrong = |error: OpenError| CopyError::ReadBack(Box::new(error));
    let store = ReadOnlyStore::open(Arc::clone(target), ReadOnlyOptions::default()).map_err(wrong)?;
    let verified = store
        .verify(&mut |step| progress(CopyProgress::Verifying(step)))
        .map_err(|error| wrong(OpenError::Read(error)))?;
    let mut findings = verified.findings.clone();
    if store.head() != head {
        let what = format!("it ends at {:?}, not at {head:?}", store.head());
        findings.push(Finding { file: MANIFEST.to_owned(), offset: None, what });
    }
    if findings.is_empty() { Ok(verified) } else { Err(CopyError::Unsound { findings }) }
}

/// The last group end at or before a point.
fn resolve(reader: &Reader, point: Point) -> Result<Sequence, CopyError> {
    let (first_kept, last) = (reader.first_kept(), reader.visible());
    match point {
        Point::End => Ok(last),
        Point::Sequence(asked) if asked > last => Err(CopyError::Beyond { asked, last }),
        Point::Sequence(asked) => group_end(reader, asked),
        Point::Time(time) => {
            // Accepted times never decrease: the first event whose frame was accepted later.
            let (mut low, mut high) = (first_kept, last.next());
            while low < high {
                let middle = Sequence(low.0 + (high.0 - low.0) / 2);
                let event = reader.event(middle)?.expect("kept and visible");
                if event.event().accepted_time() <= time { low = middle.next() } else { high = middle }
            }
            group_end(reader, low.previous())
        }
    }
}

fn group_end(reader: &Reader, at: Sequence) -> Result<Sequence, CopyError> {
    let first_kept = reader.first_kept();
    let mut from = at;
    while from >= first_kept && from > Sequence::ZERO {
        let frame = reader.frames(from)?.next_frame()?;
        let Some(found) = frame else { break };
        let frame = found.frame();
        let ends = frame.events().filter(|event| event.sequence() <= at && event.ends_group());
        if let Some(end) = ends.last() {
            return Ok(end.sequence());
        }
        from = frame.first_sequence().previous();
    }
    Err(CopyError::Nothing { first_kept })
}

/// The events of a frame up to `through`, as a frame behind `head`. No frame of the source ends there, so nothing can be
/// compared with its checksum.
fn cut_frame<'m>(
    frame: &Frame<'_>,
    head: Head,
    through: Sequence,
    memory: &'m mut AlignedBytes,
) -> Frame<'m> {
    let mut head = Head { epoch: frame.header().epoch, ..head };
    let mut writer = FrameWriter::new(memory, &head);
    for event in frame.events().filter(|event| event.sequence() <= through) {
        assert!(writer.push(event.bytes()), "a part of a frame fits a frame");
    }
    writer.finish(&mut head, frame.header().accepted_time, FrameFlags::NONE);
    Frame::decode(memory).expect("just written")
}

/// A frame with nothing but the beginning of a term.
pub(crate) fn begin_epoch(before: Head, epoch: Epoch, memory: &mut AlignedBytes) -> Frame<'_> {
    let body = EpochStarted {
        epoch,
        previous_epoch: before.epoch,
        previous_last_sequence: before.last_sequence,
        previous_checksum: before.checksum,
        writer_incarnation: 0,
        node: Text::new("restore").expect("short"),
        previous_segment_root: [0; 32],
    };
    let time =
        if before.last_sequence == Sequence::ZERO { Default::default() } else { before.max_event_time };
    let event = Event::new(InstrumentId(0), ProducerSequence(0), time, body);
    let mut bytes = AlignedBytes::zeroed(event.encoded_len());
    encode_event(&event, ProducerId::SEQUENCER, &mut bytes[..event.encoded_len()]);
    let mut head = Head { epoch, ..before };
    let mut writer = FrameWriter::new(memory, &head);
    assert!(writer.push(&bytes[..event.encoded_len()]), "one event fits a frame");
    writer.finish(&mut head, before.accepted_time, FrameFlags::NONE);
    Frame::decode(memory).expect("just written")
}

/// Which files are taken as they are.
struct Plan {
    contents: Contents,
    /// Where the tape stands behind the whole tables.
    whole: Head,
    /// Event tables whose index table reaches beyond the point.
    reindex: Vec<EventTableMeta>,
}

impl Plan {
    fn of(source: &Contents, through: Sequence) -> Self {
        let mut contents = source.clone();
        // It begins a log of its own when it is opened for writing.
        contents.log_begun = false;
        contents.cold.clear();
        contents.event_tables.retain(|table| table.last() <= through);
        let begin = source.event_tables.first().map_or(Head::empty(source.tape), |table| table.footer.before);
        let end = contents.event_tables.last().map_or(begin, |table| table.footer.after);
        let whole = end.last_sequence;
        contents.snapshots.retain(|snapshot| snapshot.sequence() <= whole);
        contents.released.retain(|facts| facts.last <= through);
        // An index table that reaches beyond the point goes, and with it all that overlap what must be indexed anew: whole
        // event tables are, so what holds a part of one goes too.
        let mut from = whole.next();
        loop {
            let reaching = source.index_tables.iter().filter(|index| index.footer.last >= from);
            let first = reaching.map(|index| index.footer.first).min().unwrap_or(from);
            let table =
                contents.event_tables.iter().find(|table| (table.first()..=table.last()).contains(&first));
            let first = table.map_or(first, EventTableMeta::first);
            if first >= from {
                break;
            }
            from = first;
        }
        contents.index_tables.retain(|index| index.footer.last < from);
        let reindex = contents.event_tables.iter().filter(|table| table.first() >= from).copied().collect();
        Self { contents, whole: end, reindex }
    }

    fn files(&self) -> Vec<(TableFile, u64)> {
        let contents = &self.contents;
        // One of the cold tier stays an object there.
        let events = contents.event_tables.iter().filter(|table| contents.names_locally(table.number));
        let events = events.map(|table| (table.file(), table.bytes));
        let indexes = contents.index_tables.iter().map(|table| (table.file(), table.bytes));
        let snapshots = contents.snapshots.iter().map(|meta| (meta.file(), meta.bytes));
        events.chain(indexes).chain(snapshots).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::contents::tests::{TAPE, events, index};

    /// Index tables that stay, and event tables that are indexed anew, when two of three event tables are taken.
    fn planned(indexes: &[Edit]) -> (Vec<u64>, Vec<u64>) {
        let mut contents = Contents::empty(TAPE);
        let tables = [events(1, 0, 10), events(2, 10, 20), events(3, 20, 30)];
        tables.into_iter().chain(indexes.iter().cloned()).for_each(|edit| contents.apply(edit));
        let plan = Plan::of(&contents, Sequence(20));
        let kept = plan.contents.index_tables.iter().map(|table| table.number).collect();
        (kept, plan.reindex.iter().map(|table| table.number).collect())
    }

    #[test]
    fn whatever_index_tables_go_every_event_that_is_taken_stays_indexed() {
        assert_eq!(planned(&[index(4, 1, 10), index(5, 11, 30)]), (vec![4], vec![2]));
        assert_eq!(planned(&[index(4, 1, 20), index(5, 21, 30)]), (vec![4], vec![]));
        // Ends inside event tables: one thing leads to another.
        assert_eq!(planned(&[index(4, 1, 10), index(5, 11, 15), index(6, 16, 30)]), (vec![4], vec![2]));
        assert_eq!(planned(&[index(4, 1, 5), index(5, 6, 15), index(6, 16, 30)]), (vec![], vec![1, 2]));
    }
}
