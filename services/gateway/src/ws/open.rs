//! How a subscription starts: from the request to an exact position, a snapshot as of it, and what is read next.
//! Blocking: it may read the log.

use std::sync::Arc;

use axum::extract::ws::Utf8Bytes;
use axum::http::StatusCode;
use matchtape_market::{BookOrder, Books, Instruments, Level, Ticker, Tickers};
use matchtape_schemas::event::TradingStatus;
use matchtape_schemas::{EventTime, InstrumentId, Sequence};
use matchtape_storage::Reader;

use super::message::{Messages, read_resume_token};
use super::request::SubscribeRequest;
use crate::config::Limits;
use crate::encode::{
    Cause, SnapshotHead, Symbols, bbo_item, book_snapshot_parts, candle_item, mbo_snapshot_parts,
    status_snapshot, ticker_item,
};
use crate::error::ApiError;
use crate::feed::{BookCopy, Channel, Depth, Feed, Seat, best, resting};
use crate::http::candles::{interval_ns, wrong_interval};
use crate::log::{CandleFold, Filter, Past, PastState, Replay, Wants, first_at_time, group_end_at};

/// A depth that shows what a screen shows.
const DEPTH_DEFAULT: u64 = 10;

/// A subscription ready to go on.
pub(crate) struct Opened {
    pub(crate) id: u64,
    pub(crate) wants: Wants,
    /// JSON, for the acknowledgement; empty: all.
    pub(crate) symbols: String,
    pub(crate) seat: Seat,
    /// Visible when it was opened.
    pub(crate) head: Sequence,
    /// Everything up to here counts as delivered.
    pub(crate) position: Sequence,
    pub(crate) snapshot: Vec<Utf8Bytes>,
    /// For the candles channel, when nothing is to be read first.
    pub(crate) candles: Option<CandleFold>,
    /// To be read first; `None`: the recent messages have all of it.
    pub(crate) replay: Option<Replay>,
    /// Whether the past was asked for, so that its end is reported.
    pub(crate) asked_for_past: bool,
    /// The position lies beyond what is visible: nothing comes until the tape gets there.
    pub(crate) waiting: bool,
}

/// What a request asks for, checked.
#[derive(Debug)]
pub(crate) struct Plan {
    id: u64,
    wants: Wants,
    symbols: String,
    snapshot: bool,
    start: Start,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Now,
    From(Sequence),
    AtTime(EventTime),
}

/// Checks a request against the channel's rules and the instruments there are.
pub(crate) fn plan(
    request: &SubscribeRequest,
    feed: &Feed,
    reader: &Reader,
    limits: &Limits,
) -> Result<Plan, ApiError> {
    let channel = Channel::from_name(&request.channel).ok_or_else(|| {
        let names = Channel::ALL.map(Channel::name).join(", ");
        ApiError::bad_request(
            format!("there is no channel {:?}", request.channel),
            "channel",
            format!("take one of {names}"),
        )
    })?;
    let depth = match (channel, request.depth) {
        (Channel::Book, depth) => Depth::new(depth.unwrap_or(DEPTH_DEFAULT)).ok_or_else(|| {
            ApiError::bad_request(
                format!("depth {} is not offered", depth.unwrap_or(DEPTH_DEFAULT)),
                "depth",
                format!("take one of {:?}; 0 is the whole book", Depth::OFFERED),
            )
        })?,
        (_, None) => Depth::ALL,
        (_, Some(_)) => {
            return Err(ApiError::bad_request("only the book channel has a depth", "depth", "leave it out"));
        }
    };
    let interval_ns = match (channel, request.interval.as_deref()) {
        (Channel::Candles, interval) => {
            let interval = interval.unwrap_or("1m");
            interval_ns(interval).ok_or_else(|| wrong_interval(interval))?
        }
        (_, None) => 0,
        (_, Some(_)) => {
            return Err(ApiError::bad_request(
                "only the candles channel has an interval",
                "interval",
                "leave it out",
            ));
        }
    };
    let has_snapshot = channel.has_snapshot();
    if request.snapshot == Some(true) && !has_snapshot {
        return Err(ApiError::bad_request(
            format!("the {} channel has no snapshot", channel.name()),
            "snapshot",
            "leave it out; /v1/trades and /v1/events have what was before",
        ));
    }
    let symbols_max = if channel == Channel::Mbo { limits.mbo_symbols_max } else { limits.symbols_max };
    let (filter, symbols) = instruments(request, channel, feed, symbols_max)?;
    Ok(Plan {
        id: request.id,
        wants: Wants { channel, filter, depth, interval_ns },
        symbols,
        snapshot: has_snapshot && request.snapshot.unwrap_or(true),
        start: start(request, reader)?,
    })
}

