//! Where the next event comes from: the log or the bus. A pure state machine, fed with what was found in both.
//!
//! ```text
//!            the log is at its end, or has reached the frame that the bus holds
//!    Log ------------------------------------------------------------------------> Joining
//!     ^ ^                                                                             |
//!     | +---- a gap, or silence ------------------------------------------------------+
//!     |                                        the bus continues where the log ended  |
//!     +---- a gap, silence, a lost term (LiveLeft) ------------------ Live <----------+ (LiveJoined)
//! ```
//!
//! Invariant: events are delivered in the order of their sequence without gap or repetition, except that a
//! speculative reader goes back to where a retraction says. Never reads, never waits, never looks at a clock.

use std::collections::VecDeque;

use matchtape_schemas::{Epoch, FrameHeader, Sequence, Stage, Watermarks};

use crate::update::{LeaveReason, Notice};

/// A reader's promises to itself, broken by what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandoverError {
    /// Live events came a second time.
    #[error("events {first} to {last} of epoch {epoch} came again after event {delivered} was delivered")]
    WentBack {
        /// The first of them.
        first: Sequence,
        /// The last of them.
        last: Sequence,
        /// Their term, the same as that of what was delivered.
        epoch: Epoch,
        /// The last delivered.
        delivered: Sequence,
    },
    /// A source skipped events without saying so.
    #[error("event {expected} should have come next, found {first} to {last}")]
    Hole {
        /// The position that should have come.
        expected: Sequence,
        /// The first that came.
        first: Sequence,
        /// The last that came.
        last: Sequence,
    },
}

/// Where to look now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// For the frame at [`Handover::next`] in the log.
    Log,
    /// For whatever the bus has.
    Live,
}

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Show its events from this one on, after all notices.
    Deliver(Sequence),
    /// Put it aside. The source must go on at [`Handover::next`].
    Skip,
}

/// A frame that came live.
#[derive(Clone, Copy, Debug)]
pub struct LiveFrame {
    /// Its term.
    pub epoch: Epoch,
    /// Its first event that the bus has not delivered yet.
    pub first_new: Sequence,
    /// Its last event.
    pub last: Sequence,
    /// The frame's checksum.
    pub checksum: u64,
    /// How far each stage was.
    pub watermarks: Watermarks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Reading the log: to its end, or at least to the frame that the bus holds.
    Log {
        until: Option<Sequence>,
    },
    /// The log was left; the bus has not yet shown that it continues there.
    Joining,
    Live,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Handover {
    next: Sequence,
    source: Source,
    /// The stage at which the bus shows events: `Visible`, or `Accepted` for a speculative one.
    stage: Stage,
    /// Whether the bus passes over frames without being asked for them, by their kinds.
    filtered: bool,
    /// The term of the last event delivered.
    epoch: Epoch,
    /// The checksum of the last frame that came live, the one before `next` unless that was moved since.
    checksum: u64,
    /// What was delivered up to here is visible and cannot vanish.
    certain: Sequence,
    lagging: bool,
    /// A new publisher was announced and has not sent anything else yet.
    restarted: bool,
    notices: VecDeque<Notice>,
}

impl Handover {
    /// A reader that wants everything from `next` on, at `stage`. With `filtered`, the bus passes over frames that
    /// hold none of the wanted kinds and reports its position instead.
    #[must_use]
    pub fn new(next: Sequence, stage: Stage, filtered: bool) -> Self {
        Self {
            next,
            source: Source::Log { until: None },
            stage,
            filtered,
            epoch: Epoch::default(),
            checksum: 0,
            certain: next.previous(),
            lagging: false,
            restarted: false,
            notices: VecDeque::new(),
        }
    }

    /// The next event to be delivered.
    #[must_use]
    pub fn next(&self) -> Sequence {
        self.next
    }

    /// Where to look for it.
    #[must_use]
    pub fn want(&self) -> Want {
        match self.source {
            Source::Log { .. } => Want::Log,
            Source::Joining | Source::Live => Want::Live,
        }
    }

    /// Whether events come from the bus.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.source == Source::Live
    }

    pub(crate) fn take_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    pub(crate) fn notify(&mut self, notice: Notice) {
        self.notices.push_back(notice);
    }

    /// The log has this frame at [`next`](Self::next).
    pub fn log_frame(&mut self, frame: &FrameHeader) -> Result<Verdict, HandoverError> {
        let (first, last) = (frame.first_sequence, frame.last_sequence());
        if first > self.next || last < self.next {
            return Err(HandoverError::Hole { expected: self.next, first, last });
        }
        if self.was_replaced(frame) {
            return Ok(Verdict::Skip);
        }
        let from = self.next;
        self.next = last.next();
        self.epoch = frame.epoch;
        self.certain = self.certain.max(last);
        if matches!(self.source, Source::Log { until: Some(found) } if found <= self.next) {
            self.source = Source::Joining;
        }
        Ok(Verdict::Deliver(from))
    }

    /// The log has nothing at [`next`](Self::next) yet. When the bus holds a frame further on, the log must still
    /// reach it: what was published is visible, or will be.
    pub fn log_exhausted(&mut self) {
        if self.source == (Source::Log { until: None }) {
            self.source = Source::Joining;
        }
    }

