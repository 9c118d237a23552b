//! Durable consumers of a node in a process of its own: `killed` at random moments, as the node is; and as `people` use them.
//!
//! `MATCHTAPE_CONSUMER_EVENTS` is how many events consumers are killed on the way through.

mod judge;
mod killed;
mod people;
mod proxy;
mod served;
#[path = "../shared_memory/mod.rs"]
mod shared_memory;
#[path = "../shown/mod.rs"]
mod shown;
mod transcript;
#[path = "../watched/mod.rs"]
mod watched;
