//! Choosing and merging on a simulated disk: whatever is flushed, the levels keep their order, nothing is lost or doubled, and
//! choosing comes to an end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use matchtape_schemas::{Sequence, TapeId};
use proptest::prelude::*;

use super::choose::{Choice, LEVELS, Levels, Merge, Shape, choose};
use super::merge::IndexMerge;
use crate::disk::Disk;
use crate::disk::sim::{Random, SimDisk};
use crate::sstable::{
    BlockCache, IndexScan, IndexTable, IndexTableMeta, IndexTableWriter, Key, OpenFiles, TABLES, TableError,
    install,
};

const TAPE: TapeId = TapeId(7);
const SHAPE: Shape =
    Shape { level0_tables: 2, level1_bytes: 40_000, factor: 2, table_bytes: 12_000, own_table_postings: 40 };

type Postings = BTreeMap<Vec<u8>, BTreeSet<u64>>;

/// The index tables of a store, and nothing else of it.
struct Tables {
    disk: Arc<dyn Disk>,
    tables: Vec<IndexTableMeta>,
    next_number: u64,
    shape: Shape,
    in_whole_blocks: u64,
}

impl Tables {
    fn new() -> Self {
        Self::of(SHAPE)
    }

    fn of(shape: Shape) -> Self {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        disk.create_directory(Path::new(TABLES)).unwrap();
        Self { disk, tables: Vec::new(), next_number: 1, shape, in_whole_blocks: 0 }
    }

    fn flush(&mut self, postings: &Postings) {
        let first = postings.values().flatten().min().expect("something is flushed");
        let mut writer =
            IndexTableWriter::create(&*self.disk, self.next_number, TAPE, Sequence(*first)).unwrap();
        for (key, positions) in postings {
            writer.add_positions(&Key::of(key), positions.iter().copied()).unwrap();
        }
        let (meta, path) = writer.finish().unwrap();
        install(&*self.disk, Path::new(TABLES), &[path]).unwrap();
        self.next_number += 1;
        self.tables.push(meta);
    }

    fn choose(&self) -> Choice {
        choose(&Levels::new(self.tables.iter()), &self.shape)
    }

    fn merge(&mut self, merge: Merge, first_kept: u64) -> Result<(), TableError> {
        let inputs: Vec<u64> = merge.inputs().collect();
        let metas: Vec<IndexTableMeta> =
            self.tables.iter().filter(|table| inputs.contains(&table.number)).cloned().collect();
        let numbers = self.next_number..self.next_number + 1000;
        let mut running =
            IndexMerge::new(&self.disk, merge, &metas, Sequence(first_kept), self.shape, numbers)?;
        while running.step(7)? {}
        self.in_whole_blocks += running.in_whole_blocks;
        let outputs = running.finish()?;
        self.next_number += 1000;
        self.tables.retain(|table| !inputs.contains(&table.number));
        for (meta, path) in outputs {
            install(&*self.disk, Path::new(TABLES), &[path]).unwrap();
            self.tables.push(meta);
        }
        Ok(())
    }

    /// What every table holds, of every entity from the highest level down: the order readers rely on.
    fn read(&self) -> BTreeMap<Vec<u8>, Vec<u64>> {
        let mut tables = self.tables.clone();
        tables.sort_by(|left, right| {
            let levels = right.level.cmp(&left.level);
            levels.then_with(|| super::choose::order(left).cmp(&super::choose::order(right)))
        });
        let mut found: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
        for meta in tables {
            let cache = Arc::new(BlockCache::new(0));
            let mut scan = IndexScan::new(Arc::new(IndexTable::new(
                meta,
                OpenFiles::new(Arc::clone(&self.disk), 1),
                cache,
            )));
            while scan.advance().unwrap() {
                let positions = found.entry(scan.key().to_bytes()).or_default();
                scan.postings().decode(|position| positions.push(position)).unwrap();
            }
        }
        found
    }

