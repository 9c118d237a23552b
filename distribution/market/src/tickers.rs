//! Tickers: the last trade of each instrument, and the summary of its session, as one snapshot section.
//!
//! A session begins with `SessionOpened` of the instrument or (instrument zero) of the whole venue. Where a tape has none,
//! it is the UTC day of the trades: the first trade of a later day begins another. A session that has begun without a
//! trade has no open, high or low; `last` is kept from before.
//!
//! A trade that was taken back leaves the sums exactly. The prices are found again among the last [`RECENT`] trades: `last`
//! and `close` go back to the trade before, and in a session that has not had more trades, open, high and low are exact,
//! too. In a longer one they stay as they were traded, and [`Ticker::busted`] tells that there was such a trade; candles
//! are exact.
//!
//! Section `tickers`, version 2, little-endian: the venue's session, `u32` tickers, then each by ascending instrument:
//!
//! ```text
//! session:  u8 whether there is one   u32 trading day   u32 number   i64 begun   u64 at
//! ticker:   u32 instrument   its session, as above   i64 previous close   u64 changed at   u64 busted
//!           4 x i64 open high low close   3 x u128 volume, of buyers, of sellers   i128 notional   u64 trades
//!           u32 trades taken back, then each by ascending position: u64 position   u64 trade id
//!           u32 recent trades, then each: u64 position   u64 trade id   i64 price   u64 quantity   u8 aggressor   i64 event time
//! ```
//!
//! Version 1, which is read, too, has no trade ids of trades taken back.

use std::collections::{BTreeMap, VecDeque};

use matchtape_schemas::event::Side;
use matchtape_schemas::{
    BodyRef, EventRef, EventTime, InstrumentId, Kind, KindMask, Notional, Price, Projection, ProjectionError,
    Quantity, Sequence, TradeId,
};

use crate::section::{SectionReader, put_count, put_i64, put_u32, put_u64};
use crate::trades::{Bust, Trade, TradeSummary};
use crate::volume::Volume;

const NAME: &str = "tickers";
const VERSION: u32 = 2;
/// The layout before: of a trade taken back it has the position alone.
const WITHOUT_IDS: u32 = 1;
/// Trades of an instrument that are remembered one by one.
pub const RECENT: usize = 8;
/// Trades taken back that are remembered, so that none counts twice; further ones change nothing.
const BUSTED_MAX: usize = 4096;
const DAY_NS: i64 = 86_400_000_000_000;

/// Which session a summary is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// The trading day as the decimal number YYYYMMDD; zero where the tape has no sessions.
    pub trading_day: u32,
    /// Which session of the day, from 0.
    pub number: u32,
    /// When it began: the event's time or, on a tape without sessions, the UTC day's begin.
    pub begun: EventTime,
    /// The position of its first event.
    pub begun_at: Sequence,
}

/// A trade as a ticker remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastTrade {
    /// Its position.
    pub sequence: Sequence,
    /// Its number at the venue, zero for none.
    pub trade_id: TradeId,
    /// At which price.
    pub price: Price,
    /// How much.
    pub quantity: Quantity,
    /// The side that arrived; none in an auction.
    pub aggressor: Side,
    /// When it happened.
    pub event_time: EventTime,
}

/// A trade that was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TakenBack {
    sequence: Sequence,
    /// Zero where it is not known.
    trade_id: TradeId,
}

/// One instrument's ticker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticker {
    /// The instrument.
    pub instrument: InstrumentId,
    /// The session that `summary` is of; `None` before the first.
    pub session: Option<Session>,
    /// Its trades.
    pub summary: TradeSummary,
    /// The last price of the session before it.
    pub previous_close: Price,
    /// Trades of the session that were taken back.
    pub busted: u64,
    /// The last event that changed it.
    pub changed_at: Sequence,
    /// Trades that were taken back, by ascending position: those of the session, and older ones for as long as a bust that
    /// comes again could be taken for one of a trade still remembered.
    taken_back: Vec<TakenBack>,
    /// The last trades, newest last; those of earlier sessions as well.
    recent: VecDeque<LastTrade>,
}

