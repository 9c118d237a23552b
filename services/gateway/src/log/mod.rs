//! The stored half: reading the log for clients that ask for the past or fell behind. Never on an async thread.

mod candles;
mod history;
mod pool;
mod replay;

pub(crate) use candles::{CandleFold, Counted};
pub(crate) use history::{first_at_time, group_end_at};
pub(crate) use pool::{LogPool, on_blocking_thread};
pub(crate) use replay::{Filter, Past, PastState, Replay, Wants};
