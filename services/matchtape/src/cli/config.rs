//! What a node is told: built-in defaults, then a TOML file, then `MATCHTAPE_...` variables, then flags.
//!
//! A key that does not exist is refused, wherever it stands: a misspelt setting must not become a silent default.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use matchtape_bus::{
    BusConfig, BusError, IngressConfig, WakeUp, check_core, shared_memory_available, shared_memory_total,
};
use matchtape_node::{BusOptions, IngressOptions, NodeOptions, PipelineWait, VisibleAt};
use matchtape_schemas::TapeId;
use matchtape_storage::wal::{SyncPolicy, WriteBackend};
use matchtape_storage::{Compression, ScrubOptions};
use rustix::fs::Access;
use serde::{Deserialize, Serialize};

use super::error::CliError;
use super::retention::{RetentionSection, SnapshotSection};
use super::serve::NodeArgs;
use super::shared_memory::{Needed, NotEnough};

/// Seconds.
const HOUR: u64 = 60 * 60;

/// Show or check the configuration of a node.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  matchtape config show                          (every key with its default, as TOML)
  matchtape config show --config matchtape.toml  (what a node would really use)
  matchtape config check --config matchtape.toml")]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Print the configuration that `serve` would use
    Show(NodeArgs),
    /// Say whether `serve` would accept the configuration, here and as this user. Opens and changes nothing, also beside a running
    /// node: what is on the tape, and whether the gateway's address is free, it does not see
    Check(NodeArgs),
}

pub(super) fn run(args: &ConfigArgs) -> Result<(), CliError> {
    match &args.what {
        What::Show(node) => {
            let config = node.load()?;
            let text = toml::to_string_pretty(&config).map_err(CliError::failed)?;
            std::io::stdout().write_all(text.as_bytes())?;
        }
        What::Check(node) => {
            let config = node.load()?;
            config.check_machine()?;
            eprintln!("the configuration is good");
        }
    }
    Ok(())
}

/// Everything `serve` and `demo` can be told.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Config {
    pub node: NodeSection,
    pub storage: StorageSection,
    pub bus: BusSection,
    pub ingress: IngressSection,
    pub gateway: GatewaySection,
    pub cold: ColdSection,
    pub snapshot: SnapshotSection,
    pub retention: RetentionSection,
}

/// Where old event tables go, so that the local disk need not hold them.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ColdSection {
    /// A directory, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`, as far as the build has them.
    /// Empty: nothing moves.
    pub place: String,
    /// A table moves when its last event was accepted so long ago.
    pub after_hours: u64,
    /// So often the node looks.
    pub interval_minutes: u64,
    /// A table is first written anew like this: `lz4`, `zstd` or `none`. Absent: it moves as it is.
    pub compression: Option<CompressionName>,
}

impl Default for ColdSection {
    fn default() -> Self {
        Self { place: String::new(), after_hours: 24, interval_minutes: 10, compression: None }
    }
}

/// The sequencer.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NodeSection {
    /// Written where this node leads the tape. At most 40 bytes.
    pub name: String,
    /// The data directory.
    pub data: PathBuf,
    /// Slots between publishers and pipeline, a power of two: the most events a group may have.
    pub ring_slots: usize,
    /// How far an event time may lie ahead of this machine's clock.
    pub event_time_skew_ms_max: u64,
    /// How long the pipeline thread looks for events before it sleeps. While it sleeps whoever publishes does its work, and
    /// wakes it where events come faster than that. 0: it is never woken for that; every event is a frame of its own.
    pub spin_us: u64,
    /// How long it sleeps at a time, and nobody does its work or wakes anybody: publishing is then never a system call, but on an
    /// idle tape an event waits until it looks again. 0: it sleeps as above.
    pub nap_us: u64,
    /// `durable`: readers are given events once they are synced. `written`: before; what they saw in the last moments
    /// vanishes when the power goes.
    pub visible_at: VisibleAtName,
    /// Say on an idle tape that time has passed, first after so long, then every 10 s. Only on a live tape: one whose last event is over
    /// a minute old is left alone. 0: never.
    pub time_advanced_after_ms: u64,
    /// The core the pipeline's thread is bound to.
    pub pipeline_core: Option<usize>,
    /// The core the log's thread is bound to.
    pub log_core: Option<usize>,
}

#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum VisibleAtName {
    Durable,
    Written,
}

