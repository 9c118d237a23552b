//! What a reader wants to see. Positions count all events, also those that are not shown.

use matchtape_schemas::{AccountId, BodyRef, EventRef, InstrumentId, KindMask, OrderId};

/// Which instruments are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Instruments {
    /// All, and the events that concern none.
    #[default]
    All,
    /// These only; in ascending order.
    Only(Vec<InstrumentId>),
}

impl FromIterator<InstrumentId> for Instruments {
    fn from_iter<I: IntoIterator<Item = InstrumentId>>(instruments: I) -> Self {
        let mut only: Vec<InstrumentId> = instruments.into_iter().collect();
        only.sort_unstable();
        only.dedup();
        Self::Only(only)
    }
}

/// Events that pass all of it are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Of one of these kinds.
    pub kinds: KindMask,
    /// Of one of these instruments.
    pub instruments: Instruments,
    /// Naming this order.
    pub order: Option<OrderId>,
    /// Naming this account.
    pub account: Option<AccountId>,
}

impl Default for Filter {
    fn default() -> Self {
        Self { kinds: KindMask::ALL, instruments: Instruments::All, order: None, account: None }
    }
}

impl Filter {
    /// Everything of these kinds.
    #[must_use]
    pub fn kinds(kinds: KindMask) -> Self {
        Self { kinds, ..Self::default() }
    }

    /// Everything of these instruments.
    #[must_use]
    pub fn instruments(instruments: impl IntoIterator<Item = InstrumentId>) -> Self {
        Self { instruments: instruments.into_iter().collect(), ..Self::default() }
    }

    /// Whether it lets everything through, so that nobody needs to look.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.kinds == KindMask::ALL
            && self.instruments == Instruments::All
            && self.order.is_none()
            && self.account.is_none()
    }

    /// Whether the event passes.
    #[must_use]
    pub fn matches(&self, event: &EventRef<'_>) -> bool {
        if !self.kinds.contains(event.kind()) {
            return false;
        }
        if let Instruments::Only(only) = &self.instruments
            && only.binary_search(&event.instrument()).is_err()
        {
            return false;
        }
        if self.order.is_none() && self.account.is_none() {
            return true;
        }
        let (orders, accounts) = named(event);
        self.order.is_none_or(|order| orders.contains(&order))
            && self.account.is_none_or(|account| accounts.contains(&account))
    }
}

/// The orders and accounts an event names, zero for none.
fn named(event: &EventRef<'_>) -> ([OrderId; 2], [AccountId; 2]) {
    let one = |order: OrderId, account: AccountId| ([order, OrderId(0)], [account, AccountId(0)]);
    match event.body() {
        BodyRef::OrderAccepted(order) => one(order.order_id.get(), order.account.get()),
        BodyRef::OrderRejected(order) => one(order.order_id.get(), order.account.get()),
        BodyRef::OrderReplaced(order) => {
            ([order.order_id.get(), order.new_order_id.get()], [order.account.get(), AccountId(0)])
        }
        BodyRef::OrderCancelled(order) => one(order.order_id.get(), order.account.get()),
        BodyRef::OrderExecuted(order) => one(order.order_id.get(), order.account.get()),
        BodyRef::TradeMatched(trade) => (
            [trade.buy_order_id.get(), trade.sell_order_id.get()],
            [trade.buy_account.get(), trade.sell_account.get()],
        ),
        BodyRef::AccountOpened(opened) => one(OrderId(0), opened.account.get()),
        BodyRef::AccountChanged(changed) => one(OrderId(0), changed.account.get()),
        BodyRef::PositionChanged(changed) => one(OrderId(0), changed.account.get()),
        BodyRef::TradeBusted(_)
        | BodyRef::InstrumentDefined(_)
        | BodyRef::TradingStatusChanged(_)
        | BodyRef::BookCleared(_)
        | BodyRef::SessionOpened(_)
        | BodyRef::SessionClosed(_)
        | BodyRef::StateSet(_)
        | BodyRef::StateDeleted(_)
        | BodyRef::EpochStarted(_)
        | BodyRef::EpochEnded(_)
        | BodyRef::TimeAdvanced(_) => one(OrderId(0), AccountId(0)),
    }
}
