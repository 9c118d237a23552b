//! The projections, and how far they have come on the tape.

use std::sync::Arc;

use matchtape_schemas::{Frame, Head, Projection, ProjectionError, Sequence};

use crate::chunk::Chunk;
use crate::snapshot::{Section, Snapshot};

/// One projection and the last event it was given.
struct Folded {
    projection: Box<dyn Projection>,
    through: Sequence,
    /// What it saves when it was given nothing: the way back from a restore that went wrong.
    initial: Vec<u8>,
}

/// All projections of a store. Each is given every event once, in order.
pub(crate) struct Fold {
    projections: Vec<Folded>,
    head: Head,
}

impl std::fmt::Debug for Fold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fold").field("through", &self.head.last_sequence).finish()
    }
}

impl Fold {
    /// Projections that were given nothing yet, on a tape that begins after `head`.
    pub(crate) fn new(projections: Vec<Box<dyn Projection>>, head: Head) -> Self {
        let folded = |projection: Box<dyn Projection>| {
            let mut initial = Vec::new();
            projection.save(&mut initial);
            Folded { projection, through: Sequence::ZERO, initial }
        };
        Self { projections: projections.into_iter().map(folded).collect(), head }
    }

    /// Whether some projection that was not restored yet has one of these sections.
    pub(crate) fn wants_any(&self, sections: &[String]) -> bool {
        let mut wanting = self.projections.iter().filter(|folded| folded.through == Sequence::ZERO);
        wanting.any(|folded| sections.iter().any(|name| name == folded.projection.name()))
    }

    /// Restores projections that were not restored yet, as far as the snapshot has a section that they read. A
    /// refused section means that the snapshot is not to be trusted: everything is then as it was before, and the
    /// refusal is returned. Fails if a projection does not take back even its own initial state.
    pub(crate) fn restore(
        &mut self,
        snapshot: &Snapshot,
    ) -> Result<Option<ProjectionError>, ProjectionError> {
        let mut refused = None;
        let mut tried = Vec::new();
        for folded in self.projections.iter_mut().filter(|folded| folded.through == Sequence::ZERO) {
            let Some(outcome) = snapshot.restore(&mut *folded.projection) else { continue };
            folded.through = snapshot.sequence();
            tried.push(folded);
            if let Err(error) = outcome {
                refused = Some(error);
                break;
            }
        }
        if refused.is_some() {
            for folded in tried {
                folded.projection.restore(&folded.initial)?;
                folded.through = Sequence::ZERO;
            }
        }
        Ok(refused)
    }

    /// A projection that would need an event before `first_kept`.
    pub(crate) fn wants_before(&self, first_kept: Sequence) -> Option<&'static str> {
        let folded = self.projections.iter().find(|folded| folded.through.next() < first_kept)?;
        Some(folded.projection.name())
    }

    /// The first event that some projection was not given yet; `None` if there are no projections.
    pub(crate) fn wants_from(&self) -> Option<Sequence> {
        self.projections.iter().map(|folded| folded.through.next()).min()
    }

    /// Where the tape stood after the last frame that was folded.
    pub(crate) fn head(&self) -> Head {
        self.head
    }

    /// Gives the frame's events to every projection that does not have them yet.
    pub(crate) fn add(&mut self, frame: &Frame<'_>) {
        let last = frame.last_sequence();
        for folded in &mut self.projections {
            if folded.through >= last {
                continue;
            }
            for event in frame.events() {
                if event.sequence() > folded.through {
                    folded.projection.apply(&event);
                }
            }
            folded.through = last;
        }
        if last > self.head.last_sequence {
            self.head = frame.header().head();
        }
    }

    pub(crate) fn add_chunk(&mut self, chunk: &Arc<Chunk>) {
        for number in 0..chunk.frames().len() {
            self.add(&chunk.frame(number));
        }
    }

    /// Nothing more is to be folded before this position: there were no projections to give it to.
    pub(crate) fn skip_to(&mut self, head: Head) {
        if head.last_sequence > self.head.last_sequence {
            self.head = head;
        }
    }

    /// The state of all projections, which stand at the same position.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let sections = self.projections.iter().map(|folded| Section::of(&*folded.projection)).collect();
        Snapshot::new(self.head, sections)
    }
}