impl Ticker {
    fn new(instrument: InstrumentId) -> Self {
        Self {
            instrument,
            session: None,
            summary: TradeSummary::default(),
            previous_close: Price::NONE,
            busted: 0,
            changed_at: Sequence::ZERO,
            taken_back: Vec::new(),
            recent: VecDeque::new(),
        }
    }

    /// The last trade that was not taken back.
    pub fn last(&self) -> Option<&LastTrade> {
        self.recent.back()
    }

    fn begin(&mut self, session: Session) {
        if let Some(last) = self.recent.back() {
            self.previous_close = last.price;
        }
        self.session = Some(session);
        self.summary = TradeSummary::default();
        self.busted = 0;
        let oldest = self.recent.front().map_or(Sequence::MAX, |oldest| oldest.sequence);
        self.taken_back.retain(|taken| taken.sequence > oldest);
        self.changed_at = session.begun_at;
    }

    fn trade(&mut self, trade: &Trade) {
        let day = EventTime(trade.event_time.get().saturating_sub(trade.event_time.get().rem_euclid(DAY_NS)));
        let begins = match self.session {
            None => true,
            Some(session) => session.trading_day == 0 && day > session.begun,
        };
        if begins {
            self.begin(Session { trading_day: 0, number: 0, begun: day, begun_at: trade.sequence });
        }
        self.summary.add(trade.price, trade.quantity, trade.aggressor);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        let &Trade { sequence, trade_id, price, quantity, aggressor, event_time, .. } = trade;
        self.recent.push_back(LastTrade { sequence, trade_id, price, quantity, aggressor, event_time });
        self.changed_at = sequence;
    }

    /// Takes a trade back; `false` if it is not one of this session, or was taken back before.
    fn bust(&mut self, bust: &Bust, stated: (Price, Quantity)) -> bool {
        let (at, sequence) = (bust.at, bust.trade_sequence);
        let is_it = |trade: &LastTrade| bust.may_mean(trade.sequence, trade.trade_id);
        let begun_at = self.session.map_or(Sequence::MAX, |session| session.begun_at);
        let place = self.recent.iter().rposition(is_it);
        let newest = place.map_or(Sequence::ZERO, |place| self.recent[place].sequence);
        // The same again, not one of an older trade of the same number.
        let is_taken = |taken: &TakenBack| bust.may_mean(taken.sequence, taken.trade_id);
        if self.taken_back.iter().rev().any(|taken| taken.sequence > newest && is_taken(taken)) {
            return false;
        }
        let all_remembered = self.remembers_all(begun_at);
        let (taken, price, quantity, aggressor) = match place.map(|place| self.recent[place]) {
            Some(LastTrade { sequence, trade_id, price, quantity, aggressor, .. }) => {
                (TakenBack { sequence, trade_id }, price, quantity, aggressor)
            }
            // Older than what is remembered: the bust's own words. Whose initiative it was is not among them.
            None if !all_remembered
                && sequence != Sequence::ZERO
                && self.recent.front().is_some_and(|oldest| sequence < oldest.sequence) =>
            {
                let taken = TakenBack { sequence, trade_id: bust.trade_id };
                (taken, stated.0, stated.1, Side::None)
            }
            None => return false,
        };
        let of_session = taken.sequence >= begun_at;
        if !of_session && place.is_none() {
            return false;
        }
        match self.taken_back.binary_search_by_key(&taken.sequence, |taken| taken.sequence) {
            Ok(_) => return false,
            Err(_) if self.taken_back.len() == BUSTED_MAX => return false,
            Err(at) => self.taken_back.insert(at, taken),
        }
        if let Some(place) = place {
            self.recent.remove(place);
        }
        self.changed_at = at;
        if !of_session {
            let before = self.recent.iter().rfind(|trade| trade.sequence < begun_at);
            self.previous_close = before.map_or(Price::NONE, |trade| trade.price);
            return true;
        }
        self.busted += 1;
        if all_remembered {
            self.summary = TradeSummary::default();
            for trade in self.recent.iter().filter(|trade| trade.sequence >= begun_at) {
                self.summary.add(trade.price, trade.quantity, trade.aggressor);
            }
        } else {
            self.take_out(price, quantity, aggressor);
            if let Some(last) = self.recent.back().filter(|last| last.sequence >= begun_at) {
                self.summary.close = last.price;
            }
        }
        true
    }

