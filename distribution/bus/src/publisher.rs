//! The one writer of a tape's bus. It never waits: not for a subscriber, not for a lock, not for memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use iceoryx2::identifiers::UniquePublisherId;
use iceoryx2::node::{Node, NodeState, NodeView};
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::{Publisher, PublisherCreateError};
use iceoryx2::port::update_connections::UpdateConnections;
use iceoryx2::port::{DegradationAction, DegradationCause, DegradationInfo, LoanError, SendError};
use iceoryx2::prelude::{
    AllocationStrategy, BackpressureStrategy, CallbackProgression, PortFactory, Service,
};
use iceoryx2::sample_mut::SampleMut;
use matchtape_schemas::{Epoch, FrameHeader, Head, Sequence, Watermarks};

use crate::block::{self, Block, blocks_for};
use crate::config::{
    BusConfig, LOANED_SAMPLES, PREPARED_SAMPLES, SHARED_MEMORY_DIR, shared_memory_available,
};
use crate::error::{BadSample, BusError};
use crate::header::{FORMAT_VERSION, SampleHeader, SampleKind};
use crate::liveness::clean_dead_participants;
use crate::name::{BusName, BusService};
use crate::presence::Presence;
use crate::service::{self, BUS_SETTINGS, Opened, Own, SampleFactory};

/// Publishes the frames of one tape on one service, in order.
///
/// One thread at a time uses it; it may be handed from one to another (`Send`).
#[derive(Debug)]
pub struct BusPublisher {
    /// The next frames, where subscribers will find them; none has been given them yet.
    prepared: VecDeque<Prepared>,
    // Dropped first to last: the samples before the wake-ups that belong to them, ports before the node whose tags let
    // others clean up after a crash.
    publisher: Publisher<Own, [Block], SampleHeader>,
    notifier: Option<Notifier<Own>>,
    service: BusService,
    frame_bytes_max: usize,
    /// What all headers share; `first_sequence` is the next to be published, the watermarks are the greatest that were said.
    header: SampleHeader,
    counters: PublisherCounters,
    receivers: usize,
    broken_connections: Arc<AtomicU64>,
    _node: Node<Own>,
    _presence: Presence,
}

// SAFETY: what keeps iceoryx2's ports on one thread is the count of the `Rc` around their state; the state itself has to be
// `Send` (a bound of `Service::ArcThreadSafetyPolicy`). All clones of these are inside this value and move with it: the
// publisher's and the notifier's own, and those of loaned samples, which are in `prepared` or do not outlive the call that loans
// them (`send_sample`). Every call takes `&mut self`, but for those that only read `header` and `counters`; it is not `Sync`.
unsafe impl Send for BusPublisher {}

/// A frame in shared memory.
#[derive(Debug)]
struct Prepared {
    sample: SampleMut<Own, [Block], SampleHeader>,
    /// The watermarks are set when it is sent.
    header: SampleHeader,
}

/// What a publisher has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublisherCounters {
    /// Frames handed to iceoryx2.
    pub frames: u64,
    /// Events in them.
    pub events: u64,
    /// Frames of those that lay in shared memory before they could be given to anybody.
    pub prepared: u64,
    /// Heartbeats.
    pub heartbeats: u64,
    /// Retractions.
    pub retractions: u64,
    /// Samples that did not reach everyone because sending failed (not: because a buffer overflowed). Those who lack one
    /// find the gap.
    pub send_failures: u64,
    /// Connections to a subscriber that could not be made or broke. Such a subscriber hears nothing and raises its
    /// heartbeat alarm.
    pub broken_connections: u64,
}

