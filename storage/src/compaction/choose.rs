//! What to compact next: a pure function of which index tables there are.
//!
//! ```text
//! level 0   | all keys, t1 | | all keys, t2 | | all keys, t3 |    as flushed: they follow each other in time
//! level 1   | a..d | e..k | k | k | m..z |                         by key, and of one key by time
//! level 2   |  ...  ten times as many bytes  ...  |
//! ```
//!
//! From level 1 on, the tables of a level do not overlap: each has its own range of keys, except that an entity of very many
//! postings may have several tables, which then hold nothing but its postings and follow each other in time. Of one entity,
//! a higher level holds older postings. Both hold before and after every choice, so a lookup asks, of each level,
//! one table (or the few of a large entity), from the highest level down.
//!
//! A choice takes the level that is furthest above its limit: level 0 by the number of its tables, the others by
//! their bytes. Of level 0 the oldest tables go, for what stays has to be newer; of the others the table that meets the
//! fewest bytes below itself. Every choice brings at least one table one level down, so choosing comes to an end.
//!
//! Orders and trades come in ascending numbers, so most of what is new is beyond everything below. A merge ends a table where the level
//! below its own ends, and what is beyond goes down from level 1 as it is, at once: if it stayed, every merge of level 0 would
//! write it anew.

use std::ops::Range;

use crate::entity::Index;
use crate::sstable::IndexTableMeta;

/// Levels, the first one as flushed.
pub(crate) const LEVELS: usize = 7;
/// At most so many tables of level 0 are merged at once: each needs memory to be read.
const LEVEL0_INPUTS_MAX: usize = 16;

/// How large levels and tables may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// So many tables of level 0 are merged.
    pub level0_tables: usize,
    /// Bytes of level 1; each further level may have `factor` times as many.
    pub level1_bytes: u64,
    pub factor: u64,
    /// A table is closed when it has so many bytes.
    pub table_bytes: u64,
    /// An entity with more postings in one merge gets tables of its own.
    pub own_table_postings: usize,
}

impl Shape {
    fn level_bytes(&self, level: usize) -> u64 {
        (1..level).fold(self.level1_bytes, |bytes, _| bytes.saturating_mul(self.factor))
    }

    /// How full a level is, in thousandths of its limit.
    fn fullness(&self, level: usize, tables: &[&IndexTableMeta]) -> u64 {
        let of = |have: u64, limit: u64| have.saturating_mul(1000) / limit.max(1);
        match level {
            0 => of(tables.len() as u64, self.level0_tables as u64),
            _ => of(tables.iter().map(|table| table.bytes).sum(), self.level_bytes(level)),
        }
    }
}

/// The tables by level: level 0 by time, the others by key and then time.
#[derive(Clone, Debug)]
pub(crate) struct Levels<'a>([Vec<&'a IndexTableMeta>; LEVELS]);

impl<'a> Levels<'a> {
    /// Sorts tables, whose levels exist, into levels.
    pub(crate) fn new(tables: impl Iterator<Item = &'a IndexTableMeta>) -> Self {
        let mut levels: [Vec<&IndexTableMeta>; LEVELS] = Default::default();
        for table in tables {
            levels[usize::from(table.level)].push(table);
        }
        for level in &mut levels {
            level.sort_by(|left, right| order(left).cmp(&order(right)));
        }
        Self(levels)
    }

    /// What cannot be, if anything.
    pub(crate) fn contradiction(&self) -> Option<String> {
        for (level, tables) in self.0.iter().enumerate() {
            for pair in tables.windows(2) {
                let (before, after) = (pair[0], pair[1]);
                let apart = match level {
                    0 => before.footer.last < after.footer.first,
                    _ if before.footer.max_key < after.footer.min_key => true,
                    _ => same_entity(before, after) && before.footer.last < after.footer.first,
                };
                if !apart {
                    let (before, after) = (before.number, after.number);
                    return Some(format!("index tables {before} and {after} of level {level} overlap"));
                }
            }
        }
        None
    }
}

/// The order of a level, and of the tables that readers go through: see the module.
pub(crate) fn order(table: &IndexTableMeta) -> (&[u8], u64) {
    let key: &[u8] = if table.level == 0 { &[] } else { &table.footer.min_key };
    (key, table.footer.first.0)
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Every level is within its limit.
    Nothing,
    /// The table belongs to the next level as it is.
    Move {
        /// Its number.
        number: u64,
        /// The level.
        into: u8,
    },
    /// These tables become others.
    Merge(Merge),
}

/// Which tables become which others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Merge {
    /// The level of what comes out.
    pub into: u8,
    /// Numbers of tables. Of one entity, an earlier run holds older postings; the tables of a run follow each other.
    pub runs: Vec<Vec<u64>>,
    /// Keys, ascending, that have tables of their own in `into` which stay: their postings must not share a table with
    /// others, and no table may reach over them.
    pub alone: Vec<Box<[u8]>>,
    /// Keys, ascending, behind which a table ends.
    pub ends: Vec<Box<[u8]>>,
}

impl Merge {
    /// The tables that go.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = u64> {
        self.runs.iter().flatten().copied()
    }
}

fn one_entity(table: &IndexTableMeta) -> bool {
    table.footer.min_key == table.footer.max_key
}

fn same_entity(left: &IndexTableMeta, right: &IndexTableMeta) -> bool {
    one_entity(left) && one_entity(right) && left.footer.min_key == right.footer.min_key
}

