//! Whether there is room on the disk, as whoever takes in new events asks it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// What finds no room. Each one clears its own trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lacking {
    /// No next segment could be prepared: the log's reserve is gone.
    NextSegment,
    /// The log itself could not be written.
    Log,
    /// Memory could not be flushed to tables.
    Tables,
}

/// Why new events should be refused for want of disk space, if they should. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SpaceProblem {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    is_set: AtomicBool,
    reasons: Mutex<[Option<String>; 3]>,
}

impl SpaceProblem {
    /// Whether new events should be refused: one load, for every event's way.
    #[inline]
    pub fn is_set(&self) -> bool {
        // Relaxed: an event that just slips through finds the room that is kept for such.
        self.shared.is_set.load(Ordering::Relaxed)
    }

    /// The reason in words; `None` while all is well.
    pub fn reason(&self) -> Option<String> {
        self.shared.reasons.lock().iter().flatten().next().cloned()
    }

    pub(crate) fn set(&self, lacking: Lacking, reason: Option<String>) {
        let mut reasons = self.shared.reasons.lock();
        reasons[lacking as usize] = reason;
        // Under the lock, so that two who change it end with what is true.
        self.shared.is_set.store(reasons.iter().any(Option::is_some), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_refused_until_everyone_has_room_again() {
        let problem = SpaceProblem::default();
        assert!(!problem.is_set());
        problem.set(Lacking::NextSegment, Some("no segment".to_owned()));
        problem.set(Lacking::Tables, Some("no tables".to_owned()));
        problem.set(Lacking::NextSegment, None);
        assert_eq!((problem.is_set(), problem.reason().as_deref()), (true, Some("no tables")));
        problem.clone().set(Lacking::Tables, None);
        assert_eq!((problem.is_set(), problem.reason()), (false, None));
    }
}
