//! `POST /v1/seal`: seals the log's open segment, so that what is on the tape now can be proven.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use matchtape_node::SealError;

use super::Gateway;
use super::answer::json;
use super::params::Params;
use crate::encode::Json;
use crate::error::ApiError;
use crate::log::on_blocking_thread;

/// Returns when everything that was accepted before is in a sealed segment.
pub(crate) async fn seal(
    State(shared): Gateway,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    Params::of(query)?.finish()?;
    let Some(sealer) = shared.sealer.clone() else {
        return Err(ApiError::new(
            StatusCode::NOT_IMPLEMENTED,
            "sealing_not_offered",
            "this gateway only shows a tape, its log is not sealed through it",
            "path",
            "ask at the gateway of the node that sequences the tape",
        ));
    };
    // One at a time: each may have a file to fill, and the next one mostly finds everything sealed.
    let permit = shared.seals.clone().acquire_owned().await.expect("the semaphore is never closed");
    let limit = shared.limits.publish_wait_max;
    let sealed = on_blocking_thread(move || {
        let sealed = sealer.seal(limit);
        drop(permit);
        sealed
    })
    .await;
    let report = sealed.map_err(|error| refusal(&error))?;
    Ok(json(|object| {
        object.flag("sealed", report.sealed).number("through", report.through.get());
        if let Some(segment) = report.segment {
            let mut inner = Json::object(object.key("segment"));
            inner.number("segment", segment.number.0);
            inner.number("first_sequence", segment.first.get()).number("last_sequence", segment.last.get());
            inner.number("frame_bytes", segment.frame_bytes).word("root", &segment.root.to_string());
            inner.close();
        }
    }))
}

fn refusal(error: &SealError) -> ApiError {
    let what = error.to_string();
    if error.may_pass() {
        return ApiError::later(
            "not_sealed_yet",
            what,
            "tape",
            "ask again: what is sealed by then stays sealed",
        );
    }
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "tape_ended",
        what,
        "tape",
        "ask again when the node was started again; its log says why it ended",
    )
}
