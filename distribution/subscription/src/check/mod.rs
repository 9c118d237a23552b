//! The judge of a reader: told everything that its subscription said, it says whether that was the tape.
//!
//! ```text
//!   subscription --Update--> Checker: the rules of a subscription, event by event
//!                               | what was shown, held until the log proves that position
//!   log (read by itself) -------+--> the same bytes, the same term
//! ```
//!
//! It knows nothing of how an event came: positions without gap or repetition over joins, lag, restarts and failovers; terms
//! that begin with their `EpochStarted`; producers whose numbers rise; groups that nothing interrupts; late marks by the
//! tape's running time; stages as labelled and never beyond the watermarks that came along; retractions only of what was
//! merely accepted, and what was not retracted on the log as it was shown; watermarks that hold in their order and never go
//! back; windows as their rules cut them.
//!
//! [`Checker`] is pure: no clock, no file, no bus. [`Watch`] acts it out. Whoever knows more of what has to come (a test that
//! has written it) says so by [`Expected`].

mod account;
mod checker;
mod held;
mod promise;
mod watch;

pub use account::{Counts, Digest};
pub use checker::Checker;
pub use promise::{Expected, Promise, Shown};
pub use watch::Watch;
