//! Compaction beside readers: they go on with the files they hold, in this process and in another one.

mod model;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use matchtape_schemas::*;
use matchtape_storage::sim::{Fault, Random, SimDisk};
use matchtape_storage::{
    CompactError, CompactionOptions, Compression, Disk, PressureReason, Query, ReadOnlyOptions,
    ReadOnlyStore, Reader, RealDisk, StoreMistakes, StoreOptions, Workers,
};
use model::*;

/// A store of several flushes, none merged, with every table closed: nobody has asked one yet.
fn several_tables(disk: &SimDisk, options: &StoreOptions) -> Driven {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (mut driven, _) = Driven::open(Arc::clone(&shared), options.clone(), Vec::new(), 5).expect("created");
    for _ in 0..6 {
        driven.append(3, true);
        driven.store.flush().expect("flushed");
    }
    let Driven { store, writer, events, .. } = driven;
    writer.close().expect("closed");
    store.close().expect("closed");
    Driven::open(shared, options.clone(), events, 6).expect("reopened").0
}

fn tables(disk: &SimDisk) -> Vec<String> {
    let entries = disk.list(std::path::Path::new("tables")).expect("listed");
    entries.into_iter().map(|entry| entry.name).filter(|name| !name.ends_with("snapshot")).collect()
}

/// A reader asks for half an answer, everything is merged, and it asks for the rest. Returns what it was given.
fn read_across_compaction(options: &StoreOptions) -> Result<Vec<u64>, String> {
    let disk = SimDisk::new(3);
    let driven = several_tables(&disk, options);
    let reader = driven.store.reader();
    let query = Query { instrument: Some(InstrumentId(2)), ..Query::default() };
    let mut cursor = reader.query(&query).expect("a cursor");
    let first = cursor.next().expect("an event").expect("readable").sequence().0;
    let before = tables(&disk);
    driven.store.compact(&mut |_| true).expect("compacted");
    let held = tables(&disk);
    if !options.mistakes.files_removed_under_readers {
        assert!(before.iter().all(|name| held.contains(name)), "held by the cursor: {before:?}, {held:?}");
    }
    let mut found = vec![first];
    for event in &mut cursor {
        found.push(event.map_err(|error| error.to_string())?.sequence().0);
    }
    drop(cursor);
    // Whoever compacts, flushes or closes next removes them.
    driven.store.compact(&mut |_| true).expect("nothing more to do");
    let kept = tables(&disk);
    let named = driven.store.inspect();
    assert_eq!(kept.len(), named.index_tables.len() + named.event_tables.len(), "{kept:?}");
    assert!(kept.len() < before.len());
    let expected: Vec<u64> = driven
        .events
        .iter()
        .filter(|placed| placed.event.instrument == InstrumentId(2))
        .map(|placed| placed.sequence.0)
        .collect();
    assert_eq!(found, expected);
    Ok(found)
}

#[test]
fn a_reader_goes_on_with_the_tables_it_holds_and_they_are_removed_when_it_is_done() {
    let found = read_across_compaction(&small_options()).expect("readable to the end");
    assert!(found.len() > 5);
}

#[test]
fn tables_removed_under_a_reader_are_noticed() {
    let mistakes = StoreMistakes { files_removed_under_readers: true, ..Default::default() };
    let error = read_across_compaction(&StoreOptions { mistakes, ..small_options() });
    assert!(error.is_err_and(|error| error.contains("cannot open tables/")));
}

#[test]
fn a_read_only_store_refreshes_when_the_writer_has_merged_its_tables_away() {
    let disk = SimDisk::new(3);
    let mut driven = several_tables(&disk, &small_options());
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let watched = ReadOnlyStore::open(shared, ReadOnlyOptions::default()).expect("opened");
    let mut events = driven.events.clone();
    for round in 0..4 {
        driven.store.compact(&mut |_| true).expect("compacted");
        // What it has open it can read to the end, though the names are gone.
        check_reader(&watched.reader(), &events, &mut Random::new(round), 20);
        driven.append(1, true);
        driven.store.flush().expect("flushed");
        events.clone_from(&driven.events);
        assert_eq!(watched.refresh().expect("refreshed").0, events.len() as u64);
        check_reader(&watched.reader(), &events, &mut Random::new(round), 20);
        assert!(watched.verify(&mut |_| {}).expect("readable").is_sound());
    }
    assert_eq!(watched.inspect().index_tables.len(), driven.store.inspect().index_tables.len());
    assert_eq!(watched.inspect().memory.obsolete_files, 0, "what is gone is not its own to remove");
}

