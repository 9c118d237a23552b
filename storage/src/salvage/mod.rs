//! Makes a store out of what is left of a damaged one. Never run implicitly: it is the one thing here that may give up events.
//!
//! ```text
//!   gather   every event table that reads back wholly, every frame of the others, every frame of the log
//!   line up  those that follow each other, from the first: runs, with holes between them
//!   keep     one run becomes the store; what lies outside of it is put aside
//!   act      new tables, the damaged files linked aside, a new manifest (the switch), their old names removed
//! ```
//!
//! A frame follows another only if it states its checksum, so nothing that was not on the tape can get into a run, and a
//! hole cannot be bridged: what is kept has to be a tape. Kept is the newest run that a node can go on from: one that
//! begins with the first event, or that has a good snapshot to stand on. So damage in old tables costs old events (the
//! store then begins behind them, as after retention), and damage near the end costs what is behind it.
//!
//! Where something is given up, the store ends with the beginning of a term above any that was seen, so that what is
//! appended can be told from what was there. Damaged bytes are kept: in `salvage-N/`, under their old names.

mod act;
mod gather;
mod line_up;

use std::path::PathBuf;
use std::sync::Arc;

use matchtape_schemas::TapeId;
use serde::Serialize;

use crate::archive::ColdStore;
use crate::check::Finding;
use crate::disk::{Disk, DiskError, LockError};
use crate::file_header::VersionError;
use crate::open::{OpenError, take_lock};
use crate::sstable::{FeatureError, TableError};
use crate::verify::VerifyReport;
use crate::wal::{ClusterId, WalError};

/// What to do.
#[derive(Clone, Debug, Default)]
pub struct SalvageOptions {
    /// Do it; otherwise only say what would be done.
    pub apply: bool,
    /// The deployment, as in [`WalOptions`](crate::WalOptions).
    pub cluster: ClusterId,
    /// Where event tables are that have left the local disk. Only those are read from there whose index has to be made anew, and,
    /// when reading back, all. `None`: an index over them cannot be made, and salvage says so and changes nothing.
    pub cold: Option<Arc<dyn ColdStore>>,
}

/// Events from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{} to {}", self.first, self.last)
        }
    }
}

/// What was found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SalvageReport {
    /// The tape, in hexadecimal.
    pub tape: String,
    /// What does not check.
    pub damage: Vec<Finding>,
    /// The events of the tape that the store still has, if any. The event that begins `epoch_started` is none of them: it stands behind
    /// the last one, on a sequence that another event, lost or aside now, may have had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Span>,
    /// Events that can be read nowhere any more.
    pub lost: Vec<Span>,
    /// Events that are readable but cannot be part of the store; their files are in `directory`.
    pub aside: Vec<Span>,
    /// Event tables written anew from frames of the damaged ones and of the log.
    pub tables_rebuilt: u64,
    /// Index tables made anew from events.
    pub indexes_rebuilt: u64,
    /// Files put aside, by the names they had in the data directory, and those written there besides, by the names they have.
    pub files_aside: Vec<String>,
    /// Objects of the cold tier that hold events in `aside`: the store does not know them any more, nothing removes them, and
    /// the file `cold.objects` in `directory` says what each is.
    pub objects_aside: Vec<String>,
    /// Whether the log stays what it is. Otherwise a new one begins when the store is opened.
    pub log_kept: bool,
    /// Of a log that was put aside, the sealed segments whose roots the store goes on knowing: a proof of their events stays possible.
    pub roots_kept: u64,
    /// Whether the manifest was made from the files, because it was missing or damaged.
    pub manifest_rebuilt: bool,
    /// The term that was begun behind the last event kept, because later ones were given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch_started: Option<u64>,
    /// Where damaged files went, or would go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// What to know besides.
    pub warnings: Vec<String>,
    /// Whether anything was done.
    pub applied: bool,
    /// What reading the store back has found, if something was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<VerifyReport>,
}

impl SalvageReport {
    /// Whether there was nothing to salvage.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty() && !self.manifest_rebuilt
    }
}

/// Why nothing was salvaged. Unless `ReadBack` or `Disk` says so, nothing was changed; after `Disk` it can be run again.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// Somebody else has the store.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file is a newer release's: it is not damaged, and only that release can judge the rest.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// A table is another build's: it is not damaged, and only that build can judge it.
    #[error(transparent)]
    Feature(#[from] FeatureError),
    /// The log is a newer release's.
    #[error(transparent)]
    Log(Box<WalError>),
    /// There is nothing of a store here.
    #[error("there is no store here, nor anything of one")]
    Nothing,
    /// Whose tape it is cannot be told.
    #[error("files of several tapes are here ({}), and no manifest that says which one counts", tapes.iter().map(TapeId::to_string).collect::<Vec<_>>().join(", "))]
    Tapes {
        /// Those found.
        tapes: Vec<TapeId>,
    },
    /// An index has to be made from events that only the cold tier has.
    #[error(
        "the index over sequences {first} to {last} is lost; their events are in the cold tier ({key}), which is not at hand"
    )]
    ColdNeeded {
        /// The object.
        key: String,
        /// Its first event.
        first: u64,
        /// Its last event.
        last: u64,
    },
    /// The cold tier does not give what an index has to be made from.
    #[error("the index over sequences {first} to {last} is lost and cannot be made anew: {source}")]
    Cold {
        /// The object's first event.
        first: u64,
        /// Its last event.
        last: u64,
        /// Why.
        source: Box<TableError>,
    },
    /// What was made does not read back.
    #[error("what was made does not read back: {0}")]
    ReadBack(Box<OpenError>),
}

impl From<WalError> for SalvageError {
    fn from(error: WalError) -> Self {
        Self::Log(Box::new(error))
    }
}

impl From<TableError> for SalvageError {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Disk(error) => Self::Disk(error),
            TableError::Version(version) => Self::Version(version),
            TableError::Feature(feature) => Self::Feature(feature),
            TableError::Damage(damage) => {
                Self::ReadBack(Box::new(OpenError::Table(TableError::Damage(damage))))
            }
        }
    }
}

/// What salvage is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SalvageProgress {
    /// The file being read or written.
    pub file: PathBuf,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes in all, as far as is known.
    pub bytes_total: u64,
}

/// Looks at every file of the store and, if asked, makes a store of what is readable. Takes the store's lock, also to look: what a
/// writer is in the midst of would seem damaged.
pub fn salvage(
    disk: &Arc<dyn Disk>,
    options: &SalvageOptions,
    progress: &mut dyn FnMut(SalvageProgress),
) -> Result<SalvageReport, SalvageError> {
    // Before the lock, whose file would be made.
    if gather::is_nothing(&**disk)? {
        return Err(SalvageError::Nothing);
    }
    let lock = take_lock(&**disk)?;
    let mut found = gather::gather(disk, options.cluster, progress)?;
    let mut plan = line_up::line_up(&found);
    if plan.log_kept && !found.log_continues(disk, plan.main.end())? {
        plan = line_up::line_up(&found);
    }
    let report = act::report(disk, &found, &plan, options.cold.as_ref())?;
    if !options.apply || report.is_sound() {
        return Ok(report);
    }
    act::act(disk, found, plan, report, options.cold.as_ref(), lock, progress)
}