    /// Merges and moves until nothing is to be done.
    fn settle(&mut self, first_kept: u64) {
        loop {
            match self.choose() {
                Choice::Nothing => return,
                Choice::Move { number, into } => {
                    self.tables.iter_mut().find(|table| table.number == number).unwrap().level = into;
                }
                Choice::Merge(merge) => self.merge(merge, first_kept).unwrap(),
            }
            assert_eq!(Levels::new(self.tables.iter()).contradiction(), None);
        }
    }

    fn at(&self, level: u8) -> impl Iterator<Item = &IndexTableMeta> {
        self.tables.iter().filter(move |table| table.level == level)
    }
}

/// Flushes: each of positions behind those before, of a few keys that come in every one and many that do not.
fn flushes() -> impl Strategy<Value = Vec<Postings>> {
    let key = prop_oneof![
        3 => (0u8..3).prop_map(|busy| vec![1, busy]),
        3 => (0u16..400).prop_map(|key| [&[2][..], &key.to_be_bytes()].concat()),
        1 => (0u8..4).prop_map(|length| vec![5; usize::from(length) + 1]),
    ];
    let flush = prop::collection::vec((key, 1usize..12), 1..60);
    prop::collection::vec(flush, 1..14).prop_map(|flushes| {
        let mut position = 0;
        let of_flush = |entries: Vec<(Vec<u8>, usize)>| {
            let mut postings = Postings::new();
            for (key, count) in entries {
                for _ in 0..count {
                    position += 1 + position % 3;
                    postings.entry(key.clone()).or_default().insert(position);
                }
            }
            postings
        };
        flushes.into_iter().map(of_flush).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_flushed_nothing_is_lost_and_the_levels_keep_their_order(flushes in flushes(), retire in 0u64..8) {
        let mut store = Tables::new();
        let mut expected = Postings::new();
        let mut first_kept = 0;
        for (number, flush) in flushes.iter().enumerate() {
            store.flush(flush);
            for (key, positions) in flush {
                expected.entry(key.clone()).or_default().extend(positions);
            }
            if number as u64 == retire {
                first_kept = expected.values().flatten().max().copied().unwrap_or(0) / 2;
            }
            let total: u64 = store.tables.iter().map(|table| table.footer.postings).sum();
            let mut steps = 0;
            loop {
                let levels = Levels::new(store.tables.iter());
                prop_assert_eq!(levels.contradiction(), None);
                match store.choose() {
                    Choice::Nothing => break,
                    Choice::Move { number, into } => {
                        let table = store.tables.iter_mut().find(|table| table.number == number).unwrap();
                        prop_assert_eq!(table.level + 1, into);
                        table.level = into;
                    }
                    Choice::Merge(merge) => {
                        let inputs: Vec<u64> = merge.inputs().collect();
                        let distinct: BTreeSet<u64> = inputs.iter().copied().collect();
                        prop_assert_eq!(distinct.len(), inputs.len(), "no table twice");
                        store.merge(merge, first_kept).unwrap();
                    }
                }
                steps += 1;
                prop_assert!(steps <= total * LEVELS as u64, "every step brings something down");
            }
            let mut found = store.read();
            // What retention has dropped may be there still, and is never anything else.
            for positions in found.values_mut() {
                positions.retain(|position| *position >= first_kept);
            }
            found.retain(|_, positions| !positions.is_empty());
            let kept: BTreeMap<Vec<u8>, Vec<u64>> = expected
                .iter()
                .map(|(key, set)| (key.clone(), set.iter().copied().filter(|at| *at >= first_kept).collect()))
                .filter(|(_, list): &(_, Vec<u64>)| !list.is_empty())
                .collect();
            prop_assert_eq!(found, kept);
            // Within their limits: the last level alone has none.
            prop_assert!(store.at(0).count() < SHAPE.level0_tables);
            for level in 1..LEVELS as u8 - 1 {
                let bytes: u64 = store.at(level).map(|table| table.bytes).sum();
                prop_assert!(bytes < SHAPE.level1_bytes << (level - 1), "level {level}: {bytes}");
            }
        }
    }
}

/// A shape in which tables have several blocks.
const WIDE: Shape = Shape {
    level0_tables: 3,
    level1_bytes: 120_000,
    factor: 3,
    table_bytes: 50_000,
    own_table_postings: 4000,
};

/// A market's flush: new orders in ascending numbers, `old` postings of earlier ones, and two entities that are in everything.
fn market(random: &mut Random, orders: &mut u32, position: &mut u64, new: u32, old: u32) -> Postings {
    let mut flush = Postings::new();
    for at in 0..new + old {
        *position += 1 + random.below(3);
        let order = if at < new {
            *orders += 1;
            *orders
        } else {
            1 + random.below(u64::from(*orders)) as u32
        };
        flush.entry([&[2][..], &order.to_be_bytes()].concat()).or_default().insert(*position);
        flush.entry(vec![1, (order % 2) as u8]).or_default().insert(*position);
        flush.entry([&[3, 0][..], &[order as u8; 30]].concat()).or_default().insert(*position);
    }
    flush
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases() / 10, ..ProptestConfig::default() })]

    #[test]
    fn blocks_that_are_handed_on_whole_lose_nothing_either(
        seed: u64, sizes in prop::collection::vec((200u32..2000, 0u32..40), 4..12), retire in 0usize..16,
    ) {
        let (mut store, mut random) = (Tables::of(WIDE), Random::new(seed));
        let (mut orders, mut position, mut first_kept) = (0, 0, 0);
        let mut expected = Postings::new();
        for (number, (new, old)) in sizes.into_iter().enumerate() {
            let flush = market(&mut random, &mut orders, &mut position, new, old);
            for (key, positions) in &flush {
                expected.entry(key.clone()).or_default().extend(positions);
            }
            store.flush(&flush);
            if number == retire {
                first_kept = position / 2;
            }
            store.settle(first_kept);
        }
        let mut found = store.read();
        found.values_mut().for_each(|positions| positions.retain(|position| *position >= first_kept));
        found.retain(|_, positions| !positions.is_empty());
        expected.values_mut().for_each(|set| set.retain(|position| *position >= first_kept));
        expected.retain(|_, set| !set.is_empty());
        let listed = |set: BTreeSet<u64>| set.into_iter().collect::<Vec<u64>>();
        prop_assert_eq!(found, expected.into_iter().map(|(key, set)| (key, listed(set))).collect());
        // Every filter knows its block's entities, and every footer what is in its table.
        for meta in &store.tables {
            let cache = Arc::new(BlockCache::new(0));
            let table = Arc::new(IndexTable::new(meta.clone(), OpenFiles::new(Arc::clone(&store.disk), 1), cache));
            let (mut postings, mut keys) = (0, BTreeSet::new());
            table.for_each_posting(|key, _| { postings += 1; keys.insert(key.to_vec()); }).unwrap();
            prop_assert_eq!((postings, keys.len() as u64), (meta.footer.postings, meta.footer.entities));
        }
    }
}

