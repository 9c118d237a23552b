//! `serve` runs a node with its gateway; `demo` does, with a small exchange trading on it.
//!
//! Both end in order on Ctrl-C or SIGTERM: producers stop, what was accepted becomes durable and visible, clients are
//! told, the store is closed. The exit code is then 0.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use matchtape_bus::BusError;
use matchtape_examples::demo::{Demo, DemoOptions};
use matchtape_examples::engine::{EngineProjection, FlowOptions};
use matchtape_gateway::{Gateway, GatewayConfig, GatewayHandle, Ingress, TapeHandle};
use matchtape_market::projections;
use matchtape_node::{Node, NodeError, TapeProgress};
use matchtape_schemas::{ProducerId, Projection, Stage, Watermarks};
use matchtape_storage::EventStore;
use matchtape_storage::archive::ColdPolicy;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::cold;
use super::config::{ColdSection, CompressionName, Config, ConfigError};
use super::error::CliError;
use super::ingress::NodeIngress;
use super::inspect::ReportFormat;
use super::notify;
use super::position::duration;
use super::retention;
use super::shared_memory;
use super::store::open_error;

/// How often watermarks before `visible` are passed on.
const WATERMARKS_INTERVAL: Duration = Duration::from_millis(50);
/// The producer the demonstration publishes as.
const DEMO_PRODUCER: ProducerId = ProducerId(1);

/// Run a node and its gateway until Ctrl-C.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  matchtape serve --data /var/lib/matchtape
  matchtape serve --config matchtape.toml --listen 127.0.0.1:7474
  MATCHTAPE_STORAGE__WRITE_BACKEND=direct matchtape serve --config matchtape.toml

Settings come from built-in defaults, then the file, then MATCHTAPE_SECTION__KEY variables, then flags.
`matchtape config show` prints them all. What happens is told on the standard error, from the level in RUST_LOG on: error, warn
or info (the default).")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// How the report of what opening found and did is written to the standard error; json: one object on one line
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = ReportFormat::Text)]
    report: ReportFormat,
}

/// Run a node with a small exchange trading on it, to look at.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  matchtape demo
  matchtape demo --data /tmp/matchtape-demo --duration 15s
  matchtape demo --rate 20000 --seed 7

Started again on the same data, the exchange rebuilds its books and ids from the tape and carries on. Without --data and --config
the tape is `matchtape-demo` in the folder for temporary files, and stays there.")]
pub(super) struct DemoArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Stop after this long (15s, 2m, 1h); otherwise on Ctrl-C.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Events per second, on average.
    #[arg(long, default_value_t = 2000)]
    rate: u64,
    /// The same seed on an empty tape gives the same orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Flags that override the configuration.
#[derive(clap::Args, Debug, Clone)]
pub(super) struct NodeArgs {
    /// A TOML file; see `matchtape config show` for every key.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The data directory.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Where the gateway listens; loopback only.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    listen: Option<SocketAddr>,
    /// The namespace of the shared memory bus.
    #[arg(long)]
    namespace: Option<String>,
    /// Do not distribute over shared memory.
    #[arg(long)]
    no_bus: bool,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "an address and a port, as 127.0.0.1:7474 or [::1]:7474".to_owned())
}

impl NodeArgs {
    /// The configuration with these flags on top.
    pub(super) fn load(&self) -> Result<Config, ConfigError> {
        let mut flags = serde_json::Map::new();
        let mut set = |section: &str, key: &str, value: serde_json::Value| {
            let section = flags.entry(section).or_insert_with(|| serde_json::json!({}));
            section.as_object_mut().expect("made as an object").insert(key.into(), value);
        };
        if let Some(data) = &self.data {
            set("node", "data", data.to_string_lossy().into());
        }
        if let Some(listen) = &self.listen {
            set("gateway", "listen", listen.to_string().into());
        }
        if let Some(namespace) = &self.namespace {
            set("bus", "namespace", namespace.as_str().into());
        }
        if self.no_bus {
            set("bus", "enabled", false.into());
        }
        Config::load(self.config.as_deref(), &flags)
    }
}

