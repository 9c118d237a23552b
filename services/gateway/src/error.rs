//! What an outsider is told when something cannot be done: the same four fields on HTTP and WebSocket.

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use matchtape_client::as_of::AsOfError;
use matchtape_client::time::rfc3339;
use matchtape_schemas::Sequence;
use matchtape_storage::{PageTokenError, ReadError};

use crate::encode::Json;

/// A request that is not answered, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    /// A stable word.
    pub(crate) error: &'static str,
    pub(crate) what: String,
    /// The parameter, field or file concerned.
    pub(crate) place: String,
    pub(crate) what_to_do: String,
    /// The first event there is, where that is the point.
    pub(crate) first_kept: Option<Sequence>,
    /// The same request may be answered after so many seconds.
    pub(crate) retry_after_s: Option<u32>,
}

impl ApiError {
    pub(crate) fn new(
        status: StatusCode,
        error: &'static str,
        what: impl Into<String>,
        place: impl Into<String>,
        what_to_do: impl Into<String>,
    ) -> Self {
        Self {
            status,
            error,
            what: what.into(),
            place: place.into(),
            what_to_do: what_to_do.into(),
            first_kept: None,
            retry_after_s: None,
        }
    }

    /// Not now; the same request may be answered a little later.
    pub(crate) fn later(
        error: &'static str,
        what: impl Into<String>,
        place: impl Into<String>,
        what_to_do: impl Into<String>,
    ) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { retry_after_s: Some(1), ..Self::new(status, error, what, place, what_to_do) }
    }

    pub(crate) fn bad_request(
        what: impl Into<String>,
        place: impl Into<String>,
        what_to_do: impl Into<String>,
    ) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", what, place, what_to_do)
    }

    pub(crate) fn unknown_symbol(symbol: &str, place: impl Into<String>) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown_symbol",
            format!("no instrument is called {symbol:?}"),
            place,
            "take a symbol from /v1/instruments",
        )
    }

    pub(crate) fn below_retention(asked: Sequence, first_kept: Sequence, place: impl Into<String>) -> Self {
        Self {
            first_kept: Some(first_kept),
            ..Self::new(
                StatusCode::GONE,
                "below_retention",
                format!("sequence {asked} is not kept any more"),
                place,
                format!("start at sequence {first_kept}, and take what is before it from an archive"),
            )
        }
    }

    /// A state as of a position that is not there yet.
    pub(crate) fn beyond_head(asked: Sequence, visible: Sequence) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "beyond_head",
            format!("sequence {asked} is not visible yet, the tape ends at {visible}"),
            "at",
            "ask for an earlier one, or leave it out for the end",
        )
    }

    /// A failed read of the log. `place` names what was asked for.
    pub(crate) fn read(error: &ReadError, place: &str) -> Self {
        match error {
            ReadError::BelowRetention { asked, first_kept } => {
                Self::below_retention(*asked, *first_kept, place)
            }
            ReadError::TimeBelowRetention { asked, dropped_through, first_kept } => Self {
                what: format!(
                    "events of {} may be among those that are not kept any more, which go through {}",
                    rfc3339(asked.get()),
                    rfc3339(dropped_through.get())
                ),
                ..Self::below_retention(first_kept.previous(), *first_kept, place)
            },
            ReadError::Token(token) => Self::token(token),
            ReadError::Query(what) => Self::bad_request(*what, place, "ask for something that there can be"),
            other => {
                tracing::error!(error = %other, "a read failed");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "read_failed",
                    other.to_string(),
                    // Nothing that was asked is the reason.
                    "tape",
                    "tell operations: `matchtape verify` shows what is damaged",
                )
            }
        }
    }

    /// A cursor that is not one of this question, or of this tape.
    pub(crate) fn token(error: &PageTokenError) -> Self {
        let (status, word) = match error {
            PageTokenError::Malformed | PageTokenError::OtherQuestion => {
                (StatusCode::BAD_REQUEST, "bad_cursor")
            }
            PageTokenError::OtherTape { .. } => (StatusCode::CONFLICT, "other_tape"),
            PageTokenError::Ahead { .. } => (StatusCode::CONFLICT, "beyond_head"),
        };
        let what_to_do = "give `next` as it came, with the same parameters; without a cursor it begins anew";
        Self::new(status, word, error.to_string(), "cursor", what_to_do)
    }

    /// A state that cannot be rebuilt. `place` names what was asked for.
    pub(crate) fn as_of(error: &AsOfError, place: &str) -> Self {
        match error {
            AsOfError::Read(error) => Self::read(error, place),
            AsOfError::HistoryGone { asked, first_kept, .. } => {
                Self { what: error.to_string(), ..Self::below_retention(*asked, *first_kept, place) }
            }
        }
    }

    /// Writes the fields into an object.
    pub(crate) fn write(&self, object: &mut Json<'_>) {
        object.word("error", self.error).text("what", &self.what).text("where", &self.place);
        object.text("what_to_do", &self.what_to_do);
        if let Some(first_kept) = self.first_kept {
            object.number("first_kept", first_kept.get());
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = String::new();
        let mut object = Json::object(&mut body);
        self.write(&mut object);
        object.close();
        body.push('\n');
        let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
        let mut response = (self.status, headers, body).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}
