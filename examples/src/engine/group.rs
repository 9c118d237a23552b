//! The events of one command, numbered as they are said.

use matchtape_schemas::event::{
    CancelReason, ClientOrderId, Liquidity, OrderAccepted, OrderCancelled, OrderExecuted, OrderRejected,
    OrderReplaced, RejectReason, Side, TradeMatched,
};
use matchtape_schemas::tags::Body;
use matchtape_schemas::{
    AccountId, Event, EventFlags, EventTime, InstrumentId, OrderId, Price, ProducerSequence, Quantity,
    TradeId,
};

use super::book::RestingOrder;
use super::command::NewOrder;

/// The last numbers given out. A rebuilt engine goes on behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) producer_sequence: ProducerSequence,
    pub(super) order_id: OrderId,
    pub(super) trade_id: TradeId,
    pub(super) event_time: EventTime,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            producer_sequence: ProducerSequence(0),
            order_id: OrderId(0),
            trade_id: TradeId(0),
            event_time: EventTime::MIN,
        }
    }
}

/// A group being written. Every group is finished, with at least one event in it.
pub(super) struct Group<'a> {
    out: &'a mut Vec<Event>,
    numbers: &'a mut Numbers,
    instrument: InstrumentId,
}

impl<'a> Group<'a> {
    /// A group about one instrument. The engine's clock never goes back, so event times are never late on a tape that
    /// only the engine writes.
    pub(super) fn begin(
        out: &'a mut Vec<Event>,
        numbers: &'a mut Numbers,
        instrument: InstrumentId,
        now: EventTime,
    ) -> Self {
        numbers.event_time = numbers.event_time.max(now);
        Self { out, numbers, instrument }
    }

    fn push(&mut self, body: impl Into<Body>, flags: EventFlags) {
        self.numbers.producer_sequence.0 += 1;
        self.out.push(Event {
            instrument: self.instrument,
            producer_sequence: self.numbers.producer_sequence,
            event_time: self.numbers.event_time,
            flags,
            venue_flags: 0,
            body: body.into(),
        });
    }

    pub(super) fn say(&mut self, body: impl Into<Body>) {
        self.push(body, EventFlags::NONE);
    }

    pub(super) fn about(&mut self, instrument: InstrumentId) {
        self.instrument = instrument;
    }

    pub(super) fn finish(self) {
        let last = self.out.last_mut().expect("a group has an event");
        last.flags = last.flags.with(EventFlags::LAST_OF_GROUP);
    }

    /// Numbers a new order and says that it came in.
    pub(super) fn accepted(&mut self, order: &NewOrder, price: Price) -> OrderId {
        self.numbers.order_id.0 += 1;
        let order_id = self.numbers.order_id;
        self.say(OrderAccepted {
            order_id,
            price,
            quantity: order.quantity,
            account: order.account,
            client_order_id: order.client_order_id,
            side: order.side,
            order_type: order.order_type,
            time_in_force: order.time_in_force,
            ..Default::default()
        });
        order_id
    }

    pub(super) fn rejected(&mut self, reason: RejectReason, refused: Refused) {
        self.say(OrderRejected {
            order_id: refused.order_id,
            price: refused.price,
            quantity: refused.quantity,
            account: refused.account,
            client_order_id: refused.client_order_id,
            side: refused.side,
            reason,
            ..Default::default()
        });
    }

    pub(super) fn replaced(&mut self, order: &RestingOrder) {
        self.say(OrderReplaced {
            order_id: order.id,
            new_order_id: order.id,
            price: order.price,
            quantity: order.quantity,
            account: order.account,
            side: order.side,
            ..Default::default()
        });
    }

    /// All that is left of an order was taken off.
    pub(super) fn cancelled(&mut self, order: &RestingOrder, reason: CancelReason) {
        self.say(OrderCancelled {
            order_id: order.id,
            price: order.price,
            quantity: order.quantity,
            account: order.account,
            side: order.side,
            reason,
            ..Default::default()
        });
    }

    /// Two orders traded at the resting one's price; both are given as they are afterwards.
    ///
    /// The trade changes the book; the two executions only report it to their owners.
    pub(super) fn traded(&mut self, resting: &RestingOrder, arriving: &RestingOrder, quantity: Quantity) {
        self.numbers.trade_id.0 += 1;
        let (trade_id, price) = (self.numbers.trade_id, resting.price);
        let (buy, sell) = if arriving.side == Side::Buy { (arriving, resting) } else { (resting, arriving) };
        self.say(TradeMatched {
            trade_id,
            buy_order_id: buy.id,
            sell_order_id: sell.id,
            price,
            quantity,
            buy_account: buy.account,
            sell_account: sell.account,
            aggressor: arriving.side,
            ..Default::default()
        });
        for (order, liquidity) in [(resting, Liquidity::Maker), (arriving, Liquidity::Taker)] {
            let report = OrderExecuted {
                order_id: order.id,
                trade_id,
                price,
                quantity,
                leaves_quantity: order.quantity,
                account: order.account,
                side: order.side,
                liquidity,
                ..Default::default()
            };
            self.push(report, EventFlags::REPORTS_ONLY);
        }
    }
}

/// What of a command a refusal repeats.
pub(super) struct Refused {
    pub(super) order_id: OrderId,
    pub(super) price: Price,
    pub(super) quantity: Quantity,
    pub(super) account: AccountId,
    pub(super) client_order_id: ClientOrderId,
    pub(super) side: Side,
}
