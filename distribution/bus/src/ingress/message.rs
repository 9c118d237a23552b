//! The two messages of the way in: a producer's sample of events, and the node's word on how far it has come.
//!
//! Both lie in memory that another process writes. A request is copied before it is looked at (its sender could still be
//! writing), and nothing in either is believed before it was checked.

use iceoryx2::prelude::ZeroCopySend;
use matchtape_schemas::publish::ProducerMark;
use matchtape_schemas::text::Text;
use matchtape_schemas::{Epoch, ProducerId, ProducerSequence, Sequence, TapeId, Watermarks};

use super::intake::{IngressTerms, SafeAt};

/// The layouts below. Another version is another service: it is also an attribute, compared on opening.
pub(crate) const INGRESS_FORMAT: u32 = 2;

const KIND_HELLO: u32 = 1;
const KIND_EVENTS: u32 = 2;
const KIND_RESUME: u32 = 3;

/// A port of iceoryx2, as its id's two halves: who sent a request, and whom a session is for.
pub(crate) type PortId = u128;

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// "I am this producer; where did I end?" Begins an attempt, carries nothing.
    Hello,
    /// The same, of one that was this producer before the node was there: it comes before those that want to become it.
    Resume,
    /// Whole events, continuing the attempt.
    Events,
}

/// What precedes the events of a request.
///
/// A producer sends its events in attempts: each begins after the producer's last event on the tape, and its samples are
/// numbered, so that a lost one shows. Then the node asks for another attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ZeroCopySend)]
#[type_name("matchtape::ingress::RequestHeader")]
#[repr(C)]
pub(crate) struct RequestHeader {
    pub format_version: u32,
    pub kind: u32,
    pub tape: u64,
    /// The node it is meant for: any other ignores it.
    pub incarnation: u64,
    pub epoch: u64,
    pub producer: u32,
    pub attempt: u32,
    /// The sample's number within the attempt, from 0.
    pub index: u64,
    /// Bytes of the payload that are events; the rest of the last block is zero.
    pub length: u64,
}

const _: () = assert!(size_of::<RequestHeader>() == 56, "no padding, and the format version changes with it");

impl RequestKind {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Hello => KIND_HELLO,
            Self::Resume => KIND_RESUME,
            Self::Events => KIND_EVENTS,
        }
    }
}

impl RequestHeader {
    /// What this is, if it is a request for `tape` in a form this code knows, with `payload_bytes` of payload.
    pub(crate) fn check(&self, tape: TapeId, payload_bytes: usize) -> Option<RequestKind> {
        if self.format_version != INGRESS_FORMAT || self.tape != tape.get() {
            return None;
        }
        match self.kind {
            KIND_HELLO if self.length == 0 => Some(RequestKind::Hello),
            KIND_RESUME if self.length == 0 => Some(RequestKind::Resume),
            KIND_EVENTS if self.length > 0 && self.length <= payload_bytes as u64 => {
                Some(RequestKind::Events)
            }
            _ => None,
        }
    }
}

/// What a node says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeState {
    /// It takes events.
    Open,
    /// It was closed.
    Closed,
    /// Its log failed.
    Poisoned,
    /// Another node leads the tape.
    Fenced,
}

impl NodeState {
    const ALL: [Self; 4] = [Self::Open, Self::Closed, Self::Poisoned, Self::Fenced];

    fn number(self) -> u32 {
        match self {
            Self::Open => 1,
            Self::Closed => 2,
            Self::Poisoned => 3,
            Self::Fenced => 4,
        }
    }
}

/// What precedes the sessions of a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ZeroCopySend)]
#[type_name("matchtape::ingress::ReplyHeader")]
#[repr(C)]
pub(crate) struct ReplyHeader {
    pub format_version: u32,
    pub state: u32,
    pub tape: u64,
    pub incarnation: u64,
    pub epoch: u64,
    pub accepted: u64,
    pub written: u64,
    pub durable: u64,
    pub replicated: u64,
    pub visible: u64,
    /// How far an event time may lie ahead of the clock, ns.
    pub skew_ns_max: i64,
    pub group_events_max: u64,
    pub group_bytes_max: u64,
    /// From which stage on an event is safe: 1 written, 2 durable.
    pub safe_at: u64,
    /// 1: every session is listed, so one that is missing is unknown to the node. 0: only those that changed.
    pub full: u64,
}

const _: () = assert!(size_of::<ReplyHeader>() == 112, "no padding, and the format version changes with it");

