//! State as of a position: the nearest snapshot that has it, then the events after that. Where the node that wrote the tape
//! kept the projection, at most so much is read: near the tape's end what waits in memory to be flushed (two memtables, which by
//! default are a segment; a third one, half a segment more, while flushing is so far behind that appending is slowed down),
//! before that what one memtable held, and of a tape whose snapshots were thinned `snapshot_gap_bytes`, which is a segment unless
//! something else is said. A test counts it.

use matchtape_market::{Accounts, Books, Instruments, Tickers};
use matchtape_schemas::{EventTime, InstrumentId, Kind, KindMask, Projection, Sequence};
use matchtape_storage::{Query, ReadError, Reader};

use crate::busts::settle;

/// Why the state as of a position cannot be told.
#[derive(thiserror::Error, Debug)]
pub enum AsOfError {
    /// The tape could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The tape's beginning is gone and no snapshot has the state.
    #[error(
        "the tape is kept from sequence {first_kept} on, and no snapshot at or before {asked} has the section \"{section}\""
    )]
    HistoryGone {
        /// The projection's name.
        section: &'static str,
        /// Of which position the state was wanted.
        asked: Sequence,
        /// The first event there is.
        first_kept: Sequence,
    },
}

/// Makes `projection` what the newest usable snapshot at or before `through` says, and returns where that stands; zero,
/// and the projection unchanged, where there is none.
pub fn restore(
    reader: &Reader,
    projection: &mut dyn Projection,
    through: Sequence,
) -> Result<Sequence, ReadError> {
    let Some(snapshot) = reader.snapshot_before(through)? else { return Ok(Sequence::ZERO) };
    match snapshot.restore(projection) {
        Some(Ok(())) => Ok(snapshot.sequence()),
        // A section that does not restore is folded again from the tape.
        Some(Err(_)) | None => Ok(Sequence::ZERO),
    }
}

/// Brings `projection`, which was given nothing yet, to the state after the event at `through`. Only events that `scope`
/// selects are read after the snapshot: those that can change what is asked of it.
pub fn fold(
    reader: &Reader,
    projection: &mut dyn Projection,
    through: Sequence,
    scope: &Query,
) -> Result<(), AsOfError> {
    let at = restore(reader, projection, through)?;
    go_on(reader, projection, at, through, scope)
}

/// Brings `projection` from where it stands to the state after the event at `through`.
pub fn go_on(
    reader: &Reader,
    projection: &mut dyn Projection,
    at: Sequence,
    through: Sequence,
    scope: &Query,
) -> Result<(), AsOfError> {
    if through <= at {
        return Ok(());
    }
    let first_kept = reader.first_kept();
    if at.next() < first_kept {
        return Err(AsOfError::HistoryGone { section: projection.name(), asked: through, first_kept });
    }
    for event in reader.query(&Query { from: at.next(), through, ..scope.clone() })? {
        projection.apply(&event?.event());
    }
    Ok(())
}

/// The books of some instruments after the event at `through`.
pub fn books(reader: &Reader, instruments: &[InstrumentId], through: Sequence) -> Result<Books, AsOfError> {
    let mut books = Books::only(instruments);
    let at = restore(reader, &mut books, through)?;
    // Each book is a function of its own instrument's events, so one instrument after the other will do.
    for instrument in instruments {
        let scope = Query { instrument: Some(*instrument), kinds: Books::KINDS, ..Query::default() };
        go_on(reader, &mut books, at, through, &scope)?;
    }
    Ok(books)
}

/// The instruments after the event at `through`.
pub fn instruments(reader: &Reader, through: Sequence) -> Result<Instruments, AsOfError> {
    let mut instruments = Instruments::new();
    let kinds = KindMask::of(&[Kind::InstrumentDefined, Kind::TradingStatusChanged]);
    fold(reader, &mut instruments, through, &Query { kinds, ..Query::default() })?;
    Ok(instruments)
}

/// The instruments as far as anything tells of them, for whoever only wants their names: where no snapshot has those that were defined
/// below the first event kept, those that were defined since.
pub fn named_instruments(reader: &Reader, through: Sequence) -> Result<Instruments, AsOfError> {
    match instruments(reader, through) {
        Err(AsOfError::HistoryGone { first_kept, .. }) => {
            let mut named = Instruments::new();
            let kinds = KindMask::of(&[Kind::InstrumentDefined]);
            let scope = Query { kinds, ..Query::default() };
            go_on(reader, &mut named, first_kept.previous(), through, &scope)?;
            Ok(named)
        }
        known => known,
    }
}

/// The tickers after the event at `through`, every bust decided.
pub fn tickers(reader: &Reader, through: Sequence) -> Result<Tickers, AsOfError> {
    let mut tickers = Tickers::new();
    fold(reader, &mut tickers, through, &Query { kinds: Tickers::KINDS, ..Query::default() })?;
    settle(reader, &mut tickers, through)?;
    Ok(tickers)
}

/// Where the ticker of an instrument (of all, without one) is as of a time: just before the first later event that changes
/// it. The whole venue's sessions count among them.
pub fn ticker_prefix(
    reader: &Reader,
    instrument: Option<InstrumentId>,
    time: EventTime,
) -> Result<Sequence, ReadError> {
    let visible = reader.visible();
    let Some(after) = time.get().checked_add(1) else { return Ok(visible) };
    let later = Query { event_time_from: EventTime(after), kinds: Tickers::KINDS, ..Query::default() };
    for event in reader.query(&later)? {
        let event = event?;
        let found = event.event().instrument();
        if instrument.is_none_or(|wanted| found == wanted || found == InstrumentId(0)) {
            return Ok(event.sequence().previous());
        }
    }
    Ok(visible)
}

/// The accounts after the event at `through`.
pub fn accounts(reader: &Reader, through: Sequence) -> Result<Accounts, AsOfError> {
    let mut accounts = Accounts::new();
    fold(reader, &mut accounts, through, &Query { kinds: Accounts::KINDS, ..Query::default() })?;
    Ok(accounts)
}

/// Where the longest run of the events that `scope` selects, from the first of them, ends of which none is later than
/// `time`: just before the first later one. The state after it is the state as of `time`.
pub fn prefix(reader: &Reader, scope: &Query, time: EventTime) -> Result<Sequence, ReadError> {
    let visible = reader.visible();
    let Some(after) = time.get().checked_add(1) else { return Ok(visible) };
    let later = Query { event_time_from: EventTime(after), limit: Some(1), ..scope.clone() };
    let first = reader.query(&later)?.next().transpose()?;
    Ok(first.map_or(visible, |event| event.sequence().previous()))
}
