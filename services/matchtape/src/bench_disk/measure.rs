//! The measurement: one file with zeros in it, one that is only allocated, and durable writes into both.
//!
//! The files keep their names until the end, because some file systems (btrfs) sync a file without a name more cheaply than
//! the log's files. They are removed whichever way it ends, but by `kill -9`.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use matchtape_storage::wal::{SyncPolicy, WriteBackend};
use matchtape_storage::{Access, AlignedBytes, BLOCK_BYTES, Caching, Disk, DiskError, DiskFile};
use serde::Serialize;

use super::{Extents, LATENCY_BYTES, Measured, RATE_BYTES, backend_name};

/// The file with zeros in it.
pub const FILE_NAME: &str = "matchtape-bench-disk.tmp";
/// The one that is only allocated.
const ALLOCATED_FILE_NAME: &str = "matchtape-bench-disk-allocated.tmp";

/// Each case gets its time in so many parts, in turn with the others, so that what else the machine does meets all alike.
const ROUNDS: u32 = 5;
/// One write of zeros, as the log does it.
const ZERO_PIECE_BYTES: usize = 1 << 20;
/// Zeros between two syncs, so that an interruption need not wait for long.
const ZERO_SYNC_BYTES: u64 = 32 << 20;
/// The allocated file has so many times less than the other.
const ALLOCATED_SHARE: u64 = 8;

const _: () =
    assert!(RATE_BYTES[1] <= ZERO_PIECE_BYTES && ZERO_SYNC_BYTES.is_multiple_of(ZERO_PIECE_BYTES as u64));

/// How much and how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Bytes of the file with zeros in it: a multiple of 1 MiB, not zero.
    pub file_bytes: u64,
    /// Writing time in all, without preparing.
    pub duration: Duration,
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Zeros are written; counted in bytes.
    Preparing,
    /// Writes of so many bytes; counted in parts of the whole time.
    Measuring(WriteBackend, usize),
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// How much of it is done.
    pub done: u64,
    /// How much there is.
    pub total: u64,
}

/// What is missing in the result.
#[derive(Clone, Debug, Serialize)]
pub struct Unmeasured {
    /// Which numbers.
    pub what: String,
    /// Why they could not be had.
    pub why: String,
}

/// All numbers of a run.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// By extents, size and backend.
    pub measured: Vec<Measured>,
    /// What this disk does not offer.
    pub unmeasured: Vec<Unmeasured>,
}

/// Why there are no numbers.
#[derive(thiserror::Error, Debug)]
pub enum BenchError {
    /// A node beside it must not run out of space for this.
    #[error("{} MiB are free; the files take {} MiB, and as much has to stay free", free_bytes >> 20, file_bytes >> 20)]
    NoRoom {
        /// What an unprivileged writer could have.
        free_bytes: u64,
        /// What the files take together.
        file_bytes: u64,
    },
    /// The disk refused something.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// `progress` said so.
    #[error("interrupted")]
    Stopped,
}

