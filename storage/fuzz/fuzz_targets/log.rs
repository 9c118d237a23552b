//! Any damage to a written log, with and without true checksums: opening never panics, and what it recovers is a prefix
//! of what was written, or nothing.
//!
//!     RUSTC_BOOTSTRAP=1 cargo fuzz run log -- -max_total_time=600      (in storage/)
#![no_main]

#[path = "../../tests/support/mod.rs"]
mod support;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use matchtape_storage::sim::SimDisk;

fuzz_target!(|damages: Vec<support::Damage>| {
    static HEALTHY: OnceLock<(SimDisk, support::History)> = OnceLock::new();
    let (healthy, history) = HEALTHY.get_or_init(|| support::finished_log(8));
    support::survive_damage(healthy, history, &damages);
});
