//! What is folded from the tape so far, and how connections join it at an exact position.

use std::convert::Infallible;
use std::sync::Arc;

use matchtape_market::{Book, BookOrder, Books, Bust, Found, Instruments, Level, Tickers, Trade};
use matchtape_schemas::event::Side;
use matchtape_schemas::{EventRef, EventTime, InstrumentId, Kind, Sequence};
use matchtape_storage::FrameHandle;
use parking_lot::{RwLock, RwLockReadGuard};
use rustc_hash::FxHashMap;
use tokio::sync::watch;

use super::best::{BestPrices, best};
use super::lane::{Block, Lane};
use super::view::{Depth, GroupSpan, View, ViewDelta};
use crate::config::Limits;
use crate::encode::{
    Cause, Symbols, bbo_item, book_delta, mbo_item, status_item, tape_item, ticker_item, trade_item,
};

/// What can be subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Channel {
    Trades,
    Book,
    Mbo,
    Tape,
    Bbo,
    Ticker,
    Candles,
    Status,
}

impl Channel {
    pub(crate) const ALL: [Self; 8] = [
        Self::Trades,
        Self::Book,
        Self::Mbo,
        Self::Tape,
        Self::Bbo,
        Self::Ticker,
        Self::Candles,
        Self::Status,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Trades => "trades",
            Self::Book => "book",
            Self::Mbo => "mbo",
            Self::Tape => "tape",
            Self::Bbo => "bbo",
            Self::Ticker => "ticker",
            Self::Candles => "candles",
            Self::Status => "status",
        }
    }

    /// Whether a subscription begins with the state that later items change.
    pub(crate) const fn has_snapshot(self) -> bool {
        match self {
            Self::Book | Self::Mbo | Self::Bbo | Self::Ticker | Self::Candles | Self::Status => true,
            Self::Trades | Self::Tape => false,
        }
    }

    /// Whether items follow from state that is folded along, and not from an event alone.
    pub(crate) const fn is_folded(self) -> bool {
        match self {
            Self::Book | Self::Bbo | Self::Ticker | Self::Candles => true,
            Self::Mbo | Self::Status | Self::Trades | Self::Tape => false,
        }
    }

    /// Whether a client that is slow may be given later state instead of every change.
    pub(crate) const fn is_conflatable(self) -> bool {
        matches!(self, Self::Book | Self::Bbo | Self::Ticker)
    }

    /// Whether the instruments have to be named.
    pub(crate) const fn is_per_instrument(self) -> bool {
        matches!(self, Self::Book | Self::Mbo | Self::Candles)
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.name() == name)
    }
}

/// How far the feed has come, and whether it still goes on.
#[derive(Clone, Debug, Default)]
pub(crate) struct FeedHead {
    pub(crate) position: Sequence,
    /// The tape was closed: nothing follows.
    pub(crate) ended: bool,
    /// The tape could not be read on: nothing follows, and why.
    pub(crate) failed: Option<Arc<str>>,
}

/// What candles are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TradeEvent {
    Trade(Trade),
    /// A trade was taken back, in the group after this position.
    Bust {
        before: Sequence,
    },
}

/// The folded tape and the recent messages.
pub(crate) struct Feed {
    state: RwLock<MarketState>,
    pub(crate) trades: Lane<()>,
    pub(crate) mbo: Lane<()>,
    pub(crate) tape: Lane<()>,
    pub(crate) book: Lane<ViewDelta>,
    pub(crate) bbo: Lane<()>,
    pub(crate) ticker: Lane<()>,
    /// Trades and busts, of which each subscription makes candles of its interval.
    pub(crate) candles: Lane<TradeEvent>,
    pub(crate) status: Lane<()>,
    head: watch::Sender<FeedHead>,
}

/// What a feed starts with: the market as of a position.
#[derive(Default)]
pub(crate) struct Folded {
    pub(crate) books: Books,
    pub(crate) instruments: Instruments,
    pub(crate) tickers: Tickers,
    pub(crate) position: Sequence,
}

