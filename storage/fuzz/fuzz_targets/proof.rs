//! Any bytes as a proof, with a true checksum, and any bytes as the frames beside it: decoding and checking never panic, and
//! nothing is proven that does not make the root.
//!
//!     RUSTC_BOOTSTRAP=1 cargo fuzz run proof -- -max_total_time=600      (in storage/)
#![no_main]

#[path = "../../tests/fuzzed/proof.rs"]
mod proof;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| proof::judge(input));
