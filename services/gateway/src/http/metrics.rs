//! `/metrics`: every number of the node and its gateway, in the Prometheus text format.
//!
//! What each is for, and which of them should wake somebody: `deploy/prometheus/`.

use std::time::UNIX_EPOCH;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hdrhistogram::Histogram;
use matchtape_node::consumers::ConsumerInfo;
use matchtape_node::{NodeGauge, WaitError};
use matchtape_schemas::Stage;
use matchtape_storage::{Pressure, ScrubMarks, StoreNumbers};

use super::Gateway;
use crate::gateway::Shared;
use crate::log::on_blocking_thread;
use crate::metrics::Exposition;

/// Upper bounds of the buckets of latencies, in ns: from what memory takes to what nobody should wait.
const LATENCY_NS: [u64; 18] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    30_000_000_000,
];

/// `/metrics`
pub(crate) async fn metrics(State(shared): Gateway) -> Response {
    // It asks the device for its free space, and each consumer under its lock.
    let out = on_blocking_thread(move || {
        let mut out = Exposition::default();
        gateway(&shared, &mut out);
        if let Some(gauge) = &shared.gauge {
            node(gauge, &mut out);
            store(&gauge.store().numbers(), &gauge.scrub(), &mut out);
        }
        if let Some(consumers) = &shared.consumers {
            each_consumer(&consumers.list(), &mut out);
        }
        out.into_text()
    })
    .await;
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], out).into_response()
}

