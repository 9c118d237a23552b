//! Reads in windows: one line for every 100 ms of event time, with what happened in it.
//!
//! A window is a pure function of the tape: with `replay` the same lines come from the log as came live.
//!
//! ```text
//! cargo run --release -p matchtape-examples --bin delayed -- DIRECTORY live|replay [WINDOWS]
//! ```

use std::path::Path;
use std::time::Duration;

use matchtape_client::time::rfc3339;
use matchtape_examples::local::{self, stop_flag, stopped};
use matchtape_schemas::Kind;
use matchtape_subscription::{
    Batch, Delayed, DelayedOptions, End, Pace, Start, Subscription, Update, WindowStart,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const USAGE: &str = "usage: delayed DIRECTORY live|replay [WINDOWS]";
    let mut arguments = std::env::args().skip(1);
    let (directory, tier) = (arguments.next().ok_or(USAGE)?, arguments.next().ok_or(USAGE)?);
    let mut left: u64 = arguments.next().map_or(Ok(u64::MAX), |text| text.parse())?;
    let stop = stop_flag()?;

    let history = local::history(Path::new(&directory))?;
    let options = DelayedOptions { start: WindowStart::From(Start::Beginning), ..DelayedOptions::default() };
    let mut subscription: Box<dyn Subscription> = match tier.as_str() {
        "live" => {
            let bus = local::live(&history)?;
            Box::new(Delayed::live(history, bus, &options)?)
        }
        "replay" => Box::new(Delayed::replay(history, &options, End::Visible, Pace::AsFastAsPossible)?),
        _ => return Err(USAGE.into()),
    };
    while !stopped(&stop) && left > 0 {
        match subscription.next(Duration::from_millis(100))? {
            Some(Update::Window(batch)) => {
                println!("{}", summary(&batch));
                left -= 1;
            }
            Some(Update::Ended { .. }) => break,
            Some(_) | None => {}
        }
    }
    Ok(())
}

fn summary(batch: &Batch<'_>) -> String {
    let span = format!("{} to {}", rfc3339(batch.start().get()), rfc3339(batch.end().get()));
    if batch.is_empty() {
        return format!("{span}: nothing, for {} windows", batch.windows());
    }
    let trades = batch.events().filter(|event| event.kind() == Kind::TradeMatched).count();
    let (count, late) = (batch.count(), batch.late());
    format!("{span}: {count} events ({}..{}), {trades} trades, {late} late", batch.first(), batch.last())
}
