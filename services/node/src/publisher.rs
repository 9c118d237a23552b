//! One producer's way onto the tape, inside the node's process; `matchtape_bus::RemotePublisher` is the one outside of it, and
//! both are [`Publish`].
//!
//! Publishing deduplicates, claims slots of the ring (which gives the sequence), writes the events there and returns; where the
//! pipeline's thread sleeps it hands one frame to the log first ([`Pipeline::frame_here`]). It never waits for a disk, a network or a
//! subscriber, and allocates only for events larger than a slot, and what a frame may need.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_utils::CachePadded;
use matchtape_schemas::event::{EVENT_HEADER_BYTES, Event, EventFlags, EventHeader, Payload, encode_event};
use matchtape_schemas::limits::EVENT_BYTES_MAX;
use matchtape_schemas::publish::{ProducerMark, Publish, PublishError, Published, WaitError};
use matchtape_schemas::{AcceptedTime, EventTime, ProducerId, ProducerSequence, Sequence, Stage, Watermarks};
use matchtape_storage::wal::SpaceProblem;
use parking_lot::{Mutex, MutexGuard};

use crate::bell::Bell;
use crate::node::NodeError;
use crate::parts::EndedParts;
use crate::pipeline::Pipeline;
use crate::producers::ProducerMarks;
use crate::ring::{Claim, ClaimError, Ring, large_bytes};
use crate::stages::{StageReached, Stages};

/// The most bytes that the events of one group may have: half of a usual memtable, which takes a group as a whole.
pub const GROUP_BYTES_MAX: usize = 64 << 20;

/// The sequencer's wall clock.
pub(crate) fn wall_clock() -> AcceptedTime {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    AcceptedTime(i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX))
}

/// What publishers and pipeline share.
pub(crate) struct Intake {
    pub(crate) ring: Arc<Ring>,
    /// What frames that. Its thread's while that is awake.
    pub(crate) pipeline: CachePadded<Mutex<Option<Box<Pipeline>>>>,
    /// An event that comes so long after the one before finds that thread asleep for good reason, ns.
    looks_ns: i64,
    /// Rung when there is something in the ring.
    pub(crate) bell: Bell,
    /// Rung when the log has written a commit, for a pipeline that waits for its buffers. Not the same bell: a pipeline without
    /// events would be woken by every commit, and look for events for a while, on a core that others need.
    pub(crate) room: Bell,
    pub(crate) stages: Arc<Stages>,
    pub(crate) skew_ns_max: i64,
    space: SpaceProblem,
    /// The greatest event time of the tape so far, ns; the pipeline keeps it.
    pub(crate) max_event_time: AtomicI64,
    /// The last accepted time of the tape, ns; the pipeline keeps it.
    pub(crate) accepted_time: AtomicI64,
    /// Groups refused because an event's time was too far ahead.
    pub(crate) event_times_refused: AtomicU64,
    /// The event that starts this epoch, until the first publish puts it on the tape.
    epoch_start: Mutex<Option<Event>>,
    producers: Mutex<Producers>,
    /// What of the node beside the tape has ended early.
    pub(crate) ended_parts: EndedParts,
    #[cfg(any(test, feature = "mistakes"))]
    pub(crate) mistakes: crate::node::NodeMistakes,
}

struct Producers {
    marks: ProducerMarks,
    live: Vec<ProducerId>,
}

impl Intake {
    pub(crate) fn new(
        ring: Arc<Ring>,
        stages: Arc<Stages>,
        skew_ns_max: i64,
        looks_for: Duration,
        space: SpaceProblem,
        epoch_start: Event,
        marks: ProducerMarks,
    ) -> Self {
        Self {
            ring,
            pipeline: CachePadded::new(Mutex::new(None)),
            looks_ns: i64::try_from(looks_for.as_nanos()).unwrap_or(i64::MAX),
            bell: Bell::default(),
            room: Bell::default(),
            stages,
            skew_ns_max,
            space,
            max_event_time: AtomicI64::new(epoch_start.event_time.get()),
            accepted_time: AtomicI64::new(i64::MIN),
            event_times_refused: AtomicU64::new(0),
            epoch_start: Mutex::new(Some(epoch_start)),
            producers: Mutex::new(Producers { marks, live: Vec::new() }),
            ended_parts: EndedParts::default(),
            #[cfg(any(test, feature = "mistakes"))]
            mistakes: crate::node::NodeMistakes::default(),
        }
    }