/// What of a level a merge with the keys `least..=greatest` has to take, and the entities whose other tables stay.
fn below<'a>(
    level: &[&'a IndexTableMeta],
    least: &[u8],
    greatest: &[u8],
    shape: &Shape,
) -> (Vec<&'a IndexTableMeta>, Vec<Box<[u8]>>) {
    let Range { start, end } = level.partition_point(|table| *table.footer.max_key < *least)
        ..level.partition_point(|table| *table.footer.min_key <= *greatest);
    let (mut taken, mut alone) = (Vec::new(), Vec::new());
    for group in level[start..end].chunk_by(|left, right| same_entity(left, right)) {
        let last = group[group.len() - 1];
        // New postings come behind all of an entity's own tables: only the last of them may have room.
        let takes_last = !one_entity(last) || last.bytes < shape.table_bytes / 2;
        if takes_last {
            taken.push(last);
        }
        if group.len() > 1 || !takes_last {
            alone.push(last.footer.min_key.clone());
        }
    }
    (taken, alone)
}

/// Behind which keys a level has nothing more of an index; and before every index: a table of two would lie across all that is
/// to come between its keys.
fn ends(level: &[&IndexTableMeta]) -> Vec<Box<[u8]>> {
    let index = |table: &&IndexTableMeta| table.footer.max_key.first().copied();
    let of_level = level.chunk_by(|left, right| index(left) == index(right));
    let mut ends: Vec<Box<[u8]>> =
        of_level.map(|tables| tables[tables.len() - 1].footer.max_key.clone()).collect();
    ends.extend((Index::Instrument as u8..=Index::State as u8).map(|index| Box::from([index])));
    ends.sort_unstable();
    ends
}

/// A table of level 1 that meets nothing below and is worth a file of its own there.
fn beyond_level2(levels: &Levels<'_>, shape: &Shape) -> Option<u64> {
    let lone = |table: &&&IndexTableMeta| {
        let footer = &table.footer;
        let below = levels.0[2].partition_point(|below| below.footer.max_key < footer.min_key);
        let free = levels.0[2].get(below).is_none_or(|below| below.footer.min_key > footer.max_key);
        // Of an entity with several tables the oldest one goes first, in its turn.
        free && !one_entity(table) && table.bytes >= shape.table_bytes / 2
    };
    levels.0[1].iter().find(lone).map(|table| table.number)
}

/// Decides what to do next.
pub(crate) fn choose(levels: &Levels<'_>, shape: &Shape) -> Choice {
    // The last level has no limit: there is nowhere to go.
    let fullness = |level: &usize| shape.fullness(*level, &levels.0[*level]);
    let fullest = (0..LEVELS - 1).rev().max_by_key(fullness).expect("there are levels");
    if let Some(number) = beyond_level2(levels, shape) {
        return Choice::Move { number, into: 2 };
    }
    if fullness(&fullest) < 1000 {
        return Choice::Nothing;
    }
    if fullest == 0 { of_level0(levels, shape) } else { of_level(levels, fullest, shape) }
}

fn of_level0(levels: &Levels<'_>, shape: &Shape) -> Choice {
    // As many bytes as they meet below, so that rewriting those is worth it.
    let below_bytes: u64 = levels.0[1].iter().map(|table| table.bytes).sum();
    let (mut bytes, bytes_max) = (0, below_bytes.max(shape.level1_bytes));
    let enough = |table: &&&IndexTableMeta| {
        let wanted = bytes < bytes_max;
        bytes += table.bytes;
        wanted
    };
    let tables: Vec<&IndexTableMeta> =
        levels.0[0].iter().take(LEVEL0_INPUTS_MAX).take_while(enough).copied().collect();
    let least = tables.iter().map(|table| &table.footer.min_key).min().expect("level 0 is full");
    let greatest = tables.iter().map(|table| &table.footer.max_key).max().expect("level 0 is full");
    let (taken, alone) = below(&levels.0[1], least, greatest, shape);
    let mut runs: Vec<Vec<u64>> = vec![taken.iter().map(|table| table.number).collect()];
    runs.extend(tables.iter().map(|table| vec![table.number]));
    runs.retain(|run| !run.is_empty());
    Choice::Merge(Merge { into: 1, runs, alone, ends: ends(&levels.0[2]) })
}

fn of_level(levels: &Levels<'_>, level: usize, shape: &Shape) -> Choice {
    let tables = &levels.0[level];
    let mut best: Option<(u64, Choice)> = None;
    for (at, table) in tables.iter().enumerate() {
        // Of an entity with several tables the oldest one goes first.
        if at.checked_sub(1).is_some_and(|before| same_entity(tables[before], table)) {
            continue;
        }
        let footer = &table.footer;
        let (taken, alone) = below(&levels.0[level + 1], &footer.min_key, &footer.max_key, shape);
        let bytes: u64 = taken.iter().map(|table| table.bytes).sum();
        let cost = bytes.saturating_mul(1000) / table.bytes.max(1);
        if best.as_ref().is_some_and(|(least, _)| *least <= cost) {
            continue;
        }
        let into = level as u8 + 1;
        let choice = if taken.is_empty() && (alone.is_empty() || one_entity(table)) {
            Choice::Move { number: table.number, into }
        } else {
            let mut runs = vec![taken.iter().map(|table| table.number).collect(), vec![table.number]];
            runs.retain(|run: &Vec<u64>| !run.is_empty());
            let below = levels.0.get(level + 2).map_or(&[][..], Vec::as_slice);
            Choice::Merge(Merge { into, runs, alone, ends: ends(below) })
        };
        best = Some((cost, choice));
        if bytes == 0 {
            break;
        }
    }
    best.expect("a full level has a table").1
}
