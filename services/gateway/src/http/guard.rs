//! Who may ask: browsers only from this gateway's own page, or from that of a proxy in front which is configured by name.
//!
//! The gateway asks nobody who they are, so a page of another site in the same browser must not get to it: not under its
//! own origin (a WebSocket is not bound by the same-origin policy), and not by making its own name point to loopback.

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Gateway;
use crate::error::ApiError;

pub(crate) async fn guard(State(shared): Gateway, request: Request, next: Next) -> Response {
    match check(request.headers(), &shared.hosts) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn check(headers: &HeaderMap, hosts: &[String]) -> Result<(), ApiError> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let refused = |error, what: String, place| {
        ApiError::new(
            StatusCode::FORBIDDEN,
            error,
            what,
            place,
            "open the page at the address the gateway printed, or at that of a proxy in front whose name its configuration has \
             (`hosts` of [gateway])",
        )
    };
    let Some(host) = text(HOST) else {
        return Err(refused("host_missing", "the request names no host".to_owned(), "Host"));
    };
    let is_configured = |name: &str| hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name));
    let name = without_port(host);
    if !is_loopback(name) && !is_configured(name) {
        return Err(refused("host_refused", format!("this gateway is not {host:?}"), "Host"));
    }
    let Some(origin) = text(ORIGIN) else { return Ok(()) };
    let origin_host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    // A proxy may pass the name on under which it was asked, or put the gateway's own there.
    let may = origin_host.is_some_and(|origin_host| {
        origin_host.eq_ignore_ascii_case(host) || is_configured(without_port(origin_host))
    });
    if may { Ok(()) } else { Err(refused("origin_refused", format!("a page of {origin} may not"), "Origin")) }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) && !name.ends_with(':') => {
            name
        }
        _ => host,
    }
}

fn is_loopback(name: &str) -> bool {
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        check(&headers, &["tape.example".to_owned()]).is_ok()
    }

    #[test]
    fn only_loopback_and_configured_hosts_pass_and_only_their_own_pages() {
        for host in ["localhost", "localhost:7410", "127.0.0.1:7410", "[::1]:7410", "[::1]", "tape.example"] {
            assert!(passes(host, None), "{host}");
            assert!(passes(host, Some(&format!("http://{host}"))), "{host}");
        }
        assert!(passes("tape.example", Some("https://tape.example")));
        // Behind a proxy that states the gateway's own name.
        for origin in ["https://tape.example", "https://tape.example:8443", "http://TAPE.example"] {
            assert!(passes("127.0.0.1:7410", Some(origin)), "{origin}");
        }
        for origin in
            ["https://tape.example.evil", "https://eviltape.example", "tape.example", "ftp://tape.example"]
        {
            assert!(!passes("127.0.0.1:7410", Some(origin)), "{origin}");
        }
        for host in ["evil.example", "evil.example:7410", "localhost.evil.example", "192.168.1.1:7410", ""] {
            assert!(!passes(host, None), "{host}");
        }
        for origin in
            ["http://evil.example", "null", "http://localhost:9999", "file://", "http://127.0.0.1:7410.evil"]
        {
            assert!(!passes("127.0.0.1:7410", Some(origin)), "{origin}");
        }
        assert!(check(&HeaderMap::new(), &[]).is_err());
    }
}