    /// Something was put into the ring: its publisher frames it where the pipeline's thread sleeps, or sees to it that it does
    /// not.
    #[inline]
    pub(crate) fn announce(&self) {
        // The thread is awake while it has it; and another publisher that does takes one frame, which may be without this.
        if let Some(pipeline) = self.pipeline.try_lock()
            && self.frame_here(pipeline)
        {
            return;
        }
        self.bell.ring();
    }

    fn frame_here(&self, mut held: MutexGuard<'_, Option<Box<Pipeline>>>) -> bool {
        let Some(pipeline) = held.as_mut() else { return false };
        // The engine's thread is no place to die of it.
        let framed = catch_unwind(AssertUnwindSafe(|| pipeline.frame_here(self, self.looks_ns)));
        framed.unwrap_or_else(|_| {
            tracing::error!("framing panicked: no more events are taken");
            self.poison();
            // What it is like since then nobody knows; its thread, woken, finds it gone.
            *held = None;
            false
        })
    }

    /// No event is taken any more, and what becomes of those under way nobody knows.
    pub(crate) fn poison(&self) {
        self.stages.end(WaitError::Poisoned);
        self.ring.close();
    }

    /// Nothing more is claimed: the pipeline ends when it has read what was.
    pub(crate) fn close(&self) {
        self.ring.close();
        self.bell.ring();
        self.room.ring();
    }

    fn refusal(&self, why: ClaimError) -> PublishError {
        match why {
            ClaimError::Slots | ClaimError::LargeBytes => PublishError::WouldBlock,
            ClaimError::Closed => match self.stages.ended() {
                Some(WaitError::Fenced) => PublishError::Fenced,
                Some(WaitError::Poisoned) => PublishError::Poisoned,
                Some(WaitError::Closed | WaitError::TimedOut) | None => PublishError::Closed,
            },
        }
    }

    /// The epoch starts with the first append, not when the node opens: opening alone writes nothing. `false`: it had started.
    /// After `true` something has to be [`announced`](Self::announce), be it only this: its slot must be read to be free again.
    pub(crate) fn start_epoch(&self, first: EventTime) -> Result<bool, PublishError> {
        let mut epoch_start = self.epoch_start.lock();
        let Some(event) = epoch_start.as_mut() else { return Ok(false) };
        // On a new tape no time has been said yet: its first term starts when its first event happens.
        if event.event_time == EventTime::MIN {
            event.event_time = first;
        }
        let mut claim =
            self.ring.claim(1, large_bytes(event.encoded_len())).map_err(|why| self.refusal(why))?;
        claim.fill(event.encoded_len(), |out| encode_event(event, ProducerId::SEQUENCER, out));
        *epoch_start = None;
        Ok(true)
    }

    /// Nothing more is taken while the disk is full: what was accepted before needs the rest.
    #[inline]
    pub(crate) fn check_space(&self) -> Result<(), PublishError> {
        if self.lacks_space() { Err(PublishError::NoSpace) } else { Ok(()) }
    }

    /// Whether the disk is full. Of a log that has ended that is not the reason, whatever its last trouble was: there will
    /// not be room again.
    #[inline]
    pub(crate) fn lacks_space(&self) -> bool {
        self.space.is_set() && self.stages.ended().is_none()
    }

    /// Puts one of the sequencer's own events on the tape.
    pub(crate) fn publish_control(&self, event: &Event) -> Result<Sequence, PublishError> {
        self.check_space()?;
        self.start_epoch(event.event_time)?;
        let claimed = self.ring.claim(1, large_bytes(event.encoded_len()));
        let published = claimed.map_err(|why| self.refusal(why)).map(|mut claim| {
            claim.fill(event.encoded_len(), |out| encode_event(event, ProducerId::SEQUENCER, out))
        });
        self.announce();
        published
    }

    /// All watermarks; `accepted` is what the ring has given out.
    pub(crate) fn watermarks(&self) -> Watermarks {
        let reached = self.stages.watermarks();
        Watermarks { accepted: self.ring.accepted().max(reached.written), ..reached }
    }

    pub(crate) fn wait(
        &self,
        sequence: Sequence,
        stage: Stage,
        deadline: Option<Instant>,
    ) -> Result<(), WaitError> {
        if stage == Stage::Accepted && sequence <= self.ring.accepted() {
            return Ok(());
        }
        self.stages.wait(sequence, stage, deadline)
    }

