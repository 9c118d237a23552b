//! The live half: ONE thread follows the tape, folds it and encodes each message once; every connection takes what it
//! wants from the recent messages at its own pace.
//!
//! No connection is known here, so none can be waited for: a lane keeps the last messages up to a number of bytes, and
//! who is not there in time reads the log instead. Everything moves at group ends only.
//!
//! Read in this order: `lane` (recent messages), `view` (a book to a depth), `best` (its best prices), `state` (what is folded), `follow` (the
//! thread).

mod best;
mod follow;
mod lane;
mod state;
mod view;

pub(crate) use best::{BestPrices, best};
pub(crate) use follow::Follower;
pub use follow::StartError;
pub(crate) use lane::{Block, Item, Lane, Recent};
#[cfg(test)]
pub(crate) use state::Folded;
pub(crate) use state::{
    BookCopy, Channel, Feed, FeedHead, MarketState, Seat, TradeEvent, event_items, for_each_group, resting,
    span,
};
pub(crate) use view::{Depth, View, ViewDelta, merge};