impl Folded {
    /// Nothing yet, on a tape that begins.
    pub(crate) fn empty() -> Self {
        let mut folded = Self::default();
        folded.books.watch();
        folded.tickers.watch();
        folded
    }
}

/// The market as of `position`, a group's end.
pub(crate) struct MarketState {
    pub(crate) position: Sequence,
    /// The greatest event time so far, of the frames folded here.
    pub(crate) event_time: EventTime,
    pub(crate) books: Books,
    pub(crate) instruments: Instruments,
    pub(crate) tickers: Tickers,
    best: BestPrices,
    pub(crate) symbols: Arc<Symbols>,
    views: FxHashMap<InstrumentId, Vec<OpenView>>,
}

struct OpenView {
    view: View,
    depth: Depth,
    subscribers: usize,
}

/// A subscription's place at the feed; dropping it gives up what was kept for it.
pub(crate) struct Seat {
    feed: Arc<Feed>,
    channel: Channel,
    views: Vec<(InstrumentId, Depth)>,
    /// The feed's position when the seat was taken: the lanes have what follows.
    pub(crate) joined_at: Sequence,
}

/// A book as it is, copied out so that it can be encoded without holding up the feed.
#[derive(Debug, Default)]
pub(crate) struct BookCopy {
    pub(crate) bids: Vec<Level>,
    pub(crate) asks: Vec<Level>,
    pub(crate) checksum: Option<u32>,
}

impl BookCopy {
    pub(crate) fn of(book: Option<&Book>, depth: Depth) -> Self {
        let levels = |side| book.map_or_else(Vec::new, |book| depth.levels(book, side));
        Self { bids: levels(Side::Buy), asks: levels(Side::Sell), checksum: depth.checksum(book) }
    }
}

impl Feed {
    /// A feed that stands where the folded state does.
    pub(crate) fn new(folded: Folded, limits: &Limits) -> Self {
        let Folded { books, instruments, tickers, position } = folded;
        let state = MarketState {
            position,
            event_time: EventTime::MIN,
            symbols: Arc::new(Symbols::of(&instruments)),
            best: BestPrices::of(&books),
            books,
            instruments,
            tickers,
            views: FxHashMap::default(),
        };
        let bytes_max = limits.recent_bytes_max;
        Self {
            state: RwLock::new(state),
            trades: Lane::new(bytes_max),
            mbo: Lane::new(bytes_max),
            tape: Lane::new(bytes_max),
            book: Lane::new(bytes_max),
            bbo: Lane::new(bytes_max),
            ticker: Lane::new(bytes_max),
            candles: Lane::new(bytes_max),
            status: Lane::new(bytes_max),
            head: watch::Sender::new(FeedHead { position, ..FeedHead::default() }),
        }
    }

    pub(crate) fn head(&self) -> watch::Receiver<FeedHead> {
        self.head.subscribe()
    }

