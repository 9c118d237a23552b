//! The producer's half of the way in: what was taken and is not yet safe, and what to send next. Does no I/O and has no
//! clock: `now` is the time since some start.
//!
//! ```text
//!   window   | released | accepted ... | sent ... | to be sent ... |
//!                       ^ marks: (producer sequence, position), until their positions are durable
//! ```
//!
//! An event stays in the window until it is durable. A node that was restarted says how much of it survived; the rest is
//! sent again, so nothing taken is lost as long as this process lives. What arrives twice is dropped by its number.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::time::Duration;

use matchtape_schemas::publish::ProducerMark;
use matchtape_schemas::{ProducerId, ProducerSequence, Sequence, Stage, TapeId, Watermarks};

use super::message::{
    INGRESS_FORMAT, NodeState, NodeView, PortId, ReplyHeader, RequestHeader, RequestKind, Session,
    SessionState, Status,
};
use crate::block::Block;

/// How long a greeting may remain without an answer before it is repeated.
const GREETING_WAIT: Duration = Duration::from_millis(50);

/// How long a queue that was full is left alone unless the node says something, which it does when it takes something out.
const QUEUE_WAIT: Duration = Duration::from_millis(1);

/// What a window may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowLimits {
    pub events_max: usize,
    pub blocks_max: usize,
    /// Blocks of one sample.
    pub sample_blocks_max: usize,
}

/// One event of the window.
#[derive(Clone, Copy, Debug)]
struct Entry {
    producer_sequence: ProducerSequence,
    blocks: u32,
}

/// How this producer stands with the node it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// There is no node, or it takes nothing.
    Down,
    /// It was asked, or is about to be, where the producer ended.
    Greeting { again_at: Duration },
    /// It takes events.
    Up,
}

/// Why this handle will never send again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Another process is the producer.
    InUse { process: u32 },
    /// The node refused what was sent.
    Refused { reason: String },
    /// The tape lacks what was reported durable.
    TapeWentBack { acknowledged: ProducerMark, found: Option<ProducerMark> },
    /// The tape has events of this producer that this handle did not publish.
    Superseded { found: ProducerMark },
}

/// What to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub header: RequestHeader,
    pub blocks: usize,
    entries: usize,
}

/// Whether an event has reached a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// It is at this position or before it.
    Yes(Sequence),
    NotYet,
    /// Nobody took an event of this number.
    Never,
}

pub(crate) struct Outbox {
    tape: TapeId,
    producer: ProducerId,
    port: PortId,
    limits: WindowLimits,
    /// When an event leaves the window; none: when the node takes it for safe.
    keep_until: Option<Stage>,
    blocks: VecDeque<Block>,
    entries: VecDeque<Entry>,
    /// The first entries of the window, and their blocks, that need not be sent in this attempt (any more).
    sent: usize,
    sent_blocks: usize,
    /// The last event taken, in this process or before it. `None` inside: there is none; outside: not known yet, or not
    /// yet safe.
    taken: Option<Option<ProducerSequence>>,
    /// Where the producer had ended when this process became it: safe.
    base: Option<ProducerSequence>,
    node: Option<NodeView>,
    heard_at: Duration,
    link: Link,
    attempt: u32,
    index: u64,
    /// What the node had received when it last listed everybody: no progress until the next time is a lost tail.
    stalled: Option<(u32, u64)>,
    /// The queue was full: not before then, or a word of the node, is it tried again.
    full_until: Option<Duration>,
    /// Accepted by this node, not yet released. Rising.
    marks: VecDeque<ProducerMark>,
    released: Option<ProducerMark>,
    ended: Option<Ended>,
}

