//! How much memory an answer takes while it is read, counted by the allocator: the same for a short tape and a long one. A
//! process of its own, so that no other test allocates meanwhile.

mod model;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use matchtape_schemas::event::{OrderAccepted, StateSet};
use matchtape_schemas::*;
use matchtape_storage::wal::SyncPolicy;
use matchtape_storage::{CompactionOptions, Direction, Query, RealDisk, StoreOptions, WalOptions};
use model::*;
use tempfile::TempDir;

struct Counting;

/// Bytes allocated now, and the most since it was set.
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller keeps to what the trait asks.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: it was allocated above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that was allocated at one moment of `work`, beyond what there was before. Of several times the least: the store's own
/// threads may allocate meanwhile, too.
fn peak_bytes(mut work: impl FnMut()) -> usize {
    let once = |_| {
        let before = NOW.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        work();
        PEAK.load(Ordering::Relaxed).saturating_sub(before)
    };
    (0..3).map(once).min().expect("three times")
}

const BLOCK_CACHE: usize = 256 << 10;
const KEY: &[u8] = b"the only key";

/// A store of so many events, of one instrument and account, in tables, but for a tail.
fn store(groups: u64) -> (Driven, TempDir) {
    let small = small_options();
    let options = StoreOptions {
        memtable_bytes: 8 << 20,
        block_cache_bytes: BLOCK_CACHE,
        compaction: CompactionOptions::default(),
        wal: WalOptions { segment_bytes: 4 << 20, sync: SyncPolicy::None, ..small.wal.clone() },
        ..small
    };
    let directory = tempfile::tempdir().expect("a directory");
    let disk = RealDisk::open(directory.path()).expect("opened");
    let (mut driven, _) = Driven::open(Arc::new(disk), options, Vec::new(), 1).expect("created");
    for group in 0..groups {
        let first = driven.head.last_sequence.0 + 1;
        let event = |number: u64| {
            let order = OrderAccepted {
                order_id: OrderId(number),
                account: AccountId(3),
                ..OrderAccepted::default()
            };
            let body: Body = match number % 4 {
                0 => StateSet::new(KEY, &[7; 100]).expect("short").into(),
                _ => order.into(),
            };
            let time = EventTime((number * 100) as i64);
            Event::new(InstrumentId(1), ProducerSequence(number), time, body)
        };
        driven.append_group((first..first + 150).map(event).collect());
        if group % 40 == 39 && group + 20 < groups {
            driven.writer.sync().expect("synced");
            driven.store.made_durable(driven.writer.durable_group_end());
            driven.store.flush().expect("flushed");
        }
    }
    driven.store.compact(&mut |_| true).expect("compacted");
    assert!(driven.store.flushed_through().0 * 2 > driven.head.last_sequence.0, "most of it is in tables");
    // The model of it would take more than all there is to count.
    driven.events = Vec::new();
    (driven, directory)
}

/// The most that any of the questions takes, as a whole or by pages; and how many bytes of events the shortest answer has.
fn most_bytes(driven: &Driven) -> (usize, usize) {
    let reader = driven.store.reader();
    let (mut most, mut shortest) = (0, usize::MAX);
    for question in [
        Query::default(),
        Query { instrument: Some(InstrumentId(1)), ..Query::default() },
        Query { account: Some(AccountId(3)), ..Query::default() },
        Query { state_key: Some(KEY.to_vec()), ..Query::default() },
        Query { event_time_from: EventTime(1), kinds: KindMask::ORDERS, ..Query::default() },
    ] {
        for direction in [Direction::Forward, Direction::Backward] {
            let question = Query { direction, ..question.clone() };
            let mut bytes = 0;
            let mut whole = || {
                let answer = reader.query(&question).expect("a cursor");
                bytes = answer.map(|event| event.expect("read").event().header().length as usize).sum();
            };
            // Once uncounted: the tops of the tables' indexes stay in memory from then on.
            whole();
            most = most.max(peak_bytes(whole));
            shortest = shortest.min(bytes);
            let by_pages = || {
                let question = Query { limit: Some(500), ..question.clone() };
                let mut token: Option<String> = None;
                loop {
                    let mut page = reader.page(&question, "events", token.as_deref()).expect("a page");
                    page.by_ref().for_each(|event| drop(event.expect("read")));
                    token = page.next_page().map(|token| token.to_string());
                    if token.is_none() {
                        break;
                    }
                }
            };
            most = most.max(peak_bytes(by_pages));
        }
    }
    (most, shortest)
}

#[test]
fn an_answer_takes_as_much_memory_of_a_long_tape_as_of_a_short_one() {
    // Both are longer than what is looked ahead: sixteen blocks of events.
    let (driven, _folder) = store(200);
    let (short, of_short) = most_bytes(&driven);
    drop(driven);
    let (driven, _folder) = store(400);
    let (long, of_long) = most_bytes(&driven);
    assert!(
        of_long > of_short + (1 << 20) && of_short > 4 * long,
        "answers of {of_short} and {of_long} bytes"
    );
    assert!(long < short + (32 << 10), "{short} bytes of memory, then {long}");
}