/// The log, the memtable, the tables.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields, default)]
pub(super) struct StorageSection {
    /// `every-batch`: nothing reported durable is ever lost. `interval`: the last `sync_interval_ms` may be. `none`: any
    /// event of the open segment may be, when the power goes.
    pub sync: SyncName,
    /// For `sync = "interval"`.
    pub sync_interval_ms: u64,
    /// `buffered` (write, then fdatasync) or `direct` (O_DIRECT | O_DSYNC). Which is faster depends on the device.
    pub write_backend: BackendName,
    /// Size of a log segment.
    pub segment_mib: u64,
    /// Sealed segments of the log that stay though tables have their events, the newest: a second copy to salvage from.
    pub log_kept_mib: u64,
    /// Recent events in memory before they are flushed to tables.
    pub memtable_mib: usize,
    /// Memory for blocks of tables.
    pub block_cache_mib: usize,
    /// How event tables are compressed: `lz4`, `none`, or `zstd` (fewer bytes, slower; a build with `--features zstd`).
    pub compression: CompressionName,
    /// Sealed segments, tables and snapshots are read again and checked while the node serves, so fast at most. 0: never.
    pub scrub_mib_per_second: u64,
    /// A round of that begins so long after the one before began; at once, if that took longer.
    pub scrub_every_hours: u64,
}

/// How event tables are compressed.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CompressionName {
    /// Fast both ways
    Lz4,
    /// Fewer bytes, slower; a build with `--features zstd`
    Zstd,
    /// As they are
    None,
}

impl CompressionName {
    /// As the store wants it; `None`: this build cannot.
    pub(super) fn compression(self) -> Option<Compression> {
        match self {
            Self::Lz4 => Some(Compression::Lz4),
            #[cfg(feature = "zstd")]
            Self::Zstd => Some(Compression::Zstd),
            #[cfg(not(feature = "zstd"))]
            Self::Zstd => None,
            Self::None => Some(Compression::None),
        }
    }

    /// The same as a flag.
    pub(super) fn wanted(self) -> Result<Compression, CliError> {
        self.compression().ok_or_else(|| {
            CliError::with_advice(
                "this binary was built without zstd",
                "cargo build --release --features zstd",
            )
        })
    }
}

#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum SyncName {
    EveryBatch,
    Interval,
    None,
}

#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum BackendName {
    Buffered,
    Direct,
}

/// Shared memory distribution.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BusSection {
    /// Whether there is one.
    pub enabled: bool,
    /// Separates instances on one machine: 1 to 20 of a-z, 0-9 and '-'.
    pub namespace: String,
    /// The folder through which processes meet; the system's folder for temporary files when absent.
    pub root: Option<PathBuf>,
    /// Whether accepted events are sent before they are durable, on a service of their own.
    pub speculative: bool,
    /// Subscribers that may be attached to each service at a time.
    pub subscribers_max: usize,
    /// Frames a subscriber may be behind before the oldest is overwritten (it then reads the log).
    pub buffer_frames: usize,
    /// The interval of heartbeats; subscribers alarm after three.
    pub heartbeat_ms: u64,
    /// `event`: sleeping readers are woken. `busy-poll`: nobody is woken; readers that poll take a core each and have the lowest
    /// latency, others look every millisecond.
    pub wake_up: WakeUpName,
    /// The core the live publisher is bound to.
    pub core: Option<usize>,
}

#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum WakeUpName {
    Event,
    BusyPoll,
}

/// Producers in other processes, through shared memory. They meet the node where its bus is, so there has to be one.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields, default)]
pub(super) struct IngressSection {
    /// Whether they may come in.
    pub enabled: bool,
    /// Producers at the same time.
    pub producers_max: usize,
    /// Samples (a group each, or as many as had to wait) a producer may be ahead of the node. Each takes 128 KiB of
    /// shared memory per producer.
    pub queue_samples: usize,
    /// `event`: the node sleeps when nobody publishes. `busy-poll`: it does not; a core for the lowest latency.
    pub wake_up: WakeUpName,
    /// How long the thread looks for samples before it sleeps.
    pub spin_us: u64,
    /// The core the thread is bound to.
    pub core: Option<usize>,
}

/// WebSocket, HTTP and the page.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields, default)]
pub(super) struct GatewaySection {
    /// Whether there is one.
    pub enabled: bool,
    /// Loopback only, as long as there is no authentication.
    pub listen: SocketAddr,
    /// Names, beside those of loopback, under which requests and pages may come: those of a proxy in front.
    pub hosts: Vec<String>,
}

