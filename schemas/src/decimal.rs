//! Fixed-point prices and quantities in units of 1e-9, and their exact product.
//!
//! There is no floating point anywhere: text is parsed digit by digit, every conversion is checked, and a value that
//! does not fit is an error that says so.

use std::fmt;
use std::str::FromStr;

use rkyv::{Archive, Deserialize, Serialize};

/// Units in one: prices and quantities carry nine decimals.
pub const UNITS_PER_ONE: i64 = 1_000_000_000;
const DECIMALS: usize = 9;

/// A price in units of 1e-9; may be negative (spreads, some futures).
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[rkyv(derive(Clone, Copy, Debug))]
pub struct Price(i64);

/// A quantity in units of 1e-9.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[rkyv(derive(Clone, Copy, Debug))]
pub struct Quantity(u64);

/// Price times quantity, in units of 1e-18.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Notional(i128);

/// A decimal that cannot be represented.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
pub enum DecimalError {
    /// The text is not `[-]digits[.digits]`.
    #[error("{0:?} is not a decimal number")]
    Malformed(String),
    /// More than nine decimals that are not zero.
    #[error("{0:?} has more than 9 decimals")]
    TooPrecise(String),
    /// Outside what 64 bits of 1e-9 units hold.
    #[error("{0:?} does not fit 64 bits in units of 1e-9")]
    Overflow(String),
}

impl Default for Price {
    fn default() -> Self {
        Self::NONE
    }
}

impl Price {
    /// No price: a market order, a record without one. Below every real price.
    pub const NONE: Self = Self(i64::MIN);
    /// The price zero, which is a real price.
    pub const ZERO: Self = Self(0);

    /// From units of 1e-9. `i64::MIN` is [`Price::NONE`].
    #[inline]
    pub const fn from_units(units: i64) -> Self {
        Self(units)
    }

    /// In units of 1e-9.
    #[inline]
    pub const fn units(self) -> i64 {
        self.0
    }

    /// Whether there is no price.
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == i64::MIN
    }

    /// Price times quantity, exactly.
    ///
    /// Returns `None` when there is no price or the product needs more than 127 bits.
    pub fn times(self, quantity: Quantity) -> Option<Notional> {
        if self.is_none() {
            return None;
        }
        i128::from(self.0).checked_mul(i128::from(quantity.0)).map(Notional)
    }
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From units of 1e-9.
    #[inline]
    pub const fn from_units(units: u64) -> Self {
        Self(units)
    }

    /// From a whole number of shares or contracts; `None` above 18.4e9.
    pub const fn from_whole(whole: u64) -> Option<Self> {
        match whole.checked_mul(UNITS_PER_ONE as u64) {
            Some(units) => Some(Self(units)),
            None => None,
        }
    }

    /// In units of 1e-9.
    #[inline]
    pub const fn units(self) -> u64 {
        self.0
    }

    /// Whether it is nothing.
    #[inline]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum, or `None` on overflow.
    #[inline]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(units) => Some(Self(units)),
            None => None,
        }
    }

    /// The difference, or `None` below zero.
    #[inline]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(units) => Some(Self(units)),
            None => None,
        }
    }

    /// The difference, zero where it would be negative.
    #[inline]
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Notional {
    /// From units of 1e-18.
    pub const fn from_units(units: i128) -> Self {
        Self(units)
    }

    /// In units of 1e-18.
    pub const fn units(self) -> i128 {
        self.0
    }

    /// The sum, or `None` on overflow.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(units) => Some(Self(units)),
            None => None,
        }
    }
}

impl ArchivedPrice {
    /// The native value of this archived field.
    #[inline]
    pub fn get(&self) -> Price {
        Price(self.0.to_native())
    }
}

impl ArchivedQuantity {
    /// The native value of this archived field.
    #[inline]
    pub fn get(&self) -> Quantity {
        Quantity(self.0.to_native())
    }
}

/// The magnitude of `[-]digits[.digits]` in units of 1e-9, and whether it is negative.
fn parse_units(text: &str) -> Result<(bool, u128), DecimalError> {
    let malformed = || DecimalError::Malformed(text.to_owned());
    let (negative, magnitude) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = magnitude.split_once('.').unwrap_or((magnitude, ""));
    if whole.is_empty() && fraction.is_empty() || magnitude.ends_with('.') {
        return Err(malformed());
    }
    let mut units: u128 = 0;
    for digit in
        whole.bytes().chain((0..DECIMALS).map(|place| *fraction.as_bytes().get(place).unwrap_or(&b'0')))
    {
        if !digit.is_ascii_digit() {
            return Err(malformed());
        }
        units = units
            .checked_mul(10)
            .and_then(|shifted| shifted.checked_add(u128::from(digit - b'0')))
            .ok_or_else(|| DecimalError::Overflow(text.to_owned()))?;
    }
    for digit in fraction.bytes().skip(DECIMALS) {
        match digit {
            b'0' => {}
            b'1'..=b'9' => return Err(DecimalError::TooPrecise(text.to_owned())),
            _ => return Err(malformed()),
        }
    }
    Ok((negative, units))
}

/// A sign, the 39 digits of the largest magnitude and a point.
const TEXT_BYTES: usize = 1 + 39 + 1;