/// The node as its last reply describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeView {
    pub incarnation: u64,
    pub state: NodeState,
    pub watermarks: Watermarks,
    pub terms: IngressTerms,
}

impl NodeView {
    /// The header that says this.
    pub(crate) fn header(&self, tape: TapeId, full: bool) -> ReplyHeader {
        ReplyHeader {
            format_version: INGRESS_FORMAT,
            state: self.state.number(),
            tape: tape.get(),
            incarnation: self.incarnation,
            epoch: self.terms.epoch.get(),
            accepted: self.watermarks.accepted.get(),
            written: self.watermarks.written.get(),
            durable: self.watermarks.durable.get(),
            replicated: self.watermarks.replicated.get(),
            visible: self.watermarks.visible.get(),
            skew_ns_max: self.terms.skew_ns_max,
            group_events_max: self.terms.group_events_max as u64,
            group_bytes_max: self.terms.group_bytes_max as u64,
            safe_at: match self.terms.safe_at {
                SafeAt::Written => 1,
                SafeAt::Durable => 2,
            },
            full: u64::from(full),
        }
    }

    /// What a header says, if it is one of `tape` that can be true.
    pub(crate) fn read(header: &ReplyHeader, tape: TapeId) -> Option<Self> {
        if header.format_version != INGRESS_FORMAT || header.tape != tape.get() || header.incarnation == 0 {
            return None;
        }
        Some(Self {
            incarnation: header.incarnation,
            state: NodeState::ALL.into_iter().find(|state| state.number() == header.state)?,
            watermarks: Watermarks {
                accepted: Sequence(header.accepted),
                written: Sequence(header.written),
                durable: Sequence(header.durable),
                replicated: Sequence(header.replicated),
                visible: Sequence(header.visible),
            },
            terms: IngressTerms {
                epoch: Epoch(header.epoch),
                skew_ns_max: header.skew_ns_max,
                group_events_max: usize::try_from(header.group_events_max).ok()?,
                group_bytes_max: usize::try_from(header.group_bytes_max).ok()?,
                safe_at: match header.safe_at {
                    1 => SafeAt::Written,
                    2 => SafeAt::Durable,
                    _ => return None,
                },
            },
        })
    }
}

/// How a producer stands with the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Its events are taken.
    Open,
    /// A sample of this attempt did not arrive: begin another after the mark.
    Resend,
    /// Another process (this one) publishes as the producer.
    InUse { process: u32 },
    /// It sent something that cannot be on the tape.
    Refused(Reason),
}

/// Why, for people: the words an in-process publisher would have used.
pub(crate) type Reason = Text<REASON_BYTES>;
pub(crate) const REASON_BYTES: usize = 118;

/// Cuts a text to what a reply has room for.
pub(crate) fn reason(text: &str) -> Reason {
    let mut end = text.len().min(REASON_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Text::new(&text[..end]).unwrap_or_default()
}

/// One producer's standing, as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ZeroCopySend)]
#[type_name("matchtape::ingress::SessionState")]
#[repr(C)]
pub(crate) struct SessionState {
    port: [u64; 2],
    producer: u32,
    attempt: u32,
    status: u32,
    /// Who holds the producer, for `InUse`.
    process: u32,
    /// Samples of the attempt that have arrived.
    received: u64,
    mark_producer_sequence: u64,
    /// Zero: the producer has no event on the tape.
    mark_sequence: u64,
    reason_bytes: u16,
    reason: [u8; REASON_BYTES],
}

const _: () = assert!(size_of::<SessionState>() == 176, "no padding, and the format version changes with it");

/// One producer's standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    pub port: PortId,
    pub producer: ProducerId,
    pub attempt: u32,
    pub received: u64,
    pub status: Status,
    pub mark: Option<ProducerMark>,
}

impl Session {
    pub(crate) fn state(&self) -> SessionState {
        let (status, process, text) = match self.status {
            Status::Open => (1, 0, Reason::default()),
            Status::Resend => (2, 0, Reason::default()),
            Status::InUse { process } => (3, process, Reason::default()),
            Status::Refused(text) => (4, 0, text),
        };
        let mut reason = [0; REASON_BYTES];
        let text = text.as_str();
        let text = text.as_bytes();
        reason[..text.len()].copy_from_slice(text);
        SessionState {
            port: [self.port as u64, (self.port >> 64) as u64],
            producer: self.producer.get(),
            attempt: self.attempt,
            status,
            process,
            received: self.received,
            mark_producer_sequence: self.mark.map_or(0, |mark| mark.producer_sequence.get()),
            mark_sequence: self.mark.map_or(0, |mark| mark.sequence.get()),
            reason_bytes: text.len() as u16,
            reason,
        }
    }

