//! The process that owns a tape: admit, sequence, commit, publish.
//!
//! ```text
//!  publisher.rs   admit: deduplicate, claim slots of the ring (which is sequencing), write the events there
//!  ingress.rs     the same for producers in other processes, from shared memory to their publishers here
//!  ring.rs        bounded, claimed by compare-and-swap, read in order
//!  pipeline.rs    frames what has accumulated (framer.rs) for the log and the speculative bus; while its thread sleeps, for whoever publishes
//!  storage        writes and syncs; tells `Progress`, which raises the stages (stages.rs) and the readers' gate
//!  bus.rs         the live bus follows what is visible
//!  seal.rs        ends the log's segment before it is full, by the frame that comes next
//!  hold.rs        legal holds, placed and lifted from any thread
//! ```
//!
//! The only place where storage and distribution meet. Never holds an event back for a subscriber, never shows one
//! before the stage it was asked to wait for.

mod bell;
mod bus;
pub mod consumers;
mod framer;
mod gauge;
mod history;
mod hold;
mod idle;
mod ingress;
mod latency;
mod node;
mod parts;
mod pipeline;
mod producers;
mod publisher;
mod ring;
mod seal;
mod stages;

// What a publisher says, in the words of both ways in.
pub use matchtape_schemas::publish::{Loan, ProducerMark, Publish, PublishError, Published, WaitError};

pub use bus::BusOptions;
pub use gauge::NodeGauge;
pub use history::{FollowedHistory, StoreFrame, StoreHistory};
pub use hold::{HoldFrom, HoldReport, Holds, HoldsError};
pub use ingress::IngressOptions;
pub use latency::StageLatency;
#[cfg(any(test, feature = "mistakes"))]
pub use node::NodeMistakes;
pub use node::{Node, NodeError, NodeOptions, TapeProgress};
pub use parts::EndedPart;
pub use pipeline::{PipelineWait, VisibleAt};
pub use producers::ProducerMarks;
pub use publisher::{GROUP_BYTES_MAX, Publisher, Publishers};
pub use seal::{SealError, SealReport, Sealer};
pub use stages::StageReached;
