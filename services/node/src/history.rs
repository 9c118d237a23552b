//! The log as subscriptions read it: `distribution` never opens a storage file, it is given this.

use matchtape_schemas::{EventTime, Frame, Sequence};
use matchtape_storage::{FrameCursor, Query, ReadError, Reader};
use matchtape_subscription::{History, HistoryError};

/// What a reader of the store shows.
pub struct StoreHistory {
    reader: Reader,
    /// Where the last read ended: reading on needs no search.
    cursor: Option<FrameCursor>,
}

/// A frame of the store, kept alive by its handle.
pub struct StoreFrame(matchtape_storage::FrameHandle);

impl StoreHistory {
    /// The tape behind a reader.
    pub fn new(reader: Reader) -> Self {
        Self { reader, cursor: None }
    }
}

impl matchtape_subscription::FrameHandle for StoreFrame {
    fn frame(&self) -> Frame<'_> {
        self.0.frame()
    }
}

impl History for StoreHistory {
    type Frame = StoreFrame;

    fn visible(&self) -> Sequence {
        self.reader.visible()
    }

    fn first_kept(&self) -> Sequence {
        self.reader.first_kept()
    }

    fn frame_at(&mut self, from: Sequence) -> Result<Option<StoreFrame>, HistoryError> {
        let mut cursor = match self.cursor.take() {
            Some(cursor) if cursor.position() == from => cursor,
            _ => self.reader.frames(from).map_err(failed)?,
        };
        let frame = cursor.next_frame().map_err(failed)?;
        self.cursor = Some(cursor);
        Ok(frame.map(StoreFrame))
    }

    fn first_at_time(&mut self, time: EventTime) -> Result<Option<Sequence>, HistoryError> {
        let query = Query { event_time_from: time, limit: Some(1), ..Query::default() };
        let mut found = self.reader.query(&query).map_err(failed)?;
        Ok(found.next().transpose().map_err(failed)?.map(|event| event.sequence()))
    }
}

fn failed(error: ReadError) -> HistoryError {
    match error {
        ReadError::BelowRetention { asked, first_kept } => HistoryError::BelowRetention { asked, first_kept },
        other => HistoryError::Failed(Box::new(other)),
    }
}
