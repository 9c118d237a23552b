//! Any bytes as a proof, with a true checksum, and any bytes as the frames beside it: decoding and checking never panic, and
//! nothing is proven that does not make the root.
//!
//!     RUSTC_BOOTSTRAP=1 cargo fuzz run proof -- -max_total_time=600      (in storage/)
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use matchtape_storage::wal::SegmentRoot;
use matchtape_storage::{Proof, check_proof};

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (body, frames) = input;
    let mut bytes = b"MTPROOF\0\x01\0".to_vec();
    bytes.extend_from_slice(&body);
    let sum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    let Ok(proof) = Proof::decode(Path::new("x.proof"), &bytes) else { return };
    assert_eq!(proof.encode(), bytes);
    let judged = check_proof(&proof, &mut &frames[..], |_| Some(SegmentRoot([7; 32])), &mut |_| {});
    assert!(judged.is_err());
});
