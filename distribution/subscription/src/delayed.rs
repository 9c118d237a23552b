//! The delayed tier: one batch per window of event time, over a live or a historical source. All rules of the windows
//! are in `windows.rs`.

use std::time::Duration;

use matchtape_schemas::{Epoch, EventTime, Sequence, Watermarks};

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

/// What becomes of the window that is open where a replay ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenWindow {
    /// It is not given, as a live reader has not been given it yet.
    LeaveOut,
    /// What there is of it is given as a part of it, not its last one; [`WindowStart::After`] continues with the next part.
    AsPart,
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
    /// Of a replay: the window that is open at its end. Live windows have no end.
    pub open_window: OpenWindow,
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
            open_window: OpenWindow::LeaveOut,
            heartbeat_interval: RealTimeOptions::default().heartbeat_interval,
        }
    }
}

/// A delayed reader. Everything but events is passed on from its source as it is. Where the source has events and no window of
/// them is to be shown for long, it gives the signs of life that the source has no reason for.
///
/// A live one whose start lies beyond the end of the log is told `Ahead`, as any live reader, and waits for it: a log that
/// is followed from another process may be some commits behind what the bus showed to whoever resumes here.
pub struct Delayed<S> {
    source: S,
    cutting: Cutting,
    /// The source shows events that wait for the tape's time before them.
    waiting: bool,
    /// What is continued, until the first event has shown that a window ended there.
    unproven: Option<WindowCursor>,
    open_window: OpenWindow,
    /// What was open at the source's end is shown, its end not yet.
    ending: bool,
    shown: Option<BatchBuf>,
    heartbeat_interval: Duration,
    /// Since when events have been read without anything to be shown.
    quiet_since: Option<Duration>,
    sign: Option<(Epoch, Watermarks)>,
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

    /// A sign of life to be given while there are events and nothing to be shown; `None` where one comes from elsewhere.
    fn sign_of_reading(&mut self) -> Option<(Epoch, Watermarks)>;
}

impl<H: History, L: Live, C: Clock> WindowSource for RealTime<H, L, C> {
    fn point_before(&mut self, next: Sequence) -> Result<Option<TapePoint>, HistoryError> {
        TapePoint::before(self.history_mut(), next)
    }

    fn sign_of_reading(&mut self) -> Option<(Epoch, Watermarks)> {
        RealTime::sign_of_reading(self)
    }
}

impl<H: History, C: Clock> WindowSource for Historical<H, C> {
    fn point_before(&mut self, next: Sequence) -> Result<Option<TapePoint>, HistoryError> {
        TapePoint::before(self.history_mut(), next)
    }

    fn sign_of_reading(&mut self) -> Option<(Epoch, Watermarks)> {
        Some(self.progress())
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
        Ok(Self::new(source, cutting, options))
    }
}

impl<H: History> Delayed<Historical<H>> {
    /// A reader of what the live one was given.
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
        let heartbeat_interval = options.heartbeat_interval;
        let filter = Filter::default();
        let inner = HistoricalOptions { start: Start::At(next), end, filter, pace, heartbeat_interval };
        let source = Historical::open_with_clock(history, inner, clock)?;
        Ok(Self::new(source, cutting, options))
    }
}

impl<S> Delayed<S> {
    fn new(source: S, cutting: Cutting, options: &DelayedOptions) -> Self {
        Self {
            source,
            cutting,
            waiting: false,
            unproven: options.start.cursor(),
            open_window: options.open_window,
            ending: false,
            shown: None,
            heartbeat_interval: options.heartbeat_interval,
            quiet_since: None,
            sign: None,
        }
    }

    /// The source, for its state.
    pub fn source(&self) -> &S {
        &self.source
    }
}

impl WindowStart {
    fn cursor(self) -> Option<WindowCursor> {
        match self {
            Self::From(_) => None,
            Self::After(cursor) => Some(cursor),
        }
    }
}

/// A window ended where the event after it lies beyond it; a part ended where the tape's time had not left the window.
fn check_cursor(windows: &Windows, cursor: &WindowCursor, next: EventTime) -> Result<(), SubscriptionError> {
    let ended_there = match cursor.next_part {
        None => windows.window_at(next) > cursor.window,
        Some(part) => part > 0 && windows.window_at(EventTime::MIN) == cursor.window,
    };
    if ended_there { Ok(()) } else { Err(no_batch_ends_at(cursor)) }
}

fn no_batch_ends_at(cursor: &WindowCursor) -> SubscriptionError {
    let value = format!("{cursor}: no batch of this tape ends there");
    SubscriptionError::BadOption { what: "the window cursor", value }
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

    /// Events were read. Whether it is time for a sign of life.
    fn passed_quietly(&mut self) -> bool {
        let now = self.source.now();
        let since = *self.quiet_since.get_or_insert(now);
        if now.saturating_sub(since) >= self.heartbeat_interval {
            self.quiet_since = Some(now);
            self.sign = self.source.sign_of_reading();
        }
        self.sign.is_some()
    }
}

impl<S: WindowSource> Subscription for Delayed<S> {
    fn advance(&mut self) -> Result<bool, SubscriptionError> {
        self.sign = None;
        loop {
            if let Cutting::Windows(windows) = &mut self.cutting {
                self.shown = windows.pop();
                if self.shown.is_some() {
                    self.quiet_since = None;
                    return Ok(true);
                }
                if std::mem::take(&mut self.ending) {
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
                    if let Some(cursor) = self.unproven
                        && let Some(next) = events.iter().next()
                    {
                        check_cursor(windows, &cursor, next.event_time())?;
                        self.unproven = None;
                    }
                    windows.push(&events.frame(), events.first(), events.last());
                    if !windows.has_one() && self.passed_quietly() {
                        return Ok(true);
                    }
                }
                (Update::Ended { .. }, Cutting::Windows(windows)) => {
                    self.ending = self.open_window == OpenWindow::AsPart && windows.cut_open();
                    if !self.ending {
                        return Ok(true);
                    }
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
                ) => {
                    self.quiet_since = None;
                    return Ok(true);
                }
            }
        }
    }

    fn update(&self) -> Update<'_> {
        match (&self.shown, self.sign) {
            (Some(shown), _) => Update::Window(shown.batch()),
            (None, Some((epoch, watermarks))) => Update::Heartbeat { epoch, watermarks },
            (None, None) => self.source.update(),
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
            Some(cursor) if point.in_group => return Err(no_batch_ends_at(&cursor)),
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
        WindowStart::After(cursor) => {
            // The window after it is one whose edges are times.
            if cursor.window.checked_add(1).and_then(|window| window.checked_mul(width)).is_none() {
                return Err(no_batch_ends_at(&cursor));
            }
            (cursor.last.next(), Some(cursor))
        }
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
