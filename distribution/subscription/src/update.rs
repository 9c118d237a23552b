//! What a reader is told, the same for every tier.

use std::convert::Infallible;

use matchtape_schemas::{Epoch, EventRef, Frame, Sequence, Stage, Watermarks};

use crate::batch::Batch;
use crate::filter::Filter;

/// What a subscription says, borrowed until it is asked again.
pub type Update<'a> = UpdateOf<Events<'a>, Batch<'a>>;

/// The updates that carry no events.
pub(crate) type Notice = UpdateOf<Infallible, Infallible>;

/// What a subscription says, with events and windows held as `E` and `W`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateOf<E, W> {
    /// The next events, at least one of which passes the filter.
    Events(E),
    /// The next window (or run of empty ones) of a delayed subscription.
    Window(W),
    /// From `next` on, events come live from the bus.
    LiveJoined {
        /// The first that does.
        next: Sequence,
    },
    /// From `next` on, events come from the log, until `LiveJoined`. Nothing is missing in between.
    LiveLeft {
        /// The first that does.
        next: Sequence,
        /// Why.
        reason: LeaveReason,
    },
    /// This reader did not keep up with the bus.
    Lagging {
        /// How many events it lost there; they come from the log.
        behind: u64,
    },
    /// This reader lagged and is live again.
    CaughtUp {
        /// The next event.
        next: Sequence,
    },
    /// Nothing new, but the publisher lives; of one that reads the log: nothing is to be shown, but it reads.
    Heartbeat {
        /// The publisher's term.
        epoch: Epoch,
        /// How far every stage is.
        watermarks: Watermarks,
    },
    /// The publisher has been silent for this many heartbeat intervals. The log is looked at while it lasts; the next
    /// update that comes from the bus ends it.
    Alarm {
        /// Intervals without a word.
        missed: u32,
    },
    /// Events that were shown speculatively never happened. `first` comes again, as something else.
    Retract {
        /// The term they were accepted in.
        epoch: Epoch,
        /// The first of them.
        first: Sequence,
        /// The last of them.
        last: Sequence,
    },
    /// Another publisher has taken over: the node was restarted.
    PublisherRestarted {
        /// Its term.
        epoch: Epoch,
    },
    /// The position asked for lies beyond the tape's end; this reader waits for it.
    Ahead {
        /// The position asked for.
        next: Sequence,
        /// The last event that is visible.
        visible: Sequence,
    },
    /// A historical range is complete.
    Ended {
        /// The position after it.
        next: Sequence,
    },
}

/// Why events come from the log and no longer from the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveReason {
    /// These did not arrive: the reader's buffer overflowed, or a sample was damaged.
    Missed {
        /// The first of them.
        first: Sequence,
        /// The last of them.
        last: Sequence,
    },
    /// A new publisher began beyond what this reader has.
    PublisherRestarted,
    /// What was shown speculatively may have been lost with its term.
    Retracted,
    /// Nothing was heard for three heartbeat intervals.
    Silent,
}

impl<E, W> UpdateOf<E, W> {
    /// The same update with its events and windows held otherwise.
    pub fn map<F, X>(self, events: impl FnOnce(E) -> F, window: impl FnOnce(W) -> X) -> UpdateOf<F, X> {
        match self {
            Self::Events(held) => UpdateOf::Events(events(held)),
            Self::Window(held) => UpdateOf::Window(window(held)),
            Self::LiveJoined { next } => UpdateOf::LiveJoined { next },
            Self::LiveLeft { next, reason } => UpdateOf::LiveLeft { next, reason },
            Self::Lagging { behind } => UpdateOf::Lagging { behind },
            Self::CaughtUp { next } => UpdateOf::CaughtUp { next },
            Self::Heartbeat { epoch, watermarks } => UpdateOf::Heartbeat { epoch, watermarks },
            Self::Alarm { missed } => UpdateOf::Alarm { missed },
            Self::Retract { epoch, first, last } => UpdateOf::Retract { epoch, first, last },
            Self::PublisherRestarted { epoch } => UpdateOf::PublisherRestarted { epoch },
            Self::Ahead { next, visible } => UpdateOf::Ahead { next, visible },
            Self::Ended { next } => UpdateOf::Ended { next },
        }
    }
}

impl Notice {
    pub(crate) fn update<'a>(self) -> Update<'a> {
        self.map(|never| match never {}, |never| match never {})
    }
}

/// Consecutive events of one frame, where they lie.
#[derive(Clone, Copy, Debug)]
pub struct Events<'a> {
    frame: Frame<'a>,
    span: Span,
    filter: &'a Filter,
}

/// The part of a frame that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub first: Sequence,
    pub last: Sequence,
    pub stage: Stage,
    /// Where they came live.
    pub watermarks: Option<Watermarks>,
}

impl Span {
    /// Of what the log has.
    pub(crate) fn of_log(first: Sequence, last: Sequence) -> Self {
        Self { first, last, stage: Stage::Visible, watermarks: None }
    }
}

impl<'a> Events<'a> {
    pub(crate) fn new(frame: Frame<'a>, span: Span, filter: &'a Filter) -> Self {
        debug_assert!(frame.first_sequence() <= span.first && span.last <= frame.last_sequence());
        Self { frame, span, filter }
    }

    /// The first position, whether its event passes the filter or not. Without a filter on kinds, positions continue
    /// from one update to the next.
    #[must_use]
    pub fn first(&self) -> Sequence {
        self.span.first
    }

    /// The last position. A reader that has taken this in resumes after it.
    #[must_use]
    pub fn last(&self) -> Sequence {
        self.span.last
    }

    /// How far these events are known to have come: `Visible`, or `Accepted` for those shown speculatively.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.span.stage
    }

    /// How far every stage was when they were published; `None` for what comes from the log.
    #[must_use]
    pub fn watermarks(&self) -> Option<Watermarks> {
        self.span.watermarks
    }

    /// Their term.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.frame.header().epoch
    }

    /// The frame they are in. It may hold more than is shown here: see [`first`](Self::first), [`last`](Self::last)
    /// and [`is_whole`](Self::is_whole).
    #[must_use]
    pub fn frame(&self) -> Frame<'a> {
        self.frame
    }

    /// Whether the frame is shown from its first event to its last, without a filter: its bytes can be passed on.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.span.first == self.frame.first_sequence()
            && self.span.last == self.frame.last_sequence()
            && self.filter.is_everything()
    }

    /// The events that pass the filter, in order.
    pub fn iter(&self) -> impl Iterator<Item = EventRef<'a>> + use<'a> {
        let skipped = self.span.first.get() - self.frame.first_sequence().get();
        let count = self.span.last.get() - self.span.first.get() + 1;
        let filter = (!self.filter.is_everything()).then_some(self.filter);
        let all = self.frame.events().skip(skipped as usize).take(count as usize);
        all.filter(move |event| filter.is_none_or(|filter| filter.matches(event)))
    }

    /// Whether any event passes the filter.
    pub(crate) fn any(&self) -> bool {
        self.filter.is_everything()
            || (self.filter.kinds.intersects(self.frame.header().kinds) && self.iter().next().is_some())
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn span(&self) -> Span {
        self.span
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn filter(&self) -> &'a Filter {
        self.filter
    }
}