impl BusPublisher {
    /// Opens the bus of `name`, creating it where it does not exist, after checking that it fits into `/dev/shm`.
    ///
    /// `head` is where the tape stands: the first frame must begin right after `head.last_sequence`. Subscribers
    /// still holding on to a killed predecessor notice the change from the first sample.
    pub fn open(
        name: &BusName,
        service: BusService,
        config: &BusConfig,
        head: &Head,
    ) -> Result<Self, BusError> {
        config.check()?;
        if config.check_memory(shared_memory_available()?).is_err() {
            // What somebody had who was killed may be in the way.
            clean_dead_participants(name)?;
            config.check_memory(shared_memory_available()?)?;
        }
        let (presence, opened) = service::create(name, service, config)?;
        refuse_second(&opened.samples, name, service, None)?;

        let broken_connections = Arc::new(AtomicU64::new(0));
        let publisher = create_publisher(name, service, config, &opened.samples, &broken_connections)?;
        // Two publishers that start together pass the first check; registered, each sees the other.
        refuse_second(&opened.samples, name, service, Some(publisher.id()))?;
        reserve_memory(name, &opened, publisher.id(), config)?;

        let Opened { samples: _, wake, heartbeat_interval: _, node } = opened;
        let notifier = match wake {
            None => None,
            Some(wake) => Some(wake.notifier_builder().create().map_err(|error| {
                let slots = config.publisher_slots();
                BusError::notifier(error, name.service_text(service), BUS_SETTINGS.publishers, slots)
            })?),
        };
        let header = SampleHeader {
            format_version: FORMAT_VERSION,
            tape: name.tape().get(),
            epoch: head.epoch.get(),
            incarnation: incarnation(),
            first_sequence: head.last_sequence.next().get(),
            recovered: head.last_sequence.get(),
            recovered_checksum: head.checksum,
            ..SampleHeader::default()
        };
        Ok(Self {
            prepared: VecDeque::with_capacity(PREPARED_SAMPLES),
            notifier,
            publisher,
            service,
            frame_bytes_max: config.frame_bytes_max,
            header,
            counters: PublisherCounters::default(),
            receivers: 0,
            broken_connections,
            _node: node,
            _presence: presence,
        })
    }

    /// Copies one frame into shared memory and hands it to every subscriber. Returns how many there are; with none it
    /// succeeds all the same.
    ///
    /// A subscriber whose buffer is full loses its oldest frame and will find the gap. So does whoever it could not be sent
    /// to: that is counted, and the frame counts as published.
    pub fn publish(&mut self, frame: &[u8], watermarks: &Watermarks) -> Result<usize, BusError> {
        let sent = self.publish_quietly(frame, watermarks);
        self.wake_subscribers();
        sent
    }

    /// The same, but wakes nobody: who polls has it, who sleeps has not, until [`wake_subscribers`](Self::wake_subscribers)
    /// or the next call of another kind.
    pub fn publish_quietly(&mut self, frame: &[u8], watermarks: &Watermarks) -> Result<usize, BusError> {
        // Whoever has this one does without what was prepared.
        self.prepared.clear();
        let mut header = self.describe(frame, self.next(), Epoch(self.header.epoch))?;
        self.say(watermarks, &mut header);
        self.count(&header);
        Ok(self.send(header, frame))
    }

    /// Copies the next frame, or the one after those that are prepared, into shared memory, and gives it to nobody yet: that is
    /// [`publish_prepared`](Self::publish_prepared), which has less to do then. `false`: as many as may be are prepared, or there
    /// is no memory to be had.
    pub fn prepare(&mut self, frame: &[u8]) -> Result<bool, BusError> {
        let (next, epoch) = match self.prepared.back() {
            None => (self.next(), Epoch(self.header.epoch)),
            Some(last) => (last.header.end(), last.header.epoch()),
        };
        let header = self.describe(frame, next, epoch)?;
        if self.prepared.len() == PREPARED_SAMPLES {
            return Ok(false);
        }
        let Ok(sample) = self.loan(&header, frame) else { return Ok(false) };
        self.prepared.push_back(Prepared { sample, header });
        Ok(true)
    }

    /// Hands those prepared frames to every subscriber that end at `through` or before, and wakes nobody, as
    /// [`publish_quietly`](Self::publish_quietly). Anything else that is published instead of a prepared frame does away with it.
    pub fn publish_prepared(&mut self, through: Sequence, watermarks: &Watermarks) {
        while self.prepared.front().is_some_and(|next| next.header.end() <= through.next()) {
            let Some(Prepared { mut sample, mut header }) = self.prepared.pop_front() else { return };
            self.say(watermarks, &mut header);
            *sample.user_header_mut() = header;
            self.count(&header);
            self.counters.prepared += 1;
            self.note(sample.send());
        }
    }

