//! The delayed tier: one batch per window of event time, over a live or a historical source. All rules of the windows
//! are in `windows.rs`.

use std::time::Duration;

use matchtape_schemas::Sequence;

use crate::batch::{BatchBuf, WindowCursor};
use crate::clock::{Clock, SystemClock};
use crate::conflate::Conflation;
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
    /// Whether what a later event of its window makes superfluous is left out.
    pub conflation: Conflation,
    /// As [`RealTimeOptions::heartbeat_interval`].
    pub heartbeat_interval: Duration,
}

impl Default for DelayedOptions {
    fn default() -> Self {
        Self {
            start: WindowStart::From(Start::New),
            filter: Filter::default(),
            width: Duration::from_millis(100),
            conflation: Conflation::None,
            heartbeat_interval: RealTimeOptions::default().heartbeat_interval,
        }
    }
}

/// A delayed reader. Everything but events is passed on from its source as it is.
///
/// A live one whose start lies beyond the end of the log is told `Ahead`, as any live reader, and waits for it: a log that
/// is followed from another process may be some commits behind what the bus showed to whoever resumes here.
pub struct Delayed<S> {
    source: S,
    cutting: Cutting,
    /// The source shows events that wait for the tape's time before them.
    waiting: bool,
    shown: Option<BatchBuf>,
}

enum Cutting {
    /// What the tape before this position makes of time is not known yet.
    Awaiting(Plan),
    Windows(Windows),
}

/// What windows to cut, from where.
struct Plan {
    width: i64,
    filter: Filter,
    conflation: Conflation,
    next: Sequence,
    after: Option<WindowCursor>,
}

/// A source of events that can tell what the tape made of time before them.
pub trait WindowSource: Subscription {
    /// As [`TapePoint::before`].
    fn point_before(&mut self, next: Sequence) -> Result<Option<TapePoint>, HistoryError>;
}

impl<H: History, L: Live, C: Clock> WindowSource for RealTime<H, L, C> {
    fn point_before(&mut self, next: Sequence) -> Result<Option<TapePoint>, HistoryError> {
        TapePoint::before(self.history_mut(), next)
    }
}

impl<H: History, C: Clock> WindowSource for Historical<H, C> {
    fn point_before(&mut self, next: Sequence) -> Result<Option<TapePoint>, HistoryError> {
        TapePoint::before(self.history_mut(), next)
    }
}

/// How soon the log is looked at again for the time before the first window.
const LOG_WAIT: Duration = Duration::from_millis(1);

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
        let (next, cutting) = begin(&mut history, options)?;
        let inner = RealTimeOptions {
            start: Start::At(next),
            filter: Filter::default(),
            heartbeat_interval: options.heartbeat_interval,
        };
        let source = RealTime::open_with_clock(history, live, inner, clock)?;
        Ok(Self { source, cutting, waiting: false, shown: None })
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
        let (next, cutting) = begin(&mut history, options)?;
        if let Cutting::Awaiting(_) = cutting {
            return Err(SubscriptionError::AheadOfTape { asked: next, visible: history.visible() });
        }
        let inner = HistoricalOptions { start: Start::At(next), end, filter: Filter::default(), pace };
        let source = Historical::open_with_clock(history, inner, clock)?;
        Ok(Self { source, cutting, waiting: false, shown: None })
    }
}

impl<S> Delayed<S> {
    /// The source, for its state.
    pub fn source(&self) -> &S {
        &self.source
    }
}

impl<S: WindowSource> Delayed<S> {
    /// Begins to cut windows, if the tape's time before the first position is known by now.
    fn begin_cutting(&mut self) -> Result<bool, SubscriptionError> {
        if let Cutting::Awaiting(plan) = &self.cutting {
            let Some(point) = self.source.point_before(plan.next)? else { return Ok(false) };
            self.cutting = Cutting::Windows(plan.windows(point)?);
        }
        Ok(true)
    }
}

