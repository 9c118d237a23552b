//! `/v1/ticker` and `/v1/status`: the last trades and sessions, and what may be done in each instrument, now or as of any
//! position.

use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use matchtape_client::{Row, StatusRow, TickerRow, as_of};
use matchtape_market::{Instrument, Instruments, Ticker, Tickers};
use matchtape_schemas::{EventTime, InstrumentId, Kind, KindMask, Sequence};
use matchtape_storage::{Query as TapeQuery, ReadError, Reader};

use super::Gateway;
use super::answer::{json, row_json, rows};
use super::params::{Format, Params, Position};
use crate::error::ApiError;
use crate::log::group_end_at;

/// `/v1/ticker?instrument=SYMBOL&at=end`
pub(crate) async fn ticker(
    State(shared): Gateway,
    headers: HeaderMap,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let format = Format::of(&headers)?;
    let mut params = Params::of(query)?;
    let instrument = params.instrument(&shared.feed)?;
    let at = params.position("at")?.unwrap_or(Position::End);
    params.finish()?;
    let list = move |tickers: &Tickers| -> Vec<Ticker> {
        let wanted =
            tickers.iter().filter(|ticker| instrument.is_none_or(|wanted| ticker.instrument == wanted));
        wanted.cloned().collect()
    };
    let (sequence, found) = if at == Position::End {
        // Copied first: the feed waits while the market is held.
        let market = shared.feed.market();
        (market.position, list(&market.tickers))
    } else {
        let reader = shared.reader.clone();
        let past = move || {
            let sequence = position(&reader, at, |time| as_of::ticker_prefix(&reader, instrument, time))?;
            let tickers = as_of::tickers(&reader, sequence).map_err(|error| ApiError::as_of(&error, "at"))?;
            Ok::<_, ApiError>((sequence, tickers))
        };
        let (sequence, tickers) = shared.log.run(past).await?;
        (sequence, list(&tickers))
    };
    let symbols = shared.feed.symbols();
    let row = |ticker: &Ticker| {
        let id = ticker.instrument.to_string();
        TickerRow::new(ticker, symbols.get(ticker.instrument).unwrap_or(&id))
    };
    Ok(answer(format, "tickers", found.iter().map(row).collect(), sequence))
}

/// `/v1/status?instrument=SYMBOL&at=end`
pub(crate) async fn status(
    State(shared): Gateway,
    headers: HeaderMap,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let format = Format::of(&headers)?;
    let mut params = Params::of(query)?;
    let instrument = params.instrument(&shared.feed)?;
    let at = params.position("at")?.unwrap_or(Position::End);
    params.finish()?;
    let list = move |instruments: &Instruments| -> Vec<Instrument> {
        let wanted = |id: InstrumentId| instrument.is_none_or(|wanted| wanted == id);
        instruments.iter().filter(|instrument| wanted(instrument.id)).cloned().collect()
    };
    let (sequence, found) = if at == Position::End {
        // Copied first: the feed waits while the market is held.
        let market = shared.feed.market();
        (market.position, list(&market.instruments))
    } else {
        let reader = shared.reader.clone();
        let past = move || {
            let scope = TapeQuery {
                kinds: KindMask::of(&[Kind::InstrumentDefined, Kind::TradingStatusChanged]),
                ..TapeQuery::default()
            };
            let sequence = position(&reader, at, |time| match instrument {
                Some(instrument) => reader.prefix_through(instrument, time),
                None => as_of::prefix(&reader, &scope, time),
            })?;
            let past = as_of::instruments(&reader, sequence);
            Ok::<_, ApiError>((sequence, list(&past.map_err(|error| ApiError::as_of(&error, "at"))?)))
        };
        shared.log.run(past).await?
    };
    Ok(answer(format, "status", found.iter().map(StatusRow::new).collect(), sequence))
}

/// The last group end at or before what `at` means; `as_of` says it of a time.
fn position(
    reader: &Reader,
    at: Position,
    as_of: impl FnOnce(EventTime) -> Result<Sequence, ReadError>,
) -> Result<Sequence, ApiError> {
    let visible = reader.visible();
    let sequence = match at {
        Position::End => visible,
        Position::At(sequence) => sequence,
        Position::Time(time) => as_of(time).map_err(|error| ApiError::read(&error, "at"))?,
    };
    if sequence > visible {
        return Err(ApiError::beyond_head(sequence, visible));
    }
    group_end_at(reader, sequence).map_err(|error| ApiError::read(&error, "at"))
}

fn answer<R: Row>(format: Format, name: &str, found: Vec<R>, sequence: Sequence) -> Response {
    if format != Format::Json {
        return rows(format, found.into_iter());
    }
    json(|object| {
        object.number("sequence", sequence.get());
        let list = object.key(name);
        list.push('[');
        let texts: Vec<String> = found.iter().map(row_json).collect();
        list.push_str(&texts.join(","));
        list.push(']');
    })
}
