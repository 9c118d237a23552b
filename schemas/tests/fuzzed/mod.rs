//! What the fuzz target `frame` does: any bytes, with and without a true checksum, are decoded without a panic, and what is accepted
//! can be read whole.

use matchtape_schemas::Frame;

/// Memory at a multiple of 16.
#[repr(C, align(16))]
struct Aligned([u8; 65536]);

/// Reads a frame of these bytes, as they are and under a true checksum.
pub fn survive(input: &[u8]) {
    let mut memory = Box::new(Aligned([0; 65536]));
    let length = input.len().min(65536);
    memory.0[..length].copy_from_slice(&input[..length]);
    read(&memory.0[..length]);
    // The same bytes as a careless writer would seal them: now the checks behind the checksum are reached.
    if length >= 96 {
        let whole = length / 16 * 16;
        let frame = &mut memory.0[..whole];
        frame[0..6].copy_from_slice(b"MTFR\x01\x00");
        frame[36..40].copy_from_slice(&(whole as u32).to_le_bytes());
        frame[72..80].fill(0);
        frame[80..88].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&frame[..88]);
        hasher.update(&frame[96..]);
        frame[88..96].copy_from_slice(&u64::from(hasher.finalize()).to_le_bytes());
        read(frame);
    }
}

fn read(bytes: &[u8]) {
    let Ok(frame) = Frame::decode(bytes) else { return };
    let mut count = 0;
    for event in frame.events() {
        let stated = event.to_event();
        assert_eq!(stated.encoded_len(), event.bytes().len());
        assert_eq!(frame.event(event.sequence()).map(|same| same.bytes()), Some(event.bytes()));
        count += 1;
    }
    assert_eq!(count, frame.header().count);
}
