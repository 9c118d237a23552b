//! A small matching engine with an order flow of its own, for the short programs in `examples/` and the demonstration.
//!
//! `engine/` matches orders and says what happened as events; it never touches a disk, a network or a clock, and can be
//! rebuilt from the tape it produced.

pub mod engine;
