//! One subscription's items read from the log, piece by piece, in the same text as live ones.

use matchtape_client::as_of::{self, AsOfError};
use matchtape_client::settle;
use matchtape_market::{Books, Candle, Instruments, Tickers, Trade};
use matchtape_schemas::{EventRef, EventTime, InstrumentId, Kind, KindMask, Sequence};
use matchtape_storage::{FrameCursor, FrameHandle, Query, ReadError, Reader};

use super::candles::{CandleFold, Counted};
use crate::encode::{
    Cause, MBO_KINDS, Symbols, bbo_item, book_delta, candle_item, recount_item, ticker_item,
};
use crate::feed::{BestPrices, Channel, Depth, View, event_items, for_each_group, span};
use crate::ws::Messages;

/// Text of one piece: enough to be worth a trip to another thread, little enough for many clients.
const PIECE_BYTES: usize = 256 * 1024;
/// Frames of one piece, also when nothing in them is wanted: a few milliseconds.
const PIECE_FRAMES: usize = 128;

/// Which instruments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// All, also those defined later.
    All,
    /// These, sorted.
    Only(Vec<InstrumentId>),
}

impl Filter {
    pub(crate) fn matches(&self, instrument: InstrumentId) -> bool {
        match self {
            Self::All => true,
            Self::Only(instruments) => instruments.binary_search(&instrument).is_ok(),
        }
    }

    pub(crate) fn instruments(&self) -> &[InstrumentId] {
        match self {
            Self::All => &[],
            Self::Only(instruments) => instruments,
        }
    }
}

/// What a subscription wants.
#[derive(Clone, Debug)]
pub(crate) struct Wants {
    pub(crate) channel: Channel,
    pub(crate) filter: Filter,
    /// For the book channel.
    pub(crate) depth: Depth,
    /// For the candles channel.
    pub(crate) interval_ns: i64,
}

impl Wants {
    pub(crate) fn views(&self) -> Vec<(InstrumentId, Depth)> {
        match self.channel {
            Channel::Book => self.filter.instruments().iter().map(|id| (*id, self.depth)).collect(),
            Channel::Trades
            | Channel::Mbo
            | Channel::Tape
            | Channel::Bbo
            | Channel::Ticker
            | Channel::Candles
            | Channel::Status => Vec::new(),
        }
    }

    fn kinds(&self) -> KindMask {
        match self.channel {
            Channel::Trades | Channel::Candles => KindMask::TRADES,
            Channel::Book | Channel::Mbo => MBO_KINDS,
            Channel::Tape => KindMask::ALL,
            Channel::Bbo => Books::KINDS,
            Channel::Ticker => Tickers::KINDS,
            Channel::Status => KindMask::of(&[Kind::TradingStatusChanged]),
        }
    }
}

/// State as it was.
pub(crate) struct Past {
    pub(crate) state: PastState,
    /// Of which position.
    pub(crate) sequence: Sequence,
}

/// What a channel begins with, or folds along.
pub(crate) enum PastState {
    /// Every item stands for itself.
    Nothing,
    Books(Books),
    Tickers(Tickers),
    Instruments(Instruments),
    Candles(CandleFold),
}

impl Past {
    /// What a channel begins with after the event at `sequence`, which ends a group and is visible.
    pub(crate) fn of(reader: &Reader, wants: &Wants, sequence: Sequence) -> Result<Self, AsOfError> {
        let instruments = wants.filter.instruments();
        let state = match wants.channel {
            Channel::Trades | Channel::Tape => PastState::Nothing,
            Channel::Bbo if wants.filter == Filter::All => {
                let mut books = Books::new();
                let scope = Query { kinds: Books::KINDS, ..Query::default() };
                as_of::fold(reader, &mut books, sequence, &scope)?;
                PastState::Books(books)
            }
            Channel::Book | Channel::Mbo | Channel::Bbo => {
                PastState::Books(as_of::books(reader, instruments, sequence)?)
            }
            Channel::Ticker => PastState::Tickers(as_of::tickers(reader, sequence)?),
            Channel::Status => PastState::Instruments(as_of::instruments(reader, sequence)?),
            Channel::Candles => {
                PastState::Candles(CandleFold::load(reader, instruments, wants.interval_ns, sequence)?)
            }
        };
        Ok(Self { state, sequence })
    }

