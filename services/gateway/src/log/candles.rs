//! The current candle of each instrument of a subscription: read from the log once, then carried along trade by trade.
//!
//! Only the current candle is kept, however long it is. A late trade of an earlier one, and a trade that was taken back,
//! cannot be folded into that: then clients are told to ask for earlier candles again, and the current one is read again.

use matchtape_client::{KeptRange, busts_between};
use matchtape_market::{Candle, Candles, Trade, TradeSummary};
use matchtape_schemas::{EventTime, InstrumentId, Kind, KindMask, Sequence};
use matchtape_storage::{Direction, Query, ReadError, Reader};
use rustc_hash::FxHashMap;

/// The current candle of some instruments.
#[derive(Clone, Debug)]
pub(crate) struct CandleFold {
    interval_ns: i64,
    current: FxHashMap<InstrumentId, Candle>,
    /// Of a candle that begins below retention: where it starts, and the event time from which on all its trades are in it.
    below_retention: FxHashMap<InstrumentId, (EventTime, EventTime)>,
}

/// What a trade did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// The current candle is this now.
    Current(Candle),
    /// It belongs to an earlier one, which starts here.
    Late(EventTime),
}

impl CandleFold {
    /// As of a position.
    pub(crate) fn load(
        reader: &Reader,
        instruments: &[InstrumentId],
        interval_ns: i64,
        through: Sequence,
    ) -> Result<Self, ReadError> {
        let (current, below_retention) = (FxHashMap::default(), FxHashMap::default());
        let mut fold = Self { interval_ns, current, below_retention };
        for instrument in instruments {
            fold.reload(reader, *instrument, through)?;
        }
        Ok(fold)
    }

    /// Reads one instrument's current candle as of a position.
    pub(crate) fn reload(
        &mut self,
        reader: &Reader,
        instrument: InstrumentId,
        through: Sequence,
    ) -> Result<Option<Candle>, ReadError> {
        self.current.remove(&instrument);
        self.below_retention.remove(&instrument);
        let kinds = KindMask::of(&[Kind::TradeMatched]);
        let trades = Query { instrument: Some(instrument), kinds, through, ..Query::default() };
        let last = Query { direction: Direction::Backward, limit: Some(1), ..trades.clone() };
        let Some(last) = reader.query(&last)?.next().transpose()? else { return Ok(None) };
        // The last trade may be a late one: the current candle starts with it or later.
        let start = self.start_of(last.event().event_time());
        let kept = KeptRange::of(reader, start, EventTime::MAX);
        let begin = Query { from: kept.first, event_time_from: start, limit: Some(1), ..Query::default() };
        let begin = reader.query(&begin)?.next().transpose()?;
        let first = begin.map_or(last.sequence(), |event| event.sequence());
        let busts = busts_between(reader, Some(instrument), first, through)?;
        let mut candles = Candles::without(instrument, self.interval_ns, busts);
        for trade in reader.query(&Query { from: first, event_time_from: start, ..trades })? {
            candles.apply(&trade?.event());
        }
        let candle = candles.iter().next_back().copied();
        if let Some(candle) = candle {
            self.current.insert(instrument, candle);
            let below = kept.complete_from.filter(|complete_from| candle.start < *complete_from);
            self.below_retention
                .extend(below.map(|complete_from| (instrument, (candle.start, complete_from))));
        }
        Ok(candle)
    }

    fn start_of(&self, time: EventTime) -> EventTime {
        EventTime(time.get().saturating_sub(time.get().rem_euclid(self.interval_ns)))
    }

    /// Takes in the next trade.
    pub(crate) fn add(&mut self, trade: &Trade) -> Counted {
        let start = self.start_of(trade.event_time);
        let empty = Candle { start, summary: TradeSummary::default(), changed_at: trade.sequence };
        let candle = self.current.entry(trade.instrument).or_insert(empty);
        if start < candle.start {
            return Counted::Late(start);
        }
        if start > candle.start {
            *candle = empty;
        }
        candle.summary.add(trade.price, trade.quantity, trade.aggressor);
        candle.changed_at = trade.sequence;
        Counted::Current(*candle)
    }

    /// The event time from which on all trades of a candle are in it, where that is not its beginning.
    pub(crate) fn complete_from(&self, instrument: InstrumentId, candle: &Candle) -> Option<EventTime> {
        let (start, complete_from) = self.below_retention.get(&instrument)?;
        (*start == candle.start).then_some(*complete_from)
    }

    pub(crate) fn get(&self, instrument: InstrumentId) -> Option<&Candle> {
        self.current.get(&instrument)
    }

    pub(crate) fn interval_ns(&self) -> i64 {
        self.interval_ns
    }
}
