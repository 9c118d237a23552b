//! Tables: immutable files of what was flushed from memory.
//!
//! ```text
//! NNNN.events   file header | frames | frames | ... | leaf | leaf | ... | top | footer
//! NNNN.index    file header | postings | filter | postings | filter | ... | leaf | ... | top | footer
//! ```
//!
//! An **event table** holds whole frames, byte for byte, in compressed blocks, in the order of the tape; its key is the
//! sequence. An **index table** holds postings (index, entity, sequence), sorted. Both have a two-level index: the top
//! stays in memory with the open table, leaves come through the block cache. Everything is a [`block`] and so is
//! checked, with its tape, file number and offset, whenever it is read.
//!
//! Files are read with `pread`, never through a mapping. Measured with real order flow, everything in the page cache, while a slower
//! decompressor took most of it: a block of 18 KB takes 25 us to be read, summed and decompressed with `pread`, in order or at
//! random, and 23 us from a mapping (`pread` itself is 1.1 us); one that is in the block cache takes neither. For those 2 us of a
//! miss a mapping would turn an error of the device into a signal, and count as memory that nobody bounds. With the decompressor of
//! today a scan takes 50 ns an event, of which copying the block out of the page cache is 4 (18 KB at 11 GB/s for 512 events): still
//! no more than a mapping could save.
//!
//! The kernel is told not to read ahead: a lookup wants its block alone. With nothing in the page cache, its own read-ahead made
//! the slowest hundredth of lookups by sequence take 1 956 us instead of 221, and by order 4 424 instead of 1 587. Scans ask for
//! what comes next themselves (`block::read_ahead`).
//!
//! Of the files, a bounded number is open at a time ([`open_files`]).
//!
//! Never decides which tables exist (`manifest.rs`) and never reads one that the manifest did not name.

pub(crate) mod block;
mod cache;
mod event_table;
mod event_writer;
mod filter;
mod index_scan;
mod index_table;
mod index_writer;
mod key;
mod leaf;
mod open_files;
mod posting_block;
mod posting_list;
mod postings;
mod table_file;

use std::path::PathBuf;

use crate::disk::DiskError;
use crate::file_header::{HeaderError, VersionError};
use crate::wal::Damage;

pub(crate) use self::cache::BlockCache;
pub(crate) use self::event_table::{ColdTable, EventFooter, EventTable, EventTableMeta};
pub(crate) use self::event_writer::EventTableWriter;
pub(crate) use self::filter::{hash as entity_hash, mix};
pub(crate) use self::index_scan::IndexScan;
pub(crate) use self::index_table::{IndexFooter, IndexTable, IndexTableMeta};
pub(crate) use self::index_writer::{ENTRY_POSTINGS_MAX, Fit, IndexTableWriter, WholeBlock};
pub(crate) use self::key::Key;
pub(crate) use self::leaf::{BlockEntry, EventLeaf};
pub(crate) use self::open_files::OpenFiles;
pub(crate) use self::posting_block::{Cursor, Encoded, PostingBlock};
pub(crate) use self::posting_list::{PostingList, Postings as EncodedPostings};
pub(crate) use self::postings::Postings;
pub(crate) use self::table_file::{FileWriter, TABLES, TableFile, install, new_path, open_file};

/// Who reads: decides whether blocks enter the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A lookup: likely to come back.
    Point,
    /// A pass over many blocks: would only push out what lookups use.
    Scan,
}

/// A part of a file that was compressed in a way that this build was made without. It is not damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} at byte {offset} is compressed with {feature}, which this build does not have: build it with --features {feature}",
    file.display()
)]
pub struct FeatureError {
    /// The file, relative to the data directory.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// The cargo feature that can read it.
    pub feature: &'static str,
}

/// Why a table cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The bytes are not what was written.
    #[error("damaged table: {0}")]
    Damage(Damage),
    /// The file is a newer release's.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// The file is another build's.
    #[error(transparent)]
    Feature(#[from] FeatureError),
}

impl From<Damage> for TableError {
    fn from(damage: Damage) -> Self {
        Self::Damage(damage)
    }
}

impl From<HeaderError> for TableError {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::Damage(damage) => Self::Damage(damage),
            HeaderError::Version(version) => Self::Version(version),
        }
    }
}
