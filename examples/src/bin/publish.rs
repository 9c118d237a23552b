//! Publishes: opens a node, and ten times a second puts an order and a trade onto its tape.
//!
//! Shows the two ways of publishing (one event, a group), what "accepted" and "durable" cost, and that a producer carries
//! on where it ended when it is started again on the same directory. The other programs here watch it.
//!
//! ```text
//! cargo run --release -p matchtape-examples --bin publish -- DIRECTORY [TRADES]
//! ```

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use matchtape_examples::local::{stop_flag, stopped};
use matchtape_node::{BusOptions, Node, NodeOptions};
use matchtape_schemas::event::{InstrumentDefined, OrderAccepted, Side, TradeMatched};
use matchtape_schemas::text::Text;
use matchtape_schemas::{
    Body, Event, EventTime, InstrumentId, OrderId, Price, ProducerId, ProducerSequence, Quantity, Stage,
    TradeId,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: publish DIRECTORY [TRADES]")?;
    let trades: u64 = arguments.next().map_or(Ok(u64::MAX), |text| text.parse())?;
    let stop = stop_flag()?;

    let options = NodeOptions {
        bus: Some(BusOptions::default()),
        time_advanced_after: Some(Duration::from_millis(100)),
        ..NodeOptions::default()
    };
    let node = Node::open(Path::new(&directory), options, Vec::new())?;
    let mut publisher = node.publisher(ProducerId(1))?;
    // The producer's own numbering goes on where the tape says it ended.
    let mut number = publisher.last().map_or(0, |mark| mark.producer_sequence.get());
    println!("publishing to {directory} after {} events; Ctrl-C ends", node.watermarks().visible);
    if number == 0 {
        number += 1;
        publisher.publish(&event(number, instrument()?.into()))?;
    }
    for _ in 0..trades {
        if stopped(&stop) {
            break;
        }
        let (sell, buy) = (OrderId(number + 1), OrderId(number + 2));
        let (price, quantity) =
            (Price::from_units(100_000_000_000 + (number % 97) as i64 * 10_000_000), "5".parse()?);
        // A seller's order rests: an event that is a group of its own.
        publisher.publish(&event(number + 1, order(sell, Side::Sell, price, quantity)))?;
        // A buyer takes it. The order and the trade are one group: no reader ever sees one without the other.
        let trade = TradeMatched {
            trade_id: TradeId(number + 3),
            buy_order_id: buy,
            sell_order_id: sell,
            price,
            quantity,
            aggressor: Side::Buy,
            ..Default::default()
        };
        let group =
            [event(number + 2, order(buy, Side::Buy, price, quantity)), event(number + 3, trade.into())];
        let start = Instant::now();
        let position = publisher.publish_group(&group)?.sequence();
        let accepted = start.elapsed();
        node.wait(position, Stage::Durable)?;
        println!("trade at {position}: accepted in {accepted:?}, durable in {:?}", start.elapsed());
        number += 3;
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(publisher);
    println!("stopped after {} events", node.watermarks().visible);
    Ok(node.close()?)
}

fn event(number: u64, body: Body) -> Event {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Event::new(InstrumentId(1), ProducerSequence(number), EventTime(since_1970.as_nanos() as i64), body)
}

fn instrument() -> Result<InstrumentDefined, Box<dyn std::error::Error>> {
    Ok(InstrumentDefined {
        symbol: Text::new("ACME")?,
        price_increment: "0.01".parse()?,
        quantity_increment: "1".parse()?,
        ..Default::default()
    })
}

fn order(order_id: OrderId, side: Side, price: Price, quantity: Quantity) -> Body {
    OrderAccepted { order_id, price, quantity, side, ..Default::default() }.into()
}
