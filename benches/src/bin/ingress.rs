//! Publishing from another process's port: what the call costs, how long until it is accepted and durable, how many events
//! per second, beside bare iceoryx2 with the same bytes in the same queue.
//!
//!     cargo run --release -p matchtape-benches --bin ingress -- --seconds 3
//!
//! The node runs on threads of this process: the ports, the shared memory and the wake-ups are those between processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser as _;
use iceoryx2::config::Config;
use iceoryx2::prelude::{BackpressureStrategy, FileName, NodeBuilder, SemanticString, ipc};
use matchtape_benches::{Options, Report, microseconds, nanoseconds, open_loop};
use matchtape_bus::{BusError, RemoteOptions, RemotePublishError, RemotePublisher, WakeUp, on_own_thread};
use matchtape_node::{BusOptions, IngressOptions, Node, NodeOptions, Publish as _, PublishError};
use matchtape_schemas::event::{Event, OrderAccepted};
use matchtape_schemas::{EventTime, InstrumentId, OrderId, ProducerId, ProducerSequence, Stage};

fn event(number: u64) -> Event {
    let body = OrderAccepted { order_id: OrderId(number), ..OrderAccepted::default() };
    Event::new(InstrumentId(1), ProducerSequence(number), EventTime(1), body)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let folder = options.folder();
    let mut report = Report::new("ingress", folder.path());
    let bytes = event(1).encoded_len();
    report.guarantee(format!(
        "events of {bytes} bytes, one per publish; checked by the node; every batch synced before it is durable"
    ));
    for (wake_up, rates) in
        [(WakeUp::BusyPoll, [10_000.0, 200_000.0]), (WakeUp::Event, [10_000.0, 200_000.0])]
    {
        measure(&options, folder.path(), wake_up, &rates, &mut report)?;
    }
    bare(&options, folder.path(), bytes, &mut report)?;
    report.print(options.format);
    Ok(())
}

fn measure(
    options: &Options,
    folder: &std::path::Path,
    wake_up: WakeUp,
    rates: &[f64],
    report: &mut Report,
) -> Result<(), Box<dyn std::error::Error>> {
    let bus = BusOptions {
        namespace: "bench-in".into(),
        root: Some(folder.join(format!("bus-{wake_up:?}"))),
        ..BusOptions::default()
    };
    let mut ingress = IngressOptions::default();
    ingress.config.wake_up = wake_up;
    let node_options =
        NodeOptions { bus: Some(bus.clone()), ingress: Some(ingress), ..NodeOptions::default() };
    let node = Node::open(&folder.join(format!("data-{wake_up:?}")), node_options, Vec::new())?;
    let name = bus.name(node.tape())?;
    let mut publisher = RemotePublisher::connect(&name, ProducerId(1), RemoteOptions::default())?;
    let mut number = 0;
    for rate in rates {
        let mut refused = 0_u64;
        let calls = open_loop(*rate, options.duration(), |_| match publisher.publish(&event(number + 1)) {
            Ok(_) => number += 1,
            Err(RemotePublishError::Refused(PublishError::WouldBlock)) => refused += 1,
            Err(error) => panic!("{error}"),
        });
        report.latency(&format!("{wake_up:?}, publish call, open loop, {rate:.0}/s"), &calls);
        report.row(format!("{wake_up:?}, refused at {rate:.0}/s (window full)"), refused as f64, "calls");
        publisher.wait(ProducerSequence(number), Stage::Durable)?;
    }
    for stage in [Stage::Accepted, Stage::Durable] {
        let mut round_trips = nanoseconds();
        let begun = Instant::now();
        while begun.elapsed() < options.duration() {
            number += 1;
            let start = Instant::now();
            publisher.publish(&event(number))?;
            publisher.wait(ProducerSequence(number), stage)?;
            round_trips.saturating_record(start.elapsed().as_nanos() as u64);
        }
        report.latency(&format!("{wake_up:?}, publish until {stage} is known"), &round_trips);
    }
    publisher.wait(ProducerSequence(number), Stage::Durable)?;
    let (begun, first) = (Instant::now(), number);
    while begun.elapsed() < options.duration() {
        match publisher.publish(&event(number + 1)) {
            Ok(_) => number += 1,
            Err(RemotePublishError::Refused(PublishError::WouldBlock)) => publisher.wait_for_room(1)?,
            Err(error) => return Err(error.into()),
        }
    }
    publisher.wait(ProducerSequence(number), Stage::Durable)?;
    let rate = (number - first) as f64 / begun.elapsed().as_secs_f64();
    report.row(format!("{wake_up:?}, one event per publish, until all are durable"), rate, "events/s");
    drop(publisher);
    node.close()?;
    Ok(())
}

/// A sample of the same size into a queue of the same kind, to a reader that does nothing with it.
fn bare(
    options: &Options,
    folder: &std::path::Path,
    bytes: usize,
    report: &mut Report,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::default();
    config.global.prefix = FileName::new(b"mt_bench_bare_in_")?;
    config.global.set_root_path(&iceoryx2::prelude::Path::new(folder.as_os_str().as_encoded_bytes())?);
    let open = move || -> Result<_, Box<dyn std::error::Error>> {
        let node = NodeBuilder::new().config(&config).create::<ipc::Service>()?;
        let service = node
            .service_builder(&"bare".try_into()?)
            .publish_subscribe::<[u8]>()
            .subscriber_max_buffer_size(64)
            .history_size(0)
            .enable_safe_overflow(false)
            .open_or_create()?;
        Ok((service, node))
    };
    let (service, _node) = open()?;
    let publisher = service
        .publisher_builder()
        .initial_max_slice_len(64 * 1024)
        .backpressure_strategy(BackpressureStrategy::DiscardData)
        .create()?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stop);
    let reader = on_own_thread(
        "bare reader",
        None,
        move || {
            let (service, node) = open().map_err(|error| BusError::Internal {
                doing: "opening bare iceoryx2",
                cause: error.to_string(),
            })?;
            Ok((service.subscriber_builder().create().expect("subscriber"), node))
        },
        move |(subscriber, _node)| {
            while !stopping.load(Ordering::Relaxed) {
                if subscriber.receive().expect("receive").is_none() {
                    std::hint::spin_loop();
                }
            }
        },
    )?;
    let payload = vec![7_u8; bytes];
    let send = || {
        let sample = publisher.loan_slice_uninit(bytes).expect("loan");
        sample.write_from_slice(&payload).send().expect("send")
    };
    let calls = open_loop(200_000.0, options.duration(), |_| {
        send();
    });
    let beside = (microseconds(&calls, 0.5), microseconds(&calls, 0.99));
    report.latency("bare iceoryx2, loan and send, open loop, 200000/s", &calls);
    let (begun, mut sent) = (Instant::now(), 0_u64);
    while begun.elapsed() < options.duration().min(Duration::from_secs(2)) {
        sent += send() as u64;
    }
    let rate = sent as f64 / begun.elapsed().as_secs_f64();
    report.row("bare iceoryx2, one sample each", rate, "samples/s");
    stop.store(true, Ordering::Relaxed);
    reader.join().expect("reader");
    for row in &mut report.rows {
        match row.what.as_str() {
            what if what.contains("publish call") && what.ends_with("P50") => {
                row.beside("bare loan and send", beside.0);
            }
            what if what.contains("publish call") && what.ends_with("P99") => {
                row.beside("bare loan and send", beside.1);
            }
            what if what.contains("one event per publish") => {
                row.beside("bare samples", rate);
            }
            _ => {}
        }
    }
    Ok(())
}