#[test]
fn a_disk_that_is_full_fails_one_merge_and_a_later_one_succeeds() {
    let options = small_options();
    let operations = {
        let disk = SimDisk::new(3);
        let driven = several_tables(&disk, &options);
        let before = disk.operations();
        driven.store.compact(&mut |_| true).expect("compacted");
        disk.describe_trace().split_off(before)
    };
    let (mut failed, mut ended) = (0, 0);
    for (at, operation) in operations.iter().enumerate() {
        for fault in [Fault::Enospc, Fault::Eio] {
            let disk = SimDisk::new(3);
            let mut driven = several_tables(&disk, &options);
            let events = driven.events.clone();
            disk.fail_at(disk.operations() + at, fault);
            let outcome = driven.store.compact(&mut |_| true);
            check_reader(&driven.store.reader(), &events, &mut Random::new(1), 5);
            if let Err(error) = outcome {
                failed += 1;
                assert!(driven.store.compaction_health().is_err(), "whoever watches is told: {error}");
                if matches!(error, CompactError::Ended(_)) || driven.store.health().is_err() {
                    ended += 1;
                    assert!(fault == Fault::Eio || operation.starts_with("sync"), "{operation}: {error}");
                    assert!(driven.store.compact(&mut |_| true).is_err(), "{error}");
                } else {
                    let left: Vec<String> =
                        tables(&disk).into_iter().filter(|name| name.ends_with(".new")).collect();
                    assert!(left.is_empty(), "{left:?} after {error}");
                    driven.store.compact(&mut |_| true).expect("there is room again");
                    driven.store.compaction_health().expect("and it is told no more");
                    // What was replaced goes with its last reader, at the latest now.
                    driven.store.flush().expect("flushed");
                    let named = driven.store.inspect();
                    let named = named.event_tables.len() + named.index_tables.len();
                    assert_eq!(tables(&disk).len(), named, "something is left after {operation}: {error}");
                }
            }
            drop(driven);
            disk.kill();
            driven = Driven::open(Arc::new(disk.clone()), options.clone(), events, 1).expect("recovered").0;
            driven.check(5);
            assert!(driven.store.verify(&mut |_| {}).expect("readable").is_sound());
        }
    }
    assert!(failed > 20 && ended > 2 && ended < failed, "{failed} failed, {ended} of them for good");
}

#[test]
fn a_sync_that_fails_in_a_merge_ends_flushing_too_and_the_next_opening_has_everything() {
    let options = small_options();
    let mut syncs = 0;
    for at in 0.. {
        let disk = SimDisk::new(3);
        let mut driven = several_tables(&disk, &options);
        let before = disk.operations();
        disk.fail_at(before + at, Fault::Eio);
        let outcome = driven.store.compact(&mut |_| true);
        if disk.operations() <= before + at {
            break;
        }
        let Err(error) = outcome else { continue };
        if error.to_string().contains("cannot sync") {
            syncs += 1;
            let health = driven.store.health().expect_err("nothing may be written any more").to_string();
            assert!(error.to_string().contains(&health), "{error}: {health}");
            assert!(driven.store.compaction_health().is_err());
            driven.append(1, true);
            let written = tables(&disk);
            driven.store.flush().expect_err("flushing has ended");
            driven.store.compact(&mut |_| true).expect_err("compaction has ended");
            assert_eq!(tables(&disk), written, "nothing more is written");
        }
        check_reader(&driven.store.reader(), &driven.events, &mut Random::new(1), 5);
        let events = driven.events.clone();
        drop(driven);
        disk.kill();
        let mut driven =
            Driven::open(Arc::new(disk.clone()), options.clone(), events, 1).expect("recovered").0;
        driven.check(5);
        assert!(driven.store.verify(&mut |_| {}).expect("readable").is_sound());
    }
    assert!(syncs >= 3, "tables, their directory, the manifest: {syncs}");
}

#[test]
fn a_damaged_table_ends_compaction_and_nothing_else() {
    let disk = SimDisk::new(3);
    let driven = several_tables(&disk, &small_options());
    let victim = driven.store.inspect().index_tables[0].file.clone();
    disk.edit(std::path::Path::new(&victim), |bytes| bytes[100] ^= 1);
    let error = driven.store.compact(&mut |_| true).expect_err("damaged");
    assert!(matches!(error, CompactError::Ended(_)) && error.to_string().contains(&victim), "{error}");
    assert!(driven.store.compaction_health().is_err());
    assert!(driven.store.health().is_ok());
    driven.store.flush().expect("flushing goes on");
}

