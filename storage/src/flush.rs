//! Memtable to tables: one event table, one index table, one snapshot, one change of the manifest, one change of what
//! readers see.
//!
//! A snapshot belongs to a flush, not to the end of a segment: here events, indexes and state come to one position at once, all of it
//! visible, so that recovery begins there with every index and folds only what the log alone has. By default that is twice
//! as often as segments end. On a tape too quiet to fill a memtable, [`EventStore::snapshot_if_due`](crate::EventStore::snapshot_if_due)
//! flushes every half hour.
//!
//! Only what is visible is flushed: tables and snapshots never hold an event that could still be retracted. And only what is
//! durable in the log, which tables must not overtake: where readers are shown what is only written, a power loss would
//! leave tables of events that the log has lost. A crash before
//! the manifest's change leaves files that nothing names; opening the store removes them. A full disk is waited for; any other
//! failure ends flushing until the store is opened again: nothing accepted is lost, the log has it all.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use matchtape_schemas::Sequence;
use parking_lot::{Mutex, MutexGuard};

use crate::disk::{Disk, DiskError};
use crate::file_header::FileKind;
use crate::fold::Fold;
use crate::guard::caught;
use crate::manifest::{Contents, Edit, Manifest};
use crate::memtable::{MemTable, Run};
use crate::options::Compression;
use crate::read::view::Shared;
use crate::snapshot::Snapshot;
use crate::sstable::{EventTableWriter, IndexTableWriter, TABLES, TableFile, install, new_path};

/// Why memory could not be written to tables.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// The disk refused.
    #[error("cannot flush: {0}")]
    Disk(#[from] DiskError),
    /// It failed before; the store has to be opened again.
    #[error("flushing ended with an earlier failure: {0}")]
    Ended(Arc<FlushError>),
    /// A thread of the store panicked: a bug, and what it was changing is in an unknown state.
    #[error("the thread {thread} panicked: {message}")]
    Panicked {
        /// The thread.
        thread: String,
        /// What it said.
        message: String,
    },
    /// The log could not be closed.
    #[error(transparent)]
    Log(#[from] crate::wal::WalError),
}

impl FlushError {
    /// Whether it was for want of space, and the same may be tried again: see [`DiskError::may_pass`].
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Disk(error) => error.may_pass(),
            Self::Log(error) => error.may_pass(),
            Self::Ended(_) | Self::Panicked { .. } => false,
        }
    }
}

/// What flushing changes; one thread at a time.
#[derive(Debug)]
pub(crate) struct Flusher {
    state: Mutex<State>,
    /// Bytes of frames that were flushed, and of the files they became.
    written: [AtomicU64; 2],
    flushes: AtomicU64,
    failure: std::sync::OnceLock<Arc<FlushError>>,
}

#[derive(Debug)]
struct State {
    manifest: Manifest,
    fold: Fold,
    compression: Compression,
}

impl Flusher {
    pub(crate) fn new(manifest: Manifest, fold: Fold, compression: Compression) -> Self {
        Self {
            state: Mutex::new(State { manifest, fold, compression }),
            written: Default::default(),
            flushes: AtomicU64::new(0),
            failure: std::sync::OnceLock::new(),
        }
    }

    /// The failure that ended flushing, if one did.
    pub(crate) fn failure(&self) -> Option<&Arc<FlushError>> {
        self.failure.get()
    }

    /// Ends flushing. The first failure is the one that is told.
    pub(crate) fn fail(&self, failure: FlushError) -> FlushError {
        let failure = Arc::new(failure);
        FlushError::Ended(Arc::clone(self.failure.get_or_init(|| failure)))
    }

    /// Whether flushing goes on.
    pub(crate) fn check(&self) -> Result<(), FlushError> {
        self.failure.get().map_or(Ok(()), |failure| Err(FlushError::Ended(Arc::clone(failure))))
    }

    /// Memtables that became tables.
    pub(crate) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// Bytes of frames that were flushed, and of the files they became.
    pub(crate) fn written(&self) -> (u64, u64) {
        let [raw, bytes] = self.written.each_ref().map(|count| count.load(Ordering::Relaxed));
        (raw, bytes)
    }

    /// Runs a step whose failure ends flushing. So does a panic in it (of a projection): what it was changing is half
    /// changed then, and nobody may go on with it.
    pub(crate) fn guarded<R>(&self, step: impl FnOnce() -> Result<R, FlushError>) -> Result<R, FlushError> {
        let done = caught(step).unwrap_or_else(|message| {
            let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
            Err(FlushError::Panicked { thread, message })
        });
        done.map_err(|failure| self.fail_unless_full(failure))
    }

    /// A full disk does not end flushing: memory still has what was to be written, and manifest and view are as they were.
    fn fail_unless_full(&self, failure: FlushError) -> FlushError {
        if failure.may_pass() { failure } else { self.fail(failure) }
    }

    /// Flushes every sealed memtable that is wholly visible and at or below `durable`, oldest first.
    pub(crate) fn flush_sealed(&self, shared: &Shared, durable: Sequence) -> Result<(), FlushError> {
        let mut state = self.state.lock();
        loop {
            self.check()?;
            let visible = shared.visible.get();
            let view = shared.view();
            let [oldest, _, ..] = view.memtables.as_slice() else { return Ok(()) };
            if oldest.last_sequence() > visible.min(durable) {
                return Ok(());
            }
            let oldest = Arc::clone(oldest);
            drop(view);
            let (raw, bytes) = self.guarded(|| state.flush(shared, &oldest))?;
            self.written[0].fetch_add(raw, Ordering::Relaxed);
            self.written[1].fetch_add(bytes, Ordering::Relaxed);
            self.flushes.fetch_add(1, Ordering::Relaxed);
            // A merge that waits to be installed comes in between: at full load there is always a next memtable.
            MutexGuard::bump(&mut state);
        }
    }