fn instruments(
    request: &SubscribeRequest,
    channel: Channel,
    feed: &Feed,
    symbols_max: usize,
) -> Result<(Filter, String), ApiError> {
    let Some(names) = &request.symbols else {
        if channel.is_per_instrument() {
            return Err(ApiError::bad_request(
                format!("the {} channel is per instrument", channel.name()),
                "symbols",
                "name the instruments, for example \"symbols\":[\"ESH4\"]",
            ));
        }
        return Ok((Filter::All, String::new()));
    };
    if names.is_empty() || names.len() > symbols_max {
        return Err(ApiError::bad_request(
            format!("{} symbols", names.len()),
            "symbols",
            format!("name 1 to {symbols_max}, or leave the field out where all instruments are meant"),
        ));
    }
    let market = feed.market();
    let mut found: Vec<InstrumentId> = Vec::with_capacity(names.len());
    let mut json = String::from("[");
    for (place, name) in names.iter().enumerate() {
        let instrument = market
            .instruments
            .find(name)
            .map(|instrument| instrument.id)
            .or_else(|| market.undefined_with_book(name))
            .ok_or_else(|| ApiError::unknown_symbol(name, format!("symbols[{place}]")))?;
        if found.contains(&instrument) {
            return Err(ApiError::bad_request(
                format!("{name:?} is there twice"),
                format!("symbols[{place}]"),
                "name each instrument once",
            ));
        }
        if place > 0 {
            json.push(',');
        }
        market.symbols.push(&mut json, instrument);
        found.push(instrument);
    }
    json.push(']');
    found.sort_unstable();
    Ok((Filter::Only(found), json))
}

fn start(request: &SubscribeRequest, reader: &Reader) -> Result<Start, ApiError> {
    let given = [request.from_sequence.is_some(), request.from_time.is_some(), request.resume.is_some()];
    if given.into_iter().filter(|given| *given).count() > 1 {
        return Err(ApiError::bad_request(
            "more than one of from_sequence, from_time and resume",
            "from_sequence",
            "give one",
        ));
    }
    if let Some(token) = &request.resume {
        let (tape, from) = read_resume_token(token).ok_or_else(|| {
            ApiError::bad_request(
                format!("{token:?} is not a resume token"),
                "resume",
                "give it as `closing` gave it",
            )
        })?;
        if tape != reader.tape() {
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                "other_tape",
                format!(
                    "the token is of tape {:016x}, this is tape {:016x}",
                    tape.get(),
                    reader.tape().get()
                ),
                "resume",
                "positions of one tape mean nothing on another: start anew",
            ));
        }
        return Ok(Start::From(from));
    }
    if let Some(from) = request.from_sequence {
        return Ok(Start::From(Sequence(from)));
    }
    Ok(request.from_time.map_or(Start::Now, |time| Start::AtTime(EventTime(time))))
}

