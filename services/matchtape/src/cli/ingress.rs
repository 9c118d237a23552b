//! The gateway's way onto the node's tape: producers outside, each with its one live publisher.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use matchtape_gateway::{Ingress, IngressError, ProducerPosition, Receipt};
use matchtape_node::{PublishError, Published, Publisher, Publishers, WaitError};
use matchtape_schemas::{Event, ProducerId};
use parking_lot::{Mutex, MutexGuard};

/// Producers that may publish at the same moment.
const PRODUCERS_MAX: usize = 256;
/// How long a full ring is waited for before it is looked at again.
const ROOM_WAIT: Duration = Duration::from_millis(100);

/// Publishes through the node's own publishers, each held for as long as a request needs it: between requests the
/// producer is free to come in by another way.
pub(super) struct NodeIngress {
    publishers: Publishers,
    /// Those of the requests at work. Each is behind a lock of its own, which makes the requests of one producer wait for
    /// each other and for nobody else.
    open: Mutex<HashMap<ProducerId, Arc<Mutex<Publisher>>>>,
}

/// A request's share of a publisher, which goes with the last of them.
struct Share<'a> {
    ingress: &'a NodeIngress,
    producer: ProducerId,
    /// Taken when dropped.
    publisher: Option<Arc<Mutex<Publisher>>>,
}

impl Share<'_> {
    fn lock(&self) -> MutexGuard<'_, Publisher> {
        self.publisher.as_ref().expect("there until dropped").lock()
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        // Shares come and go under this lock only, and so does the publisher: a producer that is not in the map is free.
        let mut open = self.ingress.open.lock();
        drop(self.publisher.take());
        if open.get(&self.producer).is_some_and(|publisher| Arc::strong_count(publisher) == 1) {
            open.remove(&self.producer);
        }
    }
}

impl NodeIngress {
    pub(super) fn new(publishers: Publishers) -> Self {
        Self { publishers, open: Mutex::default() }
    }

    fn publisher(&self, producer: ProducerId) -> Result<Share<'_>, IngressError> {
        let mut open = self.open.lock();
        let publisher = match open.get(&producer) {
            Some(publisher) => Arc::clone(publisher),
            None if open.len() == PRODUCERS_MAX => {
                return Err(IngressError::TooManyProducers(PRODUCERS_MAX));
            }
            None => {
                let publisher = self.publishers.publisher(producer);
                let publisher = publisher.map_err(|_| IngressError::ProducerInUse(producer))?;
                let publisher = Arc::new(Mutex::new(publisher));
                open.insert(producer, Arc::clone(&publisher));
                publisher
            }
        };
        Ok(Share { ingress: self, producer, publisher: Some(publisher) })
    }
}

impl Ingress for NodeIngress {
    fn group_events_max(&self) -> usize {
        self.publishers.group_events_max()
    }

    fn publish(&self, producer: ProducerId, groups: &[Vec<Event>]) -> Result<Receipt, IngressError> {
        let publisher = self.publisher(producer)?;
        let mut publisher = publisher.lock();
        let mut receipt = Receipt::default();
        for group in groups {
            let published = put(&mut publisher, group)?;
            receipt.last = receipt.last.max(published.sequence());
            match published {
                Published::New { first, .. } => {
                    receipt.first.get_or_insert(first);
                    receipt.published += group.len() as u64;
                }
                Published::Already { .. } => receipt.already += group.len() as u64,
            }
        }
        Ok(receipt)
    }

    fn last(&self, producer: ProducerId) -> Result<Option<ProducerPosition>, IngressError> {
        let open = self.open.lock();
        let last = if open.contains_key(&producer) {
            drop(open);
            // A request publishes as it: its end is awaited. Should it have ended meanwhile, this is a share of its own.
            self.publisher(producer)?.lock().accepted()
        } else {
            // Nobody is made the producer's publisher for being asked; under the map's lock, so that no request becomes it.
            self.publishers.last(producer).map_err(|_| IngressError::ProducerInUse(producer))?
        };
        Ok(last.map(|mark| ProducerPosition {
            producer_sequence: mark.producer_sequence,
            sequence: mark.sequence,
        }))
    }
}

