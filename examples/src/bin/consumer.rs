//! Consumes durably: opens a node, publishes orders onto its tape, and lets two members of one consumer share them.
//!
//! What is acknowledged never comes again, also after this program was killed; what was not comes again, marked. One in
//! fifty is refused at first, and delivered again after a while, before anything later of its instrument.
//!
//! ```text
//! cargo run --release -p matchtape-examples --bin consumer -- DIRECTORY [ORDERS]
//! ```

use std::path::Path;
use std::time::Duration;

use matchtape_examples::local::{instrument, order, stop_flag, stopped};
use matchtape_node::consumers::{AckPolicy, Definition, Item};
use matchtape_node::{Node, NodeOptions};
use matchtape_schemas::event::Side;
use matchtape_schemas::{ProducerId, Stage};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: consumer DIRECTORY [ORDERS]")?;
    let orders: u64 = arguments.next().map_or(Ok(100), |text| text.parse())?;
    let stop = stop_flag()?;
    let node = Node::open(Path::new(&directory), NodeOptions::default(), Vec::new())?;
    let mut publisher = node.publisher(ProducerId(1))?;
    let mut number = publisher.last().map_or(0, |last| last.get());
    if number == 0 {
        number = 1;
        publisher.publish(&instrument(number)?)?;
    }
    for _ in 0..orders {
        number += 1;
        let position = publisher.publish(&order(number, Side::Sell, 10_000 + number % 97))?.sequence();
        node.wait(position, Stage::Visible)?;
    }

    // Made once; on the next start it is there, and goes on where it was.
    let (consumers, name) = (node.consumers(), "risk".parse()?);
    let definition = Definition {
        ack: AckPolicy::Explicit,
        members_max: 2,
        max_deliver: Some(5),
        ..Definition::default()
    };
    let found = consumers.add(&name, definition)?;
    println!("everything up to {} was dealt with before; Ctrl-C ends", found.machine.floor);
    let members = [consumers.attach(&name, &"left".parse()?)?, consumers.attach(&name, &"right".parse()?)?];
    let (mut dealt_with, mut quiet) = (0u64, 0);
    while quiet < members.len() && !stopped(&stop) {
        let member = &members[(dealt_with as usize + quiet) % members.len()];
        let items = member.fetch(10, Duration::from_millis(100))?;
        quiet = if items.is_empty() { quiet + 1 } else { 0 };
        for item in items {
            match item {
                Item::Delivery(event) if event.sequence().get() % 50 == 0 && !event.redelivered() => {
                    member.nak(event.sequence(), Duration::from_millis(20))?;
                    println!("{} refused", event.sequence());
                }
                Item::Delivery(event) => {
                    member.ack(event.sequence())?;
                    dealt_with += 1;
                }
                Item::Advisory(advisory) => println!("{advisory}"),
            }
        }
    }
    println!("{dealt_with} events dealt with, through {}", consumers.info(&name)?.machine.floor);
    drop((members, publisher));
    Ok(node.close()?)
}
