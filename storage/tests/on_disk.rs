//! `ON_DISK.md` shows every byte of a small store, and parts of a second one; here the stores are made, and every line of the
//! document compared with them.
//!
//! `MATCHTAPE_EXAMPLE_DIR=DIR` writes the stores' files there, to look at.

mod model;

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use matchtape_schemas::event::{OrderAccepted, Side};
use matchtape_schemas::text::Text;
use matchtape_schemas::*;
use matchtape_storage::archive::{ColdError, ColdPolicy, ColdStore};
use matchtape_storage::sim::SimDisk;
use matchtape_storage::{
    Compression, Disk, LockHolder, RealDisk, RetentionPolicy, StoreOptions, WalOptions, prove,
};
use model::*;
use parking_lot::Mutex;

/// One order, flushed: with fixed times, identifiers and random numbers.
fn example() -> BTreeMap<String, Vec<u8>> {
    let disk = SimDisk::new(1);
    let small = small_options();
    let options = StoreOptions {
        tape: Some(TapeId(0x7A9E)),
        compression: Compression::None,
        wal: WalOptions { segment_bytes: 16 << 10, ..small.wal.clone() },
        ..small
    };
    let (mut driven, _) = Driven::open(Arc::new(disk.clone()), options, Vec::new(), 1).expect("created");
    let order = OrderAccepted {
        order_id: OrderId(1001),
        price: Price::from_units(101_500_000_000),
        quantity: Quantity::from_units(7_000_000_000),
        account: AccountId(42),
        venue_sequence: VenueSequence(5),
        receive_time: ReceiveTime(1_700_000_000_000_000_900),
        client_order_id: Text::new("A-1").expect("short"),
        send_delay_ns: 250,
        side: Side::Buy,
        ..Default::default()
    };
    let time = EventTime(1_700_000_000_000_000_000);
    driven.append_group(vec![Event::new(InstrumentId(3), ProducerSequence(1), time, order)]);
    driven.store.flush().expect("flushed");
    let files = ["wal/000000000001.wal", "manifest"].map(str::to_owned);
    let tables = disk.list(Path::new("tables")).expect("listed");
    let tables = tables.into_iter().map(|entry| format!("tables/{}", entry.name));
    files
        .into_iter()
        .chain(tables)
        .map(|name| (name.clone(), disk.content(Path::new(&name)).expect("there")))
        .collect()
}

/// Objects in memory.
#[derive(Debug, Default)]
struct Objects(Mutex<BTreeMap<String, Vec<u8>>>);

impl ColdStore for Objects {
    fn place(&self) -> &str {
        "memory"
    }

    fn put(&self, key: &str, source: &mut dyn Read, _: u64) -> Result<(), ColdError> {
        let mut object = Vec::new();
        source.read_to_end(&mut object).expect("the local file is there");
        self.0.lock().insert(key.to_owned(), object);
        Ok(())
    }