    /// The market between two steps. Hold it shortly: the feed waits meanwhile.
    pub(crate) fn market(&self) -> RwLockReadGuard<'_, MarketState> {
        self.state.read()
    }

    pub(crate) fn symbols(&self) -> Arc<Symbols> {
        self.state.read().symbols.clone()
    }

    /// Takes a place at a channel. `views` are the books wanted, for the book channel.
    pub(crate) fn join(self: &Arc<Self>, channel: Channel, views: Vec<(InstrumentId, Depth)>) -> Seat {
        let mut state = self.state.write();
        let position = state.position;
        for (instrument, depth) in &views {
            state.open_view(*instrument, *depth);
        }
        match channel {
            Channel::Trades => self.trades.join(position),
            Channel::Book => self.book.join(position),
            Channel::Mbo => self.mbo.join(position),
            Channel::Tape => self.tape.join(position),
            Channel::Bbo => self.bbo.join(position),
            Channel::Ticker => self.ticker.join(position),
            Channel::Candles => self.candles.join(position),
            Channel::Status => self.status.join(position),
        }
        Seat { feed: self.clone(), channel, views, joined_at: position }
    }

    /// Books as of one position.
    pub(crate) fn copy_books(&self, views: &[(InstrumentId, Depth)]) -> (Sequence, Vec<BookCopy>) {
        let state = self.state.read();
        let copy =
            |(instrument, depth): &(InstrumentId, Depth)| BookCopy::of(state.books.get(*instrument), *depth);
        (state.position, views.iter().map(copy).collect())
    }

    /// Resting orders as of one position: best level first, bids then offers.
    pub(crate) fn copy_orders(&self, instruments: &[InstrumentId]) -> (Sequence, Vec<Vec<BookOrder>>) {
        let state = self.state.read();
        let copy = |instrument: &InstrumentId| state.books.get(*instrument).map_or_else(Vec::new, resting);
        (state.position, instruments.iter().map(copy).collect())
    }

    /// Takes in frames, the last of which ends a group, and tells everybody. `busted` has what their busts mean, in order.
    pub(crate) fn fold(&self, frames: &[FrameHandle], busted: &[(Sequence, Found)]) {
        let Some(last) = frames.last() else { return };
        let position = last.frame().last_sequence();
        let mut state = self.state.write();
        let mut step = Step {
            trades: self.trades.is_wanted().then(Block::new),
            mbo: self.mbo.is_wanted().then(Block::new),
            tape: self.tape.is_wanted().then(Block::new),
            book: Block::new(),
            bbo: self.bbo.is_wanted().then(Block::new),
            ticker: self.ticker.is_wanted().then(Block::new),
            candles: self.candles.is_wanted().then(Block::new),
            status: self.status.is_wanted().then(Block::new),
        };
        let folded = state.position;
        let Ok(()) = for_each_group(frames, folded, |group| {
            state.fold_group(group, busted, &mut step);
            Ok::<_, Infallible>(())
        });
        state.position = position;
        state.event_time = state.event_time.max(last.frame().header().max_event_time);
        // Under the state's lock: whoever joins does so before or after this step, never in the middle of it.
        self.trades.append(step.trades.unwrap_or_else(Block::new), position);
        self.mbo.append(step.mbo.unwrap_or_else(Block::new), position);
        self.tape.append(step.tape.unwrap_or_else(Block::new), position);
        self.book.append(step.book, position);
        self.bbo.append(step.bbo.unwrap_or_else(Block::new), position);
        self.ticker.append(step.ticker.unwrap_or_else(Block::new), position);
        self.candles.append(step.candles.unwrap_or_else(Block::new), position);
        self.status.append(step.status.unwrap_or_else(Block::new), position);
        drop(state);
        self.head.send_modify(|head| head.position = position);
    }

    pub(crate) fn end(&self) {
        self.head.send_modify(|head| head.ended = true);
    }

    pub(crate) fn fail(&self, why: &str) {
        self.head.send_modify(|head| head.failed = Some(why.into()));
    }
}

/// Every resting order: bids then offers, best level first, in each first come first.
pub(crate) fn resting(book: &Book) -> Vec<BookOrder> {
    book.resting(Side::Buy).chain(book.resting(Side::Sell)).collect()
}

/// The blocks a step fills: those that somebody wants.
struct Step {
    trades: Option<Block<()>>,
    mbo: Option<Block<()>>,
    tape: Option<Block<()>>,
    book: Block<ViewDelta>,
    bbo: Option<Block<()>>,
    ticker: Option<Block<()>>,
    candles: Option<Block<TradeEvent>>,
    status: Option<Block<()>>,
}

impl MarketState {
    /// An instrument that trades but was never defined goes by its number.
    pub(crate) fn undefined_with_book(&self, text: &str) -> Option<InstrumentId> {
        let id = InstrumentId(text.parse().ok()?);
        self.books.get(id).map(|_| id)
    }

