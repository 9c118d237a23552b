//! `/v1/orders`: what became of orders, without their owners and without those that were refused.

use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use matchtape_client::OrderRow;
use matchtape_client::orders::{self, Orders, OrdersQuestion};
use matchtape_market::{OrderState, OrderStatus};
use matchtape_schemas::{InstrumentId, OrderId, Sequence};
use matchtape_storage::{Direction, PageToken, Query as TapeQuery};

use super::Gateway;
use super::answer::{json, row_json, rows, with_complete_from, with_next};
use super::params::{Format, Params, Position};
use crate::error::ApiError;
use crate::gateway::Shared;

/// Rows of a page unless the request says otherwise.
const ROWS: usize = 1_000;

/// What is asked for, but for the page.
struct Asked {
    question: OrdersQuestion,
    at: Position,
    /// Of everything above but the position, which the token has.
    digest: u64,
}

impl Asked {
    fn read(params: &mut Params, shared: &Shared, name: &str) -> Result<Self, ApiError> {
        let mut question = OrdersQuestion::new(Sequence::ZERO);
        question.instrument = params.instrument(&shared.feed)?;
        question.status = read_status(params)?;
        question.newest_first = params.newest_first(false)?;
        let at = params.position("at")?.unwrap_or(Position::End);
        match params.position("from")? {
            None => {}
            Some(Position::At(from)) => question.from = from,
            Some(Position::Time(from)) => question.time_from = from,
            Some(Position::End) => {
                return Err(ApiError::bad_request(
                    "nothing comes after the end",
                    "from",
                    "give a sequence or a time",
                ));
            }
        }
        match params.position("to")? {
            None | Some(Position::End) => {}
            Some(Position::At(to)) => question.to = to,
            Some(Position::Time(to)) => question.time_to = to,
        }
        let query = TapeQuery {
            from: question.from,
            through: question.to,
            event_time_from: question.time_from,
            event_time_through: question.time_to,
            instrument: question.instrument,
            direction: if question.newest_first { Direction::Backward } else { Direction::Forward },
            ..TapeQuery::default()
        };
        let status = question.status.map_or("any", OrderStatus::name);
        let digest = query.digest(&format!("{name} {status} {at:?}"));
        Ok(Self { question, at, digest })
    }

    /// The position that the answer is as of; that of the first page, on a later one.
    fn through(&self, shared: &Shared, token: Option<&PageToken>) -> Result<Sequence, ApiError> {
        let visible = shared.reader.visible();
        let through = match (token, self.at, self.question.instrument) {
            (Some(token), ..) => token.range().1,
            (None, Position::End, _) => visible,
            (None, Position::At(sequence), _) => sequence,
            (None, Position::Time(time), Some(instrument)) => shared
                .reader
                .prefix_through(instrument, time)
                .map_err(|error| ApiError::read(&error, "at"))?,
            (None, Position::Time(_), None) => {
                return Err(ApiError::bad_request(
                    "each instrument has its own state as of a time",
                    "at",
                    "add instrument=SYMBOL, or give a sequence",
                ));
            }
        };
        if through > visible {
            return Err(ApiError::beyond_head(through, visible));
        }
        Ok(through)
    }
}

/// `/v1/orders?instrument=&status=&at=end&from=&to=&order=asc&limit=1000&cursor=`
pub(crate) async fn list(
    State(shared): Gateway,
    headers: HeaderMap,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let format = Format::of(&headers)?;
    let mut params = Params::of(query)?;
    let asked = Asked::read(&mut params, &shared, "orders")?;
    let limit = params.number("limit", ROWS, shared.limits.page_rows_max)?;
    let after = params.text("cursor");
    params.finish()?;
    let held = shared.clone();
    let read = move || {
        let tape = held.reader.tape();
        let token = after
            .map(|text| PageToken::read(&text, tape, asked.digest))
            .transpose()
            .map_err(|error| ApiError::token(&error))?;
        let through = asked.through(&held, token.as_ref())?;
        let after = token.as_ref().map(PageToken::last);
        let question = OrdersQuestion { through, limit, after, ..asked.question };
        let found = orders::orders(&held.reader, &question).map_err(|error| ApiError::as_of(&error, "at"))?;
        let first = found.first.max(Sequence::FIRST);
        if let Some(token) = token.filter(|token| token.range().0 != first) {
            // More was dropped since: orders that the first page counted from their entry have none any more.
            return Err(ApiError::below_retention(token.range().0, found.first_kept, "cursor"));
        }
        let last = found.found.last().filter(|_| found.more).map(|last| last.first_sequence);
        let next = last.map(|last| PageToken::new(tape, asked.digest, (first, through), last));
        Ok::<_, ApiError>((found, next, through))
    };
    let (found, next, through) = shared.log.run(read).await?;
    Ok(answer(&shared, format, &found, next.as_ref(), through))
}

/// `/v1/orders/NUMBER?instrument=&status=&at=end&from=&to=`: every order that had this number at some time.
pub(crate) async fn one(
    State(shared): Gateway,
    headers: HeaderMap,
    Path(number): Path<String>,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let format = Format::of(&headers)?;
    let order = number.parse().ok().filter(|number| *number > 0).map(OrderId).ok_or_else(|| {
        ApiError::bad_request(format!("{number:?} is no order"), "path", "give a whole number from 1")
    })?;
    let mut params = Params::of(query)?;
    let mut asked = Asked::read(&mut params, &shared, "order")?;
    asked.question.limit = params.number("limit", ROWS, shared.limits.page_rows_max)?;
    params.finish()?;
    let held = shared.clone();
    let read = move || {
        let through = asked.through(&held, None)?;
        let instrument: Option<InstrumentId> = asked.question.instrument;
        let found = orders::order(&held.reader, order, instrument, through, false);
        let mut found = found.map_err(|error| ApiError::as_of(&error, "path"))?;
        found.found = asked.question.select(found.found).0;
        Ok::<_, ApiError>((found, through))
    };
    let (found, through) = shared.log.run(read).await?;
    Ok(answer(&shared, format, &found, None, through))
}

fn answer(
    shared: &Shared,
    format: Format,
    found: &Orders,
    next: Option<&PageToken>,
    through: Sequence,
) -> Response {
    let symbols = shared.feed.symbols();
    let row = |state: &OrderState| {
        let id = state.instrument.to_string();
        OrderRow::public(state, symbols.get(state.instrument).unwrap_or(&id))
    };
    if format != Format::Json {
        let lines = with_next(rows(format, found.found.iter().map(row)), next);
        return with_complete_from(lines, found.complete_from());
    }
    json(|object| {
        let list = object.key("orders");
        list.push('[');
        let texts: Vec<String> = found.found.iter().map(|state| row_json(&row(state))).collect();
        list.push_str(&texts.join(","));
        list.push(']');
        if let Some(next) = next {
            object.word("next", &next.to_string());
        }
        if let Some(first) = found.complete_from() {
            object.number("complete_from_sequence", first.get());
        }
        object.number("sequence", through.get());
    })
}

fn read_status(params: &mut Params) -> Result<Option<OrderStatus>, ApiError> {
    let Some(text) = params.text("status") else { return Ok(None) };
    let public = || OrderStatus::ALL.iter().filter(|status| **status != OrderStatus::Rejected);
    public().find(|status| status.name() == text).map(|status| Some(*status)).ok_or_else(|| {
        let names: Vec<&str> = public().map(|status| status.name()).collect();
        ApiError::bad_request(
            format!("{text:?} is no status that is shown"),
            "status",
            format!("give one of {}", names.join(", ")),
        )
    })
}
