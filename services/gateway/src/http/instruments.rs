//! `/v1/instruments`: what is traded.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use matchtape_market::{Instrument, Level};
use matchtape_schemas::InstrumentId;

use super::Gateway;
use super::answer::{json, lines};
use super::events::extent;
use super::params::{Format, find_instrument};
use crate::encode::Json;
use crate::error::ApiError;
use crate::feed::{MarketState, best};

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
    // Copied first: the feed waits while the market is held.
    let (position, instruments) = {
        let market = shared.feed.market();
        let copy = |instrument: &Instrument| (instrument.clone(), BookTop::of(&market, instrument.id));
        (market.position, market.instruments.iter().map(copy).collect::<Vec<_>>())
    };
    let row = |(instrument, book): &(Instrument, Option<BookTop>)| {
        let mut row = String::new();
        let mut object = Json::object(&mut row);
        write(&mut object, instrument, book.as_ref());
        object.close();
        row
    };
    let rows: Vec<String> = instruments.iter().map(row).collect();
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
            Some(instrument) => write(object, instrument, BookTop::of(&market, id).as_ref()),
            None => {
                object.text("instrument", &id.to_string()).id("instrument_id", id.get());
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

/// What is told of an instrument's book.
struct BookTop {
    best: [Option<Level>; 2],
    orders: u64,
}

impl BookTop {
    fn of(market: &MarketState, instrument: InstrumentId) -> Option<Self> {
        let book = market.books.get(instrument)?;
        let totals = book.totals();
        Some(Self { best: best(book), orders: totals.bids.orders + totals.asks.orders })
    }
}

fn some_text(object: &mut Json<'_>, name: &str, text: &str) {
    if !text.is_empty() {
        object.text(name, text);
    }
}

fn write(object: &mut Json<'_>, instrument: &Instrument, book: Option<&BookTop>) {
    let definition = &instrument.definition;
    object.text("instrument", &definition.symbol.as_str());
    object.id("instrument_id", instrument.id.get());
    some_text(object, "name", &definition.name.as_str());
    object.word("instrument_class", definition.class.name());
    some_text(object, "venue", &definition.venue.as_str());
    some_text(object, "currency", &definition.currency.as_str());
    if definition.venue_instrument_id != 0 {
        object.id("venue_instrument_id", definition.venue_instrument_id);
    }
    if definition.publisher != 0 {
        object.id("publisher", definition.publisher);
    }
    object.price("price_increment", definition.price_increment);
    if definition.quantity_increment.units() != 0 {
        object.units("quantity_increment", definition.quantity_increment.units());
    }
    object.word("trading_status", instrument.status.name());
    let Some(BookTop { best: [bid, ask], orders }) = book else { return };
    if let Some(bid) = bid {
        object.price("bid", bid.price);
    }
    if let Some(ask) = ask {
        object.price("ask", ask.price);
    }
    object.number("orders", *orders);
}