    /// Folds everything in the view that no projection had yet.
    pub(crate) fn fold_all(&self, shared: &Shared) {
        let fold = &mut self.state.lock().fold;
        for memtable in &shared.view().memtables {
            for chunk in memtable.chunks() {
                fold.add_chunk(chunk);
            }
        }
    }

    /// The state of all projections where they stand.
    pub(crate) fn folded(&self) -> Snapshot {
        self.state.lock().fold.snapshot()
    }

    /// Looks at what the manifest names now; it does not change meanwhile.
    pub(crate) fn with_contents<T>(&self, look: impl FnOnce(&Contents) -> T) -> T {
        look(self.state.lock().manifest.contents())
    }

    /// Numbers for `count` new files. They are spent even if nothing comes of it.
    pub(crate) fn take_files(&self, count: u64) -> std::ops::Range<u64> {
        let first = self.state.lock().manifest.take_files(count);
        first..first + count
    }

    /// Makes a change of the manifest durable.
    pub(crate) fn edit_manifest(&self, edits: Vec<Edit>) -> Result<(), DiskError> {
        self.state.lock().manifest.append(edits)
    }

    /// Changes which files there are: `decide` sees what there is now and says what to edit; the edits are made durable,
    /// readers get the new files, and those that are gone are removed when nobody reads them any more. Nothing to edit
    /// changes nothing. A failure ends flushing: what the manifest holds is not known.
    pub(crate) fn change_files(
        &self,
        shared: &Shared,
        decide: impl FnOnce(&Contents) -> Vec<Edit>,
    ) -> Result<(), FlushError> {
        self.decide_files(shared, |contents| Ok(((), decide(contents))))
    }

    /// Like [`Flusher::change_files`], for a decision that can fail, and that is returned.
    pub(crate) fn decide_files<T, E: From<FlushError>>(
        &self,
        shared: &Shared,
        decide: impl FnOnce(&Contents) -> Result<(T, Vec<Edit>), E>,
    ) -> Result<T, E> {
        let mut state = self.state.lock();
        self.check()?;
        let (decided, edits) = decide(state.manifest.contents())?;
        if edits.is_empty() {
            return Ok(decided);
        }
        state.manifest.append(edits).map_err(|error| self.fail_unless_full(error.into()))?;
        shared.change(|view| shared.install_files(view, state.manifest.contents()));
        drop(state);
        shared.sweep();
        Ok(decided)
    }
}

impl State {
    /// Returns the bytes of its frames, and of the files they became.
    fn flush(&mut self, shared: &Shared, memtable: &Arc<MemTable>) -> Result<(u64, u64), FlushError> {
        let number = self.manifest.take_files(3);
        let flushed = self.write_tables(shared, memtable, number);
        if flushed.as_ref().is_err_and(FlushError::may_pass) {
            // They take what others need, and the next try has numbers of its own.
            let kinds = [FileKind::Events, FileKind::Index, FileKind::Snapshot];
            for (kind, number) in kinds.into_iter().zip(number..) {
                let path = TableFile { kind, number }.path();
                remove_if_there(&*shared.disk, &new_path(&path))?;
                remove_if_there(&*shared.disk, &path)?;
            }
        }
        flushed
    }

    fn write_tables(
        &mut self,
        shared: &Shared,
        memtable: &Arc<MemTable>,
        number: u64,
    ) -> Result<(u64, u64), FlushError> {
        let disk = &*shared.disk;
        let mut edits = Vec::with_capacity(3);
        let mut paths = Vec::with_capacity(3);

        let mut events = EventTableWriter::create(disk, number, *memtable.before(), self.compression)?;
        for chunk in memtable.chunks() {
            for frame in 0..chunk.frames().len() {
                let frame = chunk.frame(frame);
                events.add(&frame)?;
                self.fold.add(&frame);
            }
        }
        let (meta, path) = events.finish()?;
        let (raw_bytes, mut bytes) = (meta.footer.raw_bytes, meta.bytes);
        edits.push(Edit::AddEvents(meta));
        paths.push(path);

        while memtable.index_more() {}
        let runs = memtable.index();
        let postings = Run::merge(&runs.runs);
        let covers = (memtable.first_sequence(), memtable.last_sequence());
        assert_eq!((postings.first(), postings.last()), covers, "the runs cover the memtable");
        let mut index = IndexTableWriter::create(disk, number + 1, memtable.before().tape, covers.0)?;
        postings.for_each_entity(|entity, positions| index.add(entity, positions))?;
        drop(postings);
        let (meta, path) = index.finish()?;
        assert_eq!((meta.footer.first, meta.footer.last), covers, "every event has a posting");
        bytes += meta.bytes;
        edits.push(Edit::AddIndex(meta));
        paths.push(path);

        // The projections may be ahead: recovery folds the whole tail. Then the next flush that catches up takes one.
        if self.fold.head().last_sequence == memtable.last_sequence() {
            let (meta, path) = self.fold.snapshot().write(disk, number + 2)?;
            bytes += meta.bytes;
            edits.push(Edit::AddSnapshot(meta));
            paths.push(path);
        }

        install(disk, Path::new(TABLES), &paths)?;
        self.manifest.append(edits)?;
        shared.change(|view| {
            shared.install_files(view, self.manifest.contents());
            view.memtables.retain(|kept| !Arc::ptr_eq(kept, memtable));
        });
        shared.sweep();
        Ok((raw_bytes, bytes))
    }
}

fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    match disk.remove(path) {
        Err(error) if error.is_missing() => Ok(()),
        done => done,
    }
}

/// The last event in tables.
pub(crate) fn flushed_through(shared: &Shared) -> Sequence {
    shared.view().flushed_through()
}
