//! Answers: one JSON object, or lines that are streamed in pieces while the log is read.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::future::ready;
use futures_util::stream::{once, unfold};
use matchtape_client::{Row, push_csv_heading, push_csv_row};
use matchtape_schemas::EventRef;
use matchtape_storage::{PageCursor, PageToken, Query, ReadError, Reader};
use tokio::sync::oneshot;

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
/// From where on an answer has everything, likewise.
const COMPLETE_FROM: HeaderName = HeaderName::from_static("matchtape-complete-from");
/// Text of one piece of a streamed answer.
const PIECE_BYTES: usize = 256 * 1024;
/// Events of one piece.
const PIECE_EVENTS: u64 = 20_000;
/// The first piece is there before the answer begins: it is short.
const FIRST_PIECE_EVENTS: u64 = 100;

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

/// Says in the head from where on the answer has everything, where that is not the tape's beginning.
pub(crate) fn with_complete_from(mut response: Response, from: Option<impl std::fmt::Display>) -> Response {
    if let Some(from) = from {
        let text = HeaderValue::try_from(from.to_string()).expect("a number is digits");
        response.headers_mut().insert(COMPLETE_FROM, text);
    }
    response
}

/// Writes one event's row.
pub(crate) type WriteRow = fn(&mut String, &EventRef<'_>, &Symbols);

/// What a streamed answer is made of: pages, so that between two pieces nothing of the tape is held but a position. However slowly
/// it is read, no memory waits for it.
pub(crate) struct Pages {
    pub reader: Reader,
    pub query: Query,
    /// As in [`Query::digest`].
    pub name: &'static str,
}

struct Lines {
    pages: Pages,
    write: WriteRow,
    symbols: Arc<Symbols>,
    state: LinesState,
}

enum LinesState {
    After(PageToken),
    /// The reading failed: the connection is cut, so that nobody takes what came for the whole. But not before the last piece,
    /// which says why, has been handed to the kernel: what is not by then would be dropped.
    Failed {
        error: String,
        sent: Option<oneshot::Receiver<()>>,
    },
    Done,
}

/// The last piece of an answer that failed. It is dropped when it is written.
struct LastPiece {
    piece: String,
    /// Dropped with it.
    _sent: oneshot::Sender<()>,
}

impl AsRef<[u8]> for LastPiece {
    fn as_ref(&self) -> &[u8] {
        self.piece.as_bytes()
    }
}

/// Streams the answer of a query line by line, from the beginning or after a token. Memory is one piece, however long the answer; a
/// reader that is slow holds no thread. Refused is what the first piece is refused.
pub(crate) async fn stream_lines(
    pool: LogPool,
    pages: Pages,
    after: Option<String>,
    heading: String,
    write: WriteRow,
    symbols: Arc<Symbols>,
) -> Result<Response, ReadError> {
    let content = if heading.is_empty() { NDJSON } else { CSV };
    let mut lines = Lines { pages, write, symbols, state: LinesState::Done };
    let first = pool.run(move || {
        let cursor = lines.pages.page(FIRST_PIECE_EVENTS, after.as_deref())?;
        let first = lines.read(heading, cursor);
        Ok::<_, ReadError>((lines.bytes(first), lines))
    });
    let (first, lines) = first.await?;
    let rest = unfold(lines, move |mut lines| {
        let pool = pool.clone();
        async move {
            match std::mem::replace(&mut lines.state, LinesState::Done) {
                LinesState::Done => None,
                LinesState::Failed { error, sent } => {
                    if let Some(sent) = sent {
                        // Nothing is ever sent: it ends.
                        let _ = sent.await;
                    }
                    Some((Err(std::io::Error::other(error)), lines))
                }
                LinesState::After(token) => {
                    let next = move || {
                        let piece = lines.next_piece(&token);
                        (lines.bytes(piece), lines)
                    };
                    let (piece, lines) = pool.run(next).await;
                    Some((Ok(piece), lines))
                }
            }
        }
    });
    let pieces = once(ready(Ok(first))).chain(rest);
    Ok(([(CONTENT_TYPE, content), (CACHE_CONTROL, "no-store")], Body::from_stream(pieces)).into_response())
}

impl Pages {
    fn page(&self, events: u64, after: Option<&str>) -> Result<PageCursor, ReadError> {
        let query = Query { limit: Some(events), ..self.query.clone() };
        self.reader.page(&query, self.name, after)
    }
}

impl Lines {
    /// A piece as it is sent; of the last one before the connection is cut it is known when it has been.
    fn bytes(&mut self, piece: String) -> Bytes {
        let LinesState::Failed { sent, .. } = &mut self.state else { return Bytes::from(piece) };
        let (sender, receiver) = oneshot::channel();
        *sent = Some(receiver);
        Bytes::from_owner(LastPiece { piece, _sent: sender })
    }

    fn next_piece(&mut self, after: &PageToken) -> String {
        match self.pages.page(PIECE_EVENTS, Some(&after.to_string())) {
            Ok(cursor) => self.read(String::new(), cursor),
            Err(error) => self.fail(String::new(), &error),
        }
    }

    fn read(&mut self, mut piece: String, mut cursor: PageCursor) -> String {
        for event in cursor.by_ref() {
            match event {
                Ok(event) => (self.write)(&mut piece, &event.event(), &self.symbols),
                Err(error) => return self.fail(piece, &error),
            }
            piece.push('\n');
            if piece.len() >= PIECE_BYTES {
                break;
            }
        }
        self.state = cursor.rest().map_or(LinesState::Done, LinesState::After);
        piece
    }

    fn fail(&mut self, mut piece: String, error: &ReadError) -> String {
        let error = ApiError::read(error, "log");
        let mut line = Json::object(&mut piece);
        error.write(&mut line);
        line.close();
        piece.push('\n');
        self.state = LinesState::Failed { error: error.what, sent: None };
        piece
    }
}
