//! The event store: append (through its log), read, watermarks. Owns the data directory.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::Duration;

use matchtape_schemas::{AcceptedTime, Head, Projection, Sequence, TapeId};
use parking_lot::Mutex;

use crate::archive::cold;
use crate::archive::{ColdPolicy, ColdProgress, ColdPushError, ColdReport, ColdStep};
use crate::backup::{Copy, CopyError, CopyProgress, CopyReport, Link, Point, Source};
use crate::chunk::Chunk;
use crate::compaction::choose::Shape;
use crate::compaction::{CompactError, CompactProgress, CompactionTotals, Outcome};
use crate::disk::{Disk, DiskLock};
use crate::flush::FlushError;
use crate::gauge::StoreGauge;
use crate::guard::caught;
use crate::ingest::{Ingest, StoreFirst};
use crate::inspect::{self, Inspection};
use crate::manifest::{Contents, Edit, LegalHold};
use crate::open::{self, OpenError, Opened, RecoveryReport};
use crate::options::{Compression, StoreMistakes, StoreOptions, Workers};
use crate::pins::{Pin, PinError, PinKind, PinView, Pins};
use crate::pressure::Pressure;
use crate::read::{ReadError, Reader};
use crate::retention::{self, RetentionChoice, RetentionError, RetentionPolicy};
use crate::scrub::ScrubMarks;
use crate::segment_facts::SegmentFacts;
use crate::snapshot::Snapshot;
use crate::verify::{self, VerifyProgress, VerifyReport};
use crate::visible::VisibleGate;
use crate::wal::{
    CommitObserver, Committed, GroupCommit, GroupCommitOptions, Segments, SpaceProblem, WalConfig, WalReader,
    Writer,
};

/// A tape on disk, open for writing by this process alone.
///
/// ```text
/// framing -> log (group commit) -> observer: memtable, then the node's own -> visible gate -> readers
///                                            memtable -> indexing thread; flushing thread -> tables, snapshot, manifest
/// ```
///
/// There is no `append` of one event and no `append_batch` here: events come in as frames ([`GroupCommit::append`]), which
/// whoever gives out positions has written. To a producer, `append` is the node's `Publisher::publish` and `append_batch` its
/// `publish_group`; each is a group, on the tape as a whole or not at all. Events that do not depend on each other are published one
/// by one, as groups of their own: they still share frames and syncs, and one that is refused takes no other with it.
///
/// Dropping it is like a crash: safe, but the tail is replayed at the next start. [`EventStore::close`] flushes.
#[derive(Debug)]
pub struct EventStore {
    log: OnceLock<GroupCommit>,
    writer: Mutex<Option<Writer>>,
    wal_config: WalConfig,
    segments: Segments,
    ingest: Arc<Ingest>,
    head: Head,
    at_head: Snapshot,
    pins: Pins,
    /// Held while tables move to the cold tier and objects are removed there.
    pushing: Mutex<()>,
    mistakes: StoreMistakes,
    workers: Vec<JoinHandle<()>>,
    /// Given back last: when no thread of this store can write any more.
    _lock: Box<dyn DiskLock>,
}

