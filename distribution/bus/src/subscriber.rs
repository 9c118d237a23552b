//! A reader of a tape's bus: every sample is checked once and compared with what must come next.
//!
//! The bus promises order and honesty, not completeness: whatever a slow reader lost is reported as an exact
//! [`Delivery::Gap`], and the log has it. Nothing here reads the log.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use iceoryx2::node::Node;
use iceoryx2::port::listener::{Listener, ListenerCreateError};
use iceoryx2::port::subscriber::{Subscriber, SubscriberCreateError};
use iceoryx2::port::{DegradationAction, DegradationCause, DegradationInfo, ReceiveError};
use iceoryx2::prelude::{PortFactory, ipc};
use iceoryx2::sample::Sample;
use matchtape_schemas::{Epoch, Frame, FrameHeader, KindMask, Sequence, TapeId, Watermarks};

use crate::block::{Block, bytes_of};
use crate::config::{HISTORY_SAMPLES, WakeUp};
use crate::error::{BadSample, BusError};
use crate::header::{SampleHeader, SampleKind};
use crate::name::{BusName, BusService};
use crate::presence::Presence;
use crate::service::{self, BUS_SETTINGS, Opened};

/// How a subscriber reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriberOptions {
    /// The first sequence wanted; `None` begins with whatever comes first.
    pub next: Option<Sequence>,
    /// Frames that hold none of these kinds are passed over. Their sequences still count, so gaps stay provable.
    pub kinds: KindMask,
    /// Whether [`BusSubscriber::wait`] sleeps. Needs a publisher configured for [`WakeUp::Event`].
    pub wake_up: WakeUp,
    /// How long [`BusSubscriber::wait`] looks before it sleeps. While frames keep coming within this time nobody
    /// sleeps, and the publisher needs no system call to wake anybody.
    pub spin: Duration,
}

impl Default for SubscriberOptions {
    fn default() -> Self {
        Self { next: None, kinds: KindMask::ALL, wake_up: WakeUp::Event, spin: Duration::from_micros(50) }
    }
}

/// What [`BusSubscriber::poll`] returns.
#[derive(Debug)]
pub enum Delivery {
    /// The next frame, where it lies in shared memory.
    Frame(BusFrame),
    /// Nothing new, but the publisher lives.
    Heartbeat {
        /// Its epoch.
        epoch: Epoch,
        /// How far each stage is.
        watermarks: Watermarks,
    },
    /// The events `expected..found` did not arrive; read them from the log. The subscriber continues at `found`: poll
    /// again, or [`BusSubscriber::seek`] to where the log was left.
    Gap {
        /// What should have come.
        expected: Sequence,
        /// What came, or for a heartbeat: what will come next.
        found: Sequence,
    },
    /// Events that were delivered speculatively will never be visible. The subscriber continues at `first`.
    Retract {
        /// The epoch they were accepted in.
        epoch: Epoch,
        /// The first of them.
        first: Sequence,
        /// The last of them that was delivered.
        last: Sequence,
    },
    /// Another publisher has taken over (the node was restarted). What follows is from it.
    PublisherRestarted {
        /// Its epoch.
        epoch: Epoch,
    },
}

/// What a subscriber has seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriberCounters {
    /// Frames delivered.
    pub frames: u64,
    /// Frames passed over because they held none of the wanted kinds.
    pub filtered: u64,
    /// Frames whose events had all been delivered before.
    pub duplicates: u64,
    /// Samples left behind by a publisher that has been replaced.
    pub stale: u64,
    /// Samples that were damaged.
    pub damaged: u64,
    /// Gaps reported.
    pub gaps: u64,
    /// Events in those gaps.
    pub missed: u64,
}

/// More frames than are under way between accepted and durable; beyond it the oldest are forgotten, and a restart takes
/// back more than it would have to.
const UNSETTLED_MAX: usize = 4096;

type BusSample = Sample<ipc::Service, [Block], SampleHeader>;

/// A checked frame in shared memory. Its place is free again when this is dropped; a subscriber may hold
/// [`crate::BusConfig::borrowed_samples`] of them.
#[derive(Debug)]
pub struct BusFrame {
    sample: BusSample,
    first_new: Sequence,
}

