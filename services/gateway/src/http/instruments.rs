//! `/v1/instruments`: what is traded.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use matchtape_market::Instrument;
use matchtape_schemas::InstrumentId;
use matchtape_schemas::event::Side;

use super::Gateway;
use super::answer::{json, lines};
use super::events::extent;
use super::params::{Format, find_instrument};
use crate::encode::Json;
use crate::error::ApiError;
use crate::feed::MarketState;

/// How long an answer waits for the feeds to reach what is visible.
const CATCH_UP_WAIT: Duration = Duration::from_secs(2);

/// `/v1/instruments`
pub(crate) async fn instruments(State(shared): Gateway, headers: HeaderMap) -> Result<Response, ApiError> {
    let format = Format::of(&headers)?.not_csv()?;
    // Whoever published a definition, and was told that it is visible, finds it here.
    let (mut head, visible) = (shared.feed.head(), shared.reader.visible());
    let caught_up = head.wait_for(|head| head.position >= visible || head.failed.is_some() || head.ended);
    // Behind for longer: the answer's `sequence` says how far it is.
    let _ = tokio::time::timeout(CATCH_UP_WAIT, caught_up).await;
    let market = shared.feed.market();
    let mut rows: Vec<String> = Vec::with_capacity(market.instruments.len());
    for instrument in market.instruments.iter() {
        let mut row = String::new();
        let mut object = Json::object(&mut row);
        write(&mut object, instrument, &market);
        object.close();
        rows.push(row);
    }
    let position = market.position;
    drop(market);
    if format == Format::Ndjson {
        return Ok(lines(rows.into_iter().map(|row| row + "\n").collect()));
    }
    Ok(json(|object| {
        object.number("sequence", position.get());
        let list = object.key("instruments");
        list.push('[');
        list.push_str(&rows.join(","));
        list.push(']');
    }))
}

/// `/v1/instruments/SYMBOL`: also when its market events began and how far they have come.
pub(crate) async fn instrument(
    State(shared): Gateway,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let id: InstrumentId = find_instrument(&name, &shared.feed)?;
    let reader = shared.reader.clone();
    let extent = shared.log.run(move || extent(&reader, id)).await;
    let extent = extent.map_err(|error| ApiError::read(&error, "instrument"))?;
    let market = shared.feed.market();
    Ok(json(|object| {
        match market.instruments.get(id) {
            Some(instrument) => write(object, instrument, &market),
            None => {
                object.text("instrument", &id.to_string()).number("instrument_id", id.get().into());
            }
        }
        if let Some((first, last)) = &extent {
            object.number("first_sequence", first.sequence().get());
            object.id("first_event_time", first.event().event_time().get());
            object.number("last_sequence", last.sequence().get());
            object.id("last_event_time", last.event().event_time().get());
        }
    }))
}

fn write(object: &mut Json<'_>, instrument: &Instrument, market: &MarketState) {
    let definition = &instrument.definition;
    object.text("instrument", &definition.symbol.as_str());
    object.number("instrument_id", instrument.id.get().into());
    object.text("name", &definition.name.as_str()).word("instrument_class", definition.class.name());
    object.text("venue", &definition.venue.as_str()).text("currency", &definition.currency.as_str());
    if definition.venue_instrument_id != 0 {
        object.id("venue_instrument_id", definition.venue_instrument_id);
    }
    if definition.publisher != 0 {
        object.number("publisher", definition.publisher.into());
    }
    object.price("price_increment", definition.price_increment);
    object.units("quantity_increment", definition.quantity_increment.units());
    object.word("trading_status", instrument.status.name());
    let Some(book) = market.books.get(instrument.id) else { return };
    if let Some(bid) = book.best(Side::Buy) {
        object.price("bid", bid.price);
    }
    if let Some(ask) = book.best(Side::Sell) {
        object.price("ask", ask.price);
    }
    let totals = book.totals();
    object.number("orders", totals.bids.orders + totals.asks.orders);
}
