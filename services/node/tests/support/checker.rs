//! The judge of one reader: told everything its subscription said, it says whether that was the tape.
//!
//! It knows nothing but the script the producers follow and the rules of a subscription: positions without gap or
//! repetition, every producer's events dense and in order and byte for byte the script's, terms that begin with their
//! `EpochStarted`, stages as labelled, retractions only of what was merely accepted, watermarks that never contradict
//! each other, windows as their rules cut them. What it saw is also a digest, to be compared with that of the log.
//!
//! Pure: no clock, no file, no bus.
#![allow(dead_code, reason = "each program uses its own part")]

use std::fmt::Write;

use matchtape_schemas::{
    AcceptedTime, BodyRef, Epoch, EventFlags, EventRef, Kind, KindMask, ProducerId, Sequence, Stage,
    Watermarks,
};
use matchtape_subscription::{Batch, Events, LeaveReason, Update};
use rkyv::util::AlignedVec;

use super::script::{self, PRODUCERS};

/// Violations that are written out; more are counted.
const WRITTEN_OUT: usize = 8;

/// What a reader was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// The stage from which on events are shown.
    pub stage: Stage,
    /// The kinds it asked for.
    pub kinds: KindMask,
    /// The width of its windows, ns; zero where it reads no windows.
    pub window_ns: i64,
}

impl Promise {
    pub const VISIBLE: Self = Self { stage: Stage::Visible, kinds: KindMask::ALL, window_ns: 0 };
    pub const ACCEPTED: Self = Self { stage: Stage::Accepted, ..Self::VISIBLE };

    fn everything(&self) -> bool {
        self.kinds == KindMask::ALL
    }
}

/// An event as it was shown.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    pub sequence: Sequence,
    pub epoch: Epoch,
    pub stage: Stage,
    /// As on the tape.
    pub bytes: &'a [u8],
}

/// FNV-1a.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Digest {
    pub const EMPTY: Self = Self(0xcbf2_9ce4_8422_2325);

    pub fn with(self, bytes: &[u8]) -> Self {
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        Self(words.fold(self.0, |hash, word| (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23)))
    }

    pub fn event(self, sequence: Sequence, epoch: Epoch, bytes: &[u8]) -> Self {
        self.with(&sequence.get().to_le_bytes()).with(&epoch.get().to_le_bytes()).with(bytes)
    }
}

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
    /// The last number of each producer, once known.
    numbers: [Option<u64>; PRODUCERS.len()],
    /// Whose group goes on.
    in_group: Option<ProducerId>,
    digest: Digest,
    events: u64,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub joined: u64,
    pub left: u64,
    pub lagging: u64,
    pub caught_up: u64,
    pub heartbeats: u64,
    pub alarms: u64,
    pub retractions: u64,
    pub retracted: u64,
    pub restarts: u64,
    pub batches: u64,
    pub empty_windows: u64,
    pub late: u64,
    pub accepted: u64,
}

/// The judge.
pub struct Checker {
    promise: Promise,
    first: Sequence,
    place: Place,
    /// The places before the events that may still be taken back, oldest first.
    undo: Vec<Place>,
    /// What is known to be visible, by label or by watermark.
    certain: Sequence,
    watermarks: Watermarks,
    live: bool,
    lagging: bool,
    /// The alarm was raised, and the bus has not been heard of since.
    silent: bool,
    window: Option<(i64, bool, u32)>,
    batches: Digest,
    pub counts: Counts,
    violations: Vec<String>,
    violated: u64,
}

