//! A disk in memory that can lose power, fail, lie and be cut off, at any operation, reproducibly.
//!
//! Every mutating operation is recorded. [`SimDisk::crash_at`] rebuilds what a machine would find after losing
//! power just before, or in the middle of, the operation of that index: synced bytes and synced directory entries
//! are there, the rest is kept, lost or torn by a seeded choice. [`SimDisk::kill_at`] rebuilds what the
//! next process finds after `kill -9`: nothing is lost, but nothing became durable either.
//!
//! `model.rs` holds the rules of what survives; this file is the [`Disk`] in front of it.

mod model;
mod random;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use self::model::{Model, Op};
pub use self::model::{PowerLoss, SECTOR_BYTES};
pub use self::random::Random;
use super::{
    Access, Caching, Disk, DiskError, DiskFile, DiskLock, Entry, LockError, LockHolder, Operation,
    check_direct, check_relative,
};

/// What goes wrong at one recorded operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails with an I/O error. A write leaves its first half behind; a sync loses what it should
    /// have made durable while the page cache goes on showing it, as Linux does.
    Eio,
    /// The operation fails because the disk is full. A write leaves its first half behind.
    Enospc,
    /// A write reports success but lands at this byte of the file.
    MisdirectTo(u64),
    /// A sync reports success and does nothing: a device that lies.
    SyncIgnored,
}

/// A file was read, or it was said that it will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadStep {
    /// Which one.
    pub path: PathBuf,
    /// Which bytes.
    pub bytes: Range<u64>,
    /// Nothing was read: see [`DiskFile::will_need`].
    pub is_hint: bool,
}

/// A simulated data directory. Clones share it.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    base: Model,
    now: Model,
    trace: Vec<Op>,
    faults: Vec<(usize, Fault)>,
    /// What every mutating operation meets.
    broken: Option<Fault>,
    /// Of the next operation on what lies below.
    next_below: Option<(PathBuf, Fault)>,
    /// Operations that there was no room for.
    refused: usize,
    unreadable: Vec<(PathBuf, Range<u64>)>,
    forbidden: Vec<PathBuf>,
    locks: BTreeSet<PathBuf>,
    lock_text: Option<LockHolder>,
    /// Raised by `kill`: handles of an earlier life cannot act any more.
    life: u64,
    capacity_bytes: u64,
    random: Random,
    /// Operations that were under way together.
    at_once: Vec<Range<usize>>,
    before_write: Option<BeforeWrite>,
    reads: Option<Vec<ReadStep>>,
    dropped: Vec<(PathBuf, Range<u64>)>,
    open_files: usize,
    open_files_peak: usize,
}

/// Called before a write, with its place in the file.
#[derive(Clone)]
struct BeforeWrite(Arc<dyn Fn(u64) + Send + Sync>);

impl fmt::Debug for BeforeWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeforeWrite")
    }
}

impl SimDisk {
    /// An empty disk; `seed` decides the random bytes it hands out.
    pub fn new(seed: u64) -> Self {
        Self::of(Model::default(), seed)
    }

