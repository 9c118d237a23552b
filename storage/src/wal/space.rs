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

/// Is told why, when it begins, and `None` when it ends.
type Tell = Box<dyn Fn(Option<&str>) + Send>;

#[derive(Default)]
struct Shared {
    is_set: AtomicBool,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    reasons: [Option<String>; 3],
    tell: Option<Tell>,
}

impl Found {
    fn reason(&self) -> Option<&str> {
        self.reasons.iter().flatten().next().map(String::as_str)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("reasons", &self.found.lock().reasons).finish_non_exhaustive()
    }
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
        self.shared.found.lock().reason().map(str::to_owned)
    }

    /// Calls `tell` whenever it begins, and when it ends; now as well, if it has begun. Only the last that was given is called.
    pub fn tell(&self, tell: impl Fn(Option<&str>) + Send + 'static) {
        let mut found = self.shared.found.lock();
        if let Some(reason) = found.reason() {
            tell(Some(reason));
        }
        found.tell = Some(Box::new(tell));
    }

    pub(crate) fn set(&self, lacking: Lacking, reason: Option<String>) {
        let mut found = self.shared.found.lock();
        found.reasons[lacking as usize] = reason;
        // Under the lock, so that two who change it end with what is true.
        let is_set = found.reason().is_some();
        if self.shared.is_set.swap(is_set, Ordering::Relaxed) != is_set
            && let Some(tell) = &found.tell
        {
            tell(found.reason());
        }
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

    #[test]
    fn it_is_told_once_that_it_begins_and_once_that_it_ends() {
        let problem = SpaceProblem::default();
        let said = Arc::new(Mutex::new(Vec::new()));
        let listen = || {
            let said = Arc::clone(&said);
            problem.tell(move |why| said.lock().push(why.map(str::to_owned)));
        };
        listen();
        problem.set(Lacking::Tables, None);
        for lacking in [Lacking::Log, Lacking::Tables, Lacking::Log] {
            problem.set(lacking, Some(format!("{lacking:?}")));
        }
        problem.set(Lacking::Tables, None);
        problem.set(Lacking::Log, None);
        assert_eq!(std::mem::take(&mut *said.lock()), [Some("Log".to_owned()), None]);
        problem.set(Lacking::Log, Some("full".to_owned()));
        said.lock().clear();
        listen();
        assert_eq!(*said.lock(), [Some("full".to_owned())], "who comes late is told as well");
    }
}
