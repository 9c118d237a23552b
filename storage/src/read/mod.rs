//! Reading: by sequence, time, instrument, order, account, trade, key; forwards and backwards; in pages; in bulk; as of
//! a time.
//!
//! A [`Reader`] takes the gate first and then the view (which tables and memtables there are), so everything the gate
//! allows is in the view it then holds. Files and memory that it reads stay as long as it holds them.

mod filter;
mod frames;
mod page;
mod query;
mod scan;
pub(crate) mod view;

use std::sync::Arc;

use matchtape_schemas::{EventTime, InstrumentId, Sequence, TapeId};

pub use self::frames::FrameCursor;
pub use self::page::{PageCursor, PageToken, PageTokenError};
pub use self::query::{Direction, Query, QueryCursor};
use self::view::{Shared, View};
use crate::archive::ColdStore;
use crate::chunk::EventHandle;
use crate::snapshot::Snapshot;
use crate::sstable::{Caller, TableError};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Retention has dropped events that the answer would need.
    #[error("sequence {asked} is below retention, the first kept is {first_kept}")]
    BelowRetention {
        /// The position asked for.
        asked: Sequence,
        /// The first position there still is.
        first_kept: Sequence,
    },
    /// Retention has dropped events of times at or after the one asked from.
    #[error(
        "events of {asked} and later may be among those below retention, which go through {dropped_through}; the first kept is \
         {first_kept}"
    )]
    TimeBelowRetention {
        /// The event time asked from.
        asked: EventTime,
        /// The greatest event time below retention.
        dropped_through: EventTime,
        /// The first position there still is.
        first_kept: Sequence,
    },
    /// A table could not be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A field of the query contradicts another.
    #[error("impossible query: {0}")]
    Query(&'static str),
    /// The next page of an answer was asked for with something else than its token.
    #[error(transparent)]
    Token(#[from] PageTokenError),
}

impl ReadError {
    /// Whether a file was gone that had been part of the store: refresh and ask again.
    pub fn is_file_missing(&self) -> bool {
        matches!(self, Self::Table(TableError::Disk(error)) if error.is_missing())
    }
}

/// Answers questions about the tape, never beyond `visible`. Cheap to clone; any number may be used at once.
#[derive(Clone, Debug)]
pub struct Reader {
    shared: Arc<Shared>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Where event tables are that have left the local disk.
    pub(crate) fn cold(&self) -> &Arc<dyn ColdStore> {
        &self.shared.cold
    }

    /// The tape.
    pub fn tape(&self) -> TapeId {
        self.shared.tape
    }

    /// The last event that may be read now.
    pub fn visible(&self) -> Sequence {
        self.shared.visible.get()
    }

    /// The first event that is still there; one more than the last, if there is none.
    pub fn first_kept(&self) -> Sequence {
        self.shared.view().first_kept()
    }

    /// The greatest event time of the events that retention has dropped; `None` if it has dropped none.
    pub fn dropped_through(&self) -> Option<EventTime> {
        let view = self.shared.view();
        (view.first_kept() > Sequence::FIRST).then(|| view.before().max_event_time)
    }

    fn check_kept(&self, view: &View, asked: Sequence) -> Result<(), ReadError> {
        let first_kept = view.first_kept();
        if asked < first_kept { Err(ReadError::BelowRetention { asked, first_kept }) } else { Ok(()) }
    }

    /// Whether what a query begins with is there. Nothing found would look like nothing happened.
    fn check_begins(&self, view: &View, query: &Query) -> Result<(), ReadError> {
        if query.from != Sequence::ZERO {
            return self.check_kept(view, query.from);
        }
        let (asked, first_kept) = (query.event_time_from, view.first_kept());
        let dropped_through = view.before().max_event_time;
        if first_kept > Sequence::FIRST && asked > EventTime::MIN && asked <= dropped_through {
            return Err(ReadError::TimeBelowRetention { asked, dropped_through, first_kept });
        }
        Ok(())
    }

    /// The event at a position; `None` if it is not visible (yet), or zero.
    pub fn event(&self, sequence: Sequence) -> Result<Option<EventHandle>, ReadError> {
        if sequence > self.visible() || sequence == Sequence::ZERO {
            return Ok(None);
        }
        let view = self.shared.view();
        self.check_kept(&view, sequence)?;
        let chunk = view.chunk_holding(sequence, Caller::Point, &mut Vec::new())?;
        Ok(Some(EventHandle::of(&chunk, sequence)))
    }

    /// Whole frames as they lie on the tape, from the one that holds `from`; zero means from the first kept.
    pub fn frames(&self, from: Sequence) -> Result<FrameCursor, ReadError> {
        let view = self.shared.view();
        let from = if from == Sequence::ZERO { view.first_kept() } else { from };
        self.check_kept(&view, from)?;
        Ok(FrameCursor::new(Arc::clone(&self.shared), from))
    }

    /// The events that satisfy a query, of those visible now, one after the other. A query from a position or a time of which
    /// events were dropped is refused; one from the beginning begins with the first kept.
    pub fn query(&self, query: &Query) -> Result<QueryCursor, ReadError> {
        // The gate before the view: see the module.
        let visible = self.visible();
        let view = self.shared.view();
        self.check_begins(&view, query)?;
        QueryCursor::new(view, query, visible)
    }

    /// The last event of the instrument's longest prefix whose event times are all at or before `time`; zero if its first
    /// event is later. The state after it is the instrument's state as of `time`.
    pub fn prefix_through(&self, instrument: InstrumentId, time: EventTime) -> Result<Sequence, ReadError> {
        let visible = self.visible();
        let view = self.shared.view();
        let (first_kept, before) = (view.first_kept(), view.before());
        if first_kept > Sequence::FIRST && before.max_event_time > time {
            // The event that ends the prefix may be among those that were dropped.
            return Err(ReadError::BelowRetention { asked: before.last_sequence, first_kept });
        }
        let later = match time.0.checked_add(1) {
            None => None,
            Some(after) => {
                let from = view.first_above(time)?;
                let query = Query {
                    from,
                    instrument: Some(instrument),
                    event_time_from: EventTime(after),
                    limit: Some(1),
                    ..Query::default()
                };
                // Blocks whose greatest event time is not above `time` are passed over unread.
                QueryCursor::scanning(Arc::clone(&view), &query, visible).next().transpose()?
            }
        };
        let through = later.map_or(visible, |event| event.sequence().previous());
        let query = Query {
            through,
            instrument: Some(instrument),
            direction: Direction::Backward,
            limit: Some(1),
            ..Query::default()
        };
        let last = QueryCursor::new(Arc::clone(&view), &query, visible)?.next().transpose()?;
        match last {
            Some(event) => Ok(event.sequence()),
            None if view.first_kept() <= Sequence::FIRST => Ok(Sequence::ZERO),
            // Its events, if it had any, were dropped.
            None => Err(ReadError::BelowRetention { asked: Sequence::FIRST, first_kept: view.first_kept() }),
        }
    }

    /// The newest snapshot at or before `sequence` (and visible). A damaged one is passed over for an older one: the
    /// state is then folded over a longer stretch.
    pub fn snapshot_before(&self, sequence: Sequence) -> Result<Option<Snapshot>, ReadError> {
        let through = sequence.min(self.visible());
        let view = self.shared.view();
        for file in view.snapshots.iter().rev().filter(|file| file.meta.sequence() <= through) {
            match Snapshot::load(&*self.shared.disk, &file.meta) {
                Ok(snapshot) => return Ok(Some(snapshot)),
                Err(TableError::Damage(_)) => {}
                // Beside a writer, one that was thinned meanwhile: an older one does as well.
                Err(TableError::Disk(error)) if error.is_missing() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}