impl Default for NodeSection {
    fn default() -> Self {
        let options = NodeOptions::default();
        Self {
            name: options.name,
            data: PathBuf::from("matchtape-data"),
            ring_slots: options.ring_slots,
            event_time_skew_ms_max: options.event_time_skew_max.as_millis() as u64,
            spin_us: 50,
            nap_us: 0,
            visible_at: VisibleAtName::Durable,
            time_advanced_after_ms: 100,
            pipeline_core: None,
            log_core: None,
        }
    }
}

impl Default for StorageSection {
    fn default() -> Self {
        let scrub = ScrubOptions::default();
        Self {
            sync: SyncName::EveryBatch,
            sync_interval_ms: 50,
            write_backend: BackendName::Buffered,
            segment_mib: 256,
            log_kept_mib: 512,
            memtable_mib: 128,
            block_cache_mib: 64,
            compression: CompressionName::Lz4,
            scrub_mib_per_second: scrub.bytes_per_second >> 20,
            scrub_every_hours: scrub.every.as_secs() / HOUR,
        }
    }
}

impl Default for BusSection {
    fn default() -> Self {
        let config = BusConfig::default();
        Self {
            enabled: true,
            namespace: "matchtape".into(),
            root: None,
            speculative: true,
            subscribers_max: config.subscribers_max,
            buffer_frames: config.buffer_samples,
            heartbeat_ms: config.heartbeat_interval.as_millis() as u64,
            wake_up: WakeUpName::Event,
            core: None,
        }
    }
}

impl Default for IngressSection {
    fn default() -> Self {
        let IngressOptions { config, spin, core } = IngressOptions::default();
        Self {
            enabled: true,
            producers_max: config.producers_max,
            queue_samples: config.queue_samples,
            wake_up: WakeUpName::Event,
            spin_us: spin.as_micros() as u64,
            core,
        }
    }
}

impl From<WakeUpName> for WakeUp {
    fn from(name: WakeUpName) -> Self {
        match name {
            WakeUpName::Event => Self::Event,
            WakeUpName::BusyPoll => Self::BusyPoll,
        }
    }
}

impl Default for GatewaySection {
    fn default() -> Self {
        Self { enabled: true, listen: SocketAddr::from(([127, 0, 0, 1], 7474)), hosts: Vec::new() }
    }
}

/// A configuration that cannot be used.
#[derive(thiserror::Error, Debug)]
pub(super) enum ConfigError {
    /// The file is not there.
    #[error("configuration file {} cannot be read: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    /// A key that does not exist, or a value of another type.
    #[error("{}", in_words(.0))]
    Content(Box<figment::Error>),
    /// A value out of bounds.
    #[error("{key} = {value}: {reason}")]
    Value { key: &'static str, value: String, reason: &'static str },
    /// A directory that the node could not use or make.
    #[error("{key} = {}: {reason}", path.display())]
    Directory { key: &'static str, path: PathBuf, reason: String },
    /// The bus could not be.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// More than this machine has, with nothing else running.
    #[error(transparent)]
    SharedMemory(Box<NotEnough>),
    /// A variable with one underscore where two belong would do nothing.
    #[error("{name} does nothing: the setting is {meant}, with two underscores behind the section")]
    Variable { name: String, meant: String },
}

/// Variables that are no settings and mean something all the same: the gateway for commands that ask one, and two for the tests.
const OTHER_VARIABLES: [&str; 3] = ["MATCHTAPE_SERVER", "MATCHTAPE_DATA", "MATCHTAPE_CHECK"];

/// Looks at the names of variables for settings that are none. Returns those that may be, for nothing here knows them.
fn unknown_variables(names: impl Iterator<Item = String>) -> Result<Vec<String>, ConfigError> {
    let settings = serde_json::to_value(Config::default()).expect("plain data is JSON");
    let settings: Vec<(String, String)> = settings
        .as_object()
        .expect("made of sections")
        .iter()
        .flat_map(|(section, keys)| {
            keys.as_object().expect("made of keys").keys().map(move |key| (section, key))
        })
        .map(|(section, key)| (section.to_uppercase(), key.to_uppercase()))
        .collect();
    let mut unknown = Vec::new();
    for name in names {
        let Some(rest) = name.strip_prefix("MATCHTAPE_") else { continue };
        if rest.contains("__") || OTHER_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        let meant = settings.iter().find(|(section, key)| {
            rest.strip_prefix(section.as_str()).and_then(|rest| rest.strip_prefix('_')) == Some(key.as_str())
        });
        if let Some((section, key)) = meant {
            return Err(ConfigError::Variable { meant: format!("MATCHTAPE_{section}__{key}"), name });
        }
        unknown.push(name);
    }
    Ok(unknown)
}

/// Without the marks that the libraries put around names.
fn plain(words: &str) -> String {
    words.replace('`', "")
}

/// Where it stands, which key it is, and what is wrong with it.
fn in_words(error: &figment::Error) -> String {
    use figment::error::{Actual, Kind};
    let what = match &error.kind {
        Kind::UnknownField(field, known) => {
            format!("there is no {field:?} here; there are {}", known.join(", "))
        }
        Kind::UnknownVariant(found, known) => format!("{found:?} is none of {}", known.join(", ")),
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            let expected = match expected.as_str() {
                "usize" | "u64" | "u32" | "u16" => "a whole number, 0 or more",
                other => other,
            };
            let found = match found {
                Actual::Str(_) | Actual::Char(_) => found.to_string(),
                other => plain(&other.to_string()),
            };
            format!("{found} is not {}", plain(expected))
        }
        other => plain(&other.to_string()),
    };
    let place = match error.metadata.as_ref().map(|metadata| (&metadata.source, &metadata.name)) {
        Some((Some(figment::Source::File(path)), _)) => format!("{}: ", path.display()),
        Some((_, name)) => format!("{name}: "),
        None => String::new(),
    };
    let key = match error.path.as_slice() {
        [] => String::new(),
        path => format!("{}: ", path.join(".")),
    };
    format!("{place}{key}{}", what.trim_end())
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::with_advice(error, "`matchtape config show` prints every key with its default")
    }
}