#[test]
fn small_event_tables_of_many_restarts_become_few() {
    let disk = SimDisk::new(8);
    let mut events = Vec::new();
    for life in 0..40 {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let (mut driven, _) = Driven::open(shared, small_options(), events, life).expect("opened");
        driven.append(1, true);
        let Driven { store, writer, events: all, .. } = driven;
        writer.close().expect("closed");
        store.compact(&mut |_| true).expect("compacted");
        assert!(store.inspect().event_tables.len() < 16, "{}", store.inspect().event_tables.len());
        store.close().expect("closed");
        events = all;
    }
    let (mut driven, _) = Driven::open(Arc::new(disk.clone()), small_options(), events, 9).expect("opened");
    driven.check(50);
    assert!(driven.store.verify(&mut |_| {}).expect("readable").is_sound());
}

#[test]
fn compaction_that_cannot_keep_up_slows_down_and_says_so() {
    let disk = SimDisk::new(3);
    let mut driven = several_tables(&disk, &small_options());
    assert_eq!(driven.store.pressure().slow_down(), (0, PressureReason::None));
    while driven.store.pressure().slow_down().0 == 0 {
        driven.append(1, true);
        driven.store.flush().expect("flushed");
    }
    let pressure = driven.store.pressure();
    assert_eq!((pressure.slow_down().1, pressure.must_wait()), (PressureReason::Compaction, false));
    driven.store.compact(&mut |_| true).expect("compacted");
    assert_eq!(driven.store.pressure().slow_down(), (0, PressureReason::None));
}

/// Asks until told to stop; nothing may ever be missing.
fn keep_asking(reader: &Reader, stop: &AtomicBool, seed: u64) {
    let mut random = Random::new(seed);
    while !stop.load(Ordering::Acquire) {
        let order = OrderId(1 + random.below(60));
        let query = Query { order: Some(order), ..Query::default() };
        let mut last = 0;
        for event in reader.query(&query).expect("a cursor") {
            let sequence = event.expect("readable").sequence().0;
            assert!(sequence > last, "each once, in order");
            last = sequence;
        }
    }
}

#[test]
fn readers_flushing_and_the_compacting_thread_work_beside_each_other_on_a_real_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(directory.path()).expect("opened"));
    let compaction = CompactionOptions { bytes_per_second: 1 << 40, ..small_compaction() };
    let options = StoreOptions { workers: Workers::Threads, compaction, ..small_options() };
    let (mut driven, _) = Driven::open(disk, options.clone(), Vec::new(), 5).expect("created");
    let (stop, reader) = (AtomicBool::new(false), driven.store.reader());
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|seed| {
                scope.spawn({
                    let (reader, stop) = (&reader, &stop);
                    move || keep_asking(reader, stop, seed)
                })
            })
            .collect();
        while driven.store.compaction_totals().merges < 10
            || driven.store.compaction_totals().event_merges < 2
        {
            driven.store.compaction_health().expect("compaction goes on");
            // As the pipeline does: nobody outruns compaction for ever.
            if driven.store.pressure().slow_down().1 == PressureReason::Compaction {
                std::thread::yield_now();
                continue;
            }
            driven.append(2, true);
            driven.store.flush().expect("flushed");
        }
        stop.store(true, Ordering::Release);
        for reader in readers {
            reader.join().expect("a reader that was never told anything wrong");
        }
    });
    driven.check(30);
    let Driven { store, writer, events, .. } = driven;
    writer.close().expect("closed");
    store.close().expect("closed");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(directory.path()).expect("opened"));
    let (mut driven, report) = Driven::open(disk, options, events, 6).expect("reopened");
    assert!(report.ignored.is_empty());
    driven.check(30);
    assert!(driven.store.verify(&mut |_| {}).expect("readable").is_sound());
}

#[test]
fn amplification_is_what_its_definition_says() {
    let disk = SimDisk::new(3);
    let mut driven = several_tables(&disk, &small_options());
    driven.append(3, true);
    driven.store.flush().expect("flushed");
    let before = driven.store.inspect();
    assert_eq!(before.amplification.tables_per_lookup, 7, "level 0 alone");
    let flushed = &before.event_tables[6];
    let made =
        flushed.bytes + before.index_tables[6].bytes + before.snapshots[before.snapshots.len() - 1].bytes;
    assert_eq!(before.amplification.write, Some(made as f64 / flushed.raw_bytes as f64));
    let done = driven.store.compact(&mut |_| true).expect("compacted");
    let after = driven.store.inspect();
    let levels: std::collections::BTreeSet<u8> = after.index_tables.iter().map(|table| table.level).collect();
    assert_eq!(after.amplification.tables_per_lookup, levels.len() as u64);
    assert!(after.amplification.tables_per_lookup < 4);
    let written = (made + done.bytes_written) as f64 / flushed.raw_bytes as f64;
    assert_eq!(after.amplification.write, Some(written));
    let raw: u64 = after.event_tables.iter().map(|table| table.raw_bytes).sum();
    let kept = after.table_bytes + after.sealed_segment_bytes;
    assert_eq!(after.amplification.space, Some(kept as f64 / raw as f64));
    assert_eq!(driven.store.gauge().amplification(), after.amplification, "told beside the store, too");
    assert_eq!(after.memory.table_index_bytes, 0, "no table was asked");
    driven.check(20);
    let asked = driven.store.inspect().memory;
    assert!(asked.table_index_bytes > 0 && asked.block_cache_bytes > 0);
    assert!(asked.block_cache_bytes <= asked.block_cache_bytes_max);
}

