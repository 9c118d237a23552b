//! What all tiers have in common.

use std::time::Duration;

use matchtape_bus::BusError;
use matchtape_schemas::{EventTime, Sequence};

use crate::handover::HandoverError;
use crate::history::{History, HistoryError};
use crate::update::Update;

/// Where to begin. To resume, begin at the position after the last event that was taken in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the first event that is kept.
    Beginning,
    /// With this one. What is no longer kept is an error, what does not exist yet is waited for.
    At(Sequence),
    /// Where the tape's greatest event time reaches this.
    Time(EventTime),
    /// After everything that is visible now.
    #[default]
    New,
}

impl Start {
    pub(crate) fn resolve(self, history: &mut impl History) -> Result<Sequence, HistoryError> {
        let first_kept = history.first_kept().max(Sequence::FIRST);
        match self {
            Self::Beginning => Ok(first_kept),
            Self::At(asked) if asked != Sequence::ZERO && asked < first_kept => {
                Err(HistoryError::BelowRetention { asked, first_kept })
            }
            Self::At(asked) => Ok(asked.max(Sequence::FIRST)),
            Self::Time(time) => {
                let visible = history.visible();
                Ok(history.first_at_time(time)?.unwrap_or(visible.next()))
            }
            Self::New => Ok(history.visible().next()),
        }
    }
}

/// Why a subscription ended.
#[derive(Debug, thiserror::Error)]
pub enum SubscriptionError {
    /// The log could not be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The bus failed.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Log and bus contradict each other.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// A position the tape has not reached, where its time must be known.
    #[error("event {asked} is not on the tape yet: it ends with {visible}")]
    AheadOfTape {
        /// The position asked for.
        asked: Sequence,
        /// The last visible event.
        visible: Sequence,
    },
    /// A pace or a window width that cannot be kept.
    #[error("{what} cannot be {value}")]
    BadOption {
        /// Which option.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// The subscription's thread could not be started, or panicked.
    #[error("the subscription's thread")]
    Thread(#[source] std::io::Error),
}

/// A reader of a tape. It belongs to one thread.
///
/// ```text
/// while let Some(update) = subscription.next(timeout)? { match update { Update::Events(events) => .. } }
/// ```
pub trait Subscription {
    /// Goes to the next update, without waiting; `false` when there is none now. What the last one showed is given
    /// back.
    fn advance(&mut self) -> Result<bool, SubscriptionError>;

    /// The update that [`advance`](Self::advance) went to.
    ///
    /// # Panics
    /// When it returned something else than `Ok(true)`.
    fn update(&self) -> Update<'_>;

    /// Returns when there may be an update, at the latest after `timeout`.
    fn wait(&mut self, timeout: Duration) -> Result<(), SubscriptionError>;

    /// The clock it lives by.
    fn now(&self) -> Duration;

    /// The position after everything that updates have shown or passed over.
    fn position(&self) -> Sequence;

    /// The next update, if there is one now.
    fn poll(&mut self) -> Result<Option<Update<'_>>, SubscriptionError> {
        Ok(if self.advance()? { Some(self.update()) } else { None })
    }

    /// The next update, within `timeout`.
    fn next(&mut self, timeout: Duration) -> Result<Option<Update<'_>>, SubscriptionError> {
        if self.advance()? {
            return Ok(Some(self.update()));
        }
        let end = self.now().saturating_add(timeout);
        loop {
            let left = end.saturating_sub(self.now());
            if left.is_zero() {
                return Ok(None);
            }
            self.wait(left)?;
            if self.advance()? {
                return Ok(Some(self.update()));
            }
        }
    }
}
