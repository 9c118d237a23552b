//! Dumping shows every byte of every file, says what does not check, and never more than that.

mod model;

use std::path::{Path, PathBuf};

use matchtape_storage::sim::SimDisk;
use matchtape_storage::{Access, Caching, Disk, DumpItem, dump};
use model::*;

fn store() -> SimDisk {
    let disk = SimDisk::new(5);
    let mut driven = Driven::new(&disk, 3);
    for _ in 0..2 {
        driven.append(3, true);
        driven.append(2, true);
        driven.store.flush().expect("flushed");
    }
    let Driven { store, writer, .. } = driven;
    writer.close().expect("closed");
    store.close().expect("closed");
    disk.kill();
    let disk = disk.kill_at(disk.operations());
    // As a close leaves it that did not wait for the next segment.
    let unfinished = Path::new("wal/000000000099.wal.new");
    let file = disk.open(unfinished, Access::CreateNew, Caching::Buffered).expect("created");
    file.write_at(&[0; 3 << 12], 0).expect("written");
    disk
}

fn files(disk: &SimDisk) -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("manifest")];
    for directory in ["tables", "wal"] {
        let entries = disk.list(Path::new(directory)).expect("listed");
        files.extend(entries.into_iter().map(|entry| Path::new(directory).join(entry.name)));
    }
    files
}

fn items(disk: &SimDisk, path: &Path, raw: bool) -> Vec<DumpItem> {
    let mut items = Vec::new();
    dump(disk, path, raw, &mut |item| {
        items.push(item);
        true
    })
    .expect("readable");
    items
}

#[test]
fn every_byte_of_a_sound_file_belongs_to_a_structure_and_nothing_is_called_damaged() {
    let disk = store();
    for path in files(&disk) {
        let content = disk.content(&path).expect("there");
        let items = items(&disk, &path, true);
        let mut at = 0;
        for item in &items {
            assert_eq!(item.damage, None, "{}: {item:?}", path.display());
            if item.depth > 0 {
                continue;
            }
            assert_eq!(item.offset, at, "{}: {item:?}", path.display());
            let shown = &content[at as usize..at as usize + item.raw.len()];
            assert!(item.raw == shown, "{}: {} shows its bytes", path.display(), item.what);
            at += item.bytes;
        }
        assert_eq!(at, content.len() as u64, "{}", path.display());
    }
    let said: Vec<String> = files(&disk)
        .iter()
        .flat_map(|path| items(&disk, path, false))
        .map(|item| item.what.to_owned())
        .collect();
    for what in [
        "file header",
        "block of frames",
        "frame",
        "leaf of the index",
        "top of the index",
        "entry",
        "footer",
        "block of postings",
        "postings",
        "filter",
        "section",
        "unfinished file",
        "record",
        "edit",
        "segment header",
        "commit",
        "idle block",
        "zeros",
    ] {
        assert!(said.iter().any(|found| found == what), "no {what}");
    }
}

#[test]
fn a_flipped_bit_anywhere_is_shown_as_damage_and_the_rest_is_shown_too() {
    let disk = store();
    for path in files(&disk) {
        let content = disk.content(&path).expect("there");
        let whole = items(&disk, &path, false).iter().filter(|item| item.depth == 0).count();
        let used = content.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        for offset in (0..=used).step_by(if content.len() > 10_000 { 211 } else { 7 }) {
            let damaged = disk.kill_at(disk.operations());
            damaged.flip_bit(&path, offset as u64, (offset % 8) as u8);
            let items = items(&damaged, &path, false);
            let at_damage: Vec<_> = items.iter().filter(|item| item.damage.is_some()).collect();
            // The padding of a log block is not looked at here; `verify` does.
            let padding = path.starts_with("wal") && content[offset] == 0;
            assert!(!at_damage.is_empty() || padding, "{} at {offset}", path.display());
            let shown = items.iter().filter(|item| item.depth == 0).count();
            assert!(shown + 2 >= whole || offset < 64, "{} at {offset}: {shown} of {whole}", path.display());
        }
    }
}

#[test]
fn it_stops_when_asked_and_says_what_is_no_file_of_a_store() {
    let disk = store();
    let path = files(&disk).into_iter().find(|path| path.extension().is_some_and(|found| found == "events"));
    let mut seen = 0;
    dump(&disk, &path.expect("one"), false, &mut |_| {
        seen += 1;
        seen < 3
    })
    .expect("readable");
    assert_eq!(seen, 3);
    let text = Path::new("lock");
    disk.open(text, matchtape_storage::Access::CreateNew, matchtape_storage::Caching::Buffered)
        .and_then(|file| file.write_at(b"pid 1\n", 0))
        .expect("written");
    assert_eq!(items(&disk, text, false)[0].fields, [("says", "pid 1".to_owned())]);
    let other = Path::new("other");
    disk.open(other, matchtape_storage::Access::CreateNew, matchtape_storage::Caching::Buffered)
        .and_then(|file| file.write_at(&[0, 1, 2, 255], 0))
        .expect("written");
    let items = items(&disk, other, false);
    assert!(items[0].damage.as_ref().is_some_and(|damage| damage.contains("no structure")), "{items:?}");
}