impl Checker {
    /// Of a reader that was to begin at `first`.
    pub fn new(promise: Promise, first: Sequence) -> Self {
        let place = Place {
            next: first,
            epoch: None,
            running: (first == Sequence::FIRST).then_some(i64::MIN),
            group_began: None,
            numbers: if first == Sequence::FIRST {
                [Some(0); PRODUCERS.len()]
            } else {
                [None; PRODUCERS.len()]
            },
            in_group: None,
            digest: Digest::EMPTY,
            events: 0,
        };
        Self {
            promise,
            first,
            place,
            undo: Vec::new(),
            certain: first.previous(),
            watermarks: Watermarks::default(),
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

    pub fn is_clean(&self) -> bool {
        self.violated == 0
    }

    fn violation(&mut self, what: String) {
        self.violated += 1;
        if self.violations.len() < WRITTEN_OUT {
            self.violations.push(what);
        }
    }

    /// What the subscription says next. `corrupt` may change the events on the way, as a broken bus would.
    pub fn update(&mut self, update: &Update<'_>, corrupt: &mut Corruption) {
        match *update {
            Update::Events(events) => self.events(&events, corrupt),
            Update::Window(batch) => self.window(&batch, corrupt),
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
                if missed < 3 {
                    self.violation(format!("alarm after {missed} intervals"));
                }
            }
            Update::Retract { epoch, first, last } => self.retract(epoch, first, last),
            Update::PublisherRestarted { .. } => {
                self.counts.restarts += 1;
                self.silent = false;
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

    fn events(&mut self, events: &Events<'_>, corrupt: &mut Corruption) {
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
        for event in events.iter() {
            if event.epoch() != events.epoch() {
                self.violation(format!("event {} of another term than its frame", event.sequence()));
            }
            corrupt.pass(&event, stage, |shown| self.event(shown));
        }
        if self.promise.everything() && corrupt.is_none() && self.place.next != events.last().next() {
            self.violation(format!("events through {} end at {}", events.last(), self.place.next.previous()));
        }
        if stage == Stage::Visible {
            self.known_visible(events.last());
        }
    }

    /// One event, as it was shown.
    pub fn event(&mut self, shown: Shown<'_>) {
        let Shown { sequence, epoch, stage, bytes } = shown;
        let before = self.place;
        let expected = before.next;
        if sequence < expected {
            self.violation(format!("duplicate: event {sequence} came after {}", expected.previous()));
        } else if sequence > expected && self.promise.everything() {
            self.violation(format!("gap: event {sequence} came after {}", expected.previous()));
        }
        let mut aligned: AlignedVec<16> = AlignedVec::new();
        aligned.extend_from_slice(bytes);
        match EventRef::decode(sequence, epoch, AcceptedTime(0), &aligned) {
            Ok(event) => self.content(&event),
            Err(error) => self.violation(format!("event {sequence} is none: {error}")),
        }
        self.place.next = sequence.next();
        self.place.digest = before.digest.event(sequence, epoch, bytes);
        self.place.events += 1;
        if self.promise.stage == Stage::Accepted {
            self.undo.push(before);
            if stage == Stage::Visible {
                self.known_visible(sequence);
            }
        }
    }

    fn content(&mut self, event: &EventRef<'_>) {
        let (sequence, header) = (event.sequence(), event.header());
        if !self.promise.kinds.contains(event.kind()) {
            self.violation(format!("event {sequence} is a {:?}, which nobody asked for", event.kind()));
        }
        self.term(event);
        self.time(event);
        if header.producer == ProducerId::SEQUENCER {
            if !matches!(event.kind(), Kind::EpochStarted | Kind::TimeAdvanced) {
                self.violation(format!("event {sequence}: the sequencer says {:?}", event.kind()));
            }
            return;
        }
        let Some(index) = PRODUCERS.iter().position(|one| *one == header.producer) else {
            self.violation(format!("event {sequence} is of producer {}", header.producer));
            return;
        };
        let number = header.producer_sequence.get();
        if let Some(last) = self.place.numbers[index] {
            let follows = if self.promise.everything() { number == last + 1 } else { number > last };
            if !follows {
                self.violation(format!(
                    "event {sequence}: producer {}'s {number} after {last}",
                    header.producer
                ));
            }
        }
        self.place.numbers[index] = Some(number);
        if number == 0 {
            self.violation(format!("event {sequence}: number zero"));
            return;
        }
        if self.promise.everything() {
            if self.place.in_group.is_some_and(|whose| whose != header.producer) {
                self.violation(format!("event {sequence} interrupts a group"));
            }
            self.place.in_group = (!event.ends_group()).then_some(header.producer);
        }
        let mut written = script::bytes(header.producer, number);
        written[6] |= event.flags().bits() & EventFlags::LATE.bits();
        if written.as_slice() != event.bytes() {
            self.violation(format!(
                "altered: event {sequence} is not producer {}'s {number}",
                header.producer
            ));
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
        let keep = self.undo.partition_point(|place| place.next <= self.certain);
        self.undo.drain(..keep);
    }

    fn heartbeat(&mut self, epoch: Epoch, watermarks: &Watermarks) {
        self.counts.heartbeats += 1;
        let Watermarks { accepted, written, durable, replicated, visible } = *watermarks;
        if !(accepted >= written && written >= durable && durable >= replicated && replicated >= visible) {
            self.violation(format!("watermarks contradict each other: {watermarks:?}"));
        }
        if visible < self.watermarks.visible || durable < self.watermarks.durable {
            self.violation(format!("{watermarks:?} after {:?}", self.watermarks));
        }
        self.watermarks = *watermarks;
        // Who reads the log says so, but does not take the place of a publisher that is not heard.
        if self.silent {
            self.violation(format!("a heartbeat of epoch {epoch} while the bus is silent"));
        }
        if self.promise.stage == Stage::Accepted {
            self.known_visible(visible.min(self.place.next.previous()));
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
        let at = self.undo.partition_point(|place| place.next < first);
        match self.undo.get(at).copied() {
            Some(place) => {
                self.counts.retracted += self.place.events - place.events;
                self.undo.truncate(at);
                self.place = place;
            }
            None => self.violation(format!("{first} to {last} are retracted, but were not shown")),
        }
        self.place.next = first;
    }

    fn window(&mut self, batch: &Batch<'_>, corrupt: &mut Corruption) {
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
            corrupt.pass(&event, Stage::Visible, |shown| self.event(shown));
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
        if corrupt.is_none() && self.place.next > batch.last().next() {
            self.violation(format!("window through {} ends at {}", batch.last(), self.place.next.previous()));
        }
        self.place.next = batch.last().next();
    }

    /// Everything in one line of JSON.
    pub fn verdict(&self) -> String {
        let Counts {
            joined,
            left,
            lagging,
            caught_up,
            heartbeats,
            alarms,
            retractions,
            retracted,
            restarts,
            batches,
            empty_windows,
            late,
            accepted,
        } = self.counts;
        let mut line = String::new();
        let verdict = if self.is_clean() { "ok" } else { "violated" };
        let (first, next, events, digest) =
            (self.first, self.place.next, self.place.events, self.place.digest.0);
        write!(
            line,
            "{{\"verdict\":\"{verdict}\",\"first\":{first},\"next\":{next},\"events\":{events},\"digest\":{digest},\
             \"batches\":{batches},\"batch_digest\":{},\"empty_windows\":{empty_windows},\"late\":{late},\
             \"joined\":{joined},\"left\":{left},\"lagging\":{lagging},\"caught_up\":{caught_up},\
             \"heartbeats\":{heartbeats},\"alarms\":{alarms},\"restarts\":{restarts},\"accepted\":{accepted},\
             \"retractions\":{retractions},\"retracted\":{retracted},\"violated\":{},\"violations\":{:?}}}",
            self.batches.0, self.violated, self.violations
        )
        .expect("strings take what is written to them");
        line
    }
}

/// What a broken bus would do to one event: the checker has to notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    Drop,
    Duplicate,
    Alter,
    /// It and the next change places.
    Reorder,
    /// As if it were of the term before.
    OldTerm,
}

/// One event is damaged on its way into the checker, or none.
#[derive(Clone, Debug, Default)]
pub struct Corruption {
    what: Option<(Damage, Sequence)>,
    kept_back: Option<Vec<u8>>,
}

impl Corruption {
    pub const NONE: Self = Self { what: None, kept_back: None };

    pub fn of(damage: Damage, at: Sequence) -> Self {
        Self { what: Some((damage, at)), kept_back: None }
    }

    fn is_none(&self) -> bool {
        self.what.is_none()
    }

    fn pass(&mut self, event: &EventRef<'_>, stage: Stage, mut show: impl FnMut(Shown<'_>)) {
        let (sequence, epoch, bytes) = (event.sequence(), event.epoch(), event.bytes());
        let shown = Shown { sequence, epoch, stage, bytes };
        let damage = self.what.filter(|(_, at)| *at == sequence).map(|(damage, _)| damage);
        match damage {
            None => show(shown),
            Some(Damage::Drop) => {}
            Some(Damage::Duplicate) => {
                show(shown);
                show(shown);
            }
            Some(Damage::Alter) => {
                let mut bytes = bytes.to_vec();
                // The lowest bit of the first payload byte: still an event, but another one.
                bytes[32] ^= 1;
                show(Shown { bytes: &bytes, ..shown });
            }
            Some(Damage::Reorder) => self.kept_back = Some(bytes.to_vec()),
            Some(Damage::OldTerm) => show(Shown { epoch: Epoch(epoch.get() - 1), ..shown }),
        }
        if damage.is_none()
            && let Some(bytes) = self.kept_back.take()
        {
            show(Shown { sequence: sequence.previous(), bytes: &bytes, ..shown });
        }
    }
}