#[test]
fn what_no_other_table_adds_to_is_handed_on_in_whole_blocks() {
    let (mut store, mut random) = (Tables::of(WIDE), Random::new(3));
    let (mut orders, mut position) = (0, 0);
    for _ in 0..9 {
        let flush = market(&mut random, &mut orders, &mut position, 6000, 3);
        store.flush(&flush);
    }
    store.settle(0);
    let of_orders = u64::from(orders);
    assert!(store.in_whole_blocks > of_orders / 2, "{} of {of_orders}", store.in_whole_blocks);
    // Blocks do not become ever smaller.
    for meta in &store.tables {
        assert!(meta.footer.blocks <= 2 + meta.bytes / 4096, "{meta:?}");
    }
}

#[test]
fn new_numbers_go_down_at_once_and_are_not_written_again_by_every_merge() {
    // Level 1 is never full.
    let (mut store, mut random) = (Tables::of(Shape { level1_bytes: 1 << 30, ..WIDE }), Random::new(5));
    let (mut orders, mut position) = (0, 0);
    for _ in 0..12 {
        let flush = market(&mut random, &mut orders, &mut position, 6000, 3);
        store.flush(&flush);
        store.settle(0);
    }
    let bytes = |level| store.at(level).map(|table| table.bytes).sum::<u64>();
    let of_orders = |table: &&IndexTableMeta| table.footer.min_key[0] == 2 && table.footer.max_key[0] == 2;
    let below: u64 = store.at(2).filter(of_orders).map(|table| table.footer.entities).sum();
    assert!(below > u64::from(orders) / 2, "{below} of {orders} orders");
    assert!(bytes(1) < bytes(2), "{} and {}", bytes(1), bytes(2));
}

