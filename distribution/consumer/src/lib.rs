//! Durable consumers: named readers that acknowledge what they have dealt with, and resume where they were. Names and
//! meaning are those of NATS JetStream.
//!
//! A [`Machine`] is one consumer: a pure state machine that is told of events, members, acknowledgements and the time, and
//! says what is delivered to whom. What of it has to survive is a [`State`] (a cursor and the bounded map of what is
//! pending) and the list of what is parked, kept behind a [`ConsumerStore`].
//!
//! Never does I/O, never looks at a clock, never reads an event: whoever runs it has the tape.
//!
//! Read in this order: `definition` (what is asked for), `state` (what is kept, and its bytes), `machine` (what happens),
//! with `pending` (what was come to and not settled), `members` (who is attached) and `notices` (what they are told);
//! `store` (where it is kept).

mod advisory;
mod codec;
mod definition;
mod machine;
mod members;
#[cfg(test)]
mod model;
mod notices;
mod pending;
mod state;
mod store;

pub use advisory::{Advisory, ParkReason};
pub use codec::DecodeError;
pub use definition::{
    AckPolicy, BACKOFF_STEPS_MAX, ConsumerFilter, ConsumerName, Definition, DefinitionError, DeliverPolicy,
    INSTRUMENTS_MAX, MAX_ACK_PENDING_MAX, MEMBERS_MAX, MemberName,
};
pub use machine::{AckError, Acked, Delivered, Machine, MachineInfo, MemberInfo, Want};
pub use members::{AttachError, MemberId};
pub use state::{PARKED_MAX, PENDING_MAX, Parked, PendingState, State, decode_parked, encode_parked};
pub use store::{Change, ConsumerStore, Kept, StoreFailure, keys};
