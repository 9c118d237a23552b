//! Who still needs old events. Retention drops nothing at or above the lowest pin.
//!
//! A pin lives as long as its guard, in this process: a consumer or a standby sets its pin again after a restart, and
//! retention therefore runs only when somebody calls for it, after they had the chance. Only legal holds are
//! persisted, in the manifest: see [`EventStore::hold`](crate::EventStore::hold).
//!
//! ```text
//!   dropped | floor ........ pin ............ head       a pin below the floor is refused, with the first event kept
//! ```
//!
//! Deciding and dropping happen under the board's lock up to the point where the floor is raised, so no pin can be set
//! in between on events that are about to go.

use std::collections::BTreeMap;
use std::sync::Arc;

use matchtape_schemas::Sequence;
use parking_lot::Mutex;
use serde::Serialize;

use crate::retention::Advisory;

/// The longest name of a pin or hold, in bytes.
pub const PIN_NAME_BYTES_MAX: usize = 64;

/// Who needs the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PinKind {
    /// A replica that has not got them yet.
    Standby,
    /// A durable subscription that has not acknowledged them.
    Consumer,
    /// An upload to the cold tier that is not finished.
    Archive,
    /// A backup that is being taken.
    Backup,
    /// A person who has said that nothing from here on may go. Persisted; never broken.
    LegalHold,
}

impl PinKind {
    /// The word for it in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Consumer => "consumer",
            Self::Archive => "archive",
            Self::Backup => "backup",
            Self::LegalHold => "legal hold",
        }
    }
}

impl std::fmt::Display for PinKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A pin or a legal hold, as retention sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PinView {
    /// Whose.
    pub name: String,
    /// What for.
    pub kind: PinKind,
    /// The first event it needs.
    pub from: u64,
    /// It held back too much and does not count any more.
    pub broken: bool,
}

/// Why a pin was not set or moved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// The events it is to keep are gone.
    #[error("sequence {asked} is below retention, the first kept is {first_kept}")]
    BelowRetention {
        /// The first event that was to be kept.
        asked: Sequence,
        /// The first event there still is.
        first_kept: Sequence,
    },
    /// It held back too much and was broken: events it needed may be gone.
    #[error(
        "{kind} {name} was too far behind and does not hold events back any more: set a new pin, or start over"
    )]
    Broken {
        /// What for.
        kind: PinKind,
        /// Whose.
        name: String,
    },
    /// The name is empty or too long.
    #[error("a name has 1 to {PIN_NAME_BYTES_MAX} bytes, {bytes} were given")]
    Name {
        /// Its length.
        bytes: usize,
    },
    /// A legal hold is persisted, not pinned.
    #[error("a legal hold is placed with `hold`, so that it outlives the process")]
    LegalHold,
}

/// What retention has found and done since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionMarks {
    /// Pins that were broken: whoever set them may have lost events.
    pub pins_broken: u64,
    /// Legal holds that keep more than their limit, at the last look.
    pub holds_over_limit: u64,
    /// Snapshots that cannot be relied on, at the last look.
    pub snapshots_unusable: u64,
}

/// The pins of one store. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    board: Arc<Mutex<Board>>,
}

#[derive(Debug)]
pub(crate) struct Board {
    /// Nothing below is promised to anyone any more.
    floor: Sequence,
    pins: BTreeMap<(PinKind, String), Pinned>,
    next_guard: u64,
    marks: RetentionMarks,
}

#[derive(Debug)]
struct Pinned {
    from: Sequence,
    broken: bool,
    /// The guard that may move and remove it.
    guard: u64,
}

impl Pins {
    pub(crate) fn new(first_kept: Sequence) -> Self {
        let marks = RetentionMarks::default();
        let board = Board { floor: first_kept, pins: BTreeMap::new(), next_guard: 0, marks };
        Self { board: Arc::new(Mutex::new(board)) }
    }

    /// Sets a pin, or takes over the one of that kind and name.
    pub(crate) fn pin(&self, kind: PinKind, name: &str, from: Sequence) -> Result<Pin, PinError> {
        check_name(name)?;
        if kind == PinKind::LegalHold {
            return Err(PinError::LegalHold);
        }
        let mut board = self.board.lock();
        if from < board.floor {
            return Err(PinError::BelowRetention { asked: from, first_kept: board.floor });
        }
        let guard = board.next_guard;
        board.next_guard += 1;
        board.pins.insert((kind, name.to_owned()), Pinned { from, broken: false, guard });
        Ok(Pin { board: Arc::clone(&self.board), kind, name: name.to_owned(), guard })
    }

    pub(crate) fn list(&self) -> Vec<PinView> {
        self.board.lock().list()
    }

    pub(crate) fn marks(&self) -> RetentionMarks {
        self.board.lock().marks
    }

