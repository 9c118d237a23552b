//! Publishes from a process of its own: into a node that runs elsewhere on this machine, through shared memory.
//!
//! Shows that publishing returns before the node has looked, how to wait for "accepted" and "durable", and that it goes on
//! through a restart of the node (kill it and start it again) and of itself.
//!
//! ```text
//! matchtape serve --data DIRECTORY
//! cargo run --release -p matchtape-examples --bin publish_remote -- DIRECTORY [TRADES]
//! ```

use std::path::Path;
use std::time::{Duration, Instant};

use matchtape_bus::{RemoteOptions, RemotePublisher, RemoteWaitError};
use matchtape_examples::local::{history, instrument, order, stop_flag, stopped, trade};
use matchtape_node::{BusOptions, Publish as _, PublishError, WaitError};
use matchtape_schemas::event::Side;
use matchtape_schemas::{ProducerId, Stage};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: publish_remote DIRECTORY [TRADES]")?;
    let trades: u64 = arguments.next().map_or(Ok(u64::MAX), |text| text.parse())?;
    let stop = stop_flag()?;

    // The directory says which tape; everything else goes through shared memory.
    let name = BusOptions::default().name(history(Path::new(&directory))?.tape())?;
    let mut publisher = RemotePublisher::connect(&name, ProducerId(2), RemoteOptions::default())?;
    let mut number = publisher.last().map_or(0, |last| last.get());
    println!("publishing after {number} events; Ctrl-C ends");
    if number == 0 {
        number = 1;
        publisher.publish(&instrument(number)?)?;
    }
    for _ in (0..trades).take_while(|_| !stopped(&stop)) {
        let (sell, buy, cents) = (number + 1, number + 2, 10_000 + number % 97);
        let seller = order(sell, Side::Sell, cents);
        let group = [order(buy, Side::Buy, cents), trade(number + 3, buy, sell, cents)];
        let start = Instant::now();
        match publisher.publish(&seller).and_then(|_| publisher.publish_group(&group)) {
            Ok(_) => number += 3,
            // Not taken for now. What was of the two is told by `last`: numbers once taken are not taken again.
            Err(error) if error == PublishError::WouldBlock || error == PublishError::Closed => {}
            Err(error) => return Err(error.into()),
        }
        let (taken, last) = (start.elapsed(), publisher.last().ok_or("nothing was taken")?);
        match publisher.wait(last, Stage::Durable) {
            Ok(at) => println!("event {last} at {at}: taken in {taken:?}, durable in {:?}", start.elapsed()),
            // Nothing is lost: it is in the window, and goes to the node that comes next.
            Err(
                error @ (RemoteWaitError::Wait(WaitError::Closed) | RemoteWaitError::Disconnected { .. }),
            ) => {
                println!("{error}")
            }
            Err(error) => return Err(error.into()),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
