//! `matchtape query candles`

use clap::Args;
use matchtape_client::time::rfc3339;
use matchtape_client::{CandleRow, KeptRange};
use matchtape_market::Candles;
use matchtape_schemas::{EventTime, Kind, KindMask, Sequence};
use matchtape_storage::{Query, ReadError};

use super::remote::instrument_path;
use super::select::{Common, Page, Place, Range};
use crate::cli::error::CliError;
use crate::cli::position::{Interval, Position};
use crate::server::Server;

/// An instrument's trades gathered by event time: open, high, low, close, volume, notional and number of trades.
///
/// Intervals start at multiples of their length since 1970 UTC; those without trades are left out, and trades that were
/// taken back do not count. A candle that --from or --to cuts has the trades within only. A --server gathers by whole seconds, over a range of times.
/// Of a range that begins below retention what is kept is given, and said from when on it is complete.
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
    args.range.check()?;
    let session = match args.common.open()? {
        Place::Data(session) => session,
        Place::Server(server) => return from_server(args, &server),
    };
    let instrument = session.instrument(&args.instrument)?;
    let mut query = Query {
        instrument: Some(instrument),
        kinds: KindMask::of(&[Kind::TradeMatched]),
        ..Query::default()
    };
    args.range.apply(&mut query);
    let first_kept = session.reader.first_kept();
    if query.through < first_kept {
        return Err(ReadError::BelowRetention { asked: query.through, first_kept }.into());
    }
    let kept = KeptRange::of(&session.reader, query.event_time_from, query.event_time_through);
    let by_position = query.from != Sequence::ZERO;
    if !by_position {
        query.from = kept.first;
    }
    let mut candles = Candles::without(instrument, args.interval.ns, session.busts(Some(instrument))?);
    for event in session.reader.query(&query)? {
        candles.apply(&event?.event());
    }
    if candles.iter().next().is_none() {
        kept.nothing_found(&session.reader)?;
    }
    let limit = usize::try_from(args.page.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let mut output = args.common.output();
    if args.page.reverse {
        candles.iter().rev().take(limit).try_for_each(|candle| output.write(&CandleRow::new(candle)))?;
    } else {
        candles.iter().take(limit).try_for_each(|candle| output.write(&CandleRow::new(candle)))?;
    }
    output.finish::<CandleRow>()?;
    if !by_position {
        announce_complete_from(kept.complete_from.map(EventTime::get));
    }
    Ok(())
}

/// Says what an answer cannot have.
fn announce_complete_from(time: Option<i64>) {
    if let Some(time) = time {
        eprintln!("complete from {} on: trades before that may be below retention", rfc3339(time));
    }
}

/// Intervals asked for at once: well below what a gateway gives.
const INTERVALS_AT_ONCE: i64 = 2_000;

/// When an instrument's market events began and how far they have come, as a gateway says it.
#[derive(serde::Deserialize)]
struct Extent {
    first_event_time: Option<String>,
    last_event_time: Option<String>,
}

#[derive(serde::Deserialize)]
struct Answer {
    candles: Vec<CandleRow>,
    complete_from_time: Option<String>,
}

fn from_server(args: &CandlesArgs, server: &Server) -> Result<(), CliError> {
    const SECOND_NS: i64 = 1_000_000_000;
    let (from, to) = (time(args.range.from, "--from")?, time(args.range.to, "--to")?);
    if args.interval.ns % SECOND_NS != 0 {
        return Err(CliError::Usage("--interval with --server is of whole seconds".to_owned()));
    }
    let ask = |from: i64, to: i64| {
        let parameters = [
            ("instrument", args.instrument.clone()),
            ("interval", format!("{}s", args.interval.ns / SECOND_NS)),
            ("from", Position::Time(EventTime(from)).to_string()),
            ("to", Position::Time(EventTime(to)).to_string()),
        ];
        server.object::<Answer>("/v1/candles", &parameters)
    };
    let limit = usize::try_from(args.page.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let mut candles: Vec<CandleRow> = Vec::new();
    let extent: Extent = server.object(&instrument_path(&args.instrument), &[])?;
    let read = |text: Option<String>| text.and_then(|ns| ns.parse::<i64>().ok());
    let (from, to) = (from.unwrap_or(i64::MIN), to.unwrap_or(i64::MAX));
    let asked = match (read(extent.first_event_time), read(extent.last_event_time)) {
        (Some(first), Some(last)) => pieces(first, last, from, to, args.interval.ns),
        // Nothing is kept of it: whether there was something, the gateway says.
        _ => vec![(from, to)],
    };
    let (mut complete_from, mut refused) = (None, None);
    for (from, to) in asked {
        if !args.page.reverse && candles.len() >= limit {
            break;
        }
        match ask(from, to) {
            Ok(answer) => {
                candles.extend(answer.candles);
                complete_from = complete_from.max(read(answer.complete_from_time));
            }
            // A piece alone may lie below retention, and what comes then be kept.
            Err(error) if error.is("below_retention") => refused = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(error) = refused.filter(|_| candles.is_empty()) {
        return Err(error.into());
    }
    if args.page.reverse {
        candles.reverse();
    }
    let mut output = args.common.output();
    candles.iter().take(limit).try_for_each(|candle| output.write(candle))?;
    output.finish::<CandleRow>()?;
    announce_complete_from(complete_from);
    Ok(())
}

/// `from..=to` in pieces that end where intervals do and together leave nothing out, of which only those are long that lie
/// outside of `first..=last`: a tape's first event need not be its earliest, nor its last the latest.
fn pieces(first: i64, last: i64, from: i64, to: i64, interval_ns: i64) -> Vec<(i64, i64)> {
    let mut pieces = Vec::new();
    let length = interval_ns.saturating_mul(INTERVALS_AT_ONCE);
    let begins = first.max(from);
    let mut begin = from;
    let mut next = begins.saturating_sub(begins.rem_euclid(interval_ns)).checked_add(length);
    while let Some(at) = next.filter(|at| *at <= last && *at <= to) {
        pieces.push((begin, at - 1));
        (begin, next) = (at, at.checked_add(length));
    }
    if begin <= to {
        pieces.push((begin, to));
    }
    pieces
}

fn time(position: Option<Position>, flag: &str) -> Result<Option<i64>, CliError> {
    match position {
        None => Ok(None),
        Some(Position::Time(EventTime(ns))) => Ok(Some(ns)),
        Some(Position::Sequence(_)) => {
            Err(CliError::Usage(format!("{flag} of candles is a time with --server, not a sequence")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_leave_nothing_out_and_end_where_intervals_do() {
        let piece = INTERVALS_AT_ONCE * 60;
        assert_eq!(pieces(10, 50, i64::MIN, i64::MAX, 60), [(i64::MIN, i64::MAX)]);
        let (first, last) = (1_000_000_007, 1_000_000_000 + 3 * piece);
        for (from, to) in [(i64::MIN, i64::MAX), (first + 5, last - 5), (last - 1, last), (first, i64::MAX)] {
            let found = pieces(first, last, from, to, 60);
            assert_eq!((found[0].0, found[found.len() - 1].1), (from, to));
            for pair in found.windows(2) {
                assert_eq!(pair[0].1 + 1, pair[1].0);
                assert_eq!(pair[1].0.rem_euclid(60), 0);
            }
            for (begin, end) in found {
                assert!(end.min(last) - begin.max(first) <= piece + 60, "{begin}..={end}");
            }
        }
        assert_eq!(pieces(10, 50, 30, 20, 60), []);
        assert_eq!(pieces(i64::MAX - 5, i64::MAX, i64::MIN, i64::MAX, 60).len(), 1);
    }
}