    fn get_range(&self, key: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, ColdError> {
        let objects = self.0.lock();
        let behind = &objects[key][offset as usize..];
        let read = buffer.len().min(behind.len());
        buffer[..read].copy_from_slice(&behind[..read]);
        Ok(read)
    }

    fn head(&self, key: &str) -> Result<u64, ColdError> {
        Ok(self.0.lock()[key].len() as u64)
    }

    fn delete(&self, key: &str) -> Result<(), ColdError> {
        self.0.lock().remove(key);
        Ok(())
    }
}

/// What the first store has nothing of: a segment that was sealed, and let go of; one that is prepared; compressed frames; a
/// hold, retention, an object of the cold tier; a proof; a lock that somebody has.
fn second_example() -> BTreeMap<String, Vec<u8>> {
    let disk = SimDisk::new(2);
    let small = small_options();
    let options = StoreOptions {
        tape: Some(TapeId(0x7A9E)),
        log_kept_bytes: u64::MAX,
        cold: Some(Arc::new(Objects::default())),
        wal: WalOptions { segment_bytes: 16 << 10, ..small.wal.clone() },
        ..small
    };
    let (mut driven, _) = Driven::open(Arc::new(disk.clone()), options, Vec::new(), 1).expect("created");
    let orders = |driven: &Driven, count: u64| -> Vec<Event> {
        let first = driven.head.last_sequence.0 + 1;
        let order = |number: u64| {
            let order = OrderAccepted { order_id: OrderId(1000 + number), ..Default::default() };
            let time = EventTime(1_700_000_000_000_000_000 + number as i64);
            Event::new(InstrumentId(3), ProducerSequence(number), time, order)
        };
        (first..first + count).map(order).collect()
    };
    let mut files = BTreeMap::new();
    let content = |name: &str| disk.content(Path::new(name)).unwrap_or_else(|| panic!("{name} is there"));

    driven.append_frame(&orders(&driven, 12), FrameFlags::NONE);
    driven.writer.idle().expect("idle");
    driven.append_frame(&orders(&driven, 1), FrameFlags::ENDS_SEGMENT);
    driven.writer.maintain().expect("sealed");
    driven.store.flush().expect("flushed");
    let first_table = "tables/0000000000000001.events";
    files.insert(first_table.to_owned(), content(first_table));
    let (facts, mut frames) = (driven.store.segment_facts(), Vec::new());
    let run = (Sequence(13), Sequence(13));
    let proof = prove(&driven.store.reader(), &facts, run, &mut frames, &mut |_| {}).expect("proven");
    files.insert("case-17.proof".to_owned(), proof.encode());
    let first_segment = "wal/000000000001.wal";
    files.insert(first_segment.to_owned(), content(first_segment));
    driven.store.release_log(Sequence::MAX).expect("let go of");

    for _ in 0..2 {
        driven.append_frame(&orders(&driven, 1), FrameFlags::NONE);
        driven.store.flush().expect("flushed");
    }
    driven.store.hold("case-17", Sequence(14), AcceptedTime(15)).expect("held");
    driven.store.push_cold(&ColdPolicy::default(), &mut |_| ControlFlow::Continue(())).expect("moved");
    let policy =
        RetentionPolicy { age: Some(Duration::ZERO), snapshot_gap_bytes: 0, ..RetentionPolicy::default() };
    driven.store.retain(&policy, AcceptedTime(100)).expect("dropped");
    let tables = disk.list(Path::new("tables")).expect("listed");
    let logs = disk.list(Path::new("wal")).expect("listed");
    for entry in &tables {
        let name = format!("tables/{}", entry.name);
        files.insert(name.clone(), content(&name));
    }
    for entry in &logs {
        let name = format!("wal/{}", entry.name);
        files.entry(name.clone()).or_insert_with(|| content(&name));
    }
    files.insert("manifest".to_owned(), content("manifest"));

    let directory = tempfile::tempdir().expect("a directory");
    let real = RealDisk::open(directory.path()).expect("opened");
    let holder = LockHolder { pid: 4711, started_ns: 1_700_000_000_000_000_000 };
    let _lock = real.lock(Path::new("lock"), &holder).expect("free");
    files.insert("lock".to_owned(), std::fs::read(directory.path().join("lock")).expect("read"));
    files
}

fn document() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ON_DISK.md")).expect("the document")
}

/// Compares a block's lines, `OFFSET  HEX | WORDS` or `OFFSET  zeros to END`, with all of a file; says what differs.
fn compare(lines: &[&str], file: &[u8]) -> Result<(), String> {
    let at = compare_from(0, lines, file)?;
    if at == file.len() { Ok(()) } else { Err(format!("{at:x} bytes are shown of {:x}", file.len())) }
}

/// The same with a part of a file, which begins where the first line says; returns its place.
fn compare_part(lines: &[&str], file: &[u8]) -> Result<Range<usize>, String> {
    let offset = lines.first().and_then(|line| line.split_whitespace().next()).unwrap_or_default();
    let start = usize::from_str_radix(offset, 16).map_err(|error| format!("{offset:?}: {error}"))?;
    Ok(start..compare_from(start, lines, file)?)
}

/// Returns where the lines end.
fn compare_from(start: usize, lines: &[&str], file: &[u8]) -> Result<usize, String> {
    let mut at = start;
    for line in lines {
        let wrong = |what: &str| Err(format!("{line:?}: {what}"));
        let shown = line.split('|').next().expect("the first part");
        let mut words = shown.split_whitespace();
        if words.next().and_then(|offset| usize::from_str_radix(offset, 16).ok()) != Some(at) {
            return wrong(&format!("byte {at:x} comes next"));
        }
        let words: Vec<&str> = words.collect();
        let bytes = match words.as_slice() {
            ["zeros", "to", end] => match usize::from_str_radix(end, 16) {
                Ok(end) if end > at => vec![0; end - at],
                _ => return wrong("zeros to where?"),
            },
            _ => {
                match words.iter().map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<u8>, _>>() {
                    Ok(bytes) if !bytes.is_empty() => bytes,
                    _ => return wrong("neither bytes nor zeros"),
                }
            }
        };
        if file.get(at..at + bytes.len()) != Some(&bytes) {
            return wrong(&format!(
                "the file has {:02x?}",
                &file[at.min(file.len())..file.len().min(at + bytes.len())]
            ));
        }
        at += bytes.len();
    }
    Ok(at)
}

