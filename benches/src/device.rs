//! The device's own numbers: what a program that does nothing else gets from it.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use matchtape_storage::AlignedBytes;

use crate::nanoseconds;

/// The file's length; writing begins again at its start.
const SPAN_BYTES: usize = 64 << 20;

/// A preallocated, zeroed file that is written so many bytes at a time, one after the other, each synced.
#[derive(Debug)]
pub struct SyncedWrites {
    file: std::fs::File,
    path: PathBuf,
    block: Vec<u8>,
    at: usize,
}

impl SyncedWrites {
    /// Makes the file.
    ///
    /// # Panics
    /// When the folder cannot be written.
    pub fn create(folder: &Path, bytes: usize) -> Self {
        let path = folder.join("device");
        let file = std::fs::File::create_new(&path).expect("a new file");
        let zeros = vec![0u8; 1 << 20];
        for at in 0..SPAN_BYTES / zeros.len() {
            file.write_all_at(&zeros, (at * zeros.len()) as u64).expect("room on the disk");
        }
        file.sync_all().expect("a disk that syncs");
        Self { file, path, block: vec![7u8; bytes], at: 0 }
    }

    /// One write and its sync: `pwrite`, `fdatasync`.
    ///
    /// # Panics
    /// When the disk fails.
    pub fn write(&mut self) {
        let at = self.at % (SPAN_BYTES - self.block.len()) / 4096 * 4096;
        self.file.write_all_at(&self.block, at as u64).expect("a disk that writes");
        self.file.sync_data().expect("a disk that syncs");
        self.at += self.block.len();
    }
}

impl Drop for SyncedWrites {
    fn drop(&mut self) {
        // Its folder goes soon after.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Writes `bytes` at a time and syncs each, as fast as the device does that.
///
/// # Panics
/// When the folder cannot be written.
pub fn sync_latency(folder: &Path, bytes: usize, duration: Duration) -> Histogram<u64> {
    let mut writes = SyncedWrites::create(folder, bytes);
    let mut histogram = nanoseconds();
    let start = Instant::now();
    while start.elapsed() < duration {
        let begun = Instant::now();
        writes.write();
        histogram.saturating_record(begun.elapsed().as_nanos() as u64);
    }
    histogram
}

/// Bytes per second when `bytes` at a time are written and synced, to a file as long as needed.
///
/// # Panics
/// When the folder cannot be written.
pub fn sync_throughput(folder: &Path, bytes: usize, duration: Duration) -> f64 {
    let histogram = sync_latency(folder, bytes, duration);
    histogram.len() as f64 * bytes as f64 / duration.as_secs_f64()
}

/// Lets the kernel forget what it holds of the files below.
///
/// # Panics
/// When the folder cannot be read.
pub fn forget_cached(directory: &Path) {
    for entry in std::fs::read_dir(directory).expect("our own folder").filter_map(Result::ok) {
        if entry.metadata().is_ok_and(|meta| meta.is_dir()) {
            forget_cached(&entry.path());
        } else if let Ok(file) = std::fs::File::open(entry.path()) {
            file.sync_all().expect("a disk that syncs");
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
        }
    }
}

/// Bytes per second when these files are read from their beginning to their end, 1 MiB at a time, and not looked at.
///
/// # Panics
/// When one of them cannot be read.
pub fn read_throughput<'a>(files: impl Iterator<Item = &'a Path>) -> f64 {
    let mut memory = AlignedBytes::zeroed(1 << 20);
    let (start, mut bytes) = (Instant::now(), 0);
    for path in files {
        let file = std::fs::File::open(path).expect("a file that is there");
        let mut at = 0;
        loop {
            let read = file.read_at(&mut memory, at).expect("a disk that reads") as u64;
            if read == 0 {
                break;
            }
            at += read;
        }
        bytes += at;
    }
    bytes as f64 / start.elapsed().as_secs_f64()
}

/// Reads 4096 bytes at a time at random places of a file of `file_bytes`, past the page cache, one after the other.
///
/// # Panics
/// When the folder cannot be written, or its file system knows no O_DIRECT.
pub fn read_latency(folder: &Path, file_bytes: u64, duration: Duration) -> Histogram<u64> {
    use std::os::unix::fs::OpenOptionsExt;

    let path = folder.join("device");
    let file = std::fs::File::create_new(&path).expect("a new file");
    // No two blocks alike, so that nobody below can answer from a pattern.
    let mut piece = vec![0u8; 1 << 20];
    for at in 0..file_bytes.div_ceil(piece.len() as u64) {
        for (word, bytes) in piece.chunks_exact_mut(8).enumerate() {
            let number = (at << 20 | word as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        file.write_all_at(&piece, at * piece.len() as u64).expect("room on the disk");
    }
    file.sync_all().expect("a disk that syncs");
    let mut options = std::fs::OpenOptions::new();
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let file =
        options.read(true).custom_flags(direct).open(&path).expect("a file system that knows O_DIRECT");
    let mut memory = AlignedBytes::zeroed(2 * 4096);
    let from = memory.as_ptr().align_offset(4096);
    let (mut histogram, mut random) = (nanoseconds(), 1u64);
    let start = Instant::now();
    while start.elapsed() < duration {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (random >> 20) % (file_bytes / 4096) * 4096;
        let begun = Instant::now();
        file.read_exact_at(&mut memory[from..from + 4096], at).expect("a disk that reads");
        histogram.saturating_record(begun.elapsed().as_nanos() as u64);
    }
    drop(file);
    std::fs::remove_file(&path).expect("our own file");
    histogram
}

/// Bytes per second that one core copies in memory, in pieces of 64 KiB.
pub fn memory_copy(duration: Duration) -> f64 {
    let source = vec![1u8; 64 << 20];
    let mut target = vec![0u8; 64 << 20];
    let (start, mut copied) = (Instant::now(), 0u64);
    while start.elapsed() < duration {
        for (from, to) in source.chunks(1 << 16).zip(target.chunks_mut(1 << 16)) {
            to.copy_from_slice(from);
        }
        std::hint::black_box(&target);
        copied += source.len() as u64;
    }
    copied as f64 / start.elapsed().as_secs_f64()
}
