//! Updates for asynchronous readers: a thread reads, a bounded channel carries copies.
//!
//! When the channel is full the thread waits, as a slow reader would: it falls behind on the bus, is told `Lagging`
//! and continues from the log. Nothing is dropped and nothing grows.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use matchtape_schemas::{Frame, event::ALIGNMENT};
use rkyv::util::AlignedVec;
use tokio::sync::mpsc;

use crate::batch::{Batch, BatchBuf};
use crate::filter::Filter;
use crate::subscription::{Subscription, SubscriptionError};
use crate::update::{Events, Span, Update, UpdateOf};

/// As [`Update`], with its own memory.
pub type OwnedUpdate = UpdateOf<OwnedEvents, BatchBuf>;

/// How soon an idle thread notices that its stream is gone.
const WAIT: Duration = Duration::from_millis(50);

/// Events copied out of the log or of shared memory.
#[derive(Clone)]
pub struct OwnedEvents {
    bytes: AlignedVec<ALIGNMENT>,
    span: Span,
    filter: Arc<Filter>,
}

impl OwnedEvents {
    fn copy(events: &Events<'_>, filters: &mut Option<Arc<Filter>>) -> Self {
        let mut bytes = AlignedVec::new();
        bytes.extend_from_slice(events.frame().bytes());
        // The same for all updates of one subscription, so it is copied once.
        let filter = filters.get_or_insert_with(|| Arc::new(events.filter().clone()));
        Self { bytes, span: events.span(), filter: Arc::clone(filter) }
    }

    /// The events.
    #[must_use]
    pub fn events(&self) -> Events<'_> {
        // SAFETY: these bytes are copied from a frame, which only `Frame::decode` makes; an `AlignedVec` lies at a
        // multiple of 16, and nothing here changes it.
        let frame = unsafe { Frame::assume_checked(&self.bytes) };
        Events::new(frame, self.span, &self.filter)
    }
}

impl fmt::Debug for OwnedEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.events().fmt(f)
    }
}

impl OwnedUpdate {
    /// The update, borrowed.
    #[must_use]
    pub fn as_update(&self) -> Update<'_> {
        match self {
            Self::Events(events) => Update::Events(events.events()),
            Self::Window(batch) => Update::Window(batch.batch()),
            Self::LiveJoined { next } => Update::LiveJoined { next: *next },
            Self::LiveLeft { next, reason } => Update::LiveLeft { next: *next, reason: *reason },
            Self::Lagging { behind } => Update::Lagging { behind: *behind },
            Self::CaughtUp { next } => Update::CaughtUp { next: *next },
            Self::Heartbeat { epoch, watermarks } => {
                Update::Heartbeat { epoch: *epoch, watermarks: *watermarks }
            }
            Self::Alarm { missed } => Update::Alarm { missed: *missed },
            Self::Retract { epoch, first, last } => {
                Update::Retract { epoch: *epoch, first: *first, last: *last }
            }
            Self::PublisherRestarted { epoch } => Update::PublisherRestarted { epoch: *epoch },
            Self::Ahead { next, visible } => Update::Ahead { next: *next, visible: *visible },
            Self::Ended { next } => Update::Ended { next: *next },
        }
    }
}

/// The updates of a subscription, read by a thread of its own. It ends after [`UpdateOf::Ended`] or an error; dropping
/// it ends the thread.
#[derive(Debug)]
pub struct UpdateStream {
    updates: mpsc::Receiver<Result<OwnedUpdate, SubscriptionError>>,
}

impl UpdateStream {
    /// Opens a subscription with `open` on a new thread called `name`. At most `capacity` updates (frames or windows)
    /// wait to be taken.
    ///
    /// With `core` the thread is bound to that core before it opens: a subscription that polls ([`matchtape_bus::WakeUp`])
    /// has it for itself.
    ///
    /// Blocks until the subscription is open, and returns the error if it could not be opened.
    pub fn spawn<S: Subscription>(
        name: &str,
        core: Option<usize>,
        capacity: usize,
        open: impl FnOnce() -> Result<S, SubscriptionError> + Send + 'static,
    ) -> Result<Self, SubscriptionError> {
        let (sender, updates) = mpsc::channel(capacity.max(1));
        let (opened, report) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                let bound = core.map_or(Ok(()), matchtape_bus::bind_to_core).map_err(SubscriptionError::Bus);
                let (subscription, outcome) = match bound.and_then(|()| open()) {
                    Ok(subscription) => (Some(subscription), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                // Whoever spawned this thread waits for exactly this message.
                let _ = opened.send(outcome);
                if let Some(subscription) = subscription {
                    read(subscription, &sender);
                }
            })
            .map_err(SubscriptionError::Thread)?;
        match report.recv() {
            Ok(outcome) => outcome.map(|()| Self { updates }),
            Err(std::sync::mpsc::RecvError) => {
                Err(SubscriptionError::Thread(std::io::Error::other("it panicked while opening")))
            }
        }
    }

    /// The next update; `None` after the last.
    pub async fn recv(&mut self) -> Option<Result<OwnedUpdate, SubscriptionError>> {
        self.updates.recv().await
    }
}

impl futures_core::Stream for UpdateStream {
    type Item = Result<OwnedUpdate, SubscriptionError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.updates.poll_recv(context)
    }
}

type Sender = mpsc::Sender<Result<OwnedUpdate, SubscriptionError>>;

/// A reading thread that panics would look as if it had come to the end.
struct TellPanic<'a>(&'a Sender);

impl Drop for TellPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Whoever has gone away need not know.
            let _ =
                self.0.blocking_send(Err(SubscriptionError::Thread(std::io::Error::other("it panicked"))));
        }
    }
}

fn read(mut subscription: impl Subscription, updates: &Sender) {
    let _tell = TellPanic(updates);
    let mut filters = None;
    while !updates.is_closed() {
        let update = match subscription.next(WAIT) {
            Ok(None) => continue,
            Ok(Some(update)) => Ok(update.map(
                |events: Events<'_>| OwnedEvents::copy(&events, &mut filters),
                |batch: Batch<'_>| BatchBuf::copy(&batch),
            )),
            Err(error) => Err(error),
        };
        let last = matches!(update, Ok(UpdateOf::Ended { .. }) | Err(_));
        if updates.blocking_send(update).is_err() || last {
            return;
        }
    }
}
