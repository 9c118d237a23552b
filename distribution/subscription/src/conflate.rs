//! Conflation: what a reader of windows may be spared because a later event of the same window says it anew.
//!
//! A batch is conflated as a whole, by what it holds and nothing else, so the result is as much a pure function of the tape
//! as the batch is: a replay gives the same bytes. Two rules, and everything that neither names is kept:
//!
//! 1. **The last state stays.** Of the events below, only the last one in the batch with the same key:
//!
//!    | kind | key |
//!    |---|---|
//!    | `TradingStatusChanged` | instrument |
//!    | `StateSet`, `StateDeleted` | instrument and state key |
//!    | `AccountChanged` | account |
//!    | `PositionChanged` | instrument and account; `position` is right, the `change`s left out are not added up |
//!
//! 2. **Orders that came and went are left out**, whole: from an `OrderAccepted` over any number of `OrderReplaced` that
//!    keep its number and partial `OrderCancelled` to the one that takes off all that is left. An order that any other
//!    event of the batch names meanwhile, or whose book is cleared meanwhile, stays.
//!
//! So trades, executions, definitions, refusals, terms and sessions are never left out, and a book that is folded from
//! conflated batches is, after each batch, the same as one folded from all events: the same orders in the same queues. (But for
//! an order that was in the book before the batch and whose number another one took without a word of the first's end: it
//! leaves the book when the number is taken, and stays where the other one came and went in one batch.)
//! What stays keeps its position and its bytes; with events left out, the marks of group ends are no longer all there: the
//! batch as a whole is what belongs together. A window that comes in parts is conflated part by part.

use std::collections::HashMap;

use matchtape_schemas::{AccountId, BodyRef, EventRef, InstrumentId, OrderId};

use crate::batch::{Batch, BatchBuf, Builder};

/// Whether a channel of windows is conflated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conflation {
    /// Every event is in its window.
    #[default]
    None,
    /// By the rules of [`Batch::conflated`].
    LastState,
}

/// A state of which the last one stays.
#[derive(PartialEq, Eq, Hash)]
enum StateKey<'a> {
    Status(InstrumentId),
    State(InstrumentId, &'a [u8]),
    Account(AccountId),
    Position(InstrumentId, AccountId),
}

/// An order that was accepted in this batch and has not been named by anything that keeps it.
struct Life {
    left: u64,
    /// Its events so far, as indexes into the batch.
    events: Vec<usize>,
}

type Lives = HashMap<(InstrumentId, OrderId), Life>;

impl Batch<'_> {
    /// The same window without the events that later ones of it make superfluous: of trading status, keyed state, account
    /// status and position only the last per key, and no orders that were accepted and wholly cancelled within it without
    /// anything else happening to them. Everything else stays as it is. It says so
    /// ([`is_conflated`](Batch::is_conflated)) and how many are missing ([`left_out`](Batch::left_out)).
    #[must_use]
    pub fn conflated(&self) -> BatchBuf {
        let events: Vec<EventRef<'_>> = self.events().collect();
        let mut superfluous = vec![false; events.len()];
        superseded_states(&events, &mut superfluous);
        passing_orders(&events, &mut superfluous);
        let mut builder = Builder::new();
        for (event, superfluous) in events.iter().zip(&superfluous) {
            if *superfluous {
                builder.leave_out();
            } else {
                builder.push(event, event.event_time() < self.start());
            }
        }
        builder.finish_conflated(self)
    }
}

fn superseded_states<'a>(events: &[EventRef<'a>], superfluous: &mut [bool]) {
    let mut last: HashMap<StateKey<'a>, usize> = HashMap::new();
    for (index, event) in events.iter().enumerate() {
        if let Some(key) = state_key(event)
            && let Some(earlier) = last.insert(key, index)
        {
            superfluous[earlier] = true;
        }
    }
}