    pub(crate) fn read(state: &SessionState) -> Option<Self> {
        let status = match state.status {
            1 => Status::Open,
            2 => Status::Resend,
            3 => Status::InUse { process: state.process },
            4 => {
                let text = state.reason.get(..usize::from(state.reason_bytes))?;
                Status::Refused(Text::new(std::str::from_utf8(text).ok()?).ok()?)
            }
            _ => return None,
        };
        Some(Self {
            port: u128::from(state.port[0]) | u128::from(state.port[1]) << 64,
            producer: ProducerId(state.producer),
            attempt: state.attempt,
            received: state.received,
            status,
            mark: (state.mark_sequence != 0).then_some(ProducerMark {
                producer_sequence: ProducerSequence(state.mark_producer_sequence),
                sequence: Sequence(state.mark_sequence),
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_survive_the_way_and_impossible_ones_are_not_read() {
        let mark = ProducerMark { producer_sequence: ProducerSequence(7), sequence: Sequence(9) };
        let long = "é".repeat(REASON_BYTES);
        for (status, mark) in [
            (Status::Open, None),
            (Status::Resend, Some(mark)),
            (Status::InUse { process: 42 }, None),
            (Status::Refused(reason(&long)), Some(mark)),
        ] {
            let session = Session {
                port: u128::MAX - 5,
                producer: ProducerId(3),
                attempt: 2,
                received: 6,
                status,
                mark,
            };
            assert_eq!(Session::read(&session.state()), Some(session));
            assert_eq!(Session::read(&SessionState { status: 9, ..session.state() }), None);
        }
        let refused = Session {
            port: 1,
            producer: ProducerId(3),
            attempt: 2,
            received: 0,
            status: Status::Refused(reason("no")),
            mark: None,
        };
        assert_eq!(Session::read(&SessionState { reason_bytes: u16::MAX, ..refused.state() }), None);
        let mut not_text = refused.state();
        not_text.reason[0] = 0xFF;
        assert_eq!(Session::read(&not_text), None);
    }

    #[test]
    fn requests_that_are_not_for_this_tape_or_lie_about_their_length_are_nothing() {
        let good = RequestHeader {
            format_version: INGRESS_FORMAT,
            kind: KIND_EVENTS,
            tape: 7,
            length: 64,
            ..RequestHeader::default()
        };
        assert_eq!(good.check(TapeId(7), 64), Some(RequestKind::Events));
        let hello = RequestHeader { kind: KIND_HELLO, length: 0, ..good };
        assert_eq!(hello.check(TapeId(7), 0), Some(RequestKind::Hello));
        for bad in [
            RequestHeader { format_version: 1, ..good },
            RequestHeader { tape: 8, ..good },
            RequestHeader { kind: 9, ..good },
            RequestHeader { length: 0, ..good },
            RequestHeader { length: 65, ..good },
            RequestHeader { length: u64::MAX, ..good },
            RequestHeader { length: 1, ..hello },
        ] {
            assert_eq!(bad.check(TapeId(7), 64), None, "{bad:?}");
        }
    }

    #[test]
    fn a_node_s_view_survives_its_header_and_nonsense_is_not_read() {
        let view = NodeView {
            incarnation: 5,
            state: NodeState::Poisoned,
            watermarks: Watermarks { accepted: Sequence(9), visible: Sequence(3), ..Watermarks::default() },
            terms: IngressTerms {
                epoch: Epoch(2),
                skew_ns_max: 4,
                group_events_max: 1024,
                group_bytes_max: 4096,
                safe_at: SafeAt::Written,
            },
        };
        let header = view.header(TapeId(7), true);
        assert_eq!(NodeView::read(&header, TapeId(7)), Some(view));
        for bad in [
            ReplyHeader { format_version: 1, ..header },
            ReplyHeader { state: 0, ..header },
            ReplyHeader { safe_at: 0, ..header },
            ReplyHeader { incarnation: 0, ..header },
            ReplyHeader { tape: 8, ..header },
        ] {
            assert_eq!(NodeView::read(&bad, TapeId(7)), None);
        }
    }
}
