//! `/v1/publish` and `/v1/producers`: events of producers outside.
//!
//! A body is taken or refused before any of it goes further; its groups then go onto the tape one by one. Where the end
//! of that is not known in time the answer says `outcome_unknown`, never that it failed: repeating the request is safe,
//! because producer sequences tell what is there already.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use futures_util::StreamExt;
use matchtape_schemas::{ProducerId, Sequence, Stage, Watermarks};
use rkyv::util::AlignedVec;

use super::Gateway;
use super::answer::json;
use super::params::Params;
use crate::encode::Json;
use crate::error::ApiError;
use crate::gateway::Shared;
use crate::ingress::{Ingress, IngressError, Receipt, read_groups};
use crate::log::on_blocking_thread;
use crate::metrics::Metrics;

/// What events come as.
const EVENTS: &str = "application/octet-stream";

/// `POST /v1/publish?producer=ID&wait=visible`
pub(crate) async fn publish(
    State(shared): Gateway,
    query: Query<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, ApiError> {
    let ingress = ingress(&shared)?;
    let mut params = Params::of(query)?;
    let producer = params.text("producer").ok_or_else(|| {
        ApiError::bad_request(
            "no producer is named",
            "producer",
            "add producer=ID, the number in the events' headers",
        )
    })?;
    let producer = read_producer(&producer)?;
    if producer == super::state::PRODUCER {
        return Err(ApiError::bad_request(
            format!("the gateway itself publishes as producer {producer}"),
            "producer",
            "publish as another one",
        ));
    }
    let wait = read_stage(&mut params)?;
    params.finish()?;
    check_head(request.headers(), shared.limits.publish_bytes_max)?;

    let permit = shared.publishes.clone().acquire_owned().await.expect("the semaphore is never closed");
    let bytes = read_body(request.into_body(), &shared, shared.limits.publish_bytes_max, SEVERAL).await?;
    let receipt = on_blocking_thread(move || {
        let outcome = put(&*ingress, producer, &bytes);
        drop(permit);
        outcome
    })
    .await?;
    Metrics::add(&shared.metrics.events_published, receipt.published);
    let watermarks = reached(&shared, receipt.last, wait).await?;
    Ok(json(|object| {
        if let Some(first) = receipt.first {
            object.number("first", first.get());
        }
        object.number("last", receipt.last.get());
        object.number("published", receipt.published).number("already", receipt.already);
        push_watermarks(object, &watermarks);
    }))
}

/// `GET /v1/producers/ID`: the last event of a producer. All through it is visible when the answer comes.
pub(crate) async fn producer(
    State(shared): Gateway,
    Path(name): Path<String>,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let ingress = ingress(&shared)?;
    Params::of(query)?.finish()?;
    let producer = read_producer(&name)?;
    let last = on_blocking_thread(move || ingress.last(producer)).await.map_err(|error| refusal(&error))?;
    let Some(last) = last else {
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "unknown_producer",
            format!("producer {producer} has no event on this tape"),
            "producer",
            "begin with its first event",
        ));
    };
    reached(&shared, last.sequence, Stage::Visible).await?;
    Ok(json(|object| {
        object.id("producer", producer.get()).id("producer_sequence", last.producer_sequence.get());
        object.number("sequence", last.sequence.get());
    }))
}

/// How far every stage is.
pub(super) fn push_watermarks(object: &mut Json<'_>, watermarks: &Watermarks) {
    let mut inner = Json::object(object.key("watermarks"));
    for stage in Stage::ALL {
        inner.number(stage.name(), watermarks.get(stage).get());
    }
    inner.close();
}

pub(super) fn ingress(shared: &Shared) -> Result<Arc<dyn Ingress>, ApiError> {
    shared.ingress.clone().ok_or_else(|| {
        ApiError::new(
            StatusCode::NOT_IMPLEMENTED,
            "publishing_not_offered",
            "this gateway only shows a tape, events cannot be published through it",
            "path",
            "publish at the gateway of the node that sequences the tape",
        )
    })
}

pub(super) fn read_producer(text: &str) -> Result<ProducerId, ApiError> {
    match text.parse() {
        Ok(number) if ProducerId(number) != ProducerId::SEQUENCER => Ok(ProducerId(number)),
        _ => Err(ApiError::bad_request(
            format!("{text:?} is not a producer"),
            "producer",
            format!("give a whole number from 1 to {}", u32::MAX),
        )),
    }
}

pub(super) fn read_stage(params: &mut Params) -> Result<Stage, ApiError> {
    let Some(text) = params.text("wait") else { return Ok(Stage::Visible) };
    Stage::ALL.into_iter().find(|stage| stage.name() == text).ok_or_else(|| {
        let names: Vec<&str> = Stage::ALL.iter().map(|stage| stage.name()).collect();
        ApiError::bad_request(
            format!("there is no stage {text:?}"),
            "wait",
            format!("give one of {}", names.join(", ")),
        )
    })
}

