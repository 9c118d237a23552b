//! What a client may say.

use matchtape_client::position::parse_time;
use serde_json::{Map, Value};

use crate::error::ApiError;

/// One message from a client.
#[derive(Debug, PartialEq)]
pub(crate) enum Request {
    Subscribe(SubscribeRequest),
    Unsubscribe {
        id: u64,
    },
    /// Answered with `pong`: for clients that cannot see WebSocket pings, as browsers.
    Ping {
        id: Option<u64>,
    },
}

#[derive(Debug, PartialEq)]
pub(crate) struct SubscribeRequest {
    /// Chosen by the client; every message of the subscription carries it.
    pub(crate) id: u64,
    pub(crate) channel: String,
    /// Left out: all, on channels that allow it.
    pub(crate) symbols: Option<Vec<String>>,
    /// The first sequence wanted; zero: the first kept.
    pub(crate) from_sequence: Option<u64>,
    /// The first event that happened at or after this, ns since 1970 UTC.
    pub(crate) from_time: Option<i64>,
    /// As given by `closing`: the same tape, right after what was delivered.
    pub(crate) resume: Option<String>,
    pub(crate) depth: Option<u64>,
    /// Of the candles channel: as 1s, 5m, 1h, 1d.
    pub(crate) interval: Option<String>,
    pub(crate) snapshot: Option<bool>,
}

/// A message that is no request, and the `id` it has nevertheless.
#[derive(Debug, PartialEq)]
pub(crate) struct NoRequest {
    pub(crate) id: Option<u64>,
    pub(crate) error: ApiError,
}

/// Reads one message.
pub(crate) fn parse(text: &str) -> Result<Request, Box<NoRequest>> {
    let wrong = |what: String| {
        let error = ApiError::bad_request(
            what,
            "message",
            "send one JSON object, for example {\"op\":\"subscribe\",\"id\":1,\"channel\":\"trades\"}",
        );
        Err(Box::new(NoRequest { id: None, error }))
    };
    let fields = match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return wrong("the message is no JSON object".to_owned()),
        Err(error) => return wrong(format!("the message is no JSON: {error}")),
    };
    let id = fields.get("id").and_then(Value::as_u64);
    read(Fields { left: fields }).map_err(|error| Box::new(NoRequest { id, error }))
}

fn read(mut fields: Fields) -> Result<Request, ApiError> {
    let op = fields.text("op")?;
    let request = match op.as_deref() {
        Some("subscribe") => Request::Subscribe(SubscribeRequest {
            id: fields.needed("id", Fields::number)?,
            channel: fields.needed("channel", Fields::text)?,
            symbols: fields.texts("symbols")?,
            from_sequence: fields.number("from_sequence")?,
            from_time: fields.time("from_time")?,
            resume: fields.text("resume")?,
            depth: fields.number("depth")?,
            interval: fields.text("interval")?,
            snapshot: fields.flag("snapshot")?,
        }),
        Some("unsubscribe") => Request::Unsubscribe { id: fields.needed("id", Fields::number)? },
        Some("ping") => Request::Ping { id: fields.number("id")? },
        Some(other) => {
            return Err(ApiError::bad_request(
                format!("{other:?} is no request"),
                "op",
                "give subscribe, unsubscribe or ping",
            ));
        }
        None => return Err(missing("op", "give subscribe, unsubscribe or ping")),
    };
    fields.finish(op.as_deref().unwrap_or_default())?;
    Ok(request)
}

fn missing(name: &str, what_to_do: &str) -> ApiError {
    ApiError::bad_request(format!("the field {name:?} is missing"), name, what_to_do)
}

/// The fields that have not been read yet. What is null counts as left out.
struct Fields {
    left: Map<String, Value>,
}

