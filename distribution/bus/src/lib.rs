//! Frames over iceoryx2 shared memory: the way from a tape's node to every process on the same machine.
//!
//! Per tape two services: `live` (at or below `visible`) and `speculative` (as soon as accepted). A sample is one
//! frame, the same bytes as in the log, behind a header with its place on the tape and all watermarks.
//!
//! * The publisher never waits for a subscriber. A full buffer loses its oldest frame; the subscriber finds the exact
//!   [`Delivery::Gap`] by sequence and its owner reads the log. That is the reliability.
//! * Nothing from shared memory is believed before it was checked; frames are checked once, by the subscriber.
//! * Ports belong to one thread; [`on_own_thread`] gives them one. There is no async here.
//! * Producers in other processes come in through [`RemotePublisher`] and the node's [`Intake`]: `ingress/`.
//! * Kills on either side are survived: [`Liveness`] removes the remains, subscribers notice a new publisher.
//!
//! Never opens a file of the log, never decides what is visible. Start with [`BusConfig`] and [`BusName`]; then
//! `publisher.rs` and `subscriber.rs`; `service.rs` holds the iceoryx2 settings and its errors' translation.

mod block;
mod config;
mod error;
mod header;
mod ingress;
mod liveness;
mod name;
mod presence;
mod publisher;
mod service;
mod subscriber;
mod thread;

pub use config::{
    ATTACH_BYTES, BusConfig, MemoryRequired, WakeUp, shared_memory_available, shared_memory_total,
};
pub use error::{BadSample, BusError};
pub use ingress::{
    ConnectError, Door, Doorbell, IngressConfig, IngressCounters, IngressEnd, IngressTerms, Intake,
    RemoteCounters, RemoteEnded, RemoteOptions, RemotePublishError, RemotePublisher, RemoteReached,
    RemoteWaitError, SafeAt, Unpublished,
};
pub use liveness::{Cleaned, Liveness, clean_dead_participants};
pub use name::{BusName, BusService};
pub use publisher::{BusPublisher, PublisherCounters};
pub use subscriber::{BusFrame, BusSubscriber, Delivery, SubscriberCounters, SubscriberOptions};
pub use thread::{PortThread, bind_to_core, check_core, on_own_thread};
