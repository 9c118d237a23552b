//! The way in: producers in processes of their own publish to the node through shared memory.
//!
//! Two messages. A request carries a producer's events, numbered within an attempt; a reply is the node's whole word on
//! where everybody stands, so that a lost one is made up for by the next. [`outbox`] and [`desk`] are the two halves of
//! the protocol, without I/O or clock; [`remote`] and [`intake`] are their ports, and [`waking`] wakes a producer's tasks.
//!
//! ```text
//!   producer                               node
//!   hello (attempt 1)            ->        who is it? is another process that producer? -> in use, by whom
//!                                <-        open, your last event is P at S
//!   events 0, 1, 2 ...           ->        checked, deduplicated, sequenced; a full ring stops receiving
//!                                <-        through P' at S'; durable through D          (window released)
//!   (index 2 is missing)         <-        resend
//!   events 0, 1 ... (attempt 2)  ->
//!   another incarnation answers: hello again; what it does not have is sent again
//! ```
//!
//! * Nothing taken is lost while the producer's process lives; nothing is ever on the tape twice: the tape itself keeps
//!   each producer's last number.
//! * A request is meant for one incarnation and epoch of the node. A node of a lower epoch than one already heard is not
//!   listened to, and ignores what is not meant for it.

mod config;
mod desk;
mod doorbell;
mod intake;
mod message;
mod outbox;
mod ports;
mod remote;
mod remote_error;
#[cfg(test)]
mod schedules;
mod waking;

pub use config::IngressConfig;
pub use desk::{Door, IngressCounters, Unpublished};
pub use doorbell::Doorbell;
pub use intake::{IngressEnd, IngressTerms, Intake, SafeAt};
pub(crate) use ports::REQUESTS;
pub use remote::{RemoteCounters, RemoteOptions, RemotePublisher, RemoteReached};
pub use remote_error::{ConnectError, RemoteEnded, RemotePublishError, RemoteWaitError};