impl BusFrame {
    /// The frame.
    #[must_use]
    pub fn frame(&self) -> Frame<'_> {
        // SAFETY: `BusSubscriber::examine` had `Frame::decode` accept exactly these bytes at this address (blocks are
        // aligned to 16), and the publisher does not write to a chunk again while this sample holds it.
        unsafe { Frame::assume_checked(self.bytes()) }
    }

    /// The frame's bytes, as they are in the log and on the wire.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let length = self.sample.user_header().length as usize;
        bytes_of(self.sample.payload(), length).expect("the length was checked when the sample arrived")
    }

    /// The first event that was not delivered before: later than the frame's first where it overlaps what the
    /// subscriber already had.
    #[must_use]
    pub fn first_new(&self) -> Sequence {
        self.first_new
    }

    /// How far each stage was when this frame was published.
    #[must_use]
    pub fn watermarks(&self) -> Watermarks {
        self.sample.user_header().watermarks()
    }
}

/// Reads one service of a tape's bus.
///
/// It belongs to one thread (`!Send`): open it where it is used, or with [`crate::on_own_thread`].
#[derive(Debug)]
pub struct BusSubscriber {
    // Dropped first to last: samples and ports before the node whose tags let others clean up after a crash.
    /// A sample that was received but must wait for a notice to be delivered first.
    held: Option<BusSample>,
    listener: Option<Listener<ipc::Service>>,
    subscriber: Subscriber<ipc::Service, [Block], SampleHeader>,
    tape: TapeId,
    service: BusService,
    kinds: KindMask,
    spin: Duration,
    held_max: usize,
    heartbeat_interval: Duration,
    /// The sequence that must come next; `None` until the first sample.
    next: Option<Sequence>,
    /// Zero until the first sample.
    incarnation: u64,
    epoch: Epoch,
    watermarks: Watermarks,
    /// The highest `visible` any publisher has stated: what no restart can take back.
    visible: Sequence,
    /// Speculative frames that were delivered and are not known to be visible: the last event and checksum of each. The
    /// chain of checksums is the same up to a frame whose checksum is.
    unsettled: VecDeque<(Sequence, u64)>,
    /// Due before the held sample: the retraction a restart implies.
    retract: Option<Delivery>,
    counters: SubscriberCounters,
    _node: Node<ipc::Service>,
    _presence: Presence,
}

impl BusSubscriber {
    /// Opens a bus that a publisher has created. [`BusError::NotFound`] until then.
    ///
    /// The publisher connects on its next sample or heartbeat: what it sent before is in the log.
    pub fn open(name: &BusName, service: BusService, options: &SubscriberOptions) -> Result<Self, BusError> {
        let (presence, Opened { samples, wake, heartbeat_interval, node }) =
            service::open(name, service, options.wake_up)?;
        let sizes = samples.static_config();
        let (slots, held_max) = (sizes.max_subscribers(), sizes.subscriber_max_borrowed_samples());
        let no_free_slot = |what| BusError::NoFreeSlot {
            service: name.service_text(service),
            what,
            setting: BUS_SETTINGS.subscribers,
            slots,
        };
        // The listener first: from the moment the publisher knows the subscriber, its wake-ups have a receiver.
        let listener = match wake {
            None => None,
            Some(wake) => Some(wake.listener_builder().create().map_err(|error| match error {
                ListenerCreateError::ExceedsMaxSupportedListeners => no_free_slot("listener"),
                ListenerCreateError::ResourceCreationFailed
                | ListenerCreateError::FailedToDeployThreadsafetyPolicy
                | ListenerCreateError::UnableToCreatePortTag
                | ListenerCreateError::UnableToGenerateUniqueListenerId => {
                    BusError::Internal { doing: "creating the listener", cause: format!("{error:?}") }
                }
            })?),
        };
        let port = samples
            .subscriber_builder()
            // All that the publisher set aside for each: behind is behind, and memory was taken for it.
            .buffer_size(sizes.subscriber_max_buffer_size())
            .history_request(HISTORY_SAMPLES)
            // A publisher that cannot be reached is not heard: the missed heartbeats say so.
            .set_degradation_handler(|_: DegradationCause, _: &DegradationInfo| DegradationAction::Warn);
        let subscriber = port.create().map_err(|error| match error {
            SubscriberCreateError::ExceedsMaxSupportedSubscribers => no_free_slot("subscriber"),
            SubscriberCreateError::BufferSizeExceedsMaxSupportedBufferSizeOfService
            | SubscriberCreateError::FailedToDeployThreadsafetyPolicy
            | SubscriberCreateError::UnableToCreatePortTag
            | SubscriberCreateError::HistoryRequestExceedsHistorySizeOfService
            | SubscriberCreateError::HistoryRequestExceedsBufferSizeOfSubscriber
            | SubscriberCreateError::UnableToGenerateUniqueSubscriberId => {
                BusError::Internal { doing: "creating the subscriber", cause: format!("{error:?}") }
            }
        })?;
        Ok(Self {
            held: None,
            listener,
            subscriber,
            tape: name.tape(),
            service,
            kinds: options.kinds,
            spin: options.spin,
            held_max,
            heartbeat_interval,
            next: options.next,
            incarnation: 0,
            epoch: Epoch::default(),
            watermarks: Watermarks::default(),
            visible: Sequence::ZERO,
            unsettled: VecDeque::new(),
            retract: None,
            counters: SubscriberCounters::default(),
            _node: node,
            _presence: presence,
        })
    }

