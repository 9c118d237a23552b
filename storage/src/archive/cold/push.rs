//! Moving event tables to the cold tier, and removing objects that no table needs any more.

use std::io::Read;
use std::ops::ControlFlow;

use matchtape_schemas::{AcceptedTime, TapeId};
use serde::Serialize;

use super::{ColdError, ColdObject, ColdStore, patiently};
use crate::compaction::CompactError;
use crate::disk::{Access, Caching, DiskError, DiskFile};
use crate::flush::{FlushError, Flusher};
use crate::manifest::{Contents, Edit};
use crate::options::Compression;
use crate::pins::{PinKind, Pins};
use crate::read::view::Shared;
use crate::sstable::{EventTable, EventTableMeta, TableError};

/// Bytes asked for at once when an object is read back.
const READ_BACK_BYTES: usize = 4 << 20;
/// Of the pin that keeps retention away from what is being uploaded.
const PIN: &str = "cold";

/// Which event tables move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColdPolicy {
    /// Those whose last event was accepted at or before this time.
    pub accepted_through: AcceptedTime,
    /// So many of the newest stay local in any case; at least one does.
    pub keep_newest: usize,
    /// They are first written anew like this, if they are not. `None`: they move as they are.
    pub compression: Option<Compression>,
}

impl Default for ColdPolicy {
    fn default() -> Self {
        Self { accepted_through: AcceptedTime(i64::MAX), keep_newest: 1, compression: None }
    }
}

/// What is being done to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColdStep {
    /// It is written anew, compressed otherwise.
    Compressing,
    /// Its blocks are checked where they are.
    Checking,
    /// It is being uploaded.
    Uploading,
    /// The object is read back and compared.
    ReadingBack,
    /// An object that no table needs any more is removed.
    Removing,
}

/// Where a push is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColdProgress {
    /// The table's file, or the object's key.
    pub name: String,
    /// What happens to it.
    pub step: ColdStep,
    /// Bytes moved before it.
    pub bytes: u64,
    /// Bytes to move in all.
    pub bytes_total: u64,
}

/// A table that was moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ColdMove {
    /// The local file it was, relative to the data directory.
    pub file: String,
    /// The object it is now.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// Its first event.
    pub first_sequence: u64,
    /// Its last event.
    pub last_sequence: u64,
}

/// What a push did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ColdReport {
    /// Tables that are in the cold tier from now on.
    pub moved: Vec<ColdMove>,
    /// Objects that were removed, as no table needs them.
    pub removed: Vec<String>,
    /// The caller said stop before all was done.
    pub stopped: bool,
}