/// Takes the subscription's place, at an exact position.
pub(crate) fn open(
    plan: Plan,
    feed: &Arc<Feed>,
    reader: &Reader,
    message_bytes: usize,
) -> Result<Opened, ApiError> {
    // The seat first: what follows its position is kept from here on, however long the rest takes.
    let seat = feed.join(plan.wants.channel, plan.wants.views());
    let head = reader.visible();
    let from = match plan.start {
        Start::Now => None,
        Start::From(Sequence::ZERO) => Some(reader.first_kept().max(Sequence::FIRST)),
        Start::From(from) => Some(from),
        Start::AtTime(time) => first_event(&plan.wants.filter, reader, time)?,
    };
    let Some(from) = from else {
        return open_now(plan, feed, seat, head, reader, message_bytes);
    };
    let first_kept = reader.first_kept();
    if from < first_kept {
        return Err(ApiError::below_retention(from, first_kept, "from_sequence"));
    }
    let waiting = from > head.next();
    // A candle is made of trades that may lie before the position.
    let needs_state = plan.snapshot || plan.wants.channel == Channel::Candles;
    if waiting && needs_state {
        let what_to_do = if plan.wants.channel == Channel::Candles {
            "there is no candle as of then yet: subscribe without from_sequence"
        } else {
            "there is no snapshot as of then yet: subscribe without from_sequence, or with \"snapshot\":false to wait"
        };
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "beyond_head",
            format!("sequence {from} lies beyond the visible tape, which ends at {head}"),
            "from_sequence",
            what_to_do,
        ));
    }
    open_past(plan, feed, seat, head, from, waiting, reader, message_bytes)
}

