//! Orders come in, trade, rest, change and leave.

use matchtape_schemas::event::{
    CancelReason, ClientOrderId, OrderType, RejectReason, Side, TimeInForce, TradingStatus,
};
use matchtape_schemas::{AccountId, Event, EventTime, InstrumentId, OrderId, Price, Quantity};

use super::book::{Book, RestingOrder};
use super::command::{Command, NewOrder, SelfTrade};
use super::group::{Group, Refused};
use super::{Engine, Market};

impl Engine {
    /// Does what a command asks and appends what happened to `out`: exactly one group.
    pub fn execute(&mut self, command: &Command, now: EventTime, out: &mut Vec<Event>) {
        match *command {
            Command::New(ref order) => self.enter(order, now, out),
            Command::Cancel { instrument, account, order_id } => {
                self.cancel(instrument, account, order_id, now, out);
            }
            Command::Replace { instrument, account, order_id, price, quantity } => {
                let asked = RestingOrder {
                    id: order_id,
                    account,
                    side: Side::None,
                    time_in_force: TimeInForce::Day,
                    price,
                    quantity,
                };
                self.replace(instrument, asked, now, out);
            }
        }
    }

    fn enter(&mut self, order: &NewOrder, now: EventTime, out: &mut Vec<Event>) {
        let verdict = self.admit(order);
        let mut group = Group::begin(out, &mut self.numbers, order.instrument, now);
        if let Err(reason) = verdict {
            group.rejected(
                reason,
                Refused {
                    order_id: OrderId(0),
                    price: order.price,
                    quantity: order.quantity,
                    account: order.account,
                    client_order_id: order.client_order_id,
                    side: order.side,
                },
            );
            return group.finish();
        }
        let price = if order.order_type == OrderType::Market { Price::NONE } else { order.price };
        let mut arriving = RestingOrder {
            id: group.accepted(order, price),
            account: order.account,
            side: order.side,
            time_in_force: order.time_in_force,
            price,
            quantity: order.quantity,
        };
        let book = &mut self.markets[Self::place(order.instrument)].book;
        let before = book.len();
        let self_trade = self.options.self_trade;
        if order.time_in_force != TimeInForce::FillOrKill || can_fill(book, &arriving, self_trade) {
            trade(book, &mut arriving, self_trade, &mut group);
        }
        if !arriving.quantity.is_zero() {
            if may_rest(order.order_type, order.time_in_force) {
                book.insert(arriving);
            } else {
                group.cancelled(&arriving, CancelReason::Unfilled);
            }
        }
        self.resting = self.resting + book.len() - before;
        group.finish();
    }

    fn admit(&self, order: &NewOrder) -> Result<(), RejectReason> {
        let market = self.market(order.instrument).ok_or(RejectReason::UnknownInstrument)?;
        if !self.may_trade(order.account) {
            return Err(RejectReason::Account);
        }
        if order.side == Side::None {
            return Err(RejectReason::Other);
        }
        if order.order_type == OrderType::Limit {
            market.admit_price(order.price)?;
        }
        market.admit_change(order.quantity)?;
        if may_rest(order.order_type, order.time_in_force) && self.resting >= self.options.resting_orders_max
        {
            return Err(RejectReason::Other);
        }
        Ok(())
    }

    fn cancel(
        &mut self,
        instrument: InstrumentId,
        account: AccountId,
        order_id: OrderId,
        now: EventTime,
        out: &mut Vec<Event>,
    ) {
        let found = self.owned(instrument, account, order_id);
        let mut group = Group::begin(out, &mut self.numbers, instrument, now);
        match found {
            Ok(order) => {
                self.markets[Self::place(instrument)].book.remove(order_id);
                self.resting -= 1;
                group.cancelled(&order, CancelReason::Requested);
            }
            Err(reason) => group.rejected(
                reason,
                Refused {
                    order_id,
                    price: Price::NONE,
                    quantity: Quantity::ZERO,
                    account,
                    client_order_id: ClientOrderId::default(),
                    side: Side::None,
                },
            ),
        }
        group.finish();
    }

    fn replace(
        &mut self,
        instrument: InstrumentId,
        asked: RestingOrder,
        now: EventTime,
        out: &mut Vec<Event>,
    ) {
        let found = self.owned(instrument, asked.account, asked.id).and_then(|order| {
            let market = self.market(instrument).ok_or(RejectReason::UnknownInstrument)?;
            market.admit_price(asked.price)?;
            market.admit_change(asked.quantity)?;
            Ok(order)
        });
        let mut group = Group::begin(out, &mut self.numbers, instrument, now);
        let order = match found {
            Ok(order) => order,
            Err(reason) => {
                group.rejected(
                    reason,
                    Refused {
                        order_id: asked.id,
                        price: asked.price,
                        quantity: asked.quantity,
                        account: asked.account,
                        client_order_id: ClientOrderId::default(),
                        side: asked.side,
                    },
                );
                return group.finish();
            }
        };
        let mut arriving = RestingOrder { price: asked.price, quantity: asked.quantity, ..order };
        group.replaced(&arriving);
        let book = &mut self.markets[Self::place(instrument)].book;
        let before = book.len();
        if keeps_place(&order, &arriving) {
            book.set_quantity(order.id, arriving.quantity);
        } else {
            book.remove(order.id);
            trade(book, &mut arriving, self.options.self_trade, &mut group);
            if !arriving.quantity.is_zero() {
                book.insert(arriving);
            }
        }
        self.resting = self.resting + book.len() - before;
        group.finish();
    }