/// Publishes one group, waiting while the ring is full.
fn put(publisher: &mut Publisher, group: &[Event]) -> Result<Published, IngressError> {
    loop {
        let refused = |error: PublishError| IngressError::Refused {
            first: group[0].producer_sequence,
            reason: error.to_string(),
        };
        match publisher.publish_group(group) {
            Ok(published) => return Ok(published),
            Err(PublishError::WouldBlock) => {
                let deadline = Some(Instant::now() + ROOM_WAIT);
                match publisher.wait_for_room_until(group.len(), deadline) {
                    // A ring that a full disk keeps full: the next try tells.
                    Ok(()) | Err(WaitError::TimedOut) => {}
                    Err(error) => return Err(IngressError::Ended(error.to_string())),
                }
            }
            Err(PublishError::NoSpace) => return Err(IngressError::NoSpace),
            Err(
                error @ (PublishError::GroupSize { .. }
                | PublishError::GroupBytes { .. }
                | PublishError::GroupOrder { .. }
                | PublishError::EventTimeAhead { .. }),
            ) => return Err(refused(error)),
            Err(error @ (PublishError::Fenced | PublishError::Poisoned | PublishError::Closed)) => {
                return Err(IngressError::Ended(error.to_string()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use matchtape_node::{Node, NodeOptions};
    use matchtape_schemas::event::OrderAccepted;
    use matchtape_schemas::{EventTime, InstrumentId, OrderId, ProducerSequence, Sequence};

    use super::*;

    fn order(number: u64) -> Event {
        let body = OrderAccepted { order_id: OrderId(number), ..Default::default() };
        Event::new(InstrumentId(1), ProducerSequence(number), EventTime(5), body)
    }

    fn node(folder: &tempfile::TempDir) -> Node {
        Node::open(folder.path(), NodeOptions::default(), Vec::new()).unwrap()
    }

    #[test]
    fn a_producer_is_free_for_others_as_soon_as_no_request_is_at_work_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(&folder);
        let ingress = NodeIngress::new(node.publishers());
        for number in 1..=2 {
            ingress.last(ProducerId(7)).unwrap();
            ingress.publish(ProducerId(7), &[vec![order(number)]]).unwrap();
            let last = ingress.last(ProducerId(7)).unwrap().unwrap();
            assert_eq!(last.producer_sequence, ProducerSequence(number));
            let engine = node.publisher(ProducerId(7)).expect("asking and publishing have let go of it");
            assert_eq!(engine.last(), Some(ProducerSequence(number)));
            assert_eq!(ingress.last(ProducerId(7)), Err(IngressError::ProducerInUse(ProducerId(7))));
        }
        // Many at once for one producer wait for each other, and none is told that it is in use.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 1..=500 {
                        ingress.publish(ProducerId(8), &[vec![order(number)]]).unwrap();
                        ingress.last(ProducerId(8)).unwrap().unwrap();
                    }
                });
            }
        });
        assert!(ingress.open.lock().is_empty());
        drop(node.publisher(ProducerId(8)).unwrap());
        node.close().unwrap();
    }

    #[test]
    fn many_producers_come_in_turn_and_none_loses_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(&folder);
        let ingress = NodeIngress::new(node.publishers());
        let producers = PRODUCERS_MAX as u32 + 10;
        for number in [1, 2] {
            for producer in 1..=producers {
                let receipt = ingress.publish(ProducerId(producer), &[vec![order(number)]]).unwrap();
                assert_eq!((receipt.published, receipt.already), (1, 0), "{producer}");
            }
        }
        assert!(ingress.open.lock().is_empty());
        for producer in 1..=producers {
            let again = ingress.publish(ProducerId(producer), &[vec![order(1)], vec![order(2)]]).unwrap();
            assert_eq!((again.published, again.already, again.first), (0, 2, None), "{producer}");
            let last = ingress.last(ProducerId(producer)).unwrap().unwrap();
            assert_eq!(last.producer_sequence, ProducerSequence(2));
        }
        assert_eq!(ingress.last(ProducerId(producers + 1)), Ok(None));
        node.close().unwrap();
    }

    #[test]
    fn a_producer_inside_the_process_is_not_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(&folder);
        let inside = node.publisher(ProducerId(1)).unwrap();
        let ingress = NodeIngress::new(node.publishers());
        let refused = ingress.publish(ProducerId(1), &[vec![order(1)]]);
        assert_eq!(refused, Err(IngressError::ProducerInUse(ProducerId(1))));
        drop(inside);
        assert!(ingress.publish(ProducerId(1), &[vec![order(1)]]).is_ok());
        node.close().unwrap();
    }

    #[test]
    fn a_full_disk_is_told_at_once_and_the_same_groups_get_through_when_there_is_room() {
        let disk = matchtape_storage::sim::SimDisk::new(1);
        let mut options = NodeOptions { ring_slots: 1024, ..NodeOptions::default() };
        options.store.wal.segment_bytes = matchtape_storage::limits::SEGMENT_BYTES_MIN;
        options.store.wal.commit_bytes = matchtape_storage::limits::COMMIT_BYTES_MIN;
        let node = Node::open_on(Arc::new(disk.clone()), options, Vec::new()).unwrap();
        let ingress = NodeIngress::new(node.publishers());
        ingress.publish(ProducerId(7), &[vec![order(1)]]).unwrap();
        disk.set_capacity(400 << 10);
        // Some have a full ring before the disk is found full: nobody waits for room that only a bigger disk would make.
        let groups = |from: u64| (from..from + 100).map(|number| vec![order(number)]).collect::<Vec<_>>();
        let mut from = 2;
        while let Ok(receipt) = ingress.publish(ProducerId(7), &groups(from)) {
            assert_eq!(receipt.published, 100);
            from += 100;
        }
        let refused = groups(from);
        assert_eq!(ingress.publish(ProducerId(7), &refused), Err(IngressError::NoSpace));
        let accepted = ingress.last(ProducerId(7)).unwrap().unwrap().producer_sequence.get();
        assert!(accepted >= from - 1 && accepted < from + 100, "{accepted} of {from}");
        disk.set_capacity(1 << 40);
        let receipt = loop {
            match ingress.publish(ProducerId(7), &refused) {
                Ok(receipt) => break receipt,
                Err(error) => assert_eq!(error, IngressError::NoSpace),
            }
            std::thread::yield_now();
        };
        assert_eq!(receipt.published + receipt.already, 100);
        assert!(receipt.already >= accepted + 1 - from, "what was accepted is not doubled");
        node.wait(receipt.last, matchtape_schemas::Stage::Durable).unwrap();
        node.close().unwrap();
    }

    #[test]
    fn a_refused_group_leaves_those_before_it_and_a_closed_node_says_that_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(&folder);
        let ingress = NodeIngress::new(node.publishers());
        let mut ahead = order(2);
        ahead.event_time = EventTime(i64::MAX);
        let refused = ingress.publish(ProducerId(1), &[vec![order(1)], vec![ahead], vec![order(3)]]);
        assert!(
            matches!(&refused, Err(IngressError::Refused { first: ProducerSequence(2), .. })),
            "{refused:?}"
        );
        let last = ingress.last(ProducerId(1)).unwrap().unwrap();
        assert_eq!((last.producer_sequence, last.sequence), (ProducerSequence(1), Sequence(2)));
        node.close().unwrap();
        let ended = ingress.publish(ProducerId(1), &[vec![order(2)]]);
        assert!(matches!(ended, Err(IngressError::Ended(_))), "{ended:?}");
    }
}
