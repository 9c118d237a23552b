//! The way in: events of producers outside, checked byte by byte before any of them goes further.
//!
//! The gateway reads and checks a body as a whole ([`read_groups`]); an [`Ingress`] then puts its groups onto the tape.

use matchtape_schemas::event::{EVENT_HEADER_BYTES, EventFlags, EventRef, check_event};
use matchtape_schemas::{AcceptedTime, Epoch, Event, KindMask, ProducerId, ProducerSequence, Sequence};

/// Puts events of producers outside onto the tape. Every call may block; the gateway makes them on threads that may.
pub trait Ingress: Send + Sync + 'static {
    /// The most events a group may have.
    fn group_events_max(&self) -> usize;

    /// Puts groups onto the tape in their order, each as a whole; those that are there already are passed over.
    /// Returns when all are accepted.
    fn publish(&self, producer: ProducerId, groups: &[Vec<Event>]) -> Result<Receipt, IngressError>;

    /// The producer's last accepted event; `None`: it has none.
    fn last(&self, producer: ProducerId) -> Result<Option<ProducerPosition>, IngressError>;
}

/// What became of groups that were all accepted, now or before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// The first event that is new; `None`: all were there already.
    pub first: Option<Sequence>,
    /// Once this position has reached a stage, every event of the request has.
    pub last: Sequence,
    /// Events that are new.
    pub published: u64,
    /// Events that were there already.
    pub already: u64,
}

/// Where a producer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerPosition {
    /// Its last event's number.
    pub producer_sequence: ProducerSequence,
    /// That event's position on the tape.
    pub sequence: Sequence,
}

/// Why groups, or the rest of them, were not put onto the tape.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum IngressError {
    /// A program inside the node's process publishes as this producer.
    #[error("producer {0} publishes from inside the node")]
    ProducerInUse(ProducerId),
    /// Too many producers publish at this moment.
    #[error("{0} producers publish at the same time")]
    TooManyProducers(usize),
    /// One group cannot be on this tape. Those before it are.
    #[error("the group from producer sequence {first} on: {reason}")]
    Refused {
        /// The group's first number.
        first: ProducerSequence,
        /// Why.
        reason: String,
    },
    /// The disk is full. The groups before the first there was no room for are accepted; the rest may be repeated.
    #[error("the disk is full; no events are taken until there is room")]
    NoSpace,
    /// The tape takes no more events. Of what came before it is not known how much will be there.
    #[error("the tape takes no more events: {0}")]
    Ended(String),
}

/// Bytes that are not whole groups of events a producer outside may publish.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
#[error("event {index}, byte {at}: {what}")]
pub(crate) struct BadEvents {
    /// Which event, from 0.
    index: usize,
    /// Where it starts.
    at: usize,
    what: String,
}

