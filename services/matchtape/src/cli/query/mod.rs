//! `matchtape query`

mod account;
mod book;
mod candles;
mod events;
mod orders;
mod remote;
mod select;
mod ticker;
mod trades;

use clap::{Args, Subcommand};

pub(super) use self::events::kind;
pub(super) use self::remote::path_below;
pub(super) use self::select::{Common, Place, Session, server};

use super::error::CliError;

/// Ask a tape: read-only, beside a running writer if there is one; or, with --server, the gateway of a running node.
#[derive(Args, Debug)]
#[command(
    after_help = "Positions (--from, --to, --at) are a sequence (a whole number below 10^15), a time in nanoseconds \
    since 1970 UTC (from 10^15 on), or a time like 2023-07-11T09:30:00.5+08:00 (UTC without an offset).\n\
    An answer of events or trades with --limit that has more says \"next: --cursor ...\" on the standard error: give that with the \
    same filters.\n\
    Without --format: a table on a terminal, JSON lines anywhere else. In JSON, prices and quantities are decimal \
    strings, ids and times (ns since 1970 UTC) are strings, sequences and counts are numbers; what is absent is left out.\n\
    A gateway (--server) gives the same rows without accounts, client order ids, rejected orders' fields and keyed state.\n\n\
    Examples:\n  \
    matchtape query events --data tape/ --instrument ESH4 --kind trades --limit 10\n  \
    matchtape query events --data tape/ --order 6412777162812 --format csv\n  \
    matchtape query trades --data tape/ --instrument ESH4 --from 2023-12-25T23:00:00Z --to 2023-12-25T23:01:00Z\n  \
    matchtape query book --data tape/ --instrument ESH4 --at 50000 --depth 5\n  \
    matchtape query candles --data tape/ --instrument ESH4 --interval 5m\n  \
    matchtape query ticker --data tape/ --at 2023-12-25T23:00:00Z\n  \
    matchtape query orders --data tape/ --instrument ESH4 --reverse --limit 20\n  \
    matchtape query orders --server http://127.0.0.1:7474 --order 6412777162812\n  \
    matchtape query book --server http://127.0.0.1:7474 --instrument ESH4"
)]
pub(super) struct QueryArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Events(events::EventsArgs),
    Trades(trades::TradesArgs),
    Orders(orders::OrdersArgs),
    Book(book::BookArgs),
    Candles(candles::CandlesArgs),
    Ticker(ticker::TickerArgs),
    Status(ticker::StatusArgs),
    Account(account::AccountArgs),
}

pub(super) fn run(args: &QueryArgs) -> Result<(), CliError> {
    match &args.what {
        What::Events(args) => events::run(args),
        What::Trades(args) => trades::run(args),
        What::Orders(args) => orders::run(args),
        What::Book(args) => book::run(args),
        What::Candles(args) => candles::run(args),
        What::Ticker(args) => ticker::ticker(args),
        What::Status(args) => ticker::status(args),
        What::Account(args) => account::run(args),
    }
}
