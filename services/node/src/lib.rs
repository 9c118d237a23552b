//! The process that owns a tape: admit, sequence, commit, publish.

mod bell;
mod framer;
mod producers;
mod publisher;
mod ring;
mod stages;

pub use producers::{ProducerMark, ProducerMarks};
pub use publisher::{Loan, PublishError, Published, Publisher};
pub use stages::{StageReached, WaitError};
