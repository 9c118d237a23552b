//! `/v1/consumers`: durable consumers for members in other processes.
//!
//! A member attaches and gets a session; asking for events or acknowledging with it is its sign of life. Each request for
//! events says which answer was the last to arrive, so that what was in a lost one is given again and meant by no
//! acknowledgement.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use matchtape_client::EventRow;
use matchtape_client::consumers::*;
use matchtape_client::position::parse_time;
use matchtape_node::consumers::{
    AckPolicy, Advisory, Attempt, ConsumerError, ConsumerFilter, ConsumerHandle, ConsumerInfo, ConsumerName,
    Consumers, Definition, DeliverPolicy, Item, MemberId, MemberName,
};
use matchtape_schemas::{EventTime, Kind, KindMask, Sequence, Watermarks};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Gateway;
use super::params::{Params, find_instrument};
use crate::error::ApiError;
use crate::feed::Feed;
use crate::gateway::Shared;
use crate::log::on_blocking_thread;

/// Events of one answer unless the request says otherwise, and at most.
const BATCH: usize = 100;
const BATCH_MAX: usize = 2_000;
/// How long the live feeds, which know the instruments, are waited for.
const FEED_WAIT: Duration = Duration::from_secs(5);
/// The longest a request for events waits.
const WAIT_MS_MAX: u64 = 30_000;
/// The longest a request that does not wait searches the tape for what passes the filter.
const SEARCH_MAX: Duration = Duration::from_secs(10);

/// `GET /v1/consumers`
pub(crate) async fn list(
    State(shared): Gateway,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    Params::of(query)?.finish()?;
    let consumers = offered(&shared)?;
    let consumers = on_blocking_thread(move || consumers.list()).await;
    let consumers = consumers.iter().map(|info| view(info, &shared.feed)).collect();
    Ok(answer(&ConsumerList { consumers }))
}

/// `GET /v1/consumers/{name}`
pub(crate) async fn info(
    State(shared): Gateway,
    Path(name): Path<String>,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    Params::of(query)?.finish()?;
    let (consumers, name) = (offered(&shared)?, named(&name)?);
    let info = on_blocking_thread(move || consumers.info(&name)).await.map_err(refusal)?;
    Ok(answer(&view(&info, &shared.feed)))
}

/// `PUT /v1/consumers/{name}`: makes it. `PATCH`: changes it.
pub(crate) async fn make(
    State(shared): Gateway,
    method: axum::http::Method,
    Path(name): Path<String>,
    query: Query<Vec<(String, String)>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    Params::of(query)?.finish()?;
    let (consumers, name) = (offered(&shared)?, named(&name)?);
    let asked: ConsumerDefinition = read_body(&headers, &body)?;
    if !asked.instruments.is_empty() {
        // Whoever knew an instrument before this request finds it.
        let (mut head, visible) = (shared.feed.head(), shared.reader.visible());
        let caught_up = head.wait_for(|head| head.position >= visible || head.failed.is_some());
        let _ = tokio::time::timeout(FEED_WAIT, caught_up).await;
    }
    let definition = definition(&asked, &shared.feed)?;
    let made = change(&shared, move || match method == axum::http::Method::PATCH {
        true => consumers.update(&name, definition),
        false => consumers.add(&name, definition),
    });
    Ok(answer(&view(&made.await?, &shared.feed)))
}

/// `DELETE /v1/consumers/{name}`
pub(crate) async fn delete(
    State(shared): Gateway,
    Path(name): Path<String>,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    Params::of(query)?.finish()?;
    let (consumers, name) = (offered(&shared)?, named(&name)?);
    change(&shared, move || consumers.delete(&name)).await?;
    Ok(answer(&Settled { settled: 1 }))
}

/// Makes, changes or forgets a consumer: one at a time, on a thread that a full disk may hold for as long as it is full.
async fn change<T: Send + 'static>(
    shared: &Shared,
    work: impl FnOnce() -> Result<T, ConsumerError> + Send + 'static,
) -> Result<T, ApiError> {
    let turn = shared.consumer_changes.clone().acquire_owned();
    let turn = in_time(shared, "consumers_busy", "another consumer is being changed", turn).await?;
    let turn = turn.expect("the semaphore is never closed");
    let work = on_blocking_thread(move || {
        let outcome = work();
        drop(turn);
        outcome
    });
    in_time(shared, "outcome_unknown", "it is not recorded yet", work).await?.map_err(refusal)
}

