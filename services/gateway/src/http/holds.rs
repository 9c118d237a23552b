//! `/v1/holds`: legal holds of the running node.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use matchtape_node::{HoldFrom, HoldReport, Holds, HoldsError};
use matchtape_schemas::Sequence;
use matchtape_storage::{HoldError, PinError};

use super::Gateway;
use super::answer::json;
use super::params::Params;
use crate::encode::Json;
use crate::error::ApiError;
use crate::gateway::Shared;
use crate::log::on_blocking_thread;

/// `GET /v1/holds`
pub(crate) async fn list(
    State(shared): Gateway,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    Params::of(query)?.finish()?;
    let listed = with_holds(&shared, |holds| holds.list()).await?;
    Ok(json(|object| {
        let out = object.key("holds");
        out.push('[');
        for (at, hold) in listed.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            let mut inner = Json::object(out);
            inner.text("name", &hold.name).number("from", hold.from.get()).id("placed_at", hold.placed.get());
            inner.close();
        }
        out.push(']');
    }))
}

/// `PUT /v1/holds/{name}?from=`: places it, or moves it back.
pub(crate) async fn place(
    State(shared): Gateway,
    Path(name): Path<String>,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let mut params = Params::of(query)?;
    let from = match params.text("from").as_deref() {
        None => HoldFrom::FirstKept,
        Some("end") => HoldFrom::End,
        Some(text) => HoldFrom::Sequence(Sequence(text.parse().map_err(|_| {
            ApiError::bad_request(
                format!("{text:?} is neither a sequence nor end"),
                "from",
                "give the first event that has to stay, end for the next one, or leave it out for the first there is",
            )
        })?)),
    };
    params.finish()?;
    let asked = name.clone();
    Ok(changed(&name, with_holds(&shared, move |holds| holds.place(&asked, from)).await?))
}

/// `DELETE /v1/holds/{name}`: lifts it.
pub(crate) async fn lift(
    State(shared): Gateway,
    Path(name): Path<String>,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    Params::of(query)?.finish()?;
    let asked = name.clone();
    Ok(changed(&name, with_holds(&shared, move |holds| holds.lift(&asked)).await?))
}

/// One request at a time: each may wait for a disk, and the next one for it.
async fn with_holds<T: Send + 'static>(
    shared: &Shared,
    work: impl FnOnce(&Holds) -> Result<T, HoldsError> + Send + 'static,
) -> Result<T, ApiError> {
    let Some(holds) = shared.holds.clone() else {
        return Err(ApiError::new(
            StatusCode::NOT_IMPLEMENTED,
            "holds_not_offered",
            "this gateway only shows a tape, it keeps no legal holds",
            "path",
            "ask the gateway of the node that sequences the tape",
        ));
    };
    let permit = shared.hold_requests.clone().acquire_owned().await.expect("the semaphore is never closed");
    let outcome = on_blocking_thread(move || {
        let outcome = work(&holds);
        drop(permit);
        outcome
    });
    outcome.await.map_err(refusal)
}

fn changed(name: &str, report: HoldReport) -> Response {
    match report.from {
        Some(from) => tracing::info!("legal hold {name:?} keeps everything from sequence {from} on"),
        None => tracing::info!("legal hold {name:?} is lifted"),
    }
    json(|object| {
        object.text("name", name);
        if let Some(from) = report.from {
            object.number("from", from.get());
        }
        object.number("last", report.last.get());
    })
}

fn refusal(error: HoldsError) -> ApiError {
    let what = error.to_string();
    match error {
        HoldsError::Unknown(_) => {
            ApiError::new(StatusCode::NOT_FOUND, "unknown_hold", what, "name", "/v1/holds lists them")
        }
        HoldsError::Closed => ApiError::later("closed", what, "tape", "ask again when the node is back"),
        HoldsError::Refused(HoldError::Pin(PinError::BelowRetention { asked, first_kept })) => ApiError {
            what,
            what_to_do: format!(
                "a hold from sequence {first_kept} on keeps all that is left; what is before it may be in a backup"
            ),
            ..ApiError::below_retention(asked, first_kept, "from")
        },
        HoldsError::Refused(HoldError::Beyond { .. }) => ApiError::new(
            StatusCode::NOT_FOUND,
            "beyond_head",
            what,
            "from",
            "from=end holds what comes from now on",
        ),
        HoldsError::Refused(HoldError::Forward { .. }) => ApiError::new(
            StatusCode::CONFLICT,
            "hold_keeps_more",
            what,
            "from",
            "nothing was changed; a further hold has another name, and DELETE lifts this one",
        ),
        HoldsError::Refused(HoldError::Pin(_) | HoldError::Characters) => {
            ApiError::bad_request(what, "name", "choose another name")
        }
        HoldsError::Refused(HoldError::Flush(error)) if error.may_pass() => {
            ApiError::later("disk_full", what, "tape", "ask again when there is room; nothing was changed")
        }
        HoldsError::Refused(HoldError::Flush(_)) => ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "outcome_unknown",
            what,
            "tape",
            "nothing is dropped meanwhile; when the node was started again, /v1/holds says whether it is there",
        ),
    }
}
