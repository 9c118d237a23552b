//! Which id an instrument has on the tape: the one it has there already, else the next free one.

use std::collections::{BTreeMap, BTreeSet};

use matchtape_market::Instruments;
use matchtape_schemas::InstrumentId;
use matchtape_schemas::event::InstrumentDefined;

/// What tells instruments apart across sources: the venue, the source's number for its feed, and the symbol (or the
/// venue's number, where it gives one: symbols are used again).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    venue: String,
    publisher: u16,
    venue_instrument_id: u64,
    symbol: String,
}

impl Identity {
    fn of(definition: &InstrumentDefined) -> Self {
        Self {
            venue: definition.venue.as_str().into_owned(),
            publisher: definition.publisher,
            venue_instrument_id: definition.venue_instrument_id,
            symbol: definition.symbol.as_str().into_owned(),
        }
    }
}

/// The instruments of a tape and their ids.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    ids: BTreeMap<Identity, InstrumentId>,
    symbols: BTreeSet<String>,
    greatest: u32,
}

impl Directory {
    /// Of an empty tape.
    pub fn new() -> Self {
        Self::default()
    }

    /// Of a tape with these instruments.
    pub fn of(instruments: &Instruments) -> Self {
        let mut directory = Self::new();
        for instrument in instruments.iter() {
            directory.insert(instrument.id, &instrument.definition);
        }
        directory
    }

    /// Takes in an instrument that the tape has.
    pub fn insert(&mut self, id: InstrumentId, definition: &InstrumentDefined) {
        self.greatest = self.greatest.max(id.get());
        self.symbols.insert(definition.symbol.as_str().into_owned());
        self.ids.insert(Identity::of(definition), id);
    }

    /// The id an instrument has.
    pub fn get(&self, definition: &InstrumentDefined) -> Option<InstrumentId> {
        self.ids.get(&Identity::of(definition)).copied()
    }

    /// What the instrument with this id is called, if there is one.
    pub fn symbol(&self, id: InstrumentId) -> Option<&str> {
        self.ids.iter().find(|(_, of)| **of == id).map(|(identity, _)| identity.symbol.as_str())
    }

    /// The instruments of a venue, by ascending id.
    pub fn of_venue(&self, venue: &str) -> BTreeMap<InstrumentId, String> {
        let of_venue = self.ids.iter().filter(|(identity, _)| identity.venue == venue);
        of_venue.map(|(identity, id)| (*id, identity.symbol.clone())).collect()
    }

    /// Whether some instrument is called so.
    pub fn has_symbol(&self, symbol: &str) -> bool {
        self.symbols.contains(symbol)
    }

    /// The id an instrument has, or gets now.
    pub fn get_or_add(&mut self, definition: &InstrumentDefined) -> InstrumentId {
        let greatest = &mut self.greatest;
        let id = *self.ids.entry(Identity::of(definition)).or_insert_with(|| {
            *greatest += 1;
            InstrumentId(*greatest)
        });
        self.symbols.insert(definition.symbol.as_str().into_owned());
        id
    }
}
