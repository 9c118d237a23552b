//! The web page, inside the binary: a few files, no build step, nothing from elsewhere.

use std::sync::Arc;

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::gateway::Shared;

struct File {
    path: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! files {
    ($($path:literal $file:literal $content_type:literal,)*) => {
        const FILES: &[File] = &[$(File {
            path: $path,
            content_type: $content_type,
            bytes: include_bytes!(concat!("../web/", $file)),
        },)*];
    };
}

files! {
    "/" "index.html" "text/html; charset=utf-8",
    "/PROTOCOL.md" "../PROTOCOL.md" "text/markdown; charset=utf-8",
    "/style.css" "style.css" "text/css; charset=utf-8",
    "/favicon.svg" "favicon.svg" "image/svg+xml",
    "/js/app.js" "js/app.js" "text/javascript; charset=utf-8",
    "/js/api.js" "js/api.js" "text/javascript; charset=utf-8",
    "/js/book.js" "js/book.js" "text/javascript; charset=utf-8",
    "/js/candles.js" "js/candles.js" "text/javascript; charset=utf-8",
    "/js/format.js" "js/format.js" "text/javascript; charset=utf-8",
    "/js/stream.js" "js/stream.js" "text/javascript; charset=utf-8",
    "/js/timeline.js" "js/timeline.js" "text/javascript; charset=utf-8",
    "/js/trades.js" "js/trades.js" "text/javascript; charset=utf-8",
    "/js/watermarks.js" "js/watermarks.js" "text/javascript; charset=utf-8",
}

/// Only what this gateway serves, and no other page around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Adds the page's files.
pub(crate) fn routes(router: Router<Arc<Shared>>) -> Router<Arc<Shared>> {
    FILES.iter().fold(router, |router, file| {
        router.route(file.path, get(move |headers: HeaderMap| async move { serve(file, &headers) }))
    })
}

fn serve(file: &File, headers: &HeaderMap) -> Response {
    let tag = format!("\"{:016x}\"", fnv1a(file.bytes));
    let fixed = [
        (CONTENT_TYPE, file.content_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // Asked for anew each time, answered with 304: a new binary shows its own page at once.
        (CACHE_CONTROL, "no-cache"),
    ];
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response();
    }
    (fixed, [(ETAG, tag)], file.bytes).into_response()
}

/// FNV-1a, 64 bits: tells versions of a file apart, nothing more.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_takes_nothing_from_elsewhere() {
        let bytes: usize = FILES.iter().map(|file| file.bytes.len()).sum();
        assert!(bytes < 100 * 1024, "{bytes} bytes");
        for file in FILES {
            let text = std::str::from_utf8(file.bytes).unwrap();
            let elsewhere = text.replace("http://www.w3.org/2000/svg", "").contains("://");
            assert!(!elsewhere || file.path == "/js/stream.js", "{}", file.path);
        }
    }
}