    /// The next thing there is to know, or `None` when there is nothing at the moment. Never waits.
    ///
    /// After [`BusError::BadSample`] and [`BusError::EpochWentBack`] polling can go on: the sample was dropped, and
    /// the next one shows the gap.
    pub fn poll(&mut self) -> Result<Option<Delivery>, BusError> {
        if let Some(retract) = self.retract.take() {
            return Ok(Some(retract));
        }
        loop {
            let sample = match self.held.take() {
                Some(sample) => sample,
                None => match self.subscriber.receive() {
                    Ok(Some(sample)) => sample,
                    Ok(None) => return Ok(None),
                    Err(ReceiveError::ExceedsMaxBorrows) => {
                        return Err(BusError::TooManyHeld { held_max: self.held_max });
                    }
                    Err(error) => return Err(BusError::Receive(error)),
                },
            };
            if let Some(delivery) = self.examine(sample)? {
                return Ok(Some(delivery));
            }
        }
    }

    /// Returns at once when there may be something to poll, otherwise after at most `timeout`; `false` when there was
    /// nothing. With [`WakeUp::Event`] it sleeps after having looked for [`SubscriberOptions::spin`].
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, BusError> {
        if self.retract.is_some() || self.held.is_some() {
            return Ok(true);
        }
        let start = Instant::now();
        let looking = if self.listener.is_some() { self.spin.min(timeout) } else { timeout };
        loop {
            if self.has_samples()? {
                return Ok(true);
            }
            if start.elapsed() >= looking {
                break;
            }
            std::hint::spin_loop();
        }
        let Some(listener) = &self.listener else {
            return Ok(false);
        };
        match service::sleep(listener, timeout.saturating_sub(start.elapsed())) {
            Ok(()) => self.has_samples(),
            Err(error) => {
                Err(BusError::Internal { doing: "waiting for the bus", cause: format!("{error:?}") })
            }
        }
    }

    /// Continues at `next`, for a caller that has read up to there from the log. Frames before it are passed over;
    /// one that contains it is delivered with [`BusFrame::first_new`] set to it.
    pub fn seek(&mut self, next: Sequence) {
        self.next = Some(next);
    }

    /// The sequence that must come next, once anything has come.
    #[must_use]
    pub fn next(&self) -> Option<Sequence> {
        self.next
    }

    /// Delivers only frames with one of these kinds from now on.
    pub fn set_kinds(&mut self, kinds: KindMask) {
        self.kinds = kinds;
    }

    /// How often a sign of life comes when nothing else does, as the bus was created.
    #[must_use]
    pub fn heartbeat_interval(&self) -> Duration {
        self.heartbeat_interval
    }

    /// How far each stage was at the last sample.
    #[must_use]
    pub fn watermarks(&self) -> Watermarks {
        self.watermarks
    }

    /// The epoch of the last sample, zero before the first.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What has been seen so far.
    #[must_use]
    pub fn counters(&self) -> SubscriberCounters {
        self.counters
    }

    fn has_samples(&self) -> Result<bool, BusError> {
        self.subscriber
            .has_samples()
            .map_err(|error| BusError::Receive(ReceiveError::ConnectionFailure(error)))
    }

