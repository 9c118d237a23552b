//! The invented exchange of the order flow: what is traded, and who trades.

use matchtape_schemas::event::{AccountOpened, AccountStatus, InstrumentClass, InstrumentDefined};
use matchtape_schemas::text::Text;
use matchtape_schemas::{AccountId, ParticipantId, Price, Quantity};

/// One instrument and how it behaves. Prices are counted in ticks, quantities in the smallest step.
#[derive(Debug)]
pub(super) struct MarketPlan {
    symbol: &'static str,
    name: &'static str,
    currency: &'static str,
    class: InstrumentClass,
    /// One tick, in units of 1e-9.
    pub(super) tick: i64,
    /// The smallest quantity, in units of 1e-9.
    pub(super) step: u64,
    /// Where the price begins, in ticks.
    pub(super) start: i64,
    /// A usual quantity, in steps.
    pub(super) lot: i64,
    /// How far from the fair value the first quote stands, in ticks.
    pub(super) half_spread: i64,
    /// Ticks from one quote of a maker to the next.
    pub(super) gap: i64,
    /// How far the fair value moves at a time, in thousandths of a tick.
    pub(super) swing: i64,
    /// How often something happens here, compared with the other instruments.
    pub(super) activity: u64,
}

pub(super) static MARKETS: [MarketPlan; 4] = [
    MarketPlan {
        symbol: "ACME",
        name: "Acme Industries common stock",
        currency: "USD",
        class: InstrumentClass::Equity,
        tick: 10_000_000,
        step: 1_000_000_000,
        start: 18_250,
        lot: 100,
        half_spread: 2,
        gap: 2,
        swing: 250,
        activity: 30,
    },
    MarketPlan {
        symbol: "BTC-USD",
        name: "Bitcoin in US dollars",
        currency: "USD",
        class: InstrumentClass::Spot,
        tick: 100_000_000,
        step: 100_000,
        start: 642_500,
        lot: 100,
        half_spread: 20,
        gap: 15,
        swing: 3_000,
        activity: 40,
    },
    MarketPlan {
        symbol: "EUR-USD",
        name: "Euro in US dollars",
        currency: "USD",
        class: InstrumentClass::Spot,
        tick: 10_000,
        step: 1_000_000_000_000,
        start: 108_450,
        lot: 10,
        half_spread: 3,
        gap: 2,
        swing: 300,
        activity: 20,
    },
    MarketPlan {
        symbol: "CRUDE",
        name: "Crude oil, front month",
        currency: "USD",
        class: InstrumentClass::Future,
        tick: 10_000_000,
        step: 1_000_000_000,
        start: 7_120,
        lot: 2,
        half_spread: 1,
        gap: 1,
        swing: 120,
        activity: 10,
    },
];

impl MarketPlan {
    pub(super) fn definition(&self) -> InstrumentDefined {
        InstrumentDefined {
            symbol: text(self.symbol),
            name: text(self.name),
            price_increment: Price::from_units(self.tick),
            quantity_increment: Quantity::from_units(self.step),
            currency: text(self.currency),
            venue: text("DEMO"),
            class: self.class,
            ..Default::default()
        }
    }

    pub(super) fn price(&self, ticks: i64) -> Price {
        Price::from_units(ticks * self.tick)
    }

    pub(super) fn ticks(&self, price: Price) -> i64 {
        price.units() / self.tick
    }

    pub(super) fn quantity(&self, steps: i64) -> Quantity {
        Quantity::from_units(steps as u64 * self.step)
    }
}

/// Firms that quote both sides all the time: accounts 1 to this.
pub(super) const MAKERS: u64 = 3;
/// Everybody else: the accounts behind the makers'.
pub(super) const CLIENTS: u64 = 12;

pub(super) fn accounts() -> impl Iterator<Item = AccountOpened> {
    (1..=MAKERS + CLIENTS).map(|id| {
        let (name, firm) = if id <= MAKERS {
            (format!("MAKER-{id}"), format!("Liquidity {id}"))
        } else {
            (format!("CLIENT-{}", id - MAKERS), format!("Broker {}", (id - MAKERS) % 4 + 1))
        };
        let participant = if id <= MAKERS { id } else { MAKERS + (id - MAKERS) % 4 + 1 };
        AccountOpened {
            account: AccountId(id),
            name: text(&name),
            participant_name: text(&firm),
            participant: ParticipantId(participant as u32),
            status: AccountStatus::Active,
            ..Default::default()
        }
    })
}

/// Text that is known to fit.
pub(super) fn text<const N: usize>(text: &str) -> Text<N> {
    Text::new(text).expect("names of the plan fit their fields")
}