    /// An order that rests and belongs to the account.
    fn owned(
        &self,
        instrument: InstrumentId,
        account: AccountId,
        order_id: OrderId,
    ) -> Result<RestingOrder, RejectReason> {
        let market = self.market(instrument).ok_or(RejectReason::UnknownInstrument)?;
        let order = market.book.get(order_id).ok_or(RejectReason::UnknownOrder)?;
        if order.account == account { Ok(*order) } else { Err(RejectReason::Account) }
    }
}

impl Market {
    fn admit_price(&self, price: Price) -> Result<(), RejectReason> {
        let step = self.definition.price_increment.units();
        if price.is_none() || price.units() % step != 0 { Err(RejectReason::Price) } else { Ok(()) }
    }

    fn admit_change(&self, quantity: Quantity) -> Result<(), RejectReason> {
        let step = self.definition.quantity_increment.units();
        if quantity.is_zero() || !quantity.units().is_multiple_of(step) {
            return Err(RejectReason::Quantity);
        }
        if self.status == TradingStatus::Continuous { Ok(()) } else { Err(RejectReason::NotTrading) }
    }
}

/// Whether what is left of an order after its arrival goes into the book.
pub(super) fn may_rest(order_type: OrderType, time_in_force: TimeInForce) -> bool {
    match (order_type, time_in_force) {
        (OrderType::Limit, TimeInForce::Day | TimeInForce::GoodTillCancel) => true,
        (OrderType::Limit, TimeInForce::ImmediateOrCancel | TimeInForce::FillOrKill) => false,
        (OrderType::Market, _) => false,
    }
}

/// Whether an order that becomes `after` stays where it is in its queue.
pub(super) fn keeps_place(before: &RestingOrder, after: &RestingOrder) -> bool {
    after.price == before.price && after.quantity <= before.quantity
}

pub(super) fn opposite(side: Side) -> Side {
    match side {
        Side::Buy => Side::Sell,
        Side::Sell => Side::Buy,
        Side::None => Side::None,
    }
}

/// Whether an arriving order accepts a resting order's price. A market order accepts every price.
fn accepts(arriving: &RestingOrder, resting: &RestingOrder) -> bool {
    arriving.price.is_none()
        || if arriving.side == Side::Buy {
            resting.price <= arriving.price
        } else {
            resting.price >= arriving.price
        }
}

/// Whether `trade` would execute all of an order.
fn can_fill(book: &Book, arriving: &RestingOrder, self_trade: SelfTrade) -> bool {
    let mut wanted = arriving.quantity;
    for resting in book.orders(opposite(arriving.side)) {
        if !accepts(arriving, resting) {
            return false;
        }
        if resting.account == arriving.account {
            match self_trade {
                SelfTrade::Allow => {}
                SelfTrade::CancelResting => continue,
                SelfTrade::CancelArriving => return false,
            }
        }
        wanted = wanted.saturating_sub(resting.quantity);
        if wanted.is_zero() {
            return true;
        }
    }
    false
}

/// Trades an arriving order with the other side, best price first, in each first come first, as long as it can.
fn trade(book: &mut Book, arriving: &mut RestingOrder, self_trade: SelfTrade, group: &mut Group<'_>) {
    let side = opposite(arriving.side);
    while !arriving.quantity.is_zero() {
        let Some(&resting) = book.best(side) else { return };
        if !accepts(arriving, &resting) {
            return;
        }
        if resting.account == arriving.account {
            match self_trade {
                SelfTrade::Allow => {}
                SelfTrade::CancelResting => {
                    book.remove(resting.id);
                    group.cancelled(&resting, CancelReason::SelfTrade);
                    continue;
                }
                SelfTrade::CancelArriving => {
                    group.cancelled(arriving, CancelReason::SelfTrade);
                    arriving.quantity = Quantity::ZERO;
                    return;
                }
            }
        }
        let quantity = resting.quantity.min(arriving.quantity);
        let left = RestingOrder { quantity: resting.quantity.saturating_sub(quantity), ..resting };
        arriving.quantity = arriving.quantity.saturating_sub(quantity);
        book.set_quantity(left.id, left.quantity);
        group.traded(&left, arriving, quantity);
    }
}
