//! The node's ports of the way in: receives requests, tells producers how far it is, sleeps for both.

use std::time::{Duration, Instant};

use iceoryx2::node::{Node, NodeState as ProcessState, NodeView as _};
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::port::{DegradationAction, DegradationCause, DegradationInfo};
use iceoryx2::prelude::{
    AllocationStrategy, BackpressureStrategy, CallbackProgression, PortFactory as _, ipc,
};
use iceoryx2::service::dynamic_config::publish_subscribe::PublisherDetails;
use matchtape_schemas::{Epoch, ProducerId, Stage, Watermarks};
use rustix::event::{PollFd, PollFlags, poll};

use super::config::IngressConfig;
use super::desk::{Desk, Door, GroupMax, IngressCounters, Ports};
use super::doorbell::Doorbell;
use super::message::{NodeState, NodeView, PortId, ReplyHeader, RequestHeader, SessionState};
use super::ports::{self, Opened, PRODUCER_SLOTS, REPLIES, REQUESTS, RequestFactory, producer_port_name};
use crate::block::Block;
use crate::config::{HISTORY_SAMPLES, LOANED_SAMPLES, shared_memory_available};
use crate::error::BusError;
use crate::name::BusName;
use crate::presence::Presence;
use crate::publisher::{incarnation, reserve_segment};
use crate::service;

/// Requests taken in before the node says how far it is and looks at everything else.
const REQUESTS_PER_TURN: usize = 64;

/// What the node takes of events and tells its producers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IngressTerms {
    /// The node's term.
    pub epoch: Epoch,
    /// How far an event time may lie ahead of the clock, ns.
    pub skew_ns_max: i64,
    /// The most events a group may have.
    pub group_events_max: usize,
    /// The most bytes its events may have.
    pub group_bytes_max: usize,
    /// From when on it takes an event for safe.
    pub safe_at: SafeAt,
}

/// From when on a node's events are safe, by how its log is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SafeAt {
    /// Once they are synced.
    Durable,
    /// Once they are handed to the kernel: the log is synced only where a segment ends. They survive the node, and not the
    /// machine, whose end its producers do not survive either.
    Written,
}

impl SafeAt {
    pub(crate) fn stage(self) -> Stage {
        match self {
            Self::Durable => Stage::Durable,
            Self::Written => Stage::Written,
        }
    }
}

/// Why a node takes no more events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngressEnd {
    /// It was closed.
    Closed,
    /// Its log failed.
    Poisoned,
    /// Another node leads the tape.
    Fenced,
}

/// The node's end of the way in. Belongs to one thread; `W` is a producer's handle there.
pub struct Intake<W> {
    // Dropped first to last: handles, then ports, then the node whose tags let others clean up after a crash.
    desk: Desk<W>,
    states: Vec<SessionState>,
    replies: Publisher<ipc::Service, [SessionState], ReplyHeader>,
    notifier: Option<Notifier<ipc::Service>>,
    requests: Subscriber<ipc::Service, [Block], RequestHeader>,
    listener: Option<Listener<ipc::Service>>,
    processes: Processes,
    view: NodeView,
    name: BusName,
    sessions_max: usize,
    _node: Node<ipc::Service>,
    _presence: Presence,
}

/// The producers' ports, as iceoryx2 lists them.
struct Processes {
    requests: RequestFactory,
    name: BusName,
}

impl Processes {
    /// Those of the listed ports that `wanted` picks and whose processes live.
    fn living(&self, wanted: impl Fn(&PublisherDetails) -> bool) -> Vec<(PortId, u32)> {
        let mut found = Vec::new();
        self.requests.dynamic_config().list_publishers(|publisher| {
            if wanted(publisher) {
                found.push((publisher.publisher_id.value(), publisher.node_id));
            }
            CallbackProgression::Continue
        });
        let Ok(config) = self.name.iceoryx_config() else { return Vec::new() };
        let living = found.into_iter().filter_map(|(port, node)| {
            match Node::<ipc::Service>::state_of(&config, node) {
                Ok(None | Some(ProcessState::Dead(_))) => None,
                Ok(Some(ProcessState::Alive(node))) => {
                    let process = node.details().as_ref().map_or(0, |details| details.process_id().value());
                    Some((port, process.unsigned_abs()))
                }
                // Not known to be dead: its place is not given away.
                Ok(Some(ProcessState::Inaccessible(_) | ProcessState::Undefined(_))) | Err(_) => {
                    Some((port, 0))
                }
            }
        });
        living.collect()
    }
}

