//! A node's gateway over HTTP, as imports and queries use it. The protocol: `PROTOCOL.md` of the gateway.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Lines};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use matchtape_client::position::Position;
use matchtape_schemas::event::InstrumentDefined;
use matchtape_schemas::text::Text;
use matchtape_schemas::{EventTime, InstrumentId, ProducerId, ProducerSequence, Sequence, VenueSequence};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::import::Recorded;

/// How long an answer may take to begin, and to go on.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// The pauses between tries, doubled from the first to the longest, and when to give up.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LONGEST: Duration = Duration::from_secs(5);
const TRYING_MAX: Duration = Duration::from_secs(60);
/// How soon a pause notices that it shall end.
const PAUSE_STEP: Duration = Duration::from_millis(50);

/// What is done to what a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Does something.
    Post,
    /// Makes it.
    Put,
    /// Changes it.
    Patch,
    /// Ends it.
    Delete,
}

/// A gateway.
#[derive(Debug)]
pub struct Server {
    agent: ureq::Agent,
    /// Without a slash at its end.
    url: String,
}

/// A request without the answer it asked for.
#[derive(thiserror::Error, Debug)]
pub enum ServerError {
    /// What was given is not where a gateway could be.
    #[error("{0:?} is not the address of a gateway; it looks like http://127.0.0.1:7474")]
    Address(String),
    /// No answer came, or not all of it. What was asked for may have been done.
    #[error("{url}: {reason}")]
    Connection {
        /// The gateway.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The gateway said why not.
    #[error("{url} refuses ({status} {error}): {what}")]
    Refused {
        /// The gateway.
        url: String,
        /// HTTP's number for it.
        status: u16,
        /// The gateway's word for it.
        error: String,
        /// What is wrong.
        what: String,
        /// What to do about it.
        what_to_do: String,
    },
    /// The gateway's live state has not come as far as its tape.
    #[error("{url}: its feeds stand at sequence {feed}, its tape at {visible}")]
    Behind {
        /// The gateway.
        url: String,
        /// How far the feeds are.
        feed: Sequence,
        /// How far the tape is.
        visible: Sequence,
    },
    /// The answer is none that this release knows.
    #[error("{url}: an answer that is not understood: {what}")]
    Answer {
        /// The gateway.
        url: String,
        /// What is wrong with it.
        what: String,
    },
}

impl ServerError {
    /// Whether the gateway refused with this word.
    pub fn is(&self, word: &str) -> bool {
        matches!(self, Self::Refused { error, .. } if error == word)
    }

    /// Whether the same request may be answered a little later.
    fn may_pass(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::Behind { .. } => true,
            Self::Refused { status, .. } => matches!(status, 502..=504),
            Self::Address(_) | Self::Answer { .. } => false,
        }
    }
}

/// What a gateway says when it does not answer.
#[derive(Deserialize)]
struct Refusal {
    error: String,
    what: String,
    #[serde(default)]
    what_to_do: String,
}

/// How far a tape has come.
#[derive(Deserialize, Clone, Copy, Debug)]
pub struct Watermarks {
    /// The last event that readers are given.
    pub visible: u64,
}

/// What became of a published batch.
#[derive(Deserialize, Clone, Copy, Debug)]
pub struct Published {
    /// The last event's position.
    pub last: u64,
    /// Events that were new.
    pub published: u64,
    /// Events that were there already.
    pub already: u64,
    /// The tape's, after that.
    pub watermarks: Watermarks,
}

/// What one more request was made for: the answer, and whether an earlier try may have done it already.
#[derive(Clone, Copy, Debug)]
pub struct Answered<T> {
    /// The answer.
    pub answer: T,
    /// It did not come at the first try.
    pub repeated: bool,
}

#[derive(Deserialize)]
struct Written {
    sequence: u64,
}

#[derive(Deserialize)]
struct Instruments {
    sequence: u64,
    instruments: Vec<InstrumentRow>,
}

/// What tells instruments apart, of a row of `/v1/instruments`.
#[derive(Deserialize)]
struct InstrumentRow {
    instrument: String,
    instrument_id: String,
    #[serde(default)]
    venue: String,
    #[serde(default)]
    venue_instrument_id: Option<String>,
    #[serde(default)]
    publisher: Option<String>,
}

