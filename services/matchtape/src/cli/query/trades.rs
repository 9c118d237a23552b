//! `matchtape query trades`

use clap::Args;
use matchtape_client::TradeRow;
use matchtape_market::Trade;
use matchtape_schemas::{AccountId, Kind, KindMask, OrderId};
use matchtape_storage::Query;

use super::select::{Common, Page, Range, Session};
use crate::cli::error::CliError;

/// The trades, in the order of the tape; those taken back later on are marked.
#[derive(Args, Debug)]
pub(super) struct TradesArgs {
    #[command(flatten)]
    common: Common,
    /// Only of this instrument: its symbol, the venue's number, or its id on the tape
    #[arg(long, value_name = "SYMBOL")]
    instrument: Option<String>,
    #[command(flatten)]
    range: Range,
    /// Only trades of this order
    #[arg(long, value_name = "ID")]
    order: Option<u64>,
    /// Only trades of this account
    #[arg(long, value_name = "ID")]
    account: Option<u64>,
    #[command(flatten)]
    page: Page,
}

pub(super) fn run(args: &TradesArgs) -> Result<(), CliError> {
    let session = Session::open(&args.common)?;
    let mut query = Query {
        instrument: args.instrument.as_deref().map(|text| session.instrument(text)).transpose()?,
        order: args.order.map(OrderId),
        account: args.account.map(AccountId),
        kinds: KindMask::of(&[Kind::TradeMatched]),
        direction: args.page.direction(),
        limit: args.page.limit,
        ..Query::default()
    };
    args.range.apply(&mut query);
    let busts = session.busts(query.instrument)?;
    let mut output = session.output();
    for event in session.reader.query(&query)? {
        let event = event?;
        let trade = Trade::of(&event.event()).expect("the query asks for trades");
        output.write(&TradeRow::new(&trade, &session.name(trade.instrument), busts.contains(&trade)))?;
    }
    output.finish::<TradeRow>()?;
    Ok(())
}
