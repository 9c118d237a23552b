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
    Batch, Delayed, DelayedOptions, End, Pace, Start, Subscription, SubscriptionError, Update, WindowStart,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const USAGE: &str = "usage: delayed DIRECTORY live|replay [WINDOWS]";
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or(USAGE)?;
    let live = match arguments.next().as_deref() {
        Some("live") => true,
        Some("replay") => false,
        _ => return Err(USAGE.into()),
    };
    let windows: u64 = arguments.next().map_or(Ok(u64::MAX), |text| text.parse())?;

    let history = local::history(Path::new(&directory))?;
    let options = DelayedOptions { start: WindowStart::From(Start::Beginning), ..DelayedOptions::default() };
    if live {
        let bus = local::live(&history)?;
        print_windows(Delayed::live(history, bus, &options)?, windows)?;
    } else {
        print_windows(Delayed::replay(history, &options, End::Visible, Pace::AsFastAsPossible)?, windows)?;
    }
    Ok(())
}

fn print_windows(
    mut subscription: impl Subscription,
    windows: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    let (stop, mut left) = (stop_flag()?, windows);
    while !stopped(&stop) && left > 0 {
        match next(&mut subscription)? {
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

fn next(subscription: &mut impl Subscription) -> Result<Option<Update<'_>>, SubscriptionError> {
    subscription.next(Duration::from_millis(100))
}

fn summary(batch: &Batch<'_>) -> String {
    let trades = batch.events().filter(|event| event.kind() == Kind::TradeMatched).count();
    let (from, to) = (rfc3339(batch.start().get()), rfc3339(batch.end().get()));
    let span = format!("{from} to {to}");
    if batch.is_empty() {
        return format!("{span}: nothing, for {} windows", batch.windows());
    }
    let (count, late) = (batch.count(), batch.late());
    format!("{span}: {count} events ({}..{}), {trades} trades, {late} late", batch.first(), batch.last())
}
