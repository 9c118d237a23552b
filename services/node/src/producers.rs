//! The producers' high-water marks: what makes a repeated publish a duplicate, also after restart and failover.

use std::collections::BTreeMap;

use matchtape_schemas::publish::ProducerMark;
use matchtape_schemas::{EventRef, ProducerId, ProducerSequence, Projection, ProjectionError, Sequence};

/// Every producer's last event, folded from the tape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerMarks {
    marks: BTreeMap<ProducerId, ProducerMark>,
}

/// The section's name in snapshots.
pub const SECTION: &str = "producers";
const ENTRY_BYTES: usize = 20;

impl ProducerMarks {
    /// The last event of a producer, if it has one.
    pub fn get(&self, producer: ProducerId) -> Option<ProducerMark> {
        self.marks.get(&producer).copied()
    }

    /// Every producer with its last event, by id.
    pub fn iter(&self) -> impl Iterator<Item = (ProducerId, ProducerMark)> {
        self.marks.iter().map(|(producer, mark)| (*producer, *mark))
    }

    pub(crate) fn set(&mut self, producer: ProducerId, mark: ProducerMark) {
        self.marks.insert(producer, mark);
    }
}

impl Projection for ProducerMarks {
    fn name(&self) -> &'static str {
        SECTION
    }

    fn version(&self) -> u32 {
        1
    }

    fn apply(&mut self, event: &EventRef<'_>) {
        let header = event.header();
        if header.producer != ProducerId::SEQUENCER {
            let mark =
                ProducerMark { producer_sequence: header.producer_sequence, sequence: event.sequence() };
            self.set(header.producer, mark);
        }
    }

    /// A count (u32), then per producer by id: id (u32), producer sequence (u64), sequence (u64); little-endian.
    fn save(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.marks.len() as u32).to_le_bytes());
        for (producer, mark) in &self.marks {
            out.extend_from_slice(&producer.get().to_le_bytes());
            out.extend_from_slice(&mark.producer_sequence.get().to_le_bytes());
            out.extend_from_slice(&mark.sequence.get().to_le_bytes());
        }
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), ProjectionError> {
        let wrong = |at, what: String| ProjectionError { section: SECTION, at, what };
        let (count, entries) = section.split_first_chunk::<4>().ok_or_else(|| wrong(0, "no count".into()))?;
        let count = u32::from_le_bytes(*count) as usize;
        if entries.len() != count.saturating_mul(ENTRY_BYTES) {
            return Err(wrong(4, format!("{} bytes for {count} producers", entries.len())));
        }
        let mut marks = BTreeMap::new();
        for (at, entry) in entries.chunks_exact(ENTRY_BYTES).enumerate() {
            let word = |from: usize| u64::from_le_bytes(entry[from..from + 8].try_into().expect("8 bytes"));
            let producer = ProducerId(u32::from_le_bytes(entry[..4].try_into().expect("4 bytes")));
            if marks.last_key_value().is_some_and(|(last, _)| *last >= producer) {
                return Err(wrong(4 + at * ENTRY_BYTES, format!("producer {producer} out of order")));
            }
            let mark =
                ProducerMark { producer_sequence: ProducerSequence(word(4)), sequence: Sequence(word(12)) };
            marks.insert(producer, mark);
        }
        self.marks = marks;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_their_section_and_damage_is_refused() {
        let mut marks = ProducerMarks::default();
        for producer in [1, 7, 9] {
            let mark = ProducerMark {
                producer_sequence: ProducerSequence(u64::MAX),
                sequence: Sequence(u64::from(producer)),
            };
            marks.set(ProducerId(producer), mark);
        }
        let mut section = Vec::new();
        marks.save(&mut section);
        let mut restored = ProducerMarks::default();
        restored.restore(&section).unwrap();
        assert_eq!(restored, marks);
        assert!(restored.restore(&section[..section.len() - 1]).is_err());
        section[4] = 200;
        assert!(restored.restore(&section).is_err(), "ids out of order");
        section[0..4].fill(0xFF);
        assert!(restored.restore(&section).is_err(), "a count beyond the bytes there are");
        assert!(restored.restore(&[]).is_err());
        assert_eq!(restored, marks, "a refused section changes nothing");
    }
}