    /// Checks one sample and says what it means; `None` when it means nothing to this subscriber.
    fn examine(&mut self, sample: BusSample) -> Result<Option<Delivery>, BusError> {
        // A copy, so that what was checked is what is used.
        let header = *sample.user_header();
        let kind = match header.check(self.tape, size_of_val(sample.payload())) {
            Ok(kind) => kind,
            Err(error) => return Err(self.damaged(error)),
        };
        // Before anything moves here: a position that is not the frame's would pass for a gap, and what follows for
        // repetitions; a term that is not would make it seem to come from a lost one.
        if kind == SampleKind::Frame
            && let Err(error) = agrees(&sample, &header)
        {
            return Err(self.damaged(error));
        }
        if header.incarnation < self.incarnation {
            self.counters.stale += 1;
            return Ok(None);
        }
        if header.incarnation > self.incarnation {
            let first_ever = self.incarnation == 0;
            self.incarnation = header.incarnation;
            let previous = std::mem::replace(&mut self.epoch, header.epoch());
            if !first_ever {
                self.held = Some(sample);
                self.check_head(header.accepted)?;
                if self.unsettled.contains(&(Sequence(header.recovered), header.recovered_checksum)) {
                    // What a node recovers is durable, and this was there.
                    self.visible = self.visible.max(Sequence(header.recovered));
                }
                self.unsettled.clear();
                self.retract = self.taken_back_by_restart(previous);
                return Ok(Some(Delivery::PublisherRestarted { epoch: header.epoch() }));
            }
        }
        self.watermarks = header.watermarks();
        self.visible = self.visible.max(self.watermarks.visible);
        match kind {
            SampleKind::Retract => Ok(self.taken_back(&header)),
            SampleKind::Heartbeat => {
                self.rise_to(header.epoch())?;
                if let Some(gap) = self.gap_before(header.first()) {
                    self.held = Some(sample);
                    return Ok(Some(gap));
                }
                self.next.get_or_insert(header.first());
                Ok(Some(Delivery::Heartbeat { epoch: header.epoch(), watermarks: self.watermarks }))
            }
            SampleKind::Frame => {
                self.rise_to(header.epoch())?;
                if let Some(gap) = self.gap_before(header.first()) {
                    self.held = Some(sample);
                    return Ok(Some(gap));
                }
                self.frame(sample, &header)
            }
        }
    }

    fn frame(&mut self, sample: BusSample, header: &SampleHeader) -> Result<Option<Delivery>, BusError> {
        let first_new = self.next.unwrap_or(header.first()).max(header.first());
        if first_new >= header.end() {
            self.counters.duplicates += 1;
            return Ok(None);
        }
        if !self.kinds.intersects(KindMask(header.kinds)) {
            self.next = Some(header.end());
            self.counters.filtered += 1;
            return Ok(None);
        }
        let bytes = bytes_of(sample.payload(), header.length as usize).expect("the headers agree on it");
        // The one full check of a frame on this side.
        if let Err(error) = Frame::decode(bytes) {
            return Err(self.damaged(BadSample::Frame(error)));
        }
        self.next = Some(header.end());
        self.counters.frames += 1;
        if self.service == BusService::Speculative {
            self.remember(&sample, header);
        }
        Ok(Some(Delivery::Frame(BusFrame { sample, first_new })))
    }

    /// The gap before `found`, if there is one; the subscriber then continues at `found`.
    fn gap_before(&mut self, found: Sequence) -> Option<Delivery> {
        let expected = self.next?;
        if found <= expected {
            return None;
        }
        self.next = Some(found);
        self.counters.gaps += 1;
        self.counters.missed += found.get() - expected.get();
        Some(Delivery::Gap { expected, found })
    }

    /// The part of a retraction that was delivered here, if any.
    fn taken_back(&mut self, header: &SampleHeader) -> Option<Delivery> {
        let (first, next) = (header.first(), self.next?);
        if next <= first {
            return None;
        }
        self.next = Some(first);
        let last = next.min(header.end()).previous();
        Some(Delivery::Retract { epoch: header.epoch(), first, last })
    }

    /// Keeps what a successor of this publisher may say it has recovered.
    fn remember(&mut self, sample: &BusSample, header: &SampleHeader) {
        while self.unsettled.front().is_some_and(|(last, _)| *last <= self.visible) {
            self.unsettled.pop_front();
        }
        if self.unsettled.len() == UNSETTLED_MAX {
            self.unsettled.pop_front();
        }
        let bytes = bytes_of(sample.payload(), header.length as usize).expect("checked with the frame");
        let frame = FrameHeader::peek(bytes).expect("checked with the frame");
        self.unsettled.push_back((frame.last_sequence(), frame.checksum));
    }

