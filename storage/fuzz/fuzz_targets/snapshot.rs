//! Arbitrary blocks of a snapshot, with true checksums: opening and asking never panics, and no event is shown that is not
//! the tape's.
//!
//!     RUSTC_BOOTSTRAP=1 cargo fuzz run snapshot -- -max_total_time=600      (in storage/)
#![no_main]

#[path = "../../tests/model/mod.rs"]
mod model;

use libfuzzer_sys::fuzz_target;
use model::damage::survive_snapshot;

fuzz_target!(|payloads: Vec<Vec<u8>>| survive_snapshot(&payloads));