impl Outbox {
    pub(crate) fn new(
        tape: TapeId,
        producer: ProducerId,
        port: PortId,
        limits: WindowLimits,
        keep_until: Option<Stage>,
    ) -> Self {
        Self {
            tape,
            producer,
            port,
            limits,
            keep_until,
            blocks: VecDeque::with_capacity(limits.blocks_max),
            entries: VecDeque::with_capacity(limits.events_max),
            sent: 0,
            sent_blocks: 0,
            taken: None,
            base: None,
            node: None,
            heard_at: Duration::ZERO,
            link: Link::Down,
            attempt: 0,
            index: 0,
            stalled: None,
            full_until: None,
            marks: VecDeque::new(),
            released: None,
            ended: None,
        }
    }

    /// The node as it last described itself.
    pub(crate) fn node(&self) -> Option<&NodeView> {
        self.node.as_ref()
    }

    /// How long nothing was heard.
    pub(crate) fn silent_for(&self, now: Duration) -> Duration {
        now.saturating_sub(self.heard_at)
    }

    pub(crate) fn ended(&self) -> Option<&Ended> {
        self.ended.as_ref()
    }

    /// The last event taken, once the node has said where the producer ended and that is safe.
    pub(crate) fn taken(&self) -> Option<Option<ProducerSequence>> {
        self.taken
    }

    /// The producer's last event known to be accepted.
    pub(crate) fn mark(&self) -> Option<ProducerMark> {
        self.marks.back().copied().or(self.released)
    }

    /// From which stage on events are safe, as far as it is known.
    pub(crate) fn safe_at(&self) -> Option<Stage> {
        self.keep_until.or_else(|| Some(self.node?.terms.safe_at.stage()))
    }

    pub(crate) fn limits(&self) -> WindowLimits {
        self.limits
    }

    /// Events that are not yet safe.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether this much can be taken now.
    pub(crate) fn has_room(&self, events: usize, blocks: usize) -> bool {
        self.entries.len() + events <= self.limits.events_max
            && self.blocks.len() + blocks <= self.limits.blocks_max
    }

    /// Takes an encoded event for which there is room. Its number is beyond [`Self::taken`].
    pub(crate) fn take(&mut self, producer_sequence: ProducerSequence, event: &[Block]) {
        debug_assert!(self.taken.is_some_and(|taken| taken < Some(producer_sequence)));
        self.blocks.extend(event);
        self.entries.push_back(Entry { producer_sequence, blocks: event.len() as u32 });
        self.taken = Some(Some(producer_sequence));
    }

    /// The next thing to send, if there is one.
    pub(crate) fn next(&self, now: Duration) -> Option<Request> {
        let node = self.node.filter(|_| self.ended.is_none())?;
        let header = RequestHeader {
            format_version: INGRESS_FORMAT,
            tape: self.tape.get(),
            incarnation: node.incarnation,
            epoch: node.terms.epoch.get(),
            producer: self.producer.get(),
            attempt: self.attempt,
            ..RequestHeader::default()
        };
        match self.link {
            Link::Down => None,
            Link::Greeting { again_at } if now < again_at => None,
            Link::Greeting { .. } => {
                let kind = if self.taken.is_some() { RequestKind::Resume } else { RequestKind::Hello };
                let header = RequestHeader { kind: kind.number(), ..header };
                Some(Request { header, blocks: 0, entries: 0 })
            }
            // A sample is copied to where only sending it shows that there is no room for it.
            Link::Up if self.full_until.is_some_and(|until| now < until) => None,
            Link::Up => {
                let (mut entries, mut blocks) = (0, 0);
                for entry in self.entries.range(self.sent..) {
                    if blocks + entry.blocks as usize > self.limits.sample_blocks_max {
                        break;
                    }
                    blocks += entry.blocks as usize;
                    entries += 1;
                }
                let header = RequestHeader {
                    kind: RequestKind::Events.number(),
                    index: self.index,
                    length: size_of::<Block>() as u64 * blocks as u64,
                    ..header
                };
                (entries > 0).then_some(Request { header, blocks, entries })
            }
        }
    }

