//! What a query asks of one event, and which index finds such events best.

use matchtape_schemas::{EventRef, EventTime, KindMask};

use super::query::Query;
use crate::entity::Selector;
use crate::sstable::BlockEntry;

/// Everything a query asks of an event, but its position.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    kinds: KindMask,
    time_from: EventTime,
    time_through: EventTime,
    /// All must match; the most selective first.
    selectors: Vec<Selector>,
}

impl Filter {
    pub(super) fn of(query: &Query) -> Self {
        // From few events to many: a trade has two or three, an order a handful, an instrument a share of the tape.
        let mut selectors = Vec::new();
        selectors.extend(query.trade.map(|trade| Selector::Trade(trade, query.instrument)));
        selectors.extend(query.order.map(|order| Selector::Order(order, query.instrument)));
        selectors.extend(query.state_key.as_deref().map(|key| Selector::State(key.into())));
        selectors.extend(query.account.map(Selector::Account));
        selectors.extend(query.instrument.map(Selector::Instrument));
        Self {
            kinds: query.kinds,
            time_from: query.event_time_from,
            time_through: query.event_time_through,
            selectors,
        }
    }

    /// The entity whose index finds the events with the least reading, if one can.
    pub(super) fn most_selective(&self) -> Option<&Selector> {
        self.selectors.first()
    }

    #[inline]
    pub(super) fn wants_kinds(&self, kinds: KindMask) -> bool {
        self.kinds.intersects(kinds)
    }

    /// Whether the block can hold an event that is asked for.
    #[inline]
    pub(super) fn may_match(&self, block: &BlockEntry) -> bool {
        self.wants_kinds(block.kinds)
            && block.max_time >= self.time_from
            && block.min_time <= self.time_through
    }

    #[inline]
    pub(super) fn matches(&self, event: &EventRef<'_>) -> bool {
        if !self.kinds.contains(event.kind()) {
            return false;
        }
        let time = event.event_time();
        time >= self.time_from
            && time <= self.time_through
            && self.selectors.iter().all(|selector| selector.matches(event))
    }
}