    /// Whether every trade of the session that counts is among the recent ones.
    fn remembers_all(&self, begun_at: Sequence) -> bool {
        let of_session = self.recent.iter().filter(|trade| trade.sequence >= begun_at).count();
        self.summary.trades == of_session as u64
    }

    fn take_out(&mut self, price: Price, quantity: Quantity, aggressor: Side) {
        let less =
            |volume: Volume| Volume::from_units(volume.units().saturating_sub(u128::from(quantity.units())));
        let summary = &mut self.summary;
        summary.volume = less(summary.volume);
        match aggressor {
            Side::Buy => summary.buy_volume = less(summary.buy_volume),
            Side::Sell => summary.sell_volume = less(summary.sell_volume),
            Side::None => {}
        }
        if let Some(notional) = price.times(quantity) {
            summary.notional =
                Notional::from_units(summary.notional.units().saturating_sub(notional.units()));
        }
        summary.trades = summary.trades.saturating_sub(1);
    }
}

/// Every instrument's ticker.
#[derive(Clone, Debug, Default)]
pub struct Tickers {
    by_instrument: BTreeMap<InstrumentId, Ticker>,
    /// The whole venue's session.
    session: Option<Session>,
    watched: bool,
    changed: Vec<InstrumentId>,
}

impl Tickers {
    /// The kinds that change it.
    pub const KINDS: KindMask = KindMask::of(&[Kind::TradeMatched, Kind::TradeBusted, Kind::SessionOpened]);

    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers from now on which change; then [`take_changes`](Self::take_changes) has to be called at group ends.
    pub fn watch(&mut self) {
        self.watched = true;
    }

    /// The instruments whose tickers changed since the last call, ascending.
    pub fn take_changes(&mut self) -> Vec<InstrumentId> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    /// Takes in the next event of the tape.
    #[inline]
    pub fn apply(&mut self, event: &EventRef<'_>) {
        if Self::KINDS.contains(event.kind()) {
            self.take_in(event);
        }
    }

    fn take_in(&mut self, event: &EventRef<'_>) {
        let instrument = event.instrument();
        if let Some(trade) = Trade::of(event) {
            self.ticker(instrument).trade(&trade);
            return self.touch(instrument);
        }
        match event.body() {
            BodyRef::TradeBusted(busted) => {
                let stated = (busted.price.get(), busted.quantity.get());
                let (Some(bust), Some(ticker)) = (Bust::of(event), self.by_instrument.get_mut(&instrument))
                else {
                    return;
                };
                if ticker.bust(&bust, stated) {
                    self.touch(instrument);
                }
            }
            BodyRef::SessionOpened(opened) => {
                let session = Session {
                    trading_day: opened.trading_day.to_native(),
                    number: opened.session.to_native(),
                    begun: event.event_time(),
                    begun_at: event.sequence(),
                };
                if instrument != InstrumentId(0) {
                    self.ticker(instrument).begin(session);
                    return self.touch(instrument);
                }
                self.session = Some(session);
                self.by_instrument.values_mut().for_each(|ticker| ticker.begin(session));
                if self.watched {
                    self.changed.extend(self.by_instrument.keys());
                }
            }
            _ => {}
        }
    }

