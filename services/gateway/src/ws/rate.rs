//! A token bucket: an average per second, and how much may come at once.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct TokenBucket {
    per_second: u32,
    burst: u32,
    /// When the bucket is full again.
    full_at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        Self { per_second, burst, full_at: now }
    }

    /// Takes one token; `false` when there is none.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let token = Duration::from_secs(1) / self.per_second;
        let full_at = self.full_at.max(now) + token;
        if full_at > now + token * self.burst {
            return false;
        }
        self.full_at = full_at;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_average_holds() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10, 3, start);
        let taken = |bucket: &mut TokenBucket, at_ms: u64| bucket.take(start + Duration::from_millis(at_ms));
        assert_eq!([0, 0, 0, 0].map(|at| taken(&mut bucket, at)), [true, true, true, false]);
        assert_eq!([100, 100].map(|at| taken(&mut bucket, at)), [true, false]);
        assert_eq!([10_000; 4].map(|at| taken(&mut bucket, at)), [true, true, true, false]);
    }
}
