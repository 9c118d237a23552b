//! Sealing what is on the tape now: proofs need sealed segments, and a segment that fills slowly would be open for days.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use matchtape_schemas::event::{Event, TimeAdvanced};
use matchtape_schemas::publish::{PublishError, WaitError};
use matchtape_schemas::{EventTime, InstrumentId, ProducerSequence, Sequence, Stage};
use matchtape_storage::SegmentFacts;
use matchtape_storage::wal::SegmentSealer;

use crate::publisher::{Intake, wall_clock};

/// Seals the open segment, from any thread, also while the node is being closed.
#[derive(Clone)]
pub struct Sealer {
    pub(crate) intake: Arc<Intake>,
    pub(crate) log: SegmentSealer,
}

/// What is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealReport {
    /// A segment was sealed for this; else everything was sealed already.
    pub sealed: bool,
    /// Every event up to here is in a sealed segment.
    pub through: Sequence,
    /// The last sealed segment, if the log still has it.
    pub segment: Option<SegmentFacts>,
}

/// Why not everything that was accepted is sealed.
#[derive(thiserror::Error, Debug)]
pub enum SealError {
    /// The tape takes no more events, or what was accepted did not get to the log in time.
    #[error(transparent)]
    Tape(#[from] WaitError),
    /// The event that ends the segment cannot be put on the tape.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The log.
    #[error(transparent)]
    Log(#[from] matchtape_storage::wal::SealError),
}

impl SealError {
    /// The same may be asked again a little later.
    pub fn may_pass(&self) -> bool {
        use matchtape_storage::wal::SealError::{Ended, NoNext, TimedOut};
        match self {
            Self::Tape(error) => *error == WaitError::TimedOut,
            Self::Publish(error) => matches!(error, PublishError::NoSpace | PublishError::WouldBlock),
            Self::Log(TimedOut) => true,
            Self::Log(NoNext(error)) => error.may_pass(),
            Self::Log(Ended(_)) => false,
        }
    }
}

/// Longer than anybody waits, and a time that the clock still has.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

impl Sealer {
    /// Returns when everything that was accepted before is in a sealed segment.
    ///
    /// The frame that comes next ends the segment. So that one comes, the sequencer says something: that its term begins, if
    /// nothing was said in it, or else that time has passed.
    pub fn seal(&self, limit: Duration) -> Result<SealReport, SealError> {
        let deadline = Instant::now() + limit.min(FOR_EVER);
        let through = self.intake.watermarks().accepted;
        if through <= self.log.sealed_through() {
            return Ok(self.report(false));
        }
        // Then none of it is in a frame that is still to come: whichever is the next ends the segment behind all of it.
        self.intake.wait(through, Stage::Written, Some(deadline))?;
        self.log.ask(deadline)?;
        match self.say_something() {
            // There are events enough.
            Ok(()) | Err(PublishError::WouldBlock) => {}
            Err(error) => return Err(error.into()),
        }
        self.log.wait(through, deadline)?;
        Ok(self.report(true))
    }

    fn say_something(&self) -> Result<(), PublishError> {
        self.intake.check_space()?;
        // Relaxed: what is said moves no time, however old it is.
        let event_time = EventTime(self.intake.max_event_time.load(Ordering::Relaxed));
        if self.intake.start_epoch(event_time)? {
            self.intake.announce();
            return Ok(());
        }
        // As much as was said already: on a tape of another day this moment's time would make everything after it late.
        let body = TimeAdvanced { accepted_time: wall_clock(), ..TimeAdvanced::default() };
        let event = Event::new(InstrumentId(0), ProducerSequence(0), event_time, body);
        self.intake.publish_control(&event).map(|_| ())
    }

    fn report(&self, sealed: bool) -> SealReport {
        let segment = self.log.last_sealed().as_ref().and_then(SegmentFacts::of);
        SealReport { sealed, through: self.log.sealed_through(), segment }
    }
}
