//! The `matchtape` binary as a library, so that its parts can be tested and fuzzed.

pub mod bench_disk;
pub mod cli;
pub mod consumers;
mod full_disk;
pub mod import;
pub mod server;
