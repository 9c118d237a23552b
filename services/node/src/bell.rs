//! Waking the pipeline thread, at the price of one fence when it is awake.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::Thread;
use std::time::Instant;

#[derive(Default)]
pub(crate) struct Bell {
    asleep: AtomicBool,
    sleeper: OnceLock<Thread>,
    #[cfg(test)]
    woken: std::sync::atomic::AtomicU64,
}

impl Bell {
    /// Something was made available (by an atomic store before this call).
    #[inline]
    pub(crate) fn ring(&self) {
        // Pairs with the fence in `sleep_unless`: either this load sees the sleeper, or the sleeper sees the store.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed)
            && self.asleep.swap(false, Ordering::Relaxed)
            && let Some(sleeper) = self.sleeper.get()
        {
            sleeper.unpark();
            #[cfg(test)]
            self.woken.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often somebody was woken.
    #[cfg(test)]
    pub(crate) fn woken(&self) -> u64 {
        self.woken.load(Ordering::Relaxed)
    }

    /// Whether somebody sleeps here, to be woken.
    #[cfg(test)]
    pub(crate) fn is_slept_at(&self) -> bool {
        self.asleep.load(Ordering::Relaxed)
    }

    /// Whether anybody ever slept here, to be woken.
    #[cfg(test)]
    pub(crate) fn was_slept_at(&self) -> bool {
        self.sleeper.get().is_some()
    }

    /// Sleeps until rung or until `deadline`, unless `available` says there is something already. Only ever called by
    /// one thread.
    pub(crate) fn sleep_unless(&self, available: impl FnOnce() -> bool, deadline: Option<Instant>) {
        self.sleeper.get_or_init(std::thread::current);
        self.asleep.store(true, Ordering::Relaxed);
        // Pairs with the fence in `ring`.
        fence(Ordering::SeqCst);
        if !available() {
            match deadline {
                None => std::thread::park(),
                Some(deadline) => {
                    std::thread::park_timeout(deadline.saturating_duration_since(Instant::now()))
                }
            }
        }
        self.asleep.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn no_ring_is_lost() {
        let (bell, made) = (Bell::default(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for at in 1..=50_000 {
                    made.store(at, Ordering::Relaxed);
                    bell.ring();
                }
            });
            let mut seen = 0;
            while seen < 50_000 {
                bell.sleep_unless(|| made.load(Ordering::Relaxed) > seen, None);
                seen = made.load(Ordering::Relaxed);
            }
        });
    }
}