/// Measures every backend on `disk`, which is the existing directory `directory`. `progress` is called between writes.
pub fn measure(
    disk: &dyn Disk,
    directory: &Path,
    plan: &Plan,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Measurement, BenchError> {
    let allocated_bytes = (plan.file_bytes / ALLOCATED_SHARE).next_multiple_of(BLOCK_BYTES as u64);
    let (free_bytes, file_bytes) = (disk.free_bytes()?, plan.file_bytes.saturating_add(allocated_bytes));
    if free_bytes / 2 < file_bytes {
        return Err(BenchError::NoRoom { free_bytes, file_bytes });
    }
    let mut unmeasured = Vec::new();
    let zeroed = Scratch::create(disk, FILE_NAME)?;
    let backends = zeroed.backends(&mut unmeasured)?;
    zeroed.fill_with_zeros(&backends, plan.file_bytes, progress)?;
    let allocated = Scratch::create(disk, ALLOCATED_FILE_NAME)?;
    let is_allocated = match allocate(&directory.join(ALLOCATED_FILE_NAME), allocated_bytes) {
        Ok(()) => true,
        Err(error) => {
            let what = "writes into extents that were only allocated".to_owned();
            unmeasured.push(Unmeasured { what, why: format!("allocating: {error}") });
            false
        }
    };

    let mut cases = Vec::new();
    for bytes in LATENCY_BYTES.into_iter().chain(RATE_BYTES) {
        for backend in &backends {
            cases.push(Case::new(zeroed.open(*backend)?, *backend, Extents::Zeroed, bytes));
        }
    }
    let mut areas = [Area { next: 0, bytes: plan.file_bytes }, Area { next: 0, bytes: allocated_bytes }];
    if is_allocated {
        for backend in &backends {
            cases.push(Case::new(allocated.open(*backend)?, *backend, Extents::Allocated, LATENCY_BYTES[0]));
        }
    }
    run(&mut cases, &mut areas, plan.duration, progress)?;
    let measured = cases.iter().filter(|case| !case.histogram.is_empty()).map(Case::result).collect();
    drop(cases);
    zeroed.remove()?;
    allocated.remove()?;
    Ok(Measurement { measured, unmeasured })
}

/// All cases in turn, several times.
fn run(
    cases: &mut [Case],
    [zeroed, allocated]: &mut [Area; 2],
    duration: Duration,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), BenchError> {
    let total = u64::from(ROUNDS) * cases.len() as u64;
    let part = duration.div_f64(total as f64);
    let mut data = AlignedBytes::zeroed(RATE_BYTES[1]);
    fill_with_noise(&mut data);
    let mut done = 0;
    for _ in 0..ROUNDS {
        for case in &mut *cases {
            let at = Progress { phase: Phase::Measuring(case.backend, case.bytes), done, total };
            let area = match case.extents {
                Extents::Zeroed => &mut *zeroed,
                Extents::Allocated => &mut *allocated,
            };
            // What the other backend left in the page cache would be this one's work to throw out.
            case.file.drop_cache(0, area.bytes)?;
            let start = Instant::now();
            loop {
                if progress(at).is_break() {
                    return Err(BenchError::Stopped);
                }
                let Some(offset) = area.take(case.bytes, case.extents) else { break };
                case.write(&mut data, offset)?;
                if start.elapsed() >= part {
                    break;
                }
            }
            done += 1;
        }
    }
    Ok(())
}

/// The part of a file that is written to, one write behind the other like a log.
struct Area {
    next: u64,
    bytes: u64,
}

impl Area {
    /// Where the next write goes; `None` where every block can be written for the first time only once, and has been.
    fn take(&mut self, bytes: usize, extents: Extents) -> Option<u64> {
        let bytes = bytes as u64;
        if self.next + bytes > self.bytes {
            match extents {
                Extents::Zeroed => self.next = 0,
                Extents::Allocated => return None,
            }
        }
        let offset = self.next;
        self.next += bytes;
        Some(offset)
    }
}

/// One line of the result in the making.
struct Case {
    file: Arc<dyn DiskFile>,
    backend: WriteBackend,
    extents: Extents,
    bytes: usize,
    histogram: Histogram<u64>,
    busy: Duration,
}

impl Case {
    fn new(file: Arc<dyn DiskFile>, backend: WriteBackend, extents: Extents, bytes: usize) -> Self {
        let histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("constant bounds");
        Self { file, backend, extents, bytes, histogram, busy: Duration::ZERO }
    }

    /// What the log does with a commit when every batch is synced.
    fn write(&mut self, data: &mut AlignedBytes, offset: u64) -> Result<(), DiskError> {
        // No two writes alike, for devices that look.
        data[..8].copy_from_slice(&(offset ^ self.histogram.len()).to_le_bytes());
        let start = Instant::now();
        self.file.write_at(&data[..self.bytes], offset)?;
        if self.backend.caching(SyncPolicy::EveryBatch) != Caching::DirectSync {
            self.file.sync_data()?;
        }
        let took = start.elapsed();
        self.histogram.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        self.busy += took;
        Ok(())
    }

    fn result(&self) -> Measured {
        let written = self.histogram.len() as f64 * self.bytes as f64;
        Measured {
            backend: self.backend,
            extents: self.extents,
            bytes: self.bytes,
            writes: self.histogram.len(),
            p50_ns: self.histogram.value_at_quantile(0.5),
            p99_ns: self.histogram.value_at_quantile(0.99),
            p999_ns: self.histogram.value_at_quantile(0.999),
            max_ns: self.histogram.max(),
            bytes_per_second: (written / self.busy.as_secs_f64().max(1e-9)) as u64,
        }
    }
}

/// A file that goes when this does.
struct Scratch<'a> {
    disk: &'a dyn Disk,
    path: PathBuf,
    is_there: bool,
}

