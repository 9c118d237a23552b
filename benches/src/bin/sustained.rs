//! A store under a steady load, through many flushes and compactions: what publishing feels of them, what they cost, and what
//! the tables become.
//!
//!     cargo run --release -p matchtape-benches --bin sustained -- --rate 1000000 --data /some/disk
//!
//! The load is offered open-loop: latency counts from when a call was due. Two in five events are cancellations of
//! older orders. How old is as in a market, where few orders live long but some do: as many are 1000 to 2000 orders old as are one to
//! two million. `--old 50` is worse than any market: half of them are of any order there ever was, so that every merge meets
//! the whole tape.

use std::time::{Duration, Instant};

use clap::Parser;
use matchtape_benches::{Options, Report, device, open_loop, open_loop_waiting, tape};
use matchtape_node::{Node, NodeOptions, PublishError};
use matchtape_schemas::event::{Event, OrderCancelled};
use matchtape_schemas::{Body, EventTime, InstrumentId, OrderId, ProducerId, ProducerSequence, Stage};
use matchtape_storage::wal::WriteBackend;
use matchtape_storage::{Pressure, Query};

#[derive(clap::Parser)]
struct SustainedOptions {
    #[command(flatten)]
    common: Options,
    /// Events per second that are offered.
    #[arg(long, default_value_t = 1_000_000.0)]
    rate: f64,
    /// Memory of one memtable: a smaller one is flushed, and its tables merged, more often.
    #[arg(long, default_value_t = 128)]
    memtable_mib: usize,
    /// So many flushes and so many merges have to be crossed; the load goes on until they were, or for `--minutes`.
    #[arg(long, default_value_t = 10)]
    cycles: u64,
    /// The longest the load goes on.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Events published with one call: one is an event of its own, several are a group.
    #[arg(long, default_value_t = 1)]
    group: usize,
    /// Of the cancellations so many in a hundred are of any order there ever was, whatever its age.
    #[arg(long, default_value_t = 0)]
    old: u64,
    /// The load's thread sleeps until the next call is due, and leaves its core to the node. Looking at the clock instead
    /// takes a core whole, whatever the rate; but then the latency is not that of its own waking.
    #[arg(long)]
    sleep: bool,
    /// The load's thread has core 0 to itself, as a matching engine has, and everything else of the process core 1.
    #[arg(long)]
    own_core: bool,
    /// The pipeline sleeps so many microseconds at a time, and nobody wakes it; 0: until whoever publishes wakes it.
    #[arg(long, default_value_t = 0)]
    nap_us: u64,
    /// Whether the log goes past the page cache.
    #[arg(long)]
    direct: bool,
}

const INSTRUMENTS: u32 = 16;
/// Events made beforehand, a multiple of five: only their numbers are written while the clock runs.
const PREPARED: u64 = 5000;

/// The `number`-th event of five in turn: three new orders, two cancellations.
fn prepared(number: u64) -> Event {
    if number % 5 < 3 {
        return tape::order(number, INSTRUMENTS);
    }
    let body = OrderCancelled::default();
    Event::new(InstrumentId(1), ProducerSequence(number), EventTime(1_700_000_000_000_000_000), body)
}

/// Makes a prepared event the `number`-th of the tape.
fn renumber(event: &mut Event, number: u64, old: u64) {
    event.producer_sequence.0 = number;
    event.event_time = EventTime(1_700_000_000_000_000_000 + number as i64);
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    let (order, body) = match &mut event.body {
        Body::OrderAccepted(body) => (number, &mut body.order_id),
        Body::OrderCancelled(body) => {
            // Every power of two as likely as any other.
            let age = 1 << (mixed / 100 % u64::from(number.ilog2() + 1));
            let (least, greatest) = if mixed % 100 < old { (0, number) } else { (age / 2, age) };
            let back = 1 + least + (mixed >> 16) % (greatest - least);
            // An order that was accepted, by how they alternate.
            let order = number.saturating_sub(back).max(1);
            (order - ((order - 1) % 5).saturating_sub(2), &mut body.order_id)
        }
        _ => unreachable!("only orders and cancellations are prepared"),
    };
    *body = OrderId(order.max(1));
    event.instrument = InstrumentId((order % u64::from(INSTRUMENTS)) as u32 + 1);
}

/// Processor time of a thread of this process, by its name.
fn thread_time(name: &str) -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of_task = |task: std::fs::DirEntry| -> Option<u64> {
        let comm = std::fs::read_to_string(task.path().join("comm")).ok()?;
        // The kernel keeps fifteen characters.
        if comm.trim_end() != &name[..name.len().min(15)] {
            return None;
        }
        let statistics = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        statistics.split_whitespace().next()?.parse().ok()
    };
    Duration::from_nanos(tasks.filter_map(of_task).sum())
}

/// A number of a file of this process in /proc.
fn of_process(file: &str, key: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok());
    found.unwrap_or(0.0)
}

