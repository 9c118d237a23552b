//! Arbitrary records at the end of a manifest, with true checksums: opening and asking never panics, and no event is shown
//! that is not the tape's.
//!
//!     RUSTC_BOOTSTRAP=1 cargo fuzz run manifest -- -max_total_time=600      (in storage/)
#![no_main]

#[path = "../../tests/model/mod.rs"]
mod model;

use libfuzzer_sys::fuzz_target;
use model::damage::survive_records;

fuzz_target!(|payloads: Vec<Vec<u8>>| survive_records(&payloads));
