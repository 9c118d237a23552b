//! Heap memory whose address is a multiple of [`BLOCK_BYTES`], as direct I/O and in-place frames need it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::BLOCK_BYTES;

/// A fixed number of zero-initialised bytes, aligned to [`BLOCK_BYTES`].
pub struct AlignedBytes {
    start: NonNull<u8>,
    bytes: usize,
    /// What was allocated; `start` is the first aligned place in it.
    allocated: NonNull<u8>,
    layout: Layout,
}

/// What every allocator gives without more ado. Asked for more, the standard library allocates first and writes the zeros
/// itself: a megabyte of writing, and every page touched, where the system has zeros to give.
const PLAIN_ALIGNMENT: usize = 16;

// SAFETY: the value owns its allocation alone, as a `Box<[u8]>` does; nothing in it is bound to a thread.
unsafe impl Send for AlignedBytes {}
// SAFETY: through `&self` the bytes can only be read.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// `bytes` zeros. Untouched pages cost no memory yet.
    ///
    /// # Panics
    /// If `bytes` is zero or absurd (beyond `isize::MAX`).
    pub fn zeroed(bytes: usize) -> Self {
        assert!(bytes > 0, "an aligned buffer has at least one byte");
        let room = bytes.checked_add(BLOCK_BYTES).expect("a buffer fits the address space");
        let layout = Layout::from_size_align(room, PLAIN_ALIGNMENT).expect("a buffer fits the address space");
        // SAFETY: the layout's size is not zero, checked above.
        let allocated = unsafe { alloc_zeroed(layout) };
        let Some(allocated) = NonNull::new(allocated) else { handle_alloc_error(layout) };
        let to_block = allocated.as_ptr().align_offset(BLOCK_BYTES);
        assert!(to_block < BLOCK_BYTES, "a block begins within every block's length");
        // SAFETY: less than a block on, and a block more than `bytes` was allocated.
        let start = unsafe { allocated.add(to_block) };
        Self { start, bytes, allocated, layout }
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this very layout, and freed only here.
        unsafe { dealloc(self.allocated.as_ptr(), self.layout) }
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: from `start` on there are `bytes` initialised bytes that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBytes({})", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zeroed_aligned_and_writable_to_its_last_byte() {
        for bytes in [1, 4095, 4096, 1 << 20] {
            let mut memory = AlignedBytes::zeroed(bytes);
            assert_eq!(memory.as_ptr().addr() % BLOCK_BYTES, 0);
            assert!(memory.iter().all(|byte| *byte == 0));
            memory[bytes - 1] = 7;
            assert_eq!(memory[bytes - 1], 7);
            assert_eq!(memory.len(), bytes);
        }
    }
}
