//! How a subscription goes on: what is due next, out of the recent messages or from the log.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::ws::Utf8Bytes;
use matchtape_schemas::{EventTime, InstrumentId, Sequence};
use rustc_hash::FxHashMap;

use super::message::Messages;
use crate::config::Limits;
use crate::encode::{Cause, Symbols, book_delta, candle_item, push_conflated, recount_item};
use crate::feed::{Block, Channel, Feed, Item, Lane, Recent, Seat, TradeEvent, ViewDelta, merge};
use crate::log::{CandleFold, Counted, Replay, Wants};

/// Blocks looked at per turn: the rest waits for the next, so that no subscription keeps a connection to itself.
const BLOCKS_PER_TURN: usize = 16;
/// Text per turn. Where changes may be conflated, more than this is: no client has all that is kept copied for it.
const BYTES_PER_TURN: usize = 256 * 1024;

/// One running subscription of a connection.
pub(crate) struct Subscription {
    pub(crate) id: u64,
    pub(crate) wants: Wants,
    pub(crate) seat: Seat,
    /// Everything up to here was taken, out of the recent messages or the log.
    pub(crate) position: Sequence,
    /// Everything up to here was handed to the socket, in order: who gets a later message has got all of it.
    pub(crate) delivered: Sequence,
    pub(crate) phase: Phase,
    /// The current candles at `position`, of a live subscription to candles.
    pub(crate) candles: Option<CandleFold>,
    /// Since when a live subscription has not had the recent messages.
    pub(crate) behind_since: Option<Instant>,
}

/// Where the next messages come from.
pub(crate) enum Phase {
    /// The recent messages.
    Live,
    /// The log; `None` while another thread reads it.
    Log { replay: Option<Box<Replay>>, why: WhyLog },
    /// A snapshot of the book is being made, because changes were missed.
    Snapshot,
}

/// Why the log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhyLog {
    /// The client wanted the past.
    Asked,
    /// It was too slow for the recent messages.
    Behind,
    /// A trade was taken back right after this position, so candles have to be counted again; nothing the client need be
    /// told.
    Recount { from: Sequence },
}

/// What a look at the recent messages gave.
pub(crate) enum Turn {
    /// These, and whether there is more right now.
    Messages { messages: Vec<Utf8Bytes>, more: bool, conflated: usize },
    /// What comes next is not among the recent messages any more.
    Gone,
    /// What comes next has to be read again from the log.
    Recount,
}

impl Subscription {
    /// Whether the recent messages have all that follows, and what had to be read was.
    pub(crate) fn can_go_live(&self, why: WhyLog, feed: &Feed) -> bool {
        let has_read = match why {
            WhyLog::Asked | WhyLog::Behind => true,
            WhyLog::Recount { from } => self.position > from,
        };
        has_read
            && self.position >= self.seat.joined_at
            && match self.wants.channel {
                Channel::Trades => feed.trades.covers(self.position),
                Channel::Mbo => feed.mbo.covers(self.position),
                Channel::Tape => feed.tape.covers(self.position),
                Channel::Book => feed.book.covers(self.position),
                Channel::Bbo => feed.bbo.covers(self.position),
                Channel::Ticker => feed.ticker.covers(self.position),
                Channel::Candles => feed.candles.covers(self.position),
                Channel::Status => feed.status.covers(self.position),
            }
    }

    /// What is due out of the recent messages; the position moves past it.
    pub(crate) fn turn(&mut self, feed: &Feed, limits: &Limits) -> Turn {
        match self.wants.channel {
            Channel::Trades => self.turn_of_events(&feed.trades, limits),
            Channel::Mbo => self.turn_of_events(&feed.mbo, limits),
            Channel::Tape => self.turn_of_events(&feed.tape, limits),
            Channel::Book => self.turn_of_books(feed, limits),
            Channel::Bbo => self.turn_of_latest(&feed.bbo, limits),
            Channel::Ticker => self.turn_of_latest(&feed.ticker, limits),
            Channel::Candles => self.turn_of_candles(feed, limits),
            Channel::Status => self.turn_of_events(&feed.status, limits),
        }
    }

    fn turn_of_events(&mut self, lane: &Lane<()>, limits: &Limits) -> Turn {
        let Recent::Blocks { blocks, through } = lane.after(self.position, BLOCKS_PER_TURN) else {
            return Turn::Gone;
        };
        let more = blocks.len() == BLOCKS_PER_TURN;
        let mut messages = Messages::new(self.id, self.wants.channel, limits.outbound_message_bytes);
        for block in &blocks {
            for item in block.items_after(self.position) {
                if self.wants.filter.matches(item.instrument) {
                    push_item(&mut messages, block, item);
                }
                self.position = item.sequence;
                if messages.bytes() >= BYTES_PER_TURN {
                    return Turn::Messages { messages: messages.finish(), more: true, conflated: 0 };
                }
            }
        }
        self.position = through;
        Turn::Messages { messages: messages.finish(), more, conflated: 0 }
    }

