//! The gateway's way onto the node's tape: producers outside, each with its one live publisher.

use std::collections::HashMap;
use std::sync::Arc;

use matchtape_gateway::{Ingress, IngressError, ProducerPosition, Receipt};
use matchtape_node::{PublishError, Published, Publisher, Publishers};
use matchtape_schemas::{Event, ProducerId};
use parking_lot::Mutex;

/// Producers that may publish at the same moment; beyond it those that do not publish just then give way.
const PRODUCERS_MAX: usize = 256;

/// Publishes through the node's own publishers.
pub(super) struct NodeIngress {
    publishers: Publishers,
    open: Mutex<Open>,
}

/// The publishers that are open. Each is behind a lock of its own, which makes the requests of one producer wait for each
/// other and for nobody else.
#[derive(Default)]
struct Open {
    by_producer: HashMap<ProducerId, (Arc<Mutex<Publisher>>, u64)>,
    uses: u64,
}

impl NodeIngress {
    pub(super) fn new(publishers: Publishers) -> Self {
        Self { publishers, open: Mutex::default() }
    }

    fn publisher(&self, producer: ProducerId) -> Result<Arc<Mutex<Publisher>>, IngressError> {
        let mut open = self.open.lock();
        open.uses += 1;
        let now = open.uses;
        if let Some((publisher, used)) = open.by_producer.get_mut(&producer) {
            *used = now;
            return Ok(Arc::clone(publisher));
        }
        if open.by_producer.len() == PRODUCERS_MAX {
            // Only this map hands clones out, under this lock: one that nobody else holds stays so.
            let idle =
                open.by_producer.iter().filter(|(_, (publisher, _))| Arc::strong_count(publisher) == 1);
            let oldest = idle.min_by_key(|(_, (_, used))| *used).map(|(producer, _)| *producer);
            let oldest = oldest.ok_or(IngressError::TooManyProducers(PRODUCERS_MAX))?;
            open.by_producer.remove(&oldest);
        }
        let publisher =
            self.publishers.publisher(producer).map_err(|_| IngressError::ProducerInUse(producer))?;
        let publisher = Arc::new(Mutex::new(publisher));
        open.by_producer.insert(producer, (Arc::clone(&publisher), now));
        Ok(publisher)
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
        let publisher = self.publisher(producer)?;
        let last = publisher.lock().last();
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
                publisher
                    .wait_for_room(group.len())
                    .map_err(|error| IngressError::Ended(error.to_string()))?;
            }
            Err(
                error @ (PublishError::GroupSize { .. }
                | PublishError::GroupBytes { .. }
                | PublishError::NoSpace
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
    fn more_producers_than_are_kept_open_take_turns_and_none_loses_its_place() {
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
        assert_eq!(ingress.open.lock().by_producer.len(), PRODUCERS_MAX);
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