/// The blocks of this kind in the document: the file's name, and the lines.
fn blocks<'a>(text: &'a str, kind: &str) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut blocks: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix(kind) {
            blocks.push((name, Vec::new()));
            inside = true;
        } else if line == "```" {
            inside = false;
        } else if let Some((_, lines)) = blocks.last_mut().filter(|_| inside) {
            lines.push(line);
        }
    }
    blocks
}

const WHOLE: &str = "```hex ";
const PART: &str = "```part ";

fn write_out(below: &str, files: &BTreeMap<String, Vec<u8>>) {
    let Some(directory) = std::env::var_os("MATCHTAPE_EXAMPLE_DIR") else { return };
    for (name, bytes) in files {
        let path = Path::new(&directory).join(below).join(name);
        std::fs::create_dir_all(path.parent().expect("below the directory")).expect("made");
        std::fs::write(path, bytes).expect("written");
    }
}

#[test]
fn every_line_of_the_worked_example_is_what_the_code_writes_and_no_byte_is_left_out() {
    let files = example();
    write_out("first", &files);
    let text = document();
    let blocks = blocks(&text, WHOLE);
    let mut shown: Vec<&str> = blocks.iter().map(|(name, _)| *name).collect();
    shown.sort_unstable();
    assert_eq!(shown, files.keys().collect::<Vec<_>>());
    for (name, lines) in &blocks {
        compare(lines, &files[*name]).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
    }
}

#[test]
fn every_part_that_is_shown_of_the_second_example_is_what_the_code_writes() {
    let files = second_example();
    write_out("second", &files);
    let text = document();
    let mut shown = Vec::new();
    for (name, lines) in blocks(&text, PART) {
        let file = &files[name];
        let range = compare_part(&lines, file).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        shown.push((name, file[range].to_vec()));
    }
    // One of each is among them.
    for (name, begins) in [
        ("wal/000000000001.wal", &b"MTCOMMIT"[..]),
        ("wal/000000000001.wal", b"MTFOOTER"),
        ("wal/000000000003.wal", b"MTSPARE\0"),
        ("case-17.proof", b"MTPROOF\0"),
        ("lock", b"pid 4711\n"),
    ] {
        assert!(shown.iter().any(|(shown, part)| *shown == name && part.starts_with(begins)), "{name}");
    }
    let records = shown.iter().filter(|(name, _)| *name == "manifest").map(|(_, record)| record[16]);
    assert_eq!(records.collect::<Vec<u8>>(), [7, 9, 10, 10, 4], "by their first edit");
}

#[test]
fn a_wrong_or_missing_line_would_be_noticed() {
    let (text, files, others) = (document(), example(), second_example());
    let whole = blocks(&text, WHOLE).into_iter().map(|block| (block, &files, true));
    let parts = blocks(&text, PART).into_iter().map(|block| (block, &others, false));
    for ((name, lines), files, whole) in whole.chain(parts) {
        let wrong = |lines: &[&str], file: &[u8]| match whole {
            true => compare(lines, file).is_err(),
            false => compare_part(lines, file).is_err(),
        };
        let mut file = files[name].clone();
        let range = if whole { 0..file.len() } else { compare_part(&lines, &file).expect("right") };
        // A part without its first line, or its last, is a smaller part.
        let missing = if whole { 0..lines.len() } else { 1..lines.len() - 1 };
        for number in missing {
            let mut without = lines.clone();
            without.remove(number);
            assert!(wrong(&without, &file), "{name} without {:?}", lines[number]);
        }
        for at in range.clone().step_by(1 + range.len() / 500) {
            file[at] ^= 1;
            assert!(wrong(&lines, &file), "{name} with another byte {at:x}");
            file[at] ^= 1;
        }
    }
}
