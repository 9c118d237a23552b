//! What the short programs share: the tape that another process on this machine writes (its past from the files, its
//! present from the bus), the events that one puts on it, Ctrl-C, and a file that is replaced as a whole.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use matchtape_bus::{BusService, WakeUp};
use matchtape_client::time::rfc3339;
use matchtape_node::{BusOptions, FollowedHistory};
use matchtape_schemas::event::{InstrumentDefined, OrderAccepted, Side, TradeMatched};
use matchtape_schemas::text::Text;
use matchtape_schemas::{
    Body, BodyRef, Event, EventRef, EventTime, InstrumentId, OrderId, Price, ProducerSequence, Quantity,
    TradeId,
};
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

/// Replaces `file` by one that holds `text`, in one step: whoever reads it, also after a crash, finds the old or the new.
pub fn replace_file(file: &str, text: &str) -> io::Result<()> {
    let beside = format!("{file}.new");
    let mut new = File::create(&beside)?;
    new.write_all(text.as_bytes())?;
    new.sync_all()?;
    std::fs::rename(beside, file)
}

/// The producer's event `number`, now: the one instrument there is.
pub fn instrument(number: u64) -> Result<Event, Box<dyn std::error::Error>> {
    let definition = InstrumentDefined {
        symbol: Text::new("ACME")?,
        price_increment: "0.01".parse()?,
        quantity_increment: "1".parse()?,
        ..Default::default()
    };
    Ok(now(number, definition.into()))
}

/// The producer's event `number`, now: the order of that number, over five shares.
pub fn order(number: u64, side: Side, cents: u64) -> Event {
    let (order_id, price, quantity) = (OrderId(number), dollars(cents), shares(5));
    now(number, OrderAccepted { order_id, price, quantity, side, ..Default::default() }.into())
}

/// The producer's event `number`, now: the trade in which the order `buy` takes all of `sell`.
pub fn trade(number: u64, buy: u64, sell: u64, cents: u64) -> Event {
    let trade = TradeMatched {
        trade_id: TradeId(number),
        buy_order_id: OrderId(buy),
        sell_order_id: OrderId(sell),
        price: dollars(cents),
        quantity: shares(5),
        aggressor: Side::Buy,
        ..Default::default()
    };
    now(number, trade.into())
}

fn now(number: u64, body: Body) -> Event {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Event::new(InstrumentId(1), ProducerSequence(number), EventTime(since_1970.as_nanos() as i64), body)
}

fn dollars(cents: u64) -> Price {
    Price::from_units(cents as i64 * 10_000_000)
}

fn shares(count: u64) -> Quantity {
    Quantity::from_units(count * 1_000_000_000)
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
