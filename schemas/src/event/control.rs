//! The sequencer's own events: leadership terms and the passing of time.

use super::{Reserved, payload};
use crate::ids::{AcceptedTime, Epoch, Sequence};
use crate::text::Text;

payload! {
    /// A leadership term began; the first event of its first frame.
    EpochStarted / ArchivedEpochStarted, 112 bytes {
        /// The term.
        epoch: Epoch,
        /// The term before it, zero on a new tape.
        previous_epoch: Epoch,
        /// The last event before the term.
        previous_last_sequence: Sequence,
        /// The checksum of the last frame before the term.
        previous_checksum: u64,
        /// Chosen at random by the process that writes this term.
        writer_incarnation: u64,
        /// The node that writes this term.
        node: Text<40>,
        /// The root hash of the last segment before the term, its first 32 bytes.
        previous_segment_root: [u8; 32],
    }
}

payload! {
    /// A leadership term ended in order: nothing follows in this epoch.
    EpochEnded / ArchivedEpochEnded, 16 bytes {
        /// The term.
        epoch: Epoch,
        /// Zero.
        reserved: Reserved<8>,
    }
}

payload! {
    /// Time passed on an idle live tape: the event time in the header closes windows up to it.
    TimeAdvanced / ArchivedTimeAdvanced, 16 bytes {
        /// The sequencer's clock when it said so.
        accepted_time: AcceptedTime,
        /// Zero.
        reserved: Reserved<8>,
    }
}
