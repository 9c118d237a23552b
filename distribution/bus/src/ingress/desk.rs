//! The node's half of the way in: who publishes as which producer, what of theirs has arrived, and what goes to the ring
//! next. Does no I/O and has no clock; what it needs of the node it asks a [`Door`].
//!
//! ```text
//!   sample --checked--> session's buffer --whole groups--> Door (deduplicated, sequenced)
//!                                             | ring full: waits here, and nothing more is received
//! ```
//!
//! A sample that cannot be on the tape ends its sender's session and nobody else's.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use matchtape_schemas::event::{EventFlags, check_event};
use matchtape_schemas::publish::ProducerMark;
use matchtape_schemas::{Epoch, KindMask, ProducerId, TapeId};

use super::message::{PortId, RequestHeader, RequestKind, Session, SessionState, Status, reason};
use crate::block::{BLOCK_BYTES, Block, bytes_of};

/// What a node does for producers outside.
pub trait Door {
    /// One producer's handle; dropping it frees the producer.
    type Writer;

    /// The handle of a producer, with its last event on the tape. The error says which process has it.
    fn open(&mut self, producer: ProducerId) -> Result<(Self::Writer, Option<ProducerMark>), u32>;

    /// Puts one group on the tape, all or nothing: `group` is `events` whole valid events of the writer's producer, at a
    /// multiple of 16, the last of them flagged as such. Never waits.
    fn publish(
        &mut self,
        writer: &mut Self::Writer,
        group: &[u8],
        events: usize,
    ) -> Result<ProducerMark, Unpublished>;
}

/// The ports of the producers' processes, as they are at the moment.
pub(crate) trait Ports {
    /// The process behind a port, if it lives.
    fn process(&self, port: PortId) -> Option<u32>;

    /// The other living ports that are, or want to be, this producer, and their processes.
    fn others(&self, producer: ProducerId, port: PortId) -> Vec<(PortId, u32)>;
}

/// Why a group is not on the tape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unpublished {
    /// There is no room at the moment.
    WouldBlock,
    /// It cannot be on this tape.
    Refused(String),
    /// The node takes no more events.
    Ended,
}

/// What a group may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupMax {
    pub events: usize,
    pub bytes: usize,
}

/// Whole events in a session's buffer that belong together.
#[derive(Clone, Copy, Debug)]
struct Group {
    bytes: usize,
    events: usize,
}

struct Holding<W> {
    session: Session,
    /// Only while the status is open.
    writer: Option<W>,
    /// Received and not yet on the tape: `groups`, then the beginning of one whose end has not come.
    buffer: Vec<Block>,
    /// Where in `buffer` the first of `groups` begins, in blocks.
    start: usize,
    groups: VecDeque<Group>,
    unfinished: Group,
    changed: bool,
}

/// Counts for operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IngressCounters {
    /// Samples taken in.
    pub samples: u64,
    /// Groups put on the tape.
    pub groups: u64,
    /// Samples that were not requests, not for this node, of nobody it knows, or too late for it.
    pub ignored: u64,
    /// Attempts that had to be begun again because a sample was missing.
    pub resends: u64,
    /// Sessions ended for what they sent.
    pub refused: u64,
}

/// Every producer outside, as this node knows it.
pub(crate) struct Desk<W> {
    tape: TapeId,
    incarnation: u64,
    epoch: Epoch,
    producers_max: usize,
    group_max: GroupMax,
    holdings: BTreeMap<PortId, Holding<W>>,
    /// Whose group found the ring full.
    blocked: Option<PortId>,
    /// The door has said that the node takes no more events.
    ended: bool,
    counters: IngressCounters,
}

impl<W> Desk<W> {
    pub(crate) fn new(
        tape: TapeId,
        incarnation: u64,
        epoch: Epoch,
        producers_max: usize,
        group_max: GroupMax,
    ) -> Self {
        Self {
            tape,
            incarnation,
            epoch,
            producers_max,
            group_max,
            holdings: BTreeMap::new(),
            blocked: None,
            ended: false,
            counters: IngressCounters::default(),
        }
    }

    pub(crate) fn counters(&self) -> IngressCounters {
        self.counters
    }

    /// Whether anybody publishes.
    pub(crate) fn has_sessions(&self) -> bool {
        !self.holdings.is_empty()
    }

    /// The events of the group that waits for room, and its writer.
    pub(crate) fn blocked(&self) -> Option<(&W, usize)> {
        let holding = self.holdings.get(&self.blocked?)?;
        Some((holding.writer.as_ref()?, holding.groups.front()?.events))
    }

