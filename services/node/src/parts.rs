//! Which parts of a running node have ended early, and why. Nobody waits for them, so nobody else would notice: the tape
//! goes on without them.

use std::fmt::Display;

use parking_lot::Mutex;

/// A part that has ended before its node, for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedPart {
    /// Its name: `live_bus`, `speculative_bus`, `ingress`, `consumers`.
    pub part: &'static str,
    /// What happened.
    pub why: String,
}

/// Where they are noted.
#[derive(Debug, Default)]
pub(crate) struct EndedParts(Mutex<Vec<EndedPart>>);

impl EndedParts {
    /// Notes, and says in the log, that a part has ended. The first reason stays.
    pub(crate) fn note(&self, part: &'static str, why: &dyn Display) {
        let mut ended = self.0.lock();
        if ended.iter().all(|known| known.part != part) {
            tracing::error!(part, %why, "a part of the node ended; the tape goes on without it");
            ended.push(EndedPart { part, why: why.to_string() });
        }
    }

    /// To be held by a part's thread while it runs: notes that it panicked, if it does.
    pub(crate) fn watch(&self, part: &'static str) -> NotePanic<'_> {
        NotePanic { ended: self, part }
    }

    pub(crate) fn list(&self) -> Vec<EndedPart> {
        self.0.lock().clone()
    }
}

pub(crate) struct NotePanic<'a> {
    ended: &'a EndedParts,
    part: &'static str,
}

impl Drop for NotePanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.ended.note(self.part, &"it panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_noted_an_orderly_end_is_not_and_the_first_reason_stays() {
        let ended = EndedParts::default();
        std::thread::scope(|scope| {
            scope.spawn(|| drop(ended.watch("live_bus"))).join().unwrap();
            let panicked = scope.spawn(|| {
                let _watch = ended.watch("ingress");
                panic!("as a broken part would");
            });
            assert!(panicked.join().is_err());
        });
        ended.note("ingress", &"later");
        assert_eq!(ended.list(), [EndedPart { part: "ingress", why: "it panicked".into() }]);
    }
}
