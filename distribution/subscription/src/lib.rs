//! Readers of a tape: real-time, delayed, historical, and the hand-over between log and bus.
//!
//! Every tier is a [`Subscription`] that gives [`Update`]s, borrowed from where the events lie. Whatever a reader is
//! not given it is told about; a position ([`Start::At`]) is all it needs to resume.
//!
//! Never opens a file of the log (it comes in through [`History`]), never decides what is visible, never makes the
//! publisher wait. Durable consumers (acknowledgement, checkpoints) do not live here: their rules are `distribution/consumer`'s.
//!
//! Read in this order: `history` and `live` (the two sources), `update`, `handover` (the decisions), `realtime` (acts
//! them out), `windows`, `batch` and `conflate` (the delayed tier's rules and bytes), `delayed`, `historical`. `check` judges what
//! any of them says.

mod backoff;
mod batch;
pub mod check;
mod clock;
mod conflate;
mod delayed;
mod filter;
mod handover;
mod historical;
mod history;
mod live;
mod realtime;
#[cfg(feature = "tokio")]
mod stream;
mod subscription;
mod update;
mod windows;

pub use batch::{Batch, BatchBuf, BatchError, BatchEvents, WindowCursor, WindowCursorError};
pub use clock::{Clock, HEARTBEATS_MISSED_MAX, HeartbeatAlarm, Silence, SystemClock};
pub use conflate::Conflation;
pub use delayed::{Delayed, DelayedOptions, OpenWindow, WindowSource, WindowStart};
pub use filter::{Filter, Instruments};
pub use handover::{Handover, HandoverError, LiveFrame, Verdict, Want};
pub use historical::{End, Historical, HistoricalOptions, Pace};
pub use history::{FrameHandle, History, HistoryError};
pub use live::{BusLive, Live, LiveDelivery};
pub use realtime::{RealTime, RealTimeOptions};
#[cfg(feature = "tokio")]
pub use stream::{OwnedEvents, OwnedUpdate, UpdateStream};
pub use subscription::{Start, Subscription, SubscriptionError};
pub use update::{Events, LeaveReason, Update, UpdateOf};
pub use windows::{PART_BYTES, TapePoint, Windows};