impl Config {
    /// Defaults, then the file, then `MATCHTAPE_SECTION__KEY`, then `flags` (a serialisable tree of what was given).
    pub fn load(file: Option<&Path>, flags: &impl Serialize) -> Result<Self, ConfigError> {
        let mut layers = Figment::from(Serialized::defaults(Self::default()));
        if let Some(path) = file {
            // A file that is not there would count as an empty one.
            std::fs::File::open(path)
                .map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
            layers = layers.merge(Toml::file_exact(path));
        }
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let unknown = unknown_variables(names)?;
        if !unknown.is_empty() {
            // Not refused: the environment of a container may name its neighbours like this.
            eprintln!("warning: no settings, and not used: {}", unknown.join(", "));
        }
        // Settings always name a section.
        let variables = Env::prefixed("MATCHTAPE_").filter(|key| key.as_str().contains("__")).split("__");
        let config: Self = layers
            .merge(variables)
            .merge(Serialized::defaults(flags))
            .extract()
            .map_err(|error| ConfigError::Content(Box::new(error)))?;
        config.check()?;
        Ok(config)
    }

    /// What `serve` would find out by trying, as far as it can be known without: whether directories can be used or made, and
    /// whether the bus fits into shared memory.
    fn check_machine(&self) -> Result<(), ConfigError> {
        usable("node.data", &self.node.data)?;
        if !self.bus.enabled {
            return Ok(());
        }
        // The tape's number has the same length whatever it is.
        let options = self.bus_options();
        usable("bus.root", options.name(TapeId(1))?.root())?;
        let needed = Needed::of(self);
        let (total, free) = (shared_memory_total()?, shared_memory_available()?);
        if needed.bytes() > total {
            return Err(ConfigError::SharedMemory(Box::new(needed.than(total, "in all"))));
        }
        if needed.bytes() > free {
            eprintln!(
                "warning: the bus needs {needed}, /dev/shm has {free} free now; enough if what a running node has comes free"
            );
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.node.data.as_os_str().is_empty() {
            let (key, value, reason) =
                ("node.data", "\"\"".to_owned(), "a directory; it is made if it is not there");
            return Err(ConfigError::Value { key, value, reason });
        }
        let slots = self.node.ring_slots;
        if !slots.is_power_of_two() || !(2..=1 << 24).contains(&slots) {
            let reason = "a power of two between 2 and 16777216";
            return Err(ConfigError::Value { key: "node.ring_slots", value: slots.to_string(), reason });
        }
        if self.node.name.is_empty() || self.node.name.len() > 40 {
            let reason = "1 to 40 bytes";
            return Err(ConfigError::Value {
                key: "node.name",
                value: format!("{:?}", self.node.name),
                reason,
            });
        }
        let segment = self.storage.segment_mib;
        if !(1..=4096).contains(&segment) {
            let reason = "1 to 4096 MiB";
            return Err(ConfigError::Value {
                key: "storage.segment_mib",
                value: segment.to_string(),
                reason,
            });
        }
        if !(1..=1 << 16).contains(&self.storage.memtable_mib) {
            let (value, reason) = (self.storage.memtable_mib.to_string(), "1 to 65536 MiB");
            return Err(ConfigError::Value { key: "storage.memtable_mib", value, reason });
        }
        if self.node.nap_us > 10_000 {
            let (key, reason) = ("node.nap_us", "0 (who publishes does its work, or wakes it) to 10000");
            return Err(ConfigError::Value { key, value: self.node.nap_us.to_string(), reason });
        }
        let names = [
            ("storage.compression", Some(self.storage.compression)),
            ("cold.compression", self.cold.compression),
        ];
        for (key, name) in names {
            if name.is_some_and(|name| name.compression().is_none()) {
                let (value, reason) =
                    ("zstd".to_owned(), "this build has no zstd: build it with --features zstd");
                return Err(ConfigError::Value { key, value, reason });
            }
        }
        let cores = [
            ("node.pipeline_core", self.node.pipeline_core),
            ("node.log_core", self.node.log_core),
            ("bus.core", self.bus.core),
            ("ingress.core", self.ingress.core),
        ];
        for (key, core) in cores {
            if let Some(core) = core
                && check_core(core).is_err()
            {
                let reason = "none of the cores this process may use (`nproc`, `taskset -p`)";
                return Err(ConfigError::Value { key, value: core.to_string(), reason });
            }
        }
        let range = |key, value: usize, max: usize, reason| match (1..=max).contains(&value) {
            true => Ok(()),
            false => Err(ConfigError::Value { key, value: value.to_string(), reason }),
        };
        range("ingress.producers_max", self.ingress.producers_max, 256, "1 to 256")?;
        range("ingress.queue_samples", self.ingress.queue_samples, 4096, "1 to 4096")?;
        if self.storage.scrub_mib_per_second > 1 << 20 {
            let (key, reason) = ("storage.scrub_mib_per_second", "0 to 1048576 MiB/s");
            let value = self.storage.scrub_mib_per_second.to_string();
            return Err(ConfigError::Value { key, value, reason });
        }
        if !(1..=24 * 366).contains(&self.storage.scrub_every_hours) {
            let (key, reason) = ("storage.scrub_every_hours", "1 to 8784, a year");
            let value = self.storage.scrub_every_hours.to_string();
            return Err(ConfigError::Value { key, value, reason });
        }
        range("bus.subscribers_max", self.bus.subscribers_max, 1 << 16, "1 to 65536")?;
        range("bus.buffer_frames", self.bus.buffer_frames, 1 << 16, "1 to 65536")?;
        if self.bus.heartbeat_ms == 0 {
            let (key, value, reason) = ("bus.heartbeat_ms", "0".into(), "1 or more");
            return Err(ConfigError::Value { key, value, reason });
        }
        if self.bus.enabled {
            // Namespace and root.
            self.bus_options().name(TapeId(1))?;
        }
        if cfg!(not(feature = "cold")) && !self.cold.place.is_empty() {
            let (key, value) = ("cold.place", self.cold.place.clone());
            let reason = "this build has no cold tier: build it with --features cold";
            return Err(ConfigError::Value { key, value, reason });
        }
        if self.retention.interval_seconds == 0 {
            let (key, value, reason) = ("retention.interval_seconds", "0".into(), "1 or more");
            return Err(ConfigError::Value { key, value, reason });
        }
        for (key, bytes) in self.retention.bytes_of_pins() {
            // A full memtable makes one event table.
            if bytes > 0 && bytes < (self.storage.memtable_mib as u64) << 20 {
                let reason = "0 (no limit, no alarm), or at least storage.memtable_mib: nothing less than an event table is held back";
                return Err(ConfigError::Value { key, value: bytes.to_string(), reason });
            }
        }
        if self.gateway.enabled && !self.gateway.listen.ip().is_loopback() {
            let (value, reason) =
                (self.gateway.listen.to_string(), "loopback only: this release has no authentication");
            return Err(ConfigError::Value { key: "gateway.listen", value, reason });
        }
        if let Some(host) = self.gateway.hosts.iter().find(|host| !matchtape_gateway::is_host_name(host)) {
            let (key, value) = ("gateway.hosts", format!("{host:?}"));
            let reason =
                "names as a browser shows them, without scheme, port and path, as \"tape.example.com\"";
            return Err(ConfigError::Value { key, value, reason });
        }
        Ok(())
    }

    /// As the node wants it.
    pub fn node_options(&self) -> NodeOptions {
        let mut options = NodeOptions {
            name: self.node.name.clone(),
            ring_slots: self.node.ring_slots,
            event_time_skew_max: Duration::from_millis(self.node.event_time_skew_ms_max),
            wait: match (Duration::from_micros(self.node.spin_us), self.node.nap_us) {
                (spin, 0) => PipelineWait::Adaptive { spin },
                (spin, nap) => PipelineWait::Nap { spin, nap: Duration::from_micros(nap) },
            },
            visible_at: match self.node.visible_at {
                VisibleAtName::Durable => VisibleAt::Durable,
                VisibleAtName::Written => VisibleAt::Written,
            },
            pipeline_core: self.node.pipeline_core,
            log_core: self.node.log_core,
            bus: self.bus.enabled.then(|| self.bus_options()),
            // Without a bus there is no place to meet.
            ingress: (self.bus.enabled && self.ingress.enabled).then(|| self.ingress_options()),
            time_advanced_after: match self.node.time_advanced_after_ms {
                0 => None,
                after => Some(Duration::from_millis(after)),
            },
            ..NodeOptions::default()
        };
        let (store, storage) = (&mut options.store, &self.storage);
        store.memtable_bytes = storage.memtable_mib << 20;
        store.block_cache_bytes = storage.block_cache_mib << 20;
        store.wal.segment_bytes = storage.segment_mib << 20;
        store.compression = storage.compression.compression().unwrap_or_default();
        store.scrub = ScrubOptions {
            bytes_per_second: storage.scrub_mib_per_second << 20,
            every: Duration::from_secs(storage.scrub_every_hours * HOUR),
        };
        store.log_kept_bytes = storage.log_kept_mib.saturating_mul(1 << 20);
        store.wal.sync = match storage.sync {
            SyncName::EveryBatch => SyncPolicy::EveryBatch,
            SyncName::Interval => SyncPolicy::Interval(Duration::from_millis(storage.sync_interval_ms)),
            SyncName::None => SyncPolicy::None,
        };
        store.wal.backend = match storage.write_backend {
            BackendName::Buffered => WriteBackend::Buffered,
            BackendName::Direct => WriteBackend::Direct,
        };
        options
    }

    pub fn ingress_options(&self) -> IngressOptions {
        let section = &self.ingress;
        let config = IngressConfig {
            producers_max: section.producers_max,
            queue_samples: section.queue_samples,
            heartbeat_interval: Duration::from_millis(self.bus.heartbeat_ms),
            wake_up: section.wake_up.into(),
            ..IngressConfig::default()
        };
        IngressOptions { config, spin: Duration::from_micros(section.spin_us), core: section.core }
    }

    /// As bus publishers and subscribers want it.
    pub fn bus_options(&self) -> BusOptions {
        BusOptions {
            namespace: self.bus.namespace.clone(),
            root: self.bus.root.clone(),
            config: BusConfig {
                subscribers_max: self.bus.subscribers_max,
                buffer_samples: self.bus.buffer_frames,
                heartbeat_interval: Duration::from_millis(self.bus.heartbeat_ms),
                wake_up: self.bus.wake_up.into(),
                ..BusConfig::default()
            },
            speculative: self.bus.speculative,
            core: self.bus.core,
        }
    }
}

/// Whether a directory is there and can be written, or else its parents can be made into one.
pub(super) fn usable(key: &'static str, path: &Path) -> Result<(), ConfigError> {
    let wrong = |reason| ConfigError::Directory { key, path: path.to_owned(), reason };
    let whole = std::path::absolute(path).map_err(|error| wrong(error.to_string()))?;
    let there = whole.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if !there.is_dir() {
        return Err(wrong(format!("{} is no directory", there.display())));
    }
    rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK).map_err(|errno| {
        wrong(format!("cannot write to {}: {}", there.display(), std::io::Error::from(errno)))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Config::load(Some(file.path()), &serde_json::json!({}))
    }

    #[test]
    fn a_file_overrides_defaults_and_flags_override_the_file() {
        let config = load("[node]\nname = \"a\"\n[gateway]\nlisten = \"127.0.0.1:9\"\n").unwrap();
        assert_eq!((config.node.name.as_str(), config.gateway.listen.port()), ("a", 9));
        assert_eq!(config.storage.segment_mib, 256);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"[node]\nname = \"a\"\n").unwrap();
        let flags = serde_json::json!({"node": {"name": "b"}});
        assert_eq!(Config::load(Some(file.path()), &flags).unwrap().node.name, "b");
    }

