//! Events: a 32-byte header and a payload of one kind, both at 16-byte boundaries.
//!
//! A payload of fixed size is an rkyv archive of its struct: little-endian, without implicit padding (asserted), never
//! wrapped in an enum, so an event costs what its own kind needs. Bytes from outside are checked once, when the frame
//! that holds them is decoded; from then on [`EventRef`] reads them where they lie.

mod account;
mod control;
mod header;
mod instrument;
mod order;
mod session;
mod shape;
mod state;
mod trade;

use rkyv::bytecheck::CheckBytes;

use crate::tags::Kind;

pub use self::account::{
    AccountChanged, AccountOpened, AccountStatus, ArchivedAccountChanged, ArchivedAccountOpened,
    ArchivedPositionChanged, PositionChanged,
};
pub use self::control::{
    ArchivedEpochEnded, ArchivedEpochStarted, ArchivedTimeAdvanced, EpochEnded, EpochStarted, TimeAdvanced,
};
pub use self::header::{Event, EventError, EventFlags, EventHeader, EventRef, check_event, encode_event};
pub use self::instrument::{
    ArchivedBookCleared, ArchivedInstrumentDefined, ArchivedTradingStatusChanged, BookCleared,
    InstrumentClass, InstrumentDefined, TradingStatus, TradingStatusChanged,
};
pub use self::order::{
    ArchivedOrderAccepted, ArchivedOrderCancelled, ArchivedOrderExecuted, ArchivedOrderRejected,
    ArchivedOrderReplaced, CancelReason, ClientOrderId, Liquidity, OrderAccepted, OrderCancelled,
    OrderExecuted, OrderRejected, OrderReplaced, OrderType, RejectReason, Side, TimeInForce,
};
pub use self::session::{ArchivedSessionClosed, ArchivedSessionOpened, SessionClosed, SessionOpened};
pub(crate) use self::shape::{Field, Shape};
pub use self::state::{
    ArchivedStateDeleted, STATE_BYTES_MAX, STATE_KEY_BYTES_MAX, StateDeleted, StateError, StateSet,
    StateSetView,
};
pub use self::trade::{ArchivedTradeBusted, ArchivedTradeMatched, TradeBusted, TradeMatched};

/// Everything in a frame lies at multiples of this.
pub const ALIGNMENT: usize = 16;

/// The header of every event.
pub const EVENT_HEADER_BYTES: usize = 32;

/// A payload that its kind does not allow.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
pub enum PayloadError {
    /// A fixed-size payload of another size.
    #[error("payload has {found} bytes, expected {expected}")]
    Length {
        /// The kind's size in bytes.
        expected: usize,
        /// The size found.
        found: usize,
    },
    /// A field holds a value its type does not have.
    #[error("payload does not validate: {0}")]
    Invalid(String),
}

/// A payload of one kind: how it becomes bytes and is read back.
pub trait Payload: Sized {
    /// Which kind it is.
    const KIND: Kind;

    /// What its events look like, if they all have one size.
    const SHAPE: Shape;

    /// The checked payload where it lies.
    type View<'a>: Copy;

    /// Bytes of the payload, a multiple of [`ALIGNMENT`].
    fn encoded_len(&self) -> usize;

    /// Writes the payload over `out`, which has exactly [`encoded_len`](Self::encoded_len) bytes and lies at a multiple
    /// of [`ALIGNMENT`].
    fn encode(&self, out: &mut [u8]);

    /// Whether `bytes` are such a payload.
    fn check(bytes: &[u8]) -> Result<(), PayloadError>;

    /// The payload where it lies.
    ///
    /// # Safety
    /// [`check`](Self::check) has returned `Ok` for these bytes, at this address, and they have not changed since.
    unsafe fn view(bytes: &[u8]) -> Self::View<'_>;

