//! What waiting costs: processor seconds per second of a node that takes no events, and of a subscriber, in a process of its
//! own, that sleeps until there are some; then of a whole `serve`, by thread, with everybody connected who may be.
//!
//!     cargo run --release -p matchtape-benches --bin idle -- --seconds 10

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use futures_util::{SinkExt, StreamExt};
use matchtape_benches::{Options, Report, node, tape};
use matchtape_bus::{BusConfig, BusName, BusService, RemoteOptions, RemotePublisher, WakeUp};
use matchtape_node::{FollowedHistory, Node};
use matchtape_schemas::publish::Publish as _;
use matchtape_schemas::{ProducerId, Stage, TapeId};
use matchtape_storage::{ReadOnlyOptions, ReadOnlyStore, RealDisk};
use matchtape_subscription::{BusLive, RealTime, RealTimeOptions, Subscription, Update};
use rustix::time::{ClockId, clock_gettime};
use tokio_tungstenite::tungstenite::Message;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

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

/// Commands of the binary, for which this program starts itself.
const COMMANDS: [&str; 3] = ["serve", "subscribe", "tail"];

fn main() -> Outcome<()> {
    if std::env::args().nth(1).is_some_and(|word| COMMANDS.contains(&word.as_str())) {
        let code = matchtape::cli::main();
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
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
    drop(publisher);
    node.close()?;
    whole_process(&mut report, &options, folder.path())?;
    report.print(options.format);
    Ok(())
}

fn subscriber(folder: &Path, duration: Duration) -> Outcome<()> {
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

/// A command of the binary in a process of its own, ended with this value.
struct Process(Child);

impl Process {
    fn start(arguments: &[&str], folder: &Path) -> Outcome<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .env("MATCHTAPE_BUS__ROOT", folder.join("bus"))
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self(child))
    }

    /// The lines of its output until one begins so; what follows that.
    fn says(lines: &mut impl Iterator<Item = std::io::Result<String>>, begin: &str) -> Outcome<String> {
        for line in lines {
            if let Some(rest) = line?.strip_prefix(begin) {
                return Ok(rest.to_owned());
            }
        }
        Err(format!("it ended before it said {begin:?}").into())
    }

    /// Processor nanoseconds of each of its threads so far, with their names.
    fn threads(&self) -> Outcome<HashMap<String, (String, u64)>> {
        let mut threads = HashMap::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.0.id()))? {
            let folder = task?.path();
            // The first of its numbers is the time on a processor. One that has just ended has no files.
            let read = |file| std::fs::read_to_string(folder.join(file));
            let (Ok(name), Ok(stat)) = (read("comm"), read("schedstat")) else { continue };
            let busy = stat.split(' ').next().ok_or("a schedstat without numbers")?.parse()?;
            threads.insert(folder.display().to_string(), (name.trim().to_owned(), busy));
        }
        Ok(threads)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A share of a core, in percent.
fn percent(busy_ns: u64, of: Duration) -> f64 {
    busy_ns as f64 / of.as_nanos() as f64 * 100.0
}

