//! The durable half: write-ahead log, memtable, tables, recovery, reads.

mod disk;
pub mod limits;
pub mod wal;

/// A disk that can lose power at any moment, for tests and for simulating whole clusters.
pub use disk::sim;
pub use disk::{
    Access, AlignedBytes, BLOCK_BYTES, Caching, Disk, DiskError, DiskFile, DiskLock, Entry, EntryKind,
    LockError, LockHolder, Operation, RealDisk,
};