impl Fields {
    fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    fn needed<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Self, &str) -> Result<Option<T>, ApiError>,
    ) -> Result<T, ApiError> {
        read(self, name)?.ok_or_else(|| missing(name, "every request of this kind has it"))
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(ApiError::bad_request(format!("{other} is no text"), name, "give a string")),
        }
    }

    fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let list = value.as_array().and_then(|list| {
            list.iter().map(|one| one.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
        });
        list.map(Some).ok_or_else(|| {
            ApiError::bad_request(format!("{value} is no list of texts"), name, "give a list of strings")
        })
    }

    /// A whole number or, because those end at 2^53 in most languages, its digits.
    fn number(&mut self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
        number.map(Some).ok_or_else(|| {
            ApiError::bad_request(
                format!("{value} is no whole number of 64 bits"),
                name,
                "give a number from 0 on, or its digits as a string",
            )
        })
    }

    /// RFC 3339, or nanoseconds since 1970 UTC as a string or a number.
    fn time(&mut self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        parse_time(&text)
            .map(Some)
            .map_err(|what| ApiError::bad_request(what, name, "give it in one of these forms, as a string"))
    }

    fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| {
            ApiError::bad_request(format!("{value} is neither true nor false"), name, "give true or false")
        })
    }

    /// Refuses what nobody has read.
    fn finish(self, op: &str) -> Result<(), ApiError> {
        match self.left.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => Err(ApiError::bad_request(
                format!("{op} has no field {name:?}"),
                name,
                "leave it out; /PROTOCOL.md has the fields of every request",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        let request = parse(
            r#"{"op":"subscribe","id":1,"channel":"book","symbols":["ESH4"],"from_time":"1703422805243925307","depth":10,"resume":null}"#,
        );
        let Ok(Request::Subscribe(request)) = request else { panic!("{request:?}") };
        assert_eq!((request.id, request.channel.as_str(), request.depth), (1, "book", Some(10)));
        assert_eq!(request.symbols, Some(vec!["ESH4".to_owned()]));
        assert_eq!(request.from_time, Some(1_703_422_805_243_925_307));
        for (time, ns) in [
            (r#""2023-12-25T23:00:00Z""#, 1_703_545_200_000_000_000),
            ("1703545200000000001", 1_703_545_200_000_000_001),
            (r#""-7""#, -7),
        ] {
            let text = format!(r#"{{"op":"subscribe","id":1,"channel":"trades","from_time":{time}}}"#);
            let Ok(Request::Subscribe(request)) = parse(&text) else { panic!("{text}") };
            assert_eq!(request.from_time, Some(ns), "{text}");
        }
        assert_eq!(parse(r#"{"op":"unsubscribe","id":2}"#), Ok(Request::Unsubscribe { id: 2 }));
        assert_eq!(parse(r#"{"op":"ping"}"#), Ok(Request::Ping { id: None }));
    }

    #[test]
    fn what_is_no_request_names_the_field_and_carries_the_id() {
        for (wrong, place) in [
            (r#"{"op":"dance","id":7}"#, "op"),
            (r#"{"id":7}"#, "op"),
            (r#"{"op":"subscribe","id":7}"#, "channel"),
            (r#"{"op":"subscribe","id":7,"channel":3}"#, "channel"),
            (r#"{"op":"subscribe","id":7,"channel":"trades","symbol":"ESH4"}"#, "symbol"),
            (r#"{"op":"subscribe","id":7,"channel":"trades","symbols":"ESH4"}"#, "symbols"),
            (r#"{"op":"subscribe","id":7,"channel":"trades","symbols":[1]}"#, "symbols"),
            (r#"{"op":"subscribe","id":7,"channel":"trades","from_sequence":"x"}"#, "from_sequence"),
            (r#"{"op":"subscribe","id":7,"channel":"trades","from_sequence":-1}"#, "from_sequence"),
            (r#"{"op":"subscribe","id":7,"channel":"trades","from_time":1.5}"#, "from_time"),
            (r#"{"op":"subscribe","id":7,"channel":"book","depth":"deep"}"#, "depth"),
            (r#"{"op":"subscribe","id":7,"channel":"book","snapshot":1}"#, "snapshot"),
            (r#"{"op":"unsubscribe","id":7,"extra":1}"#, "extra"),
        ] {
            let NoRequest { id, error } = *parse(wrong).unwrap_err();
            assert_eq!((id, error.place.as_str(), error.error), (Some(7), place, "bad_request"), "{wrong}");
        }
        for wrong in ["", "[]", "not a request", r#"{"op":"subscribe","id":-1,"channel":"trades"}"#] {
            assert_eq!(parse(wrong).unwrap_err().id, None, "{wrong}");
        }
    }
}
