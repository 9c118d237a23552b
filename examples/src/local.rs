//! A tape that another process on this machine writes: its past from the files, its present from the bus.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use matchtape_bus::{BusService, WakeUp};
use matchtape_client::time::rfc3339;
use matchtape_node::{BusOptions, FollowedHistory};
use matchtape_schemas::event::Side;
use matchtape_schemas::{BodyRef, EventRef};
use matchtape_storage::{ReadOnlyOptions, ReadOnlyStore, RealDisk};
use matchtape_subscription::BusLive;

/// The log of a node, which may be running: shows what has become durable whenever it is looked at.
pub fn history(directory: &Path) -> Result<FollowedHistory, Box<dyn std::error::Error>> {
    let store = ReadOnlyStore::open(Arc::new(RealDisk::open(directory)?), ReadOnlyOptions::default())?;
    Ok(FollowedHistory::new(store))
}

/// Where the node publishes the same tape live.
pub fn live(history: &FollowedHistory) -> Result<BusLive, Box<dyn std::error::Error>> {
    let name = BusOptions::default().name(history.tape())?;
    Ok(BusLive::new(&name, BusService::Live, WakeUp::Event, Duration::ZERO))
}

/// A flag that Ctrl-C (and SIGTERM) sets.
pub fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Whether [`stop_flag`]'s flag is set.
pub fn stopped(stop: &AtomicBool) -> bool {
    stop.load(Ordering::Relaxed)
}

/// An event in one line.
pub fn line(event: &EventRef<'_>) -> String {
    let what = match event.body() {
        BodyRef::TradeMatched(trade) => {
            let verb = if trade.aggressor.get() == Side::Sell { "sold" } else { "bought" };
            format!("{verb} {} at {}", trade.quantity.get(), trade.price.get())
        }
        BodyRef::OrderAccepted(order) => {
            format!(
                "order {}: {} {} at {}",
                order.order_id.get(),
                order.side.get(),
                order.quantity.get(),
                order.price.get()
            )
        }
        BodyRef::OrderExecuted(order) => {
            format!("order {}: executed, {} left", order.order_id.get(), order.leaves_quantity.get())
        }
        _ => event.kind().name().replace('_', " "),
    };
    let time = rfc3339(event.event_time().get());
    format!("{:>8}  {}  #{}  {what}", event.sequence(), &time[11..23.min(time.len())], event.instrument())
}