    /// The header of a frame that has to begin at `next`, in no earlier term than `epoch`; without watermarks.
    fn describe(&self, frame: &[u8], next: Sequence, epoch: Epoch) -> Result<SampleHeader, BusError> {
        if frame.len() > self.frame_bytes_max {
            return Err(BusError::FrameTooLarge { bytes: frame.len(), limit: self.frame_bytes_max });
        }
        let described =
            FrameHeader::peek(frame).map_err(|error| BusError::BadFrame(BadSample::Frame(error)))?;
        if described.tape.get() != self.header.tape {
            let expected = self.header.tape.into();
            return Err(BusError::BadFrame(BadSample::Tape { found: described.tape, expected }));
        }
        if described.length as usize != frame.len() {
            let claimed = u64::from(described.length);
            return Err(BusError::BadFrame(BadSample::Length { claimed, payload: frame.len() }));
        }
        if described.first_sequence != next {
            return Err(BusError::OutOfOrder { expected: next, found: described.first_sequence });
        }
        if described.epoch < epoch {
            return Err(BusError::EpochWentBack { found: described.epoch, current: epoch });
        }
        let mut header = self.header;
        header.kind = SampleKind::Frame.number();
        header.epoch = described.epoch.get();
        header.first_sequence = next.get();
        header.count = u64::from(described.count);
        header.kinds = described.kinds.0;
        header.length = frame.len() as u64;
        Ok(header)
    }

    /// What a sample says of the stages is never less than what another said before it: who publishes may not have looked at
    /// all of them.
    fn say(&mut self, watermarks: &Watermarks, header: &mut SampleHeader) {
        let said = self.header.watermarks();
        self.header.set_watermarks(&Watermarks {
            accepted: said.accepted.max(watermarks.accepted),
            written: said.written.max(watermarks.written),
            durable: said.durable.max(watermarks.durable),
            replicated: said.replicated.max(watermarks.replicated),
            visible: said.visible.max(watermarks.visible),
        });
        header.set_watermarks(&self.header.watermarks());
    }

    /// A frame counts as published.
    fn count(&mut self, frame: &SampleHeader) {
        self.header.epoch = frame.epoch;
        self.header.first_sequence = frame.end().get();
        self.counters.frames += 1;
        self.counters.events += frame.count;
    }

    /// Wakes the subscribers that sleep: a system call for each of them, none where nobody does.
    pub fn wake_subscribers(&mut self) {
        if let Some(notifier) = &self.notifier {
            // The only errors left are about deadlines and event ids, and this service has neither.
            let _ = notifier.notify();
        }
    }

    /// Tells every subscriber how far the tape is, and connects those that have come since the last sample. Call it
    /// once per [`BusConfig::heartbeat_interval`] when nothing else was sent.
    pub fn heartbeat(&mut self, watermarks: &Watermarks) -> usize {
        if self.publisher.update_connections().is_err() {
            self.counters.send_failures += 1;
        }
        let mut header = self.header;
        header.kind = SampleKind::Heartbeat.number();
        self.say(watermarks, &mut header);
        self.counters.heartbeats += 1;
        let sent = self.send(header, &[]);
        self.wake_subscribers();
        sent
    }

    /// Takes back the events `first..=last` of `epoch`, which were accepted but will never be visible. The next frame
    /// must begin at `first`. Only on the speculative service. What was said of `accepted` before is still said: stages never go back.
    pub fn retract(
        &mut self,
        epoch: Epoch,
        first: Sequence,
        last: Sequence,
        watermarks: &Watermarks,
    ) -> Result<usize, BusError> {
        if self.service == BusService::Live {
            return Err(BusError::RetractOnLive);
        }
        let count = last.get().saturating_sub(first.get()) + 1;
        if first == Sequence::ZERO || last < first || last.next() != self.next() {
            return Err(BusError::OutOfOrder { expected: self.next().previous(), found: last });
        }
        self.prepared.clear();
        self.header.first_sequence = first.get();
        let mut header = self.header;
        header.kind = SampleKind::Retract.number();
        header.epoch = epoch.get();
        header.count = count;
        self.say(watermarks, &mut header);
        self.counters.retractions += 1;
        let sent = self.send(header, &[]);
        self.wake_subscribers();
        Ok(sent)
    }

    /// The sequence the next frame must begin with.
    #[must_use]
    pub fn next(&self) -> Sequence {
        self.header.first()
    }

    /// How many subscribers the last sample that could be sent was sent to.
    #[must_use]
    pub fn receivers(&self) -> usize {
        self.receivers
    }

    /// What has been done so far.
    #[must_use]
    pub fn counters(&self) -> PublisherCounters {
        let broken_connections = self.broken_connections.load(Ordering::Relaxed);
        PublisherCounters { broken_connections, ..self.counters }
    }