    fn of(model: Model, seed: u64) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                base: model.clone(),
                now: model,
                trace: Vec::new(),
                faults: Vec::new(),
                broken: None,
                next_below: None,
                refused: 0,
                unreadable: Vec::new(),
                forbidden: Vec::new(),
                locks: BTreeSet::new(),
                lock_text: None,
                life: 0,
                capacity_bytes: 1 << 40,
                random: Random::new(seed),
                at_once: Vec::new(),
                before_write: None,
                reads: None,
                dropped: Vec::new(),
                open_files: 0,
                open_files_peak: 0,
            })),
        }
    }

    /// What was read since this was called last; nothing the first time.
    pub fn take_reads(&self) -> Vec<ReadStep> {
        self.state.lock().reads.replace(Vec::new()).unwrap_or_default()
    }

    /// The ranges that the page cache was told to forget since this was called last.
    pub fn take_dropped(&self) -> Vec<(PathBuf, Range<u64>)> {
        std::mem::take(&mut self.state.lock().dropped)
    }

    /// Files that are open now.
    pub fn open_files(&self) -> usize {
        self.state.lock().open_files
    }

    /// The most files that were open at one moment.
    pub fn open_files_peak(&self) -> usize {
        self.state.lock().open_files_peak
    }

    /// How many mutating operations were recorded.
    pub fn operations(&self) -> usize {
        self.state.lock().trace.len()
    }

    /// The recorded operations, one line each, for the message of a failing test.
    pub fn describe_trace(&self) -> Vec<String> {
        self.state.lock().trace.iter().map(Op::to_string).collect()
    }

    /// What is found after power was lost with the first `operation` operations done and the next one under way.
    pub fn crash_at(&self, operation: usize, choice: PowerLoss) -> SimDisk {
        let (model, under_way) = self.replay(operation);
        Self::of(model.after_power_loss(&under_way, choice), operation as u64 ^ 0x5EED)
    }

    /// What the next process finds after this one was killed with the first `operation` operations done: all of
    /// it, though what was not synced still is not.
    pub fn kill_at(&self, operation: usize) -> SimDisk {
        Self::of(self.replay(operation).0, operation as u64 ^ 0xDEAD)
    }

    /// Calls `visit` for every crash point, in order, without replaying from the start each time.
    pub fn for_each_crash_point(&self, mut visit: impl FnMut(&CrashPoint<'_>)) {
        let (mut model, trace, at_once) = {
            let state = self.state.lock();
            (state.base.clone(), state.trace.clone(), state.at_once.clone())
        };
        for operation in 0..=trace.len() {
            let under_way = &trace[under_way(&at_once, operation, trace.len())];
            visit(&CrashPoint { operation, model: &model, under_way });
            if let Some(op) = trace.get(operation) {
                model.apply(op);
            }
        }
    }

    fn replay(&self, operations: usize) -> (Model, Vec<Op>) {
        let state = self.state.lock();
        let mut model = state.base.clone();
        for op in &state.trace[..operations] {
            model.apply(op);
        }
        let under_way = under_way(&state.at_once, operations, state.trace.len());
        (model, state.trace[under_way].to_vec())
    }

    /// All writes of `act` were begun before the first of them ended; they end in the order in which it does them.
    pub fn at_once<R>(&self, act: impl FnOnce() -> R) -> R {
        let start = self.operations();
        let result = act();
        let end = self.operations();
        self.state.lock().at_once.push(start..end);
        result
    }

    /// Calls `hook` before every write, with its place in the file, on the thread that writes. It may block.
    pub fn before_write(&self, hook: impl Fn(u64) + Send + Sync + 'static) {
        self.state.lock().before_write = Some(BeforeWrite(Arc::new(hook)));
    }

    /// Ends the process that uses this disk: its handles stop working and its locks are free. The page cache stays.
    pub fn kill(&self) {
        let mut state = self.state.lock();
        state.life += 1;
        state.locks.clear();
    }

    /// Makes the mutating operation with this index in the trace go wrong.
    pub fn fail_at(&self, operation: usize, fault: Fault) {
        self.state.lock().faults.push((operation, fault));
    }

    /// Makes the next mutating operation go wrong, whichever thread begins it.
    pub fn fail_next(&self, fault: Fault) {
        let mut state = self.state.lock();
        // Counted under the lock: another thread may write between two calls.
        let next = state.trace.len();
        state.faults.push((next, fault));
    }

    /// Makes the next mutating operation on a file or directory below `directory` go wrong.
    pub fn fail_next_below(&self, directory: &Path, fault: Fault) {
        self.state.lock().next_below = Some((directory.to_path_buf(), fault));
    }

    /// How many operations found no room, see [`set_capacity`](Self::set_capacity).
    pub fn refused(&self) -> usize {
        self.state.lock().refused
    }

    /// Makes every mutating operation from now on go wrong.
    pub fn fail_all(&self, fault: Fault) {
        self.state.lock().broken = Some(fault);
    }

    /// Ends that.
    pub fn mend(&self) {
        self.state.lock().broken = None;
    }

    /// Makes reads that touch these bytes of a file fail with an I/O error.
    pub fn make_unreadable(&self, path: &Path, bytes: Range<u64>) {
        self.state.lock().unreadable.push((path.to_path_buf(), bytes));
    }

    /// Refuses to open these files from now on, as if this process had no right to; an empty list ends that.
    pub fn forbid(&self, paths: &[PathBuf]) {
        self.state.lock().forbidden = paths.to_vec();
    }

    /// Limits the sum of all file lengths; beyond it, writes fail with "no space".
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity_bytes = bytes;
    }

    /// Inverts one bit on the device and in the cache.
    ///
    /// # Panics
    /// If the file or the byte does not exist.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) {
        let at = usize::try_from(offset).expect("the offset fits memory");
        self.edit(path, |bytes| bytes[at] ^= 1 << bit);
    }

    /// Changes a file's content behind everyone's back, on the device and in the cache; its length may change too.
    ///
    /// # Panics
    /// If the file does not exist.
    pub fn edit(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        let file = state.now.file_at(path).expect("the file to edit exists");
        let mut bytes = state.now.cached(file).to_vec();
        change(&mut bytes);
        state.record(Op::Replace { file, bytes: bytes.into() });
    }

    /// A file's content as a buffered read sees it.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let file = state.now.file_at(path)?;
        Some(state.now.cached(file).to_vec())
    }
}