    /// Whether this node has put anything on the tape.
    pub(crate) fn epoch_has_started(&self) -> bool {
        self.epoch_start.lock().is_none()
    }
}

/// Hands out a node's publishers elsewhere in its process. After the node is gone they are closed.
#[derive(Clone)]
pub struct Publishers {
    intake: Arc<Intake>,
}

impl Publishers {
    pub(crate) fn new(intake: &Arc<Intake>) -> Self {
        Self { intake: Arc::clone(intake) }
    }

    /// The handle of one producer; there is at most one at a time.
    pub fn publisher(&self, producer: ProducerId) -> Result<Publisher, NodeError> {
        Publisher::attach(&self.intake, producer).ok_or(NodeError::ProducerInUse(producer))
    }

    /// A producer's last event, without becoming its publisher; `None`: it has none. While a handle of it lives, only that
    /// handle knows.
    pub fn last(&self, producer: ProducerId) -> Result<Option<ProducerMark>, NodeError> {
        let producers = self.intake.producers.lock();
        if producer == ProducerId::SEQUENCER || producers.live.contains(&producer) {
            return Err(NodeError::ProducerInUse(producer));
        }
        Ok(producers.marks.get(producer))
    }

    /// The most events a group may have.
    pub fn group_events_max(&self) -> usize {
        self.intake.ring.capacity()
    }
}

/// One producer's handle; there is at most one per producer at a time.
pub struct Publisher {
    intake: Arc<Intake>,
    producer: ProducerId,
    last: Option<ProducerMark>,
    /// Event times up to here need no look at the clock.
    horizon: EventTime,
    epoch_started: bool,
    /// The last claim was refused for want of memory for large events, not of slots.
    lacked_large_bytes: bool,
}

impl Publisher {
    /// `None` while another handle of the producer lives, or for the sequencer's own id.
    pub(crate) fn attach(intake: &Arc<Intake>, producer: ProducerId) -> Option<Self> {
        let mut producers = intake.producers.lock();
        if producer == ProducerId::SEQUENCER || producers.live.contains(&producer) {
            return None;
        }
        producers.live.push(producer);
        Some(Self {
            intake: Arc::clone(intake),
            producer,
            last: producers.marks.get(producer),
            horizon: EventTime::MIN,
            epoch_started: false,
            lacked_large_bytes: false,
        })
    }

    /// Which producer this is.
    pub fn producer(&self) -> ProducerId {
        self.producer
    }

    /// The number of the producer's last event, in this run or before: go on after it.
    pub fn last(&self) -> Option<ProducerSequence> {
        self.last.map(|mark| mark.producer_sequence)
    }

    /// The producer's last event.
    pub fn accepted(&self) -> Option<ProducerMark> {
        self.last
    }

    /// Puts one event on the tape, as a group of its own.
    #[inline]
    pub fn publish(&mut self, event: &Event) -> Result<Published, PublishError> {
        let header = EventHeader {
            length: 0,
            kind: event.body.kind(),
            flags: event.flags,
            venue_flags: event.venue_flags,
            instrument: event.instrument,
            producer: self.producer,
            producer_sequence: event.producer_sequence,
            event_time: event.event_time,
        };
        self.put(event.encoded_len(), header, |payload| event.body.encode(payload))
    }

    /// Puts events that belong together on consecutive positions, all or none; the last is flagged as such.
    pub fn publish_group(&mut self, events: &[Event]) -> Result<Published, PublishError> {
        let Some(last) = events.last() else {
            return Err(PublishError::GroupSize { events: 0, limit: self.intake.ring.capacity() });
        };
        if let Some(mark) = self.last
            && last.producer_sequence <= mark.producer_sequence
        {
            return Ok(Published::Already { last: mark.sequence });
        }
        let (mut bytes, mut large) = (0, 0);
        for length in events.iter().map(Event::encoded_len) {
            bytes += length;
            large += large_bytes(length);
        }
        if bytes > GROUP_BYTES_MAX {
            return Err(PublishError::GroupBytes { bytes, limit: GROUP_BYTES_MAX });
        }
        let mut after = self.last.map(|mark| mark.producer_sequence);
        for event in events {
            if let Some(after) = after
                && event.producer_sequence <= after
            {
                return Err(PublishError::GroupOrder { after, found: event.producer_sequence });
            }
            after = Some(event.producer_sequence);
            self.check_time(event.event_time)?;
        }
        let producer = self.producer;
        let mut claim = self.claim(events.len(), large, events[0].event_time)?;
        let first = claim.next_sequence();
        let mut sequence = first;
        for (index, event) in events.iter().enumerate() {
            let flags = group_flags(event.flags, index + 1 == events.len());
            sequence = claim.fill(event.encoded_len(), |out| {
                encode_event(event, producer, out);
                out[6] = flags.bits();
            });
        }
        drop(claim);
        self.intake.announce();
        self.last = Some(ProducerMark { producer_sequence: last.producer_sequence, sequence });
        Ok(Published::New { first, last: sequence })
    }

