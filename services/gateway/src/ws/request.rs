//! What a client may say.

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use crate::error::ApiError;

/// One message from a client.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    Subscribe(SubscribeRequest),
    Unsubscribe {
        id: u64,
    },
    /// Answered with `pong`: for clients that cannot see WebSocket pings, as browsers.
    Ping {
        #[serde(default)]
        id: Option<u64>,
    },
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct SubscribeRequest {
    /// Chosen by the client; every message of the subscription carries it.
    pub(crate) id: u64,
    pub(crate) channel: String,
    /// Left out: all, on channels that allow it.
    #[serde(default)]
    pub(crate) symbols: Option<Vec<String>>,
    /// The first sequence wanted; zero: the first kept.
    #[serde(default, deserialize_with = "integer")]
    pub(crate) from_sequence: Option<i64>,
    /// The first event that happened at or after this, ns since 1970 UTC.
    #[serde(default, deserialize_with = "integer")]
    pub(crate) from_time: Option<i64>,
    /// As given by `closing`: the same tape, right after what was delivered.
    #[serde(default)]
    pub(crate) resume: Option<String>,
    #[serde(default)]
    pub(crate) depth: Option<u64>,
    /// Of the candles channel: as 1s, 5m, 1h, 1d.
    #[serde(default)]
    pub(crate) interval: Option<String>,
    #[serde(default)]
    pub(crate) snapshot: Option<bool>,
}

/// A 64-bit number as a JSON number or, because those end at 2^53 in most languages, as a string.
fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum NumberOrText {
        Number(i64),
        Text(String),
    }
    match Option::<NumberOrText>::deserialize(deserializer)? {
        None => Ok(None),
        Some(NumberOrText::Number(number)) => Ok(Some(number)),
        Some(NumberOrText::Text(text)) => {
            text.parse().map(Some).map_err(|_| D::Error::custom(format!("{text:?} is not a 64-bit integer")))
        }
    }
}

/// Reads one message.
pub(crate) fn parse(text: &str) -> Result<Request, ApiError> {
    serde_json::from_str(text).map_err(|error| {
        ApiError::bad_request(
            format!("the message is not a request: {error}"),
            "message",
            "send a JSON object as PROTOCOL.md describes, for example \
             {\"op\":\"subscribe\",\"id\":1,\"channel\":\"trades\"}",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_and_unknown_fields_are_not_ignored() {
        let request = parse(
            r#"{"op":"subscribe","id":1,"channel":"book","symbols":["ESH4"],"from_time":"1703422805243925307","depth":10}"#,
        );
        let Ok(Request::Subscribe(request)) = request else { panic!("{request:?}") };
        assert_eq!((request.id, request.channel.as_str(), request.depth), (1, "book", Some(10)));
        assert_eq!(request.from_time, Some(1_703_422_805_243_925_307));
        assert_eq!(parse(r#"{"op":"unsubscribe","id":2}"#), Ok(Request::Unsubscribe { id: 2 }));
        assert_eq!(parse(r#"{"op":"ping"}"#), Ok(Request::Ping { id: None }));
        for wrong in [
            "",
            "[]",
            r#"{"op":"dance"}"#,
            r#"{"op":"subscribe","id":1}"#,
            r#"{"op":"subscribe","id":1,"channel":"trades","symbol":"ESH4"}"#,
            r#"{"op":"subscribe","id":1,"channel":"trades","from_sequence":"x"}"#,
            r#"{"op":"subscribe","id":-1,"channel":"trades"}"#,
            r#"{"op":"unsubscribe","id":1,"extra":1}"#,
        ] {
            assert_eq!(parse(wrong).unwrap_err().error, "bad_request", "{wrong}");
        }
    }
}
