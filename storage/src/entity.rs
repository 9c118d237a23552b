//! Which entities an event belongs to. The one definition: the memtable's indexes, the index tables, the filter over
//! events that no index covers yet, and `verify` all ask here.

use matchtape_schemas::event::{
    ArchivedOrderAccepted, ArchivedOrderCancelled, ArchivedOrderExecuted, ArchivedOrderRejected,
    ArchivedOrderReplaced, STATE_KEY_BYTES_MAX,
};
use matchtape_schemas::{AccountId, BodyRef, EventRef, InstrumentId, OrderId, TradeId};

/// The indexes. The numbers are persisted, as the first byte of every key of an index table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Index {
    Instrument = 1,
    Order = 2,
    Account = 3,
    Trade = 4,
    State = 5,
}

/// One thing that events are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entity<'a> {
    /// Also instrument zero: events about no single one.
    Instrument(InstrumentId),
    /// An order, scoped by its instrument.
    Order(OrderId, InstrumentId),
    Account(AccountId),
    /// A trade, scoped by its instrument.
    Trade(TradeId, InstrumentId),
    /// A key of the keyed state.
    State(&'a [u8]),
}

/// The longest key of an index table: the index's number and the longest state key.
pub(crate) const ENTITY_KEY_BYTES_MAX: usize = 1 + STATE_KEY_BYTES_MAX;

impl<'a> Entity<'a> {
    pub(crate) const fn index(&self) -> Index {
        match self {
            Self::Instrument(_) => Index::Instrument,
            Self::Order(..) => Index::Order,
            Self::Account(_) => Index::Account,
            Self::Trade(..) => Index::Trade,
            Self::State(_) => Index::State,
        }
    }

    /// Makes `out` the entity's key: the index's number, then big-endian numbers, so that keys sort as numbers do and
    /// an order or trade number alone is a prefix of the keys of all its instruments. The instrument there is short: a byte
    /// that says how many follow, and those without leading zeros.
    pub(crate) fn write_key(&self, out: &mut Vec<u8>) {
        out.clear();
        out.push(self.index() as u8);
        match self {
            Self::Instrument(instrument) => out.extend_from_slice(&instrument.0.to_be_bytes()),
            Self::Order(order, instrument) => {
                out.extend_from_slice(&order.0.to_be_bytes());
                put_short(out, *instrument);
            }
            Self::Account(account) => out.extend_from_slice(&account.0.to_be_bytes()),
            Self::Trade(trade, instrument) => {
                out.extend_from_slice(&trade.0.to_be_bytes());
                put_short(out, *instrument);
            }
            Self::State(key) => out.extend_from_slice(key),
        }
    }
}

fn put_short(out: &mut Vec<u8>, instrument: InstrumentId) {
    let bytes = instrument.0.to_be_bytes();
    let zeros = instrument.0.leading_zeros() as usize / 8;
    out.push((bytes.len() - zeros) as u8);
    out.extend_from_slice(&bytes[zeros..]);
}

/// Calls `visit` for every entity of `event`; the same one may come twice (a trade of an account with itself).
/// Identifiers of zero mean "none" and are not visited, except the instrument.
#[inline]
pub(crate) fn for_each_entity<'a>(event: &EventRef<'a>, mut visit: impl FnMut(Entity<'a>)) {
    let instrument = event.instrument();
    visit(Entity::Instrument(instrument));
    let mut order = |id: OrderId| {
        if id.0 != 0 {
            visit(Entity::Order(id, instrument));
        }
    };
    // One match over all kinds: a new kind must say here what it is about.
    let (accounts, trade) = match event.body() {
        BodyRef::OrderAccepted(ArchivedOrderAccepted { order_id, account, .. })
        | BodyRef::OrderRejected(ArchivedOrderRejected { order_id, account, .. })
        | BodyRef::OrderCancelled(ArchivedOrderCancelled { order_id, account, .. }) => {
            order(order_id.get());
            ([account.get(), AccountId(0)], TradeId(0))
        }
        BodyRef::OrderReplaced(ArchivedOrderReplaced { order_id, new_order_id, account, .. }) => {
            order(order_id.get());
            order(new_order_id.get());
            ([account.get(), AccountId(0)], TradeId(0))
        }
        BodyRef::OrderExecuted(ArchivedOrderExecuted { order_id, trade_id, account, .. }) => {
            order(order_id.get());
            ([account.get(), AccountId(0)], trade_id.get())
        }
        BodyRef::TradeMatched(trade) => {
            order(trade.buy_order_id.get());
            order(trade.sell_order_id.get());
            ([trade.buy_account.get(), trade.sell_account.get()], trade.trade_id.get())
        }
        BodyRef::TradeBusted(trade) => ([AccountId(0); 2], trade.trade_id.get()),
        BodyRef::AccountOpened(opened) => ([opened.account.get(), AccountId(0)], TradeId(0)),
        BodyRef::AccountChanged(changed) => ([changed.account.get(), AccountId(0)], TradeId(0)),
        BodyRef::PositionChanged(changed) => ([changed.account.get(), AccountId(0)], TradeId(0)),
        BodyRef::StateSet(set) => {
            visit(Entity::State(set.key));
            return;
        }
        BodyRef::StateDeleted(deleted) => {
            visit(Entity::State(deleted.key()));
            return;
        }
        BodyRef::InstrumentDefined(_)
        | BodyRef::TradingStatusChanged(_)
        | BodyRef::BookCleared(_)
        | BodyRef::SessionOpened(_)
        | BodyRef::SessionClosed(_)
        | BodyRef::EpochStarted(_)
        | BodyRef::EpochEnded(_)
        | BodyRef::TimeAdvanced(_) => return,
    };
    for account in accounts {
        if account.0 != 0 {
            visit(Entity::Account(account));
        }
    }
    if trade.0 != 0 {
        visit(Entity::Trade(trade, instrument));
    }
}

