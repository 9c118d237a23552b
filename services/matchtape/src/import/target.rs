//! Where a source's events go: a node in this process, or the gateway of one elsewhere.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use matchtape_client::EventRow;
use matchtape_node::{Node, PublishError, Published, Publisher, WaitError};
use matchtape_schemas::event::{EventFlags, encode_event};
use matchtape_schemas::{
    Event, EventTime, InstrumentId, ProducerId, ProducerSequence, Sequence, Stage, VenueSequence,
};
use matchtape_storage::{Direction, Query, ReadError};
use rkyv::util::AlignedVec;

use super::load::{LoadError, Loaded};
use crate::full_disk::{LOOK, Waiting};
use crate::server::{Server, ServerError};

/// Takes groups of events of several producers and keeps their order.
pub trait Target {
    /// Begins with a producer, or goes on with it; returns the number of its last event on the tape, zero for none.
    fn open(&mut self, producer: ProducerId) -> Result<ProducerSequence, LoadError>;

    /// Takes a group of a producer that was opened. It may go onto the tape only with later ones. Where `loaded` is interrupted
    /// then, it was not taken.
    fn publish(
        &mut self,
        producer: ProducerId,
        group: &[Event],
        loaded: &mut Loaded,
    ) -> Result<(), LoadError>;

    /// Returns when all that was taken is durable. Where `loaded` is interrupted then, only what it still counts is.
    fn settle(&mut self, loaded: &mut Loaded) -> Result<(), LoadError>;

    /// Shows the events of an instrument with that symbol, or of all, with an event time from `from` through `through` in the
    /// tape's order, until `found` says `false`. `None`: some of them are not kept any more.
    fn recorded(
        &mut self,
        instrument: Option<(InstrumentId, &str)>,
        from: EventTime,
        through: EventTime,
        found: &mut dyn FnMut(Recorded) -> bool,
    ) -> Result<Option<()>, LoadError>;

    /// The time of the last event of an instrument among those up to `through`, in the tape's order; all that was taken before has
    /// settled. `None`: there is none, or none is kept any more.
    fn last_through(
        &mut self,
        instrument: (InstrumentId, &str),
        through: EventTime,
    ) -> Result<Option<EventTime>, LoadError>;

    /// How far the tape is visible, as far as it is known here. What is visible is durable and ends a group.
    fn visible(&self) -> Sequence;
}

/// An event of the tape, as far as it tells which record of which source it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its source.
    pub producer: ProducerId,
    /// Its number there.
    pub producer_sequence: ProducerSequence,
    /// The venue's number for it, if it has one.
    pub venue_sequence: Option<VenueSequence>,
}

/// A node in this process.
pub struct NodeTarget<'a> {
    node: &'a Node,
    publishers: Vec<Publisher>,
    waiting: Waiting<'a>,
}

impl<'a> NodeTarget<'a> {
    /// Publishes on `node`; the producers are its own until it is dropped. `notice` is told of a full disk; `stop` ends waiting
    /// for room.
    pub fn new(node: &'a Node, stop: &'a AtomicBool, notice: impl FnMut(&str) + 'a) -> Self {
        Self { node, publishers: Vec::new(), waiting: Waiting::new(stop, notice) }
    }

    /// Whether what waits has waited in vain, and is to give up.
    fn gives_up(&mut self) -> bool {
        self.waiting.gives_up(&self.node.store().space_problem())
    }
}

