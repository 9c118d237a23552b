//! `/v1/events` and `/v1/trades`: what the tape says, by range and filter.

use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use matchtape_client::{EventRow, push_csv_heading, push_csv_row};
use matchtape_schemas::{EventRef, InstrumentId, Kind, KindMask, OrderId, Sequence, TradeId};
use matchtape_storage::{Direction, PageCursor, PageToken, Query as TapeQuery, ReadError};

use super::Gateway;
use super::answer::{CSV, NDJSON, Pages, WriteRow, json, stream_lines, with_next};
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
    let order = params.some_id("order_id")?.map(OrderId);
    let trade = params.some_id("trade_id")?.map(TradeId);
    if order.is_some() || trade.is_some() {
        let found: Vec<Kind> = FOUND_BY_NUMBER.into_iter().filter(|kind| kinds.contains(*kind)).collect();
        kinds = KindMask::of(&found);
    }
    let question =
        Question { name: "events", kinds, order, trade, row: tape_item, newest_first: false, rows: 1_000 };
    question.answer(&shared, &headers, params).await
}

/// `/v1/trades?instrument=&from=&to=&order=desc&limit=50&cursor=`
pub(crate) async fn trades(
    State(shared): Gateway,
    headers: HeaderMap,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let params = Params::of(query)?;
    let row: WriteRow = |out, event, symbols| {
        trade_item(out, event, symbols);
    };
    let question = Question {
        name: "trades",
        kinds: KindMask::TRADES,
        order: None,
        trade: None,
        row,
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
        let newest_first = params.newest_first(self.newest_first)?;
        let has_limit = params.left_has("limit");
        let limit = params.number("limit", self.rows, shared.limits.page_rows_max)?;
        let mut query = TapeQuery {
            instrument,
            order: self.order,
            trade: self.trade,
            kinds: self.kinds,
            direction: if newest_first { Direction::Backward } else { Direction::Forward },
            // Lines are streamed, so they need no page: all of the range, unless a limit is asked for.
            limit: (has_limit || format == Format::Json).then_some(limit as u64),
            ..TapeQuery::default()
        };
        bound_from(&mut query, params.position("from")?)?;
        bound_to(&mut query, params.position("to")?)?;
        let after = params.text("cursor");
        params.finish()?;
        let (reader, symbols, name) = (shared.reader.clone(), shared.feed.symbols(), self.name);
        let row = if format == Format::Csv { csv_line } else { self.row };
        let is_page = query.limit.is_some();
        if !is_page {
            let pages = Pages { reader, query, name };
            let lines = stream_lines(shared.log.clone(), pages, after, heading(format), row, symbols);
            return lines.await.map_err(|error| ApiError::read(&error, "from"));
        }
        let open = move || reader.page(&query, name, after.as_deref());
        let page = shared.log.run(move || read_page(open()?, row, &symbols)).await;
        let Page { rows, next, through } = page.map_err(|error| ApiError::read(&error, "from"))?;
        if format != Format::Json {
            let mut body = heading(format);
            for row in rows {
                body.push_str(&row);
                body.push('\n');
            }
            let content = if format == Format::Csv { CSV } else { NDJSON };
            let response = ([(CONTENT_TYPE, content), (CACHE_CONTROL, "no-store")], body).into_response();
            return Ok(with_next(response, next.as_ref()));
        }
        let visible = shared.reader.visible();
        Ok(json(|object| {
            let list = object.key(name);
            list.push('[');
            list.push_str(&rows.join(","));
            list.push(']');
            if let Some(next) = next {
                object.word("next", &next.to_string());
            }
            object.number("through", through.get()).number("visible", visible.get());
        }))
    }
}

fn heading(format: Format) -> String {
    let mut heading = String::new();
    if format == Format::Csv {
        push_csv_heading::<EventRow>(&mut heading);
    }
    heading
}

/// A line of CSV, without its end.
fn csv_line(out: &mut String, event: &EventRef<'_>, symbols: &Symbols) {
    push_csv_row(out, &EventRow::public(event, symbols.get(event.instrument())));
    out.pop();
}

/// One page, and where the next begins.
struct Page {
    rows: Vec<String>,
    next: Option<PageToken>,
    through: Sequence,
}

fn read_page(mut cursor: PageCursor, write: WriteRow, symbols: &Symbols) -> Result<Page, ReadError> {
    let mut rows = Vec::new();
    for event in cursor.by_ref() {
        let mut row = String::new();
        write(&mut row, &event?.event(), symbols);
        rows.push(row);
    }
    Ok(Page { rows, next: cursor.next_page(), through: cursor.through() })
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
