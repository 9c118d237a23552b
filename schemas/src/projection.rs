//! State folded from the tape, kept in snapshots as a named section that storage does not look into.

use crate::event::EventRef;

/// State that is a pure function of the events applied so far, in order, from the first.
///
/// Two instances that were given the same events save the same bytes; `restore` of what `save` wrote, then applying the
/// events after it, equals applying all of them.
pub trait Projection: Send {
    /// The section's name; part of the snapshot format. ASCII, at most 32 bytes.
    fn name(&self) -> &'static str;

    /// The layout that `save` writes.
    fn version(&self) -> u32;

    /// Takes in the next event.
    fn apply(&mut self, event: &EventRef<'_>);

    /// Appends the state to `out`, the same bytes for the same state.
    fn save(&self, out: &mut Vec<u8>);

    /// Becomes the state that `save` wrote.
    fn restore(&mut self, section: &[u8]) -> Result<(), ProjectionError>;

    /// Becomes the state that an earlier release saved in the layout `version`; `None` where that one is not read. Such a
    /// section is folded again from the tape, which cannot be done where retention has dropped the tape's beginning: a
    /// projection reads every layout that a release has written.
    fn restore_older(&mut self, _version: u32, _section: &[u8]) -> Option<Result<(), ProjectionError>> {
        None
    }
}

/// A snapshot section that is not one of this projection.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
#[error("section {section}: {what} at byte {at}")]
pub struct ProjectionError {
    /// The projection's name.
    pub section: &'static str,
    /// Where.
    pub at: usize,
    /// What is wrong there.
    pub what: String,
}
