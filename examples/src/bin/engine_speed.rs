//! How many commands a second the matching engine takes, and what its books look like meanwhile.
//!
//! ```text
//! cargo run --release -p matchtape-examples --bin engine_speed -- [commands]
//! ```
//!
//! The commands of a seeded order flow are prepared first; then the engine alone is timed, from command to events.

use std::time::Instant;

use matchtape_examples::engine::{Command, Engine, Flow, FlowOptions, Session};
use matchtape_schemas::event::Side;
use matchtape_schemas::{Event, EventTime};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse())?;
    let day = Session { trading_day: 20_231_114, number: 0 };
    let (mut engine, mut group) = (Engine::default(), Vec::new());
    Flow::set_up(&mut engine, day, EventTime(0), &mut group)?;
    let mut fresh = engine.clone();

    let mut flow = Flow::new(FlowOptions::default(), &engine);
    let commands: Vec<Command> = (0..count)
        .map(|_| {
            let command = flow.next(&engine);
            group.clear();
            engine.execute(&command, EventTime(0), &mut group);
            flow.observe(&engine, &group);
            command
        })
        .collect();

    let mut events: Vec<Event> = Vec::with_capacity(1024);
    let (mut said, mut longest_group) = (0, 0);
    let start = Instant::now();
    for command in &commands {
        events.clear();
        fresh.execute(command, EventTime(0), &mut events);
        said += events.len();
        longest_group = longest_group.max(events.len());
    }
    let took = start.elapsed();
    assert_eq!(
        fresh.last_producer_sequence(),
        engine.last_producer_sequence(),
        "the same commands, the same events"
    );

    let rate = (count as u128 * 1_000_000_000 / took.as_nanos().max(1)) as u64;
    println!("{count} commands in {took:?}: {rate} commands/s, {said} events, longest group {longest_group}");
    for (instrument, definition, status) in fresh.instruments() {
        let [bids, offers] = [Side::Buy, Side::Sell].map(|side| fresh.orders(instrument, side).count());
        let [bid, offer] =
            [Side::Buy, Side::Sell].map(|side| fresh.best(instrument, side).unwrap_or_default());
        println!("{:10} {status}: {bids} bids up to {bid}, {offers} offers from {offer}", definition.symbol);
    }
    Ok(())
}
