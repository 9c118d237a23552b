//! Times as people write them: RFC 3339, to the nanosecond, without a time zone database.

use std::fmt::Write;

const NS_PER_SECOND: i64 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Days since 1970-01-01 of a date of the Gregorian calendar; `None` if there is no such date. Years 0 to 9999.
///
/// The algorithm is Howard Hinnant's `days_from_civil`: years begin in March, so the leap day comes last.
pub fn days_of(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(0..=9999).contains(&year)
        || !(1..=12).contains(&month)
        || day < 1
        || day > days_in_month(year, month)
    {
        return None;
    }
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Year, month and day of days since 1970-01-01.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Nanoseconds since 1970 UTC as `2023-07-11T01:15:00.28Z`: the fraction in groups of three digits, as many as needed.
pub fn rfc3339(ns: i64) -> String {
    let (seconds, fraction) = (ns.div_euclid(NS_PER_SECOND), ns.rem_euclid(NS_PER_SECOND));
    let (days, second) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
    let (year, month, day) = date_of(days);
    let mut text = format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
        second / 3600,
        second / 60 % 60,
        second % 60
    );
    if fraction % 1_000_000 == 0 {
        if fraction != 0 {
            write!(text, ".{:03}", fraction / 1_000_000).expect("strings take all text");
        }
    } else if fraction % 1_000 == 0 {
        write!(text, ".{:06}", fraction / 1_000).expect("strings take all text");
    } else {
        write!(text, ".{fraction:09}").expect("strings take all text");
    }
    text.push('Z');
    text
}

/// Nanoseconds since 1970 UTC of `YYYY-MM-DD[(T| )HH:MM[:SS[.fraction]][Z|±HH:MM]]`; without an offset it is UTC.
///
/// `None` for anything else, more than nine decimals, and years outside 1678 to 2261, which 64 bits cannot hold.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let days = match (bytes.get(4), bytes.get(7)) {
        (Some(b'-'), Some(b'-')) => days_of(digits(text, 0, 4)?, digits(text, 5, 2)?, digits(text, 8, 2)?)?,
        _ => return None,
    };
    let mut ns = days.checked_mul(SECONDS_PER_DAY * NS_PER_SECOND)?;
    if bytes.len() == 10 {
        return Some(ns);
    }
    if !matches!(bytes[10], b'T' | b't' | b' ') || bytes.get(13) != Some(&b':') {
        return None;
    }
    let (hour, minute) = (digits(text, 11, 2)?, digits(text, 14, 2)?);
    let (mut second, mut fraction, mut at) = (0, 0, 16);
    if bytes.get(at) == Some(&b':') {
        second = digits(text, 17, 2)?;
        at = 19;
        if bytes.get(at) == Some(&b'.') {
            let count = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            if count == 0 || count > 9 {
                return None;
            }
            fraction = digits(text, at + 1, count)? * 10i64.pow(9 - count as u32);
            at += 1 + count;
        }
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let offset = match bytes.get(at) {
        None => 0,
        Some(b'Z' | b'z') if bytes.len() == at + 1 => 0,
        Some(sign @ (b'+' | b'-')) if bytes.len() == at + 6 && bytes[at + 3] == b':' => {
            let (hours, minutes) = (digits(text, at + 1, 2)?, digits(text, at + 4, 2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            if *sign == b'+' { seconds } else { -seconds }
        }
        Some(_) => return None,
    };
    let seconds = hour * 3600 + minute * 60 + second - offset;
    ns = ns.checked_add(seconds * NS_PER_SECOND)?;
    ns.checked_add(fraction)
}

fn digits(text: &str, at: usize, count: usize) -> Option<i64> {
    let digits = text.get(at..at + count)?;
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_written_and_read_as_rfc_3339() {
        for (text, ns) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2023-07-11T01:15:00.280Z", 1_689_038_100_280_000_000),
            ("2023-12-25T23:00:00.000000001Z", 1_703_545_200_000_000_001),
            ("2000-02-29T23:59:59.000100Z", 951_868_799_000_100_000),
            ("1969-12-31T23:59:59.999Z", -1_000_000),
        ] {
            assert_eq!(rfc3339(ns), text);
            assert_eq!(parse_rfc3339(text), Some(ns));
        }
        assert_eq!(parse_rfc3339("2023-07-11T09:15:00.28+08:00"), Some(1_689_038_100_280_000_000));
        assert_eq!(parse_rfc3339("2023-07-10T21:45:00.28-03:30"), Some(1_689_038_100_280_000_000));
        assert_eq!(parse_rfc3339("2023-07-11 01:15"), Some(1_689_038_100_000_000_000));
        assert_eq!(parse_rfc3339("2023-07-11"), Some(1_689_033_600_000_000_000));
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for text in [
            "",
            "2023",
            "2023-13-01",
            "2023-02-29",
            "2023-07-11T",
            "2023-07-11T24:00:00Z",
            "2023-07-11T01:60Z",
            "2023-07-11T01:15:00.Z",
            "2023-07-11T01:15:00.1234567890Z",
            "2023-07-11T01:15:00+8",
            "1600-01-01",
            "2023-07-11T01:15:00Zz",
            "2023-07-11T01:15:00+25:00",
            "２０２３-07-11",
            "+023-07-11",
            "2023-07-1１",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_time_reads_back(ns in any::<i64>()) {
            prop_assert_eq!(parse_rfc3339(&rfc3339(ns)).unwrap_or(ns), ns);
            prop_assert!((-9_214_560_000_000_000_000..9_214_646_400_000_000_000).contains(&ns) <= parse_rfc3339(&rfc3339(ns)).is_some());
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}", digits in "[0-9TZ:.+ -]{0,40}") {
            let _ = (parse_rfc3339(&text), parse_rfc3339(&digits));
        }
    }
}
