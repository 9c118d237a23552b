//! Places on a tape as people write them: a sequence or a time.

use std::str::FromStr;
use std::time::Duration;

use matchtape_client::time::parse_rfc3339;
use matchtape_schemas::{EventTime, Sequence};

/// Whole numbers from here on are times in nanoseconds: 10^15 ns is 1970-01-12, and no tape has that many events.
const TIME_NS_MIN: u64 = 1_000_000_000_000_000;

/// A sequence, or an event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    Sequence(Sequence),
    Time(EventTime),
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(number) = text.parse::<u64>() {
            if number < TIME_NS_MIN {
                return Ok(Self::Sequence(Sequence(number)));
            }
            return i64::try_from(number)
                .map(|ns| Self::Time(EventTime(ns)))
                .map_err(|_| format!("{number} ns is beyond 64 bits (the year 2262)"));
        }
        parse_rfc3339(text).map(|ns| Self::Time(EventTime(ns))).ok_or_else(|| {
            format!(
                "{text:?} is neither a sequence (a number below 10^15), nor a time in ns since 1970 UTC \
                 (a number from 10^15 on), nor a time like 2023-07-11T01:15:00.28Z"
            )
        })
    }
}

/// A position, or the end of the tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    End,
    Position(Position),
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "end" { Ok(Self::End) } else { text.parse().map(Self::Position) }
    }
}

/// A length of time in nanoseconds: a whole number and one of `ns us ms s m h d`.
fn length_ns(text: &str) -> Result<i64, String> {
    let digits = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let unit_ns: i64 = match &text[digits..] {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 86_400_000_000_000,
        _ => {
            return Err(format!(
                "{text:?} is not a length of time: a whole number and one of ns, us, ms, s, m, h, d, as 250ms or 30d"
            ));
        }
    };
    let count: i64 =
        text[..digits].parse().map_err(|_| format!("{text:?} does not begin with a whole number"))?;
    count.checked_mul(unit_ns).ok_or_else(|| format!("{text:?} is too long"))
}

/// How long something may take or be apart; it may be nothing.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    length_ns(text).map(|ns| Duration::from_nanos(ns.unsigned_abs()))
}

/// A length of time that is not nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) ns: i64,
}

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match length_ns(text)? {
            0 => Err("it has to be longer than nothing".to_owned()),
            ns => Ok(Self { ns }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_sequences_below_ten_to_the_fifteen_and_times_from_there_on() {
        assert_eq!("999999999999999".parse(), Ok(Position::Sequence(Sequence(999_999_999_999_999))));
        assert_eq!("1000000000000000".parse(), Ok(Position::Time(EventTime(1_000_000_000_000_000))));
        assert_eq!(
            "2023-07-11T01:15:00.28Z".parse(),
            Ok(Position::Time(EventTime(1_689_038_100_280_000_000)))
        );
        assert_eq!("end".parse(), Ok(At::End));
        assert_eq!("7".parse(), Ok(At::Position(Position::Sequence(Sequence(7)))));
        for text in ["", "x", "-1", "18446744073709551615", "9223372036854775808", "1.5"] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read_by_the_same_rule_and_may_be_nothing() {
        assert_eq!(duration("15s"), Ok(Duration::from_secs(15)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for wrong in ["", "s", "3", "1w", "-1s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn intervals_are_a_number_and_a_unit() {
        assert_eq!("1m".parse::<Interval>().map(|interval| interval.ns), Ok(60_000_000_000));
        assert_eq!("250ms".parse::<Interval>().map(|interval| interval.ns), Ok(250_000_000));
        for text in ["", "m", "0s", "1", "1w", "-1s", "9999999999999999999d", "200000000d"] {
            assert!(text.parse::<Interval>().is_err(), "{text}");
        }
    }
}