    /// What a look of retention has said.
    pub(crate) fn note(&self, advisories: &[Advisory]) {
        let mut board = self.board.lock();
        let marks = &mut board.marks;
        (marks.holds_over_limit, marks.snapshots_unusable) = (0, 0);
        for advisory in advisories {
            *match advisory {
                Advisory::PinBroken { .. } => &mut marks.pins_broken,
                Advisory::HoldOverLimit { .. } => &mut marks.holds_over_limit,
                Advisory::SnapshotUnusable { .. } => &mut marks.snapshots_unusable,
            } += 1;
        }
    }

    /// Lets `decide` choose what goes while no pin can change, and raises the floor to what it returns.
    pub(crate) fn decide<T>(&self, decide: impl FnOnce(&Board) -> (T, Vec<PinView>, Sequence)) -> T {
        let mut board = self.board.lock();
        let (decided, broken, floor) = decide(&board);
        for pin in broken {
            if let Some(pinned) = board.pins.get_mut(&(pin.kind, pin.name)) {
                pinned.broken = true;
            }
        }
        board.floor = board.floor.max(floor);
        decided
    }
}

impl Board {
    pub(crate) fn list(&self) -> Vec<PinView> {
        let view = |((kind, name), pinned): (&(PinKind, String), &Pinned)| PinView {
            name: name.clone(),
            kind: *kind,
            from: pinned.from.0,
            broken: pinned.broken,
        };
        self.pins.iter().map(view).collect()
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), PinError> {
    if (1..=PIN_NAME_BYTES_MAX).contains(&name.len()) {
        return Ok(());
    }
    Err(PinError::Name { bytes: name.len() })
}

/// Keeps events from being dropped until it is dropped itself. Another pin of the same kind and name takes its place.
#[derive(Debug)]
pub struct Pin {
    board: Arc<Mutex<Board>>,
    kind: PinKind,
    name: String,
    guard: u64,
}

impl Pin {
    /// Whose.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What for.
    pub fn kind(&self) -> PinKind {
        self.kind
    }

    fn with<T>(&self, look: impl FnOnce(&mut Pinned) -> T) -> Option<T> {
        let mut board = self.board.lock();
        let key = (self.kind, self.name.clone());
        board.pins.get_mut(&key).filter(|pinned| pinned.guard == self.guard).map(look)
    }

    /// Needs nothing below `from` any more. A lower position changes nothing.
    pub fn advance(&self, from: Sequence) -> Result<(), PinError> {
        let moved = self.with(|pinned| {
            pinned.from = pinned.from.max(from);
            !pinned.broken
        });
        if moved == Some(true) {
            return Ok(());
        }
        Err(PinError::Broken { kind: self.kind, name: self.name.clone() })
    }

    /// Whether it held back too much and does not count any more (or another pin has taken its place).
    pub fn is_broken(&self) -> bool {
        self.with(|pinned| pinned.broken).unwrap_or(true)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut board = self.board.lock();
        let key = (self.kind, std::mem::take(&mut self.name));
        if board.pins.get(&key).is_some_and(|pinned| pinned.guard == self.guard) {
            board.pins.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_counts_until_its_guard_goes_and_only_its_newest_guard_counts() {
        let pins = Pins::new(Sequence::FIRST);
        let first = pins.pin(PinKind::Consumer, "clearing", Sequence(5)).unwrap();
        first.advance(Sequence(9)).unwrap();
        first.advance(Sequence(3)).unwrap();
        assert_eq!(pins.list()[0].from, 9);
        let second = pins.pin(PinKind::Consumer, "clearing", Sequence(2)).unwrap();
        assert!(first.advance(Sequence(20)).is_err() && first.is_broken());
        drop(first);
        assert_eq!((pins.list().len(), pins.list()[0].from), (1, 2));
        drop(second);
        assert!(pins.list().is_empty());
    }

    #[test]
    fn events_that_went_cannot_be_pinned_and_a_broken_pin_is_told_so() {
        let pins = Pins::new(Sequence(10));
        let refused = pins.pin(PinKind::Standby, "b", Sequence(9)).unwrap_err();
        assert_eq!(refused, PinError::BelowRetention { asked: Sequence(9), first_kept: Sequence(10) });
        let pin = pins.pin(PinKind::Standby, "b", Sequence(10)).unwrap();
        pins.decide(|board| ((), board.list(), Sequence(50)));
        assert!(pin.is_broken());
        assert!(matches!(pin.advance(Sequence(60)), Err(PinError::Broken { .. })));
        assert!(pins.pin(PinKind::Standby, "b", Sequence(49)).is_err());
        assert!(!pins.pin(PinKind::Standby, "b", Sequence(50)).unwrap().is_broken());
    }

    #[test]
    fn names_are_bounded_and_a_hold_is_no_pin() {
        let pins = Pins::new(Sequence::FIRST);
        for name in ["", &*"x".repeat(PIN_NAME_BYTES_MAX + 1)] {
            assert!(matches!(pins.pin(PinKind::Backup, name, Sequence::FIRST), Err(PinError::Name { .. })));
        }
        let refused = pins.pin(PinKind::LegalHold, "case 7", Sequence::FIRST).unwrap_err();
        assert_eq!(refused, PinError::LegalHold);
    }
}