/// What to do with a body of events that is too large.
const SEVERAL: &str = "send its groups in several requests";

fn too_large(limit: usize, what_to_do: &str) -> ApiError {
    let what = format!("the body has more than {limit} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", what, "body", what_to_do)
}

fn check_head(headers: &HeaderMap, bytes_max: usize) -> Result<(), ApiError> {
    if headers.get(CONTENT_TYPE).is_none_or(|found| found != EVENTS) {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "the body does not say that it is events",
            "Content-Type",
            format!("send encoded events as {EVENTS}"),
        ));
    }
    let stated = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if stated.is_some_and(|bytes| bytes > bytes_max as u64) {
        return Err(too_large(bytes_max, SEVERAL));
    }
    Ok(())
}

/// The whole body, where events can be read in place.
pub(super) async fn read_body(
    body: Body,
    shared: &Shared,
    bytes_max: usize,
    if_larger: &str,
) -> Result<AlignedVec<16>, ApiError> {
    let pause_max = shared.limits.write_stall_max;
    let cut =
        |what: String| ApiError::bad_request(what, "body", "send it again: nothing of it was published");
    let mut pieces = body.into_data_stream();
    let mut bytes = AlignedVec::new();
    loop {
        let piece = match tokio::time::timeout(pause_max, pieces.next()).await {
            Ok(None) => return Ok(bytes),
            Ok(Some(Ok(piece))) => piece,
            Ok(Some(Err(error))) => return Err(cut(format!("the body broke off: {error}"))),
            Err(_) => return Err(cut(format!("no more of the body came for {} ms", pause_max.as_millis()))),
        };
        if bytes.len() + piece.len() > bytes_max {
            return Err(too_large(bytes_max, if_larger));
        }
        bytes.extend_from_slice(&piece);
    }
}

/// Checks a body and publishes it. Blocks while the ring is full.
fn put(ingress: &dyn Ingress, producer: ProducerId, bytes: &[u8]) -> Result<Receipt, ApiError> {
    let groups = read_groups(bytes, producer, ingress.group_events_max()).map_err(|error| {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "bad_events",
            error.to_string(),
            "body",
            "nothing of it was published; see /PROTOCOL.md for what a body is",
        )
    })?;
    ingress.publish(producer, &groups).map_err(|error| refusal(&error))
}

pub(super) fn refusal(error: &IngressError) -> ApiError {
    let what = error.to_string();
    match error {
        IngressError::ProducerInUse(_) => ApiError::new(
            StatusCode::CONFLICT,
            "producer_in_use",
            what,
            "producer",
            "publish as another producer",
        ),
        IngressError::TooManyProducers(_) => {
            ApiError::later("too_many_producers", what, "producer", "try again later: nothing was published")
        }
        IngressError::NoSpace => ApiError::later(
            "disk_full",
            what,
            "tape",
            "send the same events again later: those that were accepted before there was no room are not doubled",
        ),
        IngressError::Refused { .. } => ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "group_refused",
            what,
            "body",
            "the groups before it were accepted; /v1/producers/ID tells the last one; of a time that is ahead, compare the clocks \
             (`event_time_skew_ms_max` of [node] is what is allowed)",
        ),
        IngressError::Ended(_) => unknown_outcome(what),
    }
}

fn unknown_outcome(what: String) -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "outcome_unknown",
        what,
        "tape",
        "send the same events again, here or where the tape is led then: those that are there are not doubled",
    )
}

/// Waits until a position has reached a stage, as the gateway's readers see it.
pub(super) async fn reached(
    shared: &Shared,
    sequence: Sequence,
    stage: Stage,
) -> Result<Watermarks, ApiError> {
    let mut tail = shared.tail.clone();
    if stage == Stage::Accepted {
        // It is; the gateway's own copy of the watermarks may not have heard yet.
        let heard = *tail.borrow();
        return Ok(Watermarks { accepted: heard.accepted.max(sequence), ..heard });
    }
    let limit = shared.limits.publish_wait_max;
    match tokio::time::timeout(limit, tail.wait_for(|watermarks| watermarks.get(stage) >= sequence)).await {
        Ok(Ok(watermarks)) => Ok(*watermarks),
        Ok(Err(_)) => {
            Err(unknown_outcome(format!("the tape was closed before sequence {sequence} was {stage}")))
        }
        Err(_) => Err(unknown_outcome(format!(
            "sequence {sequence} is accepted, and not yet {stage} after {} ms",
            limit.as_millis()
        ))),
    }
}