    fn ticker(&mut self, instrument: InstrumentId) -> &mut Ticker {
        let session = self.session;
        self.by_instrument.entry(instrument).or_insert_with(|| {
            let mut ticker = Ticker::new(instrument);
            if let Some(session) = session {
                ticker.begin(session);
            }
            ticker
        })
    }

    fn touch(&mut self, instrument: InstrumentId) {
        if self.watched {
            self.changed.push(instrument);
        }
    }

    /// The ticker of an instrument; `None` if nothing was traded in it and it has had no session of its own.
    pub fn get(&self, instrument: InstrumentId) -> Option<&Ticker> {
        self.by_instrument.get(&instrument)
    }

    /// Every ticker, by ascending instrument.
    pub fn iter(&self) -> impl Iterator<Item = &Ticker> + '_ {
        self.by_instrument.values()
    }
}

impl Projection for Tickers {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        VERSION
    }

    fn apply(&mut self, event: &EventRef<'_>) {
        Self::apply(self, event);
    }

    fn save(&self, out: &mut Vec<u8>) {
        save_session(self.session, out);
        put_count(out, self.by_instrument.len());
        for ticker in self.by_instrument.values() {
            save_ticker(ticker, out);
        }
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), ProjectionError> {
        self.restore_layout(VERSION, section)
    }

    fn restore_older(&mut self, version: u32, section: &[u8]) -> Option<Result<(), ProjectionError>> {
        (version == WITHOUT_IDS).then(|| self.restore_layout(version, section))
    }
}

impl Tickers {
    fn restore_layout(&mut self, version: u32, section: &[u8]) -> Result<(), ProjectionError> {
        let mut reader = SectionReader::new(NAME, section);
        let session = restore_session(&mut reader)?;
        let mut restored = Self { session, watched: self.watched, ..Self::default() };
        for _ in 0..reader.count(TICKER_BYTES_MIN)? {
            let ticker = restore_ticker(&mut reader, version)?;
            let instrument = ticker.instrument;
            if restored.by_instrument.last_key_value().is_some_and(|(last, _)| *last >= instrument) {
                return Err(reader.error(format!("instrument {instrument} is out of order")));
            }
            restored.by_instrument.insert(instrument, ticker);
        }
        reader.end()?;
        *self = restored;
        Ok(())
    }
}

const SESSION_BYTES: usize = 1 + 4 + 4 + 8 + 8;
/// In either layout.
const TAKEN_BACK_BYTES_MIN: usize = 8;
const RECENT_BYTES: usize = 8 + 8 + 8 + 8 + 1 + 8;
const TICKER_BYTES_MIN: usize = 4 + SESSION_BYTES + 3 * 8 + 4 * 8 + 4 * 16 + 8 + 4 + 4;

fn save_session(session: Option<Session>, out: &mut Vec<u8>) {
    out.push(u8::from(session.is_some()));
    let session = session.unwrap_or_default();
    put_u32(out, session.trading_day);
    put_u32(out, session.number);
    put_i64(out, session.begun.get());
    put_u64(out, session.begun_at.get());
}

fn restore_session(reader: &mut SectionReader<'_>) -> Result<Option<Session>, ProjectionError> {
    let there = reader.u8()?;
    let session = Session {
        trading_day: reader.u32()?,
        number: reader.u32()?,
        begun: EventTime(reader.i64()?),
        begun_at: Sequence(reader.u64()?),
    };
    match there {
        0 if session == Session::default() => Ok(None),
        1 => Ok(Some(session)),
        other => Err(reader.error(format!("session {other}"))),
    }
}

