//! `/v1/state`: keyed reference data, the last value of each key. Offered where events may be published, and to the same
//! clients: it is no part of the public tape.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Path, Query, Request, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use matchtape_client::state::{self, from_readable, readable};
use matchtape_client::{StateRow, as_of};
use matchtape_market::KeyedState;
use matchtape_schemas::event::{STATE_BYTES_MAX, STATE_KEY_BYTES_MAX, StateDeleted, StateError, StateSet};
use matchtape_schemas::{Body, Event, EventTime, InstrumentId, ProducerId, ProducerSequence, Sequence};
use matchtape_storage::{Query as TapeQuery, Reader};
use tokio::sync::OwnedSemaphorePermit;

use super::Gateway;
use super::answer::{json, row_json, rows};
use super::params::{Format, Params, Position};
use super::publish::{ingress, push_watermarks, reached, read_body, read_producer, read_stage, refusal};
use crate::error::ApiError;
use crate::gateway::Shared;
use crate::ingress::{Ingress, Receipt};
use crate::log::on_blocking_thread;
use crate::metrics::Metrics;

/// Who sets values where a request names no producer. Its numbers are nobody's to choose: one that is far ahead would leave
/// none for the rest.
pub(super) const PRODUCER: ProducerId = ProducerId(u32::MAX);
/// Numbers tried for an event whose number nobody chose, while others publish as the same producer.
const TRIES_MAX: usize = 64;
/// Keys of a page unless the request says otherwise.
const ROWS: usize = 1_000;
/// Bytes of keys and values of a page.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

fn read_key(text: &str) -> Result<Vec<u8>, ApiError> {
    let wrong = |what: String| {
        let what_to_do = format!(
            "a key is text or, after 0x, bytes in hexadecimal: 1 to {STATE_KEY_BYTES_MAX} bytes in all"
        );
        ApiError::bad_request(what, "path", what_to_do)
    };
    let key = from_readable(text).ok_or_else(|| wrong(format!("{text:?} is not in hexadecimal")))?;
    if key.is_empty() || key.len() > STATE_KEY_BYTES_MAX {
        return Err(wrong(format!("a key of {} bytes", key.len())));
    }
    Ok(key)
}

/// The position meant: a time is that of the events that `scope` selects.
fn position(reader: &Reader, at: Position, scope: &TapeQuery) -> Result<Sequence, ApiError> {
    let visible = reader.visible();
    let sequence = match at {
        Position::End => visible,
        Position::At(sequence) => sequence,
        Position::Time(time) => {
            as_of::prefix(reader, scope, time).map_err(|error| ApiError::read(&error, "at"))?
        }
    };
    if sequence > visible {
        return Err(ApiError::beyond_head(sequence, visible));
    }
    Ok(sequence)
}

/// `GET /v1/state/KEY?at=end`: as JSON or, with `Accept: application/octet-stream`, the value's bytes.
pub(crate) async fn get(
    State(shared): Gateway,
    headers: HeaderMap,
    Path(key): Path<String>,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    const BYTES: &str = "application/octet-stream";
    ingress(&shared)?;
    let as_bytes = headers.get(ACCEPT).is_some_and(|accept| accept == BYTES);
    if !as_bytes {
        Format::of(&headers)?;
    }
    let key = read_key(&key)?;
    let mut params = Params::of(query)?;
    let at = params.position("at")?.unwrap_or(Position::End);
    params.finish()?;
    let (reader, wanted) = (shared.reader.clone(), key.clone());
    let read = move || {
        let scope =
            TapeQuery { state_key: Some(wanted.clone()), kinds: KeyedState::KINDS, ..TapeQuery::default() };
        let through = position(&reader, at, &scope)?;
        let value = state::get(&reader, &wanted, through).map_err(|error| ApiError::as_of(&error, "at"))?;
        Ok::<_, ApiError>((through, value))
    };
    let (through, value) = shared.log.run(read).await?;
    let Some(value) = value else {
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "unknown_key",
            format!("{:?} has no value at sequence {through}", readable(&key)),
            "path",
            "/v1/state lists the keys that have",
        ));
    };
    if as_bytes {
        let bytes = value.value.into_vec();
        return Ok(([(CONTENT_TYPE, BYTES), (CACHE_CONTROL, "no-store")], bytes).into_response());
    }
    Ok(json(|object| {
        object.text("key", &readable(&key)).text("value", &readable(&value.value));
        object.number("bytes", value.value.len() as u64).number("set_sequence", value.set_at.get());
        object.id("event_time", value.event_time.get()).number("sequence", through.get());
    }))
}

