//! Answers: one JSON object, or lines that are streamed in pieces while the log is read.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use matchtape_schemas::EventRef;
use matchtape_storage::QueryCursor;

use crate::encode::{Json, Symbols};
use crate::error::ApiError;
use crate::log::LogPool;

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
    ([(CONTENT_TYPE, "application/x-ndjson"), (CACHE_CONTROL, "no-store")], body).into_response()
}

/// Writes one event's row; `false` for an event that has none.
pub(crate) type WriteRow = fn(&mut String, &EventRef<'_>, &Symbols) -> bool;

struct Lines {
    cursor: QueryCursor,
    write: WriteRow,
    symbols: Arc<Symbols>,
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
    cursor: QueryCursor,
    write: WriteRow,
    symbols: Arc<Symbols>,
) -> Response {
    let lines = Lines { cursor, write, symbols, state: LinesState::Reading };
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
    ([(CONTENT_TYPE, "application/x-ndjson"), (CACHE_CONTROL, "no-store")], Body::from_stream(pieces))
        .into_response()
}

impl Lines {
    fn next_piece(&mut self) -> String {
        let mut piece = String::new();
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
                    if (self.write)(&mut piece, &event.event(), &self.symbols) {
                        piece.push('\n');
                    }
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
