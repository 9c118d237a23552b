//! Answers: one JSON object, or lines that are streamed in pieces while the log is read.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use matchtape_client::{Row, push_csv_heading, push_csv_row};
use matchtape_schemas::EventRef;
use matchtape_storage::{PageCursor, PageToken};

use super::params::Format;
use crate::encode::{Json, Symbols};
use crate::error::ApiError;
use crate::log::LogPool;

/// JSON, a row per line.
pub(crate) const NDJSON: &str = "application/x-ndjson";
/// A heading, and a row per line.
pub(crate) const CSV: &str = "text/csv; charset=utf-8";
/// Where the next page begins, of answers whose body has no place for it.
const NEXT: HeaderName = HeaderName::from_static("matchtape-next");
/// Text of one piece of a streamed answer.
const PIECE_BYTES: usize = 256 * 1024;
/// Events looked at for one piece.
const PIECE_EVENTS: usize = 20_000;

/// One JSON object.
pub(crate) fn json(write: impl FnOnce(&mut Json<'_>)) -> Response {
    let mut body = String::new();
    let mut object = Json::object(&mut body);
    write(&mut object);
    object.close();
    body.push('\n');
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], body).into_response()
}

/// Lines that are there already.
pub(crate) fn lines(body: String) -> Response {
    ([(CONTENT_TYPE, NDJSON), (CACHE_CONTROL, "no-store")], body).into_response()
}

/// Rows as lines of JSON or, with a heading, of CSV.
pub(crate) fn rows<R: Row>(format: Format, rows: impl Iterator<Item = R>) -> Response {
    let mut body = String::new();
    if format == Format::Csv {
        push_csv_heading::<R>(&mut body);
        rows.for_each(|row| push_csv_row(&mut body, &row));
        return ([(CONTENT_TYPE, CSV), (CACHE_CONTROL, "no-store")], body).into_response();
    }
    for row in rows {
        body.push_str(&row_json(&row));
        body.push('\n');
    }
    lines(body)
}

/// A row as JSON.
pub(crate) fn row_json(row: &impl Row) -> String {
    serde_json::to_string(row).expect("a flat row of texts and numbers is JSON")
}

/// Says in the head where the next page begins.
pub(crate) fn with_next(mut response: Response, next: Option<&PageToken>) -> Response {
    if let Some(next) = next {
        let text = HeaderValue::try_from(next.to_string()).expect("a token is hexadecimal digits");
        response.headers_mut().insert(NEXT, text);
    }
    response
}

/// Writes one event's row.
pub(crate) type WriteRow = fn(&mut String, &EventRef<'_>, &Symbols);

struct Lines {
    cursor: PageCursor,
    write: WriteRow,
    symbols: Arc<Symbols>,
    /// What comes before the first row.
    begin: String,
    state: LinesState,
}

enum LinesState {
    Reading,
    /// The reading failed: the connection is cut, so that nobody takes what came for the whole.
    Failed(String),
    Done,
}

/// Streams the answer of a query line by line. Memory is one piece, however long the answer; a reader that is slow holds
/// no thread.
pub(crate) fn stream_lines(
    pool: LogPool,
    cursor: PageCursor,
    heading: String,
    write: WriteRow,
    symbols: Arc<Symbols>,
) -> Response {
    let content = if heading.is_empty() { NDJSON } else { CSV };
    let lines = Lines { cursor, write, symbols, begin: heading, state: LinesState::Reading };
    let pieces = unfold(lines, move |mut lines| {
        let pool = pool.clone();
        async move {
            match std::mem::replace(&mut lines.state, LinesState::Reading) {
                LinesState::Done => return None,
                LinesState::Failed(error) => {
                    lines.state = LinesState::Done;
                    return Some((Err(std::io::Error::other(error)), lines));
                }
                LinesState::Reading => {}
            }
            let (piece, lines) = pool.run(move || (lines.next_piece(), lines)).await;
            Some((Ok(Bytes::from(piece)), lines))
        }
    });
    ([(CONTENT_TYPE, content), (CACHE_CONTROL, "no-store")], Body::from_stream(pieces)).into_response()
}

impl Lines {
    fn next_piece(&mut self) -> String {
        let mut piece = std::mem::take(&mut self.begin);
        for _ in 0..PIECE_EVENTS {
            if piece.len() >= PIECE_BYTES {
                break;
            }
            match self.cursor.next() {
                None => {
                    self.state = LinesState::Done;
                    break;
                }
                Some(Ok(event)) => {
                    (self.write)(&mut piece, &event.event(), &self.symbols);
                    piece.push('\n');
                }
                Some(Err(error)) => {
                    let error = ApiError::read(&error, "log");
                    let mut line = Json::object(&mut piece);
                    error.write(&mut line);
                    line.close();
                    piece.push('\n');
                    self.state = LinesState::Failed(error.what);
                    break;
                }
            }
        }
        piece
    }
}