/// `GET /v1/state?prefix=&from=&to=&at=end&limit=1000`: keys in ascending order, `from` inclusive, `to` not.
pub(crate) async fn list(
    State(shared): Gateway,
    headers: HeaderMap,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    ingress(&shared)?;
    let format = Format::of(&headers)?;
    let mut params = Params::of(query)?;
    let mut bytes = |name: &'static str| match params.text(name) {
        None => Ok(None),
        Some(text) => from_readable(&text).map(Some).ok_or_else(|| {
            ApiError::bad_request(
                format!("{text:?} is not in hexadecimal"),
                name,
                "give text or, after 0x, an even number of hexadecimal digits",
            )
        }),
    };
    let (prefix, from, to) =
        (bytes("prefix")?.unwrap_or_default(), bytes("from")?.unwrap_or_default(), bytes("to")?);
    let at = params.position("at")?.unwrap_or(Position::End);
    let limit = params.number("limit", ROWS, shared.limits.page_rows_max)?;
    params.finish()?;
    let reader = shared.reader.clone();
    let read = move || {
        let scope = TapeQuery { kinds: KeyedState::KINDS, ..TapeQuery::default() };
        let through = position(&reader, at, &scope)?;
        let all = state::all(&reader, through).map_err(|error| ApiError::as_of(&error, "at"))?;
        let (mut rows, mut room, mut next) = (Vec::new(), PAGE_BYTES, None);
        for (key, value) in all.range(&prefix, &from, to.as_deref()) {
            let bytes = key.len() + value.value.len();
            if rows.len() == limit || (bytes > room && !rows.is_empty()) {
                next = Some(readable(key));
                break;
            }
            room = room.saturating_sub(bytes);
            rows.push(StateRow::new(key, value));
        }
        Ok::<_, ApiError>((through, rows, next))
    };
    let (through, found, next) = shared.log.run(read).await?;
    if format != Format::Json {
        return Ok(rows(format, found.into_iter()));
    }
    Ok(json(|object| {
        object.number("sequence", through.get());
        let list = object.key("state");
        list.push('[');
        let texts: Vec<String> = found.iter().map(row_json).collect();
        list.push_str(&texts.join(","));
        list.push(']');
        if let Some(next) = next {
            object.text("next_from", &next);
        }
    }))
}

/// `PUT /v1/state/KEY?producer=&producer_sequence=&event_time=&wait=visible`; the body is the value.
pub(crate) async fn put(
    State(shared): Gateway,
    Path(key): Path<String>,
    query: Query<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (ingress, key) = (ingress(&shared)?, read_key(&key)?);
    let write = Write::read(query)?;
    let permit = shared.publishes.clone().acquire_owned().await.expect("the semaphore is never closed");
    let elsewhere = "keep large things elsewhere, and their address here";
    let value = read_body(request.into_body(), &shared, STATE_BYTES_MAX, elsewhere).await?;
    let body = StateSet::new(&key, &value).map_err(|error: StateError| {
        let what = error.to_string();
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", what, "body", elsewhere)
    })?;
    write.publish(&shared, ingress, body.into(), permit).await
}

