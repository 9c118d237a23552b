//! The words everyone shares: identifiers, decimals, events and the frames that carry them.
//!
//! Never does I/O, never looks at a clock, never starts a thread. The layouts are the format of the log, the bus and the
//! wire: `golden/` holds bytes that every future release must still read.
//!
//! Read in this order: `ids`, `decimal`, `tags` (the kinds), `event/` (one file per family), `frame` (the codec),
//! `watermark` (the stages), `projection` (state folded from the tape), `publish` (how events come onto it).

pub mod decimal;
pub mod event;
pub mod frame;
pub mod ids;
pub mod limits;
pub mod projection;
pub mod publish;
pub mod tags;
pub mod text;
pub mod watermark;

pub use decimal::{Notional, Price, Quantity};
pub use event::{Event, EventFlags, EventRef};
pub use frame::{Frame, FrameFlags, FrameHeader, FrameWriter, Head};
pub use ids::{
    AcceptedTime, AccountId, Epoch, EventTime, InstrumentId, OrderId, ParticipantId, ProducerId,
    ProducerSequence, ReceiveTime, Sequence, TapeId, TradeId, VenueSequence,
};
pub use projection::{Projection, ProjectionError};
pub use tags::{Body, BodyRef, Kind, KindMask};
pub use watermark::{Stage, Watermarks};
