//! `/v1/book`: an instrument's book now, or as of any sequence or time.

use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use matchtape_client::{LevelRow, as_of};
use matchtape_market::Level;
use matchtape_schemas::event::Side;
use matchtape_schemas::{InstrumentId, Sequence};
use matchtape_storage::Reader;

use super::Gateway;
use super::answer::{json, rows};
use super::params::{Format, Params, Position};
use crate::encode::{push_level, push_levels};
use crate::error::ApiError;
use crate::feed::{BookCopy, Depth};
use crate::log::group_end_at;

/// `/v1/book?instrument=SYMBOL&at=end&depth=10`
pub(crate) async fn book(
    State(shared): Gateway,
    headers: HeaderMap,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let format = Format::of(&headers)?;
    let mut params = Params::of(query)?;
    let instrument = params.needed_instrument(&shared.feed)?;
    let at = params.position("at")?.unwrap_or(Position::End);
    let levels = params.number("depth", 10, u16::MAX)?;
    params.finish()?;
    let depth = Depth::of_question(levels);
    let (sequence, copy) = match at {
        Position::End => {
            let (sequence, mut books) = shared.feed.copy_books(&[(instrument, depth)]);
            (sequence, books.remove(0))
        }
        Position::At(_) | Position::Time(_) => {
            let reader = shared.reader.clone();
            shared.log.run(move || book_as_of(&reader, instrument, at, depth)).await?
        }
    };
    if format != Format::Json {
        let bids = copy.bids.iter().map(|level| LevelRow::new(Side::Buy, level));
        let asks = copy.asks.iter().map(|level| LevelRow::new(Side::Sell, level));
        return Ok(rows(format, bids.chain(asks)));
    }
    let symbols = shared.feed.symbols();
    Ok(json(|object| {
        symbols.push(object.key("instrument"), instrument);
        object.number("sequence", sequence.get()).number("depth", levels.into());
        push_side(object.key("bids"), &copy.bids);
        push_side(object.key("asks"), &copy.asks);
        if let Some(checksum) = copy.checksum {
            object.number("checksum", checksum.into());
        }
    }))
}

fn push_side(out: &mut String, levels: &[Level]) {
    push_levels(out, levels.iter(), |out, level| {
        push_level(out, level.price, level.quantity.units(), level.orders);
    });
}

fn book_as_of(
    reader: &Reader,
    instrument: InstrumentId,
    at: Position,
    depth: Depth,
) -> Result<(Sequence, BookCopy), ApiError> {
    let read = |error| ApiError::read(&error, "at");
    let visible = reader.visible();
    let sequence = match at {
        Position::End => visible,
        Position::At(sequence) => sequence,
        Position::Time(time) => reader.prefix_through(instrument, time).map_err(read)?,
    };
    if sequence > visible {
        return Err(ApiError::beyond_head(sequence, visible));
    }
    let sequence = group_end_at(reader, sequence).map_err(read)?;
    let books =
        as_of::books(reader, &[instrument], sequence).map_err(|error| ApiError::as_of(&error, "at"))?;
    Ok((sequence, BookCopy::of(books.get(instrument), depth)))
}
