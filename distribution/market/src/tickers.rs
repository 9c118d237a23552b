//! Tickers: the last trade of each instrument, and the summary of its session, as one snapshot section.
//!
//! A session begins with `SessionOpened` of the instrument or (instrument zero) of the whole venue. Where a tape has none,
//! it is the UTC day of the trades: the first trade of a later day begins another. A session that has begun without a
//! trade has no open, high or low; `last` is kept from before.
//!
//! A trade that was taken back leaves the sums with its own price, quantity and initiative. Among the last [`RECENT`] trades
//! the fold finds it; of an older one nothing is kept here, so the fold remembers from which bust on it could not decide,
//! and whoever can read the tape has it decided ([`Tickers::settle`]) before anything is shown. What comes out does not
//! depend on when that is done. The prices are found again among the recent trades: `last` and `close` go back to the trade
//! before, and in a session that has not had more trades, open, high and low are exact, too. In a longer one they stay as
//! they were traded, and [`Ticker::busted`] tells that there was such a trade; candles are exact.
//!
//! Section `tickers`, version 3, little-endian: the venue's session, `u32` tickers, then each by ascending instrument:
//!
//! ```text
//! session:  u8 whether there is one   u32 trading day   u32 number   i64 begun   u64 at
//! ticker:   u32 instrument   its session, as above   i64 previous close   u64 changed at   u64 busted
//!           4 x i64 open high low close   3 x u128 volume, of buyers, of sellers   i128 notional   u64 trades
//!           u64 the first bust that is not decided, or zero
//!           u32 trades of the session taken back, then each by ascending position: u64 position
//!           u32 recent trades, then each: u64 position   u64 trade id   i64 price   u64 quantity   u8 aggressor   i64 event time
//!           u8 whether it was taken back
//! ```
//!
//! Version 2, which is read, too, has nothing undecided; its recent trades are those that were not taken back, and each
//! trade taken back has its `u64` trade id behind its position. Version 1 is as that, without those trade ids.

use std::collections::{BTreeMap, VecDeque};

use matchtape_schemas::event::Side;
use matchtape_schemas::{
    BodyRef, EventRef, EventTime, InstrumentId, Kind, KindMask, Notional, Price, Projection, ProjectionError,
    Quantity, Sequence, TradeId,
};

use crate::section::{SectionReader, put_count, put_i64, put_u32, put_u64};
use crate::trades::{Bust, Found, Trade, TradeSummary};
use crate::volume::Volume;

const NAME: &str = "tickers";
const VERSION: u32 = 3;
/// The layout before: recent trades are only those that count, and what is too old for them was forgotten.
const WITHOUT_FLAGS: u32 = 2;
/// The one before that: of a trade taken back it has the position alone.
const WITHOUT_IDS: u32 = 1;
/// Trades of an instrument that are remembered one by one.
pub const RECENT: usize = 8;
/// Trades taken back in a session that the fold remembers, so that none counts twice. Further ones it leaves undecided.
const TAKEN_BACK_MAX: usize = 4096;
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

/// One of the last trades.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Recent {
    trade: LastTrade,
    taken_back: bool,
}

/// What a bust means, as far as a ticker can tell by itself.
enum Meant {
    /// The recent trade at this place.
    Recent(usize),
    /// No trade that the ticker shows anything of.
    Nothing,
    /// Perhaps a trade of the session that is older than the recent ones.
    Older,
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
    /// Whether some more may have been, which nobody can look up any more: retention has dropped them, or they cannot be
    /// read. Known only after [`Tickers::settle`].
    pub misses_busts: bool,
    /// The last event that changed it.
    pub changed_at: Sequence,
    /// Trades of the session that were taken back and have left the sums, ascending.
    taken_back: Vec<Sequence>,
    /// Busts of the session from here on may be of trades that are still in the sums; zero for none.
    undecided_from: Sequence,
    /// The last trades as they were traded, newest last; those of earlier sessions as well.
    recent: VecDeque<Recent>,
}