/// The operations that were begun and not finished with the first `operation` of `operations` done.
fn under_way(at_once: &[Range<usize>], operation: usize, operations: usize) -> Range<usize> {
    let together = at_once.iter().find(|range| range.contains(&operation));
    operation..together.map_or((operation + 1).min(operations), |range| range.end)
}

/// One moment at which the power, or the process, can end.
pub struct CrashPoint<'a> {
    /// How many operations were done.
    pub operation: usize,
    model: &'a Model,
    under_way: &'a [Op],
}

impl CrashPoint<'_> {
    /// See [`SimDisk::crash_at`].
    pub fn power_loss(&self, choice: PowerLoss) -> SimDisk {
        SimDisk::of(self.model.after_power_loss(self.under_way, choice), self.operation as u64 ^ 0x5EED)
    }

    /// See [`SimDisk::kill_at`].
    pub fn killed(&self) -> SimDisk {
        SimDisk::of(self.model.clone(), self.operation as u64 ^ 0xDEAD)
    }
}

impl State {
    fn record(&mut self, op: Op) {
        self.now.apply(&op);
        self.trace.push(op);
    }

    /// The fault planned for the operation that is about to be recorded.
    fn fault(&mut self, path: &Path) -> Option<Fault> {
        if let Some((_, fault)) = self.next_below.take_if(|(directory, _)| path.starts_with(directory)) {
            self.faults.push((self.trace.len(), fault));
        }
        let planned = self.faults.iter().find(|(operation, _)| *operation == self.trace.len());
        planned.map(|(_, fault)| *fault).or(self.broken)
    }

    fn fail(&mut self, operation: Operation, path: &Path) -> Result<(), DiskError> {
        let kind = match self.fault(path) {
            None | Some(Fault::MisdirectTo(_) | Fault::SyncIgnored) => return Ok(()),
            Some(fault @ (Fault::Eio | Fault::Enospc)) => fault,
        };
        self.trace.push(Op::Nothing);
        Err(DiskError::new(operation, path, error_of(kind)))
    }

    fn make_room(&mut self, operation: Operation, path: &Path, more_bytes: u64) -> Result<(), DiskError> {
        // What failed for want of room may have left a part behind; cutting that off needs none.
        if more_bytes == 0 || self.now.used_bytes() + more_bytes <= self.capacity_bytes {
            return Ok(());
        }
        self.refused += 1;
        Err(DiskError::new(operation, path, error_of(Fault::Enospc)))
    }
}

