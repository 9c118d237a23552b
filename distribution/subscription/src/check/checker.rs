//! The rules, event by event and notice by notice.

use std::collections::HashMap;

use matchtape_schemas::{
    AcceptedTime, BodyRef, Epoch, EventFlags, EventRef, KindMask, ProducerId, ProducerSequence, Sequence,
    Stage, Watermarks,
};
use rkyv::util::AlignedVec;

use super::account::{Counts, Digest};
use super::held::{Compared, Held};
use super::promise::{Expected, Promise, Shown};
use crate::batch::Batch;
use crate::clock::HEARTBEATS_MISSED_MAX;
use crate::update::{Events, LeaveReason, Update};

/// Violations that are written out; more are counted.
const WRITTEN_OUT: usize = 8;

/// Where a reader is on the tape.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The next position.
    next: Sequence,
    epoch: Option<Epoch>,
    /// The greatest event time, once known.
    running: Option<i64>,
    /// The greatest event time when the present group began.
    group_began: Option<i64>,
    /// Whose group goes on.
    in_group: Option<ProducerId>,
    digest: Digest,
    events: u64,
}

/// How to forget an event that is taken back.
#[derive(Clone, Copy, Debug)]
struct Undo {
    /// Where the reader was before it.
    place: Place,
    producer: ProducerId,
    /// The last number of its producer before it.
    number: Option<ProducerSequence>,
}

/// The judge.
#[derive(Debug)]
pub struct Checker<E = ()> {
    promise: Promise,
    expected: E,
    first: Sequence,
    place: Place,
    /// The last number of each producer that was met.
    numbers: HashMap<ProducerId, ProducerSequence>,
    /// For the events that may still be taken back, oldest first.
    undo: Vec<Undo>,
    /// What is known to be visible, by label or by watermark.
    certain: Sequence,
    /// The last sign of life.
    watermarks: Watermarks,
    epoch_heard: Epoch,
    /// The last sign of life that came from the bus, since it was joined.
    heard_live: Option<Watermarks>,
    /// The last event that came from the bus, since it was joined. What the bus says afterwards reaches it.
    shown_live: Option<Sequence>,
    held: Option<Held>,
    live: bool,
    lagging: bool,
    /// The alarm was raised, and the bus has not been heard of since.
    silent: bool,
    window: Option<(i64, bool, u32)>,
    batches: Digest,
    counts: Counts,
    violations: Vec<String>,
    violated: u64,
}

impl<E: Expected> Checker<E> {
    /// Of a reader that was to begin at `first`.
    pub fn new(promise: Promise, first: Sequence, expected: E) -> Self {
        let place = Place {
            next: first,
            epoch: None,
            running: (first == Sequence::FIRST).then_some(i64::MIN),
            group_began: None,
            in_group: None,
            digest: Digest::EMPTY,
            events: 0,
        };
        Self {
            promise,
            expected,
            first,
            place,
            numbers: HashMap::new(),
            undo: Vec::new(),
            certain: first.previous(),
            watermarks: Watermarks::default(),
            epoch_heard: Epoch::default(),
            heard_live: None,
            shown_live: None,
            held: None,
            live: false,
            lagging: false,
            silent: false,
            window: None,
            batches: Digest::EMPTY,
            counts: Counts::default(),
            violations: Vec::new(),
            violated: 0,
        }
    }

    /// What is shown is kept until it is compared: see [`logged`](Self::logged).
    #[must_use]
    pub fn held_against_a_log(mut self) -> Self {
        self.held = Some(Held::default());
        self
    }

    /// What the reader was promised.
    pub fn promise(&self) -> &Promise {
        &self.promise
    }

    /// Where it began.
    pub fn first(&self) -> Sequence {
        self.first
    }

    /// The next position.
    pub fn next(&self) -> Sequence {
        self.place.next
    }

    /// Where another reader may go on: nothing before it can be taken back.
    pub fn resume_at(&self) -> Sequence {
        match self.promise.stage {
            Stage::Visible => self.place.next,
            _ => self.place.next.min(self.certain.next()),
        }
    }

    /// Events, without those that were taken back.
    pub fn events(&self) -> u64 {
        self.place.events
    }

    /// Of those events.
    pub fn digest(&self) -> Digest {
        self.place.digest
    }

    /// Of all windows.
    pub fn batch_digest(&self) -> Digest {
        self.batches
    }

    /// What happened how often.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether no rule was broken.
    pub fn is_clean(&self) -> bool {
        self.violated == 0
    }