/// `DELETE /v1/state/KEY?producer=&producer_sequence=&event_time=&wait=visible`
pub(crate) async fn delete(
    State(shared): Gateway,
    Path(key): Path<String>,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let (ingress, key) = (ingress(&shared)?, read_key(&key)?);
    let write = Write::read(query)?;
    let permit = shared.publishes.clone().acquire_owned().await.expect("the semaphore is never closed");
    let body = StateDeleted::new(&key).expect("the key's length was checked");
    write.publish(&shared, ingress, body.into(), permit).await
}

/// Who changes a key, and when.
struct Write {
    producer: ProducerId,
    /// Chosen by the client, who then may repeat the request; else the producer's next.
    number: Option<ProducerSequence>,
    event_time: EventTime,
    wait: matchtape_schemas::Stage,
}

impl Write {
    fn read(query: Query<Vec<(String, String)>>) -> Result<Self, ApiError> {
        let mut params = Params::of(query)?;
        let producer = params.text("producer").map_or(Ok(PRODUCER), |text| read_producer(&text))?;
        let number = params.id("producer_sequence")?.map(ProducerSequence);
        let event_time = params.time("event_time")?.unwrap_or_else(now);
        let wait = read_stage(&mut params)?;
        params.finish()?;
        let wrong = |what, what_to_do| Err(ApiError::bad_request(what, "producer_sequence", what_to_do));
        match number {
            Some(ProducerSequence(0)) => wrong("producer sequences begin at 1", "give a later one"),
            // No other could follow it.
            Some(ProducerSequence(u64::MAX)) => {
                wrong("that is the last number there is", "give the one after the producer's last")
            }
            Some(_) if producer == PRODUCER => wrong(
                "the gateway numbers its own events",
                "name a producer of your own, or leave the number away",
            ),
            _ => Ok(()),
        }?;
        Ok(Self { producer, number, event_time, wait })
    }

    async fn publish(
        self,
        shared: &Arc<Shared>,
        ingress: Arc<dyn Ingress>,
        body: Body,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response, ApiError> {
        let Self { producer, number, event_time, wait } = self;
        let receipt = on_blocking_thread(move || {
            let event = |number| Event::new(InstrumentId(0), number, event_time, body.clone());
            let outcome = publish_one(&*ingress, producer, number, event);
            // Kept by the thread, not by the request, which may be given up while the ring is full.
            drop(permit);
            outcome
        })
        .await?;
        Metrics::add(&shared.metrics.events_published, receipt.published);
        let watermarks = reached(shared, receipt.last, wait).await?;
        Ok(json(|object| {
            object.number("sequence", receipt.last.get()).number("already", receipt.already);
            push_watermarks(object, &watermarks);
        }))
    }
}

/// Publishes one event under the number chosen or, where nobody did, under the producer's next. One that is taken then is
/// somebody else's event, and another is tried.
fn publish_one(
    ingress: &dyn Ingress,
    producer: ProducerId,
    number: Option<ProducerSequence>,
    event: impl Fn(ProducerSequence) -> Event,
) -> Result<Receipt, ApiError> {
    for _ in 0..TRIES_MAX {
        let next = match number {
            Some(number) => number,
            None => {
                let last = ingress.last(producer).map_err(|error| refusal(&error))?;
                ProducerSequence(last.map_or(0, |last| last.producer_sequence.get()).saturating_add(1))
            }
        };
        let receipt = ingress.publish(producer, &[vec![event(next)]]).map_err(|error| refusal(&error))?;
        if number.is_some() || receipt.published > 0 {
            return Ok(receipt);
        }
    }
    Err(ApiError::new(
        StatusCode::CONFLICT,
        "producer_busy",
        format!(
            "others publish as producer {producer}: {TRIES_MAX} numbers were taken before this event had one"
        ),
        "producer",
        "nothing was published; write as another producer, or choose the producer_sequence",
    ))
}

fn now() -> EventTime {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    EventTime(i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX))
}
