//! The historical tier: a range of the tape from the log, as fast as it goes or at the pace at which it happened. While nothing
//! is due it gives signs of life, as the bus does: a slow replay is not a dead one, and is no picture of the present.

use std::time::Duration;

use matchtape_schemas::{Epoch, EventTime, Frame, Sequence, Watermarks};

use crate::backoff::Backoff;
use crate::clock::{Clock, SystemClock};
use crate::filter::Filter;
use crate::history::{FrameHandle, History};
use crate::subscription::{Start, Subscription, SubscriptionError};
use crate::update::{Events, Span, Update};

/// Where a range ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// With the last event that is visible when it is opened.
    #[default]
    Visible,
    /// With this one. What does not exist yet is waited for.
    Through(Sequence),
    /// Before the first event at which the tape's greatest event time reaches this; where none does yet, as `Visible`.
    /// So ranges of time are pieces of the tape that fit together; a late event stays in its place.
    Before(EventTime),
}

/// How fast.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Pace {
    /// As fast as it is taken.
    #[default]
    AsFastAsPossible,
    /// At the tape's own pace times this factor: 1.0 as it happened, 60.0 an hour per minute. Late events come with
    /// the events around them.
    Times(f64),
}

/// Which range to read, and how.
#[derive(Clone, Debug)]
pub struct HistoricalOptions {
    /// Where to begin. The default, `New`, is an empty range: say where.
    pub start: Start,
    /// Where to end.
    pub end: End,
    /// What to show.
    pub filter: Filter,
    /// How fast.
    pub pace: Pace,
    /// After this long without anything else, and as often from then on, a sign of life with all watermarks.
    pub heartbeat_interval: Duration,
}

impl Default for HistoricalOptions {
    fn default() -> Self {
        Self {
            start: Start::default(),
            end: End::default(),
            filter: Filter::default(),
            pace: Pace::default(),
            heartbeat_interval: Duration::from_millis(100),
        }
    }
}

/// Frames looked at per call when the filter passes none of them, so that a call returns in bounded time.
const STEPS_MAX: u32 = 256;

/// A reader of a range. A range is exact, also where it begins or ends inside a group. Dropping it stops it.
#[derive(Debug)]
pub struct Historical<H: History, C: Clock = SystemClock> {
    history: H,
    clock: C,
    filter: Filter,
    through: Sequence,
    next: Sequence,
    pacer: Option<Pacer>,
    /// The frame that is shown, or whose rest is not due yet.
    held: Option<H::Frame>,
    shown: Option<Shown>,
    ended: bool,
    busy: bool,
    backoff: Backoff,
    heartbeat_interval: Duration,
    /// When something was last shown.
    shown_at: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Shown {
    Events(Span),
    Heartbeat,
    Ended,
}

impl<H: History> Historical<H> {
    /// A reader of `history`.
    pub fn open(history: H, options: HistoricalOptions) -> Result<Self, SubscriptionError> {
        Self::open_with_clock(history, options, SystemClock::default())
    }
}

impl<H: History, C: Clock> Historical<H, C> {
    /// As [`Historical::open`], living by `clock`.
    pub fn open_with_clock(
        mut history: H,
        options: HistoricalOptions,
        clock: C,
    ) -> Result<Self, SubscriptionError> {
        let HistoricalOptions { start, end, filter, pace, heartbeat_interval } = options;
        if heartbeat_interval.is_zero() {
            return Err(SubscriptionError::BadOption {
                what: "the heartbeat interval",
                value: "zero".into(),
            });
        }
        let pacer = Pacer::new(pace)?;
        let next = start.resolve(&mut history)?;
        let visible = history.visible();
        let through = match end {
            End::Visible => visible,
            End::Through(last) => last,
            End::Before(time) => history.first_at_time(time)?.map_or(visible, Sequence::previous),
        };
        Ok(Self {
            shown_at: clock.now(),
            heartbeat_interval,
            history,
            clock,
            filter,
            through,
            next,
            pacer,
            held: None,
            shown: None,
            ended: false,
            busy: false,
            backoff: Backoff::NEW,
        })
    }

    /// Goes on elsewhere in the same range's tape, backwards or forwards; the end stays. Pacing starts anew there.
    pub fn seek(&mut self, to: Start) -> Result<(), SubscriptionError> {
        self.next = to.resolve(&mut self.history)?;
        self.ended = false;
        self.held = None;
        self.shown = None;
        self.restart_pace();
        Ok(())
    }

    /// Goes on at this pace from here. After a pause, say the same pace again: otherwise everything that fell due
    /// in the meantime comes at once.
    pub fn set_pace(&mut self, pace: Pace) -> Result<(), SubscriptionError> {
        self.pacer = Pacer::new(pace)?;
        Ok(())
    }

    /// When the next events are due, by the clock; `None` when they are not held back.
    pub fn due(&self) -> Option<Duration> {
        self.pacer.as_ref().and_then(|pacer| pacer.next_due)
    }

    /// The log, for what lies before the events shown.
    pub(crate) fn history_mut(&mut self) -> &mut H {
        &mut self.history
    }

    /// The tape's term and how far each stage is.
    pub(crate) fn progress(&self) -> (Epoch, Watermarks) {
        self.history.progress()
    }

