//! What was seen, in numbers.

use matchtape_schemas::{Epoch, Sequence};

/// Of events or windows in their order, to be compared with another reader's (FNV-1a over words).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Digest {
    /// Of nothing.
    pub const EMPTY: Self = Self(0xcbf2_9ce4_8422_2325);

    /// With these bytes behind it.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        Self(words.fold(self.0, |hash, word| (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23)))
    }

    /// With this event behind it.
    #[must_use]
    pub fn event(self, sequence: Sequence, epoch: Epoch, bytes: &[u8]) -> Self {
        self.with(&sequence.get().to_le_bytes()).with(&epoch.get().to_le_bytes()).with(bytes)
    }
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times that events began to come from the bus.
    pub joined: u64,
    /// Times that they ceased to.
    pub left: u64,
    /// Times that the reader was outrun.
    pub lagging: u64,
    /// Times that it caught up.
    pub caught_up: u64,
    /// Signs of life.
    pub heartbeats: u64,
    /// Times that they were missed.
    pub alarms: u64,
    /// Retractions.
    pub retractions: u64,
    /// Events in them.
    pub retracted: u64,
    /// Publishers that took over.
    pub restarts: u64,
    /// Windows, runs of empty ones being one.
    pub batches: u64,
    /// Empty windows.
    pub empty_windows: u64,
    /// Events that were marked late.
    pub late: u64,
    /// Times that events were shown as merely accepted.
    pub accepted: u64,
    /// Events that the log has as they were shown.
    pub compared: u64,
    /// Events that the log had let go of before they could be compared.
    pub below_retention: u64,
}
