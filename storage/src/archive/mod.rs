//! What leaves the local disk: event tables that move to a cold tier and are read from there, and events as analytical files.

pub(crate) mod cold;
#[cfg(feature = "parquet")]
mod columns;
#[cfg(feature = "cold")]
mod object_store;
#[cfg(feature = "parquet")]
pub mod parquet;

pub use self::cold::{
    COLD_KEY_BYTES_MAX, ColdError, ColdMove, ColdPolicy, ColdProgress, ColdPushError, ColdReport, ColdStep,
    ColdStore, Patience,
};
#[cfg(feature = "cold")]
pub use self::object_store::{ColdPlaceError, open_cold};
