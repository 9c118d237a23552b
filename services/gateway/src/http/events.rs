//! `/v1/events` and `/v1/trades`: what the tape says, by range and filter.

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use matchtape_schemas::{InstrumentId, Kind, KindMask, OrderId, Sequence, TradeId};
use matchtape_storage::{Direction, Query as TapeQuery, ReadError};

use super::Gateway;
use super::answer::{WriteRow, json, stream_lines};
use super::params::{Format, Params, Position};
use crate::encode::{Symbols, tape_item, trade_item};
use crate::error::ApiError;
use crate::gateway::Shared;

/// What may be found by an order's or a trade's number: that a refused order had it is private.
const FOUND_BY_NUMBER: [Kind; 6] = [
    Kind::OrderAccepted,
    Kind::OrderReplaced,
    Kind::OrderCancelled,
    Kind::OrderExecuted,
    Kind::TradeMatched,
    Kind::TradeBusted,
];

/// `/v1/events?from=&to=&instrument=&kind=&order_id=&trade_id=&order=asc&limit=1000&cursor=`
pub(crate) async fn events(
    State(shared): Gateway,
    headers: HeaderMap,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let mut params = Params::of(query)?;
    let mut kinds = params.kinds()?;
    let order = params.id("order_id")?.map(OrderId);
    let trade = params.id("trade_id")?.map(TradeId);
    if order.is_some() || trade.is_some() {
        let found: Vec<Kind> = FOUND_BY_NUMBER.into_iter().filter(|kind| kinds.contains(*kind)).collect();
        kinds = KindMask::of(&found);
    }
    let row: WriteRow = |out, event, symbols| {
        tape_item(out, event, symbols);
        true
    };
    let question = Question { name: "events", kinds, order, trade, row, newest_first: false, rows: 1_000 };
    question.answer(&shared, &headers, params).await
}

/// `/v1/trades?instrument=&from=&to=&order=desc&limit=50&cursor=`
pub(crate) async fn trades(
    State(shared): Gateway,
    headers: HeaderMap,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let params = Params::of(query)?;
    let question = Question {
        name: "trades",
        kinds: KindMask::TRADES,
        order: None,
        trade: None,
        row: trade_item,
        newest_first: true,
        rows: 50,
    };
    question.answer(&shared, &headers, params).await
}

/// What the two paths differ in.
struct Question {
    name: &'static str,
    kinds: KindMask,
    order: Option<OrderId>,
    trade: Option<TradeId>,
    row: WriteRow,
    newest_first: bool,
    /// Rows of a page unless the request says otherwise.
    rows: usize,
}

impl Question {
    async fn answer(
        self,
        shared: &Shared,
        headers: &HeaderMap,
        mut params: Params,
    ) -> Result<Response, ApiError> {
        let format = Format::of(headers)?;
        let instrument = params.instrument(&shared.feed)?;
        let newest_first = match params.text("order").as_deref() {
            None => self.newest_first,
            Some("asc") => false,
            Some("desc") => true,
            Some(other) => {
                return Err(ApiError::bad_request(
                    format!("{other:?} is no order"),
                    "order",
                    "give asc or desc",
                ));
            }
        };
        let has_limit = params.left_has("limit");
        let limit = params.number("limit", self.rows, shared.limits.page_rows_max)?;
        let mut query = TapeQuery {
            instrument,
            order: self.order,
            trade: self.trade,
            kinds: self.kinds,
            direction: if newest_first { Direction::Backward } else { Direction::Forward },
            ..TapeQuery::default()
        };
        bound_from(&mut query, params.position("from")?)?;
        bound_to(&mut query, params.position("to")?)?;
        if let Some(cursor) = params.text("cursor") {
            go_on(&mut query, &cursor)?;
        }
        params.finish()?;
        let (reader, symbols, row, name) =
            (shared.reader.clone(), shared.feed.symbols(), self.row, self.name);
        if format == Format::Ndjson {
            // Lines are streamed, so they need no page: all of the range, unless a limit is asked for.
            query.limit = has_limit.then_some(limit as u64);
            let open = move || reader.query(&query).map_err(|error| ApiError::read(&error, "from"));
            let cursor = shared.log.run(open).await?;
            return Ok(stream_lines(shared.log.clone(), cursor, row, symbols));
        }
        let page = move || read_page(&reader, query, limit, row, &symbols);
        let page = shared.log.run(page).await.map_err(|error| ApiError::read(&error, "from"))?;
        Ok(json(|object| {
            object.key(name).push_str(&page.rows);
            if let Some(last) = page.next {
                object.word("next", &cursor_after(last, newest_first));
            }
            object.number("visible", page.visible.get());
        }))
    }
}

