//! Places on a tape as people and programs write them, the same on the command line, over HTTP and WebSocket.

use std::fmt;
use std::str::FromStr;

use matchtape_schemas::{EventTime, Sequence};

use crate::time::{parse_rfc3339, rfc3339};

/// Whole numbers from here on are times in nanoseconds: 10^15 ns is 1970-01-12, and no tape has that many events.
const TIME_NS_MIN: u128 = 1_000_000_000_000_000;

/// A sequence, or an event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// A whole number below 10^15.
    Sequence(Sequence),
    /// Nanoseconds since 1970 UTC as a whole number of 10^15 or more (before 1970 of -10^15 or less), or RFC 3339.
    Time(EventTime),
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<i128>() {
            Ok(number) if number.unsigned_abs() >= TIME_NS_MIN => {
                return i64::try_from(number)
                    .map(|ns| Self::Time(EventTime(ns)))
                    .map_err(|_| format!("{number} ns is beyond 64 bits (the years 1677 to 2262)"));
            }
            Ok(number) if number >= 0 => return Ok(Self::Sequence(Sequence(number as u64))),
            Ok(_) | Err(_) => {}
        }
        parse_rfc3339(text).map(|ns| Self::Time(EventTime(ns))).ok_or_else(|| {
            format!(
                "{text:?} is neither a sequence (a number below 10^15), nor a time in ns since 1970 UTC \
                 (a number from 10^15 on), nor a time like 2023-07-11T01:15:00.28Z"
            )
        })
    }
}

/// As it reads back.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sequence(sequence) => sequence.fmt(f),
            Self::Time(time) if u128::from(time.get().unsigned_abs()) >= TIME_NS_MIN => time.fmt(f),
            Self::Time(time) => f.write_str(&rfc3339(time.get())),
        }
    }
}

/// A position, or the end of the tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The last visible group's end.
    End,
    /// That position.
    Position(Position),
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "end" { Ok(Self::End) } else { text.parse().map(Self::Position) }
    }
}

/// A time where no sequence can be meant: any whole number is nanoseconds since 1970 UTC.
pub fn parse_time(text: &str) -> Result<i64, String> {
    text.parse().ok().or_else(|| parse_rfc3339(text)).ok_or_else(|| {
        format!("{text:?} is neither a time like 2023-07-11T01:15:00.28Z nor nanoseconds since 1970 UTC")
    })
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
        for text in ["", "x", "-1", "18446744073709551615", "9223372036854775808", "1.5", "1e9", "7ns"] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_position_reads_back_as_it_is_written() {
        for position in [
            Position::Sequence(Sequence(0)),
            Position::Sequence(Sequence(999_999_999_999_999)),
            Position::Time(EventTime(1)),
            Position::Time(EventTime(-1)),
            Position::Time(EventTime(1_703_545_200_000_000_001)),
            Position::Time(EventTime(i64::MIN)),
            Position::Time(EventTime(i64::MAX)),
        ] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
    }

    #[test]
    fn where_only_a_time_can_be_meant_every_whole_number_is_one() {
        assert_eq!(parse_time("7"), Ok(7));
        assert_eq!(parse_time("-7"), Ok(-7));
        assert_eq!(parse_time("2023-12-25T23:00:00Z"), Ok(1_703_545_200_000_000_000));
        for text in ["", "x", "1.5", "9223372036854775808", "7ns"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
