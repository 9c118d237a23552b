//! How fast the disk below a directory makes writes durable, by each backend of the log; and which one to choose.
//!
//! [`measure()`] writes to a file of its own, opened, prepared and synced as the log does it; [`recommend()`] decides, from the
//! numbers alone.

mod measure;
mod recommend;

use matchtape_storage::wal::WriteBackend;
use serde::{Serialize, Serializer};

pub use self::measure::{BenchError, FILE_NAME, Measurement, Phase, Plan, Progress, Unmeasured, measure};
pub use self::recommend::{Recommendation, recommend};

/// Writes whose latency is measured: a commit of a few events, and one of about a hundred.
pub const LATENCY_BYTES: [usize; 2] = [4 << 10, 16 << 10];
/// Writes whose rate is measured: commits of a log under load.
pub const RATE_BYTES: [usize; 2] = [256 << 10, 1 << 20];

/// What the file system has to do when a block is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extents {
    /// Nothing: zeros were written there before, as the log does.
    Zeroed,
    /// Note in its metadata that the block has been written: it was only allocated.
    Allocated,
}

/// Durable writes of one size by one backend, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Measured {
    /// How they were made durable.
    #[serde(serialize_with = "name")]
    pub backend: WriteBackend,
    /// Onto what.
    pub extents: Extents,
    /// Bytes of each.
    pub bytes: usize,
    /// How many.
    pub writes: u64,
    /// Half of them took at most so long, until durable. Nanoseconds.
    pub p50_ns: u64,
    /// 99 of 100.
    pub p99_ns: u64,
    /// 999 of 1000.
    pub p999_ns: u64,
    /// All of them.
    pub max_ns: u64,
    /// Bytes made durable per second of writing.
    pub bytes_per_second: u64,
}

/// As the configuration file has it.
pub fn backend_name(backend: WriteBackend) -> &'static str {
    match backend {
        WriteBackend::Buffered => "buffered",
        WriteBackend::Direct => "direct",
    }
}

fn name<S: Serializer>(backend: &WriteBackend, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(backend_name(*backend))
}
