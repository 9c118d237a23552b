//! `matchtape query ticker` and `matchtape query status`

use clap::Args;
use matchtape_client::{Row, StatusRow, TickerRow, as_of};
use matchtape_schemas::{EventTime, InstrumentId, Kind, KindMask, Sequence};
use matchtape_storage::{Query, ReadError};
use serde::de::DeserializeOwned;

use super::remote::Question;
use super::select::{Common, Place, Session};
use crate::cli::error::CliError;
use crate::cli::position::{At, Position};

/// The last trade of each instrument, and what was traded in its session: open, high, low, last, volume, turnover.
///
/// A session begins with the venue's event or, where the tape has none, with the UTC day of the trades.
#[derive(Args, Debug)]
pub(super) struct TickerArgs {
    #[command(flatten)]
    asked: Asked,
}

/// What may be done in each instrument: its trading status.
#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    asked: Asked,
}

#[derive(Args, Debug)]
struct Asked {
    #[command(flatten)]
    common: Common,
    /// Only of this instrument: its symbol, the venue's number, or its id on the tape
    #[arg(long, value_name = "SYMBOL")]
    instrument: Option<String>,
    /// As of this position: end, a sequence, or a time
    #[arg(long, value_name = "POSITION", default_value = "end")]
    at: At,
}

impl Asked {
    /// The position meant; `as_of` says it of a time.
    fn through(
        &self,
        session: &Session,
        as_of: impl FnOnce(EventTime) -> Result<Sequence, ReadError>,
    ) -> Result<Sequence, CliError> {
        match self.at {
            At::End => Ok(session.reader.visible()),
            At::Position(Position::Sequence(sequence)) => session.sequence(sequence),
            At::Position(Position::Time(time)) => Ok(as_of(time)?),
        }
    }

    /// The rows from wherever was asked.
    fn answer<R: Row + DeserializeOwned>(
        &self,
        path: &str,
        list: &'static str,
        rows: impl FnOnce(&Session, Option<InstrumentId>) -> Result<Vec<R>, CliError>,
    ) -> Result<(), CliError> {
        let mut output = self.common.output();
        match self.common.open()? {
            Place::Data(session) => {
                let instrument =
                    self.instrument.as_deref().map(|text| session.instrument(text)).transpose()?;
                for row in rows(&session, instrument)? {
                    output.write(&row)?;
                }
            }
            Place::Server(server) => {
                let mut question = Question::everything();
                question.add("instrument", self.instrument.as_ref());
                if let At::Position(at) = self.at {
                    question.add("at", Some(at.to_string()));
                } else {
                    // The live state may be a moment behind; the end is what was visible when this was asked.
                    question.add("at", Some(server.watermarks()?.visible));
                }
                for row in question.whole::<R>(&server, path, list)? {
                    output.write(&row)?;
                }
            }
        }
        output.finish::<R>()?;
        Ok(())
    }
}

pub(super) fn ticker(args: &TickerArgs) -> Result<(), CliError> {
    args.asked.answer("/v1/ticker", "tickers", |session, instrument| {
        let through =
            args.asked.through(session, |time| as_of::ticker_prefix(&session.reader, instrument, time))?;
        let tickers = as_of::tickers(&session.reader, through)?;
        let wanted =
            tickers.iter().filter(|ticker| instrument.is_none_or(|wanted| ticker.instrument == wanted));
        Ok(wanted.map(|ticker| TickerRow::new(ticker, &session.name(ticker.instrument))).collect())
    })
}

pub(super) fn status(args: &StatusArgs) -> Result<(), CliError> {
    args.asked.answer("/v1/status", "status", |session, instrument| {
        let kinds = KindMask::of(&[Kind::InstrumentDefined, Kind::TradingStatusChanged]);
        let through = args.asked.through(session, |time| match instrument {
            Some(instrument) => session.reader.prefix_through(instrument, time),
            None => as_of::prefix(&session.reader, &Query { kinds, ..Query::default() }, time),
        })?;
        let instruments = as_of::instruments(&session.reader, through)?;
        let wanted = instruments.iter().filter(|found| instrument.is_none_or(|wanted| found.id == wanted));
        Ok(wanted.map(StatusRow::new).collect())
    })
}
