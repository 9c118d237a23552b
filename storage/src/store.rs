//! The event store: append (through its log), read, watermarks. Owns the data directory.

use std::sync::Arc;
use std::sync::OnceLock;
use std::thread::JoinHandle;

use matchtape_schemas::{Head, Projection, Sequence, TapeId};
use parking_lot::Mutex;

use crate::chunk::Chunk;
use crate::disk::{Disk, DiskLock};
use crate::flush::FlushError;
use crate::guard::caught;
use crate::ingest::{Ingest, Pressure, StoreFirst};
use crate::inspect::{self, Inspection};
use crate::open::{self, OpenError, Opened, RecoveryReport};
use crate::options::{StoreOptions, Workers};
use crate::read::{ReadError, Reader};
use crate::snapshot::Snapshot;
use crate::verify::{self, VerifyProgress, VerifyReport};
use crate::visible::VisibleGate;
use crate::wal::{
    CommitObserver, Committed, GroupCommit, GroupCommitOptions, Segments, WalConfig, WalReader, Writer,
};

/// A tape on disk, open for writing by this process alone.
///
/// ```text
/// framing -> log (group commit) -> observer: memtable, then the node's own -> visible gate -> readers
///                                            memtable -> indexing thread; flushing thread -> tables, snapshot, manifest
/// ```
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
                let worker = |name: &'static str, run: fn(&Ingest)| {
                    let ingest = Arc::clone(&ingest);
                    std::thread::Builder::new()
                        .name(name.to_owned())
                        .spawn(move || {
                            give_way();
                            if let Err(message) = caught(|| run(&ingest)) {
                                let thread = name.to_owned();
                                ingest.flusher.fail(FlushError::Panicked { thread, message });
                            }
                        })
                        .expect("the system can start a thread")
                };
                workers.push(worker("store-index", Ingest::run_indexer));
                workers.push(worker("store-flush", Ingest::run_flusher));
            }
        }
        let store = Self {
            log: OnceLock::new(),
            writer: Mutex::new(Some(writer)),
            wal_config,
            segments,
            ingest,
            head,
            at_head,
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

    /// How far indexing and flushing are behind.
    pub fn pressure(&self) -> Pressure {
        self.ingest.pressure()
    }

    /// The failure that ended indexing or flushing, if one did: nothing more should be appended, for memory would only
    /// fill, and the store has to be opened again. What was accepted is in the log.
    pub fn health(&self) -> Result<(), Arc<FlushError>> {
        self.ingest.flusher.failure().map_or(Ok(()), |failure| Err(Arc::clone(failure)))
    }

    /// Indexes and flushes everything that is visible, and snapshots the projections there; returns the last event in
    /// tables.
    pub fn flush(&self) -> Result<Sequence, FlushError> {
        self.ingest.seal_visible();
        self.ingest.flush()
    }

    /// The last event in tables.
    pub fn flushed_through(&self) -> Sequence {
        crate::flush::flushed_through(&self.ingest.shared)
    }

    /// Which files there are and what is in them.
    pub fn inspect(&self) -> Inspection {
        inspect::inspect(&self.ingest.shared, &self.segments.list(), self.ingest.pressure())
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

/// Lets threads that serve an event go before this one where cores are few. Not a promise, so a refusal is no error.
fn give_way() {
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 10);
}

impl Drop for EventStore {
    fn drop(&mut self) {
        // First the log, whose last commits still come in; then the threads that work on them.
        drop(self.log.take());
        self.stop();
    }
}