impl<S: WindowSource> Subscription for Delayed<S> {
    fn advance(&mut self) -> Result<bool, SubscriptionError> {
        loop {
            if let Cutting::Windows(windows) = &mut self.cutting {
                self.shown = windows.pop();
                if self.shown.is_some() {
                    return Ok(true);
                }
            }
            if !self.waiting && !self.source.advance()? {
                return Ok(false);
            }
            self.waiting = matches!(self.source.update(), Update::Events(_)) && !self.begin_cutting()?;
            if self.waiting {
                return Ok(false);
            }
            match (self.source.update(), &mut self.cutting) {
                (Update::Events(events), Cutting::Windows(windows)) => {
                    windows.push(&events.frame(), events.first(), events.last());
                }
                (
                    Update::Events(_)
                    | Update::Window(_)
                    | Update::LiveJoined { .. }
                    | Update::LiveLeft { .. }
                    | Update::Lagging { .. }
                    | Update::CaughtUp { .. }
                    | Update::Heartbeat { .. }
                    | Update::Alarm { .. }
                    | Update::Retract { .. }
                    | Update::PublisherRestarted { .. }
                    | Update::Ahead { .. }
                    | Update::Ended { .. },
                    _,
                ) => return Ok(true),
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
        self.source.wait(if self.waiting { timeout.min(LOG_WAIT) } else { timeout })
    }

    fn now(&self) -> Duration {
        self.source.now()
    }

    /// How far the tape has been read. To resume, keep the [`WindowCursor`] of the last batch instead.
    fn position(&self) -> Sequence {
        match &self.cutting {
            Cutting::Awaiting(plan) => plan.next,
            Cutting::Windows(_) => self.source.position(),
        }
    }
}

impl Plan {
    fn windows(&self, point: TapePoint) -> Result<Windows, SubscriptionError> {
        let windows = match self.after {
            None => Windows::new(self.width, self.filter.clone(), point),
            Some(cursor) if point.in_group => {
                let value = format!("{cursor:?}: no batch of this tape ends there");
                return Err(SubscriptionError::BadOption { what: "the window cursor", value });
            }
            Some(cursor) => Windows::resume(self.width, self.filter.clone(), &cursor, point),
        };
        Ok(windows.with_conflation(self.conflation))
    }
}

/// The first position to be read, and the windows that begin there, if the tape has come that far.
fn begin(
    history: &mut impl History,
    options: &DelayedOptions,
) -> Result<(Sequence, Cutting), SubscriptionError> {
    let width = i64::try_from(options.width.as_nanos()).ok().filter(|width| *width > 0);
    let Some(width) = width else {
        let value = format!("{:?}", options.width);
        return Err(SubscriptionError::BadOption { what: "the width of windows", value });
    };
    let (next, after) = match options.start {
        WindowStart::From(start) => (start.resolve(history)?, None),
        WindowStart::After(cursor) => (cursor.last.next(), Some(cursor)),
    };
    let (filter, conflation) = (options.filter.clone(), options.conflation);
    let plan = Plan { width, filter, conflation, next, after };
    if next > history.visible().next() {
        return Ok((next, Cutting::Awaiting(plan)));
    }
    let point = match TapePoint::before(history, next)? {
        Some(point) => point,
        None if after.is_some() => return Err(below_retention(history, next)),
        // At the edge of what is kept: the first frame tells the time at its end.
        None => match history.frame_at(next)? {
            Some(handle) => TapePoint::after(handle.frame().header()),
            None => return Err(below_retention(history, next)),
        },
    };
    Ok((point.next, Cutting::Windows(plan.windows(point)?)))
}

/// The time before `next` has been cut off.
fn below_retention(history: &impl History, next: Sequence) -> SubscriptionError {
    HistoryError::BelowRetention { asked: next.previous(), first_kept: history.first_kept() }.into()
}
