//! What an operator chooses about old events.

use std::time::Duration;

use crate::limits::SEGMENT_BYTES_DEFAULT;
use crate::pins::PinKind;

/// How long events are kept. Each rule that is set is a reason to drop: what one of them drops goes, unless something
/// still needs it. Without a rule nothing of the tape goes; snapshots are thinned all the same.
/// Of the log, [`StoreOptions::log_kept_bytes`](crate::StoreOptions::log_kept_bytes) decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Drop what was accepted longer ago than this.
    pub age: Option<Duration>,
    /// Keep this many closed trading days, and the running one; drop what is older.
    pub trading_days: Option<u32>,
    /// Drop the oldest events until event tables, index tables and snapshots take at most so many bytes of the local disk. Event
    /// tables in the cold tier do not count, and are not dropped for this: while the oldest are there, nothing is.
    pub bytes: Option<u64>,
    /// How much a pin may hold back before it is broken.
    pub pin_limits: PinLimits,
    /// Snapshots are thinned, to one per this many bytes of frames: what a state as of any moment has to replay at most.
    pub snapshot_gap_bytes: u64,
    /// But they stay this far apart in accepted time at most: what is dropped ends at a snapshot, so old events of a quiet
    /// tape could otherwise go only in large pieces.
    pub snapshot_gap_age: Duration,
    /// Sections of snapshots that nobody will ask for again: a projection that this deployment has given up. A snapshot
    /// that lacks any other section that some snapshot has is not relied on.
    pub abandoned_sections: Vec<String>,
}

impl RetentionPolicy {
    /// Whether there is a rule by which events go.
    pub fn has_rule(&self) -> bool {
        self.age.is_some() || self.trading_days.is_some() || self.bytes.is_some()
    }
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self {
            age: None,
            trading_days: None,
            bytes: None,
            pin_limits: PinLimits::default(),
            snapshot_gap_bytes: SEGMENT_BYTES_DEFAULT,
            snapshot_gap_age: Duration::from_secs(6 * 60 * 60),
            abandoned_sections: Vec::new(),
        }
    }
}

/// How much a pin may hold back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PinLimit {
    /// Bytes of the event tables that it keeps.
    pub bytes: Option<u64>,
    /// Time since the first event that it keeps was accepted.
    pub age: Option<Duration>,
}

/// The limits of each kind of pin. A legal hold is never broken; beyond its limit there is an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinLimits {
    /// Of standbys.
    pub standby: PinLimit,
    /// Of consumers.
    pub consumer: PinLimit,
    /// Of unfinished uploads.
    pub archive: PinLimit,
    /// Of backups.
    pub backup: PinLimit,
    /// Of legal holds.
    pub legal_hold: PinLimit,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for PinLimits {
    fn default() -> Self {
        let limit = |gib: u64, days: u32| PinLimit { bytes: Some(gib << 30), age: Some(DAY * days) };
        Self {
            standby: limit(64, 7),
            consumer: limit(64, 7),
            archive: limit(256, 30),
            backup: limit(256, 1),
            legal_hold: limit(1024, 365),
        }
    }
}

impl PinLimits {
    pub(super) fn of(&self, kind: PinKind) -> PinLimit {
        match kind {
            PinKind::Standby => self.standby,
            PinKind::Consumer => self.consumer,
            PinKind::Archive => self.archive,
            PinKind::Backup => self.backup,
            PinKind::LegalHold => self.legal_hold,
        }
    }
}