/// Says what is going on, on standard error; `RUST_LOG` chooses how much.
fn start_logging() {
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    let known = wanted.is_empty() || is_log_filter(&wanted);
    if !known {
        eprintln!(
            "warning: RUST_LOG is {wanted:?}, which is no level: error, warn, info or off; info is used"
        );
    }
    let filter = if known && !wanted.is_empty() { wanted.as_str() } else { "info" };
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // Fails only when a test has installed one already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would panic where the standard error takes nothing: in any thread that says something, the log's among them.
        .log_internal_errors(false)
        .with_target(false)
        .with_ansi(
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty()),
        )
        .try_init();
}

/// Whether it is a level, or levels of parts (`matchtape_gateway=warn`). A misspelt level would be taken for a part of that
/// name, and turn everything else off.
fn is_log_filter(text: &str) -> bool {
    let is_level = |text: &str| {
        ["off", "error", "warn", "info", "debug", "trace"]
            .iter()
            .any(|level| level.eq_ignore_ascii_case(text))
    };
    text.split(',').all(|part| part.rsplit('=').next().is_some_and(|level| is_level(level.trim())))
}

/// Runs `serve`.
pub(super) fn serve(args: &ServeArgs) -> Result<(), CliError> {
    start_logging();
    let config = args.node.load()?;
    let running = Running::start(&config, projections(), Publishing::Offered, args.report)?;
    let mut signals = running.signals()?;
    running.announce(&config.node.data);
    notify::ready(&format!("tape {:016x}, epoch {}", running.node.tape().get(), running.node.epoch()));
    running.tended(&config, |running| {
        running.runtime.block_on(signals.wait());
        Ok(())
    })?;
    let what = match running.node.gauge().ended() {
        None => "what was accepted is made durable",
        Some(_) => "no events were taken any more; what became of the last ones the next start tells",
    };
    notify::stopping(what);
    eprintln!("stopping: {what}");
    running.stop()
}

