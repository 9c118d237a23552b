//! The cold tier in a directory: objects of every size, and a store on a real disk that moves its tables there.
#![cfg(feature = "cold")]

mod model;

use std::ops::ControlFlow;
use std::sync::Arc;

use matchtape_storage::archive::{ColdError, ColdPlaceError, ColdPolicy, open_cold};
use matchtape_storage::sim::Random;
use matchtape_storage::{ReadOnlyOptions, ReadOnlyStore, RealDisk, StoreOptions};
use model::*;

#[test]
fn objects_of_every_size_come_back_whole_and_in_part() {
    let directory = tempfile::tempdir().expect("made");
    let store = open_cold(&directory.path().join("new").display().to_string()).expect("opened");
    for bytes in [0, 1, 4096, (8 << 20) - 1, 8 << 20, (8 << 20) + 1, 20 << 20] {
        let object: Vec<u8> = (0..bytes).map(|at: usize| (at * 7 + at / 251) as u8).collect();
        let key = format!("tape/{bytes}.events");
        store.put(&key, &mut object.as_slice(), bytes as u64).expect("stored");
        store.put(&key, &mut object.as_slice(), bytes as u64).expect("replaced");
        assert_eq!(store.head(&key).expect("there"), bytes as u64);
        let mut back = vec![0; bytes];
        assert_eq!(store.get_range(&key, 0, &mut back).expect("read"), bytes);
        assert!(back == object);
        let mut part = [0xAA; 100];
        let middle = bytes / 2;
        let read = store.get_range(&key, middle as u64, &mut part).expect("read");
        assert_eq!(part[..read], object[middle..bytes.min(middle + 100)]);
        assert_eq!(store.get_range(&key, bytes as u64 + 5, &mut part).expect("behind the end"), 0);
        store.delete(&key).expect("removed");
        store.delete(&key).expect("removed before");
        assert!(matches!(store.head(&key), Err(ColdError::Missing { .. })));
        let missing = store.get_range(&key, 0, &mut part);
        assert!(
            matches!(&missing, Err(ColdError::Missing { key: named, .. }) if *named == key),
            "{missing:?}"
        );
    }
}

#[test]
fn a_source_that_ends_early_is_no_object() {
    let directory = tempfile::tempdir().expect("made");
    let store = open_cold(&directory.path().display().to_string()).expect("opened");
    for bytes in [10, 20 << 20] {
        let short = vec![1; bytes - 1];
        let refused = store.put("a/b", &mut short.as_slice(), bytes as u64);
        assert!(matches!(refused, Err(ColdError::Failed { .. })), "{refused:?}");
        assert!(matches!(store.head("a/b"), Err(ColdError::Missing { .. })));
    }
}

#[test]
fn a_place_that_cannot_be_is_refused_with_the_reason() {
    for place in ["ftp://host/x", "gopher://x"] {
        let refused = open_cold(place).expect_err("unknown");
        assert!(
            matches!(&refused, ColdPlaceError::Unknown { place: named, .. } if named == place),
            "{refused}"
        );
    }
    let file = tempfile::NamedTempFile::new().expect("made");
    let refused = open_cold(&file.path().display().to_string()).expect_err("a file");
    assert!(matches!(refused, ColdPlaceError::System { .. }), "{refused}");
}

#[test]
fn a_store_on_a_real_disk_is_read_from_its_directory_of_objects_from_any_thread() {
    let (data, objects) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
    let place = format!("file://{}", objects.path().display());
    let cold = open_cold(&place).expect("opened");
    let options = StoreOptions { cold: Some(Arc::clone(&cold)), ..small_options() };
    let disk = Arc::new(RealDisk::open(data.path()).expect("opened"));
    let (mut driven, _) = Driven::open(disk.clone(), options, Vec::new(), 5).expect("created");
    for _ in 0..6 {
        driven.append(4, true);
        driven.store.flush().expect("flushed");
    }
    let go_on = &mut |_| ControlFlow::Continue(());
    let report = driven.store.push_cold(&ColdPolicy::default(), go_on).expect("pushed");
    assert_eq!(report.moved.len(), 5);
    let objects: u64 = report.moved.iter().map(|moved| cold.head(&moved.key).expect("there")).sum();
    assert_eq!(objects, driven.store.inspect().cold_bytes);
    driven.check(30);
    let events = driven.events.clone();
    drop((driven, cold));

    // Also from inside another runtime, and dropped there.
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("made");
    runtime.block_on(async {
        let options =
            ReadOnlyOptions { cold: Some(open_cold(&place).expect("opened")), ..Default::default() };
        let watched = ReadOnlyStore::open(disk, options).expect("opened");
        check_reader(&watched.reader(), &events, &mut Random::new(1), 30);
        assert!(watched.verify(&mut |_| {}).expect("verified").is_sound());
    });
}
