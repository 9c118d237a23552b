//! What a reader was shown, kept until the log proves that position.

use std::collections::VecDeque;

use matchtape_schemas::{Epoch, EventRef, Sequence, Stage};

/// An event as it was shown.
#[derive(Debug)]
struct Event {
    sequence: Sequence,
    epoch: Epoch,
    stage: Stage,
    bytes: Box<[u8]>,
}

/// How a held event and the log's compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// Not the position that is awaited.
    Elsewhere,
    Same,
    /// The text says how. It was labelled visible, or is known to be.
    Different(String),
    /// It was merely accepted: it may still be taken back.
    Contradicted,
}

/// In the order shown.
#[derive(Debug, Default)]
pub(super) struct Held {
    events: VecDeque<Event>,
    bytes: usize,
    /// Of the first: accepted, and the log has something else there.
    contradiction: Option<String>,
}

impl Held {
    pub(super) fn push(&mut self, event: &EventRef<'_>, stage: Stage) {
        let (sequence, epoch, bytes) = (event.sequence(), event.epoch(), Box::from(event.bytes()));
        self.bytes += event.bytes().len();
        self.events.push_back(Event { sequence, epoch, stage, bytes });
    }

    /// The position of the first.
    pub(super) fn first(&self) -> Option<Sequence> {
        self.events.front().map(|event| event.sequence)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn contradiction(&self) -> Option<&str> {
        self.contradiction.as_deref()
    }

    /// Compares the first with what the log has, and lets go of it unless it may still be taken back.
    pub(super) fn compare(&mut self, logged: &EventRef<'_>, certain: Sequence) -> Compared {
        let Some(held) = self.events.front().filter(|held| held.sequence == logged.sequence()) else {
            return Compared::Elsewhere;
        };
        let difference = difference(held, logged);
        if let Some(difference) = &difference
            && held.stage == Stage::Accepted
            && held.sequence > certain
        {
            self.contradiction = Some(difference.clone());
            return Compared::Contradicted;
        }
        self.drop_first();
        difference.map_or(Compared::Same, Compared::Different)
    }

    /// Lets go of what is before `first`; returns how many.
    pub(super) fn drop_before(&mut self, first: Sequence) -> u64 {
        let mut dropped = 0;
        while self.first().is_some_and(|held| held < first) {
            self.drop_first();
            dropped += 1;
        }
        dropped
    }

    fn drop_first(&mut self) {
        self.contradiction = None;
        if let Some(event) = self.events.pop_front() {
            self.bytes -= event.bytes.len();
        }
    }

    /// Everything from `first` on was taken back.
    pub(super) fn retract(&mut self, first: Sequence) {
        while self.events.back().is_some_and(|event| event.sequence >= first) {
            let event = self.events.pop_back().expect("there is a last one");
            self.bytes -= event.bytes.len();
        }
        if self.events.is_empty() {
            self.contradiction = None;
        }
    }
}

fn difference(held: &Event, logged: &EventRef<'_>) -> Option<String> {
    let Event { sequence, epoch, .. } = held;
    if *epoch != logged.epoch() {
        return Some(format!(
            "not the log's: event {sequence} was shown of epoch {epoch}, the log has one of epoch {} there",
            logged.epoch()
        ));
    }
    if *held.bytes == *logged.bytes() {
        return None;
    }
    let same = held.bytes.iter().zip(logged.bytes()).take_while(|(shown, logged)| shown == logged).count();
    Some(format!(
        "not the log's: event {sequence} was shown with {} bytes, the log has {} there, different from byte {same} on",
        held.bytes.len(),
        logged.bytes().len()
    ))
}
