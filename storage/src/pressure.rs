//! How far the work behind an append is behind, and how much slower events should be taken because of it.
//!
//! ```text
//! slow_down   0 ______________                     1000: nothing more
//!                             \____....----''''
//!             full speed       from here on a growing share of the time is a pause
//! ```
//!
//! Slowing down begins well before memory is full, so that a publisher sees its ring drain more slowly instead of a cliff;
//! the speed settles where appending is as fast as what is behind it.

use std::fmt;

/// In thousandths: nothing more is to be appended for now.
const STOP: u32 = 1000;
/// Compaction alone never stops the tape: what it is behind with makes lookups slower, and loses nothing.
const COMPACTION_MAX: u32 = 900;

/// What is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PressureReason {
    /// Nothing: events are taken at full speed.
    None,
    /// Memory fills faster than it is flushed to tables.
    Memtables,
    /// Indexing does not keep up.
    Indexing,
    /// Index tables are flushed faster than they are merged.
    Compaction,
}

impl PressureReason {
    /// As it is serialised.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Memtables => "memtables",
            Self::Indexing => "indexing",
            Self::Compaction => "compaction",
        }
    }
}

impl fmt::Display for PressureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Memtables => "memory fills faster than it is flushed",
            Self::Indexing => "indexing is behind",
            Self::Compaction => "compaction is behind",
        })
    }
}

/// How far indexing, flushing and compaction are behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Pressure {
    /// Bytes of frames that no index covers yet.
    pub unindexed_bytes: u64,
    /// Memory of everything that is not in tables yet, in bytes.
    pub unflushed_bytes: u64,
    /// The most that `unflushed_bytes` should become.
    pub limit_bytes: u64,
    /// Index tables as they were flushed, not merged yet.
    pub level0_tables: u64,
    /// More of them than this slow events down.
    pub level0_tables_max: u64,
}

/// How much of the way from `from` to `to` is behind, in thousandths.
fn share(value: u64, from: u64, to: u64) -> u32 {
    let behind = value.saturating_sub(from).min(to.saturating_sub(from));
    (u128::from(behind) * 1000 / u128::from(to.saturating_sub(from).max(1))) as u32
}

impl Pressure {
    /// How much of the time events should not be taken, in thousandths, and why. 1000: not at all for now.
    pub fn slow_down(&self) -> (u32, PressureReason) {
        let memory = self.limit_bytes;
        let unindexed_max = memory / 4;
        // One memtable that fills and one that is flushed are as it should be.
        let of_memory = share(self.unflushed_bytes, memory - memory / 4, memory);
        let of_indexing = share(self.unindexed_bytes, unindexed_max / 2, unindexed_max);
        let tables_max = self.level0_tables_max;
        let of_tables =
            share(self.level0_tables, tables_max, tables_max.saturating_mul(4)).min(COMPACTION_MAX);
        let (slow, reason) = [
            (of_memory, PressureReason::Memtables),
            (of_indexing, PressureReason::Indexing),
            (of_tables, PressureReason::Compaction),
        ]
        .into_iter()
        .max_by_key(|(slow, _)| *slow)
        .expect("three of them");
        if slow == 0 { (0, PressureReason::None) } else { (slow, reason) }
    }

    /// Whether nothing more should be appended for now: memory is full, or indexing is a quarter of it behind.
    pub fn must_wait(&self) -> bool {
        self.slow_down().0 >= STOP
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDLE: Pressure = Pressure {
        unindexed_bytes: 0,
        unflushed_bytes: 0,
        limit_bytes: 384 << 20,
        level0_tables: 0,
        level0_tables_max: 16,
    };

    #[test]
    fn each_reason_slows_down_first_and_only_memory_stops() {
        assert_eq!(IDLE.slow_down(), (0, PressureReason::None));
        let memory = |bytes: u64| Pressure { unflushed_bytes: bytes << 20, ..IDLE }.slow_down();
        assert_eq!(memory(256), (0, PressureReason::None), "one fills, one is flushed");
        assert_eq!(memory(336), (500, PressureReason::Memtables));
        assert_eq!(memory(384), (1000, PressureReason::Memtables));
        let indexing = |bytes: u64| Pressure { unindexed_bytes: bytes << 20, ..IDLE }.slow_down();
        assert_eq!(indexing(48), (0, PressureReason::None));
        assert_eq!(indexing(72), (500, PressureReason::Indexing));
        assert_eq!(indexing(96), (1000, PressureReason::Indexing));
        let tables = |tables| Pressure { level0_tables: tables, ..IDLE };
        assert_eq!(tables(16).slow_down(), (0, PressureReason::None));
        assert_eq!(tables(40).slow_down(), (500, PressureReason::Compaction));
        assert_eq!(tables(1_000_000).slow_down(), (900, PressureReason::Compaction));
        assert!(!tables(1_000_000).must_wait());
    }

    proptest! {
        #[test]
        fn more_behind_is_never_faster(
            limit in 1u64.., unflushed: u64, unindexed: u64, tables: u64, max: u64, more: u64,
        ) {
            let pressure = Pressure {
                unindexed_bytes: unindexed,
                unflushed_bytes: unflushed,
                limit_bytes: limit,
                level0_tables: tables,
                level0_tables_max: max,
            };
            let (slow, reason) = pressure.slow_down();
            prop_assert!(slow <= 1000 && (slow == 0) == (reason == PressureReason::None));
            for worse in [
                Pressure { unindexed_bytes: unindexed.saturating_add(more), ..pressure },
                Pressure { unflushed_bytes: unflushed.saturating_add(more), ..pressure },
                Pressure { level0_tables: tables.saturating_add(more), ..pressure },
            ] {
                prop_assert!(worse.slow_down().0 >= slow);
            }
        }
    }
}