    /// The current candles, if they are what it holds.
    pub(crate) fn into_candles(self) -> Option<CandleFold> {
        if let PastState::Candles(candles) = self.state { Some(candles) } else { None }
    }
}

/// A subscription's reading of the log.
pub(crate) struct Replay {
    wants: Wants,
    cursor: FrameCursor,
    /// Everything up to here was delivered.
    position: Sequence,
    /// Frames read of a group that has no end yet.
    open_group: Vec<FrameHandle>,
    fold: Fold,
    /// For candles that have to be read again.
    reader: Reader,
}

/// State that is folded along.
enum Fold {
    Nothing,
    Book(BookReplay),
    Bbo { books: Books, best: BestPrices },
    Ticker(Tickers),
    Candles(CandleFold),
}

struct BookReplay {
    books: Books,
    views: Vec<(InstrumentId, View)>,
}

impl Replay {
    /// Reads on after `position`. For the book channel that is a group's end, and `past` the books as of then.
    pub(crate) fn open(
        reader: &Reader,
        wants: Wants,
        position: Sequence,
        past: Option<Past>,
    ) -> Result<Self, AsOfError> {
        let past = match past {
            Some(past) => past,
            None if wants.channel.is_folded() => Past::of(reader, &wants, position)?,
            None => Past { state: PastState::Nothing, sequence: position },
        };
        let fold = match (wants.channel, past.state) {
            (Channel::Book, PastState::Books(books)) => {
                Fold::Book(BookReplay::new(books, past.sequence, &wants))
            }
            (Channel::Bbo, PastState::Books(mut books)) => {
                books.watch();
                let best = BestPrices::of(&books);
                Fold::Bbo { books, best }
            }
            (Channel::Ticker, PastState::Tickers(mut tickers)) => {
                tickers.watch();
                Fold::Ticker(tickers)
            }
            (Channel::Candles, PastState::Candles(candles)) => Fold::Candles(candles),
            (channel, _) => {
                assert!(!channel.is_folded(), "{} begins with its own state", channel.name());
                Fold::Nothing
            }
        };
        let cursor = reader.frames(position.next())?;
        Ok(Self { wants, cursor, position, open_group: Vec::new(), fold, reader: reader.clone() })
    }

    /// The current candles, for a subscription that goes on live.
    pub(crate) fn into_candles(self) -> Option<CandleFold> {
        if let Fold::Candles(candles) = self.fold { Some(candles) } else { None }
    }

    pub(crate) fn position(&self) -> Sequence {
        self.position
    }

    /// Reads the next piece. Nothing new: the position stays.
    pub(crate) fn read(&mut self, symbols: &Symbols, out: &mut Messages) -> Result<(), ReadError> {
        let mut frames_read = 0;
        while frames_read < PIECE_FRAMES && out.bytes() < PIECE_BYTES {
            let frames = self.next_frames()?;
            if frames.is_empty() {
                return Ok(());
            }
            frames_read += frames.len();
            let wanted =
                frames.iter().any(|frame| self.wants.kinds().intersects(frame.frame().header().kinds));
            if wanted {
                self.take_in(&frames, symbols, out)?;
            }
            self.position = frames[frames.len() - 1].frame().last_sequence();
        }
        Ok(())
    }

    /// The next frame, or as many as it takes to reach the end of a group; empty when there is no such end yet.
    fn next_frames(&mut self) -> Result<Vec<FrameHandle>, ReadError> {
        while let Some(frame) = self.cursor.next_frame()? {
            let ends_group = frame.frame().header().ends_group();
            self.open_group.push(frame);
            if ends_group {
                return Ok(std::mem::take(&mut self.open_group));
            }
        }
        Ok(Vec::new())
    }

    fn take_in(
        &mut self,
        frames: &[FrameHandle],
        symbols: &Symbols,
        out: &mut Messages,
    ) -> Result<(), ReadError> {
        let Self { wants, fold, reader, position, .. } = self;
        for_each_group(frames, *position, |group| take_in_group(wants, fold, reader, group, symbols, out))
    }
}

