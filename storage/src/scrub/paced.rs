//! A disk for reading only, past the page cache, at a pace, that can be told to stop: so whatever reads files through it is slow,
//! gentle and quick to end, and need not know.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::disk::{
    Access, AlignedBytes, BLOCK_BYTES, Caching, Disk, DiskError, DiskFile, DiskLock, Entry, LockError,
    LockHolder, Operation,
};
use crate::visible::Bell;

/// Bytes asked of the device at once, and so the least that is read between two rests.
const STEP_BYTES: usize = 256 << 10;

/// When the next bytes may be read, and whether any may.
#[derive(Debug, Default)]
pub(super) struct Pace {
    bytes_read: AtomicU64,
    due: Mutex<Option<Instant>>,
    stopped: AtomicBool,
    bell: Bell,
}

impl Pace {
    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    pub(super) fn is_stopped(&self) -> bool {
        // Acquire: pairs with the release in `stop`.
        self.stopped.load(Ordering::Acquire)
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Sleeps so long, or until it is stopped; whether it goes on.
    pub(super) fn rest(&self, pause: Duration) -> bool {
        if !pause.is_zero() && !self.is_stopped() {
            self.bell.wait_for(pause);
        }
        !self.is_stopped()
    }

    /// Waits until so many bytes may be read; whether they may.
    fn take(&self, bytes: usize, bytes_per_second: u64) -> bool {
        let mut due = self.due.lock();
        let pause = due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()));
        if !self.rest(pause) {
            return false;
        }
        let lasts = Duration::from_secs_f64(bytes as f64 / bytes_per_second.max(1) as f64);
        *due = Some(Instant::now() + lasts);
        true
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct PacedDisk {
    disk: Arc<dyn Disk>,
    pace: Arc<Pace>,
    bytes_per_second: u64,
}

impl PacedDisk {
    pub(super) fn new(disk: Arc<dyn Disk>, pace: Arc<Pace>, bytes_per_second: u64) -> Self {
        Self { disk, pace, bytes_per_second }
    }
}

fn only_read(operation: Operation, path: &Path) -> DiskError {
    DiskError::new(operation, path, io::Error::new(io::ErrorKind::PermissionDenied, "this disk is only read"))
}

impl Disk for PacedDisk {
    fn open(&self, path: &Path, access: Access, _: Caching) -> Result<Arc<dyn DiskFile>, DiskError> {
        if access != Access::Read {
            return Err(only_read(Operation::Open, path));
        }
        let (file, gives_back) = match self.disk.open(path, access, Caching::Direct) {
            Ok(file) => (file, false),
            Err(error) if error.is_direct_unsupported() => {
                (self.disk.open(path, access, Caching::Buffered)?, true)
            }
            Err(error) => return Err(error),
        };
        let window = Mutex::new(Window { memory: AlignedBytes::zeroed(STEP_BYTES), start: 0, filled: 0 });
        let (pace, bytes_per_second) = (Arc::clone(&self.pace), self.bytes_per_second);
        Ok(Arc::new(PacedFile { file, gives_back, window, pace, bytes_per_second }))
    }

    fn list(&self, directory: &Path) -> Result<Vec<Entry>, DiskError> {
        self.disk.list(directory)
    }

    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        Err(only_read(Operation::CreateDirectory, path))
    }

    fn rename(&self, from: &Path, _: &Path) -> Result<(), DiskError> {
        Err(only_read(Operation::Rename, from))
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        Err(only_read(Operation::Remove, path))
    }

    fn hard_link(&self, existing: &Path, _: &Path) -> Result<(), DiskError> {
        Err(only_read(Operation::HardLink, existing))
    }

    fn sync_directory(&self, directory: &Path) -> Result<(), DiskError> {
        Err(only_read(Operation::SyncDirectory, directory))
    }

    fn lock(&self, path: &Path, _: &LockHolder) -> Result<Box<dyn DiskLock>, LockError> {
        Err(only_read(Operation::Lock, path).into())
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        self.disk.free_bytes()
    }

    fn random(&self, bytes: &mut [u8]) -> Result<(), DiskError> {
        self.disk.random(bytes)
    }
}

/// What was read last, for whoever goes on from there.
#[derive(Debug)]
struct Window {
    memory: AlignedBytes,
    start: u64,
    filled: usize,
}

#[derive(Debug)]
struct PacedFile {
    file: Arc<dyn DiskFile>,
    /// It is read through the page cache, and gives its pages back.
    gives_back: bool,
    window: Mutex<Window>,
    pace: Arc<Pace>,
    bytes_per_second: u64,
}

impl PacedFile {
    /// Fills the window from the block that holds `at`: as far as it goes where reading goes on, else as far as is asked for.
    fn fill(&self, window: &mut Window, at: u64, wanted: usize) -> Result<(), DiskError> {
        let start = at / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        let goes_on = window.filled > 0 && at == window.start + window.filled as u64;
        let inside = (at - start) as usize;
        let bytes = if goes_on { STEP_BYTES } else { inside.saturating_add(wanted).min(STEP_BYTES) };
        let bytes = bytes.next_multiple_of(BLOCK_BYTES);
        (window.start, window.filled) = (start, 0);
        if !self.pace.take(bytes, self.bytes_per_second) {
            let stopped = io::Error::new(io::ErrorKind::Interrupted, "reading was stopped");
            return Err(DiskError::new(Operation::Read, self.file.path(), stopped).at(at));
        }
        if self.gives_back {
            self.file.drop_cache(start, bytes as u64)?;
        }
        window.filled = self.file.read_at(&mut window.memory[..bytes], start)?;
        self.pace.bytes_read.fetch_add(window.filled as u64, Ordering::Relaxed);
        if self.gives_back {
            self.file.drop_cache(start, bytes as u64)?;
        }
        Ok(())
    }
}

