//! From durable to a WebSocket client: one trade at a time, and many clients of one tape.
//!
//!     cargo run --release -p matchtape-benches --bin websocket -- --seconds 5
//!
//! Node, gateway and clients run in this process and share its cores; the client's own decoding is not counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use futures_util::{SinkExt, StreamExt};
use hdrhistogram::Histogram;
use matchtape_benches::{Options, Report, nanoseconds};
use matchtape_gateway::{Gateway, GatewayConfig, TapeHandle};
use matchtape_node::{Node, NodeOptions, Publisher};
use matchtape_schemas::event::{InstrumentDefined, Side, TradeMatched};
use matchtape_schemas::text::Text;
use matchtape_schemas::{
    Event, EventTime, InstrumentId, Price, ProducerId, ProducerSequence, Quantity, Stage, TradeId,
};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;

fn wall_clock_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as i64
}

fn trade(number: u64) -> Event {
    let body = TradeMatched {
        trade_id: TradeId(number),
        price: Price::from_units(4_800_000_000_000),
        quantity: Quantity::from_units(1_000_000_000),
        aggressor: Side::Buy,
        ..TradeMatched::default()
    };
    Event::new(InstrumentId(1), ProducerSequence(number), EventTime(wall_clock_ns()), body)
}

/// What the clients have got.
struct Got {
    /// When the first client had the last message, ns.
    at_ns: AtomicI64,
    /// Messages with trades, all clients together.
    messages: AtomicU64,
}

/// One client of the trades feed; it counts until the connection ends.
async fn client(address: String, got: Arc<Got>, ready: Arc<tokio::sync::Semaphore>) {
    let url = format!("ws://{address}/v1/stream");
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("a gateway that answers");
    let request = r#"{"op":"subscribe","id":1,"channel":"trades","symbols":["BENCH"]}"#;
    socket.send(Message::text(request)).await.expect("a gateway that listens");
    while let Some(Ok(message)) = socket.next().await {
        let at_ns = wall_clock_ns();
        let Message::Text(text) = message else { continue };
        if text.contains(r#""type":"data""#) {
            got.at_ns.store(at_ns, Ordering::Relaxed);
            // Release: pairs with the Acquire in `wait_for`.
            got.messages.fetch_add(1, Ordering::Release);
        } else if text.contains(r#""type":"subscribed""#) {
            ready.add_permits(1);
        }
    }
}

fn wait_for(got: &Got, messages: u64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    // Acquire: pairs with the Release in `client`.
    while got.messages.load(Ordering::Acquire) < messages {
        assert!(Instant::now() < deadline, "a client did not get its trade");
        std::thread::yield_now();
    }
}

fn one_at_a_time(
    node: &Node,
    publisher: &mut Publisher,
    number: &mut u64,
    got: &Got,
    clients: u64,
    duration: Duration,
) -> Histogram<u64> {
    let (mut histogram, latency, start) = (nanoseconds(), node.latency(), Instant::now());
    let mut expected = got.messages.load(Ordering::Acquire);
    while start.elapsed() < duration {
        *number += 1;
        publisher.publish(&trade(*number)).expect("a ring with room");
        expected += clients;
        // The last of the clients has it.
        wait_for(got, expected);
        let since = got.at_ns.load(Ordering::Relaxed) - latency.durable_at().get();
        histogram.saturating_record(since.max(1) as u64);
    }
    histogram
}

fn main() {
    let options = Options::parse();
    let folder = options.folder();
    let mut report = Report::new("websocket", folder.path());
    report.guarantee("a trade is shown only when it is synced to the device; one message per trade, JSON");
    let node =
        Node::open(&folder.path().join("tape"), NodeOptions::default(), Vec::new()).expect("a fresh node");
    let mut publisher = node.publisher(ProducerId(1)).expect("the only handle");
    let defined =
        InstrumentDefined { symbol: Text::new("BENCH").expect("short"), ..InstrumentDefined::default() };
    let mut number = 1;
    let event = Event::new(InstrumentId(1), ProducerSequence(number), EventTime(wall_clock_ns()), defined);
    let defined = publisher.publish(&event).expect("a ring with room").sequence();
    node.wait(defined, Stage::Visible).expect("a disk that syncs");

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let (sender, tail) = watch::channel(node.watermarks());
    let progress = node.progress();
    runtime.spawn(async move {
        loop {
            let seen = *sender.borrow();
            if progress.wait_async(seen.visible.next(), Stage::Visible).await.is_err() {
                return;
            }
            sender.send_replace(progress.watermarks());
        }
    });
    let config = GatewayConfig { listen: ([127, 0, 0, 1], 0).into(), ..GatewayConfig::default() };
    let handle = TapeHandle::shown(node.reader(), tail);
    let gateway = runtime.block_on(Gateway::start(config, handle)).expect("a gateway");
    let got = Arc::new(Got { at_ns: AtomicI64::new(0), messages: AtomicU64::new(0) });
    let mut connected = 0;
    for clients in [1u64, 100] {
        let ready = Arc::new(tokio::sync::Semaphore::new(0));
        for _ in connected..clients {
            runtime.spawn(client(gateway.address().to_string(), Arc::clone(&got), Arc::clone(&ready)));
        }
        let all = (clients - connected) as u32;
        runtime.block_on(async { ready.acquire_many(all).await.expect("never closed").forget() });
        connected = clients;
        let histogram = one_at_a_time(&node, &mut publisher, &mut number, &got, clients, options.duration());
        report.latency(&format!("durable to the last of {clients} clients"), &histogram);
    }
    runtime.block_on(gateway.shutdown());
    drop(publisher);
    node.close().expect("a node that closes");
    report.print(options.format);
}
