//! `matchtape query orders`

use clap::Args;
use matchtape_client::OrderRow;
use matchtape_client::orders::{self, OrdersQuestion};
use matchtape_market::OrderStatus;
use matchtape_schemas::{AccountId, OrderId, Sequence};

use super::remote::{Question, refuse_account};
use super::select::{Common, Page, Place, Range};
use crate::cli::error::CliError;
use crate::cli::position::{At, Position};
use crate::server::Server;

/// What became of each order: its state at a position, in order of entry.
///
/// All of the instrument's events up to there are read. --order finds by the index instead, also under the numbers that
/// replacements gave the order. A --server shows neither owners nor orders that were refused. Where retention has dropped
/// the tape's beginning, orders that were in the books then are marked entered_below_retention, and what is not known of
/// them is left out.
#[derive(Args, Debug)]
pub(super) struct OrdersArgs {
    #[command(flatten)]
    common: Common,
    /// Only of this instrument: its symbol, the venue's number, or its id on the tape
    #[arg(long, value_name = "SYMBOL")]
    instrument: Option<String>,
    /// As of this position: end, a sequence, or (with --instrument) a time
    #[arg(long, value_name = "POSITION", default_value = "end")]
    at: At,
    /// Only orders that entered at or after this sequence or event time
    #[arg(long, value_name = "POSITION")]
    from: Option<Position>,
    /// Only orders that entered at or before this sequence or event time
    #[arg(long, value_name = "POSITION")]
    to: Option<Position>,
    /// Only orders in this state: open, filled, cancelled, cleared or rejected
    #[arg(long, value_name = "STATUS")]
    status: Option<StatusArg>,
    /// Only this order
    #[arg(long, value_name = "ID")]
    order: Option<u64>,
    /// Only orders of this account
    #[arg(long, value_name = "ID")]
    account: Option<u64>,
    #[command(flatten)]
    page: Page,
}

/// How far an order has come, by name.
#[derive(Clone, Copy, Debug)]
struct StatusArg(OrderStatus);

impl std::str::FromStr for StatusArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = OrderStatus::ALL.iter().find(|status| status.name() == text);
        found.map(|status| Self(*status)).ok_or_else(|| {
            let names: Vec<&str> = OrderStatus::ALL.iter().map(|status| status.name()).collect();
            format!("there are {}", names.join(", "))
        })
    }
}

pub(super) fn run(args: &OrdersArgs) -> Result<(), CliError> {
    let session = match args.common.open()? {
        Place::Data(session) => session,
        Place::Server(server) => return from_server(args, &server),
    };
    let instrument = args.instrument.as_deref().map(|text| session.instrument(text)).transpose()?;
    let through = match (args.at, instrument) {
        (At::End, _) => session.reader.visible(),
        (At::Position(position), Some(instrument)) => session.position(position, instrument)?,
        (At::Position(Position::Sequence(sequence)), None) => session.sequence(sequence)?,
        (At::Position(Position::Time(_)), None) => return Err(time_needs_instrument()),
    };
    let mut question = OrdersQuestion {
        instrument,
        status: args.status.map(|StatusArg(status)| status),
        account: args.account.map(AccountId),
        refused: true,
        newest_first: args.page.reverse,
        limit: args.page.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        ..OrdersQuestion::new(through)
    };
    match args.from {
        Some(Position::Sequence(from)) => question.from = from,
        Some(Position::Time(from)) => question.time_from = from,
        None => {}
    }
    match args.to {
        Some(Position::Sequence(to)) => question.to = to,
        Some(Position::Time(to)) => question.time_to = to,
        None => {}
    }
    let found = match args.order {
        Some(number) => {
            let mut found = orders::order(&session.reader, OrderId(number), instrument, through, true)?;
            found.found = question.select(found.found).0;
            found
        }
        None => orders::orders(&session.reader, &question)?,
    };
    let mut output = args.common.output();
    for state in &found.found {
        output.write(&OrderRow::new(state, &session.name(state.instrument)))?;
    }
    output.finish::<OrderRow>()?;
    announce_complete_from(found.complete_from().map(Sequence::get));
    Ok(())
}

/// Says what an answer cannot have.
fn announce_complete_from(first: Option<u64>) {
    if let Some(first) = first {
        eprintln!(
            "complete from sequence {first} on: of orders that entered before it, only those are known that were in the books then"
        );
    }
}

fn time_needs_instrument() -> CliError {
    CliError::Usage(
        "--at with a time needs --instrument: each instrument has its own state as of a time".to_owned(),
    )
}

fn from_server(args: &OrdersArgs, server: &Server) -> Result<(), CliError> {
    refuse_account(args.account)?;
    if matches!((args.at, &args.instrument), (At::Position(Position::Time(_)), None)) {
        return Err(time_needs_instrument());
    }
    let range = Range { from: args.from, to: args.to };
    let mut question = Question::new(&range, &args.page);
    question.add("instrument", args.instrument.as_ref());
    question.add("status", args.status.map(|StatusArg(status)| status.name()));
    if let At::Position(at) = args.at {
        question.add("at", Some(at.to_string()));
    }
    let path = args.order.map_or_else(|| "/v1/orders".to_owned(), |order| format!("/v1/orders/{order}"));
    let mut output = args.common.output();
    let mut pages = question.pages::<OrderRow>(server, &path, "orders", None);
    for row in pages.by_ref() {
        output.write(&row?)?;
    }
    output.finish::<OrderRow>()?;
    announce_complete_from(pages.complete_from());
    Ok(())
}
