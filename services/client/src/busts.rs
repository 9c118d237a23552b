//! Trades that were taken back, as the tape tells.

use matchtape_market::{Bust, Busts, Found, Tickers, Trade};
use matchtape_schemas::{InstrumentId, Kind, KindMask, Sequence, TradeId};
use matchtape_storage::{Direction, Query, ReadError, Reader};

/// The trades at or after `from` that events through `through` took back, of one instrument or of all. A bust comes after
/// its trade, however much later.
///
/// Busts are seldom, so they are looked for in the whole tape, whose blocks without one are passed over unread, and not among
/// all events of an instrument. One that tells its trade by the venue's number costs a look-up, backwards from the bust.
pub fn busts_between(
    reader: &Reader,
    instrument: Option<InstrumentId>,
    from: Sequence,
    through: Sequence,
) -> Result<Busts, ReadError> {
    let kinds = KindMask::of(&[Kind::TradeBusted]);
    let mut busts = Busts::new();
    for event in reader.query(&Query { from, through, kinds, ..Query::default() })? {
        let Some(bust) = Bust::of(&event?.event()) else { continue };
        if instrument.is_none_or(|instrument| instrument == bust.instrument) {
            busts.add(&bust, |bust| newest(reader, bust, from))?;
        }
    }
    Ok(busts)
}

/// The newest trade at or after `from` that a bust by number may mean.
fn newest(reader: &Reader, bust: &Bust, from: Sequence) -> Result<Option<Sequence>, ReadError> {
    let found = reader.query(&newest_of(bust, from))?.next().transpose()?;
    Ok(found.map(|trade| trade.sequence()))
}

fn newest_of(bust: &Bust, from: Sequence) -> Query {
    Query {
        from,
        through: bust.at.previous(),
        instrument: Some(bust.instrument),
        trade: Some(bust.trade_id),
        kinds: KindMask::of(&[Kind::TradeMatched]),
        direction: Direction::Backward,
        limit: Some(1),
        ..Query::default()
    }
}

/// The trade that a bust means, found by its position or by the index.
pub fn busted_trade(reader: &Reader, bust: &Bust) -> Result<Found, ReadError> {
    let first_kept = reader.first_kept();
    let (stated, kinds) = (bust.trade_sequence, KindMask::of(&[Kind::TradeMatched]));
    let one = if stated != Sequence::ZERO {
        if stated < first_kept || stated >= bust.at {
            return Ok(Found::NotSince(first_kept));
        }
        let instrument = Some(bust.instrument);
        Query { from: stated, through: stated, instrument, kinds, ..Query::default() }
    } else if bust.trade_id == TradeId(0) {
        return Ok(Found::NotSince(Sequence::FIRST));
    } else {
        newest_of(bust, first_kept)
    };
    let found = reader.query(&one)?.next().transpose()?;
    let trade = found.and_then(|found| Trade::of(&found.event()));
    Ok(trade.map_or(Found::NotSince(first_kept), Found::Trade))
}

/// Decides the busts through `through`, at which the tickers stand, that the fold could not decide by itself.
pub fn settle(reader: &Reader, tickers: &mut Tickers, through: Sequence) -> Result<(), ReadError> {
    let Some(from) = tickers.undecided_from() else { return Ok(()) };
    let first_kept = reader.first_kept();
    let kinds = KindMask::of(&[Kind::TradeBusted]);
    for event in reader.query(&Query { from: from.max(first_kept), through, kinds, ..Query::default() })? {
        if let Some(bust) = Bust::of(&event?.event()) {
            tickers.settle(&bust, |bust| busted_trade(reader, bust))?;
        }
    }
    tickers.settled(first_kept);
    Ok(())
}
