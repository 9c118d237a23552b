//! How a subscription goes on: what is due next, out of the recent messages or from the log.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::ws::Utf8Bytes;
use matchtape_schemas::{InstrumentId, Sequence};
use rustc_hash::FxHashMap;

use super::message::Messages;
use crate::config::Limits;
use crate::encode::{Symbols, book_delta};
use crate::feed::{Block, Channel, Feed, Item, Lane, Recent, Seat, ViewDelta, merge};
use crate::log::{Replay, Wants};

/// Blocks looked at per turn: the rest waits for the next, so that no subscription keeps a connection to itself.
const BLOCKS_PER_TURN: usize = 16;
/// Text per turn.
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
    /// Since when a live subscription has not had the recent messages.
    pub(crate) behind_since: Option<Instant>,
}

/// Where the next messages come from.
pub(crate) enum Phase {
    /// The recent messages.
    Live,
    /// The log; `None` while another thread reads it. `asked`: the client wanted the past, it did not fall behind.
    Log { replay: Option<Box<Replay>>, asked: bool },
    /// A snapshot of the book is being made, because changes were missed.
    Snapshot,
}

/// What a look at the recent messages gave.
pub(crate) enum Turn {
    /// These, and whether there is more right now.
    Messages { messages: Vec<Utf8Bytes>, more: bool, conflated: usize },
    /// What comes next is not among the recent messages any more.
    Gone,
}

impl Subscription {
    /// Whether the recent messages have all that follows.
    pub(crate) fn can_go_live(&self, feed: &Feed) -> bool {
        self.position >= self.seat.joined_at
            && match self.wants.channel {
                Channel::Trades => feed.trades.covers(self.position),
                Channel::Mbo => feed.mbo.covers(self.position),
                Channel::Tape => feed.tape.covers(self.position),
                Channel::Book => feed.book.covers(self.position),
            }
    }

    /// What is due out of the recent messages; the position moves past it.
    pub(crate) fn turn(&mut self, feed: &Feed, limits: &Limits) -> Turn {
        match self.wants.channel {
            Channel::Trades => self.turn_of_events(&feed.trades, limits),
            Channel::Mbo => self.turn_of_events(&feed.mbo, limits),
            Channel::Tape => self.turn_of_events(&feed.tape, limits),
            Channel::Book => self.turn_of_books(feed, limits),
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
        for (block, item) in wanted {
            let deltas = &waiting[&item.instrument];
            if deltas.len() <= limits.conflate_above {
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
