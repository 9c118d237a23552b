//! The log as subscriptions read it: `distribution` never opens a storage file, it is given this.

use matchtape_schemas::{Epoch, EventTime, Frame, Sequence, TapeId, Watermarks};
use matchtape_storage::{FrameCursor, Query, ReadError, ReadOnlyStore, Reader};
use matchtape_subscription::{History, HistoryError};

use crate::node::TapeProgress;

/// So often a table is looked for that its writer keeps merging into others.
const ATTEMPTS_MAX: u32 = 10;

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
    /// Of the node that writes the tape, if that is in this process.
    progress: Option<TapeProgress>,
    /// The term of the last frame that was read.
    epoch: Epoch,
}

impl StoreHistory {
    /// What the reader of a store without a node shows; [`Node::history`](crate::Node::history) knows the stages too.
    pub fn new(reader: Reader) -> Self {
        Self { reader, cursor: None, progress: None, epoch: Epoch::default() }
    }

    pub(crate) fn of_node(reader: Reader, progress: TapeProgress) -> Self {
        Self { progress: Some(progress), ..Self::new(reader) }
    }

    fn read_frame(&mut self, from: Sequence) -> Result<Option<StoreFrame>, ReadError> {
        let mut cursor = match self.cursor.take() {
            Some(cursor) if cursor.position() == from => cursor,
            _ => self.reader.frames(from)?,
        };
        let frame = cursor.next_frame()?;
        self.cursor = Some(cursor);
        if let Some(frame) = &frame {
            self.epoch = frame.frame().header().epoch;
        }
        Ok(frame.map(StoreFrame))
    }

    fn find_time(&self, time: EventTime) -> Result<Option<Sequence>, ReadError> {
        let query = Query { event_time_from: time, limit: Some(1), ..Query::default() };
        let mut found = self.reader.query(&query)?;
        Ok(found.next().transpose()?.map(|event| event.sequence()))
    }
}

impl History for StoreHistory {
    type Frame = StoreFrame;

    fn visible(&self) -> Sequence {
        self.reader.visible()
    }

    fn progress(&self) -> (Epoch, Watermarks) {
        match &self.progress {
            Some(progress) => (progress.epoch(), progress.watermarks()),
            None => (self.epoch, Watermarks::all(self.visible())),
        }
    }

    fn first_kept(&self) -> Sequence {
        self.reader.first_kept()
    }

    fn frame_at(&mut self, from: Sequence) -> Result<Option<StoreFrame>, HistoryError> {
        self.read_frame(from).map_err(failed)
    }

    fn first_at_time(&mut self, time: EventTime) -> Result<Option<Sequence>, HistoryError> {
        self.find_time(time).map_err(failed)
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

    /// Asks, and again if a table was gone that had been part of the store: its writer has put another in its place since.
    fn read<T>(
        &mut self,
        ask: impl Fn(&mut StoreHistory) -> Result<T, ReadError>,
    ) -> Result<T, HistoryError> {
        let mut attempt = 1;
        loop {
            match ask(&mut self.known) {
                Err(error) if attempt < ATTEMPTS_MAX && error.is_file_missing() => {
                    self.refresh()?;
                    attempt += 1;
                }
                outcome => return outcome.map_err(failed),
            }
        }
    }
}

impl History for FollowedHistory {
    type Frame = StoreFrame;

    fn visible(&self) -> Sequence {
        // A store that cannot be read just now shows what it showed; reading on will say why.
        let _ = self.store.refresh();
        self.known.visible()
    }

    fn progress(&self) -> (Epoch, Watermarks) {
        let visible = self.visible();
        (self.store.head().epoch, Watermarks::all(visible))
    }

    fn first_kept(&self) -> Sequence {
        self.known.first_kept()
    }

    fn frame_at(&mut self, from: Sequence) -> Result<Option<StoreFrame>, HistoryError> {
        if let Some(frame) = self.read(|known| known.read_frame(from))? {
            return Ok(Some(frame));
        }
        self.refresh()?;
        self.read(|known| known.read_frame(from))
    }

    fn first_at_time(&mut self, time: EventTime) -> Result<Option<Sequence>, HistoryError> {
        self.refresh()?;
        self.read(|known| known.find_time(time))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use matchtape_schemas::event::OrderCancelled;
    use matchtape_schemas::{Event, InstrumentId, OrderId, ProducerId, ProducerSequence, Stage};
    use matchtape_storage::ReadOnlyOptions;
    use matchtape_storage::sim::SimDisk;
    use matchtape_subscription::FrameHandle;

    use super::*;
    use crate::{Node, NodeOptions};

    #[test]
    fn a_table_that_its_writer_has_merged_away_is_no_end_of_the_history() {
        let disk = SimDisk::new(1);
        let mut options = NodeOptions::default();
        options.store.wal.segment_bytes = matchtape_storage::limits::SEGMENT_BYTES_MIN;
        options.store.wal.commit_bytes = matchtape_storage::limits::COMMIT_BYTES_MIN;
        // Tables are merged when it is asked for, and the log does not keep what they have.
        options.store.workers = matchtape_storage::Workers::Caller;
        options.store.log_kept_bytes = 0;
        let node = Node::open_on(Arc::new(disk.clone()), options, Vec::new()).unwrap();
        let mut publisher = node.publisher(ProducerId(1)).unwrap();
        let mut last = Sequence::ZERO;
        for number in 1..=80 {
            let body = OrderCancelled { order_id: OrderId(number), ..Default::default() };
            let time = EventTime(number as i64);
            let event = Event::new(InstrumentId(1), ProducerSequence(number), time, body);
            last = publisher.publish(&event).unwrap().sequence();
            node.wait(last, Stage::Visible).unwrap();
            if number % 10 == 0 {
                node.store().flush().unwrap();
            }
        }
        assert_eq!(node.store().inspect().event_tables.len(), 8);
        let followed = || {
            let options = ReadOnlyOptions { open_tables_max: 1, ..ReadOnlyOptions::default() };
            FollowedHistory::new(ReadOnlyStore::open(Arc::new(disk.clone()), options).unwrap())
        };
        let (mut frames, mut times) = (followed(), followed());
        let first = frames.frame_at(Sequence::FIRST).unwrap().unwrap();
        node.store().compact(&mut |_| true).unwrap();
        assert!(node.store().inspect().event_tables.len() < 4);
        let mut next = first.frame().header().last_sequence().next();
        while next <= last {
            next = frames.frame_at(next).unwrap().unwrap().frame().header().last_sequence().next();
        }
        assert_eq!(times.known.reader.visible(), last);
        // `first_at_time` looks anew first, so it is asked as if the writer had been quicker still.
        let found = times.read(|known| known.find_time(EventTime(55))).unwrap().unwrap();
        assert_eq!(found, Sequence(56));
        drop(publisher);
        node.close().unwrap();
    }
}