/// Waits for what is recorded, within limits.
async fn in_time<F: Future>(
    shared: &Shared,
    word: &'static str,
    what: &str,
    work: F,
) -> Result<F::Output, ApiError> {
    let limit = shared.limits.publish_wait_max;
    tokio::time::timeout(limit, work).await.map_err(|_| {
        let what = format!("{what} after {} ms: the disk is slow, or full", limit.as_millis());
        ApiError::later(word, what, "system tape", "ask again: what was done already is not done twice")
    })
}

/// `POST /v1/consumers/{name}/members/{member}`: attaches.
pub(crate) async fn attach(
    State(shared): Gateway,
    Path((name, member)): Path<(String, String)>,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    Params::of(query)?.finish()?;
    let (consumers, name) = (offered(&shared)?, named(&name)?);
    let member: MemberName = member.parse().map_err(|error| refusal(ConsumerError::Definition(error)))?;
    let attach = move || {
        let handle = consumers.attach_remote(&name, &member)?;
        Ok((handle.member().0.to_string(), handle.member_timeout()?))
    };
    let (session, timeout) = on_blocking_thread(attach).await.map_err(refusal)?;
    Ok(answer(&MemberSession { session, member_timeout_ms: milliseconds(timeout) }))
}

/// `DELETE /v1/consumers/{name}/sessions/{session}`: detaches.
pub(crate) async fn detach(
    State(shared): Gateway,
    Path((name, session)): Path<(String, String)>,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    Params::of(query)?.finish()?;
    let handle = handle(&shared, &name, Some(&session))?;
    on_blocking_thread(move || handle.detach()).await;
    Ok(answer(&Settled { settled: 1 }))
}

/// `POST /v1/consumers/{name}/next?session=&received=&batch=&wait_ms=`
pub(crate) async fn next(
    State(shared): Gateway,
    Path(name): Path<String>,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let mut params = Params::of(query)?;
    let session = params.text("session");
    let received = params.id("received")?.unwrap_or(0);
    let batch = params.number("batch", BATCH, BATCH_MAX)?.max(1);
    let wait = Duration::from_millis(params.number("wait_ms", 0, WAIT_MS_MAX)?);
    params.finish()?;
    let _permit = shared.consumer_waits.clone().try_acquire_owned().map_err(|_| {
        ApiError::later(
            "too_many_requests",
            "too many members wait for events at this gateway",
            "connection",
            "try again later",
        )
    })?;
    let mut handle = handle(&shared, &name, session.as_deref())?;
    let ask = move || handle.ask(received).map(|answer| (answer, Arc::new(handle)));
    let (number, handle) = shared.log.run(ask).await.map_err(refusal)?;
    let begun = Instant::now();
    let mut drain = shared.drain.clone();
    loop {
        let reading = Arc::clone(&handle);
        let attempt = move || Ok((reading.attempt(batch)?, reading.member_timeout()?));
        let (attempt, timeout) = shared.log.run(attempt).await.map_err(refusal)?;
        let ready = match attempt {
            Attempt::Items(items) => return Ok(batch_of(&shared, number, &items)),
            Attempt::Wait(ready) => ready,
        };
        let left = wait.saturating_sub(begun.elapsed());
        // A search of the tape is no waiting: it goes on for whoever does not want to wait, too.
        let searching = ready.is_turn() && begun.elapsed() < SEARCH_MAX;
        if left.is_zero() && !searching {
            return Ok(batch_of(&shared, number, &[]));
        }
        // Every attempt is a sign of life: waiting must not look like being gone.
        tokio::select! {
            ready = tokio::time::timeout(left.min(timeout / 3), ready) => {
                if let Ok(outcome) = ready {
                    outcome.map_err(refusal)?;
                }
            }
            _ = drain.wait_for(Option::is_some) => return Ok(batch_of(&shared, number, &[])),
        }
    }
}

/// `POST /v1/consumers/{name}/ack`
pub(crate) async fn acknowledge(
    State(shared): Gateway,
    Path(name): Path<String>,
    query: Query<Vec<(String, String)>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    Params::of(query)?.finish()?;
    let said: Acknowledgement = read_body(&headers, &body)?;
    // Whoever dealt with an event may say so, also after its session has ended.
    let handle = handle(&shared, &name, said.session.as_deref())?;
    let (settled, handle) =
        shared.log.run(move || (settle(&handle, &said).map(|n| (n, said.durable)), handle)).await;
    let (settled, durable) = settled.map_err(refusal)?;
    if durable {
        let recorded = in_time(&shared, "not_recorded_yet", "it is not recorded yet", handle.recorded());
        recorded.await?.map_err(refusal)?;
    }
    Ok(answer(&Settled { settled }))
}

