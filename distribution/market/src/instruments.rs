//! What is traded: definitions, symbols and trading status, as one snapshot section.
//!
//! Section `instruments`, version 1, little-endian: `u32` instruments, then each by ascending id:
//!
//! ```text
//! u32 instrument   u64 defined at   u8 trading status   u64 status at   the payload of InstrumentDefined as in its event
//! ```

use std::collections::BTreeMap;

use matchtape_schemas::event::{ArchivedInstrumentDefined, InstrumentDefined, Payload, TradingStatus};
use matchtape_schemas::{BodyRef, EventRef, InstrumentId, Projection, ProjectionError, Sequence};
use rustc_hash::FxHashMap;

use crate::section::{SectionReader, put_count, put_u32, put_u64};

const NAME: &str = "instruments";
const VERSION: u32 = 1;

/// One instrument as it is defined now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instrument {
    /// Its id on this tape.
    pub id: InstrumentId,
    /// Its definition: the last one.
    pub definition: InstrumentDefined,
    /// The position of the definition.
    pub defined_at: Sequence,
    /// What may be done in it.
    pub status: TradingStatus,
    /// The position of the last change of status, zero for none.
    pub status_at: Sequence,
}

/// Every instrument of a tape.
#[derive(Clone, Debug, Default)]
pub struct Instruments {
    by_id: BTreeMap<InstrumentId, Instrument>,
    by_symbol: FxHashMap<String, InstrumentId>,
}

impl Instruments {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next event of the tape.
    pub fn apply(&mut self, event: &EventRef<'_>) {
        match event.body() {
            BodyRef::InstrumentDefined(definition) => {
                self.define(event.instrument(), InstrumentDefined::native(definition), event.sequence());
            }
            BodyRef::TradingStatusChanged(change) => {
                if let Some(instrument) = self.by_id.get_mut(&event.instrument()) {
                    instrument.status = change.status.get();
                    instrument.status_at = event.sequence();
                }
            }
            _ => {}
        }
    }

    fn define(&mut self, id: InstrumentId, definition: InstrumentDefined, defined_at: Sequence) {
        let symbol = definition.symbol.as_str().into_owned();
        match self.by_id.get_mut(&id) {
            Some(known) => {
                let old = std::mem::replace(&mut known.definition, definition).symbol;
                known.defined_at = defined_at;
                let old = old.as_str();
                if self.by_symbol.get(old.as_ref()) == Some(&id) {
                    self.give_up_symbol(&old);
                }
            }
            None => {
                let (status, status_at) = (TradingStatus::Unknown, Sequence::ZERO);
                self.by_id.insert(id, Instrument { id, definition, defined_at, status, status_at });
            }
        }
        self.by_symbol.insert(symbol, id);
    }

    /// A symbol whose instrument is called otherwise now goes back to the last other one defined under it, if any.
    fn give_up_symbol(&mut self, symbol: &str) {
        let others = self.by_id.values().filter(|other| other.definition.symbol.as_str() == symbol);
        match others.max_by_key(|other| other.defined_at).map(|other| other.id) {
            Some(other) => self.by_symbol.insert(symbol.to_owned(), other),
            None => self.by_symbol.remove(symbol),
        };
    }

    /// An instrument by its id.
    pub fn get(&self, id: InstrumentId) -> Option<&Instrument> {
        self.by_id.get(&id)
    }

    /// An instrument by its symbol; the last one defined under it.
    pub fn by_symbol(&self, symbol: &str) -> Option<&Instrument> {
        self.by_symbol.get(symbol).and_then(|id| self.by_id.get(id))
    }

    /// An instrument by what people write for it: its symbol; else, if it is a number, the venue's own number for it
    /// (when exactly one instrument has that), else its id on this tape.
    pub fn find(&self, text: &str) -> Option<&Instrument> {
        if let Some(instrument) = self.by_symbol(text) {
            return Some(instrument);
        }
        let number: u64 = text.parse().ok()?;
        let mut at_venue =
            self.by_id.values().filter(|instrument| instrument.definition.venue_instrument_id == number);
        if let (Some(instrument), None) = (at_venue.next(), at_venue.next()) {
            return Some(instrument);
        }
        u32::try_from(number).ok().and_then(|id| self.by_id.get(&InstrumentId(id)))
    }

    /// Every instrument, by ascending id.
    pub fn iter(&self) -> impl Iterator<Item = &Instrument> + '_ {
        self.by_id.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

impl Projection for Instruments {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        VERSION
    }

    fn apply(&mut self, event: &EventRef<'_>) {
        Self::apply(self, event);
    }

    fn save(&self, out: &mut Vec<u8>) {
        put_count(out, self.by_id.len());
        for instrument in self.by_id.values() {
            put_u32(out, instrument.id.get());
            put_u64(out, instrument.defined_at.get());
            out.push(instrument.status as u8);
            put_u64(out, instrument.status_at.get());
            let mut payload = DefinitionBytes::ZERO;
            instrument.definition.encode(&mut payload.0);
            out.extend_from_slice(&payload.0);
        }
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), ProjectionError> {
        let mut reader = SectionReader::new(NAME, section);
        let mut restored = Self::new();
        // The order of definition decides whose a symbol is, should two have it.
        let mut defined = Vec::new();
        for _ in 0..reader.count(INSTRUMENT_BYTES_MIN)? {
            let instrument = restore_instrument(&mut reader)?;
            if restored.by_id.last_key_value().is_some_and(|(last, _)| *last >= instrument.id) {
                return Err(reader.error(format!("instrument {} is out of order", instrument.id)));
            }
            defined.push((instrument.defined_at, instrument.id));
            restored.by_id.insert(instrument.id, instrument);
        }
        reader.end()?;
        defined.sort_unstable();
        for (_, id) in defined {
            restored.by_symbol.insert(restored.by_id[&id].definition.symbol.as_str().into_owned(), id);
        }
        *self = restored;
        Ok(())
    }
}

const DEFINITION_BYTES: usize = size_of::<ArchivedInstrumentDefined>();
const INSTRUMENT_BYTES_MIN: usize = 4 + 8 + 1 + 8 + DEFINITION_BYTES;

/// A definition's payload where archives may lie.
#[repr(align(16))]
struct DefinitionBytes([u8; DEFINITION_BYTES]);

impl DefinitionBytes {
    const ZERO: Self = Self([0; DEFINITION_BYTES]);
}

fn restore_instrument(reader: &mut SectionReader<'_>) -> Result<Instrument, ProjectionError> {
    let id = InstrumentId(reader.u32()?);
    let defined_at = Sequence(reader.u64()?);
    let number = reader.u8()?;
    let status = TradingStatus::ALL.get(usize::from(number)).copied();
    let status = status.ok_or_else(|| reader.error(format!("trading status {number}")))?;
    let status_at = Sequence(reader.u64()?);
    let mut payload = DefinitionBytes::ZERO;
    payload.0.copy_from_slice(reader.take(DEFINITION_BYTES)?);
    InstrumentDefined::check(&payload.0).map_err(|error| reader.error(error.to_string()))?;
    // SAFETY: `check` has just accepted these bytes at this address.
    let definition = InstrumentDefined::native(unsafe { InstrumentDefined::view(&payload.0) });
    Ok(Instrument { id, definition, defined_at, status, status_at })
}
