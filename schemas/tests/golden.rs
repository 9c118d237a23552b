//! Bytes that every future release must still read, and that this one writes.
//!
//! `golden/frame_v1.hex` is one frame with one event of every kind, 16 bytes a line. A layout that changes makes this
//! test fail: it needs a new tag or version, a new file, and the old one still read. To write the file of a *new*
//! layout: `GOLDEN_WRITE=1 cargo test -p matchtape-schemas --test golden`.

mod common;

use std::path::PathBuf;

use common::*;
use matchtape_schemas::*;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes
        .chunks(16)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n")
        .collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    text.lines()
        .flat_map(|line| {
            (0..line.len() / 2).map(|at| u8::from_str_radix(&line[2 * at..2 * at + 2], 16).unwrap())
        })
        .collect()
}

#[test]
fn the_frame_of_release_1_is_read_and_written_to_the_byte() {
    let mut head = Head {
        last_sequence: Sequence(17),
        epoch: Epoch(2),
        checksum: 0xDEAD_BEEF,
        ..Head::empty(TapeId(0x7A9E))
    };
    let written = framed(&one_of_each(), &mut head, FrameFlags::NONE);
    let file = path("frame_v1.hex");
    if std::env::var_os("GOLDEN_WRITE").is_some() {
        assert!(!file.exists(), "a released golden file is never rewritten: {}", file.display());
        std::fs::write(&file, to_hex(written.bytes())).unwrap();
    }
    let golden = Aligned::copy_of(&from_hex(&std::fs::read_to_string(&file).unwrap()));
    let frame = Frame::decode(golden.bytes()).unwrap();
    assert_eq!(frame.events().map(|event| event.to_event()).collect::<Vec<_>>(), one_of_each());
    assert_eq!(frame.header().head(), head);
    assert_eq!(to_hex(written.bytes()), to_hex(golden.bytes()));
}

#[test]
fn fields_lie_where_the_offset_table_says() {
    let golden = from_hex(&std::fs::read_to_string(path("frame_v1.hex")).unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(golden[at..at + 8].try_into().unwrap());
    let u32_at = |at: usize| u32::from_le_bytes(golden[at..at + 4].try_into().unwrap());
    assert_eq!(&golden[0..8], b"MTFR\x01\x00\x00\x00");
    assert_eq!((u64_at(8), u64_at(16), u64_at(24)), (0x7A9E, 2, 18), "tape, epoch, first sequence");
    assert_eq!((u32_at(32), u32_at(36) as usize), (20, golden.len()), "count, length");
    assert_eq!(u64_at(40), 1_700_000_000_000_000_000, "accepted time");
    assert_eq!(u64_at(48), 1_689_038_100_280_000_020, "greatest event time");
    assert_eq!(u64_at(64), 0xDEAD_BEEF, "previous checksum");
    // The first event: OrderAccepted, 32 + 96 bytes.
    let event = 96;
    assert_eq!((u32_at(event), golden[event + 4], golden[event + 6], golden[event + 7]), (128, 1, 5, 0x82));
    assert_eq!((u32_at(event + 8), u32_at(event + 12)), (0xA0B0_C0D0, 3), "instrument, producer");
    assert_eq!(
        (u64_at(event + 16), u64_at(event + 24)),
        (1, 1_689_038_100_280_000_001),
        "producer sequence, event time"
    );
    let payload = event + 32;
    assert_eq!(u64_at(payload), 0x1111_2222_3333_4444, "order id");
    assert_eq!(
        (u64_at(payload + 8), u64_at(payload + 16)),
        (15_930_000_000, 300_000_000_000),
        "price, quantity"
    );
    assert_eq!(&golden[payload + 48..payload + 88], b"client-order-id-of-exactly-forty-bytes-x");
    assert_eq!(
        &golden[payload + 92..payload + 96],
        &[2, 1, 3, 0],
        "side, order type, time in force, reserved"
    );
}
