//! What closes a trading day of a venue whose orders are good for the day.
//!
//! The events are of a producer of their own, one per venue, and numbered by the day that begins, so that whichever of its
//! sources begins a day closes the one before, once, and another time or another day's files out of order add nothing. They
//! are one group: a crash leaves all or none of them.

use matchtape_schemas::event::{BookCleared, SessionClosed};
use matchtape_schemas::{Event, EventTime, InstrumentId, ProducerId, ProducerSequence};

use super::load::{Lane, LoadError, Loaded};
use super::{DayBegins, Directory, SourceId, Target};

/// Who closes a venue's days.
fn producer(venue: &str) -> ProducerId {
    SourceId::of_content("trading days", &[venue.as_bytes()]).records
}

/// Closes the last day before the one that begins, if the tape has events of the venue's instruments before it. `known` are the
/// tape's instruments; the tape has none of the day's records of this source.
pub(super) fn close(
    target: &mut dyn Target,
    begins: &DayBegins,
    known: &Directory,
    loaded: &mut Loaded,
) -> Result<(), LoadError> {
    let instruments = known.of_venue(begins.venue);
    if instruments.is_empty() {
        return Ok(());
    }
    let lane = Lane::open(target, producer(begins.venue))?;
    let base = u64::from(begins.day_of(begins.begins)) << 32;
    if lane.through().get() > base {
        return Ok(());
    }
    target.settle(loaded)?;
    let through = EventTime(begins.begins.get().saturating_sub(1));
    let mut last: Option<EventTime> = None;
    for (id, symbol) in &instruments {
        last = last.max(target.last_through((*id, symbol), through)?);
    }
    if last.is_none() {
        // Either none was before, or it is not kept any more; what it left in the books is. Clearing a book again that
        // already is of this day or a later one would be wrong.
        let mut has_begun = false;
        for (id, symbol) in &instruments {
            target.recorded(Some((*id, symbol)), begins.begins, EventTime::MAX, &mut |_| {
                has_begun = true;
                false
            })?;
        }
        if has_begun {
            return Ok(());
        }
    }
    let event = |number: u64, instrument, body: matchtape_schemas::Body| {
        Event::new(instrument, ProducerSequence(base + number), begins.begins, body)
    };
    let mut group: Vec<Event> = Vec::new();
    for (number, id) in (1..).zip(instruments.keys()) {
        group.push(event(number, *id, BookCleared::default().into()));
    }
    if let Some(last) = last {
        let closed = SessionClosed { trading_day: begins.day_of(last), ..SessionClosed::default() };
        group.push(event(u32::MAX.into(), InstrumentId(0), closed.into()));
    }
    target.publish(lane.producer(), &group, loaded)
}
