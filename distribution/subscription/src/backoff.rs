//! How long to leave a log alone that had nothing new: the longer it has been idle, the longer.
//!
//! There is no bus to say that something has come, and looking costs some tens of microseconds. So a log that flows is
//! looked at every millisecond; one that has been idle for a quarter of a second, ten times a second.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(100);

/// Doubles with every look in vain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    /// The shortest pause, as after something has come.
    pub(crate) const NEW: Self = Self(FIRST);

    /// The pause after another look in vain.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_log_is_looked_at_ten_times_a_second_and_a_flowing_one_every_millisecond() {
        let mut backoff = Backoff::NEW;
        let mut looks = 0;
        let mut spent = Duration::ZERO;
        while spent < Duration::from_secs(10) {
            spent += backoff.pause();
            looks += 1;
        }
        assert!((100..=110).contains(&looks), "{looks} in ten seconds");
        let mut again = Backoff::NEW;
        assert_eq!(again.pause(), Duration::from_millis(1));
    }
}