/// Why a push did not do all. What was moved before stays moved; the table it was at stays local.
#[derive(Debug, thiserror::Error)]
pub enum ColdPushError {
    /// The cold tier did not answer, or refused.
    #[error(transparent)]
    Cold(#[from] ColdError),
    /// The local disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It could not be compressed as it was to be.
    #[error(transparent)]
    Compact(Box<CompactError>),
    /// The local table is damaged: it is not moved, for the damage would be all that is left.
    #[error("not moved: {0}")]
    Table(#[from] TableError),
    /// What was read back is not what was uploaded.
    #[error("{place} gave back something else than {key}: {found}, expected {expected}")]
    ReadBack {
        /// The store.
        place: String,
        /// The object.
        key: String,
        /// Length and hash of the file.
        expected: String,
        /// Length and hash of the object.
        found: String,
    },
    /// The manifest could not be changed.
    #[error(transparent)]
    Manifest(#[from] FlushError),
}

impl From<CompactError> for ColdPushError {
    fn from(error: CompactError) -> Self {
        Self::Compact(Box::new(error))
    }
}

/// The tables that are to move, oldest first.
pub(crate) fn choose(contents: &Contents, policy: &ColdPolicy) -> Vec<EventTableMeta> {
    let local = contents.event_tables.len().saturating_sub(policy.keep_newest.max(1));
    contents.event_tables[..local]
        .iter()
        .filter(|table| table.footer.after.accepted_time <= policy.accepted_through)
        .filter(|table| !contents.cold.contains_key(&table.number))
        .copied()
        .collect()
}

/// Moves what the policy chooses, one table after the other. The caller sees to it that nobody else pushes or collects: what is
/// being uploaded looks like an object without a table.
pub(crate) fn push(
    shared: &Shared,
    flusher: &Flusher,
    pins: &Pins,
    policy: &ColdPolicy,
    progress: &mut dyn FnMut(ColdProgress) -> ControlFlow<()>,
) -> Result<ColdReport, ColdPushError> {
    let chosen = flusher.with_contents(|contents| choose(contents, policy));
    let bytes_total = chosen.iter().map(|table| table.bytes).sum();
    let mut report = ColdReport::default();
    let mut bytes = 0;
    for meta in chosen {
        // Retention waits for an upload that has begun; what it has dropped before is not uploaded.
        let Ok(_pin) = pins.pin(PinKind::Archive, PIN, meta.first()) else { continue };
        let file = meta.file().path();
        let mut step =
            |step| progress(ColdProgress { name: file.display().to_string(), step, bytes, bytes_total });
        // Held, so that its file stays until this is done with it, also where a pin was broken. Not the view, which would hold
        // memory as long as the upload goes on.
        let table = shared.view().event_tables.iter().find(|table| table.meta == meta).cloned();
        let Some(table) = table else { continue };
        if step(ColdStep::Checking).is_break() {
            report.stopped = true;
            return Ok(report);
        }
        check(&table)?;
        if step(ColdStep::Uploading).is_break() {
            report.stopped = true;
            return Ok(report);
        }
        // Whoever stops or fails behind this leaves an object that is known and has no table: it is removed like any other.
        let (object, announced) = upload(shared, flusher, &meta)?;
        if step(ColdStep::ReadingBack).is_break() {
            report.stopped = true;
            return Ok(report);
        }
        read_back(&*shared.cold, &object)?;
        let mut moved = false;
        flusher.change_files(shared, |contents| {
            let stands = contents.event_tables.contains(&meta) && !contents.cold.contains_key(&meta.number);
            moved = stands;
            if !stands {
                return Vec::new();
            }
            vec![Edit::RemovedCold(announced), Edit::MovedCold(object.clone())]
        })?;
        if !moved {
            // Dropped or replaced meanwhile: the object is removed as one without a table.
            continue;
        }
        // With this last reader of it, the local file goes.
        drop(table);
        shared.sweep();
        bytes += meta.bytes;
        report.moved.push(ColdMove {
            file: file.display().to_string(),
            key: object.key,
            bytes: meta.bytes,
            first_sequence: meta.first().0,
            last_sequence: meta.last().0,
        });
    }
    Ok(report)
}

/// Every block of a table that is still local.
fn check(table: &EventTable) -> Result<(), TableError> {
    let mut buffer = Vec::new();
    for leaf in table.top()? {
        for entry in table.leaf(leaf)?.entries() {
            table.load_uncached(entry, &mut buffer)?;
        }
    }
    Ok(())
}

/// A local file, front to back.
struct Source<'a> {
    file: &'a dyn DiskFile,
    at: u64,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buffer, self.at).map_err(std::io::Error::other)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Announces the object in the manifest, under a file number that no table has, so that it is removed if nothing comes of it;
/// then uploads it. Returns it and that number.
fn upload(
    shared: &Shared,
    flusher: &Flusher,
    meta: &EventTableMeta,
) -> Result<(ColdObject, u64), ColdPushError> {
    let path = meta.file().path();
    let file = shared.disk.open(&path, Access::Read, Caching::Buffered)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_BACK_BYTES.min(meta.bytes as usize)];
    let mut at = 0;
    while at < meta.bytes {
        let wanted = buffer.len().min((meta.bytes - at) as usize);
        file.read_exact_at(&mut buffer[..wanted], at)?;
        hasher.update(&buffer[..wanted]);
        at += wanted as u64;
    }
    let hash = *hasher.finalize().as_bytes();
    let mut nonce = [0; 8];
    shared.disk.random(&mut nonce)?;
    let key = key(shared.tape, meta.number, &hash, &nonce);
    let object = ColdObject { number: meta.number, bytes: meta.bytes, hash, key };
    debug_assert!(object.is_possible());
    let announced = flusher.take_files(1).start;
    flusher.change_files(shared, |_| {
        vec![Edit::MovedCold(ColdObject { number: announced, ..object.clone() })]
    })?;
    patiently(&*shared.cold, || {
        let mut source = Source { file: &*file, at: 0 };
        shared.cold.put(&object.key, &mut source, object.bytes)
    })?;
    Ok((object, announced))
}

/// `TAPE/NUMBER-HASH-NONCE.events`. A restored copy of a store has the same tape, numbers and bytes, and may be given the same
/// place; an object must be only one store's, for the one that drops its table removes it. So a random part is in the key.
fn key(tape: TapeId, number: u64, hash: &[u8; 32], nonce: &[u8; 8]) -> String {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    format!("{:016x}/{number:016}-{}-{}.events", tape.0, hex(&hash[..8]), hex(nonce))
}

/// The object is what was uploaded: its length as the store states it, and its bytes as it gives them.
fn read_back(store: &dyn ColdStore, object: &ColdObject) -> Result<(), ColdPushError> {
    let stated = patiently(store, || store.head(&object.key))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_BACK_BYTES.min(object.bytes as usize)];
    let mut at = 0;
    while at < object.bytes {
        let wanted = buffer.len().min((object.bytes - at) as usize);
        let read = patiently(store, || store.get_range(&object.key, at, &mut buffer[..wanted]))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        at += read as u64;
    }
    let found = *hasher.finalize().as_bytes();
    if (stated, at, found) == (object.bytes, object.bytes, object.hash) {
        return Ok(());
    }
    let show = |bytes: u64, hash: [u8; 32]| format!("{bytes} bytes, BLAKE3 {}", blake3::Hash::from(hash));
    Err(ColdPushError::ReadBack {
        place: store.place().to_owned(),
        key: object.key.clone(),
        expected: show(object.bytes, object.hash),
        found: show(if stated == object.bytes { at } else { stated }, found),
    })
}

