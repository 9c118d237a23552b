//! Every maximum of storage, related to each other at compile time.

use matchtape_schemas::limits::FRAME_BYTES_MAX;

use crate::disk::BLOCK_BYTES;
use crate::wal::COMMIT_HEADER_BYTES;

/// One commit, with its header and its padding: what one write hands to the disk, and what a reader may have to hold.
pub const COMMIT_BYTES_MAX: usize = 16 << 20;

/// The smallest commit buffer: one frame of the greatest size fits.
pub const COMMIT_BYTES_MIN: usize = (COMMIT_HEADER_BYTES + FRAME_BYTES_MAX).next_multiple_of(BLOCK_BYTES);

/// The usual commit buffer.
pub const COMMIT_BYTES_DEFAULT: usize = 1 << 20;

/// The usual segment.
pub const SEGMENT_BYTES_DEFAULT: u64 = 256 << 20;

/// The smallest segment: small enough for a test to cross many.
pub const SEGMENT_BYTES_MIN: u64 = 16 << 10;

/// The greatest segment: recovery reads one whole one, and it is the unit of retention.
pub const SEGMENT_BYTES_MAX: u64 = 4 << 30;

/// The usual number of tables whose files are kept open: a tenth of a terabyte of events, and half of the 1024 files that a
/// process usually may have.
pub const OPEN_TABLES_DEFAULT: usize = 512;

const _: () = assert!(COMMIT_BYTES_MIN <= COMMIT_BYTES_DEFAULT && COMMIT_BYTES_DEFAULT <= COMMIT_BYTES_MAX);
const _: () =
    assert!(COMMIT_BYTES_MAX.is_multiple_of(BLOCK_BYTES) && COMMIT_BYTES_MIN.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(SEGMENT_BYTES_DEFAULT >= 16 * COMMIT_BYTES_DEFAULT as u64);
const _: () =
    assert!(SEGMENT_BYTES_MIN >= 4 * BLOCK_BYTES as u64, "a header, a commit, an idle block and a footer");
const _: () = assert!(COMMIT_BYTES_MAX as u64 <= u32::MAX as u64, "a commit's length is a u32 on disk");
