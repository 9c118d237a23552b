//! A store under a steady load, through many flushes and compactions: what publishing feels of them, what they cost, and what
//! the tables become.
//!
//!     cargo run --release -p matchtape-benches --bin sustained -- --rate 1000000 --data /some/disk
//!
//! The load is offered open-loop: latency counts from when a call was due. Two in five events are cancellations of
//! older orders, half of them of the last thousand, the others of any, so that index tables overlap as a market's do.

use std::time::{Duration, Instant};

use clap::Parser;
use matchtape_benches::{Options, Report, open_loop, tape};
use matchtape_node::{Node, NodeOptions, PublishError};
use matchtape_schemas::event::{Event, OrderCancelled};
use matchtape_schemas::{Body, EventTime, InstrumentId, OrderId, ProducerId, ProducerSequence, Stage};

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
}

const INSTRUMENTS: u32 = 16;
/// Events made beforehand: only their numbers are written while the clock runs.
const PREPARED: u64 = 4095;

/// The `number`-th event of five in turn: three new orders, two cancellations.
fn prepared(number: u64) -> Event {
    if number % 5 < 3 {
        return tape::order(number, INSTRUMENTS);
    }
    let body = OrderCancelled::default();
    Event::new(InstrumentId(1), ProducerSequence(number), EventTime(1_700_000_000_000_000_000), body)
}

/// Makes a prepared event the `number`-th of the tape.
fn renumber(event: &mut Event, number: u64) {
    event.producer_sequence.0 = number;
    event.event_time = EventTime(1_700_000_000_000_000_000 + number as i64);
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    let (order, body) = match &mut event.body {
        Body::OrderAccepted(body) => (number, &mut body.order_id),
        Body::OrderCancelled(body) => {
            let range = if number % 5 == 4 { number.min(1000) } else { number };
            let back = 1 + mixed % range.max(1);
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
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of_task = |task: std::fs::DirEntry| -> Option<u64> {
        let comm = std::fs::read_to_string(task.path().join("comm")).ok()?;
        // The kernel keeps fifteen characters.
        if comm.trim_end() != &name[..name.len().min(15)] {
            return None;
        }
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
    };
    Duration::from_secs_f64(tasks.filter_map(of_task).sum::<u64>() as f64 / ticks_per_second as f64)
}

fn main() {
    let SustainedOptions { common: options, rate, memtable_mib, cycles, minutes } = SustainedOptions::parse();
    let folder = options.folder();
    let mut report = Report::new("sustained", folder.path());
    report.guarantee("events of 128 bytes; accepted = sequenced in memory; behind it every batch is synced");
    let mut settings = NodeOptions::default();
    settings.store.memtable_bytes = memtable_mib << 20;
    let node = Node::open(&folder.path().join("tape"), settings, Vec::new()).expect("a fresh node");
    let mut publisher = node.publisher(ProducerId(1)).expect("the only handle");
    let mut events: Vec<Event> = (0..PREPARED).map(prepared).collect();
    let (mut number, mut refused) = (0u64, 0u64);

    let start = Instant::now();
    let (mut quiet, mut merging) = (matchtape_benches::nanoseconds(), matchtape_benches::nanoseconds());
    let (mut level0_most, mut slowest) = (0, 0);
    // A second at a time: one in which the compacting thread worked is one under compaction.
    loop {
        let before = thread_time("store-compact");
        let histogram = open_loop(rate, Duration::from_secs(1), |_| {
            let event = &mut events[(number % PREPARED) as usize];
            renumber(event, number + 1);
            match publisher.publish(event) {
                Ok(_) => number += 1,
                Err(PublishError::WouldBlock) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        });
        let worked = thread_time("store-compact") - before;
        let of = if worked >= Duration::from_millis(20) { &mut merging } else { &mut quiet };
        of.add(histogram).expect("the same range");
        let pressure = node.store().pressure();
        level0_most = level0_most.max(pressure.level0_tables);
        slowest = slowest.max(pressure.slow_down().0);
        let inspection = node.store().inspect();
        let flushes = node.store().flushes();
        let enough = flushes >= cycles && node.store().compaction_totals().merges >= cycles;
        if enough || start.elapsed().as_secs_f64() > minutes * 60.0 {
            let seconds = start.elapsed().as_secs_f64();
            let totals = node.store().compaction_totals();
            let last = node.watermarks().accepted;
            node.wait(last, Stage::Durable).expect("a disk that syncs");
            node.store().compaction_health().expect("compaction goes on");
            report.row("offered", rate, "events/s");
            report.row("taken", number as f64 / seconds, "events/s");
            report.row("calls refused because the ring was full", refused as f64, "calls");
            report.row("flushes", flushes as f64, "").goal(">= 10");
            report.row("merges of index tables", totals.merges as f64, "").goal(">= 10");
            report.row("index tables moved as they were", totals.moves as f64, "");
            for (what, histogram) in
                [("publish while nothing is merged", &quiet), ("publish while tables are merged", &merging)]
            {
                if !histogram.is_empty() {
                    report.latency(what, histogram);
                }
            }
            for thread in ["store-compact", "store-flush", "store-index"] {
                let share = thread_time(thread).as_secs_f64() / seconds * 100.0;
                report.row(format!("thread {thread}"), share, "% of a core");
            }
            // Per event, so that it says something also where the machine takes fewer than are offered.
            let merging = thread_time("store-compact").as_nanos() as f64;
            let per_event = merging / number as f64;
            report.row("merging, processor time per event", per_event, "ns");
            report.row("merging, of a core at 1 M events/s", per_event / 10.0, "%").goal("< 10 %");
            report.row("merging, processor time per posting", merging / totals.postings.max(1) as f64, "ns");
            report.row("postings merged per event", totals.postings as f64 / number as f64, "");
            report.row("index tables of level 0, the most", level0_most as f64, "");
            report.row("events slowed down, at worst", f64::from(slowest) / 10.0, "% of the time");
            let amplification = inspection.amplification;
            for (what, value) in [("space", amplification.space), ("write", amplification.write)] {
                if let Some(value) = value {
                    report.row(format!("{what} amplification"), value, "x");
                }
            }
            report.row("index tables a lookup asks at most", amplification.tables_per_lookup as f64, "");
            break;
        }
    }
    drop(publisher);
    node.close().expect("a node that closes");
    report.print(options.format);
}