fn error_of(fault: Fault) -> io::Error {
    match fault {
        Fault::Enospc => io::Error::from_raw_os_error(28),
        Fault::Eio | Fault::MisdirectTo(_) | Fault::SyncIgnored => io::Error::from_raw_os_error(5),
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, access: Access, caching: Caching) -> Result<Arc<dyn DiskFile>, DiskError> {
        check_relative(Operation::Open, path)?;
        let mut state = self.state.lock();
        if state.forbidden.iter().any(|forbidden| forbidden == path) {
            return Err(DiskError::new(Operation::Open, path, io::ErrorKind::PermissionDenied));
        }
        let file = match access {
            Access::Read | Access::ReadWrite => state
                .now
                .file_at(path)
                .ok_or_else(|| DiskError::new(Operation::Open, path, io::ErrorKind::NotFound))?,
            Access::CreateNew => {
                state.fail(Operation::Create, path)?;
                if state.now.exists(path) {
                    return Err(DiskError::new(Operation::Create, path, io::ErrorKind::AlreadyExists));
                }
                if !state.now.has_parent(path) {
                    return Err(DiskError::new(Operation::Create, path, io::ErrorKind::NotFound));
                }
                let file = state.now.next_file();
                state.record(Op::Create { path: path.to_path_buf(), file });
                file
            }
        };
        let life = state.life;
        state.open_files += 1;
        state.open_files_peak = state.open_files_peak.max(state.open_files);
        drop(state);
        Ok(Arc::new(SimFile { disk: self.clone(), path: path.to_path_buf(), file, access, caching, life }))
    }

    fn list(&self, directory: &Path) -> Result<Vec<Entry>, DiskError> {
        check_relative(Operation::List, directory)?;
        let state = self.state.lock();
        state
            .now
            .entries_of(directory)
            .ok_or_else(|| DiskError::new(Operation::List, directory, io::ErrorKind::NotFound))
    }

    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        check_relative(Operation::CreateDirectory, path)?;
        let mut state = self.state.lock();
        state.fail(Operation::CreateDirectory, path)?;
        if state.now.exists(path) {
            return Err(DiskError::new(Operation::CreateDirectory, path, io::ErrorKind::AlreadyExists));
        }
        if !state.now.has_parent(path) {
            return Err(DiskError::new(Operation::CreateDirectory, path, io::ErrorKind::NotFound));
        }
        state.record(Op::CreateDirectory { path: path.to_path_buf() });
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        check_relative(Operation::Rename, from)?;
        check_relative(Operation::Rename, to)?;
        let mut state = self.state.lock();
        state.fail(Operation::Rename, from)?;
        if !state.now.exists(from) || !state.now.has_parent(to) {
            return Err(DiskError::new(Operation::Rename, from, io::ErrorKind::NotFound));
        }
        state.record(Op::Rename { from: from.to_path_buf(), to: to.to_path_buf() });
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        check_relative(Operation::Remove, path)?;
        let mut state = self.state.lock();
        state.fail(Operation::Remove, path)?;
        if state.now.file_at(path).is_none() {
            return Err(DiskError::new(Operation::Remove, path, io::ErrorKind::NotFound));
        }
        state.record(Op::Remove { path: path.to_path_buf() });
        Ok(())
    }

    fn hard_link(&self, existing: &Path, new: &Path) -> Result<(), DiskError> {
        check_relative(Operation::HardLink, existing)?;
        check_relative(Operation::HardLink, new)?;
        let mut state = self.state.lock();
        state.fail(Operation::HardLink, existing)?;
        let of = |kind: io::ErrorKind| DiskError::new(Operation::HardLink, existing, kind);
        let file = state.now.file_at(existing).ok_or_else(|| of(io::ErrorKind::NotFound))?;
        if state.now.exists(new) {
            return Err(of(io::ErrorKind::AlreadyExists));
        }
        if !state.now.has_parent(new) {
            return Err(of(io::ErrorKind::NotFound));
        }
        state.record(Op::Link { file, new: new.to_path_buf() });
        Ok(())
    }

    fn sync_directory(&self, directory: &Path) -> Result<(), DiskError> {
        check_relative(Operation::SyncDirectory, directory)?;
        let mut state = self.state.lock();
        if state.now.entries_of(directory).is_none() {
            return Err(DiskError::new(Operation::SyncDirectory, directory, io::ErrorKind::NotFound));
        }
        if state.fault(directory) == Some(Fault::SyncIgnored) {
            state.trace.push(Op::Nothing);
            return Ok(());
        }
        state.fail(Operation::SyncDirectory, directory)?;
        state.record(Op::SyncDirectory { path: directory.to_path_buf() });
        Ok(())
    }

    fn lock(&self, path: &Path, holder: &LockHolder) -> Result<Box<dyn DiskLock>, LockError> {
        let mut state = self.state.lock();
        if !state.locks.insert(path.to_path_buf()) {
            return Err(LockError::Held { path: path.to_path_buf(), holder: state.lock_text.clone() });
        }
        state.lock_text = Some(holder.clone());
        let life = state.life;
        drop(state);
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_path_buf(), life }))
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        let state = self.state.lock();
        Ok(state.capacity_bytes.saturating_sub(state.now.used_bytes()))
    }

    fn random(&self, bytes: &mut [u8]) -> Result<(), DiskError> {
        let mut state = self.state.lock();
        for byte in bytes {
            *byte = state.random.below(256) as u8;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    life: u64,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        // After a kill the lock may already belong to the next life.
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    file: usize,
    access: Access,
    caching: Caching,
    life: u64,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.state.lock().open_files -= 1;
    }
}

impl SimFile {
    fn act<R>(
        &self,
        operation: Operation,
        act: impl FnOnce(&mut State) -> Result<R, DiskError>,
    ) -> Result<R, DiskError> {
        let mut state = self.disk.state.lock();
        if state.life != self.life {
            let source = io::Error::other("the process that opened this file was killed");
            return Err(DiskError::new(operation, &self.path, source));
        }
        act(&mut state)
    }

    fn check_writable(&self, operation: Operation) -> Result<(), DiskError> {
        match self.access {
            Access::ReadWrite | Access::CreateNew => Ok(()),
            Access::Read => Err(DiskError::new(operation, &self.path, io::Error::from_raw_os_error(9))),
        }
    }

