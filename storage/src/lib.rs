//! The durable half: write-ahead log, memtable, tables, recovery, reads.

mod allocator;
pub mod archive;
mod backup;
mod check;
mod chunk;
mod codec;
mod compaction;
mod disk;
mod dump;
mod entity;
mod file_header;
mod flush;
mod fold;
mod gauge;
mod guard;
mod ingest;
mod inspect;
pub mod limits;
mod manifest;
mod memtable;
mod obsolete;
mod open;
mod options;
mod pins;
mod pressure;
mod proof;
mod read;
mod read_only;
mod rebuild;
mod retention;
mod salvage;
mod scrub;
mod segment_facts;
mod snapshot;
mod sstable;
mod store;
mod verify;
mod visible;
pub mod wal;

pub use allocator::return_large_memory;
pub use backup::{CopyError, CopyProgress, CopyReport, Link, Point};
pub use check::Finding;
pub use chunk::{EventHandle, FrameHandle};
pub use compaction::{CompactError, CompactProgress, CompactionTotals};

/// A disk that can lose power at any moment, for tests and for simulating whole clusters.
pub use disk::sim;
pub use disk::{
    Access, AlignedBytes, BLOCK_BYTES, Caching, Disk, DiskBelow, DiskError, DiskFile, DiskLock, Entry,
    EntryKind, LockError, LockHolder, Operation, RealDisk, SYSTEM,
};
pub use dump::{DumpItem, dump};
pub use file_header::VersionError;
pub use flush::FlushError;
pub use gauge::{Intake, StoreGauge, StoreNumbers};
pub use inspect::{
    Amplification, EventTableView, HoldView, IndexTableView, Inspection, MemoryView, SegmentView,
    SnapshotView,
};
pub use manifest::LegalHold;
pub use open::{OpenError, RecoveryReport};
pub use options::{
    CompactionOptions, Compression, ReadOnlyOptions, ScrubOptions, StoreMistakes, StoreOptions,
    VisibleAtOpen, WalOptions, Workers,
};
pub use pins::{PIN_NAME_BYTES_MAX, Pin, PinError, PinKind, PinView, RetentionMarks};
pub use pressure::{Pressure, PressureReason};
pub use proof::{
    PROOF_BYTES_MAX, Proof, ProofError, ProofFileError, ProveError, ProveProgress, SegmentPart,
    check as check_proof, prove,
};
pub use read::{
    Direction, FrameCursor, PageCursor, PageToken, PageTokenError, Query, QueryCursor, ReadError, Reader,
};
pub use read_only::ReadOnlyStore;
pub use retention::{
    Advisory, DropReason, DroppedFile, Excess, PinLimit, PinLimits, Restraint, RetentionChoice,
    RetentionError, RetentionPolicy,
};
pub use salvage::{SalvageError, SalvageOptions, SalvageProgress, SalvageReport, Span, salvage};
pub use scrub::ScrubMarks;
pub use segment_facts::SegmentFacts;
pub use snapshot::{Section, Snapshot};
pub use sstable::{FeatureError, TableError};
pub use store::{EventStore, HoldError};
pub use verify::{VerifyProgress, VerifyReport};
pub use visible::VisibleGate;