    fn settle(&mut self, bust: &Bust, busted: &[(Sequence, Found)]) {
        let look_up = |bust: &Bust| {
            let place = busted.binary_search_by_key(&bust.at, |(at, _)| *at);
            Ok::<_, Infallible>(place.map_or(Found::Unreadable, |place| busted[place].1))
        };
        let Ok(()) = self.tickers.settle(bust, look_up);
        self.tickers.settled(Sequence::ZERO);
    }

    fn open_view(&mut self, instrument: InstrumentId, depth: Depth) {
        let views = self.views.entry(instrument).or_default();
        match views.iter_mut().find(|open| open.depth == depth) {
            Some(open) => open.subscribers += 1,
            None => {
                let view = View::open(instrument, depth, self.books.get(instrument), self.position);
                views.push(OpenView { view, depth, subscribers: 1 });
            }
        }
    }

    fn close_view(&mut self, instrument: InstrumentId, depth: Depth) {
        let Some(views) = self.views.get_mut(&instrument) else { return };
        if let Some(place) = views.iter().position(|open| open.depth == depth) {
            views[place].subscribers -= 1;
            if views[place].subscribers == 0 {
                views.swap_remove(place);
            }
        }
        if views.is_empty() {
            self.views.remove(&instrument);
        }
    }

