//! Lengths of time as people write them; places on a tape are the client's.

use std::str::FromStr;
use std::time::Duration;

pub(super) use matchtape_client::position::{At, Position};

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
