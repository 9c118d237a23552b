//! HTTP under `/v1`, the WebSocket's upgrade, and the page.
//!
//! Read in this order: `params` (what a request says), `answer` (JSON or NDJSON, streamed), then one file per question.

mod answer;
mod book;
pub(crate) mod candles;
mod consumers;
mod events;
mod guard;
mod holds;
mod instruments;
mod metrics;
mod orders;
mod params;
mod publish;
mod seal;
mod state;
mod status;
mod ticker;

use std::sync::Arc;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{OriginalUri, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::error::ApiError;
use crate::gateway::Shared;
use crate::metrics::Metrics;
use crate::{page, ws};

/// Longer words of a refusal are cut.
const REFUSAL_BYTES_MAX: usize = 4096;

/// What every handler gets.
type Gateway = State<Arc<Shared>>;

/// Every route.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let v1 = Router::new()
        .route("/events", get(events::events))
        .route("/trades", get(events::trades))
        .route("/book", get(book::book))
        .route("/candles", get(candles::candles))
        .route("/instruments", get(instruments::instruments))
        .route("/instruments/{instrument}", get(instruments::instrument))
        .route("/orders", get(orders::list))
        .route("/orders/{order}", get(orders::one))
        .route("/ticker", get(ticker::ticker))
        .route("/status", get(ticker::status))
        .route("/state", get(state::list))
        .route("/state/{*key}", get(state::get).put(state::put).delete(state::delete))
        .route("/publish", post(publish::publish))
        .route("/producers/{producer}", get(publish::producer))
        .route("/consumers", get(consumers::list))
        .route(
            "/consumers/{name}",
            get(consumers::info).put(consumers::make).patch(consumers::make).delete(consumers::delete),
        )
        .route("/consumers/{name}/members/{member}", post(consumers::attach))
        .route("/consumers/{name}/sessions/{session}", axum::routing::delete(consumers::detach))
        .route("/consumers/{name}/next", post(consumers::next))
        .route("/consumers/{name}/ack", post(consumers::acknowledge))
        .route("/consumers/{name}/parked", get(consumers::parked))
        .route("/consumers/{name}/unpark", post(consumers::unpark))
        .route("/consumers/{name}/discard", post(consumers::discard))
        .route("/seal", post(seal::seal))
        .route("/holds", get(holds::list))
        .route("/holds/{name}", axum::routing::put(holds::place).delete(holds::lift))
        .route("/watermarks", get(status::watermarks))
        .route("/health", get(status::health))
        .route("/stream", get(stream))
        .fallback(unknown)
        .layer(from_fn_with_state(shared.clone(), count));
    page::routes(Router::new())
        .nest("/v1", v1)
        .route("/metrics", get(metrics::metrics))
        .fallback(unknown)
        .layer(from_fn_with_state(shared.clone(), guard::guard))
        .layer(from_fn(explain))
        .with_state(shared)
}

async fn count(State(shared): Gateway, request: Request, next: Next) -> Response {
    Metrics::count(&shared.metrics.http_requests);
    next.run(request).await
}

/// Says in four fields what axum refuses by itself, in a line of text or none: a method, a body, a query.
async fn explain(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (mut head, body) = next.run(request).await.into_parts();
    let refused = head.status.is_client_error() || head.status.is_server_error();
    let explained = head.headers.get(CONTENT_TYPE).is_some_and(|found| found == "application/json");
    if !refused || explained {
        return Response::from_parts(head, body);
    }
    let text = to_bytes(body, REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let (word, what, place, what_to_do) = match head.status {
        // Which those are is added outside of all layers.
        StatusCode::METHOD_NOT_ALLOWED => {
            ("method_not_allowed", format!("{path} has no {method}"), "method", "use one that `Allow` names")
        }
        StatusCode::PAYLOAD_TOO_LARGE => ("body_too_large", text, "body", "send less at once"),
        _ => ("bad_request", text, "request", "see /PROTOCOL.md for what this path takes"),
    };
    let mut response = ApiError::new(head.status, word, what, place, what_to_do).into_response();
    head.headers.remove(CONTENT_LENGTH);
    for (name, value) in head.headers.iter().filter(|(name, _)| **name != CONTENT_TYPE) {
        response.headers_mut().insert(name, value.clone());
    }
    response
}

async fn unknown(OriginalUri(uri): OriginalUri) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "unknown_path",
        format!("there is nothing at {}", uri.path()),
        "path",
        "the page is at /, the data under /v1: see /PROTOCOL.md",
    )
}

/// The WebSocket.
async fn stream(
    State(shared): Gateway,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(refused) => {
            return ApiError::new(
                StatusCode::UPGRADE_REQUIRED,
                "upgrade_required",
                refused.body_text(),
                "Upgrade",
                "this is a WebSocket: connect to ws://.../v1/stream",
            )
            .into_response();
        }
    };
    let Ok(permit) = shared.connections.clone().try_acquire_owned() else {
        Metrics::count(&shared.metrics.connections_refused);
        return ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_connections",
            format!("{} connections are open", shared.limits.connections_max),
            "connection",
            "try again later, or use one connection for several subscriptions",
        )
        .into_response();
    };
    let limits = &shared.limits;
    let write_buffer = limits.outbound_message_bytes.min(64 * 1024);
    let drain = shared.drain.clone();
    // Twice the limit: what is a little too large is read, and refused with the reason.
    upgrade
        .max_message_size(2 * limits.inbound_bytes_max)
        .max_frame_size(2 * limits.inbound_bytes_max)
        .read_buffer_size(4 * 1024)
        .write_buffer_size(write_buffer)
        .max_write_buffer_size(limits.write_buffer_bytes_max)
        .on_upgrade(move |socket| async move {
            ws::serve(socket, shared, drain).await;
            drop(permit);
        })
}
