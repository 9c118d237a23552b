//! Which old files go, and why not more.
//!
//! `choose` decides, as a pure function of what the manifest names, of the policy, of the pins and of the time; `act` does
//! it: one record of the manifest first, then what readers see, then the files. What goes is always a prefix of the
//! tape, in whole event tables:
//!
//! ```text
//!   event tables   |  drop  |  drop  |  keep  |  keep  |      never the newest with events from outside
//!   snapshots               s        s        s        s      one exactly where the rest begins, and at least two
//!   index tables   |  drop           |  keep ...              those wholly below
//! ```
//!
//! So whatever can be asked of the events that are kept still has an answer: the state before the first of them is in a
//! snapshot, and opening the store has an older snapshot to fall back to.

mod act;
mod choose;
mod policy;

pub use self::act::RetentionError;
pub(crate) use self::act::{Scope, plan, retain};
pub use self::choose::{Advisory, DropReason, DroppedFile, Excess, Restraint, RetentionChoice};
pub use self::policy::{PinLimit, PinLimits, RetentionPolicy};