/// Removes objects whose tables the manifest does not name any more, once nobody in this process reads them.
pub(crate) fn collect(
    shared: &Shared,
    flusher: &Flusher,
    progress: &mut dyn FnMut(ColdProgress) -> ControlFlow<()>,
    report: &mut ColdReport,
) -> Result<(), ColdPushError> {
    let now = flusher.with_contents(Contents::clone);
    let named = |number: u64| now.event_tables.iter().any(|table| table.number == number);
    let needed = |key: &str| now.cold.values().any(|object| named(object.number) && object.key == key);
    for object in now.cold.values().filter(|object| !named(object.number)) {
        // Two entries of one key are nothing that is written; but nothing that is named may ever be removed.
        if needed(&object.key) || shared.is_cold_read(object.number) {
            continue;
        }
        let name = object.key.clone();
        if progress(ColdProgress { name, step: ColdStep::Removing, bytes: 0, bytes_total: 0 }).is_break() {
            report.stopped = true;
            return Ok(());
        }
        patiently(&*shared.cold, || shared.cold.delete(&object.key))?;
        // Only now: whatever happened before, the object is still known and its removal is tried again.
        flusher.change_files(shared, |_| vec![Edit::RemovedCold(object.number)])?;
        shared.forget_cold(object.number);
        report.removed.push(object.key.clone());
    }
    Ok(())
}
