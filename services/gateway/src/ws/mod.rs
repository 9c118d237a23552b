//! WebSocket: one task per connection, nothing shared with other connections but what it reads.
//!
//! Read in this order: `request` (what a client says), `message` (what it is told), `close` (how it ends), `open` (how a
//! subscription starts), `subscription` (how it goes on), `connection` (the loop).

mod close;
mod connection;
mod message;
mod open;
mod rate;
mod request;
mod subscription;

pub(crate) use close::CloseReason;
pub(crate) use connection::serve;
pub(crate) use message::Messages;
