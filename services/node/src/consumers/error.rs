//! Why something about a consumer was not done.

use std::sync::Arc;

use matchtape_consumer::{
    AckError, AnswerError, AttachError, ConsumerName, DecodeError, DefinitionError, StoreFailure,
};
use matchtape_schemas::Sequence;
use matchtape_storage::ReadError;

/// See the variants. Nothing was changed in any of these cases.
#[derive(thiserror::Error, Clone, Debug)]
pub enum ConsumerError {
    /// There is none of this name.
    #[error("there is no consumer {0}")]
    Unknown(ConsumerName),
    /// There is one of this name, defined otherwise.
    #[error("there is a consumer {0} with another definition: update it, or choose another name")]
    Exists(ConsumerName),
    /// More consumers than one system tape should carry.
    #[error("there are {0} consumers, which is the most")]
    TooMany(usize),
    /// It was deleted meanwhile.
    #[error("consumer {0} was deleted")]
    Deleted(ConsumerName),
    /// What was asked for cannot be.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// The member was not attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// This attachment has ended: another member of the same name took its place, or it was not heard of for too long.
    /// What it had is delivered to others.
    #[error("this member is not attached any more: attach again")]
    NotAttached,
    /// A later request of this member has taken this one's place: what there is comes with that one's answer.
    #[error("a later request of this member took the place of this one")]
    Superseded,
    /// The member says to have what it was never given.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The acknowledgement says nothing.
    #[error(transparent)]
    Ack(#[from] AckError),
    /// The start is no longer kept.
    #[error("event {asked} is no longer kept: the tape begins at {first_kept}")]
    BelowRetention {
        /// As asked for.
        asked: Sequence,
        /// The first there is.
        first_kept: Sequence,
    },
    /// The tape could not be read.
    #[error("reading the tape: {0}")]
    Read(Arc<ReadError>),
    /// There is no room for the first consumer's records.
    #[error("the disk is full; no consumer is made until there is room")]
    NoSpace,
    /// What consumers have come to cannot be recorded any more; the node has to be opened again.
    #[error(transparent)]
    Recording(Arc<StoreFailure>),
    /// What was recorded cannot be understood.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The node is closed, or its tape takes no more events.
    #[error("the node is closed")]
    Closed,
}

impl From<ReadError> for ConsumerError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::BelowRetention { asked, first_kept } => Self::BelowRetention { asked, first_kept },
            ReadError::TimeBelowRetention { first_kept, .. } => {
                Self::BelowRetention { asked: first_kept.previous(), first_kept }
            }
            other => Self::Read(Arc::new(other)),
        }
    }
}

impl From<Arc<StoreFailure>> for ConsumerError {
    fn from(failure: Arc<StoreFailure>) -> Self {
        Self::Recording(failure)
    }
}