    /// Through where what was delivered cannot vanish any more: visible, or recovered by a successor.
    #[must_use]
    pub fn certain(&self) -> Sequence {
        self.visible
    }

    /// After a restart, speculative events are only certain up to what was visible, or what the successor has recovered of
    /// the very frames that were delivered: the rest may have been lost with the old publisher, and the new one may have
    /// given their sequences to others. Those that survived all the same come again, from the log.
    fn taken_back_by_restart(&mut self, epoch: Epoch) -> Option<Delivery> {
        let (first, next) = (self.visible.next(), self.next?);
        if self.service == BusService::Live || next <= first {
            return None;
        }
        self.next = Some(first);
        Some(Delivery::Retract { epoch, first, last: next.previous() })
    }

    /// What was visible cannot vanish. If the tape of the new publisher is shorter than what its predecessors have
    /// called visible, its sequences would pass for duplicates of events that no longer exist.
    ///
    /// The position here proves nothing: a reader that was sent on by [`seek`](Self::seek) may have read in the log what
    /// the new publisher accepted after it sent this sample.
    fn check_head(&self, accepted: u64) -> Result<(), BusError> {
        let delivered = self.visible;
        let head = Sequence(accepted);
        if self.service == BusService::Live && head != Sequence::ZERO && head < delivered {
            return Err(BusError::TapeWentBack { delivered, head });
        }
        Ok(())
    }

    fn rise_to(&mut self, epoch: Epoch) -> Result<(), BusError> {
        if epoch < self.epoch {
            self.counters.damaged += 1;
            return Err(BusError::EpochWentBack { found: epoch, current: self.epoch });
        }
        self.epoch = epoch;
        Ok(())
    }

    fn damaged(&mut self, error: BadSample) -> BusError {
        self.counters.damaged += 1;
        BusError::BadSample(error)
    }
}