/// Runs `demo`.
pub(super) fn demo(args: &DemoArgs) -> Result<(), CliError> {
    start_logging();
    let mut config = args.node.load()?;
    if args.node.data.is_none() && args.node.config.is_none() {
        config.node.data = std::env::temp_dir().join("matchtape-demo");
    }
    let mut options = DemoOptions { duration: args.duration, ..DemoOptions::default() };
    options.flow = FlowOptions { seed: args.seed, events_per_second: args.rate };
    let mut kept = projections();
    kept.push(Box::new(EngineProjection::new(options.engine)));
    // The exchange rebuilds itself from its tape, so nobody else may write there.
    config.ingress.enabled = false;
    let running = Running::start(&config, kept, Publishing::NotOffered, ReportFormat::Text)?;
    let publisher = running.node.publisher(DEMO_PRODUCER).map_err(CliError::failed)?;
    let mut demo = Demo::open(publisher, &running.node.reader(), options).map_err(|error| {
        CliError::with_advice(
            error,
            "the demonstration carries on only with its own tape: choose another --data",
        )
    })?;

    let stop = Arc::new(AtomicBool::new(false));
    let (stopping, finished) = (Arc::clone(&stop), tokio::sync::oneshot::channel());
    let (done, ended) = finished;
    let exchange = std::thread::Builder::new().name("exchange".into()).spawn(move || {
        let report = demo.run(&stopping);
        // Nobody listens any more when Ctrl-C came first.
        let _ = done.send(());
        report
    });
    let exchange = exchange.map_err(no_thread)?;
    let mut signals = running.signals()?;
    running.announce(&config.node.data);
    running.tended(&config, |running| {
        running.runtime.block_on(async {
            tokio::select! {
                () = signals.wait() => {}
                _ = ended => {}
            }
        });
        Ok(())
    })?;
    stop.store(true, Ordering::Relaxed);
    let report = match exchange.join() {
        Ok(report) => report.map_err(CliError::failed)?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    running.node.wait(report.last, Stage::Visible).map_err(CliError::failed)?;
    eprintln!(
        "stopping: {} events in {} groups, the last one is sequence {} and durable",
        report.events, report.groups, report.last
    );
    running.stop()
}

/// Moves what is old enough to the cold tier, at intervals, until the other end of `stopped` goes. What fails is told and
/// tried again the next time; nothing is lost by waiting.
fn move_to_cold(store: &EventStore, settings: &ColdSection, stopped: &mpsc::Receiver<()>) {
    let interval = Duration::from_secs(settings.interval_minutes.max(1).saturating_mul(60));
    let age = Duration::from_secs(settings.after_hours.saturating_mul(3600));
    loop {
        let compression = settings.compression.and_then(CompressionName::compression);
        let accepted_through = cold::accepted_before(age);
        let policy = ColdPolicy { accepted_through, compression, ..ColdPolicy::default() };
        let outcome = store.push_cold(&policy, &mut |_| match stopped.try_recv() {
            Err(mpsc::TryRecvError::Disconnected) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        match outcome {
            Ok(report) => {
                for moved in &report.moved {
                    let (first, last) = (moved.first_sequence, moved.last_sequence);
                    tracing::info!(
                        "moved to the cold tier: {} bytes, sequences {first} to {last}, {}",
                        moved.bytes,
                        moved.key
                    );
                }
                for key in &report.removed {
                    tracing::info!("removed from the cold tier: {key}");
                }
            }
            Err(error) => tracing::error!("the cold tier: {error}; trying again in {interval:?}"),
        }
        if stopped.recv_timeout(interval) != Err(mpsc::RecvTimeoutError::Timeout) {
            return;
        }
    }
}

fn node_error(directory: &Path, error: &NodeError) -> CliError {
    match error {
        NodeError::Open(error) => open_error(directory, error),
        // It was enough a moment ago.
        NodeError::Bus(
            BusError::NotEnoughSharedMemory { .. }
            | BusError::NoRoomToAttach { .. }
            | BusError::NoMemoryForIngress { .. },
        ) => CliError::with_advice(error, "somebody else fills /dev/shm: `ls -lS /dev/shm` shows with what"),
        other => CliError::failed(other),
    }
}

fn no_thread(error: std::io::Error) -> CliError {
    CliError::failed(format_args!("starting a thread: {error}"))
}

fn cannot_listen(error: impl std::fmt::Display) -> CliError {
    CliError::with_advice(error, "--listen chooses another address; port 0 takes any free one")
}

/// Ctrl-C and SIGTERM, heard from when this is made.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Within a runtime.
    fn new() -> Result<Self, CliError> {
        let heard = |kind| {
            signal(kind)
                .map_err(|error| CliError::failed(format_args!("installing signal handlers: {error}")))
        };
        Ok(Self { interrupt: heard(SignalKind::interrupt())?, terminate: heard(SignalKind::terminate())? })
    }

    /// Until one of them comes.
    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Whether producers outside may publish through the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Publishing {
    Offered,
    NotOffered,
}

struct Running {
    node: Node,
    runtime: tokio::runtime::Runtime,
    gateway: Option<GatewayHandle>,
    follow: Option<tokio::task::JoinHandle<()>>,
}

impl Running {
    fn start(
        config: &Config,
        projections: Vec<Box<dyn Projection>>,
        publishing: Publishing,
        report: ReportFormat,
    ) -> Result<Self, CliError> {
        if config.gateway.enabled {
            // Before a tape is made: an address that cannot be had is known at once. The gateway takes it for good later.
            let listen = config.gateway.listen;
            std::net::TcpListener::bind(listen)
                .map_err(|error| cannot_listen(format_args!("{listen}: {error}")))?;
        }
        // So is shared memory that is too small: it would be found out piece by piece, the tape made and its term begun.
        shared_memory::check(config)?;
        let mut options = config.node_options();
        options.store.cold = match config.cold.place.as_str() {
            "" => cold::of(&config.node.data)?,
            place => {
                let data = &config.node.data;
                std::fs::create_dir_all(data)
                    .map_err(|error| CliError::failed(format_args!("{}: {error}", data.display())))?;
                Some(cold::settle(&config.node.data, place)?)
            }
        };
        let node = Node::open(&config.node.data, options, projections)
            .map_err(|error| node_error(&config.node.data, &error))?;
        match report {
            ReportFormat::Text => eprintln!("{}", node.recovery()),
            ReportFormat::Json => {
                eprintln!("{}", serde_json::to_string(node.recovery()).expect("plain data is JSON"));
            }
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(no_thread)?;
        let (mut gateway, mut follow) = (None, None);
        if config.gateway.enabled {
            let (sender, tail) = watch::channel(node.watermarks());
            follow = Some(runtime.spawn(follow_watermarks(node.progress(), sender)));
            let ingress: Option<Arc<dyn Ingress>> = match publishing {
                Publishing::Offered => Some(Arc::new(NodeIngress::new(node.publishers()))),
                Publishing::NotOffered => None,
            };
            let tape = TapeHandle {
                ingress,
                consumers: Some(node.consumers()),
                gauge: Some(node.gauge()),
                sealer: Some(node.sealer()),
                holds: Some(node.holds()),
                ..TapeHandle::shown(node.reader(), tail)
            };
            let settings = GatewayConfig {
                listen: config.gateway.listen,
                hosts: config.gateway.hosts.clone(),
                ..GatewayConfig::default()
            };
            gateway = Some(runtime.block_on(Gateway::start(settings, tape)).map_err(cannot_listen)?);
        }
        Ok(Self { node, runtime, gateway, follow })
    }

    /// Before anything is announced: whoever waits for that may at once ask it to stop.
    fn signals(&self) -> Result<Signals, CliError> {
        let _within = self.runtime.enter();
        Signals::new()
    }

    /// Where to look, for people and for scripts that wait for the line.
    fn announce(&self, data: &Path) {
        let mut text = format!("tape {:016x}, epoch {}\n", self.node.tape().get(), self.node.epoch());
        let _ = writeln!(text, "data {}", data.display());
        if let Some(bus) = self.node.bus_name() {
            let _ = writeln!(text, "bus {} in {}", bus.namespace(), bus.root().display());
            if self.node.ingress_counters().is_some() {
                let _ = writeln!(text, "ingress {}", bus.ingress_text());
            }
        }
        if let Some(gateway) = &self.gateway {
            let _ = writeln!(text, "page http://{}/", gateway.address());
        }
        // Output that nobody takes is no reason to stop.
        let mut out = std::io::stdout();
        if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            tracing::warn!("writing the output: {error}");
        }
    }

    /// Does `work` while threads beside it tend the store: they keep as much as they are told and move what is old. They
    /// end with it, after the step they are in.
    fn tended<T>(
        &self,
        config: &Config,
        work: impl FnOnce(&Self) -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        let (node, store) = (&self.node, self.node.store());
        std::thread::scope(|scope| {
            let (stop_keeping, stopped) = mpsc::channel();
            std::thread::Builder::new()
                .name("retention".into())
                .spawn_scoped(scope, move || retention::keep(node, config, &stopped))
                .map_err(no_thread)?;
            let (stop_moving, stopped) = mpsc::channel();
            if !config.cold.place.is_empty() {
                std::thread::Builder::new()
                    .name("cold-push".into())
                    .spawn_scoped(scope, move || move_to_cold(store, &config.cold, &stopped))
                    .map_err(no_thread)?;
            }
            let outcome = work(self);
            drop((stop_keeping, stop_moving));
            outcome
        })
    }

    fn stop(self) -> Result<(), CliError> {
        // Clients first, while the tape can still be read to its end.
        if let Some(gateway) = self.gateway {
            self.runtime.block_on(gateway.shutdown());
        }
        if let Some(follow) = self.follow {
            follow.abort();
        }
        let progress = self.node.progress();
        self.node.close().map_err(CliError::failed)?;
        eprintln!("closed at sequence {}", progress.watermarks().durable);
        Ok(())
    }
}

/// Passes the watermarks on: at once when `visible` rises, and at an interval for the stages before it.
async fn follow_watermarks(progress: TapeProgress, sender: watch::Sender<Watermarks>) {
    loop {
        let seen = *sender.borrow();
        let risen = progress.wait_async(seen.visible.next(), Stage::Visible);
        match tokio::time::timeout(WATERMARKS_INTERVAL, risen).await {
            Ok(Ok(_)) | Err(_) => {}
            // The node has ended; what is visible by now is all there will be.
            Ok(Err(_)) => {
                sender.send_replace(progress.watermarks());
                return;
            }
        }
        let now = progress.watermarks();
        if now != seen {
            sender.send_replace(now);
        }
        if sender.is_closed() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_misspelt_level_is_none() {
        for good in ["info", "WARN", "off", "info,matchtape_gateway=warn", "matchtape_node = error"] {
            assert!(super::is_log_filter(good), "{good}");
        }
        for wrong in ["infoo", "", "verbose", "matchtape_gateway", "info,x", "matchtape_node=loud"] {
            assert!(!super::is_log_filter(wrong), "{wrong}");
        }
    }
}
