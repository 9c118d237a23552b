//! Arbitrary records at the end of a manifest, with true checksums: opening and asking never panics, and no event is shown
//! that is not the tape's.
//!
//!     RUSTC_BOOTSTRAP=1 cargo fuzz run manifest -- -max_total_time=600      (in storage/)
#![no_main]

#[path = "../../tests/model/mod.rs"]
mod model;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use matchtape_storage::sim::SimDisk;
use model::Placed;
use model::damage::{finished_store, survive_damage, with_records};

fuzz_target!(|payloads: Vec<Vec<u8>>| {
    static HEALTHY: OnceLock<(SimDisk, Vec<Placed>)> = OnceLock::new();
    let (healthy, events) = HEALTHY.get_or_init(finished_store);
    survive_damage(&with_records(healthy, &payloads), events);
});
