//! Durable consumers of this node's tape: who is told what, and where that is kept.
//!
//! ```text
//!   tape (reader, visible only) ─▶ one.rs: a machine and its place on the tape ─▶ handle.rs: members fetch, acknowledge
//!                                     │ changed, at most every record_interval
//!                                     ▼
//!                                  recorder.rs ─▶ system.rs: the system tape, a node of its own in `system/`
//! ```
//!
//! Inside the process there is no hand-over from history to live: the node's reader goes on from the log to what has just
//! become visible without a seam (the live bus itself is fed from it), so a consumer needs no port, no thread and no
//! buffer that could overflow. Members in other processes come in through the gateway, by [`Consumers::session`].
//!
//! Never delivers what is not visible; never delivers beyond what is recorded as possible, so that after any crash a
//! repeated delivery is marked as one; never says that a consumer exists, or that an acknowledgement is durable, before it
//! is.

mod error;
mod handle;
mod one;
mod recorder;
mod service;
mod system;
mod waiters;

pub use error::ConsumerError;
pub use handle::{Attempt, ConsumerHandle, Delivery, Item, Ready, Recorded};
pub use matchtape_consumer::{
    AckError, AckPolicy, Acked, Advisory, AnswerError, AttachError, ConsumerFilter, ConsumerName, Definition,
    DefinitionError, DeliverPolicy, MemberId, MemberInfo, MemberName, ParkReason, Parked,
};
pub use service::{ConsumerInfo, Consumers};

pub(crate) use service::Parts;

use std::time::Duration;

/// How consumers are kept.
#[derive(Clone, Debug)]
pub struct ConsumersOptions {
    /// What a consumer has come to is recorded at most this often; a crash repeats deliveries acknowledged since.
    pub record_interval: Duration,
    /// The system tape is cleared of what later records have replaced when its log has grown by so many bytes.
    pub system_log_bytes: u64,
}

impl Default for ConsumersOptions {
    fn default() -> Self {
        Self { record_interval: Duration::from_millis(100), system_log_bytes: 16 << 20 }
    }
}