fn settle(handle: &ConsumerHandle, said: &Acknowledgement) -> Result<u32, ConsumerError> {
    let sequences = |list: &[u64]| list.iter().map(|sequence| Sequence(*sequence)).collect::<Vec<_>>();
    let mut settled = handle.ack_each(&sequences(&said.ack))?.settled;
    let delay = Duration::from_millis(said.nak_delay_ms);
    for sequence in sequences(&said.nak) {
        settled += handle.nak(sequence, delay)?.settled;
    }
    for sequence in sequences(&said.in_progress) {
        settled += handle.in_progress(sequence)?.settled;
    }
    for sequence in sequences(&said.term) {
        settled += handle.term(sequence)?.settled;
    }
    Ok(settled)
}

/// `GET /v1/consumers/{name}/parked`
pub(crate) async fn parked(
    State(shared): Gateway,
    Path(name): Path<String>,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    Params::of(query)?.finish()?;
    let (consumers, name) = (offered(&shared)?, named(&name)?);
    let parked = on_blocking_thread(move || consumers.parked(&name)).await.map_err(refusal)?;
    let parked = parked.iter().map(|one| ParkedView {
        sequence: one.sequence.get(),
        deliveries: one.deliveries,
        reason: one.reason.name().to_owned(),
        parked_at: one.at.to_string(),
    });
    Ok(answer(&ParkedList { parked: parked.collect() }))
}

/// `POST /v1/consumers/{name}/unpark?sequence=`: all without one.
pub(crate) async fn unpark(
    state: Gateway,
    name: Path<String>,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    over_parked(state, name, query, Consumers::unpark).await
}

/// `POST /v1/consumers/{name}/discard?sequence=`: all without one.
pub(crate) async fn discard(
    state: Gateway,
    name: Path<String>,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    over_parked(state, name, query, Consumers::discard).await
}

async fn over_parked(
    State(shared): Gateway,
    Path(name): Path<String>,
    query: Query<Vec<(String, String)>>,
    act: fn(&Consumers, &ConsumerName, Option<Sequence>) -> Result<u32, ConsumerError>,
) -> Result<Response, ApiError> {
    let mut params = Params::of(query)?;
    let only = params.id("sequence")?.map(Sequence);
    params.finish()?;
    let (consumers, name) = (offered(&shared)?, named(&name)?);
    let settled = on_blocking_thread(move || act(&consumers, &name, only)).await.map_err(refusal)?;
    Ok(answer(&Settled { settled }))
}

// --- what requests say ---

fn offered(shared: &Shared) -> Result<Consumers, ApiError> {
    shared.consumers.clone().ok_or_else(|| {
        ApiError::new(
            StatusCode::NOT_IMPLEMENTED,
            "consumers_not_offered",
            "this gateway only shows a tape, it keeps no consumers",
            "path",
            "ask the gateway of the node that sequences the tape",
        )
    })
}

fn named(name: &str) -> Result<ConsumerName, ApiError> {
    name.parse().map_err(|error| refusal(ConsumerError::Definition(error)))
}

fn handle(shared: &Shared, name: &str, session: Option<&str>) -> Result<ConsumerHandle, ApiError> {
    // Nobody's is enough to acknowledge.
    let session = session.map_or(Ok(MemberId::NOBODY), |text| {
        text.parse().map(MemberId).map_err(|_| {
            ApiError::bad_request(
                format!("{text:?} is no session"),
                "session",
                "give the one that attaching gave",
            )
        })
    })?;
    offered(shared)?.session(&named(name)?, session).map_err(refusal)
}

fn read_body<T: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, ApiError> {
    let is_json =
        headers.get(CONTENT_TYPE).is_some_and(|found| found.as_bytes().starts_with(b"application/json"));
    if !is_json {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "the body does not say that it is JSON",
            "Content-Type",
            "send application/json",
        ));
    }
    serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(error.to_string(), "body", "see /PROTOCOL.md for its fields"))
}

