//! The payload's unit of 16 bytes, and the only two places where frame bytes and blocks are each other.
//!
//! Why not `[u8]` with a payload alignment of 16: iceoryx2 sizes a chunk as `align(size_of::<T>(), alignment) x
//! length`, so every byte would take 16.

use std::mem::MaybeUninit;

use iceoryx2::prelude::ZeroCopySend;

/// Frames are a multiple of this and aligned to it, as their archived records require.
pub(crate) const BLOCK_BYTES: usize = 16;

/// Sixteen bytes at an address divisible by sixteen.
#[derive(Clone, Copy, Debug, ZeroCopySend)]
#[type_name("matchtape::bus::Block")]
// Two attributes: the derive recognises only a bare `repr(C)`.
#[repr(C)]
#[repr(align(16))]
pub(crate) struct Block([u8; BLOCK_BYTES]);

impl Block {
    pub(crate) const ZERO: Self = Self([0; BLOCK_BYTES]);
}

const _: () = assert!(size_of::<Block>() == BLOCK_BYTES && align_of::<Block>() == BLOCK_BYTES);

/// The number of blocks that hold `bytes` bytes.
pub(crate) fn blocks_for(bytes: usize) -> usize {
    bytes.div_ceil(BLOCK_BYTES)
}

/// Copies `bytes` to the front of `blocks` and zeroes what remains, so that all of it is initialised.
///
/// # Panics
/// When the bytes do not fit.
pub(crate) fn fill(blocks: &mut [MaybeUninit<Block>], bytes: &[u8]) {
    let room = size_of_val(blocks);
    assert!(bytes.len() <= room, "{} bytes into {room}", bytes.len());
    let start = blocks.as_mut_ptr().cast::<u8>();
    // SAFETY: `blocks` is exclusively borrowed and `room` bytes long; the copy ends inside it (asserted above) and
    // the zeroes cover exactly the rest. The source cannot overlap an exclusive borrow.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len());
        std::ptr::write_bytes(start.add(bytes.len()), 0, room - bytes.len());
    }
}

/// The first `length` bytes of `blocks`, or `None` when there are fewer.
pub(crate) fn bytes_of(blocks: &[Block], length: usize) -> Option<&[u8]> {
    if length > size_of_val(blocks) {
        return None;
    }
    // SAFETY: a `Block` is sixteen bytes without padding; `length` bytes lie inside the borrowed slice.
    Some(unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast::<u8>(), length) })
}

/// All of `blocks` as bytes to be written.
pub(crate) fn bytes_of_mut(blocks: &mut [Block]) -> &mut [u8] {
    // SAFETY: as in `bytes_of`; the borrow is exclusive, and any bytes make a `Block`.
    unsafe { std::slice::from_raw_parts_mut(blocks.as_mut_ptr().cast::<u8>(), size_of_val(blocks)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_the_way_through_blocks_and_the_rest_is_zero() {
        for length in [0, 1, 15, 16, 17, 100] {
            let bytes: Vec<u8> = (0..length).map(|n| n as u8 + 1).collect();
            let mut blocks = vec![MaybeUninit::new(Block([0xee; 16])); blocks_for(length)];
            fill(&mut blocks, &bytes);
            // SAFETY: `fill` initialises every byte.
            let blocks: Vec<Block> = blocks.iter().map(|block| unsafe { block.assume_init() }).collect();
            assert_eq!(bytes_of(&blocks, length), Some(&bytes[..]));
            let all = bytes_of(&blocks, blocks.len() * 16).expect("all of it");
            assert!(all[length..].iter().all(|&byte| byte == 0));
            assert_eq!(bytes_of(&blocks, blocks.len() * 16 + 1), None);
        }
    }
}
