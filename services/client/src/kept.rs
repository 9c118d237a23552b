//! Which part of a range of event times is kept: what is there is given, and said from when on it is all.

use matchtape_schemas::{EventTime, Sequence};
use matchtape_storage::{ReadError, Reader};

/// A range of event times on a tape from which retention may have dropped the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptRange {
    /// Where to read from: zero for the tape's beginning.
    pub first: Sequence,
    /// The event time from which on everything of the range is there, where that is not its beginning.
    pub complete_from: Option<EventTime>,
    through: EventTime,
}

impl KeptRange {
    /// What is kept of the event times `from..=through`.
    pub fn of(reader: &Reader, from: EventTime, through: EventTime) -> Self {
        // The time first: what is dropped between the two only begins later.
        let dropped_through = reader.dropped_through().filter(|dropped| from <= *dropped);
        let first = dropped_through.map_or(Sequence::ZERO, |_| reader.first_kept());
        let complete_from = dropped_through.map(|time| EventTime(time.get().saturating_add(1)));
        Self { first, complete_from, through }
    }

    /// Refuses a range of which nothing was found and of which nothing can be said: all of it may have been dropped.
    pub fn nothing_found(&self, reader: &Reader) -> Result<(), ReadError> {
        match self.complete_from {
            Some(complete_from) if self.through < complete_from => Err(ReadError::TimeBelowRetention {
                asked: self.through,
                dropped_through: EventTime(complete_from.get().saturating_sub(1)),
                first_kept: reader.first_kept(),
            }),
            _ => Ok(()),
        }
    }
}