impl Ports for Processes {
    fn process(&self, port: PortId) -> Option<u32> {
        let living = self.living(|publisher| publisher.publisher_id.value() == port);
        living.first().map(|(_, process)| *process)
    }

    fn others(&self, producer: ProducerId, port: PortId) -> Vec<(PortId, u32)> {
        let name = producer_port_name(producer);
        self.living(|publisher| {
            publisher.publisher_id.value() != port && publisher.publisher_name.as_str() == name
        })
    }
}

impl<W> Intake<W> {
    /// Opens the way in of `name`, creating it where it does not exist, after checking that it fits into `/dev/shm`.
    pub fn open(name: &BusName, config: &IngressConfig, terms: &IngressTerms) -> Result<Self, BusError> {
        config.check()?;
        config.check_memory(shared_memory_available()?)?;
        let Opened { presence, requests, replies, wake_node, wake_producers, node } =
            ports::create(name, config)?;
        let internal = |doing, cause: String| BusError::Internal { doing, cause };
        let publisher = replies
            .publisher_builder()
            // The oldest reply makes room; should there be none all the same, the next one says as much.
            .backpressure_strategy(BackpressureStrategy::DiscardData)
            // One segment of the computed size, made at start: nothing is allocated later.
            .allocation_strategy(AllocationStrategy::Static)
            .initial_max_slice_len(config.sessions_max())
            .max_loaned_samples(LOANED_SAMPLES)
            // One producer's broken connection is no reason to fail the others' reply; that one hears nothing and says so.
            .set_degradation_handler(|_: DegradationCause, _: &DegradationInfo| DegradationAction::Warn)
            .create()
            .map_err(|error| internal("creating the publisher of replies", format!("{error:?}")))?;
        match reserve_segment(name, &node, publisher.id()) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => config.check_memory(0)?,
            Err(error) => return Err(internal("reserving shared memory for replies", error.to_string())),
        }
        let listener = match wake_node {
            None => None,
            Some(wake) => Some(
                wake.listener_builder()
                    .create()
                    .map_err(|error| internal("creating the ingress listener", format!("{error:?}")))?,
            ),
        };
        let subscriber = requests
            .subscriber_builder()
            .buffer_size(ports::queue_samples(&requests))
            .history_request(HISTORY_SAMPLES)
            // A producer that cannot be reached is not heard, and finds its queue full or nobody there.
            .set_degradation_handler(|_: DegradationCause, _: &DegradationInfo| DegradationAction::Warn)
            .create()
            .map_err(|error| internal("creating the subscriber of requests", format!("{error:?}")))?;
        let notifier = match wake_producers {
            None => None,
            Some(wake) => Some(wake.notifier_builder().create().map_err(|error| {
                BusError::notifier(error, name.text(REPLIES), PRODUCER_SLOTS, config.participant_slots())
            })?),
        };
        let incarnation = incarnation();
        let group_max = GroupMax { events: terms.group_events_max, bytes: terms.group_bytes_max };
        Ok(Self {
            desk: Desk::new(name.tape(), incarnation, terms.epoch, config.producers_max, group_max),
            states: Vec::with_capacity(config.sessions_max()),
            replies: publisher,
            notifier,
            requests: subscriber,
            listener,
            processes: Processes { requests, name: name.clone() },
            view: NodeView {
                incarnation,
                state: NodeState::Open,
                watermarks: Watermarks::default(),
                terms: *terms,
            },
            name: name.clone(),
            sessions_max: config.sessions_max(),
            _node: node,
            _presence: presence,
        })
    }

    /// Takes in what has come, at most a turn's worth. Returns whether there was anything.
    pub fn receive<D: Door<Writer = W>>(&mut self, door: &mut D) -> Result<bool, BusError> {
        self.desk.go_on(door);
        let mut some = false;
        for _ in 0..REQUESTS_PER_TURN {
            if self.desk.blocked().is_some() {
                break;
            }
            let Some(sample) = self.requests.receive().map_err(BusError::Receive)? else { break };
            some = true;
            // A copy, so that what was checked is what is used; the events are copied before they are looked at.
            let header = *sample.user_header();
            let port = sample.origin().value();
            self.desk.receive(port, &header, sample.payload(), door, &self.processes);
        }
        Ok(some)
    }

    /// Whose group waits for room in the ring, and how many events it has.
    pub fn blocked(&self) -> Option<(&W, usize)> {
        self.desk.blocked()
    }

    /// Whether anybody publishes.
    pub fn has_sessions(&self) -> bool {
        self.desk.has_sessions()
    }

    /// Forgets producers whose processes are gone, which frees their ids.
    pub fn forget_gone(&mut self) {
        self.desk.forget_gone(&self.processes);
    }

    /// Tells producers how far the tape is, if there is news for any of them or `always`; with `always`, everybody hears
    /// where they stand. `end` is said from when the node takes no more events.
    pub fn reply(
        &mut self,
        watermarks: &Watermarks,
        end: Option<IngressEnd>,
        always: bool,
    ) -> Result<(), BusError> {
        self.view.state = match end {
            None => NodeState::Open,
            Some(IngressEnd::Closed) => NodeState::Closed,
            Some(IngressEnd::Poisoned) => NodeState::Poisoned,
            Some(IngressEnd::Fenced) => NodeState::Fenced,
        };
        self.desk.states(always, &mut self.states);
        // What is accepted interests those to whom it happened.
        let moved =
            Watermarks { accepted: self.view.watermarks.accepted, ..*watermarks } != self.view.watermarks;
        if !always && self.states.is_empty() && !(moved && self.desk.has_sessions()) {
            return Ok(());
        }
        self.view.watermarks = *watermarks;
        let states = &self.states[..self.states.len().min(self.sessions_max)];
        let header = self.view.header(self.name.tape(), always);
        let internal = |error: &dyn std::fmt::Debug| BusError::Internal {
            doing: "replying",
            cause: format!("{error:?}"),
        };
        let mut sample = self.replies.loan_slice_uninit(states.len()).map_err(|error| internal(&error))?;
        *sample.user_header_mut() = header;
        sample.write_from_slice(states).send().map_err(|error| internal(&error))?;
        if let Some(notifier) = &self.notifier {
            // The only errors left are about deadlines and event ids, and this service has neither.
            let _ = notifier.notify();
        }
        Ok(())
    }

    /// Returns when something has come, `bell` rings, or `until`; may return earlier. Looks for `spin` before it sleeps,
    /// and does not sleep at all where the service has no wake-ups.
    pub fn wait(&self, bell: &Doorbell, spin: Duration, until: Instant) -> Result<(), BusError> {
        let start = Instant::now();
        loop {
            let some = self
                .requests
                .has_samples()
                .map_err(|error| BusError::Receive(iceoryx2::port::ReceiveError::ConnectionFailure(error)))?;
            let now = Instant::now();
            if some || now >= until || self.listener.is_none() {
                return Ok(());
            }
            if now - start >= spin {
                break;
            }
            std::hint::spin_loop();
        }
        let Some(listener) = &self.listener else { return Ok(()) };
        let mut fds = [
            PollFd::from_borrowed_fd(service::socket(listener), PollFlags::IN),
            PollFd::from_borrowed_fd(bell.as_fd(), PollFlags::IN),
        ];
        let limit = until.saturating_duration_since(Instant::now());
        let limit = rustix::event::Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        let slept = poll(&mut fds, Some(&limit));
        bell.hush();
        let heard = listener.try_wait(|_| ());
        match (slept, heard) {
            (Ok(_) | Err(rustix::io::Errno::INTR), Ok(_)) => Ok(()),
            (slept, heard) => Err(BusError::Internal {
                doing: "waiting for producers",
                cause: format!("{slept:?}, {heard:?}"),
            }),
        }
    }

    /// What has come in so far.
    pub fn counters(&self) -> IngressCounters {
        self.desk.counters()
    }

    /// The service, for messages.
    pub fn service_text(&self) -> String {
        self.name.text(REQUESTS)
    }
}

