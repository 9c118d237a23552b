//! The delayed tier's windows: a pure function of the tape, so live and replay give the same bytes.
//!
//! Windows of one width lie on the grid of event time. The tape's own time is its greatest event time so far, event by
//! event; where frames begin and end does not matter.
//!
//! * A group lies wholly in the window in which it began: the one that holds the tape's time at its first event.
//! * A window closes where a group begins beyond its edge, or ends having passed it.
//! * A late event goes into the open window, for the one it belongs to is closed.
//! * `TimeAdvanced` moves the tape's time like any event, but is never part of a window: a window without anything
//!   else is empty.
//! * The empty windows that one event passes are one message.
//! * A window that grows beyond [`PART_BYTES`] (before conflation) is given in parts, cut where a group begins.
//! * A conflated channel's batches are these, each conflated by itself (`conflate.rs`).
//!
//! Whoever joins in the middle gets the same batches, from the first window on that opens after it joined.

use std::collections::VecDeque;

use matchtape_schemas::{EventTime, Frame, FrameHeader, Kind, Sequence, TapeId};

use crate::batch::{BatchBuf, BatchHeader, Builder, WindowCursor};
use crate::conflate::Conflation;
use crate::filter::Filter;
use crate::history::{FrameHandle, History, HistoryError};

/// A part of a window is closed by the group that begins after this many bytes.
pub const PART_BYTES: usize = 4 * 1024 * 1024;

/// Where windows begin to be cut: a position, and what the tape before it makes of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapePoint {
    /// The tape; zero before its first event, where nothing names it.
    pub tape: TapeId,
    /// The next event.
    pub next: Sequence,
    /// The greatest event time before it.
    pub running: EventTime,
    /// Whether the event before it left its group unfinished.
    pub in_group: bool,
}

impl TapePoint {
    /// Before the first event of a tape.
    pub const BEGINNING: Self =
        Self { tape: TapeId(0), next: Sequence::FIRST, running: EventTime::MIN, in_group: false };

    /// The point after a frame.
    #[must_use]
    pub fn after(frame: &FrameHeader) -> Self {
        Self {
            tape: frame.tape,
            next: frame.last_sequence().next(),
            running: frame.max_event_time,
            in_group: !frame.ends_group(),
        }
    }

    /// The point before `next`. A frame's header states the greatest event time at its END, so this reads the frame
    /// before, and where `next` lies inside a frame, that frame up to there.
    ///
    /// `None` where `next` lies beyond what is visible, or so close to the beginning of what is kept that the time
    /// before it is not known.
    pub fn before<H: History>(history: &mut H, next: Sequence) -> Result<Option<Self>, HistoryError> {
        if next <= Sequence::FIRST {
            return Ok(Some(Self::BEGINNING));
        }
        if next.previous() < history.first_kept() {
            return Ok(None);
        }
        let Some(handle) = history.frame_at(next.previous())? else { return Ok(None) };
        let frame = handle.frame();
        let header = frame.header();
        if frame.last_sequence() < next {
            return Ok(Some(Self::after(header)));
        }
        let first = frame.first_sequence();
        let before = if first == Sequence::FIRST {
            EventTime::MIN
        } else if first <= history.first_kept() {
            return Ok(None);
        } else {
            match history.frame_at(first.previous())? {
                Some(previous) => previous.frame().header().max_event_time,
                None => return Ok(None),
            }
        };
        let (mut running, mut in_group) = (before, false);
        for event in frame.events().take_while(|event| event.sequence() < next) {
            running = running.max(event.event_time());
            in_group = !event.ends_group();
        }
        Ok(Some(Self { tape: header.tape, next, running, in_group }))
    }
}

/// Cuts a tape into windows.
pub struct Windows {
    width: i64,
    filter: Filter,
    conflation: Conflation,
    tape: TapeId,
    next: Sequence,
    running: EventTime,
    in_group: bool,
    /// The window that groups go into; `None` before the first event of the tape.
    open: Option<i64>,
    /// The open window may have begun before this reader: nothing is given until the next one opens.
    joining: bool,
    /// The first position that no batch has covered.
    uncovered: Sequence,
    part: u32,
    building: Builder,
    ready: VecDeque<BatchBuf>,
}

impl Windows {
    /// Windows of `width_ns` nanoseconds, from `point` on. At [`TapePoint::BEGINNING`] nothing is missed.
    ///
    /// # Panics
    /// When the width is not positive.
    #[must_use]
    pub fn new(width_ns: i64, filter: Filter, point: TapePoint) -> Self {
        assert!(width_ns > 0, "windows have a width");
        let fresh = point == TapePoint::BEGINNING;
        Self {
            width: width_ns,
            filter,
            conflation: Conflation::None,
            tape: point.tape,
            next: point.next,
            running: point.running,
            in_group: point.in_group,
            open: (!fresh).then(|| point.running.get().div_euclid(width_ns)),
            joining: !fresh,
            uncovered: point.next,
            part: 0,
            building: Builder::new(),
            ready: VecDeque::new(),
        }
    }