    /// How often a rule was broken.
    pub fn violated(&self) -> u64 {
        self.violated
    }

    /// The first few times, in words.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    fn violation(&mut self, what: String) {
        self.violated += 1;
        if self.violations.len() < WRITTEN_OUT {
            self.violations.push(what);
        }
    }

    /// What the subscription says next.
    pub fn update(&mut self, update: &Update<'_>) {
        self.update_by(update, |checker, event, stage| checker.seen(event, stage));
    }

    /// The same, with every event as `pass` shows it: what a broken bus would do to it, for those who prove that this judge notices.
    pub fn update_through(
        &mut self,
        update: &Update<'_>,
        mut pass: impl FnMut(&EventRef<'_>, Stage, &mut dyn FnMut(Shown<'_>)),
    ) {
        self.update_by(update, |checker, event, stage| {
            pass(event, stage, &mut |shown| checker.event(shown));
        });
    }

    fn update_by(&mut self, update: &Update<'_>, give: impl FnMut(&mut Self, &EventRef<'_>, Stage)) {
        match *update {
            Update::Events(events) => self.frame(&events, give),
            Update::Window(batch) => self.batch(&batch, give),
            Update::LiveJoined { next } => {
                self.counts.joined += 1;
                if self.live || !self.at(next) {
                    self.violation(format!("joined at {next}, live {}, next {}", self.live, self.place.next));
                }
                (self.live, self.silent) = (true, false);
            }
            Update::LiveLeft { next, reason } => {
                self.counts.left += 1;
                if !self.live || !self.at(next) {
                    self.violation(format!("left at {next}, live {}, next {}", self.live, self.place.next));
                }
                self.live = false;
                (self.heard_live, self.shown_live) = (None, None);
                if let LeaveReason::Missed { first, last } = reason
                    && !(self.lagging && first == next && first <= last)
                {
                    self.violation(format!("left at {next} for {first} to {last}, lagging {}", self.lagging));
                }
            }
            Update::Lagging { behind } => {
                self.counts.lagging += 1;
                if !self.live || behind == 0 {
                    self.violation(format!("lagging by {behind}, live {}", self.live));
                }
                self.lagging = true;
            }
            Update::CaughtUp { next } => {
                self.counts.caught_up += 1;
                if !(self.live && self.lagging && self.at(next)) {
                    self.violation(format!(
                        "caught up at {next}, live {}, lagging {}",
                        self.live, self.lagging
                    ));
                }
                self.lagging = false;
            }
            Update::Heartbeat { epoch, watermarks } => self.heartbeat(epoch, &watermarks),
            Update::Alarm { missed } => {
                self.counts.alarms += 1;
                self.silent = true;
                if missed < HEARTBEATS_MISSED_MAX {
                    self.violation(format!("alarm after {missed} intervals"));
                }
            }
            Update::Retract { epoch, first, last } => self.retract(epoch, first, last),
            Update::PublisherRestarted { epoch } => {
                self.counts.restarts += 1;
                self.silent = false;
                (self.heard_live, self.shown_live) = (None, None);
                // Of what the term before it had said, only what was durable is known to be there.
                self.watermarks.visible = self.watermarks.visible.min(self.watermarks.durable);
                self.term_heard("a publisher", epoch);
            }
            Update::Ahead { next, visible } => {
                if next <= visible.next() {
                    self.violation(format!("{next} is not ahead of {visible}"));
                }
            }
            Update::Ended { next } => {
                if !self.at(next) {
                    self.violation(format!("ended at {next}, next {}", self.place.next));
                }
            }
        }
    }

    /// Whether `next` is where this reader is. One that sees only some kinds, or windows, is at that position or before.
    fn at(&self, next: Sequence) -> bool {
        let exact = self.promise.everything() && self.promise.window_ns == 0;
        if exact { next == self.place.next } else { next >= self.place.next }
    }

    fn frame(&mut self, events: &Events<'_>, mut give: impl FnMut(&mut Self, &EventRef<'_>, Stage)) {
        let stage = events.stage();
        if stage == Stage::Accepted {
            self.counts.accepted += 1;
        }
        if !(stage == self.promise.stage || stage == Stage::Visible) {
            self.violation(format!("events labelled {stage} to a reader of {}", self.promise.stage));
        }
        if !self.at(events.first()) {
            self.violation(format!("events from {} after {}", events.first(), self.place.next.previous()));
        }
        if events.watermarks().is_some() != self.live {
            let from = if self.live { "the log" } else { "the bus" };
            self.violation(format!("events from {} come from {from}, live {}", events.first(), self.live));
        }
        if let Some(watermarks) = events.watermarks() {
            self.ordered(&watermarks);
            let reached = watermarks.get(stage);
            if events.last() > reached {
                self.violation(format!(
                    "events through {} are labelled {stage}, which is at {reached}",
                    events.last()
                ));
            }
            self.shown_live = Some(events.last());
        }
        for event in events.iter() {
            if event.epoch() != events.epoch() {
                self.violation(format!("event {} of another term than its frame", event.sequence()));
            }
            give(self, &event, stage);
        }
        if self.promise.everything() && self.place.next != events.last().next() {
            self.violation(format!("events through {} end at {}", events.last(), self.place.next.previous()));
        }
        let header = *events.frame().header();
        if self.promise.everything() && events.last() == header.last_sequence() {
            let said = header.max_event_time.get();
            if self.place.running.is_some_and(|running| running != said) {
                let (last, running) = (events.last(), self.place.running);
                self.violation(format!("after {last} the frame's time is {said}, the tape's is {running:?}"));
            }
            self.place.running = Some(said);
        }
        let visible = events.watermarks().map_or(Sequence::ZERO, |watermarks| watermarks.visible);
        let labelled = if stage == Stage::Visible { events.last() } else { Sequence::ZERO };
        self.known_visible(labelled.max(visible.min(self.place.next.previous())));
    }

    /// One event, as it was shown.
    pub fn event(&mut self, shown: Shown<'_>) {
        let Shown { sequence, epoch, stage, bytes } = shown;
        let mut aligned: AlignedVec<16> = AlignedVec::new();
        aligned.extend_from_slice(bytes);
        match EventRef::decode(sequence, epoch, AcceptedTime(0), &aligned) {
            Ok(event) => self.seen(&event, stage),
            Err(error) => {
                self.violation(format!("event {sequence} is none: {error}"));
                self.place.next = sequence.next();
            }
        }
    }

    fn seen(&mut self, event: &EventRef<'_>, stage: Stage) {
        let (sequence, epoch, producer) = (event.sequence(), event.epoch(), event.header().producer);
        let (before, number) = (self.place, self.numbers.get(&producer).copied());
        let expected = before.next;
        if sequence < expected {
            self.violation(format!("duplicate: event {sequence} came after {}", expected.previous()));
        } else if sequence > expected && self.promise.everything() {
            self.violation(format!("gap: event {sequence} came after {}", expected.previous()));
        }
        self.content(event);
        self.place.next = sequence.next();
        self.place.digest = before.digest.event(sequence, epoch, event.bytes());
        self.place.events += 1;
        if let Some(held) = &mut self.held {
            held.push(event, stage);
        }
        if self.promise.stage == Stage::Accepted {
            self.undo.push(Undo { place: before, producer, number });
            if stage == Stage::Visible {
                self.known_visible(sequence);
            }
        }
    }

    fn content(&mut self, event: &EventRef<'_>) {
        let (sequence, kind, producer) = (event.sequence(), event.kind(), event.header().producer);
        let everything = self.promise.everything();
        if !self.promise.kinds.contains(kind) {
            self.violation(format!("event {sequence} is a {kind:?}, which nobody asked for"));
        }
        self.term(event);
        self.time(event);
        if everything {
            if self.place.in_group.is_some_and(|whose| whose != producer) {
                self.violation(format!("event {sequence} interrupts a group"));
            }
            self.place.in_group = (!event.ends_group()).then_some(producer);
        }
        if (producer == ProducerId::SEQUENCER) != KindMask::CONTROL.contains(kind) {
            self.violation(format!("event {sequence} of producer {producer} says {kind:?}"));
        }
        if producer == ProducerId::SEQUENCER {
            return;
        }
        let number = event.header().producer_sequence;
        let unseen = (self.first == Sequence::FIRST).then_some(ProducerSequence(0));
        let before = self.numbers.insert(producer, number).or(unseen);
        if let Some(last) = before.filter(|last| number <= *last) {
            self.violation(format!("event {sequence}: producer {producer}'s {number} after {last}"));
        }
        if let Some(wrong) = self.expected.wrong(event, before, everything) {
            self.violation(wrong);
        }
    }

    /// A term begins with `EpochStarted`, and only there.
    fn term(&mut self, event: &EventRef<'_>) {
        let (sequence, epoch) = (event.sequence(), event.epoch());
        let before = self.place.epoch.replace(epoch);
        if let BodyRef::EpochStarted(started) = event.body() {
            let previous = started.previous_epoch.get();
            if started.epoch.get() != epoch
                || previous >= epoch
                || before.is_some_and(|before| self.promise.everything() && before != previous)
                || started.previous_last_sequence.get() != sequence.previous()
            {
                self.violation(format!(
                    "event {sequence} starts epoch {epoch} after {previous}, was {before:?}"
                ));
            }
        } else if before.is_some_and(
            |before| {
                if self.promise.everything() { before != epoch } else { before > epoch }
            },
        ) {
            self.violation(format!("event {sequence} is of epoch {epoch} after {before:?} without a start"));
        }
    }

    /// Exactly the events behind the tape's time are marked late.
    fn time(&mut self, event: &EventRef<'_>) {
        let (time, late) = (event.event_time().get(), event.flags().contains(EventFlags::LATE));
        self.counts.late += u64::from(late);
        if !self.promise.everything() {
            return;
        }
        if self.place.running.is_some_and(|running| (time < running) != late) {
            let (sequence, running) = (event.sequence(), self.place.running);
            self.violation(format!(
                "event {sequence} of {time}, late {late}, but the tape's time is {running:?}"
            ));
        }
        if !late {
            self.place.running = Some(time);
        }
        if self.place.in_group.is_none() {
            self.place.group_began = self.place.running;
        }
    }

    fn known_visible(&mut self, through: Sequence) {
        self.certain = self.certain.max(through);
        let keep = self.undo.partition_point(|undo| undo.place.next <= self.certain);
        self.undo.drain(..keep);
    }

    /// No stage is ahead of the one before it.
    fn ordered(&mut self, watermarks: &Watermarks) {
        let Watermarks { accepted, written, durable, replicated, visible } = *watermarks;
        let shown_at = watermarks.get(self.promise.visible_at);
        if !(accepted >= written && written >= durable && durable >= replicated && shown_at >= visible) {
            let stage = self.promise.visible_at;
            let otherwise = if shown_at < visible {
                format!("; visible is ahead of {stage}: is that what the node's visible_at says?")
            } else {
                String::new()
            };
            self.violation(format!("watermarks contradict each other: {watermarks:?}{otherwise}"));
        }
    }

    fn term_heard(&mut self, what: &str, epoch: Epoch) {
        if epoch < self.epoch_heard {
            self.violation(format!("{what} of epoch {epoch} after one of {}", self.epoch_heard));
        }
        self.epoch_heard = epoch;
    }

    fn heartbeat(&mut self, epoch: Epoch, watermarks: &Watermarks) {
        self.counts.heartbeats += 1;
        self.ordered(watermarks);
        self.term_heard("a heartbeat", epoch);
        if watermarks.visible < self.watermarks.visible || watermarks.durable < self.watermarks.durable {
            self.violation(format!("{watermarks:?} after {:?}", self.watermarks));
        }
        self.watermarks = *watermarks;
        if self.live {
            const STAGES: [Stage; 5] =
                [Stage::Accepted, Stage::Written, Stage::Durable, Stage::Replicated, Stage::Visible];
            let reached = watermarks.get(self.promise.stage);
            if let Some(last) = self.shown_live.filter(|last| *last > reached) {
                self.violation(format!("{last} came by the bus, which {watermarks:?} does not reach"));
            }
            let before = self.heard_live.replace(*watermarks).unwrap_or_default();
            if STAGES.iter().any(|stage| watermarks.get(*stage) < before.get(*stage)) {
                self.violation(format!("within a term {watermarks:?} after {before:?}"));
            }
        }
        // Who reads the log says so, but does not take the place of a publisher that is not heard.
        if self.silent {
            self.violation(format!("a heartbeat of epoch {epoch} while the bus is silent"));
        }
        if self.promise.stage == Stage::Accepted {
            self.known_visible(watermarks.visible.min(self.place.next.previous()));
        }
    }

    fn retract(&mut self, epoch: Epoch, first: Sequence, last: Sequence) {
        self.counts.retractions += 1;
        if self.promise.stage == Stage::Visible {
            self.violation(format!("{first} to {last} were visible and are retracted"));
            return;
        }
        let next = self.place.next;
        if !(first <= last && last == next.previous()) {
            self.violation(format!("{first} to {last} are retracted, but {} came last", next.previous()));
        }
        if first <= self.certain {
            self.violation(format!("{first} is retracted, but {} was known to be visible", self.certain));
        }
        if self.place.epoch.is_some_and(|shown| epoch > shown) {
            self.violation(format!(
                "{first} to {last} are retracted from epoch {epoch}, which was never shown"
            ));
        }
        let at = self.undo.partition_point(|undo| undo.place.next < first);
        match self.undo.get(at) {
            Some(undo) => {
                self.counts.retracted += self.place.events - undo.place.events;
                self.place = undo.place;
                for undo in self.undo.drain(at..).rev() {
                    match undo.number {
                        Some(number) => self.numbers.insert(undo.producer, number),
                        None => self.numbers.remove(&undo.producer),
                    };
                }
            }
            None => self.violation(format!("{first} to {last} are retracted, but were not shown")),
        }
        self.place.next = first;
        self.shown_live = None;
        if let Some(held) = &mut self.held {
            held.retract(first);
        }
    }

    fn batch(&mut self, batch: &Batch<'_>, mut give: impl FnMut(&mut Self, &EventRef<'_>, Stage)) {
        self.counts.batches += 1;
        self.batches = self.batches.with(batch.bytes());
        if let Err(error) = Batch::decode(batch.bytes()) {
            self.violation(format!("window {}: {error}", batch.window()));
        }
        let part = batch.part();
        if let Some((window, complete, parts)) = self.window {
            let follows = if complete {
                batch.window() == window + 1 && part == 0
            } else {
                batch.window() == window && part == parts
            };
            if !follows {
                self.violation(format!("window {} part {part} after {window} part {parts}", batch.window()));
            }
        }
        self.window = Some((batch.window() + batch.windows() as i64 - 1, batch.is_last_part(), part + 1));
        if self.counts.batches == 1 && self.first != Sequence::FIRST {
            // Joined in the middle: the first whole window is somewhere after the position asked for.
            self.place.next = self.place.next.max(batch.first());
        }
        if !self.promise.everything() || self.place.next != batch.first() {
            self.violation(format!("window from {} after {}", batch.first(), self.place.next.previous()));
        }
        if batch.is_empty() {
            self.counts.empty_windows += batch.windows();
        } else if batch.windows() != 1 {
            self.violation(format!("events in {} windows at once", batch.windows()));
        }
        let (start, mut late, mut count) = (batch.start().get(), 0, 0);
        for event in batch.events() {
            late += u32::from(event.event_time().get() < start);
            count += 1;
            give(self, &event, Stage::Visible);
            if let Some(began) = self.place.group_began
                && began.div_euclid(self.promise.window_ns) != batch.window()
            {
                self.violation(format!(
                    "event {} of a group of {began} in window {}",
                    event.sequence(),
                    batch.window()
                ));
            }
        }
        if (count, late) != (batch.count(), batch.late()) {
            self.violation(format!("window {}: {count} events, {late} late, {batch:?}", batch.window()));
        }
        if self.place.next > batch.last().next() {
            self.violation(format!("window through {} ends at {}", batch.last(), self.place.next.previous()));
        }
        self.place.next = batch.last().next();
    }

    /// The position of the first event that was shown and not compared yet; `None` when all are.
    pub fn uncompared(&self) -> Option<Sequence> {
        self.held.as_ref().and_then(Held::first)
    }

    /// How much of that is kept.
    pub fn held_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, Held::bytes)
    }

    /// Whether the event at [`uncompared`](Self::uncompared) is another on the log: it was accepted, and may be taken back.
    pub fn is_contradicted(&self) -> bool {
        self.held.as_ref().and_then(Held::contradiction).is_some()
    }

    /// The log's event at [`uncompared`](Self::uncompared). `false` where it is another than was shown, as merely accepted: that may
    /// still be taken back, so it is to be compared again.
    pub fn logged(&mut self, event: &EventRef<'_>) -> bool {
        let Some(held) = &mut self.held else { return true };
        match held.compare(event, self.certain) {
            Compared::Elsewhere => {}
            Compared::Same => self.counts.compared += 1,
            Compared::Different(what) => self.violation(what),
            Compared::Contradicted => return false,
        }
        true
    }

    /// The log begins at `first_kept` by now: what was shown before it cannot be compared any more.
    pub fn below_retention(&mut self, first_kept: Sequence) {
        if let Some(held) = &mut self.held {
            self.counts.below_retention += held.drop_before(first_kept);
        }
    }

    /// Nothing more will be said: what was accepted, is not on the log and was not taken back, will not be.
    pub fn unsettled(&mut self) {
        if let Some(contradiction) = self.held.as_ref().and_then(Held::contradiction) {
            let what = format!("never retracted: {contradiction}");
            self.violation(what);
        }
    }
}