impl EventStore {
    /// Opens the store on `disk`, or creates it, and brings `projections` to its head.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: StoreOptions,
        projections: Vec<Box<dyn Projection>>,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        let opened = open::open(disk, &options, projections)?;
        let Opened { lock, ingest, writer, wal_config, segments, head, at_head, report } = opened;
        let mut workers = Vec::new();
        match options.workers {
            Workers::Caller => {}
            Workers::Threads => {
                let worker = |name: &'static str, niceness: i32, run: fn(&Ingest)| {
                    let ingest = Arc::clone(&ingest);
                    std::thread::Builder::new()
                        .name(name.to_owned())
                        .spawn(move || {
                            give_way(niceness);
                            if let Err(message) = caught(|| run(&ingest)) {
                                let thread = name.to_owned();
                                ingest.flusher.fail(FlushError::Panicked { thread, message });
                            }
                        })
                        .expect("the system can start a thread")
                };
                workers.push(worker("store-index", 10, Ingest::run_indexer));
                workers.push(worker("store-flush", 10, Ingest::run_flusher));
                // Nobody waits for it, so it goes last.
                workers.push(worker("store-compact", 19, Ingest::run_compactor));
                if options.scrub.bytes_per_second > 0 {
                    workers.push(worker("store-scrub", 19, Ingest::run_scrubber));
                }
            }
        }
        let pins = Pins::new(ingest.shared.view().first_kept());
        let store = Self {
            log: OnceLock::new(),
            writer: Mutex::new(Some(writer)),
            wal_config,
            segments,
            ingest,
            head,
            at_head,
            pins,
            pushing: Mutex::new(()),
            mistakes: options.mistakes(),
            workers,
            _lock: lock,
        };
        Ok((store, report))
    }

    /// The tape.
    pub fn tape(&self) -> TapeId {
        self.head.tape
    }

    /// Where the tape stood when the store was opened: what the first frame has to continue.
    pub fn head(&self) -> Head {
        self.head
    }

    /// A projection's state at [`EventStore::head`], for a copy of it to restore.
    pub fn projection_section(&self, name: &str) -> Option<&[u8]> {
        self.at_head.section(name).map(|section| section.bytes.as_slice())
    }

    /// Starts the log's thread. When `observer` hears of a commit, the commit can already be read (behind the gate).
    ///
    /// # Panics
    /// If the log was started, or its writer taken, before.
    pub fn start_log(&self, observer: impl CommitObserver, options: GroupCommitOptions) -> &GroupCommit {
        let writer = self.writer.lock().take().expect("the log is taken once");
        let observer = StoreFirst { ingest: Arc::clone(&self.ingest), next: observer };
        let log = GroupCommit::start(writer, observer, options);
        assert!(self.log.set(log).is_ok(), "whoever takes the writer starts the log");
        self.wal()
    }

    /// The log, started.
    ///
    /// # Panics
    /// If it was not started.
    #[inline]
    pub fn wal(&self) -> &GroupCommit {
        self.log.get().expect("the log was started")
    }

    /// The log's writer, for use in one thread; each of its commits has to be handed to [`EventStore::committed`]. `None`
    /// if it was taken, or the log started, before.
    pub fn take_writer(&self) -> Option<Writer> {
        self.writer.lock().take()
    }

    /// Takes in a commit of the writer that was taken.
    pub fn committed(&self, committed: &Committed) {
        self.ingest.take(Chunk::of_commit(Arc::clone(&committed.commit)));
        self.ingest.made_durable(committed.durable);
    }

    /// The writer that was taken has synced up to here outside a commit: so far may be flushed.
    pub fn made_durable(&self, durable: Sequence) {
        self.ingest.made_durable(durable);
    }

    /// The log's segments.
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// The one gate of all readers; the node raises it.
    pub fn visible(&self) -> &Arc<VisibleGate> {
        &self.ingest.shared.visible
    }

    /// A reader; any number may be made, and cloned.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.ingest.shared))
    }

    /// Says when new events should be refused for want of disk space. What was accepted is kept, and goes on when there is room.
    pub fn space_problem(&self) -> SpaceProblem {
        self.ingest.space.clone()
    }

    /// How far indexing and flushing are behind.
    pub fn pressure(&self) -> Pressure {
        self.ingest.pressure()
    }

    /// Tells beside the store's owner how it is: how fast events are taken, what was done, what there is.
    pub fn gauge(&self) -> StoreGauge {
        StoreGauge::new(Arc::clone(&self.ingest), self.segments.clone(), self.pins.clone())
    }

    /// The failure that ended indexing or flushing, if one did: nothing more should be appended, for memory would only
    /// fill, and the store has to be opened again. What was accepted is in the log.
    pub fn health(&self) -> Result<(), Arc<FlushError>> {
        self.ingest.flusher.failure().map_or(Ok(()), |failure| Err(Arc::clone(failure)))
    }

    /// Indexes and flushes everything that is visible and durable, and snapshots the projections there; returns the last event in
    /// tables.
    pub fn flush(&self) -> Result<Sequence, FlushError> {
        self.ingest.seal_visible();
        // Where nothing syncs what is written, tables wait for the log, and on a quiet tape nothing else would ask it.
        if let Some(log) = self.log.get() {
            log.ask_for_sync();
        }
        self.ingest.flush_and_release()
    }

    /// Lets go of the sealed segments of the log whose every event is at or below `through` and in tables; what is known of
    /// them stays in the manifest. Their files serve new segments, or are removed. Returns the first event that the log still
    /// holds. The store does this by itself after a flush, see [`StoreOptions::log_kept_bytes`].
    pub fn release_log(&self, through: Sequence) -> Result<Sequence, FlushError> {
        self.ingest.release_log(through, 0)
    }

    /// What is known of every sealed segment there ever was since the store was made, oldest first, whether the log still
    /// holds it or not. A segment that is sealed while this is called may be missing.
    pub fn segment_facts(&self) -> Vec<SegmentFacts> {
        let sealed: Vec<SegmentFacts> = self.segments.list().iter().filter_map(SegmentFacts::of).collect();
        let mut facts = self.ingest.flusher.with_contents(|contents| contents.released.clone());
        let known = facts.last().map_or(Sequence::ZERO, |facts| facts.last);
        facts.extend(sealed.into_iter().filter(|facts| facts.last > known));
        facts
    }

    /// Merges index tables until level 0 is empty and every level within its limit, and small event tables with their
    /// neighbours. `go_on` is told how far it is after every few milliseconds of work, and ends it with `false`: what was
    /// merged until then stays merged. Returns what was done.
    pub fn compact(
        &self,
        go_on: &mut dyn FnMut(CompactProgress) -> bool,
    ) -> Result<CompactionTotals, CompactError> {
        let before = self.compaction_totals();
        let shape = Shape { level0_tables: 1, ..self.ingest.compactor.options.shape() };
        let mut bytes_written = 0;
        loop {
            let outcome = self.ingest.compact_one(&shape, &mut |written| {
                bytes_written += written;
                let view = self.ingest.shared.view();
                let progress = CompactProgress {
                    bytes_written,
                    level0_tables: view.level0_tables() as u64,
                    index_tables: view.index_tables.len() as u64,
                    event_tables: view.event_tables.len() as u64,
                };
                drop(view);
                go_on(progress)
            })?;
            if outcome != Outcome::Done {
                self.ingest.shared.sweep();
                return Ok(self.compaction_totals() - before);
            }
        }
    }

    /// Writes the event tables on the local disk anew that are not compressed in this way, one after the other. `go_on` as for
    /// [`EventStore::compact`].
    pub fn recompress(
        &self,
        compression: Compression,
        go_on: &mut dyn FnMut(CompactProgress) -> bool,
    ) -> Result<CompactionTotals, CompactError> {
        let before = self.compaction_totals();
        let (shared, flusher) = (&self.ingest.shared, &self.ingest.flusher);
        let view = shared.view();
        let mut progress = CompactProgress {
            bytes_written: 0,
            level0_tables: view.level0_tables() as u64,
            index_tables: view.index_tables.len() as u64,
            event_tables: view.event_tables.len() as u64,
        };
        for table in &view.event_tables {
            let outcome = self.ingest.compactor.rewrite(
                shared,
                flusher,
                table.meta.number,
                compression,
                &mut |written| {
                    progress.bytes_written += written;
                    go_on(progress)
                },
            )?;
            if outcome == Outcome::Stopped {
                break;
            }
        }
        drop(view);
        shared.sweep();
        Ok(self.compaction_totals() - before)
    }

    /// What compaction has done since the store was opened.
    pub fn compaction_totals(&self) -> CompactionTotals {
        self.ingest.compactor.totals()
    }

    /// The failure of the last try to compact, if it failed: nothing is lost, but tables become more until a later try does better,
    /// or, where [`EventStore::compact`] says [`CompactError::Ended`], until the store is opened again.
    pub fn compaction_health(&self) -> Result<(), Arc<CompactError>> {
        self.ingest.compactor.failure().map_or(Ok(()), Err)
    }

    /// Memtables that became tables since the store was opened.
    pub fn flushes(&self) -> u64 {
        self.ingest.flusher.flushes()
    }

    /// The last event in tables.
    pub fn flushed_through(&self) -> Sequence {
        crate::flush::flushed_through(&self.ingest.shared)
    }

    /// Which files there are and what is in them.
    pub fn inspect(&self) -> Inspection {
        let written = self.ingest.written();
        inspect::inspect(&self.ingest.shared, &self.segments.list(), Some(self.ingest.pressure()), written)
    }

    /// Keeps events from `from` on until the returned guard is dropped, within the limits of the retention policy.
    pub fn pin(&self, kind: PinKind, name: &str, from: Sequence) -> Result<Pin, PinError> {
        self.pins.pin(kind, name, from)
    }

    /// The pins that are set.
    pub fn pins(&self) -> Vec<PinView> {
        self.pins.list()
    }

    /// Places a legal hold, or moves the one of that name back: nothing from `from` on is dropped until it is lifted. Durable on
    /// return. Moved forward it would let go of what it keeps: that takes [`EventStore::lift_hold`].
    pub fn hold(&self, name: &str, from: Sequence, now: AcceptedTime) -> Result<(), HoldError> {
        crate::pins::check_name(name)?;
        if name.chars().any(char::is_control) {
            return Err(HoldError::Characters);
        }
        let last = self.ingest.shared.visible.get();
        if from > last.next() {
            return Err(HoldError::Beyond { asked: from, last });
        }
        let hold = LegalHold { name: name.to_owned(), from: from.max(Sequence::FIRST), placed: now };
        self.ingest.flusher.decide_files(&self.ingest.shared, |contents| {
            let first_kept = contents.event_tables.first().map_or(contents.first_kept, |table| table.first());
            if hold.from < first_kept {
                return Err(PinError::BelowRetention { asked: hold.from, first_kept }.into());
            }
            if let Some(there) =
                contents.holds.iter().find(|there| there.name == hold.name && there.from < hold.from)
            {
                return Err(HoldError::Forward { asked: hold.from, from: there.from });
            }
            Ok(((), vec![Edit::Hold(hold)]))
        })
    }

    /// Lifts a legal hold; `false` if there is none of that name. Durable on return.
    pub fn lift_hold(&self, name: &str, now: AcceptedTime) -> Result<bool, HoldError> {
        self.ingest.flusher.decide_files(&self.ingest.shared, |contents| {
            let there = contents.holds.iter().any(|hold| hold.name == name);
            let hold = LegalHold { name: name.to_owned(), from: Sequence::ZERO, placed: now };
            Ok((there, if there { vec![Edit::Hold(hold)] } else { Vec::new() }))
        })
    }

    /// Moves event tables to the cold tier: each is uploaded, read back and compared, then the manifest says so, and then
    /// its local file goes with its last reader. Objects of tables that retention has dropped are removed. It runs only
    /// when called, and while it does, retention leaves alone what is being uploaded; another call waits until it is done.
    /// `progress` may stop it; what was moved stays moved.
    pub fn push_cold(
        &self,
        policy: &ColdPolicy,
        progress: &mut dyn FnMut(ColdProgress) -> ControlFlow<()>,
    ) -> Result<ColdReport, ColdPushError> {
        let (shared, flusher) = (&*self.ingest.shared, &self.ingest.flusher);
        let _alone = self.pushing.lock();
        if let Some(compression) = policy.compression
            && !self.compress_before_push(policy, compression, progress)?
        {
            return Ok(ColdReport { stopped: true, ..ColdReport::default() });
        }
        let mut report = cold::push(shared, flusher, &self.pins, policy, progress)?;
        if !report.stopped {
            cold::collect(shared, flusher, progress, &mut report)?;
        }
        Ok(report)
    }

    /// `false`: the caller said stop.
    fn compress_before_push(
        &self,
        policy: &ColdPolicy,
        compression: Compression,
        progress: &mut dyn FnMut(ColdProgress) -> ControlFlow<()>,
    ) -> Result<bool, ColdPushError> {
        let (shared, flusher) = (&*self.ingest.shared, &self.ingest.flusher);
        let chosen = flusher.with_contents(|contents| cold::choose(contents, policy));
        let bytes_total = chosen.iter().map(|table| table.bytes).sum();
        let mut bytes = 0;
        for meta in chosen {
            let step = ColdProgress {
                name: meta.file().path().display().to_string(),
                step: ColdStep::Compressing,
                bytes,
                bytes_total,
            };
            let mut go_on = |_| progress(step.clone()).is_continue();
            let outcome =
                self.ingest.compactor.rewrite(shared, flusher, meta.number, compression, &mut go_on)?;
            if outcome == Outcome::Stopped {
                return Ok(false);
            }
            bytes += meta.bytes;
        }
        Ok(true)
    }

    /// The legal holds, by name.
    pub fn holds(&self) -> Vec<LegalHold> {
        self.ingest.shared.view().holds.clone()
    }

    /// What [`EventStore::retain`] would drop now, and why not more.
    pub fn plan_retention(
        &self,
        policy: &RetentionPolicy,
        now: AcceptedTime,
    ) -> Result<RetentionChoice, ReadError> {
        let contents = self.ingest.flusher.with_contents(Contents::clone);
        retention::plan(&self.scope(&self.reader(), policy, now), &contents, &self.pins.list())
    }

    fn scope<'a>(
        &'a self,
        reader: &'a Reader,
        policy: &'a RetentionPolicy,
        now: AcceptedTime,
    ) -> retention::Scope<'a> {
        retention::Scope { reader, shared: &self.ingest.shared, policy, now }
    }

    /// Drops the old events, indexes and snapshots that nothing needs any more.
    /// It runs only when called: after everyone who needs old events has had the chance to pin them.
    pub fn retain(
        &self,
        policy: &RetentionPolicy,
        now: AcceptedTime,
    ) -> Result<RetentionChoice, RetentionError> {
        let reader = self.reader();
        let scope = self.scope(&reader, policy, now);
        let early = self.mistakes.files_go_before_the_manifest;
        let choice = retention::retain(&scope, &self.ingest.flusher, &self.pins, early)?;
        self.pins.note(&choice.advisories);
        Ok(choice)
    }

    /// Copies what is visible now into the empty directory `target`, while this store goes on, and reads the copy back. With
    /// `link`, files get a second name there instead of a copy.
    pub fn copy_to(
        &self,
        target: &Arc<dyn Disk>,
        link: Option<Link<'_>>,
        progress: &mut dyn FnMut(CopyProgress),
    ) -> Result<CopyReport, CopyError> {
        let mut copy = Copy::begin(target, link, progress)?;
        // Files stay as long as a view that lists them is held.
        let shared = &self.ingest.shared;
        let (contents, files, head) = self.ingest.flusher.with_contents(|contents| {
            let view = shared.view();
            (contents.clone(), view.files(), view.head())
        });
        // Also of what is sealed and still in the log, which is not copied.
        let contents = Contents { released: self.segment_facts(), ..contents };
        let source = Source { disk: &shared.disk, contents, reader: self.reader(), head };
        copy.run(&source, Point::End)?;
        drop(files);
        copy.finish()
    }

    /// Flushes, and so snapshots, if something visible has waited in memory for `interval`: so that a quiet tape, whose
    /// memtable does not fill, has snapshots too. Returns the last event in tables if it did.
    pub fn snapshot_if_due(
        &self,
        interval: Duration,
        now: AcceptedTime,
    ) -> Result<Option<Sequence>, FlushError> {
        let interval = i64::try_from(interval.as_nanos()).unwrap_or(i64::MAX);
        let waits = self.ingest.unflushed_since();
        if waits.is_some_and(|since| now.0.saturating_sub(since.0) >= interval) {
            return self.flush().map(Some);
        }
        Ok(None)
    }

    /// Reads everything and checks it: checksums, chain, every index rebuilt from the events and compared.
    pub fn verify(&self, progress: &mut dyn FnMut(VerifyProgress)) -> Result<VerifyReport, ReadError> {
        let wal = WalReader::new(
            Arc::clone(&self.ingest.shared.disk),
            self.wal_config.clone(),
            self.segments.clone(),
        );
        verify::verify(&self.ingest.shared, Some(&wal), progress)
    }

    /// Reads every sealed segment, table and snapshot on the local disk once, past the page cache, and checks each by itself, which the scrubbing
    /// thread does at its pace ([`StoreOptions::scrub`]); see [`StoreGauge::scrub`] for what was found.
    pub fn scrub(&self) -> ScrubMarks {
        let ingest = &self.ingest;
        ingest.scrubber.round(&ingest.shared, u64::MAX);
        ingest.scrubber.marks(&ingest.shared.view())
    }

    /// Closes the log, flushes what is visible and lets go of the directory. Returns the last event in tables.
    pub fn close(mut self) -> Result<Sequence, FlushError> {
        if let Some(log) = self.log.take() {
            log.close()?;
        }
        if let Some(writer) = self.writer.lock().take() {
            writer.close()?;
        }
        self.stop();
        self.flush()
    }

    fn stop(&mut self) {
        self.ingest.stop();
        for worker in self.workers.drain(..) {
            if let Err(panic) = worker.join()
                && !std::thread::panicking()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// Why a legal hold was not placed or lifted.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Its name or its place are impossible.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// It would begin further on than with the next event. What comes from now on can be held; a number beyond that is a mistake
    /// that would only be noticed when what it was meant to keep is gone.
    #[error("sequence {asked} is beyond the end of the tape, {last}: a hold begins with sequence {} at the latest", last.next())]
    Beyond {
        /// As given.
        asked: Sequence,
        /// The last event.
        last: Sequence,
    },
    /// It is there, and keeps more.
    #[error("the hold keeps everything from sequence {from} on: from {asked} on it would keep less")]
    Forward {
        /// As given.
        asked: Sequence,
        /// From where on it keeps.
        from: Sequence,
    },
    /// Its name would do something to a terminal that shows it.
    #[error("the name of a hold has no control characters")]
    Characters,
    /// The manifest could not be changed.
    #[error("cannot make the hold durable: {0}")]
    Flush(#[from] FlushError),
}

/// Lets threads that serve an event go before this one where cores are few. Not a promise, so a refusal is no error.
fn give_way(niceness: i32) {
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), niceness);
}

