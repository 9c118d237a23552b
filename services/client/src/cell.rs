//! One value of a row: how it is written and read back.

use std::fmt;

use matchtape_market::{OrderStatus, Volume};
use matchtape_schemas::event::{
    AccountStatus, CancelReason, EventFlags, InstrumentClass, Liquidity, OrderType, RejectReason, Side,
    TimeInForce, TradingStatus,
};
use matchtape_schemas::{
    AcceptedTime, AccountId, Epoch, EventTime, InstrumentId, Kind, Notional, OrderId, ParticipantId, Price,
    ProducerId, ProducerSequence, Quantity, ReceiveTime, Sequence, TradeId, VenueSequence,
};

/// A value that rows hold.
pub trait Cell: Sized {
    /// Writes the value as it stands in JSON and CSV.
    fn show(&self, out: &mut dyn fmt::Write) -> fmt::Result;

    /// Writes the value as people read it, in tables.
    fn show_in_table(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.show(out)
    }

    /// The value that [`show`](Self::show) wrote.
    fn read(text: &str) -> Option<Self>;
}

macro_rules! plain_cells {
    ($($type:ty),*) => {$(
        impl Cell for $type {
            fn show(&self, out: &mut dyn fmt::Write) -> fmt::Result {
                write!(out, "{self}")
            }

            fn read(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}
plain_cells!(bool, u8, u16, u32, u64, i32, i64, Price, Quantity);

macro_rules! number_cells {
    ($($type:ident),*) => {$(
        impl Cell for $type {
            fn show(&self, out: &mut dyn fmt::Write) -> fmt::Result {
                write!(out, "{self}")
            }

            fn read(text: &str) -> Option<Self> {
                text.parse().ok().map($type)
            }
        }
    )*};
}
number_cells!(
    Sequence,
    Epoch,
    InstrumentId,
    OrderId,
    TradeId,
    AccountId,
    ParticipantId,
    ProducerId,
    ProducerSequence,
    VenueSequence
);

macro_rules! time_cells {
    ($($type:ident),*) => {$(
        impl Cell for $type {
            fn show(&self, out: &mut dyn fmt::Write) -> fmt::Result {
                write!(out, "{self}")
            }

            fn show_in_table(&self, out: &mut dyn fmt::Write) -> fmt::Result {
                // The least time of all stands for none: the first event of a tape, before any clock.
                if self.get() == i64::MIN { Ok(()) } else { out.write_str(&crate::time::rfc3339(self.get())) }
            }

            fn read(text: &str) -> Option<Self> {
                text.parse().ok().map($type)
            }
        }
    )*};
}
time_cells!(EventTime, AcceptedTime, ReceiveTime);

macro_rules! choice_cells {
    ($($type:ident),*) => {$(
        impl Cell for $type {
            fn show(&self, out: &mut dyn fmt::Write) -> fmt::Result {
                out.write_str(self.name())
            }

            fn read(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|choice| choice.name() == text)
            }
        }
    )*};
}
choice_cells!(
    AccountStatus,
    CancelReason,
    InstrumentClass,
    Kind,
    Liquidity,
    OrderStatus,
    OrderType,
    RejectReason,
    Side,
    TimeInForce,
    TradingStatus
);

impl Cell for String {
    fn show(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str(self)
    }

    /// Whatever is not printable is escaped: text from a tape must not steer a terminal.
    fn show_in_table(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.chars().try_for_each(|char| {
            if char.is_control() { write!(out, "{}", char.escape_default()) } else { out.write_char(char) }
        })
    }

    fn read(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl Cell for Volume {
    fn show(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write!(out, "{self}")
    }

    fn read(text: &str) -> Option<Self> {
        // 1e-9 units at a price of one are 1e-18 units of notional; see Display.
        let units = read_units(text, 9)?;
        Some(Self::from_units(u128::try_from(units).ok()?))
    }
}

impl Cell for Notional {
    fn show(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write!(out, "{self}")
    }

    fn read(text: &str) -> Option<Self> {
        read_units(text, 18).map(Self::from_units)
    }
}

/// `[-]digits[.digits]` in units of 10^-decimals.
fn read_units(text: &str, decimals: usize) -> Option<i128> {
    let (negative, magnitude) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = magnitude.split_once('.').unwrap_or((magnitude, ""));
    if whole.is_empty() || fraction.len() > decimals {
        return None;
    }
    let zeros = std::iter::repeat_n(b'0', decimals - fraction.len());
    let mut units: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()).chain(zeros) {
        if !digit.is_ascii_digit() {
            return None;
        }
        units = units.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
    }
    Some(if negative { -units } else { units })
}

/// The flags' names and bits, in the order they are written.
const FLAGS: [(&str, EventFlags); 4] = [
    ("last_of_group", EventFlags::LAST_OF_GROUP),
    ("late", EventFlags::LATE),
    ("reports_only", EventFlags::REPORTS_ONLY),
    ("snapshot", EventFlags::SNAPSHOT),
];

/// Names joined by `|`.
impl Cell for EventFlags {
    fn show(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let mut separator = "";
        for (name, flag) in FLAGS {
            if self.contains(flag) {
                write!(out, "{separator}{name}")?;
                separator = "|";
            }
        }
        Ok(())
    }

    fn read(text: &str) -> Option<Self> {
        let mut flags = Self::NONE;
        for name in text.split('|').filter(|name| !name.is_empty()) {
            flags = flags.with(FLAGS.iter().find(|(known, _)| *known == name)?.1);
        }
        Some(flags)
    }
}

struct Shown<'a, T>(&'a T);

impl<T: Cell> fmt::Display for Shown<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.show(f)
    }
}

/// Reads a value from a JSON string or number.
struct CellVisitor<T>(std::marker::PhantomData<T>);

impl<T: Cell> serde::de::Visitor<'_> for CellVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a whole number")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        T::read(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

/// A value as a JSON string.
pub(crate) mod text {
    use super::*;

    pub(crate) fn serialize<T: Cell, S: serde::Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Shown(value))
    }

    pub(crate) fn deserialize<'de, T: Cell, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        deserializer.deserialize_any(CellVisitor(std::marker::PhantomData))
    }
}

/// A value that may be absent as a JSON string.
pub(crate) mod maybe {
    use super::*;

    pub(crate) fn serialize<T: Cell, S: serde::Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => text::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, T: Cell, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        text::deserialize(deserializer).map(Some)
    }
}

/// A count as a JSON number.
pub(crate) mod number {
    use super::*;

    pub(crate) fn serialize<T: Copy + Into<Count>, S: serde::Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let Count(count) = (*value).into();
        serializer.serialize_u64(count)
    }

    pub(crate) use super::text::deserialize;
}

/// A count that may be absent as a JSON number.
pub(crate) mod some_number {
    use super::*;

    pub(crate) fn serialize<T: Copy + Into<Count>, S: serde::Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => number::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) use super::maybe::deserialize;
}

/// Something that this project counts.
pub(crate) struct Count(u64);

impl From<Sequence> for Count {
    fn from(sequence: Sequence) -> Self {
        Self(sequence.get())
    }
}

impl From<Epoch> for Count {
    fn from(epoch: Epoch) -> Self {
        Self(epoch.get())
    }
}

impl From<u32> for Count {
    fn from(count: u32) -> Self {
        Self(u64::from(count))
    }
}

impl From<u64> for Count {
    fn from(count: u64) -> Self {
        Self(count)
    }
}
