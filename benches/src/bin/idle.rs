//! What waiting costs: processor seconds per second of a node that takes no events, and of a subscriber, in a process of its
//! own, that sleeps until there are some.
//!
//!     cargo run --release -p matchtape-benches --bin idle -- --seconds 10

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use matchtape_benches::{Options, Report, node, tape};
use matchtape_bus::{BusConfig, BusName, BusService, WakeUp};
use matchtape_node::{FollowedHistory, Node};
use matchtape_schemas::{ProducerId, Stage};
use matchtape_storage::{ReadOnlyOptions, ReadOnlyStore, RealDisk};
use matchtape_subscription::{BusLive, RealTime, RealTimeOptions, Subscription, Update};
use rustix::time::{ClockId, clock_gettime};

#[derive(Parser)]
struct IdleOptions {
    #[command(flatten)]
    common: Options,
    /// For the subscriber's process: the folder.
    #[arg(long, hide = true)]
    subscribe: Option<std::path::PathBuf>,
}

/// Processor time of this process so far.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let IdleOptions { common: options, subscribe } = IdleOptions::parse();
    if let Some(folder) = subscribe {
        return subscriber(&folder, options.duration());
    }
    let folder = options.folder();
    let mut report = Report::new("idle", folder.path());
    report.guarantee(
        "a node with both buses and one subscriber woken by events; heartbeats every 100 ms; no events",
    );
    let mut settings = node::options(folder.path(), BusConfig::default());
    if let Some(bus) = &mut settings.bus {
        bus.speculative = true;
    }
    let node = Node::open(&folder.path().join("tape"), settings, Vec::new())?;
    let mut publisher = node.publisher(ProducerId(1))?;
    let last = node::publish(&mut publisher, &tape::order(1, 16));
    node.wait(last, Stage::Visible)?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--seconds", &options.seconds.to_string(), "--subscribe"])
        .arg(folder.path())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("its output")?).lines();
    // It says so once it is live.
    lines.next().ok_or("the subscriber ended")??;
    let (start, before) = (Instant::now(), processor_time());
    let subscriber: f64 = lines.next().ok_or("the subscriber ended")??.parse()?;
    let node_share = (processor_time() - before).as_secs_f64() / start.elapsed().as_secs_f64();
    child.wait()?;
    report.row("node, idle", node_share * 100.0, "% of core").goal("~ 0");
    report.row("subscriber, asleep", subscriber * 100.0, "% of core").goal("~ 0");
    report.print(options.format);
    drop(publisher);
    Ok(node.close()?)
}

fn subscriber(folder: &Path, duration: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let disk = RealDisk::open(&folder.join("tape"))?;
    let store = ReadOnlyStore::open(std::sync::Arc::new(disk), ReadOnlyOptions::default())?;
    let name = BusName::with_root("bench", store.tape(), &folder.join("bus"))?;
    let live = BusLive::new(&name, BusService::Live, WakeUp::Event, Duration::ZERO);
    let mut reader = RealTime::open(FollowedHistory::new(store), live, RealTimeOptions::default())?;
    while !matches!(
        reader.next(Duration::from_secs(10))?.ok_or("not live after 10 s")?,
        Update::LiveJoined { .. }
    ) {}
    let mut out = std::io::stdout().lock();
    writeln!(out, "live")?;
    out.flush()?;
    let (start, before) = (Instant::now(), processor_time());
    while start.elapsed() < duration {
        let _ = std::hint::black_box(reader.next(Duration::from_millis(200))?);
    }
    writeln!(out, "{}", (processor_time() - before).as_secs_f64() / start.elapsed().as_secs_f64())?;
    Ok(())
}
