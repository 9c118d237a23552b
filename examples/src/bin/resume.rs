//! Resumes: counts trades and keeps the count together with its position, so that it is right however often it is
//! stopped, killed or restarted.
//!
//! The position of the last event taken in is stored with its effect, in one file that is replaced at once. Started again,
//! the program asks for the position after it: every event counts exactly once.
//!
//! ```text
//! cargo run --release -p matchtape-examples --bin resume -- DIRECTORY COUNT_FILE [EVENTS]
//! ```

use std::path::Path;
use std::time::Duration;

use matchtape_examples::local::{self, replace_file, stop_flag, stopped};
use matchtape_schemas::{Kind, Sequence};
use matchtape_subscription::{RealTime, RealTimeOptions, Start, Subscription, Update};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const USAGE: &str = "usage: resume DIRECTORY COUNT_FILE [EVENTS]";
    let mut arguments = std::env::args().skip(1);
    let (directory, file) = (arguments.next().ok_or(USAGE)?, arguments.next().ok_or(USAGE)?);
    let events: u64 = arguments.next().map_or(Ok(u64::MAX), |text| text.parse())?;
    let stop = stop_flag()?;

    // What is known, and through which event.
    let text = if Path::new(&file).exists() { std::fs::read_to_string(&file)? } else { "0 0".into() };
    let (through, trades) = text.trim().split_once(' ').ok_or("the count file has two numbers")?;
    let (mut through, mut trades) = (Sequence(through.parse()?), trades.parse::<u64>()?);
    println!("{trades} trades through event {through}; Ctrl-C ends");

    let last = Sequence(through.get().saturating_add(events));
    let history = local::history(Path::new(&directory))?;
    let live = local::live(&history)?;
    let options = RealTimeOptions { start: Start::At(through.next()), ..RealTimeOptions::default() };
    let mut subscription = RealTime::open(history, live, options)?;
    while !stopped(&stop) && through < last {
        if let Some(Update::Events(events)) = subscription.next(Duration::from_millis(100))? {
            for event in events.iter().take_while(|event| event.sequence() <= last) {
                assert_eq!(event.sequence(), through.next(), "no gap and no duplicate");
                trades += u64::from(event.kind() == Kind::TradeMatched);
                through = event.sequence();
            }
            // Position and count never belong to different moments.
            replace_file(&file, &format!("{through} {trades}\n"))?;
        }
    }
    println!("{trades} trades through event {through}");
    Ok(())
}
