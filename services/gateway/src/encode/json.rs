//! JSON text, field by field, into a string that is already there: no tree, no allocation per value.

use std::fmt::Write;

use matchtape_schemas::Price;
use matchtape_schemas::decimal::UNITS_PER_ONE;

/// An object being written.
pub(crate) struct Json<'a> {
    out: &'a mut String,
    first: bool,
}

impl<'a> Json<'a> {
    /// Opens an object.
    pub(crate) fn object(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, first: true }
    }

    /// Writes a key; the caller writes its value over what this returns.
    pub(crate) fn key(&mut self, name: &str) -> &mut String {
        if !self.first {
            self.out.push(',');
        }
        self.first = false;
        self.out.push('"');
        self.out.push_str(name);
        self.out.push_str("\":");
        self.out
    }

    pub(crate) fn number(&mut self, name: &str, value: u64) -> &mut Self {
        let out = self.key(name);
        push_unsigned(out, value.into());
        self
    }

    /// A 64-bit id or a time: a string, because JSON's numbers end at 2^53 in most languages.
    pub(crate) fn id(&mut self, name: &str, value: impl Into<i128>) -> &mut Self {
        let (out, value) = (self.key(name), value.into());
        out.push('"');
        if value < 0 {
            out.push('-');
        }
        push_unsigned(out, value.unsigned_abs());
        out.push('"');
        self
    }

    /// A word that needs no escaping.
    pub(crate) fn word(&mut self, name: &str, value: &str) -> &mut Self {
        let out = self.key(name);
        out.push('"');
        out.push_str(value);
        out.push('"');
        self
    }

    pub(crate) fn text(&mut self, name: &str, value: &str) -> &mut Self {
        push_text(self.key(name), value);
        self
    }

    pub(crate) fn flag(&mut self, name: &str, value: bool) -> &mut Self {
        self.key(name).push_str(if value { "true" } else { "false" });
        self
    }

    /// A price as a decimal string; left out where there is none.
    pub(crate) fn price(&mut self, name: &str, price: Price) -> &mut Self {
        if !price.is_none() {
            push_price(self.key(name), price);
        }
        self
    }

    /// A quantity or a volume, in units of 1e-9, as a decimal string.
    pub(crate) fn units(&mut self, name: &str, units: impl Into<u128>) -> &mut Self {
        push_units(self.key(name), units.into());
        self
    }

    pub(crate) fn close(&mut self) {
        self.out.push('}');
    }
}

/// Appends a quoted, escaped string.
pub(crate) fn push_text(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if u32::from(control) < 0x20 => {
                write!(out, "\\u{:04x}", u32::from(control)).expect("strings take all text");
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// Appends a price as a decimal string, `null` where there is none.
pub(crate) fn push_price(out: &mut String, price: Price) {
    if price.is_none() {
        return out.push_str("null");
    }
    out.push('"');
    if price.units() < 0 {
        out.push('-');
    }
    push_decimal(out, price.units().unsigned_abs().into());
    out.push('"');
}

/// Appends units of 1e-9 as a decimal string.
pub(crate) fn push_units(out: &mut String, units: u128) {
    out.push('"');
    push_decimal(out, units);
    out.push('"');
}

fn push_decimal(out: &mut String, units: u128) {
    let one = UNITS_PER_ONE as u128;
    push_unsigned(out, units / one);
    let mut fraction = (units % one) as u32;
    if fraction == 0 {
        return;
    }
    let mut digits = [b'0'; 9];
    let mut used = 0;
    for place in (0..9).rev() {
        digits[place] = b'0' + (fraction % 10) as u8;
        if digits[place] != b'0' && used == 0 {
            used = place + 1;
        }
        fraction /= 10;
    }
    out.push('.');
    digits[..used].iter().for_each(|digit| out.push(char::from(*digit)));
}

fn push_unsigned(out: &mut String, value: u128) {
    if let Ok(mut small) = u64::try_from(value) {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (small % 10) as u8;
            small /= 10;
            if small == 0 {
                break;
            }
        }
        digits[at..].iter().for_each(|digit| out.push(char::from(*digit)));
    } else {
        write!(out, "{value}").expect("strings take all text");
    }
}

#[cfg(test)]
mod tests {
    use matchtape_schemas::Quantity;

    use super::*;

    #[test]
    fn decimals_are_written_as_the_types_print_them() {
        let mut units =
            vec![0, 1, 10, 999_999_999, 1_000_000_000, 4_810_250_000_000, i64::MAX, -1, -500_000_000];
        units.extend((0..63).map(|bit| 1i64 << bit));
        for units in units {
            let mut out = String::new();
            push_price(&mut out, Price::from_units(units));
            assert_eq!(out, format!("\"{}\"", Price::from_units(units)));
            let mut out = String::new();
            push_units(&mut out, units.unsigned_abs().into());
            assert_eq!(out, format!("\"{}\"", Quantity::from_units(units.unsigned_abs())));
        }
        let mut out = String::new();
        push_price(&mut out, Price::NONE);
        push_units(&mut out, u128::from(u64::MAX) * 1_000_000_000_000);
        assert_eq!(out, "null\"18446744073709551615000\"");
    }

    #[test]
    fn what_is_written_is_json_also_for_hostile_text() {
        let mut out = String::new();
        let mut object = Json::object(&mut out);
        object.text("name", "a\"\\\n\u{0}\u{1f}恒</script>").id("id", u64::MAX).id("time", i64::MIN);
        object.number("n", 7).flag("yes", true).word("kind", "x").close();
        let read: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(read["name"], "a\"\\\n\u{0}\u{1f}恒</script>");
        assert_eq!(read["id"], "18446744073709551615");
        assert_eq!(read["time"], "-9223372036854775808");
        assert_eq!((&read["n"], &read["yes"], &read["kind"]), (&7.into(), &true.into(), &"x".into()));
    }
}
