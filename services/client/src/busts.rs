//! Trades that were taken back, as the tape tells.

use matchtape_market::{Bust, Busts};
use matchtape_schemas::{InstrumentId, Kind, KindMask, Sequence};
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
    let trades = Query {
        from,
        through: bust.at.previous(),
        instrument: Some(bust.instrument),
        trade: Some(bust.trade_id),
        kinds: KindMask::of(&[Kind::TradeMatched]),
        direction: Direction::Backward,
        limit: Some(1),
        ..Query::default()
    };
    let found = reader.query(&trades)?.next().transpose()?;
    Ok(found.map(|trade| trade.sequence()))
}
