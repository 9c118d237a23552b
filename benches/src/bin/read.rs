//! Reading: one event by its sequence, one order's events, and everything in order; from memory, from tables, and from tables of
//! which nothing is in the page cache.
//!
//!     cargo run --release -p matchtape-benches --bin read -- --events 4000000 --data /some/disk
//!     cargo run --release -p matchtape-benches --bin read -- --tape tape/      scans only: of an imported feed, say

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use matchtape_benches::flow::{OrderFlow, PRODUCER};
use matchtape_benches::{Options, Report, device, microseconds, nanoseconds};
use matchtape_node::{Node, NodeOptions, PublishError, Publisher};
use matchtape_schemas::{Body, Event, InstrumentId, OrderId, Sequence, Stage};
use matchtape_storage::{Query, ReadOnlyOptions, ReadOnlyStore, Reader, RealDisk};

#[derive(clap::Parser)]
struct ReadOptions {
    #[command(flatten)]
    common: Options,
    /// Events on the tape.
    #[arg(long, default_value_t = 4_000_000)]
    events: u64,
    /// Point reads per measurement.
    #[arg(long, default_value_t = 200_000)]
    reads: u64,
    /// Point reads of which each begins with an empty page cache.
    #[arg(long, default_value_t = 3_000)]
    cold_reads: u64,
    /// Instead of all that: this tape is scanned, by one thread, until the time is over.
    #[arg(long)]
    tape: Option<PathBuf>,
}

/// An order, and where it was accepted.
#[derive(Clone, Copy)]
struct Order {
    instrument: InstrumentId,
    order: OrderId,
    accepted: Sequence,
}

/// What was written.
struct Written {
    last: Sequence,
    orders: Vec<Order>,
}

/// A walk over 0..count whose next place is far from the last.
fn places(count: u64) -> impl FnMut() -> u64 {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 17) % count
    }
}

fn publish(publisher: &mut Publisher, group: &[Event]) -> Sequence {
    loop {
        match publisher.publish_group(group) {
            Ok(published) => return published.sequence(),
            Err(PublishError::WouldBlock) => publisher.wait_for_room(group.len()).expect("the node is open"),
            Err(error) => panic!("{error}"),
        }
    }
}

fn write(node: &Node, events: u64) -> Written {
    let mut publisher = node.publisher(PRODUCER).expect("the only handle");
    let (mut flow, begun) = OrderFlow::new();
    let mut written = Written { last: Sequence::ZERO, orders: Vec::new() };
    for event in &begun {
        written.last = publish(&mut publisher, std::slice::from_ref(event));
    }
    let mut group = Vec::new();
    while written.last.get() < events {
        flow.next(&mut group);
        if group.is_empty() {
            continue;
        }
        let last = publish(&mut publisher, &group);
        for (event, behind) in group.iter().zip((0..group.len() as u64).rev()) {
            if let Body::OrderAccepted(accepted) = &event.body {
                let (instrument, order) = (event.instrument, accepted.order_id);
                written.orders.push(Order { instrument, order, accepted: Sequence(last.get() - behind) });
            }
        }
        written.last = last;
    }
    node.wait(written.last, Stage::Visible).expect("a disk that syncs");
    written
}

fn by_sequence(reader: &Reader, sequence: Sequence) -> Duration {
    let begun = Instant::now();
    let found = reader.event(sequence).expect("an undamaged tape").expect("it is there");
    let number = found.event().header().producer_sequence;
    let took = begun.elapsed();
    // The first event is the epoch's start.
    assert_eq!(number.get() + 1, sequence.get());
    took
}

/// How long it took, and how many events there were.
fn by_order(reader: &Reader, order: Order) -> (Duration, usize) {
    let begun = Instant::now();
    let query = Query { instrument: Some(order.instrument), order: Some(order.order), ..Query::default() };
    let found = reader.query(&query).expect("an undamaged tape");
    let found: Vec<_> = found.map(|event| event.expect("an undamaged tape").sequence()).collect();
    let took = begun.elapsed();
    assert_eq!(found.first(), Some(&order.accepted));
    (took, found.len())
}