    /// Copies the events of a request, as [`Self::next`] has just returned it, over `out` of its length.
    pub(crate) fn copy(&self, request: &Request, out: &mut [MaybeUninit<Block>]) {
        assert_eq!(out.len(), request.blocks);
        let (front, back) = self.blocks.as_slices();
        let in_front = front.get(self.sent_blocks..).unwrap_or_default();
        let in_front = &in_front[..in_front.len().min(out.len())];
        let skipped = self.sent_blocks.saturating_sub(front.len());
        let in_back = &back[skipped..][..out.len() - in_front.len()];
        for (out, block) in out.iter_mut().zip(in_front.iter().chain(in_back)) {
            out.write(*block);
        }
    }

    /// The request went out.
    pub(crate) fn sent(&mut self, request: &Request, now: Duration) {
        match self.link {
            Link::Greeting { .. } => self.link = Link::Greeting { again_at: now + GREETING_WAIT },
            Link::Up => {
                self.sent += request.entries;
                self.sent_blocks += request.blocks;
                self.index += 1;
            }
            Link::Down => unreachable!("nothing is sent without a node"),
        }
    }

    /// The request did not go out: nobody received it, or the queue is full.
    pub(crate) fn not_sent(&mut self, now: Duration) {
        match &mut self.link {
            Link::Greeting { again_at } => *again_at = now + GREETING_WAIT,
            Link::Up => self.full_until = Some(now + QUEUE_WAIT),
            Link::Down => unreachable!("nothing is sent without a node"),
        }
    }

    /// Takes in a reply. Lost ones do no harm: each says everything about whom it lists.
    pub(crate) fn reply(&mut self, header: &ReplyHeader, sessions: &[SessionState], now: Duration) {
        let Some(view) = NodeView::read(header, self.tape) else { return };
        match &mut self.node {
            // Left behind by a node that was replaced, or from one that wakes after it was.
            Some(known) if view.incarnation < known.incarnation || view.terms.epoch < known.terms.epoch => {
                return;
            }
            Some(known) if view.incarnation == known.incarnation => {
                let watermarks = later(known.watermarks, view.watermarks);
                *known = NodeView { watermarks, ..view };
            }
            Some(_) | None => {
                // What the old node had accepted and not made safe is accepted no more.
                self.node = Some(view);
                self.marks.clear();
                self.link = Link::Down;
            }
        }
        self.heard_at = now;
        self.full_until = None;
        if view.state == NodeState::Open && self.link == Link::Down {
            self.greet(now);
        } else if view.state != NodeState::Open {
            self.link = Link::Down;
        }
        let own = sessions
            .iter()
            .filter_map(Session::read)
            .find(|session| session.port == self.port && session.producer == self.producer);
        match own {
            Some(session) => self.session(&session, header.full != 0, now),
            // The node has taken this process for dead.
            None if header.full != 0 && self.link == Link::Up => self.greet(now),
            None => {}
        }
        self.release();
        // Not before the last event is safe: it is another process's, so that a node which loses it could not be sent it
        // again, and what this one sends would follow a hole.
        if self.taken.is_none() && self.link == Link::Up && self.marks.is_empty() {
            let last = self.released.map(|mark| mark.producer_sequence);
            (self.taken, self.base) = (Some(last), last);
        }
    }