    /// Books are conflatable: a client that has many changes waiting gets one per symbol that stands for all of them.
    fn turn_of_books(&mut self, feed: &Feed, limits: &Limits) -> Turn {
        let Recent::Blocks { blocks, through } = feed.book.after(self.position, usize::MAX) else {
            return Turn::Gone;
        };
        let wanted: Vec<(&Arc<Block<ViewDelta>>, &Item<ViewDelta>)> = blocks
            .iter()
            .flat_map(|block| block.items_after(self.position).iter().map(move |item| (block, item)))
            .filter(|(_, item)| {
                item.detail.depth == self.wants.depth && self.wants.filter.matches(item.instrument)
            })
            .collect();
        self.position = through;
        let mut messages = Messages::new(self.id, Channel::Book, limits.outbound_message_bytes);
        let mut waiting: FxHashMap<InstrumentId, Vec<&ViewDelta>> = FxHashMap::default();
        for (_, item) in &wanted {
            waiting.entry(item.instrument).or_default().push(&item.detail);
        }
        let mut conflated = 0;
        let symbols = feed.symbols();
        let conflate_above = conflate_above(&wanted, limits);
        for (block, item) in wanted {
            let deltas = &waiting[&item.instrument];
            if deltas.len() <= conflate_above {
                push_item(&mut messages, block, item);
            } else if item.sequence == deltas[deltas.len() - 1].sequence {
                // In the place of the last one, so that sequences still rise.
                conflated += deltas.len();
                push_merged(&mut messages, deltas, &symbols);
            }
        }
        Turn::Messages { messages: messages.finish(), more: false, conflated }
    }
}

impl Subscription {
    /// Each item is the whole state of its instrument: a client that has many waiting gets the last one, and how many it
    /// stands for.
    fn turn_of_latest(&mut self, lane: &Lane<()>, limits: &Limits) -> Turn {
        let Recent::Blocks { blocks, through } = lane.after(self.position, usize::MAX) else {
            return Turn::Gone;
        };
        let wanted: Vec<(&Arc<Block<()>>, &Item<()>)> = blocks
            .iter()
            .flat_map(|block| block.items_after(self.position).iter().map(move |item| (block, item)))
            .filter(|(_, item)| self.wants.filter.matches(item.instrument))
            .collect();
        self.position = through;
        // How many each has waiting, and the place of the last.
        let mut waiting: FxHashMap<InstrumentId, (usize, usize)> = FxHashMap::default();
        for (place, (_, item)) in wanted.iter().enumerate() {
            let (count, last) = waiting.entry(item.instrument).or_default();
            (*count, *last) = (*count + 1, place);
        }
        let mut messages = Messages::new(self.id, self.wants.channel, limits.outbound_message_bytes);
        let mut conflated = 0;
        let conflate_above = conflate_above(&wanted, limits);
        for (place, (block, item)) in wanted.into_iter().enumerate() {
            let (count, last) = waiting[&item.instrument];
            if count <= conflate_above {
                push_item(&mut messages, block, item);
            } else if place == last {
                conflated += count;
                messages.push(item.sequence, |out| {
                    push_conflated(out, block.text(item), count);
                    true
                });
            }
        }
        Turn::Messages { messages: messages.finish(), more: false, conflated }
    }