    /// The bus has a frame.
    pub fn live_frame(&mut self, frame: &LiveFrame) -> Result<Verdict, HandoverError> {
        self.restarted = false;
        if self.term_was_lost(frame.epoch) {
            return Ok(Verdict::Skip);
        }
        if frame.epoch < self.epoch {
            // The log has already shown what replaced it.
            return Ok(Verdict::Skip);
        }
        if frame.last < self.next {
            if self.is_live() && frame.epoch == self.epoch {
                let (first, last, epoch) = (frame.first_new, frame.last, frame.epoch);
                return Err(HandoverError::WentBack { first, last, epoch, delivered: self.next.previous() });
            }
            return Ok(Verdict::Skip);
        }
        self.passed_over(frame.first_new);
        if frame.first_new > self.next {
            let (first, last) = (frame.first_new, frame.last);
            return Err(HandoverError::Hole { expected: self.next, first, last });
        }
        let from = self.next;
        self.join();
        self.next = frame.last.next();
        self.epoch = frame.epoch;
        self.checksum = frame.checksum;
        self.certain = self.certain.max(frame.watermarks.visible);
        Ok(Verdict::Deliver(from))
    }

    /// The bus lives and continues at `position`.
    pub fn heartbeat(&mut self, epoch: Epoch, watermarks: &Watermarks, position: Option<Sequence>) {
        self.restarted = false;
        if self.term_was_lost(epoch) {
            return;
        }
        if let Some(position) = position {
            self.passed_over(position);
        }
        if watermarks.accepted < self.next.previous() && self.certain < self.next.previous() {
            // The retraction was lost, and nothing has come after it.
            let first = watermarks.accepted.max(self.certain).next();
            self.take_back(self.epoch, first);
            return;
        }
        self.join();
        if epoch == self.epoch {
            self.certain = self.certain.max(watermarks.visible);
        }
        self.notify(Notice::Heartbeat { epoch, watermarks: *watermarks });
    }

    /// The bus has lost the events `expected..found` for this reader and holds `found`.
    pub fn gap(&mut self, expected: Sequence, found: Sequence) {
        let restarted = std::mem::take(&mut self.restarted);
        self.passed_over(expected);
        if found <= self.next {
            return;
        }
        if restarted {
            self.leave(LeaveReason::PublisherRestarted);
        } else if self.is_live() {
            self.lagging = true;
            self.notify(Notice::Lagging { behind: found.get() - self.next.get() });
            self.leave(LeaveReason::Missed { first: self.next, last: found.previous() });
        }
        self.source = Source::Log { until: Some(found) };
    }

    /// The bus takes back `first..=last`. After a restart it does so for all that it does not know to be visible; what
    /// came from the log is. The source must go on at [`next`](Self::next).
    pub fn retract(&mut self, epoch: Epoch, first: Sequence, last: Sequence) {
        let first = first.max(self.certain.next());
        if self.next <= first {
            return;
        }
        self.notify(Notice::Retract { epoch, first, last: last.min(self.next.previous()) });
        self.next = first;
    }

    /// A new publisher has taken over the bus. Through `certain` what was delivered has survived.
    pub fn restarted(&mut self, epoch: Epoch, certain: Sequence) {
        self.restarted = true;
        self.certain = self.certain.max(certain.min(self.next.previous()));
        self.notify(Notice::PublisherRestarted { epoch });
    }

    /// What the bus held was let go: the log tells where to go on.
    pub fn read_on(&mut self) {
        self.source = Source::Log { until: None };
    }

    /// Nothing has been heard for too long: look into the log again.
    pub fn silent(&mut self) {
        self.leave(LeaveReason::Silent);
        self.read_on();
    }

    /// The bus has nothing and continues at `position`.
    pub fn passed_over(&mut self, position: Sequence) {
        if self.filtered && position > self.next {
            self.next = position;
        }
    }

    fn join(&mut self) {
        if self.is_live() {
            return;
        }
        self.source = Source::Live;
        self.notify(Notice::LiveJoined { next: self.next });
        if std::mem::take(&mut self.lagging) {
            self.notify(Notice::CaughtUp { next: self.next });
        }
    }

    fn leave(&mut self, reason: LeaveReason) {
        if self.is_live() {
            self.notify(Notice::LiveLeft { next: self.next, reason });
        }
    }

    /// A speculative reader meets the log again, and what it was shown may have been replaced there. The term does not
    /// tell: one that left nothing on disk gives its number to the next. But frames are chained, so that the one at hand
    /// says whether it follows the last that was delivered; if it does not, all that is not certain is read again.
    fn was_replaced(&mut self, frame: &FrameHeader) -> bool {
        let first = self.certain.next();
        let follows = frame.first_sequence == self.next && frame.previous_checksum == self.checksum;
        if self.stage == Stage::Visible || self.next <= first || follows {
            return false;
        }
        self.take_back(self.epoch, first);
        true
    }

    /// A speculative reader meets a new term and cannot know what the ones before it lost (a retraction can overflow
    /// like any sample): whatever is not known to be visible is taken back and read again.
    fn term_was_lost(&mut self, epoch: Epoch) -> bool {
        let first = self.certain.next();
        if self.stage == Stage::Visible || epoch <= self.epoch || self.next <= first {
            return false;
        }
        self.take_back(self.epoch, first);
        true
    }

    /// Forgets everything from `first` on and reads it again.
    fn take_back(&mut self, epoch: Epoch, first: Sequence) {
        self.notify(Notice::Retract { epoch, first, last: self.next.previous() });
        self.next = first;
        self.leave(LeaveReason::Retracted);
        self.read_on();
    }
}