    fn session(&mut self, session: &Session, full: bool, now: Duration) {
        match session.status {
            Status::InUse { process } => {
                self.ended.get_or_insert(Ended::InUse { process });
                return;
            }
            Status::Refused(reason) => {
                self.ended.get_or_insert(Ended::Refused { reason: reason.as_str().into_owned() });
                return;
            }
            Status::Open | Status::Resend => {}
        }
        let found = session.mark.map(|mark| mark.producer_sequence);
        if let Some(acknowledged) = self.released
            && found < Some(acknowledged.producer_sequence)
        {
            self.ended.get_or_insert(Ended::TapeWentBack { acknowledged, found: session.mark });
            return;
        }
        if let Some(mark) = session.mark
            && self.taken.is_some()
            && !self.is_own(mark.producer_sequence)
        {
            self.ended.get_or_insert(Ended::Superseded { found: mark });
            return;
        }
        if let Some(mark) = session.mark
            && self
                .marks
                .back()
                .or(self.released.as_ref())
                .is_none_or(|last| mark.producer_sequence > last.producer_sequence)
        {
            self.marks.push_back(mark);
        }
        let current = session.attempt == self.attempt;
        match (self.link, session.status) {
            (Link::Greeting { .. }, Status::Open) if current => {
                self.link = Link::Up;
                self.rewind();
            }
            (Link::Up, Status::Resend) if current => {
                self.attempt += 1;
                self.rewind();
            }
            // The last samples of an attempt have none after them by which they would be missed.
            (Link::Up, _) if full => {
                let arrived = (self.attempt, if current { session.received } else { 0 });
                if self.index > arrived.1 && self.stalled == Some(arrived) {
                    self.greet(now);
                }
                self.stalled = Some(arrived);
            }
            _ => {}
        }
    }

    /// Whether the tape's last event of the producer can be this process's, or from before it.
    fn is_own(&self, number: ProducerSequence) -> bool {
        Some(number) <= self.base
            || self.released.is_some_and(|mark| mark.producer_sequence == number)
            || self.entries.binary_search_by_key(&number, |entry| entry.producer_sequence).is_ok()
    }

    /// Asks where the producer ended, to go on from there.
    fn greet(&mut self, now: Duration) {
        self.attempt += 1;
        self.link = Link::Greeting { again_at: now };
    }

    /// Begins to send after the last accepted event.
    fn rewind(&mut self) {
        let mark = self.mark().map(|mark| mark.producer_sequence);
        self.index = 0;
        self.stalled = None;
        self.sent = self.entries.partition_point(|entry| Some(entry.producer_sequence) <= mark);
        self.sent_blocks = self.entries.range(..self.sent).map(|entry| entry.blocks as usize).sum();
    }

    /// Lets go of what is safe.
    fn release(&mut self) {
        let (Some(node), Some(safe_at)) = (&self.node, self.safe_at()) else { return };
        let safe = node.watermarks.get(safe_at);
        while let Some(mark) = self.marks.front().filter(|mark| mark.sequence <= safe).copied() {
            self.marks.pop_front();
            self.released = Some(mark);
            let entries =
                self.entries.partition_point(|entry| entry.producer_sequence <= mark.producer_sequence);
            let blocks: usize = self.entries.drain(..entries).map(|entry| entry.blocks as usize).sum();
            self.blocks.drain(..blocks);
            self.sent = self.sent.saturating_sub(entries);
            self.sent_blocks = self.sent_blocks.saturating_sub(blocks);
        }
    }

    /// Whether the producer's event of this number has reached `stage`.
    pub(crate) fn reached(&self, producer_sequence: ProducerSequence, stage: Stage) -> Reached {
        if self.taken.flatten() < Some(producer_sequence) {
            return Reached::Never;
        }
        let (Some(node), Some(mark)) = (
            &self.node,
            self.released.iter().chain(&self.marks).find(|mark| mark.producer_sequence >= producer_sequence),
        ) else {
            return Reached::NotYet;
        };
        if stage == Stage::Accepted || node.watermarks.get(stage) >= mark.sequence {
            Reached::Yes(mark.sequence)
        } else {
            Reached::NotYet
        }
    }
}

/// The higher of each: watermarks of one node only rise.
fn later(a: Watermarks, b: Watermarks) -> Watermarks {
    Watermarks {
        accepted: a.accepted.max(b.accepted),
        written: a.written.max(b.written),
        durable: a.durable.max(b.durable),
        replicated: a.replicated.max(b.replicated),
        visible: a.visible.max(b.visible),
    }
}