/// The groups in `bytes`, which lie at a multiple of 16. All or nothing: one bad event refuses the rest.
pub(crate) fn read_groups(
    bytes: &[u8],
    producer: ProducerId,
    group_events_max: usize,
) -> Result<Vec<Vec<Event>>, BadEvents> {
    let mut groups = Vec::new();
    let mut group = Vec::new();
    let (mut at, mut index) = (0, 0);
    let mut after: Option<ProducerSequence> = None;
    while at < bytes.len() {
        let wrong = |what: String| BadEvents { index, at, what };
        let header = check_event(&bytes[at..]).map_err(|error| wrong(error.to_string()))?;
        let end = at + header.length as usize;
        if header.producer != producer {
            return Err(wrong(format!("it is of producer {}, not {producer}", header.producer)));
        }
        if KindMask::CONTROL.contains(header.kind) {
            return Err(wrong(format!("{} is the sequencer's to say", header.kind)));
        }
        if after.is_some_and(|after| header.producer_sequence <= after) {
            return Err(wrong(format!(
                "producer sequence {} does not rise above the one before it",
                header.producer_sequence
            )));
        }
        if group.len() == group_events_max {
            return Err(wrong(format!("it is one more than the {group_events_max} events a group may have")));
        }
        let event = EventRef::decode(Sequence::ZERO, Epoch(0), AcceptedTime(0), &bytes[at..end])
            .map_err(|error| wrong(error.to_string()))?;
        group.push(event.to_event());
        if header.flags.contains(EventFlags::LAST_OF_GROUP) {
            groups.push(std::mem::take(&mut group));
        }
        after = Some(header.producer_sequence);
        (at, index) = (end, index + 1);
    }
    match (group.is_empty(), groups.is_empty()) {
        (true, false) => Ok(groups),
        (true, true) => Err(BadEvents {
            index,
            at,
            what: format!("there is none; the least is {EVENT_HEADER_BYTES} bytes and a payload"),
        }),
        (false, _) => Err(BadEvents {
            index,
            at,
            what: "the last group does not end: its last event has no last_of_group flag".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use matchtape_schemas::event::{OrderAccepted, TimeAdvanced, encode_event};
    use matchtape_schemas::{EventTime, InstrumentId, OrderId};
    use rkyv::util::AlignedVec;

    use super::*;

    const PRODUCER: ProducerId = ProducerId(7);

    fn order(number: u64, last: bool) -> Event {
        let body = OrderAccepted { order_id: OrderId(number), ..Default::default() };
        let mut event = Event::new(InstrumentId(1), ProducerSequence(number), EventTime(5), body);
        if !last {
            event.flags = EventFlags::NONE;
        }
        event
    }

    fn encode(events: &[Event], producer: ProducerId) -> AlignedVec<16> {
        let mut bytes = AlignedVec::new();
        for event in events {
            let at = bytes.len();
            bytes.resize(at + event.encoded_len(), 0);
            encode_event(event, producer, &mut bytes[at..]);
        }
        bytes
    }

    fn refusal(events: &[Event]) -> String {
        read_groups(&encode(events, PRODUCER), PRODUCER, 2).unwrap_err().to_string()
    }

    #[test]
    fn groups_end_where_their_flag_says() {
        let events = [order(1, true), order(2, false), order(3, true)];
        let groups = read_groups(&encode(&events, PRODUCER), PRODUCER, 2).unwrap();
        assert_eq!(groups, [vec![events[0].clone()], events[1..].to_vec()]);
    }

    #[test]
    fn what_a_producer_may_not_say_is_refused_by_place_and_reason() {
        let advanced =
            Event::new(InstrumentId(0), ProducerSequence(2), EventTime(5), TimeAdvanced::default());
        for (events, expected) in [
            (vec![], "there is none"),
            (vec![order(1, true), order(2, false)], "event 2, byte 256: the last group does not end"),
            (vec![order(1, true), order(1, true)], "event 1, byte 128: producer sequence 1 does not rise"),
            (vec![order(1, true), advanced], "event 1, byte 128: time_advanced is the sequencer's"),
            (
                vec![order(1, false), order(2, false), order(3, true)],
                "event 2, byte 256: it is one more than",
            ),
        ] {
            let said = refusal(&events);
            assert!(said.contains(expected), "{said}, expected {expected}");
        }
        let other = read_groups(&encode(&[order(1, true)], ProducerId(8)), PRODUCER, 2).unwrap_err();
        assert!(other.to_string().contains("of producer 8, not 7"), "{other}");
    }

    #[test]
    fn no_change_of_one_byte_and_no_cut_makes_it_panic_and_every_cut_is_refused() {
        let whole = encode(&[order(1, false), order(2, true)], PRODUCER);
        for length in 0..whole.len() {
            let mut cut: AlignedVec<16> = AlignedVec::new();
            cut.extend_from_slice(&whole[..length]);
            assert!(read_groups(&cut, PRODUCER, 2).is_err(), "{length} bytes");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[at] ^= 1 << bit;
                // Some changes are other events; none may do more than be refused.
                let _ = read_groups(&changed, PRODUCER, 2);
            }
        }
    }
}