/// Which record of which source an event was, of a row of `/v1/events`.
#[derive(Deserialize)]
struct RecordedRow {
    producer: String,
    producer_sequence: String,
    #[serde(default)]
    venue_sequence: Option<String>,
}

#[derive(Deserialize)]
struct TimedRow {
    event_time: String,
}

#[derive(Deserialize)]
struct Producer {
    producer_sequence: String,
}

impl Server {
    /// Of an address, as http://127.0.0.1:7474 or 127.0.0.1:7474; nothing is sent yet.
    pub fn new(address: &str) -> Result<Self, ServerError> {
        let wrong = || ServerError::Address(address.to_owned());
        let url = match address.parse::<std::net::SocketAddr>() {
            Ok(address) => format!("http://{address}"),
            Err(_) => address.trim_end_matches('/').to_owned(),
        };
        let host = url.strip_prefix("http://").ok_or_else(wrong)?;
        if host.is_empty() || host.contains(['/', '?', '#', '@']) || host.contains(char::is_whitespace) {
            return Err(wrong());
        }
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // A gateway listens on loopback; a proxy of the environment is not meant.
            .proxy(None)
            .timeout_connect(Some(CONNECT_WAIT))
            .timeout_recv_response(Some(ANSWER_WAIT))
            .timeout_per_read(Some(ANSWER_WAIT))
            .timeout_per_write(Some(ANSWER_WAIT))
            .build();
        Ok(Self { agent: config.new_agent(), url })
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn lost(&self, reason: impl Display) -> ServerError {
        ServerError::Connection { url: self.url.clone(), reason: reason.to_string() }
    }

    fn unknown(&self, what: impl Display) -> ServerError {
        ServerError::Answer { url: self.url.clone(), what: what.to_string() }
    }

    fn refused(&self, status: u16, refusal: Refusal) -> ServerError {
        let Refusal { error, what, what_to_do } = refusal;
        ServerError::Refused { url: self.url.clone(), status, error, what, what_to_do }
    }

    /// The answer as it comes, if it is one.
    fn accepted(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<ureq::Body, ServerError> {
        let (head, mut body) = answer.map_err(|error| self.lost(error))?.into_parts();
        if head.status.is_success() {
            return Ok(body);
        }
        let text = body.read_to_vec().map_err(|error| self.lost(error))?;
        match serde_json::from_slice(&text) {
            Ok(refusal) => Err(self.refused(head.status.as_u16(), refusal)),
            Err(_) => Err(self.unknown(format_args!("status {}", head.status))),
        }
    }

    fn read<T: DeserializeOwned>(&self, body: ureq::Body) -> Result<T, ServerError> {
        let bytes =
            body.into_with_config().limit(u64::MAX).read_to_vec().map_err(|error| self.lost(error))?;
        serde_json::from_slice(&bytes).map_err(|error| self.unknown(error))
    }

    fn ask(
        &self,
        path: &str,
        parameters: &[(&str, String)],
        accept: &str,
    ) -> Result<ureq::Body, ServerError> {
        let mut request = self.agent.get(format!("{}{path}", self.url)).header("Accept", accept);
        for (name, value) in parameters {
            request = request.query(name, value);
        }
        self.accepted(request.call())
    }

    /// Asks for one JSON object.
    pub fn object<T: DeserializeOwned>(
        &self,
        path: &str,
        parameters: &[(&str, String)],
    ) -> Result<T, ServerError> {
        self.read(self.ask(path, parameters, "application/json")?)
    }

    /// Sends a request, with a JSON body if one is given, and reads the JSON object that answers it.
    pub fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        parameters: &[(&str, String)],
        body: Option<&impl serde::Serialize>,
    ) -> Result<T, ServerError> {
        let method = match method {
            Method::Post => ureq::http::Method::POST,
            Method::Put => ureq::http::Method::PUT,
            Method::Patch => ureq::http::Method::PATCH,
            Method::Delete => ureq::http::Method::DELETE,
        };
        let pairs: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        let question = if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) };
        let bytes = body.map_or(Ok(Vec::new()), serde_json::to_vec).map_err(|error| self.unknown(error))?;
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}{question}", self.url))
            .header("Content-Type", "application/json")
            .body(bytes)
            .map_err(|error| self.unknown(error))?;
        self.read(self.accepted(self.agent.run(request))?)
    }

    /// Asks for rows, which come as they are read from the tape.
    pub fn rows<T: DeserializeOwned>(
        &self,
        path: &str,
        parameters: &[(&str, String)],
    ) -> Result<Rows<'_, T>, ServerError> {
        let body = self.ask(path, parameters, "application/x-ndjson")?;
        let reader = body.into_with_config().limit(u64::MAX).reader();
        Ok(Rows { server: self, lines: BufReader::new(reader).lines(), row: std::marker::PhantomData })
    }

    /// An answer that is JSON, and not the one that was asked for.
    pub(crate) fn not_understood(&self, what: &serde_json::Error) -> ServerError {
        self.unknown(what)
    }

    /// How far its tape has come.
    pub fn watermarks(&self) -> Result<Watermarks, ServerError> {
        self.object("/v1/watermarks", &[])
    }

    /// The instruments of its tape, with all that was visible before this was asked.
    pub fn instruments(&self) -> Result<Vec<(InstrumentId, InstrumentDefined)>, ServerError> {
        let visible = Sequence(self.watermarks()?.visible);
        let answer: Instruments = self.object("/v1/instruments", &[])?;
        let feed = Sequence(answer.sequence);
        if feed < visible {
            return Err(ServerError::Behind { url: self.url.clone(), feed, visible });
        }
        let definition = |row: InstrumentRow| {
            let number = row.venue_instrument_id.map_or(Ok(0), |number| number.parse());
            let publisher = row.publisher.map_or(Ok(0), |publisher| publisher.parse());
            let id = row.instrument_id.parse().map_err(|error| self.unknown(error))?;
            let definition = InstrumentDefined {
                symbol: Text::new(&row.instrument).map_err(|error| self.unknown(error))?,
                venue: Text::new(&row.venue).map_err(|error| self.unknown(error))?,
                venue_instrument_id: number.map_err(|error| self.unknown(error))?,
                publisher: publisher.map_err(|error| self.unknown(error))?,
                ..InstrumentDefined::default()
            };
            Ok((InstrumentId(id), definition))
        };
        answer.instruments.into_iter().map(definition).collect()
    }

    /// The events of an instrument, or of all, in a range of event time, both ends included: whose they were.
    pub fn recorded(
        &self,
        symbol: Option<&str>,
        from: EventTime,
        through: EventTime,
    ) -> Result<impl Iterator<Item = Result<Recorded, ServerError>> + '_, ServerError> {
        let mut parameters = vec![("from", Position::Time(from).to_string())];
        parameters.extend(symbol.map(|symbol| ("instrument", symbol.to_owned())));
        if through < EventTime::MAX {
            parameters.push(("to", Position::Time(through).to_string()));
        }
        let recorded = move |row: RecordedRow| {
            let number = |text: &str| text.parse::<u64>().map_err(|error| self.unknown(error));
            let producer = row.producer.parse().map_err(|error| self.unknown(error))?;
            Ok(Recorded {
                producer: ProducerId(producer),
                producer_sequence: ProducerSequence(number(&row.producer_sequence)?),
                venue_sequence: row.venue_sequence.as_deref().map(number).transpose()?.map(VenueSequence),
            })
        };
        let rows = self.rows::<RecordedRow>("/v1/events", &parameters)?;
        Ok(rows.map(move |row| row.and_then(&recorded)))
    }

    /// The time of the last event of an instrument among those with an event time up to `through`, in the tape's order.
    pub fn last_through(&self, symbol: &str, through: EventTime) -> Result<Option<EventTime>, ServerError> {
        let parameters = [
            ("instrument", symbol.to_owned()),
            ("to", Position::Time(through).to_string()),
            ("order", "desc".to_owned()),
            ("limit", "1".to_owned()),
        ];
        let mut rows = self.rows::<TimedRow>("/v1/events", &parameters)?;
        let Some(row) = rows.next().transpose()? else { return Ok(None) };
        row.event_time.parse().map(|ns| Some(EventTime(ns))).map_err(|error| self.unknown(error))
    }

    /// The last event of a producer, by its number there; all through it is visible. Zero: it has none.
    pub fn producer(&self, producer: ProducerId) -> Result<ProducerSequence, ServerError> {
        match self.object::<Producer>(&format!("/v1/producers/{producer}"), &[]) {
            Ok(found) => {
                found.producer_sequence.parse().map(ProducerSequence).map_err(|error| self.unknown(error))
            }
            Err(ServerError::Refused { error, .. }) if error == "unknown_producer" => Ok(ProducerSequence(0)),
            Err(error) => Err(error),
        }
    }

    /// Publishes encoded groups. Returns when they are visible.
    pub fn publish(&self, producer: ProducerId, groups: &[u8]) -> Result<Published, ServerError> {
        let request = self
            .agent
            .post(format!("{}/v1/publish", self.url))
            .query("producer", producer.to_string())
            .content_type("application/octet-stream");
        self.read(self.accepted(request.send(groups))?)
    }

    /// A key's value, as its bytes. `path` is the key's, below `/v1/state/`.
    pub fn state(&self, path: &str, parameters: &[(&str, String)]) -> Result<Vec<u8>, ServerError> {
        let mut body = self.ask(path, parameters, "application/octet-stream")?;
        body.read_to_vec().map_err(|error| self.lost(error))
    }

    /// Sets a key's value. Returns the event's position when it is visible.
    pub fn put_state(
        &self,
        path: &str,
        parameters: &[(&str, String)],
        value: &[u8],
    ) -> Result<u64, ServerError> {
        let mut request = self.agent.put(format!("{}{path}", self.url));
        for (name, text) in parameters {
            request = request.query(name, text);
        }
        let put: Written = self.read(self.accepted(request.send(value))?)?;
        Ok(put.sequence)
    }

    /// Takes a key's value away. Returns the event's position when it is visible.
    pub fn delete_state(&self, path: &str, parameters: &[(&str, String)]) -> Result<u64, ServerError> {
        let mut request = self.agent.delete(format!("{}{path}", self.url));
        for (name, text) in parameters {
            request = request.query(name, text);
        }
        let deleted: Written = self.read(self.accepted(request.call())?)?;
        Ok(deleted.sequence)
    }

    /// Asks until there is an answer, for as long as an error may pass, with growing pauses; `notice` is told of each.
    /// Only for requests that may be made twice.
    pub fn persistently<T>(
        &self,
        stop: &AtomicBool,
        notice: &mut dyn FnMut(&str),
        mut ask: impl FnMut(&Self) -> Result<T, ServerError>,
    ) -> Result<Answered<T>, ServerError> {
        let (begun, mut pause, mut repeated) = (Instant::now(), PAUSE_FIRST, false);
        loop {
            match ask(self) {
                Ok(answer) => {
                    if repeated {
                        notice(&format!("{} answers again", self.url));
                    }
                    return Ok(Answered { answer, repeated });
                }
                Err(error) if error.may_pass() && begun.elapsed() + pause < TRYING_MAX => {
                    notice(&format!("{error}; trying again in {} ms", pause.as_millis()));
                    if !rest(pause, stop) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
            (pause, repeated) = ((pause * 2).min(PAUSE_LONGEST), true);
        }
    }
}

/// A text as a part of a URL: whatever has a meaning there is escaped.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Lets time pass; `false` if it was cut short.
fn rest(pause: Duration, stop: &AtomicBool) -> bool {
    let until = Instant::now() + pause;
    loop {
        // Relaxed: a flag that nothing else depends on.
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(PAUSE_STEP));
    }
}