    /// As [`Self::publish_group`], of `events` events of this producer that `check_event` has accepted, one after the
    /// other at a multiple of 16.
    pub(crate) fn publish_checked(&mut self, group: &[u8], events: usize) -> Result<Published, PublishError> {
        let capacity = self.intake.ring.capacity();
        if events == 0 || events > capacity {
            return Err(PublishError::GroupSize { events, limit: capacity });
        }
        let last = checked_events(group).last().expect("a group has events");
        let last = ProducerSequence(word(last, 16));
        if let Some(mark) = self.last
            && last <= mark.producer_sequence
        {
            return Ok(Published::Already { last: mark.sequence });
        }
        if group.len() > GROUP_BYTES_MAX {
            return Err(PublishError::GroupBytes { bytes: group.len(), limit: GROUP_BYTES_MAX });
        }
        let mut after = self.last.map(|mark| mark.producer_sequence);
        let mut large = 0;
        for event in checked_events(group) {
            large += large_bytes(event.len());
            let found = ProducerSequence(word(event, 16));
            if let Some(after) = after
                && found <= after
            {
                return Err(PublishError::GroupOrder { after, found });
            }
            after = Some(found);
            self.check_time(EventTime(word(event, 24) as i64))?;
        }
        let mut claim = self.claim(events, large, EventTime(word(group, 24) as i64))?;
        let first = claim.next_sequence();
        let mut sequence = first;
        for (index, event) in checked_events(group).enumerate() {
            let flags = EventFlags::from_bits(event[6]).expect("checked");
            let flags = group_flags(flags, index + 1 == events);
            sequence = claim.fill(event.len(), |out| {
                out.copy_from_slice(event);
                out[6] = flags.bits();
            });
        }
        drop(claim);
        self.intake.announce();
        self.last = Some(ProducerMark { producer_sequence: last, sequence });
        Ok(Published::New { first, last: sequence })
    }

    /// Blocks until `slots` could be claimed (or waiting has ended), and the bytes that a large event was refused for. Another
    /// producer may take them first.
    pub fn wait_for_room(&self, slots: usize) -> Result<(), WaitError> {
        self.wait_for_room_until(slots, None)
    }

    /// The same, at most until `deadline`.
    pub fn wait_for_room_until(&self, slots: usize, deadline: Option<Instant>) -> Result<(), WaitError> {
        let ring = &self.intake.ring;
        let accepted = ring.accepted().get();
        // Which events take the bytes nobody knows; once all that is in the ring has left it, none does.
        let stays = if self.lacked_large_bytes { 0 } else { ring.capacity().saturating_sub(slots) };
        let needed = accepted.saturating_sub(stays as u64);
        // The stages' `Accepted` cell is what has left the ring.
        self.intake.stages.wait(Sequence(needed), Stage::Accepted, deadline)
    }

    #[inline]
    fn put(
        &mut self,
        length: usize,
        mut header: EventHeader,
        payload: impl FnOnce(&mut [u8]),
    ) -> Result<Published, PublishError> {
        debug_assert!(length <= EVENT_BYTES_MAX);
        if let Some(mark) = self.last
            && header.producer_sequence <= mark.producer_sequence
        {
            return Ok(Published::Already { last: mark.sequence });
        }
        self.check_time(header.event_time)?;
        header.flags = group_flags(header.flags, true);
        header.length = length as u32;
        #[cfg(any(test, feature = "mistakes"))]
        let outside = (self.intake.mistakes.sequence_outside_the_claim && self.epoch_started)
            .then(|| self.intake.ring.accepted().next());
        let mut claim = self.claim(1, large_bytes(length), header.event_time)?;
        let sequence = claim.fill(length, |out| {
            header.encode(out);
            payload(&mut out[EVENT_HEADER_BYTES..]);
        });
        drop(claim);
        #[cfg(any(test, feature = "mistakes"))]
        let sequence = outside.unwrap_or(sequence);
        self.intake.announce();
        self.last = Some(ProducerMark { producer_sequence: header.producer_sequence, sequence });
        Ok(Published::New { first: sequence, last: sequence })
    }