    /// Each candle that the trades waiting have changed, once.
    fn turn_of_candles(&mut self, feed: &Feed, limits: &Limits) -> Turn {
        let Recent::Blocks { blocks, through } = feed.candles.after(self.position, usize::MAX) else {
            return Turn::Gone;
        };
        let items = || {
            let items = blocks.iter().flat_map(|block| block.items_after(self.position));
            items.filter(|item| self.wants.filter.matches(item.instrument))
        };
        // What is before a trade that was taken back is told first; then its candle is counted again.
        let bust = items().find_map(|item| match item.detail {
            TradeEvent::Bust { before } => Some(before.max(self.position)),
            TradeEvent::Trade(_) => None,
        });
        if bust == Some(self.position) {
            return Turn::Recount;
        }
        let end = bust.unwrap_or(through);
        let candles = self.candles.as_mut().expect("a live subscription to candles has them");
        let interval_ns = candles.interval_ns();
        let mut changed: Vec<(InstrumentId, Counted, Sequence, usize)> = Vec::new();
        for item in blocks.iter().flat_map(|block| block.items_after(self.position)) {
            let TradeEvent::Trade(trade) = &item.detail else { continue };
            if item.sequence > end || !self.wants.filter.matches(item.instrument) {
                continue;
            }
            let counted = candles.add(trade);
            let same = changed.iter().position(|(id, before, ..)| {
                *id == item.instrument
                    && start_of(before) == start_of(&counted)
                    && is_late(before) == is_late(&counted)
            });
            let merged = same.map_or(0, |place| changed.remove(place).3);
            changed.push((item.instrument, counted, item.sequence, merged + 1));
        }
        let more = end < through;
        self.position = end;
        let symbols = feed.symbols();
        let mut messages = Messages::new(self.id, self.wants.channel, limits.outbound_message_bytes);
        let mut conflated = 0;
        for (instrument, counted, sequence, trades) in changed {
            if trades > 1 {
                conflated += trades;
            }
            messages.push(sequence, |out| {
                match counted {
                    Counted::Current(candle) => {
                        let mut item = String::new();
                        candle_item(
                            &mut item,
                            instrument,
                            interval_ns,
                            (&candle, candles.complete_from(instrument, &candle)),
                            sequence,
                            &symbols,
                            Cause::Change,
                        );
                        if trades > 1 { push_conflated(out, &item, trades) } else { out.push_str(&item) }
                    }
                    Counted::Late(start) => {
                        recount_item(out, instrument, interval_ns, Some(start), sequence, &symbols);
                    }
                }
                true
            });
        }
        Turn::Messages { messages: messages.finish(), more, conflated }
    }
}

/// From how many changes of an instrument on they are conflated: in a turn with more text than is good, from two.
fn conflate_above<T>(wanted: &[(&Arc<Block<T>>, &Item<T>)], limits: &Limits) -> usize {
    let bytes: usize = wanted.iter().map(|(block, item)| block.text(item).len()).sum();
    if bytes > BYTES_PER_TURN { 1 } else { limits.conflate_above }
}

fn start_of(counted: &Counted) -> EventTime {
    match counted {
        Counted::Current(candle) => candle.start,
        Counted::Late(start) => *start,
    }
}

fn is_late(counted: &Counted) -> bool {
    matches!(counted, Counted::Late(_))
}

fn push_item<T>(messages: &mut Messages, block: &Block<T>, item: &Item<T>) {
    messages.push(item.sequence, |out| {
        out.push_str(block.text(item));
        true
    });
}

fn push_merged(messages: &mut Messages, deltas: &[&ViewDelta], symbols: &Symbols) {
    let merged = merge(deltas);
    messages.push(merged.sequence, |out| {
        book_delta(out, &merged, symbols, deltas.len());
        true
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::{Depth, Folded};
    use crate::log::Filter;

    #[test]
    fn of_more_than_a_turn_s_text_a_client_gets_the_last_state_of_each_instrument() {
        let limits = Limits::default();
        let feed = Arc::new(Feed::new(Folded::empty(), &limits));
        let wants = Wants { channel: Channel::Bbo, filter: Filter::All, depth: Depth::ALL, interval_ns: 0 };
        let mut subscription = Subscription {
            id: 1,
            wants,
            seat: feed.join(Channel::Bbo, Vec::new()),
            position: Sequence::ZERO,
            delivered: Sequence::ZERO,
            phase: Phase::Live,
            candles: None,
            behind_since: None,
        };
        // Few changes of each instrument, and much text.
        let (instruments, changes) = (500, 5);
        let (mut block, mut sequence) = (Block::new(), 0);
        for instrument in (1..=instruments).cycle().take(instruments as usize * changes) {
            sequence += 1;
            block.push(Sequence(sequence), InstrumentId(instrument), (), |out| {
                out.push_str(&format!("{{\"item\":{sequence},\"rest\":\"{:0200}\"}}", 0));
                true
            });
        }
        feed.bbo.append(block, Sequence(sequence));
        let Turn::Messages { messages, more, conflated } = subscription.turn(&feed, &limits) else {
            panic!("the recent messages have it")
        };
        assert_eq!((conflated, more, subscription.position), (2500, false, Sequence(2500)));
        let text: String = messages.iter().map(Utf8Bytes::as_str).collect();
        assert!(text.len() < BYTES_PER_TURN, "{} bytes", text.len());
        assert_eq!(text.matches("\"conflated\":5").count(), 500);
        assert!(text.contains("\"item\":2500,") && text.contains("\"item\":2001,"));
        assert!(!text.contains("\"item\":2000,"));
    }
}
