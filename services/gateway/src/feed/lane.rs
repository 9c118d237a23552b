//! The recent messages of one channel: a bounded stretch of the tape, encoded once, read by everybody.
//!
//! ```text
//! tape      ..........[ covered: after `from`, through `through` ]
//! blocks              [   ][ ][      ][  ]     each the items of one step of the market thread
//! ```
//!
//! Only the market thread appends. A lane without subscribers encodes nothing and covers nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use matchtape_schemas::{InstrumentId, Sequence};
use parking_lot::RwLock;

/// The items of one step, in tape order. `T` is what a channel keeps beside the text.
#[derive(Debug)]
pub(crate) struct Block<T> {
    text: String,
    items: Vec<Item<T>>,
}

/// One item of a block.
#[derive(Debug)]
pub(crate) struct Item<T> {
    pub(crate) sequence: Sequence,
    pub(crate) instrument: InstrumentId,
    pub(crate) detail: T,
    start: u32,
    end: u32,
}

impl<T> Block<T> {
    pub(crate) fn new() -> Self {
        Self { text: String::new(), items: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Appends an item whose text `encode` writes; nothing when it returns `false`.
    pub(crate) fn push(
        &mut self,
        sequence: Sequence,
        instrument: InstrumentId,
        detail: T,
        encode: impl FnOnce(&mut String) -> bool,
    ) {
        let start = self.text.len() as u32;
        if encode(&mut self.text) {
            let end = self.text.len() as u32;
            self.items.push(Item { sequence, instrument, detail, start, end });
        }
    }

    /// The items after a position.
    pub(crate) fn items_after(&self, position: Sequence) -> &[Item<T>] {
        &self.items[self.items.partition_point(|item| item.sequence <= position)..]
    }

    pub(crate) fn text(&self, item: &Item<T>) -> &str {
        &self.text[item.start as usize..item.end as usize]
    }

    fn last_sequence(&self) -> Sequence {
        self.items.last().map_or(Sequence::ZERO, |item| item.sequence)
    }

    fn bytes(&self) -> usize {
        self.text.len() + self.items.len() * size_of::<Item<T>>()
    }
}

/// What a reader finds after its position.
#[derive(Debug)]
pub(crate) enum Recent<T> {
    /// These blocks hold everything after the position through `through`; they may begin before the position.
    Blocks {
        /// In tape order.
        blocks: Vec<Arc<Block<T>>>,
        /// How far they reach.
        through: Sequence,
    },
    /// Some of it is not here any more (or never was): read the log.
    Gone,
}

/// The recent messages of one channel.
#[derive(Debug)]
pub(crate) struct Lane<T> {
    inner: RwLock<Inner<T>>,
    bytes_max: usize,
}

#[derive(Debug)]
struct Inner<T> {
    subscribers: usize,
    from: Sequence,
    through: Sequence,
    blocks: VecDeque<Arc<Block<T>>>,
    bytes: usize,
}

impl<T> Lane<T> {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let inner = Inner {
            subscribers: 0,
            from: Sequence::ZERO,
            through: Sequence::ZERO,
            blocks: VecDeque::new(),
            bytes: 0,
        };
        Self { inner: RwLock::new(inner), bytes_max }
    }

    /// Whether anybody wants this lane's items.
    pub(crate) fn is_wanted(&self) -> bool {
        self.inner.read().subscribers > 0
    }

    /// One subscriber more, while the market thread stands at `position`.
    pub(crate) fn join(&self, position: Sequence) {
        let mut inner = self.inner.write();
        if inner.subscribers == 0 {
            inner.from = position;
            inner.through = position;
        }
        inner.subscribers += 1;
    }

    /// One subscriber less; with the last one the messages go.
    pub(crate) fn leave(&self) {
        let mut inner = self.inner.write();
        inner.subscribers -= 1;
        if inner.subscribers == 0 {
            inner.blocks.clear();
            inner.bytes = 0;
            inner.from = inner.through;
        }
    }

    /// The market thread has gone on to `through`; the block has what was in between. Ignored without subscribers.
    pub(crate) fn append(&self, block: Block<T>, through: Sequence) {
        let mut inner = self.inner.write();
        if inner.subscribers == 0 {
            return;
        }
        inner.through = through;
        if block.is_empty() {
            return;
        }
        inner.bytes += block.bytes();
        inner.blocks.push_back(Arc::new(block));
        // The newest block stays whatever its size: somebody has to get it.
        while inner.bytes > self.bytes_max && inner.blocks.len() > 1 {
            let oldest = inner.blocks.pop_front().expect("there are two");
            inner.bytes -= oldest.bytes();
            inner.from = oldest.last_sequence();
        }
    }

    /// Whether everything after a position is here.
    pub(crate) fn covers(&self, position: Sequence) -> bool {
        let inner = self.inner.read();
        inner.subscribers > 0 && inner.from <= position
    }

    /// What follows a position, up to a number of blocks.
    pub(crate) fn after(&self, position: Sequence, blocks_max: usize) -> Recent<T> {
        let inner = self.inner.read();
        if inner.subscribers == 0 || position < inner.from {
            return Recent::Gone;
        }
        let first = inner.blocks.partition_point(|block| block.last_sequence() <= position);
        let blocks: Vec<_> = inner.blocks.range(first..).take(blocks_max).cloned().collect();
        let through = if first + blocks.len() == inner.blocks.len() {
            inner.through
        } else {
            blocks.last().map_or(position, |block| block.last_sequence())
        };
        Recent::Blocks { blocks, through: through.max(position) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(sequences: std::ops::RangeInclusive<u64>) -> Block<()> {
        let mut block = Block::new();
        for sequence in sequences {
            block.push(Sequence(sequence), InstrumentId(1), (), |out| {
                out.push_str(&format!("{sequence:02}"));
                true
            });
        }
        block
    }

    fn read(lane: &Lane<()>, position: u64, blocks_max: usize) -> Option<(Vec<u64>, u64)> {
        match lane.after(Sequence(position), blocks_max) {
            Recent::Blocks { blocks, through } => {
                let items = blocks.iter().flat_map(|block| block.items_after(Sequence(position)));
                Some((items.map(|item| item.sequence.get()).collect(), through.get()))
            }
            Recent::Gone => None,
        }
    }

    #[test]
    fn a_reader_gets_everything_after_its_position_or_is_told_to_read_the_log() {
        let lane = Lane::new(usize::MAX);
        assert_eq!(read(&lane, 0, 9), None, "nobody wanted it, so nothing was kept");
        lane.join(Sequence(10));
        assert_eq!(read(&lane, 10, 9), Some((vec![], 10)));
        assert_eq!(read(&lane, 9, 9), None);
        lane.append(block(11..=13), Sequence(14));
        lane.append(Block::new(), Sequence(20));
        lane.append(block(21..=21), Sequence(25));
        assert_eq!(read(&lane, 10, 9), Some((vec![11, 12, 13, 21], 25)));
        assert_eq!(read(&lane, 12, 9), Some((vec![13, 21], 25)));
        assert_eq!(read(&lane, 10, 1), Some((vec![11, 12, 13], 13)), "not further than the blocks taken");
        assert_eq!(read(&lane, 13, 1), Some((vec![21], 25)));
        assert_eq!(read(&lane, 25, 9), Some((vec![], 25)));
        assert_eq!(read(&lane, 30, 9), Some((vec![], 30)), "a position beyond the tape waits");
    }

    #[test]
    fn bytes_are_bounded_and_what_went_is_known() {
        let lane = Lane::new(3 * block(1..=1).bytes());
        lane.join(Sequence(0));
        for sequence in 1..=10 {
            lane.append(block(sequence..=sequence), Sequence(sequence));
        }
        assert_eq!(read(&lane, 6, 9), None);
        assert_eq!(read(&lane, 7, 9), Some((vec![8, 9, 10], 10)));
        assert!(lane.covers(Sequence(7)) && !lane.covers(Sequence(6)));
        lane.leave();
        lane.append(block(11..=11), Sequence(11));
        assert_eq!(read(&lane, 10, 9), None);
        lane.join(Sequence(11));
        assert_eq!(read(&lane, 11, 9), Some((vec![], 11)));
    }
}