    /// Whoever is to be woken for it is woken after this: it must find the sample. Returns how many were sent it; what could
    /// not be sent is counted, and no reason to stop: the next sample shows what is missing, and the log has it.
    fn send(&mut self, header: SampleHeader, payload: &[u8]) -> usize {
        let sent = self.send_sample(header, payload);
        self.note(sent)
    }

    fn note(&mut self, sent: Result<usize, SendError>) -> usize {
        match sent {
            Ok(receivers) => {
                self.receivers = receivers;
                receivers
            }
            Err(_) => {
                self.counters.send_failures += 1;
                0
            }
        }
    }

    fn send_sample(&self, header: SampleHeader, payload: &[u8]) -> Result<usize, SendError> {
        self.loan(&header, payload)?.send()
    }

    fn loan(
        &self,
        header: &SampleHeader,
        payload: &[u8],
    ) -> Result<SampleMut<Own, [Block], SampleHeader>, LoanError> {
        let mut sample = self.publisher.loan_slice_uninit(blocks_for(payload.len()))?;
        *sample.user_header_mut() = *header;
        block::fill(sample.payload_mut(), payload);
        // SAFETY: `fill` initialised every byte of the payload.
        Ok(unsafe { sample.assume_init() })
    }
}

fn create_publisher(
    name: &BusName,
    service: BusService,
    config: &BusConfig,
    samples: &SampleFactory<Own>,
    broken_connections: &Arc<AtomicU64>,
) -> Result<Publisher<Own, [Block], SampleHeader>, BusError> {
    let broken = Arc::clone(broken_connections);
    samples
        .publisher_builder()
        // Never `RetryUntilDelivered`: it hangs for good when a subscriber is killed. With overflow on nothing is ever
        // full; should it be, this subscriber loses the sample and the others do not wait.
        .backpressure_strategy(BackpressureStrategy::DiscardData)
        // One segment of the computed size, made at start: nothing is allocated later.
        .allocation_strategy(AllocationStrategy::Static)
        .initial_max_slice_len(blocks_for(config.frame_bytes_max))
        .max_loaned_samples(LOANED_SAMPLES + PREPARED_SAMPLES)
        // As many samples as the service can have in use are made, which is what `MemoryRequired` counts: not overridden.
        .set_degradation_handler(move |_: DegradationCause, _: &DegradationInfo| {
            broken.fetch_add(1, Ordering::Relaxed);
            // One subscriber's broken connection is no reason to fail the others' sample.
            DegradationAction::Warn
        })
        .create()
        .map_err(|error| match error {
            PublisherCreateError::ExceedsMaxSupportedPublishers => BusError::NoFreeSlot {
                service: name.service_text(service),
                what: "publisher",
                setting: BUS_SETTINGS.publishers,
                slots: config.publisher_slots(),
            },
            PublisherCreateError::UnableToCreateDataSegment
            | PublisherCreateError::FailedToDeployThreadsafetyPolicy
            | PublisherCreateError::UnableToCreatePortTag
            | PublisherCreateError::UnableToGenerateUniquePublisherId => {
                BusError::Internal { doing: "creating the publisher", cause: format!("{error:?}") }
            }
        })
}

/// Greater for every publisher opened later on this machine, whatever the wall clock does: nanoseconds since it was
/// started. Subscribers drop what an earlier incarnation left behind once they have seen a later one. A bus never
/// outlives its machine's memory, so nothing needs to hold beyond a reboot.
pub(crate) fn incarnation() -> u64 {
    let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    since_boot.tv_sec as u64 * 1_000_000_000 + since_boot.tv_nsec as u64
}

/// A tape has one publisher. Dead ones awaiting cleanup do not count.
fn refuse_second(
    samples: &SampleFactory<Own>,
    name: &BusName,
    service: BusService,
    own: Option<UniquePublisherId>,
) -> Result<(), BusError> {
    let mut others = Vec::new();
    samples.dynamic_config().list_publishers(|publisher| {
        if Some(publisher.publisher_id) != own {
            others.push(publisher.node_id);
        }
        CallbackProgression::Continue
    });
    for node_id in others {
        let state = Node::<Own>::state_of(&name.iceoryx_config()?, node_id).map_err(|error| {
            BusError::Internal { doing: "looking at another publisher", cause: error.to_string() }
        })?;
        let process = match state {
            None | Some(NodeState::Dead(_)) => continue,
            Some(NodeState::Alive(node)) => {
                node.details().as_ref().map(|details| details.process_id().value())
            }
            Some(NodeState::Inaccessible(_) | NodeState::Undefined(_)) => None,
        };
        return Err(BusError::AnotherPublisher {
            service: name.service_text(service),
            process: process.map_or_else(|| "unknown".into(), |process| process.to_string()),
        });
    }
    Ok(())
}

