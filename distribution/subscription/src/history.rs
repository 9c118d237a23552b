//! The log as a subscription needs it. Whoever joins storage and distribution implements it.

use std::error::Error;

use matchtape_schemas::{Epoch, EventTime, Frame, Sequence, Watermarks};

/// A checked frame and whatever keeps its memory alive: a place in shared memory, a block of the log.
pub trait FrameHandle {
    /// The frame.
    fn frame(&self) -> Frame<'_>;
}

impl FrameHandle for matchtape_bus::BusFrame {
    fn frame(&self) -> Frame<'_> {
        matchtape_bus::BusFrame::frame(self)
    }
}

/// The tape's log, up to what may be shown.
pub trait History {
    /// A frame of it.
    type Frame: FrameHandle;

    /// The last event that may be shown now; never goes back.
    fn visible(&self) -> Sequence;

    /// The tape's term and how far each stage is, as far as they are known here. Who knows only what is visible says that of
    /// all of them: it is the least that they are.
    fn progress(&self) -> (Epoch, Watermarks);

    /// The first event that is still kept: [`Sequence::FIRST`] where nothing was cut off.
    fn first_kept(&self) -> Sequence;

    /// The whole frame that contains `from`; `None` while `from` lies beyond [`visible`](Self::visible).
    ///
    /// A reader asks for the frame right after the last one most of the time: keep a cursor.
    fn frame_at(&mut self, from: Sequence) -> Result<Option<Self::Frame>, HistoryError>;

    /// The first event by sequence whose event time is `time` or later; `None` when no visible one is. The running
    /// greatest event time of the tape reaches `time` exactly there.
    fn first_at_time(&mut self, time: EventTime) -> Result<Option<Sequence>, HistoryError>;
}

/// Why the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// What was asked for has been cut off. A reader is never moved past a hole without having been told.
    #[error("event {asked} is no longer kept: the log begins at {first_kept}")]
    BelowRetention {
        /// The position asked for.
        asked: Sequence,
        /// The first that is there.
        first_kept: Sequence,
    },
    /// The log itself failed.
    #[error("reading the log")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}
