//! A node as benchmarks of whole nodes run it, and its other end.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use matchtape_bus::{BusConfig, BusService, WakeUp};
use matchtape_node::{BusOptions, Node, NodeOptions, PipelineWait, PublishError, Publisher};
use matchtape_schemas::{Event, EventTime, Sequence};
use matchtape_subscription::BusLive;

/// A node with a bus, everything else as by default.
pub fn options(folder: &Path, config: BusConfig) -> NodeOptions {
    let bus = BusOptions {
        namespace: "bench".into(),
        root: Some(folder.join("bus")),
        config,
        ..BusOptions::default()
    };
    NodeOptions { bus: Some(bus), ..NodeOptions::default() }
}

/// How a pipeline waits: it looks for events, and then sleeps until it is woken, or for a time where one is given.
pub fn pipeline_wait(spin_us: u64, nap_us: u64) -> PipelineWait {
    let (spin, nap) = (Duration::from_micros(spin_us), Duration::from_micros(nap_us));
    if nap.is_zero() { PipelineWait::Adaptive { spin } } else { PipelineWait::Nap { spin, nap } }
}

/// Publishes, waiting for room where there is none.
///
/// # Panics
/// When the node fails.
pub fn publish(publisher: &mut Publisher, event: &Event) -> Sequence {
    loop {
        match publisher.publish(event) {
            Ok(published) => return published.sequence(),
            Err(PublishError::WouldBlock) => publisher.wait_for_room(64).expect("the node is open"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// What is visible of a node, over its bus.
///
/// # Panics
/// When the node has no bus.
pub fn live(node: &Node, wake_up: WakeUp) -> BusLive {
    let name = node.bus_name().expect("a node with a bus");
    BusLive::new(name, BusService::Live, wake_up, Duration::from_micros(50))
}

/// The wall clock, as event times have it.
pub fn now() -> EventTime {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    EventTime(i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX))
}
