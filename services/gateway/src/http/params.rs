//! The parameters of a request: each read once, none ignored.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::Query;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use matchtape_client::position::{self, At, parse_time};
use matchtape_schemas::{EventTime, InstrumentId, Kind, KindMask, Sequence};

use crate::error::ApiError;
use crate::feed::Feed;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Ndjson,
    Csv,
}

impl Format {
    /// The first type of `Accept` that there is; JSON when anything will do.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let Some(accept) = headers.get(ACCEPT) else { return Ok(Self::Json) };
        let accept = accept.to_str().unwrap_or("");
        for wanted in accept.split(',') {
            match wanted.split(';').next().unwrap_or("").trim() {
                "application/x-ndjson" | "application/ndjson" | "application/jsonl" => {
                    return Ok(Self::Ndjson);
                }
                "text/csv" => return Ok(Self::Csv),
                "application/json" | "application/*" | "*/*" | "text/html" | "" => return Ok(Self::Json),
                _ => {}
            }
        }
        Err(ApiError::new(
            axum::http::StatusCode::NOT_ACCEPTABLE,
            "not_acceptable",
            format!("{accept:?} is not offered"),
            "Accept",
            "ask for application/json, application/x-ndjson or text/csv",
        ))
    }
}

impl Format {
    /// Of what is not flat rows.
    pub(crate) fn not_csv(self) -> Result<Self, ApiError> {
        if self != Self::Csv {
            return Ok(self);
        }
        Err(ApiError::new(
            axum::http::StatusCode::NOT_ACCEPTABLE,
            "not_acceptable",
            "this answer is not offered as CSV",
            "Accept",
            "ask for application/json or application/x-ndjson",
        ))
    }
}

/// A place on the tape as requests name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// The last visible group's end.
    End,
    At(Sequence),
    Time(EventTime),
}

/// What a position looks like, for error messages.
const POSITION_FORMS: &str =
    "a sequence (4711), a time (2023-12-25T23:00:00Z, or nanoseconds as 1703545200000000000), or end";

impl From<At> for Position {
    fn from(at: At) -> Self {
        match at {
            At::End => Self::End,
            At::Position(position::Position::Sequence(sequence)) => Self::At(sequence),
            At::Position(position::Position::Time(time)) => Self::Time(time),
        }
    }
}

/// The parameters that have not been read yet.
#[derive(Debug)]
pub(crate) struct Params {
    left: Vec<(String, String)>,
}

impl Params {
    /// All of them, each at most once.
    pub(crate) fn of(query: Query<Vec<(String, String)>>) -> Result<Self, ApiError> {
        let Query(left) = query;
        for (place, (name, _)) in left.iter().enumerate() {
            if left[..place].iter().any(|(other, _)| other == name) {
                return Err(ApiError::bad_request(
                    format!("{name} is there twice"),
                    name.clone(),
                    "give it once",
                ));
            }
        }
        Ok(Self { left })
    }

    /// Whether a parameter is there and has not been read.
    pub(crate) fn left_has(&self, name: &str) -> bool {
        self.left.iter().any(|(other, value)| other == name && !value.is_empty())
    }

