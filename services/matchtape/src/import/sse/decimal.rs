//! Numbers and times as these files write them, digit by digit: no floating point.

use matchtape_client::time::days_of;
use matchtape_schemas::{Price, Quantity};

const NS_PER_MS: i64 = 1_000_000;
const MS_PER_DAY: i64 = 86_400_000;
/// Asia/Shanghai is eight hours ahead of UTC.
const SHANGHAI_MS: i64 = 8 * 3_600_000;
/// The same in nanoseconds.
pub(super) const SHANGHAI_NS: i64 = SHANGHAI_MS * NS_PER_MS;
const NS_PER_DAY: i64 = MS_PER_DAY * NS_PER_MS;
/// 1/10000, in units of 1e-9.
const PRICE_UNIT: i64 = 100_000;

/// A price in decimal text with binary-float noise, rounded to 1/10000, half up.
pub(super) fn price(text: &[u8]) -> Option<Price> {
    let (whole, fraction) = split(text)?;
    let mut steps = number(whole)?;
    for place in 0..4 {
        let digit = fraction.get(place).map_or(0, |digit| u64::from(digit - b'0'));
        steps = steps.checked_mul(10)?.checked_add(digit)?;
    }
    if fraction.get(4).is_some_and(|digit| *digit >= b'5') {
        steps = steps.checked_add(1)?;
    }
    i64::try_from(steps).ok()?.checked_mul(PRICE_UNIT).map(Price::from_units)
}

/// A whole number of shares; decimals must be zero.
pub(super) fn quantity(text: &[u8]) -> Option<Quantity> {
    let (whole, fraction) = split(text)?;
    if fraction.iter().any(|digit| *digit != b'0') {
        return None;
    }
    Quantity::from_whole(number(whole)?)
}

/// `digits[.digits]` in its two parts, both all digits.
fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(point) if point + 1 < text.len() => (&text[..point], &text[point + 1..]),
        Some(_) => return None,
        None => (text, &[][..]),
    };
    let digits = |text: &[u8]| text.iter().all(u8::is_ascii_digit);
    (!whole.is_empty() && digits(whole) && digits(fraction)).then_some((whole, fraction))
}

/// A whole number.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, digit| {
        if !digit.is_ascii_digit() {
            return None;
        }
        number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })
}

/// `YYYY.MM.DD` as days since 1970.
pub(super) fn date(text: &[u8]) -> Option<i64> {
    if text.len() != 10 || text[4] != b'.' || text[7] != b'.' {
        return None;
    }
    let part = |range: std::ops::Range<usize>| number(&text[range]).map(|number| number as i64);
    days_of(part(0..4)?, part(5..7)?, part(8..10)?)
}

/// `HH:MM:SS.mmm` as milliseconds of the day.
pub(super) fn time_of_day(text: &[u8]) -> Option<i64> {
    if text.len() != 12 || text[2] != b':' || text[5] != b':' || text[8] != b'.' {
        return None;
    }
    let part = |range: std::ops::Range<usize>| number(&text[range]).map(|number| number as i64);
    let (hour, minute, second, millisecond) = (part(0..2)?, part(3..5)?, part(6..8)?, part(9..12)?);
    (hour < 24 && minute < 60 && second < 60)
        .then_some(((hour * 60 + minute) * 60 + second) * 1000 + millisecond)
}

/// Days and milliseconds in Shanghai as nanoseconds since 1970 UTC.
pub(super) fn utc_ns(days: i64, milliseconds: i64) -> Option<i64> {
    (days * MS_PER_DAY + milliseconds - SHANGHAI_MS).checked_mul(NS_PER_MS)
}

/// The day in Shanghai of a time in nanoseconds since 1970 UTC, as days since 1970.
pub(super) fn day_of_utc_ns(ns: i64) -> i64 {
    ns.saturating_add(SHANGHAI_NS).div_euclid(NS_PER_DAY)
}

/// `YYYY.MM.DDTHH:MM:SS.mmm` as nanoseconds since 1970 UTC.
pub(super) fn date_and_time(text: &[u8]) -> Option<i64> {
    if text.len() != 23 || text[10] != b'T' {
        return None;
    }
    utc_ns(date(&text[..10])?, time_of_day(&text[11..])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn float_noise_is_rounded_to_a_ten_thousandth_half_up() {
        for (text, expected) in [
            ("15.929999999999999", "15.93"),
            ("21.420000000000001", "21.42"),
            ("14.56", "14.56"),
            ("7", "7"),
            ("0.00005", "0.0001"),
            ("0.00004999999999999999999999", "0"),
            ("9.99995", "10"),
            ("999.99994999", "999.9999"),
        ] {
            assert_eq!(price(text.as_bytes()), Some(expected.parse().unwrap()), "{text}");
        }
        for text in ["", ".", ".5", "5.", "-1", "+1", "1e3", "1,5", " 1", "1.2.3", "99999999999999999999"] {
            assert_eq!(price(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn quantities_are_whole() {
        assert_eq!(quantity(b"300"), Quantity::from_whole(300));
        assert_eq!(quantity(b"300.000"), Quantity::from_whole(300));
        for text in ["300.5", "", "x", "-3", "18446744074"] {
            assert_eq!(quantity(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn shanghai_time_becomes_utc() {
        let days = date(b"2023.07.11").unwrap();
        assert_eq!(utc_ns(days, time_of_day(b"09:15:00.280").unwrap()), Some(1_689_038_100_280_000_000));
        assert_eq!(date_and_time(b"2023.07.11T15:00:00.690"), Some(1_689_058_800_690_000_000));
        for text in
            ["24:00:00.000", "09:60:00.000", "09:00:60.000", "9:00:00.000", "09:00:00", "09-00-00.000"]
        {
            assert_eq!(time_of_day(text.as_bytes()), None, "{text}");
        }
        assert_eq!((date(b"2023.02.29"), date(b"2023-07-11"), date(b"20230711")), (None, None, None));
        assert_eq!(date_and_time("2023.07.11T15:00:00.69é".as_bytes()), None);
        assert_eq!(date_and_time(b"9999.12.31T00:00:00.000"), None, "beyond 64 bits of nanoseconds");
    }
}
