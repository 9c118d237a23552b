//! Proof that an exported run of frames is complete and unaltered, for someone who holds nothing but segment roots.
//!
//! A root is plain BLAKE3 over the bytes of a segment's frames, and BLAKE3 is a tree over pieces of 1024 bytes:
//!
//! ```text
//!                 root
//!          +-------+-------+
//!        left            right          a node outside the run: its 32 bytes are in the proof
//!      +---+---+       +---+---+        a node inside: computed from the exported bytes
//!   [ ... ] [ .####### #### ] [ ... ]   the run; what its first and last piece have beyond it is in the proof too
//! ```
//!
//! So nothing outside the run is needed, or told. Bytes at another place, another length, a frame more or less, or in another
//! order make another root. Where a run crosses segments, it must reach the end of one and begin at the start of the next.
//!
//! What it does not prove: that the roots are the tape's. Whoever holds them has to have them from somewhere they trust.
//!
//! `make` writes the frames and the proof, `check` judges them without a store, `file` is a proof's bytes, `tree` what they know of
//! BLAKE3.

mod check;
mod file;
mod make;
mod tree;

use matchtape_schemas::{Sequence, TapeId};

pub use self::check::check;
pub use self::file::{PROOF_BYTES_MAX, ProofFileError};
pub use self::make::{ProveProgress, prove};
use crate::read::ReadError;
use crate::wal::{SegmentNumber, SegmentRoot};

/// What has to be known, besides the frames and the roots, to check a run of frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Whose frames.
    pub tape: TapeId,
    /// The first event of the run.
    pub first: Sequence,
    /// The last event of the run.
    pub last: Sequence,
    /// One per segment, in the order of the tape.
    pub parts: Vec<SegmentPart>,
}

/// The part of a run that lies in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentPart {
    /// The segment.
    pub segment: SegmentNumber,
    /// Bytes of all its frames.
    pub stream_bytes: u64,
    /// Where among them the run begins.
    pub offset: u64,
    /// Bytes of the run in this segment.
    pub bytes: u64,
    /// The bytes before the run in its first piece, fewer than 1024.
    pub before: Vec<u8>,
    /// The bytes behind the run in its last piece, fewer than 1024.
    pub after: Vec<u8>,
    /// The nodes outside the run, from left to right.
    pub nodes: Vec<[u8; 32]>,
}

/// Why a proof cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The frames could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The exported frames could not be written.
    #[error("writing the frames: {0}")]
    Write(#[from] std::io::Error),
    /// Nothing is asked for.
    #[error("there is nothing from sequence {first} to {last}")]
    Empty {
        /// From here.
        first: Sequence,
        /// To here.
        last: Sequence,
    },
    /// Only sealed segments have roots.
    #[error("sequence {0} is in no sealed segment whose facts are known; only what is sealed can be proven")]
    NotSealed(Sequence),
    /// A root is made by all frames of its segment, and retention has dropped some.
    #[error(
        "sequence {asked} cannot be proven any more: its segment began with {began}, and the first event kept is {first_kept}"
    )]
    Dropped {
        /// The event asked for.
        asked: Sequence,
        /// Where its segment began.
        began: Sequence,
        /// The first event kept.
        first_kept: Sequence,
    },
    /// Tables and root disagree: `verify` tells more.
    #[error("the frames of segment {0} do not make its root")]
    Root(SegmentNumber),
}

/// Why frames are not what the roots vouch for.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The exported frames could not be read.
    #[error("reading the frames at byte {at}: {source}")]
    Read {
        /// Where.
        at: u64,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Nobody vouches for a segment.
    #[error("no root is known of segment {0}")]
    UnknownSegment(SegmentNumber),
    /// The proof itself is impossible.
    #[error("the proof of segment {segment} is impossible: {what}")]
    Impossible {
        /// The segment.
        segment: SegmentNumber,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Bytes were removed, added, altered or moved.
    #[error("the frames of segment {segment} make root {found}, not {expected}")]
    Root {
        /// The segment.
        segment: SegmentNumber,
        /// What is vouched for.
        expected: SegmentRoot,
        /// What the bytes make.
        found: SegmentRoot,
    },
    /// The bytes are not as many as the proof is about.
    #[error("{found} bytes of frames, the proof is about {expected}")]
    Length {
        /// By the proof.
        expected: u64,
        /// As given.
        found: u64,
    },
    /// Between two parts something is left out.
    #[error("the run leaves out what is between segments {0} and {1}")]
    Gap(SegmentNumber, SegmentNumber),
    /// The bytes are vouched for, but they are another run than the proof says.
    #[error("the frames hold sequences {} to {} of tape {:016x}, the proof states {} to {} of tape {:016x}", found.0, found.1, tape.0, stated.0, stated.1, stated_tape.0)]
    Range {
        /// By the proof.
        stated: (Sequence, Sequence),
        /// By the proof.
        stated_tape: TapeId,
        /// As given.
        found: (Sequence, Sequence),
        /// As given.
        tape: TapeId,
    },
    /// The bytes are vouched for, but they are not whole frames that follow each other.
    #[error("byte {at}: {what}")]
    Frame {
        /// Where in the exported bytes.
        at: u64,
        /// What is wrong.
        what: String,
    },
}
