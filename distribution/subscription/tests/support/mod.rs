//! A log in memory, a clock that is set by hand, and a bus that loses what it is told to lose.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use matchtape_schemas::{Epoch, EventTime, Frame, Sequence, Watermarks};
use matchtape_subscription::{Clock, FrameHandle, History, HistoryError};

pub use self::tape::*;

#[path = "tape.rs"]
mod tape;

impl FrameHandle for OwnedFrame {
    fn frame(&self) -> Frame<'_> {
        OwnedFrame::frame(self)
    }
}

/// The frames of a tape, shared by those who write and read them.
#[derive(Clone)]
pub struct Log(Arc<Mutex<Kept>>);

pub struct Kept {
    pub frames: Vec<OwnedFrame>,
    pub visible: Sequence,
    pub first_kept: Sequence,
    pub epoch: Epoch,
    /// All at `visible`, unless something else is said.
    pub watermarks: Option<Watermarks>,
}

impl Log {
    /// All of it visible.
    pub fn new(frames: Vec<OwnedFrame>) -> Self {
        let visible = frames.last().map_or(Sequence::ZERO, |last| last.frame().last_sequence());
        let epoch = frames.last().map_or(Epoch::default(), |last| last.frame().header().epoch);
        let kept = Kept { frames, visible, first_kept: Sequence::FIRST, epoch, watermarks: None };
        Self(Arc::new(Mutex::new(kept)))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("nobody panicked")
    }

    pub fn change<R>(&self, change: impl FnOnce(&mut Kept) -> R) -> R {
        change(&mut self.kept())
    }
}

impl History for Log {
    type Frame = OwnedFrame;

    fn visible(&self) -> Sequence {
        self.kept().visible
    }

    fn progress(&self) -> (Epoch, Watermarks) {
        let kept = self.kept();
        (kept.epoch, kept.watermarks.unwrap_or(Watermarks::all(kept.visible)))
    }

    fn first_kept(&self) -> Sequence {
        self.kept().first_kept
    }

    fn frame_at(&mut self, from: Sequence) -> Result<Option<OwnedFrame>, HistoryError> {
        let kept = self.kept();
        if from < kept.first_kept {
            return Err(HistoryError::BelowRetention { asked: from, first_kept: kept.first_kept });
        }
        if from > kept.visible {
            return Ok(None);
        }
        let index = kept.frames.partition_point(|frame| frame.frame().last_sequence() < from);
        Ok(kept.frames.get(index).cloned())
    }

    fn first_at_time(&mut self, time: EventTime) -> Result<Option<Sequence>, HistoryError> {
        let kept = self.kept();
        for frame in &kept.frames {
            for event in frame.frame().events() {
                if event.sequence() > kept.visible {
                    return Ok(None);
                }
                if event.sequence() >= kept.first_kept && event.event_time() >= time {
                    return Ok(Some(event.sequence()));
                }
            }
        }
        Ok(None)
    }
}

/// Time that passes when somebody waits.
#[derive(Clone, Default)]
pub struct ManualClock(Rc<Cell<Duration>>);

impl ManualClock {
    pub fn pass(&self, duration: Duration) {
        self.0.set(self.0.get() + duration);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        self.0.get()
    }

    fn sleep(&self, duration: Duration) {
        self.pass(duration);
    }
}

/// How many random schedules a property is tried with: `default`, or `MATCHTAPE_SCHEDULES`.
pub fn schedules(default: u64) -> u64 {
    std::env::var("MATCHTAPE_SCHEDULES").map_or(default, |text| text.parse().expect("a number"))
}

/// Removes the 16 bytes per namespace that iceoryx2 keeps for good.
pub fn forget_id_counter(name: &matchtape_bus::BusName) {
    for entry in std::fs::read_dir("/dev/shm").expect("shared memory") {
        let entry = entry.expect("entry");
        let file = entry.file_name().to_string_lossy().into_owned();
        if file.starts_with(&name.prefix()) && file.ends_with(".global_mgmt") {
            std::fs::remove_file(entry.path()).expect("ours");
        }
    }
}
