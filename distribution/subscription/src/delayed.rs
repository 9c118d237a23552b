//! The delayed tier: one batch per window of event time, over a live or a historical source. All rules of the windows
//! are in `windows.rs`.

use std::time::Duration;

use matchtape_schemas::Sequence;

use crate::batch::{BatchBuf, WindowCursor};
use crate::clock::{Clock, SystemClock};
use crate::filter::Filter;
use crate::historical::{End, Historical, HistoricalOptions, Pace};
use crate::history::{FrameHandle, History, HistoryError};
use crate::live::Live;
use crate::realtime::{RealTime, RealTimeOptions};
use crate::subscription::{Start, Subscription, SubscriptionError};
use crate::update::Update;
use crate::windows::{TapePoint, Windows};

/// Where to begin with windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowStart {
    /// With the first window that opens there or later and is known to be whole.
    From(Start),
    /// After this batch: exactly with the one that followed it.
    After(WindowCursor),
}

/// How to read windows.
#[derive(Clone, Debug)]
pub struct DelayedOptions {
    /// Where to begin.
    pub start: WindowStart,
    /// What to show. It decides which windows are empty.
    pub filter: Filter,
    /// The width of a window.
    pub width: Duration,
    /// As [`RealTimeOptions::heartbeat_interval`].
    pub heartbeat_interval: Duration,
}

impl Default for DelayedOptions {
    fn default() -> Self {
        Self {
            start: WindowStart::From(Start::New),
            filter: Filter::default(),
            width: Duration::from_millis(100),
            heartbeat_interval: RealTimeOptions::default().heartbeat_interval,
        }
    }
}

/// A delayed reader. Everything but events is passed on from its source as it is.
pub struct Delayed<S> {
    source: S,
    windows: Windows,
    shown: Option<BatchBuf>,
}

impl<H: History, L: Live> Delayed<RealTime<H, L>> {
    /// A reader that follows the live tape. `live` shows visible events: windows are never taken back.
    pub fn live(history: H, live: L, options: &DelayedOptions) -> Result<Self, SubscriptionError> {
        Self::live_with_clock(history, live, options, SystemClock::default())
    }
}

impl<H: History, L: Live, C: Clock> Delayed<RealTime<H, L, C>> {
    /// As [`Delayed::live`], living by `clock`.
    pub fn live_with_clock(
        mut history: H,
        live: L,
        options: &DelayedOptions,
        clock: C,
    ) -> Result<Self, SubscriptionError> {
        let stage = live.stage();
        if stage != matchtape_schemas::Stage::Visible {
            return Err(SubscriptionError::BadOption {
                what: "the stage of windows",
                value: stage.to_string(),
            });
        }
        let windows = begin(&mut history, options)?;
        let inner = RealTimeOptions {
            start: Start::At(windows.next()),
            filter: Filter::default(),
            heartbeat_interval: options.heartbeat_interval,
        };
        let source = RealTime::open_with_clock(history, live, inner, clock)?;
        Ok(Self { source, windows, shown: None })
    }
}

impl<H: History> Delayed<Historical<H>> {
    /// A reader of what the live one was given. The window that is open at `end` is not.
    pub fn replay(
        history: H,
        options: &DelayedOptions,
        end: End,
        pace: Pace,
    ) -> Result<Self, SubscriptionError> {
        Self::replay_with_clock(history, options, end, pace, SystemClock::default())
    }
}

impl<H: History, C: Clock> Delayed<Historical<H, C>> {
    /// As [`Delayed::replay`], living by `clock`.
    pub fn replay_with_clock(
        mut history: H,
        options: &DelayedOptions,
        end: End,
        pace: Pace,
        clock: C,
    ) -> Result<Self, SubscriptionError> {
        let windows = begin(&mut history, options)?;
        let inner =
            HistoricalOptions { start: Start::At(windows.next()), end, filter: Filter::default(), pace };
        let source = Historical::open_with_clock(history, inner, clock)?;
        Ok(Self { source, windows, shown: None })
    }
}

impl<S> Delayed<S> {
    /// The source, for its state.
    pub fn source(&self) -> &S {
        &self.source
    }
}

impl<S: Subscription> Subscription for Delayed<S> {
    fn advance(&mut self) -> Result<bool, SubscriptionError> {
        loop {
            self.shown = self.windows.pop();
            if self.shown.is_some() {
                return Ok(true);
            }
            if !self.source.advance()? {
                return Ok(false);
            }
            match self.source.update() {
                Update::Events(events) => self.windows.push(&events.frame(), events.first(), events.last()),
                Update::Window(_)
                | Update::LiveJoined { .. }
                | Update::LiveLeft { .. }
                | Update::Lagging { .. }
                | Update::CaughtUp { .. }
                | Update::Heartbeat { .. }
                | Update::Alarm { .. }
                | Update::Retract { .. }
                | Update::PublisherRestarted { .. }
                | Update::Ahead { .. }
                | Update::Ended { .. } => return Ok(true),
            }
        }
    }

    fn update(&self) -> Update<'_> {
        match &self.shown {
            Some(shown) => Update::Window(shown.batch()),
            None => self.source.update(),
        }
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), SubscriptionError> {
        self.source.wait(timeout)
    }

    fn now(&self) -> Duration {
        self.source.now()
    }

    /// How far the tape has been read. To resume, keep the [`WindowCursor`] of the last batch instead.
    fn position(&self) -> Sequence {
        self.source.position()
    }
}

fn begin(history: &mut impl History, options: &DelayedOptions) -> Result<Windows, SubscriptionError> {
    let width = i64::try_from(options.width.as_nanos()).ok().filter(|width| *width > 0);
    let Some(width) = width else {
        let value = format!("{:?}", options.width);
        return Err(SubscriptionError::BadOption { what: "the width of windows", value });
    };
    let next = match options.start {
        WindowStart::From(start) => start.resolve(history)?,
        WindowStart::After(cursor) => cursor.last.next(),
    };
    let visible = history.visible();
    if next > visible.next() {
        // Windows cannot be cut without the tape's time before them.
        return Err(SubscriptionError::AheadOfTape { asked: next, visible });
    }
    let point = TapePoint::before(history, next)?;
    match (options.start, point) {
        (WindowStart::From(_), Some(point)) => Ok(Windows::new(width, options.filter.clone(), point)),
        (WindowStart::From(_), None) => {
            // At the edge of what is kept: the first frame tells the time at its end.
            let Some(handle) = history.frame_at(next)? else {
                return Err(below_retention(history, next));
            };
            let point = TapePoint::after(handle.frame().header());
            Ok(Windows::new(width, options.filter.clone(), point))
        }
        (WindowStart::After(_), None) => Err(below_retention(history, next)),
        (WindowStart::After(cursor), Some(point)) if point.in_group => {
            let value = format!("{cursor:?}: no batch of this tape ends there");
            Err(SubscriptionError::BadOption { what: "the window cursor", value })
        }
        (WindowStart::After(cursor), Some(point)) => {
            Ok(Windows::resume(width, options.filter.clone(), &cursor, point))
        }
    }
}

/// The time before `next` has been cut off.
fn below_retention(history: &impl History, next: Sequence) -> SubscriptionError {
    HistoryError::BelowRetention { asked: next.previous(), first_kept: history.first_kept() }.into()
}
