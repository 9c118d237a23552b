//! Subscribes: prints every event of a running node's tape as it becomes visible, from another process.
//!
//! Events come over shared memory. When this process is stopped for a while (try Ctrl-Z and `fg`) or the node is
//! restarted, what was missed is read from the log, and nothing is missing or doubled.
//!
//! ```text
//! cargo run --release -p matchtape-examples --bin subscribe -- DIRECTORY [EVENTS]
//! ```

use std::path::Path;
use std::time::Duration;

use matchtape_examples::local::{self, line, stop_flag, stopped};
use matchtape_subscription::{RealTime, RealTimeOptions, Start, Subscription, Update};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: subscribe DIRECTORY [EVENTS]")?;
    let mut wanted: u64 = arguments.next().map_or(Ok(u64::MAX), |text| text.parse())?;
    let stop = stop_flag()?;

    let history = local::history(Path::new(&directory))?;
    let live = local::live(&history)?;
    let options = RealTimeOptions { start: Start::New, ..RealTimeOptions::default() };
    let mut subscription = RealTime::open(history, live, options)?;
    println!("waiting for events after {}; Ctrl-C ends", subscription.position().previous());
    while !stopped(&stop) && wanted > 0 {
        match subscription.next(Duration::from_millis(100))? {
            Some(Update::Events(events)) => {
                for event in events.iter().take(wanted as usize) {
                    println!("{}", line(&event));
                    wanted -= 1;
                }
            }
            Some(Update::LiveJoined { next }) => println!("-- live from {next}"),
            Some(Update::LiveLeft { next, reason }) => println!("-- from the log from {next}: {reason:?}"),
            Some(Update::Alarm { missed }) => println!("-- no sign of life for {missed} heartbeats"),
            Some(Update::Heartbeat { .. }) | None => {}
            Some(other) => println!("-- {other:?}"),
        }
    }
    println!("stopped; the next event is {}", subscription.position());
    Ok(())
}
