//! Replays: prints the trades of a tape at the pace at which they happened, or faster.
//!
//! The node may be running or not. SPEED 1 is the original pace, 60 an hour a minute, 0 as fast as it goes.
//!
//! ```text
//! cargo run --release -p matchtape-examples --bin replay -- DIRECTORY [SPEED] [FROM]
//! ```

use std::path::Path;
use std::time::Duration;

use matchtape_examples::local::{self, line, stop_flag, stopped};
use matchtape_schemas::{Kind, KindMask, Sequence};
use matchtape_subscription::{Filter, Historical, HistoricalOptions, Pace, Start, Subscription, Update};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: replay DIRECTORY [SPEED] [FROM]")?;
    let speed: f64 = arguments.next().map_or(Ok(1.0), |text| text.parse())?;
    let from: u64 = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let stop = stop_flag()?;

    let options = HistoricalOptions {
        start: Start::At(Sequence(from)),
        filter: Filter { kinds: KindMask::of(&[Kind::TradeMatched]), ..Filter::default() },
        pace: if speed == 0.0 { Pace::AsFastAsPossible } else { Pace::Times(speed) },
        ..HistoricalOptions::default()
    };
    let mut subscription = Historical::open(local::history(Path::new(&directory))?, options)?;
    let mut trades = 0;
    while !stopped(&stop) {
        match subscription.next(Duration::from_millis(100))? {
            Some(Update::Events(events)) => {
                for event in events.iter() {
                    println!("{}", line(&event));
                    trades += 1;
                }
            }
            Some(Update::Ended { next }) => {
                println!("the end, at {}", next.previous());
                break;
            }
            Some(_) | None => {}
        }
    }
    println!("{trades} trades");
    Ok(())
}
