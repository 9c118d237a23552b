//! Time as an argument, and the alarm that needs it.

use std::time::{Duration, Instant};

/// A clock that never goes back.
pub trait Clock {
    /// Time since some fixed moment.
    fn now(&self) -> Duration;

    /// Lets this much time pass, or less.
    fn sleep(&self, duration: Duration);
}

/// The machine's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// Missed intervals that raise the alarm.
pub const HEARTBEATS_MISSED_MAX: u32 = 3;

/// Whether anything was heard lately.
#[derive(Clone, Debug)]
pub struct HeartbeatAlarm {
    interval: Duration,
    heard: Duration,
    /// Whole intervals of silence already reported, zero while all is well.
    reported: u32,
}

/// What silence means now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The alarm is raised: this many intervals were missed.
    Raised(u32),
    /// It goes on for another interval.
    Continues,
}

impl HeartbeatAlarm {
    /// An alarm for heartbeats that come every `interval`, as if one had come `now`.
    #[must_use]
    pub fn new(interval: Duration, now: Duration) -> Self {
        Self { interval, heard: now, reported: 0 }
    }

    /// Something came.
    pub fn heard(&mut self, now: Duration) {
        self.heard = now;
        self.reported = 0;
    }

    /// Whether it was raised and nothing has been heard since.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.reported > 0
    }

    /// Nothing came; says something once per interval from [`HEARTBEATS_MISSED_MAX`] on.
    pub fn check(&mut self, now: Duration) -> Option<Silence> {
        let silent = now.saturating_sub(self.heard).as_nanos();
        let missed = u32::try_from(silent / self.interval.as_nanos().max(1)).unwrap_or(u32::MAX);
        if missed < HEARTBEATS_MISSED_MAX || missed <= self.reported {
            return None;
        }
        let raised = self.reported == 0;
        self.reported = missed;
        Some(if raised { Silence::Raised(missed) } else { Silence::Continues })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alarm_is_raised_once_after_three_intervals_and_again_only_after_a_sign_of_life() {
        let ms = Duration::from_millis;
        let mut alarm = HeartbeatAlarm::new(ms(100), ms(1000));
        assert_eq!(alarm.check(ms(1299)), None);
        assert_eq!(alarm.check(ms(1300)), Some(Silence::Raised(3)));
        assert_eq!(alarm.check(ms(1399)), None);
        assert_eq!(alarm.check(ms(1400)), Some(Silence::Continues));
        assert_eq!(alarm.check(ms(1450)), None);
        alarm.heard(ms(1500));
        assert_eq!(alarm.check(ms(1799)), None);
        assert_eq!(alarm.check(ms(2500)), Some(Silence::Raised(10)));
    }
}