impl Drop for EventStore {
    fn drop(&mut self) {
        // First the log, whose last commits still come in; then the threads that work on them.
        drop(self.log.take());
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use matchtape_schemas::Epoch;

    use super::*;
    use crate::CompactionOptions;
    use crate::backup::begin_epoch;
    use crate::chunk::ChunkBuilder;
    use crate::disk::AlignedBytes;
    use crate::disk::sim::SimDisk;

    /// A store whose memtables hold one event each, and a function that gives it the next one.
    fn store_of_single_events(compaction: CompactionOptions) -> (EventStore, impl FnMut(&EventStore, u64)) {
        let options = StoreOptions {
            memtable_bytes: 1,
            workers: Workers::Caller,
            compaction,
            ..StoreOptions::default()
        };
        let (store, _) = EventStore::open(Arc::new(SimDisk::new(1)), options, Vec::new()).unwrap();
        let mut head = store.head();
        let mut memory = AlignedBytes::zeroed(1 << 12);
        let take = move |store: &EventStore, epoch| {
            let frame = begin_epoch(head, Epoch(epoch), &mut memory);
            head = frame.header().head();
            let mut chunk = ChunkBuilder::new();
            chunk.add(&frame);
            store.ingest.take(chunk.take().unwrap());
            store.visible().raise(head.last_sequence);
        };
        (store, take)
    }

    #[test]
    fn memory_that_is_flushed_while_tables_are_merged_is_free_before_the_merge_ends() {
        // Event tables are merged first, where any is small.
        for small_event_table_bytes in [0, 8 << 20] {
            let slices = CompactionOptions { slice_bytes: 1, ..CompactionOptions::default() };
            let (store, mut take) =
                store_of_single_events(CompactionOptions { small_event_table_bytes, ..slices });
            let flush = || {
                let shared = &store.ingest.shared;
                store.ingest.flusher.flush_sealed(shared, shared.visible.get()).unwrap();
            };
            (1..=6).for_each(|epoch| take(&store, epoch));
            flush();
            let mut epoch = 6;
            let mut merging = 0;
            let totals = store.compact(&mut |_| {
                if merging < 3 {
                    let oldest = Arc::downgrade(&store.ingest.shared.view().memtables[0]);
                    epoch += 1;
                    take(&store, epoch);
                    flush();
                    assert!(oldest.upgrade().is_none(), "nobody reads it any more");
                    merging += 1;
                }
                true
            });
            assert!(totals.unwrap().merges > 0 && merging == 3);
        }
    }

    #[test]
    fn memory_that_is_flushed_while_everything_is_verified_is_free_before_that_ends() {
        let (store, mut take) = store_of_single_events(CompactionOptions::default());
        let flush = || {
            let shared = &store.ingest.shared;
            store.ingest.flusher.flush_sealed(shared, shared.visible.get()).unwrap();
        };
        (1..=4).for_each(|epoch| take(&store, epoch));
        flush();
        let mut epoch = 4;
        let report = store.verify(&mut |_| {
            let oldest = Arc::downgrade(&store.ingest.shared.view().memtables[0]);
            epoch += 1;
            take(&store, epoch);
            flush();
            assert!(oldest.upgrade().is_none(), "nobody reads it any more");
        });
        // That the log has none of the events it finds, too: they were not taken from there.
        assert!(report.unwrap().findings.iter().all(|finding| finding.file.starts_with("wal")) && epoch > 6);
    }

    #[test]
    fn what_the_flush_itself_indexes_is_not_behind_any_more() {
        let options = StoreOptions { memtable_bytes: 1, workers: Workers::Caller, ..StoreOptions::default() };
        let (store, _) = EventStore::open(Arc::new(SimDisk::new(1)), options, Vec::new()).unwrap();
        let mut head = store.head();
        let mut memory = AlignedBytes::zeroed(1 << 12);
        let mut last_bytes = 0;
        for epoch in 1..=3 {
            let frame = begin_epoch(head, Epoch(epoch), &mut memory);
            (head, last_bytes) = (frame.header().head(), frame.bytes().len() as u64);
            let mut chunk = ChunkBuilder::new();
            chunk.add(&frame);
            store.ingest.take(chunk.take().unwrap());
        }
        assert_eq!(store.pressure().unindexed_bytes, 3 * last_bytes);
        store.visible().raise(head.last_sequence);
        // As when they were sealed only while the flush was under way.
        store.ingest.flusher.flush_sealed(&store.ingest.shared, head.last_sequence).unwrap();
        assert_eq!((store.ingest.flusher.flushes(), store.pressure().unindexed_bytes), (2, last_bytes));
        store.ingest.index_all();
        assert_eq!(store.pressure().unindexed_bytes, 0);
    }
}
