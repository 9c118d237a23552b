//! What an operator chooses about the store.

use std::sync::Arc;
use std::time::Duration;

use matchtape_schemas::{Head, Sequence, TapeId};

use crate::archive::ColdStore;
use crate::compaction::choose::Shape;
use crate::limits::{OPEN_TABLES_DEFAULT, SEGMENT_BYTES_DEFAULT};
use crate::wal::{ClusterId, Preparation, SyncPolicy, WalConfig, WriteBackend};

/// The store's configuration. The default is meant for production.
///
/// # Memory
///
/// What a store takes is bounded by what is chosen here:
///
/// | what | at most | by default |
/// |---|---|---|
/// | memtables, events and index entries | `memtable_bytes` x (1 + `immutable_memtables_max`); then appending is slowed down and stops | 384 MiB |
/// | over that, of what was appended by then | commits that were under way, and the index entries of what is not indexed yet: a third of its events' bytes, and that is a quarter of memory at most | 7 and 32 MiB |
/// | beside them, while one is flushed and one is indexed | a copy of the index entries of each | a quarter to a third of a memtable each |
/// | one memtable that was flushed a moment ago | until the last short question that began before has its answer | `memtable_bytes` |
/// | commit buffers that are open, waiting or being written | 7 x `wal.commit_bytes`; they become part of memtables | 7 MiB |
/// | commit buffers that flushed memtables gave back, for the next ones to take | 128 MiB; with those in use never more than were once in use | |
/// | decompressed blocks | `block_cache_bytes` | 64 MiB |
/// | a merge | `compaction.own_table_postings` x 8 bytes, and some blocks of each table | 8 MiB |
/// | projections and their next snapshot | twice what they hold, which is the node's choice | |
///
/// A cursor of a question ([`Reader::query`](crate::Reader::query), [`Reader::page`](crate::Reader::page)) holds what was in memory when it
/// began until it is dropped: all memtables of that moment, `memtable_bytes` x (1 + `immutable_memtables_max`) at most, for each cursor
/// that began after another flush. So whoever answers slowly should ask by pages and keep the token between them
/// ([`PageCursor::rest`](crate::PageCursor::rest)): that holds nothing, and it is what the gateway's streamed answers do. Bulk reading
/// (`Reader::frames`), `verify`, backups, merges, uploads and scrubbing hold no memtables.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The tape that must be there; a new store becomes one of this tape. `None`: whatever is there, or a random one.
    pub tape: Option<TapeId>,
    /// A memtable of this size, by real memory, is sealed and flushed. A flush takes a snapshot too, so this is also what has to be
    /// replayed at most to the state as of any position: where snapshots were not thinned, one memtable; near the tape's end
    /// those that are not flushed, two while flushing keeps up, which by default are a segment. Where it does not, there may be
    /// `immutable_memtables_max` sealed ones beside the one that fills, by default half a segment more, for as long as appending is
    /// slowed down because of it: to wait for a snapshot there would cost those who append more than it saves those who look back.
    pub memtable_bytes: usize,
    /// So many sealed memtables may wait for being flushed before [`Pressure`](crate::Pressure) says stop.
    pub immutable_memtables_max: usize,
    /// Decompressed blocks kept for lookups.
    pub block_cache_bytes: usize,
    /// Of so many tables the files are kept open; others are opened when they are read.
    pub open_tables_max: usize,
    /// How blocks of events are stored.
    pub compression: Compression,
    /// When tables are merged.
    pub compaction: CompactionOptions,
    /// How files are read again in the background, to find damage.
    pub scrub: ScrubOptions,
    /// What readers may see before the node has said anything.
    pub visible_at_open: VisibleAtOpen,
    /// Who indexes and flushes.
    pub workers: Workers,
    /// After a flush the log lets go of the sealed segments that tables cover, but for the newest, as many as fit in so many
    /// bytes: a second copy to salvage from. `u64::MAX`: only [`EventStore::release_log`](crate::EventStore::release_log) lets go of any.
    pub log_kept_bytes: u64,
    /// Where event tables are that are no longer on the local disk. `None`: there is no such place; tables that are there
    /// cannot be read, and an answer that needs one says so.
    pub cold: Option<Arc<dyn ColdStore>>,
    /// The log's part.
    pub wal: WalOptions,
    /// Known mistakes, for negative controls.
    #[cfg(any(test, feature = "mistakes"))]
    pub mistakes: StoreMistakes,
}