/// One page: rows as a JSON array, and where the next begins.
struct Page {
    rows: String,
    next: Option<Sequence>,
    visible: Sequence,
}

fn read_page(
    reader: &matchtape_storage::Reader,
    mut query: TapeQuery,
    limit: usize,
    row: WriteRow,
    symbols: &Symbols,
) -> Result<Page, ReadError> {
    // As of one moment: what becomes visible meanwhile belongs to a later answer.
    let visible = reader.visible();
    query.through = query.through.min(visible);
    let mut page = Page { rows: String::from("["), next: None, visible };
    let mut last = None;
    let mut count = 0;
    if query.from <= query.through {
        for event in reader.query(&query)? {
            let event = event?;
            if count == limit {
                page.next = last;
                break;
            }
            if count > 0 {
                page.rows.push(',');
            }
            row(&mut page.rows, &event.event(), symbols);
            last = Some(event.sequence());
            count += 1;
        }
    }
    page.rows.push(']');
    Ok(page)
}

fn bound_from(query: &mut TapeQuery, from: Option<Position>) -> Result<(), ApiError> {
    match from {
        None => {}
        Some(Position::At(sequence)) => query.from = sequence,
        Some(Position::Time(time)) => query.event_time_from = time,
        Some(Position::End) => {
            return Err(ApiError::bad_request(
                "nothing comes after the end",
                "from",
                "give a sequence or a time",
            ));
        }
    }
    Ok(())
}

fn bound_to(query: &mut TapeQuery, to: Option<Position>) -> Result<(), ApiError> {
    match to {
        None | Some(Position::End) => {}
        Some(Position::At(sequence)) => query.through = sequence,
        Some(Position::Time(time)) => query.event_time_through = time,
    }
    if query.from > query.through || query.event_time_from > query.event_time_through {
        return Err(ApiError::bad_request("the range ends before it begins", "to", "give a later end"));
    }
    Ok(())
}

/// A cursor is a direction and the last position given out. Opaque to clients.
fn cursor_after(last: Sequence, newest_first: bool) -> String {
    format!("{}{:x}", if newest_first { 'd' } else { 'a' }, last.get())
}

fn go_on(query: &mut TapeQuery, cursor: &str) -> Result<(), ApiError> {
    let wrong = || {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "bad_cursor",
            format!("{cursor:?} is not a cursor of this question"),
            "cursor",
            "give `next` as it came, with the same parameters",
        )
    };
    let forward = query.direction == Direction::Forward;
    let digits = cursor.strip_prefix(if forward { 'a' } else { 'd' }).ok_or_else(wrong)?;
    let last = u64::from_str_radix(digits, 16).map(Sequence).map_err(|_| wrong())?;
    if last == Sequence::ZERO || last == Sequence::MAX {
        return Err(wrong());
    }
    if forward {
        query.from = query.from.max(last.next());
    } else {
        query.through = query.through.min(last.previous());
    }
    Ok(())
}

/// When an instrument's market events began and how far they have come.
pub(crate) fn extent(
    reader: &matchtape_storage::Reader,
    instrument: InstrumentId,
) -> Result<Option<(matchtape_storage::EventHandle, matchtape_storage::EventHandle)>, ReadError> {
    let one = |direction| {
        let query = TapeQuery {
            instrument: Some(instrument),
            kinds: KindMask::ORDERS.with(KindMask::TRADES),
            direction,
            limit: Some(1),
            ..TapeQuery::default()
        };
        reader.query(&query)?.next().transpose()
    };
    let (first, last) = (one(Direction::Forward)?, one(Direction::Backward)?);
    Ok(first.zip(last))
}