fn measure(report: &mut Report, what: &str, reader: &Reader, written: &Written, reads: u64) {
    let (mut place, mut histogram) = (places(written.last.get() - 1), nanoseconds());
    for _ in 0..reads {
        let took = by_sequence(reader, Sequence(place() + 2));
        histogram.saturating_record(took.as_nanos() as u64);
    }
    report.latency(&format!("{what}: event by sequence"), &histogram);
    let (mut place, mut histogram) = (places(written.orders.len() as u64), nanoseconds());
    let mut counts = nanoseconds();
    for _ in 0..reads / 4 {
        let (took, count) = by_order(reader, written.orders[place() as usize]);
        histogram.saturating_record(took.as_nanos() as u64);
        counts.saturating_record(count as u64);
    }
    report.latency(&format!("{what}: events of one order"), &histogram);
    for (name, quantile) in [("P50", 0.5), ("P99", 0.99)] {
        let count = counts.value_at_quantile(quantile) as f64;
        report.row(format!("{what}: events of one order, how many {name}"), count, "events");
    }

    let start = Instant::now();
    let (events, bytes, sum) = scan_all(reader);
    let seconds = start.elapsed().as_secs_f64();
    let last = written.last.get();
    assert_eq!((events, sum), (last, last * (last - 1) / 2));
    let copy = device::memory_copy(Duration::from_millis(500));
    report
        .row(format!("{what}: scan, every event looked at, one thread"), events as f64 / seconds, "events/s")
        .beside("memory copy of one core, in events", copy / (bytes as f64 / events as f64))
        .goal(">= 20 000 000");

    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let start = Instant::now();
    let part = last.div_ceil(threads);
    let events: u64 = std::thread::scope(|scope| {
        let parts = (0..threads).map(|number| {
            let (first, through) = (number * part + 1, ((number + 1) * part).min(last));
            scope.spawn(move || scan(reader, Sequence(first), Sequence(through)))
        });
        parts.collect::<Vec<_>>().into_iter().map(|part| part.join().expect("it ends")).sum()
    });
    assert_eq!(events, last);
    let rate = events as f64 / start.elapsed().as_secs_f64();
    report
        .row(format!("{what}: the same by {threads} threads, each a part"), rate, "events/s")
        .goal(">= 20 000 000");
}

/// Looks at every event; how many there were, the bytes of their frames, and the sum of their producers' numbers.
fn scan_all(reader: &Reader) -> (u64, u64, u64) {
    let mut frames = reader.frames(Sequence::FIRST).expect("an undamaged tape");
    let (mut events, mut bytes, mut sum) = (0u64, 0u64, 0u64);
    while let Some(frame) = frames.next_frame().expect("an undamaged tape") {
        for event in frame.frame().events() {
            events += 1;
            sum = sum.wrapping_add(event.header().producer_sequence.get());
        }
        bytes += frame.bytes().len() as u64;
    }
    (events, bytes, sum)
}

/// A tape that is there, scanned again and again: all but the first time from the page cache.
fn scan_tape(tape: &Path, duration: Duration) -> Report {
    let mut report = Report::new("read", tape);
    let disk = RealDisk::open(tape).expect("a directory");
    let store = ReadOnlyStore::open(Arc::new(disk), ReadOnlyOptions::default()).expect("a tape");
    let reader = store.reader();
    let (events, bytes, sum) = scan_all(&reader);
    let (start, mut scans) = (Instant::now(), 0);
    while scans == 0 || start.elapsed() < duration {
        assert_eq!(scan_all(&reader), (events, bytes, sum));
        scans += 1;
    }
    let rate = (events * scans) as f64 / start.elapsed().as_secs_f64();
    report.guarantee(format!(
        "{events} events, {} bytes each on average; every one checked as one from outside; files in the page cache, blocks read past \
         the block cache",
        bytes / events.max(1)
    ));
    let copy = device::memory_copy(Duration::from_millis(500));
    report
        .row("scan, every event looked at, one thread", rate, "events/s")
        .beside("memory copy of one core, in events", copy / (bytes as f64 / events as f64))
        .goal(">= 20 000 000");
    report
}

/// Looks at every event of a part of the tape; how many there were.
fn scan(reader: &Reader, first: Sequence, through: Sequence) -> u64 {
    let mut frames = reader.frames(first).expect("an undamaged tape");
    let (mut events, mut sum) = (0, 0u64);
    while let Some(frame) = frames.next_frame().expect("an undamaged tape") {
        for event in frame.frame().events() {
            if event.sequence() < first || event.sequence() > through {
                continue;
            }
            events += 1;
            sum = sum.wrapping_add(event.header().producer_sequence.get());
        }
        if frame.header().last_sequence() >= through {
            break;
        }
    }
    std::hint::black_box(sum);
    events
}

/// Every file of the tables, to be dropped from the page cache.
struct PageCache {
    files: Vec<File>,
}

impl PageCache {
    fn of(data: &Path) -> Self {
        let entries = std::fs::read_dir(data.join("tables")).expect("a store");
        let files = entries.map(|entry| File::open(entry.expect("listed").path()).expect("a file"));
        Self { files: files.collect() }
    }

    fn drop_pages(&self) {
        for file in &self.files {
            rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).expect("a file that is synced");
        }
    }
}

/// System calls of this process that read, so far.
fn reads_so_far() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").expect("the kernel tells");
    let line = text.lines().find_map(|line| line.strip_prefix("syscr: "));
    line.expect("it tells this too").parse().expect("a number")
}

/// Reads are told apart by how much they find: at most so many events.
const EVENTS_FOUND: [usize; 5] = [2, 5, 12, 24, usize::MAX];

