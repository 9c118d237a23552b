//! Small tapes on real and simulated disks.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod place;
pub mod watched;

use std::sync::Arc;

use matchtape_node::{Node, NodeOptions, Published, Publisher};
use matchtape_schemas::event::{Event, OrderAccepted, OrderCancelled, Side};
use matchtape_schemas::{EventTime, InstrumentId, OrderId, Price, ProducerSequence, Quantity};
use matchtape_storage::Disk;

/// The `number`-th order of a producer.
pub fn order(number: u64) -> Event {
    let body = OrderAccepted {
        order_id: OrderId(number),
        price: Price::from_units(number as i64 * 1_000_000_000),
        quantity: Quantity::from_units(1_000_000_000),
        side: Side::Buy,
        ..OrderAccepted::default()
    };
    Event::new(
        InstrumentId(1),
        ProducerSequence(number),
        EventTime(1_700_000_000_000_000_000 + number as i64),
        body,
    )
}

/// Its cancellation.
pub fn cancel(number: u64, order: u64) -> Event {
    let body = OrderCancelled { order_id: OrderId(order), side: Side::Buy, ..OrderCancelled::default() };
    Event::new(
        InstrumentId(1),
        ProducerSequence(number),
        EventTime(1_700_000_000_000_000_000 + number as i64),
        body,
    )
}

/// A node with small segments and memtables, so that short tests rotate and flush.
pub fn small() -> NodeOptions {
    let mut options = NodeOptions { ring_slots: 1024, ..NodeOptions::default() };
    options.store.wal.segment_bytes = matchtape_storage::limits::SEGMENT_BYTES_MIN;
    options.store.wal.commit_bytes = matchtape_storage::limits::COMMIT_BYTES_MIN;
    options.store.memtable_bytes = 4 << 20;
    options
}

pub fn open(disk: &Arc<dyn Disk>) -> Node {
    Node::open_on(Arc::clone(disk), small(), Vec::new()).expect("a disk that works")
}

/// Publishes one event, waiting for room.
pub fn put(publisher: &mut Publisher, event: &Event) -> Published {
    loop {
        match publisher.publish(event) {
            Err(matchtape_node::PublishError::WouldBlock) => {
                publisher.wait_for_room(1).expect("the node is open")
            }
            other => return other.expect("the node takes events"),
        }
    }
}
