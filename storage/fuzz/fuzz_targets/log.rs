//! Any damage to a written log, with and without true checksums: opening never panics, and what it recovers is a prefix
//! of what was written, or nothing.
//!
//!     RUSTC_BOOTSTRAP=1 cargo fuzz run log -- -max_total_time=600      (in storage/)
#![no_main]

#[path = "../../tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|damages: Vec<support::Damage>| support::survive_any(&damages));
