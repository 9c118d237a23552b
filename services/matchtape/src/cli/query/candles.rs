//! `matchtape query candles`

use clap::Args;
use matchtape_client::CandleRow;
use matchtape_market::Candles;
use matchtape_schemas::{Kind, KindMask};
use matchtape_storage::Query;

use super::select::{Common, Page, Range, Session};
use crate::cli::error::CliError;
use crate::cli::position::Interval;

/// An instrument's trades gathered by event time: open, high, low, close, volume, notional and number of trades.
///
/// Intervals start at multiples of their length since 1970 UTC; those without trades are left out, and trades that were
/// taken back do not count.
#[derive(Args, Debug)]
pub(super) struct CandlesArgs {
    #[command(flatten)]
    common: Common,
    /// The instrument: its symbol, the venue's number, or its id on the tape
    #[arg(long, value_name = "SYMBOL")]
    instrument: String,
    /// Length of a candle: a number and one of ns, us, ms, s, m, h, d
    #[arg(long, value_name = "LENGTH", default_value = "1m")]
    interval: Interval,
    #[command(flatten)]
    range: Range,
    #[command(flatten)]
    page: Page,
}

pub(super) fn run(args: &CandlesArgs) -> Result<(), CliError> {
    let session = Session::open(&args.common)?;
    let instrument = session.instrument(&args.instrument)?;
    let mut query = Query {
        instrument: Some(instrument),
        kinds: KindMask::of(&[Kind::TradeMatched]),
        ..Query::default()
    };
    args.range.apply(&mut query);
    let mut candles = Candles::without(instrument, args.interval.ns, session.busts(Some(instrument))?);
    for event in session.reader.query(&query)? {
        candles.apply(&event?.event());
    }
    let limit = usize::try_from(args.page.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let mut output = session.output();
    if args.page.reverse {
        candles.iter().rev().take(limit).try_for_each(|candle| output.write(&CandleRow::new(candle)))?;
    } else {
        candles.iter().take(limit).try_for_each(|candle| output.write(&CandleRow::new(candle)))?;
    }
    output.finish::<CandleRow>()?;
    Ok(())
}
