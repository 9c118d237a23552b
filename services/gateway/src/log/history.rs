//! State as of a position: the nearest snapshot, then the events after it.

use matchtape_market::Books;
use matchtape_schemas::{EventTime, InstrumentId, Kind, KindMask, Projection, ProjectionError, Sequence};
use matchtape_storage::{Query, ReadError, Reader};

/// Kinds that change a book.
const BOOK_KINDS: KindMask = KindMask::of(&[
    Kind::OrderAccepted,
    Kind::OrderReplaced,
    Kind::OrderCancelled,
    Kind::OrderExecuted,
    Kind::TradeMatched,
    Kind::BookCleared,
]);

/// Books as they were.
pub(crate) struct Past {
    pub(crate) books: Books,
    /// Of which position.
    pub(crate) sequence: Sequence,
}

/// State that cannot be rebuilt.
#[derive(thiserror::Error, Debug)]
pub(crate) enum PastError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("events before {first_kept} are gone and no snapshot before {asked} has the books")]
    NoSnapshot { asked: Sequence, first_kept: Sequence },
}

/// The books of some instruments after the event at `sequence`, which ends a group and is visible.
pub(crate) fn books_as_of(
    reader: &Reader,
    instruments: &[InstrumentId],
    sequence: Sequence,
) -> Result<Past, PastError> {
    let (mut books, mut from) = (Books::new(), Sequence::ZERO);
    if let Some(snapshot) = reader.snapshot_before(sequence)? {
        let section = snapshot.section(books.name()).filter(|section| section.version == books.version());
        if let Some(section) = section {
            match books.restore(&section.bytes) {
                Ok(()) => from = snapshot.sequence(),
                Err(ProjectionError { what, .. }) => {
                    tracing::warn!(what, "a snapshot of the books is not used");
                    books = Books::new();
                }
            }
        }
    }
    let first_kept = reader.first_kept();
    if from == Sequence::ZERO && first_kept > Sequence::FIRST {
        return Err(PastError::NoSnapshot { asked: sequence, first_kept });
    }
    // Each book is a function of its own instrument's events, so one instrument after the other will do.
    for instrument in instruments {
        let query = Query {
            from: from.next(),
            through: sequence,
            instrument: Some(*instrument),
            kinds: BOOK_KINDS,
            ..Query::default()
        };
        if query.from > query.through {
            break;
        }
        for event in reader.query(&query)? {
            books.apply(&event?.event());
        }
    }
    Ok(Past { books, sequence })
}

/// The last group end at or before a visible position; zero if the first group reaches beyond it.
pub(crate) fn group_end_at(reader: &Reader, position: Sequence) -> Result<Sequence, ReadError> {
    let mut at = position;
    while at >= reader.first_kept() && at > Sequence::ZERO {
        match reader.event(at)? {
            Some(event) if event.event().ends_group() => return Ok(at),
            Some(_) => at = at.previous(),
            // Beyond visible: the callers have checked, and visible never falls.
            None => return Ok(at.previous()),
        }
    }
    Ok(at)
}

/// The first event, by position, that happened at or after a time; `None`: no visible one.
pub(crate) fn first_at_time(
    reader: &Reader,
    time: EventTime,
    instrument: Option<InstrumentId>,
) -> Result<Option<Sequence>, ReadError> {
    let query = Query { event_time_from: time, instrument, limit: Some(1), ..Query::default() };
    let found = reader.query(&query)?.next().transpose()?;
    Ok(found.map(|event| event.sequence()))
}