    /// Nothing is to be shown now but, when it is time for one, a sign of life.
    fn nothing(&mut self) -> bool {
        let now = self.clock.now();
        if now.saturating_sub(self.shown_at) < self.heartbeat_interval {
            return false;
        }
        self.shown_at = now;
        self.shown = Some(Shown::Heartbeat);
        true
    }

    fn restart_pace(&mut self) {
        if let Some(pacer) = &mut self.pacer {
            *pacer = Pacer { base: None, next_due: None, in_group: false, ..*pacer };
        }
    }
}

impl<H: History, C: Clock> Subscription for Historical<H, C> {
    fn advance(&mut self) -> Result<bool, SubscriptionError> {
        self.shown = None;
        self.busy = false;
        for _ in 0..STEPS_MAX {
            if self.next > self.through {
                self.held = None;
                if self.ended {
                    return Ok(false);
                }
                self.ended = true;
                self.shown = Some(Shown::Ended);
                return Ok(true);
            }
            if self.held.as_ref().is_none_or(|held| held.frame().last_sequence() < self.next) {
                self.held = None;
                self.held = self.history.frame_at(self.next)?;
            }
            let Some(handle) = &self.held else { return Ok(self.nothing()) };
            self.backoff = Backoff::NEW;
            let frame = handle.frame();
            let mut last = frame.last_sequence().min(self.through);
            if let Some(pacer) = &mut self.pacer {
                match pacer.due_through(&frame, self.next, last, self.clock.now()) {
                    Some(due) => last = due,
                    None => return Ok(self.nothing()),
                }
            }
            let span = Span::of_log(self.next, last);
            self.next = last.next();
            if Events::new(frame, span, &self.filter).any() {
                self.shown = Some(Shown::Events(span));
                self.shown_at = self.clock.now();
                return Ok(true);
            }
            if self.nothing() {
                self.busy = true;
                return Ok(true);
            }
        }
        self.busy = true;
        Ok(false)
    }

    fn update(&self) -> Update<'_> {
        match (self.shown, &self.held) {
            (Some(Shown::Ended), _) => Update::Ended { next: self.next },
            (Some(Shown::Heartbeat), _) => {
                let (epoch, watermarks) = self.history.progress();
                Update::Heartbeat { epoch, watermarks }
            }
            (Some(Shown::Events(span)), Some(held)) => {
                Update::Events(Events::new(held.frame(), span, &self.filter))
            }
            (Some(Shown::Events(_)) | None, _) => panic!("update() is for after advance() has returned true"),
        }
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), SubscriptionError> {
        if self.busy {
            return Ok(());
        }
        let held_back = match self.due() {
            Some(due) => due.saturating_sub(self.clock.now()),
            // The range goes on beyond what is visible; or it has ended, and there is nothing to wait for.
            None if self.ended => timeout,
            None => self.backoff.pause(),
        };
        let silent = self.clock.now().saturating_sub(self.shown_at);
        let silence_left = if self.ended { timeout } else { self.heartbeat_interval.saturating_sub(silent) };
        self.clock.sleep(timeout.min(held_back).min(silence_left));
        Ok(())
    }

    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn position(&self) -> Sequence {
        self.next
    }
}

/// Says how much of a frame is due. Pure: the time is an argument.
#[derive(Clone, Copy, Debug)]
struct Pacer {
    factor: f64,
    /// The clock and the tape's time when the first event was shown, and the tape's time now.
    base: Option<(Duration, EventTime, EventTime)>,
    /// The last event shown left its group unfinished: the rest of it is due.
    in_group: bool,
    next_due: Option<Duration>,
}

impl Pacer {
    fn new(pace: Pace) -> Result<Option<Self>, SubscriptionError> {
        match pace {
            Pace::AsFastAsPossible => Ok(None),
            Pace::Times(factor) if factor.is_finite() && factor > 0.0 => {
                Ok(Some(Self { factor, base: None, in_group: false, next_due: None }))
            }
            Pace::Times(factor) => {
                Err(SubscriptionError::BadOption { what: "the pace", value: factor.to_string() })
            }
        }
    }

    /// The last event of `first..=last` that is due, counting by groups; `None` when not even the first is.
    fn due_through(
        &mut self,
        frame: &Frame<'_>,
        first: Sequence,
        last: Sequence,
        now: Duration,
    ) -> Option<Sequence> {
        let mut through = None;
        let skipped = first.get() - frame.first_sequence().get();
        let count = last.get() - first.get() + 1;
        for event in frame.events().skip(skipped as usize).take(count as usize) {
            if self.base.is_none() && event.event_time() == EventTime::MIN {
                // No time has been said on the tape yet: its first term starts before its first event happens.
                through = Some(event.sequence());
                continue;
            }
            let (start, tape_start, running) =
                *self.base.get_or_insert((now, event.event_time(), event.event_time()));
            let running = running.max(event.event_time());
            if !self.in_group {
                let elapsed_ns =
                    (i128::from(running.get()) - i128::from(tape_start.get())) as f64 / self.factor;
                // Saturates: a pace of a billionth may lie beyond any clock.
                let due = start.saturating_add(Duration::from_nanos(elapsed_ns as u64));
                if due > now {
                    self.next_due = Some(due);
                    return through;
                }
            }
            self.base = Some((start, tape_start, running));
            self.in_group = !event.ends_group();
            through = Some(event.sequence());
        }
        self.next_due = None;
        through
    }
}