fn measure_cold(
    report: &mut Report,
    what: &str,
    own: &Histogram<u64>,
    pages: &PageCache,
    reads: u64,
    mut read: impl FnMut() -> (Duration, usize),
) {
    let (mut histogram, before) = (nanoseconds(), reads_so_far());
    let mut by_events = EVENTS_FOUND.map(|_| nanoseconds());
    for _ in 0..reads {
        pages.drop_pages();
        let (time, events) = read();
        let nanos = time.as_nanos() as u64;
        histogram.saturating_record(nanos);
        let class = EVENTS_FOUND.iter().position(|most| events <= *most).expect("the last has no end");
        by_events[class].saturating_record(nanos);
    }
    // The file that tells takes one or two itself.
    let calls = reads_so_far().saturating_sub(before + 2);
    for (name, quantile) in [("P50", 0.5), ("P99", 0.99)] {
        let row = report.row(format!("cold: {what} {name}"), microseconds(&histogram, quantile), "us");
        row.beside(&format!("device, 4 KiB at random, {name}"), microseconds(own, quantile));
        if name == "P99" {
            row.goal("< 100 us");
        }
    }
    report.row(format!("cold: {what}, reads of a file"), calls as f64 / reads as f64, "each");
    for (most, histogram) in EVENTS_FOUND.iter().zip(&by_events) {
        // All of one class say nothing that was not said.
        if histogram.is_empty() || histogram.len() == reads {
            continue;
        }
        let found = if *most == usize::MAX { "more".to_owned() } else { format!("up to {most}") };
        let share = 100.0 * histogram.len() as f64 / reads as f64;
        for (name, quantile) in [("P50", 0.5), ("P99", 0.99)] {
            let what = format!("cold: {what}, {found} of them ({share:.0} % of the reads) {name}");
            report.row(what, microseconds(histogram, quantile), "us");
        }
    }
}

fn main() {
    let options = ReadOptions::parse();
    if let Some(tape) = &options.tape {
        return scan_tape(tape, options.common.duration()).print(options.common.format);
    }
    let folder = options.common.folder();
    let mut report = Report::new("read", folder.path());
    let mut settings = NodeOptions::default();
    // All of it stays in memory until it is flushed below.
    settings.store.memtable_bytes = 4 << 30;
    settings.store.block_cache_bytes = 2 << 30;
    let data = folder.path().join("tape");
    let node = Node::open(&data, settings.clone(), Vec::new()).expect("a fresh node");
    let written = write(&node, options.events);
    measure(&mut report, "memory", &node.reader(), &written, options.reads);
    node.close().expect("a node that closes");

    let begun = Instant::now();
    let node = Node::open(&data, settings.clone(), Vec::new()).expect("the tape just written");
    report.row("open after a clean close", begun.elapsed().as_secs_f64() * 1e3, "ms");
    let tables = node.store().inspect();
    let raw: u64 = tables.event_tables.iter().map(|table| table.raw_bytes).sum();
    let stored: u64 = tables.event_tables.iter().map(|table| table.bytes).sum();
    report.guarantee(format!(
        "{} events of {} orders, {} bytes each on average, of a matching engine's seeded order flow; event tables compressed \
         {:.2} : 1; places chosen at random over the whole tape; never beyond visible",
        written.last,
        written.orders.len(),
        raw / written.last.get(),
        raw as f64 / stored as f64
    ));
    let share = |cache: usize| 100.0 * (cache as f64 / raw as f64).min(1.0);
    let cold_cache = NodeOptions::default().store.block_cache_bytes;
    report.guarantee(format!(
        "tables: a block cache of {} MiB, room for {:.0} % of the {} MiB of events; cold: of {} MiB, for {:.0} % (the default; what blocks \
         are found by stays in it)",
        settings.store.block_cache_bytes >> 20,
        share(settings.store.block_cache_bytes),
        raw >> 20,
        cold_cache >> 20,
        share(cold_cache)
    ));
    // The first pass finds nothing decompressed, the second what the first left in the block cache.
    measure(&mut report, "tables, block cache empty", &node.reader(), &written, options.reads);
    measure(&mut report, "tables, block cache full", &node.reader(), &written, options.reads);
    node.close().expect("a node that closes");

    let own =
        device::read_latency(folder.path(), 1 << 30, options.common.duration().min(Duration::from_secs(3)));
    settings.store.block_cache_bytes = cold_cache;
    let node = Node::open(&data, settings, Vec::new()).expect("the tape just written");
    let (reader, pages) = (node.reader(), PageCache::of(&data));
    let mut place = places(written.last.get() - 1);
    measure_cold(&mut report, "event by sequence", &own, &pages, options.cold_reads, || {
        (by_sequence(&reader, Sequence(place() + 2)), 1)
    });
    let mut place = places(written.orders.len() as u64);
    measure_cold(&mut report, "events of one order", &own, &pages, options.cold_reads, || {
        by_order(&reader, written.orders[place() as usize])
    });
    node.close().expect("a node that closes");
    report.print(options.common.format);
}
