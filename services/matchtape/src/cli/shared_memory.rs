//! Whether the bus and the way in fit into `/dev/shm`, all of it, before a tape is opened; and if not, what would.

use std::fmt;
use std::time::{Duration, Instant};

use matchtape_bus::{ATTACH_BYTES, clean_dead_participants, shared_memory_available};
use matchtape_schemas::TapeId;

use super::config::{self, Config};
use super::error::CliError;

/// What a killed node had comes free when it is cleaned up behind and its subscribers have noticed, which they do at their
/// next look: they look every 50 ms, or when they next ask.
const LET_GO_WAIT: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Bytes of shared memory by what takes them.
#[derive(Clone, Debug)]
pub(super) struct Needed {
    live: u64,
    speculative: Option<u64>,
    ingress: Option<u64>,
    /// What each producer takes on top when it comes, where any may.
    producer: Option<u64>,
    config: Config,
}

impl Needed {
    /// Of a configuration with a bus.
    pub(super) fn of(config: &Config) -> Self {
        let service = config.bus_options().config.memory_required().total_bytes() as u64;
        let ingress = config.ingress.enabled.then(|| config.ingress_options().config);
        Self {
            live: service,
            speculative: config.bus.speculative.then_some(service),
            ingress: ingress.as_ref().map(|ingress| ingress.node_memory().total_bytes() as u64),
            producer: ingress.as_ref().map(|ingress| ingress.producer_memory().total_bytes() as u64),
            config: config.clone(),
        }
    }

    /// What the node takes, and room for who attaches: a bus that nobody could come to would be none.
    pub(super) fn bytes(&self) -> u64 {
        self.live + self.speculative.unwrap_or(0) + self.ingress.unwrap_or(0) + ATTACH_BYTES
    }

    /// It is more than there is. `which` is "free" or "in all".
    pub(super) fn than(self, available: u64, which: &'static str) -> NotEnough {
        NotEnough { needed: self, available, which }
    }

    fn fits(config: &Config, available: u64) -> bool {
        Self::of(config).bytes() <= available
    }
}

impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of shared memory ({} for the live service", self.bytes(), self.live)?;
        if let Some(bytes) = self.speculative {
            write!(f, ", {bytes} for the speculative one")?;
        }
        if let Some(bytes) = self.ingress {
            write!(f, ", {bytes} for the way in")?;
        }
        write!(f, ", {ATTACH_BYTES} to attach)")
    }
}

/// The configuration needs more than there is.
#[derive(Debug, thiserror::Error)]
#[error("the bus needs {needed}, /dev/shm has {available} {which}: {}", self.what_to_do())]
pub(super) struct NotEnough {
    needed: Needed,
    available: u64,
    which: &'static str,
}

impl NotEnough {
    /// The settings each of which would be enough by itself, and what makes `/dev/shm` larger.
    fn what_to_do(&self) -> String {
        let mut ways = Vec::new();
        let config = &self.needed.config;
        let mut less = config.clone();
        if config.bus.speculative {
            less.bus.speculative = false;
            if Needed::fits(&less, self.available) {
                ways.push("bus.speculative = false".to_owned());
            }
            less = config.clone();
        }
        let subscribers = (1..config.bus.subscribers_max).rev().find(|subscribers| {
            less.bus.subscribers_max = *subscribers;
            Needed::fits(&less, self.available)
        });
        ways.extend(subscribers.map(|subscribers| format!("bus.subscribers_max = {subscribers}")));
        less = config.clone();
        let frames = (1..config.bus.buffer_frames).rev().find(|frames| {
            less.bus.buffer_frames = *frames;
            Needed::fits(&less, self.available)
        });
        ways.extend(frames.map(|frames| format!("bus.buffer_frames = {frames}")));
        let settings = match ways.as_slice() {
            [] => format!(
                "lower both bus.subscribers_max ({}) and bus.buffer_frames ({}), do without (bus.enabled = false, --no-bus)",
                config.bus.subscribers_max, config.bus.buffer_frames
            ),
            ways => format!("set {}", ways.join(" or ")),
        };
        let producers = match self.needed.producer {
            None => String::new(),
            Some(bytes) => format!("; each producer that comes takes {bytes} more (ingress.queue_samples)"),
        };
        format!(
            "{settings}, or enlarge it (docker run --shm-size, compose shm_size, kubernetes an emptyDir with medium Memory, or \
             mount -o remount,size=... /dev/shm){producers}"
        )
    }
}

/// Whether the bus can be, and there is enough for it, now. Cleans up behind killed nodes of the namespace where there is not.
pub(super) fn check(config: &Config) -> Result<(), CliError> {
    if !config.bus.enabled {
        return Ok(());
    }
    // The namespace is what counts here; the tape is not known yet.
    let name = config.bus_options().name(TapeId(1)).map_err(CliError::failed)?;
    config::usable("bus.root", name.root()).map_err(without_a_bus)?;
    let needed = Needed::of(config);
    let mut available = shared_memory_available().map_err(without_a_bus)?;
    if available < needed.bytes() {
        // Also where another, or a moment ago somebody, has cleaned up already.
        clean_dead_participants(&name).map_err(CliError::failed)?;
        let begun = Instant::now();
        available = shared_memory_available().map_err(without_a_bus)?;
        while available < needed.bytes() && begun.elapsed() < LET_GO_WAIT {
            std::thread::sleep(LOOK_AGAIN);
            available = shared_memory_available().map_err(without_a_bus)?;
        }
    }
    if available < needed.bytes() {
        return Err(CliError::failed(needed.than(available, "free")));
    }
    if let Some(bytes) = needed.producer
        && available - needed.bytes() < bytes
    {
        tracing::warn!(
            "no producer of another process can come in: each takes {bytes} bytes of shared memory, of which {} are left",
            available - needed.bytes()
        );
    }
    Ok(())
}

fn without_a_bus(error: impl fmt::Display) -> CliError {
    CliError::with_advice(error, "a node whose readers all come through the gateway needs none: --no-bus")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is advised for `available` bytes.
    fn advice(config: &Config, available: u64) -> String {
        Needed::of(config).than(available, "free").to_string()
    }

    #[test]
    fn what_is_advised_is_enough() {
        let defaults = Config::default();
        let said = advice(&defaults, 64 << 20);
        assert!(said.contains("set bus.speculative = false or bus.subscribers_max = "), "{said}");
        let given = |key: &str| -> usize {
            let (_, value) =
                said.split_once(&format!("{key} = ")).unwrap_or_else(|| panic!("{key} in {said}"));
            value.split(|byte: char| !byte.is_ascii_digit()).next().unwrap().parse().unwrap()
        };
        for (key, value) in ["bus.subscribers_max", "bus.buffer_frames"].map(|key| (key, given(key))) {
            let with = |value| {
                let mut config = defaults.clone();
                match key {
                    "bus.subscribers_max" => config.bus.subscribers_max = value,
                    _ => config.bus.buffer_frames = value,
                }
                config
            };
            assert!(Needed::fits(&with(value), 64 << 20), "{key}");
            assert!(!Needed::fits(&with(value + 1), 64 << 20), "{key}: one more would do too");
        }
        // Where no setting is enough by itself, none is said to be.
        let said = advice(&defaults, 4 << 20);
        assert!(said.contains("lower both bus.subscribers_max (8)") && said.contains("--no-bus"), "{said}");
    }
}
