//! Files of the first release, which every later one must still read: a closed store with two flushes, and what was in it.
//!
//! `MATCHTAPE_WRITE_GOLDEN=1` writes the files anew; only for a format that was not released yet.

mod model;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use matchtape_schemas::Sequence;
use matchtape_storage::sim::{Random, SimDisk};
use matchtape_storage::{
    Access, Caching, Compression, Disk, EntryKind, EventStore, ReadOnlyOptions, ReadOnlyStore, StoreOptions,
    WalOptions,
};
use model::*;

const DIRECTORIES: [&str; 2] = ["tables", "wal"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn options(compression: Compression) -> StoreOptions {
    let small = small_options();
    StoreOptions { compression, wal: WalOptions { segment_bytes: 16 << 10, ..small.wal.clone() }, ..small }
}

/// The same events in every release: their making depends on nothing but the seed.
fn written(compression: Compression) -> (SimDisk, Vec<Placed>) {
    let disk = SimDisk::new(5);
    let (mut driven, _) =
        Driven::open(Arc::new(disk.clone()), options(compression), Vec::new(), 3).expect("created");
    for _ in 0..2 {
        for _ in 0..3 {
            driven.append(2, true);
        }
        driven.store.flush().expect("flushed");
    }
    driven.append(1, true);
    let Driven { store, writer, events, .. } = driven;
    writer.close().expect("closed");
    drop(store);
    (disk, events)
}

fn files(disk: &SimDisk) -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("manifest")];
    for directory in DIRECTORIES {
        for entry in disk.list(Path::new(directory)).expect("listed") {
            if entry.kind == EntryKind::File {
                files.push(Path::new(directory).join(entry.name));
            }
        }
    }
    files
}

fn write_golden(name: &str, compression: Compression) {
    let (disk, _) = written(compression);
    let root = golden(name);
    let _ = std::fs::remove_dir_all(&root);
    for path in files(&disk) {
        let target = root.join(&path);
        std::fs::create_dir_all(target.parent().expect("below the root")).expect("created");
        std::fs::write(target, disk.content(&path).expect("there")).expect("written");
    }
}

/// The golden files on a disk of their own.
fn read_golden(name: &str) -> SimDisk {
    let disk = SimDisk::new(1);
    let put = |path: &Path, bytes: &[u8]| {
        let file = disk.open(path, Access::CreateNew, Caching::Buffered).expect("created");
        file.write_at(bytes, 0).expect("written");
    };
    for directory in DIRECTORIES {
        disk.create_directory(Path::new(directory)).expect("created");
        for entry in
            std::fs::read_dir(golden(name).join(directory)).expect("the golden files are in the repository")
        {
            let entry = entry.expect("listed");
            let bytes = std::fs::read(entry.path()).expect("read");
            put(&Path::new(directory).join(entry.file_name()), &bytes);
        }
    }
    put(Path::new("manifest"), &std::fs::read(golden(name).join("manifest")).expect("read"));
    disk
}

fn check_golden(name: &str, compression: Compression) {
    if std::env::var_os("MATCHTAPE_WRITE_GOLDEN").is_some() {
        write_golden(name, compression);
    }
    let (_, events) = written(compression);
    let disk = read_golden(name);
    let watched = ReadOnlyStore::open(Arc::new(disk.clone()), ReadOnlyOptions::default()).expect("opened");
    assert_eq!(watched.reader().visible(), Sequence(events.len() as u64));
    check_reader(&watched.reader(), &events, &mut Random::new(1), 50);
    let (store, report) =
        EventStore::open(Arc::new(disk), options(compression), projections()).expect("opened");
    assert!(report.replayed_events > 0 && report.snapshot_sequence == report.flushed_through, "{report}");
    assert_eq!(store.projection_section("digest"), Some(&*Digest::of(&events).bytes()));
    check_reader(&store.reader(), &events, &mut Random::new(2), 50);
    assert!(store.verify(&mut |_| {}).expect("verified").is_sound());
}

#[test]
fn files_of_the_first_release_are_read_and_hold_what_was_written() {
    check_golden("1", Compression::Lz4);
}

#[cfg(feature = "zstd")]
#[test]
fn tables_of_the_first_release_that_zstandard_has_compressed_are_read_too() {
    check_golden("1-zstd", Compression::Zstd);
    let table = std::fs::read(golden("1-zstd").join("tables/0000000000000001.events")).expect("read");
    // Behind the file's header, in that of the first block: how its payload lies there.
    assert_eq!(table[64 + 9], 2);
}
