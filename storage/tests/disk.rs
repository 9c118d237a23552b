//! The real and the simulated disk keep the same contract; the simulated one also keeps its own about losing power.

use std::path::Path;
use std::sync::Arc;

use matchtape_storage::sim::{Fault, PowerLoss, SimDisk};
use matchtape_storage::{Access, AlignedBytes, Caching, Disk, EntryKind, LockError, LockHolder, RealDisk};

fn disks() -> Vec<(Arc<dyn Disk>, Option<tempfile::TempDir>)> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let real = RealDisk::open(directory.path()).expect("the directory exists");
    vec![(Arc::new(SimDisk::new(1)), None), (Arc::new(real), Some(directory))]
}

#[test]
fn both_disks_read_back_what_was_written_and_name_what_is_wrong() {
    for (disk, _keep) in disks() {
        disk.create_directory(Path::new("wal")).expect("created");
        assert!(disk.create_directory(Path::new("wal")).expect_err("exists").is_existing());
        let path = Path::new("wal/one");
        let missing = disk.open(path, Access::ReadWrite, Caching::Buffered).expect_err("not there yet");
        assert!(missing.is_missing() && missing.to_string().contains("cannot open wal/one"), "{missing}");
        let file = disk.open(path, Access::CreateNew, Caching::Buffered).expect("created");
        assert!(disk.open(path, Access::CreateNew, Caching::Buffered).expect_err("exclusive").is_existing());
        file.write_at(&[0; 8192], 0).expect("written");
        file.write_at(b"hello", 4094).expect("written");
        file.sync_data().expect("synced");
        disk.sync_directory(Path::new("wal")).expect("synced");
        file.drop_cache(0, 8192).expect("dropped");
        let mut bytes = [1_u8; 8];
        file.read_exact_at(&mut bytes, 4093).expect("read");
        assert_eq!(&bytes, b"\0hello\0\0");
        assert_eq!(file.read_at(&mut bytes, 8190).expect("short at the end"), 2);
        let short = file.read_exact_at(&mut bytes, 8190).expect_err("too short");
        assert_eq!(short.offset, Some(8190));
        file.set_len(100).expect("cut");
        assert_eq!(file.len_bytes().expect("length"), 100);

        disk.hard_link(path, Path::new("wal/two")).expect("linked");
        assert!(disk.hard_link(path, Path::new("wal/two")).expect_err("taken").is_existing());
        disk.rename(path, Path::new("wal/three")).expect("renamed");
        let names: Vec<String> =
            disk.list(Path::new("wal")).expect("listed").into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["three", "two"]);
        disk.remove(Path::new("wal/two")).expect("removed");
        assert!(disk.remove(Path::new("wal/two")).expect_err("gone").is_missing());
        let root = disk.list(Path::new("")).expect("the root lists too");
        assert_eq!((root[0].name.as_str(), root[0].kind), ("wal", EntryKind::Directory));
        assert!(disk.open(Path::new("../escape"), Access::CreateNew, Caching::Buffered).is_err());
        let readable = disk.open(Path::new("wal/three"), Access::Read, Caching::Buffered).expect("opened");
        assert!(readable.write_at(b"x", 0).is_err(), "opened for reading only");
        assert!(disk.free_bytes().expect("known") > 0);
        let (mut first, mut second) = ([0_u8; 16], [0_u8; 16]);
        disk.random(&mut first).expect("random");
        disk.random(&mut second).expect("random");
        assert_ne!(first, second);
    }
}

#[test]
fn a_second_owner_is_told_who_holds_the_lock_until_it_is_dropped() {
    for (disk, _keep) in disks() {
        let first = LockHolder { pid: 17, started_ns: 42 };
        let lock = disk.lock(Path::new("LOCK"), &first).expect("free");
        let refused =
            disk.lock(Path::new("LOCK"), &LockHolder { pid: 18, started_ns: 43 }).expect_err("held");
        assert!(
            matches!(&refused, LockError::Held { holder: Some(holder), .. } if *holder == first),
            "{refused}"
        );
        drop(lock);
        disk.lock(Path::new("LOCK"), &first).expect("free again");
    }
}