/// Rows as they come. An answer that is cut is an error, never an end.
pub struct Rows<'a, T> {
    server: &'a Server,
    lines: Lines<BufReader<ureq::BodyReader<'static>>>,
    row: std::marker::PhantomData<T>,
}

impl<T: DeserializeOwned> Iterator for Rows<'_, T> {
    type Item = Result<T, ServerError>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = match self.lines.next()? {
            Ok(line) => line,
            Err(error) => return Some(Err(self.server.lost(error))),
        };
        Some(match serde_json::from_str(&line) {
            Ok(row) => Ok(row),
            // Where reading failed in the middle, the last line says why.
            Err(unknown) => {
                Err(match serde_json::from_str::<Value>(&line).and_then(serde_json::from_value) {
                    Ok(refusal) => self.server.refused(500, refusal),
                    Err(_) => self.server.unknown(unknown),
                })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_a_gateway_and_nothing_else() {
        for good in ["http://127.0.0.1:7474", "http://localhost:7474/", "http://[::1]:7474"] {
            assert_eq!(Server::new(good).unwrap().url(), good.trim_end_matches('/'));
        }
        assert_eq!(Server::new("127.0.0.1:7474").unwrap().url(), "http://127.0.0.1:7474");
        for wrong in ["127.0.0.1", "https://127.0.0.1", "http://", "http://a/v1", "http://me@a", "tape/"] {
            assert!(matches!(Server::new(wrong), Err(ServerError::Address(_))), "{wrong}");
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again_and_a_stop_ends_that() {
        let server = Server::new("http://127.0.0.1:1").unwrap();
        let stop = AtomicBool::new(false);
        let (mut tries, mut said) = (0, Vec::new());
        let answered = server.persistently(&stop, &mut |text| said.push(text.to_owned()), |server| {
            tries += 1;
            if tries < 3 { Err(server.lost("gone")) } else { Ok(tries) }
        });
        let answered = answered.unwrap();
        assert!(answered.answer == 3 && answered.repeated);
        assert_eq!(said.len(), 3);
        assert!(
            said[0].contains("gone; trying again in 100 ms") && said[2].contains("answers again"),
            "{said:?}"
        );

        let refused = server.persistently(&stop, &mut |_| {}, |server| -> Result<(), _> {
            let refusal = Refusal { error: "e".into(), what: "w".into(), what_to_do: String::new() };
            Err(server.refused(400, refusal))
        });
        assert!(matches!(refused, Err(ServerError::Refused { status: 400, .. })));

        stop.store(true, Ordering::Relaxed);
        let stopped =
            server.persistently(&stop, &mut |_| {}, |server| -> Result<(), _> { Err(server.lost("gone")) });
        assert!(matches!(stopped, Err(ServerError::Connection { .. })));
    }

    #[test]
    fn a_gateway_that_is_not_there_is_a_lost_connection() {
        // No port that is given away by the system: nobody is there.
        let server = Server::new("http://127.0.0.1:1").unwrap();
        assert!(matches!(server.watermarks(), Err(ServerError::Connection { .. })));
    }

    /// Answers one request with these bytes and closes the connection.
    fn answers_once(bytes: &'static str) -> Server {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(bytes.as_bytes()).unwrap();
        });
        Server::new(&format!("http://{address}")).unwrap()
    }

    #[test]
    fn rows_that_are_cut_end_with_an_error_and_rows_that_fail_with_the_reason() {
        const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (answer, expected) in [
            ("4\r\n1\n2\n\r\n0\r\n\r\n", "1 2"),
            ("4\r\n1\n2\n\r\n", "1 2 lost"),
            ("4\r\n1\n2\n\r\n9\r\n3\n", "1 2 3 lost"),
            ("1c\r\n1\n{\"error\":\"e\",\"what\":\"w\"}\n\n\r\n", "1 refused"),
            ("6\r\n1\n{}\n\n\r\n0\r\n\r\n", "1 unknown"),
        ] {
            let answer: &'static str = format!("{HEAD}{answer}").leak();
            let server = answers_once(answer);
            let mut said = Vec::new();
            for row in server.rows::<u64>("/", &[]).unwrap() {
                said.push(match row {
                    Ok(row) => row.to_string(),
                    Err(ServerError::Connection { .. }) => "lost".to_owned(),
                    Err(ServerError::Refused { .. }) => "refused".to_owned(),
                    Err(ServerError::Answer { .. }) => "unknown".to_owned(),
                    Err(other) => panic!("{other}"),
                });
                if said.last().is_some_and(|word| word.parse::<u64>().is_err()) {
                    break;
                }
            }
            assert_eq!(said.join(" "), expected, "{answer:?}");
        }
    }
}