/// What the program has taken and not given back, and what its allocator holds beside that, in MiB.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn allocated() -> [f64; 2] {
    // SAFETY: it takes nothing and returns plain numbers.
    let info = unsafe { libc::mallinfo2() };
    [info.hblkhd + info.uordblks, info.fordblks].map(|bytes| bytes as f64 / 1048576.0)
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn allocated() -> [f64; 2] {
    [0.0; 2]
}

/// How long a lookup of one order takes, over orders of the whole tape; and how many blocks and filters of tables it reads from
/// the disk, by bytes.
fn lookups(report: &mut Report, node: &Node, number: u64) {
    let reader = node.reader();
    let mut histogram = matchtape_benches::nanoseconds();
    let begun = Instant::now();
    let (mut at, mut asked) = (number / 2, 0u64);
    let read_before = of_process("io", "rchar:");
    while asked < 20_000 && begun.elapsed() < Duration::from_secs(10) {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let event = (at >> 17) % number + 1;
        let order = event - ((event - 1) % 5).saturating_sub(2);
        let instrument = InstrumentId((order % u64::from(INSTRUMENTS)) as u32 + 1);
        let query = Query { instrument: Some(instrument), order: Some(OrderId(order)), ..Query::default() };
        let begun = Instant::now();
        let found = reader.query(&query).expect("an undamaged tape").map(|event| event.expect("undamaged"));
        assert!(found.count() > 0, "order {order} was accepted");
        histogram.saturating_record(begun.elapsed().as_nanos() as u64);
        asked += 1;
    }
    report.latency("events of one order, of the whole tape", &histogram);
    let read = of_process("io", "rchar:") - read_before;
    report.row("read from files per lookup", read / asked as f64 / 1024.0, "KiB");
}

