//! Little-endian fields at fixed offsets, and the checksum that ends every header of the log.

/// The array at a fixed offset.
#[inline]
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

#[inline]
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

#[inline]
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

#[inline]
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

#[inline]
pub(super) fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(array(bytes, at))
}

#[inline]
pub(super) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// Writes CRC-32 of everything before the last four bytes into them.
pub(super) fn seal(header: &mut [u8]) {
    let at = header.len() - 4;
    let checksum = crc32fast::hash(&header[..at]);
    put(header, at, &checksum.to_le_bytes());
}

/// The stated and the computed checksum of a sealed header.
pub(super) fn checksums(header: &[u8]) -> (u32, u32) {
    let at = header.len() - 4;
    (u32_at(header, at), crc32fast::hash(&header[..at]))
}

/// Whether all bytes are zero, at memory speed.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Chunks the compiler turns into wide loads; the early exit per chunk keeps a non-zero prefix cheap.
    bytes.chunks(1024).all(|chunk| chunk.iter().fold(0_u8, |all, byte| all | byte) == 0)
}
