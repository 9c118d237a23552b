//! What a producer outside is told when something does not go on: what one inside the node is told, and what only happens to
//! those who are elsewhere.

use matchtape_schemas::publish::{PublishError, WaitError};
use matchtape_schemas::{ProducerId, ProducerSequence, Stage};

use crate::error::BusError;

/// Why nothing was published. Nothing was taken in any of these cases.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum RemotePublishError {
    /// What a publisher inside the node is told too.
    #[error(transparent)]
    Refused(#[from] PublishError),
    /// This handle has ended for good.
    #[error(transparent)]
    Ended(#[from] RemoteEnded),
}

impl PartialEq<PublishError> for RemotePublishError {
    fn eq(&self, other: &PublishError) -> bool {
        matches!(self, Self::Refused(error) if error == other)
    }
}

/// Why a remote publisher has ended for good.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum RemoteEnded {
    /// There is one handle of a producer at a time.
    #[error("producer {producer} is in use by process {process}")]
    InUse {
        /// The producer.
        producer: ProducerId,
        /// Who has it; 0 where that cannot be found out.
        process: u32,
    },
    /// The node refused what was sent. Events after the last accepted one were not accepted.
    #[error("the node refused what producer {producer} sent: {reason}")]
    Refused {
        /// The producer.
        producer: ProducerId,
        /// In the node's words.
        reason: String,
    },
    /// A restarted node lacks events that were durable: its data were lost or exchanged.
    #[error(
        "event {acknowledged} of producer {producer} was durable, but the restarted node's tape has them only through \
         {found:?}: its data were lost or exchanged"
    )]
    TapeWentBack {
        /// The producer.
        producer: ProducerId,
        /// The last one that was safe.
        acknowledged: ProducerSequence,
        /// What the tape has.
        found: Option<ProducerSequence>,
    },
    /// Somebody else published as this producer while there was no node to tell.
    #[error(
        "the tape has event {found} of producer {producer}, which was not published here: another process publishes \
         as this producer"
    )]
    Superseded {
        /// The producer.
        producer: ProducerId,
        /// The tape's last.
        found: ProducerSequence,
    },
    /// The shared memory of the way in failed.
    #[error("the way to the node failed: {0}")]
    Port(String),
}

/// Why a wait ended without the stage being reached. The outcome of the event is then unknown, never "failed".
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum RemoteWaitError {
    /// What one who waits inside the node is told too. What a node that was closed does not have is sent to the next one.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// Nothing was heard of the node for long. What is not on the tape is sent to the next one.
    #[error("nothing was heard of the node for {silent_ms} ms: whether the event is on the tape is unknown")]
    Disconnected {
        /// Milliseconds of silence.
        silent_ms: u64,
    },
    /// Nothing of this number was published: there is nothing to wait for.
    #[error("no event of number {0} was published")]
    NeverPublished(ProducerSequence),
    /// The system refused the thread that wakes tasks.
    #[error("nothing wakes a task: {0}")]
    Thread(String),
    /// This handle has ended for good.
    #[error(transparent)]
    Ended(#[from] RemoteEnded),
}

impl PartialEq<WaitError> for RemoteWaitError {
    fn eq(&self, other: &WaitError) -> bool {
        matches!(self, Self::Wait(error) if error == other)
    }
}

/// Why a remote publisher did not connect.
#[derive(thiserror::Error, Debug)]
pub enum ConnectError {
    /// The shared memory of the way in.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The services are there, but nobody answered.
    #[error(
        "no node answered on {service} within {waited_ms} ms: is it running, with the same namespace and root, and \
         `[ingress] enabled`?"
    )]
    NoAnswer {
        /// The service.
        service: String,
        /// How long it was asked, in milliseconds.
        waited_ms: u64,
    },
    /// The producer's last event, published by an earlier process, may still vanish with the node.
    #[error(
        "event {last} of producer {producer} is on the tape but did not become {stage} within {waited_ms} ms"
    )]
    NotSafe {
        /// The producer.
        producer: ProducerId,
        /// Its last event.
        last: ProducerSequence,
        /// [`RemoteOptions::keep_until`](super::RemoteOptions::keep_until).
        stage: Stage,
        /// How long it was waited for, in milliseconds.
        waited_ms: u64,
    },
    /// The node turned this producer away.
    #[error(transparent)]
    Ended(#[from] RemoteEnded),
    /// An option out of bounds.
    #[error("{option}: {reason}")]
    Option {
        /// Which.
        option: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
}
