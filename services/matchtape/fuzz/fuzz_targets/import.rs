//! Any bytes as a file of either format: the importers never panic, and ordinals only rise.
//!
//!     RUSTC_BOOTSTRAP=1 cargo fuzz run import -- -max_total_time=600      (in services/matchtape/)
#![no_main]

#[path = "../../tests/fuzzed/mod.rs"]
mod fuzzed;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    fuzzed::survive(bytes);
});
