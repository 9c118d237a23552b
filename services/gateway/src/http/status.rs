//! `/v1/watermarks`, `/v1/health`: how far the tape has come, and whether all is well.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use matchtape_node::{EndedPart, NodeGauge, WaitError};
use matchtape_schemas::Stage;
use matchtape_storage::{Amplification, Intake, ScrubMarks};

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

/// `/v1/health`: 200 while the feeds go on and neither the log nor a part of the node has ended early, else 503. Damaged files and
/// a full disk are `degraded` too, but with 200: whatever does not need them is served, and a balancer that took the node away
/// for them would take that away as well.
pub(crate) async fn health(State(shared): Gateway) -> Response {
    let head = shared.feed.head().borrow().clone();
    let visible = shared.reader.visible();
    let behind = visible.get().saturating_sub(head.position.get());
    let poisoned = shared.gauge.as_ref().and_then(NodeGauge::ended).filter(|why| *why == WaitError::Poisoned);
    let ended = shared.gauge.as_ref().map(NodeGauge::ended_parts).unwrap_or_default();
    let scrub = shared.gauge.as_ref().map(NodeGauge::scrub);
    let damaged = scrub.as_ref().is_some_and(|marks| !marks.damaged.is_empty());
    let intake = shared.gauge.as_ref().map(|gauge| gauge.store().intake());
    let full = intake.as_ref().filter(|intake| intake.reason == "no_space").map(|intake| &intake.what);
    let (status, word) = match &head.failed {
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
        None if poisoned.is_some() => (StatusCode::SERVICE_UNAVAILABLE, "poisoned"),
        None if head.ended => (StatusCode::SERVICE_UNAVAILABLE, "tape_closed"),
        None if !ended.is_empty() => (StatusCode::SERVICE_UNAVAILABLE, "degraded"),
        None if damaged || full.is_some() => (StatusCode::OK, "degraded"),
        None => (StatusCode::OK, "ok"),
    };
    let mut response = json(|object| {
        object.word("status", word);
        match (&head.failed, poisoned) {
            (Some(why), _) => _ = object.text("what", why),
            (None, Some(why)) => _ = object.text("what", &why.to_string()),
            (None, None) => {
                if let Some(why) = full {
                    object.text(
                        "what",
                        &format!("the disk is full, no events are taken until there is room: {why}"),
                    );
                }
            }
        }
        if !ended.is_empty() {
            let mut inner = Json::object(object.key("ended"));
            for EndedPart { part, why } in &ended {
                inner.text(part, why);
            }
            inner.close();
        }
        object.number("visible", visible.get()).number("feed", head.position.get()).number("behind", behind);
        object.number("uptime_ms", shared.started.elapsed().as_millis() as u64);
        if let Some(Intake { slowed_permille, reason, what, pressure }) = &intake {
            let mut inner = Json::object(object.key("intake"));
            inner.number("slowed_permille", (*slowed_permille).into()).word("reason", reason);
            if !what.is_empty() {
                inner.text("what", what);
            }
            inner.number("unindexed_bytes", pressure.unindexed_bytes);
            inner
                .number("unflushed_bytes", pressure.unflushed_bytes)
                .number("limit_bytes", pressure.limit_bytes);
            inner.number("level0_tables", pressure.level0_tables);
            inner.number("level0_tables_max", pressure.level0_tables_max);
            inner.close();
        }
        if let Some(gauge) = &shared.gauge {
            push_amplification(object.key("amplification"), &gauge.store().amplification());
        }
        if let Some(marks) = &scrub {
            push_scrub(object.key("scrub"), marks);
        }
    });
    *response.status_mut() = status;
    response
}

/// Ratios to two digits behind the point; left out where nothing was flushed yet.
fn push_amplification(out: &mut String, amplification: &Amplification) {
    let mut inner = Json::object(out);
    for (name, ratio) in [("space", amplification.space), ("write", amplification.write)] {
        if let Some(ratio) = ratio {
            inner.key(name).push_str(&format!("{ratio:.2}"));
        }
    }
    inner.number("tables_per_lookup", amplification.tables_per_lookup).close();
}

/// Damaged files that are listed; all of them are counted.
const DAMAGED_MAX: usize = 16;

fn push_scrub(out: &mut String, marks: &ScrubMarks) {
    let mut scrub = Json::object(out);
    scrub.number("rounds", marks.rounds).number("files", marks.files).number("bytes", marks.bytes);
    scrub.number("unread_files", marks.unread_files).number("damaged_files", marks.damaged.len() as u64);
    let list = scrub.key("damaged");
    list.push('[');
    for (at, finding) in marks.damaged.iter().take(DAMAGED_MAX).enumerate() {
        if at > 0 {
            list.push(',');
        }
        let mut inner = Json::object(list);
        inner.text("file", &finding.file);
        if let Some(offset) = finding.offset {
            inner.number("offset", offset);
        }
        inner.text("what", &finding.what);
        inner.close();
    }
    list.push(']');
    scrub.close();
}