/// The entity that a query asks for, or all instruments' orders or trades of a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selector {
    Instrument(InstrumentId),
    Order(OrderId, Option<InstrumentId>),
    Account(AccountId),
    Trade(TradeId, Option<InstrumentId>),
    State(Box<[u8]>),
}

impl Selector {
    /// The one entity meant, unless it is a number in every instrument.
    pub(crate) fn entity(&self) -> Option<Entity<'_>> {
        match self {
            Self::Instrument(instrument) => Some(Entity::Instrument(*instrument)),
            Self::Order(order, instrument) => instrument.map(|instrument| Entity::Order(*order, instrument)),
            Self::Account(account) => Some(Entity::Account(*account)),
            Self::Trade(trade, instrument) => instrument.map(|instrument| Entity::Trade(*trade, instrument)),
            Self::State(key) => Some(Entity::State(key)),
        }
    }

    /// Makes `out` what the keys of all entities meant begin with; their whole key, if there is one.
    pub(crate) fn write_prefix(&self, out: &mut Vec<u8>) {
        if let Some(entity) = self.entity() {
            return entity.write_key(out);
        }
        let (Self::Order(OrderId(number), _) | Self::Trade(TradeId(number), _)) = self else {
            unreachable!("only orders and trades are scoped by instrument")
        };
        let index = if matches!(self, Self::Order(..)) { Index::Order } else { Index::Trade };
        out.clear();
        out.push(index as u8);
        out.extend_from_slice(&number.to_be_bytes());
    }

    /// Whether `entity` is meant.
    #[inline]
    pub(crate) fn selects(&self, entity: &Entity<'_>) -> bool {
        match (self, entity) {
            (Self::Instrument(wanted), Entity::Instrument(found)) => wanted == found,
            (Self::Order(wanted, scope), Entity::Order(found, instrument)) => {
                wanted == found && scope.is_none_or(|scope| scope == *instrument)
            }
            (Self::Account(wanted), Entity::Account(found)) => wanted == found,
            (Self::Trade(wanted, scope), Entity::Trade(found, instrument)) => {
                wanted == found && scope.is_none_or(|scope| scope == *instrument)
            }
            (Self::State(wanted), Entity::State(found)) => **wanted == **found,
            // Different indexes never match.
            _ => false,
        }
    }

    /// Whether `event` belongs to what is meant.
    #[inline]
    pub(crate) fn matches(&self, event: &EventRef<'_>) -> bool {
        if let Self::Instrument(instrument) = self {
            return event.instrument() == *instrument;
        }
        let mut found = false;
        for_each_entity(event, |entity| found |= self.selects(&entity));
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_sort_as_entities_do_and_a_number_alone_is_a_prefix(
            numbers in prop::array::uniform2(prop_oneof![0u64..3, any::<u64>()]),
            instruments in prop::array::uniform2(prop_oneof![0u32..3, 250u32..260, 0xFFFE..0x1_0002u32, any::<u32>()]),
        ) {
            let entity = |at: usize| Entity::Order(OrderId(numbers[at]), InstrumentId(instruments[at]));
            let (mut left, mut right) = (Vec::new(), Vec::new());
            entity(0).write_key(&mut left);
            entity(1).write_key(&mut right);
            prop_assert_eq!(left.cmp(&right), entity(0).cmp(&entity(1)));
            Selector::Order(OrderId(numbers[0]), None).write_prefix(&mut right);
            prop_assert!(left.starts_with(&right));
        }
    }
}
