//! The log as subscriptions read it: `distribution` never opens a storage file, it is given this.

use matchtape_schemas::{EventTime, Frame, Sequence, TapeId};
use matchtape_storage::{FrameCursor, Query, ReadError, ReadOnlyStore, Reader};
use matchtape_subscription::{History, HistoryError};

/// A frame of the store, kept alive by its handle.
pub struct StoreFrame(matchtape_storage::FrameHandle);

impl matchtape_subscription::FrameHandle for StoreFrame {
    fn frame(&self) -> Frame<'_> {
        self.0.frame()
    }
}

/// The tape behind a reader of this process.
pub struct StoreHistory {
    reader: Reader,
    /// Where the last read ended: reading on needs no search.
    cursor: Option<FrameCursor>,
}

impl StoreHistory {
    /// What the reader shows.
    pub fn new(reader: Reader) -> Self {
        Self { reader, cursor: None }
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

/// The tape of a store that another process may be writing: looks again for what has become durable whenever what it
/// knows is used up.
pub struct FollowedHistory {
    store: ReadOnlyStore,
    known: StoreHistory,
}

impl FollowedHistory {
    /// What the store shows now and later.
    pub fn new(store: ReadOnlyStore) -> Self {
        let known = StoreHistory::new(store.reader());
        Self { store, known }
    }

    /// The tape.
    pub fn tape(&self) -> TapeId {
        self.store.tape()
    }

    fn refresh(&self) -> Result<(), HistoryError> {
        self.store.refresh().map(|_| ()).map_err(|error| HistoryError::Failed(Box::new(error)))
    }
}

impl History for FollowedHistory {
    type Frame = StoreFrame;

    fn visible(&self) -> Sequence {
        // A store that cannot be read just now shows what it showed; reading on will say why.
        let _ = self.store.refresh();
        self.known.visible()
    }

    fn first_kept(&self) -> Sequence {
        self.known.first_kept()
    }

    fn frame_at(&mut self, from: Sequence) -> Result<Option<StoreFrame>, HistoryError> {
        if let Some(frame) = self.known.frame_at(from)? {
            return Ok(Some(frame));
        }
        self.refresh()?;
        self.known.frame_at(from)
    }

    fn first_at_time(&mut self, time: EventTime) -> Result<Option<Sequence>, HistoryError> {
        self.refresh()?;
        self.known.first_at_time(time)
    }
}

fn failed(error: ReadError) -> HistoryError {
    match error {
        ReadError::BelowRetention { asked, first_kept } => HistoryError::BelowRetention { asked, first_kept },
        // The last one that may have been meant.
        ReadError::TimeBelowRetention { first_kept, .. } => {
            HistoryError::BelowRetention { asked: first_kept.previous(), first_kept }
        }
        other => HistoryError::Failed(Box::new(other)),
    }
}