    #[test]
    fn compression_is_chosen_by_name_and_a_build_without_zstd_says_so() {
        let chosen = |text: &str| load(text).map(|config| config.node_options().store.compression);
        assert_eq!(chosen("").unwrap(), Compression::Lz4);
        assert_eq!(chosen("[storage]\ncompression = \"none\"\n").unwrap(), Compression::None);
        assert!(chosen("[storage]\ncompression = \"brotli\"\n").is_err());
        for (section, key) in [("storage", "storage.compression"), ("cold", "cold.compression")] {
            let found = load(&format!("[{section}]\ncompression = \"zstd\"\n"));
            if cfg!(feature = "zstd") {
                found.unwrap();
            } else {
                let said = found.unwrap_err().to_string();
                assert!(said.contains(key) && said.contains("--features zstd"), "{said}");
            }
        }
    }

    #[test]
    fn everything_is_kept_unless_a_rule_says_otherwise() {
        use matchtape_storage::{PinLimit, PinLimits, RetentionPolicy};

        let config = load("").unwrap();
        assert_eq!(config.retention.policy(), RetentionPolicy::default());
        assert_eq!(config.snapshot.interval_minutes, 30);
        let text = "[storage]\nmemtable_mib = 1\n\
                    [retention]\nkeep_hours = 2\nkeep_trading_days = 3\nkeep_bytes = 4\n\
                    abandoned_sections = [\"old\"]\n\
                    consumer_bytes_max = 1048576\nconsumer_hours_max = 0\n\
                    backup_bytes_max = 0\nbackup_hours_max = 3\n\
                    upload_bytes_max = 2097152\nupload_hours_max = 4\n\
                    hold_bytes_alarm = 3145728\nhold_hours_alarm = 5\n";
        let limit = |bytes, hours: Option<u64>| PinLimit {
            bytes,
            age: hours.map(|hours| Duration::from_secs(hours * 3600)),
        };
        let expected = RetentionPolicy {
            pin_limits: PinLimits {
                standby: limit(Some(1 << 20), None),
                consumer: limit(Some(1 << 20), None),
                archive: limit(Some(2 << 20), Some(4)),
                backup: limit(None, Some(3)),
                legal_hold: limit(Some(3 << 20), Some(5)),
            },
            age: Some(Duration::from_secs(7200)),
            trading_days: Some(3),
            bytes: Some(4),
            abandoned_sections: vec!["old".into()],
            ..RetentionPolicy::default()
        };
        assert_eq!(load(text).unwrap().retention.policy(), expected);
        let shown = toml::to_string_pretty(&config).unwrap();
        for key in [
            "[retention]",
            "keep_hours = 0",
            "keep_trading_days = 0",
            "keep_bytes = 0",
            "consumer_bytes_max = 68719476736",
            "consumer_hours_max = 168",
            "[snapshot]",
        ] {
            assert!(shown.contains(key), "{key} in {shown}");
        }
    }