/// Makes the system set the segment's pages aside now. Shared memory is given out on first touch, and running out of
/// it then is a SIGBUS in the middle of publishing; here it is an error. (What remains of a first touch is mapping the
/// page, some microseconds per chunk in the first round.)
fn reserve_memory(
    name: &BusName,
    opened: &Opened<Own>,
    publisher: UniquePublisherId,
    config: &BusConfig,
) -> Result<(), BusError> {
    match reserve_segment(name, &opened.node, publisher) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            Err(BusError::NotEnoughSharedMemory {
                required: config.memory_required(),
                available_bytes: shared_memory_available()?,
                subscriber_slots: config.subscriber_slots(),
            })
        }
        Err(error) => Err(BusError::Internal { doing: "reserving shared memory", cause: error.to_string() }),
    }
}

/// Reserves every page of a publisher's data segment.
pub(crate) fn reserve_segment<S: Service>(
    name: &BusName,
    node: &Node<S>,
    publisher: UniquePublisherId,
) -> std::io::Result<()> {
    let suffix = node.config().global.service.data_segment_suffix;
    // iceoryx2 puts a hash of the type between the prefix and the port's id.
    let (prefix, end) = (name.prefix(), format!("{}{suffix}", publisher.value()));
    for entry in std::fs::read_dir(SHARED_MEMORY_DIR)? {
        let entry = entry?;
        let file = entry.file_name();
        let file = file.to_string_lossy();
        if file.starts_with(&prefix) && file.ends_with(&end) {
            let segment = std::fs::OpenOptions::new().read(true).write(true).open(entry.path())?;
            let bytes = segment.metadata()?.len();
            rustix::fs::fallocate(&segment, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
            return Ok(());
        }
    }
    Err(std::io::Error::new(std::io::ErrorKind::NotFound, format!("no segment {prefix}*{end}")))
}

#[cfg(test)]
mod tests {
    use matchtape_schemas::event::{TimeAdvanced, encode_event};
    use matchtape_schemas::{
        AcceptedTime, Event, EventTime, FrameFlags, FrameWriter, InstrumentId, ProducerId, ProducerSequence,
        TapeId,
    };

    use super::*;
    use crate::block::bytes_of_mut;
    use crate::name::TestName;
    use crate::subscriber::{BusSubscriber, Delivery, SubscriberOptions};

    /// A frame of one event.
    fn frame(head: &mut Head) -> Vec<Block> {
        let event = Event::new(InstrumentId(0), ProducerSequence(0), EventTime(1), TimeAdvanced::default());
        let (mut encoded, mut blocks) = ([Block::ZERO; 8], vec![Block::ZERO; 64]);
        let encoded = &mut bytes_of_mut(&mut encoded)[..event.encoded_len()];
        encode_event(&event, ProducerId(0), encoded);
        let mut writer = FrameWriter::new(bytes_of_mut(&mut blocks), head);
        assert!(writer.push(encoded));
        let length = writer.finish(head, AcceptedTime(1), FrameFlags::NONE).length as usize;
        blocks.truncate(length / size_of::<Block>());
        blocks
    }

    #[test]
    fn what_cannot_be_sent_is_counted_and_its_subscribers_find_the_gap() {
        let test = TestName::new("unsent", TapeId(9));
        let config = BusConfig { frame_bytes_max: 4096, ..BusConfig::default() };
        let mut head = Head { epoch: Epoch(1), ..Head::empty(TapeId(9)) };
        let mut publisher =
            BusPublisher::open(&test.name, BusService::Live, &config, &head).expect("publisher");
        let options = SubscriberOptions { next: Some(Sequence(1)), ..SubscriberOptions::default() };
        let mut subscriber = BusSubscriber::open(&test.name, BusService::Live, &options).expect("subscriber");
        let none = Watermarks::default();
        let mut publish = |publisher: &mut BusPublisher| {
            let frame = frame(&mut head);
            let bytes = block::bytes_of(&frame, size_of_val(&frame[..])).expect("all of it");
            publisher.publish(bytes, &none).expect("it is the next frame")
        };
        assert_eq!(publish(&mut publisher), 1);
        assert!(matches!(subscriber.poll(), Ok(Some(Delivery::Frame(_)))));

        // As many samples are out as may be: there is none for what follows.
        let loaned: Vec<_> = (0..LOANED_SAMPLES + PREPARED_SAMPLES)
            .map(|_| publisher.publisher.loan_slice_uninit(1).expect("loan"))
            .collect();
        assert_eq!((publish(&mut publisher), publisher.heartbeat(&none)), (0, 0));
        assert_eq!(publisher.counters().send_failures, 2);
        assert!(matches!(subscriber.poll(), Ok(None)));
        drop(loaned);
        assert_eq!(publisher.heartbeat(&none), 1);
        match subscriber.poll() {
            Ok(Some(Delivery::Gap { expected, found })) => {
                assert_eq!((expected, found), (Sequence(2), Sequence(3)))
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(subscriber.poll(), Ok(Some(Delivery::Heartbeat { .. }))));
        assert_eq!(publish(&mut publisher), 1);
        assert!(matches!(subscriber.poll(), Ok(Some(Delivery::Frame(_)))));
    }

    #[test]
    fn a_prepared_frame_is_sent_once_it_may_be_and_dropped_where_another_way_was_quicker() {
        let test = TestName::new("prepared", TapeId(9));
        let config = BusConfig { frame_bytes_max: 4096, ..BusConfig::default() };
        let mut head = Head { epoch: Epoch(1), ..Head::empty(TapeId(9)) };
        let mut publisher =
            BusPublisher::open(&test.name, BusService::Speculative, &config, &head).expect("publisher");
        let options = SubscriberOptions { next: Some(Sequence(1)), ..SubscriberOptions::default() };
        let mut subscriber =
            BusSubscriber::open(&test.name, BusService::Speculative, &options).expect("subscriber");
        let frames: Vec<_> = (0..8).map(|_| frame(&mut head)).collect();
        let bytes =
            |at: usize| block::bytes_of(&frames[at], size_of_val(&frames[at][..])).expect("all of it");
        let reached = |accepted, visible| Watermarks {
            accepted: Sequence(accepted),
            visible: Sequence(visible),
            ..Watermarks::default()
        };
        let mut next = || match subscriber.poll() {
            Ok(Some(Delivery::Frame(frame))) => {
                Some((frame.frame().first_sequence().get(), frame.watermarks()))
            }
            Ok(None) => None,
            other => panic!("{other:?}"),
        };
        // As many as may be, in turn only.
        assert!(matches!(publisher.prepare(bytes(1)), Err(BusError::OutOfOrder { .. })));
        for at in 0..PREPARED_SAMPLES {
            assert!(publisher.prepare(bytes(at)).unwrap());
        }
        assert!(!publisher.prepare(bytes(PREPARED_SAMPLES)).unwrap());
        assert_eq!((next(), publisher.next()), (None, Sequence(1)));
        publisher.publish_prepared(Sequence(2), &reached(9, 2));
        // Nothing that is said of the stages goes back, though who says it knew less.
        publisher.publish_prepared(Sequence(3), &reached(3, 3));
        let given: Vec<_> = std::iter::from_fn(&mut next).collect();
        assert_eq!(given, [(1, reached(9, 2)), (2, reached(9, 2)), (3, reached(9, 3))]);
        // The fourth comes another way, and what was prepared of it is gone.
        assert_eq!(publisher.publish(bytes(3), &reached(4, 4)).unwrap(), 1);
        publisher.publish_prepared(Sequence(4), &reached(4, 4));
        assert_eq!(publisher.publish(bytes(4), &reached(5, 5)).unwrap(), 1);
        assert_eq!(std::iter::from_fn(&mut next).map(|(first, _)| first).collect::<Vec<_>>(), [4, 5]);
        // What is taken back is prepared no longer.
        assert!(publisher.prepare(bytes(5)).unwrap());
        publisher.retract(Epoch(1), Sequence(5), Sequence(5), &reached(5, 4)).unwrap();
        publisher.publish_prepared(Sequence(9), &reached(9, 9));
        assert_eq!((publisher.next(), publisher.counters().prepared), (Sequence(5), 3));
    }
}
