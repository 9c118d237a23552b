//! `matchtape query trades`

use clap::Args;
use matchtape_client::{EventRow, TradeRow};
use matchtape_market::{Bust, Busts, Trade};
use matchtape_schemas::event::Side;
use matchtape_schemas::{
    AccountId, InstrumentId, Kind, KindMask, OrderId, Price, Quantity, Sequence, TradeId, VenueSequence,
};
use matchtape_storage::Query;

use super::remote::{Question, refuse_account};
use super::select::{Common, Cursor, Page, Place, Range};
use crate::cli::error::CliError;
use crate::server::Server;

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
    #[command(flatten)]
    cursor: Cursor,
}

pub(super) fn run(args: &TradesArgs) -> Result<(), CliError> {
    args.range.check()?;
    let session = match args.common.open()? {
        Place::Data(session) => session,
        Place::Server(server) => return from_server(args, &server),
    };
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
    let mut output = args.common.output();
    let mut page = session.reader.page(&query, "trades", args.cursor.cursor.as_deref())?;
    for event in page.by_ref() {
        let event = event?;
        let trade = Trade::of(&event.event()).expect("the query asks for trades");
        output.write(&TradeRow::new(&trade, &session.name(trade.instrument), busts.contains(&trade)))?;
    }
    output.finish::<TradeRow>()?;
    Cursor::announce(page.next_page());
    Ok(())
}

fn from_server(args: &TradesArgs, server: &Server) -> Result<(), CliError> {
    refuse_account(args.account)?;
    let mut busts = Busts::new();
    let mut question = Question::everything();
    question.add("kind", Some(Kind::TradeBusted.name()));
    question.add("instrument", args.instrument.as_ref());
    for row in question.rows::<EventRow>(server, "/v1/events")? {
        let row = row?;
        let bust = Bust {
            at: row.sequence,
            instrument: row.instrument_id.unwrap_or(InstrumentId(0)),
            trade_sequence: row.trade_sequence.unwrap_or(Sequence::ZERO),
            trade_id: row.trade_id.unwrap_or(TradeId(0)),
        };
        busts.add(&bust, |bust| newest(server, bust))?;
    }
    let mut question = Question::new(&args.range, &args.page);
    question.add("kind", Some(Kind::TradeMatched.name()));
    question.add("instrument", args.instrument.as_ref());
    question.add("order_id", args.order);
    let mut output = args.common.output();
    let next = question.events(server, &args.cursor, |row| {
        let trade = trade_of(&row);
        let name = row.instrument.unwrap_or_else(|| trade.instrument.to_string());
        Ok(output.write(&TradeRow::new(&trade, &name, busts.contains(&trade)))?)
    })?;
    output.finish::<TradeRow>()?;
    Cursor::announce(next);
    Ok(())
}

/// The newest trade that a bust by number may mean.
fn newest(server: &Server, bust: &Bust) -> Result<Option<Sequence>, CliError> {
    let mut question = Question::everything();
    question.add("kind", Some(Kind::TradeMatched.name()));
    question.add("trade_id", Some(bust.trade_id));
    question.add("to", Some(bust.at.previous()));
    question.add("order", Some("desc"));
    for row in question.rows::<EventRow>(server, "/v1/events")? {
        let row = row?;
        // As a parameter its number could mean the venue's number of another.
        if row.instrument_id == Some(bust.instrument) {
            return Ok(Some(row.sequence));
        }
    }
    Ok(None)
}

/// The trade that a row of events tells of.
fn trade_of(row: &EventRow) -> Trade {
    Trade {
        sequence: row.sequence,
        instrument: row.instrument_id.unwrap_or(InstrumentId(0)),
        event_time: row.event_time,
        trade_id: row.trade_id.unwrap_or(TradeId(0)),
        buy_order_id: row.buy_order_id.unwrap_or(OrderId(0)),
        sell_order_id: row.sell_order_id.unwrap_or(OrderId(0)),
        price: row.price.unwrap_or(Price::NONE),
        quantity: row.quantity.unwrap_or(Quantity::ZERO),
        aggressor: row.aggressor.unwrap_or(Side::None),
        venue_sequence: row.venue_sequence.unwrap_or(VenueSequence(0)),
    }
}
