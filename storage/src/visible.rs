//! The one gate in front of all readers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use matchtape_schemas::Sequence;
use parking_lot::{Condvar, Mutex};

/// How far readers may see. Never goes back. Whoever raises it has made sure that the events are in the store: commits
/// reach the memtable before their observer hears of them.
#[derive(Debug)]
pub struct VisibleGate {
    visible: AtomicU64,
    /// Somebody sleeps until `visible` reaches this; `u64::MAX` for nobody.
    awaited: AtomicU64,
    bell: Bell,
}

impl VisibleGate {
    pub(crate) fn new(visible: Sequence) -> Self {
        Self { visible: AtomicU64::new(visible.0), awaited: AtomicU64::new(u64::MAX), bell: Bell::default() }
    }

    /// The last event that readers may be given, the end of a group.
    #[inline]
    pub fn get(&self) -> Sequence {
        // Acquire: pairs with the release in `raise`; what was stored before the gate rose is seen behind it.
        Sequence(self.visible.load(Ordering::Acquire))
    }

    /// Raises the gate; a lower position changes nothing.
    #[inline]
    pub fn raise(&self, to: Sequence) {
        // SeqCst here and in `wait`: either this load sees the sleeper, or the sleeper sees this store.
        self.visible.fetch_max(to.0, Ordering::SeqCst);
        if to.0 >= self.awaited.load(Ordering::SeqCst) {
            self.bell.ring();
        }
    }

    /// Sleeps until the gate has reached `position` or `bell` was rung by [`VisibleGate::interrupt`]; returns whether it
    /// has reached it. One thread at a time.
    pub(crate) fn wait(&self, position: Sequence) -> bool {
        self.awaited.store(position.0, Ordering::SeqCst);
        if self.visible.load(Ordering::SeqCst) < position.0 {
            self.bell.wait();
        }
        self.awaited.store(u64::MAX, Ordering::SeqCst);
        self.get() >= position
    }

    /// Sleeps for a while, or until `interrupt`.
    pub(crate) fn interrupted_within(&self, pause: Duration) {
        self.bell.wait_for(pause);
    }

    /// Wakes whoever sleeps in `wait`.
    pub(crate) fn interrupt(&self) {
        self.bell.ring();
    }
}

/// Wakes one thread; a ring while nobody waits is kept for the next wait.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        let mut rung = self.rung.lock();
        if !*rung {
            *rung = true;
            self.changed.notify_one();
        }
    }

    /// Sleeps until it is rung, at most so long; returns whether it was.
    pub(crate) fn wait_for(&self, limit: Duration) -> bool {
        let Some(deadline) = Instant::now().checked_add(limit) else {
            self.wait();
            return true;
        };
        let mut rung = self.rung.lock();
        while !*rung {
            if self.changed.wait_until(&mut rung, deadline).timed_out() {
                return std::mem::take(&mut *rung);
            }
        }
        *rung = false;
        true
    }

    pub(crate) fn wait(&self) {
        let mut rung = self.rung.lock();
        while !*rung {
            self.changed.wait(&mut rung);
        }
        *rung = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_never_goes_back_and_wakes_whoever_waits_for_it() {
        let gate = VisibleGate::new(Sequence(5));
        gate.raise(Sequence(3));
        assert_eq!(gate.get(), Sequence(5));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                while !gate.wait(Sequence(100)) {}
                gate.get()
            });
            for position in 6..=100 {
                gate.raise(Sequence(position));
            }
            assert_eq!(waiting.join().unwrap(), Sequence(100));
        });
    }

    #[test]
    fn a_bell_is_waited_for_however_long_that_may_be() {
        let bell = Bell::default();
        assert!(!bell.wait_for(Duration::ZERO));
        bell.ring();
        assert!(bell.wait_for(Duration::MAX));
        assert!(!bell.wait_for(Duration::ZERO), "once");
    }
}