fn take_in_group(
    wants: &Wants,
    fold: &mut Fold,
    reader: &Reader,
    group: &[EventRef<'_>],
    symbols: &Symbols,
    out: &mut Messages,
) -> Result<(), ReadError> {
    if wants.channel.is_folded() {
        return take_in_folded(wants, fold, reader, group, symbols, out);
    }
    event_items(wants.channel, group, symbols, |event, encode| {
        if wants.filter.matches(event.instrument()) {
            out.push(event.sequence(), encode);
        }
    });
    Ok(())
}

fn take_in_folded(
    wants: &Wants,
    fold: &mut Fold,
    reader: &Reader,
    group: &[EventRef<'_>],
    symbols: &Symbols,
    out: &mut Messages,
) -> Result<(), ReadError> {
    let wanted = |event: &&EventRef<'_>| wants.filter.matches(event.instrument());
    let span = span(group);
    match fold {
        Fold::Nothing => unreachable!("the channel is folded"),
        Fold::Book(replay) => {
            group.iter().filter(wanted).for_each(|event| replay.books.apply(event));
            replay.push_changes(group, symbols, out);
        }
        Fold::Bbo { books, best } => {
            group.iter().filter(wanted).for_each(|event| books.apply(event));
            for change in books.take_changes() {
                let Some(book) = books.get(change.instrument) else { continue };
                if best.advance(change.instrument, book) {
                    out.push(span.last, |text| {
                        let of = (change.instrument, crate::feed::best(book));
                        bbo_item(text, of, span.last, Some(span.event_time), symbols, Cause::Change);
                        true
                    });
                }
            }
        }
        Fold::Ticker(tickers) => {
            group.iter().for_each(|event| tickers.apply(event));
            settle(reader, tickers, span.last)?;
            for instrument in tickers.take_changes() {
                let Some(ticker) = tickers.get(instrument) else { continue };
                if wants.filter.matches(instrument) {
                    out.push(span.last, |text| {
                        ticker_item(text, ticker, span.last, symbols, Cause::Change);
                        true
                    });
                }
            }
        }
        Fold::Candles(candles) => take_in_candles(wants, candles, reader, group, symbols, out)?,
    }
    Ok(())
}

fn take_in_candles(
    wants: &Wants,
    candles: &mut CandleFold,
    reader: &Reader,
    group: &[EventRef<'_>],
    symbols: &Symbols,
    out: &mut Messages,
) -> Result<(), ReadError> {
    let (last, interval_ns) = (span(group).last, candles.interval_ns());
    let mut changed: Vec<(InstrumentId, Candle)> = Vec::new();
    let mut recounts: Vec<(InstrumentId, Option<EventTime>)> = Vec::new();
    for event in group.iter().filter(|event| wants.filter.matches(event.instrument())) {
        if let Some(trade) = Trade::of(event) {
            match candles.add(&trade) {
                Counted::Current(candle) => {
                    changed.retain(|(id, known)| (*id, known.start) != (trade.instrument, candle.start));
                    changed.push((trade.instrument, candle));
                }
                Counted::Late(start) => recounts.push((trade.instrument, Some(start))),
            }
        } else if event.kind() == Kind::TradeBusted {
            recounts.push((event.instrument(), None));
        }
    }
    for (instrument, start) in recounts {
        out.push(last, |text| {
            recount_item(text, instrument, interval_ns, start, last, symbols);
            true
        });
        if start.is_none() {
            changed.retain(|(id, _)| *id != instrument);
            changed.extend(candles.reload(reader, instrument, last)?.map(|candle| (instrument, candle)));
        }
    }
    for (instrument, candle) in changed {
        let candle = (&candle, candles.complete_from(instrument, &candle));
        out.push(last, |text| {
            candle_item(text, instrument, interval_ns, candle, last, symbols, Cause::Change);
            true
        });
    }
    Ok(())
}

impl BookReplay {
    fn new(mut books: Books, sequence: Sequence, wants: &Wants) -> Self {
        books.watch();
        let view = |id: &InstrumentId| (*id, View::open(*id, wants.depth, books.get(*id), sequence));
        let views = wants.filter.instruments().iter().map(view).collect();
        Self { books, views }
    }

    fn push_changes(&mut self, group: &[EventRef<'_>], symbols: &Symbols, out: &mut Messages) {
        for change in self.books.take_changes() {
            let view = self.views.iter_mut().find(|(instrument, _)| *instrument == change.instrument);
            let (Some((_, view)), Some(book)) = (view, self.books.get(change.instrument)) else { continue };
            if let Some(delta) = view.advance(book, &change, span(group)) {
                out.push(delta.sequence, |text| {
                    book_delta(text, &delta, symbols, 1);
                    true
                });
            }
        }
    }
}
