//! Candles: trades gathered by event time into equal intervals.
//!
//! An interval starts at a multiple of its length since 1970 UTC, so a day is the UTC day. A trade belongs to the interval
//! of its event time, also when it comes late; within an interval, first and last are by position on the tape.
//!
//! A trade that was taken back leaves its candle as if it had never been there. Two ways to know:
//!
//! * history: the busts of the range are gathered first ([`Busts`]) and given to [`Candles::without`]; nothing but the
//!   candles is kept;
//! * live: [`Candles::live`] also keeps the trades of its candles until [`Candles::forget_before`], and a bust folds its
//!   candle again.

use std::collections::BTreeMap;

use matchtape_schemas::event::Side;
use matchtape_schemas::{EventRef, EventTime, InstrumentId, Price, Quantity, Sequence, TradeId};

use crate::trades::{Bust, Busts, Trade, TradeSummary};

/// The trades of one instrument in one interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candle {
    /// Where the interval starts.
    pub start: EventTime,
    /// Its trades.
    pub summary: TradeSummary,
    /// The last event that changed it: a trade or a bust.
    pub changed_at: Sequence,
}

/// One instrument's candles of one interval.
#[derive(Clone, Debug)]
pub struct Candles {
    instrument: InstrumentId,
    interval_ns: i64,
    busts: Busts,
    keeps_trades: bool,
    candles: BTreeMap<EventTime, Kept>,
    busts_of_unknown: u64,
}

#[derive(Clone, Debug)]
struct Kept {
    candle: Candle,
    trades: Vec<KeptTrade>,
}

#[derive(Clone, Copy, Debug)]
struct KeptTrade {
    sequence: Sequence,
    trade_id: TradeId,
    price: Price,
    quantity: Quantity,
    aggressor: Side,
    taken_back: bool,
}

impl Candles {
    /// Candles of trades that are known not to be among `busts`; events that bust others are ignored.
    ///
    /// # Panics
    /// If the interval is not positive.
    pub fn without(instrument: InstrumentId, interval_ns: i64, busts: Busts) -> Self {
        assert!(interval_ns > 0, "an interval lasts");
        Self {
            instrument,
            interval_ns,
            busts,
            keeps_trades: false,
            candles: BTreeMap::new(),
            busts_of_unknown: 0,
        }
    }

    /// Candles that follow a tape as it grows, busts included.
    ///
    /// # Panics
    /// If the interval is not positive.
    pub fn live(instrument: InstrumentId, interval_ns: i64) -> Self {
        Self { keeps_trades: true, ..Self::without(instrument, interval_ns, Busts::new()) }
    }

    /// The start of the interval that a time belongs to.
    pub fn start_of(&self, time: EventTime) -> EventTime {
        EventTime(time.get().saturating_sub(time.get().rem_euclid(self.interval_ns)))
    }

    /// Takes in the next event; returns the start of the candle it changed.
    pub fn apply(&mut self, event: &EventRef<'_>) -> Option<EventTime> {
        if event.instrument() != self.instrument {
            return None;
        }
        if let Some(trade) = Trade::of(event) {
            return self.add(&trade);
        }
        Bust::of(event).filter(|_| self.keeps_trades).and_then(|bust| self.take_out(&bust))
    }

    fn add(&mut self, trade: &Trade) -> Option<EventTime> {
        if self.busts.contains(trade) {
            return None;
        }
        let start = self.start_of(trade.event_time);
        let kept = self.candles.entry(start).or_insert_with(|| Kept {
            candle: Candle { start, summary: TradeSummary::default(), changed_at: trade.sequence },
            trades: Vec::new(),
        });
        kept.candle.summary.add(trade.price, trade.quantity, trade.aggressor);
        kept.candle.changed_at = trade.sequence;
        if self.keeps_trades {
            let &Trade { sequence, trade_id, price, quantity, aggressor, .. } = trade;
            kept.trades.push(KeptTrade { sequence, trade_id, price, quantity, aggressor, taken_back: false });
        }
        Some(start)
    }

    /// Folds the candle of a kept trade again without it. A candle that loses its last trade is gone.
    fn take_out(&mut self, bust: &Bust) -> Option<EventTime> {
        let candles = self.candles.values_mut();
        // The newest of the tape: a late trade is in an earlier candle.
        let busted = candles.filter_map(|kept| {
            let place =
                kept.trades.iter().rposition(|trade| bust.may_mean(trade.sequence, trade.trade_id))?;
            Some((kept, place))
        });
        let Some((kept, place)) = busted.max_by_key(|(kept, place)| kept.trades[*place].sequence) else {
            self.busts_of_unknown += 1;
            return None;
        };
        // The trade stays where a bust that comes again finds it, not one of an older trade of the same number.
        if std::mem::replace(&mut kept.trades[place].taken_back, true) {
            return None;
        }
        kept.candle.summary = TradeSummary::default();
        for trade in kept.trades.iter().filter(|trade| !trade.taken_back) {
            kept.candle.summary.add(trade.price, trade.quantity, trade.aggressor);
        }
        kept.candle.changed_at = bust.at;
        Some(kept.candle.start)
    }

    /// The candles that have trades, by time.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Candle> + '_ {
        self.candles.values().map(|kept| &kept.candle).filter(|candle| candle.summary.trades > 0)
    }

    /// The candle that starts at a time, if it has trades.
    pub fn get(&self, start: EventTime) -> Option<&Candle> {
        self.candles.get(&start).map(|kept| &kept.candle).filter(|candle| candle.summary.trades > 0)
    }

    /// Drops candles that start before a time, and their trades. A trade or a bust that still comes for one of them
    /// starts it anew or is counted as unknown: drop only what is final.
    pub fn forget_before(&mut self, start: EventTime) {
        self.candles = self.candles.split_off(&start);
    }

    /// Busts of trades that are not kept.
    pub fn busts_of_unknown(&self) -> u64 {
        self.busts_of_unknown
    }
}