/// Writes `units` with `decimals` places (18 at most), without trailing zeros. Feeds and checksums of books are made of
/// these, so digits are put where they belong, from the last to the first, and nothing is allocated.
fn write_decimal(f: &mut fmt::Formatter<'_>, negative: bool, units: u128, decimals: usize) -> fmt::Result {
    let one = 10u64.pow(decimals as u32);
    // Numbers of 128 bits are divided slowly, and few need it.
    let (mut whole, mut fraction) = match u64::try_from(units) {
        Ok(units) => (u128::from(units / one), units % one),
        Err(_) => (units / u128::from(one), (units % u128::from(one)) as u64),
    };
    let (mut text, mut at) = ([0; TEXT_BYTES], TEXT_BYTES);
    let mut put = |byte: u8| {
        at -= 1;
        text[at] = byte;
    };
    if fraction != 0 {
        let mut places = decimals;
        while fraction % 10 == 0 {
            (fraction, places) = (fraction / 10, places - 1);
        }
        for _ in 0..places {
            put(b'0' + (fraction % 10) as u8);
            fraction /= 10;
        }
        put(b'.');
    }
    while whole > u128::from(u64::MAX) {
        put(b'0' + (whole % 10) as u8);
        whole /= 10;
    }
    let mut whole = whole as u64;
    loop {
        put(b'0' + (whole % 10) as u8);
        whole /= 10;
        if whole == 0 {
            break;
        }
    }
    if negative && units != 0 {
        put(b'-');
    }
    f.pad(str::from_utf8(&text[at..]).expect("digits are ASCII"))
}

impl FromStr for Price {
    type Err = DecimalError;

    fn from_str(text: &str) -> Result<Self, DecimalError> {
        let (negative, units) = parse_units(text)?;
        let units = i64::try_from(units).map_err(|_| DecimalError::Overflow(text.to_owned()))?;
        Ok(Self(if negative { -units } else { units }))
    }
}

impl FromStr for Quantity {
    type Err = DecimalError;

    fn from_str(text: &str) -> Result<Self, DecimalError> {
        let (negative, units) = parse_units(text)?;
        if negative && units != 0 {
            return Err(DecimalError::Malformed(text.to_owned()));
        }
        u64::try_from(units).map(Self).map_err(|_| DecimalError::Overflow(text.to_owned()))
    }
}

impl fmt::Display for Price {
    /// A decimal without trailing zeros; nothing where there is no price.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.pad("");
        }
        write_decimal(f, self.0 < 0, u128::from(self.0.unsigned_abs()), DECIMALS)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, false, u128::from(self.0), DECIMALS)
    }
}

impl fmt::Display for Notional {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, self.0 < 0, self.0.unsigned_abs(), 2 * DECIMALS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decimals_read_and_print_without_trailing_zeros() {
        for (text, units, printed) in [
            ("15.93", 15_930_000_000, "15.93"),
            ("-0.50", -500_000_000, "-0.5"),
            ("4810.00", 4_810_000_000_000, "4810"),
            (".000000001", 1, "0.000000001"),
            ("0.0000000010000", 1, "0.000000001"),
            ("-0", 0, "0"),
            ("9223372036.854775807", i64::MAX, "9223372036.854775807"),
            ("-9223372036.854775807", -i64::MAX, "-9223372036.854775807"),
        ] {
            let price: Price = text.parse().unwrap();
            assert_eq!((price.units(), price.to_string().as_str()), (units, printed), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_represented_is_an_error_that_says_so() {
        use DecimalError::*;
        let price = |text: &str| text.parse::<Price>().unwrap_err();
        for text in ["", "-", ".", "1.", "1e3", "+1", " 1", "1.2.3", "0x1", "1.0000000000x"] {
            assert_eq!(price(text), Malformed(text.to_owned()), "{text}");
        }
        assert_eq!(price("0.0000000001"), TooPrecise("0.0000000001".into()));
        assert_eq!(price("9223372036.854775808"), Overflow("9223372036.854775808".into()));
        assert_eq!("-1".parse::<Quantity>().unwrap_err(), Malformed("-1".into()));
        assert_eq!(
            "18446744073.709551616".parse::<Quantity>().unwrap_err(),
            Overflow("18446744073.709551616".into())
        );
        assert_eq!(Quantity::from_whole(18_446_744_074), None);
    }

    #[test]
    fn a_notional_is_the_exact_product() {
        let notional = "4810.25".parse::<Price>().unwrap().times("0.1".parse().unwrap()).unwrap();
        assert_eq!(notional.to_string(), "481.025");
        assert_eq!(format!("{notional:>9}|{:<4}|", Price::from_units(-500_000_000)), "  481.025|-0.5|");
        let largest = Notional::from_units(i128::MAX).to_string();
        assert_eq!(largest, "170141183460469231731.687303715884105727");
        assert_eq!(Notional::from_units(i128::MIN + 1).to_string(), format!("-{largest}"));
        assert_eq!(Price::NONE.times(Quantity::from_units(1)), None);
    }

    proptest! {
        #[test]
        fn every_price_survives_printing(units in (i64::MIN + 1)..=i64::MAX) {
            let price = Price::from_units(units);
            prop_assert_eq!(price.to_string().parse::<Price>().unwrap(), price);
        }

        #[test]
        fn every_quantity_survives_printing(units: u64) {
            let quantity = Quantity::from_units(units);
            prop_assert_eq!(quantity.to_string().parse::<Quantity>().unwrap(), quantity);
        }

        #[test]
        fn no_text_makes_parsing_panic(text in ".{0,40}") {
            let _ = text.parse::<Price>();
            let _ = text.parse::<Quantity>();
        }
    }
}
