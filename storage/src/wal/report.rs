//! What opening a log found and did, for the terminal and as JSON.

use std::fmt;

use serde::Serialize;

/// The account of one recovery of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WalReport {
    /// Segments that hold, or held, events; prepared ones are not counted.
    pub segments: u64,
    /// Bytes of the sealed ones, which were not read: their footers prove them.
    pub sealed_bytes: u64,
    /// The first event kept; one more than `last_sequence` in an empty log.
    pub first_sequence: u64,
    /// The last event recovered.
    pub last_sequence: u64,
    /// Bytes of the open segment that were read and checked, idle blocks and padding included.
    pub scanned_bytes: u64,
    /// Commits of the open segment that were checked.
    pub scanned_commits: u64,
    /// Events of the open segment that were checked and kept.
    pub replayed_events: u64,
    /// What was cut from the end, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
    /// A segment had ended, or was sealed, without the next one having begun.
    pub finished_rotation: bool,
    /// Half-prepared files that were removed.
    pub removed: Vec<String>,
    /// Files in the log's directory that are none of its own; left alone.
    pub ignored: Vec<String>,
}

/// Bytes at the end of the log that were erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cut {
    /// The file.
    pub file: String,
    /// From which byte on.
    pub offset: u64,
    /// How many blocks that held something.
    pub blocks: u64,
    /// Why.
    pub reason: CutReason,
}

/// Why bytes were cut. None of them had been promised to anyone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CutReason {
    /// The write of a commit was interrupted.
    TornTail {
        /// What did not check.
        damage: String,
    },
    /// The commits are whole, but the group in them has no end.
    UnfinishedGroup {
        /// Its first event.
        first: u64,
        /// Its last event on the disk.
        last: u64,
    },
}

impl fmt::Display for WalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "log: {} segments, sequences {}..={}; checked {} events in {} commits ({} bytes)",
            self.segments,
            self.first_sequence,
            self.last_sequence,
            self.replayed_events,
            self.scanned_commits,
            self.scanned_bytes,
        )?;
        if let Some(cut) = &self.cut {
            write!(f, "; cut {} blocks of {} from byte {}: ", cut.blocks, cut.file, cut.offset)?;
            match &cut.reason {
                CutReason::TornTail { damage } => write!(f, "torn tail ({damage})")?,
                CutReason::UnfinishedGroup { first, last } => write!(f, "unfinished group {first}..={last}")?,
            }
        }
        if self.finished_rotation {
            write!(f, "; finished an interrupted rotation")?;
        }
        for name in &self.removed {
            write!(f, "; removed half-prepared {name}")?;
        }
        for name in &self.ignored {
            write!(f, "; ignored {name}")?;
        }
        Ok(())
    }
}
