//! A small matching engine with an order flow of its own, for the short programs in `examples/` and the demonstration.
//!
//! `engine/` matches orders and says what happened as events; it never touches a disk, a network or a clock, and can be
//! rebuilt from the tape it produced. `demo` runs it on a node. `local` is what the programs that watch a node share.

pub mod demo;
pub mod engine;
pub mod local;