impl Ticker {
    fn new(instrument: InstrumentId) -> Self {
        Self {
            instrument,
            session: None,
            summary: TradeSummary::default(),
            previous_close: Price::NONE,
            busted: 0,
            misses_busts: false,
            changed_at: Sequence::ZERO,
            taken_back: Vec::new(),
            undecided_from: Sequence::ZERO,
            recent: VecDeque::new(),
        }
    }

    /// The last trade that was not taken back.
    pub fn last(&self) -> Option<&LastTrade> {
        self.counting().next_back()
    }

    /// The recent trades that were not taken back.
    fn counting(&self) -> impl DoubleEndedIterator<Item = &LastTrade> {
        self.recent.iter().filter(|recent| !recent.taken_back).map(|recent| &recent.trade)
    }

    fn begin(&mut self, session: Session) {
        if let Some(last) = self.last() {
            self.previous_close = last.price;
        }
        self.session = Some(session);
        self.summary = TradeSummary::default();
        self.busted = 0;
        self.misses_busts = false;
        self.taken_back.clear();
        self.undecided_from = Sequence::ZERO;
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
        self.recent.push_back(Recent { trade: LastTrade::of(trade), taken_back: false });
        self.changed_at = trade.sequence;
    }

    fn begun_at(&self) -> Sequence {
        self.session.map_or(Sequence::MAX, |session| session.begun_at)
    }

    fn meant(&self, bust: &Bust) -> Meant {
        let is_it = |recent: &Recent| bust.may_mean(recent.trade.sequence, recent.trade.trade_id);
        if let Some(place) = self.recent.iter().rposition(is_it) {
            return Meant::Recent(place);
        }
        let oldest = self.recent.front().map_or(Sequence::ZERO, |oldest| oldest.trade.sequence);
        let is_older = if bust.trade_sequence == Sequence::ZERO {
            bust.trade_id != TradeId(0)
        } else {
            // Every trade since the oldest of them is one of them.
            (self.begun_at()..oldest).contains(&bust.trade_sequence)
        };
        if is_older && !self.remembers_all() { Meant::Older } else { Meant::Nothing }
    }

    /// Takes in a bust as it comes; `false` if it changes nothing.
    fn bust(&mut self, bust: &Bust) -> bool {
        match self.meant(bust) {
            Meant::Recent(place) => self.take_back(bust, self.recent[place].trade, TAKEN_BACK_MAX),
            Meant::Nothing => false,
            Meant::Older => {
                self.leave_undecided(bust);
                false
            }
        }
    }

    /// Decides a bust that may have been left undecided, now or when more has come since.
    fn settle<E>(&mut self, bust: &Bust, look_up: impl FnOnce(&Bust) -> Result<Found, E>) -> Result<bool, E> {
        let trade = match self.meant(bust) {
            Meant::Recent(place) => self.recent[place].trade,
            Meant::Nothing => return Ok(false),
            Meant::Older => match look_up(bust)? {
                Found::Trade(trade) => LastTrade::of(&trade),
                Found::NotSince(kept_from) => {
                    // One that is stated and kept is no trade.
                    let stated = bust.trade_sequence;
                    self.misses_busts |= stated < kept_from && self.begun_at() < kept_from;
                    return Ok(false);
                }
                Found::Unreadable => {
                    self.misses_busts = true;
                    return Ok(false);
                }
            },
        };
        Ok(self.take_back(bust, trade, usize::MAX))
    }

    fn leave_undecided(&mut self, bust: &Bust) {
        if self.undecided_from == Sequence::ZERO {
            self.undecided_from = bust.at;
        }
    }