#[test]
fn direct_files_round_trip_aligned_blocks_and_refuse_unaligned_ones_in_words() {
    for (disk, _keep) in disks() {
        let path = Path::new("direct");
        let file = match disk.open(path, Access::CreateNew, Caching::DirectSync) {
            Ok(file) => file,
            // tmpfs and a few others have no direct path at all; there is nothing to test on them.
            Err(error) if error.source.raw_os_error() == Some(22) => continue,
            Err(error) => panic!("{error}"),
        };
        file.write_at(&AlignedBytes::zeroed(3 * 4096), 0).expect("written");
        let mut block = AlignedBytes::zeroed(4096);
        block.fill(7);
        file.write_at(&block, 4096).expect("written");
        let mut back = AlignedBytes::zeroed(3 * 4096);
        file.read_exact_at(&mut back, 0).expect("read");
        assert_eq!(back[4096..8192], block[..]);
        assert!(back[..4096].iter().chain(&back[8192..]).all(|byte| *byte == 0));
        let refused = file.write_at(&block, 100).expect_err("odd offset");
        assert!(refused.to_string().contains("multiples of 4096"), "{refused}");
        assert!(file.write_at(&block[..100], 0).is_err());
    }
}

fn written(disk: &SimDisk, path: &str, bytes: &[u8]) -> Arc<dyn matchtape_storage::DiskFile> {
    let file = disk.open(Path::new(path), Access::CreateNew, Caching::Buffered).expect("created");
    file.write_at(bytes, 0).expect("written");
    file
}

#[test]
fn power_loss_keeps_what_was_synced_and_may_keep_lose_or_tear_the_rest() {
    let disk = SimDisk::new(1);
    let file = written(&disk, "a", &[1; 2048]);
    file.sync_data().expect("synced");
    disk.sync_directory(Path::new("")).expect("synced");
    file.write_at(&[2; 2048], 0).expect("written");
    let end = disk.operations();
    let find = |choice| disk.crash_at(end, choice).content(Path::new("a")).expect("the name was synced");
    assert_eq!(find(PowerLoss::LoseUnsynced), vec![1; 2048]);
    assert_eq!(find(PowerLoss::KeepUnsynced), vec![2; 2048]);
    let mut torn = 0;
    for seed in 0..64 {
        let found = find(PowerLoss::Seeded(seed));
        for sector in found.chunks(512) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is never torn");
        }
        torn += usize::from(found.contains(&1) && found.contains(&2));
    }
    assert!(torn > 0, "some seeds tear the write");
    assert_eq!(disk.kill_at(end).content(Path::new("a")).expect("there"), vec![2; 2048]);
}

#[test]
fn a_synced_file_whose_directory_was_not_synced_can_lose_its_name() {
    let disk = SimDisk::new(1);
    written(&disk, "a", b"x").sync_all().expect("synced");
    let end = disk.operations();
    assert_eq!(disk.crash_at(end, PowerLoss::LoseUnsynced).content(Path::new("a")), None);
    disk.sync_directory(Path::new("")).expect("synced");
    assert_eq!(disk.crash_at(end + 1, PowerLoss::LoseUnsynced).content(Path::new("a")), Some(b"x".to_vec()));
    disk.rename(Path::new("a"), Path::new("b")).expect("renamed");
    let lost = disk.crash_at(disk.operations(), PowerLoss::LoseUnsynced);
    assert!(lost.content(Path::new("a")).is_some() && lost.content(Path::new("b")).is_none());
}

#[test]
fn unsynced_writes_can_survive_in_the_wrong_order() {
    let disk = SimDisk::new(1);
    let file = written(&disk, "a", &[0; 1024]);
    file.sync_all().expect("synced");
    disk.sync_directory(Path::new("")).expect("synced");
    file.write_at(&[1; 512], 0).expect("written");
    file.write_at(&[2; 512], 512).expect("written");
    let reordered = (0..64).any(|seed| {
        let found =
            disk.crash_at(disk.operations(), PowerLoss::Seeded(seed)).content(Path::new("a")).expect("there");
        found[0] == 0 && found[512] == 2
    });
    assert!(reordered);
}

