//! A tape that another process on this machine writes: its past from the files, its present from the bus.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use matchtape_bus::{BusName, BusService, WakeUp};
use matchtape_client::time::rfc3339;
use matchtape_node::{BusOptions, StoreFrame, StoreHistory};
use matchtape_schemas::event::Side;
use matchtape_schemas::{BodyRef, EventRef, EventTime, Sequence};
use matchtape_storage::{ReadOnlyOptions, ReadOnlyStore, RealDisk};
use matchtape_subscription::{BusLive, History, HistoryError};

/// The log of a running node, read beside it. Shows what the node has made visible, as of the last look.
pub struct LocalHistory {
    store: ReadOnlyStore,
    history: StoreHistory,
}

impl LocalHistory {
    /// Opens the data directory of a node, which may be running.
    pub fn open(directory: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let store = ReadOnlyStore::open(Arc::new(RealDisk::open(directory)?), ReadOnlyOptions::default())?;
        let history = StoreHistory::new(store.reader());
        Ok(Self { store, history })
    }

    /// Where the node publishes the same tape live.
    pub fn live(&self) -> Result<BusLive, Box<dyn std::error::Error>> {
        let name: BusName = BusOptions::default().name(self.store.reader().tape())?;
        Ok(BusLive::new(&name, BusService::Live, WakeUp::Event, Duration::ZERO))
    }
}

impl History for LocalHistory {
    type Frame = StoreFrame;

    fn visible(&self) -> Sequence {
        self.history.visible()
    }

    fn first_kept(&self) -> Sequence {
        self.history.first_kept()
    }

    fn frame_at(&mut self, from: Sequence) -> Result<Option<StoreFrame>, HistoryError> {
        if from > self.history.visible() {
            self.store.refresh().map_err(|error| HistoryError::Failed(Box::new(error)))?;
        }
        self.history.frame_at(from)
    }

    fn first_at_time(&mut self, time: EventTime) -> Result<Option<Sequence>, HistoryError> {
        self.history.first_at_time(time)
    }
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
