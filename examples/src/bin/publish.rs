//! Publishes: opens a node, and ten times a second puts an order and a trade onto its tape.
//!
//! Shows the two ways of publishing (one event, a group), what "accepted" and "durable" cost, and that a producer carries
//! on where it ended when it is started again on the same directory. The other programs here watch it.
//!
//! ```text
//! cargo run --release -p matchtape-examples --bin publish -- DIRECTORY [TRADES]
//! ```

use std::path::Path;
use std::time::{Duration, Instant};

use matchtape_examples::local::{instrument, order, stop_flag, stopped, trade};
use matchtape_node::{BusOptions, Node, NodeOptions};
use matchtape_schemas::event::Side;
use matchtape_schemas::{ProducerId, Stage};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: publish DIRECTORY [TRADES]")?;
    let trades: u64 = arguments.next().map_or(Ok(u64::MAX), |text| text.parse())?;
    let stop = stop_flag()?;

    let time_advanced_after = Some(Duration::from_millis(100));
    let options =
        NodeOptions { bus: Some(BusOptions::default()), time_advanced_after, ..NodeOptions::default() };
    let node = Node::open(Path::new(&directory), options, Vec::new())?;
    let mut publisher = node.publisher(ProducerId(1))?;
    // The producer's own numbering goes on where the tape says it ended.
    let mut number = publisher.last().map_or(0, |last| last.get());
    println!("publishing to {directory} after {} events; Ctrl-C ends", node.watermarks().visible);
    if number == 0 {
        number = 1;
        publisher.publish(&instrument(number)?)?;
    }
    for _ in (0..trades).take_while(|_| !stopped(&stop)) {
        let (sell, buy, cents) = (number + 1, number + 2, 10_000 + number % 97);
        // A seller's order rests: an event that is a group of its own.
        publisher.publish(&order(sell, Side::Sell, cents))?;
        // A buyer takes it. The order and the trade are one group: no reader ever sees one without the other.
        let group = [order(buy, Side::Buy, cents), trade(number + 3, buy, sell, cents)];
        let start = Instant::now();
        let position = publisher.publish_group(&group)?.sequence();
        let accepted = start.elapsed();
        node.wait(position, Stage::Durable)?;
        println!("trade at {position}: accepted in {accepted:?}, durable in {:?}", start.elapsed());
        number += 3;
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(publisher);
    let progress = node.progress();
    node.close()?;
    // Until then, the node itself may have said that time has passed.
    println!("stopped after {} events", progress.watermarks().visible);
    Ok(())
}