    #[inline]
    fn claim(&mut self, slots: usize, large: usize, first: EventTime) -> Result<Claim<'_>, PublishError> {
        if slots > self.intake.ring.capacity() {
            return Err(PublishError::GroupSize { events: slots, limit: self.intake.ring.capacity() });
        }
        self.intake.check_space()?;
        if !self.epoch_started {
            self.intake.start_epoch(first)?;
        }
        let claimed = self.intake.ring.claim(slots, large);
        self.lacked_large_bytes = matches!(claimed, Err(ClaimError::LargeBytes));
        if !self.epoch_started && claimed.is_err() {
            self.intake.announce();
        }
        self.epoch_started = true;
        claimed.map_err(|why| self.intake.refusal(why))
    }

    #[inline]
    fn check_time(&mut self, event_time: EventTime) -> Result<(), PublishError> {
        if event_time <= self.horizon {
            return Ok(());
        }
        let (now, skew_ns_max) = (wall_clock(), self.intake.skew_ns_max);
        self.horizon = EventTime(now.get().saturating_add(skew_ns_max));
        if event_time <= self.horizon {
            return Ok(());
        }
        // Relaxed: a counter, looked at alone.
        self.intake.event_times_refused.fetch_add(1, Ordering::Relaxed);
        Err(PublishError::EventTimeAhead { event_time, now, skew_ns_max })
    }
}

impl Publish for Publisher {
    type At = Sequence;
    type PublishError = PublishError;
    type WaitError = WaitError;
    type Reached = StageReached;

    fn producer(&self) -> ProducerId {
        self.producer()
    }

    fn last(&self) -> Option<ProducerSequence> {
        self.last()
    }

    fn accepted(&self) -> Option<ProducerMark> {
        self.accepted()
    }

    fn watermarks(&self) -> Watermarks {
        self.intake.watermarks()
    }

    #[inline]
    fn publish(&mut self, event: &Event) -> Result<Published, PublishError> {
        self.publish(event)
    }

    fn publish_group(&mut self, events: &[Event]) -> Result<Published, PublishError> {
        self.publish_group(events)
    }

    #[inline]
    fn publish_payload<P: Payload>(
        &mut self,
        header: EventHeader,
        payload: &P,
    ) -> Result<Published, PublishError> {
        let header = EventHeader { kind: P::KIND, producer: self.producer, ..header };
        self.put(EVENT_HEADER_BYTES + payload.encoded_len(), header, |out| payload.encode(out))
    }

    fn wait(&mut self, at: Sequence, stage: Stage) -> Result<Sequence, WaitError> {
        self.intake.wait(at, stage, None).map(|()| at)
    }

    fn wait_for(&mut self, at: Sequence, stage: Stage, limit: Duration) -> Result<Sequence, WaitError> {
        self.intake.wait(at, stage, Instant::now().checked_add(limit)).map(|()| at)
    }

    fn wait_async(&mut self, at: Sequence, stage: Stage) -> StageReached {
        StageReached::new(Arc::clone(&self.intake.stages), at, stage)
    }

    fn wait_for_room(&mut self, events: usize) -> Result<(), WaitError> {
        Self::wait_for_room(self, events)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let mut producers = self.intake.producers.lock();
        producers.live.retain(|live| *live != self.producer);
        if let Some(mark) = self.last {
            producers.marks.set(self.producer, mark);
        }
    }
}

/// A number in an event's header.
fn word(event: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(event[at..at + 8].try_into().expect("eight bytes"))
}

/// The events of a checked group.
fn checked_events(mut group: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32::from_le_bytes(*group.first_chunk::<4>()?) as usize;
        let (event, rest) = group.split_at(length);
        group = rest;
        Some(event)
    })
}

/// Group ends are the publisher's to set, so no producer can leave a group open.
fn group_flags(flags: EventFlags, last: bool) -> EventFlags {
    let flags = flags.without(EventFlags::LATE);
    if last { flags.with(EventFlags::LAST_OF_GROUP) } else { flags.without(EventFlags::LAST_OF_GROUP) }
}

#[cfg(test)]
mod tests {
    use matchtape_schemas::InstrumentId;
    use matchtape_schemas::event::{StateSet, TimeAdvanced};