    /// Takes a trade back; `false` if it was taken back before, or nothing of it is shown.
    fn take_back(&mut self, bust: &Bust, trade: LastTrade, remembered_max: usize) -> bool {
        let begun_at = self.begun_at();
        let all_remembered = self.remembers_all();
        let mut changes = false;
        if let Some(recent) = self.recent.iter_mut().rfind(|recent| recent.trade.sequence == trade.sequence) {
            changes = !std::mem::replace(&mut recent.taken_back, true);
        }
        if trade.sequence < begun_at {
            if changes {
                let before = self.counting().rfind(|trade| trade.sequence < begun_at);
                self.previous_close = before.map_or(Price::NONE, |trade| trade.price);
                self.changed_at = self.changed_at.max(bust.at);
            }
            return changes;
        }
        match self.taken_back.binary_search(&trade.sequence) {
            Ok(_) => {}
            Err(_) if self.taken_back.len() >= remembered_max => self.leave_undecided(bust),
            Err(place) => {
                self.taken_back.insert(place, trade.sequence);
                self.busted += 1;
                self.take_out(&trade);
                changes = true;
            }
        }
        if !changes {
            return false;
        }
        if all_remembered {
            let mut summary = TradeSummary::default();
            for trade in self.counting().filter(|trade| trade.sequence >= begun_at) {
                summary.add(trade.price, trade.quantity, trade.aggressor);
            }
            self.summary = summary;
        } else if let Some(last) = self.last().filter(|last| last.sequence >= begun_at) {
            self.summary.close = last.price;
        }
        self.changed_at = self.changed_at.max(bust.at);
        true
    }

    /// Whether every trade of the session is among the recent ones.
    fn remembers_all(&self) -> bool {
        let begun_at = self.begun_at();
        let of_session = self.recent.iter().filter(|recent| recent.trade.sequence >= begun_at).count();
        self.summary.trades.saturating_add(self.busted) == of_session as u64
    }

    fn take_out(&mut self, trade: &LastTrade) {
        let quantity = u128::from(trade.quantity.units());
        let less = |volume: Volume| Volume::from_units(volume.units().saturating_sub(quantity));
        let summary = &mut self.summary;
        summary.volume = less(summary.volume);
        match trade.aggressor {
            Side::Buy => summary.buy_volume = less(summary.buy_volume),
            Side::Sell => summary.sell_volume = less(summary.sell_volume),
            Side::None => {}
        }
        if let Some(notional) = trade.price.times(trade.quantity) {
            summary.notional =
                Notional::from_units(summary.notional.units().saturating_sub(notional.units()));
        }
        summary.trades = summary.trades.saturating_sub(1);
    }
}

