//! The smallest HTTP client that can tell a whole answer from a cut one.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub fn lines(&self) -> Vec<Value> {
        self.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub async fn get(address: SocketAddr, path: &str) -> Answer {
    get_with(address, path, &format!("Host: {address}\r\n")).await
}

pub async fn get_lines(address: SocketAddr, path: &str) -> Answer {
    get_with(address, path, &format!("Host: {address}\r\nAccept: application/x-ndjson\r\n")).await
}

pub async fn get_with(address: SocketAddr, path: &str, headers: &str) -> Answer {
    ask(address, &format!("GET {path}"), headers).await
}

/// Without a body.
pub async fn post(address: SocketAddr, path: &str) -> Answer {
    ask(address, &format!("POST {path}"), &format!("Host: {address}\r\nContent-Length: 0\r\n")).await
}

/// Any other method, without a body.
pub async fn request(address: SocketAddr, method: &str, path: &str) -> Answer {
    ask(address, &format!("{method} {path}"), &format!("Host: {address}\r\nContent-Length: 0\r\n")).await
}

/// What came of an answer that has to be cut.
pub async fn get_cut(address: SocketAddr, path: &str, headers: &str) -> Answer {
    let (answer, whole) = ask_for_any(address, &format!("GET {path}"), headers).await;
    assert!(!whole, "the answer was not cut");
    answer
}

async fn ask(address: SocketAddr, what: &str, headers: &str) -> Answer {
    let (answer, whole) = ask_for_any(address, what, headers).await;
    assert!(whole, "the answer was cut");
    answer
}

/// An answer, and whether it is whole.
async fn ask_for_any(address: SocketAddr, what: &str, headers: &str) -> (Answer, bool) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{what} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let split = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let headers = String::from_utf8(bytes[..split].to_vec()).unwrap();
    let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
    let (mut body, mut whole) = (bytes[split + 4..].to_vec(), true);
    if headers.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        (body, whole) = unchunked(&body);
    }
    (Answer { status, headers, body: String::from_utf8(body).unwrap() }, whole)
}

fn unchunked(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(line_end) = rest.windows(2).position(|window| window == b"\r\n") else {
            return (body, false);
        };
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..line_end]).unwrap(), 16).unwrap();
        rest = &rest[line_end + 2..];
        if length == 0 {
            return (body, true);
        }
        body.extend_from_slice(&rest[..length.min(rest.len())]);
        rest = rest.get(length + 2..).unwrap_or_default();
    }
}