    use matchtape_storage::sim::SimDisk;

    use super::*;
    use crate::pipeline::PipelineWait;
    use crate::ring::RingReader;
    use crate::{Node, NodeOptions};

    #[test]
    fn large_events_that_take_all_their_memory_are_would_block_until_the_pipeline_has_taken_them() {
        let ring = Arc::new(Ring::new(1 << 16, Sequence::ZERO));
        let stages = Arc::new(Stages::new(Sequence::ZERO));
        let start = Event::new(InstrumentId(0), ProducerSequence(0), EventTime(1), TimeAdvanced::default());
        let intake = Intake::new(
            Arc::clone(&ring),
            Arc::clone(&stages),
            0,
            Duration::ZERO,
            SpaceProblem::default(),
            start,
            ProducerMarks::default(),
        );
        let mut publisher = Publisher::attach(&Arc::new(intake), ProducerId(1)).unwrap();
        let set = StateSet::new(b"key", &vec![7; 48 * 1024 - 3]).unwrap();
        let large = |number| Event::new(InstrumentId(0), ProducerSequence(number), EventTime(1), set.clone());
        let small = |number| {
            Event::new(InstrumentId(0), ProducerSequence(number), EventTime(1), TimeAdvanced::default())
        };
        let taken = (1..).take_while(|number| publisher.publish(&large(*number)).is_ok()).count() as u64;
        assert_eq!(publisher.publish(&large(taken + 1)), Err(PublishError::WouldBlock));
        assert!((1300..1400).contains(&taken), "64 MiB of 48 KiB each, not the {taken} that have a slot");
        // Slots there are; it waits for the memory.
        let soon = || Some(Instant::now() + Duration::from_millis(5));
        assert_eq!(publisher.wait_for_room_until(1, soon()), Err(WaitError::TimedOut));
        // A refused event was not published: its number is free, and what fits a slot goes in.
        assert_eq!(publisher.publish(&small(taken + 1)).unwrap().sequence(), ring.accepted());
        assert_eq!(publisher.wait_for_room_until(1, soon()), Ok(()));
        assert_eq!(publisher.publish(&large(taken + 2)), Err(PublishError::WouldBlock));
        // The pipeline takes everything, as `Pipeline::append` does.
        RingReader::new(Arc::clone(&ring)).release(taken as usize + 2);
        stages.raise(Stage::Accepted, ring.accepted());
        assert_eq!(publisher.wait_for_room_until(1, soon()), Ok(()));
        publisher.publish(&large(taken + 2)).unwrap();
    }

    #[test]
    fn a_pipeline_that_naps_takes_every_event_and_nobody_ever_wakes_it() {
        let (spin, nap) = (Duration::ZERO, Duration::from_micros(200));
        for (wait, is_woken) in
            [(PipelineWait::Nap { spin, nap }, false), (PipelineWait::Adaptive { spin }, true)]
        {
            let disk = Arc::new(SimDisk::new(1));
            let mut options = NodeOptions { wait, ring_slots: 64, ..NodeOptions::default() };
            options.store.wal.segment_bytes = matchtape_storage::limits::SEGMENT_BYTES_MIN;
            options.store.wal.commit_bytes = matchtape_storage::limits::COMMIT_BYTES_MIN;
            let node = Node::open_on(disk, options, Vec::new()).unwrap();
            let mut publisher = node.publisher(ProducerId(1)).unwrap();
            let patience = Instant::now() + Duration::from_secs(20);
            let mut number = 0;
            // Each finds a pipeline with nothing to do.
            while number < 50 || publisher.intake.bell.was_slept_at() != is_woken {
                assert!(Instant::now() < patience, "{wait:?} after {number}");
                number += 1;
                let body = TimeAdvanced::default();
                let event = Event::new(InstrumentId(0), ProducerSequence(number), EventTime(1), body);
                let sequence = publisher.publish(&event).unwrap().sequence();
                node.wait_for(sequence, Stage::Visible, Duration::from_secs(20)).unwrap();
            }
            drop(publisher);
            node.close().unwrap();
        }
        let long = PipelineWait::Nap { spin, nap: Duration::from_secs(1) };
        let options = NodeOptions { wait: long, ..NodeOptions::default() };
        let error = Node::open_on(Arc::new(SimDisk::new(1)), options, Vec::new()).err().unwrap();
        assert!(error.to_string().contains("10 ms"), "{error}");
    }
}