impl LastTrade {
    fn of(trade: &Trade) -> Self {
        let &Trade { sequence, trade_id, price, quantity, aggressor, event_time, .. } = trade;
        Self { sequence, trade_id, price, quantity, aggressor, event_time }
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
        if let Some(bust) = Bust::of(event) {
            let ticker = self.by_instrument.get_mut(&instrument);
            if ticker.is_some_and(|ticker| ticker.bust(&bust)) {
                self.touch(instrument);
            }
            return;
        }
        if let BodyRef::SessionOpened(opened) = event.body() {
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
    }

    /// The first bust that a ticker could not decide by itself, of an instrument or of any.
    pub fn undecided_from(&self) -> Option<Sequence> {
        let undecided = self.by_instrument.values().map(|ticker| ticker.undecided_from);
        undecided.filter(|from| *from != Sequence::ZERO).min()
    }

    /// Decides a bust of those since [`undecided_from`](Self::undecided_from): each is to be given once, in order, and then
    /// [`settled`](Self::settled) said. `look_up` is asked only for a trade that the ticker does not remember. Of one that
    /// was decided before nothing happens again.
    pub fn settle<E>(
        &mut self,
        bust: &Bust,
        look_up: impl FnOnce(&Bust) -> Result<Found, E>,
    ) -> Result<(), E> {
        let Some(ticker) = self.by_instrument.get_mut(&bust.instrument) else { return Ok(()) };
        if ticker.undecided_from == Sequence::ZERO || bust.at < ticker.undecided_from {
            return Ok(());
        }
        if ticker.settle(bust, look_up)? {
            self.touch(bust.instrument);
        }
        Ok(())
    }

    /// All busts of which events are kept from `kept_from` on were given.
    pub fn settled(&mut self, kept_from: Sequence) {
        for ticker in self.by_instrument.values_mut() {
            ticker.misses_busts |=
                ticker.undecided_from != Sequence::ZERO && ticker.undecided_from < kept_from;
            ticker.undecided_from = Sequence::ZERO;
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
        matches!(version, WITHOUT_IDS | WITHOUT_FLAGS).then(|| self.restore_layout(version, section))
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
/// In any layout.
const TAKEN_BACK_BYTES_MIN: usize = 8;
const RECENT_BYTES_MIN: usize = 8 + 8 + 8 + 8 + 1 + 8;
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
    put_u64(out, ticker.undecided_from.get());
    put_count(out, ticker.taken_back.len());
    for sequence in &ticker.taken_back {
        put_u64(out, sequence.get());
    }
    put_count(out, ticker.recent.len());
    for Recent { trade, taken_back } in &ticker.recent {
        put_u64(out, trade.sequence.get());
        put_u64(out, trade.trade_id.get());
        put_i64(out, trade.price.units());
        put_u64(out, trade.quantity.units());
        out.push(trade.aggressor as u8);
        put_i64(out, trade.event_time.get());
        out.push(u8::from(*taken_back));
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
    if version == VERSION {
        ticker.undecided_from = Sequence(reader.u64()?);
    }
    let mut taken_ids = Vec::new();
    for _ in 0..reader.count(TAKEN_BACK_BYTES_MIN)? {
        let sequence = Sequence(reader.u64()?);
        if ticker.taken_back.last().is_some_and(|last| *last >= sequence) {
            return Err(reader.error(format!("trade {sequence} is out of order")));
        }
        ticker.taken_back.push(sequence);
        if version == WITHOUT_FLAGS {
            taken_ids.push(TradeId(reader.u64()?));
        }
    }
    let recent = reader.count(RECENT_BYTES_MIN)?;
    if recent > RECENT {
        return Err(reader.error(format!("{recent} recent trades")));
    }
    for _ in 0..recent {
        let (sequence, trade_id) = (Sequence(reader.u64()?), TradeId(reader.u64()?));
        let (price, quantity) = (Price::from_units(reader.i64()?), Quantity::from_units(reader.u64()?));
        let number = reader.u8()?;
        let aggressor = Side::ALL.get(usize::from(number)).copied();
        let aggressor = aggressor.ok_or_else(|| reader.error(format!("side {number}")))?;
        let event_time = EventTime(reader.i64()?);
        let taken_back = match if version == VERSION { reader.u8()? } else { 0 } {
            0 => false,
            1 => true,
            other => return Err(reader.error(format!("taken back: {other}"))),
        };
        if ticker.recent.back().is_some_and(|last| last.trade.sequence >= sequence) {
            return Err(reader.error(format!("trade {sequence} is out of order")));
        }
        let trade = LastTrade { sequence, trade_id, price, quantity, aggressor, event_time };
        ticker.recent.push_back(Recent { trade, taken_back });
    }
    if version != VERSION {
        from_older_layout(&mut ticker, &taken_ids);
    }
    Ok(ticker)
}

/// Makes a ticker of version 1 or 2 what it would be now: trades taken back are at their places among the recent ones again,
/// where a bust that comes again finds them, and what was forgotten of older ones is to be looked up.
fn from_older_layout(ticker: &mut Ticker, taken_ids: &[TradeId]) {
    let oldest = ticker.recent.front().map_or(Sequence::MAX, |oldest| oldest.trade.sequence);
    for (place, sequence) in ticker.taken_back.iter().enumerate().filter(|(_, sequence)| **sequence > oldest)
    {
        let trade = LastTrade {
            sequence: *sequence,
            trade_id: taken_ids.get(place).copied().unwrap_or(TradeId(0)),
            price: Price::NONE,
            quantity: Quantity::ZERO,
            aggressor: Side::None,
            event_time: EventTime(0),
        };
        let behind = ticker.recent.partition_point(|recent| recent.trade.sequence < *sequence);
        ticker.recent.insert(behind, Recent { trade, taken_back: true });
    }
    while ticker.recent.len() > RECENT {
        ticker.recent.pop_front();
    }
    let begun_at = ticker.begun_at();
    ticker.taken_back.retain(|sequence| *sequence >= begun_at);
    if ticker.session.is_some() && !ticker.remembers_all() {
        ticker.undecided_from = begun_at;
    }
}