impl DiskFile for PacedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        let mut window = self.window.lock();
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            if !(window.start..window.start + window.filled as u64).contains(&at) {
                self.fill(&mut window, at, buffer.len() - done)?;
            }
            let from = usize::try_from(at - window.start).expect("in the window");
            let there = &window.memory[from.min(window.filled)..window.filled];
            if there.is_empty() {
                break;
            }
            let take = there.len().min(buffer.len() - done);
            buffer[done..done + take].copy_from_slice(&there[..take]);
            done += take;
        }
        Ok(done)
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<(), DiskError> {
        Err(only_read(Operation::Write, self.path()))
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        Err(only_read(Operation::SyncData, self.path()))
    }

    fn sync_all(&self) -> Result<(), DiskError> {
        Err(only_read(Operation::SyncAll, self.path()))
    }

    fn set_len(&self, _: u64) -> Result<(), DiskError> {
        Err(only_read(Operation::SetLength, self.path()))
    }

    fn drop_cache(&self, _: u64, _: u64) -> Result<(), DiskError> {
        // Nothing is left there by what is read here; what others left is theirs.
        Ok(())
    }

    fn len_bytes(&self) -> Result<u64, DiskError> {
        self.file.len_bytes()
    }

    fn link_count(&self) -> Result<u64, DiskError> {
        self.file.link_count()
    }

    fn path(&self) -> &Path {
        self.file.path()
    }
}

const _: () = assert!(STEP_BYTES.is_multiple_of(BLOCK_BYTES));

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::disk::sim::SimDisk;

    /// A file of so many bytes, and a paced disk that has it.
    fn disk_with(bytes: usize, bytes_per_second: u64) -> (Vec<u8>, Arc<Pace>, PacedDisk) {
        let disk = SimDisk::new(1);
        let content: Vec<u8> = (0..bytes).map(|at| (at * 31 % 251) as u8).collect();
        let file = disk.open(Path::new("file"), Access::CreateNew, Caching::Buffered).unwrap();
        file.write_at(&content, 0).unwrap();
        let pace = Arc::new(Pace::default());
        (content, Arc::clone(&pace), PacedDisk::new(Arc::new(disk), pace, bytes_per_second))
    }

    fn open(disk: &PacedDisk) -> Arc<dyn DiskFile> {
        disk.open(Path::new("file"), Access::Read, Caching::Buffered).unwrap()
    }

    proptest! {
        #[test]
        fn any_reads_in_any_order_give_what_is_in_the_file(
            bytes in 0_usize..700_000,
            reads in prop::collection::vec((0_u64..800_000, 0_usize..400_000), 1..12),
        ) {
            let (content, _, disk) = disk_with(bytes, u64::MAX);
            let file = open(&disk);
            for (at, length) in reads {
                let mut buffer = vec![0; length];
                let read = file.read_at(&mut buffer, at).unwrap();
                let from = (at as usize).min(content.len());
                let expected = &content[from..content.len().min(from + length)];
                prop_assert_eq!(&buffer[..read], expected);
            }
        }
    }

    #[test]
    fn a_file_read_from_front_to_end_is_read_once_and_takes_the_time_that_its_bytes_take() {
        let (content, pace, disk) = disk_with(1 << 20, 8 << 20);
        let (file, mut buffer) = (open(&disk), vec![0; 100_000]);
        let begun = Instant::now();
        let mut at = 0;
        while at < content.len() {
            let read = file.read_at(&mut buffer, at as u64).unwrap();
            assert_eq!(buffer[..read], content[at..at + read]);
            at += read;
        }
        // The last step is not waited for.
        assert!(begun.elapsed() >= Duration::from_millis(90), "{:?}", begun.elapsed());
        // Each read but the first begins inside what the one before it has read.
        assert!((1 << 20..(1 << 20) + 2 * BLOCK_BYTES as u64).contains(&pace.bytes_read()));
    }

    #[test]
    fn whoever_waits_for_its_turn_is_broken_off_and_nothing_is_read_after_that() {
        let (_, pace, disk) = disk_with(1 << 20, 1);
        let file = open(&disk);
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| file.read_at(&mut vec![0; 1 << 20], 0));
            while pace.bytes_read() == 0 {
                std::thread::yield_now();
            }
            pace.stop();
            assert_eq!(reading.join().unwrap().unwrap_err().source.kind(), io::ErrorKind::Interrupted);
        });
        assert!(open(&disk).read_at(&mut [0; 1], 0).is_err());
    }

    #[test]
    fn nothing_can_be_changed_through_it() {
        let (_, _, disk) = disk_with(10, u64::MAX);
        let (name, file) = (Path::new("file"), open(&disk));
        assert!(disk.open(name, Access::ReadWrite, Caching::Buffered).is_err());
        assert!(disk.open(Path::new("new"), Access::CreateNew, Caching::Buffered).is_err());
        assert!(disk.remove(name).is_err() && disk.rename(name, Path::new("new")).is_err());
        assert!(file.write_at(&[1], 0).is_err() && file.set_len(0).is_err() && file.sync_all().is_err());
    }
}