fn definition(text: &ConsumerDefinition, feed: &Feed) -> Result<Definition, ApiError> {
    let wrong =
        |what: String, place: &str, what_to_do: &str| Err(ApiError::bad_request(what, place, what_to_do));
    let deliver = match (text.deliver.as_str(), text.start_sequence, &text.start_time) {
        ("all", None, None) => DeliverPolicy::All,
        ("last", None, None) => DeliverPolicy::Last,
        ("last_per_instrument", None, None) => DeliverPolicy::LastPerInstrument,
        ("new", None, None) => DeliverPolicy::New,
        ("by_start_sequence", Some(sequence), None) => DeliverPolicy::ByStartSequence(Sequence(sequence)),
        ("by_start_time", None, Some(time)) => match parse_time(time) {
            Ok(nanoseconds) => DeliverPolicy::ByStartTime(EventTime(nanoseconds)),
            Err(what) => return wrong(what, "start_time", "give it in one of these forms"),
        },
        (other, ..) => {
            return wrong(
                format!("{other:?} is no deliver policy, or its start does not go with it"),
                "deliver",
                "give all, last, last_per_instrument, new, by_start_sequence with start_sequence, or by_start_time with start_time",
            );
        }
    };
    let Some(ack) = AckPolicy::EVERY.into_iter().find(|policy| policy.name() == text.ack) else {
        return wrong(format!("{:?} is no ack policy", text.ack), "ack", "give none, all or explicit");
    };
    let mut kinds = if text.kinds.is_empty() { KindMask::ALL } else { KindMask::NONE };
    for name in &text.kinds {
        let one = Kind::from_name(name).map(|kind| KindMask::of(&[kind])).or_else(|| KindMask::topic(name));
        match one {
            Some(one) => kinds = kinds.with(one),
            None => {
                let names = "name kinds (trade_matched, ...) or topics (orders, trades, market, accounts, state, control)";
                return wrong(format!("there is no kind {name:?}"), "kinds", names);
            }
        }
    }
    let instruments =
        text.instruments.iter().map(|symbol| find_instrument(symbol, feed)).collect::<Result<_, _>>()?;
    Ok(Definition {
        deliver,
        filter: ConsumerFilter { kinds, instruments },
        ack,
        ack_wait: Duration::from_millis(text.ack_wait_ms),
        backoff: text.backoff_ms.iter().map(|step| Duration::from_millis(*step)).collect(),
        max_deliver: text.max_deliver,
        max_ack_pending: text.max_ack_pending,
        members_max: text.members_max,
        member_timeout: Duration::from_millis(text.member_timeout_ms),
        description: text.description.clone(),
    })
}

// --- what answers say ---

fn answer<T: Serialize>(value: &T) -> Response {
    let mut body = serde_json::to_string(value).expect("flat values of texts and numbers are JSON");
    body.push('\n');
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], body).into_response()
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn view(info: &ConsumerInfo, feed: &Feed) -> ConsumerView {
    let (asked, stands) = (&info.definition, &info.machine);
    let symbols = feed.symbols();
    let (mut start_sequence, mut start_time) = (None, None);
    match asked.deliver {
        DeliverPolicy::ByStartSequence(sequence) => start_sequence = Some(sequence.get()),
        DeliverPolicy::ByStartTime(time) => start_time = Some(time.to_string()),
        DeliverPolicy::All | DeliverPolicy::Last | DeliverPolicy::LastPerInstrument | DeliverPolicy::New => {}
    }
    let kinds = Kind::ALL
        .iter()
        .filter(|kind| asked.filter.kinds != KindMask::ALL && asked.filter.kinds.contains(**kind));
    let instruments = asked.filter.instruments.iter();
    let definition = ConsumerDefinition {
        deliver: asked.deliver.name().to_owned(),
        start_sequence,
        start_time,
        kinds: kinds.map(|kind| kind.name().to_owned()).collect(),
        instruments: instruments
            .map(|id| symbols.get(*id).map_or_else(|| id.to_string(), str::to_owned))
            .collect(),
        ack: asked.ack.name().to_owned(),
        ack_wait_ms: milliseconds(asked.ack_wait),
        backoff_ms: asked.backoff.iter().map(|step| milliseconds(*step)).collect(),
        max_deliver: asked.max_deliver,
        max_ack_pending: asked.max_ack_pending,
        members_max: asked.members_max,
        member_timeout_ms: milliseconds(asked.member_timeout),
        description: asked.description.clone(),
    };
    let member = |one: &matchtape_node::consumers::MemberInfo| MemberView {
        member: one.name.clone(),
        ack_pending: one.pending,
    };
    ConsumerView {
        name: info.name.to_string(),
        definition,
        first: stands.first.get(),
        next: stands.next.get(),
        ack_floor: stands.floor.get(),
        visible: info.visible.get(),
        delivered: stands.delivered,
        ack_pending: stands.out,
        waiting: stands.waiting,
        parked: stands.parked,
        members: stands.members.iter().map(member).collect(),
        advisories: info
            .advisories
            .iter()
            .map(|(time, one)| AdvisoryView { time: Some(time.to_string()), ..advisory(one) })
            .collect(),
    }
}