    fn fold_group(&mut self, group: &[EventRef<'_>], busted: &[(Sequence, Found)], step: &mut Step) {
        for event in group {
            self.books.apply(event);
            self.tickers.apply(event);
            if let Some(bust) = Bust::of(event) {
                self.settle(&bust, busted);
            }
            if event.kind() == Kind::InstrumentDefined {
                self.instruments.apply(event);
                if let Some(instrument) = self.instruments.get(event.instrument()) {
                    Arc::make_mut(&mut self.symbols).define(instrument);
                }
            } else if event.kind() == Kind::TradingStatusChanged {
                self.instruments.apply(event);
            }
        }
        let symbols = &self.symbols;
        let of_events = [
            (Channel::Trades, &mut step.trades),
            (Channel::Tape, &mut step.tape),
            (Channel::Mbo, &mut step.mbo),
            (Channel::Status, &mut step.status),
        ];
        for (channel, block) in of_events {
            let Some(block) = block else { continue };
            event_items(channel, group, symbols, |event, encode| {
                block.push(event.sequence(), event.instrument(), (), encode);
            });
        }
        let span = span(group);
        if let Some(block) = &mut step.candles {
            for event in group {
                if let Some(trade) = TradeEvent::of(event, span.first) {
                    // At the group's end, as the candles that are told.
                    block.push(span.last, event.instrument(), trade, |_| true);
                }
            }
        }
        for instrument in self.tickers.take_changes() {
            let (Some(block), Some(ticker)) = (&mut step.ticker, self.tickers.get(instrument)) else {
                continue;
            };
            block.push(span.last, instrument, (), |out| {
                ticker_item(out, ticker, span.last, symbols, Cause::Change);
                true
            });
        }
        for change in self.books.take_changes() {
            let Some(book) = self.books.get(change.instrument) else { continue };
            if self.best.advance(change.instrument, book)
                && let Some(block) = &mut step.bbo
            {
                block.push(span.last, change.instrument, (), |out| {
                    let of = (change.instrument, best(book));
                    bbo_item(out, of, span.last, Some(span.event_time), symbols, Cause::Change);
                    true
                });
            }
            let Some(views) = self.views.get_mut(&change.instrument) else { continue };
            for open in views {
                if let Some(delta) = open.view.advance(book, &change, span) {
                    let mut text = String::new();
                    book_delta(&mut text, &delta, symbols, 1);
                    step.book.push(span.last, change.instrument, delta, |out| {
                        out.push_str(&text);
                        true
                    });
                }
            }
        }
    }
}

impl TradeEvent {
    /// What an event of the group that begins at `first` is to candles.
    pub(crate) fn of(event: &EventRef<'_>, first: Sequence) -> Option<Self> {
        match event.kind() {
            Kind::TradeMatched => Trade::of(event).map(Self::Trade),
            Kind::TradeBusted => Some(Self::Bust { before: first.previous() }),
            _ => None,
        }
    }
}

/// A whole group's place.
pub(crate) fn span(group: &[EventRef<'_>]) -> GroupSpan {
    let (first, last) = (group[0], group[group.len() - 1]);
    GroupSpan { first: first.sequence(), last: last.sequence(), event_time: last.event_time() }
}

/// Gives each group after a position, whole. The last frame ends one.
pub(crate) fn for_each_group<'f, E>(
    frames: &'f [FrameHandle],
    after: Sequence,
    mut take: impl FnMut(&[EventRef<'f>]) -> Result<(), E>,
) -> Result<(), E> {
    let mut group: Vec<EventRef<'f>> = Vec::new();
    for frame in frames {
        for event in frame.frame().events().filter(|event| event.sequence() > after) {
            group.push(event);
            if event.ends_group() {
                take(&group)?;
                group.clear();
            }
        }
    }
    assert!(group.is_empty(), "frames are taken in up to a group's end");
    Ok(())
}

/// The items of a channel that is not folded: each follows from an event of the group alone, in the text that `push` has
/// written. The same for those who are live and those who read the log.
pub(crate) fn event_items(
    channel: Channel,
    group: &[EventRef<'_>],
    symbols: &Symbols,
    mut push: impl FnMut(&EventRef<'_>, &mut dyn FnMut(&mut String) -> bool),
) {
    match channel {
        Channel::Trades => {
            for event in group {
                push(event, &mut |out| trade_item(out, event, symbols));
            }
        }
        Channel::Tape => {
            for event in group {
                push(event, &mut |out| {
                    tape_item(out, event, symbols);
                    true
                });
            }
        }
        Channel::Mbo => {
            for (event, last) in with_last_of_instrument(group) {
                push(event, &mut |out| mbo_item(out, event, symbols, last));
            }
        }
        Channel::Status => {
            for event in group {
                push(event, &mut |out| status_item(out, event, symbols));
            }
        }
        Channel::Book | Channel::Bbo | Channel::Ticker | Channel::Candles => {
            unreachable!("{} is folded", channel.name())
        }
    }
}

/// The events of a group that the `mbo` channel shows, and whether each is its instrument's last of them.
fn with_last_of_instrument<'g, 'e>(
    group: &'g [EventRef<'e>],
) -> impl Iterator<Item = (&'g EventRef<'e>, bool)> + 'g {
    let mut lasts = vec![false; group.len()];
    let mut seen: Vec<InstrumentId> = Vec::new();
    for (place, event) in group.iter().enumerate().rev() {
        if crate::encode::MBO_KINDS.contains(event.kind()) && !seen.contains(&event.instrument()) {
            seen.push(event.instrument());
            lasts[place] = true;
        }
    }
    group.iter().zip(lasts).filter(|(event, _)| crate::encode::MBO_KINDS.contains(event.kind()))
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.feed.state.write();
        for (instrument, depth) in &self.views {
            state.close_view(*instrument, *depth);
        }
        match self.channel {
            Channel::Trades => self.feed.trades.leave(),
            Channel::Book => self.feed.book.leave(),
            Channel::Mbo => self.feed.mbo.leave(),
            Channel::Tape => self.feed.tape.leave(),
            Channel::Bbo => self.feed.bbo.leave(),
            Channel::Ticker => self.feed.ticker.leave(),
            Channel::Candles => self.feed.candles.leave(),
            Channel::Status => self.feed.status.leave(),
        }
    }
}