/// Mistakes that engines like this one have been shipped with. A test switches one on and expects the suite to notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreMistakes {
    /// The number of the next file is counted from one again whenever the store is opened.
    pub file_numbers_restart: bool,
    /// A file that the manifest no longer names is removed at once, whoever still reads it.
    pub files_removed_under_readers: bool,
    /// The log lets go of segments before the manifest, durably, has their facts.
    pub log_goes_before_the_manifest: bool,
    /// What is visible is flushed, whether the log has it durably or not.
    pub flush_overtakes_the_log: bool,
    /// The indexing thread panics.
    pub indexing_panics: bool,
    /// Retention removes files before the manifest has stopped naming them, durably.
    pub files_go_before_the_manifest: bool,
}

/// The usual memtable.
const MEMTABLE_BYTES_DEFAULT: usize = 128 << 20;
/// The usual number of those that wait.
const IMMUTABLE_MEMTABLES_DEFAULT: usize = 2;

// State as of a position is a snapshot and at most a segment of replay: the memtable that fills and the one that is flushed.
const _: () = assert!(2 * MEMTABLE_BYTES_DEFAULT as u64 <= SEGMENT_BYTES_DEFAULT);
// And half a segment more while flushing is behind.
const _: () = assert!(
    2 * (1 + IMMUTABLE_MEMTABLES_DEFAULT as u64) * MEMTABLE_BYTES_DEFAULT as u64 <= 3 * SEGMENT_BYTES_DEFAULT
);

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            tape: None,
            memtable_bytes: MEMTABLE_BYTES_DEFAULT,
            immutable_memtables_max: IMMUTABLE_MEMTABLES_DEFAULT,
            block_cache_bytes: 64 << 20,
            open_tables_max: OPEN_TABLES_DEFAULT,
            compression: Compression::default(),
            compaction: CompactionOptions::default(),
            scrub: ScrubOptions::default(),
            visible_at_open: VisibleAtOpen::default(),
            workers: Workers::default(),
            log_kept_bytes: 2 * SEGMENT_BYTES_DEFAULT,
            cold: None,
            wal: WalOptions::default(),
            #[cfg(any(test, feature = "mistakes"))]
            mistakes: StoreMistakes::default(),
        }
    }
}

impl StoreOptions {
    pub(crate) fn mistakes(&self) -> StoreMistakes {
        #[cfg(any(test, feature = "mistakes"))]
        return self.mistakes;
        #[cfg(not(any(test, feature = "mistakes")))]
        StoreMistakes::default()
    }

    /// All that may be in memory and not in tables.
    pub(crate) fn limit_bytes(&self) -> usize {
        self.memtable_bytes.saturating_mul(self.immutable_memtables_max.saturating_add(1))
    }
}

/// How blocks of events are stored. It may differ from table to table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// LZ4: real order flow 3.3 to 3.6 : 1. Per core it is written at 1.0 GB/s, which is most of a flush's time, and decompressed
    /// at 4.4 GB/s, which is more than half of a replay's.
    #[default]
    Lz4,
    /// Zstandard, for what is written once and seldom read: real order flow 5.6 to 6.2 : 1, written at 0.55 GB/s, decompressed at
    /// 1.4 to 1.8 GB/s. A build without the feature reads no such table, and says so.
    #[cfg(feature = "zstd")]
    Zstd,
    /// As they are: a replay runs at the speed of the checks, if the disk keeps up.
    None,
}

/// When tables are merged, and how large they become. The shape is that of a leveled tree: 7 levels, each of which may have
/// `level_factor` times the bytes of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionOptions {
    /// So many index tables as they were flushed are merged into level 1.
    pub level0_tables: usize,
    /// Bytes of index tables that level 1 may have.
    pub level1_bytes: u64,
    /// How many times the bytes of one level the next one may have.
    pub level_factor: u64,
    /// An index table of level 1 or above is closed when it has so many bytes.
    pub index_table_bytes: u64,
    /// An entity with more postings than this in one merge gets index tables of its own. So many positions (8 bytes each)
    /// are held in memory during a merge.
    pub own_table_postings: usize,
    /// Event tables of fewer bytes are merged with their neighbours.
    pub small_event_table_bytes: u64,
    /// Work is done in slices of about so many bytes. Between two of them the compacting thread rests, and the store can close.
    pub slice_bytes: u64,
    /// The compacting thread writes so many bytes per second at most, as long as it is not behind.
    pub bytes_per_second: u64,
}

impl Default for CompactionOptions {
    fn default() -> Self {
        Self {
            level0_tables: 4,
            level1_bytes: 64 << 20,
            level_factor: 10,
            index_table_bytes: 16 << 20,
            own_table_postings: 1 << 20,
            small_event_table_bytes: 8 << 20,
            slice_bytes: 256 << 10,
            bytes_per_second: 64 << 20,
        }
    }
}