    #[test]
    fn files_are_scrubbed_once_a_week_unless_a_rate_or_an_interval_is_given() {
        let scrub = |text: &str| load(text).unwrap().node_options().store.scrub;
        assert_eq!(scrub(""), ScrubOptions::default());
        let given = scrub("[storage]\nscrub_mib_per_second = 3\nscrub_every_hours = 2\n");
        assert_eq!((given.bytes_per_second, given.every), (3 << 20, Duration::from_secs(7200)));
        assert_eq!(scrub("[storage]\nscrub_mib_per_second = 0\n").bytes_per_second, 0);
    }

    #[test]
    fn a_place_for_the_cold_tier_is_refused_by_a_build_without_one() {
        let found = load("[cold]\nplace = \"/mnt/archive\"\n");
        if cfg!(feature = "cold") {
            found.unwrap();
        } else {
            let said = found.unwrap_err().to_string();
            assert!(said.contains("cold.place") && said.contains("--features cold"), "{said}");
        }
    }

    #[test]
    fn variables_that_would_do_nothing_are_refused_where_it_is_plain_what_they_mean_and_named_elsewhere() {
        let look = |names: &[&str]| unknown_variables(names.iter().map(|name| (*name).to_owned()));
        let quiet = ["PATH", "MATCHTAPE_STORAGE__SYNC", "MATCHTAPE_SERVER", "MATCHTAPE_DATA", "MATCHTAPEX"];
        assert_eq!(look(&quiet).unwrap(), Vec::<String>::new());
        for (name, meant) in [
            ("MATCHTAPE_STORAGE_WRITE_BACKEND", "MATCHTAPE_STORAGE__WRITE_BACKEND"),
            ("MATCHTAPE_NODE_PIPELINE_CORE", "MATCHTAPE_NODE__PIPELINE_CORE"),
        ] {
            let said = look(&["HOME", name]).unwrap_err().to_string();
            assert!(said.contains(name) && said.contains(meant), "{said}");
        }
        // A neighbour called matchtape-gateway, as kubernetes names it.
        let others = ["MATCHTAPE_GATEWAY_SERVICE_HOST", "MATCHTAPE_PORT"];
        assert_eq!(look(&others).unwrap(), others);
    }

