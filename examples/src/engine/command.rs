//! What traders ask of the engine, and what its operator can get wrong.

use matchtape_schemas::event::{ClientOrderId, OrderType, Side, TimeInForce, TradingStatus};
use matchtape_schemas::{AccountId, InstrumentId, OrderId, Price, Quantity};

/// A trader's wish. The engine answers each with exactly one group of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Trade at once what can be traded, let the rest stand (or not, by its time in force).
    New(NewOrder),
    /// Take an order out of the book.
    Cancel {
        /// What the order is for.
        instrument: InstrumentId,
        /// Who asks; has to own the order.
        account: AccountId,
        /// The order.
        order_id: OrderId,
    },
    /// Give an order another price or open quantity. Only with the same price and no larger quantity does it keep its
    /// place in the queue; otherwise it goes to the end of its new queue, and trades on the way if it now can.
    Replace {
        /// What the order is for.
        instrument: InstrumentId,
        /// Who asks; has to own the order.
        account: AccountId,
        /// The order.
        order_id: OrderId,
        /// The new limit.
        price: Price,
        /// The new open quantity.
        quantity: Quantity,
    },
}

/// An order as a trader sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOrder {
    /// What to trade.
    pub instrument: InstrumentId,
    /// Who trades.
    pub account: AccountId,
    /// The trader's own text for it.
    pub client_order_id: ClientOrderId,
    /// Buy or sell.
    pub side: Side,
    /// With or without a limit.
    pub order_type: OrderType,
    /// How long it stays. A market order never rests, whatever this says.
    pub time_in_force: TimeInForce,
    /// The limit; not looked at for a market order.
    pub price: Price,
    /// How much.
    pub quantity: Quantity,
}

/// What happens when an order meets one of its own account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SelfTrade {
    /// They trade.
    Allow,
    /// The resting one is cancelled, the arriving one goes on.
    #[default]
    CancelResting,
    /// What is left of the arriving one is cancelled.
    CancelArriving,
}

/// What an operator asked for and cannot have. Nothing has changed and no event was produced.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum OperatorError {
    /// A symbol is given once.
    #[error("symbol {0:?} is defined already")]
    SymbolTaken(String),
    /// Prices and quantities move in steps above zero.
    #[error("instrument {0:?} has a price or quantity step that is not above zero")]
    Increment(String),
    /// No such instrument.
    #[error("there is no instrument {0}")]
    UnknownInstrument(InstrumentId),
    /// An instrument already has this trading status.
    #[error("instrument {instrument} is {status} already")]
    StatusUnchanged {
        /// The instrument.
        instrument: InstrumentId,
        /// Its status.
        status: TradingStatus,
    },
    /// An account is opened once, and account zero is nobody.
    #[error("account {0} cannot be opened")]
    AccountTaken(AccountId),
    /// A trading day ends before the next begins.
    #[error("session {session} of trading day {trading_day} is still open")]
    SessionOpen {
        /// The open one's trading day, YYYYMMDD.
        trading_day: u32,
        /// The open one's number on that day.
        session: u32,
    },
    /// There is nothing to close.
    #[error("no session is open")]
    NoSession,
}
