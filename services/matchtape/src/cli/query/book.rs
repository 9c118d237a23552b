//! `matchtape query book`

use clap::Args;
use matchtape_client::cell::Cell;
use matchtape_client::{LevelRow, as_of};
use matchtape_market::Volume;
use matchtape_schemas::Price;
use matchtape_schemas::event::Side;

use super::select::{Common, Place};
use crate::cli::error::CliError;
use crate::cli::position::At;
use crate::server::Server;

/// An instrument's order book at a position: bids best first, then offers best first.
///
/// At a sequence it is the book right after that event, also inside a group (with --server: after the last group that ends
/// there or before). As of a time it is the book after the
/// instrument's longest run of events, from its first, of which none is later than the time.
#[derive(Args, Debug)]
pub(super) struct BookArgs {
    #[command(flatten)]
    common: Common,
    /// The instrument: its symbol, the venue's number, or its id on the tape
    #[arg(long, value_name = "SYMBOL")]
    instrument: String,
    /// end, a sequence (below 10^15), a time in ns since 1970 UTC (from 10^15 on), or a time like 2023-07-11T09:30:00Z
    #[arg(long, value_name = "POSITION", default_value = "end")]
    at: At,
    /// So many levels of each side; 0: all [default: all]
    #[arg(long, value_name = "LEVELS")]
    depth: Option<usize>,
}

impl BookArgs {
    fn levels(&self) -> usize {
        self.depth.filter(|levels| *levels > 0).unwrap_or(usize::MAX)
    }
}

pub(super) fn run(args: &BookArgs) -> Result<(), CliError> {
    let session = match args.common.open()? {
        Place::Data(session) => session,
        Place::Server(server) => return from_server(args, &server),
    };
    let instrument = session.instrument(&args.instrument)?;
    let through = match args.at {
        At::End => session.reader.visible(),
        At::Position(position) => session.position(position, instrument)?,
    };
    let books = as_of::books(&session.reader, &[instrument], through)?;
    announce(&session.name(instrument), through);
    let mut output = args.common.output();
    if let Some(book) = books.get(instrument) {
        for side in [Side::Buy, Side::Sell] {
            for level in book.levels(side).take(args.levels()) {
                output.write(&LevelRow::new(side, &level))?;
            }
        }
    }
    output.finish::<LevelRow>()?;
    Ok(())
}

/// Says what the levels are of, so that the same can be asked again: rows do not.
fn announce(name: &str, through: impl std::fmt::Display) {
    eprintln!("book of {name} as of sequence {through}: --at {through} gives it again");
}

/// A gateway's answer. A level: price, quantity, orders.
#[derive(serde::Deserialize)]
struct Answer {
    sequence: u64,
    bids: Vec<(String, String, u32)>,
    asks: Vec<(String, String, u32)>,
}

fn from_server(args: &BookArgs, server: &Server) -> Result<(), CliError> {
    let visible = server.watermarks()?.visible;
    // Zero: every level.
    let depth = args.depth.and_then(|levels| u16::try_from(levels).ok()).unwrap_or(0);
    let ask = |at: String| {
        let parameters = [("instrument", args.instrument.clone()), ("at", at), ("depth", depth.to_string())];
        server.object::<Answer>("/v1/book", &parameters)
    };
    let answer = match args.at {
        At::Position(at) => ask(at.to_string())?,
        At::End => {
            let answer = ask("end".to_owned())?;
            // The live books may be a moment behind; the end is what was visible when this was asked.
            if answer.sequence < visible { ask(visible.to_string())? } else { answer }
        }
    };
    announce(&args.instrument, answer.sequence);
    let mut output = args.common.output();
    for (side, levels) in [(Side::Buy, &answer.bids), (Side::Sell, &answer.asks)] {
        for (price, quantity, orders) in levels.iter().take(args.levels()) {
            let (Some(price), Some(quantity)) = (Price::read(price), Volume::read(quantity)) else {
                return Err(CliError::failed(format_args!(
                    "{}: no level is {price} {quantity}",
                    server.url()
                )));
            };
            output.write(&LevelRow { side, price, quantity, orders: *orders })?;
        }
    }
    output.finish::<LevelRow>()?;
    Ok(())
}