fn first_event(filter: &Filter, reader: &Reader, time: EventTime) -> Result<Option<Sequence>, ApiError> {
    let read = |instrument| {
        first_at_time(reader, time, instrument).map_err(|error| ApiError::read(&error, "from_time"))
    };
    let mut first: Option<Sequence> = None;
    match filter {
        Filter::All => first = read(None)?,
        Filter::Only(instruments) => {
            for instrument in instruments {
                first = match (first, read(Some(*instrument))?) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
        }
    }
    Ok(first)
}

fn open_now(
    plan: Plan,
    feed: &Arc<Feed>,
    seat: Seat,
    head: Sequence,
    reader: &Reader,
    message_bytes: usize,
) -> Result<Opened, ApiError> {
    let mut candles = None;
    let (position, snapshot) = if plan.wants.channel == Channel::Candles {
        let position = seat.joined_at;
        let past =
            Past::of(reader, &plan.wants, position).map_err(|error| ApiError::as_of(&error, "channel"))?;
        let snapshot = if plan.snapshot {
            past_snapshot(plan.id, &plan.wants, feed, &past, message_bytes)
        } else {
            Vec::new()
        };
        candles = past.into_candles();
        (position, snapshot)
    } else if plan.snapshot {
        live_snapshot(plan.id, &plan.wants, feed, Cause::Snapshot, message_bytes)
    } else {
        (seat.joined_at, Vec::new())
    };
    Ok(Opened {
        candles,
        id: plan.id,
        wants: plan.wants,
        symbols: plan.symbols,
        seat,
        head,
        position,
        snapshot,
        replay: None,
        asked_for_past: false,
        waiting: false,
    })
}

#[expect(clippy::too_many_arguments, reason = "one step of `open`, split off for its length")]
fn open_past(
    plan: Plan,
    feed: &Arc<Feed>,
    seat: Seat,
    head: Sequence,
    from: Sequence,
    waiting: bool,
    reader: &Reader,
    message_bytes: usize,
) -> Result<Opened, ApiError> {
    let is_stateful = plan.wants.channel.is_folded() || plan.snapshot;
    let position = if is_stateful && !waiting {
        group_end_at(reader, from.previous()).map_err(|error| ApiError::read(&error, "from_sequence"))?
    } else {
        from.previous()
    };
    let recent = position >= seat.joined_at;
    let (mut past, mut snapshot, mut candles) = (None, Vec::new(), None);
    let needs_state = plan.wants.channel.is_folded() && (!recent || plan.wants.channel == Channel::Candles);
    if plan.snapshot || needs_state {
        let state = Past::of(reader, &plan.wants, position)
            .map_err(|error| ApiError::as_of(&error, "from_sequence"))?;
        if plan.snapshot {
            snapshot = past_snapshot(plan.id, &plan.wants, feed, &state, message_bytes);
        }
        past = Some(state);
    }
    let replay = if recent {
        candles = past.and_then(Past::into_candles);
        None
    } else {
        Some(
            Replay::open(reader, plan.wants.clone(), position, past)
                .map_err(|error| ApiError::as_of(&error, "from_sequence"))?,
        )
    };
    Ok(Opened {
        candles,
        id: plan.id,
        wants: plan.wants,
        symbols: plan.symbols,
        seat,
        head,
        position,
        snapshot,
        replay,
        asked_for_past: true,
        waiting,
    })
}

/// Books, orders or other state as they are now, and of which position.
pub(crate) fn live_snapshot(
    id: u64,
    wants: &Wants,
    feed: &Feed,
    cause: Cause,
    message_bytes: usize,
) -> (Sequence, Vec<Utf8Bytes>) {
    let instruments = wants.filter.instruments();
    match wants.channel {
        Channel::Book => {
            let (sequence, books) = feed.copy_books(&wants.views());
            let books = instruments.iter().copied().zip(books);
            let conflated = cause == Cause::Conflated;
            (sequence, book_messages(id, wants.depth, feed, sequence, books, conflated, message_bytes))
        }
        Channel::Mbo => {
            let (sequence, orders) = feed.copy_orders(instruments);
            let orders = instruments.iter().copied().zip(orders);
            (sequence, order_messages(id, feed, sequence, orders, message_bytes))
        }
        // Copied first, too: the feed, and with it everybody, waits while the market is held.
        Channel::Bbo => {
            let (sequence, best) = {
                let market = feed.market();
                (market.position, best_of(&market.books, &wants.filter))
            };
            (sequence, bbo_messages(id, &feed.symbols(), &best, sequence, cause, message_bytes))
        }
        Channel::Ticker => {
            let (sequence, tickers) = {
                let market = feed.market();
                (market.position, tickers_of(&market.tickers, &wants.filter))
            };
            (sequence, ticker_messages(id, &feed.symbols(), &tickers, sequence, cause, message_bytes))
        }
        Channel::Status => {
            let (sequence, statuses) = {
                let market = feed.market();
                (market.position, statuses_of(&market.instruments, &wants.filter))
            };
            (sequence, status_messages(id, &feed.symbols(), &statuses, sequence, message_bytes))
        }
        Channel::Candles | Channel::Trades | Channel::Tape => {
            unreachable!("planned only for channels that have live snapshots")
        }
    }
}

fn best_of(books: &Books, filter: &Filter) -> Vec<(InstrumentId, [Option<Level>; 2])> {
    match filter {
        Filter::All => books.iter().map(|(instrument, book)| (instrument, best(book))).collect(),
        Filter::Only(instruments) => {
            instruments.iter().map(|id| (*id, books.get(*id).map_or([None; 2], best))).collect()
        }
    }
}

fn tickers_of(tickers: &Tickers, filter: &Filter) -> Vec<Ticker> {
    tickers.iter().filter(|ticker| filter.matches(ticker.instrument)).cloned().collect()
}

fn statuses_of(instruments: &Instruments, filter: &Filter) -> Vec<(InstrumentId, TradingStatus)> {
    let wanted = instruments.iter().filter(|instrument| filter.matches(instrument.id));
    wanted.map(|instrument| (instrument.id, instrument.status)).collect()
}

fn bbo_messages(
    id: u64,
    symbols: &Symbols,
    best: &[(InstrumentId, [Option<Level>; 2])],
    sequence: Sequence,
    cause: Cause,
    message_bytes: usize,
) -> Vec<Utf8Bytes> {
    let mut messages = Messages::new(id, Channel::Bbo, message_bytes);
    for of in best {
        messages.push(sequence, |out| {
            bbo_item(out, *of, sequence, None, symbols, cause);
            true
        });
    }
    messages.finish()
}

fn ticker_messages(
    id: u64,
    symbols: &Symbols,
    tickers: &[Ticker],
    sequence: Sequence,
    cause: Cause,
    message_bytes: usize,
) -> Vec<Utf8Bytes> {
    let mut messages = Messages::new(id, Channel::Ticker, message_bytes);
    for ticker in tickers {
        messages.push(sequence, |out| {
            ticker_item(out, ticker, sequence, symbols, cause);
            true
        });
    }
    messages.finish()
}

fn status_messages(
    id: u64,
    symbols: &Symbols,
    statuses: &[(InstrumentId, TradingStatus)],
    sequence: Sequence,
    message_bytes: usize,
) -> Vec<Utf8Bytes> {
    let mut messages = Messages::new(id, Channel::Status, message_bytes);
    for of in statuses {
        messages.push(sequence, |out| {
            status_snapshot(out, *of, sequence, symbols);
            true
        });
    }
    messages.finish()
}

fn candle_messages(
    id: u64,
    wants: &Wants,
    symbols: &Symbols,
    candles: &CandleFold,
    sequence: Sequence,
    message_bytes: usize,
) -> Vec<Utf8Bytes> {
    let mut messages = Messages::new(id, Channel::Candles, message_bytes);
    for instrument in wants.filter.instruments() {
        let Some(candle) = candles.get(*instrument) else { continue };
        let candle = (candle, candles.complete_from(*instrument, candle));
        messages.push(sequence, |out| {
            candle_item(out, *instrument, wants.interval_ns, candle, sequence, symbols, Cause::Snapshot);
            true
        });
    }
    messages.finish()
}

fn past_snapshot(id: u64, wants: &Wants, feed: &Feed, past: &Past, message_bytes: usize) -> Vec<Utf8Bytes> {
    let (instruments, sequence) = (wants.filter.instruments().iter(), past.sequence);
    let symbols = feed.symbols();
    match &past.state {
        PastState::Books(books) => match wants.channel {
            Channel::Book => {
                let books = instruments.map(|id| (*id, BookCopy::of(books.get(*id), wants.depth)));
                book_messages(id, wants.depth, feed, sequence, books, false, message_bytes)
            }
            Channel::Bbo => {
                let best = best_of(books, &wants.filter);
                bbo_messages(id, &symbols, &best, sequence, Cause::Snapshot, message_bytes)
            }
            _ => {
                let orders = instruments.map(|id| (*id, books.get(*id).map_or_else(Vec::new, resting)));
                order_messages(id, feed, sequence, orders, message_bytes)
            }
        },
        PastState::Tickers(tickers) => {
            let tickers = tickers_of(tickers, &wants.filter);
            ticker_messages(id, &symbols, &tickers, sequence, Cause::Snapshot, message_bytes)
        }
        PastState::Instruments(instruments) => {
            let statuses = statuses_of(instruments, &wants.filter);
            status_messages(id, &symbols, &statuses, sequence, message_bytes)
        }
        PastState::Candles(candles) => candle_messages(id, wants, &symbols, candles, sequence, message_bytes),
        PastState::Nothing => Vec::new(),
    }
}

fn book_messages(
    id: u64,
    depth: Depth,
    feed: &Feed,
    sequence: Sequence,
    books: impl Iterator<Item = (InstrumentId, BookCopy)>,
    conflated: bool,
    message_bytes: usize,
) -> Vec<Utf8Bytes> {
    let symbols = feed.symbols();
    let mut messages = Messages::new(id, Channel::Book, message_bytes);
    for (instrument, book) in books {
        let head = SnapshotHead { instrument, symbols: &symbols, sequence, conflated };
        push_parts(
            &mut messages,
            sequence,
            book_snapshot_parts(&head, depth, &book.bids, &book.asks, book.checksum),
        );
    }
    messages.finish()
}

fn order_messages(
    id: u64,
    feed: &Feed,
    sequence: Sequence,
    orders: impl Iterator<Item = (InstrumentId, Vec<BookOrder>)>,
    message_bytes: usize,
) -> Vec<Utf8Bytes> {
    let symbols = feed.symbols();
    let mut messages = Messages::new(id, Channel::Mbo, message_bytes);
    for (instrument, orders) in orders {
        let head = SnapshotHead { instrument, symbols: &symbols, sequence, conflated: false };
        push_parts(&mut messages, sequence, mbo_snapshot_parts(&head, &orders));
    }
    messages.finish()
}

fn push_parts(messages: &mut Messages, sequence: Sequence, parts: Vec<String>) {
    for part in parts {
        messages.push(sequence, |out| {
            out.push_str(&part);
            true
        });
    }
}