    /// A parameter's text; an empty one counts as left out.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let place = self.left.iter().position(|(other, _)| other == name)?;
        Some(self.left.swap_remove(place).1).filter(|text| !text.is_empty())
    }

    /// A number, at most `max`.
    pub(crate) fn number<N>(&mut self, name: &str, default: N, max: N) -> Result<N, ApiError>
    where
        N: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.text(name) else { return Ok(default) };
        match text.parse::<N>() {
            Ok(number) if number <= max => Ok(number),
            _ => Err(ApiError::bad_request(
                format!("{text:?} is not a number up to {max}"),
                name,
                format!("give a whole number up to {max}, or leave it out for {default}"),
            )),
        }
    }

    /// A 64-bit id.
    pub(crate) fn id(&mut self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            ApiError::bad_request(format!("{text:?} is not an id"), name, "give a whole number of 64 bits")
        })
    }

    /// A 64-bit id of what there is: zero stands for none.
    pub(crate) fn some_id(&mut self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.id(name)? {
            Some(0) => Err(ApiError::bad_request(
                "0 is no id: it stands for none",
                name,
                "give a whole number from 1",
            )),
            id => Ok(id),
        }
    }

    pub(crate) fn position(&mut self, name: &str) -> Result<Option<Position>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let read = text.parse::<At>().map(|at| Some(at.into()));
        read.map_err(|what| ApiError::bad_request(what, name, format!("give {POSITION_FORMS}")))
    }

    /// A time, where no sequence can be meant.
    pub(crate) fn time(&mut self, name: &str) -> Result<Option<EventTime>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let read = parse_time(&text).map(|ns| Some(EventTime(ns)));
        read.map_err(|what| {
            ApiError::bad_request(what, name, "give it in one of these forms, or leave it out")
        })
    }

    /// Whether the last come first: `asc` or `desc`.
    pub(crate) fn newest_first(&mut self, default: bool) -> Result<bool, ApiError> {
        match self.text("order").as_deref() {
            None => Ok(default),
            Some("asc") => Ok(false),
            Some("desc") => Ok(true),
            Some(other) => {
                Err(ApiError::bad_request(format!("{other:?} is no order"), "order", "give asc or desc"))
            }
        }
    }

    /// An instrument by symbol, venue number or id.
    pub(crate) fn instrument(&mut self, feed: &Feed) -> Result<Option<InstrumentId>, ApiError> {
        self.text("instrument").map(|text| find_instrument(&text, feed)).transpose()
    }

    pub(crate) fn needed_instrument(&mut self, feed: &Feed) -> Result<InstrumentId, ApiError> {
        self.instrument(feed)?.ok_or_else(|| {
            ApiError::bad_request(
                "no instrument is named",
                "instrument",
                "add instrument=SYMBOL; /v1/instruments lists them",
            )
        })
    }

    /// Kinds or topics, joined by commas.
    pub(crate) fn kinds(&mut self) -> Result<KindMask, ApiError> {
        let Some(text) = self.text("kind") else { return Ok(KindMask::ALL) };
        let mut mask = KindMask::NONE;
        for name in text.split(',') {
            let one =
                Kind::from_name(name).map(|kind| KindMask::of(&[kind])).or_else(|| KindMask::topic(name));
            mask = mask.with(one.ok_or_else(|| {
                ApiError::bad_request(
                    format!("there is no kind {name:?}"),
                    "kind",
                    "name kinds (trade_matched, order_accepted, ...) or topics (orders, trades, market, accounts, state, control)",
                )
            })?);
        }
        Ok(mask)
    }

    /// Refuses what nobody has read.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        match self.left.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => Err(ApiError::bad_request(
                format!("there is no parameter {name:?} here"),
                name,
                "see /PROTOCOL.md for the parameters of each path",
            )),
        }
    }
}

/// An instrument by symbol, venue number or id.
pub(crate) fn find_instrument(text: &str, feed: &Feed) -> Result<InstrumentId, ApiError> {
    let market = feed.market();
    market
        .instruments
        .find(text)
        .map(|instrument| instrument.id)
        .or_else(|| market.undefined_with_book(text))
        .ok_or_else(|| ApiError::unknown_symbol(text, "instrument"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_neither_ignored_nor_guessed() {
        let params = |pairs: &[(&str, &str)]| {
            let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            Params::of(Query(pairs.iter().map(own).collect()))
        };
        assert_eq!(params(&[("limit", "1"), ("limit", "2")]).unwrap_err().place, "limit");
        let mut read = params(&[("limit", "5"), ("typo", "x")]).unwrap();
        assert_eq!(read.number("limit", 50, 100), Ok(5));
        assert_eq!(read.finish().unwrap_err().place, "typo");
        let mut read = params(&[("limit", "101"), ("kind", "trades,order_accepted")]).unwrap();
        assert_eq!(read.number("limit", 50, 100).unwrap_err().error, "bad_request");
        let kinds = read.kinds().unwrap();
        assert!(kinds.contains(Kind::TradeBusted) && kinds.contains(Kind::OrderAccepted));
        assert!(!kinds.contains(Kind::OrderCancelled));
        assert!(params(&[("kind", "nothing")]).unwrap().kinds().is_err());
    }

    #[test]
    fn the_format_is_the_first_one_offered() {
        let format = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            Format::of(&headers).ok()
        };
        assert_eq!(Format::of(&HeaderMap::new()).ok(), Some(Format::Json));
        assert_eq!(format("*/*"), Some(Format::Json));
        assert_eq!(format("application/x-ndjson, application/json;q=0.5"), Some(Format::Ndjson));
        assert_eq!(format("image/png, application/json"), Some(Format::Json));
        assert_eq!(format("text/csv;q=0.9"), Some(Format::Csv));
        assert_eq!(format("image/png"), None);
    }
}
