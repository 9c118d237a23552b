//! Durable consumers: named readers that acknowledge what they have dealt with, and resume where they were. Names and
//! meaning are those of NATS JetStream's pull consumers, but for these:
//!
//! | here | JetStream | why |
//! |---|---|---|
//! | order is kept, within an instrument (`explicit`) or altogether (`all`): what waits to be delivered again holds back what comes after it | redelivery lets later messages pass | a book built out of order is wrong |
//! | members attach; one that dies (replaced, silent for `member_timeout`, panicking, the node restarted) ends the time of what it had: it comes again at once, or when its `backoff` step is over; one that detaches gives it back at once | the server does not know who has a message: it comes again after `ack_wait` or the `backoff` step | nobody is left to wait for; the backoff is about the event, so it stays; leaving is a refusal |
//! | what was delivered `max_deliver` times is parked: listed, told, kept on the tape, delivered again on request | it stays in the stream, an advisory is sent | nothing is skipped silently |
//! | an acknowledgement under `all` does not cover what was unparked, or sent with an answer that never arrived, and not delivered since | it does | nobody can have meant it |
//! | an acknowledgement of what was never delivered is an error | it is ignored | it is a mistake of the caller |
//! | `all` is the default ack policy, `max_ack_pending` at most 2000 | `explicit`, no limit | the cursor of a tape's reader; what is pending fits one record |
//!
//! As there: an acknowledgement counts whoever sends it and however late, also of what is out with another member or
//! parked; a `nak` comes again at once or after its own delay, never after the backoff; what is left of a delay or backoff,
//! and the deliveries that count against `max_deliver`, survive a restart. Not there: push and ephemeral consumers, replay at
//! the original pace (a historical subscription does that), rate limits, pausing, priority groups.
//!
//! A [`Machine`] is one consumer: a pure state machine that is told of events, members, acknowledgements and the time, and
//! says what is delivered to whom. What of it has to survive is a [`State`] (a cursor and the bounded map of what is
//! pending) and the list of what is parked, kept behind a [`ConsumerStore`].
//!
//! Never does I/O, never looks at a clock, never reads an event: whoever runs it has the tape.
//!
//! Read in this order: `definition` (what is asked for), `state` (what is kept, and its bytes), `machine` (what happens, with
//! `machine/settling` and `machine/recording`), with `pending` (what was come to and not settled), `members` (who is attached) and `notices` (what they are told);
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
pub use machine::{AckError, Acked, AnswerError, Delivered, Machine, MachineInfo, MemberInfo, Want};
pub use members::{AttachError, MemberId};
pub use state::{PARKED_MAX, PENDING_MAX, Parked, PendingState, State, decode_parked, encode_parked};
pub use store::{Change, ConsumerStore, Kept, StoreFailure, keys};