/// Event tables written in each way, compressed anew in each other one.
#[test]
fn event_tables_are_compressed_anew_as_they_are_told_while_a_reader_goes_on_and_every_answer_stays() {
    let all = [
        Compression::None,
        Compression::Lz4,
        #[cfg(feature = "zstd")]
        Compression::Zstd,
    ];
    let word = |compression| match compression {
        Compression::None => "none",
        Compression::Lz4 => "lz4",
        #[cfg(feature = "zstd")]
        Compression::Zstd => "zstd",
    };
    for from in all {
        for to in all {
            let disk = SimDisk::new(3);
            let mut driven = several_tables(&disk, &StoreOptions { compression: from, ..small_options() });
            let bytes = |driven: &Driven| {
                let tables = driven.store.inspect().event_tables;
                let words: Vec<_> = tables.iter().map(|table| table.compression).collect();
                (words, tables.iter().map(|table| table.bytes).sum::<u64>())
            };
            let (words, before) = bytes(&driven);
            assert!(words.len() > 1 && words.iter().all(|found| *found == Some(word(from))), "{words:?}");
            let mut frames = driven.store.reader().frames(Sequence::FIRST).expect("kept");
            let first = frames.next_frame().expect("read").expect("a frame").bytes().to_vec();
            let done = driven.store.recompress(to, &mut |_| true).expect("written anew");
            assert_eq!(done.event_merges, if from == to { 0 } else { words.len() as u64 });
            let (words, after) = bytes(&driven);
            assert!(words.iter().all(|found| *found == Some(word(to))), "{words:?}");
            if from == Compression::None && from != to {
                assert!(after < before, "{before} became {after}");
            }
            let again = driven.store.recompress(to, &mut |_| true).expect("nothing to do");
            assert_eq!(again.event_merges, 0);
            // The reader under way, and one that begins now.
            assert!(frames.next_frame().expect("still readable").is_some());
            let mut anew = driven.store.reader().frames(Sequence::FIRST).expect("kept");
            assert_eq!(anew.next_frame().expect("read").expect("a frame").bytes(), first);
            driven.check(40);
            assert!(driven.store.verify(&mut |_| {}).expect("verified").is_sound());
        }
    }
}

#[test]
fn the_pages_of_what_was_merged_are_forgotten_and_no_others() {
    let disk = SimDisk::new(3);
    let driven = several_tables(&disk, &small_options());
    let sizes = || -> BTreeMap<PathBuf, u64> {
        let bytes = |path: &PathBuf| disk.content(path).expect("there").len() as u64;
        let paths = tables(&disk).into_iter().map(|name| Path::new("tables").join(name));
        paths.map(|path| (path.clone(), bytes(&path))).collect()
    };
    // Held, so that the merged ones are there to be looked at.
    let reader = driven.store.reader().query(&Query::default()).expect("a cursor");
    disk.take_dropped();
    let before = sizes();
    let totals = driven.store.compact(&mut |_| true).expect("compacted");
    assert!(totals.merges > 0 && totals.event_merges > 0, "{totals:?}");
    let after = sizes();
    let dropped: BTreeMap<PathBuf, u64> = disk
        .take_dropped()
        .into_iter()
        .filter(|(path, _)| path.starts_with("tables"))
        .map(|(path, range)| {
            assert_eq!(range.start, 0);
            (path, range.end)
        })
        .collect();
    drop(reader);
    driven.store.compact(&mut |_| true).expect("nothing more to do");
    let kept = sizes();
    for (path, bytes) in &before {
        let merged = !kept.contains_key(path);
        assert_eq!(dropped.get(path), merged.then_some(bytes), "{}", path.display());
    }
    for path in after.keys().filter(|path| kept.contains_key(*path)) {
        assert!(!dropped.contains_key(path), "{}", path.display());
    }
}