    /// Takes in one sample, and puts on the tape what is whole and finds room. Nothing more may be received while
    /// something is [`Self::blocked`].
    pub(crate) fn receive<D: Door<Writer = W>>(
        &mut self,
        port: PortId,
        header: &RequestHeader,
        payload: &[Block],
        door: &mut D,
        ports: &impl Ports,
    ) {
        assert!(self.blocked.is_none(), "a blocked desk takes nothing in");
        if self.ended {
            // Taken out of its queue all the same, where it would keep the thread awake. Its sender keeps it.
            self.counters.ignored += 1;
            return;
        }
        let kind = header.check(self.tape, size_of_val(payload));
        let meant = header.incarnation == self.incarnation && header.epoch == self.epoch.get();
        match kind {
            Some(RequestKind::Hello) if meant => self.hello(port, header, false, door, ports),
            Some(RequestKind::Resume) if meant => self.hello(port, header, true, door, ports),
            Some(RequestKind::Events) if meant => self.events(port, header, payload, door),
            _ => self.counters.ignored += 1,
        }
    }

    fn hello<D: Door<Writer = W>>(
        &mut self,
        port: PortId,
        header: &RequestHeader,
        resumes: bool,
        door: &mut D,
        ports: &impl Ports,
    ) {
        let producer = ProducerId(header.producer);
        if let Some(holding) = self.holdings.get_mut(&port) {
            // The same greeting again: its answer was lost.
            holding.changed = true;
            if holding.session.producer == producer && header.attempt > holding.session.attempt {
                holding.begin(header.attempt);
                return;
            }
            if holding.session.producer == producer {
                return;
            }
        }
        // One port is one producer.
        self.holdings.remove(&port);
        let same = |(_, holding): &(&PortId, &Holding<W>)| {
            holding.writer.is_some() && holding.session.producer == producer
        };
        let holder = self.holdings.iter().find(same).map(|(port, _)| *port);
        let (mut writer, mut mark) = (None, None);
        let turned_away = |other: &PortId| self.holdings.get(other).is_some_and(|it| it.writer.is_none());
        // After a restart of the node one that was the producer may not have come back yet: it is waited for.
        let waited_for = || {
            let others = ports.others(producer, port).into_iter();
            others.filter(|(other, _)| !resumes && !turned_away(other)).map(|(_, process)| process).next()
        };
        let in_use = holder.and_then(|holder| ports.process(holder)).or_else(waited_for);
        let status = match in_use {
            Some(process) => Status::InUse { process },
            None => {
                if let Some(dead) = holder {
                    self.holdings.remove(&dead);
                }
                let writers = |holdings: &BTreeMap<PortId, Holding<W>>| {
                    holdings.values().filter(|holding| holding.writer.is_some()).count()
                };
                if writers(&self.holdings) >= self.producers_max {
                    self.holdings.retain(|port, _| ports.process(*port).is_some());
                }
                if writers(&self.holdings) >= self.producers_max {
                    Status::Refused(reason("as many producers publish as the node allows (producers_max)"))
                } else {
                    match door.open(producer) {
                        Ok((opened, last)) => {
                            (writer, mark) = (Some(opened), last);
                            Status::Open
                        }
                        Err(process) => Status::InUse { process },
                    }
                }
            }
        };
        if self.holdings.len() > 2 * self.producers_max {
            // Those turned away are told so for as long as their ports live; more than this are not told.
            self.counters.ignored += 1;
            return;
        }
        let session = Session { port, producer, attempt: header.attempt, received: 0, status, mark };
        let holding = Holding {
            session,
            writer,
            buffer: Vec::new(),
            start: 0,
            groups: VecDeque::new(),
            unfinished: Group { bytes: 0, events: 0 },
            changed: true,
        };
        self.holdings.insert(port, holding);
    }

    fn events<D: Door<Writer = W>>(
        &mut self,
        port: PortId,
        header: &RequestHeader,
        payload: &[Block],
        door: &mut D,
    ) {
        let Some(holding) = self.holdings.get_mut(&port).filter(|holding| {
            holding.writer.is_some()
                && holding.session.producer.get() == header.producer
                && header.attempt >= holding.session.attempt
        }) else {
            self.counters.ignored += 1;
            return;
        };
        if header.attempt > holding.session.attempt {
            holding.begin(header.attempt);
        }
        if holding.session.status == Status::Resend {
            self.counters.ignored += 1;
            return;
        }
        if header.index != holding.session.received {
            self.counters.resends += 1;
            holding.session.status = Status::Resend;
            holding.changed = true;
            return;
        }
        holding.session.received += 1;
        self.counters.samples += 1;
        if let Err(why) = holding.take_in(payload, header.length as usize, self.group_max) {
            holding.refuse(&why);
            self.counters.refused += 1;
            return;
        }
        self.push(port, door);
    }