/// `MATCHTAPE_COMPACTION_CASES` makes them more.
fn cases() -> u32 {
    std::env::var("MATCHTAPE_COMPACTION_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150)
}

#[test]
fn an_entity_of_very_many_postings_gets_tables_of_its_own_and_those_that_are_full_are_left_alone() {
    let mut store = Tables::new();
    let mut random = Random::new(1);
    let mut position = 0;
    let mut expected: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
    let mut alone_seen = false;
    for _ in 0..40 {
        let mut flush = Postings::new();
        for key in [vec![1, 1], vec![1, 5], vec![1, 9]] {
            let count = if key == [1, 5] { 3000 } else { 3 };
            for _ in 0..count {
                // Steps that do not compress.
                position += 1 + random.below(50_000);
                flush.entry(key.clone()).or_default().insert(position);
                expected.entry(key.clone()).or_default().push(position);
            }
        }
        store.flush(&flush);
        loop {
            match store.choose() {
                Choice::Nothing => break,
                Choice::Move { number, into } => {
                    store.tables.iter_mut().find(|table| table.number == number).unwrap().level = into;
                }
                Choice::Merge(merge) => {
                    alone_seen |= !merge.alone.is_empty();
                    let bytes: u64 = store
                        .tables
                        .iter()
                        .filter(|table| merge.inputs().any(|number| number == table.number))
                        .map(|table| table.bytes)
                        .sum();
                    // Not the whole of a long list: what is new, and the last table if it has room.
                    assert!(bytes < 60_000, "one step reads {bytes} bytes");
                    store.merge(merge, 0).unwrap();
                }
            }
            assert_eq!(Levels::new(store.tables.iter()).contradiction(), None);
        }
    }
    assert!(alone_seen);
    assert_eq!(store.read(), expected);
    let own = store.tables.iter().filter(|table| *table.footer.min_key == [1, 5]);
    assert!(own.clone().all(|table| table.footer.max_key == table.footer.min_key));
    assert!(own.count() > 12, "tables are bounded");
}

#[test]
fn a_table_whose_entries_contradict_its_footer_is_refused() {
    let mut store = Tables::new();
    let of =
        |key: u8, positions: &[u64]| Postings::from([(vec![2, key], positions.iter().copied().collect())]);
    store.flush(&of(1, &[1, 2, 3]));
    store.flush(&of(2, &[5, 6, 7]));
    let merge = Merge { into: 1, runs: vec![vec![1], vec![2]], alone: Vec::new(), ends: Vec::new() };
    for wrong in [IndexTableMeta { number: 2, ..store.tables[0].clone() }, {
        let mut meta = store.tables[1].clone();
        meta.footer.last = Sequence(6);
        meta
    }] {
        let right = std::mem::replace(&mut store.tables[1], wrong);
        assert!(matches!(store.merge(merge.clone(), 0), Err(TableError::Damage(_))));
        store.tables[1] = right;
    }
    // The newer run first: its positions are not behind.
    store.flush(&of(1, &[8]));
    let turned = Merge {
        into: 1,
        runs: vec![vec![store.tables[2].number], vec![1]],
        alone: Vec::new(),
        ends: Vec::new(),
    };
    assert!(matches!(store.merge(turned, 0), Err(TableError::Damage(_))));
    store.merge(merge, 0).unwrap();
}
