//! Any damage to tables, snapshots and manifest, with and without true checksums: opening and asking never panics, and no
//! event is shown that is not the tape's.
//!
//!     RUSTC_BOOTSTRAP=1 cargo fuzz run tables -- -max_total_time=600      (in storage/)
#![no_main]

#[path = "../../tests/model/mod.rs"]
mod model;

use libfuzzer_sys::fuzz_target;
use model::damage::{Damage, survive_any};

fuzz_target!(|input: (bool, Vec<Damage>)| survive_any(input));
