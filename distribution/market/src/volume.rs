//! A sum of quantities.

use std::fmt;

use matchtape_schemas::decimal::UNITS_PER_ONE;
use matchtape_schemas::{Notional, Quantity};

/// A sum of quantities in units of 1e-9. Every single quantity fits 64 bits, their sum need not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Volume(u128);

impl Volume {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From units of 1e-9.
    pub const fn from_units(units: u128) -> Self {
        Self(units)
    }

    /// In units of 1e-9.
    #[inline]
    pub const fn units(self) -> u128 {
        self.0
    }

    /// Whether it is nothing.
    #[inline]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// With a quantity more. 2^64 of the largest ones fit, so summing never overflows.
    #[inline]
    #[must_use]
    pub const fn plus(self, quantity: Quantity) -> Self {
        Self(self.0 + quantity.units() as u128)
    }

    /// With a quantity less.
    ///
    /// # Panics
    /// If the quantity was never added.
    #[inline]
    #[must_use]
    pub const fn minus(self, quantity: Quantity) -> Self {
        Self(self.0.checked_sub(quantity.units() as u128).expect("what is taken out was put in"))
    }
}

impl From<Quantity> for Volume {
    fn from(quantity: Quantity) -> Self {
        Self::ZERO.plus(quantity)
    }
}

impl fmt::Display for Volume {
    /// A decimal without trailing zeros.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Ok(units) = u64::try_from(self.0) {
            return fmt::Display::fmt(&Quantity::from_units(units), f);
        }
        // A volume of 1e-9 units is a notional of 1e-18 units at price one; sums that large have no use.
        let units = self.0.saturating_mul(UNITS_PER_ONE as u128).min(i128::MAX as u128);
        fmt::Display::fmt(&Notional::from_units(units as i128), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_beyond_64_bits_stay_exact() {
        let largest = Quantity::from_units(u64::MAX);
        let sum = Volume::ZERO.plus(largest).plus(largest);
        assert_eq!(sum.units(), 2 * u128::from(u64::MAX));
        assert_eq!(sum.minus(largest), Volume::from(largest));
        assert_eq!(sum.to_string(), "36893488147.41910323");
        assert_eq!(Volume::from(Quantity::from_units(1)).to_string(), "0.000000001");
        assert_eq!(Volume::ZERO.to_string(), "0");
    }
}