#[cfg(test)]
mod tests {
    use iceoryx2::prelude::{AllocationStrategy, BackpressureStrategy};
    use matchtape_schemas::event::{Event, OrderCancelled};
    use matchtape_schemas::publish::{ProducerMark, Publish as _};
    use matchtape_schemas::{EventTime, InstrumentId, ProducerSequence, TapeId};

    use super::super::message::{INGRESS_FORMAT, RequestKind};
    use super::super::{ConnectError, RemoteOptions, RemotePublisher, Unpublished};
    use super::*;
    use crate::name::TestName;
    use crate::thread::on_own_thread;

    const TERMS: IngressTerms = IngressTerms {
        epoch: Epoch(1),
        skew_ns_max: 0,
        group_events_max: 8,
        group_bytes_max: 4096,
        safe_at: SafeAt::Durable,
    };

    /// A node that takes everything.
    #[derive(Default)]
    struct Taker {
        sequence: u64,
        /// What every producer's last event was before.
        last: Option<ProducerMark>,
        /// It takes nothing.
        ended: bool,
    }

    impl Door for Taker {
        type Writer = ();

        fn open(&mut self, _: ProducerId) -> Result<((), Option<ProducerMark>), u32> {
            Ok(((), self.last))
        }

        fn publish(&mut self, (): &mut (), group: &[u8], events: usize) -> Result<ProducerMark, Unpublished> {
            if self.ended {
                return Err(Unpublished::Ended);
            }
            self.sequence += events as u64;
            let at = group.len() / events * (events - 1) + 16;
            let number = u64::from_le_bytes(group[at..at + 8].try_into().expect("eight bytes"));
            Ok(ProducerMark {
                producer_sequence: ProducerSequence(number),
                sequence: matchtape_schemas::Sequence(self.sequence),
            })
        }
    }

