//! What stands between members and their node: it sees every request and every answer, and need not pass them on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

/// A request as it came.
pub(crate) struct Request {
    /// Method, path and headers.
    head: String,
    pub(crate) body: Vec<u8>,
}

/// What came of passing a request on.
pub(crate) enum Passed {
    /// Nobody was there.
    Unsent,
    /// It was sent, and its answer did not come whole.
    Lost,
    Answer(Answer),
}

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    bytes: Vec<u8>,
    body: usize,
}

impl Request {
    pub(crate) fn method(&self) -> &str {
        self.head.split(' ').next().unwrap()
    }

    pub(crate) fn path(&self) -> &str {
        self.target().split('?').next().unwrap()
    }

    /// What is asked for by name in its path's query.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let query = self.target().split_once('?')?.1;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    fn read(client: &TcpStream) -> Option<Self> {
        let mut lines = BufReader::new(client.try_clone().ok()?);
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line == "\r\n" {
                break;
            }
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if !lower.starts_with("connection:") {
                head += &line;
            }
        }
        let mut body = vec![0; length];
        lines.read_exact(&mut body).ok()?;
        Some(Self { head, body })
    }

    fn pass(&self, upstream: &str) -> Passed {
        let Ok(mut server) = TcpStream::connect(upstream) else { return Passed::Unsent };
        let mut bytes = Vec::new();
        let sent = write!(server, "{}Connection: close\r\n\r\n", self.head)
            .and_then(|()| server.write_all(&self.body));
        if sent.and_then(|()| server.read_to_end(&mut bytes)).is_err() {
            return Passed::Lost;
        }
        Answer::whole(bytes).map_or(Passed::Lost, Passed::Answer)
    }
}

impl Answer {
    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[self.body..]
    }

    fn whole(bytes: Vec<u8>) -> Option<Self> {
        let body = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = str::from_utf8(&bytes[..body]).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap();
        let length: usize = length.trim().parse().unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (bytes.len() == body + length).then_some(Self { status, bytes, body })
    }
}

/// Begins between `url` and whoever asks at the address that is returned. `exchange` is given each request and the way to
/// pass it on, and says which answer goes back; without one, the connection is dropped.
pub(crate) fn between(
    url: &str,
    exchange: impl Fn(&Request, &dyn Fn() -> Passed) -> Option<Answer> + Send + Sync + 'static,
) -> String {
    let upstream = url.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let all = Arc::new((upstream, exchange));
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let all = Arc::clone(&all);
            // A request for events waits, and others of the group ask meanwhile.
            std::thread::spawn(move || {
                let Some(request) = Request::read(&client) else { return };
                let (upstream, exchange) = &*all;
                if let Some(answer) = exchange(&request, &|| request.pass(upstream)) {
                    // Whoever asked may be killed by now.
                    let _ = (&client).write_all(&answer.bytes);
                }
            });
        }
    });
    address
}
