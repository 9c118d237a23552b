//! `/v1/watermarks`, `/v1/health`, `/metrics`: how far the tape has come, and whether all is well.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use matchtape_schemas::Stage;
use matchtape_storage::Intake;

use super::Gateway;
use super::answer::json;
use crate::encode::Json;

/// `/v1/watermarks`
pub(crate) async fn watermarks(State(shared): Gateway) -> Response {
    let watermarks = *shared.tail.borrow();
    let position = shared.feed.head().borrow().position;
    let first_kept = shared.reader.first_kept();
    json(|object| {
        object.word("tape", &format!("{:016x}", shared.reader.tape().get()));
        object.number("first_kept", first_kept.get());
        for stage in Stage::ALL {
            object.number(stage.name(), watermarks.get(stage).get());
        }
        object.number("feed", position.get());
    })
}

/// `/v1/health`: 200 while the feeds go on, 503 when they do not.
pub(crate) async fn health(State(shared): Gateway) -> Response {
    let head = shared.feed.head().borrow().clone();
    let visible = shared.reader.visible();
    let behind = visible.get().saturating_sub(head.position.get());
    let (status, word) = match &head.failed {
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
        None if head.ended => (StatusCode::SERVICE_UNAVAILABLE, "tape_closed"),
        None => (StatusCode::OK, "ok"),
    };
    let mut response = json(|object| {
        object.word("status", word);
        if let Some(why) = &head.failed {
            object.text("what", why);
        }
        object.number("visible", visible.get()).number("feed", head.position.get()).number("behind", behind);
        object.number("uptime_ms", shared.started.elapsed().as_millis() as u64);
        if let Some(intake) = &shared.intake {
            let Intake { slowed_permille, reason, what, pressure } = intake.look();
            let mut inner = Json::object(object.key("intake"));
            inner.number("slowed_permille", slowed_permille.into()).word("reason", reason);
            if !what.is_empty() {
                inner.text("what", &what);
            }
            inner.number("unindexed_bytes", pressure.unindexed_bytes);
            inner
                .number("unflushed_bytes", pressure.unflushed_bytes)
                .number("limit_bytes", pressure.limit_bytes);
            inner.number("level0_tables", pressure.level0_tables);
            inner.number("level0_tables_max", pressure.level0_tables_max);
            inner.close();
        }
    });
    *response.status_mut() = status;
    response
}

/// `/metrics`, in the Prometheus text format.
pub(crate) async fn metrics(State(shared): Gateway) -> Response {
    let mut out = String::new();
    shared.metrics.write(&mut out);
    let watermarks = *shared.tail.borrow();
    out.push_str(
        "# HELP matchtape_watermark_sequence The highest sequence that has reached each stage.\n\
         # TYPE matchtape_watermark_sequence gauge\n",
    );
    for stage in Stage::ALL {
        let sequence = watermarks.get(stage);
        out.push_str(&format!("matchtape_watermark_sequence{{stage=\"{stage}\"}} {sequence}\n"));
    }
    let position = shared.feed.head().borrow().position;
    let open = shared.limits.connections_max - shared.connections.available_permits();
    out.push_str(&format!(
        "# HELP matchtape_gateway_feed_sequence How far the live feeds have come.\n\
         # TYPE matchtape_gateway_feed_sequence gauge\nmatchtape_gateway_feed_sequence {position}\n\
         # HELP matchtape_gateway_connections WebSocket connections open now.\n\
         # TYPE matchtape_gateway_connections gauge\nmatchtape_gateway_connections {open}\n"
    ));
    if let Some(intake) = &shared.intake {
        let share = f64::from(intake.look().slowed_permille) / 1000.0;
        out.push_str(&format!(
            "# HELP matchtape_intake_slowed_ratio How much of the time no events are taken, 0 to 1.\n\
             # TYPE matchtape_intake_slowed_ratio gauge\nmatchtape_intake_slowed_ratio {share}\n"
        ));
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], out).into_response()
}
