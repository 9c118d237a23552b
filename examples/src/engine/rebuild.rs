//! The engine's state folded back from the tape it wrote.
//!
//! Only group ends count: inside a group the arriving order stands aside, and comes to rest with the group's last event.

use matchtape_schemas::event::{EventFlags, Payload, Side};
use matchtape_schemas::{BodyRef, EventRef, InstrumentId, OrderId, Quantity, Sequence};

use super::book::RestingOrder;
use super::group::Numbers;
use super::trading::{keeps_place, may_rest};
use super::{Book, Engine, EngineOptions, Market, Session};

/// The order that a group is about, outside the book until the group ends.
#[derive(Clone, Debug)]
pub(super) struct Arriving {
    instrument: InstrumentId,
    order: RestingOrder,
    may_rest: bool,
}

/// A tape that this engine cannot have written from the start.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
#[error("event {sequence}: {what}")]
pub struct RebuildError {
    /// The event.
    pub sequence: Sequence,
    /// What is wrong with it.
    pub what: String,
}

impl Engine {
    /// The engine that wrote these events, ready to go on. They are a tape from its first event to a group's end;
    /// events of other producers on it are passed over.
    pub fn rebuild<'a>(
        options: EngineOptions,
        events: impl IntoIterator<Item = EventRef<'a>>,
    ) -> Result<Self, RebuildError> {
        let mut engine = Self::new(options);
        for event in events {
            engine.apply(&event)?;
        }
        Ok(engine)
    }

    /// Takes in the next event of the tape; at a group's end the engine is what it was when it had said that group.
    pub fn apply(&mut self, event: &EventRef<'_>) -> Result<(), RebuildError> {
        let header = event.header();
        if header.producer != self.options.producer {
            return Ok(());
        }
        self.take_in(event).map_err(|what| RebuildError { sequence: event.sequence(), what })?;
        let Numbers { producer_sequence, event_time, .. } = &mut self.numbers;
        *producer_sequence = header.producer_sequence;
        *event_time = header.event_time.max(*event_time);
        if event.ends_group() {
            self.come_to_rest().map_err(|what| RebuildError { sequence: event.sequence(), what })?;
        }
        Ok(())
    }

    fn take_in(&mut self, event: &EventRef<'_>) -> Result<(), String> {
        let instrument = event.instrument();
        match event.body() {
            BodyRef::InstrumentDefined(definition) => {
                if Self::place(instrument) != self.markets.len() {
                    return Err(format!("instrument {instrument} after {} others", self.markets.len()));
                }
                let definition = Payload::native(definition);
                self.markets.push(Market { definition, status: Default::default(), book: Book::default() });
            }
            BodyRef::TradingStatusChanged(change) => self.known(instrument)?.status = change.status.get(),
            BodyRef::AccountOpened(account) => {
                self.accounts.insert(account.account.get(), account.status.get());
            }
            BodyRef::SessionOpened(session) => {
                let (trading_day, number) = (session.trading_day.to_native(), session.session.to_native());
                self.session = Some(Session { trading_day, number });
            }
            BodyRef::SessionClosed(_) => self.session = None,
            BodyRef::OrderAccepted(order) => {
                let accepted = RestingOrder {
                    id: order.order_id.get(),
                    account: order.account.get(),
                    side: order.side.get(),
                    time_in_force: order.time_in_force.get(),
                    price: order.price.get(),
                    quantity: order.quantity.get(),
                };
                let may_rest = may_rest(order.order_type.get(), accepted.time_in_force);
                self.known(instrument)?;
                self.numbers.order_id = accepted.id;
                self.arriving = Some(Arriving { instrument, order: accepted, may_rest });
            }
            BodyRef::OrderReplaced(change) => {
                let book = &mut self.known(instrument)?.book;
                let before = *resting(book, change.order_id.get())?;
                let after =
                    RestingOrder { price: change.price.get(), quantity: change.quantity.get(), ..before };
                if keeps_place(&before, &after) {
                    book.set_quantity(after.id, after.quantity);
                } else {
                    book.remove(after.id);
                    self.resting -= 1;
                    self.arriving = Some(Arriving { instrument, order: after, may_rest: true });
                }
            }
            BodyRef::OrderCancelled(cancel) => {
                self.take_off(instrument, cancel.order_id.get(), cancel.quantity.get())?;
            }
            BodyRef::TradeMatched(trade) if !event.flags().contains(EventFlags::REPORTS_ONLY) => {
                self.numbers.trade_id = trade.trade_id.get();
                for order_id in [trade.buy_order_id.get(), trade.sell_order_id.get()] {
                    self.take_off(instrument, order_id, trade.quantity.get())?;
                }
            }
            // Reports, refusals, and kinds that this engine does not write.
            BodyRef::TradeMatched(_)
            | BodyRef::OrderExecuted(_)
            | BodyRef::OrderRejected(_)
            | BodyRef::TradeBusted(_)
            | BodyRef::BookCleared(_)
            | BodyRef::AccountChanged(_)
            | BodyRef::PositionChanged(_)
            | BodyRef::StateSet(_)
            | BodyRef::StateDeleted(_)
            | BodyRef::EpochStarted(_)
            | BodyRef::EpochEnded(_)
            | BodyRef::TimeAdvanced(_) => {}
        }
        Ok(())
    }

    /// Takes `quantity` off the arriving order or one in the book.
    fn take_off(&mut self, instrument: InstrumentId, id: OrderId, quantity: Quantity) -> Result<(), String> {
        let too_much = |left| format!("{quantity} taken off order {id}, which has {left} left");
        if let Some(arriving) = self.arriving.as_mut().filter(|arriving| arriving.order.id == id) {
            let left = arriving.order.quantity;
            arriving.order.quantity = left.checked_sub(quantity).ok_or_else(|| too_much(left))?;
            return Ok(());
        }
        let book = &mut self.known(instrument)?.book;
        let before = book.len();
        let left = resting(book, id)?.quantity;
        book.set_quantity(id, left.checked_sub(quantity).ok_or_else(|| too_much(left))?);
        let gone = before - book.len();
        self.resting -= gone;
        Ok(())
    }

    fn come_to_rest(&mut self) -> Result<(), String> {
        let Some(Arriving { instrument, order, may_rest }) = self.arriving.take() else { return Ok(()) };
        if order.quantity.is_zero() {
            return Ok(());
        }
        if !may_rest || order.price.is_none() || order.side == Side::None {
            return Err(format!("{} left of order {}, which may not rest", order.quantity, order.id));
        }
        let book = &mut self.known(instrument)?.book;
        if book.get(order.id).is_some() {
            return Err(format!("order {} is in the book already", order.id));
        }
        book.insert(order);
        self.resting += 1;
        Ok(())
    }

    fn known(&mut self, instrument: InstrumentId) -> Result<&mut Market, String> {
        self.markets.get_mut(Self::place(instrument)).ok_or_else(|| format!("no instrument {instrument}"))
    }
}

fn resting(book: &Book, id: OrderId) -> Result<&RestingOrder, String> {
    book.get(id).ok_or_else(|| format!("order {id} is not in the book"))
}
