//! Arbitrary damage to the files of a closed store, with and without true checksums: as a broken disk and as a broken
//! writer leave them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use matchtape_schemas::{OrderId, Sequence};
use matchtape_storage::sim::SimDisk;
use matchtape_storage::{Direction, Disk, Query};

use super::{Driven, Placed, small_options};

/// One byte of one file: which file and which byte are taken modulo what there is.
pub type Damage = (u8, u16, u8);

/// A closed store with two flushes and a tail, and its events.
pub fn finished_store() -> (SimDisk, Vec<Placed>) {
    let disk = SimDisk::new(5);
    let mut driven = Driven::new(&disk, 3);
    for _ in 0..2 {
        driven.append(3, true);
        driven.append(2, true);
        driven.store.flush().expect("flushed");
    }
    driven.append(1, true);
    let Driven { store, writer, events, .. } = driven;
    writer.close().expect("closed");
    drop(store);
    (disk, events)
}

pub fn files(disk: &SimDisk) -> Vec<PathBuf> {
    let entries = disk.list(Path::new("tables")).expect("listed");
    let tables = entries.into_iter().map(|entry| Path::new("tables").join(entry.name));
    tables.chain([PathBuf::from("manifest")]).collect()
}

/// Applies the damage; with `resealed`, every checksum is made to fit again.
pub fn damaged(healthy: &SimDisk, damages: &[Damage], resealed: bool) -> SimDisk {
    let disk = healthy.kill_at(healthy.operations());
    let files = files(&disk);
    for (file, offset, value) in damages {
        let path = &files[usize::from(*file) % files.len()];
        disk.edit(path, |bytes| {
            let pieces = pieces(bytes);
            let at = usize::from(*offset) % bytes.len();
            bytes[at] = *value;
            if resealed {
                reseal(bytes, &pieces);
            }
        });
    }
    disk
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

/// Where the blocks, or the manifest's records, begin and end: both state the length of what follows their 16 bytes
/// first.
fn pieces(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut pieces = Vec::new();
    let mut at = 64;
    while at + 16 <= bytes.len() && at + 16 + word(bytes, at) <= bytes.len() {
        pieces.push((at, at + 16 + word(bytes, at)));
        at += 16 + word(bytes, at);
    }
    pieces
}

/// Both kinds of checksum are over the file's identity (the 16 bytes of the header from 16 on), the offset, the first
/// twelve bytes and the payload.
fn reseal(bytes: &mut [u8], pieces: &[(usize, usize)]) {
    let checksum = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
    for (start, end) in pieces {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[16..32]);
        hasher.update(&(*start as u64).to_le_bytes());
        hasher.update(&bytes[*start..*start + 12]);
        hasher.update(&bytes[*start + 16..*end]);
        let checksum = hasher.finalize();
        bytes[*start + 12..*start + 16].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// The manifest goes on with records of these payloads, whole and with true checksums: what a broken writer, or a later
/// release, could have appended.
pub fn with_records(healthy: &SimDisk, payloads: &[Vec<u8>]) -> SimDisk {
    let disk = healthy.kill_at(healthy.operations());
    disk.edit(Path::new("manifest"), |bytes| {
        for payload in payloads {
            let number = pieces(bytes).len() as u32 + 1;
            bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&number.to_le_bytes());
            bytes.extend_from_slice(&[0; 8]);
            bytes.extend_from_slice(payload);
        }
        let pieces = pieces(bytes);
        reseal(bytes, &pieces);
    });
    disk
}

/// A snapshot whose blocks begin with these payloads, one after the other, under true checksums. Its footer is in the manifest
/// too, so only what lies before it gets past that comparison.
pub fn with_snapshot(healthy: &SimDisk, payloads: &[Vec<u8>]) -> SimDisk {
    let disk = healthy.kill_at(healthy.operations());
    let is_snapshot = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "snapshot");
    let path = files(healthy).into_iter().rfind(is_snapshot).expect("a store that was flushed has one");
    disk.edit(&path, |bytes| {
        let pieces = pieces(bytes);
        for ((start, end), payload) in pieces.iter().zip(payloads) {
            let length = payload.len().min(end - start - 16);
            bytes[start + 16..start + 16 + length].copy_from_slice(&payload[..length]);
        }
        reseal(bytes, &pieces);
    });
    disk
}

/// Whatever happened to the files: opening and asking never panics, and no event is shown that is not the tape's.
pub fn survive_damage(disk: &SimDisk, events: &[Placed]) {
    let Ok((driven, _)) = Driven::open(Arc::new(disk.clone()), small_options(), Vec::new(), 1) else {
        return;
    };
    let reader = driven.store.reader();
    if let Ok(mut cursor) = reader.frames(Sequence::ZERO) {
        while let Ok(Some(frame)) = cursor.next_frame() {
            for event in frame.frame().events() {
                assert_eq!(event.to_event(), events[event.sequence().0 as usize - 1].event);
            }
        }
    }
    let directions = [Direction::Forward, Direction::Backward];
    for direction in directions {
        for order in [None, Some(OrderId(3))] {
            let query = Query { order, direction, ..Query::default() };
            let Ok(found) = reader.query(&query) else { continue };
            for event in found.map_while(Result::ok) {
                assert_eq!(event.event().to_event(), events[event.sequence().0 as usize - 1].event);
            }
        }
    }
    let _ = reader.prefix_through(matchtape_schemas::InstrumentId(1), matchtape_schemas::EventTime(500));
    let _ = reader.snapshot_before(Sequence::MAX);
    let _ = driven.store.verify(&mut |_| {});
}

/// What the fuzz targets begin from.
fn healthy() -> &'static (SimDisk, Vec<Placed>) {
    static HEALTHY: OnceLock<(SimDisk, Vec<Placed>)> = OnceLock::new();
    HEALTHY.get_or_init(finished_store)
}

/// What the fuzz target `tables` does: this damage, with true checksums or without, is survived.
pub fn survive_any((resealed, damages): (bool, Vec<Damage>)) {
    let (disk, events) = healthy();
    survive_damage(&damaged(disk, &damages, resealed), events);
}

/// What the fuzz target `manifest` does: records of these payloads are survived.
pub fn survive_records(payloads: &[Vec<u8>]) {
    let (disk, events) = healthy();
    survive_damage(&with_records(disk, payloads), events);
}

/// What the fuzz target `snapshot` does: blocks of these payloads are survived.
pub fn survive_snapshot(payloads: &[Vec<u8>]) {
    let (disk, events) = healthy();
    survive_damage(&with_snapshot(disk, payloads), events);
}
