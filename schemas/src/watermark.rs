//! The stages an event goes through, and how far each has come.

use std::fmt;

use crate::ids::Sequence;

/// How far an event has come. Never blur two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Sequenced, in memory.
    Accepted,
    /// Handed to the kernel: survives a crash of the process.
    Written,
    /// Synced locally: survives loss of power.
    Durable,
    /// Durable on the ack quorum.
    Replicated,
    /// What any reader may be given.
    Visible,
}

impl Stage {
    /// Every stage, earliest first.
    pub const ALL: [Self; 5] =
        [Self::Accepted, Self::Written, Self::Durable, Self::Replicated, Self::Visible];

    /// The word used in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Written => "written",
            Self::Durable => "durable",
            Self::Replicated => "replicated",
            Self::Visible => "visible",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The highest sequence that has reached each stage: `accepted >= written >= durable >= replicated >= visible`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the stage of its name")]
pub struct Watermarks {
    pub accepted: Sequence,
    pub written: Sequence,
    pub durable: Sequence,
    pub replicated: Sequence,
    pub visible: Sequence,
}

impl Watermarks {
    /// The watermark of one stage.
    pub const fn get(&self, stage: Stage) -> Sequence {
        match stage {
            Stage::Accepted => self.accepted,
            Stage::Written => self.written,
            Stage::Durable => self.durable,
            Stage::Replicated => self.replicated,
            Stage::Visible => self.visible,
        }
    }

    /// Every stage there.
    pub const fn all(at: Sequence) -> Self {
        Self { accepted: at, written: at, durable: at, replicated: at, visible: at }
    }

    /// Whether the chain of stages holds.
    pub fn chain_holds(&self) -> bool {
        self.accepted >= self.written
            && self.written >= self.durable
            && self.durable >= self.replicated
            && self.replicated >= self.visible
    }
}