    /// Continues after the batch with this cursor, with exactly the batches that followed it. `point` is the one
    /// before the position after [`WindowCursor::last`].
    ///
    /// # Panics
    /// When `point` is another one.
    #[must_use]
    pub fn resume(width_ns: i64, filter: Filter, cursor: &WindowCursor, point: TapePoint) -> Self {
        assert!(
            point.next == cursor.last.next() && !point.in_group,
            "{point:?} does not continue {cursor:?}"
        );
        let mut windows = Self::new(width_ns, filter, point);
        windows.joining = false;
        windows.open = Some(if cursor.next_part.is_some() { cursor.window } else { cursor.window + 1 });
        windows.part = cursor.next_part.unwrap_or(0);
        // The group that ended the cursor's window may have passed others, whose message was the next.
        windows.move_to(windows.window_of(point.running));
        windows
    }

    /// The same windows, conflated or not.
    #[must_use]
    pub fn with_conflation(self, conflation: Conflation) -> Self {
        Self { conflation, ..self }
    }

    /// The next position to be pushed.
    #[must_use]
    pub fn next(&self) -> Sequence {
        self.next
    }

    /// Takes in the events `first..=last` of a frame.
    ///
    /// # Panics
    /// When `first` is not [`next`](Self::next), or the frame does not hold these.
    pub fn push(&mut self, frame: &Frame<'_>, first: Sequence, last: Sequence) {
        let header = frame.header();
        assert!(
            first == self.next && header.first_sequence <= first && last <= header.last_sequence(),
            "events {first} to {last} of {header:?} after {}",
            self.next.previous()
        );
        self.tape = header.tape;
        let whole = first == header.first_sequence && last == header.last_sequence();
        if whole && self.changes_nothing(frame) {
            self.running = self.running.max(header.max_event_time);
            self.in_group = !header.ends_group();
            self.next = last.next();
            return;
        }
        let skipped = first.get() - header.first_sequence.get();
        let count = last.get() - first.get() + 1;
        for event in frame.events().skip(skipped as usize).take(count as usize) {
            self.running = self.running.max(event.event_time());
            if !self.in_group {
                self.move_to(self.window_of(self.running));
                if self.building.len() >= PART_BYTES {
                    self.cut_part();
                }
            }
            if !self.joining && event.kind() != Kind::TimeAdvanced && self.filter.matches(&event) {
                let late = event.event_time().get() < self.start_of_open();
                self.building.push(&event, late);
            }
            self.next = event.sequence().next();
            self.in_group = !event.ends_group();
            if !self.in_group {
                self.move_to(self.window_of(self.running));
            }
        }
    }

    /// The next batch that is complete.
    pub fn pop(&mut self) -> Option<BatchBuf> {
        self.ready.pop_front()
    }

    /// Whether [`pop`](Self::pop) gives one.
    pub(crate) fn has_one(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Gives what there is of the open window as a part of it; `false` when there is nothing, or a group goes on.
    pub(crate) fn cut_open(&mut self) -> bool {
        let cuts = !self.building.is_empty() && !self.in_group;
        if cuts {
            self.cut_part();
        }
        cuts
    }

    /// Whether a whole frame neither closes a window nor shows anything: its events need not be looked at.
    fn changes_nothing(&self, frame: &Frame<'_>) -> bool {
        let header = frame.header();
        let reaches = self.window_of(self.running.max(header.max_event_time));
        self.open.is_some_and(|open| reaches <= open)
            && (self.joining || !header.kinds.intersects(self.filter.kinds))
            && self.building.len() < PART_BYTES
    }

    /// The window that the tape's time is in once an event with this time has come.
    pub(crate) fn window_at(&self, next: EventTime) -> i64 {
        self.window_of(self.running.max(next))
    }

    fn window_of(&self, time: EventTime) -> i64 {
        time.get().div_euclid(self.width)
    }

    fn start_of_open(&self) -> i64 {
        self.open.unwrap_or(i64::MIN).saturating_mul(self.width)
    }

    /// The tape's time is now in window `reached`.
    fn move_to(&mut self, reached: i64) {
        let Some(open) = self.open else {
            self.open = Some(reached);
            return;
        };
        if reached <= open {
            return;
        }
        self.open = Some(reached);
        if self.joining {
            self.joining = false;
            self.uncovered = self.next;
            return;
        }
        let mut empty_from = open;
        if !self.building.is_empty() || self.part > 0 {
            self.give(open, open, true, false);
            empty_from = open + 1;
        }
        if empty_from < reached {
            self.give(empty_from, reached - 1, true, true);
        }
        self.part = 0;
    }

    fn cut_part(&mut self) {
        if let Some(open) = self.open {
            self.give(open, open, false, false);
            self.part += 1;
        }
    }

    fn give(&mut self, first_window: i64, last_window: i64, last_part: bool, empty: bool) {
        let header = BatchHeader {
            last_part,
            empty,
            tape: self.tape,
            width: self.width,
            first_window,
            last_window,
            first: self.uncovered,
            last: self.next.previous(),
            part: if empty { 0 } else { self.part },
            count: 0,
            late: 0,
            conflated: false,
            left_out: 0,
        };
        self.uncovered = self.next;
        let building = std::mem::replace(&mut self.building, Builder::new());
        let batch = building.finish(header);
        self.ready.push_back(match self.conflation {
            Conflation::None => batch,
            Conflation::LastState => batch.batch().conflated(),
        });
    }
}
