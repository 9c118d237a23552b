//! Persisted numbers: the kinds of events. A number, once released, never changes its meaning and is never reused;
//! retired ones stay listed here.
//!
//! Every kind's number is below 64, so that a set of kinds is one `u64` mask ([`KindMask`]).

use std::fmt;

use crate::event::{
    AccountChanged, AccountOpened, BookCleared, EpochEnded, EpochStarted, InstrumentDefined, OrderAccepted,
    OrderCancelled, OrderExecuted, OrderRejected, OrderReplaced, PositionChanged, SessionClosed,
    SessionOpened, StateDeleted, StateSet, TimeAdvanced, TradeBusted, TradeMatched, TradingStatusChanged,
};
use crate::event::{Payload, PayloadError, Shape};

macro_rules! kinds {
    ($($number:literal $kind:ident $name:literal,)*) => {
        /// What an event says. The numbers are persisted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Kind {
            $(#[doc = concat!("See [`", stringify!($kind), "`](struct@crate::event::", stringify!($kind), ").")]
              $kind = $number,)*
        }

        impl Kind {
            /// Every kind, by number.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// The kind with this persisted number.
            #[inline]
            pub const fn from_tag(tag: u16) -> Option<Self> {
                match tag {
                    $($number => Some(Self::$kind),)*
                    _ => None,
                }
            }

            /// The snake_case name used in queries and JSON.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }

        /// What an event says, as native values.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "every variant holds the struct of its name, documented there")]
        pub enum Body {
            $($kind($kind),)*
        }

        /// What an event says, where it lies.
        #[derive(Clone, Copy, Debug)]
        #[expect(missing_docs, reason = "every variant shows the struct of its name, documented there")]
        pub enum BodyRef<'a> {
            $($kind(<$kind as Payload>::View<'a>),)*
        }

        impl Body {
            /// Which kind this is.
            #[inline]
            pub const fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind,)*
                }
            }

            /// How many bytes the payload takes: a multiple of 16.
            #[inline]
            pub fn encoded_len(&self) -> usize {
                match self {
                    $(Self::$kind(payload) => payload.encoded_len(),)*
                }
            }

            /// Writes the payload over `out`, which has exactly [`encoded_len`](Self::encoded_len) bytes.
            #[inline]
            pub fn encode(&self, out: &mut [u8]) {
                match self {
                    $(Self::$kind(payload) => payload.encode(out),)*
                }
            }
        }

        $(impl From<$kind> for Body {
            #[inline]
            fn from(payload: $kind) -> Self {
                Self::$kind(payload)
            }
        })*

        impl BodyRef<'_> {
            /// The native values.
            pub fn to_body(&self) -> Body {
                match self {
                    $(Self::$kind(view) => Body::$kind(<$kind as Payload>::native(*view)),)*
                }
            }
        }

        /// By number, what the events of a kind look like.
        static SHAPES: [Shape; 64] = {
            let mut shapes = [Shape::NONE; 64];
            $(shapes[$number] = <$kind as Payload>::SHAPE;)*
            shapes
        };

        /// Checks that `bytes` are a valid payload of `kind`.
        #[inline]
        pub(crate) fn check(kind: Kind, bytes: &[u8]) -> Result<(), PayloadError> {
            match kind {
                $(Kind::$kind => <$kind as Payload>::check(bytes),)*
            }
        }

        /// Views `bytes` as a payload of `kind`.
        ///
        /// # Safety
        /// [`check`] has returned `Ok` for this kind and these bytes, and they have not changed since.
        #[inline]
        pub(crate) unsafe fn view<'a>(kind: Kind, bytes: &'a [u8]) -> BodyRef<'a> {
            match kind {
                // SAFETY: the caller's promise is the one `Payload::view` asks for.
                $(Kind::$kind => BodyRef::$kind(unsafe { <$kind as Payload>::view(bytes) }),)*
            }
        }
    };
}

kinds! {
    1 OrderAccepted "order_accepted",
    2 OrderRejected "order_rejected",
    3 OrderReplaced "order_replaced",
    4 OrderCancelled "order_cancelled",
    5 OrderExecuted "order_executed",
    16 TradeMatched "trade_matched",
    17 TradeBusted "trade_busted",
    24 InstrumentDefined "instrument_defined",
    25 TradingStatusChanged "trading_status_changed",
    26 BookCleared "book_cleared",
    32 SessionOpened "session_opened",
    33 SessionClosed "session_closed",
    40 AccountOpened "account_opened",
    41 AccountChanged "account_changed",
    42 PositionChanged "position_changed",
    48 StateSet "state_set",
    49 StateDeleted "state_deleted",
    56 EpochStarted "epoch_started",
    57 EpochEnded "epoch_ended",
    58 TimeAdvanced "time_advanced",
}