    fn sync(&self, operation: Operation, op: Op) -> Result<(), DiskError> {
        self.act(operation, |state| {
            match state.fault(&self.path) {
                None | Some(Fault::MisdirectTo(_)) => state.record(op),
                Some(Fault::SyncIgnored) => state.trace.push(Op::Nothing),
                Some(fault @ (Fault::Eio | Fault::Enospc)) => {
                    state.record(Op::SyncFailed { file: self.file });
                    return Err(DiskError::new(operation, &self.path, error_of(fault)));
                }
            }
            Ok(())
        })
    }

    fn grow(&self, operation: Operation, bytes: u64) -> Result<(), DiskError> {
        self.act(operation, |state| {
            state.fail(operation, &self.path)?;
            let growth = bytes.saturating_sub(state.now.len_bytes(self.file));
            state.make_room(operation, &self.path, growth)?;
            state.record(Op::SetLen { file: self.file, bytes });
            Ok(())
        })
    }

    fn write_as(&self, operation: Operation, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        self.act(operation, |state| {
            let durable = self.caching == Caching::DirectSync;
            let growth = (offset + bytes.len() as u64).saturating_sub(state.now.len_bytes(self.file));
            let room = state.make_room(operation, &self.path, growth);
            let failure = match state.fault(&self.path) {
                Some(fault @ (Fault::Eio | Fault::Enospc)) => {
                    Some(DiskError::new(operation, &self.path, error_of(fault)))
                }
                Some(Fault::MisdirectTo(elsewhere)) => {
                    state.record(Op::Write {
                        file: self.file,
                        offset: elsewhere,
                        bytes: bytes.into(),
                        durable,
                    });
                    return Ok(());
                }
                None | Some(Fault::SyncIgnored) => room.err(),
            };
            let Some(failure) = failure else {
                state.record(Op::Write { file: self.file, offset, bytes: bytes.into(), durable });
                return Ok(());
            };
            let half = &bytes[..bytes.len() / 2];
            state.record(Op::Write { file: self.file, offset, bytes: half.into(), durable: false });
            Err(failure.at(offset))
        })
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        if self.caching != Caching::Buffered {
            check_direct(Operation::Read, &self.path, buffer, offset)?;
        }
        self.act(Operation::Read, |state| {
            let wanted = offset..offset + buffer.len() as u64;
            let bad = state.unreadable.iter().any(|(path, bytes)| {
                *path == self.path && bytes.start < wanted.end && wanted.start < bytes.end
            });
            if bad {
                return Err(DiskError::new(Operation::Read, &self.path, error_of(Fault::Eio)).at(offset));
            }
            let on_device;
            // Past the cache, which goes on showing what it showed.
            let content = if self.caching == Caching::Buffered {
                state.now.cached(self.file)
            } else {
                on_device = state.now.on_device(self.file);
                &on_device
            };
            let start = content.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
            let read = buffer.len().min(content.len() - start);
            buffer[..read].copy_from_slice(&content[start..start + read]);
            if let Some(reads) = &mut state.reads {
                reads.push(ReadStep { path: self.path.clone(), bytes: wanted, is_hint: false });
            }
            Ok(read)
        })
    }

    fn will_need(&self, offset: u64, bytes: u64) {
        if let Some(reads) = &mut self.disk.state.lock().reads {
            reads.push(ReadStep { path: self.path.clone(), bytes: offset..offset + bytes, is_hint: true });
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        self.check_writable(Operation::Write)?;
        if self.caching != Caching::Buffered {
            check_direct(Operation::Write, &self.path, bytes, offset)?;
        }
        let hook = self.disk.state.lock().before_write.clone();
        if let Some(BeforeWrite(hook)) = hook {
            hook(offset);
        }
        self.write_as(Operation::Write, bytes, offset)
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        self.sync(Operation::SyncData, Op::SyncData { file: self.file })
    }

    fn sync_all(&self) -> Result<(), DiskError> {
        self.sync(Operation::SyncAll, Op::SyncAll { file: self.file })
    }

    fn set_len(&self, bytes: u64) -> Result<(), DiskError> {
        self.check_writable(Operation::SetLength)?;
        self.grow(Operation::SetLength, bytes)
    }

    fn drop_cache(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        self.act(Operation::DropCache, |state| {
            let range = offset..offset.saturating_add(bytes);
            state.now.drop_cache(self.file, range.clone());
            state.dropped.push((self.path.clone(), range));
            Ok(())
        })
    }

    fn len_bytes(&self) -> Result<u64, DiskError> {
        self.act(Operation::Length, |state| Ok(state.now.len_bytes(self.file)))
    }

    fn link_count(&self) -> Result<u64, DiskError> {
        self.act(Operation::Length, |state| Ok(state.now.link_count(self.file)))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
