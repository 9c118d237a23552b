//! `matchtape query book`

use clap::Args;
use matchtape_client::LevelRow;
use matchtape_market::Books;
use matchtape_schemas::event::Side;
use matchtape_schemas::{InstrumentId, Sequence};
use matchtape_storage::{Query, Reader};

use super::select::{Common, Session};
use crate::cli::error::CliError;
use crate::cli::position::At;
use crate::cli::store;

/// An instrument's order book at a position: bids best first, then offers best first.
///
/// At a sequence it is the book right after that event, also inside a group. As of a time it is the book after the
/// instrument's longest run of events, from its first, of which none is later than the time.
#[derive(Args, Debug)]
pub(super) struct BookArgs {
    #[command(flatten)]
    common: Common,
    /// The instrument: its symbol, the venue's number, or its id on the tape
    #[arg(long, value_name = "SYMBOL")]
    instrument: String,
    /// end, a sequence (below 10^15), a time in ns since 1970 UTC (from 10^15 on), or a time like 2023-07-11T09:30:00Z
    #[arg(long, value_name = "POSITION", default_value = "end")]
    at: At,
    /// So many levels of each side [default: all]
    #[arg(long, value_name = "LEVELS")]
    depth: Option<usize>,
}

pub(super) fn run(args: &BookArgs) -> Result<(), CliError> {
    let session = Session::open(&args.common)?;
    let instrument = session.instrument(&args.instrument)?;
    let through = match args.at {
        At::End => session.reader.visible(),
        At::Position(position) => session.position(position, instrument)?,
    };
    let books = books_at(&session.reader, instrument, through)?;
    let mut output = session.output();
    if let Some(book) = books.get(instrument) {
        for side in [Side::Buy, Side::Sell] {
            for level in book.levels(side).take(args.depth.unwrap_or(usize::MAX)) {
                output.write(&LevelRow::new(side, &level))?;
            }
        }
    }
    output.finish::<LevelRow>()?;
    Ok(())
}

/// The books of the nearest snapshot, with this instrument's events since then.
fn books_at(reader: &Reader, instrument: InstrumentId, through: Sequence) -> Result<Books, CliError> {
    let mut books = Books::new();
    if through == Sequence::ZERO {
        return Ok(books);
    }
    let from = store::restore(reader, &mut books, through)?.next();
    if from <= through {
        let query = Query { from, through, instrument: Some(instrument), ..Query::default() };
        for event in reader.query(&query)? {
            books.apply(&event?.event());
        }
    }
    Ok(books)
}