    /// The native values.
    fn native(view: Self::View<'_>) -> Self;
}

/// bytecheck's verdict on a fixed-size archive, as our error.
pub(crate) fn check_fixed<T>(bytes: &[u8]) -> Result<(), PayloadError>
where
    T: rkyv::Portable + for<'a> CheckBytes<rkyv::api::low::LowValidator<'a, rkyv::rancor::Failure>>,
{
    if bytes.len() != size_of::<T>() {
        return Err(PayloadError::Length { expected: size_of::<T>(), found: bytes.len() });
    }
    match rkyv::api::low::access::<T, rkyv::rancor::Failure>(bytes) {
        Ok(_) => Ok(()),
        Err(_) => Err(PayloadError::Invalid(explain::<T>())),
    }
}

fn explain<T>() -> String {
    format!(
        "a field of {} holds a value outside its type",
        std::any::type_name::<T>().rsplit("::").next().unwrap_or("")
    )
}

/// Declares the fixed-size payload of one kind and states its size to the compiler.
macro_rules! payload {
    (
        $(#[$meta:meta])*
        $kind:ident / $archived:ident, $bytes:literal bytes {
            $($(#[$field_meta:meta])* $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug, Default, PartialEq, Eq)]
        #[rkyv(derive(Debug))]
        pub struct $kind {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        const _: () = {
            let fields = 0 $(+ size_of::<<$type as rkyv::Archive>::Archived>())*;
            assert!(size_of::<$archived>() == fields, "no implicit padding");
            assert!(fields == $bytes, "the size is part of the format");
            assert!($bytes % $crate::event::ALIGNMENT == 0 && align_of::<$archived>() <= $crate::event::ALIGNMENT);
        };

        impl $crate::event::Payload for $kind {
            const KIND: $crate::tags::Kind = $crate::tags::Kind::$kind;
            const SHAPE: $crate::event::Shape = $crate::event::Shape::of(Self::KIND, $bytes)
                $(.with(std::mem::offset_of!($archived, $field), <$type as $crate::event::Field>::GREATEST))*;
            type View<'a> = &'a $archived;

            #[inline]
            fn encoded_len(&self) -> usize {
                $bytes
            }

            #[inline]
            fn encode(&self, out: &mut [u8]) {
                use rkyv::ser::{allocator::SubAllocator, writer::Buffer};
                assert_eq!(out.len(), $bytes);
                rkyv::api::low::to_bytes_in_with_alloc::<_, _, rkyv::rancor::Panic>(
                    self,
                    Buffer::from(out),
                    SubAllocator::empty(),
                )
                .expect("a flat struct fits the buffer of its size");
            }

            #[inline]
            fn check(bytes: &[u8]) -> Result<(), $crate::event::PayloadError> {
                $crate::event::check_fixed::<$archived>(bytes)
            }

            #[inline]
            unsafe fn view(bytes: &[u8]) -> &$archived {
                // SAFETY: the caller has had `check` accept these bytes, which is bytecheck's validation of this type.
                unsafe { rkyv::access_unchecked::<$archived>(bytes) }
            }

            #[inline]
            fn native(view: &$archived) -> Self {
                rkyv::api::low::deserialize::<Self, rkyv::rancor::Panic>(view).expect("flat structs copy")
            }
        }
    };
}
pub(crate) use payload;

/// Declares a closed set of persisted values of one byte: the order of the variants is the format.
macro_rules! choices {
    (
        $(#[$meta:meta])*
        $name:ident / $archived:ident { $($(#[$variant_meta:meta])* $variant:ident $text:literal,)* }
    ) => {
        $(#[$meta])*
        #[derive(
            rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
        )]
        #[rkyv(derive(Clone, Copy, Debug, PartialEq, Eq))]
        #[repr(u8)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)*
        }

        const _: () = assert!(size_of::<$archived>() == 1);

        impl $crate::event::Field for $name {
            const GREATEST: u8 = Self::ALL.len() as u8 - 1;
        }

        impl $name {
            /// Every value, in the order of its persisted number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The snake_case name used in queries and JSON.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl $archived {
            /// The native value of this archived field.
            #[inline]
            pub fn get(&self) -> $name {
                match self {
                    $(Self::$variant => $name::$variant,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}
pub(crate) use choices;

/// Bytes kept for later use: written as zero, ignored when read.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved<const N: usize>([u8; N]);

impl<const N: usize> Field for Reserved<N> {}

impl<const N: usize> std::fmt::Debug for ArchivedReserved<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reserved")
    }
}

impl<const N: usize> Default for Reserved<N> {
    fn default() -> Self {
        Self([0; N])
    }
}
