//! `matchtape query events`

use std::collections::HashMap;

use clap::Args;
use matchtape_client::EventRow;
use matchtape_schemas::{AccountId, InstrumentId, Kind, KindMask, OrderId, TradeId};
use matchtape_storage::Query;

use super::remote::{Question, refuse_account};
use super::select::{Common, Cursor, Page, Place, Range};
use crate::cli::error::CliError;
use crate::server::Server;

/// The events of the tape, one row each, in order.
#[derive(Args, Debug)]
pub(super) struct EventsArgs {
    #[command(flatten)]
    common: Common,
    /// Only of this instrument: its symbol, the venue's number, or its id on the tape
    #[arg(long, value_name = "SYMBOL")]
    instrument: Option<String>,
    #[command(flatten)]
    range: Range,
    /// Only events of this order
    #[arg(long, value_name = "ID")]
    order: Option<u64>,
    /// Only events of this trade
    #[arg(long, value_name = "ID")]
    trade: Option<u64>,
    /// Only events of this account
    #[arg(long, value_name = "ID")]
    account: Option<u64>,
    /// Only these kinds, separated by commas: order_accepted, trade_matched, ..., or a topic: orders, trades, market,
    /// accounts, state, control, all
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kind)]
    kind: Vec<KindMask>,
    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    cursor: Cursor,
}

/// Kinds by their name or topic.
pub(in crate::cli) fn kind(text: &str) -> Result<KindMask, String> {
    if let Some(kind) = Kind::from_name(text) {
        return Ok(KindMask::of(&[kind]));
    }
    KindMask::topic(text).ok_or_else(|| {
        let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        format!(
            "there are {}, and the topics orders, trades, market, accounts, state, control, all",
            names.join(", ")
        )
    })
}

pub(super) fn run(args: &EventsArgs) -> Result<(), CliError> {
    args.range.check()?;
    let session = match args.common.open()? {
        Place::Data(session) => session,
        Place::Server(server) => return from_server(args, &server),
    };
    let kinds = match args.kind.as_slice() {
        [] => KindMask::ALL,
        kinds => kinds.iter().fold(KindMask::NONE, |all, kind| all.with(*kind)),
    };
    let mut query = Query {
        instrument: args.instrument.as_deref().map(|text| session.instrument(text)).transpose()?,
        order: args.order.map(OrderId),
        trade: args.trade.map(TradeId),
        account: args.account.map(AccountId),
        kinds,
        direction: args.page.direction(),
        limit: args.page.limit,
        ..Query::default()
    };
    args.range.apply(&mut query);
    let mut output = args.common.output();
    let mut symbols: HashMap<InstrumentId, Option<String>> = HashMap::new();
    let mut page = session.reader.page(&query, "events", args.cursor.cursor.as_deref())?;
    for event in page.by_ref() {
        let event = event?;
        let event = event.event();
        let id = event.instrument();
        let symbol = symbols.entry(id).or_insert_with(|| session.symbol(id));
        output.write(&EventRow::new(&event, symbol.as_deref()))?;
    }
    output.finish::<EventRow>()?;
    Cursor::announce(page.next_page());
    Ok(())
}

fn from_server(args: &EventsArgs, server: &Server) -> Result<(), CliError> {
    refuse_account(args.account)?;
    let mut question = Question::new(&args.range, &args.page);
    question.add("instrument", args.instrument.as_ref());
    question.add("order_id", args.order);
    question.add("trade_id", args.trade);
    if !args.kind.is_empty() {
        let named = Kind::ALL.iter().filter(|kind| args.kind.iter().any(|mask| mask.contains(**kind)));
        question.add("kind", Some(named.map(|kind| kind.name()).collect::<Vec<_>>().join(",")));
    }
    let mut output = args.common.output();
    let next = question.events(server, &args.cursor, |row| Ok(output.write(&row)?))?;
    output.finish::<EventRow>()?;
    Cursor::announce(next);
    Ok(())
}