fn main() {
    let options = SustainedOptions::parse();
    matchtape_storage::return_large_memory();
    let folder = options.common.folder();
    let mut report = Report::new("sustained", folder.path());
    report.guarantee("events of 128 bytes; accepted = sequenced in memory; behind it every batch is synced");
    report.guarantee(format!(
        "{} events per call; two in five cancel an order, {} % of them any one of the tape, the others one of \
         log-uniform age",
        options.group, options.old
    ));
    if options.sleep {
        report.guarantee("the load's thread sleeps between calls: its waking is part of what `publish` took");
    }
    if options.own_core {
        report.guarantee(
            "the load's thread has a core to itself, everything else of the process the other one",
        );
        // Whatever thread is started from here on stays there.
        matchtape_benches::bind_to_core(1);
    }
    let device = device::sync_throughput(folder.path(), 1 << 20, Duration::from_secs(2));
    let wait = matchtape_benches::node::pipeline_wait(50, options.nap_us);
    report.guarantee(format!("the pipeline: {wait:?}"));
    let mut settings = NodeOptions { wait, ..NodeOptions::default() };
    settings.store.memtable_bytes = options.memtable_mib << 20;
    if options.direct {
        settings.store.wal.backend = WriteBackend::Direct;
    }
    let memory_before = of_process("status", "VmRSS:");
    let node = Node::open(&folder.path().join("tape"), settings, Vec::new()).expect("a fresh node");
    if options.own_core {
        matchtape_benches::bind_to_core(0);
    }
    let mut publisher = node.publisher(ProducerId(1)).expect("the only handle");
    let mut events: Vec<Event> = (0..PREPARED + options.group as u64).map(prepared).collect();
    let (mut number, mut refused) = (0u64, 0u64);

    let start = Instant::now();
    // From when a call was due; and the call alone, without what kept the thread from it.
    let histograms = || (matchtape_benches::nanoseconds(), matchtape_benches::nanoseconds());
    let (mut quiet, mut merging) = (histograms(), histograms());
    let (mut level0_most, mut slowest) = (0, Pressure::slow_down(&node.store().pressure()));
    let (mut unflushed_most, mut memory_most, mut allocated_most) = (0, 0f64, [0f64; 2]);
    let calls_per_second = options.rate / options.group as f64;
    // A second at a time: one in which the compacting thread worked is one under compaction.
    loop {
        let before = thread_time("store-compact");
        let mut alone = matchtape_benches::nanoseconds();
        let call = |_| {
            let first = (number % PREPARED) as usize;
            let group = &mut events[first..first + options.group];
            for (event, number) in group.iter_mut().zip(number + 1..) {
                renumber(event, number, options.old);
            }
            let begun = Instant::now();
            let published = match group {
                [event] => publisher.publish(event),
                group => publisher.publish_group(group),
            };
            alone.saturating_record(begun.elapsed().as_nanos() as u64);
            match published {
                Ok(_) => number += options.group as u64,
                Err(PublishError::WouldBlock) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        };
        let second = Duration::from_secs(1);
        let histogram = if options.sleep {
            let sleep = |due: Instant| std::thread::sleep(due.saturating_duration_since(Instant::now()));
            open_loop_waiting(sleep, calls_per_second, second, call)
        } else {
            open_loop(calls_per_second, second, call)
        };
        let worked = thread_time("store-compact") - before;
        let of = if worked >= Duration::from_millis(20) { &mut merging } else { &mut quiet };
        of.0.add(histogram).expect("the same range");
        of.1.add(alone).expect("the same range");
        let pressure = node.store().pressure();
        level0_most = level0_most.max(pressure.level0_tables);
        unflushed_most = unflushed_most.max(pressure.unflushed_bytes);
        let now = allocated();
        allocated_most = [0, 1].map(|at| allocated_most[at].max(now[at]));
        memory_most = memory_most.max(of_process("status", "VmRSS:") - memory_before);
        if pressure.slow_down().0 > slowest.0 {
            slowest = pressure.slow_down();
        }
        let (flushes, totals) = (node.store().flushes(), node.store().compaction_totals());
        let enough = flushes >= options.cycles && totals.merges >= options.cycles;
        if enough || start.elapsed().as_secs_f64() > options.minutes * 60.0 {
            break;
        }
    }

    let seconds = start.elapsed().as_secs_f64();
    let (flushes, totals) = (node.store().flushes(), node.store().compaction_totals());
    let threads = ["store-compact", "store-flush", "store-index"].map(|name| (name, thread_time(name)));
    let last = node.watermarks().accepted;
    node.wait(last, Stage::Durable).expect("a disk that syncs");
    let written = of_process("io", "write_bytes:");
    node.store().compaction_health().expect("compaction goes on");
    let taken = number as f64 / seconds;
    report.row("offered", options.rate, "events/s");
    report.row("taken", taken, "events/s");
    report.row("calls refused because the ring was full", refused as f64, "calls");
    report.row("events", number as f64, "");
    report.row("flushes", flushes as f64, "").goal(">= 10");
    report.row("merges of index tables", totals.merges as f64, "").goal(">= 10");
    report.row("index tables moved as they were", totals.moves as f64, "");
    let whole = totals.postings_in_whole_blocks as f64 / totals.postings.max(1) as f64 * 100.0;
    report.row("postings merged in blocks handed on whole", whole, "%");
    for (what, histogram) in
        [("publish while nothing is merged", &quiet), ("publish while tables are merged", &merging)]
    {
        if !histogram.0.is_empty() {
            report.latency(what, &histogram.0);
            report.latency(&format!("{what}, the call alone"), &histogram.1);
        }
    }
    for (thread, time) in threads {
        report.row(format!("thread {thread}"), time.as_secs_f64() / seconds * 100.0, "% of a core");
    }
    // Per event, so that it says something also where the machine takes fewer than are offered.
    let merging = threads[0].1.as_nanos() as f64;
    let per_event = merging / number as f64;
    report.row("merging, processor time per event", per_event, "ns");
    report.row("merging, of a core at 1 M events/s", per_event / 10.0, "%").goal("< 10 %");
    report.row("merging, processor time per posting", merging / totals.postings.max(1) as f64, "ns");
    report.row("postings merged per event", totals.postings as f64 / number as f64, "");
    report.row("index tables of level 0, the most", level0_most as f64, "");
    report.row("events slowed down, at worst", f64::from(slowest.0) / 10.0, "% of the time");
    if slowest.0 > 0 {
        report.guarantee(format!("slowed down because {}", slowest.1));
    }
    let inspection = node.store().inspect();
    let amplification = inspection.amplification;
    for (what, value) in [("space", amplification.space), ("write", amplification.write)] {
        if let Some(value) = value {
            report.row(format!("{what} amplification"), value, "x");
        }
    }
    let appended = number as f64 * tape::EVENT_BYTES as f64;
    report.row("written to the device, log included, per byte appended", written / appended, "x");
    report
        .row("written to the device", written / seconds, "bytes/s")
        .beside("1 MiB writes, each synced, of nobody else", device);
    report.row("index tables a lookup asks at most", amplification.tables_per_lookup as f64, "");
    lookups(&mut report, &node, number);
    let limit = inspection.memory.pressure.expect("open for writing").limit_bytes as f64;
    report.row("memory of memtables, the most", unflushed_most as f64 / 1048576.0, "MiB");
    report.row("  it may become", limit / 1048576.0, "MiB");
    report.row(
        "memory of the process (its pages of the page cache left out), the most",
        memory_most / 1024.0,
        "MiB",
    );
    for (what, most) in
        ["  of that, what it has taken and not given back", "  what its allocator holds beside that"]
            .into_iter()
            .zip(allocated_most)
    {
        report.row(format!("{what}, the most"), most, "MiB");
    }
    drop(publisher);
    node.close().expect("a node that closes");
    report.print(options.common.format);
}
