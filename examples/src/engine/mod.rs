//! A price-time-priority matching engine for several instruments: commands in, groups of events out.
//!
//! Integer arithmetic only. Never looks at a clock (the time of a command is an argument), never does I/O, and never
//! allocates per order once its books have grown. What it knows can be folded back from the events it produced: see
//! `rebuild`.
//!
//! A group says an incoming order first, with its whole quantity, then what it traded, then what became of the rest:
//!
//! ```text
//! OrderAccepted   the whole quantity, as if all of it came to rest
//! TradeMatched    changes the book: takes its quantity off both orders
//! OrderExecuted   resting order, reports_only       } for each trade
//! OrderExecuted   arriving order, reports_only      }
//! OrderCancelled  what may not rest (market, immediate-or-cancel, self-trade)
//! ```
//!
//! So a book folded from the tape is crossed inside such a group and right at its end, which is the only place where
//! readers stop. A replacement that loses its place reads the same with `OrderReplaced` in front.
//!
//! Read in this order: `command`, `book`, `trading` (the matching), `group` (what is said), `rebuild`, `section`; then `flow` and `plan`.

mod book;
mod command;
mod flow;
mod group;
mod operator;
mod plan;
mod random;
mod rebuild;
mod section;
mod trading;

use matchtape_schemas::event::{AccountStatus, InstrumentDefined, Side, TradingStatus};
use matchtape_schemas::{AccountId, EventTime, InstrumentId, OrderId, Price, ProducerId, ProducerSequence};
use rustc_hash::FxHashMap;

pub use self::book::RestingOrder;
pub use self::command::{Command, NewOrder, OperatorError, SelfTrade};
pub use self::flow::{Flow, FlowOptions};
pub use self::rebuild::RebuildError;
pub use self::section::EngineProjection;

use self::book::Book;
use self::group::Numbers;

/// How an engine behaves; the same for the whole life of a tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Under which number it publishes; only this producer's events are its own when it is rebuilt.
    pub producer: ProducerId,
    /// What happens when an order meets one of its own account.
    pub self_trade: SelfTrade,
    /// Orders that may rest in all books together; one more is refused. Bounds the size of a group.
    pub resting_orders_max: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl EngineOptions {
    /// What [`Default`] gives.
    pub const DEFAULT: Self =
        Self { producer: ProducerId(1), self_trade: SelfTrade::CancelResting, resting_orders_max: 20_000 };

    /// No group has more events: an order comes in, trades with every order there is (three events each), and what is
    /// left of it is cancelled.
    pub const fn group_events_max(&self) -> usize {
        3 * self.resting_orders_max + 2
    }
}

// A group has to fit the node's ring, which has 65,536 slots by default.
const _: () = assert!(EngineOptions::DEFAULT.group_events_max() <= 65_536);

/// A trading session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The trading day as the decimal number YYYYMMDD.
    pub trading_day: u32,
    /// Which session of the day, from 0.
    pub number: u32,
}

#[derive(Clone, Debug)]
struct Market {
    definition: InstrumentDefined,
    status: TradingStatus,
    book: Book,
}

/// The matching engine.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    options: EngineOptions,
    /// Instrument n is at n - 1.
    markets: Vec<Market>,
    accounts: FxHashMap<AccountId, AccountStatus>,
    session: Option<Session>,
    numbers: Numbers,
    /// Orders in all books together.
    resting: usize,
    /// Only while a group is being taken in from the tape: see `rebuild`.
    arriving: Option<rebuild::Arriving>,
}

impl Engine {
    /// An engine without instruments, accounts or orders.
    pub fn new(options: EngineOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// How it behaves.
    pub fn options(&self) -> EngineOptions {
        self.options
    }

    /// The number of its last event, zero for none.
    pub fn last_producer_sequence(&self) -> ProducerSequence {
        self.numbers.producer_sequence
    }

    /// The greatest event time so far.
    pub fn last_event_time(&self) -> EventTime {
        self.numbers.event_time
    }

    /// Every instrument with its definition and trading status.
    pub fn instruments(&self) -> impl Iterator<Item = (InstrumentId, &InstrumentDefined, TradingStatus)> {
        (1..).zip(&self.markets).map(|(id, market)| (InstrumentId(id), &market.definition, market.status))
    }

    /// An account's status; `None` if it was never opened.
    pub fn account(&self, account: AccountId) -> Option<AccountStatus> {
        self.accounts.get(&account).copied()
    }

    /// How many accounts there are.
    pub fn accounts(&self) -> usize {
        self.accounts.len()
    }

    /// The open session.
    pub fn session(&self) -> Option<Session> {
        self.session
    }

    /// Orders resting in all books together.
    pub fn resting_orders(&self) -> usize {
        self.resting
    }

    /// An order, if it rests.
    pub fn order(&self, instrument: InstrumentId, order_id: OrderId) -> Option<&RestingOrder> {
        self.market(instrument)?.book.get(order_id)
    }

    /// A side's best price.
    pub fn best(&self, instrument: InstrumentId, side: Side) -> Option<Price> {
        self.market(instrument)?.book.best(side).map(|order| order.price)
    }

    /// A side's orders in the order in which they would trade.
    pub fn orders(&self, instrument: InstrumentId, side: Side) -> impl Iterator<Item = &RestingOrder> {
        self.market(instrument).into_iter().flat_map(move |market| market.book.orders(side))
    }

    fn place(instrument: InstrumentId) -> usize {
        // Zero wraps to a place that no vector has.
        (instrument.get() as usize).wrapping_sub(1)
    }

    fn market(&self, instrument: InstrumentId) -> Option<&Market> {
        self.markets.get(Self::place(instrument))
    }
}