impl CompactionOptions {
    pub(crate) fn shape(&self) -> Shape {
        Shape {
            level0_tables: self.level0_tables.max(1),
            level1_bytes: self.level1_bytes,
            factor: self.level_factor.max(1),
            table_bytes: self.index_table_bytes,
            own_table_postings: self.own_table_postings,
        }
    }
}

/// How sealed segments, tables and snapshots are read again and checked while the store serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubOptions {
    /// So many bytes per second at most. 0: never.
    pub bytes_per_second: u64,
    /// A round begins so long after the one before began; at once, if that took longer.
    pub every: Duration,
}

impl Default for ScrubOptions {
    /// A terabyte in 17 hours, and no more than a hundredth of what a common device gives.
    fn default() -> Self {
        Self { bytes_per_second: 16 << 20, every: Duration::from_secs(7 * 24 * 60 * 60) }
    }
}

/// What readers may see right after opening.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VisibleAtOpen {
    /// Everything recovered: right for a single node, where durable is visible.
    #[default]
    Recovered,
    /// Only what was flushed, and so was visible before: right in a cluster, where the rest waits for a quorum.
    Flushed,
}

/// Who does the work behind an append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Workers {
    /// Four threads: one indexes, one flushes, one compacts, one scrubs.
    #[default]
    Threads,
    /// Nobody, until [`EventStore::flush`](crate::EventStore::flush), [`EventStore::compact`](crate::EventStore::compact) or
    /// [`EventStore::scrub`](crate::EventStore::scrub) is called: for simulation, where everything happens in one thread in one order.
    Caller,
}

/// What of [`WalConfig`] is chosen; the rest follows from the store.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// The deployment.
    pub cluster: ClusterId,
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// Bytes of one commit buffer.
    pub commit_bytes: usize,
    /// Files of released segments that are kept for new ones.
    pub recycled_files_max: usize,
    /// How commits reach the disk.
    pub backend: WriteBackend,
    /// When they are durable.
    pub sync: SyncPolicy,
    /// Who prepares segments.
    pub preparation: Preparation,
    /// Known mistakes, for negative controls.
    #[cfg(any(test, feature = "mistakes"))]
    pub mistakes: crate::wal::Mistakes,
}

impl Default for WalOptions {
    fn default() -> Self {
        let config = WalConfig::new(TapeId(0));
        Self {
            cluster: config.cluster,
            segment_bytes: config.segment_bytes,
            commit_bytes: config.commit_bytes,
            recycled_files_max: config.recycled_files_max,
            backend: config.backend,
            sync: config.sync,
            preparation: config.preparation,
            #[cfg(any(test, feature = "mistakes"))]
            mistakes: config.mistakes,
        }
    }
}

impl WalOptions {
    /// The log's configuration in a store whose tables end at `flushed`.
    pub(crate) fn config(&self, flushed: Head, known_durable: Sequence) -> WalConfig {
        let mut config = WalConfig::new(flushed.tape);
        config.start = flushed;
        config.known_durable = known_durable;
        config.cluster = self.cluster;
        config.segment_bytes = self.segment_bytes;
        config.commit_bytes = self.commit_bytes;
        config.recycled_files_max = self.recycled_files_max;
        config.backend = self.backend;
        config.sync = self.sync;
        config.preparation = self.preparation;
        #[cfg(any(test, feature = "mistakes"))]
        {
            config.mistakes = self.mistakes;
        }
        config
    }
}

/// How a store is opened for reading only.
#[derive(Clone, Debug)]
pub struct ReadOnlyOptions {
    /// The tape that must be there; `None`: whatever is.
    pub tape: Option<TapeId>,
    /// Decompressed blocks kept for lookups.
    pub block_cache_bytes: usize,
    /// So many tables are opened at once and kept open, so that they can be read also when a writer has removed their names.
    /// A table beyond them, or one that had to give its place, is opened when it is read; if it is gone then, the answer is an
    /// error, [`ReadError::is_file_missing`](crate::ReadError::is_file_missing): refresh and ask again.
    pub open_tables_max: usize,
    /// Recent events are kept in pieces of this size, given back once they are in tables.
    pub memtable_bytes: usize,
    /// The deployment.
    pub cluster: ClusterId,
    /// As in [`StoreOptions`].
    pub cold: Option<Arc<dyn ColdStore>>,
}

impl Default for ReadOnlyOptions {
    fn default() -> Self {
        Self {
            tape: None,
            block_cache_bytes: 64 << 20,
            open_tables_max: OPEN_TABLES_DEFAULT,
            memtable_bytes: 64 << 20,
            cluster: ClusterId::default(),
            cold: None,
        }
    }
}