impl Target for NodeTarget<'_> {
    fn open(&mut self, producer: ProducerId) -> Result<ProducerSequence, LoadError> {
        let opened = self.publishers.iter().position(|publisher| publisher.producer() == producer);
        let place = match opened {
            Some(place) => place,
            None => {
                let publisher = self.node.publisher(producer);
                self.publishers.push(publisher.map_err(|error| LoadError::Node(Box::new(error)))?);
                self.publishers.len() - 1
            }
        };
        Ok(self.publishers[place].last().unwrap_or(ProducerSequence(0)))
    }

    fn publish(
        &mut self,
        producer: ProducerId,
        group: &[Event],
        loaded: &mut Loaded,
    ) -> Result<(), LoadError> {
        let place = self.publishers.iter().position(|publisher| publisher.producer() == producer);
        let place = place.expect("producers are opened first");
        loop {
            let publisher = &mut self.publishers[place];
            match publisher.publish_group(group) {
                Ok(Published::New { last, .. }) => {
                    loaded.published += group.len() as u64;
                    loaded.last = last;
                    return Ok(());
                }
                Ok(Published::Already { .. }) => {
                    loaded.already += group.len() as u64;
                    return Ok(());
                }
                Err(PublishError::WouldBlock) => {
                    match publisher.wait_for_room_until(group.len(), Some(Instant::now() + LOOK)) {
                        Ok(()) => continue,
                        Err(WaitError::TimedOut) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(PublishError::NoSpace) => std::thread::sleep(LOOK),
                Err(reason) => {
                    return Err(LoadError::Publish { record: group[0].producer_sequence, reason });
                }
            }
            if self.gives_up() {
                loaded.interrupted = true;
                return Ok(());
            }
        }
    }

    fn settle(&mut self, loaded: &mut Loaded) -> Result<(), LoadError> {
        // Visible is durable, and can be read.
        while loaded.last > Sequence::ZERO {
            match self.node.wait_for(loaded.last, Stage::Visible, LOOK) {
                Ok(()) => break,
                Err(WaitError::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
            if self.gives_up() {
                // Visible also ends a group: recovery drops a group whose end is missing.
                let visible = self.node.watermarks().visible.min(loaded.last);
                loaded.published = loaded.published.saturating_sub(loaded.last.get() - visible.get());
                loaded.last = visible;
                loaded.interrupted = true;
                break;
            }
        }
        Ok(())
    }

    fn recorded(
        &mut self,
        instrument: Option<(InstrumentId, &str)>,
        from: EventTime,
        through: EventTime,
        found: &mut dyn FnMut(Recorded) -> bool,
    ) -> Result<Option<()>, LoadError> {
        let reader = self.node.reader();
        let query = Query {
            instrument: instrument.map(|(id, _)| id),
            event_time_from: from,
            event_time_through: through,
            ..Query::default()
        };
        let events = match reader.query(&query) {
            Err(ReadError::TimeBelowRetention { .. }) => return Ok(None),
            events => events?,
        };
        for event in events {
            let row = EventRow::new(&event.map_err(LoadError::Read)?.event(), None);
            let (producer, producer_sequence) = (row.producer, row.producer_sequence);
            if !found(Recorded { producer, producer_sequence, venue_sequence: row.venue_sequence }) {
                break;
            }
        }
        Ok(Some(()))
    }

    fn last_through(
        &mut self,
        (id, _): (InstrumentId, &str),
        through: EventTime,
    ) -> Result<Option<EventTime>, LoadError> {
        let query = Query {
            instrument: Some(id),
            event_time_through: through,
            direction: Direction::Backward,
            limit: Some(1),
            ..Query::default()
        };
        match self.node.reader().query(&query) {
            Err(ReadError::BelowRetention { .. } | ReadError::TimeBelowRetention { .. }) => Ok(None),
            events => {
                let last = events?.next().transpose().map_err(LoadError::Read)?;
                Ok(last.map(|last| last.event().event_time()))
            }
        }
    }

    fn visible(&self) -> Sequence {
        self.node.watermarks().visible
    }
}

/// Bytes of events that are sent together, unless one group is larger. Each batch waits until it is visible, so that at
/// most one is in doubt when a connection is lost.
const BATCH_BYTES: usize = 512 * 1024;

/// The gateway of a node elsewhere.
pub struct ServerTarget<'a> {
    server: &'a Server,
    stop: &'a AtomicBool,
    notice: Box<dyn FnMut(&str) + 'a>,
    /// Whole groups of one producer that were not sent yet.
    batch: AlignedVec<16>,
    producer: ProducerId,
    visible: Sequence,
}

impl<'a> ServerTarget<'a> {
    /// Publishes through `server`. `notice` is told about connections that are lost and found again; `stop` ends trying.
    pub fn new(server: &'a Server, stop: &'a AtomicBool, notice: impl FnMut(&str) + 'a) -> Self {
        Self {
            server,
            stop,
            notice: Box::new(notice),
            batch: AlignedVec::new(),
            producer: ProducerId::SEQUENCER,
            visible: Sequence::ZERO,
        }
    }

    fn send(&mut self, loaded: &mut Loaded) -> Result<(), LoadError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let (producer, batch) = (self.producer, &self.batch);
        let answered = self
            .server
            .persistently(self.stop, &mut self.notice, |server| server.publish(producer, batch))?;
        let answer = answered.answer;
        // What a try before this one put there is this import's own.
        let (published, already) = match answered.repeated {
            true => (answer.published + answer.already, 0),
            false => (answer.published, answer.already),
        };
        loaded.published += published;
        loaded.already += already;
        if published > 0 {
            loaded.last = Sequence(answer.last);
        }
        self.visible = self.visible.max(Sequence(answer.watermarks.visible));
        self.batch.clear();
        Ok(())
    }
}

impl Target for ServerTarget<'_> {
    fn open(&mut self, producer: ProducerId) -> Result<ProducerSequence, LoadError> {
        let asked = self.server.persistently(self.stop, &mut self.notice, |server| server.producer(producer));
        Ok(asked?.answer)
    }

    fn publish(
        &mut self,
        producer: ProducerId,
        group: &[Event],
        loaded: &mut Loaded,
    ) -> Result<(), LoadError> {
        let bytes: usize = group.iter().map(Event::encoded_len).sum();
        if self.producer != producer || self.batch.len() + bytes > BATCH_BYTES {
            self.send(loaded)?;
        }
        self.producer = producer;
        for (index, event) in group.iter().enumerate() {
            let flags = match index + 1 == group.len() {
                true => event.flags.with(EventFlags::LAST_OF_GROUP),
                false => event.flags.without(EventFlags::LAST_OF_GROUP),
            };
            let at = self.batch.len();
            self.batch.resize(at + event.encoded_len(), 0);
            let out = &mut self.batch[at..];
            encode_event(event, producer, out);
            out[6] = flags.bits();
        }
        Ok(())
    }

    fn settle(&mut self, loaded: &mut Loaded) -> Result<(), LoadError> {
        self.send(loaded)
    }

    fn recorded(
        &mut self,
        instrument: Option<(InstrumentId, &str)>,
        from: EventTime,
        through: EventTime,
        found: &mut dyn FnMut(Recorded) -> bool,
    ) -> Result<Option<()>, LoadError> {
        let events = match self.server.recorded(instrument.map(|(_, symbol)| symbol), from, through) {
            Err(ServerError::Refused { error, .. }) if error == "below_retention" => return Ok(None),
            events => events?,
        };
        for recorded in events {
            if !found(recorded?) {
                break;
            }
        }
        Ok(Some(()))
    }

    fn last_through(
        &mut self,
        (_, symbol): (InstrumentId, &str),
        through: EventTime,
    ) -> Result<Option<EventTime>, LoadError> {
        match self.server.last_through(symbol, through) {
            Err(ServerError::Refused { error, .. }) if error == "below_retention" => Ok(None),
            last => Ok(last?),
        }
    }

    fn visible(&self) -> Sequence {
        self.visible
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use matchtape_node::NodeOptions;
    use matchtape_schemas::event::OrderAccepted;
    use matchtape_storage::sim::SimDisk;

    use super::*;

    fn order(number: u64) -> [Event; 1] {
        let body = OrderAccepted::default();
        [Event::new(InstrumentId(1), ProducerSequence(number), EventTime(number as i64), body)]
    }

    #[test]
    fn who_is_stopped_while_the_disk_is_full_ends_with_what_is_durable_and_goes_on_when_there_is_room() {
        let disk = SimDisk::new(1);
        let open = || {
            let mut options = NodeOptions { ring_slots: 1024, ..NodeOptions::default() };
            options.store.wal.segment_bytes = matchtape_storage::limits::SEGMENT_BYTES_MIN;
            options.store.wal.commit_bytes = matchtape_storage::limits::COMMIT_BYTES_MIN;
            Node::open_on(Arc::new(disk.clone()), options, Vec::new()).unwrap()
        };
        let producer = ProducerId(7);
        let node = open();
        let stop = AtomicBool::new(false);
        let mut said = Vec::new();
        let mut loaded = Loaded::default();
        {
            // Whoever is told stops it.
            let mut target = NodeTarget::new(&node, &stop, |text| {
                said.push(text.to_owned());
                stop.store(true, Ordering::Relaxed);
            });
            target.waiting.patience = Duration::ZERO;
            assert_eq!(target.open(producer).unwrap(), ProducerSequence(0));
            target.publish(producer, &order(1), &mut loaded).unwrap();
            disk.set_capacity(400 << 10);
            let mut number = 1;
            while !loaded.interrupted {
                number += 1;
                target.publish(producer, &order(number), &mut loaded).unwrap();
            }
            target.settle(&mut loaded).unwrap();
        }
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("the disk is full: waiting for room; Ctrl-C ends"), "{said:?}");
        // What could not be written is told by closing; it is not waited for.
        let _ = node.close();

        disk.set_capacity(1 << 40);
        let node = open();
        let stop = AtomicBool::new(false);
        let mut target = NodeTarget::new(&node, &stop, |text| panic!("{text}"));
        let there = target.open(producer).unwrap().get();
        // Closing tries once more: more may be there, never less. The epoch's beginning is an event as well.
        assert!(loaded.published > 0 && there >= loaded.published, "{there} of {loaded:?}");
        let mut again = Loaded::default();
        target.publish(producer, &order(there), &mut again).unwrap();
        target.publish(producer, &order(there + 1), &mut again).unwrap();
        target.settle(&mut again).unwrap();
        assert_eq!((again.already, again.published, again.interrupted), (1, 1, false));
        drop(target);
        node.close().unwrap();
    }
}
