//! Positions that requests mean.

use matchtape_schemas::{EventTime, InstrumentId, Sequence};
use matchtape_storage::{Query, ReadError, Reader};

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
