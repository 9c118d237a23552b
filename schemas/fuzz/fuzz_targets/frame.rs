//! Any bytes, with and without a true checksum: decoding never panics, and what it accepts can be read whole.
//!
//!     RUSTC_BOOTSTRAP=1 cargo fuzz run frame -- -max_total_time=600      (in schemas/)
#![no_main]

#[path = "../../tests/fuzzed/mod.rs"]
mod fuzzed;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| fuzzed::survive(input));
