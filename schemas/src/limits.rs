//! The maxima that everyone shares, related to each other at compile time.

use crate::event::{ALIGNMENT, EVENT_HEADER_BYTES, STATE_BYTES_MAX};
use crate::frame::FRAME_HEADER_BYTES;

/// A whole frame, header included.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;

/// One event, header included.
pub const EVENT_BYTES_MAX: usize = EVENT_HEADER_BYTES + ALIGNMENT + STATE_BYTES_MAX;

/// The smallest event: a header and the smallest payload.
pub const EVENT_BYTES_MIN: usize = EVENT_HEADER_BYTES + ALIGNMENT;

/// More events than a frame can hold.
pub const FRAME_EVENTS_MAX: usize = (FRAME_BYTES_MAX - FRAME_HEADER_BYTES) / EVENT_BYTES_MIN;

const _: () = assert!(FRAME_HEADER_BYTES + EVENT_BYTES_MAX <= FRAME_BYTES_MAX, "every event fits a frame");
const _: () = assert!(EVENT_BYTES_MAX.is_multiple_of(ALIGNMENT) && FRAME_BYTES_MAX.is_multiple_of(ALIGNMENT));