fn gateway(shared: &Shared, out: &mut Exposition) {
    out.family("matchtape_build_info", "gauge", "Which release this is.");
    out.sample("matchtape_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    let started = shared.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    out.gauge("matchtape_start_time_seconds", "When the gateway started, since 1970.", started.as_secs());

    let watermarks = *shared.tail.borrow();
    let name = "matchtape_watermark_sequence";
    out.family(name, "gauge", "The highest sequence that has reached each stage.");
    for stage in Stage::ALL {
        out.sample(name, &[("stage", stage.name())], watermarks.get(stage));
    }
    let first_kept = shared.reader.first_kept();
    out.gauge("matchtape_first_kept_sequence", "The first event that is still there.", first_kept);

    let head = shared.feed.head().borrow().clone();
    out.gauge("matchtape_gateway_feed_sequence", "How far the live feeds have come.", head.position);
    let failed = u8::from(head.failed.is_some());
    out.gauge(
        "matchtape_gateway_feed_failed",
        "1: the live feeds ended, the tape cannot be read on.",
        failed,
    );
    let open = shared.limits.connections_max - shared.connections.available_permits();
    out.gauge("matchtape_gateway_connections", "WebSocket connections open now.", open);
    let max = shared.limits.connections_max;
    out.gauge("matchtape_gateway_connections_max", "WebSocket connections that may be open.", max);
    shared.metrics.write(out);
}

fn node(gauge: &NodeGauge, out: &mut Exposition) {
    let poisoned = u8::from(gauge.ended() == Some(WaitError::Poisoned));
    out.gauge(
        "matchtape_node_poisoned",
        "1: the log, indexing or flushing failed; no events are taken until the node is started again.",
        poisoned,
    );
    out.gauge(
        "matchtape_ended_parts",
        "Buses, the way in and the recording of consumers that ended early; the tape goes on. /v1/health names them.",
        gauge.ended_parts().len(),
    );
    let name = "matchtape_stage_latency_seconds";
    let help = "From being framed to the stage, of each commit's oldest event.";
    out.family(name, "histogram", help);
    for stage in [Stage::Durable, Stage::Visible] {
        if let Some(latency) = gauge.latency().histogram(stage) {
            histogram(name, stage, &latency, out);
        }
    }
    out.counter(
        "matchtape_event_times_refused_total",
        "Groups refused because an event's time was too far ahead of this machine's clock.",
        gauge.event_times_refused(),
    );
    out.gauge(
        "matchtape_clock_behind_seconds",
        "How far this machine's clock is behind the last accepted time: it was set back.",
        gauge.clock_behind().as_secs_f64(),
    );

    let intake = gauge.store().intake();
    let share = f64::from(intake.slowed_permille) / 1000.0;
    out.gauge("matchtape_intake_slowed_ratio", "How much of the time no events are taken, 0 to 1.", share);
    let Pressure { unindexed_bytes, unflushed_bytes, limit_bytes, level0_tables, level0_tables_max } =
        intake.pressure;
    for (name, help, value) in [
        ("matchtape_unindexed_bytes", "Bytes of frames that no index covers yet.", unindexed_bytes),
        ("matchtape_unflushed_bytes", "Memory of everything that is not in tables yet.", unflushed_bytes),
        (
            "matchtape_unflushed_limit_bytes",
            "The most that matchtape_unflushed_bytes may become.",
            limit_bytes,
        ),
        ("matchtape_level0_tables", "Index tables as they were flushed, not merged yet.", level0_tables),
        ("matchtape_level0_tables_max", "More of them than this slow events down.", level0_tables_max),
    ] {
        out.gauge(name, help, value);
    }

    let Some(ingress) = gauge.ingress() else { return };
    for (name, help, value) in [
        ("samples", "Samples taken from producers in other processes.", ingress.samples),
        ("groups", "Groups of theirs put on the tape.", ingress.groups),
        (
            "ignored",
            "Samples that were no requests, not for this node, or of nobody it knows.",
            ingress.ignored,
        ),
        ("resends", "Attempts begun again because a sample was missing.", ingress.resends),
        ("sessions_refused", "Sessions of producers ended for what they sent.", ingress.refused),
    ] {
        out.counter(&format!("matchtape_ingress_{name}_total"), help, value);
    }
}

fn store(numbers: &StoreNumbers, scrub: &ScrubMarks, out: &mut Exposition) {
    let (compaction, retention) = (&numbers.compaction, &numbers.retention);
    for (name, help, value) in [
        ("matchtape_flushes_total", "Memtables that became tables.", numbers.flushes),
        (
            "matchtape_flush_frame_bytes_total",
            "Bytes of the frames that became tables.",
            numbers.flushed_frame_bytes,
        ),
        (
            "matchtape_flush_written_bytes_total",
            "Bytes of the tables and snapshots that flushing wrote.",
            numbers.flush_written_bytes,
        ),
        ("matchtape_compaction_merges_total", "Merges of index tables.", compaction.merges),
        ("matchtape_compaction_event_merges_total", "Merges of event tables.", compaction.event_merges),
        (
            "matchtape_compaction_read_bytes_total",
            "Bytes of tables that merging read.",
            compaction.bytes_read,
        ),
        (
            "matchtape_compaction_written_bytes_total",
            "Bytes of tables that merging wrote.",
            compaction.bytes_written,
        ),
        (
            "matchtape_pins_broken_total",
            "Pins that held back too much: whoever set them may have lost events.",
            retention.pins_broken,
        ),
        (
            "matchtape_scrub_read_bytes_total",
            "Bytes of files that were read again to check them.",
            scrub.bytes,
        ),
        ("matchtape_scrub_rounds_total", "Times that all files were checked.", scrub.rounds),
        (
            "matchtape_scrub_unread_files_total",
            "Files that could not be opened to be checked; the next round tries again.",
            scrub.unread_files,
        ),
    ] {
        out.counter(name, help, value);
    }
    for (name, help, value) in [
        ("matchtape_flushed_sequence", "The last event in tables.", numbers.flushed_through.get()),
        ("matchtape_flush_failed", "1: indexing or flushing ended.", numbers.flush_failed.into()),
        (
            "matchtape_compaction_failed",
            "1: the last try to merge failed; tables become more.",
            numbers.compaction_failed.into(),
        ),
        ("matchtape_space_lacking", "1: the disk is full, events are refused.", numbers.lacks_space.into()),
        ("matchtape_log_segments", "Segments of the log.", numbers.log_segments),
        (
            "matchtape_event_tables",
            "Tables of events, those in the cold tier included.",
            numbers.event_tables,
        ),
        ("matchtape_index_tables", "Tables of index entries.", numbers.index_tables),
        ("matchtape_table_bytes", "Tables and snapshots on the local disk.", numbers.table_bytes),
        ("matchtape_cold_bytes", "Event tables in the cold tier.", numbers.cold_bytes),
        (
            "matchtape_log_sealed_bytes",
            "Sealed segments of the log, beside the tables that were made of them.",
            numbers.log_sealed_bytes,
        ),
        (
            "matchtape_event_frame_bytes",
            "Bytes of the events in tables, as they were appended.",
            numbers.frame_bytes,
        ),
        (
            "matchtape_lookup_index_tables",
            "Index tables that a lookup of one entity asks at most.",
            numbers.amplification.tables_per_lookup,
        ),
        ("matchtape_legal_holds", "Legal holds.", numbers.legal_holds),
        (
            "matchtape_legal_holds_over_limit",
            "Legal holds that keep more than their limit.",
            retention.holds_over_limit,
        ),
        (
            "matchtape_snapshots_unusable",
            "Snapshots that cannot be relied on, at retention's last look.",
            retention.snapshots_unusable,
        ),
        (
            "matchtape_damaged_files",
            "Files that the scrub has found damaged. /v1/health names them.",
            scrub.damaged.len() as u64,
        ),
    ] {
        out.gauge(name, help, value);
    }
    // A device that does not say is not an empty one.
    if let Some(free) = numbers.free_bytes {
        out.gauge("matchtape_disk_free_bytes", "Free on the device of the data directory.", free);
    }
    let name = "matchtape_pin_sequence";
    out.family(name, "gauge", "The first event that somebody still needs.");
    for pin in &numbers.pins {
        out.sample(name, &[("kind", pin.kind.name()), ("name", &pin.name)], pin.from);
    }
}

fn each_consumer(consumers: &[ConsumerInfo], out: &mut Exposition) {
    type Number = fn(&ConsumerInfo) -> u64;
    let families: [(&str, &str, &str, Number); 6] = [
        (
            "matchtape_consumer_behind_events",
            "gauge",
            "Visible events that are not dealt with yet.",
            |info| info.visible.get().saturating_sub(info.machine.floor.get()),
        ),
        ("matchtape_consumer_delivered_total", "counter", "Deliveries, repeated ones too.", |info| {
            info.machine.delivered
        }),
        ("matchtape_consumer_out_events", "gauge", "Delivered, not acknowledged.", |info| {
            info.machine.out.into()
        }),
        ("matchtape_consumer_waiting_events", "gauge", "To be delivered again.", |info| {
            info.machine.waiting.into()
        }),
        ("matchtape_consumer_parked_events", "gauge", "Set aside: nobody deals with them.", |info| {
            info.machine.parked.into()
        }),
        ("matchtape_consumer_members", "gauge", "Members attached.", |info| {
            info.machine.members.len() as u64
        }),
    ];
    for (name, kind, help, number) in families {
        out.family(name, kind, help);
        for info in consumers {
            out.sample(name, &[("consumer", info.name.as_str())], number(info));
        }
    }
}

/// A histogram whose buckets count what is at most their bound, as Prometheus has them.
fn histogram(name: &str, stage: Stage, latency: &Histogram<u64>, out: &mut Exposition) {
    const NS: f64 = 1e9;
    let (bucket, stage) = (format!("{name}_bucket"), stage.name());
    let mut within = [0_u64; LATENCY_NS.len()];
    let mut sum_ns = 0.0;
    for value in latency.iter_recorded() {
        let (ns, count) = (value.value_iterated_to(), value.count_since_last_iteration());
        sum_ns += ns as f64 * count as f64;
        // The first bound that holds it; none: it is in +Inf alone.
        if let Some(place) = LATENCY_NS.iter().position(|bound| ns <= *bound) {
            within[place] += count;
        }
    }
    let mut count = 0;
    for (bound, more) in LATENCY_NS.iter().zip(within) {
        count += more;
        out.sample(&bucket, &[("stage", stage), ("le", &(*bound as f64 / NS).to_string())], count);
    }
    out.sample(&bucket, &[("stage", stage), ("le", "+Inf")], latency.len());
    out.sample(&format!("{name}_sum"), &[("stage", stage)], sum_ns / NS);
    out.sample(&format!("{name}_count"), &[("stage", stage)], latency.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_in_every_bucket_from_its_own_on_and_beyond_the_last_only_in_the_infinite_one() {
        let mut latency = Histogram::new_with_bounds(1, 60_000_000_000, 2).unwrap();
        for ns in [9_000, 60_000, 60_000, 40_000_000_000] {
            latency.record(ns).unwrap();
        }
        let mut out = Exposition::default();
        histogram("x", Stage::Durable, &latency, &mut out);
        let text = out.into_text();
        for (bound, count) in
            [("0.00001", 1), ("0.000025", 1), ("0.00005", 1), ("0.0001", 3), ("30", 3), ("+Inf", 4)]
        {
            let line = format!("x_bucket{{stage=\"durable\",le=\"{bound}\"}} {count}\n");
            assert!(text.contains(&line), "{line} in {text}");
        }
        let sum = text.lines().find_map(|line| line.strip_prefix("x_sum{stage=\"durable\"} ")).unwrap();
        assert!((40.0..40.5).contains(&sum.parse::<f64>().unwrap()), "{sum}");
        assert!(text.ends_with("x_count{stage=\"durable\"} 4\n"), "{text}");
    }
}
