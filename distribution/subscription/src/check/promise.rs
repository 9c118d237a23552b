//! What a reader was promised, and what it was shown.

use matchtape_schemas::{Epoch, EventRef, KindMask, ProducerSequence, Sequence, Stage};

/// What a reader was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// The stage from which on events are shown.
    pub stage: Stage,
    /// The kinds it asked for.
    pub kinds: KindMask,
    /// The width of its windows, ns; zero where it reads no windows.
    pub window_ns: i64,
    /// The stage that `visible` is never ahead of, as the node is configured.
    pub visible_at: Stage,
}

impl Promise {
    /// Everything that is visible.
    pub const VISIBLE: Self =
        Self { stage: Stage::Visible, kinds: KindMask::ALL, window_ns: 0, visible_at: Stage::Replicated };
    /// Everything that is accepted.
    pub const ACCEPTED: Self = Self { stage: Stage::Accepted, ..Self::VISIBLE };

    pub(super) fn everything(&self) -> bool {
        self.kinds == KindMask::ALL
    }
}

/// An event as it was shown.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// Its position.
    pub sequence: Sequence,
    /// Its term.
    pub epoch: Epoch,
    /// What it was labelled.
    pub stage: Stage,
    /// As on the tape.
    pub bytes: &'a [u8],
}

/// What else is known of the events that have to come.
pub trait Expected {
    /// What is wrong with an event that no rule of a tape forbids. `before` is the number that its producer's last event had, zero
    /// for none; `None` where that is not known. With `everything`, no event is filtered out.
    fn wrong(
        &mut self,
        event: &EventRef<'_>,
        before: Option<ProducerSequence>,
        everything: bool,
    ) -> Option<String>;
}

/// Nothing is.
impl Expected for () {
    fn wrong(&mut self, _: &EventRef<'_>, _: Option<ProducerSequence>, _: bool) -> Option<String> {
        None
    }
}