fn save_ticker(ticker: &Ticker, out: &mut Vec<u8>) {
    put_u32(out, ticker.instrument.get());
    save_session(ticker.session, out);
    put_i64(out, ticker.previous_close.units());
    put_u64(out, ticker.changed_at.get());
    put_u64(out, ticker.busted);
    let summary = &ticker.summary;
    for price in [summary.open, summary.high, summary.low, summary.close] {
        put_i64(out, price.units());
    }
    for volume in [summary.volume, summary.buy_volume, summary.sell_volume] {
        out.extend_from_slice(&volume.units().to_le_bytes());
    }
    out.extend_from_slice(&summary.notional.units().to_le_bytes());
    put_u64(out, summary.trades);
    put_count(out, ticker.taken_back.len());
    for taken in &ticker.taken_back {
        put_u64(out, taken.sequence.get());
        put_u64(out, taken.trade_id.get());
    }
    put_count(out, ticker.recent.len());
    for trade in &ticker.recent {
        put_u64(out, trade.sequence.get());
        put_u64(out, trade.trade_id.get());
        put_i64(out, trade.price.units());
        put_u64(out, trade.quantity.units());
        out.push(trade.aggressor as u8);
        put_i64(out, trade.event_time.get());
    }
}

fn restore_ticker(reader: &mut SectionReader<'_>, version: u32) -> Result<Ticker, ProjectionError> {
    let mut ticker = Ticker::new(InstrumentId(reader.u32()?));
    ticker.session = restore_session(reader)?;
    ticker.previous_close = Price::from_units(reader.i64()?);
    ticker.changed_at = Sequence(reader.u64()?);
    ticker.busted = reader.u64()?;
    let mut price = || reader.i64().map(Price::from_units);
    let [open, high, low, close] = [price()?, price()?, price()?, price()?];
    let mut volume = || reader.u128().map(Volume::from_units);
    let [all, of_buyers, of_sellers] = [volume()?, volume()?, volume()?];
    // A sum is of at most 2^64 quantities of 64 bits; one near the top would not bear the next trade.
    if [all, of_buyers, of_sellers].iter().any(|volume| volume.units() > u128::MAX / 2) {
        return Err(reader.error("a volume beyond what trades can add up to"));
    }
    ticker.summary = TradeSummary {
        open,
        high,
        low,
        close,
        volume: all,
        buy_volume: of_buyers,
        sell_volume: of_sellers,
        notional: Notional::from_units(reader.u128()? as i128),
        trades: reader.u64()?,
    };
    if ticker.summary.trades > u64::MAX / 2 {
        return Err(reader.error(format!("{} trades", ticker.summary.trades)));
    }
    for _ in 0..reader.count(TAKEN_BACK_BYTES_MIN)? {
        let sequence = Sequence(reader.u64()?);
        let trade_id = if version == WITHOUT_IDS { TradeId(0) } else { TradeId(reader.u64()?) };
        let taken = TakenBack { sequence, trade_id };
        if ticker.taken_back.last().is_some_and(|last| last.sequence >= taken.sequence) {
            return Err(reader.error(format!("trade {} is out of order", taken.sequence)));
        }
        ticker.taken_back.push(taken);
    }
    let recent = reader.count(RECENT_BYTES)?;
    if recent > RECENT || ticker.taken_back.len() > BUSTED_MAX {
        return Err(reader.error(format!("{recent} recent trades, {} taken back", ticker.taken_back.len())));
    }
    for _ in 0..recent {
        let (sequence, trade_id) = (Sequence(reader.u64()?), TradeId(reader.u64()?));
        let (price, quantity) = (Price::from_units(reader.i64()?), Quantity::from_units(reader.u64()?));
        let number = reader.u8()?;
        let aggressor = Side::ALL.get(usize::from(number)).copied();
        let aggressor = aggressor.ok_or_else(|| reader.error(format!("side {number}")))?;
        let event_time = EventTime(reader.i64()?);
        if ticker.recent.back().is_some_and(|last| last.sequence >= sequence) {
            return Err(reader.error(format!("trade {sequence} is out of order")));
        }
        ticker.recent.push_back(LastTrade { sequence, trade_id, price, quantity, aggressor, event_time });
    }
    Ok(ticker)
}