/// `serve` as by default, and whoever may be connected to it, all idle.
fn whole_process(report: &mut Report, options: &Options, folder: &Path) -> Outcome<()> {
    report.guarantee(
        "serve: both buses, the way in with one producer, one WebSocket client, two durable consumers that ask and wait, one tail",
    );
    let (data, bus) = (folder.join("served"), folder.join("bus"));
    let (data, bus) = (data.to_str().ok_or("a folder of text")?, bus.to_str().ok_or("a folder of text")?);
    let namespace = format!("idle-{}", std::process::id());
    let served = ["serve", "--data", data, "--listen", "127.0.0.1:0", "--namespace", &namespace];
    let mut node = Process::start(&served, folder)?;
    let output: ChildStdout = node.0.stdout.take().ok_or("its output")?;
    let mut lines = BufReader::new(output).lines();
    let tape = Process::says(&mut lines, "tape ")?;
    let tape = TapeId(u64::from_str_radix(tape.split(',').next().ok_or("a tape")?, 16)?);
    let url = Process::says(&mut lines, "page ")?;
    let url = url.trim_end_matches('/');

    let name = BusName::with_root(&namespace, tape, Path::new(bus))?;
    let mut producer = RemotePublisher::connect(&name, ProducerId(2), RemoteOptions::default())?;
    let taken = producer.publish(&tape::order(1, 16))?;
    producer.wait(taken.last(), Stage::Durable)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let socket = runtime.block_on(async {
        let stream = url.replacen("http", "ws", 1) + "/v1/stream";
        let (mut socket, _) = tokio_tungstenite::connect_async(stream).await?;
        socket.send(Message::text(r#"{"op":"subscribe","id":1,"channel":"trades"}"#)).await?;
        while let Some(message) = socket.next().await {
            if message?.to_text()?.contains(r#""type":"subscribed""#) {
                break;
            }
        }
        Ok::<_, Box<dyn std::error::Error>>(socket)
    })?;
    let consumers = ["first", "second"].map(|name| {
        let asks = ["subscribe", "--server", url, "--consumer", name, "--create", "--kind", "trades"];
        Process::start(&asks, folder)
    });
    let consumers = consumers.into_iter().collect::<Outcome<Vec<_>>>()?;
    let follows = ["tail", "--data", data, "--bus-root", bus, "--namespace", &namespace];
    let mut tail = Process::start(&follows, folder)?;
    // Kept to its end, as a terminal is.
    let mut notices = BufReader::new(tail.0.stderr.take().ok_or("its notices")?).lines();
    Process::says(&mut notices, "live from")?;
    // Somebody has to answer pings, as a browser does.
    let connected = std::thread::spawn(move || {
        runtime.block_on(async {
            let mut socket = socket;
            while let Some(Ok(_)) = socket.next().await {}
        });
    });
    // Whoever came has settled, and a file that was opened at the start is written.
    std::thread::sleep(Duration::from_secs(2));

    let (start, before) = (Instant::now(), (node.threads()?, tail.threads()?));
    std::thread::sleep(options.duration());
    let (took, after) = (start.elapsed(), (node.threads()?, tail.threads()?));
    let busy = |before: &HashMap<String, (String, u64)>, after: &HashMap<String, (String, u64)>| {
        let mut by_name: HashMap<String, u64> = HashMap::new();
        for (task, (name, ns)) in after {
            *by_name.entry(name.clone()).or_default() += ns - before.get(task).map_or(0, |(_, ns)| *ns);
        }
        let mut by_name: Vec<(String, u64)> = by_name.into_iter().collect();
        by_name.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
        by_name
    };
    let threads = busy(&before.0, &after.0);
    let all = |threads: &[(String, u64)]| threads.iter().map(|(_, ns)| ns).sum::<u64>();
    report.row("serve, idle, all threads", percent(all(&threads), took), "% of core").goal("< 1");
    for (name, ns) in threads.iter().take(8) {
        report.row(format!("  its {name}"), percent(*ns, took), "% of core");
    }
    report.row("tail, asleep", percent(all(&busy(&before.1, &after.1)), took), "% of core").goal("~ 0");

    for mut consumer in consumers {
        if let Some(status) = consumer.0.try_wait()? {
            return Err(format!("a consumer ended: {status}").into());
        }
    }
    drop((producer, tail, notices));
    let id = rustix::process::Pid::from_child(&node.0);
    rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
    let status = node.0.wait()?;
    connected.join().map_err(|_| "the WebSocket client panicked")?;
    for file in std::fs::read_dir("/dev/shm")? {
        let path = file?.path();
        // The 16 bytes that iceoryx2 keeps of a namespace.
        if path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&name.prefix())) {
            std::fs::remove_file(path)?;
        }
    }
    if status.success() { Ok(()) } else { Err(format!("serve ended: {status}").into()) }
}
