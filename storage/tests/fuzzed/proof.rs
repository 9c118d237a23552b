//! What the fuzz target `proof` does.

use std::path::Path;

use matchtape_storage::wal::SegmentRoot;
use matchtape_storage::{Proof, check_proof};

/// A proof of these bytes under a true checksum, and the frames beside it: decoding and checking never panic, and nothing is proven
/// that does not make the root.
pub fn judge((body, frames): (Vec<u8>, Vec<u8>)) {
    let mut bytes = b"MTPROOF\0\x01\0".to_vec();
    bytes.extend_from_slice(&body);
    let sum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    let Ok(proof) = Proof::decode(Path::new("x.proof"), &bytes) else { return };
    assert_eq!(proof.encode(), bytes);
    let judged = check_proof(&proof, &mut &frames[..], |_| Some(SegmentRoot([7; 32])), &mut |_| {});
    assert!(judged.is_err());
}