    /// Of a node that stands still for a while.
    fn patient() -> RemoteOptions {
        let long = Duration::from_secs(60);
        RemoteOptions { connect_wait: long, silence_max: long, ..RemoteOptions::default() }
    }

    #[test]
    fn garbage_in_the_service_is_passed_over_and_others_publish_on() {
        let test = TestName::new("garbage", TapeId(3));
        let config = IngressConfig { producers_max: 2, ..IngressConfig::default() };
        let mut intake = Intake::open(&test.name, &config, &TERMS).expect("intake");
        let name = test.name.clone();
        let (done, finished) = std::sync::mpsc::channel();
        let honest = on_own_thread(
            "honest",
            None,
            || Ok(()),
            move |()| {
                let options = patient();
                let mut publisher =
                    RemotePublisher::connect(&name, ProducerId(1), options).expect("publisher");
                for number in 1..=200 {
                    let body = OrderCancelled::default();
                    let event = Event::new(InstrumentId(1), ProducerSequence(number), EventTime(0), body);
                    publisher.publish(&event).expect("publish");
                    publisher.wait(ProducerSequence(number), Stage::Accepted).expect("accepted");
                }
                done.send(()).expect("the test listens");
            },
        )
        .expect("thread");

        let liar = ports::open(&test.name).expect("open");
        let port = liar
            .requests
            .publisher_builder()
            .backpressure_strategy(BackpressureStrategy::DiscardData)
            .allocation_strategy(AllocationStrategy::Static)
            .initial_max_slice_len(64)
            .create()
            .expect("port");
        let mut door = Taker::default();
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut word = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut round = 0;
        while finished.try_recv().is_err() {
            round += 1;
            let blocks = (word() % 8) as usize;
            let mut sample = port.loan_slice_uninit(blocks).expect("loan");
            // From plain nonsense to a greeting of somebody else's producer with nonsense after it.
            let honest_looking = RequestHeader {
                format_version: INGRESS_FORMAT,
                kind: if round % 3 == 0 { RequestKind::Hello } else { RequestKind::Events }.number(),
                tape: 3,
                incarnation: intake.view.incarnation,
                epoch: 1,
                producer: 1 + (word() % 2) as u32,
                attempt: (word() % 4) as u32,
                index: word() % 3,
                length: if round % 3 == 0 { 0 } else { word() % 140 },
            };
            *sample.user_header_mut() = match round % 4 {
                0 => RequestHeader {
                    format_version: word() as u32,
                    kind: word() as u32,
                    tape: word(),
                    incarnation: word(),
                    length: word(),
                    ..honest_looking
                },
                1 => RequestHeader { length: u64::MAX, ..honest_looking },
                _ => honest_looking,
            };
            for block in sample.payload_mut() {
                let mut written = [Block::ZERO];
                let bytes = crate::block::bytes_of_mut(&mut written);
                bytes[..8].copy_from_slice(&word().to_le_bytes());
                bytes[8..].copy_from_slice(&word().to_le_bytes());
                block.write(written[0]);
            }
            // SAFETY: every block was written.
            unsafe { sample.assume_init() }.send().expect("send");
            intake.receive(&mut door).expect("receive");
            let sequence = matchtape_schemas::Sequence(door.sequence);
            let watermarks = Watermarks { accepted: sequence, durable: sequence, ..Watermarks::default() };
            intake.reply(&watermarks, None, round % 16 == 0).expect("reply");
        }
        honest.join().expect("honest");
        assert_eq!(door.sequence, 200, "nothing of the garbage came through");
        assert!(intake.counters().ignored > 0);
    }