/// Whether the sample's header says the same as the frame's own.
fn agrees(sample: &BusSample, header: &SampleHeader) -> Result<(), BadSample> {
    let payload = sample.payload();
    let bytes = bytes_of(payload, header.length as usize)
        .ok_or(BadSample::Length { claimed: header.length, payload: size_of_val(payload) })?;
    let found = FrameHeader::peek(bytes).map_err(BadSample::Frame)?;
    let pairs = [
        ("tape", header.tape, found.tape.get()),
        ("epoch", header.epoch, found.epoch.get()),
        ("first sequence", header.first_sequence, found.first_sequence.get()),
        ("count", header.count, u64::from(found.count)),
        ("length", header.length, u64::from(found.length)),
        ("kinds", header.kinds, found.kinds.0),
    ];
    for (field, claimed, found) in pairs {
        if claimed != found {
            return Err(BadSample::Disagrees { field, claimed, found });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use iceoryx2::port::publisher::Publisher;
    use matchtape_schemas::event::{TimeAdvanced, encode_event};
    use matchtape_schemas::{
        AcceptedTime, Event, EventTime, FrameFlags, FrameWriter, Head, InstrumentId, ProducerId,
        ProducerSequence,
    };

    use super::*;
    use crate::block::{blocks_for, fill};
    use crate::config::BusConfig;
    use crate::header::FORMAT_VERSION;
    use crate::name::TestName;
    use crate::service::Own;

    const TAPE: TapeId = TapeId(9);

    /// A publisher that sends whatever it is told to, true or not.
    struct Liar {
        publisher: Publisher<Own, [Block], SampleHeader>,
        _opened: Opened<Own>,
    }

    impl Liar {
        fn send(&self, header: SampleHeader, bytes: &[u8]) {
            let mut sample = self.publisher.loan_slice_uninit(blocks_for(bytes.len())).expect("loan");
            *sample.user_header_mut() = header;
            fill(sample.payload_mut(), bytes);
            // SAFETY: `fill` initialised all of it.
            unsafe { sample.assume_init() }.send().expect("send");
        }
    }

    /// A frame of one event after `head`, and the header that belongs to it.
    fn frame(head: &mut Head) -> (Vec<u8>, SampleHeader) {
        let event = Event::new(InstrumentId(0), ProducerSequence(0), EventTime(1), TimeAdvanced::default());
        let mut words = vec![0_u128; 64];
        // SAFETY: any bytes make a `u128`, and the vector is exclusively borrowed.
        let memory = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), 64 * 16) };
        let (encoded, out) = memory.split_at_mut(512);
        let encoded = &mut encoded[..event.encoded_len()];
        encode_event(&event, ProducerId(0), encoded);
        let mut writer = FrameWriter::new(out, head);
        assert!(writer.push(encoded));
        let info = writer.finish(head, AcceptedTime(1), FrameFlags::NONE);
        let header = SampleHeader {
            format_version: FORMAT_VERSION,
            kind: SampleKind::Frame.number(),
            tape: TAPE.get(),
            epoch: info.epoch.get(),
            incarnation: 1,
            first_sequence: info.first_sequence.get(),
            count: u64::from(info.count),
            kinds: info.kinds.0,
            length: u64::from(info.length),
            ..SampleHeader::default()
        };
        (out[..info.length as usize].to_vec(), header)
    }

    #[test]
    fn damaged_samples_are_dropped_with_the_reason_and_show_as_a_gap() {
        let test = TestName::new("liar", TAPE);
        let name = &test.name;
        let config = BusConfig { frame_bytes_max: 4096, ..BusConfig::default() };
        let (_presence, opened) = service::create(name, BusService::Live, &config).expect("service");
        let publisher = opened
            .samples
            .publisher_builder()
            .initial_max_slice_len(blocks_for(config.frame_bytes_max))
            .create()
            .expect("publisher");
        let liar = Liar { publisher, _opened: opened };
        let options = SubscriberOptions { next: Some(Sequence(1)), ..SubscriberOptions::default() };
        let mut subscriber = BusSubscriber::open(name, BusService::Live, &options).expect("subscriber");

        let mut head = Head { epoch: Epoch(1), ..Head::empty(TAPE) };
        type Lie = fn(&mut SampleHeader, &mut Vec<u8>);
        let lies: [(&str, Lie); 11] = [
            ("epoch", |header, _| header.epoch += 1000),
            ("sequence", |header, _| header.first_sequence += 1000),
            ("format", |header, _| header.format_version += 1),
            ("tape", |header, _| header.tape += 1),
            ("kind", |header, _| header.kind = 77),
            ("length", |header, _| header.length = u64::MAX),
            ("length", |header, _| header.length -= 16),
            ("events", |header, _| header.count += 1),
            ("checksum", |_, bytes| *bytes.last_mut().expect("bytes") ^= 1),
            ("kinds", |header, _| header.kinds |= 1 << 63),
            ("truncated", |_, bytes| bytes.truncate(96)),
        ];
        for (what, lie) in lies {
            let before = subscriber.counters().damaged;
            let (mut bytes, mut header) = frame(&mut head);
            lie(&mut header, &mut bytes);
            liar.send(header, &bytes);
            match subscriber.poll() {
                Err(BusError::BadSample(_)) => (),
                other => panic!("{what}: {other:?}"),
            }
            assert_eq!(subscriber.counters().damaged, before + 1, "{what}");
            assert!(subscriber.poll().expect("poll").is_none(), "{what}");

            let lost = head.last_sequence;
            let (bytes, header) = frame(&mut head);
            liar.send(header, &bytes);
            match subscriber.poll() {
                Ok(Some(Delivery::Gap { expected, found })) => {
                    assert_eq!((expected, found), (lost, lost.next()))
                }
                other => panic!("{what}: {other:?}"),
            }
            match subscriber.poll() {
                Ok(Some(Delivery::Frame(frame))) => assert_eq!(frame.bytes(), bytes),
                other => panic!("{what}: {other:?}"),
            }
        }

        let (bytes, header) = frame(&mut Head { epoch: Epoch(2), ..head });
        liar.send(header, &bytes);
        assert!(matches!(subscriber.poll(), Ok(Some(Delivery::Frame(_)))));
        let (bytes, header) = frame(&mut head);
        liar.send(header, &bytes);
        assert!(matches!(subscriber.poll(), Err(BusError::EpochWentBack { .. })));
        liar.send(SampleHeader { incarnation: 0, ..header }, &bytes);
        assert!(subscriber.poll().expect("poll").is_none());
        assert_eq!(subscriber.counters().stale, 1);
    }
}
