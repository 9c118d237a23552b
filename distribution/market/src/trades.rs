//! Trades as they are shown, their sums, and the ones that were taken back.

use matchtape_schemas::event::Side;
use matchtape_schemas::{
    BodyRef, EventRef, EventTime, InstrumentId, Notional, OrderId, Price, Quantity, Sequence, TradeId,
    VenueSequence,
};
use rustc_hash::FxHashSet;

use crate::volume::Volume;

/// One trade, without what is private.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trade {
    /// Its position.
    pub sequence: Sequence,
    /// Its instrument.
    pub instrument: InstrumentId,
    /// When it happened.
    pub event_time: EventTime,
    /// Its number at the venue, zero for none.
    pub trade_id: TradeId,
    /// The buying order, zero where the venue does not say.
    pub buy_order_id: OrderId,
    /// The selling order, zero where the venue does not say.
    pub sell_order_id: OrderId,
    /// At which price.
    pub price: Price,
    /// How much.
    pub quantity: Quantity,
    /// The side that arrived; none in an auction.
    pub aggressor: Side,
    /// The venue's number for the record.
    pub venue_sequence: VenueSequence,
}

impl Trade {
    /// The trade that an event says was matched.
    #[inline]
    pub fn of(event: &EventRef<'_>) -> Option<Self> {
        let BodyRef::TradeMatched(trade) = event.body() else {
            return None;
        };
        Some(Self {
            sequence: event.sequence(),
            instrument: event.instrument(),
            event_time: event.event_time(),
            trade_id: trade.trade_id.get(),
            buy_order_id: trade.buy_order_id.get(),
            sell_order_id: trade.sell_order_id.get(),
            price: trade.price.get(),
            quantity: trade.quantity.get(),
            aggressor: trade.aggressor.get(),
            venue_sequence: trade.venue_sequence.get(),
        })
    }
}

/// First, highest, lowest and last price of some trades, and their sums. Trades are added in tape order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TradeSummary {
    /// The first trade's price.
    pub open: Price,
    /// The highest price.
    pub high: Price,
    /// The lowest price.
    pub low: Price,
    /// The last trade's price.
    pub close: Price,
    /// Sum of quantities.
    pub volume: Volume,
    /// The part of it that buyers initiated.
    pub buy_volume: Volume,
    /// The part of it that sellers initiated. The rest has no aggressor: auctions.
    pub sell_volume: Volume,
    /// Sum of price times quantity, exactly.
    pub notional: Notional,
    /// How many.
    pub trades: u64,
}

impl Default for TradeSummary {
    fn default() -> Self {
        Self {
            open: Price::NONE,
            high: Price::NONE,
            low: Price::NONE,
            close: Price::NONE,
            volume: Volume::ZERO,
            buy_volume: Volume::ZERO,
            sell_volume: Volume::ZERO,
            notional: Notional::default(),
            trades: 0,
        }
    }
}

impl TradeSummary {
    /// Adds the next trade. One without a price counts in the volume alone.
    pub fn add(&mut self, price: Price, quantity: Quantity, aggressor: Side) {
        if let Some(notional) = price.times(quantity) {
            // A single product is below 2^127; a sum of more than that has no use, and stays at the largest there is.
            self.notional = self.notional.checked_add(notional).unwrap_or(Notional::from_units(i128::MAX));
            if self.open.is_none() {
                (self.open, self.high, self.low) = (price, price, price);
            }
            self.high = self.high.max(price);
            self.low = self.low.min(price);
            self.close = price;
        }
        self.volume = self.volume.plus(quantity);
        match aggressor {
            Side::Buy => self.buy_volume = self.buy_volume.plus(quantity),
            Side::Sell => self.sell_volume = self.sell_volume.plus(quantity),
            Side::None => {}
        }
        self.trades += 1;
    }
}

/// That a trade was taken back. Which one, its position says or, where that is not stated, the venue's number: venues use
/// numbers again, as every day, so it is the newest trade of that number before the bust, also if that one was taken back
/// before: a bust that comes again takes nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bust {
    /// The bust's own position.
    pub at: Sequence,
    /// The trade's instrument.
    pub instrument: InstrumentId,
    /// The trade's position, zero where the bust does not say it.
    pub trade_sequence: Sequence,
    /// The trade's number at the venue, zero for none.
    pub trade_id: TradeId,
}

impl Bust {
    /// The bust that an event is.
    pub fn of(event: &EventRef<'_>) -> Option<Self> {
        let BodyRef::TradeBusted(bust) = event.body() else {
            return None;
        };
        Some(Self {
            at: event.sequence(),
            instrument: event.instrument(),
            trade_sequence: bust.trade_sequence.get(),
            trade_id: bust.trade_id.get(),
        })
    }

    /// Whether it may mean this trade of its instrument. Of several, it means the newest.
    pub fn may_mean(&self, sequence: Sequence, trade_id: TradeId) -> bool {
        let named = if self.trade_sequence == Sequence::ZERO {
            self.trade_id != TradeId(0) && trade_id == self.trade_id
        } else {
            sequence == self.trade_sequence
        };
        named && sequence < self.at
    }
}

/// What the tape has of the trade that a bust means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// This one.
    Trade(Trade),
    /// None since this position, before which nothing is kept.
    NotSince(Sequence),
    /// It cannot be read.
    Unreadable,
}

/// The positions of trades that were taken back.
#[derive(Clone, Debug, Default)]
pub struct Busts {
    by_sequence: FxHashSet<(InstrumentId, Sequence)>,
}

impl Busts {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a bust. Where it does not say its trade's position, `newest` looks it up: that of the newest trade which the
    /// bust [may mean](Bust::may_mean), if the tape has one.
    pub fn add<E>(
        &mut self,
        bust: &Bust,
        newest: impl FnOnce(&Bust) -> Result<Option<Sequence>, E>,
    ) -> Result<(), E> {
        let sequence = match (bust.trade_sequence, bust.trade_id) {
            (Sequence::ZERO, TradeId(0)) => None,
            (Sequence::ZERO, _) => newest(bust)?,
            // What is still to come cannot be taken back.
            (sequence, _) => Some(sequence).filter(|sequence| *sequence < bust.at),
        };
        self.by_sequence.extend(sequence.map(|sequence| (bust.instrument, sequence)));
        Ok(())
    }

    /// Whether a trade was taken back.
    #[inline]
    pub fn contains(&self, trade: &Trade) -> bool {
        !self.by_sequence.is_empty() && self.by_sequence.contains(&(trade.instrument, trade.sequence))
    }
}