/// The kind of the event that starts `bytes`, if one look at length, tag and choices shows that these are as they should be.
/// `None` says nothing.
#[inline]
pub(crate) fn plainly(bytes: &[u8]) -> Option<Kind> {
    let [low, high, ..] = *bytes.get(4..)? else { return None };
    SHAPES.get(usize::from(u16::from_le_bytes([low, high])))?.fits(bytes)
}

impl Kind {
    /// The persisted number.
    #[inline]
    pub const fn tag(self) -> u16 {
        self as u16
    }

    /// The kind with this snake_case name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A set of kinds: bit n stands for the kind with number n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct KindMask(pub u64);

impl KindMask {
    /// No kind.
    pub const NONE: Self = Self(0);
    /// Every kind, also those of later releases.
    pub const ALL: Self = Self(u64::MAX);
    /// Topic `orders`.
    pub const ORDERS: Self = Self::of(&[
        Kind::OrderAccepted,
        Kind::OrderRejected,
        Kind::OrderReplaced,
        Kind::OrderCancelled,
        Kind::OrderExecuted,
    ]);
    /// Topic `trades`.
    pub const TRADES: Self = Self::of(&[Kind::TradeMatched, Kind::TradeBusted]);
    /// Topic `market`.
    pub const MARKET: Self = Self::of(&[
        Kind::InstrumentDefined,
        Kind::TradingStatusChanged,
        Kind::BookCleared,
        Kind::SessionOpened,
        Kind::SessionClosed,
    ]);
    /// Topic `accounts`.
    pub const ACCOUNTS: Self = Self::of(&[Kind::AccountOpened, Kind::AccountChanged, Kind::PositionChanged]);
    /// Topic `state`.
    pub const STATE: Self = Self::of(&[Kind::StateSet, Kind::StateDeleted]);
    /// The sequencer's own events.
    pub const CONTROL: Self = Self::of(&[Kind::EpochStarted, Kind::EpochEnded, Kind::TimeAdvanced]);

    /// The set of these kinds.
    pub const fn of(kinds: &[Kind]) -> Self {
        let mut mask = 0;
        let mut next = 0;
        while next < kinds.len() {
            mask |= 1 << kinds[next] as u16;
            next += 1;
        }
        Self(mask)
    }

    /// The topic of this name: `orders trades market accounts state control all`.
    pub fn topic(name: &str) -> Option<Self> {
        match name {
            "orders" => Some(Self::ORDERS),
            "trades" => Some(Self::TRADES),
            "market" => Some(Self::MARKET),
            "accounts" => Some(Self::ACCOUNTS),
            "state" => Some(Self::STATE),
            "control" => Some(Self::CONTROL),
            "all" => Some(Self::ALL),
            _ => None,
        }
    }

    /// Whether the kind is in the set.
    #[inline]
    pub const fn contains(self, kind: Kind) -> bool {
        self.0 >> kind as u16 & 1 == 1
    }

    /// Whether the sets share a kind.
    #[inline]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The bit of each kind is the one of its number.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Both sets together.
    #[inline]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

const _: () = {
    let mut next = 0;
    while next < Kind::ALL.len() {
        assert!((Kind::ALL[next] as u16) < 64, "a kind's number is a bit of KindMask");
        next += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_number_and_by_name() {
        for kind in Kind::ALL.iter().copied() {
            assert_eq!(Kind::from_tag(kind.tag()), Some(kind));
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(Kind::from_tag(0), None);
        assert_eq!(Kind::from_tag(64), None);
        assert_eq!(Kind::from_name("nothing"), None);
    }

    #[test]
    fn every_kind_belongs_to_exactly_one_topic() {
        let topics = ["orders", "trades", "market", "accounts", "state", "control"];
        for kind in Kind::ALL.iter().copied() {
            let holders = topics.iter().filter(|name| KindMask::topic(name).unwrap().contains(kind)).count();
            assert_eq!(holders, 1, "{kind}");
        }
    }
}