    #[test]
    fn a_producer_goes_on_only_from_an_event_that_is_safe() {
        let test = TestName::new("safe", TapeId(3));
        let mut intake = Intake::open(&test.name, &IngressConfig::default(), &TERMS).expect("intake");
        let sequence = matchtape_schemas::Sequence(20);
        let last = ProducerMark { producer_sequence: ProducerSequence(7), sequence };
        let mut door = Taker { last: Some(last), ..Taker::default() };
        // Accepted by this node from a process that is gone; durable from when the first connection was given up.
        let accepted = Watermarks { accepted: sequence, ..Watermarks::default() };
        let mut attempts = vec![
            (Duration::from_secs(60), Watermarks { durable: sequence, ..accepted }),
            (Duration::from_millis(200), accepted),
        ];
        while let Some((connect_wait, watermarks)) = attempts.pop() {
            let name = test.name.clone();
            let (done, finished) = std::sync::mpsc::channel();
            let producer = on_own_thread(
                "producer",
                None,
                || Ok(()),
                move |()| {
                    let options = RemoteOptions { connect_wait, ..RemoteOptions::default() };
                    let connected = RemotePublisher::connect(&name, ProducerId(1), options);
                    done.send(connected.map(|publisher| publisher.last())).expect("the test listens");
                },
            )
            .expect("thread");
            let connected = loop {
                intake.receive(&mut door).expect("receive");
                intake.reply(&watermarks, None, true).expect("reply");
                if let Ok(connected) = finished.recv_timeout(Duration::from_millis(5)) {
                    break connected;
                }
            };
            producer.join().expect("producer");
            match connected {
                Ok(found) => assert_eq!((found, watermarks.durable), (Some(ProducerSequence(7)), sequence)),
                Err(ConnectError::NotSafe { last, stage: Stage::Durable, .. }) => {
                    assert_eq!((last, watermarks), (ProducerSequence(7), accepted));
                }
                // This thread stood still for as long.
                Err(ConnectError::NoAnswer { .. }) => attempts.push((2 * connect_wait, watermarks)),
                Err(other) => panic!("{other}"),
            }
            intake.forget_gone();
        }
    }

    #[test]
    fn what_comes_after_the_end_is_taken_out_of_the_queues_so_that_the_thread_can_sleep() {
        let test = TestName::new("late", TapeId(3));
        let mut intake = Intake::open(&test.name, &IngressConfig::default(), &TERMS).expect("intake");
        let mut door = Taker { ended: true, ..Taker::default() };
        let name = test.name.clone();
        let (done, finished) = std::sync::mpsc::channel();
        let (leave, stay) = std::sync::mpsc::channel::<()>();
        let producer = on_own_thread(
            "producer",
            None,
            || Ok(()),
            move |()| {
                let options = patient();
                let mut publisher =
                    RemotePublisher::connect(&name, ProducerId(1), options).expect("publisher");
                for number in 1..=3 {
                    let body = OrderCancelled::default();
                    let event = Event::new(InstrumentId(1), ProducerSequence(number), EventTime(0), body);
                    publisher.publish(&event).expect("publish");
                }
                done.send(()).expect("the test listens");
                // Its queue lives as long as it does.
                let _ = stay.recv();
            },
        )
        .expect("thread");
        while finished.try_recv().is_err() {
            intake.receive(&mut door).expect("receive");
            intake.reply(&Watermarks::default(), None, true).expect("reply");
        }
        intake.receive(&mut door).expect("receive");
        assert!(!intake.requests.has_samples().expect("look"));
        assert!(intake.counters().groups == 0 && intake.counters().ignored > 0, "{:?}", intake.counters());
        drop(leave);
        producer.join().expect("producer");
    }
}
