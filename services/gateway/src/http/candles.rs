//! `/v1/candles`: trades gathered by time.

use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use matchtape_client::{CandleRow, KeptRange, busts_between};
use matchtape_market::{Candle, Candles};
use matchtape_schemas::{EventTime, InstrumentId, Kind, KindMask, Sequence};
use matchtape_storage::{Query as TapeQuery, ReadError, Reader};

use super::Gateway;
use super::answer::{json, row_json, rows, with_complete_from};
use super::events::extent;
use super::params::{Format, Params, Position};
use crate::error::ApiError;

/// Candles of an answer whose range is not stated.
const CANDLES_DEFAULT: i64 = 300;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
struct Question {
    instrument: InstrumentId,
    interval_ns: i64,
    from: Option<EventTime>,
    to: Option<EventTime>,
}

/// `/v1/candles?instrument=SYMBOL&interval=1m&from=&to=`
pub(crate) async fn candles(
    State(shared): Gateway,
    headers: HeaderMap,
    query: Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let format = Format::of(&headers)?;
    let mut params = Params::of(query)?;
    let instrument = params.needed_instrument(&shared.feed)?;
    let interval = params.text("interval").unwrap_or_else(|| "1m".to_owned());
    let interval_ns = interval_ns(&interval).ok_or_else(|| wrong_interval(&interval))?;
    let question =
        Question { instrument, interval_ns, from: time(&mut params, "from")?, to: time(&mut params, "to")? };
    params.finish()?;
    let (reader, candles_max) = (shared.reader.clone(), shared.limits.candles_max);
    let read = move || fold(&reader, question, candles_max);
    let Answer { candles, sequence, complete_from } = shared.log.run(read).await?;
    if format != Format::Json {
        return Ok(with_complete_from(rows(format, candles.iter().map(CandleRow::new)), complete_from));
    }
    let list_of_rows: Vec<String> = candles.iter().map(|candle| row_json(&CandleRow::new(candle))).collect();
    let symbols = shared.feed.symbols();
    Ok(json(|object| {
        symbols.push(object.key("instrument"), instrument);
        object.text("interval", &interval).id("interval_ns", interval_ns);
        // Trades after this sequence are not in it yet: a live feed goes on from here.
        object.number("sequence", sequence.get());
        if let Some(time) = complete_from {
            object.id("complete_from_time", time.get());
        }
        let list = object.key("candles");
        list.push('[');
        list.push_str(&list_of_rows.join(","));
        list.push(']');
    }))
}

fn time(params: &mut Params, name: &str) -> Result<Option<EventTime>, ApiError> {
    match params.position(name)? {
        None | Some(Position::End) => Ok(None),
        Some(Position::Time(time)) => Ok(Some(time)),
        Some(Position::At(_)) => Err(ApiError::bad_request(
            "candles are by time",
            name,
            "give a time: 2023-12-25T23:00:00Z, or nanoseconds as 1703545200000000000",
        )),
    }
}

/// The refusal of what [`interval_ns`] does not take.
pub(crate) fn wrong_interval(text: &str) -> ApiError {
    ApiError::bad_request(
        format!("{text:?} is not an interval of whole seconds up to 366 days"),
        "interval",
        "give a whole number and a unit, s, m, h or d, as 1s, 5m, 1h or 1d",
    )
}

/// What `1s`, `5m`, `1h` or `1d` is in nanoseconds.
pub(crate) fn interval_ns(text: &str) -> Option<i64> {
    let unit_at = text.find(|character: char| !character.is_ascii_digit())?;
    let (count, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let count: i64 = count.parse().ok()?;
    // Longer than a year is a slip of the keyboard.
    let seconds = count.checked_mul(seconds).filter(|seconds| (1..=366 * 86_400).contains(seconds))?;
    Some(seconds * 1_000_000_000)
}

/// What is given.
struct Answer {
    candles: Vec<Candle>,
    /// Through which position.
    sequence: Sequence,
    /// Where the range begins below retention: the event time from which on all trades are in it.
    complete_from: Option<EventTime>,
}

fn fold(reader: &Reader, question: Question, candles_max: usize) -> Result<Answer, ApiError> {
    let Question { instrument, interval_ns, from, to } = question;
    let read = |error: ReadError| ApiError::read(&error, "instrument");
    // As of one moment.
    let visible = reader.visible();
    let to = to.unwrap_or(EventTime::MAX);
    let nothing = |kept: KeptRange| {
        kept.nothing_found(reader).map_err(|error| ApiError::read(&error, "to"))?;
        Ok(Answer { candles: Vec::new(), sequence: visible, complete_from: kept.complete_from })
    };
    let Some((first, last)) = extent(reader, instrument).map_err(read)? else {
        return nothing(KeptRange::of(reader, from.unwrap_or(EventTime::MIN), to));
    };
    let (first, last) = (first.event().event_time(), last.event().event_time());
    let end = to.get().min(last.get());
    let starts_at = |time: i64| time.saturating_sub(time.rem_euclid(interval_ns));
    let from = match from {
        Some(from) => from.get(),
        None => starts_at(end).saturating_sub((CANDLES_DEFAULT - 1).saturating_mul(interval_ns)),
    };
    let count = i128::from(end) - i128::from(from.max(first.get()));
    let count = count / i128::from(interval_ns) + 1;
    if count > candles_max as i128 {
        return Err(ApiError::bad_request(
            format!("up to {count} candles, at most {candles_max} are given at once"),
            "from",
            "ask for a shorter range or a longer interval",
        ));
    }
    let from = EventTime(from);
    // Nothing before this position happened at or after that time, so nothing before it has to be looked at.
    let kept = KeptRange::of(reader, from, to);
    let begin = TapeQuery { from: kept.first, event_time_from: from, limit: Some(1), ..TapeQuery::default() };
    let begin = reader.query(&begin).map_err(read)?.next().transpose().map_err(read)?;
    let Some(first_position) = begin.map(|event| event.sequence()) else { return nothing(kept) };
    let busts = busts_between(reader, Some(instrument), first_position, visible).map_err(read)?;
    let mut candles = Candles::without(instrument, interval_ns, busts);
    let trades = TapeQuery {
        from: first_position,
        through: visible,
        instrument: Some(instrument),
        kinds: KindMask::of(&[Kind::TradeMatched]),
        event_time_from: from,
        event_time_through: to,
        ..TapeQuery::default()
    };
    for trade in reader.query(&trades).map_err(read)? {
        candles.apply(&trade.map_err(read)?.event());
    }
    let candles: Vec<Candle> = candles.iter().copied().collect();
    if candles.is_empty() {
        return nothing(kept);
    }
    Ok(Answer { candles, sequence: visible, complete_from: kept.complete_from })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_a_number_and_a_unit() {
        assert_eq!(interval_ns("1s"), Some(1_000_000_000));
        assert_eq!(interval_ns("15m"), Some(900_000_000_000));
        assert_eq!(interval_ns("1d"), Some(86_400_000_000_000));
        for wrong in ["", "1", "m", "0m", "-1m", "1w", "1.5h", "99999999999999999999s", "9000000d"] {
            assert_eq!(interval_ns(wrong), None, "{wrong}");
        }
    }
}
