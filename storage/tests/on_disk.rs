//! `ON_DISK.md` shows every byte of a small store; here the store is made, and every line of the document compared with it.
//!
//! `MATCHTAPE_EXAMPLE_DIR=DIR` writes the store's files there, to look at.

mod model;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use matchtape_schemas::event::{OrderAccepted, Side};
use matchtape_schemas::text::Text;
use matchtape_schemas::*;
use matchtape_storage::sim::SimDisk;
use matchtape_storage::{Compression, Disk, StoreOptions, WalOptions};
use model::*;

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

fn document() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ON_DISK.md")).expect("the document")
}

/// Compares a block's lines, `OFFSET  HEX | WORDS` or `OFFSET  zeros to END`, with a file; says what differs.
fn compare(lines: &[&str], file: &[u8]) -> Result<(), String> {
    let mut at = 0;
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
    if at == file.len() { Ok(()) } else { Err(format!("{at:x} bytes are shown of {:x}", file.len())) }
}

/// The lines of each file's block in the document.
fn blocks(text: &str) -> BTreeMap<String, Vec<&str>> {
    let mut blocks: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("```hex ") {
            current = Some(name.to_owned());
        } else if line == "```" {
            current = None;
        } else if let Some(name) = &current {
            blocks.entry(name.clone()).or_default().push(line);
        }
    }
    blocks
}

#[test]
fn every_line_of_the_worked_example_is_what_the_code_writes_and_no_byte_is_left_out() {
    let files = example();
    if let Some(directory) = std::env::var_os("MATCHTAPE_EXAMPLE_DIR") {
        for (name, bytes) in &files {
            let path = Path::new(&directory).join(name);
            std::fs::create_dir_all(path.parent().expect("below the directory")).expect("made");
            std::fs::write(path, bytes).expect("written");
        }
    }
    let text = document();
    let blocks = blocks(&text);
    assert_eq!(blocks.keys().collect::<Vec<_>>(), files.keys().collect::<Vec<_>>());
    for (name, lines) in &blocks {
        compare(lines, &files[name]).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
    }
}

#[test]
fn a_wrong_or_missing_line_would_be_noticed() {
    let (text, files) = (document(), example());
    for (name, lines) in blocks(&text) {
        for number in 0..lines.len() {
            let mut without = lines.clone();
            without.remove(number);
            assert!(compare(&without, &files[&name]).is_err(), "{name} without {:?}", lines[number]);
        }
        let mut file = files[&name].clone();
        for at in (0..file.len()).step_by(1 + file.len() / 500) {
            file[at] ^= 1;
            assert!(compare(&lines, &file).is_err(), "{name} with another byte {at:x}");
            file[at] ^= 1;
        }
    }
}