    #[test]
    fn a_machine_that_cannot_do_what_is_configured_is_found_out_without_trying() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut config = Config::default();
        config.node.data = folder.path().join("not/there/yet");
        config.bus.root = Some(folder.path().join("bus"));
        config.check_machine().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was made");

        let mut wrong = config.clone();
        wrong.node.data = file.join("tape");
        let said = wrong.check_machine().unwrap_err().to_string();
        assert!(said.contains("node.data") && said.contains("no directory"), "{said}");
        wrong = config.clone();
        wrong.bus.root = Some(file.join("bus"));
        let said = wrong.check_machine().unwrap_err().to_string();
        assert!(said.contains("bus.root") && said.contains("no directory"), "{said}");
        wrong = config.clone();
        wrong.bus.subscribers_max = 1 << 16;
        wrong.bus.buffer_frames = 1 << 16;
        let said = wrong.check_machine().unwrap_err().to_string();
        assert!(said.contains("shared memory") && said.contains("bus.subscribers_max"), "{said}");
    }

    #[test]
    fn unknown_keys_and_impossible_values_are_refused_by_name() {
        for (text, named) in [
            ("[node]\nnmae = \"a\"\n", "nmae"),
            ("[nodes]\n", "nodes"),
            ("[node]\nring_slots = 1000\n", "node.ring_slots"),
            ("[node]\nring_slots = \"many\"\n", "ring_slots"),
            ("[node]\nnap_us = 10001\n", "node.nap_us"),
            ("[storage]\nsync = \"sometimes\"\n", "sometimes"),
            ("[node]\nring_slots = \"a`b\"\n", "string \"a`b\" is not a whole number"),
            ("[node]\nname = 7\n", "signed int 7 is not a string"),
            ("[storage]\nscrub_every_hours = 0\n", "storage.scrub_every_hours"),
            ("[storage]\nscrub_mib_per_second = 2000000\n", "storage.scrub_mib_per_second"),
            ("[gateway]\nlisten = \"0.0.0.0:80\"\n", "gateway.listen"),
            ("[gateway]\nhosts = [\"https://tape.example.com\"]\n", "gateway.hosts"),
            ("[node]\nlog_core = 100000\n", "node.log_core"),
            ("[ingress]\nproducers_max = 0\n", "ingress.producers_max"),
            ("[node]\ndata = \"\"\n", "node.data"),
            ("[bus]\nsubscribers_max = 0\n", "bus.subscribers_max"),
            ("[bus]\nsubscribers_max = 100000\n", "bus.subscribers_max"),
            ("[bus]\nbuffer_frames = 0\n", "bus.buffer_frames"),
            ("[bus]\nheartbeat_ms = 0\n", "bus.heartbeat_ms"),
            ("[bus]\nnamespace = \"No\"\n", "namespace \"No\""),
            ("[bus]\nroot = \"run\"\n", "not an absolute path"),
            ("[retention]\nkeep_days = 3\n", "keep_days"),
            ("[retention]\ninterval_seconds = 0\n", "retention.interval_seconds"),
            (
                "[retention]\nconsumer_bytes_max = 64\n",
                "retention.consumer_bytes_max = 64: 0 (no limit, no alarm)",
            ),
            ("[retention]\nhold_bytes_alarm = 1\n", "retention.hold_bytes_alarm"),
            ("[retention]\nbackup_hours_max = -1\n", "backup_hours_max"),
            ("[snapshot]\ninterval = 3\n", "interval"),
        ] {
            let error = load(text).expect_err(text).to_string();
            assert!(error.contains(named), "{text:?} gives {error:?}");
            assert!(!error.contains("default."), "{text:?} gives {error:?}");
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"[node]\nname = 7\n").unwrap();
        let error = Config::load(Some(file.path()), &serde_json::json!({})).unwrap_err().to_string();
        let place = format!("{}: node.name: ", file.path().display());
        assert!(error.starts_with(&place), "{error}");
        let missing = Config::load(Some(Path::new("no/such/file.toml")), &serde_json::json!({})).unwrap_err();
        assert!(missing.to_string().contains("no/such/file.toml"));
    }
}
