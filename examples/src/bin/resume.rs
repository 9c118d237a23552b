//! Resumes: counts trades and keeps the count together with its position, so that it is right however often it is
//! stopped, killed or restarted.
//!
//! The position of the last event taken in is stored with its effect, in one file that is replaced at once. Started again,
//! the program asks for the position after it: every event counts exactly once.
//!
//! ```text
//! cargo run --release -p matchtape-examples --bin resume -- DIRECTORY COUNT_FILE [EVENTS]
//! ```

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use matchtape_examples::local::{self, stop_flag, stopped};
use matchtape_schemas::{Kind, Sequence};
use matchtape_subscription::{RealTime, RealTimeOptions, Start, Subscription, Update};

/// What is known, and through which event.
struct Count {
    through: Sequence,
    trades: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: resume DIRECTORY COUNT_FILE [EVENTS]";
    let (directory, file) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);
    let events: u64 = arguments.next().map_or(Ok(u64::MAX), |text| text.parse())?;
    let stop = stop_flag()?;

    let mut count = load(&file)?;
    let last = Sequence(count.through.get().saturating_add(events));
    println!("{} trades through event {}; Ctrl-C ends", count.trades, count.through);
    let history = local::history(Path::new(&directory))?;
    let live = local::live(&history)?;
    let options = RealTimeOptions { start: Start::At(count.through.next()), ..RealTimeOptions::default() };
    let mut subscription = RealTime::open(history, live, options)?;
    while !stopped(&stop) && count.through < last {
        if let Some(Update::Events(events)) = subscription.next(Duration::from_millis(100))? {
            for event in events.iter().take_while(|event| event.sequence() <= last) {
                assert_eq!(event.sequence(), count.through.next(), "no gap and no duplicate");
                count.trades += u64::from(event.kind() == Kind::TradeMatched);
                count.through = event.sequence();
            }
            store(&file, &count)?;
        }
    }
    println!("{} trades through event {}", count.trades, count.through);
    Ok(())
}

fn load(file: &str) -> Result<Count, Box<dyn std::error::Error>> {
    if !Path::new(file).exists() {
        return Ok(Count { through: Sequence::ZERO, trades: 0 });
    }
    let text = std::fs::read_to_string(file)?;
    let (through, trades) = text.trim().split_once(' ').ok_or("the count file has two numbers")?;
    Ok(Count { through: Sequence(through.parse()?), trades: trades.parse()? })
}

/// Replaces the file as a whole: position and count never belong to different moments.
fn store(file: &str, count: &Count) -> std::io::Result<()> {
    let beside = format!("{file}.new");
    let mut new = File::create(&beside)?;
    writeln!(new, "{} {}", count.through, count.trades)?;
    new.sync_all()?;
    std::fs::rename(beside, file)
}
