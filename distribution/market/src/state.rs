//! Keyed reference data: the last value of each key, as one snapshot section, so that values outlive their events.
//!
//! Section `state`, version 1, little-endian: `u32` keys, then each by ascending key:
//!
//! ```text
//! u8 bytes of the key   key   u32 bytes of the value   value   u64 position of the event that set it   i64 its event time
//! ```

use std::collections::BTreeMap;
use std::ops::Bound;

use matchtape_schemas::event::{STATE_BYTES_MAX, STATE_KEY_BYTES_MAX};
use matchtape_schemas::{BodyRef, EventRef, EventTime, KindMask, Projection, ProjectionError, Sequence};

use crate::section::{SectionReader, put_count, put_i64, put_u64};

const NAME: &str = "state";
const VERSION: u32 = 1;

/// What a key was set to, and by which event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateValue {
    /// The value.
    pub value: Box<[u8]>,
    /// The position of the event that set it.
    pub set_at: Sequence,
    /// When that was.
    pub event_time: EventTime,
}

/// Every key that has a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyedState {
    values: BTreeMap<Box<[u8]>, StateValue>,
}

impl KeyedState {
    /// The section's name.
    pub const SECTION: &'static str = NAME;

    /// The kinds that change it.
    pub const KINDS: KindMask = KindMask::STATE;

    /// No values yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next event of the tape.
    pub fn apply(&mut self, event: &EventRef<'_>) {
        match event.body() {
            BodyRef::StateSet(set) => {
                let value = StateValue {
                    value: set.value.into(),
                    set_at: event.sequence(),
                    event_time: event.event_time(),
                };
                self.values.insert(set.key.into(), value);
            }
            BodyRef::StateDeleted(deleted) => {
                self.values.remove(deleted.key());
            }
            _ => {}
        }
    }

    /// A key's value.
    pub fn get(&self, key: &[u8]) -> Option<&StateValue> {
        self.values.get(key)
    }

    /// Keys that begin with `prefix`, from `from` on (inclusive) and before `to`, in ascending order.
    pub fn range<'a>(
        &'a self,
        prefix: &'a [u8],
        from: &'a [u8],
        to: Option<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a [u8], &'a StateValue)> + 'a {
        let begin = prefix.max(from);
        self.values
            .range::<[u8], _>((Bound::Included(begin), Bound::Unbounded))
            .map(|(key, value)| (&**key, value))
            .take_while(move |(key, _)| key.starts_with(prefix) && to.is_none_or(|to| *key < to))
    }

    /// How many keys have a value.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

impl Projection for KeyedState {
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
        put_count(out, self.values.len());
        for (key, value) in &self.values {
            out.push(u8::try_from(key.len()).expect("a key has at most 128 bytes"));
            out.extend_from_slice(key);
            put_count(out, value.value.len());
            out.extend_from_slice(&value.value);
            put_u64(out, value.set_at.get());
            put_i64(out, value.event_time.get());
        }
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), ProjectionError> {
        let mut reader = SectionReader::new(NAME, section);
        let mut restored = Self::new();
        for _ in 0..reader.count(VALUE_BYTES_MIN)? {
            let key_bytes = usize::from(reader.u8()?);
            let key = reader.take(key_bytes)?;
            if key.is_empty() || key.len() > STATE_KEY_BYTES_MAX {
                return Err(reader.error(format!("a key of {key_bytes} bytes")));
            }
            if restored.values.last_key_value().is_some_and(|(last, _)| **last >= *key) {
                return Err(reader.error("a key is out of order"));
            }
            let value_bytes = reader.u32()? as usize;
            if key_bytes + value_bytes > STATE_BYTES_MAX {
                return Err(reader.error(format!("a value of {value_bytes} bytes")));
            }
            let value = reader.take(value_bytes)?.into();
            let (set_at, event_time) = (Sequence(reader.u64()?), EventTime(reader.i64()?));
            restored.values.insert(key.into(), StateValue { value, set_at, event_time });
        }
        reader.end()?;
        *self = restored;
        Ok(())
    }
}

/// A key of one byte and no value.
const VALUE_BYTES_MIN: usize = 1 + 1 + 4 + 8 + 8;
