//! Says on an idle live tape that time has passed, so that windows by event time close.
//!
//! One `TimeAdvanced` when the tape falls idle, late enough to close the window that the last event is in, then one per
//! [`REPEAT_EVERY`]: silence is what heartbeats are for. Nothing on a tape whose events are of another day.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use matchtape_schemas::event::{Event, TimeAdvanced};
use matchtape_schemas::{EventTime, InstrumentId, ProducerSequence};

use crate::publisher::{Intake, wall_clock};

/// Between two events that say the same.
const REPEAT_EVERY: Duration = Duration::from_secs(10);
/// A tape whose last event is longer ago is not live: what is imported from another day would all be late after this.
const LIVE_WITHIN: Duration = Duration::from_secs(60);
/// How far behind this clock a producer's events may still be under way without being late.
const ALLOWANCE: Duration = Duration::from_millis(20);
/// The windows that saying it once has to close, however the last event lies in its own.
const WINDOW: Duration = Duration::from_millis(100);

pub(crate) struct IdleClock {
    stop: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

impl IdleClock {
    pub(crate) fn start(intake: Arc<Intake>, idle_after: Duration) -> Self {
        let (stop, stopped) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("idle-clock".into())
            .spawn(move || {
                let mut seen = intake.ring.accepted();
                let mut pause = idle_after;
                let mut said: Option<Instant> = None;
                while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                    let head = intake.ring.accepted();
                    if head != seen {
                        (seen, said, pause) = (head, None, idle_after);
                        continue;
                    }
                    if !intake.epoch_has_started() || said.is_some_and(|said| said.elapsed() < REPEAT_EVERY) {
                        continue;
                    }
                    let now = wall_clock();
                    let behind = now.get().saturating_sub(intake.max_event_time.load(Ordering::Relaxed));
                    if behind > LIVE_WITHIN.as_nanos() as i64 {
                        continue;
                    }
                    // Said earlier, it might not pass the window's edge, and nothing would until it is said again.
                    let passes = (WINDOW + ALLOWANCE).as_nanos() as i64;
                    if behind < passes {
                        pause = Duration::from_nanos((passes - behind).max(1) as u64).min(WINDOW + ALLOWANCE);
                        continue;
                    }
                    pause = idle_after;
                    let event_time = EventTime(now.get() - ALLOWANCE.as_nanos() as i64);
                    let body = TimeAdvanced { accepted_time: now, ..TimeAdvanced::default() };
                    let event = Event::new(InstrumentId(0), ProducerSequence(0), event_time, body);
                    // A full or closed ring is not idle.
                    if let Ok(sequence) = intake.publish_control(&event) {
                        (seen, said) = (sequence, Some(Instant::now()));
                    }
                }
            })
            .expect("the system can start a thread");
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for IdleClock {
    fn drop(&mut self) {
        // Full: it was told already.
        let _ = self.stop.try_send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
