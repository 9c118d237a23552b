//! `matchtape query orders`

use clap::Args;
use matchtape_client::OrderRow;
use matchtape_market::{OrderState, OrderStates};
use matchtape_schemas::{AccountId, Kind, KindMask, OrderId};
use matchtape_storage::Query;

use super::select::{Common, Page, Place};
use crate::cli::error::CliError;
use crate::cli::position::{At, Position};

/// What became of each order: its state at a position, in order of entry.
///
/// The whole tape of the instrument up to there is folded; every order takes memory. With --data only.
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
    /// Only this order
    #[arg(long, value_name = "ID")]
    order: Option<u64>,
    /// Only orders of this account
    #[arg(long, value_name = "ID")]
    account: Option<u64>,
    #[command(flatten)]
    page: Page,
}

/// The kinds that an order's state follows from.
const KINDS: KindMask = KindMask::of(&[
    Kind::OrderAccepted,
    Kind::OrderRejected,
    Kind::OrderReplaced,
    Kind::OrderCancelled,
    Kind::OrderExecuted,
    Kind::TradeMatched,
    Kind::BookCleared,
]);

pub(super) fn run(args: &OrdersArgs) -> Result<(), CliError> {
    let session = match args.common.open()? {
        Place::Data(session) => session,
        Place::Server(_) => {
            return Err(CliError::Usage(
                "orders are asked of the tape itself, with --data: their owners are private, and a gateway keeps no \
                 state of every order; `query events --server URL --order ID` shows what happened to one"
                    .to_owned(),
            ));
        }
    };
    let instrument = args.instrument.as_deref().map(|text| session.instrument(text)).transpose()?;
    let through = match (args.at, instrument) {
        (At::End, _) => session.reader.visible(),
        (At::Position(position), Some(instrument)) => session.position(position, instrument)?,
        (At::Position(Position::Sequence(sequence)), None) => sequence,
        (At::Position(Position::Time(_)), None) => {
            return Err(CliError::Usage(
                "--at with a time needs --instrument: each instrument has its own state as of a time"
                    .to_owned(),
            ));
        }
    };
    let mut states = OrderStates::new();
    for event in session.reader.query(&Query { instrument, through, kinds: KINDS, ..Query::default() })? {
        states.apply(&event?.event());
    }
    let mut output = args.common.output();
    let wanted = states.iter().filter(|state| wanted(args, state));
    let limit = usize::try_from(args.page.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let mut write = |state: &OrderState| output.write(&OrderRow::new(state, &session.name(state.instrument)));
    if args.page.reverse {
        wanted.rev().take(limit).try_for_each(&mut write)?;
    } else {
        wanted.take(limit).try_for_each(&mut write)?;
    }
    output.finish::<OrderRow>()?;
    Ok(())
}

fn wanted(args: &OrdersArgs, state: &OrderState) -> bool {
    let after = match args.from {
        Some(Position::Sequence(from)) => state.first_sequence >= from,
        Some(Position::Time(from)) => state.entered_at >= from,
        None => true,
    };
    let before = match args.to {
        Some(Position::Sequence(to)) => state.first_sequence <= to,
        Some(Position::Time(to)) => state.entered_at <= to,
        None => true,
    };
    after
        && before
        && args.order.is_none_or(|order| state.order_id == OrderId(order))
        && args.account.is_none_or(|account| state.account == AccountId(account))
}