impl<'a> Scratch<'a> {
    /// An empty file. One of that name is another run's, or was left by a killed one: an error.
    fn create(disk: &'a dyn Disk, name: &str) -> Result<Self, DiskError> {
        let path = PathBuf::from(name);
        disk.open(&path, Access::CreateNew, Caching::Buffered)?;
        Ok(Self { disk, path, is_there: true })
    }

    fn open(&self, backend: WriteBackend) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.disk.open(&self.path, Access::ReadWrite, backend.caching(SyncPolicy::EveryBatch))
    }

    /// Those that can write here. Some file systems refuse `O_DIRECT` when a file is opened, some when it is written.
    fn backends(&self, unmeasured: &mut Vec<Unmeasured>) -> Result<Vec<WriteBackend>, DiskError> {
        let block = AlignedBytes::zeroed(BLOCK_BYTES);
        let mut backends = Vec::new();
        for backend in [WriteBackend::Buffered, WriteBackend::Direct] {
            match self.open(backend).and_then(|file| file.write_at(&block, 0)) {
                Ok(()) => backends.push(backend),
                Err(error) if backend == WriteBackend::Direct && error.is_direct_unsupported() => {
                    let why = "this file system does not support O_DIRECT".to_owned();
                    unmeasured.push(Unmeasured { what: backend_name(backend).to_owned(), why });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(backends)
    }

    /// As the log prepares a segment: past the page cache where that exists.
    fn fill_with_zeros(
        &self,
        backends: &[WriteBackend],
        bytes: u64,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), BenchError> {
        let is_direct = backends.contains(&WriteBackend::Direct);
        let caching = if is_direct { Caching::Direct } else { Caching::Buffered };
        let file = self.disk.open(&self.path, Access::ReadWrite, caching)?;
        let zeros = AlignedBytes::zeroed(ZERO_PIECE_BYTES);
        let mut done = 0;
        while done < bytes {
            if progress(Progress { phase: Phase::Preparing, done, total: bytes }).is_break() {
                return Err(BenchError::Stopped);
            }
            file.write_at(&zeros, done)?;
            done += ZERO_PIECE_BYTES as u64;
            if done.is_multiple_of(ZERO_SYNC_BYTES) {
                file.sync_data()?;
            }
        }
        Ok(file.sync_all()?)
    }

    /// Removes it, and says when that fails.
    fn remove(mut self) -> Result<(), DiskError> {
        self.is_there = false;
        self.disk.remove(&self.path)
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        if self.is_there {
            // Something else has failed, and is told.
            let _ = self.disk.remove(&self.path);
        }
    }
}

/// What `fallocate` gives: blocks of the file that were never written.
fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file = fs::File::options().write(true).open(path)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
    file.sync_all()
}

/// Bytes that no device can compress (xorshift64).
fn fill_with_noise(bytes: &mut [u8]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use matchtape_storage::{DiskLock, Entry, LockError, LockHolder, Operation, RealDisk};
    use tempfile::TempDir;

    use super::*;

    const PLAN: Plan = Plan { file_bytes: 16 << 20, duration: Duration::from_millis(100) };

    /// A file system without `O_DIRECT`: it says so when a file is opened.
    #[derive(Debug)]
    struct NoDirect(RealDisk);

    impl Disk for NoDirect {
        fn open(
            &self,
            path: &Path,
            access: Access,
            caching: Caching,
        ) -> Result<Arc<dyn DiskFile>, DiskError> {
            if caching != Caching::Buffered {
                return Err(DiskError::new(Operation::Open, path, io::Error::from_raw_os_error(22)));
            }
            self.0.open(path, access, caching)
        }
        fn list(&self, directory: &Path) -> Result<Vec<Entry>, DiskError> {
            self.0.list(directory)
        }
        fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
            self.0.create_directory(path)
        }
        fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
            self.0.rename(from, to)
        }
        fn remove(&self, path: &Path) -> Result<(), DiskError> {
            self.0.remove(path)
        }
        fn hard_link(&self, existing: &Path, new: &Path) -> Result<(), DiskError> {
            self.0.hard_link(existing, new)
        }
        fn sync_directory(&self, directory: &Path) -> Result<(), DiskError> {
            self.0.sync_directory(directory)
        }
        fn lock(&self, path: &Path, holder: &LockHolder) -> Result<Box<dyn DiskLock>, LockError> {
            self.0.lock(path, holder)
        }
        fn free_bytes(&self) -> Result<u64, DiskError> {
            self.0.free_bytes()
        }
        fn random(&self, bytes: &mut [u8]) -> Result<(), DiskError> {
            self.0.random(bytes)
        }
    }

    fn is_empty(folder: &TempDir) -> bool {
        fs::read_dir(folder.path()).unwrap().next().is_none()
    }

    #[test]
    fn without_o_direct_the_other_backend_is_measured_and_the_lack_is_told() {
        let folder = TempDir::new().unwrap();
        let disk = NoDirect(RealDisk::open(folder.path()).unwrap());
        let made = measure(&disk, folder.path(), &PLAN, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(made.measured.iter().all(|row| row.backend == WriteBackend::Buffered && row.writes > 0));
        let zeroed = made.measured.iter().filter(|row| row.extents == Extents::Zeroed);
        assert!(zeroed.map(|row| row.bytes).eq([4096, 16_384, 262_144, 1_048_576]));
        let lack = &made.unmeasured[0];
        assert_eq!(lack.what, "direct");
        assert!(lack.why.contains("O_DIRECT"), "{}", lack.why);
        assert!(is_empty(&folder));
    }

    #[test]
    fn an_interruption_at_any_phase_leaves_nothing() {
        let is_preparing = |progress: Progress| progress.phase == Phase::Preparing && progress.done > 0;
        let is_measuring = |progress: Progress| progress.phase != Phase::Preparing && progress.done > 2;
        let (mut preparing, mut measuring) = (is_preparing, is_measuring);
        let phases: [&mut dyn FnMut(Progress) -> bool; 2] = [&mut preparing, &mut measuring];
        for stops in phases {
            let folder = TempDir::new().unwrap();
            let disk = RealDisk::open(folder.path()).unwrap();
            let mut there = false;
            let outcome = measure(&disk, folder.path(), &PLAN, &mut |progress| {
                there |= folder.path().join(FILE_NAME).exists();
                if stops(progress) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert!(matches!(outcome, Err(BenchError::Stopped)), "{outcome:?}");
            assert!(there && is_empty(&folder));
        }
    }

    #[test]
    fn a_file_that_is_there_already_is_refused_and_stays() {
        for name in [FILE_NAME, ALLOCATED_FILE_NAME] {
            let folder = TempDir::new().unwrap();
            fs::write(folder.path().join(name), "another run's").unwrap();
            let disk = RealDisk::open(folder.path()).unwrap();
            let outcome = measure(&disk, folder.path(), &PLAN, &mut |_| ControlFlow::Continue(()));
            assert!(matches!(&outcome, Err(BenchError::Disk(error)) if error.is_existing()), "{outcome:?}");
            let left: Vec<_> =
                fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, [name]);
        }
    }

    #[test]
    fn allocated_blocks_are_written_once_and_zeroed_ones_again_from_the_beginning() {
        let mut area = Area { next: 0, bytes: 10_000 };
        let mut take = |extents| area.take(4096, extents);
        assert_eq!(take(Extents::Zeroed), Some(0));
        assert_eq!(take(Extents::Zeroed), Some(4096));
        assert_eq!(take(Extents::Allocated), None);
        assert_eq!(take(Extents::Zeroed), Some(0));
    }
}