#[test]
fn a_failed_sync_leaves_bytes_in_the_cache_that_never_reach_the_disk() {
    let disk = SimDisk::new(1);
    let file = written(&disk, "a", &[1; 4096]);
    file.sync_all().expect("synced");
    disk.sync_directory(Path::new("")).expect("synced");
    file.write_at(&[2; 4096], 0).expect("written");
    disk.fail_next(Fault::Eio);
    file.sync_data().expect_err("as planned");
    file.sync_data().expect("the second sync lies, as it does on Linux");
    let mut seen = [0; 4096];
    file.read_exact_at(&mut seen, 0).expect("read");
    assert_eq!(seen[0], 2, "the cache still shows the bytes");
    let lost = disk.crash_at(disk.operations(), PowerLoss::KeepUnsynced);
    assert_eq!(lost.content(Path::new("a")).expect("there")[0], 1, "the device never had them");
    file.drop_cache(0, 4096).expect("dropped");
    file.read_exact_at(&mut seen, 0).expect("read");
    assert_eq!(seen[0], 1, "past the cache the truth shows");
}

#[test]
fn a_direct_synchronous_write_is_durable_when_it_returns_and_torn_only_while_under_way() {
    let disk = SimDisk::new(1);
    let file = disk.open(Path::new("a"), Access::CreateNew, Caching::DirectSync).expect("created");
    disk.sync_directory(Path::new("")).expect("synced");
    file.write_at(&AlignedBytes::zeroed(8192), 0).expect("written");
    let mut block = AlignedBytes::zeroed(8192);
    block.fill(9);
    let before = disk.operations();
    file.write_at(&block, 0).expect("written");
    let after = disk.crash_at(before + 1, PowerLoss::LoseUnsynced).content(Path::new("a")).expect("there");
    assert_eq!(after, block[..]);
    let torn = (0..64).any(|seed| {
        let found = disk.crash_at(before, PowerLoss::Seeded(seed)).content(Path::new("a")).expect("there");
        found.contains(&0) && found.contains(&9)
    });
    assert!(torn);
}

#[test]
fn faults_hit_the_planned_operation_and_a_killed_process_cannot_go_on() {
    let disk = SimDisk::new(1);
    let file = written(&disk, "a", &[0; 1024]);
    disk.fail_next(Fault::Enospc);
    let full = file.write_at(&[5; 1024], 0).expect_err("as planned");
    assert!(full.is_full(), "{full}");
    let half = disk.content(Path::new("a")).expect("there");
    assert_eq!((half[511], half[512]), (5, 0), "half of it had been written");
    disk.fail_next(Fault::MisdirectTo(512));
    file.write_at(&[6; 512], 0).expect("the device does not know");
    disk.fail_next_below(Path::new("b"), Fault::Eio);
    file.sync_all().expect("it lies elsewhere");
    disk.create_directory(Path::new("b")).expect_err("as planned");
    disk.create_directory(Path::new("b")).expect("once");
    disk.fail_next_below(Path::new("b"), Fault::Eio);
    written(&disk, "bb", &[0; 512]);
    disk.sync_directory(Path::new("b")).expect_err("as planned");
    disk.sync_directory(Path::new("b")).expect("once");
    let misdirected = disk.content(Path::new("a")).expect("there");
    assert_eq!((misdirected[0], misdirected[512]), (5, 6));
    disk.flip_bit(Path::new("a"), 3, 7);
    assert_eq!(disk.content(Path::new("a")).expect("there")[3], 5 ^ 0x80);
    disk.make_unreadable(Path::new("a"), 100..101);
    assert!(file.read_at(&mut [0; 200], 0).is_err() && file.read_at(&mut [0; 50], 0).is_ok());
    disk.set_capacity(1500);
    assert!(file.write_at(&[1; 1000], 1000).expect_err("too small").is_full());
    disk.kill();
    assert!(file.write_at(&[7; 1], 0).is_err(), "the process is gone");
}