    /// Tries again what found the ring full.
    pub(crate) fn go_on<D: Door<Writer = W>>(&mut self, door: &mut D) {
        if let Some(port) = self.blocked.take() {
            self.push(port, door);
        }
    }

    fn push<D: Door<Writer = W>>(&mut self, port: PortId, door: &mut D) {
        let Some(holding) = self.holdings.get_mut(&port) else { return };
        let Some(writer) = &mut holding.writer else { return };
        while let Some(group) = holding.groups.front().copied() {
            let bytes = bytes_of(&holding.buffer[holding.start..], group.bytes)
                .expect("the buffer holds the groups it is said to");
            match door.publish(writer, bytes, group.events) {
                Ok(mark) => {
                    holding.groups.pop_front();
                    holding.start += group.bytes / BLOCK_BYTES;
                    holding.session.mark = Some(mark);
                    holding.changed = true;
                    self.counters.groups += 1;
                }
                Err(Unpublished::WouldBlock) => {
                    self.blocked = Some(port);
                    return;
                }
                Err(Unpublished::Refused(why)) => {
                    holding.refuse(&why);
                    self.counters.refused += 1;
                    return;
                }
                Err(Unpublished::Ended) => {
                    self.ended = true;
                    return;
                }
            }
        }
        holding.buffer.drain(..holding.start);
        holding.start = 0;
    }

    /// Forgets those whose ports are gone, which frees their producers.
    pub(crate) fn forget_gone(&mut self, ports: &impl Ports) {
        let blocked = self.blocked;
        self.holdings.retain(|port, _| Some(*port) == blocked || ports.process(*port).is_some());
    }

    /// Everybody's standing, or that of those for whom it changed since it was last asked for.
    pub(crate) fn states(&mut self, all: bool, out: &mut Vec<SessionState>) {
        out.clear();
        for holding in self.holdings.values_mut() {
            if std::mem::take(&mut holding.changed) || all {
                out.push(holding.session.state());
            }
        }
    }
}

impl<W> Holding<W> {
    /// Another attempt: what of a group had come without its end comes again.
    fn begin(&mut self, attempt: u32) {
        self.session.attempt = attempt;
        self.session.received = 0;
        if self.writer.is_some() {
            self.session.status = Status::Open;
        }
        self.buffer.clear();
        self.start = 0;
        self.groups.clear();
        self.unfinished = Group { bytes: 0, events: 0 };
        self.changed = true;
    }

    fn refuse(&mut self, why: &str) {
        self.session.status = Status::Refused(reason(why));
        self.writer = None;
        self.buffer = Vec::new();
        self.start = 0;
        self.groups.clear();
        self.changed = true;
    }

    /// Checks the events of a sample and adds them to the buffer.
    fn take_in(&mut self, payload: &[Block], length: usize, group_max: GroupMax) -> Result<(), String> {
        if !length.is_multiple_of(BLOCK_BYTES) || length > size_of_val(payload) {
            return Err(format!("a sample of {length} bytes is not whole events"));
        }
        // Copied first: its sender could still be writing to where it came from.
        let from = self.buffer.len();
        self.buffer.extend_from_slice(&payload[..length / BLOCK_BYTES]);
        let bytes = bytes_of(&self.buffer[from..], length).expect("as many were copied");
        let mut at = 0;
        while at < length {
            let wrong = |what: String| format!("byte {at} of a sample: {what}");
            let header = check_event(&bytes[at..]).map_err(|error| wrong(error.to_string()))?;
            if header.producer != self.session.producer {
                return Err(wrong(format!("an event of producer {}", header.producer)));
            }
            if KindMask::CONTROL.contains(header.kind) {
                return Err(wrong(format!("{} is the sequencer's to say", header.kind)));
            }
            self.unfinished.bytes += header.length as usize;
            self.unfinished.events += 1;
            let GroupMax { events: events_max, bytes: bytes_max } = group_max;
            if self.unfinished.events > events_max {
                return Err(wrong(format!("a group has 1 to {events_max} events, this one more")));
            }
            if self.unfinished.bytes > bytes_max {
                return Err(wrong(format!("a group has at most {bytes_max} bytes, this one more")));
            }
            if header.flags.contains(EventFlags::LAST_OF_GROUP) {
                let group = std::mem::replace(&mut self.unfinished, Group { bytes: 0, events: 0 });
                self.groups.push_back(group);
            }
            at += header.length as usize;
        }
        Ok(())
    }
}