fn state_key<'a>(event: &EventRef<'a>) -> Option<StateKey<'a>> {
    match event.body() {
        BodyRef::TradingStatusChanged(_) => Some(StateKey::Status(event.instrument())),
        BodyRef::StateSet(state) => Some(StateKey::State(event.instrument(), state.key)),
        BodyRef::StateDeleted(state) => Some(StateKey::State(event.instrument(), state.key())),
        BodyRef::AccountChanged(changed) => Some(StateKey::Account(changed.account.get())),
        BodyRef::PositionChanged(changed) => {
            Some(StateKey::Position(event.instrument(), changed.account.get()))
        }
        BodyRef::OrderAccepted(_)
        | BodyRef::OrderRejected(_)
        | BodyRef::OrderReplaced(_)
        | BodyRef::OrderCancelled(_)
        | BodyRef::OrderExecuted(_)
        | BodyRef::TradeMatched(_)
        | BodyRef::TradeBusted(_)
        | BodyRef::InstrumentDefined(_)
        | BodyRef::BookCleared(_)
        | BodyRef::SessionOpened(_)
        | BodyRef::SessionClosed(_)
        | BodyRef::AccountOpened(_)
        | BodyRef::EpochStarted(_)
        | BodyRef::EpochEnded(_)
        | BodyRef::TimeAdvanced(_) => None,
    }
}

fn passing_orders(events: &[EventRef<'_>], superfluous: &mut [bool]) {
    let mut lives = Lives::new();
    for (index, event) in events.iter().enumerate() {
        let instrument = event.instrument();
        match event.body() {
            BodyRef::OrderAccepted(order) => {
                let life = Life { left: order.quantity.get().units(), events: vec![index] };
                // A number that is in use: neither of the two is understood, so both stay.
                if lives.insert((instrument, order.order_id.get()), life).is_some() {
                    lives.remove(&(instrument, order.order_id.get()));
                }
            }
            BodyRef::OrderReplaced(order) => {
                let (id, new) = (order.order_id.get(), order.new_order_id.get());
                let same_number = new == id || new == OrderId(0);
                let quantity = order.quantity.get().units();
                if same_number && quantity > 0 {
                    if let Some(life) = lives.get_mut(&(instrument, id)) {
                        life.left = quantity;
                        life.events.push(index);
                    }
                } else {
                    lives.remove(&(instrument, id));
                    lives.remove(&(instrument, new));
                }
            }
            BodyRef::OrderCancelled(order) => {
                let key = (instrument, order.order_id.get());
                let quantity = order.quantity.get().units();
                match lives.get_mut(&key) {
                    Some(life) if quantity < life.left => {
                        life.left -= quantity;
                        life.events.push(index);
                    }
                    Some(life) if quantity == life.left => {
                        superfluous[index] = true;
                        life.events.iter().for_each(|event| superfluous[*event] = true);
                        lives.remove(&key);
                    }
                    // More than is left: the tape contradicts itself, and its reader may want to see that.
                    Some(_) => {
                        lives.remove(&key);
                    }
                    None => {}
                }
            }
            BodyRef::OrderRejected(order) => {
                lives.remove(&(instrument, order.order_id.get()));
            }
            BodyRef::OrderExecuted(order) => {
                lives.remove(&(instrument, order.order_id.get()));
            }
            BodyRef::TradeMatched(trade) => {
                lives.remove(&(instrument, trade.buy_order_id.get()));
                lives.remove(&(instrument, trade.sell_order_id.get()));
            }
            BodyRef::BookCleared(_) => lives.retain(|(of, _), _| *of != instrument),
            BodyRef::TradeBusted(_)
            | BodyRef::InstrumentDefined(_)
            | BodyRef::TradingStatusChanged(_)
            | BodyRef::SessionOpened(_)
            | BodyRef::SessionClosed(_)
            | BodyRef::AccountOpened(_)
            | BodyRef::AccountChanged(_)
            | BodyRef::PositionChanged(_)
            | BodyRef::StateSet(_)
            | BodyRef::StateDeleted(_)
            | BodyRef::EpochStarted(_)
            | BodyRef::EpochEnded(_)
            | BodyRef::TimeAdvanced(_) => {}
        }
    }
}
