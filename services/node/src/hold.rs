//! Legal holds while the node runs: whoever has to keep evidence cannot wait for a quiet hour.

use std::sync::Arc;

use matchtape_schemas::Sequence;
use matchtape_storage::{EventStore, HoldError, LegalHold, PinError};
use parking_lot::Mutex;

use crate::publisher::wall_clock;

/// Places, lists and lifts legal holds, from any thread, also while the node is being closed.
#[derive(Clone)]
pub struct Holds {
    /// Taken when the node closes, which waits for whoever is at it: after that the directory may be another process'.
    store: Arc<Mutex<Option<Arc<EventStore>>>>,
}

/// Where a hold begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldFrom {
    /// With the first event there is.
    FirstKept,
    /// With this one.
    Sequence(Sequence),
    /// With what comes from now on.
    End,
}

/// What became of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldReport {
    /// The first event that it keeps; `None`: it is lifted.
    pub from: Option<Sequence>,
    /// The last event that readers were given then.
    pub last: Sequence,
}

/// Why a hold was not placed, listed or lifted.
#[derive(thiserror::Error, Debug)]
pub enum HoldsError {
    /// The store refuses it, or cannot make it durable.
    #[error(transparent)]
    Refused(#[from] HoldError),
    /// There is none of that name.
    #[error("there is no hold {0:?}")]
    Unknown(String),
    /// The node is closed.
    #[error("the tape is closed")]
    Closed,
}

impl Holds {
    pub(crate) fn new(store: &Arc<EventStore>) -> Self {
        Self { store: Arc::new(Mutex::new(Some(Arc::clone(store)))) }
    }

    /// After this nobody has the store through these any more.
    pub(crate) fn end(&self) {
        drop(self.store.lock().take());
    }

    fn with<T>(&self, act: impl FnOnce(&EventStore) -> Result<T, HoldsError>) -> Result<T, HoldsError> {
        act(self.store.lock().as_ref().ok_or(HoldsError::Closed)?)
    }

    /// Places a hold, or moves the one of that name back. Durable on return: nothing from its first event on is dropped until it
    /// is lifted.
    pub fn place(&self, name: &str, from: HoldFrom) -> Result<HoldReport, HoldsError> {
        self.with(|store| {
            let reader = store.reader();
            let mut first = match from {
                HoldFrom::FirstKept => reader.first_kept(),
                HoldFrom::Sequence(from) => from.max(Sequence::FIRST),
                HoldFrom::End => reader.visible().next(),
            };
            loop {
                match store.hold(name, first, wall_clock()) {
                    // What was the first event a moment ago is gone. Each time there is less that can go.
                    Err(HoldError::Pin(PinError::BelowRetention { first_kept, .. }))
                        if from == HoldFrom::FirstKept && first_kept > first =>
                    {
                        first = first_kept;
                    }
                    placed => break placed?,
                }
            }
            Ok(HoldReport { from: Some(first), last: reader.visible() })
        })
    }

    /// Lifts a hold. Durable on return.
    pub fn lift(&self, name: &str) -> Result<HoldReport, HoldsError> {
        self.with(|store| {
            if !store.lift_hold(name, wall_clock())? {
                return Err(HoldsError::Unknown(name.to_owned()));
            }
            Ok(HoldReport { from: None, last: store.reader().visible() })
        })
    }

    /// The holds there are, by name.
    pub fn list(&self) -> Result<Vec<LegalHold>, HoldsError> {
        self.with(|store| Ok(store.holds()))
    }
}