fn advisory(one: &Advisory) -> AdvisoryView {
    let (first, last) = match one {
        Advisory::Parked { sequence, .. }
        | Advisory::ParkedFull { sequence }
        | Advisory::Terminated { sequence, .. } => (Some(*sequence), Some(*sequence)),
        Advisory::Lost { first, last } => (Some(*first), Some(*last)),
        Advisory::PulledBack { to, .. } => (Some(*to), None),
        Advisory::MemberLost { .. } => (None, None),
    };
    AdvisoryView {
        advisory: one.name().to_owned(),
        what: one.to_string(),
        first: first.map(Sequence::get),
        last: last.map(Sequence::get),
        time: None,
    }
}

fn batch_of(shared: &Shared, number: u64, items: &[Item]) -> Response {
    let symbols = shared.feed.symbols();
    let item = |item: &Item| match item {
        Item::Advisory(one) => ConsumerItem::Advisory(advisory(one)),
        Item::Delivery(delivery) => {
            let event = delivery.event();
            ConsumerItem::Delivery(Box::new(DeliveryView {
                consumer_sequence: delivery.consumer_sequence(),
                delivery_count: delivery.delivery_count(),
                redelivered: delivery.redelivered(),
                event: EventRow::public(&event, symbols.get(event.instrument())),
            }))
        }
    };
    let items = items.iter().map(item).collect();
    answer(&ConsumerBatch { answer: number, items, watermarks: watermarks(shared).into() })
}

/// After the items were read: all of them are visible by these.
fn watermarks(shared: &Shared) -> Watermarks {
    let of_tape = shared.consumers.as_ref().map(Consumers::watermarks).unwrap_or_default();
    Watermarks { visible: of_tape.visible.max(shared.reader.visible()), ..of_tape }
}

fn refusal(error: ConsumerError) -> ApiError {
    let what = error.to_string();
    let new = |status, word, place: &str, what_to_do: &str| {
        ApiError::new(status, word, what.clone(), place, what_to_do)
    };
    match error {
        ConsumerError::Unknown(_) => new(
            StatusCode::NOT_FOUND,
            "unknown_consumer",
            "name",
            "/v1/consumers lists them; PUT makes one (`matchtape consumer add`)",
        ),
        ConsumerError::Exists(_) => new(
            StatusCode::CONFLICT,
            "consumer_exists",
            "name",
            "change it with PATCH (`matchtape consumer add --update`), or choose another name",
        ),
        ConsumerError::TooMany(_) => {
            new(StatusCode::CONFLICT, "too_many_consumers", "name", "delete those nobody uses")
        }
        ConsumerError::Deleted(_) => {
            new(StatusCode::GONE, "consumer_deleted", "name", "make it again if it is still wanted")
        }
        ConsumerError::Definition(error) => ApiError::bad_request(what, error.field, "see /PROTOCOL.md"),
        ConsumerError::Attach(_) => new(
            StatusCode::CONFLICT,
            "members_full",
            "member",
            "detach a member, or allow more with members_max",
        ),
        ConsumerError::NotAttached => new(
            StatusCode::CONFLICT,
            "not_attached",
            "session",
            "attach again: what was not acknowledged comes again",
        ),
        ConsumerError::Superseded => new(
            StatusCode::CONFLICT,
            "superseded",
            "session",
            "a member has one request for events at a time: wait for the later one's answer",
        ),
        ConsumerError::Answer(_) => new(
            StatusCode::CONFLICT,
            "unknown_answer",
            "received",
            "say the `answer` of the last answer that arrived in this session; 0 before the first",
        ),
        ConsumerError::Ack(_) => new(
            StatusCode::CONFLICT,
            "ack_refused",
            "body",
            "what came before it in the request was done; acknowledge only what was delivered",
        ),
        ConsumerError::BelowRetention { asked, first_kept } => {
            ApiError::below_retention(asked, first_kept, "start_sequence")
        }
        ConsumerError::NoSpace => ApiError::later("disk_full", what, "name", "ask again when there is room"),
        ConsumerError::Read(error) => ApiError::read(&error, "consumer"),
        ConsumerError::Recording(_) | ConsumerError::Decode(_) => new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "not_recorded",
            "system tape",
            "tell operations: the node has to be opened again; what was acknowledged last comes again",
        ),
        ConsumerError::Closed => ApiError::later("closed", what, "tape", "ask again when the node is back"),
    }
}
