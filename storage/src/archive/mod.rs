//! What leaves the store for good or for elsewhere: analytical files.

#[cfg(feature = "parquet")]
mod columns;
#[cfg(feature = "parquet")]
pub mod parquet;
